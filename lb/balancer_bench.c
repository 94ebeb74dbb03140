/*
 * lb/balancer_bench.c: what a policy costs the client's CPU: nanoseconds of CPU for the whole life
 * of an RPC (pick, sent, probes, the answers to them, done), beside `random`, which does nothing
 * but draw.
 *
 * 32 requests are kept in flight; loads are drawn. The policies are interleaved, the median of the
 * rounds is printed, and for each policy how much more 1000 servers cost than 8. `--tiny`: one
 * short round, as a test.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "lb/balancer.h"
#include "lb/draw.h"

#define FLYING 32
#define ROUNDS_MAX 9
#define SIZES 3
#define GAP_NS 12000 /* between two RPCs of a client, on its own clock */
#define LATENCY_NS 30000

static const char *const policies[] = {"random", "rr", "least", "p2c", "prequal", "prequal-tuned",
	"jiq", "jbsq", "c3", "mew-fixed", "mew"};
static const unsigned sizes[SIZES] = {8, 100, 1000};
static double results[FM_ARRAY_COUNT(policies)][SIZES][ROUNDS_MAX];

struct bench {
	struct balancer *balancer;
	struct draw draw;
	uint64_t now_ns;
	uint32_t flying[FLYING];
	unsigned first, count;
};

static struct load bench_load(struct bench *bench)
{
	return (struct load){.epoch = 1,
		.in_flight = (uint16_t)draw_below(&bench->draw, 4),
		.delay_ns = draw_below(&bench->draw, 30000)};
}

static void bench_answer(struct bench *bench, const uint32_t *servers, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct load load = bench_load(bench);

		balancer_sampled(bench->balancer, bench->now_ns, servers[i], &load);
	}
}

static void bench_end_oldest(struct bench *bench)
{
	struct load load = bench_load(bench);

	balancer_done(bench->balancer, bench->now_ns, bench->flying[bench->first],
		&(struct balancer_outcome){.latency_ns = LATENCY_NS, .load = &load});
	bench->first = (bench->first + 1) % FLYING;
	bench->count--;
}

static void bench_rpc(struct bench *bench)
{
	uint32_t servers[LB_PROBES_MAX];
	struct balancer_pick pick;
	enum balancer_verdict verdict = balancer_pick(bench->balancer, bench->now_ns, &pick);

	while (verdict == LB_PARK) {
		bench_end_oldest(bench);
		verdict = balancer_pick(bench->balancer, bench->now_ns, &pick);
	}
	if (verdict == LB_ASK) {
		bench_answer(bench, pick.asked, pick.asked_count);
		balancer_pick_asked(bench->balancer, bench->now_ns, &pick);
	}
	balancer_sent(bench->balancer, bench->now_ns, pick.server);
	bench->flying[(bench->first + bench->count++) % FLYING] = pick.server;
	bench->now_ns += GAP_NS;
	bench_answer(bench, servers, balancer_probes(bench->balancer, bench->now_ns, servers));
	if (bench->count == FLYING)
		bench_end_oldest(bench);
}

/* Of this process: the machine may be busy with others. */
static uint64_t bench_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ns for each RPC; below 0: it could not be opened. */
static double bench_run(const char *policy, unsigned servers, unsigned rpcs)
{
	struct balancer_options options = {.policy = policy,
		.servers = servers,
		.clients = FLYING,
		.seed = 1,
		.service_ns = 10000,
		.server_slots = 8};
	struct bench bench = {.draw.state = 2, .now_ns = NS_PER_S};
	uint64_t start_ns, end_ns;

	if (balancer_open(&options, &bench.balancer, NULL) != 0)
		return -1;
	for (unsigned i = 0; i < rpcs / 4; i++)
		bench_rpc(&bench);
	start_ns = bench_cpu_ns();
	for (unsigned i = 0; i < rpcs; i++)
		bench_rpc(&bench);
	end_ns = bench_cpu_ns();
	balancer_close(bench.balancer);
	return (double)(end_ns - start_ns) / rpcs;
}

static int double_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	bool tiny = argc > 1 && strcmp(argv[1], "--tiny") == 0;
	unsigned rounds = tiny ? 1 : ROUNDS_MAX, rpcs = tiny ? 2000 : 100000;
	struct utsname machine;
	double median[SIZES];

	uname(&machine);
	printf("balancer_bench: %u rounds of %u RPCs, %d in flight; %s %s, %ld CPUs\n", rounds,
		rpcs, FLYING, machine.release, machine.machine, sysconf(_SC_NPROCESSORS_ONLN));
	for (unsigned round = 0; round < rounds; round++)
		for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++)
			for (unsigned s = 0; s < SIZES; s++) {
				results[p][s][round] = bench_run(policies[p], sizes[s], rpcs);
				if (results[p][s][round] < 0)
					return 1;
			}
	printf("%-14s %6s %6s %6s   1000/8   ns an RPC at 8, 100, 1000 servers\n", "policy", "8",
		"100", "1000");
	for (unsigned p = 0; p < FM_ARRAY_COUNT(policies); p++) {
		for (unsigned s = 0; s < SIZES; s++) {
			qsort(results[p][s], rounds, sizeof(double), double_compare);
			median[s] = results[p][s][rounds / 2];
		}
		printf("%-14s %6.0f %6.0f %6.0f   %6.2f\n", policies[p], median[0], median[1],
			median[2], median[2] / median[0]);
	}
	return 0;
}
