/*
 * bench/paper_graph.c: connected components, after Carbink's evaluation (OSDI'22, section 5), which
 * takes Friendster: 65 M vertices, 1.8 G edges. Here a generated graph with power laws in both
 * degrees and 16 worlds without an edge between them.
 *
 * Edges lie in one array, sorted by source (CSR), malloc'ed as every program would. Labels go both
 * ways over every edge until none changes: whole passes over the edges, random places in the
 * labels. Edges follow from a hash, so the result is checked against a union-find over the same
 * edges drawn again: as many components, the same label at both ends of each edge, and each label
 * the smallest vertex of its component.
 *
 * Phases: fill; "load": all of the passes; ops are edges looked at.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "bench/paper.h"

#define WORLDS 16
#define DEGREE_MIN 10 /* of the power law; its mean is about 27, as Friendster's */
#define DEGREE_EXPONENT 0.64
#define DEGREE_MAX 4096
#define BYTES_PER_VERTEX 120 /* with its edges, about */
#define CHUNK 4096           /* vertices a thread takes at a time */
#define ROUNDS_MAX 1000

struct graph_options {
	struct bench_options common;
	uint64_t size_bytes, threads, seed;
};

#define FLAG(flag, kind, field, rest...)                                                           \
	{                                                                                          \
		.name = flag, .type = kind, .offset = offsetof(struct graph_options, field),       \
		.flag_only = true, rest                                                            \
	}

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	FLAG("size", OPTION_SIZE, size_bytes, .min = 1u << 20, .max = 1ull << 38, .value = "256M",
		.argument = "SIZE", .help = "bytes of the graph, about"),
	FLAG("threads", OPTION_COUNT, threads, .min = 1, .max = PAPER_THREADS_MAX, .value = "8",
		.argument = "N", .help = "threads"),
	FLAG("seed", OPTION_COUNT, seed, .value = "1", .argument = "N", .help = "of the graph"),
};
static const struct bench_program program = {"paper_graph",
	"Connected components of a generated power-law graph.", specs, FM_ARRAY_COUNT(specs)};

static struct graph_options options;
static uint32_t vertices, world_size;
static uint64_t *offsets; /* vertices + 1 */
static uint32_t *edges;
static _Atomic uint32_t *labels;
static struct scatter scatter;
static _Atomic uint64_t next_chunk, changes, looked_at;

static double unit_of(uint64_t hash)
{
	return (double)((hash >> 11) + 1) * 0x1p-53;
}

static uint32_t degree_of(uint32_t vertex)
{
	double unit = unit_of(bench_mix(vertex ^ options.seed << 40));

	return (uint32_t)fmin(DEGREE_MIN * pow(unit, -DEGREE_EXPONENT), DEGREE_MAX);
}

/* Target of the nth edge of a vertex: few are popular, and they may be anywhere in its world. */
static uint32_t target_of(uint32_t vertex, uint32_t nth)
{
	double unit = unit_of(bench_mix(bench_mix(vertex + options.seed) + nth));
	uint64_t rank = (uint64_t)(unit * unit * sqrt(unit) * world_size) % world_size;

	return (uint32_t)(scatter_of(&scatter, rank) * WORLDS + vertex % WORLDS);
}

static void fill_edges(struct paper_worker *worker, uint64_t from, uint64_t to)
{
	(void)worker;
	for (uint64_t v = from; v < to; v++) {
		uint64_t at = offsets[v], degree = offsets[v + 1] - at;

		labels[v] = (uint32_t)v;
		for (uint32_t i = 0; i < degree; i++)
			edges[at + i] = target_of((uint32_t)v, i);
	}
}

/* Lowers a label to at most `to`; true: it was higher. */
static bool lower(_Atomic uint32_t *label, uint32_t to)
{
	uint32_t now = atomic_load_explicit(label, memory_order_relaxed);

	while (now > to)
		if (atomic_compare_exchange_weak_explicit(
			    label, &now, to, memory_order_relaxed, memory_order_relaxed))
			return true;
	return false;
}

/* Labels go both ways over the edges of [from, to). */
static uint64_t spread(uint64_t from, uint64_t to)
{
	uint64_t changed = 0;

	for (uint64_t v = from; v < to; v++)
		for (uint64_t i = offsets[v]; i < offsets[v + 1]; i++) {
			uint32_t here = atomic_load_explicit(&labels[v], memory_order_relaxed);
			uint32_t there =
				atomic_load_explicit(&labels[edges[i]], memory_order_relaxed);

			if (here < there)
				changed += lower(&labels[edges[i]], here);
			else if (there < here)
				changed += lower(&labels[v], there);
		}
	return changed;
}

static void pass(struct paper_worker *worker, uint64_t from, uint64_t to)
{
	uint64_t begin, changed = 0;

	(void)worker;
	(void)from;
	(void)to;
	while ((begin = atomic_fetch_add(&next_chunk, CHUNK)) < vertices) {
		uint64_t end = FM_MIN(begin + CHUNK, (uint64_t)vertices);

		changed += spread(begin, end);
		atomic_fetch_add(&looked_at, offsets[end] - offsets[begin]);
	}
	atomic_fetch_add(&changes, changed);
}

static int components(void)
{
	for (unsigned round = 0; round < ROUNDS_MAX; round++) {
		next_chunk = changes = 0;
		paper_parallel(vertices, pass);
		if (changes == 0)
			return 0;
	}
	return bench_fail("labels do not settle");
}

static uint32_t root_of(uint32_t *parents, uint32_t vertex)
{
	while (parents[vertex] != vertex) {
		parents[vertex] = parents[parents[vertex]];
		vertex = parents[vertex];
	}
	return vertex;
}

/* Against a union-find over the edges drawn anew; a smaller root wins, so roots are the labels. */
static int check(void)
{
	uint32_t *parents = malloc(vertices * sizeof(*parents));
	uint64_t wrong = 0;

	if (parents == NULL)
		return bench_fail("no memory");
	for (uint32_t v = 0; v < vertices; v++)
		parents[v] = v;
	for (uint32_t v = 0; v < vertices; v++)
		for (uint32_t i = 0, degree = degree_of(v); i < degree; i++) {
			uint32_t a = root_of(parents, v), b = root_of(parents, target_of(v, i));

			parents[FM_MAX(a, b)] = FM_MIN(a, b);
		}
	for (uint32_t v = 0; v < vertices; v++)
		wrong += labels[v] != root_of(parents, v);
	free(parents);
	paper_wrong(wrong);
	return 0;
}

static int setup(void)
{
	if (options.common.tiny)
		options.size_bytes = 8u << 20;
	vertices = (uint32_t)(options.size_bytes / BYTES_PER_VERTEX / WORLDS * WORLDS);
	world_size = vertices / WORLDS;
	scatter_init(&scatter, world_size, options.seed);
	offsets = malloc((vertices + 1ull) * sizeof(*offsets));
	labels = malloc(vertices * sizeof(*labels));
	if (offsets == NULL || labels == NULL)
		return bench_fail("no memory for %u vertices", vertices);
	offsets[0] = 0;
	for (uint32_t v = 0; v < vertices; v++)
		offsets[v + 1] = offsets[v] + degree_of(v);
	edges = malloc(offsets[vertices] * sizeof(*edges));
	if (edges == NULL)
		return bench_fail(
			"no memory for %llu edges", (unsigned long long)offsets[vertices]);
	return paper_begin(program.name, options.threads, options.seed, "");
}

int main(int argc, char **argv)
{
	int status = bench_parse(&program, &options, argc, argv, NULL);
	uint64_t start_ns;

	if (status >= 0)
		return status;
	status = setup();
	if (status != 0)
		return status;
	paper_parallel(vertices, fill_edges);
	paper_mark_begin("load");
	start_ns = clock_now_ns();
	status = components();
	if (status != 0)
		return status;
	paper_mark_end("load", looked_at, clock_now_ns() - start_ns);
	status = check();
	if (status != 0)
		return status;
	return paper_end();
}
