/*
 * farmem/merge.c: the runtime's half of compaction; see merge.h for the invariants and catalog.h
 * for the phases.
 *
 * One function per arrow of an entry (merge_turn). Each round does at most MERGE_ROUND_PAIRS pairs'
 * worth of work over all entries, so that a batch of evictions never waits long; `at` of struct
 * merge_state says where an entry goes on. Nobody on the fault path looks here.
 *
 * A pair on its way: claimed (n FILLING) -> published (n CLAIMED: nobody else's while a and b name
 * its slots too) -> each position settled -> a and b in the limbo, n STABLE.
 *
 * Lock: merging.lock is only ever tried. Below it: slot.c's and record.c's.
 */
#include "farmem/merge.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "farmem/record.h"
#include "farmem/slot.h"

#define MERGE_ROUND_PAIRS 64u          /* looked at in one round */
#define MERGE_PAUSE_NS (2 * NS_PER_MS) /* after a round without any progress */
/* Pages staged for longer while nobody needs room are stored, so that what they hold can go. */
#define MERGE_STUCK_NS NS_PER_S

/* Bits of catalog_pair.settled above the positions'. */
#define MERGE_RETIRED_A (1u << 30)
#define MERGE_RETIRED_B (1u << 31)
FM_BUILD_ASSERT(EC_K_MAX < 30, "positions and the two bits above them fit");

/* An entry being worked at. */
struct merge_job {
	struct core *core;
	struct catalog_merge *merge;
	uint32_t *at;   /* next pair */
	uint32_t *left; /* pairs not at their end */
	unsigned *work; /* pairs that this round may still look at */
	bool moved;     /* something changed */
};

static enum catalog_merge_phase merge_phase(const struct catalog_merge *merge)
{
	return (enum catalog_merge_phase)atomic_load_explicit(&merge->phase, memory_order_acquire);
}

/* seq_cst: partner is column_quiet, which looks at phases after it closed the group. */
static void merge_enter(struct merge_job *job, enum catalog_merge_phase phase)
{
	*job->at = 0;
	job->moved = true;
	atomic_store_explicit(&job->merge->since_ns, clock_now_ns(), memory_order_relaxed);
	atomic_store_explicit(&job->merge->phase, phase, memory_order_seq_cst);
}

static const struct catalog_group *merge_group(const struct merge_job *job)
{
	return &job->core->catalog.groups[job->merge->group];
}

static bool merge_group_open(const struct merge_job *job)
{
	return atomic_load_explicit(&merge_group(job)->state, memory_order_seq_cst) == GROUP_OPEN;
}

/* Where position pos of n comes from. */
static struct ssid merge_source(const struct catalog_pair *pair, unsigned pos)
{
	return ssid_make(pair->take >> pos & 1 ? pair->b : pair->a);
}

/* ---- WANTED -> CLAIMING ---- */

/* The agent's entry, looked at once: what it names exists. */
static bool merge_possible(const struct merge_job *job)
{
	const struct catalog_header *h = job->core->catalog.header;
	uint32_t groups = atomic_load_explicit(&h->groups_count, memory_order_acquire);
	return job->merge->count >= 1 && job->merge->count <= CATALOG_MERGE_PAIRS &&
	       job->merge->group < groups && merge_group(job)->m >= 1 &&
	       atomic_load_explicit(&h->pinned, memory_order_acquire) == 0; /* M5 */
}

static void merge_begin(struct merge_job *job)
{
	bool possible = merge_possible(job);
	for (unsigned i = 0; i < FM_MIN(job->merge->count, (uint32_t)CATALOG_MERGE_PAIRS); i++)
		job->merge->pairs[i].n = CATALOG_NO_RECORD;
	merge_enter(job, possible ? MERGE_CLAIMING : MERGE_FREE);
	*job->left = 0;
	if (possible && !merge_group_open(job))
		merge_enter(job, MERGE_FREE);
}

/* ---- CLAIMING -> CLAIMED ---- */

/* Of this group, and every live position has its page. */
static bool merge_fits(const struct merge_job *job, struct ssid id, uint32_t live)
{
	struct record r = record_at(job->core, id);
	if (record_hdr_group(record_load(r)) != job->merge->group || live == 0)
		return false;
	for (unsigned pos = 0; pos < merge_group(job)->k; pos++)
		if ((live >> pos & 1) &&
			record_owner(r, pos) >= job->core->catalog.header->range_pages)
			return false;
	return true;
}

/* M1. take: the positions that come from b. */
static bool merge_disjoint(const struct merge_job *job, struct catalog_pair *pair)
{
	struct ssid a = ssid_make(pair->a), b = ssid_make(pair->b);
	uint32_t live_a = record_hdr_live(record_load(record_at(job->core, a)));
	uint32_t live_b = record_hdr_live(record_load(record_at(job->core, b)));
	pair->take = live_b;
	return (live_a & live_b) == 0 && merge_fits(job, a, live_a) && merge_fits(job, b, live_b);
}

/* Positions dead in both keep a's slot, CRC and owner: parity covers them all the same. */
static void merge_fill(const struct merge_job *job, const struct catalog_pair *pair, struct ssid id)
{
	const struct catalog_group *g = merge_group(job);
	struct record n = record_at(job->core, id);
	for (unsigned pos = 0; pos < g->k; pos++) {
		struct record from = record_at(job->core, merge_source(pair, pos));
		record_set_owner(n, pos, record_owner(from, pos));
		record_set_crc(n, pos, record_crc(from, pos));
		record_set_slot(n, pos, record_slot(from, pos));
	}
	for (unsigned i = 0; i < g->m; i++)
		record_set_slot(n, g->k + i, pair->fresh[i]);
}

/* Both claimed: a record and slots for what they become. */
static bool merge_make(struct merge_job *job, struct catalog_pair *pair)
{
	struct group_id group = group_id_make(job->merge->group);
	if (!merge_disjoint(job, pair) || FAULT_POINT("merge.record"))
		return false;
	struct ssid id = record_alloc(job->core);
	if (ssid_is_none(id))
		return false;
	if (FAULT_POINT("merge.slots") || slot_take_parity(job->core, group, pair->fresh) != 0) {
		record_abandon(job->core, id);
		return false;
	}
	merge_fill(job, pair, id);
	pair->settled = 0;
	pair->n = id.v;
	return true;
}

static void merge_claim(struct merge_job *job, struct catalog_pair *pair)
{
	uint32_t records = __atomic_load_n(&job->core->reclaim.fresh, __ATOMIC_RELAXED);
	uint32_t first = FM_MIN(pair->a, pair->b), second = FM_MAX(pair->a, pair->b);
	if (first == second || second >= records || FAULT_POINT("merge.claim") ||
		!record_claim(job->core, ssid_make(first)))
		return;
	if (record_claim(job->core, ssid_make(second))) {
		if (merge_make(job, pair)) {
			++*job->left;
			return;
		}
		record_unclaim(job->core, ssid_make(second));
	}
	record_unclaim(job->core, ssid_make(first));
}

static void merge_claim_some(struct merge_job *job)
{
	for (; *job->work > 0 && *job->at < job->merge->count; --*job->work, ++*job->at) {
		job->moved = true;
		/* One that is closed meanwhile gets no more: whoever closed it waits for us. */
		if (!merge_group_open(job))
			*job->at = job->merge->count - 1;
		else
			merge_claim(job, &job->merge->pairs[*job->at]);
	}
	if (*job->at == job->merge->count)
		merge_enter(job, *job->left > 0 ? MERGE_CLAIMED : MERGE_FREE);
}

/* ---- given up ---- */

/* M4. Nobody may store into the fresh slots any more. */
static void merge_give_up(struct merge_job *job, struct catalog_pair *pair)
{
	unsigned k = merge_group(job)->k, m = merge_group(job)->m;
	for (unsigned i = 0; i < m; i++)
		slot_give(job->core, group_id_make(job->merge->group), k + i, pair->fresh[i]);
	record_abandon(job->core, ssid_make(pair->n));
	pair->n = CATALOG_NO_RECORD;
	record_unclaim(job->core, ssid_make(FM_MAX(pair->a, pair->b)));
	record_unclaim(job->core, ssid_make(FM_MIN(pair->a, pair->b)));
	--*job->left;
	job->moved = true;
}

static void merge_give_up_some(struct merge_job *job)
{
	for (; *job->work > 0 && *job->at < job->merge->count; --*job->work, ++*job->at)
		if (job->merge->pairs[*job->at].n != CATALOG_NO_RECORD)
			merge_give_up(job, &job->merge->pairs[*job->at]);
	if (*job->at == job->merge->count)
		merge_enter(job, MERGE_FREE);
}

/* ---- COMMITTED -> SWITCHING ---- */

/* n with the live bits that its sources have now: none is set later. */
static bool merge_publish(struct merge_job *job, struct catalog_pair *pair)
{
	const struct catalog_group *g = merge_group(job);
	struct record n = record_at(job->core, ssid_make(pair->n));
	uint32_t live_a = record_hdr_live(record_load(record_at(job->core, ssid_make(pair->a))));
	uint32_t live_b = record_hdr_live(record_load(record_at(job->core, ssid_make(pair->b))));
	uint32_t live = (live_a & ~pair->take) | (live_b & pair->take);
	if (live == 0)
		return false; /* all of it was fetched or freed meanwhile */
	for (unsigned i = 0; i < g->m; i++)
		record_set_crc(n, g->k + i, pair->crc[i]);
	pair->settled = ((1u << g->k) - 1) & ~live;
	record_publish_claimed(job->core, ssid_make(pair->n), job->merge->group, live);
	return true;
}

static void merge_publish_some(struct merge_job *job)
{
	for (; *job->work > 0 && *job->at < job->merge->count; --*job->work, ++*job->at) {
		struct catalog_pair *pair = &job->merge->pairs[*job->at];
		if (pair->n == CATALOG_NO_RECORD)
			continue;
		if (FAULT_POINT("merge.publish"))
			return; /* later */
		if (!pair->good || !merge_publish(job, pair))
			merge_give_up(job, pair);
		job->moved = true;
	}
	if (*job->at == job->merge->count)
		merge_enter(job, *job->left > 0 ? MERGE_SWITCHING : MERGE_FREE);
}

/* ---- SWITCHING -> FREE ---- */

/* M2. False: the reference is in somebody's hands. */
static bool merge_switch(struct merge_job *job, const struct catalog_pair *pair, unsigned pos)
{
	_Atomic uint64_t *words = job->core->catalog.words;
	struct ssid from = merge_source(pair, pos), n = ssid_make(pair->n);
	struct record source = record_at(job->core, from);
	struct page_id page = {record_owner(source, pos)};
	if (!(record_hdr_live(record_load(source)) >> pos & 1)) {
		record_clear_live(job->core, n, pos);
		return true;
	}
	struct span_word w = span_load(words, page);
	if (FAULT_POINT("merge.switch") || !span_holds_reference(w) || span_ssid(w) != from.v ||
		span_pos(w) != pos || !span_swap(words, page, w, span_at(w, n.v, pos)))
		return false;
	record_clear_live(job->core, from, pos);
	return true;
}

/* M3. False: no room in the limbo. */
static bool merge_retire(struct merge_job *job, struct catalog_pair *pair)
{
	uint32_t data = (1u << merge_group(job)->k) - 1;
	if (FAULT_POINT("merge.retire"))
		return false;
	if (!(pair->settled & MERGE_RETIRED_A)) {
		if (!record_retire_keeping(job->core, ssid_make(pair->a), data & ~pair->take))
			return false;
		pair->settled |= MERGE_RETIRED_A;
	}
	if (!(pair->settled & MERGE_RETIRED_B)) {
		if (!record_retire_keeping(job->core, ssid_make(pair->b), data & pair->take))
			return false;
		pair->settled |= MERGE_RETIRED_B;
	}
	record_unclaim(job->core, ssid_make(pair->n)); /* queued to be freed if nothing lives */
	pair->n = CATALOG_NO_RECORD;
	--*job->left;
	catalog_count(&job->core->catalog, merged_pairs, 1);
	catalog_count(&job->core->catalog, merge_freed_slots, merge_group(job)->k);
	return true;
}

static void merge_settle(struct merge_job *job, struct catalog_pair *pair)
{
	unsigned k = merge_group(job)->k;
	uint32_t all = (1u << k) - 1;
	for (unsigned pos = 0; pos < k; pos++)
		if (!(pair->settled >> pos & 1) && merge_switch(job, pair, pos)) {
			pair->settled |= 1u << pos;
			job->moved = true;
		}
	if ((pair->settled & all) == all && merge_retire(job, pair))
		job->moved = true;
}

/* Each of its pairs once at most, from where it stopped the last time. */
static void merge_settle_some(struct merge_job *job)
{
	uint32_t count = job->merge->count;
	for (uint32_t seen = 0; seen<count && * job->work> 0; seen++, --*job->work) {
		struct catalog_pair *pair = &job->merge->pairs[*job->at % count];
		if (pair->n != CATALOG_NO_RECORD)
			merge_settle(job, pair);
		*job->at = (*job->at + 1) % count;
	}
	if (*job->left == 0) {
		merge_enter(job, MERGE_FREE);
		return;
	}
	uint64_t since = atomic_load_explicit(&job->merge->since_ns, memory_order_relaxed);
	if (!job->moved && clock_now_ns() > since + MERGE_STUCK_NS)
		atomic_store_explicit(&job->core->merging.stuck, 1, memory_order_relaxed);
}

/* ---- rounds ---- */

/* True: the agent has something to do with it, or may use it again. */
static bool merge_turn(struct merge_job *job)
{
	enum catalog_merge_phase before = merge_phase(job->merge);
	switch (before) {
	case MERGE_WANTED:
		merge_begin(job);
		break;
	case MERGE_CLAIMING:
		merge_claim_some(job);
		break;
	case MERGE_ABORTED:
		merge_give_up_some(job);
		break;
	case MERGE_COMMITTED:
		merge_publish_some(job);
		break;
	case MERGE_SWITCHING:
		merge_settle_some(job);
		break;
	case MERGE_FREE:
	case MERGE_CLAIMED:
	case MERGE_PREPARING:
	case MERGE_ABORTING:
		return false; /* the agent's */
	}
	enum catalog_merge_phase after = merge_phase(job->merge);
	return after != before && (after == MERGE_CLAIMED || after == MERGE_FREE);
}

static bool merge_round_locked(struct core *core, bool *tell)
{
	struct merge_state *s = &core->merging;
	unsigned work = MERGE_ROUND_PAIRS;
	bool moved = false;
	atomic_store_explicit(&s->stuck, 0, memory_order_relaxed);
	uint32_t first = s->first++ % CATALOG_MERGES_MAX;
	for (unsigned i = 0; i < CATALOG_MERGES_MAX; i++) {
		uint32_t entry = (first + i) % CATALOG_MERGES_MAX;
		struct merge_job job = {.core = core,
			.merge = &core->catalog.merges[entry],
			.at = &s->at[entry],
			.left = &s->left[entry],
			.work = &work};
		*tell |= merge_turn(&job);
		moved |= job.moved;
	}
	return moved;
}

bool merge_round(struct stripe *st)
{
	struct core *core = st->core;
	struct merge_state *s = &core->merging;
	uint64_t next = atomic_load_explicit(&s->next_ns, memory_order_relaxed);
	bool moved = false, tell = false;
	uint32_t unlocked = 0;
	if (clock_now_ns() < next || !atomic_compare_exchange_strong_explicit(&s->lock, &unlocked,
					     1, memory_order_acquire, memory_order_relaxed))
		return false;
	moved = merge_round_locked(core, &tell);
	/* Not over a call that came meanwhile (merge_call). */
	if (!moved)
		(void)atomic_compare_exchange_strong_explicit(&s->next_ns, &next,
			clock_now_ns() + MERGE_PAUSE_NS, memory_order_relaxed,
			memory_order_relaxed);
	atomic_store_explicit(&s->lock, 0, memory_order_release);
	if (tell && core->report_merges)
		core->report_merges(core);
	return moved;
}

void merge_call(struct core *core)
{
	atomic_store_explicit(&core->merging.next_ns, 0, memory_order_relaxed);
}

bool merge_pending(const struct core *core)
{
	for (unsigned i = 0; i < CATALOG_MERGES_MAX; i++)
		if (merge_phase(&core->catalog.merges[i]) != MERGE_FREE)
			return true;
	return false;
}
