/*
 * rpc/urpc_stamps.h: when did a packet arrive, on the monotonic clock? The kernel stamps it with
 * the wall clock, which somebody may set at any moment.
 *
 * Used by rpc/urpc_socket.c. Pure but for the measurement, which the caller supplies.
 *
 * Invariant: whatever the wall clock does, an arrival lies between the moment the socket was last
 * seen empty and now. A stamp that would lie outside says that the clock was stepped: its distance
 * from the monotonic clock is measured again, and what still lies outside is held to the bound.
 */
#ifndef FM_RPC_URPC_STAMPS_H
#define FM_RPC_URPC_STAMPS_H

#include <stdint.h>

#define URPC_STAMPS_PERIOD_NS 1000000u /* the distance is measured once in so long */

struct urpc_stamps {
	uint64_t (*measure_ns)(void); /* wall clock minus monotonic clock, modulo 2^64 */
	uint64_t empty_ns;            /* the socket was last seen empty */
	uint64_t wall_ahead_ns;       /* as measured */
	uint64_t looked_ns;           /* at this time */
};

static inline void urpc_stamps_look(struct urpc_stamps *stamps, uint64_t now_ns)
{
	stamps->wall_ahead_ns = stamps->measure_ns();
	stamps->looked_ns = now_ns;
}

/* Before a batch of packets received by now_ns. */
static inline void urpc_stamps_refresh(struct urpc_stamps *stamps, uint64_t now_ns)
{
	if (now_ns - stamps->looked_ns >= URPC_STAMPS_PERIOD_NS)
		urpc_stamps_look(stamps, now_ns);
}

static inline uint64_t urpc_stamps_arrival(
	struct urpc_stamps *stamps, uint64_t stamp_ns, uint64_t now_ns)
{
	uint64_t arrival_ns = stamp_ns - stamps->wall_ahead_ns;

	if (arrival_ns >= stamps->empty_ns && arrival_ns <= now_ns)
		return arrival_ns;
	urpc_stamps_look(stamps, now_ns);
	arrival_ns = stamp_ns - stamps->wall_ahead_ns;
	if ((int64_t)(arrival_ns - now_ns) > 0)
		return now_ns;
	return (int64_t)(arrival_ns - stamps->empty_ns) < 0 ? stamps->empty_ns : arrival_ns;
}

#endif
