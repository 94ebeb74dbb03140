/*
 * rpc/wire_test.c: the layouts byte for byte (they are a promise to other versions), and what is
 * refused.
 */
#include "base/test.h"

#include <errno.h>

#include "base/crc.h"
#include "rpc/wire.h"

static void put_crc(uint8_t bytes[32])
{
	uint32_t crc = crc32c_slow(bytes, 28);
	for (int i = 0; i < 4; i++)
		bytes[28 + i] = (uint8_t)(crc >> (8 * i));
}

static const struct wire_hello node_hello = {.version = WIRE_VERSION,
	.kind = WIRE_NODE,
	.transport = WIRE_TCP,
	.connection = 0x1122334455667788,
	.incarnation = 0x99aabbccddeeff01};

static const struct wire_header write_request = {.op = WIRE_WRITE,
	.handle = 0x01020304,
	.tag = 0x1112131415161718,
	.offset = 0x2122232425262728,
	.length = 0x00031323};

TEST(a_hello_has_the_promised_bytes)
{
	uint8_t bytes[WIRE_HELLO_BYTES];
	uint8_t expected[WIRE_HELLO_BYTES] = {'f', 'm', 'f', 'b', 1, 0, 2, 1, 0x88, 0x77, 0x66,
		0x55, 0x44, 0x33, 0x22, 0x11, 0x01, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99};
	wire_encode_hello(&node_hello, bytes);
	put_crc(expected);
	CHECK_EQ(memcmp(bytes, expected, sizeof(bytes)), 0);
}

TEST(a_header_has_the_promised_bytes)
{
	uint8_t bytes[WIRE_HEADER_BYTES];
	uint8_t expected[WIRE_HEADER_BYTES] = {2, 0, 0, 0, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14,
		0x13, 0x12, 0x11, 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, 0x23, 0x13, 3, 0};
	wire_encode_header(&write_request, bytes);
	put_crc(expected);
	CHECK_EQ(memcmp(bytes, expected, sizeof(bytes)), 0);
}

TEST(a_capability_and_a_fence_have_the_promised_bytes)
{
	struct fabric_capability capability = {
		.lease = 0x1112131415161718, .incarnation = 2, .epoch = 0x31323334, .region = 4};
	uint8_t bytes[WIRE_FENCE_BYTES];
	uint8_t expected[WIRE_FENCE_BYTES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
		0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 2, 0, 0, 0, 0, 0, 0, 0, 0x34, 0x33,
		0x32, 0x31, 4, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x80};
	for (uint8_t i = 0; i < 16; i++)
		capability.key[i] = i;
	wire_encode_fence(&capability, 0x8000000000000009, bytes);
	CHECK_EQ(memcmp(bytes, expected, sizeof(bytes)), 0);
	struct fabric_capability decoded;
	uint64_t connection;
	wire_decode_fence(bytes, &decoded, &connection);
	CHECK_EQ(memcmp(&decoded, &capability, sizeof(decoded)), 0);
	CHECK_EQ(connection, 0x8000000000000009);
}

TEST(what_is_encoded_is_decoded)
{
	uint8_t bytes[32];
	struct wire_hello hello;
	struct wire_header header;
	wire_encode_hello(&node_hello, bytes);
	CHECK_EQ(wire_decode_hello(bytes, &hello), 0);
	CHECK_EQ(hello.version, node_hello.version);
	CHECK_EQ(hello.kind, node_hello.kind);
	CHECK_EQ(hello.transport, node_hello.transport);
	CHECK_EQ(hello.connection, node_hello.connection);
	CHECK_EQ(hello.incarnation, node_hello.incarnation);
	CHECK_EQ(hello.status, node_hello.status);
	wire_encode_header(&write_request, bytes);
	CHECK_EQ(wire_decode_request(bytes, &header), 0);
	CHECK_EQ(header.op, write_request.op);
	CHECK_EQ(header.status, write_request.status);
	CHECK_EQ(header.handle, write_request.handle);
	CHECK_EQ(header.tag, write_request.tag);
	CHECK_EQ(header.offset, write_request.offset);
	CHECK_EQ(header.length, write_request.length);
	CHECK_EQ(wire_decode_reply(bytes, &header), -EPROTO);
}

TEST(every_flipped_bit_is_noticed)
{
	for (unsigned bit = 0; bit < 256; bit++) {
		uint8_t bytes[32];
		struct wire_hello hello;
		struct wire_header header;
		wire_encode_hello(&node_hello, bytes);
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CHECK_EQ(wire_decode_hello(bytes, &hello), -EPROTO);
		wire_encode_header(&write_request, bytes);
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CHECK_EQ(wire_decode_request(bytes, &header), -EPROTO);
	}
}

TEST(another_version_is_told_apart_from_garbage)
{
	uint8_t bytes[32];
	struct wire_hello hello = node_hello;
	hello.version = WIRE_VERSION + 1;
	wire_encode_hello(&hello, bytes);
	bytes[6] = 77; /* whatever that version means by it */
	put_crc(bytes);
	CHECK_EQ(wire_decode_hello(bytes, &hello), -EPROTONOSUPPORT);
	CHECK_EQ(hello.version, WIRE_VERSION + 1);
	memset(bytes, 0, sizeof(bytes));
	CHECK_EQ(wire_decode_hello(bytes, &hello), -EPROTO);
}

static int hello_refused(struct wire_hello hello)
{
	uint8_t bytes[32];
	wire_encode_hello(&hello, bytes);
	return wire_decode_hello(bytes, &hello);
}

TEST(a_hello_with_a_field_that_cannot_be_is_refused)
{
	struct wire_hello hello = node_hello;
	hello.kind = 3;
	CHECK_EQ(hello_refused(hello), -EPROTO);
	hello = node_hello, hello.transport = 3;
	CHECK_EQ(hello_refused(hello), -EPROTO);
	hello = node_hello, hello.status = WIRE_STATUS_COUNT;
	CHECK_EQ(hello_refused(hello), -EPROTO);
	hello = node_hello, hello.connection = 0;
	CHECK_EQ(hello_refused(hello), -EPROTO);
	hello.status = WIRE_STATUS_BUSY; /* a refusal draws no id */
	CHECK_EQ(hello_refused(hello), 0);
	hello = node_hello, hello.incarnation = 0;
	CHECK_EQ(hello_refused(hello), -EPROTO);
	hello = node_hello, hello.kind = WIRE_CLIENT;
	CHECK_EQ(hello_refused(hello), -EPROTO);
	hello.connection = hello.incarnation = 0;
	CHECK_EQ(hello_refused(hello), 0);
}

static int request_refused(struct wire_header header, uint8_t flags)
{
	uint8_t bytes[32];
	wire_encode_header(&header, bytes);
	bytes[1] = flags;
	put_crc(bytes);
	return wire_decode_request(bytes, &header);
}

TEST(a_request_with_a_field_that_cannot_be_is_refused)
{
	struct wire_header good = {.op = WIRE_READ, .length = FABRIC_OP_BYTES_MAX}, bad = good;
	CHECK_EQ(request_refused(good, 0), 0);
	CHECK_EQ(request_refused(good, 1), -EPROTO);
	bad.length++;
	CHECK_EQ(request_refused(bad, 0), -EPROTO);
	bad.length = 0;
	CHECK_EQ(request_refused(bad, 0), -EPROTO);
	bad = good, bad.status = 1;
	CHECK_EQ(request_refused(bad, 0), -EPROTO);
	bad = good, bad.offset = UINT64_MAX - 5;
	CHECK_EQ(request_refused(bad, 0), -EPROTO);
	for (unsigned op = 0; op < 256; op++) {
		bad = (struct wire_header){.op = (uint8_t)op};
		bool no_payload = op == WIRE_DETACH;
		CHECK_EQ(request_refused(bad, 0), no_payload ? 0 : -EPROTO);
		bad.length = WIRE_CAPABILITY_BYTES;
		CHECK_EQ(request_refused(bad, 0) == 0,
			op == WIRE_READ || op == WIRE_WRITE || op == WIRE_ATTACH);
		bad.length = WIRE_FENCE_BYTES;
		CHECK_EQ(request_refused(bad, 0) == 0,
			op == WIRE_READ || op == WIRE_WRITE || op == WIRE_FENCE);
		bad.offset = 1;
		CHECK_EQ(request_refused(bad, 0) == 0, op == WIRE_READ || op == WIRE_WRITE);
	}
}

TEST(a_reply_with_a_field_that_cannot_be_is_refused)
{
	uint8_t bytes[32];
	struct wire_header reply;
	for (unsigned op = 0; op < 256; op++)
		for (uint32_t length = 0; length < 2; length++) {
			reply = (struct wire_header){.op = (uint8_t)op, .length = length};
			wire_encode_header(&reply, bytes);
			bool empty = op == (WIRE_WRITE | WIRE_REPLY) ||
				     op == (WIRE_ATTACH | WIRE_REPLY) ||
				     op == (WIRE_FENCE | WIRE_REPLY);
			bool full = op == (WIRE_READ | WIRE_REPLY);
			CHECK_EQ(wire_decode_reply(bytes, &reply) == 0, length ? full : empty);
		}
	reply = (struct wire_header){.op = WIRE_WRITE | WIRE_REPLY, .status = WIRE_STATUS_COUNT};
	wire_encode_header(&reply, bytes);
	CHECK_EQ(wire_decode_reply(bytes, &reply), -EPROTO);
}

TEST(statuses_survive_the_way_there_and_back)
{
	for (uint16_t status = 0; status < WIRE_STATUS_COUNT; status++)
		CHECK_EQ(wire_status_of(wire_status_error(status)), status);
	CHECK_EQ(wire_status_error(WIRE_STATUS_COUNT), -EPROTO);
	CHECK_EQ(wire_status_error(UINT32_MAX), -EPROTO);
	CHECK_EQ(wire_status_of(-ENOTTY), WIRE_STATUS_PROTO);
	CHECK_EQ(wire_status_error(WIRE_STATUS_ACCESS), -EACCES);
}

TEST(what_verbs_peers_tell_each_other_survives_the_way_and_nothing_short_or_strange_does)
{
	struct wire_verbs_request request = {.version = WIRE_VERBS_VERSION,
		.capability = {.key = {1, 2, 3}, .lease = 77, .incarnation = 5, .epoch = 9},
		.unfenced = 0x1122334455667788};
	struct wire_verbs_answer answer = {.version = WIRE_VERBS_VERSION,
		.connection = 3,
		.incarnation = 4,
		.address = UINT64_MAX - 4096,
		.bytes = 4096,
		.rkey = 0x01020304};
	uint8_t bytes[256] = {0};
	wire_encode_verbs_request(&request, bytes);
	CHECK_EQ(memcmp(bytes, "fmvb\1\0\1", 8), 0);
	CHECK_EQ(bytes[55], 0x11);
	struct wire_verbs_request heard;
	CHECK_EQ(wire_decode_verbs_request(bytes, sizeof(bytes), &heard), 0);
	CHECK_EQ(heard.unfenced, request.unfenced);
	CHECK_EQ(memcmp(&heard.capability, &request.capability, sizeof(heard.capability)), 0);
	CHECK_EQ(wire_decode_verbs_request(bytes, WIRE_VERBS_REQUEST_BYTES - 1, &heard), -EPROTO);
	bytes[7] = 1;
	CHECK_EQ(wire_decode_verbs_request(bytes, sizeof(bytes), &heard), -EPROTO);
	bytes[4] = 2;
	CHECK_EQ(wire_decode_verbs_request(bytes, sizeof(bytes), &heard), -EPROTONOSUPPORT);
	bytes[0] = 'F';
	CHECK_EQ(wire_decode_verbs_request(bytes, sizeof(bytes), &heard), -EPROTO);
	struct wire_verbs_answer told;
	wire_encode_verbs_answer(&answer, bytes);
	CHECK_EQ(wire_decode_verbs_answer(bytes, sizeof(bytes), &told), 0);
	CHECK_EQ(memcmp(&told, &answer, sizeof(told)), 0);
	CHECK_EQ(wire_decode_verbs_answer(bytes, WIRE_VERBS_ANSWER_BYTES - 1, &told), -EPROTO);
	answer.address++; /* the region would wrap around */
	wire_encode_verbs_answer(&answer, bytes);
	CHECK_EQ(wire_decode_verbs_answer(bytes, sizeof(bytes), &told), -EPROTO);
	answer.connection = 0;
	wire_encode_verbs_answer(&answer, bytes);
	CHECK_EQ(wire_decode_verbs_answer(bytes, sizeof(bytes), &told), -EPROTO);
	answer.status = WIRE_STATUS_ACCESS; /* a refusal has nothing else to say */
	wire_encode_verbs_answer(&answer, bytes);
	CHECK_EQ(wire_decode_verbs_answer(bytes, sizeof(bytes), &told), 0);
	CHECK_EQ(told.status, WIRE_STATUS_ACCESS);
	answer.status = WIRE_STATUS_COUNT;
	wire_encode_verbs_answer(&answer, bytes);
	CHECK_EQ(wire_decode_verbs_answer(bytes, sizeof(bytes), &told), -EPROTO);
}
