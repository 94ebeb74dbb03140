/*
 * farmem/catalog.h: the shared-memory tables (one memfd) in which application and agent meet.
 *
 * The application's runtime creates the memfd, lays it out (catalog_create) and hands it to the
 * agent over the agent socket (farmem/mailbox.h); the agent maps it with catalog_attach. Everything
 * here is plain data with fixed layout: no pointers. Tables are sparse: only what is touched costs
 * memory.
 *
 *   header | nodes | groups | repairs | done bits | threads | stats | heal | merges |
 *   words (8 B per page) | records (record_stride each)
 *
 * Who writes what:
 *   nodes, groups          the agent, except node.state (both: see enum catalog_node_state) and
 * group.used_slots words, records         the runtime (and, in later rooms, the agent under the
 * rules of DESIGN section 6) threads, stats         the runtime Publication: an entry is filled
 * first, then its state is stored with release; readers load with acquire.
 */
#ifndef FM_FARMEM_CATALOG_H
#define FM_FARMEM_CATALOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "base/config.h"
#include "base/hist.h"
#include "base/ids.h"
#include "ec/ec.h"
#include "rpc/fabric.h"

#define CATALOG_MAGIC 0x676f6c617461636dull
#define CATALOG_VERSION 4u
#define CATALOG_NODES_MAX 256
#define CATALOG_GROUPS_MAX 65536
#define CATALOG_HEAT_EVERY 32
#define CATALOG_THREADS_MAX 64
#define CATALOG_REPAIRS_MAX 64       /* columns being replaced at once */
#define CATALOG_SLOTS_MAX (1u << 20) /* per column */
#define CATALOG_HEAL_MAX 256
#define CATALOG_MERGES_MAX 32   /* transactions of compaction at once, each of another group */
#define CATALOG_MERGE_PAIRS 256 /* pairs of spansets in one */

/*
 * UP -> SUSPECT: the runtime, on a fabric error, or the agent, on missed keepalives: reads avoid
 * the node (degraded), writes avoid its groups. SUSPECT -> UP: the agent, when the node (same
 * incarnation) answers again. -> DOWN: the agent, when it is dead or has another incarnation: its
 * columns are erasures for good.
 */
enum catalog_node_state {
	NODE_NONE = 0,
	NODE_UP,
	NODE_SUSPECT,
	NODE_DOWN,
};

struct catalog_node {
	_Atomic uint32_t state; /* enum catalog_node_state */
	uint32_t host;          /* equal for nodes on one machine (index of first such node) */
	uint64_t incarnation;
	char name[64];                      /* as the user knows it: "h1:7400", "embedded-3" */
	char endpoint[FABRIC_ENDPOINT_MAX]; /* for fabric_attach */
	/* Refreshed by the agent with each keepalive; for `farmem top`. */
	_Atomic uint64_t memory_bytes, leased_bytes, keepalive_rtt_ns;
	_Atomic uint64_t down_since_ns; /* realtime; 0 when up */
	_Atomic uint32_t draining;      /* the agent: no new regions there, its columns move away */
	/* The agent: requests wait there, the longer the larger the number, see agent_load.c. 0:
	 * not, or not known. A degraded read asks others first. */
	_Atomic uint32_t busy;
	/* The runtime: reads go around it until then (clock_now_ns), because others are faster. */
	_Atomic uint64_t slow_until_ns;
};

enum catalog_group_state {
	GROUP_NONE = 0,
	GROUP_OPEN,     /* takes new spansets */
	GROUP_CLOSED,   /* takes none (a column is down, or being moved); reads go on */
	GROUP_EVACUATE, /* closed, and the runtime's repack moves everything out of it */
	GROUP_RETIRED,  /* empty, its leases given back; its index is not used again */
};

struct catalog_place {
	uint16_t node; /* index into nodes */
	uint16_t reserved0;
	uint32_t reserved1;
	struct fabric_capability capability;
};

/*
 * One column of a group, and its replacement (DESIGN section 6, Group; farmem/agent/column.h is the
 * agent's side of it, farmem/lane.h the runtime's).
 *
 *   places[generation & 1]        cur: where the bytes are
 *   places[(generation + 1) & 1]  next: meaningful while `repair` is not 0
 *
 * Reads: cur while it is not lost; else next where the done bit of the slot is set; else degraded.
 * A group with a column that is lost or being replaced takes no spanset, so next is never written
 * by the runtime. The agent commits by generation + 1, after which it may clear `lost` and reopen
 * the group. A reader copies a place, then looks at `generation` again: when it has changed, the
 * copy may be torn and is thrown away.
 */
struct catalog_column {
	/* Bytes in cur must not be trusted any more. Cleared only after a commit. */
	_Atomic uint32_t lost;
	_Atomic uint32_t generation;
	_Atomic uint32_t repair; /* 1 + index into repairs, or 0 */
	_Atomic uint32_t used;   /* slots in use, dead but covered or in quarantine (slot.c) */
	struct catalog_place places[2];
};

enum catalog_repair_kind {
	REPAIR_DECODE = 1, /* cur is lost: k survivors, decoded */
	REPAIR_COPY,       /* cur is well: drain */
};

/* A column being replaced. Written by the agent only; free while column of `group` does not name
 * it. */
struct catalog_repair {
	_Atomic uint32_t active;
	uint32_t group;
	uint32_t position;
	uint32_t kind; /* enum catalog_repair_kind */
	/* Some call to the target may still store there: it must be fenced before the commit. */
	_Atomic uint32_t doubt;
	uint32_t generation; /* of the column when it began: another one means: committed */
	_Atomic uint64_t done_count,
		total_count;         /* slots; total is an estimate: used at the start */
	_Atomic uint64_t started_ns; /* realtime */
};

struct catalog_group {
	_Atomic uint32_t state; /* enum catalog_group_state */
	uint8_t k, m;
	_Atomic uint16_t heat; /* one for every CATALOG_HEAT_EVERY reads of its spans; wraps */
	uint32_t slot_count;   /* per column: region bytes / FM_PAGE_SIZE, at most 2^20 */
	struct catalog_column columns[EC_N_MAX];
};

/*
 * Compaction (DESIGN section 7): one transaction makes one spanset of each of its pairs. Both are
 * of one group; at most one transaction of a group is under way. The agent chooses and talks with
 * the nodes (farmem/agent/compact.h); the runtime alone changes records, slots and words
 * (farmem/merge.h). An entry belongs to whoever may move its phase:
 *
 *   FREE -agent-> WANTED -runtime-> CLAIMING -runtime-> CLAIMED -agent-> PREPARING
 *                  (nothing of it can be: back to FREE)    |                 |
 *                                                          v                 v
 *                                                       ABORTED <-agent- ABORTING
 *                                                                            |
 *   FREE <-runtime- SWITCHING <-runtime- COMMITTED <----agent, PREPARING-----+ (never from here)
 *   FREE <-runtime- ABORTED
 *
 *   WANTED     pairs[].a, .b, count, group are filled.
 *   CLAIMING   stored (seq_cst) before the runtime looks at the group's state: not OPEN, back to
 *              FREE. The agent closes a group (seq_cst) and then takes it for quiet
 *              (column_quiet) only when no entry of it is in CLAIMING..COMMITTED: a merge adds
 *              records (invariant C3).
 *   CLAIMED    both records of every pair with n != CATALOG_NO_RECORD are claimed, n is FILLING
 *              with owners, data CRCs and slots of its k data positions, fresh[] are slots that
 *              nobody else uses. Pairs that could not be had: n == CATALOG_NO_RECORD.
 *   PREPARING  txid is drawn and stored BEFORE this phase; from here on nodes may know of it.
 *   COMMITTED  the commit point (release): of every pair that is `good`, crc[] are right and the m
 *              new parities are stored. The others are given up. Every parity node has
 *              acknowledged the end of the transaction before: a late repeat stores nothing, in
 *              good pairs' slots or others (tests/model/merge.pml, BUG_COMMIT_UNENDED).
 *   ABORTING   some node may still store into fresh slots: none is reused. ABORTED: each node that
 *              may has acknowledged the end of the transaction, or its incarnation has ended.
 *   SWITCHING  the new records are there, CLAIMED until their sources are in the limbo (until then
 *              their slots are named twice); words follow as fetches and evictions let go of them.
 *              A pair at its end: n == CATALOG_NO_RECORD, and its record STABLE.
 *
 * A new agent finds entries where an old one left them: WANTED, COMMITTED, SWITCHING, ABORTED go on
 * by themselves, CLAIMED and PREPARING become ABORTING.
 */
enum catalog_merge_phase {
	MERGE_FREE = 0,
	MERGE_WANTED,
	MERGE_CLAIMING,
	MERGE_CLAIMED,
	MERGE_PREPARING,
	MERGE_ABORTING,
	MERGE_ABORTED,
	MERGE_COMMITTED,
	MERGE_SWITCHING,
};

#define CATALOG_NO_RECORD UINT32_MAX

struct catalog_pair {
	uint32_t a, b; /* agent: ssids */
	uint32_t n;    /* runtime: of the new record, or CATALOG_NO_RECORD */
	uint32_t take; /* runtime: data positions that come from b; the others keep a's */
	uint32_t fresh[EC_M_MAX]; /* runtime: slots of the new parities */
	uint32_t crc[EC_M_MAX];   /* agent: of the new parities */
	uint32_t good;            /* agent: all of them are stored */
	uint32_t settled;         /* runtime: positions of n whose words were switched (merge.c) */
};

struct catalog_merge {
	_Atomic uint32_t phase; /* enum catalog_merge_phase */
	uint32_t group;
	uint32_t count; /* 1..CATALOG_MERGE_PAIRS */
	uint32_t reserved0;
	_Atomic uint64_t txid; /* grows within a catalog: header.merge_txid; 0 before PREPARING */
	_Atomic uint64_t since_ns; /* clock_now_ns of the last change of phase */
	struct catalog_pair pairs[CATALOG_MERGE_PAIRS];
};

/* One per runtime thread that may load words (DESIGN section 6, Epochs). Own cache line. */
struct catalog_thread {
	_Atomic uint64_t active; /* epoch entered, or 0 when outside */
	/*
	 * 1 + the group this thread may be storing into: set (seq_cst) before the group's state is
	 * looked at, cleared when the batch's records are published or given up. The agent closes a
	 * group (seq_cst) and then waits until no thread names it: from then on its set of records
	 * only shrinks.
	 */
	_Atomic uint32_t storing;
	uint32_t reserved0;
	char name[24];
	char pad[FM_CACHE_LINE - 40];
} FM_ALIGNED(FM_CACHE_LINE);

/* Counters only grow; gauges are current values. `top` computes rates. All relaxed atomics. */
struct catalog_stats {
	/* gauges, bytes */
	_Atomic uint64_t budget_bytes, near_bytes, staging_bytes, far_bytes, retained_bytes,
		dead_bytes;
	_Atomic uint64_t fresh_bytes;    /* near, not registered yet */
	_Atomic uint64_t metadata_bytes; /* words + records + slot tables that far spans cost */
	_Atomic uint64_t slots_used_bytes, slots_quarantined_bytes, far_capacity_bytes;
	/* forked children that read our far copies, and what waits for them to be reused */
	_Atomic uint64_t children, pinned_bytes;
	/* counters */
	_Atomic uint64_t faults, faults_zero, faults_rescued, faults_fetched, faults_joined;
	_Atomic uint64_t read_ahead;
	_Atomic uint64_t swap_in_pages, swap_out_pages, clean_evictions, staged_pages;
	_Atomic uint64_t degraded_reads, crc_mismatches, fetch_timeouts, store_failures, lost_pages;
	_Atomic uint64_t purged_pages, repacked_spansets, freed_spansets, move_busy, wp_faults;
	_Atomic uint64_t stall_ns;                  /* first touches paced to eviction */
	_Atomic uint64_t hedged_reads, hedged_wins; /* started beside a late read; came first */
	_Atomic uint64_t slow_reads;                /* went around a slow node from the start */
	_Atomic uint64_t evacuated_spansets, healed_spansets;
	_Atomic uint64_t forks,
		fork_ns; /* that far memory took part in; gates were closed so long */
	/* by the agent */
	_Atomic uint64_t repaired_columns, repaired_bytes, drained_columns, drained_bytes;
	_Atomic uint64_t scrubbed_bytes, scrub_mismatches, agent_starts;
	/* compaction: pairs made one and data slots that this freed (runtime); partial parities
	 * sent, transactions given up, pairs of which a node said no (agent) */
	_Atomic uint64_t merged_pairs, merge_freed_slots;
	_Atomic uint64_t merge_bytes, merge_aborts, merge_refusals;
	/* histograms, nanoseconds */
	struct hist fault_ns; /* message read -> page installed */
	struct hist fetch_ns; /* the network read alone */
	struct hist store_ns; /* one batch: encoding -> last acknowledgement */
	struct hist degraded_ns;
};

struct catalog_header {
	uint64_t magic;
	uint32_t version;
	uint32_t header_bytes; /* sizeof, a check on both sides' builds */
	uint64_t total_bytes;  /* of the memfd */
	uint64_t range_base;   /* address in the application */
	uint64_t range_pages;
	uint32_t records_max;
	uint32_t record_stride;  /* bytes */
	uint32_t code_k, code_m; /* wished for; a group may be narrower */
	uint32_t scheme;         /* enum config_scheme */
	uint64_t region_bytes;
	int32_t pid;         /* of the application */
	uint32_t evict_mode; /* enum config_evict in force: EVICT_MOVE or EVICT_WP */
	char command[64];    /* comm of the application */
	uint64_t started_ns; /* realtime */
	_Atomic uint64_t epoch FM_ALIGNED(FM_CACHE_LINE); /* starts at 1 */
	/* The oldest epoch that a forked child still reads at, or 0: records retired since then are
	 * not reused, and dead ones need their bytes. */
	_Atomic uint64_t pinned;
	_Atomic uint32_t groups_count FM_ALIGNED(FM_CACHE_LINE); /* entries ever filled */
	_Atomic uint32_t nodes_count;
	_Atomic uint32_t groups_wanted; /* the runtime raises it; the agent fills groups up to it */
	_Atomic uint32_t
		agent_state; /* 0 none, 1 serving, 2 out of memory: no node can lend more */
	_Atomic uint32_t records_used; /* records from here on were never used */
	/* A new agent goes on with these (farmem/agent): drawn by the first one. */
	uint8_t client[16];
	_Atomic uint64_t merge_txid; /* the last one drawn (agent) */
	/* The agent compacts and keeps up: repack leaves sparse spansets to it. 0: not so. */
	_Atomic uint32_t compacting;
};

struct catalog {
	struct catalog_header *header;
	struct catalog_node *nodes;
	struct catalog_group *groups;
	struct catalog_repair *repairs;
	_Atomic uint64_t *done; /* CATALOG_REPAIRS_MAX bitmaps of CATALOG_SLOTS_MAX bits */
	struct catalog_thread *threads;
	struct catalog_stats *stats;
	/* 1 + ssid of spansets that the agent wants rewritten (scrubbing found bad bytes), or 0.
	 * The agent fills (CAS from 0), the runtime's evictors take (exchange to 0). */
	_Atomic uint32_t *heal;
	struct catalog_merge *merges; /* CATALOG_MERGES_MAX */
	_Atomic uint64_t *words;
	uint8_t *records;
	uint64_t bytes; /* mapped: our own copy, the other side may write to the header's */
	int fd;
};

struct catalog_options {
	uint64_t range_base, range_pages;
	uint32_t records_max;
	uint32_t code_k, code_m;
	uint32_t scheme;
	uint64_t region_bytes;
	const char *command;
};

/* Creates the memfd (sealed against growing and shrinking) and maps it. 0 or -errno. No malloc. */
int catalog_create(struct catalog *catalog, const struct catalog_options *options) FM_MUST_USE;
/* Maps a memfd received from elsewhere after checking everything in its header. 0, -EPROTO, -errno.
 * Takes the descriptor over. */
int catalog_attach(struct catalog *catalog, int fd) FM_MUST_USE;
void catalog_close(struct catalog *catalog);
/* Bytes a record of the widest code k+m takes: 64 for 4+2. */
uint32_t catalog_record_stride(unsigned k, unsigned m);

static inline _Atomic uint64_t *catalog_done_bits(const struct catalog *catalog, uint32_t repair)
{
	return catalog->done + (uint64_t)repair * (CATALOG_SLOTS_MAX / 64);
}

/* Where a column's bytes are now; see struct catalog_column for how far it may be trusted. */
static inline struct catalog_place *catalog_cur(struct catalog_column *column)
{
	return &column->places[atomic_load_explicit(&column->generation, memory_order_acquire) & 1];
}

/* Its index into nodes, always within bounds. */
static inline uint32_t catalog_column_node(const struct catalog_column *column)
{
	return catalog_cur((struct catalog_column *)(uintptr_t)column)->node % CATALOG_NODES_MAX;
}

#define catalog_count(catalog_, field_, n_)                                                        \
	atomic_fetch_add_explicit(&(catalog_)->stats->field_, (uint64_t)(n_), memory_order_relaxed)

#endif
