/*
 * lb/sim/events.c: see events.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "lb/sim/events.h"

#define CAPACITY_FIRST 1024u

int events_open(struct events *events)
{
	*events = (struct events){.capacity = CAPACITY_FIRST};
	events->heap = calloc(events->capacity, sizeof(*events->heap));
	for (unsigned i = 0; i < EVENTS_LANES; i++) {
		events->lanes[i].capacity = CAPACITY_FIRST;
		events->lanes[i].ring = calloc(CAPACITY_FIRST, sizeof(struct event));
		events->failed |= !events->lanes[i].ring;
	}
	if (!events->heap || events->failed) {
		events_close(events);
		return -ENOMEM;
	}
	return 0;
}

void events_close(struct events *events)
{
	free(events->heap);
	for (unsigned i = 0; i < EVENTS_LANES; i++)
		free(events->lanes[i].ring);
	*events = (struct events){0};
}

static inline bool sooner(const struct event *a, const struct event *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static bool heap_grow(struct events *events)
{
	struct event *heap;

	if (events->capacity >= EVENTS_MAX)
		return false;
	heap = realloc(events->heap, 2ull * events->capacity * sizeof(*heap));
	if (!heap)
		return false;
	events->heap = heap;
	events->capacity *= 2;
	return true;
}

void events_add(struct events *events, const struct event *event)
{
	struct event added = *event;
	uint32_t at;

	FM_ASSERT_LE(events->now_ns, event->at_ns);
	if (events->count == events->capacity && !heap_grow(events)) {
		events->failed = true;
		return;
	}
	added.order = events->order++;
	for (at = events->count++; at > 0; at = (at - 1) / 2) {
		if (!sooner(&added, &events->heap[(at - 1) / 2]))
			break;
		events->heap[at] = events->heap[(at - 1) / 2];
	}
	events->heap[at] = added;
}

static void heap_pop(struct events *events)
{
	struct event last = events->heap[--events->count];
	uint32_t at = 0, child;

	while ((child = 2 * at + 1) < events->count) {
		if (child + 1 < events->count &&
			sooner(&events->heap[child + 1], &events->heap[child]))
			child++;
		if (!sooner(&events->heap[child], &last))
			break;
		events->heap[at] = events->heap[child];
		at = child;
	}
	events->heap[at] = last;
}

static bool lane_grow(struct events_lane *lane)
{
	struct event *ring;

	if (lane->capacity >= EVENTS_MAX)
		return false;
	ring = malloc(2ull * lane->capacity * sizeof(*ring));
	if (!ring)
		return false;
	for (uint32_t i = 0; i < lane->count; i++)
		ring[i] = lane->ring[(lane->head + i) & (lane->capacity - 1)];
	free(lane->ring);
	lane->ring = ring;
	lane->capacity *= 2;
	lane->head = 0;
	return true;
}

void events_add_lane(struct events *events, unsigned lane_index, const struct event *event)
{
	struct events_lane *lane = &events->lanes[lane_index];
	uint32_t last = (lane->head + lane->count - 1) & (lane->capacity - 1);
	struct event *added;

	FM_ASSERT_LE(events->now_ns, event->at_ns);
	if (lane->count > 0 && lane->ring[last].at_ns > event->at_ns) {
		events_add(events, event);
		return;
	}
	if (lane->count == lane->capacity && !lane_grow(lane)) {
		events->failed = true;
		return;
	}
	added = &lane->ring[(lane->head + lane->count++) & (lane->capacity - 1)];
	*added = *event;
	added->order = events->order++;
}

bool events_next(struct events *events, struct event *event)
{
	const struct event *first = events->count > 0 ? &events->heap[0] : NULL;
	struct events_lane *from = NULL;

	for (unsigned i = 0; i < EVENTS_LANES; i++) {
		struct events_lane *lane = &events->lanes[i];

		if (lane->count == 0)
			continue;
		if (!first || sooner(&lane->ring[lane->head], first)) {
			first = &lane->ring[lane->head];
			from = lane;
		}
	}
	if (!first)
		return false;
	*event = *first;
	events->now_ns = event->at_ns;
	if (from) {
		from->head = (from->head + 1) & (from->capacity - 1);
		from->count--;
	} else {
		heap_pop(events);
	}
	return true;
}
