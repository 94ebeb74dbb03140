/*
 * lb/tuner.h: finds on line how often to probe: gradient descent on tail latency over log f.
 *
 * f is the mean number of probes per RPC. Too few: stale samples and hot spots; too many: probing
 * costs what it saves. The curve p99(f) is a U whose minimum moves with load, dispersion and probe
 * cost (docs/load-balancing.md). Two-sided simultaneous perturbation (Kiefer-Wolfowitz / SPSA):
 * sub-epochs at f(1+c) and f/(1+c), in the order + - - + or - + + -, a step of decreasing gain in
 * log f against the difference, frozen while the difference is within its own noise, begun anew
 * when the load shifts. Used by balancer.c's policy "mew", one tuner per channel. Reads no clock.
 *
 * What one client's probes cost is paid by all who share the servers. A client that swings its own
 * f alone sees what fresh samples gain it, and hardly what they cost: all would probe too much. So
 * the sub-epochs and their order are a function of time: clients whose clocks agree (to a small
 * part of a sub-epoch) swing together, and each sees the cost of all. `clock_offset_ns` turns
 * now_ns into a clock that they share: CLOCK_REALTIME minus CLOCK_MONOTONIC.
 */
#ifndef FM_LB_TUNER_H
#define FM_LB_TUNER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"

struct tuner;

struct tuner_options {
	double rate_min, rate_max, rate_start; /* of f; defaults 0.02, 16, 1 */
	uint32_t epoch_rpcs;   /* finished RPCs per sub-epoch, at least; default 2000 */
	uint64_t epoch_ns_max; /* a sub-epoch ends then at the latest, if it has enough; 2 s */
	uint64_t seed;         /* of the order of the swings: the same for all who share servers */
	int64_t clock_offset_ns; /* added to now_ns; 0 where now_ns is shared already */
};

int tuner_open(const struct tuner_options *options, struct tuner **tuner) FM_MUST_USE;
void tuner_close(struct tuner *tuner);
/* f to use now (the perturbed one of the running sub-epoch). */
double tuner_rate(const struct tuner *tuner);
/* f without the perturbation. */
double tuner_center(const struct tuner *tuner);
/* One RPC finished. Timeouts count with the time they took. */
void tuner_note(struct tuner *tuner, uint64_t now_ns, uint64_t latency_ns);

struct tuner_stats {
	uint64_t epochs, steps, freezes, restarts;
	double rate;
	bool frozen;
};
void tuner_stats(const struct tuner *tuner, struct tuner_stats *stats);
/* The last epochs (a bounded ring) as CSV: seconds,rate,low_ns,high_ns,step,frozen,restart.
 * low_ns and high_ns: the tail at f/(1+c) and f(1+c). */
void tuner_trace(const struct tuner *tuner, FILE *out);

#endif
