/*
 * farmem/lane.c: see lane.h.
 *
 * Invariants
 *   1. A region is detached only when nothing of this lane's queue is in flight.
 *   2. A place is believed only if its column's generation (next: its repair) is the same after
 *      copying it as before: the agent writes places only where nobody may look. Which place is
 *      next is told by the repair's own generation: the column's is one more between the commit
 *      and the end of the repair (tests/model/column.pml, BUG_NEXT_BY_GENERATION).
 *   3. A doubtful slot is given back after a fence of the region it was written to, or when that
 *      region is no longer the column's (lost, or replaced): then a late write hits memory that
 *      nobody reads.
 */
#include "farmem/lane.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/mem.h"
#include "farmem/scheme.h"
#include "farmem/slot.h"
#include "rpc/fabric.h"

#define LANE_ATTACH_NS (100 * NS_PER_MS) /* a connect or fence on a data path takes no longer */
/* The first connection to a region by RDMA: the node registers the region then. */
#define LANE_ATTACH_VERBS_NS (500 * NS_PER_MS)
#define LANE_PAUSE_NS (100 * NS_PER_MS) /* between attempts at a node that did not answer */
#define LANE_TRIES 3                    /* a column replaced meanwhile is looked at again */
#define LANE_WAYS_BYTES (CATALOG_GROUPS_MAX * EC_N_MAX * sizeof(struct lane_way))

void lane_suspect(struct lane *lane, uint32_t node)
{
	struct core *core = lane->core;
	uint32_t up = NODE_UP;
	if (atomic_compare_exchange_strong(&core->catalog.nodes[node].state, &up, NODE_SUSPECT) &&
		core->report_suspect)
		core->report_suspect(core, node);
}

static bool lane_node_usable(const struct lane *lane, uint32_t node, bool any)
{
	uint32_t state =
		atomic_load_explicit(&lane->core->catalog.nodes[node].state, memory_order_acquire);
	return state == NODE_UP || (any && state == NODE_SUSPECT);
}

/* Connects, or makes a broken region whole by a fence. 0; -EAGAIN: tried in vain a moment ago. */
static int lane_mend(
	struct lane *lane, const struct catalog_place *place, struct fabric_region **region)
{
	uint64_t now = clock_now_ns();
	const struct catalog_node *node = &lane->core->catalog.nodes[place->node];
	if (now < lane->node_retry_ns[place->node])
		return -EAGAIN;
	if (*region == NULL ? FAULT_POINT("lane.attach") : FAULT_POINT("lane.fence"))
		return -ETIMEDOUT;
	const bool verbs = strncmp(node->endpoint, "verbs:", 6) == 0;
	if (*region == NULL)
		return fabric_attach(lane->queue, node->endpoint, &place->capability,
			now + (verbs ? LANE_ATTACH_VERBS_NS : LANE_ATTACH_NS), region);
	return fabric_fence(*region, now + LANE_ATTACH_NS);
}

/* The node did not answer, or refused what it lent. */
static void lane_blame(struct lane *lane, uint32_t node, int rc)
{
	if (rc == -EAGAIN)
		return;
	log_debug("lane: no way to node=%s error=%d", lane->core->catalog.nodes[node].name, rc);
	lane->node_retry_ns[node] = clock_now_ns() + LANE_PAUSE_NS;
	lane_suspect(lane, node);
}

/* ---- replaced columns ---- */

static void lane_sweep(struct lane *lane)
{
	if (lane->stale_count == 0 || fabric_in_flight(lane->queue) != 0)
		return;
	while (lane->stale_count > 0)
		fabric_detach(lane->stale[--lane->stale_count]);
}

/* The way's region is of a place that is no more. False: no room to put it away now. */
static bool lane_retire(struct lane *lane, struct lane_way *way)
{
	if (way->region == NULL)
		return true;
	if (lane->stale_count == LANE_STALE_MAX)
		lane_sweep(lane);
	if (lane->stale_count == LANE_STALE_MAX || FAULT_POINT("lane.retire"))
		return false;
	lane->stale[lane->stale_count++] = way->region;
	*way = (struct lane_way){NULL, 0, 0, 0};
	lane_sweep(lane);
	return true;
}

/* Tells leases apart; of one lease, before and after a fence. */
static uint64_t lane_identity(const struct fabric_capability *capability)
{
	uint64_t key;
	memcpy(&key, capability->key, sizeof key);
	return (key ^ (uint64_t)capability->epoch << 48 ^ capability->lease << 1) | 1;
}

/* Makes the way fit the place. False when that is not possible now. */
static bool lane_turn(struct lane *lane, struct lane_way *way, struct lane_way *other,
	const struct catalog_place *place)
{
	uint64_t identity = lane_identity(&place->capability);
	if (way->identity == identity)
		return true;
	if (!lane_retire(lane, way))
		return false;
	if (other->identity == identity) {
		*way = *other; /* what was next is cur now */
		*other = (struct lane_way){NULL, 0, 0, 0};
	}
	way->identity = identity;
	return true;
}

static struct fabric_region *lane_attach_cur(
	struct lane *lane, uint32_t group, unsigned pos, uint32_t generation)
{
	struct catalog_column *column = &lane->core->catalog.groups[group].columns[pos];
	struct lane_way *way = &lane->cur[group * EC_N_MAX + pos];
	struct catalog_place place = column->places[generation & 1];
	atomic_thread_fence(memory_order_acquire);
	if (lane_generation(lane->core, group, pos) != generation ||
		!lane_turn(lane, way, &lane->next[group * EC_N_MAX + pos], &place))
		return NULL;
	way->generation = generation;
	int rc = lane_mend(lane, &place, &way->region);
	if (rc == 0)
		return way->region;
	/* A lease that was given back because the column is elsewhere now is nobody's fault. */
	if (lane_generation(lane->core, group, pos) == generation)
		lane_blame(lane, place.node, rc);
	return NULL;
}

static struct fabric_region *lane_region_once(
	struct lane *lane, uint32_t group, unsigned pos, bool any)
{
	struct catalog_column *column = &lane->core->catalog.groups[group].columns[pos];
	if (lane_column_lost(lane->core, group, pos))
		return NULL;
	/* After `lost`: a column found well again shows its new generation. */
	uint32_t generation = lane_generation(lane->core, group, pos);
	uint32_t node = column->places[generation & 1].node % CATALOG_NODES_MAX;
	if (!lane_node_usable(lane, node, any))
		return NULL;
	struct lane_way *way = &lane->cur[group * EC_N_MAX + pos];
	if (fm_likely(way->region != NULL && way->generation == generation &&
		      fabric_region_up(way->region)))
		return way->region;
	return lane_attach_cur(lane, group, pos, generation);
}

struct fabric_region *lane_region(struct lane *lane, uint32_t group, unsigned pos, bool any)
{
	for (unsigned try = 0; try < LANE_TRIES; try++) {
		uint32_t generation = lane_generation(lane->core, group, pos);
		struct fabric_region *region = lane_region_once(lane, group, pos, any);
		if (fm_likely(region != NULL) ||
			lane_generation(lane->core, group, pos) == generation)
			return region;
	}
	return NULL;
}

static bool lane_is_done(const struct core *core, struct lane_doubt at, uint32_t repair)
{
	if (repair == 0 || repair > CATALOG_REPAIRS_MAX || at.slot >= CATALOG_SLOTS_MAX)
		return false;
	uint64_t bits = atomic_load_explicit(
		&catalog_done_bits(&core->catalog, repair - 1)[at.slot / 64], memory_order_acquire);
	return (bits >> (at.slot % 64)) & 1;
}

bool lane_gone(const struct core *core, struct lane_doubt at)
{
	const struct catalog_column *column = &core->catalog.groups[at.group].columns[at.pos];
	uint32_t repair = atomic_load_explicit(&column->repair, memory_order_acquire);
	return lane_column_lost(core, at.group, at.pos) && !lane_is_done(core, at, repair);
}

/* The replacement of a column, where it has the slot already. */
static struct fabric_region *lane_next(
	struct lane *lane, struct lane_doubt at, bool any, uint32_t *node)
{
	const struct catalog *catalog = &lane->core->catalog;
	struct catalog_column *column = &catalog->groups[at.group].columns[at.pos];
	uint32_t repair = atomic_load_explicit(&column->repair, memory_order_acquire);
	if (!lane_is_done(lane->core, at, repair))
		return NULL;
	uint32_t generation = catalog->repairs[repair - 1].generation;
	struct catalog_place place = column->places[(generation + 1) & 1];
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&column->repair, memory_order_acquire) != repair ||
		place.node >= CATALOG_NODES_MAX || !lane_node_usable(lane, place.node, any))
		return NULL;
	struct lane_way *way = &lane->next[at.group * EC_N_MAX + at.pos];
	struct lane_way none = {NULL, 0, 0, 0};
	*node = place.node;
	if (!lane_turn(lane, way, &none, &place))
		return NULL;
	if (way->region != NULL && fabric_region_up(way->region))
		return way->region;
	int rc = lane_mend(lane, &place, &way->region);
	if (rc == 0)
		return way->region;
	if (atomic_load_explicit(&column->repair, memory_order_acquire) == repair)
		lane_blame(lane, place.node, rc);
	return NULL;
}

struct fabric_region *lane_source(struct lane *lane, struct lane_doubt at, bool any, uint32_t *node)
{
	struct catalog_column *column = &lane->core->catalog.groups[at.group].columns[at.pos];
	*node = catalog_column_node(column);
	struct fabric_region *region = lane_region(lane, at.group, at.pos, any);
	if (fm_likely(region != NULL ||
		      atomic_load_explicit(&column->repair, memory_order_relaxed) == 0))
		return region;
	return lane_next(lane, at, any, node);
}

/* ---- doubts ---- */

void lane_doubtful(struct lane *lane, struct lane_doubt doubt)
{
	slot_quarantine(lane->core, group_id_make(doubt.group), doubt.pos, doubt.slot);
	if (lane->quarantine_count == LANE_QUARANTINE_MAX) {
		log_ratelimited(LOG_WARN, "lane: quarantine full, a slot stays unused group=%u",
			doubt.group);
		return;
	}
	lane->quarantine[lane->quarantine_count++] = doubt;
}

/* Invariant 3. */
static bool lane_doubt_over(struct lane *lane, const struct lane_doubt *d)
{
	if (lane_column_lost(lane->core, d->group, d->pos) ||
		lane_generation(lane->core, d->group, d->pos) != d->generation)
		return true;
	/* A region that is up again has been fenced since. */
	return lane_region(lane, d->group, d->pos, false) != NULL &&
	       lane_generation(lane->core, d->group, d->pos) == d->generation;
}

void lane_settle(struct lane *lane)
{
	unsigned kept = 0;
	lane_sweep(lane);
	for (unsigned i = 0; i < lane->quarantine_count; i++) {
		struct lane_doubt d = lane->quarantine[i];
		if (!lane_doubt_over(lane, &d)) {
			lane->quarantine[kept++] = d;
			continue;
		}
		const struct catalog *c = &lane->core->catalog;
		catalog_count(c, slots_quarantined_bytes,
			-(uint64_t)scheme_slot_bytes(c, &c->groups[d.group]));
		slot_give(lane->core, group_id_make(d.group), d.pos, d.slot);
	}
	lane->quarantine_count = kept;
}

int lane_open(struct lane *lane, struct core *core, uint64_t spin_ns)
{
	struct fabric_queue_options options = {.depth = FABRIC_DEPTH_MAX, .spin_ns = spin_ns};
	lane->core = core;
	lane->cur = mem_map(LANE_WAYS_BYTES);
	lane->next = mem_map(LANE_WAYS_BYTES);
	if (lane->cur == NULL || lane->next == NULL)
		return -ENOMEM;
	return fabric_queue_open(&options, &lane->queue);
}

void lane_close(struct lane *lane)
{
	fabric_queue_close(lane->queue);
	mem_unmap(lane->cur, lane->cur ? LANE_WAYS_BYTES : 0);
	mem_unmap(lane->next, lane->next ? LANE_WAYS_BYTES : 0);
	lane->queue = NULL;
	lane->cur = lane->next = NULL;
	lane->stale_count = 0;
}
