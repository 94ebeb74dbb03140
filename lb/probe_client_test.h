/*
 * lb/probe_client_test.h: a server in the lab (lb/probe_lab_test.h), a client that asks it, and the
 * owner of its socket: what the tests of probe servers share. Included once per program.
 */
#ifndef FM_LB_PROBE_CLIENT_TEST_H
#define FM_LB_PROBE_CLIENT_TEST_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/test.h"
#include "lb/probe.h"
#include "lb/probe_lab_test.h"

#define PORT 7500
#define ANSWER_MS 2000 /* a machine that is busy with other tests is given so long */
#define SILENCE_MS 40  /* nobody answers: waited so long. Too short only makes a test easier */

static struct lab lab;
static const char *unable;
static const struct load_report busy = {.delay_ns = 777, .in_flight = 5, .free_bytes = 1 << 20};

static inline void lab_wanted(void)
{
	static bool tried;

	if (!tried) {
		tried = true;
		log_set_level(LOG_ERROR);
		unable = lab_open(&lab);
	}
	if (unable != NULL)
		TEST_SKIP(unable);
}

/* --- a server and a client ----------------------------------------------------------------- */

static inline struct probe_server *server_open_with(const struct probe_server_options *options)
{
	struct probe_server *server;
	int error = probe_server_open(options, &server);
	char reason[128];

	if (error == -EPERM || error == -EOPNOTSUPP) {
		snprintf(reason, sizeof(reason), "this kernel refuses the mode %s: %s",
			probe_mode_name(options->mode), strerror(-error));
		TEST_SKIP(reason);
	}
	CHECK_EQ(error, 0);
	CHECK_EQ(probe_server_mode(server), options->mode);
	return server;
}

static inline struct probe_server *server_open(enum probe_mode mode, const char *interfaces)
{
	return server_open_with(&(struct probe_server_options){
		.mode = mode, .port = PORT, .interfaces = interfaces, .epoch = 17});
}

static inline void publish_at(struct probe_server *server, uint64_t stamp_ns)
{
	struct load_report report = busy;

	report.stamp_ns = stamp_ns;
	load_publish(probe_server_slot(server), &report);
}

/* Fresh for ever: a machine that is busy with other tests may take its time. */
static inline void publish(struct probe_server *server)
{
	publish_at(server, UINT64_MAX / 2);
}

static inline struct sockaddr_storage address_of(const char *host, uint16_t port)
{
	struct sockaddr_storage address = {0};
	struct sockaddr_in *four = (void *)&address;
	struct sockaddr_in6 *six = (void *)&address;

	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
	} else {
		CHECK_EQ(inet_pton(AF_INET6, host, &six->sin6_addr), 1);
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		if (IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr))
			six->sin6_scope_id = if_nametoindex(LAB_CLIENT_CABLE);
	}
	return address;
}

/* A socket of namespace `ns` that is connected to host:port. Only the peer's answers reach it. */
static inline int client_open(int ns, const char *host, uint16_t port)
{
	struct sockaddr_storage address;
	int fd;

	CHECK(lab_enter(ns));
	address = address_of(host, port);
	fd = socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK(lab_enter(lab.server));
	return fd;
}

/* The server's own socket, which the kernel's answers never reach. */
static inline int owner_open(uint16_t port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
	return fd;
}

/* Length of the next datagram; -ETIMEDOUT; -errno. */
static inline ssize_t receive(int fd, void *bytes, size_t length, int timeout_ms)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	ssize_t got;

	if (poll(&poll_fd, 1, timeout_ms) == 0)
		return -ETIMEDOUT;
	got = recv(fd, bytes, length, 0);
	return got < 0 ? -errno : got;
}

/* Nothing comes to either; -1 for none. */
static inline bool are_silent(int a, int b)
{
	struct pollfd fds[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};

	return poll(fds, 2, SILENCE_MS) == 0;
}

static inline void send_question(int fd, uint64_t cookie)
{
	struct probe_packet question;

	probe_ask(&question, cookie);
	CHECK_EQ(send(fd, &question, sizeof(question), 0), PROBE_BYTES);
}

/* Asks once and returns what is said. Fails the case when there is no answer in time. */
static inline struct load ask(int fd)
{
	static uint64_t cookie = 1000;
	uint8_t bytes[256];
	struct load load = {0};
	uint64_t echoed;

	send_question(fd, ++cookie);
	CHECK_EQ(receive(fd, bytes, sizeof(bytes), ANSWER_MS), PROBE_BYTES);
	CHECK(probe_parse_answer(bytes, PROBE_BYTES, &load, &echoed));
	CHECK_EQ(echoed, cookie);
	CHECK_EQ(load.epoch, 17);
	return load;
}

/* Fresh load, exactly one answer, and the owner's socket sees nothing of it. */
static inline void check_answered(struct probe_server *server, int ns, const char *host)
{
	int owner = owner_open(PORT), client = client_open(ns, host, PORT);
	struct load load;

	publish(server);
	load = ask(client);
	CHECK_EQ(load.flags, 0);
	CHECK_EQ(load.delay_ns, busy.delay_ns);
	CHECK_EQ(load.in_flight, busy.in_flight);
	CHECK_EQ(load.free_bytes, busy.free_bytes);
	CHECK(are_silent(client, owner));
	close(client);
	close(owner);
}

#endif
