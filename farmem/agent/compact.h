/*
 * farmem/agent/compact.h: the agent's half of compaction (DESIGN section 7): which spansets become
 * one, and the two-phase commit with the nodes that makes their new parities. The catalog's phases
 * are in farmem/catalog.h, the runtime's half in farmem/merge.h, the messages in rpc/memnode.proto
 * (MergeBegin .. MergeEnd).
 *
 *     compact_index.c   candidates by group and live positions; pairs      (pure;
 * compact_index_test.c) compact_tx.c      one transaction's life: phases, calls, time-outs   (no
 * gRPC: calls through ops) compact_local.c   local mode: deltas fetched, multiplied and sent on by
 * the agent agent_compact.c   transactions of all runtimes: how many, how fast, which mode; gRPC
 */
#ifndef FM_FARMEM_AGENT_COMPACT_H
#define FM_FARMEM_AGENT_COMPACT_H

#include "farmem/agent/agent.h"

/* ---- agent_compact.c, called by agent.c and agent_runtime.c ---- */
/* Regularly, and when the runtime says that merges moved (MAILBOX_MERGES). */
void compact_tick(struct agent *agent, uint64_t now_ns);
void compact_look(struct agent_runtime *runtime);
/* Transactions of this group are given up: a column of it was lost or is to be moved. */
void compact_leave_group(struct agent_runtime *runtime, uint32_t group);
/* A node went down: transactions in which it takes part are aborted; it need not acknowledge. */
void compact_node_down(struct agent *agent, unsigned node);
/* The runtime is gone, or was adopted from an earlier worker. */
void compact_forget(struct agent_runtime *runtime);
int compact_adopt(struct agent_runtime *runtime);

#endif
