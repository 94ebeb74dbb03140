/*
 * farmem/gate.c: see gate.h.
 *
 * Who enters counts himself in before he looks at `closed`; who closes sets `closed` before he
 * looks at `inside`; both seq_cst: one of the two sees the other.
 */
#include "farmem/gate.h"

#include "base/assert.h"
#include "base/compiler.h"
#include "base/futex.h"

void gate_leave(struct gate *g)
{
	uint32_t before = atomic_fetch_sub_explicit(&g->inside, 1, memory_order_seq_cst);
	FM_ASSERT(before > 0);
	if (fm_unlikely(atomic_load_explicit(&g->closed, memory_order_seq_cst)))
		futex_wake(&g->inside, 1);
}

bool gate_try(struct gate *g)
{
	atomic_fetch_add_explicit(&g->inside, 1, memory_order_seq_cst);
	if (fm_likely(!atomic_load_explicit(&g->closed, memory_order_seq_cst)))
		return true;
	gate_leave(g);
	return false;
}

void gate_enter(struct gate *g)
{
	while (!gate_try(g))
		(void)futex_wait(&g->closed, 1, UINT64_MAX);
}

void gate_close(struct gate *g)
{
	uint32_t inside;
	atomic_store_explicit(&g->closed, 1, memory_order_seq_cst);
	while ((inside = atomic_load_explicit(&g->inside, memory_order_seq_cst)) != 0)
		(void)futex_wait(&g->inside, inside, UINT64_MAX);
}

void gate_open(struct gate *g)
{
	atomic_store_explicit(&g->closed, 0, memory_order_seq_cst);
	futex_wake(&g->closed, INT32_MAX);
}

void gate_reset(struct gate *g)
{
	atomic_store(&g->inside, 0);
	atomic_store(&g->closed, 0);
}
