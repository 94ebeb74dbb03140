/*
 * lb/probe_server_test.c: servers that answer probes in every mode this machine has, over loopback
 * and over a cable (veth) between two private network namespaces.
 */
#include "base/test.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "lb/probe_kernel.h"
#include "lb/probe_lab_test.h"

#define PORT 7500
#define ANSWER_MS 2000 /* a machine that is busy with other tests is given so long */
#define SILENCE_MS 40  /* nobody answers: waited so long. Too short only makes a test easier */

static struct lab lab;
static const char *unable;
static const struct load_report busy = {.delay_ns = 777, .in_flight = 5, .free_bytes = 1 << 20};

static void lab_wanted(void)
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

static struct probe_server *server_open(enum probe_mode mode, const char *interfaces)
{
	const struct probe_server_options options = {
		.mode = mode, .port = PORT, .interfaces = interfaces, .epoch = 17};
	struct probe_server *server;
	int error = probe_server_open(&options, &server);

	if (error == -EPERM || error == -EOPNOTSUPP)
		TEST_SKIP(probe_mode_name(mode));
	CHECK_EQ(error, 0);
	CHECK_EQ(probe_server_mode(server), mode);
	return server;
}

static void publish(struct probe_server *server)
{
	struct load_report report = busy;

	report.stamp_ns = clock_now_ns();
	load_publish(probe_server_slot(server), &report);
}

static struct sockaddr_storage address_of(const char *host, uint16_t port)
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
static int client_open(int ns, const char *host, uint16_t port)
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
static int owner_open(uint16_t port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0);
	CHECK_EQ(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
	return fd;
}

/* Length of the next datagram; -ETIMEDOUT; -errno. */
static ssize_t receive(int fd, void *bytes, size_t length, int timeout_ms)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	ssize_t got;

	if (poll(&poll_fd, 1, timeout_ms) == 0)
		return -ETIMEDOUT;
	got = recv(fd, bytes, length, 0);
	return got < 0 ? -errno : got;
}

/* Nothing comes to either; -1 for none. */
static bool are_silent(int a, int b)
{
	struct pollfd fds[2] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}};

	return poll(fds, 2, SILENCE_MS) == 0;
}

static void send_question(int fd, uint64_t cookie)
{
	struct probe_packet question;

	probe_ask(&question, cookie);
	CHECK_EQ(send(fd, &question, sizeof(question), 0), PROBE_BYTES);
}

/* Asks once and returns what is said. Fails the case when there is no answer in time. */
static struct load ask(int fd)
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
static void check_answered(struct probe_server *server, int ns, const char *host)
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

/* --- every mode ---------------------------------------------------------------------------- */

static void mode_on_lo(enum probe_mode mode)
{
	struct probe_server_stats stats;
	struct probe_server *server;

	lab_wanted();
	server = server_open(mode, "lo");
	check_answered(server, lab.server, "127.0.0.1");
	check_answered(server, lab.server, "127.0.0.77");
	check_answered(server, lab.server, "::1");
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.answered, 3);
	CHECK_EQ(stats.stale + stats.refused_source + stats.malformed, 0);
	probe_server_close(server);
}

TEST(tc_answers_on_loopback)
{
	mode_on_lo(PROBE_TC);
}

/* Filters of the clsact qdisc: what there is before Linux 6.6. */
TEST(tc_without_links_answers_on_loopback)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("probe.tcx", 1, true), 0);
	mode_on_lo(PROBE_TC);
	CHECK_LT(0, fault_fired_count());
	fault_disarm_all();
}

TEST(generic_xdp_answers_on_loopback)
{
	mode_on_lo(PROBE_XDP_GENERIC);
}

/* With checksums left open by the sender, made by software, and with one side of each kind: an
 * answer whose checksum is wrong would not reach the client's socket. */
static void mode_on_cable(enum probe_mode mode)
{
	struct probe_server *server;

	lab_wanted();
	server = server_open(mode, LAB_SERVER_CABLE);
	for (unsigned software = 0; software < 4; software++) {
		CHECK(lab_offload(LAB_SERVER_CABLE, (software & 1) == 0));
		CHECK(lab_enter(lab.client));
		CHECK(lab_offload(LAB_CLIENT_CABLE, (software & 2) == 0));
		CHECK(lab_enter(lab.server));
		check_answered(server, lab.client, LAB_SERVER4);
		check_answered(server, lab.client, LAB_SERVER6);
		check_answered(server, lab.client, LAB_SERVER_LINK6);
	}
	probe_server_close(server);
}

TEST(tc_answers_over_a_cable)
{
	mode_on_cable(PROBE_TC);
}

TEST(tc_without_links_answers_over_a_cable)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("probe.tcx", 1, true), 0);
	mode_on_cable(PROBE_TC);
	CHECK_LT(0, fault_fired_count());
	fault_disarm_all();
}

TEST(generic_xdp_answers_over_a_cable)
{
	mode_on_cable(PROBE_XDP_GENERIC);
}

/* XDP_PASS for the cable's other end: without one, veth loses what native XDP sends back. */
static int peer_pass(void)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int program, link;

	CHECK(lab_enter(lab.client));
	program = bpf_prog_load(BPF_PROG_TYPE_XDP, "pass", "GPL", pass, FM_ARRAY_COUNT(pass), NULL);
	link = program < 0 ? program
			   : bpf_link_create(
				     program, (int)if_nametoindex(LAB_CLIENT_CABLE), BPF_XDP, NULL);
	CHECK(lab_enter(lab.server));
	if (program >= 0)
		close(program);
	return link;
}

TEST(native_xdp_answers_over_a_cable)
{
	int link;

	lab_wanted();
	link = peer_pass();
	if (link < 0)
		TEST_SKIP("no native XDP on veth here");
	mode_on_cable(PROBE_XDP);
	close(link);
}

/* Without names: loopback and cable, and what goes wrong on one of them does not matter. */
TEST(all_interfaces_that_are_up_answer)
{
	struct probe_server *server;

	lab_wanted();
	fault_disarm_all();
	server = server_open(PROBE_TC, NULL);
	check_answered(server, lab.server, "127.0.0.1");
	check_answered(server, lab.server, LAB_SERVER4); /* which goes by lo */
	check_answered(server, lab.client, LAB_SERVER6);
	probe_server_close(server);
	server = server_open(PROBE_XDP_GENERIC, NULL);
	check_answered(server, lab.client, LAB_SERVER4);
	probe_server_close(server);
}

/* Of two named interfaces the second one fails: neither answers, and auto has somebody else do. */
TEST(named_interfaces_answer_all_or_not_at_all)
{
	struct probe_server_options options = {.mode = PROBE_TC,
		.port = PORT,
		.interfaces = "lo," LAB_SERVER_CABLE,
		.user_port = PORT + 1,
		.epoch = 17};
	struct probe_server *server;
	int owner, client;

	lab_wanted();
	probe_server_close(server_open(PROBE_TC, "lo")); /* skips where there is no BPF */
	fault_disarm_all();
	for (unsigned i = 0; i < 2; i++) {
		owner = owner_open(PORT);
		client = client_open(lab.server, "127.0.0.1", PORT);
		options.mode = i == 0 ? PROBE_TC : PROBE_AUTO;
		CHECK_EQ(fault_arm("probe.attach", 2, true), 0);
		CHECK_EQ(probe_server_open(&options, &server), i == 0 ? -EBUSY : 0);
		fault_disarm_all();
		send_question(client, 1);
		CHECK(are_silent(client, -1));
		close(client);
		close(owner);
	}
	CHECK_EQ(probe_server_mode(server), PROBE_USER);
	client = client_open(lab.server, "127.0.0.1", PORT + 1);
	CHECK_EQ(ask(client).flags, LOAD_UNHEALTHY);
	close(client);
	probe_server_close(server);
}

/* Its own socket and port; the reply comes from the address that was asked. */
TEST(the_responder_answers_from_the_address_it_was_asked_at)
{
	static const char *const hosts[] = {
		"127.0.0.1", "127.0.0.77", "::1", LAB_SERVER4, LAB_SERVER6, LAB_SERVER_LINK6};
	struct probe_server_stats stats;
	struct probe_server *server;

	lab_wanted();
	server = server_open(PROBE_USER, NULL);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(hosts); i++) {
		int client = client_open(i < 3 ? lab.server : lab.client, hosts[i], PORT);

		publish(server);
		CHECK_EQ(ask(client).in_flight, busy.in_flight);
		close(client);
	}
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.answered, 6);
	probe_server_close(server);
}

TEST(the_responder_says_whose_port_it_could_not_have)
{
	const struct probe_server_options options = {.mode = PROBE_USER, .port = PORT};
	struct probe_server *server;
	int owner;

	lab_wanted();
	log_set_level((enum log_level) - 1);
	owner = owner_open(PORT);
	CHECK_EQ(probe_server_open(&options, &server), -EADDRINUSE);
	close(owner);
}

/* The owner of the socket answers what the kernel does not, by the same rules. */
TEST(unusual_questions_are_left_to_the_owner_of_the_socket)
{
	struct probe_server *server;
	struct probe_server_stats stats;
	struct sockaddr_storage from;
	socklen_t from_length = sizeof(from);
	uint8_t bytes[256], no_operation[4] = {1, 1, 1, 0};
	struct load load;
	uint64_t cookie;
	int owner, client;
	size_t length;

	lab_wanted();
	server = server_open(PROBE_TC, LAB_SERVER_CABLE);
	owner = owner_open(PORT);
	client = client_open(lab.client, LAB_SERVER4, PORT);
	CHECK_EQ(setsockopt(client, IPPROTO_IP, IP_OPTIONS, no_operation, sizeof(no_operation)), 0);
	publish(server);
	send_question(client, 4711);
	CHECK_EQ(recvfrom(owner, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &from_length),
		PROBE_BYTES);
	length = probe_server_answer(server, (struct sockaddr *)&from, bytes, PROBE_BYTES, bytes);
	CHECK_EQ(length, PROBE_BYTES);
	CHECK_EQ(sendto(owner, bytes, length, 0, (struct sockaddr *)&from, from_length), length);
	CHECK_EQ(receive(client, bytes, sizeof(bytes), ANSWER_MS), PROBE_BYTES);
	CHECK(probe_parse_answer(bytes, PROBE_BYTES, &load, &cookie));
	CHECK_EQ(cookie, 4711);
	CHECK_EQ(load.in_flight, busy.in_flight);
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.answered, 1);
	close(client);
	close(owner);
	probe_server_close(server);
}

TEST(everything_that_is_no_question_reaches_the_owner)
{
	struct probe_packet packet;
	struct probe_server *server;
	struct probe_server_stats stats;
	uint8_t bytes[256];
	int owner, client;

	lab_wanted();
	server = server_open(PROBE_TC, "lo");
	owner = owner_open(PORT);
	client = client_open(lab.server, "127.0.0.1", PORT);
	for (unsigned i = 0; i < 3; i++) {
		probe_ask(&packet, 1);
		packet.version = (uint8_t)(PROBE_VERSION + (i == 0));
		packet.kind = i == 1 ? PROBE_ANSWER : PROBE_ASK;
		CHECK_EQ(send(client, &packet, i == 2 ? PROBE_BYTES - 1 : PROBE_BYTES, 0),
			i == 2 ? PROBE_BYTES - 1 : PROBE_BYTES);
		CHECK_EQ(receive(owner, bytes, sizeof(bytes), ANSWER_MS),
			i == 2 ? PROBE_BYTES - 1 : PROBE_BYTES);
	}
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.malformed, 2);
	CHECK_EQ(stats.answered, 0);
	close(client);
	close(owner);
	probe_server_close(server);
}

TEST(a_server_that_stops_publishing_becomes_unhealthy)
{
	struct probe_server *server;
	uint64_t published_ns;
	struct load load;
	int client;

	lab_wanted();
	server = server_open(PROBE_TC, "lo");
	client = client_open(lab.server, "127.0.0.1", PORT);
	CHECK_EQ(ask(client).flags, LOAD_UNHEALTHY);
	publish(server);
	published_ns = clock_now_ns();
	do {
		load = ask(client);
	} while (load.flags == 0 && clock_now_ns() - published_ns < 10 * NS_PER_S);
	CHECK_EQ(load.flags, LOAD_UNHEALTHY);
	CHECK_EQ(load.in_flight, 0);
	CHECK_LT(LOAD_STALE_NS, clock_now_ns() - published_ns);
	publish(server);
	CHECK_EQ(ask(client).flags, 0);
	close(client);
	probe_server_close(server);
}

TEST(a_source_outside_the_allowed_prefixes_gets_no_answer_in_any_mode)
{
	static const enum probe_mode modes[] = {PROBE_TC, PROBE_XDP_GENERIC, PROBE_USER};

	lab_wanted();
	for (unsigned i = 0; i < FM_ARRAY_COUNT(modes); i++) {
		const struct probe_server_options options = {.mode = modes[i],
			.port = PORT,
			.interfaces = LAB_SERVER_CABLE,
			.allow = "10.77.0.9,fd77::/64",
			.epoch = 17};
		struct probe_server *server;
		struct probe_server_stats stats;
		int four = client_open(lab.client, LAB_SERVER4, PORT);
		int six = client_open(lab.client, LAB_SERVER6, PORT), owner = -1;

		CHECK_EQ(probe_server_open(&options, &server), 0);
		if (modes[i] != PROBE_USER)
			owner = owner_open(PORT);
		send_question(four, 1);
		CHECK(are_silent(four, owner));
		CHECK_EQ(ask(six).flags, LOAD_UNHEALTHY);
		probe_server_stats(server, &stats);
		CHECK_EQ(stats.refused_source, 1);
		CHECK_EQ(stats.answered, 1);
		CHECK_EQ(stats.stale, 1);
		close(four);
		close(six);
		if (owner >= 0)
			close(owner);
		probe_server_close(server);
	}
}

TEST(servers_of_different_ports_share_an_interface)
{
	struct probe_server_options options = {
		.mode = PROBE_TC, .port = PORT + 1, .interfaces = "lo", .epoch = 17};
	struct probe_server *first, *second;

	lab_wanted();
	first = server_open(PROBE_TC, "lo");
	CHECK_EQ(probe_server_open(&options, &second), 0);
	check_answered(first, lab.server, "127.0.0.1");
	publish(second);
	probe_server_slot(second)->reports[1].in_flight = 99;
	for (unsigned i = 0; i < 2; i++) {
		int client = client_open(lab.server, "::1", PORT + 1);

		CHECK_EQ(ask(client).in_flight, 99);
		close(client);
		if (i == 0)
			probe_server_close(first);
	}
	probe_server_close(second);
}

/* --- servers that are killed --------------------------------------------------------------- */

/* A server of one kernel filter (any hook) in a process of its own; it says when it stands. */
static pid_t server_fork(enum probe_hook hook, int exit_status)
{
	int ready[2], status;
	char byte;
	pid_t pid;

	CHECK_EQ(pipe(ready), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct probe_filter filter = {0};
		struct probe_kernel_options options = {.port = PORT, .filter = &filter};
		struct probe_interface lo[PROBE_INTERFACES_MAX];
		struct load_report report = {.stamp_ns = clock_now_ns()};
		struct probe_kernel *kernel;
		unsigned count;

		if (probe_kernel_open(&options, &kernel, NULL) != 0)
			_exit(TEST_EXIT_SKIP);
		if (probe_interfaces("lo", lo, &count) != 0 ||
			probe_kernel_attach(kernel, lo, hook) != 0)
			_exit(hook == PROBE_HOOK_TCX ? TEST_EXIT_SKIP : 1); /* not before 6.6 */
		probe_kernel_slot(kernel)->epoch = 17;
		load_publish(probe_kernel_slot(kernel), &report);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		if (exit_status >= 0)
			exit(exit_status);
		for (;;)
			pause();
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1) {
		CHECK_EQ(waitpid(pid, &status, 0), pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == TEST_EXIT_SKIP);
		TEST_SKIP(probe_hook_name(hook));
	}
	close(ready[0]);
	return pid;
}

static void server_kill(pid_t pid, int with)
{
	if (with != 0)
		kill(pid, with);
	CHECK_EQ(waitpid(pid, NULL, 0), pid);
}

/* Filters of tc stay: they answer, but nothing good. */
TEST(what_a_killed_server_left_behind_is_unhealthy_and_its_successor_replaces_it)
{
	struct probe_server *server;
	uint64_t killed_ns;
	struct load load;
	int client;

	lab_wanted();
	for (unsigned round = 0; round < 2; round++) {
		server_kill(server_fork(PROBE_HOOK_TC, -1), SIGKILL);
		killed_ns = clock_now_ns();
		client = client_open(lab.server, "127.0.0.1", PORT);
		do {
			load = ask(client);
		} while (load.flags == 0 && clock_now_ns() - killed_ns < 10 * NS_PER_S);
		CHECK_EQ(load.flags, LOAD_UNHEALTHY);
		if (round == 0)
			continue; /* the second server replaces the first one's filter */
		server = server_open(PROBE_TC, "lo");
		check_answered(server, lab.server, "127.0.0.1");
		probe_server_close(server);
		send_question(client, 1);
		CHECK(receive(client, &load, sizeof(load), SILENCE_MS) < 0); /* nothing is left */
		close(client);
	}
}

/* Where there are links, nothing stays: the port is closed, and the client is told so. */
TEST(a_killed_server_with_a_link_leaves_nothing)
{
	static const enum probe_hook hooks[] = {PROBE_HOOK_TCX, PROBE_HOOK_XDP_GENERIC};
	uint8_t bytes[256];

	lab_wanted();
	for (unsigned i = 0; i < FM_ARRAY_COUNT(hooks); i++) {
		int client = client_open(lab.server, "127.0.0.1", PORT);
		pid_t pid;

		if (hooks[i] == PROBE_HOOK_XDP_GENERIC) {
			struct probe_server *server = server_open(PROBE_XDP_GENERIC, "lo");

			check_answered(server, lab.server, "127.0.0.1");
			probe_server_close(server);
			send_question(client, 1);
		} else {
			pid = server_fork(hooks[i], -1);
			CHECK_EQ(ask(client).epoch, 17);
			server_kill(pid, SIGTERM);
			send_question(client, 1);
		}
		CHECK_EQ(receive(client, bytes, sizeof(bytes), ANSWER_MS), -ECONNREFUSED);
		close(client);
	}
}

TEST(exit_takes_filters_of_tc_off)
{
	uint8_t bytes[256];
	int client;

	lab_wanted();
	client = client_open(lab.server, "127.0.0.1", PORT);
	server_kill(server_fork(PROBE_HOOK_TC, 0), 0);
	send_question(client, 1);
	CHECK_EQ(receive(client, bytes, sizeof(bytes), ANSWER_MS), -ECONNREFUSED);
	close(client);
}

/* --- rights -------------------------------------------------------------------------------- */

static void keep_rights(uint64_t rights)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
		{.effective = (uint32_t)rights, .permitted = (uint32_t)rights},
		{.effective = (uint32_t)(rights >> 32), .permitted = (uint32_t)(rights >> 32)},
	};

	if (syscall(SYS_capset, &header, data) != 0)
		_exit(3);
}

/* Opens a server with these rights alone, in a child; returns its mode, and its log in text. */
static enum probe_mode mode_with_rights(
	const struct probe_server_options *options, uint64_t rights, char *text, size_t size)
{
	char path[] = "/tmp/fm-probe-test-XXXXXX";
	int file = mkstemp(path), status;
	ssize_t length;
	pid_t pid;

	CHECK(file >= 0);
	fchmod(file, 0666);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct probe_server *server;

		log_set_level(LOG_INFO);
		if (log_open(path) != 0)
			_exit(4);
		keep_rights(rights);
		if (probe_server_open(options, &server) != 0)
			_exit(5);
		status = (int)probe_server_mode(server);
		probe_server_close(server);
		_exit(0x40 | status);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	length = pread(file, text, size - 1, 0);
	text[FM_MAX(length, 0)] = '\0';
	close(file);
	unlink(path);
	CHECK(WIFEXITED(status) && (WEXITSTATUS(status) & 0x40) != 0);
	return (enum probe_mode)(WEXITSTATUS(status) & 0x3f);
}

#define RIGHTS_NEEDED (1ull << CAP_BPF | 1ull << CAP_NET_ADMIN)

TEST(two_capabilities_are_enough_for_the_kernel_to_answer)
{
	const struct probe_server_options options = {.port = PORT, .interfaces = "lo"};
	char text[4096];

	lab_wanted();
	server_kill(server_fork(PROBE_HOOK_TC, 0), 0); /* skips where there is no BPF at all */
	CHECK_EQ(mode_with_rights(&options, RIGHTS_NEEDED, text, sizeof(text)), PROBE_TC);
	CHECK_CONTAINS(text, "probe: mode=tc port=7500");
}

TEST(without_rights_auto_falls_back_and_says_why)
{
	struct probe_server_options options = {.port = PORT, .interfaces = "lo"};
	char text[4096];

	lab_wanted();
	CHECK_EQ(mode_with_rights(&options, 0, text, sizeof(text)), PROBE_NONE);
	CHECK_CONTAINS(text, "probe: mode=none port=7500: tc: ");
	CHECK_CONTAINS(text, "CAP_BPF and CAP_NET_ADMIN");
	CHECK_CONTAINS(text, "user: it has no port of its own");
	options.user_port = PORT + 1;
	CHECK_EQ(mode_with_rights(&options, 0, text, sizeof(text)), PROBE_USER);
	CHECK_CONTAINS(text, "probe: mode=user port=7500: tc: ");
	CHECK_EQ(mode_with_rights(&options, 1ull << CAP_BPF, text, sizeof(text)), PROBE_USER);
	CHECK_EQ(mode_with_rights(&options, 1ull << CAP_NET_ADMIN, text, sizeof(text)), PROBE_USER);
}

TEST(a_mode_asked_for_by_name_is_that_or_an_error)
{
	struct probe_server_options options = {.mode = PROBE_XDP, .port = PORT, .interfaces = "lo"};
	struct probe_server *server;

	lab_wanted();
	log_set_level((enum log_level) - 1);
	CHECK_LT(probe_server_open(&options, &server), 0); /* lo has no native XDP */
	options.mode = PROBE_TC;
	options.interfaces = "lo,nosuch0";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.interfaces = "lo,";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.interfaces = "lo";
	options.allow = "10.0.0.0/99";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.allow = NULL;
	options.port = 0;
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.port = PORT;
	options.mode = PROBE_NONE;
	CHECK_EQ(probe_server_open(&options, &server), 0);
	CHECK_NE(probe_server_slot(server)->epoch, 0);
	CHECK_EQ(probe_server_slot(server)->port, PORT);
	probe_server_close(server);
	probe_server_close(NULL);
}

/* In a time namespace CLOCK_MONOTONIC is an hour behind the kernel's. */
TEST(a_server_in_a_time_namespace_is_as_fresh_as_any)
{
	static const char offsets[] = "monotonic -3600 0\n";
	int fd, status;
	pid_t pid;

	lab_wanted();
	probe_server_close(server_open(PROBE_TC, "lo"));
	if (clock_now_ns() < 3700 * NS_PER_S)
		TEST_SKIP("the machine has not been up for an hour");
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
		if (unshare(CLONE_NEWTIME) != 0 || fd < 0 ||
			write(fd, offsets, sizeof(offsets) - 1) != (ssize_t)sizeof(offsets) - 1)
			_exit(TEST_EXIT_SKIP);
		pid = fork(); /* the first one inside */
		if (pid == 0) {
			struct probe_server *server = server_open(PROBE_TC, "lo");

			check_answered(server, lab.server, "127.0.0.1");
			probe_server_close(server);
			_exit(0);
		}
		_exit(waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
									   : 1);
	}
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK(WIFEXITED(status));
	if (WEXITSTATUS(status) == TEST_EXIT_SKIP)
		TEST_SKIP("no time namespaces here");
	CHECK_EQ(WEXITSTATUS(status), 0);
}

/* --- a writer at work ---------------------------------------------------------------------- */

struct writer {
	struct load_slot *slot;
	_Atomic bool stop;
};

/* Reports whose numbers belong together, as fast as possible. */
static void *writer_run(void *argument)
{
	struct writer *writer = argument;

	for (uint32_t i = 1; !atomic_load(&writer->stop); i++) {
		const struct load_report report = {
			.stamp_ns = clock_now_ns(),
			.free_bytes = (uint64_t)i << 32 | (i & 0xffff),
			.delay_ns = i,
			.in_flight = (uint16_t)i,
		};

		load_publish(writer->slot, &report);
	}
	return NULL;
}

TEST(answers_are_never_torn_by_a_writer_at_work)
{
	struct writer writer = {0};
	struct probe_server *server;
	unsigned healthy = 0;
	pthread_t thread;
	int client;

	lab_wanted();
	server = server_open(PROBE_TC, "lo");
	client = client_open(lab.server, "127.0.0.1", PORT);
	writer.slot = probe_server_slot(server);
	CHECK_EQ(pthread_create(&thread, NULL, writer_run, &writer), 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct load load = ask(client);

		if ((load.flags & LOAD_UNHEALTHY) != 0)
			continue;
		healthy++;
		CHECK_EQ(load.in_flight, load.delay_ns & 0xffff);
		CHECK_EQ(load.free_bytes, (uint64_t)load.delay_ns << 32 | load.in_flight);
	}
	atomic_store(&writer.stop, true);
	pthread_join(thread, NULL);
	CHECK_LT(10000, healthy);
	close(client);
	probe_server_close(server);
}
