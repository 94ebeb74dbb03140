/*
 * farmem/agent/compact_local.h: local mode's part of a transaction (compact_tx.c): the deltas that
 * data nodes answered become partial parities, which go to the parity nodes.
 */
#ifndef FM_FARMEM_AGENT_COMPACT_LOCAL_H
#define FM_FARMEM_AGENT_COMPACT_LOCAL_H

#include "farmem/agent/compact_tx.h"

/* The task's partials are on their way: task->partials of them. 0, or -errno: some may be. */
int compact_local_send(struct compact_tx *tx, struct compact_task *task,
	const struct ctl_merge_piece *pieces, uint32_t count, const struct ctl_merge_sent *sent);
/* Those pieces of a part that are sent on, in their order; in place. Returns how many. */
uint32_t compact_local_pieces(
	const struct compact_task *task, struct ctl_merge_piece *pieces, uint32_t count);

#endif
