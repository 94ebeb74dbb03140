/*
 * rpc/urpc_syscall_test.c: how many system calls a round trip costs.
 *
 * A child runs a server and a client that both sleep at once; this process traces it (ptrace) and
 * counts the system calls of all its threads between two marks.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "rpc/urpc_pair_test.h"

#define ROUND_TRIPS 300u
#define MARK 0x5eed /* close() of a descriptor nobody has */

static void round_trip(struct urpc_client *client, uint32_t peer)
{
	struct urpc_request request = {
		.peer = peer, .method = ECHO, .deadline_ns = clock_now_ns() + 5 * NS_PER_S};
	struct urpc_completion completion;
	uint64_t id;

	if (urpc_client_send(client, &request, &id) != 0 ||
		urpc_client_wait(client, clock_now_ns() + 5 * NS_PER_S) != 0 ||
		urpc_client_poll(client, &completion, 1) != 1 || completion.status != 0)
		_exit(1);
}

static void child_run(const char *listen)
{
	struct urpc_server_options options = {.listen = listen,
		.methods = methods,
		.methods_count = FM_ARRAY_COUNT(methods),
		.spin_ns = 1};
	struct urpc_client_options client_options = {.spin_ns = 1};
	struct urpc_server *server;
	struct urpc_client *client;
	char address[32];
	uint32_t peer;

	if (urpc_server_open(&options, &server) != 0 || urpc_server_start(server) != 0 ||
		urpc_client_open(&client_options, &client) != 0)
		_exit(1);
	snprintf(address, sizeof(address), "127.0.0.1:%u", urpc_server_port(server));
	if (urpc_client_add(client, address, &peer) != 0)
		_exit(1);
	for (unsigned i = 0; i < 10; i++)
		round_trip(client, peer);
	close(MARK);
	for (unsigned i = 0; i < ROUND_TRIPS; i++)
		round_trip(client, peer);
	close(MARK);
	_exit(0);
}

struct counts {
	bool counting;
	unsigned sends, receives, others;
	long other; /* one of them */
};

static void count(struct counts *counts, pid_t pid)
{
	struct __ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof(info), &info) <= 0 ||
		info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return;
	if (info.entry.nr == SYS_close && info.entry.args[0] == MARK) {
		counts->counting = !counts->counting;
		return;
	}
	if (!counts->counting)
		return;
	switch (info.entry.nr) {
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
		counts->sends++;
		break;
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
		counts->receives++;
		break;
	default:
		counts->others++;
		counts->other = (long)info.entry.nr;
	}
}

/* Runs the child to its end. Its exit status. */
static int trace(pid_t child, struct counts *counts)
{
	int status;

	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		int signal_number = 0;

		CHECK(pid > 0);
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (pid == child)
				return status;
			continue;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			count(counts, pid);
		else if (WSTOPSIG(status) != SIGTRAP && WSTOPSIG(status) != SIGSTOP)
			signal_number = WSTOPSIG(status);
		if (ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(uintptr_t)signal_number) != 0)
			CHECK_EQ(errno, ESRCH);
	}
}

TEST(a_sleeping_round_trip_is_one_send_and_one_receive_at_each_end)
{
	struct counts counts = {0};
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
			_exit(TEST_EXIT_SKIP);
		raise(SIGSTOP);
		child_run("127.0.0.1:0");
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == TEST_EXIT_SKIP)
		TEST_SKIP("ptrace is not allowed here");
	CHECK(WIFSTOPPED(status));
	CHECK_EQ(ptrace(PTRACE_SETOPTIONS, child, NULL,
			 (void *)(uintptr_t)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE |
					     PTRACE_O_EXITKILL)),
		0);
	CHECK_EQ(ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
	CHECK_EQ(trace(child, &counts), 0);
	printf("    %u round trips: %u sends, %u receives, %u others (the last %ld)\n", ROUND_TRIPS,
		counts.sends, counts.receives, counts.others, counts.other);
	CHECK_EQ(counts.sends, 2 * ROUND_TRIPS);
	/* a sleep is cut into ticks of 10 ms: a machine that stalls makes a few more receives */
	CHECK_LE(2 * ROUND_TRIPS, counts.receives);
	CHECK_LE(counts.receives, 2 * ROUND_TRIPS + ROUND_TRIPS / 2);
	CHECK_LE(counts.others, 5);
}
