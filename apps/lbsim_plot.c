/*
 * apps/lbsim_plot.c: lines through points as SVG: see plot in lbsim.h.
 */
#include <math.h>

#include "apps/lbsim.h"

#define WIDTH 860
#define HEIGHT 460
#define LEFT 70
#define RIGHT 190 /* names of the lines */
#define TOP 48
#define BOTTOM 52
#define FONT "font-family=\"Helvetica,Arial,sans-serif\""
#define TICKS_MAX 40

static const char *const colours[] = {"#2471a3", "#c0392b", "#1e8449", "#b9770e", "#6c3483",
	"#117a65", "#7b241c", "#34495e", "#d4ac0d", "#5dade2", "#e59866", "#82e0aa", "#af7ac5",
	"#aab7b8", "#f1948a", "#73c6b6", "#000000"};
#define COLOURS (sizeof(colours) / sizeof(colours[0]))

struct axis {
	double low, high;
	bool log;
};

struct canvas {
	const struct plot *plot;
	FILE *out;
	struct axis x, y;
};

static double place(const struct axis *axis, double value)
{
	double low = axis->low, high = axis->high;

	if (axis->log) {
		value = log(fmax(value, low));
		low = log(low);
		high = log(high);
	}
	return fmin(fmax((value - low) / (high - low), 0), 1);
}

static double x_of(const struct canvas *canvas, double value)
{
	return LEFT + place(&canvas->x, value) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct canvas *canvas, double value)
{
	return HEIGHT - BOTTOM - place(&canvas->y, value) * (HEIGHT - TOP - BOTTOM);
}

static void text(
	const struct canvas *canvas, double x, double y, const char *style, const char *words)
{
	fprintf(canvas->out, "<text x=\"%.1f\" y=\"%.1f\" " FONT " %s>", x, y, style);
	for (; *words; words++) {
		if (*words == '<' || *words == '&')
			fputs(*words == '<' ? "&lt;" : "&amp;", canvas->out);
		else
			fputc(*words, canvas->out);
	}
	fputs("</text>\n", canvas->out);
}

/* Round values of an axis: 1, 2, 5 times powers of ten. */
static unsigned ticks(const struct axis *axis, double *values)
{
	static const double steps[] = {1, 2, 5};
	unsigned count = 0;

	if (axis->log) {
		for (double power = pow(10, floor(log10(axis->low))); power <= axis->high;
			power *= 10)
			for (unsigned i = 0; i < 3; i++)
				if (power * steps[i] >= axis->low * 0.999 &&
					power * steps[i] <= axis->high * 1.001 && count < TICKS_MAX)
					values[count++] = power * steps[i];
	} else {
		double rough = (axis->high - axis->low) / 8, power = pow(10, floor(log10(rough)));
		double step = rough <= power ? power : rough <= 2 * power ? 2 * power : 5 * power;

		if (rough > 5 * power)
			step = 10 * power;
		for (double v = ceil(axis->low / step - 1e-9) * step;
			v <= axis->high + 1e-9 * step && count < TICKS_MAX; v += step)
			values[count++] = fabs(v) < 1e-9 * step ? 0 : v;
	}
	return count;
}

static void draw_axes(const struct canvas *canvas)
{
	double values[TICKS_MAX];
	char label[32];
	unsigned count = ticks(&canvas->y, values);

	for (unsigned i = 0; i < count; i++) {
		double y = y_of(canvas, values[i]);

		fprintf(canvas->out,
			"<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
			LEFT, WIDTH - RIGHT, y, y);
		snprintf(label, sizeof(label), "%g", values[i]);
		text(canvas, LEFT - 8, y + 4, "font-size=\"11\" fill=\"#555\" text-anchor=\"end\"",
			label);
	}
	count = ticks(&canvas->x, values);
	for (unsigned i = 0; i < count; i++) {
		double x = x_of(canvas, values[i]);

		fprintf(canvas->out,
			"<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#eee\"/>\n", x,
			x, TOP, HEIGHT - BOTTOM);
		snprintf(label, sizeof(label), "%g", values[i]);
		text(canvas, x, HEIGHT - BOTTOM + 16,
			"font-size=\"11\" fill=\"#555\" text-anchor=\"middle\"", label);
	}
	text(canvas, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 14,
		"font-size=\"12\" fill=\"#333\" text-anchor=\"middle\"", canvas->plot->x_name);
	text(canvas, LEFT - 54, TOP - 10, "font-size=\"12\" fill=\"#333\"", canvas->plot->y_name);
	text(canvas, LEFT, 20, "font-size=\"15\" font-weight=\"bold\" fill=\"#222\"",
		canvas->plot->title);
}

static void draw_mark(const struct canvas *canvas)
{
	double y = y_of(canvas, canvas->plot->y_mark);

	fprintf(canvas->out,
		"<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#c0392b\" "
		"stroke-dasharray=\"5 4\"/>\n",
		LEFT, WIDTH - RIGHT, y, y);
}

static void draw_line(const struct canvas *canvas, const struct plot_line *line, unsigned index)
{
	const char *colour = colours[index % COLOURS];
	double name_y = TOP + 8 + 17.0 * index;

	fprintf(canvas->out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"1.7\" d=\"", colour);
	for (unsigned i = 0; i < line->count; i++)
		fprintf(canvas->out, "%s%.1f %.1f", i == 0 ? "M" : "L", x_of(canvas, line->x[i]),
			y_of(canvas, line->y[i]));
	fprintf(canvas->out, "\"/>\n");
	for (unsigned i = 0; i < line->count && line->count <= 64; i++) {
		double x = x_of(canvas, line->x[i]);

		fprintf(canvas->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.2\" fill=\"%s\"/>", x,
			y_of(canvas, line->y[i]), colour);
		if (line->half[i] > 0)
			fprintf(canvas->out,
				"<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" "
				"stroke=\"%s\"/>",
				x, x, y_of(canvas, line->y[i] - line->half[i]),
				y_of(canvas, line->y[i] + line->half[i]), colour);
		fputc('\n', canvas->out);
	}
	fprintf(canvas->out,
		"<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
		"stroke-width=\"2.5\"/>\n",
		WIDTH - RIGHT + 12, WIDTH - RIGHT + 30, name_y - 4, name_y - 4, colour);
	text(canvas, WIDTH - RIGHT + 36, name_y, "font-size=\"12\" fill=\"#333\"", line->name);
}

static void fit(struct axis *axis, double value)
{
	if (axis->log && value <= 0)
		return;
	axis->low = fmin(axis->low, value);
	axis->high = fmax(axis->high, value);
}

static void widen(struct axis *axis, double y_max)
{
	if (y_max > 0)
		axis->high = fmin(axis->high, y_max);
	if (axis->log) {
		axis->low *= 0.9;
		axis->high *= 1.1;
	} else {
		axis->low = fmin(axis->low, 0);
		axis->high *= 1.05;
	}
	if (!(axis->high > axis->low))
		axis->high = axis->low + 1;
}

void plot_draw(const struct plot *plot, FILE *out)
{
	struct canvas canvas = {.plot = plot,
		.out = out,
		.x = {INFINITY, -INFINITY, plot->x_log},
		.y = {INFINITY, -INFINITY, plot->y_log}};

	for (unsigned i = 0; i < plot->line_count; i++)
		for (unsigned j = 0; j < plot->lines[i].count; j++) {
			fit(&canvas.x, plot->lines[i].x[j]);
			fit(&canvas.y, plot->lines[i].y[j]);
		}
	widen(&canvas.y, plot->y_max);
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
		"height=\"%d\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		WIDTH, HEIGHT, WIDTH, HEIGHT);
	draw_axes(&canvas);
	if (plot->y_mark > 0)
		draw_mark(&canvas);
	for (unsigned i = 0; i < plot->line_count; i++)
		draw_line(&canvas, &plot->lines[i], i);
	fprintf(out, "</svg>\n");
}
