/*
 * farmem/agent/compact_pace.h: how fast spansets are merged, so that the program keeps at least
 * 19 / 20 of its throughput. Pure: time and counts are handed in. Caller: agent_compact.c.
 *
 * As agent_throttle.c does it, measured and not modelled: what the program does in a slice of time
 * in which merges are begun, by what it does in one now and then in which none is under way. The
 * limit, in bytes of partial parities per second, follows that share. A program that asks for next
 * to nothing is in nobody's way.
 *
 *     RUN -> RUN -> ... -> ENDING (transactions in flight end) -> ALONE -> RUN ...
 */
#ifndef FM_FARMEM_AGENT_COMPACT_PACE_H
#define FM_FARMEM_AGENT_COMPACT_PACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

#define PACE_RUN_NS (200 * NS_PER_MS)
#define PACE_ALONE_NS (50 * NS_PER_MS)
#define PACE_ALONE_EVERY_NS (2 * NS_PER_S)
#define PACE_LIMIT_FIRST (32.0 * (1 << 20))
#define PACE_LIMIT_MIN (4.0 * (1 << 20))
#define PACE_LIMIT_PRESSED                                                                         \
	(128.0 * (1 << 20)) /* at least, while far memory is wanted badly: repack costs more */
#define PACE_LIMIT_MAX (4096.0 * (1 << 20))

enum pace_slice { PACE_RUN = 0, PACE_ENDING, PACE_ALONE };

struct compact_pace {
	enum pace_slice slice;
	bool known, busy;         /* busy: the program uses its far memory */
	uint64_t at_ns, until_ns; /* of the slice */
	uint64_t events, bytes;   /* the program's, ours, when it began */
	uint64_t alone_ns;
	double usual, share, limit;
	uint64_t next_ns; /* no transaction is begun before */
};

/* Regularly. events: what the program has asked of its far memory, ever; bytes: partials sent,
 * ever; running: transactions under way. */
void pace_look(
	struct compact_pace *pace, uint64_t now_ns, const uint64_t counts[2], unsigned running);
/* May a transaction begin now? */
bool pace_allows(const struct compact_pace *pace, uint64_t now_ns);
/* Bytes per second, at most. */
double pace_limit(const struct compact_pace *pace, bool pressed);
/* One of so many bytes has begun. */
void pace_spend(struct compact_pace *pace, uint64_t now_ns, uint64_t bytes, bool pressed);

#endif
