/*
 * lb/probe_user.c: the responder thread: receive, answer, receive.
 *
 * Called by lb/probe_server.c.
 *
 * Invariants:
 * 1. An answer leaves from the address that was asked, and is never longer than the question.
 * 2. The thread ends only when probe_user_close says so; errors of single datagrams are theirs.
 */
#include "lb/probe_user.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "lb/probe.h"

/* One more than a question has: longer ones are told apart. */
#define USER_BYTES_MAX (PROBE_BYTES + 1)

struct probe_user {
	struct probe_user_options options;
	int fd;
	pthread_t thread;
	_Atomic bool stop; /* set before the socket is shut down; read by the thread after a wake */
};

/* A socket of one family that tells which address was asked. The descriptor, or -errno. */
static int user_bind(int family, const struct sockaddr *to, socklen_t length)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1, none = 0, error;

	if (fd < 0)
		return -errno;
	error = family == AF_INET
			? setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one))
			: setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &none, sizeof(none)) |
				  setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
	if (error == 0 && bind(fd, to, length) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* Both families by one socket; IPv4 alone where there is no IPv6. */
static int user_listen(const struct probe_user_options *options)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(options->port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(options->port)};
	int fd;

	if (options->address != NULL) {
		memcpy(&six.sin6_addr, options->address, 16);
		memcpy(&four.sin_addr, options->address + 12, 4);
	}
	fd = user_bind(AF_INET6, (struct sockaddr *)&six, sizeof(six));
	if ((fd != -EADDRNOTAVAIL && fd != -EAFNOSUPPORT) ||
		(options->address != NULL && !IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)))
		return fd;
	return user_bind(AF_INET, (struct sockaddr *)&four, sizeof(four));
}

/* The received control message names the address that was asked: sent back, it becomes the source.
 * The way out is routing's choice, but for link-local addresses, which mean nothing without. */
static void user_turn_control(struct msghdr *message)
{
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at != NULL;
		at = CMSG_NXTHDR(message, at)) {
		if (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo *info = (void *)CMSG_DATA(at);

			if (!IN6_IS_ADDR_LINKLOCAL(&info->ipi6_addr))
				info->ipi6_ifindex = 0;
		} else if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_PKTINFO) {
			((struct in_pktinfo *)(void *)CMSG_DATA(at))->ipi_ifindex = 0;
		}
	}
}

/* One datagram. False: the socket is of no use any more. */
static bool user_serve(struct probe_user *user)
{
	uint8_t question[USER_BYTES_MAX], answer[USER_BYTES_MAX];
	_Alignas(struct cmsghdr) char control[256];
	struct sockaddr_storage from;
	struct iovec part = {.iov_base = question, .iov_len = sizeof(question)};
	struct msghdr message = {
		.msg_name = &from,
		.msg_namelen = sizeof(from),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t length = recvmsg(user->fd, &message, 0);

	if (length < 0)
		return errno != EBADF && errno != ENOTSOCK;
	if (message.msg_namelen == 0)
		return true;
	part.iov_base = answer;
	part.iov_len = user->options.answer(
		user->options.context, (struct sockaddr *)&from, question, (size_t)length, answer);
	if (part.iov_len == 0)
		return true;
	user_turn_control(&message);
	message.msg_flags = 0;
	if (sendmsg(user->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_ratelimited(LOG_DEBUG, "probe: an answer was not sent: %s", strerror(errno));
	return true;
}

static void *user_run(void *argument)
{
	struct probe_user *user = argument;

	pthread_setname_np(pthread_self(), "fm-probe");
	/* acquire: pairs with the release in probe_user_close */
	while (!atomic_load_explicit(&user->stop, memory_order_acquire)) {
		if (!user_serve(user))
			break;
	}
	return NULL;
}

/* With all signals blocked: they are the program's. */
static int user_start(struct probe_user *user)
{
	struct sched_param priority = {.sched_priority = user->options.priority};
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&user->thread, NULL, user_run, user);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error != 0 || user->options.priority == 0)
		return -error;
	error = pthread_setschedparam(user->thread, SCHED_FIFO, &priority);
	if (error != 0)
		log_warn("probe: the responder's priority %d was refused: %s; it is ordinary",
			user->options.priority, strerror(error));
	return 0;
}

int probe_user_open(const struct probe_user_options *options, struct probe_user **user)
{
	struct probe_user *made = calloc(1, sizeof(*made));
	int error;

	if (made == NULL)
		return -ENOMEM;
	made->options = *options;
	made->fd = user_listen(options);
	if (made->fd < 0) {
		error = made->fd;
		goto fail_free;
	}
	error = user_start(made);
	if (error != 0)
		goto fail_socket;
	*user = made;
	return 0;
fail_socket:
	close(made->fd);
fail_free:
	free(made);
	return error;
}

void probe_user_close(struct probe_user *user)
{
	if (user == NULL)
		return;
	/* release: pairs with the acquire in user_run */
	atomic_store_explicit(&user->stop, true, memory_order_release);
	/* fails with ENOTCONN on a socket without a peer, and yet wakes who sleeps in recvmsg */
	(void)shutdown(user->fd, SHUT_RD);
	pthread_join(user->thread, NULL);
	close(user->fd);
	free(user);
}
