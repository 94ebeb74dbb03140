/*
 * farmem/stats_table.h: the fields of struct catalog_stats by name, for whoever writes them out as
 * JSON: the runtime (stats.c) and the agent (agent_stats.c).
 */
#ifndef FM_FARMEM_STATS_TABLE_H
#define FM_FARMEM_STATS_TABLE_H

#include "farmem/catalog.h"

struct stats_field {
	const char *name;
	size_t offset; /* in struct catalog_stats */
};

extern const struct stats_field stats_numbers[]; /* _Atomic uint64_t each */
extern const unsigned stats_numbers_count;
extern const struct stats_field stats_histograms[]; /* struct hist each */
extern const unsigned stats_histograms_count;

static inline uint64_t stats_number(const struct catalog_stats *stats, unsigned index)
{
	const uint8_t *at = (const uint8_t *)stats + stats_numbers[index].offset;
	return atomic_load_explicit(
		(const _Atomic uint64_t *)(const void *)at, memory_order_relaxed);
}

static inline const struct hist *stats_histogram(const struct catalog_stats *stats, unsigned index)
{
	const uint8_t *at = (const uint8_t *)stats + stats_histograms[index].offset;
	return (const struct hist *)(const void *)at;
}

#endif
