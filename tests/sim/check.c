/*
 * tests/sim/check.c: everything at once, while nobody moves: the invariants of span.h, record.h,
 * slot.h and stripe.h, against the bytes the program must see and the bytes the nodes really hold.
 */
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "ec/ec_slow.h"
#include "farmem/lane.h"
#include "farmem/record.h"
#include "farmem/slot.h"
#include "tests/sim/sim.h"

#define CHECK_RECORDS_MAX 16384

static uint32_t references[CHECK_RECORDS_MAX]; /* bit per position somebody names */
static uint64_t taken[SIM_NODES_MAX * 16][EC_N_MAX]
		     [64]; /* group, pos: bits some record or doubt explains */

struct check_counts {
	int64_t near, staging, far, retained;
};

static void check_reference(uint32_t page, uint32_t ssid, uint32_t pos)
{
	if (ssid >= sim.core.reclaim.fresh)
		sim_fail("page %u names record %u, which was never used", page, ssid);
	struct record r = record_at(&sim.core, ssid_make(ssid));
	uint64_t hdr = record_load(r);
	struct sim_pair_view pair;
	enum sim_role part = sim_merge_part(ssid, &pair);
	if (record_hdr_state(hdr) != RECORD_STABLE &&
		!(record_hdr_state(hdr) == RECORD_CLAIMED && part != SIM_ROLE_NONE))
		sim_fail("page %u names record %u in state %u", page, ssid, record_hdr_state(hdr));
	if (record_owner(r, pos) != page)
		sim_fail("page %u names record %u position %u, owned by page %u", page, ssid, pos,
			record_owner(r, pos));
	if (!(record_hdr_live(hdr) & 1u << pos))
		sim_fail("page %u names record %u position %u, which is dead", page, ssid, pos);
	if (references[ssid] & 1u << pos)
		sim_fail("record %u position %u is named twice (page %u)", ssid, pos, page);
	references[ssid] |= 1u << pos;
}

static void check_bytes(uint32_t index, const uint8_t *bytes, const char *where)
{
	if (!sim_page_is_lost(index) && !sim_page_good(index, bytes))
		sim_fail("page %u %s does not hold what the program wrote", sim_program_page(index),
			where);
}

static void check_evicting(struct check_counts *n, uint32_t index, struct span_word w)
{
	uint32_t page = sim_program_page(index);
	unsigned stripe = stripe_of_page(sim.scenario.stripes, page);
	struct stripe *st = &sim.stripes[stripe];
	uint32_t slot = span_ssid(w);
	if (span_flags(w) != 0)
		sim_fail("page %u is EVICTING with flags %x while nobody works on it", page,
			span_flags(w));
	if (st->slots[slot].page != page || !sim_staged(stripe, slot))
		sim_fail("page %u is EVICTING but not in staging slot %u", page, slot);
	check_bytes(index, stripe_staged_bytes(st, slot), "in staging");
	uint64_t reference = stage_reference(st, slot);
	if (reference != STAGE_NO_REFERENCE) {
		n->retained++;
		check_reference(page, (uint32_t)reference, (uint32_t)(reference >> 32));
	}
}

static void check_word(struct check_counts *n, uint32_t index)
{
	uint32_t page = sim_program_page(index);
	struct span_word w = span_load(sim.core.catalog.words, (struct page_id){page});
	const struct sim_page *p = sim_page(page);
	static const uint8_t zeros[FM_PAGE_SIZE];
	bool must = false;
	n->near += p->present;
	switch (span_state(w)) {
	case SPAN_EMPTY:
		check_bytes(index, zeros, "(EMPTY)");
		break;
	case SPAN_NEAR:
		must = true;
		if (span_flags(w) & SPAN_HAS_FAR) {
			n->retained++;
			check_reference(page, span_ssid(w), span_pos(w));
		}
		break;
	case SPAN_EVICTING:
		must = !sim.moves;
		check_evicting(n, index, w);
		break;
	case SPAN_FAR:
		n->far++;
		check_reference(page, span_ssid(w), span_pos(w));
		break;
	case SPAN_LOST:
		if (!sim_page_is_lost(index))
			sim_fail("page %u is LOST and nobody was told", page);
		break;
	default:
		sim_fail("page %u is %s while nobody works on it", page,
			span_state_name(span_state(w)));
	}
	if (p->present != must)
		sim_fail("page %u is %s and %s", page, span_state_name(span_state(w)),
			p->present ? "present" : "missing");
	if (p->present)
		check_bytes(index, sim_page_bytes(page), "near");
	if (p->poisoned && span_state(w) != SPAN_LOST)
		sim_fail("page %u is %s and poisoned", page, span_state_name(span_state(w)));
}

/* ---- records ---- */

static void check_taken(uint32_t group, unsigned pos, uint32_t slot, uint32_t ssid)
{
	FM_ASSERT_LT(group, FM_ARRAY_COUNT(taken));
	FM_ASSERT_LT(slot, 64 * 64);
	uint64_t *word = &taken[group][pos][slot / 64];
	if (*word & 1ull << (slot % 64))
		sim_fail("slot %u of group %u position %u is used twice (record %u)", slot, group,
			pos, ssid);
	if (!slot_is_used(&sim.core, group_id_make(group), pos, slot))
		sim_fail("slot %u of group %u position %u is free and used by record %u", slot,
			group, pos, ssid);
	*word |= 1ull << (slot % 64);
}

static const uint8_t *check_place(const struct catalog_place *place, uint32_t slot)
{
	const struct sim_lease *l = sim_lease_at(place);
	if (l == NULL || !sim_node_of(place->node)->alive || l->flipped[slot])
		return NULL;
	return l->memory + (uint64_t)slot * sim_slot_bytes(l->group);
}

/* A piece as a node holds it, or NULL when it is known to be damaged. Where a reader would look. */
static const uint8_t *check_piece(uint32_t group, unsigned pos, uint32_t slot)
{
	const struct catalog *c = &sim.core.catalog;
	const struct catalog_column *column = &c->groups[group].columns[pos];
	uint32_t generation = atomic_load(&column->generation);
	uint32_t repair = atomic_load(&column->repair);
	if (!atomic_load(&column->lost))
		return check_place(&column->places[generation & 1], slot);
	if (repair == 0 ||
		!(atomic_load(&catalog_done_bits(c, repair - 1)[slot / 64]) >> (slot % 64) & 1))
		return NULL;
	return check_place(&column->places[(c->repairs[repair - 1].generation + 1) & 1], slot);
}

/* Rebuilds what is missing from what there is: by ISA-L, now and then by the obviously right twin.
 */
static void check_rebuild(const struct ec_slow_shape *shape, uint32_t have, uint8_t **pieces)
{
	unsigned n = shape->k + shape->m;
	uint32_t missing = ~have & ((1u << n) - 1);
	const uint8_t *sources[EC_K_MAX];
	uint8_t *out[EC_N_MAX];
	struct ec_plan plan;
	int rc;
	if (sim_below(64) == 0) {
		rc = ec_slow_rebuild(shape, have, pieces);
		FM_ASSERT_EQ(rc, 0);
		return;
	}
	if (missing == 0)
		return;
	rc = ec_plan_init(&plan, core_code(&sim.core, shape->k, shape->m), have, missing);
	FM_ASSERT_EQ(rc, 0);
	for (unsigned i = 0; i < plan.source_count; i++)
		sources[i] = pieces[plan.sources[i]];
	for (unsigned i = 0; i < plan.wanted_count; i++)
		out[i] = pieces[plan.wanted[i]];
	ec_rebuild(&plan, shape->length, sources, out);
}

static void check_encode(const struct ec_slow_shape *shape, uint8_t **pieces, uint8_t **parity)
{
	uint8_t *all[EC_N_MAX];
	const uint8_t *data[EC_K_MAX];
	for (unsigned pos = 0; pos < shape->k + shape->m; pos++)
		all[pos] = pos < shape->k ? pieces[pos] : parity[pos - shape->k];
	for (unsigned pos = 0; pos < shape->k; pos++)
		data[pos] = pieces[pos];
	if (sim_below(64) == 0)
		ec_slow_encode(shape, all);
	else
		ec_encode(core_code(&sim.core, shape->k, shape->m), shape->length, data, parity);
}

static void check_code(
	struct record r, uint32_t ssid, uint32_t group, uint8_t **pieces, uint32_t have)
{
	const struct catalog_group *g = &sim.core.catalog.groups[group];
	static uint8_t space[EC_M_MAX][FM_PAGE_SIZE];
	uint8_t *again[EC_M_MAX] = {space[0], space[1], space[2], space[3]};
	struct ec_slow_shape shape = {g->k, g->m, sim_slot_bytes(group)};
	check_rebuild(&shape, have, pieces);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (crc32c(pieces[pos], shape.length) != record_crc(r, pos))
			sim_fail("record %u position %u decodes to other bytes than were stored",
				ssid, pos);
	check_encode(&shape, pieces, again);
	for (unsigned i = 0; i < g->m; i++)
		if (memcmp(again[i], pieces[g->k + i], shape.length) != 0)
			sim_fail("record %u parity %u is not what its data encode to", ssid, i);
}

static void check_far_bytes(struct record r, unsigned k, uint32_t live, uint8_t **pieces)
{
	for (unsigned pos = 0; pos < k; pos++) {
		if (!(live & 1u << pos))
			continue;
		struct page_id id = {record_owner(r, pos)};
		struct span_word w = span_load(sim.core.catalog.words, id);
		if (span_state(w) == SPAN_FAR)
			check_bytes(sim_program_index(id.v), pieces[pos], "far");
	}
}

static void check_stable(uint32_t ssid, struct record r, uint64_t hdr)
{
	/* One behind the other: under `split` the data pieces are a page. */
	static uint8_t space[EC_N_MAX * FM_PAGE_SIZE];
	uint32_t group = record_hdr_group(hdr), have = 0, slot_bytes = sim_slot_bytes(group);
	const struct catalog_group *g = &sim.core.catalog.groups[group];
	uint8_t *pieces[EC_N_MAX];
	unsigned n = (unsigned)g->k + g->m;
	struct sim_pair_view pair;
	/* Of one that is being made, positions not settled yet are named through their sources. */
	uint32_t unsettled = sim_merge_part(ssid, &pair) == SIM_ROLE_N ? ~pair.settled : 0;
	if ((record_hdr_live(hdr) & ~unsettled) != references[ssid])
		sim_fail("record %u: live %x, named %x", ssid, record_hdr_live(hdr),
			references[ssid]);
	if (record_hdr_live(hdr) == 0)
		return; /* its columns may have been replaced without it */
	for (unsigned pos = 0; pos < n; pos++) {
		const uint8_t *bytes = check_piece(group, pos, record_slot(r, pos));
		pieces[pos] = space + pos * slot_bytes;
		if (bytes == NULL)
			continue;
		if (crc32c(bytes, slot_bytes) != record_crc(r, pos))
			sim_fail("record %u position %u: group %u slot %u holds other bytes", ssid,
				pos, group, record_slot(r, pos));
		have |= 1u << pos;
		memcpy(pieces[pos], bytes, slot_bytes);
	}
	if ((unsigned)__builtin_popcount(have) < g->k) {
		if ((unsigned)__builtin_popcount(sim_damage(group)) <= g->m)
			sim_fail("record %u: only %x of its positions are whole, damage %x", ssid,
				have, sim_damage(group));
		return;
	}
	check_code(r, ssid, group, pieces, have);
	check_far_bytes(r, g->k, references[ssid], pieces);
}

/* Positions whose slots are counted elsewhere: with the spanset that has taken them over. */
static uint32_t check_kept(uint32_t ssid, enum sim_role part, const struct sim_pair_view *pair)
{
	const struct reclaim *rc = &sim.core.reclaim;
	uint32_t kept = 0;
	if (part == SIM_ROLE_A || part == SIM_ROLE_B) {
		uint32_t data = (1u << sim.core.catalog.groups[pair->group].k) - 1;
		return part == SIM_ROLE_A ? data & ~pair->take : data & pair->take;
	}
	for (uint64_t i = rc->limbo_head; i != rc->limbo_tail; i++)
		if (rc->limbo[i % CORE_LIMBO_MAX].ssid.v == ssid)
			kept = rc->limbo[i % CORE_LIMBO_MAX].keep;
	return kept;
}

static void check_record(uint32_t ssid)
{
	struct record r = record_at(&sim.core, ssid_make(ssid));
	uint64_t hdr = record_load(r);
	enum record_state state = record_hdr_state(hdr);
	struct sim_pair_view pair = {0};
	enum sim_role part = sim_merge_part(ssid, &pair);
	uint32_t group = part != SIM_ROLE_NONE ? pair.group : record_hdr_group(hdr);
	const struct catalog_group *g = &sim.core.catalog.groups[group];
	bool merging = (part != SIM_ROLE_NONE && state == RECORD_CLAIMED) ||
		       (part == SIM_ROLE_N && state == RECORD_FILLING);
	if (state == RECORD_FREE)
		return;
	if (state != RECORD_STABLE && state != RECORD_LIMBO && !merging)
		sim_fail("record %u is left in state %u", ssid, state);
	uint32_t kept = check_kept(ssid, part, &pair);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (!(kept >> pos & 1))
			check_taken(group, pos, record_slot(r, pos), ssid);
	if (state == RECORD_STABLE || state == RECORD_CLAIMED)
		check_stable(ssid, r, hdr);
}

static void check_records(void)
{
	for (uint32_t i = 0; i < sim.core.reclaim.fresh; i++)
		check_record(i);
}

/* ---- slots ---- */

/* Bytes in quarantine. */
static uint64_t check_doubts(void)
{
	uint64_t bytes = 0;
	for (unsigned s = 0; s < sim.scenario.stripes; s++) {
		struct spanset_io *io = sim.stripes[s].io;
		for (unsigned i = 0; i < spanset_lane(io)->quarantine_count; i++) {
			const struct lane_doubt *d = &spanset_lane(io)->quarantine[i];
			check_taken(d->group, d->pos, d->slot, UINT32_MAX);
			bytes += sim_slot_bytes(d->group);
		}
	}
	return bytes;
}

static void check_slots(void)
{
	struct core *core = &sim.core;
	uint64_t doubts = check_doubts(), used = 0;
	for (uint32_t g = 0; g < atomic_load(&core->catalog.header->groups_count); g++) {
		const struct catalog_group *group = &core->catalog.groups[g];
		for (unsigned pos = 0; pos < (unsigned)group->k + group->m; pos++) {
			for (uint32_t slot = 0; slot < group->slot_count; slot++) {
				if (!slot_is_used(core, group_id_make(g), pos, slot))
					continue;
				used += sim_slot_bytes(g);
				if (!(taken[g][pos][slot / 64] >> (slot % 64) & 1))
					sim_fail("slot %u of group %u position %u leaked", slot, g,
						pos);
			}
		}
	}
	const struct catalog_stats *stats = core->catalog.stats;
	if (atomic_load(&stats->slots_used_bytes) != used)
		sim_fail("slots_used_bytes is off: %llu are used, the gauge says %llu",
			(unsigned long long)used,
			(unsigned long long)atomic_load(&stats->slots_used_bytes));
	if (atomic_load(&stats->slots_quarantined_bytes) != doubts)
		sim_fail("slots_quarantined_bytes is off: %llu, the gauge says %lld",
			(unsigned long long)doubts,
			(long long)atomic_load(&stats->slots_quarantined_bytes));
}

/* ---- groups and leases ---- */

static void check_group(uint32_t index)
{
	const struct catalog_group *g = &sim.core.catalog.groups[index];
	uint32_t state = atomic_load(&g->state);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		const struct catalog_column *c = &g->columns[pos];
		bool moving = atomic_load(&c->lost) != 0 || atomic_load(&c->repair) != 0;
		if (state == GROUP_OPEN && moving)
			sim_fail("group %u is open, and position %u of it lost or being replaced",
				index, pos);
		if (state == GROUP_RETIRED && atomic_load(&c->used) != 0)
			sim_fail("group %u is retired, and %u slots of position %u are in use",
				index, atomic_load(&c->used), pos);
	}
}

static bool check_is_named(const struct sim_lease *l)
{
	const struct catalog_group *g = &sim.core.catalog.groups[l->group];
	if (l->group >= atomic_load(&sim.core.catalog.header->groups_count) ||
		atomic_load(&g->state) == GROUP_RETIRED)
		return false;
	const struct catalog_column *c = &g->columns[l->pos];
	uint32_t generation = atomic_load(&c->generation);
	return sim_lease_at(&c->places[generation & 1]) == l ||
	       (atomic_load(&c->repair) != 0 &&
		       sim_lease_at(&c->places[(generation + 1) & 1]) == l);
}

/* Every host that is there has a column of the group, or is full (empty groups fill it when slots
 * cannot be taken, which a sweep makes happen): it must wait. */
static bool check_has_no_place(uint32_t group)
{
	uint32_t node;
	return sim_agent_lenders(group, &node, 1) == 0;
}

void sim_check_calm(void)
{
	for (uint32_t i = 0; i < atomic_load(&sim.core.catalog.header->groups_count); i++) {
		const struct catalog_group *g = &sim.core.catalog.groups[i];
		uint32_t state = atomic_load(&g->state);
		bool lost = state == GROUP_CLOSED;
		if (state == GROUP_RETIRED)
			continue;
		for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
			lost |= atomic_load(&g->columns[pos].lost) != 0;
		if (lost && check_has_no_place(i))
			continue;
		for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
			if (atomic_load(&g->columns[pos].lost) || sim_lease_of(i, pos) == NULL)
				sim_fail("all hosts are there, and position %u of group %u is not",
					pos, i);
		if (state == GROUP_CLOSED)
			sim_fail("all hosts are there, and group %u is closed", i);
	}
	for (uint32_t n = 0; n < sim.nodes_count; n++)
		for (uint32_t i = 0; sim.nodes[n].alive && i < sim.nodes[n].leases_count; i++) {
			const struct sim_lease *l = &sim.nodes[n].leases[i];
			if (l->held && !check_is_named(l))
				sim_fail("node %u holds a lease that nobody knows (once of group "
					 "%u position %u)",
					n, l->group, l->pos);
		}
	sim_merges_check_calm();
	/* A lease may be kept by nobody only where an agent died or an answer got lost. */
	const struct sim_scenario *s = &sim.scenario;
	bool excused = s->agent_every_ns + s->part_every_ns + s->slow_every_ns != 0 ||
		       sim.fault_text != NULL;
	if (!excused && sim.revoked != 0)
		sim_fail("%llu leases were not given back", (unsigned long long)sim.revoked);
	if (sim.scenario.never_degraded && atomic_load(&sim.core.catalog.stats->degraded_reads))
		sim_fail("%llu reads were degraded, and no node was down",
			(unsigned long long)atomic_load(&sim.core.catalog.stats->degraded_reads));
}

static void check_gauge(const char *name, int64_t counted, int64_t gauge)
{
	if (counted != gauge)
		sim_fail("%s is off: counted %lld, the gauge says %lld", name, (long long)counted,
			(long long)gauge);
}

static void check_budget(struct check_counts *n)
{
	const struct budget *b = &sim.core.budget;
	for (unsigned s = 0; s < sim.scenario.stripes; s++)
		for (uint32_t slot = 0; slot < sim.stripes[s].pager->staging_slots; slot++)
			n->staging += sim_staged(s, slot);
	check_gauge("near_pages", n->near, atomic_load(&b->near_pages));
	check_gauge("staging_pages", n->staging, atomic_load(&b->staging_pages));
	check_gauge("far_pages", n->far, atomic_load(&b->far_pages));
	check_gauge("retained_pages", n->retained, atomic_load(&b->retained_pages));
	/* What was flipped was told; nothing else may ever fail its CRC. */
	if (sim.flips == 0 && sim.fault_text == NULL &&
		atomic_load(&sim.core.catalog.stats->crc_mismatches) != 0)
		sim_fail("%llu reads met a wrong CRC, and nothing was flipped",
			(unsigned long long)atomic_load(&sim.core.catalog.stats->crc_mismatches));
}

void sim_check_all(void)
{
	struct check_counts n = {0, 0, 0, 0};
	sim.frozen = true;
	FM_ASSERT_LE(sim.core.reclaim.fresh, CHECK_RECORDS_MAX);
	memset(references, 0, sizeof(references));
	memset(taken, 0, sizeof(taken));
	for (uint32_t i = 0; i < sim.scenario.pages; i++)
		check_word(&n, i);
	check_records();
	check_slots();
	for (uint32_t i = 0; i < atomic_load(&sim.core.catalog.header->groups_count); i++)
		check_group(i);
	check_budget(&n);
	sim.checks++;
	sim.frozen = false;
	sim_say("checked: near %lld staging %lld far %lld retained %lld", (long long)n.near,
		(long long)n.staging, (long long)n.far, (long long)n.retained);
}

void sim_check_empty(void)
{
	for (uint32_t i = 0; i < sim.core.reclaim.fresh; i++) {
		uint64_t hdr = record_load(record_at(&sim.core, ssid_make(i)));
		/* The ring of dead records was full: repack finds it when there are more of them.
		 */
		if (record_hdr_state(hdr) == RECORD_STABLE && record_hdr_live(hdr) == 0 &&
			sim.fault_text != NULL && strncmp(sim.fault_text, "record.dead=", 12) == 0)
			continue;
		if (record_hdr_state(hdr) != RECORD_FREE)
			sim_fail("all memory was given back, record %u is in state %u, live %x", i,
				record_hdr_state(hdr), record_hdr_live(hdr));
	}
	check_gauge("near_pages (all given back)", 0, atomic_load(&sim.core.budget.near_pages));
	for (unsigned s = 0; s < sim.scenario.stripes; s++)
		check_gauge("slots in quarantine (all nodes answer)", 0,
			spanset_lane(sim.stripes[s].io)->quarantine_count);
}
