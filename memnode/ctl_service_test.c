/*
 * memnode/ctl_service_test.c: the node's handlers behind a real server, asked through
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "base/test.h"
#include "memnode/ctl_service.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_memnode.h"
#include "rpc/ctl_server.h"

#define MIB (1ull << 20)

static struct lease_table *table;
static struct offload *offload;
static struct ctl_service service;
static struct ctl_server *server;
static struct ctl_client *client;

static void node_open(uint64_t client_bytes)
{
	struct lease_table_options leases = {
		.memory_bytes = 64 * MIB, .client_bytes = client_bytes};
	CHECK_EQ(lease_table_open(&leases, &table), 0);
	struct offload_options offloading = {.leases = table};
	CHECK_EQ(offload_open(&offloading, &offload), 0);
	struct ctl_service_options options = {.table = table,
		.offload = offload,
		.name = "n1",
		.host = "machine-1",
		.data_path = "/tmp/data.sock",
		.data_port = 7401,
		.reserves_max = 2};
	ctl_service_open(&service, &options);
	struct ctl_server_options serving = {.context = &service, .threads = 4};
	serving.methods = ctl_service_methods(&serving.methods_count);
	int port;
	char address[32];
	CHECK_EQ(ctl_server_open(&serving, &server), 0);
	CHECK_EQ(ctl_server_listen(server, "127.0.0.1:0", &port), 0);
	CHECK_EQ(ctl_server_start(server), 0);
	snprintf(address, sizeof address, "127.0.0.1:%d", port);
	CHECK_EQ(ctl_client_open(address, &client), 0);
}

static void node_close(void)
{
	ctl_client_close(client);
	ctl_server_close(server);
	offload_close(offload);
	lease_table_close(table);
}

static int ask(const char *method, const void *bytes, size_t length, struct ctl_result *result)
{
	struct ctl_request request = {method, bytes, length, 5 * NS_PER_S};
	return ctl_client_call(client, &request, result);
}

static int ask_packed(const char *method, struct ctl_packed *packed, struct ctl_result *result)
{
	int status = ask(method, packed->bytes, packed->length, result);
	ctl_packed_clear(packed);
	return status;
}

static int reserve(uint8_t who, uint64_t bytes, struct fabric_capability *capability)
{
	uint8_t id[CTL_CLIENT_BYTES] = {who};
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_reserve(id, bytes, &packed), 0);
	ask_packed(CTL_METHOD_RESERVE, &packed, &result);
	int error = ctl_unpack_reserve(&result, capability);
	ctl_result_clear(&result);
	return error;
}

/* Asks about leases; lost[i] says what became of each. */
static int leases(const char *method, const struct fabric_capability *capabilities, unsigned count,
	struct ctl_keepalive *keepalive)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_leases(method, capabilities, count, &packed), 0);
	int error = ask_packed(method, &packed, &result);
	if (error == 0 && keepalive != NULL)
		error = ctl_unpack_keepalive(&result, count, keepalive);
	ctl_result_clear(&result);
	return error;
}

static uint64_t leased_bytes(void)
{
	struct ctl_stats stats;
	CHECK_EQ(ctl_ask_stats(client, 5 * NS_PER_S, &stats, NULL), 0);
	return stats.load.leased_bytes;
}

static struct ctl_keepalive keepalive;

TEST(stats_say_who_and_where_the_node_is)
{
	node_open(0);
	struct ctl_stats stats;
	char text[CTL_TEXT_BYTES];
	CHECK_EQ(ctl_ask_stats(client, 5 * NS_PER_S, &stats, text), 0);
	CHECK_STR_EQ(stats.name, "n1");
	CHECK_STR_EQ(stats.host, "machine-1");
	CHECK_STR_EQ(stats.version, FM_VERSION);
	CHECK_STR_EQ(stats.data_path, "/tmp/data.sock");
	CHECK_EQ(stats.data_port, 7401);
	CHECK_EQ(stats.incarnation, lease_table_incarnation(table));
	CHECK_EQ(stats.load.memory_bytes, 64 * MIB);
	CHECK_EQ(stats.load.free_bytes, 64 * MIB);
	CHECK_EQ(stats.load.leased_bytes, 0);
	CHECK(stats.uptime_ns > 0);
	node_close();
}

TEST(a_region_is_lent_kept_and_given_back)
{
	struct fabric_capability capability;
	node_open(0);
	CHECK_EQ(reserve(1, 8 * MIB, &capability), 0);
	CHECK_EQ(leased_bytes(), 8 * MIB);
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, &capability, 1, &keepalive), 0);
	CHECK(!keepalive.lost[0]);
	CHECK_EQ(keepalive.incarnation, capability.incarnation);
	CHECK_EQ(keepalive.load.leased_bytes, 8 * MIB);
	CHECK_EQ(keepalive.load.leases, 1);
	CHECK_EQ(leases(CTL_METHOD_RELEASE, &capability, 1, NULL), 0);
	CHECK_EQ(leased_bytes(), 0);
	/* Repeats are harmless, and say that there is nothing any more. */
	CHECK_EQ(leases(CTL_METHOD_RELEASE, &capability, 1, NULL), 0);
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, &capability, 1, &keepalive), 0);
	CHECK(keepalive.lost[0]);
	node_close();
}

TEST(another_clients_guess_at_a_capability_gets_nothing)
{
	struct fabric_capability good, bad[4];
	node_open(0);
	CHECK_EQ(reserve(1, MIB, &good), 0);
	for (unsigned i = 0; i < 4; i++)
		bad[i] = good;
	bad[0].key[15] ^= 1;
	bad[1].lease += 1;
	bad[2].incarnation += 1;
	bad[3].epoch += 1;
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, bad, 4, &keepalive), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK(keepalive.lost[i]);
	CHECK_EQ(leases(CTL_METHOD_RELEASE, bad, 4, NULL), 0);
	CHECK_EQ(leased_bytes(), MIB);
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, &good, 1, &keepalive), 0);
	CHECK(!keepalive.lost[0]);
	node_close();
}

TEST(a_fence_renews_the_capability_and_refuses_the_old_one)
{
	struct fabric_capability old, renewed;
	struct ctl_packed packed;
	struct ctl_result result;
	node_open(0);
	CHECK_EQ(reserve(1, MIB, &old), 0);
	CHECK_EQ(ctl_pack_fence(&old, &packed), 0);
	ask_packed(CTL_METHOD_FENCE, &packed, &result);
	CHECK_EQ(ctl_unpack_fence(&result, &renewed), 0);
	ctl_result_clear(&result);
	CHECK_EQ(renewed.lease, old.lease);
	CHECK(renewed.epoch > old.epoch);
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, &old, 1, &keepalive), 0);
	CHECK(!keepalive.lost[0]); /* a sign of life, and no more */
	CHECK_EQ(ctl_pack_fence(&old, &packed), 0);
	CHECK_EQ(ask_packed(CTL_METHOD_FENCE, &packed, &result), -EACCES);
	ctl_result_clear(&result);
	CHECK_EQ(leases(CTL_METHOD_RELEASE, &old, 1, NULL), 0);
	CHECK_EQ(leased_bytes(), 0);
	node_close();
}

TEST(memory_and_quota_end_with_a_clear_refusal)
{
	struct fabric_capability capability;
	node_open(16 * MIB);
	CHECK_EQ(reserve(1, 16 * MIB, &capability), 0);
	CHECK_EQ(reserve(1, MIB, &capability), -ENOMEM); /* its quota */
	for (uint8_t who = 2; who <= 4; who++)
		CHECK_EQ(reserve(who, 16 * MIB, &capability), 0);
	CHECK_EQ(reserve(5, MIB, &capability), -ENOMEM); /* the node's */
	CHECK_EQ(leased_bytes(), 64 * MIB);
	node_close();
}

TEST(sizes_that_are_no_region_are_refused)
{
	struct fabric_capability capability;
	node_open(0);
	CHECK_EQ(reserve(1, 0, &capability), -EINVAL);
	CHECK_EQ(reserve(1, 4095, &capability), -EINVAL);
	CHECK_EQ(reserve(1, 4097, &capability), -EINVAL);
	CHECK_EQ(reserve(1, REGION_BYTES_MAX + 4096, &capability), -EINVAL);
	CHECK_EQ(reserve(1, UINT64_MAX - 4095, &capability), -EINVAL);
	CHECK_EQ(reserve(1, 4096, &capability), 0);
	node_close();
}

TEST(malformed_messages_are_refused_by_every_method)
{
	static const char *const methods[] = {CTL_METHOD_RESERVE, CTL_METHOD_RELEASE,
		CTL_METHOD_KEEPALIVE, CTL_METHOD_FENCE, CTL_METHOD_STATS, CTL_METHOD_HEALTH,
		CTL_METHOD_REBUILD, CTL_METHOD_CHECKSUM};
	static const uint8_t truncated[] = {0x0a, 0x7f, 1, 2, 3}; /* 127 bytes announced */
	static const uint8_t overlong[] = {
		0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
	node_open(0);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(methods); i++) {
		struct ctl_result result;
		CHECK_EQ(ask(methods[i], truncated, sizeof truncated, &result), -EINVAL);
		CHECK_CONTAINS(result.text, "malformed");
		CHECK_EQ(ask(methods[i], overlong, sizeof overlong, &result), -EINVAL);
	}
	node_close();
}

TEST(well_formed_messages_with_wrong_fields_are_refused)
{
	static const uint8_t short_client[] = {0x0a, 3, 'a', 'b', 'c', 0x10, 0x80, 0x20};
	static const uint8_t empty_capability[] = {0x0a, 0};
	struct ctl_result result;
	node_open(0);
	CHECK_EQ(ask(CTL_METHOD_RESERVE, short_client, sizeof short_client, &result), -EINVAL);
	CHECK_CONTAINS(result.text, "client");
	CHECK_EQ(ask(CTL_METHOD_RESERVE, "", 0, &result), -EINVAL);
	CHECK_EQ(ask(CTL_METHOD_RELEASE, "", 0, &result), -EINVAL);
	CHECK_EQ(ask(CTL_METHOD_RELEASE, empty_capability, 2, &result), -EINVAL);
	CHECK_EQ(ask(CTL_METHOD_KEEPALIVE, empty_capability, 2, &result), -EINVAL);
	CHECK_EQ(ask(CTL_METHOD_FENCE, empty_capability, 2, &result), -EINVAL);
	CHECK_EQ(ask(CTL_METHOD_FENCE, "", 0, &result), -EINVAL);
	node_close();
}

TEST(a_keepalive_for_1024_leases_passes_and_for_1025_does_not)
{
	static struct fabric_capability capabilities[CTL_LEASES_MAX + 1];
	uint8_t *bytes;
	struct ctl_packed packed;
	struct ctl_result result;
	node_open(0);
	for (unsigned i = 0; i < CTL_LEASES_MAX; i++)
		capabilities[i] = (struct fabric_capability){
			.lease = UINT64_MAX - i, .incarnation = UINT64_MAX, .epoch = UINT32_MAX};
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, capabilities, CTL_LEASES_MAX, &keepalive), 0);
	for (unsigned i = 0; i < CTL_LEASES_MAX; i++)
		CHECK(keepalive.lost[i]);
	/* One more, by repeating the last field: protobuf appends. */
	CHECK_EQ(ctl_pack_leases(CTL_METHOD_KEEPALIVE, capabilities, CTL_LEASES_MAX, &packed), 0);
	size_t one = packed.length / CTL_LEASES_MAX;
	bytes = malloc(packed.length + one);
	memcpy(bytes, packed.bytes, packed.length);
	memcpy(bytes + packed.length, packed.bytes, one);
	CHECK_EQ(ask(CTL_METHOD_KEEPALIVE, bytes, packed.length + one, &result), -EINVAL);
	CHECK_CONTAINS(result.text, "1024");
	ctl_packed_clear(&packed);
	free(bytes);
	node_close();
}

TEST(health_is_serving_until_the_node_stops_and_unknown_services_are_not_found)
{
	static const uint8_t named[] = "\x0a\x14" CTL_SERVICE_NAME;
	static const uint8_t other[] = {0x0a, 1, 'x'};
	struct ctl_result result;
	struct fabric_capability capability;
	node_open(0);
	CHECK_EQ(sizeof CTL_SERVICE_NAME - 1, 0x14);
	CHECK_EQ(ask(CTL_METHOD_HEALTH, "", 0, &result), 0);
	CHECK(result.length == 2 && result.bytes[0] == 8 && result.bytes[1] == 1);
	ctl_result_clear(&result);
	CHECK_EQ(ask(CTL_METHOD_HEALTH, named, sizeof named - 1, &result), 0);
	ctl_result_clear(&result);
	CHECK_EQ(ask(CTL_METHOD_HEALTH, other, sizeof other, &result), -ENOENT);
	CHECK_EQ(ask("/grpc.health.v1.Health/Watch", "", 0, &result), -ENOSYS);
	ctl_service_stop(&service);
	CHECK_EQ(ask(CTL_METHOD_HEALTH, "", 0, &result), 0);
	CHECK(result.length == 2 && result.bytes[1] == 2);
	ctl_result_clear(&result);
	CHECK_EQ(reserve(1, MIB, &capability), -ECONNRESET);
	node_close();
}

TEST(a_lease_whose_answer_is_lost_in_the_node_is_not_leaked)
{
	struct fabric_capability capability;
	node_open(0);
	CHECK_EQ(fault_arm("memnode.reserve.answer", 1, false), 0);
	CHECK_EQ(reserve(1, MIB, &capability), -ENOMEM);
	fault_disarm_all();
	CHECK_EQ(leased_bytes(), 0);
	CHECK_EQ(reserve(1, MIB, &capability), 0);
	node_close();
}

TEST(no_answer_but_reserve_and_fence_carries_a_key)
{
	struct fabric_capability capability;
	struct ctl_packed packed;
	struct ctl_result results[3];
	node_open(0);
	CHECK_EQ(reserve(1, MIB, &capability), 0);
	CHECK_EQ(ask(CTL_METHOD_STATS, "", 0, &results[0]), 0);
	CHECK_EQ(ctl_pack_leases(CTL_METHOD_KEEPALIVE, &capability, 1, &packed), 0);
	CHECK_EQ(ask_packed(CTL_METHOD_KEEPALIVE, &packed, &results[1]), 0);
	CHECK_EQ(ctl_pack_leases(CTL_METHOD_RELEASE, &capability, 1, &packed), 0);
	CHECK_EQ(ask_packed(CTL_METHOD_RELEASE, &packed, &results[2]), 0);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(memmem(results[i].bytes, results[i].length, capability.key, 8) == NULL);
		ctl_result_clear(&results[i]);
	}
	node_close();
}

static int checksum(const struct fabric_capability *capability, const uint32_t *slots,
	unsigned count, uint32_t *crcs)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_checksum(capability, slots, count, &packed), 0);
	ask_packed(CTL_METHOD_CHECKSUM, &packed, &result);
	int error = ctl_unpack_checksum(&result, count, crcs);
	ctl_result_clear(&result);
	return error;
}

TEST(checksums_are_those_of_the_bytes_and_only_for_whom_the_region_is_lent_to)
{
	static uint8_t page[4096];
	static uint32_t slots[CTL_CHECKSUM_MAX], crcs[CTL_CHECKSUM_MAX];
	struct fabric_capability capability, wrong;
	struct lease *lease;
	node_open(0);
	CHECK_EQ(reserve(1, 8 * MIB, &capability), 0);
	CHECK_EQ(lease_get(table, &capability, &lease), 0);
	for (unsigned i = 0; i < 2048; i++) {
		memset(page, (int)i, sizeof page);
		page[i] = 77;
		CHECK_EQ(lease_store(lease, i * 4096ull, page, sizeof page), 0);
	}
	lease_put(lease);
	for (unsigned i = 0; i < CTL_CHECKSUM_MAX; i++)
		slots[i] = i < 1024 ? i : i * 7919u % 2048; /* a run, then here and there */
	CHECK_EQ(checksum(&capability, slots, CTL_CHECKSUM_MAX, crcs), 0);
	for (unsigned i = 0; i < CTL_CHECKSUM_MAX; i++) {
		memset(page, (int)slots[i], sizeof page);
		page[slots[i]] = 77;
		CHECK_EQ(crcs[i], crc32c(page, sizeof page));
	}
	slots[5] = 2048;
	CHECK_EQ(checksum(&capability, slots, 6, crcs), -EINVAL);
	wrong = capability;
	wrong.key[0] ^= 1;
	CHECK_EQ(checksum(&wrong, slots, 1, crcs), -EACCES);
	CHECK_EQ(fault_arm("memnode.checksum.read", 1, false), 0);
	CHECK_EQ(checksum(&capability, slots, 1, crcs), -EIO);
	CHECK_EQ(fault_arm("memnode.offload.answer", 1, false), 0);
	CHECK_EQ(checksum(&capability, slots, 1, crcs), -EIO);
	fault_disarm_all();
	node_close();
}

TEST(a_draining_node_lends_nothing_says_so_and_serves_what_it_has_lent)
{
	struct fabric_capability capability, more;
	struct ctl_result result;
	uint32_t slot = 0, crc;
	node_open(0);
	CHECK(ctl_service_is_empty(&service));
	CHECK_EQ(reserve(1, MIB, &capability), 0);
	CHECK(!ctl_service_is_empty(&service));
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, &capability, 1, &keepalive), 0);
	CHECK(!keepalive.load.draining);
	ctl_service_drain(&service);
	CHECK_EQ(leases(CTL_METHOD_KEEPALIVE, &capability, 1, &keepalive), 0);
	CHECK(keepalive.load.draining);
	CHECK(!keepalive.lost[0]);
	CHECK_EQ(keepalive.load.rebuilds, 0);
	CHECK_EQ(reserve(1, MIB, &more), -ECONNRESET);
	CHECK_EQ(ask(CTL_METHOD_HEALTH, "", 0, &result), 0);
	CHECK(result.length == 2 && result.bytes[1] == 2);
	ctl_result_clear(&result);
	CHECK_EQ(checksum(&capability, &slot, 1, &crc), 0);
	CHECK_EQ(leases(CTL_METHOD_RELEASE, &capability, 1, NULL), 0);
	CHECK(ctl_service_is_empty(&service));
	node_close();
}
