/*
 * rpc/urpc_fiber.h: functions on stacks of their own that can be left in the middle and gone on
 * with.
 *
 * Used by rpc/urpc_worker.c for handlers. On x86-64 a switch is a dozen instructions; other
 * machines use ucontext (two system calls a switch). AddressSanitizer and ThreadSanitizer are told
 * of every switch.
 *
 * Invariants:
 * 1. A pool and its fibers belong to one thread: thread-local variables stay right.
 * 2. The number of stacks is fixed at open. Below each lies a page nobody may touch: a handler that
 *    needs more than its stack dies by SIGSEGV instead of writing into its neighbour's.
 * 3. urpc_fibers_run is called off the fibers, urpc_fibers_leave on one.
 */
#ifndef FM_RPC_URPC_FIBER_H
#define FM_RPC_URPC_FIBER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"

struct urpc_fiber;

struct urpc_fibers {
	struct urpc_fiber *fibers;
	struct urpc_fiber *free;
	struct urpc_fiber *running; /* NULL: the thread's own stack */
	unsigned count, free_count;
	void *memory;
	size_t memory_bytes;
	/* the thread's own stack while a fiber runs */
	void *home;
	const void *home_stack; /* for the sanitizers */
	size_t home_stack_bytes;
	void *home_tsan;
};

int urpc_fibers_open(struct urpc_fibers *pool, unsigned count, size_t stack_bytes) FM_MUST_USE;
/* Fibers left in the middle are forgotten. */
void urpc_fibers_close(struct urpc_fibers *pool);

/* NULL: all are taken. */
struct urpc_fiber *urpc_fibers_take(
	struct urpc_fibers *pool, void (*run)(void *argument), void *argument);
/* Starts it or goes on with it. True: it came to its end and is free again. False: it left. */
bool urpc_fibers_run(struct urpc_fibers *pool, struct urpc_fiber *fiber);
/* On a fiber: back to whoever runs it, until it is run again. */
void urpc_fibers_leave(struct urpc_fibers *pool);

#endif
