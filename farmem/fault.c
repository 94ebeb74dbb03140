/*
 * farmem/fault.c: see fault.h. One function per arrow of span.h that begins with a fault.
 *
 * Callers: the handler threads (handler.c) and the simulator.
 * Invariants kept here:
 *   4  bytes are installed only after spanset.c checked them.
 *   6  only EMPTY zero-fills; LOST is poisoned; a missing NEAR page is a bug that stops the
 * program. 7  a fetch waits for nobody: with no room it sends a clean page back, without I/O.
 */
#include "farmem/fault.h"

#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "farmem/record.h"

#define FAULT_TAKE_EVERY 8u /* faults: most are spared the work, the mean is the same */
#define FAULT_TAKE_RUNS 12u /* runs taken out then, while the faulting thread is blocked */
#define FAULT_TAKE_PAGES 24u
#define FAULT_TAKE_SCAN 256u
#define FAULT_OVERDRAFT(limit) ((int64_t)((limit) / 128))

enum fault_result { FAULT_SERVED, FAULT_LATER };

static _Atomic uint64_t *fault_words(const struct fault_handler *h)
{
	return h->st->core->catalog.words;
}

static void fault_turn(
	struct fault_handler *h, struct page_id id, struct span_word from, struct span_word to)
{
	bool swapped = span_swap(fault_words(h), id, from, to);
	FM_ASSERT(swapped); /* FETCHING belongs to one thread */
}

/* ---- first touch ---- */

/* Sequential first touches get their successors filled in one go. */
static uint32_t fault_zero_window(struct fault_handler *h, uint32_t page)
{
	int64_t room = budget_room(h->st->core) / 8;
	if (page == h->zero_expected)
		h->zero_window = FM_MIN(h->zero_window * 2, (uint32_t)FAULT_ZERO_AHEAD_MAX);
	else
		h->zero_window = 1;
	uint32_t end = FM_ALIGN_DOWN(page, STRIPE_BLOCK_PAGES) + STRIPE_BLOCK_PAGES;
	end = FM_MIN(end, atomic_load_explicit(&h->st->pages_end, memory_order_relaxed));
	uint32_t window = page < end ? FM_MIN(h->zero_window, end - page) : 1;
	if (room < (int64_t)window)
		window = 1;
	return window;
}

static uint32_t fault_claim_empty(struct fault_handler *h, uint32_t page, uint32_t most)
{
	uint32_t count = 0;
	for (; count < most; count++) {
		struct page_id id = {page + count};
		struct span_word w = span_load(fault_words(h), id);
		if (span_state(w) != SPAN_EMPTY ||
			!span_swap(fault_words(h), id, w, span_make(SPAN_FETCHING, 0, span_gen(w))))
			break;
	}
	return count;
}

static bool fault_may_touch(struct fault_handler *h)
{
	struct core *core = h->st->core;
	if (budget_room(core) > 0)
		return true;
	/* A fork under way lets nothing go, and may itself wait for this page. */
	if (gate_is_closed(&h->st->gate))
		return true;
	evict_call(h->st);
	if (atomic_load_explicit(&h->st->barren, memory_order_relaxed))
		return true;
	if (!atomic_load_explicit(&h->st->full, memory_order_relaxed))
		return false;
	if (core->config.on_full == ON_FULL_KILL && h->report_full)
		h->report_full(h);
	return core->config.on_full == ON_FULL_LOCAL;
}

static enum fault_result fault_zero(struct fault_handler *h, uint32_t page)
{
	struct pager *p = h->st->pager;
	uint32_t count, done = 0;
	bool gone;
	int rc = 0;
	if (!fault_may_touch(h))
		return FAULT_LATER;
	count = fault_claim_empty(h, page, fault_zero_window(h, page));
	if (count == 0)
		return FAULT_LATER; /* somebody else was quicker: look again */
	while (done < count) {
		uint32_t filled = 0;
		rc = p->ops->install_zero(p, page + done, count - done, &filled);
		done += filled;
		if (rc == -EEXIST)
			done++; /* ordinary memory met while its block was being registered */
		else if (rc != 0)
			break;
	}
	gone = done == 0 && rc == -ENOENT;
	for (uint32_t i = 0; i < count; i++) {
		struct page_id id = {page + i};
		struct span_word w = span_load(fault_words(h), id);
		fault_turn(h, id, w, span_make(i < done ? SPAN_NEAR : SPAN_EMPTY, 0, span_gen(w)));
	}
	if (done < count)
		p->ops->wake(p, page + done, count - done);
	budget_near(h->st->core, done);
	h->zero_expected = page + done;
	catalog_count(&h->st->core->catalog, faults_zero, 1);
	/* The program put a mapping of its own there meanwhile: the touch is not ours to serve. */
	return done > 0 || gone ? FAULT_SERVED : FAULT_LATER;
}

/* ---- rescue ---- */

static struct span_word fault_near_again(struct span_word fetching, uint64_t reference)
{
	if (reference == STAGE_NO_REFERENCE)
		return span_at(span_turned(fetching, SPAN_NEAR, SPAN_HOT), 0, 0);
	return span_at(span_turned(fetching, SPAN_NEAR, SPAN_HOT | SPAN_HAS_FAR),
		(uint32_t)reference, (uint32_t)(reference >> 32));
}

/* MOVE mode: the page comes back from staging: itself before encoding began, a copy after. */
static void fault_rescue_moved(
	struct fault_handler *h, struct page_id id, uint32_t slot, bool sealed)
{
	struct pager *p = h->st->pager;
	struct budget *b = &h->st->core->budget;
	int rc = sealed ? -EBUSY : p->ops->give_back(p, slot, id.v);
	if (rc == 0) {
		atomic_store_explicit(&h->st->slots[slot].gone, 1, memory_order_release);
		atomic_fetch_sub_explicit(&b->staging_pages, 1, memory_order_relaxed);
	} else {
		rc = p->ops->install(p, id.v, stripe_staged_bytes(h->st, slot));
	}
	FM_ASSERT(rc == 0);
	budget_near(h->st->core, 1);
}

static enum fault_result fault_rescue(struct fault_handler *h, uint32_t page, struct span_word w)
{
	struct page_id id = {page};
	struct pager *p = h->st->pager;
	uint32_t slot = span_ssid(w);
	bool sealed = (span_flags(w) & SPAN_SEALED) != 0;
	uint64_t reference = sealed ? STAGE_NO_REFERENCE : stage_reference(h->st, slot);
	if (span_flags(w) & SPAN_TAKING)
		return FAULT_LATER;
	struct span_word fetching = span_turned(w, SPAN_FETCHING, 0);
	if (!span_swap(fault_words(h), id, w, fetching))
		return FAULT_LATER;
	if (p->moves) {
		fault_rescue_moved(h, id, slot, sealed);
	} else {
		/* The word left EVICTING before the protection goes: the evictor's copy is void. */
		int rc = p->ops->protect(p, page, 1, false);
		FM_ASSERT_EQ(rc, 0);
	}
	fault_turn(h, id, fetching, fault_near_again(fetching, reference));
	catalog_count(&h->st->core->catalog, faults_rescued, 1);
	return FAULT_SERVED;
}

/* ---- fetch ---- */

/* Is there room for one more page, or can it be made without I/O? */
static bool fault_may_fetch(struct fault_handler *h)
{
	struct core *core = h->st->core;
	int64_t limit =
		(int64_t)atomic_load_explicit(&core->budget.limit_pages, memory_order_relaxed);
	if (fm_likely(budget_room(core) > -FAULT_OVERDRAFT(limit)))
		return true;
	if (gate_is_closed(&h->st->gate))
		return true;
	evict_call(h->st);
	/* With the nodes full nobody else makes room: each page fetched frees a little of theirs.
	 */
	return evict_drop_clean(h->st, h->private_slot) ||
	       atomic_load_explicit(&h->st->full, memory_order_relaxed) ||
	       atomic_load_explicit(&h->st->barren, memory_order_relaxed);
}

static bool fault_begin_fetch(
	struct fault_handler *h, uint32_t page, struct span_word w, bool ahead)
{
	struct page_id id = {page};
	struct span_word fetching = span_turned(w, SPAN_FETCHING, SPAN_REMOTE);
	if (!spanset_fetch_ready(h->io) || !span_swap(fault_words(h), id, w, fetching))
		return false;
	struct spanset_fetch *f =
		spanset_fetch_begin(h->io, page, ssid_make(span_ssid(w)), span_pos(w));
	FM_ASSERT(f != NULL);
	f->user = ahead;
	f->demand = !ahead;
	return true;
}

/* How many neighbours to bring along: doubles while faults prove that they would have been wanted.
 */
static uint32_t fault_ahead(struct fault_handler *h, uint32_t page)
{
	struct fault_stream *s = NULL;
	for (unsigned i = 0; i < FAULT_STREAMS && s == NULL; i++)
		if (h->streams[i].expected == page)
			s = &h->streams[i];
	if (s == NULL) {
		s = &h->streams[h->stream_next++ % FAULT_STREAMS];
		*s = (struct fault_stream){.expected = page + 1, .window = 0};
		return 0;
	}
	s->window = FM_MIN(FM_MAX(s->window * 2, 1u), h->ahead_max);
	if (budget_room(h->st->core) < stripe_reserve(h->st) / 4)
		s->window = FM_MIN(s->window, 1u);
	s->expected = page + s->window + 1;
	return s->window;
}

static enum fault_result fault_fetch(struct fault_handler *h, uint32_t page, struct span_word w)
{
	uint32_t brought = 0, window;
	if (!fault_may_fetch(h) || !fault_begin_fetch(h, page, w, false))
		return FAULT_LATER;
	window = fault_ahead(h, page);
	for (uint32_t i = 1; i <= window; i++) {
		uint32_t next = page + i;
		if (next % STRIPE_BLOCK_PAGES == 0)
			break;
		w = span_load(fault_words(h), (struct page_id){next});
		if (span_state(w) != SPAN_FAR || !fault_begin_fetch(h, next, w, true))
			break;
		brought++;
	}
	spanset_fetch_submit(h->io);
	if (brought > 0)
		catalog_count(&h->st->core->catalog, read_ahead, brought);
	return FAULT_SERVED;
}

/* Keeps the far slot as a duplicate while the retention budget lasts; a hash will tell whether it
 * still is one. */
static struct span_word fault_retain(
	struct fault_handler *h, const struct spanset_fetch *f, struct span_word fetching)
{
	struct core *core = h->st->core;
	struct budget *b = &core->budget;
	int64_t most = (int64_t)atomic_load_explicit(&b->retain_pages, memory_order_relaxed);
	uint32_t hot = f->user ? 0 : SPAN_HOT;
	if (atomic_load_explicit(&b->retained_pages, memory_order_relaxed) >= most)
		return span_at(span_turned(fetching, SPAN_NEAR, hot), 0, 0);
	clean_remember(&core->clean, (struct page_id){f->page}, clean_hash_page(f->bytes));
	return span_turned(fetching, SPAN_NEAR, hot | SPAN_HAS_FAR);
}

static void fault_lost(
	struct fault_handler *h, const struct spanset_fetch *f, struct span_word fetching)
{
	struct core *core = h->st->core;
	uint32_t group = record_hdr_group(record_load(record_at(core, f->ssid)));
	catalog_count(&core->catalog, lost_pages, 1);
	atomic_fetch_sub_explicit(&core->budget.far_pages, 1, memory_order_relaxed);
	if (h->report_loss)
		h->report_loss(h, f->page, group);
	/* While the word is FETCHING: a purge that came between would see the page poisoned after
	 * it. */
	(void)h->st->pager->ops->poison(h->st->pager, f->page);
	fault_turn(h, (struct page_id){f->page}, fetching,
		span_at(span_turned(fetching, SPAN_LOST, 0), 0, 0));
	record_clear_live(core, f->ssid, f->pos);
}

/* Late news of a page already told lost: poisoned again, unless it was given back meanwhile. */
static enum fault_result fault_lost_again(
	struct fault_handler *h, uint32_t page, struct span_word w)
{
	struct page_id id = {page};
	struct span_word fetching = span_turned(w, SPAN_FETCHING, 0);
	if (!span_swap(fault_words(h), id, w, fetching))
		return FAULT_LATER;
	(void)h->st->pager->ops->poison(h->st->pager, page);
	fault_turn(h, id, fetching, w);
	return FAULT_SERVED;
}

static void fault_install(struct fault_handler *h, struct spanset_fetch *f)
{
	struct core *core = h->st->core;
	struct page_id id = {f->page};
	struct span_word fetching = span_load(fault_words(h), id);
	FM_ASSERT_EQ(span_state(fetching), SPAN_FETCHING);
	FM_ASSERT_EQ(span_ssid(fetching), f->ssid.v);
	if (f->status != 0) {
		fault_lost(h, f, fetching);
		return;
	}
	int rc = h->st->pager->ops->install(h->st->pager, f->page, f->bytes);
	/* A forked child's words may say FAR of a page that came with the fork: read-ahead meets
	 * it. */
	FM_ASSERT(rc == 0 || (rc == -EEXIST && core->reader));
	budget_near(core, 1);
	atomic_fetch_sub_explicit(&core->budget.far_pages, 1, memory_order_relaxed);
	struct span_word near = fault_retain(h, f, fetching);
	bool kept = (span_flags(near) & SPAN_HAS_FAR) != 0;
	if (kept)
		atomic_fetch_add_explicit(&core->budget.retained_pages, 1, memory_order_relaxed);
	fault_turn(h, id, fetching, near);
	if (!kept)
		record_clear_live(core, f->ssid, f->pos);
	catalog_count(&core->catalog, swap_in_pages, 1);
	if (!f->user) {
		catalog_count(&core->catalog, faults_fetched, 1);
		hist_record(&core->catalog.stats->fault_ns, clock_now_ns() - f->begun_ns);
	}
}

/* ---- dispatch ---- */

/* NEAR, and yet a fault: late news (the page came meanwhile), protection left over, or a bug. */
static enum fault_result fault_near(
	struct fault_handler *h, uint32_t page, struct span_word w, bool protected_)
{
	struct pager *p = h->st->pager;
	struct page_id id = {page};
	if (protected_) {
		struct span_word fetching = span_turned(w, SPAN_FETCHING, span_flags(w));
		if (!span_swap(fault_words(h), id, w, fetching))
			return FAULT_LATER;
		int rc = p->ops->protect(p, page, 1, false);
		FM_ASSERT_EQ(rc, 0);
		fault_turn(h, id, fetching, w);
		return FAULT_SERVED;
	}
	if (!p->ops->present(p, page)) {
		if (span_load(fault_words(h), id).v != w.v)
			return FAULT_LATER;
		FM_PANIC("fault: a NEAR page is missing page=%u word=%llx (memory dropped behind "
			 "farmem's back?)",
			page, (unsigned long long)w.v);
	}
	p->ops->wake(p, page, 1);
	return FAULT_SERVED;
}

static enum fault_result fault_serve(struct fault_handler *h, uint32_t page, bool protected_)
{
	struct span_word w = span_load(fault_words(h), (struct page_id){page});
	switch (span_state(w)) {
	case SPAN_EMPTY:
		return fault_zero(h, page);
	case SPAN_NEAR:
		return fault_near(h, page, w, protected_);
	case SPAN_EVICTING:
		return fault_rescue(h, page, w);
	case SPAN_FAR:
		return fault_fetch(h, page, w);
	case SPAN_FETCHING:
		/* Whoever fetches it wakes everybody; a write-protect fault may outlive the page it
		 * was for. */
		if (protected_)
			return FAULT_LATER;
		catalog_count(&h->st->core->catalog, faults_joined, 1);
		return FAULT_SERVED;
	case SPAN_DROPPING:
		return FAULT_LATER;
	case SPAN_LOST:
		return fault_lost_again(h, page, w);
	}
	FM_PANIC("fault: impossible word page=%u word=%llx", page, (unsigned long long)w.v);
}

/* While the faulting thread is blocked its CPU needs no TLB shootdown: take cold pages out now. */
static void fault_take_cold(struct fault_handler *h)
{
	struct stripe *st = h->st;
	int64_t reserve = stripe_reserve(st);
	int64_t room = budget_room(st->core);
	if (room >= reserve || ++h->faults_since_take < FAULT_TAKE_EVERY)
		return;
	h->faults_since_take = 0;
	if (st->pager->moves && evict_staged(st) < (uint64_t)reserve + 4 * SPANSET_BATCH_PAGES)
		(void)evict_take(st, FAULT_TAKE_PAGES, FAULT_TAKE_RUNS, FAULT_TAKE_SCAN, false);
	if (room < reserve * 3 / 4)
		evict_call(st);
}

void fault_take(struct fault_handler *h, uint32_t page, bool write_protected)
{
	FM_ASSERT(fault_ready(h));
	catalog_count(&h->st->core->catalog, faults, 1);
	if (write_protected)
		catalog_count(&h->st->core->catalog, wp_faults, 1);
	epoch_enter(&h->epoch);
	struct span_word w = span_load(fault_words(h), (struct page_id){page});
	bool fetches = span_state(w) == SPAN_FAR;
	if (!fetches)
		fault_take_cold(h);
	if (fault_serve(h, page, write_protected) == FAULT_LATER)
		h->pending[h->pending_count++] =
			(struct fault_pending){page, write_protected, clock_now_ns()};
	if (fetches) /* while the read is on its way */
		fault_take_cold(h);
	epoch_exit(&h->epoch);
}

static bool fault_retry_pending(struct fault_handler *h)
{
	unsigned kept = 0;
	bool moved = false;
	for (unsigned i = 0; i < h->pending_count; i++) {
		struct fault_pending f = h->pending[i];
		if (fault_serve(h, f.page, f.write_protected) == FAULT_LATER) {
			h->pending[kept++] = f;
			continue;
		}
		catalog_count(&h->st->core->catalog, stall_ns, clock_now_ns() - f.since_ns);
		moved = true;
	}
	h->pending_count = kept;
	return moved;
}

bool fault_progress(struct fault_handler *h)
{
	struct spanset_fetch *f;
	bool moved = false;
	if (fault_idle(h))
		return false;
	epoch_enter(&h->epoch);
	while ((f = spanset_fetch_poll(h->io, 0)) != NULL) {
		fault_install(h, f);
		spanset_fetch_end(h->io, f);
		moved = true;
	}
	if (h->pending_count > 0)
		moved |= fault_retry_pending(h);
	epoch_exit(&h->epoch);
	return moved;
}
