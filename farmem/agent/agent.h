/*
 * farmem/agent/agent.h: what the files of the agent share. One thread; everything is an event of
 * its loop.
 *
 *     agent.c           the worker: its loop, timers, start and end (supervisor.h: who starts it)
 *     agent_runtime.c   the programs' runtimes: mailbox messages, what is told to them
 *     agent_adopt.c     what an earlier worker or agent left: nodes, runtimes, their groups
 *     agent_nodes.c     membership: which nodes there are, which are up, keepalives
 *     agent_groups.c    groups: placement, reservation, release
 *     agent_embedded.c  nodes of our own on this machine; the supervisor starts them
 *     agent_repair.c    columns that are replaced; column.c is the catalog's side of it
 *     agent_rebuild.c   the calls that replace them; agent_throttle.c how fast
 *     agent_drain.c     columns that leave a node
 *     agent_evacuate.c  groups that are given up, because hosts are too few or enough again
 *     agent_scrub.c     reads everything now and then
 *     agent_compact.c   makes one spanset of two half-empty ones (compact.h)
 *     agent_stats.c     JSON for `farmem top`
 *
 * Words. A MEMBER is a place where a node is expected: an entry of --nodes, or an embedded node's
 * number. A NODE is one incarnation of a member: it has an index, the same in every runtime's
 * catalog, and is never up again once it is down. A member whose node restarted gets a new node.
 */
#ifndef FM_FARMEM_AGENT_AGENT_H
#define FM_FARMEM_AGENT_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "ec/ec.h"
#include "farmem/catalog.h"
#include "farmem/mailbox.h"
#include "rpc/ctl_client.h"
#include "rpc/ctl_memnode.h"

#define AGENT_MEMBERS_MAX 256
#define AGENT_RUNTIMES_MAX 256
#define AGENT_ATTEMPTS_MAX 2   /* groups being reserved at once, per runtime */
#define AGENT_TICK_NS NS_PER_S /* keepalives, retries */
#define AGENT_KEEPALIVE_TIMEOUT_NS NS_PER_S
#define AGENT_RESERVE_TIMEOUT_NS (10 * NS_PER_S)
#define AGENT_MISSED_MAX 5             /* keepalives without an answer until a node is given up */
#define AGENT_SETTLE_NS (3 * NS_PER_S) /* groups wait so long for members that may join yet */
#define AGENT_REFUSALS_MAX 6
#define AGENT_AVOID_NS (2 * NS_PER_S)   /* a member that refused a reservation is passed over */
#define AGENT_LINGER_NS (2 * NS_PER_S)  /* after the last runtime has gone */
#define AGENT_FIRST_NS (30 * NS_PER_S)  /* for the first runtime to come */
#define AGENT_RELEASE_NS (5 * NS_PER_S) /* for leases to be given back, on top of the linger */
/* A lost column waits so long for a host that could replace it; then its group is evacuated. */
#define AGENT_REPLACE_PATIENCE_NS (3 * NS_PER_S)
/* A member that went down so often within the window is not used for a pause that doubles. */
#define AGENT_FLAPS_MAX 3
#define AGENT_FLAP_WINDOW_NS (60 * NS_PER_S)
#define AGENT_QUARANTINE_FIRST_NS (30 * NS_PER_S)
#define AGENT_QUARANTINE_MAX_NS (960 * NS_PER_S)

/* Nodes that hold leases of programs that have not come back are kept for them: --orphan-keep */
#define AGENT_STRANGERS_NS (660 * NS_PER_S)
#define AGENT_TABLE_NAME "agent.nodes"
#define AGENT_LEFT_NS (60 * NS_PER_S) /* a runtime that left is remembered so long at most */

struct agent;

/* Something with a descriptor. `ready` may free the source. */
struct agent_source {
	int fd; /* -1: none */
	void (*ready)(struct agent_source *source, uint32_t events);
	struct agent *agent;
};

enum member_state {
	MEMBER_JOINING, /* not known yet, or not reachable: asked for Stats every tick */
	MEMBER_UP,
	MEMBER_SUSPECT, /* did not answer lately, or a runtime says so */
	MEMBER_ALIAS,   /* turned out to be another member's node under another name */
};

struct agent_member {
	struct agent *agent;
	unsigned index;
	char name[CTL_NAME_BYTES];
	char address[FABRIC_ENDPOINT_MAX]; /* of its control plane */
	struct ctl_client *client;         /* NULL while an embedded node is not running */
	enum member_state state;
	int node;               /* its present incarnation, or -1 */
	bool tried;             /* it did not answer: do not wait for it */
	bool said;              /* that it does not answer */
	uint64_t join_until_ns; /* groups wait for it so long */
	unsigned missed;        /* keepalives in a row */
	bool call_running;      /* a keepalive or Stats */
	bool check_again;       /* as soon as the running one has ended */
	struct ctl_load load;
	uint64_t reserving_bytes; /* asked for, not answered yet */
	uint64_t avoid_until_ns;  /* refused a reservation */
	bool avoid_busy;          /* not for want of memory */
	unsigned refusals;        /* in a row */
	unsigned parity_count;    /* parity columns it was given, ever */
	unsigned keepalive_cursor;
	/* agent_drain.c: asked for by name; its node says that it leaves */
	bool drain_asked, drain_said;
	/* detection: when it went down lately, and what came of it */
	uint64_t flaps_ns[AGENT_FLAPS_MAX];
	unsigned flaps_count, quarantines;
	uint64_t quarantined_until_ns;
	/* agent_repair.c */
	unsigned repairs_in, repairs_out; /* columns being rebuilt there; calls that read there */
	uint64_t repair_avoid_ns;         /* a rebuild went wrong there */
	unsigned repair_failures;
	/* leases to give back */
	struct fabric_capability *releases;
	unsigned releases_count, releases_capacity;
	bool release_running;
	/* embedded */
	struct agent_source ready_pipe;
	char dir[MAILBOX_TREE_DIR_MAX + 32];
	bool process_running;
	bool adopting, adopted; /* the supervisor looks, or looked, for a process not its child */
	uint64_t started_ns, restart_ns; /* restart_ns: when to start it again, or 0 */
	unsigned deaths;                 /* in a row, each soon after its start */
};

/* What all catalogs say about a node. */
struct agent_node {
	unsigned member;
	uint32_t state; /* enum catalog_node_state */
	uint32_t host;
	uint64_t incarnation;
	uint64_t down_since_ns;
	uint64_t rtt_ns;
	char host_id[CTL_NAME_BYTES];
	char name[CTL_NAME_BYTES];
	char endpoint[FABRIC_ENDPOINT_MAX];
};

/* What a member's next worker should not have to find out again. */
struct agent_memory {
	bool drain_asked, said;
	uint64_t flaps_ns[AGENT_FLAPS_MAX];
	unsigned flaps_count, quarantines;
	uint64_t quarantined_until_ns;
	unsigned deaths;
	struct ctl_load load;
};

/*
 * DIR/agent.nodes, mapped by every worker: the meaning of node indexes survives workers, and the
 * whole agent. Only what is sealed (nodes_count) can have been shown to anybody.
 */
struct agent_table {
	uint64_t magic;
	uint32_t version, bytes; /* sizeof */
	_Atomic uint32_t config_known;
	_Atomic uint32_t nodes_count;
	char config[4096]; /* HELLO of the first runtime: decides the membership */
	struct agent_node nodes[CATALOG_NODES_MAX];
	struct agent_memory members[AGENT_MEMBERS_MAX];
};

struct agent_column {
	uint16_t node;
	bool lost;
	struct fabric_capability capability;
};

struct agent_group {
	uint8_t k, m;
	bool retired; /* empty, its leases given back */
	struct agent_column columns[EC_N_MAX];
};

/* A program's runtime, or an asker of STATS: a connection that has not said HELLO. */
struct agent_runtime {
	struct agent_source source;
	bool attached; /* HELLO was good: the catalog is mapped */
	bool gone;     /* its connection has ended; freed with its last attempt */
	bool tell_nodes, tell_groups;
	bool asked;              /* WANT_GROUPS is not answered yet */
	bool full;               /* was told that no node can lend more */
	uint64_t fresh_until_ns; /* has not said yet what it is: the agent does not end on it */
	bool refill;             /* groups_fill is due: the loop does it */
	unsigned attempts_running;
	int place; /* in the supervisor's table; -1: not held there */
	/* Its program is gone, forked children of it still read what is far: when to look again. */
	bool outlived;
	int life; /* mapped in program and children (mailbox.h); -1: none */
	uint64_t look_ns, look_pause_ns;
	int64_t pid;
	uint8_t client[CTL_CLIENT_BYTES];
	uint8_t said_k, said_m; /* the code last spoken of */
	struct catalog catalog;
	struct fm_config config;
	struct option_code wish; /* copies: the catalog is the program's to write */
	uint64_t region_bytes;
	struct agent_group *groups; /* as in the catalog; with our own copy of the capabilities */
	unsigned groups_count, groups_capacity;
	/* agent_repair.c */
	struct repair_runtime *repair;
	/* agent_compact.c */
	struct compact_runtime *compact;
	/* text being sent to an asker */
	char *text;
	size_t text_bytes, text_sent;
};

struct agent {
	char dir[MAILBOX_TREE_DIR_MAX];
	char self[4096]; /* directory of our program: farmem-memnode is found from there */
	int epoll;
	struct supervisor *supervisor; /* as it was at our fork */
	struct agent_source listener, calls, orders;
	struct ctl_queue *queue; /* opened at the first HELLO */
	bool begun;              /* membership is there */
	bool embedded;
	bool stopping;           /* nobody is left, or the supervisor is gone */
	struct fm_config config; /* of the first runtime: decides the membership */
	uint64_t started_ns, tick_ns, settle_until_ns;
	uint64_t idle_since_ns; /* no runtime since; 0: there are some */
	struct agent_member members[AGENT_MEMBERS_MAX];
	unsigned members_count;
	struct agent_table *table;
	struct agent_node *nodes; /* CATALOG_NODES_MAX, in the table */
	unsigned nodes_count;
	struct agent_runtime *runtimes[AGENT_RUNTIMES_MAX];
	unsigned runtimes_count;
	unsigned processes_running; /* embedded nodes */
	unsigned placement;         /* grows with each group: rotates data positions over nodes */
	/* The supervisor's places of runtimes: taken; and since when their runtime has gone */
	bool places[AGENT_RUNTIMES_MAX];
	uint64_t left_ns[AGENT_RUNTIMES_MAX];
	unsigned left_count;
	struct repair_agent *repair;   /* agent_repair.c */
	struct scrub_agent *scrub;     /* agent_scrub.c */
	struct compact_agent *compact; /* agent_compact.c */
	struct load_agent *load;     /* agent_load.c; NULL: no node can be asked */
	bool load_refused;
};

/* ---- agent.c ---- */
/* Watches source->fd for reading. 0 or -errno. */
int agent_watch(struct agent *agent, struct agent_source *source, int fd) FM_MUST_USE;
void agent_watch_writing(struct agent_source *source, bool on);
/* Stops watching and closes the descriptor. */
void agent_unwatch(struct agent_source *source);
uint64_t agent_realtime_ns(void);
/* A runtime is to outlive us, says the supervisor's table from now on; or has gone. */
int agent_keep(struct agent_runtime *runtime, const char *text) FM_MUST_USE;
void agent_leave(struct agent_runtime *runtime);
/* To the supervisor. One that is gone shows as its socket's end. */
struct supervisor_message;
int agent_order(struct agent *agent, const struct supervisor_message *message);
/* Tests kill a worker at exact points: FARMEM_FAULTS=agent.die.PLACE=N, once per agent. */
#define AGENT_DIE(place_)                                                                          \
	do {                                                                                       \
		if (FAULT_POINT("agent.die." place_))                                              \
			agent_die();                                                               \
	} while (0)
void agent_die(void);

/* ---- agent_runtime.c ---- */
void runtime_accept(struct agent_source *listener, uint32_t events);
void runtime_close(struct agent_runtime *runtime);
/* Frees one that is gone and has no attempt left. */
void runtime_put(struct agent_runtime *runtime);
/* Sends what is still untold, tries groups again. Each tick, and after changes. */
void runtime_tell(struct agent_runtime *runtime);
/* Runtimes whose last forked child is gone by now. */
void runtime_bury_outlived(struct agent *agent, uint64_t now_ns);
/* One loud line: into the log and, as NOTICE, to the runtime (NULL: to all). */
void runtime_notice(struct agent *agent, struct agent_runtime *runtime, enum log_level level,
	const char *format, ...) FM_PRINTF(4, 5);
unsigned runtime_attached_count(const struct agent *agent);
/* The runtimes that the supervisor held for us. */
void runtime_restore_all(struct agent *agent);

/* ---- agent_adopt.c ---- */
/* Maps the tree's table, made if it is not there. 0 or -errno. */
int table_open(const char *dir, struct agent_table **table) FM_MUST_USE;
/* A new agent->nodes[] entry is whole: it may be shown. To be called before it is. */
void table_seal(struct agent *agent);
/* What is to be remembered of the members. */
void table_save(struct agent *agent);
/* Nodes, groups and client id of a catalog. 0, or -EPROTO: it contradicts itself or the table. */
int adopt_catalog(struct agent_runtime *runtime) FM_MUST_USE;
/* After nodes_begin: members get back the nodes they had. */
void adopt_members(struct agent *agent);
/* A runtime's groups are what the nodes' states say; its catalog shows all nodes. */
void adopt_show(struct agent_runtime *runtime);

/* ---- agent_nodes.c ---- */
/* Membership of the first runtime's configuration. 0 or -errno. */
int nodes_begin(struct agent *agent) FM_MUST_USE;
void nodes_tick(struct agent *agent, uint64_t now_ns);
/* Asks a member now (again, if it is being asked). */
void node_check(struct agent_member *member);
/* A runtime or we ourselves had trouble with it: SUSPECT until it answers. */
void node_suspect(struct agent_member *member);
/* For good. */
void node_down(struct agent_member *member, const char *reason);
/* All nodes into a new runtime's catalog. */
void nodes_show(struct agent *agent, struct agent_runtime *runtime);
/* True while a member may join any moment: groups should wait. */
bool nodes_settling(const struct agent *agent, uint64_t now_ns);

/* ---- agent_groups.c ---- */
/* The widest code for a number of hosts; see there. */
void groups_code(unsigned hosts, struct option_code wish, struct option_code *code);
/* Reserves until the runtime has the groups it wants, or says that it cannot. */
void groups_fill(struct agent_runtime *runtime);
/* The runtime is gone: all its leases go back. */
void groups_release(struct agent_runtime *runtime);
/* Columns on this node are lost, their groups closed. Returns how many groups. */
unsigned groups_lose(struct agent_runtime *runtime, unsigned node);
/* Would losing it too leave some group with more than m lost columns? */
bool groups_need(const struct agent *agent, unsigned node);
void member_release(struct agent_member *member, const struct fabric_capability *capability);
void member_flush_releases(struct agent_member *member);
/* May new columns be put there, room aside: not while it drains or is quarantined. */
bool member_is_usable(const struct agent_member *member, uint64_t now_ns);
bool member_is_draining(const struct agent_member *member);
/*
 * The best host for a column's replacement: up, with room, not used by the group's other columns.
 * NULL: none; *later: there is one, but not at this moment (it refused lately, or has enough
 * rebuilds to do).
 */
struct agent_member *groups_replacement(
	struct agent_runtime *runtime, unsigned group, unsigned position, bool *later);
/* The widest code that hosts and their room allow now. 0, -ENOMEM, -EAGAIN. */
int groups_code_now(struct agent_runtime *runtime, struct option_code *code, unsigned *hosts);
/* Its leases go back, the runtime has no use for it any more. */
void groups_retire(struct agent_runtime *runtime, unsigned group);
/* A lease on that node is ours no more: given back if the node is there. */
void groups_give_back(
	struct agent *agent, unsigned node, const struct fabric_capability *capability);

/* ---- agent_repair.c: has a timer of its own, begun by nodes_begin ---- */
/* 0 or -errno. */
int repair_begin(struct agent *agent) FM_MUST_USE;
/*
 * A runtime that an earlier agent (or worker) served has been adopted: its groups and the nodes are
 * as its catalog has them. Ends commits that were under way, goes on with active repairs (fenced
 * before their commit), gives back what was reserved and not used. To be called before
 * groups_lose() for any node of it. Changes runtime->groups where a commit is ended.
 */
void repair_adopt(struct agent_runtime *runtime);
/* Something changed (a column was lost, a node joined, drains): look now. */
void repair_poke(struct agent *agent);
/* The runtime is gone: ends its repairs. Called by groups_release, before the catalog is closed. */
void repair_forget(struct agent_runtime *runtime);

/* ---- agent_load.c: has a timer of its own, begun by the first load_tick that finds a node to ask
 * ---- */
#define LOAD_CLASS_MAX 15u
void load_tick(struct agent *agent);
/* A class of busyness, 0..LOAD_CLASS_MAX; what it rests on where asked for (0: not known). */
uint32_t load_of(const struct agent_member *member, uint64_t *delay_ns, uint32_t *in_flight);
uint32_t load_class(uint64_t delay_ns);

/* ---- agent_drain.c ---- */
/* Everything off the node of that name, or no more. 0, -ENOENT (no such node), -EALREADY. */
int drain_request(struct agent *agent, const char *name, bool begin) FM_MUST_USE;

/* ---- agent_embedded.c ---- */
int embedded_begin(struct agent *agent) FM_MUST_USE;
void embedded_tick(struct agent *agent, uint64_t now_ns);
/* STARTED and ENDED. */
void embedded_told(struct agent *agent, const struct supervisor_message *message, int fd);

/* ---- agent_scrub.c: on the timer of agent_repair.c ---- */
int scrub_begin(struct agent *agent) FM_MUST_USE;

/* ---- agent_stats.c ---- */
/* Malloc'ed JSON text, or NULL. */
char *stats_text(const struct agent *agent);

#endif
