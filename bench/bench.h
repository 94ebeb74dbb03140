/*
 * bench/bench.h: what the benches share: flags, the machine's one line, results as text or JSON,
 * fine histograms.
 *
 * Used by the programs of this directory only. None of it touches malloc once a bench measures, so
 * that a bench may itself run in far memory: samples and tables lie in static storage or come from
 * base/mem.h.
 *
 * Output. Text: "name key=value ..." lines; with --json one object in one line:
 *     {"bench":"access","machine":{...},"size_bytes":...,"mean_ns":...}
 * Exit codes: 0 done, 1 wrong bytes or a failed call, 2 bad flags, 77 this machine cannot (with a
 * line "SKIP: ...").
 */
#ifndef FM_BENCH_BENCH_H
#define FM_BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/options.h"

#define BENCH_EXIT_WRONG 1
#define BENCH_EXIT_USAGE 2
#define BENCH_EXIT_SKIP 77

/* First member of every bench's options; BENCH_OPTIONS fills the specs for it. */
struct bench_options {
	bool json;
	bool tiny;
};

#define BENCH_OPTIONS                                                                              \
	{.name = "json",                                                                           \
		.type = OPTION_BOOL,                                                               \
		.offset = offsetof(struct bench_options, json),                                    \
		.help = "print one JSON object",                                                   \
		.flag_only = true},                                                                \
	{                                                                                          \
		.name = "tiny", .type = OPTION_BOOL,                                               \
		.offset = offsetof(struct bench_options, tiny),                                    \
		.help = "a second's run, to see that it works", .flag_only = true                  \
	}

struct bench_program {
	const char *name;
	const char *summary; /* for --help */
	const struct option_spec *specs;
	unsigned specs_count;
};

/*
 * Defaults, then flags, into the caller's struct. Returns -1 to go on, or the exit code at once
 * (--help: 0). *rest, when not NULL, receives the index of the first word that is no flag; when
 * NULL such words are an error.
 */
int bench_parse(const struct bench_program *program, void *into, int argc, char **argv,
	int *rest) FM_MUST_USE;

/* ---- results ---- */
struct bench_report {
	bool json;
	bool first;
};
void bench_report_open(struct bench_report *report, const char *name, bool json);
void bench_report_text(struct bench_report *report, const char *key, const char *value);
void bench_report_count(struct bench_report *report, const char *key, uint64_t value);
void bench_report_number(struct bench_report *report, const char *key, double value);
void bench_report_close(struct bench_report *report);

/* Prints "SKIP: reason" and returns BENCH_EXIT_SKIP. */
int bench_skip(const char *format, ...) FM_PRINTF(1, 2);
/* Prints "name: ..." to stderr and returns BENCH_EXIT_WRONG. */
int bench_fail(const char *format, ...) FM_PRINTF(1, 2);

/* ---- histogram: 64 buckets per power of two (error below 1.6 %), plain, one thread each ---- */
#define BENCH_HIST_SUB_BITS 6
#define BENCH_HIST_BUCKETS ((40 - BENCH_HIST_SUB_BITS + 1) << BENCH_HIST_SUB_BITS)

struct bench_hist {
	uint64_t count, sum, max;
	uint64_t buckets[BENCH_HIST_BUCKETS];
};

/* Values from 2^40 on (18 minutes in ns) count in the last bucket. */
static inline unsigned bench_hist_index(uint64_t value)
{
	if (value < 1u << BENCH_HIST_SUB_BITS)
		return (unsigned)value;
	unsigned shift = 63u - (unsigned)__builtin_clzll(value) - BENCH_HIST_SUB_BITS;
	unsigned index = (unsigned)((shift << BENCH_HIST_SUB_BITS) + (value >> shift));
	return FM_MIN(index, BENCH_HIST_BUCKETS - 1u);
}

static inline void bench_hist_record(struct bench_hist *h, uint64_t value)
{
	h->count++;
	h->sum += value;
	if (value > h->max)
		h->max = value;
	h->buckets[bench_hist_index(value)]++;
}
void bench_hist_merge(struct bench_hist *into, const struct bench_hist *from);
uint64_t bench_hist_quantile(const struct bench_hist *h, double q);
/* mean_ns, p50_ns, p99_ns, p99_9_ns, max_ns, with `prefix` before each key. */
void bench_report_hist(struct bench_report *report, const char *prefix, const struct bench_hist *h);

/* ---- odds and ends ---- */
/* A good mixer of 64 bits (splitmix64's); bench_random steps a state. */
static inline uint64_t bench_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline uint64_t bench_random(uint64_t *state)
{
	return bench_mix((*state)++);
}

/* 0..n-1, n > 0 */
static inline uint64_t bench_random_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)bench_random(state) * n) >> 64);
}

/* Binds the calling thread to the nth CPU it may use (modulo how many there are). */
void bench_pin(unsigned nth);
/* Sorts and returns the median. */
double bench_median(double *values, unsigned count);

#endif
