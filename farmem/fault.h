/*
 * farmem/fault.h: serving faults: first touch, rescue from staging, fetch from far (DESIGN section
 * 7, Swap-in).
 *
 * A struct fault_handler belongs to one thread. Nothing in here allocates, logs (short of a loss or
 * a bug) or takes a lock; eviction I/O is never waited for by a fetch while a clean page can be
 * found.
 */
#ifndef FM_FARMEM_FAULT_H
#define FM_FARMEM_FAULT_H

#include "farmem/stripe.h"

#define FAULT_PENDING_MAX 1024 /* faults that wait for somebody else's step */
#define FAULT_STREAMS 8
#define FAULT_AHEAD_MAX 32
#define FAULT_ZERO_AHEAD_MAX 16

struct fault_pending {
	uint32_t page;
	bool write_protected;
	uint64_t since_ns;
};

struct fault_stream {
	uint32_t expected; /* the page whose fault would prove the stream sequential */
	uint32_t window;
};

struct fault_handler {
	struct stripe *st;
	struct spanset_io *io;
	struct epoch_thread epoch;
	uint32_t private_slot;
	uint32_t ahead_max;
	unsigned pending_count;
	struct fault_pending pending[FAULT_PENDING_MAX];
	struct fault_stream streams[FAULT_STREAMS];
	unsigned stream_next;
	uint32_t zero_expected, zero_window;
	uint32_t faults_since_take;
	/* Loss beyond m, and --on-full kill: say it, once; never returns memory. May be NULL
	 * (simulator). */
	void (*report_loss)(struct fault_handler *h, uint32_t page, uint32_t group);
	void (*report_full)(struct fault_handler *h);
	void *owner;
};

/* A fault on a page of this handler's stripe. Never blocks; what cannot be served now is kept
 * pending. */
void fault_take(struct fault_handler *h, uint32_t page, bool write_protected);
/* Progress: fetches that arrived are installed, pending faults are looked at again. True when
 * anything moved. */
bool fault_progress(struct fault_handler *h);
/* Room for another fault_take? */
static inline bool fault_ready(const struct fault_handler *h)
{
	return h->pending_count < FAULT_PENDING_MAX;
}
/* Nothing in flight and nothing pending. */
static inline bool fault_idle(const struct fault_handler *h)
{
	return h->pending_count == 0 && spanset_fetches(h->io) == 0 &&
	       spanset_lingering(h->io) == 0;
}

#endif
