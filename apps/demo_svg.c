/*
 * apps/demo_svg.c: see demo_timeline.h. Three panels over one time axis: throughput, p99, degraded
 * reads.
 */
#include <math.h>

#include "apps/demo_timeline.h"

#define WIDTH 960
#define LEFT 70
#define RIGHT 24
#define TOP 56
#define GAP 40
#define FONT "font-family=\"Helvetica,Arial,sans-serif\""

struct panel {
	const char *title, *colour;
	double top, height; /* pixels */
	double max;         /* of the value axis */
};

struct plot {
	FILE *out;
	const struct timeline *timeline;
	double seconds; /* on the time axis */
};

static double x_of(const struct plot *plot, double at_s)
{
	return LEFT + at_s / plot->seconds * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct panel *panel, double value)
{
	return panel->top + panel->height * (1 - fmin(value / panel->max, 1));
}

/* The next round number that is not below. */
static double round_up(double value)
{
	static const double steps[] = {1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10};
	double power = pow(10, floor(log10(fmax(value, 1))));
	unsigned i = 0;

	while (steps[i] * power < value)
		i++;
	return steps[i] * power;
}

/* Ticks of a time axis at round seconds. */
static double tick_s(double seconds)
{
	return seconds <= 12 ? 1 : seconds <= 24 ? 2 : round_up(seconds / 12);
}

static void draw_text(
	const struct plot *plot, double x, double y, const char *style, const char *text)
{
	fprintf(plot->out, "<text x=\"%.1f\" y=\"%.1f\" " FONT " %s>", x, y, style);
	for (; *text; text++) {
		if (*text == '<' || *text == '&')
			fprintf(plot->out, "%s", *text == '<' ? "&lt;" : "&amp;");
		else
			fputc(*text, plot->out);
	}
	fprintf(plot->out, "</text>\n");
}

static void draw_axes(const struct plot *plot, const struct panel *panel)
{
	char label[32];

	draw_text(plot, LEFT, panel->top - 10, "font-size=\"13\" fill=\"#333\"", panel->title);
	for (unsigned i = 0; i <= 2; i++) {
		double value = panel->max * i / 2, y = y_of(panel, value);

		fprintf(plot->out,
			"<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
			LEFT, WIDTH - RIGHT, y, y);
		if (value >= 10000)
			snprintf(label, sizeof(label), "%gk", value / 1000);
		else
			snprintf(label, sizeof(label), "%g", value);
		draw_text(plot, LEFT - 8, y + 4,
			"font-size=\"11\" fill=\"#666\" text-anchor=\"end\"", label);
	}
}

static void draw_time_axis(const struct plot *plot, double y)
{
	double step = tick_s(plot->seconds);
	char label[32];

	for (double at_s = 0; at_s <= plot->seconds + 1e-9; at_s += step) {
		snprintf(label, sizeof(label), "%g s", at_s);
		draw_text(plot, x_of(plot, at_s), y,
			"font-size=\"11\" fill=\"#666\" text-anchor=\"middle\"", label);
	}
}

static void draw_events(const struct plot *plot, double top, double bottom)
{
	for (unsigned i = 0; i < plot->timeline->event_count; i++) {
		const struct event *event = &plot->timeline->events[i];
		double x = x_of(plot, event->at_s);

		fprintf(plot->out,
			"<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#c0392b\" "
			"stroke-dasharray=\"4 3\"/>\n",
			x, x, top, bottom);
		draw_text(plot, x + 4, top + 10, "font-size=\"11\" fill=\"#c0392b\"", event->text);
	}
}

/* The area under one value per load sample. */
static void draw_area(const struct plot *plot, const struct panel *panel,
	double (*value)(const struct load_sample *))
{
	const struct timeline *timeline = plot->timeline;
	double bottom = panel->top + panel->height;

	fprintf(plot->out, "<path fill=\"%s\" fill-opacity=\"0.25\" stroke=\"%s\" d=\"M%d %.1f",
		panel->colour, panel->colour, LEFT, bottom);
	for (unsigned i = 0; i < timeline->load_count; i++)
		fprintf(plot->out, "L%.1f %.1fH%.1f",
			x_of(plot, timeline->load[i].end_s - LOAD_SAMPLE_S),
			y_of(panel, value(&timeline->load[i])),
			x_of(plot, timeline->load[i].end_s));
	fprintf(plot->out, "V%.1fZ\"/>\n", bottom);
}

static double ops_of(const struct load_sample *sample)
{
	return sample->ops;
}

static double p99_ms_of(const struct load_sample *sample)
{
	return sample->p99_us / 1e3;
}

static double degraded_rate_of(const struct plot *plot, const struct load_sample *sample)
{
	return timeline_degraded_rate(plot->timeline, sample->end_s - LOAD_SAMPLE_S, sample->end_s);
}

static void draw_degraded(const struct plot *plot, const struct panel *panel)
{
	for (unsigned i = 0; i < plot->timeline->load_count; i++) {
		const struct load_sample *sample = &plot->timeline->load[i];
		double rate = degraded_rate_of(plot, sample), y = y_of(panel, rate);

		if (rate > 0)
			fprintf(plot->out,
				"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
				"fill=\"%s\"/>\n",
				x_of(plot, sample->end_s - LOAD_SAMPLE_S), y,
				x_of(plot, LOAD_SAMPLE_S) - LEFT, panel->top + panel->height - y,
				panel->colour);
	}
}

static void find_maxima(
	const struct plot *plot, struct panel *ops, struct panel *p99, struct panel *degraded)
{
	for (unsigned i = 0; i < plot->timeline->load_count; i++) {
		const struct load_sample *sample = &plot->timeline->load[i];

		ops->max = fmax(ops->max, ops_of(sample));
		p99->max = fmax(p99->max, p99_ms_of(sample));
		degraded->max = fmax(degraded->max, degraded_rate_of(plot, sample));
	}
	ops->max = round_up(ops->max);
	p99->max = round_up(p99->max);
	degraded->max = round_up(degraded->max);
}

void timeline_draw(const struct timeline *timeline, FILE *out)
{
	struct plot plot = {out, timeline, timeline->load[timeline->load_count - 1].end_s};
	struct panel ops = {
		"operations per second (every value read is checked)", "#2471a3", TOP, 190, 1};
	struct panel p99 = {"p99 latency, ms", "#7d6608", ops.top + ops.height + GAP, 100, 1};
	struct panel degraded = {
		"degraded reads per second", "#c0392b", p99.top + p99.height + GAP, 80, 1};
	double bottom = degraded.top + degraded.height;

	find_maxima(&plot, &ops, &p99, &degraded);
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" "
		"height=\"%.0f\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		WIDTH, bottom + 30, WIDTH, bottom + 30);
	draw_text(&plot, LEFT, 24, "font-size=\"15\" font-weight=\"bold\" fill=\"#222\"",
		"redis-server with a quarter of its data near: two memory nodes killed under load");
	draw_axes(&plot, &ops);
	draw_axes(&plot, &p99);
	draw_axes(&plot, &degraded);
	draw_area(&plot, &ops, ops_of);
	draw_area(&plot, &p99, p99_ms_of);
	draw_degraded(&plot, &degraded);
	draw_events(&plot, ops.top, bottom);
	draw_time_axis(&plot, bottom + 18);
	fprintf(out, "</svg>\n");
}
