/*
 * ec/ec_slow.h: the obviously right twin of ec/ec.h, for tests and the simulator only.
 *
 * Written from the definition, sharing nothing with ec.c or ISA-L: the field product bit by bit,
 * the inverse by trying all elements, the Cauchy coefficients by their formula, decoding by
 * Gaussian elimination. No tables.
 */
#ifndef FM_EC_EC_SLOW_H
#define FM_EC_EC_SLOW_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct ec_slow_shape {
	unsigned k, m;
	size_t length; /* bytes per piece */
};

/* Product in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1. */
uint8_t ec_slow_multiply(uint8_t a, uint8_t b);
/* What data position `column` counts for in position `row` (0..k+m-1). */
uint8_t ec_slow_coefficient(unsigned k, unsigned row, unsigned column);
/* pieces[0..k) are the data; writes pieces[k..k+m). */
void ec_slow_encode(const struct ec_slow_shape *shape, uint8_t *const pieces[]);
/*
 * Rebuilds ALL pieces from those whose bit is set in `available` (the highest k of them, unlike
 * ec.c, which takes the lowest); pieces not available are overwritten. 0, or -ENODATA when fewer
 * than k are available.
 */
int ec_slow_rebuild(
	const struct ec_slow_shape *shape, uint32_t available, uint8_t *const pieces[]) FM_MUST_USE;

#endif
