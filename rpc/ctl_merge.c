/*
 * rpc/ctl_merge.c: see ctl_merge.h. Callers: farmem/agent (compaction), memnode/merge_send.c,
 * tests.
 *
 * Invariants
 *   1. Nothing from the wire is used before its length and range were checked here.
 *   2. An answer is taken whole or not at all.
 */
#include "rpc/ctl_merge.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "memnode.pb-c.h"

FM_BUILD_ASSERT(sizeof(struct ctl_merge_pair) == 4 * sizeof(uint32_t), "a pair is four numbers");
FM_BUILD_ASSERT(sizeof(struct ctl_merge_piece) == 5 * sizeof(uint32_t), "a piece is five");
FM_BUILD_ASSERT(
	CTL_MERGE_PARTIALS *(FM_PAGE_SIZE + 2 * sizeof(uint32_t)) + 4096 <= CTL_MESSAGE_BYTES_MAX,
	"partials, and deltas, fit one message");

/* ---- requests ---- */

int ctl_pack_merge_begin(const struct ctl_merge_begin *begin, struct ctl_packed *packed)
{
	FM_ASSERT(begin->count >= 1 && begin->count <= CTL_MERGE_PAIRS);
	Farmem__V1__MergeBeginRequest request = FARMEM__V1__MERGE_BEGIN_REQUEST__INIT;
	Farmem__V1__Capability target;
	const size_t numbers = begin->count * sizeof *begin->pairs / sizeof(uint32_t);
	ctl_capability_to_message(&begin->target, &target);
	request.txid = begin->txid;
	request.target = &target;
	request.position = begin->position;
	request.k = begin->k;
	request.m = begin->m;
	request.pairs.len = numbers * sizeof(uint32_t);
	request.pairs.data = ctl_pack_numbers((const uint32_t *)begin->pairs, numbers);
	int error = request.pairs.data != NULL ? ctl_pack_message(&request.base, packed) : -ENOMEM;
	free(request.pairs.data);
	return error;
}

int ctl_pack_merge_send(const struct ctl_merge_send *send, struct ctl_packed *packed)
{
	FM_ASSERT(send->targets_count <= CTL_MERGE_TARGETS);
	FM_ASSERT(send->count >= 1 &&
		  send->count <= (send->targets_count ? CTL_MERGE_PAIRS : CTL_MERGE_PARTIALS));
	Farmem__V1__MergeSendRequest request = FARMEM__V1__MERGE_SEND_REQUEST__INIT;
	Farmem__V1__Capability source, capabilities[CTL_MERGE_TARGETS];
	Farmem__V1__MergeTarget targets[CTL_MERGE_TARGETS], *pointers[CTL_MERGE_TARGETS];
	const size_t numbers = send->count * sizeof *send->pieces / sizeof(uint32_t);
	for (unsigned i = 0; i < send->targets_count; i++) {
		farmem__v1__merge_target__init(&targets[i]);
		ctl_capability_to_message(&send->targets[i].capability, &capabilities[i]);
		targets[i].address = (char *)(uintptr_t)send->targets[i].address;
		targets[i].capability = &capabilities[i];
		targets[i].position = send->targets[i].position;
		pointers[i] = &targets[i];
	}
	ctl_capability_to_message(&send->source, &source);
	request.txid = send->txid;
	request.source = &source;
	request.position = send->position;
	request.k = send->k;
	request.m = send->m;
	request.targets = pointers;
	request.n_targets = send->targets_count;
	request.pieces.len = numbers * sizeof(uint32_t);
	request.pieces.data = ctl_pack_numbers((const uint32_t *)send->pieces, numbers);
	int error = request.pieces.data != NULL ? ctl_pack_message(&request.base, packed) : -ENOMEM;
	free(request.pieces.data);
	return error;
}

int ctl_pack_merge_partial(const struct ctl_merge_partial *partial, struct ctl_packed *packed)
{
	FM_ASSERT(partial->count >= 1 && partial->count <= CTL_MERGE_PARTIALS);
	Farmem__V1__MergePartialRequest request = FARMEM__V1__MERGE_PARTIAL_REQUEST__INIT;
	Farmem__V1__Capability target;
	uint32_t pieces[CTL_MERGE_PARTIALS][2];
	for (uint32_t i = 0; i < partial->count; i++) {
		pieces[i][0] = htole32(partial->indexes[i]);
		pieces[i][1] = htole32(partial->crcs[i]);
	}
	ctl_capability_to_message(&partial->target, &target);
	request.txid = partial->txid;
	request.target = &target;
	request.position = partial->position;
	request.pieces.len = partial->count * sizeof pieces[0];
	request.pieces.data = (uint8_t *)pieces;
	request.partials.len = (size_t)partial->count * FM_PAGE_SIZE;
	request.partials.data = (uint8_t *)(uintptr_t)partial->bytes;
	return ctl_pack_message(&request.base, packed);
}

int ctl_pack_merge_prepare(
	uint64_t txid, const struct fabric_capability *target, struct ctl_packed *packed)
{
	Farmem__V1__MergePrepareRequest request = FARMEM__V1__MERGE_PREPARE_REQUEST__INIT;
	Farmem__V1__Capability capability;
	ctl_capability_to_message(target, &capability);
	request.txid = txid;
	request.target = &capability;
	return ctl_pack_message(&request.base, packed);
}

int ctl_pack_merge_end(uint64_t txid, const struct fabric_capability *target, bool commit,
	struct ctl_packed *packed)
{
	Farmem__V1__MergeEndRequest request = FARMEM__V1__MERGE_END_REQUEST__INIT;
	Farmem__V1__Capability capability;
	ctl_capability_to_message(target, &capability);
	request.txid = txid;
	request.target = &capability;
	request.commit = commit;
	return ctl_pack_message(&request.base, packed);
}

/* ---- answers ---- */

/* count outcomes, each of them one that there is. */
static int outcomes_take(const ProtobufCBinaryData *from, uint32_t count, uint8_t *outcomes)
{
	if (from->len != count || count > CTL_MERGE_PAIRS)
		return -EPROTO;
	for (uint32_t i = 0; i < count; i++)
		if (from->data[i] >= CTL_MERGE_OUTCOMES)
			return -EPROTO;
	memcpy(outcomes, from->data, count);
	return 0;
}

/* A number of protobuf's at *at. False: it ends too late. */
static bool varint_take(const uint8_t *bytes, size_t length, size_t *at, uint64_t *number)
{
	*number = 0;
	for (unsigned shift = 0; shift < 64 && *at < length; shift += 7) {
		const uint8_t byte = bytes[(*at)++];
		*number |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

#define DELTAS_FIELD 3u
enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/*
 * Where the deltas are in the message: protobuf-c would hand out a copy that dies with the unpacked
 * message. NULL: there is no such field of this length (the last one counts), or the message is
 * malformed.
 */
static const uint8_t *deltas_find(const struct ctl_result *result, size_t wanted)
{
	const uint8_t *found = NULL;
	size_t at = 0;
	while (at < result->length) {
		uint64_t tag, value;
		if (!varint_take(result->bytes, result->length, &at, &tag))
			return NULL;
		const unsigned type = tag & 7;
		if (type == WIRE_VARINT) {
			if (!varint_take(result->bytes, result->length, &at, &value))
				return NULL;
			continue;
		}
		if (type == WIRE_BYTES) {
			if (!varint_take(result->bytes, result->length, &at, &value))
				return NULL;
		} else if (type == WIRE_FIXED64 || type == WIRE_FIXED32) {
			value = type == WIRE_FIXED64 ? 8 : 4;
		} else {
			return NULL;
		}
		if (value > result->length - at)
			return NULL;
		if (type == WIRE_BYTES && tag >> 3 == DELTAS_FIELD)
			found = value == wanted ? result->bytes + at : NULL;
		at += value;
	}
	return found;
}

static int sent_from_message(const Farmem__V1__MergeSendReply *reply,
	const struct ctl_result *result, const struct ctl_merge_send *asked,
	struct ctl_merge_sent *sent)
{
	const size_t deltas = asked->targets_count ? 0 : (size_t)asked->count * FM_PAGE_SIZE;
	memset(sent, 0, sizeof *sent);
	if (asked->targets_count > CTL_MERGE_TARGETS ||
		reply->n_target_statuses != asked->targets_count || reply->deltas.len != deltas)
		return -EPROTO;
	int error = outcomes_take(&reply->outcomes, asked->count, sent->outcomes);
	if (error != 0)
		return error;
	for (unsigned i = 0; i < asked->targets_count; i++)
		sent->target_status[i] = ctl_source_error(reply->target_statuses[i]);
	sent->sent_bytes = reply->sent_bytes;
	if (deltas != 0)
		sent->deltas = deltas_find(result, deltas);
	return deltas == 0 || sent->deltas != NULL ? 0 : -EPROTO;
}

int ctl_unpack_merge_sent(const struct ctl_result *result, const struct ctl_merge_send *asked,
	struct ctl_merge_sent *sent)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__MergeSendReply *reply =
		farmem__v1__merge_send_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = sent_from_message(reply, result, asked, sent);
	farmem__v1__merge_send_reply__free_unpacked(reply, NULL);
	return error;
}

int ctl_unpack_merge_partial(const struct ctl_result *result, uint32_t count, uint8_t *outcomes)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__MergePartialReply *reply =
		farmem__v1__merge_partial_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = outcomes_take(&reply->outcomes, count, outcomes);
	farmem__v1__merge_partial_reply__free_unpacked(reply, NULL);
	return error;
}

int ctl_unpack_merge_prepared(
	const struct ctl_result *result, uint32_t count, struct ctl_merge_prepared *prepared)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__MergePrepareReply *reply =
		farmem__v1__merge_prepare_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	memset(prepared, 0, sizeof *prepared);
	int error = reply->crcs.len == (size_t)count * sizeof(uint32_t) ? 0 : -EPROTO;
	if (error == 0)
		error = outcomes_take(&reply->outcomes, count, prepared->outcomes);
	for (uint32_t i = 0; error == 0 && i < count; i++) {
		memcpy(&prepared->crcs[i], reply->crcs.data + i * sizeof(uint32_t),
			sizeof(uint32_t));
		prepared->crcs[i] = le32toh(prepared->crcs[i]);
	}
	farmem__v1__merge_prepare_reply__free_unpacked(reply, NULL);
	return error;
}
