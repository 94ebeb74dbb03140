/*
 * farmem/hedge.h: which node is slow, when a read is late, and how often a second way may be tried
 * (DESIGN section 7, Swap-in; "The Tail at Scale", Dean and Barroso 2013, for the idea).
 *
 * Used by spanset_hedge.c and spanset_fetch.c; knows no fabric and no fetch. A struct hedge belongs
 * to one thread: what it has learned of each node from its own direct reads, and its tokens.
 * Threads share one word per node, catalog_node.slow_until_ns, written only when a node becomes
 * slow or well again:
 *
 *     0              well
 *     later than now slow: reads go around it
 *     in the past    its pause is over: reads still go around it, but for probes, one at a time per
 *                    thread; HEDGE_PROBES_WELL fast ones in a row make it 0, a slow one makes the
 *                    pause twice as long
 *
 *      well --HEDGE_SLOW_AT points--> slow --pause over--> probed --fast ones--> well
 *                                       ^                     |
 *                                       +------ a slow one ---+
 *
 * Invariants
 *   1. Hedges and probes together are at most one per HEDGE_READS_PER_TOKEN reads, and
 *      HEDGE_BURST more.
 *   2. "Slow" is always relative to the other nodes of a group as seen by the same thread: a
 * machine that is busy makes nobody slow.
 *   3. One stall gives one point, however many reads it caught.
 */
#ifndef FM_FARMEM_HEDGE_H
#define FM_FARMEM_HEDGE_H

#include "farmem/core.h"

#define HEDGE_READS_PER_TOKEN 50u /* 2 % */
#define HEDGE_BURST 8u
/* A read is late after the largest of these three. */
#define HEDGE_FLOOR_NS (100 * NS_PER_US)
#define HEDGE_USUAL_FACTOR 4u           /* times the median of what the others usually take */
#define HEDGE_TAIL_FACTOR 2u            /* times the median of their 95th percentiles */
#define HEDGE_BLIND_NS (10 * NS_PER_MS) /* while too little is known of them */
#define HEDGE_PAGE_NS (20 * NS_PER_US)  /* in addition, for each further page of the same read */
#define HEDGE_AGAIN_NS (1 * NS_PER_MS)  /* no token, or no k others: looked at again */
#define HEDGE_SAMPLES_MIN 8u            /* of a node, before others are held against it */
/* Slow points: a read that took HEDGE_SLOW_FACTOR times the others' median (instead of
 * HEDGE_USUAL_FACTOR), or was beaten by a hedge. */
#define HEDGE_SLOW_FACTOR 8u
#define HEDGE_WELL_FACTOR 4u /* a probe within so many times it is fast */
#define HEDGE_POINTS 2u      /* each other read takes one away */
#define HEDGE_SLOW_AT 16u
#define HEDGE_PAUSE_MIN_NS (200 * NS_PER_MS)
#define HEDGE_PAUSE_MAX_NS (10 * NS_PER_S)
#define HEDGE_FORGIVE_NS                                                                           \
	(30 * NS_PER_S) /* well for so long: the next pause is the shortest again */
#define HEDGE_PROBES_WELL 4u

struct hedge_node {
	uint32_t usual_ns; /* moving average; 0: nothing known */
	uint32_t tail_ns;  /* about the 95th percentile */
	uint32_t samples;  /* stops at HEDGE_SAMPLES_MIN */
	uint16_t points;
	uint8_t probing; /* one is on its way */
	uint8_t probes_fast;
	uint64_t point_ns; /* of the last point */
	uint64_t pause_ns; /* the last one */
	uint64_t well_ns;  /* since when; 0: slow, or always was well */
};

struct hedge {
	uint32_t credit; /* in reads; HEDGE_READS_PER_TOKEN of them are a token */
	struct hedge_node nodes[CATALOG_NODES_MAX];
};

/* A direct read: of which column, from whom, and when. */
struct hedge_read {
	uint32_t group, pos, node;
	uint32_t pages; /* at least 1 */
	uint64_t begun_ns;
};

enum hedge_way { HEDGE_DIRECT, HEDGE_AROUND, HEDGE_PROBE };

void hedge_open(struct hedge *h);

/* Slow, or being probed. */
static inline bool hedge_node_slow(const struct core *core, uint32_t node)
{
	return atomic_load_explicit(
		       &core->catalog.nodes[node].slow_until_ns, memory_order_relaxed) != 0;
}
/* Is a node of this group in its pause? For stores, which go elsewhere if they can. */
bool hedge_group_slow(const struct core *core, uint32_t group, uint64_t now_ns);

/* A read was posted. */
static inline void hedge_earn(struct hedge *h)
{
	h->credit += h->credit < HEDGE_BURST * HEDGE_READS_PER_TOKEN;
}
/* Takes a token. False: there is none. */
bool hedge_spend(struct hedge *h);

/* k other positions on nodes that are up and not slow: there is a way around `pos`. */
bool hedge_has_others(const struct core *core, uint32_t group, unsigned pos);
/* How long such a read may take before it is late. */
uint64_t hedge_after(const struct hedge *h, const struct core *core, const struct hedge_read *read);
/* The way of a read from a node that is slow (hedge_node_slow). A probe must be told of by
 * hedge_probed. */
enum hedge_way hedge_choose(
	struct hedge *h, const struct core *core, uint32_t node, uint64_t now_ns);

/* A direct read has come, and was no probe. */
void hedge_learn(
	struct hedge *h, struct core *core, const struct hedge_read *read, uint64_t now_ns);
/* A hedge beat it, or its deadline did: it may never come. */
void hedge_beaten(
	struct hedge *h, struct core *core, const struct hedge_read *read, uint64_t now_ns);
/* A probe has come (or failed: came = false). */
void hedge_probed(struct hedge *h, struct core *core, const struct hedge_read *read,
	uint64_t now_ns, bool came);

#endif
