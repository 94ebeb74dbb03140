/*
 * ec/ec_bench.c: GB/s of encode, rebuild and update beside memcpy of the same bytes, interleaved.
 *
 * Rates count DATA bytes (k * length per encode), so that "encode 4+2" and "memcpy" answer the same
 * question: how long do these spans take. Buffers rotate through a working set larger than the
 * caches' inner levels, as the evictor's staging ring does. The machine's own limit is the memcpy
 * column.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "ec/ec.h"

#define SETS 256    /* stripes the loops rotate through */
#define LENGTH 4096 /* bytes per piece: a span of class 0 */
#define ROUNDS_MAX 16

enum job { JOB_MEMCPY, JOB_ENCODE, JOB_REBUILD, JOB_UPDATE, JOB_COUNT };
static const char *const job_names[JOB_COUNT] = {"memcpy", "encode", "rebuild_1", "update_1"};

struct bench {
	struct ec_code code;
	struct ec_plan plan; /* position 0 from the k others */
	uint8_t *memory;     /* SETS * 2 * EC_N_MAX pieces */
	unsigned stripes, rounds;
	double ns[JOB_COUNT][ROUNDS_MAX];
};

static uint8_t *bench_piece(const struct bench *b, unsigned stripe, unsigned index)
{
	return b->memory + ((size_t)(stripe % SETS) * 2 * EC_N_MAX + index) * LENGTH;
}

static void bench_stripe(const struct bench *b, enum job job, unsigned stripe)
{
	const uint8_t *in[EC_N_MAX];
	uint8_t *out[EC_N_MAX];
	unsigned k = b->code.k;

	for (unsigned i = 0; i < EC_N_MAX; i++) {
		in[i] = bench_piece(b, stripe, i);
		out[i] = bench_piece(b, stripe, EC_N_MAX + i);
	}
	switch (job) {
	case JOB_MEMCPY:
		for (unsigned i = 0; i < k; i++)
			memcpy(out[i], in[i], LENGTH);
		break;
	case JOB_ENCODE:
		ec_encode(&b->code, LENGTH, in, out);
		break;
	case JOB_REBUILD:
		ec_rebuild(&b->plan, LENGTH, in + 1, out);
		break;
	default:
		ec_update(&b->code, LENGTH, 0, in[0], out);
		break;
	}
}

static void bench_round(struct bench *b, unsigned round)
{
	for (unsigned job = 0; job < JOB_COUNT; job++) {
		uint64_t start_ns = clock_now_ns();

		for (unsigned stripe = 0; stripe < b->stripes; stripe++)
			bench_stripe(b, (enum job)job, stripe);
		b->ns[job][round] = (double)(clock_now_ns() - start_ns) / b->stripes;
	}
}

static int double_compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double bench_median_ns(struct bench *b, unsigned job)
{
	qsort(b->ns[job], b->rounds, sizeof(double), double_compare);
	return b->ns[job][b->rounds / 2];
}

static void bench_print(struct bench *b, bool json)
{
	unsigned k = b->code.k, m = b->code.m;
	double copy_ns = bench_median_ns(b, JOB_MEMCPY);

	if (json)
		printf("{\"bench\":\"ec\",\"k\":%u,\"m\":%u,\"piece_bytes\":%u", k, m, LENGTH);
	else
		printf("%2u+%u ", k, m);
	for (unsigned job = 0; job < JOB_COUNT; job++) {
		double bytes =
			job == JOB_REBUILD || job == JOB_UPDATE ? LENGTH : (double)k * LENGTH;
		double ns = bench_median_ns(b, job);

		if (json)
			printf(",\"%s_gb_per_s\":%.2f,\"%s_stripe_ns\":%.0f", job_names[job],
				bytes / ns, job_names[job], ns);
		else
			printf(" %s %6.2f GB/s (%5.0f ns)", job_names[job], bytes / ns, ns);
	}
	if (json)
		printf(",\"encode_to_memcpy\":%.3f}\n", copy_ns / bench_median_ns(b, JOB_ENCODE));
	else
		printf("  encode/memcpy %.2f\n", copy_ns / bench_median_ns(b, JOB_ENCODE));
}

static int bench_shape(struct bench *b, unsigned k, unsigned m, bool json)
{
	if (ec_code_init(&b->code, k, m) != 0)
		return 2;
	if (ec_plan_init(&b->plan, &b->code, ((1u << (k + m)) - 1) & ~1u, 1) != 0)
		return 2;
	for (unsigned round = 0; round < b->rounds; round++)
		bench_round(b, round);
	bench_print(b, json);
	return 0;
}

static void print_machine(void)
{
	struct utsname name;

	uname(&name);
	printf("ec_bench: piece %u B, %u stripes in rotation, rates in data bytes; %ld CPUs, "
	       "kernel %s\n",
		LENGTH, SETS, sysconf(_SC_NPROCESSORS_ONLN), name.release);
}

int main(int argc, char **argv)
{
	static const unsigned shapes[][2] = {
		{4, 2}, {1, 2}, {2, 1}, {4, 1}, {8, 2}, {8, 3}, {10, 4}, {16, 4}};
	static struct bench b = {.stripes = 20000, .rounds = 9};
	size_t bytes = (size_t)SETS * 2 * EC_N_MAX * LENGTH;
	bool json = false;
	int status = 0;

	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--tiny") == 0) {
			b.stripes = 200;
			b.rounds = 3;
		} else if (strcmp(argv[i], "--json") == 0) {
			json = true;
		} else {
			fprintf(stderr, "usage: ec_bench [--tiny] [--json]\n"
					"GB/s of erasure coding beside memcpy, medians of "
					"interleaved rounds.\n");
			return strcmp(argv[i], "--help") == 0 ? 0 : 2;
		}
	}
	b.memory = mem_map(bytes);
	if (b.memory == NULL) {
		fprintf(stderr, "ec_bench: no memory for %zu bytes\n", bytes);
		return 1;
	}
	for (size_t i = 0; i < bytes; i++)
		b.memory[i] = (uint8_t)((i * 0x9e3779b97f4a7c15ull) >> 56);
	if (!json)
		print_machine();
	for (size_t i = 0; i < FM_ARRAY_COUNT(shapes) && status == 0; i++)
		status = bench_shape(&b, shapes[i][0], shapes[i][1], json);
	mem_unmap(b.memory, bytes);
	return status;
}
