/*
 * memnode/merge_node_test.c: compaction at its nodes: what comes of it, in whatever order it is
 * asked for. What goes wrong around it is merge_mishap_test.c's.
 */
#include "memnode/merge_world_test.h"

TEST(every_mask_of_positions_ends_in_the_parity_that_encoding_the_merged_spanset_gives)
{
	world_open();
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, 1), 0);
	for (unsigned n = 0; n < K; n++)
		CHECK_EQ(send_all(n, 1), 0);
	for (unsigned n = K; n < N; n++) {
		check_prepared(n, 1);
		CHECK_EQ(end(n, 1, true), 0);
		CHECK_EQ(usage_of(n).open_count, 0);
		CHECK_EQ(usage_of(n).scratch_bytes, 0);
	}
	check_old();
	world_close();
}

TEST(in_local_mode_the_agent_multiplies_and_the_result_is_the_same)
{
	static uint8_t multiplied[CTL_MERGE_PARTIALS][FM_PAGE_SIZE];
	world_open();
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, 1), 0);
	for (unsigned n = 0; n < K; n++) {
		struct ctl_merge_piece made[PAIRS];
		struct ctl_merge_send send;
		struct ctl_merge_sent sent;
		struct ctl_packed packed;
		struct ctl_result result;
		uint32_t indexes[CTL_MERGE_PARTIALS], crcs[CTL_MERGE_PARTIALS];
		uint8_t outcomes[CTL_MERGE_PARTIALS];
		const uint32_t count = send_make(n, 1, &send, made);
		CHECK(count <= CTL_MERGE_PARTIALS);
		send.targets_count = 0;
		CHECK_EQ(ctl_pack_merge_send(&send, &packed), 0);
		ask(n, CTL_METHOD_MERGE_SEND, &packed, &result);
		CHECK_EQ(ctl_unpack_merge_sent(&result, &send, &sent), 0);
		CHECK_EQ(sent.sent_bytes, count * 4096);
		for (unsigned t = 0; t < M; t++) {
			for (uint32_t i = 0; i < count; i++) {
				ec_partial(&code, FM_PAGE_SIZE, n, t,
					sent.deltas + i * FM_PAGE_SIZE, multiplied[i]);
				indexes[i] = made[i].index;
				crcs[i] = crc32c(multiplied[i], FM_PAGE_SIZE);
			}
			const struct ctl_merge_partial asked = {.txid = 1,
				.target = nodes[K + t].column,
				.position = (uint8_t)n,
				.count = count,
				.indexes = indexes,
				.crcs = crcs,
				.bytes = multiplied[0]};
			CHECK_EQ(partial(K + t, &asked, outcomes), 0);
			for (uint32_t i = 0; i < count; i++)
				CHECK_EQ(outcomes[i], CTL_MERGE_DONE);
		}
		ctl_result_clear(&result);
	}
	for (unsigned n = K; n < N; n++)
		check_prepared(n, 1);
	world_close();
}

TEST(every_message_may_be_repeated_and_nothing_is_added_twice)
{
	world_open();
	for (unsigned round = 0; round < 3; round++)
		for (unsigned n = K; n < N; n++)
			CHECK_EQ(begin(n, 7), 0);
	for (unsigned round = 0; round < 3; round++)
		for (unsigned n = 0; n < K; n++)
			CHECK_EQ(send_all(n, 7), 0);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned n = K; n < N; n++) {
			check_prepared(n, 7);
			CHECK_EQ(send_all(round, 7), 0); /* late, and again */
		}
	}
	for (unsigned round = 0; round < 2; round++)
		for (unsigned n = K; n < N; n++)
			CHECK_EQ(end(n, 7, true), 0);
	check_old();
	world_close();
}

TEST(a_prepare_that_comes_too_early_says_what_is_missing_and_stores_the_rest)
{
	struct ctl_merge_prepared prepared;
	world_open();
	for (unsigned n = K; n < N; n++)
		CHECK_EQ(begin(n, 1), 0);
	CHECK_EQ(send_all(2, 1), 0);
	CHECK_EQ(send_all(0, 1), 0);
	CHECK_EQ(prepare(K, 1, &prepared), 0);
	for (uint32_t i = 0; i < PAIRS; i++) {
		if (masks[i] & 0xa) {
			CHECK_EQ(prepared.outcomes[i], CTL_MERGE_MISSING);
			check_untouched(K, i);
		} else {
			check_pair(K, i, &prepared);
		}
	}
	CHECK_EQ(send_all(3, 1), 0);
	CHECK_EQ(send_all(1, 1), 0);
	check_prepared(K + 1, 1);
	check_prepared(K, 1);
	world_close();
}

TEST(what_was_not_begun_and_what_has_ended_are_told_apart)
{
	struct ctl_merge_prepared prepared;
	world_open();
	CHECK_EQ(prepare(K, 5, &prepared), -ENOENT);
	CHECK_EQ(begin(K, 5), 0);
	CHECK_EQ(begin(K + 1, 5), 0);
	CHECK_EQ(prepare(K, 6, &prepared), -ENOENT);
	CHECK_EQ(prepare(K, 4, &prepared), -EPERM);
	CHECK_EQ(begin(K, 4), -EPERM);
	CHECK_EQ(end(K, 4, false), 0); /* late: what is open stays */
	CHECK_EQ(begin(K, 5), 0);
	CHECK_EQ(usage_of(K).open_count, 1);
	CHECK_EQ(end(K, 5, false), 0);
	CHECK_EQ(usage_of(K).open_count, 0);
	CHECK_EQ(begin(K, 5), -EPERM);
	CHECK_EQ(prepare(K, 5, &prepared), -EPERM);
	CHECK_EQ(send_all(0, 5), -EACCES); /* a late partial: that target refuses it */
	CHECK_EQ(end(K, 9, false), 0);     /* an abort that overtook its begin */
	CHECK_EQ(begin(K, 9), -EPERM);
	CHECK_EQ(begin(K, 8), -EPERM);
	CHECK_EQ(begin(K, 10), 0);
	CHECK_EQ(begin(K, 11), 0); /* ends the earlier one */
	CHECK_EQ(usage_of(K).open_count, 1);
	CHECK_EQ(prepare(K, 10, &prepared), -EPERM);
	CHECK_EQ(send_all(1, 10), -EACCES);
	for (uint32_t i = 0; i < PAIRS; i++)
		check_untouched(K, i);
	check_old();
	world_close();
}

TEST(a_begin_with_other_pairs_under_the_same_number_is_refused)
{
	struct ctl_merge_pair pairs[PAIRS];
	world_open();
	CHECK_EQ(begin(K, 3), 0);
	pairs_make(K, pairs);
	pairs[PAIRS - 1].old_crc ^= 1;
	CHECK_EQ(begin_pairs(K, 3, pairs, PAIRS), -EINVAL);
	pairs[PAIRS - 1].old_crc ^= 1;
	CHECK_EQ(begin_pairs(K, 3, pairs, PAIRS - 1), -EINVAL);
	CHECK_EQ(begin_pairs(K, 3, pairs, PAIRS), 0);
	CHECK_EQ(begin_pairs(K + 1, 3, pairs, PAIRS), 0); /* another lease's affair */
	world_close();
}

/* ---- several at once ---- */

struct group {
	pthread_t thread;
	unsigned turn; /* position p of it is on node (p + turn) % N */
	struct fabric_capability columns[N];
	int error;
};

static const uint8_t group_client[16] = {2};

static void group_open(struct group *group)
{
	for (unsigned p = 0; p < N; p++) {
		struct world_node *node = &nodes[(p + group->turn) % N];
		struct lease *lease;
		CHECK_EQ(lease_reserve(
				 node->table, group_client, SLOTS * 4096ull, &group->columns[p]),
			0);
		CHECK_EQ(lease_get(node->table, &group->columns[p], &lease), 0);
		for (uint32_t s = 0; s < 2 * PAIRS; s++)
			CHECK_EQ(lease_store(lease, slots[s][p] * 4096ull, pieces[s][p], 4096), 0);
		lease_put(lease);
	}
}

static int group_send(struct group *group, unsigned p, uint64_t txid)
{
	struct ctl_merge_piece made[PAIRS];
	struct ctl_merge_send send;
	struct ctl_merge_sent sent;
	const uint32_t count = send_make(p, txid, &send, made);
	int error = -ENOMEM;
	send.source = group->columns[p];
	for (unsigned t = 0; t < M; t++) {
		send.targets[t].capability = group->columns[K + t];
		memcpy(send.targets[t].address, nodes[(K + t + group->turn) % N].address,
			FABRIC_ENDPOINT_MAX);
	}
	for (uint64_t until_ns = clock_now_ns() + ASK_NS;
		error == -ENOMEM && clock_now_ns() < until_ns; clock_pause(until_ns))
		error = send_as((p + group->turn) % N, &send, &sent); /* may be busy */
	for (uint32_t i = 0; i < count && !error; i++)
		error = sent.outcomes[i] == CTL_MERGE_DONE ? 0 : -EBADMSG;
	return error;
}

static int group_finish(struct group *group, unsigned p, uint64_t txid)
{
	struct world_node *node = &nodes[(p + group->turn) % N];
	struct ctl_merge_prepared prepared;
	uint8_t wanted[M][FM_PAGE_SIZE], is[FM_PAGE_SIZE];
	struct lease *lease;
	uint32_t count;
	int error = -ENOMEM;
	for (uint64_t until_ns = clock_now_ns() + ASK_NS;
		error == -ENOMEM && clock_now_ns() < until_ns; clock_pause(until_ns))
		error = offload_merge_prepare(
			node->offload, txid, &group->columns[p], &prepared, &count);
	CHECK_EQ(lease_get(node->table, &group->columns[p], &lease), 0);
	for (uint32_t i = 0; i < PAIRS && !error; i++) {
		merged_parity(i, wanted);
		CHECK_EQ(lease_load(lease, fresh[i] * 4096ull, is, 4096), 0);
		error = memcmp(is, wanted[p - K], 4096) == 0 ? 0 : -EBADMSG;
	}
	lease_put(lease);
	return error ? error
		     : merge_end(offload_merges(node->offload), txid, &group->columns[p], true);
}

static void *group_main(void *argument)
{
	struct group *group = argument;
	struct ctl_merge_pair pairs[PAIRS];
	for (uint64_t txid = 1; txid <= 2 && !group->error; txid++) {
		for (unsigned p = K; p < N; p++) {
			pairs_make(p, pairs);
			const struct ctl_merge_begin beginning = {.txid = txid,
				.target = group->columns[p],
				.position = (uint8_t)p,
				.k = K,
				.m = M,
				.count = PAIRS,
				.pairs = pairs};
			struct world_node *node = &nodes[(p + group->turn) % N];
			group->error = merge_begin(offload_merges(node->offload), &beginning);
		}
		for (unsigned p = 0; p < K && !group->error; p++)
			group->error = group_send(group, p, txid);
		for (unsigned p = K; p < N && !group->error; p++)
			group->error = group_finish(group, p, txid);
	}
	return NULL;
}

TEST(groups_whose_nodes_send_to_each_other_and_to_themselves_merge_at_the_same_time)
{
	static struct group groups[N];
	world_open();
	for (unsigned g = 0; g < N; g++) {
		groups[g] = (struct group){.turn = g};
		group_open(&groups[g]);
	}
	for (unsigned g = 0; g < N; g++)
		CHECK_EQ(pthread_create(&groups[g].thread, NULL, group_main, &groups[g]), 0);
	for (unsigned g = 0; g < N; g++) {
		pthread_join(groups[g].thread, NULL);
		CHECK_EQ(groups[g].error, 0);
	}
	for (unsigned n = 0; n < N; n++)
		CHECK_EQ(usage_of(n).open_count, 0);
	world_close();
}

TEST(a_node_sends_to_itself_and_its_load_says_what_was_sent_and_what_is_open)
{
	static const uint8_t client[16] = {3};
	struct ctl_merge_pair pairs[PAIRS];
	struct ctl_merge_piece made[PAIRS];
	struct ctl_merge_send send;
	struct ctl_merge_sent sent;
	struct ctl_stats stats;
	struct fabric_capability target;
	world_open();
	CHECK_EQ(lease_reserve(nodes[0].table, client, SLOTS * 4096ull, &target), 0);
	pairs_make(K, pairs);
	const struct ctl_merge_begin beginning = {.txid = 1,
		.target = target,
		.position = K,
		.k = K,
		.m = M,
		.count = PAIRS,
		.pairs = pairs};
	CHECK_EQ(merge_begin(offload_merges(nodes[0].offload), &beginning), 0);
	const uint32_t count = send_make(0, 1, &send, made);
	send.targets_count = 1;
	send.targets[0].capability = target;
	memcpy(send.targets[0].address, nodes[0].address, FABRIC_ENDPOINT_MAX);
	CHECK_EQ(send_as(0, &send, &sent), 0);
	CHECK_EQ(sent.target_status[0], 0);
	CHECK_EQ(sent.sent_bytes, count * 4096);
	CHECK_EQ(ctl_ask_stats(nodes[0].client, ASK_NS, &stats, NULL), 0);
	CHECK_EQ(stats.load.merges, 1);
	CHECK_EQ(stats.load.merge_sent_bytes, count * 4096);
	world_close();
}
