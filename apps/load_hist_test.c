/*
 * apps/load_hist_test.c: what fm-load says about latencies: near the truth, with intervals that
 * hold it.
 */
#include <math.h>

#include "apps/load.h"
#include "base/test.h"

#define ROUNDS 20u

static void fill(struct load_series *series, double mean_ns, uint64_t seed, unsigned per_round)
{
	CHECK_EQ(load_series_open(series, ROUNDS), 0);
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned i = 0; i < per_round; i++) {
			double unit = (double)(test_random(&seed) >> 11) * 0x1p-53;
			uint64_t latency_ns = (uint64_t)(-mean_ns * log(1 - unit));

			load_slice_note(&series->slices[round], latency_ns);
			series->slices[round].sent++;
			series->slices[round].good += latency_ns <= 1000000;
			series->slices[round].measured_ns = 1000000000;
		}
}

TEST(quantiles_of_a_known_distribution_are_found)
{
	struct load_series series;

	fill(&series, 100000, 1, 5000);
	for (unsigned i = 0; i < 3; i++) {
		double q = (double[]){0.5, 0.99, 0.999}[i], wanted = -100000 * log(1 - q);
		struct load_estimate e = load_quantile(&series, ROUNDS, q);

		CHECK(fabs(e.value - wanted) < 0.06 * wanted);
		CHECK(e.low <= e.value && e.value <= e.high);
		CHECK(e.low > 0.8 * wanted && e.high < 1.25 * wanted);
	}
	load_series_close(&series, ROUNDS);
}

TEST(values_of_all_sizes_keep_their_place)
{
	static const uint64_t values[] = {
		0, 1, 127, 128, 255, 256, 1000, 999999, 1ull << 30, (1ull << 38) - 1};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(values); i++) {
		struct load_series series;
		double found;

		CHECK_EQ(load_series_open(&series, 1), 0);
		load_slice_note(&series.slices[0], values[i]);
		found = load_quantile(&series, 1, 0.5).value;
		CHECK(found >= (double)values[i] && found <= (double)values[i] * 1.008 + 1);
		load_series_close(&series, 1);
	}
}

TEST(beyond_the_last_bucket_nothing_is_lost)
{
	struct load_series series;

	CHECK_EQ(load_series_open(&series, 1), 0);
	load_slice_note(&series.slices[0], UINT64_MAX);
	CHECK(load_quantile(&series, 1, 0.5).value >= 0x1p37);
	load_series_close(&series, 1);
}

TEST(a_ratio_knows_whether_there_is_a_difference)
{
	struct load_series slow, fast, same;
	struct load_estimate e;

	fill(&slow, 200000, 1, 3000);
	fill(&fast, 100000, 2, 3000);
	fill(&same, 100000, 3, 3000);
	e = load_quantile_ratio(&slow, &fast, ROUNDS, 0.99);
	CHECK(e.low > 1.5 && e.high < 2.6 && fabs(e.value - 2) < 0.3);
	e = load_quantile_ratio(&same, &fast, ROUNDS, 0.99);
	CHECK(e.low < 1.03 && e.high > 0.97);
	load_series_close(&slow, ROUNDS);
	load_series_close(&fast, ROUNDS);
	load_series_close(&same, ROUNDS);
}

TEST(goodput_counts_what_was_in_time)
{
	struct load_series series;
	struct load_estimate e;

	fill(&series, 1000000, 5, 1000); /* 63 % within a mean */
	e = load_goodput(&series, ROUNDS);
	CHECK(fabs(e.value - 632) < 20);
	CHECK(e.low < e.value && e.value < e.high);
	CHECK_EQ(load_total(&series, ROUNDS).sent, ROUNDS * 1000);
	load_series_close(&series, ROUNDS);
}

TEST(nothing_measured_is_no_division_by_zero)
{
	struct load_series none;

	CHECK_EQ(load_series_open(&none, ROUNDS), 0);
	CHECK(load_quantile(&none, ROUNDS, 0.99).value == 0);
	CHECK(load_quantile_ratio(&none, &none, ROUNDS, 0.99).value == 0);
	CHECK(load_goodput(&none, ROUNDS).value == 0);
	load_series_close(&none, ROUNDS);
}
