/*
 * farmem/agent/agent_repair.c: columns that are lost, or that are to leave a node, get another
 * place.
 *
 *     agent_needs.c -> Reserve at the best host -> column_begin -> agent_rebuild.c, scan by scan
 *          -> column_complete -> (Fence, when in doubt) -> column_commit -> old lease given back
 *
 * Whatever goes wrong with the target ends in an abort: its lease goes back, the column is looked
 * at again after a pause that grows. A second or third failure is one more column, or other
 * sources. A restarted agent finds all of it in the catalog (repair_adopt).
 *
 * Callers: agent_nodes.c (begin, ticks, nodes going down), agent_groups.c (runtimes leaving), and
 * our own timer.
 *
 * Invariants (beyond C1..C6 of column.h)
 *   1. At most one replacement of a column at a time; REPAIR_IN_MAX with one node as target,
 *      REPAIR_WORKING_MAX with calls in flight.
 *   2. The most needed first (agent_needs.c).
 *   3. While fewer than k columns of a group are well, a target that lives is not given up: it may
 *      hold the only copy of what was rebuilt there.
 *   4. A target's lease is in the catalog or will be given back; after a kill of the agent between
 *      Reserve and column_begin its node takes it back by itself (--orphan-keep).
 */
#include "farmem/agent/agent_repair.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"

#define LOOK_NS (500 * NS_PER_MS)

/* ---- finding ---- */

struct repair *repair_of(const struct agent_runtime *runtime, unsigned group, unsigned position)
{
	const struct repair_agent *all = runtime->source.agent->repair;
	for (unsigned i = 0; all != NULL && i < all->count; i++) {
		struct repair *repair = all->repairs[i];
		if (repair->runtime == runtime && repair->group == group &&
			repair->position == position)
			return repair;
	}
	return NULL;
}

static struct repair_runtime *runtime_repair(struct agent_runtime *runtime)
{
	if (runtime->repair == NULL)
		runtime->repair = calloc(1, sizeof *runtime->repair);
	return runtime->repair;
}

struct repair_group *repair_group_at(struct agent_runtime *runtime, unsigned group)
{
	static struct repair_group spare; /* without memory nothing is remembered, no more */
	struct repair_runtime *all = runtime_repair(runtime);
	if (all == NULL)
		return memset(&spare, 0, sizeof spare);
	if (group >= all->groups_capacity) {
		unsigned capacity = FM_MAX(64u, 2 * (group + 1));
		struct repair_group *more = realloc(all->groups, capacity * sizeof *more);
		if (more == NULL)
			return memset(&spare, 0, sizeof spare);
		memset(more + all->groups_capacity, 0,
			(capacity - all->groups_capacity) * sizeof *more);
		all->groups = more;
		all->groups_capacity = capacity;
	}
	return &all->groups[group];
}

unsigned repair_working_count(const struct agent *agent)
{
	unsigned count = 0;
	for (unsigned i = 0; i < agent->repair->count; i++)
		count += !agent->repair->repairs[i]->hopeless;
	return count;
}

static unsigned calls_running(const struct agent *agent)
{
	unsigned count = 0;
	for (unsigned i = 0; i < agent->repair->count; i++)
		count += agent->repair->repairs[i]->calls_running;
	return count;
}

/* ---- the timer ---- */

void repair_arm(struct agent *agent, uint64_t at_ns)
{
	struct repair_agent *all = agent->repair;
	at_ns = FM_MAX(at_ns, (uint64_t)1);
	if (all->armed_ns != 0 && all->armed_ns <= at_ns)
		return;
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S),
					  .tv_nsec = (long)(at_ns % NS_PER_S)}};
	all->armed_ns = at_ns;
	timerfd_settime(all->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void repair_poke(struct agent *agent)
{
	if (agent->repair == NULL)
		return;
	agent->repair->poked = true;
	repair_arm(agent, clock_now_ns());
}

void repair_send_work(struct agent_runtime *runtime)
{
	struct repair_runtime *all = runtime_repair(runtime);
	const struct mailbox_message message = {.version = MAILBOX_VERSION, .kind = MAILBOX_WORK};
	if (all != NULL)
		all->work = mailbox_send(runtime->source.fd, &message, -1) == -EAGAIN;
}

/* ---- redundancy, in words ---- */

static unsigned lost_columns(const struct agent_runtime *runtime)
{
	unsigned lost = 0;
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		const struct agent_group *group = &runtime->groups[g];
		for (unsigned p = 0; p < (unsigned)group->k + group->m && !group->retired; p++)
			lost += group->columns[p].lost;
	}
	return lost;
}

static void watch_redundancy(struct agent_runtime *runtime, uint64_t now_ns)
{
	struct repair_runtime *all = runtime_repair(runtime);
	if (all == NULL)
		return;
	bool whole = lost_columns(runtime) == 0;
	if (!whole && all->lost_since_ns == 0) {
		all->lost_since_ns = now_ns;
		all->lost_bytes = 0;
	} else if (whole && all->lost_since_ns != 0) {
		runtime_notice(runtime->source.agent, runtime, LOG_WARN,
			"full redundancy again after %.1f s, %llu MiB rebuilt",
			(double)(now_ns - all->lost_since_ns) / (double)NS_PER_S,
			(unsigned long long)(all->lost_bytes >> 20));
		all->lost_since_ns = 0;
	}
}

/* ---- the ends of a repair ---- */

bool repair_call_ended(struct repair *repair)
{
	FM_ASSERT_NE(repair->calls_running, 0);
	repair->calls_running--;
	if (repair->phase != REPAIR_OVER || repair->calls_running > 0)
		return false;
	free(repair);
	return true;
}

/* Out of the list; freed with its last call. */
static void repair_over(struct repair *repair)
{
	struct repair_agent *all = repair->agent->repair;
	FM_ASSERT(repair->phase != REPAIR_OVER);
	for (unsigned i = 0; i < all->count; i++)
		if (all->repairs[i] == repair) {
			all->repairs[i] = all->repairs[--all->count];
			break;
		}
	repair->member->repairs_in--;
	repair->phase = REPAIR_OVER;
	repair_poke(repair->agent);
	if (repair->calls_running == 0)
		free(repair);
}

static void group_pause(struct repair *repair)
{
	struct repair_group *group = repair_group_at(repair->runtime, repair->group);
	group->pause_ns = group->pause_ns == 0 ? REPAIR_PAUSE_FIRST_NS
					       : FM_MIN(2 * group->pause_ns, REPAIR_PAUSE_MAX_NS);
	group->not_before_ns = clock_now_ns() + group->pause_ns;
	repair_arm(repair->agent, group->not_before_ns);
}

/* Given back now, or when the node turns out to live. */
static void give_back(struct agent *agent, int node, const struct fabric_capability *capability)
{
	struct repair_agent *all = agent->repair;
	if (agent->nodes[node].state != NODE_DOWN)
		groups_give_back(agent, (unsigned)node, capability);
	else if (all->owed_count < REPAIR_OWED_MAX)
		all->owed[all->owed_count++] = *capability; /* else: --orphan-keep */
}

void repair_abort(struct repair *repair, const char *reason, bool avoid)
{
	struct agent_member *member = repair->member;
	struct catalog_place next;
	log_warn("agent: repair given up group=%u position=%u node=%s reason=\"%s\"", repair->group,
		repair->position, member->name, reason);
	if (repair->phase != REPAIR_RESERVING)
		column_abort(&repair->job, &next);
	if (repair->held)
		give_back(repair->agent, repair->node, &repair->capability);
	if (avoid) {
		member->repair_failures = FM_MIN(member->repair_failures + 1, AGENT_REFUSALS_MAX);
		member->repair_avoid_ns =
			clock_now_ns() + (AGENT_AVOID_NS << (member->repair_failures - 1));
	}
	group_pause(repair);
	member_flush_releases(member);
	repair_over(repair);
}

/* Invariant 3. */
static bool target_is_precious(const struct repair *repair)
{
	const struct agent_group *group = &repair->runtime->groups[repair->group];
	unsigned well = 0;
	for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
		well += !group->columns[p].lost;
	return well < group->k;
}

void repair_target_failed(struct repair *repair, int error)
{
	struct agent_member *member = repair->member;
	bool gone = error == -EACCES || error == -EINVAL || error == -ENOSYS || error == -EPROTO;
	uint64_t pause_ns = REPAIR_PAUSE_FIRST_NS << FM_MIN(repair->target_failures, 6u);
	log_info("agent: rebuild node=%s group=%u position=%u error=%d", member->name,
		repair->group, repair->position, error);
	bool busy = error == -EAGAIN; /* the node's own answer: nothing is under way there */
	if (!gone && !busy) {
		/* It may go on storing what we asked for. */
		repair->doubt = true;
		atomic_store_explicit(&repair->runtime->catalog.repairs[repair->job.repair].doubt,
			1, memory_order_release);
		node_check(member);
	}
	repair->target_failures++;
	repair->not_before_ns = clock_now_ns() + pause_ns;
	repair_arm(repair->agent, repair->not_before_ns);
	bool enough = gone || member->state == MEMBER_SUSPECT ||
		      repair->target_failures >= (busy ? REPAIR_BUSY_TRIES : REPAIR_TARGET_TRIES);
	if (enough && !target_is_precious(repair))
		repair_abort(repair, "the node does not do it", true);
}

static void group_made_whole(struct repair *repair)
{
	struct agent_runtime *runtime = repair->runtime;
	struct repair_group *group = repair_group_at(runtime, repair->group);
	group->pause_ns = group->hostless_ns = group->not_before_ns = 0;
	column_open_group(&runtime->catalog, repair->group);
	if (atomic_load(&runtime->catalog.groups[repair->group].state) == GROUP_OPEN)
		runtime->tell_groups = true; /* there is room again */
	runtime_tell(runtime);
}

static void repair_commit(struct repair *repair)
{
	struct agent_runtime *runtime = repair->runtime;
	struct agent *agent = repair->agent;
	struct agent_column *column = &runtime->groups[repair->group].columns[repair->position];
	const struct agent_column was = *column;
	struct catalog_place old;
	AGENT_DIE("repair.done");
	column_commit(&repair->job, &old);
	AGENT_DIE("repair.committed");
	*column = (struct agent_column){(uint16_t)repair->node, false, repair->capability};
	repair->held = false;                        /* the group's now */
	give_back(agent, was.node, &was.capability); /* C4 */
	member_flush_releases(&agent->members[agent->nodes[was.node].member]);
	repair->member->repair_failures = 0;
	if (was.lost)
		catalog_count(&runtime->catalog, repaired_columns, 1);
	else
		catalog_count(&runtime->catalog, drained_columns, 1);
	log_info("agent: column replaced pid=%lld group=%u position=%u from=%s to=%s bytes=%llu "
		 "ms=%llu reserve_ms=%llu",
		(long long)runtime->pid, repair->group, repair->position,
		agent->nodes[was.node].name, agent->nodes[repair->node].name,
		(unsigned long long)repair->rebuilt_bytes,
		(unsigned long long)((clock_now_ns() - repair->begun_ns) / NS_PER_MS),
		(unsigned long long)(repair->reserve_ns / NS_PER_MS));
	group_made_whole(repair);
	watch_redundancy(runtime, clock_now_ns());
	repair_over(repair);
}

/* ---- the fence ---- */

static void fence_answered(void *context, const struct ctl_result *result)
{
	struct repair *repair = context;
	struct fabric_capability renewed;
	int error = ctl_unpack_fence(result, &renewed);
	if (repair_call_ended(repair) || repair->phase == REPAIR_OVER)
		return;
	if (error != 0) {
		repair_target_failed(repair, error);
		return;
	}
	struct catalog_place next = {.node = (uint16_t)repair->node, .capability = renewed};
	AGENT_DIE("repair.fenced");
	repair->capability = renewed;
	column_renew(&repair->job, &next);
	repair->doubt = false;
	repair_commit(repair);
}

static void fence_start(struct repair *repair)
{
	struct ctl_packed packed;
	int error = repair->member->client != NULL ? ctl_pack_fence(&repair->capability, &packed)
						   : -ECONNRESET;
	if (error != 0) {
		repair_target_failed(repair, error);
		return;
	}
	struct ctl_request request = {
		CTL_METHOD_FENCE, packed.bytes, packed.length, REPAIR_CALL_NS};
	error = ctl_client_start(
		repair->member->client, repair->agent->queue, &request, fence_answered, repair);
	ctl_packed_clear(&packed);
	if (error == 0)
		repair->calls_running++;
	else
		repair_target_failed(repair, error);
}

/* ---- its life ---- */

static void scan_ended(struct repair *repair, uint64_t now_ns)
{
	bool complete = column_complete(&repair->job);
	repair->ended = false;
	if (complete) {
		repair->phase = repair->doubt ? REPAIR_FENCING : REPAIR_WORKING;
		if (repair->doubt)
			fence_start(repair);
		else
			repair_commit(repair);
		return;
	}
	repair->pause_ns = repair->progress ? 0
			   : repair->pause_ns == 0
				   ? REPAIR_PAUSE_FIRST_NS
				   : FM_MIN(2 * repair->pause_ns, REPAIR_PAUSE_MAX_NS);
	repair->progress = false;
	repair->not_before_ns = now_ns + repair->pause_ns;
	repair_arm(repair->agent, repair->not_before_ns);
}

void repair_advance(struct repair *repair)
{
	uint64_t now_ns = clock_now_ns();
	if (now_ns < repair->not_before_ns) {
		repair_arm(repair->agent, repair->not_before_ns);
		return;
	}
	if (repair->phase == REPAIR_WORKING && rebuild_continue(repair, now_ns))
		scan_ended(repair, now_ns);
	else if (repair->phase == REPAIR_FENCING && repair->calls_running == 0)
		fence_start(repair);
}

/* Still wanted, when its region has come? */
static bool repair_is_wanted(const struct repair *repair)
{
	const struct agent_runtime *runtime = repair->runtime;
	const struct agent_group *group = &runtime->groups[repair->group];
	return !group->retired && repair->agent->nodes[repair->node].state != NODE_DOWN &&
	       (group->columns[repair->position].lost ||
		       drain_wants(runtime, repair->group, repair->position));
}

static void repair_begin_column(struct repair *repair)
{
	struct agent_runtime *runtime = repair->runtime;
	bool lost = runtime->groups[repair->group].columns[repair->position].lost;
	struct catalog_place next = {
		.node = (uint16_t)repair->node, .capability = repair->capability};
	column_close_group(&runtime->catalog, repair->group);
	int error = repair_is_wanted(repair)
			    ? column_begin(&repair->job, &runtime->catalog, repair->group,
				      repair->position, lost ? REPAIR_DECODE : REPAIR_COPY, &next)
			    : -ECANCELED;
	if (error != 0) {
		column_open_group(&runtime->catalog, repair->group);
		repair_abort(repair, "it is not wanted any more", false);
		return;
	}
	atomic_store_explicit(&runtime->catalog.repairs[repair->job.repair].started_ns,
		agent_realtime_ns(), memory_order_relaxed);
	repair->phase = REPAIR_WORKING;
	AGENT_DIE("repair.begun");
	repair_advance(repair);
}

static void reserve_answered(void *context, const struct ctl_result *result)
{
	struct repair *repair = context;
	struct agent_member *member = repair->member;
	struct fabric_capability capability;
	int error = ctl_unpack_reserve(result, &capability);
	member->reserving_bytes -= FM_MIN(repair->region_bytes, member->reserving_bytes);
	if (error == 0 && repair->phase == REPAIR_OVER)
		give_back(repair->agent, repair->node, &capability);
	if (repair_call_ended(repair) || repair->phase == REPAIR_OVER)
		return;
	if (error != 0) {
		member->refusals = FM_MIN(member->refusals + 1, AGENT_REFUSALS_MAX);
		member->avoid_until_ns =
			clock_now_ns() + (AGENT_AVOID_NS << (member->refusals - 1));
		member->avoid_busy = error != -ENOMEM;
		if (error != -ENOMEM)
			node_check(member);
		repair_abort(repair, "no region there", false);
		return;
	}
	member->refusals = 0;
	member->load.leased_bytes += repair->region_bytes;
	member->load.free_bytes -= FM_MIN(repair->region_bytes, member->load.free_bytes);
	repair->held = true;
	repair->capability = capability;
	repair->reserve_ns = clock_now_ns() - repair->begun_ns;
	AGENT_DIE("repair.reserved");
	repair_begin_column(repair);
}

static struct repair *repair_make(struct agent_runtime *runtime, unsigned group, unsigned position,
	struct agent_member *member)
{
	struct repair_agent *all = runtime->source.agent->repair;
	struct repair *repair = all->count < REPAIR_JOBS_MAX ? calloc(1, sizeof *repair) : NULL;
	if (repair == NULL)
		return NULL;
	repair->agent = runtime->source.agent;
	repair->runtime = runtime;
	repair->group = group;
	repair->position = (uint8_t)position;
	repair->k = runtime->groups[group].k;
	repair->m = runtime->groups[group].m;
	repair->region_bytes = runtime->region_bytes;
	repair->member = member;
	repair->node = member->node;
	repair->begun_ns = clock_now_ns();
	member->repairs_in++;
	all->repairs[all->count++] = repair;
	if (all->count == 1)
		throttle_begin(repair->agent, repair->begun_ns);
	return repair;
}

void repair_start(struct agent_runtime *runtime, unsigned group, unsigned position,
	struct agent_member *member)
{
	struct ctl_packed packed;
	struct repair *repair = repair_make(runtime, group, position, member);
	if (repair == NULL)
		return;
	int error = member->client != NULL
			    ? ctl_pack_reserve(runtime->client, repair->region_bytes, &packed)
			    : -ECONNRESET;
	if (error == 0) {
		struct ctl_request request = {
			CTL_METHOD_RESERVE, packed.bytes, packed.length, AGENT_RESERVE_TIMEOUT_NS};
		error = ctl_client_start(
			member->client, repair->agent->queue, &request, reserve_answered, repair);
		ctl_packed_clear(&packed);
	}
	if (error != 0) {
		repair_abort(repair, "it cannot be asked", true);
		return;
	}
	repair->calls_running++;
	member->reserving_bytes += repair->region_bytes;
}

/* ---- ticks ---- */

static void repair_look(struct agent *agent, uint64_t now_ns)
{
	struct repair_agent *all = agent->repair;
	bool timely = now_ns >= all->look_ns;
	all->poked = false;
	if (timely)
		all->look_ns = now_ns + LOOK_NS;
	for (unsigned r = 0; r < agent->runtimes_count; r++) {
		struct agent_runtime *runtime = agent->runtimes[r];
		if (!runtime->attached)
			continue;
		watch_redundancy(runtime, now_ns);
		if (timely)
			needs_watch_heat(runtime);
		if (runtime->repair != NULL && runtime->repair->work)
			repair_send_work(runtime);
	}
	drain_tick(agent, now_ns);
	evacuate_tick(agent, now_ns);
	needs_look(agent, now_ns);
}

static void repair_timer(struct agent_source *timer, uint32_t events)
{
	struct agent *agent = timer->agent;
	struct repair_agent *all = agent->repair;
	uint64_t now_ns = clock_now_ns(), count;
	(void)events;
	(void)!read(timer->fd, &count, sizeof count);
	all->armed_ns = 0;
	throttle_look(agent, now_ns, calls_running(agent));
	if (all->poked || now_ns >= all->look_ns)
		repair_look(agent, now_ns);
	/* Backwards: one that ends is replaced by the last. */
	for (unsigned i = all->count; i-- > 0;)
		if (i < all->count)
			repair_advance(all->repairs[i]);
	scrub_tick(agent, now_ns);
	repair_arm(agent, all->look_ns);
	if (all->count > 0)
		repair_arm(agent, all->throttle.until_ns);
}

int repair_begin(struct agent *agent)
{
	struct repair_agent *all = calloc(1, sizeof *all);
	if (all == NULL)
		return -ENOMEM;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int error = fd < 0 ? -errno : 0;
	all->agent = agent;
	all->timer.ready = repair_timer;
	if (error == 0)
		error = agent_watch(agent, &all->timer, fd);
	if (error != 0) {
		free(all);
		return error;
	}
	agent->repair = all;
	repair_poke(agent);
	return scrub_begin(agent);
}

/* ---- what others tell ---- */

void repair_node_down(struct agent *agent, unsigned node)
{
	struct repair_agent *all = agent->repair;
	for (unsigned i = all != NULL ? all->count : 0; i-- > 0;)
		if (i < all->count && all->repairs[i]->node == (int)node)
			repair_abort(all->repairs[i], "it is down", false);
	repair_poke(agent);
}

void repair_lease_lost(struct agent *agent, int node, uint64_t lease)
{
	struct repair_agent *all = agent->repair;
	for (unsigned i = all != NULL ? all->count : 0; i-- > 0;) {
		struct repair *repair = all->repairs[i];
		if (repair->node != node || !repair->held || repair->capability.lease != lease)
			continue;
		repair->held = false;
		repair_abort(repair, "it has revoked the lease", true);
		return;
	}
}

void repair_pay(struct agent_member *member, uint64_t incarnation)
{
	struct repair_agent *all = member->agent->repair;
	unsigned kept = 0;
	for (unsigned i = 0; all != NULL && i < all->owed_count; i++) {
		if (all->owed[i].incarnation == incarnation)
			member_release(member, &all->owed[i]);
		else
			all->owed[kept++] = all->owed[i];
	}
	if (all != NULL)
		all->owed_count = kept;
}

void repair_forget(struct agent_runtime *runtime)
{
	struct repair_agent *all = runtime->source.agent->repair;
	for (unsigned i = all != NULL ? all->count : 0; i-- > 0;) {
		struct repair *repair = all->repairs[i];
		if (repair->runtime != runtime)
			continue;
		if (repair->held)
			give_back(repair->agent, repair->node, &repair->capability);
		repair->runtime = NULL;
		repair_over(repair);
	}
	scrub_forget(runtime);
	if (runtime->repair != NULL)
		free(runtime->repair->groups);
	free(runtime->repair);
	runtime->repair = NULL;
}

/* ---- after a restart ---- */

/* The predecessor died in the middle of a commit. */
static void adopt_commit(struct agent_runtime *runtime, struct column_job *job)
{
	struct agent *agent = runtime->source.agent;
	struct agent_group *group = &runtime->groups[job->group];
	struct agent_column *column = &group->columns[job->position];
	struct catalog_place old, now;
	column_commit(job, &old);
	now = *catalog_cur(&runtime->catalog.groups[job->group].columns[job->position]);
	if (now.node >= agent->nodes_count)
		return; /* adoption has it as lost */
	bool down = agent->nodes[now.node].state == NODE_DOWN;
	*column = (struct agent_column){now.node, down, now.capability};
	if (down)
		column_lose(&runtime->catalog, job->group, job->position);
	groups_give_back(agent, old.node, &old.capability);
	column_open_group(&runtime->catalog, job->group);
}

static void adopt_job(struct agent_runtime *runtime, const struct column_job *job)
{
	struct agent *agent = runtime->source.agent;
	const struct catalog_column *column =
		&runtime->catalog.groups[job->group].columns[job->position];
	uint32_t generation = atomic_load_explicit(&column->generation, memory_order_acquire);
	struct catalog_place next = column->places[(generation + 1) & 1];
	struct agent_member *member = NULL;
	struct repair *repair = NULL;
	if (next.node < agent->nodes_count && agent->nodes[next.node].state != NODE_DOWN)
		member = &agent->members[agent->nodes[next.node].member];
	if (member != NULL && member->node == (int)next.node)
		repair = repair_make(runtime, job->group, job->position, member);
	if (repair == NULL) {
		struct column_job abandoned = *job;
		column_abort(&abandoned, &next);
		groups_give_back(agent, next.node, &next.capability);
		return;
	}
	repair->job = *job;
	repair->held = true;
	repair->capability = next.capability;
	repair->doubt = true;
	repair->phase = REPAIR_WORKING;
	log_info("agent: repair goes on pid=%lld group=%u position=%u node=%s",
		(long long)runtime->pid, job->group, job->position, member->name);
}

/* Reserved and never begun, or replaced and not given back yet. Repeats are harmless. */
static void adopt_stale(struct agent_runtime *runtime, unsigned group, unsigned position)
{
	struct agent *agent = runtime->source.agent;
	const struct agent_column *own = &runtime->groups[group].columns[position];
	const struct catalog_column *column = &runtime->catalog.groups[group].columns[position];
	uint32_t generation = atomic_load_explicit(&column->generation, memory_order_acquire);
	struct catalog_place other = column->places[(generation + 1) & 1];
	if (other.capability.lease == 0 || repair_of(runtime, group, position) != NULL ||
		(other.capability.lease == own->capability.lease &&
			other.capability.incarnation == own->capability.incarnation))
		return;
	groups_give_back(agent, other.node, &other.capability);
}

void repair_adopt(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	struct column_job job;
	for (uint32_t i = 0; i < CATALOG_REPAIRS_MAX; i++) {
		int error = column_resume(&job, &runtime->catalog, i);
		if ((error == 0 || error == -EALREADY) &&
			(job.group >= runtime->groups_count ||
				job.position >= (uint32_t)runtime->groups[job.group].k +
							runtime->groups[job.group].m))
			continue; /* not one of ours */
		if (error == -EALREADY)
			adopt_commit(runtime, &job);
		else if (error == 0)
			adopt_job(runtime, &job);
	}
	for (unsigned g = 0; g < runtime->groups_count; g++) {
		struct agent_group *group = &runtime->groups[g];
		if (group->retired) {
			group->retired = false; /* its leases may not have been given back yet */
			groups_retire(runtime, g);
		}
		for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
			adopt_stale(runtime, g, p);
	}
	repair_poke(agent);
}
