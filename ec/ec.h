/*
 * ec/ec.h: Reed-Solomon over GF(2^8), k data pieces and m parity pieces (DESIGN section 7, Carbink
 * section 3.4).
 *
 * Pure: no I/O, no locks, no allocation; a struct ec_code is constant after ec_code_init and may be
 * shared by any number of threads. The matrix is identity over Cauchy, so that EVERY k of the k+m
 * rows are invertible; with k = 1 all coefficients are one: parities are copies, made and rebuilt
 * by memcpy. Works at ISA-L's speed, all parities in one pass. `length` is bytes per piece: any
 * value (multiples of 64 are fastest). Pointers need no alignment. ec_slow.h is the obviously right
 * twin the tests compare with.
 */
#ifndef FM_EC_EC_H
#define FM_EC_EC_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

#define EC_K_MAX 16
#define EC_M_MAX 4
#define EC_N_MAX (EC_K_MAX + EC_M_MAX)

struct ec_code {
	uint8_t k, m;
	uint8_t matrix[EC_N_MAX *
		       EC_K_MAX]; /* (k+m) rows of k coefficients; first k rows: identity */
	uint8_t encode_tables[32 * EC_K_MAX *
			      EC_M_MAX]; /* ISA-L's expanded form of the parity rows */
};

/* Tables to rebuild wanted positions from k given ones: made once per pattern, used for many spans.
 */
struct ec_plan {
	uint8_t source_count;      /* == k */
	uint8_t wanted_count;      /* 1..k+m */
	uint8_t sources[EC_K_MAX]; /* positions to read, in the order decode wants their pointers */
	uint8_t wanted[EC_N_MAX];
	uint8_t tables[32 * EC_K_MAX * EC_N_MAX];
};

/* k 1..16, m 0..4. 0 or -EINVAL. */
int ec_code_init(struct ec_code *code, unsigned k, unsigned m) FM_MUST_USE;
/* parity[0..m) from data[0..k), each `length` bytes. */
void ec_encode(const struct ec_code *code, size_t length, const uint8_t *const data[],
	uint8_t *const parity[]);
/*
 * available: bit p set when position p (0..k+m-1) may be read; the first k of them by preference of
 * the caller are not chosen here: the lowest k are. wanted: bits to rebuild (may be data or
 * parity). -ENODATA when fewer than k are available; -EINVAL when nothing is wanted.
 */
int ec_plan_init(struct ec_plan *plan, const struct ec_code *code, uint32_t available,
	uint32_t wanted) FM_MUST_USE;
/* sources[i] holds position plan->sources[i]; out[j] receives position plan->wanted[j]. */
void ec_rebuild(const struct ec_plan *plan, size_t length, const uint8_t *const sources[],
	uint8_t *const out[]);
/*
 * Parity update for later rooms (compaction): parity[i] ^= coefficient(k+i, position) * delta, for
 * i in 0..m-1, where delta = old data XOR new data of that position.
 */
void ec_update(const struct ec_code *code, size_t length, unsigned position, const uint8_t *delta,
	uint8_t *const parity[]);
/* out = a XOR b. out may be a or b. */
void ec_delta(size_t length, const uint8_t *a, const uint8_t *b, uint8_t *out);
/* out = coefficient(k + parity_index, position) * delta: one partial parity, as a data node sends
 * it. */
void ec_partial(const struct ec_code *code, size_t length, unsigned position, unsigned parity_index,
	const uint8_t *delta, uint8_t *out);

#endif
