/*
 * apps/farmem_drain.h: how a drain goes, judged from what the agents say again and again. Used by
 * farmem_drain.c; no I/O of its own.
 */
#ifndef FM_APPS_FARMEM_DRAIN_H
#define FM_APPS_FARMEM_DRAIN_H

#include "apps/farmem_nodes.h"

#define DRAIN_STUCK_NS (30 * NS_PER_S) /* nothing moved for so long: say why, and leave */

enum drain_verdict {
	DRAIN_UNDERWAY = 0,
	DRAIN_DONE,
	DRAIN_DIED,      /* the node did: the others rebuild what was on it */
	DRAIN_CANCELLED, /* by somebody else */
	DRAIN_STUCK,     /* there is no other place */
};

struct drain {
	const char *node;
	enum drain_verdict verdict;
	char reason[200];            /* of all but UNDERWAY and DONE */
	unsigned trees;              /* whose programs have something there */
	unsigned columns;            /* left */
	unsigned begun;              /* the most that were left */
	double share;                /* 0..1 done */
	double bytes_per_s, seconds; /* left; below 0: nobody knows */
	uint64_t moved_ns;           /* when share last grew */
};

void drain_begin(struct drain *drain, const char *node);
/* What the agents say at now_ns. */
void drain_look(struct drain *drain, const struct nodes_view *view, uint64_t now_ns);
/* One line. Returns text. */
const char *drain_describe(const struct drain *drain, char *text, size_t size);
void drain_print_json(FILE *out, const struct drain *drain);

#endif
