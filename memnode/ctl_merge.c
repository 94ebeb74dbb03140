/*
 * memnode/ctl_merge.c: compaction on the wire: messages to requests, results to answers. The work
 * is merge.c's and merge_send.c's; what is long of it is done by offload.c's workers.
 *
 * Invariants
 *   1. Nothing of a request is used before its length and range were checked (ctl_service_fuzz.c).
 *   2. MergeBegin, MergePartial and MergeEnd need no worker and no other node (merge.c has why).
 *   3. Addresses and keys appear in no text and no log line.
 */
#include "memnode/ctl_merge.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault_point.h"
#include "ec/ec.h"
#include "memnode.pb-c.h"
#include "memnode/ctl_service.h"
#include "memnode/merge.h"
#include "memnode/offload.h"

static int malformed(struct ctl_reply *reply)
{
	return ctl_reply_error(reply, -EINVAL, "the message is malformed");
}

static int merge_error(struct ctl_reply *reply, int error)
{
	switch (error) {
	case -EACCES:
		return ctl_reply_error(reply, error,
			"not a capability of this node (revoked, fenced off, or from before a "
			"restart)");
	case -EPERM:
		return ctl_reply_error(reply, error, "the transaction has ended");
	case -ENOENT:
		return ctl_reply_error(reply, error, "the transaction was not begun");
	case -EINVAL:
		return ctl_reply_error(reply, error,
			"a slot is not in the region, or the transaction was begun with other "
			"pairs");
	case -ENOMEM:
		return ctl_reply_error(reply, error, "busy with other merges, or no memory");
	case -EAGAIN:
		return ctl_reply_error(reply, error, "shutting down");
	}
	return ctl_reply_error(reply, -EIO, "reading or storing failed");
}

static int answer(struct ctl_reply *reply, const ProtobufCMessage *message, bool lost)
{
	if (lost || ctl_reply_message(reply, message) != 0)
		return ctl_reply_error(reply, -EIO, "the answer was lost");
	return 0;
}

/* Numbers of the wire, little-endian. NULL: no memory. */
static uint32_t *numbers_read(const ProtobufCBinaryData *from)
{
	const size_t count = from->len / sizeof(uint32_t);
	uint32_t *numbers = malloc(count * sizeof(*numbers));
	for (size_t i = 0; numbers && i < count; i++) {
		memcpy(&numbers[i], from->data + i * sizeof(*numbers), sizeof(*numbers));
		numbers[i] = le32toh(numbers[i]);
	}
	return numbers;
}

/* How many records there are; 0: none, or not a whole number of them. */
static size_t records_count(const ProtobufCBinaryData *from, size_t record_bytes)
{
	return from->len % record_bytes == 0 ? from->len / record_bytes : 0;
}

/* ---- MergeBegin ---- */

static const char *begin_read(
	const Farmem__V1__MergeBeginRequest *message, struct ctl_merge_begin *begin)
{
	const size_t count = records_count(&message->pairs, sizeof(struct ctl_merge_pair));
	if (message->position > UINT8_MAX || message->k > UINT8_MAX || message->m > UINT8_MAX)
		return "position, k or m is out of range";
	if (count < 1 || count > CTL_MERGE_PAIRS)
		return "pairs: 1..256, each 16 bytes";
	if (ctl_capability_from_message(message->target, &begin->target) != 0)
		return "the target's capability is malformed";
	begin->txid = message->txid;
	begin->position = (uint8_t)message->position;
	begin->k = (uint8_t)message->k;
	begin->m = (uint8_t)message->m;
	begin->count = (uint32_t)count;
	return NULL;
}

static int begin_checked(struct ctl_service *service, const Farmem__V1__MergeBeginRequest *message,
	struct ctl_reply *reply)
{
	Farmem__V1__MergeBeginReply result = FARMEM__V1__MERGE_BEGIN_REPLY__INIT;
	struct ctl_merge_begin begin = {0};
	const char *fault = begin_read(message, &begin);
	if (fault)
		return ctl_reply_error(reply, -EINVAL, "%s", fault);
	uint32_t *pairs = numbers_read(&message->pairs);
	if (!pairs)
		return merge_error(reply, -ENOMEM);
	begin.pairs = (const struct ctl_merge_pair *)pairs;
	fault = merge_begin_fault(&begin);
	int error;
	if (fault)
		error = ctl_reply_error(reply, -EINVAL, "%s", fault);
	else if ((error = merge_begin(offload_merges(service->options.offload), &begin)) != 0)
		error = merge_error(reply, error);
	else
		error = answer(reply, &result.base, FAULT_POINT("memnode.merge.begin.answer"));
	free(pairs);
	return error;
}

int ctl_handle_merge_begin(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__MergeBeginRequest *message =
		farmem__v1__merge_begin_request__unpack(NULL, length, bytes);
	if (!message)
		return malformed(reply);
	int error = begin_checked(context, message, reply);
	farmem__v1__merge_begin_request__free_unpacked(message, NULL);
	return error;
}

/* ---- MergeSend ---- */

static int target_read(const Farmem__V1__MergeTarget *message, struct ctl_merge_target *target)
{
	const size_t length = strlen(message->address);
	if (length >= sizeof(target->address) || message->position > UINT8_MAX)
		return -EINVAL;
	memcpy(target->address, message->address, length + 1);
	target->position = (uint8_t)message->position;
	return ctl_capability_from_message(message->capability, &target->capability);
}

/* All but the pieces. NULL, or what is wrong. */
static const char *send_read(
	const Farmem__V1__MergeSendRequest *message, struct ctl_merge_send *send)
{
	const size_t count = records_count(&message->pieces, sizeof(struct ctl_merge_piece));
	if (message->position > UINT8_MAX || message->k > UINT8_MAX || message->m > UINT8_MAX)
		return "position, k or m is out of range";
	if (count < 1 || count > CTL_MERGE_PAIRS)
		return "pieces: 1..256, each 20 bytes";
	if (message->n_targets > CTL_MERGE_TARGETS)
		return "at most 4 targets";
	if (ctl_capability_from_message(message->source, &send->source) != 0)
		return "the source's capability is malformed";
	for (unsigned t = 0; t < message->n_targets; t++)
		if (target_read(message->targets[t], &send->targets[t]) != 0)
			return "a target is malformed";
	send->txid = message->txid;
	send->position = (uint8_t)message->position;
	send->k = (uint8_t)message->k;
	send->m = (uint8_t)message->m;
	send->targets_count = (uint8_t)message->n_targets;
	send->count = (uint32_t)count;
	return NULL;
}

static int send_answer(
	struct ctl_reply *reply, const struct ctl_merge_send *send, struct ctl_merge_sent *sent)
{
	Farmem__V1__MergeSendReply message = FARMEM__V1__MERGE_SEND_REPLY__INIT;
	uint32_t statuses[CTL_MERGE_TARGETS];
	for (unsigned t = 0; t < send->targets_count; t++)
		statuses[t] = ctl_source_status(sent->target_status[t]);
	message.outcomes.data = sent->outcomes;
	message.outcomes.len = send->count;
	message.target_statuses = statuses;
	message.n_target_statuses = send->targets_count;
	message.sent_bytes = sent->sent_bytes;
	if (send->targets_count == 0) {
		message.deltas.data = (uint8_t *)(uintptr_t)sent->deltas;
		message.deltas.len = (size_t)send->count * FM_PAGE_SIZE;
	}
	return answer(reply, &message.base, FAULT_POINT("memnode.merge.send.answer"));
}

static int send_run(
	struct ctl_service *service, const struct ctl_merge_send *send, struct ctl_reply *reply)
{
	struct ctl_merge_sent sent;
	uint8_t *deltas = NULL;
	if (send->targets_count == 0 && !(deltas = calloc(send->count, FM_PAGE_SIZE)))
		return merge_error(reply, -ENOMEM);
	int error = offload_merge_send(service->options.offload, send, deltas, &sent);
	error = error ? merge_error(reply, error) : send_answer(reply, send, &sent);
	free(deltas);
	return error;
}

static int send_checked(struct ctl_service *service, const Farmem__V1__MergeSendRequest *message,
	struct ctl_reply *reply)
{
	struct ctl_merge_send send = {0};
	const char *fault = send_read(message, &send);
	if (fault)
		return ctl_reply_error(reply, -EINVAL, "%s", fault);
	uint32_t *pieces = numbers_read(&message->pieces);
	if (!pieces)
		return merge_error(reply, -ENOMEM);
	send.pieces = (const struct ctl_merge_piece *)pieces;
	fault = merge_send_fault(&send);
	int error = fault ? ctl_reply_error(reply, -EINVAL, "%s", fault)
			  : send_run(service, &send, reply);
	free(pieces);
	return error;
}

int ctl_handle_merge_send(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__MergeSendRequest *message =
		farmem__v1__merge_send_request__unpack(NULL, length, bytes);
	if (!message)
		return malformed(reply);
	int error = send_checked(context, message, reply);
	farmem__v1__merge_send_request__free_unpacked(message, NULL);
	return error;
}

/* ---- MergePartial ---- */

static int partial_checked(struct ctl_service *service,
	const Farmem__V1__MergePartialRequest *message, struct ctl_reply *reply)
{
	Farmem__V1__MergePartialReply result = FARMEM__V1__MERGE_PARTIAL_REPLY__INIT;
	struct ctl_merge_partial partial = {.txid = message->txid};
	uint32_t indexes[CTL_MERGE_PARTIALS], crcs[CTL_MERGE_PARTIALS];
	uint8_t outcomes[CTL_MERGE_PARTIALS];
	const size_t count = records_count(&message->pieces, 2 * sizeof(uint32_t));
	if (count < 1 || count > CTL_MERGE_PARTIALS ||
		message->partials.len != count * FM_PAGE_SIZE)
		return ctl_reply_error(reply, -EINVAL, "1..64 partials, 8 bytes and 4096 for each");
	if (message->position >= EC_K_MAX)
		return ctl_reply_error(reply, -EINVAL, "the position is not one of data");
	if (ctl_capability_from_message(message->target, &partial.target) != 0)
		return ctl_reply_error(reply, -EINVAL, "the target's capability is malformed");
	for (size_t i = 0; i < count; i++) {
		memcpy(&indexes[i], message->pieces.data + i * 8, sizeof(indexes[i]));
		memcpy(&crcs[i], message->pieces.data + i * 8 + 4, sizeof(crcs[i]));
		indexes[i] = le32toh(indexes[i]);
		crcs[i] = le32toh(crcs[i]);
	}
	partial.position = (uint8_t)message->position;
	partial.count = (uint32_t)count;
	partial.indexes = indexes;
	partial.crcs = crcs;
	partial.bytes = message->partials.data;
	int error = merge_partial(offload_merges(service->options.offload), &partial, outcomes);
	if (error)
		return merge_error(reply, error);
	result.outcomes.data = outcomes;
	result.outcomes.len = count;
	return answer(reply, &result.base, FAULT_POINT("memnode.merge.partial.answer"));
}

int ctl_handle_merge_partial(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__MergePartialRequest *message =
		farmem__v1__merge_partial_request__unpack(NULL, length, bytes);
	if (!message)
		return malformed(reply);
	int error = partial_checked(context, message, reply);
	farmem__v1__merge_partial_request__free_unpacked(message, NULL);
	return error;
}

/* ---- MergePrepare and MergeEnd ---- */

static int prepare_checked(struct ctl_service *service,
	const Farmem__V1__MergePrepareRequest *message, struct ctl_reply *reply)
{
	Farmem__V1__MergePrepareReply result = FARMEM__V1__MERGE_PREPARE_REPLY__INIT;
	struct fabric_capability target;
	struct ctl_merge_prepared prepared;
	uint32_t count;
	if (ctl_capability_from_message(message->target, &target) != 0)
		return ctl_reply_error(reply, -EINVAL, "the target's capability is malformed");
	int error = offload_merge_prepare(
		service->options.offload, message->txid, &target, &prepared, &count);
	if (error)
		return merge_error(reply, error);
	for (uint32_t i = 0; i < count; i++)
		prepared.crcs[i] = htole32(prepared.crcs[i]);
	result.outcomes.data = prepared.outcomes;
	result.outcomes.len = count;
	result.crcs.data = (uint8_t *)prepared.crcs;
	result.crcs.len = count * sizeof(prepared.crcs[0]);
	return answer(reply, &result.base, FAULT_POINT("memnode.merge.prepare.answer"));
}

int ctl_handle_merge_prepare(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__MergePrepareRequest *message =
		farmem__v1__merge_prepare_request__unpack(NULL, length, bytes);
	if (!message)
		return malformed(reply);
	int error = prepare_checked(context, message, reply);
	farmem__v1__merge_prepare_request__free_unpacked(message, NULL);
	return error;
}

static int end_checked(struct ctl_service *service, const Farmem__V1__MergeEndRequest *message,
	struct ctl_reply *reply)
{
	Farmem__V1__MergeEndReply result = FARMEM__V1__MERGE_END_REPLY__INIT;
	struct fabric_capability target;
	if (ctl_capability_from_message(message->target, &target) != 0)
		return ctl_reply_error(reply, -EINVAL, "the target's capability is malformed");
	int error = merge_end(
		offload_merges(service->options.offload), message->txid, &target, message->commit);
	if (error)
		return merge_error(reply, error);
	return answer(reply, &result.base, FAULT_POINT("memnode.merge.end.answer"));
}

int ctl_handle_merge_end(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__MergeEndRequest *message =
		farmem__v1__merge_end_request__unpack(NULL, length, bytes);
	if (!message)
		return malformed(reply);
	int error = end_checked(context, message, reply);
	farmem__v1__merge_end_request__free_unpacked(message, NULL);
	return error;
}
