/*
 * farmem/agent/agent_evacuate.c: groups that are given up: everything in them is written to other
 * groups by the runtime (repack), and when they are empty their leases go back.
 *
 *     OPEN, CLOSED --no host for a lost or leaving column--> EVACUATE --empty--> RETIRED
 *     OPEN         --hosts are enough for a wider code-----> EVACUATE
 *     EVACUATE     --all its columns are there again, and none wider is possible--> CLOSED, OPEN
 *
 * Invariants
 *   1. No group is given up unless another one is open or can be reserved: there must be somewhere
 *      to go.
 *   2. For want of hosts: only when a narrower code with redundancy is possible. A group that would
 *      be less safe elsewhere stays as it is.
 *   3. For more width: a few at a time, the least safe first, and only when hosts have been enough
 *      for a while. Hosts that come and go move nothing.
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "farmem/agent/agent_repair.h"

#define WIDEN_MAX 2                    /* groups of a runtime at once */
#define WIDEN_SETTLE_NS (4 * NS_PER_S) /* hosts must have been enough for so long */

static uint32_t group_state(const struct agent_runtime *runtime, unsigned group)
{
	return atomic_load_explicit(&runtime->catalog.groups[group].state, memory_order_acquire);
}

/* Invariant 1. */
static bool somewhere_to_go(struct agent_runtime *runtime, unsigned group, struct option_code *code)
{
	unsigned hosts;
	if (groups_code_now(runtime, code, &hosts) == 0)
		return true;
	for (unsigned g = 0; g < runtime->groups_count; g++)
		if (g != group && group_state(runtime, g) == GROUP_OPEN) {
			*code = (struct option_code){runtime->groups[g].k, runtime->groups[g].m};
			return true;
		}
	return false;
}

void evacuate_group(struct agent_runtime *runtime, unsigned index)
{
	const struct agent_group *group = &runtime->groups[index];
	struct repair_group *state = repair_group_at(runtime, index);
	struct option_code code;
	unsigned lost = 0;
	if (group_state(runtime, index) == GROUP_EVACUATE || group->retired)
		return;
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
		lost += group->columns[p].lost;
	/* Invariant 2: what is left of this group, or that code: which survives more? A drain may
	 * as well go where it survives as much. */
	if (lost > group->m || !somewhere_to_go(runtime, index, &code) ||
		code.m + (lost == 0) <= group->m - lost) {
		if (!state->keep_said)
			runtime_notice(runtime->source.agent, runtime, LOG_WARN,
				"no other host for a column of group %u, and no better place for "
				"what is in it: it stays as it is",
				index);
		state->keep_said = true;
		return;
	}
	log_warn("agent: evacuate pid=%lld group=%u code=%u+%u lost=%u", (long long)runtime->pid,
		index, group->k, group->m, lost);
	column_evacuate_group(&runtime->catalog, index);
	repair_send_work(runtime);
}

/* ---- hosts are enough again ---- */

static bool is_narrower(const struct agent_group *group, const struct option_code *code)
{
	return (unsigned)group->k + group->m < code->k + code->m;
}

/* The least safe of the groups that could be wider, or -1. */
static int widen_pick(const struct agent_runtime *runtime, const struct option_code *code)
{
	int best = -1;
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		const struct agent_group *group = &runtime->groups[g];
		const struct agent_group *other = best >= 0 ? &runtime->groups[best] : NULL;
		uint32_t state = group_state(runtime, g);
		if (group->retired || (state != GROUP_OPEN && state != GROUP_CLOSED) ||
			!is_narrower(group, code))
			continue;
		if (other == NULL || group->m < other->m ||
			(group->m == other->m && group->k > other->k))
			best = (int)g;
	}
	return best;
}

static void widen(struct agent_runtime *runtime, unsigned evacuating, uint64_t now_ns)
{
	struct repair_runtime *all = runtime->repair;
	struct option_code code;
	unsigned hosts;
	if (all == NULL || nodes_settling(runtime->source.agent, now_ns) ||
		groups_code_now(runtime, &code, &hosts) != 0 || widen_pick(runtime, &code) < 0) {
		if (all != NULL)
			all->narrow_ns = 0;
		return;
	}
	if (all->narrow_ns == 0)
		all->narrow_ns = now_ns;
	if (now_ns - all->narrow_ns < WIDEN_SETTLE_NS)
		return;
	for (; evacuating < WIDEN_MAX; evacuating++) {
		int group = widen_pick(runtime, &code);
		if (group < 0)
			return;
		log_info("agent: evacuate pid=%lld group=%d code=%u+%u possible=%u+%u",
			(long long)runtime->pid, group, runtime->groups[group].k,
			runtime->groups[group].m, code.k, code.m);
		column_evacuate_group(&runtime->catalog, (uint32_t)group);
		repair_send_work(runtime);
	}
}

/* ---- groups on their way out ---- */

/* It was given up for want of a host, and a host came. */
static bool is_well_again(const struct agent_runtime *runtime, unsigned index)
{
	const struct agent_group *group = &runtime->groups[index];
	const struct option_code *wish = &runtime->wish;
	if (group->k != wish->k || group->m != wish->m)
		return false;
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
		if (group->columns[p].lost || drain_wants(runtime, index, p) ||
			repair_of(runtime, index, p) != NULL)
			return false;
	return true;
}

static bool group_has_repair(const struct agent_runtime *runtime, unsigned index)
{
	const struct agent_group *group = &runtime->groups[index];
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
		if (repair_of(runtime, index, p) != NULL)
			return true;
	return false;
}

static void evacuate_runtime(struct agent_runtime *runtime, uint64_t now_ns)
{
	struct agent *agent = runtime->source.agent;
	unsigned evacuating = 0;
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		if (runtime->groups[g].retired || group_state(runtime, g) != GROUP_EVACUATE)
			continue;
		if (is_well_again(runtime, g)) {
			column_keep_group(&runtime->catalog, g);
			column_open_group(&runtime->catalog, g);
			runtime->tell_groups = true;
		} else if (!group_has_repair(runtime, g) &&
			   column_retire_group(&runtime->catalog, g)) {
			AGENT_DIE("repair.retired");
			log_info("agent: retired pid=%lld group=%u", (long long)runtime->pid, g);
			groups_retire(runtime, g);
			for (unsigned i = 0; i < agent->members_count; i++)
				member_flush_releases(&agent->members[i]);
		} else {
			evacuating++;
		}
	}
	if (evacuating > 0)
		repair_send_work(runtime); /* it may have stopped for want of room */
	widen(runtime, evacuating, now_ns);
}

void evacuate_tick(struct agent *agent, uint64_t now_ns)
{
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			evacuate_runtime(agent->runtimes[i], now_ns);
}
