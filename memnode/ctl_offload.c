/*
 * memnode/ctl_offload.c: Rebuild and Checksum on the wire: messages to requests, results to
 * answers. The work is offload.c's.
 *
 * Invariants
 *   1. Nothing of a request is used before its length and range were checked (ctl_service_fuzz.c).
 *   2. INVALID_ARGUMENT, PERMISSION_DENIED and RESOURCE_EXHAUSTED say that nothing was done: an
 *      answer that is lost here is an INTERNAL error.
 *   3. Endpoints and keys of sources appear in no text and no log line.
 */
#include "memnode/ctl_offload.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault_point.h"
#include "memnode.pb-c.h"
#include "memnode/ctl_service.h"
#include "memnode/offload.h"
#include "memnode/rebuild.h"

static int offload_error(struct ctl_reply *reply, int error)
{
	switch (error) {
	case -EACCES:
		return ctl_reply_error(reply, error,
			"not a capability of this node (revoked, fenced off, or from before a "
			"restart)");
	case -EINVAL:
		return ctl_reply_error(reply, error, "a slot is not in the region");
	case -ENOMEM:
		return ctl_reply_error(reply, error, "busy with other rebuilds and checksums");
	case -EAGAIN:
		return ctl_reply_error(reply, error, "shutting down");
	}
	return ctl_reply_error(reply, -EIO, "reading or storing failed");
}

static int answer(struct ctl_reply *reply, const ProtobufCMessage *message)
{
	if (FAULT_POINT("memnode.offload.answer") || ctl_reply_message(reply, message) != 0)
		return ctl_reply_error(reply, -EIO, "the answer was lost");
	return 0;
}

/* Numbers of the wire, little-endian. */
static void numbers_read(uint32_t *numbers, const uint8_t *bytes, size_t count)
{
	memcpy(numbers, bytes, count * sizeof(*numbers));
	for (size_t i = 0; i < count; i++)
		numbers[i] = le32toh(numbers[i]);
}

/* ---- Rebuild ---- */

static int source_read(const Farmem__V1__Source *message, struct ctl_source *source)
{
	size_t length = strlen(message->endpoint);
	if (length >= sizeof(source->endpoint) || message->position > UINT8_MAX)
		return -EINVAL;
	memcpy(source->endpoint, message->endpoint, length + 1);
	source->position = (uint8_t)message->position;
	return ctl_capability_from_message(message->capability, &source->capability);
}

/* All but the pieces. NULL, or what is wrong. */
static const char *rebuild_read(
	const Farmem__V1__RebuildRequest *message, struct ctl_rebuild *request)
{
	if (message->position > UINT8_MAX || message->k > UINT8_MAX || message->m > UINT8_MAX)
		return "position, k or m is out of range";
	if (message->n_sources < 1 || message->n_sources > CTL_SOURCES_MAX)
		return "1..16 sources";
	const size_t stride = (1 + message->n_sources) * sizeof(struct ctl_piece);
	if (message->spansets.len == 0 || message->spansets.len % stride != 0 ||
		message->spansets.len / stride > CTL_REBUILD_MAX)
		return "spansets: 1..4096, each with a slot and a CRC for the target and every "
		       "source";
	if (ctl_capability_from_message(message->target, &request->target) != 0)
		return "the target's capability is malformed";
	for (unsigned i = 0; i < message->n_sources; i++)
		if (source_read(message->sources[i], &request->sources[i]) != 0)
			return "a source is malformed";
	request->position = (uint8_t)message->position;
	request->k = (uint8_t)message->k;
	request->m = (uint8_t)message->m;
	request->sources_count = (uint8_t)message->n_sources;
	request->count = (uint32_t)(message->spansets.len / stride);
	request->rate_bytes_per_s = message->rate_bytes_per_s;
	request->piece_bytes = message->piece_bytes;
	return NULL;
}

static int rebuild_answer(
	struct ctl_reply *reply, const struct ctl_rebuild *request, struct ctl_rebuilt *rebuilt)
{
	Farmem__V1__RebuildReply message = FARMEM__V1__REBUILD_REPLY__INIT;
	uint32_t statuses[CTL_SOURCES_MAX];
	for (unsigned i = 0; i < request->sources_count; i++)
		statuses[i] = ctl_source_status(rebuilt->source_status[i]);
	message.outcomes.data = rebuilt->outcomes;
	message.outcomes.len = request->count;
	message.source_statuses = statuses;
	message.n_source_statuses = request->sources_count;
	message.read_ns = rebuilt->read_ns;
	message.decode_ns = rebuilt->decode_ns;
	message.store_ns = rebuilt->store_ns;
	return answer(reply, &message.base);
}

static int rebuild_checked(struct ctl_service *service, const Farmem__V1__RebuildRequest *message,
	struct ctl_reply *reply)
{
	struct ctl_rebuild request = {0};
	struct ctl_rebuilt rebuilt;
	const char *fault = rebuild_read(message, &request);
	if (fault)
		return ctl_reply_error(reply, -EINVAL, "%s", fault);
	struct ctl_piece *pieces = malloc(message->spansets.len);
	if (!pieces)
		return offload_error(reply, -ENOMEM);
	numbers_read((uint32_t *)pieces, message->spansets.data, message->spansets.len / 4);
	request.pieces = pieces;
	fault = rebuild_fault(&request);
	int error;
	if (fault)
		error = ctl_reply_error(reply, -EINVAL, "%s", fault);
	else if ((error = offload_rebuild(service->options.offload, &request, &rebuilt)) != 0)
		error = offload_error(reply, error);
	else
		error = rebuild_answer(reply, &request, &rebuilt);
	free(pieces);
	return error;
}

int ctl_offload_rebuild(void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__RebuildRequest *message =
		farmem__v1__rebuild_request__unpack(NULL, length, bytes);
	if (!message)
		return ctl_reply_error(reply, -EINVAL, "the message is malformed");
	int error = rebuild_checked(context, message, reply);
	farmem__v1__rebuild_request__free_unpacked(message, NULL);
	return error;
}

/* ---- Checksum ---- */

static int checksum_checked(struct ctl_service *service, const Farmem__V1__ChecksumRequest *message,
	struct ctl_reply *reply)
{
	struct fabric_capability capability;
	Farmem__V1__ChecksumReply result = FARMEM__V1__CHECKSUM_REPLY__INIT;
	const size_t count = message->slots.len / sizeof(uint32_t);
	if (message->slots.len % sizeof(uint32_t) != 0 || count < 1 || count > CTL_CHECKSUM_MAX)
		return ctl_reply_error(reply, -EINVAL, "1..16384 slots, 4 bytes each");
	if (ctl_capability_from_message(message->capability, &capability) != 0)
		return ctl_reply_error(reply, -EINVAL, "the capability is malformed");
	uint32_t *slots = calloc(2 * count, sizeof(*slots));
	if (!slots)
		return offload_error(reply, -ENOMEM);
	uint32_t *crcs = slots + count;
	numbers_read(slots, message->slots.data, count);
	int error = offload_checksum(
		service->options.offload, &capability, slots, (uint32_t)count, crcs);
	for (size_t i = 0; i < count; i++)
		crcs[i] = htole32(crcs[i]);
	result.crcs.data = (uint8_t *)crcs;
	result.crcs.len = count * sizeof(*crcs);
	error = error ? offload_error(reply, error) : answer(reply, &result.base);
	free(slots);
	return error;
}

int ctl_offload_checksum(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__ChecksumRequest *message =
		farmem__v1__checksum_request__unpack(NULL, length, bytes);
	if (!message)
		return ctl_reply_error(reply, -EINVAL, "the message is malformed");
	int error = checksum_checked(context, message, reply);
	farmem__v1__checksum_request__free_unpacked(message, NULL);
	return error;
}
