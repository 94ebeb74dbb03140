/*
 * rpc/urpc_shm_client.c: a client's link to one server on the same host.
 *
 * See rpc/urpc_shm.h. Used by rpc/urpc_client.c through urpc_link_ops.
 *
 * States: APART -> (something is sent) connect -> GREETING -> hello -> JOINED -> its end -> APART.
 * While it is not JOINED nothing can be sent: -ECONNREFUSED when nobody listens, -EAGAIN when
 * somebody does who has not answered yet.
 *
 * Invariants:
 * 1. A server is believed no more than a client: what it hands over is checked (size, seals) before
 *    it is mapped.
 * 2. The end of a connection is told once, by -ECONNRESET of receive.
 */
#include "rpc/urpc_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

#define GREETING_MS_MAX 1000

enum shm_state { APART, GREETING, JOINED };

struct shm_client {
	struct urpc_link link; /* link.fd wakes us: the server writes to it as well */
	enum shm_state state;
	struct urpc_address address;
	int socket, server_fd;
	struct urpc_rings *rings;
	uint64_t head, tail;
	uint64_t looked_ns;
};

static struct shm_client *client_of(struct urpc_link *link)
{
	return FM_CONTAINER_OF(link, struct shm_client, link);
}

static void client_part(struct shm_client *c)
{
	if (c->rings != NULL)
		munmap(c->rings, sizeof(*c->rings));
	if (c->server_fd >= 0)
		close(c->server_fd);
	if (c->socket >= 0)
		close(c->socket);
	c->rings = NULL;
	c->server_fd = c->socket = -1;
	c->state = APART;
}

/* --- joining --- */

static int client_map(struct shm_client *c, int fd)
{
	const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
	struct stat status;
	void *memory;

	if (fstat(fd, &status) != 0 || status.st_size != sizeof(*c->rings) ||
		(fcntl(fd, F_GET_SEALS) & seals) != seals)
		return -EPROTO;
	memory = mmap(NULL, sizeof(*c->rings), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return -errno;
	c->rings = memory;
	c->head = c->tail = 0;
	return 0;
}

/* The server's one message. fds are ours from then on. 0, -EAGAIN, or why it is none. */
static int client_read_hello(struct shm_client *c, int fds[URPC_SHM_FDS])
{
	struct urpc_shm_hello hello;
	FM_ALIGNED(16) uint8_t control[CMSG_SPACE(URPC_SHM_FDS * sizeof(int))];
	struct iovec iov = {&hello, sizeof(hello)};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(c->socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *cmsg;
	unsigned fds_count = 0;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -ECONNREFUSED;
	cmsg = CMSG_FIRSTHDR(&message);
	if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
		fds_count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(cmsg), fds_count * sizeof(int));
	}
	if (n == sizeof(hello) && fds_count == URPC_SHM_FDS && hello.magic == URPC_SHM_MAGIC &&
		hello.version == URPC_SHM_VERSION && hello.rings_bytes == sizeof(*c->rings))
		return 0;
	for (unsigned i = 0; i < fds_count; i++)
		close(fds[i]);
	return n == 0 ? -ECONNREFUSED : -EPROTO;
}

static int client_greet(struct shm_client *c)
{
	int fds[URPC_SHM_FDS];
	int r = client_read_hello(c, fds);

	if (r == -EAGAIN)
		return r;
	if (r == 0) {
		r = client_map(c, fds[0]);
		close(fds[0]);
		c->server_fd = fds[1];
		/* the number of our own eventfd stays the same: others may be polling it */
		if (r == 0 && dup3(fds[2], c->link.fd, O_CLOEXEC) < 0)
			r = -errno;
		close(fds[2]);
	}
	if (r)
		client_part(c);
	else
		c->state = JOINED;
	return r;
}

/* Connects when it must. A server that is there answers within a tick; it is waited for once. */
static int client_join(struct shm_client *c)
{
	struct pollfd fd;

	if (c->state == JOINED)
		return 0;
	if (c->state == GREETING)
		return client_greet(c);
	c->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->socket < 0)
		return -errno;
	if (connect(c->socket, &c->address.any, c->address.length) != 0) {
		int error = errno;

		client_part(c);
		return error == ENOENT ? -ECONNREFUSED : -error;
	}
	c->state = GREETING;
	fd = (struct pollfd){.fd = c->socket, .events = POLLIN};
	poll(&fd, 1, GREETING_MS_MAX);
	return client_greet(c);
}

/* --- the link --- */

static int shm_send(struct urpc_link *link, struct mmsghdr *messages, unsigned count)
{
	struct shm_client *c = client_of(link);
	uint64_t one = 1, now_ns = clock_now_ns();
	unsigned sent = 0;
	int r = client_join(c);

	while (r == 0 && sent < count) {
		const struct msghdr *message = &messages[sent].msg_hdr;

		r = urpc_ring_put(&c->rings->to_server, &c->tail, message->msg_iov,
			message->msg_iovlen, now_ns);
		if (r == 0)
			sent++;
	}
	if (sent == 0)
		return r;
	if (urpc_ring_wants_wake(&c->rings->to_server) &&
		write(c->server_fd, &one, sizeof(one)) < 0)
		return (int)sent; /* its counter is full: it is awake */
	return (int)sent;
}

static bool shm_arm(struct urpc_link *link)
{
	struct shm_client *c = client_of(link);

	return c->state == JOINED && urpc_ring_arm(&c->rings->to_client, c->head);
}

static void shm_sleep(struct shm_client *c, uint64_t sleep_ns)
{
	struct pollfd fds[2] = {
		{.fd = c->link.fd, .events = POLLIN}, {.fd = c->socket, .events = POLLIN}};
	struct timespec timeout = {.tv_nsec = (long)FM_MIN(sleep_ns, URPC_TICK_NS)};
	uint64_t wakes;

	if (shm_arm(&c->link) || ppoll(fds, 2, &timeout, NULL) <= 0)
		return;
	if (fds[1].revents != 0)
		c->looked_ns = 0;
	if (fds[0].revents != 0 && read(c->link.fd, &wakes, sizeof(wakes)) < 0)
		return; /* nothing to take back: we are awake all the same */
}

/* The server says nothing on the socket after its hello: anything there is to read is its end. */
static bool client_has_ended(struct shm_client *c, uint64_t now_ns)
{
	uint8_t byte;
	ssize_t n;

	if (now_ns - c->looked_ns < URPC_SHM_LOOK_NS)
		return false;
	c->looked_ns = now_ns;
	n = recv(c->socket, &byte, 1, MSG_DONTWAIT);
	return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* How many, or -EPROTO. */
static int shm_read(struct shm_client *c, struct urpc_batch *batch)
{
	int n = 0, length = 0;

	urpc_ring_disarm(&c->rings->to_client);
	while (n < (int)URPC_BATCH_MAX) {
		struct urpc_received *received = &batch->at[n];

		length = urpc_ring_get(&c->rings->to_client, &c->head, received->bytes,
			URPC_DATAGRAM_BYTES_MAX, &received->arrival_ns);
		if (length <= 0)
			break;
		received->length = (size_t)length;
		*received->source = c->address;
		n++;
	}
	batch->now_ns = clock_now_ns();
	batch->more = n == (int)URPC_BATCH_MAX;
	return n == 0 && length < 0 ? length : n;
}

static int shm_receive(struct urpc_link *link, struct urpc_batch *batch, uint64_t until_ns)
{
	struct shm_client *c = client_of(link);
	uint64_t sleep_ns = until_ns > batch->now_ns ? until_ns - batch->now_ns : 0;
	int n = c->state == JOINED ? shm_read(c, batch) : 0;

	if (n == 0 && sleep_ns != 0) {
		shm_sleep(c, sleep_ns);
		n = c->state == JOINED ? shm_read(c, batch) : 0;
	}
	if (c->state != JOINED) {
		if (c->state == GREETING && client_greet(c) == -EAGAIN)
			c->looked_ns = 0;
		batch->now_ns = clock_now_ns();
		return 0;
	}
	if (n < 0 || (n == 0 && client_has_ended(c, batch->now_ns))) {
		client_part(c);
		return -ECONNRESET;
	}
	return n;
}

static void shm_close(struct urpc_link *link)
{
	struct shm_client *c = client_of(link);

	client_part(c);
	close(c->link.fd);
	free(c);
}

static const struct urpc_link_ops shm_ops = {
	.receive = shm_receive,
	.send = shm_send,
	.next_error = urpc_shm_next_error,
	.arm = shm_arm,
	.wake = urpc_shm_wake,
	.close = shm_close,
};

int urpc_shm_connect(const struct urpc_address *address, struct urpc_link **link)
{
	struct shm_client *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return -ENOMEM;
	c->link = (struct urpc_link){.ops = &shm_ops, .unit = URPC_SHM_UNIT, .family = AF_UNSPEC};
	c->address = *address;
	c->socket = c->server_fd = -1;
	c->link.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->link.fd < 0) {
		free(c);
		return -ENOMEM;
	}
	*link = &c->link;
	return 0;
}
