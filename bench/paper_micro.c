/*
 * bench/paper_micro.c: the microbenchmark of Carbink's evaluation (OSDI'22, section 5): objects of
 * 1 KiB, each with a malloc of its own, read and written by many threads, zipfian.
 *
 * The paper does not print the share of writes; here it is --reads, half by default. The hot are
 * scattered over the heap: nothing in the order of allocation helps a pager. All 128 words of an
 * object are checked on every access, against a version kept in a table of its own, so that an old
 * copy is as wrong as a torn one.
 *
 * Phases: fill; warm; one per entry of --rates ("open-N": open loop, the entry operations per
 * second); "peak" (closed loop) when --skews is empty, else one closed loop per entry ("skew-X");
 * "check": everything is read.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/paper.h"

#define OBJECT_BYTES 1024
#define OBJECT_WORDS (OBJECT_BYTES / 8)

struct micro_options {
	struct bench_options common;
	uint64_t size_bytes, reads_percent, threads, seed, warm_ns, warm_turns, phase_ns,
		skew_percent;
	char rates[256], skews[256], csv[256], far[256];
	bool load;
};

#define FLAG(flag, kind, field, rest...)                                                           \
	{                                                                                          \
		.name = flag, .type = kind, .offset = offsetof(struct micro_options, field),       \
		.flag_only = true, rest                                                            \
	}

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	FLAG("size", OPTION_SIZE, size_bytes, .min = 1u << 16, .value = "256M", .argument = "SIZE",
		.help = "bytes of all objects"),
	FLAG("reads", OPTION_COUNT, reads_percent, .max = 100, .value = "50", .argument = "PERCENT",
		.help = "share of reads; the rest write the object anew"),
	FLAG("threads", OPTION_COUNT, threads, .min = 1, .max = PAPER_THREADS_MAX, .value = "8",
		.argument = "N", .help = "threads"),
	FLAG("seed", OPTION_COUNT, seed, .value = "1", .argument = "N", .help = "of all choices"),
	FLAG("warm", OPTION_DURATION, warm_ns, .value = "2s", .argument = "TIME",
		.help = "closed loop before anything is measured"),
	FLAG("warm-turns", OPTION_COUNT, warm_turns, .max = 100, .argument = "N",
		.help = "go on warming until there were N operations per object (a minute at "
			"most)"),
	FLAG("phase", OPTION_DURATION, phase_ns, .min = 1000000, .value = "2s", .argument = "TIME",
		.help = "length of each phase"),
	FLAG("skew", OPTION_COUNT, skew_percent, .max = 300, .value = "99", .argument = "N",
		.help = "100 times the exponent of the zipfian choice"),
	FLAG("rates", OPTION_STRING, rates, .size = 256, .argument = "N,N",
		.help = "operations per second of the open-loop phases"),
	FLAG("skews", OPTION_STRING, skews, .size = 256, .argument = "X,X",
		.help = "exponents of the closed-loop phases, instead of a peak phase"),
	FLAG("csv", OPTION_STRING, csv, .size = 256, .argument = "FILE",
		.help = "time line of the load phase (--load)"),
	FLAG("warm-until", OPTION_STRING, far, .size = 256, .argument = "FILE",
		.help = "go on warming until this file is there (a minute at most)"),
	FLAG("load", OPTION_BOOL, load, .help = "one closed-loop phase called load, nothing else"),
};
static const struct bench_program program = {"paper_micro",
	"The microbenchmark of Carbink's evaluation: 1 KiB objects, zipfian.", specs,
	FM_ARRAY_COUNT(specs)};

static struct micro_options options;
static uint64_t count;
static uint64_t **objects;
static uint32_t *versions; /* by object; under its lock */
static struct zipf zipf;
static struct scatter scatter;

static uint64_t seed_of(uint64_t object)
{
	return object << 24 ^ versions[object];
}

static void fill(struct paper_worker *worker, uint64_t from, uint64_t to)
{
	(void)worker;
	for (uint64_t i = from; i < to; i++) {
		objects[i] = malloc(OBJECT_BYTES);
		if (objects[i] == NULL)
			exit(bench_fail("no memory"));
		pattern_fill(objects[i], OBJECT_WORDS, seed_of(i));
	}
}

static void check(struct paper_worker *worker, uint64_t from, uint64_t to)
{
	for (uint64_t i = from; i < to; i++)
		worker->wrong += pattern_wrong(objects[i], OBJECT_WORDS, seed_of(i));
}

static void operation(struct paper_worker *worker)
{
	uint64_t object = scatter_of(&scatter, zipf_draw(&zipf, &worker->random));
	bool reads = bench_random_below(&worker->random, 100) < options.reads_percent;
	unsigned lock = paper_lock_index(object);

	paper_lock(lock);
	worker->wrong += pattern_wrong(objects[object], OBJECT_WORDS, seed_of(object));
	if (!reads) {
		versions[object]++;
		pattern_fill(objects[object], OBJECT_WORDS, seed_of(object));
	}
	paper_unlock(lock);
}

static void phases_open(const double *rates, int rates_count)
{
	char name[32];

	for (int i = 0; i < rates_count; i++) {
		struct paper_phase phase = {
			name, options.phase_ns, rates[i] > 0 ? rates[i] : 1, operation, NULL};

		snprintf(name, sizeof(name), "open-%d", i);
		paper_run_phase(&phase);
	}
}

static void phases_skewed(const double *skews, int skews_count)
{
	char name[32];

	for (int i = 0; i < skews_count; i++) {
		struct paper_phase settle = {"settle", options.warm_ns / 2, 0, operation, NULL};
		struct paper_phase phase = {name, options.phase_ns, 0, operation, NULL};

		zipf_init(&zipf, count, skews[i]);
		paper_run_phase(&settle);
		snprintf(name, sizeof(name), "skew-%.2f", skews[i]);
		paper_run_phase(&phase);
	}
}

static int setup(void)
{
	if (options.common.tiny) {
		options.size_bytes = 8u << 20;
		options.warm_ns = options.phase_ns = 100000000;
	}
	count = options.size_bytes / OBJECT_BYTES;
	objects = malloc(count * sizeof(*objects));
	versions = mem_map(count * sizeof(*versions));
	if (objects == NULL || versions == NULL)
		return bench_fail("no memory for %llu objects", (unsigned long long)count);
	zipf_init(&zipf, count, (double)options.skew_percent / 100);
	scatter_init(&scatter, count, options.seed);
	return paper_begin(program.name, options.threads, options.seed, options.csv);
}

int main(int argc, char **argv)
{
	int status = bench_parse(&program, &options, argc, argv, NULL);
	struct paper_phase last = {NULL, 0, 0, operation, NULL};
	double rates[PAPER_LIST_MAX], skews[PAPER_LIST_MAX];
	int rates_count = paper_list(options.rates, rates);
	int skews_count = paper_list(options.skews, skews);

	if (status >= 0)
		return status;
	if (rates_count < 0 || skews_count < 0) {
		fprintf(stderr, "%s: --rates and --skews are lists of numbers\n", program.name);
		return BENCH_EXIT_USAGE;
	}
	status = setup();
	if (status != 0)
		return status;
	paper_parallel(count, fill);
	last.name = "warm";
	last.duration_ns = options.warm_ns;
	paper_warm(&last, options.warm_turns * count, options.far);
	phases_open(rates, rates_count);
	phases_skewed(skews, skews_count);
	last.name = options.load ? "load" : "peak";
	last.duration_ns = options.phase_ns;
	if (options.load || skews_count == 0)
		paper_run_phase(&last);
	paper_parallel(count, check);
	return paper_end();
}
