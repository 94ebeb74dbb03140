/*
 * lb/tuner_test.c: the tuner on fleets that are a formula: latencies are exponential with a mean
 * that depends on the rates of all clients. The simulator's fleets are in sim/claims_test.c.
 */
#include "base/test.h"

#include <errno.h>
#include <math.h>

#include "base/clock.h"
#include "lb/tuner.h"
#include "lb/tuner_tail.h"

#define CLIENTS_MAX 16

/* What one RPC costs on average when its client probes at `own` and all do at `everybody`. */
struct curve {
	double best;    /* the rate at the minimum, when all have the same */
	double benefit; /* of own probes; 0: flat */
	double cost;    /* of everybody's */
	double scale_ns;
};

/* a/f + b*f has its minimum at sqrt(a/b). */
static double mean_ns(const struct curve *curve, double own, double everybody)
{
	return curve->scale_ns * (1 + curve->benefit * curve->best / (own + 0.1 * curve->best) +
					 curve->cost * everybody / curve->best);
}

struct world {
	struct tuner *tuners[CLIENTS_MAX];
	unsigned clients;
	struct curve curve;
	double gap_ns; /* between RPCs of one client */
	uint64_t random;
	double now_ns;
};

static double unit(struct world *world)
{
	return ((double)(test_random(&world->random) >> 11) + 1) * 0x1p-53;
}

static void world_open(struct world *world, unsigned clients, struct tuner_options options)
{
	*world = (struct world){.clients = clients,
		.curve = {.best = 1, .benefit = 0.3, .cost = 0.3, .scale_ns = 10000},
		.gap_ns = 20000,
		.random = 42,
		.now_ns = 1e9};
	for (unsigned i = 0; i < clients; i++)
		CHECK_EQ(tuner_open(&options, &world->tuners[i]), 0);
}

static void world_close(struct world *world)
{
	for (unsigned i = 0; i < world->clients; i++)
		tuner_close(world->tuners[i]);
}

/* `count` RPCs of each client. */
static void world_run(struct world *world, unsigned count)
{
	for (unsigned n = 0; n < count; n++) {
		double everybody = 0;

		for (unsigned i = 0; i < world->clients; i++)
			everybody += tuner_rate(world->tuners[i]) / world->clients;
		for (unsigned i = 0; i < world->clients; i++) {
			double mean =
				mean_ns(&world->curve, tuner_rate(world->tuners[i]), everybody);

			world->now_ns += -log(unit(world)) * world->gap_ns / world->clients;
			tuner_note(world->tuners[i], (uint64_t)world->now_ns,
				(uint64_t)(-log(unit(world)) * mean));
		}
	}
}

/* Geometric mean over the clients. */
static double world_center(const struct world *world)
{
	double sum = 0;

	for (unsigned i = 0; i < world->clients; i++)
		sum += log(tuner_center(world->tuners[i])) / world->clients;
	return exp(sum);
}

/* What the found rates cost, relative to the best there is. */
static double world_excess(const struct world *world)
{
	double least = INFINITY, here = 0, center = world_center(world);

	for (double rate = 0.02; rate < 16; rate *= 1.02)
		least = fmin(least, mean_ns(&world->curve, rate, rate));
	for (unsigned i = 0; i < world->clients; i++)
		here += mean_ns(&world->curve, tuner_center(world->tuners[i]), center) /
			world->clients;
	return here / least;
}

TEST(the_rate_is_found_from_both_ends)
{
	static const double starts[] = {0.1, 8};

	for (unsigned i = 0; i < 2; i++) {
		struct world world;
		struct tuner_stats stats;

		world_open(&world, 1, (struct tuner_options){.rate_start = starts[i]});
		world_run(&world, 250000);
		tuner_stats(world.tuners[0], &stats);
		printf("    from %.1f: %.2f, %.3f of the best; %llu steps\n", starts[i], stats.rate,
			world_excess(&world), (unsigned long long)stats.steps);
		CHECK(world_excess(&world) < 1.05);
		CHECK_LT(0, stats.freezes);
		world_close(&world);
	}
}

TEST(it_follows_when_the_best_rate_moves_with_the_load)
{
	struct world world;
	struct tuner_stats stats;

	world_open(&world, 1, (struct tuner_options){.rate_start = 1});
	world_run(&world, 200000);
	CHECK(world_excess(&world) < 1.05);
	world.curve.best = 8;
	world.gap_ns /= 2;
	CHECK(world_excess(&world) > 1.2);
	world_run(&world, 400000);
	tuner_stats(world.tuners[0], &stats);
	printf("    %.2f, %.3f of the best, %llu restarts\n", stats.rate, world_excess(&world),
		(unsigned long long)stats.restarts);
	CHECK_LT(0, stats.restarts);
	CHECK(world_excess(&world) < 1.05);
	world_close(&world);
}

TEST(it_follows_when_the_tail_shifts_at_the_same_load)
{
	struct world world;
	struct tuner_stats stats;

	world_open(&world, 1, (struct tuner_options){.rate_start = 4});
	world.curve.best = 4;
	world_run(&world, 300000);
	tuner_stats(world.tuners[0], &stats);
	CHECK(stats.frozen);
	CHECK_EQ(stats.restarts, 0);
	world.curve = (struct curve){.best = 0.3, .benefit = 0.3, .cost = 0.3, .scale_ns = 30000};
	world_run(&world, 300000);
	tuner_stats(world.tuners[0], &stats);
	CHECK_LT(0, stats.restarts);
	CHECK(world_excess(&world) < 1.05);
	world_close(&world);
}

TEST(a_flat_curve_is_left_alone)
{
	struct world world;
	struct tuner_stats stats;

	world_open(&world, 1, (struct tuner_options){.rate_start = 2});
	world.curve.benefit = world.curve.cost = 0;
	world_run(&world, 1000000);
	tuner_stats(world.tuners[0], &stats);
	printf("    %.2f after %llu groups: %llu steps, %llu freezes\n", stats.rate,
		(unsigned long long)stats.epochs, (unsigned long long)stats.steps,
		(unsigned long long)stats.freezes);
	CHECK(stats.frozen);
	CHECK_EQ(stats.restarts, 0);
	/* At two standard errors one test in twenty finds what is not there. */
	CHECK_LT(stats.steps * 5, stats.epochs);
	world_close(&world);
}

TEST(clients_that_swing_together_see_what_their_probes_cost_the_others)
{
	double found[2];

	for (unsigned apart = 0; apart < 2; apart++) {
		struct world world;

		world_open(&world, CLIENTS_MAX, (struct tuner_options){.rate_start = 1});
		if (apart) {
			/* Clocks that have nothing to do with each other: so many orders of swings.
			 */
			world_close(&world);
			for (unsigned i = 0; i < world.clients; i++)
				CHECK_EQ(tuner_open(
						 &(struct tuner_options){.rate_start = 1,
							 .clock_offset_ns = (int64_t)i * 123456789},
						 &world.tuners[i]),
					0);
		}
		world_run(&world, 300000);
		found[apart] = world_center(&world);
		printf("    %s: %.2f, %.3f of the best\n", apart ? "apart" : "together",
			found[apart], world_excess(&world));
		if (!apart)
			CHECK(world_excess(&world) < 1.05);
		world_close(&world);
	}
	CHECK(found[1] > 2 * found[0]);
}

TEST(the_rate_stays_within_its_bounds)
{
	static const double bests[] = {0.001, 1000};

	for (unsigned i = 0; i < 2; i++) {
		struct world world;

		world_open(&world, 1,
			(struct tuner_options){.rate_min = 0.5, .rate_max = 4, .epoch_rpcs = 200});
		world.curve.best = bests[i];
		for (unsigned n = 0; n < 3000; n++) {
			world_run(&world, 20);
			CHECK(tuner_rate(world.tuners[0]) >= 0.5 - 1e-9);
			CHECK(tuner_rate(world.tuners[0]) <= 4 + 1e-9);
		}
		if (i == 0)
			CHECK(tuner_center(world.tuners[0]) < 0.8);
		world_close(&world);
	}
}

TEST(a_clock_that_jumps_and_silence_do_no_harm)
{
	struct world world;
	struct tuner_stats stats;

	world_open(&world, 1, (struct tuner_options){.rate_start = 1, .epoch_rpcs = 200});
	for (unsigned n = 0; n < 200; n++) {
		world_run(&world, 700);
		switch (test_random(&world.random) % 4) {
		case 0:
			world.now_ns = fmax(0, world.now_ns - 3e8); /* back */
			break;
		case 1:
			world.now_ns += 7e9; /* silence */
			break;
		}
	}
	tuner_note(world.tuners[0], UINT64_MAX, UINT64_MAX);
	tuner_note(world.tuners[0], 0, 0);
	tuner_stats(world.tuners[0], &stats);
	CHECK(stats.rate >= 0.02 && stats.rate <= 16);
	world_close(&world);
}

TEST(a_slow_client_gets_longer_epochs_and_still_finds_it)
{
	struct world world;

	world_open(&world, 1, (struct tuner_options){.rate_start = 8});
	world.gap_ns = 10e6; /* 100 RPCs a second: 200 in the longest sub-epoch */
	world_run(&world, 150000);
	printf("    %.2f, %.3f of the best\n", world_center(&world), world_excess(&world));
	CHECK(world_excess(&world) < 1.1);
	world_close(&world);
}

TEST(the_trace_has_the_last_epochs_in_order)
{
	struct world world;
	char *text = NULL, *line, *rest;
	size_t length = 0;
	unsigned rows = 0;
	double last_s = -1;
	FILE *out;

	world_open(&world, 1, (struct tuner_options){.epoch_rpcs = 100});
	world_run(&world, 700000);
	out = open_memstream(&text, &length);
	tuner_trace(world.tuners[0], out);
	fclose(out);
	line = strtok_r(text, "\n", &rest);
	CHECK_STR_EQ(line, "seconds,rate,low_ns,high_ns,step,frozen,restart");
	while ((line = strtok_r(NULL, "\n", &rest))) {
		double seconds, rate, low, high, step;
		int frozen, restarted;

		CHECK_EQ(sscanf(line, "%lf,%lf,%lf,%lf,%lf,%d,%d", &seconds, &rate, &low, &high,
				 &step, &frozen, &restarted),
			7);
		CHECK(seconds > last_s);
		CHECK(rate >= 0.02 && rate <= 16);
		last_s = seconds;
		rows++;
	}
	CHECK_EQ(rows, 1024);
	free(text);
	world_close(&world);
}

TEST(bad_options_are_refused)
{
	struct tuner *tuner;

	CHECK_EQ(
		tuner_open(&(struct tuner_options){.rate_min = 5, .rate_max = 1}, &tuner), -EINVAL);
	CHECK_EQ(tuner_open(&(struct tuner_options){.rate_min = -1}, &tuner), -EINVAL);
	CHECK_EQ(tuner_open(&(struct tuner_options){.rate_start = NAN}, &tuner), -EINVAL);
	tuner_close(NULL);
}

/* --- the tail ----------------------------------------------------------------------------------
 */

TEST(the_tail_lies_near_the_99th_percentile)
{
	static struct tail tail;
	uint64_t state = 1;

	for (unsigned i = 0; i < 200000; i++)
		tail_record(&tail,
			(uint64_t)(-log(((double)(test_random(&state) >> 11) + 1) * 0x1p-53) *
				   1e4));
	/* Between the quantiles .96 (3.2 means) and .995 (5.3). */
	printf("    %.0f, p99 %.0f\n", exp(tail_log_ns(&tail)), 1e4 * log(100));
	CHECK(exp(tail_log_ns(&tail)) > 0.8 * 1e4 * log(100));
	CHECK(exp(tail_log_ns(&tail)) < 1.0 * 1e4 * log(100));
	tail_reset(&tail);
	CHECK(tail_log_ns(&tail) == 0);
}

TEST(the_tail_of_one_value_is_that_value_from_nothing_to_forever)
{
	static const uint64_t values[] = {0, 1, 127, 128, 1000, 1ull << 39, UINT64_MAX};
	static struct tail tail;

	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		double seen, wanted = fmin(fmax((double)values[i], 128), 0x1p40);

		tail_reset(&tail);
		for (unsigned n = 0; n < 100; n++)
			tail_record(&tail, values[i]);
		seen = exp(tail_log_ns(&tail));
		CHECK(seen >= wanted / 1.035 && seen <= wanted * 1.035);
	}
}
