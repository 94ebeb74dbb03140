/*
 * base/clock.h: monotonic time in nanoseconds, and the seam through which the simulator supplies
 * its own.
 */
#ifndef FM_BASE_CLOCK_H
#define FM_BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull
#define CLOCK_NEVER_NS UINT64_MAX

struct clock_source {
	uint64_t (*now_ns)(void *context);
	/* Gives the CPU away until `until_ns` at the latest; a simulator advances its time here. */
	void (*pause)(void *context, uint64_t until_ns);
	void *context;
};

/* NULL: the machine's CLOCK_MONOTONIC again. Not thread-safe: set it before threads start. */
void clock_set_source(const struct clock_source *source);
uint64_t clock_now_ns(void);
/* What is to be added to clock_now_ns() for a clock that other machines share (CLOCK_REALTIME); it
 * changes when that clock is set. */
int64_t clock_shared_offset_ns(void);
/* Gives the CPU away for a moment (sched_yield-like), never past until_ns. For bounded polling
 * loops. */
void clock_pause(uint64_t until_ns);

#endif
