/*
 * base/options_table.h: what parse.c, options.c, options_help.c and config.c share. Nobody else
 * includes it.
 */
#ifndef FM_BASE_OPTIONS_TABLE_H
#define FM_BASE_OPTIONS_TABLE_H

#include "base/options.h"

#define OPTION_NAME_MAX 48 /* bytes of a name, with its NUL */
#define OPTION_SHOWN 80    /* bytes of a bad value shown in errors */

/* Exact text, read back by parse_size and parse_duration; snprintf's return. */
int parse_print_size(uint64_t bytes, char *text, size_t size);
int parse_print_duration(uint64_t ns, char *text, size_t size);
/* Fills the error with one printable line, whatever bytes the arguments had; returns -EINVAL. */
int option_fail(struct option_error *error, const char *format, ...) FM_PRINTF(2, 3);
/* "FARMEM_" + name in capitals, dashes as underscores. */
void option_variable_name(const struct option_spec *spec, char *text, size_t size);

#endif
