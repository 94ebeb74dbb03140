/*
 * farmem/core.h: what the paths of a span share: catalog, records, slots, epochs, budget, content
 * hashes.
 *
 * Used by record.c, slot.c, epoch.c, clean.c, spanset.c, fault.c, evict.c, purge.c, repack.c;
 * instantiated by runtime.c (the real thing) and tests/sim (the simulator). All memory is mapped at
 * core_open; frozen after.
 *
 * Lock order:   group.lock (slot.c)  <  reclaim.lock (record.c's free list and the limbo)
 * Neither is ever taken on the fault path, nor held over the network.
 */
#ifndef FM_FARMEM_CORE_H
#define FM_FARMEM_CORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/config.h"
#include "base/ring.h"
#include "farmem/catalog.h"
#include "farmem/span.h"

#define CORE_DEAD_RING 65536 /* spansets found wholly dead, waiting to be freed */
#define CORE_LIMBO_MAX 65536 /* records waiting out their grace period */
#define CORE_CODES_MAX ((EC_K_MAX + 1) * (EC_M_MAX + 1))

struct clean_entry {
	_Atomic uint64_t tag; /* page + 1; 0 free; ~0 being written */
	_Atomic uint64_t hash[2];
};

/* What a near duplicate is judged by: 128-bit content hashes, in a table sized by the near budget
 * (clean.c). */
struct clean_table {
	struct clean_entry *entries;
	uint64_t mask;
	uint64_t bytes;
};

struct limbo_entry {
	uint64_t stamp;
	struct ssid ssid;
	uint32_t keep; /* positions whose slots another record has taken over (farmem/merge.h) */
};

/* Records on their way back to use (record.c). */
struct reclaim {
	pthread_mutex_t lock;
	uint32_t *free_ssids; /* stack */
	uint32_t free_count;
	uint32_t fresh;            /* ssids from here on were never used */
	struct limbo_entry *limbo; /* ring */
	uint64_t limbo_head, limbo_tail;
	struct ring dead;
};

struct group_slots; /* slot.c */

struct budget {
	_Atomic int64_t near_pages;     /* present and registered, whatever their word says */
	_Atomic int64_t staging_pages;  /* taken out, not yet dropped */
	_Atomic int64_t fresh_pages;    /* present in blocks that eviction never touched */
	_Atomic int64_t far_pages;      /* words in FAR */
	_Atomic int64_t retained_pages; /* near duplicates kept on nodes */
	_Atomic int64_t data_bytes;     /* slots of data positions in use, live or not (slot.c) */
	_Atomic uint64_t limit_pages;   /* the budget now (a share follows the program's size) */
	_Atomic uint64_t retain_pages;  /* most duplicates to keep */
};

/* Where evictors are with the catalog's merges (merge.c). All but the atomics under `lock`. */
struct merge_state {
	_Atomic uint32_t lock;             /* tried, never waited for */
	_Atomic uint64_t next_ns;          /* nothing to be seen before; 0: look now */
	_Atomic uint32_t stuck;            /* what is staged keeps old spansets from being freed */
	uint32_t first;                    /* entry a round begins with */
	uint32_t at[CATALOG_MERGES_MAX];   /* next pair of an entry */
	uint32_t left[CATALOG_MERGES_MAX]; /* SWITCHING: pairs not at their end */
};

struct core {
	struct catalog catalog;
	struct fm_config config;
	struct reclaim reclaim;
	struct clean_table clean;
	struct budget budget;
	struct merge_state merging;
	uint8_t *repack_looks; /* a byte for each record (repack.c) */
	struct group_slots *
		*groups;       /* CATALOG_GROUPS_MAX pointers, filled at a group's first use */
	struct ec_code *codes; /* by code index, made at first use under codes_lock */
	_Atomic uint8_t *codes_ready;
	pthread_mutex_t codes_lock;
	/* This process is such a child: words are its own, records and slots are another's
	 * (fork.c).
	 */
	bool reader;
	_Atomic uint32_t groups_cursor; /* where the next search for a group begins */
	/* Tells whoever speaks with the agent that a node failed an operation. Never blocks. May be
	 * NULL. */
	void (*report_suspect)(struct core *core, uint32_t node);
	void (*report_wanted)(struct core *core);
	/* Merges in the catalog have moved on (farmem/merge.h). May be NULL. */
	void (*report_merges)(struct core *core);
	void *reporter;
};

/* core->catalog and core->config are set by the caller before. 0 or -ENOMEM. */
int core_open(struct core *core, uint64_t clean_pages) FM_MUST_USE;
void core_close(struct core *core);
/* The tables for a group's code; made at the first call. Never NULL for a valid group. */
const struct ec_code *core_code(struct core *core, unsigned k, unsigned m);
/* A page of near memory more or less (fault, evict, purge). */
static inline void budget_near(struct core *core, int64_t pages)
{
	atomic_fetch_add_explicit(&core->budget.near_pages, pages, memory_order_relaxed);
}
/* Pages of the program's far-capable memory in RAM now: what --local bounds. */
static inline int64_t budget_used(const struct core *core)
{
	return atomic_load_explicit(&core->budget.near_pages, memory_order_relaxed) +
	       atomic_load_explicit(&core->budget.staging_pages, memory_order_relaxed) +
	       atomic_load_explicit(&core->budget.fresh_pages, memory_order_relaxed);
}
/* budget - used: may be negative. */
static inline int64_t budget_room(const struct core *core)
{
	return (int64_t)atomic_load_explicit(&core->budget.limit_pages, memory_order_relaxed) -
	       budget_used(core);
}
/* Follows a share (--local 25%) as the program grows and shrinks; called by the evictor. */
void budget_update(struct core *core);

/* --far-limit is reached: no more groups. */
static inline bool core_far_limited(const struct core *core)
{
	return core->config.far_bytes != 0 &&
	       atomic_load(&core->catalog.stats->far_capacity_bytes) >= core->config.far_bytes;
}

/* Asks the agent for one more group than there are (not past --far-limit). Never blocks. */
void core_want_group(struct core *core);
/* Data pages that open groups have room for. */
uint64_t core_free_pages(const struct core *core);
/* Asks while there is still room for a while, so that no batch ever waits for a group. */
void core_look_ahead(struct core *core);

/* ---- epoch.c ---- */
struct epoch_thread {
	struct catalog_thread *line;
	_Atomic uint64_t *epoch;
};
/* Takes one of CATALOG_THREADS_MAX lines. 0 or -EAGAIN. */
int epoch_register(struct core *core, const char *name, struct epoch_thread *thread) FM_MUST_USE;
void epoch_unregister(struct epoch_thread *thread);
static inline void epoch_enter(struct epoch_thread *thread)
{
	/* Partner: epoch_passed. The fence orders the store before every later load of a word. */
	uint64_t now = atomic_load_explicit(thread->epoch, memory_order_acquire);
	atomic_store_explicit(&thread->line->active, now, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
}
static inline void epoch_exit(struct epoch_thread *thread)
{
	atomic_store_explicit(&thread->line->active, 0, memory_order_release);
}
/* A stamp for what was unlinked just now. */
uint64_t epoch_stamp(struct core *core);
/* True when no thread that may have seen what was unlinked before `stamp` is active any more. */
bool epoch_passed(struct core *core, uint64_t stamp);
/* The same, and no forked child reads what was there then: for what they share (records, slots). */
bool epoch_passed_by_all(struct core *core, uint64_t stamp);
/* Pins what is there now, before the caller looks at any word. Returns the epoch. */
uint64_t epoch_pin(struct core *core);
/* The oldest pin that is left, or 0. */
void epoch_unpin(struct core *core, uint64_t oldest);

/* ---- clean.c ---- */
struct clean_hash {
	uint64_t v[2];
};
int clean_open(struct clean_table *table, uint64_t pages) FM_MUST_USE;
void clean_close(struct clean_table *table);
struct clean_hash clean_hash_page(const void *bytes);
/* Remembers a page's content hash; may forget others (the table is lossy: forgetting costs a write,
 * no more). */
void clean_remember(struct clean_table *table, struct page_id page, struct clean_hash hash);
/* True when the hash remembered for the page equals `hash`. */
bool clean_matches(const struct clean_table *table, struct page_id page, struct clean_hash hash);

#endif
