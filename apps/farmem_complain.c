/*
 * apps/farmem_complain.c: what all parts of the farmem command say to the user when something is
 * wrong.
 */
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"

void complain(const char *format, ...)
{
	char line[1024];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	/* One write: lines of several processes on one terminal do not mix. */
	fflush(stdout);
	dprintf(STDERR_FILENO, "farmem: %s\n", line);
}
