/*
 * farmem/core_test.h: a core without a runtime, for the tests of record.c, slot.c, epoch.c, clean.c
 * and spanset.c.
 */
#ifndef FM_FARMEM_CORE_TEST_H
#define FM_FARMEM_CORE_TEST_H

#include "base/test.h"

#include "farmem/core.h"
#include "farmem/record.h"
#include "farmem/slot.h"

#define CORE_TEST_PAGES 16384u

struct core_test_options {
	unsigned k, m;
	uint32_t scheme; /* enum config_scheme */
	uint32_t records_max;
	uint64_t region_bytes;
};

static inline void core_test_open(struct core *core, const struct core_test_options *o)
{
	struct catalog_options options = {.range_base = 1ull << 40,
		.range_pages = CORE_TEST_PAGES,
		.records_max = o->records_max,
		.code_k = o->k,
		.code_m = o->m,
		.scheme = o->scheme,
		.region_bytes = o->region_bytes,
		.command = "test"};
	memset(core, 0, sizeof(*core));
	core->config.scheme = o->scheme;
	core->config.local.bytes = 1024 * FM_PAGE_SIZE;
	core->config.retain.bytes = 1024 * FM_PAGE_SIZE;
	CHECK_EQ(catalog_create(&core->catalog, &options), 0);
	CHECK_EQ(core_open(core, 1024), 0);
}

static inline void core_test_close(struct core *core)
{
	core_close(core);
	catalog_close(&core->catalog);
}

/* A group without nodes behind it: enough for slots and records. */
static inline void core_test_group(
	struct core *core, uint32_t group, unsigned k, unsigned m, uint32_t slot_count)
{
	struct catalog_group *g = &core->catalog.groups[group];
	g->k = (uint8_t)k;
	g->m = (uint8_t)m;
	g->slot_count = slot_count;
	atomic_store(&g->state, GROUP_OPEN);
	atomic_store(&core->catalog.header->groups_count, group + 1);
}

#endif
