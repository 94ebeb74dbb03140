/*
 * lb/pool_test.c: the list of samples against a twin that sorts.
 */
#include "lb/pool.h"

#include "base/test.h"

#define SERVERS 9

struct twin {
	uint64_t at_ns[SERVERS], order[SERVERS]; /* order: of arrival; 0: not known */
	uint32_t delay_ns[SERVERS], epoch[SERVERS];
};

static void check_same(struct pool *pool, const struct twin *twin)
{
	uint32_t known = 0, walked = 0;
	uint64_t before = UINT64_MAX;

	for (uint32_t i = 0; i < SERVERS; i++) {
		const struct sample *sample = pool_get(pool, i, 0);

		CHECK_EQ(sample != NULL, twin->order[i] != 0);
		known += sample != NULL ? 1 : 0;
		if (sample == NULL)
			continue;
		CHECK_EQ(sample->delay_ns, twin->delay_ns[i]);
		CHECK_EQ(sample->at_ns, twin->at_ns[i]);
		CHECK(pool_get(pool, i, twin->at_ns[i] + 1) == NULL);
	}
	CHECK_EQ(pool->known_count, known);
	for (uint32_t i = pool->newest; i != POOL_NOBODY; i = pool->samples[i].older, walked++) {
		CHECK(twin->order[i] < before && twin->order[i] != 0);
		before = twin->order[i];
		if (pool->samples[i].older == POOL_NOBODY)
			CHECK_EQ(pool->oldest, i);
	}
	CHECK_EQ(walked, known);
}

TEST(the_list_is_in_order_of_arrival_whatever_happens)
{
	struct pool pool;
	struct twin twin = {0};
	uint64_t random = 1, now_ns = 1;

	CHECK_EQ(pool_open(&pool, SERVERS), 0);
	for (uint64_t step = 1; step <= 20000; step++) {
		uint32_t server = (uint32_t)(test_random(&random) % SERVERS);
		struct load load = {.epoch = 1 + (uint32_t)(test_random(&random) % 2),
			.delay_ns = (uint32_t)test_random(&random)};

		now_ns += test_random(&random) % 3;
		if (test_random(&random) % 4 == 0) {
			pool_forget(&pool, server);
			twin.order[server] = 0;
		} else {
			bool restarted =
				twin.epoch[server] != 0 && twin.epoch[server] != load.epoch;

			CHECK_EQ(pool_put(&pool, now_ns, server, &load), restarted);
			twin.order[server] = step;
			twin.at_ns[server] = now_ns;
			twin.delay_ns[server] = load.delay_ns;
			twin.epoch[server] = load.epoch;
		}
		check_same(&pool, &twin);
	}
	pool_close(&pool);
}

TEST(own_sends_begin_anew_with_each_sample)
{
	struct pool pool;
	struct load load = {.epoch = 7, .in_flight = 3};

	CHECK_EQ(pool_open(&pool, 1), 0);
	CHECK(!pool_put(&pool, 10, 0, &load));
	pool.samples[0].own_sends = 5;
	CHECK(!pool_put(&pool, 20, 0, &load));
	CHECK_EQ(pool.samples[0].own_sends, 0);
	CHECK_EQ(pool.samples[0].in_flight, 3);
	pool_close(&pool);
}
