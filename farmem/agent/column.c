/*
 * farmem/agent/column.c: see column.h for the protocol and its invariants C1..C6.
 *
 * Memory order. Partners are the runtime's threads: lane.c (readers), spanset_store.c (`storing`).
 *   begin   next's place and zeroed done bits, then `repair` (release). A reader that sees `repair`
 *           sees them; one that copies a place while it is rewritten sees `repair` or `generation`
 *           changed afterwards.
 *   done    the bit (release), after the node's answer.
 *   commit  generation + 1, lost = 0, repair = 0, each with release, in this order. So whoever
 * finds `repair` 0 finds the column well (lane_gone asks in that order: never is a rebuilt slot
 *           taken for lost), and whoever finds it well finds its new place. A seq_cst fence
 * follows, so that places are written again only after the bump. close   the group's state
 * (seq_cst) before threads' `storing` and merges' `phase` are looked at; a thread sets `storing`,
 * or CLAIMING (seq_cst), before it looks at the state.
 */
#include "farmem/agent/column.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/fault_point.h"
#include "farmem/record.h"

/* ---- checks: C6 ---- */

bool column_group_good(const struct catalog *catalog, uint32_t group)
{
	const struct catalog_header *h = catalog->header;
	if (group >= CATALOG_GROUPS_MAX ||
		group >= atomic_load_explicit(&h->groups_count, memory_order_acquire))
		return false;
	const struct catalog_group *g = &catalog->groups[group];
	const uint8_t k = g->k, m = g->m;
	return k >= 1 && k <= EC_K_MAX && m <= EC_M_MAX && k <= h->code_k &&
	       (uint32_t)k + m <= h->code_k + h->code_m && g->slot_count >= 1 &&
	       g->slot_count <= CATALOG_SLOTS_MAX;
}

uint32_t column_records(const struct catalog *catalog)
{
	const struct catalog_header *h = catalog->header;
	uint64_t before = (uint64_t)(catalog->records - (const uint8_t *)(const void *)h);
	uint64_t stride = FM_MAX(h->record_stride, (uint32_t)FM_CACHE_LINE);
	uint64_t fit = catalog->bytes > before ? (catalog->bytes - before) / stride : 0;
	uint32_t used = atomic_load_explicit(&h->records_used, memory_order_acquire);
	return (uint32_t)FM_MIN((uint64_t)used, fit);
}

/* Copies the bytes of a record and makes *r a view of the copy. */
struct record_copy {
	uint8_t bytes[FM_ALIGN_UP(8 + 4 * EC_K_MAX + 4 * EC_N_MAX + 5 * ((EC_N_MAX + 1) / 2), 64)];
};

FM_BUILD_ASSERT(sizeof(struct record_copy) % 64 == 0, "as catalog_record_stride rounds");

/* Its header, or 0. *stride, *k, *n: the table's layout, checked against each other. */
static uint64_t column_peek(
	const struct catalog *catalog, uint32_t ssid, struct record *r, uint32_t *stride)
{
	const struct catalog_header *h = catalog->header;
	uint32_t k = h->code_k, m = h->code_m;
	*stride = h->record_stride;
	if (ssid >= column_records(catalog) || k < 1 || k > EC_K_MAX || m > EC_M_MAX ||
		*stride != catalog_record_stride(k, m) || *stride > sizeof(struct record_copy))
		return 0;
	*r = (struct record){
		catalog->records + (uint64_t)ssid * *stride, (uint8_t)k, (uint8_t)(k + m)};
	return record_load(*r);
}

/* A spanset that somebody may still read: by a reference, or who claimed it (repack, which reads on
 * though the last reference may go meanwhile), or a forked child whose words are those of its fork.
 * R1 keeps its places as they are. */
static bool column_hdr_needed(const struct catalog *catalog, uint64_t hdr)
{
	enum record_state state = record_hdr_state(hdr);
	if (state == RECORD_CLAIMED || (state == RECORD_STABLE && record_hdr_live(hdr) != 0))
		return true;
	return (state == RECORD_STABLE || state == RECORD_LIMBO) &&
	       atomic_load_explicit(&catalog->header->pinned, memory_order_acquire) != 0;
}

bool column_record_group(const struct catalog *catalog, uint32_t ssid, uint32_t *group)
{
	struct record r;
	uint32_t stride;
	uint64_t hdr = column_peek(catalog, ssid, &r, &stride);
	*group = record_hdr_group(hdr);
	return column_hdr_needed(catalog, hdr);
}

bool column_read_record(const struct catalog *catalog, uint32_t group, uint32_t ssid,
	struct column_entry *entry, uint32_t *gen)
{
	struct record_copy copy;
	struct record r;
	uint32_t stride;
	uint64_t hdr = column_peek(catalog, ssid, &r, &stride);
	if (!column_hdr_needed(catalog, hdr) || record_hdr_group(hdr) != group ||
		!column_group_good(catalog, group))
		return false;
	const struct catalog_group *g = &catalog->groups[group];
	const unsigned n = FM_MIN((unsigned)g->k + g->m, (unsigned)r.n);
	const uint32_t slot_count = g->slot_count;
	memcpy(copy.bytes, r.bytes, stride);
	atomic_thread_fence(memory_order_acquire);
	uint64_t after = record_load(r);
	if (!column_hdr_needed(catalog, after) || record_hdr_group(after) != group ||
		((after ^ hdr) & 0xffff) != 0)
		return false; /* freed meanwhile, perhaps used anew */
	r.bytes = copy.bytes;
	entry->ssid = ssid;
	*gen = (uint32_t)(hdr & 0xffff);
	for (unsigned p = 0; p < n; p++) {
		entry->slot[p] = record_slot(r, p);
		entry->crc[p] = record_crc(r, p);
		if (entry->slot[p] >= slot_count)
			return false;
	}
	return true;
}

/* ---- groups ---- */

void column_close_group(struct catalog *catalog, uint32_t group)
{
	uint32_t open = GROUP_OPEN;
	atomic_compare_exchange_strong_explicit(&catalog->groups[group].state, &open, GROUP_CLOSED,
		memory_order_seq_cst, memory_order_relaxed);
}

static bool column_is_moving(const struct catalog *catalog, struct catalog_column *column)
{
	uint32_t node = catalog_column_node(column);
	return atomic_load_explicit(&column->lost, memory_order_acquire) != 0 ||
	       atomic_load_explicit(&column->repair, memory_order_acquire) != 0 ||
	       atomic_load_explicit(&catalog->nodes[node].draining, memory_order_acquire) != 0;
}

void column_open_group(struct catalog *catalog, uint32_t group)
{
	struct catalog_group *g = &catalog->groups[group];
	uint32_t closed = GROUP_CLOSED;
	if (!column_group_good(catalog, group))
		return;
	for (unsigned p = 0; p < (unsigned)g->k + g->m && p < EC_N_MAX; p++)
		if (column_is_moving(catalog, &g->columns[p]))
			return; /* C1 */
	atomic_compare_exchange_strong_explicit(
		&g->state, &closed, GROUP_OPEN, memory_order_seq_cst, memory_order_relaxed);
}

void column_lose(struct catalog *catalog, uint32_t group, uint32_t position)
{
	struct catalog_column *column = &catalog->groups[group].columns[position];
	column_close_group(catalog, group); /* C1: first */
	atomic_store_explicit(&column->lost, 1, memory_order_release);
	uint32_t repair = atomic_load_explicit(&column->repair, memory_order_relaxed);
	if (repair != 0 && repair <= CATALOG_REPAIRS_MAX)
		catalog->repairs[repair - 1].kind = REPAIR_DECODE;
}

/* Given up (ABORTING, ABORTED) a merge adds nothing; SWITCHING, its records are there. */
static bool column_merges(const struct catalog *catalog, uint32_t group)
{
	for (unsigned i = 0; i < CATALOG_MERGES_MAX; i++) {
		uint32_t phase =
			atomic_load_explicit(&catalog->merges[i].phase, memory_order_seq_cst);
		if ((phase == MERGE_CLAIMING || phase == MERGE_CLAIMED ||
			    phase == MERGE_PREPARING || phase == MERGE_COMMITTED) &&
			catalog->merges[i].group == group)
			return true;
	}
	return false;
}

bool column_quiet(const struct catalog *catalog, uint32_t group)
{
	if (atomic_load_explicit(&catalog->groups[group].state, memory_order_seq_cst) == GROUP_OPEN)
		return false;
	for (unsigned i = 0; i < CATALOG_THREADS_MAX; i++)
		if (atomic_load_explicit(&catalog->threads[i].storing, memory_order_seq_cst) ==
			group + 1)
			return false;
	return !column_merges(catalog, group);
}

void column_evacuate_group(struct catalog *catalog, uint32_t group)
{
	_Atomic uint32_t *state = &catalog->groups[group].state;
	uint32_t closed = GROUP_CLOSED;
	column_close_group(catalog, group);
	atomic_compare_exchange_strong_explicit(
		state, &closed, GROUP_EVACUATE, memory_order_seq_cst, memory_order_relaxed);
}

void column_keep_group(struct catalog *catalog, uint32_t group)
{
	uint32_t evacuate = GROUP_EVACUATE;
	atomic_compare_exchange_strong_explicit(&catalog->groups[group].state, &evacuate,
		GROUP_CLOSED, memory_order_seq_cst, memory_order_relaxed);
}

bool column_retire_group(struct catalog *catalog, uint32_t group)
{
	struct catalog_group *g = &catalog->groups[group];
	uint32_t evacuate = GROUP_EVACUATE;
	if (!column_group_good(catalog, group) || !column_quiet(catalog, group))
		return false;
	for (unsigned p = 0; p < (unsigned)g->k + g->m && p < EC_N_MAX; p++)
		if (atomic_load_explicit(&g->columns[p].used, memory_order_acquire) != 0 ||
			atomic_load_explicit(&g->columns[p].repair, memory_order_relaxed) != 0)
			return false;
	return atomic_compare_exchange_strong_explicit(
		&g->state, &evacuate, GROUP_RETIRED, memory_order_seq_cst, memory_order_relaxed);
}

bool column_heal(struct catalog *catalog, uint32_t ssid)
{
	uint32_t wanted = ssid + 1;
	for (unsigned i = 0; i < CATALOG_HEAL_MAX; i++)
		if (atomic_load_explicit(&catalog->heal[i], memory_order_relaxed) == wanted)
			return false;
	for (unsigned i = 0; i < CATALOG_HEAL_MAX; i++) {
		uint32_t none = 0;
		if (atomic_compare_exchange_strong_explicit(&catalog->heal[i], &none, wanted,
			    memory_order_release, memory_order_relaxed))
			return true;
	}
	return false;
}

/* ---- a column's replacement ---- */

static struct catalog_column *job_column(const struct column_job *job)
{
	return &job->catalog->groups[job->group].columns[job->position];
}

static struct catalog_repair *job_repair(const struct column_job *job)
{
	return &job->catalog->repairs[job->repair];
}

/* The free entry that has been so for longest: a reader that still looks for the last repair of it
 * does not take this one for it. */
static uint32_t repair_pick(const struct catalog *catalog)
{
	uint32_t best = COLUMN_NO_REPAIR;
	uint64_t best_ns = UINT64_MAX;
	for (uint32_t i = 0; i < CATALOG_REPAIRS_MAX; i++) {
		const struct catalog_repair *entry = &catalog->repairs[i];
		uint64_t at_ns = atomic_load_explicit(&entry->started_ns, memory_order_relaxed);
		if (atomic_load_explicit(&entry->active, memory_order_relaxed) == 0 &&
			at_ns < best_ns) {
			best = i;
			best_ns = at_ns;
		}
	}
	return best;
}

static void job_make(struct column_job *job, struct catalog *catalog, uint32_t group,
	uint32_t position, uint32_t repair)
{
	const struct catalog_group *g = &catalog->groups[group];
	*job = (struct column_job){.catalog = catalog,
		.group = group,
		.position = position,
		.repair = repair,
		.k = g->k,
		.m = g->m,
		.slot_count = g->slot_count,
		.was_quiet = column_quiet(catalog, group)};
}

static void repair_fill(struct column_job *job, enum catalog_repair_kind kind)
{
	struct catalog_repair *entry = job_repair(job);
	struct catalog_column *column = job_column(job);
	_Atomic uint64_t *bits = catalog_done_bits(job->catalog, job->repair);
	for (uint32_t i = 0; i < (job->slot_count + 63) / 64; i++)
		atomic_store_explicit(&bits[i], 0, memory_order_relaxed);
	entry->group = job->group;
	entry->position = job->position;
	entry->kind = kind;
	entry->generation = atomic_load_explicit(&column->generation, memory_order_relaxed);
	atomic_store_explicit(&entry->doubt, 0, memory_order_relaxed);
	atomic_store_explicit(&entry->done_count, 0, memory_order_relaxed);
	atomic_store_explicit(&entry->total_count,
		atomic_load_explicit(&column->used, memory_order_relaxed), memory_order_relaxed);
	atomic_store_explicit(&entry->active, 1, memory_order_release);
}

int column_begin(struct column_job *job, struct catalog *catalog, uint32_t group, uint32_t position,
	enum catalog_repair_kind kind, const struct catalog_place *next)
{
	if (!column_group_good(catalog, group) ||
		position >= (uint32_t)catalog->groups[group].k + catalog->groups[group].m ||
		atomic_load(&catalog->groups[group].state) == GROUP_OPEN)
		return -EPROTO;
	struct catalog_column *column = &catalog->groups[group].columns[position];
	if (atomic_load_explicit(&column->repair, memory_order_acquire) != 0)
		return -EBUSY;
	uint32_t repair = repair_pick(catalog);
	if (repair == COLUMN_NO_REPAIR || FAULT_POINT("column.begin"))
		return -EAGAIN;
	job_make(job, catalog, group, position, repair);
	if (job->slot_count > CATALOG_SLOTS_MAX || job->k < 1 || job->k > EC_K_MAX ||
		job->m > EC_M_MAX)
		return -EPROTO; /* changed since it was looked at */
	uint32_t generation = atomic_load_explicit(&column->generation, memory_order_relaxed);
	column->places[(generation + 1) & 1] = *next;
	repair_fill(job, kind);
	atomic_thread_fence(memory_order_seq_cst);
	atomic_store_explicit(&column->repair, repair + 1, memory_order_release);
	return 0;
}

static bool repair_names_column(const struct catalog *catalog, uint32_t repair)
{
	const struct catalog_repair *entry = &catalog->repairs[repair];
	uint32_t group = entry->group, position = entry->position;
	return column_group_good(catalog, group) &&
	       position < (uint32_t)catalog->groups[group].k + catalog->groups[group].m &&
	       (entry->kind == REPAIR_DECODE || entry->kind == REPAIR_COPY) &&
	       atomic_load_explicit(&catalog->groups[group].state, memory_order_acquire) !=
		       GROUP_OPEN &&
	       atomic_load_explicit(&catalog->groups[group].columns[position].repair,
		       memory_order_acquire) == repair + 1;
}

int column_resume(struct column_job *job, struct catalog *catalog, uint32_t repair)
{
	if (repair >= CATALOG_REPAIRS_MAX ||
		atomic_load_explicit(&catalog->repairs[repair].active, memory_order_acquire) == 0)
		return -ENOENT;
	struct catalog_repair *entry = &catalog->repairs[repair];
	if (!repair_names_column(catalog, repair)) {
		atomic_store_explicit(&entry->active, 0, memory_order_release);
		return -EPROTO;
	}
	job_make(job, catalog, entry->group, entry->position, repair);
	if (atomic_load_explicit(&job_column(job)->generation, memory_order_acquire) !=
		entry->generation)
		return -EALREADY;
	atomic_store_explicit(&entry->doubt, 1, memory_order_release);
	return 0;
}

static bool job_is_done(const struct column_job *job, uint32_t slot)
{
	const _Atomic uint64_t *bits = catalog_done_bits(job->catalog, job->repair);
	return ((atomic_load_explicit(&bits[slot / 64], memory_order_acquire) >> (slot % 64)) &
		       1) != 0;
}

unsigned column_batch(struct column_job *job, struct column_entry *entries, unsigned max,
	unsigned look, bool *at_end)
{
	uint32_t end = column_records(job->catalog);
	unsigned count = 0;
	*at_end = false;
	if (!job->was_quiet) {
		job->was_quiet = column_quiet(job->catalog, job->group);
		if (!job->was_quiet)
			return 0;
		job->cursor = 0; /* what was seen before says nothing */
		job->undone = false;
	}
	for (; job->cursor < end && look > 0 && count < max; job->cursor++, look--) {
		uint32_t gen;
		struct column_entry *entry = &entries[count];
		if (!column_read_record(job->catalog, job->group, job->cursor, entry, &gen) ||
			entry->slot[job->position] >= job->slot_count ||
			job_is_done(job, entry->slot[job->position]))
			continue;
		job->undone = true;
		count++;
	}
	*at_end = job->ended = job->cursor >= end;
	return count;
}

void column_done(struct column_job *job, uint32_t slot)
{
	FM_ASSERT_LT(slot, job->slot_count);
	uint64_t bit = 1ull << (slot % 64);
	_Atomic uint64_t *bits = catalog_done_bits(job->catalog, job->repair);
	/* Release: partner is lane_next; the bytes were stored before the node answered. */
	uint64_t before = atomic_fetch_or_explicit(&bits[slot / 64], bit, memory_order_release);
	if ((before & bit) == 0)
		atomic_fetch_add_explicit(&job_repair(job)->done_count, 1, memory_order_relaxed);
}

const struct catalog_place *column_source(
	const struct catalog *catalog, uint32_t group, uint32_t position, uint32_t slot)
{
	struct catalog_column *column = &catalog->groups[group].columns[position];
	uint32_t generation = atomic_load_explicit(&column->generation, memory_order_acquire);
	uint32_t repair = atomic_load_explicit(&column->repair, memory_order_acquire);
	const struct catalog_place *cur = &column->places[generation & 1];
	const struct catalog_place *next = &column->places[(generation + 1) & 1];
	const struct column_job view = {
		.catalog = (struct catalog *)(uintptr_t)catalog, .repair = repair - 1};
	uint32_t state = atomic_load_explicit(
		&catalog->nodes[cur->node % CATALOG_NODES_MAX].state, memory_order_acquire);
	if (atomic_load_explicit(&column->lost, memory_order_acquire) == 0 && state != NODE_DOWN)
		return cur;
	if (repair == 0 || repair > CATALOG_REPAIRS_MAX || slot >= CATALOG_SLOTS_MAX ||
		!job_is_done(&view, slot))
		return NULL;
	state = atomic_load_explicit(
		&catalog->nodes[next->node % CATALOG_NODES_MAX].state, memory_order_acquire);
	return state == NODE_DOWN ? NULL : next;
}

bool column_complete(struct column_job *job)
{
	/* Quiet once is quiet for good: the group stays closed until after the commit. What became
	 * a record since is of other groups. */
	bool complete = job->was_quiet && job->ended && !job->undone;
	job->cursor = 0;
	job->undone = job->ended = false;
	return complete;
}

/* ---- ends ---- */

void column_renew(struct column_job *job, const struct catalog_place *next)
{
	struct catalog_column *column = job_column(job);
	uint32_t generation = atomic_load_explicit(&column->generation, memory_order_relaxed);
	/* Readers stay away while it is rewritten. One that slept through all of this may have a
	 * mixture of two capabilities of one lease, which the node refuses. */
	atomic_store_explicit(&column->repair, 0, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	column->places[(generation + 1) & 1] = *next;
	atomic_store_explicit(&job_repair(job)->doubt, 0, memory_order_relaxed);
	atomic_store_explicit(&column->repair, job->repair + 1, memory_order_release);
}

void column_commit(struct column_job *job, struct catalog_place *old)
{
	struct catalog_column *column = job_column(job);
	struct catalog_repair *entry = job_repair(job);
	uint32_t generation = entry->generation;
	*old = column->places[generation & 1];
	atomic_store_explicit(&column->generation, generation + 1, memory_order_release);
	atomic_store_explicit(&column->lost, 0, memory_order_release);
	atomic_store_explicit(&column->repair, 0, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	atomic_store_explicit(&entry->active, 0, memory_order_release);
	job->repair = COLUMN_NO_REPAIR;
}

void column_abort(struct column_job *job, struct catalog_place *next)
{
	struct catalog_column *column = job_column(job);
	struct catalog_repair *entry = job_repair(job);
	*next = column->places[(entry->generation + 1) & 1];
	atomic_store_explicit(&column->repair, 0, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
	atomic_store_explicit(&entry->active, 0, memory_order_release);
	job->repair = COLUMN_NO_REPAIR;
}
