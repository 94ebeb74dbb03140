/*
 * tests/sim/scenarios.c: the scenarios of the simulator, and the names of its planted bugs.
 */
#include <string.h>

#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

const char *const sim_bug_names[BUG_COUNT] = {"none", "ack-early", "no-fence", "no-epoch",
	"clean-lies", "lost-wake", "keep-bytes", "done-early", "no-quiet", "reopen", "late-rebuild",
	"leak-lease", "merge-watermark", "merge-unacked", "merge-twice", "merge-keep"};

/* What most scenarios share: 4+2, 256 pages near, some 500 far. */
#define SIM_USUAL                                                                                  \
	.k = 4, .m = 2, .hosts_spare = 2, .stripes = 1, .handlers = 1, .programs = 3,              \
	/* a multiple of 100 */ .pages = 700, .budget_pages = 256, .retain_pages = 256,            \
	.region_slots = 64, .node_regions = 24, .records_max = 4096, .on_full = ON_FULL_WAIT,      \
	.latency_ns = 5000, .purges = true

#define SIM_BAD_NETWORK .drop = 3000, .late = 6000, .torn = 4000, .delay = 8000, .refuse = 1000

const struct sim_scenario sim_scenarios[] = {
	{.name = "calm", .about = "nothing fails", SIM_USUAL, .reuses = true},
	{.name = "crash",
		.about = "hosts die and come back empty",
		SIM_USUAL,
		.crash_every_ns = 40 * NS_PER_MS},
	{.name = "network",
		.about = "drops, delays, late and torn writes, partitions",
		SIM_USUAL,
		SIM_BAD_NETWORK,
		.part_every_ns = 80 * NS_PER_MS,
		.slow_every_ns = 40 * NS_PER_MS},
	{.name = "late",
		.about = "writes that land long after they were given up",
		SIM_USUAL,
		.late = 40000,
		.torn = 5000},
	{.name = "slow",
		.about = "distant nodes: much happens during a store",
		SIM_USUAL,
		.part_every_ns = 300 * NS_PER_MS,
		.reuses = true},
	{.name = "flip",
		.about = "stored bytes change",
		SIM_USUAL,
		.flip_every_ns = 2 * NS_PER_MS,
		.crash_every_ns = 200 * NS_PER_MS},
	{.name = "pins",
		.about = "pages that will not move, stores that fail, a poor agent",
		SIM_USUAL,
		.pin_every_ns = 5 * NS_PER_MS,
		.fault_every_ns = 3 * NS_PER_MS,
		.poor_every_ns = 50 * NS_PER_MS,
		.reuses = true},
	{.name = "full",
		.about = "nodes nearly full: repack must make room",
		SIM_USUAL,
		.crash_every_ns = 0},
	{.name = "storm",
		.about = "everything at once",
		SIM_USUAL,
		SIM_BAD_NETWORK,
		.part_every_ns = 100 * NS_PER_MS,
		.slow_every_ns = 80 * NS_PER_MS,
		.crash_every_ns = 100 * NS_PER_MS,
		.flip_every_ns = 20 * NS_PER_MS,
		.pin_every_ns = 20 * NS_PER_MS,
		.fault_every_ns = 20 * NS_PER_MS,
		.poor_every_ns = 200 * NS_PER_MS,
		.merges = true,
		.merge_trouble = 10000,
		.reuses = true},
	{.name = "stripes",
		.about = "two stripes, two handlers each, everything at once",
		SIM_USUAL,
		SIM_BAD_NETWORK,
		.part_every_ns = 100 * NS_PER_MS,
		.crash_every_ns = 100 * NS_PER_MS,
		.flip_every_ns = 20 * NS_PER_MS,
		.pin_every_ns = 20 * NS_PER_MS,
		.reuses = true},
	{.name = "narrow",
		.about = "no spare hosts: narrower codes",
		SIM_USUAL,
		.crash_every_ns = 60 * NS_PER_MS,
		.part_every_ns = 200 * NS_PER_MS},
	{.name = "codes",
		.about = "other codes, by the seed",
		SIM_USUAL,
		SIM_BAD_NETWORK,
		.crash_every_ns = 60 * NS_PER_MS,
		.flip_every_ns = 20 * NS_PER_MS},
	{.name = "repair",
		.about = "hosts die one after the other; columns come back before the next ones",
		SIM_USUAL,
		.crash_every_ns = 10 * NS_PER_MS,
		.flip_every_ns = 50 * NS_PER_MS,
		.away_ns = 60 * NS_PER_MS,
		.rebuild_slow = 20000,
		.rebuild_mute = 100000,
		.fault_every_ns = 5 * NS_PER_MS,
		.reuses = true},
	{.name = "drain",
		.about = "nodes are emptied and leave: no read is degraded",
		SIM_USUAL,
		.drain_every_ns = 15 * NS_PER_MS,
		.rebuild_slow = 10000,
		.rebuild_mute = 100000,
		.never_degraded = true},
	{.name = "leave",
		.about = "nodes are emptied while others are slow",
		SIM_USUAL,
		.drain_every_ns = 10 * NS_PER_MS,
		.slow_every_ns = 20 * NS_PER_MS,
		.rebuild_slow = 5000},
	{.name = "evacuate",
		.about = "too few hosts for long: narrower groups, and back again",
		SIM_USUAL,
		.crash_every_ns = 40 * NS_PER_MS,
		.drain_every_ns = 200 * NS_PER_MS,
		.rebuild_mute = 50000},
	{.name = "agent",
		.about = "the agent dies at any point of any job",
		SIM_USUAL,
		.agent_every_ns = 6 * NS_PER_MS,
		.crash_every_ns = 20 * NS_PER_MS,
		.drain_every_ns = 40 * NS_PER_MS,
		.away_ns = 60 * NS_PER_MS,
		.rebuild_slow = 20000,
		.rebuild_mute = 50000},
	{.name = "orphan",
		.about = "nodes and agents are away for longer than leases are kept",
		SIM_USUAL,
		.part_every_ns = 60 * NS_PER_MS,
		.long_parts = true,
		.orphan_keep_ns = 150 * NS_PER_MS,
		.agent_every_ns = 50 * NS_PER_MS,
		.drain_every_ns = 200 * NS_PER_MS},
	{.name = "all",
		.about = "all of it at once",
		SIM_USUAL,
		SIM_BAD_NETWORK,
		.part_every_ns = 80 * NS_PER_MS,
		.slow_every_ns = 80 * NS_PER_MS,
		.crash_every_ns = 30 * NS_PER_MS,
		.flip_every_ns = 20 * NS_PER_MS,
		.pin_every_ns = 20 * NS_PER_MS,
		.fault_every_ns = 10 * NS_PER_MS,
		.poor_every_ns = 200 * NS_PER_MS,
		.drain_every_ns = 60 * NS_PER_MS,
		.agent_every_ns = 30 * NS_PER_MS,
		.away_ns = 500 * NS_PER_MS,
		.long_parts = true,
		.rebuild_slow = 10000,
		.rebuild_mute = 50000,
		.merges = true,
		.merge_trouble = 10000,
		.reuses = true},
	{.name = "sweep",
		.about = "a little of everything, for one failure more (sweep.c)",
		SIM_USUAL,
		.late = 5000,
		.torn = 5000,
		.crash_every_ns = 20 * NS_PER_MS,
		.drain_every_ns = 20 * NS_PER_MS,
		.away_ns = 10 * NS_PER_MS,
		.rebuild_mute = 500000,
		.orphan_keep_ns = 300 * NS_PER_MS,
		.active_ns = 500 * NS_PER_MS,
		.merges = true,
		.merge_trouble = 10000,
		.damage_max = 1},
	{.name = "copies",
		.about = "--scheme replicate: three copies",
		SIM_USUAL,
		.scheme = SCHEME_REPLICATE,
		SIM_BAD_NETWORK,
		.crash_every_ns = 40 * NS_PER_MS,
		.flip_every_ns = 5 * NS_PER_MS},
	{.name = "single",
		.about = "--scheme none: no redundancy, no losses",
		SIM_USUAL,
		.scheme = SCHEME_NONE,
		.late = 6000,
		.delay = 8000,
		.fault_every_ns = 3 * NS_PER_MS},
	{.name = "split",
		.about = "--scheme split: pages in pieces, hosts that die, are drained and lie",
		SIM_USUAL,
		.scheme = SCHEME_SPLIT,
		SIM_BAD_NETWORK,
		.crash_every_ns = 40 * NS_PER_MS,
		.slow_every_ns = 40 * NS_PER_MS,
		.flip_every_ns = 5 * NS_PER_MS,
		.drain_every_ns = 100 * NS_PER_MS},
	{.name = "merge",
		.about = "compaction, and nothing fails",
		SIM_USUAL,
		.merges = true,
		.reuses = true},
	{.name = "merge_lost",
		.about =
			"compaction while its messages are lost, late and repeated, and agents die",
		SIM_USUAL,
		.merges = true,
		.merge_trouble = 200000,
		.agent_every_ns = 15 * NS_PER_MS},
	{.name = "merge_chaos",
		.about = "compaction while messages, hosts and agents get lost, and nodes are "
			 "drained",
		SIM_USUAL,
		SIM_BAD_NETWORK,
		.merges = true,
		.merge_trouble = 30000,
		.crash_every_ns = 60 * NS_PER_MS,
		.part_every_ns = 150 * NS_PER_MS,
		.flip_every_ns = 20 * NS_PER_MS,
		.drain_every_ns = 60 * NS_PER_MS,
		.agent_every_ns = 30 * NS_PER_MS,
		.fault_every_ns = 10 * NS_PER_MS,
		.away_ns = 200 * NS_PER_MS,
		.rebuild_slow = 10000,
		.rebuild_mute = 50000},
	{.name = "beyond",
		.about = "m+1 hosts of a group die: loss is told, never hidden",
		SIM_USUAL,
		.drop = 1000,
		.beyond = true},
};

const unsigned sim_scenarios_count = FM_ARRAY_COUNT(sim_scenarios);

/* What designated initializers cannot say twice. */
void sim_scenario_adjust(struct sim_scenario *s)
{
	if (s->orphan_keep_ns == 0)
		s->orphan_keep_ns = SIM_ORPHAN_KEEP_NS;
	if (s->scheme == SCHEME_NONE || s->scheme == SCHEME_REPLICATE) {
		s->k = 1;
		s->region_slots = 256; /* a batch takes 64 of them */
	}
	if (s->scheme == SCHEME_NONE)
		s->m = 0;
	if (strcmp(s->name, "full") == 0) {
		s->pages = 500;
		s->region_slots = 32;
		s->node_regions = 5;
		s->hosts_spare = 0;
	} else if (strcmp(s->name, "sweep") == 0) {
		s->pages = 300;
		s->budget_pages = 100;
		s->retain_pages = 50;
		s->region_slots = 24;
	} else if (strcmp(s->name, "stripes") == 0) {
		s->stripes = s->handlers = 2;
		s->programs = 5;
		s->budget_pages = 320;
	} else if (strcmp(s->name, "slow") == 0) {
		s->latency_ns = 300 * NS_PER_US;
		s->programs = 5;
		s->handlers = 2;
	} else if (strcmp(s->name, "merge_lost") == 0) {
		s->latency_ns = 400 * NS_PER_US; /* transactions have time */
		s->region_slots = 24;            /* and their slots are soon used again */
	} else if (strcmp(s->name, "drain") == 0 || strcmp(s->name, "leave") == 0) {
		s->latency_ns = 200 * NS_PER_US;
	} else if (strcmp(s->name, "late") == 0) {
		s->region_slots = 24; /* soon used again */
	} else if (strcmp(s->name, "narrow") == 0 || strcmp(s->name, "evacuate") == 0) {
		s->hosts_spare = 0;
	} else if (strcmp(s->name, "codes") == 0) {
		static const unsigned codes[][2] = {{1, 0}, {1, 1}, {1, 2}, {2, 1}, {2, 2}, {3, 0},
			{3, 3}, {6, 3}, {8, 2}, {10, 4}, {16, 4}};
		const unsigned *code = codes[sim_below(FM_ARRAY_COUNT(codes))];
		s->k = code[0];
		s->m = code[1];
		s->region_slots = 256 / s->k;
		s->crash_every_ns = s->m == 0 ? 0 : s->crash_every_ns;
		s->torn = s->m == 0 ? 0 : s->torn;
	}
}
