/*
 * farmem/agent/agent_compact.c: transactions of compaction of all runtimes: when, of which group,
 * how many at once, and who does the arithmetic. See compact.h for what is agreed with the runtime.
 *
 *     pass over the records (compact_index.c) -> the deadest group that may -> WANTED, said to the
 *        runtime by WORK -> compact_tx.c until it is over -> the next ... -> the next pass
 *
 * Callers: agent_nodes.c (begin, nodes going down), agent_runtime.c, agent_groups.c (runtimes that
 * speak or leave), and our own timer.
 *
 * Invariants
 *   1. At most one transaction of a group is known; a group that is not OPEN has none that could
 *      still commit: it is aborted at the next turn, which column_quiet waits for.
 *   2. Every entry that is the agent's to move has a work, or gets one at the next turn: what an
 *      earlier worker left is found like that.
 *   3. A work lives as long as one of its calls does.
 */
#include "farmem/agent/compact.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "farmem/agent/agent_repair.h"

#define PAIR_BYTES (2u * 2u * FM_PAGE_SIZE) /* of partials, more or less */

/* ---- the timer ---- */

void compact_arm(struct agent *agent, uint64_t at_ns)
{
	struct compact_agent *all = agent->compact;
	at_ns = FM_MAX(at_ns, (uint64_t)1);
	if (all->armed_ns != 0 && all->armed_ns <= at_ns)
		return;
	struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S),
					  .tv_nsec = (long)(at_ns % NS_PER_S)}};
	all->armed_ns = at_ns;
	timerfd_settime(all->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void compact_look(struct agent_runtime *runtime)
{
	struct agent *agent = runtime->source.agent;
	if (agent->compact != NULL)
		compact_arm(agent, clock_now_ns());
}

/* ---- what is remembered ---- */

static struct compact_runtime *runtime_compact(struct agent_runtime *runtime)
{
	if (runtime->compact != NULL)
		return runtime->compact;
	struct compact_runtime *own = calloc(1, sizeof *own);
	if (own == NULL)
		return NULL;
	own->index = compact_index_open(&runtime->catalog);
	if (own->index == NULL) {
		free(own);
		return NULL;
	}
	own->able = true;
	runtime->compact = own;
	return own;
}

/* NULL: no memory. */
static struct compact_group *group_at(struct compact_runtime *own, uint32_t group)
{
	if (group >= own->groups_capacity) {
		unsigned capacity = FM_MAX(64u, 2 * (group + 1));
		struct compact_group *more = realloc(own->groups, capacity * sizeof *more);
		if (more == NULL)
			return NULL;
		memset(more + own->groups_capacity, 0,
			(capacity - own->groups_capacity) * sizeof *more);
		own->groups = more;
		own->groups_capacity = capacity;
	}
	return &own->groups[group];
}

static uint32_t dead_percent(const struct compact_runtime *own)
{
	struct compact_totals totals;
	compact_index_totals(own->index, &totals);
	if (totals.positions == 0)
		return 0;
	return (uint32_t)(100 * (totals.positions - totals.live) / totals.positions);
}

/* Far memory is wanted more than the last percent of throughput. */
static bool is_pressed(const struct agent_runtime *runtime)
{
	return runtime->full || dead_percent(runtime->compact) >= COMPACT_DEAD_PRESSED;
}

/* ---- works ---- */

static struct compact_work *work_of(const struct agent_runtime *runtime, uint32_t merge)
{
	const struct compact_agent *all = runtime->source.agent->compact;
	for (unsigned i = 0; i < all->count; i++)
		if (all->works[i]->runtime == runtime && all->works[i]->merge == merge)
			return all->works[i];
	return NULL;
}

void compact_work_put(struct compact_work *work)
{
	if (work->runtime == NULL && work->tx.calls == 0)
		free(work);
}

/* Out of the list; freed with its last call. */
static void work_end(struct compact_work *work)
{
	struct compact_agent *all = work->agent->compact;
	for (unsigned i = 0; i < all->count; i++)
		if (all->works[i] == work) {
			all->works[i] = all->works[--all->count];
			break;
		}
	work->runtime = NULL;
	compact_work_put(work);
}

/* The nodes do it, unless told otherwise or too busy. */
static bool work_is_local(const struct agent_runtime *runtime, uint32_t group)
{
	const struct agent *agent = runtime->source.agent;
	const struct agent_group *g = &runtime->groups[group];
	if (runtime->config.compact != COMPACT_AUTO)
		return runtime->config.compact == COMPACT_LOCAL;
	if (runtime->config.scheme == SCHEME_BATCH_LOCAL)
		return true;
	for (unsigned p = 0; p < (unsigned)g->k + g->m; p++) {
		const struct agent_node *node = &agent->nodes[g->columns[p].node];
		if (load_of(&agent->members[node->member], NULL, NULL) >= COMPACT_LOAD_CLASS)
			return true;
	}
	return false;
}

/* For an entry that is not FREE. Nothing happens when it is the runtime's, or names no group. */
static void work_open(struct agent_runtime *runtime, uint32_t merge)
{
	struct compact_agent *all = runtime->source.agent->compact;
	const uint32_t group = runtime->catalog.merges[merge].group;
	if (all->count == COMPACT_WORKS_MAX || group >= runtime->groups_count)
		return;
	struct compact_work *work = calloc(1, sizeof *work);
	if (work == NULL)
		return;
	const struct compact_options options = {.catalog = &runtime->catalog,
		.merge = merge,
		.ops = &compact_call_ops,
		.context = work,
		.local = work_is_local(runtime, group)};
	work->agent = runtime->source.agent;
	work->runtime = runtime;
	work->merge = merge;
	work->begun_ns = clock_now_ns();
	if (compact_tx_open(&work->tx, &options) != 0) {
		free(work);
		return;
	}
	all->works[all->count++] = work;
}

/* How it went decides when the group has its next turn. */
static void work_report(const struct compact_work *work, uint64_t now_ns)
{
	struct compact_runtime *own = runtime_compact(work->runtime);
	struct compact_group *group = own != NULL ? group_at(own, work->tx.group) : NULL;
	const struct compact_tx *tx = &work->tx;
	if (group == NULL)
		return;
	if (tx->committed) {
		group->pause_ns = 0;
		own->able = true;
		log_debug("agent: merged pid=%lld group=%u pairs=%u of=%u bytes=%llu ms=%llu "
			  "local=%d",
			(long long)work->runtime->pid, tx->group, tx->good_count, tx->count,
			(unsigned long long)tx->sent_bytes,
			(unsigned long long)((now_ns - work->begun_ns) / NS_PER_MS), tx->local);
		return;
	}
	log_ratelimited(tx->txid != 0 ? LOG_INFO : LOG_DEBUG,
		"agent: merge given up pid=%lld group=%u reason=\"%s\" error=%d",
		(long long)work->runtime->pid, tx->group, tx->reason ? tx->reason : "", tx->error);
	if (tx->error == -ENOSYS)
		own->able = false;
	group->pause_ns = tx->error == -ENOSYS ? COMPACT_PAUSE_MAX_NS
			  : group->pause_ns == 0
				  ? COMPACT_PAUSE_FIRST_NS
				  : FM_MIN(2 * group->pause_ns, COMPACT_PAUSE_MAX_NS);
	group->not_before_ns = now_ns + group->pause_ns;
}

/* Invariant 1. */
static void work_turn(struct compact_work *work, uint64_t now_ns)
{
	struct agent_runtime *runtime = work->runtime;
	const struct catalog_group *group = &runtime->catalog.groups[work->tx.group];
	const uint32_t before = work->tx.round;
	uint64_t again_ns;
	if (atomic_load_explicit(&group->state, memory_order_seq_cst) != GROUP_OPEN)
		compact_tx_abort(&work->tx, "its group is to be left", now_ns);
	compact_tx_advance(&work->tx, now_ns, &again_ns);
	if (again_ns != UINT64_MAX)
		compact_arm(work->agent, again_ns);
	if (work->tx.healing) {
		work->tx.healing = false;
		repair_send_work(runtime);
	}
	if (work->tx.step != COMPACT_OVER)
		return;
	work->agent->compact->sent_bytes += work->tx.sent_bytes;
	work_report(work, now_ns);
	if (before != work->tx.round) /* COMMITTED or ABORTED: the runtime goes on */
		repair_send_work(runtime);
	work_end(work);
}

/* ---- choosing ---- */

struct may {
	struct agent_runtime *runtime;
	uint64_t now_ns;
};

/* All its columns are there, and no transaction of it is known, the runtime's last one neither. */
static bool group_may(void *context, uint32_t index)
{
	const struct may *may = context;
	const struct agent_runtime *runtime = may->runtime;
	const struct agent *agent = runtime->source.agent;
	if (index >= runtime->groups_count || runtime->groups[index].retired ||
		atomic_load_explicit(&runtime->catalog.groups[index].state, memory_order_acquire) !=
			GROUP_OPEN)
		return false;
	const struct agent_group *g = &runtime->groups[index];
	for (unsigned p = 0; p < (unsigned)g->k + g->m; p++) {
		const struct agent_node *node = &agent->nodes[g->columns[p].node];
		if (g->columns[p].lost || agent->members[node->member].state != MEMBER_UP ||
			agent->members[node->member].node != (int)g->columns[p].node)
			return false;
	}
	for (uint32_t i = 0; i < CATALOG_MERGES_MAX; i++)
		if (atomic_load_explicit(&runtime->catalog.merges[i].phase, memory_order_acquire) !=
				MERGE_FREE &&
			runtime->catalog.merges[i].group == index)
			return false;
	const struct compact_group *group = group_at(runtime->compact, index);
	return group != NULL && may->now_ns >= group->not_before_ns;
}

/* CATALOG_MERGES_MAX: none. */
static uint32_t merge_free(const struct agent_runtime *runtime)
{
	uint32_t i = 0;
	while (i < CATALOG_MERGES_MAX && (atomic_load_explicit(&runtime->catalog.merges[i].phase,
						  memory_order_acquire) != MERGE_FREE ||
						 work_of(runtime, i) != NULL))
		i++;
	return i;
}

/* As many pairs as a tenth of a second may send. */
static uint32_t pairs_most(const struct compact_agent *all, bool pressed)
{
	double fit = pace_limit(&all->pace, pressed) / 10 / PAIR_BYTES;
	return fit >= CATALOG_MERGE_PAIRS ? CATALOG_MERGE_PAIRS
					  : (uint32_t)FM_MAX(fit, (double)COMPACT_PAIRS_MIN);
}

/* One transaction more. False: nothing is to be had of this runtime now. */
static bool runtime_start(struct agent_runtime *runtime, uint64_t now_ns)
{
	static uint32_t pairs[CATALOG_MERGE_PAIRS][2];
	struct compact_agent *all = runtime->source.agent->compact;
	struct compact_runtime *own = runtime->compact;
	struct may may = {runtime, now_ns};
	const bool pressed = is_pressed(runtime);
	const uint32_t merge = merge_free(runtime);
	uint32_t group;
	if (merge == CATALOG_MERGES_MAX || !own->ended || dead_percent(own) < COMPACT_DEAD_BEGIN ||
		!compact_index_group(own->index, group_may, &may, &group))
		return false;
	uint32_t count = compact_index_take(own->index, group, pairs, pairs_most(all, pressed));
	if (count == 0 || (count < COMPACT_PAIRS_MIN && dead_percent(own) < COMPACT_DEAD_SMALL))
		return true; /* this group is through */
	own->found = true;
	if (compact_tx_want(&runtime->catalog, merge, group, (const uint32_t(*)[2])pairs, count,
		    now_ns) != 0)
		return false;
	AGENT_DIE("merge.wanted");
	work_open(runtime, merge);
	pace_spend(&all->pace, now_ns, (uint64_t)count * PAIR_BYTES, pressed);
	repair_send_work(runtime);
	return true;
}

/* ---- turns ---- */

static bool runtime_compacts(const struct agent_runtime *runtime)
{
	return runtime->attached && !runtime->outlived && runtime->config.compact != COMPACT_OFF &&
	       runtime->wish.k >= 2 && runtime->wish.m >= 1 &&
	       (runtime->config.scheme == SCHEME_BATCH_REMOTE ||
		       runtime->config.scheme == SCHEME_BATCH_LOCAL) &&
	       /* Nothing is to be gained while a forked child reads. */
	       atomic_load_explicit(&runtime->catalog.header->pinned, memory_order_acquire) == 0;
}

/* See compact.h. */
static void runtime_show(struct agent_runtime *runtime, bool compacts)
{
	const struct compact_runtime *own = runtime->compact;
	bool keeps_up = compacts && own != NULL && own->able &&
			(own->found || dead_percent(own) < COMPACT_DEAD_LOSING);
	atomic_store_explicit(&runtime->catalog.header->compacting, keeps_up, memory_order_relaxed);
}

/* The pass goes on, or the next one begins. True: at once, after others' turn. */
static bool runtime_pass(struct agent_runtime *runtime, uint64_t now_ns)
{
	struct compact_runtime *own = runtime->compact;
	if (own->ended && now_ns < own->pass_ns)
		return false;
	if (own->ended) {
		compact_index_restart(own->index);
		own->ended = own->found = false;
	}
	own->ended = compact_index_look(own->index, COMPACT_LOOK_RECORDS);
	uint64_t millions = 1 + column_records(&runtime->catalog) / 1000000;
	own->pass_ns = now_ns + millions * COMPACT_PASS_NS;
	return !own->ended;
}

/* Invariant 2. */
static void runtime_adopt(struct agent_runtime *runtime)
{
	for (uint32_t i = 0; i < CATALOG_MERGES_MAX; i++) {
		uint32_t phase = atomic_load_explicit(
			&runtime->catalog.merges[i].phase, memory_order_acquire);
		if (phase >= MERGE_WANTED && phase <= MERGE_ABORTING && work_of(runtime, i) == NULL)
			work_open(runtime, i);
	}
}

static bool runtime_turn(struct agent_runtime *runtime, uint64_t now_ns)
{
	bool compacts = runtime_compacts(runtime), again = false;
	if (!runtime->attached)
		return false;
	runtime_adopt(runtime);
	if (compacts && runtime_compact(runtime) != NULL)
		again = runtime_pass(runtime, now_ns);
	runtime_show(runtime, compacts);
	return again;
}

static void begin_some(struct agent *agent, uint64_t now_ns)
{
	struct compact_agent *all = agent->compact;
	const unsigned most = all->pace.busy ? COMPACT_BEGUN_BUSY : COMPACT_BEGUN_MAX;
	/* Each turn begins one, or leaves a group or a runtime out until the next pass. */
	for (unsigned tried = 0; tried < agent->runtimes_count && all->count < most;) {
		if (!pace_allows(&all->pace, now_ns))
			return;
		struct agent_runtime *runtime = agent->runtimes[all->turn % agent->runtimes_count];
		if (runtime_compacts(runtime) && runtime->compact != NULL &&
			runtime_start(runtime, now_ns)) {
			tried = 0;
			continue;
		}
		all->turn++;
		tried++;
	}
}

static void look_at_pace(struct agent *agent, uint64_t now_ns)
{
	struct compact_agent *all = agent->compact;
	uint64_t counts[2] = {0, all->sent_bytes};
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		if (!agent->runtimes[i]->attached)
			continue;
		const struct catalog_stats *stats = agent->runtimes[i]->catalog.stats;
		counts[0] += atomic_load_explicit(&stats->faults, memory_order_relaxed) +
			     atomic_load_explicit(&stats->swap_in_pages, memory_order_relaxed);
	}
	pace_look(&all->pace, now_ns, counts, all->count);
}

static void compact_timer(struct agent_source *timer, uint32_t events)
{
	struct agent *agent = timer->agent;
	struct compact_agent *all = agent->compact;
	uint64_t now_ns = clock_now_ns(), count;
	bool again = false;
	(void)events;
	(void)!read(timer->fd, &count, sizeof count);
	all->armed_ns = 0;
	all->again = false;
	look_at_pace(agent, now_ns);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		again = runtime_turn(agent->runtimes[i], now_ns) || again;
	begin_some(agent, now_ns);
	/* Backwards: one that ends is replaced by the last. */
	for (unsigned i = all->count; i-- > 0;)
		if (i < all->count)
			work_turn(all->works[i], now_ns);
	bool works = all->count > 0 || all->pace.slice != PACE_RUN;
	compact_arm(agent, again || all->again
				   ? now_ns
				   : now_ns + (works ? COMPACT_TICK_NS : COMPACT_REST_NS));
}

int compact_begin(struct agent *agent)
{
	struct compact_agent *all = calloc(1, sizeof *all);
	if (all == NULL)
		return -ENOMEM;
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int error = fd < 0 ? -errno : 0;
	all->agent = agent;
	all->timer.ready = compact_timer;
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++)
		all->addresses[i].node = -1;
	if (error == 0)
		error = agent_watch(agent, &all->timer, fd);
	if (error != 0) {
		free(all);
		return error;
	}
	agent->compact = all;
	compact_arm(agent, clock_now_ns());
	return 0;
}

/* ---- what others tell ---- */

void compact_node_down(struct agent *agent, unsigned node)
{
	struct compact_agent *all = agent->compact;
	for (unsigned i = 0; all != NULL && i < all->count; i++)
		compact_tx_node_down(&all->works[i]->tx, node, clock_now_ns());
	if (all != NULL)
		compact_arm(agent, clock_now_ns());
}

void compact_forget(struct agent_runtime *runtime)
{
	struct compact_agent *all = runtime->source.agent->compact;
	for (unsigned i = all != NULL ? all->count : 0; i-- > 0;)
		if (i < all->count && all->works[i]->runtime == runtime) {
			compact_tx_forget(&all->works[i]->tx);
			work_end(all->works[i]);
		}
	if (runtime->compact != NULL) {
		compact_index_close(runtime->compact->index);
		free(runtime->compact->groups);
	}
	free(runtime->compact);
	runtime->compact = NULL;
}

void compact_outlive(struct agent_runtime *runtime)
{
	struct compact_agent *all = runtime->source.agent->compact;
	for (unsigned i = 0; all != NULL && i < all->count; i++)
		if (all->works[i]->runtime == runtime)
			compact_tx_abort(&all->works[i]->tx, "its program is gone", clock_now_ns());
	for (uint32_t i = 0; i < CATALOG_MERGES_MAX; i++) {
		_Atomic uint32_t *phase = &runtime->catalog.merges[i].phase;
		uint32_t now = atomic_load_explicit(phase, memory_order_acquire);
		if (now >= MERGE_WANTED && now <= MERGE_CLAIMED)
			atomic_store_explicit(phase, MERGE_FREE, memory_order_release);
		else if (now == MERGE_COMMITTED) /* its records will never be there */
			atomic_store_explicit(phase, MERGE_SWITCHING, memory_order_release);
	}
	compact_look(runtime);
}
