/*
 * rpc/wire_fuzz.c: arbitrary bytes through the decoders. libFuzzer under clang; else a driver from
 * a seed.
 *
 * Each input is tried as it is and with its crc set right (or the fuzzer would never get past it).
 * Whatever a decoder accepts must be within its promised bounds, and encode to the very same bytes
 * again.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "rpc/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void fuzz_hello(const uint8_t *bytes)
{
	struct wire_hello hello;
	uint8_t again[WIRE_HELLO_BYTES];
	if (wire_decode_hello(bytes, &hello))
		return;
	FM_ASSERT_EQ(hello.version, WIRE_VERSION);
	FM_ASSERT_LT(hello.status, WIRE_STATUS_COUNT);
	FM_ASSERT(hello.kind == WIRE_CLIENT || hello.status ||
		  (hello.connection && hello.incarnation));
	wire_encode_hello(&hello, again);
	FM_ASSERT_EQ(memcmp(again, bytes, sizeof(again)), 0);
}

static void fuzz_header(const uint8_t *bytes, int (*decode)(const uint8_t *, struct wire_header *))
{
	struct wire_header header;
	uint8_t again[WIRE_HEADER_BYTES];
	if (decode(bytes, &header))
		return;
	FM_ASSERT_LE(header.length, FABRIC_OP_BYTES_MAX);
	FM_ASSERT_LT(header.status, WIRE_STATUS_COUNT);
	if (!(header.op & WIRE_REPLY))
		FM_ASSERT_LE(header.offset, UINT64_MAX - header.length);
	wire_encode_header(&header, again);
	FM_ASSERT_EQ(memcmp(again, bytes, sizeof(again)), 0);
}

static void fuzz_fence(const uint8_t *bytes)
{
	struct fabric_capability capability;
	uint64_t connection;
	uint8_t again[WIRE_FENCE_BYTES];
	wire_decode_fence(bytes, &capability, &connection);
	wire_encode_fence(&capability, connection, again);
	FM_ASSERT_EQ(memcmp(again, bytes, sizeof(again)), 0);
}

static void fuzz_all(const uint8_t *bytes)
{
	fuzz_hello(bytes);
	fuzz_header(bytes, wire_decode_request);
	fuzz_header(bytes, wire_decode_reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	uint8_t input[WIRE_FENCE_BYTES] = {0};
	memcpy(input, bytes, FM_MIN(length, sizeof(input)));
	fuzz_all(input);
	fuzz_fence(input);
	uint32_t crc = crc32c(input, 28);
	for (int i = 0; i < 4; i++)
		input[28 + i] = (uint8_t)(crc >> (8 * i));
	fuzz_all(input);
	return 0;
}

#ifndef FUZZ_BY_LIBFUZZER

#define DRIVER_RUNS 400000ul

static uint64_t driver_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Mostly small numbers where fields are, so that many inputs are nearly right. */
static void driver_fill(uint8_t input[WIRE_FENCE_BYTES], uint64_t *state)
{
	static const uint8_t magic[8] = {'f', 'm', 'f', 'b', 1, 0, 1, 1};
	memset(input, 0, WIRE_FENCE_BYTES);
	uint64_t dice = driver_random(state);
	if (dice % 3 == 0)
		memcpy(input, magic, sizeof(magic));
	else
		input[0] = (uint8_t)(dice % 2 ? 1 + (dice >> 8) % 5
					      : (1 + (dice >> 8) % 5) | WIRE_REPLY);
	for (unsigned i = (unsigned)(dice >> 32) % 10; i > 0; i--) {
		uint64_t r = driver_random(state);
		input[r % WIRE_FENCE_BYTES] = (uint8_t)(r & 0x100 ? r >> 16 : (r >> 16) % 6);
	}
}

int main(int argc, char **argv)
{
	uint64_t state = 0x5eed;
	unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : DRIVER_RUNS;
	for (unsigned long run = 0; run < runs; run++) {
		uint8_t input[WIRE_FENCE_BYTES];
		driver_fill(input, &state);
		LLVMFuzzerTestOneInput(input, driver_random(&state) % (sizeof(input) + 1));
		LLVMFuzzerTestOneInput(input, sizeof(input));
	}
	printf("ok   %lu inputs, deterministic\n", runs);
	return 0;
}

#endif
