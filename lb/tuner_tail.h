/*
 * lb/tuner_tail.h: the tail of the latencies of one sub-epoch as one smooth number.
 *
 * The 99th percentile of a few thousand samples is noise. The mean of log(latency) over the
 * quantiles from TAIL_FROM to TAIL_TO lies near its logarithm and is steadier; it ends below the
 * last half percent, because there the service times of the rare long requests live, which no
 * balancer can change. Used by tuner.c. Fixed size, no allocation.
 */
#ifndef FM_LB_TUNER_TAIL_H
#define FM_LB_TUNER_TAIL_H

#include <stdint.h>

#define TAIL_FROM 0.96
#define TAIL_TO 0.995
#define TAIL_SUB_BITS 5   /* buckets per power of two: 32 */
#define TAIL_LOW_BITS 7   /* below 128 ns all is one */
#define TAIL_HIGH_BITS 40 /* 18 minutes */
#define TAIL_BUCKETS ((TAIL_HIGH_BITS - TAIL_LOW_BITS) << TAIL_SUB_BITS)

struct tail {
	uint32_t count;
	uint32_t buckets[TAIL_BUCKETS];
};

void tail_reset(struct tail *tail);
void tail_record(struct tail *tail, uint64_t ns);
/* Mean of ln(ns) over those quantiles; 0 when empty. */
double tail_log_ns(const struct tail *tail);

#endif
