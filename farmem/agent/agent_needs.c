/*
 * farmem/agent/agent_needs.c: which column is to be replaced next, and where to.
 *
 * The most endangered first: groups with most columns lost, then those whose spans are read most
 * (each read of a lost column is a degraded one), then the fullest columns; what only drains comes
 * after everything that is lost.
 *
 * Caller: agent_repair.c.
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "farmem/agent/agent_repair.h"

#define HOST_RETRY_NS (500 * NS_PER_MS) /* after a look found no host for a column */
#define LATER_PATIENCE 4  /* times AGENT_REPLACE_PATIENCE_NS for hosts that are merely busy */
#define HEAT_STEP 64      /* below that all are alike */
#define RANK_USED_BITS 24 /* slots of a column; heat is above them, its sum less than 2^17 */

struct need {
	struct agent_runtime *runtime;
	unsigned group, position;
	uint64_t rank; /* 0: nothing is needed */
	bool spare;    /* the group can lose another column */
};

static bool group_is_hopeless(struct agent_runtime *runtime, unsigned index)
{
	const struct agent_group *group = &runtime->groups[index];
	struct repair_group *state = repair_group_at(runtime, index);
	unsigned sources = 0;
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
		sources += !group->columns[p].lost || repair_of(runtime, index, p) != NULL;
	if (sources >= group->k)
		return false;
	if (!state->hopeless_said)
		runtime_notice(runtime->source.agent, runtime, LOG_ERROR,
			"group %u has lost more than %u of its %u+%u columns: what only they held "
			"is lost",
			index, group->m, group->k, group->m);
	state->hopeless_said = true;
	return true;
}

static void need_in_group(
	struct agent_runtime *runtime, unsigned index, uint64_t now_ns, struct need *best)
{
	const struct agent_group *group = &runtime->groups[index];
	const unsigned n = (unsigned)group->k + group->m;
	const uint32_t state =
		atomic_load_explicit(&runtime->catalog.groups[index].state, memory_order_acquire);
	const uint64_t heat = repair_group_at(runtime, index)->heat / HEAT_STEP;
	uint64_t lost = 0;
	if (group->retired || now_ns < repair_group_at(runtime, index)->not_before_ns)
		return;
	for (unsigned p = 0; p < n; p++)
		lost += group->columns[p].lost;
	for (unsigned p = 0; p < n; p++) {
		bool is_lost = group->columns[p].lost;
		if (!is_lost && !drain_wants(runtime, index, p))
			continue;
		uint32_t used = atomic_load_explicit(
			&runtime->catalog.groups[index].columns[p].used, memory_order_relaxed);
		uint64_t rank = (uint64_t)is_lost << 62 | lost << 48 | heat << RANK_USED_BITS |
				(used + 1ull);
		/* Nothing is in it and nothing comes any more. */
		if (used == 0 && state == GROUP_EVACUATE)
			continue;
		if (rank <= best->rank || repair_of(runtime, index, p) != NULL ||
			(is_lost && group_is_hopeless(runtime, index)))
			continue;
		*best = (struct need){runtime, index, p, rank, lost < group->m};
	}
}

/* No host for it now: for how long already? */
static void need_waits(const struct need *need, bool later, uint64_t now_ns)
{
	struct repair_group *group = repair_group_at(need->runtime, need->group);
	uint64_t patience_ns = (later ? LATER_PATIENCE : 1) * AGENT_REPLACE_PATIENCE_NS;
	group->not_before_ns = now_ns + HOST_RETRY_NS;
	if (group->hostless_ns == 0)
		group->hostless_ns = now_ns;
	if (now_ns - group->hostless_ns >= patience_ns)
		evacuate_group(need->runtime, need->group);
}

void needs_look(struct agent *agent, uint64_t now_ns)
{
	/* Each turn starts a repair or puts a group off, so it ends. */
	while (agent->repair->count < REPAIR_JOBS_MAX &&
		repair_working_count(agent) < REPAIR_WORKING_MAX) {
		struct need need = {0};
		bool later;
		for (unsigned r = 0; r < agent->runtimes_count; r++)
			for (unsigned g = 0; g < agent->runtimes[r]->groups_count; g++)
				need_in_group(agent->runtimes[r], g, now_ns, &need);
		if (need.rank == 0 ||
			(need.spare && repair_working_count(agent) >= throttle_columns(agent)))
			return;
		struct agent_member *member =
			groups_replacement(need.runtime, need.group, need.position, &later);
		if (member == NULL) {
			need_waits(&need, later, now_ns);
			continue;
		}
		repair_group_at(need.runtime, need.group)->hostless_ns = 0;
		repair_start(need.runtime, need.group, need.position, member);
		if (repair_of(need.runtime, need.group, need.position) == NULL)
			repair_group_at(need.runtime, need.group)->not_before_ns =
				now_ns + HOST_RETRY_NS;
	}
}

/* What is read halves from look to look, so that a group is hot for a few seconds. */
void needs_watch_heat(struct agent_runtime *runtime)
{
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		struct repair_group *group = repair_group_at(runtime, g);
		uint16_t now = atomic_load_explicit(
			&runtime->catalog.groups[g].heat, memory_order_relaxed);
		group->heat = group->heat / 2 + (uint16_t)(now - group->heat_seen);
		group->heat_seen = now;
	}
}
