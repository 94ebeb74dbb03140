/*
 * farmem/agent/compact_fake.h: memory nodes as the contract of compaction has them
 * (rpc/memnode.proto, MergeBegin .. MergeEnd), for compact_tx_test.c only: bytes are real, messages
 * are events of a simulated time, which may be lost, repeated and late.
 */
#ifndef FM_FARMEM_AGENT_COMPACT_FAKE_H
#define FM_FARMEM_AGENT_COMPACT_FAKE_H

#include <errno.h>

#include "base/crc.h"
#include "base/test.h"
#include "farmem/agent/compact_tx.h"

#define FAKE_SLOTS 32u
#define FAKE_PAIRS 8u
#define FAKE_TXIDS 512u

struct fake_node {
	bool dead;                /* its incarnation has ended */
	bool old;                 /* knows nothing of merges */
	bool full;                /* has no scratch */
	uint64_t watermark, txid; /* txid: of the open one, or 0 */
	uint32_t count;
	struct ctl_merge_pair pairs[FAKE_PAIRS];
	uint32_t have[FAKE_PAIRS], crcs[FAKE_PAIRS][EC_K_MAX];
	bool spoilt[FAKE_PAIRS];
	uint8_t sums[FAKE_PAIRS][FM_PAGE_SIZE];
	uint8_t slots[FAKE_SLOTS][FM_PAGE_SIZE] FM_ALIGNED(8);
};

static struct {
	struct ec_code code;
	struct fake_node nodes[EC_N_MAX];
	bool ended[FAKE_TXIDS]; /* the runtime has seen the end of it: nothing may be stored */
	bool mutant_watermark;  /* a node that forgets what has ended: must be found */
} fake;

static bool fake_bad(const struct fake_node *node, uint32_t slot, uint32_t crc)
{
	return crc32c(node->slots[slot], FM_PAGE_SIZE) != crc;
}

static int fake_begin(struct fake_node *node, const struct ctl_merge_begin *begin)
{
	if (begin->txid <= node->watermark || begin->txid < node->txid)
		return -EPERM;
	if (node->full)
		return -ENOMEM;
	if (begin->txid == node->txid)
		return 0;
	node->watermark = FM_MAX(node->watermark, node->txid);
	node->txid = begin->txid;
	node->count = begin->count;
	CHECK_LE(begin->count, FAKE_PAIRS);
	memcpy(node->pairs, begin->pairs, begin->count * sizeof *begin->pairs);
	memset(node->have, 0, sizeof node->have);
	memset(node->spoilt, 0, sizeof node->spoilt);
	memset(node->sums, 0, sizeof node->sums);
	return 0;
}

/* Of a transaction that is open here? */
static int fake_open(const struct fake_node *node, uint64_t txid)
{
	if (txid <= node->watermark || txid < node->txid)
		return -EPERM;
	return txid == node->txid ? 0 : -ENOENT;
}

static uint8_t fake_add(
	struct fake_node *node, unsigned source, uint32_t index, uint32_t crc, const uint8_t *bytes)
{
	if (index >= node->count || (node->pairs[index].sources >> source & 1) == 0)
		return CTL_MERGE_REFUSED;
	bool repeat = (node->have[index] >> source & 1) != 0;
	if (crc32c(bytes, FM_PAGE_SIZE) != crc || (repeat && node->crcs[index][source] != crc)) {
		node->spoilt[index] = true;
		return CTL_MERGE_CONTRADICTS;
	}
	if (repeat)
		return CTL_MERGE_DONE;
	node->have[index] |= 1u << source;
	node->crcs[index][source] = crc;
	ec_delta(FM_PAGE_SIZE, node->sums[index], bytes, node->sums[index]);
	return CTL_MERGE_DONE;
}

static int fake_partial(
	struct fake_node *node, const struct ctl_merge_partial *partial, uint8_t *outcomes)
{
	int error = fake_open(node, partial->txid);
	for (uint32_t i = 0; error == 0 && i < partial->count; i++)
		outcomes[i] = fake_add(node, partial->position, partial->indexes[i],
			partial->crcs[i], partial->bytes + (size_t)i * FM_PAGE_SIZE);
	return error;
}

static uint8_t fake_assemble(struct fake_node *node, uint32_t i, uint32_t *crc)
{
	const struct ctl_merge_pair *pair = &node->pairs[i];
	if (node->spoilt[i])
		return CTL_MERGE_CONTRADICTS;
	if (node->have[i] != pair->sources)
		return CTL_MERGE_MISSING;
	if (fake_bad(node, pair->old_slot, pair->old_crc))
		return CTL_MERGE_BAD_A;
	/* T2, T3: whoever may use the slot by now would lose what it has there. */
	CHECK(!fake.ended[node->txid % FAKE_TXIDS]);
	ec_delta(FM_PAGE_SIZE, node->slots[pair->old_slot], node->sums[i],
		node->slots[pair->fresh_slot]);
	*crc = crc32c(node->slots[pair->fresh_slot], FM_PAGE_SIZE);
	return CTL_MERGE_DONE;
}

static int fake_prepare(struct fake_node *node, uint64_t txid, struct ctl_merge_prepared *prepared)
{
	int error = fake_open(node, txid);
	for (uint32_t i = 0; error == 0 && i < node->count; i++)
		prepared->outcomes[i] = fake_assemble(node, i, &prepared->crcs[i]);
	return error;
}

static int fake_end(struct fake_node *node, uint64_t txid)
{
	if (fake.mutant_watermark)
		return 0;
	node->watermark = FM_MAX(node->watermark, txid);
	if (node->txid <= txid)
		node->txid = 0;
	return 0;
}

/* The delta of a piece, or what is wrong with it. */
static uint8_t fake_delta(
	const struct fake_node *node, const struct ctl_merge_piece *piece, uint8_t *delta)
{
	if (fake_bad(node, piece->slot_a, piece->crc_a))
		return CTL_MERGE_BAD_A;
	if (fake_bad(node, piece->slot_b, piece->crc_b))
		return CTL_MERGE_BAD_B;
	ec_delta(FM_PAGE_SIZE, node->slots[piece->slot_a], node->slots[piece->slot_b], delta);
	return CTL_MERGE_DONE;
}

#endif
