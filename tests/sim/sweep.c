/*
 * tests/sim/sweep.c: SQLite's Nth-failure sweep: every fault point of every source linked in fails
 * at its Nth passage, once or for good, N = 1, 2, ... until it does not fire any more, under one
 * short fixed workload of swap-outs, swap-ins, repack, repair and drain (scenario "sweep"); after
 * each run everything that check.c knows of must be in order.
 *
 *   sim_test --sweep short [--evict move|wp]   N = 1, 2, 3, 5, 8, 13, ... (CI)
 *   sim_test --sweep full                      every N
 *   sim_test --scenario sweep --seed 1 --fault NAME=N[+]   one of them again
 *
 * Which points there are, the linker tells (fault_list_linked). The workload is the first seed
 * under which all of them are passed; a point that none passes fails the sweep: what nothing
 * reaches tests nothing. "For good" ends when the run winds down: then everything must become well
 * again.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/fault_point.h"
#include "tests/sim/sim.h"

#define SWEEP_TEXT_BYTES (FAULT_NAME_MAX + 24)
#define SWEEP_RUNS_MAX 1000000u
#define SWEEP_SEEDS_MAX 64

/* What a run, a process of its own, says about itself. */
struct sweep_report {
	uint64_t fired;
	unsigned count;
	uint64_t counts[FAULT_POINTS_MAX];
	char names[FAULT_POINTS_MAX][FAULT_NAME_MAX];
};

struct sweep {
	const struct sim_scenario *scenario;
	struct sweep_report *report;
	struct sweep_report calm; /* of the run without any failure */
	const char *names[FAULT_POINTS_MAX];
	unsigned count;
	uint64_t seed;
	bool full;
	uint64_t runs, failed;
};

/* The other providers come with rpc/fabric.c; their points are for the tests of the fabric. */
static bool sweep_is_ours(const char *name)
{
	return strncmp(name, "fabric.", 7) != 0;
}

/* What cannot be survived for good: all bytes of all nodes are wrong. */
static bool sweep_is_hopeless(const char *name, bool persistent)
{
	return persistent && strcmp(name, "spanset.fetch.crc") == 0;
}

void sim_sweep_report(void)
{
	struct sweep_report *report = sim.report;
	const char *names[FAULT_POINTS_MAX];
	if (report == NULL)
		return;
	report->fired = fault_fired_count();
	report->count = fault_list(names, report->counts, FAULT_POINTS_MAX);
	FM_ASSERT_LE(report->count, FAULT_POINTS_MAX);
	for (unsigned i = 0; i < report->count; i++)
		snprintf(report->names[i], FAULT_NAME_MAX, "%s", names[i]);
}

/* How often the workload passes the point, before it winds down, when nothing is armed. */
static uint64_t sweep_passed(const struct sweep *sweep, const char *name)
{
	for (unsigned i = 0; i < sweep->calm.count; i++)
		if (strcmp(sweep->calm.names[i], name) == 0)
			return sweep->calm.counts[i];
	return 0;
}

/* One run with one failure. False: it did not fire. */
static bool sweep_run(struct sweep *sweep, const char *text)
{
	sweep->report->fired = 0;
	sim.fault_text = text;
	sweep->runs++;
	if (!sim_run_child(sweep->scenario, sweep->seed)) {
		sweep->failed++;
		printf("FAIL sweep: %s seed %llu\n", text, (unsigned long long)sweep->seed);
		return true;
	}
	return sweep->report->fired > 0;
}

static void sweep_point(struct sweep *sweep, const char *name, bool persistent)
{
	uint64_t nth = 1, last = 1;
	char text[SWEEP_TEXT_BYTES];
	if (sweep_is_hopeless(name, persistent))
		return;
	for (unsigned i = 0; i < SWEEP_RUNS_MAX; i++) {
		snprintf(text, sizeof(text), "%s=%llu%s", name, (unsigned long long)nth,
			persistent ? "+" : "");
		if (!sweep_run(sweep, text))
			return;
		uint64_t next = sweep->full || nth < 2 ? nth + 1 : nth + last;
		last = nth;
		nth = next;
	}
}

/* Runs the workload without a failure; returns a point it does not pass, or NULL. */
static const char *sweep_try_seed(struct sweep *sweep)
{
	(void)sweep_run(sweep, "");
	sweep->calm = *sweep->report;
	for (unsigned i = 0; i < sweep->count; i++)
		if (sweep_is_ours(sweep->names[i]) && sweep_passed(sweep, sweep->names[i]) == 0)
			return sweep->names[i];
	return NULL;
}

/* False: no seed will do. */
static bool sweep_choose_seed(struct sweep *sweep)
{
	const char *missing = NULL;
	for (unsigned i = 0; i < SWEEP_SEEDS_MAX && sweep->failed == 0; i++, sweep->seed++)
		if ((missing = sweep_try_seed(sweep)) == NULL)
			return true;
	printf("FAIL sweep: the workload never passes %s\n", missing ? missing : "anything");
	return false;
}

int sim_sweep(const struct sim_scenario *scenario, uint64_t seed, bool full)
{
	static struct sweep sweep;
	sweep.scenario = scenario;
	sweep.full = full;
	sweep.seed = seed;
	sweep.count = fault_list_linked(sweep.names, FAULT_POINTS_MAX);
	FM_ASSERT_LE(sweep.count, FAULT_POINTS_MAX);
	sweep.report = mmap(NULL, sizeof(*sweep.report), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	FM_ASSERT(sweep.report != MAP_FAILED);
	sim.report = sweep.report;
	if (!sweep_choose_seed(&sweep))
		return 1;
	for (unsigned i = 0; i < sweep.count; i++) {
		uint64_t before = sweep.runs;
		if (!sweep_is_ours(sweep.names[i]))
			continue;
		sweep_point(&sweep, sweep.names[i], false);
		sweep_point(&sweep, sweep.names[i], true);
		printf("%-22s %6llu passages, %4llu runs\n", sweep.names[i],
			(unsigned long long)sweep_passed(&sweep, sweep.names[i]),
			(unsigned long long)(sweep.runs - before));
		fflush(stdout);
	}
	printf("sweep: seed %llu: %llu of %llu runs failed\n", (unsigned long long)sweep.seed,
		(unsigned long long)sweep.failed, (unsigned long long)sweep.runs);
	return sweep.failed > 0;
}
