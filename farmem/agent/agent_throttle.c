/*
 * farmem/agent/agent_throttle.c: how fast columns are rebuilt.
 *
 * With an idle program: as fast as the nodes can. With a busy one: so fast that it keeps most of
 * its throughput, nearly all of it when only a drain is under way. That is measured, not modelled:
 * time is cut into slices; in most of them columns are rebuilt, and now and then comes a short one
 * in which no call is under way. What the program does per second in the one kind, by what it does
 * in the other, is what rebuilding costs it; the cost grows with the rate, so the limit follows
 * from the two.
 *
 *     RUN (short at first) -> calls in flight end -> ALONE -> limit -> RUN ...
 *
 * It begins without a limit: most that is lost is rebuilt before anybody could have measured, and
 * the first slice is shorter than the dip that a program may see.
 *
 * What a program does is what it asks of its far memory: faults, pages in and out, of all programs
 * of this agent together. A program that asks for next to nothing is not in anybody's way, and is
 * never measured.
 *
 * Callers: agent_repair.c (ticks), agent_rebuild.c (before each call).
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "farmem/agent/agent_repair.h"

#define SLICE_FIRST_NS (150 * NS_PER_MS)
#define SLICE_RUN_NS (400 * NS_PER_MS)
#define SLICE_FREE_NS (1200 * NS_PER_MS) /* while nothing has to be held back */
#define SLICE_ALONE_NS (50 * NS_PER_MS)
#define SLICE_IDLE_NS (50 * NS_PER_MS) /* looks whether an idle program has become busy */
#define ENDING_NS (5 * NS_PER_MS)      /* looks whether calls have ended */
#define BUSY_EVENTS_PER_S 500.0
#define LIMIT_MIN (32ull << 20)
#define LIMIT_GENTLE_FIRST (64ull << 20)
#define LIMIT_GENTLE_MIN (16ull << 20)
#define CALL_TARGET_NS (50 * NS_PER_MS) /* calls are so short that they can be ended by waiting */

/* Shares of the program's throughput: less than `low` is too little, more than `high` leaves room.
 */
struct goal {
	double low, high;
	uint64_t limit_first, limit_min; /* while it is busy; 0: none */
};

/* Promised are 0.8, and the ALONE slices help. */
static const struct goal goal_urgent = {0.86, 0.93, 0, LIMIT_MIN};
/* A drain that nobody waits for. */
static const struct goal goal_gentle = {0.96, 0.99, LIMIT_GENTLE_FIRST, LIMIT_GENTLE_MIN};

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
			  atomic_load_explicit(&stats->swap_in_pages, memory_order_relaxed) +
			  atomic_load_explicit(&stats->swap_out_pages, memory_order_relaxed);
	}
	return events;
}

/* Since the slice began: events and rebuilt bytes per second. */
struct slice {
	double events_per_s, bytes_per_s;
};

/* Ends the slice and begins the next one. */
static struct slice slice_end(struct agent *agent, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	uint64_t events = events_now(agent), bytes = agent->repair->rebuilt_bytes;
	double seconds = (double)(now_ns - t->at_ns) / (double)NS_PER_S;
	struct slice slice = {0, 0};
	/* A runtime that left takes its events along. */
	if (seconds > 0 && events > t->events)
		slice.events_per_s = (double)(events - t->events) / seconds;
	if (seconds > 0)
		slice.bytes_per_s = (double)(bytes - t->bytes) / seconds;
	t->events = events;
	t->bytes = bytes;
	t->at_ns = now_ns;
	return slice;
}

static double smooth(double before, double now)
{
	return before > 0 ? (before + now) / 2 : now;
}

/* Both kinds have been measured. What it costs is taken to grow with the rate. */
static void limit_turn(struct throttle *t, const struct goal *goal)
{
	double share = t->alone > 0 ? t->together / t->alone : 1;
	double limit = (double)t->limit_bytes_per_s;
	if (share < goal->low) {
		double part = (1 - goal->low) / (1 - share), least = (double)goal->limit_min;
		limit = t->rate * (part > 0.25 ? part : 0.25);
		limit = limit > least ? limit : least;
	} else if (share > goal->high) {
		/* One that is far above what is done is none. */
		limit = limit > 4 * t->rate ? 0 : limit * 1.5;
	}
	t->limit_bytes_per_s = (uint64_t)limit;
	log_debug("agent: throttle share=%.2f alone=%.0f rate_mib_per_s=%.0f limit_mib_per_s=%llu",
		share, t->alone, t->rate / (1 << 20),
		(unsigned long long)(t->limit_bytes_per_s >> 20));
}

static void become_busy(struct throttle *t, bool busy, const struct goal *goal)
{
	if (busy == t->busy)
		return;
	t->busy = busy;
	t->alone = t->together = 0;
	t->limit_bytes_per_s = busy ? goal->limit_first : 0;
	log_debug("agent: throttle busy=%d", busy);
}

/* A slice is over: what was it, what comes next? */
static void slice_turn(struct agent *agent, struct slice slice, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	const struct goal *goal = goal_now(agent);
	double events = slice.events_per_s;
	if (t->paused) {
		t->alone = smooth(t->alone, events);
		limit_turn(t, goal);
	} else {
		t->together = smooth(t->together, events);
		t->rate = slice.bytes_per_s;
	}
	become_busy(
		t, events >= BUSY_EVENTS_PER_S || (t->busy && t->alone >= BUSY_EVENTS_PER_S), goal);
	t->paused = t->busy && !t->paused;
	t->ending = t->paused;
	t->until_ns = now_ns + (t->ending                          ? ENDING_NS
				       : !t->busy                  ? SLICE_IDLE_NS
				       : t->limit_bytes_per_s != 0 ? SLICE_RUN_NS
								   : SLICE_FREE_NS);
}

void throttle_begin(struct agent *agent, uint64_t now_ns)
{
	struct throttle *t = &agent->repair->throttle;
	(void)slice_end(agent, now_ns);
	t->limit_bytes_per_s = t->busy ? goal_now(agent)->limit_first : 0;
	t->until_ns = now_ns + SLICE_FIRST_NS;
}

void throttle_look(struct agent *agent, uint64_t now_ns, unsigned calls_running)
{
	struct throttle *t = &agent->repair->throttle;
	if (now_ns < t->until_ns)
		return;
	struct slice slice = slice_end(agent, now_ns);
	if (agent->repair->count == 0 && calls_running == 0) {
		/* Nothing to hold back. What the program does alone is what counts next. */
		t->busy = slice.events_per_s >= BUSY_EVENTS_PER_S;
		t->alone = slice.events_per_s;
		t->together = 0;
		t->limit_bytes_per_s = 0;
		t->paused = t->ending = false;
		t->until_ns = now_ns + SLICE_FIRST_NS;
	} else if (t->ending) {
		/* The slice alone begins when the last call has ended. */
		t->ending = calls_running > 0;
		t->until_ns = now_ns + (t->ending ? ENDING_NS : SLICE_ALONE_NS);
	} else {
		slice_turn(agent, slice, now_ns);
	}
}

bool throttle_allows(const struct agent *agent)
{
	return !agent->repair->throttle.paused;
}

uint64_t throttle_call(const struct agent *agent, unsigned *spansets)
{
	uint64_t limit = agent->repair->throttle.limit_bytes_per_s;
	uint64_t calls = FM_MAX(1u, repair_working_count(agent)) * REPAIR_CALLS_MAX;
	*spansets = REPAIR_BATCH_MAX;
	if (limit == 0)
		return 0;
	uint64_t rate = FM_MAX(limit / calls, (uint64_t)FM_PAGE_SIZE * REPAIR_BATCH_MIN);
	uint64_t fit = rate * (CALL_TARGET_NS / NS_PER_MS) / 1000 / FM_PAGE_SIZE;
	*spansets = (unsigned)FM_MIN(FM_MAX(fit, REPAIR_BATCH_MIN), REPAIR_BATCH_MAX);
	return rate;
}
