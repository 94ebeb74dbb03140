/*
 * base/ring.h: bounded queue of 64-bit values, many producers and many consumers, no locks, no
 * malloc.
 *
 * Sized once; memory comes from mem_map(). push fails when full, pop fails when empty: the caller
 * decides what to do (invariant 10: every queue has a bound with a name).
 */
#ifndef FM_BASE_RING_H
#define FM_BASE_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

struct ring_cell;
struct ring {
	struct ring_cell *cells;
	uint64_t mask;
	_Atomic uint64_t head FM_ALIGNED(FM_CACHE_LINE);
	_Atomic uint64_t tail FM_ALIGNED(FM_CACHE_LINE);
};

/* capacity: a power of two, >= 2. 0 or -ENOMEM. */
int ring_open(struct ring *r, uint64_t capacity) FM_MUST_USE;
void ring_close(struct ring *r);
bool ring_push(struct ring *r, uint64_t value);
bool ring_pop(struct ring *r, uint64_t *value);
/* A snapshot; exact only when nobody else is at work. */
uint64_t ring_count(const struct ring *r);

#endif
