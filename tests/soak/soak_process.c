/*
 * tests/soak/soak_process.c: starting processes, and finding those nobody started for us: agents
 * and embedded nodes are their own session's, known by the paths in their command lines.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define TEXT_MAX 8192

static void child_redirect(const char *path, int fd)
{
	int file = open(path ? path : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (file < 0 || dup2(file, fd) < 0)
		_exit(126);
}

static _Noreturn void child_run(const struct start *start)
{
	int null = open("/dev/null", O_RDONLY);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0)
		_exit(126);
	child_redirect(start->out, STDOUT_FILENO);
	child_redirect(start->log, STDERR_FILENO);
	for (int fd = 3; fd < 64; fd++)
		if (fd != start->keep_fd)
			close(fd);
	for (unsigned i = 0; i < 4 && start->environment[i]; i++)
		putenv((char *)(uintptr_t)start->environment[i]);
	execvp(start->words[0], (char *const *)(uintptr_t)start->words);
	_exit(127);
}

pid_t process_start(const struct start *start)
{
	pid_t pid = fork();

	if (pid == 0)
		child_run(start);
	if (pid < 0)
		soak_fail("cannot start %s: %s", start->words[0], strerror(errno));
	return pid;
}

int process_reap(pid_t pid, int *status)
{
	return waitpid(pid, status, WNOHANG) == pid;
}

char *process_ending(int status, char *text, unsigned size)
{
	if (WIFSIGNALED(status))
		snprintf(text, size, "killed by signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	else
		snprintf(text, size, "status %d", WEXITSTATUS(status));
	return text;
}

int process_run(const struct start *start, uint64_t timeout_ns)
{
	uint64_t until_ns = clock_now_ns() + timeout_ns;
	pid_t pid = process_start(start);
	int status = 0;

	while (pid > 0 && !process_reap(pid, &status)) {
		if (clock_now_ns() > until_ns) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return 124;
		}
		poll(NULL, 0, 2);
	}
	if (pid < 0)
		return 127;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* A file of /proc/PID: its length in text, which ends with a NUL. */
static size_t proc_read(pid_t pid, const char *file, char *text, size_t size)
{
	char path[64];
	size_t used = 0;
	ssize_t got = 0;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && used < size - 1 && (got = read(fd, text + used, size - 1 - used)) > 0)
		used += (size_t)got;
	if (fd >= 0)
		close(fd);
	text[used] = '\0';
	return used;
}

/* The number after "NAME:" in /proc/PID/status, or -1. */
static double proc_status(pid_t pid, const char *name)
{
	static char text[TEXT_MAX];
	const char *at;

	proc_read(pid, "status", text, sizeof text);
	at = strstr(text, name);
	return at ? strtod(at + strlen(name), NULL) : -1;
}

static bool arguments_have(const char *text, size_t length, const char *part, bool at_end)
{
	for (const char *at = text; at < text + length; at += strlen(at) + 1) {
		size_t whole = strlen(at), wanted = strlen(part);

		if (at_end ? whole >= wanted && strcmp(at + whole - wanted, part) == 0
			   : strstr(at, part) != NULL)
			return true;
	}
	return false;
}

bool process_argument_ends(pid_t pid, const char *end)
{
	static char text[TEXT_MAX];
	size_t length = proc_read(pid, "cmdline", text, sizeof text);

	return arguments_have(text, length, end, true);
}

void process_each(
	const char *text, void (*each)(void *context, pid_t pid, const char *name), void *context)
{
	static char arguments[TEXT_MAX];
	const struct dirent *entry;
	DIR *proc = opendir("/proc");

	while (proc && (entry = readdir(proc))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		char name[64];
		size_t length;

		if (pid <= 0 || pid == getpid())
			continue;
		length = proc_read(pid, "cmdline", arguments, sizeof arguments);
		if (!arguments_have(arguments, length, text, false))
			continue;
		proc_read(pid, "comm", name, sizeof name);
		name[strcspn(name, "\n")] = '\0';
		each(context, pid, name);
	}
	if (proc)
		closedir(proc);
}

bool process_is_agent(const char *name)
{
	return strncmp(name, "farmem-agent", 12) == 0 || strncmp(name, "farmem-worker", 13) == 0;
}

pid_t process_parent(pid_t pid)
{
	return (pid_t)proc_status(pid, "\nPPid:");
}

double process_anonymous_kib(pid_t pid)
{
	return proc_status(pid, "\nRssAnon:");
}
