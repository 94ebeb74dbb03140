/*
 * tests/sim/chaos.c: what goes wrong, from the seed: crashes, partitions, slow nodes, flipped
 * bytes, no memory, pins; nodes that are drained; the agent's own end.
 *
 * The rule of the house: at most m columns of any group are ever damaged (lost, crashed away, or
 * flipped somewhere), at most m hosts are down at a time. Damage ends when the column was replaced:
 * then the next failure may come. `beyond` breaks it once, on purpose.
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
static uint64_t next_crash, next_part, next_slow, next_flip, next_poor, next_fault, next_pin,
	next_drain, next_agent;
static uint64_t leave_ends_ns[SIM_NODES_MAX], agent_back_ns;
static bool beyond_done, faults_over;

static bool lease_is_good(const struct sim_lease *l)
{
	for (uint64_t slot = 0; slot < l->bytes / SIM_SLOT_BYTES_MIN; slot++)
		if (l->flipped[slot])
			return false;
	return true;
}

uint32_t sim_damage(uint32_t group)
{
	const struct catalog_group *g = &sim.core.catalog.groups[group];
	uint32_t damage = 0;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		const struct sim_lease *l = sim_lease_of(group, pos);
		if (atomic_load(&g->columns[pos].lost) || l == NULL || !lease_is_good(l) ||
			!sim_node_of(catalog_column_node(&g->columns[pos]))->alive)
			damage |= 1u << pos;
	}
	return damage;
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
		down += sim.nodes[i].alive && (sim.nodes[i].parted || sim.nodes[i].leaving);
	for (unsigned i = 0; i < SIM_NODES_MAX; i++)
		down += hosts[i].down;
	return down;
}

static unsigned damage_max(void)
{
	return sim.scenario.damage_max != 0 ? sim.scenario.damage_max : sim.scenario.m;
}

static bool within_m(uint32_t group, uint32_t damage)
{
	unsigned m = sim.core.catalog.groups[group].m;
	return (unsigned)__builtin_popcount(damage) <= FM_MIN(m, damage_max());
}

bool sim_may_lose(uint32_t group, unsigned pos)
{
	return within_m(group, sim_damage(group) | 1u << pos);
}

static bool group_lives(uint32_t group)
{
	return atomic_load(&sim.core.catalog.groups[group].state) != GROUP_RETIRED;
}

/* Is this process where the column is, or is about to be? */
static bool column_is_on(const struct catalog_column *column, uint32_t process)
{
	uint32_t generation = atomic_load(&column->generation);
	const struct catalog_place *next = &column->places[(generation + 1) & 1];
	return sim.node_of[catalog_column_node(column)] == process ||
	       (atomic_load(&column->repair) != 0 && sim.node_of[next->node] == process);
}

bool sim_may_lose_node(uint32_t process)
{
	for (uint32_t g = 0; g < atomic_load(&sim.core.catalog.header->groups_count); g++) {
		const struct catalog_group *group = &sim.core.catalog.groups[g];
		uint32_t damage = sim_damage(g);
		for (unsigned pos = 0; pos < (unsigned)group->k + group->m; pos++)
			if (column_is_on(&group->columns[pos], process))
				damage |= 1u << pos;
		if (group_lives(g) && !within_m(g, damage))
			return false;
	}
	return true;
}

static void chaos_kill(uint32_t node)
{
	struct sim_node *n = &sim.nodes[node];
	sim_say("node %u (host %u) dies", node, n->host);
	uint64_t away_ns = sim.scenario.away_ns != 0 ? sim.scenario.away_ns : 2 * NS_PER_S;
	sim_node_part(node, false);
	sim_node_crash(node);
	hosts[n->host] = (struct chaos_host){
		true, sim.now_ns + sim_below(sim_below(2) ? away_ns : 20 * NS_PER_MS)};
	sim.crashes++;
}

static void chaos_crash(void)
{
	uint32_t node = (uint32_t)sim_below(sim.nodes_count);
	if (!sim.nodes[node].alive || chaos_hosts_down() >= damage_max() ||
		sim.nodes_count >= SIM_NODES_MAX - 2 || !sim_may_lose_node(node))
		return;
	chaos_kill(node);
}

static void chaos_part(void)
{
	uint32_t node = (uint32_t)sim_below(sim.nodes_count);
	if (!sim.nodes[node].alive || sim.nodes[node].parted || chaos_hosts_down() >= damage_max())
		return;
	sim_say("node %u cannot be reached", node);
	sim_node_part(node, true);
	part_ends_ns[node] = sim.now_ns + sim_below(sim_below(3) ? NS_PER_S : 5 * NS_PER_MS);
	if (sim.scenario.long_parts && sim_below(2) == 0)
		part_ends_ns[node] += sim_below(2 * sim.scenario.orphan_keep_ns);
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
	if (l == NULL || !group_lives(g) ||
		!sim_node_of(catalog_column_node(&group->columns[pos]))->alive ||
		!sim_may_lose(g, pos))
		return;
	uint32_t slot = (uint32_t)sim_below(group->slot_count);
	l->flipped[slot] = 1;
	uint32_t bytes = sim_slot_bytes(g);
	l->memory[slot * (uint64_t)bytes + sim_below(bytes)] ^= (uint8_t)(1 + sim_below(255));
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
	static const char *const names[] = {"spanset.store.post", "spanset.fetch.post",
		"evict.store", "sim.reserve.column", "sim.rebuild.call", "sim.rebuild.answer",
		"sim.rebuild.done", "sim.fence", "sim.commit", "merge.claim", "merge.slots",
		"merge.publish", "merge.switch", "merge.retire", "compact.call"};
	(void)fault_arm(names[sim_below(FM_ARRAY_COUNT(names))], 1 + sim_below(20), false);
}

static void chaos_drain(void)
{
	uint32_t node = (uint32_t)sim_below(sim.nodes_count);
	struct sim_node *n = &sim.nodes[node];
	if (!n->alive || n->leaving || chaos_hosts_down() >= damage_max() ||
		sim.nodes_count >= SIM_NODES_MAX - 2)
		return;
	sim_say("node %u (host %u) is to be drained", node, n->host);
	n->leaving = true;
	leave_ends_ns[node] = sim.now_ns + sim_below(sim_below(4) ? 3 * NS_PER_S : 5 * NS_PER_MS);
	sim.drains++;
}

/* What is drained goes when it is empty, and another one comes to the host; or it stays after all.
 */
static void chaos_leave(uint32_t node)
{
	struct sim_node *n = &sim.nodes[node];
	if (n->leases_held == 0 && n->leases_count > 0) {
		sim_say("node %u (host %u) is empty and goes", node, n->host);
		sim_node_crash(node);
		hosts[n->host] = (struct chaos_host){true, sim.now_ns + sim_below(20 * NS_PER_MS)};
		n->leaving = false;
	} else if (sim.calm || sim.now_ns >= leave_ends_ns[node]) {
		n->leaving = false;
	}
}

static void chaos_agent(void)
{
	if (sim.agent == NULL)
		return;
	sim_agent_kill();
	agent_back_ns = sim.now_ns + sim_below(sim_below(4) ? 5 * NS_PER_MS : 300 * NS_PER_MS);
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
		uint32_t process = sim.node_of[catalog_column_node(&g->columns[at])];
		if (sim.nodes[process].alive)
			chaos_kill(process);
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
		if (sim.nodes[i].alive && sim.nodes[i].leaving)
			chaos_leave(i);
	}
	if (sim.agent == NULL && (sim.calm || sim.now_ns >= agent_back_ns))
		sim_agent_start();
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
	if (sim.calm && !faults_over) {
		faults_over = true;
		sim_sweep_report();
		fault_disarm_all();
	}
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
		if (chaos_due(&next_drain, s->drain_every_ns))
			chaos_drain();
		if (chaos_due(&next_agent, s->agent_every_ns))
			chaos_agent();
		if (chaos_due(&next_poor, s->poor_every_ns)) {
			sim.poor = true;
			poor_ends_ns = sim.now_ns + sim_below(300 * NS_PER_MS);
		}
		if (s->beyond)
			chaos_beyond();
	}
}
