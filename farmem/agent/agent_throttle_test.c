/*
 * farmem/agent/agent_throttle_test.c: the throttle beside a program that is a formula: it loses a
 * share of its throughput that grows with what is rebuilt per second. No clock and no nodes: time
 * goes by in steps.
 */
#include "base/clock.h"
#include "base/test.h"
#include "farmem/agent/agent_repair.h"

#define STEP_NS (1 * NS_PER_MS)
#define FASTEST                                                                                    \
	(1.0 * (1ull << 30)) /* bytes per second that nodes rebuild when nobody limits them */
#define CALL_ENDS_NS (20 * NS_PER_MS)

static struct agent agent;
static struct repair_agent repairs;
static struct agent_runtime runtime;
static struct catalog_stats stats;
static struct agent_group group;
static struct agent_node node;
static struct repair repair;
static uint64_t seed;

static uint64_t now_ns, rebuilding_ns; /* when a call was under way last */
static double usual, cost;             /* events per second alone; share lost at FASTEST */
static double events, bytes;

/* An agent that has seen the program do `first` events a second for some seconds. */
static void world_begin(double first, double costs, bool lost)
{
	memset(&agent, 0, sizeof agent);
	memset(&repairs, 0, sizeof repairs);
	memset(&runtime, 0, sizeof runtime);
	memset(&stats, 0, sizeof stats);
	seed = 7;
	now_ns = 1000 * NS_PER_S;
	rebuilding_ns = 0;
	usual = first;
	cost = costs;
	events = bytes = 0;
	group = (struct agent_group){.k = 4, .m = 2};
	group.columns[0].lost = lost;
	runtime.attached = true;
	runtime.catalog.stats = &stats;
	runtime.groups = &group;
	runtime.groups_count = 1;
	repair = (struct repair){.agent = &agent, .runtime = &runtime, .phase = REPAIR_WORKING};
	agent.nodes = &node;
	agent.runtimes[0] = &runtime;
	agent.runtimes_count = 1;
	agent.repair = &repairs;
	repairs.agent = &agent;
}

/* What a moment of rebuilding and of the program comes to. */
static void world_step(void)
{
	double limit = (double)throttle_limit(&agent), rate = 0;
	const double seconds = (double)STEP_NS / (double)NS_PER_S;
	bool begins = repairs.count > 0 && throttle_allows(&agent);
	now_ns += STEP_NS;
	if (begins) {
		rate = limit > 0 && limit < FASTEST ? limit : FASTEST;
		rebuilding_ns = now_ns;
	}
	double share = 1 - cost * rate / FASTEST;
	double luck = 0.8 + 0.4 * (double)(test_random(&seed) % 1000) / 1000;
	events += usual * (share > 0 ? share : 0) * luck * seconds;
	bytes += rate * seconds;
	atomic_store(&stats.faults, (uint64_t)events);
	repairs.rebuilt_bytes = (uint64_t)bytes;
	throttle_look(&agent, now_ns, now_ns - rebuilding_ns < CALL_ENDS_NS ? 2 : 0);
}

static void world_run(uint64_t ns)
{
	for (uint64_t until_ns = now_ns + ns; now_ns < until_ns;)
		world_step();
}

static void repair_starts(void)
{
	repairs.repairs[0] = &repair;
	repairs.count = 1;
	throttle_begin(&agent, now_ns);
}

/* The program's share, and what was rebuilt of the fastest, over so long. */
static double share_over(uint64_t ns, double *rebuilt)
{
	double events_before = events, bytes_before = bytes,
	       seconds = (double)ns / (double)NS_PER_S;
	world_run(ns);
	*rebuilt = (bytes - bytes_before) / FASTEST / seconds;
	return usual > 0 ? (events - events_before) / usual / seconds : 1;
}

TEST(an_idle_program_is_in_nobodys_way)
{
	double rebuilt;
	world_begin(0, 1, true);
	world_run(2 * NS_PER_S);
	repair_starts();
	(void)share_over(NS_PER_S / 2, &rebuilt);
	CHECK_EQ(throttle_limit(&agent), 0);
	CHECK(0.99 < rebuilt);
}

TEST(a_program_that_has_just_become_idle_is_known_as_such_soon)
{
	double rebuilt;
	world_begin(50000, 1, true);
	world_run(2 * NS_PER_S + 100 * NS_PER_MS);
	usual = 0;
	repair_starts();
	(void)share_over(250 * NS_PER_MS, &rebuilt);
	(void)share_over(NS_PER_S / 2, &rebuilt);
	CHECK(0.99 < rebuilt);
}

TEST(a_program_that_becomes_busy_is_noticed)
{
	double rebuilt;
	world_begin(0, 0.8, true);
	world_run(NS_PER_S);
	repair_starts();
	world_run(NS_PER_S / 2);
	usual = 50000;
	world_run(200 * NS_PER_MS);
	CHECK_NE(throttle_limit(&agent), 0);
	CHECK(0.75 < share_over(3 * NS_PER_S, &rebuilt));
}

TEST(a_program_that_cannot_even_begin_is_noticed)
{
	double rebuilt;
	world_begin(0, 1, true);
	world_run(NS_PER_S);
	repair_starts();
	world_run(NS_PER_S / 2);
	usual = 50000; /* and of that nothing is left while it is rebuilt as fast as can be */
	world_run(NS_PER_S);
	CHECK_NE(throttle_limit(&agent), 0);
	CHECK(0.75 < share_over(3 * NS_PER_S, &rebuilt));
}

TEST(a_death_is_trouble_enough)
{
	double rebuilt;
	world_begin(50000, 1, true);
	world_run(2 * NS_PER_S);
	repair_starts();
	CHECK(0.9 < share_over(100 * NS_PER_MS, &rebuilt));
	CHECK(0 < rebuilt);
}

/* Whatever rebuilding costs it, as long as the least rate leaves so much. */
TEST(a_busy_program_keeps_four_fifths_and_the_rest_is_used)
{
	static const double costs[] = {0.3, 0.6, 1.0, 1.5};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(costs); i++) {
		double rebuilt, share;
		world_begin(50000, costs[i], true);
		world_run(2 * NS_PER_S);
		repair_starts();
		share = share_over(5 * NS_PER_S, &rebuilt);
		CHECK(0.79 < share);
		/* 15 % would be lost at 0.15 / cost of the fastest. */
		CHECK(0.5 * 0.15 / costs[i] < rebuilt);
	}
}

TEST(the_next_repair_begins_with_what_was_learnt)
{
	double rebuilt, again;
	world_begin(50000, 3, true);
	world_run(2 * NS_PER_S);
	repair_starts();
	(void)share_over(3 * NS_PER_S, &rebuilt);
	repairs.count = 0;
	world_run(2 * NS_PER_S);
	repair_starts();
	CHECK(0.7 < share_over(500 * NS_PER_MS, &again));
}

TEST(a_drain_leaves_nearly_all)
{
	double rebuilt;
	world_begin(50000, 1, false);
	world_run(2 * NS_PER_S);
	repair_starts();
	CHECK(0.95 < share_over(5 * NS_PER_S, &rebuilt));
	CHECK(0.01 < rebuilt);
}

TEST(a_starved_program_is_not_taken_for_an_idle_one)
{
	double rebuilt;
	world_begin(50000, 14, true); /* nothing is left of it above the least rate */
	world_run(2 * NS_PER_S);
	repair_starts();
	world_run(2 * NS_PER_S);
	(void)share_over(3 * NS_PER_S, &rebuilt);
	CHECK(rebuilt < 0.08);
	CHECK_NE(throttle_limit(&agent), 0);
}
