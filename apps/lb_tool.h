/*
 * apps/lb_tool.h: what fm-echo and fm-load share: reading the command line, words of help.
 */
#ifndef FM_APPS_LB_TOOL_H
#define FM_APPS_LB_TOOL_H

#include "base/compiler.h"
#include "base/options.h"

#define LB_TOOL_EXIT_USAGE 2
#define LB_TOOL_METHOD_ECHO 1u

struct lb_tool {
	const char *name;
	const char *summary; /* above the flags in --help */
	const struct option_spec *specs;
	unsigned specs_count;
};

extern const char *const lb_tool_log_levels[];

/* Defaults and flags into the program's struct. -1: go on; otherwise the exit status: --help,
 * --version, --man (the table as roff, for the man page), or a mistake that was named on stderr. */
int lb_tool_begin(const struct lb_tool *tool, void *into, int argc, char **argv) FM_MUST_USE;
/* One line on stderr; returns LB_TOOL_EXIT_USAGE. */
int lb_tool_complain(const struct lb_tool *tool, const char *format, ...) FM_PRINTF(2, 3);
/* The text value of a key in one of our own JSON lines; "?" when it is not there. Valid until the
 * next call. */
const char *lb_tool_json_word(const char *json, const char *key);

#endif
