/*
 * farmem/agent/agent_rebuild.c: the Rebuild calls of a column that is being replaced: which
 * spansets, read from where, and what came of each.
 *
 *     column_batch -> pending -> one call: k sources for all its spansets -> outcomes
 *                        retries: spansets one of whose pieces is bad, with other sources
 *
 * The replacement node does the work; here is decided where it reads. A source is a column that is
 * well, on a node that is not down; or, when these are too few, the replacement of another lost
 * column, for the spansets it has already. The least loaded come first; suspected nodes last.
 *
 * Caller: agent_repair.c. Whatever is not done when the scan ends is found by the next one, so
 * nothing is kept here that could be forgotten.
 *
 * Invariants
 *   1. Capabilities and endpoints are our own copies; of the catalog only slots, CRCs and done bits
 *      are used, each checked (column.h, C6).
 *   2. A spanset is handed to one call at a time within a scan.
 *   3. A done bit follows the node's word for that very spanset, and no other outcome (C2).
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent_repair.h"
#include "farmem/scheme.h"

#define COST_PARTIAL (1u << 16)
#define COST_SUSPECT (1u << 20)
#define COST_SLOW (1u << 12)
#define COST_CALL 16u /* of ours; others' calls at the node count 1 */

/* Where a position may be read. */
struct origin {
	struct agent_member *member;
	const struct fabric_capability *capability;
	int node;
	unsigned cost;
	uint8_t position;
	bool partial; /* only where the done bit is set */
};

struct rebuild_call {
	struct repair *repair;
	struct ctl_rebuild asked;
	struct agent_member *members[CTL_SOURCES_MAX];
	int nodes[CTL_SOURCES_MAX];
	bool copies;
	uint32_t bad; /* sources these spansets are not to be read from */
	uint64_t begun_ns;
	uint32_t ssids[REPAIR_BATCH_MAX];
	struct ctl_piece pieces[]; /* REPAIR_BATCH_MAX * (1 + sources) */
};

/* ---- sources ---- */

static unsigned origin_cost(const struct repair *repair, const struct origin *origin)
{
	const struct agent_member *member = origin->member;
	const struct catalog_node *entry = &repair->runtime->catalog.nodes[origin->node];
	unsigned cost = member->repairs_out * COST_CALL +
			FM_MIN(member->load.calls_in_flight + member->load.rebuilds, 255u);
	if (member->state != MEMBER_UP)
		cost += COST_SUSPECT;
	if (origin->partial)
		cost += COST_PARTIAL;
	if (atomic_load_explicit(&entry->slow_until_ns, memory_order_relaxed) > clock_now_ns())
		cost += COST_SLOW;
	return cost;
}

/* False: an erasure. */
static bool origin_find(const struct repair *repair, unsigned position, struct origin *origin)
{
	struct agent *agent = repair->agent;
	const struct agent_column *own = &repair->runtime->groups[repair->group].columns[position];
	const struct repair *other = repair_of(repair->runtime, repair->group, position);
	memset(origin, 0, sizeof *origin);
	origin->position = (uint8_t)position;
	if (!own->lost) {
		origin->node = own->node;
		origin->capability = &own->capability;
	} else if (other != NULL && other != repair && other->held &&
		   other->phase != REPAIR_RESERVING) {
		origin->node = other->node;
		origin->capability = &other->capability;
		origin->partial = true;
	} else {
		return false;
	}
	if (agent->nodes[origin->node].state == NODE_DOWN)
		return false;
	origin->member = &agent->members[agent->nodes[origin->node].member];
	if (origin->member->node != origin->node)
		return false;
	origin->cost = origin_cost(repair, origin);
	return true;
}

/* The `wanted` cheapest origins but those in `bad`. Returns how many there are, at most wanted. */
static unsigned origins_choose(
	const struct repair *repair, uint32_t bad, unsigned wanted, struct origin *chosen)
{
	unsigned count = 0;
	for (unsigned p = 0; p < (unsigned)repair->k + repair->m; p++) {
		struct origin origin;
		unsigned at;
		if (p == repair->position || (bad >> p & 1) != 0 ||
			!origin_find(repair, p, &origin))
			continue;
		for (at = count; at > 0 && chosen[at - 1].cost > origin.cost; at--)
			if (at < wanted)
				chosen[at] = chosen[at - 1];
		if (at < wanted)
			chosen[at] = origin;
		count = FM_MIN(count + 1, wanted);
	}
	return count;
}

/* Sources for spansets with these bad pieces: the column itself, or k others. 0: too few. */
static unsigned sources_choose(const struct repair *repair, uint32_t bad, struct origin *chosen)
{
	const struct agent_column *own =
		&repair->runtime->groups[repair->group].columns[repair->position];
	struct origin itself;
	bool copies = !own->lost && (bad >> repair->position & 1) == 0 &&
		      origin_find(repair, repair->position, &itself);
	if (copies && itself.member->state == MEMBER_UP) {
		chosen[0] = itself;
		return 1;
	}
	if (origins_choose(repair, bad, repair->k, chosen) == repair->k)
		return repair->k;
	if (copies)
		chosen[0] = itself;
	return copies ? 1 : 0;
}

/* ---- what came of a call ---- */

/* A source's bytes are not what the record says: an erasure, and work for the runtime. */
static void piece_is_bad(
	struct repair *repair, const struct rebuild_call *call, unsigned i, unsigned source)
{
	struct agent_runtime *runtime = repair->runtime;
	struct repair_retry *retry = &repair->retries[repair->retries_count];
	uint8_t position = call->asked.sources[source].position;
	uint32_t gen;
	log_ratelimited(LOG_WARN,
		"agent: bytes fail their CRC, treated as an erasure node=%s group=%u position=%u",
		call->members[source]->name, repair->group, position);
	catalog_count(&runtime->catalog, scrub_mismatches, 1);
	if (column_heal(&runtime->catalog, call->ssids[i]))
		repair_send_work(runtime);
	/* No room: the next scan finds it again. */
	if (repair->retries_count == REPAIR_RETRIES_MAX ||
		!column_read_record(
			&runtime->catalog, repair->group, call->ssids[i], &retry->entry, &gen))
		return;
	retry->bad = call->bad | 1u << position;
	repair->retries_count++;
}

/* True: the target's lease is not what it was. */
static bool outcomes_take(
	struct repair *repair, const struct rebuild_call *call, const struct ctl_rebuilt *rebuilt)
{
	struct catalog *catalog = &repair->runtime->catalog;
	const unsigned stride = 1u + call->asked.sources_count;
	bool refused = false;
	uint64_t bytes = 0;
	for (unsigned i = 0; i < call->asked.count; i++) {
		uint8_t outcome = rebuilt->outcomes[i];
		if (outcome == CTL_REBUILD_DONE) {
			column_done(&repair->job, call->pieces[i * stride].slot);
			bytes += call->asked.piece_bytes;
		} else if (outcome >= CTL_REBUILD_BAD_SOURCE) {
			piece_is_bad(repair, call, i, outcome - CTL_REBUILD_BAD_SOURCE);
		} else if (outcome == CTL_REBUILD_WRONG) {
			catalog_count(catalog, scrub_mismatches, 1);
			log_ratelimited(LOG_ERROR,
				"agent: right pieces make a wrong whole ssid=%u group=%u "
				"position=%u",
				call->ssids[i], repair->group, repair->position);
		}
		refused = refused || outcome == CTL_REBUILD_REFUSED;
	}
	repair->rebuilt_bytes += bytes;
	repair->agent->repair->rebuilt_bytes += bytes;
	repair->progress = repair->progress || bytes > 0;
	if (repair->runtime->repair != NULL && repair->runtime->repair->lost_since_ns != 0)
		repair->runtime->repair->lost_bytes += bytes;
	if (repair->runtime->groups[repair->group].columns[repair->position].lost)
		catalog_count(catalog, repaired_bytes, bytes);
	else
		catalog_count(catalog, drained_bytes, bytes);
	return refused;
}

/* Sources that did not give their pieces: asked how they are; others are taken meanwhile. */
static void sources_blame(const struct rebuild_call *call, const struct ctl_rebuilt *rebuilt)
{
	for (unsigned s = 0; s < call->asked.sources_count; s++) {
		int status = rebuilt->source_status[s];
		if (status == 0 || call->members[s]->node != call->nodes[s])
			continue;
		log_info("agent: source node=%s error=%d", call->members[s]->name, status);
		if (status == -EACCES || status == -ERANGE)
			node_check(call->members[s]); /* a lease that is gone is told there */
		else
			node_suspect(call->members[s]);
	}
}

static void call_put(struct rebuild_call *call)
{
	for (unsigned s = 0; s < call->asked.sources_count; s++)
		call->members[s]->repairs_out--;
	free(call);
}

static void call_told(const struct rebuild_call *call, const struct ctl_rebuilt *rebuilt)
{
	log_debug(
		"agent: rebuilt group=%u position=%u count=%u us=%llu read_us=%llu decode_us=%llu "
		"store_us=%llu",
		call->repair->group, call->repair->position, call->asked.count,
		(unsigned long long)((clock_now_ns() - call->begun_ns) / NS_PER_US),
		(unsigned long long)(rebuilt->read_ns / NS_PER_US),
		(unsigned long long)(rebuilt->decode_ns / NS_PER_US),
		(unsigned long long)(rebuilt->store_ns / NS_PER_US));
}

static void rebuild_answered(void *context, const struct ctl_result *result)
{
	static struct ctl_rebuilt rebuilt;
	struct rebuild_call *call = context;
	struct repair *repair = call->repair;
	int error = ctl_unpack_rebuild(result, &call->asked, &rebuilt);
	if (repair_call_ended(repair) || repair->phase == REPAIR_OVER) {
		call_put(call);
		return;
	}
	AGENT_DIE("repair.answered");
	if (error == 0) {
		repair->target_failures = 0;
		call_told(call, &rebuilt);
		sources_blame(call, &rebuilt);
		if (outcomes_take(repair, call, &rebuilt))
			error = -EACCES;
	}
	call_put(call);
	if (error != 0)
		repair_target_failed(repair, error); /* may free it */
	else
		repair_advance(repair);
}

/* ---- a call ---- */

static struct rebuild_call *call_make(
	struct repair *repair, const struct origin *origins, unsigned sources, uint32_t bad)
{
	struct rebuild_call *call = calloc(1,
		sizeof *call + (size_t)REPAIR_BATCH_MAX * (1 + sources) * sizeof call->pieces[0]);
	if (call == NULL)
		return NULL;
	struct ctl_rebuild *asked = &call->asked;
	call->repair = repair;
	call->bad = bad;
	asked->target = repair->capability;
	asked->position = repair->position;
	asked->k = repair->k;
	asked->m = repair->m;
	asked->sources_count = (uint8_t)sources;
	asked->piece_bytes = scheme_slot_bytes(
		&repair->runtime->catalog, &repair->runtime->catalog.groups[repair->group]);
	asked->pieces = call->pieces;
	for (unsigned s = 0; s < sources; s++) {
		const struct agent_node *node = &repair->agent->nodes[origins[s].node];
		snprintf(asked->sources[s].endpoint, sizeof asked->sources[s].endpoint, "%s",
			node->endpoint);
		asked->sources[s].capability = *origins[s].capability;
		asked->sources[s].position = origins[s].position;
		call->members[s] = origins[s].member;
		call->nodes[s] = origins[s].node;
		origins[s].member->repairs_out++;
	}
	return call;
}

/* False: one of the sources does not have it yet. */
static bool call_add(
	struct rebuild_call *call, const struct origin *origins, const struct column_entry *entry)
{
	const struct repair *repair = call->repair;
	const unsigned sources = call->asked.sources_count;
	struct ctl_piece *piece = &call->pieces[call->asked.count * (1 + sources)];
	for (unsigned s = 0; s < sources; s++) {
		uint8_t p = origins[s].position;
		if (origins[s].partial && column_source(&repair->runtime->catalog, repair->group, p,
						  entry->slot[p]) == NULL)
			return false;
		piece[1 + s] = (struct ctl_piece){entry->slot[p], entry->crc[p]};
	}
	piece[0] = (struct ctl_piece){entry->slot[repair->position], entry->crc[repair->position]};
	call->ssids[call->asked.count++] = entry->ssid;
	return true;
}

static int call_send(struct repair *repair, struct rebuild_call *call)
{
	struct ctl_packed packed;
	unsigned unused;
	uint64_t rate = throttle_call(repair->agent, &unused);
	uint64_t bytes = (uint64_t)call->asked.count * call->asked.piece_bytes;
	call->asked.rate_bytes_per_s = rate;
	call->begun_ns = clock_now_ns();
	if (repair->member->client == NULL)
		return -ECONNRESET;
	int error = ctl_pack_rebuild(&call->asked, &packed);
	if (error != 0)
		return error;
	struct ctl_request request = {CTL_METHOD_REBUILD, packed.bytes, packed.length,
		REPAIR_CALL_NS + (rate != 0 ? bytes * NS_PER_S / rate : 0)};
	error = ctl_client_start(
		repair->member->client, repair->agent->queue, &request, rebuild_answered, call);
	ctl_packed_clear(&packed);
	if (error == 0)
		repair->calls_running++;
	return error;
}

/* ---- filling ---- */

/* Spansets whose slot is not done, up to `most`. False: look again later. */
static bool pending_fill(struct repair *repair, unsigned most, uint64_t now_ns)
{
	if (repair->ended || repair->pending_count >= most)
		return true;
	bool was_quiet = repair->job.was_quiet;
	repair->pending_count += column_batch(&repair->job, repair->pending + repair->pending_count,
		most - repair->pending_count, REPAIR_LOOK_MAX, &repair->ended);
	if (!was_quiet && !repair->job.was_quiet)
		repair->not_before_ns = now_ns + REPAIR_QUIET_NS;
	if (repair->pending_count >= most || repair->ended)
		return true;
	repair_arm(repair->agent, FM_MAX(now_ns, repair->not_before_ns)); /* others' turn */
	return false;
}

/* The retries that share the first one's bad pieces. */
static void take_retries(
	struct repair *repair, struct rebuild_call *call, const struct origin *origins)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < repair->retries_count; i++) {
		const struct repair_retry *retry = &repair->retries[i];
		if (retry->bad != call->bad || call->asked.count == REPAIR_BATCH_MAX)
			repair->retries[kept++] = *retry;
		else
			(void)call_add(call, origins, &retry->entry);
	}
	repair->retries_count = kept;
}

static void drop_retries(struct repair *repair, uint32_t bad)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < repair->retries_count; i++)
		if (repair->retries[i].bad != bad)
			repair->retries[kept++] = repair->retries[i];
	repair->retries_count = kept;
}

/* No k sources: a column that was lost since, or a spanset with too many bad pieces. */
static void too_few(struct repair *repair, uint32_t bad)
{
	if (bad != 0) {
		log_ratelimited(LOG_ERROR,
			"agent: a spanset has too many bad pieces to be rebuilt group=%u",
			repair->group);
		drop_retries(repair, bad);
		return;
	}
	if (!repair->hopeless)
		log_error("agent: too few sources to rebuild group=%u position=%u", repair->group,
			repair->position);
	repair->hopeless = true;
	repair->pending_count = 0;
}

enum begun {
	CALL_BEGUN,
	CALL_NONE,   /* nothing of it could be asked for: on with the rest */
	CALL_FAILED, /* the repair may be gone; if not, its timer goes on with it */
};

static enum begun call_begin(struct repair *repair)
{
	struct origin origins[CTL_SOURCES_MAX];
	uint32_t bad = repair->retries_count > 0 ? repair->retries[0].bad : 0;
	unsigned sources = sources_choose(repair, bad, origins);
	if (sources == 0) {
		too_few(repair, bad);
		return CALL_NONE;
	}
	struct rebuild_call *call = call_make(repair, origins, sources, bad);
	if (call == NULL) {
		repair_target_failed(repair, -ENOMEM);
		return CALL_FAILED;
	}
	repair->hopeless = false;
	if (repair->retries_count > 0) {
		take_retries(repair, call, origins);
	} else {
		for (unsigned i = 0; i < repair->pending_count; i++)
			(void)call_add(call, origins, &repair->pending[i]);
		repair->pending_count = 0;
	}
	int error = call->asked.count > 0 ? call_send(repair, call) : -ENODATA;
	if (error == 0)
		return CALL_BEGUN;
	call_put(call);
	if (error == -ENODATA)
		return CALL_NONE;
	repair_target_failed(repair, error);
	return CALL_FAILED;
}

bool rebuild_continue(struct repair *repair, uint64_t now_ns)
{
	unsigned most;
	throttle_call(repair->agent, &most);
	while (repair->calls_running < REPAIR_CALLS_MAX && throttle_allows(repair->agent)) {
		if (!pending_fill(repair, most, now_ns) && repair->retries_count == 0)
			return false;
		if (repair->pending_count == 0 && repair->retries_count == 0)
			break;
		if (call_begin(repair) == CALL_FAILED)
			return false;
	}
	return repair->ended && repair->pending_count == 0 && repair->retries_count == 0 &&
	       repair->calls_running == 0;
}
