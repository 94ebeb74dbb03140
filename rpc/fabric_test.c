/*
 * rpc/fabric_test.c: the fabric's contract (rpc/fabric.h), held against real memory nodes in other
 * processes. `fabric_test shm`, `fabric_test tcp` and `fabric_test verbs` run the same cases on
 * each provider; a second word filters. verbs wants an RDMA device (FM_VERBS_ADDRESS, or the
 * first).
 */
#define TEST_MAIN_OWN
#include "base/test.h"

#include <poll.h>

#include "base/fault_point.h"
#include "base/mem.h"
#include "rpc/fabric_node_test.h"

#define REGION_BYTES (4u << 20)
#define SECOND NS_PER_S

static int transport; /* NODE_SHM, NODE_TCP or NODE_VERBS */
static struct node node;
static struct fabric_queue *queue;

static uint64_t in_s(double seconds)
{
	return clock_now_ns() + (uint64_t)(seconds * (double)SECOND);
}

static const char *endpoint(void)
{
	return node.endpoint[transport];
}

static struct fabric_queue *open_queue(uint32_t depth)
{
	struct fabric_queue_options options = {.depth = depth, .spin_ns = 20000};
	struct fabric_queue *q;
	CHECK_EQ(fabric_queue_open(&options, &q), 0);
	return q;
}

static struct fabric_region *attach(
	struct fabric_queue *q, const struct fabric_capability *capability)
{
	struct fabric_region *region;
	int r = fabric_attach(q, endpoint(), capability, in_s(5), &region);
	if (r)
		printf("    attach: %s\n", strerror(-r));
	CHECK_EQ(r, 0);
	return region;
}

/* A fresh node, queue and region for a case. */
static struct fabric_region *begin(struct fabric_capability *capability)
{
	node_kill(&node);
	if (queue && !fabric_in_flight(queue)) /* a failed case may leave some */
		fabric_queue_close(queue);
	queue = NULL;
	node_start(&node, 0);
	queue = open_queue(64);
	CHECK_EQ(node_reserve(&node, REGION_BYTES, capability), 0);
	return attach(queue, capability);
}

static void check_nothing_leaked(void);

static void end(struct fabric_region *region)
{
	fabric_detach(region);
	fabric_queue_close(queue);
	queue = NULL;
	if (transport == NODE_VERBS)
		check_nothing_leaked();
	CHECK_EQ(node_stop(&node), 0);
}

typedef int post_call(struct fabric_region *, const struct fabric_transfer *);

static int post(post_call *call, struct fabric_region *region, uint64_t offset, void *bytes,
	size_t length, uint64_t deadline_ns)
{
	struct iovec iov = {.iov_base = bytes, .iov_len = length};
	struct fabric_transfer transfer = {.offset = offset,
		.iov = &iov,
		.iov_count = 1,
		.tag = offset + 7,
		.deadline_ns = deadline_ns};
	return call(region, &transfer);
}

/* Posts one operation and waits for its status. */
static int run_until(post_call *call, struct fabric_region *region, uint64_t offset, void *bytes,
	size_t length, uint64_t deadline_ns)
{
	struct fabric_completion completion = {0};
	int r = post(call, region, offset, bytes, length, deadline_ns);
	if (r)
		return r;
	CHECK_EQ(fabric_wait(queue, &completion, 1, deadline_ns + SECOND), 1);
	CHECK_EQ(completion.tag, offset + 7);
	return completion.status;
}

static int run(
	post_call *call, struct fabric_region *region, uint64_t offset, void *bytes, size_t length)
{
	return run_until(call, region, offset, bytes, length, in_s(5));
}

static void fill(uint8_t *bytes, size_t length, uint64_t seed)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = (uint8_t)test_random(&seed);
}

TEST(what_is_written_is_read_back_and_is_what_the_node_holds)
{
	struct fabric_capability capability;
	static uint8_t out[65536], in[65536], peek[NODE_PEEK_BYTES];
	struct fabric_region *region = begin(&capability);
	CHECK_EQ(fabric_region_bytes(region), REGION_BYTES);
	CHECK(fabric_region_up(region));
	CHECK_EQ(run(fabric_post_read, region, 0, in, 4096), 0);
	for (size_t i = 0; i < 4096; i++)
		CHECK_EQ(in[i], 0); /* a new region is zeroed */
	for (uint64_t length = 1; length <= 65536; length *= 2) {
		fill(out, length, length);
		memset(in, 0xee, sizeof(in));
		CHECK_EQ(run(fabric_post_write, region, 4096 + length, out, length), 0);
		CHECK_EQ(run(fabric_post_read, region, 4096 + length, in, length), 0);
		CHECK_EQ(memcmp(in, out, length), 0);
		CHECK(length == sizeof(in) || in[length] == 0xee);
	}
	CHECK_EQ(node_peek(&node, &capability, 4096 + 65536, peek), 0);
	CHECK_EQ(memcmp(peek, out, sizeof(peek)), 0);
	/* the very last bytes, and the largest operation */
	CHECK_EQ(run(fabric_post_write, region, REGION_BYTES - 5, out, 5), 0);
	CHECK_EQ(run(fabric_post_read, region, REGION_BYTES - 5, in, 5), 0);
	CHECK_EQ(memcmp(in, out, 5), 0);
	uint8_t *large = malloc(2 * FABRIC_OP_BYTES_MAX);
	fill(large, FABRIC_OP_BYTES_MAX, 99);
	CHECK_EQ(run(fabric_post_write, region, 1u << 20, large, FABRIC_OP_BYTES_MAX), 0);
	CHECK_EQ(run(fabric_post_read, region, 1u << 20, large + FABRIC_OP_BYTES_MAX,
			 FABRIC_OP_BYTES_MAX),
		0);
	CHECK_EQ(memcmp(large, large + FABRIC_OP_BYTES_MAX, FABRIC_OP_BYTES_MAX), 0);
	free(large);
	end(region);
}

TEST(scatter_and_gather_put_every_byte_in_its_place)
{
	struct fabric_capability capability;
	static uint8_t out[300000], in[300000];
	struct fabric_region *region = begin(&capability);
	uint64_t random = 5;
	for (int round = 0; round < 200; round++) {
		struct iovec iov_out[FABRIC_IOV_MAX], iov_in[FABRIC_IOV_MAX];
		uint32_t count = 1 + (uint32_t)(test_random(&random) % FABRIC_IOV_MAX);
		size_t at = 0;
		for (uint32_t i = 0; i < count; i++) {
			size_t length = test_random(&random) % (round % 2 ? 4096 : 50);
			if (i == 0)
				length++;
			iov_out[i] = (struct iovec){out + at, length};
			at += length;
		}
		/* read back in other pieces */
		size_t cut = at / 2;
		iov_in[0] = (struct iovec){in, cut};
		iov_in[1] = (struct iovec){in + cut, 0};
		iov_in[2] = (struct iovec){in + cut, at - cut};
		fill(out, at, random);
		memset(in, 0xee, sizeof(in));
		struct fabric_transfer transfer = {.offset = test_random(&random) % 1000000,
			.iov = iov_out,
			.iov_count = count,
			.tag = 1,
			.deadline_ns = in_s(5)};
		struct fabric_completion done[2];
		CHECK_EQ(fabric_post_write(region, &transfer), 0);
		memset(iov_out, 0, sizeof(iov_out)); /* the vector was copied at post */
		CHECK_EQ(fabric_wait(queue, done, 2, in_s(5)), 1);
		CHECK_EQ(done[0].status, 0);
		transfer.iov = iov_in;
		transfer.iov_count = 3;
		transfer.tag = 2;
		CHECK_EQ(fabric_post_read(region, &transfer), 0);
		CHECK_EQ(fabric_wait(queue, done, 2, in_s(5)), 1);
		CHECK_EQ(done[0].tag, 2);
		CHECK_EQ(done[0].status, 0);
		CHECK_EQ(memcmp(in, out, at), 0);
		CHECK_EQ(in[at], 0xee);
	}
	end(region);
}

TEST(many_operations_in_flight_complete_once_each)
{
	enum { SLOTS = 256, SLOT = 8192 };
	struct fabric_capability capability;
	static uint8_t buffers[64][SLOT];
	static uint32_t version[SLOTS];
	static bool busy[SLOTS];
	struct fabric_region *region = begin(&capability);
	uint64_t random = 11, posted = 0, completed = 0;
	uint32_t free_buffers[64], free_count = 64;
	struct {
		uint32_t slot, buffer;
		bool write;
	} ops[64];
	for (uint32_t i = 0; i < 64; i++)
		free_buffers[i] = i;
	memset(version, 0, sizeof(version));
	memset(busy, 0, sizeof(busy));
	while (completed < 20000) {
		while (free_count && posted < 20000) {
			uint32_t slot = (uint32_t)(test_random(&random) % SLOTS);
			if (busy[slot])
				break;
			uint32_t b = free_buffers[--free_count];
			bool write = test_random(&random) % 2;
			struct iovec iov = {buffers[b], SLOT};
			struct fabric_transfer transfer = {.offset = (uint64_t)slot * SLOT,
				.iov = &iov,
				.iov_count = 1,
				.tag = b,
				.deadline_ns = in_s(10)};
			if (write)
				fill(buffers[b], SLOT, slot * 1000003ull + ++version[slot]);
			ops[b].slot = slot, ops[b].buffer = b, ops[b].write = write;
			busy[slot] = true;
			CHECK_EQ((write ? fabric_post_write : fabric_post_read)(region, &transfer),
				0);
			posted++;
		}
		struct fabric_completion done[16];
		unsigned n = fabric_wait(queue, done, 16, in_s(10));
		CHECK_LT(0, n);
		for (unsigned i = 0; i < n; i++) {
			uint32_t b = (uint32_t)done[i].tag;
			CHECK_EQ(done[i].status, 0);
			CHECK(busy[ops[b].slot]);
			busy[ops[b].slot] = false;
			free_buffers[free_count++] = b;
			completed++;
			if (ops[b].write || !version[ops[b].slot])
				continue;
			static uint8_t expected[SLOT];
			fill(expected, SLOT, ops[b].slot * 1000003ull + version[ops[b].slot]);
			CHECK_EQ(memcmp(buffers[b], expected, SLOT), 0);
		}
	}
	CHECK_EQ(fabric_in_flight(queue), 0);
	end(region);
}

TEST(a_full_queue_and_bad_transfers_are_refused_at_post)
{
	struct fabric_capability capability;
	static uint8_t bytes[FABRIC_OP_BYTES_MAX + 1];
	struct fabric_completion done[64];
	struct fabric_region *region = begin(&capability);
	for (unsigned i = 0; i < 64; i++)
		CHECK_EQ(post(fabric_post_read, region, i * 4096, bytes + i * 4096, 4096, in_s(5)),
			0);
	CHECK_EQ(post(fabric_post_read, region, 0, bytes, 4096, in_s(5)), -EAGAIN);
	CHECK_EQ(fabric_in_flight(queue), 64);
	for (unsigned got = 0; got < 64;) {
		unsigned n = fabric_wait(queue, done, 64, in_s(5));
		CHECK_LT(0, n);
		got += n;
	}
	CHECK_EQ(fabric_in_flight(queue), 0);
	CHECK_EQ(fabric_poll(queue, done, 64), 0);
	CHECK_EQ(post(fabric_post_write, region, REGION_BYTES, bytes, 1, in_s(5)), -ERANGE);
	CHECK_EQ(post(fabric_post_write, region, REGION_BYTES - 1, bytes, 2, in_s(5)), -ERANGE);
	CHECK_EQ(post(fabric_post_read, region, UINT64_MAX, bytes, 2, in_s(5)), -ERANGE);
	CHECK_EQ(post(fabric_post_read, region, 0, bytes, 0, in_s(5)), -EINVAL);
	CHECK_EQ(post(fabric_post_read, region, 0, bytes, FABRIC_OP_BYTES_MAX + 1, in_s(5)),
		-EINVAL);
	struct fabric_transfer none = {.iov = NULL, .iov_count = 0, .deadline_ns = in_s(5)};
	CHECK_EQ(fabric_post_read(region, &none), -EINVAL);
	none.iov_count = FABRIC_IOV_MAX + 1;
	CHECK_EQ(fabric_post_read(region, &none), -EINVAL);
	struct fabric_queue_options options = {.depth = FABRIC_DEPTH_MAX + 1};
	struct fabric_queue *q;
	CHECK_EQ(fabric_queue_open(&options, &q), -EINVAL);
	options.depth = 0;
	CHECK_EQ(fabric_queue_open(&options, &q), -EINVAL);
	end(region);
}

static int try_attach(const char *where, const struct fabric_capability *capability)
{
	struct fabric_region *region;
	int r = fabric_attach(queue, where, capability, in_s(2), &region);
	if (!r)
		fabric_detach(region);
	return r;
}

TEST(a_capability_with_anything_wrong_in_it_is_refused)
{
	struct fabric_capability good;
	struct fabric_region *region = begin(&good);
	for (unsigned bit = 0; bit < 128; bit++) {
		struct fabric_capability bad = good;
		bad.key[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CHECK_EQ(try_attach(endpoint(), &bad), -EACCES);
	}
	struct fabric_capability bad = good;
	bad.lease++;
	CHECK_EQ(try_attach(endpoint(), &bad), -EACCES);
	bad.lease = UINT64_MAX;
	CHECK_EQ(try_attach(endpoint(), &bad), -EACCES);
	bad = good;
	bad.incarnation ^= 1;
	CHECK_EQ(try_attach(endpoint(), &bad), -EACCES);
	bad = good;
	bad.epoch++;
	CHECK_EQ(try_attach(endpoint(), &bad), -EACCES);
	bad = good;
	bad.region++;
	CHECK_EQ(try_attach(endpoint(), &bad), -EACCES);
	/* none of which has hurt the one that is right */
	uint8_t byte = 5;
	CHECK(fabric_region_up(region));
	CHECK_EQ(run(fabric_post_write, region, 0, &byte, 1), 0);
	CHECK_EQ(try_attach(endpoint(), &good), 0);
	CHECK_EQ(run(fabric_post_write, region, 0, &byte, 1), 0);
	end(region);
}

TEST(endpoints_that_are_none_are_refused)
{
	struct fabric_capability capability;
	struct fabric_region *region = begin(&capability);
	CHECK_EQ(try_attach("verbs:x", &capability), fabric_verbs_loaded() ? -EINVAL : -EOPNOTSUPP);
	CHECK_EQ(try_attach("none:x", &capability), -EINVAL);
	CHECK_EQ(try_attach("", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:127.0.0.1", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:127.0.0.1:", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:127.0.0.1:0", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:127.0.0.1:65536", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:127.0.0.1:80x", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:no.such.name:80", &capability), -EINVAL);
	CHECK_EQ(try_attach("shm:", &capability), -EINVAL);
	CHECK_EQ(try_attach("tcp:127.0.0.1:1", &capability), -ECONNREFUSED);
	CHECK_EQ(try_attach("shm:/tmp/no/such.sock", &capability), -ECONNREFUSED);
	char long_name[FABRIC_ENDPOINT_MAX + 10];
	memset(long_name, 'x', sizeof(long_name));
	memcpy(long_name, "tcp:", 4);
	long_name[sizeof(long_name) - 1] = '\0';
	CHECK_EQ(try_attach(long_name, &capability), -EINVAL);
	end(region);
}

/* What an operation says when its lease is gone: verbs learns only that its connection is. */
static bool is_refused(int status)
{
	return status == -EACCES ||
	       (transport == NODE_VERBS && (status == -ECONNRESET || status == -ENOTCONN));
}

TEST(a_released_lease_serves_nobody_and_its_bytes_never_come_back)
{
	struct fabric_capability capability, next;
	static uint8_t bytes[8192];
	struct fabric_region *region = begin(&capability);
	memset(bytes, 0xaa, sizeof(bytes));
	for (uint64_t at = 0; at < REGION_BYTES; at += sizeof(bytes))
		CHECK_EQ(run(fabric_post_write, region, at, bytes, sizeof(bytes)), 0);
	CHECK_EQ(node_release(&node, &capability), 0);
	CHECK(is_refused(run(fabric_post_read, region, 0, bytes, sizeof(bytes))));
	CHECK(is_refused(run(fabric_post_write, region, 0, bytes, sizeof(bytes))));
	CHECK_EQ(try_attach(endpoint(), &capability), -EACCES);
	if (transport == NODE_VERBS)
		CHECK_EQ(fabric_fence(region, in_s(5)), -EACCES);
	/* the place is used again; the old capability and the old handle still open nothing */
	for (int i = 0; i < 8; i++) {
		CHECK_EQ(node_reserve(&node, REGION_BYTES, &next), 0);
		CHECK(is_refused(run(fabric_post_read, region, 0, bytes, sizeof(bytes))));
		CHECK(is_refused(run(fabric_post_write, region, 0, bytes, sizeof(bytes))));
		struct fabric_region *fresh = attach(queue, &next);
		for (uint64_t at = 0; at < REGION_BYTES; at += sizeof(bytes)) {
			memset(bytes, 0xaa, sizeof(bytes));
			CHECK_EQ(run(fabric_post_read, fresh, at, bytes, sizeof(bytes)), 0);
			for (size_t b = 0; b < sizeof(bytes); b++)
				CHECK_EQ(bytes[b], 0);
		}
		memset(bytes, 0xaa, sizeof(bytes));
		CHECK_EQ(run(fabric_post_write, fresh, 0, bytes, sizeof(bytes)), 0);
		fabric_detach(fresh);
		CHECK_EQ(node_release(&node, &next), 0);
	}
	end(region);
}

TEST(a_lease_fenced_by_the_control_plane_refuses_its_old_holders)
{
	struct fabric_capability capability, renewed;
	static uint8_t bytes[4096], peek[NODE_PEEK_BYTES];
	struct fabric_region *region = begin(&capability);
	memset(bytes, 0x11, sizeof(bytes));
	CHECK_EQ(run(fabric_post_write, region, 8192, bytes, sizeof(bytes)), 0);
	CHECK_EQ(node_fence(&node, &capability, &renewed), 0);
	CHECK_NE(renewed.epoch, capability.epoch);
	memset(bytes, 0x22, sizeof(bytes));
	CHECK_NE(run(fabric_post_write, region, 8192, bytes, sizeof(bytes)), 0);
	CHECK_EQ(try_attach(endpoint(), &capability), -EACCES);
	CHECK_EQ(node_peek(&node, &renewed, 8192, peek), 0);
	for (size_t i = 0; i < sizeof(peek); i++)
		CHECK_EQ(peek[i], 0x11);
	struct fabric_region *fresh = attach(queue, &renewed);
	CHECK_EQ(run(fabric_post_read, fresh, 8192, bytes, sizeof(bytes)), 0);
	CHECK_EQ(bytes[100], 0x11);
	memset(bytes, 0x33, sizeof(bytes));
	CHECK_EQ(run(fabric_post_write, fresh, 8192, bytes, sizeof(bytes)), 0);
	CHECK_EQ(node_peek(&node, &renewed, 8192, peek), 0);
	CHECK_EQ(peek[4095], 0x33);
	fabric_detach(fresh);
	end(region);
}

TEST(a_node_killed_in_mid_traffic_completes_everything_and_answers_nothing_later)
{
	for (int round = 0; round < 5; round++) {
		struct fabric_capability capability;
		static uint8_t bytes[64][16384];
		struct fabric_completion done[64];
		struct fabric_region *region = begin(&capability);
		unsigned posted = 0, completed = 0, failed = 0;
		uint64_t kill_at = 500 + (uint64_t)round * 333;
		while (fabric_region_up(region) && posted < 1000000) {
			if (posted == kill_at)
				kill(node.pid, SIGKILL); /* dies while we go on */
			int r = post(posted % 2 ? fabric_post_read : fabric_post_write, region,
				posted % 64 * 16384, bytes[posted % 64], 16384, in_s(5));
			CHECK(r == 0 || r == -EAGAIN || r == -ENOTCONN);
			posted += r == 0;
			unsigned n = fabric_poll(queue, done, 64);
			for (unsigned i = 0; i < n; i++) {
				completed++;
				failed += done[i].status != 0;
				CHECK(done[i].status == 0 || done[i].status == -ECONNRESET);
			}
		}
		while (fabric_in_flight(queue)) {
			unsigned n = fabric_wait(queue, done, 64, in_s(10));
			CHECK_LT(0, n);
			for (unsigned i = 0; i < n; i++, completed++)
				CHECK_EQ(done[i].status, -ECONNRESET);
		}
		CHECK_EQ(completed, posted);
		CHECK_LT(kill_at, posted + 1);
		CHECK(transport == NODE_SHM || failed > 0 || completed > kill_at);
		for (int i = 0; i < 100; i++)
			CHECK_EQ(post(fabric_post_read, region, 0, bytes[0], 4096, in_s(1)),
				-ENOTCONN);
		CHECK_EQ(fabric_fence(region, in_s(1)), -ECONNREFUSED);
		CHECK(!fabric_region_up(region));
		fabric_detach(region);
		fabric_queue_close(queue);
		queue = NULL;
		node_kill(&node);
	}
}

TEST(an_idle_queue_learns_of_a_dead_node_within_milliseconds)
{
	struct fabric_capability capability;
	struct fabric_completion done;
	uint8_t byte;
	struct fabric_region *region = begin(&capability);
	CHECK_EQ(run(fabric_post_read, region, 0, &byte, 1), 0);
	node_kill(&node); /* returns when the process is gone, sockets and all */
	uint64_t start = clock_now_ns();
	const uint64_t until = start + (transport == NODE_VERBS ? 20 * SECOND : 50 * NS_PER_MS);
	while (fabric_region_up(region) && clock_now_ns() < until)
		CHECK_EQ(fabric_poll(queue, &done, 1), 0);
	uint64_t took = clock_now_ns() - start;
	CHECK(!fabric_region_up(region));
	CHECK_LT(took, transport == NODE_VERBS ? 20 * SECOND : 20 * NS_PER_MS);
	CHECK_EQ(post(fabric_post_read, region, 0, &byte, 1, in_s(1)), -ENOTCONN);
	fabric_detach(region);
	fabric_queue_close(queue);
	queue = NULL;
}

/* Within this an operation on shm may still succeed after the node's death (rpc/fabric_shm.c). */
static void outlive_the_bound(void)
{
	uint64_t until = clock_now_ns() + 2 * NS_PER_MS;
	while (clock_now_ns() < until)
		;
}

TEST(no_operation_posted_two_milliseconds_after_a_kill_succeeds)
{
	for (int round = 0; round < 10; round++) {
		struct fabric_capability capability;
		static uint8_t bytes[4096];
		struct fabric_completion done;
		struct fabric_region *region = begin(&capability);
		for (int i = 0; i < 50;
			i++) /* busy to the last moment: the connection was just looked at */
			CHECK_EQ(run(fabric_post_write, region, 0, bytes, sizeof(bytes)), 0);
		node_kill(&node); /* returns when the process is gone, sockets and all */
		outlive_the_bound();
		for (int i = 0; i < 20; i++) {
			int r = post(fabric_post_read, region, 0, bytes, sizeof(bytes), in_s(2));
			CHECK(r == 0 || r == -ENOTCONN);
			if (r)
				continue;
			CHECK_EQ(fabric_wait(queue, &done, 1, in_s(3)), 1);
			CHECK_EQ(done.status, -ECONNRESET);
		}
		fabric_detach(region);
		fabric_queue_close(queue);
		queue = NULL;
	}
}

TEST(a_restarted_node_at_the_same_address_refuses_the_old_capability)
{
	struct fabric_capability capability;
	uint8_t byte = 1;
	struct fabric_region *region = begin(&capability);
	CHECK_EQ(run(fabric_post_write, region, 0, &byte, 1), 0);
	uint16_t port = node.port;
	node_kill(&node);
	node_start(&node, port);
	outlive_the_bound();
	int r = run(fabric_post_read, region, 0, &byte, 1);
	CHECK(r == -ECONNRESET || r == -ENOTCONN);
	CHECK_EQ(fabric_fence(region, in_s(2)), -EACCES);
	CHECK(!fabric_region_up(region));
	CHECK_EQ(try_attach(endpoint(), &capability), -EACCES);
	/* but it lends anew */
	CHECK_EQ(node_reserve(&node, REGION_BYTES, &capability), 0);
	struct fabric_region *fresh = attach(queue, &capability);
	CHECK_EQ(run(fabric_post_write, fresh, 0, &byte, 1), 0);
	fabric_detach(fresh);
	end(region);
}

TEST(a_stopped_node_runs_into_the_deadline_and_a_fence_makes_it_usable_again)
{
	struct fabric_capability capability;
	static uint8_t old[32768], new[4096], peek[NODE_PEEK_BYTES];
	if (transport != NODE_TCP)
		TEST_SKIP("shm and verbs do not need the node's process for an operation");
	struct fabric_region *region = begin(&capability);
	CHECK_EQ(run(fabric_post_write, region, 0, old, sizeof(old)), 0);
	node_freeze(&node);
	memset(old, 0x0d, sizeof(old));
	uint64_t start = clock_now_ns();
	CHECK_EQ(run_until(fabric_post_write, region, 0, old, sizeof(old), in_s(0.05)), -ETIMEDOUT);
	uint64_t took = clock_now_ns() - start;
	CHECK_LE(50 * NS_PER_MS, took);
	CHECK_LT(took, 500 * NS_PER_MS);
	CHECK(!fabric_region_up(region));
	CHECK_EQ(post(fabric_post_read, region, 0, new, 4096, in_s(1)), -ENOTCONN);
	CHECK_EQ(fabric_fence(region, in_s(0.05)), -ETIMEDOUT);
	CHECK_EQ(post(fabric_post_read, region, 0, new, 4096, in_s(1)), -ENOTCONN);
	node_thaw(&node);
	CHECK_EQ(fabric_fence(region, in_s(5)), 0);
	CHECK(fabric_region_up(region));
	struct data_server_stats stats;
	node_stats(&node, &stats);
	CHECK_EQ(stats.fences_count, 1); /* the node was asked: luck is no fence */
	/* From here on no byte of the doubtful write may appear. */
	memset(new, 0x3e, sizeof(new));
	CHECK_EQ(run(fabric_post_write, region, 0, new, sizeof(new)), 0);
	for (int i = 0; i < 2000; i++) {
		CHECK_EQ(run(fabric_post_read, region, 0, new, sizeof(new)), 0);
		for (size_t b = 0; b < sizeof(new); b++)
			CHECK_EQ(new[b], 0x3e);
	}
	CHECK_EQ(node_peek(&node, &capability, 0, peek), 0);
	CHECK_EQ(peek[0], 0x3e);
	end(region);
}

TEST(a_late_read_no_longer_touches_its_buffer)
{
	struct fabric_capability capability;
	static uint8_t bytes[65536], page[4096];
	if (transport != NODE_TCP)
		TEST_SKIP("shm reads are over when post returns, verbs reads need no process");
	struct fabric_region *region = begin(&capability);
	memset(bytes, 0x77, sizeof(bytes));
	CHECK_EQ(run(fabric_post_write, region, 0, bytes, sizeof(bytes)), 0);
	node_freeze(&node);
	memset(bytes, 0xcc, sizeof(bytes));
	CHECK_EQ(run_until(fabric_post_read, region, 0, bytes, sizeof(bytes), in_s(0.02)),
		-ETIMEDOUT);
	node_thaw(&node);
	CHECK_EQ(fabric_fence(region, in_s(5)), 0);
	for (int i = 0; i < 200; i++)
		CHECK_EQ(run(fabric_post_read, region, 0, page, sizeof(page)), 0);
	CHECK_EQ(page[0], 0x77);
	for (size_t i = 0; i < sizeof(bytes); i++)
		CHECK_EQ(bytes[i], 0xcc);
	end(region);
}

TEST(one_late_operation_ends_the_others_of_its_connection_in_doubt)
{
	struct fabric_capability capability, second;
	static uint8_t bytes[8][4096];
	struct fabric_completion done[16];
	if (transport != NODE_TCP)
		TEST_SKIP("shm and verbs operations do not wait for the node's process");
	struct fabric_region *region = begin(&capability);
	CHECK_EQ(node_reserve(&node, REGION_BYTES, &second), 0);
	struct fabric_region *other = attach(queue, &second);
	struct fabric_queue *other_queue = open_queue(4);
	struct fabric_region *elsewhere = attach(other_queue, &capability);
	node_freeze(&node);
	for (unsigned i = 0; i < 8; i++)
		CHECK_EQ(post(fabric_post_write, i % 2 ? other : region, i * 4096, bytes[i], 4096,
				 i == 5 ? in_s(0.03) : in_s(60)),
			0);
	unsigned count = 0, late = 0;
	while (count < 8) {
		unsigned n = fabric_wait(queue, done, 16, in_s(5));
		CHECK_LT(0, n);
		for (unsigned i = 0; i < n; i++, count++) {
			late += done[i].status == -ETIMEDOUT;
			CHECK_EQ(done[i].status,
				done[i].tag == 5 * 4096 + 7 ? -ETIMEDOUT : -ECONNRESET);
		}
	}
	CHECK_EQ(late, 1);
	CHECK(!fabric_region_up(region));
	CHECK(!fabric_region_up(other));
	CHECK(fabric_region_up(elsewhere)); /* another queue, another connection */
	node_thaw(&node);
	/* each region is fenced by itself; the second finds the connection fenced already */
	CHECK_EQ(fabric_fence(region, in_s(5)), 0);
	CHECK(!fabric_region_up(other));
	CHECK_EQ(run(fabric_post_write, region, 0, bytes[0], 4096), 0);
	CHECK_EQ(fabric_fence(other, in_s(5)), 0);
	CHECK(fabric_region_up(region));
	CHECK_EQ(run(fabric_post_write, other, 0, bytes[0], 4096), 0);
	fabric_detach(elsewhere);
	fabric_queue_close(other_queue);
	fabric_detach(other);
	end(region);
}

TEST(a_fence_of_a_healthy_region_keeps_its_bytes)
{
	struct fabric_capability capability;
	static uint8_t bytes[4096];
	struct fabric_region *region = begin(&capability);
	memset(bytes, 9, sizeof(bytes));
	CHECK_EQ(run(fabric_post_write, region, 4096, bytes, sizeof(bytes)), 0);
	for (int i = 0; i < 20; i++)
		CHECK_EQ(fabric_fence(region, in_s(5)), 0);
	memset(bytes, 0, sizeof(bytes));
	CHECK_EQ(run(fabric_post_read, region, 4096, bytes, sizeof(bytes)), 0);
	CHECK_EQ(bytes[4095], 9);
	struct data_server_stats stats;
	node_stats(&node, &stats);
	CHECK_LT(stats.connections_count, 4); /* replaced, not piled up */
	if (transport == NODE_VERBS) {
		struct data_verbs_stats verbs;
		node_verbs_stats(&node, &verbs);
		CHECK_EQ(verbs.queue_pairs_count, 1);
		CHECK_EQ(verbs.fences_count, 20);
	}
	end(region);
}

TEST(two_queues_work_side_by_side_and_regions_come_and_go)
{
	struct fabric_capability capability, more[40];
	uint8_t byte = 3;
	struct fabric_region *region = begin(&capability);
	struct fabric_region *regions[40];
	for (unsigned i = 0; i < 40; i++) {
		CHECK_EQ(node_reserve(&node, 65536, &more[i]), 0);
		regions[i] = attach(queue, &more[i]);
	}
	for (unsigned i = 0; i < 40; i++) {
		byte = (uint8_t)i;
		CHECK_EQ(run(fabric_post_write, regions[i], i, &byte, 1), 0);
	}
	struct fabric_queue *first = queue, *second = open_queue(8);
	queue = second;
	struct fabric_region *again = attach(second, &more[7]);
	CHECK_EQ(run(fabric_post_read, again, 7, &byte, 1), 0);
	CHECK_EQ(byte, 7);
	fabric_queue_close(second); /* detaches what is left */
	queue = first;
	for (unsigned i = 0; i < 40; i += 2)
		fabric_detach(regions[i]);
	for (unsigned i = 1; i < 40; i += 2) {
		CHECK_EQ(run(fabric_post_read, regions[i], i, &byte, 1), 0);
		CHECK_EQ(byte, i);
	}
	for (unsigned i = 1; i < 40; i += 2)
		fabric_detach(regions[i]);
	end(region);
}

/* One slot's bytes as far as they are known: old, or, after a write in doubt, maybe new. */
struct sweep_slot {
	uint8_t value, doubtful;
};

/* A write or read of a slot; after a failure the region is fenced. Returns whether it failed. */
static bool sweep_step(struct fabric_region *region, struct sweep_slot *slots, unsigned step)
{
	static uint8_t bytes[20000];
	struct sweep_slot *slot = &slots[step % 4];
	const uint64_t offset = step % 4 * sizeof(bytes);
	const bool write = step % 3 != 0;
	const uint8_t value = (uint8_t)(step % 250 + 1);
	memset(bytes, write ? value : 0, sizeof(bytes));
	int r = run(
		write ? fabric_post_write : fabric_post_read, region, offset, bytes, sizeof(bytes));
	if (r == 0) {
		if (write)
			slot->value = value;
		for (size_t i = 0; !write && i < sizeof(bytes); i++)
			CHECK(bytes[i] == slot->value || bytes[i] == slot->doubtful);
		if (write)
			slot->doubtful = value;
		return false;
	}
	CHECK_EQ(r, -ECONNRESET);
	CHECK(!fabric_region_up(region));
	if (write)
		slot->doubtful = value;
	for (int tries = 0; tries < 3 && !fabric_region_up(region); tries++)
		(void)!fabric_fence(region, in_s(5)); /* it may meet the fault itself */
	CHECK(fabric_region_up(region));
	return true;
}

TEST(a_connection_lost_at_any_moment_costs_no_acknowledged_byte)
{
	static const char *const points[2][2] = {{"fabric.tcp.send", "fabric.tcp.receive"},
		{"fabric.verbs.post", "fabric.verbs.completion"}};
	struct fabric_capability capability;
	if (transport == NODE_SHM)
		TEST_SKIP("shm has no connection to lose in mid-operation");
	struct fabric_region *region = begin(&capability);
	struct sweep_slot slots[4] = {{0}};
	unsigned failures = 0;
	for (unsigned point = 0; point < 2; point++)
		for (unsigned nth = 1; nth <= 40; nth++) {
			CHECK_EQ(fault_arm(points[transport == NODE_VERBS][point], nth, false), 0);
			for (unsigned step = 0; step < 24; step++)
				failures += sweep_step(region, slots, nth * 31 + step);
			fault_disarm_all();
		}
	CHECK_LT(40, failures);
	/* two in a row: the fence meets the second */
	for (unsigned nth = 1; nth <= 6; nth++) {
		CHECK_EQ(fault_arm(points[transport == NODE_VERBS][1], nth, true), 0);
		CHECK_EQ(fault_arm("fabric.verbs.connect", 1, true), 0);
		uint8_t byte = 0;
		for (int i = 0; i < 10; i++)
			(void)!run(fabric_post_read, region, 0, &byte, 1);
		CHECK(!fabric_region_up(region));
		CHECK_NE(fabric_fence(region, in_s(1)), 0);
		CHECK(!fabric_region_up(region));
		fault_disarm_all();
		CHECK_EQ(fabric_fence(region, in_s(5)), 0);
		for (unsigned step = 0; step < 12; step++)
			CHECK(!sweep_step(region, slots, step));
	}
	end(region);
}

#include "rpc/fabric_verbs_test.h"

int main(int argc, char **argv)
{
	transport = argc < 2 ? -1 : node_transport(argv[1]);
	if (transport < 0) {
		printf("usage: fabric_test shm|tcp|verbs [CASE]\n");
		return 2;
	}
	if (transport == NODE_VERBS && !node_has_verbs())
		return TEST_EXIT_SKIP;
	int status = test_main(argc - 1, argv + 1);
	node_kill(&node);
	return status;
}
