/*
 * apps/farmem_report_flame.c: a flame graph of the time spent waiting for far memory, as one SVG
 * file without scripts: hover over a box to read it.
 *
 * The stacks are sorted, outermost frame first; boxes are what neighbours have in common.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apps/farmem_report.h"
#include "base/clock.h"

#define WIDTH 1200
#define ROW 17
#define TOP 40
#define LETTER 6.6  /* width, about */
#define BOX_MIN 0.3 /* narrower ones are left out */
#define FONT "font-family=\"Helvetica,Arial,sans-serif\""

struct box {
	const struct report_place *place;
	double begin_ns;
};

struct flame {
	FILE *out;
	const struct report *report;
	unsigned deepest;
	unsigned open_count;
	struct box open[REPORT_FRAMES_MAX];
};

/* Functions, not lines: the boxes of a graph. */
static int compare_functions(const struct report_place *a, const struct report_place *b)
{
	int by_name = a == b ? 0 : strcmp(a->function, b->function);

	return by_name != 0 ? by_name : a == b ? 0 : strcmp(a->module, b->module);
}

static const struct report_place *frame_at(const struct report_sample *sample, unsigned depth)
{
	return sample->frames[sample->frames_count - 1 - depth];
}

static int compare_stacks(const void *left, const void *right)
{
	const struct report_sample *a = left, *b = right;
	unsigned common = a->frames_count < b->frames_count ? a->frames_count : b->frames_count;

	for (unsigned depth = 0; depth < common; depth++) {
		int by_frame = compare_functions(frame_at(a, depth), frame_at(b, depth));

		if (by_frame != 0)
			return by_frame;
	}
	return (a->frames_count > b->frames_count) - (a->frames_count < b->frames_count);
}

static void print_escaped(FILE *out, const char *text, size_t most)
{
	for (size_t i = 0; text[i] != '\0' && i < most; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '<' || c == '>' || c == '&' || c == '"')
			fprintf(out, "&#%u;", c);
		else
			fputc(c < ' ' || c >= 0x7f ? '?' : c, out);
	}
}

/* Warm colours, one for a name. */
static void print_colour(FILE *out, const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name != '\0'; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619u;
	fprintf(out, "#%02x%02x%02x", 205 + hash % 50, 80 + (hash >> 8) % 130,
		30 + (hash >> 16) % 50);
}

static void draw_box(
	const struct flame *flame, unsigned depth, const struct box *box, double end_ns)
{
	double scale = WIDTH / flame->report->time_ns;
	double x = box->begin_ns * scale, width = (end_ns - box->begin_ns) * scale;
	double y = TOP + (flame->deepest - depth) * (double)ROW;
	size_t letters = width > 3 * LETTER ? (size_t)(width / LETTER) - 1 : 0;

	if (width < BOX_MIN)
		return;
	fprintf(flame->out, "<g><title>");
	print_escaped(flame->out, box->place->function, 200);
	if (box->place->file != NULL) {
		fprintf(flame->out, " ");
		print_escaped(flame->out, box->place->file, 200);
	}
	fprintf(flame->out, " [");
	print_escaped(flame->out, box->place->module, 100);
	fprintf(flame->out, "] %.1f ms, %.2f %%</title>", (end_ns - box->begin_ns) / NS_PER_MS,
		100 * (end_ns - box->begin_ns) / flame->report->time_ns);
	fprintf(flame->out,
		"<rect x=\"%.2f\" y=\"%.0f\" width=\"%.2f\" height=\"%d\" rx=\"1\" "
		"fill=\"",
		x, y, width, ROW - 1);
	print_colour(flame->out, box->place->function);
	fprintf(flame->out, "\"/>");
	if (letters > 0) {
		fprintf(flame->out, "<text x=\"%.2f\" y=\"%.0f\" font-size=\"11\" " FONT ">", x + 3,
			y + 12);
		print_escaped(flame->out, box->place->function, letters);
		fprintf(flame->out, "</text>");
	}
	fprintf(flame->out, "</g>\n");
}

/* Ends the boxes from `depth` up at now_ns. */
static void close_boxes(struct flame *flame, unsigned depth, double now_ns)
{
	while (flame->open_count > depth) {
		flame->open_count--;
		draw_box(flame, flame->open_count, &flame->open[flame->open_count], now_ns);
	}
}

static void draw_stacks(struct flame *flame)
{
	double now_ns = 0;

	for (uint64_t i = 0; i < flame->report->samples_count; i++) {
		const struct report_sample *sample = &flame->report->samples[i];
		unsigned same = 0;

		while (same < flame->open_count && same < sample->frames_count &&
			compare_functions(flame->open[same].place, frame_at(sample, same)) == 0)
			same++;
		close_boxes(flame, same, now_ns);
		for (; same < sample->frames_count; same++)
			flame->open[flame->open_count++] =
				(struct box){frame_at(sample, same), now_ns};
		now_ns += (double)sample->sample->weight * (double)sample->sample->latency_ns;
	}
	close_boxes(flame, 0, now_ns);
}

int report_draw_flame(FILE *out, struct report *report)
{
	struct flame flame = {.out = out, .report = report};

	for (uint64_t i = 0; i < report->samples_count; i++)
		if (report->samples[i].frames_count > flame.deepest)
			flame.deepest = report->samples[i].frames_count;
	qsort(report->samples, report->samples_count, sizeof(*report->samples), compare_stacks);
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"viewBox=\"0 0 %d %d\">\n<rect width=\"100%%\" height=\"100%%\" "
		"fill=\"#fffdf5\"/>\n<text x=\"%d\" y=\"22\" font-size=\"15\" "
		"text-anchor=\"middle\" " FONT ">%.3f s of waiting for far memory, %llu faults"
		"</text>\n",
		WIDTH, TOP + (int)(flame.deepest + 2) * ROW, WIDTH,
		TOP + (int)(flame.deepest + 2) * ROW, WIDTH / 2, report->time_ns / (double)NS_PER_S,
		(unsigned long long)report->faults);
	if (report->time_ns > 0)
		draw_stacks(&flame);
	fprintf(out, "</svg>\n");
	return ferror(out) ? -EIO : 0;
}
