/*
 * ec/ec_slow.c: see ec_slow.h. Slow on purpose: each line should be checkable against a textbook.
 *
 * Callers: ec_test.c and the simulator's check "parity equals a fresh encode".
 */
#include "ec/ec_slow.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"

#define EC_SLOW_K_MAX 16
#define EC_SLOW_POLYNOMIAL 0x11d

uint8_t ec_slow_multiply(uint8_t a, uint8_t b)
{
	unsigned product = 0;

	for (unsigned bit = 0; bit < 8; bit++)
		if (b & (1u << bit))
			product ^= (unsigned)a << bit;
	for (unsigned bit = 15; bit >= 8; bit--)
		if (product & (1u << bit))
			product ^= (unsigned)EC_SLOW_POLYNOMIAL << (bit - 8);
	return (uint8_t)product;
}

static uint8_t ec_slow_inverse(uint8_t a)
{
	unsigned candidate = 1;

	FM_ASSERT_NE(a, 0);
	while (ec_slow_multiply(a, (uint8_t)candidate) != 1)
		candidate++;
	return (uint8_t)candidate;
}

uint8_t ec_slow_coefficient(unsigned k, unsigned row, unsigned column)
{
	if (row < k)
		return row == column;
	if (k == 1)
		return 1; /* copies */
	return ec_slow_inverse((uint8_t)(row ^ column));
}

/* into ^= factor * from */
static void ec_slow_add(size_t length, uint8_t factor, const uint8_t *from, uint8_t *into)
{
	for (size_t i = 0; i < length; i++)
		into[i] = (uint8_t)(into[i] ^ ec_slow_multiply(factor, from[i]));
}

static void ec_slow_scale(size_t length, uint8_t factor, uint8_t *bytes)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = ec_slow_multiply(factor, bytes[i]);
}

static void ec_slow_swap(size_t length, uint8_t *a, uint8_t *b)
{
	for (size_t i = 0; i < length; i++) {
		uint8_t keep = a[i];

		a[i] = b[i];
		b[i] = keep;
	}
}

/* One position from the data pieces. */
static void ec_slow_make(
	const struct ec_slow_shape *shape, unsigned position, uint8_t *const pieces[])
{
	memset(pieces[position], 0, shape->length);
	for (unsigned column = 0; column < shape->k; column++)
		ec_slow_add(shape->length, ec_slow_coefficient(shape->k, position, column),
			pieces[column], pieces[position]);
}

void ec_slow_encode(const struct ec_slow_shape *shape, uint8_t *const pieces[])
{
	for (unsigned i = 0; i < shape->m; i++)
		ec_slow_make(shape, shape->k + i, pieces);
}

/*
 * Solves square * unknown = right in place, row operations on both sides at once (Gauss-Jordan).
 * The right sides are byte strings: right[i] ends up holding unknown i.
 */
static void ec_slow_solve(
	const struct ec_slow_shape *shape, uint8_t square[][EC_SLOW_K_MAX], uint8_t *const right[])
{
	unsigned k = shape->k;

	for (unsigned column = 0; column < k; column++) {
		unsigned pivot = column;

		while (square[pivot][column] == 0) {
			pivot++;
			FM_ASSERT_LT(pivot, k); /* else the rows were dependent: a bad code */
		}
		ec_slow_swap(k, square[pivot], square[column]);
		ec_slow_swap(shape->length, right[pivot], right[column]);
		uint8_t scale = ec_slow_inverse(square[column][column]);
		ec_slow_scale(k, scale, square[column]);
		ec_slow_scale(shape->length, scale, right[column]);
		for (unsigned row = 0; row < k; row++) {
			uint8_t factor = square[row][column];

			if (row == column || factor == 0)
				continue;
			ec_slow_add(k, factor, square[column], square[row]);
			ec_slow_add(shape->length, factor, right[column], right[row]);
		}
	}
}

int ec_slow_rebuild(const struct ec_slow_shape *shape, uint32_t available, uint8_t *const pieces[])
{
	uint8_t square[EC_SLOW_K_MAX][EC_SLOW_K_MAX];
	unsigned sources[EC_SLOW_K_MAX];
	unsigned k = shape->k, n = shape->k + shape->m, count = 0;

	for (unsigned position = n; position-- > 0 && count < k;)
		if (available & (1u << position))
			sources[count++] = position;
	if (count < k)
		return -ENODATA;
	/*
	 * The right sides are gathered into pieces[0..k) in ascending order of position. The i-th
	 * source sits at position i or above, so a copy only ever overwrites a piece that is no
	 * source or was gathered before.
	 */
	for (unsigned i = 0; i < k; i++) {
		unsigned from = sources[k - 1 - i];

		for (unsigned column = 0; column < k; column++)
			square[i][column] = ec_slow_coefficient(k, from, column);
		if (from != i)
			memcpy(pieces[i], pieces[from], shape->length);
	}
	ec_slow_solve(shape, square, pieces);
	for (unsigned position = k; position < n; position++)
		ec_slow_make(shape, position, pieces);
	return 0;
}
