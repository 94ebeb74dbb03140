/*
 * lb/probe_bench.c: figure 4 of load balancing: how long a probe takes, answered by the kernel and
 * by user space, with the server's core idle and with CPU-bound threads on it.
 *
 * Client and server live in network namespaces of their own with a cable (veth) between them. The
 * client spins on CPU 0, by SCHED_FIFO: what is measured is the way there and back and the answer,
 * not the client's own wake-up, nor what else wants its core. The server's core is CPU 1: RPS
 * steers its packets there (on veth they would otherwise be handled by the sender's core), and
 * there run the publisher that keeps the load slot fresh, the responder thread, and the CPU-bound
 * threads. Native XDP ignores RPS: it runs on the sender's core, and its line says so.
 *
 * The control is a question as user space answers it: by a blocking thread, ordinary and
 * SCHED_FIFO, in the same run, all modes interleaved. --json for machines, --tiny for ctest.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mount.h>

#include "base/clock.h"
#include "base/futex.h"
#include "base/log.h"
#include "bench/bench.h"
#include "lb/probe_kernel.h"
#include "lb/probe_lab_test.h"

#define PORT 7500
#define LATE_NS (NS_PER_MS / 2)
#define LOST_NS (200 * NS_PER_MS) /* no answer for so long: lost */
#define THREADS_MAX 64
#define CLIENT_CPU 0
#define SERVER_CPU 1

struct probe_bench_options {
	struct bench_options common;
	uint64_t rounds, cell_ns, pause_ns, threads, client_priority;
	bool steer;
};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "rounds",
		.type = OPTION_COUNT,
		.offset = offsetof(struct probe_bench_options, rounds),
		.min = 1,
		.max = 1000,
		.value = "10",
		.argument = "N",
		.help = "how often each mode has its turn, idle and busy",
		.flag_only = true},
	{.name = "turn",
		.type = OPTION_DURATION,
		.offset = offsetof(struct probe_bench_options, cell_ns),
		.min = NS_PER_MS,
		.value = "500ms",
		.argument = "TIME",
		.help = "length of a turn",
		.flag_only = true},
	{.name = "pause",
		.type = OPTION_DURATION,
		.offset = offsetof(struct probe_bench_options, pause_ns),
		.value = "50us",
		.argument = "TIME",
		.help = "mean time between an answer and the next question",
		.flag_only = true},
	{.name = "threads",
		.type = OPTION_COUNT,
		.offset = offsetof(struct probe_bench_options, threads),
		.min = 1,
		.max = THREADS_MAX,
		.value = "4",
		.argument = "N",
		.help = "CPU-bound threads on a busy server's core",
		.flag_only = true},
	{.name = "client-priority",
		.type = OPTION_COUNT,
		.offset = offsetof(struct probe_bench_options, client_priority),
		.max = 99,
		.value = "10",
		.argument = "N",
		.help = "SCHED_FIFO priority of the client, which is the instrument; 0: ordinary",
		.flag_only = true},
	{.name = "steer",
		.type = OPTION_BOOL,
		.offset = offsetof(struct probe_bench_options, steer),
		.value = "yes",
		.help = "packets are handled by the server's core (RPS), not the sender's",
		.flag_only = true},
};
static const struct bench_program program = {"probe_bench",
	"Times load probes, answered by the kernel and by user space, server idle and busy.", specs,
	FM_ARRAY_COUNT(specs)};

static const struct mode {
	const char *name, *key;
	enum probe_mode mode;
	int priority;
	bool ignores_steering;
} modes[] = {
	{"eBPF, tc ingress", "tc", PROBE_TC, 0, false},
	{"eBPF, XDP generic", "xdp_generic", PROBE_XDP_GENERIC, 0, false},
	{"eBPF, XDP native", "xdp", PROBE_XDP, 0, true},
	{"user space", "user", PROBE_USER, 0, false},
	{"user space, SCHED_FIFO", "user_fifo", PROBE_USER, 50, false},
};

struct cell {
	struct bench_hist hist;
	uint64_t late, lost, unhealthy;
};

struct bench {
	struct probe_bench_options options;
	struct lab lab;
	int client;
	uint64_t cookie;
	pthread_mutex_t slot_lock;
	struct load_slot *slot; /* NULL: the publisher rests */
	_Atomic uint32_t turn;  /* odd: the CPU-bound threads run */
	_Atomic bool stop;
	pthread_t publisher, threads[THREADS_MAX];
	unsigned threads_count;
	bool skipped[FM_ARRAY_COUNT(modes)];
};
static struct bench bench = {.slot_lock = PTHREAD_MUTEX_INITIALIZER};
static struct cell cells[FM_ARRAY_COUNT(modes)][2];

static int pin(unsigned cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one);
}

/* --- the server's core ---------------------------------------------------------------------- */

static void *burn(void *argument)
{
	uint64_t work = 1;

	(void)argument;
	pin(SERVER_CPU);
	while (!atomic_load(&bench.stop)) {
		uint32_t turn = atomic_load(&bench.turn);

		if (turn % 2 == 0) {
			(void)futex_wait(&bench.turn, turn, UINT64_MAX);
			continue;
		}
		for (unsigned i = 0; i < 1000; i++)
			work = bench_mix(work);
	}
	return (void *)(uintptr_t)work;
}

static void *publish(void *argument)
{
	pin(SERVER_CPU);
	while (!atomic_load(&bench.stop)) {
		const struct load_report report = {.stamp_ns = clock_now_ns(), .in_flight = 1};
		struct timespec pause = {.tv_nsec = (long)LOAD_REFRESH_NS};

		pthread_mutex_lock(&bench.slot_lock);
		if (bench.slot != NULL)
			load_publish(bench.slot, &report);
		pthread_mutex_unlock(&bench.slot_lock);
		nanosleep(&pause, NULL);
	}
	return argument;
}

static void publish_to(struct load_slot *slot)
{
	pthread_mutex_lock(&bench.slot_lock);
	bench.slot = slot;
	pthread_mutex_unlock(&bench.slot_lock);
}

static int threads_begin(void)
{
	if (pthread_create(&bench.publisher, NULL, publish, NULL) != 0)
		return bench_fail("no thread");
	for (; bench.threads_count < bench.options.threads; bench.threads_count++) {
		if (pthread_create(&bench.threads[bench.threads_count], NULL, burn, NULL) != 0)
			return bench_fail("no thread");
	}
	return 0;
}

static void threads_end(void)
{
	atomic_store(&bench.stop, true);
	atomic_fetch_add(&bench.turn, 2);
	futex_wake(&bench.turn, INT32_MAX);
	pthread_join(bench.publisher, NULL);
	for (unsigned i = 0; i < bench.threads_count; i++)
		pthread_join(bench.threads[i], NULL);
}

static void threads_run(bool busy)
{
	if ((atomic_load(&bench.turn) % 2 == 1) == busy)
		return;
	atomic_fetch_add(&bench.turn, 1);
	futex_wake(&bench.turn, INT32_MAX);
}

/* --- the client ------------------------------------------------------------------------------ */

/* Spins until the answer to `cookie` is there. Answers that come too late are dropped. */
static bool await(struct load *load, uint64_t cookie, uint64_t until_ns)
{
	uint8_t bytes[2 * PROBE_BYTES];
	uint64_t echoed;
	ssize_t length;

	do {
		length = recv(bench.client, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (length >= 0 && probe_parse_answer(bytes, (size_t)length, load, &echoed) &&
			echoed == cookie)
			return true;
	} while (clock_now_ns() < until_ns);
	return false;
}

static void ask(struct cell *cell)
{
	struct probe_packet question;
	struct load load;
	uint64_t begin_ns, took_ns;

	probe_ask(&question, ++bench.cookie);
	begin_ns = clock_now_ns();
	if (send(bench.client, &question, sizeof(question), 0) != (ssize_t)sizeof(question) ||
		!await(&load, bench.cookie, begin_ns + LOST_NS)) {
		if (cell != NULL)
			cell->lost++;
		return;
	}
	took_ns = clock_now_ns() - begin_ns;
	if (cell == NULL)
		return;
	bench_hist_record(&cell->hist, took_ns);
	cell->late += took_ns > LATE_NS;
	cell->unhealthy += (load.flags & LOAD_UNHEALTHY) != 0;
}

/* Pauses are drawn (0 to twice the mean), so that nothing beats in time with the scheduler. */
static void turn(struct cell *cell, uint64_t length_ns)
{
	uint64_t end_ns = clock_now_ns() + length_ns, state = end_ns, until_ns;

	while (clock_now_ns() < end_ns) {
		ask(cell);
		until_ns = clock_now_ns();
		if (bench.options.pause_ns > 0)
			until_ns += bench_random_below(&state, 2 * bench.options.pause_ns);
		while (clock_now_ns() < until_ns)
			fm_cpu_relax();
	}
}

/* What the client starts does not inherit it. */
static void client_prefer(void)
{
	struct sched_param priority = {.sched_priority = (int)bench.options.client_priority};

	if (priority.sched_priority > 0 &&
		sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority) != 0)
		bench.options.client_priority = 0;
}

/* --- the scene ------------------------------------------------------------------------------- */

/* Packets that come over the cable are handled by the server's core. */
static int steer(void)
{
	static const char path[] = "/sys/class/net/" LAB_SERVER_CABLE "/queues/rx-0/rps_cpus";
	char mask[16];
	int fd, length = snprintf(
			mask, sizeof(mask), "%x", bench.options.steer ? 1u << SERVER_CPU : 0);

	/* /sys shows the interfaces of the namespace it was mounted in */
	if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
		mount("sysfs", "/sys", "sysfs", 0, NULL) != 0)
		return -errno;
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, mask, (size_t)length) != length)
		return -errno;
	close(fd);
	return 0;
}

/* Native XDP on veth needs a program on the other end as well. */
static int peer_pass(void)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int fd = bpf_prog_load(BPF_PROG_TYPE_XDP, "pass", "GPL", pass, FM_ARRAY_COUNT(pass), NULL);
	int link = -1;

	if (fd < 0 || !lab_enter(bench.lab.client))
		return -1;
	link = bpf_link_create(fd, (int)if_nametoindex(LAB_CLIENT_CABLE), BPF_XDP, NULL);
	close(fd);
	return lab_enter(bench.lab.server) ? link : -1;
}

static int client_open(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};

	inet_pton(AF_INET, LAB_SERVER4, &to.sin_addr);
	if (!lab_enter(bench.lab.client))
		return -errno;
	bench.client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (bench.client < 0 || connect(bench.client, (struct sockaddr *)&to, sizeof(to)) != 0 ||
		!lab_enter(bench.lab.server))
		return -errno;
	return 0;
}

/* One mode's turns of a round: its server comes, is asked idle and busy, and goes. */
static int run_mode(unsigned index)
{
	const struct probe_server_options options = {
		.mode = modes[index].mode,
		.port = PORT,
		.interfaces = LAB_SERVER_CABLE,
		.user_priority = modes[index].priority,
	};
	struct probe_server *server;
	int error, link = modes[index].mode == PROBE_XDP ? peer_pass() : -1;

	pin(SERVER_CPU); /* the responder inherits it */
	error = probe_server_open(&options, &server);
	pin(CLIENT_CPU);
	if (error == 0) {
		publish_to(probe_server_slot(server));
		for (unsigned busy = 0; busy < 2; busy++) {
			threads_run(busy == 1);
			turn(NULL, bench.options.cell_ns / 10);
			turn(&cells[index][busy], bench.options.cell_ns);
		}
		threads_run(false);
		publish_to(NULL); /* before the slot goes */
		probe_server_close(server);
	}
	if (link >= 0)
		close(link);
	return error;
}

/* --- what the program costs ------------------------------------------------------------------ */

struct costs {
	double empty_ns, pass_ns, answer_ns;
};

static double cost_of(int program_fd)
{
	uint8_t frame[1000] = {[12] = 8};
	LIBBPF_OPTS(bpf_test_run_opts, test, .data_in = frame, .data_size_in = sizeof(frame),
		.repeat = 1000000);

	return bpf_prog_test_run_opts(program_fd, &test) == 0 ? test.duration : 0;
}

/* The control: a program that passes everything on. */
static double cost_of_nothing(void)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = -1},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int fd = bpf_prog_load(
		BPF_PROG_TYPE_SCHED_CLS, "nothing", "GPL", pass, FM_ARRAY_COUNT(pass), NULL);
	double ns = fd < 0 ? 0 : cost_of(fd);

	if (fd >= 0)
		close(fd);
	return ns;
}

/* Mean ns of one run of the tc program on a packet that is none of its business, and that of an
 * answer as the kernel counts it (its counting included). */
static void measure_costs(struct costs *costs)
{
	const struct probe_filter everybody = {0};
	const struct probe_kernel_options options = {.place = {.port = PORT}, .filter = &everybody};
	struct probe_interface cable[PROBE_INTERFACES_MAX];
	struct bpf_prog_info info = {0};
	uint32_t info_bytes = sizeof(info);
	struct probe_kernel *kernel;
	unsigned count;
	int counting;

	*costs = (struct costs){.empty_ns = cost_of_nothing()};
	if (probe_kernel_open(&options, &kernel, NULL) != 0)
		return;
	costs->pass_ns = cost_of(probe_kernel_program(kernel));
	counting = bpf_enable_stats(BPF_STATS_RUN_TIME);
	if (counting >= 0 && probe_interfaces(LAB_SERVER_CABLE, cable, &count) == 0 &&
		probe_kernel_attach(kernel, cable, PROBE_HOOK_TC) == 0) {
		turn(NULL, bench.options.cell_ns);
		if (bpf_obj_get_info_by_fd(probe_kernel_program(kernel), &info, &info_bytes) == 0 &&
			info.run_cnt > 0)
			costs->answer_ns = (double)info.run_time_ns / (double)info.run_cnt;
	}
	if (counting >= 0)
		close(counting);
	probe_kernel_close(kernel);
}

/* --- results --------------------------------------------------------------------------------- */

static double us(uint64_t ns)
{
	return (double)ns / 1e3;
}

static double late_percent(const struct cell *cell)
{
	uint64_t asked = cell->hist.count + cell->lost;

	return asked == 0 ? 0 : 100.0 * (double)(cell->late + cell->lost) / (double)asked;
}

static void print_table(void)
{
	printf("%-24s %-14s %-5s %9s %8s %8s %9s %9s %7s %6s %9s\n", "answered by", "softirq on",
		"core", "questions", "p50 us", "p99 us", "p99.9 us", "max us", ">0.5ms%", "lost",
		"unhealthy");
	for (unsigned i = 0; i < FM_ARRAY_COUNT(modes); i++) {
		for (unsigned busy = 0; busy < 2 && !bench.skipped[i]; busy++) {
			const struct cell *cell = &cells[i][busy];

			printf("%-24s %-14s %-5s %9llu %8.1f %8.1f %9.1f %9.1f %7.3f %6llu %9llu\n",
				modes[i].name,
				bench.options.steer && !modes[i].ignores_steering ? "server's core"
										  : "sender's core",
				busy ? "busy" : "idle", (unsigned long long)cell->hist.count,
				us(bench_hist_quantile(&cell->hist, 0.5)),
				us(bench_hist_quantile(&cell->hist, 0.99)),
				us(bench_hist_quantile(&cell->hist, 0.999)), us(cell->hist.max),
				late_percent(cell), (unsigned long long)cell->lost,
				(unsigned long long)cell->unhealthy);
		}
	}
}

static void report_cells(struct bench_report *report)
{
	char key[64];

	for (unsigned i = 0; i < FM_ARRAY_COUNT(modes); i++) {
		for (unsigned busy = 0; busy < 2 && !bench.skipped[i]; busy++) {
			const char *core = busy ? "busy" : "idle";

			snprintf(key, sizeof(key), "%s_%s_", modes[i].key, core);
			bench_report_hist(report, key, &cells[i][busy].hist);
			snprintf(key, sizeof(key), "%s_%s_late_percent", modes[i].key, core);
			bench_report_number(report, key, late_percent(&cells[i][busy]));
			snprintf(key, sizeof(key), "%s_%s_lost", modes[i].key, core);
			bench_report_count(report, key, cells[i][busy].lost);
			snprintf(key, sizeof(key), "%s_%s_unhealthy", modes[i].key, core);
			bench_report_count(report, key, cells[i][busy].unhealthy);
		}
	}
}

static void report(void)
{
	struct bench_report out;
	struct costs costs;

	measure_costs(&costs);
	bench_report_open(&out, program.name, bench.options.common.json);
	bench_report_count(&out, "rounds", bench.options.rounds);
	bench_report_count(&out, "turn_ns", bench.options.cell_ns);
	bench_report_count(&out, "pause_ns", bench.options.pause_ns);
	bench_report_count(&out, "threads", bench.options.threads);
	bench_report_count(&out, "client_priority", bench.options.client_priority);
	bench_report_text(&out, "steer", bench.options.steer ? "yes" : "no");
	bench_report_count(&out, "late_ns", LATE_NS);
	bench_report_number(&out, "tc_pass_ns", costs.pass_ns);
	bench_report_number(&out, "tc_empty_program_ns", costs.empty_ns);
	bench_report_number(&out, "tc_answer_ns", costs.answer_ns);
	if (bench.options.common.json)
		report_cells(&out);
	bench_report_close(&out);
	if (!bench.options.common.json)
		print_table();
}

static int run(void)
{
	int error;

	for (uint64_t round = 0; round < bench.options.rounds; round++) {
		for (unsigned i = 0; i < FM_ARRAY_COUNT(modes); i++) {
			if (bench.skipped[i])
				continue;
			error = run_mode(i);
			if (error == 0)
				continue;
			if (modes[i].mode == PROBE_USER || round > 0)
				return bench_fail("%s: %s", modes[i].name, strerror(-error));
			bench.skipped[i] = true;
			if (!bench.options.common.json)
				printf("SKIP: %s: %s\n", modes[i].name, strerror(-error));
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	int status = bench_parse(&program, &bench.options, argc, argv, NULL);
	const char *unable;

	if (status >= 0)
		return status;
	log_set_level(LOG_ERROR);
	if (bench.options.common.tiny) {
		bench.options.rounds = 1;
		bench.options.cell_ns = 20 * NS_PER_MS;
	}
	if (pin(SERVER_CPU) != 0 || pin(CLIENT_CPU) != 0)
		return bench_skip("needs CPUs %d and %d", CLIENT_CPU, SERVER_CPU);
	unable = lab_open(&bench.lab);
	if (unable != NULL)
		return bench_skip("%s", unable);
	status = steer();
	if (status == 0)
		status = client_open();
	if (status != 0)
		return bench_skip("no RPS in a namespace of its own: %s", strerror(-status));
	client_prefer();
	status = threads_begin();
	if (status == 0)
		status = run();
	if (status == 0)
		report();
	threads_end();
	lab_close(&bench.lab);
	return status;
}
