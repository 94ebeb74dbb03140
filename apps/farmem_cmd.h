/*
 * apps/farmem_cmd.h: the subcommands of the farmem program, and their tables.
 *
 * Each *_command gets the words after its own name and returns the exit status. Exit 2: the user's
 * mistake.
 */
#ifndef FM_APPS_FARMEM_CMD_H
#define FM_APPS_FARMEM_CMD_H

#include "base/options.h"

#define EXIT_OK 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define EXIT_CANNOT_EXECUTE 126
#define EXIT_NOT_FOUND 127

/* What --help and the man page say of a subcommand around its table of options. */
struct command {
	const char *name;
	const char *arguments; /* "[FLAGS] [--] PROGRAM [ARGUMENT]..." */
	const char *summary;   /* one line, no full stop */
	const struct option_spec *specs;
	const unsigned *specs_count;
	int (*run)(int argc, char **argv);
};

extern const struct command commands[]; /* ends with a NULL name */

extern const struct option_spec top_specs[];
extern const unsigned top_specs_count;
extern const struct option_spec nodes_specs[];
extern const unsigned nodes_specs_count;
extern const struct option_spec drain_specs[];
extern const unsigned drain_specs_count;
extern const struct option_spec inspect_specs[];
extern const unsigned inspect_specs_count;
extern const struct option_spec doctor_specs[];
extern const unsigned doctor_specs_count;

extern const struct option_spec report_specs[];
extern const unsigned report_specs_count;

int run_command(int argc, char **argv);
int record_command(int argc, char **argv);
int report_command(int argc, char **argv);
int top_command(int argc, char **argv);
int nodes_command(int argc, char **argv);
int drain_command(int argc, char **argv);
int inspect_command(int argc, char **argv);
int doctor_command(int argc, char **argv);

/* Makes the file that samples go to, empty; a program inside a recorded one adds to its file. Empty
 * path: nothing. Exit status; complains. */
int record_begin(const char *path);
/* --help of one subcommand, on standard output. */
void command_print_help(const char *name);
/* True when --help stands among the flags, that is before "--" and before the first word that is
 * none. Values of flags are not told from words: "--log --help" asks for help too. */
bool command_wants_help(int argc, char *const *argv);
/* One line on standard error: "farmem: " and the text. */
void complain(const char *format, ...) FM_PRINTF(1, 2);

#endif
