/*
 * lb/tuner_tail.c: see tuner_tail.h.
 */
#include "lb/tuner_tail.h"

#include <math.h>
#include <string.h>

#include "base/compiler.h"

void tail_reset(struct tail *tail)
{
	memset(tail, 0, sizeof(*tail));
}

void tail_record(struct tail *tail, uint64_t ns)
{
	unsigned bits, shift;
	uint64_t bounded = ns;

	if (bounded < 1ull << TAIL_LOW_BITS)
		bounded = 1ull << TAIL_LOW_BITS;
	if (bounded >= 1ull << TAIL_HIGH_BITS)
		bounded = (1ull << TAIL_HIGH_BITS) - 1;
	bits = 63 - (unsigned)__builtin_clzll(bounded);
	shift = bits - TAIL_SUB_BITS;
	tail->buckets[((bits - TAIL_LOW_BITS) << TAIL_SUB_BITS) +
		      ((bounded >> shift) & ((1u << TAIL_SUB_BITS) - 1))]++;
	tail->count++;
}

/* Where bucket `index` begins; index may be TAIL_BUCKETS. */
static double edge_ns(unsigned index)
{
	double fraction = (double)(index & ((1u << TAIL_SUB_BITS) - 1)) / (1u << TAIL_SUB_BITS);

	return ldexp(1 + fraction, (int)(index >> TAIL_SUB_BITS) + TAIL_LOW_BITS);
}

double tail_log_ns(const struct tail *tail)
{
	double from = TAIL_FROM * tail->count, to = TAIL_TO * tail->count;
	double below = 0, sum = 0;

	for (unsigned i = 0; i < TAIL_BUCKETS && below < to; i++) {
		double here = tail->buckets[i];
		double first = fmax(from, below), last = fmin(to, below + here);

		if (last > first) {
			/* samples lie evenly in their bucket */
			double middle = ((first + last) / 2 - below) / here;
			double low = edge_ns(i), high = edge_ns(i + 1);

			sum += (last - first) * log(low + (high - low) * middle);
		}
		below += here;
	}
	return to > from ? sum / (to - from) : 0;
}
