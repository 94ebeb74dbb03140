/*
 * farmem/spanset.c: storing and fetching spansets; the only file that knows both codes and fabric
 * (spanset.h).
 *
 * Callers: evict.c and repack.c store; fault.c and repack.c fetch. One spanset_io per thread, no
 * locks here. Order: store; fetch: direct, degraded, progress; opening and
 * closing.
 */
#include "farmem/spanset.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/mem.h"
#include "ec/ec.h"
#include "farmem/lane.h"
#include "farmem/record.h"
#include "farmem/slot.h"
#include "rpc/fabric.h"

/* Between attempts of a fetch that found too few sources. */
#define SPANSET_RETRY_NS (2 * NS_PER_MS)
/* Nodes neither answer nor are declared dead for so long: SIGBUS. */
#define SPANSET_GIVE_UP_NS (60 * NS_PER_S)
#define SPANSET_SOFT_FLOOR_NS (250 * NS_PER_MS) /* a store is never late before this */
#define SPANSET_STORE_ATTEMPTS 6
#define SPANSET_UPKEEP_STORES 16
#define SPANSET_COMPLETIONS 64
#define SPANSET_PARITY_BYTES (SPANSET_BATCH_PAGES * EC_M_MAX * FM_PAGE_SIZE)
#define SPANSET_WORKSPACE_BYTES (EC_N_MAX * FM_PAGE_SIZE)
#define SPANSET_NO_FETCH 0xff

enum { TAG_DIRECT = 1, TAG_DEGRADED, TAG_STORE };
#define TAG(kind, pos, index)                                                                      \
	(((uint64_t)(kind) << 56) | ((uint64_t)(pos) << 16) | (uint64_t)(index))
#define TAG_KIND(tag) ((unsigned)((tag) >> 56))
#define TAG_POS(tag) ((unsigned)((tag) >> 16) & 0xff)
#define TAG_INDEX(tag) ((unsigned)(tag)&0xffff)

/* One batch on its way out. */
struct spanset_store_job {
	struct group_id group;
	const struct catalog_group *g;
	const struct ec_code *code;
	struct spanset_item *items;
	unsigned count, sets;
	bool reserved; /* may use up a group's last slots */
	uint64_t deadline_ns;
	unsigned outstanding;
	int status[EC_N_MAX]; /* per column: 0 or the first failure */
	uint32_t slots[EC_N_MAX * SPANSET_BATCH_PAGES];
	struct ssid ssids[SPANSET_BATCH_PAGES];
};

struct spanset_io {
	struct core *core;
	struct spanset_io_options options;
	struct lane lane;
	struct spanset_fetch fetches[SPANSET_FETCH_MAX];
	uint8_t next_in_read[SPANSET_FETCH_MAX]; /* fetches that share one read */
	uint8_t begun[SPANSET_FETCH_MAX], done[SPANSET_FETCH_MAX];
	unsigned begun_count, done_count, active_count, troubled_count;
	uint32_t workspaces_used;
	uint8_t *fetch_buffers, *workspaces, *parity, *zeros;
	struct spanset_store_job job;
	uint64_t soft_deadline_ns;
	uint64_t stores;
	struct group_id last_group;
};

/* ---- store ---- */

void spanset_io_maintain(struct spanset_io *io)
{
	lane_settle(&io->lane);
}

static bool spanset_group_ready(struct spanset_io *io, uint32_t group)
{
	const struct catalog_group *g = &io->core->catalog.groups[group];
	if (atomic_load_explicit(&g->state, memory_order_acquire) != GROUP_OPEN)
		return false;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (lane_region(&io->lane, group, pos, false) == NULL)
			return false;
	return true;
}

/*
 * Spansets of a group that only repack may take: full nodes are emptied by writing sparse spansets
 * together, which needs room first.
 */
static uint32_t spanset_reserve(const struct catalog_group *g)
{
	return FM_MIN((SPANSET_BATCH_PAGES + g->k - 1u) / g->k, g->slot_count / 8);
}

static bool spanset_group_has_room(struct spanset_io *io, uint32_t group, unsigned sets)
{
	const struct catalog_group *g = &io->core->catalog.groups[group];
	uint32_t keep = io->job.reserved ? 0 : spanset_reserve(g);
	return slot_free_count(io->core, group_id_make(group)) >= sets + keep;
}

/* Finds a group with room, widest codes first, and takes slots in it. -ENOSPC: more groups were
 * asked for. */
static int spanset_pick_group(struct spanset_io *io, struct spanset_store_job *job)
{
	struct catalog_header *h = io->core->catalog.header;
	uint32_t count = atomic_load_explicit(&h->groups_count, memory_order_acquire);
	uint32_t start = atomic_load_explicit(&io->core->groups_cursor, memory_order_relaxed);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (uint32_t i = 0; i < count; i++) {
			uint32_t at = (start + i) % count;
			const struct catalog_group *g = &io->core->catalog.groups[at];
			bool wide = g->k == h->code_k && g->m == h->code_m;
			if (wide != (pass == 0) || !spanset_group_ready(io, at))
				continue;
			job->group = group_id_make(at);
			job->g = g;
			job->sets = (job->count + g->k - 1u) / g->k;
			if (!spanset_group_has_room(io, at, job->sets) ||
				slot_take(io->core, job->group, job->sets, job->slots) != 0)
				continue;
			atomic_store_explicit(&io->core->groups_cursor, at, memory_order_relaxed);
			return 0;
		}
	}
	core_want_group(io->core);
	return -ENOSPC;
}

static const uint8_t *spanset_job_data(struct spanset_io *io, unsigned pos, unsigned set)
{
	unsigned item = pos * io->job.sets + set;
	return item < io->job.count ? io->job.items[item].bytes : io->zeros;
}

static uint8_t *spanset_job_parity(struct spanset_io *io, unsigned parity, unsigned set)
{
	return io->parity + ((size_t)parity * io->job.sets + set) * FM_PAGE_SIZE;
}

/* Encodes one spanset and fills its record (FILLING: nobody else sees it). */
static void spanset_encode(struct spanset_io *io, unsigned set)
{
	struct spanset_store_job *job = &io->job;
	unsigned k = job->g->k, m = job->g->m;
	struct record r = record_at(io->core, job->ssids[set]);
	const uint8_t *data[EC_K_MAX];
	uint8_t *parity[EC_M_MAX];
	for (unsigned pos = 0; pos < k; pos++) {
		unsigned item = pos * job->sets + set;
		data[pos] = spanset_job_data(io, pos, set);
		record_set_owner(r, pos, item < job->count ? job->items[item].page : UINT32_MAX);
		record_set_crc(r, pos, crc32c(data[pos], FM_PAGE_SIZE));
	}
	for (unsigned i = 0; i < m; i++)
		parity[i] = spanset_job_parity(io, i, set);
	ec_encode(job->code, FM_PAGE_SIZE, data, parity);
	for (unsigned i = 0; i < m; i++)
		record_set_crc(r, k + i, crc32c(parity[i], FM_PAGE_SIZE));
	for (unsigned pos = 0; pos < k + m; pos++)
		record_set_slot(r, pos, job->slots[pos * job->sets + set]);
}

/* Refused means not stored; anything else that is not success may still land. */
static bool spanset_in_doubt(int status)
{
	return status != 0 && status != -EACCES && status != -ERANGE && status != -ENOMEM;
}

/* A column may go out in several writes: one in doubt puts the column in doubt. */
static void spanset_store_failed(struct spanset_store_job *job, unsigned pos, int status)
{
	if (job->status[pos] == 0 || spanset_in_doubt(status))
		job->status[pos] = status;
}

static void spanset_store_reap(struct spanset_io *io, uint64_t until_ns)
{
	struct fabric_completion done[SPANSET_COMPLETIONS];
	unsigned count = fabric_wait(io->lane.queue, done, SPANSET_COMPLETIONS, until_ns);
	for (unsigned i = 0; i < count; i++) {
		unsigned pos = TAG_POS(done[i].tag);
		FM_ASSERT_EQ(TAG_KIND(done[i].tag), TAG_STORE);
		io->job.outstanding--;
		if (done[i].status != 0)
			spanset_store_failed(&io->job, pos, done[i].status);
	}
}

static int spanset_post_run(struct spanset_io *io, struct fabric_region *region, unsigned pos,
	const struct iovec *iov, const uint32_t *slots, unsigned count)
{
	struct fabric_transfer t = {.offset = (uint64_t)slots[0] * FM_PAGE_SIZE,
		.iov = iov,
		.iov_count = count,
		.tag = TAG(TAG_STORE, pos, 0),
		.deadline_ns = io->job.deadline_ns};
	int rc;
	if (FAULT_POINT("spanset.store.post"))
		return -ENOTCONN;
	while ((rc = fabric_post_write(region, &t)) == -EAGAIN)
		spanset_store_reap(io, io->job.deadline_ns);
	if (rc == 0)
		io->job.outstanding++;
	return rc;
}

/* Posts one column of the batch: slots that follow each other go as one write. */
static void spanset_post_column(struct spanset_io *io, unsigned pos)
{
	struct spanset_store_job *job = &io->job;
	const uint32_t *slots = job->slots + pos * job->sets;
	struct fabric_region *region = lane_region(&io->lane, job->group.v, pos, false);
	struct iovec iov[FABRIC_IOV_MAX];
	unsigned run = 0;
	if (region == NULL) {
		job->status[pos] = -ENOTCONN;
		return;
	}
	for (unsigned set = 0; set < job->sets; set++) {
		const uint8_t *bytes = pos < job->g->k
					       ? spanset_job_data(io, pos, set)
					       : spanset_job_parity(io, pos - job->g->k, set);
		iov[run++] = (struct iovec){(void *)(uintptr_t)bytes, FM_PAGE_SIZE};
		bool ends = set + 1 == job->sets || slots[set + 1] != slots[set] + 1 ||
			    run == FABRIC_IOV_MAX;
		if (!ends)
			continue;
		int rc = spanset_post_run(io, region, pos, iov, slots + set + 1 - run, run);
		if (rc != 0)
			spanset_store_failed(job, pos, rc);
		run = 0;
	}
}

/* The batch did not make it into this group: nothing of it stays behind but doubtful slots. */
static void spanset_store_undo(struct spanset_io *io, unsigned records)
{
	struct spanset_store_job *job = &io->job;
	for (unsigned set = 0; set < records; set++)
		record_abandon(io->core, job->ssids[set]);
	for (unsigned pos = 0; pos < (unsigned)job->g->k + job->g->m; pos++) {
		int s = job->status[pos];
		bool doubt = spanset_in_doubt(s);
		if (s != 0)
			lane_suspect(&io->lane, job->g->columns[pos].node);
		for (unsigned set = 0; set < job->sets; set++) {
			uint32_t slot = job->slots[pos * job->sets + set];
			if (doubt)
				lane_doubtful(&io->lane, job->group, pos, slot);
			else
				slot_give(io->core, job->group, pos, slot);
		}
	}
}

static int spanset_write_all(struct spanset_io *io)
{
	struct spanset_store_job *job = &io->job;
	unsigned n = (unsigned)job->g->k + job->g->m;
	int rc = 0;
	job->deadline_ns = clock_now_ns() + io->soft_deadline_ns;
	for (unsigned pos = 0; pos < n; pos++)
		spanset_post_column(io, pos);
	while (job->outstanding > 0)
		spanset_store_reap(io, job->deadline_ns);
	for (unsigned pos = 0; pos < n; pos++)
		if (job->status[pos] != 0)
			rc = -EIO;
	return rc;
}

static int spanset_store_into(struct spanset_io *io)
{
	struct spanset_store_job *job = &io->job;
	uint64_t begun = clock_now_ns();
	job->code = core_code(io->core, job->g->k, job->g->m);
	job->outstanding = 0;
	for (unsigned pos = 0; pos < EC_N_MAX; pos++)
		job->status[pos] = 0;
	for (unsigned set = 0; set < job->sets; set++) {
		job->ssids[set] = record_alloc(io->core);
		if (ssid_is_none(job->ssids[set])) {
			spanset_store_undo(io, set);
			return -ENOMEM;
		}
		spanset_encode(io, set);
	}
	int rc = spanset_write_all(io); /* invariant 1: all k+m acknowledged, or nothing happened */
	hist_record(&io->core->catalog.stats->store_ns, clock_now_ns() - begun);
	if (rc != 0) {
		catalog_count(&io->core->catalog, store_failures, 1);
		spanset_store_undo(io, job->sets);
	}
	return rc;
}

static void spanset_store_publish(struct spanset_io *io)
{
	struct spanset_store_job *job = &io->job;
	for (unsigned set = 0; set < job->sets; set++) {
		uint32_t live = 0;
		for (unsigned pos = 0; pos < job->g->k; pos++) {
			unsigned item = pos * job->sets + set;
			if (item >= job->count)
				continue;
			live |= 1u << pos;
			job->items[item].ssid = job->ssids[set];
			job->items[item].pos = pos;
		}
		record_publish(io->core, job->ssids[set], job->group.v, live);
	}
	io->last_group = job->group;
}

/* "Late" is three times what is usual, within the configured deadline (DESIGN section 7). */
static void spanset_learn_deadline(struct spanset_io *io)
{
	if (io->stores++ % SPANSET_UPKEEP_STORES != 0)
		return;
	core_look_ahead(io->core);
	uint64_t usual = hist_quantile(&io->core->catalog.stats->store_ns, 0.99);
	io->soft_deadline_ns =
		FM_MIN(FM_MAX(3 * usual, SPANSET_SOFT_FLOOR_NS), io->options.store_deadline_ns);
}

static int spanset_store_somewhere(
	struct spanset_io *io, struct spanset_item *items, unsigned count)
{
	struct spanset_store_job *job = &io->job;
	int rc = -EIO;
	FM_ASSERT(io->options.stores);
	FM_ASSERT(count >= 1 && count <= SPANSET_BATCH_PAGES);
	FM_ASSERT_EQ(fabric_in_flight(io->lane.queue), 0);
	spanset_learn_deadline(io);
	for (unsigned attempt = 0; attempt < SPANSET_STORE_ATTEMPTS; attempt++) {
		job->items = items;
		job->count = count;
		rc = spanset_pick_group(io, job);
		if (rc == 0)
			rc = spanset_store_into(io);
		if (rc == 0) {
			spanset_store_publish(io);
			return 0;
		}
		if (rc != -EIO)
			break;
	}
	return rc;
}

int spanset_store(struct spanset_io *io, struct spanset_item *items, unsigned count)
{
	io->job.reserved = false;
	return spanset_store_somewhere(io, items, count);
}

int spanset_store_reserved(struct spanset_io *io, struct spanset_item *items, unsigned count)
{
	io->job.reserved = true;
	return spanset_store_somewhere(io, items, count);
}

struct group_id spanset_last_group(const struct spanset_io *io)
{
	return io->last_group;
}

const struct lane *spanset_lane(const struct spanset_io *io)
{
	return &io->lane;
}

/* ---- fetch ---- */

static uint32_t spanset_fetch_group(struct spanset_io *io, const struct spanset_fetch *f)
{
	return record_hdr_group(record_load(record_at(io->core, f->ssid)));
}

static unsigned spanset_fetch_index(struct spanset_io *io, const struct spanset_fetch *f)
{
	return (unsigned)(f - io->fetches);
}

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

static void spanset_fetch_finish(struct spanset_io *io, struct spanset_fetch *f, int status)
{
	if (f->phase != FETCH_DIRECT)
		io->troubled_count--;
	if (f->workspace >= 0)
		io->workspaces_used &= ~(1u << f->workspace);
	f->workspace = -1;
	f->phase = FETCH_DONE;
	f->status = status;
	io->done[io->done_count++] = (uint8_t)spanset_fetch_index(io, f);
	if (f->was_degraded && status == 0) {
		catalog_count(&io->core->catalog, degraded_reads, 1);
		hist_record(&io->core->catalog.stats->degraded_ns, clock_now_ns() - f->degraded_ns);
	}
}

/* The direct way failed, or a workspace is missing: try (again) soon. */
static void spanset_fetch_wait(struct spanset_io *io, struct spanset_fetch *f, uint64_t retry_ns)
{
	if (f->phase == FETCH_DIRECT)
		io->troubled_count++;
	f->phase = FETCH_WAITING;
	f->retry_ns = retry_ns;
}

static bool spanset_piece_good(
	struct spanset_io *io, const struct spanset_fetch *f, unsigned pos, const uint8_t *bytes)
{
	struct record r = record_at(io->core, f->ssid);
	bool good = crc32c(bytes, FM_PAGE_SIZE) == record_crc(r, pos) &&
		    !FAULT_POINT("spanset.fetch.crc");
	if (!good) {
		catalog_count(&io->core->catalog, crc_mismatches, 1);
		log_ratelimited(LOG_WARN,
			"spanset: bytes fail their CRC, treated as an erasure node=%s",
			io->core->catalog
				.nodes[io->core->catalog.groups[spanset_fetch_group(io, f)]
						.columns[pos]
						.node]
				.name);
	}
	return good;
}

/* Starts the degraded read at once. */
static void spanset_fetch_troubled(
	struct spanset_io *io, struct spanset_fetch *f, bool own_bytes_bad)
{
	if (own_bytes_bad)
		f->bad |= 1u << f->pos;
	spanset_fetch_wait(io, f, 0);
}

static void spanset_direct_done(struct spanset_io *io, struct spanset_fetch *f, int status)
{
	if (status == 0 && spanset_piece_good(io, f, f->pos, f->bytes)) {
		hist_record(&io->core->catalog.stats->fetch_ns, clock_now_ns() - f->begun_ns);
		spanset_fetch_finish(io, f, 0);
		return;
	}
	if (status != 0) {
		uint32_t group = spanset_fetch_group(io, f);
		if (status == -ETIMEDOUT)
			catalog_count(&io->core->catalog, fetch_timeouts, 1);
		lane_suspect(&io->lane, io->core->catalog.groups[group].columns[f->pos].node);
	}
	spanset_fetch_troubled(io, f, status == 0);
}

/* True when `b` lies right behind `a` in the same column. */
static bool spanset_adjacent(
	struct spanset_io *io, const struct spanset_fetch *a, const struct spanset_fetch *b)
{
	struct record ra = record_at(io->core, a->ssid), rb = record_at(io->core, b->ssid);
	return a->pos == b->pos && spanset_fetch_group(io, a) == spanset_fetch_group(io, b) &&
	       record_slot(rb, b->pos) == record_slot(ra, a->pos) + 1;
}

static void spanset_post_direct(struct spanset_io *io, const uint8_t *indexes, unsigned count)
{
	struct spanset_fetch *first = &io->fetches[indexes[0]];
	struct fabric_region *region =
		lane_region(&io->lane, spanset_fetch_group(io, first), first->pos, false);
	struct iovec iov[FABRIC_IOV_MAX];
	int rc = -ENOTCONN;
	for (unsigned i = 0; i < count; i++) {
		struct spanset_fetch *f = &io->fetches[indexes[i]];
		iov[i] = (struct iovec){f->bytes, FM_PAGE_SIZE};
		io->next_in_read[indexes[i]] = i + 1 < count ? indexes[i + 1] : SPANSET_NO_FETCH;
	}
	if (region != NULL && !FAULT_POINT("spanset.fetch.post")) {
		uint32_t slot = record_slot(record_at(io->core, first->ssid), first->pos);
		struct fabric_transfer t = {.offset = (uint64_t)slot * FM_PAGE_SIZE,
			.iov = iov,
			.iov_count = count,
			.tag = TAG(TAG_DIRECT, 0, indexes[0]),
			.deadline_ns = first->begun_ns + io->options.fetch_deadline_ns};
		rc = fabric_post_read(region, &t);
	}
	for (unsigned i = 0; rc != 0 && i < count; i++)
		spanset_fetch_troubled(io, &io->fetches[indexes[i]], false);
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

/* ---- degraded reads ---- */

static uint8_t *spanset_workspace(
	struct spanset_io *io, const struct spanset_fetch *f, unsigned pos)
{
	return io->workspaces + (size_t)f->workspace * SPANSET_WORKSPACE_BYTES +
	       (size_t)pos * FM_PAGE_SIZE;
}

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

static void spanset_rebuild(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	const uint8_t *sources[EC_K_MAX];
	uint8_t *out[1] = {f->bytes};
	struct ec_plan plan;
	int rc = ec_plan_init(&plan, core_code(io->core, g->k, g->m), f->good, 1u << f->pos);
	FM_ASSERT_EQ(rc, 0);
	for (unsigned i = 0; i < plan.source_count; i++)
		sources[i] = spanset_workspace(io, f, plan.sources[i]);
	ec_rebuild(&plan, FM_PAGE_SIZE, sources, out);
}

/* Are more than m positions beyond recall, so that waiting is in vain? */
static bool spanset_beyond_m(struct spanset_io *io, const struct spanset_fetch *f)
{
	uint32_t group = spanset_fetch_group(io, f);
	const struct catalog_group *g = &io->core->catalog.groups[group];
	uint32_t gone = f->bad;
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		if (lane_column_lost(io->core, group, pos))
			gone |= 1u << pos;
	if (clock_now_ns() - f->begun_ns > SPANSET_GIVE_UP_NS)
		return true;
	return (gone & (1u << f->pos)) != 0 && (unsigned)__builtin_popcount(gone) > g->m;
}

/* All answers are in. Decode, go on, or come back later. */
static void spanset_degraded_judge(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	/* Its own bytes after all: they need no others, which may be gone beyond m by now. */
	if (f->good & (1u << f->pos)) {
		memcpy(f->bytes, spanset_workspace(io, f, f->pos), FM_PAGE_SIZE);
		spanset_fetch_finish(io, f, 0);
		return;
	}
	if ((unsigned)__builtin_popcount(f->good) >= g->k) {
		spanset_rebuild(io, f);
		bool good = spanset_piece_good(io, f, f->pos, f->bytes);
		spanset_fetch_finish(io, f, good ? 0 : -EIO);
		return;
	}
	if (spanset_beyond_m(io, f)) {
		spanset_fetch_finish(io, f, -EIO);
		return;
	}
	io->workspaces_used &= ~(1u << f->workspace);
	f->workspace = -1;
	spanset_fetch_wait(io, f, clock_now_ns() + SPANSET_RETRY_NS);
}

static void spanset_degraded_post(
	struct spanset_io *io, struct spanset_fetch *f, unsigned pos, bool any)
{
	uint32_t group = spanset_fetch_group(io, f);
	struct fabric_region *region = lane_region(&io->lane, group, pos, any);
	if (region == NULL)
		return;
	struct iovec iov = {spanset_workspace(io, f, pos), FM_PAGE_SIZE};
	struct fabric_transfer t = {.iov = &iov,
		.iov_count = 1,
		.offset = (uint64_t)record_slot(record_at(io->core, f->ssid), pos) * FM_PAGE_SIZE,
		.tag = TAG(TAG_DEGRADED, pos, spanset_fetch_index(io, f)),
		.deadline_ns = clock_now_ns() + io->options.fetch_deadline_ns};
	if (fabric_post_read(region, &t) != 0)
		return;
	f->posted |= 1u << pos;
	f->pending_count++;
}

/* Asks for as many positions as are still missing: nodes that are up first, suspected ones if it
 * must be. */
static void spanset_degraded_step(struct spanset_io *io, struct spanset_fetch *f)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < (unsigned)g->k + g->m; i++) {
			unsigned pos = (f->pos + i) % ((unsigned)g->k + g->m);
			uint32_t bit = 1u << pos;
			if ((unsigned)__builtin_popcount(f->good) + f->pending_count >= g->k)
				return;
			if ((f->posted | f->bad) & bit)
				continue;
			spanset_degraded_post(io, f, pos, pass == 1);
		}
	}
	if (f->pending_count == 0)
		spanset_degraded_judge(io, f);
}

/*
 * A fetch that could not be read directly: tries the direct way again when its column is well (a
 * node that was merely restarted or slow), else reads around it.
 */
static void spanset_fetch_retry(struct spanset_io *io, struct spanset_fetch *f)
{
	if (!spanset_take_workspace(io, f)) {
		f->retry_ns = clock_now_ns() + SPANSET_RETRY_NS;
		return;
	}
	f->phase = FETCH_DEGRADED;
	f->posted = f->good = 0;
	f->pending_count = 0;
	if (!f->was_degraded)
		f->degraded_ns = clock_now_ns();
	f->was_degraded = true;
	spanset_degraded_step(io, f);
}

static void spanset_degraded_done(
	struct spanset_io *io, struct spanset_fetch *f, unsigned pos, int status)
{
	const struct catalog_group *g = &io->core->catalog.groups[spanset_fetch_group(io, f)];
	f->pending_count--;
	if (status == 0 && spanset_piece_good(io, f, pos, spanset_workspace(io, f, pos)))
		f->good |= 1u << pos;
	else if (status == 0)
		f->bad |= 1u << pos;
	else
		lane_suspect(&io->lane, g->columns[pos].node);
	if ((unsigned)__builtin_popcount(f->good) + f->pending_count < g->k)
		spanset_degraded_step(io, f);
	else if (f->pending_count == 0)
		spanset_degraded_judge(io, f);
}

/* ---- progress ---- */

static void spanset_completion(struct spanset_io *io, const struct fabric_completion *c)
{
	unsigned index = TAG_INDEX(c->tag);
	FM_ASSERT_LT(index, SPANSET_FETCH_MAX);
	if (TAG_KIND(c->tag) == TAG_DEGRADED) {
		spanset_degraded_done(io, &io->fetches[index], TAG_POS(c->tag), c->status);
		return;
	}
	FM_ASSERT_EQ(TAG_KIND(c->tag), TAG_DIRECT);
	while (index != SPANSET_NO_FETCH) {
		unsigned next = io->next_in_read[index];
		spanset_direct_done(io, &io->fetches[index], c->status);
		index = next;
	}
}

/* Takes waiting fetches up again whose time has come; returns when the next one's will. */
static uint64_t spanset_fetch_wake(struct spanset_io *io)
{
	uint64_t next = CLOCK_NEVER_NS;
	if (fm_likely(io->troubled_count == 0))
		return next;
	uint64_t now = clock_now_ns();
	for (unsigned i = 0; i < SPANSET_FETCH_MAX; i++) {
		struct spanset_fetch *f = &io->fetches[i];
		if (f->phase == FETCH_WAITING && f->retry_ns <= now)
			spanset_fetch_retry(io, f);
		if (f->phase == FETCH_WAITING)
			next = FM_MIN(next, f->retry_ns);
	}
	return next;
}

struct spanset_fetch *spanset_fetch_poll(struct spanset_io *io, uint64_t until_ns)
{
	struct fabric_completion c[SPANSET_COMPLETIONS];
	for (;;) {
		uint64_t next = spanset_fetch_wake(io);
		if (io->done_count > 0)
			return &io->fetches[io->done[--io->done_count]];
		if (io->active_count == 0)
			return NULL;
		unsigned count = fabric_poll(io->lane.queue, c, SPANSET_COMPLETIONS);
		if (count == 0 && until_ns > 0)
			count = fabric_wait(
				io->lane.queue, c, SPANSET_COMPLETIONS, FM_MIN(until_ns, next));
		for (unsigned i = 0; i < count; i++)
			spanset_completion(io, &c[i]);
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
	unsigned count = fabric_wait(io->lane.queue, c, SPANSET_COMPLETIONS, until_ns);
	for (unsigned i = 0; i < count; i++)
		spanset_completion(io, &c[i]);
	return true;
}

void spanset_fetch_end(struct spanset_io *io, struct spanset_fetch *fetch)
{
	FM_ASSERT_EQ(fetch->phase, FETCH_DONE);
	fetch->phase = FETCH_FREE;
	io->active_count--;
}

unsigned spanset_fetches(const struct spanset_io *io)
{
	return io->active_count;
}

/* ---- opening and closing ---- */

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
	made->fetch_buffers = mem_map(SPANSET_FETCH_MAX * FM_PAGE_SIZE);
	made->workspaces = mem_map(SPANSET_DEGRADED_MAX * SPANSET_WORKSPACE_BYTES);
	made->zeros = mem_map(FM_PAGE_SIZE);
	if (options->stores)
		made->parity = mem_map(SPANSET_PARITY_BYTES);
	int rc = -ENOMEM;
	if (made->fetch_buffers && made->workspaces && made->zeros &&
		(made->parity || !options->stores))
		rc = lane_open(&made->lane, core, options->spin_ns);
	if (rc != 0)
		spanset_io_close(made);
	else
		*io = made;
	return rc;
}

void spanset_io_close(struct spanset_io *io)
{
	if (io == NULL)
		return;
	FM_ASSERT_EQ(io->active_count, 0);
	lane_close(&io->lane);
	mem_unmap(io->parity, io->parity ? SPANSET_PARITY_BYTES : 0);
	mem_unmap(io->zeros, FM_PAGE_SIZE);
	mem_unmap(io->workspaces, SPANSET_DEGRADED_MAX * SPANSET_WORKSPACE_BYTES);
	mem_unmap(io->fetch_buffers, SPANSET_FETCH_MAX * FM_PAGE_SIZE);
	mem_unmap(io, sizeof(*io));
}
