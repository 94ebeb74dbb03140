/*
 * farmem/mailbox_start.c: see mailbox_start.h. Caller: mailbox.c, on a runtime thread of the
 * program.
 *
 *     runtime thread --clone--> middle --clone--> agent (execve)
 *                                 exits at once, reaped by us
 *
 * Both clones are CLONE_VM | CLONE_VFORK: nothing of the program's memory is copied or
 * write-protected, and the caller stands still while they use it. The exit signal is 0: the program
 * gets no SIGCHLD, and its wait() calls, which look for ordinary children, do not see the middle.
 *
 * Invariants
 *   1. Between clone and execve there are system calls and stores to struct launch only: no malloc,
 *      no lock, no look at `environ` or at far-capable memory (invariant 8 of the design).
 *   2. All signals are blocked from before the first clone until the agent has default handlers, so
 *      that none of the program's handlers runs in a process that shares its memory.
 *   3. The waiting thread returns at its deadline, whatever the agent does.
 */
#include "farmem/mailbox_start.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define ENVIRONMENT_BYTES_MAX (4u << 20)
#define ENVIRONMENT_COUNT_MAX 16384u
#define STACK_BYTES (64u << 10) /* of each of the two processes until exec */
#define PATH_BYTES 4096
#define AGENT_NAME "farmem-agent"
#define AGENT_READY_FD 3
#define SIGNALS_MAX 64

/* ---- environment ---- */

static ssize_t file_read(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	if (fd < 0)
		return -errno;
	while (length < size) {
		ssize_t got = read(fd, text + length, size - length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		length += (size_t)got;
	}
	close(fd);
	return (ssize_t)length;
}

static void environment_index(struct mailbox_environment *environment)
{
	char *at = environment->text;
	char *end = environment->text + environment->length;
	while (at < end && environment->count + 1 < ENVIRONMENT_COUNT_MAX) {
		/* The program may have written over its strings (setproctitle): take what looks
		 * right. */
		if (strchr(at, '=') != NULL && strncmp(at, "LD_PRELOAD=", 11) != 0)
			environment->pointers[environment->count++] = at;
		at += strlen(at) + 1;
	}
	environment->pointers[environment->count] = NULL;
}

int mailbox_environment_open(struct mailbox_environment *environment)
{
	memset(environment, 0, sizeof *environment);
	environment->text = mem_map(ENVIRONMENT_BYTES_MAX);
	environment->pointers = mem_map(ENVIRONMENT_COUNT_MAX * sizeof(char *));
	if (environment->text == NULL || environment->pointers == NULL) {
		mailbox_environment_close(environment);
		return -ENOMEM;
	}
	ssize_t length =
		file_read("/proc/self/environ", environment->text, ENVIRONMENT_BYTES_MAX - 1);
	environment->length = length > 0 ? (size_t)length : 0;
	environment_index(environment);
	return 0;
}

void mailbox_environment_close(struct mailbox_environment *environment)
{
	mem_unmap(environment->text, ENVIRONMENT_BYTES_MAX);
	mem_unmap(environment->pointers, ENVIRONMENT_COUNT_MAX * sizeof(char *));
	memset(environment, 0, sizeof *environment);
}

const char *mailbox_environment_get(const struct mailbox_environment *environment, const char *name)
{
	size_t length = strlen(name);
	for (unsigned i = 0; i < environment->count; i++)
		if (strncmp(environment->pointers[i], name, length) == 0 &&
			environment->pointers[i][length] == '=')
			return environment->pointers[i] + length + 1;
	return NULL;
}

/* ---- where the agent's program is ---- */

/*
 * Directory of the file this code was loaded from: the library in somebody's program, or a test.
 * From /proc/self/maps, because dladdr takes the loader's lock, which a thread waiting for us may
 * hold.
 */
static int own_directory(char *directory)
{
	const uint64_t size = 8u << 20;
	char *maps = mem_map(size);
	if (maps == NULL)
		return -ENOMEM;
	int error = -ENOENT;
	ssize_t length = file_read("/proc/self/maps", maps, size - 1);
	uintptr_t own = (uintptr_t)own_directory;
	for (char *line = maps; length > 0 && line != NULL && *line != '\0';) {
		char *end = strchr(line, '\n');
		unsigned long from, to;
		if (end != NULL)
			*end = '\0';
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && own >= from && own < to) {
			char *path = strchr(line, '/');
			char *slash = path != NULL ? strrchr(path, '/') : NULL;
			if (slash != NULL && slash - path < PATH_BYTES - 64) {
				*slash = '\0';
				memcpy(directory, path, (size_t)(slash - path) + 1);
				error = 0;
			}
			break;
		}
		line = end != NULL ? end + 1 : NULL;
	}
	mem_unmap(maps, size);
	return error;
}

/* FARMEM_BIN, else beside us (build tree), else the places of an installation. */
static int agent_find(const struct mailbox_environment *environment, char path[PATH_BYTES])
{
	static const char *const places[] = {
		"", "/../libexec/farmem", "/../../libexec/farmem", "/../../../libexec/farmem"};
	const char *given = mailbox_environment_get(environment, "FARMEM_BIN");
	if (given != NULL && given[0] != '\0') {
		int length = snprintf(path, PATH_BYTES, "%s/" AGENT_NAME, given);
		return length < PATH_BYTES && access(path, X_OK) == 0 ? 0 : -ENOENT;
	}
	char directory[PATH_BYTES];
	int error = own_directory(directory);
	for (unsigned i = 0; error == 0 && i < FM_ARRAY_COUNT(places); i++) {
		snprintf(path, PATH_BYTES, "%.4000s%s/" AGENT_NAME, directory, places[i]);
		if (access(path, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

/* ---- the two processes ---- */

/* Their stack frames end by exec and _exit, not by returning: sanitizers keep books of frames. */
#define LAUNCH_FUNCTION __attribute__((no_sanitize("address", "thread", "undefined")))

struct launch {
	const char *path;
	char *const *argv;
	char *const *envp;
	int ready_fd;
	char *agent_stack; /* its top */
	int error;         /* of whatever failed; written by processes that share our memory */
};

LAUNCH_FUNCTION static void signals_default(void)
{
	/* The kernel's own layout: libc's sigaction refuses signals 32 and 33. */
	const struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} standard = {0};
	const uint64_t none = 0;
	for (int number = 1; number <= SIGNALS_MAX; number++)
		syscall(SYS_rt_sigaction, number, &standard, NULL, sizeof none);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof none);
}

/* The agent until its exec: nothing inherited but 0, 1, 2 (of /dev/null) and the ready pipe. */
LAUNCH_FUNCTION static int launch_agent(void *argument)
{
	struct launch *launch = argument;
	int ready = fcntl(launch->ready_fd, F_DUPFD, AGENT_READY_FD + 1);
	int null = open("/dev/null", O_RDWR);
	if (ready < 0 || null < 0)
		goto fail;
	for (int fd = 0; fd <= 2; fd++)
		if (dup2(null, fd) < 0)
			goto fail;
	if (dup2(ready, AGENT_READY_FD) < 0 ||
		syscall(SYS_close_range, AGENT_READY_FD + 1, ~0u, 0) != 0)
		goto fail;
	signals_default();
	execve(launch->path, launch->argv, launch->envp);
fail:
	launch->error = -errno;
	_exit(127);
}

LAUNCH_FUNCTION static int launch_middle(void *argument)
{
	struct launch *launch = argument;
	setsid();
	if (chdir("/") != 0 ||
		clone(launch_agent, launch->agent_stack, CLONE_VM | CLONE_VFORK, launch) < 0)
		launch->error = -errno;
	_exit(0);
}

static int launch_run(struct launch *launch)
{
	char *stacks = mem_map(2 * STACK_BYTES);
	uint64_t all = ~0ull, before;
	if (stacks == NULL)
		return -ENOMEM;
	launch->agent_stack = stacks + 2 * STACK_BYTES;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, sizeof all);
	pid_t middle = clone(launch_middle, stacks + STACK_BYTES, CLONE_VM | CLONE_VFORK, launch);
	int error = middle < 0 ? -errno : 0;
	if (middle > 0)
		syscall(SYS_wait4, middle, NULL, __WCLONE, NULL);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, sizeof before);
	mem_unmap(stacks, 2 * STACK_BYTES);
	return error != 0 ? error : launch->error;
}

/* ---- readiness: one line on the pipe: "ready", or what is wrong ---- */

static int ready_wait(int fd, uint64_t deadline_ns)
{
	char line[512];
	size_t length = 0;
	for (;;) {
		uint64_t now_ns = clock_now_ns();
		struct pollfd poller = {.fd = fd, .events = POLLIN};
		if (now_ns >= deadline_ns)
			return -ETIMEDOUT;
		if (poll(&poller, 1, (int)FM_MIN((deadline_ns - now_ns) / NS_PER_MS + 1, 1000u)) <=
			0)
			continue;
		ssize_t got = read(fd, line + length, sizeof line - 1 - length);
		if (got < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (got > 0)
			length += (size_t)got;
		line[length] = '\0';
		if (got > 0 && strchr(line, '\n') == NULL && length < sizeof line - 1)
			continue;
		if (strncmp(line, "ready", 5) == 0)
			return 0;
		line[strcspn(line, "\n")] = '\0';
		log_error("agent: %s", length != 0 ? line : "it ended at once");
		return -ECHILD;
	}
}

int mailbox_start_agent(
	const char *tree_dir, const struct mailbox_environment *environment, uint64_t deadline_ns)
{
	char path[PATH_BYTES];
	char ready[4] = {'0' + AGENT_READY_FD, '\0'};
	char name[] = AGENT_NAME, dir_flag[] = "--dir", ready_flag[] = "--ready-fd";
	char *argv[] = {name, dir_flag, (char *)(uintptr_t)tree_dir, ready_flag, ready, NULL};
	int pipe_fds[2];
	int error = agent_find(environment, path);
	if (error != 0)
		return error;
	if (pipe2(pipe_fds, O_CLOEXEC) != 0)
		return -errno;
	struct launch launch = {
		.path = path, .argv = argv, .envp = environment->pointers, .ready_fd = pipe_fds[1]};
	error = launch_run(&launch);
	close(pipe_fds[1]);
	if (error == 0)
		error = ready_wait(pipe_fds[0], deadline_ns);
	close(pipe_fds[0]);
	return error;
}
