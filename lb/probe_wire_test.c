/* lb/probe_wire_test.c: the datagram, and user space's answer to it. */
#include "base/test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "lb/probe.h"

#define NOW_NS (1000 * NS_PER_S)

static struct load_slot slot;

static void publish(struct load_report report)
{
	memset(&slot, 0, sizeof(slot));
	slot.epoch = 0xe90c4;
	if (report.stamp_ns == 0)
		report.stamp_ns = NOW_NS;
	load_publish(&slot, &report);
}

/* Asks, and returns the load that came back. */
static struct load ask(void)
{
	struct probe_packet question, answer;
	struct load load;
	uint64_t cookie;

	probe_ask(&question, 0x1122334455667788);
	CHECK_EQ(probe_answer(&slot, NOW_NS, &question, sizeof(question), &answer), PROBE_BYTES);
	CHECK(probe_parse_answer(&answer, sizeof(answer), &load, &cookie));
	CHECK_EQ(cookie, 0x1122334455667788);
	return load;
}

TEST(an_answer_carries_what_was_published_and_the_cookie)
{
	struct load load;

	publish((struct load_report){.delay_ns = 1234,
		.in_flight = 7,
		.free_bytes = 1ull << 40,
		.flags = LOAD_DRAINING});
	load = ask();
	CHECK_EQ(load.epoch, 0xe90c4);
	CHECK_EQ(load.delay_ns, 1234);
	CHECK_EQ(load.in_flight, 7);
	CHECK_EQ(load.flags, LOAD_DRAINING);
	CHECK_EQ(load.free_bytes, 1ull << 40);
}

TEST(a_request_that_waits_longer_than_the_last_one_did_is_the_delay)
{
	publish((struct load_report){.delay_ns = 1000, .waiting_since_ns = NOW_NS - 5000});
	CHECK_EQ(ask().delay_ns, 5000);
	publish((struct load_report){.delay_ns = 9000, .waiting_since_ns = NOW_NS - 5000});
	CHECK_EQ(ask().delay_ns, 9000);
	publish((struct load_report){.delay_ns = 9000, .waiting_since_ns = NOW_NS + 5000});
	CHECK_EQ(ask().delay_ns, 9000);
	publish((struct load_report){.waiting_since_ns = NOW_NS - 60 * NS_PER_S});
	CHECK_EQ(ask().delay_ns, UINT32_MAX);
}

TEST(a_stale_or_empty_slot_is_unhealthy)
{
	publish((struct load_report){.stamp_ns = NOW_NS - LOAD_STALE_NS, .in_flight = 3});
	CHECK_EQ(ask().flags, 0);
	publish((struct load_report){.stamp_ns = NOW_NS - LOAD_STALE_NS - 1, .in_flight = 3});
	CHECK_EQ(ask().flags, LOAD_UNHEALTHY);
	CHECK_EQ(ask().in_flight, 0);
	CHECK_EQ(ask().epoch, 0xe90c4);
	memset(&slot, 0, sizeof(slot));
	CHECK_EQ(ask().flags, LOAD_UNHEALTHY);
}

TEST(questions_of_any_other_length_get_no_answer)
{
	uint8_t bytes[3 * PROBE_BYTES] = {0}, answer[3 * PROBE_BYTES];
	struct probe_packet question;

	publish((struct load_report){0});
	probe_ask(&question, 1);
	memcpy(bytes, &question, sizeof(question));
	for (size_t length = 0; length <= sizeof(bytes); length++) {
		memset(answer, 0x5a, sizeof(answer));
		CHECK_EQ(probe_answer(&slot, NOW_NS, bytes, length, answer),
			length == PROBE_BYTES ? PROBE_BYTES : 0);
		for (size_t i = length == PROBE_BYTES ? length : 0; i < sizeof(answer); i++)
			CHECK_EQ(answer[i], 0x5a);
	}
}

/* One byte of a question changed: what may be anything, and what may not. */
TEST(a_question_with_a_wrong_byte_gets_no_answer)
{
	uint8_t bytes[PROBE_BYTES], answer[PROBE_BYTES];
	struct probe_packet question;

	publish((struct load_report){0});
	for (size_t i = 0; i < PROBE_BYTES; i++) {
		bool free_byte = i >= offsetof(struct probe_packet, cookie) &&
				 i < offsetof(struct probe_packet, reserved);

		probe_ask(&question, 99);
		memcpy(bytes, &question, sizeof(bytes));
		bytes[i] ^= 0x80;
		CHECK_EQ(probe_answer(&slot, NOW_NS, bytes, sizeof(bytes), answer),
			free_byte ? PROBE_BYTES : 0);
	}
}

TEST(an_answer_is_no_question_and_a_question_is_no_answer)
{
	struct probe_packet question, answer, second;
	struct load load;
	uint64_t cookie;

	publish((struct load_report){0});
	probe_ask(&question, 5);
	CHECK(!probe_parse_answer(&question, sizeof(question), &load, &cookie));
	CHECK_EQ(probe_answer(&slot, NOW_NS, &question, sizeof(question), &answer), PROBE_BYTES);
	CHECK_EQ(probe_answer(&slot, NOW_NS, &answer, sizeof(answer), &second), 0);
	for (size_t length = 0; length < sizeof(answer); length++)
		CHECK(!probe_parse_answer(&answer, length, &load, &cookie));
}

TEST(names_of_modes_read_back)
{
	enum probe_mode mode;

	for (int i = PROBE_AUTO; i <= PROBE_NONE; i++) {
		CHECK(probe_mode_parse(probe_mode_name((enum probe_mode)i), &mode));
		CHECK_EQ(mode, i);
	}
	CHECK(!probe_mode_parse("xpd", &mode));
	CHECK(!probe_mode_parse("", &mode));
}

static _Atomic bool writer_stop;

/* Reports whose numbers belong together, as fast as possible. */
static void *writer_run(void *argument)
{
	for (uint32_t i = 1; !atomic_load(&writer_stop); i++) {
		const struct load_report report = {
			.stamp_ns = NOW_NS,
			.free_bytes = (uint64_t)i << 32 | (i & 0xffff),
			.delay_ns = i,
			.in_flight = (uint16_t)i,
		};

		load_publish(&slot, &report);
	}
	return argument;
}

TEST(a_reader_beside_a_writer_never_sees_half_a_report)
{
	unsigned healthy = 0;
	pthread_t thread;

	publish((struct load_report){0});
	CHECK_EQ(pthread_create(&thread, NULL, writer_run, NULL), 0);
	for (unsigned i = 0; i < 1000000; i++) {
		struct load load;

		if (!load_read(&slot, NOW_NS, &load))
			continue;
		healthy++;
		CHECK_EQ(load.in_flight, load.delay_ns & 0xffff);
		CHECK_EQ(load.free_bytes, (uint64_t)load.delay_ns << 32 | load.in_flight);
	}
	atomic_store(&writer_stop, true);
	pthread_join(thread, NULL);
	CHECK_LT(1000, healthy);
}
