/*
 * tests/sim/columns.c: the agent's work on columns: repair, drain, evacuation, scrubbing, with the
 * real farmem/agent/column.c.
 *
 *     lost or leaving column --a host that the group does not use--> job: Rebuild calls, commit
 *                            --no such host, narrower possible-----> EVACUATE --empty--> RETIRED
 *     narrow group, hosts enough again -----------------------------> EVACUATE
 *
 * Everything here may end between any two steps: see sim_columns_open for what a successor does.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "farmem/record.h"
#include "tests/sim/sim.h"

#define JOBS_MAX 6
#define JOB_RETRIES_MAX 16
#define JOB_LOOK 64u
#define JOB_CALL_NS (30 * NS_PER_MS)
#define OWED_MAX 256

struct job_retry {
	struct column_entry entry;
	uint32_t bad; /* positions whose bytes are wrong */
};

struct job {
	bool used, ended;
	struct column_job column;
	struct sim_call *call;
	uint64_t call_ends_ns;
	bool is_retry; /* the call's one entry is retries[0] */
	unsigned retries_count;
	struct job_retry retries[JOB_RETRIES_MAX];
};

static struct job jobs[JOBS_MAX];
static struct catalog_place owed[OWED_MAX]; /* leases to be given back */
static unsigned owed_count;

static struct catalog *columns_catalog(void)
{
	return &sim.core.catalog;
}

static struct catalog_column *job_column(const struct job *job)
{
	return &columns_catalog()->groups[job->column.group].columns[job->column.position];
}

static struct catalog_repair *job_repair(const struct job *job)
{
	return &columns_catalog()->repairs[job->column.repair];
}

static const struct catalog_place *job_next(const struct job *job)
{
	return &job_column(job)->places[(job_repair(job)->generation + 1) & 1];
}

static bool node_is_up(uint32_t node)
{
	return atomic_load(&columns_catalog()->nodes[node].state) == NODE_UP;
}

/* ---- giving leases back ---- */

static void owe(const struct catalog_place *place)
{
	if (place->capability.lease != 0 && owed_count < OWED_MAX)
		owed[owed_count++] = *place;
}

static void pay(void)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < owed_count; i++) {
		struct catalog_place place = owed[i];
		int rc = FAULT_POINT("sim.release") ? -ETIMEDOUT : sim_node_release(&place);
		if (rc == -ETIMEDOUT)
			owed[kept++] = place; /* out of reach: later */
	}
	owed_count = kept;
}

/* ---- calls ---- */

static bool place_same(const struct catalog_place *a, const struct catalog_place *b)
{
	return a->node == b->node &&
	       memcmp(&a->capability, &b->capability, sizeof(a->capability)) == 0;
}

/* The position's place for all entries of the call, or NULL. */
static const struct catalog_place *call_source(
	const struct job *job, const struct sim_call *call, unsigned pos)
{
	const struct catalog_place *all = NULL;
	for (unsigned i = 0; i < call->count; i++) {
		const struct catalog_place *one = column_source(
			columns_catalog(), job->column.group, pos, call->entries[i].slot[pos]);
		if (one == NULL || !node_is_up(one->node) || (all != NULL && !place_same(all, one)))
			return NULL;
		all = one;
	}
	return all;
}

/* False: fewer than k now. */
static bool call_choose(const struct job *job, struct sim_call *call, uint32_t bad)
{
	const struct catalog_column *column = job_column(job);
	unsigned n = (unsigned)call->k + call->m, start = (unsigned)sim_below(n);
	bool copies = job_repair(job)->kind == REPAIR_COPY && atomic_load(&column->lost) == 0 &&
		      !(bad & 1u << call->position);
	unsigned wanted = copies ? 1 : call->k;
	for (unsigned i = 0; i < n && call->sources_count < wanted; i++) {
		unsigned pos = (start + i) % n;
		const struct catalog_place *place = call_source(job, call, pos);
		if (place == NULL || (bad & 1u << pos) || (pos == call->position) != copies)
			continue;
		call->source_positions[call->sources_count] = (uint8_t)pos;
		call->sources[call->sources_count++] = *place;
	}
	return call->sources_count == wanted;
}

static struct sim_call *call_room(void)
{
	for (unsigned i = 0; i < SIM_CALLS_MAX; i++)
		if (!sim_calls[i].used)
			return &sim_calls[i];
	return NULL;
}

static void call_start(
	struct job *job, const struct column_entry *entries, unsigned count, uint32_t bad)
{
	struct sim_call *call = call_room();
	if (call == NULL)
		return;
	*call = (struct sim_call){.taken = true, /* not yet */
		.k = job->column.k,
		.m = job->column.m,
		.position = (uint8_t)job->column.position,
		.group = job->column.group,
		.slot_bytes = sim_slot_bytes(job->column.group),
		.target = *job_next(job),
		.count = count};
	memcpy(call->entries, entries, count * sizeof(*entries));
	if (!call_choose(job, call, bad) || FAULT_POINT("sim.rebuild.call"))
		return;
	if (sim.bug == BUG_DONE_EARLY)
		for (unsigned i = 0; i < count; i++)
			column_done(&job->column, entries[i].slot[job->column.position]);
	/* Should the agent die now, its successor has doubts anyhow. */
	call->taken = false;
	call->used = true;
	job->call = call;
	job->call_ends_ns = sim.now_ns + JOB_CALL_NS;
}

static void job_retry(struct job *job, const struct column_entry *entry, unsigned bad_pos)
{
	uint32_t bad = 1u << bad_pos;
	if (job->is_retry)
		bad |= job->retries[0].bad;
	if (job->retries_count < JOB_RETRIES_MAX)
		job->retries[job->retries_count++] = (struct job_retry){*entry, bad};
}

/* What became of a call. False: nobody knows yet. */
static bool job_heard(struct job *job)
{
	struct sim_call *call = job->call;
	if (call == NULL)
		return true;
	bool lost = FAULT_POINT("sim.rebuild.answer");
	if (!call->answered && !lost && sim.now_ns < job->call_ends_ns)
		return false;
	if (call->answered && !lost) {
		for (unsigned i = 0; i < call->count; i++) {
			const struct column_entry *e = &call->entries[i];
			if (call->outcomes[i] == 0 && !FAULT_POINT("sim.rebuild.done"))
				column_done(&job->column, e->slot[call->position]);
			else if (call->outcomes[i] > 0)
				job_retry(job, e, (unsigned)call->outcomes[i] - 1);
		}
	} else {
		atomic_store(&job_repair(job)->doubt, 1); /* first: then forget the call */
		sim.doubts++;
	}
	if (job->is_retry)
		memmove(job->retries, job->retries + 1,
			--job->retries_count * sizeof(job->retries[0]));
	job->is_retry = false;
	job->call = NULL;
	call->abandoned = true;
	return true;
}

/* ---- a job's ends ---- */

static void job_abort(struct job *job)
{
	struct catalog_place next;
	sim_say("group %u position %u: the replacement is given up", job->column.group,
		job->column.position);
	if (job->call != NULL)
		job->call->abandoned = true;
	column_abort(&job->column, &next);
	owe(&next);
	sim.aborts++;
	job->used = false;
}

static void job_commit(struct job *job)
{
	struct catalog_place old;
	uint32_t group = job->column.group;
	sim_say("group %u position %u: replaced", group, job->column.position);
	column_commit(&job->column, &old);
	job->used = false;
	sim.commits++;
	if (sim.bug != BUG_LEAK_LEASE)
		owe(&old);
	column_open_group(columns_catalog(), group);
}

/* A whole scan found nothing undone. */
static void job_finish(struct job *job)
{
	struct catalog_place next = *job_next(job);
	bool doubt = atomic_load(&job_repair(job)->doubt) != 0 && sim.bug != BUG_LATE_REBUILD;
	if (doubt) {
		int rc = FAULT_POINT("sim.fence") ? -ETIMEDOUT : sim_node_fence(&next);
		if (rc == -EACCES || rc == -ECONNREFUSED)
			job_abort(job); /* an answer got lost: nobody has the capability in force */
		if (rc != 0)
			return;
		column_renew(&job->column, &next);
	}
	if (node_is_up(next.node) && !FAULT_POINT("sim.commit"))
		job_commit(job);
}

static void job_scan(struct job *job)
{
	struct column_entry entries[SIM_CALL_ENTRIES];
	bool at_end;
	if (job->retries_count > 0) {
		job->is_retry = true;
		call_start(job, &job->retries[0].entry, 1, job->retries[0].bad);
		if (job->call == NULL) { /* not now: the next scan finds it again */
			job->is_retry = false;
			job->retries_count = 0;
		}
		return;
	}
	if (job->ended) {
		job->ended = false;
		if (column_complete(&job->column))
			job_finish(job);
		return;
	}
	unsigned count = column_batch(&job->column, entries,
		1 + (unsigned)sim_below(SIM_CALL_ENTRIES), JOB_LOOK, &at_end);
	job->ended = at_end;
	if (count > 0)
		call_start(job, entries, count, 0);
}

static void job_round(struct job *job)
{
	const struct catalog_place *next = job_next(job);
	if (atomic_load(&columns_catalog()->nodes[next->node].state) == NODE_DOWN ||
		!sim_node_renew(next) || sim_below(2000) == 0) {
		job_abort(job);
		return;
	}
	if (sim.bug == BUG_NO_QUIET)
		job->column.was_quiet = true;
	for (unsigned i = 0; i < 8 && job->used && job_heard(job); i++)
		job_scan(job);
}

/* ---- beginning ---- */

static struct job *job_room(void)
{
	for (unsigned i = 0; i < JOBS_MAX; i++)
		if (!jobs[i].used)
			return &jobs[i];
	return NULL;
}

/* There is no host for it: is there a narrower code that bears as much? */
static void group_has_no_host(uint32_t group)
{
	const struct catalog_group *g = &columns_catalog()->groups[group];
	uint32_t nodes[EC_N_MAX];
	unsigned hosts = sim_agent_lenders(SIM_NO_GROUP, nodes, (unsigned)g->k + g->m);
	uint32_t state = atomic_load(&g->state);
	if (hosts >= (unsigned)g->k + g->m || hosts <= g->m || sim.poor ||
		(state != GROUP_OPEN && state != GROUP_CLOSED))
		return;
	sim_say("group %u is evacuated: %u hosts", group, hosts);
	column_evacuate_group(columns_catalog(), group);
	sim.evacuations++;
}

static void column_start(uint32_t group, unsigned pos, enum catalog_repair_kind kind)
{
	struct catalog *c = columns_catalog();
	struct job *job = job_room();
	struct catalog_place next;
	uint32_t node;
	if (job == NULL)
		return;
	if (sim_agent_lenders(group, &node, 1) == 0) {
		group_has_no_host(group);
		return;
	}
	next = (struct catalog_place){.node = (uint16_t)node};
	if (FAULT_POINT("sim.reserve.column") ||
		sim_node_reserve(&next, c->header->region_bytes, group, pos) != 0)
		return;
	column_close_group(c, group);
	if (column_begin(&job->column, c, group, pos, kind, &next) != 0) {
		owe(&next);
		return;
	}
	atomic_store(&c->repairs[job->column.repair].started_ns, sim.now_ns);
	struct column_job column = job->column;
	*job = (struct job){.used = true, .column = column};
	if (sim.bug == BUG_REOPEN)
		atomic_store(&c->groups[group].state, GROUP_OPEN);
	sim_say("group %u position %u: %s to node %u", group, pos,
		kind == REPAIR_COPY ? "copied" : "rebuilt", node);
}

static void columns_begin(void)
{
	struct catalog *c = columns_catalog();
	uint32_t count = atomic_load(&c->header->groups_count);
	uint32_t start = (uint32_t)sim_below(count + 1);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t at = (start + i) % count;
		struct catalog_group *g = &c->groups[at];
		for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
			struct catalog_column *column = &g->columns[pos];
			bool lost = atomic_load(&column->lost) != 0;
			bool leaves =
				atomic_load(&c->nodes[catalog_column_node(column)].draining) != 0;
			if (atomic_load(&g->state) != GROUP_RETIRED && (lost || leaves) &&
				atomic_load(&column->repair) == 0)
				column_start(at, pos, lost ? REPAIR_DECODE : REPAIR_COPY);
		}
	}
}

/* ---- groups that go ---- */

static void group_give_back(uint32_t group)
{
	struct catalog_group *g = &columns_catalog()->groups[group];
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++)
		owe(catalog_cur(&g->columns[pos]));
}

static void columns_retire(void)
{
	struct catalog *c = columns_catalog();
	for (uint32_t i = 0; i < atomic_load(&c->header->groups_count); i++) {
		if (atomic_load(&c->groups[i].state) != GROUP_EVACUATE ||
			!column_retire_group(c, i))
			continue;
		sim_say("group %u is empty and goes", i);
		sim.retired++;
		group_give_back(i);
	}
}

/* Hosts have come back: one narrow group at a time is emptied into wider ones. */
static void columns_widen(void)
{
	struct catalog *c = columns_catalog();
	unsigned wide = c->header->code_k + c->header->code_m;
	uint32_t nodes[EC_N_MAX], narrow = SIM_NO_GROUP;
	for (uint32_t i = 0; i < atomic_load(&c->header->groups_count); i++) {
		const struct catalog_group *g = &c->groups[i];
		if (atomic_load(&g->state) == GROUP_EVACUATE)
			return;
		if (atomic_load(&g->state) == GROUP_OPEN && (unsigned)g->k + g->m < wide)
			narrow = i;
	}
	if (narrow == SIM_NO_GROUP || sim_agent_lenders(SIM_NO_GROUP, nodes, wide) < wide)
		return;
	sim_say("group %u is evacuated: a wider one is possible", narrow);
	column_evacuate_group(c, narrow);
	sim.evacuations++;
}

/* ---- scrubbing ---- */

static bool entry_is_good(uint32_t group, const struct column_entry *e)
{
	const struct catalog_group *g = &columns_catalog()->groups[group];
	const uint32_t slot_bytes = sim_slot_bytes(group);
	for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
		const struct catalog_place *place =
			column_source(columns_catalog(), group, pos, e->slot[pos]);
		const struct sim_lease *l = place == NULL ? NULL : sim_lease_at(place);
		if (l != NULL && sim_node_of(place->node)->alive &&
			crc32c(l->memory + (uint64_t)e->slot[pos] * slot_bytes, slot_bytes) !=
				e->crc[pos])
			return false;
	}
	return true;
}

static void columns_scrub(void)
{
	struct catalog *c = columns_catalog();
	struct column_entry entry, again;
	uint32_t records = column_records(c), group, gen, now;
	for (unsigned i = 0; i < 16 && records > 0; i++) {
		uint32_t ssid = (uint32_t)sim_below(records);
		if (column_record_group(c, ssid, &group) &&
			column_read_record(c, group, ssid, &entry, &gen) &&
			!entry_is_good(group, &entry) &&
			column_read_record(c, group, ssid, &again, &now) && gen == now)
			(void)column_heal(c, ssid);
	}
}

/* ---- all of it ---- */

/* What an earlier agent left behind: repairs to go on with or to end, places that nobody reads. */
void sim_columns_open(void)
{
	struct catalog *c = columns_catalog();
	memset(jobs, 0, sizeof(jobs));
	owed_count = 0;
	for (uint32_t i = 0; i < CATALOG_REPAIRS_MAX; i++) {
		struct column_job column;
		struct job *job = job_room();
		int rc = column_resume(&column, c, i);
		if (rc != 0 && rc != -EALREADY)
			continue;
		FM_ASSERT(job != NULL);
		*job = (struct job){.used = true, .column = column};
		if (rc == -EALREADY)
			job_commit(job);
	}
	for (uint32_t i = 0; i < atomic_load(&c->header->groups_count); i++) {
		struct catalog_group *g = &c->groups[i];
		if (atomic_load(&g->state) == GROUP_RETIRED)
			group_give_back(i);
		for (unsigned pos = 0; pos < (unsigned)g->k + g->m; pos++) {
			struct catalog_column *column = &g->columns[pos];
			if (atomic_load(&column->repair) == 0)
				owe(&column->places[(atomic_load(&column->generation) + 1) & 1]);
		}
	}
}

void sim_columns_round(void)
{
	struct catalog *c = columns_catalog();
	columns_begin();
	for (unsigned i = 0; i < JOBS_MAX; i++)
		if (jobs[i].used)
			job_round(&jobs[i]);
	pay();
	for (uint32_t i = 0; i < atomic_load(&c->header->groups_count); i++)
		if (atomic_load(&c->groups[i].state) == GROUP_CLOSED)
			column_open_group(c, i);
	columns_retire();
	if (sim_below(4) == 0)
		columns_widen();
	if (sim_below(4) == 0)
		columns_scrub();
}
