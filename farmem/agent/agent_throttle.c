/*
 * farmem/agent/agent_throttle.c: how fast columns are rebuilt.
 *
 * With an idle program: as fast as the nodes can. With a busy one: so fast that it keeps
 * THROTTLE_TARGET of its throughput. That is measured, not modelled: time is cut into slices; in
 * most of them columns are rebuilt, and now and then comes a short one in which no call is under
 * way. What the program does per second in the one kind, by what it does in the other, is what
 * rebuilding costs it; the limit goes up or down by that.
 *
 *     RUN (SLICE_RUN_NS) -> calls in flight end -> ALONE (SLICE_ALONE_NS) -> limit -> RUN ...
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

#define SLICE_RUN_NS (300 * NS_PER_MS)
#define SLICE_ALONE_NS (40 * NS_PER_MS)
#define SLICE_IDLE_NS (50 * NS_PER_MS) /* looks whether an idle program has become busy */
#define DRAIN_NS (5 * NS_PER_MS)       /* looks whether calls have ended */
#define BUSY_EVENTS_PER_S 500.0
#define THROTTLE_TARGET 0.85 /* of its throughput; promised are 0.8 */
#define THROTTLE_GOOD 0.93   /* then there is room for more */
#define LIMIT_FIRST (96ull << 20)
#define LIMIT_MIN (8ull << 20)
#define LIMIT_MAX (16ull << 30)
#define CALL_TARGET_NS (50 * NS_PER_MS) /* calls are so short that they can be ended by waiting */

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

/* Events per second since the slice began to count; begins the next. */
static double slice_rate(struct throttle *t, uint64_t events, uint64_t now_ns)
{
	double seconds = (double)(now_ns - t->at_ns) / (double)NS_PER_S;
	/* A runtime that left takes its events along. */
	double rate =
		events > t->events && seconds > 0 ? (double)(events - t->events) / seconds : 0;
	t->events = events;
	t->at_ns = now_ns;
	return rate;
}

static double smooth(double before, double now)
{
	return before > 0 ? (before + now) / 2 : now;
}

/* Both kinds have been measured. */
static void limit_turn(struct throttle *t)
{
	double share = t->alone > 0 ? t->together / t->alone : 1;
	uint64_t limit = t->limit_bytes_per_s;
	if (share < THROTTLE_TARGET)
		limit = share < THROTTLE_TARGET / 2 ? limit / 2 : limit / 4 * 3;
	else if (share > THROTTLE_GOOD)
		limit += limit / 2;
	t->limit_bytes_per_s = FM_MIN(FM_MAX(limit, LIMIT_MIN), LIMIT_MAX);
	log_debug("agent: throttle share=%.2f limit_mib_per_s=%llu", share,
		(unsigned long long)(t->limit_bytes_per_s >> 20));
}

static void become_busy(struct throttle *t, bool busy)
{
	if (busy == t->busy)
		return;
	t->busy = busy;
	t->alone = t->together = 0;
	t->limit_bytes_per_s = busy ? LIMIT_FIRST : 0;
	log_debug("agent: throttle busy=%d", busy);
}

/* A slice is over: what was it, what comes next? */
static void slice_turn(struct throttle *t, double rate, uint64_t now_ns)
{
	if (t->paused) {
		t->alone = smooth(t->alone, rate);
		limit_turn(t);
	} else {
		t->together = smooth(t->together, rate);
	}
	become_busy(t, rate >= BUSY_EVENTS_PER_S || (t->busy && t->alone >= BUSY_EVENTS_PER_S));
	t->paused = t->busy && !t->paused;
	t->draining = t->paused;
	t->until_ns = now_ns + (t->draining ? DRAIN_NS : t->busy ? SLICE_RUN_NS : SLICE_IDLE_NS);
}

void throttle_look(struct agent *agent, uint64_t now_ns, unsigned calls_running)
{
	struct throttle *t = &agent->repair->throttle;
	uint64_t events = events_now(agent);
	if (now_ns < t->until_ns)
		return;
	if (agent->repair->count == 0 && calls_running == 0) {
		/* Nothing to hold back. What the program does alone is what counts next. */
		double rate = slice_rate(t, events, now_ns);
		become_busy(t, rate >= BUSY_EVENTS_PER_S);
		t->alone = rate;
		t->paused = t->draining = false;
		t->until_ns = now_ns + SLICE_RUN_NS;
		return;
	}
	if (t->draining) {
		/* The slice alone begins when the last call has ended. */
		t->draining = calls_running > 0;
		t->until_ns = now_ns + (t->draining ? DRAIN_NS : SLICE_ALONE_NS);
		(void)slice_rate(t, events, now_ns);
		return;
	}
	slice_turn(t, slice_rate(t, events, now_ns), now_ns);
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
