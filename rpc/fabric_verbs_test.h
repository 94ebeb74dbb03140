/*
 * rpc/fabric_verbs_test.h: the part of fabric_test.c that is about RDMA: what only verbs does, and
 * that nothing of a client stays at the node. Included by fabric_test.c, whose helpers it uses.
 */
#ifndef FM_RPC_FABRIC_VERBS_TEST_H
#define FM_RPC_FABRIC_VERBS_TEST_H

/* Nothing of an RDMA client may stay at the node when it has gone. */
static void check_nothing_leaked(void)
{
	struct data_verbs_stats stats;
	const uint64_t until = in_s(30);
	do
		node_verbs_stats(&node, &stats);
	while (stats.queue_pairs_count && clock_now_ns() < until);
	CHECK_EQ(stats.queue_pairs_count, 0);
	CHECK_EQ(stats.regions_count, stats.domains_count); /* of leases, until they end */
}

TEST(of_an_endpoints_alternatives_the_first_that_this_process_has_is_taken)
{
	struct fabric_capability capability;
	char endpoints[FABRIC_ENDPOINT_MAX];
	struct fabric_region *region = begin(&capability);
	snprintf(endpoints, sizeof(endpoints), "verbs:127.0.0.1:1,%.60s", node.endpoint[NODE_TCP]);
	if (fabric_verbs_loaded()) /* a node that does not answer is no reason to go elsewhere */
		CHECK_EQ(try_attach(endpoints, &capability), -ECONNREFUSED);
	else
		CHECK_EQ(try_attach(endpoints, &capability), 0);
	snprintf(endpoints, sizeof(endpoints), "%.60s,tcp:127.0.0.1:1", node.endpoint[NODE_TCP]);
	CHECK_EQ(try_attach(endpoints, &capability), 0);
	end(region);
}

TEST(a_deadline_ends_a_connection_and_a_fence_brings_it_back)
{
	struct fabric_capability capability;
	static uint8_t bytes[4096];
	struct data_verbs_stats stats;
	if (transport != NODE_VERBS)
		TEST_SKIP("the other fabrics' deadlines are tested with a node that stands still");
	struct fabric_region *region = begin(&capability);
	memset(bytes, 1, sizeof(bytes));
	CHECK_EQ(run(fabric_post_write, region, 0, bytes, sizeof(bytes)), 0);
	for (int i = 0; i < 5; i++) {
		memset(bytes, 2 + i, sizeof(bytes));
		CHECK_EQ(fault_arm("fabric.verbs.lose", 1, false), 0);
		CHECK_EQ(run_until(fabric_post_write, region, 0, bytes, sizeof(bytes), in_s(0.02)),
			-ETIMEDOUT);
		fault_disarm_all();
		CHECK(!fabric_region_up(region));
		CHECK_EQ(post(fabric_post_read, region, 0, bytes, 1, in_s(1)), -ENOTCONN);
		CHECK_EQ(fabric_fence(region, in_s(20)), 0);
		/* from here on no byte of the doubtful write may appear */
		memset(bytes, 0x3e, sizeof(bytes));
		CHECK_EQ(run(fabric_post_write, region, 0, bytes, sizeof(bytes)), 0);
		CHECK_EQ(run(fabric_post_read, region, 0, bytes, sizeof(bytes)), 0);
		CHECK_EQ(bytes[4095], 0x3e);
	}
	node_verbs_stats(&node, &stats);
	CHECK_EQ(stats.fences_count, 5);
	CHECK_EQ(stats.queue_pairs_count, 1);
	end(region);
}

TEST(a_node_whose_process_stands_still_serves_reads_and_writes_but_no_fence)
{
	struct fabric_capability capability;
	static uint8_t bytes[4096];
	if (transport != NODE_VERBS)
		TEST_SKIP("only an RDMA device serves without its node's CPU");
	struct fabric_region *region = begin(&capability);
	node_freeze(&node);
	memset(bytes, 7, sizeof(bytes));
	CHECK_EQ(run(fabric_post_write, region, 0, bytes, sizeof(bytes)), 0);
	memset(bytes, 0, sizeof(bytes));
	CHECK_EQ(run(fabric_post_read, region, 0, bytes, sizeof(bytes)), 0);
	CHECK_EQ(bytes[99], 7);
	CHECK_EQ(fabric_fence(region, in_s(0.05)), -ETIMEDOUT);
	CHECK(!fabric_region_up(region));
	node_thaw(&node);
	CHECK_EQ(fabric_fence(region, in_s(20)), 0);
	CHECK_EQ(run(fabric_post_read, region, 0, bytes, sizeof(bytes)), 0);
	CHECK_EQ(bytes[99], 7);
	end(region);
}

TEST(memory_the_queue_was_told_of_and_memory_it_was_not_carry_the_same_bytes)
{
	enum { BYTES = 256 << 10 };
	struct fabric_capability capability;
	struct fabric_region *region = begin(&capability);
	uint8_t *known = mem_map(BYTES), *unknown = mem_map(BYTES), *later = mem_map(BYTES);
	fabric_memory(queue, known, BYTES);
	fill(known, BYTES, 1);
	CHECK_EQ(run(fabric_post_write, region, 0, known, BYTES), 0);
	CHECK_EQ(run(fabric_post_read, region, 0, unknown, BYTES), 0);
	CHECK_EQ(memcmp(known, unknown, BYTES), 0);
	fabric_memory(queue, later, BYTES);
	CHECK_EQ(run(fabric_post_read, region, 0, later, BYTES), 0);
	CHECK_EQ(memcmp(known, later, BYTES), 0);
	/* one piece in each, and a piece that begins in a range and ends outside */
	struct iovec iov[3] = {{known + 100, 5000}, {unknown, 7}, {later + BYTES - 50, 50}};
	struct fabric_transfer transfer = {
		.iov = iov, .iov_count = 3, .tag = 1, .deadline_ns = in_s(20)};
	struct fabric_completion done;
	CHECK_EQ(fabric_post_write(region, &transfer), 0);
	CHECK_EQ(fabric_wait(queue, &done, 1, in_s(20)), 1);
	CHECK_EQ(done.status, 0);
	static uint8_t back[5057];
	CHECK_EQ(run(fabric_post_read, region, 0, back, sizeof(back)), 0);
	CHECK_EQ(memcmp(back, known + 100, 5000), 0);
	CHECK_EQ(memcmp(back + 5000, unknown, 7), 0);
	CHECK_EQ(memcmp(back + 5007, later + BYTES - 50, 50), 0);
	end(region);
	mem_unmap(known, BYTES);
	mem_unmap(unknown, BYTES);
	mem_unmap(later, BYTES);
}

#endif
