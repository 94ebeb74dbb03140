/*
 * farmem/agent/agent_throttle.c: how fast columns are rebuilt.
 *
 * With an idle program: as fast as the nodes can. With a busy one: so fast that it keeps most of
 * its throughput, nearly all of it when only a drain is under way. That is measured, not modelled:
 * what the program does in a slice of time, by what it usually does, is its share, and the limit
 * follows the share. What is usual was seen before anything was rebuilt, and is looked at again
 * now and then in a short slice in which no call is under way:
 *
 *     RUN -> RUN -> ... -> ENDING (calls in flight end) -> ALONE -> RUN ...
 *
 * The limit that was found is where the next repair begins, after a first slice at the least rate,
 * which is not judged: what the death itself costs is not rebuilding's doing.
 *
 * What a program does is what it asks of its far memory: faults and pages brought in, of all
 * programs of this agent together. Pages sent out do not count: while groups have lost columns,
 * more of them have to be written for the same work. A program that asks for next to nothing is
 * in nobody's way, and is not measured.
 *
 * Callers: agent_repair.c (ticks), agent_rebuild.c (before each call).
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "farmem/agent/agent_repair.h"

#define SLICE_FIRST_NS (150 * NS_PER_MS)
#define SLICE_RUN_NS (100 * NS_PER_MS)
#define SLICE_ALONE_NS (40 * NS_PER_MS)
#define SLICE_IDLE_NS (50 * NS_PER_MS)   /* looks whether an idle program has become busy */
#define SLICE_BEFORE_NS (20 * NS_PER_MS) /* says something of what was before */
#define ENDING_NS (3 * NS_PER_MS)        /* looks whether calls have ended */
#define ALONE_EVERY_NS (1 * NS_PER_S)
#define BUSY_EVENTS_PER_S 500.0
#define LIMIT_CUT_MOST 0.7
#define LIMIT_GROWTH 1.25
#define LIMIT_ABOVE_RATE 2.0            /* a limit further above what is done is none */
#define SHARE_NOTHING 0.1               /* idle, or starved by us: what is it alone? */
#define CALL_TARGET_NS (50 * NS_PER_MS) /* calls are so short that they can be ended by waiting */

/* Shares of the program's throughput: less than `low` is too little, more than `high` leaves room.
 */
struct goal {
	double low, high;
	double weight;                 /* of the last slice */
	double limit_first, limit_min; /* bytes per second, while it is busy */
};

/* Promised are 0.8, and a repair should be over soon. */
static const struct goal goal_urgent = {0.80, 0.86, 0.4, 256 << 20, 64 << 20};
/* Promised are 0.95, and nobody waits for a drain. */
static const struct goal goal_gentle = {0.95, 0.98, 0.15, 48 << 20, 16 << 20};

static const struct goal *goal_now(const struct agent *agent)
{
	const struct repair_agent *all = agent->repair;
	for (unsigned i = 0; i < all->count; i++) {
		const struct repair *repair = all->repairs[i];
		const struct agent_column *column =
			&repair->runtime->groups[repair->group].columns[repair->position];
		/* What is lost is urgent, and a node that leaves by itself does not wait for long.
		 */
		if (column->lost || agent->members[agent->nodes[column->node].member].drain_said)
			return &goal_urgent;
	}
	return &goal_gentle;
}

static uint64_t events_now(const struct agent *agent)
{
	uint64_t events = 0;
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		if (!agent->runtimes[i]->attached)
			continue;
		const struct catalog_stats *stats = agent->runtimes[i]->catalog.stats;
		events += atomic_load_explicit(&stats->faults, memory_order_relaxed) +
			  atomic_load_explicit(&stats->swap_in_pages, memory_order_relaxed);
	}
	return events;
}

/* ---- slices ---- */

/* Since the slice began: events and rebuilt bytes per second. */
struct slice {
	double seconds, events_per_s, bytes_per_s;
};

/* Ends the slice and begins the next one. */
static struct slice slice_end(struct agent *agent, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	uint64_t events = events_now(agent), bytes = agent->repair->rebuilt_bytes;
	struct slice slice = {.seconds = (double)(now_ns - t->at_ns) / (double)NS_PER_S};
	/* A runtime that left takes its events along. */
	if (slice.seconds > 0 && events > t->events)
		slice.events_per_s = (double)(events - t->events) / slice.seconds;
	if (slice.seconds > 0)
		slice.bytes_per_s = (double)(bytes - t->bytes) / slice.seconds;
	t->events = events;
	t->bytes = bytes;
	t->at_ns = now_ns;
	return slice;
}

static void slice_begin(struct throttle *t, enum throttle_slice kind, uint64_t until_ns)
{
	t->slice = kind;
	t->until_ns = until_ns;
}

/* ---- the limit ---- */

static double mix(double before, double now, double weight)
{
	return before + weight * (now - before);
}

/* What it costs is taken to grow with the rate. A single slice says little: a program's throughput
 * goes up and down by a tenth by itself. */
static void limit_turn(struct throttle *t, const struct goal *goal, double share, double rate)
{
	double *limit = &t->limit[goal == &goal_gentle];
	t->share = mix(t->share, share, goal->weight);
	t->rate = mix(t->rate, rate, goal->weight);
	if (t->share < goal->low) {
		double part = (1 - goal->low) / (1 - t->share);
		*limit = FM_MIN(*limit, LIMIT_ABOVE_RATE * t->rate) * FM_MAX(part, LIMIT_CUT_MOST);
	} else if (t->share > goal->high && LIMIT_ABOVE_RATE * t->rate > *limit) {
		*limit *= LIMIT_GROWTH;
	}
	*limit = FM_MAX(*limit, goal->limit_min);
	log_debug("agent: throttle share=%.2f smooth=%.2f usual=%.0f rate_mib_per_s=%.0f "
		  "limit_mib_per_s=%.0f",
		share, t->share, t->usual, rate / (1 << 20), *limit / (1 << 20));
}

/* The first slice that is judged: nothing is known yet. */
static void limit_begin(struct throttle *t, const struct goal *goal)
{
	t->share = (goal->low + goal->high) / 2;
	t->rate = t->limit[goal == &goal_gentle];
}

static double limit_now(const struct agent *agent)
{
	const struct throttle *t = &agent->repair->throttle;
	const struct goal *goal = goal_now(agent);
	double limit = t->limit[goal == &goal_gentle];
	if (!t->busy)
		return 0;
	if (t->first) /* the death is trouble enough: connections, a new group, regions to be zeroed
		       */
		return goal->limit_min;
	return limit > 0 ? limit : goal->limit_first;
}

static void become_busy(struct throttle *t, bool busy)
{
	if (busy != t->busy)
		log_debug("agent: throttle busy=%d", busy);
	t->busy = busy;
}

/* ---- turns ---- */

static void run_turn(struct agent *agent, struct slice slice, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	const struct goal *goal = goal_now(agent);
	double share = t->usual > 0 ? slice.events_per_s / t->usual : 0;
	bool was_busy = t->busy, first = t->first;
	t->first = false;
	if (!was_busy) {
		become_busy(t, slice.events_per_s >= BUSY_EVENTS_PER_S);
		/* What it would do alone is not known; nor, now and then, whether it is idle. */
		bool look = t->busy || now_ns - t->alone_ns >= ALONE_EVERY_NS;
		slice_begin(t, look ? SLICE_ENDING : SLICE_RUN, now_ns + SLICE_IDLE_NS);
		return;
	}
	t->limit[goal == &goal_gentle] = limit_now(agent);
	bool nothing = share < SHARE_NOTHING;
	t->starved = nothing && !first; /* if it turns out to be busy */
	if (first)
		limit_begin(t, goal);
	else if (!nothing)
		limit_turn(t, goal, share, slice.bytes_per_s);
	if (nothing || now_ns - t->alone_ns >= ALONE_EVERY_NS)
		slice_begin(t, SLICE_ENDING, now_ns);
	else
		slice_begin(t, SLICE_RUN, now_ns + SLICE_RUN_NS);
}

static void alone_turn(struct agent *agent, struct slice slice, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	const struct goal *goal = goal_now(agent);
	become_busy(t, slice.events_per_s >= BUSY_EVENTS_PER_S);
	if (t->busy && t->starved)
		limit_turn(t, goal, 0, t->rate);
	t->usual =
		t->usual > 0 && t->busy ? (t->usual + slice.events_per_s) / 2 : slice.events_per_s;
	t->alone_ns = now_ns;
	slice_begin(t, SLICE_RUN, now_ns + (t->busy ? SLICE_RUN_NS : SLICE_IDLE_NS));
}

/* Nothing is rebuilt: what the program does now is what is usual. */
static void rest_turn(struct throttle *t, struct slice slice, uint64_t now_ns)
{
	t->usual = slice.events_per_s;
	t->alone_ns = now_ns;
	t->first = true;
	become_busy(t, slice.events_per_s >= BUSY_EVENTS_PER_S);
	slice_begin(t, SLICE_RUN, now_ns + SLICE_FIRST_NS);
}

void throttle_begin(struct agent *agent, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	bool known = t->at_ns != 0;
	struct slice slice = slice_end(agent, now_ns);
	/* The death itself may have stopped the program: what it did just before counts only when
	 * that is more than what it did before that. */
	if (known && slice.seconds >= (double)SLICE_BEFORE_NS / (double)NS_PER_S &&
		slice.events_per_s > t->usual)
		rest_turn(t, slice, now_ns);
	t->first = true;
	t->alone_ns = now_ns;
	slice_begin(t, SLICE_RUN, now_ns + (t->busy ? SLICE_FIRST_NS : SLICE_IDLE_NS));
}

void throttle_look(struct agent *agent, uint64_t now_ns, unsigned calls_running)
{
	struct throttle *t = &agent->repair->throttle;
	if (now_ns < t->until_ns)
		return;
	if (agent->repair->count == 0 && calls_running == 0) {
		rest_turn(t, slice_end(agent, now_ns), now_ns);
	} else if (t->slice == SLICE_ENDING) {
		/* The slice alone begins when the last call has ended. */
		struct slice ending = slice_end(agent, now_ns);
		(void)ending;
		slice_begin(t, calls_running > 0 ? SLICE_ENDING : SLICE_ALONE,
			now_ns + (calls_running > 0 ? ENDING_NS : SLICE_ALONE_NS));
	} else if (t->slice == SLICE_ALONE) {
		alone_turn(agent, slice_end(agent, now_ns), now_ns);
	} else {
		run_turn(agent, slice_end(agent, now_ns), now_ns);
	}
}

/* ---- questions ---- */

bool throttle_allows(const struct agent *agent)
{
	return agent->repair->throttle.slice == SLICE_RUN;
}

uint64_t throttle_limit(const struct agent *agent)
{
	return (uint64_t)limit_now(agent);
}

unsigned throttle_columns(const struct agent *agent)
{
	return agent->repair->throttle.busy ? REPAIR_WORKING_BUSY : REPAIR_WORKING_MAX;
}

/* Those that wait for a region leave their part to the others. */
static unsigned columns_filling(const struct agent *agent)
{
	unsigned count = 0;
	for (unsigned i = 0; i < agent->repair->count; i++)
		count += agent->repair->repairs[i]->phase == REPAIR_WORKING &&
			 !agent->repair->repairs[i]->hopeless;
	return count;
}

uint64_t throttle_call(const struct agent *agent, unsigned *spansets)
{
	uint64_t limit = throttle_limit(agent);
	uint64_t calls = FM_MAX(1u, columns_filling(agent)) * REPAIR_CALLS_MAX;
	*spansets = REPAIR_BATCH_MAX;
	if (limit == 0)
		return 0;
	uint64_t rate = FM_MAX(limit / calls, (uint64_t)FM_PAGE_SIZE * REPAIR_BATCH_MIN);
	uint64_t fit = rate * (CALL_TARGET_NS / NS_PER_MS) / 1000 / FM_PAGE_SIZE;
	*spansets = (unsigned)FM_MIN(FM_MAX(fit, REPAIR_BATCH_MIN), REPAIR_BATCH_MAX);
	return rate;
}
