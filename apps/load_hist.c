/*
 * apps/load_hist.c: latencies of slices, and what can be said of them with which confidence. See
 * load.h.
 *
 * Confidence: the bootstrap over rounds. Latencies inside a slice are anything but independent (a
 * queue remembers), slices of different rounds nearly are; so whole rounds are drawn with
 * replacement, and the middle 95 % of what comes out is the interval. Comparisons draw the same
 * rounds for both sides: what hit both cancels.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apps/load.h"
#include "lb/draw.h"

#define RESAMPLES 400
#define RESAMPLES_SEED 20231123u

int load_series_open(struct load_series *series, unsigned rounds)
{
	series->slices = calloc(rounds, sizeof(*series->slices));
	if (series->slices == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < rounds; i++) {
		series->slices[i].buckets = calloc(LOAD_HIST_BUCKETS, sizeof(uint32_t));
		if (series->slices[i].buckets == NULL)
			return -ENOMEM;
	}
	return 0;
}

void load_series_close(struct load_series *series, unsigned rounds)
{
	for (unsigned i = 0; series->slices != NULL && i < rounds; i++)
		free(series->slices[i].buckets);
	free(series->slices);
}

static unsigned bucket_of(uint64_t value)
{
	unsigned shift, index;

	if (value < 1u << LOAD_HIST_SUB_BITS)
		return (unsigned)value;
	shift = 63u - (unsigned)__builtin_clzll(value) - LOAD_HIST_SUB_BITS;
	if (shift >= 38 - LOAD_HIST_SUB_BITS)
		return LOAD_HIST_BUCKETS - 1u;
	index = (shift << LOAD_HIST_SUB_BITS) + (unsigned)(value >> shift);
	return index;
}

/* Upper end of a bucket. */
static double bucket_value(unsigned index)
{
	unsigned shift = index >> LOAD_HIST_SUB_BITS;
	uint64_t low;

	if (index < 2u << LOAD_HIST_SUB_BITS)
		return index;
	low = (uint64_t)(index - ((shift - 1) << LOAD_HIST_SUB_BITS)) << (shift - 1);
	return (double)(low + ((uint64_t)1 << (shift - 1)) - 1);
}

void load_slice_note(struct load_slice *slice, uint64_t latency_ns)
{
	slice->buckets[bucket_of(latency_ns)]++;
}

/* Quantile of the slices whose numbers are drawn (NULL: each once). */
static double quantile_of(
	const struct load_series *series, const unsigned *drawn, unsigned rounds, double q)
{
	static uint64_t sums[LOAD_HIST_BUCKETS];
	uint64_t total = 0, seen = 0, wanted;

	memset(sums, 0, sizeof(sums));
	for (unsigned i = 0; i < rounds; i++) {
		const uint32_t *buckets = series->slices[drawn != NULL ? drawn[i] : i].buckets;

		for (unsigned b = 0; b < LOAD_HIST_BUCKETS; b++)
			sums[b] += buckets[b];
	}
	for (unsigned b = 0; b < LOAD_HIST_BUCKETS; b++)
		total += sums[b];
	if (total == 0)
		return 0;
	wanted = (uint64_t)((double)total * q);
	for (unsigned b = 0; b < LOAD_HIST_BUCKETS; b++) {
		seen += sums[b];
		if (seen > wanted)
			return bucket_value(b);
	}
	return bucket_value(LOAD_HIST_BUCKETS - 1);
}

static int compare_doubles(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static struct load_estimate estimate(double value, double values[RESAMPLES])
{
	qsort(values, RESAMPLES, sizeof(values[0]), compare_doubles);
	return (struct load_estimate){
		.value = value,
		.low = values[RESAMPLES / 40],
		.high = values[RESAMPLES - 1 - RESAMPLES / 40],
	};
}

static void draw_rounds(struct draw *draw, unsigned *drawn, unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++)
		drawn[i] = draw_below(draw, rounds);
}

struct load_estimate load_quantile(const struct load_series *series, unsigned rounds, double q)
{
	struct draw draw = {.state = RESAMPLES_SEED};
	double values[RESAMPLES];
	unsigned drawn[LOAD_ROUNDS_MAX];

	for (unsigned i = 0; i < RESAMPLES; i++) {
		draw_rounds(&draw, drawn, rounds);
		values[i] = quantile_of(series, drawn, rounds, q);
	}
	return estimate(quantile_of(series, NULL, rounds, q), values);
}

static double ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

struct load_estimate load_quantile_ratio(
	const struct load_series *a, const struct load_series *b, unsigned rounds, double q)
{
	struct draw draw = {.state = RESAMPLES_SEED};
	double values[RESAMPLES];
	unsigned drawn[LOAD_ROUNDS_MAX];

	for (unsigned i = 0; i < RESAMPLES; i++) {
		draw_rounds(&draw, drawn, rounds);
		values[i] =
			ratio(quantile_of(a, drawn, rounds, q), quantile_of(b, drawn, rounds, q));
	}
	return estimate(
		ratio(quantile_of(a, NULL, rounds, q), quantile_of(b, NULL, rounds, q)), values);
}

static double goodput_of(const struct load_series *series, const unsigned *drawn, unsigned rounds)
{
	double good = 0, ns = 0;

	for (unsigned i = 0; i < rounds; i++) {
		const struct load_slice *slice = &series->slices[drawn != NULL ? drawn[i] : i];

		good += (double)slice->good;
		ns += (double)slice->measured_ns;
	}
	return ratio(good * 1e9, ns);
}

struct load_estimate load_goodput(const struct load_series *series, unsigned rounds)
{
	struct draw draw = {.state = RESAMPLES_SEED};
	double values[RESAMPLES];
	unsigned drawn[LOAD_ROUNDS_MAX];

	for (unsigned i = 0; i < RESAMPLES; i++) {
		draw_rounds(&draw, drawn, rounds);
		values[i] = goodput_of(series, drawn, rounds);
	}
	return estimate(goodput_of(series, NULL, rounds), values);
}

struct load_slice load_total(const struct load_series *series, unsigned rounds)
{
	struct load_slice total = {0};

	for (unsigned i = 0; i < rounds; i++) {
		const struct load_slice *slice = &series->slices[i];

		total.sent += slice->sent;
		total.good += slice->good;
		total.failed += slice->failed;
		total.refused += slice->refused;
		total.probes += slice->probes;
		total.measured_ns += slice->measured_ns;
	}
	return total;
}
