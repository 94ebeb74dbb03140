/*
 * lb/sim/search.h: other ways to find the best rate, to hold the tuner against.
 *
 * Both are off line: they may stop the world for an evaluation, which on a live system would be a
 * stretch of traffic at that rate. Used by the experiments only.
 */
#ifndef FM_LB_SIM_SEARCH_H
#define FM_LB_SIM_SEARCH_H

/* The cost (a tail latency) at a rate; noisy. */
typedef double (*search_cost)(void *context, double rate);

struct search_result {
	double rate;
	unsigned evaluations;
};

/* Golden section over log rate, until the bracket is narrower than a factor of 1.25. */
struct search_result search_golden(search_cost cost, void *context, double low, double high);
/*
 * Hill climbing: goes on by a factor (at first 2) while it gets better, turns and halves its
 * logarithm when it does not; until the factor is below 1.2 or `evaluations_max` are spent.
 */
struct search_result search_climb(
	search_cost cost, void *context, double start, unsigned evaluations_max);

#endif
