/*
 * bench/paper_tree.h: an in-memory B-tree of 64-bit keys, for paper_kv.c. Nodes come from malloc.
 *
 * Insertion is for one thread alone; afterwards any number of threads may look up.
 */
#ifndef FM_BENCH_PAPER_TREE_H
#define FM_BENCH_PAPER_TREE_H

#include <stdint.h>

#include "base/compiler.h"

#define TREE_KEYS_MAX 63 /* odd: a full node splits into two equal ones around a key */

struct tree_node;

struct tree {
	struct tree_node *root;
	uint64_t count;
};

/* Puts a key that is not there yet. 0, -ENOMEM, -EEXIST. */
int tree_insert(struct tree *tree, uint64_t key, void *value) FM_MUST_USE;
/* NULL: not there. */
void *tree_find(const struct tree *tree, uint64_t key);
void tree_free(struct tree *tree);

#endif
