/*
 * apps/lbsim_adapt.c: experiment e3: does the tuner find the best rate, from both ends and after
 * the world has changed?
 *
 * For each setting: fixed rates are measured under the conditions at the end (the oracle), then the
 * adaptive policy runs from its start, and its p99 at the end is held against the oracle's best.
 * Golden section and hill climbing get the same oracle's runs, each as long as a group of the
 * tuner's, to search by.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apps/lbsim.h"
#include "lb/sim/search.h"

#define RPCS_PER_CLIENT 250000u /* some 30 groups of the tuner's */
#define GROUP_RPCS 8192u        /* of one client: what a group of the tuner's takes, or more */
#define WINDOWS 10u
#define QUICK_CLIENTS 8u
#define WITHIN 1.05
#define CLIMBS_MAX 24

struct setting {
	const char *name;
	double start, load;
	enum station_probe probe;
	enum sim_change_kind kind;
	double changed; /* the value after half of the requests; 0: nothing changes */
	double antagonist;
	bool bare; /* replies do not carry the load: the rate matters more */
	bool quick;
};

#define EBPF STATION_PROBE_EBPF
#define USER STATION_PROBE_QUEUED
static const struct setting settings[] = {
	{"bare ebpf from 0.1", 0.1, 0.6, EBPF, SIM_LOAD, 0, 0, true, true},
	{"bare ebpf from 8", 8, 0.6, EBPF, SIM_LOAD, 0, 0, true, true},
	{"bare user from 0.1", 0.1, 0.6, USER, SIM_LOAD, 0, 0, true, false},
	{"bare user from 8", 8, 0.4, USER, SIM_LOAD, 0, 0, true, false},
	{"bare user load .4 to .8", 1, 0.4, USER, SIM_LOAD, 0.8, 0, true, true},
	{"ebpf from 0.1", 0.1, 0.6, EBPF, SIM_LOAD, 0, 0, false, false},
	{"ebpf from 8", 8, 0.6, EBPF, SIM_LOAD, 0, 0, false, false},
	{"ebpf load .4 to .8", 1, 0.4, EBPF, SIM_LOAD, 0.8, 0, false, false},
	{"user load .8 to .4", 1, 0.8, USER, SIM_LOAD, 0.4, 0, false, false},
	{"ebpf exp to bimodal", 1, 0.6, EBPF, SIM_SERVICE, CHANCE_BIMODAL, 0, false, false},
	{"ebpf 25 % slow", 1, 0.6, EBPF, SIM_SLOW, 0.25, 0, false, false},
	{"ebpf antagonists", 1, 0.5, EBPF, SIM_LOAD, 0, 0.25, false, false},
};
#define SETTINGS (sizeof(settings) / sizeof(settings[0]))

static const double oracle_rates[] = {0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8};
static const double oracle_rates_quick[] = {0.2, 0.5, 1, 1.5, 2, 3, 4};

struct oracle {
	const struct lbsim_options *options;
	struct sim_options sim;
	uint64_t seed;
	double best_rate, best_us;
	bool failed;
};

static double fixed_us(struct oracle *oracle, double rate, uint32_t requests, uint64_t seed)
{
	struct sim_options sim = oracle->sim;
	struct sim_result result;
	const char *why = "out of memory";

	sim.balancer.policy = "mew-fixed";
	sim.balancer.probes_per_rpc = rate;
	sim.requests = requests;
	sim.seed = seed;
	if (sim_measure(&sim, &result, &why) < 0) {
		if (!oracle->failed)
			lbsim_complain("%s", why);
		oracle->failed = true;
		return INFINITY;
	}
	lbsim_progress_tick();
	return result.latency.p99_ns / 1e3;
}

/* The conditions at the end of the run, from the beginning. */
static void set_end(const struct setting *setting, struct sim_options *sim)
{
	if (setting->changed <= 0)
		return;
	switch (setting->kind) {
	case SIM_LOAD:
		sim->load = setting->changed;
		break;
	case SIM_SERVICE:
		sim->service = (enum chance_service)setting->changed;
		break;
	case SIM_SLOW:
		sim->slow_share = setting->changed;
		break;
	}
}

static void ask_oracle(struct oracle *oracle)
{
	bool quick = oracle->options->quick;
	const double *rates = quick ? oracle_rates_quick : oracle_rates;
	unsigned count = quick ? sizeof(oracle_rates_quick) / sizeof(double)
			       : sizeof(oracle_rates) / sizeof(double);
	unsigned seeds = (unsigned)oracle->options->seeds;

	oracle->best_us = INFINITY;
	for (unsigned i = 0; i < count; i++) {
		double sum = 0;

		for (unsigned seed = 0; seed < seeds; seed++)
			sum += fixed_us(oracle, rates[i], oracle->sim.requests / WINDOWS,
				       oracle->sim.seed + seed) /
			       seeds;
		if (sum < oracle->best_us) {
			oracle->best_us = sum;
			oracle->best_rate = rates[i];
		}
	}
}

/* For the searches: other arrivals each time, as on a live system. */
static double cost(void *context, double rate)
{
	struct oracle *oracle = context;

	return fixed_us(oracle, rate, GROUP_RPCS * oracle->sim.clients, ++oracle->seed);
}

static void compare_searches(struct oracle *oracle, struct lbsim_set *set, double start)
{
	uint32_t requests = oracle->sim.requests / WINDOWS;
	struct search_result golden = search_golden(cost, oracle, 0.1, 8);
	struct search_result climb = search_climb(cost, oracle, start, CLIMBS_MAX);
	double golden_us = fixed_us(oracle, golden.rate, requests, oracle->sim.seed);
	double climb_us = fixed_us(oracle, climb.rate, requests, oracle->sim.seed);

	lbsim_note(set,
		"       golden section: f %.2f after %u groups, %.3f of the best; hill climbing: f "
		"%.2f after %u, %.3f",
		golden.rate, golden.evaluations, golden_us / oracle->best_us, climb.rate,
		climb.evaluations, climb_us / oracle->best_us);
}

/* One adaptive run; p99 by window. Returns f at the end, or a negative value. */
static double adapt(const struct setting *setting, const struct sim_options *base, uint64_t seed,
	double windows_us[WINDOWS])
{
	struct sim_options sim = *base;
	struct sim_result result;
	const char *why = "out of memory";
	struct sim *run;
	int rc;

	sim.seed = seed;
	sim.balancer.policy = "mew";
	sim.balancer.probes_per_rpc = setting->start;
	if (setting->changed > 0)
		sim.changes[sim.change_count++] =
			(struct sim_change){.at_request = sim.requests / 2,
				.kind = setting->kind,
				.value = setting->changed};
	rc = sim_open(&sim, &run, &why);
	if (rc == 0) {
		rc = sim_run(run);
		sim_result(run, &result);
		for (uint32_t i = 0; i < WINDOWS; i++) {
			struct sim_latency latency;

			sim_latency(run, sim.requests / WINDOWS * i,
				sim.requests / WINDOWS * (i + 1), &latency);
			windows_us[i] = latency.p99_ns / 1e3;
		}
		sim_close(run);
	}
	if (rc < 0) {
		lbsim_complain("%s", why);
		return -1;
	}
	lbsim_progress_tick();
	return result.rate_mean;
}

static int add_windows(struct lbsim_set *set, unsigned series, const struct sim_options *sim,
	double windows_us[WINDOWS][LBSIM_SEEDS_MAX], unsigned seeds)
{
	for (unsigned i = 0; i < WINDOWS; i++) {
		if (set->count == LBSIM_POINTS_MAX)
			return -1;
		set->points[set->count++] = (struct lbsim_point){.series = series,
			.x = (i + 0.5) * sim->requests / WINDOWS / sim->clients / 1000,
			.p99_us = measure_mean(windows_us[i], seeds)};
	}
	return 0;
}

static int run_setting(const struct lbsim_options *options, const struct setting *setting,
	const struct sim_options *base, struct lbsim_set *set)
{
	double windows_us[WINDOWS][LBSIM_SEEDS_MAX], one[WINDOWS], rate = 0;
	unsigned series = lbsim_add_series(set, setting->name), seeds = (unsigned)options->seeds;
	struct oracle oracle = {.options = options, .sim = *base, .seed = base->seed + 1000};
	struct sim_options sim = *base;
	struct measure_mean end;

	sim.load = setting->load;
	sim.probe = setting->probe;
	sim.probe_cost_ns =
		setting->probe == STATION_PROBE_EBPF ? options->ebpf_ns : options->user_ns;
	sim.antagonist_share = setting->antagonist;
	sim.bare_replies |= setting->bare;
	oracle.sim = sim;
	set_end(setting, &oracle.sim);
	ask_oracle(&oracle);
	for (unsigned seed = 0; seed < seeds; seed++) {
		double found = adapt(setting, &sim, base->seed + seed, one);

		if (found < 0)
			return LBSIM_USAGE;
		rate += found / seeds;
		for (unsigned i = 0; i < WINDOWS; i++)
			windows_us[i][seed] = one[i];
	}
	if (oracle.failed || add_windows(set, series, &sim, windows_us, seeds) < 0)
		return LBSIM_USAGE;
	end = measure_mean(windows_us[WINDOWS - 1], seeds);
	/* Both sides are measured: the interval of one stands for the noise of both. */
	lbsim_claim(set, end.mean <= WITHIN * oracle.best_us + end.half,
		"%s: p99 %.1f us at the end = %.3f of the best (f=%g: %.1f); f=%.2f", setting->name,
		end.mean, end.mean / oracle.best_us, oracle.best_rate, oracle.best_us, rate);
	if (!options->quick)
		compare_searches(&oracle, set, setting->start);
	return oracle.failed ? LBSIM_USAGE : LBSIM_OK;
}

int lbsim_adapt(const struct lbsim_options *options, const struct sim_options *given)
{
	static struct lbsim_set set = {.title = "E3: the adaptive rate: p99 while it adapts",
		.x_name = "thousand RPCs of each client"};
	struct sim_options base = *given;

	if (options->quick)
		base.clients = QUICK_CLIENTS;
	if (options->requests == 0)
		base.requests = base.clients * RPCS_PER_CLIENT;
	lbsim_progress_begin((unsigned)(SETTINGS * options->seeds * 14));
	for (unsigned i = 0; i < SETTINGS; i++) {
		int status;

		if (options->quick && !settings[i].quick)
			continue;
		status = run_setting(options, &settings[i], &base, &set);
		if (status != LBSIM_OK)
			return status;
	}
	return lbsim_show(options, &base, &set);
}
