/*
 * base/log.c: one line per event, put together on the stack and written by one write(2).
 *
 * Called from every process of ours, the application's included, never from the fault path. No
 * malloc, no stdio stream, no lock: lines of concurrent threads do not mix because each is one
 * append.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define LOG_LINE_MAX 1024

static _Atomic int log_fd = STDERR_FILENO;
static _Atomic uint32_t log_level_max = LOG_WARN;
static const char *_Atomic log_program = "farmem";

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_level_max, (uint32_t)level, memory_order_relaxed);
}

enum log_level log_level(void)
{
	return (enum log_level)atomic_load_explicit(&log_level_max, memory_order_relaxed);
}

void log_set_program(const char *name)
{
	atomic_store_explicit(&log_program, name, memory_order_release);
}

int log_open(const char *path)
{
	int fd = STDERR_FILENO, old;

	if (path != NULL) {
		fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
	}
	old = atomic_exchange_explicit(&log_fd, fd, memory_order_acq_rel);
	if (old != STDERR_FILENO)
		close(old);
	return 0;
}

int log_descriptor(void)
{
	return atomic_load_explicit(&log_fd, memory_order_acquire);
}

/* What snprintf wrote, not what it would have liked to; one byte is always kept for the newline. */
static size_t log_written(int wanted, size_t size)
{
	if (wanted < 0)
		return 0;
	return (size_t)wanted < size ? (size_t)wanted : size - 1;
}

static size_t log_prefix(char *line, size_t size, enum log_level level)
{
	const char *program = atomic_load_explicit(&log_program, memory_order_acquire);
	struct timespec now;

	if (level != LOG_DEBUG)
		return log_written(snprintf(line, size, "%s: ", program), size);
	clock_gettime(CLOCK_REALTIME, &now);
	return log_written(snprintf(line, size, "%s: [%lld.%06ld %ld] ", program,
				   (long long)now.tv_sec, now.tv_nsec / 1000, (long)gettid()),
		size);
}

/* An event is one line, whatever bytes a value brings along. */
static void log_flatten(char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			text[i] = ' ';
	}
}

void log_print(enum log_level level, const char *format, ...)
{
	char line[LOG_LINE_MAX];
	size_t used;
	va_list arguments;
	int saved_errno = errno; /* %m, and the caller's own use of errno after us */

	if (level > log_level())
		return;
	used = log_prefix(line, sizeof(line), level);
	errno = saved_errno;
	va_start(arguments, format);
	used += log_written(vsnprintf(line + used, sizeof(line) - used, format, arguments),
		sizeof(line) - used);
	va_end(arguments);
	log_flatten(line, used);
	line[used++] = '\n';
	/* a log that cannot be written is no reason to stop anything */
	if (write(log_descriptor(), line, used) < 0)
		used = 0;
	errno = saved_errno;
}

bool log_limit_pass(struct log_limit *limit)
{
	uint64_t now_ns = clock_now_ns();
	uint64_t next_ns = atomic_load_explicit(&limit->next_ns, memory_order_relaxed);
	uint64_t suppressed;

	/* whoever moves next_ns on may speak; everybody else is counted */
	if (now_ns < next_ns ||
		!atomic_compare_exchange_strong_explicit(&limit->next_ns, &next_ns,
			now_ns + NS_PER_S, memory_order_relaxed, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&limit->suppressed_count, 1, memory_order_relaxed);
		return false;
	}
	suppressed = atomic_exchange_explicit(&limit->suppressed_count, 0, memory_order_relaxed);
	if (suppressed > 0)
		log_print(LOG_WARN, "log: suppressed lines=%llu", (unsigned long long)suppressed);
	return true;
}
