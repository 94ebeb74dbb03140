/*
 * memnode/data_tcp.c: the stream of requests and replies on one tcp connection, node's end. The
 * other half is rpc/fabric_tcp_io.c.
 *
 * The payload of a write is received straight into the region, the payload of a read sent straight
 * from it: our code never touches the region's bytes itself (a client on the same host may truncate
 * it under our hands; then system calls answer EFAULT where a load would SIGBUS). A write is
 * acknowledged when its last byte is stored.
 *
 * Called by the connection's thread, its mutex held, `cut` looked at.
 *
 * Invariants
 *   1. A region is touched only inside lease_enter .. lease_put around one system call, and within
 *      its bounds.
 *   2. Replies go out in the order of the requests; at most DATA_REPLIES_MAX wait, then nothing
 *      more is read.
 *   3. A malformed request ends the connection; a refused one is answered, its payload received and
 *      thrown away.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "memnode/data_connection.h"

#define ZERO_BYTES 65536u
#define SEND_IOV_MAX 64u
#define ROUNDS_MAX 64 /* then other connections get their turn */

static const uint8_t zero_bytes[ZERO_BYTES];

/* What a step of the state machine says. */
enum tcp_step { STEP_ON, STEP_NEED_INPUT, STEP_FULL, STEP_CLOSE };

/* A slow node answers one by one: nothing of its slowness is hidden by a batch. */
static uint32_t replies_max(const struct data_connection *c)
{
	return fm_unlikely(c->slow_reply_ns != 0) ? 1 : DATA_REPLIES_MAX;
}

static void slow_down(const struct data_connection *c)
{
	const struct timespec time = {.tv_sec = (time_t)(c->slow_reply_ns / NS_PER_S),
		.tv_nsec = (long)(c->slow_reply_ns % NS_PER_S)};
	(void)nanosleep(&time, NULL);
}

static struct data_reply *reply_add(struct data_connection *c, const struct wire_header *fields)
{
	FM_ASSERT_LT(c->replies_count, DATA_REPLIES_MAX);
	if (fm_unlikely(c->slow_reply_ns != 0))
		slow_down(c);
	uint32_t at = (c->replies_first + c->replies_count++) % DATA_REPLIES_MAX;
	struct data_reply *reply = &c->replies[at];
	*reply = (struct data_reply){.fields = *fields};
	wire_encode_header(fields, reply->header);
	return reply;
}

static void reply_status(
	struct data_connection *c, uint16_t status, uint32_t handle, uint64_t value)
{
	struct wire_header fields = {.op = c->request.op | WIRE_REPLY,
		.status = status,
		.handle = handle,
		.tag = c->request.tag,
		.offset = value};
	if (status == WIRE_STATUS_ACCESS || status == WIRE_STATUS_RANGE)
		data_count(&c->counters->refused_count, 1);
	(void)reply_add(c, &fields);
}

/* --- sending --- */

struct gather {
	struct iovec iov[SEND_IOV_MAX];
	unsigned iov_count;
	struct lease *entered[DATA_REPLIES_MAX];
	unsigned entered_count;
	size_t bytes;
};

static void gather_add(struct gather *g, const void *from, size_t bytes)
{
	g->iov[g->iov_count++] = (struct iovec){.iov_base = (void *)from, .iov_len = bytes};
	g->bytes += bytes;
}

/* Adds what is left of one reply after its first `done` bytes. 0; 1: no more room; -1: cannot be
 * sent. */
static int gather_reply(struct gather *g, struct data_reply *reply, uint32_t done)
{
	if (g->iov_count + 2 > SEND_IOV_MAX)
		return 1;
	if (reply->lease && !lease_enter(reply->lease, reply->epoch)) {
		if (done)
			return -1; /* half told already: only an end can say that the rest is lost
				    */
		reply->lease = NULL;
		reply->fields.status = WIRE_STATUS_ACCESS;
		wire_encode_header(&reply->fields, reply->header);
	} else if (reply->lease) {
		g->entered[g->entered_count++] = reply->lease;
		lease_touch(reply->lease);
	}
	if (done < WIRE_HEADER_BYTES)
		gather_add(g, reply->header + done, WIRE_HEADER_BYTES - done);
	uint32_t payload_done = done < WIRE_HEADER_BYTES ? 0 : done - WIRE_HEADER_BYTES;
	uint32_t left = reply->payload_bytes - payload_done;
	if (reply->lease && left) {
		gather_add(g, lease_memory(reply->lease) + reply->offset + payload_done, left);
		return 0;
	}
	while (left && g->iov_count < SEND_IOV_MAX) {
		uint32_t bytes = FM_MIN(left, ZERO_BYTES);
		gather_add(g, zero_bytes, bytes);
		left -= bytes;
	}
	return left ? 1 : 0;
}

static void send_account(struct data_connection *c, size_t n)
{
	while (n) {
		const struct data_reply *reply = &c->replies[c->replies_first];
		const uint32_t total = WIRE_HEADER_BYTES + reply->payload_bytes;
		uint32_t take = (uint32_t)FM_MIN(n, (size_t)(total - c->reply_sent));
		c->reply_sent += take;
		n -= take;
		if (c->reply_sent < total)
			continue;
		c->reply_sent = 0;
		c->replies_first = (c->replies_first + 1) % DATA_REPLIES_MAX;
		c->replies_count--;
	}
}

/* Sends what waits. 1: all sent; 0: the socket is full; -1: close. */
static int replies_send(struct data_connection *c)
{
	while (c->replies_count) {
		struct gather g = {.iov_count = 0};
		int r = 0;
		for (uint32_t i = 0; i < c->replies_count && r == 0; i++)
			r = gather_reply(&g, &c->replies[(c->replies_first + i) % DATA_REPLIES_MAX],
				i ? 0 : c->reply_sent);
		struct msghdr message = {.msg_iov = g.iov, .msg_iovlen = g.iov_count};
		ssize_t n = -1;
		errno = ECONNRESET;
		if (r >= 0)
			n = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		int error = errno;
		for (unsigned i = 0; i < g.entered_count; i++)
			lease_put(g.entered[i]);
		if (n < 0)
			return error == EAGAIN || error == EINTR ? 0 : -1;
		c->moved = true;
		send_account(c, (size_t)n);
		if ((size_t)n < g.bytes)
			return 0;
	}
	return 1;
}

/* --- understanding what was received --- */

static uint32_t input_bytes(const struct data_connection *c)
{
	return c->input_end - c->input_first;
}

static const uint8_t *input_take(struct data_connection *c, uint32_t bytes)
{
	const uint8_t *at = c->input + c->input_first;
	c->input_first += bytes;
	return at;
}

static enum tcp_step step_hello(struct data_connection *c)
{
	uint8_t answer[WIRE_HELLO_BYTES];
	if (input_bytes(c) < WIRE_HELLO_BYTES)
		return STEP_NEED_INPUT;
	uint16_t status = data_check_hello(c, input_take(c, WIRE_HELLO_BYTES));
	data_answer_hello(c, status, answer);
	c->phase = DATA_HEADER;
	/* The first 32 bytes into an empty socket: never short. */
	if (send(c->fd, answer, sizeof(answer), MSG_NOSIGNAL) != (ssize_t)sizeof(answer))
		return STEP_CLOSE;
	return status ? STEP_CLOSE : STEP_ON;
}

static enum tcp_step begin_read(struct data_connection *c)
{
	struct data_handle handle;
	uint16_t status = data_check(c, &c->request, &handle);
	struct wire_header fields = {.op = WIRE_READ | WIRE_REPLY,
		.status = status,
		.handle = c->request.handle,
		.tag = c->request.tag,
		.length = c->request.length};
	struct data_reply *reply = reply_add(c, &fields);
	reply->payload_bytes = c->request.length;
	reply->lease = status ? NULL : handle.lease;
	reply->epoch = handle.epoch;
	reply->offset = c->request.offset;
	data_count(status ? &c->counters->refused_count : &c->counters->reads_count, 1);
	data_count(&c->counters->read_bytes, status ? 0 : c->request.length);
	return STEP_ON;
}

static enum tcp_step step_header(struct data_connection *c)
{
	struct data_handle handle;
	if (input_bytes(c) < WIRE_HEADER_BYTES)
		return STEP_NEED_INPUT;
	if (wire_decode_request(input_take(c, WIRE_HEADER_BYTES), &c->request)) {
		log_ratelimited(
			LOG_WARN, "memnode: malformed request on the data port, connection closed");
		data_count(&c->counters->dropped_count, 1);
		return STEP_CLOSE;
	}
	c->after_write = c->request.op == WIRE_WRITE;
	c->payload_done = 0;
	switch (c->request.op) {
	case WIRE_READ:
		return begin_read(c);
	case WIRE_WRITE:
		c->payload_status = data_check(c, &c->request, &handle);
		c->phase = DATA_PAYLOAD;
		return STEP_ON;
	case WIRE_DETACH:
		data_detach(c, c->request.handle);
		return STEP_ON;
	}
	c->phase = DATA_CONTROL;
	return STEP_ON;
}

static enum tcp_step step_control(struct data_connection *c)
{
	struct fabric_capability capability;
	uint64_t fenced_id;
	uint32_t handle = 0;
	struct lease *lease;
	if (input_bytes(c) < c->request.length)
		return STEP_NEED_INPUT;
	const uint8_t *payload = input_take(c, c->request.length);
	c->phase = DATA_HEADER;
	if (c->request.op == WIRE_ATTACH) {
		wire_decode_capability(payload, &capability);
		uint16_t status = data_attach(c, &capability, &handle);
		reply_status(c, status, handle, status ? 0 : c->handles[handle].bytes);
		return STEP_ON;
	}
	wire_decode_fence(payload, &capability, &fenced_id);
	if (lease_get(c->table, &capability, &lease)) {
		reply_status(c, WIRE_STATUS_ACCESS, 0, 0);
		return STEP_ON;
	}
	lease_put(lease);
	reply_status(c, data_fence(c, fenced_id), 0, 0);
	data_count(&c->counters->fences_count, 1);
	return c->cut ? STEP_CLOSE : STEP_ON; /* may have been fenced itself meanwhile */
}

static void payload_finish(struct data_connection *c)
{
	if (!c->payload_status) {
		data_count(&c->counters->writes_count, 1);
		data_count(&c->counters->written_bytes, c->request.length);
	}
	reply_status(c, c->payload_status, c->request.handle, 0);
	c->phase = DATA_HEADER;
}

/* The lease of the write in progress, entered, or NULL: its payload goes nowhere, with
 * payload_status saying why. */
static struct lease *payload_enter(struct data_connection *c)
{
	struct data_handle handle;
	if (c->payload_status)
		return NULL;
	c->payload_status = data_check(c, &c->request, &handle);
	if (c->payload_status)
		return NULL;
	if (!lease_enter(handle.lease, handle.epoch)) {
		c->payload_status = WIRE_STATUS_ACCESS;
		return NULL;
	}
	lease_touch(handle.lease);
	return handle.lease;
}

/* Stores the payload bytes that came in with the header. */
static enum tcp_step step_payload(struct data_connection *c)
{
	uint32_t left = c->request.length - c->payload_done;
	uint32_t have = FM_MIN(left, input_bytes(c));
	if (have) {
		const uint8_t *from = input_take(c, have);
		struct lease *lease = payload_enter(c);
		if (lease) {
			if (lease_store(lease, c->request.offset + c->payload_done, from, have))
				c->payload_status = WIRE_STATUS_ACCESS;
			lease_put(lease);
		}
		c->payload_done += have;
	}
	if (c->payload_done < c->request.length)
		return STEP_NEED_INPUT;
	payload_finish(c);
	return STEP_ON;
}

static enum tcp_step step(struct data_connection *c)
{
	if (c->replies_count >= replies_max(c))
		return STEP_FULL;
	switch (c->phase) {
	case DATA_HELLO:
		return step_hello(c);
	case DATA_HEADER:
		return step_header(c);
	case DATA_CONTROL:
		return step_control(c);
	case DATA_PAYLOAD:
		return step_payload(c);
	}
	return STEP_CLOSE;
}

/* --- receiving --- */

/*
 * The rest of a write's payload, straight into the region, and with the same call the next header.
 * Returns what readv returned; *asked is what would have filled everything.
 */
static ssize_t receive_payload(struct data_connection *c, size_t *asked)
{
	static uint8_t trash[ZERO_BYTES]; /* written by many, read by nobody */
	const uint32_t left = c->request.length - c->payload_done;
	struct lease *lease = payload_enter(c);
	struct iovec iov[2];
	unsigned count = 0;
	if (lease) {
		uint8_t *memory = lease_memory(lease) + c->request.offset + c->payload_done;
		iov[count++] = (struct iovec){.iov_base = memory, .iov_len = left};
		iov[count++] = (struct iovec){.iov_base = c->input, .iov_len = WIRE_HEADER_BYTES};
	} else {
		iov[count++] =
			(struct iovec){.iov_base = trash, .iov_len = FM_MIN(left, ZERO_BYTES)};
	}
	*asked = iov[0].iov_len + (count == 2 ? iov[1].iov_len : 0);
	ssize_t n = readv(c->fd, iov, (int)count);
	int error = errno;
	if (lease)
		lease_put(lease);
	if (n > 0) {
		uint32_t payload = (uint32_t)FM_MIN((size_t)n, iov[0].iov_len);
		c->payload_done += payload;
		c->input_first = 0;
		c->input_end = (uint32_t)n - payload;
	}
	errno = error;
	return n;
}

static ssize_t receive_input(struct data_connection *c, size_t *asked)
{
	uint32_t have = input_bytes(c);
	if (have)
		memmove(c->input, c->input + c->input_first, have);
	c->input_first = 0;
	c->input_end = have;
	/* Among writes, no more than a header: what follows it is payload, and belongs into the
	 * region. */
	uint32_t limit =
		c->after_write && have < WIRE_HEADER_BYTES ? WIRE_HEADER_BYTES : DATA_INPUT_BYTES;
	*asked = limit - have;
	ssize_t n = recv(c->fd, c->input + have, *asked, MSG_DONTWAIT);
	if (n > 0)
		c->input_end += (uint32_t)n;
	return n;
}

/* 1: there may be more; 0: the socket is empty; -1: close. */
static int receive(struct data_connection *c)
{
	size_t asked;
	ssize_t n =
		c->phase == DATA_PAYLOAD ? receive_payload(c, &asked) : receive_input(c, &asked);
	if (n == 0 || FAULT_POINT("memnode.tcp.receive"))
		return -1;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	c->moved = true;
	return (size_t)n == asked;
}

bool data_tcp_serve(struct data_connection *c)
{
	int more = 1;
	for (int round = 0; round < ROUNDS_MAX; round++) {
		enum tcp_step said = STEP_ON;
		while (said == STEP_ON)
			said = step(c);
		if (said == STEP_CLOSE) {
			(void)replies_send(c);
			return false;
		}
		if (said == STEP_FULL || !more || round == 0) {
			int sent = replies_send(c);
			c->blocked = sent == 0;
			if (sent <= 0)
				return sent == 0;
		}
		if (said == STEP_FULL)
			continue;
		if (!more)
			return true;
		more = receive(c);
		if (more < 0)
			return false;
	}
	/* Out of turn, level-triggered epoll brings us back; but what waits should not wait for
	 * that. */
	int sent = replies_send(c);
	c->blocked = sent == 0;
	return sent >= 0;
}
