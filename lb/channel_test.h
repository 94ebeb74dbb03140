/*
 * lb/channel_test.h: the servers of lb/channel_test.c: processes that can be killed, and threads of
 * the test's own process. Included once.
 */
#ifndef FM_LB_CHANNEL_TEST_H
#define FM_LB_CHANNEL_TEST_H

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/test.h"
#include "farmem/rpc.h"

/* --- servers ------------------------------------------------------------------------------------
 */

#define SERVERS_MAX 8
enum { METHOD_ECHO = 1, METHOD_SLEEP, METHOD_FAIL, METHOD_NUMBER };

static uint64_t server_number; /* of this process, when it is a server's */
static _Atomic uint64_t sleeps_begun;

static void pause_ns(uint64_t ns)
{
	struct timespec pause = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};

	nanosleep(&pause, NULL);
}

static int handle_echo(struct fm_rpc_request *request)
{
	if (request->req_bytes > request->resp_capacity)
		return -EMSGSIZE;
	if (request->req_bytes > 0)
		memcpy(request->resp, request->req, request->req_bytes);
	request->resp_bytes = request->req_bytes;
	return 0;
}

/* The request: how many milliseconds, a byte. */
static int handle_sleep(struct fm_rpc_request *request)
{
	if (request->req_bytes != 1)
		return -EINVAL;
	atomic_fetch_add(&sleeps_begun, 1);
	pause_ns(*(const uint8_t *)request->req * NS_PER_MS);
	return 0;
}

static int handle_fail(struct fm_rpc_request *request)
{
	(void)request;
	return -EPERM;
}

static int handle_number(struct fm_rpc_request *request)
{
	if (request->resp_capacity < sizeof(server_number))
		return -EMSGSIZE;
	memcpy(request->resp, &server_number, sizeof(server_number));
	request->resp_bytes = sizeof(server_number);
	return 0;
}

static const struct fm_rpc_method methods[] = {
	{.id = METHOD_SLEEP, .handle = handle_sleep},
	{.id = METHOD_ECHO, .handle = handle_echo},
	{.id = METHOD_NUMBER, .handle = handle_number},
	{.id = METHOD_FAIL, .handle = handle_fail},
};

static struct fm_rpc_server *serve(const char *listen, unsigned workers, unsigned queue_max)
{
	struct fm_rpc_server_options options = {
		.listen = listen,
		.methods = methods,
		.methods_count = FM_ARRAY_COUNT(methods),
		.workers = workers,
		.queue_max = queue_max,
		.handlers_block = 1,
		.probe = "user",
	};
	struct fm_rpc_server *server;

	return fm_rpc_server_open(&server, &options) == 0 ? server : NULL;
}

struct process {
	pid_t pid;
	uint16_t port;
};

/* A server in a process of its own; port 0: any. */
static struct process process_start(uint16_t port, unsigned number)
{
	struct process process = {.port = port};
	char listen[32];
	int told[2];

	CHECK_EQ(pipe(told), 0);
	process.pid = fork();
	CHECK(process.pid >= 0);
	if (process.pid == 0) {
		struct fm_rpc_server *server;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		server_number = number;
		snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
		server = serve(listen, 1, 64);
		port = server != NULL ? fm_rpc_server_port(server) : 0;
		if (write(told[1], &port, sizeof(port)) != sizeof(port))
			_exit(1);
		for (;;)
			pause();
	}
	close(told[1]);
	CHECK_EQ(read(told[0], &process.port, sizeof(process.port)), sizeof(process.port));
	close(told[0]);
	CHECK(process.port != 0);
	return process;
}

static void process_kill(struct process *process)
{
	if (process->pid > 0) {
		kill(process->pid, SIGKILL);
		waitpid(process->pid, NULL, 0);
	}
	process->pid = 0;
}

static struct process processes[SERVERS_MAX];
static unsigned processes_count;
static char servers[SERVERS_MAX * 32];

static void processes_start(unsigned count)
{
	size_t at = 0;

	for (unsigned i = 0; i < SERVERS_MAX; i++) /* those of a case that failed */
		process_kill(&processes[i]);
	processes_count = count;
	for (unsigned i = 0; i < count; i++) {
		processes[i] = process_start(0, i);
		at += (size_t)snprintf(servers + at, sizeof(servers) - at, "%s127.0.0.1:%u",
			i > 0 ? "," : "", processes[i].port);
	}
}

static void processes_end(void)
{
	for (unsigned i = 0; i < processes_count; i++)
		process_kill(&processes[i]);
}

/* --- servers in this process
 * ----------------------------------------------------------------------
 */

static struct fm_rpc_server *near[SERVERS_MAX];

static void near_open(unsigned count, unsigned workers, unsigned queue_max)
{
	size_t at = 0;

	for (unsigned i = 0; i < count; i++) {
		near[i] = serve("127.0.0.1:0", workers, queue_max);
		CHECK(near[i] != NULL);
		at += (size_t)snprintf(servers + at, sizeof(servers) - at, "%s127.0.0.1:%u",
			i > 0 ? "," : "", fm_rpc_server_port(near[i]));
	}
	near[count] = NULL;
}

static void near_close(void)
{
	for (unsigned i = 0; near[i] != NULL; i++)
		fm_rpc_server_close(near[i]);
	near[0] = NULL;
}

#endif
