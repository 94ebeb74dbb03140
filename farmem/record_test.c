/*
 * farmem/record_test.c: packing of records for every code, and their life from FREE to FREE.
 */
#include "farmem/core_test.h"

static struct core core;

static void open_core(unsigned k, unsigned m, uint32_t records_max)
{
	core_test_open(&core,
		&(struct core_test_options){
			.k = k, .m = m, .records_max = records_max, .region_bytes = 1 << 20});
	core_test_group(&core, 0, k, m, 256);
}

/* Writes every field of one record in random order and several times over, then reads all of them.
 */
static void check_packing(unsigned k, unsigned m, uint64_t *random)
{
	static uint8_t space[3][256];
	unsigned n = k + m;
	uint32_t stride = catalog_record_stride(k, m);
	uint32_t owner[EC_K_MAX], crc[EC_N_MAX], slot[EC_N_MAX];
	struct record r = {space[1], (uint8_t)k, (uint8_t)n};
	CHECK_LE(stride, sizeof(space[0]));
	memset(space, 0x5a, sizeof(space));
	for (unsigned round = 0; round < 4; round++)
		for (unsigned i = 0; i < n; i++) {
			unsigned pos = round % 2 ? n - 1 - i : i;
			slot[pos] = (uint32_t)test_random(random) & 0xfffff;
			if (round == 0)
				slot[pos] = pos % 2 ? 0xfffff : 0;
			crc[pos] = (uint32_t)test_random(random);
			record_set_slot(r, pos, slot[pos]);
			record_set_crc(r, pos, crc[pos]);
			if (pos < k) {
				owner[pos] = (uint32_t)test_random(random);
				record_set_owner(r, pos, owner[pos]);
			}
		}
	for (unsigned pos = 0; pos < n; pos++) {
		CHECK_EQ(record_slot(r, pos), slot[pos]);
		CHECK_EQ(record_crc(r, pos), crc[pos]);
		if (pos < k)
			CHECK_EQ(record_owner(r, pos), owner[pos]);
	}
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(space[1][i], 0x5a); /* hdr is not theirs */
	for (unsigned i = stride; i < sizeof(space[1]); i++)
		CHECK_EQ(space[1][i], 0x5a); /* nor is the next record */
}

TEST(owners_crcs_and_slots_of_every_code_fit_the_record_and_keep_apart)
{
	uint64_t random = 1;
	for (unsigned k = 1; k <= EC_K_MAX; k++)
		for (unsigned m = 0; m <= EC_M_MAX; m++)
			check_packing(k, m, &random);
}

TEST(a_record_at_4_2_is_a_cache_line_and_a_far_page_costs_24_bytes)
{
	CHECK_EQ(catalog_record_stride(4, 2), 64);
	CHECK_EQ(catalog_record_stride(4, 2) / 4 + sizeof(uint64_t), 24);
}

TEST(a_record_is_published_with_its_group_and_live_positions)
{
	open_core(4, 2, 100);
	core_test_group(&core, 999, 4, 2, 256);
	struct ssid id = record_alloc(&core);
	CHECK(!ssid_is_none(id));
	CHECK_EQ(record_hdr_state(record_load(record_at(&core, id))), RECORD_FILLING);
	CHECK(!record_claim(&core, id)); /* nobody may have it yet */
	record_publish(&core, id, 999, 5);
	uint64_t hdr = record_load(record_at(&core, id));
	CHECK_EQ(record_hdr_state(hdr), RECORD_STABLE);
	CHECK_EQ(record_hdr_group(hdr), 999);
	CHECK_EQ(record_hdr_live(hdr), 5);
	core_test_close(&core);
}

TEST(ids_are_used_again_and_a_full_table_says_so)
{
	struct ssid ids[7];
	open_core(4, 2, 7);
	for (unsigned i = 0; i < 7; i++) {
		ids[i] = record_alloc(&core);
		CHECK(!ssid_is_none(ids[i]));
	}
	CHECK(ssid_is_none(record_alloc(&core)));
	record_abandon(&core, ids[3]);
	CHECK_EQ(record_alloc(&core).v, ids[3].v);
	CHECK(ssid_is_none(record_alloc(&core)));
	core_test_close(&core);
}

/* Takes slots and publishes a record with all k positions live. */
static struct ssid publish_one(void)
{
	const struct catalog_group *g = &core.catalog.groups[0];
	uint32_t slots[EC_N_MAX];
	struct ssid id = record_alloc(&core);
	CHECK(!ssid_is_none(id));
	CHECK_EQ(slot_take(&core, group_id_make(0), 1, slots), 0);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		record_set_slot(record_at(&core, id), pos, slots[pos]);
	record_publish(&core, id, 0, (1u << g->k) - 1);
	return id;
}

static uint32_t slots_free(void)
{
	return slot_free_count(&core, group_id_make(0));
}

TEST(a_record_whose_last_position_dies_gives_its_slots_back_after_the_grace_period)
{
	struct epoch_thread reader;
	open_core(4, 2, 16);
	CHECK_EQ(epoch_register(&core, "reader", &reader), 0);
	struct ssid id = publish_one();
	CHECK_EQ(slots_free(), 255);
	for (unsigned pos = 0; pos < 3; pos++)
		record_clear_live(&core, id, pos);
	CHECK_EQ(record_reclaim(&core), 0);
	CHECK_EQ(record_hdr_state(record_load(record_at(&core, id))), RECORD_STABLE);
	epoch_enter(&reader);
	record_clear_live(&core, id, 3);
	CHECK_EQ(record_reclaim(&core), 0);
	CHECK_EQ(record_hdr_state(record_load(record_at(&core, id))), RECORD_LIMBO);
	CHECK_EQ(slots_free(), 255);
	epoch_exit(&reader);
	CHECK_EQ(record_reclaim(&core), 1);
	CHECK_EQ(slots_free(), 256);
	CHECK_EQ(record_hdr_state(record_load(record_at(&core, id))), RECORD_FREE);
	core_test_close(&core);
}

TEST(a_claimed_record_has_one_owner_and_is_not_freed_under_it)
{
	open_core(4, 2, 16);
	struct ssid id = publish_one();
	CHECK(record_claim(&core, id));
	CHECK(!record_claim(&core, id));
	for (unsigned pos = 0; pos < 4; pos++)
		record_clear_live(&core, id, pos);
	CHECK_EQ(record_reclaim(&core), 0);
	CHECK_EQ(slots_free(), 255);
	record_unclaim(&core, id); /* dead: queued now */
	CHECK_EQ(record_reclaim(&core), 1);
	CHECK_EQ(slots_free(), 256);
	core_test_close(&core);
}

TEST(slots_that_another_record_took_over_are_given_back_by_that_one)
{
	open_core(4, 2, 16);
	struct ssid old = publish_one(), new = record_alloc(&core);
	CHECK(!ssid_is_none(new));
	uint32_t slots[EC_N_MAX];
	CHECK_EQ(slot_take_parity(&core, group_id_make(0), slots), 0);
	for (unsigned pos = 0; pos < 6; pos++)
		record_set_slot(record_at(&core, new), pos,
			pos < 4 ? record_slot(record_at(&core, old), pos) : slots[pos - 4]);
	CHECK(record_claim(&core, old));
	record_publish_claimed(&core, new, 0, 15);
	CHECK(!record_claim(&core, new));
	for (unsigned pos = 0; pos < 4; pos++)
		record_clear_live(&core, old, pos);
	CHECK(record_retire_keeping(&core, old, 15));
	CHECK_EQ(record_reclaim(&core), 1);
	record_unclaim(&core, new);
	for (unsigned pos = 0; pos < 6; pos++)
		CHECK(slot_is_used(
			&core, group_id_make(0), pos, record_slot(record_at(&core, new), pos)));
	CHECK_EQ(slots_free(), 255);
	for (unsigned pos = 0; pos < 4; pos++)
		record_clear_live(&core, new, pos);
	CHECK_EQ(record_reclaim(&core), 1);
	CHECK_EQ(slots_free(), 256);
	CHECK_EQ(core.catalog.stats->slots_used_bytes, 0);
	core_test_close(&core);
}

TEST(a_record_queued_twice_is_freed_once)
{
	open_core(4, 2, 16);
	struct ssid id = publish_one();
	CHECK(record_claim(&core, id));
	for (unsigned pos = 0; pos < 4; pos++)
		record_clear_live(&core, id, pos);
	record_unclaim(&core, id);
	CHECK(record_claim(&core, id));
	record_unclaim(&core, id);
	CHECK_EQ(record_reclaim(&core), 1);
	struct ssid again = publish_one(); /* the same id lives again while the old entry waits */
	CHECK_EQ(again.v, id.v);
	CHECK_EQ(record_reclaim(&core), 0);
	CHECK_EQ(record_hdr_state(record_load(record_at(&core, again))), RECORD_STABLE);
	core_test_close(&core);
}

struct model {
	bool used;
	uint32_t live;
	struct ssid id;
};

static void model_check(const struct model *model, unsigned count)
{
	unsigned used = 0;
	for (unsigned i = 0; i < count; i++) {
		if (!model[i].used)
			continue;
		uint64_t hdr = record_load(record_at(&core, model[i].id));
		used++;
		CHECK_EQ(record_hdr_state(hdr), RECORD_STABLE);
		CHECK_EQ(record_hdr_live(hdr), model[i].live);
	}
	CHECK_EQ(slots_free(), 256 - used);
}

TEST(random_lives_of_records_match_a_list_of_them)
{
	static struct model model[64];
	uint64_t random = 42;
	memset(model, 0, sizeof(model));
	open_core(4, 2, 64);
	for (unsigned step = 0; step < 20000; step++) {
		struct model *at = &model[test_random(&random) % FM_ARRAY_COUNT(model)];
		if (!at->used) {
			*at = (struct model){true, 15, publish_one()};
			continue;
		}
		unsigned pos = (unsigned)(test_random(&random) % 4);
		if (!(at->live & 1u << pos))
			continue;
		record_clear_live(&core, at->id, pos);
		at->live &= ~(1u << pos);
		if (at->live == 0) {
			at->used = false;
			CHECK_EQ(record_reclaim(&core), 1);
		}
		if (step % 64 == 0)
			model_check(model, FM_ARRAY_COUNT(model));
	}
	core_test_close(&core);
}
