/*
 * tests/soak/soak.h: what the files of the soak share.
 *
 * The soak runs programs that check their own data under farmem, with most of it far, and breaks
 * everything around them, in an order drawn from a seed, but never more than the code is made for.
 *
 *   soak.c          options, the loop, the end, the summary
 *   soak_process.c  starting processes, finding the companions nobody started for us
 *   soak_node.c     memory nodes: real ones over tcp, or those that an agent embeds (shm)
 *   soak_net.c      network namespaces, so that nodes can be cut off
 *   soak_program.c  the programs
 *   soak_chaos.c    the deck of strikes, what may be struck when, and undoing it
 *   soak_check.c    what must hold: redundancy, slots, leases, memory
 *   watched.c       catalogs
 *
 * One thread. Every tick looks at everything once; nothing blocks for longer than a tool that is
 * asked (farmem inspect, farmem drain) needs.
 *
 * Rule of the game (soak_chaos.c keeps it): a strike is dealt only when in every catalog every
 * group would still have k columns that are neither lost, nor on a node out of order, nor flipped.
 */
#ifndef FM_TESTS_SOAK_SOAK_H
#define FM_TESTS_SOAK_SOAK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "base/compiler.h"
#include "tests/soak/watched.h"

#define SOAK_NODES 8    /* tcp: 4+2, and two that may be missing */
#define SOAK_EMBEDDED 7 /* shm: what an agent starts at 4+2 */
#define SOAK_PLACES_MAX 16
#define SOAK_PROGRAMS_MAX 4
#define SOAK_FLIPS_MAX 16
#define SOAK_TICK_MS 20
#define SOAK_OUT_MAX 2                  /* hosts out of order at once: m of 4+2 */
#define SOAK_NOTICED_NS (30 * NS_PER_S) /* a death must be known by then */
#define SOAK_BEARS_NS (120 * NS_PER_S)  /* and redundancy back so far that a strike may be */
#define SOAK_WHOLE_NS (90 * NS_PER_S)   /* full redundancy, once there is peace */
#define SOAK_HEAL_NS (90 * NS_PER_S)    /* a flipped byte must be found and healed */
#define SOAK_ORPHAN_KEEP "20s"          /* leases that nobody could give back */
#define SOAK_LEASES_NS (40 * NS_PER_S)  /* leases must be back by then */
#define SOAK_GONE_NS (20 * NS_PER_S)    /* agents and embedded nodes have ended */
#define SOAK_WARM_NS (15 * NS_PER_S)    /* of a process, before its memory is judged */
/*
 * Memory is judged by its floor: the least of the last third of a life against the least of the
 * first. A node that rebuilds takes memory for that and gives it back (memnode/offload.h): in a
 * short life there may be no moment without.
 */
#define SOAK_LONG_NS (120 * NS_PER_S) /* lives from which a slope is judged */
#define SOAK_SLOPE_MAX_KIB_PER_MIN 1024.0
#define SOAK_GROWTH_MAX_KIB 32768.0 /* of shorter lives */

struct soak_options {
	double minutes;
	uint64_t seed;
	bool shm, netns, keep;
	bool beyond; /* breaks the rule of the game on purpose */
};

enum place_phase {
	PLACE_RUNNING,
	PLACE_STARTING, /* restarted, not ready */
	PLACE_DEAD,
	PLACE_STOPPED, /* SIGSTOP */
	PLACE_LEAVING, /* SIGTERM: it ends by itself */
	PLACE_CUT,     /* from everybody */
	PLACE_APART,   /* from one other node */
};

/* A host. On shm: a node that the agent of program `owner` embeds. */
struct place {
	unsigned index;
	int owner; /* program, or -1 */
	char name[64];
	pid_t pid; /* tcp only; shm: looked up */
	unsigned ctl_port;
	int ready_fd;
	char address[32];
	enum place_phase phase;
	uint64_t undo_ns;   /* when the strike is undone; 0: not by us */
	uint64_t out_ns;    /* it counts as out of order until then at least */
	uint64_t struck_ns; /* of a kill whose death must be noticed */
	uint64_t gone_incarnation[SOAK_PROGRAMS_MAX]; /* by program: the one that was killed */
	unsigned apart;                               /* index of the other */
	unsigned starts;
};

struct program {
	const char *name;
	unsigned index;
	pid_t pid;    /* of the program under farmem, 0: not running */
	pid_t helper; /* redis: the load generator, 0: ended */
	char dir[96], out[96], log[96];
	struct watched watched;
	bool watching;
	uint64_t cont_ns; /* SIGSTOPped until then */
	unsigned runs;
	uint64_t degraded, swap_in, repaired, drained, healed; /* of ended runs */
};

struct outstanding_flip {
	bool used;
	unsigned program;
	uint64_t since_ns;
	struct flip flip;
};

struct soak {
	struct soak_options options;
	char build[256], scratch[64], source[256];
	uint64_t started_ns, chaos_end_ns;
	uint64_t random;
	bool failed, over; /* over: no program is started again */
	struct place places[SOAK_PLACES_MAX];
	unsigned places_count;
	struct program programs[SOAK_PROGRAMS_MAX];
	unsigned programs_count;
	struct outstanding_flip flips[SOAK_FLIPS_MAX];
	unsigned strikes, audits;
	unsigned flips_done, flips_healed;
	double slope_worst, growth_worst;
	char slope_who[64];
	unsigned lives;
};
extern struct soak soak;

/* ---- soak.c ---- */
uint64_t soak_random(void);
uint64_t soak_below(uint64_t below);
/* Looks at everything once, and sleeps for a tick. */
void soak_tick(void);
/* A line of the timeline. */
void soak_say(const char *format, ...) FM_PRINTF(1, 2);
/* The same, and the soak has failed. */
void soak_fail(const char *format, ...) FM_PRINTF(1, 2);

/* ---- soak_process.c ---- */
struct start {
	const char *const *words; /* NULL-terminated */
	const char *out, *log;    /* files; NULL: /dev/null */
	int keep_fd;              /* inherited under its number, or -1 */
	const char *environment[4];
};
/* Its pid, or -1 said. */
pid_t process_start(const struct start *start);
/* Runs it to its end, at most so long. Its exit status, 128 + signal, or 124 when it was too slow.
 */
int process_run(const struct start *start, uint64_t timeout_ns);
/* Reaps without waiting: 0 still running, 1 ended with *status as wait has it. */
int process_reap(pid_t pid, int *status);
char *process_ending(int status, char *text, unsigned size);
/* Calls back for each process with this text among its arguments. */
void process_each(
	const char *text, void (*each)(void *context, pid_t pid, const char *name), void *context);
/* A supervisor's or a worker's name. */
bool process_is_agent(const char *name);
pid_t process_parent(pid_t pid);
bool process_argument_ends(pid_t pid, const char *end);
/* Anonymous resident bytes in KiB, or -1. */
double process_anonymous_kib(pid_t pid);

/* ---- soak_node.c ---- */
void nodes_begin(void);
void nodes_tick(uint64_t now_ns);
void nodes_end(void);
/* Starts it, on its old port if it had one. */
void node_start(struct place *place);
pid_t place_pid(const struct place *place);
/* "h:p,h:p,..." of all real nodes. */
void nodes_list(char *text, unsigned size);
/* Leases that all nodes hold, by their own word; -1 when one does not answer. */
int nodes_leases(void);

/* ---- soak_net.c ---- */
/* False with the reason why not. */
bool net_begin(const char **reason);
void net_end(void);
/* Words in front of a command that is to run at this place; returns how many. */
unsigned net_prefix(const struct place *place, const char **words);
void net_cut(const struct place *place, bool cut);
void net_apart(const struct place *place, const struct place *other, bool apart);

/* ---- soak_program.c ---- */
void programs_begin(void);
void programs_tick(uint64_t now_ns);
/* All of them have gone far. */
bool programs_far(void);
/* Until those have ended that do so by themselves; the soak goes on ticking. */
bool programs_wait(uint64_t timeout_ns);
/* Asks the others to end, and waits. */
void programs_end(void);
/* The agent's supervisor or worker, or 0. */
pid_t program_agent(const struct program *program, bool worker);

/* ---- soak_chaos.c ---- */
void chaos_begin(void);
/* Deals what is due. */
void chaos_tick(uint64_t now_ns);
/* Ends what has lasted long enough, in war and in peace. */
void chaos_undo_tick(uint64_t now_ns);
/* Everything is to be undone now. */
void chaos_end(void);
/* Does the soak know it to be out of order? For catalogs of program. */
bool place_is_out(const struct place *place, uint64_t now_ns);

/* ---- soak_check.c ---- */
void check_tick(uint64_t now_ns);
/* Waits for full redundancy in all catalogs. */
void check_whole(void);
/* farmem inspect of every program. stopped: while it stands still for a moment. */
void check_slots(bool stopped);
void check_leases(void);
void check_left_behind(void);
void check_memory_end(void);

#endif
