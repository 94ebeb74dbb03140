/*
 * farmem/runtime.h: the runtime in the application's process: configuration, threads, start (DESIGN
 * section 4).
 *
 * One instance per process. Life: fm_open (constructor) -> IDLE -> [heap nears its budget] ->
 * STARTING -> RUNNING, or OFF after a failure that was said in one line: then memory simply stays
 * local. Threads: main (agent socket, gauges), per stripe an evictor and its fault handlers. They
 * share a descriptor table of their own (unshare), block all signals, never touch far-capable
 * memory and never call malloc (invariant 8).
 */
#ifndef FM_FARMEM_RUNTIME_H
#define FM_FARMEM_RUNTIME_H

#include <stdio.h>

#include "farmem/fault.h"
#include "farmem/profile.h"
#include "farmem/range.h"
#include "farmem/stripe.h"
#include "farmem/uffd.h"

#define RUNTIME_HANDLERS_MAX 8

enum runtime_state {
	RUNTIME_CLOSED = 0,
	RUNTIME_IDLE,
	RUNTIME_STARTING,
	RUNTIME_READY,   /* threads and agent are there; memory is still ordinary */
	RUNTIME_RUNNING, /* what is handed out now is registered */
	RUNTIME_OFF
};

struct runtime_handler {
	struct runtime *runtime;
	unsigned index; /* in its stripe: also which CPU it is pinned to */
	struct uffd *uffd;
	struct profile_thread *profile; /* NULL: none is taken */
	struct fault_handler fault;
};

struct runtime {
	_Atomic uint32_t state; /* enum runtime_state */
	struct fm_config config;
	struct core core;
	struct range range;
	uint64_t start_pages;    /* handed out so much: start threads and agent */
	uint64_t register_pages; /* so much: what follows is registered from the start */
	_Atomic uint32_t register_wanted;
	uint32_t stripe_count, handlers_per_stripe;
	struct uffd uffds[STRIPES_MAX];
	struct stripe stripes[STRIPES_MAX];
	struct stripe *stripe_list[STRIPES_MAX];
	struct runtime_handler *handlers; /* stripe_count * handlers_per_stripe */
	int agent_socket;                 /* -1: none; runtime's main thread only */
	/* agent_link.c, while there is none after there was one: since when, when to try again */
	uint64_t agent_lost_ns, agent_retry_ns;
	uint32_t agent_tries;
	bool agent_missed; /* the user was told */
	int event;                        /* eventfd that wakes the main thread */
	_Atomic uint64_t suspects[CATALOG_NODES_MAX / 64];
	_Atomic uint32_t wanted_told;
	char tree[64];
	char stats_file[256];
	struct profile profile;
};

extern struct runtime fm_runtime;
/* Set while the calling thread belongs to the runtime. */
extern __thread bool runtime_thread_is_ours;

/* ---- runtime.c ---- */
int runtime_open(struct runtime *rt) FM_MUST_USE;
/* Starts it unless it was. Any thread; no malloc, safe inside an allocator hook. Does not wait. */
void runtime_start(struct runtime *rt);
static inline bool runtime_running(const struct runtime *rt)
{
	return atomic_load_explicit(&rt->state, memory_order_acquire) == RUNTIME_RUNNING;
}
int runtime_thread_start(void *(*run)(void *), void *argument) FM_MUST_USE;
void runtime_thread_begin(const char *name);
/* Gauges into the catalog's stats, for `top`. */
void runtime_publish_gauges(struct runtime *rt);

/* ---- handler.c ---- */
int handler_open(struct runtime *rt, struct runtime_handler *t, struct stripe *st,
	unsigned index) FM_MUST_USE;
int handler_start(struct runtime_handler *t) FM_MUST_USE;

/* ---- agent_link.c ---- */
/* Connects to the tree's agent (starting it) and introduces us. 0 or -errno. */
int agent_link_open(struct runtime *rt) FM_MUST_USE;
/* Waits for messages or reports until timeout, deals with them. */
void agent_link_turn(struct runtime *rt, int timeout_ms);
void agent_link_suspect(struct core *core, uint32_t node);
void agent_link_wanted(struct core *core);

/* ---- fork.c ---- */
/* What a fork without exec meets: one clear line instead of wrong bytes. Called once, at fm_open.
 */
void fork_guard_open(struct runtime *rt);

/* ---- stats.c ---- */
int stats_json(struct runtime *rt, char *text, size_t size);
/* At exit: FARMEM_STATS_FILE. */
void stats_write_file(struct runtime *rt);

#endif
