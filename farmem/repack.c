/*
 * farmem/repack.c: reclaiming far space without offload: sparse spansets become dense ones (DESIGN
 * section 7, Repack).
 *
 * Runs on the evictor's thread, between batches. The live spans of claimed sparse spansets are read
 * (checked like every fetch), stored as one new batch, and their words are switched FAR(old) ->
 * FAR(new) by CAS; a span that is fetched or freed meanwhile is one more hole in the new spanset.
 * The old records go when their last reference has.
 *
 * Three reasons to take a spanset: it is sparse; its group is to be evacuated (the agent's wish:
 * hosts are too few to repair it, or enough for a wider code again); the agent's scrubbing found
 * bad bytes in it (catalog heal). Of the last two every spanset is taken, however dense.
 *
 * The bound: a spanset is rewritten once at most half its positions are live and dead space is more
 * than REPACK_DEAD of what is used, so far space stays below about twice the live bytes (times
 * (k+m)/k).
 *
 * While the agent compacts (header.compacting: it does, and keeps up) such spansets are its own,
 * since making one of two moves no data: up to REPACK_DEAD_COMPACTING, which is little more, lest
 * compaction cost space where it cannot keep up. What it finds no partner for is rewritten here
 * while dead space is more than REPACK_DEAD_GOAL: spansets of which a fifth is dead and that look
 * just as they did when the sweep passed by REPACK_LAP_NS ago or more. So they are cold, the agent
 * had its time, and what is written together stays together for long.
 */
#include "farmem/stripe.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "farmem/record.h"
#include "farmem/scheme.h"

#define REPACK_SETS_MAX 64u
#define REPACK_SCAN 4096u /* records looked at per round */
/* Worth it when dead is more than so many hundredths of used */
#define REPACK_DEAD 30
#define REPACK_DEAD_COMPACTING 33
#define REPACK_DEAD_GOAL 5 /* of 4+2: 1.58 bytes for each byte that is far */
#define REPACK_LAP_NS (4 * NS_PER_S)
#define REPACK_LEFT_PAUSE_NS (20 * NS_PER_MS) /* between batches of what found no partner */
#ifndef REPACK_MIN_DEAD_PAGES                 /* the simulator has less of everything */
#define REPACK_MIN_DEAD_PAGES 2048            /* 8 MiB: below that nobody gains */
#endif
#define REPACK_READ_NS (5 * NS_PER_S)

struct repack_span {
	struct ssid ssid;
	uint32_t pos;
	uint32_t page;
	struct spanset_fetch *fetch;
};

struct repack_job {
	struct ssid sets[REPACK_SETS_MAX];
	unsigned set_count;
	struct repack_span spans[SPANSET_BATCH_PAGES];
	unsigned span_count;
	unsigned written;
};

static bool repack_names(
	const struct stripe *st, uint32_t page, struct ssid ssid, uint32_t pos, struct span_word *w)
{
	*w = span_load(st->core->catalog.words, (struct page_id){page});
	return span_state(*w) == SPAN_FAR && span_ssid(*w) == ssid.v && span_pos(*w) == pos;
}

/* A near duplicate is not worth carrying over: forget it. */
static bool repack_drop_duplicate(struct stripe *st, uint32_t page, struct ssid ssid, uint32_t pos)
{
	struct page_id id = {page};
	struct span_word w = span_load(st->core->catalog.words, id);
	if (span_state(w) != SPAN_NEAR || !(span_flags(w) & SPAN_HAS_FAR) ||
		span_ssid(w) != ssid.v || span_pos(w) != pos)
		return false;
	struct span_word plain =
		span_at(span_turned(w, SPAN_NEAR, span_flags(w) & ~SPAN_HAS_FAR), 0, 0);
	if (!span_swap(st->core->catalog.words, id, w, plain))
		return false;
	atomic_fetch_sub_explicit(&st->core->budget.retained_pages, 1, memory_order_relaxed);
	record_clear_live(st->core, ssid, pos);
	return true;
}

static bool repack_page_known(const struct stripe *st, uint32_t page)
{
	return page < st->core->catalog.header->range_pages;
}

unsigned repack_drop_retained(struct stripe *st, unsigned most)
{
	uint32_t end = atomic_load_explicit(&st->pages_end, memory_order_acquire);
	unsigned dropped = 0;
	if (atomic_load(&st->core->budget.retained_pages) <= 0)
		return 0;
	for (uint32_t page = 0; page < end && dropped < most; page++) {
		struct span_word w = span_load(st->core->catalog.words, (struct page_id){page});
		if (span_state(w) == SPAN_NEAR && (span_flags(w) & SPAN_HAS_FAR))
			dropped += repack_drop_duplicate(
				st, page, ssid_make(span_ssid(w)), span_pos(w));
	}
	return dropped;
}

enum repack_why { REPACK_NOTHING, REPACK_SPARSE, REPACK_LEFT, REPACK_EVACUATE, REPACK_HEAL };

static bool repack_wanted(const struct stripe *st, uint64_t hdr, enum repack_why why)
{
	const struct catalog_group *g = &st->core->catalog.groups[record_hdr_group(hdr)];
	unsigned live = (unsigned)__builtin_popcount(record_hdr_live(hdr));
	if (why == REPACK_HEAL)
		return true;
	if (atomic_load_explicit(&g->state, memory_order_acquire) == GROUP_EVACUATE)
		return true;
	/* Narrow ones earlier: into wider groups when there are any. */
	bool narrow = g->k < st->core->catalog.header->code_k;
	unsigned pages = scheme_set_pages(&st->core->catalog, g);
	if (why == REPACK_LEFT)
		return 5 * live <= 4 * pages;
	return why == REPACK_SPARSE && (2 * live <= pages || (narrow && live < pages));
}

/* Claims the record if it is wanted, and lists its only copies. False: left alone. */
static bool repack_consider(
	struct stripe *st, struct repack_job *job, struct ssid id, enum repack_why why)
{
	struct record r = record_at(st->core, id);
	uint64_t hdr = record_load(r);
	if (record_hdr_state(hdr) != RECORD_STABLE || !repack_wanted(st, hdr, why) ||
		job->span_count + (unsigned)__builtin_popcount(record_hdr_live(hdr)) >
			SPANSET_BATCH_PAGES ||
		!record_claim(st->core, id))
		return false;
	unsigned k = st->core->catalog.groups[record_hdr_group(hdr)].k;
	for (unsigned pos = 0; pos < k; pos++) {
		uint32_t page = record_owner(r, pos);
		struct span_word w;
		if (!(record_hdr_live(hdr) & (1u << pos)) || !repack_page_known(st, page))
			continue;
		if (repack_names(st, page, id, pos, &w))
			job->spans[job->span_count++] = (struct repack_span){id, pos, page, NULL};
		else
			(void)repack_drop_duplicate(st, page, id, pos);
	}
	job->sets[job->set_count++] = id;
	return true;
}

/* Returns how many records it looked at. */
static unsigned repack_gather(struct stripe *st, struct repack_job *job, enum repack_why why)
{
	uint32_t end = __atomic_load_n(&st->core->reclaim.fresh, __ATOMIC_RELAXED);
	unsigned seen = 0;
	for (; seen < REPACK_SCAN && seen < end; seen++) {
		if (st->repack_at >= end)
			st->repack_at = 0;
		(void)repack_consider(st, job, ssid_make(st->repack_at++), why);
		if (job->set_count == REPACK_SETS_MAX || job->span_count == SPANSET_BATCH_PAGES)
			break;
	}
	return seen;
}

/* Tells a spanset from what it was at the last look; 0: nothing to do with it. */
static uint8_t repack_look_of(const struct stripe *st, uint64_t hdr)
{
	uint64_t use = hdr & ((1ull << RECORD_GROUP_SHIFT) - 1); /* gen and live */
	if (record_hdr_state(hdr) != RECORD_STABLE || !repack_wanted(st, hdr, REPACK_LEFT))
		return 0;
	return (uint8_t)(1 + (use * 0x9e3779b97f4a7c15ull >> 32) % 255);
}

/* The same for spansets that are as they were a lap ago. One stripe's evictor does it. */
static void repack_gather_left(struct stripe *st, struct repack_job *job, uint64_t now)
{
	uint32_t end = __atomic_load_n(&st->core->reclaim.fresh, __ATOMIC_RELAXED);
	if (st->left_lap_ns == 0)
		st->left_lap_ns = now;
	for (unsigned seen = 0; seen < REPACK_SCAN; seen++) {
		if (st->left_at >= end) {
			if (now < st->left_lap_ns + REPACK_LAP_NS)
				return;
			st->left_lap_ns = now;
			st->left_at = 0;
		}
		struct ssid id = ssid_make(st->left_at++);
		uint8_t look = repack_look_of(st, record_load(record_at(st->core, id)));
		uint8_t before = st->core->repack_looks[id.v];
		st->core->repack_looks[id.v] = look;
		if (look != 0 && look == before)
			(void)repack_consider(st, job, id, REPACK_LEFT);
		if (job->set_count == REPACK_SETS_MAX ||
			job->span_count + EC_K_MAX > SPANSET_BATCH_PAGES)
			return;
	}
}

/* Reads all listed spans. Those that cannot be had are dropped from the list: their sets just stay.
 */
static void repack_read(struct stripe *st, struct repack_job *job)
{
	uint64_t deadline = clock_now_ns() + REPACK_READ_NS;
	unsigned waiting = 0, kept = 0;
	for (unsigned i = 0; i < job->span_count; i++) {
		struct repack_span *s = &job->spans[i];
		s->fetch = spanset_fetch_begin(st->io, s->page, s->ssid, s->pos);
		FM_ASSERT(s->fetch != NULL);
		waiting++;
	}
	spanset_fetch_submit(st->io);
	/* Everything begun must end: a fetch is bounded by its own rules. */
	while (waiting > 0)
		if (spanset_fetch_poll(st->io, deadline) != NULL)
			waiting--;
		else
			deadline = clock_now_ns() + REPACK_READ_NS;
	for (unsigned i = 0; i < job->span_count; i++) {
		if (job->spans[i].fetch->status == 0)
			job->spans[kept++] = job->spans[i];
		else
			spanset_fetch_end(st->io, job->spans[i].fetch);
	}
	job->span_count = kept;
}

/* In one batch, or in as small ones as find room. Returns how many spans, from the first on. */
static unsigned repack_write(struct stripe *st, struct repack_job *job, struct spanset_item *items)
{
	unsigned done = 0, most = job->span_count;
	for (unsigned i = 0; i < job->span_count; i++)
		items[i] = (struct spanset_item){
			.page = job->spans[i].page, .bytes = job->spans[i].fetch->bytes};
	while (done < job->span_count && most > 0) {
		unsigned count = FM_MIN(most, job->span_count - done);
		int rc = spanset_store_reserved(st->io, items + done, count);
		if (rc == 0)
			done += count;
		else if (rc == -ENOSPC)
			most = count / 2;
		else
			break;
	}
	return done;
}

static void repack_switch(struct stripe *st, const struct repack_job *job,
	const struct spanset_item *items, unsigned count)
{
	_Atomic uint64_t *words = st->core->catalog.words;
	for (unsigned i = 0; i < count; i++) {
		const struct repack_span *s = &job->spans[i];
		struct span_word w;
		struct page_id id = {s->page};
		if (repack_names(st, s->page, s->ssid, s->pos, &w) &&
			span_swap(words, id, w, span_at(w, items[i].ssid.v, items[i].pos)))
			record_clear_live(st->core, s->ssid, s->pos);
		else
			record_clear_live(st->core, items[i].ssid, items[i].pos);
	}
}

/* Pages in slots that are used and hold nothing alive. */
static int64_t repack_dead(const struct stripe *st, int64_t *data)
{
	struct core *core = st->core;
	*data = atomic_load(&core->budget.data_bytes) / FM_PAGE_SIZE;
	int64_t live =
		atomic_load(&core->budget.far_pages) + atomic_load(&core->budget.retained_pages);
	int64_t dead = FM_MAX(*data - live, (int64_t)0);
	atomic_store_explicit(&core->catalog.stats->dead_bytes, (uint64_t)dead * FM_PAGE_SIZE,
		memory_order_relaxed);
	return dead;
}

static enum repack_why repack_worth_it(struct stripe *st, bool urgent, uint64_t now)
{
	const struct catalog_header *h = st->core->catalog.header;
	int64_t data, dead = repack_dead(st, &data);
	/* What a forked child may read is not reused: rewriting would only take more. */
	if (atomic_load_explicit(&h->pinned, memory_order_acquire) != 0)
		return REPACK_NOTHING;
	if (FAULT_POINT("repack.worth")) /* bench/paper: far space that nothing reclaims */
		return REPACK_NOTHING;
	if (urgent)
		return dead > 0 ? REPACK_SPARSE : REPACK_NOTHING;
	if (dead <= REPACK_MIN_DEAD_PAGES)
		return REPACK_NOTHING;
	bool compacting = atomic_load_explicit(&h->compacting, memory_order_relaxed) != 0;
	if (100 * dead > data * (compacting ? REPACK_DEAD_COMPACTING : REPACK_DEAD))
		return REPACK_SPARSE;
	if (!compacting || st->index != 0 || 100 * dead <= data * REPACK_DEAD_GOAL ||
		now < st->left_next_ns)
		return REPACK_NOTHING;
	st->left_next_ns = now + REPACK_LEFT_PAUSE_NS;
	return REPACK_LEFT;
}

/* Carries a gathered job out. Returns spansets freed. */
static unsigned repack_run(struct stripe *st, struct repack_job *job)
{
	struct spanset_item items[SPANSET_BATCH_PAGES];
	unsigned freed = 0;
	if (job->set_count == 0)
		return 0;
	repack_read(st, job);
	job->written = repack_write(st, job, items);
	repack_switch(st, job, items, job->written);
	for (unsigned i = 0; i < job->span_count; i++)
		spanset_fetch_end(st->io, job->spans[i].fetch);
	for (unsigned i = 0; i < job->set_count; i++) {
		bool dead = record_hdr_live(record_load(record_at(st->core, job->sets[i]))) == 0;
		freed += dead;
		record_unclaim(st->core, job->sets[i]); /* a dead one is queued to be freed */
	}
	record_reclaim(st->core);
	return freed;
}

unsigned repack_round(struct stripe *st, bool urgent)
{
	struct repack_job job = {.set_count = 0};
	uint64_t now = clock_now_ns();
	enum repack_why why = repack_worth_it(st, urgent, now);
	if (why == REPACK_NOTHING)
		return 0;
	if (why == REPACK_LEFT)
		repack_gather_left(st, &job, now);
	else
		(void)repack_gather(st, &job, why);
	unsigned freed = repack_run(st, &job);
	catalog_count(&st->core->catalog, repacked_spansets, job.set_count);
	return freed;
}

/* ---- what the agent wants ---- */

void repack_look(struct stripe *st)
{
	const struct catalog *c = &st->core->catalog;
	uint32_t count = atomic_load_explicit(&c->header->groups_count, memory_order_acquire);
	bool found = false;
	for (uint32_t i = 0; i < count && !found; i++)
		found = atomic_load_explicit(&c->groups[i].state, memory_order_acquire) ==
				GROUP_EVACUATE &&
			atomic_load_explicit(&c->groups[i].columns[0].used, memory_order_acquire) >
				0;
	if (found && !st->evacuating)
		st->evacuate_seen = 0;
	st->evacuating = found;
	st->evacuate_staged = found && st->evacuate_staged;
}

static void repack_heal(struct stripe *st)
{
	struct repack_job job = {.set_count = 0};
	_Atomic uint32_t *heal = st->core->catalog.heal;
	uint32_t end = __atomic_load_n(&st->core->reclaim.fresh, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < CATALOG_HEAL_MAX && job.set_count < REPACK_SETS_MAX; i++) {
		if (atomic_load_explicit(&heal[i], memory_order_relaxed) == 0)
			continue;
		uint32_t wish = atomic_exchange_explicit(&heal[i], 0, memory_order_acq_rel);
		/* One that is left alone now is found again by the next scrubbing. */
		if (wish != 0 && wish <= end)
			(void)repack_consider(st, &job, ssid_make(wish - 1), REPACK_HEAL);
	}
	unsigned healed = repack_run(st, &job);
	catalog_count(&st->core->catalog, healed_spansets, healed);
}

bool repack_wishes(struct stripe *st)
{
	struct repack_job job = {.set_count = 0};
	repack_heal(st);
	if (!st->evacuating)
		return false;
	unsigned seen = repack_gather(st, &job, REPACK_EVACUATE);
	unsigned freed = repack_run(st, &job);
	catalog_count(&st->core->catalog, evacuated_spansets, freed);
	st->evacuate_seen += seen;
	/* Once round without anything to move: what is left is in somebody's hands. No room: later.
	 */
	bool lap = st->evacuate_seen >= __atomic_load_n(&st->core->reclaim.fresh, __ATOMIC_RELAXED);
	if (freed > 0)
		st->evacuate_seen = 0;
	st->evacuating = freed > 0 || (job.set_count == 0 && !lap);
	st->evacuate_staged = freed == 0 && (lap || job.set_count > 0);
	return st->evacuating;
}
