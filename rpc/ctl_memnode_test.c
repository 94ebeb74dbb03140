/*
 * rpc/ctl_memnode_test.c: what is packed for a node can be read by it, and an answer that is not
 * what the contract says is refused whole.
 */
#include <errno.h>
#include <string.h>

#include "base/test.h"
#include "memnode.pb-c.h"
#include "rpc/ctl_memnode.h"

#define COUNT 3
#define SOURCES 4

static struct ctl_piece pieces[COUNT * (1 + SOURCES)];
static struct ctl_rebuild asked;
static struct ctl_rebuilt rebuilt;

static void asked_make(void)
{
	memset(&asked, 0, sizeof asked);
	asked.target = (struct fabric_capability){
		.key = {7}, .lease = 77, .incarnation = 777, .epoch = 5, .region = 9};
	asked.position = 4;
	asked.k = SOURCES;
	asked.m = 2;
	asked.sources_count = SOURCES;
	for (unsigned i = 0; i < SOURCES; i++) {
		snprintf(asked.sources[i].endpoint, FABRIC_ENDPOINT_MAX, "tcp:127.0.0.1:%u",
			7000 + i);
		asked.sources[i].capability = (struct fabric_capability){
			.key = {(uint8_t)i}, .lease = 100 + i, .incarnation = 1, .epoch = i};
		asked.sources[i].position = (uint8_t)i;
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(pieces); i++)
		pieces[i] = (struct ctl_piece){.slot = 1000 + i, .crc = 0x80000000u + i};
	asked.count = COUNT;
	asked.pieces = pieces;
	asked.rate_bytes_per_s = 123456789;
}

TEST(a_rebuild_request_says_everything_in_the_contracts_form)
{
	struct ctl_packed packed;
	asked_make();
	CHECK_EQ(ctl_pack_rebuild(&asked, &packed), 0);
	Farmem__V1__RebuildRequest *request =
		farmem__v1__rebuild_request__unpack(NULL, packed.length, packed.bytes);
	CHECK(request != NULL);
	struct fabric_capability target;
	CHECK_EQ(ctl_capability_from_message(request->target, &target), 0);
	CHECK_EQ(memcmp(&target, &asked.target, sizeof target), 0);
	CHECK_EQ(request->position, 4);
	CHECK_EQ(request->k, SOURCES);
	CHECK_EQ(request->m, 2);
	CHECK_EQ(request->rate_bytes_per_s, 123456789);
	CHECK_EQ(request->n_sources, SOURCES);
	CHECK_STR_EQ(request->sources[3]->endpoint, "tcp:127.0.0.1:7003");
	CHECK_EQ(request->sources[3]->position, 3);
	CHECK_EQ(request->sources[3]->capability->lease, 103);
	CHECK_EQ(request->spansets.len, FM_ARRAY_COUNT(pieces) * 8);
	const uint8_t second[8] = {0xe9, 0x03, 0, 0, 0x01, 0, 0, 0x80}; /* 1001, 0x80000001 */
	CHECK_EQ(memcmp(request->spansets.data + 8, second, sizeof second), 0);
	farmem__v1__rebuild_request__free_unpacked(request, NULL);
	ctl_packed_clear(&packed);
}

/* What a node with these outcomes and statuses would answer; freed by ctl_packed_clear. */
static int unpack_reply(
	const uint8_t *outcomes, size_t count, const uint32_t *statuses, size_t statuses_count)
{
	Farmem__V1__RebuildReply reply = FARMEM__V1__REBUILD_REPLY__INIT;
	uint8_t bytes[256];
	reply.outcomes.data = (uint8_t *)(uintptr_t)outcomes;
	reply.outcomes.len = count;
	reply.source_statuses = (uint32_t *)(uintptr_t)statuses;
	reply.n_source_statuses = statuses_count;
	reply.read_ns = 1;
	reply.decode_ns = 2;
	reply.store_ns = 3;
	CHECK(farmem__v1__rebuild_reply__get_packed_size(&reply) <= sizeof bytes);
	struct ctl_result result = {
		.bytes = bytes, .length = farmem__v1__rebuild_reply__pack(&reply, bytes)};
	return ctl_unpack_rebuild(&result, &asked, &rebuilt);
}

TEST(a_rebuild_answer_is_taken_only_whole)
{
	const uint8_t right[COUNT] = {
		CTL_REBUILD_DONE, CTL_REBUILD_BAD_SOURCE + 3, CTL_REBUILD_UNREACHABLE};
	const uint8_t no_such_source[COUNT] = {0, CTL_REBUILD_BAD_SOURCE + SOURCES, 0};
	const uint8_t no_such_outcome[COUNT] = {0, CTL_REBUILD_WRONG + 1, 0};
	uint32_t statuses[SOURCES] = {0};
	asked_make();
	statuses[2] = ctl_source_status(-ETIMEDOUT);
	CHECK_EQ(unpack_reply(right, COUNT, statuses, SOURCES), 0);
	CHECK_EQ(memcmp(rebuilt.outcomes, right, COUNT), 0);
	CHECK_EQ(rebuilt.source_status[0], 0);
	CHECK_EQ(rebuilt.source_status[2], -ETIMEDOUT);
	CHECK_EQ(rebuilt.read_ns + rebuilt.decode_ns * 10 + rebuilt.store_ns * 100, 321);
	CHECK_EQ(unpack_reply(right, COUNT - 1, statuses, SOURCES), -EPROTO);
	CHECK_EQ(unpack_reply(right, COUNT, statuses, SOURCES - 1), -EPROTO);
	CHECK_EQ(unpack_reply(no_such_source, COUNT, statuses, SOURCES), -EPROTO);
	CHECK_EQ(unpack_reply(no_such_outcome, COUNT, statuses, SOURCES), -EPROTO);
	struct ctl_result garbage = {.bytes = (uint8_t[]){0xff, 0xff}, .length = 2};
	CHECK_EQ(ctl_unpack_rebuild(&garbage, &asked, &rebuilt), -EPROTO);
	struct ctl_result refused = {.status = -EACCES};
	CHECK_EQ(ctl_unpack_rebuild(&refused, &asked, &rebuilt), -EACCES);
}

TEST(what_ails_a_source_survives_the_way_to_the_client_and_strange_numbers_mean_unreachable)
{
	static const int errors[] = {
		0, -ECONNRESET, -ETIMEDOUT, -EACCES, -ERANGE, -EPROTO, -EINVAL};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(errors); i++)
		CHECK_EQ(ctl_source_error(ctl_source_status(errors[i])), errors[i]);
	CHECK_EQ(ctl_source_error(ctl_source_status(-ECONNREFUSED)), -ECONNRESET);
	CHECK_EQ(ctl_source_error(4711), -ECONNRESET);
}

TEST(checksums_come_in_the_order_of_the_slots_or_not_at_all)
{
	static const uint32_t slots[2] = {3, 0x01020304};
	static const struct fabric_capability capability = {.lease = 1, .incarnation = 2};
	struct ctl_packed packed;
	uint32_t crcs[2] = {0};
	CHECK_EQ(ctl_pack_checksum(&capability, slots, 2, &packed), 0);
	Farmem__V1__ChecksumRequest *request =
		farmem__v1__checksum_request__unpack(NULL, packed.length, packed.bytes);
	const uint8_t wire[8] = {3, 0, 0, 0, 4, 3, 2, 1};
	CHECK_EQ(request->slots.len, sizeof wire);
	CHECK_EQ(memcmp(request->slots.data, wire, sizeof wire), 0);
	farmem__v1__checksum_request__free_unpacked(request, NULL);
	ctl_packed_clear(&packed);
	/* field 1, 8 bytes */
	uint8_t answer[10] = {0x0a, 8, 4, 3, 2, 1, 0xff, 0, 0, 0};
	struct ctl_result result = {.bytes = answer, .length = sizeof answer};
	CHECK_EQ(ctl_unpack_checksum(&result, 2, crcs), 0);
	CHECK_EQ(crcs[0], 0x01020304);
	CHECK_EQ(crcs[1], 0xff);
	CHECK_EQ(ctl_unpack_checksum(&result, 1, crcs), -EPROTO);
	CHECK_EQ(ctl_unpack_checksum(&result, 3, crcs), -EPROTO);
}
