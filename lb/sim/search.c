/*
 * lb/sim/search.c: see search.h.
 */
#include <math.h>

#include "lb/sim/search.h"

#define GOLDEN 0.6180339887498949
#define BRACKET_NARROW 0.2231435513142098 /* ln 1.25 */
#define FACTOR_FIRST 0.6931471805599453   /* ln 2 */
#define FACTOR_LAST 0.1823215567939546    /* ln 1.2 */
#define RATE_MIN 0.02
#define RATE_MAX 16.0

struct search_result search_golden(
	search_cost cost, void *context, double low_rate, double high_rate)
{
	double low = log(low_rate), high = log(high_rate);
	double left = high - GOLDEN * (high - low), right = low + GOLDEN * (high - low);
	double at_left = cost(context, exp(left)), at_right = cost(context, exp(right));
	struct search_result result = {.evaluations = 2};

	while (high - low > BRACKET_NARROW) {
		if (at_left <= at_right) {
			high = right;
			right = left;
			at_right = at_left;
			left = high - GOLDEN * (high - low);
			at_left = cost(context, exp(left));
		} else {
			low = left;
			left = right;
			at_left = at_right;
			right = low + GOLDEN * (high - low);
			at_right = cost(context, exp(right));
		}
		result.evaluations++;
	}
	result.rate = exp((low + high) / 2);
	return result;
}

struct search_result search_climb(
	search_cost cost, void *context, double start, unsigned evaluations_max)
{
	double here = log(start), factor = FACTOR_FIRST, best = cost(context, start);
	struct search_result result = {.evaluations = 1};
	unsigned turns = 0;

	while (fabs(factor) > FACTOR_LAST && result.evaluations < evaluations_max) {
		double there = fmin(fmax(here + factor, log(RATE_MIN)), log(RATE_MAX));
		double found = cost(context, exp(there));

		result.evaluations++;
		if (found < best) {
			best = found;
			here = there;
			turns = 0;
			continue;
		}
		/* The other way with the same factor first; when both fail, with a smaller one. */
		factor = -factor;
		if (++turns == 2) {
			factor /= 2;
			turns = 0;
		}
	}
	result.rate = exp(here);
	return result;
}
