/*
 * lb/sim/measure.h: numbers out of samples: quantiles, means with confidence intervals.
 *
 * Used by sim.c for latencies, by the experiments (apps/lbsim_*) for what several seeds gave.
 */
#ifndef FM_LB_SIM_MEASURE_H
#define FM_LB_SIM_MEASURE_H

#include <stddef.h>
#include <stdint.h>

/* The value at quantile q of `count` samples, which are reordered; 0 when there are none. */
uint32_t measure_quantile(uint32_t *samples, size_t count, double q);

struct measure_mean {
	double mean;
	double half; /* of the 95 % confidence interval (Student's t); 0 with fewer than 2 values */
	double least, most;
};
struct measure_mean measure_mean(const double *values, unsigned count);

#endif
