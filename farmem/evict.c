/*
 * farmem/evict.c: swap-out: taking cold pages out, sealing, storing, publishing (DESIGN section 7).
 *
 * Callers: the evictor thread of a stripe (evict_round), fault handlers (evict_take, while the
 * faulting thread is blocked anyway and its CPU needs no TLB shootdown). Encoding and I/O happen on
 * the evictor's thread only.
 *
 * Invariants kept here:
 *   1  a near copy is dropped only after spanset_store acknowledged its spanset (evict_publish_*).
 *   3  staging is reused only after a grace period: a rescuer may still copy from it
 * (evict_retire). E1 who takes a word out of EVICTING without SEALED owns the slot's old reference;
 * with SEALED the evictor does. E2 take_at - retire_at <= staging_slots.
 */
#include "farmem/stripe.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/futex.h"
#include "base/log.h"
#include "base/mem.h"
#include "farmem/merge.h"
#include "farmem/record.h"

#define EVICT_RUN_MAX 64u
#define EVICT_SCAN_ROUND 65536u /* words looked at per round */
#define EVICT_UPKEEP_NS (20 * NS_PER_MS)
#define EVICT_REPACK_BATCHES 4u
#define EVICT_ROOM_PAGES 2048u /* 8 MiB */
#define EVICT_STARVED_NS (5 * NS_PER_MS)
#define EVICT_BARREN_ROUNDS 8u
/* A group that was asked for comes in less; until then near duplicates are worth more than the few
 * spansets they would free. */
#define EVICT_SHORT_NS NS_PER_S
#define EVICT_CLEAN_SCAN 512u /* words looked at for one clean page */

struct evict_batch {
	unsigned count;
	uint32_t slots[SPANSET_BATCH_PAGES];         /* staging slot of each item */
	struct span_word words[SPANSET_BATCH_PAGES]; /* EVICTING|SEALED */
	struct spanset_item items[SPANSET_BATCH_PAGES];
};

static _Atomic uint64_t *evict_words(const struct stripe *st)
{
	return st->core->catalog.words;
}

/* ---- taking out ---- */

static bool evict_lock(struct stripe *st, bool wait)
{
	uint32_t unlocked = 0;
	while (!atomic_compare_exchange_weak_explicit(
		&st->take_lock, &unlocked, 1, memory_order_acquire, memory_order_relaxed)) {
		unlocked = 0;
		if (!wait)
			return false;
		fm_cpu_relax();
	}
	return true;
}

static void evict_unlock(struct stripe *st)
{
	atomic_store_explicit(&st->take_lock, 0, memory_order_release);
}

/* Pages may go from here on: inside the gate, with the hand ours. */
static bool evict_begin(struct stripe *st, bool wait)
{
	if (wait)
		gate_enter(&st->gate);
	else if (!gate_try(&st->gate))
		return false;
	if (evict_lock(st, wait))
		return true;
	gate_leave(&st->gate);
	return false;
}

static void evict_end(struct stripe *st)
{
	evict_unlock(st);
	gate_leave(&st->gate);
}

/* The hand's next page in this stripe, wrapping; pages of other stripes are jumped over. */
static uint32_t evict_hand_next(const struct stripe *st, uint32_t page)
{
	uint32_t end = atomic_load_explicit(&st->pages_end, memory_order_acquire);
	for (unsigned hops = 0; hops <= st->stripes + 1; hops++) {
		if (page >= end)
			page = 0;
		if (stripe_of_page(st->stripes, page) == st->index)
			return page;
		page = FM_ALIGN_DOWN(page, STRIPE_BLOCK_PAGES) + STRIPE_BLOCK_PAGES;
	}
	return page;
}

/* Claims one page for the slot. False when it is not a candidate. */
static bool evict_claim(struct stripe *st, uint32_t page, uint32_t slot)
{
	struct page_id id = {page};
	struct span_word w = span_load(evict_words(st), id);
	if (span_state(w) != SPAN_NEAR)
		return false;
	if (span_flags(w) & SPAN_HOT) { /* second chance */
		(void)span_swap(evict_words(st), id, w,
			span_turned(w, SPAN_NEAR, span_flags(w) & ~SPAN_HOT));
		return false;
	}
	struct stage_slot *s = &st->slots[slot];
	uint64_t reference = STAGE_NO_REFERENCE;
	if (span_flags(w) & SPAN_HAS_FAR)
		reference = (uint64_t)span_pos(w) << 32 | span_ssid(w);
	s->page = page;
	atomic_store_explicit(&s->gone, 0, memory_order_relaxed);
	atomic_store_explicit(&s->reference, reference, memory_order_release);
	struct span_word taken =
		span_at(span_make(SPAN_EVICTING, SPAN_TAKING, span_gen(w) + 1), slot, 0);
	return span_swap(evict_words(st), id, w, taken);
}

/* A page that would not move stays near; the hand passes it by once. */
static void evict_unclaim(struct stripe *st, uint32_t page, uint32_t slot)
{
	struct page_id id = {page};
	struct span_word w = span_load(evict_words(st), id);
	uint64_t reference = stage_reference(st, slot);
	FM_ASSERT_EQ(span_state(w), SPAN_EVICTING);
	struct span_word near = span_make(SPAN_NEAR, SPAN_HOT, span_gen(w));
	if (reference != STAGE_NO_REFERENCE)
		near = span_at(span_turned(near, SPAN_NEAR, SPAN_HOT | SPAN_HAS_FAR),
			(uint32_t)reference, (uint32_t)(reference >> 32));
	bool swapped = span_swap(evict_words(st), id, w, near);
	FM_ASSERT(swapped); /* TAKING: nobody else touches the word */
	st->pager->ops->wake(st->pager, page, 1);
}

static void evict_taken(struct stripe *st, uint32_t page)
{
	struct page_id id = {page};
	struct span_word w = span_load(evict_words(st), id);
	FM_ASSERT_EQ(span_state(w), SPAN_EVICTING);
	bool swapped = span_swap(evict_words(st), id, w, span_turned(w, SPAN_EVICTING, 0));
	FM_ASSERT(swapped);
}

/* Takes pages that a fork shares as well: those are made ours alone first, all at once. */
static int evict_move(
	struct stripe *st, uint32_t page, uint32_t count, uint32_t slot, uint32_t *done)
{
	struct pager *p = st->pager;
	int rc = p->ops->take(p, page, count, slot, done);
	if (fm_likely(rc != -EBUSY))
		return rc;
	uint32_t first = *done, more = 0;
	p->ops->unshare(p, page + first, count - first);
	rc = p->ops->take(p, page + first, count - first, slot + first, &more);
	*done = first + more;
	return rc;
}

/* Brings a claimed run into staging; returns how many pages went. */
static uint32_t evict_take_pages(struct stripe *st, uint32_t page, uint32_t count, uint32_t slot)
{
	struct pager *p = st->pager;
	uint32_t done = 0;
	int rc;
	if (!p->moves) {
		rc = p->ops->protect(p, page, count, true);
		if (rc == 0)
			rc = p->ops->read(p, page, count, stripe_staged_bytes(st, slot));
		if (rc == 0)
			return count;
		(void)p->ops->protect(p, page, count, false);
		return 0;
	}
	rc = evict_move(st, page, count, slot, &done);
	if (rc != 0 && rc != -EAGAIN)
		catalog_count(&st->core->catalog, move_busy, 1);
	if (rc == -ENOENT && done < count)
		FM_PANIC("evict: a NEAR page is missing page=%u (memory dropped behind farmem's "
			 "back?)",
			page + done);
	return done;
}

/* Takes one run beginning at the hand. Returns pages taken; *scanned grows by the words looked at.
 */
static unsigned evict_take_run(struct stripe *st, unsigned most, unsigned *scanned)
{
	uint64_t at = atomic_load_explicit(&st->take_at, memory_order_relaxed);
	uint32_t ring = st->pager->staging_slots;
	uint32_t slot = (uint32_t)(at % ring);
	uint32_t room = (uint32_t)(ring - (at - __atomic_load_n(&st->retire_at, __ATOMIC_ACQUIRE)));
	most = FM_MIN(FM_MIN(most, EVICT_RUN_MAX), FM_MIN(room, ring - slot));
	uint32_t first = st->hand, count = 0;
	while (count < most &&
		st->hand < atomic_load_explicit(&st->pages_end, memory_order_relaxed) &&
		stripe_of_page(st->stripes, st->hand) == st->index &&
		evict_claim(st, st->hand, slot + count)) {
		st->hand++;
		count++;
	}
	*scanned += count + 1;
	if (count == 0)
		return 0;
	uint32_t done = evict_take_pages(st, first, count, slot);
	for (uint32_t i = 0; i < count; i++) {
		if (i < done)
			evict_taken(st, first + i);
		else
			evict_unclaim(st, first + i, slot + i);
	}
	if (st->pager->moves)
		budget_near(st->core, -(int64_t)done);
	atomic_fetch_add_explicit(&st->core->budget.staging_pages, done, memory_order_relaxed);
	atomic_store_explicit(&st->take_at, at + done, memory_order_release);
	catalog_count(&st->core->catalog, staged_pages, done);
	return done;
}

unsigned evict_take(struct stripe *st, unsigned pages, unsigned runs, unsigned scan, bool wait)
{
	unsigned taken = 0, scanned = 0;
	if (!evict_begin(st, wait))
		return 0;
	while (taken < pages && runs > 0 && scanned < scan) {
		uint64_t used = atomic_load_explicit(&st->take_at, memory_order_relaxed) -
				__atomic_load_n(&st->retire_at, __ATOMIC_ACQUIRE);
		if (used >= st->pager->staging_slots)
			break;
		st->hand = evict_hand_next(st, st->hand);
		if (st->prepare_block && st->hand % 512 == 0 && wait &&
			!st->prepare_block(st, st->hand)) {
			st->hand += 512; /* a 2 MiB block with nothing evictable */
			scanned += 8;
			continue;
		}
		unsigned got = evict_take_run(st, pages - taken, &scanned);
		if (got > 0)
			runs--;
		else
			st->hand++;
		taken += got;
	}
	evict_end(st);
	return taken;
}

/* ---- storing ---- */

static void evict_release(struct stripe *st, uint64_t reference)
{
	if (reference == STAGE_NO_REFERENCE)
		return;
	atomic_fetch_sub_explicit(&st->core->budget.retained_pages, 1, memory_order_relaxed);
	record_clear_live(st->core, ssid_make(reference & UINT32_MAX), (unsigned)(reference >> 32));
}

/* EVICTING -> EVICTING|SEALED: from here on rescuers copy. False: rescued or purged meanwhile. */
static bool evict_seal(struct stripe *st, uint32_t slot, struct span_word *sealed)
{
	struct page_id id = {st->slots[slot].page};
	struct span_word w = span_load(evict_words(st), id);
	if (span_state(w) != SPAN_EVICTING || span_ssid(w) != slot)
		return false;
	FM_ASSERT_EQ(span_flags(w), 0);
	*sealed = span_turned(w, SPAN_EVICTING, SPAN_SEALED);
	return span_swap(evict_words(st), id, w, *sealed);
}

/* ---- publishing: SEALED -> FAR ---- */

/*
 * Turns claimed words into far words: MOVE took the pages out already, so one CAS each. Without
 * MOVE: EVICTING -> DROPPING, drop (runs at once), -> FAR; a write fault that came first has won.
 * gone[i]: done.
 */
static void evict_publish(struct stripe *st, unsigned count, const struct span_word *sealed,
	const struct span_word *far, const uint32_t *pages, bool *gone)
{
	_Atomic uint64_t *words = evict_words(st);
	bool moves = st->pager->moves;
	gate_enter(&st->gate);
	for (unsigned i = 0; i < count; i++)
		gone[i] = span_swap(words, (struct page_id){pages[i]}, sealed[i],
			moves ? far[i] : span_turned(sealed[i], SPAN_DROPPING, 0));
	for (unsigned i = 0, run = 0; !moves && i < count; i++) {
		if (!gone[i])
			continue;
		run++;
		if (i + 1 < count && gone[i + 1] && pages[i + 1] == pages[i] + 1)
			continue;
		int rc = st->pager->ops->drop(st->pager, pages[i] + 1 - run, run);
		FM_ASSERT_EQ(rc, 0);
		budget_near(st->core, -(int64_t)run);
		run = 0;
	}
	for (unsigned i = 0; !moves && i < count; i++)
		if (gone[i]) {
			bool swapped = span_swap(words, (struct page_id){pages[i]},
				span_turned(sealed[i], SPAN_DROPPING, 0), far[i]);
			FM_ASSERT(swapped);
		}
	for (unsigned i = 0; i < count; i++)
		if (gone[i])
			atomic_fetch_add_explicit(
				&st->core->budget.far_pages, 1, memory_order_relaxed);
	gate_leave(&st->gate);
}

/* Sealed bytes that equal what the nodes still hold need no write: back to the old far copy. */
static bool evict_clean(struct stripe *st, uint32_t slot, struct span_word sealed)
{
	struct core *core = st->core;
	uint32_t page = st->slots[slot].page;
	uint64_t reference = stage_reference(st, slot);
	bool gone;
	if (reference == STAGE_NO_REFERENCE)
		return false;
	struct clean_hash hash = clean_hash_page(stripe_staged_bytes(st, slot));
	if (!record_has_spare(
		    core, ssid_make(reference & UINT32_MAX), (unsigned)(reference >> 32)) ||
		!clean_matches(&core->clean, (struct page_id){page}, hash)) {
		evict_release(st, reference);
		return false;
	}
	struct span_word far = span_at(
		span_turned(sealed, SPAN_FAR, 0), (uint32_t)reference, (uint32_t)(reference >> 32));
	evict_publish(st, 1, &sealed, &far, &page, &gone);
	if (!gone) {
		evict_release(st, reference); /* rescued by copy: E1 */
		return true;
	}
	atomic_fetch_sub_explicit(&core->budget.retained_pages, 1, memory_order_relaxed);
	catalog_count(&core->catalog, clean_evictions, 1);
	return true;
}

/* The next staged pages that must be written; clean ones are done on the way. Returns slots passed.
 */
static unsigned evict_collect(struct stripe *st, struct evict_batch *b)
{
	uint64_t end = atomic_load_explicit(&st->take_at, memory_order_acquire);
	unsigned passed = 0;
	b->count = 0;
	while (b->count < SPANSET_BATCH_PAGES && passed < 2 * SPANSET_BATCH_PAGES &&
		st->store_at + passed < end) {
		uint32_t slot = (uint32_t)((st->store_at + passed++) % st->pager->staging_slots);
		struct span_word sealed;
		if (!evict_seal(st, slot, &sealed) || evict_clean(st, slot, sealed))
			continue;
		b->slots[b->count] = slot;
		b->words[b->count] = sealed;
		b->items[b->count++] = (struct spanset_item){
			.page = st->slots[slot].page, .bytes = stripe_staged_bytes(st, slot)};
	}
	return passed;
}

/* All k+m writes are acknowledged: the words may name the far copies (invariant 1). */
static void evict_publish_batch(struct stripe *st, const struct evict_batch *b)
{
	struct span_word far[SPANSET_BATCH_PAGES];
	uint32_t pages[SPANSET_BATCH_PAGES];
	bool gone[SPANSET_BATCH_PAGES];
	unsigned stored = 0;
	for (unsigned i = 0; i < b->count; i++) {
		far[i] = span_at(
			span_turned(b->words[i], SPAN_FAR, 0), b->items[i].ssid.v, b->items[i].pos);
		pages[i] = b->items[i].page;
	}
	evict_publish(st, b->count, b->words, far, pages, gone);
	for (unsigned i = 0; i < b->count; i++) {
		stored += gone[i];
		if (!gone[i])
			record_clear_live(st->core, b->items[i].ssid, b->items[i].pos);
	}
	catalog_count(&st->core->catalog, swap_out_pages, stored);
}

/* The nodes would not have them: the pages go back to where they came from. */
static void evict_give_back(struct stripe *st, const struct evict_batch *b)
{
	struct pager *p = st->pager;
	for (unsigned i = 0; i < b->count; i++) {
		struct page_id id = {b->items[i].page};
		struct span_word fetching = span_turned(b->words[i], SPAN_FETCHING, 0);
		if (!span_swap(evict_words(st), id, b->words[i], fetching))
			continue;
		int rc = p->moves ? p->ops->install(p, id.v, b->items[i].bytes)
				  : p->ops->protect(p, id.v, 1, false);
		FM_ASSERT(rc == 0);
		if (p->moves)
			budget_near(st->core, 1);
		bool swapped = span_swap(evict_words(st), id, fetching,
			span_at(span_turned(fetching, SPAN_NEAR, SPAN_HOT), 0, 0));
		FM_ASSERT(swapped);
	}
}

/* Staging slots just dealt with are dropped once nobody can still copy from them. */
static void evict_retire(struct stripe *st, unsigned count)
{
	FM_ASSERT_LT(st->segment_count, STAGE_SEGMENTS_MAX);
	unsigned at = (st->segment_head + st->segment_count++) % STAGE_SEGMENTS_MAX;
	st->segments[at] = (struct stage_segment){st->store_at, count, epoch_stamp(st->core)};
	st->store_at += count;
}

static void evict_drop_slots(struct stripe *st, uint64_t first, uint32_t count)
{
	uint32_t ring = st->pager->staging_slots, present = 0;
	for (uint32_t i = 0; i < count; i++)
		if (!atomic_load_explicit(
			    &st->slots[(first + i) % ring].gone, memory_order_acquire))
			present++;
	uint32_t slot = (uint32_t)(first % ring);
	uint32_t before_end = FM_MIN(count, ring - slot);
	int rc = st->pager->ops->drop_staging(st->pager, slot, before_end);
	if (rc == 0 && before_end < count)
		rc = st->pager->ops->drop_staging(st->pager, 0, count - before_end);
	FM_ASSERT_EQ(rc, 0);
	atomic_fetch_sub_explicit(&st->core->budget.staging_pages, present, memory_order_relaxed);
}

static void evict_drop_retired(struct stripe *st)
{
	while (st->segment_count > 0) {
		struct stage_segment *s = &st->segments[st->segment_head];
		if (!epoch_passed(st->core, s->stamp))
			return;
		evict_drop_slots(st, s->first, s->count);
		__atomic_store_n(&st->retire_at, s->first + s->count, __ATOMIC_RELEASE);
		st->segment_head = (st->segment_head + 1) % STAGE_SEGMENTS_MAX;
		st->segment_count--;
	}
}

/* Has there been no room for so long that none is to be waited for? */
static bool evict_is_short(struct stripe *st)
{
	uint64_t now = clock_now_ns();
	if (st->short_since_ns == 0)
		st->short_since_ns = now;
	return now - st->short_since_ns >= EVICT_SHORT_NS;
}

/* Why a store may fail: the groups are not there yet, or the nodes are full. Called with nothing of
 * it in flight. */
static bool evict_make_room(struct stripe *st)
{
	struct catalog_header *h = st->core->catalog.header;
	bool out_of_memory = atomic_load(&h->agent_state) == 2 || core_far_limited(st->core);
	if (out_of_memory && !atomic_exchange(&st->full, 1))
		log_ratelimited(LOG_ERROR, "the memory nodes have no room left (see --on-full, "
					   "--node-memory, --nodes, --far-limit)");
	unsigned freed = record_reclaim(st->core);
	if (evict_is_short(st) || out_of_memory) {
		freed += repack_drop_retained(st, 4 * SPANSET_BATCH_PAGES);
		freed += record_reclaim(st->core);
	}
	if (freed > 0)
		return true;
	if (out_of_memory && repack_round(st, true) > 0)
		return true;
	return false;
}

/* "Full" ends with real room, not with the odd spanset that repack wrings out of full nodes. */
static void evict_note_room(struct stripe *st)
{
	if (atomic_load_explicit(&st->full, memory_order_relaxed) &&
		core_free_pages(st->core) >= EVICT_ROOM_PAGES)
		atomic_store(&st->full, 0);
}

/* Stores the tail of the ring. False: nothing could be stored now. */
static bool evict_store(struct stripe *st)
{
	struct evict_batch b;
	unsigned passed = evict_collect(st, &b);
	int rc = 0;
	if (b.count > 0) {
		rc = FAULT_POINT("evict.store") ? -EIO : spanset_store(st->io, b.items, b.count);
		if (rc == 0) {
			evict_publish_batch(st, &b);
			evict_note_room(st);
			st->short_since_ns = 0;
		} else {
			evict_give_back(st, &b);
		}
	}
	if (rc == -ENOSPC) {
		st->starved_until_ns = clock_now_ns() + EVICT_STARVED_NS;
		st->starved_groups = atomic_load(&st->core->catalog.header->groups_count);
	}
	evict_retire(st, passed);
	evict_drop_retired(st);
	return rc == 0;
}

/* Sealing what cannot be stored would only carry pages to staging and back. */
static bool evict_starved(struct stripe *st)
{
	return st->starved_until_ns != 0 &&
	       atomic_load(&st->core->catalog.header->groups_count) == st->starved_groups &&
	       clock_now_ns() < st->starved_until_ns;
}

/* ---- one clean page, without I/O ---- */

/* The page is in a staging slot of the caller's own, its word still TAKING: far again if clean,
 * else back. */
static bool evict_settle_one(struct stripe *st, uint32_t page, uint32_t slot)
{
	struct page_id id = {page};
	struct span_word w = span_load(evict_words(st), id);
	uint64_t reference = stage_reference(st, slot);
	struct clean_hash hash = clean_hash_page(stripe_staged_bytes(st, slot));
	/* The duplicate may have been given up between the look and the claim. */
	bool clean = reference != STAGE_NO_REFERENCE &&
		     record_has_spare(st->core, ssid_make(reference & UINT32_MAX),
			     (unsigned)(reference >> 32)) &&
		     clean_matches(&st->core->clean, id, hash);
	int rc;
	if (clean) {
		rc = st->pager->ops->drop_staging(st->pager, slot, 1);
		FM_ASSERT_EQ(rc, 0);
		budget_near(st->core, -1);
		atomic_fetch_sub_explicit(
			&st->core->budget.retained_pages, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&st->core->budget.far_pages, 1, memory_order_relaxed);
		catalog_count(&st->core->catalog, clean_evictions, 1);
		w = span_load(evict_words(st), id);
		bool swapped = span_swap(evict_words(st), id, w,
			span_at(span_turned(w, SPAN_FAR, 0), (uint32_t)reference,
				(uint32_t)(reference >> 32)));
		FM_ASSERT(swapped);
		return true;
	}
	rc = st->pager->ops->give_back(st->pager, slot, page);
	if (rc != 0) { /* MOVE may refuse at any time: a copy does as well */
		rc = st->pager->ops->install(st->pager, page, stripe_staged_bytes(st, slot));
		FM_ASSERT_EQ(rc, 0);
		rc = st->pager->ops->drop_staging(st->pager, slot, 1);
		FM_ASSERT_EQ(rc, 0);
	}
	evict_unclaim(st, page, slot);
	return false;
}

bool evict_drop_clean(struct stripe *st, uint32_t slot)
{
	uint32_t done = 0;
	bool dropped = false;
	if (!st->pager->moves || !evict_begin(st, false))
		return false;
	for (unsigned i = 0; i < EVICT_CLEAN_SCAN && !dropped; i++) {
		uint32_t page = st->hand = evict_hand_next(st, st->hand + 1);
		struct span_word w = span_load(evict_words(st), (struct page_id){page});
		if (span_state(w) != SPAN_NEAR || !(span_flags(w) & SPAN_HAS_FAR) ||
			!evict_claim(st, page, slot))
			continue;
		if (evict_move(st, page, 1, slot, &done) == 0)
			dropped = evict_settle_one(st, page, slot);
		else
			evict_unclaim(st, page, slot);
	}
	evict_end(st);
	return dropped;
}

/* ---- rounds ---- */

static void evict_upkeep(struct stripe *st)
{
	uint64_t now = clock_now_ns();
	if (now < st->next_upkeep_ns)
		return;
	st->next_upkeep_ns = now + EVICT_UPKEEP_NS;
	budget_update(st->core);
	spanset_io_maintain(st->io);
	record_reclaim(st->core);
	(void)repack_round(st, false);
	repack_look(st);
	(void)repack_wishes(st);
}

/* Staged pages wait here for a second chance: the more, the better hot pages are told from cold
 * ones. */
static int64_t evict_probation(const struct stripe *st)
{
	int64_t limit =
		(int64_t)atomic_load_explicit(&st->core->budget.limit_pages, memory_order_relaxed);
	int64_t pages = FM_MIN(limit / 16, (int64_t)(st->pager->staging_slots / 2));
	return FM_MAX(pages, (int64_t)SPANSET_BATCH_PAGES);
}

/* Nobody needs room. Staged pages may be all that still holds spansets of a group to be emptied, or
 * spansets that were made one: their second chance is over. */
static bool evict_idle(struct stripe *st)
{
	if (st->evacuating && repack_wishes(st))
		return true;
	return (st->evacuate_staged || merge_stuck(st->core)) && evict_staged(st) > 0 &&
	       !evict_starved(st) && st->segment_count < STAGE_SEGMENTS_MAX && evict_store(st);
}

/*
 * A round found nothing that would go. After two laps of such, what is near is locked, pinned or
 * protected: whoever waited for room would wait for ever.
 */
static void evict_note_barren(struct stripe *st, uint32_t lap)
{
	uint64_t taken = atomic_load_explicit(&st->take_at, memory_order_relaxed);
	if (st->retire_at != taken) { /* it may have been the ring that had no room */
		st->barren_rounds = 0;
		return;
	}
	if (++st->barren_rounds <= 2ull * lap / EVICT_SCAN_ROUND + EVICT_BARREN_ROUNDS)
		return;
	if (!atomic_exchange(&st->barren, 1))
		log_ratelimited(LOG_WARN,
			"none of the memory here can leave (it is locked, pinned or protected): "
			"the program goes beyond --local");
}

static bool evict_round_pages(struct stripe *st)
{
	int64_t lacking = stripe_reserve(st) - budget_room(st->core);
	if (lacking <= 0)
		return evict_idle(st);
	if (atomic_load(&st->core->catalog.header->groups_count) == 0) {
		core_want_group(st->core);
		return false;
	}
	if (evict_starved(st))
		return false;
	int64_t staged = (int64_t)evict_staged(st);
	int64_t wanted =
		FM_MIN(lacking + evict_probation(st), (int64_t)st->pager->staging_slots / 2);
	unsigned taken = 0;
	/* Two laps: the first may only take second chances away. */
	uint32_t lap = atomic_load_explicit(&st->pages_end, memory_order_relaxed);
	if (staged < wanted)
		taken = evict_take(st, (unsigned)(wanted - staged), UINT_MAX,
			FM_MIN(EVICT_SCAN_ROUND, 2 * lap + 1), true);
	if (evict_staged(st) == 0) {
		evict_note_barren(st, lap);
		return false;
	}
	st->barren_rounds = 0;
	atomic_store_explicit(&st->barren, 0, memory_order_relaxed);
	if (st->segment_count == STAGE_SEGMENTS_MAX)
		return taken > 0;
	if (!evict_store(st)) {
		if (!evict_make_room(st))
			return false;
		st->starved_until_ns = 0;
		return true;
	}
	/* Under load dead space grows by the batch: keep pace with it. */
	if (++st->stored_batches % EVICT_REPACK_BATCHES == 0) {
		(void)repack_round(st, false);
		(void)(st->evacuating && repack_wishes(st));
	}
	return true;
}

bool evict_round(struct stripe *st)
{
	evict_upkeep(st);
	evict_drop_retired(st);
	bool merged = merge_round(st);
	return evict_round_pages(st) || merged;
}

void evict_call(struct stripe *st)
{
	if (!atomic_load_explicit(&st->sleeping, memory_order_seq_cst))
		return;
	atomic_fetch_add_explicit(&st->wake, 1, memory_order_seq_cst);
	futex_wake(&st->wake, 1);
}

int stripe_open(struct stripe *st)
{
	uint64_t bytes =
		(st->pager->staging_slots + STAGE_PRIVATE_SLOTS) * sizeof(struct stage_slot);
	FM_ASSERT(st->pager->staging_slots >= 4 * SPANSET_BATCH_PAGES);
	st->slots = mem_map(bytes);
	return st->slots ? 0 : -ENOMEM;
}

void stripe_close(struct stripe *st)
{
	mem_unmap(st->slots,
		(st->pager->staging_slots + STAGE_PRIVATE_SLOTS) * sizeof(struct stage_slot));
	st->slots = NULL;
}
