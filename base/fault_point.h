/*
 * base/fault_point.h: named places where tests make things fail.
 *
 *     if (FAULT_POINT("fabric.tcp.send"))
 *             return -ECONNRESET;
 *
 * Costs one load of a global when nothing is armed. Armed by fault_arm() or by
 *     FARMEM_FAULTS=name=N[+][,name=N...]     fires at the Nth passage; '+' : at every one from the
 * Nth on. The sweep (tests/sim/sweep.c) lists all points that are linked in with
 * fault_list_linked(), and those passed so far with fault_list().
 */
#ifndef FM_BASE_FAULT_POINT_H
#define FM_BASE_FAULT_POINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"

#define FAULT_POINTS_MAX 256 /* different names in one program */
#define FAULT_NAME_MAX 64    /* bytes of a name, with its NUL */

struct fault_point {
	const char *name;
	_Atomic uint64_t passed_count;
	_Atomic uint64_t fire_at; /* 0: not armed */
	_Atomic bool persistent;
	_Atomic uint32_t registered;
};

/* Non-zero while anything is armed or passages are being counted. */
extern _Atomic uint32_t fault_points_on;

bool fault_point_passed(struct fault_point *point);

/* The linker gathers pointers to all points of a program or library: fault_list_linked. */
#define FAULT_POINT(point_name)                                                                    \
	({                                                                                         \
		static struct fault_point fm_point_ = {.name = (point_name)};                      \
		static struct fault_point *const fm_linked_                                        \
			__attribute__((section("fm_fault_points"), used)) = &fm_point_;            \
		fm_unlikely(atomic_load_explicit(&fault_points_on, memory_order_relaxed)) &&       \
			fault_point_passed(&fm_point_);                                            \
	})

/* Fires at the nth passage from now (1 = the next). 0, -ENOENT when the name's table is full, or
 * -EINVAL. */
int fault_arm(const char *name, uint64_t nth, bool persistent);
void fault_disarm_all(void);
/* How often any point has fired since the last fault_disarm_all(): a sweep ends when this stays 0.
 */
uint64_t fault_fired_count(void);
/* Starts counting passages of every point (so that fault_list knows them). */
void fault_count_all(bool on);
/* Fills names/counts of the points passed while counting; returns how many there are (may exceed
 * max). */
unsigned fault_list(const char **names, uint64_t *counts, unsigned max);
/* Fills the names of all points in the sources linked into this program or library, passed or not,
 * each once, sorted by name; returns how many there are (may exceed max). */
unsigned fault_list_linked(const char **names, unsigned max);
/* Reads the FARMEM_FAULTS syntax. 0, or -EINVAL with nothing armed. */
int fault_arm_from_text(const char *text) FM_MUST_USE;

#endif
