/*
 * farmem/span.h: the span word: 64 bits, the only truth about a span (DESIGN section 6;
 * tests/model).
 *
 *        first touch           claim               seal                publish
 *   EMPTY ---------> NEAR ------------> EVICTING ---------> EVICTING ----------> FAR
 *     ^               ^ ^              (TAKING, then       | SEALED |            |  |
 *     |               | |               staged)            |        |   fault    |  |
 *     |               | +---- FETCHING <--- rescue: MOVE --+- COPY -+            |  |
 *     |               |          ^------------------------------------------- --+  |
 *     +--- DROPPING <-+------------------ purge (from every state but FETCHING) -----+
 *
 *   function               arrow
 *   fault_zero             EMPTY -> FETCHING -> NEAR
 *   evict_take             NEAR -> EVICTING|TAKING -> EVICTING        gen + 1
 *   evict_seal             EVICTING -> EVICTING|SEALED
 *   evict_publish          EVICTING|SEALED -> FAR, or back to its old far copy when the bytes are
 * unchanged fault_rescue           EVICTING[|SEALED] -> FETCHING -> NEAR fault_fetch            FAR
 * -> FETCHING -> NEAR|HAS_FAR, or LOST beyond m losses purge_range            EMPTY, NEAR,
 * EVICTING, FAR, LOST -> DROPPING -> EMPTY   gen + 1 evict_wp (no MOVE)     EVICTING -> DROPPING ->
 * FAR
 *
 * What may be trusted:
 *   EMPTY     nothing is stored anywhere; the page reads as zeros.
 *   NEAR      the page is present. HAS_FAR: {ssid, pos} names a slot with a possible duplicate (its
 * record's live bit is set); only a content hash says whether it still is one. HOT: skip it once.
 *   EVICTING  `ssid` is a staging slot. TAKING: the page is on its way there: wait. Not sealed:
 * whoever takes the word out of this state owns the staging slot's old reference. SEALED: the
 * evictor does. DROPPING  the claimer alone may touch the page; faults wait. FAR       {ssid, pos}
 * holds the only copy. FETCHING: one thread brings the page in; others wait for it. Every claim
 * raises gen, so a stale compare-and-swap fails (ABA).
 *
 * Words are loaded with acquire and changed by CAS with acquire-release; partners are these same
 * functions in other threads, and the record published before its word (record.h).
 */
#ifndef FM_FARMEM_SPAN_H
#define FM_FARMEM_SPAN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/ids.h"

enum span_state {
	SPAN_EMPTY = 0, /* zeroed tables start here */
	SPAN_NEAR,
	SPAN_EVICTING,
	SPAN_DROPPING,
	SPAN_FAR,
	SPAN_FETCHING,
	SPAN_LOST,
};

#define SPAN_HAS_FAR 1u /* NEAR, FETCHING from a rescue: ssid/pos are a retained reference */
#define SPAN_HOT 2u     /* NEAR: came back lately; eviction passes it by once */
#define SPAN_SEALED 4u  /* EVICTING: being encoded: copies only */
#define SPAN_TAKING 8u  /* EVICTING: not yet in staging */
#define SPAN_REMOTE 8u  /* FETCHING: ssid/pos is the only copy, on its way (fork.c) */

struct span_word {
	uint64_t v;
};

#define SPAN_SSID_SHIFT 0
#define SPAN_POS_SHIFT 32
#define SPAN_GEN_SHIFT 37
#define SPAN_FLAGS_SHIFT 53
#define SPAN_STATE_SHIFT 57

static inline enum span_state span_state(struct span_word w)
{
	return (enum span_state)((w.v >> SPAN_STATE_SHIFT) & 15);
}

static inline uint32_t span_flags(struct span_word w)
{
	return (uint32_t)((w.v >> SPAN_FLAGS_SHIFT) & 15);
}

static inline uint32_t span_gen(struct span_word w)
{
	return (uint32_t)((w.v >> SPAN_GEN_SHIFT) & 0xffff);
}

static inline uint32_t span_pos(struct span_word w)
{
	return (uint32_t)((w.v >> SPAN_POS_SHIFT) & 31);
}

static inline uint32_t span_ssid(struct span_word w)
{
	return (uint32_t)w.v;
}

static inline struct span_word span_make(enum span_state state, uint32_t flags, uint32_t gen)
{
	return (struct span_word){((uint64_t)state << SPAN_STATE_SHIFT) |
				  ((uint64_t)flags << SPAN_FLAGS_SHIFT) |
				  ((uint64_t)(gen & 0xffff) << SPAN_GEN_SHIFT)};
}

/* The same word naming another place. */
static inline struct span_word span_at(struct span_word w, uint32_t ssid, uint32_t pos)
{
	const uint64_t place = (0xffffffffull << SPAN_SSID_SHIFT) | (31ull << SPAN_POS_SHIFT);
	return (struct span_word){(w.v & ~place) | ((uint64_t)pos << SPAN_POS_SHIFT) | ssid};
}

/* The same place and gen in another state. */
static inline struct span_word span_turned(
	struct span_word w, enum span_state state, uint32_t flags)
{
	return span_at(span_make(state, flags, span_gen(w)), span_ssid(w), span_pos(w));
}

static inline bool span_holds_reference(struct span_word w)
{
	return span_state(w) == SPAN_FAR ||
	       (span_state(w) == SPAN_NEAR && (span_flags(w) & SPAN_HAS_FAR) != 0);
}

static inline struct span_word span_load(const _Atomic uint64_t *words, struct page_id page)
{
	return (struct span_word){
		atomic_load_explicit((_Atomic uint64_t *)&words[page.v], memory_order_acquire)};
}

/* True when *words[page] was `from` and is `to` now. */
static inline bool span_swap(
	_Atomic uint64_t *words, struct page_id page, struct span_word from, struct span_word to)
{
	return atomic_compare_exchange_strong_explicit(
		&words[page.v], &from.v, to.v, memory_order_acq_rel, memory_order_acquire);
}

const char *span_state_name(enum span_state state);

#endif
