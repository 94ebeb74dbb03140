/*
 * base/options_help.c: the option table turned back into text: one value, --help, and man page
 * items.
 *
 * Called by programs and by the man page generator. Written with write(2) in small pieces; no stdio
 * stream, so that the preload may use it as well.
 */
#include "base/options_table.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"

#define HELP_COLUMN 30 /* where the descriptions begin */

int options_format(const struct option_spec *spec, const void *from, char *text, size_t size)
{
	const void *field = (const char *)from + spec->offset;
	const struct option_share *share = field;
	const struct option_code *code = field;
	int length = 0;

	switch (spec->type) {
	case OPTION_BOOL:
		length = snprintf(text, size, "%s", *(const bool *)field ? "yes" : "no");
		break;
	case OPTION_COUNT:
		length = snprintf(text, size, "%llu", *(const unsigned long long *)field);
		break;
	case OPTION_SIZE:
		length = parse_print_size(*(const uint64_t *)field, text, size);
		break;
	case OPTION_DURATION:
		length = parse_print_duration(*(const uint64_t *)field, text, size);
		break;
	case OPTION_SHARE:
		if (share->permille == 0)
			length = parse_print_size(share->bytes, text, size);
		else if (share->permille % 10 == 0)
			length = snprintf(text, size, "%u%%", share->permille / 10);
		else
			length = snprintf(
				text, size, "%u.%u%%", share->permille / 10, share->permille % 10);
		break;
	case OPTION_STRING:
		length = snprintf(text, size, "%s", (const char *)field);
		break;
	case OPTION_CHOICE:
		length = snprintf(text, size, "%s", spec->choices[*(const uint32_t *)field]);
		break;
	case OPTION_CODE:
		length = snprintf(text, size, "%u+%u", code->k, code->m);
		break;
	}
	return length >= 0 && (size_t)length < size ? length : -ENOSPC;
}

static void help_write(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, text, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return; /* the reader has gone: nobody to tell */
		text += written;
		length -= (size_t)written;
	}
}

static void help_print(int fd, const char *format, ...) FM_PRINTF(2, 3);
static void help_print(int fd, const char *format, ...)
{
	char text[1024];
	int length;
	va_list arguments;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	if (length > 0)
		help_write(fd, text, FM_MIN((size_t)length, sizeof(text) - 1));
}

/* " (default 25%)" or nothing. */
static const char *help_default(const struct option_spec *spec, char *text, size_t size)
{
	text[0] = '\0';
	if (spec->value != NULL && spec->value[0] != '\0' && spec->type != OPTION_BOOL)
		snprintf(text, size, " (default %s)", spec->value);
	return text;
}

void options_print_help(const struct option_spec *specs, unsigned count, int fd)
{
	char flag[128], shown_default[128];

	for (const struct option_spec *spec = specs; spec < specs + count; spec++) {
		const char *help = spec->help;
		char letter[8] = "    ";

		if (spec->letter != 0)
			snprintf(letter, sizeof(letter), "-%c, ", spec->letter);
		snprintf(flag, sizeof(flag), "  %s--%s%s%s", letter, spec->name,
			spec->type == OPTION_BOOL ? "" : " ",
			spec->type == OPTION_BOOL ? ""
			: spec->argument != NULL  ? spec->argument
						  : "VALUE");
		/* a flag that reaches into the description's column gets a line of its own */
		help_print(
			fd, "%-*s%s", HELP_COLUMN, flag, strlen(flag) >= HELP_COLUMN ? "\n" : "");
		for (bool first = strlen(flag) < HELP_COLUMN;; first = false) {
			size_t length = strcspn(help, "\n");
			bool last = help[length] == '\0';

			help_print(fd, "%*s%.*s%s\n", first ? 0 : HELP_COLUMN, "", (int)length,
				help,
				last ? help_default(spec, shown_default, sizeof(shown_default))
				     : "");
			if (last)
				break;
			help += length + 1;
		}
	}
}

/* Text for roff: dashes that can be copied, backslashes, and no line that looks like a request. */
static void help_print_roff(int fd, const char *text)
{
	bool at_start = true;

	for (; *text != '\0'; text++) {
		if (at_start && (*text == '.' || *text == '\''))
			help_write(fd, "\\&", 2);
		if (*text == '-')
			help_write(fd, "\\-", 2);
		else if (*text == '\\')
			help_write(fd, "\\e", 2);
		else
			help_write(fd, text, 1);
		at_start = *text == '\n';
	}
}

void options_print_man(const struct option_spec *specs, unsigned count, int fd)
{
	char variable[OPTION_NAME_MAX + 8], shown_default[128];

	for (const struct option_spec *spec = specs; spec < specs + count; spec++) {
		help_print(fd, ".TP\n");
		if (spec->letter != 0)
			help_print(fd, "\\fB\\-%c\\fR, ", spec->letter);
		help_print(fd, "\\fB\\-\\-");
		help_print_roff(fd, spec->name);
		help_print(fd, "\\fR");
		if (spec->type != OPTION_BOOL) {
			help_print(fd, " \\fI");
			help_print_roff(fd, spec->argument != NULL ? spec->argument : "VALUE");
			help_print(fd, "\\fR");
		}
		help_print(fd, "\n");
		help_print_roff(fd, spec->help);
		help_print_roff(fd, help_default(spec, shown_default, sizeof(shown_default)));
		help_print(fd, ".\n");
		if (spec->flag_only)
			continue;
		option_variable_name(spec, variable, sizeof(variable));
		help_print(fd, "Variable \\fB%s\\fR.\n", variable);
	}
}
