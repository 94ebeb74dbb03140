/*
 * farmem/scheme_test.c: the schemes beside the batch ones, on real memory nodes in other processes:
 * none, replicate, split. (What batches do: spanset_test.c.)
 *
 * `scheme_test shm` and `scheme_test tcp` run the same cases; a second word filters.
 */
#define TEST_MAIN_OWN
#include "farmem/cluster_test.h"

static void begin_scheme(uint32_t which, unsigned k, unsigned m)
{
	scheme = which;
	begin(k, m, k + m);
}

static uint32_t group_of(unsigned item)
{
	return record_hdr_group(record_load(record_at(&core, items[item].ssid)));
}

static void lose_and_write_off(unsigned node)
{
	lose(node);
	write_off(node);
}

/* ---- none ---- */

TEST(without_redundancy_a_lost_node_loses_what_it_held_and_no_more)
{
	begin_scheme(SCHEME_NONE, 1, 0);
	nodes_count = 2;
	node_boot(1);
	group_make(1, 1, 0, 1);
	core.config.code = (struct option_code){4, 2};
	struct spanset_item kept[BATCH];
	CHECK_EQ(store_well(BATCH / 2, 1), 0);
	uint32_t first = group_of(0);
	memcpy(kept, items, sizeof(kept));
	/* In turn; but a busy machine's node may miss its. */
	uint64_t give_up = clock_now_ns() + 20 * NS_PER_S;
	while (store_well(BATCH / 2, 2) == 0 && group_of(0) == first && clock_now_ns() < give_up) {
		forget_batch(BATCH / 2);
		atomic_store(&core.catalog.nodes[1 - first].state, NODE_UP);
	}
	CHECK_EQ(group_of(0), 1 - first);
	CHECK_EQ(fetch_batch(BATCH / 2, 0), 0);
	lose_and_write_off(first);
	CHECK_EQ(fetch_batch(BATCH / 2, 0), 0);
	memcpy(items, kept, sizeof(kept));
	(void)fetch_batch(BATCH / 2, -EIO);
	end();
}

TEST(narrow_groups_are_written_in_turn_and_as_many_are_asked_for_as_a_wide_one_has_columns)
{
	begin_scheme(SCHEME_NONE, 1, 0);
	core.config.code = (struct option_code){4, 2};
	CHECK_EQ(scheme_spread(&core), 6);
	for (uint32_t g = 1; g < 4; g++)
		group_make(g, 1, 0, 0);
	core_look_ahead(&core);
	CHECK_EQ(core.catalog.header->groups_wanted, 5);
	uint32_t seen = 0;
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(store_well(BATCH, i), 0);
		seen |= 1u << spanset_last_group(io).v;
	}
	CHECK_EQ(seen, 15);
	end();
}

TEST(alone_in_its_spanset_a_page_leaves_no_dead_space)
{
	begin_scheme(SCHEME_NONE, 1, 0);
	CHECK_EQ(store_well(BATCH, 3), 0);
	for (unsigned i = 0; i < BATCH; i += 2)
		record_clear_live(&core, items[i].ssid, items[i].pos);
	(void)record_reclaim(&core);
	CHECK_EQ(slot_free_count(&core, group_id_make(0)), REGION_BYTES / FM_PAGE_SIZE - BATCH / 2);
	end();
}

/* ---- replicate ---- */

TEST(any_copy_will_do_and_is_checked)
{
	for (unsigned left = 0; left < 3; left++) {
		begin_scheme(SCHEME_REPLICATE, 1, 2);
		CHECK_EQ(store_well(BATCH, 10 + left), 0);
		for (unsigned node = 0; node < 3; node++)
			if (node != left)
				lose(node);
		CHECK_EQ(fetch_batch(BATCH, 0), left == 0 ? 0 : BATCH);
		end();
	}
	begin_scheme(SCHEME_REPLICATE, 1, 2);
	CHECK_EQ(store_well(BATCH, 14), 0);
	spoil(&items[5]);
	CHECK_EQ(fetch_batch(BATCH, 0), 1);
	CHECK_EQ(STAT(crc_mismatches), 1);
	for (unsigned node = 0; node < 3; node++)
		lose_and_write_off(node);
	(void)fetch_batch(BATCH, -EIO);
	end();
}

/* ---- split ---- */

TEST(what_was_split_comes_back_for_every_batch_size)
{
	begin_scheme(SCHEME_SPLIT, 4, 2);
	uint32_t slots = core.catalog.groups[0].slot_count;
	for (unsigned count = 1; count <= BATCH; count++) {
		CHECK_EQ(store_well(count, count), 0);
		for (unsigned i = 0; i < count; i++)
			CHECK_EQ(items[i].pos, 0);
		CHECK_EQ(slot_free_count(&core, group_id_make(0)), slots - count);
		CHECK_EQ(STAT(slots_used_bytes), (uint64_t)count * 6 * 1024);
		CHECK_EQ(fetch_batch(count, 0), 0);
		forget_batch(count);
	}
	CHECK_EQ(slot_free_count(&core, group_id_make(0)), slots);
	CHECK_EQ(STAT(slots_used_bytes), 0);
	end();
}

TEST(neighbours_are_read_together_whichever_of_them_are_asked_for)
{
	begin_scheme(SCHEME_SPLIT, 4, 2);
	CHECK_EQ(store_well(BATCH, 20), 0);
	uint64_t random = 7;
	for (unsigned round = 0; round < 50; round++) {
		unsigned count = 0;
		for (unsigned i = 0; i < BATCH; i++)
			if (test_random(&random) % 3 != 0) {
				fetch_begin(i);
				count++;
			}
		CHECK_EQ(fetch_all(count, 0), 0);
	}
	end();
}

static void try_split(unsigned k, unsigned m)
{
	begin_scheme(SCHEME_SPLIT, k, m);
	CHECK_EQ(store_well(BATCH, k * 10 + m), 0);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	for (unsigned i = 0; i < m; i++)
		lose((k / 2 + i) % (k + m));
	CHECK_EQ(fetch_batch(BATCH, 0), BATCH);
	end();
}

TEST(every_code_a_page_can_be_split_by_survives_m_kills)
{
	static const uint8_t codes[][2] = {{1, 1}, {2, 1}, {2, 2}, {4, 1}, {4, 2}, {8, 2}, {8, 4}};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(codes); i++)
		try_split(codes[i][0], codes[i][1]);
}

TEST(every_pattern_of_at_most_two_lost_pieces_gives_back_every_page)
{
	for (uint32_t pattern = 1; pattern < 1u << 6; pattern++) {
		if (__builtin_popcount(pattern) > 2)
			continue;
		begin_scheme(SCHEME_SPLIT, 4, 2);
		CHECK_EQ(store_well(24, pattern), 0);
		for (unsigned i = 0; i < 6; i++)
			if (pattern & 1u << i)
				lose(i);
		CHECK_EQ(fetch_batch(24, 0), pattern & 15 ? 24 : 0);
		for (unsigned i = 0; i < 6; i++)
			if (pattern & 1u << i)
				write_off(i);
		CHECK_EQ(fetch_batch(24, 0), pattern & 15 ? 24 : 0);
		end();
	}
}

TEST(pieces_lost_while_reads_are_in_flight_lose_nothing)
{
	begin_scheme(SCHEME_SPLIT, 4, 2);
	CHECK_EQ(store_well(BATCH, 3), 0);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < BATCH; i++)
			fetch_begin(i);
		spanset_fetch_submit(io);
		lose(round * 2);
		(void)fetch_all(BATCH, 0);
	}
	CHECK_LT(0, STAT(degraded_reads));
	end();
}

TEST(more_than_m_lost_pieces_are_told)
{
	begin_scheme(SCHEME_SPLIT, 4, 2);
	CHECK_EQ(store_well(BATCH, 5), 0);
	for (unsigned node = 0; node < 5; node += 2)
		lose_and_write_off(node);
	(void)fetch_batch(BATCH, -EIO);
	end();
}

TEST(a_piece_that_changed_at_its_node_is_an_erasure)
{
	begin_scheme(SCHEME_SPLIT, 4, 2);
	CHECK_EQ(store_well(BATCH, 7), 0);
	for (unsigned i = 0; i < 4; i++) {
		items[9 + i].pos = i; /* piece i of one page each */
		spoil(&items[9 + i]);
		items[9 + i].pos = 0;
	}
	CHECK_EQ(fetch_batch(BATCH, 0), 4);
	CHECK_EQ(STAT(crc_mismatches), 4);
	CHECK_EQ(STAT(degraded_reads), 4);
	end();
}

TEST(a_split_store_that_meets_a_dead_node_goes_elsewhere_and_leaves_nothing_behind)
{
	scheme = SCHEME_SPLIT;
	begin(4, 2, 8);
	group_make(1, 4, 2, 2); /* nodes 2..7 */
	CHECK_EQ(store_well(BATCH, 8), 0);
	uint32_t first = spanset_last_group(io).v, slots = core.catalog.groups[first].slot_count;
	unsigned dead = first == 0 ? 0 : 7;
	forget_batch(BATCH);
	lose(dead);
	CHECK_EQ(store_well(BATCH, 9), 0);
	CHECK_EQ(spanset_last_group(io).v, 1 - first);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	unsigned doubts = spanset_lane(io)->quarantine_count;
	CHECK_EQ(STAT(slots_quarantined_bytes), doubts * 1024);
	CHECK_EQ(slot_free_count(&core, group_id_make(first)), slots - doubts);
	write_off(dead);
	spanset_io_maintain(io);
	CHECK_EQ(STAT(slots_quarantined_bytes), 0);
	end();
}

TEST(a_late_piece_is_not_waited_for)
{
	scheme = SCHEME_SPLIT;
	begin_slow(6);
	uint64_t won = STAT(hedged_wins);
	slow_down(1, SLOW_NS);
	CHECK_LT(fault(3), SLOW_NS / 2);
	CHECK_EQ(STAT(hedged_wins), won + 1);
	CHECK_EQ(STAT(degraded_reads), 0);
	while (spanset_lingering(io) > 0)
		CHECK(spanset_fetch_poll(io, clock_now_ns() + NS_PER_S) == NULL);
	end();
}

TEST(pieces_are_asked_for_around_a_slow_node_until_it_is_well)
{
	scheme = SCHEME_SPLIT;
	begin_slow(6);
	uint64_t give_up = clock_now_ns() + 60 * NS_PER_S;
	slow_down(1, SLOW_NS);
	for (unsigned i = 0; !is_slow(1) && clock_now_ns() < give_up; i++)
		(void)fault(i % BATCH);
	CHECK(is_slow(1));
	uint64_t around = STAT(slow_reads);
	(void)fault(0);
	CHECK_LT(around, STAT(slow_reads));
	CHECK_EQ(STAT(degraded_reads), 0);
	slow_down(1, 0);
	for (unsigned i = 0; is_slow(1) && clock_now_ns() < give_up; i++)
		(void)fault(i % BATCH);
	CHECK(!is_slow(1));
	end();
}

int main(int argc, char **argv)
{
	return cluster_main(argc, argv);
}
