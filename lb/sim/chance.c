/*
 * lb/sim/chance.c: see chance.h.
 */
#include <math.h>

#include "lb/sim/chance.h"

#define LOGNORMAL_SIGMA 1.5
#define PI 3.14159265358979323846

const char *const chance_service_names[] = {
	"constant", "exponential", "bimodal", "heavy", "lognormal", 0};

static uint64_t mix(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void chance_seed(struct chance *chance, uint64_t seed, uint64_t stream)
{
	uint64_t state = seed ^ (stream * 0xd1342543de82ef95ull);

	for (unsigned i = 0; i < 4; i++)
		chance->state[i] = mix(&state);
}

static inline uint64_t rotate(uint64_t x, int bits)
{
	return (x << bits) | (x >> (64 - bits));
}

uint64_t chance_bits(struct chance *chance)
{
	uint64_t *s = chance->state;
	uint64_t result = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

double chance_unit(struct chance *chance)
{
	return ((double)(chance_bits(chance) >> 11) + 1) * 0x1p-53;
}

uint32_t chance_below(struct chance *chance, uint32_t count)
{
	return (uint32_t)(((chance_bits(chance) >> 32) * count) >> 32);
}

double chance_exponential(struct chance *chance, double mean)
{
	return -mean * log(chance_unit(chance));
}

static double normal(struct chance *chance)
{
	double radius = sqrt(-2 * log(chance_unit(chance)));

	return radius * cos(2 * PI * chance_unit(chance));
}

static double two_values(struct chance *chance, double share_long, double factor, double mean)
{
	double brief = mean / (1 - share_long + share_long * factor);

	return chance_unit(chance) <= share_long ? brief * factor : brief;
}

double chance_of_service(struct chance *chance, enum chance_service service, double mean)
{
	switch (service) {
	case CHANCE_EXPONENTIAL:
		return chance_exponential(chance, mean);
	case CHANCE_BIMODAL:
		return two_values(chance, 0.1, 11, mean);
	case CHANCE_HEAVY:
		return two_values(chance, 0.005, 200, mean);
	case CHANCE_LOGNORMAL:
		return mean * exp(LOGNORMAL_SIGMA * normal(chance) -
				      LOGNORMAL_SIGMA * LOGNORMAL_SIGMA / 2);
	case CHANCE_CONSTANT:
	case CHANCE_SERVICES:
		break;
	}
	return mean;
}
