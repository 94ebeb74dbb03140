/*
 * base/options.h: one table per program feeds its flags, its environment, its file, --help and the
 * man page.
 *
 * A table is a const array of struct option_spec; values land in a plain struct of the caller, by
 * offset. For `name = "fetch-deadline"`: the flag is --fetch-deadline VALUE or
 * --fetch-deadline=VALUE, the variable is FARMEM_FETCH_DEADLINE, the file key is fetch-deadline
 * ("key = value" lines, # comments). Later wins: default < file < environment < flags. An unknown
 * key or flag is an error. No malloc anywhere: it runs inside other people's programs.
 */
#ifndef FM_BASE_OPTIONS_H
#define FM_BASE_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#include "base/compiler.h"

enum option_type {
	OPTION_BOOL,  /* bool: --name, --no-name, --name=yes|no|on|off|true|false|1|0 */
	OPTION_COUNT, /* uint64_t, decimal, within [min, max] */
	OPTION_SIZE,  /* uint64_t bytes: 64M, 1.5G, 4096, 64MiB (powers of 1024), within [min, max]
		       */
	OPTION_SHARE, /* struct option_share: a size, or "25%" */
	OPTION_DURATION, /* uint64_t nanoseconds: 10ms, 2s, 500us, 10min, 1h; a bare number is
			    seconds */
	OPTION_STRING,   /* char[size], NUL-terminated; too long is an error */
	OPTION_CHOICE,   /* uint32_t: index into `choices` */
	OPTION_CODE,     /* struct option_code: "4+2" */
};

struct option_share {
	uint64_t bytes;    /* when permille == 0 */
	uint32_t permille; /* 250 for 25 %; 0: `bytes` counts */
};

#define OPTION_CODE_K_MAX 16 /* == EC_K_MAX */
#define OPTION_CODE_M_MAX 4  /* == EC_M_MAX */

struct option_code {
	uint32_t k; /* 1..16 */
	uint32_t m; /* 0..4 */
};

struct option_spec {
	const char *name; /* with dashes, no leading ones */
	char letter;      /* short flag, or 0 */
	enum option_type type;
	size_t offset;     /* offsetof() in the caller's struct */
	size_t size;       /* OPTION_STRING: size of the array */
	uint64_t min, max; /* OPTION_COUNT, OPTION_SIZE, OPTION_DURATION; max 0: no limit */
	const char *const *choices; /* OPTION_CHOICE: NULL-terminated */
	const char *value;          /* default, as text; NULL: leave zero */
	const char *argument;       /* what --help calls the value: "SIZE|PERCENT" */
	const char *help;           /* one line, or several separated by \n */
	bool flag_only;             /* no environment variable, no file key (e.g. --json) */
};

/* One line that names the thing and the cure, for the user. Empty when all is well. */
struct option_error {
	char text[512];
};

/* All return 0 or -EINVAL with the error filled in. `into` is the caller's struct. */
int options_set_defaults(const struct option_spec *specs, unsigned count, void *into,
	struct option_error *error) FM_MUST_USE;
int options_read_file(const struct option_spec *specs, unsigned count, void *into, const char *path,
	struct option_error *error) FM_MUST_USE;
/* Variables FARMEM_<NAME>. Unknown FARMEM_* variables are an error unless listed in known_others
 * (NULL-terminated full names such as "FARMEM_FAULTS"). */
int options_read_environment(const struct option_spec *specs, unsigned count, void *into,
	const char *const *known_others, struct option_error *error) FM_MUST_USE;
/* Reads argv[*index] on while they are flags; stops at "--" (passed over), or at the first word
 * that is no flag; *index is then the first word not read. "--help" and "--version" are the
 * caller's to look for. */
int options_read_flags(const struct option_spec *specs, unsigned count, void *into, int argc,
	char *const *argv, int *index, struct option_error *error) FM_MUST_USE;
/* Sets one by name (without dashes). */
int options_set(const struct option_spec *specs, unsigned count, void *into, const char *name,
	const char *value, struct option_error *error) FM_MUST_USE;
/* Writes the value of a spec as text that options_set reads back; returns length or -ENOSPC. */
int options_format(const struct option_spec *spec, const void *from, char *text, size_t size);
/* The table as --help text (to a file descriptor). */
void options_print_help(const struct option_spec *specs, unsigned count, int fd);
/* The table as roff .TP items, for the man page generator. */
void options_print_man(const struct option_spec *specs, unsigned count, int fd);

/* The parsers alone. 0 or -EINVAL. */
int parse_size(const char *text, uint64_t *bytes) FM_MUST_USE;
int parse_share(const char *text, struct option_share *share) FM_MUST_USE;
int parse_duration(const char *text, uint64_t *ns) FM_MUST_USE;
int parse_code(const char *text, struct option_code *code) FM_MUST_USE;
int parse_count(const char *text, uint64_t *count) FM_MUST_USE;
/* "1.5 GiB" style, into text; returns text. */
char *format_bytes(uint64_t bytes, char *text, size_t size);
char *format_duration(uint64_t ns, char *text, size_t size);

#endif
