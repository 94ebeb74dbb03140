/*
 * bench/tcp_control.c: the other half of figure 2's control: a spinning TCP request and answer of a
 * page over loopback, both ends non-blocking, nothing between them and the sockets.
 *
 * A server thread spins on recv, answers each request of `--request` bytes with `--answer` bytes;
 * the client times each round trip and checks the first and last word of each answer against the
 * request's number.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/bench.h"

#define MESSAGE_MAX 65536

struct tcp_options {
	struct bench_options common;
	uint64_t request_bytes, answer_bytes, round_trips;
	bool pin;
};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "request",
		.type = OPTION_SIZE,
		.offset = offsetof(struct tcp_options, request_bytes),
		.min = 8,
		.max = MESSAGE_MAX,
		.value = "64",
		.argument = "SIZE",
		.help = "bytes of a request",
		.flag_only = true},
	{.name = "answer",
		.type = OPTION_SIZE,
		.offset = offsetof(struct tcp_options, answer_bytes),
		.min = 8,
		.max = MESSAGE_MAX,
		.value = "4096",
		.argument = "SIZE",
		.help = "bytes of an answer",
		.flag_only = true},
	{.name = "round-trips",
		.type = OPTION_COUNT,
		.offset = offsetof(struct tcp_options, round_trips),
		.min = 1,
		.value = "200000",
		.argument = "N",
		.help = "round trips to time",
		.flag_only = true},
	{.name = "pin",
		.type = OPTION_BOOL,
		.offset = offsetof(struct tcp_options, pin),
		.help = "server and client on a CPU each",
		.flag_only = true},
};
static const struct bench_program program = {"tcp_control",
	"Times spinning TCP round trips over loopback (figure 2's control for tcp).", specs,
	FM_ARRAY_COUNT(specs)};

struct control {
	struct tcp_options options;
	int client, server;
	_Atomic bool stop;
};
static struct bench_hist hist;

/* All `length` bytes, spinning. 0, or -1 when the peer has gone or stop is set. */
static int receive_all(struct control *c, int fd, uint8_t *bytes, size_t length)
{
	size_t done = 0;

	while (done < length) {
		ssize_t got = recv(fd, bytes + done, length - done, MSG_DONTWAIT);

		if (got > 0)
			done += (size_t)got;
		else if (got == 0 || (errno != EAGAIN && errno != EINTR) ||
			 atomic_load_explicit(&c->stop, memory_order_relaxed))
			return -1;
	}
	return 0;
}

static int send_all(int fd, const uint8_t *bytes, size_t length)
{
	size_t done = 0;

	while (done < length) {
		ssize_t put = send(fd, bytes + done, length - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (put > 0)
			done += (size_t)put;
		else if (errno != EAGAIN && errno != EINTR)
			return -1;
	}
	return 0;
}

static void stamp(uint8_t *bytes, size_t length, uint64_t number)
{
	memcpy(bytes, &number, sizeof(number));
	memcpy(bytes + length - sizeof(number), &number, sizeof(number));
}

static void *serve(void *argument)
{
	static uint8_t request[MESSAGE_MAX], reply[MESSAGE_MAX];
	struct control *c = argument;
	uint64_t number;

	if (c->options.pin)
		bench_pin(1);
	while (receive_all(c, c->server, request, c->options.request_bytes) == 0) {
		memcpy(&number, request, sizeof(number));
		stamp(reply, c->options.answer_bytes, number);
		if (send_all(c->server, reply, c->options.answer_bytes) != 0)
			break;
	}
	return NULL;
}

static int round_trip(struct control *c, uint64_t number)
{
	static uint8_t request[MESSAGE_MAX], reply[MESSAGE_MAX];
	uint64_t first, last;

	stamp(request, c->options.request_bytes, number);
	if (send_all(c->client, request, c->options.request_bytes) != 0 ||
		receive_all(c, c->client, reply, c->options.answer_bytes) != 0)
		return bench_fail("the connection broke: %s", strerror(errno));
	memcpy(&first, reply, sizeof(first));
	memcpy(&last, reply + c->options.answer_bytes - sizeof(last), sizeof(last));
	if (first != number || last != number)
		return bench_fail("answer %llu is wrong", (unsigned long long)number);
	return 0;
}

/* Two connected loopback sockets without delays. */
static int connect_pair(struct control *c)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	c->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || c->client < 0 ||
		bind(listener, (struct sockaddr *)&address, length) != 0 ||
		listen(listener, 1) != 0 ||
		getsockname(listener, (struct sockaddr *)&address, &length) != 0 ||
		connect(c->client, (struct sockaddr *)&address, length) != 0)
		return bench_fail("loopback: %s", strerror(errno));
	c->server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	close(listener);
	if (c->server < 0)
		return bench_fail("accept: %s", strerror(errno));
	setsockopt(c->client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(c->server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return 0;
}

int main(int argc, char **argv)
{
	static struct control c;
	struct bench_report report;
	pthread_t thread;
	int status = bench_parse(&program, &c.options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (c.options.common.tiny)
		c.options.round_trips = 1000;
	status = connect_pair(&c);
	if (status != 0)
		return status;
	if (pthread_create(&thread, NULL, serve, &c) != 0)
		return bench_fail("no thread");
	if (c.options.pin)
		bench_pin(0);
	uint64_t warm = c.options.round_trips / 10;
	for (uint64_t i = 0; i < c.options.round_trips + warm && status == 0; i++) {
		uint64_t start_ns = clock_now_ns();

		status = round_trip(&c, i);
		if (i >= warm)
			bench_hist_record(&hist, clock_now_ns() - start_ns);
	}
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	if (status != 0)
		return status;
	bench_report_open(&report, program.name, c.options.common.json);
	bench_report_count(&report, "request_bytes", c.options.request_bytes);
	bench_report_count(&report, "answer_bytes", c.options.answer_bytes);
	bench_report_text(&report, "pinned", c.options.pin ? "yes" : "no");
	bench_report_count(&report, "round_trips", hist.count);
	bench_report_hist(&report, "", &hist);
	bench_report_close(&report);
	return 0;
}
