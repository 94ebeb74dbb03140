/*
 * memnode/merge_mishap_test.c: compaction at its nodes when something goes wrong: wrong bytes,
 * contradictions, a fence or an end in the middle, restarts, no memory, failing parts.
 */
#include "memnode/merge_world_test.h"

static struct ctl_merge_prepared prepared;

static void begin_and_send(uint64_t txid)
{
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, txid), 0);
	for (unsigned n = 0; n < K; n++)
		CHECK_EQ(send_all(n, txid), 0);
}

/* ---- wrong bytes ---- */

TEST(every_wrong_input_is_named_and_harms_no_other_pair)
{
	static uint8_t rubbish[FM_PAGE_SIZE] = {1};
	struct ctl_merge_piece made[PAIRS];
	struct ctl_merge_send send;
	struct ctl_merge_sent sent;
	world_open();
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, 1), 0);
	for (unsigned n = 1; n < K; n++)
		CHECK_EQ(send_all(n, 1), 0);
	const uint32_t count = send_make(0, 1, &send, made);
	column_store(0, made[3].slot_a, rubbish);
	made[4].crc_b ^= 1u << 31;
	made[5].slot_b = SLOTS;
	made[6].index = PAIRS; /* no such pair */
	made[7].index = 1;     /* a pair whose mask (2) does not have position 0 */
	CHECK_EQ(masks[1], 2);
	CHECK_EQ(send_as(0, &send, &sent), 0);
	for (uint32_t i = 0; i < count; i++)
		CHECK_EQ(sent.outcomes[i], i == 3             ? CTL_MERGE_BAD_A
					   : i == 4           ? CTL_MERGE_BAD_B
					   : i >= 5 && i <= 7 ? CTL_MERGE_REFUSED
							      : CTL_MERGE_DONE);
	CHECK_EQ(sent.target_status[0], 0);
	column_store(K, slots[2 * 1][K], rubbish); /* a's parity of pair 1 */
	CHECK_EQ(prepare(K, 1, &prepared), 0);
	CHECK_EQ(prepared.outcomes[1], CTL_MERGE_BAD_A);
	check_untouched(K, 1);
	for (uint32_t i = 0, piece = 0; i < PAIRS; i++) {
		const bool is_sent = masks[i] & 1;
		if (is_sent && piece >= 3 && piece <= 7)
			CHECK_EQ(prepared.outcomes[i], CTL_MERGE_MISSING);
		else if (i != 1)
			check_pair(K, i, &prepared);
		piece += is_sent;
	}
	world_close();
}

TEST(two_different_partials_for_the_same_spoil_their_pair_and_damaged_ones_may_come_again)
{
	static uint8_t bytes[2][FM_PAGE_SIZE];
	uint32_t indexes[2] = {0, 2}, crcs[2]; /* masks 1 and 3 */
	uint8_t outcomes[2];
	struct ctl_merge_partial asked = {.txid = 1,
		.position = 0,
		.count = 2,
		.indexes = indexes,
		.crcs = crcs,
		.bytes = bytes[0]};
	world_open();
	asked.target = nodes[K].column;
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, 1), 0);
	/* Damaged on their way: neither counts. */
	crcs[0] = crcs[1] = crc32c(bytes[0], FM_PAGE_SIZE) ^ 1;
	CHECK_EQ(partial(K, &asked, outcomes), 0);
	CHECK_EQ(outcomes[0] * 10 + outcomes[1], CTL_MERGE_CONTRADICTS * 11);
	for (unsigned n = 0; n < K; n++)
		CHECK_EQ(send_all(n, 1), 0);
	/* Whole, but others than those that came. */
	crcs[0] = crcs[1] = crc32c(bytes[0], FM_PAGE_SIZE);
	asked.count = 1;
	CHECK_EQ(partial(K, &asked, outcomes), 0);
	CHECK_EQ(outcomes[0], CTL_MERGE_CONTRADICTS);
	for (unsigned round = 0; round < 2; round++) {
		CHECK_EQ(prepare(K, 1, &prepared), 0);
		CHECK_EQ(prepared.outcomes[0], CTL_MERGE_CONTRADICTS);
		check_untouched(K, 0);
		for (uint32_t i = 1; i < PAIRS; i++)
			check_pair(K, i, &prepared);
	}
	/* After the prepare, too: what is answered from now on is not the same any more. */
	asked.indexes = &indexes[1];
	CHECK_EQ(partial(K, &asked, outcomes), 0);
	CHECK_EQ(outcomes[0], CTL_MERGE_CONTRADICTS);
	CHECK_EQ(prepare(K, 1, &prepared), 0);
	CHECK_EQ(prepared.outcomes[2], CTL_MERGE_CONTRADICTS);
	check_prepared(K + 1, 1);
	world_close();
}

/* ---- ended in the middle ---- */

static _Atomic int prepare_error;

static void *prepare_main(void *argument)
{
	atomic_store(&prepare_error, prepare(K, *(uint64_t *)argument, &prepared));
	return NULL;
}

/* A prepare that stands still between its third step and its fourth: 12 pairs are stored. */
static void prepare_hold(pthread_t *thread, uint64_t *txid)
{
	hold_after(K, 3);
	CHECK_EQ(pthread_create(thread, NULL, prepare_main, txid), 0);
	hold_await(K, 1);
}

static void *fence_main(void *argument)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_fence(&nodes[K].column, &packed), 0);
	ask(K, CTL_METHOD_FENCE, &packed, &result);
	CHECK_EQ(ctl_unpack_fence(&result, argument), 0);
	ctl_result_clear(&result);
	return NULL;
}

/* The old capability is refused: the fence is at its work. */
static void fence_await(void)
{
	const uint64_t until_ns = clock_now_ns() + ASK_NS;
	struct lease *lease;
	while (lease_get(nodes[K].table, &nodes[K].column, &lease) == 0) {
		lease_put(lease);
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
	}
}

TEST(a_fence_in_mid_prepare_ends_it_and_is_answered_after_it)
{
	pthread_t preparing, fencing;
	uint64_t txid = 4;
	struct fabric_capability renewed;
	world_open();
	begin_and_send(4);
	prepare_hold(&preparing, &txid);
	CHECK_EQ(pthread_create(&fencing, NULL, fence_main, &renewed), 0);
	fence_await();
	CHECK_EQ(usage_of(K).open_count, 1); /* somebody is at work on it */
	atomic_store(&nodes[K].hold, false);
	pthread_join(fencing, NULL);
	CHECK_EQ(usage_of(K).open_count, 0);
	CHECK_EQ(usage_of(K).scratch_bytes, 0);
	pthread_join(preparing, NULL);
	CHECK(prepare_error == -EACCES || prepare_error == -EPERM);
	CHECK_EQ(prepare(K, 4, &prepared), -EACCES);
	CHECK_EQ(end(K, 4, false), -EACCES);
	nodes[K].column = renewed;
	CHECK_EQ(prepare(K, 4, &prepared), -EPERM);
	CHECK_EQ(begin(K, 4), -EPERM);
	for (uint32_t i = 12; i < PAIRS; i++)
		check_untouched(K, i);
	for (uint32_t i = 0; i < 12; i++)
		column_store(K, fresh[i], (const uint8_t[FM_PAGE_SIZE]){0});
	CHECK_EQ(begin(K, 5), 0); /* and the next one is as good as the first */
	CHECK_EQ(begin(K + 1, 5), 0);
	for (unsigned n = 0; n < K; n++)
		CHECK_EQ(send_all(n, 5), 0);
	check_prepared(K, 5);
	world_close();
}

static void *end_main(void *argument)
{
	(void)argument;
	CHECK_EQ(end(K, 4, false), 0);
	CHECK_EQ(usage_of(K).open_count, 0); /* not before the prepare has stopped */
	return NULL;
}

TEST(an_end_in_mid_prepare_stops_it_and_nothing_lands_afterwards)
{
	pthread_t preparing, ending;
	uint64_t txid = 4;
	const uint64_t until_ns = clock_now_ns() + ASK_NS;
	world_open();
	begin_and_send(4);
	prepare_hold(&preparing, &txid);
	CHECK_EQ(pthread_create(&ending, NULL, end_main, NULL), 0);
	while (begin(K, 4) != -EPERM) { /* until the end is at its work */
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
	}
	CHECK_EQ(usage_of(K).open_count, 1);
	CHECK_EQ(usage_of(K + 1).open_count, 1);
	atomic_store(&nodes[K].hold, false);
	pthread_join(ending, NULL);
	pthread_join(preparing, NULL);
	CHECK_EQ(prepare_error, -EPERM);
	check_old();
	world_close();
}

TEST(a_release_drops_the_scratch_and_the_next_lease_in_that_place_begins_anew)
{
	static const uint8_t client[16] = {1};
	struct fabric_capability other;
	struct ctl_packed packed;
	world_open();
	begin_and_send(4);
	CHECK_EQ(ctl_pack_leases(CTL_METHOD_RELEASE, &nodes[K].column, 1, &packed), 0);
	CHECK_EQ(ask_for_nothing(K, CTL_METHOD_RELEASE, &packed), 0);
	CHECK_EQ(usage_of(K).open_count, 0);
	CHECK_EQ(begin(K, 5), -EACCES);
	const uint32_t place = nodes[K].column.region;
	for (unsigned i = 1; i < LEASES_MAX; i++) { /* so that the next one is in that place */
		CHECK_EQ(lease_reserve(nodes[K].table, client, 4096, &other), 0);
		CHECK_EQ(lease_release(nodes[K].table, &other), 0);
	}
	CHECK_EQ(lease_reserve(nodes[K].table, client, SLOTS * 4096ull, &nodes[K].column), 0);
	CHECK_EQ(nodes[K].column.region, place);
	CHECK_EQ(begin(K, 1), 0);
	CHECK_EQ(end(K, 1, false), 0);
	world_close();
}

TEST(what_nobody_asks_about_for_a_minute_is_dropped_and_counts_as_ended)
{
	world_open();
	begin_and_send(4);
	offload_tick(nodes[K].offload, clock_now_ns() + MERGE_IDLE_NS / 2);
	CHECK_EQ(usage_of(K).open_count, 1);
	offload_tick(nodes[K].offload, clock_now_ns() + MERGE_IDLE_NS + NS_PER_S);
	CHECK_EQ(usage_of(K).open_count, 0);
	CHECK_EQ(usage_of(K).scratch_bytes, 0);
	CHECK_EQ(prepare(K, 4, &prepared), -EPERM);
	check_prepared(K + 1, 4);
	world_close();
}

/* ---- no worker, no memory, no node ---- */

static void *prepare_too_main(void *error)
{
	struct ctl_merge_prepared mine;
	*(int *)error = prepare(K, 4, &mine);
	return NULL;
}

TEST(when_all_workers_are_taken_a_prepare_is_told_so_in_the_end_and_everything_else_is_answered)
{
	pthread_t threads[OFFLOAD_MERGES_MAX];
	int errors[OFFLOAD_MERGES_MAX];
	struct ctl_stats stats;
	world_open();
	begin_and_send(4);
	hold_after(K, 0);
	for (unsigned i = 0; i < OFFLOAD_MERGES_MAX; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, prepare_too_main, &errors[i]), 0);
	hold_await(K, OFFLOAD_MERGES_MAX);
	CHECK_EQ(prepare(K, 4, &prepared), -ENOMEM);
	CHECK_EQ(begin(K, 4), 0);
	CHECK_EQ(send_all(0, 4), 0); /* its partials need no worker there */
	CHECK_EQ(end(K, 3, false), 0);
	CHECK_EQ(ctl_ask_stats(nodes[K].client, ASK_NS, &stats, NULL), 0);
	atomic_store(&nodes[K].hold, false);
	for (unsigned i = 0; i < OFFLOAD_MERGES_MAX; i++) {
		pthread_join(threads[i], NULL);
		CHECK_EQ(errors[i], 0);
	}
	check_prepared(K, 4);
	world_close();
}

#define BIG 66u /* transactions of 256 pairs: more than find scratch */

TEST(scratch_has_a_bound_and_what_ends_makes_room)
{
	static const uint8_t client[16] = {4};
	static struct ctl_merge_pair pairs[CTL_MERGE_PAIRS];
	static struct fabric_capability targets[BIG];
	unsigned opened = 0;
	int error = 0;
	world_open();
	struct merge_table *merges = offload_merges(nodes[0].offload);
	for (uint32_t i = 0; i < CTL_MERGE_PAIRS; i++)
		pairs[i] = (struct ctl_merge_pair){
			.old_slot = CTL_MERGE_PAIRS, .fresh_slot = i, .sources = 1};
	struct ctl_merge_begin asked = {
		.txid = 1, .position = K, .k = K, .m = M, .count = CTL_MERGE_PAIRS, .pairs = pairs};
	for (; opened < BIG && !error; opened++) {
		CHECK_EQ(lease_reserve(nodes[0].table, client, (CTL_MERGE_PAIRS + 1) * 4096ull,
				 &targets[opened]),
			0);
		asked.target = targets[opened];
		error = merge_begin(merges, &asked);
	}
	CHECK_EQ(error, -ENOMEM);
	const struct merge_usage full = usage_of(0);
	CHECK(full.scratch_bytes <= MERGE_SCRATCH_BYTES_MAX);
	CHECK(full.scratch_bytes > MERGE_SCRATCH_BYTES_MAX - (2 << 20));
	CHECK_EQ(full.open_count, opened - 1);
	CHECK_EQ(merge_begin(merges, &asked), -ENOMEM);
	CHECK_EQ(merge_end(merges, 1, &targets[0], false), 0);
	CHECK_EQ(merge_begin(merges, &asked), 0);
	asked.txid = 2; /* takes its own place */
	CHECK_EQ(merge_begin(merges, &asked), 0);
	world_close();
}

TEST(a_target_that_is_gone_or_another_incarnation_is_named_and_the_rest_is_unreachable)
{
	struct ctl_merge_piece made[PAIRS];
	struct ctl_merge_send send;
	struct ctl_merge_sent sent;
	struct fabric_capability before;
	world_open();
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, 1), 0);
	node_close(N - 1);
	const uint32_t count = send_make(0, 1, &send, made);
	CHECK_EQ(send_as(0, &send, &sent), 0);
	CHECK_EQ(sent.target_status[0], 0);
	CHECK_EQ(sent.target_status[1], -ECONNRESET);
	for (uint32_t i = 0; i < count; i++)
		CHECK_EQ(sent.outcomes[i], CTL_MERGE_UNREACHABLE);
	node_open(N - 1);
	before = nodes[N - 1].column;
	column_open(N - 1);
	nodes[N - 1].column = before;
	CHECK_EQ(begin(N - 1, 1), -EACCES);
	CHECK_EQ(prepare(N - 1, 1, &prepared), -EACCES);
	CHECK_EQ(end(N - 1, 1, false), -EACCES);
	const uint64_t until_ns = clock_now_ns() + ASK_NS;
	do { /* the connection may first have to be made anew */
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
		CHECK_EQ(send_as(0, &send, &sent), 0);
	} while (sent.target_status[1] == -ECONNRESET);
	CHECK_EQ(sent.target_status[1], -EACCES);
	CHECK_EQ(sent.outcomes[0], CTL_MERGE_UNREACHABLE);
	world_close();
}

TEST(a_source_that_was_fenced_sends_nothing_any_more)
{
	struct fabric_capability renewed;
	world_open();
	CHECK_EQ(begin(K, 1), 0);
	CHECK_EQ(begin(K + 1, 1), 0);
	CHECK_EQ(lease_fence(nodes[1].table, &nodes[1].column, &renewed), 0);
	CHECK_EQ(send_all(1, 1), -EACCES);
	nodes[1].column = renewed;
	CHECK_EQ(send_all(1, 1), 0);
	world_close();
}

/* ---- what must not be asked for ---- */

TEST(requests_that_make_no_sense_are_named_and_refused)
{
	struct ctl_merge_pair pairs[2] = {{0, 0, 2, 1}, {1, 0, 3, 1}};
	const struct ctl_merge_begin right = {
		.txid = 1, .position = 5, .k = 4, .m = 2, .count = 2, .pairs = pairs};
	CHECK(merge_begin_fault(&right) == NULL);
#define BEGIN_WITH(field_, value_)                                                                 \
	do {                                                                                       \
		struct ctl_merge_begin wrong_ = right;                                             \
		wrong_.field_ = value_;                                                            \
		CHECK(merge_begin_fault(&wrong_) != NULL);                                         \
	} while (0)
	BEGIN_WITH(txid, 0);
	BEGIN_WITH(position, 3);
	BEGIN_WITH(position, 6);
	BEGIN_WITH(k, 0);
	BEGIN_WITH(k, 17);
	BEGIN_WITH(m, 0);
	BEGIN_WITH(m, 5);
	BEGIN_WITH(count, 0);
	BEGIN_WITH(count, CTL_MERGE_PAIRS + 1);
#define PAIR_WITH(field_, value_)                                                                  \
	do {                                                                                       \
		const struct ctl_merge_pair was_ = pairs[1];                                       \
		pairs[1].field_ = value_;                                                          \
		CHECK(merge_begin_fault(&right) != NULL);                                          \
		pairs[1] = was_;                                                                   \
	} while (0)
	PAIR_WITH(sources, 0);
	PAIR_WITH(sources, 0x10);
	PAIR_WITH(old_slot, 1u << 20);
	PAIR_WITH(fresh_slot, 1u << 20);
	PAIR_WITH(fresh_slot, 1); /* its own old one */
	PAIR_WITH(fresh_slot, 2); /* another one's */
	PAIR_WITH(fresh_slot, 0); /* another one's old one */
	PAIR_WITH(old_slot, 2);   /* another one's fresh one */
	CHECK(merge_begin_fault(&right) == NULL);
}

TEST(sends_that_make_no_sense_are_named_and_refused)
{
	struct ctl_merge_piece piece = {.index = CTL_MERGE_PAIRS - 1};
	struct ctl_merge_send right = {.txid = 1,
		.position = 3,
		.k = 4,
		.m = 2,
		.targets_count = 2,
		.targets = {{.address = "10.0.0.1:7400", .position = 4},
			{.address = "[fe80::1]:65535", .position = 5}},
		.count = 1,
		.pieces = &piece};
	static const char *const strange[] = {"", "localhost:7400", "10.0.0.1",
		"10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:99999999999999999999",
		"10.0.0.1:7x", "dns:10.0.0.1:7400", "[::1]", "[::1:7400", "::1]:7400", "[]:1", ":1",
		"[:1", "unix:", "unix:relative", "unix:/a b", "unix:/a\n", "unix-abstract:/x",
		"10.0.0.256:1", "http://10.0.0.1:80"};
	static const char *const possible[] = {"unix:/tmp/x/ctl.sock", "[::1]:1", "127.0.0.1:80"};
	CHECK(merge_send_fault(&right) == NULL);
#define SEND_WITH(field_, value_)                                                                  \
	do {                                                                                       \
		struct ctl_merge_send wrong_ = right;                                              \
		wrong_.field_ = value_;                                                            \
		CHECK(merge_send_fault(&wrong_) != NULL);                                          \
	} while (0)
	SEND_WITH(txid, 0);
	SEND_WITH(position, 4);
	SEND_WITH(k, 0);
	SEND_WITH(k, 17);
	SEND_WITH(m, 0);
	SEND_WITH(m, 1); /* two targets */
	SEND_WITH(m, 5);
	SEND_WITH(count, 0);
	SEND_WITH(count, CTL_MERGE_PAIRS + 1);
	SEND_WITH(targets[1].position, 4);
	SEND_WITH(targets[1].position, 3);
	SEND_WITH(targets[1].position, 6);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(strange); i++) {
		snprintf(right.targets[0].address, FABRIC_ENDPOINT_MAX, "%s", strange[i]);
		CHECK(merge_send_fault(&right) != NULL);
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(possible); i++) {
		snprintf(right.targets[0].address, FABRIC_ENDPOINT_MAX, "%s", possible[i]);
		CHECK(merge_send_fault(&right) == NULL);
	}
	piece.index = CTL_MERGE_PAIRS;
	CHECK(merge_send_fault(&right) != NULL);
	piece.index = 0;
	right.targets_count = 0;
	right.count = CTL_MERGE_PARTIALS + 1;
	CHECK(merge_send_fault(&right) != NULL);
}

/* ---- parts that fail ---- */

/* One merge as an agent does it that asks again: once more for each step that failed. */
static void merge_stubbornly(uint64_t txid, unsigned *failures)
{
	for (unsigned n = K; n < N; n++)
		for (unsigned tries = 0; begin(n, txid) != 0; tries++, ++*failures)
			CHECK(tries < 2);
	for (unsigned n = 0; n < K; n++)
		for (unsigned tries = 0; send_all(n, txid) != 0; tries++, ++*failures)
			CHECK(tries < 2);
	for (unsigned n = K; n < N; n++) {
		for (unsigned tries = 0; prepare(n, txid, &prepared) != 0; tries++, ++*failures)
			CHECK(tries < 2);
		for (uint32_t i = 0; i < PAIRS; i++)
			check_pair(n, i, &prepared);
	}
	for (unsigned n = K; n < N; n++)
		for (unsigned tries = 0; end(n, txid, true) != 0; tries++, ++*failures)
			CHECK(tries < 2);
}

TEST(whatever_fails_once_is_asked_for_again_and_the_result_is_right)
{
	static const char *const points[] = {"memnode.merge.begin", "memnode.merge.begin.answer",
		"memnode.merge.send", "memnode.merge.send.read", "memnode.merge.send.partial",
		"memnode.merge.send.answer", "memnode.merge.partial",
		"memnode.merge.partial.answer", "memnode.merge.prepare",
		"memnode.merge.prepare.store", "memnode.merge.prepare.answer", "memnode.merge.end",
		"memnode.merge.end.answer"};
	uint64_t txid = 1;
	world_open();
	for (unsigned i = 0; i < FM_ARRAY_COUNT(points); i++) {
		for (uint64_t nth = 1; nth <= 3; nth += 2) { /* the third is in the middle */
			unsigned failures = 0;
			CHECK_EQ(fault_arm(points[i], nth, false), 0);
			merge_stubbornly(txid++, &failures);
			/* the parity nodes, two, are asked to begin, to prepare and to end */
			const bool passed_thrice =
				strncmp(points[i], "memnode.merge.begin", 19) &&
				strncmp(points[i], "memnode.merge.end", 17) &&
				strcmp(points[i], "memnode.merge.prepare.answer");
			CHECK_EQ(fault_fired_count(), nth == 1 || passed_thrice);
			CHECK_EQ(failures, fault_fired_count());
			fault_disarm_all();
		}
	}
	check_old();
	world_close();
}
