/*
 * apps/demo_timeline.h: what ci/demo measured, second by second: read, judged, drawn.
 *
 * Three sources on one clock: farmem-redis-load --csv (operations and latency per 100 ms), farmem
 * top --json (counters of the runtime), and a file of events ("UNIX-MILLISECONDS text" lines: the
 * kills). Times are seconds since the load phase began.
 */
#ifndef FM_APPS_DEMO_TIMELINE_H
#define FM_APPS_DEMO_TIMELINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"

#define LOAD_SAMPLES_MAX 36000 /* an hour */
#define FAR_SAMPLES_MAX 36000
#define EVENTS_MAX 16
#define EVENT_TEXT_MAX 80
#define LOAD_SAMPLE_S 0.1

struct load_sample {
	double end_s; /* the sample covers the LOAD_SAMPLE_S before */
	double ops;   /* per second */
	double p99_us;
	uint64_t errors, wrong;
};

struct far_sample {
	double at_s;
	double degraded_reads, swap_in_pages, swap_out_pages; /* so far */
	double near_bytes, far_bytes;
};

struct event {
	double at_s;
	char text[EVENT_TEXT_MAX];
};

struct timeline {
	struct load_sample load[LOAD_SAMPLES_MAX];
	struct far_sample far[FAR_SAMPLES_MAX];
	struct event events[EVENTS_MAX];
	unsigned load_count, far_count, event_count;
	double started_unix_s; /* of the load phase */
};

/* demo_read.c. Only rows of the phase "load" are taken. 0, -errno, or -EPROTO for a line that makes
 * no sense. */
int timeline_read_load(struct timeline *timeline, FILE *file) FM_MUST_USE;
/* After timeline_read_load, which sets the clock. */
int timeline_read_far(struct timeline *timeline, FILE *file) FM_MUST_USE;
int timeline_read_events(struct timeline *timeline, FILE *file) FM_MUST_USE;

/*
 * What an event did to the throughput. Disturbed are the 100 ms samples below the threshold: 90 %
 * of the mean of the two seconds before the FIRST event (so that a second one is not measured
 * against what the first has left), or two standard deviations below it if that is less (so that
 * the machine's own noise is no dip). The dip begins with the first of them within two seconds of
 * the event and ends where DIP_QUIET_SAMPLES samples in a row are back.
 */
#define DIP_BEFORE_S 2.0
#define DIP_SEARCH_S 2.0
#define DIP_QUIET_SAMPLES 3

struct dip {
	double before_ops, threshold_ops; /* per second */
	double noise;                     /* standard deviation before, as a share of before_ops */
	double length_s;                  /* 0: nothing was disturbed */
	double drop;                      /* mean over the dip, 0..1 */
	double deepest_ops;
	double after_ops; /* over the last two seconds before the next event or the end */
	double before_p99_us, worst_p99_us;
	double degraded_reads; /* from the event to the next one or the end */
	bool recovered;        /* before the next event or the end */
};

/* demo_dip.c */
void timeline_dip(const struct timeline *timeline, unsigned event, struct dip *dip);
/* Degraded reads per second over (from_s, to_s]. */
double timeline_degraded_rate(const struct timeline *timeline, double from_s, double to_s);

/* demo_svg.c */
void timeline_draw(const struct timeline *timeline, FILE *out);

#endif
