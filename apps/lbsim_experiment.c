/*
 * apps/lbsim_experiment.c: the experiments of docs/load-balancing.md that hold one policy against
 * others: e1 (the curve is a U), e2 (ratios), fleet (nothing grows with the fleet). e3, the tuner,
 * is lbsim_adapt.c's. Each ends with claims that hold or fail.
 */
#include <math.h>
#include <string.h>

#include "apps/lbsim.h"
#include "base/clock.h"

#define RATE_NONE 1e-9 /* a rate of 0 means the policy's default */
#define BISECTIONS 7   /* of the load: to 0.8 % */
#define P2C "p2c@user"
#define PREQUAL "prequal@user"
#define PREQUAL_TUNED "prequal-tuned@ebpf"
#define MEW "mew-fixed@ebpf"

/* --- e1: p99(f) is a U --------------------------------------------------------------------------
 */

struct e1_setting {
	const char *name;
	uint32_t workers;
	enum chance_service service;
	double load;
	enum station_probe probe;
	uint64_t cost_ns;
	bool bare;  /* replies do not carry the load: nothing but probes tells it */
	bool quick; /* part of the quick version */
	double gate_without, gate_most; /* claim: p99(f*) <= gate * p99(0), p99(8); 0: no claim */
};

#define EBPF STATION_PROBE_EBPF
#define USER STATION_PROBE_QUEUED
#define EXP CHANCE_EXPONENTIAL
static const struct e1_setting e1_settings[] = {
	{"exp .6 bare user 1us", 1, EXP, 0.6, USER, 1000, true, true, 0.93, 0.8},
	{"exp .6 bare user 2us", 1, EXP, 0.6, USER, 2000, true, false, 0, 0},
	{"exp .6 bare user 5us", 1, EXP, 0.6, USER, 5000, true, false, 0, 0},
	{"exp .6 bare ebpf .1us", 1, EXP, 0.6, EBPF, 100, true, false, 0.93, 0.97},
	{"exp .6 bare ebpf .5us", 1, EXP, 0.6, EBPF, 500, true, false, 0, 0},
	{"exp .8 bare user 1us", 1, EXP, 0.8, USER, 1000, true, false, 0.87, 0.8},
	{"exp .8 bare ebpf .1us", 1, EXP, 0.8, EBPF, 100, true, true, 0.85, 0.95},
	{"bim .6 bare user 1us", 1, CHANCE_BIMODAL, 0.6, USER, 1000, true, false, 0.87, 0.8},
	{"bim .6 bare ebpf .1us", 1, CHANCE_BIMODAL, 0.6, EBPF, 100, true, false, 0.85, 0.98},
	{"exp .6 user 1us", 1, EXP, 0.6, USER, 1000, false, true, 0, 0.8},
	{"exp .6 ebpf .1us", 1, EXP, 0.6, EBPF, 100, false, false, 0, 0},
	{"exp .8 user 1us", 1, EXP, 0.8, USER, 1000, false, false, 0, 0.8},
	{"exp .8 ebpf .1us", 1, EXP, 0.8, EBPF, 100, false, false, 0, 0},
	{"bim .6 user 1us", 1, CHANCE_BIMODAL, 0.6, USER, 1000, false, false, 0, 0.8},
	{"bim .6 ebpf .1us", 1, CHANCE_BIMODAL, 0.6, EBPF, 100, false, false, 0, 0},
	{"x4 exp .6 user 1us", 4, EXP, 0.6, USER, 1000, false, false, 0, 0},
	{"x4 exp .8 user 1us", 4, EXP, 0.8, USER, 1000, false, false, 0, 0.8},
	{"x4 exp .8 ebpf .1us", 4, EXP, 0.8, EBPF, 100, false, false, 0, 0},
	{"x4 heavy .6 user 1us", 4, CHANCE_HEAVY, 0.6, USER, 1000, false, false, 0, 0},
	{"x4 heavy .6 ebpf .1us", 4, CHANCE_HEAVY, 0.6, EBPF, 100, false, false, 0, 0},
};
#define E1_SETTINGS ((unsigned)(sizeof(e1_settings) / sizeof(e1_settings[0])))
#define E1_QUICK 3
#define E1_RANDOM 0.85 /* claim, with bare replies: p99(f*) <= this * p99 of the policy random */

static const double e1_rates[] = {0, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 6, 8};
static const double e1_rates_quick[] = {0, 0.2, 0.5, 1, 2, 8};

/* The rate with the least p99 of a series, and that p99. */
static double best_rate(const struct lbsim_set *set, unsigned series, double *p99_us)
{
	double best = 0;

	*p99_us = INFINITY;
	for (unsigned i = 0; i < set->count; i++)
		if (set->points[i].series == series && set->points[i].p99_us.mean < *p99_us) {
			*p99_us = set->points[i].p99_us.mean;
			best = set->points[i].x;
		}
	return best;
}

static void e1_judge(
	struct lbsim_set *set, unsigned series, const struct e1_setting *setting, double blind_us)
{
	double best_us, rate = best_rate(set, series, &best_us);
	double without = best_us / lbsim_find(set, series, 0)->p99_us.mean;
	double most = best_us / lbsim_find(set, series, 8)->p99_us.mean;
	double blind = best_us / blind_us;
	bool holds = rate > 0 && rate < 8;

	if (setting->gate_without > 0)
		holds &= without <= setting->gate_without;
	if (setting->gate_most > 0)
		holds &= most <= setting->gate_most;
	if (setting->bare)
		holds &= blind <= E1_RANDOM;
	if (setting->gate_most > 0)
		lbsim_claim(set, holds,
			"%s: f*=%g; p99(f*) is %.2f p99(0), %.2f p99(8), %.2f random's",
			set->series[series], rate, without, most, blind);
	else
		lbsim_note(set,
			"       %s: f*=%g; p99(f*) is %.2f p99(0), %.2f p99(8), %.2f random's",
			set->series[series], rate, without, most, blind);
}

/* Random dispatch in the same setting. */
static int e1_blind(
	const struct lbsim_options *options, const struct sim_options *setting, double *p99_us)
{
	static struct lbsim_set one;
	struct sim_options sim = *setting;

	one.count = 0;
	sim.balancer = (struct balancer_options){.policy = "random"};
	if (lbsim_add_point(options, &sim, &one, 0, 0) < 0)
		return -1;
	*p99_us = one.points[0].p99_us.mean;
	return 0;
}

static int e1(const struct lbsim_options *options, const struct sim_options *base)
{
	static struct lbsim_set set = {
		.title = "E1: p99 against the probing rate f, mew with fixed f",
		.x_name = "probes per RPC (f)",
		.x_log = true};
	const double *rates = options->quick ? e1_rates_quick : e1_rates;
	unsigned rate_count = options->quick ? sizeof(e1_rates_quick) / sizeof(double)
					     : sizeof(e1_rates) / sizeof(double);

	lbsim_progress_begin((options->quick ? E1_QUICK : E1_SETTINGS) * (rate_count + 1) *
			     (unsigned)options->seeds);
	for (unsigned i = 0; i < E1_SETTINGS; i++) {
		const struct e1_setting *setting = &e1_settings[i];
		struct sim_options sim = *base;
		double blind_us;
		unsigned series;

		if (options->quick && !setting->quick)
			continue;
		series = lbsim_add_series(&set, setting->name);
		sim.workers = setting->workers;
		sim.service = setting->service;
		sim.load = setting->load;
		sim.probe = setting->probe;
		sim.probe_cost_ns = setting->cost_ns;
		sim.bare_replies = setting->bare;
		sim.balancer.policy = "mew-fixed";
		if (e1_blind(options, &sim, &blind_us) < 0)
			return LBSIM_USAGE;
		for (unsigned j = 0; j < rate_count; j++) {
			sim.balancer.probes_per_rpc = fmax(rates[j], RATE_NONE);
			if (lbsim_add_point(options, &sim, &set, series, rates[j]) < 0)
				return LBSIM_USAGE;
		}
		e1_judge(&set, series, setting, blind_us);
	}
	return lbsim_show(options, base, &set);
}

/* --- e2: ratios ---------------------------------------------------------------------------------
 */

static const double e2_loads[] = {0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9};
static const double e2_loads_quick[] = {0.6, 0.75};

/* The load up to which the mean p99 over the seeds keeps the SLO, by bisection; below 0: failed. */
static double goodput(const struct lbsim_options *options, const struct sim_options *sim)
{
	double low = 0.02, high = 1.02;

	for (unsigned i = 0; i < BISECTIONS; i++) {
		static struct lbsim_set one;
		struct sim_options at = *sim;

		one.count = 0;
		at.load = (low + high) / 2;
		if (lbsim_add_point(options, &at, &one, 0, 0) < 0)
			return -1;
		if (one.points[0].p99_us.mean <= (double)options->slo_ns / 1e3)
			low = at.load;
		else
			high = at.load;
	}
	return low;
}

static int find_series(const struct lbsim_set *set, const char *name)
{
	for (unsigned i = 0; i < set->series_count; i++)
		if (strcmp(set->series[i], name) == 0)
			return (int)i;
	return -1;
}

/* The load where probing for every RPC bends upwards: the last measured one where its p99 is at
 * most three times that of the lowest load. */
static double knee(const struct lbsim_set *set, unsigned series)
{
	double first_us = 0, found = 0;

	for (unsigned i = 0; i < set->count; i++) {
		if (set->points[i].series != series)
			continue;
		if (first_us == 0)
			first_us = set->points[i].p99_us.mean;
		if (set->points[i].p99_us.mean <= 3 * first_us)
			found = set->points[i].x;
	}
	return found;
}

static void e2_compare(struct lbsim_set *set, unsigned mew, const char *rival_name, double load)
{
	int rival = find_series(set, rival_name);
	double ratio;

	if (rival < 0)
		return;
	ratio = lbsim_find(set, (unsigned)rival, load)->p99_us.mean /
		lbsim_find(set, mew, load)->p99_us.mean;
	if (set->goodput[mew] > 0)
		lbsim_note(set, "       against %s: p99 at load %g %.2fx lower, goodput %.2fx",
			rival_name, load, ratio, set->goodput[mew] / set->goodput[rival]);
	else
		lbsim_note(set, "       against %s: p99 at load %g %.2fx lower", rival_name, load,
			ratio);
}

static void e2_judge(struct lbsim_set *set, bool quick)
{
	unsigned mew = (unsigned)find_series(set, MEW), p2c = (unsigned)find_series(set, P2C);
	unsigned blind = (unsigned)find_series(set, "random");
	double at = quick ? 0.75 : knee(set, p2c);
	double mew_us = lbsim_find(set, mew, at)->p99_us.mean;

	lbsim_note(set, "the knee of %s is at load %g", P2C, at);
	e2_compare(set, mew, P2C, at);
	e2_compare(set, mew, PREQUAL, at);
	e2_compare(set, mew, PREQUAL_TUNED, at);
	lbsim_claim(set, 1.5 * mew_us <= lbsim_find(set, p2c, at)->p99_us.mean,
		"%s is at least 1.5x below %s at load %g", MEW, P2C, at);
	lbsim_claim(set, mew_us < lbsim_find(set, blind, at)->p99_us.mean,
		"%s is below random at load %g", MEW, at);
}

static int e2(const struct lbsim_options *options, const struct sim_options *base)
{
	static struct lbsim_set set = {
		.title = "E2: policies against each other", .x_name = "offered load"};
	struct lbsim_contestant contestants[LBSIM_SERIES_MAX];
	const double *loads = options->quick ? e2_loads_quick : e2_loads;
	unsigned load_count = options->quick ? 2 : sizeof(e2_loads) / sizeof(double);
	int count = lbsim_contestants(
		options->quick ? "random," P2C "," PREQUAL "," PREQUAL_TUNED "," MEW : "all",
		contestants, LBSIM_SERIES_MAX);

	if (count < 0)
		return LBSIM_USAGE;
	lbsim_progress_begin((unsigned)count * (load_count + (options->quick ? 0 : BISECTIONS)) *
			     (unsigned)options->seeds);
	for (int i = 0; i < count; i++) {
		unsigned series = lbsim_add_series(&set, contestants[i].name);
		struct sim_options sim = *base;

		lbsim_enter(options, &contestants[i], &sim);
		for (unsigned j = 0; j < load_count; j++) {
			sim.load = loads[j];
			if (lbsim_add_point(options, &sim, &set, series, loads[j]) < 0)
				return LBSIM_USAGE;
		}
		if (!options->quick)
			set.goodput[series] = goodput(options, &sim);
		if (set.goodput[series] < 0)
			return LBSIM_USAGE;
	}
	e2_judge(&set, options->quick);
	return lbsim_show(options, base, &set);
}

/* --- fleet: nothing grows with it ----------------------------------------------------------------
 */

static const uint32_t fleet_sizes[] = {32, 100, 316, 1000};
#define FLEET_LOAD 0.7
#define FLEET_REQUESTS_PER_SERVER 600u
#define FLEET_FLAT 1.1

static void fleet_note(struct lbsim_set *set, const struct lbsim_point *point)
{
	lbsim_note(set,
		"       %-16s %4.0f servers: %.2f probes per RPC, %.0f k probes/s each, most "
		"loaded "
		"%.2fx, longest queue %.1f (mean %.2f)",
		set->series[point->series], point->x, point->probes_per_rpc,
		point->probes_per_server_s / 1e3, point->requests_most, point->queue_most,
		point->queue_mean);
}

static int fleet(const struct lbsim_options *options, const struct sim_options *base)
{
	static struct lbsim_set set = {
		.title = "fleet: as many clients as servers", .x_name = "servers", .x_log = true};
	struct lbsim_contestant contestants[LBSIM_SERIES_MAX];
	unsigned sizes = options->quick ? 2 : sizeof(fleet_sizes) / sizeof(fleet_sizes[0]);
	int count = lbsim_contestants(
		"random,least," PREQUAL_TUNED ",p2c@ebpf," MEW, contestants, LBSIM_SERIES_MAX);

	if (count < 0)
		return LBSIM_USAGE;
	lbsim_progress_begin((unsigned)count * sizes * (unsigned)options->seeds);
	for (int i = 0; i < count; i++) {
		unsigned series = lbsim_add_series(&set, contestants[i].name);
		const struct lbsim_point *small, *large;

		for (unsigned j = 0; j < sizes; j++) {
			struct sim_options sim = *base;

			sim.servers = sim.clients = fleet_sizes[j];
			sim.requests = fleet_sizes[j] * FLEET_REQUESTS_PER_SERVER;
			if (sim.requests < base->requests)
				sim.requests = base->requests;
			sim.load = FLEET_LOAD;
			lbsim_enter(options, &contestants[i], &sim);
			if (lbsim_add_point(options, &sim, &set, series, fleet_sizes[j]) < 0)
				return LBSIM_USAGE;
			fleet_note(&set, &set.points[set.count - 1]);
		}
		if (strcmp(contestants[i].name, MEW) != 0)
			continue;
		small = lbsim_find(&set, series, fleet_sizes[0]);
		large = lbsim_find(&set, series, fleet_sizes[sizes - 1]);
		lbsim_claim(&set, large->p99_us.mean <= FLEET_FLAT * small->p99_us.mean,
			"p99 with %u servers is within 10 %% of that with 32",
			fleet_sizes[sizes - 1]);
		lbsim_claim(&set,
			large->probes_per_server_s <= FLEET_FLAT * small->probes_per_server_s,
			"a server gets as many probes a second, within 10 %%");
	}
	return lbsim_show(options, base, &set);
}

int lbsim_experiment(const struct lbsim_options *options, const char *which)
{
	static const struct {
		const char *name;
		int (*run)(const struct lbsim_options *options, const struct sim_options *base);
	} experiments[] = {{"e1", e1}, {"e2", e2}, {"e3", lbsim_adapt}, {"fleet", fleet}};
	struct sim_options base;

	if (lbsim_base(options, &base) != LBSIM_OK)
		return LBSIM_USAGE;
	for (unsigned i = 0; i < sizeof(experiments) / sizeof(experiments[0]); i++)
		if (strcmp(experiments[i].name, which) == 0)
			return experiments[i].run(options, &base);
	lbsim_complain("no experiment '%s': e1, e2, e3 or fleet", which);
	return LBSIM_USAGE;
}
