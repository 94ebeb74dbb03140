/*
 * farmem/agent/supervisor.h: the agent's two processes, and what each may ask of the other.
 *
 *     agent_supervisor.c   the supervisor: holds what must outlive a worker, restarts it
 *     agent_spawner.c      its hands: processes of embedded nodes, their directories
 *     agent.c              the worker (gRPC): everything else
 *
 * The worker is a fork of the supervisor, so it finds all that is held in its own copy of struct
 * supervisor, descriptors under the same numbers; from then on the two talk over a SOCK_SEQPACKET
 * pair. A worker may die between any two messages; what it had sent by then counts.
 *
 *   worker -> supervisor   START (program, arguments, log), SIGNAL, ADOPT (node-INDEX is served by
 *                          a process that is not our child), KEEP (a runtime's connection,
 *                          catalog and life; text: its HELLO), DROP, END (with the tree's lock,
 * held) supervisor -> worker   STARTED (value: pid or -errno; a started one's ready pipe comes
 * along, an adopted one's does not), ENDED
 */
#ifndef FM_FARMEM_AGENT_SUPERVISOR_H
#define FM_FARMEM_AGENT_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "farmem/agent/agent.h"

#define SUPERVISOR_TEXT_MAX 4096 /* that of a HELLO */
#define SUPERVISOR_FDS_MAX 3

enum supervisor_kind {
	SUPERVISOR_START = 1,
	SUPERVISOR_SIGNAL,
	SUPERVISOR_ADOPT,
	SUPERVISOR_KEEP,
	SUPERVISOR_DROP,
	SUPERVISOR_END,
	SUPERVISOR_STARTED,
	SUPERVISOR_ENDED,
};

struct supervisor_message {
	uint32_t kind;
	uint32_t index; /* START, SIGNAL, ADOPT, STARTED, ENDED: member; KEEP, DROP: place */
	int32_t value;  /* SIGNAL: its number; STARTED: pid or -errno; ENDED: wait status, or -1 */
	uint32_t length;
	/* START: program, arguments, last its log, each with its NUL. KEEP: "name=value\n" lines */
	char text[SUPERVISOR_TEXT_MAX];
};

/* A runtime's descriptors. life: -1 if it gave none. */
struct supervisor_runtime {
	bool held;
	int connection, catalog, life;
	char text[SUPERVISOR_TEXT_MAX];
};

/* An embedded node's process; its directory is node-INDEX. */
struct supervisor_node {
	pid_t pid; /* 0: none */
	int pidfd; /* of one that is not our child; -1 */
	/* what the worker has not been told yet */
	bool tell_started, tell_ended;
	int32_t started_value, ended_value;
	int ready_fd; /* -1: none */
};

struct supervisor {
	char dir[MAILBOX_TREE_DIR_MAX];
	char self[4096]; /* directory of our program */
	int listener, signals;
	int owner_read, owner_write; /* nodes hold the one: its EOF is our end */
	struct agent_table *table;
	/* the worker */
	pid_t worker;
	int socket; /* to it, or its to us */
	uint64_t worker_started_ns, worker_due_ns;
	unsigned worker_deaths; /* in a row, each soon after its start */
	unsigned worker_starts;
	_Atomic uint32_t
		*deaths_left; /* how often AGENT_DIE may still kill, all workers together */
	bool adopted;         /* some node was here before us: it may hold what others wait for */
	bool ending;
	int lock; /* the tree's, from END on; -1: none */
	struct supervisor_runtime runtimes[AGENT_RUNTIMES_MAX];
	struct supervisor_node nodes[AGENT_MEMBERS_MAX];
};

/* ---- agent_supervisor.c ---- */
/* One message with up to SUPERVISOR_FDS_MAX descriptors. flags: MSG_DONTWAIT or 0. 0 or -errno. */
int supervisor_send(int socket, const struct supervisor_message *message, const int *fds,
	unsigned fds_count, int flags) FM_MUST_USE;
/* 0, -EAGAIN, -ECONNRESET. fds: those that came along, else -1. */
int supervisor_receive(
	int socket, struct supervisor_message *message, int fds[SUPERVISOR_FDS_MAX]) FM_MUST_USE;

/* The tree's lock, or -1 when somebody is connecting. */
int supervisor_lock_tree(const char *dir) FM_MUST_USE;

/* ---- agent_spawner.c ---- */
/* Starts a node's process. Its pid and ready pipe in *node, or -errno. */
int spawner_start(struct supervisor *supervisor, struct supervisor_message *message) FM_MUST_USE;
/* Finds the process that serves node-INDEX. Its pid and pidfd in *node, or -errno. */
int spawner_adopt(struct supervisor *supervisor, unsigned index) FM_MUST_USE;
void spawner_signal(struct supervisor *supervisor, unsigned index, int number);
/* Takes the end of a process that was `pid`. False: it is no node's. */
bool spawner_ended(struct supervisor *supervisor, pid_t pid, int status);
/* SIGINT to all, SIGKILL to those that stay; removes the directories of nodes that are gone. */
void spawner_end(struct supervisor *supervisor);
/* Does a living node serve this directory of the tree? It holds the lock there. */
bool spawner_dir_is_taken(const char *tree_dir, const char *name);

/* ---- agent.c ---- */
/* The worker, from its fork to its end. Its exit status. */
int worker_run(struct supervisor *supervisor);

#endif
