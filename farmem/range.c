/*
 * farmem/range.c: see range.h.
 *
 * Callers: the malloc front (alloc, purge), runtime.c (open, start, measure), evict.c
 * (prepare_block), range_map.c.
 */
#include "farmem/range.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/mem.h"

int range_open(struct range *r, uint64_t bytes)
{
	bytes = FM_ALIGN_UP(bytes, (uint64_t)STRIPE_BLOCK_PAGES * FM_PAGE_SIZE);
	void *at = MAP_FAILED;
	for (; bytes >= RANGE_MIN_BYTES && at == MAP_FAILED; bytes /= 2) {
		uint64_t slack = (uint64_t)STRIPE_BLOCK_PAGES * FM_PAGE_SIZE;
		at = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		r->pages = bytes / FM_PAGE_SIZE;
	}
	if (at == MAP_FAILED)
		return -ENOMEM;
	r->base =
		(uint8_t *)FM_ALIGN_UP((uintptr_t)at, (uintptr_t)STRIPE_BLOCK_PAGES * FM_PAGE_SIZE);
	r->blocks = mem_map(r->pages / RANGE_BLOCK_PAGES);
	r->touched = mem_map(r->pages / RANGE_BLOCK_PAGES);
	r->free_pages = mem_map(r->pages / RANGE_BLOCK_PAGES * sizeof(*r->free_pages));
	r->owners = mem_map(r->pages);
	if (r->blocks == NULL || r->touched == NULL || r->free_pages == NULL || r->owners == NULL)
		return -ENOMEM;
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->map_lock, NULL);
	atomic_store(&r->fresh_end, UINT32_MAX);
	return 0;
}

void range_prefer_huge(struct range *r, uint64_t pages)
{
	pages = FM_MIN(FM_ALIGN_DOWN(pages, (uint64_t)RANGE_BLOCK_PAGES), r->pages);
	if (pages <= RANGE_SMALL_PAGES)
		return;
	int rc = uffd_advise(r->base + (uint64_t)RANGE_SMALL_PAGES * FM_PAGE_SIZE,
		(pages - RANGE_SMALL_PAGES) * FM_PAGE_SIZE, MADV_HUGEPAGE);
	(void)rc; /* a kernel without them: small ones */
}

bool range_bump(struct range *r, uint64_t pages, uint64_t align, uint64_t *first, uint64_t *skipped)
{
	uint32_t used = atomic_load_explicit(&r->used_pages, memory_order_relaxed);
	do {
		*first = FM_ALIGN_UP((uint64_t)used, align);
		if (*first > r->pages || pages > r->pages - *first)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&r->used_pages, &used,
		(uint32_t)(*first + pages), memory_order_acq_rel, memory_order_relaxed));
	*skipped = *first - used;
	return true;
}

void range_touch(struct range *r, uint64_t page, uint64_t count)
{
	for (uint64_t b = page / RANGE_BLOCK_PAGES; b * RANGE_BLOCK_PAGES < page + count; b++)
		__atomic_store_n(&r->touched[b], 1, __ATOMIC_RELEASE);
}

void *range_alloc(struct range *r, size_t bytes, size_t alignment)
{
	uint64_t pages = bytes / FM_PAGE_SIZE + (bytes % FM_PAGE_SIZE != 0);
	uint64_t align = FM_MAX(alignment / FM_PAGE_SIZE, (size_t)1);
	uint64_t first, skipped;
	if (!range_bump(r, pages, align, &first, &skipped))
		return NULL;
	range_touch(r, first, pages);
	atomic_fetch_add_explicit(&r->live_pages, (int64_t)pages, memory_order_relaxed);
	return r->base + first * FM_PAGE_SIZE;
}

static uint64_t range_block_of(uint64_t page)
{
	return page / RANGE_BLOCK_PAGES;
}

/* No page of the block is the program's own mapping: such memory is not to be registered. */
static bool range_all_ours(const struct range *r, uint64_t block)
{
	const uint8_t *owners = r->owners + block * RANGE_BLOCK_PAGES;
	for (uint32_t i = 0; i < RANGE_BLOCK_PAGES; i++)
		if (RANGE_OWNER(owners[i]) >= RANGE_FOREIGN)
			return false;
	return true;
}

/* Registers [page, +count), each stripe's blocks with its own userfaultfd. */
static int range_register(struct range *r, uint64_t page, uint64_t count)
{
	while (count > 0) {
		uint64_t now = count;
		if (r->stripes > 1)
			now = FM_MIN(count, STRIPE_BLOCK_PAGES - page % STRIPE_BLOCK_PAGES);
		int rc = uffd_register(
			&r->uffds[stripe_of_page(r->stripes, (uint32_t)page)], page, now);
		if (rc != 0)
			return rc;
		page += now;
		count -= now;
	}
	return 0;
}

/* Blocks below `end` that were only ever reserved: nothing is in them, so they need no conversion.
 */
static int range_register_untouched(struct range *r, uint64_t end)
{
	for (uint64_t b = 0, to; b < range_block_of(end); b = to) {
		bool ordinary = r->touched[b] || !range_all_ours(r, b);
		for (to = b + 1; to < range_block_of(end); to++)
			if (ordinary != (r->touched[to] || !range_all_ours(r, to)))
				break;
		if (ordinary)
			continue;
		int rc = range_register(r, b * RANGE_BLOCK_PAGES, (to - b) * RANGE_BLOCK_PAGES);
		if (rc != 0)
			return rc;
		for (uint64_t i = b; i < to; i++)
			__atomic_store_n(&r->blocks[i], RANGE_REGISTERED, __ATOMIC_RELEASE);
	}
	return 0;
}

int range_start(struct range *r, struct core *core, struct uffd *uffds, uint32_t stripes)
{
	int rc;
	pthread_mutex_lock(&r->map_lock); /* no reservation is used for the first time meanwhile */
	pthread_mutex_lock(&r->lock);
	r->core = core;
	r->uffds = uffds;
	r->stripes = stripes;
	/* Blocks handed out while we register would be fresh: take the addresses first, then look.
	 */
	uint32_t used = atomic_load(&r->used_pages);
	uint32_t first;
	do {
		first = (uint32_t)FM_ALIGN_UP(used, RANGE_BLOCK_PAGES);
	} while (!atomic_compare_exchange_weak(&r->used_pages, &used, first));
	rc = range_register(r, first, r->pages - first);
	if (rc == 0) {
		for (uint64_t b = range_block_of(first); b < range_block_of(r->pages); b++)
			r->blocks[b] = RANGE_REGISTERED;
		atomic_store(&r->fresh_end, first);
		rc = range_register_untouched(r, first);
	}
	pthread_mutex_unlock(&r->lock);
	pthread_mutex_unlock(&r->map_lock);
	return rc;
}

/* Counts, and with `enter` makes NEAR, what is present in [page, +count). */
static uint32_t range_scan(struct range *r, uint32_t page, uint32_t count, bool enter)
{
	unsigned char resident[RANGE_CONVERT_BLOCKS * RANGE_BLOCK_PAGES];
	uint32_t present = 0;
	FM_ASSERT_LE(count, sizeof(resident));
	if (mincore(r->base + (uint64_t)page * FM_PAGE_SIZE, (size_t)count * FM_PAGE_SIZE,
		    resident))
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		struct page_id id = {page + i};
		if (!(resident[i] & 1) || range_owner_of(r, page + i) >= RANGE_FOREIGN)
			continue;
		if (enter) {
			struct span_word w = span_load(r->core->catalog.words, id);
			if (span_state(w) != SPAN_EMPTY ||
				!span_swap(r->core->catalog.words, id, w,
					span_make(SPAN_NEAR, 0, span_gen(w))))
				continue; /* a first touch came between: fault.c counted it */
		}
		present++;
	}
	return present;
}

/* FRESH blocks from `page` on (at most RANGE_CONVERT_BLOCKS, one stripe) become registered. */
static void range_convert(struct range *r, uint32_t page)
{
	uint32_t blocks = 0;
	uint64_t block = range_block_of(page);
	while (blocks < RANGE_CONVERT_BLOCKS && block + blocks < range_block_of(r->pages) &&
		r->blocks[block + blocks] == RANGE_FRESH &&
		(page + blocks * RANGE_BLOCK_PAGES) / STRIPE_BLOCK_PAGES ==
			page / STRIPE_BLOCK_PAGES &&
		range_all_ours(r, block + blocks))
		blocks++;
	uint32_t count = blocks * RANGE_BLOCK_PAGES;
	if (count == 0)
		return;
	int rc = range_register(r, page, count);
	if (rc != 0) {
		log_ratelimited(LOG_WARN,
			"range: cannot register memory, it stays near page=%u error=%d", page, rc);
		return;
	}
	uint32_t present = range_scan(r, page, count, true);
	budget_near(r->core, present);
	atomic_fetch_sub_explicit(&r->core->budget.fresh_pages, present, memory_order_relaxed);
	for (uint32_t i = 0; i < blocks; i++)
		__atomic_store_n(&r->blocks[block + i], RANGE_REGISTERED, __ATOMIC_RELEASE);
}

bool range_prepare_block(struct stripe *st, uint32_t page)
{
	struct range *r = st->owner;
	uint64_t block = range_block_of(page);
	if (!__atomic_load_n(&r->touched[block], __ATOMIC_ACQUIRE))
		return false;
	if (__atomic_load_n(&r->blocks[block], __ATOMIC_ACQUIRE) == RANGE_REGISTERED)
		return true;
	pthread_mutex_lock(&r->lock);
	if (r->blocks[block] == RANGE_FRESH)
		range_convert(r, page);
	bool ready = r->blocks[block] == RANGE_REGISTERED;
	pthread_mutex_unlock(&r->lock);
	return ready;
}

/* One block's share of a purge. Fresh blocks are dropped under the lock, so that no scan takes them
 * for NEAR. */
static void range_purge_block(
	struct range *r, struct stripe *const *stripes, uint64_t page, uint64_t count)
{
	uint64_t block = range_block_of(page);
	if (__atomic_load_n(&r->blocks[block], __ATOMIC_ACQUIRE) == RANGE_FRESH) {
		bool fresh;
		pthread_mutex_lock(&r->lock);
		fresh = r->blocks[block] == RANGE_FRESH;
		if (fresh)
			(void)!uffd_drop_memory(
				r->base + page * FM_PAGE_SIZE, count * FM_PAGE_SIZE);
		pthread_mutex_unlock(&r->lock);
		if (fresh)
			return;
	}
	purge_range(stripes, (uint32_t)page, (uint32_t)count);
}

void range_purge(struct range *r, struct stripe *const *stripes, void *address, size_t bytes)
{
	uintptr_t from = FM_ALIGN_UP((uintptr_t)address, (uintptr_t)FM_PAGE_SIZE);
	uintptr_t to = FM_ALIGN_DOWN((uintptr_t)address + bytes, (uintptr_t)FM_PAGE_SIZE);
	if (from >= to)
		return;
	uint64_t page = (from - (uintptr_t)r->base) / FM_PAGE_SIZE;
	uint64_t end = (to - (uintptr_t)r->base) / FM_PAGE_SIZE;
	while (page < end) {
		uint64_t next = FM_MIN(end, FM_ALIGN_UP(page + 1, (uint64_t)RANGE_BLOCK_PAGES));
		range_purge_block(r, stripes, page, next - page);
		page = next;
	}
}

void range_measure_fresh(struct range *r)
{
	uint32_t end = FM_MIN(atomic_load(&r->fresh_end), atomic_load(&r->used_pages));
	uint64_t present = 0;
	for (uint32_t page = 0; page < end; page += RANGE_BLOCK_PAGES)
		if (__atomic_load_n(&r->touched[range_block_of(page)], __ATOMIC_ACQUIRE) &&
			__atomic_load_n(&r->blocks[range_block_of(page)], __ATOMIC_ACQUIRE) ==
				RANGE_FRESH)
			present += range_scan(r, page, RANGE_BLOCK_PAGES, false);
	atomic_store_explicit(&r->core->budget.fresh_pages, (int64_t)present, memory_order_relaxed);
}
