/*
 * base/hist.c: the latency histogram.
 *
 * Values 0..7 have a bucket each. Above, a power of two is cut into 8 equal buckets: bucket (e-2)*8
 * + s holds
 * [(8+s) * 2^(e-3), (9+s) * 2^(e-3)), for values whose highest bit is e. All counters are relaxed:
 * a reader may see a value in `count` before it sees it in its bucket, and the quantiles allow for
 * that.
 */
#include "base/hist.h"

#include <stdatomic.h>

#include "base/assert.h"
#include "base/compiler.h"

#define HIST_SUBS (1u << HIST_SUB_BITS)
#define HIST_VALUE_MAX ((1ull << 48) - 1)

static uint64_t hist_load(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void hist_store(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_store_explicit(counter, value, memory_order_relaxed);
}

static void hist_add(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static unsigned hist_bucket(uint64_t value)
{
	unsigned exponent;

	if (value < HIST_SUBS)
		return (unsigned)value;
	if (value > HIST_VALUE_MAX)
		return HIST_BUCKETS - 1;
	exponent = 63u - (unsigned)__builtin_clzll(value);
	return ((exponent - HIST_SUB_BITS + 1) << HIST_SUB_BITS) +
	       (unsigned)((value >> (exponent - HIST_SUB_BITS)) & (HIST_SUBS - 1));
}

/* The largest value the bucket holds. */
static uint64_t hist_bucket_top(unsigned bucket)
{
	unsigned shift;

	if (bucket < HIST_SUBS)
		return bucket;
	shift = (bucket >> HIST_SUB_BITS) - 1;
	return ((uint64_t)(HIST_SUBS + (bucket & (HIST_SUBS - 1)) + 1) << shift) - 1;
}

/* Ends after a few rounds: each failure means that somebody stored a larger maximum. */
static void hist_raise_max(struct hist *h, uint64_t value)
{
	uint64_t max = hist_load(&h->max);

	while (value > max && !atomic_compare_exchange_weak_explicit(&h->max, &max, value,
				      memory_order_relaxed, memory_order_relaxed))
		continue;
}

void hist_record(struct hist *h, uint64_t value)
{
	hist_add(&h->buckets[hist_bucket(value)], 1);
	hist_add(&h->count, 1);
	hist_add(&h->sum, value);
	hist_raise_max(h, value);
}

uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t total = 0, seen = 0, rank, max = hist_load(&h->max);

	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		total += hist_load(&h->buckets[i]);
	if (total == 0)
		return 0;
	FM_ASSERT(q >= 0.0 && q <= 1.0);
	rank = (uint64_t)(q * (double)total);
	if (rank >= total)
		rank = total - 1;
	for (unsigned i = 0; i < HIST_BUCKETS - 1; i++) {
		seen += hist_load(&h->buckets[i]);
		if (seen > rank)
			return FM_MIN(hist_bucket_top(i), max);
	}
	return max; /* the last bucket also holds what is larger than all buckets */
}

double hist_mean(const struct hist *h)
{
	uint64_t count = hist_load(&h->count);

	return count == 0 ? 0.0 : (double)hist_load(&h->sum) / (double)count;
}

void hist_merge(struct hist *into, const struct hist *from)
{
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		hist_add(&into->buckets[i], hist_load(&from->buckets[i]));
	hist_add(&into->count, hist_load(&from->count));
	hist_add(&into->sum, hist_load(&from->sum));
	hist_raise_max(into, hist_load(&from->max));
}

void hist_delta(struct hist *out, const struct hist *now, const struct hist *before)
{
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		hist_store(&out->buckets[i],
			hist_load(&now->buckets[i]) - hist_load(&before->buckets[i]));
	hist_store(&out->count, hist_load(&now->count) - hist_load(&before->count));
	hist_store(&out->sum, hist_load(&now->sum) - hist_load(&before->sum));
	hist_store(&out->max, hist_load(&now->max));
}

void hist_reset(struct hist *h)
{
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		hist_store(&h->buckets[i], 0);
	hist_store(&h->count, 0);
	hist_store(&h->sum, 0);
	hist_store(&h->max, 0);
}
