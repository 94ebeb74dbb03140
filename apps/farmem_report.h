/*
 * apps/farmem_report.h: the parts of `farmem report`: reading what was recorded
 * (farmem_report_read.c), finding the lines of code behind addresses (farmem_report_stack.c),
 * adding up (farmem_report_lines.c), and drawing (farmem_report_flame.c).
 *
 *     report_read -> report_resolve -> report_add_up -> report_print_text | _json,
 * report_draw_flame
 *
 * One thread. Memory is malloc's; report_free gives all of it back.
 */
#ifndef FM_APPS_FARMEM_REPORT_H
#define FM_APPS_FARMEM_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "farmem/profile_file.h"

#define REPORT_FRAMES_MAX 96 /* of one stack; what is deeper is cut */
#define REPORT_PROCESSES_MAX 1024
#define REPORT_NAME_MAX 64

/* A place in code: interned, so that equal places are one. */
struct report_place {
	char *function; /* or "0x12ab" where nobody knows */
	char *file;     /* NULL: no debug information */
	int line;
	char *module; /* base name of the binary or library; "" : made at run time */
};

struct report_process {
	uint32_t pid;
	char command[REPORT_NAME_MAX];
	const char *maps; /* into the file */
	uint32_t maps_bytes;
	struct profile_totals totals;
};

struct report_sample {
	const struct profile_sample *sample; /* into the file */
	const uint8_t *stack;
	uint32_t process;
	uint32_t frames_count;
	bool cut;                           /* the stack goes on, but could not be followed */
	const struct report_place **frames; /* innermost first */
};

/* All faults of one line of code. */
struct report_line {
	const struct report_place *place;
	const struct report_place *caller; /* the most frequent one; NULL: unknown */
	uint64_t caller_faults;
	uint64_t samples, faults;
	double time_ns;
	uint64_t p99_ns;
	uint64_t kinds[PROFILE_KINDS]; /* faults */
};

struct report {
	uint8_t *file;
	uint64_t file_bytes;
	bool truncated; /* the last record was cut short */
	struct report_process *processes;
	uint32_t processes_count;
	struct report_sample *samples;
	uint64_t samples_count;
	struct report_line *lines; /* most faults first */
	uint64_t lines_count;
	uint64_t faults; /* that samples stand for */
	double time_ns;
	uint64_t kinds[PROFILE_KINDS];
	void *places; /* tsearch tree of struct report_place */
};

/* 0; -EINVAL: no such file of ours (one line was said); -errno. */
int report_read(struct report *report, const char *path);
/* Stacks of all samples. Modules that are gone give addresses. 0 or -ENOMEM. */
int report_resolve(struct report *report);
/* Fills lines and sums. 0 or -ENOMEM. */
int report_add_up(struct report *report);
void report_free(struct report *report);

/* Lines until `share` (0..1) of all faults are named, at most `most`. */
void report_print_text(FILE *out, const struct report *report, double share, uint64_t most);
int report_print_json(FILE *out, const struct report *report, double share, uint64_t most);
/* Flame graph: width is time spent waiting for far memory. */
int report_draw_flame(FILE *out, struct report *report);

const char *report_kind_name(unsigned kind);

#endif
