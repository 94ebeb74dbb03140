/*
 * farmem/slot_test.c: slots against a naive twin: a set of numbers per column.
 */
#include <errno.h>

#include "farmem/core_test.h"

static struct core core;

static void open_core(unsigned k, unsigned m, uint32_t slot_count)
{
	core_test_open(&core, &(struct core_test_options){
				      .k = k, .m = m, .records_max = 16, .region_bytes = 1 << 20});
	core_test_group(&core, 3, k, m, slot_count);
}

static const struct group_id group = {3};

TEST(a_fresh_group_hands_out_contiguous_runs_in_every_column)
{
	uint32_t slots[EC_N_MAX * 16];
	open_core(4, 2, 1000);
	CHECK_EQ(slot_free_count(&core, group), 1000);
	CHECK_EQ(slot_take(&core, group, 16, slots), 0);
	for (unsigned pos = 0; pos < 6; pos++)
		for (unsigned i = 0; i < 16; i++)
			CHECK_EQ(slots[pos * 16 + i], slots[pos * 16] + i);
	CHECK_EQ(slot_free_count(&core, group), 984);
	core_test_close(&core);
}

TEST(one_full_column_makes_the_group_full_and_takes_nothing)
{
	uint32_t slots[EC_N_MAX * 4];
	open_core(2, 1, 6);
	CHECK_EQ(slot_take(&core, group, 4, slots), 0);
	slot_give(&core, group, 0, slots[0]);
	slot_give(&core, group, 0, slots[1]);
	CHECK_EQ(slot_take(&core, group, 4, slots), -ENOSPC);
	CHECK_EQ(slot_free_count(&core, group), 2);
	CHECK_EQ(slot_take(&core, group, 2, slots), 0);
	CHECK_EQ(slot_free_count(&core, group), 0);
	core_test_close(&core);
}

TEST(a_slot_in_quarantine_is_neither_handed_out_nor_free)
{
	uint32_t slots[EC_N_MAX];
	open_core(1, 1, 2);
	CHECK_EQ(slot_take(&core, group, 1, slots), 0);
	slot_quarantine(&core, group, 1, slots[1]);
	slot_give(&core, group, 0, slots[0]);
	uint32_t doubtful = slots[1];
	CHECK_EQ(slot_take(&core, group, 1, slots), 0);
	CHECK_NE(slots[1], doubtful);
	CHECK_EQ(slot_take(&core, group, 1, slots), -ENOSPC);
	slot_give(&core, group, 1, doubtful); /* after the fence */
	CHECK_EQ(slot_take(&core, group, 1, slots), 0);
	CHECK_EQ(slots[1], doubtful);
	core_test_close(&core);
}

#define TWIN_SLOTS 2048
static bool twin[EC_N_MAX][TWIN_SLOTS];

static unsigned twin_free(unsigned columns, uint32_t slot_count)
{
	unsigned least = slot_count;
	for (unsigned pos = 0; pos < columns; pos++) {
		unsigned open = 0;
		for (uint32_t slot = 0; slot < slot_count; slot++)
			open += !twin[pos][slot];
		least = FM_MIN(least, open);
	}
	return least;
}

static void twin_take(unsigned columns, unsigned count, const uint32_t *slots, uint32_t slot_count)
{
	for (unsigned pos = 0; pos < columns; pos++)
		for (unsigned i = 0; i < count; i++) {
			uint32_t slot = slots[pos * count + i];
			CHECK_LT(slot, slot_count);
			CHECK(!twin[pos][slot]);
			twin[pos][slot] = true;
		}
}

/* Random takes and gives, in each column on its own: what the twin says is free must be what is. */
static void run_twin(unsigned k, unsigned m, uint32_t slot_count, uint64_t seed)
{
	uint32_t slots[EC_N_MAX * SLOT_TAKE_MAX];
	unsigned columns = k + m;
	uint64_t random = seed;
	memset(twin, 0, sizeof(twin));
	open_core(k, m, slot_count);
	for (unsigned step = 0; step < 3000; step++) {
		unsigned count = 1 + (unsigned)(test_random(&random) % SLOT_TAKE_MAX);
		if (test_random(&random) % 3 == 0) {
			unsigned least = twin_free(columns, slot_count);
			int rc = slot_take(&core, group, count, slots);
			CHECK_EQ(rc, least >= count ? 0 : -ENOSPC);
			if (rc == 0)
				twin_take(columns, count, slots, slot_count);
			continue;
		}
		unsigned pos = (unsigned)(test_random(&random) % columns);
		uint32_t slot = (uint32_t)(test_random(&random) % slot_count);
		CHECK_EQ(slot_is_used(&core, group, pos, slot), twin[pos][slot]);
		if (twin[pos][slot]) {
			slot_give(&core, group, pos, slot);
			twin[pos][slot] = false;
		}
	}
	CHECK_EQ(slot_free_count(&core, group), twin_free(columns, slot_count));
	core_test_close(&core);
}

TEST(random_takes_and_gives_match_the_twin)
{
	static const uint32_t counts[] = {1, 63, 64, 65, 127, 1000, 2048};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(counts); i++) {
		run_twin(4, 2, counts[i], i + 1);
		run_twin(1, 0, counts[i], i + 100);
		run_twin(3, 4, counts[i], i + 200);
	}
}

TEST(gauges_follow_what_is_taken)
{
	uint32_t slots[EC_N_MAX * 8];
	open_core(4, 2, 64);
	CHECK_EQ(slot_take(&core, group, 8, slots), 0);
	CHECK_EQ(core.catalog.stats->slots_used_bytes, 8 * 6 * FM_PAGE_SIZE);
	CHECK_EQ(core.catalog.groups[3].columns[0].used, 8);
	slot_give(&core, group, 0, slots[0]);
	CHECK_EQ(core.catalog.stats->slots_used_bytes, 47 * FM_PAGE_SIZE);
	CHECK_EQ(core.catalog.groups[3].columns[0].used, 7);
	CHECK_EQ(core.catalog.stats->far_capacity_bytes, 4 * 64 * FM_PAGE_SIZE);
	core_test_close(&core);
}

TEST(parity_slots_are_taken_alone_down_to_the_last_few)
{
	uint32_t slots[EC_N_MAX * 4], taken = 0;
	open_core(4, 2, 64);
	while (slot_take_parity(&core, group, slots) == 0) {
		taken++;
		for (unsigned i = 0; i < 2; i++)
			CHECK(slot_is_used(&core, group, 4 + i, slots[i]));
	}
	CHECK_EQ(taken, 60); /* a sixteenth of the group is repack's */
	CHECK_EQ(core.catalog.groups[3].columns[3].used, 0);
	CHECK_EQ(core.catalog.groups[3].columns[4].used, 60);
	CHECK_EQ(core.catalog.stats->slots_used_bytes, 120 * FM_PAGE_SIZE);
	CHECK_EQ(core.budget.data_bytes, 0);
	CHECK_EQ(slot_take(&core, group, 4, slots), 0); /* room for those all the same */
	CHECK_EQ(core.budget.data_bytes, 16 * FM_PAGE_SIZE);
	slot_give(&core, group, 2, slots[2 * 4]);
	slot_give(&core, group, 5, slots[5 * 4]);
	CHECK_EQ(core.budget.data_bytes, 15 * FM_PAGE_SIZE);
	core_test_close(&core);
}
