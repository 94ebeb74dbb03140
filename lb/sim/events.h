/*
 * lb/sim/events.h: what happens when: the queue of events of one simulation.
 *
 * A binary heap for events in any order, and beside it lanes for delays that are always the same
 * (the network, the patience of a caller): what enters a lane is due after all that is in it, so a
 * ring will do. Most events of a simulation travel by lane, which makes it several times faster.
 * What is due before the last of its lane goes to the heap instead.
 *
 * Invariants:
 * 1. events_next gives events in the order of their time; those of one time in the order in which
 *    they were added. So a run depends on its seed only.
 * 2. An event is never added before the one given last.
 */
#ifndef FM_LB_SIM_EVENTS_H
#define FM_LB_SIM_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

#define EVENTS_LANES 4
#define EVENTS_MAX (1u << 27) /* of one lane or the heap: 4 GiB */

struct event {
	uint64_t at_ns;
	uint64_t order;
	uint32_t kind, who, what, serial; /* the owner's */
};

struct events_lane {
	struct event *ring;
	uint32_t capacity, head, count; /* capacity: a power of two */
};

struct events {
	struct event *heap;
	uint32_t count, capacity;
	struct events_lane lanes[EVENTS_LANES];
	uint64_t order, now_ns;
	bool failed; /* out of memory: events were lost, the run is void */
};

int events_open(struct events *events) FM_MUST_USE;
void events_close(struct events *events);
void events_add(struct events *events, const struct event *event);
/* The same, faster where it is due no earlier than all that is in the lane. */
void events_add_lane(struct events *events, unsigned lane, const struct event *event);
/* False: none is left. */
bool events_next(struct events *events, struct event *event);

#endif
