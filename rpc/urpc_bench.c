/*
 * rpc/urpc_bench.c: what urpc costs over what it stands on, and against gRPC (issue 7, figure 5).
 *
 *   round trip of 64 B, one at a time: urpc beside a bare UDP ping-pong of the same kind, both
 *       blocking (sleeping in recv) and both spinning on both ends; urpc over shared memory
 *   rate of calls per second of CPU time, client and server together: urpc beside gRPC core
 * (rpc/ctl), one at a time and `--depth` in flight
 *
 * Each server is a process of its own; all contestants take turns, in rounds of a few milliseconds,
 * so that whatever else the machine does hits all of them. Servers that spin are stopped (SIGSTOP)
 * while others have their turn. Ratios are taken per round; their median is printed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/bench.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_server.h"
#include "rpc/urpc.h"

#define MESSAGE_MAX 1024u
#define DEPTH_MAX 60u /* gRPC allows 64 streams on a connection */
#define ROUNDS_MAX 1000u
#define METHOD 1u
#define GRPC_METHOD "/farmem.bench/Echo"
#define DEADLINE_NS (10 * NS_PER_S)

struct urpc_bench_options {
	struct bench_options common;
	uint64_t bytes, rounds, round_trips, depth;
	bool pin;
};

#define COUNT(flag, field, low, high, preset, text)                                                \
	{                                                                                          \
		.name = flag, .type = OPTION_COUNT,                                                \
		.offset = offsetof(struct urpc_bench_options, field), .min = low, .max = high,     \
		.value = preset, .argument = "N", .help = text, .flag_only = true                  \
	}
static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	COUNT("bytes", bytes, 8, MESSAGE_MAX, "64", "bytes of a request and of a reply"),
	COUNT("rounds", rounds, 1, ROUNDS_MAX, "100", "turns of each contestant"),
	COUNT("round-trips", round_trips, 10, 1000000, "500", "calls in a turn"),
	COUNT("depth", depth, 1, DEPTH_MAX, "32", "calls in flight where the rate is measured"),
	{.name = "pin",
		.type = OPTION_BOOL,
		.offset = offsetof(struct urpc_bench_options, pin),
		.help = "clients on one CPU, servers on another",
		.flag_only = true},
};
static const struct bench_program program = {"urpc_bench",
	"Times urpc against a bare UDP ping-pong and against gRPC core.", specs,
	FM_ARRAY_COUNT(specs)};

enum contestant {
	RAW_BLOCKING,
	URPC_BLOCKING,
	RAW_SPINNING,
	URPC_SPINNING,
	URPC_SHM,
	URPC_ONE,
	GRPC_ONE,
	URPC_MANY,
	GRPC_MANY,
	CONTESTANTS
};
static const char *const names[CONTESTANTS] = {"raw_blocking", "urpc_blocking", "raw_spinning",
	"urpc_spinning", "urpc_shm_spinning", "urpc_one", "grpc_one", "urpc_many", "grpc_many"};

struct turn {
	uint64_t mean_ns, cpu_ns, calls;
};

struct side {
	pid_t pid;
	uint16_t port;
	clockid_t clock;
	struct urpc_client *client; /* urpc */
	uint32_t peer;
	int fd; /* raw */
	struct bench_hist hist;
	struct turn turns[ROUNDS_MAX];
};

static struct urpc_bench_options options;
static struct side sides[CONTESTANTS];
static struct ctl_client *grpc_client;
static struct ctl_queue *grpc_queue;
static uint8_t request[MESSAGE_MAX], reply[DEPTH_MAX][MESSAGE_MAX];

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "urpc_bench: %s: %s\n", what, strerror(errno));
	exit(BENCH_EXIT_WRONG);
}

static bool is_raw(enum contestant who)
{
	return who == RAW_BLOCKING || who == RAW_SPINNING;
}

static bool is_grpc(enum contestant who)
{
	return who == GRPC_ONE || who == GRPC_MANY;
}

static bool spins(enum contestant who)
{
	return who == RAW_SPINNING || who == URPC_SPINNING || who == URPC_SHM;
}

static uint64_t spin_ns(enum contestant who)
{
	return who == URPC_BLOCKING ? 1 : spins(who) ? CLOCK_NEVER_NS : 0;
}

/* --- servers: each in a child, which reports its port and then serves until it is killed --- */

static void serve_raw(int port_pipe, bool spin)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	uint8_t bytes[MESSAGE_MAX];

	must(bind(fd, (struct sockaddr *)&address, length) == 0 &&
			getsockname(fd, (struct sockaddr *)&address, &length) == 0,
		"bind");
	uint16_t port = ntohs(address.sin_port);
	must(write(port_pipe, &port, sizeof(port)) == sizeof(port), "pipe");
	for (;;) {
		ssize_t n = recvfrom(fd, bytes, sizeof(bytes), spin ? MSG_DONTWAIT : 0,
			(struct sockaddr *)&address, &length);

		if (n >= 0)
			must(sendto(fd, bytes, (size_t)n, 0, (struct sockaddr *)&address, length) ==
					n,
				"sendto");
	}
}

static int echo_urpc(struct urpc_call *call)
{
	memcpy(call->reply, call->request, call->request_bytes);
	call->reply_bytes = call->request_bytes;
	return 0;
}

static const char *shm_address(void)
{
	static char text[64];

	if (text[0] == '\0') /* before the servers are forked */
		snprintf(text, sizeof(text), "shm:/tmp/urpc_bench.%d", getpid());
	return text;
}

static void serve_urpc(int port_pipe, const char *listen, uint64_t spin_ns)
{
	static const struct urpc_method method = {METHOD, 0, echo_urpc};
	struct urpc_server_options server_options = {
		.listen = listen, .methods = &method, .methods_count = 1, .spin_ns = spin_ns};
	struct urpc_server *server;

	must(urpc_server_open(&server_options, &server) == 0 && urpc_server_start(server) == 0,
		"urpc server");
	uint16_t port = urpc_server_port(server);
	must(write(port_pipe, &port, sizeof(port)) == sizeof(port), "pipe");
}

static int echo_grpc(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *ctl_reply)
{
	uint8_t *space = ctl_reply_space(ctl_reply, length);

	(void)context;
	if (space == NULL)
		return -ENOMEM;
	memcpy(space, bytes, length);
	return 0;
}

static void serve_grpc(int port_pipe)
{
	static const struct ctl_method method = {GRPC_METHOD, echo_grpc};
	struct ctl_server_options server_options = {
		.methods = &method, .methods_count = 1, .threads = 1};
	struct ctl_server *server;
	int chosen = 0;

	must(ctl_server_open(&server_options, &server) == 0 &&
			ctl_server_listen(server, "127.0.0.1:0", &chosen) == 0 &&
			ctl_server_start(server) == 0,
		"gRPC server");
	uint16_t port = (uint16_t)chosen;
	must(write(port_pipe, &port, sizeof(port)) == sizeof(port), "pipe");
}

static void start_server(enum contestant who)
{
	struct side *side = &sides[who];
	int fds[2];

	must(pipe(fds) == 0, "pipe");
	side->pid = fork();
	must(side->pid >= 0, "fork");
	if (side->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (options.pin)
			bench_pin(1);
		if (is_raw(who))
			serve_raw(fds[1], spins(who));
		else if (is_grpc(who))
			serve_grpc(fds[1]);
		else
			serve_urpc(fds[1], who == URPC_SHM ? shm_address() : "127.0.0.1:0",
				spin_ns(who));
		for (;;)
			pause();
	}
	close(fds[1]);
	must(read(fds[0], &side->port, sizeof(side->port)) == sizeof(side->port),
		"a server did not start");
	close(fds[0]);
	must(clock_getcpuclockid(side->pid, &side->clock) == 0, "clock_getcpuclockid");
}

/* --- clients --- */

static void connect_raw(struct side *side)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons(side->port)};

	side->fd = socket(AF_INET, SOCK_DGRAM, 0);
	must(connect(side->fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
}

static void connect_urpc(struct side *side, enum contestant who)
{
	struct urpc_client_options client_options = {.spin_ns = spin_ns(who)};
	char address[64];

	snprintf(address, sizeof(address), "127.0.0.1:%u", side->port);
	if (who == URPC_SHM)
		snprintf(address, sizeof(address), "%s", shm_address());
	must(urpc_client_open(&client_options, &side->client) == 0 &&
			urpc_client_add(side->client, address, &side->peer) == 0,
		"urpc client");
}

static void connect_all(void)
{
	char address[32];

	for (unsigned who = 0; who < CONTESTANTS; who++) {
		if (is_raw((enum contestant)who))
			connect_raw(&sides[who]);
		else if (!is_grpc((enum contestant)who))
			connect_urpc(&sides[who], (enum contestant)who);
	}
	snprintf(address, sizeof(address), "127.0.0.1:%u", sides[GRPC_ONE].port);
	must(ctl_client_open(address, &grpc_client) == 0 && ctl_queue_open(&grpc_queue) == 0,
		"gRPC client");
}

/* --- one call --- */

static void call_raw(const struct side *side, bool spin)
{
	ssize_t n;

	must(send(side->fd, request, options.bytes, 0) == (ssize_t)options.bytes, "send");
	do
		n = recv(side->fd, reply[0], MESSAGE_MAX, spin ? MSG_DONTWAIT : 0);
	while (n < 0 && errno == EAGAIN);
	must(n == (ssize_t)options.bytes, "recv");
}

static void send_urpc(struct side *side, unsigned place)
{
	struct urpc_request call = {.peer = side->peer,
		.method = METHOD,
		.bytes = request,
		.length = options.bytes,
		.reply = reply[place],
		.reply_capacity = MESSAGE_MAX,
		.deadline_ns = clock_now_ns() + DEADLINE_NS,
		.tag = place};
	uint64_t id;
	int r;

	do /* a server in shared memory that was just woken up takes a moment to greet us */
		r = urpc_client_send(side->client, &call, &id);
	while (r == -ENOBUFS && clock_now_ns() < call.deadline_ns);
	errno = -r;
	must(r == 0, "urpc_client_send");
}

static unsigned reap_urpc(struct side *side, struct urpc_completion completions[DEPTH_MAX])
{
	unsigned n;

	must(urpc_client_wait(side->client, clock_now_ns() + DEADLINE_NS) == 0, "urpc_client_wait");
	n = urpc_client_poll(side->client, completions, DEPTH_MAX);
	for (unsigned i = 0; i < n; i++)
		must(completions[i].status == 0 && completions[i].reply_bytes == options.bytes,
			"a urpc call failed");
	return n;
}

static void call_urpc(struct side *side)
{
	struct urpc_completion completions[DEPTH_MAX];

	send_urpc(side, 0);
	while (reap_urpc(side, completions) == 0)
		continue;
}

static void call_grpc(void)
{
	struct ctl_request call = {.method = GRPC_METHOD,
		.bytes = request,
		.length = options.bytes,
		.timeout_ns = DEADLINE_NS};
	struct ctl_result result;

	must(ctl_client_call(grpc_client, &call, &result) == 0 && result.length == options.bytes,
		"a gRPC call failed");
	ctl_result_clear(&result);
}

static void call_one(enum contestant who)
{
	if (is_raw(who))
		call_raw(&sides[who], spins(who));
	else if (is_grpc(who))
		call_grpc();
	else
		call_urpc(&sides[who]);
}

/* --- many calls in flight --- */

static void many_urpc(struct side *side, uint64_t calls)
{
	struct urpc_completion completions[DEPTH_MAX];
	uint64_t sent = 0, done = 0;

	while (sent < calls && sent < options.depth)
		send_urpc(side, (unsigned)sent++);
	while (done < calls) {
		unsigned n = reap_urpc(side, completions);

		done += n;
		for (unsigned i = 0; i < n && sent < calls; i++, sent++)
			send_urpc(side, (unsigned)completions[i].tag);
	}
}

static uint64_t grpc_done_count;

static void grpc_done(void *context, const struct ctl_result *result)
{
	(void)context;
	must(result->status == 0 && result->length == options.bytes, "a gRPC call failed");
	grpc_done_count++;
}

static void many_grpc(uint64_t calls)
{
	struct ctl_request call = {.method = GRPC_METHOD,
		.bytes = request,
		.length = options.bytes,
		.timeout_ns = DEADLINE_NS};
	uint64_t sent = 0;

	grpc_done_count = 0;
	while (grpc_done_count < calls) {
		struct pollfd fd = {.fd = ctl_queue_fd(grpc_queue), .events = POLLIN};

		for (; sent < calls && sent - grpc_done_count < options.depth; sent++)
			must(ctl_client_start(grpc_client, grpc_queue, &call, grpc_done, NULL) == 0,
				"ctl_client_start");
		if (ctl_queue_dispatch(grpc_queue) == 0)
			must(poll(&fd, 1, 10000) == 1, "poll");
	}
}

/* --- turns --- */

static uint64_t cpu_ns(clockid_t clock)
{
	struct timespec time;

	must(clock_gettime(clock, &time) == 0, "clock_gettime");
	return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

static struct turn turn_of(enum contestant who)
{
	struct side *side = &sides[who];
	uint64_t cpu = cpu_ns(side->clock) + cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t begin_ns = clock_now_ns(), end_ns = begin_ns;

	if (who == URPC_MANY) {
		many_urpc(side, options.round_trips);
	} else if (who == GRPC_MANY) {
		many_grpc(options.round_trips);
	} else {
		for (uint64_t i = 0; i < options.round_trips; i++) {
			uint64_t before_ns = end_ns;

			call_one(who);
			end_ns = clock_now_ns();
			bench_hist_record(&side->hist, end_ns - before_ns);
		}
	}
	end_ns = clock_now_ns();
	cpu = cpu_ns(side->clock) + cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	return (struct turn){.mean_ns = (end_ns - begin_ns) / options.round_trips,
		.cpu_ns = cpu,
		.calls = options.round_trips};
}

static void take_turn(enum contestant who, unsigned round)
{
	struct side *side = &sides[who];

	if (spins(who))
		kill(side->pid, SIGCONT);
	call_one(who); /* wakes up, warms up; not counted */
	side->turns[round] = turn_of(who);
	if (spins(who))
		kill(side->pid, SIGSTOP);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, uint64_t count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}

static double median_of(enum contestant who, double (*what)(const struct turn *))
{
	double values[ROUNDS_MAX];

	for (uint64_t i = 0; i < options.rounds; i++)
		values[i] = what(&sides[who].turns[i]);
	return median(values, options.rounds);
}

static double mean_of_turn(const struct turn *turn)
{
	return (double)turn->mean_ns;
}

static double rate_per_core(const struct turn *turn)
{
	return (double)turn->calls * 1e9 / (double)FM_MAX(turn->cpu_ns, 1u);
}

static double ratio_of(enum contestant a, enum contestant b, double (*what)(const struct turn *))
{
	double values[ROUNDS_MAX];

	for (uint64_t i = 0; i < options.rounds; i++)
		values[i] = what(&sides[a].turns[i]) / what(&sides[b].turns[i]);
	return median(values, options.rounds);
}

static void print(void)
{
	struct bench_report report;
	char key[64];

	bench_report_open(&report, program.name, options.common.json);
	bench_report_count(&report, "bytes", options.bytes);
	bench_report_count(&report, "rounds", options.rounds);
	bench_report_count(&report, "round_trips", options.round_trips);
	bench_report_count(&report, "depth", options.depth);
	bench_report_text(&report, "pinned", options.pin ? "yes" : "no");
	for (unsigned who = 0; who < CONTESTANTS; who++) {
		snprintf(key, sizeof(key), "%s_", names[who]);
		if (sides[who].hist.count != 0)
			bench_report_hist(&report, key, &sides[who].hist);
		snprintf(key, sizeof(key), "%s_turn_mean_ns", names[who]);
		bench_report_number(&report, key, median_of((enum contestant)who, mean_of_turn));
		snprintf(key, sizeof(key), "%s_calls_per_cpu_second", names[who]);
		bench_report_number(&report, key, median_of((enum contestant)who, rate_per_core));
	}
	bench_report_number(&report, "ratio_blocking_urpc_to_raw",
		ratio_of(URPC_BLOCKING, RAW_BLOCKING, mean_of_turn));
	bench_report_number(&report, "ratio_spinning_urpc_to_raw",
		ratio_of(URPC_SPINNING, RAW_SPINNING, mean_of_turn));
	bench_report_number(&report, "ratio_p50_blocking",
		(double)bench_hist_quantile(&sides[URPC_BLOCKING].hist, 0.5) /
			(double)bench_hist_quantile(&sides[RAW_BLOCKING].hist, 0.5));
	bench_report_number(&report, "ratio_p50_spinning",
		(double)bench_hist_quantile(&sides[URPC_SPINNING].hist, 0.5) /
			(double)bench_hist_quantile(&sides[RAW_SPINNING].hist, 0.5));
	bench_report_number(&report, "ratio_p50_spinning_shm_to_raw",
		(double)bench_hist_quantile(&sides[URPC_SHM].hist, 0.5) /
			(double)bench_hist_quantile(&sides[RAW_SPINNING].hist, 0.5));
	bench_report_number(&report, "ratio_rate_per_core_one_urpc_to_grpc",
		ratio_of(URPC_ONE, GRPC_ONE, rate_per_core));
	bench_report_number(&report, "ratio_rate_per_core_many_urpc_to_grpc",
		ratio_of(URPC_MANY, GRPC_MANY, rate_per_core));
	bench_report_close(&report);
}

int main(int argc, char **argv)
{
	int status = bench_parse(&program, &options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (options.common.tiny) {
		options.rounds = 3;
		options.round_trips = 50;
	}
	memset(request, 'x', sizeof(request));
	shm_address();
	for (unsigned who = 0; who < CONTESTANTS; who++) {
		if (who == GRPC_MANY) { /* one server for both */
			sides[who].pid = sides[GRPC_ONE].pid;
			sides[who].clock = sides[GRPC_ONE].clock;
			continue;
		}
		start_server((enum contestant)who);
		if (spins((enum contestant)who))
			kill(sides[who].pid, SIGSTOP);
	}
	if (options.pin)
		bench_pin(0);
	connect_all();
	for (unsigned round = 0; round < options.rounds; round++)
		for (unsigned who = 0; who < CONTESTANTS; who++)
			take_turn((enum contestant)who, round);
	print();
	for (unsigned who = 0; who < GRPC_MANY; who++)
		kill(sides[who].pid, SIGKILL);
	unlink(shm_address() + strlen("shm:"));
	return 0;
}
