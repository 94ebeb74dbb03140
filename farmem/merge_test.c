/*
 * farmem/merge_test.c: two spansets become one on real memory nodes in other processes, with an
 * agent played by the test: new parities are encoded from what the nodes have.
 *
 * `merge_test shm` and `merge_test tcp` run the same cases; a second word filters.
 */
#define TEST_MAIN_OWN
#include "farmem/merge_test.h"

#include "base/fault_point.h"

/* ---- cases ---- */

TEST(two_half_empty_spansets_become_one_and_every_byte_is_there)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 1);
	CHECK(!merge_pending(&core));
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(merge_pending(&core));
	CHECK(rounds_claim(entry()));
	CHECK_EQ(state_of(pair[0][0]), RECORD_CLAIMED);
	CHECK_EQ(state_of(pair[0][1]), RECORD_CLAIMED);
	uint32_t n = entry()->pairs[0].n;
	commit(entry());
	rounds_until(entry(), MERGE_FREE);
	CHECK_EQ(read_living(8), 0);
	for (unsigned i = 0; i < 8; i++)
		if (span_state(word_of(i)) == SPAN_FAR)
			CHECK_EQ(items[i].ssid.v, n);
	CHECK_EQ(live_of(n), 15);
	CHECK_EQ(state_of(n), RECORD_STABLE);
	CHECK_EQ(state_of(pair[0][0]), RECORD_FREE);
	CHECK_EQ(state_of(pair[0][1]), RECORD_FREE);
	CHECK_EQ(slots_free(), slots_all() - 1);
	CHECK_EQ(STAT(merged_pairs), 1);
	CHECK_EQ(STAT(merge_freed_slots), 4);
	CHECK(!merge_pending(&core));
	forget_living(8);
	end();
}

TEST(what_was_made_one_survives_every_two_losses)
{
	for (uint32_t lost = 3; lost < 1u << 6; lost++) {
		uint32_t pair[1][2];
		if (__builtin_popcount(lost) != 2)
			continue;
		begin_merging(4, 2, 6);
		two_halves(pair, lost);
		want(entry(), (const uint32_t(*)[2])pair, 1);
		CHECK(rounds_claim(entry()));
		commit(entry());
		rounds_until(entry(), MERGE_FREE);
		for (unsigned i = 0; i < 6; i++)
			if (lost >> i & 1) {
				lose(i);
				write_off(i);
			}
		CHECK_EQ(read_living(8), (unsigned)__builtin_popcount(lost & 15));
		end();
	}
}

TEST(both_sources_decode_until_their_last_reader_has_gone)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 5);
	(void)record_reclaim(&core);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	uint64_t pin = epoch_pin(&core); /* a child was forked: its words name a and b */
	CHECK_NE(pin, 0);
	commit(entry());
	rounds_until(entry(), MERGE_FREE);
	CHECK_EQ(state_of(pair[0][0]), RECORD_LIMBO);
	CHECK_EQ(state_of(pair[0][1]), RECORD_LIMBO);
	lose(0);
	write_off(0);
	lose(2);
	write_off(2);
	for (unsigned i = 0; i < 8; i++)
		if (span_state(word_of(i)) == SPAN_FAR) /* items still name a and b */
			fetch_begin(i);
	CHECK_EQ(fetch_all(4, 0), 2);
	CHECK_EQ(slots_free(), slots_all() - 3); /* the parities: three of each column */
	epoch_unpin(&core, 0);
	(void)record_reclaim(&core);
	CHECK_EQ(slots_free(), slots_all() - 1);
	CHECK_EQ(read_living(8), 2);
	forget_living(8);
	end();
}

/* What a word may be when the switch comes, and what becomes of it later. */
static void try_state(unsigned i, struct span_word then, void (*later)(unsigned i))
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 7 + i);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	uint32_t n = entry()->pairs[0].n;
	i = item_of(8, ssid_make(pair[0][1]), 2);
	set_word(i, span_at(then, items[i].ssid.v, items[i].pos));
	commit(entry());
	rounds_until(entry(), MERGE_SWITCHING);
	for (unsigned round = 0; round < 20; round++) {
		merge_call(&core);
		(void)merge_round(&evictor);
		(void)record_reclaim(&core);
	}
	CHECK_EQ(atomic_load(&entry()->phase), MERGE_SWITCHING); /* it waits for that one only */
	CHECK_EQ(live_of(pair[0][1]), 4);
	CHECK_EQ(live_of(n), 15);
	CHECK_EQ(word_of(i).v, span_at(then, items[i].ssid.v, items[i].pos).v);
	later(i);
	rounds_until(entry(), MERGE_FREE);
	CHECK_EQ(slots_free(), slots_all() - 1);
	(void)read_living(8);
	forget_living(8);
	end();
}

static void comes_back_far(unsigned i)
{
	set_word(i, far_word(SPAN_FAR, 0, i));
}

static void comes_near_with_duplicate(unsigned i)
{
	set_word(i, far_word(SPAN_NEAR, SPAN_HAS_FAR, i));
}

static void comes_near(unsigned i)
{
	set_word(i, span_make(SPAN_EMPTY, 0, 3));
	record_clear_live(&core, items[i].ssid, items[i].pos);
}

TEST(a_fetch_under_way_is_waited_for_by_the_merge_and_not_the_other_way_round)
{
	try_state(0, span_make(SPAN_FETCHING, SPAN_REMOTE, 1), comes_near);
	try_state(1, span_make(SPAN_FETCHING, SPAN_REMOTE, 1), comes_near_with_duplicate);
}

TEST(a_duplicate_in_a_staging_slot_keeps_its_old_place_until_the_eviction_is_over)
{
	/* The word names a staging slot; the reference is in that slot. */
	try_state(0, span_make(SPAN_EVICTING, SPAN_SEALED, 1), comes_back_far);
	try_state(1, span_make(SPAN_EVICTING, 0, 1), comes_near);
	try_state(2, span_make(SPAN_DROPPING, 0, 2), comes_near);
}

TEST(a_near_duplicate_follows_like_the_only_copy)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 9);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	uint32_t n = entry()->pairs[0].n;
	unsigned i = item_of(8, ssid_make(pair[0][0]), 1);
	set_word(i, far_word(SPAN_NEAR, SPAN_HAS_FAR | SPAN_HOT, i));
	commit(entry());
	rounds_until(entry(), MERGE_FREE);
	CHECK_EQ(span_ssid(word_of(i)), n);
	CHECK_EQ(span_state(word_of(i)), SPAN_NEAR);
	CHECK_EQ(span_flags(word_of(i)), SPAN_HAS_FAR | SPAN_HOT);
	CHECK_EQ(read_living(8), 0);
	forget_living(8);
	end();
}

TEST(pages_that_left_before_the_commit_are_holes_in_the_new_spanset)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 11);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	uint32_t n = entry()->pairs[0].n;
	forget(item_of(8, ssid_make(pair[0][0]), 0));
	prepare(entry());
	forget(item_of(8, ssid_make(pair[0][1]), 3));
	atomic_store(&entry()->phase, MERGE_COMMITTED);
	rounds_until(entry(), MERGE_FREE);
	CHECK_EQ(live_of(n), 6);
	CHECK_EQ(read_living(8), 0);
	forget_living(8);
	end();
}

TEST(when_all_left_before_the_commit_nothing_is_made)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 12);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	prepare(entry());
	for (unsigned i = 0; i < 8; i++)
		if (span_state(word_of(i)) != SPAN_EMPTY)
			forget(i);
	atomic_store(&entry()->phase, MERGE_COMMITTED);
	rounds_until(entry(), MERGE_FREE);
	(void)record_reclaim(&core);
	CHECK_EQ(slots_free(), slots_all());
	CHECK_EQ(STAT(merged_pairs), 0);
	end();
}

/* ---- refused ---- */

static void check_refused(uint32_t a, uint32_t b)
{
	const uint32_t pair[1][2] = {{a, b}};
	uint32_t free_before = slots_free();
	want(entry(), pair, 1);
	CHECK(!rounds_claim(entry()));
	CHECK_EQ(slots_free(), free_before);
	CHECK_EQ(entry()->pairs[0].n, CATALOG_NO_RECORD);
}

TEST(pairs_that_cannot_be_are_refused_and_leave_nothing)
{
	begin_merging(4, 2, 6);
	core_test_group(&core, 1, 4, 2, 64);
	store_far(12, 13);
	uint32_t a = items[0].ssid.v, b = items[1].ssid.v, c = items[2].ssid.v;
	check_refused(a, b); /* every position lives in both */
	check_refused(a, a);
	check_refused(a, 999);
	check_refused(a, UINT32_MAX - 1);
	keep_only(12, ssid_make(a), 1);
	keep_only(12, ssid_make(b), 3);
	check_refused(a, b); /* one does */
	keep_only(12, ssid_make(c), 14);
	CHECK(record_claim(&core, ssid_make(c)));
	check_refused(a, c); /* somebody has it */
	record_unclaim(&core, ssid_make(c));
	const uint32_t pair[1][2] = {{a, c}};
	want(entry(), pair, 1);
	entry()->group = 1; /* not theirs */
	CHECK(!rounds_claim(entry()));
	want(entry(), pair, 1);
	entry()->count = CATALOG_MERGE_PAIRS + 1;
	CHECK(!rounds_claim(entry()));
	CHECK_EQ(state_of(a), RECORD_STABLE);
	CHECK_EQ(state_of(b), RECORD_STABLE);
	CHECK_EQ(state_of(c), RECORD_STABLE);
	want(entry(), pair, 1);
	CHECK(rounds_claim(entry()));
	end();
}

TEST(nothing_is_begun_in_a_closed_group_or_while_a_child_reads)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 14);
	atomic_store(&core.catalog.groups[0].state, GROUP_CLOSED);
	check_refused(pair[0][0], pair[0][1]);
	atomic_store(&core.catalog.groups[0].state, GROUP_OPEN);
	(void)epoch_pin(&core);
	check_refused(pair[0][0], pair[0][1]);
	epoch_unpin(&core, 0);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	end();
}

TEST(a_group_without_parity_slots_refuses_but_keeps_what_repack_needs)
{
	uint32_t pair[1][2], slots[EC_M_MAX], taken = 0;
	begin_merging(4, 2, 6);
	two_halves(pair, 15);
	while (slot_take_parity(&core, group_id_make(0), slots) == 0)
		taken++;
	CHECK_LT(0, slots_free());
	check_refused(pair[0][0], pair[0][1]);
	CHECK_EQ(taken + slots_free() + 2, slots_all());
	end();
}

TEST(a_transaction_given_up_leaves_both_as_they_were)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 16);
	for (unsigned step = 0; step < 3; step++) {
		want(entry(), (const uint32_t(*)[2])pair, 1);
		CHECK(rounds_claim(entry()));
		if (step > 0)
			prepare(entry());
		if (step == 2) { /* one parity could not be stored */
			entry()->pairs[0].good = 0;
			atomic_store(&entry()->phase, MERGE_COMMITTED);
		} else {
			atomic_store(&entry()->phase, MERGE_ABORTING);
			for (unsigned i = 0; i < 10; i++) {
				merge_call(&core);
				(void)merge_round(&evictor);
			}
			/* Nodes may still store: the fresh slots are nobody's. */
			CHECK_EQ(slots_free(), slots_all() - 3);
			atomic_store(&entry()->phase, MERGE_ABORTED);
		}
		rounds_until(entry(), MERGE_FREE);
		CHECK_EQ(slots_free(), slots_all() - 2);
		CHECK_EQ(state_of(pair[0][0]), RECORD_STABLE);
		CHECK_EQ(state_of(pair[0][1]), RECORD_STABLE);
		CHECK_EQ(read_living(8), 0);
	}
	CHECK_EQ(STAT(merged_pairs), 0);
	forget_living(8);
	end();
}

/* ---- failures at every step ---- */

static const char *const points[] = {"merge.claim", "merge.record", "merge.slots", "merge.publish",
	"merge.switch", "merge.retire", "record.alloc", "record.limbo", "record.dead"};

static void try_fault(const char *point, uint64_t nth)
{
	uint32_t pair[1][2];
	two_halves(pair, nth);
	CHECK_EQ(fault_arm(point, nth, false), 0);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	if (rounds_claim(entry())) {
		commit(entry());
		rounds_until(entry(), MERGE_FREE);
	}
	CHECK_EQ(read_living(8), 0);
	for (unsigned i = 0; i < 8; i++)
		if (span_state(word_of(i)) != SPAN_EMPTY)
			forget(i);
	fault_disarm_all();
	/* What the ring of dead records missed, repack's sweep finds: here, by claiming. */
	for (uint32_t id = 0; id < core.reclaim.fresh; id++)
		if (record_claim(&core, ssid_make(id)))
			record_unclaim(&core, ssid_make(id));
	(void)record_reclaim(&core);
	CHECK_EQ(slots_free(), slots_all());
}

TEST(a_failure_at_any_step_loses_neither_bytes_nor_slots)
{
	begin_merging(4, 2, 6);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(points); i++)
		for (uint64_t nth = 1; nth <= 4; nth++)
			try_fault(points[i], nth);
	end();
}

TEST(a_limbo_without_room_is_tried_again)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 21);
	want(entry(), (const uint32_t(*)[2])pair, 1);
	CHECK(rounds_claim(entry()));
	commit(entry());
	CHECK_EQ(fault_arm("record.limbo", 2, true), 0); /* a goes, b does not */
	rounds_until(entry(), MERGE_SWITCHING);
	for (unsigned i = 0; i < 50; i++) {
		merge_call(&core);
		(void)merge_round(&evictor);
	}
	CHECK_EQ(atomic_load(&entry()->phase), MERGE_SWITCHING);
	CHECK_EQ(state_of(pair[0][1]), RECORD_CLAIMED);
	fault_disarm_all();
	rounds_until(entry(), MERGE_FREE);
	CHECK_EQ(STAT(merged_pairs), 1);
	CHECK_EQ(read_living(8), 0);
	forget_living(8);
	end();
}

TEST(a_full_table_of_records_refuses)
{
	uint32_t pair[1][2];
	begin_merging(4, 2, 6);
	two_halves(pair, 22);
	core.reclaim.fresh = core.catalog.header->records_max;
	uint32_t spare = core.reclaim.free_count;
	core.reclaim.free_count = 0;
	check_refused(pair[0][0], pair[0][1]);
	core.reclaim.free_count = spare;
	end();
}

/* ---- bounds ---- */

static void count_reports(struct core *of)
{
	++*(unsigned *)of->reporter;
}

TEST(a_round_does_a_bounded_part_of_many_pairs_and_tells_the_agent_when_there_is_something_to_do)
{
	static uint32_t pairs[CATALOG_MERGE_PAIRS][2];
	unsigned reports = 0, rounds = 0;
	begin_merging(1, 1, 2);
	store_far(2, 23);
	for (unsigned i = 0; i < CATALOG_MERGE_PAIRS; i++)
		pairs[i][0] = pairs[i][1] = items[0].ssid.v; /* each is refused, and looked at */
	core.report_merges = count_reports;
	core.reporter = &reports;
	want(entry(), (const uint32_t(*)[2])pairs, CATALOG_MERGE_PAIRS);
	while (atomic_load(&entry()->phase) != MERGE_FREE && rounds < TRIES) {
		merge_call(&core);
		(void)merge_round(&evictor);
		rounds++;
	}
	CHECK_LE(CATALOG_MERGE_PAIRS / 64, rounds);
	CHECK_EQ(reports, 1);
	core.merging.lock = 1; /* another evictor is at it */
	want(entry(), (const uint32_t(*)[2])pairs, 1);
	merge_call(&core);
	CHECK(!merge_round(&evictor));
	CHECK_EQ(atomic_load(&entry()->phase), MERGE_WANTED);
	end();
}

/* ---- what found no partner ---- */

#define LEFT_GROUPS 5u
#define LEFT_PAGES 10000u
#define FIRST_PAGE 100u

/* Spansets of which position 3 is dead: nothing to pair them with. */
static void store_three_quarters(void)
{
	for (unsigned first = 0; first < LEFT_PAGES; first += BATCH) {
		CHECK_EQ(store_well(BATCH, first), 0);
		for (unsigned i = 0; i < BATCH; i++) {
			struct page_id page = {FIRST_PAGE + first + i};
			struct record r = record_at(&core, items[i].ssid);
			record_set_owner(r, items[i].pos, (uint32_t)page.v);
			if (items[i].pos == 3) {
				record_clear_live(&core, items[i].ssid, 3);
				continue;
			}
			atomic_store(&core.catalog.words[page.v], far_word(SPAN_FAR, 0, i).v);
			atomic_fetch_add(&core.budget.far_pages, 1);
		}
	}
}

static unsigned left_round(void)
{
	unsigned freed = 0, none = 0;
	while (none < 10) { /* rounds a sweep takes */
		unsigned now = repack_round(&evictor, false);
		(void)record_reclaim(&core);
		evictor.left_next_ns = 0;
		freed += now;
		none = now > 0 ? 0 : none + 1;
	}
	return freed;
}

TEST(while_the_agent_compacts_only_what_found_no_partner_for_a_lap_is_written_anew)
{
	core_test_open(
		&core, &(struct core_test_options){
			       .k = 4, .m = 2, .records_max = 8192, .region_bytes = REGION_BYTES});
	nodes_count = 6;
	for (unsigned i = 0; i < nodes_count; i++)
		node_boot(i);
	for (unsigned i = 0; i < LEFT_GROUPS + 1; i++)
		group_make(i, 4, 2, i);
	io_open();
	memset(&evictor, 0, sizeof(evictor));
	evictor.core = &core;
	evictor.io = io;
	evictor.stripes = 1;
	store_three_quarters();
	CHECK_EQ(left_round(), 0); /* a quarter is dead: little, if nobody compacts */
	uint64_t dead = STAT(dead_bytes);
	CHECK_LT(2048 * FM_PAGE_SIZE, dead);
	atomic_store(&core.catalog.header->compacting, 1);
	CHECK_EQ(left_round(), 0); /* the first lap looks */
	CHECK_EQ(left_round(), 0); /* the second is not due yet */
	CHECK_EQ(STAT(repacked_spansets), 0);
	evictor.left_lap_ns = 1; /* it is */
	unsigned freed = left_round();
	CHECK_LT(100, freed);
	CHECK_LT(STAT(dead_bytes), dead);
	/* Down to where nobody gains, and no further. */
	CHECK_LT(2000 * FM_PAGE_SIZE, STAT(dead_bytes));
	end();
}

int main(int argc, char **argv)
{
	return cluster_main(argc, argv);
}
