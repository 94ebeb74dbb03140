/* base/ring_test.c: the ring against a plain array, and under threads. */
#include "base/ring.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/test.h"

TEST(values_come_out_in_the_order_they_went_in)
{
	struct ring r;
	uint64_t value;

	CHECK_EQ(ring_open(&r, 8), 0);
	for (uint64_t i = 0; i < 8; i++)
		CHECK(ring_push(&r, i));
	for (uint64_t i = 0; i < 8; i++) {
		CHECK(ring_pop(&r, &value));
		CHECK_EQ(value, i);
	}
	ring_close(&r);
}

TEST(a_full_ring_refuses_a_push_and_an_empty_one_a_pop)
{
	struct ring r;
	uint64_t value = 77;

	CHECK_EQ(ring_open(&r, 2), 0);
	CHECK(!ring_pop(&r, &value));
	CHECK_EQ(value, 77);
	CHECK(ring_push(&r, 1));
	CHECK(ring_push(&r, 2));
	CHECK(!ring_push(&r, 3));
	CHECK_EQ(ring_count(&r), 2);
	CHECK(ring_pop(&r, &value));
	CHECK(ring_push(&r, 3));
	CHECK(!ring_push(&r, 4));
	ring_close(&r);
}

TEST(a_ring_that_was_closed_may_be_closed_again)
{
	struct ring r;

	CHECK_EQ(ring_open(&r, 4), 0);
	ring_close(&r);
	ring_close(&r);
}

TEST(random_pushes_and_pops_agree_with_a_plain_array)
{
	static uint64_t model[200000];
	uint64_t seed = 6, value;
	size_t head = 0, tail = 0;
	struct ring r;

	CHECK_EQ(ring_open(&r, 16), 0);
	for (unsigned i = 0; i < 200000; i++) {
		uint64_t dice = test_random(&seed);

		if (dice & 64) {
			bool pushed = ring_push(&r, dice);

			CHECK_EQ(pushed, tail - head < 16);
			if (pushed)
				model[tail++] = dice;
		} else {
			bool popped = ring_pop(&r, &value);

			CHECK_EQ(popped, tail > head);
			if (popped)
				CHECK_EQ(value, model[head++]);
		}
		CHECK_EQ(ring_count(&r), tail - head);
	}
	ring_close(&r);
}

#define PRODUCERS 3
#define CONSUMERS 3
#define PER_PRODUCER 40000ull

static struct ring shared;
static _Atomic uint64_t popped_count;
static _Atomic uint8_t seen[PRODUCERS * PER_PRODUCER];

static void *produce(void *number)
{
	uint64_t base = (uint64_t)(uintptr_t)number * PER_PRODUCER;

	for (uint64_t i = 0; i < PER_PRODUCER; i++) {
		while (!ring_push(&shared, base + i))
			sched_yield();
	}
	return NULL;
}

/* Also checks that what one producer pushed arrives at one consumer in its order. */
static void *consume(void *unused)
{
	uint64_t last[PRODUCERS] = {0}, value;

	while (atomic_load(&popped_count) < PRODUCERS * PER_PRODUCER) {
		if (!ring_pop(&shared, &value)) {
			sched_yield();
			continue;
		}
		CHECK(value < PRODUCERS * PER_PRODUCER);
		CHECK(last[value / PER_PRODUCER] <= value);
		last[value / PER_PRODUCER] = value;
		atomic_fetch_add(&seen[value], 1);
		atomic_fetch_add(&popped_count, 1);
	}
	return unused;
}

TEST(many_producers_and_consumers_pass_each_value_exactly_once)
{
	pthread_t producers[PRODUCERS], consumers[CONSUMERS];

	CHECK_EQ(ring_open(&shared, 64), 0);
	for (uintptr_t i = 0; i < CONSUMERS; i++)
		CHECK_EQ(pthread_create(&consumers[i], NULL, consume, NULL), 0);
	for (uintptr_t i = 0; i < PRODUCERS; i++)
		CHECK_EQ(pthread_create(&producers[i], NULL, produce, (void *)i), 0);
	for (unsigned i = 0; i < PRODUCERS; i++)
		CHECK_EQ(pthread_join(producers[i], NULL), 0);
	for (unsigned i = 0; i < CONSUMERS; i++)
		CHECK_EQ(pthread_join(consumers[i], NULL), 0);
	for (uint64_t i = 0; i < PRODUCERS * PER_PRODUCER; i++)
		CHECK_EQ(atomic_load(&seen[i]), 1);
	CHECK_EQ(ring_count(&shared), 0);
	ring_close(&shared);
}
