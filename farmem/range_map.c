/*
 * farmem/range_map.c: the program's own mappings in the far-capable range: whose each page is, what
 * is free, and how the program's view of a page is changed while its bytes may be anywhere.
 *
 * Callers: mmap.c (everything), range.c, fork.c.
 *
 * Invariants kept here:
 *   M1  a page that changes hands is EMPTY: its copies were dropped under DROPPING (registered
 *       blocks) or under `lock` (fresh ones), so what is handed out reads as zeros, and no evictor
 *       publishes over somebody else's memory.
 *   M2  no address of the range is ever without a mapping: the kernel would put another there.
 *   M3  a block with FOREIGN or GONE pages is never registered; in one that is already, those
 *       pages' words stay EMPTY, so nobody evicts them.
 *   M4  a page in whose block `touched` is 0 has never held anything: nothing to drop.
 */
#include "farmem/range.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

#define RANGE_SIGNALS_BYTES 8u /* the kernel's sigset */
#define RANGE_TAKEN_PAUSE_NS (5 * NS_PER_US)

/* Of the thread that holds map_lock. */
static uint64_t range_signals_before;

/*
 * All signals, also those libc keeps for itself: a handler that maps memory, a longjmp out of it,
 * or a cancellation must not meet the lock held.
 */
void range_map_lock(struct range *r)
{
	uint64_t all = ~0ull, before;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, RANGE_SIGNALS_BYTES);
	pthread_mutex_lock(&r->map_lock);
	range_signals_before = before;
}

void range_map_unlock(struct range *r)
{
	uint64_t before = range_signals_before;
	pthread_mutex_unlock(&r->map_lock);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, RANGE_SIGNALS_BYTES);
}

/* ---- whose a page is ---- */

uint64_t range_run(const struct range *r, uint64_t page, uint64_t end)
{
	uint8_t byte = r->owners[page];
	while (page < end && r->owners[page] == byte)
		page++;
	return page;
}

static bool range_is_free(uint8_t byte)
{
	return RANGE_OWNER(byte) == RANGE_FREE;
}

static bool range_is_live(uint8_t byte)
{
	return RANGE_OWNER(byte) == RANGE_COMMITTED;
}

void range_own(struct range *r, uint64_t page, uint64_t count, uint8_t byte)
{
	int64_t live = 0;
	if (range_is_live(byte))
		range_touch(r, page, count);
	for (uint64_t p = page; p < page + count; p++) {
		uint64_t block = p / RANGE_BLOCK_PAGES;
		uint8_t old = r->owners[p];
		live += range_is_live(byte) - range_is_live(old);
		r->free_pages[block] =
			(uint16_t)(r->free_pages[block] + range_is_free(byte) - range_is_free(old));
		__atomic_store_n(&r->owners[p], byte, __ATOMIC_RELAXED);
	}
	atomic_fetch_add_explicit(&r->live_pages, live, memory_order_relaxed);
}

bool range_registered(struct range *r, uint64_t page)
{
	return __atomic_load_n(&r->blocks[page / RANGE_BLOCK_PAGES], __ATOMIC_ACQUIRE) ==
	       RANGE_REGISTERED;
}

uint64_t range_next_registered(struct range *r, uint64_t *page, uint64_t end)
{
	uint64_t to;
	while (*page < end &&
		(!range_registered(r, *page) || range_owner_of(r, *page) >= RANGE_FOREIGN))
		*page += range_registered(r, *page) ? 1
						    : RANGE_BLOCK_PAGES - *page % RANGE_BLOCK_PAGES;
	if (*page >= end)
		return 0;
	for (to = *page; to < end && range_registered(r, to); to++)
		if (range_owner_of(r, to) >= RANGE_FOREIGN)
			break;
	return to - *page;
}

/* ---- pages that cannot be written ---- */

bool range_frozen(void *owner, uint32_t page)
{
	const struct range *r = owner;
	/* Partner: range_await_taken. The word is TAKING before the byte is read. */
	atomic_thread_fence(memory_order_seq_cst);
	uint8_t byte = __atomic_load_n(&r->owners[page], __ATOMIC_RELAXED);
	return RANGE_OWNER(byte) == RANGE_COMMITTED && !(RANGE_PROT(byte) & PROT_WRITE);
}

void range_await_taken(struct range *r, uint64_t page, uint64_t count)
{
	/* Partner: range_frozen. The bytes were changed before the words are read. */
	atomic_thread_fence(memory_order_seq_cst);
	for (uint64_t p = page; p < page + count; p++) {
		struct page_id id = {(uint32_t)p};
		if (!range_registered(r, p))
			continue;
		for (;;) {
			struct span_word w = span_load(r->core->catalog.words, id);
			if (span_state(w) != SPAN_EVICTING || !(span_flags(w) & SPAN_TAKING))
				break;
			clock_pause(clock_now_ns() + RANGE_TAKEN_PAUSE_NS);
		}
	}
}

/* ---- free pages ---- */

/* The first fit in blocks [block, end) among what was given back; */
static uint64_t range_find_in(
	struct range *r, uint64_t block, uint64_t end, uint64_t pages, uint64_t align)
{
	uint64_t first = 0, run = 0;
	for (unsigned looked = 0; block < end && looked < RANGE_SEARCH_BLOCKS; block++) {
		if (r->free_pages[block] == 0) {
			run = 0;
			continue;
		}
		looked++;
		for (uint64_t p = block * RANGE_BLOCK_PAGES; p < (block + 1) * RANGE_BLOCK_PAGES;
			p++) {
			if (!range_is_free(r->owners[p]) || (run == 0 && p % align != 0)) {
				run = 0;
				continue;
			}
			first = run++ == 0 ? p : first;
			if (run == pages) {
				r->search_block = first / RANGE_BLOCK_PAGES;
				return first;
			}
		}
	}
	r->search_block = block;
	return UINT64_MAX;
}

/* Next fit: goes on where the last search ended, and around once. */
static uint64_t range_find_free(struct range *r, uint64_t pages, uint64_t align)
{
	uint64_t used = atomic_load_explicit(&r->used_pages, memory_order_relaxed);
	uint64_t end = used / RANGE_BLOCK_PAGES, from = r->search_block;
	uint64_t first = range_find_in(r, from, end, pages, align);
	if (first == UINT64_MAX && r->search_block >= end)
		first = range_find_in(r, 0, from, pages, align);
	return first;
}

uint64_t range_take(struct range *r, uint64_t pages, uint64_t align)
{
	uint64_t skipped, chunk, first = range_find_free(r, pages, align);
	if (first != UINT64_MAX)
		return first;
	chunk = FM_MAX(
		FM_ALIGN_UP(pages, (uint64_t)RANGE_BLOCK_PAGES), (uint64_t)RANGE_CHUNK_PAGES);
	align = FM_MAX(align, (uint64_t)RANGE_BLOCK_PAGES);
	if (!range_bump(r, chunk, align, &first, &skipped))
		return UINT64_MAX;
	range_own(r, first, chunk, RANGE_BYTE(RANGE_FREE, PROT_READ | PROT_WRITE));
	return first;
}

bool range_take_unused(struct range *r, uint64_t page, uint64_t end)
{
	uint32_t used = atomic_load_explicit(&r->used_pages, memory_order_relaxed);
	end = FM_ALIGN_UP(end, (uint64_t)RANGE_BLOCK_PAGES);
	do {
		if (used > page)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(
		&r->used_pages, &used, (uint32_t)end, memory_order_acq_rel, memory_order_relaxed));
	range_own(r, used, end - used, RANGE_BYTE(RANGE_FREE, PROT_READ | PROT_WRITE));
	return true;
}

/* ---- changing hands ---- */

/* Calls `step` for each run of pages in registered blocks that something may be in. */
static int64_t range_each_registered(struct range *r, uint64_t page, uint64_t count,
	int64_t (*step)(struct range *r, uint64_t page, uint64_t count))
{
	uint64_t end = page + count;
	int64_t sum = 0;
	while (page < end) {
		uint64_t block_end =
			FM_ALIGN_DOWN(page, (uint64_t)RANGE_BLOCK_PAGES) + RANGE_BLOCK_PAGES;
		uint64_t to = FM_MIN(range_run(r, page, end), block_end);
		if (range_registered(r, page) && r->touched[page / RANGE_BLOCK_PAGES] &&
			RANGE_OWNER(r->owners[page]) < RANGE_FOREIGN)
			sum += step(r, page, to - page);
		page = to;
	}
	return sum;
}

static int64_t range_claim_step(struct range *r, uint64_t page, uint64_t count)
{
	return purge_claim(r->stripe_list, (uint32_t)page, (uint32_t)count);
}

static int64_t range_drop_step(struct range *r, uint64_t page, uint64_t count)
{
	purge_drop(r->stripe_list, (uint32_t)page, (uint32_t)count);
	return 0;
}

static int64_t range_release_step(struct range *r, uint64_t page, uint64_t count)
{
	purge_release(r->stripe_list, (uint32_t)page, (uint32_t)count);
	return 0;
}

static void range_drop_fresh(struct range *r, uint64_t page, uint64_t count)
{
	uint64_t end = page + count;
	while (page < end) {
		uint64_t block_end =
			FM_ALIGN_DOWN(page, (uint64_t)RANGE_BLOCK_PAGES) + RANGE_BLOCK_PAGES;
		uint64_t to = FM_MIN(range_run(r, page, end), block_end);
		if (!range_registered(r, page) && r->touched[page / RANGE_BLOCK_PAGES] &&
			RANGE_OWNER(r->owners[page]) < RANGE_FOREIGN) {
			int rc = uffd_drop_memory(
				r->base + page * FM_PAGE_SIZE, (to - page) * FM_PAGE_SIZE);
			FM_ASSERT_EQ(rc, 0);
		}
		page = to;
	}
}

int range_change(struct range *r, uint64_t page, uint64_t count, const struct range_change *change)
{
	pthread_mutex_lock(&r->lock); /* no block is registered meanwhile */
	int64_t present = range_each_registered(r, page, count, range_claim_step);
	(void)range_each_registered(r, page, count, range_drop_step);
	range_drop_fresh(r, page, count);
	int rc =
		change->make(r->base + page * FM_PAGE_SIZE, count * FM_PAGE_SIZE, change->argument);
	if (present != 0)
		budget_near(r->core, -present);
	(void)range_each_registered(r, page, count, range_release_step);
	if (rc == 0)
		range_own(r, page, count, change->byte);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

/* What the program asked of its mapping must not cling to the next one. */
static int range_make_free(uint8_t *memory, uint64_t bytes, void *argument)
{
	struct range *r = argument;
	if (atomic_load_explicit(&r->flagged, memory_order_relaxed)) {
		(void)munlock(memory, bytes);
		(void)!uffd_advise(memory, bytes, MADV_DODUMP);
	}
	return mprotect(memory, bytes, PROT_NONE) == 0 ? 0 : -errno;
}

/* The program's own mapping goes, and the addresses are kept (M2). */
static int range_unmap(uint8_t *memory, uint64_t bytes)
{
	void *at = mmap(memory, bytes, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	return at == MAP_FAILED ? -errno : 0;
}

/* In a fresh block what was foreign is ordinary memory again; in a registered one it would miss its
 * registration, which only a runtime thread could make. */
static void range_end_foreign(struct range *r, uint64_t page, uint64_t end)
{
	while (page < end) {
		uint64_t block_end =
			FM_ALIGN_DOWN(page, (uint64_t)RANGE_BLOCK_PAGES) + RANGE_BLOCK_PAGES;
		uint64_t to = FM_MIN(end, block_end);
		pthread_mutex_lock(&r->lock);
		int rc = range_unmap(r->base + page * FM_PAGE_SIZE, (to - page) * FM_PAGE_SIZE);
		if (rc == 0)
			range_own(r, page, to - page,
				RANGE_BYTE(range_registered(r, page) ? RANGE_GONE : RANGE_FREE,
					PROT_NONE));
		pthread_mutex_unlock(&r->lock);
		page = to;
	}
}

static void range_end_ours(struct range *r, uint64_t page, uint64_t end)
{
	uint8_t prot = RANGE_PROT(r->owners[page]);
	struct range_change change = {range_make_free, r, RANGE_BYTE(RANGE_FREE, PROT_NONE)};
	/* Out of mappings (vm.max_map_count): it stays accessible, which harms nobody. */
	if (range_change(r, page, end - page, &change) != 0)
		range_own(r, page, end - page, RANGE_BYTE(RANGE_FREE, prot));
}

void range_give_back(struct range *r, uint64_t page, uint64_t count)
{
	uint64_t end = page + count;
	while (page < end) {
		uint64_t to = range_run(r, page, end);
		switch (RANGE_OWNER(r->owners[page])) {
		case RANGE_COMMITTED:
			range_end_ours(r, page, to);
			break;
		case RANGE_RESERVED: /* PROT_NONE, and nothing in it */
			range_own(r, page, to - page, RANGE_BYTE(RANGE_FREE, PROT_NONE));
			break;
		case RANGE_FOREIGN:
			range_end_foreign(r, page, to);
			break;
		case RANGE_HEAP: /* malloc's: a program that unmaps it gets zeros, no more */
			range_purge(r, r->stripe_list, r->base + page * FM_PAGE_SIZE,
				(to - page) * FM_PAGE_SIZE);
			break;
		case RANGE_FREE:
		case RANGE_GONE:
			break;
		}
		page = to;
	}
}
