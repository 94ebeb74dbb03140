/*
 * apps/farmem_agents.h: the agents of this user's trees: finding them, asking them, telling them.
 * Used by `farmem top`, `nodes`, `drain` and `inspect`.
 *
 * An agent listens on <dir>/<tree>/agent.sock (farmem/mailbox.h). Directories whose agent has gone
 * refuse the connection and are passed over. What comes back is not trusted: sizes are bounded,
 * types are checked where they are used.
 */
#ifndef FM_APPS_FARMEM_AGENTS_H
#define FM_APPS_FARMEM_AGENTS_H

#include <cJSON.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/compiler.h"
#include "farmem/mailbox.h"

#define AGENTS_WAIT_MS 2000 /* for one answer */

struct agents_count {
	unsigned answered; /* visits that returned 0 */
	unsigned silent;   /* that have a socket, but no good answer came */
};

/*
 * Connects to the agent of each tree below dir (only of `tree`, when it is not NULL) and calls
 * visit, which returns 0, or -errno when the agent's answer was none. fd is closed afterwards. 0 or
 * -errno of dir itself; nothing there is not an error. count may be NULL.
 */
int agents_visit(const char *dir, const char *tree,
	int (*visit)(void *context, const char *tree, int fd), void *context,
	struct agents_count *count) FM_MUST_USE;
/* STATS: the answer, or NULL with *rc = -errno. */
cJSON *agents_stats(int fd, int *rc) FM_MUST_USE;
/* Sends a message and waits for DONE: its value, or -errno. *received: a descriptor, or -1. */
int64_t agents_order(int fd, const struct mailbox_message *order, int *received) FM_MUST_USE;

#endif
