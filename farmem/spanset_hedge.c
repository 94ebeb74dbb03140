/*
 * farmem/spanset_hedge.c: reads that are late get a second way, reads from slow nodes another one
 * (spanset.h, Hedge; the rules are hedge.h's).
 *
 * Callers: spanset.c, spanset_fetch.c, spanset_degraded.c. Only a spanset_io with options.hedges,
 * only fetches with `demand`: what it costs the others, and a read that is not late, is a
 * comparison.
 *
 *     FETCH_DIRECT --late, a token, k others well--> FETCH_HEDGED --first right bytes--> done
 *          ^                                              |
 *          +---------------- hedge gave up ---------------+
 *
 * Invariants
 *   1. A fetch is hedged at most once, and at most SPANSET_HEDGED_MAX fetches of a thread are or
 *      linger: so there are always fetches and workspaces left.
 *   2. While direct_out, nothing but the fabric writes to the fetch's own buffer.
 *   3. hedge_armed has the bit of each demand read that is on its way alone; hedge_ns is not after
 *      the time when the first of them is to be looked at.
 */
#include "farmem/spanset_io.h"

#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"

static uint64_t spanset_hedge_bit(const struct spanset_io *io, const struct spanset_fetch *f)
{
	return 1ull << spanset_fetch_index(io, f);
}
FM_BUILD_ASSERT(SPANSET_FETCH_MAX <= 64, "a bit for each fetch");
FM_BUILD_ASSERT(SPANSET_DEGRADED_MAX <= 32, "a bit for each workspace");
FM_BUILD_ASSERT(SPANSET_HEDGED_MAX < SPANSET_DEGRADED_MAX, "workspaces for the others");

static struct hedge_read spanset_hedge_read(
	const struct spanset_io *io, const struct spanset_fetch *f)
{
	if (io->split != NULL)
		return spanset_split_late(io, f);
	return (struct hedge_read){.group = f->group,
		.pos = f->pos,
		.node = f->node,
		.pages = f->direct_pages,
		.begun_ns = f->begun_ns};
}

void spanset_hedge_disarm(struct spanset_io *io, const struct spanset_fetch *f)
{
	io->hedge_armed &= ~spanset_hedge_bit(io, f);
	if (io->hedge_armed == 0)
		io->hedge_ns = CLOCK_NEVER_NS;
}

/* False: no workspace. */
static bool spanset_hedge_start(struct spanset_io *io, struct spanset_fetch *f)
{
	FM_ASSERT((f->direct_out || io->split != NULL) && !f->was_hedged); /* invariants 1, 2 */
	f->was_hedged = true;
	if (io->split != NULL ? !spanset_split_hurry(io, f) : !spanset_degraded_beside(io, f)) {
		f->was_hedged = false;
		return false;
	}
	io->hedged_count++;
	catalog_count(&io->core->catalog, hedged_reads, 1);
	return true;
}

void spanset_hedge_arm(struct spanset_io *io, struct spanset_fetch *f)
{
	if (!io->options.hedges || f->was_hedged)
		return;
	hedge_earn(&io->hedge);
	if (fm_unlikely(f->probe) && io->split == NULL && spanset_hedge_start(io, f))
		return;
	f->hedge_ns = f->begun_ns + HEDGE_FLOOR_NS;
	io->hedge_armed |= spanset_hedge_bit(io, f);
	io->hedge_ns = FM_MIN(io->hedge_ns, f->hedge_ns);
}

static void spanset_hedge_consider(struct spanset_io *io, struct spanset_fetch *f, uint64_t now_ns)
{
	struct hedge_read read = spanset_hedge_read(io, f);
	uint64_t late_ns = f->begun_ns + hedge_after(&io->hedge, io->core, &read);
	if (now_ns < late_ns) {
		f->hedge_ns = late_ns;
		return;
	}
	f->hedge_ns = now_ns + HEDGE_AGAIN_NS;
	if (io->hedged_count < SPANSET_HEDGED_MAX &&
		hedge_has_others(io->core, read.group, read.pos) && hedge_spend(&io->hedge) &&
		spanset_hedge_start(io, f))
		io->hedge_armed &= ~spanset_hedge_bit(io, f);
}

void spanset_hedge_late(struct spanset_io *io, uint64_t now_ns)
{
	uint64_t next = CLOCK_NEVER_NS;
	for (uint64_t left = io->hedge_armed; left != 0; left &= left - 1) {
		struct spanset_fetch *f = &io->fetches[__builtin_ctzll(left)];
		if (f->hedge_ns <= now_ns)
			spanset_hedge_consider(io, f, now_ns);
		if (io->hedge_armed & spanset_hedge_bit(io, f))
			next = FM_MIN(next, f->hedge_ns);
	}
	io->hedge_ns = next; /* invariant 3 */
}

unsigned spanset_hedge_around(
	struct spanset_io *io, const uint8_t *indexes, unsigned count, uint32_t node)
{
	struct spanset_fetch *first = &io->fetches[indexes[0]];
	uint32_t group = spanset_fetch_group(io, first);
	enum hedge_way way = HEDGE_AROUND;
	if (!io->options.hedges || !hedge_has_others(io->core, group, first->pos))
		return count;
	if (first->demand && !first->was_hedged && io->hedged_count < SPANSET_HEDGED_MAX)
		way = hedge_choose(&io->hedge, io->core, node, first->begun_ns);
	if (way == HEDGE_DIRECT)
		return count;
	unsigned direct = way == HEDGE_PROBE;
	first->probe = direct != 0;
	for (unsigned i = direct; i < count; i++) {
		struct spanset_fetch *f = &io->fetches[indexes[i]];
		f->was_slow = true;
		f->node = node;
		hedge_earn(&io->hedge);
		spanset_degraded_begin(io, f);
	}
	catalog_count(&io->core->catalog, slow_reads, count - direct);
	return direct;
}

void spanset_hedge_done(struct spanset_io *io, struct spanset_fetch *f, int status)
{
	struct hedge_read read = spanset_hedge_read(io, f);
	spanset_hedge_disarm(io, f);
	if (fm_unlikely(f->probe))
		hedge_probed(&io->hedge, io->core, &read, clock_now_ns(), status == 0);
	else if (fm_likely(status == 0))
		hedge_learn(&io->hedge, io->core, &read, clock_now_ns());
	else if (status == -ETIMEDOUT) /* suspect now; when it is up again, still slow */
		hedge_beaten(&io->hedge, io->core, &read, clock_now_ns());
	f->probe = false;
}

void spanset_hedge_won(struct spanset_io *io, struct spanset_fetch *f)
{
	struct hedge_read read = spanset_hedge_read(io, f);
	catalog_count(&io->core->catalog, hedged_wins, 1);
	if (!f->probe)
		hedge_beaten(&io->hedge, io->core, &read, clock_now_ns());
}
