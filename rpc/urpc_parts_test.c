/*
 * rpc/urpc_parts_test.c: the parts of urpc that need no network: the client's table of requests,
 * the memory of once-requests, pieces put together, times of arrival, fibers.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/test.h"
#include "rpc/urpc_fiber.h"
#include "rpc/urpc_fragment.h"
#include "rpc/urpc_once.h"
#include "rpc/urpc_ring.h"
#include "rpc/urpc_stamps.h"
#include "rpc/urpc_table.h"
#include "rpc/urpc_wire.h"

/* --- table --- */

TEST(ids_are_never_used_twice_and_are_found_while_in_flight)
{
	struct urpc_table table;
	struct urpc_slot *slots[8];
	uint64_t last = 0, state = 1;

	CHECK_EQ(urpc_table_open(&table, 8, UINT64_MAX - 5), 0); /* over the end, past 0 */
	for (unsigned i = 0; i < 8; i++) {
		slots[i] = urpc_table_take(&table);
		CHECK(slots[i] != NULL);
	}
	CHECK(urpc_table_take(&table) == NULL);
	for (unsigned i = 0; i < 10000; i++) {
		unsigned at = (unsigned)(test_random(&state) % 8);
		uint64_t id = slots[at]->id;

		CHECK(urpc_table_find(&table, id) == slots[at]);
		urpc_table_free(&table, slots[at]);
		CHECK(urpc_table_find(&table, id) == NULL);
		slots[at] = urpc_table_take(&table);
		CHECK(slots[at] != NULL);
		CHECK_NE(slots[at]->id, 0);
		CHECK(i == 0 || slots[at]->id - last < 1000);
		CHECK_NE(slots[at]->id, last);
		last = slots[at]->id;
	}
	urpc_table_close(&table);
}

TEST(the_oldest_id_is_the_first_that_has_not_ended)
{
	struct urpc_table table;
	struct urpc_slot *a, *b;
	uint64_t id;

	CHECK_EQ(urpc_table_open(&table, 4, 1000), 0);
	a = urpc_table_take(&table);
	b = urpc_table_take(&table);
	CHECK_EQ(urpc_table_oldest(&table), 1000);
	urpc_table_free(&table, b);
	CHECK_EQ(urpc_table_oldest(&table), 1000);
	urpc_table_free(&table, a);
	CHECK_EQ(urpc_table_oldest(&table), 1002);
	id = urpc_table_take(&table)->id;
	CHECK_EQ(urpc_table_oldest(&table), id);
	urpc_table_close(&table);
}

TEST(timers_come_in_the_order_of_their_time)
{
	enum { COUNT = 64 };
	struct urpc_table table;
	struct urpc_slot *slots[COUNT];
	uint64_t state = 7, last = 0;
	unsigned left = COUNT;

	CHECK_EQ(urpc_table_open(&table, COUNT, 5), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		slots[i] = urpc_table_take(&table);
		urpc_table_arm(&table, slots[i], test_random(&state) % 1000);
	}
	for (unsigned i = 0; i < COUNT; i += 3) /* some change their mind, some are disarmed */
		urpc_table_arm(&table, slots[i], test_random(&state) % 1000);
	for (unsigned i = 1; i < COUNT; i += 5) {
		urpc_table_disarm(&table, slots[i]);
		left--;
	}
	for (; left > 0; left--) {
		struct urpc_slot *first = urpc_table_first_due(&table);

		CHECK(first != NULL);
		CHECK_LE(last, first->due_ns);
		last = first->due_ns;
		urpc_table_disarm(&table, first);
	}
	CHECK(urpc_table_first_due(&table) == NULL);
	urpc_table_close(&table);
}

/* --- once --- */

static enum urpc_once_verdict begin(
	struct urpc_once *once, uint64_t id, uint32_t settled, uint32_t *index)
{
	return urpc_once_begin(once,
		&(struct urpc_once_request){.who = 99,
			.id = id,
			.settled = settled,
			.now_ns = 1000,
			.deadline_ns = NS_PER_S},
		index);
}

TEST(a_once_request_is_new_then_running_then_done)
{
	struct urpc_once once;
	uint32_t index, again;
	uint8_t reply[URPC_MESSAGE_BYTES_MAX];
	int status = 1;

	CHECK_EQ(urpc_once_open(&once), 0);
	CHECK_EQ(begin(&once, 10, 0, &index), URPC_ONCE_NEW);
	CHECK_EQ(begin(&once, 10, 0, &again), URPC_ONCE_RUNNING);
	urpc_once_finish(&once, index, -EPERM, "abc", 3);
	CHECK_EQ(begin(&once, 10, 0, &again), URPC_ONCE_DONE);
	CHECK_EQ(again, index);
	CHECK_EQ(urpc_once_reply(&once, again, &status, reply), 3);
	CHECK_EQ(status, -EPERM);
	CHECK_EQ(memcmp(reply, "abc", 3), 0);
	urpc_once_close(&once);
}

TEST(a_once_request_that_was_abandoned_may_be_tried_again)
{
	struct urpc_once once;
	uint32_t index;

	CHECK_EQ(urpc_once_open(&once), 0);
	CHECK_EQ(begin(&once, 10, 0, &index), URPC_ONCE_NEW);
	urpc_once_abandon(&once, index);
	CHECK_EQ(begin(&once, 10, 0, &index), URPC_ONCE_NEW);
	urpc_once_close(&once);
}

TEST(a_full_memory_of_unsettled_requests_refuses_and_never_forgets)
{
	struct urpc_once once;
	uint32_t index;

	CHECK_EQ(urpc_once_open(&once), 0);
	for (uint32_t i = 0; i < URPC_ONCE_ENTRIES; i++) {
		CHECK_EQ(begin(&once, 100 + i, i, &index), URPC_ONCE_NEW);
		urpc_once_finish(&once, index, 0, NULL, 0);
	}
	CHECK_EQ(begin(&once, 100 + URPC_ONCE_ENTRIES, URPC_ONCE_ENTRIES, &index), URPC_ONCE_FULL);
	for (uint32_t i = 0; i < URPC_ONCE_ENTRIES; i++)
		CHECK_EQ(begin(&once, 100 + i, i, &index), URPC_ONCE_DONE);
	urpc_once_close(&once);
}

TEST(settled_requests_make_room_and_their_repeats_are_dropped)
{
	struct urpc_once once;
	uint32_t index;

	CHECK_EQ(urpc_once_open(&once), 0);
	for (uint32_t i = 0; i < 4 * URPC_ONCE_ENTRIES; i++) { /* one in flight at a time */
		CHECK_EQ(begin(&once, 100 + i, 0, &index), URPC_ONCE_NEW);
		urpc_once_finish(&once, index, 0, "x", 1);
	}
	CHECK_EQ(begin(&once, 100, 0, &index), URPC_ONCE_SETTLED);
	CHECK_EQ(begin(&once, 100 + 4 * URPC_ONCE_ENTRIES - 2, 0, &index), URPC_ONCE_SETTLED);
	CHECK_EQ(begin(&once, 100 + 4 * URPC_ONCE_ENTRIES - 1, 0, &index), URPC_ONCE_DONE);
	urpc_once_close(&once);
}

TEST(a_client_that_restarts_at_the_same_address_is_not_taken_for_its_former_self)
{
	struct urpc_once once;
	uint32_t index;

	CHECK_EQ(urpc_once_open(&once), 0);
	CHECK_EQ(begin(&once, 1ull << 60, 0, &index), URPC_ONCE_NEW);
	CHECK_EQ(begin(&once, 1ull << 50, 0, &index), URPC_ONCE_NEW); /* lower: a new life */
	CHECK_EQ(begin(&once, (1ull << 50) - 1, 0, &index), URPC_ONCE_SETTLED);
	urpc_once_close(&once);
}

TEST(old_replies_are_forgotten_before_old_requests)
{
	static uint8_t large[URPC_MESSAGE_BYTES_MAX];
	const uint32_t count = URPC_ONCE_BYTES / sizeof(large) + 2;
	struct urpc_once once;
	uint32_t index;
	int status;

	CHECK_EQ(urpc_once_open(&once), 0);
	for (uint32_t i = 0; i < count; i++) {
		CHECK_EQ(begin(&once, 100 + i, i, &index), URPC_ONCE_NEW);
		memset(large, (int)i, sizeof(large));
		urpc_once_finish(&once, index, 0, large, sizeof(large));
	}
	CHECK_EQ(begin(&once, 100, 0, &index), URPC_ONCE_LOST);
	CHECK_EQ(begin(&once, 101, 1, &index), URPC_ONCE_LOST);
	CHECK_EQ(begin(&once, 102, 2, &index), URPC_ONCE_DONE);
	CHECK_EQ(urpc_once_reply(&once, index, &status, large), sizeof(large));
	CHECK_EQ(large[0], 2);
	CHECK_EQ(large[sizeof(large) - 1], 2);
	urpc_once_close(&once);
}

/* --- pieces --- */

static struct urpc_gather *add_piece(
	struct urpc_gathers *gathers, uint64_t id, unsigned piece, uint64_t now_ns)
{
	static const uint8_t payload[URPC_UNIT_MIN] = {7};
	struct urpc_address source = {.length = 16, .in = {.sin_family = AF_INET}};
	struct urpc_parsed parsed = {.head = {.id = id,
					     .total_bytes = 3 * URPC_UNIT_MIN,
					     .piece = (uint16_t)piece,
					     .unit = URPC_UNIT_MIN},
		.payload = payload,
		.payload_bytes = sizeof(payload),
		.offset = piece * URPC_UNIT_MIN,
		.pieces = 3};

	return urpc_gathers_add(gathers, &source, &parsed, now_ns);
}

TEST(pieces_come_in_any_order_and_twice)
{
	static struct urpc_gathers gathers;
	_Atomic uint64_t dropped = 0;
	struct urpc_gather *whole;

	CHECK_EQ(urpc_gathers_open(&gathers, &dropped), 0);
	CHECK(add_piece(&gathers, 1, 2, 10) == NULL);
	CHECK(add_piece(&gathers, 1, 2, 11) == NULL);
	CHECK_EQ(dropped, 1);
	CHECK(add_piece(&gathers, 1, 0, 12) == NULL);
	whole = add_piece(&gathers, 1, 1, 13);
	CHECK(whole != NULL);
	CHECK_EQ(whole->first_ns, 10);
	urpc_gather_free(whole);
	urpc_gathers_close(&gathers);
}

TEST(first_pieces_without_end_neither_grow_nor_shut_out_others)
{
	static struct urpc_gathers gathers;
	_Atomic uint64_t dropped = 0;
	struct urpc_gather *lent[URPC_GATHERS_MAX];

	CHECK_EQ(urpc_gathers_open(&gathers, &dropped), 0);
	for (uint64_t id = 1; id <= 1000; id++)
		CHECK(add_piece(&gathers, id, 0, id) == NULL);
	CHECK_EQ(dropped, 1000 - URPC_GATHERS_MAX);
	for (unsigned i = 0; i < URPC_GATHERS_MAX; i++) {
		for (unsigned piece = 0; piece < 3; piece++)
			lent[i] = add_piece(&gathers, 2000 + i, piece, 2000 + i);
		CHECK(lent[i] != NULL);
	}
	/* all lent: the next has no place, until one is given back */
	CHECK(add_piece(&gathers, 5000, 0, 5000) == NULL);
	CHECK(add_piece(&gathers, 5000, 1, 5000) == NULL);
	CHECK(add_piece(&gathers, 5000, 2, 5000) == NULL);
	urpc_gather_free(lent[3]);
	for (unsigned piece = 0; piece < 2; piece++)
		CHECK(add_piece(&gathers, 5001, piece, 5001) == NULL);
	CHECK(add_piece(&gathers, 5001, 2, 5001) == lent[3]);
	urpc_gathers_close(&gathers);
}

/* --- rings in shared memory --- */

static struct urpc_ring ring;

TEST(records_of_all_sizes_go_through_a_ring_in_order)
{
	static uint8_t bytes[URPC_DATAGRAM_BYTES_MAX], got[URPC_DATAGRAM_BYTES_MAX];
	uint64_t in = 0, out = 0, put_state = 5, get_state = 5, stamp;
	unsigned put = 0, gotten = 0;

	memset(&ring, 0, sizeof(ring));
	while (gotten < 5000) {
		size_t length = 1 + test_random(&put_state) % sizeof(bytes);
		struct iovec iov[2] = {
			{bytes, length / 3}, {bytes + length / 3, length - length / 3}};
		int r;

		memset(bytes, (int)put, length);
		r = urpc_ring_put(&ring, &in, iov, 2, put);
		if (r == 0) {
			put++;
			continue;
		}
		CHECK_EQ(r, -EAGAIN);
		put_state -= 0x9e3779b97f4a7c15ull; /* the same again later */
		while ((r = urpc_ring_get(&ring, &out, got, sizeof(got), &stamp)) != 0) {
			CHECK_EQ(r, 1 + test_random(&get_state) % sizeof(bytes));
			CHECK_EQ(stamp, gotten);
			CHECK_EQ(got[0], (uint8_t)gotten);
			CHECK_EQ(got[r - 1], (uint8_t)gotten);
			gotten++;
		}
	}
}

TEST(a_ring_whose_other_side_lies_is_an_error_and_never_read_outside)
{
	static uint8_t got[URPC_DATAGRAM_BYTES_MAX];
	uint64_t state = 11, stamp;
	unsigned errors = 0;

	for (unsigned i = 0; i < 20000; i++) {
		uint64_t in = 16 * (test_random(&state) % 100000), out = in;
		struct iovec iov = {got, 1 + test_random(&state) % 100};

		atomic_store(&ring.head, in);
		atomic_store(&ring.tail, in);
		CHECK_EQ(urpc_ring_put(&ring, &in, &iov, 1, 0), 0);
		switch (test_random(&state) % 3) {
		case 0:
			atomic_store(&ring.tail, test_random(&state) >> test_random(&state) % 64);
			break;
		case 1: {
			uint32_t length =
				(uint32_t)(test_random(&state) >> test_random(&state) % 64);

			memcpy(&ring.bytes[out % URPC_RING_BYTES], &length, sizeof(length));
			break;
		}
		case 2:
			atomic_store(&ring.head, test_random(&state));
			break;
		}
		for (unsigned j = 0; j < 100; j++) {
			int r = urpc_ring_get(&ring, &out, got, sizeof(got), &stamp);

			CHECK_LE(r, sizeof(got));
			errors += r < 0;
			if (r <= 0)
				break;
		}
		errors += urpc_ring_put(&ring, &in, &iov, 1, 0) == -EPROTO;
	}
	CHECK_LE(1000, errors);
}

/* --- times of arrival --- */

static uint64_t wall_ns;
static uint64_t wall_ahead(void)
{
	return wall_ns - 3000;
}

TEST(an_arrival_is_the_stamps_age_ago)
{
	struct urpc_stamps stamps = {.measure_ns = wall_ahead, .empty_ns = 1000};

	wall_ns = 5000000000;
	urpc_stamps_look(&stamps, 3000);
	CHECK_EQ(urpc_stamps_arrival(&stamps, 5000000000 - 700, 3000), 2300);
}

TEST(a_wall_clock_set_back_or_forth_moves_an_arrival_within_its_bounds_only)
{
	struct urpc_stamps stamps = {.measure_ns = wall_ahead, .empty_ns = 1000};

	wall_ns = 5000000000;
	urpc_stamps_look(&stamps, 3000);
	wall_ns = 9000000000; /* set forth: stamped before, read after */
	CHECK_EQ(urpc_stamps_arrival(&stamps, 5000000000, 3000), 3000);
	CHECK_EQ(urpc_stamps_arrival(&stamps, 9000000000 - 100, 3000), 2900);
	CHECK_EQ(urpc_stamps_arrival(&stamps, 5000000000 - 100, 3000), 1000);
	wall_ns = 1000; /* set back */
	CHECK_EQ(urpc_stamps_arrival(&stamps, 9000000000 + 50, 3000), 3000);
	CHECK_EQ(urpc_stamps_arrival(&stamps, 1000 - 200, 3000), 2800);
	CHECK_EQ(urpc_stamps_arrival(&stamps, 0, 3000), 2000);
}

/* --- fibers --- */

static struct urpc_fibers fibers;
static unsigned fiber_steps;

static void three_steps(void *argument)
{
	double local = *(double *)argument;

	for (int i = 0; i < 3; i++) {
		fiber_steps++;
		local *= 2;
		urpc_fibers_leave(&fibers);
	}
	*(double *)argument = local;
}

TEST(fibers_go_on_where_they_left_with_their_locals)
{
	double values[4] = {1, 2, 3, 4};
	struct urpc_fiber *running[4];

	fiber_steps = 0;
	CHECK_EQ(urpc_fibers_open(&fibers, 4, URPC_STACK_BYTES), 0);
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 4; i++) {
			values[i] = i + 1;
			running[i] = urpc_fibers_take(&fibers, three_steps, &values[i]);
			CHECK(running[i] != NULL);
		}
		CHECK(urpc_fibers_take(&fibers, three_steps, NULL) == NULL);
		for (unsigned step = 0; step < 4; step++)
			for (unsigned i = 0; i < 4; i++)
				CHECK_EQ(urpc_fibers_run(&fibers, running[i]), step == 3);
		for (unsigned i = 0; i < 4; i++)
			CHECK(values[i] == 8.0 * (i + 1));
	}
	CHECK_EQ(fiber_steps, 1200);
	urpc_fibers_close(&fibers);
}

static void deep(void *argument)
{
	volatile uint8_t bytes[URPC_STACK_BYTES - 16384];

	memset((void *)(uintptr_t)bytes, 5, sizeof(bytes));
	urpc_fibers_leave(&fibers);
	*(unsigned *)argument = bytes[0] + bytes[sizeof(bytes) - 1];
}

TEST(a_fiber_may_use_nearly_all_of_its_stack)
{
	unsigned sum = 0;
	struct urpc_fiber *fiber;

	CHECK_EQ(urpc_fibers_open(&fibers, 2, URPC_STACK_BYTES), 0);
	fiber = urpc_fibers_take(&fibers, deep, &sum);
	CHECK(!urpc_fibers_run(&fibers, fiber));
	CHECK(urpc_fibers_run(&fibers, fiber));
	CHECK_EQ(sum, 10);
	urpc_fibers_close(&fibers);
}

/* --- wire --- */

TEST(what_is_not_exactly_a_datagram_of_ours_is_malformed_or_foreign)
{
	uint8_t bytes[sizeof(struct urpc_request_head) + 8] = {0};
	struct urpc_request_head head = {.head = {.magic = URPC_MAGIC,
						 .version = URPC_VERSION,
						 .kind = URPC_REQUEST,
						 .id = 5,
						 .total_bytes = 8,
						 .unit = URPC_UNIT_UDP}};
	struct urpc_parsed parsed;

	memcpy(bytes, &head, sizeof(head));
	CHECK_EQ(urpc_wire_parse(bytes, sizeof(bytes), &parsed), URPC_OURS);
	CHECK_EQ(parsed.payload_bytes, 8);
	for (size_t length = 0; length < sizeof(bytes); length++)
		CHECK_EQ(urpc_wire_parse(bytes, length, &parsed),
			length < 4 ? URPC_FOREIGN : URPC_MALFORMED);
	for (size_t at = 4; at < 24; at++) {         /* each byte of the head, turned over */
		if (at == 7 || (at >= 8 && at < 16)) /* attempt and id may be anything */
			continue;
		memcpy(bytes, &head, sizeof(head));
		bytes[at] ^= 0xff;
		CHECK_EQ(urpc_wire_parse(bytes, sizeof(bytes), &parsed),
			at == 22 ? URPC_OURS : URPC_MALFORMED);
	}
}
