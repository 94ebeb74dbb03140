/*
 * tests/sim/nodes.c: memory nodes: leases, what the agent may ask for, and Rebuild calls.
 *
 * A lease is lent once and never again: what was given back stays an entry without memory, so that
 * whoever still has its capability is refused, as by the real node. A Rebuild runs on a worker of
 * its own, which takes its time between reading the sources and storing: it lands late unless its
 * target was fenced, given back, or died. Asking takes a round trip, and the answer may get lost
 * after the deed was done.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/crc.h"
#include "ec/ec.h"
#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

#define SIM_RTT_NS (20 * NS_PER_US)
#define SIM_ASK_NS (20 * NS_PER_MS)

struct sim_call sim_calls[SIM_CALLS_MAX];

/* ---- processes ---- */

uint32_t sim_node_start(unsigned host)
{
	if (sim.nodes_count == SIM_NODES_MAX)
		return SIM_NODES_MAX;
	uint32_t index = sim.nodes_count;
	struct sim_node *n = &sim.nodes[index];
	*n = (struct sim_node){.alive = true,
		.host = host,
		.incarnation = sim_random() | 1,
		.slow_factor = 1,
		.leases_limit = sim.scenario.node_regions};
	sim.nodes_count++;
	return index;
}

void sim_node_crash(uint32_t node)
{
	sim.nodes[node].alive = false;
	sim_fabric_node_crashed(node);
}

void sim_node_part(uint32_t node, bool parted)
{
	sim.nodes[node].parted = parted;
	sim.nodes[node].parted_ns = sim.now_ns;
	if (parted)
		sim_fabric_node_parted(node);
}

struct sim_node *sim_node_of(uint32_t catalog_node)
{
	FM_ASSERT_LT(catalog_node, atomic_load(&sim.core.catalog.header->nodes_count));
	return &sim.nodes[sim.node_of[catalog_node]];
}

int sim_ask(uint32_t node, uint64_t deadline_ns)
{
	const struct sim_node *n = &sim.nodes[node];
	uint64_t rtt = SIM_RTT_NS + sim_below(SIM_RTT_NS) * n->slow_factor;
	sim_block(FM_MIN(sim.now_ns + rtt, deadline_ns));
	if (!n->alive)
		return -ECONNREFUSED;
	if (n->parted)
		sim_block(deadline_ns);
	if (!n->alive)
		return -ECONNREFUSED;
	return n->parted || sim.now_ns > deadline_ns ? -ETIMEDOUT : 0;
}

/* ---- leases ---- */

struct sim_lease *sim_lease_find(uint32_t node, const struct fabric_capability *c)
{
	struct sim_node *n = &sim.nodes[node];
	for (uint32_t i = 0; i < n->leases_count; i++) {
		struct sim_lease *l = &n->leases[i];
		if (l->held && l->capability.lease == c->lease &&
			n->incarnation == c->incarnation && l->capability.epoch == c->epoch &&
			memcmp(l->capability.key, c->key, sizeof(c->key)) == 0)
			return l;
	}
	return NULL;
}

struct sim_lease *sim_lease_at(const struct catalog_place *place)
{
	if (place->capability.lease == 0 ||
		place->node >= atomic_load(&sim.core.catalog.header->nodes_count))
		return NULL;
	return sim_lease_find(sim.node_of[place->node], &place->capability);
}

struct sim_lease *sim_lease_of(uint32_t group, uint32_t pos)
{
	return sim_lease_at(catalog_cur(&sim.core.catalog.groups[group].columns[pos]));
}

uint32_t sim_slot_bytes(uint32_t group)
{
	const struct catalog *c = &sim.core.catalog;
	return scheme_slot_bytes(c, &c->groups[group]);
}

void sim_lease_store(struct sim_lease *l, uint64_t offset, const uint8_t *from, uint64_t bytes)
{
	memcpy(l->memory + offset, from, bytes);
	l->renewed_ns = sim.now_ns;
	uint32_t slot_bytes = sim_slot_bytes(l->group);
	for (uint64_t s = offset / slot_bytes; s * slot_bytes < offset + bytes; s++)
		l->flipped[s] = 0;
}

static struct sim_lease *lease_make(struct sim_node *n, uint64_t bytes)
{
	struct sim_lease *l = &n->leases[n->leases_count];
	FM_ASSERT_LT(n->leases_count, SIM_LEASES_MAX);
	*l = (struct sim_lease){.held = true, .bytes = bytes, .renewed_ns = sim.now_ns};
	l->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	FM_ASSERT(l->memory != MAP_FAILED);
	l->flipped = calloc(bytes / SIM_SLOT_BYTES_MIN, 1);
	FM_ASSERT(l->flipped != NULL);
	l->capability = (struct fabric_capability){.lease = n->leases_count + 1ull,
		.incarnation = n->incarnation,
		.epoch = 1,
		.region = n->leases_count};
	for (unsigned i = 0; i < sizeof(l->capability.key); i++)
		l->capability.key[i] = (uint8_t)sim_random();
	n->leases_count++;
	n->leases_held++;
	return l;
}

static void lease_end(struct sim_node *n, struct sim_lease *l)
{
	l->held = false;
	n->leases_held--;
	munmap(l->memory, l->bytes);
	l->memory = NULL;
	free(l->flipped);
	l->flipped = NULL;
}

/* ---- what is asked of a node ---- */

int sim_node_reserve(struct catalog_place *place, uint64_t bytes, uint32_t group, uint32_t pos)
{
	uint32_t node = sim.node_of[place->node];
	struct sim_node *n = &sim.nodes[node];
	uint64_t deadline = sim.now_ns + SIM_ASK_NS;
	int rc = sim_ask(node, deadline);
	if (rc != 0)
		return rc;
	if (n->leaving || n->leases_held >= n->leases_limit || n->leases_count == SIM_LEASES_MAX)
		return -ENOMEM;
	struct sim_lease *l = lease_make(n, bytes);
	l->group = group;
	l->pos = pos;
	struct fabric_capability drawn = l->capability;
	rc = sim_ask(
		node, deadline); /* no answer: nobody knows of it, the node keeps it for a while */
	if (rc == 0)
		place->capability = drawn;
	return rc;
}

int sim_node_release(const struct catalog_place *place)
{
	uint32_t node = sim.node_of[place->node];
	uint64_t deadline = sim.now_ns + SIM_ASK_NS;
	int rc = sim_ask(node, deadline);
	if (rc != 0)
		return rc;
	struct sim_lease *l = sim_lease_at(place);
	if (l != NULL)
		lease_end(&sim.nodes[node], l);
	return sim_ask(node, deadline); /* repeats are harmless */
}

int sim_node_fence(struct catalog_place *place)
{
	uint32_t node = sim.node_of[place->node];
	uint64_t deadline = sim.now_ns + SIM_ASK_NS;
	int rc = sim_ask(node, deadline);
	if (rc != 0)
		return rc;
	struct sim_lease *l = sim_lease_at(place);
	if (l == NULL)
		return -EACCES;
	l->capability.epoch++;
	struct fabric_capability drawn = l->capability;
	rc = sim_ask(node, deadline);
	if (rc == 0)
		place->capability = drawn;
	return rc;
}

bool sim_node_renew(const struct catalog_place *place)
{
	const struct sim_node *n = sim_node_of(place->node);
	if (!n->alive || n->parted)
		return true; /* no answer says nothing */
	struct sim_lease *l = sim_lease_at(place);
	if (l != NULL)
		l->renewed_ns = sim.now_ns;
	return l != NULL;
}

static bool lease_is_cur(const struct sim_lease *l)
{
	return l->group < atomic_load(&sim.core.catalog.header->groups_count) &&
	       sim_lease_of(l->group, l->pos) == l &&
	       atomic_load(&sim.core.catalog.groups[l->group].columns[l->pos].lost) == 0 &&
	       atomic_load(&sim.core.catalog.groups[l->group].state) != GROUP_RETIRED;
}

/* Nobody renewed them for too long. The design allows that to hurt m columns of a group, no more.
 */
static void leases_expire(struct sim_node *n)
{
	for (uint32_t i = 0; i < n->leases_count; i++) {
		struct sim_lease *l = &n->leases[i];
		if (!l->held || sim.now_ns - l->renewed_ns < sim.scenario.orphan_keep_ns)
			continue;
		if (lease_is_cur(l) && !sim_may_lose(l->group, l->pos))
			continue;
		sim_say("node %u revokes the lease of group %u position %u",
			(unsigned)(n - sim.nodes), l->group, l->pos);
		sim.revoked++;
		lease_end(n, l);
	}
}

/* ---- Rebuild ---- */

static bool place_answers(const struct catalog_place *place)
{
	const struct sim_node *n = sim_node_of(place->node);
	return n->alive && !n->parted;
}

/* 0, or what ails this source. */
static int call_read(const struct sim_call *call, unsigned source, unsigned entry, uint8_t *bytes)
{
	const struct catalog_place *place = &call->sources[source];
	const struct column_entry *e = &call->entries[entry];
	unsigned pos = call->source_positions[source];
	const struct sim_lease *l = place_answers(place) ? sim_lease_at(place) : NULL;
	if (l == NULL)
		return -EHOSTUNREACH;
	uint32_t length = sim_slot_bytes(l->group);
	memcpy(bytes, l->memory + (uint64_t)e->slot[pos] * length, length);
	return crc32c(bytes, length) == e->crc[pos] ? 0 : 1 + (int)pos;
}

static void call_decode(const struct sim_call *call, uint8_t (*pieces)[FM_PAGE_SIZE], uint8_t *out)
{
	const uint8_t *sources[EC_K_MAX];
	uint32_t have = 0;
	struct ec_plan plan;
	if (call->sources_count == 1 && call->source_positions[0] == call->position) {
		memcpy(out, pieces[0], call->slot_bytes);
		return;
	}
	for (unsigned i = 0; i < call->sources_count; i++)
		have |= 1u << call->source_positions[i];
	int rc = ec_plan_init(
		&plan, core_code(&sim.core, call->k, call->m), have, 1u << call->position);
	FM_ASSERT_EQ(rc, 0);
	for (unsigned i = 0; i < plan.source_count; i++)
		for (unsigned j = 0; j < call->sources_count; j++)
			if (call->source_positions[j] == plan.sources[i])
				sources[i] = pieces[j];
	ec_rebuild(&plan, call->slot_bytes, sources, &out);
}

static int call_entry(struct sim_call *call, unsigned entry)
{
	uint8_t pieces[EC_K_MAX][FM_PAGE_SIZE], made[FM_PAGE_SIZE];
	const struct column_entry *e = &call->entries[entry];
	for (unsigned i = 0; i < call->sources_count; i++) {
		sim_sleep_ns(1 + sim_below(SIM_RTT_NS));
		int rc = call_read(call, i, entry, pieces[i]);
		if (rc != 0)
			return rc;
	}
	call_decode(call, pieces, made);
	if (crc32c(made, call->slot_bytes) != e->crc[call->position])
		return -EPROTO;
	if (!sim.calm && sim_chance(sim.scenario.rebuild_slow))
		sim_sleep_ns(sim_below(sim_below(2) ? NS_PER_S : 20 * NS_PER_MS));
	struct sim_lease *l = sim_lease_at(&call->target);
	if (!sim_node_of(call->target.node)->alive || l == NULL)
		return -EACCES; /* fenced or given back meanwhile */
	sim_lease_store(
		l, (uint64_t)e->slot[call->position] * call->slot_bytes, made, call->slot_bytes);
	return 0;
}

static void call_work(struct sim_call *call)
{
	const struct sim_node *n = sim_node_of(call->target.node);
	for (unsigned i = 0; i < call->count && n->alive; i++)
		call->outcomes[i] = call_entry(call, i);
	while (n->alive && n->parted && !call->abandoned)
		sim_sleep_ns(NS_PER_MS);
	call->answered = n->alive && (sim.calm || !sim_chance(sim.scenario.rebuild_mute));
	while (!call->abandoned) /* its caller takes it away, answered or not */
		sim_sleep_ns(NS_PER_MS / 4);
	call->used = false;
}

void sim_rebuild_main(void *argument)
{
	(void)argument;
	for (;;) {
		struct sim_call *mine = NULL;
		for (unsigned i = 0; i < SIM_CALLS_MAX && mine == NULL; i++)
			if (sim_calls[i].used && !sim_calls[i].taken)
				mine = &sim_calls[i];
		if (mine != NULL) {
			mine->taken = true;
			call_work(mine);
			continue;
		}
		for (uint32_t i = 0; i < sim.nodes_count; i++)
			if (sim.nodes[i].alive)
				leases_expire(&sim.nodes[i]);
		sim_sleep_ns(NS_PER_MS / 4 + sim_below(NS_PER_MS));
	}
}
