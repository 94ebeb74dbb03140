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
#include "farmem/stats_table.h"

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
	const struct catalog_stats *stats = rt->core.catalog.stats;
	size_t used = 0;
	int rc = stats_append(text, size, &used, "{\"pid\":%d,\"running\":%s", (int)getpid(),
		runtime_running(rt) ? "true" : "false");
	if (stats != NULL && runtime_running(rt))
		runtime_publish_gauges(rt);
	for (unsigned i = 0; rc == 0 && i < stats_numbers_count; i++)
		rc = stats_append(text, size, &used, ",\"%s\":%llu", stats_numbers[i].name,
			(unsigned long long)(stats ? stats_number(stats, i) : 0));
	for (unsigned i = 0; rc == 0 && stats != NULL && i < stats_histograms_count; i++) {
		const struct hist *h = stats_histogram(stats, i);
		rc = stats_append(text, size, &used,
			",\"%s\":{\"count\":%llu,\"p50\":%llu,\"p99\":%llu,\"p999\":%llu,\"max\":%"
			"llu,\"mean\":%.0f}",
			stats_histograms[i].name, (unsigned long long)h->count,
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
