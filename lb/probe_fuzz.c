/*
 * lb/probe_fuzz.c: arbitrary bytes as probes. libFuzzer under clang; else a driver from a seed.
 *
 * The first 48 bytes are a report and a moment, the rest a datagram. Whatever is answered must be a
 * well-formed answer of the question's size, with its cookie, saying what load_read says; whatever
 * is read as an answer must be one that could have been written.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "lb/probe.h"

#define MOMENT_BYTES (sizeof(struct load_report) + 16)
#define INPUT_BYTES_MAX (MOMENT_BYTES + 2 * PROBE_BYTES)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void fuzz_question(
	const struct load_slot *slot, uint64_t now_ns, const uint8_t *bytes, size_t length)
{
	uint8_t answer[PROBE_BYTES + 8];
	struct load load, wanted;
	struct probe_packet question;
	uint64_t cookie;
	size_t answered;

	memset(answer, 0x5a, sizeof(answer));
	answered = probe_answer(slot, now_ns, bytes, length, answer);
	FM_ASSERT_EQ(answer[PROBE_BYTES], 0x5a);
	FM_ASSERT(answered == 0 || (answered == PROBE_BYTES && length == PROBE_BYTES));
	if (answered == 0)
		return;
	memcpy(&question, bytes, sizeof(question));
	FM_ASSERT_EQ(question.version, PROBE_VERSION);
	FM_ASSERT_EQ(question.kind, PROBE_ASK);
	FM_ASSERT(probe_parse_answer(answer, answered, &load, &cookie));
	FM_ASSERT_EQ(cookie, question.cookie);
	load_read(slot, now_ns, &wanted);
	FM_ASSERT_EQ(load.epoch, wanted.epoch);
	FM_ASSERT_EQ(load.delay_ns, wanted.delay_ns);
	FM_ASSERT_EQ(load.in_flight, wanted.in_flight);
	FM_ASSERT_EQ(load.flags, wanted.flags);
	FM_ASSERT_EQ(load.free_bytes, wanted.free_bytes);
	FM_ASSERT_EQ(probe_answer(slot, now_ns, answer, answered, answer), 0); /* no loop */
}

static void fuzz_answer(const uint8_t *bytes, size_t length)
{
	struct probe_packet packet, again = {0};
	struct load load;
	uint64_t cookie;

	if (!probe_parse_answer(bytes, length, &load, &cookie))
		return;
	FM_ASSERT_EQ(length, PROBE_BYTES);
	memcpy(&packet, bytes, sizeof(packet));
	again.magic = PROBE_MAGIC;
	again.version = PROBE_VERSION;
	again.kind = PROBE_ANSWER;
	again.flags = load.flags;
	again.cookie = cookie;
	again.epoch = load.epoch;
	again.delay_ns = load.delay_ns;
	again.free_bytes = load.free_bytes;
	again.in_flight = load.in_flight;
	FM_ASSERT_EQ(memcmp(&packet, &again, sizeof(packet)), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	uint8_t moment[MOMENT_BYTES] = {0};
	struct load_slot slot = {.epoch = 1};
	struct load_report report;
	uint64_t now_ns, publishes;
	size_t head = FM_MIN(length, sizeof(moment));

	memcpy(moment, bytes, head);
	memcpy(&report, moment, sizeof(report));
	memcpy(&now_ns, moment + sizeof(report), 8);
	memcpy(&publishes, moment + sizeof(report) + 8, 8);
	for (uint64_t i = 0; i < publishes % 4; i++)
		load_publish(&slot, &report);
	fuzz_question(&slot, now_ns, bytes + head, length - head);
	fuzz_answer(bytes + head, length - head);
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

/* Mostly a right probe with a byte or none changed. */
static size_t driver_fill(uint8_t input[INPUT_BYTES_MAX], uint64_t *state)
{
	struct probe_packet packet;
	uint64_t dice = driver_random(state);

	for (unsigned i = 0; i < MOMENT_BYTES; i++)
		input[i] = (uint8_t)(dice & 1 ? driver_random(state) : 0);
	probe_ask(&packet, driver_random(state));
	if ((dice & 2) != 0)
		packet.kind = PROBE_ANSWER;
	memset(input + MOMENT_BYTES, 0, INPUT_BYTES_MAX - MOMENT_BYTES);
	memcpy(input + MOMENT_BYTES, &packet, sizeof(packet));
	if ((dice & 4) != 0)
		input[MOMENT_BYTES + (dice >> 8) % PROBE_BYTES] ^=
			(uint8_t)(1u << (dice >> 16) % 8);
	if ((dice & 24) != 0)
		return MOMENT_BYTES + PROBE_BYTES;
	return (dice >> 24) % (INPUT_BYTES_MAX + 1);
}

int main(int argc, char **argv)
{
	uint64_t state = 0x5eed;
	unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : DRIVER_RUNS;

	for (unsigned long run = 0; run < runs; run++) {
		uint8_t input[INPUT_BYTES_MAX];

		LLVMFuzzerTestOneInput(input, driver_fill(input, &state));
	}
	printf("ok   %lu inputs, deterministic\n", runs);
	return 0;
}

#endif
