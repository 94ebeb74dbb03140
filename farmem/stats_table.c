/*
 * farmem/stats_table.c: see stats_table.h. A new counter in catalog.h gets its line here, and is
 * shown everywhere.
 */
#include "farmem/stats_table.h"

#define FIELD(name_)                                                                               \
	{                                                                                          \
		.name = #name_, .offset = offsetof(struct catalog_stats, name_)                    \
	}

const struct stats_field stats_numbers[] = {
	FIELD(budget_bytes),
	FIELD(near_bytes),
	FIELD(staging_bytes),
	FIELD(far_bytes),
	FIELD(retained_bytes),
	FIELD(dead_bytes),
	FIELD(fresh_bytes),
	FIELD(metadata_bytes),
	FIELD(slots_used_bytes),
	FIELD(slots_quarantined_bytes),
	FIELD(far_capacity_bytes),
	FIELD(children),
	FIELD(pinned_bytes),
	FIELD(forks),
	FIELD(fork_ns),
	FIELD(faults),
	FIELD(faults_zero),
	FIELD(faults_rescued),
	FIELD(faults_fetched),
	FIELD(faults_joined),
	FIELD(read_ahead),
	FIELD(swap_in_pages),
	FIELD(swap_out_pages),
	FIELD(clean_evictions),
	FIELD(staged_pages),
	FIELD(degraded_reads),
	FIELD(crc_mismatches),
	FIELD(fetch_timeouts),
	FIELD(store_failures),
	FIELD(lost_pages),
	FIELD(purged_pages),
	FIELD(repacked_spansets),
	FIELD(freed_spansets),
	FIELD(move_busy),
	FIELD(wp_faults),
	FIELD(stall_ns),
	FIELD(hedged_reads),
	FIELD(hedged_wins),
	FIELD(slow_reads),
	FIELD(evacuated_spansets),
	FIELD(healed_spansets),
	FIELD(repaired_columns),
	FIELD(repaired_bytes),
	FIELD(drained_columns),
	FIELD(drained_bytes),
	FIELD(scrubbed_bytes),
	FIELD(scrub_mismatches),
	FIELD(agent_starts),
	FIELD(merged_pairs),
	FIELD(merge_freed_slots),
	FIELD(merge_bytes),
	FIELD(merge_aborts),
	FIELD(merge_refusals),
};
const unsigned stats_numbers_count = FM_ARRAY_COUNT(stats_numbers);

const struct stats_field stats_histograms[] = {
	FIELD(fault_ns),
	FIELD(fetch_ns),
	FIELD(store_ns),
	FIELD(degraded_ns),
};
const unsigned stats_histograms_count = FM_ARRAY_COUNT(stats_histograms);
