/*
 * tests/sim/sim.h: the data path of the runtime in one thread, on a simulated fabric, clock and
 * pager, from a seed.
 *
 * The runtime's own sources run unchanged (hooks.h makes their atomics switching points); simulated
 * are what lies under them: the network (fabric.c), memory nodes (nodes.c), page tables (pager.c),
 * time and threads (coro.c), and what lies around them: the program (program.c), the agent
 * (agent.c, columns.c, with the real farmem/agent/column.c; merge.c and merge_nodes.c, with the
 * real compact_index.c and compact_tx.c) and the failures (chaos.c). check.c looks at everything at
 * once while all stand still. Failures injected are only those the design promises to survive
 * (DESIGN section 5), except in the scenario `beyond`, where loss must be told, never hidden.
 *
 * Everything random comes from one generator: a seed, a scenario and a commit repeat a run exactly.
 */
#ifndef FM_TESTS_SIM_SIM_H
#define FM_TESTS_SIM_SIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "farmem/agent/column.h"
#include "farmem/fault.h"
#include "farmem/scheme.h"
#include "rpc/fabric.h"

#define SIM_NODES_MAX 128  /* processes that ever lived; and entries of the catalog */
#define SIM_LEASES_MAX 512 /* per node, ever */
#define SIM_CALLS_MAX 32   /* Rebuilds at work */
#define SIM_ORPHAN_KEEP_NS (3 * NS_PER_S) /* unless the scenario has another idea */
#define SIM_CALL_ENTRIES 16               /* spansets in one */
#define SIM_STRIPES_MAX 2
#define SIM_HANDLERS_MAX 2 /* per stripe */
#define SIM_PROGRAMS_MAX 6
#define SIM_PAGES_MAX 4096
#define SIM_CHUNKS 8 /* parts of a page the program writes one by one */
#define SIM_CHUNK_BYTES (FM_PAGE_SIZE / SIM_CHUNKS)

/* Chances are per million of the operations they concern. */
struct sim_scenario {
	const char *name;
	const char *about;
	unsigned k, m;
	uint32_t scheme;      /* enum config_scheme */
	unsigned hosts_spare; /* hosts beyond k+m */
	unsigned stripes, handlers, programs;
	uint32_t pages; /* the program's, over all stripes */
	uint32_t budget_pages, retain_pages;
	uint32_t region_slots;
	uint32_t node_regions; /* regions a node has memory for */
	uint32_t records_max;
	unsigned on_full; /* enum config_on_full */
	/* network */
	uint64_t latency_ns;
	uint32_t drop, late, torn, delay, refuse;
	/* every so often, in nanoseconds; 0: never */
	uint64_t crash_every_ns, part_every_ns, slow_every_ns, flip_every_ns, poor_every_ns,
		fault_every_ns, pin_every_ns, drain_every_ns, agent_every_ns;
	/* Rebuild calls, per million of their spansets: take long; of calls: get no answer */
	uint32_t rebuild_slow, rebuild_mute;
	uint64_t orphan_keep_ns;
	uint64_t active_ns;  /* no more failures after so long; 0: when the steps are done */
	unsigned damage_max; /* columns of a group, hosts, at a time; 0: m */
	uint64_t away_ns;    /* dead hosts come back after at most so long; 0: two seconds */
	bool long_parts;     /* the network may be gone for longer than leases are kept */
	bool never_degraded; /* no read may be */
	bool beyond;         /* once, m+1 hosts of a group die */
	bool reuses;         /* the program often writes what was there before */
	bool purges;
	bool merges;            /* the agent compacts */
	uint32_t merge_trouble; /* per million of its messages: lost, late, repeated, each */
};

extern const struct sim_scenario sim_scenarios[];
extern const unsigned sim_scenarios_count;
/* What the table cannot say, and what the seed decides. */
void sim_scenario_adjust(struct sim_scenario *s);
extern const char *const sim_bug_names[];

/* Deliberate breakage, to prove that the checks can fail. */
enum sim_bug {
	BUG_NONE = 0,
	BUG_ACK_EARLY,       /* a write is acknowledged before it is stored */
	BUG_NO_FENCE,        /* a fence that stops nothing */
	BUG_NO_EPOCH,        /* nobody waits for readers */
	BUG_CLEAN_LIES,      /* any near duplicate passes for clean */
	BUG_LOST_WAKE,       /* installing a page sometimes wakes nobody */
	BUG_KEEP_BYTES,      /* a dropped page shows its old bytes at the next first touch */
	BUG_DONE_EARLY,      /* a slot passes for rebuilt before the node says so */
	BUG_NO_QUIET,        /* a column is replaced while somebody still stores into its group */
	BUG_REOPEN,          /* a group with a lost column takes spansets */
	BUG_LATE_REBUILD,    /* no fence though a Rebuild may still be at work: it meets slots used
				anew */
	BUG_LEAK_LEASE,      /* the old place of a column is not given back */
	BUG_MERGE_WATERMARK, /* a node forgets which transactions have ended */
	BUG_MERGE_UNACKED,   /* the agent takes an end for acknowledged that never got there */
	BUG_MERGE_TWICE,     /* a partial parity that comes twice is added twice */
	BUG_MERGE_KEEP,      /* the limbo gives back slots that the new spanset has */
	BUG_COUNT,
};

/* ---- coro.c: time, chance and threads ---- */
typedef void sim_body(void *argument);
struct sim_coro;

uint64_t sim_random(void);
uint64_t sim_below(uint64_t n); /* 0..n-1; n >= 1 */
bool sim_chance(uint32_t per_million);
uint64_t sim_mix(uint64_t v); /* not random: a hash */
void sim_sleep_ns(uint64_t ns);
/* Until sim_wake or the time. */
void sim_block(uint64_t until_ns);
void sim_wake(struct sim_coro *coro);
void sim_yield(void);
struct sim_coro *sim_self(void);
struct sim_coro *sim_spawn(const char *name, sim_body *body, void *argument);
/* Ends another coroutine where it stands; nothing is cleaned up. */
void sim_kill(struct sim_coro *coro);
/* The coroutine began (end: finished) something that must not take for ever. */
void sim_promise(const char *what, uint64_t detail);
void sim_promise_kept(void);
/* Runs until `done` says so. */
void sim_run(bool (*done)(void));
/* Prints what happened with seed and command, and ends the process. */
void sim_fail(const char *format, ...) FM_PRINTF(1, 2) FM_NORETURN;
void sim_say(const char *format, ...) FM_PRINTF(1, 2); /* with -v */

/* ---- nodes.c: memory nodes ---- */
#define SIM_SLOT_BYTES_MIN 1024u /* a page in 4 pieces */
struct sim_lease {
	struct fabric_capability capability; /* with the epoch in force */
	bool held;                           /* else: given back, its memory is gone */
	uint8_t *memory;
	uint64_t bytes;
	uint64_t renewed_ns;
	uint8_t *flipped; /* per slot: its bytes were flipped and not overwritten since */
	uint32_t group, pos;
};

struct sim_node {
	bool alive;  /* the process runs and has its memory */
	bool parted; /* the network to it is down for now */
	bool leaving;
	unsigned host;
	uint64_t incarnation;
	uint64_t slow_factor;
	uint64_t parted_ns; /* since */
	uint32_t leases_count, leases_held, leases_limit;
	struct sim_lease leases[SIM_LEASES_MAX];
};

/* A Rebuild: what the agent asked for, and what became of it. */
struct sim_call {
	bool used;
	bool taken;     /* a worker of the node is at it */
	bool abandoned; /* nobody waits for the answer */
	bool answered;
	uint8_t k, m, position, sources_count;
	uint32_t group, slot_bytes;
	struct catalog_place target, sources[EC_K_MAX];
	uint8_t source_positions[EC_K_MAX];
	unsigned count;
	struct column_entry entries[SIM_CALL_ENTRIES];
	int outcomes[SIM_CALL_ENTRIES]; /* 0, -errno, or 1 + position of a source with wrong bytes
					 */
};

/* Of a group's slots. */
uint32_t sim_slot_bytes(uint32_t group);
uint32_t sim_node_start(unsigned host); /* index, or SIM_NODES_MAX */
void sim_node_crash(uint32_t node);
void sim_node_part(uint32_t node, bool parted);
/* The process behind an entry of the catalog. */
struct sim_node *sim_node_of(uint32_t catalog_node);
/* A round trip to a process; 0 when it answered, else -errno. */
int sim_ask(uint32_t node, uint64_t deadline_ns);
struct sim_lease *sim_lease_find(uint32_t node, const struct fabric_capability *capability);
/* Of a place, if it may be used with that capability. */
struct sim_lease *sim_lease_at(const struct catalog_place *place);
struct sim_lease *sim_lease_of(uint32_t group, uint32_t pos);
void sim_lease_store(struct sim_lease *l, uint64_t offset, const uint8_t *from, uint64_t bytes);
/* What the agent asks nodes for: blocking, 0 or -errno. The place's node is one of the catalog. */
int sim_node_reserve(struct catalog_place *place, uint64_t bytes, uint32_t group, uint32_t pos);
int sim_node_release(const struct catalog_place *place);
int sim_node_fence(struct catalog_place *place);
/* False: the node says that this lease is not there any more. */
bool sim_node_renew(const struct catalog_place *place);
void sim_rebuild_main(void *argument); /* the nodes' workers */
extern struct sim_call sim_calls[SIM_CALLS_MAX];

/* ---- fabric.c: the network ---- */
void sim_fabric_open(void);
void sim_fabric_close(void);
void sim_fabric_node_crashed(uint32_t node);
void sim_fabric_node_parted(uint32_t node);
/* Writes land whose time has come; returns when the next one will. */
uint64_t sim_fabric_advance(void);

/* ---- pager.c: page tables ---- */
struct sim_page {
	bool present, protect, poisoned, pinned, shared;
};
struct sim_fault {
	uint32_t page;
	bool write_protected;
	struct sim_coro *coro;
};
void sim_pager_open(unsigned stripe, bool moves, uint32_t staging_slots);
void sim_pager_close(unsigned stripe);
struct pager *sim_pager(unsigned stripe);
struct sim_page *sim_page(uint32_t page);
uint8_t *sim_page_bytes(uint32_t page);
bool sim_staged(unsigned stripe, uint32_t slot);
/* Blocks the calling program until the access may be tried. False: SIGBUS. */
bool sim_page_access(uint32_t page, bool write);
/* The handlers' end of the queue. False: nothing there. */
bool sim_fault_read(unsigned stripe, uint32_t *page, bool *write_protected);
bool sim_faults_waiting(unsigned stripe);
void sim_handler_sleeps(unsigned stripe, struct sim_coro *handler);

/* ---- program.c ---- */
void sim_program_main(void *argument); /* its number */
uint32_t sim_program_page(
	uint32_t index); /* the index-th page of the program, as a page of the range */
uint32_t sim_program_index(uint32_t page);
/* A part of a page must read so: bytes are SIM_CHUNK_BYTES. */
bool sim_chunk_good(uint32_t index, unsigned chunk, const uint8_t *bytes);
bool sim_page_good(uint32_t index, const uint8_t *bytes);
bool sim_page_is_lost(uint32_t index);
void sim_page_lost(uint32_t index);

/* ---- agent.c, columns.c: the agent ---- */
void sim_agent_main(void *argument);
void sim_agent_start(void);
void sim_agent_kill(void);
/* Nodes on distinct hosts that could take a column of this group, or (SIM_NO_GROUP) of a new one.
 */
#define SIM_NO_GROUP UINT32_MAX
unsigned sim_agent_lenders(uint32_t group, uint32_t *nodes, unsigned most);
/* Columns anew, drains, evacuation: what an earlier agent left, what there is to do now. */
void sim_columns_open(void);
void sim_columns_round(void);

/* ---- merge.c, merge_nodes.c: compaction ---- */
enum sim_role { SIM_ROLE_NONE, SIM_ROLE_A, SIM_ROLE_B, SIM_ROLE_N };
struct sim_pair_view {
	uint32_t group, take, settled; /* as of struct catalog_pair */
};
void sim_merges_open(void);
void sim_merges_round(void);
void sim_merges_node_down(uint32_t node);
void sim_merges_check_calm(void);
enum sim_role sim_merge_part(uint32_t ssid, struct sim_pair_view *view);
void sim_merge_node_main(void *argument); /* the nodes' workers */

/* ---- chaos.c ---- */
void sim_chaos_main(void *argument);
/* Columns of a group whose bytes may be wrong or gone: never more than m of them, but in `beyond`.
 */
uint32_t sim_damage(uint32_t group);
/* Would the loss of all that this process holds, or is about to, leave every group within m? */
bool sim_may_lose_node(uint32_t process);
bool sim_may_lose(uint32_t group, unsigned pos);

/* ---- check.c ---- */
void sim_check_all(void);
void sim_check_calm(void);  /* all is well for a while: redundancy is back, no lease leaked */
void sim_check_empty(void); /* after everything was purged: nothing may be left */

/* ---- sim_test.c, sweep.c ---- */
struct sweep_report;
/* True when the run, in a process of its own, passed. */
bool sim_run_child(const struct sim_scenario *s, uint64_t seed);
int sim_sweep(const struct sim_scenario *scenario, uint64_t seed, bool full);
void sim_sweep_report(void); /* when no more failures come */

struct sim {
	struct sim_scenario scenario;
	uint64_t seed;
	uint64_t steps; /* the program's operations */
	bool moves, verbose;
	enum sim_bug bug;
	uint64_t now_ns;
	struct core core;
	struct stripe stripes[SIM_STRIPES_MAX];
	struct stripe *stripe_list[SIM_STRIPES_MAX];
	struct fault_handler *handlers[SIM_STRIPES_MAX * SIM_HANDLERS_MAX];
	unsigned handlers_count;
	struct sim_node nodes[SIM_NODES_MAX];
	uint32_t nodes_count;
	uint32_t node_of[CATALOG_NODES_MAX]; /* by entry of the catalog */
	struct sim_coro *agent;              /* NULL: none lives */
	bool unreported_loss_allowed;        /* m+1 hosts died: LOST may be met */
	/* standing still */
	bool park_programs, park_others, purge_all, programs_done;
	unsigned programs_parked, others_parked;
	uint64_t steps_done;
	const char *fault_text;      /* base/fault_point.h's syntax, armed when all is set up */
	struct sweep_report *report; /* or NULL */
	bool calm;                   /* no more failures: wind down */
	bool frozen;                 /* nobody else runs: a check is at work */
	bool poor;                   /* no node lends */
	bool finished;
	/* for the summary */
	uint64_t checks, crashes, parts, flips, lates, torns, drops, fences, purges, losses,
		switches, sigbus, agent_deaths, drains, revoked, commits, aborts, doubts, retired,
		evacuations;
};
extern struct sim sim;

#endif
