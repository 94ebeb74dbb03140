/*
 * apps/farmem_report_lines.c: adds samples up by the line of code that faulted, and prints the
 * table, in words or as JSON.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apps/farmem_report.h"
#include "base/clock.h"

#define REPORT_WHERE_MAX 512

const char *report_kind_name(unsigned kind)
{
	static const char *const names[PROFILE_KINDS] = {
		"fetched", "first touch", "rescued", "other"};

	return kind < PROFILE_KINDS ? names[kind] : "?";
}

/* --- adding up ---------------------------------------------------------------------------------
 */

static int order(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

static const struct report_place *caller_of(const struct report_sample *sample)
{
	return sample->frames_count > 1 ? sample->frames[1] : NULL;
}

static int compare_by_caller(const void *left, const void *right)
{
	const struct report_sample *a = left, *b = right;
	int by_place = order((uintptr_t)a->frames[0], (uintptr_t)b->frames[0]);

	return by_place != 0 ? by_place : order((uintptr_t)caller_of(a), (uintptr_t)caller_of(b));
}

static int compare_by_latency(const void *left, const void *right)
{
	const struct report_sample *const *a = left, *const *b = right;

	return order((*a)->sample->latency_ns, (*b)->sample->latency_ns);
}

static int compare_lines(const void *left, const void *right)
{
	const struct report_line *a = left, *b = right;
	int by_faults = order(b->faults, a->faults);

	return by_faults != 0 ? by_faults : strcmp(a->place->function, b->place->function);
}

/* samples[0..count): all of one place, callers side by side. */
static void line_find_caller(
	struct report_line *line, const struct report_sample *samples, uint64_t count)
{
	uint64_t faults = 0;

	for (uint64_t i = 0; i < count; i++) {
		if (i > 0 && caller_of(&samples[i]) != caller_of(&samples[i - 1]))
			faults = 0;
		faults += samples[i].sample->weight;
		if (caller_of(&samples[i]) != NULL && faults > line->caller_faults) {
			line->caller = caller_of(&samples[i]);
			line->caller_faults = faults;
		}
	}
}

/* The latency that one fault in a hundred exceeds; `sorted` has room for `count`. */
static uint64_t line_p99(const struct report_line *line, const struct report_sample *samples,
	const struct report_sample **sorted, uint64_t count)
{
	uint64_t below = 0;

	for (uint64_t i = 0; i < count; i++)
		sorted[i] = &samples[i];
	qsort(sorted, count, sizeof(*sorted), compare_by_latency);
	for (uint64_t i = 0; i < count; i++) {
		below += sorted[i]->sample->weight;
		if (below * 100 >= line->faults * 99)
			return sorted[i]->sample->latency_ns;
	}
	return 0;
}

static void line_add(struct report_line *line, const struct profile_sample *sample)
{
	line->samples++;
	line->faults += sample->weight;
	line->time_ns += (double)sample->weight * (double)sample->latency_ns;
	line->kinds[sample->kind] += sample->weight;
}

int report_add_up(struct report *report)
{
	const struct report_sample **sorted =
		calloc(report->samples_count + 1, sizeof(const struct report_sample *));

	report->lines = calloc(report->samples_count + 1, sizeof(*report->lines));
	if (sorted == NULL || report->lines == NULL) {
		free(sorted);
		return -ENOMEM;
	}
	qsort(report->samples, report->samples_count, sizeof(*report->samples), compare_by_caller);
	for (uint64_t first = 0, end; first < report->samples_count; first = end) {
		struct report_line *line = &report->lines[report->lines_count++];

		line->place = report->samples[first].frames[0];
		for (end = first; end < report->samples_count &&
				  report->samples[end].frames[0] == line->place;
			end++)
			line_add(line, report->samples[end].sample);
		line_find_caller(line, &report->samples[first], end - first);
		line->p99_ns = line_p99(line, &report->samples[first], sorted, end - first);
		report->faults += line->faults;
		report->time_ns += line->time_ns;
		for (unsigned kind = 0; kind < PROFILE_KINDS; kind++)
			report->kinds[kind] += line->kinds[kind];
	}
	qsort(report->lines, report->lines_count, sizeof(*report->lines), compare_lines);
	free(sorted);
	return 0;
}

/* --- printing ----------------------------------------------------------------------------------
 */

static double share_of(double part, double whole)
{
	return whole > 0 ? part / whole : 0;
}

/* Names come from other people's files: what would upset a terminal is replaced. */
static const char *where(const struct report_place *place, char *text, size_t size)
{
	int written;

	if (place->file != NULL)
		written = snprintf(
			text, size, "%s  %s:%d", place->function, place->file, place->line);
	else
		written = snprintf(text, size, "%s", place->function);
	if (written >= 0 && (size_t)written < size && place->module[0] != '\0')
		snprintf(text + written, size - (size_t)written, "  [%s]", place->module);
	for (char *c = text; *c != '\0'; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	return text;
}

static void print_process(FILE *out, const struct report_process *process)
{
	const struct profile_totals *totals = &process->totals;
	double seconds = (double)(totals->end_ns - totals->begin_ns) / (double)NS_PER_S;

	fprintf(out, "%s, pid %u: %.1f s, %llu faults, %llu samples", process->command,
		process->pid, seconds, (unsigned long long)totals->faults,
		(unsigned long long)totals->samples);
	if (totals->dropped > 0)
		fprintf(out, ", %llu dropped", (unsigned long long)totals->dropped);
	fprintf(out, "; sampling took %.2f %% of the time\n",
		100 * share_of((double)totals->sampling_ns / (double)NS_PER_S, seconds));
}

static void print_kinds(FILE *out, const struct report *report)
{
	fprintf(out, "waited %.3f s for far memory", report->time_ns / (double)NS_PER_S);
	for (unsigned kind = 0; kind < PROFILE_KINDS; kind++)
		if (report->kinds[kind] > 0)
			fprintf(out, ", %s %.1f %%", report_kind_name(kind),
				100 * share_of(
					      (double)report->kinds[kind], (double)report->faults));
	fprintf(out, "\n\n");
}

static void print_line(FILE *out, const struct report *report, const struct report_line *line,
	uint64_t faults_before)
{
	char text[REPORT_WHERE_MAX];

	fprintf(out, "%6.2f %%  %6.2f %%  %6.2f %%  %10llu  %8.1f  %8.1f  %s\n",
		100 * share_of((double)line->faults, (double)report->faults),
		100 * share_of((double)(faults_before + line->faults), (double)report->faults),
		100 * share_of(line->time_ns, report->time_ns), (unsigned long long)line->faults,
		share_of(line->time_ns, (double)line->faults) / 1000, (double)line->p99_ns / 1000,
		where(line->place, text, sizeof(text)));
	if (line->caller != NULL && line->place->file == NULL)
		fprintf(out, "%*s%.0f %% from %s\n", 65, "",
			100 * share_of((double)line->caller_faults, (double)line->faults),
			where(line->caller, text, sizeof(text)));
}

void report_print_text(FILE *out, const struct report *report, double share, uint64_t most)
{
	uint64_t named = 0, shown = 0;

	for (uint32_t i = 0; i < report->processes_count; i++)
		print_process(out, &report->processes[i]);
	if (report->samples_count == 0) {
		fprintf(out, "no samples: the program fitted its budget, or ended at once\n");
		return;
	}
	print_kinds(out, report);
	fprintf(out, "  faults       sum      time      faults   mean us    p99 us  where\n");
	for (; shown < report->lines_count && shown < most &&
		(double)named < share * (double)report->faults;
		shown++) {
		print_line(out, report, &report->lines[shown], named);
		named += report->lines[shown].faults;
	}
	if (shown < report->lines_count)
		fprintf(out, "... and %llu more places with %.2f %% of the faults\n",
			(unsigned long long)(report->lines_count - shown),
			100 * share_of((double)(report->faults - named), (double)report->faults));
	if (report->truncated)
		fprintf(out, "(the file ends in the middle of a record: a program was killed)\n");
}

/* --- JSON --------------------------------------------------------------------------------------
 */

static void json_string(FILE *out, const char *text)
{
	fputc('"', out);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < ' ' || c >= 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void json_place(FILE *out, const struct report_place *place)
{
	fprintf(out, "\"function\":");
	json_string(out, place->function);
	fprintf(out, ",\"module\":");
	json_string(out, place->module);
	if (place->file == NULL)
		return;
	fprintf(out, ",\"file\":");
	json_string(out, place->file);
	fprintf(out, ",\"line\":%d", place->line);
}

static void json_line(FILE *out, const struct report_line *line)
{
	fputc('{', out);
	json_place(out, line->place);
	fprintf(out, ",\"faults\":%llu,\"samples\":%llu,\"time_ns\":%.0f,\"p99_ns\":%llu",
		(unsigned long long)line->faults, (unsigned long long)line->samples, line->time_ns,
		(unsigned long long)line->p99_ns);
	for (unsigned kind = 0; kind < PROFILE_KINDS; kind++)
		fprintf(out, ",\"%s\":%llu",
			kind == PROFILE_TOUCHED ? "touched" : report_kind_name(kind),
			(unsigned long long)line->kinds[kind]);
	if (line->caller != NULL) {
		fprintf(out, ",\"caller\":{");
		json_place(out, line->caller);
		fprintf(out, ",\"faults\":%llu}", (unsigned long long)line->caller_faults);
	}
	fputc('}', out);
}

int report_print_json(FILE *out, const struct report *report, double share, uint64_t most)
{
	uint64_t named = 0;

	fprintf(out,
		"{\"faults\":%llu,\"samples\":%llu,\"time_ns\":%.0f,\"truncated\":%s,"
		"\"processes\":[",
		(unsigned long long)report->faults, (unsigned long long)report->samples_count,
		report->time_ns, report->truncated ? "true" : "false");
	for (uint32_t i = 0; i < report->processes_count; i++) {
		const struct report_process *process = &report->processes[i];

		fprintf(out, "%s{\"pid\":%u,\"command\":", i > 0 ? "," : "", process->pid);
		json_string(out, process->command);
		fprintf(out,
			",\"faults\":%llu,\"samples\":%llu,\"dropped\":%llu,"
			"\"sampling_ns\":%llu,\"recorded_ns\":%llu}",
			(unsigned long long)process->totals.faults,
			(unsigned long long)process->totals.samples,
			(unsigned long long)process->totals.dropped,
			(unsigned long long)process->totals.sampling_ns,
			(unsigned long long)(process->totals.end_ns - process->totals.begin_ns));
	}
	fprintf(out, "],\"lines\":[");
	for (uint64_t i = 0; i < report->lines_count && i < most &&
			     (double)named < share * (double)report->faults;
		i++) {
		fprintf(out, "%s", i > 0 ? "," : "");
		json_line(out, &report->lines[i]);
		named += report->lines[i].faults;
	}
	fprintf(out, "]}\n");
	return ferror(out) ? -EIO : 0;
}
