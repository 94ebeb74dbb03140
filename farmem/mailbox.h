/*
 * farmem/mailbox.h: what runtime and agent say to each other over the agent socket (unix,
 * SOCK_SEQPACKET).
 *
 * One message per packet, fixed size, host byte order (same machine, same build: `version` is
 * checked). The tables themselves are in the catalog; messages only say "look". Either side may go
 * away: EOF on the runtime's connection means its memory image is gone (exit, kill, exec): the
 * agent releases its leases, once no forked child reads them any more either: all of them have the
 * second memfd mapped, which nobody can lose (farmem/fork_token.c). SIGSTOP or a debugger closes
 * nothing. A worker of the agent that dies closes nothing either (farmem/agent/supervisor.h): the
 * next one says WELCOME again. EOF on the agent's side: all of it is gone; the runtime goes on
 * without new groups, connects again, which starts another agent, and says HELLO with the catalog
 * it has.
 *
 *   runtime -> agent   HELLO (by SCM_RIGHTS: the catalog's memfd, and one that tells whether forked
 *                      children still live), WANT_GROUPS, NODE_SUSPECT, BYE
 *   agent -> runtime   WELCOME (an agent serves you, or does so again), GROUPS (more groups than
 *                      before: value 0, or none to be had: -errno), NODES (states changed), WORK,
 *                      NOTICE (the agent has no terminal: the runtime says it)
 *   anybody -> agent   STATS: answered by text packets (JSON, at most MAILBOX_TEXT_MAX bytes each,
 *                      an empty packet ends it); CATALOG and DRAIN: answered by DONE; then the
 *                      connection may ask again
 */
#ifndef FM_FARMEM_MAILBOX_H
#define FM_FARMEM_MAILBOX_H

#include <stdint.h>

#define MAILBOX_VERSION 4u
#define MAILBOX_TEXT_MAX 32768
#define MAILBOX_FDS_MAX 2

enum mailbox_kind {
	MAILBOX_HELLO = 1,
	MAILBOX_WELCOME,
	MAILBOX_WANT_GROUPS,
	MAILBOX_GROUPS,
	MAILBOX_NODE_SUSPECT, /* value: node index */
	MAILBOX_NODES,
	MAILBOX_STATS,
	MAILBOX_BYE,
	MAILBOX_NOTICE, /* agent -> runtime: text for the user; value: 0 error, 1 warning */
	/* agent -> runtime: groups to evacuate or spansets to heal are marked in the catalog */
	MAILBOX_WORK,
	/* farmem drain -> agent: text: the node's name; value: 1 begin, 0 cancel. Answered by DONE
	 * (value 0, or -ENOENT no such node, -EALREADY). Progress is in STATS. */
	MAILBOX_DRAIN,
	/* farmem inspect -> agent: value: pid. Answered by DONE (0 with the catalog's memfd, read
	 * only by agreement, or -ESRCH). */
	MAILBOX_CATALOG,
	MAILBOX_DONE,
	/* runtime -> agent: merges in the catalog moved on; agent -> runtime says WORK for that */
	MAILBOX_MERGES,
};

struct mailbox_message {
	uint32_t version;
	uint32_t kind;
	int64_t value;
	/* HELLO: the configuration as text lines "name=value\n" (base/config.h), NUL-terminated.
	 * NOTICE: one line. */
	char text[4096];
};

#define MAILBOX_HEAD_BYTES 16 /* a message without text may be sent as just this */

/*
 * Where things are: <dir>/<tree>/agent.sock, agent.log, node-N/{ctl.sock,data.sock}.
 * dir: config.dir or its default; tree: FARMEM_TREE, set by `farmem run` or by the preload's
 * constructor. All return 0 or -ENAMETOOLONG/-errno; directories are made with mode 0700, by root
 * 0711: a program that began as root and gave that up still reaches the nodes' data sockets, where
 * the capability decides.
 */
int mailbox_tree_dir(const char *dir, const char *tree, char *path, unsigned size);
#define MAILBOX_TREE_DIR_MAX 88 /* bytes of such a path: node-N/data.sock below it must fit 108 */
/* Files of a tree. Who connects to the agent, and an agent that ends, hold the lock (flock). */
#define MAILBOX_SOCKET "agent.sock"
#define MAILBOX_LOCK "agent.lock"
/*
 * Connects to the tree's agent, starting one (program farmem-agent, found beside this library, in
 * ../libexec/farmem, or by FARMEM_BIN) under a lock when there is none. Called on a runtime thread:
 * no malloc; the agent is double-forked with its own session, no inherited descriptors, no SIGCHLD
 * to the program. Returns the socket or -errno.
 */
int mailbox_connect(const char *dir, const char *tree, uint64_t deadline_ns);
/* 0, -EAGAIN (its queue is full: later), -ECONNRESET, -errno. Never blocks. */
int mailbox_send(int socket, const struct mailbox_message *message, int fd_or_minus_1);
/* The same with up to MAILBOX_FDS_MAX descriptors. */
int mailbox_send_fds(
	int socket, const struct mailbox_message *message, const int *fds, unsigned fds_count);
/* 0, -EAGAIN (nothing there), -ECONNRESET (EOF), -EPROTO. *fd: a descriptor that came along, or -1.
 */
int mailbox_receive(int socket, struct mailbox_message *message, int *fd);
/* The same; fds: those that came along, then -1. */
int mailbox_receive_fds(int socket, struct mailbox_message *message, int fds[MAILBOX_FDS_MAX]);

#endif
