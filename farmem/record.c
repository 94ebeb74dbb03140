/*
 * farmem/record.c: see record.h for layout, states and invariants.
 */
#include "farmem/record.h"

#include "base/assert.h"
#include "base/fault_point.h"
#include "farmem/slot.h"

#define RECORD_SLOT_BITS 20u

static uint64_t record_pack(enum record_state state, uint32_t group, uint32_t live, uint64_t gen)
{
	return ((uint64_t)state << RECORD_STATE_SHIFT) | ((uint64_t)group << RECORD_GROUP_SHIFT) |
	       ((uint64_t)live << RECORD_LIVE_SHIFT) | ((gen & 0xffff) << RECORD_GEN_SHIFT);
}

static uint64_t record_turned(uint64_t hdr, enum record_state state)
{
	return (hdr & ~(15ull << RECORD_STATE_SHIFT)) | ((uint64_t)state << RECORD_STATE_SHIFT);
}

void record_set_slot(struct record r, unsigned pos, uint32_t slot)
{
	uint8_t *b = record_slot_bytes(r, pos);
	FM_ASSERT_LT(slot, 1u << RECORD_SLOT_BITS);
	if (pos % 2 == 0) {
		b[0] = (uint8_t)slot;
		b[1] = (uint8_t)(slot >> 8);
		b[2] = (uint8_t)((b[2] & 0xf0) | (slot >> 16));
		return;
	}
	b[2] = (uint8_t)((b[2] & 15) | (slot << 4));
	b[3] = (uint8_t)(slot >> 4);
	b[4] = (uint8_t)(slot >> 12);
}

/* One never used before; the agent scans records up to records_used. */
static uint32_t record_fresh(struct core *core)
{
	uint32_t fresh = core->reclaim.fresh;
	/* Under the lock; merge.c and repack.c look at it without. */
	__atomic_store_n(&core->reclaim.fresh, fresh + 1, __ATOMIC_RELAXED);
	atomic_store_explicit(
		&core->catalog.header->records_used, core->reclaim.fresh, memory_order_release);
	return fresh;
}

struct ssid record_alloc(struct core *core)
{
	struct reclaim *rc = &core->reclaim;
	struct ssid id = ssid_none();
	if (FAULT_POINT("record.alloc"))
		return id;
	pthread_mutex_lock(&rc->lock);
	if (rc->free_count > 0)
		id.v = rc->free_ssids[--rc->free_count];
	else if (rc->fresh < core->catalog.header->records_max)
		id.v = record_fresh(core);
	pthread_mutex_unlock(&rc->lock);
	if (ssid_is_none(id))
		return id;
	struct record r = record_at(core, id);
	uint64_t hdr = record_load(r);
	FM_ASSERT_EQ(record_hdr_state(hdr), RECORD_FREE);
	atomic_store_explicit(
		record_hdr(r), record_pack(RECORD_FILLING, 0, 0, hdr + 1), memory_order_release);
	return id;
}

static void record_free_locked(struct core *core, struct ssid id)
{
	struct record r = record_at(core, id);
	uint64_t hdr = record_load(r);
	atomic_store_explicit(
		record_hdr(r), record_pack(RECORD_FREE, 0, 0, hdr), memory_order_release);
	core->reclaim.free_ssids[core->reclaim.free_count++] = id.v;
}

void record_abandon(struct core *core, struct ssid id)
{
	FM_ASSERT_EQ(record_hdr_state(record_load(record_at(core, id))), RECORD_FILLING);
	pthread_mutex_lock(&core->reclaim.lock);
	record_free_locked(core, id);
	pthread_mutex_unlock(&core->reclaim.lock);
}

static void record_publish_as(
	struct core *core, struct ssid id, enum record_state state, uint32_t group, uint32_t live)
{
	struct record r = record_at(core, id);
	uint64_t hdr = record_load(r);
	FM_ASSERT_EQ(record_hdr_state(hdr), RECORD_FILLING);
	FM_ASSERT_NE(live, 0);
	atomic_store_explicit(
		record_hdr(r), record_pack(state, group, live, hdr), memory_order_release);
}

void record_publish(struct core *core, struct ssid id, uint32_t group, uint32_t live)
{
	record_publish_as(core, id, RECORD_STABLE, group, live);
}

void record_publish_claimed(struct core *core, struct ssid id, uint32_t group, uint32_t live)
{
	record_publish_as(core, id, RECORD_CLAIMED, group, live);
}

void record_clear_live(struct core *core, struct ssid id, unsigned pos)
{
	struct record r = record_at(core, id);
	uint64_t bit = 1ull << (RECORD_LIVE_SHIFT + pos);
	if (fm_unlikely(core->reader))
		return; /* the reference is another process's */
	uint64_t before = atomic_fetch_and_explicit(record_hdr(r), ~bit, memory_order_acq_rel);
	FM_ASSERT(record_hdr_state(before) == RECORD_STABLE ||
		  record_hdr_state(before) == RECORD_CLAIMED);
	FM_ASSERT((before & bit) != 0); /* R2: cleared once, by its owner */
	/* A full ring loses nothing: repack's sweep finds dead records too. */
	if (record_hdr_live(before & ~bit) == 0 && record_hdr_state(before) == RECORD_STABLE &&
		!FAULT_POINT("record.dead"))
		(void)ring_push(&core->reclaim.dead, id.v);
}

bool record_has_spare(const struct core *core, struct ssid id, unsigned pos)
{
	uint32_t group = record_hdr_group(record_load(record_at(core, id)));
	const struct catalog_group *g = &core->catalog.groups[group];
	unsigned lost = 0;
	for (unsigned p = 0; p < (unsigned)g->k + g->m; p++) {
		bool gone = atomic_load_explicit(&g->columns[p].lost, memory_order_acquire) != 0;
		if (gone && p == pos)
			return false;
		lost += gone;
	}
	return lost == 0 || lost < g->m;
}

bool record_claim(struct core *core, struct ssid id)
{
	struct record r = record_at(core, id);
	uint64_t hdr = record_load(r);
	while (record_hdr_state(hdr) == RECORD_STABLE)
		if (atomic_compare_exchange_weak_explicit(record_hdr(r), &hdr,
			    record_turned(hdr, RECORD_CLAIMED), memory_order_acq_rel,
			    memory_order_acquire))
			return true;
	return false;
}

void record_unclaim(struct core *core, struct ssid id)
{
	struct record r = record_at(core, id);
	uint64_t hdr = record_load(r);
	FM_ASSERT_EQ(record_hdr_state(hdr), RECORD_CLAIMED);
	while (!atomic_compare_exchange_weak_explicit(record_hdr(r), &hdr,
		record_turned(hdr, RECORD_STABLE), memory_order_acq_rel, memory_order_acquire))
		;
	/* Its last reference may have gone while it was claimed. */
	if (record_hdr_live(hdr) == 0)
		(void)ring_push(&core->reclaim.dead, id.v);
}

bool record_retire(struct core *core, struct ssid id)
{
	return record_retire_keeping(core, id, 0);
}

bool record_retire_keeping(struct core *core, struct ssid id, uint32_t keep)
{
	struct reclaim *rc = &core->reclaim;
	struct record r = record_at(core, id);
	uint64_t hdr = record_load(r);
	bool room;
	FM_ASSERT_EQ(record_hdr_state(hdr), RECORD_CLAIMED);
	FM_ASSERT_EQ(record_hdr_live(hdr), 0); /* R3 */
	pthread_mutex_lock(&rc->lock);
	room = rc->limbo_tail - rc->limbo_head < CORE_LIMBO_MAX && !FAULT_POINT("record.limbo");
	if (room) {
		atomic_store_explicit(
			record_hdr(r), record_turned(hdr, RECORD_LIMBO), memory_order_release);
		rc->limbo[rc->limbo_tail++ % CORE_LIMBO_MAX] =
			(struct limbo_entry){epoch_stamp(core), id, keep};
	}
	pthread_mutex_unlock(&rc->lock);
	return room;
}

static void record_give_slots(struct core *core, struct ssid id, uint32_t keep)
{
	struct record r = record_at(core, id);
	uint32_t group = record_hdr_group(record_load(r));
	const struct catalog_group *g = &core->catalog.groups[group];
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (!(keep >> pos & 1))
			slot_give(core, group_id_make(group), pos, record_slot(r, pos));
}

/* The oldest record in the limbo if its grace period is over, else none. */
static struct ssid record_limbo_pop(struct core *core, uint32_t *keep)
{
	struct reclaim *rc = &core->reclaim;
	struct ssid id = ssid_none();
	pthread_mutex_lock(&rc->lock);
	if (rc->limbo_head != rc->limbo_tail) {
		struct limbo_entry *e = &rc->limbo[rc->limbo_head % CORE_LIMBO_MAX];
		if (epoch_passed_by_all(core, e->stamp)) {
			id = e->ssid;
			*keep = e->keep;
			rc->limbo_head++;
		}
	}
	pthread_mutex_unlock(&rc->lock);
	return id;
}

unsigned record_reclaim(struct core *core)
{
	uint64_t dead;
	uint32_t keep = 0;
	unsigned freed = 0;
	struct ssid id;
	while (ring_pop(&core->reclaim.dead, &dead)) {
		id = ssid_make(dead);
		if (!record_claim(core, id))
			continue;
		/* A record may be queued twice (freed and used again between): judge it as it is
		 * now. */
		bool live = record_hdr_live(record_load(record_at(core, id))) != 0;
		if (!live && record_retire(core, id))
			continue;
		record_unclaim(core, id); /* queues it again if it is dead */
		if (!live)
			break; /* limbo full */
	}
	while (!ssid_is_none(id = record_limbo_pop(core, &keep))) {
		record_give_slots(core, id, keep);
		pthread_mutex_lock(&core->reclaim.lock);
		record_free_locked(core, id);
		pthread_mutex_unlock(&core->reclaim.lock);
		freed++;
	}
	if (freed > 0)
		catalog_count(&core->catalog, freed_spansets, freed);
	return freed;
}

uint64_t record_limbo_count(struct core *core)
{
	struct reclaim *rc = &core->reclaim;
	pthread_mutex_lock(&rc->lock);
	uint64_t count = rc->limbo_tail - rc->limbo_head;
	pthread_mutex_unlock(&rc->lock);
	return count;
}
