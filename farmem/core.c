/*
 * farmem/core.c: sets up and tears down what the paths of a span share; keeps the budget (see
 * core.h).
 */
#include "farmem/core.h"

#include <errno.h>

#include "base/assert.h"
#include "base/mem.h"
#include "farmem/scheme.h"
#include "farmem/slot.h"

#define BUDGET_SHARE_FLOOR_PAGES 1024u /* a share never asks for less than 4 MiB near */
#define RECORD_STACK_BYTES(core) ((uint64_t)(core)->catalog.header->records_max * sizeof(uint32_t))
#define LIMBO_BYTES (CORE_LIMBO_MAX * sizeof(struct limbo_entry))
#define GROUPS_BYTES (CATALOG_GROUPS_MAX * sizeof(struct group_slots *))
#define CODES_BYTES (CORE_CODES_MAX * sizeof(struct ec_code))

int core_open(struct core *core, uint64_t clean_pages)
{
	struct reclaim *rc = &core->reclaim;
	int err;
	pthread_mutex_init(&rc->lock, NULL);
	pthread_mutex_init(&core->codes_lock, NULL);
	rc->free_ssids = mem_map(RECORD_STACK_BYTES(core));
	rc->limbo = mem_map(LIMBO_BYTES);
	core->repack_looks = mem_map(core->catalog.header->records_max);
	core->groups = mem_map(GROUPS_BYTES);
	core->codes = mem_map(CODES_BYTES);
	core->codes_ready = mem_map(CORE_CODES_MAX);
	if (!rc->free_ssids || !rc->limbo || !core->groups || !core->codes || !core->codes_ready ||
		!core->repack_looks)
		return -ENOMEM;
	err = ring_open(&rc->dead, CORE_DEAD_RING);
	if (err)
		return err;
	err = clean_open(&core->clean, clean_pages);
	budget_update(core);
	return err;
}

void core_close(struct core *core)
{
	if (core->groups)
		slot_close(core);
	clean_close(&core->clean);
	ring_close(&core->reclaim.dead);
	mem_unmap((void *)core->codes_ready, CORE_CODES_MAX);
	mem_unmap(core->codes, CODES_BYTES);
	mem_unmap(core->groups, GROUPS_BYTES);
	mem_unmap(core->repack_looks, core->catalog.header->records_max);
	mem_unmap(core->reclaim.limbo, LIMBO_BYTES);
	mem_unmap(core->reclaim.free_ssids, RECORD_STACK_BYTES(core));
}

const struct ec_code *core_code(struct core *core, unsigned k, unsigned m)
{
	FM_ASSERT(k >= 1 && k <= EC_K_MAX && m <= EC_M_MAX);
	unsigned index = k * (EC_M_MAX + 1) + m;
	if (fm_likely(atomic_load_explicit(&core->codes_ready[index], memory_order_acquire)))
		return &core->codes[index];
	pthread_mutex_lock(&core->codes_lock);
	if (!atomic_load_explicit(&core->codes_ready[index], memory_order_relaxed)) {
		int rc = ec_code_init(&core->codes[index], k, m);
		FM_ASSERT_EQ(rc, 0);
		atomic_store_explicit(&core->codes_ready[index], 1, memory_order_release);
	}
	pthread_mutex_unlock(&core->codes_lock);
	return &core->codes[index];
}

static uint64_t budget_share(const struct option_share *share, uint64_t of_pages)
{
	if (share->permille == 0)
		return share->bytes / FM_PAGE_SIZE;
	return of_pages * share->permille / 1000;
}

void budget_update(struct core *core)
{
	struct budget *b = &core->budget;
	int64_t used = budget_used(core);
	int64_t far = atomic_load_explicit(&b->far_pages, memory_order_relaxed);
	uint64_t all = (uint64_t)FM_MAX(used + far, (int64_t)0);
	uint64_t limit = budget_share(&core->config.local, all);
	if (core->config.local.permille != 0)
		limit = FM_MAX(limit, (uint64_t)BUDGET_SHARE_FLOOR_PAGES);
	atomic_store_explicit(&b->limit_pages, limit, memory_order_relaxed);
	atomic_store_explicit(
		&b->retain_pages, budget_share(&core->config.retain, limit), memory_order_relaxed);
}

void core_want_group(struct core *core)
{
	struct catalog_header *h = core->catalog.header;
	uint32_t count = atomic_load_explicit(&h->groups_count, memory_order_acquire);
	if (core_far_limited(core))
		return;
	atomic_store_explicit(&h->groups_wanted, count + 1, memory_order_release);
	if (core->report_wanted)
		core->report_wanted(core);
}

uint64_t core_free_pages(const struct core *core)
{
	uint32_t count =
		atomic_load_explicit(&core->catalog.header->groups_count, memory_order_acquire);
	uint64_t pages = 0;
	for (uint32_t i = 0; i < count; i++) {
		const struct catalog_group *g = &core->catalog.groups[i];
		if (atomic_load_explicit(&g->state, memory_order_acquire) == GROUP_OPEN)
			pages += (uint64_t)scheme_set_pages(&core->catalog, g) *
				 (g->slot_count - atomic_load(&g->columns[0].used));
	}
	return pages;
}

static uint32_t core_groups_with_room(const struct core *core)
{
	uint32_t count =
		atomic_load_explicit(&core->catalog.header->groups_count, memory_order_acquire);
	uint32_t open = 0;
	for (uint32_t i = 0; i < count; i++) {
		const struct catalog_group *g = &core->catalog.groups[i];
		open += atomic_load_explicit(&g->state, memory_order_acquire) == GROUP_OPEN &&
			atomic_load(&g->columns[0].used) < g->slot_count;
	}
	return open;
}

void core_look_ahead(struct core *core)
{
	/* Half a group of 4+2: a quarter of a second at 500 MB/s, what a new group takes at worst.
	 */
	uint32_t spread = scheme_spread(core);
	if (core_free_pages(core) * FM_PAGE_SIZE < 2 * core->catalog.header->region_bytes ||
		(spread > 1 && core_groups_with_room(core) < spread))
		core_want_group(core);
}
