/*
 * apps/demo_dip.c: see demo_timeline.h. What an event did to the throughput.
 */
#include <math.h>
#include <string.h>

#include "apps/demo_timeline.h"

struct span_of_time {
	double from_s, to_s;
};

static bool sample_within(const struct load_sample *sample, struct span_of_time span)
{
	return sample->end_s - LOAD_SAMPLE_S >= span.from_s && sample->end_s <= span.to_s;
}

/* Before anything happened. */
static struct span_of_time time_before(const struct timeline *timeline)
{
	double at_s = timeline->events[0].at_s;

	return (struct span_of_time){at_s - DIP_BEFORE_S, at_s};
}

/* From the event to the next one, or to the end. */
static struct span_of_time time_after(const struct timeline *timeline, unsigned event)
{
	double end_s = timeline->load[timeline->load_count - 1].end_s;

	if (event + 1 < timeline->event_count)
		end_s = timeline->events[event + 1].at_s;
	return (struct span_of_time){timeline->events[event].at_s, end_s};
}

static void dip_measure_before(
	const struct timeline *timeline, struct span_of_time span, struct dip *dip)
{
	double sum = 0, squares = 0, deviation;
	unsigned count = 0;

	for (unsigned i = 0; i < timeline->load_count; i++) {
		const struct load_sample *sample = &timeline->load[i];

		if (!sample_within(sample, span))
			continue;
		sum += sample->ops;
		squares += sample->ops * sample->ops;
		dip->before_p99_us += sample->p99_us;
		count++;
	}
	if (count == 0)
		return;
	dip->before_ops = sum / count;
	dip->before_p99_us /= count;
	deviation = sqrt(fmax(0, squares / count - dip->before_ops * dip->before_ops));
	dip->noise = dip->before_ops > 0 ? deviation / dip->before_ops : 0;
	dip->threshold_ops = fmin(0.9 * dip->before_ops, dip->before_ops - 2 * deviation);
}

static double mean_ops(const struct timeline *timeline, struct span_of_time span)
{
	double sum = 0;
	unsigned count = 0;

	for (unsigned i = 0; i < timeline->load_count; i++)
		if (sample_within(&timeline->load[i], span)) {
			sum += timeline->load[i].ops;
			count++;
		}
	return count ? sum / count : 0;
}

/* Index of the first disturbed sample, or load_count. */
static unsigned dip_find(
	const struct timeline *timeline, struct span_of_time span, const struct dip *dip)
{
	/* The sample in which the event falls counts: most of it may lie after. */
	span.from_s -= LOAD_SAMPLE_S;
	span.to_s = fmin(span.to_s, span.from_s + DIP_SEARCH_S);
	for (unsigned i = 0; i < timeline->load_count; i++)
		if (sample_within(&timeline->load[i], span) &&
			timeline->load[i].ops < dip->threshold_ops)
			return i;
	return timeline->load_count;
}

static void dip_follow(
	const struct timeline *timeline, unsigned first, double end_s, struct dip *dip)
{
	unsigned quiet = 0, last = first, i;
	double drops = 0;

	dip->deepest_ops = timeline->load[first].ops;
	for (i = first; i < timeline->load_count && timeline->load[i].end_s <= end_s; i++) {
		const struct load_sample *sample = &timeline->load[i];

		quiet = sample->ops < dip->threshold_ops ? 0 : quiet + 1;
		if (quiet == DIP_QUIET_SAMPLES)
			break;
		if (quiet == 0)
			last = i;
		dip->deepest_ops = fmin(dip->deepest_ops, sample->ops);
	}
	dip->recovered = quiet == DIP_QUIET_SAMPLES;
	for (i = first; i <= last; i++)
		drops += 1 - timeline->load[i].ops / dip->before_ops;
	dip->length_s = (last - first + 1) * LOAD_SAMPLE_S;
	dip->drop = drops / (last - first + 1);
}

/* The counter at a moment: that of the last sample not after it. */
static double degraded_at(const struct timeline *timeline, double at_s)
{
	double value = timeline->far_count ? timeline->far[0].degraded_reads : 0;

	for (unsigned i = 0; i < timeline->far_count && timeline->far[i].at_s <= at_s; i++)
		value = timeline->far[i].degraded_reads;
	return value;
}

double timeline_degraded_rate(const struct timeline *timeline, double from_s, double to_s)
{
	return (degraded_at(timeline, to_s) - degraded_at(timeline, from_s)) / (to_s - from_s);
}

void timeline_dip(const struct timeline *timeline, unsigned event, struct dip *dip)
{
	struct span_of_time after = time_after(timeline, event);
	unsigned first;

	memset(dip, 0, sizeof(*dip));
	dip_measure_before(timeline, time_before(timeline), dip);
	dip->deepest_ops = dip->before_ops;
	dip->recovered = true;
	for (unsigned i = 0; i < timeline->load_count; i++)
		if (sample_within(&timeline->load[i], after))
			dip->worst_p99_us = fmax(dip->worst_p99_us, timeline->load[i].p99_us);
	dip->degraded_reads =
		degraded_at(timeline, after.to_s) - degraded_at(timeline, after.from_s);
	dip->after_ops = mean_ops(timeline,
		(struct span_of_time){fmax(after.from_s, after.to_s - DIP_BEFORE_S), after.to_s});
	first = dip_find(timeline, after, dip);
	if (first < timeline->load_count)
		dip_follow(timeline, first, after.to_s, dip);
}
