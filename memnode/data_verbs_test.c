/*
 * memnode/data_verbs_test.c: what the node says to RDMA peers that are no good clients, and that
 * nothing of them stays. The peers are made by hand, of librdmacm alone; good clients are tested by
 * rpc/fabric_test.c. Skipped where there is no RDMA device.
 */
#include "base/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "base/clock.h"
#include "base/log.h"
#include "memnode/data_verbs.h"
#include "rpc/wire.h"

#define BYTES (1u << 20)
#define WAIT_MS 30000 /* only guards against hanging */

static struct lease_table *table;
static struct data_verbs *verbs;

static void begin(void)
{
	static const struct lease_table_options options = {.memory_bytes = 64 << 20};
	char host[DATA_VERBS_ADDRESS_BYTES], address[DATA_VERBS_ADDRESS_BYTES + 4];
	const char *given = getenv("FM_VERBS_ADDRESS");
	int r = given ? 0 : data_verbs_find(host);
	if (r)
		TEST_SKIP("no RDMA device (rdma_rxe: ci/rxe)");
	snprintf(address, sizeof(address), "%.70s:0", given ? given : host);
	log_set_level(LOG_ERROR);
	CHECK_EQ(lease_table_open(&options, &table), 0);
	struct data_verbs_options verbs_options = {.address = address, .leases = table};
	CHECK_EQ(data_verbs_open(&verbs_options, &verbs), 0);
}

static void end(void)
{
	data_verbs_close(verbs);
	lease_table_close(table);
}

static struct fabric_capability reserve(void)
{
	static const uint8_t client[16] = {1};
	struct fabric_capability capability;
	CHECK_EQ(lease_reserve(table, client, BYTES, &capability), 0);
	return capability;
}

static struct data_verbs_stats stats_now(void)
{
	struct data_verbs_stats stats;
	data_verbs_stats(verbs, &stats);
	return stats;
}

static void await_queue_pairs(uint32_t count)
{
	const uint64_t until = clock_now_ns() + (uint64_t)WAIT_MS * NS_PER_MS;
	while (stats_now().queue_pairs_count != count && clock_now_ns() < until)
		;
	CHECK_EQ(stats_now().queue_pairs_count, count);
}

/* A peer, by hand. */
struct peer {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_mr *mr;
	struct wire_verbs_answer answer;
	uint8_t memory[4096];
};

/* The next event's kind; what came with it is decoded into the peer's answer. */
static enum rdma_cm_event_type peer_event(struct peer *peer)
{
	struct pollfd pollfd = {.fd = peer->channel->fd, .events = POLLIN};
	struct rdma_cm_event *event;
	CHECK_EQ(poll(&pollfd, 1, WAIT_MS), 1);
	CHECK_EQ(rdma_get_cm_event(peer->channel, &event), 0);
	const enum rdma_cm_event_type type = event->event;
	if (event->param.conn.private_data)
		(void)!wire_decode_verbs_answer(event->param.conn.private_data,
			event->param.conn.private_data_len, &peer->answer);
	(void)rdma_ack_cm_event(event);
	return type;
}

static void peer_begin(struct peer *peer)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	char host[DATA_VERBS_ADDRESS_BYTES];
	const char *address = data_verbs_address(verbs), *colon = strrchr(address, ':');
	snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
	to.sin_port = htons((uint16_t)atoi(colon + 1));
	CHECK_EQ(inet_pton(AF_INET, host, &to.sin_addr), 1);
	memset(peer, 0, sizeof(*peer));
	peer->channel = rdma_create_event_channel();
	CHECK(peer->channel != NULL);
	CHECK_EQ(rdma_create_id(peer->channel, &peer->id, NULL, RDMA_PS_TCP), 0);
	CHECK_EQ(rdma_resolve_addr(peer->id, NULL, (struct sockaddr *)&to, WAIT_MS), 0);
	CHECK_EQ(peer_event(peer), RDMA_CM_EVENT_ADDR_RESOLVED);
	CHECK_EQ(rdma_resolve_route(peer->id, WAIT_MS), 0);
	CHECK_EQ(peer_event(peer), RDMA_CM_EVENT_ROUTE_RESOLVED);
	peer->pd = ibv_alloc_pd(peer->id->verbs);
	peer->cq = ibv_create_cq(peer->id->verbs, 16, NULL, NULL, 0);
	peer->mr = ibv_reg_mr(peer->pd, peer->memory, sizeof(peer->memory), IBV_ACCESS_LOCAL_WRITE);
	CHECK(peer->pd && peer->cq && peer->mr);
	struct ibv_qp_init_attr attributes = {.qp_type = IBV_QPT_RC,
		.send_cq = peer->cq,
		.recv_cq = peer->cq,
		.cap = {.max_send_wr = 4, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1}};
	CHECK_EQ(rdma_create_qp(peer->id, peer->pd, &attributes), 0);
}

static void peer_connect(struct peer *peer, const void *bytes, uint8_t length)
{
	struct rdma_conn_param param = {.private_data = bytes,
		.private_data_len = length,
		.initiator_depth = 1,
		.retry_count = 6,
		.rnr_retry_count = 6};
	CHECK_EQ(rdma_connect(peer->id, &param), 0);
}

static void peer_end(struct peer *peer)
{
	rdma_destroy_qp(peer->id);
	CHECK_EQ(rdma_destroy_id(peer->id), 0);
	CHECK_EQ(ibv_dereg_mr(peer->mr), 0);
	CHECK_EQ(ibv_destroy_cq(peer->cq), 0);
	CHECK_EQ(ibv_dealloc_pd(peer->pd), 0);
	rdma_destroy_event_channel(peer->channel);
}

/* One READ of the first bytes at an address of the node's, under a key. */
static enum ibv_wc_status peer_read(struct peer *peer, uint64_t address, uint32_t rkey)
{
	struct ibv_sge sge = {(uintptr_t)peer->memory, sizeof(peer->memory), peer->mr->lkey};
	struct ibv_send_wr wr = {.opcode = IBV_WR_RDMA_READ,
		.send_flags = IBV_SEND_SIGNALED,
		.sg_list = &sge,
		.num_sge = 1,
		.wr.rdma = {.remote_addr = address, .rkey = rkey}};
	struct ibv_send_wr *bad;
	struct ibv_wc wc;
	int count = 0;
	const uint64_t until = clock_now_ns() + (uint64_t)WAIT_MS * NS_PER_MS;
	CHECK_EQ(ibv_post_send(peer->id->qp, &wr, &bad), 0);
	while ((count = ibv_poll_cq(peer->cq, 1, &wc)) == 0 && clock_now_ns() < until)
		;
	CHECK_EQ(count, 1);
	return wc.status;
}

static void encode(const struct fabric_capability *capability, uint8_t *bytes)
{
	const struct wire_verbs_request request = {
		.version = WIRE_VERBS_VERSION, .capability = *capability};
	wire_encode_verbs_request(&request, bytes);
}

/* A connection to a lease, made well. */
static void peer_open(struct peer *peer, const struct fabric_capability *capability)
{
	uint8_t bytes[WIRE_VERBS_REQUEST_BYTES];
	encode(capability, bytes);
	peer_begin(peer);
	peer_connect(peer, bytes, sizeof(bytes));
	CHECK_EQ(peer_event(peer), RDMA_CM_EVENT_ESTABLISHED);
	CHECK_EQ(peer->answer.status, WIRE_STATUS_OK);
}

static void expect_refusal(const void *bytes, uint8_t length, uint8_t status)
{
	struct peer peer;
	const uint64_t refused_before = stats_now().refused_count;
	peer_begin(&peer);
	peer_connect(&peer, bytes, length);
	CHECK_EQ(peer_event(&peer), RDMA_CM_EVENT_REJECTED);
	CHECK_EQ(peer.answer.version, WIRE_VERBS_VERSION);
	CHECK_EQ(peer.answer.status, status);
	peer_end(&peer);
	const struct data_verbs_stats stats = stats_now();
	CHECK_EQ(stats.refused_count, refused_before + 1);
	CHECK_EQ(stats.queue_pairs_count + stats.regions_count + stats.domains_count, 0);
}

TEST(garbage_another_version_and_a_wrong_key_are_refused_with_a_status_and_leave_nothing)
{
	uint8_t bytes[WIRE_VERBS_REQUEST_BYTES];
	begin();
	const struct fabric_capability capability = reserve();
	expect_refusal(NULL, 0, WIRE_STATUS_PROTO);
	memset(bytes, 0xa5, sizeof(bytes));
	expect_refusal(bytes, sizeof(bytes), WIRE_STATUS_PROTO);
	expect_refusal("fmvb", 4, WIRE_STATUS_VERSION); /* the rest is zeros: version 0 */
	encode(&capability, bytes);
	bytes[4]++;
	expect_refusal(bytes, sizeof(bytes), WIRE_STATUS_VERSION);
	encode(&capability, bytes);
	bytes[8] ^= 1;
	expect_refusal(bytes, sizeof(bytes), WIRE_STATUS_ACCESS);
	struct fabric_capability wrong = capability;
	wrong.region = UINT32_MAX;
	encode(&wrong, bytes);
	expect_refusal(bytes, sizeof(bytes), WIRE_STATUS_ACCESS);
	end();
}

TEST(a_key_of_another_lease_or_of_one_that_ended_opens_nothing)
{
	struct peer a, b;
	begin();
	const struct fabric_capability first = reserve(), second = reserve();
	peer_open(&a, &first);
	peer_open(&b, &second);
	CHECK_EQ(stats_now().regions_count, 2);
	CHECK_EQ(peer_read(&a, a.answer.address, a.answer.rkey), IBV_WC_SUCCESS);
	CHECK_EQ(peer_read(&b, a.answer.address, a.answer.rkey), IBV_WC_REM_ACCESS_ERR);
	const uint64_t address = a.answer.address;
	const uint32_t rkey = a.answer.rkey;
	CHECK_EQ(lease_release(table, &first), 0);
	CHECK_NE(peer_read(&a, address, rkey), IBV_WC_SUCCESS);
	peer_end(&a);
	peer_end(&b);
	peer_open(&b, &second);
	CHECK_EQ(peer_read(&b, address, rkey), IBV_WC_REM_ACCESS_ERR);
	peer_end(&b);
	await_queue_pairs(0);
	CHECK_EQ(stats_now().regions_count, 1); /* the second lease's, until that ends */
	CHECK_EQ(lease_release(table, &second), 0);
	CHECK_EQ(stats_now().regions_count + stats_now().domains_count, 0);
	end();
}

TEST(a_peer_that_asks_and_then_goes_without_a_word_leaves_no_queue_pair)
{
	uint8_t bytes[WIRE_VERBS_REQUEST_BYTES];
	begin();
	const struct fabric_capability capability = reserve();
	for (int i = 0; i < 8; i++) {
		struct peer peer;
		encode(&capability, bytes);
		peer_begin(&peer);
		peer_connect(&peer, bytes, sizeof(bytes));
		if (i % 2) /* accepted, and never told that it heard */
			await_queue_pairs(1);
		peer_end(&peer);
		await_queue_pairs(0);
	}
	/* and those that come and never ask anything */
	struct peer silent[4];
	for (int i = 0; i < 4; i++)
		peer_begin(&silent[i]);
	struct peer good;
	peer_open(&good, &capability);
	CHECK_EQ(peer_read(&good, good.answer.address, good.answer.rkey), IBV_WC_SUCCESS);
	peer_end(&good);
	for (int i = 0; i < 4; i++)
		peer_end(&silent[i]);
	await_queue_pairs(0);
	end();
}

TEST(a_fence_by_the_control_plane_ends_the_connection_and_its_key)
{
	struct peer old, new;
	struct fabric_capability renewed;
	begin();
	const struct fabric_capability capability = reserve();
	peer_open(&old, &capability);
	CHECK_EQ(lease_fence(table, &capability, &renewed), 0);
	CHECK_EQ(stats_now().queue_pairs_count + stats_now().regions_count, 0);
	CHECK_NE(peer_read(&old, old.answer.address, old.answer.rkey), IBV_WC_SUCCESS);
	peer_open(&new, &renewed);
	CHECK_EQ(peer_read(&new, new.answer.address, new.answer.rkey), IBV_WC_SUCCESS);
	peer_end(&old);
	peer_end(&new);
	await_queue_pairs(0);
	end();
}
