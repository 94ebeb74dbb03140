/*
 * bench/paper.h: what the workloads of bench/paper share: a zipfian choice, threads that do
 * operations in phases, open or closed loop, and the marks by which bench/paper_run knows which
 * phase a program is in.
 *
 * Used by paper_micro.c, paper_kv.c and paper_graph.c: ordinary programs with ordinary malloc, that
 * know nothing of farmem. What they measure with (histograms, locks) lies in static storage, which
 * stays near.
 *
 * Marks are lines on standard output:
 *     begin NAME
 *     end NAME ops=... ops_per_s=... p50_ns=... p99_ns=... p99_9_ns=... max_ns=...
 *
 * Open loop: operations become due at a fixed rate, evenly spaced with jitter, whether or not
 * earlier ones are done; any idle thread takes the next one; latency is from due to done. So a
 * stall delays everything behind it, and shows (no coordinated omission). Closed loop: each thread
 * begins the next when the last is done.
 */
#ifndef FM_BENCH_PAPER_H
#define FM_BENCH_PAPER_H

#include <pthread.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "bench/bench.h"

#define PAPER_THREADS_MAX 256
#define PAPER_LIST_MAX 16            /* entries of a list of rates or skews */
#define PAPER_LOCKS (1u << 16)       /* a power of two */
#define PAPER_WINDOW_NS 100000000ull /* of the time line */
#define PAPER_WARM_NS (60 * NS_PER_S)
#define PAPER_UNTIL_NS (600 * NS_PER_S)

/* ---- zipf: rank 0 is drawn most; P(rank r) ~ 1 / (r + 1)^skew, skew >= 0; any count ---- */
struct zipf {
	double skew, count;
	double h_first, h_last, shortcut;
};
void zipf_init(struct zipf *zipf, uint64_t count, double skew);
uint64_t zipf_draw(const struct zipf *zipf, uint64_t *random);

/* A bijection of 0..count-1 that puts neighbours far apart: the hot are not beside each other. */
struct scatter {
	uint64_t count, factor, offset;
};
void scatter_init(struct scatter *scatter, uint64_t count, uint64_t seed);
static inline uint64_t scatter_of(const struct scatter *scatter, uint64_t rank)
{
	return (uint64_t)(((unsigned __int128)rank * scatter->factor + scatter->offset) %
			  scatter->count);
}

/* ---- content: `words` words that follow from a seed; a word of elsewhere does not fit ---- */
void pattern_fill(uint64_t *words, uint64_t count, uint64_t seed);
/* How many words are wrong. */
uint64_t pattern_wrong(const uint64_t *words, uint64_t count, uint64_t seed);

/* ---- workers ---- */
struct paper_worker {
	pthread_t thread;
	unsigned index;
	uint64_t random;
	uint64_t ops, wrong; /* of this phase; ever */
	struct bench_hist hist;
};

struct paper_phase {
	const char *name;
	uint64_t duration_ns;
	double rate; /* operations per second over all threads; 0: closed loop */
	void (*operation)(struct paper_worker *worker);
	const char *until; /* NULL, or: goes on until this file is there, PAPER_UNTIL_NS at most */
};

/* Once, before any other. `csv`: path of a time line with a row per 100 ms of the phase that is
 * named "load", as farmem-redis-load writes it; empty: none. 0, or an exit code. */
int paper_begin(const char *name, uint64_t threads, uint64_t seed, const char *csv) FM_MUST_USE;
/* Runs the phase in all threads, prints its marks; returns how many operations it had. */
uint64_t paper_run_phase(const struct paper_phase *phase);
/* The phase again and again until it had that many operations and the file is there (empty: none is
 * waited for), PAPER_WARM_NS at most. */
void paper_warm(const struct paper_phase *phase, uint64_t operations, const char *until);
/* body(worker, from, to) in all threads, each with its share of 0..count-1. Returns ns. */
uint64_t paper_parallel(
	uint64_t count, void (*body)(struct paper_worker *worker, uint64_t from, uint64_t to));
/* The marks alone, for a phase that is no loop of operations; `ops` as the program likes. */
void paper_mark_begin(const char *phase);
void paper_mark_end(const char *phase, uint64_t ops, uint64_t took_ns);
/* Prints how it ended; returns the exit code: BENCH_EXIT_WRONG if any worker met a wrong byte. */
int paper_end(void) FM_MUST_USE;

/* Counts words that were wrong outside of a worker. */
void paper_wrong(uint64_t words);

/* One of PAPER_LOCKS locks; objects share them. Take several in ascending index. */
unsigned paper_lock_index(uint64_t object);
void paper_lock(unsigned index);
void paper_unlock(unsigned index);

/* "1000,2000.5" into values; returns how many, or -EINVAL. */
int paper_list(const char *text, double values[PAPER_LIST_MAX]) FM_MUST_USE;

#endif
