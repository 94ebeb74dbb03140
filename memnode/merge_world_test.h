/*
 * memnode/merge_world_test.h: six whole nodes in one process (lease table, workers, control plane
 * on a unix socket) that hold one group's spansets at 4+2, for merge_node_test.c and
 * merge_mishap_test.c, which play the agent over gRPC. Nothing forks: gRPC has threads.
 *
 * Pair i merges spanset 2i (a) with 2i+1 (b): positions in masks[i] are taken from b.
 */
#ifndef FM_MEMNODE_MERGE_WORLD_TEST_H
#define FM_MEMNODE_MERGE_WORLD_TEST_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "base/test.h"
#include "ec/ec.h"
#include "memnode/ctl_service.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_merge.h"

#define K 4u
#define M 2u
#define N (K + M)
#ifndef PAIRS
#define PAIRS 70u /* more than one MergePartial takes; every mask several times */
#endif
#define SLOTS (3 * PAIRS + 46)
#define ASK_NS (30 * NS_PER_S)

struct world_node {
	char address[FABRIC_ENDPOINT_MAX];
	struct lease_table *table;
	struct offload *offload;
	struct ctl_service service;
	struct ctl_server *server;
	struct ctl_client *client;
	struct fabric_capability column;
	/* Stops workers between two steps, until they are let go. */
	_Atomic bool hold;
	_Atomic int hold_after; /* steps */
	_Atomic unsigned held_count;
};

static struct world_node nodes[N];
static struct ec_code code;
static char world_dir[] = "/tmp/farmem-merge-XXXXXX";
static uint8_t pieces[2 * PAIRS][N][FM_PAGE_SIZE];
static uint32_t slots[2 * PAIRS][N], fresh[PAIRS], masks[PAIRS];
static uint64_t seed = 11;

/* ---- nodes ---- */

static inline bool node_is_busy(void *context)
{
	struct world_node *node = context;
	if (!atomic_load(&node->hold) || atomic_fetch_sub(&node->hold_after, 1) > 0)
		return false;
	atomic_fetch_add(&node->held_count, 1);
	while (atomic_load(&node->hold))
		clock_pause(CLOCK_NEVER_NS);
	return false;
}

static inline void node_open(unsigned n)
{
	struct world_node *node = &nodes[n];
	const struct lease_table_options leases = {.memory_bytes = 96 << 20};
	CHECK_EQ(lease_table_open(&leases, &node->table), 0);
	const struct offload_options offloading = {
		.leases = node->table, .nice = 5, .merge_way = {node_is_busy, node}};
	CHECK_EQ(offload_open(&offloading, &node->offload), 0);
	const struct ctl_service_options options = {.table = node->table,
		.offload = node->offload,
		.name = "n",
		.host = "h",
		.data_path = "",
		.reserves_max = 2};
	ctl_service_open(&node->service, &options);
	struct ctl_server_options serving = {
		.context = &node->service, .threads = OFFLOAD_MERGES_MAX + 4};
	serving.methods = ctl_service_methods(&serving.methods_count);
	snprintf(node->address, sizeof node->address, "unix:%s/%u", world_dir, n);
	CHECK_EQ(ctl_server_open(&serving, &node->server), 0);
	CHECK_EQ(ctl_server_listen(node->server, node->address, NULL), 0);
	CHECK_EQ(ctl_server_start(node->server), 0);
	CHECK_EQ(ctl_client_open(node->address, &node->client), 0);
	atomic_store(&node->hold, false);
}

static inline void node_close(unsigned n)
{
	struct world_node *node = &nodes[n];
	ctl_client_close(node->client);
	ctl_service_stop(&node->service);
	ctl_server_close(node->server);
	offload_close(node->offload);
	lease_table_close(node->table);
	unlink(node->address + strlen("unix:"));
	node->table = NULL;
}

static inline void column_store(unsigned n, uint32_t slot, const uint8_t *piece)
{
	struct lease *lease;
	CHECK_EQ(lease_get(nodes[n].table, &nodes[n].column, &lease), 0);
	CHECK_EQ(lease_store(lease, slot * (uint64_t)FM_PAGE_SIZE, piece, FM_PAGE_SIZE), 0);
	lease_put(lease);
}

static inline void column_load(unsigned n, uint32_t slot, uint8_t *piece)
{
	struct lease *lease;
	CHECK_EQ(lease_get(nodes[n].table, &nodes[n].column, &lease), 0);
	CHECK_EQ(lease_load(lease, slot * (uint64_t)FM_PAGE_SIZE, piece, FM_PAGE_SIZE), 0);
	lease_put(lease);
}

static inline void hold_after(unsigned n, int steps)
{
	atomic_store(&nodes[n].held_count, 0);
	atomic_store(&nodes[n].hold_after, steps);
	atomic_store(&nodes[n].hold, true);
}

static inline void hold_await(unsigned n, unsigned workers)
{
	const uint64_t until_ns = clock_now_ns() + 30 * NS_PER_S;
	while (atomic_load(&nodes[n].held_count) < workers) {
		CHECK(clock_now_ns() < until_ns);
		clock_pause(until_ns);
	}
}

/* ---- spansets ---- */

static inline void spanset_draw(uint32_t s)
{
	const uint8_t *data[K];
	uint8_t *parity[M];
	for (unsigned p = 0; p < K; p++) {
		data[p] = pieces[s][p];
		for (unsigned at = 0; at < FM_PAGE_SIZE; at += 8) {
			const uint64_t word = test_random(&seed);
			memcpy(pieces[s][p] + at, &word, 8);
		}
	}
	for (unsigned p = 0; p < M; p++)
		parity[p] = pieces[s][K + p];
	ec_encode(&code, FM_PAGE_SIZE, data, parity);
}

/* A region for the column, filled; its slots are in an order of their own. */
static inline void column_open(unsigned n)
{
	static const uint8_t client[16] = {1};
	CHECK_EQ(lease_reserve(
			 nodes[n].table, client, SLOTS * (uint64_t)FM_PAGE_SIZE, &nodes[n].column),
		0);
	for (uint32_t s = 0; s < 2 * PAIRS; s++) {
		slots[s][n] = (s * 37 + n * 5) % (2 * PAIRS);
		column_store(n, slots[s][n], pieces[s][n]);
	}
}

static inline void world_open(void)
{
	memcpy(world_dir + strlen(world_dir) - 6, "XXXXXX", 6);
	CHECK(mkdtemp(world_dir) != NULL);
	CHECK_EQ(ec_code_init(&code, K, M), 0);
	for (uint32_t s = 0; s < 2 * PAIRS; s++)
		spanset_draw(s);
	for (uint32_t i = 0; i < PAIRS; i++) {
		masks[i] = 1 + i % ((1u << K) - 1);
		fresh[i] = 2 * PAIRS + (i * 11) % PAIRS;
	}
	for (unsigned n = 0; n < N; n++) {
		node_open(n);
		column_open(n);
	}
}

static inline void world_close(void)
{
	for (unsigned n = 0; n < N; n++)
		if (nodes[n].table)
			node_close(n);
	rmdir(world_dir);
}

/* ---- asking ---- */

static inline int ask(
	unsigned n, const char *method, struct ctl_packed *packed, struct ctl_result *result)
{
	const struct ctl_request request = {method, packed->bytes, packed->length, ASK_NS};
	const int status = ctl_client_call(nodes[n].client, &request, result);
	ctl_packed_clear(packed);
	return status;
}

static inline int ask_for_nothing(unsigned n, const char *method, struct ctl_packed *packed)
{
	struct ctl_result result;
	const int status = ask(n, method, packed, &result);
	ctl_result_clear(&result);
	return status;
}

static inline void pairs_make(unsigned n, struct ctl_merge_pair *pairs)
{
	for (uint32_t i = 0; i < PAIRS; i++)
		pairs[i] = (struct ctl_merge_pair){slots[2 * i][n],
			crc32c(pieces[2 * i][n], FM_PAGE_SIZE), fresh[i], masks[i]};
}

static inline int begin_pairs(
	unsigned n, uint64_t txid, const struct ctl_merge_pair *pairs, uint32_t count)
{
	const struct ctl_merge_begin begin = {.txid = txid,
		.target = nodes[n].column,
		.position = (uint8_t)n,
		.k = K,
		.m = M,
		.count = count,
		.pairs = pairs};
	struct ctl_packed packed;
	CHECK_EQ(ctl_pack_merge_begin(&begin, &packed), 0);
	return ask_for_nothing(n, CTL_METHOD_MERGE_BEGIN, &packed);
}

static inline int begin(unsigned n, uint64_t txid)
{
	struct ctl_merge_pair pairs[PAIRS];
	pairs_make(n, pairs);
	return begin_pairs(n, txid, pairs, PAIRS);
}

/* What position n has to send; `pieces_made` of them. */
static inline uint32_t send_make(
	unsigned n, uint64_t txid, struct ctl_merge_send *send, struct ctl_merge_piece *made)
{
	*send = (struct ctl_merge_send){.txid = txid,
		.source = nodes[n].column,
		.position = (uint8_t)n,
		.k = K,
		.m = M,
		.targets_count = M,
		.pieces = made};
	for (unsigned t = 0; t < M; t++) {
		send->targets[t].capability = nodes[K + t].column;
		send->targets[t].position = (uint8_t)(K + t);
		memcpy(send->targets[t].address, nodes[K + t].address, FABRIC_ENDPOINT_MAX);
	}
	for (uint32_t i = 0; i < PAIRS; i++) {
		if (!(masks[i] & 1u << n))
			continue;
		made[send->count++] = (struct ctl_merge_piece){i, slots[2 * i][n],
			crc32c(pieces[2 * i][n], FM_PAGE_SIZE), slots[2 * i + 1][n],
			crc32c(pieces[2 * i + 1][n], FM_PAGE_SIZE)};
	}
	return send->count;
}

static inline int send_as(
	unsigned n, const struct ctl_merge_send *send, struct ctl_merge_sent *sent)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_merge_send(send, &packed), 0);
	ask(n, CTL_METHOD_MERGE_SEND, &packed, &result);
	int error = ctl_unpack_merge_sent(&result, send, sent);
	ctl_result_clear(&result);
	return error;
}

/* 0: every piece of position n went to every target. */
static inline int send_all(unsigned n, uint64_t txid)
{
	struct ctl_merge_piece made[PAIRS];
	struct ctl_merge_send send;
	struct ctl_merge_sent sent;
	const uint32_t count = send_make(n, txid, &send, made);
	int error = send_as(n, &send, &sent);
	for (unsigned t = 0; t < M && !error; t++)
		error = sent.target_status[t];
	for (uint32_t i = 0; i < count && !error; i++)
		error = sent.outcomes[i] == CTL_MERGE_DONE ? 0 : -EBADMSG;
	return error;
}

static inline int partial(unsigned n, const struct ctl_merge_partial *asked, uint8_t *outcomes)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_merge_partial(asked, &packed), 0);
	ask(n, CTL_METHOD_MERGE_PARTIAL, &packed, &result);
	int error = ctl_unpack_merge_partial(&result, asked->count, outcomes);
	ctl_result_clear(&result);
	return error;
}

static inline int prepare(unsigned n, uint64_t txid, struct ctl_merge_prepared *prepared)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_merge_prepare(txid, &nodes[n].column, &packed), 0);
	ask(n, CTL_METHOD_MERGE_PREPARE, &packed, &result);
	int error = ctl_unpack_merge_prepared(&result, PAIRS, prepared);
	ctl_result_clear(&result);
	return error;
}

static inline int end(unsigned n, uint64_t txid, bool commit)
{
	struct ctl_packed packed;
	CHECK_EQ(ctl_pack_merge_end(txid, &nodes[n].column, commit, &packed), 0);
	return ask_for_nothing(n, CTL_METHOD_MERGE_END, &packed);
}

/* ---- what must come of it ---- */

static inline void merged_parity(uint32_t i, uint8_t parity[M][FM_PAGE_SIZE])
{
	const uint8_t *data[K];
	uint8_t *into[M];
	for (unsigned p = 0; p < K; p++)
		data[p] = pieces[2 * i + (masks[i] >> p & 1)][p];
	for (unsigned p = 0; p < M; p++)
		into[p] = parity[p];
	ec_encode(&code, FM_PAGE_SIZE, data, into);
}

/* Parity node n holds, and has answered, the merged spanset's parity. */
static inline void check_pair(unsigned n, uint32_t i, const struct ctl_merge_prepared *prepared)
{
	uint8_t wanted[M][FM_PAGE_SIZE], is[FM_PAGE_SIZE];
	merged_parity(i, wanted);
	column_load(n, fresh[i], is);
	CHECK_EQ(memcmp(is, wanted[n - K], FM_PAGE_SIZE), 0);
	CHECK_EQ(prepared->outcomes[i], CTL_MERGE_DONE);
	CHECK_EQ(prepared->crcs[i], crc32c(is, FM_PAGE_SIZE));
}

static inline void check_untouched(unsigned n, uint32_t i)
{
	static const uint8_t zeros[FM_PAGE_SIZE];
	uint8_t is[FM_PAGE_SIZE];
	column_load(n, fresh[i], is);
	CHECK_EQ(memcmp(is, zeros, FM_PAGE_SIZE), 0);
}

/* What was there before is there still: data and old parities, on all nodes. */
static inline void check_old(void)
{
	uint8_t is[FM_PAGE_SIZE];
	for (unsigned n = 0; n < N; n++) {
		for (uint32_t s = 0; s < 2 * PAIRS; s++) {
			column_load(n, slots[s][n], is);
			CHECK_EQ(memcmp(is, pieces[s][n], FM_PAGE_SIZE), 0);
		}
	}
}

static inline void check_prepared(unsigned n, uint64_t txid)
{
	struct ctl_merge_prepared prepared;
	CHECK_EQ(prepare(n, txid, &prepared), 0);
	for (uint32_t i = 0; i < PAIRS; i++)
		check_pair(n, i, &prepared);
}

static inline struct merge_usage usage_of(unsigned n)
{
	struct merge_usage usage;
	merge_table_usage(offload_merges(nodes[n].offload), &usage);
	return usage;
}

#endif
