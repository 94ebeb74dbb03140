/*
 * farmem/epoch.c: epochs for safe reuse (DESIGN section 6): staging slots, and records with their
 * slots.
 *
 * A runtime thread is active from before it loads a word until it has done with everything unpinned
 * it found there. (A fetch in flight needs no epoch: its live bit pins its record, record.h R2.)
 * Why epoch_passed is right: the unlinking CAS precedes the stamp (seq_cst increment), which
 * precedes the scan of `active`. A reader that the scan saw idle stores `active` after it, hence
 * loads words after the unlinking.
 *
 * A forked child reads for as long as it lives: its parent holds one epoch for all its children,
 * the oldest (`pinned`). Only records and slots wait for them: staging each has its own copy of.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "farmem/core.h"

#define EPOCH_IDLE 0ull

int epoch_register(struct core *core, const char *name, struct epoch_thread *thread)
{
	for (unsigned i = 0; i < CATALOG_THREADS_MAX; i++) {
		struct catalog_thread *line = &core->catalog.threads[i];
		char *first = &line->name[0];
		char expected = 0;
		if (!__atomic_compare_exchange_n(
			    first, &expected, '?', 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		strncpy(line->name, name, sizeof(line->name) - 1);
		thread->line = line;
		thread->epoch = &core->catalog.header->epoch;
		return 0;
	}
	return -EAGAIN;
}

void epoch_unregister(struct epoch_thread *thread)
{
	FM_ASSERT_EQ(atomic_load(&thread->line->active), EPOCH_IDLE);
	memset(thread->line->name, 0, sizeof(thread->line->name));
	thread->line = NULL;
}

uint64_t epoch_stamp(struct core *core)
{
	return atomic_fetch_add_explicit(&core->catalog.header->epoch, 1, memory_order_seq_cst);
}

bool epoch_passed(struct core *core, uint64_t stamp)
{
	atomic_thread_fence(memory_order_seq_cst); /* partner: epoch_enter */
	for (unsigned i = 0; i < CATALOG_THREADS_MAX; i++) {
		uint64_t active = atomic_load_explicit(
			&core->catalog.threads[i].active, memory_order_acquire);
		if (active != EPOCH_IDLE && active <= stamp)
			return false;
	}
	return true;
}

bool epoch_passed_by_all(struct core *core, uint64_t stamp)
{
	atomic_thread_fence(memory_order_seq_cst); /* partner: epoch_pin */
	uint64_t pinned = atomic_load_explicit(&core->catalog.header->pinned, memory_order_acquire);
	return (pinned == EPOCH_IDLE || pinned > stamp) && epoch_passed(core, stamp);
}

uint64_t epoch_pin(struct core *core)
{
	uint64_t now = atomic_load_explicit(&core->catalog.header->epoch, memory_order_acquire);
	uint64_t idle = EPOCH_IDLE;
	/* An older pin covers ours. */
	(void)atomic_compare_exchange_strong_explicit(&core->catalog.header->pinned, &idle, now,
		memory_order_seq_cst, memory_order_acquire);
	atomic_thread_fence(memory_order_seq_cst);
	return now;
}

void epoch_unpin(struct core *core, uint64_t oldest)
{
	atomic_store_explicit(&core->catalog.header->pinned, oldest, memory_order_release);
}
