/*
 * memnode/rebuild_test.c: regions rebuilt from real nodes, which are killed, frozen, and lie.
 *
 * Six nodes hold a 4+2 code's columns, each spanset's pieces in slots of their own. The target is a
 * lease table and an offload in this process.
 */
#include <pthread.h>

#include "base/crc.h"
#include "base/fault_point.h"
#include "base/test.h"
#include "ec/ec.h"
#include "memnode/offload.h"
#include "memnode/rebuild.h"
#include "rpc/fabric_node_test.h"

#define K 4
#define M 2
#define N (K + M)
#define SPANSETS 600u
#define SLOTS 1024u
#define REGION_BYTES (SLOTS * 4096ull)

static struct node nodes[N];
static struct fabric_capability columns[N];
static uint8_t pieces[N][SPANSETS][4096]; /* what is in the columns */
static uint32_t slots[N + 1][SPANSETS];   /* where; the last row: a copy's target */
static struct fabric_queue *queue;
static struct lease_table *table;
static struct offload *offload;
static struct fabric_capability target;
static struct ctl_piece asked_pieces[SPANSETS * (1 + N)];
static struct ctl_rebuild asked;
static struct ctl_rebuilt rebuilt;
static uint64_t seed;
static uint32_t piece_bytes = 4096; /* of what is in `pieces` that much is used */

static uint32_t roll(uint32_t below)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)((seed >> 33) % below);
}

/* Half of them follow each other, half are anywhere. */
static void slots_draw(uint32_t *row)
{
	static uint32_t all[SLOTS];
	for (uint32_t i = 0; i < SLOTS; i++)
		all[i] = i;
	for (uint32_t i = SLOTS - 1; i > 300; i--) {
		uint32_t j = 300 + roll(i - 299), swap = all[i];
		all[i] = all[j];
		all[j] = swap;
	}
	memcpy(row, all, SPANSETS * sizeof(*row));
}

static void pieces_draw(void)
{
	struct ec_code code;
	CHECK_EQ(ec_code_init(&code, K, M), 0);
	for (uint32_t i = 0; i < SPANSETS; i++) {
		const uint8_t *data[K];
		uint8_t *parity[M];
		for (unsigned p = 0; p < K; p++) {
			for (unsigned at = 0; at < 4096; at += 4)
				memcpy(pieces[p][i] + at, &(uint32_t){roll(UINT32_MAX)}, 4);
			data[p] = pieces[p][i];
		}
		for (unsigned p = 0; p < M; p++)
			parity[p] = pieces[K + p][i];
		ec_encode(&code, 4096, data, parity);
	}
	for (unsigned p = 0; p <= N; p++)
		slots_draw(slots[p]);
}

static void write_piece(struct fabric_region *region, uint32_t slot, uint8_t *from)
{
	struct iovec iov = {from, piece_bytes};
	struct fabric_completion done;
	struct fabric_transfer transfer = {.offset = (uint64_t)slot * piece_bytes,
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = clock_now_ns() + 10 * NS_PER_S};
	CHECK_EQ(fabric_post_write(region, &transfer), 0);
	CHECK_EQ(fabric_wait(queue, &done, 1, transfer.deadline_ns), 1);
	CHECK_EQ(done.status, 0);
}

static struct fabric_region *column_attach(unsigned position)
{
	struct fabric_region *region;
	CHECK_EQ(fabric_attach(queue, nodes[position].endpoint[NODE_SHM], &columns[position],
			 clock_now_ns() + 5 * NS_PER_S, &region),
		0);
	return region;
}

static void column_fill(unsigned position)
{
	node_start(&nodes[position], 0);
	CHECK_EQ(node_reserve(&nodes[position], REGION_BYTES, &columns[position]), 0);
	struct fabric_region *region = column_attach(position);
	for (uint32_t i = 0; i < SPANSETS; i++)
		write_piece(region, slots[position][i], pieces[position][i]);
	fabric_detach(region);
}

static void world_open(void)
{
	static const uint8_t client[16] = {9};
	static const struct fabric_queue_options queue_options = {.depth = 4};
	struct lease_table_options leases = {.memory_bytes = 16 << 20};
	CHECK_EQ(fabric_queue_open(&queue_options, &queue), 0);
	seed = 3;
	pieces_draw();
	for (unsigned p = 0; p < N; p++)
		column_fill(p);
	CHECK_EQ(lease_table_open(&leases, &table), 0);
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &target), 0);
	struct offload_options options = {.leases = table, .nice = 5};
	CHECK_EQ(offload_open(&options, &offload), 0);
}

/* Another region, zeroed. */
static void target_renew(void)
{
	static const uint8_t client[16] = {9};
	CHECK_EQ(lease_release(table, &target), 0);
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &target), 0);
}

static void world_close(void)
{
	offload_close(offload);
	lease_table_close(table);
	fabric_queue_close(queue);
	for (unsigned p = N; p-- > 0;) /* the later ones inherited our ends of the earlier */
		node_stop(&nodes[p]);
}

static void ask_source(unsigned source, unsigned position, int transport)
{
	asked.sources[source].position = (uint8_t)position;
	asked.sources[source].capability = columns[position];
	memcpy(asked.sources[source].endpoint, nodes[position].endpoint[transport],
		FABRIC_ENDPOINT_MAX);
}

/* Position `position` from the k others that come first after `first`; k = 1: a copy. */
static void ask(unsigned position, unsigned k, unsigned first, int transport)
{
	memset(&asked, 0, sizeof asked);
	asked.target = target;
	asked.position = (uint8_t)position;
	asked.k = K;
	asked.m = M;
	asked.piece_bytes = piece_bytes == 4096 ? 0 : piece_bytes;
	asked.count = SPANSETS;
	asked.pieces = asked_pieces;
	for (unsigned i = 0; asked.sources_count < k; i++) {
		unsigned p = k == 1 ? position : (first + i) % N;
		if (k == 1 || p != position)
			ask_source(asked.sources_count++, p, transport);
	}
	struct ctl_piece *piece = asked_pieces;
	for (uint32_t i = 0; i < SPANSETS; i++) {
		*piece++ =
			(struct ctl_piece){slots[N][i], crc32c(pieces[position][i], piece_bytes)};
		for (unsigned s = 0; s < k; s++) {
			unsigned p = asked.sources[s].position;
			*piece++ =
				(struct ctl_piece){slots[p][i], crc32c(pieces[p][i], piece_bytes)};
		}
	}
	CHECK(rebuild_fault(&asked) == NULL);
}

static void target_read(const struct fabric_capability *capability, uint8_t *into)
{
	struct lease *lease;
	CHECK_EQ(lease_get(table, capability, &lease), 0);
	CHECK_EQ(lease_load(lease, 0, into, REGION_BYTES), 0);
	lease_put(lease);
}

static uint32_t count_of(uint8_t outcome)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < SPANSETS; i++)
		count += rebuilt.outcomes[i] == outcome;
	return count;
}

/* What is DONE is there, byte by byte; everything else is as it was: zero. */
static void check_target(const struct fabric_capability *capability)
{
	static uint8_t is[REGION_BYTES], wanted[REGION_BYTES];
	memset(wanted, 0, sizeof wanted);
	for (uint32_t i = 0; i < SPANSETS; i++)
		if (rebuilt.outcomes[i] == CTL_REBUILD_DONE)
			memcpy(wanted + (size_t)slots[N][i] * piece_bytes,
				pieces[asked.position][i], piece_bytes);
	target_read(capability, is);
	CHECK_EQ(memcmp(is, wanted, sizeof is), 0);
}

static void every_position_is_rebuilt(void)
{
	world_open();
	for (int transport = NODE_SHM; transport <= NODE_TCP; transport++) {
		for (unsigned position = 0; position < N; position++) {
			ask(position, K, position * 5, transport);
			CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
			CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
			for (unsigned s = 0; s < K; s++)
				CHECK_EQ(rebuilt.source_status[s], 0);
			CHECK(rebuilt.read_ns && rebuilt.decode_ns && rebuilt.store_ns);
			check_target(&target);
			target_renew();
		}
	}
	world_close();
}

TEST(every_position_is_rebuilt_byte_by_byte_over_shm_and_tcp)
{
	every_position_is_rebuilt();
}

TEST(pieces_of_pages_are_rebuilt_too)
{
	piece_bytes = 1024;
	every_position_is_rebuilt();
	piece_bytes = 4096;
}

TEST(a_column_is_copied_and_a_repeated_call_changes_nothing)
{
	world_open();
	for (int transport = NODE_SHM; transport <= NODE_TCP; transport++) {
		ask(5, 1, 0, transport);
		for (unsigned round = 0; round < 2; round++) {
			CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
			CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
			check_target(&target);
		}
		target_renew();
	}
	world_close();
}

TEST(wrong_bytes_of_a_source_and_a_wrong_result_are_told_apart_and_not_stored)
{
	static uint8_t rubbish[4096];
	world_open();
	ask(1, K, 2, NODE_TCP); /* from 2, 3, 4, 5 */
	struct fabric_region *region = column_attach(4);
	write_piece(region, slots[4][7], rubbish);
	fabric_detach(region);
	asked_pieces[8 * (1 + K) + 1].crc ^= 1;    /* spanset 8: the first source "is wrong" */
	asked_pieces[9 * (1 + K)].crc ^= 1u << 31; /* 9: the result */
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(rebuilt.outcomes[7], CTL_REBUILD_BAD_SOURCE + 2);
	CHECK_EQ(rebuilt.outcomes[8], CTL_REBUILD_BAD_SOURCE + 0);
	CHECK_EQ(rebuilt.outcomes[9], CTL_REBUILD_WRONG);
	CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS - 3);
	check_target(&target);
	world_close();
}

/* ---- things that happen meanwhile ---- */

static int call_error;

static void *call_main(void *argument)
{
	(void)argument;
	call_error = offload_rebuild(offload, &asked, &rebuilt);
	return NULL;
}

static void call_start(pthread_t *thread)
{
	CHECK_EQ(pthread_create(thread, NULL, call_main, NULL), 0);
}

/* Waits until something was stored: the call is in its middle. */
static void call_await_first(void)
{
	static uint8_t is[REGION_BYTES];
	const uint64_t until_ns = clock_now_ns() + 10 * NS_PER_S;
	do {
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
		target_read(&target, is);
	} while (is[0] == 0 && memcmp(is, is + 1, sizeof is - 1) == 0);
}

TEST(a_source_killed_in_mid_rebuild_leaves_what_was_done_done_and_the_rest_unreachable)
{
	for (int transport = NODE_SHM; transport <= NODE_TCP; transport++) {
		pthread_t thread;
		world_open();
		ask(0, K, 1, transport);
		asked.rate_bytes_per_s = SPANSETS * 4096; /* a second */
		call_start(&thread);
		call_await_first();
		node_kill(&nodes[3]);
		pthread_join(thread, NULL);
		CHECK_EQ(call_error, 0);
		CHECK_NE(rebuilt.source_status[2], 0);
		CHECK_EQ(rebuilt.source_status[0], 0);
		CHECK(count_of(CTL_REBUILD_DONE) > 0);
		CHECK(count_of(CTL_REBUILD_UNREACHABLE) > SPANSETS / 2);
		CHECK_EQ(count_of(CTL_REBUILD_DONE) + count_of(CTL_REBUILD_UNREACHABLE), SPANSETS);
		check_target(&target);
		world_close();
	}
}

TEST(a_source_that_falls_silent_holds_a_worker_for_no_longer_than_the_bounds_say)
{
	pthread_t thread;
	world_open();
	ask(0, K, 1, NODE_TCP);
	asked.rate_bytes_per_s = SPANSETS * 4096;
	call_start(&thread);
	call_await_first();
	node_freeze(&nodes[2]);
	uint64_t before_ns = clock_now_ns();
	pthread_join(thread, NULL);
	CHECK_EQ(call_error, 0);
	CHECK(clock_now_ns() - before_ns < REBUILD_READ_NS + 3 * NS_PER_S);
	CHECK_EQ(rebuilt.source_status[1], -ETIMEDOUT);
	CHECK(count_of(CTL_REBUILD_DONE) > 0);
	CHECK_EQ(count_of(CTL_REBUILD_DONE) + count_of(CTL_REBUILD_UNREACHABLE), SPANSETS);
	before_ns = clock_now_ns(); /* and when it does not even say hello */
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK(clock_now_ns() - before_ns < REBUILD_ATTACH_NS + 3 * NS_PER_S);
	CHECK_EQ(rebuilt.source_status[1], -ETIMEDOUT);
	CHECK_EQ(count_of(CTL_REBUILD_UNREACHABLE), SPANSETS);
	node_thaw(&nodes[2]);
	world_close();
}

TEST(after_a_fences_answer_nothing_of_a_rebuild_lands)
{
	static uint8_t at_answer[REGION_BYTES], afterwards[REGION_BYTES];
	uint32_t refused_count = 0;
	world_open();
	for (unsigned round = 0; round < 30; round++) {
		pthread_t thread;
		struct fabric_capability renewed;
		ask(round % N, K, round, round % 2 ? NODE_TCP : NODE_SHM);
		asked.rate_bytes_per_s = round < 10 ? 40 << 20 : 0;
		call_start(&thread);
		for (uint64_t until_ns = clock_now_ns() + round * 200 * NS_PER_US;
			clock_now_ns() < until_ns;)
			clock_pause(until_ns);
		CHECK_EQ(lease_fence(table, &target, &renewed), 0);
		target_read(&renewed, at_answer);
		pthread_join(thread, NULL);
		target_read(&renewed, afterwards);
		CHECK_EQ(memcmp(at_answer, afterwards, sizeof at_answer), 0);
		CHECK(call_error == 0 ||
			call_error == -EACCES); /* -EACCES: fenced before it began */
		if (call_error == 0) {
			check_target(&renewed);
			refused_count += count_of(CTL_REBUILD_REFUSED);
			CHECK_EQ(count_of(CTL_REBUILD_DONE) + count_of(CTL_REBUILD_REFUSED),
				SPANSETS);
		}
		target = renewed;
		target_renew();
	}
	CHECK(refused_count > 0); /* at least one fence came into the middle of a call */
	world_close();
}

TEST(a_released_region_takes_nothing_more)
{
	static const uint8_t client[16] = {9};
	pthread_t thread;
	world_open();
	ask(0, K, 1, NODE_SHM);
	asked.rate_bytes_per_s = SPANSETS * 4096;
	call_start(&thread);
	call_await_first();
	CHECK_EQ(lease_release(table, &target), 0);
	pthread_join(thread, NULL);
	CHECK_EQ(call_error, 0);
	CHECK(count_of(CTL_REBUILD_REFUSED) > SPANSETS / 2);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), -EACCES);
	CHECK_EQ(lease_reserve(table, client, REGION_BYTES, &target), 0);
	world_close();
}

TEST(a_rate_is_kept)
{
	world_open();
	ask(0, K, 1, NODE_SHM);
	asked.rate_bytes_per_s = SPANSETS * 4096 * 2;
	const uint64_t before_ns = clock_now_ns();
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	const uint64_t took_ns = clock_now_ns() - before_ns;
	CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
	CHECK(took_ns > 450 * NS_PER_MS && took_ns < 3 * NS_PER_S);
	world_close();
}

struct slow_call {
	pthread_t thread;
	struct ctl_rebuilt rebuilt;
	int error;
};

static void *slow_call_main(void *argument)
{
	struct slow_call *call = argument;
	call->error = offload_rebuild(offload, &asked, &call->rebuilt);
	return NULL;
}

TEST(one_call_too_many_is_told_so_at_once_and_stopping_ends_the_others)
{
	static struct slow_call calls[OFFLOAD_CALLS_MAX];
	uint32_t slot = 0, crc;
	world_open();
	ask(0, K, 1, NODE_SHM);
	CHECK_EQ(offload_checksum(offload, &target, &slot, 1, &crc), 0);
	asked.rate_bytes_per_s = SPANSETS * 4096 / 20; /* 20 s */
	for (unsigned i = 0; i < OFFLOAD_CALLS_MAX; i++)
		CHECK_EQ(pthread_create(&calls[i].thread, NULL, slow_call_main, &calls[i]), 0);
	const uint64_t begin_ns = clock_now_ns();
	while (offload_rebuilds(offload) < OFFLOAD_CALLS_MAX) {
		CHECK(clock_now_ns() < begin_ns + 10 * NS_PER_S);
		clock_pause(CLOCK_NEVER_NS);
	}
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), -ENOMEM);
	CHECK_EQ(offload_checksum(offload, &target, &slot, 1, &crc), -ENOMEM);
	offload_stop(offload);
	for (unsigned i = 0; i < OFFLOAD_CALLS_MAX; i++) {
		pthread_join(calls[i].thread, NULL);
		CHECK_EQ(calls[i].error, -EAGAIN);
	}
	CHECK(clock_now_ns() - begin_ns < 5 * NS_PER_S);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), -EAGAIN);
	world_close();
}

TEST(whatever_fails_inside_fails_the_spansets_or_the_call_and_the_next_call_succeeds)
{
	world_open();
	ask(2, K, 3, NODE_TCP);
	CHECK_EQ(fault_arm("memnode.rebuild.attach", 2, false), 0);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(count_of(CTL_REBUILD_UNREACHABLE), SPANSETS);
	CHECK_EQ(rebuilt.source_status[1], -ECONNREFUSED);
	CHECK_EQ(fault_arm("memnode.rebuild.read", 100, false), 0);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK(count_of(CTL_REBUILD_UNREACHABLE) > 0);
	check_target(&target);
	target_renew();
	asked.target = target;
	CHECK_EQ(fault_arm("memnode.rebuild.store", 2, false), 0);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), -EIO);
	fault_disarm_all();
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
	check_target(&target);
	world_close();
}

TEST(slots_beyond_a_region_are_refused_the_targets_before_the_sources_when_it_comes_to_it)
{
	world_open();
	ask(0, K, 1, NODE_TCP);
	asked_pieces[0].slot = SLOTS;
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), -EINVAL);
	ask(0, K, 1, NODE_TCP);
	asked_pieces[2].slot = SLOTS;
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(rebuilt.outcomes[0], CTL_REBUILD_UNREACHABLE);
	CHECK_EQ(rebuilt.source_status[1], -ERANGE);
	check_target(&target);
	ask(0, K, 1, NODE_TCP);
	asked.sources[3].capability.key[0] ^= 1;
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(count_of(CTL_REBUILD_UNREACHABLE), SPANSETS);
	CHECK_EQ(rebuilt.source_status[3], -EACCES);
	world_close();
}

TEST(a_client_that_truncates_its_region_is_refused_and_the_node_lives_on)
{
	struct lease *lease;
	uint32_t slot = 3, crc;
	world_open();
	CHECK_EQ(lease_get(table, &target, &lease), 0);
	int fd = dup(lease_memfd(lease)); /* as a client on shm has it */
	lease_put(lease);
	CHECK_EQ(ftruncate(fd, 0), 0);
	close(fd);
	ask(0, K, 1, NODE_SHM);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(count_of(CTL_REBUILD_REFUSED), SPANSETS);
	CHECK_EQ(offload_checksum(offload, &target, &slot, 1, &crc), -EACCES);
	target_renew();
	ask(0, K, 1, NODE_SHM);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
	check_target(&target);
	world_close();
}

TEST(a_source_that_was_fenced_or_released_is_refused_though_its_connection_is_still_there)
{
	struct fabric_capability renewed;
	world_open();
	for (int transport = NODE_SHM; transport <= NODE_TCP; transport++) {
		ask(0, K, 1, transport);
		CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
		CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
		CHECK_EQ(node_fence(&nodes[2], &columns[2], &renewed), 0);
		CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
		CHECK_EQ(count_of(CTL_REBUILD_UNREACHABLE), SPANSETS);
		CHECK_EQ(rebuilt.source_status[1], -EACCES);
		columns[2] = renewed;
		ask(0, K, 1, transport);
		CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
		CHECK_EQ(count_of(CTL_REBUILD_DONE), SPANSETS);
	}
	CHECK_EQ(node_release(&nodes[2], &columns[2]), 0);
	CHECK_EQ(offload_rebuild(offload, &asked, &rebuilt), 0);
	CHECK_EQ(rebuilt.source_status[1], -EACCES);
	world_close();
}

/* ---- what a request must look like ---- */

static const char *fault_with(void (*change)(void))
{
	ask(0, K, 1, NODE_TCP);
	change();
	return rebuild_fault(&asked);
}

#define CHANGE(name, ...)                                                                          \
	static void name(void)                                                                     \
	{                                                                                          \
		__VA_ARGS__;                                                                       \
	}
CHANGE(no_k, asked.k = 0)
CHANGE(big_k, asked.k = 17)
CHANGE(big_m, asked.m = 5)
CHANGE(position_outside, asked.position = N)
CHANGE(no_spansets, asked.count = 0)
CHANGE(many_spansets, asked.count = CTL_REBUILD_MAX + 1)
CHANGE(too_few_sources, asked.sources_count = K - 1)
CHANGE(lone_other_source, asked.sources_count = 1)
CHANGE(source_outside, asked.sources[1].position = N)
CHANGE(source_twice, asked.sources[1].position = asked.sources[2].position)
CHANGE(source_is_target, asked.sources[1].position = 0)
CHANGE(crawling, asked.rate_bytes_per_s = 1)
CHANGE(slot_of_no_region, asked_pieces[3].slot = 1u << 20)
CHANGE(small_pieces, asked.piece_bytes = 128)
CHANGE(odd_pieces, asked.piece_bytes = 1365)
CHANGE(large_pieces, asked.piece_bytes = 8192)
CHANGE(empty_endpoint, asked.sources[0].endpoint[0] = '\0')
CHANGE(other_endpoint, strcpy(asked.sources[0].endpoint, "sim:1"))
CHANGE(relative_endpoint, strcpy(asked.sources[0].endpoint, "shm:data.sock"))
CHANGE(endpoint_with_a_line, strcpy(asked.sources[0].endpoint, "tcp:127.0.0.1:1\nx"))

TEST(requests_that_make_no_sense_are_named_and_refused)
{
	static void (*const changes[])(void) = {no_k, big_k, big_m, position_outside, no_spansets,
		many_spansets, too_few_sources, lone_other_source, source_outside, source_twice,
		source_is_target, crawling, slot_of_no_region, small_pieces, odd_pieces,
		large_pieces, empty_endpoint, other_endpoint, relative_endpoint,
		endpoint_with_a_line};
	for (unsigned p = 0; p < N; p++)
		snprintf(nodes[p].endpoint[NODE_TCP], FABRIC_ENDPOINT_MAX, "tcp:127.0.0.1:1");
	for (unsigned i = 0; i < FM_ARRAY_COUNT(changes); i++)
		CHECK(fault_with(changes[i]) != NULL);
}
