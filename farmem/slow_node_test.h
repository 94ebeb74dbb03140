/*
 * farmem/slow_node_test.h: makes a test's memory node slow, frozen and well again, over tcp: a
 * child process that stands between and holds back what the node answers. Used by spanset_test.c.
 */
#ifndef FM_FARMEM_SLOW_NODE_TEST_H
#define FM_FARMEM_SLOW_NODE_TEST_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#include "rpc/fabric_node_test.h"

#define SLOW_PAIRS_MAX 16u
#define SLOW_BUFFER_BYTES (256u << 10)
#define SLOW_HOLD UINT64_MAX

struct slow_node {
	pid_t pid;
	_Atomic uint64_t *delay_ns; /* shared with the child; SLOW_HOLD: until told otherwise */
	uint16_t port;
};

static inline int slow_socket(uint16_t port, bool listens)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	int rc = listens ? bind(fd, (struct sockaddr *)&address, sizeof(address))
			 : connect(fd, (struct sockaddr *)&address, sizeof(address));
	if (rc != 0 || (listens && listen(fd, 8) != 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

static inline void slow_delay(const _Atomic uint64_t *delay_ns)
{
	uint64_t begun = clock_now_ns();
	const struct timespec step = {.tv_nsec = 50000};
	while (clock_now_ns() - begun < atomic_load(delay_ns))
		(void)nanosleep(&step, NULL);
}

/* Passes on what is there. False: an end. */
static inline bool slow_pump(int from, int to, const _Atomic uint64_t *delay_ns)
{
	static uint8_t buffer[SLOW_BUFFER_BYTES];
	ssize_t n = recv(from, buffer, sizeof(buffer), MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (delay_ns != NULL)
		slow_delay(delay_ns);
	for (ssize_t sent = 0; sent < n;) {
		ssize_t more = send(to, buffer + sent, (size_t)(n - sent), MSG_NOSIGNAL);
		if (more <= 0)
			return false;
		sent += more;
	}
	return n > 0;
}

FM_NORETURN static inline void slow_main(
	int listener, uint16_t node_port, const _Atomic uint64_t *delay_ns)
{
	/* [0] listener; then pairs {client, node} */
	struct pollfd fds[1 + 2 * SLOW_PAIRS_MAX];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fds[0] = (struct pollfd){.fd = listener, .events = POLLIN};
	for (unsigned i = 1; i < FM_ARRAY_COUNT(fds); i++)
		fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	for (;;) {
		if (poll(fds, FM_ARRAY_COUNT(fds), -1) < 0)
			continue;
		for (unsigned i = 1; i < FM_ARRAY_COUNT(fds); i += 2) {
			bool whole = true;
			if (fds[i].fd >= 0 && fds[i].revents != 0)
				whole = slow_pump(fds[i].fd, fds[i + 1].fd, NULL);
			if (fds[i].fd >= 0 && whole && fds[i + 1].revents != 0)
				whole = slow_pump(fds[i + 1].fd, fds[i].fd, delay_ns);
			if (!whole) {
				close(fds[i].fd), close(fds[i + 1].fd);
				fds[i].fd = fds[i + 1].fd = -1;
			}
		}
		if (fds[0].revents == 0)
			continue;
		unsigned at = 1;
		while (at < FM_ARRAY_COUNT(fds) && fds[at].fd >= 0)
			at += 2;
		if (at >= FM_ARRAY_COUNT(fds))
			_exit(5);
		int one = 1;
		fds[at].fd = accept(listener, NULL, NULL);
		(void)setsockopt(fds[at].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		fds[at + 1].fd = slow_socket(node_port, false);
	}
}

static inline void slow_node_start(struct slow_node *slow, uint16_t node_port)
{
	struct sockaddr_in address;
	socklen_t length = sizeof(address);
	int listener = slow_socket(0, true);
	slow->delay_ns = mmap(NULL, sizeof(*slow->delay_ns), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (listener < 0 || (void *)slow->delay_ns == MAP_FAILED ||
		getsockname(listener, (struct sockaddr *)&address, &length) != 0)
		abort();
	slow->port = ntohs(address.sin_port);
	fflush(stdout);
	slow->pid = fork();
	if (slow->pid == 0)
		slow_main(listener, node_port, slow->delay_ns);
	close(listener);
	if (slow->pid < 0)
		abort();
}

static inline void slow_node_stop(struct slow_node *slow)
{
	int status;
	kill(slow->pid, SIGKILL);
	waitpid(slow->pid, &status, 0);
	munmap((void *)slow->delay_ns, sizeof(*slow->delay_ns));
	slow->pid = 0;
}

#endif
