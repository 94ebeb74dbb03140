/*
 * tests/sim/chaos.c: what goes wrong, from the seed: crashes, partitions, slow nodes, flipped
 * bytes, no memory, pins.
 *
 * The rule of the house: at most m columns of any group are ever damaged (crashed away or flipped),
 * at most m hosts are down at a time. `beyond` breaks it once, on purpose.
 */
#include "base/assert.h"
#include "base/fault_point.h"
#include "tests/sim/sim.h"

struct chaos_host {
	bool down;
	uint64_t back_ns;
};

static struct chaos_host hosts[SIM_NODES_MAX];
static uint64_t part_ends_ns[SIM_NODES_MAX], slow_ends_ns[SIM_NODES_MAX];
static uint64_t poor_ends_ns, unpin_ns;
static uint64_t next_crash, next_part, next_slow, next_flip, next_poor, next_fault, next_pin;
static bool beyond_done;

uint32_t sim_damage(uint32_t group)
{
	return sim.damage[group];
}

static bool chaos_due(uint64_t *next, uint64_t every_ns)
{
	if (every_ns == 0)
		return false;
	if (*next == 0)
		*next = sim.now_ns + sim_below(2 * every_ns);
	if (sim.now_ns < *next)
		return false;
	*next = sim.now_ns + 1 + sim_below(2 * every_ns);
	return true;
}

static unsigned chaos_hosts_down(void)
{
	unsigned down = 0;
	for (uint32_t i = 0; i < sim.nodes_count; i++)
		down += sim.nodes[i].alive && sim.nodes[i].parted;
	for (unsigned i = 0; i < SIM_NODES_MAX; i++)
		down += hosts[i].down;
	return down;
}

static bool chaos_may_damage(uint32_t group, unsigned pos)
{
	return (unsigned)__builtin_popcount(sim.damage[group] | 1u << pos) <=
	       sim.core.catalog.groups[group].m;
}

/* Would this node's end leave every group within m? Marks its columns when asked to. */
static bool chaos_node_columns(uint32_t node, bool mark)
{
	bool may = true;
	for (uint32_t g = 0; g < atomic_load(&sim.core.catalog.header->groups_count); g++) {
		const struct catalog_group *group = &sim.core.catalog.groups[g];
		for (unsigned pos = 0; pos < (unsigned)group->k + group->m; pos++) {
			if (catalog_column_node(&group->columns[pos]) != node)
				continue;
			may &= chaos_may_damage(g, pos);
			if (mark)
				sim.damage[g] |= 1u << pos;
		}
	}
	return may;
}

static void chaos_kill(uint32_t node)
{
	struct sim_node *n = &sim.nodes[node];
	sim_say("node %u (host %u) dies", node, n->host);
	(void)chaos_node_columns(node, true);
	sim_node_part(node, false);
	sim_node_crash(node);
	hosts[n->host] = (struct chaos_host){
		true, sim.now_ns + sim_below(sim_below(2) ? 2 * NS_PER_S : 20 * NS_PER_MS)};
	sim.crashes++;
}

static void chaos_crash(void)
{
	uint32_t node = (uint32_t)sim_below(sim.nodes_count);
	if (!sim.nodes[node].alive || chaos_hosts_down() >= sim.scenario.m ||
		sim.nodes_count >= SIM_NODES_MAX - 2 || !chaos_node_columns(node, false))
		return;
	chaos_kill(node);
}

static void chaos_part(void)
{
	uint32_t node = (uint32_t)sim_below(sim.nodes_count);
	if (!sim.nodes[node].alive || sim.nodes[node].parted ||
		chaos_hosts_down() >= sim.scenario.m)
		return;
	sim_say("node %u cannot be reached", node);
	sim_node_part(node, true);
	part_ends_ns[node] = sim.now_ns + sim_below(sim_below(3) ? NS_PER_S : 5 * NS_PER_MS);
	sim.parts++;
}

static void chaos_slow(void)
{
	uint32_t node = (uint32_t)sim_below(sim.nodes_count);
	sim.nodes[node].slow_factor = 1 + sim_below(1000);
	slow_ends_ns[node] = sim.now_ns + sim_below(NS_PER_S);
}

static void chaos_flip(void)
{
	uint32_t groups = atomic_load(&sim.core.catalog.header->groups_count);
	if (groups == 0)
		return;
	uint32_t g = (uint32_t)sim_below(groups);
	const struct catalog_group *group = &sim.core.catalog.groups[g];
	unsigned pos = (unsigned)sim_below((uint64_t)group->k + group->m);
	struct sim_lease *l = sim_lease_of(g, pos);
	if (l == NULL || !sim.nodes[catalog_column_node(&group->columns[pos])].alive ||
		!chaos_may_damage(g, pos))
		return;
	uint32_t slot = (uint32_t)sim_below(group->slot_count);
	sim.damage[g] |= 1u << pos;
	l->flipped[slot] = 1;
	l->memory[slot * (uint64_t)FM_PAGE_SIZE + sim_below(FM_PAGE_SIZE)] ^=
		(uint8_t)(1 + sim_below(255));
	sim.flips++;
}

static void chaos_pin(void)
{
	for (unsigned i = 0; i < 8; i++)
		sim_page(sim_program_page((uint32_t)sim_below(sim.scenario.pages)))->pinned = true;
	unpin_ns = sim.now_ns + sim_below(100 * NS_PER_MS);
}

static void chaos_fault_point(void)
{
	static const char *const names[] = {
		"spanset.store.post", "spanset.fetch.post", "evict.store"};
	(void)fault_arm(names[sim_below(FM_ARRAY_COUNT(names))], 1 + sim_below(20), false);
}

/* More hosts of one group die at once than its code can bear. */
static void chaos_beyond(void)
{
	uint32_t groups = atomic_load(&sim.core.catalog.header->groups_count);
	if (beyond_done || groups == 0 || sim.steps_done < sim.steps / 3)
		return;
	const struct catalog_group *g = &sim.core.catalog.groups[sim_below(groups)];
	beyond_done = true;
	sim.unreported_loss_allowed = true;
	for (unsigned pos = 0; pos <= g->m; pos++) {
		unsigned at = (pos + (unsigned)sim_below(2)) % ((unsigned)g->k + g->m);
		uint32_t node = catalog_column_node(&g->columns[at]);
		if (sim.nodes[node].alive)
			chaos_kill(node);
	}
}

/* What was broken for a while is whole again; everything, when the run winds down. */
static void chaos_heal(void)
{
	for (uint32_t i = 0; i < sim.nodes_count; i++) {
		if (sim.nodes[i].parted && (sim.calm || sim.now_ns >= part_ends_ns[i]))
			sim_node_part(i, false);
		if (sim.nodes[i].slow_factor > 1 && (sim.calm || sim.now_ns >= slow_ends_ns[i]))
			sim.nodes[i].slow_factor = 1;
	}
	for (unsigned i = 0; i < SIM_NODES_MAX; i++)
		if (hosts[i].down && (sim.calm || sim.now_ns >= hosts[i].back_ns)) {
			hosts[i].down = false;
			(void)sim_node_start(i);
		}
	if (sim.poor && (sim.calm || sim.now_ns >= poor_ends_ns))
		sim.poor = false;
	if (unpin_ns != 0 && (sim.calm || sim.now_ns >= unpin_ns)) {
		unpin_ns = 0;
		for (uint32_t i = 0; i < sim.scenario.pages; i++)
			sim_page(sim_program_page(i))->pinned = false;
	}
	if (sim.calm)
		fault_disarm_all();
}

void sim_chaos_main(void *argument)
{
	const struct sim_scenario *s = &sim.scenario;
	(void)argument;
	for (;; sim_sleep_ns(1 + sim_below(NS_PER_MS))) {
		chaos_heal();
		if (sim.calm)
			continue;
		if (chaos_due(&next_crash, s->crash_every_ns))
			chaos_crash();
		if (chaos_due(&next_part, s->part_every_ns))
			chaos_part();
		if (chaos_due(&next_slow, s->slow_every_ns))
			chaos_slow();
		if (chaos_due(&next_flip, s->flip_every_ns))
			chaos_flip();
		if (chaos_due(&next_fault, s->fault_every_ns))
			chaos_fault_point();
		if (chaos_due(&next_pin, s->pin_every_ns))
			chaos_pin();
		if (chaos_due(&next_poor, s->poor_every_ns)) {
			sim.poor = true;
			poor_ends_ns = sim.now_ns + sim_below(300 * NS_PER_MS);
		}
		if (s->beyond)
			chaos_beyond();
	}
}
