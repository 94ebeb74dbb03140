/*
 * bench/paper_tree.c: see paper_tree.h. A node that is full is split on the way down, so that there
 * is always room for the key that a split below pushes up, and no way back is needed.
 */
#include "bench/paper_tree.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct tree_node {
	uint32_t count;
	bool leaf;
	uint64_t keys[TREE_KEYS_MAX];
	void *values[TREE_KEYS_MAX];
	struct tree_node *children[TREE_KEYS_MAX + 1]; /* not in a leaf: it is cut off here */
};

static struct tree_node *node_new(bool leaf)
{
	size_t bytes = leaf ? offsetof(struct tree_node, children) : sizeof(struct tree_node);
	struct tree_node *node = malloc(bytes);

	if (node) {
		node->count = 0;
		node->leaf = leaf;
	}
	return node;
}

/* Index of the first key that is not below. */
static uint32_t node_place(const struct tree_node *node, uint64_t key)
{
	uint32_t low = 0, high = node->count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (node->keys[middle] < key)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Makes room at `at` for a key, and for a child behind it. */
static void node_open(struct tree_node *node, uint32_t at)
{
	uint32_t behind = node->count - at;

	memmove(&node->keys[at + 1], &node->keys[at], behind * sizeof(node->keys[0]));
	memmove(&node->values[at + 1], &node->values[at], behind * sizeof(node->values[0]));
	if (!node->leaf)
		memmove(&node->children[at + 2], &node->children[at + 1],
			behind * sizeof(node->children[0]));
	node->count++;
}

/* Splits the full child at `at` in two; its middle key comes up into `parent`, which has room. */
static int node_split(struct tree_node *parent, uint32_t at)
{
	struct tree_node *left = parent->children[at], *right = node_new(left->leaf);
	const uint32_t half = TREE_KEYS_MAX / 2;

	if (right == NULL)
		return -ENOMEM;
	memcpy(right->keys, &left->keys[half + 1], half * sizeof(left->keys[0]));
	memcpy(right->values, &left->values[half + 1], half * sizeof(left->values[0]));
	if (!left->leaf)
		memcpy(right->children, &left->children[half + 1],
			(half + 1) * sizeof(left->children[0]));
	left->count = right->count = half;
	node_open(parent, at);
	parent->keys[at] = left->keys[half];
	parent->values[at] = left->values[half];
	parent->children[at + 1] = right;
	return 0;
}

static int root_grow(struct tree *tree)
{
	struct tree_node *root = node_new(tree->root == NULL);

	if (root == NULL)
		return -ENOMEM;
	if (tree->root == NULL) {
		tree->root = root;
		return 0;
	}
	root->children[0] = tree->root;
	if (node_split(root, 0) != 0) {
		free(root);
		return -ENOMEM;
	}
	tree->root = root;
	return 0;
}

int tree_insert(struct tree *tree, uint64_t key, void *value)
{
	struct tree_node *node;
	uint32_t at;

	if ((tree->root == NULL || tree->root->count == TREE_KEYS_MAX) && root_grow(tree) != 0)
		return -ENOMEM;
	for (node = tree->root;; node = node->children[at]) {
		at = node_place(node, key);
		if (at < node->count && node->keys[at] == key)
			return -EEXIST;
		if (node->leaf)
			break;
		if (node->children[at]->count < TREE_KEYS_MAX)
			continue;
		if (node_split(node, at) != 0)
			return -ENOMEM;
		if (node->keys[at] == key)
			return -EEXIST;
		at += node->keys[at] < key;
	}
	node_open(node, at);
	node->keys[at] = key;
	node->values[at] = value;
	tree->count++;
	return 0;
}

void *tree_find(const struct tree *tree, uint64_t key)
{
	const struct tree_node *node = tree->root;

	while (node) {
		uint32_t at = node_place(node, key);

		if (at < node->count && node->keys[at] == key)
			return node->values[at];
		node = node->leaf ? NULL : node->children[at];
	}
	return NULL;
}

void tree_free(struct tree *tree)
{
	/* The last leaf first, each time from the root: needs no stack. */
	while (tree->root) {
		struct tree_node *node = tree->root, *parent = NULL;

		while (!node->leaf && node->children[node->count]) {
			parent = node;
			node = node->children[node->count];
		}
		if (!node->leaf && node->count > 0) {
			node->count--;
			continue;
		}
		free(node);
		if (parent)
			parent->children[parent->count] = NULL;
		else
			tree->root = NULL;
	}
}
