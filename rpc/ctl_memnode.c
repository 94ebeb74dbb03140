/*
 * rpc/ctl_memnode.c: see ctl_memnode.h. Callers: farmem/agent, memnode/ctl_service.c, apps.
 *
 * Invariant: nothing from the wire is used before its length and range were checked here.
 */
#include "rpc/ctl_memnode.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "memnode.pb-c.h"

void ctl_capability_to_message(
	const struct fabric_capability *capability, Farmem__V1__Capability *message)
{
	farmem__v1__capability__init(message);
	message->key.data = (uint8_t *)(uintptr_t)capability->key;
	message->key.len = sizeof capability->key;
	message->lease = capability->lease;
	message->incarnation = capability->incarnation;
	message->epoch = capability->epoch;
	message->region = capability->region;
}

int ctl_capability_from_message(
	const Farmem__V1__Capability *message, struct fabric_capability *capability)
{
	memset(capability, 0, sizeof *capability);
	if (message == NULL || message->key.len != sizeof capability->key || message->lease == 0 ||
		message->incarnation == 0)
		return -EINVAL;
	memcpy(capability->key, message->key.data, sizeof capability->key);
	capability->lease = message->lease;
	capability->incarnation = message->incarnation;
	capability->epoch = message->epoch;
	capability->region = message->region;
	return 0;
}

int ctl_reply_message(struct ctl_reply *reply, const ProtobufCMessage *message)
{
	size_t length = protobuf_c_message_get_packed_size(message);
	uint8_t *space = ctl_reply_space(reply, length);
	if (space == NULL)
		return -ENOMEM;
	size_t packed = protobuf_c_message_pack(message, space);
	FM_ASSERT_EQ(packed, length);
	return 0;
}

int ctl_pack_message(const ProtobufCMessage *message, struct ctl_packed *packed)
{
	packed->length = protobuf_c_message_get_packed_size(message);
	packed->bytes = malloc(packed->length != 0 ? packed->length : 1);
	if (packed->bytes == NULL)
		return -ENOMEM;
	size_t length = protobuf_c_message_pack(message, packed->bytes);
	FM_ASSERT_EQ(length, packed->length);
	return 0;
}

void ctl_packed_clear(struct ctl_packed *packed)
{
	free(packed->bytes);
	packed->bytes = NULL;
	packed->length = 0;
}

int ctl_pack_reserve(
	const uint8_t client[CTL_CLIENT_BYTES], uint64_t bytes, struct ctl_packed *packed)
{
	Farmem__V1__ReserveRequest request = FARMEM__V1__RESERVE_REQUEST__INIT;
	request.client.data = (uint8_t *)(uintptr_t)client;
	request.client.len = CTL_CLIENT_BYTES;
	request.bytes = bytes;
	return ctl_pack_message(&request.base, packed);
}

int ctl_pack_leases(const char *method, const struct fabric_capability *capabilities,
	unsigned count, struct ctl_packed *packed)
{
	FM_ASSERT_LE(count, CTL_LEASES_MAX);
	/* Both requests are one repeated field; two messages, because they are two promises. */
	Farmem__V1__Capability *messages = calloc(count != 0 ? count : 1, sizeof *messages);
	Farmem__V1__Capability **pointers = calloc(count != 0 ? count : 1, sizeof *pointers);
	int error = -ENOMEM;
	if (messages == NULL || pointers == NULL)
		goto out;
	for (unsigned i = 0; i < count; i++) {
		ctl_capability_to_message(&capabilities[i], &messages[i]);
		pointers[i] = &messages[i];
	}
	if (strcmp(method, CTL_METHOD_RELEASE) == 0) {
		Farmem__V1__ReleaseRequest request = FARMEM__V1__RELEASE_REQUEST__INIT;
		request.n_capabilities = count;
		request.capabilities = pointers;
		error = ctl_pack_message(&request.base, packed);
	} else {
		Farmem__V1__KeepaliveRequest request = FARMEM__V1__KEEPALIVE_REQUEST__INIT;
		request.n_capabilities = count;
		request.capabilities = pointers;
		error = ctl_pack_message(&request.base, packed);
	}
out:
	free(pointers);
	free(messages);
	return error;
}

int ctl_pack_fence(const struct fabric_capability *capability, struct ctl_packed *packed)
{
	Farmem__V1__Capability message;
	Farmem__V1__FenceRequest request = FARMEM__V1__FENCE_REQUEST__INIT;
	ctl_capability_to_message(capability, &message);
	request.capability = &message;
	return ctl_pack_message(&request.base, packed);
}

int ctl_unpack_reserve(const struct ctl_result *result, struct fabric_capability *capability)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__ReserveReply *reply =
		farmem__v1__reserve_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = ctl_capability_from_message(reply->capability, capability);
	farmem__v1__reserve_reply__free_unpacked(reply, NULL);
	return error != 0 ? -EPROTO : 0;
}

int ctl_unpack_fence(const struct ctl_result *result, struct fabric_capability *capability)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__FenceReply *reply =
		farmem__v1__fence_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = ctl_capability_from_message(reply->capability, capability);
	farmem__v1__fence_reply__free_unpacked(reply, NULL);
	return error != 0 ? -EPROTO : 0;
}

static int load_from_message(const Farmem__V1__Load *message, struct ctl_load *load)
{
	if (message == NULL)
		return -EPROTO;
	load->memory_bytes = message->memory_bytes;
	load->leased_bytes = message->leased_bytes;
	load->free_bytes = message->free_bytes;
	load->leases = message->leases;
	load->orphaned = message->orphaned;
	load->calls_in_flight = message->calls_in_flight;
	load->draining = message->draining;
	load->rebuilds = message->rebuilds;
	load->merges = message->merges;
	load->merge_sent_bytes = message->merge_sent_bytes;
	return 0;
}

static int keepalive_from_message(
	const Farmem__V1__KeepaliveReply *reply, unsigned asked, struct ctl_keepalive *keepalive)
{
	if (reply->n_statuses != asked || asked > CTL_LEASES_MAX || reply->incarnation == 0)
		return -EPROTO;
	keepalive->incarnation = reply->incarnation;
	keepalive->count = asked;
	for (unsigned i = 0; i < asked; i++)
		keepalive->lost[i] =
			reply->statuses[i] != FARMEM__V1__LEASE_STATUS__LEASE_STATUS_HELD;
	return load_from_message(reply->load, &keepalive->load);
}

int ctl_unpack_keepalive(
	const struct ctl_result *result, unsigned asked, struct ctl_keepalive *keepalive)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__KeepaliveReply *reply =
		farmem__v1__keepalive_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = keepalive_from_message(reply, asked, keepalive);
	farmem__v1__keepalive_reply__free_unpacked(reply, NULL);
	return error;
}

/* A text that may reach a terminal: printable, and it must fit. Empty is fine. */
static int text_copy(char *into, size_t size, const char *from)
{
	size_t length = strlen(from);
	if (length >= size)
		return -EPROTO;
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)from[i] < 0x20 || from[i] == 0x7f)
			return -EPROTO;
	memcpy(into, from, length + 1);
	return 0;
}

static int stats_from_message(const Farmem__V1__StatsReply *reply, struct ctl_stats *stats)
{
	memset(stats, 0, sizeof *stats);
	if (reply->incarnation == 0 || reply->data_port > UINT16_MAX || reply->host[0] == '\0' ||
		text_copy(stats->name, sizeof stats->name, reply->name) != 0 ||
		text_copy(stats->host, sizeof stats->host, reply->host) != 0 ||
		text_copy(stats->version, sizeof stats->version, reply->version) != 0 ||
		text_copy(stats->data_path, sizeof stats->data_path, reply->data_path) != 0 ||
		text_copy(stats->data_verbs, sizeof stats->data_verbs, reply->data_verbs) != 0)
		return -EPROTO;
	stats->queue_pairs_count = reply->queue_pairs;
	stats->rdma_regions_count = reply->rdma_regions;
	stats->incarnation = reply->incarnation;
	stats->data_port = (uint16_t)reply->data_port;
	stats->huge_pages = reply->huge_pages;
	stats->uptime_ns = reply->uptime_ns;
	return load_from_message(reply->load, &stats->load);
}

int ctl_unpack_stats(const struct ctl_result *result, struct ctl_stats *stats)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__StatsReply *reply =
		farmem__v1__stats_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = stats_from_message(reply, stats);
	farmem__v1__stats_reply__free_unpacked(reply, NULL);
	return error;
}

/* ---- Rebuild and Checksum ---- */

/* Both directions read this table; the first row with a matching number wins. */
static const struct {
	int error;
	uint32_t status;
} source_statuses[] = {
	{0, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_OK},
	{-ECONNRESET, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_UNREACHABLE},
	{-ETIMEDOUT, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_TIMED_OUT},
	{-EACCES, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_REFUSED},
	{-ERANGE, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_RANGE},
	{-EPROTO, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_PROTOCOL},
	{-EINVAL, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_INVALID},
	{-EOPNOTSUPP, FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_INVALID},
};

uint32_t ctl_source_status(int error)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(source_statuses); i++)
		if (source_statuses[i].error == error)
			return source_statuses[i].status;
	return FARMEM__V1__SOURCE_STATUS__SOURCE_STATUS_UNREACHABLE;
}

int ctl_source_error(uint32_t status)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(source_statuses); i++)
		if (source_statuses[i].status == status)
			return source_statuses[i].error;
	return -ECONNRESET;
}

uint8_t *ctl_pack_numbers(const uint32_t *numbers, size_t count)
{
	uint32_t *packed = malloc(count * sizeof *packed);
	for (size_t i = 0; packed != NULL && i < count; i++)
		packed[i] = htole32(numbers[i]);
	return (uint8_t *)packed;
}

static void source_to_message(const struct ctl_source *source, Farmem__V1__Source *message,
	Farmem__V1__Capability *capability)
{
	farmem__v1__source__init(message);
	ctl_capability_to_message(&source->capability, capability);
	message->endpoint = (char *)(uintptr_t)source->endpoint;
	message->capability = capability;
	message->position = source->position;
}

FM_BUILD_ASSERT(sizeof(struct ctl_piece) == 2 * sizeof(uint32_t), "pieces are pairs of numbers");

int ctl_pack_rebuild(const struct ctl_rebuild *rebuild, struct ctl_packed *packed)
{
	FM_ASSERT(rebuild->count >= 1 && rebuild->count <= CTL_REBUILD_MAX);
	FM_ASSERT(rebuild->sources_count >= 1 && rebuild->sources_count <= CTL_SOURCES_MAX);
	Farmem__V1__RebuildRequest request = FARMEM__V1__REBUILD_REQUEST__INIT;
	Farmem__V1__Capability target, capabilities[CTL_SOURCES_MAX];
	Farmem__V1__Source sources[CTL_SOURCES_MAX], *pointers[CTL_SOURCES_MAX];
	const size_t pieces_count = (size_t)rebuild->count * (1u + rebuild->sources_count);
	for (unsigned i = 0; i < rebuild->sources_count; i++) {
		source_to_message(&rebuild->sources[i], &sources[i], &capabilities[i]);
		pointers[i] = &sources[i];
	}
	ctl_capability_to_message(&rebuild->target, &target);
	request.target = &target;
	request.position = rebuild->position;
	request.k = rebuild->k;
	request.m = rebuild->m;
	request.sources = pointers;
	request.n_sources = rebuild->sources_count;
	request.rate_bytes_per_s = rebuild->rate_bytes_per_s;
	request.piece_bytes = rebuild->piece_bytes;
	request.spansets.len = pieces_count * sizeof(struct ctl_piece);
	request.spansets.data =
		ctl_pack_numbers((const uint32_t *)rebuild->pieces, pieces_count * 2);
	int error =
		request.spansets.data != NULL ? ctl_pack_message(&request.base, packed) : -ENOMEM;
	free(request.spansets.data);
	return error;
}

static bool outcome_is_possible(uint8_t outcome, unsigned sources_count)
{
	return outcome <= CTL_REBUILD_WRONG ||
	       (outcome >= CTL_REBUILD_BAD_SOURCE &&
		       outcome < CTL_REBUILD_BAD_SOURCE + sources_count);
}

static int rebuilt_from_message(const Farmem__V1__RebuildReply *reply,
	const struct ctl_rebuild *asked, struct ctl_rebuilt *rebuilt)
{
	if (reply->outcomes.len != asked->count || asked->count > CTL_REBUILD_MAX ||
		reply->n_source_statuses != asked->sources_count ||
		asked->sources_count > CTL_SOURCES_MAX)
		return -EPROTO;
	for (uint32_t i = 0; i < asked->count; i++)
		if (!outcome_is_possible(reply->outcomes.data[i], asked->sources_count))
			return -EPROTO;
	memset(rebuilt, 0, sizeof *rebuilt);
	memcpy(rebuilt->outcomes, reply->outcomes.data, asked->count);
	for (unsigned i = 0; i < asked->sources_count; i++)
		rebuilt->source_status[i] = ctl_source_error(reply->source_statuses[i]);
	rebuilt->read_ns = reply->read_ns;
	rebuilt->decode_ns = reply->decode_ns;
	rebuilt->store_ns = reply->store_ns;
	return 0;
}

int ctl_unpack_rebuild(const struct ctl_result *result, const struct ctl_rebuild *asked,
	struct ctl_rebuilt *rebuilt)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__RebuildReply *reply =
		farmem__v1__rebuild_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = rebuilt_from_message(reply, asked, rebuilt);
	farmem__v1__rebuild_reply__free_unpacked(reply, NULL);
	return error;
}

int ctl_pack_checksum(const struct fabric_capability *capability, const uint32_t *slots,
	unsigned count, struct ctl_packed *packed)
{
	FM_ASSERT(count >= 1 && count <= CTL_CHECKSUM_MAX);
	Farmem__V1__ChecksumRequest request = FARMEM__V1__CHECKSUM_REQUEST__INIT;
	Farmem__V1__Capability message;
	ctl_capability_to_message(capability, &message);
	request.capability = &message;
	request.slots.len = count * sizeof *slots;
	request.slots.data = ctl_pack_numbers(slots, count);
	int error = request.slots.data != NULL ? ctl_pack_message(&request.base, packed) : -ENOMEM;
	free(request.slots.data);
	return error;
}

int ctl_unpack_checksum(const struct ctl_result *result, unsigned asked, uint32_t *crcs)
{
	if (result->status != 0)
		return result->status;
	Farmem__V1__ChecksumReply *reply =
		farmem__v1__checksum_reply__unpack(NULL, result->length, result->bytes);
	if (reply == NULL)
		return -EPROTO;
	int error = reply->crcs.len == (size_t)asked * sizeof *crcs ? 0 : -EPROTO;
	for (unsigned i = 0; error == 0 && i < asked; i++) {
		memcpy(&crcs[i], reply->crcs.data + (size_t)i * sizeof *crcs, sizeof *crcs);
		crcs[i] = le32toh(crcs[i]);
	}
	farmem__v1__checksum_reply__free_unpacked(reply, NULL);
	return error;
}

int ctl_ask_stats(
	struct ctl_client *client, uint64_t timeout_ns, struct ctl_stats *stats, char *text)
{
	struct ctl_request request = {
		.method = CTL_METHOD_STATS, .bytes = "", .timeout_ns = timeout_ns};
	struct ctl_result result;
	ctl_client_call(client, &request, &result);
	int error = ctl_unpack_stats(&result, stats);
	if (text != NULL)
		snprintf(text, CTL_TEXT_BYTES, "%s",
			error == -EPROTO ? "not a memory node of this farmem" : result.text);
	ctl_result_clear(&result);
	return error;
}
