/*
 * farmem/spanset_split.c: reads under `--scheme split`: a page is k pieces on k nodes, with m
 * parities of them (farmem/scheme.h; Hydra's way, so that it can be held against whole spans).
 *
 * Callers: spanset.c, spanset_fetch.c, spanset_degraded.c (waking), spanset_hedge.c. The other ways
 * of a fetch, and its end, are those of spanset.h.
 *
 *     FETCH_DIRECT --k right pieces, whichever--> done
 *       |  ^                                       ^
 *       |  +-- late: others are asked too ---------+
 *       | a piece failed: another one is asked     |
 *       v                                          |
 *     FETCH_DEGRADED ------------------------------+
 *       |  ^  nothing left to ask          more than m gone --> -EIO
 *       v  |
 *     FETCH_WAITING
 *
 * The k data pieces are asked for, a parity in the place of each that is not to be had; neighbours
 * share a read in every column. They are read to where they belong in the page: while all come
 * there is nothing to decode and nothing to copy. Hydra asks for one more than it needs, always,
 * and takes the first k. Here the others are asked for when a piece is late (hedge.h says when): on
 * fabrics whose cost is the CPU's, one more read for every fault costs more than it gains.
 *
 * Invariants
 *   1. `out` has the positions that were asked and have not answered; pending_count is their
 * number. Until it is 0 the fetch, its buffer and its pieces belong to the fabric too
 * (FETCH_LINGER).
 *   2. Nothing but the fabric writes to a place in the page whose position is in `out`: with some
 *      still there, what is decoded goes to a page beside it.
 *   3. Fetches that share reads share them in every column, and none is free before the last has
 *      answered: so next_in_read holds.
 */
#include "farmem/spanset_io.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/mem.h"
#include "ec/ec.h"

#define SPLIT_PIECES_BYTES ((1u + EC_M_MAX) * FM_PAGE_SIZE) /* a page beside, parities */

struct spanset_split {
	uint32_t out;
	uint32_t probe; /* the position that is a probe, one bit */
	uint64_t posted_ns[EC_N_MAX];
	uint32_t generations[EC_N_MAX];
};

int spanset_split_open(struct spanset_io *io)
{
	if (!scheme_splits(&io->core->catalog))
		return 0;
	io->split = mem_map(SPANSET_FETCH_MAX * sizeof(struct spanset_split));
	io->pieces = mem_map(SPANSET_FETCH_MAX * SPLIT_PIECES_BYTES);
	return io->split != NULL && io->pieces != NULL ? 0 : -ENOMEM;
}

void spanset_split_close(struct spanset_io *io)
{
	mem_unmap(io->split, io->split ? SPANSET_FETCH_MAX * sizeof(struct spanset_split) : 0);
	mem_unmap(io->pieces, io->pieces ? SPANSET_FETCH_MAX * SPLIT_PIECES_BYTES : 0);
}

static struct spanset_split *split_of(const struct spanset_io *io, const struct spanset_fetch *f)
{
	return &io->split[spanset_fetch_index(io, f)];
}

static const struct catalog_group *split_group(
	const struct spanset_io *io, const struct spanset_fetch *f)
{
	return &io->core->catalog.groups[f->group];
}

static uint8_t *split_beside(const struct spanset_io *io, const struct spanset_fetch *f)
{
	return io->pieces + (size_t)spanset_fetch_index(io, f) * SPLIT_PIECES_BYTES;
}

/* Where a position's piece is read to. */
static uint8_t *split_piece(
	const struct spanset_io *io, const struct spanset_fetch *f, unsigned pos)
{
	const struct catalog_group *g = split_group(io, f);
	uint32_t bytes = scheme_slot_bytes(&io->core->catalog, g);
	if (pos < g->k)
		return spanset_fetch_buffer(io, f) + (size_t)pos * bytes;
	return split_beside(io, f) + FM_PAGE_SIZE + (size_t)(pos - g->k) * bytes;
}

static unsigned split_good(const struct spanset_fetch *f)
{
	return (unsigned)__builtin_popcount(f->good);
}

static uint32_t split_data(const struct catalog_group *g)
{
	return (1u << g->k) - 1;
}

/* ---- asking ---- */

/* Whom to ask first, whom next. */
enum split_pass { SPLIT_WELL, SPLIT_SLOW, SPLIT_SUSPECT, SPLIT_PASSES };

/* One column for fetches that are neighbours in it. */
struct split_ask {
	const uint8_t *indexes;
	unsigned count, pos;
	enum split_pass pass;
	uint64_t now_ns;
};

static void split_asked(struct spanset_io *io, const struct split_ask *ask,
	const struct lane_doubt *at, uint32_t node)
{
	for (unsigned i = 0; i < ask->count; i++) {
		struct spanset_fetch *f = &io->fetches[ask->indexes[i]];
		struct spanset_split *split = split_of(io, f);
		f->nodes[ask->pos] = (uint16_t)node;
		f->posted |= 1u << ask->pos;
		f->pending_count++;
		split->out |= 1u << ask->pos;
		split->generations[ask->pos] = at->generation;
		split->posted_ns[ask->pos] = ask->now_ns;
	}
}

static bool split_post(struct spanset_io *io, const struct split_ask *ask,
	struct fabric_region *region, uint32_t slot)
{
	struct spanset_fetch *first = &io->fetches[ask->indexes[0]];
	uint32_t bytes = scheme_slot_bytes(&io->core->catalog, split_group(io, first));
	struct iovec iov[FABRIC_IOV_MAX];
	for (unsigned i = 0; i < ask->count; i++)
		iov[i] = (struct iovec){
			split_piece(io, &io->fetches[ask->indexes[i]], ask->pos), bytes};
	struct fabric_transfer t = {.offset = (uint64_t)slot * bytes,
		.iov = iov,
		.iov_count = ask->count,
		.tag = TAG(ask->count > 1 ? TAG_SPLIT : TAG_PIECE, ask->pos, ask->indexes[0]),
		.deadline_ns = ask->now_ns + io->options.fetch_deadline_ns};
	return fabric_post_read(region, &t) == 0;
}

/* A slow node is asked in the second pass, but for a probe: then others are asked too. */
static bool split_passes_by(
	struct spanset_io *io, const struct split_ask *ask, uint32_t node, bool *probe)
{
	struct spanset_fetch *first = &io->fetches[ask->indexes[0]];
	*probe = false;
	if (ask->pass != SPLIT_WELL || fm_likely(!hedge_node_slow(io->core, node)))
		return false;
	if (!io->options.hedges || !first->demand || first->probe)
		return true;
	enum hedge_way way = hedge_choose(&io->hedge, io->core, node, first->begun_ns);
	*probe = way == HEDGE_PROBE;
	return way == HEDGE_AROUND;
}

/* Posts the read of one column. False: it does not count, ask another one. */
static bool split_ask(struct spanset_io *io, const struct split_ask *ask)
{
	struct spanset_fetch *first = &io->fetches[ask->indexes[0]];
	struct lane_doubt at = spanset_fetch_at(io, first, ask->pos);
	bool any = ask->pass == SPLIT_SUSPECT, probe;
	struct fabric_region *region;
	uint32_t node;
	if (ask->count == 1) { /* a replacement may have one's slot and not the next one's */
		region = lane_source(&io->lane, at, any, &node);
	} else {
		node = catalog_column_node(&split_group(io, first)->columns[ask->pos]);
		region = lane_region(&io->lane, at.group, at.pos, any);
	}
	if (region == NULL || split_passes_by(io, ask, node, &probe))
		return false;
	bool posted = !FAULT_POINT("spanset.fetch.post") && split_post(io, ask, region, at.slot);
	if (probe) {
		first->probe = true;
		split_of(io, first)->probe = 1u << ask->pos;
	}
	if (posted)
		split_asked(io, ask, &at, node);
	else if (probe)
		spanset_split_probed(io, first, ask->pos, false);
	return posted && !probe;
}

/* Data pieces that are not read: because of slow nodes, or is it a degraded read? */
static void split_look(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = split_group(io, f);
	uint32_t around = split_data(g) & ~f->posted;
	for (; around != 0; around &= around - 1) {
		unsigned pos = (unsigned)__builtin_ctz(around);
		if (hedge_node_slow(io->core, catalog_column_node(&g->columns[pos])))
			f->was_slow = true;
		else
			f->was_degraded = true;
	}
	if (f->was_degraded)
		f->degraded_ns = f->begun_ns;
	else if (f->was_slow)
		catalog_count(&io->core->catalog, slow_reads, 1);
}

static void split_begin(struct spanset_io *io, struct spanset_fetch *f, unsigned together)
{
	struct spanset_split *split = split_of(io, f);
	f->group = spanset_fetch_group(io, f);
	f->direct_pages = (uint8_t)together;
	f->posted = f->good = f->bad = 0;
	split->out = split->probe = 0;
}

void spanset_split_post(struct spanset_io *io, const uint8_t *indexes, unsigned count)
{
	struct spanset_fetch *first = &io->fetches[indexes[0]];
	for (unsigned i = 0; i < count; i++) {
		split_begin(io, &io->fetches[indexes[i]], count);
		io->next_in_read[indexes[i]] = i + 1 < count ? indexes[i + 1] : SPANSET_NO_FETCH;
	}
	const struct catalog_group *g = split_group(io, first);
	unsigned missing = g->k;
	struct split_ask ask = {.indexes = indexes, .count = count, .now_ns = first->begun_ns};
	for (ask.pass = SPLIT_WELL; ask.pass < SPLIT_SUSPECT && missing > 0; ask.pass++)
		for (ask.pos = 0; ask.pos < (unsigned)g->k + g->m && missing > 0; ask.pos++)
			if ((first->posted & (1u << ask.pos)) == 0)
				missing -= split_ask(io, &ask);
	if (fm_unlikely(++io->reads % CATALOG_HEAT_EVERY == 0))
		atomic_fetch_add_explicit(
			&io->core->catalog.groups[first->group].heat, 1, memory_order_relaxed);
	for (unsigned i = 0; i < count; i++) {
		struct spanset_fetch *f = &io->fetches[indexes[i]];
		split_look(io, f);
		if (missing > 0)
			spanset_fetch_wait(io, f, 0);
		else if (f->demand)
			spanset_hedge_arm(io, f);
	}
}

bool spanset_split_adjacent(
	struct spanset_io *io, const struct spanset_fetch *a, const struct spanset_fetch *b)
{
	struct record ra = record_at(io->core, a->ssid), rb = record_at(io->core, b->ssid);
	uint32_t group = spanset_fetch_group(io, a);
	const struct catalog_group *g = &io->core->catalog.groups[group];
	if (group != spanset_fetch_group(io, b))
		return false;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (record_slot(rb, pos) != record_slot(ra, pos) + 1)
			return false;
	return true;
}

/* ---- what goes wrong ---- */

static void split_trouble(struct spanset_io *io, struct spanset_fetch *f)
{
	spanset_hedge_disarm(io, f);
	if (f->phase == FETCH_DIRECT)
		spanset_set_phase(io, f, FETCH_DEGRADED);
	if (f->was_degraded)
		return;
	f->was_degraded = true;
	f->degraded_ns = clock_now_ns();
}

/* More than m positions beyond recall, so that waiting is in vain? */
static bool split_beyond_m(struct spanset_io *io, const struct spanset_fetch *f)
{
	const struct catalog_group *g = split_group(io, f);
	uint32_t gone = f->bad;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (lane_gone(io->core, spanset_fetch_at(io, f, pos)))
			gone |= 1u << pos;
	if (clock_now_ns() - f->begun_ns > SPANSET_GIVE_UP_NS)
		return true;
	return (unsigned)__builtin_popcount(gone & ~f->good) > g->m;
}

/* Nobody is left to be asked now. Loss is final: it must be found twice (spanset_degraded.c). */
static void split_judge(struct spanset_io *io, struct spanset_fetch *f)
{
	bool beyond = split_beyond_m(io, f);
	if (beyond && f->doomed) {
		spanset_fetch_finish(io, f, -EIO);
		return;
	}
	if (beyond)
		f->bad = 0;
	f->doomed = beyond;
	spanset_fetch_wait(io, f, clock_now_ns() + SPANSET_RETRY_NS);
}

/* Asks for up to `wanted` positions more. */
static void split_ask_others(
	struct spanset_io *io, struct spanset_fetch *f, unsigned wanted, unsigned passes)
{
	const struct catalog_group *g = split_group(io, f);
	uint8_t index = (uint8_t)spanset_fetch_index(io, f);
	struct split_ask ask = {.indexes = &index, .count = 1, .now_ns = clock_now_ns()};
	for (ask.pass = SPLIT_WELL; ask.pass < passes; ask.pass++)
		for (ask.pos = 0; ask.pos < (unsigned)g->k + g->m && wanted > 0; ask.pos++)
			if (((f->posted | f->bad) & (1u << ask.pos)) == 0)
				wanted -= split_ask(io, &ask);
}

/* Asks for as many as are missing. */
static void split_step(struct spanset_io *io, struct spanset_fetch *f)
{
	unsigned k = split_group(io, f)->k, have = split_good(f) + f->pending_count;
	if (have < k)
		split_ask_others(io, f, k - have, SPLIT_PASSES);
	if (f->pending_count == 0)
		split_judge(io, f);
}

void spanset_split_again(struct spanset_io *io, struct spanset_fetch *f)
{
	spanset_set_phase(io, f, FETCH_DEGRADED);
	split_trouble(io, f);
	f->posted = f->good | split_of(io, f)->out;
	split_step(io, f);
}

/* ---- late ---- */

struct hedge_read spanset_split_late(const struct spanset_io *io, const struct spanset_fetch *f)
{
	uint32_t out = split_of(io, f)->out;
	unsigned pos = out != 0 ? (unsigned)__builtin_ctz(out) : 0;
	return (struct hedge_read){.group = f->group,
		.pos = pos,
		.node = f->nodes[pos],
		.pages = f->direct_pages,
		.begun_ns = f->begun_ns};
}

bool spanset_split_hurry(struct spanset_io *io, struct spanset_fetch *f)
{
	unsigned before = f->pending_count;
	split_ask_others(io, f, before, SPLIT_SLOW);
	return f->pending_count > before;
}

/* What the answer, or that it did not come first, says about its node. */
static struct hedge_read split_hedge_read(
	const struct spanset_io *io, const struct spanset_fetch *f, unsigned pos)
{
	return (struct hedge_read){.group = f->group,
		.pos = pos,
		.node = f->nodes[pos],
		.pages = f->direct_pages,
		.begun_ns = split_of(io, f)->posted_ns[pos]};
}

void spanset_split_probed(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, bool came)
{
	struct hedge_read read = split_hedge_read(io, f, pos);
	if (!came && (f->posted & (1u << pos)) == 0) /* it was not even asked */
		read.node = catalog_column_node(&split_group(io, f)->columns[pos]);
	hedge_probed(&io->hedge, io->core, &read, clock_now_ns(), came);
	split_of(io, f)->probe = 0;
	f->probe = false;
}

static void split_learn(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status)
{
	struct hedge_read read = split_hedge_read(io, f, pos);
	if (fm_unlikely(split_of(io, f)->probe & (1u << pos)))
		spanset_split_probed(io, f, pos, status == 0);
	else if (fm_likely(status == 0))
		hedge_learn(&io->hedge, io->core, &read, clock_now_ns());
	else if (status == -ETIMEDOUT)
		hedge_beaten(&io->hedge, io->core, &read, clock_now_ns());
}

/* ---- answers ---- */

static bool split_piece_good(
	struct spanset_io *io, const struct spanset_fetch *f, unsigned pos, const uint8_t *bytes)
{
	return spanset_bytes_good(io, f, pos,
		&(struct iovec){(void *)(uintptr_t)bytes,
			scheme_slot_bytes(&io->core->catalog, split_group(io, f))},
		f->nodes[pos]);
}

/* Makes the data pieces that have not come. False: what came out is wrong. */
static bool split_decode(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = split_group(io, f);
	uint32_t bytes = scheme_slot_bytes(&io->core->catalog, g);
	uint32_t missing = split_data(g) & ~f->good;
	const uint8_t *sources[EC_K_MAX];
	uint8_t *out[EC_K_MAX];
	struct ec_plan plan;
	if ((missing & split_of(io, f)->out) != 0) { /* invariant 2 */
		f->bytes = split_beside(io, f);
		for (unsigned pos = 0; pos < g->k; pos++)
			if ((f->good >> pos) & 1)
				memcpy(f->bytes + (size_t)pos * bytes, split_piece(io, f, pos),
					bytes);
	}
	int rc = ec_plan_init(&plan, core_code(io->core, g->k, g->m), f->good, missing);
	FM_ASSERT_EQ(rc, 0);
	for (unsigned i = 0; i < plan.source_count; i++)
		sources[i] = split_piece(io, f, plan.sources[i]);
	for (unsigned i = 0; i < plan.wanted_count; i++)
		out[i] = f->bytes + (size_t)plan.wanted[i] * bytes;
	ec_rebuild(&plan, bytes, sources, out);
	for (unsigned i = 0; i < plan.wanted_count; i++)
		if (!split_piece_good(io, f, plan.wanted[i], out[i]))
			return false;
	return true;
}

static void split_finish(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = split_group(io, f);
	spanset_hedge_disarm(io, f);
	if (fm_unlikely((f->good & split_data(g)) != split_data(g)) && !split_decode(io, f)) {
		/* Right pieces, wrong whole: none of them is believed. */
		f->bytes = spanset_fetch_buffer(io, f);
		f->good = 0;
		split_trouble(io, f);
		spanset_fetch_wait(io, f, clock_now_ns() + SPANSET_RETRY_NS);
		return;
	}
	if (!f->was_degraded)
		hist_record(&io->core->catalog.stats->fetch_ns, clock_now_ns() - f->begun_ns);
	uint32_t beaten = f->was_hedged ? split_of(io, f)->out : 0;
	catalog_count(&io->core->catalog, hedged_wins, beaten != 0);
	for (; beaten != 0; beaten &= beaten - 1) {
		unsigned pos = (unsigned)__builtin_ctz(beaten);
		struct hedge_read read = split_hedge_read(io, f, pos);
		if ((split_of(io, f)->probe & (1u << pos)) == 0)
			hedge_beaten(&io->hedge, io->core, &read, clock_now_ns());
	}
	spanset_fetch_finish(io, f, 0);
}

/* A column that was put elsewhere since is asked again there; nobody is to blame for it. */
static bool split_moved(struct spanset_io *io, const struct spanset_fetch *f, unsigned pos)
{
	return lane_generation(io->core, f->group, pos) != split_of(io, f)->generations[pos];
}

static void split_failed(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status)
{
	if (split_moved(io, f, pos)) {
		f->posted &= ~(1u << pos);
		return;
	}
	if (status == -ETIMEDOUT)
		catalog_count(&io->core->catalog, fetch_timeouts, 1);
	lane_suspect(&io->lane, f->nodes[pos]);
}

void spanset_split_done(struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status)
{
	bool over = f->phase == FETCH_DONE || f->phase == FETCH_LINGER;
	f->pending_count--;
	split_of(io, f)->out &= ~(1u << pos);
	if (f->demand)
		split_learn(io, f, pos, status);
	if (status != 0)
		split_failed(io, f, pos, status);
	if (fm_unlikely(over)) {
		spanset_fetch_settle(io, f);
		return;
	}
	if (status == 0 && fm_likely(split_piece_good(io, f, pos, split_piece(io, f, pos))))
		f->good |= 1u << pos;
	else if (status == 0)
		f->bad |= 1u << pos;
	if (fm_unlikely((f->good & (1u << pos)) == 0) && (status == 0 || !split_moved(io, f, pos)))
		split_trouble(io, f);
	if (split_good(f) >= split_group(io, f)->k)
		split_finish(io, f);
	else if (split_good(f) + f->pending_count < split_group(io, f)->k &&
		 f->phase != FETCH_WAITING)
		split_step(io, f);
}
