/*
 * lb/draw.h: random numbers for the policies: seeded, small, the same on every machine.
 *
 * Used by balancer.c, health.c and the policies. splitmix64: one addition and two multiplications
 * a number, any seed is a good one. Not for secrets: cookies of probes come from elsewhere.
 */
#ifndef FM_LB_DRAW_H
#define FM_LB_DRAW_H

#include <stdint.h>

struct draw {
	uint64_t state;
};

static inline uint64_t draw_next(struct draw *draw)
{
	uint64_t z = (draw->state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

/* 0..bound-1; bound > 0. Off by less than bound / 2^32: nothing here can tell. */
static inline uint32_t draw_below(struct draw *draw, uint32_t bound)
{
	return (uint32_t)(((draw_next(draw) >> 32) * bound) >> 32);
}

/* [0, 1) */
static inline double draw_unit(struct draw *draw)
{
	return (double)(draw_next(draw) >> 11) * 0x1p-53;
}

/* A whole number whose mean is `mean` (>= 0): its floor or one more. */
static inline unsigned draw_round(struct draw *draw, double mean)
{
	unsigned floor = (unsigned)mean;

	return floor + (draw_unit(draw) < mean - (double)floor ? 1 : 0);
}

#endif
