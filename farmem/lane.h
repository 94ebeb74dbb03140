/*
 * farmem/lane.h: one thread's way to the nodes: its fabric queue and its handles on the groups'
 * regions.
 *
 * Used by spanset.c. A lane belongs to one thread. Regions are attached at first use and mended by
 * a fence after they broke; a node that does not answer is left alone for a while and reported as
 * suspect.
 */
#ifndef FM_FARMEM_LANE_H
#define FM_FARMEM_LANE_H

#include "farmem/core.h"

#define LANE_QUARANTINE_MAX 8192

struct lane_doubt {
	uint32_t group;
	uint32_t pos;
	uint32_t slot;
};

struct lane {
	struct core *core;
	struct fabric_queue *queue;
	struct fabric_region **regions; /* [group * EC_N_MAX + column] */
	uint64_t node_retry_ns[CATALOG_NODES_MAX];
	unsigned quarantine_count;
	struct lane_doubt quarantine[LANE_QUARANTINE_MAX];
};

/* 0 or -errno. */
int lane_open(struct lane *lane, struct core *core, uint64_t spin_ns) FM_MUST_USE;
/* Nothing may be in flight. */
void lane_close(struct lane *lane);
/* The region behind a column, ready for a post, or NULL. `any`: a merely suspected node will do. */
struct fabric_region *lane_region(struct lane *lane, uint32_t group, unsigned pos, bool any);
/* The node failed an operation: UP -> SUSPECT, and whoever speaks with the agent is told. */
void lane_suspect(struct lane *lane, uint32_t node);
/* A write to this slot may still land. */
void lane_doubtful(struct lane *lane, struct group_id group, unsigned pos, uint32_t slot);
/* Fences broken regions whose node is up again, and frees the slots whose doubt is over. */
void lane_settle(struct lane *lane);
static inline bool lane_column_lost(const struct core *core, uint32_t group, unsigned pos)
{
	return atomic_load_explicit(
		       &core->catalog.groups[group].columns[pos].lost, memory_order_acquire) != 0;
}

#endif
