/*
 * farmem/lane.c: see lane.h.
 */
#include "farmem/lane.h"

#include <errno.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "farmem/slot.h"
#include "rpc/fabric.h"

#define LANE_ATTACH_NS (100 * NS_PER_MS) /* a connect or fence on a data path takes no longer */
#define LANE_PAUSE_NS (100 * NS_PER_MS)  /* between attempts at a node that did not answer */
#define LANE_REGIONS_BYTES (CATALOG_GROUPS_MAX * EC_N_MAX * sizeof(struct fabric_region *))

void lane_suspect(struct lane *lane, uint32_t node)
{
	struct core *core = lane->core;
	uint32_t up = NODE_UP;
	if (atomic_compare_exchange_strong(&core->catalog.nodes[node].state, &up, NODE_SUSPECT) &&
		core->report_suspect)
		core->report_suspect(core, node);
}

/* Connects, or makes a broken region whole by a fence. NULL when the node does not answer now. */
static struct fabric_region *lane_mend(
	struct lane *lane, const struct catalog_column *column, struct fabric_region **place)
{
	uint64_t now = clock_now_ns();
	const struct catalog_node *node = &lane->core->catalog.nodes[column->node];
	int rc;
	if (now < lane->node_retry_ns[column->node])
		return NULL;
	if (*place == NULL)
		rc = fabric_attach(lane->queue, node->endpoint, &column->capability,
			now + LANE_ATTACH_NS, place);
	else
		rc = fabric_fence(*place, now + LANE_ATTACH_NS);
	if (rc == 0)
		return *place;
	log_debug("lane: no way to node=%s error=%d", node->name, rc);
	lane->node_retry_ns[column->node] = clock_now_ns() + LANE_PAUSE_NS;
	lane_suspect(lane, column->node);
	return NULL;
}

struct fabric_region *lane_region(struct lane *lane, uint32_t group, unsigned pos, bool any)
{
	struct catalog_column *column = &lane->core->catalog.groups[group].columns[pos];
	if (lane_column_lost(lane->core, group, pos))
		return NULL;
	uint32_t state = atomic_load_explicit(
		&lane->core->catalog.nodes[column->node].state, memory_order_acquire);
	if (state != NODE_UP && !(any && state == NODE_SUSPECT))
		return NULL;
	struct fabric_region **place = &lane->regions[group * EC_N_MAX + pos];
	if (fm_likely(*place != NULL && fabric_region_up(*place)))
		return *place;
	return lane_mend(lane, column, place);
}

void lane_doubtful(struct lane *lane, struct group_id group, unsigned pos, uint32_t slot)
{
	slot_quarantine(lane->core, group, pos, slot);
	if (lane->quarantine_count == LANE_QUARANTINE_MAX) {
		log_ratelimited(
			LOG_WARN, "lane: quarantine full, a slot stays unused group=%u", group.v);
		return;
	}
	lane->quarantine[lane->quarantine_count++] = (struct lane_doubt){group.v, pos, slot};
}

void lane_settle(struct lane *lane)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < lane->quarantine_count; i++) {
		struct lane_doubt d = lane->quarantine[i];
		bool lost = lane_column_lost(lane->core, d.group, d.pos);
		/* A region that is up again has been fenced since: the doubt is over. */
		if (!lost && lane_region(lane, d.group, d.pos, false) == NULL) {
			lane->quarantine[kept++] = d;
			continue;
		}
		catalog_count(
			&lane->core->catalog, slots_quarantined_bytes, -(uint64_t)FM_PAGE_SIZE);
		if (!lost)
			slot_give(lane->core, group_id_make(d.group), d.pos, d.slot);
	}
	lane->quarantine_count = kept;
}

int lane_open(struct lane *lane, struct core *core, uint64_t spin_ns)
{
	struct fabric_queue_options options = {.depth = FABRIC_DEPTH_MAX, .spin_ns = spin_ns};
	lane->core = core;
	lane->regions = mem_map(LANE_REGIONS_BYTES);
	if (lane->regions == NULL)
		return -ENOMEM;
	return fabric_queue_open(&options, &lane->queue);
}

void lane_close(struct lane *lane)
{
	fabric_queue_close(lane->queue);
	mem_unmap(lane->regions, LANE_REGIONS_BYTES);
	lane->queue = NULL;
	lane->regions = NULL;
}
