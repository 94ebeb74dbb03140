/*
 * apps/lb_tool.c: see lb_tool.h.
 */
#include "apps/lb_tool.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define WORD_BYTES_MAX 64

const char *const lb_tool_log_levels[] = {"error", "warn", "info", "debug", NULL};

int lb_tool_complain(const struct lb_tool *tool, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "%s: ", tool->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return LB_TOOL_EXIT_USAGE;
}

/* --help, --version, --man, wherever they stand. */
static bool asked_for_words(const struct lb_tool *tool, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			fputs(tool->summary, stdout);
			fflush(stdout);
			options_print_help(tool->specs, tool->specs_count, STDOUT_FILENO);
			return true;
		}
		if (strcmp(argv[i], "--version") == 0) {
			printf("%s %s\n", tool->name, FM_VERSION);
			return true;
		}
		if (strcmp(argv[i], "--man") == 0) {
			options_print_man(tool->specs, tool->specs_count, STDOUT_FILENO);
			return true;
		}
	}
	return false;
}

int lb_tool_begin(const struct lb_tool *tool, void *into, int argc, char **argv)
{
	struct option_error error = {""};
	int index = 1;

	if (asked_for_words(tool, argc, argv))
		return 0;
	log_set_program(tool->name);
	if (options_set_defaults(tool->specs, tool->specs_count, into, &error) < 0 ||
		options_read_flags(
			tool->specs, tool->specs_count, into, argc, argv, &index, &error) < 0)
		return lb_tool_complain(tool, "%s", error.text);
	if (index < argc)
		return lb_tool_complain(tool, "only flags: '%s'; see --help", argv[index]);
	return -1;
}

const char *lb_tool_json_word(const char *json, const char *key)
{
	static char word[WORD_BYTES_MAX];
	char pattern[WORD_BYTES_MAX];
	const char *at;
	size_t length;

	snprintf(pattern, sizeof(pattern), "\"%s\":\"", key);
	at = strstr(json, pattern);
	if (at == NULL)
		return "?";
	at += strlen(pattern);
	length = strcspn(at, "\"");
	if (length >= sizeof(word))
		return "?";
	memcpy(word, at, length);
	word[length] = '\0';
	return word;
}
