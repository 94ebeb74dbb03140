/*
 * farmem/agent/compact_local.c: local mode: the agent multiplies. See compact_local.h; caller:
 * compact_tx.c.
 *
 * A part has at most CTL_MERGE_PARTIALS pieces, so that a part's deltas and each of its partials
 * are one message. What a part's deltas were is not kept: when a partial was not taken, the whole
 * part is asked for again.
 */
#include "farmem/agent/compact_local.h"

#include <errno.h>

#include "base/assert.h"
#include "base/crc.h"

FM_BUILD_ASSERT(CTL_MERGE_PARTIALS == 64, "pieces of a part are bits of a word");

uint32_t compact_local_pieces(
	const struct compact_task *task, struct ctl_merge_piece *pieces, uint32_t count)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < count; i++)
		if ((task->sent >> i & 1) != 0)
			pieces[kept++] = pieces[i];
	return kept;
}

static int partial_send(struct compact_tx *tx, struct compact_task *task, unsigned parity,
	const struct ctl_merge_piece *pieces, uint32_t count, const struct ctl_merge_sent *sent)
{
	static uint8_t bytes[CTL_MERGE_PARTIALS][FM_PAGE_SIZE];
	uint32_t indexes[CTL_MERGE_PARTIALS], crcs[CTL_MERGE_PARTIALS];
	struct compact_message message;
	const struct compact_call call = {.method = COMPACT_PARTIAL,
		.position = (uint8_t)(tx->k + parity),
		.source = task->position,
		.part = task->part,
		.round = tx->round};
	uint32_t kept = 0;
	for (uint32_t i = 0; i < count; i++) {
		if (sent->outcomes[i] != CTL_MERGE_DONE)
			continue;
		ec_partial(&tx->code, FM_PAGE_SIZE, task->position, parity,
			sent->deltas + (uint64_t)i * FM_PAGE_SIZE, bytes[kept]);
		indexes[kept] = pieces[i].index;
		crcs[kept] = crc32c(bytes[kept], FM_PAGE_SIZE);
		kept++;
	}
	message.partial = (struct ctl_merge_partial){.txid = tx->txid,
		.target = tx->places[tx->k + parity].capability,
		.position = task->position,
		.count = kept,
		.indexes = indexes,
		.crcs = crcs,
		.bytes = bytes[0]};
	int error = tx->ops->call(tx->context, tx, &call, &message);
	if (error != 0)
		return error;
	tx->calls++;
	task->partials++;
	tx->sent_bytes += (uint64_t)kept * FM_PAGE_SIZE;
	catalog_count(tx->catalog, merge_bytes, (uint64_t)kept * FM_PAGE_SIZE);
	return 0;
}

int compact_local_send(struct compact_tx *tx, struct compact_task *task,
	const struct ctl_merge_piece *pieces, uint32_t count, const struct ctl_merge_sent *sent)
{
	FM_ASSERT(count <= CTL_MERGE_PARTIALS);
	task->sent = 0;
	for (uint32_t i = 0; i < count; i++)
		task->sent |= (uint64_t)(sent->outcomes[i] == CTL_MERGE_DONE) << i;
	for (unsigned q = 0; q < tx->m && task->sent != 0; q++) {
		int error = partial_send(tx, task, q, pieces, count, sent);
		if (error != 0 && task->partials == 0)
			return error;
		if (error != 0) {
			task->failed = true;
			task->error = error;
		}
	}
	return 0;
}
