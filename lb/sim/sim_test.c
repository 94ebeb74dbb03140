/*
 * lb/sim/sim_test.c: the simulator against queueing theory, before anything else is believed of it.
 *
 * Every comparison with a formula has two ends: the result's confidence interval (Student's t over
 * SEEDS runs) must hold the formula's value, widened to 99.9 %, and it must be narrow, or the first
 * would be no test.
 */
#include "base/test.h"

#include <errno.h>
#include <math.h>

#include "base/clock.h"
#include "lb/sim/measure.h"
#include "lb/sim/sim.h"

#define SEEDS 8u
#define SERVICE_NS 10000.0
#define WIDER 2.3 /* t(7): 99.9 % against 95 %: 5.41 / 2.365 */

static struct sim_result run(const struct sim_options *options)
{
	struct sim_result result;
	const char *why = "";
	int rc = sim_measure(options, &result, &why);

	if (rc != 0)
		printf("    %s\n", why);
	CHECK_EQ(rc, 0);
	return result;
}

/* One queue before `workers` workers, no network. */
static void one_queue(struct sim_options *options, uint32_t workers, double load)
{
	sim_defaults(options);
	options->servers = options->clients = 1;
	options->workers = workers;
	options->network_ns = 0;
	options->load = load;
	options->requests = 200000;
}

static void several(
	struct sim_options *options, struct measure_mean *mean_ns, struct measure_mean *p99_ns)
{
	double means[SEEDS], p99s[SEEDS];

	for (unsigned i = 0; i < SEEDS; i++) {
		struct sim_result result;

		options->seed = i + 1;
		result = run(options);
		means[i] = result.latency.mean_ns;
		p99s[i] = result.latency.p99_ns;
	}
	*mean_ns = measure_mean(means, SEEDS);
	*p99_ns = measure_mean(p99s, SEEDS);
}

static void check_holds(const char *what, struct measure_mean found, double wanted, double narrow)
{
	printf("    %s: %.0f +- %.0f, formula %.0f\n", what, found.mean, found.half, wanted);
	CHECK(fabs(found.mean - wanted) <= WIDER * found.half);
	CHECK(WIDER * found.half <= narrow * wanted);
}

TEST(one_worker_is_a_queue_m_m_1)
{
	struct measure_mean mean, p99;
	struct sim_options options;

	for (double load = 0.5; load < 0.85; load += 0.3) {
		one_queue(&options, 1, load);
		several(&options, &mean, &p99);
		check_holds("mean", mean, SERVICE_NS / (1 - load), 0.05);
		check_holds("p99", p99, SERVICE_NS / (1 - load) * log(100), 0.12);
	}
}

/* Erlang's C: the share that must wait. */
static double erlang_c(unsigned workers, double load)
{
	double offered = workers * load, term = 1, sum = 1;

	for (unsigned i = 1; i < workers; i++) {
		term *= offered / i;
		sum += term;
	}
	term *= offered / workers / (1 - load);
	return term / (sum + term);
}

/* P(sojourn > t) of M/M/c, times in mean service times. */
static double sojourn_above(unsigned workers, double load, double t)
{
	double wait = erlang_c(workers, load), theta = workers * (1 - load);

	return (1 - wait) * exp(-t) + wait * (theta * exp(-t) - exp(-theta * t)) / (theta - 1);
}

TEST(several_workers_are_a_queue_m_m_c)
{
	struct measure_mean mean, p99;
	struct sim_options options;

	for (double load = 0.6; load < 0.85; load += 0.2) {
		double low = 0, high = 1000;

		one_queue(&options, 4, load);
		several(&options, &mean, &p99);
		check_holds("mean", mean, SERVICE_NS * (1 + erlang_c(4, load) / (4 * (1 - load))),
			0.06);
		for (unsigned i = 0; i < 100; i++) {
			double middle = (low + high) / 2;

			if (sojourn_above(4, load, middle) > 0.01)
				low = middle;
			else
				high = middle;
		}
		check_holds("p99", p99, SERVICE_NS * low, 0.2);
	}
}

TEST(any_service_time_waits_as_pollaczek_and_khinchine_say)
{
	/* second moments, in squares of the mean */
	static const struct {
		enum chance_service service;
		double second;
	} kinds[] = {{CHANCE_CONSTANT, 1}, {CHANCE_BIMODAL, 0.9 * 0.25 + 0.1 * 30.25},
		{CHANCE_HEAVY, 50.501}};
	struct measure_mean mean, p99;
	struct sim_options options;
	double load = 0.5;

	for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		one_queue(&options, 1, load);
		options.service = kinds[i].service;
		options.requests = i < 2 ? 200000 : 600000;
		several(&options, &mean, &p99);
		check_holds(chance_service_names[kinds[i].service], mean,
			SERVICE_NS * (1 + load * kinds[i].second / 2 / (1 - load)),
			i < 2 ? 0.03 : 0.15);
	}
}

TEST(service_times_have_the_mean_and_the_spread_that_are_said)
{
	/* second moments, in squares of the mean */
	static const double seconds[CHANCE_SERVICES] = {1, 2, 3.25, 50.501, 9.4877};
	enum { DRAWS = 1000000 };

	for (unsigned kind = 0; kind < CHANCE_SERVICES; kind++) {
		double sum = 0, squares = 0;
		struct chance chance;

		chance_seed(&chance, 5, kind);
		for (unsigned i = 0; i < DRAWS; i++) {
			double drawn =
				chance_of_service(&chance, (enum chance_service)kind, SERVICE_NS);

			CHECK(drawn > 0);
			sum += drawn / SERVICE_NS / DRAWS;
			squares += drawn * drawn / SERVICE_NS / SERVICE_NS / DRAWS;
		}
		printf("    %s: mean %.4f, second moment %.3f\n", chance_service_names[kind], sum,
			squares);
		/* five standard errors of the mean; the fourth moments differ too much for one
		 * rule: 10 % holds for all of them here */
		CHECK(fabs(sum - 1) < 5 * sqrt((seconds[kind] - 1) / DRAWS) + 1e-9);
		CHECK(fabs(squares / seconds[kind] - 1) < 0.1);
	}
}

TEST(a_small_quantum_is_processor_sharing_which_no_distribution_moves)
{
	struct measure_mean mean, p99;
	struct sim_options options;

	one_queue(&options, 1, 0.5);
	options.service = CHANCE_BIMODAL;
	options.quantum_ns = 200;
	several(&options, &mean, &p99);
	check_holds("mean", mean, SERVICE_NS / (1 - 0.5), 0.04);
}

/* Power of two, servers asked by magic: the share of queues of at least i is load^(2^i - 1). */
TEST(the_power_of_two_reaches_its_fixed_point)
{
	struct measure_mean mean, p99;
	struct sim_options options;
	double load = 0.9, queue = 0;

	one_queue(&options, 1, load);
	options.balancer.policy = "p2c";
	options.servers = 500;
	options.requests = 400000;
	options.warm_share = 0.25;
	options.probe_cost_ns = 0;
	/* Long, so that no two arrivals fall into one nanosecond. */
	options.service_ns = NS_PER_MS;
	for (unsigned i = 1; i < 12; i++)
		queue += pow(load, pow(2, i) - 1);
	several(&options, &mean, &p99);
	/* 500 is not infinity: the difference is of order 1/500. */
	mean.mean *= SERVICE_NS / NS_PER_MS;
	mean.half *= SERVICE_NS / NS_PER_MS;
	printf("    mean %.0f +- %.0f, fixed point %.0f\n", mean.mean, mean.half,
		SERVICE_NS * queue / load);
	CHECK(fabs(mean.mean - SERVICE_NS * queue / load) <=
		WIDER * mean.half + 0.005 * SERVICE_NS * queue / load);
	CHECK(WIDER * mean.half <= 0.03 * mean.mean);
}

TEST(who_knows_more_waits_less)
{
	static const enum chance_service kinds[] = {
		CHANCE_CONSTANT, CHANCE_EXPONENTIAL, CHANCE_BIMODAL, CHANCE_LOGNORMAL};

	for (unsigned kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
		static const char *const policies[] = {"jsq", "p2c", "random"};
		struct sim_latency latencies[3];
		struct sim_options options;

		for (unsigned i = 0; i < 3; i++) {
			one_queue(&options, 1, 0.8);
			options.servers = 16;
			options.service = kinds[kind];
			options.probe_cost_ns = 0;
			options.balancer.policy = policies[i];
			latencies[i] = run(&options).latency;
		}
		printf("    %s p99: jsq %.0f, p2c %.0f, random %.0f\n",
			chance_service_names[kinds[kind]], latencies[0].p99_ns, latencies[1].p99_ns,
			latencies[2].p99_ns);
		for (unsigned i = 0; i < 2; i++) {
			CHECK(latencies[i].mean_ns < 0.97 * latencies[i + 1].mean_ns);
			CHECK(latencies[i].p99_ns < latencies[i + 1].p99_ns);
		}
	}
}

TEST(a_seed_is_the_whole_of_chance)
{
	struct sim_options options;
	struct sim_result one, again, other;

	sim_defaults(&options);
	options.requests = 20000;
	options.balancer.policy = "p2c";
	options.antagonist_share = 0.25;
	options.burst_factor = 3;
	options.probe_loss = 0.01;
	options.jitter_ns = 500;
	one = run(&options);
	again = run(&options);
	options.seed = 2;
	other = run(&options);
	CHECK(one.latency.mean_ns == again.latency.mean_ns);
	CHECK(one.latency.p999_ns == again.latency.p999_ns);
	CHECK_EQ(one.events, again.events);
	CHECK(one.latency.mean_ns != other.latency.mean_ns);
}

TEST(the_load_that_is_asked_for_is_offered_even_in_bursts)
{
	struct sim_options options;
	struct sim_result result;

	for (double factor = 1; factor < 6; factor += 4) {
		sim_defaults(&options);
		options.requests = 400000;
		options.load = 0.4;
		options.burst_factor = factor;
		options.burst_ns = 200 * NS_PER_US;
		options.calm_ns = 1800 * NS_PER_US;
		result = run(&options);
		printf("    factor %.0f: utilisation %.3f, p99 %.0f\n", factor, result.utilisation,
			result.latency.p99_ns);
		CHECK(fabs(result.utilisation - 0.4) < (factor > 1 ? 0.05 : 0.005));
	}
}

TEST(probes_cost_what_they_are_said_to)
{
	static const enum station_probe kinds[] = {
		STATION_PROBE_EBPF, STATION_PROBE_QUEUED, STATION_PROBE_THREAD};
	double mean_ns[3];

	for (unsigned i = 0; i < 3; i++) {
		struct sim_options options;
		struct sim_result result;

		sim_defaults(&options);
		options.requests = 100000;
		options.load = 0.5;
		options.balancer.policy = "p2c";
		options.probe = kinds[i];
		options.probe_cost_ns = 1000;
		result = run(&options);
		printf("    kind %u: utilisation %.3f, %.2f probes per RPC, mean %.0f\n", i,
			result.utilisation, result.probes_per_rpc, result.latency.mean_ns);
		CHECK(fabs(result.probes_per_rpc - 2) < 0.01);
		/* 2 probes of 1 us to an RPC of 10 us: 0.5 becomes 0.6 where probes are jobs;
		 * what interrupts an idle worker takes nothing from anybody. */
		if (kinds[i] == STATION_PROBE_QUEUED)
			CHECK(fabs(result.utilisation - 0.6) < 0.01);
		else
			CHECK(fabs(result.utilisation - 0.555) < 0.015);
		mean_ns[i] = result.latency.mean_ns;
	}
	CHECK(mean_ns[0] < 0.8 * mean_ns[1]);
}

TEST(everything_ends_whatever_befalls_the_servers)
{
	static const char *const policies[] = {"random", "least", "p2c", "mew-fixed"};

	for (unsigned i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
		const char *why = "";
		struct sim_options options;
		struct sim_result result;
		struct sim *sim;

		sim_defaults(&options);
		options.balancer.policy = policies[i];
		options.balancer.eject_ns = 2 * NS_PER_MS;
		options.balancer.slow_start_ns = 2 * NS_PER_MS;
		options.requests = 60000;
		options.load = 0.3;
		options.deadline_ns = NS_PER_MS;
		options.probe_loss = 0.05;
		options.slow_share = 0.2;
		options.degraded = 1;
		options.antagonist_share = 0.3;
		options.antagonist_ns = NS_PER_MS;
		options.burst_factor = 4;
		options.failing = 2;
		options.restarts = 2;
		options.quantum_ns = 20000;
		CHECK_EQ(sim_open(&options, &sim, &why), 0);
		CHECK_EQ(sim_run(sim), 0);
		sim_result(sim, &result);
		for (uint32_t client = 0; client < options.clients; client++)
			for (uint32_t server = 0; server < options.servers; server++)
				CHECK_EQ(balancer_in_flight(sim_balancer(sim, client), server), 0);
		sim_close(sim);
		printf("    %s: %llu of %u failed, %llu ejections\n", policies[i],
			(unsigned long long)result.failed, options.requests,
			(unsigned long long)result.stats.ejections);
		CHECK_LT(0, result.failed);
		CHECK_LT(0, result.stats.ejections);
		CHECK_LT(result.failed, options.requests / 4);
		CHECK(result.latency.max_ns <= NS_PER_MS);
	}
}

TEST(a_slow_server_is_slow_and_an_antagonist_takes_its_part)
{
	struct measure_mean mean, p99;
	struct sim_options options;

	one_queue(&options, 1, 0.25);
	options.slow_share = 1;
	options.slow_factor = 2;
	several(&options, &mean, &p99);
	check_holds("half speed", mean, 2 * SERVICE_NS / (1 - 0.5), 0.05);
	/* Its square wave much faster than a service time: the server runs at the mean speed. */
	one_queue(&options, 1, 0.35);
	options.requests = 50000;
	options.antagonist_share = 1;
	options.antagonist_part = 0.6;
	options.antagonist_ns = 200;
	several(&options, &mean, &p99);
	check_holds("mean speed 0.7", mean, SERVICE_NS / 0.7 / (1 - 0.5), 0.05);
}

TEST(nonsense_is_refused_with_a_reason)
{
	struct sim_options options;
	const char *why = NULL;
	struct sim *sim;

	sim_defaults(&options);
	options.servers = 0;
	CHECK_EQ(sim_open(&options, &sim, &why), -EINVAL);
	CHECK_CONTAINS(why, "servers");
	sim_defaults(&options);
	options.load = NAN;
	CHECK_EQ(sim_open(&options, &sim, &why), -EINVAL);
	CHECK_CONTAINS(why, "load");
	sim_defaults(&options);
	options.failing = 1;
	CHECK_EQ(sim_open(&options, &sim, &why), -EINVAL);
	CHECK_CONTAINS(why, "deadline");
	sim_defaults(&options);
	options.balancer.policy = "no-such";
	CHECK_EQ(sim_open(&options, &sim, &why), -EINVAL);
	CHECK_CONTAINS(why, "policy");
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

TEST(a_quantile_is_what_sorting_gives)
{
	static uint32_t samples[1000], sorted[1000];
	uint64_t state = 7;

	for (size_t count = 1; count <= 1000; count += 37) {
		for (size_t i = 0; i < count; i++)
			samples[i] = sorted[i] = (uint32_t)test_random(&state) % 100;
		qsort(sorted, count, sizeof(*sorted), compare);
		for (double q = 0; q <= 1; q += 0.05) {
			size_t rank = (size_t)fmax(ceil(q * (double)count) - 1, 0);

			CHECK_EQ(measure_quantile(samples, count, q), sorted[rank]);
		}
	}
	CHECK_EQ(measure_quantile(samples, 0, 0.5), 0);
}

TEST(events_come_in_the_order_of_time_and_of_being_added)
{
	struct events events;
	struct event event;
	uint64_t state = 3, last_ns = 0, last_order = 0;
	unsigned added = 0, taken = 0;

	CHECK_EQ(events_open(&events), 0);
	for (unsigned round = 0; round < 100000; round++) {
		uint64_t bits = test_random(&state);

		event = (struct event){.at_ns = events.now_ns + bits % 50, .who = round};
		if (bits >> 62 == 0) {
			events_add(&events, &event);
		} else {
			event.at_ns = events.now_ns + 10 * (bits >> 62);
			events_add_lane(&events, bits >> 62 & 1, &event);
		}
		added++;
		if (bits >> 40 & 1 && events_next(&events, &event)) {
			CHECK(event.at_ns > last_ns ||
				(event.at_ns == last_ns &&
					(taken == 0 || event.order > last_order)));
			last_ns = event.at_ns;
			last_order = event.order;
			taken++;
		}
	}
	while (events_next(&events, &event))
		taken++;
	CHECK_EQ(taken, added);
	CHECK(!events.failed);
	events_close(&events);
}
