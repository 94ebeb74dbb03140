/*
 * farmem/agent/agent_groups.c: groups for the runtimes: which hosts, which position where;
 * reserving the columns, giving them back.
 *
 * A group is reserved by an ATTEMPT: all columns are asked for at once; a column whose node refuses
 * is asked for elsewhere; when no other host is left, everything is given back and the next attempt
 * plans anew.
 *
 * The rule of the widest code (groups_code). With fewer hosts than k + m, first k shrinks, down to
 * 2, so that the number of failures survived stays; then m, down to 1; then k, to 1 (two copies);
 * one host alone holds plain data, without redundancy. Hosts that are full count as absent only
 * while m stays as it was: a full cluster takes less, it does not become less safe. Under
 * `--scheme split` k divides a page.
 *
 * Invariants
 *   1. The columns of a group are on different hosts. Among hosts slow ones come last, before
 * them busy ones; then the least leased first; of these, parity goes to those that have had the
 * least of it, and data positions rotate.
 *   2. A group is shown only when all its columns are held and none of its nodes went down
 *      meanwhile.
 *   3. A lease that is held and not shown is given back, also after its runtime has gone.
 *   4. Each refusal keeps its member out for a while, so attempts come to an end.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent.h"
#include "farmem/agent/agent_repair.h"
#include "farmem/agent/column.h"
#include "farmem/agent/compact.h"
#include "farmem/scheme.h"

struct attempt_column {
	struct attempt *attempt;
	struct agent_member *member;
	int node;
	bool held;
	struct fabric_capability capability;
};

struct attempt {
	struct agent_runtime *runtime;
	uint8_t k, m;
	uint64_t bytes; /* of a column */
	unsigned pending;
	struct attempt_column columns[EC_N_MAX];
};

/* ---- giving back ---- */

void member_release(struct agent_member *member, const struct fabric_capability *capability)
{
	if (member->releases_count == member->releases_capacity) {
		unsigned capacity = FM_MAX(64u, 2 * member->releases_capacity);
		struct fabric_capability *more = realloc(member->releases, capacity * sizeof *more);
		if (more == NULL)
			return; /* the node gives up on it after --orphan-keep */
		member->releases = more;
		member->releases_capacity = capacity;
	}
	member->releases[member->releases_count++] = *capability;
}

struct release_call {
	struct agent_member *member;
	uint64_t incarnation;
	unsigned count;
};

static void release_answered(void *context, const struct ctl_result *result)
{
	struct release_call *call = context;
	struct agent_member *member = call->member;
	member->release_running = false;
	AGENT_DIE("release.answered");
	/* Given back, or refused in a way that a repeat would not change; else: with the next
	 * tick. */
	bool over = result->status == 0 || result->status == -EINVAL || result->status == -ENOSYS;
	if (over && member->releases_count >= call->count && member->releases_count > 0 &&
		member->releases[0].incarnation == call->incarnation) {
		member->releases_count -= call->count;
		memmove(member->releases, member->releases + call->count,
			member->releases_count * sizeof *member->releases);
	}
	free(call);
	if (over)
		member_flush_releases(member);
}

void member_flush_releases(struct agent_member *member)
{
	struct ctl_packed packed;
	if (member->release_running || member->releases_count == 0 || member->client == NULL)
		return;
	struct release_call *call = calloc(1, sizeof *call);
	if (call == NULL)
		return;
	call->member = member;
	call->count = FM_MIN(member->releases_count, (unsigned)CTL_LEASES_MAX);
	call->incarnation = member->releases[0].incarnation;
	if (ctl_pack_leases(CTL_METHOD_RELEASE, member->releases, call->count, &packed) != 0) {
		free(call);
		return;
	}
	struct ctl_request request = {
		CTL_METHOD_RELEASE, packed.bytes, packed.length, AGENT_RELEASE_NS};
	if (ctl_client_start(
		    member->client, member->agent->queue, &request, release_answered, call) == 0)
		member->release_running = true;
	else
		free(call);
	ctl_packed_clear(&packed);
}

void groups_give_back(
	struct agent *agent, unsigned node, const struct fabric_capability *capability)
{
	struct agent_member *member;
	if (node >= agent->nodes_count || agent->nodes[node].state == NODE_DOWN ||
		agent->nodes[node].incarnation != capability->incarnation)
		return; /* what it had lent went with it */
	member = &agent->members[agent->nodes[node].member];
	member_release(member, capability);
}

void groups_retire(struct agent_runtime *runtime, unsigned index)
{
	struct agent *agent = runtime->source.agent;
	struct agent_group *group = &runtime->groups[index];
	if (group->retired)
		return;
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
		if (!group->columns[p].lost)
			groups_give_back(
				agent, group->columns[p].node, &group->columns[p].capability);
	group->retired = true;
}

void groups_release(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	repair_forget(runtime);
	compact_forget(runtime);
	for (unsigned g = 0; g < runtime->groups_count; g++)
		groups_retire(runtime, g);
	runtime->groups_count = 0;
	for (unsigned i = 0; i < agent->members_count; i++)
		member_flush_releases(&agent->members[i]);
}

/* ---- losing ---- */

unsigned groups_lose(struct agent_runtime *runtime, unsigned node)
{
	unsigned count = 0;
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		struct agent_group *group = &runtime->groups[g];
		for (unsigned p = 0; p < (unsigned)group->k + group->m && !group->retired; p++) {
			if (group->columns[p].node != node || group->columns[p].lost)
				continue;
			group->columns[p].lost = true;
			column_lose(&runtime->catalog, g, p);
			count++;
		}
	}
	return count;
}

bool groups_need(const struct agent *agent, unsigned node)
{
	for (unsigned r = 0; r < agent->runtimes_count; r++) {
		const struct agent_runtime *runtime = agent->runtimes[r];
		for (unsigned g = 0; g < runtime->groups_count; g++) {
			const struct agent_group *group = &runtime->groups[g];
			unsigned lost = 0;
			for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
				lost += group->columns[p].lost || group->columns[p].node == node;
			if (lost > group->m && !group->retired)
				return true;
		}
	}
	return false;
}

/* ---- planning ---- */

void groups_code(unsigned hosts, struct option_code wish, struct option_code *code)
{
	*code = wish;
	while (code->k + code->m > hosts) {
		if (code->k > 2)
			code->k--;
		else if (code->m > 1)
			code->m--;
		else if (code->k > 1)
			code->k--;
		else if (code->m > 0)
			code->m--;
		else
			return; /* not even one host */
	}
}

struct candidate {
	struct agent_member *member;
	uint32_t host;
	bool slow;     /* some program reads around it (farmem/hedge.h) */
	uint32_t busy; /* requests wait there (agent_load.c) */
	uint64_t leased_bytes;
};

struct plan {
	unsigned live_count; /* hosts that are up */
	unsigned room_count; /* of these, the first in candidates: with room for a region */
	bool busy;           /* some refused for a moment, not for want of memory */
	struct candidate candidates[AGENT_MEMBERS_MAX];
};

bool member_is_draining(const struct agent_member *member)
{
	return member->drain_asked || member->drain_said;
}

bool member_is_usable(const struct agent_member *member, uint64_t now_ns)
{
	return member->state == MEMBER_UP && !member_is_draining(member) &&
	       now_ns >= member->quarantined_until_ns;
}

static bool member_has_room(const struct agent_member *member, uint64_t bytes, uint64_t now_ns)
{
	return now_ns >= member->avoid_until_ns &&
	       member->load.free_bytes >= member->reserving_bytes + bytes;
}

/* Does some program find it much slower than others? A group's writes wait for its slowest node. */
static bool member_is_slow(const struct agent_member *member)
{
	const struct agent *agent = member->agent;
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached &&
			atomic_load_explicit(
				&agent->runtimes[i]->catalog.nodes[member->node].slow_until_ns,
				memory_order_relaxed) != 0)
			return true;
	return false;
}

/* Keeps the better of two members of one host in its place. */
static void plan_add(struct plan *plan, struct agent_member *member)
{
	struct candidate candidate = {member, member->agent->nodes[member->node].host,
		member_is_slow(member), load_of(member, NULL, NULL),
		member->load.leased_bytes + member->reserving_bytes};
	for (unsigned i = 0; i < plan->room_count; i++) {
		struct candidate *other = &plan->candidates[i];
		if (other->host != candidate.host)
			continue;
		if (candidate.leased_bytes < other->leased_bytes)
			*other = candidate;
		return;
	}
	plan->candidates[plan->room_count++] = candidate;
}

static int candidate_compare(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	if (x->slow != y->slow)
		return x->slow ? 1 : -1;
	if (x->busy != y->busy)
		return x->busy < y->busy ? -1 : 1;
	if (x->leased_bytes != y->leased_bytes)
		return x->leased_bytes < y->leased_bytes ? -1 : 1;
	return x->member->index < y->member->index ? -1 : 1;
}

static void plan_gather(struct agent *agent, uint64_t bytes, bool quarantined, struct plan *plan)
{
	uint64_t now_ns = clock_now_ns();
	bool live[CATALOG_NODES_MAX] = {false};
	plan->live_count = plan->room_count = 0;
	plan->busy = false;
	for (unsigned i = 0; i < agent->members_count; i++) {
		struct agent_member *member = &agent->members[i];
		if (member->state != MEMBER_UP || member_is_draining(member) ||
			(!quarantined && !member_is_usable(member, now_ns)))
			continue;
		uint32_t host = agent->nodes[member->node].host;
		plan->live_count += !live[host];
		live[host] = true;
		plan->busy = plan->busy || (now_ns < member->avoid_until_ns && member->avoid_busy);
		if (member_has_room(member, bytes, now_ns))
			plan_add(plan, member);
	}
	qsort(plan->candidates, plan->room_count, sizeof plan->candidates[0], candidate_compare);
}

/* Without the quarantined, unless hosts would be too few for k + m then. */
static void plan_make(
	struct agent *agent, uint64_t bytes, struct option_code wish, struct plan *plan)
{
	plan_gather(agent, bytes, false, plan);
	if (plan->room_count < wish.k + wish.m)
		plan_gather(agent, bytes, true, plan);
}

/* The code for this plan, or -ENOMEM when the hosts are there but full, -EAGAIN when none is up. */
static int plan_code(
	const struct agent_runtime *runtime, const struct plan *plan, struct option_code *code)
{
	uint32_t scheme = runtime->catalog.header->scheme;
	struct option_code by_live;
	if (plan->live_count == 0)
		return -EAGAIN;
	groups_code(plan->live_count, runtime->wish, &by_live);
	config_fit_code(scheme, &by_live);
	groups_code(plan->room_count, by_live, code);
	config_fit_code(scheme, code);
	if (plan->room_count > 0 && code->m == by_live.m)
		return 0;
	return plan->busy ? -EAGAIN : -ENOMEM;
}

/* Is the host used by another column of the group, or meant for one? */
static bool group_uses_host(
	const struct agent_runtime *runtime, unsigned index, unsigned position, uint32_t host)
{
	const struct agent *agent = runtime->source.agent;
	const struct agent_group *group = &runtime->groups[index];
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++) {
		const struct repair *repair = repair_of(runtime, index, p);
		if (p == position)
			continue;
		if (!group->columns[p].lost && agent->nodes[group->columns[p].node].host == host)
			return true;
		if (repair != NULL && repair->node >= 0 && agent->nodes[repair->node].host == host)
			return true;
	}
	return false;
}

struct agent_member *groups_replacement(
	struct agent_runtime *runtime, unsigned index, unsigned position, bool *later)
{
	static struct plan plan;
	struct agent *agent = runtime->source.agent;
	uint64_t now_ns = clock_now_ns();
	struct agent_member *best = NULL;
	*later = false;
	plan_gather(agent, runtime->region_bytes, true, &plan);
	*later = plan.busy;
	for (unsigned i = 0; i < plan.room_count; i++) {
		struct agent_member *member = plan.candidates[i].member;
		if (group_uses_host(runtime, index, position, plan.candidates[i].host))
			continue;
		/* A drained column does not come back to the node it leaves. */
		if (!runtime->groups[index].columns[position].lost &&
			runtime->groups[index].columns[position].node == member->node)
			continue;
		if (now_ns < member->repair_avoid_ns || member->repairs_in >= REPAIR_IN_MAX) {
			*later = true;
			continue;
		}
		/* The quarantined last. */
		if (best == NULL || (now_ns < best->quarantined_until_ns &&
					    now_ns >= member->quarantined_until_ns))
			best = member;
	}
	return best;
}

int groups_code_now(struct agent_runtime *runtime, struct option_code *code, unsigned *hosts)
{
	static struct plan plan;
	plan_make(runtime->source.agent, runtime->region_bytes, runtime->wish, &plan);
	*hosts = plan.live_count;
	return plan_code(runtime, &plan, code);
}

/* ---- telling ---- */

static void say_code(struct agent_runtime *runtime, const struct option_code *code, unsigned hosts)
{
	const struct option_code wish = runtime->wish;
	struct agent *agent = runtime->source.agent;
	bool was_narrow =
		runtime->said_k != 0 && (runtime->said_k != wish.k || runtime->said_m != wish.m);
	if (runtime->said_k == code->k && runtime->said_m == code->m)
		return;
	runtime->said_k = (uint8_t)code->k;
	runtime->said_m = (uint8_t)code->m;
	if (code->m == 0 && wish.m != 0)
		runtime_notice(agent, runtime, LOG_WARN,
			"only one memory node host: NO REDUNDANCY: new far memory is lost if it "
			"dies "
			"(%u+%u wanted)",
			wish.k, wish.m);
	else if (code->k != wish.k || code->m != wish.m)
		runtime_notice(agent, runtime, LOG_WARN,
			"%u memory node hosts are too few for %u+%u: new groups are narrower: "
			"%u+%u",
			hosts, wish.k, wish.m, code->k, code->m);
	else if (was_narrow)
		runtime_notice(
			agent, runtime, LOG_WARN, "new groups are %u+%u again", wish.k, wish.m);
}

static void say_full(struct agent_runtime *runtime)
{
	struct catalog_header *header = runtime->catalog.header;
	atomic_store_explicit(&header->agent_state, 2, memory_order_release);
	if (runtime->asked || !runtime->full)
		runtime->tell_groups = true;
	runtime->asked = false;
	if (!runtime->full)
		runtime_notice(runtime->source.agent, runtime, LOG_WARN,
			"the memory nodes are full: none can lend another region of %llu MiB",
			(unsigned long long)(runtime->region_bytes >> 20));
	runtime->full = true;
}

/* ---- attempts ---- */

static void attempt_progress(struct attempt *attempt);

static void column_failed(struct attempt_column *column, int error)
{
	struct agent_member *member = column->member;
	/* A node that is full, for this client or at all, is asked ever less often. */
	member->refusals = FM_MIN(member->refusals + 1, AGENT_REFUSALS_MAX);
	member->avoid_until_ns = clock_now_ns() + (AGENT_AVOID_NS << (member->refusals - 1));
	member->avoid_busy = error != -ENOMEM;
	log_info("agent: reserve node=%s error=%d", member->name, error);
	if (error != -ENOMEM)
		node_check(member);
	column->member = NULL;
}

static void column_answered(void *context, const struct ctl_result *result)
{
	struct attempt_column *column = context;
	struct attempt *attempt = column->attempt;
	struct agent_member *member = column->member;
	uint64_t bytes = attempt->runtime->catalog.header != NULL
				 ? attempt->runtime->catalog.header->region_bytes
				 : 0;
	int error = ctl_unpack_reserve(result, &column->capability);
	member->reserving_bytes -= FM_MIN(bytes, member->reserving_bytes);
	attempt->pending--;
	AGENT_DIE("reserve.answered");
	if (error != 0) {
		column_failed(column, error);
	} else {
		column->held = true;
		member->refusals = 0;
		/* Until the next keepalive says it exactly. */
		member->load.leased_bytes += bytes;
		member->load.free_bytes -= FM_MIN(bytes, member->load.free_bytes);
	}
	if (attempt->pending == 0)
		attempt_progress(attempt);
}

static void column_start(struct attempt_column *column, struct agent_member *member)
{
	struct attempt *attempt = column->attempt;
	struct agent *agent = member->agent;
	uint64_t bytes = attempt->bytes;
	struct ctl_packed packed;
	column->member = member;
	column->node = member->node;
	column->held = false;
	if (ctl_pack_reserve(attempt->runtime->client, bytes, &packed) != 0) {
		column_failed(column, -ENOMEM);
		return;
	}
	struct ctl_request request = {
		CTL_METHOD_RESERVE, packed.bytes, packed.length, AGENT_RESERVE_TIMEOUT_NS};
	int error = member->client != NULL ? ctl_client_start(member->client, agent->queue,
						     &request, column_answered, column)
					   : -ECONNRESET;
	ctl_packed_clear(&packed);
	if (error != 0) {
		column_failed(column, error);
		return;
	}
	member->reserving_bytes += bytes;
	attempt->pending++;
	AGENT_DIE("reserve.sent");
}

/* Held by a node that is still the one it was? */
static bool column_good(const struct attempt_column *column)
{
	return column->held && column->member->node == column->node &&
	       column->member->state != MEMBER_JOINING;
}

static void attempt_end(struct attempt *attempt)
{
	struct agent_runtime *runtime = attempt->runtime;
	for (unsigned p = 0; p < (unsigned)attempt->k + attempt->m; p++) {
		struct attempt_column *column = &attempt->columns[p];
		if (column_good(column)) {
			member_release(column->member, &column->capability);
			member_flush_releases(column->member);
		}
	}
	free(attempt);
	runtime->attempts_running--;
	if (runtime->gone)
		runtime_put(runtime);
	else
		runtime->refill = true;
}

static struct agent_group *group_append(struct agent_runtime *runtime)
{
	if (runtime->groups_count == runtime->groups_capacity) {
		unsigned capacity = FM_MAX(64u, 2 * runtime->groups_capacity);
		struct agent_group *more = realloc(runtime->groups, capacity * sizeof *more);
		if (more == NULL)
			return NULL;
		runtime->groups = more;
		runtime->groups_capacity = capacity;
	}
	return &runtime->groups[runtime->groups_count];
}

/* All columns are held: the group appears in the catalog. */
static int attempt_show(struct attempt *attempt)
{
	struct agent_runtime *runtime = attempt->runtime;
	struct catalog_header *header = runtime->catalog.header;
	struct agent_group *group = group_append(runtime);
	if (group == NULL || runtime->groups_count == CATALOG_GROUPS_MAX)
		return -ENOMEM;
	struct catalog_group *entry = &runtime->catalog.groups[runtime->groups_count];
	memset(group, 0, sizeof *group);
	group->k = entry->k = attempt->k;
	group->m = entry->m = attempt->m;
	uint32_t slot_bytes = scheme_slot_bytes(&runtime->catalog, entry);
	if (slot_bytes == 0)
		return -EPROTO;
	entry->slot_count = (uint32_t)FM_MIN(runtime->region_bytes / slot_bytes, CATALOG_SLOTS_MAX);
	for (unsigned p = 0; p < (unsigned)attempt->k + attempt->m; p++) {
		const struct attempt_column *column = &attempt->columns[p];
		group->columns[p] =
			(struct agent_column){(uint16_t)column->node, false, column->capability};
		struct catalog_place *place = catalog_cur(&entry->columns[p]);
		place->node = (uint16_t)column->node;
		place->capability = column->capability;
		atomic_store_explicit(&entry->columns[p].lost, 0, memory_order_relaxed);
	}
	AGENT_DIE("show.filled");
	atomic_store_explicit(&entry->state, GROUP_OPEN, memory_order_release);
	AGENT_DIE("show.open");
	runtime->groups_count++;
	atomic_store_explicit(&header->groups_count, runtime->groups_count, memory_order_release);
	AGENT_DIE("show.counted");
	atomic_store_explicit(&header->agent_state, 1, memory_order_release);
	runtime->full = runtime->asked = false;
	runtime->tell_groups = true;
	log_info("agent: group pid=%lld index=%u code=%u+%u", (long long)runtime->pid,
		runtime->groups_count - 1, attempt->k, attempt->m);
	return 0;
}

/* Another host for a column that its member refused. */
static struct agent_member *attempt_replacement(const struct attempt *attempt)
{
	static struct plan plan;
	struct agent *agent = attempt->runtime->source.agent;
	plan_make(agent, attempt->bytes, (struct option_code){attempt->k, attempt->m}, &plan);
	for (unsigned i = 0; i < plan.room_count; i++) {
		bool used = false;
		for (unsigned p = 0; p < (unsigned)attempt->k + attempt->m; p++)
			used = used || (attempt->columns[p].member != NULL &&
					       agent->nodes[attempt->columns[p].node].host ==
						       plan.candidates[i].host);
		if (!used)
			return plan.candidates[i].member;
	}
	return NULL;
}

/* No answer is outstanding: show, ask elsewhere, or give up. */
static void attempt_progress(struct attempt *attempt)
{
	struct agent_runtime *runtime = attempt->runtime;
	unsigned good = 0;
	for (unsigned p = 0; p < (unsigned)attempt->k + attempt->m && !runtime->gone; p++) {
		struct attempt_column *column = &attempt->columns[p];
		if (column_good(column)) {
			good++;
			continue;
		}
		column->held = false;
		column->member = NULL;
		struct agent_member *member = attempt_replacement(attempt);
		if (member == NULL)
			break;
		column_start(column, member);
	}
	if (attempt->pending > 0)
		return;
	if (good == (unsigned)attempt->k + attempt->m && attempt_show(attempt) == 0)
		for (unsigned p = 0; p < good; p++)
			attempt->columns[p].held = false; /* the group's now */
	attempt_end(attempt);
}

static int parity_compare(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;
	if (x->member->parity_count != y->member->parity_count)
		return x->member->parity_count < y->member->parity_count ? -1 : 1;
	return x->member->index > y->member->index ? -1 : 1; /* data on the first nodes first */
}

/* Takes the first k + m candidates of the plan; their order is ours to change. */
static void attempt_start(
	struct agent_runtime *runtime, struct plan *plan, const struct option_code *code)
{
	struct agent *agent = runtime->source.agent;
	struct attempt *attempt = calloc(1, sizeof *attempt);
	struct candidate *chosen = plan->candidates;
	unsigned k = code->k, m = code->m, turn = agent->placement++;
	if (attempt == NULL)
		return;
	attempt->runtime = runtime;
	attempt->bytes = runtime->region_bytes;
	attempt->k = (uint8_t)k;
	attempt->m = (uint8_t)m;
	runtime->attempts_running++;
	for (unsigned p = 0; p < k + m; p++)
		attempt->columns[p].attempt = attempt;
	qsort(chosen, k + m, sizeof chosen[0], parity_compare);
	attempt->pending = 1; /* so that no early answer ends it */
	for (unsigned p = 0; p < k; p++)
		column_start(&attempt->columns[p], chosen[m + (p + turn) % k].member);
	for (unsigned p = 0; p < m; p++) {
		chosen[p].member->parity_count++;
		column_start(&attempt->columns[k + p], chosen[p].member);
	}
	if (--attempt->pending == 0)
		attempt_progress(attempt);
}

void groups_fill(struct agent_runtime *runtime)
{
	static struct plan plan;
	struct agent *agent = runtime->source.agent;
	struct catalog_header *header = runtime->catalog.header;
	const struct option_code wish = runtime->wish;
	uint32_t wanted = FM_MIN(atomic_load_explicit(&header->groups_wanted, memory_order_acquire),
		CATALOG_GROUPS_MAX);
	while (runtime->attempts_running < AGENT_ATTEMPTS_MAX &&
		runtime->groups_count + runtime->attempts_running < wanted) {
		struct option_code code;
		plan_make(agent, runtime->region_bytes, wish, &plan);
		int error = plan_code(runtime, &plan, &code);
		if (nodes_settling(agent, clock_now_ns()) &&
			(error != 0 || code.k != wish.k || code.m != wish.m))
			return; /* a wider code may be possible in a moment */
		if (error == -ENOMEM && runtime->attempts_running == 0)
			say_full(runtime);
		if (error != 0)
			return;
		say_code(runtime, &code, plan.live_count);
		attempt_start(runtime, &plan, &code);
	}
}
