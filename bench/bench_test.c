/* bench/bench_test.c: the histogram and the random places, on which every figure rests. */
#include <stdio.h>

#include "base/test.h"
#include "bench/bench.h"

TEST(a_quantile_is_within_two_percent_of_the_sample_it_stands_for)
{
	static struct bench_hist h;

	for (uint64_t i = 1; i <= 1000000; i++)
		bench_hist_record(&h, i * 37);
	for (unsigned percent = 1; percent < 100; percent++) {
		double want = percent * 10000.0 * 37,
		       got = (double)bench_hist_quantile(&h, percent / 100.0);

		CHECK(got >= want && got <= want * 1.02);
	}
	CHECK_EQ(h.max, 37000000);
	CHECK_EQ(bench_hist_quantile(&h, 1.0), 37000000);
}

TEST(small_values_are_exact_and_huge_ones_stay_in_the_table)
{
	static struct bench_hist h;

	for (uint64_t i = 0; i < 100; i++)
		bench_hist_record(&h, i);
	for (unsigned i = 0; i < 100; i++)
		CHECK_EQ(bench_hist_quantile(&h, i / 100.0 + 0.0001), i);
	CHECK(bench_hist_index(UINT64_MAX) == BENCH_HIST_BUCKETS - 1);
	CHECK(bench_hist_index((1ull << 40) - 1) == BENCH_HIST_BUCKETS - 1);
	CHECK(bench_hist_index(1ull << 39) < BENCH_HIST_BUCKETS - 1);
}

TEST(every_bucket_index_grows_with_its_value)
{
	unsigned last = 0;

	for (uint64_t value = 0; value < 1u << 20; value++) {
		unsigned index = bench_hist_index(value);

		CHECK(index == last || index == last + 1);
		last = index;
	}
}

TEST(merged_histograms_count_both)
{
	static struct bench_hist a, b;

	for (unsigned i = 0; i < 100; i++) {
		bench_hist_record(&a, 10);
		bench_hist_record(&b, 1000);
	}
	bench_hist_merge(&a, &b);
	CHECK_EQ(a.count, 200);
	CHECK_EQ(a.max, 1000);
	CHECK_EQ(bench_hist_quantile(&a, 0.25), 10);
	CHECK_EQ(bench_hist_quantile(&a, 0.75), 1000);
}

TEST(random_places_cover_their_range_evenly)
{
	uint64_t state = 7;
	unsigned seen[10] = {0};

	for (unsigned i = 0; i < 100000; i++) {
		uint64_t at = bench_random_below(&state, 10);

		CHECK(at < 10);
		seen[at]++;
	}
	for (unsigned i = 0; i < 10; i++)
		CHECK(seen[i] > 9500 && seen[i] < 10500);
}

TEST(the_median_is_the_middle_of_the_sorted_values)
{
	double values[] = {5, 1, 4, 2, 3};

	CHECK(bench_median(values, 5) == 3);
}
