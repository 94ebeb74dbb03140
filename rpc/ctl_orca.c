/*
 * rpc/ctl_orca.c: see ctl_orca.h.
 */
#include "rpc/ctl_orca.h"

#include <string.h>

#include "base/assert.h"
#include "orca.pb-c.h"

#define METRICS_MAX 5

static double clipped(double value, double max)
{
	if (!(value > 0)) /* also when it is not a number */
		return 0;
	return value < max ? value : max;
}

size_t orca_encode(const struct orca_report *report, uint8_t bytes[ORCA_BYTES_MAX])
{
	const struct load *load = &report->load;
	const struct {
		const char *key;
		double value;
	} named[METRICS_MAX] = {
		{"queue_delay_us", (double)load->delay_ns / 1e3},
		{"in_flight", load->in_flight},
		{"free_bytes", (double)load->free_bytes},
		{"epoch", load->epoch},
		{"draining", (load->flags & LOAD_DRAINING) != 0},
	};
	Farmem__Orca__OrcaLoadReport message = FARMEM__ORCA__ORCA_LOAD_REPORT__INIT;
	Farmem__Orca__NamedMetric metrics[METRICS_MAX], *pointers[METRICS_MAX];

	for (unsigned i = 0; i < METRICS_MAX; i++) {
		farmem__orca__named_metric__init(&metrics[i]);
		metrics[i].key = (char *)(uintptr_t)named[i].key;
		metrics[i].value = named[i].value;
		pointers[i] = &metrics[i];
	}
	message.cpu_utilization = clipped(report->cpu_utilization, 1e3);
	message.mem_utilization = clipped(report->mem_utilization, 1);
	message.rps_fractional = clipped(report->rps, 1e12);
	message.application_utilization = message.cpu_utilization;
	message.n_named_metrics = METRICS_MAX;
	message.named_metrics = pointers;
	FM_ASSERT(farmem__orca__orca_load_report__get_packed_size(&message) <= ORCA_BYTES_MAX);
	return farmem__orca__orca_load_report__pack(&message, bytes);
}

static bool take_metric(const Farmem__Orca__NamedMetric *metric, struct load *load)
{
	if (strcmp(metric->key, "queue_delay_us") == 0)
		load->delay_ns = (uint32_t)clipped(metric->value * 1e3, UINT32_MAX);
	else if (strcmp(metric->key, "in_flight") == 0)
		load->in_flight = (uint16_t)clipped(metric->value, UINT16_MAX);
	else if (strcmp(metric->key, "free_bytes") == 0)
		load->free_bytes = (uint64_t)clipped(metric->value, 0x1p62);
	else if (strcmp(metric->key, "epoch") == 0)
		load->epoch = (uint32_t)clipped(metric->value, UINT32_MAX);
	else if (strcmp(metric->key, "draining") == 0 && metric->value > 0)
		load->flags |= LOAD_DRAINING;
	return strcmp(metric->key, "queue_delay_us") == 0 || strcmp(metric->key, "in_flight") == 0;
}

bool orca_decode(const void *bytes, size_t length, struct load *load)
{
	Farmem__Orca__OrcaLoadReport *message;
	bool found = false;

	*load = (struct load){0};
	if (length > ORCA_PARSED_MAX)
		return false;
	message = farmem__orca__orca_load_report__unpack(NULL, length, bytes);
	if (message == NULL)
		return false;
	for (size_t i = 0; i < message->n_named_metrics; i++)
		found |= take_metric(message->named_metrics[i], load);
	farmem__orca__orca_load_report__free_unpacked(message, NULL);
	return found;
}
