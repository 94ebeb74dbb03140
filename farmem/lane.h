/*
 * farmem/lane.h: one thread's way to the nodes: its fabric queue and its handles on the groups'
 * regions.
 *
 * Used by spanset*.c. A lane belongs to one thread. Regions are attached at first use and mended by
 * a fence after they broke; a node that does not answer is left alone for a while and reported as
 * suspect. When the agent replaces a column (catalog.h, struct catalog_column), the lane notices by
 * the column's generation and attaches the new place.
 */
#ifndef FM_FARMEM_LANE_H
#define FM_FARMEM_LANE_H

#include "farmem/core.h"

#define LANE_QUARANTINE_MAX 8192
#define LANE_STALE_MAX 64 /* regions of replaced columns, until nothing is in flight */

struct lane_doubt {
	uint32_t group;
	uint32_t pos;
	uint32_t slot;
	uint32_t generation; /* of the column: another one means that the doubtful memory is gone */
};

/* A region and which lease it is attached to. */
struct lane_way {
	struct fabric_region *region;
	uint64_t identity;   /* of its capability; 0: none */
	uint32_t generation; /* of the column when it was cur */
	uint32_t reserved;
};

struct lane {
	struct core *core;
	struct fabric_queue *queue;
	struct lane_way *cur;  /* [group * EC_N_MAX + column] */
	struct lane_way *next; /* likewise */
	uint64_t node_retry_ns[CATALOG_NODES_MAX];
	unsigned stale_count;
	struct fabric_region *stale[LANE_STALE_MAX];
	unsigned quarantine_count;
	struct lane_doubt quarantine[LANE_QUARANTINE_MAX];
};

/* 0 or -errno. */
int lane_open(struct lane *lane, struct core *core, uint64_t spin_ns) FM_MUST_USE;
/* Nothing may be in flight. */
void lane_close(struct lane *lane);
/* The region behind a column, ready for a post, or NULL. `any`: a merely suspected node will do. */
struct fabric_region *lane_region(struct lane *lane, uint32_t group, unsigned pos, bool any);
/*
 * Where a slot may be read: cur, or the replacement that already has it; or NULL: an erasure for
 * now. *node: whom to suspect when the read fails.
 */
struct fabric_region *lane_source(
	struct lane *lane, struct lane_doubt at, bool any, uint32_t *node);
/* The node failed an operation: UP -> SUSPECT, and whoever speaks with the agent is told. */
void lane_suspect(struct lane *lane, uint32_t node);
/* A write to this slot, posted under this generation of its column, may still land. */
void lane_doubtful(struct lane *lane, struct lane_doubt doubt);
/* Fences broken regions whose node is up again, and frees the slots whose doubt is over. */
void lane_settle(struct lane *lane);
static inline bool lane_column_lost(const struct core *core, uint32_t group, unsigned pos)
{
	return atomic_load_explicit(
		       &core->catalog.groups[group].columns[pos].lost, memory_order_acquire) != 0;
}
static inline uint32_t lane_generation(const struct core *core, uint32_t group, unsigned pos)
{
	return atomic_load_explicit(
		&core->catalog.groups[group].columns[pos].generation, memory_order_acquire);
}
/* Beyond recall for good, as things are: lost, and not in a replacement either. */
bool lane_gone(const struct core *core, struct lane_doubt at);

#endif
