/*
 * farmem/agent/compact_pace_test.c: the limit follows what merging costs a simulated program.
 */
#include "farmem/agent/compact_pace.h"
#include "base/test.h"

#define STEP_NS (5 * NS_PER_MS)

/* A program of so many events per second, which loses `cost` of them at 100 MiB/s of merging. */
struct program {
	double usual, cost;
	double events, bytes;
	uint64_t now_ns;
};

/* One step: a transaction of 1 MiB begins when it may, so 200 MiB/s at most. */
static bool step(struct compact_pace *pace, struct program *program, bool pressed)
{
	const double seconds = (double)STEP_NS / (double)NS_PER_S;
	double sent = 0;
	program->now_ns += STEP_NS;
	while (pace_allows(pace, program->now_ns) && sent < (double)(64 << 20)) {
		pace_spend(pace, program->now_ns, 1 << 20, pressed);
		sent += 1 << 20;
	}
	double rate = sent / seconds / (100 << 20);
	double share = 1 - program->cost * rate;
	program->events += program->usual * seconds * FM_MAX(share, 0.0);
	program->bytes += sent;
	const uint64_t counts[2] = {(uint64_t)program->events, (uint64_t)program->bytes};
	pace_look(pace, program->now_ns, counts, 0);
	return sent > 0;
}

/* MiB per second over so many seconds. */
static double run(
	struct compact_pace *pace, struct program *program, unsigned seconds, bool pressed)
{
	double before = program->bytes;
	for (uint64_t i = 0; i < seconds * NS_PER_S / STEP_NS; i++)
		(void)step(pace, program, pressed);
	return (program->bytes - before) / seconds / (1 << 20);
}

TEST(an_idle_program_is_in_nobodys_way)
{
	struct compact_pace pace = {0};
	struct program program = {.usual = 10, .now_ns = NS_PER_S};
	CHECK_LT(150, (int)run(&pace, &program, 5, false));
}

TEST(a_busy_program_keeps_nineteen_twentieths)
{
	struct compact_pace pace = {0};
	struct program program = {.usual = 50000, .cost = 0.25, .now_ns = NS_PER_S};
	(void)run(&pace, &program, 20, false);
	double events = program.events;
	double rate = run(&pace, &program, 20, false);
	double share = (program.events - events) / 20 / program.usual;
	printf("     %.0f MiB/s, share %.3f\n", rate, share);
	CHECK_LE(940, (int)(1000 * share));
	CHECK_LE(5, (int)rate);
}

TEST(merging_that_costs_nothing_is_not_held_back)
{
	struct compact_pace pace = {0};
	struct program program = {.usual = 50000, .cost = 0, .now_ns = NS_PER_S};
	(void)run(&pace, &program, 20, false);
	CHECK_LT(150, (int)run(&pace, &program, 5, false));
}

TEST(while_far_memory_is_wanted_badly_there_is_a_least_rate)
{
	struct compact_pace pace = {0};
	struct program program = {.usual = 50000, .cost = 0.5, .now_ns = NS_PER_S};
	(void)run(&pace, &program, 20, false);
	double before = run(&pace, &program, 10, false);
	CHECK_LE(3, (int)before); /* never nothing */
	CHECK_LT((int)before, (int)run(&pace, &program, 10, true));
}

TEST(now_and_then_nothing_is_begun_to_see_what_the_program_does_alone)
{
	struct compact_pace pace = {0};
	struct program program = {.usual = 50000, .cost = 0.1, .now_ns = NS_PER_S};
	unsigned alone = 0;
	for (unsigned i = 0; i < 10 * NS_PER_S / STEP_NS; i++) {
		(void)step(&pace, &program, false);
		alone += pace.slice == PACE_ALONE;
	}
	CHECK_LE(3 * PACE_ALONE_NS / STEP_NS, alone);
	CHECK_LE(alone, 20 * PACE_ALONE_NS / STEP_NS);
}

TEST(a_program_that_leaves_takes_its_events_along)
{
	struct compact_pace pace = {0};
	struct program program = {.usual = 50000, .cost = 0.1, .now_ns = NS_PER_S};
	(void)run(&pace, &program, 5, false);
	program.events = 0;
	(void)run(&pace, &program, 5, false);
	CHECK(pace.limit >= PACE_LIMIT_MIN && pace.limit <= PACE_LIMIT_MAX);
}
