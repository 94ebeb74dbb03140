/*
 * memnode/merge_send.c: the data node's part of compaction, one MergeSend from beginning to end;
 * see merge.h. Called by a worker of offload.c.
 *
 *     for each pair: a's piece, b's piece -> both checked -> delta -> for each target: coefficient
 *     times delta -> its row of the chunk;   a full chunk (64): a MergePartial to each target
 *
 * gRPC copies what it is given, so one chunk's memory is all there is: the next one is filled while
 * up to MERGE_IN_FLIGHT calls to each target are on their way. In local mode the delta is the
 * answer.
 *
 * Invariants
 *   1. Pieces are read inside lease_enter .. lease_put, each on its own: a fence waits for one of
 *      them at most.
 *   2. No call is on its way when merge_send_run returns: they point into its frame. Each of them
 *      ends within MERGE_PARTIAL_NS.
 *   3. Once a target has failed nothing more is sent: every pair needs all of them.
 *   4. Keys and addresses appear in no log line.
 *
 * Nothing is sent twice from here: whoever asked may ask again, and what came before is then not
 * added again.
 *
 * Lock: clients.mutex, with nothing else held.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "ec/ec.h"
#include "memnode/merge.h"
#include "memnode/offload.h"
#include "rpc/ctl_client.h"

#define STEP_PIECES (MERGE_STEP_BYTES / (2 * FM_PAGE_SIZE)) /* a's and b's are read */
FM_BUILD_ASSERT(MERGE_SEND_BYTES <= REBUILD_MEMORY_BYTES, "a worker's memory is enough");
FM_BUILD_ASSERT(OFFLOAD_MERGE_WAIT_NS + MERGE_SEND_NS + MERGE_PARTIAL_NS < CTL_MERGE_NS,
	"a client that waits so long does get its answer");

/* ---- connections ---- */

struct client {
	struct ctl_client *ctl; /* NULL: free */
	unsigned users;
	uint64_t used; /* when last: the table's count of uses */
	char address[FABRIC_ENDPOINT_MAX];
};

struct merge_clients {
	pthread_mutex_t mutex;
	uint64_t uses;
	struct client clients[MERGE_CLIENTS_MAX];
};

int merge_clients_open(struct merge_clients **out)
{
	struct merge_clients *clients = calloc(1, sizeof(*clients));
	*out = clients;
	if (!clients)
		return -ENOMEM;
	pthread_mutex_init(&clients->mutex, NULL);
	return 0;
}

void merge_clients_close(struct merge_clients *clients)
{
	if (!clients)
		return;
	for (unsigned i = 0; i < MERGE_CLIENTS_MAX; i++)
		ctl_client_close(clients->clients[i].ctl);
	pthread_mutex_destroy(&clients->mutex);
	free(clients);
}

/* The one of that address, or the place for it: a free one, else the one that was used longest ago.
 * NULL: all are in use. The mutex is held. */
static struct client *clients_find(struct merge_clients *clients, const char *address)
{
	struct client *best = NULL;
	for (unsigned i = 0; i < MERGE_CLIENTS_MAX; i++) {
		struct client *client = &clients->clients[i];
		if (client->ctl && strcmp(client->address, address) == 0)
			return client;
		if (client->users)
			continue;
		if (!best || !client->ctl || (best->ctl && client->used < best->used))
			best = client;
	}
	return best;
}

/* 0: *out is to be put back. -ENOMEM; -EINVAL. */
static int clients_take(struct merge_clients *clients, const char *address, struct client **out)
{
	int error = 0;
	pthread_mutex_lock(&clients->mutex);
	struct client *client = clients_find(clients, address);
	if (!client) {
		error = -ENOMEM;
	} else if (!client->ctl || strcmp(client->address, address) != 0) {
		ctl_client_close(client->ctl);
		client->ctl = NULL;
		error = ctl_client_open(address, &client->ctl);
		snprintf(client->address, sizeof(client->address), "%s", address);
	}
	if (!error) {
		client->users++;
		client->used = ++clients->uses;
		*out = client;
	}
	pthread_mutex_unlock(&clients->mutex);
	return error;
}

static void clients_put(struct merge_clients *clients, struct client *client)
{
	pthread_mutex_lock(&clients->mutex);
	client->users--;
	pthread_mutex_unlock(&clients->mutex);
}

/* ---- what a request must look like ---- */

/* ADDRESS:PORT or [ADDRESS]:PORT, in numbers: a node asks no name service for its clients. */
static bool address_is_numeric(const char *address)
{
	char host[FABRIC_ENDPOINT_MAX];
	struct in6_addr binary;
	const char *colon = strrchr(address, ':');
	const size_t length = colon ? (size_t)(colon - address) : 0;
	if (length < 2 || length >= sizeof(host))
		return false;
	const bool six = address[0] == '[' && colon[-1] == ']';
	memcpy(host, address + six, length - 2 * six);
	host[length - 2 * six] = '\0';
	if (inet_pton(six ? AF_INET6 : AF_INET, host, &binary) != 1)
		return false;
	unsigned long port = 0;
	const char *digit = colon + 1;
	for (; *digit >= '0' && *digit <= '9' && port <= UINT16_MAX; digit++)
		port = port * 10 + (unsigned long)(*digit - '0');
	return *digit == '\0' && port >= 1 && port <= UINT16_MAX;
}

static bool address_is_possible(const char *address)
{
	if (strncmp(address, "unix:/", 6) != 0)
		return address_is_numeric(address);
	for (const char *at = address; *at; at++)
		if (*at <= ' ' || *at >= 0x7f)
			return false;
	return true;
}

static const char *targets_fault(const struct ctl_merge_send *send)
{
	uint32_t seen = 0;
	if (send->targets_count > send->m)
		return "more targets than parities";
	for (unsigned t = 0; t < send->targets_count; t++) {
		const struct ctl_merge_target *target = &send->targets[t];
		if (target->position < send->k || target->position >= send->k + send->m)
			return "a target's position is not one of parity";
		if (seen & 1u << target->position)
			return "two targets have the same position";
		seen |= 1u << target->position;
		if (!address_is_possible(target->address))
			return "an address is neither ADDRESS:PORT in numbers nor unix:/PATH";
	}
	return NULL;
}

const char *merge_send_fault(const struct ctl_merge_send *send)
{
	if (send->txid == 0)
		return "txids begin at 1";
	if (send->k < 1 || send->k > EC_K_MAX || send->m < 1 || send->m > EC_M_MAX)
		return "k must be 1..16, m 1..4";
	if (send->position >= send->k)
		return "the source's position is not one of data";
	if (send->count < 1 || send->count > CTL_MERGE_PAIRS ||
		(send->targets_count == 0 && send->count > CTL_MERGE_PARTIALS))
		return "1..256 pieces at once, 64 when the deltas are to be answered";
	for (uint32_t i = 0; i < send->count; i++)
		if (send->pieces[i].index >= CTL_MERGE_PAIRS)
			return "no transaction has a pair of such a number";
	return targets_fault(send);
}

/* ---- the run ---- */

struct run;

/* A MergePartial on its way. */
struct call {
	struct run *run;
	unsigned target;
	uint32_t count; /* pieces; 0: free */
	uint32_t pieces[CTL_MERGE_PARTIALS];
};

struct run {
	const struct merge_sending *sending;
	const struct ctl_merge_send *request;
	struct ctl_merge_sent *sent;
	struct lease *lease;
	uint32_t epoch;
	struct ec_code code;
	struct client *clients[CTL_MERGE_TARGETS];
	uint64_t deadline_ns; /* for beginning */
	bool target_failed;
	int error;
	/* The chunk being filled; a row of partials for each target. */
	uint32_t count;
	uint32_t pieces[CTL_MERGE_PARTIALS], indexes[CTL_MERGE_PARTIALS];
	uint32_t crcs[CTL_MERGE_TARGETS][CTL_MERGE_PARTIALS];
	unsigned calls_pending;
	struct call calls[CTL_MERGE_TARGETS][MERGE_IN_FLIGHT];
};

static uint8_t *run_row(const struct run *run, unsigned target)
{
	return run->sending->memory + (size_t)target * CTL_MERGE_PARTIALS * FM_PAGE_SIZE;
}

/* How a target failed, in the words of the answer. */
static int target_error(int error)
{
	switch (error) {
	case -EPERM:  /* the transaction has ended there, */
	case -ENOENT: /* or never began */
		return -EACCES;
	case -EINVAL:
	case -ENOSYS:
		return -EPROTO;
	}
	return error;
}

static void target_fail(struct run *run, unsigned target, int error)
{
	run->target_failed = true;
	if (run->sent->target_status[target] == 0)
		run->sent->target_status[target] = target_error(error);
}

static void outcome_worsen(struct run *run, uint32_t piece, uint8_t outcome)
{
	if (run->sent->outcomes[piece] == CTL_MERGE_DONE)
		run->sent->outcomes[piece] = outcome;
}

/* ---- sending ---- */

static void call_done(void *context, const struct ctl_result *result)
{
	struct call *call = context;
	struct run *run = call->run;
	uint8_t outcomes[CTL_MERGE_PARTIALS];
	int error = ctl_unpack_merge_partial(result, call->count, outcomes);
	if (error)
		target_fail(run, call->target, error);
	for (uint32_t i = 0; i < call->count; i++)
		outcome_worsen(run, call->pieces[i], error ? CTL_MERGE_UNREACHABLE : outcomes[i]);
	call->count = 0;
	run->calls_pending--;
}

static int call_start(struct run *run, struct call *call, unsigned target)
{
	const struct ctl_merge_partial partial = {.txid = run->request->txid,
		.target = run->request->targets[target].capability,
		.position = run->request->position,
		.count = run->count,
		.indexes = run->indexes,
		.crcs = run->crcs[target],
		.bytes = run_row(run, target)};
	struct ctl_packed packed;
	if (FAULT_POINT("memnode.merge.send.partial"))
		return -ECONNRESET;
	int error = ctl_pack_merge_partial(&partial, &packed);
	if (error)
		return error;
	struct ctl_request request = {.method = CTL_METHOD_MERGE_PARTIAL,
		.bytes = packed.bytes,
		.length = packed.length,
		.timeout_ns = MERGE_PARTIAL_NS};
	call->run = run;
	call->target = target;
	call->count = run->count;
	memcpy(call->pieces, run->pieces, sizeof(call->pieces));
	error = ctl_client_start(
		run->clients[target]->ctl, *run->sending->queue, &request, call_done, call);
	ctl_packed_clear(&packed);
	if (error) {
		call->count = 0;
		return error;
	}
	run->calls_pending++;
	run->sent->sent_bytes += (uint64_t)run->count * FM_PAGE_SIZE;
	return 0;
}

/* Some call ends: within MERGE_PARTIAL_NS, gRPC sees to that. */
static void run_reap(struct run *run)
{
	struct pollfd fd = {.fd = ctl_queue_fd(*run->sending->queue), .events = POLLIN};
	poll(&fd, 1, -1);
	ctl_queue_dispatch(*run->sending->queue);
}

static struct call *run_free_call(struct run *run, unsigned target)
{
	for (;;) {
		for (unsigned i = 0; i < MERGE_IN_FLIGHT; i++)
			if (run->calls[target][i].count == 0)
				return &run->calls[target][i];
		run_reap(run);
	}
}

/* The chunk goes to every target. */
static void run_flush(struct run *run)
{
	for (unsigned t = 0; t < run->request->targets_count && run->count; t++) {
		struct call *call = run_free_call(run, t);
		int error = run->target_failed ? 0 : call_start(run, call, t);
		if (error)
			target_fail(run, t, error);
		for (uint32_t i = 0; i < run->count && run->target_failed; i++)
			outcome_worsen(run, run->pieces[i], CTL_MERGE_UNREACHABLE);
	}
	run->count = 0;
}

/* ---- making partials ---- */

static int piece_read(struct run *run, uint32_t slot, uint8_t *into)
{
	return FAULT_POINT("memnode.merge.send.read")
		       ? -EIO
		       : lease_load(run->lease, (uint64_t)slot * FM_PAGE_SIZE, into, FM_PAGE_SIZE);
}

/* The delta of a's and b's piece. *outcome: DONE, or which of them is bad. */
static int piece_delta(
	struct run *run, const struct ctl_merge_piece *piece, uint8_t *delta, uint8_t *outcome)
{
	uint8_t a[FM_PAGE_SIZE] FM_ALIGNED(FM_CACHE_LINE);
	uint8_t b[FM_PAGE_SIZE] FM_ALIGNED(FM_CACHE_LINE);
	const uint64_t slots = lease_bytes(run->lease) / FM_PAGE_SIZE;
	*outcome = CTL_MERGE_REFUSED;
	if (piece->slot_a >= slots || piece->slot_b >= slots)
		return 0;
	int error = piece_read(run, piece->slot_a, a);
	if (!error)
		error = piece_read(run, piece->slot_b, b);
	if (error)
		return error;
	*outcome = crc32c(a, sizeof(a)) != piece->crc_a   ? CTL_MERGE_BAD_A
		   : crc32c(b, sizeof(b)) != piece->crc_b ? CTL_MERGE_BAD_B
							  : CTL_MERGE_DONE;
	if (*outcome == CTL_MERGE_DONE)
		ec_delta(FM_PAGE_SIZE, a, b, delta);
	return 0;
}

static void piece_multiply(struct run *run, uint32_t piece, const uint8_t *delta)
{
	const uint32_t at = run->count++;
	run->pieces[at] = piece;
	run->indexes[at] = run->request->pieces[piece].index;
	for (unsigned t = 0; t < run->request->targets_count; t++) {
		uint8_t *partial = run_row(run, t) + (size_t)at * FM_PAGE_SIZE;
		const unsigned parity = run->request->targets[t].position - run->request->k;
		ec_partial(
			&run->code, FM_PAGE_SIZE, run->request->position, parity, delta, partial);
		run->crcs[t][at] = crc32c(partial, FM_PAGE_SIZE);
	}
}

static int run_piece(struct run *run, uint32_t i)
{
	uint8_t memory[FM_PAGE_SIZE] FM_ALIGNED(FM_CACHE_LINE);
	const bool local = run->request->targets_count == 0;
	uint8_t *delta = local ? run->sending->deltas + (size_t)i * FM_PAGE_SIZE : memory;
	if (!lease_enter(run->lease, run->epoch))
		return -EACCES;
	int error = piece_delta(run, &run->request->pieces[i], delta, &run->sent->outcomes[i]);
	lease_touch(run->lease);
	lease_put(run->lease);
	if (error || run->sent->outcomes[i] != CTL_MERGE_DONE)
		return error;
	if (local)
		run->sent->sent_bytes += FM_PAGE_SIZE;
	else
		piece_multiply(run, i, delta);
	return 0;
}

static bool run_wants_more(const struct run *run, uint32_t i)
{
	return i < run->request->count && !run->error && !run->target_failed &&
	       clock_now_ns() < run->deadline_ns;
}

static void run_loop(struct run *run)
{
	uint32_t i = 0;
	while (run_wants_more(run, i)) {
		if (i % STEP_PIECES == 0 && !merge_give_way(&run->sending->way, run->sending->stop))
			run->error = -EAGAIN;
		else
			run->error = run_piece(run, i++);
		if (run->count == CTL_MERGE_PARTIALS)
			run_flush(run);
	}
	for (; i < run->request->count; i++)
		run->sent->outcomes[i] = CTL_MERGE_UNREACHABLE;
	if (!run->error)
		run_flush(run);
	while (run->calls_pending) /* invariant 2 */
		run_reap(run);
}

static int run_connect(struct run *run)
{
	struct ctl_queue **queue = run->sending->queue;
	if (run->request->targets_count == 0)
		return 0;
	int error = *queue ? 0 : ctl_queue_open(queue);
	for (unsigned t = 0; t < run->request->targets_count && !error; t++)
		error = clients_take(
			run->sending->clients, run->request->targets[t].address, &run->clients[t]);
	return error;
}

int merge_send_run(const struct merge_sending *sending, struct ctl_merge_sent *sent)
{
	struct run run = {.sending = sending,
		.request = sending->request,
		.sent = sent,
		.epoch = sending->request->source.epoch};
	memset(sent, 0, sizeof(*sent));
	int error = lease_get(sending->leases, &run.request->source, &run.lease);
	if (error)
		return error;
	lease_put(run.lease);
	error = ec_code_init(&run.code, run.request->k, run.request->m);
	if (!error)
		error = FAULT_POINT("memnode.merge.send") ? -ENOMEM : run_connect(&run);
	if (!error) {
		run.deadline_ns = clock_now_ns() + MERGE_SEND_NS;
		run_loop(&run);
		error = run.error;
	}
	for (unsigned t = 0; t < run.request->targets_count; t++)
		if (run.clients[t])
			clients_put(sending->clients, run.clients[t]);
	if (run.request->targets_count == 0)
		sent->deltas = sending->deltas;
	return error;
}
