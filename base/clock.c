/*
 * base/clock.c: CLOCK_MONOTONIC, or whatever the simulator put in its place.
 *
 * Called from everywhere, the fault path included: one predictable branch and the vDSO.
 */
#include "base/clock.h"

#include <sched.h>
#include <stddef.h>
#include <time.h>

#include "base/assert.h"

static const struct clock_source *clock_source_now; /* NULL: the machine's */

void clock_set_source(const struct clock_source *source)
{
	if (source != NULL)
		FM_ASSERT(source->now_ns != NULL && source->pause != NULL);
	clock_source_now = source;
}

static uint64_t clock_machine_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t clock_now_ns(void)
{
	if (fm_unlikely(clock_source_now != NULL))
		return clock_source_now->now_ns(clock_source_now->context);
	return clock_machine_now_ns();
}

void clock_pause(uint64_t until_ns)
{
	if (fm_unlikely(clock_source_now != NULL)) {
		clock_source_now->pause(clock_source_now->context, until_ns);
		return;
	}
	if (clock_machine_now_ns() < until_ns)
		sched_yield();
}

int64_t clock_shared_offset_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec - (int64_t)clock_now_ns();
}
