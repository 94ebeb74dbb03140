/*
 * farmem/agent/compact.h: the agent's half of compaction (DESIGN section 7): which spansets become
 * one, and the two-phase commit with the nodes that makes their new parities. The catalog's phases
 * are in farmem/catalog.h, the runtime's half in farmem/merge.h, the messages in rpc/memnode.proto
 * (MergeBegin .. MergeEnd).
 *
 *     compact_index.c       candidates by group and live positions; pairs
 *     compact_tx.c          one transaction's life: phases, calls, time-outs; calls through ops
 *     compact_local.c       local mode: deltas are multiplied and sent on by the agent
 *     compact_pace.c        how fast, so that the program keeps its throughput
 *     agent_compact.c       transactions of all runtimes: how many, of which group, in which mode
 *     agent_compact_call.c  their calls to the nodes
 *
 * What is agreed with the runtime's repack (farmem/repack.c). header.compacting is 1 while the
 * agent compacts and keeps up: --compact is not off, and dead space is below COMPACT_DEAD_LOSING or
 * pairs are found. Then repack leaves sparse spansets alone up to its REPACK_DEAD_COMPACTING, and
 * rewrites above its REPACK_DEAD_GOAL only what is cold and has found no partner. When nodes do not
 * take part (an older version) or pairs run out while more is dead, it is 0, and repack does all of
 * it.
 */
#ifndef FM_FARMEM_AGENT_COMPACT_H
#define FM_FARMEM_AGENT_COMPACT_H

#include "farmem/agent/agent.h"
#include "farmem/agent/compact_index.h"
#include "farmem/agent/compact_pace.h"
#include "farmem/agent/compact_tx.h"

#define COMPACT_WORKS_MAX 64              /* known at once, of all runtimes */
#define COMPACT_BEGUN_MAX 8u              /* under way before another one is begun */
#define COMPACT_BEGUN_BUSY 3u             /* the same while a program is busy */
#define COMPACT_LOOK_RECORDS 65536u       /* before other events have their turn */
#define COMPACT_TICK_NS (5 * NS_PER_MS)   /* while something is under way */
#define COMPACT_REST_NS (200 * NS_PER_MS) /* else */
#define COMPACT_PASS_NS (250 * NS_PER_MS) /* between passes over the records, for each million */
#define COMPACT_CALL_NS (CTL_MERGE_NS + NS_PER_S)
/* Shares of the data positions, in percent. Below DEAD_BEGIN nothing is worth it; from DEAD_SMALL
 * on, few pairs are too; from DEAD_PRESSED on far memory comes before the last percent of
 * throughput. */
#define COMPACT_DEAD_BEGIN 3u
#define COMPACT_DEAD_SMALL 8u
#define COMPACT_DEAD_PRESSED 15u
#define COMPACT_DEAD_LOSING 25u
#define COMPACT_PAIRS_MIN 16u /* in a transaction, below COMPACT_DEAD_SMALL */
#define COMPACT_LOAD_CLASS 5u /* agent_load.c: nodes as busy as that are spared: 8 ms and more */
/* A group whose transaction was aborted: doubles; so long at once when a node knows no merges. */
#define COMPACT_PAUSE_FIRST_NS (100 * NS_PER_MS)
#define COMPACT_PAUSE_MAX_NS (60 * NS_PER_S)

struct compact_work {
	struct agent *agent;
	struct agent_runtime *runtime; /* NULL: gone */
	uint32_t merge;                /* index into the catalog's merges */
	uint64_t begun_ns;
	struct compact_tx tx;
};

/* What is remembered of a group between its transactions. */
struct compact_group {
	uint64_t not_before_ns, pause_ns;
};

struct compact_runtime {
	struct compact_index *index;
	bool ended;       /* the pass: pairs are taken from it */
	bool found;       /* it had pairs */
	bool able;        /* the last transaction was not refused by an older node */
	uint64_t pass_ns; /* when the next pass begins */
	struct compact_group *groups;
	unsigned groups_capacity;
};

struct compact_agent {
	struct agent *agent;
	struct agent_source timer;
	uint64_t armed_ns;
	unsigned count, turn;
	struct compact_work *works[COMPACT_WORKS_MAX];
	struct compact_pace pace;
	uint64_t sent_bytes; /* of all transactions, ever */
	bool again;          /* something was taken from the nodes' answers: look now */
	struct {
		int node; /* whose address it is; -1: of none */
		char address[FABRIC_ENDPOINT_MAX];
	} addresses[AGENT_MEMBERS_MAX];
};

/* ---- agent_compact.c ---- */
/* 0 or -errno. Called by nodes_begin. */
int compact_begin(struct agent *agent) FM_MUST_USE;
/* The runtime says that merges moved (MAILBOX_MERGES). Entries that an earlier worker left are
 * found by the timer. */
void compact_look(struct agent_runtime *runtime);
/* A node went down: transactions in which it takes part are aborted; it need not acknowledge. */
void compact_node_down(struct agent *agent, unsigned node);
/* The runtime is gone; its catalog is still there. Called by groups_release. */
void compact_forget(struct agent_runtime *runtime);
/* Its program is gone and forked children read on: nobody claims or publishes any more. */
void compact_outlive(struct agent_runtime *runtime);
/* The timer fires then, or earlier. */
void compact_arm(struct agent *agent, uint64_t at_ns);
/* A call of it has ended; frees it when it was the last one. */
void compact_work_put(struct compact_work *work);

/* ---- agent_compact_call.c ---- */
extern const struct compact_ops compact_call_ops;

#endif
