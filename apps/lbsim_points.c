/*
 * apps/lbsim_points.c: one setting over several seeds; series, notes, claims, progress.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "apps/lbsim.h"
#include "base/clock.h"

#define PROGRESS_NS (2 * NS_PER_S)

static struct {
	unsigned done, total;
	uint64_t begun_ns, said_ns;
} progress;

void lbsim_progress_begin(unsigned total)
{
	progress.done = 0;
	progress.total = total;
	progress.begun_ns = progress.said_ns = clock_now_ns();
}

void lbsim_progress_tick(void)
{
	uint64_t now_ns = clock_now_ns();

	progress.done++;
	if (now_ns - progress.said_ns < PROGRESS_NS)
		return;
	progress.said_ns = now_ns;
	lbsim_complain("%u of %u runs, %.0f s", progress.done, progress.total,
		(double)(now_ns - progress.begun_ns) / 1e9);
}

unsigned lbsim_add_series(struct lbsim_set *set, const char *name)
{
	unsigned series = set->series_count++;

	snprintf(set->series[series], sizeof(set->series[series]), "%s", name);
	return series;
}

const struct lbsim_point *lbsim_find(const struct lbsim_set *set, unsigned series, double x)
{
	for (unsigned i = 0; i < set->count; i++)
		if (set->points[i].series == series && fabs(set->points[i].x - x) < 1e-9)
			return &set->points[i];
	return NULL;
}

static void note(struct lbsim_set *set, const char *format, va_list arguments)
{
	if (set->note_count < LBSIM_NOTES_MAX)
		vsnprintf(set->notes[set->note_count++], sizeof(set->notes[0]), format, arguments);
}

void lbsim_note(struct lbsim_set *set, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	note(set, format, arguments);
	va_end(arguments);
}

void lbsim_claim(struct lbsim_set *set, bool holds, const char *format, ...)
{
	char text[140];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	set->claims_failed += !holds;
	lbsim_note(set, "%s %s", holds ? "holds:" : "FAILS:", text);
}

static void add_run(struct lbsim_point *point, const struct sim_result *result, double share)
{
	point->utilisation += share * result->utilisation;
	point->probes_per_rpc += share * result->probes_per_rpc;
	point->probe_share += share * result->probe_share;
	point->probes_per_server_s += share * result->probes_per_server_s;
	point->requests_most += share * result->requests_most;
	point->queue_mean += share * result->queue_mean;
	point->queue_most += share * result->queue_most;
	point->rate += share * result->rate_mean;
}

int lbsim_add_point(const struct lbsim_options *options, const struct sim_options *sim,
	struct lbsim_set *set, unsigned series, double x)
{
	double values[4][LBSIM_SEEDS_MAX];
	struct lbsim_point point = {.series = series, .x = x};
	struct sim_options seeded = *sim;
	unsigned seeds = (unsigned)options->seeds;

	if (set->count == LBSIM_POINTS_MAX) {
		lbsim_complain("more than %u points", LBSIM_POINTS_MAX);
		return -E2BIG;
	}
	for (unsigned i = 0; i < seeds; i++) {
		struct sim_result result;
		const char *why = "out of memory";
		int rc;

		seeded.seed = sim->seed + i;
		rc = sim_measure(&seeded, &result, &why);
		if (rc < 0) {
			lbsim_complain("%s: %s", sim->balancer.policy, why);
			return rc;
		}
		lbsim_progress_tick();
		values[0][i] = result.latency.mean_ns / 1e3;
		values[1][i] = result.latency.p50_ns / 1e3;
		values[2][i] = result.latency.p99_ns / 1e3;
		values[3][i] = result.latency.p999_ns / 1e3;
		add_run(&point, &result, 1.0 / seeds);
		point.failed_share += (double)result.failed / sim->requests / seeds;
	}
	point.mean_us = measure_mean(values[0], seeds);
	point.p50_us = measure_mean(values[1], seeds);
	point.p99_us = measure_mean(values[2], seeds);
	point.p999_us = measure_mean(values[3], seeds);
	set->points[set->count++] = point;
	return 0;
}
