/*
 * farmem/spanset_store.c: a batch of pages becomes spansets of one group (spanset.h, Store).
 *
 * Callers: evict.c and repack.c. Which group: spanset_pick_group; encoding and records:
 * spanset_encode; k+m writes: spanset_write_all; what did not go well: spanset_store_undo.
 *
 * Invariant: from the moment a group's state is looked at until the batch's records are published
 * or given up, this thread's `storing` names the group (catalog.h): the agent that closed it waits.
 */
#include "farmem/spanset_io.h"

#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "ec/ec.h"
#include "farmem/slot.h"

#define SPANSET_SOFT_FLOOR_NS (250 * NS_PER_MS) /* a store is never late before this */
#define SPANSET_STORE_ATTEMPTS 6
#define SPANSET_UPKEEP_STORES 16

void spanset_io_maintain(struct spanset_io *io)
{
	lane_settle(&io->lane);
}

static void spanset_storing(struct spanset_io *io, uint32_t group_plus_1)
{
	/* seq_cst: partner is column_close_group, then column_complete. */
	atomic_store_explicit(&io->thread.line->storing, group_plus_1, memory_order_seq_cst);
}

static bool spanset_group_ready(struct spanset_io *io, uint32_t group)
{
	const struct catalog_group *g = &io->core->catalog.groups[group];
	if (atomic_load_explicit(&g->state, memory_order_acquire) != GROUP_OPEN)
		return false;
	spanset_storing(io, group + 1);
	if (atomic_load_explicit(&g->state, memory_order_seq_cst) != GROUP_OPEN)
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
static uint32_t spanset_reserve(const struct spanset_io *io, const struct catalog_group *g)
{
	unsigned pages = scheme_set_pages(&io->core->catalog, g);
	return FM_MIN((SPANSET_BATCH_PAGES + pages - 1) / pages, g->slot_count / 8);
}

static bool spanset_group_has_room(struct spanset_io *io, uint32_t group, unsigned sets)
{
	const struct catalog_group *g = &io->core->catalog.groups[group];
	uint32_t keep = io->job.reserved ? 0 : spanset_reserve(io, g);
	return slot_free_count(io->core, group_id_make(group)) >= sets + keep;
}

/* How the batch lies in its group. */
static void spanset_job_shape(const struct spanset_io *io, struct spanset_store_job *job)
{
	const struct catalog *catalog = &io->core->catalog;
	unsigned pages = scheme_set_pages(catalog, job->g);
	job->sets = (job->count + pages - 1) / pages;
	job->slot_bytes = scheme_slot_bytes(catalog, job->g);
	job->splits = scheme_splits(catalog);
}

/* Finds a group with room and takes slots in it: widest codes first, of those groups without a slow
 * node first. -ENOSPC: more groups were asked for. */
static int spanset_pick_group(struct spanset_io *io, struct spanset_store_job *job)
{
	struct catalog_header *h = io->core->catalog.header;
	uint32_t count = atomic_load_explicit(&h->groups_count, memory_order_acquire);
	uint32_t start = atomic_load_explicit(&io->core->groups_cursor, memory_order_relaxed) +
			 (scheme_spread(io->core) > 1);
	uint64_t now = clock_now_ns();
	for (unsigned pass = 0; pass < 3; pass++) {
		for (uint32_t i = 0; i < count; i++) {
			uint32_t at = (start + i) % count;
			const struct catalog_group *g = &io->core->catalog.groups[at];
			bool wide = g->k == h->code_k && g->m == h->code_m;
			if (wide != (pass < 2) ||
				(pass == 0 && hedge_group_slow(io->core, at, now)) ||
				!spanset_group_ready(io, at))
				continue;
			job->group = group_id_make(at);
			job->g = g;
			spanset_job_shape(io, job);
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

static const uint8_t *spanset_job_data(const struct spanset_io *io, unsigned pos, unsigned set)
{
	const struct spanset_store_job *job = &io->job;
	if (job->splits)
		return job->items[set].bytes + (size_t)pos * job->slot_bytes;
	unsigned item = pos * job->sets + set;
	return item < job->count ? job->items[item].bytes : io->zeros;
}

static uint8_t *spanset_job_parity(const struct spanset_io *io, unsigned parity, unsigned set)
{
	return io->parity + ((size_t)parity * io->job.sets + set) * io->job.slot_bytes;
}

/* What goes to a column. Copies are written from where the page is. */
static const uint8_t *spanset_job_bytes(const struct spanset_io *io, unsigned pos, unsigned set)
{
	unsigned k = io->job.g->k;
	if (k == 1)
		return spanset_job_data(io, 0, set);
	return pos < k ? spanset_job_data(io, pos, set) : spanset_job_parity(io, pos - k, set);
}

static uint32_t spanset_job_owner(const struct spanset_io *io, unsigned pos, unsigned set)
{
	const struct spanset_store_job *job = &io->job;
	unsigned item = job->splits ? set : pos * job->sets + set;
	return item < job->count && (pos == 0 || !job->splits) ? job->items[item].page : UINT32_MAX;
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
		data[pos] = spanset_job_data(io, pos, set);
		record_set_owner(r, pos, spanset_job_owner(io, pos, set));
		record_set_crc(r, pos, crc32c(data[pos], job->slot_bytes));
	}
	for (unsigned i = 0; i < m; i++)
		parity[i] = spanset_job_parity(io, i, set);
	if (k > 1)
		ec_encode(job->code, job->slot_bytes, data, parity);
	for (unsigned i = 0; i < m; i++)
		record_set_crc(
			r, k + i, k > 1 ? crc32c(parity[i], job->slot_bytes) : record_crc(r, 0));
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

/* Slots that follow each other, and what goes there: pieces that follow each other are one. */
struct spanset_run {
	uint32_t slot;
	unsigned slots, iov_count;
	struct iovec iov[FABRIC_IOV_MAX];
};

static void spanset_run_add(struct spanset_run *run, const uint8_t *bytes, uint32_t length)
{
	struct iovec *last = run->iov_count > 0 ? &run->iov[run->iov_count - 1] : NULL;
	run->slots++;
	if (last != NULL && (const uint8_t *)last->iov_base + last->iov_len == bytes)
		last->iov_len += length;
	else
		run->iov[run->iov_count++] = (struct iovec){(void *)(uintptr_t)bytes, length};
}

static int spanset_post_run(struct spanset_io *io, struct fabric_region *region, unsigned pos,
	const struct spanset_run *run)
{
	struct fabric_transfer t = {.offset = (uint64_t)run->slot * io->job.slot_bytes,
		.iov = run->iov,
		.iov_count = run->iov_count,
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
	struct spanset_run run;
	run.slots = run.iov_count = 0;
	if (region == NULL) {
		job->status[pos] = -ENOTCONN;
		return;
	}
	for (unsigned set = 0; set < job->sets; set++) {
		if (run.slots == 0)
			run.slot = slots[set];
		spanset_run_add(&run, spanset_job_bytes(io, pos, set), job->slot_bytes);
		if (set + 1 < job->sets && slots[set + 1] == slots[set] + 1)
			continue;
		int rc = spanset_post_run(io, region, pos, &run);
		if (rc != 0)
			spanset_store_failed(job, pos, rc);
		run.slots = run.iov_count = 0;
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
			lane_suspect(&io->lane, catalog_column_node(&job->g->columns[pos]));
		for (unsigned set = 0; set < job->sets; set++) {
			uint32_t slot = job->slots[pos * job->sets + set];
			if (doubt)
				lane_doubtful(&io->lane,
					(struct lane_doubt){job->group.v, pos, slot,
						lane_generation(io->core, job->group.v, pos)});
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
		for (unsigned pos = 0; pos < scheme_set_pages(&io->core->catalog, job->g); pos++) {
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
		if (rc == 0)
			spanset_store_publish(io);
		if (rc != -EIO)
			break;
	}
	spanset_storing(io, 0);
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
