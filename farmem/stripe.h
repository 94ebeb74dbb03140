/*
 * farmem/stripe.h: one stripe of the far range: its pager (one userfaultfd), its staging ring, its
 * evictor.
 *
 * The range is dealt to stripes in 64 MiB blocks. Used by fault.c (handlers), evict.c (the
 * evictor), purge.c (application threads), repack.c (on the evictor's thread).
 *
 * Staging ring, slots in order:
 *
 *      free      |  taken out, may be rescued  |  sealed, stored, published  |  waits for readers
 * |   free take_at                      store_at                      retire_at            (ring
 * end) retire_at <= store_at <= take_at, all counting up; slot number = counter % staging_slots.
 *
 * Locks: take_lock (spin, held for microseconds): take_at and the clock hand. Handlers only ever
 * try it.
 */
#ifndef FM_FARMEM_STRIPE_H
#define FM_FARMEM_STRIPE_H

#include "farmem/core.h"
#include "farmem/gate.h"
#include "farmem/pager.h"
#include "farmem/spanset.h"

#define STRIPE_BLOCK_PAGES 16384u /* 64 MiB */
#define STRIPES_MAX 8
#define STAGE_SEGMENTS_MAX 128
#define STAGE_PRIVATE_SLOTS 16u /* behind the ring: one per fault handler */
#define STAGE_NO_REFERENCE UINT64_MAX

/* Written by the taker before the word names the slot; constant until the slot is reused. */
struct stage_slot {
	uint32_t page;
	_Atomic uint32_t gone; /* its page was moved back out */
	_Atomic uint64_t
		reference; /* ssid | pos << 32 of the page's old duplicate, or STAGE_NO_REFERENCE */
};

struct stage_segment {
	uint64_t first;
	uint32_t count;
	uint64_t stamp;
};

struct stripe {
	struct core *core;
	struct pager *pager;
	uint32_t index, stripes; /* this one, of how many */
	/* staging */
	struct stage_slot *slots;
	_Atomic uint64_t take_at;
	uint64_t store_at, retire_at;
	struct stage_segment segments[STAGE_SEGMENTS_MAX];
	uint32_t segment_head, segment_count;
	/* clock hand, under take_lock */
	_Atomic uint32_t take_lock;
	uint32_t hand;
	struct gate gate;           /* inside: who makes pages go */
	_Atomic uint32_t pages_end; /* pages below it have ever been handed out */
	/* evictor */
	struct spanset_io *io;
	struct epoch_thread epoch;
	_Atomic uint32_t wake; /* futex; raised to call the evictor */
	_Atomic uint32_t sleeping;
	_Atomic uint32_t full; /* nodes have no room: first touches follow --on-full */
	/* Nothing that is near can leave: who wants room gets it. */
	_Atomic uint32_t barren;
	uint32_t barren_rounds; /* in a row, without a page */
	uint64_t next_upkeep_ns;
	uint32_t stored_batches;
	/* No group had room: nothing is sealed until there are more, or a while has passed. */
	uint64_t starved_until_ns;
	uint32_t starved_groups;
	uint64_t short_since_ns; /* no store found room since then; 0: the last one did */
	uint32_t repack_at;      /* next record to look at */
	/* Of what found no partner: the next to look at; when the lap began, the next batch is. */
	uint32_t left_at;
	uint64_t left_lap_ns, left_next_ns;
	/* Some group is to be evacuated; records looked at since the last that could be moved. */
	bool evacuating;
	uint32_t evacuate_seen;
	bool evacuate_staged; /* what is left of it is staged: store it, though nobody needs room */
	/* Makes blocks the hand meets evictable (range.c); NULL: all are. False: nothing there. */
	bool (*prepare_block)(struct stripe *st, uint32_t page);
	void *owner;
};

static inline uint32_t stripe_of_page(uint32_t stripes, uint32_t page)
{
	return (page / STRIPE_BLOCK_PAGES) % stripes;
}

static inline uint8_t *stripe_staged_bytes(const struct stripe *st, uint32_t slot)
{
	return st->pager->staging + (uint64_t)slot * FM_PAGE_SIZE;
}

/* Pages kept free for fetches: the evictor works ahead to have them. */
static inline int64_t stripe_reserve(const struct stripe *st)
{
	int64_t limit =
		(int64_t)atomic_load_explicit(&st->core->budget.limit_pages, memory_order_relaxed);
	int64_t reserve = limit / 32;
	return reserve < 64 ? 64 : reserve > 1024 ? 1024 : reserve;
}

/* ---- evict.c ---- */
int stripe_open(struct stripe *st) FM_MUST_USE;
void stripe_close(struct stripe *st);
/*
 * Takes up to `pages` cold pages out into staging, in at most `runs` address-contiguous runs,
 * looking at no more than `scan` words. Returns how many were taken. `wait`: spin for the lock,
 * else give up when it is held.
 */
unsigned evict_take(struct stripe *st, unsigned pages, unsigned runs, unsigned scan, bool wait);
/*
 * Sends one clean page back to its far copy by a hash and without I/O, through the caller's own
 * staging slot (one of those behind the ring). For a fetch that finds no room (DESIGN section 7).
 * False: none found nearby.
 */
bool evict_drop_clean(struct stripe *st, uint32_t slot);
/* One round of the evictor: takes, stores, reclaims as the budget needs. True when there was work.
 */
bool evict_round(struct stripe *st);
/* Taken and not yet looked at again. */
static inline uint64_t evict_staged(const struct stripe *st)
{
	return atomic_load_explicit(&st->take_at, memory_order_acquire) - st->store_at;
}
/* Called by whoever uses up room: wakes the evictor if it sleeps and is needed. */
void evict_call(struct stripe *st);
/* The reference an EVICTING word's staging slot keeps goes to the caller, who took the word out of
 * EVICTING unsealed. */
static inline uint64_t stage_reference(const struct stripe *st, uint32_t slot)
{
	return atomic_load_explicit(&st->slots[slot].reference, memory_order_acquire);
}

/* ---- purge.c ---- */
/*
 * The program gives pages back: [page, +count) of registered memory become EMPTY, near, staged and
 * far copies are dropped; they read as zeros afterwards. Any thread, also the program's own.
 * stripes: all of them.
 */
void purge_range(struct stripe *const *stripes, uint32_t page, uint32_t count);
/*
 * The same in steps, for who changes the mapping meanwhile: from purge_claim to purge_release the
 * words are DROPPING, faults wait, no evictor looks. Claim gives how many pages were present, for
 * the caller to take off the budget once they are gone.
 */
int64_t purge_claim(struct stripe *const *stripes, uint32_t page, uint32_t count);
void purge_drop(struct stripe *const *stripes, uint32_t page, uint32_t count);
void purge_release(struct stripe *const *stripes, uint32_t page, uint32_t count);

/* ---- repack.c ---- */
/* Gives up near duplicates while the nodes are short of room. Returns how many. */
unsigned repack_drop_retained(struct stripe *st, unsigned most);
/* Rewrites the sparsest spansets densely when dead space is worth it. Returns spansets freed. */
unsigned repack_round(struct stripe *st, bool urgent);
/* Are there groups to evacuate? Now and then: looks at all groups. */
void repack_look(struct stripe *st);
/* Does one batch of what the agent wants: evacuation, healing. True: there is more to do now. */
bool repack_wishes(struct stripe *st);

#endif
