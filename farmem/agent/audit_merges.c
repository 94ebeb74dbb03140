/*
 * farmem/agent/audit_merges.c: what compaction does to the books (catalog.h, struct catalog_merge):
 * slots that were taken for new parities and are in no record yet, and slots that a merged spanset
 * shares with those it was made of. Called by audit_look.
 */
#include "farmem/agent/audit.h"

/* The runtime is at work on an entry: it may be taking or giving back slots. While the agent is
 * (CLAIMED to ABORTING), nothing moves, and what was taken is known. */
static bool merges_at_work(uint32_t phase)
{
	return phase == MERGE_CLAIMING || phase == MERGE_ABORTED || phase == MERGE_COMMITTED ||
	       phase == MERGE_SWITCHING;
}

static bool merges_hold(uint32_t phase)
{
	return phase == MERGE_CLAIMED || phase == MERGE_PREPARING || phase == MERGE_ABORTING;
}

static uint32_t merges_phase(const struct audit *audit, uint32_t entry)
{
	return atomic_load_explicit(&audit->catalog.merges[entry].phase, memory_order_acquire);
}

void audit_merges_moving(struct audit *audit)
{
	for (uint32_t i = 0; i < CATALOG_MERGES_MAX; i++) {
		uint32_t phase = merges_phase(audit, i), group = audit->catalog.merges[i].group;
		if (group < audit->groups_count &&
			(merges_at_work(phase) || phase != audit->merges[i]))
			audit->groups[group].moving = true;
	}
}

void audit_merges_begin(struct audit *audit)
{
	for (uint32_t i = 0; i < CATALOG_MERGES_MAX; i++)
		audit->merges[i] = merges_phase(audit, i);
}

/* The fresh slots of a pair: no record names them. */
static void merges_name_pair(struct audit *audit, uint32_t group, const struct catalog_pair *pair)
{
	struct audit_group *g = &audit->groups[group];
	for (unsigned q = 0; q < g->m && q < EC_M_MAX; q++)
		if (pair->fresh[q] < g->slot_count)
			audit_name_slot(audit, group, g->k + q, pair->fresh[q], AUDIT_NONE);
}

void audit_merges_name(struct audit *audit)
{
	for (uint32_t i = 0; i < CATALOG_MERGES_MAX; i++) {
		const struct catalog_merge *merge = &audit->catalog.merges[i];
		const uint32_t group = merge->group, count = merge->count;
		if (!merges_hold(audit->merges[i]) || group >= audit->groups_count ||
			!audit->groups[group].known)
			continue;
		for (uint32_t p = 0; p < FM_MIN(count, (uint32_t)CATALOG_MERGE_PAIRS); p++)
			if (merge->pairs[p].n != CATALOG_NO_RECORD)
				merges_name_pair(audit, group, &merge->pairs[p]);
	}
}
