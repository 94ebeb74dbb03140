/*
 * rpc/fabric_tcp.c: the fabric over tcp: connections, attach, fence, and waiting.
 *
 * Endpoint tcp:ADDRESS:PORT, ADDRESS numeric (10.1.2.3, [fd00::1]) or "localhost": looking names up
 * needs malloc, which the application's process must not be made to call; the agent resolves. One
 * connection per (queue, node); the bytes on it are fabric_tcp_io.c's.
 *
 * Called through rpc/fabric.c only. No locks: a queue belongs to one thread.
 *
 * Invariants
 *   1. A connection is dropped on the first late operation, failed call or strange byte; all of its
 *      operations complete then, and its regions are broken (generation).
 *   2. The id of a dropped connection is kept (unfenced) until the node has answered FENCE(id), or
 *      says hello with another incarnation (then the memory those writes were for is gone). No
 *      region is attached before that.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "rpc/fabric_tcp.h"

/* A connection nothing is in flight on is looked at no more often, to tell fabric_region_up of a
 * dead node. */
#define TCP_LOOK_NS (1 * NS_PER_MS)

extern const struct fabric_ops fabric_tcp_ops;
FM_BUILD_ASSERT(sizeof(struct tcp_region) <= FABRIC_REGION_CELL_BYTES, "fits a region cell");

static struct tcp_region *tcp_region_of(struct fabric_region *region)
{
	return FM_CONTAINER_OF(region, struct tcp_region, head);
}

/* Waits for events on one socket. 0, -ETIMEDOUT or -errno. */
static int wait_for(int fd, short events, uint64_t deadline_ns)
{
	for (;;) {
		uint64_t now = clock_now_ns();
		if (now >= deadline_ns)
			return -ETIMEDOUT;
		uint64_t left = deadline_ns - now;
		struct timespec timeout = {.tv_sec = (time_t)FM_MIN(left / NS_PER_S, 3600),
			.tv_nsec = (long)(left % NS_PER_S)};
		struct pollfd pollfd = {.fd = fd, .events = events};
		int n = ppoll(&pollfd, 1, &timeout, NULL);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int connect_error(int error)
{
	switch (error) {
	case ETIMEDOUT:
		return -ETIMEDOUT;
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ECONNREFUSED:
	case ECONNRESET:
	case EPIPE:
		return -ECONNREFUSED;
	}
	return -error;
}

static int connect_socket(int fd, const char *endpoint, uint64_t deadline_ns)
{
	struct sockaddr_storage address;
	socklen_t length = 0;
	int one = 1, error = 0;
	socklen_t error_length = sizeof(error);
	int r = fabric_parse_address(endpoint + strlen(fabric_tcp_ops.prefix), &address, &length);
	if (r)
		return r;
	if (connect(fd, (struct sockaddr *)&address, length) && errno != EINPROGRESS)
		return connect_error(errno);
	r = wait_for(fd, POLLOUT, deadline_ns);
	if (r)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_length) || error)
		return connect_error(error ? error : errno);
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		return -errno;
	return 0;
}

/* Says hello and hears it. */
static int connect_greet(int fd, uint64_t deadline_ns, struct wire_hello *hello)
{
	uint8_t bytes[WIRE_HELLO_BYTES];
	*hello = (struct wire_hello){
		.version = WIRE_VERSION, .kind = WIRE_CLIENT, .transport = WIRE_TCP};
	wire_encode_hello(hello, bytes);
	/* 32 bytes into an empty socket: never a short send. */
	if (send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) != (ssize_t)sizeof(bytes))
		return connect_error(errno);
	for (size_t got = 0; got < sizeof(bytes);) {
		int r = wait_for(fd, POLLIN, deadline_ns);
		if (r)
			return r;
		ssize_t n = recv(fd, bytes + got, sizeof(bytes) - got, MSG_DONTWAIT);
		if (n == 0)
			return -ECONNREFUSED;
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return connect_error(errno);
		got += n > 0 ? (size_t)n : 0;
	}
	if (wire_decode_hello(bytes, hello) || hello->kind != WIRE_NODE)
		return -EPROTO;
	if (hello->status == WIRE_STATUS_BUSY)
		return -ECONNREFUSED;
	return hello->status || hello->transport != WIRE_TCP ? -EPROTO : 0;
}

static int peer_connect(struct tcp_peer *peer, uint64_t deadline_ns)
{
	struct wire_hello hello;
	const bool v6 = peer->endpoint[strlen(fabric_tcp_ops.prefix)] == '[';
	int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int r = connect_socket(fd, peer->endpoint, deadline_ns);
	if (!r)
		r = connect_greet(fd, deadline_ns, &hello);
	if (r) {
		close(fd);
		return r;
	}
	if (hello.incarnation != peer->incarnation)
		peer->unfenced =
			0; /* invariant 2: the memory is gone, and with it what could land there */
	peer->incarnation = hello.incarnation;
	peer->connection = hello.connection;
	peer->socket = fd;
	peer->looked_ns = clock_now_ns();
	return 0;
}

/* progress of one queue's part; below. */
static void part_progress(struct tcp_part *part);
static void part_sleep(struct tcp_part *part, uint64_t until_ns);

/*
 * One ATTACH or FENCE and its reply. 0 or -errno: as the node says, or the connection's end. On a
 * timeout the connection is dropped: its reply would come out of step.
 */
static int peer_control(struct tcp_part *part, struct tcp_peer *peer, uint8_t op, uint8_t *payload,
	uint64_t deadline_ns)
{
	struct tcp_op *o = tcp_op_take(part, NULL, op, deadline_ns);
	struct wire_header header = {.op = op,
		.tag = o->wire_tag,
		.length = op == WIRE_FENCE ? WIRE_FENCE_BYTES : WIRE_CAPABILITY_BYTES};
	wire_encode_header(&header, o->request);
	o->iov[0] = (struct iovec){payload, header.length};
	o->iov_count = 1;
	o->payload_bytes = header.length;
	part->control_done = false;
	tcp_op_submit(part, peer, o);
	while (!part->control_done) {
		part_progress(part);
		if (!part->control_done)
			part_sleep(part, deadline_ns);
	}
	return part->control_status;
}

/* Connects a broken peer, and has its last connection fenced. */
static int peer_reconnect(struct tcp_part *part, struct tcp_peer *peer,
	const struct fabric_capability *capability, uint64_t deadline_ns)
{
	uint8_t payload[WIRE_FENCE_BYTES];
	int r = peer_connect(peer, deadline_ns);
	if (r || !peer->unfenced)
		return r;
	wire_encode_fence(capability, peer->unfenced, payload);
	r = peer_control(part, peer, WIRE_FENCE, payload, deadline_ns);
	if (r)
		tcp_peer_break(part, peer, 0); /* stays unfenced */
	else
		peer->unfenced = 0;
	return r;
}

/* Connects if need be and presents the region's capability; on success the region is up. */
static int region_attach(struct tcp_part *part, struct tcp_region *region, uint64_t deadline_ns)
{
	struct tcp_peer *peer = region->peer;
	uint8_t payload[WIRE_CAPABILITY_BYTES];
	int r = 0;
	if (peer->socket < 0)
		r = peer_reconnect(part, peer, &region->capability, deadline_ns);
	if (r)
		return r;
	wire_encode_capability(&region->capability, payload);
	r = peer_control(part, peer, WIRE_ATTACH, payload, deadline_ns);
	if (r)
		return r;
	region->handle = part->control_reply.handle;
	region->head.bytes = part->control_reply.offset;
	region->head.generation = peer->generation;
	return 0;
}

static struct tcp_part *part_open(struct fabric_queue *queue)
{
	struct tcp_part *part = fabric_part(queue, &fabric_tcp_ops);
	if (part)
		return part;
	const uint32_t ops_count = fabric_depth(queue) + 1;
	const size_t bytes = sizeof(*part) + ops_count * sizeof(struct tcp_op);
	part = mem_map(bytes);
	if (!part)
		return NULL;
	part->bytes = bytes;
	part->ops_count = ops_count;
	part->ops_free = TCP_NONE;
	part->active = TCP_NONE;
	part->next_deadline_ns = CLOCK_NEVER_NS;
	fabric_part_set(queue, &fabric_tcp_ops, part);
	return part;
}

/* The peer of this endpoint, or a free one made ready for it (not yet connected), or NULL. */
static struct tcp_peer *peer_find(struct tcp_part *part, const char *endpoint)
{
	struct tcp_peer *free_peer = NULL;
	for (uint32_t i = 0; i < part->peers_used; i++) {
		struct tcp_peer *peer = &part->peers[i];
		if (peer->regions_count && strcmp(peer->endpoint, endpoint) == 0)
			return peer;
		if (!peer->regions_count && !free_peer)
			free_peer = peer;
	}
	if (!free_peer && part->peers_used < FABRIC_PEERS_MAX)
		free_peer = &part->peers[part->peers_used++];
	if (free_peer) {
		memset(free_peer, 0, sizeof(*free_peer));
		free_peer->socket = -1;
		free_peer->generation = 1;
		free_peer->first = free_peer->last = free_peer->unsent = TCP_NONE;
		free_peer->next_active = TCP_NONE;
		memcpy(free_peer->endpoint, endpoint,
			strlen(endpoint) + 1); /* fabric_attach checked */
	}
	return free_peer;
}

static void region_release(struct tcp_part *part, struct tcp_region *region)
{
	struct tcp_peer *peer = region->peer;
	if (--peer->regions_count == 0)
		tcp_peer_break(part, peer, 0);
	fabric_region_release(&region->head);
}

static int tcp_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	struct tcp_part *part = part_open(queue);
	if (!part)
		return -ENOMEM;
	struct tcp_peer *peer = peer_find(part, endpoint);
	struct fabric_region *head = peer ? fabric_region_reserve(queue, &fabric_tcp_ops) : NULL;
	if (!head)
		return -ENOSPC;
	struct tcp_region *r = tcp_region_of(head);
	r->peer = peer;
	r->capability = *capability;
	head->connection_generation = &peer->generation;
	peer->regions_count++;
	int error = region_attach(part, r, deadline_ns);
	if (error) {
		region_release(part, r);
		return error;
	}
	*region = head;
	return 0;
}

static void tcp_detach(struct fabric_region *region)
{
	struct tcp_region *r = tcp_region_of(region);
	struct tcp_peer *peer = r->peer;
	struct tcp_part *part = fabric_part(region->queue, &fabric_tcp_ops);
	/* Tell the node, when that can be done without waiting; no harm if it cannot. No reply. */
	if (fabric_region_up(region) && peer->regions_count > 1 && peer->unsent == TCP_NONE) {
		struct wire_header header = {.op = WIRE_DETACH, .handle = r->handle};
		uint8_t bytes[WIRE_HEADER_BYTES];
		wire_encode_header(&header, bytes);
		ssize_t n = send(peer->socket, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n != (ssize_t)sizeof(bytes) && !(n < 0 && errno == EAGAIN))
			tcp_peer_break(part, peer, 0);
	}
	region_release(part, r);
}

static int tcp_post(
	struct fabric_region *region, const struct fabric_transfer *transfer, uint8_t wire_op)
{
	struct tcp_region *r = tcp_region_of(region);
	struct tcp_part *part = fabric_part(region->queue, &fabric_tcp_ops);
	struct tcp_op *op = tcp_op_take(part, r, wire_op, transfer->deadline_ns);
	uint32_t bytes = 0;
	for (uint32_t i = 0; i < transfer->iov_count; i++) {
		op->iov[i] = transfer->iov[i];
		bytes += (uint32_t)transfer->iov[i].iov_len;
	}
	op->iov_count = transfer->iov_count;
	op->payload_bytes = bytes;
	op->tag = transfer->tag;
	struct wire_header header = {.op = wire_op,
		.handle = r->handle,
		.tag = op->wire_tag,
		.offset = transfer->offset,
		.length = bytes};
	wire_encode_header(&header, op->request);
	tcp_op_submit(part, r->peer, op);
	return 0;
}

static int tcp_post_read(struct fabric_region *region, const struct fabric_transfer *transfer)
{
	return tcp_post(region, transfer, WIRE_READ);
}

static int tcp_post_write(struct fabric_region *region, const struct fabric_transfer *transfer)
{
	return tcp_post(region, transfer, WIRE_WRITE);
}

/* Nothing is expected on an idle connection: anything to be read, its end too, is the end of it. */
static void part_look_at_idle(struct tcp_part *part, uint64_t now_ns)
{
	for (uint32_t i = 0; i < part->peers_used; i++) {
		struct tcp_peer *peer = &part->peers[i];
		uint8_t byte;
		if (peer->socket < 0 || peer->first != TCP_NONE ||
			now_ns - peer->looked_ns < TCP_LOOK_NS)
			continue;
		peer->looked_ns = now_ns;
		ssize_t n = recv(peer->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
		if (n >= 0 || (errno != EAGAIN && errno != EINTR))
			tcp_peer_break(part, peer, 0);
	}
}

static void part_progress(struct tcp_part *part)
{
	for (uint32_t i = part->active; i != TCP_NONE;) {
		struct tcp_peer *peer = &part->peers[i];
		i = peer->next_active; /* read before the peer may leave the list */
		tcp_peer_progress(part, peer);
	}
	uint64_t now = clock_now_ns();
	if (now >= part->next_deadline_ns)
		tcp_expire(part, now);
	part_look_at_idle(part, now);
}

static void tcp_progress(struct fabric_queue *queue)
{
	part_progress(fabric_part(queue, &fabric_tcp_ops));
}

static void part_sleep(struct tcp_part *part, uint64_t until_ns)
{
	struct pollfd pollfds[FABRIC_PEERS_MAX];
	nfds_t count = 0;
	for (uint32_t i = part->active; i != TCP_NONE; i = part->peers[i].next_active) {
		const struct tcp_peer *peer = &part->peers[i];
		short events = POLLIN;
		if (peer->unsent != TCP_NONE)
			events |= POLLOUT;
		pollfds[count++] = (struct pollfd){.fd = peer->socket, .events = events};
	}
	uint64_t now = clock_now_ns();
	uint64_t until = FM_MIN(until_ns, part->next_deadline_ns);
	if (now >= until)
		return;
	struct timespec timeout = {.tv_sec = (time_t)FM_MIN((until - now) / NS_PER_S, 3600),
		.tv_nsec = (long)((until - now) % NS_PER_S)};
	(void)ppoll(
		pollfds, count, &timeout, NULL); /* EINTR: the caller looks at the clock anyway */
}

static void tcp_sleep(struct fabric_queue *queue, uint64_t until_ns)
{
	part_sleep(fabric_part(queue, &fabric_tcp_ops), until_ns);
}

static int tcp_fence(struct fabric_region *region, uint64_t deadline_ns)
{
	struct tcp_region *r = tcp_region_of(region);
	struct tcp_part *part = fabric_part(region->queue, &fabric_tcp_ops);
	/* Up: its writes went over this very connection. Not up: over an older one, fenced when it
	 * was replaced. */
	if (fabric_region_up(region))
		tcp_peer_break(part, r->peer, 0);
	return region_attach(part, r, deadline_ns);
}

static void tcp_queue_close(struct fabric_queue *queue)
{
	struct tcp_part *part = fabric_part(queue, &fabric_tcp_ops);
	for (uint32_t i = 0; i < part->peers_used; i++)
		FM_ASSERT_EQ(part->peers[i].regions_count, 0);
	mem_unmap(part, part->bytes);
}

const struct fabric_ops fabric_tcp_ops = {
	.name = "tcp",
	.prefix = "tcp:",
	.attach = tcp_attach,
	.detach = tcp_detach,
	.post_read = tcp_post_read,
	.post_write = tcp_post_write,
	.progress = tcp_progress,
	.sleep = tcp_sleep,
	.fence = tcp_fence,
	.queue_close = tcp_queue_close,
};
