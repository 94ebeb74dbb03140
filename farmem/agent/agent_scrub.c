/*
 * farmem/agent/agent_scrub.c: reads everything within --scrub-period, by and by: nodes compute the
 * CRC32C of slots (Checksum), which are compared with the records'. What is wrong is written anew
 * by the runtime (catalog.heal, WORK) before a second fault can meet it.
 *
 *     group by group, SCRUB_BATCH spansets at a time: one Checksum for each column that is well
 *        -> a CRC differs -> the record again: same generation, still needed? -> Checksum of that
 *           slot again -> differs again -> column_heal
 *
 * Caller: agent_repair.c's timer. One portion is under way at a time; portions are spread evenly
 * over the period, so that nobody notices.
 *
 * Invariants
 *   1. Only bytes that a record promises now are judged: a slot that was freed or used anew while
 *      the node read it proves nothing.
 *   2. Columns that are lost or being replaced are passed over: repair reads those anyway.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent_repair.h"
#include "farmem/scheme.h"

#define SCRUB_BATCH 512u /* spansets in a portion: 2 MiB of each column */
#define SCRUB_LOOK 65536u
#define SCRUB_CALL_NS (10 * NS_PER_S)
#define CALLS_LOOK_NS (20 * NS_PER_MS)
#define SCRUB_SUSPECTS_MAX 64u /* of a portion looked at again; more: with the next round */

struct scrub_item {
	uint32_t ssid, gen;
	struct column_entry entry;
};

struct scrub_suspect {
	uint32_t item;
	uint8_t position;
};

struct scrub_agent {
	struct agent *agent;
	uint64_t period_ns, due_ns;
	unsigned turn;  /* which runtime */
	unsigned calls; /* under way */
	bool again;     /* the calls look at suspects for the second time */
	/* the portion */
	struct agent_runtime *runtime;
	uint32_t group, cursor;
	bool group_ended;
	unsigned count;
	struct scrub_item items[SCRUB_BATCH];
	unsigned suspects_count;
	struct scrub_suspect suspects[SCRUB_SUSPECTS_MAX];
};

struct scrub_call {
	struct scrub_agent *scrub;
	struct agent_runtime *runtime;
	uint8_t position;
	unsigned count;
	uint32_t items[SCRUB_BATCH]; /* indexes */
	uint32_t slots[SCRUB_BATCH];
};

/* ---- what is wrong ---- */

/* Invariant 1. */
static bool still_promised(const struct scrub_agent *scrub, uint32_t item)
{
	const struct scrub_item *it = &scrub->items[item];
	struct column_entry now;
	uint32_t gen;
	return column_read_record(&scrub->runtime->catalog, scrub->group, it->ssid, &now, &gen) &&
	       gen == it->gen;
}

static void found_wrong(struct scrub_agent *scrub, uint32_t item, unsigned position)
{
	struct agent_runtime *runtime = scrub->runtime;
	const struct agent_column *column = &runtime->groups[scrub->group].columns[position];
	if (!still_promised(scrub, item))
		return;
	if (!scrub->again) {
		if (scrub->suspects_count < SCRUB_SUSPECTS_MAX)
			scrub->suspects[scrub->suspects_count++] =
				(struct scrub_suspect){item, (uint8_t)position};
		return;
	}
	log_ratelimited(LOG_WARN,
		"agent: scrubbing found wrong bytes node=%s group=%u position=%u slot=%u",
		scrub->agent->nodes[column->node].name, scrub->group, position,
		scrub->items[item].entry.slot[position]);
	catalog_count(&runtime->catalog, scrub_mismatches, 1);
	if (column_heal(&runtime->catalog, scrub->items[item].ssid))
		repair_send_work(runtime);
}

/* ---- calls ---- */

/* The last call has ended: the suspects once more, or on with the next portion. */
static void portion_ended(struct scrub_agent *scrub)
{
	scrub->again = scrub->runtime != NULL && !scrub->again && scrub->suspects_count > 0;
	if (scrub->again)
		repair_arm(scrub->agent, clock_now_ns()); /* scrub_tick begins it */
	else
		scrub->count = scrub->suspects_count = 0;
}

static void checksum_answered(void *context, const struct ctl_result *result)
{
	static uint32_t crcs[CTL_CHECKSUM_MAX];
	struct scrub_call *call = context;
	struct scrub_agent *scrub = call->scrub;
	int error = ctl_unpack_checksum(result, call->count, crcs);
	scrub->calls--;
	if (error == 0 && scrub->runtime == call->runtime && scrub->runtime != NULL) {
		for (unsigned i = 0; i < call->count; i++)
			if (crcs[i] != scrub->items[call->items[i]].entry.crc[call->position])
				found_wrong(scrub, call->items[i], call->position);
		if (!scrub->again)
			catalog_count(&scrub->runtime->catalog, scrubbed_bytes,
				(uint64_t)call->count * FM_PAGE_SIZE);
	}
	free(call);
	if (scrub->calls == 0)
		portion_ended(scrub);
}

static bool column_is_scrubbed(const struct scrub_agent *scrub, unsigned position)
{
	const struct agent *agent = scrub->agent;
	const struct agent_column *column = &scrub->runtime->groups[scrub->group].columns[position];
	const struct agent_member *member = &agent->members[agent->nodes[column->node].member];
	return !column->lost && member->node == (int)column->node && member->state == MEMBER_UP &&
	       member->client != NULL && repair_of(scrub->runtime, scrub->group, position) == NULL;
}

static void call_start(struct scrub_call *call)
{
	struct scrub_agent *scrub = call->scrub;
	const struct agent_column *column =
		&scrub->runtime->groups[scrub->group].columns[call->position];
	const struct agent_member *member =
		&scrub->agent->members[scrub->agent->nodes[column->node].member];
	struct ctl_packed packed;
	int error = call->count > 0 ? ctl_pack_checksum(&column->capability, call->slots,
					      call->count, &packed)
				    : -ENODATA;
	if (error != 0) {
		free(call);
		return;
	}
	struct ctl_request request = {
		CTL_METHOD_CHECKSUM, packed.bytes, packed.length, SCRUB_CALL_NS};
	error = ctl_client_start(
		member->client, scrub->agent->queue, &request, checksum_answered, call);
	ctl_packed_clear(&packed);
	if (error == 0)
		scrub->calls++;
	else
		free(call);
}

static struct scrub_call *call_make(struct scrub_agent *scrub, unsigned position)
{
	struct scrub_call *call =
		column_is_scrubbed(scrub, position) ? calloc(1, sizeof *call) : NULL;
	if (call == NULL)
		return NULL;
	call->scrub = scrub;
	call->runtime = scrub->runtime;
	call->position = (uint8_t)position;
	return call;
}

static void call_add(struct scrub_call *call, uint32_t item)
{
	call->slots[call->count] = call->scrub->items[item].entry.slot[call->position];
	call->items[call->count++] = item;
}

/* Everything of the portion, or the suspects again: a call for each column. */
static void portion_start(struct scrub_agent *scrub)
{
	const struct agent_group *group = &scrub->runtime->groups[scrub->group];
	scrub->calls = 1; /* so that no early answer ends it */
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++) {
		struct scrub_call *call = call_make(scrub, p);
		if (call == NULL)
			continue;
		for (uint32_t i = 0; !scrub->again && i < scrub->count; i++)
			call_add(call, i);
		for (unsigned i = 0; scrub->again && i < scrub->suspects_count; i++)
			if (scrub->suspects[i].position == p)
				call_add(call, scrub->suspects[i].item);
		call_start(call);
	}
	if (--scrub->calls == 0)
		portion_ended(scrub);
}

/* ---- portions, spread over the period ---- */

/* Not pages in pieces: the nodes' Checksum knows slots of a page only. */
static bool runtime_is_scrubbed(const struct agent_runtime *runtime)
{
	return runtime->attached && runtime->groups_count > 0 && !scheme_splits(&runtime->catalog);
}

/* Portions of a whole round over all programs. */
static uint64_t portions(const struct agent *agent)
{
	uint64_t count = 0;
	for (unsigned r = 0; r < agent->runtimes_count; r++) {
		const struct agent_runtime *runtime = agent->runtimes[r];
		for (unsigned g = 0; runtime_is_scrubbed(runtime) && g < runtime->groups_count;
			g++) {
			uint32_t used = atomic_load_explicit(
				&runtime->catalog.groups[g].columns[0].used, memory_order_relaxed);
			if (!runtime->groups[g].retired)
				count += 1 + FM_MIN(used, CATALOG_SLOTS_MAX) / SCRUB_BATCH;
		}
	}
	return FM_MAX(count, (uint64_t)1);
}

/* On to the next group that has something, of the next program after the last group. */
static bool next_group(struct scrub_agent *scrub)
{
	struct agent *agent = scrub->agent;
	scrub->cursor = 0;
	scrub->group_ended = false;
	scrub->group++;
	if (scrub->runtime != NULL && scrub->group < scrub->runtime->groups_count)
		return !scrub->runtime->groups[scrub->group].retired;
	scrub->group = 0;
	scrub->runtime = NULL;
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *runtime =
			agent->runtimes[(scrub->turn + i) % agent->runtimes_count];
		if (!runtime_is_scrubbed(runtime))
			continue;
		scrub->turn = (scrub->turn + i + 1) % agent->runtimes_count;
		scrub->runtime = runtime;
		return !runtime->groups[0].retired;
	}
	return false;
}

/* Up to SCRUB_BATCH spansets of the group. */
static void portion_fill(struct scrub_agent *scrub)
{
	const struct catalog *catalog = &scrub->runtime->catalog;
	uint32_t end = column_records(catalog), looked = 0;
	for (; scrub->cursor < end && scrub->count < SCRUB_BATCH && looked < SCRUB_LOOK;
		scrub->cursor++, looked++) {
		struct scrub_item *item = &scrub->items[scrub->count];
		if (!column_read_record(
			    catalog, scrub->group, scrub->cursor, &item->entry, &item->gen))
			continue;
		item->ssid = scrub->cursor;
		scrub->count++;
	}
	scrub->group_ended = scrub->cursor >= end;
}

/* When to come again. */
static uint64_t scrub_step(struct scrub_agent *scrub, uint64_t now_ns)
{
	if (scrub->calls > 0)
		return now_ns + CALLS_LOOK_NS;
	if (scrub->again) {
		portion_start(scrub);
		return now_ns + CALLS_LOOK_NS;
	}
	if (scrub->count == 0 && (scrub->runtime == NULL || scrub->group_ended) &&
		!next_group(scrub))
		return now_ns + (scrub->runtime == NULL ? NS_PER_S : NS_PER_MS);
	portion_fill(scrub);
	if (scrub->count < SCRUB_BATCH && !scrub->group_ended)
		return now_ns; /* on with the search, after others' turn */
	if (scrub->count > 0)
		portion_start(scrub);
	return now_ns + scrub->period_ns / portions(scrub->agent);
}

void scrub_tick(struct agent *agent, uint64_t now_ns)
{
	struct scrub_agent *scrub = agent->scrub;
	if (scrub == NULL || scrub->period_ns == 0)
		return;
	if (now_ns >= scrub->due_ns || (scrub->again && scrub->calls == 0))
		scrub->due_ns = scrub_step(scrub, now_ns);
	repair_arm(agent, scrub->due_ns);
}

void scrub_forget(struct agent_runtime *runtime)
{
	struct scrub_agent *scrub = runtime->source.agent->scrub;
	if (scrub == NULL || scrub->runtime != runtime)
		return;
	scrub->runtime = NULL; /* its calls end without anybody listening */
	scrub->count = scrub->suspects_count = 0;
	scrub->again = false;
}

int scrub_begin(struct agent *agent)
{
	struct scrub_agent *scrub = calloc(1, sizeof *scrub);
	if (scrub == NULL)
		return -ENOMEM;
	scrub->agent = agent;
	scrub->period_ns = agent->config.scrub_period_ns;
	agent->scrub = scrub;
	return 0;
}
