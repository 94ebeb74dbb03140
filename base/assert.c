/*
 * base/assert.c: the last line of a program that has met a mistake of ours.
 *
 * Called by FM_ASSERT and FM_PANIC from any thread of any process, the application's included. One
 * write(2) to the log's descriptor and to stderr, no malloc, no locks; then abort(), so that a core
 * and a status remain.
 */
#include "base/assert.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

#define PANIC_LINE_MAX 1024

/* snprintf and its kin return what they would have written: this is what they did write. */
static size_t panic_written(int wanted, size_t size)
{
	if (wanted < 0)
		return 0;
	return (size_t)wanted < size ? (size_t)wanted : size - 1;
}

void fm_panic(const char *file, int line, const char *format, ...)
{
	char text[PANIC_LINE_MAX];
	size_t used;
	va_list arguments;

	used = panic_written(snprintf(text, sizeof(text), "farmem: panic: %s:%d: pid %ld tid %ld: ",
				     file, line, (long)getpid(), syscall(SYS_gettid)),
		sizeof(text));
	va_start(arguments, format);
	used += panic_written(vsnprintf(text + used, sizeof(text) - used, format, arguments),
		sizeof(text) - used);
	va_end(arguments);
	text[used++] = '\n';
	if (log_descriptor() != STDERR_FILENO && write(log_descriptor(), text, used) < 0)
		text[used - 1] = '\n'; /* stderr is still there */
	if (write(STDERR_FILENO, text, used) < 0)
		_exit(134); /* nobody can hear us: leave with abort's status */
	abort();
}
