/*
 * apps/farmem_inspect.h: the parts of `farmem inspect`: getting at a catalog, and saying what is in
 * it, in words (farmem_inspect_words.c) or as JSON (farmem_inspect_json.c).
 */
#ifndef FM_APPS_FARMEM_INSPECT_H
#define FM_APPS_FARMEM_INSPECT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "farmem/agent/audit.h"

#define INSPECT_SHOWN_MAX 10 /* findings in words; JSON has up to AUDIT_FINDINGS_MAX */

struct inspect {
	struct audit audit; /* after the last look */
	int64_t pid;
	char tree[80];    /* "": found without an agent */
	bool stopped;     /* nothing of it ran while we looked */
	unsigned threads; /* of the program */
	uint64_t changes; /* findings of one look that the next did not have */
	uint64_t in_hand; /* findings that threads stopped halfway explain */
	bool consistent;
	bool groups, records; /* asked for: each of them */
	uint64_t now_ns;      /* realtime */
};

/* Text of the program's own, safe to print; a bounded copy. Returns text. */
const char *inspect_text(const char *from, unsigned length, char *text, unsigned size);
const char *inspect_group_state(uint32_t state);
const char *inspect_node_state(uint32_t state);
const char *inspect_record_state(unsigned state);
const char *inspect_span_state(unsigned state);

struct inspect_repair {
	bool active;
	bool copies;   /* drain; else decoded from the others */
	unsigned next; /* index into the column's places */
	uint32_t node;
	uint64_t done, total, started_ns;
	double share;   /* 0..1 */
	double rate;    /* bytes per second since it began */
	double seconds; /* left, at that rate; below 0: nobody knows */
};

/* The replacement of a column, if it is being replaced. */
struct inspect_repair inspect_repair(const struct inspect *inspect, uint32_t group, unsigned pos);
/* Groups in each state, and columns lost and being replaced, of groups in use. */
struct inspect_groups {
	unsigned states[8]; /* enum catalog_group_state; the last: impossible ones */
	unsigned lost, repairing, draining;
};
struct inspect_groups inspect_groups(const struct inspect *inspect);

int inspect_print_words(FILE *out, const struct inspect *inspect) FM_MUST_USE;
int inspect_print_json(FILE *out, const struct inspect *inspect) FM_MUST_USE;

#endif
