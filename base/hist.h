/*
 * base/hist.h: latency histogram with logarithmic buckets (8 per power of two, error <= 12.5 %).
 *
 * Plain data of fixed size: it may lie in shared memory. hist_record is wait-free and safe from any
 * thread. Values are 0..2^48-1, normally nanoseconds; larger ones count in the last bucket.
 */
#ifndef FM_BASE_HIST_H
#define FM_BASE_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 3
#define HIST_BUCKETS ((48 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	_Atomic uint64_t count;
	_Atomic uint64_t sum;
	_Atomic uint64_t max;
	_Atomic uint64_t buckets[HIST_BUCKETS];
};

void hist_record(struct hist *h, uint64_t value);
/* Value at quantile q (0..1): upper bound of its bucket, never above max. 0 when empty. */
uint64_t hist_quantile(const struct hist *h, double q);
double hist_mean(const struct hist *h);
void hist_merge(struct hist *into, const struct hist *from);
/* out = now - before, bucket by bucket: what happened in between (max is that of `now`). */
void hist_delta(struct hist *out, const struct hist *now, const struct hist *before);
void hist_reset(struct hist *h);

#endif
