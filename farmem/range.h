/*
 * farmem/range.h: the far-capable address range: handing out addresses, fresh blocks, registration.
 *
 * A 2 MiB block is FRESH (ordinary memory, huge pages, no userfaultfd: a program that fits its
 * budget pays nothing) until the evictor's clock hand reaches it, or registered from the start when
 * the runtime was running before it was handed out. Lock: range.lock (mutex) orders registration
 * against purges of fresh blocks; never on the fault path.
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

enum range_block { RANGE_FRESH = 0, RANGE_REGISTERED };

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
/* Addresses never handed out before; alignment a power of two >= 4096. NULL: exhausted.
 * Thread-safe. */
void *range_alloc(struct range *r, size_t bytes, size_t alignment);
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

#endif
