/*
 * farmem/stats.c: the counters as JSON, for fm_stats and FARMEM_STATS_FILE. No malloc, no stdio
 * streams.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include "farmem/runtime.h"

struct stats_field {
	const char *name;
	size_t offset;
};

#define FIELD(name)                                                                                \
	{                                                                                          \
#name, offsetof(struct catalog_stats, name)                                        \
	}
static const struct stats_field stats_counters[] = {FIELD(budget_bytes), FIELD(near_bytes),
	FIELD(staging_bytes), FIELD(far_bytes), FIELD(retained_bytes), FIELD(dead_bytes),
	FIELD(fresh_bytes), FIELD(pinned_bytes), FIELD(metadata_bytes), FIELD(slots_used_bytes),
	FIELD(slots_quarantined_bytes), FIELD(far_capacity_bytes), FIELD(faults),
	FIELD(faults_zero), FIELD(faults_rescued), FIELD(faults_fetched), FIELD(faults_joined),
	FIELD(read_ahead), FIELD(read_ahead_hits), FIELD(swap_in_pages), FIELD(swap_out_pages),
	FIELD(clean_evictions), FIELD(staged_pages), FIELD(degraded_reads), FIELD(crc_mismatches),
	FIELD(fetch_timeouts), FIELD(store_failures), FIELD(lost_pages), FIELD(purged_pages),
	FIELD(repacked_spansets), FIELD(freed_spansets), FIELD(move_busy), FIELD(wp_faults),
	FIELD(stall_ns)};
static const struct stats_field stats_hists[] = {
	FIELD(fault_ns), FIELD(fetch_ns), FIELD(store_ns), FIELD(degraded_ns)};
#undef FIELD

static int stats_append(char *text, size_t size, size_t *used, const char *format, ...)
	FM_PRINTF(4, 5);

static int stats_append(char *text, size_t size, size_t *used, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	int n = vsnprintf(text + *used, size - *used, format, arguments);
	va_end(arguments);
	if (n < 0 || (size_t)n >= size - *used)
		return -ENOSPC;
	*used += (size_t)n;
	return 0;
}

int stats_json(struct runtime *rt, char *text, size_t size)
{
	const uint8_t *stats = (const uint8_t *)rt->core.catalog.stats;
	size_t used = 0;
	int rc = stats_append(text, size, &used, "{\"pid\":%d,\"running\":%s", (int)getpid(),
		runtime_running(rt) ? "true" : "false");
	if (stats != NULL && runtime_running(rt))
		runtime_publish_gauges(rt);
	for (unsigned i = 0; rc == 0 && i < FM_ARRAY_COUNT(stats_counters); i++) {
		uint64_t value = stats == NULL
					 ? 0
					 : atomic_load((const _Atomic uint64_t *)(const void
							   *)(stats + stats_counters[i].offset));
		rc = stats_append(text, size, &used, ",\"%s\":%llu", stats_counters[i].name,
			(unsigned long long)value);
	}
	for (unsigned i = 0; rc == 0 && stats != NULL && i < FM_ARRAY_COUNT(stats_hists); i++) {
		const struct hist *h =
			(const struct hist *)(const void *)(stats + stats_hists[i].offset);
		rc = stats_append(text, size, &used,
			",\"%s\":{\"count\":%llu,\"p50\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%"
			"llu,\"mean\":%.0f}",
			stats_hists[i].name, (unsigned long long)h->count,
			(unsigned long long)hist_quantile(h, 0.5),
			(unsigned long long)hist_quantile(h, 0.99),
			(unsigned long long)hist_quantile(h, 0.999), (unsigned long long)h->max,
			hist_mean(h));
	}
	if (rc == 0)
		rc = stats_append(text, size, &used, "}\n");
	return rc == 0 ? (int)used : rc;
}

void stats_write_file(struct runtime *rt)
{
	char text[8192];
	int length = stats_json(rt, text, sizeof(text));
	int fd = open(rt->stats_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	if (length > 0)
		(void)!write(fd, text, (size_t)length);
	close(fd);
}
