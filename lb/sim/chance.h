/*
 * lb/sim/chance.h: the simulator's chance: a seeded generator and what is drawn from it.
 *
 * Used by sim.c and its parts. Each use has a stream of its own, so that two policies run with one
 * seed see the same arrivals and the same service times (common random numbers).
 */
#ifndef FM_LB_SIM_CHANCE_H
#define FM_LB_SIM_CHANCE_H

#include <stdbool.h>
#include <stdint.h>

struct chance {
	uint64_t state[4]; /* xoshiro256++ (Blackman and Vigna 2019) */
};

/* What a request takes; every one has the mean that is asked for. */
enum chance_service {
	CHANCE_CONSTANT,
	CHANCE_EXPONENTIAL,
	CHANCE_BIMODAL,   /* 90 % 0.5 S, 10 % 5.5 S */
	CHANCE_HEAVY,     /* 99.5 % 0.5 S, 0.5 % 100 S: 200 times as long ("bimodal-2") */
	CHANCE_LOGNORMAL, /* sigma 1.5 */
	CHANCE_SERVICES,
};

void chance_seed(struct chance *chance, uint64_t seed, uint64_t stream);
uint64_t chance_bits(struct chance *chance);
/* In (0, 1]. */
double chance_unit(struct chance *chance);
/* 0..count-1; count at least 1. */
uint32_t chance_below(struct chance *chance, uint32_t count);
double chance_exponential(struct chance *chance, double mean);
double chance_of_service(struct chance *chance, enum chance_service service, double mean);

/* NULL-terminated, in the order of the enum. */
extern const char *const chance_service_names[];

#endif
