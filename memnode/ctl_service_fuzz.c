/*
 * memnode/ctl_service_fuzz.c: arbitrary bytes into every handler of the node's control plane.
 *
 * Input: one byte choosing the method, then the message. Whatever it is: no crash, no memory lent
 * beyond the limit, an answer or a status of the contract. Built with -fsanitize=fuzzer it is a
 * libFuzzer target; otherwise it runs ROUNDS inputs made by mutating well-formed messages, from a
 * seed (argument 1).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "memnode/ctl_service.h"
#include "rpc/ctl_memnode.h"
#include "rpc/ctl_merge.h"

#define MEMORY_BYTES (1ull << 20)
#define HELD_BYTES 16384ull
#define ROUNDS 20000
#define INPUT_BYTES_MAX 6144

static struct lease_table *table;
static struct offload *offload;
static struct ctl_service service;
static uint32_t page_crc;             /* of zeros: what its slots are */
static struct fabric_capability held; /* so that some inputs pass every check */

static const uint8_t client[CTL_CLIENT_BYTES] = {1};

static void node_start(void)
{
	static const uint8_t zeros[4096];
	page_crc = crc32c(zeros, sizeof zeros);
	struct lease_table_options leases = {.memory_bytes = MEMORY_BYTES};
	if (lease_table_open(&leases, &table) != 0)
		FM_PANIC("no lease table");
	struct offload_options offloading = {.leases = table};
	if (offload_open(&offloading, &offload) != 0)
		FM_PANIC("no offload");
	struct ctl_service_options options = {.table = table,
		.offload = offload,
		.name = "f",
		.host = "h",
		.data_path = "",
		.reserves_max = 2};
	ctl_service_open(&service, &options);
	if (lease_reserve(table, client, HELD_BYTES, &held) != 0)
		FM_PANIC("no memory");
}

/* Released or fenced by some input: another one. */
static void held_renew(void)
{
	struct lease *lease;
	if (lease_get(table, &held, &lease) == 0) {
		lease_put(lease);
		return;
	}
	if (lease_release(table, &held) != 0 && lease_keepalive(table, &held) == 0)
		FM_PANIC("a lease that can be kept alive but not given back");
	if (lease_reserve(table, client, HELD_BYTES, &held) != 0)
		FM_PANIC("no memory");
}

static void node_check(void)
{
	struct lease_usage usage;
	lease_table_usage(table, &usage);
	FM_ASSERT_LE(usage.leased_bytes, MEMORY_BYTES);
	struct offload_load load;
	offload_load(offload, &load);
	FM_ASSERT_LE(load.merges, usage.leased_count + usage.orphaned_count);
	FM_ASSERT_EQ(service.calls_running, 0);
	FM_ASSERT_EQ(service.reserves_running, 0);
	/* A full table would make the rest of the run one long refusal. */
	if (usage.leased_bytes > MEMORY_BYTES / 2) {
		offload_close(offload);
		lease_table_close(table);
		node_start();
	}
	held_renew();
}

static void check_outcome(int error, const struct ctl_reply *reply)
{
	switch (error) {
	case 0:
		FM_ASSERT(reply->bytes != NULL);
		break;
	case -EINVAL:
	case -EACCES:
	case -ENOMEM:
	case -ENOENT:
	case -EPERM:
	case -EIO: /* a Rebuild or Checksum that did something */
		FM_ASSERT(reply->text[0] != '\0');
		break;
	default:
		FM_PANIC("a status outside the contract: %d", error);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned count;
	const struct ctl_method *methods = ctl_service_methods(&count);
	if (table == NULL)
		node_start();
	if (size == 0)
		return 0;
	struct ctl_reply reply = {0};
	int error = methods[data[0] % count].handle(&service, data + 1, size - 1, &reply);
	check_outcome(error, &reply);
	free(reply.bytes);
	node_check();
	return 0;
}

/* ---- inputs worth trying: what an honest client might say, then damaged ---- */

static uint64_t state;

static uint64_t roll(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

/* A Rebuild as it might be asked for; nobody listens where its sources are said to be, and no flip
 * of a bit makes "localhost" another host. */
static int honest_rebuild(struct ctl_packed *packed)
{
	static struct ctl_piece pieces[3 * (1 + CTL_SOURCES_MAX)];
	struct ctl_rebuild request = {.target = held,
		.k = (uint8_t)(1 + roll(6)),
		.m = (uint8_t)roll(4),
		.count = 1 + (uint32_t)roll(3),
		.pieces = pieces,
		.rate_bytes_per_s = roll(2) * 1000000};
	request.sources_count = roll(3) == 0 ? 1 : request.k;
	request.position = (uint8_t)roll(2) * request.k;
	for (unsigned i = 0; i < request.sources_count; i++) {
		struct ctl_source *source = &request.sources[i];
		source->capability = held;
		source->position = (uint8_t)(i + (request.position == 0 && roll(4) != 0));
		snprintf(source->endpoint, sizeof source->endpoint,
			roll(2) ? "shm:/nonexistent/%u" : "tcp:localhost:%u", 1 + i);
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(pieces); i++)
		pieces[i] = (struct ctl_piece){(uint32_t)roll(2), (uint32_t)roll(UINT32_MAX)};
	return ctl_pack_rebuild(&request, packed);
}

static int honest_checksum(struct ctl_packed *packed)
{
	uint32_t slots[4];
	for (unsigned i = 0; i < FM_ARRAY_COUNT(slots); i++)
		slots[i] = (uint32_t)(roll(8) == 0);
	return ctl_pack_checksum(&held, slots, 1 + (unsigned)roll(FM_ARRAY_COUNT(slots)), packed);
}

#define TXID ((uint64_t)1 << 32) /* + a little: some have ended, some are open, some not begun */

static int honest_begin(struct ctl_packed *packed)
{
	struct ctl_merge_pair pairs[3];
	struct ctl_merge_begin begin = {.txid = TXID + roll(2),
		.target = held,
		.position = 2,
		.k = 2,
		.m = 1 + (uint8_t)roll(2),
		.count = 1 + (uint32_t)roll(3),
		.pairs = pairs};
	for (uint32_t i = 0; i < begin.count; i++)
		pairs[i] = (struct ctl_merge_pair){
			0, page_crc, 1 + i + (uint32_t)roll(2), 1 + (uint32_t)roll(3)};
	return ctl_pack_merge_begin(&begin, packed);
}

/* To where nobody listens. */
static int honest_send(struct ctl_packed *packed)
{
	struct ctl_merge_piece pieces[3];
	struct ctl_merge_send send = {.txid = TXID + roll(2),
		.source = held,
		.position = (uint8_t)roll(2),
		.k = 2,
		.m = 2,
		.targets_count = (uint8_t)roll(3),
		.count = 1 + (uint32_t)roll(3),
		.pieces = pieces};
	for (unsigned t = 0; t < send.targets_count; t++) {
		send.targets[t] = (struct ctl_merge_target){
			.address = "unix:/nonexistent/x", .capability = held, .position = 2};
		send.targets[t].position += (uint8_t)t;
	}
	for (uint32_t i = 0; i < send.count; i++)
		pieces[i] = (struct ctl_merge_piece){
			i, (uint32_t)roll(2), page_crc, (uint32_t)roll(5), page_crc};
	return ctl_pack_merge_send(&send, packed);
}

/* Of one page of zeros. */
static int honest_partial(struct ctl_packed *packed)
{
	static const uint8_t zeros[4096];
	uint32_t index = (uint32_t)roll(4), crc = roll(4) ? page_crc : 1;
	struct ctl_merge_partial partial = {.txid = TXID + roll(2),
		.target = held,
		.position = (uint8_t)roll(3),
		.count = 1,
		.indexes = &index,
		.crcs = &crc,
		.bytes = zeros};
	return ctl_pack_merge_partial(&partial, packed);
}

static int honest_merge(uint8_t method, struct ctl_packed *packed)
{
	switch (method) {
	case 8:
		return honest_begin(packed);
	case 9:
		return honest_send(packed);
	case 10:
		return honest_partial(packed);
	case 11:
		return ctl_pack_merge_prepare(TXID + roll(2), &held, packed);
	}
	return ctl_pack_merge_end(TXID + roll(2), &held, roll(2), packed);
}

/* A message some client might have sent, behind its method's byte. */
static size_t honest_input(uint8_t *input)
{
	struct fabric_capability capabilities[3] = {held, held, held};
	struct ctl_packed packed = {0};
	int error = 0;
	input[0] = (uint8_t)roll(13);
	if (input[0] == 0)
		error = ctl_pack_reserve(client, 4096 * roll(20), &packed);
	else if (input[0] <= 2)
		error = ctl_pack_leases(input[0] == 1 ? CTL_METHOD_RELEASE : CTL_METHOD_KEEPALIVE,
			capabilities, (unsigned)roll(4), &packed);
	else if (input[0] == 3)
		error = ctl_pack_fence(&held, &packed);
	else if (input[0] == 5)
		error = honest_rebuild(&packed);
	else if (input[0] == 6)
		error = honest_checksum(&packed);
	else if (input[0] >= 8)
		error = honest_merge(input[0], &packed);
	FM_ASSERT_EQ(error, 0);
	if (packed.length != 0)
		memcpy(input + 1, packed.bytes, packed.length);
	size_t length = packed.length + 1;
	ctl_packed_clear(&packed);
	return length;
}

/* Flips, overwrites, cuts, repeats. */
static size_t mutate(uint8_t *input, size_t length)
{
	for (uint64_t edits = roll(5); edits > 0; edits--) {
		size_t at = (size_t)roll(length);
		switch (roll(5)) {
		case 0:
			input[at] ^= (uint8_t)(1u << roll(8));
			break;
		case 1:
			input[at] = (uint8_t)roll(256);
			break;
		case 2:
			length = at + 1;
			break;
		case 3:
			input[at] = 0xff;
			break;
		default:
			if (length * 2 - at <= INPUT_BYTES_MAX) {
				memmove(input + length, input + at, length - at);
				length += length - at;
			}
		}
	}
	return length;
}

#ifdef FUZZ_BY_LIBFUZZER
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* protobuf-c is not instrumented: by itself the fuzzer would hardly ever find a whole message. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	static uint8_t input[INPUT_BYTES_MAX];
	state = seed + 1ull;
	if (table == NULL)
		node_start();
	if (roll(2) == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	size_t length = FM_MIN(mutate(input, honest_input(input)), max_size);
	memcpy(data, input, length);
	return length;
}
#else
int main(int argc, char **argv)
{
	static uint8_t input[INPUT_BYTES_MAX];
	state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	if (state == 0)
		state = 1;
	printf("seed %llu, %d inputs\n", (unsigned long long)state, ROUNDS);
	node_start();
	for (unsigned i = 0; i < ROUNDS; i++)
		LLVMFuzzerTestOneInput(input, mutate(input, honest_input(input)));
	offload_close(offload);
	lease_table_close(table);
	return 0;
}
#endif
