/*
 * lb/sim/measure.c: see measure.h.
 */
#include <math.h>

#include "lb/sim/measure.h"

/* Hoare's selection: afterwards samples[rank] is where sorting would put it. */
static uint32_t select_rank(uint32_t *samples, size_t count, size_t rank)
{
	size_t low = 0, high = count - 1;

	while (low < high) {
		uint32_t pivot = samples[low + (high - low) / 2];
		size_t i = low, j = high;

		while (i <= j) {
			while (samples[i] < pivot)
				i++;
			while (samples[j] > pivot)
				j--;
			if (i <= j) {
				uint32_t swap = samples[i];

				samples[i++] = samples[j];
				samples[j] = swap;
				if (j == 0)
					break;
				j--;
			}
		}
		if (rank <= j)
			high = j;
		else if (rank >= i)
			low = i;
		else
			break;
	}
	return samples[rank];
}

uint32_t measure_quantile(uint32_t *samples, size_t count, double q)
{
	size_t rank;

	if (count == 0)
		return 0;
	rank = (size_t)fmax(ceil(q * (double)count) - 1, 0);
	return select_rank(samples, count, rank < count ? rank : count - 1);
}

/* Two-sided 95 %, by degrees of freedom 1.. */
static double student_t(unsigned freedom)
{
	static const double table[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
		2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086};

	return freedom <= sizeof(table) / sizeof(table[0]) ? table[freedom - 1]
							   : 1.96 + 2.6 / freedom;
}

struct measure_mean measure_mean(const double *values, unsigned count)
{
	struct measure_mean result = {.least = INFINITY, .most = -INFINITY};
	double squares = 0;

	for (unsigned i = 0; i < count; i++) {
		result.mean += values[i] / count;
		result.least = fmin(result.least, values[i]);
		result.most = fmax(result.most, values[i]);
	}
	for (unsigned i = 0; i < count; i++)
		squares += (values[i] - result.mean) * (values[i] - result.mean);
	if (count > 1)
		result.half = student_t(count - 1) * sqrt(squares / (count - 1) / count);
	return result;
}
