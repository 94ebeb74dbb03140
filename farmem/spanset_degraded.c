/*
 * farmem/spanset_degraded.c: a span that could not be read directly: any k other positions of its
 * spanset, each checked, and one span decoded (DESIGN section 7, Degraded read; invariant 4).
 *
 *     FETCH_WAITING --workspace free, time come--> FETCH_DEGRADED --k good pieces--> done
 *           ^                                            |
 *           +------- too few, and not beyond recall -----+----- more than m gone --> -EIO
 *
 *     FETCH_HEDGED: the same beside a direct read that is late (spanset_hedge.c): it never fails,
 * it gives up, and decodes into the workspace's place of the own position, which nobody reads then:
 *     the fetch's buffer belongs to the direct read.
 */
#include "farmem/spanset_io.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "ec/ec.h"

static bool spanset_take_workspace(struct spanset_io *io, struct spanset_fetch *f)
{
	for (unsigned i = 0; i < SPANSET_DEGRADED_MAX; i++) {
		if (io->workspaces_used & (1u << i))
			continue;
		io->workspaces_used |= 1u << i;
		f->workspace = (int8_t)i;
		return true;
	}
	return false;
}

void spanset_workspace_release(struct spanset_io *io, struct spanset_fetch *f)
{
	if (f->workspace < 0 || f->pending_count > 0 || f->bytes != spanset_fetch_buffer(io, f))
		return;
	io->workspaces_used &= ~(1u << f->workspace);
	f->workspace = -1;
}

/* The page from k good positions. False: what came out is wrong. */
static bool spanset_rebuild(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	if (g->k == 1) { /* another copy, checked when it came */
		uint8_t *copy = spanset_workspace(io, f, (unsigned)__builtin_ctz(f->good));
		if (f->direct_out)
			f->bytes = copy;
		else
			memcpy(f->bytes, copy, FM_PAGE_SIZE);
		return true;
	}
	const uint8_t *sources[EC_K_MAX];
	uint8_t *out[1] = {f->bytes};
	if (f->direct_out)
		out[0] = f->bytes = spanset_workspace(io, f, f->pos);
	struct ec_plan plan;
	int rc = ec_plan_init(&plan, core_code(io->core, g->k, g->m), f->good, 1u << f->pos);
	FM_ASSERT_EQ(rc, 0);
	for (unsigned i = 0; i < plan.source_count; i++)
		sources[i] = spanset_workspace(io, f, plan.sources[i]);
	ec_rebuild(&plan, FM_PAGE_SIZE, sources, out);
	return spanset_piece_good(io, f, f->pos, f->bytes, f->node);
}

/* Are more than m positions beyond recall, so that waiting is in vain? */
static bool spanset_beyond_m(struct spanset_io *io, const struct spanset_fetch *f)
{
	uint32_t group = spanset_fetch_group(io, f);
	const struct catalog_group *g = &io->core->catalog.groups[group];
	uint32_t gone = f->bad;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (lane_gone(io->core, spanset_fetch_at(io, f, pos)))
			gone |= 1u << pos;
	if (clock_now_ns() - f->begun_ns > SPANSET_GIVE_UP_NS)
		return true;
	return (gone & (1u << f->pos)) != 0 && (unsigned)__builtin_popcount(gone) > g->m;
}

/* All answers to a hedge are in, and the direct read has still not come. */
static void spanset_hedge_judge(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	if ((unsigned)__builtin_popcount(f->good) >= g->k) {
		if (spanset_rebuild(io, f)) {
			spanset_hedge_won(io, f);
			spanset_fetch_finish(io, f, 0);
			return;
		}
	}
	f->bytes = spanset_fetch_buffer(io, f);
	spanset_workspace_release(io, f);
	spanset_set_phase(io, f, FETCH_DIRECT);
}

/* Loss is final, and columns may have come back while they were counted one after the other: it
 * must be found twice in a row, the second time without what was thought of their bytes before. */
static void spanset_degraded_doomed(struct spanset_io *io, struct spanset_fetch *f)
{
	if (f->doomed) {
		spanset_fetch_finish(io, f, -EIO);
		return;
	}
	f->doomed = true;
	f->bad = 0;
	spanset_workspace_release(io, f);
	spanset_fetch_wait(io, f, clock_now_ns() + SPANSET_RETRY_NS);
}

/* All answers are in. Decode, go on, or come back later. */
static void spanset_degraded_judge(struct spanset_io *io, struct spanset_fetch *f)
{
	if (f->phase == FETCH_HEDGED) {
		spanset_hedge_judge(io, f);
		return;
	}
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	/* Its own bytes after all: they need no others, which may be gone beyond m by now. */
	if (f->good & (1u << f->pos)) {
		memcpy(f->bytes, spanset_workspace(io, f, f->pos), FM_PAGE_SIZE);
		spanset_fetch_finish(io, f, 0);
		return;
	}
	if ((unsigned)__builtin_popcount(f->good) >= g->k) {
		if (spanset_rebuild(io, f))
			spanset_fetch_finish(io, f, 0);
		else
			spanset_degraded_doomed(io, f);
		return;
	}
	if (spanset_beyond_m(io, f)) {
		spanset_degraded_doomed(io, f);
		return;
	}
	f->doomed = false;
	spanset_workspace_release(io, f);
	spanset_fetch_wait(io, f, clock_now_ns() + SPANSET_RETRY_NS);
}

/* Whom to ask first, if it must be whom next. A hedge asks the first only. */
enum degraded_pass { DEGRADED_WELL, DEGRADED_SLOW, DEGRADED_SUSPECT, DEGRADED_PASSES };

static void spanset_degraded_post(
	struct spanset_io *io, struct spanset_fetch *f, unsigned pos, enum degraded_pass pass)
{
	struct lane_doubt at = spanset_fetch_at(io, f, pos);
	uint32_t node;
	struct fabric_region *region = lane_source(&io->lane, at, pass == DEGRADED_SUSPECT, &node);
	if (region == NULL || (pass == DEGRADED_WELL && hedge_node_slow(io->core, node)))
		return;
	f->nodes[pos] = (uint16_t)node;
	struct iovec iov = {spanset_workspace(io, f, pos), FM_PAGE_SIZE};
	struct fabric_transfer t = {.iov = &iov,
		.iov_count = 1,
		.offset = (uint64_t)at.slot * FM_PAGE_SIZE,
		.tag = TAG(TAG_DEGRADED, pos, spanset_fetch_index(io, f)),
		.deadline_ns = clock_now_ns() + io->options.fetch_deadline_ns};
	if (FAULT_POINT("spanset.degraded.post") || fabric_post_read(region, &t) != 0)
		return;
	io->generations[f->workspace][pos] = at.generation;
	f->posted |= 1u << pos;
	f->pending_count++;
}

/* How long requests wait at a column's node, as the agent says (farmem/agent/agent_load.c). A hint:
 * the column may be put elsewhere meanwhile. */
static uint32_t spanset_column_busy(struct spanset_io *io, const struct catalog_column *column)
{
	const struct catalog_node *node = &io->core->catalog.nodes[catalog_column_node(column)];
	return atomic_load_explicit(&node->busy, memory_order_relaxed);
}

/* The positions from the own one on, those at busy nodes last; as they are while nobody is busy. */
static void spanset_degraded_order(
	struct spanset_io *io, const struct spanset_fetch *f, uint8_t order[EC_N_MAX])
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	unsigned count = (unsigned)g->k + g->m;
	uint32_t busy[EC_N_MAX];
	for (unsigned i = 0; i < count; i++) {
		unsigned pos = (f->pos + i) % count, at = i;
		uint32_t own = spanset_column_busy(io, &g->columns[pos]);
		for (; at > 0 && busy[at - 1] > own; at--) {
			order[at] = order[at - 1];
			busy[at] = busy[at - 1];
		}
		order[at] = (uint8_t)pos;
		busy[at] = own;
	}
}

/* Asks for as many positions as are still missing. */
static void spanset_degraded_step(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	uint8_t order[EC_N_MAX];
	unsigned passes = f->phase == FETCH_HEDGED ? DEGRADED_SLOW : DEGRADED_PASSES;
	uint32_t not = f->direct_out ? 1u << f->pos : 0;
	spanset_degraded_order(io, f, order);
	for (unsigned pass = 0; pass < passes; pass++) {
		for (unsigned i = 0; i < (unsigned)g->k + g->m; i++) {
			unsigned pos = order[i];
			uint32_t bit = 1u << pos;
			if ((unsigned)__builtin_popcount(f->good) + f->pending_count >= g->k)
				return;
			if ((f->posted | f->bad | not ) & bit)
				continue;
			spanset_degraded_post(io, f, pos, pass);
		}
	}
	if (f->pending_count == 0)
		spanset_degraded_judge(io, f);
}

/*
 * A fetch that could not be read directly: tries the direct way again when its column is well (a
 * node that was merely restarted), else reads around it.
 */
void spanset_degraded_begin(struct spanset_io *io, struct spanset_fetch *f)
{
	if (io->split != NULL) {
		spanset_split_again(io, f);
		return;
	}
	if (!spanset_take_workspace(io, f)) {
		/* At the next answer: one that uses a workspace is on its way. */
		spanset_fetch_wait(io, f, 0);
		return;
	}
	spanset_set_phase(io, f, FETCH_DEGRADED);
	f->posted = f->good = 0;
	if (!f->was_degraded && !f->was_slow) {
		f->degraded_ns = clock_now_ns();
		f->was_degraded = true;
	}
	spanset_degraded_step(io, f);
}

bool spanset_degraded_beside(struct spanset_io *io, struct spanset_fetch *f)
{
	if (!spanset_take_workspace(io, f))
		return false;
	spanset_set_phase(io, f, FETCH_HEDGED);
	f->posted = f->good = 0;
	spanset_degraded_step(io, f);
	return true;
}

/* A column that was put elsewhere since is asked again there; nobody is to blame for it. */
static void spanset_piece_failed(struct spanset_io *io, struct spanset_fetch *f, unsigned pos)
{
	uint32_t group = spanset_fetch_group(io, f);
	if (lane_generation(io->core, group, pos) == io->generations[f->workspace][pos])
		lane_suspect(&io->lane, f->nodes[pos]);
	else
		f->posted &= ~(1u << pos);
}

void spanset_degraded_done(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status)
{
	f->pending_count--;
	if (f->phase == FETCH_DONE || f->phase == FETCH_LINGER) {
		spanset_fetch_settle(io, f);
		return;
	}
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	if (status == 0 &&
		spanset_piece_good(io, f, pos, spanset_workspace(io, f, pos), f->nodes[pos]))
		f->good |= 1u << pos;
	else if (status == 0)
		f->bad |= 1u << pos;
	else
		spanset_piece_failed(io, f, pos);
	if ((unsigned)__builtin_popcount(f->good) + f->pending_count < g->k)
		spanset_degraded_step(io, f);
	else if (f->pending_count == 0)
		spanset_degraded_judge(io, f);
}

uint64_t spanset_fetch_wake(struct spanset_io *io)
{
	uint64_t next = CLOCK_NEVER_NS;
	if (fm_likely(io->troubled_count == 0))
		return next;
	uint64_t now = clock_now_ns();
	for (unsigned i = 0; i < SPANSET_FETCH_MAX; i++) {
		struct spanset_fetch *f = &io->fetches[i];
		if (f->phase == FETCH_WAITING && f->retry_ns <= now)
			spanset_degraded_begin(io, f);
		if (f->phase == FETCH_WAITING)
			next = FM_MIN(
				next, f->retry_ns > now ? f->retry_ns : now + SPANSET_RETRY_NS);
	}
	return next;
}
