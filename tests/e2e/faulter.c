/*
 * tests/e2e/faulter.c: a program whose faults come from known lines: HOT four times as often as
 * COLD, each below a caller of its own. For `farmem record`.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define WORDS ((size_t)48 << 17) /* 48 MiB */
#define ROUNDS 25000

static uint64_t state = 88172645463325252ull;

static uint64_t draw(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

__attribute__((noinline)) static uint64_t hot(const uint64_t *words, unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++)
		sum += words[draw() % WORDS]; /* HOT */
	return sum;
}

__attribute__((noinline)) static uint64_t cold(const uint64_t *words, unsigned rounds)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < rounds; i++)
		sum ^= words[draw() % WORDS]; /* COLD */
	return sum;
}

__attribute__((noinline)) static uint64_t caller_of_hot(const uint64_t *words)
{
	return hot(words, 4 * ROUNDS) + 1;
}

int main(void)
{
	uint64_t *words = malloc(WORDS * sizeof(*words));
	uint64_t sum = 0;

	if (words == NULL)
		return 1;
	for (size_t i = 0; i < WORDS; i++)
		words[i] = i * 0x9e3779b97f4a7c15ull;
	for (unsigned round = 0; round < 2; round++)
		sum += caller_of_hot(words) + cold(words, ROUNDS);
	printf("%llu\n", (unsigned long long)sum);
	return 0;
}
