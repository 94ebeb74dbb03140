/*
 * ec/ec.c: Reed-Solomon over GF(2^8) on ISA-L.
 *
 * Called by farmem/spanset.c (store, degraded fetch) and by whoever updates or rebuilds parity
 * later. Tests hold it against ec_slow.c byte by byte.
 *
 * What ISA-L needs, and what is done about it here:
 *   - the field is GF(2^8) modulo 0x11d; the matrix is the one of its gf_gen_cauchy1_matrix:
 * identity over 1/(row ^ column), every k rows of which are independent because rows and columns
 * are different field elements. Made and inverted here: ISA-L's own functions for that call gf_mul
 * and gf_inv by name, and in a program that has a gf_mul of its own (node, by OpenSSL) they would
 * get that one;
 *   - ec_encode_data and ec_encode_data_update take any length and alignment: they use plain code
 * below one vector and an overlapping last vector above it, and never touch a byte outside the
 * pieces (ec_test proves both with guard pages). gf_vect_mul would demand multiples of 32, so it is
 * not used;
 *   - lengths are int: EC_LENGTH_MAX;
 *   - the library picks SSE/AVX2/AVX-512/GFNI at run time, so that we are built for baseline
 * x86-64. The layout of an expanded table belongs to the chosen code path: tables are never indexed
 * into, always made by ec_init_tables from the coefficients they are for.
 *
 * Invariants
 *   1. A struct ec_code or ec_plan is never written after its init: any number of threads may share
 * it.
 *   2. All coefficients come from code->matrix; nothing else knows how it was made, but that with
 * k = 1 all are one (ec_copies).
 */
#include "ec/ec.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include <isa-l/erasure_code.h>

#include "base/assert.h"

#define EC_LENGTH_MAX INT_MAX
#define EC_TABLE_BYTES 32 /* ISA-L: at most, per coefficient */

/* Sixteen bytes with no alignment and no type of their own: what baseline x86-64 XORs at a time. */
typedef uint64_t ec_vector __attribute__((vector_size(16), aligned(1), may_alias));

static uint32_t ec_positions_mask(const struct ec_code *code)
{
	return (1u << (code->k + code->m)) - 1;
}

/* ISA-L's prototypes know no const. It writes neither to sources nor to the pointer arrays. */
static unsigned char **ec_no_const(const uint8_t *const pieces[])
{
	return (unsigned char **)(uintptr_t)pieces;
}

static unsigned char **ec_outputs(uint8_t *const pieces[])
{
	return (unsigned char **)(uintptr_t)pieces;
}

/* ---- the field: for small matrices only ---- */

static uint8_t ec_multiply(uint8_t a, uint8_t b)
{
	unsigned product = 0, shifted = a;

	for (unsigned bit = 0; bit < 8; bit++) {
		product ^= shifted & (0u - ((unsigned)b >> bit & 1u));
		shifted = shifted << 1 ^ (0x11du & (0u - (shifted >> 7 & 1u)));
	}
	return (uint8_t)product;
}

/* a to the 254th: 255 is the order of the multiplicative group. */
static uint8_t ec_reciprocal(uint8_t a)
{
	uint8_t power = a, result = 1;

	for (unsigned bit = 1; bit < 8; bit++) {
		power = ec_multiply(power, power);
		result = ec_multiply(result, power);
	}
	return result;
}

static void ec_make_matrix(uint8_t *matrix, unsigned k, unsigned m)
{
	memset(matrix, 0, (size_t)(k + m) * k);
	for (unsigned i = 0; i < k; i++)
		matrix[i * k + i] = 1;
	for (unsigned row = k; row < k + m; row++)
		for (unsigned column = 0; column < k; column++)
			matrix[row * k + column] =
				k == 1 ? 1 : ec_reciprocal((uint8_t)(row ^ column));
}

/* k = 1: every piece is the one piece. */
static void ec_copies(size_t length, const uint8_t *piece, uint8_t *const copies[], unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		memcpy(copies[i], piece, length);
}

static void ec_swap_rows(uint8_t *a, uint8_t *b, unsigned k)
{
	uint8_t kept[EC_K_MAX];

	memcpy(kept, a, k);
	memcpy(a, b, k);
	memcpy(b, kept, k);
}

/* row += factor * other; with other NULL: row *= factor. */
static void ec_add_row(uint8_t *row, const uint8_t *other, uint8_t factor, unsigned k)
{
	for (unsigned j = 0; j < k; j++)
		row[j] = other != NULL ? (uint8_t)(row[j] ^ ec_multiply(factor, other[j]))
				       : ec_multiply(factor, row[j]);
}

/* Gauss and Jordan; `square` is used up. 0, or 1: singular. */
static int ec_invert(uint8_t *square, uint8_t *inverse, unsigned k)
{
	memset(inverse, 0, (size_t)k * k);
	for (unsigned i = 0; i < k; i++)
		inverse[i * k + i] = 1;
	for (unsigned i = 0; i < k; i++) {
		unsigned pivot = i;

		while (pivot < k && square[pivot * k + i] == 0)
			pivot++;
		if (pivot == k)
			return 1;
		if (pivot != i) {
			ec_swap_rows(square + i * k, square + pivot * k, k);
			ec_swap_rows(inverse + i * k, inverse + pivot * k, k);
		}
		uint8_t scale = ec_reciprocal(square[i * k + i]);

		ec_add_row(square + i * k, NULL, scale, k);
		ec_add_row(inverse + i * k, NULL, scale, k);
		for (unsigned r = 0; r < k; r++) {
			uint8_t factor = square[r * k + i];

			if (r == i || factor == 0)
				continue;
			ec_add_row(square + r * k, square + i * k, factor, k);
			ec_add_row(inverse + r * k, inverse + i * k, factor, k);
		}
	}
	return 0;
}

int ec_code_init(struct ec_code *code, unsigned k, unsigned m)
{
	if (k < 1 || k > EC_K_MAX || m > EC_M_MAX)
		return -EINVAL;
	memset(code, 0, sizeof(*code));
	code->k = (uint8_t)k;
	code->m = (uint8_t)m;
	ec_make_matrix(code->matrix, k, m);
	if (m > 0)
		ec_init_tables((int)k, (int)m, code->matrix + k * k, code->encode_tables);
	return 0;
}

void ec_encode(const struct ec_code *code, size_t length, const uint8_t *const data[],
	uint8_t *const parity[])
{
	FM_ASSERT_LE(length, EC_LENGTH_MAX);
	if (code->m == 0 || length == 0)
		return;
	if (code->k == 1) {
		ec_copies(length, data[0], parity, code->m);
		return;
	}
	ec_encode_data((int)length, code->k, code->m,
		(unsigned char *)(uintptr_t)code->encode_tables, ec_no_const(data),
		ec_outputs(parity));
}

/* The lowest k of `available`, and the square matrix of their rows. */
static void ec_plan_choose(
	struct ec_plan *plan, const struct ec_code *code, uint32_t available, uint8_t *square)
{
	unsigned k = code->k;

	for (unsigned i = 0; i < k; i++) {
		unsigned position = (unsigned)__builtin_ctz(available);

		available &= available - 1;
		plan->sources[i] = (uint8_t)position;
		memcpy(square + i * k, code->matrix + position * k, k);
	}
	plan->source_count = (uint8_t)k;
}

/* row[j]: how much of source j is in `position`: that position's matrix row times the inverse. */
static void ec_plan_row(
	const struct ec_code *code, unsigned position, const uint8_t *inverse, uint8_t *row)
{
	unsigned k = code->k;
	const uint8_t *coefficients = code->matrix + position * k;

	memset(row, 0, k);
	for (unsigned i = 0; i < k; i++) {
		if (coefficients[i] == 0)
			continue;
		for (unsigned j = 0; j < k; j++)
			row[j] = (uint8_t)(row[j] ^
					   ec_multiply(coefficients[i], inverse[i * k + j]));
	}
}

int ec_plan_init(
	struct ec_plan *plan, const struct ec_code *code, uint32_t available, uint32_t wanted)
{
	uint8_t square[EC_K_MAX * EC_K_MAX], inverse[EC_K_MAX * EC_K_MAX];
	uint8_t rows[EC_N_MAX * EC_K_MAX];
	unsigned k = code->k, count = 0;

	if (wanted == 0 || ((available | wanted) & ~ec_positions_mask(code)) != 0)
		return -EINVAL;
	if ((unsigned)__builtin_popcount(available) < k)
		return -ENODATA;
	ec_plan_choose(plan, code, available, square);
	int singular = ec_invert(square, inverse, k);
	FM_ASSERT_EQ(singular, 0); /* identity over Cauchy: every k rows are independent */
	for (uint32_t left = wanted; left != 0; left &= left - 1) {
		unsigned position = (unsigned)__builtin_ctz(left);

		ec_plan_row(code, position, inverse, rows + count * k);
		plan->wanted[count++] = (uint8_t)position;
	}
	plan->wanted_count = (uint8_t)count;
	ec_init_tables((int)k, (int)count, rows, plan->tables);
	return 0;
}

void ec_rebuild(const struct ec_plan *plan, size_t length, const uint8_t *const sources[],
	uint8_t *const out[])
{
	FM_ASSERT_LE(length, EC_LENGTH_MAX);
	if (length == 0)
		return;
	if (plan->source_count == 1) {
		ec_copies(length, sources[0], out, plan->wanted_count);
		return;
	}
	ec_encode_data((int)length, plan->source_count, plan->wanted_count,
		(unsigned char *)(uintptr_t)plan->tables, ec_no_const(sources), ec_outputs(out));
}

void ec_update(const struct ec_code *code, size_t length, unsigned position, const uint8_t *delta,
	uint8_t *const parity[])
{
	FM_ASSERT_LE(length, EC_LENGTH_MAX);
	FM_ASSERT_LT(position, code->k);
	if (code->m == 0 || length == 0)
		return;
	for (unsigned i = 0; code->k == 1 && i < code->m; i++)
		ec_delta(length, parity[i], delta, parity[i]);
	if (code->k == 1)
		return;
	ec_encode_data_update((int)length, code->k, code->m, (int)position,
		(unsigned char *)(uintptr_t)code->encode_tables, (unsigned char *)(uintptr_t)delta,
		ec_outputs(parity));
}

void ec_delta(size_t length, const uint8_t *a, const uint8_t *b, uint8_t *out)
{
	size_t at = 0;

	for (; length - at >= sizeof(ec_vector); at += sizeof(ec_vector)) {
		ec_vector both = *(const ec_vector *)(const void *)(a + at) ^
				 *(const ec_vector *)(const void *)(b + at);

		*(ec_vector *)(void *)(out + at) = both;
	}
	for (; at < length; at++)
		out[at] = (uint8_t)(a[at] ^ b[at]);
}

void ec_partial(const struct ec_code *code, size_t length, unsigned position, unsigned parity_index,
	const uint8_t *delta, uint8_t *out)
{
	uint8_t table[EC_TABLE_BYTES] FM_ALIGNED(EC_TABLE_BYTES);
	uint8_t coefficient;
	unsigned k = code->k;

	FM_ASSERT_LE(length, EC_LENGTH_MAX);
	FM_ASSERT_LT(position, k);
	FM_ASSERT_LT(parity_index, code->m);
	if (length == 0)
		return;
	coefficient = code->matrix[(k + parity_index) * k + position];
	if (coefficient == 1) {
		memcpy(out, delta, length);
		return;
	}
	ec_init_tables(1, 1, &coefficient, table);
	ec_encode_data((int)length, 1, 1, table, ec_no_const(&delta), ec_outputs(&out));
}
