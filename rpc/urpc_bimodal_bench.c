/*
 * rpc/urpc_bimodal_bench.c: what giving way at poll points is worth: short requests among a few
 * long ones, with a quantum and without.
 *
 * An open loop: requests leave at times drawn in advance (Poisson) whatever has come back, and
 * latency counts from the time intended. Four servers take turns in one run, each a process of one
 * core's capacity: receiver and handlers in one thread or in two, with --quantum and without.
 * Reported per server: latency of the short and of the long ones, and the ratios.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "bench/bench.h"
#include "rpc/urpc.h"

#define ROUNDS_MAX 1000u
#define METHOD 1u
#define POLL_NS 500u /* a handler's poll points are about so far apart */
#define QUEUE_MAX 4096u

struct bimodal_options {
	struct bench_options common;
	uint64_t short_ns, long_ns, long_of_1000, load_percent, quantum_ns, rounds, turn_ms;
	bool pin;
};

#define COUNT(flag, field, low, high, preset, text)                                                \
	{                                                                                          \
		.name = flag, .type = OPTION_COUNT,                                                \
		.offset = offsetof(struct bimodal_options, field), .min = low, .max = high,        \
		.value = preset, .argument = "N", .help = text, .flag_only = true                  \
	}
static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	COUNT("short-ns", short_ns, 100, 1000000, "5000", "service time of a short request"),
	COUNT("long-ns", long_ns, 100, 100000000, "1000000", "service time of a long request"),
	COUNT("long-of-1000", long_of_1000, 0, 1000, "5", "long requests among 1000"),
	COUNT("load", load_percent, 1, 100, "60", "percent of one core's capacity"),
	COUNT("quantum-ns", quantum_ns, 1000, 1000000000, "10000", "the server's quantum"),
	COUNT("rounds", rounds, 1, ROUNDS_MAX, "10", "turns of each server"),
	COUNT("turn-ms", turn_ms, 10, 10000, "500", "milliseconds of load in a turn"),
	{.name = "pin",
		.type = OPTION_BOOL,
		.offset = offsetof(struct bimodal_options, pin),
		.help = "client on one CPU, servers on another",
		.flag_only = true},
};
static const struct bench_program program = {"urpc_bimodal_bench",
	"Latency of short requests among long ones, with and without preemption.", specs,
	FM_ARRAY_COUNT(specs)};

enum contestant { ONE_THREAD, ONE_THREAD_NO_QUANTUM, APART, APART_NO_QUANTUM, CONTESTANTS };
static const char *const names[CONTESTANTS] = {
	"one_thread", "one_thread_no_quantum", "apart", "apart_no_quantum"};

struct side {
	pid_t pid;
	uint32_t peer;
	struct bench_hist shorts, longs;
	double p99_ns[ROUNDS_MAX]; /* of the short ones, per turn */
	uint64_t failed;
};

static struct bimodal_options options;
static struct side sides[CONTESTANTS];
static struct urpc_client *client;

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s: %s\n", program.name, what, strerror(errno));
	exit(BENCH_EXIT_WRONG);
}

/* Computes for as many nanoseconds as the request says. */
static int handle_work(struct urpc_call *call)
{
	uint64_t work_ns, done_ns = 0, before_ns, now_ns;

	if (call->request_bytes != sizeof(work_ns))
		return -EINVAL;
	memcpy(&work_ns, call->request, sizeof(work_ns));
	while (done_ns < work_ns) {
		uint64_t slice_ns = FM_MIN(work_ns - done_ns, (uint64_t)POLL_NS);

		before_ns = now_ns = clock_now_ns();
		while (now_ns - before_ns < slice_ns)
			now_ns = clock_now_ns();
		done_ns += slice_ns; /* not more: what others do meanwhile is not our work */
		urpc_poll_point();
	}
	return 0;
}

static void start_server(enum contestant who)
{
	static const struct urpc_method method = {METHOD, 0, handle_work};
	bool has_quantum = who == ONE_THREAD || who == APART;
	struct urpc_server_options server_options = {.listen = "127.0.0.1:0",
		.methods = &method,
		.methods_count = 1,
		.queue_max = QUEUE_MAX,
		.quantum_ns = has_quantum ? options.quantum_ns : CLOCK_NEVER_NS,
		.apart = who == APART || who == APART_NO_QUANTUM};
	struct urpc_server *server;
	uint16_t port;
	char address[32];
	int fds[2];

	must(pipe(fds) == 0, "pipe");
	sides[who].pid = fork();
	must(sides[who].pid >= 0, "fork");
	if (sides[who].pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (options.pin)
			bench_pin(1);
		must(urpc_server_open(&server_options, &server) == 0 &&
				urpc_server_start(server) == 0,
			"urpc server");
		port = urpc_server_port(server);
		must(write(fds[1], &port, sizeof(port)) == sizeof(port), "pipe");
		for (;;)
			pause();
	}
	must(read(fds[0], &port, sizeof(port)) == sizeof(port), "a server did not start");
	close(fds[0]);
	close(fds[1]);
	snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	must(urpc_client_add(client, address, &sides[who].peer) == 0, "urpc_client_add");
}

static double random_unit(uint64_t *state)
{
	return ((double)(bench_random(state) >> 11) + 0.5) / 9007199254740992.0;
}

struct flow {
	uint64_t state, next_ns, end_ns;
	uint64_t in_flight;
	double gap_ns;
	struct bench_hist shorts;
};

/* Sends what is due. The tag is the intended time, its lowest bit says long. */
static void send_due(struct side *side, struct flow *load)
{
	uint64_t now_ns = clock_now_ns();

	while (load->next_ns <= now_ns && load->next_ns < load->end_ns) {
		bool is_long = random_unit(&load->state) * 1000 < (double)options.long_of_1000;
		uint64_t work_ns = is_long ? options.long_ns : options.short_ns;
		struct urpc_request request = {.peer = side->peer,
			.method = METHOD,
			.bytes = &work_ns,
			.length = sizeof(work_ns),
			.deadline_ns = now_ns + 10 * NS_PER_S,
			.tag = load->next_ns << 1 | is_long};
		uint64_t id;

		if (urpc_client_send(client, &request, &id) == 0)
			load->in_flight++;
		else
			side->failed++;
		load->next_ns += (uint64_t)(-log(random_unit(&load->state)) * load->gap_ns);
	}
}

static void reap(struct side *side, struct flow *load)
{
	struct urpc_completion completions[32];
	unsigned n = urpc_client_poll(client, completions, 32);

	load->in_flight -= n;
	for (unsigned i = 0; i < n; i++) {
		uint64_t latency_ns = completions[i].done_ns - (completions[i].tag >> 1);

		if (completions[i].status != 0) {
			side->failed++;
		} else if (completions[i].tag & 1) {
			bench_hist_record(&side->longs, latency_ns);
		} else {
			bench_hist_record(&side->shorts, latency_ns);
			bench_hist_record(&load->shorts, latency_ns);
		}
	}
}

static void take_turn(enum contestant who, unsigned round)
{
	static struct flow load;
	struct side *side = &sides[who];
	double mean_ns = ((double)options.short_ns * (double)(1000 - options.long_of_1000) +
				 (double)options.long_ns * (double)options.long_of_1000) /
			 1000;

	/* the same arrivals for all servers of a round */
	load = (struct flow){.state = round + 1,
		.next_ns = clock_now_ns() + NS_PER_MS,
		.gap_ns = mean_ns * 100 / (double)options.load_percent};
	load.end_ns = load.next_ns + options.turn_ms * NS_PER_MS;
	while (load.next_ns < load.end_ns || load.in_flight != 0) {
		send_due(side, &load);
		reap(side, &load);
	}
	side->p99_ns[round] = (double)bench_hist_quantile(&load.shorts, 0.99);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Median over the rounds of how much longer the short ones' p99 is without a quantum. */
static double gain(enum contestant without, enum contestant with)
{
	double values[ROUNDS_MAX];

	for (uint64_t i = 0; i < options.rounds; i++)
		values[i] = sides[without].p99_ns[i] / FM_MAX(sides[with].p99_ns[i], 1.0);
	qsort(values, options.rounds, sizeof(*values), compare);
	return values[options.rounds / 2];
}

static void print(void)
{
	struct bench_report report;
	char key[64];

	bench_report_open(&report, program.name, options.common.json);
	bench_report_count(&report, "short_ns", options.short_ns);
	bench_report_count(&report, "long_ns", options.long_ns);
	bench_report_count(&report, "long_of_1000", options.long_of_1000);
	bench_report_count(&report, "load_percent", options.load_percent);
	bench_report_count(&report, "quantum_ns", options.quantum_ns);
	bench_report_count(&report, "rounds", options.rounds);
	bench_report_count(&report, "turn_ms", options.turn_ms);
	bench_report_text(&report, "pinned", options.pin ? "yes" : "no");
	for (unsigned who = 0; who < CONTESTANTS; who++) {
		snprintf(key, sizeof(key), "%s_short_", names[who]);
		bench_report_hist(&report, key, &sides[who].shorts);
		snprintf(key, sizeof(key), "%s_long_", names[who]);
		bench_report_hist(&report, key, &sides[who].longs);
		snprintf(key, sizeof(key), "%s_failed", names[who]);
		bench_report_count(&report, key, sides[who].failed);
	}
	bench_report_number(
		&report, "gain_p99_short_one_thread", gain(ONE_THREAD_NO_QUANTUM, ONE_THREAD));
	bench_report_number(&report, "gain_p99_short_apart", gain(APART_NO_QUANTUM, APART));
	bench_report_number(
		&report, "ratio_p99_short_apart_to_one_thread", gain(APART, ONE_THREAD));
	bench_report_close(&report);
}

int main(int argc, char **argv)
{
	struct urpc_client_options client_options = {.requests_max = URPC_REQUESTS_MAX};
	int status = bench_parse(&program, &options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (options.common.tiny) {
		options.rounds = 2;
		options.turn_ms = 50;
	}
	must(urpc_client_open(&client_options, &client) == 0, "urpc client");
	for (unsigned who = 0; who < CONTESTANTS; who++)
		start_server((enum contestant)who);
	if (options.pin)
		bench_pin(0);
	for (unsigned round = 0; round < options.rounds; round++)
		for (unsigned who = 0; who < CONTESTANTS; who++)
			take_turn((enum contestant)who, round);
	print();
	for (unsigned who = 0; who < CONTESTANTS; who++)
		kill(sides[who].pid, SIGKILL);
	urpc_client_close(client);
	return 0;
}
