/*
 * rpc/spin.h: is it worth spinning before sleeping? Learned from what came of it.
 *
 * Spinning saves a wake-up when the other side is at work on another CPU. When it shares ours, or
 * the network is slower than the spin, spinning only keeps everybody waiting. So: after
 * SPIN_FAILURES_MAX spins in vain, only one in SPIN_PROBE_PERIOD is tried until one succeeds.
 *
 * Used by fabric_wait (rpc/fabric.c) and the data server's loop (memnode/data_server.c). One
 * thread.
 */
#ifndef FM_RPC_SPIN_H
#define FM_RPC_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#define SPIN_FAILURES_MAX 4u
#define SPIN_PROBE_PERIOD 16u

struct spin {
	uint32_t failures_count; /* in a row */
	uint32_t skipped_count;
};

static inline bool spin_is_worth_it(struct spin *spin)
{
	if (spin->failures_count < SPIN_FAILURES_MAX)
		return true;
	if (++spin->skipped_count < SPIN_PROBE_PERIOD)
		return false;
	spin->skipped_count = 0;
	return true;
}

/* After each spin: did what was waited for come before its end? */
static inline void spin_note(struct spin *spin, bool success)
{
	if (success)
		spin->failures_count = 0;
	else if (spin->failures_count < SPIN_FAILURES_MAX)
		spin->failures_count++;
}

#endif
