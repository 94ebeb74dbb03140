/*
 * lb/probe_life_test.c: probe servers that are killed and come back, that end by exit(), that lack
 * rights, that live in a time namespace.
 */
#include <linux/capability.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lb/probe_client_test.h"
#include "lb/probe_kernel.h"

/* --- servers that are killed --------------------------------------------------------------- */

/* A server of one kernel filter (any hook) in a process of its own; it says when it stands. */
static pid_t server_fork(enum probe_hook hook, int exit_status)
{
	int ready[2], status;
	char byte, reason[64];
	pid_t pid;

	CHECK_EQ(pipe(ready), 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct probe_filter filter = {0};
		struct probe_kernel_options options = {.place = {.port = PORT}, .filter = &filter};
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
		snprintf(reason, sizeof(reason), "this kernel has no %s", probe_hook_name(hook));
		TEST_SKIP(reason);
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
	static const enum probe_mode modes[] = {PROBE_AUTO, PROBE_TC, PROBE_XDP_GENERIC};
	struct probe_server_options options = {.port = PORT, .interfaces = "lo"};
	char text[4096];

	lab_wanted();
	server_kill(server_fork(PROBE_HOOK_TC, 0), 0); /* skips where there is no BPF at all */
	for (unsigned i = 0; i < FM_ARRAY_COUNT(modes); i++) {
		options.mode = modes[i];
		for (unsigned filtered = 0; filtered < 2; filtered++) {
			options.allow = filtered ? "127.0.0.0/8" : NULL;
			options.address = filtered ? "127.0.0.1" : NULL;
			CHECK_EQ(mode_with_rights(&options, RIGHTS_NEEDED, text, sizeof(text)),
				modes[i] == PROBE_AUTO ? PROBE_TC : modes[i]);
		}
	}
	CHECK_CONTAINS(text, "probe: mode=xdp-generic port=7500");
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

/* --- clocks -------------------------------------------------------------------------------- */

static void time_traveller(void)
{
	struct probe_server *server = server_open(PROBE_TC, "lo");
	int client = client_open(lab.server, "127.0.0.1", PORT);
	uint64_t end_ns = clock_now_ns() + 5 * NS_PER_S;
	struct load load;

	do {
		publish_at(server, clock_now_ns());
		load = ask(client);
	} while (load.flags != 0 && clock_now_ns() < end_ns);
	CHECK_EQ(load.in_flight, busy.in_flight);
	close(client);
	probe_server_close(server);
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
			time_traveller();
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
