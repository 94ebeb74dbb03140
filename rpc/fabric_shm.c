/*
 * rpc/fabric_shm.c: the fabric on one host: the node hands over a region's memfd, we pread and
 * pwrite it.
 *
 * Endpoint shm:/path/data.sock, a SOCK_SEQPACKET unix socket speaking rpc/wire.h; the memfd comes
 * as SCM_RIGHTS with the reply to ATTACH. An operation is one preadv or pwritev at post; its
 * completion waits in the queue's ring for the next poll. Why system calls and no mapping: a node
 * that truncates the memfd (revocation) would SIGBUS whoever reads a mapping; a pread just comes
 * back short. And wild stores of the program cannot reach far bytes.
 *
 * The socket stays open: its end says that the node is dead (kill -9 too). Looking costs a system
 * call, so a connection is looked at when the last look is SHM_LOOK_NS old, before the operation:
 * an operation posted later than SHM_LOOK_NS after the kernel closed the dead node's socket never
 * succeeds.
 *
 * Called through rpc/fabric.c only. No locks: a queue belongs to one thread.
 *
 * Invariants
 *   1. When post returns, the operation is over: nothing is ever in flight, nothing can land later.
 *      Hence a fence needs no help from the node; it connects anew and presents the capability
 *      again.
 *   2. A region's memfd was received on its peer's present connection, while the generations are
 *      equal.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "rpc/fabric_provider.h"
#include "rpc/wire.h"

#define SHM_LOOK_NS (1 * NS_PER_MS)

extern const struct fabric_ops fabric_shm_ops;

struct shm_peer {
	int socket; /* -1: broken */
	uint32_t generation;
	uint32_t regions_count; /* 0: this peer is free */
	uint64_t looked_ns;
	uint64_t tag; /* of the last ATTACH */
	char endpoint[FABRIC_ENDPOINT_MAX];
};

struct shm_part {
	uint32_t peers_used; /* peers ever used: the rest was never touched */
	struct shm_peer peers[FABRIC_PEERS_MAX];
};

struct shm_region {
	struct fabric_region head;
	struct shm_peer *peer;
	int memfd;
	uint32_t handle;
	struct fabric_capability capability;
};
FM_BUILD_ASSERT(sizeof(struct shm_region) <= FABRIC_REGION_CELL_BYTES, "fits a region cell");

static struct shm_region *shm_region_of(struct fabric_region *region)
{
	return FM_CONTAINER_OF(region, struct shm_region, head);
}

static void shm_peer_break(struct shm_peer *peer)
{
	if (peer->socket < 0)
		return;
	close(peer->socket);
	peer->socket = -1;
	peer->generation++;
}

/* Has the node gone? Looks at most every SHM_LOOK_NS. */
static bool shm_peer_alive(struct shm_peer *peer, uint64_t now_ns)
{
	if (fm_likely(peer->socket >= 0 && now_ns - peer->looked_ns < SHM_LOOK_NS))
		return true;
	if (peer->socket < 0)
		return false;
	struct pollfd look = {.fd = peer->socket, .events = POLLRDHUP};
	if (poll(&look, 1, 0) > 0 && look.revents & (POLLRDHUP | POLLHUP | POLLERR)) {
		shm_peer_break(peer);
		return false;
	}
	peer->looked_ns = now_ns;
	return true;
}

/* The socket's calls give up at the deadline. -ETIMEDOUT when it has passed. */
static int shm_set_deadline(int fd, uint64_t deadline_ns)
{
	uint64_t now = clock_now_ns();
	if (now >= deadline_ns)
		return -ETIMEDOUT;
	uint64_t left_us = FM_MIN((deadline_ns - now) / NS_PER_US + 1, 1000000ull * 3600);
	struct timeval tv = {
		.tv_sec = (time_t)(left_us / 1000000), .tv_usec = (suseconds_t)(left_us % 1000000)};
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)))
		return -errno;
	return 0;
}

static int shm_send(int fd, const void *bytes, size_t length)
{
	ssize_t n;
	do
		n = send(fd, bytes, length, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
	return 0;
}

/* One message of exactly 32 bytes, and the descriptor that came with it (else -1). */
static int shm_receive(int fd, uint8_t bytes[WIRE_HEADER_BYTES], int *descriptor)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = bytes, .iov_len = WIRE_HEADER_BYTES};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	ssize_t n;
	*descriptor = -1;
	do
		n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -ECONNRESET;
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
		c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(descriptor, CMSG_DATA(c), sizeof(int));
	if (n == 0)
		return -ECONNRESET;
	if (n == WIRE_HEADER_BYTES && !(message.msg_flags & MSG_TRUNC)) {
		/* The node sent one, we had no room in our table of descriptors. */
		return message.msg_flags & MSG_CTRUNC ? -EMFILE : 0;
	}
	if (*descriptor >= 0)
		close(*descriptor);
	*descriptor = -1;
	return -EPROTO;
}

static int shm_greet(int fd)
{
	struct wire_hello hello = {
		.version = WIRE_VERSION, .kind = WIRE_CLIENT, .transport = WIRE_SHM};
	uint8_t bytes[WIRE_HELLO_BYTES];
	int descriptor;
	wire_encode_hello(&hello, bytes);
	int r = shm_send(fd, bytes, sizeof(bytes));
	if (!r)
		r = shm_receive(fd, bytes, &descriptor);
	if (r)
		return r == -ECONNRESET ? -ECONNREFUSED : r;
	if (descriptor >= 0)
		close(descriptor);
	if (wire_decode_hello(bytes, &hello) || hello.kind != WIRE_NODE)
		return -EPROTO;
	if (hello.status == WIRE_STATUS_BUSY)
		return -ECONNREFUSED;
	return hello.status ? -EPROTO : 0;
}

static int shm_peer_connect(struct shm_peer *peer, uint64_t deadline_ns)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = peer->endpoint + strlen(fabric_shm_ops.prefix);
	if (!*path || strlen(path) >= sizeof(address.sun_path))
		return -EINVAL;
	memcpy(address.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int r = shm_set_deadline(fd, deadline_ns);
	if (!r && connect(fd, (struct sockaddr *)&address, sizeof(address)))
		r = errno == EAGAIN ? -ETIMEDOUT : errno == EACCES ? -EACCES : -ECONNREFUSED;
	if (!r)
		r = shm_greet(fd);
	if (r) {
		close(fd);
		return r;
	}
	peer->socket = fd;
	peer->looked_ns = clock_now_ns();
	return 0;
}

/* Waits for the reply to the last ATTACH; late ones to earlier, timed-out ones are thrown away. */
static int shm_peer_receive(struct shm_peer *peer, struct wire_header *reply, int *memfd)
{
	for (;;) {
		uint8_t bytes[WIRE_HEADER_BYTES];
		int r = shm_receive(peer->socket, bytes, memfd);
		if (r)
			return r;
		r = wire_decode_reply(bytes, reply);
		if (!r && reply->op == (WIRE_ATTACH | WIRE_REPLY) && reply->tag == peer->tag)
			return 0;
		if (*memfd >= 0)
			close(*memfd);
		*memfd = -1;
		if (r || reply->tag > peer->tag)
			return -EPROTO;
	}
}

/* Presents the capability on the peer's connection; on success the region has its memfd and is up.
 */
static int shm_region_attach(struct shm_region *region, uint64_t deadline_ns)
{
	struct shm_peer *peer = region->peer;
	uint8_t bytes[WIRE_HEADER_BYTES + WIRE_CAPABILITY_BYTES];
	struct wire_header header = {
		.op = WIRE_ATTACH, .tag = ++peer->tag, .length = WIRE_CAPABILITY_BYTES};
	struct stat st;
	int memfd = -1;
	wire_encode_header(&header, bytes);
	wire_encode_capability(&region->capability, bytes + WIRE_HEADER_BYTES);
	int r = shm_set_deadline(peer->socket, deadline_ns);
	if (!r)
		r = shm_send(peer->socket, bytes, sizeof(bytes));
	if (!r)
		r = shm_peer_receive(peer, &header, &memfd);
	if (r) {
		if (r != -ETIMEDOUT && r != -EMFILE)
			shm_peer_break(peer);
		return r;
	}
	r = wire_status_error(header.status);
	if (!r && (memfd < 0 || fstat(memfd, &st) || (uint64_t)st.st_size < header.offset))
		r = -EPROTO;
	if (r) {
		if (memfd >= 0)
			close(memfd);
		return r;
	}
	if (region->memfd >= 0)
		close(region->memfd);
	region->memfd = memfd;
	region->handle = header.handle;
	region->head.bytes = header.offset;
	region->head.generation = peer->generation;
	return 0;
}

static struct shm_part *shm_part_open(struct fabric_queue *queue)
{
	struct shm_part *part = fabric_part(queue, &fabric_shm_ops);
	if (!part) {
		part = mem_map(sizeof(*part));
		if (part)
			fabric_part_set(queue, &fabric_shm_ops, part);
	}
	return part;
}

/* The peer of this endpoint, or a free one made ready for it (not yet connected), or NULL. */
static struct shm_peer *shm_peer_find(struct shm_part *part, const char *endpoint)
{
	struct shm_peer *free_peer = NULL;
	for (uint32_t i = 0; i < part->peers_used; i++) {
		struct shm_peer *peer = &part->peers[i];
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
		memcpy(free_peer->endpoint, endpoint,
			strlen(endpoint) + 1); /* fabric_attach checked */
	}
	return free_peer;
}

static void shm_release(struct shm_region *region)
{
	struct shm_peer *peer = region->peer;
	if (region->memfd >= 0)
		close(region->memfd);
	if (--peer->regions_count == 0)
		shm_peer_break(peer);
	fabric_region_release(&region->head);
}

static int shm_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	struct shm_part *part = shm_part_open(queue);
	if (!part)
		return -ENOMEM;
	struct shm_peer *peer = shm_peer_find(part, endpoint);
	struct fabric_region *head = peer ? fabric_region_reserve(queue, &fabric_shm_ops) : NULL;
	if (!head)
		return -ENOSPC;
	struct shm_region *r = shm_region_of(head);
	r->peer = peer;
	r->memfd = -1;
	r->capability = *capability;
	head->connection_generation = &peer->generation;
	peer->regions_count++;
	int error = 0;
	if (!shm_peer_alive(peer, clock_now_ns()))
		error = shm_peer_connect(peer, deadline_ns);
	if (!error)
		error = shm_region_attach(r, deadline_ns);
	if (error) {
		shm_release(r);
		return error;
	}
	*region = head;
	return 0;
}

static void shm_detach(struct fabric_region *region)
{
	struct shm_region *r = shm_region_of(region);
	/* Tell the node, so that this connection no longer keeps the lease alive. No reply; no harm
	 * if lost. */
	if (fabric_region_up(region) && r->peer->regions_count > 1) {
		struct wire_header header = {.op = WIRE_DETACH, .handle = r->handle};
		uint8_t bytes[WIRE_HEADER_BYTES];
		wire_encode_header(&header, bytes);
		(void)!send(r->peer->socket, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	shm_release(r);
}

/* Cuts `done` bytes off the front of a copy of the caller's vector. Returns the number of entries
 * left. */
static int shm_iov_advance(const struct fabric_transfer *transfer, size_t done, struct iovec *iov)
{
	int count = 0;
	for (uint32_t i = 0; i < transfer->iov_count; i++) {
		struct iovec v = transfer->iov[i];
		size_t cut = FM_MIN(done, v.iov_len);
		done -= cut;
		v.iov_base = (uint8_t *)v.iov_base + cut;
		v.iov_len -= cut;
		if (v.iov_len)
			iov[count++] = v;
	}
	return count;
}

typedef ssize_t shm_call(int, const struct iovec *, int, off_t);

/* The rest after a call that moved `moved` bytes, or failed with errno (moved < 0). Rare. */
static int shm_move_rest(struct shm_region *region, const struct fabric_transfer *transfer,
	shm_call *call, ssize_t moved)
{
	struct iovec iov[FABRIC_IOV_MAX];
	size_t done = 0;
	for (;;) {
		if (moved < 0 && errno != EINTR)
			return errno == EPERM ? -EACCES
					      : -errno; /* EPERM: sealed against growing */
		if (moved == 0)
			return -EACCES; /* truncated: the lease is revoked */
		done += moved > 0 ? (size_t)moved : 0;
		int count = shm_iov_advance(transfer, done, iov);
		if (count == 0)
			return 0;
		moved = call(region->memfd, iov, count, (off_t)(transfer->offset + done));
	}
}

static int shm_post(
	struct fabric_region *head, const struct fabric_transfer *transfer, shm_call *call)
{
	struct shm_region *region = shm_region_of(head);
	if (fm_unlikely(!shm_peer_alive(region->peer, clock_now_ns())))
		return -ENOTCONN;
	size_t bytes = 0;
	for (uint32_t i = 0; i < transfer->iov_count; i++)
		bytes += transfer->iov[i].iov_len;
	ssize_t moved = call(
		region->memfd, transfer->iov, (int)transfer->iov_count, (off_t)transfer->offset);
	int status = 0;
	if (fm_unlikely(moved != (ssize_t)bytes))
		status = shm_move_rest(region, transfer, call, moved);
	fabric_complete(head, transfer->tag, status);
	return 0;
}

static int shm_post_read(struct fabric_region *region, const struct fabric_transfer *transfer)
{
	return shm_post(region, transfer, preadv);
}

static int shm_post_write(struct fabric_region *region, const struct fabric_transfer *transfer)
{
	return shm_post(region, transfer, pwritev);
}

/* Nothing is ever in flight; notices dead nodes, so that fabric_region_up tells. */
static void shm_progress(struct fabric_queue *queue)
{
	struct shm_part *part = fabric_part(queue, &fabric_shm_ops);
	uint64_t now = clock_now_ns();
	for (uint32_t i = 0; i < part->peers_used; i++)
		if (part->peers[i].regions_count)
			(void)shm_peer_alive(&part->peers[i], now);
}

static int shm_fence(struct fabric_region *head, uint64_t deadline_ns)
{
	struct shm_region *region = shm_region_of(head);
	int r = 0;
	if (!shm_peer_alive(region->peer, clock_now_ns()))
		r = shm_peer_connect(region->peer, deadline_ns);
	return r ? r : shm_region_attach(region, deadline_ns);
}

static void shm_queue_close(struct fabric_queue *queue)
{
	struct shm_part *part = fabric_part(queue, &fabric_shm_ops);
	for (uint32_t i = 0; i < part->peers_used; i++)
		FM_ASSERT_EQ(part->peers[i].regions_count, 0);
	mem_unmap(part, sizeof(*part));
}

const struct fabric_ops fabric_shm_ops = {
	.name = "shm",
	.prefix = "shm:",
	.attach = shm_attach,
	.detach = shm_detach,
	.post_read = shm_post_read,
	.post_write = shm_post_write,
	.progress = shm_progress,
	.fence = shm_fence,
	.queue_close = shm_queue_close,
};
