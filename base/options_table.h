/*
 * base/options_table.h: what parse.c, options.c and options_help.c share. Nobody else includes it.
 */
#ifndef FM_BASE_OPTIONS_TABLE_H
#define FM_BASE_OPTIONS_TABLE_H

#include "base/options.h"

#define OPTION_NAME_MAX 48 /* bytes of a name, with its NUL */

/* Exact text, read back by parse_size and parse_duration; snprintf's return. */
int parse_print_size(uint64_t bytes, char *text, size_t size);
int parse_print_duration(uint64_t ns, char *text, size_t size);
/* "FARMEM_" + name in capitals, dashes as underscores. */
void option_variable_name(const struct option_spec *spec, char *text, size_t size);

#endif
