/*
 * farmem/record.h: records: the catalog's entries for spansets (DESIGN section 6).
 *
 * One cache line at 4+2: hdr{state4 class4 group20 live16 gen16}, owner u32[k], crc u32[k+m], slot
 * u20[k+m].
 *
 * States: FREE -> FILLING (record_alloc) -> STABLE (record_publish) -> CLAIMED (record_claim:
 * repack,
 *         merge, free) -> LIMBO (record_retire) -> FREE (record_reclaim, after the grace period).
 * CLAIMED -> STABLE: unclaim. Invariants: R1  all but `hdr` is immutable from STABLE to LIMBO. R2
 * bit p of `live` is set exactly while one word or one staging slot holds the reference (ssid, p).
 * Whoever takes that reference away owns the bit and clears it, once. So a held reference pins its
 * record. R3  a record is retired only by its claimer and only with live == 0.
 */
#ifndef FM_FARMEM_RECORD_H
#define FM_FARMEM_RECORD_H

#include <string.h>

#include "farmem/core.h"

enum record_state { RECORD_FREE = 0, RECORD_FILLING, RECORD_STABLE, RECORD_CLAIMED, RECORD_LIMBO };

#define RECORD_GEN_SHIFT 0
#define RECORD_LIVE_SHIFT 16
#define RECORD_GROUP_SHIFT 32
#define RECORD_CLASS_SHIFT 52
#define RECORD_STATE_SHIFT 56

struct record {
	uint8_t *bytes;
	uint8_t k, n; /* of the table's widest code: layout only */
};

/* For those who have a catalog and no core: the agent, `farmem inspect`. */
static inline struct record record_in(const struct catalog *catalog, struct ssid id)
{
	const struct catalog_header *h = catalog->header;
	return (struct record){catalog->records + (uint64_t)id.v * h->record_stride,
		(uint8_t)h->code_k, (uint8_t)(h->code_k + h->code_m)};
}

static inline struct record record_at(const struct core *core, struct ssid id)
{
	return record_in(&core->catalog, id);
}

static inline _Atomic uint64_t *record_hdr(struct record r)
{
	return (_Atomic uint64_t *)(void *)r.bytes;
}

static inline uint64_t record_load(struct record r)
{
	return atomic_load_explicit(record_hdr(r), memory_order_acquire);
}

static inline enum record_state record_hdr_state(uint64_t hdr)
{
	return (enum record_state)((hdr >> RECORD_STATE_SHIFT) & 15);
}
static inline uint32_t record_hdr_group(uint64_t hdr)
{
	return (uint32_t)(hdr >> RECORD_GROUP_SHIFT) & 0xfffff;
}
static inline uint32_t record_hdr_live(uint64_t hdr)
{
	return (uint32_t)(hdr >> RECORD_LIVE_SHIFT) & 0xffff;
}

static inline uint32_t record_u32(struct record r, unsigned index)
{
	uint32_t v;
	memcpy(&v, r.bytes + 8 + 4 * index, 4);
	return v;
}
static inline void record_u32_set(struct record r, unsigned index, uint32_t v)
{
	memcpy(r.bytes + 8 + 4 * index, &v, 4);
}
/* Page whose bytes position pos holds; all ones: a filler. */
static inline uint32_t record_owner(struct record r, unsigned pos)
{
	return record_u32(r, pos);
}
static inline uint32_t record_crc(struct record r, unsigned pos)
{
	return record_u32(r, r.k + pos);
}
static inline void record_set_owner(struct record r, unsigned pos, uint32_t page)
{
	record_u32_set(r, pos, page);
}
static inline void record_set_crc(struct record r, unsigned pos, uint32_t crc)
{
	record_u32_set(r, (unsigned)r.k + pos, crc);
}
/* Two 20-bit numbers share five bytes. */
static inline uint8_t *record_slot_bytes(struct record r, unsigned pos)
{
	return r.bytes + 8 + 4u * r.k + 4u * r.n + (pos / 2) * 5;
}
static inline uint32_t record_slot(struct record r, unsigned pos)
{
	const uint8_t *b = record_slot_bytes(r, pos);
	if (pos % 2 == 0)
		return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)(b[2] & 15) << 16;
	return (uint32_t)(b[2] >> 4) | (uint32_t)b[3] << 4 | (uint32_t)b[4] << 12;
}
void record_set_slot(struct record r, unsigned pos, uint32_t slot);

/* A FILLING record, or none when the table is full. Thread-safe. */
struct ssid record_alloc(struct core *core) FM_MUST_USE;
/* FILLING -> FREE without having been seen by anybody. */
void record_abandon(struct core *core, struct ssid id);
/* FILLING -> STABLE with these live positions. Release: partner is span_load's acquire. */
void record_publish(struct core *core, struct ssid id, uint32_t group, uint32_t live);
/* FILLING -> CLAIMED: the same, and it stays the caller's until record_unclaim (farmem/merge.c). */
void record_publish_claimed(struct core *core, struct ssid id, uint32_t group, uint32_t live);
/* The owner of reference (id, pos) gives it up (R2). A record without live positions is queued to
 * be freed. */
void record_clear_live(struct core *core, struct ssid id, unsigned pos);
/*
 * May a near copy be given up for the far one at this position? Its column is well, and the group
 * can lose another host. (Were it only while all columns are there, every page that leaves during
 * a repair would have to be written: three times the writes, a quarter of a program's throughput.)
 */
bool record_has_spare(const struct core *core, struct ssid id, unsigned pos);
/* STABLE -> CLAIMED, -> STABLE. claim: false when somebody else has it. */
bool record_claim(struct core *core, struct ssid id);
void record_unclaim(struct core *core, struct ssid id);
/* CLAIMED with live == 0 -> LIMBO. False when there is no room in the limbo (try again after
 * record_reclaim). */
bool record_retire(struct core *core, struct ssid id);
/* The same; slots of the positions in `keep` are another record's now and are not given back. */
bool record_retire_keeping(struct core *core, struct ssid id, uint32_t keep);
/*
 * Frees what it can: wholly dead records into the limbo, and out of it what outlived its readers
 * (slots go back to their groups). Called by evictors between batches. Returns how many records
 * became free.
 */
unsigned record_reclaim(struct core *core);
/* Records that wait in the limbo. */
uint64_t record_limbo_count(struct core *core);

#endif
