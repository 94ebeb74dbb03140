/*
 * tests/sim/agent.c: the agent: watches nodes, declares them suspect, up or down, keeps leases
 * alive, fills groups. What becomes of columns is in columns.c.
 *
 * Does what farmem/agent does to the catalog, on simulated time; an RPC is a call that takes a
 * round trip and may fail in the middle (nodes.c). It may be ended at any point (sim_agent_kill):
 * what it knew is gone then, and its successor has the catalog only.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/fault_point.h"
#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

#define MERGE_ROUNDS 24u

static struct catalog_node *agent_node(uint32_t i)
{
	return &sim.core.catalog.nodes[i];
}

static uint32_t agent_nodes(void)
{
	return atomic_load(&sim.core.catalog.header->nodes_count);
}

static bool agent_knows(uint32_t process)
{
	for (uint32_t i = 0; i < agent_nodes(); i++)
		if (sim.node_of[i] == process && atomic_load(&agent_node(i)->state) != NODE_DOWN)
			return true;
	return false;
}

/* Nodes that chaos started since, and those that come back after they were written off: they join
 * as new ones. */
static void agent_meet(void)
{
	struct catalog_header *h = sim.core.catalog.header;
	for (uint32_t i = 0; i < sim.nodes_count; i++) {
		uint32_t at = agent_nodes();
		struct catalog_node *n = agent_node(at);
		if (!sim.nodes[i].alive || sim.nodes[i].parted || agent_knows(i) ||
			at == CATALOG_NODES_MAX)
			continue;
		n->host = sim.nodes[i].host;
		n->incarnation = sim.nodes[i].incarnation;
		sim.node_of[at] = i;
		snprintf(n->name, sizeof(n->name), "host%u-%u", n->host, i);
		snprintf(n->endpoint, sizeof(n->endpoint), "sim:%u", i);
		atomic_store(&n->draining, sim.nodes[i].leaving);
		atomic_store(&n->state, NODE_UP);
		atomic_store(&h->nodes_count, at + 1);
	}
}

static void agent_write_off(uint32_t node)
{
	struct catalog *c = &sim.core.catalog;
	sim_say("node %u is down for good", node);
	for (uint32_t g = 0; g < atomic_load(&c->header->groups_count); g++) {
		struct catalog_group *group = &c->groups[g];
		if (atomic_load(&group->state) == GROUP_RETIRED)
			continue;
		for (unsigned pos = 0; pos < (unsigned)group->k + group->m; pos++)
			if (catalog_column_node(&group->columns[pos]) == node)
				column_lose(c, g, pos);
	}
	atomic_store(&agent_node(node)->state, NODE_DOWN);
	sim_merges_node_down(node);
}

/* Out of reach for so long that it passes for dead: allowed as any other failure is. */
static bool agent_gives_up(uint32_t process)
{
	const struct sim_node *n = &sim.nodes[process];
	return n->parted && sim.now_ns - n->parted_ns > sim.scenario.orphan_keep_ns / 10 &&
	       sim_below(20) == 0 && sim_may_lose_node(process);
}

static void agent_watch(void)
{
	for (uint32_t i = 0; i < agent_nodes(); i++) {
		const struct sim_node *n = sim_node_of(i);
		uint32_t state = atomic_load(&agent_node(i)->state);
		if (state == NODE_DOWN || sim_below(3) == 0)
			continue;
		atomic_store(&agent_node(i)->draining, n->leaving);
		if (!n->alive && state == NODE_UP && sim_below(2) == 0)
			atomic_store(&agent_node(i)->state, NODE_SUSPECT);
		else if (!n->alive || agent_gives_up(sim.node_of[i]))
			agent_write_off(i);
		else if (n->parted)
			atomic_store(&agent_node(i)->state, NODE_SUSPECT);
		else if (state == NODE_SUSPECT)
			atomic_store(&agent_node(i)->state, NODE_UP);
	}
}

/* Leases that the catalog names live on. One that its node does not have any more is a lost column.
 */
static void agent_keep_alive(void)
{
	struct catalog *c = &sim.core.catalog;
	for (uint32_t g = 0; g < atomic_load(&c->header->groups_count); g++) {
		struct catalog_group *group = &c->groups[g];
		if (atomic_load(&group->state) == GROUP_RETIRED)
			continue;
		for (unsigned pos = 0; pos < (unsigned)group->k + group->m; pos++) {
			struct catalog_column *column = &group->columns[pos];
			uint32_t generation = atomic_load(&column->generation);
			if (atomic_load(&column->repair) != 0)
				(void)sim_node_renew(&column->places[(generation + 1) & 1]);
			if (atomic_load(&column->lost) == 0 &&
				!sim_node_renew(&column->places[generation & 1])) {
				sim_say("group %u position %u: its lease is gone", g, pos);
				column_lose(c, g, pos);
			}
		}
	}
}

/* ---- groups ---- */

static bool agent_host_is_used(uint32_t group, uint32_t host)
{
	if (group == SIM_NO_GROUP)
		return false;
	struct catalog_group *g = &sim.core.catalog.groups[group];
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		struct catalog_column *column = &g->columns[pos];
		uint32_t generation = atomic_load(&column->generation);
		const struct catalog_place *next = &column->places[(generation + 1) & 1];
		if (atomic_load(&column->lost) == 0 &&
			agent_node(catalog_column_node(column))->host == host)
			return true;
		if (atomic_load(&column->repair) != 0 && agent_node(next->node)->host == host)
			return true;
	}
	return false;
}

static bool agent_can_lend(uint32_t i)
{
	const struct sim_node *n = sim_node_of(i);
	return atomic_load(&agent_node(i)->state) == NODE_UP && n->alive && !n->parted &&
	       !n->leaving && n->leases_held < n->leases_limit && n->leases_count < SIM_LEASES_MAX;
}

unsigned sim_agent_lenders(uint32_t group, uint32_t *nodes, unsigned most)
{
	unsigned count = 0;
	uint32_t start = (uint32_t)sim_below(agent_nodes() + 1);
	for (uint32_t i = 0; i < agent_nodes() && count < most && !sim.poor; i++) {
		uint32_t at = (start + i) % agent_nodes();
		bool taken = !agent_can_lend(at) || agent_host_is_used(group, agent_node(at)->host);
		for (unsigned j = 0; j < count; j++)
			taken |= agent_node(nodes[j])->host == agent_node(at)->host;
		if (!taken)
			nodes[count++] = at;
	}
	return count;
}

static bool agent_add_group(void)
{
	struct catalog_header *h = sim.core.catalog.header;
	uint32_t nodes[EC_N_MAX], index = atomic_load(&h->groups_count);
	unsigned found = sim_agent_lenders(SIM_NO_GROUP, nodes, h->code_k + h->code_m);
	if (found <= h->code_m)
		return false;
	unsigned k = found - h->code_m;
	while (h->scheme == SCHEME_SPLIT && FM_PAGE_SIZE % k != 0)
		k--;
	found = k + h->code_m;
	struct catalog_place places[EC_N_MAX];
	for (unsigned pos = 0; pos < found; pos++) {
		places[pos] = (struct catalog_place){.node = (uint16_t)nodes[pos]};
		if (FAULT_POINT("sim.reserve") ||
			sim_node_reserve(&places[pos], h->region_bytes, index, pos) != 0) {
			while (pos-- > 0)
				(void)sim_node_release(&places[pos]);
			return false;
		}
	}
	struct catalog_group *g = &sim.core.catalog.groups[index];
	for (unsigned pos = 0; pos < found; pos++) {
		memset(&g->columns[pos], 0, sizeof(g->columns[pos]));
		g->columns[pos].places[0] = places[pos];
		if (atomic_load(&agent_node(nodes[pos])->state) == NODE_DOWN)
			atomic_store(&g->columns[pos].lost, 1);
	}
	g->m = (uint8_t)h->code_m;
	g->k = (uint8_t)k;
	g->slot_count = (uint32_t)(h->region_bytes / scheme_slot_bytes(&sim.core.catalog, g));
	sim_say("group %u: %u+%u", index, g->k, g->m);
	atomic_store(&g->state, GROUP_CLOSED); /* open if nothing happened meanwhile: columns.c */
	atomic_store(&h->groups_count, index + 1);
	column_open_group(&sim.core.catalog, index);
	return true;
}

/* Groups that took leave are not counted: the runtime asks for one more than there ever were. */
static void agent_fill(void)
{
	struct catalog_header *h = sim.core.catalog.header;
	uint32_t state = 1;
	while (atomic_load(&h->groups_count) < atomic_load(&h->groups_wanted) && state == 1)
		state = agent_add_group() ? 1 : 2;
	if (atomic_load(&h->groups_count) < atomic_load(&h->groups_wanted) || state == 1)
		atomic_store(&h->agent_state, state);
}

/* Until the next round; transactions of compaction go on in between. */
static void agent_rest(void)
{
	for (unsigned i = 0; i < MERGE_ROUNDS && sim.scenario.merges; i++) {
		sim_merges_round();
		sim_sleep_ns(1 + sim_below(NS_PER_MS / 4));
	}
	if (sim_below(8) == 0)
		sim_sleep_ns(1 + sim_below(100 * NS_PER_MS));
	else
		sim_sleep_ns(1 + sim_below(3 * NS_PER_MS));
}

void sim_agent_main(void *argument)
{
	(void)argument;
	sim_columns_open();
	sim_merges_open();
	for (;;) {
		agent_meet();
		agent_watch();
		agent_keep_alive();
		agent_fill();
		sim_columns_round();
		agent_rest();
	}
}

void sim_agent_start(void)
{
	sim.agent = sim_spawn("agent", sim_agent_main, NULL);
}

void sim_agent_kill(void)
{
	sim_say("the agent dies");
	sim_kill(sim.agent);
	sim.agent = NULL;
	sim.agent_deaths++;
	for (unsigned i = 0; i < SIM_CALLS_MAX; i++)
		sim_calls[i].abandoned = true;
}
