/*
 * farmem/catalog.h: the shared-memory tables (one memfd) in which application and agent meet.
 *
 * The application's runtime creates the memfd, lays it out (catalog_create) and hands it to the
 * agent over the agent socket (farmem/mailbox.h); the agent maps it with catalog_attach. Everything
 * here is plain data with fixed layout: no pointers. Tables are sparse: only what is touched costs
 * memory.
 *
 *   header | nodes | groups | threads | stats | words (8 B per page) | records (record_stride each)
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
#include "base/hist.h"
#include "base/ids.h"
#include "ec/ec.h"
#include "rpc/fabric.h"

#define CATALOG_MAGIC 0x676f6c617461636dull
#define CATALOG_VERSION 1u
#define CATALOG_NODES_MAX 256
#define CATALOG_GROUPS_MAX 65536
#define CATALOG_THREADS_MAX 64

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
};

enum catalog_group_state {
	GROUP_NONE = 0,
	GROUP_OPEN,   /* takes new spansets */
	GROUP_CLOSED, /* takes none (a column is down, or draining); reads go on */
};

struct catalog_column {
	uint16_t node; /* index into nodes */
	uint16_t reserved0;
	/* Bytes this column holds may be trusted: cleared for good when its node goes DOWN. */
	_Atomic uint32_t lost;
	struct fabric_capability capability;
};

struct catalog_group {
	_Atomic uint32_t state; /* enum catalog_group_state */
	uint8_t k, m;
	uint16_t reserved0;
	uint32_t slot_count;         /* per column: region bytes / FM_PAGE_SIZE, at most 2^20 */
	_Atomic uint32_t used_slots; /* positions 0 in use: for `top` and placement */
	struct catalog_column columns[EC_N_MAX];
};

/* One per runtime thread that may load words (DESIGN section 6, Epochs). Own cache line. */
struct catalog_thread {
	_Atomic uint64_t active; /* epoch entered, or 0 when outside */
	char name[24];
	char pad[FM_CACHE_LINE - 32];
} FM_ALIGNED(FM_CACHE_LINE);

/* Counters only grow; gauges are current values. `top` computes rates. All relaxed atomics. */
struct catalog_stats {
	/* gauges, bytes */
	_Atomic uint64_t budget_bytes, near_bytes, staging_bytes, far_bytes, retained_bytes,
		dead_bytes;
	_Atomic uint64_t fresh_bytes;    /* near, not registered yet */
	_Atomic uint64_t metadata_bytes; /* words + records + slot tables that far spans cost */
	_Atomic uint64_t slots_used_bytes, slots_quarantined_bytes, far_capacity_bytes;
	/* counters */
	_Atomic uint64_t faults, faults_zero, faults_rescued, faults_fetched, faults_joined;
	_Atomic uint64_t read_ahead;
	_Atomic uint64_t swap_in_pages, swap_out_pages, clean_evictions, staged_pages;
	_Atomic uint64_t degraded_reads, crc_mismatches, fetch_timeouts, store_failures, lost_pages;
	_Atomic uint64_t purged_pages, repacked_spansets, freed_spansets, move_busy, wp_faults;
	_Atomic uint64_t stall_ns; /* first touches paced to eviction */
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
	uint64_t region_bytes;
	int32_t pid;         /* of the application */
	uint32_t evict_mode; /* enum config_evict in force: EVICT_MOVE or EVICT_WP */
	char command[64];    /* comm of the application */
	uint64_t started_ns; /* realtime */
	_Atomic uint64_t epoch FM_ALIGNED(FM_CACHE_LINE);        /* starts at 1 */
	_Atomic uint32_t groups_count FM_ALIGNED(FM_CACHE_LINE); /* entries ever filled */
	_Atomic uint32_t nodes_count;
	_Atomic uint32_t groups_wanted; /* the runtime raises it; the agent fills groups up to it */
	_Atomic uint32_t
		agent_state; /* 0 none, 1 serving, 2 out of memory: no node can lend more */
};

struct catalog {
	struct catalog_header *header;
	struct catalog_node *nodes;
	struct catalog_group *groups;
	struct catalog_thread *threads;
	struct catalog_stats *stats;
	_Atomic uint64_t *words;
	uint8_t *records;
	uint64_t bytes; /* mapped: our own copy, the other side may write to the header's */
	int fd;
};

struct catalog_options {
	uint64_t range_base, range_pages;
	uint32_t records_max;
	uint32_t code_k, code_m;
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

#define catalog_count(catalog_, field_, n_)                                                        \
	atomic_fetch_add_explicit(&(catalog_)->stats->field_, (uint64_t)(n_), memory_order_relaxed)

#endif
