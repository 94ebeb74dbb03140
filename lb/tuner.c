/*
 * lb/tuner.c: see tuner.h. How a rate is found:
 *
 *     WAIT ---- the rate of RPCs is known ----> SWING <---- recheck, restart ---- FROZEN
 *                                                 |  (step, step, quiet ..)         ^
 *                                                 +---- nothing to be gained -------+
 *
 * Time (tuner.h: the shared clock) is cut into sub-epochs of 2^level ns, four of which are a group.
 * In SWING a group's sub-epochs run at f*w, f/w, f/w, f*w or the reverse, which cancels a drift
 * that is linear over the group; the first part of each is let pass, while samples and queues of
 * the one before are still about. A group's difference d of the tails is held against its noise,
 * which is measured by how much sub-epochs of the same f differ. Groups without a clear sign are
 * added up until they have one, and swing wider; several of them in a row, or a gain that is spent,
 * freeze f. Far from the minimum the curve is flat too: a quiet place that is far from the usual
 * rate is first held against that directly, and left for it. The gain halves when the sign turns
 * and grows while it stays (Kesten 1958), so that the way is quick from both ends, and its end is
 * quiet.
 *
 * Invariants:
 * 1. rate_min <= f <= rate_max, perturbed or not.
 * 2. A step is taken only on a difference of at least STEP_SIGNIFICANCE times its own noise; but
 *    to the usual rate, once per search, on CHALLENGE_BETTER times.
 * 3. No allocation after open; a note costs O(1), the end of a sub-epoch O(buckets).
 */
#include "lb/tuner.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "lb/tuner_tail.h"

#define GROUP 4 /* sub-epochs */
#define GROUP_BITS 2
#define SETTLE_SHIFT 2 /* 1/4 of a sub-epoch is let pass */
#define RATE_NOTES 256 /* after so many RPCs their rate is known well enough to begin */
#define EPOCH_RPCS_DEFAULT 2000
#define EPOCH_RPCS_LEAST 100 /* no tail can be told from fewer */
#define EPOCH_NS_DEFAULT (2 * NS_PER_S)
#define LEVEL_MIN 10 /* 1 us */
#define LEVEL_MAX 40 /* 18 minutes */

/* Natural logarithms of f. */
#define GAIN_FIRST 0.7
#define GAIN_MOST 1.2
#define GAIN_RECHECK 0.35
#define GAIN_SPENT 0.08
#define GAIN_SAME_SIGN 1.4
#define GAIN_TURNED 0.5
#define WIDTH_FIRST 0.7
#define WIDTH_LEAST 0.3
#define WIDTH_MOST 1.1
#define WIDTH_QUIET 1.25
#define WIDTH_TURNED 0.75

#define STEP_SIGNIFICANCE 2.0
#define QUIET_GROUPS 4    /* without a clear sign: frozen */
#define CHALLENGER 0.0    /* ln of the rate that a quiet place far from it is held against */
#define CHALLENGE_FAR 0.9 /* in ln */
#define CHALLENGE_GROUPS 6
#define CHALLENGE_BETTER 1.0 /* times its noise: what is usual needs less proof */
#define RECHECK_GROUPS 48    /* frozen for so long: look again */
#define NOISE_STEP 0.25      /* of its moving variance */
#define NOISE_LEAST 1.5      /* relative noise of a tail of n independent samples: this / sqrt(n) */

#define SHIFT_LOAD 0.2 /* relative */
#define SHIFT_TAIL_FROZEN 0.2
#define SHIFT_TAIL 0.5   /* in ln: while f itself moves the tail */
#define SHIFT_NOISES 4.0 /* and more than so many times the noise */
#define SHIFT_TIMES 2    /* in a row */
#define LOAD_STEP 0.1    /* of the moving variance of the load */
#define TRACE_ROWS 1024

enum phase { PHASE_WAIT, PHASE_SWING, PHASE_FROZEN };

struct row {
	double seconds, rate, low_ns, high_ns, step;
	bool frozen, restart;
};

struct tuner {
	struct tuner_options options;
	enum phase phase;
	double center, gain, width; /* center and width: ln */
	double rate;                /* f at the moment */
	int direction;              /* of the last step; 0: none since the restart */

	/* the running sub-epoch */
	unsigned level;
	uint64_t index; /* time >> level */
	uint64_t begun_ns, settled_ns;
	bool whole;     /* seen from its beginning */
	uint32_t notes; /* all of it, the settling too */
	struct tail tail;
	int signs[GROUP];

	/* the running group */
	double tails[GROUP];
	unsigned done; /* sub-epochs in it; the group is void unless all four came in order */

	/* evidence since the last step */
	double difference_sum;
	unsigned groups, quiet, frozen_groups;
	bool challenged, challenging; /* once per search: + is at CHALLENGER, - at the center */
	double noise;                 /* variance of one sub-epoch's tail */

	/* what the world was like */
	double load, load_variance; /* RPCs per ns; relative variance */
	double tail_reference;      /* 0: none */
	unsigned load_shifts, tail_shifts;
	uint64_t first_ns;
	bool restarted;

	struct tuner_stats stats;
	struct row trace[TRACE_ROWS];
};

static double clip(double value, double low, double high)
{
	return fmin(fmax(value, low), high);
}

static double clip_log_rate(const struct tuner *tuner, double log_rate)
{
	return clip(log_rate, log(tuner->options.rate_min), log(tuner->options.rate_max));
}

static void begin_search(struct tuner *tuner, double gain)
{
	tuner->phase = PHASE_SWING;
	tuner->gain = gain;
	tuner->width = WIDTH_FIRST;
	tuner->direction = 0;
	tuner->difference_sum = 0;
	tuner->groups = tuner->quiet = tuner->frozen_groups = 0;
	tuner->challenged = tuner->challenging = false;
}

static bool number_ok(double value)
{
	return value >= 0 && value <= 1e6;
}

int tuner_open(const struct tuner_options *options, struct tuner **opened)
{
	struct tuner *tuner;
	struct tuner_options taken = *options;

	if (!number_ok(taken.rate_min) || !number_ok(taken.rate_max) ||
		!number_ok(taken.rate_start))
		return -EINVAL;
	if (taken.rate_min == 0)
		taken.rate_min = 0.02;
	if (taken.rate_max == 0)
		taken.rate_max = 16;
	if (taken.rate_start == 0)
		taken.rate_start = clip(1, taken.rate_min, taken.rate_max);
	if (taken.epoch_rpcs == 0)
		taken.epoch_rpcs = EPOCH_RPCS_DEFAULT;
	if (taken.epoch_ns_max == 0)
		taken.epoch_ns_max = EPOCH_NS_DEFAULT;
	if (taken.rate_min > taken.rate_max)
		return -EINVAL;
	tuner = calloc(1, sizeof(*tuner));
	if (!tuner)
		return -ENOMEM;
	tuner->options = taken;
	tuner->center = clip_log_rate(tuner, log(taken.rate_start));
	tuner->rate = exp(tuner->center);
	*opened = tuner;
	return 0;
}

void tuner_close(struct tuner *tuner)
{
	free(tuner);
}

double tuner_rate(const struct tuner *tuner)
{
	return tuner->rate;
}

double tuner_center(const struct tuner *tuner)
{
	return exp(tuner->center);
}

/* --- time --------------------------------------------------------------------------------------
 */

/* The shortest sub-epoch that has enough RPCs, all of 2^n ns: clients of like rates choose alike.
 */
static unsigned level_for(const struct tuner *tuner, double load)
{
	unsigned level = LEVEL_MIN;

	while (level < LEVEL_MAX && load * (double)(1ull << level) < tuner->options.epoch_rpcs) {
		bool too_long = 2ull << level > tuner->options.epoch_ns_max;

		if (too_long && load * (double)(1ull << level) >= EPOCH_RPCS_LEAST)
			break;
		level++;
	}
	return level;
}

/* + - - + or - + + -, the same for everybody who has this level at this time. */
static void order_swings(struct tuner *tuner, uint64_t group)
{
	uint64_t z = (group ^ ((uint64_t)tuner->level << 56) ^ tuner->options.seed) *
		     0x9e3779b97f4a7c15ull;
	int first = (z >> 60) & 1 ? 1 : -1;

	for (unsigned i = 0; i < GROUP; i++)
		tuner->signs[i] = i == 0 || i == GROUP - 1 ? first : -first;
}

static void begin_epoch(struct tuner *tuner, uint64_t time_ns)
{
	unsigned place;
	double swing = 0;

	tuner->index = time_ns >> tuner->level;
	tuner->begun_ns = tuner->index << tuner->level;
	tuner->settled_ns = tuner->begun_ns + (1ull << tuner->level >> SETTLE_SHIFT);
	tuner->notes = 0;
	tail_reset(&tuner->tail);
	place = tuner->index & (GROUP - 1);
	if (place == 0) {
		order_swings(tuner, tuner->index >> GROUP_BITS);
		tuner->done = 0;
	}
	/* In the middle of a group that was not begun here: wait for the next. */
	if (tuner->done == place && tuner->phase == PHASE_SWING) {
		swing = tuner->signs[place] * tuner->width;
		if (tuner->challenging)
			swing = tuner->signs[place] > 0 ? CHALLENGER - tuner->center : 0;
	}
	tuner->rate = exp(clip_log_rate(tuner, tuner->center + swing));
}

static void set_level(struct tuner *tuner, unsigned level)
{
	tuner->level = level;
	tuner->done = GROUP; /* void until a group begins */
}

/* --- what the world does -----------------------------------------------------------------------
 */

static void restart(struct tuner *tuner)
{
	tuner->stats.restarts++;
	tuner->restarted = true;
	tuner->load = 0;
	tuner->load_variance = 0;
	tuner->tail_reference = 0;
	tuner->load_shifts = tuner->tail_shifts = 0;
	tuner->done = GROUP;
	begin_search(tuner, GAIN_FIRST);
}

/* The load of one sub-epoch; true when it is another than it was. */
static bool load_shifted(struct tuner *tuner, double load)
{
	double off;

	if (tuner->load == 0) {
		tuner->load = load;
		return false;
	}
	off = load / tuner->load - 1;
	if (fabs(off) > fmax(SHIFT_LOAD, SHIFT_NOISES * sqrt(tuner->load_variance))) {
		tuner->load_shifts++;
		return tuner->load_shifts >= SHIFT_TIMES;
	}
	tuner->load_shifts = 0;
	tuner->load_variance += LOAD_STEP * (off * off - tuner->load_variance);
	return false;
}

static bool tail_shifted(struct tuner *tuner, double tail)
{
	double noise = sqrt(tuner->noise / GROUP), limit = SHIFT_TAIL_FROZEN;

	if (tuner->tail_reference == 0) {
		tuner->tail_reference = tail;
		return false;
	}
	if (tuner->phase == PHASE_SWING)
		limit = SHIFT_TAIL;
	if (fabs(tail - tuner->tail_reference) > fmax(limit, SHIFT_NOISES * noise)) {
		tuner->tail_shifts++;
		return tuner->tail_shifts >= SHIFT_TIMES;
	}
	tuner->tail_shifts = 0;
	if (tuner->phase == PHASE_SWING)
		tuner->tail_reference = tail;
	return false;
}

/* --- groups ------------------------------------------------------------------------------------
 */

static void trace(struct tuner *tuner, const double means[2], double step)
{
	tuner->trace[tuner->stats.epochs % TRACE_ROWS] = (struct row){
		.seconds =
			(double)(tuner->begun_ns + (1ull << tuner->level) - tuner->first_ns) / 1e9,
		.rate = exp(tuner->center),
		.low_ns = exp(means[0]),
		.high_ns = exp(means[1]),
		.step = step,
		.frozen = tuner->phase == PHASE_FROZEN,
		.restart = tuner->restarted};
	tuner->restarted = false;
	tuner->stats.epochs++;
}

static void freeze(struct tuner *tuner)
{
	tuner->phase = PHASE_FROZEN;
	tuner->frozen_groups = 0;
	tuner->tail_reference = 0; /* the tail without swings is another */
	tuner->tail_shifts = 0;
	tuner->stats.freezes++;
}

/* Against the sign of the evidence, `times` its noise. */
static double take_step(struct tuner *tuner, double times)
{
	int direction = times > 0 ? -1 : 1;
	double before = tuner->center;

	if (direction == tuner->direction) {
		tuner->gain = fmin(tuner->gain * GAIN_SAME_SIGN, GAIN_MOST);
	} else if (tuner->direction != 0) {
		tuner->gain *= GAIN_TURNED;
		tuner->width = fmax(tuner->width * WIDTH_TURNED, WIDTH_LEAST);
	}
	tuner->direction = direction;
	tuner->center = clip_log_rate(
		tuner, tuner->center + direction * tuner->gain *
					       fmin(1, fabs(times) / (2 * STEP_SIGNIFICANCE)));
	tuner->difference_sum = 0;
	tuner->groups = 0;
	tuner->quiet = 0;
	tuner->stats.steps++;
	return tuner->center - before;
}

/* The place is quiet: is it the best there is? */
static void settle(struct tuner *tuner)
{
	double challenger = clip_log_rate(tuner, CHALLENGER);

	if (tuner->challenged || fabs(tuner->center - challenger) < CHALLENGE_FAR) {
		freeze(tuner);
		return;
	}
	tuner->challenged = tuner->challenging = true;
	tuner->difference_sum = 0;
	tuner->groups = 0;
}

static double judge_challenge(struct tuner *tuner, double times)
{
	double before = tuner->center;

	if (tuner->groups < CHALLENGE_GROUPS && fabs(times) < STEP_SIGNIFICANCE)
		return 0;
	tuner->challenging = false;
	if (times > -CHALLENGE_BETTER) {
		freeze(tuner);
		return 0;
	}
	begin_search(tuner, GAIN_FIRST);
	tuner->challenged = true;
	tuner->center = clip_log_rate(tuner, CHALLENGER);
	tuner->stats.steps++;
	return tuner->center - before;
}

static double judge_group(struct tuner *tuner, double difference)
{
	double times, step = 0;

	tuner->difference_sum += difference;
	tuner->groups++;
	/* A difference of two means of two has the variance of one sub-epoch. */
	times = tuner->difference_sum / sqrt(tuner->groups * tuner->noise);
	if (tuner->challenging)
		return judge_challenge(tuner, times);
	if (fabs(times) >= STEP_SIGNIFICANCE) {
		step = take_step(tuner, times);
	} else {
		tuner->quiet++;
		tuner->width = fmin(tuner->width * WIDTH_QUIET, WIDTH_MOST);
	}
	/* Against the end of its range it gets no further either. */
	if (tuner->quiet >= QUIET_GROUPS || tuner->gain < GAIN_SPENT ||
		(tuner->quiet == 0 && step == 0))
		settle(tuner);
	return step;
}

static void learn_noise(struct tuner *tuner)
{
	const double *y = tuner->tails;
	double outer = y[0] - y[3], inner = y[1] - y[2];
	double seen = (outer * outer + inner * inner) / 4;

	if (tuner->phase == PHASE_FROZEN)
		seen = (outer * outer + inner * inner + (y[0] - y[1]) * (y[0] - y[1]) +
			       (y[2] - y[3]) * (y[2] - y[3])) /
		       8;
	if (tuner->noise == 0)
		tuner->noise = seen;
	tuner->noise += NOISE_STEP * (seen - tuner->noise);
	tuner->noise = fmax(tuner->noise,
		NOISE_LEAST * NOISE_LEAST / fmax((double)tuner->tail.count, EPOCH_RPCS_LEAST));
}

static void end_group(struct tuner *tuner)
{
	double means[2] = {0, 0}, step = 0;

	for (unsigned i = 0; i < GROUP; i++)
		means[tuner->signs[i] > 0] += tuner->tails[i] * 2 / GROUP;
	learn_noise(tuner);
	if (tail_shifted(tuner, (means[0] + means[1]) / 2)) {
		restart(tuner);
	} else if (tuner->phase == PHASE_SWING) {
		step = judge_group(tuner, means[1] - means[0]);
	} else if (++tuner->frozen_groups >= RECHECK_GROUPS) {
		tuner->tail_reference = 0;
		begin_search(tuner, GAIN_RECHECK);
	}
	trace(tuner, means, step);
}

static void end_epoch(struct tuner *tuner)
{
	double load = tuner->notes / (double)(1ull << tuner->level);
	unsigned place = tuner->index & (GROUP - 1), level;

	if (load_shifted(tuner, load)) {
		restart(tuner);
		set_level(tuner, level_for(tuner, load));
		return;
	}
	level = level_for(tuner, load);
	/* Twice the least is as good: a rate near a power of two must not flutter. */
	if (level > tuner->level + (tuner->notes * 10ull >= tuner->options.epoch_rpcs * 7ull) ||
		level + 1 < tuner->level) {
		set_level(tuner, level);
		return;
	}
	if (tuner->done != place || tuner->tail.count == 0)
		return;
	tuner->tails[place] = tail_log_ns(&tuner->tail);
	tuner->done++;
	if (tuner->done == GROUP)
		end_group(tuner);
}

void tuner_note(struct tuner *tuner, uint64_t now_ns, uint64_t latency_ns)
{
	uint64_t time_ns = now_ns + (uint64_t)tuner->options.clock_offset_ns;

	if (fm_unlikely(tuner->phase == PHASE_WAIT)) {
		if (tuner->notes++ == 0 || time_ns < tuner->first_ns)
			tuner->first_ns = time_ns;
		if (tuner->notes < RATE_NOTES || time_ns <= tuner->first_ns)
			return;
		set_level(tuner,
			level_for(tuner, tuner->notes / (double)(time_ns - tuner->first_ns)));
		begin_search(tuner, GAIN_FIRST);
		begin_epoch(tuner, time_ns);
	} else if (fm_unlikely(time_ns >> tuner->level != tuner->index)) {
		uint64_t end_ns = (tuner->index + 1) << tuner->level;
		bool follows = time_ns >> tuner->level == tuner->index + 1;

		/* A clock that was set, silence for longer than a sub-epoch: nothing to compare. */
		if (follows && tuner->whole)
			end_epoch(tuner);
		else
			tuner->done = GROUP;
		begin_epoch(tuner, time_ns);
		/* Its level may be another. */
		tuner->whole = follows && tuner->begun_ns == end_ns;
	}
	tuner->notes++;
	if (time_ns >= tuner->settled_ns)
		tail_record(&tuner->tail, latency_ns);
}

void tuner_stats(const struct tuner *tuner, struct tuner_stats *stats)
{
	*stats = tuner->stats;
	stats->rate = exp(tuner->center);
	stats->frozen = tuner->phase == PHASE_FROZEN;
}

void tuner_trace(const struct tuner *tuner, FILE *out)
{
	uint64_t first = tuner->stats.epochs > TRACE_ROWS ? tuner->stats.epochs - TRACE_ROWS : 0;

	fprintf(out, "seconds,rate,low_ns,high_ns,step,frozen,restart\n");
	for (uint64_t i = first; i < tuner->stats.epochs; i++) {
		const struct row *row = &tuner->trace[i % TRACE_ROWS];

		fprintf(out, "%.6f,%.4f,%.0f,%.0f,%.4f,%d,%d\n", row->seconds, row->rate,
			row->low_ns, row->high_ns, row->step, row->frozen, row->restart);
	}
}
