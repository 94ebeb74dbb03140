/*
 * rpc/wire.c: see rpc/wire.h. Pure: no I/O, no memory of its own.
 */
#include "rpc/wire.h"

#include <errno.h>
#include <string.h>

#include "base/crc.h"

static void put_u16(uint8_t *at, uint16_t v)
{
	at[0] = (uint8_t)v;
	at[1] = (uint8_t)(v >> 8);
}

static void put_u32(uint8_t *at, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static void put_u64(uint8_t *at, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

static uint16_t get_u16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

static uint32_t get_u32(const uint8_t *at)
{
	uint32_t v = 0;
	for (int i = 0; i < 4; i++)
		v |= (uint32_t)at[i] << (8 * i);
	return v;
}

static uint64_t get_u64(const uint8_t *at)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v |= (uint64_t)at[i] << (8 * i);
	return v;
}

void wire_encode_hello(const struct wire_hello *hello, uint8_t bytes[WIRE_HELLO_BYTES])
{
	put_u32(bytes, WIRE_MAGIC);
	put_u16(bytes + 4, hello->version);
	bytes[6] = hello->kind;
	bytes[7] = hello->transport;
	put_u64(bytes + 8, hello->connection);
	put_u64(bytes + 16, hello->incarnation);
	put_u32(bytes + 24, hello->status);
	put_u32(bytes + 28, crc32c(bytes, 28));
}

int wire_decode_hello(const uint8_t bytes[WIRE_HELLO_BYTES], struct wire_hello *hello)
{
	*hello = (struct wire_hello){0};
	if (get_u32(bytes) != WIRE_MAGIC || get_u32(bytes + 28) != crc32c(bytes, 28))
		return -EPROTO;
	hello->version = get_u16(bytes + 4);
	if (hello->version != WIRE_VERSION)
		return -EPROTONOSUPPORT;
	hello->kind = bytes[6];
	hello->transport = bytes[7];
	hello->connection = get_u64(bytes + 8);
	hello->incarnation = get_u64(bytes + 16);
	hello->status = get_u32(bytes + 24);
	if (hello->transport != WIRE_TCP && hello->transport != WIRE_SHM)
		return -EPROTO;
	if (hello->kind == WIRE_CLIENT)
		return hello->connection || hello->incarnation || hello->status ? -EPROTO : 0;
	if (hello->kind != WIRE_NODE || hello->status >= WIRE_STATUS_COUNT)
		return -EPROTO;
	if (hello->status == WIRE_STATUS_OK && (!hello->connection || !hello->incarnation))
		return -EPROTO;
	return 0;
}

void wire_encode_header(const struct wire_header *header, uint8_t bytes[WIRE_HEADER_BYTES])
{
	bytes[0] = header->op;
	bytes[1] = 0;
	put_u16(bytes + 2, header->status);
	put_u32(bytes + 4, header->handle);
	put_u64(bytes + 8, header->tag);
	put_u64(bytes + 16, header->offset);
	put_u32(bytes + 24, header->length);
	put_u32(bytes + 28, crc32c(bytes, 28));
}

static int decode_header(const uint8_t *bytes, struct wire_header *header)
{
	*header = (struct wire_header){
		.op = bytes[0],
		.status = get_u16(bytes + 2),
		.handle = get_u32(bytes + 4),
		.tag = get_u64(bytes + 8),
		.offset = get_u64(bytes + 16),
		.length = get_u32(bytes + 24),
	};
	if (get_u32(bytes + 28) != crc32c(bytes, 28) || bytes[1] != 0)
		return -EPROTO;
	return 0;
}

int wire_decode_request(const uint8_t bytes[WIRE_HEADER_BYTES], struct wire_header *header)
{
	if (decode_header(bytes, header) || header->status)
		return -EPROTO;
	switch (header->op) {
	case WIRE_READ:
	case WIRE_WRITE:
		if (header->length == 0 || header->length > FABRIC_OP_BYTES_MAX)
			return -EPROTO;
		return header->offset > UINT64_MAX - header->length ? -EPROTO : 0;
	case WIRE_ATTACH:
		return header->length != WIRE_CAPABILITY_BYTES || header->offset ? -EPROTO : 0;
	case WIRE_FENCE:
		return header->length != WIRE_FENCE_BYTES || header->offset ? -EPROTO : 0;
	case WIRE_DETACH:
		return header->length || header->offset ? -EPROTO : 0;
	}
	return -EPROTO;
}

int wire_decode_reply(const uint8_t bytes[WIRE_HEADER_BYTES], struct wire_header *header)
{
	if (decode_header(bytes, header) || header->status >= WIRE_STATUS_COUNT)
		return -EPROTO;
	switch (header->op) {
	case WIRE_READ | WIRE_REPLY:
		if (header->length == 0 || header->length > FABRIC_OP_BYTES_MAX)
			return -EPROTO;
		return 0;
	case WIRE_WRITE | WIRE_REPLY:
	case WIRE_ATTACH | WIRE_REPLY:
	case WIRE_FENCE | WIRE_REPLY:
		return header->length ? -EPROTO : 0;
	}
	return -EPROTO;
}

void wire_encode_capability(
	const struct fabric_capability *capability, uint8_t bytes[WIRE_CAPABILITY_BYTES])
{
	memcpy(bytes, capability->key, 16);
	put_u64(bytes + 16, capability->lease);
	put_u64(bytes + 24, capability->incarnation);
	put_u32(bytes + 32, capability->epoch);
	put_u32(bytes + 36, capability->region);
}

void wire_decode_capability(
	const uint8_t bytes[WIRE_CAPABILITY_BYTES], struct fabric_capability *capability)
{
	memcpy(capability->key, bytes, 16);
	capability->lease = get_u64(bytes + 16);
	capability->incarnation = get_u64(bytes + 24);
	capability->epoch = get_u32(bytes + 32);
	capability->region = get_u32(bytes + 36);
}

void wire_encode_fence(const struct fabric_capability *capability, uint64_t connection,
	uint8_t bytes[WIRE_FENCE_BYTES])
{
	wire_encode_capability(capability, bytes);
	put_u64(bytes + WIRE_CAPABILITY_BYTES, connection);
}

void wire_decode_fence(const uint8_t bytes[WIRE_FENCE_BYTES], struct fabric_capability *capability,
	uint64_t *connection)
{
	wire_decode_capability(bytes, capability);
	*connection = get_u64(bytes + WIRE_CAPABILITY_BYTES);
}

void wire_encode_verbs_request(
	const struct wire_verbs_request *request, uint8_t bytes[WIRE_VERBS_REQUEST_BYTES])
{
	put_u32(bytes, WIRE_VERBS_MAGIC);
	put_u16(bytes + 4, request->version);
	bytes[6] = WIRE_CLIENT;
	bytes[7] = 0;
	wire_encode_capability(&request->capability, bytes + 8);
	put_u64(bytes + 48, request->unfenced);
}

int wire_decode_verbs_request(
	const uint8_t *bytes, size_t length, struct wire_verbs_request *request)
{
	*request = (struct wire_verbs_request){0};
	if (length < WIRE_VERBS_REQUEST_BYTES || get_u32(bytes) != WIRE_VERBS_MAGIC)
		return -EPROTO;
	request->version = get_u16(bytes + 4);
	if (request->version != WIRE_VERBS_VERSION)
		return -EPROTONOSUPPORT;
	if (bytes[6] != WIRE_CLIENT || bytes[7] != 0)
		return -EPROTO;
	wire_decode_capability(bytes + 8, &request->capability);
	request->unfenced = get_u64(bytes + 48);
	return 0;
}

void wire_encode_verbs_answer(
	const struct wire_verbs_answer *answer, uint8_t bytes[WIRE_VERBS_ANSWER_BYTES])
{
	put_u32(bytes, WIRE_VERBS_MAGIC);
	put_u16(bytes + 4, answer->version);
	bytes[6] = WIRE_NODE;
	bytes[7] = answer->status;
	put_u64(bytes + 8, answer->connection);
	put_u64(bytes + 16, answer->incarnation);
	put_u64(bytes + 24, answer->address);
	put_u64(bytes + 32, answer->bytes);
	put_u32(bytes + 40, answer->rkey);
	put_u32(bytes + 44, 0);
}

int wire_decode_verbs_answer(const uint8_t *bytes, size_t length, struct wire_verbs_answer *answer)
{
	*answer = (struct wire_verbs_answer){0};
	if (length < WIRE_VERBS_ANSWER_BYTES || get_u32(bytes) != WIRE_VERBS_MAGIC)
		return -EPROTO;
	answer->version = get_u16(bytes + 4);
	answer->status = bytes[7];
	if (answer->version != WIRE_VERBS_VERSION)
		return -EPROTONOSUPPORT;
	if (bytes[6] != WIRE_NODE || answer->status >= WIRE_STATUS_COUNT || get_u32(bytes + 44))
		return -EPROTO;
	if (answer->status != WIRE_STATUS_OK)
		return 0;
	answer->connection = get_u64(bytes + 8);
	answer->incarnation = get_u64(bytes + 16);
	answer->address = get_u64(bytes + 24);
	answer->bytes = get_u64(bytes + 32);
	answer->rkey = get_u32(bytes + 40);
	if (!answer->connection || !answer->incarnation || !answer->bytes)
		return -EPROTO;
	return answer->address > UINT64_MAX - answer->bytes ? -EPROTO : 0;
}

static const int wire_errors[WIRE_STATUS_COUNT] = {
	[WIRE_STATUS_OK] = 0,
	[WIRE_STATUS_ACCESS] = -EACCES,
	[WIRE_STATUS_RANGE] = -ERANGE,
	[WIRE_STATUS_NOMEM] = -ENOMEM,
	[WIRE_STATUS_PROTO] = -EPROTO,
	[WIRE_STATUS_VERSION] = -EPROTONOSUPPORT,
	[WIRE_STATUS_BUSY] = -EBUSY,
	[WIRE_STATUS_UNSUPPORTED] = -EOPNOTSUPP,
};

int wire_status_error(uint32_t status)
{
	return status < WIRE_STATUS_COUNT ? wire_errors[status] : -EPROTO;
}

uint16_t wire_status_of(int error)
{
	for (uint16_t i = 0; i < WIRE_STATUS_COUNT; i++)
		if (wire_errors[i] == error)
			return i;
	return WIRE_STATUS_PROTO;
}
