/*
 * tests/e2e/tool.c: what the shell cannot do without sleeping or guessing. Called by lib.sh and the
 * cases.
 *
 *   e2e_tool await SECONDS PID...       waits (pidfd) until all are gone: 0, or 1 when time is up
 *   e2e_tool line SECONDS FILE REGEX    waits (inotify) until the file has such a line: 0, or 1
 * when time is up e2e_tool ports N                    N TCP ports of 127.0.0.1 that were free just
 * now e2e_tool lines MB BYTES SEED        text: lines of so many bytes, random, to standard output
 *   e2e_tool throw PORT SEED ROUNDS     garbage, truncated and oversized frames at a daemon; 0 when
 * the daemon accepted every connection e2e_tool procs KEY=VALUE            processes with that in
 * their environment (pid and name), but not us e2e_tool limit MB COMMAND...        execs the
 * command with RLIMIT_AS of so much
 *   e2e_tool peak COMMAND...            runs it; its last line is the resident bytes of the largest
 * process
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <regex.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORTS_MAX 64
#define FRAME_BYTES_MAX 65536u
#define ENVIRONMENT_BYTES_MAX (256u << 10)

static uint64_t random_state;

static uint64_t random_next(void)
{
	uint64_t x = random_state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int await_command(char **words, int count)
{
	int64_t until = now_ms() + (int64_t)(atof(words[0]) * 1000);

	for (int i = 1; i < count; i++) {
		int fd = (int)syscall(SYS_pidfd_open, (pid_t)atol(words[i]), 0);
		struct pollfd gone = {.fd = fd, .events = POLLIN};
		int64_t left = until - now_ms();
		int rc;

		if (fd < 0 && errno == ESRCH)
			continue;
		rc = fd < 0 ? -1 : poll(&gone, 1, left > 0 ? (int)left : 0);
		if (fd >= 0)
			close(fd);
		if (rc <= 0)
			return 1;
	}
	return 0;
}

/* Reads on where the last call stopped; a line without its end is read again. */
static bool line_found(FILE *stream, const regex_t *regex)
{
	static char line[8192];
	long start = ftell(stream);

	while (fgets(line, sizeof(line), stream)) {
		if (!strchr(line, '\n') && strlen(line) < sizeof(line) - 1)
			break;
		line[strcspn(line, "\n")] = '\0';
		if (regexec(regex, line, 0, NULL, 0) == 0)
			return true;
		start = ftell(stream);
	}
	clearerr(stream);
	fseek(stream, start, SEEK_SET);
	return false;
}

static int line_command(char **words, int count)
{
	int64_t until = now_ms() + atol(words[0]) * 1000;
	int notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	FILE *stream = fopen(words[1], "re");
	regex_t regex;

	(void)count;
	if (!stream || regcomp(&regex, words[2], REG_EXTENDED | REG_NOSUB) ||
		inotify_add_watch(notify, words[1], IN_MODIFY) < 0) {
		fprintf(stderr, "e2e_tool: %s: %s\n", words[1], strerror(errno));
		return 2;
	}
	while (!line_found(stream, &regex)) {
		struct pollfd changed = {.fd = notify, .events = POLLIN};
		int64_t left = until - now_ms();
		char events[4096];

		if (left <= 0 || poll(&changed, 1, (int)left) <= 0)
			return 1;
		while (read(notify, events, sizeof(events)) > 0)
			;
	}
	return 0;
}

static int ports_command(char **words, int count)
{
	long wanted = atol(words[0]);
	int fds[PORTS_MAX];

	(void)count;
	for (long i = 0; i < wanted && i < PORTS_MAX; i++) {
		struct sockaddr_in address = {.sin_family = AF_INET};
		socklen_t size = sizeof(address);

		address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (fds[i] < 0 || bind(fds[i], (struct sockaddr *)&address, size) ||
			getsockname(fds[i], (struct sockaddr *)&address, &size))
			return 1;
		printf("%u\n", ntohs(address.sin_port));
	}
	return 0; /* the descriptors close with the process: all N were distinct until then */
}

static int lines_command(char **words, int count)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
	size_t bytes = (size_t)atol(words[1]), lines = ((size_t)atol(words[0]) << 20) / bytes;
	char *line = malloc(bytes + 8);

	(void)count;
	random_state = (uint64_t)atol(words[2]);
	for (size_t i = 0; line && i < lines; i++) {
		for (size_t at = 0; at < bytes; at += 8) {
			uint64_t word = random_next();

			for (unsigned j = 0; j < 8; j++)
				line[at + j] = letters[word >> j * 8 & 63];
		}
		line[bytes - 1] = '\n';
		if (fwrite(line, bytes, 1, stdout) != 1)
			return 1;
	}
	free(line);
	return fflush(stdout) != 0 || !line;
}

static int throw_connect(unsigned port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct timeval patience = {.tv_sec = 5};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* Kinds: noise; a length of all ones; an HTTP/2 preface with noise; one byte; nothing. */
static size_t throw_compose(unsigned char *frame)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	unsigned kind = (unsigned)(random_next() % 6);
	size_t bytes = 1 + random_next() % (kind < 2 ? FRAME_BYTES_MAX : 200);

	for (size_t i = 0; i < bytes; i++)
		frame[i] = (unsigned char)random_next();
	if (kind == 2)
		memset(frame, 0xff, bytes < 64 ? bytes : 64);
	if (kind == 3) {
		bytes += sizeof(preface);
		memcpy(frame, preface, sizeof(preface) - 1);
	}
	if (kind == 4)
		return 1;
	return kind == 5 ? 0 : bytes;
}

static int throw_command(char **words, int count)
{
	static unsigned char frame[FRAME_BYTES_MAX + 64];
	long rounds = atol(words[2]);

	(void)count;
	random_state = (uint64_t)atol(words[1]);
	for (long i = 0; i < rounds; i++) {
		int fd = throw_connect((unsigned)atol(words[0]));
		size_t bytes;

		if (fd < 0) {
			fprintf(stderr, "e2e_tool: port %s: %s\n", words[0], strerror(errno));
			return 1;
		}
		bytes = throw_compose(frame);
		/* A daemon that hangs up in the middle is in its right. */
		if (bytes && send(fd, frame, bytes, MSG_NOSIGNAL) > 0 && random_next() % 2)
			shutdown(fd, SHUT_WR);
		close(fd);
	}
	return 0;
}

/* Strings of /proc/PID/FILE: one equal to `wanted`, or with `part` in it. */
static bool process_has(const char *pid, const char *file, const char *wanted, const char *part)
{
	static char text[ENVIRONMENT_BYTES_MAX];
	char path[64];
	ssize_t bytes;
	int fd;

	snprintf(path, sizeof(path), "/proc/%.20s/%.20s", pid, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	bytes = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (bytes <= 0)
		return false;
	text[bytes] = '\0';
	for (const char *at = text; at < text + bytes; at += strlen(at) + 1)
		if ((wanted && strcmp(at, wanted) == 0) || (part && strstr(at, part)))
			return true;
	return false;
}

static void procs_print(const char *pid)
{
	char path[64], name[64] = "";
	FILE *stream;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	stream = fopen(path, "re");
	if (stream && fgets(name, sizeof(name), stream))
		printf("%s %s", pid, name);
	if (stream)
		fclose(stream);
}

static int procs_command(char **words, int count)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;

	(void)count;
	while (directory && (entry = readdir(directory)))
		if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid() &&
			(process_has(entry->d_name, "environ", words[0], NULL) ||
				process_has(entry->d_name, "cmdline", NULL, words[1])))
			procs_print(entry->d_name);
	if (directory)
		closedir(directory);
	return directory ? 0 : 1;
}

static int uffd_command(char **words, int count)
{
	(void)words, (void)count;
	if (syscall(SYS_userfaultfd, O_CLOEXEC) >= 0 ||
		open("/dev/userfaultfd", O_RDWR | O_CLOEXEC) >= 0)
		return 0;
	fprintf(stderr, "e2e_tool: userfaultfd: %s\n", strerror(errno));
	return 1;
}

static int limit_command(char **words, int count)
{
	struct rlimit limit;

	(void)count;
	limit.rlim_cur = limit.rlim_max = (rlim_t)atol(words[0]) << 20;
	setrlimit(RLIMIT_AS, &limit);
	execvp(words[1], &words[1]);
	return 127;
}

/* Of the largest process: what getrusage knows of children, and theirs, that were waited for. */
static int peak_command(char **words, int count)
{
	struct rusage usage;
	int status;

	(void)count;
	pid_t child = fork();
	if (child == 0) {
		execvp(words[0], words);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child ||
		getrusage(RUSAGE_CHILDREN, &usage) < 0)
		return 1;
	printf("\n%ld\n", usage.ru_maxrss * 1024);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static const struct {
	const char *name;
	int words_min;
	int (*run)(char **words, int count);
} commands[] = {
	{"await", 1, await_command},
	{"line", 3, line_command},
	{"ports", 1, ports_command},
	{"lines", 3, lines_command},
	{"throw", 3, throw_command},
	{"procs", 2, procs_command},
	{"uffd", 0, uffd_command},
	{"limit", 2, limit_command},
	{"peak", 1, peak_command},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(argv[1], commands[i].name) == 0 && argc - 2 >= commands[i].words_min)
			return commands[i].run(argv + 2, argc - 2);
	fprintf(stderr, "e2e_tool: see the head of tests/e2e/tool.c\n");
	return 2;
}
