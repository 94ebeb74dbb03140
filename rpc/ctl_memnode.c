/*
 * rpc/ctl_memnode.c: see ctl_memnode.h. Callers: farmem/agent, memnode/ctl_service.c, apps.
 *
 * Invariant: nothing from the wire is used before its length and range were checked here.
 */
#include "rpc/ctl_memnode.h"

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

static int packed_make(const ProtobufCMessage *message, struct ctl_packed *packed)
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
	return packed_make(&request.base, packed);
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
		error = packed_make(&request.base, packed);
	} else {
		Farmem__V1__KeepaliveRequest request = FARMEM__V1__KEEPALIVE_REQUEST__INIT;
		request.n_capabilities = count;
		request.capabilities = pointers;
		error = packed_make(&request.base, packed);
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
	return packed_make(&request.base, packed);
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
		text_copy(stats->data_path, sizeof stats->data_path, reply->data_path) != 0)
		return -EPROTO;
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
