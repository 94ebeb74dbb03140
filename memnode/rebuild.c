/*
 * memnode/rebuild.c: one Rebuild call from beginning to end; see rebuild.h. Called by a worker of
 * offload.c.
 *
 * Spansets are taken in the order of the target's slots, in chunks. A chunk's pieces are read (one
 * read for slots that follow each other), and when the last one has come, each spanset is checked,
 * decoded, checked again, and the results stored with one call for slots that follow each other:
 *
 *     post chunk -> reads come in -> chunk is whole: check, decode, check, store -> chunk is free
 *
 * On shm a read is over when it is posted, so one chunk goes round in the L2 cache; on tcp up to
 * REBUILD_CHUNKS are on their way. Copies made: what the transport must, the decode's own, and one
 * into the region.
 *
 * Invariants
 *   1. Bytes reach the region only inside lease_enter .. lease_put under the epoch the request
 *      named: after a fence's answer nothing lands.
 *   2. A spanset is stored only after every source's CRC and the result's were right.
 *   3. No read is in flight when rebuild_run returns: its buffers are the next call's.
 *   4. Once a source has failed nothing is read any more: every spanset needs all of them.
 */
#include "memnode/rebuild.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "ec/ec.h"

#define UNDECIDED 0xffu
#define COMPLETIONS_MAX 64u
#define PACE_STEP_NS (20 * NS_PER_MS) /* a rate holds over so short a time */
#define PACE_LATE_NS (40 * NS_PER_MS)

struct chunk {
	uint32_t first; /* in run.order */
	uint32_t count; /* spansets; 0: free */
	uint32_t reads_pending;
	bool unreachable[REBUILD_CHUNK_SPANSETS];
	uint8_t *memory; /* piece j of source s: (s * run.pieces_max + j) pieces in */
};

struct run {
	struct rebuild_kit *kit;
	struct rebuild_stop *stop;
	const struct ctl_rebuild *request;
	struct ctl_rebuilt *rebuilt;
	struct lease *lease;
	uint32_t epoch;
	struct fabric_region *regions[CTL_SOURCES_MAX];
	bool copy;
	struct ec_plan plan;
	uint32_t piece;                   /* bytes of a slot */
	uint8_t source_of_plan[EC_K_MAX]; /* which source is the plan's i-th */
	uint32_t order[CTL_REBUILD_MAX];  /* slot << ORDER_BITS | index */
	uint32_t next;                    /* in order: not yet posted */
	uint32_t pieces_max;              /* spansets in a chunk */
	struct chunk chunks[REBUILD_CHUNKS];
	uint8_t *out;
	bool source_failed, refused;
	int error;
	uint64_t deadline_ns; /* for beginning reads */
	uint64_t pace_ns;     /* the next chunk may begin then */
	uint64_t paused_ns;
};

#define ORDER_BITS 12u
FM_BUILD_ASSERT(CTL_REBUILD_MAX == 1u << ORDER_BITS, "an index has ORDER_BITS");
FM_BUILD_ASSERT(REGION_BYTES_MAX / FM_PAGE_SIZE <= 1u << (32 - ORDER_BITS), "a slot has the rest");

static uint32_t run_index(const struct run *run, uint32_t at)
{
	return run->order[at] & (CTL_REBUILD_MAX - 1);
}

/* The target's piece of the spanset that comes at-th; the sources' follow it. */
static const struct ctl_piece *run_pieces(const struct run *run, uint32_t at)
{
	return run->request->pieces +
	       (size_t)run_index(run, at) * (1u + run->request->sources_count);
}

static uint8_t *chunk_piece(
	const struct run *run, const struct chunk *chunk, unsigned source, uint32_t j)
{
	return chunk->memory + ((size_t)source * run->pieces_max + j) * run->piece;
}

/* ---- beginning ---- */

static int order_compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void run_sort(struct run *run)
{
	const struct ctl_rebuild *request = run->request;
	bool sorted = true;
	for (uint32_t i = 0; i < request->count; i++) {
		uint32_t slot = request->pieces[(size_t)i * (1u + request->sources_count)].slot;
		run->order[i] = slot << ORDER_BITS | i;
		sorted = sorted && (i == 0 || run->order[i - 1] < run->order[i]);
	}
	if (!sorted)
		qsort(run->order, request->count, sizeof(run->order[0]), order_compare);
}

static int run_plan(struct run *run)
{
	const struct ctl_rebuild *request = run->request;
	struct ec_code code;
	uint32_t available = 0;
	run->copy =
		request->sources_count == 1 && request->sources[0].position == request->position;
	if (run->copy)
		return 0;
	for (unsigned s = 0; s < request->sources_count; s++)
		available |= 1u << request->sources[s].position;
	int error = ec_code_init(&code, request->k, request->m);
	if (!error)
		error = ec_plan_init(&run->plan, &code, available, 1u << request->position);
	for (unsigned i = 0; i < request->sources_count && !error; i++)
		for (unsigned s = 0; s < request->sources_count; s++)
			if (request->sources[s].position == run->plan.sources[i])
				run->source_of_plan[i] = (uint8_t)s;
	return error;
}

static void run_layout(struct run *run)
{
	const struct ctl_rebuild *request = run->request;
	const uint64_t step_bytes = request->rate_bytes_per_s / (NS_PER_S / PACE_STEP_NS);
	uint32_t max = REBUILD_CHUNK_BYTES / (request->sources_count * run->piece);
	max = FM_MIN(max, REBUILD_CHUNK_SPANSETS);
	if (request->rate_bytes_per_s)
		max = (uint32_t)FM_MIN(max, step_bytes / run->piece);
	run->pieces_max = max ? max : 1;
	for (unsigned i = 0; i < REBUILD_CHUNKS; i++)
		run->chunks[i].memory = run->kit->memory + (size_t)i * REBUILD_CHUNK_BYTES;
	run->out = run->kit->memory + (size_t)REBUILD_CHUNKS * REBUILD_CHUNK_BYTES;
}

/* Looks the lease up and holds the request against its size. */
static int run_target(struct run *run, struct lease_table *table)
{
	const struct ctl_rebuild *request = run->request;
	int error = lease_get(table, &request->target, &run->lease);
	if (error)
		return error;
	run->piece = request->piece_bytes ? request->piece_bytes : FM_PAGE_SIZE;
	const uint64_t slots =
		FM_MIN(lease_bytes(run->lease) / run->piece, 1ull << (32 - ORDER_BITS));
	lease_put(run->lease);
	run->epoch = request->target.epoch;
	for (uint32_t i = 0; i < request->count; i++)
		if (request->pieces[(size_t)i * (1u + request->sources_count)].slot >= slots)
			return -EINVAL;
	return 0;
}

/* ---- sources ---- */

static void source_fail(struct run *run, unsigned source, int error)
{
	run->source_failed = true;
	if (run->rebuilt->source_status[source] == 0)
		run->rebuilt->source_status[source] = error;
}

static bool link_is_of(const struct rebuild_link *link, const struct ctl_source *source)
{
	return link->region && fabric_region_up(link->region) &&
	       strcmp(link->endpoint, source->endpoint) == 0 &&
	       memcmp(&link->capability, &source->capability, sizeof(link->capability)) == 0;
}

/* Lets go of what this request does not want, so that the rest finds room. */
static void links_trim(struct rebuild_kit *kit, const struct ctl_rebuild *request)
{
	for (unsigned i = 0; i < CTL_SOURCES_MAX; i++) {
		struct rebuild_link *link = &kit->links[i];
		bool wanted = false;
		for (unsigned s = 0; s < request->sources_count; s++)
			wanted = wanted || link_is_of(link, &request->sources[s]);
		if (link->region && !wanted) {
			fabric_detach(link->region);
			link->region = NULL;
		}
	}
}

static int link_open(struct rebuild_kit *kit, const struct ctl_source *source, uint64_t deadline_ns,
	struct fabric_region **region)
{
	struct rebuild_link *free_link = NULL;
	for (unsigned i = 0; i < CTL_SOURCES_MAX; i++) {
		struct rebuild_link *link = &kit->links[i];
		if (link_is_of(link, source)) {
			*region = link->region;
			return 0;
		}
		if (!link->region && !free_link)
			free_link = link;
	}
	if (!free_link) /* one broke since links_trim: its place is free at the next call */
		return -ECONNRESET;
	if (FAULT_POINT("memnode.rebuild.attach"))
		return -ECONNREFUSED;
	int error = fabric_attach(
		kit->queue, source->endpoint, &source->capability, deadline_ns, region);
	if (error)
		return error;
	free_link->region = *region;
	memcpy(free_link->endpoint, source->endpoint, sizeof(free_link->endpoint));
	free_link->capability = source->capability;
	return 0;
}

static void run_attach(struct run *run)
{
	const struct ctl_rebuild *request = run->request;
	const uint64_t deadline_ns = clock_now_ns() + REBUILD_ATTACH_NS;
	links_trim(run->kit, request);
	for (unsigned s = 0; s < request->sources_count && !run->source_failed; s++) {
		int error =
			link_open(run->kit, &request->sources[s], deadline_ns, &run->regions[s]);
		if (error)
			source_fail(run, s, error);
	}
}

/* ---- reading ---- */

union read_tag {
	uint64_t tag;
	struct {
		uint16_t chunk, source, j, count;
	} of;
};
FM_BUILD_ASSERT(sizeof(union read_tag) == sizeof(uint64_t), "a tag says it all");

static void chunk_lose(struct chunk *chunk, uint32_t j, uint32_t count)
{
	for (uint32_t i = j; i < j + count; i++)
		chunk->unreachable[i] = true;
}

static int chunk_read(struct run *run, struct chunk *chunk, const union read_tag *tag)
{
	const struct ctl_piece *piece =
		run_pieces(run, chunk->first + tag->of.j) + 1 + tag->of.source;
	struct iovec iov = {chunk_piece(run, chunk, tag->of.source, tag->of.j),
		(size_t)tag->of.count * run->piece};
	struct fabric_transfer transfer = {.offset = (uint64_t)piece->slot * run->piece,
		.iov = &iov,
		.iov_count = 1,
		.tag = tag->tag,
		.deadline_ns = clock_now_ns() + REBUILD_READ_NS};
	if (FAULT_POINT("memnode.rebuild.read"))
		return -ECONNRESET;
	return fabric_post_read(run->regions[tag->of.source], &transfer);
}

/* Posts one source's reads of a chunk: one for each run of slots. False: the source failed. */
static bool chunk_post_source(struct run *run, struct chunk *chunk, unsigned source)
{
	for (uint32_t j = 0, count; j < chunk->count; j += count) {
		uint32_t slot = run_pieces(run, chunk->first + j)[1 + source].slot;
		count = 1;
		while (j + count < chunk->count &&
			run_pieces(run, chunk->first + j + count)[1 + source].slot == slot + count)
			count++;
		union read_tag tag = {.of = {(uint16_t)(chunk - run->chunks), (uint16_t)source,
					      (uint16_t)j, (uint16_t)count}};
		int error = chunk_read(run, chunk, &tag);
		if (error) {
			source_fail(run, source, error == -ENOTCONN ? -ECONNRESET : error);
			return false;
		}
		chunk->reads_pending++;
	}
	return true;
}

static void run_pace(struct run *run, uint32_t count, uint64_t now_ns)
{
	const uint64_t rate = run->request->rate_bytes_per_s;
	if (!rate)
		return;
	/* A wake-up that came late is made up for, or on a busy machine a rate would be a third of
	 * itself; what was lost waiting for sources is not: no bursts. */
	uint64_t begin_ns = FM_MAX(run->pace_ns, now_ns - PACE_LATE_NS);
	run->pace_ns = begin_ns + (uint64_t)count * run->piece * NS_PER_S / rate;
}

static void chunk_post(struct run *run, struct chunk *chunk, uint64_t now_ns)
{
	chunk->first = run->next;
	chunk->count = FM_MIN(run->pieces_max, run->request->count - run->next);
	chunk->reads_pending = 0;
	memset(chunk->unreachable, 0, sizeof(chunk->unreachable));
	run->next += chunk->count;
	run_pace(run, chunk->count, now_ns);
	for (unsigned s = 0; s < run->request->sources_count; s++) {
		if (!chunk_post_source(run, chunk, s)) {
			chunk_lose(chunk, 0, chunk->count);
			break;
		}
	}
}

/* ---- deciding and storing ---- */

/* Checks one spanset's pieces and makes the target's. DONE: to be stored. */
static uint8_t chunk_decide(struct run *run, struct chunk *chunk, uint32_t j)
{
	const unsigned sources_count = run->request->sources_count;
	const struct ctl_piece *pieces = run_pieces(run, chunk->first + j);
	const uint8_t *sources[EC_K_MAX];
	uint8_t *out = run->out + (size_t)j * run->piece;
	if (chunk->unreachable[j])
		return CTL_REBUILD_UNREACHABLE;
	for (unsigned s = 0; s < sources_count; s++)
		if (crc32c(chunk_piece(run, chunk, s, j), run->piece) != pieces[1 + s].crc)
			return (uint8_t)(CTL_REBUILD_BAD_SOURCE + s);
	if (run->copy)
		return pieces[0].crc == pieces[1].crc ? CTL_REBUILD_DONE : CTL_REBUILD_WRONG;
	for (unsigned i = 0; i < sources_count; i++)
		sources[i] = chunk_piece(run, chunk, run->source_of_plan[i], j);
	ec_rebuild(&run->plan, run->piece, sources, &out);
	return crc32c(out, run->piece) == pieces[0].crc ? CTL_REBUILD_DONE : CTL_REBUILD_WRONG;
}

/* Stores count results that follow each other in memory and in the region. */
static void run_store(struct run *run, uint32_t slot, const uint8_t *from, uint32_t count)
{
	if (run->refused || run->error)
		return;
	if (!lease_enter(run->lease, run->epoch)) {
		run->refused = true;
		return;
	}
	int error = FAULT_POINT("memnode.rebuild.store")
			    ? -EIO
			    : lease_store(run->lease, (uint64_t)slot * run->piece, from,
				      (size_t)count * run->piece);
	lease_touch(run->lease);
	lease_put(run->lease);
	if (error == -EACCES)
		run->refused = true;
	else if (error)
		run->error = -EIO;
}

/* Stores what was decided to be DONE; what cannot be stored becomes REFUSED. */
static void chunk_store(struct run *run, struct chunk *chunk)
{
	const uint8_t *from = run->copy ? chunk->memory : run->out;
	uint8_t *outcomes = run->rebuilt->outcomes;
	for (uint32_t j = 0, count; j < chunk->count; j += count) {
		uint32_t slot = run_pieces(run, chunk->first + j)->slot;
		count = 1;
		if (outcomes[run_index(run, chunk->first + j)] != CTL_REBUILD_DONE)
			continue;
		while (j + count < chunk->count &&
			outcomes[run_index(run, chunk->first + j + count)] == CTL_REBUILD_DONE &&
			run_pieces(run, chunk->first + j + count)->slot == slot + count)
			count++;
		run_store(run, slot, from + (size_t)j * run->piece, count);
		for (uint32_t i = j; i < j + count && (run->refused || run->error); i++)
			outcomes[run_index(run, chunk->first + i)] = CTL_REBUILD_REFUSED;
	}
}

/* All reads of it have come. */
static void chunk_finish(struct run *run, struct chunk *chunk)
{
	const uint64_t decode_ns = clock_now_ns();
	for (uint32_t j = 0; j < chunk->count; j++)
		run->rebuilt->outcomes[run_index(run, chunk->first + j)] =
			chunk_decide(run, chunk, j);
	const uint64_t store_ns = clock_now_ns();
	chunk_store(run, chunk);
	run->rebuilt->decode_ns += store_ns - decode_ns;
	run->rebuilt->store_ns += clock_now_ns() - store_ns;
	chunk->count = 0;
}

/* ---- the loop ---- */

/* May more be begun? Notices a fence, a stop, the end of the time. */
static bool run_wants_more(struct run *run, uint64_t now_ns)
{
	if (!lease_valid(run->lease, run->epoch))
		run->refused = true;
	if (atomic_load_explicit(&run->stop->stopping, memory_order_relaxed) && !run->error)
		run->error = -EAGAIN;
	return run->next < run->request->count && !run->refused && !run->error &&
	       !run->source_failed && now_ns < run->deadline_ns;
}

/* A free chunk, if the queue has room for all its reads: the hottest in the cache first. */
static struct chunk *run_free_chunk(struct run *run)
{
	const uint32_t reads_max = run->pieces_max * run->request->sources_count;
	if (fabric_in_flight(run->kit->queue) + reads_max > FABRIC_DEPTH_MAX)
		return NULL;
	for (unsigned i = 0; i < REBUILD_CHUNKS; i++)
		if (run->chunks[i].count == 0)
			return &run->chunks[i];
	return NULL;
}

static void run_reap(struct run *run, uint64_t until_ns)
{
	struct fabric_completion completions[COMPLETIONS_MAX];
	unsigned count = fabric_wait(run->kit->queue, completions, COMPLETIONS_MAX, until_ns);
	for (unsigned i = 0; i < count; i++) {
		union read_tag tag = {.tag = completions[i].tag};
		struct chunk *chunk = &run->chunks[tag.of.chunk];
		if (completions[i].status) {
			source_fail(run, tag.of.source, completions[i].status);
			chunk_lose(chunk, tag.of.j, tag.of.count);
		}
		chunk->reads_pending--;
	}
	for (unsigned i = 0; i < REBUILD_CHUNKS; i++)
		if (run->chunks[i].count && run->chunks[i].reads_pending == 0)
			chunk_finish(run, &run->chunks[i]);
}

static void run_pause(struct run *run, uint64_t now_ns)
{
	rebuild_stop_wait(run->stop, FM_MIN(run->pace_ns, run->deadline_ns));
	run->paused_ns += clock_now_ns() - now_ns;
}

static bool run_is_busy(const struct run *run)
{
	for (unsigned i = 0; i < REBUILD_CHUNKS; i++)
		if (run->chunks[i].count)
			return true;
	return false;
}

static void run_loop(struct run *run)
{
	for (;;) {
		const uint64_t now_ns = clock_now_ns();
		const bool more = run_wants_more(run, now_ns);
		struct chunk *chunk = more ? run_free_chunk(run) : NULL;
		if (chunk && now_ns >= run->pace_ns) {
			chunk_post(run, chunk, now_ns);
			run_reap(run, now_ns);
		} else if (run_is_busy(run)) {
			run_reap(run, chunk ? run->pace_ns : now_ns + REBUILD_READ_NS);
		} else if (more) {
			run_pause(run, now_ns);
		} else {
			break;
		}
	}
	FM_ASSERT_EQ(fabric_in_flight(run->kit->queue), 0); /* invariant 3 */
}

static void run_decide_rest(struct run *run)
{
	for (uint32_t i = 0; i < run->request->count; i++)
		if (run->rebuilt->outcomes[i] == UNDECIDED)
			run->rebuilt->outcomes[i] =
				run->refused ? CTL_REBUILD_REFUSED : CTL_REBUILD_UNREACHABLE;
}

int rebuild_run(struct rebuild_kit *kit, struct lease_table *table, struct rebuild_stop *stop,
	const struct ctl_rebuild *request, struct ctl_rebuilt *rebuilt)
{
	struct run run = {.kit = kit, .stop = stop, .request = request, .rebuilt = rebuilt};
	const uint64_t begin_ns = clock_now_ns();
	memset(rebuilt, 0, sizeof(*rebuilt));
	memset(rebuilt->outcomes, UNDECIDED, sizeof(rebuilt->outcomes));
	int error = run_target(&run, table);
	if (!error)
		error = run_plan(&run);
	if (error)
		return error;
	run_sort(&run);
	run_layout(&run);
	run_attach(&run);
	run.pace_ns = clock_now_ns();
	run.deadline_ns = run.pace_ns + REBUILD_CALL_NS + rebuild_rate_ns(request);
	run_loop(&run);
	run_decide_rest(&run);
	rebuilt->read_ns =
		clock_now_ns() - begin_ns - run.paused_ns - rebuilt->decode_ns - rebuilt->store_ns;
	return run.error;
}
