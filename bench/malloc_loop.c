/*
 * bench/malloc_loop.c: figure 1's malloc and free microbenchmark: what a pair costs under the
 * allocator at hand.
 *
 * Each thread keeps `--live` blocks of 16..4096 bytes, small sizes more often than large ones, and
 * replaces a random one at each step; first and last byte of each block are written and checked
 * when it goes. A checked byte that is wrong ends the run with exit 1. The table of blocks is near
 * memory: the allocator alone is measured.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"

#define THREADS_MAX 64
#define ROUNDS 7

struct malloc_options {
	struct bench_options common;
	uint64_t pairs, live, threads;
};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "pairs",
		.type = OPTION_COUNT,
		.offset = offsetof(struct malloc_options, pairs),
		.min = 1,
		.value = "1000000",
		.argument = "N",
		.help = "pairs of malloc and free per round and thread",
		.flag_only = true},
	{.name = "live",
		.type = OPTION_COUNT,
		.offset = offsetof(struct malloc_options, live),
		.min = 1,
		.max = 1u << 26,
		.value = "20000",
		.argument = "N",
		.help = "blocks each thread keeps (10000 are about 6 MB)",
		.flag_only = true},
	{.name = "threads",
		.type = OPTION_COUNT,
		.offset = offsetof(struct malloc_options, threads),
		.min = 1,
		.max = THREADS_MAX,
		.value = "1",
		.argument = "N",
		.help = "threads, each with its own blocks",
		.flag_only = true},
};
static const struct bench_program program = {"malloc_loop",
	"ns per malloc and free of mixed sizes, 16 to 4096 bytes.", specs, FM_ARRAY_COUNT(specs)};

struct block {
	uint8_t *bytes;
	uint32_t size;
	uint8_t mark;
};

struct worker {
	pthread_t thread;
	struct block *blocks;
	uint64_t random, wrong;
};

static struct malloc_options options;
static struct worker workers[THREADS_MAX];

/* 16..4096, uniform in the exponent. */
static uint32_t random_size(uint64_t random)
{
	uint32_t top = 16u << (random & 7);

	return top + (uint32_t)((random >> 8) & (top - 1));
}

static void block_free(struct worker *w, struct block *b)
{
	if (b->bytes != NULL)
		w->wrong += b->bytes[0] != b->mark || b->bytes[b->size - 1] != b->mark;
	free(b->bytes);
}

static void block_replace(struct worker *w, struct block *b)
{
	uint64_t random = bench_random(&w->random);

	block_free(w, b);
	b->size = FM_MIN(random_size(random), 4096u);
	b->mark = (uint8_t)(random >> 40);
	b->bytes = malloc(b->size);
	if (b->bytes == NULL)
		exit(bench_fail("malloc(%u) gave nothing", b->size));
	b->bytes[0] = b->mark;
	b->bytes[b->size - 1] = b->mark;
}

static void *work(void *argument)
{
	struct worker *w = argument;

	for (uint64_t i = 0; i < options.pairs; i++)
		block_replace(w, &w->blocks[bench_random_below(&w->random, options.live)]);
	return NULL;
}

static double round_ns_per_pair(void)
{
	uint64_t start_ns = clock_now_ns();

	for (uint64_t i = 1; i < options.threads; i++)
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			exit(bench_fail("no thread"));
	work(&workers[0]);
	for (uint64_t i = 1; i < options.threads; i++)
		pthread_join(workers[i].thread, NULL);
	return (double)(clock_now_ns() - start_ns) / (double)options.pairs;
}

static int setup(void)
{
	for (uint64_t i = 0; i < options.threads; i++) {
		struct worker *w = &workers[i];

		w->random = bench_mix(i + 1) << 20;
		w->blocks = mem_map(options.live * sizeof(struct block));
		if (w->blocks == NULL)
			return bench_fail("no memory for the table");
		for (uint64_t j = 0; j < options.live; j++)
			block_replace(w, &w->blocks[j]);
	}
	return 0;
}

/* Frees all that is left; returns how many blocks held wrong bytes, over the whole run. */
static uint64_t finish(void)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < options.threads; i++) {
		for (uint64_t j = 0; j < options.live; j++)
			block_free(&workers[i], &workers[i].blocks[j]);
		wrong += workers[i].wrong;
	}
	return wrong;
}

int main(int argc, char **argv)
{
	double ns[ROUNDS];
	uint64_t wrong;
	struct bench_report report;
	int status = bench_parse(&program, &options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (options.common.tiny)
		options.pairs = 20000;
	status = setup();
	if (status != 0)
		return status;
	for (unsigned round = 0; round < ROUNDS; round++)
		ns[round] = round_ns_per_pair();
	wrong = finish();
	if (wrong != 0)
		return bench_fail("%llu blocks held wrong bytes", (unsigned long long)wrong);
	bench_report_open(&report, program.name, options.common.json);
	bench_report_count(&report, "pairs", options.pairs);
	bench_report_count(&report, "live", options.live);
	bench_report_count(&report, "threads", options.threads);
	bench_report_count(&report, "rounds", ROUNDS);
	bench_report_number(&report, "ns_per_pair", bench_median(ns, ROUNDS));
	bench_report_number(&report, "ns_per_pair_best", ns[0]); /* sorted now */
	bench_report_close(&report);
	return 0;
}
