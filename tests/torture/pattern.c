/*
 * tests/torture/pattern.c: checksummed content. Called by all files of the torture program.
 *
 * A key is drawn anew for every write, so a byte is right only if it is the last one written there:
 * old versions, other blocks' bytes and zeros are all found. Content does not compress.
 */
#include <stdio.h>
#include <string.h>

#include "torture.h"

static inline uint64_t pattern_word(uint64_t key, uint64_t index)
{
	uint64_t x = key + index * 0x9e3779b97f4a7c15ull;

	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	return key ? x : 0;
}

static inline unsigned char pattern_byte(uint64_t key, size_t offset)
{
	return (unsigned char)(pattern_word(key, offset / 8) >> (offset % 8 * 8));
}

void pattern_fill(unsigned char *bytes, size_t lo, size_t hi, uint64_t key)
{
	size_t at = lo;

	for (; at < hi && at % 8; at++)
		bytes[at - lo] = pattern_byte(key, at);
	for (; at + 8 <= hi; at += 8) {
		uint64_t word = pattern_word(key, at / 8);

		memcpy(bytes + (at - lo), &word, 8);
	}
	for (; at < hi; at++)
		bytes[at - lo] = pattern_byte(key, at);
	count_up(written_bytes, hi - lo);
}

size_t pattern_stretch(const struct block *block, size_t lo, size_t hi, uint64_t *key)
{
	size_t end = hi;

	*key = block->key;
	for (unsigned i = 0; i < block->overlays_count; i++) {
		const struct overlay *overlay = &block->overlays[i];

		if (overlay->lo <= lo && lo < overlay->hi) {
			*key = overlay->key;
			end = overlay->hi < hi ? overlay->hi : hi;
		} else if (overlay->lo > lo && overlay->lo < end) {
			end = overlay->lo;
		}
	}
	return end;
}

/* Says all that can be said about the first wrong byte: what a developer needs to tell a lost page
 * from an old one, and a torn install (right when read again) from wrong bytes in place. */
static _Noreturn void pattern_mismatch(
	const struct block *block, const unsigned char *bytes, size_t lo, size_t at, size_t hi)
{
	unsigned char found = ((const volatile unsigned char *)bytes)[at - lo];
	const unsigned char *wrong = bytes + (at - lo);
	size_t page_end = at + (OS_PAGE - (uintptr_t)wrong % OS_PAGE);
	size_t wrong_count = 0, zero_count = 0, bad_end = at;
	uint64_t key;

	pattern_stretch(block, at, hi, &key);
	for (size_t i = at; i < page_end && i < hi; i++) {
		uint64_t key_here;

		pattern_stretch(block, i, hi, &key_here);
		zero_count += bytes[i - lo] == 0;
		if (bytes[i - lo] != pattern_byte(key_here, i)) {
			wrong_count++;
			bad_end = i + 1;
		}
	}
	torture_fail(
		"MISMATCH address %p (block %llx, %s, %zu bytes at %p, %s) offset %zu: expected "
		"0x%02x found 0x%02x; %zu bytes wrong up to offset %zu of this OS page, %zu zeros; "
		"read again: %s",
		(const void *)wrong, (unsigned long long)block->id,
		block->kind == BLOCK_MMAP ? "mmap" : "heap", block->size, (void *)block->memory,
		bytes == block->memory + lo ? "in place" : "copied by the kernel", at,
		pattern_byte(key, at), found, wrong_count, bad_end, zero_count,
		wrong_count ? "still wrong" : "right");
}

static bool pattern_check_stretch(
	const unsigned char *bytes, size_t lo, size_t hi, uint64_t key, uint64_t *sum)
{
	uint64_t folded = *sum;
	size_t at = lo;
	bool wrong = false;

	for (; at < hi && at % 8; at++) {
		wrong |= bytes[at - lo] != pattern_byte(key, at);
		folded = (folded ^ bytes[at - lo]) * 0x100000001b3ull;
	}
	for (; at + 8 <= hi; at += 8) {
		uint64_t word;

		memcpy(&word, bytes + (at - lo), 8);
		wrong |= word != pattern_word(key, at / 8);
		folded = (folded ^ word) * 0x100000001b3ull;
	}
	for (; at < hi; at++) {
		wrong |= bytes[at - lo] != pattern_byte(key, at);
		folded = (folded ^ bytes[at - lo]) * 0x100000001b3ull;
	}
	*sum = folded;
	return !wrong;
}

void pattern_check(
	const struct block *block, const unsigned char *bytes, size_t lo, size_t hi, uint64_t *sum)
{
	uint64_t own_sum = 0, *folded = sum ? sum : &own_sum;
	size_t at = lo;

	while (at < hi) {
		uint64_t key;
		size_t end = pattern_stretch(block, at, hi, &key);

		if (!pattern_check_stretch(bytes + (at - lo), at, end, key, folded)) {
			while (at < end - 1 && bytes[at - lo] == pattern_byte(key, at))
				at++;
			pattern_mismatch(block, bytes, lo, at, hi);
		}
		at = end;
	}
	count_up(checked_bytes, hi - lo);
}
