/*
 * apps/demo_read.c: see demo_timeline.h. Reads the three sources.
 */
#include <cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apps/demo_timeline.h"

int timeline_read_load(struct timeline *timeline, FILE *file)
{
	char line[512];

	while (fgets(line, sizeof(line), file)) {
		struct load_sample sample = {0};
		unsigned long long elapsed_ms, unix_ms, ops, errors, wrong;
		double p50, p99, max;

		if (strncmp(line, "load,", 5) != 0)
			continue;
		if (sscanf(line, "load,%llu,%llu,%llu,%lf,%lf,%lf,%llu,%llu", &elapsed_ms, &unix_ms,
			    &ops, &p50, &p99, &max, &errors, &wrong) != 8)
			return -EPROTO;
		if (timeline->load_count == LOAD_SAMPLES_MAX)
			return -EFBIG;
		/* The first sample fixes the clock: later ones may have been written late. */
		if (timeline->load_count == 0)
			timeline->started_unix_s = (double)(unix_ms - elapsed_ms) / 1e3 +
						   (double)elapsed_ms / 1e3 - LOAD_SAMPLE_S;
		sample.ops = (double)ops / LOAD_SAMPLE_S;
		sample.p99_us = p99;
		sample.errors = errors;
		sample.wrong = wrong;
		sample.end_s = LOAD_SAMPLE_S * (timeline->load_count + 1);
		timeline->load[timeline->load_count++] = sample;
	}
	return ferror(file) ? -EIO : timeline->load_count ? 0 : -EPROTO;
}

static double number(const cJSON *process, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(process, name);

	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

int timeline_read_far(struct timeline *timeline, FILE *file)
{
	char *line = NULL;
	size_t size = 0;
	int rc = 0;

	while (rc == 0 && getline(&line, &size, file) > 0) {
		cJSON *processes = cJSON_Parse(line);
		const cJSON *process = cJSON_IsArray(processes) ? processes->child : NULL;

		if (!processes)
			rc = -EPROTO;
		else if (process && timeline->far_count == FAR_SAMPLES_MAX)
			rc = -EFBIG;
		else if (process)
			timeline->far[timeline->far_count++] = (struct far_sample){
				.at_s = number(process, "sampled_unix_ms") / 1e3 -
					timeline->started_unix_s,
				.degraded_reads = number(process, "degraded_reads"),
				.swap_in_pages = number(process, "swap_in_pages"),
				.swap_out_pages = number(process, "swap_out_pages"),
				.near_bytes = number(process, "near_bytes"),
				.far_bytes = number(process, "far_bytes")};
		cJSON_Delete(processes);
	}
	free(line);
	return rc;
}

int timeline_read_events(struct timeline *timeline, FILE *file)
{
	char line[256], *text;

	while (fgets(line, sizeof(line), file)) {
		struct event *event = &timeline->events[timeline->event_count];
		unsigned long long unix_ms = strtoull(line, &text, 10);

		if (text == line || *text != ' ')
			return -EPROTO;
		if (timeline->event_count == EVENTS_MAX)
			return -EFBIG;
		text[strcspn(text, "\n")] = '\0';
		snprintf(event->text, sizeof(event->text), "%.*s", EVENT_TEXT_MAX - 1, text + 1);
		event->at_s = (double)unix_ms / 1e3 - timeline->started_unix_s;
		timeline->event_count++;
	}
	return 0;
}
