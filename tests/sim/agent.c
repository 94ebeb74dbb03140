/*
 * tests/sim/agent.c: the agent: watches nodes, declares them suspect, up or down, writes lost
 * columns off, fills groups.
 *
 * Does what farmem/agent does to the catalog, on simulated time; reservation is a call instead of
 * an RPC.
 */
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/sim.h"

static struct catalog_node *agent_node(uint32_t i)
{
	return &sim.core.catalog.nodes[i];
}

/* Nodes that chaos started since: the agent meets them. */
static void agent_meet(void)
{
	struct catalog_header *h = sim.core.catalog.header;
	for (uint32_t i = atomic_load(&h->nodes_count); i < sim.nodes_count; i++) {
		struct catalog_node *n = agent_node(i);
		n->host = sim.nodes[i].host;
		n->incarnation = sim.nodes[i].incarnation;
		snprintf(n->name, sizeof(n->name), "host%u-%u", n->host, i);
		snprintf(n->endpoint, sizeof(n->endpoint), "sim:%u", i);
		atomic_store(&n->state, NODE_UP);
		atomic_store(&h->nodes_count, i + 1);
	}
}

static void agent_write_off(uint32_t node)
{
	struct catalog *c = &sim.core.catalog;
	sim_say("node %u is down for good", node);
	for (uint32_t g = 0; g < atomic_load(&c->header->groups_count); g++) {
		struct catalog_group *group = &c->groups[g];
		for (unsigned pos = 0; pos < (unsigned)group->k + group->m; pos++) {
			if (catalog_column_node(&group->columns[pos]) != node)
				continue;
			atomic_store(&group->columns[pos].lost, 1);
			atomic_store(&group->state, GROUP_CLOSED);
		}
	}
	atomic_store(&agent_node(node)->state, NODE_DOWN);
}

static void agent_watch(void)
{
	for (uint32_t i = 0; i < atomic_load(&sim.core.catalog.header->nodes_count); i++) {
		const struct sim_node *n = &sim.nodes[i];
		uint32_t state = atomic_load(&agent_node(i)->state);
		if (state == NODE_DOWN || sim_below(3) == 0)
			continue;
		if (!n->alive && state == NODE_UP && sim_below(2) == 0)
			atomic_store(&agent_node(i)->state, NODE_SUSPECT);
		else if (!n->alive)
			agent_write_off(i);
		else if (n->parted)
			atomic_store(&agent_node(i)->state, NODE_SUSPECT);
		else if (state == NODE_SUSPECT)
			atomic_store(&agent_node(i)->state, NODE_UP);
	}
}

/* A random choice of nodes that can lend a region, one per host. Returns how many. */
static unsigned agent_lenders(uint32_t *nodes, unsigned most)
{
	unsigned count = 0;
	uint32_t start = (uint32_t)sim_below(sim.nodes_count);
	for (uint32_t i = 0; i < sim.nodes_count && count < most; i++) {
		uint32_t at = (start + i) % sim.nodes_count;
		const struct sim_node *n = &sim.nodes[at];
		bool taken = atomic_load(&agent_node(at)->state) != NODE_UP || !n->alive ||
			     n->parted ||
			     n->leases_count >= FM_MIN(n->leases_limit, (uint32_t)SIM_LEASES_MAX);
		for (unsigned j = 0; j < count; j++)
			taken |= sim.nodes[nodes[j]].host == n->host;
		if (!taken)
			nodes[count++] = at;
	}
	return count;
}

static bool agent_add_group(void)
{
	struct catalog_header *h = sim.core.catalog.header;
	uint32_t nodes[EC_N_MAX], index = atomic_load(&h->groups_count);
	unsigned wide = h->code_k + h->code_m;
	unsigned found = sim.poor ? 0 : agent_lenders(nodes, wide);
	if (found <= h->code_m)
		return false;
	struct catalog_group *g = &sim.core.catalog.groups[index];
	g->m = (uint8_t)h->code_m;
	g->k = (uint8_t)(found - h->code_m);
	g->slot_count = (uint32_t)(h->region_bytes / FM_PAGE_SIZE);
	for (unsigned pos = 0; pos < found; pos++) {
		struct sim_lease *l = sim_lease_make(nodes[pos], h->region_bytes);
		FM_ASSERT(l != NULL);
		l->group = index;
		l->pos = pos;
		catalog_cur(&g->columns[pos])->node = (uint16_t)nodes[pos];
		catalog_cur(&g->columns[pos])->capability = l->capability;
	}
	sim_say("group %u: %u+%u", index, g->k, g->m);
	atomic_store(&g->state, GROUP_OPEN);
	atomic_store(&h->groups_count, index + 1);
	return true;
}

static void agent_fill(void)
{
	struct catalog_header *h = sim.core.catalog.header;
	uint32_t state = 1;
	while (atomic_load(&h->groups_count) < atomic_load(&h->groups_wanted) && state == 1)
		state = agent_add_group() ? 1 : 2;
	if (atomic_load(&h->groups_count) < atomic_load(&h->groups_wanted) || state == 1)
		atomic_store(&h->agent_state, state);
}

void sim_agent_main(void *argument)
{
	(void)argument;
	for (;;) {
		agent_meet();
		agent_watch();
		agent_fill();
		sim_sleep_ns(
			NS_PER_MS + sim_below(sim_below(8) == 0 ? 100 * NS_PER_MS : 5 * NS_PER_MS));
	}
}
