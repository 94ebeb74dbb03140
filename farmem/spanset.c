/*
 * farmem/spanset.c: one thread's spanset_io: opening and closing it, waiting for completions
 * (spanset.h).
 *
 * Together spanset*.c are the only files that know both codes and fabric. One spanset_io per
 * thread, no locks here.
 */
#include "farmem/spanset_io.h"

#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"

/* ---- progress ---- */

static void spanset_completion(struct spanset_io *io, const struct fabric_completion *c)
{
	unsigned index = TAG_INDEX(c->tag);
	FM_ASSERT_LT(index, SPANSET_FETCH_MAX);
	if (TAG_KIND(c->tag) == TAG_DEGRADED) {
		spanset_degraded_done(io, &io->fetches[index], TAG_POS(c->tag), c->status);
		return;
	}
	if (TAG_KIND(c->tag) == TAG_PIECE) {
		spanset_split_done(io, &io->fetches[index], TAG_POS(c->tag), c->status);
		return;
	}
	FM_ASSERT(TAG_KIND(c->tag) == TAG_DIRECT || TAG_KIND(c->tag) == TAG_SPLIT);
	while (index != SPANSET_NO_FETCH) {
		unsigned next = io->next_in_read[index];
		if (TAG_KIND(c->tag) == TAG_SPLIT)
			spanset_split_done(io, &io->fetches[index], TAG_POS(c->tag), c->status);
		else
			spanset_direct_done(io, &io->fetches[index], c->status);
		index = next;
	}
}

/* After a poll that found nothing. Returns when to look again. */
static uint64_t spanset_hedge_look(struct spanset_io *io)
{
	uint64_t now = clock_now_ns();
	if (fm_unlikely(now >= io->hedge_ns))
		spanset_hedge_late(io, now);
	return io->hedge_armed != 0 ? io->hedge_ns : CLOCK_NEVER_NS;
}

struct spanset_fetch *spanset_fetch_poll(struct spanset_io *io, uint64_t until_ns)
{
	struct fabric_completion c[SPANSET_COMPLETIONS];
	for (;;) {
		uint64_t next = spanset_fetch_wake(io);
		if (io->done_count > 0)
			return &io->fetches[io->done[--io->done_count]];
		if (io->active_count + io->lingering_count == 0)
			return NULL;
		unsigned count = fabric_poll(io->lane.queue, c, SPANSET_COMPLETIONS);
		if (count == 0 && io->hedge_armed != 0)
			next = FM_MIN(next, spanset_hedge_look(io));
		if (count == 0 && until_ns > 0 && io->active_count > 0)
			count = fabric_wait(
				io->lane.queue, c, SPANSET_COMPLETIONS, FM_MIN(until_ns, next));
		for (unsigned i = 0; i < count; i++)
			spanset_completion(io, &c[i]);
		if (io->active_count == 0)
			return NULL;
		if (count == 0 && io->done_count == 0 &&
			(until_ns == 0 || clock_now_ns() >= until_ns))
			return NULL;
	}
}

bool spanset_fetch_wait_any(struct spanset_io *io, uint64_t until_ns)
{
	struct fabric_completion c[SPANSET_COMPLETIONS];
	if (fabric_in_flight(io->lane.queue) == 0)
		return false;
	if (io->hedge_armed != 0)
		until_ns = FM_MIN(until_ns, io->hedge_ns);
	unsigned count = fabric_wait(io->lane.queue, c, SPANSET_COMPLETIONS, until_ns);
	for (unsigned i = 0; i < count; i++)
		spanset_completion(io, &c[i]);
	return true;
}

void spanset_fetch_end(struct spanset_io *io, struct spanset_fetch *fetch)
{
	FM_ASSERT_EQ(fetch->phase, FETCH_DONE);
	io->active_count--;
	io->lingering_count++;
	spanset_set_phase(io, fetch, FETCH_LINGER);
	spanset_fetch_settle(io, fetch);
}

unsigned spanset_fetches(const struct spanset_io *io)
{
	return io->active_count;
}

unsigned spanset_lingering(const struct spanset_io *io)
{
	return io->lingering_count;
}

bool spanset_fetch_ready(const struct spanset_io *io)
{
	return io->active_count + io->lingering_count < SPANSET_FETCH_MAX;
}

/* ---- opening and closing ---- */

/*
 * What operations use, and stays mapped as it is. Not so staging: its pages come and go
 * (UFFDIO_MOVE, MADV_DONTNEED), which no registration survives, so verbs copies them.
 */
static void spanset_tell_memory(struct spanset_io *io)
{
	struct fabric_queue *queue = io->lane.queue;
	fabric_memory(queue, io->fetch_buffers, SPANSET_FETCH_MAX * FM_PAGE_SIZE);
	fabric_memory(queue, io->workspaces, SPANSET_DEGRADED_MAX * SPANSET_WORKSPACE_BYTES);
	fabric_memory(queue, io->zeros, FM_PAGE_SIZE);
	if (io->parity)
		fabric_memory(queue, io->parity, SPANSET_PARITY_BYTES);
}

int spanset_io_open(
	struct core *core, const struct spanset_io_options *options, struct spanset_io **io)
{
	struct spanset_io *made = mem_map(sizeof(*made));
	if (made == NULL)
		return -ENOMEM;
	made->core = core;
	made->options = *options;
	made->soft_deadline_ns = options->store_deadline_ns;
	made->last_group = group_id_none();
	made->hedge_ns = CLOCK_NEVER_NS;
	hedge_open(&made->hedge);
	made->fetch_buffers = mem_map(SPANSET_FETCH_MAX * FM_PAGE_SIZE);
	made->workspaces = mem_map(SPANSET_DEGRADED_MAX * SPANSET_WORKSPACE_BYTES);
	made->zeros = mem_map(FM_PAGE_SIZE);
	if (options->stores)
		made->parity = mem_map(SPANSET_PARITY_BYTES);
	int rc = -ENOMEM;
	if (made->fetch_buffers && made->workspaces && made->zeros &&
		(made->parity || !options->stores))
		rc = spanset_split_open(made);
	if (rc == 0)
		rc = lane_open(&made->lane, core, options->spin_ns);
	if (rc == 0)
		spanset_tell_memory(made);
	if (rc == 0 && options->stores)
		rc = epoch_register(core, options->name, &made->thread);
	if (rc != 0)
		spanset_io_close(made);
	else
		*io = made;
	return rc;
}

/* What lingers ends by its deadline at the latest: the fabric completes everything. */
static void spanset_drain(struct spanset_io *io)
{
	struct fabric_completion c[SPANSET_COMPLETIONS];
	while (io->lingering_count > 0) {
		unsigned count =
			fabric_wait(io->lane.queue, c, SPANSET_COMPLETIONS, CLOCK_NEVER_NS);
		for (unsigned i = 0; i < count; i++)
			spanset_completion(io, &c[i]);
	}
}

void spanset_io_close(struct spanset_io *io)
{
	if (io == NULL)
		return;
	FM_ASSERT_EQ(io->active_count, 0);
	spanset_drain(io);
	if (io->thread.line != NULL)
		epoch_unregister(&io->thread);
	lane_close(&io->lane);
	spanset_split_close(io);
	mem_unmap(io->parity, io->parity ? SPANSET_PARITY_BYTES : 0);
	mem_unmap(io->zeros, FM_PAGE_SIZE);
	mem_unmap(io->workspaces, SPANSET_DEGRADED_MAX * SPANSET_WORKSPACE_BYTES);
	mem_unmap(io->fetch_buffers, SPANSET_FETCH_MAX * FM_PAGE_SIZE);
	mem_unmap(io, sizeof(*io));
}
