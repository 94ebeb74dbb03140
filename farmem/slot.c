/*
 * farmem/slot.c: free slots of groups; see slot.h.
 *
 * Invariants:
 *   S1  a bit is set exactly while its slot is used, dead but covered by parity, or in quarantine.
 *   S2  used[pos] counts the set bits of column pos.
 */
#include "farmem/slot.h"

#include <errno.h>

#include "base/assert.h"
#include "base/fault_point.h"
#include "base/mem.h"
#include "farmem/scheme.h"

#define SLOT_PARITY_KEEP 8u /* spansets' worth */

struct group_slots {
	pthread_mutex_t lock;
	uint32_t slot_count;
	uint32_t columns;
	uint32_t slot_bytes;
	uint32_t used[EC_N_MAX];
	uint32_t cursor[EC_N_MAX]; /* next-fit */
	uint64_t mapped_bytes;
	uint64_t bits[]; /* columns x words_per_column */
};

static uint64_t slot_words(uint32_t slot_count)
{
	return (slot_count + 63ull) / 64;
}

static uint64_t *slot_column(struct group_slots *g, unsigned pos)
{
	return g->bits + pos * slot_words(g->slot_count);
}

static struct group_slots *slot_group(struct core *core, struct group_id group)
{
	struct group_slots **place = &core->groups[group.v];
	struct group_slots *g = __atomic_load_n(place, __ATOMIC_ACQUIRE);
	if (g != NULL)
		return g;
	const struct catalog_group *cg = &core->catalog.groups[group.v];
	uint32_t columns = (uint32_t)cg->k + cg->m;
	uint64_t bytes = sizeof(*g) + columns * slot_words(cg->slot_count) * 8;
	struct group_slots *made = mem_map(bytes);
	if (made == NULL)
		return NULL;
	pthread_mutex_init(&made->lock, NULL);
	made->slot_count = cg->slot_count;
	made->columns = columns;
	made->slot_bytes = scheme_slot_bytes(&core->catalog, cg);
	made->mapped_bytes = bytes;
	if (__atomic_compare_exchange_n(place, &g, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		catalog_count(&core->catalog, metadata_bytes, bytes);
		catalog_count(&core->catalog, far_capacity_bytes,
			(uint64_t)cg->k * cg->slot_count * made->slot_bytes);
		return made;
	}
	mem_unmap(made, bytes);
	return g;
}

static bool slot_bit(const uint64_t *bits, uint32_t slot)
{
	return (bits[slot / 64] >> (slot % 64)) & 1;
}

static void slot_set(struct group_slots *g, unsigned pos, uint32_t slot)
{
	uint64_t *bits = slot_column(g, pos);
	FM_ASSERT(!slot_bit(bits, slot));
	bits[slot / 64] |= 1ull << (slot % 64);
	g->used[pos]++;
}

/* The next free slot from `from` on, wrapping round; the caller knows that there is one. */
static uint32_t slot_next_free(const uint64_t *bits, uint32_t slot_count, uint32_t from)
{
	uint64_t words = slot_words(slot_count);
	uint64_t at = from / 64;
	uint64_t open = ~bits[at] & (~0ull << (from % 64));
	for (uint64_t seen = 0; seen <= words; seen++) {
		while (open != 0) {
			uint32_t slot = (uint32_t)(at * 64 + (uint64_t)__builtin_ctzll(open));
			if (slot < slot_count)
				return slot;
			open = 0;
		}
		at = (at + 1) % words;
		open = ~bits[at];
	}
	FM_PANIC("slot: a column said to have room has none");
}

/* For the agent, `top` and inspect. */
static void slot_show(
	struct core *core, struct group_id group, const struct group_slots *g, unsigned pos)
{
	atomic_store_explicit(&core->catalog.groups[group.v].columns[pos].used, g->used[pos],
		memory_order_release);
}

/* S2, in bytes, over all groups. */
static void slot_count_used(
	struct core *core, const struct group_slots *g, int64_t data, int64_t all)
{
	catalog_count(&core->catalog, slots_used_bytes, all * (int64_t)g->slot_bytes);
	atomic_fetch_add_explicit(
		&core->budget.data_bytes, data * (int64_t)g->slot_bytes, memory_order_relaxed);
}

static void slot_take_column(struct group_slots *g, unsigned pos, unsigned count, uint32_t *slots)
{
	for (unsigned i = 0; i < count; i++) {
		uint32_t from = g->cursor[pos] < g->slot_count ? g->cursor[pos] : 0;
		uint32_t slot = slot_next_free(slot_column(g, pos), g->slot_count, from);
		slot_set(g, pos, slot);
		g->cursor[pos] = slot + 1;
		slots[i] = slot;
	}
}

int slot_take(struct core *core, struct group_id group, unsigned count, uint32_t *slots)
{
	struct group_slots *g = slot_group(core, group);
	int rc = 0;
	FM_ASSERT_LE(count, SLOT_TAKE_MAX);
	if (g == NULL || FAULT_POINT("slot.take"))
		return -ENOMEM;
	pthread_mutex_lock(&g->lock);
	for (unsigned pos = 0; pos < g->columns; pos++)
		if (g->slot_count - g->used[pos] < count)
			rc = -ENOSPC;
	for (unsigned pos = 0; rc == 0 && pos < g->columns; pos++)
		slot_take_column(g, pos, count, slots + pos * count);
	for (unsigned pos = 0; rc == 0 && pos < g->columns; pos++)
		slot_show(core, group, g, pos);
	pthread_mutex_unlock(&g->lock);
	if (rc == 0)
		slot_count_used(core, g, (int64_t)count * core->catalog.groups[group.v].k,
			(int64_t)count * g->columns);
	return rc;
}

int slot_take_parity(struct core *core, struct group_id group, uint32_t *slots)
{
	struct group_slots *g = slot_group(core, group);
	unsigned k = core->catalog.groups[group.v].k;
	int rc = 0;
	if (g == NULL)
		return -ENOMEM;
	uint32_t keep = FM_MIN(SLOT_PARITY_KEEP, g->slot_count / 16);
	pthread_mutex_lock(&g->lock);
	for (unsigned pos = k; pos < g->columns; pos++)
		if (g->slot_count - g->used[pos] <= keep)
			rc = -ENOSPC;
	for (unsigned pos = k; rc == 0 && pos < g->columns; pos++) {
		slot_take_column(g, pos, 1, &slots[pos - k]);
		slot_show(core, group, g, pos);
	}
	pthread_mutex_unlock(&g->lock);
	if (rc == 0)
		slot_count_used(core, g, 0, (int64_t)g->columns - k);
	return rc;
}

void slot_give(struct core *core, struct group_id group, unsigned pos, uint32_t slot)
{
	struct group_slots *g = slot_group(core, group);
	FM_ASSERT(g != NULL);
	pthread_mutex_lock(&g->lock);
	uint64_t *bits = slot_column(g, pos);
	FM_ASSERT(slot_bit(bits, slot));
	bits[slot / 64] &= ~(1ull << (slot % 64));
	g->used[pos]--;
	slot_show(core, group, g, pos);
	pthread_mutex_unlock(&g->lock);
	slot_count_used(core, g, pos < core->catalog.groups[group.v].k ? -1 : 0, -1);
}

void slot_quarantine(struct core *core, struct group_id group, unsigned pos, uint32_t slot)
{
	struct group_slots *g = slot_group(core, group);
	FM_ASSERT(g != NULL);
	FM_ASSERT(slot_bit(slot_column(g, pos), slot)); /* stays set: neither free nor used */
	catalog_count(&core->catalog, slots_quarantined_bytes, g->slot_bytes);
}

bool slot_is_used(struct core *core, struct group_id group, unsigned pos, uint32_t slot)
{
	struct group_slots *g = slot_group(core, group);
	FM_ASSERT(g != NULL);
	FM_ASSERT(pos < g->columns && slot < g->slot_count);
	pthread_mutex_lock(&g->lock);
	bool used = slot_bit(slot_column(g, pos), slot);
	pthread_mutex_unlock(&g->lock);
	return used;
}

uint32_t slot_free_count(struct core *core, struct group_id group)
{
	struct group_slots *g = slot_group(core, group);
	uint32_t least = UINT32_MAX;
	if (g == NULL)
		return 0;
	pthread_mutex_lock(&g->lock);
	for (unsigned pos = 0; pos < g->columns; pos++)
		least = FM_MIN(least, g->slot_count - g->used[pos]);
	pthread_mutex_unlock(&g->lock);
	return least;
}

void slot_close(struct core *core)
{
	for (unsigned i = 0; i < CATALOG_GROUPS_MAX; i++) {
		struct group_slots *g = core->groups[i];
		if (g != NULL)
			mem_unmap(g, g->mapped_bytes);
		core->groups[i] = NULL;
	}
}
