/*
 * tests/soak/watched.h: a program's catalog, looked at from outside.
 *
 * The catalog is what runtime and agent believe; it is mapped through /proc/PID (the descriptor
 * table of the runtime's threads), so that nobody is asked and nobody has to answer. Used by the
 * soak, by farmem-watch (watch.c) and through it by tests/e2e and bench/repair. Nothing is written
 * but by watched_flip, and that into a node's memory.
 */
#ifndef FM_TESTS_SOAK_WATCHED_H
#define FM_TESTS_SOAK_WATCHED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "farmem/catalog.h"

struct watched {
	pid_t pid;
	struct catalog catalog;
};

/* 0, -ENOENT: no such process, or its runtime has not begun; -EPROTO. */
int watched_open(struct watched *watched, pid_t pid) FM_MUST_USE;
void watched_close(struct watched *watched);

/* Only groups that hold something are counted. */
struct health {
	unsigned groups, open, closed, evacuating;
	unsigned lost;      /* columns whose bytes are gone */
	unsigned moving;    /* columns being replaced */
	unsigned unwell;    /* columns not lost, on nodes that are suspect or down */
	unsigned narrow;    /* groups of fewer columns than wished */
	unsigned width_min; /* columns of the narrowest */
};

void watched_health(const struct watched *watched, struct health *health);
/* Full redundancy: nothing lost, nothing on a node that is not up, nothing on its way. */
bool health_whole(const struct health *health);

/* Is the node of this name out of order, as the caller knows? */
typedef bool (*watched_out)(void *context, const char *name);

/*
 * Would losing the node `name` (NULL: nobody) too leave some group that holds data with more than
 * m - spare columns out of order? Out of order is what the catalog says or `out` says. flips[g]:
 * damaged slots in group g that are not healed yet, each counts as a column; may be NULL.
 */
bool watched_bears(const struct watched *watched, const char *name, watched_out out, void *context,
	const uint8_t *flips);

/* Columns that hold data and are on the node with this incarnation, lost or not. */
unsigned watched_columns_on(const struct watched *watched, uint64_t incarnation);
/* Of the newest node of that name that is not DOWN; 0: none. */
uint64_t watched_incarnation(const struct watched *watched, const char *name);
/* Some entry with this incarnation is not DOWN. */
bool watched_believes_in(const struct watched *watched, uint64_t incarnation);
/* 0 for an unknown one. */
uint64_t watched_counter(const struct watched *watched, const char *name);

/* A byte that was wronged on purpose. */
struct flip {
	uint32_t ssid, group, position, generation, record_gen, slot;
	char node[64];
};

/* Process of the node of this name, or 0. */
typedef pid_t (*watched_node_pid)(void *context, const char *name);

/*
 * Flips one byte of a slot that a STABLE record names, in the memory of the node itself, found by
 * the record's checksum. Only in groups for which `fit` (may be NULL) says true. 0, or -EAGAIN:
 * found none this time.
 */
int watched_flip(const struct watched *watched, uint64_t random, watched_node_pid pid_of,
	bool (*fit)(void *context, uint32_t group), void *context, struct flip *flip) FM_MUST_USE;
/* The spanset is where it was, with the column as it was: still to be healed. */
bool watched_flip_stays(const struct watched *watched, const struct flip *flip);

#endif
