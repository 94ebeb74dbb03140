/*
 * rpc/ctl_merge_test.c: what is packed for compaction can be read by a node, and an answer that is
 * not what the contract says is refused whole.
 */
#include <errno.h>
#include <string.h>

#include "base/test.h"
#include "memnode.pb-c.h"
#include "rpc/ctl_merge.h"

static const struct fabric_capability capability = {
	.key = {7}, .lease = 77, .incarnation = 777, .epoch = 5, .region = 9};

static bool is_ours(const Farmem__V1__Capability *message)
{
	struct fabric_capability read;
	return ctl_capability_from_message(message, &read) == 0 &&
	       memcmp(&read, &capability, sizeof read) == 0;
}

/* ---- requests ---- */

TEST(a_begin_says_everything_in_the_contracts_form)
{
	static const struct ctl_merge_pair pairs[2] = {{1, 2, 3, 4}, {5, 0x80000006u, 7, 0xf}};
	const struct ctl_merge_begin begin = {.txid = 1ull << 40,
		.target = capability,
		.position = 5,
		.k = 4,
		.m = 2,
		.count = 2,
		.pairs = pairs};
	const uint8_t second[16] = {5, 0, 0, 0, 6, 0, 0, 0x80, 7, 0, 0, 0, 15, 0, 0, 0};
	struct ctl_packed packed;
	CHECK_EQ(ctl_pack_merge_begin(&begin, &packed), 0);
	Farmem__V1__MergeBeginRequest *request =
		farmem__v1__merge_begin_request__unpack(NULL, packed.length, packed.bytes);
	CHECK(request != NULL && is_ours(request->target));
	CHECK_EQ(request->txid, 1ull << 40);
	CHECK_EQ(request->position * 100 + request->k * 10 + request->m, 542);
	CHECK_EQ(request->pairs.len, 32);
	CHECK_EQ(memcmp(request->pairs.data + 16, second, sizeof second), 0);
	farmem__v1__merge_begin_request__free_unpacked(request, NULL);
	ctl_packed_clear(&packed);
}

TEST(a_send_names_its_pieces_and_its_targets)
{
	static const struct ctl_merge_piece pieces[2] = {{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}};
	struct ctl_merge_send send = {.txid = 9,
		.source = capability,
		.position = 3,
		.k = 4,
		.m = 2,
		.targets_count = 2,
		.targets = {{"127.0.0.1:7400", capability, 4}, {"unix:/x", capability, 5}},
		.count = 2,
		.pieces = pieces};
	const uint8_t second[20] = {6, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 10};
	struct ctl_packed packed;
	CHECK_EQ(ctl_pack_merge_send(&send, &packed), 0);
	Farmem__V1__MergeSendRequest *request =
		farmem__v1__merge_send_request__unpack(NULL, packed.length, packed.bytes);
	CHECK(request != NULL && is_ours(request->source));
	CHECK_EQ(request->position, 3);
	CHECK_EQ(request->n_targets, 2);
	CHECK_STR_EQ(request->targets[1]->address, "unix:/x");
	CHECK_EQ(request->targets[1]->position, 5);
	CHECK(is_ours(request->targets[1]->capability));
	CHECK_EQ(request->pieces.len, 40);
	CHECK_EQ(memcmp(request->pieces.data + 20, second, sizeof second), 0);
	farmem__v1__merge_send_request__free_unpacked(request, NULL);
	ctl_packed_clear(&packed);
	send.targets_count = 0;
	CHECK_EQ(ctl_pack_merge_send(&send, &packed), 0);
	request = farmem__v1__merge_send_request__unpack(NULL, packed.length, packed.bytes);
	CHECK(request != NULL);
	CHECK_EQ(request->n_targets, 0);
	farmem__v1__merge_send_request__free_unpacked(request, NULL);
	ctl_packed_clear(&packed);
}

TEST(sixty_four_partials_fit_one_message_and_prepare_and_end_name_the_transaction)
{
	static uint8_t bytes[CTL_MERGE_PARTIALS * 4096];
	static uint32_t indexes[CTL_MERGE_PARTIALS], crcs[CTL_MERGE_PARTIALS];
	const struct ctl_merge_partial partial = {.txid = 3,
		.target = capability,
		.position = 2,
		.count = CTL_MERGE_PARTIALS,
		.indexes = indexes,
		.crcs = crcs,
		.bytes = bytes};
	struct ctl_packed packed;
	for (uint32_t i = 0; i < CTL_MERGE_PARTIALS; i++) {
		indexes[i] = i;
		crcs[i] = i << 24;
		bytes[i * 4096] = (uint8_t)i;
	}
	CHECK_EQ(ctl_pack_merge_partial(&partial, &packed), 0);
	CHECK(packed.length < CTL_MESSAGE_BYTES_MAX);
	Farmem__V1__MergePartialRequest *request =
		farmem__v1__merge_partial_request__unpack(NULL, packed.length, packed.bytes);
	const uint8_t last[8] = {63, 0, 0, 0, 0, 0, 0, 63};
	CHECK(request != NULL && is_ours(request->target));
	CHECK_EQ(request->pieces.len, sizeof last * CTL_MERGE_PARTIALS);
	CHECK_EQ(memcmp(request->pieces.data + 63 * 8, last, sizeof last), 0);
	CHECK_EQ(request->partials.len, sizeof bytes);
	CHECK_EQ(memcmp(request->partials.data, bytes, sizeof bytes), 0);
	farmem__v1__merge_partial_request__free_unpacked(request, NULL);
	ctl_packed_clear(&packed);
	CHECK_EQ(ctl_pack_merge_prepare(11, &capability, &packed), 0);
	Farmem__V1__MergePrepareRequest *prepare =
		farmem__v1__merge_prepare_request__unpack(NULL, packed.length, packed.bytes);
	CHECK(prepare != NULL && prepare->txid == 11 && is_ours(prepare->target));
	farmem__v1__merge_prepare_request__free_unpacked(prepare, NULL);
	ctl_packed_clear(&packed);
	CHECK_EQ(ctl_pack_merge_end(12, &capability, true, &packed), 0);
	Farmem__V1__MergeEndRequest *end =
		farmem__v1__merge_end_request__unpack(NULL, packed.length, packed.bytes);
	CHECK(end != NULL && end->txid == 12 && end->commit && is_ours(end->target));
	farmem__v1__merge_end_request__free_unpacked(end, NULL);
	ctl_packed_clear(&packed);
}

/* ---- answers ---- */

#define COUNT 3u

static struct ctl_merge_send asked;
static struct ctl_merge_sent sent;
static uint8_t answer[COUNT * 4096 + 256];
static struct ctl_result result = {.bytes = answer};

/* What a node would answer; the parts' lengths may be wrong. */
static void answer_make(
	const uint8_t *outcomes, size_t outcomes_count, size_t statuses, size_t deltas_bytes)
{
	static uint8_t deltas[COUNT * 4096 + 1];
	uint32_t status[3] = {0, ctl_source_status(-ETIMEDOUT), 4711};
	Farmem__V1__MergeSendReply reply = FARMEM__V1__MERGE_SEND_REPLY__INIT;
	for (size_t i = 0; i < sizeof deltas; i++)
		deltas[i] = (uint8_t)(i / 4096 + 1);
	reply.outcomes.data = (uint8_t *)(uintptr_t)outcomes;
	reply.outcomes.len = outcomes_count;
	reply.target_statuses = status;
	reply.n_target_statuses = statuses;
	reply.deltas.data = deltas;
	reply.deltas.len = deltas_bytes;
	reply.sent_bytes = 1ull << 33;
	CHECK(farmem__v1__merge_send_reply__get_packed_size(&reply) <= sizeof answer);
	result.length = farmem__v1__merge_send_reply__pack(&reply, answer);
}

static int answered(const uint8_t *outcomes, size_t outcomes_count, size_t statuses, size_t deltas)
{
	answer_make(outcomes, outcomes_count, statuses, deltas);
	return ctl_unpack_merge_sent(&result, &asked, &sent);
}

TEST(what_a_send_did_is_taken_only_whole)
{
	static const uint8_t right[COUNT] = {CTL_MERGE_DONE, CTL_MERGE_BAD_B, CTL_MERGE_REFUSED};
	static const uint8_t strange[COUNT] = {0, CTL_MERGE_OUTCOMES, 0};
	asked = (struct ctl_merge_send){.targets_count = 2, .count = COUNT};
	CHECK_EQ(answered(right, COUNT, 2, 0), 0);
	CHECK_EQ(memcmp(sent.outcomes, right, COUNT), 0);
	CHECK_EQ(sent.target_status[0], 0);
	CHECK_EQ(sent.target_status[1], -ETIMEDOUT);
	CHECK_EQ(sent.sent_bytes, 1ull << 33);
	CHECK(sent.deltas == NULL);
	CHECK_EQ(answered(right, COUNT - 1, 2, 0), -EPROTO);
	CHECK_EQ(answered(right, COUNT, 1, 0), -EPROTO);
	CHECK_EQ(answered(right, COUNT, 3, 0), -EPROTO);
	CHECK_EQ(answered(right, COUNT, 2, 4096), -EPROTO); /* nobody asked for deltas */
	CHECK_EQ(answered(strange, COUNT, 2, 0), -EPROTO);
	struct ctl_result refused = {.status = -EPERM};
	CHECK_EQ(ctl_unpack_merge_sent(&refused, &asked, &sent), -EPERM);
}

TEST(deltas_are_found_in_the_answer_itself_or_it_is_refused)
{
	static const uint8_t right[COUNT] = {0};
	asked = (struct ctl_merge_send){.targets_count = 0, .count = COUNT};
	CHECK_EQ(answered(right, COUNT, 0, COUNT * 4096), 0);
	CHECK(sent.deltas > answer && sent.deltas + COUNT * 4096 <= answer + result.length);
	for (unsigned i = 0; i < COUNT * 4096; i++)
		CHECK_EQ(sent.deltas[i], i / 4096 + 1);
	CHECK_EQ(answered(right, COUNT, 0, 0), -EPROTO);
	CHECK_EQ(answered(right, COUNT, 0, COUNT * 4096 - 1), -EPROTO);
	CHECK_EQ(answered(right, COUNT, 0, COUNT * 4096 + 1), -EPROTO);
	CHECK_EQ(answered(right, COUNT, 1, COUNT * 4096), -EPROTO);
}

TEST(an_answer_cut_or_changed_anywhere_is_refused_or_points_into_itself)
{
	static const uint8_t right[COUNT] = {0};
	uint64_t seed = 5;
	asked = (struct ctl_merge_send){.targets_count = 0, .count = COUNT};
	answer_make(right, COUNT, 0, COUNT * 4096);
	const size_t length = result.length;
	for (size_t cut = 0; cut < length; cut += cut < 64 || cut > length - 64 ? 1 : 97) {
		struct ctl_result shorter = {.bytes = answer, .length = cut};
		/* at a field's end it is whole, but then nothing but sent_bytes is missing */
		if (ctl_unpack_merge_sent(&shorter, &asked, &sent) == 0)
			CHECK(sent.sent_bytes == 0 && sent.deltas + COUNT * 4096 == answer + cut);
	}
	for (unsigned round = 0; round < 20000; round++) {
		answer_make(right, COUNT, 0, COUNT * 4096);
		for (uint64_t edits = 1 + test_random(&seed) % 3; edits > 0; edits--) {
			const size_t at = test_random(&seed) % 24;
			answer[at < 12 ? at : length - 1 - (at - 12)] = (uint8_t)test_random(&seed);
		}
		if (ctl_unpack_merge_sent(&result, &asked, &sent) == 0)
			CHECK(sent.deltas >= answer &&
				sent.deltas + COUNT * 4096 <= answer + length);
	}
}

TEST(answers_of_parity_nodes_have_an_outcome_for_each_and_strange_ones_are_refused)
{
	static const uint8_t outcomes[3] = {0, CTL_MERGE_CONTRADICTS, CTL_MERGE_REFUSED};
	uint8_t read[3] = {9, 9, 9};
	uint8_t bytes[5] = {0x0a, 3, 0, CTL_MERGE_CONTRADICTS, CTL_MERGE_REFUSED};
	struct ctl_result partial = {.bytes = bytes, .length = sizeof bytes};
	CHECK_EQ(ctl_unpack_merge_partial(&partial, 3, read), 0);
	CHECK_EQ(memcmp(read, outcomes, sizeof read), 0);
	CHECK_EQ(ctl_unpack_merge_partial(&partial, 2, read), -EPROTO);
	CHECK_EQ(ctl_unpack_merge_partial(&partial, 4, read), -EPROTO);
	bytes[3] = CTL_MERGE_OUTCOMES;
	CHECK_EQ(ctl_unpack_merge_partial(&partial, 3, read), -EPROTO);
	static struct ctl_merge_prepared prepared;
	uint8_t both[14] = {0x0a, 2, 0, CTL_MERGE_MISSING, 0x12, 8, 4, 3, 2, 1, 0, 0, 0, 0x80};
	struct ctl_result prepare = {.bytes = both, .length = sizeof both};
	CHECK_EQ(ctl_unpack_merge_prepared(&prepare, 2, &prepared), 0);
	CHECK_EQ(prepared.outcomes[1], CTL_MERGE_MISSING);
	CHECK_EQ(prepared.crcs[0], 0x01020304);
	CHECK_EQ(prepared.crcs[1], 0x80000000u);
	CHECK_EQ(ctl_unpack_merge_prepared(&prepare, 1, &prepared), -EPROTO);
	CHECK_EQ(ctl_unpack_merge_prepared(&prepare, 3, &prepared), -EPROTO);
	CHECK_EQ(ctl_unpack_merge_prepared(&prepare, UINT32_MAX, &prepared), -EPROTO);
	prepare.length = 4; /* outcomes, but no CRCs */
	CHECK_EQ(ctl_unpack_merge_prepared(&prepare, 2, &prepared), -EPROTO);
	struct ctl_result ended = {.status = -EPERM};
	CHECK_EQ(ctl_unpack_merge_prepared(&ended, 2, &prepared), -EPERM);
	CHECK_EQ(ctl_unpack_merge_partial(&ended, 2, read), -EPERM);
}

TEST(that_a_transaction_has_ended_survives_the_way_to_the_client)
{
	CHECK_EQ(ctl_status_to_errno(ctl_status_from_errno(-EPERM)), -EPERM);
	CHECK_EQ(ctl_status_to_errno(ctl_status_from_errno(-ENOENT)), -ENOENT);
	CHECK_EQ(ctl_status_to_errno(ctl_status_from_errno(-EACCES)), -EACCES);
}
