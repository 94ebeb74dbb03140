/*
 * farmem/agent/compact_index_test.c: which spansets are paired: complements first, then any that
 * are disjoint, the deadest group first, at 1+1 up to 16+4, over catalogs that change or lie.
 */
#include "farmem/agent/compact_index.h"
#include "farmem/core_test.h"

#define RECORDS 8192u
#define PAIRS_MAX 4096u

static struct core core;
static struct compact_index *index_;
static uint32_t pairs[PAIRS_MAX][2];

static void begin(unsigned k, unsigned m, unsigned groups)
{
	core_test_open(&core,
		&(struct core_test_options){
			.k = k, .m = m, .records_max = RECORDS, .region_bytes = 64 * FM_PAGE_SIZE});
	for (unsigned g = 0; g < groups; g++)
		core_test_group(&core, g, k, m, 64);
	index_ = compact_index_open(&core.catalog);
	CHECK(index_ != NULL);
}

static void end(void)
{
	compact_index_close(index_);
	core_test_close(&core);
}

static uint32_t make(uint32_t group, uint32_t live)
{
	struct ssid id = record_alloc(&core);
	CHECK(!ssid_is_none(id));
	record_publish(&core, id, group, live);
	return id.v;
}

static uint32_t live_of(uint32_t ssid)
{
	return record_hdr_live(record_load(record_at(&core, ssid_make(ssid))));
}

static unsigned passes(uint32_t look)
{
	unsigned looks = 1;
	compact_index_restart(index_);
	while (!compact_index_look(index_, look))
		looks++;
	return looks;
}

static bool any(void *context, uint32_t group)
{
	const uint32_t *busy = context;
	return busy == NULL || *busy != group;
}

/* Each is right by itself, and no spanset is in two of them. */
static void check_pairs(uint32_t count)
{
	static bool seen[RECORDS];
	memset(seen, 0, sizeof seen);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t a = pairs[i][0], b = pairs[i][1];
		CHECK_LT(a, RECORDS);
		CHECK_LT(b, RECORDS);
		CHECK_EQ(live_of(a) & live_of(b), 0);
		CHECK(__builtin_popcount(live_of(a)) >= __builtin_popcount(live_of(b)));
		CHECK(live_of(b) != 0);
		CHECK(!seen[a] && !seen[b]);
		seen[a] = seen[b] = true;
	}
}

TEST(complements_are_paired_before_anything_else)
{
	begin(4, 2, 1);
	for (unsigned i = 0; i < 10; i++) {
		(void)make(0, 0x1);
		(void)make(0, 0x2);
		(void)make(0, 0x3);
	}
	for (unsigned i = 0; i < 5; i++) {
		(void)make(0, 0xe);
		(void)make(0, 0xc);
	}
	(void)passes(7);
	uint32_t count = compact_index_take(index_, 0, pairs, 10);
	CHECK_EQ(count, 10);
	check_pairs(count);
	for (uint32_t i = 0; i < count; i++)
		CHECK_EQ(live_of(pairs[i][0]) | live_of(pairs[i][1]), 0xf);
	/* What is left: 5 of 1, 10 of 2, 5 of 3: unions of two. */
	count = compact_index_take(index_, 0, pairs, PAIRS_MAX);
	CHECK_EQ(count, 5);
	check_pairs(count);
	CHECK_EQ(compact_index_take(index_, 0, pairs, PAIRS_MAX), 0);
	end();
}

TEST(the_fullest_unions_come_first)
{
	begin(4, 2, 1);
	uint32_t three = make(0, 0x3), one = make(0, 0x4);
	(void)make(0, 0x4);
	(void)make(0, 0x1);
	(void)passes(100);
	uint32_t count = compact_index_take(index_, 0, pairs, PAIRS_MAX);
	CHECK_EQ(count, 2);
	check_pairs(count);
	CHECK_EQ(live_of(pairs[0][0]) | live_of(pairs[0][1]), 0x7);
	CHECK_EQ(pairs[0][0], three);
	CHECK_EQ(live_of(pairs[0][1]), live_of(one));
	CHECK_EQ(live_of(pairs[1][0]) | live_of(pairs[1][1]), 0x5);
	end();
}

TEST(full_and_dead_spansets_and_claimed_ones_are_left_alone)
{
	begin(4, 2, 1);
	(void)make(0, 0xf);
	(void)make(0, 0xf);
	uint32_t dead = make(0, 0x1);
	record_clear_live(&core, ssid_make(dead), 0);
	uint32_t claimed = make(0, 0x3);
	CHECK(record_claim(&core, ssid_make(claimed)));
	(void)make(0, 0xc);
	(void)passes(100);
	CHECK_EQ(compact_index_take(index_, 0, pairs, PAIRS_MAX), 0);
	struct compact_totals totals;
	compact_index_totals(index_, &totals);
	CHECK_EQ(totals.live, 4 + 4 + 2 + 2);
	CHECK_LE(totals.positions, 20);
	record_unclaim(&core, ssid_make(claimed));
	(void)passes(100);
	CHECK_EQ(compact_index_take(index_, 0, pairs, PAIRS_MAX), 1);
	end();
}

TEST(spansets_of_different_groups_are_never_paired_and_the_deadest_group_comes_first)
{
	uint32_t group, busy = 2;
	begin(4, 2, 4);
	(void)make(0, 0x3);
	(void)make(1, 0xc);
	(void)make(2, 0x1);
	(void)make(2, 0x2);
	(void)make(3, 0x7);
	(void)make(3, 0x8);
	(void)passes(100);
	CHECK(compact_index_group(index_, any, NULL, &group));
	CHECK_EQ(group, 2);
	CHECK(compact_index_group(index_, any, &busy, &group));
	CHECK_EQ(group, 3);
	CHECK_EQ(compact_index_take(index_, 3, pairs, PAIRS_MAX), 1);
	CHECK_EQ(compact_index_take(index_, 2, pairs, PAIRS_MAX), 1);
	CHECK_EQ(compact_index_take(index_, 0, pairs, PAIRS_MAX), 0);
	CHECK_EQ(compact_index_take(index_, 1, pairs, PAIRS_MAX), 0);
	CHECK(!compact_index_group(index_, any, NULL, &group));
	end();
}

TEST(a_pass_is_taken_in_portions_and_finds_the_same)
{
	begin(4, 2, 1);
	for (unsigned i = 0; i < 1000; i++)
		(void)make(0, 1 + i % 14);
	CHECK_EQ(passes(UINT32_MAX), 1);
	uint32_t whole = compact_index_take(index_, 0, pairs, PAIRS_MAX);
	check_pairs(whole);
	CHECK_LE(100, passes(10));
	uint32_t count = compact_index_take(index_, 0, pairs, PAIRS_MAX);
	CHECK_EQ(count, whole);
	check_pairs(count);
	end();
}

TEST(nothing_is_handed_out_twice_however_little_is_taken_at_once)
{
	static uint32_t all[PAIRS_MAX][2];
	uint32_t total = 0, count;
	begin(4, 2, 1);
	for (unsigned i = 0; i < 700; i++)
		(void)make(0, 1 + i % 14);
	(void)passes(64);
	while ((count = compact_index_take(index_, 0, pairs, 3)) != 0) {
		memcpy(all[total], pairs, count * sizeof *pairs);
		total += count;
	}
	memcpy(pairs, all, sizeof pairs);
	check_pairs(total);
	CHECK_LE(300, total);
	end();
}

TEST(what_changed_since_it_was_noted_is_looked_at_again)
{
	begin(4, 2, 2);
	uint32_t a = make(0, 0x3), b = make(0, 0xc), c = make(0, 0x3), d = make(0, 0xc);
	(void)passes(100);
	record_clear_live(&core, ssid_make(a), 0);
	record_clear_live(&core, ssid_make(b), 2);
	record_clear_live(&core, ssid_make(b), 3); /* dead now */
	CHECK(record_claim(&core, ssid_make(c)));
	uint32_t count = compact_index_take(index_, 0, pairs, PAIRS_MAX);
	check_pairs(count);
	for (uint32_t i = 0; i < count; i++) {
		CHECK(pairs[i][0] != b && pairs[i][1] != b);
		CHECK(pairs[i][0] != c && pairs[i][1] != c);
	}
	(void)d;
	record_unclaim(&core, ssid_make(c));
	end();
}

TEST(wide_codes_have_few_kinds_in_memory_though_many_are_possible)
{
	begin(16, 4, 2);
	uint32_t seed = 1;
	for (unsigned i = 0; i < 4000; i++) {
		seed = seed * 1664525 + 1013904223;
		uint32_t live = (seed >> 8) & 0xffff;
		(void)make(i % 2, live == 0 || live == 0xffff ? 1 : live);
		if (i % 8 == 0)
			(void)make(i % 2, 0xffff & ~live ? 0xffff & ~live : 1);
	}
	(void)passes(1000);
	uint32_t count = compact_index_take(index_, 0, pairs, PAIRS_MAX);
	check_pairs(count);
	CHECK_LE(200, count);
	end();
}

TEST(codes_that_cannot_be_compacted_have_no_pairs)
{
	begin(1, 2, 1);
	(void)make(0, 1);
	(void)make(0, 1);
	(void)passes(100);
	CHECK_EQ(compact_index_take(index_, 0, pairs, PAIRS_MAX), 0);
	end();
}

TEST(a_catalog_that_lies_about_its_groups_has_no_pairs)
{
	uint32_t group;
	begin(4, 2, 2);
	(void)make(0, 0x3);
	(void)make(0, 0xc);
	(void)make(0xfffff, 0x3); /* no such group */
	core.catalog.groups[0].k = 40;
	(void)passes(100);
	CHECK_EQ(compact_index_take(index_, 0, pairs, PAIRS_MAX), 0);
	core.catalog.groups[0].k = 4;
	(void)passes(100);
	core.catalog.groups[0].k = 0;
	CHECK(compact_index_group(index_, any, NULL, &group));
	CHECK_EQ(compact_index_take(index_, group, pairs, PAIRS_MAX), 0);
	core.catalog.groups[0].k = 4;
	end();
}
