/*
 * apps/farmem_nodes.h: what agents say about memory nodes: read from their answers to STATS
 * (farmem/agent/agent_stats.c), shown by `farmem nodes` and followed by `farmem drain`.
 */
#ifndef FM_APPS_FARMEM_NODES_H
#define FM_APPS_FARMEM_NODES_H

#include <cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"

/* Columns of a node that are on their way: in by a rebuild or a copy, or out of it by a drain. */
struct nodes_work {
	unsigned columns;
	double done_bytes, total_bytes;
	double share;       /* 0..1 */
	double bytes_per_s; /* 0: nothing known */
	double seconds;     /* left at that rate; below 0: nobody knows */
};

struct nodes_node {
	char name[64], host[64];
	char state[16];       /* joining, up, suspect, down, alias */
	char incarnation[20]; /* hexadecimal; "" while it does not serve */
	unsigned calls;       /* it is serving now, and rebuilds among them: its load */
	unsigned rebuilds;
	double memory_bytes, free_bytes, leased_bytes, rtt_ns;
	double delay_ns;  /* how long requests wait at its data server; 0: not, or not known */
	unsigned columns; /* of this tree's programs, that are there */
	bool draining;
	double quarantine_s; /* a flapping node: for how long nothing is put there */
	struct nodes_work in, out;
};

struct nodes_view {
	cJSON *trees; /* an array: {"tree", "agent", "nodes", "processes"} as the agents sent them
		       */
	unsigned agents, silent;
};

/* Asks the agents below dir, only that of tree if it is not NULL. 0 or -errno. */
int nodes_gather(const char *dir, const char *tree, struct nodes_view *view) FM_MUST_USE;
void nodes_free(struct nodes_view *view);
/* An agent's answer, taken over, as an element of trees. 0 or -EPROTO. For the tests too. */
int nodes_take(struct nodes_view *view, const char *tree, cJSON *answer) FM_MUST_USE;

/* The nodes of one tree: its first, then cJSON's `next`; and what one says. */
const cJSON *nodes_first(const cJSON *tree);
void nodes_read(const cJSON *node, struct nodes_node *out);
/* Columns of the tree's programs that are lost and not rebuilt yet. */
unsigned nodes_columns_lost(const cJSON *tree);

/* One table for each tree. */
void nodes_render(FILE *out, const struct nodes_view *view, bool colour);

#endif
