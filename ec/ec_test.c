/*
 * ec/ec_test.c: ec.c against its slow twin, byte by byte, in buffers whose ends are guarded.
 *
 * Every buffer lies in its own mapping between two PROT_NONE pages, so that a read or write one
 * byte past either end is a crash here and not a rare one in somebody's program. Half of the cases
 * put the piece against the page behind it, half at a random offset, with canaries around it.
 * FARMEM_TEST_SEED=N repeats a run.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/test.h"
#include "ec/ec.h"
#include "ec/ec_slow.h"

/*
 * A program may have functions of these names, as node has: in it, ISA-L's calls of its own ones
 * would come here. All tests of this file pass with nobody calling them.
 */
unsigned char gf_mul(unsigned char a, unsigned char b);
unsigned char gf_inv(unsigned char a);

unsigned char gf_mul(unsigned char a, unsigned char b)
{
	(void)a, (void)b;
	abort();
}

unsigned char gf_inv(unsigned char a)
{
	(void)a;
	abort();
}

#define ARENA_BYTES (5 * FM_PAGE_SIZE) /* room for one piece */
#define LENGTH_MAX (4 * FM_PAGE_SIZE)  /* longest piece of these tests */
#define CANARY_BYTES 64
#define CANARY 0x5a

/* Pieces: the ones under test, the twin's, and what they were at first. */
struct pieces {
	uint8_t *at[EC_N_MAX];
};
enum { SET_WORK, SET_TWIN, SET_TRUE, SET_COUNT };
static uint8_t *arenas[SET_COUNT][EC_N_MAX];
static uint64_t seed;

static uint64_t random_next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static unsigned random_below(unsigned n)
{
	return (unsigned)(random_next() % n);
}

static void random_fill(uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)(random_next() >> 32);
}

static uint8_t *arena_map(void)
{
	uint8_t *all = mmap(NULL, ARENA_BYTES + 2 * FM_PAGE_SIZE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED ||
		mprotect(all + FM_PAGE_SIZE, ARENA_BYTES, PROT_READ | PROT_WRITE)) {
		perror("mmap");
		exit(1);
	}
	return all + FM_PAGE_SIZE;
}

static void arenas_init(void)
{
	if (arenas[0][0] != NULL)
		return;
	const char *text = getenv("FARMEM_TEST_SEED");
	seed = text != NULL ? strtoull(text, NULL, 0) : 0x9e3779b97f4a7c15ull;
	seed += seed == 0;
	for (unsigned set = 0; set < SET_COUNT; set++)
		for (unsigned i = 0; i < EC_N_MAX; i++)
			arenas[set][i] = arena_map();
}

/* A piece of `length` bytes: against the guard page behind it, or anywhere with canaries on both
 * sides. */
static uint8_t *piece_place(uint8_t *arena, size_t length)
{
	uint8_t *piece = arena + ARENA_BYTES - length;

	if (random_next() & 1)
		piece = arena + CANARY_BYTES + random_below(CANARY_BYTES);
	memset(piece - CANARY_BYTES, CANARY, CANARY_BYTES + length);
	if (piece + length < arena + ARENA_BYTES)
		memset(piece + length, CANARY, CANARY_BYTES);
	return piece;
}

static struct pieces pieces_place(unsigned set, size_t length)
{
	struct pieces p;

	arenas_init();
	for (unsigned i = 0; i < EC_N_MAX; i++)
		p.at[i] = piece_place(arenas[set][i], length);
	return p;
}

static bool canaries_intact(const uint8_t *bytes)
{
	for (size_t i = 0; i < CANARY_BYTES; i++)
		if (bytes[i] != CANARY)
			return false;
	return true;
}

/* Nothing but the pieces themselves was written. */
static bool pieces_kept_within(unsigned set, const struct pieces *p, size_t length)
{
	for (unsigned i = 0; i < EC_N_MAX; i++) {
		const uint8_t *end = p->at[i] + length;

		if (!canaries_intact(p->at[i] - CANARY_BYTES))
			return false;
		if (end < arenas[set][i] + ARENA_BYTES && !canaries_intact(end))
			return false;
	}
	return true;
}

static bool pieces_equal(
	const struct pieces *a, const struct pieces *b, unsigned count, size_t length)
{
	for (unsigned i = 0; i < count; i++)
		if (memcmp(a->at[i], b->at[i], length) != 0)
			return false;
	return true;
}

static void pieces_copy(
	const struct pieces *from, const struct pieces *to, unsigned count, size_t length)
{
	for (unsigned i = 0; i < count; i++)
		memcpy(to->at[i], from->at[i], length);
}

/* Lengths at which vector code changes its mind, and any others. */
static size_t random_length(void)
{
	static const unsigned edges[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 127, 128,
		129, 191, 255, 256, 4095, 4096, 4097};

	switch (random_below(3)) {
	case 0:
		return edges[random_below(FM_ARRAY_COUNT(edges))];
	case 1:
		return 1 + random_below(300);
	default:
		return 1 + random_below(1500);
	}
}

/* Random data with parity by the twin in SET_TRUE; returns the pieces. */
static struct pieces true_pieces(unsigned k, unsigned m, size_t length)
{
	struct pieces p = pieces_place(SET_TRUE, length);
	struct ec_slow_shape shape = {k, m, length};

	for (unsigned i = 0; i < k; i++)
		random_fill(p.at[i], length);
	ec_slow_encode(&shape, p.at);
	return p;
}

static void encode(const struct ec_code *code, size_t length, const struct pieces *p)
{
	ec_encode(code, length, (const uint8_t *const *)p->at, p->at + code->k);
}

TEST(code_init_refuses_shapes_outside_its_bounds)
{
	struct ec_code code;

	CHECK_EQ(ec_code_init(&code, 0, 2), -EINVAL);
	CHECK_EQ(ec_code_init(&code, 17, 2), -EINVAL);
	CHECK_EQ(ec_code_init(&code, 4, 5), -EINVAL);
	CHECK_EQ(ec_code_init(&code, 16, 4), 0);
	CHECK_EQ(ec_code_init(&code, 1, 0), 0);
}

TEST(the_twin_field_is_a_field)
{
	CHECK_EQ(ec_slow_multiply(0x80, 2), 0x1d); /* x^8 = x^4 + x^3 + x^2 + 1 */
	for (unsigned a = 1; a < 256; a++) {
		unsigned inverses = 0;

		for (unsigned b = 1; b < 256; b++) {
			inverses += ec_slow_multiply((uint8_t)a, (uint8_t)b) == 1;
			CHECK_EQ(ec_slow_multiply((uint8_t)a, (uint8_t)b),
				ec_slow_multiply((uint8_t)b, (uint8_t)a));
		}
		CHECK_EQ(inverses, 1);
	}
}

TEST(the_matrix_is_the_twins_for_every_shape)
{
	for (unsigned k = 1; k <= EC_K_MAX; k++)
		for (unsigned m = 0; m <= EC_M_MAX; m++) {
			struct ec_code code;

			CHECK_EQ(ec_code_init(&code, k, m), 0);
			for (unsigned row = 0; row < k + m; row++)
				for (unsigned column = 0; column < k; column++)
					CHECK_EQ(code.matrix[row * k + column],
						ec_slow_coefficient(k, row, column));
		}
}

TEST(encode_equals_the_twin_for_every_shape_at_any_length_and_alignment)
{
	for (unsigned k = 1; k <= EC_K_MAX; k++)
		for (unsigned m = 0; m <= EC_M_MAX; m++)
			for (unsigned round = 0; round < 6; round++) {
				struct ec_code code;
				size_t length = random_length();
				struct pieces truth = true_pieces(k, m, length);
				struct pieces work = pieces_place(SET_WORK, length);

				CHECK_EQ(ec_code_init(&code, k, m), 0);
				pieces_copy(&truth, &work, k, length);
				encode(&code, length, &work);
				CHECK(pieces_equal(&work, &truth, k + m, length));
				CHECK(pieces_kept_within(SET_WORK, &work, length));
			}
}

/* Every length from 0 to 300 at 4+2, not only the ones a seed happens to draw. */
TEST(encode_equals_the_twin_at_every_short_length)
{
	struct ec_code code;

	CHECK_EQ(ec_code_init(&code, 4, 2), 0);
	for (size_t length = 0; length <= 300; length++) {
		struct pieces truth = true_pieces(4, 2, length);
		struct pieces work = pieces_place(SET_WORK, length);

		pieces_copy(&truth, &work, 4, length);
		encode(&code, length, &work);
		CHECK(pieces_equal(&work, &truth, 6, length));
		CHECK(pieces_kept_within(SET_WORK, &work, length));
	}
}

/* Destroys `lost`, rebuilds it from the rest, compares with what was there. */
static bool rebuild_restores(
	const struct ec_code *code, uint32_t lost, const struct pieces *truth, size_t length)
{
	struct pieces work = pieces_place(SET_WORK, length);
	const uint8_t *sources[EC_K_MAX];
	uint8_t *out[EC_N_MAX];
	struct ec_plan plan;
	unsigned n = (unsigned)code->k + code->m;
	uint32_t available = ((1u << n) - 1) & ~lost;

	for (unsigned i = 0; i < n; i++)
		if (available & (1u << i))
			memcpy(work.at[i], truth->at[i], length);
		else
			random_fill(work.at[i], length);
	if (ec_plan_init(&plan, code, available, lost) != 0 || plan.source_count != code->k ||
		plan.wanted_count != (unsigned)__builtin_popcount(lost))
		return false;
	for (unsigned i = 0; i < plan.source_count; i++) {
		if (lost & (1u << plan.sources[i]))
			return false;
		sources[i] = work.at[plan.sources[i]];
	}
	for (unsigned i = 0; i < plan.wanted_count; i++)
		out[i] = work.at[plan.wanted[i]];
	ec_rebuild(&plan, length, sources, out);
	return pieces_equal(&work, truth, n, length) && pieces_kept_within(SET_WORK, &work, length);
}

/* All of them, for all shapes: 3 * 10^4 patterns. Nothing is sampled but length and alignment. */
TEST(every_pattern_of_at_most_m_erasures_is_rebuilt_for_every_shape)
{
	unsigned patterns = 0;

	for (unsigned k = 1; k <= EC_K_MAX; k++)
		for (unsigned m = 1; m <= EC_M_MAX; m++) {
			size_t length = 1 + random_below(100);
			struct pieces truth = true_pieces(k, m, length);
			struct ec_code code;

			CHECK_EQ(ec_code_init(&code, k, m), 0);
			for (uint32_t lost = 1; lost < 1u << (k + m); lost++) {
				if ((unsigned)__builtin_popcount(lost) > m)
					continue;
				patterns++;
				CHECK(rebuild_restores(&code, lost, &truth, length));
			}
		}
	printf("  %u patterns\n", patterns);
	CHECK(patterns > 30000);
}

TEST(long_pieces_are_rebuilt_too)
{
	for (unsigned round = 0; round < 40; round++) {
		unsigned k = 1 + random_below(EC_K_MAX), m = 1 + random_below(EC_M_MAX);
		size_t length = 1 + random_below(LENGTH_MAX);
		struct pieces truth = true_pieces(k, m, length);
		struct ec_code code;
		uint32_t lost = 0;

		CHECK_EQ(ec_code_init(&code, k, m), 0);
		while ((unsigned)__builtin_popcount(lost) < m)
			lost |= 1u << random_below(k + m);
		CHECK(rebuild_restores(&code, lost, &truth, length));
	}
}

/* The twin decodes from the highest k, ec.c from the lowest k: different equations, same bytes. */
TEST(the_twin_rebuilds_the_same_bytes_from_other_sources)
{
	for (unsigned round = 0; round < 400; round++) {
		unsigned k = 1 + random_below(EC_K_MAX), m = 1 + random_below(EC_M_MAX);
		size_t length = 1 + random_below(80);
		struct pieces truth = true_pieces(k, m, length);
		struct pieces twin = pieces_place(SET_TWIN, length);
		struct ec_slow_shape shape = {k, m, length};
		struct ec_code code;
		uint32_t lost = 0, all = (1u << (k + m)) - 1;
		unsigned losses = 1 + random_below(m);

		while ((unsigned)__builtin_popcount(lost) < losses)
			lost |= 1u << random_below(k + m);
		for (unsigned i = 0; i < k + m; i++)
			if (!(lost & (1u << i)))
				memcpy(twin.at[i], truth.at[i], length);
		CHECK_EQ(ec_slow_rebuild(&shape, all & ~lost, twin.at), 0);
		CHECK(pieces_equal(&twin, &truth, k + m, length));
		CHECK_EQ(ec_code_init(&code, k, m), 0);
		CHECK(rebuild_restores(&code, lost, &truth, length));
	}
}

TEST(one_wrong_byte_in_a_source_gives_wrong_output)
{
	struct pieces truth = true_pieces(4, 2, 100), work = pieces_place(SET_WORK, 100);
	struct ec_code code;
	struct ec_plan plan;
	uint8_t out[100];
	uint8_t *outs[] = {out};
	const uint8_t *sources[4];

	CHECK_EQ(ec_code_init(&code, 4, 2), 0);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x3e, 0x01), 0);
	pieces_copy(&truth, &work, 6, 100);
	for (unsigned i = 0; i < 4; i++)
		sources[i] = work.at[plan.sources[i]];
	ec_rebuild(&plan, 100, sources, outs);
	CHECK(memcmp(out, truth.at[0], 100) == 0);
	work.at[plan.sources[2]][57] ^= 1;
	ec_rebuild(&plan, 100, sources, outs);
	CHECK(memcmp(out, truth.at[0], 57) == 0);
	CHECK(out[57] != truth.at[0][57]);
	CHECK(memcmp(out + 58, truth.at[0] + 58, 42) == 0);
}

TEST(a_plan_takes_the_lowest_available_and_may_want_what_is_there)
{
	struct pieces truth = true_pieces(4, 2, 200), work = pieces_place(SET_WORK, 200);
	struct ec_code code;
	struct ec_plan plan;
	const uint8_t *sources[4];

	CHECK_EQ(ec_code_init(&code, 4, 2), 0);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x3b, 0x3f),
		0); /* position 2 is gone, all six are wanted */
	CHECK_EQ(plan.sources[0], 0);
	CHECK_EQ(plan.sources[1], 1);
	CHECK_EQ(plan.sources[2], 3);
	CHECK_EQ(plan.sources[3], 4);
	for (unsigned i = 0; i < 4; i++)
		sources[i] = truth.at[plan.sources[i]];
	ec_rebuild(&plan, 200, sources, work.at);
	CHECK_EQ(plan.wanted_count, 6);
	CHECK(pieces_equal(&work, &truth, 6, 200));
}

TEST(a_plan_refuses_too_few_sources_and_positions_that_do_not_exist)
{
	struct ec_code code;
	struct ec_plan plan;

	CHECK_EQ(ec_code_init(&code, 4, 2), 0);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x07, 0x08), -ENODATA);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x00, 0x08), -ENODATA);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x0f, 0x00), -EINVAL);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x0f, 0x40), -EINVAL);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x4f, 0x10), -EINVAL);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x0f, 0x30), 0);
}

TEST(without_parity_encode_writes_nothing_and_a_loss_is_no_data)
{
	struct ec_code code;
	struct ec_plan plan;
	struct pieces work = pieces_place(SET_WORK, 0);

	CHECK_EQ(ec_code_init(&code, 3, 0), 0);
	ec_encode(&code, 64, (const uint8_t *const *)work.at, NULL);
	ec_update(&code, 64, 0, work.at[0], NULL);
	CHECK(pieces_kept_within(SET_WORK, &work, 0));
	CHECK_EQ(ec_plan_init(&plan, &code, 0x3, 0x4), -ENODATA);
	CHECK_EQ(ec_plan_init(&plan, &code, 0x7, 0x4), 0);
}

/* Overwrites one data piece of `work` (valid before) and brings its parity up to date by ec_update.
 */
static bool update_follows(
	const struct ec_code *code, unsigned position, const struct pieces *work, size_t length)
{
	struct ec_slow_shape shape = {code->k, code->m, length};
	struct pieces truth = pieces_place(SET_TRUE, length),
		      delta = pieces_place(SET_TWIN, length);

	random_fill(truth.at[position], length);
	ec_delta(length, work->at[position], truth.at[position], delta.at[0]);
	memcpy(work->at[position], truth.at[position], length);
	ec_update(code, length, position, delta.at[0], work->at + code->k);
	pieces_copy(work, &truth, code->k, length);
	ec_slow_encode(&shape, truth.at);
	return pieces_equal(work, &truth, (unsigned)code->k + code->m, length) &&
	       pieces_kept_within(SET_TWIN, &delta, length);
}

TEST(updates_by_delta_keep_parity_equal_to_a_fresh_encode)
{
	for (unsigned k = 1; k <= EC_K_MAX; k++)
		for (unsigned m = 0; m <= EC_M_MAX; m++) {
			size_t length = random_length();
			struct pieces work = pieces_place(SET_WORK, length);
			struct ec_code code;

			CHECK_EQ(ec_code_init(&code, k, m), 0);
			for (unsigned i = 0; i < k; i++)
				random_fill(work.at[i], length);
			encode(&code, length, &work);
			for (unsigned position = 0; position < k; position++)
				CHECK(update_follows(&code, position, &work, length));
			CHECK(pieces_kept_within(SET_WORK, &work, length));
		}
}

/* What a data node sends (a partial per parity), XORed together, is what ec_update does:
 * compaction's sum. */
TEST(partials_of_all_positions_sum_to_a_fresh_encode)
{
	for (unsigned k = 1; k <= EC_K_MAX; k++)
		for (unsigned m = 1; m <= EC_M_MAX; m++) {
			size_t length = random_length();
			struct pieces truth = true_pieces(k, m, length);
			struct pieces work = pieces_place(SET_WORK, length);
			struct ec_code code;

			CHECK_EQ(ec_code_init(&code, k, m), 0);
			for (unsigned i = 0; i < m; i++) {
				memset(work.at[0], 0, length);
				for (unsigned position = 0; position < k; position++) {
					ec_partial(&code, length, position, i, truth.at[position],
						work.at[1]);
					ec_delta(length, work.at[0], work.at[1], work.at[0]);
				}
				CHECK(memcmp(work.at[0], truth.at[k + i], length) == 0);
			}
			CHECK(pieces_kept_within(SET_WORK, &work, length));
		}
}

TEST(delta_is_xor_and_may_write_over_either_operand)
{
	for (unsigned round = 0; round < 300; round++) {
		size_t length = random_length();
		struct pieces work = pieces_place(SET_WORK, length);
		struct pieces twin = pieces_place(SET_TWIN, length);

		random_fill(work.at[0], length);
		random_fill(work.at[1], length);
		for (size_t i = 0; i < length; i++)
			twin.at[0][i] = work.at[0][i] ^ work.at[1][i];
		ec_delta(length, work.at[0], work.at[1], work.at[2]);
		CHECK(memcmp(work.at[2], twin.at[0], length) == 0);
		memcpy(work.at[2], work.at[0], length);
		ec_delta(length, work.at[2], work.at[1], work.at[2]);
		CHECK(memcmp(work.at[2], twin.at[0], length) == 0);
		ec_delta(length, work.at[0], work.at[1], work.at[1]);
		CHECK(memcmp(work.at[1], twin.at[0], length) == 0);
		CHECK(pieces_kept_within(SET_WORK, &work, length));
	}
}

TEST(with_one_data_piece_every_other_piece_is_a_copy)
{
	enum { LENGTH = 100 };
	uint8_t piece[LENGTH], copies[3][LENGTH], out[LENGTH];
	const uint8_t *data[1] = {piece};
	uint8_t *parity[3] = {copies[0], copies[1], copies[2]}, *rebuilt[1] = {out};
	struct ec_code code;
	struct ec_plan plan;

	for (unsigned i = 0; i < LENGTH; i++)
		piece[i] = (uint8_t)(i * 7 + 1);
	CHECK_EQ(ec_code_init(&code, 1, 3), 0);
	ec_encode(&code, LENGTH, data, parity);
	for (unsigned i = 0; i < 3; i++)
		CHECK(memcmp(copies[i], piece, LENGTH) == 0);
	CHECK_EQ(ec_plan_init(&plan, &code, 1u << 2, 1u), 0);
	data[0] = copies[1];
	ec_rebuild(&plan, LENGTH, data, rebuilt);
	CHECK(memcmp(out, piece, LENGTH) == 0);
}
