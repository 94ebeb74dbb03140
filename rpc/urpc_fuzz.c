/*
 * rpc/urpc_fuzz.c: arbitrary datagrams into a urpc client and a urpc server. libFuzzer under clang;
 * else a driver from a seed.
 *
 * Both are the real ones, on links that take what the fuzzer says and check what is sent. An input
 * is a series of records {flags, length, bytes}; the flags say who gets it and how much of a header
 * is set right first (or the fuzzer would never get past the magic and the id). After each input
 * nothing may be left over: no work missing from the server's pool, no slot of the client taken.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "rpc/urpc_client.h"
#include "rpc/urpc_serve.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#define RECORDS_MAX 64u
#define CALLS 4u
#define REPLY_CAPACITY 4000u
enum { TO_CLIENT = 1, SOUND_HEAD = 2, KNOWN_ID = 4, SOUND_PIECE = 8, OTHER_SOURCE = 16 };

/* A link whose receive gives what was put there. */
struct fuzz_link {
	struct urpc_link link;
	uint8_t bytes[URPC_DATAGRAM_BYTES_MAX + 1];
	size_t length;
	bool full;
	uint16_t source_port;
};

static struct fuzz_link server_link, client_link;
static struct urpc_server *server;
static struct urpc_client *client;
static uint64_t ids[CALLS];
static uint8_t replies[CALLS][REPLY_CAPACITY];

static int fuzz_receive(struct urpc_link *link, struct urpc_batch *batch, uint64_t until_ns)
{
	struct fuzz_link *fuzz = FM_CONTAINER_OF(link, struct fuzz_link, link);
	struct urpc_received *received = &batch->at[0];

	(void)until_ns;
	batch->now_ns = clock_now_ns();
	batch->more = false;
	if (!fuzz->full)
		return 0;
	fuzz->full = false;
	memcpy(received->bytes, fuzz->bytes, FM_MIN(fuzz->length, URPC_DATAGRAM_BYTES_MAX));
	received->length = fuzz->length;
	received->arrival_ns = batch->now_ns;
	*received->source = (struct urpc_address){.length = sizeof(struct sockaddr_in),
		.in = {.sin_family = AF_INET,
			.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
			.sin_port = htons(fuzz->source_port)}};
	return 1;
}

/* Whatever is sent must be well-formed. */
static int fuzz_send(struct urpc_link *link, struct mmsghdr *messages, unsigned count)
{
	static uint8_t whole[URPC_DATAGRAM_BYTES_MAX];
	struct urpc_parsed parsed;

	for (unsigned i = 0; i < count; i++) {
		size_t length = 0;

		for (size_t j = 0; j < messages[i].msg_hdr.msg_iovlen; j++) {
			const struct iovec *iov = &messages[i].msg_hdr.msg_iov[j];

			FM_ASSERT_LE(length + iov->iov_len, sizeof(whole));
			if (iov->iov_len != 0)
				memcpy(whole + length, iov->iov_base, iov->iov_len);
			length += iov->iov_len;
		}
		FM_ASSERT_EQ(urpc_wire_parse(whole, length, &parsed), URPC_OURS);
		FM_ASSERT_EQ(parsed.head.kind == URPC_REPLY, link == &server_link.link);
	}
	return (int)count;
}

static size_t fuzz_next_error(
	struct urpc_link *link, uint8_t *bytes, size_t size, struct urpc_address *to)
{
	(void)link, (void)bytes, (void)size, (void)to;
	return 0;
}

static void fuzz_nothing(struct urpc_link *link)
{
	(void)link;
}

static const struct urpc_link_ops fuzz_ops = {.receive = fuzz_receive,
	.send = fuzz_send,
	.next_error = fuzz_next_error,
	.wake = fuzz_nothing,
	.close = fuzz_nothing};

static int fuzz_handle(struct urpc_call *call)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < call->request_bytes; i++)
		sum += ((const uint8_t *)call->request)[i];
	call->reply_bytes = sum % (call->reply_capacity + 2);
	return 0;
}

static size_t fuzz_foreign(void *context, const void *bytes, size_t length, void *answer)
{
	(void)context;
	memcpy(answer, bytes, length);
	return 0;
}

static void fuzz_open(void)
{
	static const struct urpc_method methods[] = {
		{0, 0, fuzz_handle}, {1, URPC_ONCE, fuzz_handle}};
	struct urpc_server_options server_options = {.listen = "127.0.0.1:0",
		.methods = methods,
		.methods_count = 2,
		.foreign = fuzz_foreign};
	struct urpc_client_options client_options = {0};
	uint32_t peer;

	server_link.link = client_link.link =
		(struct urpc_link){.ops = &fuzz_ops, .unit = URPC_UNIT_UDP, .family = AF_INET};
	FM_ASSERT_EQ(urpc_server_open(&server_options, &server), 0);
	server->link->ops->close(server->link);
	server->link = server->sender.link = &server_link.link;
	urpc_worker_enter(&server->workers[0]);
	FM_ASSERT_EQ(urpc_client_open(&client_options, &client), 0);
	client->links[0] = &client_link.link;
	client->links_count = 1;
	FM_ASSERT_EQ(urpc_client_add(client, "127.0.0.1:7", &peer), 0);
}

static void fuzz_begin(void)
{
	for (unsigned i = 0; i < CALLS; i++)
		FM_ASSERT_EQ(urpc_client_send(client,
				     &(struct urpc_request){.reply = replies[i],
					     .reply_capacity = REPLY_CAPACITY,
					     .deadline_ns = CLOCK_NEVER_NS},
				     &ids[i]),
			0);
}

static void fuzz_end(void)
{
	struct urpc_completion completions[CALLS];
	uint64_t pooled = 0;

	for (unsigned i = 0; i < CALLS; i++)
		if (urpc_client_cancel(client, ids[i]) != 0)
			continue;
	while (urpc_client_poll(client, completions, CALLS) != 0)
		continue;
	FM_ASSERT_EQ(client->table.count, 0);
	for (unsigned i = 0; i < 1000 && server->in_flight != 0; i++)
		urpc_worker_turn(&server->workers[0]);
	urpc_dispatch_pump(server, 0);
	for (const struct urpc_work *work = server->pool; work != NULL; work = work->next)
		pooled++;
	FM_ASSERT_EQ(pooled + URPC_BATCH_MAX, server->works_count);
	FM_ASSERT_EQ(server->in_flight, 0);
}

/* Sets right what the flags ask for. */
static void fuzz_mend(uint8_t flags, uint8_t *bytes, size_t length)
{
	size_t head_bytes = flags & TO_CLIENT ? sizeof(struct urpc_reply_head)
					      : sizeof(struct urpc_request_head);
	struct urpc_head head;

	if (!(flags & SOUND_HEAD) || length < head_bytes)
		return;
	memcpy(&head, bytes, sizeof(head));
	head.magic = URPC_MAGIC;
	head.version = URPC_VERSION;
	head.kind = flags & TO_CLIENT    ? URPC_REPLY
		    : head.kind % 5 == 4 ? URPC_CANCEL
					 : URPC_REQUEST;
	head.flags &= flags & TO_CLIENT ? URPC_REFUSED : 0;
	if (flags & KNOWN_ID)
		head.id = flags & TO_CLIENT ? ids[head.id % CALLS] : 1 + head.id % 8;
	if (flags & SOUND_PIECE) {
		/* all of it in one piece, or one of a few equal ones */
		uint32_t payload = (uint32_t)(length - head_bytes);
		uint32_t pieces = payload >= URPC_UNIT_MIN ? 1 + head.piece % 4 : 1;

		head.unit = (uint16_t)FM_MAX(payload, URPC_UNIT_MIN);
		head.total_bytes = head.kind == URPC_CANCEL ? 0 : payload * pieces;
		head.piece = (uint16_t)(head.piece % 8 % pieces);
	}
	memcpy(bytes, &head, sizeof(head));
	if (flags & TO_CLIENT)
		memset(bytes + sizeof(head), 0, sizeof(int32_t)); /* status */
}

static void fuzz_one(uint8_t flags, const uint8_t *bytes, size_t length)
{
	struct fuzz_link *link = flags & TO_CLIENT ? &client_link : &server_link;
	struct urpc_completion completions[CALLS];

	memcpy(link->bytes, bytes, length);
	link->length = length;
	link->full = true;
	link->source_port = flags & OTHER_SOURCE ? 8 : 7;
	fuzz_mend(flags, link->bytes, length);
	if (flags & TO_CLIENT) {
		unsigned n = urpc_client_poll(client, completions, CALLS);

		for (unsigned i = 0; i < n; i++)
			FM_ASSERT_LE(completions[i].reply_bytes, REPLY_CAPACITY);
		return;
	}
	urpc_dispatch_pump(server, 0);
	urpc_worker_turn(&server->workers[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	if (server == NULL)
		fuzz_open();
	fuzz_begin();
	for (unsigned i = 0; i < RECORDS_MAX && length >= 3; i++) {
		size_t size = FM_MIN((size_t)(bytes[1] | bytes[2] << 8), length - 3);

		size = FM_MIN(size, sizeof(server_link.bytes));
		fuzz_one(bytes[0], bytes + 3, size);
		bytes += 3 + size;
		length -= 3 + size;
	}
	fuzz_end();
	return 0;
}

#ifndef FUZZ_BY_LIBFUZZER

#define DRIVER_RUNS 20000ul
#define DRIVER_BYTES 4096u

static uint64_t driver_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Records that are mostly nearly right. */
static size_t driver_fill(uint8_t input[DRIVER_BYTES], uint64_t *state)
{
	size_t at = 0;

	while (at + 700 < DRIVER_BYTES) {
		uint64_t dice = driver_random(state);
		size_t size = dice % 3 == 0   ? 560
			      : dice % 3 == 1 ? 48 + (dice >> 8) % 64
					      : (dice >> 8) % 48;

		input[at] = (uint8_t)(dice >> 32 |
				      ((dice >> 40) % 4 ? SOUND_HEAD | SOUND_PIECE | KNOWN_ID : 0));
		input[at + 1] = (uint8_t)size;
		input[at + 2] = (uint8_t)(size >> 8);
		for (size_t i = 0; i < size; i++)
			input[at + 3 + i] =
				(uint8_t)(driver_random(state) >> 60 ? driver_random(state) >> 30
								     : 0);
		at += 3 + size;
	}
	return at;
}

int main(int argc, char **argv)
{
	static uint8_t input[DRIVER_BYTES];
	uint64_t state = 0x5eed;
	unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : DRIVER_RUNS;

	for (unsigned long run = 0; run < runs; run++)
		LLVMFuzzerTestOneInput(input, driver_fill(input, &state));
	printf("ok   %lu inputs, deterministic: %llu requests, %llu replies taken\n", runs,
		(unsigned long long)atomic_load(&server->counters.requests),
		(unsigned long long)client->stats.replies);
	return client->stats.replies == 0 || atomic_load(&server->counters.requests) == 0;
}

#endif
