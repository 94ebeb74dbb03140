/*
 * apps/load_plot.c: the picture of fm-load, as SVG: p99 against rate where there are several rates,
 * latency against quantile where there is one. See load.h. Logarithmic in latency; the SLO is a
 * dashed line; bars are the 95 % confidence intervals.
 */
#include <math.h>

#include "apps/load.h"

#define WIDTH 760
#define HEIGHT 460
#define LEFT 80
#define RIGHT 150
#define TOP 30
#define BOTTOM 50
#define POINTS_MAX LOAD_RATES_MAX
#define FONT "font-family=\"Helvetica,Arial,sans-serif\" font-size=\"12\""

struct point {
	double x;
	struct load_estimate y; /* ns */
};

struct axes {
	double x_min, x_max;
	double y_min, y_max; /* ns, powers of ten */
};

static const double quantiles[] = {0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999};
static const char *const quantile_names[] = {"p50", "p75", "p90", "p95", "p99", "p99.5", "p99.9"};
static const char *const colours[] = {"#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd",
	"#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22"};

static unsigned points_of(
	const struct load_job *job, unsigned policy, struct point points[POINTS_MAX])
{
	const struct load_series *series = job->policies[policy].series;

	if (job->rates_count > 1) {
		for (unsigned i = 0; i < job->rates_count; i++)
			points[i] = (struct point){
				job->rates[i], load_quantile(&series[i], job->rounds_count, 0.99)};
		return job->rates_count;
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(quantiles); i++)
		points[i] = (struct point){-log10(1 - quantiles[i]),
			load_quantile(&series[0], job->rounds_count, quantiles[i])};
	return FM_ARRAY_COUNT(quantiles);
}

static double x_of(const struct axes *axes, double x)
{
	double span = axes->x_max > axes->x_min ? axes->x_max - axes->x_min : 1;

	return LEFT + (x - axes->x_min) / span * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct axes *axes, double ns)
{
	double part = log(fmax(ns, axes->y_min) / axes->y_min) / log(axes->y_max / axes->y_min);

	return TOP + (1 - fmin(part, 1)) * (HEIGHT - TOP - BOTTOM);
}

static struct axes axes_of(const struct load_job *job)
{
	struct axes axes = {.x_min = INFINITY, .x_max = -INFINITY};
	struct point points[POINTS_MAX];
	double low = INFINITY, high = 0;

	for (unsigned policy = 0; policy < job->policies_count; policy++) {
		unsigned count = points_of(job, policy, points);

		for (unsigned i = 0; i < count; i++) {
			axes.x_min = fmin(axes.x_min, points[i].x);
			axes.x_max = fmax(axes.x_max, points[i].x);
			if (points[i].y.value > 0)
				low = fmin(low, points[i].y.value);
			high = fmax(high, points[i].y.value);
		}
	}
	axes.y_min = pow(10, floor(log10(fmin(low, 1e9))));
	axes.y_max = fmax(pow(10, ceil(log10(fmax(high, 1)))), 10 * axes.y_min);
	return axes;
}

static const char *time_name(double ns, char text[32])
{
	if (ns >= 1e9)
		snprintf(text, 32, "%g s", ns / 1e9);
	else if (ns >= 1e6)
		snprintf(text, 32, "%g ms", ns / 1e6);
	else
		snprintf(text, 32, "%g us", ns / 1e3);
	return text;
}

static void draw_frame(const struct load_job *job, const struct axes *axes, FILE *out)
{
	char text[32];

	for (double ns = axes->y_min; ns <= axes->y_max * 1.01; ns *= 10) {
		double y = y_of(axes, ns);

		fprintf(out,
			"<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
			LEFT, y, WIDTH - RIGHT, y);
		fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\" " FONT ">%s</text>\n",
			LEFT - 6, y + 4, time_name(ns, text));
	}
	for (unsigned i = 0;
		i < (job->rates_count > 1 ? job->rates_count : FM_ARRAY_COUNT(quantiles)); i++) {
		double x = job->rates_count > 1 ? job->rates[i] : -log10(1 - quantiles[i]);

		if (job->rates_count > 1)
			snprintf(text, sizeof(text), "%g", job->rates[i]);
		else
			snprintf(text, sizeof(text), "%s", quantile_names[i]);
		fprintf(out,
			"<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" " FONT ">%s</text>\n",
			x_of(axes, x), HEIGHT - BOTTOM + 18, text);
	}
	fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\" " FONT ">%s</text>\n",
		(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10,
		job->rates_count > 1 ? "requests per second; latency: p99" : "quantile");
	fprintf(out,
		"<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#000\" "
		"stroke-dasharray=\"4 4\"/>\n",
		LEFT, y_of(axes, (double)job->options.slo_ns), WIDTH - RIGHT,
		y_of(axes, (double)job->options.slo_ns));
}

static void draw_policy(
	const struct load_job *job, const struct axes *axes, unsigned policy, FILE *out)
{
	const char *colour = colours[policy % FM_ARRAY_COUNT(colours)];
	struct point points[POINTS_MAX];
	unsigned count = points_of(job, policy, points);

	fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", colour);
	for (unsigned i = 0; i < count; i++)
		fprintf(out, "%.1f,%.1f ", x_of(axes, points[i].x), y_of(axes, points[i].y.value));
	fprintf(out, "\"/>\n");
	for (unsigned i = 0; i < count; i++)
		fprintf(out,
			"<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
			x_of(axes, points[i].x), y_of(axes, points[i].y.low),
			x_of(axes, points[i].x), y_of(axes, points[i].y.high), colour);
	fprintf(out, "<text x=\"%d\" y=\"%u\" fill=\"%s\" " FONT ">%s</text>\n", WIDTH - RIGHT + 12,
		TOP + 14 + 18 * policy, colour, job->policies[policy].name);
}

void load_plot(const struct load_job *job, FILE *out)
{
	struct axes axes = axes_of(job);

	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		WIDTH, HEIGHT, WIDTH, HEIGHT);
	draw_frame(job, &axes, out);
	for (unsigned policy = 0; policy < job->policies_count; policy++)
		draw_policy(job, &axes, policy, out);
	fprintf(out, "</svg>\n");
}
