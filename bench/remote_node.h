/*
 * bench/remote_node.h: regions on memory nodes of other machines, for benches: reserved through the
 * control plane, as the agent does it. Used by remote.c and store.c.
 *
 * A region that was attached to is kept for minutes without a keepalive (memnode/lease.h): longer
 * than any bench runs. It goes back to the node at the end, or by itself if the bench dies.
 */
#ifndef FM_BENCH_REMOTE_NODE_H
#define FM_BENCH_REMOTE_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/fabric.h"

#define REMOTE_NODES_MAX 20u
#define REMOTE_LIST_BYTES 1024u

struct remote_node {
	struct ctl_client *client;
	struct fabric_capability capability;
	char endpoint[FABRIC_ENDPOINT_MAX]; /* "verbs:10.1.2.3:7402" or "tcp:10.1.2.3:7401" */
};

/*
 * The first `count` nodes of a list "h1:7400,h2:7400", `bytes` reserved on each. 0, or what
 * bench_fail gave, with its line; what was reserved is given back. Starts gRPC: never fork
 * afterwards.
 */
int remote_open(struct remote_node *nodes, unsigned count, const char *list, bool verbs,
	uint64_t bytes) FM_MUST_USE;
/* Gives the regions back. Nothing may be attached to them. */
void remote_close(struct remote_node *nodes, unsigned count);

#endif
