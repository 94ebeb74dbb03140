/*
 * farmem/agent/compact_index.h: which spansets become one (DESIGN section 7, Compaction; Carbink
 * section 3.4.2).
 *
 * A pass looks at all records' headers, in portions, and notes those that are partly live, by group
 * and live positions. When it has ended, pairs are taken from it, group by group. What it noted may
 * have changed since: each pair is looked at again when it is taken, and the runtime, which claims
 * it, has the last word. Live positions of a spanset only become fewer, so that an old note is
 * seldom wrong, just not the best.
 *
 * Any two spansets of a group whose live positions are disjoint are worth it: k + m slots are free
 * for moving the positions of the emptier one. Complements come first, since they leave nothing
 * dead, then the fullest unions. Fully live ones have no room, fully dead ones are freed by the
 * runtime at once.
 *
 * Callers: agent_compact.c, tests/sim. No clock; memory from malloc, bounded.
 */
#ifndef FM_FARMEM_AGENT_COMPACT_INDEX_H
#define FM_FARMEM_AGENT_COMPACT_INDEX_H

#include "farmem/catalog.h"

#define COMPACT_CANDIDATES_MAX (1u << 20) /* noted in a pass; more: in the next one */
#define COMPACT_BUCKETS_MAX (1u << 14)    /* different (group, live positions) in a pass */
#define COMPACT_KINDS_MAX 256u            /* of them in one group that are paired */

struct compact_index;

/* What a whole pass has counted: positions of data. */
struct compact_totals {
	uint64_t positions, live;
};

/* NULL: no memory. The catalog outlives it. */
struct compact_index *compact_index_open(const struct catalog *catalog) FM_MUST_USE;
/* NULL is fine. */
void compact_index_close(struct compact_index *index);
/* Begins a pass: what was noted is forgotten. */
void compact_index_restart(struct compact_index *index);
/* Looks at up to `look` records more. True: the pass has ended. */
bool compact_index_look(struct compact_index *index, uint32_t look);
/* Of the last pass that ended. */
void compact_index_totals(const struct compact_index *index, struct compact_totals *totals);
/*
 * The group with the most dead positions of those that may have pairs and that `may` agrees to.
 * False: none is left.
 */
bool compact_index_group(const struct compact_index *index,
	bool (*may)(void *context, uint32_t group), void *context, uint32_t *group);
/* Up to `most` pairs of it, of each the fuller spanset first; none twice in a pass. 0: it has no
 * more. */
uint32_t compact_index_take(
	struct compact_index *index, uint32_t group, uint32_t (*pairs)[2], uint32_t most);

#endif
