/*
 * farmem/agent/agent_repair.h: what the files about columns that move share.
 *
 *     agent_needs.c     which column next, and where to
 *     agent_repair.c    its life from Reserve to commit or abort
 *     agent_rebuild.c   its Rebuild calls: which spansets, from which sources, what came of them
 *     agent_throttle.c  how fast, so that the program keeps most of its throughput
 *     agent_drain.c     which nodes are to be left; agent_evacuate.c which groups
 *
 * A struct repair is one column being replaced, with its target. It lives as long as one of its
 * calls does: a runtime that goes away leaves it without one (runtime == NULL).
 */
#ifndef FM_FARMEM_AGENT_AGENT_REPAIR_H
#define FM_FARMEM_AGENT_AGENT_REPAIR_H

#include "farmem/agent/agent.h"
#include "farmem/agent/column.h"

#define REPAIR_JOBS_MAX CATALOG_REPAIRS_MAX /* known at once, of all runtimes */
#define REPAIR_WORKING_MAX 8                /* of them with calls in flight */
#define REPAIR_WORKING_BUSY 2               /* while a program is busy: each needs a new region */
#define REPAIR_IN_MAX 2                     /* with one node as their target */
#define REPAIR_CALLS_MAX 2                  /* in flight for a column: the node never idles */
#define REPAIR_BATCH_MAX 1024               /* spansets in a call */
#define REPAIR_BATCH_MIN 32
#define REPAIR_RETRIES_MAX 256 /* spansets with bad sources, waiting to be tried with others */
#define REPAIR_LOOK_MAX 65536  /* records looked at before other events have their turn */
#define REPAIR_TARGET_TRIES 3  /* failed calls to a target in a row */
#define REPAIR_BUSY_TRIES 12   /* refused by a target that is busy */
#define REPAIR_CALL_NS                                                                             \
	(17 * NS_PER_S) /* a node answers in 15 s (rpc/ctl_memnode.h), its rate apart */
#define REPAIR_QUIET_NS (2 * NS_PER_MS)        /* between looks at a group that is not quiet yet */
#define REPAIR_PAUSE_FIRST_NS (50 * NS_PER_MS) /* doubles while nothing comes of it */
#define REPAIR_PAUSE_MAX_NS (8 * NS_PER_S)
#define REPAIR_OWED_MAX 1024

enum repair_phase {
	REPAIR_RESERVING, /* a region is asked for; nothing is in the catalog yet */
	REPAIR_WORKING,
	REPAIR_FENCING, /* all is done, but a call may still be storing there */
	REPAIR_OVER,    /* committed or aborted; its last calls end */
};

struct repair_retry {
	struct column_entry entry;
	uint32_t bad; /* positions whose bytes are not what the record says */
};

struct repair {
	struct agent *agent;
	struct agent_runtime *runtime; /* NULL: gone */
	enum repair_phase phase;
	uint32_t group;
	uint8_t position, k, m;
	uint64_t region_bytes;
	bool ended;    /* the scan has seen all records */
	bool hopeless; /* fewer than k sources: not counted as working */
	bool doubt;    /* a call that ended without an answer may still store there */
	bool progress; /* something was done since the scan began */
	struct column_job job;
	struct agent_member *member; /* the target's */
	int node;
	bool held; /* capability is a lease */
	struct fabric_capability capability;
	unsigned calls_running; /* of any kind */
	unsigned target_failures;
	uint64_t not_before_ns, pause_ns;
	uint64_t begun_ns, reserve_ns, rebuilt_bytes;
	unsigned pending_count;
	struct column_entry pending[REPAIR_BATCH_MAX];
	unsigned retries_count;
	struct repair_retry retries[REPAIR_RETRIES_MAX];
};

/* What is remembered of a group between looks. */
struct repair_group {
	uint64_t not_before_ns, pause_ns; /* attempts to replace a column of it */
	uint64_t hostless_ns;             /* since when no host could replace its lost column */
	uint16_t heat_seen;               /* the catalog's, at the last look */
	uint32_t heat;                    /* lately read so often */
	bool hopeless_said, keep_said;
};

struct repair_runtime {
	struct repair_group *groups;
	unsigned groups_capacity;
	uint64_t lost_since_ns; /* redundancy; 0: all is there */
	uint64_t lost_bytes;    /* rebuilt since */
	uint64_t narrow_ns;     /* since when wider groups are possible */
	bool work;              /* WORK is to be sent */
};

enum throttle_slice {
	SLICE_RUN,
	SLICE_ENDING, /* no call is begun, but some are still under way */
	SLICE_ALONE,  /* none is: what does the program do alone? */
};

struct throttle {
	enum throttle_slice slice;
	bool busy;                     /* the program uses its far memory */
	bool first;                    /* slice of a repair */
	bool starved;                  /* it did nothing in the last RUN, unless it is idle */
	uint64_t events, bytes, at_ns; /* the program's, ours, when the slice began */
	uint64_t until_ns;             /* of the slice */
	uint64_t alone_ns;             /* when `usual` was measured */
	double usual;                  /* the program's events per second without rebuilding */
	double share, rate;            /* of the last slices, smoothed */
	double limit[2];               /* bytes per second: urgent, gentle; 0: not known yet */
};

struct repair_agent {
	struct agent *agent;
	struct agent_source timer;
	uint64_t armed_ns; /* when it fires; 0: not armed */
	uint64_t look_ns;  /* next look for columns to replace */
	bool poked;
	unsigned count;
	struct repair *repairs[REPAIR_JOBS_MAX];
	struct throttle throttle;
	uint64_t rebuilt_bytes; /* of all columns, ever */
	/* Leases on nodes that are down: theirs again, should the node turn out to live. */
	unsigned owed_count;
	struct fabric_capability owed[REPAIR_OWED_MAX];
};

/* ---- agent_repair.c ---- */
/* The column's replacement under way, or NULL. */
struct repair *repair_of(const struct agent_runtime *runtime, unsigned group, unsigned position);
struct repair_group *repair_group_at(struct agent_runtime *runtime, unsigned group);
/* A replacement begins: a region is asked for. It may be over at once. */
void repair_start(struct agent_runtime *runtime, unsigned group, unsigned position,
	struct agent_member *member);
/* One step of it, and as many as follow at once. May free it. */
void repair_advance(struct repair *repair);
/* Given up: the lease goes back, another place is looked for later. `avoid`: not on that node. */
void repair_abort(struct repair *repair, const char *reason, bool avoid);
/* A call to the target, or its Reserve or Fence, failed. */
void repair_target_failed(struct repair *repair, int error);
/* The node says that this lease is gone: if it is a target's, that is aborted. */
void repair_lease_lost(struct agent *agent, int node, uint64_t lease);
/* A node of this incarnation has come back: what was owed to it is given back. */
void repair_pay(struct agent_member *member, uint64_t incarnation);
/* A node went down. */
void repair_node_down(struct agent *agent, unsigned node);
/* A call of it has ended; true: it was the last of a repair that is over, which is freed. */
bool repair_call_ended(struct repair *repair);
/* Spansets are to be healed, groups to be emptied. */
void repair_send_work(struct agent_runtime *runtime);
unsigned repair_working_count(const struct agent *agent);
/* The timer fires then, or earlier. */
void repair_arm(struct agent *agent, uint64_t at_ns);

/* ---- agent_needs.c ---- */
/* Begins as many replacements as may be under way, the most needed first. */
void needs_look(struct agent *agent, uint64_t now_ns);
/* At regular intervals: which groups are read. */
void needs_watch_heat(struct agent_runtime *runtime);

/* ---- agent_rebuild.c ---- */
/* Begins calls while there is something to call for. True: the scan has ended and nothing is on its
 * way. */
bool rebuild_continue(struct repair *repair, uint64_t now_ns);

/* ---- agent_throttle.c ---- */
/* The first of some repairs begins. */
void throttle_begin(struct agent *agent, uint64_t now_ns);
void throttle_look(struct agent *agent, uint64_t now_ns, unsigned calls_running);
bool throttle_allows(const struct agent *agent);
/* Bytes per second that are rebuilt at most; 0: no limit. */
uint64_t throttle_limit(const struct agent *agent);
/* How many columns are worked at together, unless their groups have nothing left to lose. */
unsigned throttle_columns(const struct agent *agent);
/* For one call: bytes per second (0: no limit), and how many spansets it should have. */
uint64_t throttle_call(const struct agent *agent, unsigned *spansets);

/* ---- agent_drain.c ---- */
void drain_tick(struct agent *agent, uint64_t now_ns);
/* Is the column to be moved, though it is well? */
bool drain_wants(const struct agent_runtime *runtime, unsigned group, unsigned position);
/* The node said so in a keepalive, or no more. */
void drain_said(struct agent_member *member, bool draining);

/* ---- agent_evacuate.c ---- */
void evacuate_tick(struct agent *agent, uint64_t now_ns);
/* No host can replace a column of the group, for long enough. */
void evacuate_group(struct agent_runtime *runtime, unsigned group);

/* ---- agent_scrub.c ---- */
void scrub_tick(struct agent *agent, uint64_t now_ns);
void scrub_forget(struct agent_runtime *runtime);

#endif
