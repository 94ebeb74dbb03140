/*
 * farmem/agent/agent_drain.c: nodes that are to be left: because somebody said so (`farmem drain`),
 * or because the node itself does (SIGTERM: Load.draining in its keepalives).
 *
 * All there is to do here is to say which: catalogs show the node as draining, groups with a column
 * there are closed, and agent_repair.c replaces those columns by copies. The old leases go back
 * with each commit; when the last is gone, so may the node.
 *
 * Invariants
 *   1. A drain never degrades: reads stay where they are until the copy is whole.
 *   2. A column that has no other host stays, unless its group may be evacuated into a narrower
 *      code (agent_evacuate.c); either is said once.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "farmem/agent/agent_repair.h"

bool drain_wants(const struct agent_runtime *runtime, unsigned group, unsigned position)
{
	const struct agent *agent = runtime->source.agent;
	const struct agent_column *column = &runtime->groups[group].columns[position];
	const struct agent_node *node = &agent->nodes[column->node];
	return !column->lost && node->state != NODE_DOWN &&
	       agent->members[node->member].node == (int)column->node &&
	       member_is_draining(&agent->members[node->member]);
}

static bool group_drains(const struct agent_runtime *runtime, unsigned group)
{
	const struct agent_group *g = &runtime->groups[group];
	for (unsigned p = 0; p < (unsigned)g->k + g->m; p++)
		if (drain_wants(runtime, group, p))
			return true;
	return false;
}

static void show_draining(struct agent_member *member)
{
	struct agent *agent = member->agent;
	for (unsigned i = 0; i < agent->runtimes_count && member->node >= 0; i++)
		if (agent->runtimes[i]->attached)
			atomic_store_explicit(
				&agent->runtimes[i]->catalog.nodes[member->node].draining,
				member_is_draining(member), memory_order_release);
}

/* Copies that nobody wants any more. */
static void abort_copies(struct agent *agent)
{
	struct repair_agent *all = agent->repair;
	for (unsigned i = all != NULL ? all->count : 0; i-- > 0;) {
		struct repair *repair = all->repairs[i];
		if (repair->phase == REPAIR_RESERVING ||
			repair->runtime->groups[repair->group].columns[repair->position].lost ||
			drain_wants(repair->runtime, repair->group, repair->position))
			continue;
		repair_abort(repair, "the drain was cancelled", false);
	}
}

/* Closes what drains, opens what does not any more. */
static void drain_groups(struct agent_runtime *runtime)
{
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		if (runtime->groups[g].retired)
			continue;
		uint32_t state = atomic_load_explicit(
			&runtime->catalog.groups[g].state, memory_order_acquire);
		if (state == GROUP_OPEN && group_drains(runtime, g))
			column_close_group(&runtime->catalog, g);
		else if (state == GROUP_CLOSED)
			column_open_group(&runtime->catalog, g);
	}
}

static void drain_changed(struct agent_member *member, bool was)
{
	struct agent *agent = member->agent;
	bool is = member_is_draining(member);
	if (is == was)
		return;
	log_info("agent: drain node=%s begin=%d", member->name, is);
	show_draining(member);
	if (!is)
		abort_copies(agent);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			drain_groups(agent->runtimes[i]);
	repair_poke(agent);
}

void drain_said(struct agent_member *member, bool draining)
{
	bool was = member_is_draining(member);
	member->drain_said = draining;
	drain_changed(member, was);
}

int drain_request(struct agent *agent, const char *name, bool begin)
{
	for (unsigned i = 0; i < agent->members_count; i++) {
		struct agent_member *member = &agent->members[i];
		if (strcmp(member->name, name) != 0)
			continue;
		bool was = member_is_draining(member);
		if (member->drain_asked == begin)
			return -EALREADY;
		member->drain_asked = begin;
		drain_changed(member, was);
		return 0;
	}
	return -ENOENT;
}

void drain_tick(struct agent *agent, uint64_t now_ns)
{
	(void)now_ns;
	/* A runtime that came since, a node that joined again. */
	for (unsigned i = 0; i < agent->members_count; i++)
		if (agent->members[i].node >= 0)
			show_draining(&agent->members[i]);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			drain_groups(agent->runtimes[i]);
}
