/*
 * apps/farmem_top.h: the three parts of `farmem top`: gathering samples, the screen, and the
 * command.
 */
#ifndef FM_APPS_FARMEM_TOP_H
#define FM_APPS_FARMEM_TOP_H

#include <cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"

/*
 * One look at every agent found: a JSON array with one object per process, as the agents sent them
 * plus "tree". Names are those of struct catalog_stats (farmem/catalog.h).
 */
struct top_sample {
	cJSON *processes;
	uint64_t taken_ns; /* clock_now_ns() */
	unsigned agents;   /* that answered */
	unsigned silent;   /* that have a socket, but no good answer came */
};

/* dir: the run-time directory; pid: only this one, or 0. 0 or -errno (nothing there is not an
 * error). */
int top_gather(const char *dir, int64_t pid, struct top_sample *sample) FM_MUST_USE;
void top_sample_free(struct top_sample *sample);
/* What an agent sent -> appended to processes, only pid when it is not 0. 0 or -EPROTO. For the
 * tests too. */
int top_parse(const char *text, size_t length, const char *tree, int64_t pid,
	cJSON *processes) FM_MUST_USE;

/* Writes the state of `now`, rates against `before` (may be NULL: no rates), as lines of text. */
void top_render(
	FILE *out, const struct top_sample *now, const struct top_sample *before, bool colour);

#endif
