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

#include <signal.h>
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
	RUNTIME_OFF,
	/* A forked child: it reads its parent's far copies, and keeps what it writes near (fork.c).
	 */
	RUNTIME_FORKED
};

struct runtime_handler {
	struct runtime *runtime;
	unsigned index; /* in its stripe: also which CPU it is pinned to */
	struct uffd *uffd;
	struct profile_thread *profile; /* NULL: none is taken */
	struct fault_handler fault;
};

#define FORK_CHILDREN_MAX 256

enum fork_token_state { TOKEN_NONE = 0, TOKEN_READY, TOKEN_TAKEN, TOKEN_LIVE };

/*
 * Tells whether a forked child, or a child of its own, lives: an empty memfd that is mapped in none
 * but those address spaces. The kernel refuses to seal it against writing while it is mapped.
 */
struct fork_token {
	_Atomic uint32_t state; /* enum fork_token_state */
	int fd;                 /* in the runtime's table */
	void *memory;           /* the parent's own mapping, until the fork is over */
	uint64_t epoch;         /* pinned for the child */
};

enum fork_kind { FORK_PLAIN = 0, FORK_FAR, FORK_DENIED };

/* fork.c, fork_token.c, fork_child.c */
struct fork {
	pthread_mutex_t lock; /* from prepare to the end in the parent */
	enum fork_kind kind;
	const char *denied; /* why */
	uint64_t begun_ns;
	uint32_t end; /* pages; nothing was ever handed out from here on */
	struct fork_token *token;
	_Atomic uint64_t *words; /* the copy */
	uint64_t words_bytes;
	struct sigaction segv; /* the program's, while ours explains */
	bool held, held_map;   /* locks: all; map_lock alone */
	/* tokens: made and buried by the first evictor */
	struct fork_token tokens[FORK_CHILDREN_MAX];
	_Atomic uint32_t ready; /* futex: how many are READY */
	uint64_t tend_ns;
	/* in the child: futex: 0 not yet, 1 served, 2 failed */
	_Atomic uint32_t child_state;
	int child_error;
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
	bool agent_met;    /* it said WELCOME once */
	int event;         /* eventfd that wakes the main thread */
	_Atomic uint64_t suspects[CATALOG_NODES_MAX / 64];
	_Atomic uint32_t wanted_told;
	_Atomic uint32_t merges_told; /* not yet said to the agent */
	struct fork fork;
	int life; /* a memfd mapped in us and all who are forked from us: the agent's token (-1) */
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
/* The calling thread, and those it starts, get a descriptor table of their own. 0 or -errno. */
int runtime_own_descriptors(struct runtime *rt) FM_MUST_USE;
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
void agent_link_merges(struct core *core);

/* ---- fork.c ---- */
/* Called once, at fm_open. */
void fork_open(struct runtime *rt);
/* Every run of registered pages that were handed out by the time of the fork; stops at an error. */
int fork_each_registered(struct runtime *rt,
	int (*visit)(struct runtime *rt, uint64_t page, uint64_t count)) FM_MUST_USE;

/* ---- fork_token.c ---- */
/* A READY token, now TAKEN and to be inherited; NULL: too many children, or no memory. */
struct fork_token *fork_token_take(struct runtime *rt);
/* The fork is over, or did not happen: the parent's mapping goes. */
void fork_token_leave(struct fork_token *token);
/* On the first evictor's thread, now and then: makes tokens, unpins what the dead had pinned. */
void fork_tend(struct runtime *rt);
/* An empty sealable memfd, mapped once at *memory. Its descriptor or -errno. */
int fork_token_memfd(const char *name, void **memory);

/* ---- fork_child.c ---- */
/* In the child, on the thread that forked: serves far memory from now on. 0 or -errno. */
int fork_child_start(struct runtime *rt) FM_MUST_USE;

/* ---- stats.c ---- */
int stats_json(struct runtime *rt, char *text, size_t size);
/* At exit: FARMEM_STATS_FILE. */
void stats_write_file(struct runtime *rt);

#endif
