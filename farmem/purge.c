/*
 * farmem/purge.c: the program gives memory back: free, purge, madvise (DESIGN section 7).
 *
 * Callers: jemalloc's purge hook and the interposed madvise, on the program's own threads;
 * range_map.c in steps, for munmap and its kin. Order: claim each span (DROPPING) -> madvise ->
 * EMPTY, gen+1 -> clear live. So no evictor publishes FAR
 * over freed memory, and calloc never sees old bytes: faults wait while a word is DROPPING.
 *
 *   NEAR, EMPTY, FAR, LOST, EVICTING  claimed at once. EVICTING without SEALED: the staging slot's
 * old reference is now ours; with SEALED the evictor keeps it, and its publication will fail.
 *   EVICTING|TAKING, FETCHING, DROPPING   somebody is at work: waited for (microseconds, or one
 * fetch).
 */
#include "farmem/stripe.h"

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/record.h"

#define PURGE_CHUNK_PAGES 4096u
#define PURGE_PAUSE_NS (50 * NS_PER_US)

struct purge_claim {
	uint64_t reference; /* to give up, or STAGE_NO_REFERENCE */
	bool retained;      /* it was a near duplicate (else the only copy) */
	bool present;       /* the page was in place */
};

/* What claiming a word in this state gives. False: not now. */
static bool purge_look(struct stripe *st, struct span_word w, struct purge_claim *c)
{
	uint32_t flags = span_flags(w);
	*c = (struct purge_claim){.reference = STAGE_NO_REFERENCE};
	switch (span_state(w)) {
	case SPAN_EMPTY:
	case SPAN_LOST:
		return true;
	case SPAN_NEAR:
		c->present = c->retained = true;
		if (flags & SPAN_HAS_FAR)
			c->reference = (uint64_t)span_pos(w) << 32 | span_ssid(w);
		return true;
	case SPAN_FAR:
		c->reference = (uint64_t)span_pos(w) << 32 | span_ssid(w);
		return true;
	case SPAN_EVICTING:
		c->present = !st->pager->moves;
		c->retained = true;
		/* Read before the CAS: while the word names the slot, the slot is this page's. */
		if (!(flags & SPAN_SEALED))
			c->reference = stage_reference(st, span_ssid(w));
		return !(flags & SPAN_TAKING);
	case SPAN_FETCHING:
	case SPAN_DROPPING:
		return false;
	}
	return false;
}

static struct purge_claim purge_claim_page(struct stripe *st, struct page_id id)
{
	_Atomic uint64_t *words = st->core->catalog.words;
	struct purge_claim c;
	for (;;) {
		struct span_word w = span_load(words, id);
		bool can = purge_look(st, w, &c);
		if (can && span_swap(words, id, w, span_make(SPAN_DROPPING, 0, span_gen(w) + 1)))
			break;
		if (!can)
			clock_pause(clock_now_ns() + PURGE_PAUSE_NS);
	}
	if (c.reference != STAGE_NO_REFERENCE && c.retained)
		atomic_fetch_sub_explicit(
			&st->core->budget.retained_pages, 1, memory_order_relaxed);
	if (c.reference != STAGE_NO_REFERENCE && !c.retained)
		atomic_fetch_sub_explicit(&st->core->budget.far_pages, 1, memory_order_relaxed);
	/* The word no longer names it, so the record may go as soon as its last reference does. */
	if (c.reference != STAGE_NO_REFERENCE)
		record_clear_live(st->core, ssid_make(c.reference & UINT32_MAX),
			(unsigned)(c.reference >> 32));
	return c;
}

/* Calls `step` for each part of [page, +count) that lies in one stripe's block. */
static int64_t purge_each(struct stripe *const *stripes, uint32_t page, uint32_t count,
	int64_t (*step)(struct stripe *st, uint32_t page, uint32_t count))
{
	int64_t sum = 0;
	while (count > 0) {
		struct stripe *st = stripes[stripe_of_page(stripes[0]->stripes, page)];
		uint32_t block_left = STRIPE_BLOCK_PAGES - page % STRIPE_BLOCK_PAGES;
		uint32_t now = FM_MIN(FM_MIN(count, block_left), PURGE_CHUNK_PAGES);
		sum += step(st, page, now);
		page += now;
		count -= now;
	}
	return sum;
}

static int64_t purge_claim_step(struct stripe *st, uint32_t page, uint32_t count)
{
	int64_t present = 0;
	for (uint32_t i = 0; i < count; i++)
		present += purge_claim_page(st, (struct page_id){page + i}).present;
	return present;
}

static int64_t purge_drop_step(struct stripe *st, uint32_t page, uint32_t count)
{
	int rc = st->pager->ops->drop(st->pager, page, count);
	FM_ASSERT_EQ(rc, 0);
	return 0;
}

static int64_t purge_release_step(struct stripe *st, uint32_t page, uint32_t count)
{
	_Atomic uint64_t *words = st->core->catalog.words;
	for (uint32_t i = 0; i < count; i++) {
		struct page_id id = {page + i};
		struct span_word w = span_load(words, id);
		FM_ASSERT_EQ(span_state(w), SPAN_DROPPING);
		bool swapped = span_swap(words, id, w, span_make(SPAN_EMPTY, 0, span_gen(w)));
		FM_ASSERT(swapped);
	}
	catalog_count(&st->core->catalog, purged_pages, count);
	return 0;
}

int64_t purge_claim(struct stripe *const *stripes, uint32_t page, uint32_t count)
{
	return purge_each(stripes, page, count, purge_claim_step);
}

void purge_drop(struct stripe *const *stripes, uint32_t page, uint32_t count)
{
	(void)purge_each(stripes, page, count, purge_drop_step);
}

void purge_release(struct stripe *const *stripes, uint32_t page, uint32_t count)
{
	(void)purge_each(stripes, page, count, purge_release_step);
}

/* Pages of one stripe, at most PURGE_CHUNK_PAGES. */
static int64_t purge_chunk(struct stripe *st, uint32_t page, uint32_t count)
{
	gate_enter(&st->gate);
	int64_t present = purge_claim_step(st, page, count);
	/* Also when none is present: the program may race with itself, and must read zeros all the
	 * same. */
	(void)purge_drop_step(st, page, count);
	budget_near(st->core, -present);
	(void)purge_release_step(st, page, count);
	gate_leave(&st->gate);
	return present;
}

void purge_range(struct stripe *const *stripes, uint32_t page, uint32_t count)
{
	(void)purge_each(stripes, page, count, purge_chunk);
}
