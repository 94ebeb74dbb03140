/*
 * base/ring.c: bounded queue for many producers and many consumers (after Dmitry Vyukov's).
 *
 * Each cell carries a turn. For position p (counting from 0, cell p & mask):
 *   turn == p              free, waits for the push that owns position p
 *   turn == p + 1          filled, waits for the pop that owns position p
 *   turn == p + capacity   free again, for the next round
 * Invariants:
 *   1. Only the thread whose compare-and-swap moved tail (head) past p writes (reads) the cell of
 * p.
 *   2. The release store of `turn` pairs with the other side's acquire load of it: the value goes
 * with it.
 */
#include "base/ring.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/assert.h"
#include "base/mem.h"

struct ring_cell {
	_Atomic uint64_t turn;
	uint64_t value;
};

int ring_open(struct ring *r, uint64_t capacity)
{
	FM_ASSERT(capacity >= 2 && (capacity & (capacity - 1)) == 0);
	r->cells = mem_map(capacity * sizeof(*r->cells));
	if (r->cells == NULL)
		return -ENOMEM;
	r->mask = capacity - 1;
	for (uint64_t i = 0; i < capacity; i++)
		atomic_init(&r->cells[i].turn, i);
	atomic_init(&r->head, 0);
	atomic_init(&r->tail, 0);
	return 0;
}

void ring_close(struct ring *r)
{
	if (r->cells == NULL)
		return;
	mem_unmap(r->cells, (r->mask + 1) * sizeof(*r->cells));
	r->cells = NULL;
}

bool ring_push(struct ring *r, uint64_t value)
{
	uint64_t position = atomic_load_explicit(&r->tail, memory_order_relaxed);

	for (;;) {
		struct ring_cell *cell = &r->cells[position & r->mask];
		int64_t ahead = (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) -
					  position);

		if (ahead < 0)
			return false;
		if (ahead > 0) { /* another producer took this position */
			position = atomic_load_explicit(&r->tail, memory_order_relaxed);
			continue;
		}
		if (atomic_compare_exchange_weak_explicit(&r->tail, &position, position + 1,
			    memory_order_relaxed, memory_order_relaxed)) {
			cell->value = value;
			atomic_store_explicit(&cell->turn, position + 1, memory_order_release);
			return true;
		}
	}
}

bool ring_pop(struct ring *r, uint64_t *value)
{
	uint64_t position = atomic_load_explicit(&r->head, memory_order_relaxed);

	for (;;) {
		struct ring_cell *cell = &r->cells[position & r->mask];
		int64_t ahead = (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) -
					  (position + 1));

		if (ahead < 0)
			return false;
		if (ahead > 0) { /* another consumer took this position */
			position = atomic_load_explicit(&r->head, memory_order_relaxed);
			continue;
		}
		if (atomic_compare_exchange_weak_explicit(&r->head, &position, position + 1,
			    memory_order_relaxed, memory_order_relaxed)) {
			*value = cell->value;
			atomic_store_explicit(
				&cell->turn, position + r->mask + 1, memory_order_release);
			return true;
		}
	}
}

uint64_t ring_count(const struct ring *r)
{
	uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);

	return tail > head ? tail - head : 0;
}
