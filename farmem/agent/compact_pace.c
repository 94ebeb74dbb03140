/*
 * farmem/agent/compact_pace.c: see compact_pace.h.
 */
#include "farmem/agent/compact_pace.h"

#include "base/compiler.h"

#define BUSY_EVENTS_PER_S 500.0
#define SHARE_LOW 0.95
#define SHARE_HIGH 0.97
#define SHARE_WEIGHT 0.25 /* of the last slice: throughput goes up and down by itself */
#define LIMIT_CUT 0.7
#define LIMIT_GROWTH 1.25
#define LIMIT_ABOVE_RATE 2.0 /* a limit further above what is sent is none */

struct slice {
	double seconds, events_per_s, bytes_per_s;
};

static struct slice slice_end(struct compact_pace *pace, uint64_t now_ns, const uint64_t counts[2])
{
	struct slice slice = {.seconds = (double)(now_ns - pace->at_ns) / (double)NS_PER_S};
	/* A runtime that left takes its events along. */
	if (slice.seconds > 0 && counts[0] > pace->events)
		slice.events_per_s = (double)(counts[0] - pace->events) / slice.seconds;
	if (slice.seconds > 0 && counts[1] > pace->bytes)
		slice.bytes_per_s = (double)(counts[1] - pace->bytes) / slice.seconds;
	pace->at_ns = now_ns;
	pace->events = counts[0];
	pace->bytes = counts[1];
	return slice;
}

static void slice_begin(struct compact_pace *pace, enum pace_slice slice, uint64_t until_ns)
{
	pace->slice = slice;
	pace->until_ns = until_ns;
}

static void limit_turn(struct compact_pace *pace, const struct slice *slice)
{
	double share = pace->usual > 0 ? slice->events_per_s / pace->usual : 1;
	pace->share += SHARE_WEIGHT * (FM_MIN(share, 1.1) - pace->share);
	if (pace->share < SHARE_LOW)
		pace->limit *= LIMIT_CUT;
	else if (pace->share > SHARE_HIGH && LIMIT_ABOVE_RATE * slice->bytes_per_s > pace->limit)
		pace->limit *= LIMIT_GROWTH;
	pace->limit = FM_MIN(FM_MAX(pace->limit, PACE_LIMIT_MIN), PACE_LIMIT_MAX);
}

static void alone_turn(struct compact_pace *pace, const struct slice *slice, uint64_t now_ns)
{
	pace->busy = slice->events_per_s >= BUSY_EVENTS_PER_S;
	pace->usual = pace->usual > 0 && pace->busy ? (pace->usual + slice->events_per_s) / 2
						    : slice->events_per_s;
	pace->alone_ns = now_ns;
	slice_begin(pace, PACE_RUN, now_ns + PACE_RUN_NS);
}

void pace_look(
	struct compact_pace *pace, uint64_t now_ns, const uint64_t counts[2], unsigned running)
{
	if (!pace->known) {
		*pace = (struct compact_pace){.known = true,
			.share = (SHARE_LOW + SHARE_HIGH) / 2,
			.limit = PACE_LIMIT_FIRST};
		(void)slice_end(pace, now_ns, counts);
		slice_begin(pace, PACE_ALONE, now_ns + PACE_ALONE_NS);
	}
	if (now_ns < pace->until_ns)
		return;
	struct slice slice = slice_end(pace, now_ns, counts);
	if (pace->slice == PACE_ENDING) {
		slice_begin(pace, running > 0 ? PACE_ENDING : PACE_ALONE,
			now_ns + (running > 0 ? NS_PER_MS : PACE_ALONE_NS));
		return;
	}
	/* Nothing was merged: that is what is usual, too. */
	if (pace->slice == PACE_ALONE || (slice.bytes_per_s <= 0 && running == 0)) {
		alone_turn(pace, &slice, now_ns);
		return;
	}
	if (pace->busy)
		limit_turn(pace, &slice);
	bool look = now_ns - pace->alone_ns >= PACE_ALONE_EVERY_NS;
	slice_begin(pace, look ? PACE_ENDING : PACE_RUN, look ? now_ns : now_ns + PACE_RUN_NS);
}

bool pace_allows(const struct compact_pace *pace, uint64_t now_ns)
{
	return pace->known && pace->slice == PACE_RUN && now_ns >= pace->next_ns;
}

double pace_limit(const struct compact_pace *pace, bool pressed)
{
	if (!pace->busy)
		return PACE_LIMIT_MAX;
	return pressed ? FM_MAX(pace->limit, PACE_LIMIT_PRESSED) : pace->limit;
}

void pace_spend(struct compact_pace *pace, uint64_t now_ns, uint64_t bytes, bool pressed)
{
	double seconds = (double)bytes / pace_limit(pace, pressed);
	pace->next_ns = FM_MAX(pace->next_ns, now_ns) + (uint64_t)(seconds * (double)NS_PER_S);
}
