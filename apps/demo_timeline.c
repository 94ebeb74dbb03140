/*
 * apps/demo_timeline.c: farmem-demo-timeline: prints and draws what ci/demo measured (see
 * demo_timeline.h).
 *
 *     farmem-demo-timeline LOAD.csv TOP.jsonl EVENTS OUT.svg
 *
 * Exit 0; 1 when a source cannot be read or makes no sense; 2 for wrong usage.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "apps/demo_timeline.h"

#define ROW_S 0.5 /* a line of the text timeline */
#define BAR_WIDTH 32
#define NOISE_MAX 0.25  /* standard deviation of 100 ms samples that hides dips */
#define PAPER_DIP_S 0.6 /* Carbink, OSDI 2022: throughput disturbed after one machine's failure */
#define PAPER_DROP 0.36 /* its average drop */

struct row {
	double ops, p99_us;
	unsigned count;
};

static struct row row_of(const struct timeline *timeline, double from_s, double to_s)
{
	struct row row = {0, 0, 0};

	for (unsigned i = 0; i < timeline->load_count; i++) {
		const struct load_sample *sample = &timeline->load[i];

		if (sample->end_s <= from_s + 1e-6 || sample->end_s > to_s + 1e-6)
			continue;
		row.ops += sample->ops;
		row.p99_us = fmax(row.p99_us, sample->p99_us);
		row.count++;
	}
	if (row.count)
		row.ops /= row.count;
	return row;
}

static void print_events(const struct timeline *timeline, double from_s, double to_s)
{
	for (unsigned i = 0; i < timeline->event_count; i++)
		if (timeline->events[i].at_s >= from_s && timeline->events[i].at_s < to_s)
			printf("%6.1f s  ---- %s ----\n", timeline->events[i].at_s,
				timeline->events[i].text);
}

static void print_rows(const struct timeline *timeline)
{
	double end_s = timeline->load[timeline->load_count - 1].end_s, max = 1;

	for (double at_s = 0; at_s < end_s - 1e-6; at_s += ROW_S)
		max = fmax(max, row_of(timeline, at_s, at_s + ROW_S).ops);
	printf("    time   %-*s     ops/s   p99 ms  degraded reads/s\n", BAR_WIDTH, "");
	for (double at_s = 0; at_s < end_s - 1e-6; at_s += ROW_S) {
		struct row row = row_of(timeline, at_s, at_s + ROW_S);
		int filled = (int)(row.ops / max * BAR_WIDTH + 0.5);

		print_events(timeline, at_s, at_s + ROW_S);
		printf("%6.1f s  %.*s%*s %9.0f %8.2f %9.0f\n", at_s, filled,
			"################################", BAR_WIDTH - filled, "", row.ops,
			row.p99_us / 1e3, timeline_degraded_rate(timeline, at_s, at_s + ROW_S));
	}
}

static void print_dip(const struct timeline *timeline, unsigned event)
{
	struct dip dip;

	timeline_dip(timeline, event, &dip);
	printf("%s (at %.1f s):\n", timeline->events[event].text, timeline->events[event].at_s);
	if (dip.length_s == 0 && dip.noise > NOISE_MAX)
		printf("  the load varied too much by itself for a dip to be seen");
	else if (dip.length_s == 0)
		printf("  no disturbed 100 ms sample");
	else
		printf("  disturbed for %.1f s%s, average drop %.0f %%, deepest 100 ms %.0f ops/s",
			dip.length_s, dip.recovered ? "" : " (not over at the end)", 100 * dip.drop,
			dip.deepest_ops);
	printf(" [paper, one node: %.1f s, %.0f %%]\n", PAPER_DIP_S, 100 * PAPER_DROP);
	printf("  ops/s before the first kill %.0f (+-%.0f %%), two seconds at the end of this "
	       "stretch %.0f "
	       "(%.0f %%)\n",
		dip.before_ops, 100 * dip.noise, dip.after_ops,
		dip.before_ops > 0 ? 100 * dip.after_ops / dip.before_ops : 0);
	printf("  p99 before %.2f ms, worst after %.2f ms; degraded reads %.0f\n",
		dip.before_p99_us / 1e3, dip.worst_p99_us / 1e3, dip.degraded_reads);
}

static int read_source(
	struct timeline *timeline, const char *path, int (*read)(struct timeline *, FILE *))
{
	FILE *file = fopen(path, "re");
	int rc;

	if (!file) {
		rc = -errno;
	} else {
		rc = read(timeline, file);
		fclose(file);
	}
	if (rc < 0)
		fprintf(stderr, "farmem-demo-timeline: %s: %s\n", path, strerror(-rc));
	return rc;
}

/* An event that fell outside the load was not measured: better no picture than one that shows
 * nothing. */
static int check_events(const struct timeline *timeline)
{
	double end_s = timeline->load[timeline->load_count - 1].end_s;

	for (unsigned i = 0; i < timeline->event_count; i++) {
		const struct event *event = &timeline->events[i];

		if (event->at_s >= DIP_BEFORE_S && event->at_s <= end_s - DIP_BEFORE_S)
			continue;
		fprintf(stderr,
			"farmem-demo-timeline: %s came at %.1f s of a load of %.1f s: the machine "
			"is too "
			"busy\n",
			event->text, event->at_s, end_s);
		return -ERANGE;
	}
	return 0;
}

static int draw(const struct timeline *timeline, const char *path)
{
	FILE *out = fopen(path, "we");

	if (out)
		timeline_draw(timeline, out);
	if (!out || fclose(out) != 0) {
		fprintf(stderr, "farmem-demo-timeline: %s: %s\n", path, strerror(errno));
		return -EIO;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct timeline timeline;

	if (argc != 5) {
		fprintf(stderr, "usage: farmem-demo-timeline LOAD.csv TOP.jsonl EVENTS OUT.svg\n");
		return 2;
	}
	if (read_source(&timeline, argv[1], timeline_read_load) < 0 ||
		read_source(&timeline, argv[2], timeline_read_far) < 0 ||
		read_source(&timeline, argv[3], timeline_read_events) < 0)
		return 1;
	if (check_events(&timeline) < 0)
		return 1;
	print_rows(&timeline);
	printf("\n");
	for (unsigned event = 0; event < timeline.event_count; event++)
		print_dip(&timeline, event);
	return draw(&timeline, argv[4]) < 0 ? 1 : 0;
}
