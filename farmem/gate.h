/*
 * farmem/gate.h: keeps pages from going while a fork copies the address space.
 *
 * Whoever takes a page out of its place, drops one, or lets a word name other bytes than it did
 * (evict_take, evict_publish, purge) is inside its stripe's gate while he does it, and never waits
 * for a node in there but for one fetch (purge). fork.c closes the gates, waits until nobody is
 * inside, copies the words and forks. Faults go on meanwhile: a page may come, none may go. So what
 * is missing in the child is what the copied words say.
 *
 * Lock order: range.map_lock  <  gate  <  stripe.take_lock, range.lock
 */
#ifndef FM_FARMEM_GATE_H
#define FM_FARMEM_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct gate {
	_Atomic uint32_t inside; /* futex while closed */
	_Atomic uint32_t closed; /* futex */
};

/* Waits while it is closed. Not to be entered twice by one thread. */
void gate_enter(struct gate *g);
/* False while it is closed. */
bool gate_try(struct gate *g);
void gate_leave(struct gate *g);
static inline bool gate_is_closed(const struct gate *g)
{
	return atomic_load_explicit(&g->closed, memory_order_relaxed) != 0;
}

/* For fork.c, one caller at a time. Returns when nobody is inside. */
void gate_close(struct gate *g);
void gate_open(struct gate *g);
/* In a forked child: nobody else is here. */
void gate_reset(struct gate *g);

#endif
