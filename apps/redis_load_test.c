/*
 * apps/redis_load_test.c: the load generator's judgement: a value that is not exactly right never
 * passes, and the reply parser takes any cut of the stream and any rubbish.
 */
#include "apps/redis_load.h"
#include "base/test.h"

#define SEED 42

TEST(a_value_is_right_for_its_own_seed_key_and_version_only)
{
	uint8_t value[1024];

	for (size_t length = VALUE_BYTES_MIN; length <= sizeof(value); length += 37) {
		value_fill(value, length, SEED, 7, 3);
		CHECK_EQ(value_check(value, length, SEED, 7, 3), VALUE_RIGHT);
		CHECK_EQ(value_check(value, length, SEED, 7, 4), VALUE_STALE);
		CHECK_EQ(value_check(value, length, SEED, 8, 3), VALUE_FOREIGN);
	}
	/* In the shortest value only key and version are there to tell by; a longer one has the
	 * seed in it. */
	value_fill(value, 64, SEED, 7, 3);
	CHECK_NE(value_check(value, 64, SEED + 1, 7, 3), VALUE_RIGHT);
}

TEST(every_single_flipped_bit_is_seen)
{
	uint8_t value[256];

	value_fill(value, sizeof(value), SEED, 1, 1);
	for (unsigned bit = 0; bit < sizeof(value) * 8; bit++) {
		value[bit / 8] ^= (uint8_t)(1u << bit % 8);
		CHECK_NE(value_check(value, sizeof(value), SEED, 1, 1), VALUE_RIGHT);
		value[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	CHECK_EQ(value_check(value, sizeof(value), SEED, 1, 1), VALUE_RIGHT);
}

TEST(zeroed_bytes_are_told_as_zeros)
{
	uint8_t value[4096];

	value_fill(value, sizeof(value), SEED, 5, 2);
	memset(value + 1024, 0, 1024);
	CHECK_EQ(value_check(value, sizeof(value), SEED, 5, 2), VALUE_ZERO);
	memset(value, 0, sizeof(value));
	CHECK_EQ(value_check(value, sizeof(value), SEED, 0, 0), VALUE_ZERO);
}

TEST(half_old_half_new_is_garbled_not_right)
{
	uint8_t old[4096], new[4096];

	value_fill(old, sizeof(old), SEED, 9, 1);
	value_fill(new, sizeof(new), SEED, 9, 2);
	memcpy(new + 2048, old + 2048, 2048);
	CHECK_EQ(value_check(new, sizeof(new), SEED, 9, 2), VALUE_GARBLED);
}

TEST(no_eight_bytes_are_equal_in_two_versions_or_zero)
{
	uint64_t a[128], b[128];

	value_fill((uint8_t *)a, sizeof(a), SEED, 3, 1);
	value_fill((uint8_t *)b, sizeof(b), SEED, 3, 2);
	CHECK_EQ(a[0], b[0]); /* the key */
	for (unsigned i = 0; i < 128; i++) {
		CHECK_NE(a[i], 0);
		if (i > 0)
			CHECK_NE(a[i], b[i]);
	}
}

static const char stream[] = "+OK\r\n$5\r\nhello\r\n$-1\r\n-ERR no\r\n$0\r\n\r\n:12\r\n";

TEST(a_stream_cut_anywhere_gives_the_same_replies)
{
	static const enum reply_kind kinds[] = {
		REPLY_STATUS, REPLY_BULK, REPLY_NIL, REPLY_ERROR, REPLY_BULK, REPLY_STATUS};

	for (size_t cut = 0; cut < sizeof(stream) - 1; cut++) {
		size_t at = 0, have = cut;
		unsigned count = 0;
		struct reply reply;

		while (at < sizeof(stream) - 1) {
			reply_parse((const uint8_t *)stream + at, have - at, 100, &reply);
			CHECK(reply.kind != REPLY_BROKEN);
			if (reply.kind == REPLY_PARTIAL) {
				CHECK(have < sizeof(stream) - 1);
				have = sizeof(stream) - 1;
				continue;
			}
			CHECK_EQ(reply.kind, kinds[count++]);
			at += reply.consumed;
		}
		CHECK_EQ(count, FM_ARRAY_COUNT(kinds));
	}
}

TEST(a_bulk_reply_points_at_its_bytes)
{
	struct reply reply;

	reply_parse((const uint8_t *)"$5\r\nhello\r\n", 11, 100, &reply);
	CHECK_EQ(reply.kind, REPLY_BULK);
	CHECK_EQ(reply.length, 5);
	CHECK_EQ(memcmp(reply.text, "hello", 5), 0);
	CHECK_EQ(reply.consumed, 11);
}

TEST(what_is_no_reply_is_broken)
{
	static const char *const wrong[] = {"hello\r\n", "*1\r\n", "$-2\r\n", "$\r\n",
		"$9999999999\r\n", "$101\r\n", "$5\r\nhelloXX", "$1x\r\n", "+OK\n", "\r\n",
		"$ 5\r\nhello\r\n"};
	struct reply reply;

	for (unsigned i = 0; i < FM_ARRAY_COUNT(wrong); i++) {
		reply_parse((const uint8_t *)wrong[i], strlen(wrong[i]), 100, &reply);
		CHECK_EQ(reply.kind, REPLY_BROKEN);
	}
}

TEST(a_line_without_an_end_is_broken_once_it_is_too_long)
{
	static uint8_t text[4096];
	struct reply reply;

	memset(text, 'x', sizeof(text));
	text[0] = '+';
	reply_parse(text, 100, 100, &reply);
	CHECK_EQ(reply.kind, REPLY_PARTIAL);
	reply_parse(text, sizeof(text), 100, &reply);
	CHECK_EQ(reply.kind, REPLY_BROKEN);
}

TEST(random_bytes_never_make_the_parser_read_or_claim_beyond_them)
{
	static const char alphabet[] = "+-:$0123456789\r\nab";
	uint64_t seed = 11;

	for (unsigned round = 0; round < 200000; round++) {
		size_t length = test_random(&seed) % 40;
		uint8_t *bytes =
			malloc(length + 1); /* exactly so long that ASan sees a byte too far */
		struct reply reply;

		for (size_t i = 0; i < length; i++)
			bytes[i] = (uint8_t)alphabet[test_random(&seed) % (sizeof(alphabet) - 1)];
		reply_parse(bytes, length, 16, &reply);
		CHECK_LE(reply.consumed, length);
		if (reply.kind == REPLY_BULK)
			CHECK_LE(reply.length, 16);
		free(bytes);
	}
}
