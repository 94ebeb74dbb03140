/*
 * apps/lbsim_sweep.c: p99 and goodput against the load; p99 against the probing rate.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "apps/lbsim.h"

#define RATE_NONE 1e-9 /* a rate of 0 means the policy's default */

/* The load at which the series crosses the SLO, between the points measured: linear in log p99. */
static double crossing(const struct lbsim_set *set, unsigned series, double slo_us)
{
	const struct lbsim_point *before = NULL;

	for (unsigned i = 0; i < set->count; i++) {
		const struct lbsim_point *point = &set->points[i];
		double part;

		if (point->series != series)
			continue;
		if (point->p99_us.mean > slo_us) {
			if (!before)
				return 0;
			part = log(slo_us / before->p99_us.mean) /
			       log(point->p99_us.mean / before->p99_us.mean);
			return before->x + part * (point->x - before->x);
		}
		before = point;
	}
	return before ? before->x : 0;
}

int lbsim_sweep(const struct lbsim_options *options)
{
	static struct lbsim_set set = {.title = "p99 against the load", .x_name = "offered load"};
	struct lbsim_contestant contestants[LBSIM_SERIES_MAX];
	double loads[LBSIM_LIST_MAX];
	struct sim_options base, sim;
	int load_count = lbsim_parse_list(options->loads, loads, LBSIM_LIST_MAX), count;

	if (load_count < 0) {
		lbsim_complain("--load: '%s' is no list of loads", options->loads);
		return LBSIM_USAGE;
	}
	count = lbsim_contestants(options->policies, contestants, LBSIM_SERIES_MAX);
	if (count < 0 || lbsim_base(options, &base) != LBSIM_OK)
		return LBSIM_USAGE;
	lbsim_progress_begin((unsigned)(load_count * count) * (unsigned)options->seeds);
	for (int i = 0; i < count; i++) {
		unsigned series = lbsim_add_series(&set, contestants[i].name);

		for (int j = 0; j < load_count; j++) {
			sim = base;
			sim.load = loads[j];
			lbsim_enter(options, &contestants[i], &sim);
			if (lbsim_add_point(options, &sim, &set, series, loads[j]) < 0)
				return LBSIM_USAGE;
		}
		if (load_count > 1)
			set.goodput[series] = crossing(&set, series, (double)options->slo_ns / 1e3);
	}
	if (load_count > 1)
		lbsim_note(&set,
			"goodput: the load up to which p99 <= %g us; between loads by "
			"interpolation",
			(double)options->slo_ns / 1e3);
	return lbsim_show(options, &base, &set);
}

int lbsim_curve(const struct lbsim_options *options)
{
	static struct lbsim_set set = {.title = "p99 against the probing rate",
		.x_name = "probes per RPC (f)",
		.x_log = true};
	static const struct lbsim_contestant own = {.policy = "mew-fixed", .probe = STATION_PROBES};
	struct lbsim_contestant contestants[LBSIM_SERIES_MAX] = {own};
	double loads[LBSIM_LIST_MAX], rates[LBSIM_LIST_MAX];
	struct sim_options base, sim;
	int load_count = lbsim_parse_list(options->loads, loads, LBSIM_LIST_MAX);
	int rate_count = lbsim_parse_list(options->rates, rates, LBSIM_LIST_MAX), count;

	if (load_count < 0 || rate_count < 0) {
		lbsim_complain("--%s: no list of numbers", load_count < 0 ? "load" : "rate");
		return LBSIM_USAGE;
	}
	count = lbsim_contestants("mew-fixed@user,mew-fixed@ebpf", contestants, LBSIM_SERIES_MAX);
	if (count < 0 || lbsim_base(options, &base) != LBSIM_OK)
		return LBSIM_USAGE;
	if (load_count * count > LBSIM_SERIES_MAX) {
		lbsim_complain("--load: at most %d of them here", LBSIM_SERIES_MAX / count);
		return LBSIM_USAGE;
	}
	lbsim_progress_begin(
		(unsigned)(load_count * count * rate_count) * (unsigned)options->seeds);
	for (int i = 0; i < count * load_count; i++) {
		const struct lbsim_contestant *contestant = &contestants[i % count];
		char name[LBSIM_NAME_MAX];
		unsigned series;

		snprintf(name, sizeof(name), "%s, load %g", i % count ? "eBPF" : "user",
			loads[i / count]);
		series = lbsim_add_series(&set, name);
		for (int j = 0; j < rate_count; j++) {
			sim = base;
			sim.load = loads[i / count];
			lbsim_enter(options, contestant, &sim);
			sim.balancer.probes_per_rpc = fmax(rates[j], RATE_NONE);
			if (lbsim_add_point(options, &sim, &set, series, rates[j]) < 0)
				return LBSIM_USAGE;
		}
	}
	return lbsim_show(options, &base, &set);
}
