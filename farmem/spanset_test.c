/*
 * farmem/spanset_test.c: storing and fetching spansets on real memory nodes in other processes.
 *
 * `spanset_test shm` and `spanset_test tcp` run the same cases; a second word filters. Nodes die by
 * SIGKILL; every pattern of at most m losses must give back every byte, one more must be told.
 */
#define TEST_MAIN_OWN
#include "farmem/cluster_test.h"

/* ---- cases ---- */

TEST(what_was_stored_comes_back_for_every_batch_size)
{
	begin(4, 2, 6);
	for (unsigned count = 1; count <= BATCH; count++) {
		CHECK_EQ(store_well(count, count), 0);
		CHECK_EQ(fetch_batch(count, 0), 0);
		forget_batch(count);
	}
	CHECK_EQ(slot_free_count(&core, group_id_make(0)), REGION_BYTES / FM_PAGE_SIZE);
	end();
}

static void try_code(unsigned k, unsigned m)
{
	begin(k, m, k + m);
	CHECK_EQ(store_well(BATCH, k * 10 + m), 0);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	for (unsigned i = 0; i < m; i++)
		lose((k / 2 + i) % (k + m));
	unsigned degraded = fetch_batch(BATCH, 0);
	CHECK(m == 0 || degraded > 0);
	end();
	printf("    %u+%u: %u of %u read around %u losses\n", k, m, degraded, BATCH, m);
}

TEST(every_code_survives_m_kills)
{
	static const uint8_t codes[][2] = {{1, 0}, {1, 1}, {1, 2}, {2, 1}, {3, 0}, {3, 2}, {4, 2},
		{5, 4}, {6, 3}, {8, 2}, {8, 4}};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(codes); i++)
		try_code(codes[i][0], codes[i][1]);
}

/* One loss pattern: those nodes die, everything is read, and once more after they were written off.
 */
static void try_pattern(unsigned n, uint32_t pattern)
{
	for (unsigned i = 0; i < n; i++)
		if (pattern & 1u << i)
			lose(i);
	CHECK(fetch_batch(24, 0) > 0 || !(pattern & 15));
	for (unsigned i = 0; i < n; i++)
		if (pattern & 1u << i)
			write_off(i);
	(void)fetch_batch(24, 0);
}

TEST(every_pattern_of_at_most_two_losses_of_4_2_gives_back_every_byte)
{
	for (uint32_t pattern = 1; pattern < 1u << 6; pattern++) {
		if (__builtin_popcount(pattern) > 2)
			continue;
		begin(4, 2, 6);
		CHECK_EQ(store_well(24, pattern), 0);
		try_pattern(6, pattern);
		end();
	}
}

TEST(losses_while_reads_are_in_flight_lose_nothing)
{
	begin(4, 2, 6);
	CHECK_EQ(store_well(BATCH, 3), 0);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < BATCH; i++)
			fetch_begin(i);
		spanset_fetch_submit(io);
		lose(round * 2);
		(void)fetch_all(BATCH, 0);
	}
	CHECK_LT(0, core.catalog.stats->degraded_reads);
	end();
}

TEST(one_loss_too_many_is_told_and_what_can_be_read_is_still_read)
{
	begin(4, 2, 6);
	CHECK_EQ(store_well(BATCH, 5), 0);
	for (unsigned i = 0; i < 3; i++) {
		lose(i);
		write_off(i);
	}
	for (unsigned i = 0; i < BATCH; i++) {
		fetch_begin(i);
		(void)fetch_all(1, items[i].pos < 3 ? -EIO : 0);
	}
	end();
}

TEST(a_dead_position_still_serves_to_decode_others)
{
	begin(2, 1, 3);
	CHECK_EQ(store_well(2, 6), 0);
	CHECK_EQ(items[0].ssid.v, items[1].ssid.v);
	record_clear_live(&core, items[1].ssid, items[1].pos);
	lose(items[0].pos);
	fetch_begin(0);
	CHECK_EQ(fetch_all(1, 0), 1);
	end();
}

TEST(bytes_that_changed_at_the_node_are_an_erasure_counted_and_decoded_around)
{
	begin(4, 2, 6);
	CHECK_EQ(store_well(BATCH, 7), 0);
	spoil(&items[0]);
	spoil(&items[20]);
	CHECK_EQ(fetch_batch(BATCH, 0), 2);
	CHECK_EQ(core.catalog.stats->crc_mismatches, 2);
	CHECK_EQ(core.catalog.stats->degraded_reads, 2);
	end();
}

TEST(a_store_that_meets_a_dead_node_goes_to_another_group_and_leaves_nothing_behind)
{
	begin(4, 2, 8);
	group_make(1, 4, 2, 2); /* nodes 2..7 */
	CHECK_EQ(store_well(BATCH, 8), 0);
	uint32_t first = spanset_last_group(io).v;
	forget_batch(BATCH);
	/* a node of the group it went to, but not of the other */
	lose(first == 0 ? 0 : 7);
	CHECK_EQ(store(BATCH, 9), 0);
	CHECK_EQ(spanset_last_group(io).v, 1 - first);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	forget_batch(BATCH);
	/* only the dead column's slots are in doubt; the others are free again */
	unsigned doubts = spanset_lane(io)->quarantine_count;
	CHECK_LE(doubts, BATCH / 4);
	CHECK_EQ(
		slot_free_count(&core, group_id_make(first)), REGION_BYTES / FM_PAGE_SIZE - doubts);
	write_off(first == 0 ? 0 : 7);
	spanset_io_maintain(io);
	CHECK_EQ(spanset_lane(io)->quarantine_count, 0);
	end();
}

TEST(a_store_with_no_group_left_fails_and_takes_nothing)
{
	begin(2, 1, 3);
	CHECK_EQ(store_well(8, 10), 0);
	forget_batch(8);
	lose(1);
	int rc = store(8, 11);
	CHECK(rc == -EIO || rc == -ENOSPC);
	CHECK_EQ(atomic_load(&core.catalog.nodes[1].state), NODE_SUSPECT);
	CHECK_EQ(store(8, 12), -ENOSPC); /* its node is suspect now */
	CHECK_EQ(core.catalog.header->groups_wanted, 2);
	CHECK_EQ(record_reclaim(&core), 0);
	for (uint32_t i = 0; i < core.reclaim.fresh; i++)
		CHECK_EQ(
			record_hdr_state(record_load(record_at(&core, ssid_make(i)))), RECORD_FREE);
	end();
}

TEST(a_full_group_says_no_room_and_asks_for_another)
{
	begin(2, 1, 3);
	unsigned batches = 0;
	while (store(BATCH, batches) == 0 && batches < 1000)
		batches++;
	/* the last 32 spansets are repack's */
	CHECK_EQ(batches, REGION_BYTES / FM_PAGE_SIZE / (BATCH / 2) - 1);
	CHECK_EQ(core.catalog.header->groups_wanted, 2);
	fill(BATCH, 50);
	CHECK_EQ(spanset_store_reserved(io, items, BATCH), 0);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	CHECK_EQ(spanset_store_reserved(io, items, 1), -ENOSPC);
	group_make(1, 2, 1, 1);
	CHECK_EQ(store_well(BATCH, 77), 0);
	CHECK_EQ(spanset_last_group(io).v, 1);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	end();
}

TEST(a_frozen_node_costs_a_deadline_and_its_doubtful_slots_come_back_after_the_fence)
{
	if (transport != NODE_TCP)
		TEST_SKIP("a frozen node's memory goes on answering over shm and verbs");
	begin(2, 1, 4);
	group_make(1, 2, 1, 1); /* nodes 1, 2, 3 */
	CHECK_EQ(store_well(8, 13), 0);
	unsigned first = spanset_last_group(io).v;
	unsigned victim = first == 0 ? 0 : 3;
	node_freeze(&nodes[victim]);
	CHECK_EQ(store(8, 14), 0); /* late: it went to the other group */
	CHECK_EQ(spanset_last_group(io).v, 1 - first);
	CHECK_EQ(spanset_lane(io)->quarantine_count, 4);
	CHECK_EQ(fetch_batch(8, 0), 0);
	node_thaw(&nodes[victim]);
	atomic_store(&core.catalog.nodes[victim].state, NODE_UP); /* the agent's word */
	uint64_t give_up = clock_now_ns() + 10 * NS_PER_S;
	while (spanset_lane(io)->quarantine_count > 0 && clock_now_ns() < give_up) {
		atomic_store(&core.catalog.nodes[victim].state, NODE_UP);
		spanset_io_maintain(io);
		clock_pause(give_up);
	}
	CHECK_EQ(spanset_lane(io)->quarantine_count, 0);
	end();
}

TEST(a_restarted_node_refuses_the_old_capability_and_its_column_is_read_around)
{
	begin(4, 2, 6);
	CHECK_EQ(store_well(BATCH, 15), 0);
	lose(0);
	node_boot(0); /* same place, other incarnation, no memory of us */
	CHECK_EQ(fetch_batch(BATCH, 0), BATCH / 4);
	int rc = store(BATCH, 16);
	CHECK(rc == -EIO || rc == -ENOSPC);
	end();
}

/* ---- slow nodes ---- */

TEST(a_late_read_gets_a_hedge_which_wins)
{
	begin_slow(6);
	uint64_t started = STAT(hedged_reads), won = STAT(hedged_wins);
	slow_down(1, SLOW_NS);
	CHECK_LT(fault(item_at(1, 0)), SLOW_NS / 2);
	CHECK_EQ(STAT(hedged_reads), started + 1);
	CHECK_EQ(STAT(hedged_wins), won + 1);
	CHECK_EQ(STAT(degraded_reads), 0);
	end();
}

TEST(what_is_read_ahead_waits_for_a_late_node)
{
	begin_slow(6);
	uint64_t started = STAT(hedged_reads), begun = clock_now_ns();
	slow_down(1, SLOW_NS);
	fetch_begin(item_at(1, 0)); /* no demand */
	CHECK_EQ(fetch_all(1, 0), 0);
	CHECK_LE(SLOW_NS, clock_now_ns() - begun);
	CHECK_EQ(STAT(hedged_reads), started);
	end();
}

TEST(reads_go_around_a_slow_node_and_come_back_when_it_is_well)
{
	begin_slow(6);
	uint64_t reads = 4 * BATCH, hedged = STAT(hedged_reads);
	slow_down(2, SLOW_NS);
	for (unsigned i = 0; !is_slow(2) && i < 2 * HEDGE_SLOW_AT; i++, reads++)
		(void)fault(item_at(2, i % (BATCH / 4)));
	CHECK(is_slow(2));
	CHECK_LE(STAT(hedged_reads), HEDGE_BURST + reads / HEDGE_READS_PER_TOKEN);
	/* slow: nobody waits for it any more, and no token is needed */
	uint64_t around = STAT(slow_reads), late = 0;
	for (unsigned i = 0; i < BATCH; i++, reads++)
		late += fault(i) > SLOW_NS / 2;
	CHECK_LE(late, 1);
	CHECK_LE(BATCH / 4 - 2, STAT(slow_reads) - around);
	/* well again: probes find out */
	slow_down(2, 0);
	uint64_t give_up = clock_now_ns() + 30 * NS_PER_S;
	for (; is_slow(2) && clock_now_ns() < give_up; reads++)
		(void)fault(reads % BATCH);
	CHECK(!is_slow(2));
	CHECK_LE(STAT(hedged_reads) - hedged, HEDGE_BURST + reads / HEDGE_READS_PER_TOKEN);
	around = STAT(slow_reads);
	(void)fault(item_at(2, 0));
	CHECK_EQ(STAT(slow_reads), around);
	CHECK_EQ(STAT(degraded_reads), 0);
	end();
}

TEST(without_k_others_a_slow_node_is_waited_for)
{
	begin_slow(6);
	for (unsigned node = 4; node < 6; node++) {
		lose(node);
		write_off(node);
	}
	uint64_t started = STAT(hedged_reads), around = STAT(slow_reads);
	slow_down(0, SLOW_NS);
	for (unsigned i = 0; i < HEDGE_SLOW_AT; i++)
		CHECK_LE(SLOW_NS, fault(item_at(0, i)));
	CHECK_EQ(STAT(hedged_reads), started);
	CHECK_EQ(STAT(slow_reads), around);
	/* known to be slow, and still asked: it has the only copy */
	CHECK(is_slow(0));
	(void)fetch_batch(BATCH, 0);
	end();
}

TEST(when_all_nodes_are_slow_none_is)
{
	begin_slow(6);
	for (unsigned node = 0; node < 6; node++)
		slow_down(node, 8 * NS_PER_MS);
	for (unsigned i = 0; i < 2 * BATCH; i++)
		(void)fault(i * 19 % BATCH);
	for (unsigned node = 0; node < 6; node++)
		CHECK(!is_slow(node));
	CHECK_EQ(STAT(slow_reads), 0);
	end();
}

TEST(a_late_answer_hits_no_buffer_in_use)
{
	struct spanset_fetch *held[SPANSET_FETCH_MAX];
	unsigned count = 0;
	begin_slow(6);
	slow_down(3, SLOW_HOLD);
	unsigned late = item_at(3, 0);
	(void)fault(late);
	CHECK_EQ(spanset_lingering(io), 1);
	/* every fetch there is; the one that lingers is not among them */
	for (unsigned i = 0; spanset_fetch_ready(io); i++) {
		if (items[i % BATCH].pos == 3)
			continue;
		fetch_begin(i % BATCH);
		count++;
	}
	CHECK_EQ(count, SPANSET_FETCH_MAX - 1);
	CHECK(spanset_fetch_begin(io, 1, items[0].ssid, items[0].pos) == NULL);
	spanset_fetch_submit(io);
	uint64_t give_up = clock_now_ns() + 20 * NS_PER_S;
	for (unsigned i = 0; i < count; i++) {
		held[i] = spanset_fetch_poll(io, give_up);
		CHECK(held[i] != NULL);
	}
	slow_down(3, 0);
	while (spanset_lingering(io) > 0 && clock_now_ns() < give_up)
		CHECK(spanset_fetch_poll(io, 0) == NULL);
	CHECK_EQ(spanset_lingering(io), 0);
	for (unsigned i = 0; i < count; i++) {
		CHECK_EQ(held[i]->status, 0);
		CHECK(memcmp(held[i]->bytes, items[held[i]->user].bytes, FM_PAGE_SIZE) == 0);
		spanset_fetch_end(io, held[i]);
	}
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	end();
}

TEST(what_lingers_is_waited_for_at_the_end)
{
	begin_slow(6);
	slow_down(0, SLOW_HOLD);
	slow_down(5, SLOW_HOLD);
	(void)fault(item_at(0, 0));
	(void)fault(item_at(0, 1));
	CHECK_EQ(spanset_lingering(io), 2);
	end(); /* their deadline */
}

TEST(a_column_that_moves_under_a_degraded_read_makes_nobody_suspect)
{
	begin_slow(7);
	struct catalog_column *column = &core.catalog.groups[0].columns[1];
	uint32_t next = atomic_load(&column->generation) + 1;
	write_off(0);
	slow_down(1, SLOW_HOLD);
	fetch_begin(item_at(0, 0));
	spanset_fetch_submit(io);
	CHECK(spanset_fetch_poll(io, clock_now_ns() + 20 * NS_PER_MS) == NULL);
	/* to node 6, which lacks the bytes: its CRC tells that it was asked */
	column->places[next & 1].node = 6;
	CHECK_EQ(node_reserve(&nodes[6], REGION_BYTES, &column->places[next & 1].capability), 0);
	atomic_store(&column->generation, next);
	slow_node_stop(&slow[1]);
	CHECK_EQ(fetch_all(1, 0), 1);
	CHECK_EQ(atomic_load(&core.catalog.nodes[1].state), NODE_UP);
	CHECK_EQ(STAT(crc_mismatches), 1);
	end();
}

TEST(a_store_prefers_a_group_without_a_slow_node)
{
	begin(4, 2, 7);
	group_make(1, 4, 2, 1); /* nodes 1..6 */
	atomic_store(&core.catalog.nodes[0].slow_until_ns, clock_now_ns() + 3600 * NS_PER_S);
	unsigned batches = 0;
	while (store_well(BATCH, 200 + batches) == 0 && spanset_last_group(io).v == 1)
		batches++;
	CHECK_EQ(batches, REGION_BYTES / FM_PAGE_SIZE / (BATCH / 4) - 1);
	CHECK_EQ(spanset_last_group(io).v, 0); /* better than none */
	atomic_store(&core.catalog.nodes[0].slow_until_ns, 0);
	CHECK_EQ(fetch_batch(BATCH, 0), 0);
	end();
}

/* Reads pages whose column is lost; returns what the quickest of three took: this machine has other
 * things to do as well. */
static uint64_t fetch_around(unsigned first)
{
	uint64_t quickest = CLOCK_NEVER_NS;
	for (unsigned i = 0; i < 3; i++) {
		uint64_t begun = clock_now_ns();
		for (unsigned node = 0; node < nodes_count; node++) /* found while it had */
			atomic_store(&core.catalog.nodes[node].slow_until_ns, 0);
		fetch_begin(item_at(0, first + i));
		CHECK_EQ(fetch_all(1, 0), 1);
		quickest = FM_MIN(quickest, clock_now_ns() - begun);
	}
	return quickest;
}

TEST(a_degraded_read_asks_a_busy_node_only_when_it_must)
{
	begin_slow(6);
	write_off(0);
	slow_down(1, SLOW_NS);
	/* As the agent found out, by asking; no read has met it yet. */
	atomic_store(&core.catalog.nodes[1].busy, 3);
	CHECK_LT(fetch_around(0), SLOW_NS / 2);
	/* The busiest last, and nobody left out. */
	atomic_store(&core.catalog.nodes[2].busy, 1);
	CHECK_LT(fetch_around(3), SLOW_NS / 2);
	write_off(3);
	CHECK_LE(SLOW_NS, fetch_around(6));
	end();
}

int main(int argc, char **argv)
{
	return cluster_main(argc, argv);
}
