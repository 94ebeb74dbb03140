/*
 * farmem/mailbox_start.h: starting the agent from inside somebody else's program, unnoticed by it.
 * Used by mailbox.c alone.
 */
#ifndef FM_FARMEM_MAILBOX_START_H
#define FM_FARMEM_MAILBOX_START_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

/*
 * The environment the process was started with, read back from the kernel: the program may change
 * its own `environ` at any time, and its strings may be far.
 */
struct mailbox_environment {
	char *text; /* NUL-terminated strings, one after another */
	size_t length;
	char **pointers; /* for execve, NULL-terminated; without LD_PRELOAD */
	unsigned count;
};

/* 0 or -errno; a process without /proc has an empty environment. No malloc. */
int mailbox_environment_open(struct mailbox_environment *environment) FM_MUST_USE;
void mailbox_environment_close(struct mailbox_environment *environment);
/* The value of a variable or NULL. */
const char *mailbox_environment_get(
	const struct mailbox_environment *environment, const char *name);

/*
 * Starts farmem-agent --dir tree_dir as nobody's child: no SIGCHLD, no inherited descriptors, its
 * own session, default signal handling. Returns when the agent accepts connections. 0; -ENOENT: no
 * such program where it is looked for; -ETIMEDOUT; -ECHILD: it ended instead (its own line was
 * logged).
 */
int mailbox_start_agent(const char *tree_dir, const struct mailbox_environment *environment,
	uint64_t deadline_ns) FM_MUST_USE;

#endif
