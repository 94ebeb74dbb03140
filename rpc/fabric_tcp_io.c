/*
 * rpc/fabric_tcp_io.c: the stream of requests and replies on one tcp connection, client's end.
 *
 * Replies come in the order of the requests, and the reply to a read has a payload of exactly the
 * length asked for, whatever its status. So the layout of all bytes to come is known: one recvmsg
 * takes headers and payloads of many replies straight to where they belong, without a copy. A lone
 * read costs one sendmsg and the recvmsgs that find nothing yet.
 *
 * Called by fabric_tcp.c only; one thread.
 *
 * Invariants
 *   1. The fifo holds operations in the order of posting: [first .. unsent) wholly sent, [unsent
 *      ..] not. Only wholly sent ones may receive a reply.
 *   2. Nothing writes to an operation's buffers after its completion: the kernel only does so
 *      inside our own recvmsg, whose vector is made of operations in the fifo.
 *   3. Anything unexpected in the stream breaks the connection: there is no way back into step.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "rpc/fabric_tcp.h"

static uint32_t op_index(const struct tcp_part *part, const struct tcp_op *op)
{
	return (uint32_t)(op - part->ops);
}

static uint32_t peer_index(const struct tcp_part *part, const struct tcp_peer *peer)
{
	return (uint32_t)(peer - part->peers);
}

static uint32_t op_sent_total(const struct tcp_op *op)
{
	return WIRE_HEADER_BYTES + (op->op == WIRE_READ ? 0 : op->payload_bytes);
}

static uint32_t op_received_total(const struct tcp_op *op)
{
	return WIRE_HEADER_BYTES + (op->op == WIRE_READ ? op->payload_bytes : 0);
}

struct tcp_op *tcp_op_take(
	struct tcp_part *part, struct tcp_region *region, uint8_t op, uint64_t deadline_ns)
{
	uint32_t index = part->ops_free;
	if (index != TCP_NONE) {
		part->ops_free = part->ops[index].next;
	} else {
		FM_ASSERT_LT(part->ops_used, part->ops_count);
		index = part->ops_used++;
	}
	struct tcp_op *o = &part->ops[index];
	o->region = region;
	o->op = op;
	o->deadline_ns = deadline_ns;
	o->wire_tag = ++part->wire_tag;
	o->sent_bytes = 0;
	o->received_bytes = 0;
	o->next = TCP_NONE;
	return o;
}

static void op_finish(struct tcp_part *part, struct tcp_op *op, int status)
{
	if (op->region) {
		fabric_complete(&op->region->head, op->tag, status);
	} else {
		part->control_done = true;
		part->control_status = status;
	}
	op->next = part->ops_free;
	part->ops_free = op_index(part, op);
}

static void active_remove(struct tcp_part *part, struct tcp_peer *peer)
{
	uint32_t *link = &part->active;
	while (*link != peer_index(part, peer)) {
		FM_ASSERT_NE(*link, TCP_NONE);
		link = &part->peers[*link].next_active;
	}
	*link = peer->next_active;
	peer->next_active = TCP_NONE;
}

/* Takes the first operation off the fifo. */
static struct tcp_op *fifo_pop(struct tcp_part *part, struct tcp_peer *peer)
{
	struct tcp_op *op = &part->ops[peer->first];
	if (peer->unsent == peer->first)
		peer->unsent = op->next;
	peer->first = op->next;
	if (peer->first == TCP_NONE) {
		peer->last = TCP_NONE;
		active_remove(part, peer);
	}
	return op;
}

static void fifo_push(struct tcp_part *part, struct tcp_peer *peer, struct tcp_op *op)
{
	uint32_t index = op_index(part, op);
	if (peer->first == TCP_NONE) {
		peer->first = index;
		peer->next_active = part->active;
		part->active = peer_index(part, peer);
	} else {
		part->ops[peer->last].next = index;
	}
	peer->last = index;
	if (peer->unsent == TCP_NONE)
		peer->unsent = index;
	part->next_deadline_ns = FM_MIN(part->next_deadline_ns, op->deadline_ns);
}

void tcp_peer_break(struct tcp_part *part, struct tcp_peer *peer, uint64_t now_ns)
{
	if (peer->socket < 0)
		return;
	/* Reset rather than an orderly end: what was not yet sent had better not be sent. */
	struct linger reset = {.l_onoff = 1, .l_linger = 0};
	(void)setsockopt(peer->socket, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(peer->socket);
	peer->socket = -1;
	peer->generation++;
	/* While an older connection is unfenced, no region was attached to this one: keep the older
	 * id. */
	if (!peer->unfenced)
		peer->unfenced = peer->connection;
	while (peer->first != TCP_NONE) {
		struct tcp_op *op = fifo_pop(part, peer);
		op_finish(part, op, op->deadline_ns <= now_ns ? -ETIMEDOUT : -ECONNRESET);
	}
}

/*
 * Appends to iov the part of a message {header, payload} after its first `done` bytes.
 * Returns the number of entries then in iov; entries beyond TCP_IOV_MAX are left out.
 */
static unsigned iov_append(struct iovec *iov, unsigned count, uint8_t *header, struct tcp_op *op,
	size_t done, bool payload)
{
	if (done < WIRE_HEADER_BYTES) {
		if (count < TCP_IOV_MAX)
			iov[count++] = (struct iovec){header + done, WIRE_HEADER_BYTES - done};
		done = 0;
	} else {
		done -= WIRE_HEADER_BYTES;
	}
	for (uint32_t i = 0; payload && i < op->iov_count && count < TCP_IOV_MAX; i++) {
		struct iovec v = op->iov[i];
		size_t cut = FM_MIN(done, v.iov_len);
		done -= cut;
		if (v.iov_len == cut)
			continue;
		iov[count++] = (struct iovec){(uint8_t *)v.iov_base + cut, v.iov_len - cut};
	}
	return count;
}

static size_t iov_bytes(const struct iovec *iov, unsigned count)
{
	size_t bytes = 0;
	for (unsigned i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

/* Books n bytes as sent. */
static void send_account(struct tcp_part *part, struct tcp_peer *peer, size_t n)
{
	while (n) {
		struct tcp_op *op = &part->ops[peer->unsent];
		size_t take = FM_MIN(n, (size_t)(op_sent_total(op) - op->sent_bytes));
		op->sent_bytes += (uint32_t)take;
		n -= take;
		if (op->sent_bytes == op_sent_total(op))
			peer->unsent = op->next;
	}
}

/* Sends until all is sent, or the socket is full. 0, or -errno: the connection is gone. */
static int peer_send(struct tcp_part *part, struct tcp_peer *peer)
{
	while (peer->unsent != TCP_NONE) {
		struct iovec iov[TCP_IOV_MAX];
		unsigned count = 0;
		for (uint32_t i = peer->unsent; i != TCP_NONE && count < TCP_IOV_MAX;
			i = part->ops[i].next) {
			struct tcp_op *op = &part->ops[i];
			count = iov_append(
				iov, count, op->request, op, op->sent_bytes, op->op != WIRE_READ);
			if (count == TCP_IOV_MAX)
				break;
		}
		struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
		size_t asked = iov_bytes(iov, count);
		if (FAULT_POINT("fabric.tcp.send"))
			return -ECONNRESET;
		ssize_t n = sendmsg(peer->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		send_account(part, peer, (size_t)n);
		if ((size_t)n < asked)
			return 0;
	}
	return 0;
}

/* The reply's header is complete: is it the one expected? */
static int reply_check(const struct tcp_op *op, struct wire_header *reply)
{
	if (wire_decode_reply(op->reply, reply))
		return -EPROTO;
	if (reply->op != (op->op | WIRE_REPLY) || reply->tag != op->wire_tag)
		return -EPROTO;
	return reply->length != op_received_total(op) - WIRE_HEADER_BYTES ? -EPROTO : 0;
}

/* Books n bytes as received, completing what is complete. 0 or -EPROTO. */
static int receive_account(struct tcp_part *part, struct tcp_peer *peer, size_t n)
{
	while (n) {
		struct tcp_op *op = &part->ops[peer->first];
		struct wire_header reply;
		size_t take = FM_MIN(n, (size_t)(op_received_total(op) - op->received_bytes));
		uint32_t before = op->received_bytes;
		op->received_bytes += (uint32_t)take;
		n -= take;
		if (before < WIRE_HEADER_BYTES && op->received_bytes >= WIRE_HEADER_BYTES &&
			reply_check(op, &reply))
			return -EPROTO;
		if (op->received_bytes < op_received_total(op))
			continue;
		if (wire_decode_reply(op->reply, &reply))
			return -EPROTO;
		if (!op->region)
			part->control_reply = reply;
		op_finish(part, fifo_pop(part, peer), wire_status_error(reply.status));
	}
	return 0;
}

/* Receives until nothing is expected, or nothing is there. 0, or -errno: the connection is gone. */
static int peer_receive(struct tcp_part *part, struct tcp_peer *peer)
{
	while (peer->first != peer->unsent) { /* invariant 1 */
		struct iovec iov[TCP_IOV_MAX];
		unsigned count = 0;
		for (uint32_t i = peer->first; i != peer->unsent && count < TCP_IOV_MAX;
			i = part->ops[i].next) {
			struct tcp_op *op = &part->ops[i];
			count = iov_append(
				iov, count, op->reply, op, op->received_bytes, op->op == WIRE_READ);
		}
		struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
		size_t asked = iov_bytes(iov, count);
		ssize_t n = recvmsg(peer->socket, &message, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (n == 0 || FAULT_POINT("fabric.tcp.receive"))
			return -ECONNRESET;
		int r = receive_account(part, peer, (size_t)n);
		if (r || (size_t)n < asked)
			return r;
	}
	return 0;
}

void tcp_op_submit(struct tcp_part *part, struct tcp_peer *peer, struct tcp_op *op)
{
	/* A read behind others goes out with all that are posted before the caller looks for
	 * answers, by progress: one call and one wake-up of the node instead of one for each. So
	 * does what finds others waiting for room in the socket. */
	bool later = peer->unsent != TCP_NONE || (op->op == WIRE_READ && peer->first != TCP_NONE);
	fifo_push(part, peer, op);
	if (!later && peer_send(part, peer))
		tcp_peer_break(part, peer, 0);
}

void tcp_peer_progress(struct tcp_part *part, struct tcp_peer *peer)
{
	int r = 0;
	if (peer->unsent != TCP_NONE)
		r = peer_send(part, peer);
	if (!r)
		r = peer_receive(part, peer);
	if (r)
		tcp_peer_break(part, peer, 0);
}

/* The earliest deadline on this connection. */
static uint64_t peer_deadline(const struct tcp_part *part, const struct tcp_peer *peer)
{
	uint64_t earliest = CLOCK_NEVER_NS;
	for (uint32_t i = peer->first; i != TCP_NONE; i = part->ops[i].next)
		earliest = FM_MIN(earliest, part->ops[i].deadline_ns);
	return earliest;
}

void tcp_expire(struct tcp_part *part, uint64_t now_ns)
{
	part->next_deadline_ns = CLOCK_NEVER_NS;
	for (uint32_t i = part->active; i != TCP_NONE;) {
		struct tcp_peer *peer = &part->peers[i];
		i = peer->next_active; /* read before the peer may leave the list */
		uint64_t deadline = peer_deadline(part, peer);
		if (deadline <= now_ns)
			tcp_peer_break(part, peer, now_ns);
		else
			part->next_deadline_ns = FM_MIN(part->next_deadline_ns, deadline);
	}
}
