/*
 * rpc/urpc_socket.c: datagrams over UDP and unix sockets, many per system call.
 *
 * Used by urpc's client and server through urpc_link_ops.
 *
 * A receive that sleeps does so in recvmmsg itself, with the socket's SO_RCVTIMEO of one tick: a
 * blocking round trip is one send and one receive. Only a deadline that is nearer than two ticks
 * costs a ppoll. Another thread wakes it by a datagram that the socket sends to itself.
 *
 * System calls are made by syscall(2): libc's own are cancellation points, which in a process with
 * threads costs two locked instructions each, a twentieth of a round trip.
 *
 * A server takes the kernel's time of arrival (SO_TIMESTAMPNS): rpc/urpc_stamps.h.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "rpc/urpc_link.h"
#include "rpc/urpc_stamps.h"

#define RECEIVE_BUFFER_BYTES (4 << 20)
#define SEND_BUFFER_BYTES (1 << 20)
#define CONTROL_BYTES 128
#define UNIT_UNIX 16384u
#define WALL_LOOK_NS_MAX 1000u
#define WALL_TRIES_MAX 4u
#define SPIN_NS_MAX 2000u  /* between two looks of a thread that spins */
#define SLEEP_NS_MIN 2500u /* a receive that took longer had to wait */

struct socket_link {
	struct urpc_link link;
	bool stamped;     /* a server's: wants times of arrival */
	bool any_address; /* listens on all of the machine's: answers must leave by the right one */
	bool owns_path;
	uint64_t wake_cookie;
	struct urpc_stamps stamps;
	uint64_t begun_ns; /* the receive at work */
	uint64_t wall_ahead_ns,
		wall_looked_ns; /* wall clock minus monotonic clock, and as of when */
	unsigned expected;      /* datagrams at the next receive: doubles while they come */
	struct urpc_address self;
	unsigned used_count; /* entries that must be made ready again */
	struct mmsghdr messages[URPC_BATCH_MAX];
	struct iovec iov[URPC_BATCH_MAX];
	FM_ALIGNED(16) uint8_t control[URPC_BATCH_MAX][CONTROL_BYTES];
};

static struct socket_link *socket_of(struct urpc_link *link)
{
	return FM_CONTAINER_OF(link, struct socket_link, link);
}

/* --- receiving --- */

static void socket_make_ready(struct socket_link *s, const struct urpc_batch *batch)
{
	for (unsigned i = 0; i < s->used_count; i++) {
		struct msghdr *message = &s->messages[i].msg_hdr;

		s->iov[i] = (struct iovec){batch->at[i].bytes, URPC_DATAGRAM_BYTES_MAX};
		message->msg_iov = &s->iov[i];
		message->msg_iovlen = 1;
		message->msg_name = &batch->at[i].source->any;
		message->msg_namelen =
			sizeof(*batch->at[i].source) - offsetof(struct urpc_address, any);
		message->msg_control = s->stamped ? s->control[i] : NULL;
		message->msg_controllen = s->stamped ? CONTROL_BYTES : 0;
	}
	s->used_count = 0;
}

static uint64_t wall_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Between two looks at the other clock that are close together: nobody put us aside meanwhile. */
static uint64_t wall_ahead_ns(void)
{
	uint64_t before_ns, wall_ns, tries = 0;

	do {
		before_ns = clock_now_ns();
		wall_ns = wall_now_ns();
	} while (clock_now_ns() - before_ns > WALL_LOOK_NS_MAX && ++tries < WALL_TRIES_MAX);
	return wall_ns - before_ns;
}

static void socket_read_control(struct socket_link *s, struct msghdr *message, uint64_t now_ns,
	struct urpc_received *received)
{
	received->arrival_ns = s->begun_ns;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
			struct timespec stamp;

			memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
			received->arrival_ns = urpc_stamps_arrival(&s->stamps,
				(uint64_t)stamp.tv_sec * NS_PER_S + (uint64_t)stamp.tv_nsec,
				now_ns);
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;

			memcpy(&info, CMSG_DATA(c), sizeof(info));
			memcpy(&received->source->local, &info.ipi_spec_dst,
				sizeof(struct in_addr));
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo info;

			memcpy(&info, CMSG_DATA(c), sizeof(info));
			received->source->local = info.ipi6_addr;
		}
	}
}

static void socket_take(struct socket_link *s, struct urpc_batch *batch, unsigned count)
{
	if (s->stamped)
		urpc_stamps_refresh(&s->stamps, batch->now_ns);
	for (unsigned i = 0; i < count; i++) {
		struct urpc_received *received = &batch->at[i];
		struct msghdr *message = &s->messages[i].msg_hdr;

		received->length = s->messages[i].msg_len;
		received->source->length = message->msg_namelen;
		if (message->msg_flags & MSG_TRUNC)
			received->length = URPC_DATAGRAM_BYTES_MAX + 1;
		else if (received->length == sizeof(s->wake_cookie) &&
			 memcmp(received->bytes, &s->wake_cookie, sizeof(s->wake_cookie)) == 0)
			received->length = URPC_RECEIVED_WAKE;
		if (s->stamped)
			socket_read_control(s, message, batch->now_ns, received);
	}
	s->used_count = count;
}

/* Sleeps until something can be received or for so long; ticks are too coarse for it. */
static void socket_sleep(struct socket_link *s, uint64_t sleep_ns)
{
	struct pollfd poll_fd = {.fd = s->link.fd, .events = POLLIN};
	struct timespec timeout = {
		.tv_sec = (time_t)(sleep_ns / NS_PER_S), .tv_nsec = (long)(sleep_ns % NS_PER_S)};

	ppoll(&poll_fd, 1, &timeout, NULL);
}

/* One datagram costs less by recvmsg than by recvmmsg, which looks for a second one. */
static int socket_receive_some(struct socket_link *s, int flags, bool with_control)
{
	struct msghdr *one = &s->messages[0].msg_hdr;
	long n;

	if (s->expected > 1)
		return (int)syscall(
			SYS_recvmmsg, s->link.fd, s->messages, s->expected, flags, NULL);
	flags &= ~MSG_WAITFORONE;
	if (with_control) {
		n = syscall(SYS_recvmsg, s->link.fd, one, flags);
	} else {
		one->msg_flags = 0;
		one->msg_controllen = 0;
		n = syscall(SYS_recvfrom, s->link.fd, one->msg_iov->iov_base, one->msg_iov->iov_len,
			flags | MSG_TRUNC, one->msg_name, &one->msg_namelen);
		if (n > (long)one->msg_iov->iov_len)
			one->msg_flags = MSG_TRUNC;
	}
	if (n < 0)
		return -1;
	s->messages[0].msg_len = (unsigned)n;
	return 1;
}

static int socket_receive(struct urpc_link *link, struct urpc_batch *batch, uint64_t until_ns)
{
	struct socket_link *s = socket_of(link);
	uint64_t begun_ns = batch->now_ns;
	int flags = MSG_DONTWAIT;
	int n, error;

	socket_make_ready(s, batch);
	if (until_ns > begun_ns && until_ns - begun_ns >= 2 * URPC_TICK_NS)
		flags = MSG_WAITFORONE;
	else if (until_ns > begun_ns)
		socket_sleep(s, until_ns - begun_ns);
	if (s->stamped && flags == MSG_DONTWAIT)
		begun_ns = clock_now_ns(); /* who was put aside just now must not hide it */
	s->begun_ns = begun_ns;
	batch->more = false;
	/* who saw the socket empty a moment ago knows when a datagram came */
	n = socket_receive_some(s, flags,
		s->any_address ||
			(s->stamped && (flags != MSG_DONTWAIT ||
					       begun_ns - s->stamps.empty_ns > SPIN_NS_MAX)));
	error = n < 0 ? errno : 0;
	batch->now_ns = clock_now_ns();
	if (n <= 0 || (unsigned)n < s->expected) {
		s->expected = (unsigned)FM_MAX(n, 1);
		if (n > 0)
			socket_take(s, batch, (unsigned)n);
		s->stamps.empty_ns = begun_ns; /* it was seen empty after that, who knows when */
		return error == 0 || error == EAGAIN || error == EINTR ? FM_MAX(n, 0) : -error;
	}
	socket_take(s, batch, (unsigned)n);
	/* one that was waited for, asleep or spinning, says nothing of others behind it */
	if (flags == MSG_DONTWAIT)
		batch->more = !s->stamped || begun_ns - s->stamps.empty_ns > SPIN_NS_MAX;
	else
		batch->more = batch->now_ns - begun_ns < SLEEP_NS_MIN;
	if (batch->more)
		s->expected = FM_MIN(2 * s->expected, URPC_BATCH_MAX);
	return n;
}

/* --- sending --- */

/* Answers leave by the address that was asked; else a client takes them for somebody else's. */
static void socket_set_local(struct msghdr *message, uint8_t control[CONTROL_BYTES])
{
	const struct urpc_address *to =
		FM_CONTAINER_OF((struct sockaddr *)message->msg_name, struct urpc_address, any);
	struct cmsghdr *c;

	memset(control, 0, CONTROL_BYTES);
	message->msg_control = control;
	message->msg_controllen = CONTROL_BYTES;
	c = CMSG_FIRSTHDR(message);
	if (to->any.sa_family == AF_INET) {
		struct in_pktinfo info = {0};

		memcpy(&info.ipi_spec_dst, &to->local, sizeof(info.ipi_spec_dst));
		*c = (struct cmsghdr){.cmsg_level = IPPROTO_IP,
			.cmsg_type = IP_PKTINFO,
			.cmsg_len = CMSG_LEN(sizeof(info))};
		memcpy(CMSG_DATA(c), &info, sizeof(info));
		message->msg_controllen = CMSG_SPACE(sizeof(info));
	} else {
		struct in6_pktinfo info = {.ipi6_addr = to->local};

		*c = (struct cmsghdr){.cmsg_level = IPPROTO_IPV6,
			.cmsg_type = IPV6_PKTINFO,
			.cmsg_len = CMSG_LEN(sizeof(info))};
		memcpy(CMSG_DATA(c), &info, sizeof(info));
		message->msg_controllen = CMSG_SPACE(sizeof(info));
	}
}

static int socket_send_once(struct socket_link *s, struct mmsghdr *messages, unsigned count)
{
	struct msghdr *one = &messages[0].msg_hdr;

	const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;

	if (count > 1)
		return (int)syscall(SYS_sendmmsg, s->link.fd, messages, count, flags);
	if (one->msg_iovlen == 1 && one->msg_control == NULL)
		return syscall(SYS_sendto, s->link.fd, one->msg_iov->iov_base,
			       one->msg_iov->iov_len, flags, one->msg_name, one->msg_namelen) < 0
			       ? -1
			       : 1;
	return syscall(SYS_sendmsg, s->link.fd, one, flags) < 0 ? -1 : 1;
}

static int socket_send(struct urpc_link *link, struct mmsghdr *messages, unsigned count)
{
	struct socket_link *s = socket_of(link);
	FM_ALIGNED(16) uint8_t control[URPC_BATCH_MAX][CONTROL_BYTES];
	int n;

	count = FM_MIN(count, URPC_BATCH_MAX);
	for (unsigned i = 0; s->any_address && i < count; i++)
		socket_set_local(&messages[i].msg_hdr, control[i]);
	n = socket_send_once(s, messages, count);
	/* An earlier datagram's error waits and is reported here: this one has not been tried. */
	if (n < 0 && errno == ECONNREFUSED && link->family != AF_UNIX)
		n = socket_send_once(s, messages, count);
	if (n >= 0)
		return n;
	return errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS ? -EAGAIN : -errno;
}

static size_t socket_next_error(
	struct urpc_link *link, uint8_t *bytes, size_t size, struct urpc_address *to)
{
	FM_ALIGNED(16) uint8_t control[512];
	struct iovec iov = {bytes, size};
	struct msghdr message = {.msg_name = &to->any,
		.msg_namelen = sizeof(*to) - offsetof(struct urpc_address, any),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n;

	if (link->family == AF_UNIX)
		return 0;
	n = recvmsg(link->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
	to->length = message.msg_namelen;
	return n > 0 ? (size_t)n : 0;
}

static int socket_connect(struct urpc_link *link, const struct urpc_address *to)
{
	static const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	int r = to != NULL ? connect(link->fd, &to->any, to->length)
			   : connect(link->fd, &nobody, sizeof(nobody));

	if (r != 0)
		return -errno;
	link->connected = to != NULL;
	return 0;
}

static void socket_wake(struct urpc_link *link)
{
	struct socket_link *s = socket_of(link);

	/* When even this cannot be sent, the sleeper looks up after a tick. */
	if (sendto(s->link.fd, &s->wake_cookie, sizeof(s->wake_cookie), MSG_DONTWAIT | MSG_NOSIGNAL,
		    &s->self.any, s->self.length) < 0)
		return;
}

/* --- opening and closing --- */

static void socket_close(struct urpc_link *link)
{
	struct socket_link *s = socket_of(link);

	if (s->owns_path)
		unlink(s->self.un.sun_path);
	close(s->link.fd);
	free(s);
}

static const struct urpc_link_ops socket_ops = {
	.receive = socket_receive,
	.send = socket_send,
	.next_error = socket_next_error,
	.connect = socket_connect,
	.wake = socket_wake,
	.close = socket_close,
};

/* Of a socket that would lose its port by disconnecting. */
static const struct urpc_link_ops socket_ops_unconnected = {
	.receive = socket_receive,
	.send = socket_send,
	.next_error = socket_next_error,
	.wake = socket_wake,
	.close = socket_close,
};

static void socket_set_int(int fd, int level, int name, int value)
{
	/* All of these are wishes: without them it works, less well. */
	if (setsockopt(fd, level, name, &value, sizeof(value)) != 0)
		return;
}

static void socket_tune(struct socket_link *s, bool listen)
{
	struct timeval tick = {.tv_usec = URPC_TICK_NS / NS_PER_US};
	int family = s->link.family;

	socket_set_int(s->link.fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES);
	socket_set_int(s->link.fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES);
	socket_set_int(s->link.fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES);
	if (listen)
		socket_set_int(s->link.fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
	if (!listen && family == AF_INET)
		socket_set_int(s->link.fd, IPPROTO_IP, IP_RECVERR, 1);
	if (!listen && family == AF_INET6)
		socket_set_int(s->link.fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
	if (s->any_address && family == AF_INET)
		socket_set_int(s->link.fd, IPPROTO_IP, IP_PKTINFO, 1);
	if (s->any_address && family == AF_INET6)
		socket_set_int(s->link.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	if (setsockopt(s->link.fd, SOL_SOCKET, SO_RCVTIMEO, &tick, sizeof(tick)) != 0)
		FM_PANIC("SO_RCVTIMEO: %d", errno);
}

static bool address_is_any(const struct urpc_address *address)
{
	return address->any.sa_family == AF_INET
		       ? address->in.sin_addr.s_addr == htonl(INADDR_ANY)
		       : address->any.sa_family == AF_INET6 &&
				 IN6_IS_ADDR_UNSPECIFIED(&address->in6.sin6_addr);
}

/* A socket file nobody listens at is left over from somebody who was killed. */
static void socket_remove_stale(const struct urpc_address *address)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (connect(fd, &address->any, address->length) != 0 && errno == ECONNREFUSED)
		unlink(address->un.sun_path);
	close(fd);
}

/*
 * A port that is free at the moment, or 0. A socket bound to it by number keeps it through connect
 * and disconnect, as one bound to the kernel's choice does not.
 */
static in_port_t socket_free_port(int family)
{
	struct urpc_address address = {0};
	socklen_t length = family == AF_INET ? sizeof(address.in) : sizeof(address.in6);
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	address.any.sa_family = (sa_family_t)family;
	if (fd < 0 || bind(fd, &address.any, length) != 0 ||
		getsockname(fd, &address.any, &length) != 0)
		address.in.sin_port = 0;
	if (fd >= 0)
		close(fd);
	return address.in.sin_port;
}

/* Binds, and notes where a datagram to ourselves would go. */
static int socket_bind(struct socket_link *s, const struct urpc_address *address, bool listen)
{
	struct urpc_address local = {.length = address->length};

	local.any.sa_family = address->any.sa_family;
	if (listen)
		local = *address;
	else if (s->link.family == AF_UNIX)
		local.length = sizeof(sa_family_t); /* autobind */
	else
		local.in.sin_port =
			socket_free_port(s->link.family); /* in6's is in the same place */
	if (listen && s->link.family == AF_UNIX)
		socket_remove_stale(address);
	if (bind(s->link.fd, &local.any, local.length) != 0) {
		/* a client's free port was taken in the meantime: any other will do */
		if (listen || s->link.family == AF_UNIX || errno != EADDRINUSE)
			return -errno;
		local.in.sin_port = 0;
		if (bind(s->link.fd, &local.any, local.length) != 0)
			return -errno;
		s->link.ops = &socket_ops_unconnected;
	}
	s->owns_path = listen && s->link.family == AF_UNIX;
	s->any_address = listen && address_is_any(&local);
	s->self.length = sizeof(s->self) - offsetof(struct urpc_address, any);
	if (getsockname(s->link.fd, &s->self.any, &s->self.length) != 0)
		return -errno;
	if (s->link.family != AF_UNIX)
		s->link.port = ntohs(s->self.in.sin_port);
	if (s->link.family == AF_INET && address_is_any(&s->self))
		s->self.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (s->link.family == AF_INET6 && address_is_any(&s->self))
		s->self.in6.sin6_addr = in6addr_loopback;
	return 0;
}

int urpc_socket_open(const struct urpc_address *address, bool listen, struct urpc_link **link)
{
	struct socket_link *s = calloc(1, sizeof(*s));
	int r;

	if (s == NULL)
		return -ENOMEM;
	s->link.family = address->any.sa_family;
	s->link.ops = listen || s->link.family == AF_UNIX ? &socket_ops_unconnected : &socket_ops;
	s->link.unit = s->link.family == AF_UNIX ? UNIT_UNIX : URPC_UNIT_UDP;
	s->stamped = listen;
	s->used_count = URPC_BATCH_MAX;
	s->expected = 1;
	r = -EIO;
	if (getrandom(&s->wake_cookie, sizeof(s->wake_cookie), 0) != sizeof(s->wake_cookie))
		goto free;
	s->link.fd = socket(s->link.family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	r = -errno;
	if (s->link.fd < 0)
		goto free;
	r = socket_bind(s, address, listen);
	if (r)
		goto close;
	socket_tune(s, listen);
	s->stamps = (struct urpc_stamps){.measure_ns = wall_ahead_ns, .empty_ns = clock_now_ns()};
	*link = &s->link;
	return 0;
close:
	close(s->link.fd);
free:
	free(s);
	return r;
}
