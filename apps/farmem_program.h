/*
 * apps/farmem_program.h: finds the program the user named and tells whether LD_PRELOAD reaches it.
 * Reads files only; never runs anything. Used by `farmem run`.
 */
#ifndef FM_APPS_FARMEM_PROGRAM_H
#define FM_APPS_FARMEM_PROGRAM_H

#include <limits.h>

#include "base/options.h"

struct program {
	char path[PATH_MAX]; /* what to exec */
};

/*
 * 0 when the program can be started with the preload. Otherwise the exit status to give, with one
 * line in error: 127 not found, 126 cannot be executed, 2 the preload would not reach it (static,
 * setuid, setgid, file capabilities, other architecture).
 */
int program_find(const char *name, struct program *program, struct option_error *error) FM_MUST_USE;
/* The check alone, on a path. For the test. Same returns. */
int program_check(const char *path, struct option_error *error) FM_MUST_USE;

#endif
