/*
 * rpc/urpc_shm_server.c: a server's link to clients on the same host, a pair of rings with each.
 *
 * See rpc/urpc_shm.h. Used by rpc/urpc_server.c through urpc_link_ops.
 *
 * Invariants:
 * 1. connections[] is changed by the receiving thread only, each entry under its own lock: other
 *    threads put replies into its ring. There is no other lock here; it is never held while
 * waiting.
 * 2. A connection's number is never used twice: a reply to one that is gone goes nowhere.
 * 3. A client that breaks the rules of the ring loses its connection, nobody else anything.
 */
#include "rpc/urpc_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"

#define BACKLOG 64

struct shm_connection {
	pthread_mutex_t lock;
	uint64_t number; /* 0: free */
	int socket, wake_fd;
	struct urpc_rings *rings;
	uint64_t head, tail;
};

struct shm_server {
	struct urpc_link link;
	int listener;
	struct urpc_address address;
	uint64_t numbers_count;
	uint64_t looked_ns, empty_ns;
	unsigned used; /* connections[] from here on have never been used */
	unsigned next; /* whose ring is read first */
	struct shm_connection connections[URPC_SHM_CONNECTIONS_MAX];
};

static struct shm_server *server_of(struct urpc_link *link)
{
	return FM_CONTAINER_OF(link, struct shm_server, link);
}

/* --- connections --- */

static void connection_close(struct shm_connection *connection)
{
	pthread_mutex_lock(&connection->lock);
	connection->number = 0;
	munmap(connection->rings, sizeof(*connection->rings));
	close(connection->socket);
	close(connection->wake_fd);
	pthread_mutex_unlock(&connection->lock);
}

/* A memfd that nobody can shrink under our feet. */
static int connection_memory(struct urpc_rings **rings)
{
	int fd = memfd_create("urpc", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *memory;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, sizeof(**rings)) != 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
		goto fail;
	memory = mmap(NULL, sizeof(**rings), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		goto fail;
	*rings = memory;
	return fd;
fail:;
	int error = errno;

	close(fd);
	return -error;
}

static int connection_greet(int socket_fd, const int fds[URPC_SHM_FDS])
{
	struct urpc_shm_hello hello = {URPC_SHM_MAGIC, URPC_SHM_VERSION, sizeof(struct urpc_rings)};
	FM_ALIGNED(16) uint8_t control[CMSG_SPACE(URPC_SHM_FDS * sizeof(int))] = {0};
	struct iovec iov = {&hello, sizeof(hello)};
	struct msghdr message = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(URPC_SHM_FDS * sizeof(int));
	memcpy(CMSG_DATA(c), fds, URPC_SHM_FDS * sizeof(int));
	return sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int connection_open(struct shm_server *s, struct shm_connection *connection, int socket_fd)
{
	struct urpc_rings *rings = NULL;
	int fds[URPC_SHM_FDS] = {-1, s->link.fd, -1};
	int r;

	fds[0] = connection_memory(&rings);
	if (fds[0] < 0)
		return fds[0];
	fds[2] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = fds[2] < 0 ? -errno : connection_greet(socket_fd, fds);
	close(fds[0]);
	if (r) {
		munmap(rings, sizeof(*rings));
		if (fds[2] >= 0)
			close(fds[2]);
		return r;
	}
	pthread_mutex_lock(&connection->lock);
	connection->number = ++s->numbers_count;
	connection->socket = socket_fd;
	connection->wake_fd = fds[2];
	connection->rings = rings;
	connection->head = connection->tail = 0;
	pthread_mutex_unlock(&connection->lock);
	return 0;
}

/* Takes in new clients; those there is no place for find their connection closed. */
static void shm_accept(struct shm_server *s)
{
	for (unsigned i = 0; i < BACKLOG; i++) {
		struct shm_connection *place = NULL;
		int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		for (unsigned j = 0; place == NULL && j < URPC_SHM_CONNECTIONS_MAX; j++)
			if (s->connections[j].number == 0)
				place = &s->connections[j];
		if (place == NULL || connection_open(s, place, fd) != 0)
			close(fd);
		else
			s->used = FM_MAX(s->used, (unsigned)(place - s->connections) + 1);
	}
}

/* A client says nothing on its socket: anything there is to read is its end. */
static bool connection_has_ended(const struct shm_connection *connection)
{
	uint8_t byte;
	ssize_t n = recv(connection->socket, &byte, 1, MSG_DONTWAIT);

	return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

static void shm_look(struct shm_server *s, uint64_t now_ns)
{
	s->looked_ns = now_ns;
	for (unsigned i = 0; i < URPC_SHM_CONNECTIONS_MAX; i++)
		if (s->connections[i].number != 0 && connection_has_ended(&s->connections[i]))
			connection_close(&s->connections[i]);
	shm_accept(s);
}

/* --- receiving --- */

/* How many were read into the batch from `at` on. */
static unsigned connection_read(struct shm_server *s, struct shm_connection *connection,
	struct urpc_batch *batch, unsigned at)
{
	unsigned n = 0;

	while (at + n < URPC_BATCH_MAX) {
		struct urpc_received *received = &batch->at[at + n];
		uint64_t stamp_ns;
		int length = urpc_ring_get(&connection->rings->to_server, &connection->head,
			received->bytes, URPC_DATAGRAM_BYTES_MAX, &stamp_ns);

		if (length < 0)
			connection_close(connection);
		if (length <= 0)
			break;
		received->length = (size_t)length;
		/* its stamp is of our own clock, if it tells the truth */
		received->arrival_ns = FM_MAX(stamp_ns, s->empty_ns);
		*received->source = (struct urpc_address){.length = sizeof(received->source->ring),
			.ring = {.number = connection->number}};
		n++;
	}
	return n;
}

static unsigned shm_read(struct shm_server *s, struct urpc_batch *batch)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->used && n < URPC_BATCH_MAX; i++) {
		struct shm_connection *connection = &s->connections[(s->next + i) % s->used];

		if (connection->number == 0)
			continue;
		urpc_ring_disarm(&connection->rings->to_server);
		n += connection_read(s, connection, batch, n);
	}
	s->next++;
	batch->now_ns = clock_now_ns();
	batch->more = n == URPC_BATCH_MAX;
	for (unsigned i = 0; i < n; i++)
		batch->at[i].arrival_ns = FM_MIN(batch->at[i].arrival_ns, batch->now_ns);
	if (n < URPC_BATCH_MAX)
		s->empty_ns = batch->now_ns;
	return n;
}

static bool shm_arm(struct urpc_link *link)
{
	struct shm_server *s = server_of(link);
	bool ready = false;

	for (unsigned i = 0; i < URPC_SHM_CONNECTIONS_MAX; i++)
		if (s->connections[i].number != 0)
			ready |= urpc_ring_arm(
				&s->connections[i].rings->to_server, s->connections[i].head);
	return ready;
}

static void shm_sleep(struct shm_server *s, uint64_t sleep_ns)
{
	struct pollfd fds[2 + URPC_SHM_CONNECTIONS_MAX] = {
		{.fd = s->link.fd, .events = POLLIN}, {.fd = s->listener, .events = POLLIN}};
	struct timespec timeout = {.tv_nsec = (long)FM_MIN(sleep_ns, URPC_TICK_NS)};
	unsigned count = 2;
	uint64_t wakes;

	if (shm_arm(&s->link))
		return;
	for (unsigned i = 0; i < URPC_SHM_CONNECTIONS_MAX; i++)
		if (s->connections[i].number != 0)
			fds[count++] =
				(struct pollfd){.fd = s->connections[i].socket, .events = POLLIN};
	if (ppoll(fds, count, &timeout, NULL) <= 0)
		return;
	for (unsigned i = 1; i < count; i++)
		if (fds[i].revents != 0)
			s->looked_ns = 0;
	if (fds[0].revents != 0 && read(s->link.fd, &wakes, sizeof(wakes)) < 0)
		return; /* somebody else has read it: we are awake all the same */
}

static int shm_receive(struct urpc_link *link, struct urpc_batch *batch, uint64_t until_ns)
{
	struct shm_server *s = server_of(link);
	uint64_t sleep_ns = until_ns > batch->now_ns ? until_ns - batch->now_ns : 0;
	unsigned n = shm_read(s, batch);

	if (n == 0 && sleep_ns != 0) {
		shm_sleep(s, sleep_ns);
		n = shm_read(s, batch);
	}
	if (batch->now_ns - s->looked_ns >= URPC_SHM_LOOK_NS)
		shm_look(s, batch->now_ns);
	return (int)n;
}

/* --- sending --- */

static int shm_send_one(struct shm_server *s, const struct msghdr *message, uint64_t now_ns)
{
	const struct urpc_address *to =
		FM_CONTAINER_OF((struct sockaddr *)message->msg_name, struct urpc_address, any);
	uint64_t one = 1;
	int r = -ECONNRESET;

	for (unsigned i = 0; i < URPC_SHM_CONNECTIONS_MAX; i++) {
		struct shm_connection *connection = &s->connections[i];

		pthread_mutex_lock(&connection->lock);
		if (connection->number == 0 || connection->number != to->ring.number) {
			pthread_mutex_unlock(&connection->lock);
			continue;
		}
		r = urpc_ring_put(&connection->rings->to_client, &connection->tail,
			message->msg_iov, message->msg_iovlen, now_ns);
		if (r == 0 && urpc_ring_wants_wake(&connection->rings->to_client) &&
			write(connection->wake_fd, &one, sizeof(one)) < 0)
			r = 0; /* its counter is full: it is awake */
		pthread_mutex_unlock(&connection->lock);
		break;
	}
	return r;
}

static int shm_send(struct urpc_link *link, struct mmsghdr *messages, unsigned count)
{
	uint64_t now_ns = clock_now_ns();

	for (unsigned i = 0; i < count; i++) {
		int r = shm_send_one(server_of(link), &messages[i].msg_hdr, now_ns);

		if (r != 0)
			return i == 0 ? r : (int)i;
	}
	return (int)count;
}

/* --- opening and closing --- */

static void shm_close(struct urpc_link *link)
{
	struct shm_server *s = server_of(link);

	for (unsigned i = 0; i < URPC_SHM_CONNECTIONS_MAX; i++) {
		if (s->connections[i].number != 0)
			connection_close(&s->connections[i]);
		pthread_mutex_destroy(&s->connections[i].lock);
	}
	if (s->listener >= 0) {
		close(s->listener);
		unlink(s->address.un.sun_path);
	}
	if (s->link.fd >= 0)
		close(s->link.fd);
	free(s);
}

static const struct urpc_link_ops shm_ops = {
	.receive = shm_receive,
	.send = shm_send,
	.next_error = urpc_shm_next_error,
	.arm = shm_arm,
	.wake = urpc_shm_wake,
	.close = shm_close,
};

static int shm_bind(int fd, const struct urpc_address *address)
{
	int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (probe < 0)
		return -errno;
	/* a socket file nobody listens at is left over from somebody who was killed */
	if (connect(probe, &address->any, address->length) != 0 && errno == ECONNREFUSED)
		unlink(address->un.sun_path);
	close(probe);
	if (bind(fd, &address->any, address->length) != 0)
		return -errno;
	if (listen(fd, BACKLOG) == 0)
		return 0;
	int error = errno;

	unlink(address->un.sun_path);
	return -error;
}

int urpc_shm_listen(const struct urpc_address *address, struct urpc_link **link)
{
	struct shm_server *s = calloc(1, sizeof(*s));
	int fd, r;

	if (s == NULL)
		return -ENOMEM;
	s->link = (struct urpc_link){.ops = &shm_ops, .unit = URPC_SHM_UNIT, .family = AF_UNSPEC};
	s->address = *address;
	s->listener = -1;
	s->empty_ns = clock_now_ns();
	for (unsigned i = 0; i < URPC_SHM_CONNECTIONS_MAX; i++)
		pthread_mutex_init(&s->connections[i].lock, NULL);
	s->link.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = s->link.fd < 0 || fd < 0 ? -errno : shm_bind(fd, address);
	if (r == 0) {
		s->listener = fd;
		*link = &s->link;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	shm_close(&s->link);
	return r;
}
