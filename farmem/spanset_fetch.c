/*
 * farmem/spanset_fetch.c: direct reads: one one-sided read of one span, checked (spanset.h, Fetch).
 *
 * Callers: fault.c and repack.c. Order: begin, submit, the answer; what goes wrong goes to
 * spanset_degraded.c.
 *
 * Invariant: a direct read that failed is tried once more where the column is now, when the agent
 * has replaced the column since it was posted; only then is it trouble. So a drain degrades
 * nothing.
 */
#include "farmem/spanset_io.h"

#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "base/log.h"

struct spanset_fetch *spanset_fetch_begin(
	struct spanset_io *io, uint32_t page, struct ssid ssid, uint32_t pos)
{
	for (unsigned i = 0; i < SPANSET_FETCH_MAX; i++) {
		struct spanset_fetch *f = &io->fetches[i];
		if (f->phase != FETCH_FREE)
			continue;
		*f = (struct spanset_fetch){.phase = FETCH_DIRECT,
			.page = page,
			.ssid = ssid,
			.pos = pos,
			.begun_ns = clock_now_ns(),
			.workspace = -1,
			.bytes = io->fetch_buffers + (size_t)i * FM_PAGE_SIZE};
		io->begun[io->begun_count++] = (uint8_t)i;
		io->active_count++;
		return f;
	}
	return NULL;
}

void spanset_fetch_finish(struct spanset_io *io, struct spanset_fetch *f, int status)
{
	spanset_set_phase(io, f, FETCH_DONE);
	spanset_workspace_release(io, f);
	f->status = status;
	io->done[io->done_count++] = (uint8_t)spanset_fetch_index(io, f);
	if (f->was_degraded && status == 0) {
		catalog_count(&io->core->catalog, degraded_reads, 1);
		hist_record(&io->core->catalog.stats->degraded_ns, clock_now_ns() - f->degraded_ns);
	}
}

void spanset_fetch_settle(struct spanset_io *io, struct spanset_fetch *f)
{
	if (f->phase != FETCH_LINGER)
		return;
	f->bytes = spanset_fetch_buffer(io, f);
	spanset_workspace_release(io, f);
	if (f->direct_out || f->pending_count > 0)
		return;
	io->hedged_count -= f->was_hedged;
	io->lingering_count--;
	f->phase = FETCH_FREE;
}

void spanset_fetch_wait(struct spanset_io *io, struct spanset_fetch *f, uint64_t retry_ns)
{
	spanset_set_phase(io, f, FETCH_WAITING);
	f->retry_ns = retry_ns;
}

bool spanset_bytes_good(struct spanset_io *io, const struct spanset_fetch *f, unsigned pos,
	const struct iovec *bytes, uint32_t node)
{
	struct record r = record_at(io->core, f->ssid);
	bool good = crc32c(bytes->iov_base, bytes->iov_len) == record_crc(r, pos) &&
		    !FAULT_POINT("spanset.fetch.crc");
	if (!good) {
		catalog_count(&io->core->catalog, crc_mismatches, 1);
		log_ratelimited(LOG_WARN,
			"spanset: bytes fail their CRC, treated as an erasure node=%s",
			io->core->catalog.nodes[node].name);
	}
	return good;
}

bool spanset_piece_good(struct spanset_io *io, const struct spanset_fetch *f, unsigned pos,
	const uint8_t *bytes, uint32_t node)
{
	struct iovec page = {(void *)(uintptr_t)bytes, FM_PAGE_SIZE};
	return spanset_bytes_good(io, f, pos, &page, node);
}

/* The agent has put the column elsewhere since the read was posted. */
static bool spanset_column_moved(struct spanset_io *io, const struct spanset_fetch *f)
{
	return lane_generation(io->core, f->group, f->pos) != f->generation;
}

/* Starts the degraded read at once. */
static void spanset_fetch_troubled(
	struct spanset_io *io, struct spanset_fetch *f, bool own_bytes_bad)
{
	if (own_bytes_bad)
		f->bad |= 1u << f->pos;
	if (f->phase != FETCH_HEDGED) {
		spanset_fetch_wait(io, f, 0);
		return;
	}
	/* Its hedge goes on, and may ask the own position again where it is now. */
	f->was_degraded = own_bytes_bad || !spanset_column_moved(io, f);
	f->degraded_ns = clock_now_ns();
	spanset_set_phase(io, f, FETCH_DEGRADED);
}

/* True when `b` lies right behind `a` in the same column. */
static bool spanset_adjacent(
	struct spanset_io *io, const struct spanset_fetch *a, const struct spanset_fetch *b)
{
	if (io->split != NULL)
		return spanset_split_adjacent(io, a, b);
	struct record ra = record_at(io->core, a->ssid), rb = record_at(io->core, b->ssid);
	uint32_t group = spanset_fetch_group(io, a);
	/* Of a lost column some slots may be found in its replacement, and others not. */
	return a->pos == b->pos && group == spanset_fetch_group(io, b) &&
	       record_slot(rb, b->pos) == record_slot(ra, a->pos) + 1 &&
	       !lane_column_lost(io->core, group, a->pos);
}

/* Where a read goes. */
struct spanset_way {
	struct lane_doubt at;
	struct fabric_region *region; /* NULL: nowhere now */
	uint32_t node;
};

static struct spanset_way spanset_direct_way(
	struct spanset_io *io, const struct spanset_fetch *f, bool alone)
{
	struct spanset_way way = {.at = spanset_fetch_at(io, f, f->pos)};
	if (alone) {
		way.region = lane_source(&io->lane, way.at, false, &way.node);
		return way;
	}
	way.node = catalog_column_node(&io->core->catalog.groups[way.at.group].columns[way.at.pos]);
	way.region = lane_region(&io->lane, way.at.group, way.at.pos, false);
	return way;
}

static void spanset_post_along(struct spanset_io *io, const struct spanset_way *way,
	const uint8_t *indexes, unsigned count)
{
	struct spanset_fetch *first = &io->fetches[indexes[0]];
	struct lane_doubt at = way->at;
	uint32_t node = way->node;
	struct iovec iov[FABRIC_IOV_MAX];
	int rc = -ENOTCONN;
	if (fm_unlikely(hedge_node_slow(io->core, node)))
		count = spanset_hedge_around(io, indexes, count, node);
	if (count == 0)
		return;
	if (fm_unlikely(++io->reads % CATALOG_HEAT_EVERY == 0))
		atomic_fetch_add_explicit(
			&io->core->catalog.groups[at.group].heat, 1, memory_order_relaxed);
	for (unsigned i = 0; i < count; i++) {
		struct spanset_fetch *f = &io->fetches[indexes[i]];
		iov[i] = (struct iovec){f->bytes, FM_PAGE_SIZE};
		f->node = node;
		f->group = at.group;
		f->generation = at.generation;
		f->direct_pages = (uint8_t)count;
		io->next_in_read[indexes[i]] = i + 1 < count ? indexes[i + 1] : SPANSET_NO_FETCH;
	}
	if (way->region != NULL && !FAULT_POINT("spanset.fetch.post")) {
		struct fabric_transfer t = {.offset = (uint64_t)at.slot * FM_PAGE_SIZE,
			.iov = iov,
			.iov_count = count,
			.tag = TAG(TAG_DIRECT, 0, indexes[0]),
			.deadline_ns = first->begun_ns + io->options.fetch_deadline_ns};
		rc = fabric_post_read(way->region, &t);
	}
	for (unsigned i = 0; i < count; i++) {
		struct spanset_fetch *f = &io->fetches[indexes[i]];
		f->direct_out = rc == 0;
		if (fm_likely(rc == 0)) {
			if (f->demand)
				spanset_hedge_arm(io, f);
			continue;
		}
		if (f->demand)
			spanset_hedge_done(io, f, rc);
		spanset_fetch_troubled(io, f, false);
	}
}

void spanset_post_direct(struct spanset_io *io, const uint8_t *indexes, unsigned count)
{
	if (io->split != NULL) {
		spanset_split_post(io, indexes, count);
		return;
	}
	struct spanset_way way = spanset_direct_way(io, &io->fetches[indexes[0]], count == 1);
	if (way.region != NULL || count == 1) {
		spanset_post_along(io, &way, indexes, count);
		return;
	}
	/* A replacement may have some of the slots already, and others not. */
	for (unsigned i = 0; i < count; i++) {
		way = spanset_direct_way(io, &io->fetches[indexes[i]], true);
		spanset_post_along(io, &way, indexes + i, 1);
	}
}

void spanset_fetch_submit(struct spanset_io *io)
{
	unsigned from = 0;
	for (unsigned i = 1; i <= io->begun_count; i++) {
		bool joins = i < io->begun_count && i - from < FABRIC_IOV_MAX &&
			     spanset_adjacent(io, &io->fetches[io->begun[i - 1]],
				     &io->fetches[io->begun[i]]);
		if (joins)
			continue;
		spanset_post_direct(io, io->begun + from, i - from);
		from = i;
	}
	io->begun_count = 0;
}

/* The column has moved: ask where it is now. */
static void spanset_direct_again(struct spanset_io *io, struct spanset_fetch *f)
{
	uint8_t index = (uint8_t)spanset_fetch_index(io, f);
	spanset_post_direct(io, &index, 1);
}

static void spanset_direct_failed(struct spanset_io *io, struct spanset_fetch *f, int status)
{
	bool moved = spanset_column_moved(io, f);
	if (!moved) {
		if (status == -ETIMEDOUT)
			catalog_count(&io->core->catalog, fetch_timeouts, 1);
		lane_suspect(&io->lane, f->node);
	}
	if (f->phase == FETCH_LINGER || f->phase == FETCH_DONE)
		spanset_fetch_settle(io, f);
	else if (moved && f->phase == FETCH_DIRECT)
		spanset_direct_again(io, f);
	else
		spanset_fetch_troubled(io, f, false);
}

void spanset_direct_done(struct spanset_io *io, struct spanset_fetch *f, int status)
{
	f->direct_out = false;
	if (f->demand)
		spanset_hedge_done(io, f, status);
	if (status != 0) {
		spanset_direct_failed(io, f, status);
	} else if (fm_unlikely(f->phase == FETCH_LINGER || f->phase == FETCH_DONE)) {
		spanset_fetch_settle(io, f);
	} else if (spanset_piece_good(io, f, f->pos, spanset_fetch_buffer(io, f), f->node)) {
		hist_record(&io->core->catalog.stats->fetch_ns, clock_now_ns() - f->begun_ns);
		spanset_fetch_finish(io, f, 0);
	} else {
		spanset_fetch_troubled(io, f, true);
	}
}
