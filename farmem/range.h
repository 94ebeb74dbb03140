/*
 * farmem/range.h: the far-capable address range: handing out addresses, fresh blocks, registration.
 *
 * A 2 MiB block is FRESH (ordinary memory, huge pages, no userfaultfd: a program that fits its
 * budget pays nothing) until the evictor's clock hand reaches it, or registered from the start when
 * the runtime was running before it was handed out.
 *
 * Addresses are handed out once to malloc (range_alloc), and again and again to the program's own
 * mappings (range_map.c).
 *
 * Lock order: map_lock (whose a page is)  <  lock (registration against purges of fresh blocks).
 * Neither is ever taken on the fault path. Who holds map_lock has all signals blocked.
 */
#ifndef FM_FARMEM_RANGE_H
#define FM_FARMEM_RANGE_H

#include <pthread.h>

#include "farmem/stripe.h"
#include "farmem/uffd.h"

#define RANGE_BLOCK_PAGES 512u /* 2 MiB */
#define RANGE_CONVERT_BLOCKS 4u
#define RANGE_MIN_BYTES (1ull << 30)
#define RANGE_SMALL_PAGES 2048u /* 8 MiB: short programs would only pay for clearing huge pages */
#define RANGE_CHUNK_PAGES                                                                          \
	4096u /* 16 MiB: taken at a time for mappings, so that they lie together */
#define RANGE_SEARCH_BLOCKS 256u /* blocks with free pages looked through for one mapping */

enum range_block { RANGE_FRESH = 0, RANGE_REGISTERED };

/*
 * Whose a page is: the low bits of its byte in `owners`; its protection (PROT_*) is in the high
 * ones. Written under map_lock; to and from FOREIGN also under `lock`.
 *
 *   HEAP ----------------------------- malloc's, or never handed out
 *   FREE <--> RESERVED --> COMMITTED   a mapping of the program's: nothing in it yet / in use
 *     \_________  FOREIGN  ________/    the program put a mapping of its own here: not ours to
 * touch
 *                    |
 *                  GONE                given back, and not registered any more: never used again
 */
enum range_owner {
	RANGE_HEAP = 0,
	RANGE_RESERVED,
	RANGE_COMMITTED,
	RANGE_FREE,
	RANGE_FOREIGN,
	RANGE_GONE
};
#define RANGE_OWNER(byte) ((enum range_owner)((byte)&15))
#define RANGE_PROT(byte) ((byte) >> 4)
#define RANGE_BYTE(owner, prot) ((uint8_t)((unsigned)(owner) | (unsigned)(prot) << 4))

struct range {
	uint8_t *base;
	uint64_t pages;
	_Atomic uint32_t used_pages; /* handed out: [0, used) */
	_Atomic uint32_t
		fresh_end; /* pages; blocks from here on are registered. UINT32_MAX: not started */
	uint8_t *blocks;   /* enum range_block, one per 2 MiB */
	pthread_mutex_t lock;
	struct core *core;
	struct uffd *uffds; /* one per stripe; set by range_start */
	uint32_t stripes;
	/* range_map.c */
	pthread_mutex_t map_lock;
	uint8_t *owners;                   /* one per page */
	uint8_t *touched;                  /* one per block: something may ever have been in it */
	uint16_t *free_pages;              /* per block: how many are FREE */
	uint64_t search_block;             /* where the next search among them begins */
	struct stripe *const *stripe_list; /* all stripes, for purges; set when the runtime opens */
	_Atomic int64_t live_pages;        /* handed out, and not given back */
	_Atomic bool flagged; /* the program locked memory or kept some out of core dumps */
};

/* Reserves the addresses; tries smaller ranges down to RANGE_MIN_BYTES. 0 or -ENOMEM. */
int range_open(struct range *r, uint64_t bytes) FM_MUST_USE;
/* Huge pages for the part that stays ordinary memory: all but the first RANGE_SMALL_PAGES up to
 * `pages`. */
void range_prefer_huge(struct range *r, uint64_t pages);
static inline bool range_owns(const struct range *r, const void *address)
{
	return (uintptr_t)address - (uintptr_t)r->base < r->pages * FM_PAGE_SIZE;
}
static inline enum range_owner range_owner_of(const struct range *r, uint64_t page)
{
	return RANGE_OWNER(__atomic_load_n(&r->owners[page], __ATOMIC_RELAXED));
}
/* Addresses never handed out before; alignment a power of two >= 4096. NULL: exhausted.
 * Thread-safe. */
void *range_alloc(struct range *r, size_t bytes, size_t alignment);
/* The same, before counting: pages [*first, +pages), `skipped` of them were passed over for the
 * alignment. */
bool range_bump(
	struct range *r, uint64_t pages, uint64_t align, uint64_t *first, uint64_t *skipped);
/* Something may be in these pages from now on: eviction looks at their blocks. */
void range_touch(struct range *r, uint64_t page, uint64_t count);
/* Registers everything not yet handed out; what was stays fresh. On the runtime's thread, once. */
int range_start(
	struct range *r, struct core *core, struct uffd *uffds, uint32_t stripes) FM_MUST_USE;
/* stripe.prepare_block: makes the block at `page` evictable. False: nothing in it is. */
bool range_prepare_block(struct stripe *st, uint32_t page);
/* Whole pages inside [address, +bytes) read as zeros afterwards, every copy is dropped. Any thread.
 */
void range_purge(struct range *r, struct stripe *const *stripes, void *address, size_t bytes);
/* Counts what is present in fresh blocks into the budget; milliseconds per GiB. Runtime threads
 * only. */
void range_measure_fresh(struct range *r);

/* ---- range_map.c: the program's own mappings; map_lock is held, but for the two that take it ----
 */
void range_map_lock(struct range *r);
void range_map_unlock(struct range *r);
/* Where bytes like the first page's end, at most `end`. */
uint64_t range_run(const struct range *r, uint64_t page, uint64_t end);
void range_own(struct range *r, uint64_t page, uint64_t count, uint8_t byte);
/* Pages of nobody: FREE now, unless and until range_own. UINT64_MAX: none. */
uint64_t range_take(struct range *r, uint64_t pages, uint64_t align);
/* What becomes of pages: a system call or two, made while nobody of ours looks at them; then they
 * are `byte`. */
struct range_change {
	int (*make)(uint8_t *memory, uint64_t bytes, void *argument);
	void *argument;
	uint8_t byte;
};
/* What was in [page, +count) is dropped, near, staged and far, and the change made. Gives make's
 * result; after a failure the bytes stay as they were. */
int range_change(struct range *r, uint64_t page, uint64_t count,
	const struct range_change *change) FM_MUST_USE;
/* Drops contents, then PROT_NONE, FREE; a FOREIGN run is unmapped. */
void range_give_back(struct range *r, uint64_t page, uint64_t count);
/* malloc has not got as far as `page` yet: everything up to `end` is FREE now. */
bool range_take_unused(struct range *r, uint64_t page, uint64_t end);
/* uffd.frozen: the program cannot write to the page. Who sets a word TAKING asks after that, and
 * range_await_taken, after the bytes have changed, waits for him. */
bool range_frozen(void *owner, uint32_t page);
void range_await_taken(struct range *r, uint64_t page, uint64_t count);
/* Is the block registered with a userfaultfd? */
bool range_registered(struct range *r, uint64_t page);
/*
 * The next run of registered pages that are the program's heap or mappings, not FOREIGN and not
 * GONE, from *page on: *page and its length, 0 at `end`. For fork: the rest is ordinary memory.
 */
uint64_t range_next_registered(struct range *r, uint64_t *page, uint64_t end);

#endif
