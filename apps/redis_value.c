/*
 * apps/redis_value.c: see redis_load.h. Making and judging values.
 */
#include <string.h>

#include "apps/redis_load.h"

const char *value_verdict_name(enum value_verdict verdict)
{
	static const char *const names[VALUE_VERDICTS] = {
		"right", "stale", "foreign", "zero", "garbled", "short", "missing"};

	return names[verdict];
}

/* splitmix64's output function: a bijection, so different counters never give the same word. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t stream_start(uint64_t seed, uint64_t key, uint32_t version)
{
	return mix(mix(mix(seed) + key) + version);
}

/* Word i of the stream; i = 0 and 1 are key and version themselves. */
static uint64_t stream_word(uint64_t start, uint64_t i)
{
	return mix(start + (i + 1) * 0x9e3779b97f4a7c15ull);
}

static uint64_t value_word(uint64_t start, uint64_t i, uint64_t key, uint32_t version)
{
	/* Key and version are stored plus one: a zeroed head is never a right one. */
	return i == 0 ? key + 1 : i == 1 ? (uint64_t)version + 1 : stream_word(start, i);
}

void value_fill(uint8_t *bytes, size_t length, uint64_t seed, uint64_t key, uint32_t version)
{
	uint64_t start = stream_start(seed, key, version);

	for (size_t at = 0; at < length; at += sizeof(uint64_t)) {
		uint64_t word = value_word(start, at / sizeof(word), key, version);

		memcpy(bytes + at, &word, FM_MIN(length - at, sizeof(word)));
	}
}

static bool value_equals(
	const uint8_t *bytes, size_t length, uint64_t seed, uint64_t key, uint32_t version)
{
	uint64_t start = stream_start(seed, key, version);

	for (size_t at = 0; at < length; at += sizeof(uint64_t)) {
		uint64_t word = value_word(start, at / sizeof(word), key, version);

		if (memcmp(bytes + at, &word, FM_MIN(length - at, sizeof(word))) != 0)
			return false;
	}
	return true;
}

static bool value_has_zero_word(const uint8_t *bytes, size_t length)
{
	static const uint8_t zeros[sizeof(uint64_t)];

	for (size_t at = 0; at + sizeof(zeros) <= length; at += sizeof(zeros))
		if (memcmp(bytes + at, zeros, sizeof(zeros)) == 0)
			return true;
	return false;
}

enum value_verdict value_check(
	const uint8_t *bytes, size_t length, uint64_t seed, uint64_t key, uint32_t version)
{
	uint64_t head[2];

	if (value_equals(bytes, length, seed, key, version))
		return VALUE_RIGHT;
	memcpy(head, bytes, sizeof(head));
	if (head[1] - 1 <= UINT32_MAX &&
		value_equals(bytes, length, seed, head[0] - 1, (uint32_t)(head[1] - 1)))
		return head[0] - 1 == key ? VALUE_STALE : VALUE_FOREIGN;
	return value_has_zero_word(bytes, length) ? VALUE_ZERO : VALUE_GARBLED;
}
