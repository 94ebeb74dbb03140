/*
 * tests/sim/fabric.c: the network to memory nodes: the provider "sim:N" (see rpc/fabric.h for its
 * contract).
 *
 * An operation has a time at which it takes effect (lands) and one at which its completion arrives;
 * between them, and after them, anything the contract allows may happen. A write reported
 * -ETIMEDOUT or -ECONNRESET may land later
 * (`late`), from a copy taken when its buffers went back to their owner, until a fence of its
 * region, or the end of the node, stops it. Operations of one connection land in no particular
 * order.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "rpc/fabric_provider.h"
#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

#define SIM_OPS_MAX 4096
#define SIM_LATE_MAX 8192

/* One per queue and node. */
struct sim_conn {
	uint32_t generation;
	uint32_t node;
};

struct sim_region {
	struct fabric_region region; /* first: see fabric_provider.h */
	struct sim_conn *conn;
	struct sim_lease *lease;
	uint32_t epoch; /* of the lease when it was attached */
};

struct sim_part {
	struct fabric_queue *queue;
	struct sim_conn conns[SIM_NODES_MAX];
	struct sim_coro *sleeper;
};

struct sim_op {
	struct sim_region *region; /* NULL: free */
	bool write, landed, lands;
	uint64_t offset, tag, deadline_ns, land_ns, done_ns;
	int status;                 /* at done_ns */
	uint64_t bytes, torn_bytes; /* torn: so many are stored */
	uint32_t iov_count;
	struct iovec iov[FABRIC_IOV_MAX];
};

struct sim_late {
	struct sim_region *region; /* NULL: free */
	uint64_t offset, bytes, land_ns;
	uint8_t *copy;
};

static struct sim_op *ops;
static unsigned ops_end; /* none in use from here on */
static struct sim_late *lates;
static unsigned lates_end;
static uint64_t next_event_ns;

static struct sim_node *region_node(const struct sim_region *r)
{
	return &sim.nodes[r->conn->node];
}

/* ---- storing and loading ---- */

/* The node does as it is told by who has the capability in force. */
static bool region_serves(const struct sim_region *r)
{
	return r->lease->held && r->lease->capability.epoch == r->epoch;
}

static void op_land(struct sim_op *op)
{
	struct sim_lease *l = op->region->lease;
	uint64_t at = op->offset, left = op->bytes;
	op->landed = true;
	if (!op->lands || !region_node(op->region)->alive)
		return;
	if (!region_serves(op->region)) {
		op->status = op->status == 0 ? -EACCES : op->status;
		return;
	}
	if (op->write && op->torn_bytes != 0)
		left = FM_MIN(left, op->torn_bytes);
	for (uint32_t i = 0; i < op->iov_count && left > 0; i++) {
		uint64_t part = FM_MIN(left, op->iov[i].iov_len);
		if (op->write)
			sim_lease_store(l, at, op->iov[i].iov_base, part);
		else
			memcpy(op->iov[i].iov_base, l->memory + at, part);
		at += part;
		left -= part;
	}
}

static void late_drop(struct sim_late *late)
{
	free(late->copy);
	*late = (struct sim_late){0};
}

static void late_land(struct sim_late *late)
{
	if (region_node(late->region)->alive && region_serves(late->region)) {
		sim_say("late write lands: node %u group %u pos %u slot %llu",
			late->region->conn->node, late->region->lease->group,
			late->region->lease->pos, (unsigned long long)late->offset / FM_PAGE_SIZE);
		sim_lease_store(late->region->lease, late->offset, late->copy, late->bytes);
	}
	late_drop(late);
}

/* The buffers go back to their owner now, but the write may still be under way. */
static void op_becomes_late(struct sim_op *op)
{
	unsigned at = 0;
	if (!op->write || op->landed || !op->lands)
		return;
	while (at < lates_end && lates[at].region != NULL)
		at++;
	if (at == SIM_LATE_MAX)
		return;
	if (at == lates_end)
		lates_end++;
	struct sim_late *late = &lates[at];
	*late = (struct sim_late){.region = op->region, .offset = op->offset, .bytes = op->bytes};
	late->copy = malloc(op->bytes);
	FM_ASSERT(late->copy != NULL);
	uint8_t *to = late->copy;
	for (uint32_t i = 0; i < op->iov_count; i++) {
		memcpy(to, op->iov[i].iov_base, op->iov[i].iov_len);
		to += op->iov[i].iov_len;
	}
	late->land_ns = sim.now_ns + 1 + sim_below(sim_below(2) ? NS_PER_S : 2 * NS_PER_MS);
	next_event_ns = FM_MIN(next_event_ns, late->land_ns);
	sim.lates++;
}

uint64_t sim_fabric_advance(void)
{
	if (sim.now_ns < next_event_ns)
		return next_event_ns;
	uint64_t next = CLOCK_NEVER_NS;
	for (unsigned i = 0; i < ops_end; i++) {
		if (ops[i].region == NULL || ops[i].landed)
			continue;
		if (ops[i].land_ns <= sim.now_ns)
			op_land(&ops[i]);
		else
			next = FM_MIN(next, ops[i].land_ns);
	}
	for (unsigned i = 0; i < lates_end; i++) {
		if (lates[i].region == NULL)
			continue;
		if (lates[i].land_ns <= sim.now_ns)
			late_land(&lates[i]);
		else
			next = FM_MIN(next, lates[i].land_ns);
	}
	next_event_ns = next;
	return next;
}

/* ---- operations ---- */

static void op_end(struct sim_op *op, int status)
{
	struct sim_region *r = op->region;
	if (status == -ETIMEDOUT || status == -ECONNRESET)
		op_becomes_late(op);
	op->region = NULL;
	fabric_complete(&r->region, op->tag, status);
}

/* The connection goes: everything on it is in doubt. */
static void conn_break(struct sim_conn *conn)
{
	conn->generation++;
	for (unsigned i = 0; i < ops_end; i++)
		if (ops[i].region != NULL && ops[i].region->conn == conn)
			op_end(&ops[i], -ECONNRESET);
}

static void op_choose_fate(struct sim_op *op)
{
	const struct sim_scenario *s = &sim.scenario;
	const struct sim_node *n = region_node(op->region);
	uint64_t latency = 1 + (s->latency_ns + sim_below(s->latency_ns)) * n->slow_factor;
	op->status = 0;
	op->lands = true;
	if (!sim.calm && sim_chance(s->delay))
		latency +=
			sim_below(2 * (op->deadline_ns - FM_MIN(op->deadline_ns, sim.now_ns)) + 1);
	op->land_ns = sim.now_ns + 1 + sim_below(latency);
	op->done_ns = sim.now_ns + latency;
	if (sim.bug == BUG_ACK_EARLY && op->write)
		op->land_ns = op->done_ns + sim_below(20 * NS_PER_MS);
	if (!n->alive) {
		op->lands = false;
		op->status = -ECONNRESET;
	} else if (n->parted) {
		op->lands = sim_chance(500000); /* on its way when the network comes back */
		op->land_ns = op->done_ns = CLOCK_NEVER_NS;
	} else if (!sim.calm && sim_chance(s->drop)) {
		sim.drops++;
		op->lands = false;
		op->done_ns = CLOCK_NEVER_NS;
	} else if (!sim.calm && sim_chance(s->late)) {
		op->land_ns = op->done_ns = CLOCK_NEVER_NS;
	} else if (!sim.calm && op->write && sim_chance(s->torn)) {
		sim.torns++;
		op->torn_bytes = 1 + sim_below(op->bytes);
		op->status = -ECONNRESET;
	} else if (!sim.calm && op->write && sim_chance(s->refuse)) {
		op->lands = false;
		op->status = -ENOMEM;
	}
}

static int sim_post(struct fabric_region *region, const struct fabric_transfer *t, bool write)
{
	unsigned at = 0;
	sim_yield();
	if (!fabric_region_up(region))
		return -ENOTCONN; /* went while we yielded */
	while (at < ops_end && ops[at].region != NULL)
		at++;
	FM_ASSERT_LT(at, SIM_OPS_MAX);
	ops_end = FM_MAX(ops_end, at + 1);
	struct sim_op *op = &ops[at];
	*op = (struct sim_op){.region = FM_CONTAINER_OF(region, struct sim_region, region),
		.write = write,
		.offset = t->offset,
		.tag = t->tag,
		.deadline_ns = t->deadline_ns,
		.iov_count = t->iov_count};
	for (uint32_t i = 0; i < t->iov_count; i++) {
		op->iov[i] = t->iov[i];
		op->bytes += t->iov[i].iov_len;
	}
	op_choose_fate(op);
	next_event_ns = FM_MIN(next_event_ns, op->land_ns);
	return 0;
}

static int sim_post_read(struct fabric_region *region, const struct fabric_transfer *t)
{
	return sim_post(region, t, false);
}

static int sim_post_write(struct fabric_region *region, const struct fabric_transfer *t)
{
	return sim_post(region, t, true);
}

static void sim_progress(struct fabric_queue *queue)
{
	sim_yield();
	(void)sim_fabric_advance();
	for (unsigned i = 0; i < ops_end; i++) {
		struct sim_op *op = &ops[i];
		if (op->region == NULL || op->region->region.queue != queue)
			continue;
		struct sim_conn *conn = op->region->conn;
		int status = op->status;
		if (op->done_ns <= sim.now_ns && (op->landed || sim.bug == BUG_ACK_EARLY)) {
			if (sim.bug == BUG_ACK_EARLY && !op->landed && op->write)
				op_becomes_late(op);
			op_end(op, status);
			if (status == -ECONNRESET)
				conn_break(conn);
		} else if (op->deadline_ns <= sim.now_ns) {
			op_end(op, -ETIMEDOUT);
			conn_break(conn);
		}
	}
	while (ops_end > 0 && ops[ops_end - 1].region == NULL)
		ops_end--;
}

static const struct fabric_ops sim_fabric_ops;

static void sim_sleep(struct fabric_queue *queue, uint64_t until_ns)
{
	uint64_t until = until_ns;
	for (unsigned i = 0; i < ops_end; i++)
		if (ops[i].region != NULL && ops[i].region->region.queue == queue)
			until = FM_MIN(until, FM_MIN(ops[i].done_ns, ops[i].deadline_ns));
	if (until <= sim.now_ns)
		sim_yield_now();
	else
		sim_block(until);
}

/* ---- connections ---- */

static int sim_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	uint32_t node = (uint32_t)strtoul(endpoint + 4, NULL, 10);
	FM_ASSERT_LT(node, sim.nodes_count);
	struct sim_part *part = fabric_part(queue, &sim_fabric_ops);
	if (part == NULL) {
		part = calloc(1, sizeof(*part));
		FM_ASSERT(part != NULL);
		part->queue = queue;
		for (uint32_t i = 0; i < SIM_NODES_MAX; i++)
			part->conns[i].node = i;
		fabric_part_set(queue, &sim_fabric_ops, part);
	}
	int rc = sim_ask(node, deadline_ns);
	if (rc != 0)
		return rc;
	struct sim_lease *lease = sim_lease_find(node, capability);
	if (lease == NULL)
		return -EACCES;
	struct fabric_region *made = fabric_region_reserve(queue, &sim_fabric_ops);
	if (made == NULL)
		return -ENOSPC;
	struct sim_region *r = FM_CONTAINER_OF(made, struct sim_region, region);
	r->conn = &part->conns[node];
	r->lease = lease;
	r->epoch = lease->capability.epoch;
	r->region.bytes = lease->bytes;
	r->region.connection_generation = &r->conn->generation;
	r->region.generation = r->conn->generation;
	*region = made;
	return 0;
}

static void sim_detach(struct fabric_region *region)
{
	struct sim_region *r = FM_CONTAINER_OF(region, struct sim_region, region);
	for (unsigned i = 0; i < lates_end; i++)
		if (lates[i].region == r)
			late_drop(&lates[i]);
	fabric_region_release(region);
}

static int sim_fence(struct fabric_region *region, uint64_t deadline_ns)
{
	struct sim_region *r = FM_CONTAINER_OF(region, struct sim_region, region);
	int rc = sim_ask(r->conn->node, deadline_ns);
	if (rc != 0)
		return rc;
	if (!region_serves(r))
		return -EACCES;
	sim.fences++;
	for (unsigned i = 0; i < lates_end && sim.bug != BUG_NO_FENCE; i++)
		if (lates[i].region == r)
			late_drop(&lates[i]);
	r->region.generation = r->conn->generation;
	return 0;
}

static void sim_queue_close(struct fabric_queue *queue)
{
	struct sim_part *part = fabric_part(queue, &sim_fabric_ops);
	free(part);
}

static const struct fabric_ops sim_fabric_ops = {
	.name = "sim",
	.prefix = "sim:",
	.attach = sim_attach,
	.detach = sim_detach,
	.post_read = sim_post_read,
	.post_write = sim_post_write,
	.progress = sim_progress,
	.sleep = sim_sleep,
	.fence = sim_fence,
	.queue_close = sim_queue_close,
};

/* ---- nodes ---- */

void sim_fabric_node_crashed(uint32_t node)
{
	for (unsigned i = 0; i < lates_end; i++)
		if (lates[i].region != NULL && lates[i].region->conn->node == node)
			late_drop(&lates[i]);
	for (unsigned i = 0; i < ops_end; i++) {
		struct sim_op *op = &ops[i];
		if (op->region == NULL || op->region->conn->node != node ||
			op->done_ns <= sim.now_ns)
			continue;
		/* Landed or not, its acknowledgement does not come any more. */
		op->status = -ECONNRESET;
		op->lands = false;
		op->landed = true;
		op->done_ns = sim.now_ns + sim_below(200 * NS_PER_US);
	}
}

void sim_fabric_node_parted(uint32_t node)
{
	for (unsigned i = 0; i < ops_end; i++) {
		struct sim_op *op = &ops[i];
		if (op->region == NULL || op->region->conn->node != node ||
			op->done_ns <= sim.now_ns)
			continue;
		if (!op->landed) {
			op->lands = sim_chance(500000);
			op->land_ns = CLOCK_NEVER_NS;
		}
		op->done_ns = CLOCK_NEVER_NS;
	}
}

void sim_fabric_open(void)
{
	ops = calloc(SIM_OPS_MAX, sizeof(*ops));
	lates = calloc(SIM_LATE_MAX, sizeof(*lates));
	FM_ASSERT(ops != NULL && lates != NULL);
	next_event_ns = CLOCK_NEVER_NS;
	fabric_provider_register(&sim_fabric_ops);
}

void sim_fabric_close(void)
{
	free(ops);
	free(lates);
}
