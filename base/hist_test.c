/* base/hist_test.c: quantiles against a sorted array, which is obviously right. */
#include "base/hist.h"

#include <pthread.h>

#include "base/test.h"

#define VALUES 10000

static struct hist h, other, out;

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

TEST(an_empty_histogram_answers_zero)
{
	hist_reset(&h);
	CHECK_EQ(hist_quantile(&h, 0.5), 0);
	CHECK_EQ(hist_quantile(&h, 1.0), 0);
	CHECK(hist_mean(&h) == 0.0);
}

TEST(quantiles_are_within_an_eighth_above_the_true_ones)
{
	static uint64_t values[VALUES];
	const double quantiles[] = {0.0, 0.01, 0.5, 0.9, 0.99, 0.999};
	uint64_t seed = 4;

	for (unsigned round = 0; round < 40; round++) {
		hist_reset(&h);
		for (unsigned i = 0; i < VALUES; i++) {
			values[i] = test_random(&seed) >> (17 + test_random(&seed) % 47);
			hist_record(&h, values[i]);
		}
		qsort(values, VALUES, sizeof(values[0]), compare);
		for (unsigned i = 0; i < 6; i++) {
			uint64_t exact = values[(unsigned)(quantiles[i] * VALUES)];
			uint64_t given = hist_quantile(&h, quantiles[i]);

			CHECK(given >= exact);
			CHECK(given - exact <= exact / 8);
		}
		CHECK_EQ(hist_quantile(&h, 1.0), values[VALUES - 1]);
	}
}

TEST(no_quantile_is_above_the_maximum)
{
	hist_reset(&h);
	hist_record(&h, 1025); /* its bucket reaches to 1151 */
	CHECK_EQ(hist_quantile(&h, 0.5), 1025);
	CHECK_EQ(hist_quantile(&h, 1.0), 1025);
}

TEST(values_beyond_48_bits_count_in_the_last_bucket)
{
	hist_reset(&h);
	hist_record(&h, UINT64_MAX);
	hist_record(&h, 1ull << 48);
	hist_record(&h, (1ull << 48) - 1);
	CHECK_EQ(h.buckets[HIST_BUCKETS - 1], 3);
	CHECK_EQ(hist_quantile(&h, 0.5), UINT64_MAX);
}

TEST(the_mean_is_exact)
{
	hist_reset(&h);
	for (uint64_t i = 1; i <= 1000; i++)
		hist_record(&h, i * 1000);
	CHECK(hist_mean(&h) == 500500.0);
}

TEST(a_merge_holds_both_and_a_delta_takes_one_away_again)
{
	uint64_t seed = 5;

	hist_reset(&h);
	hist_reset(&other);
	for (unsigned i = 0; i < 1000; i++) {
		hist_record(&h, test_random(&seed) % 1000);
		hist_record(&other, 5000 + test_random(&seed) % 1000);
	}
	out = h;
	hist_merge(&out, &other);
	CHECK_EQ(out.count, 2000);
	CHECK_EQ(out.sum, h.sum + other.sum);
	CHECK_EQ(out.max, other.max);
	CHECK(hist_quantile(&out, 0.25) < 1200);
	CHECK(hist_quantile(&out, 0.75) >= 5000);
	hist_delta(&out, &out, &h);
	CHECK_EQ(out.count, other.count);
	CHECK_EQ(memcmp(out.buckets, other.buckets, sizeof(out.buckets)), 0);
}

static void *record_many(void *unused)
{
	for (uint64_t i = 0; i < 50000; i++)
		hist_record(&h, i);
	return unused;
}

TEST(threads_that_record_at_once_lose_nothing)
{
	pthread_t threads[4];

	hist_reset(&h);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, record_many, NULL), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	CHECK_EQ(h.count, 200000);
	CHECK_EQ(h.max, 49999);
	CHECK_EQ(h.sum, 4ull * 50000 * 49999 / 2);
}
