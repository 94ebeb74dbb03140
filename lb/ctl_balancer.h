/*
 * lb/ctl_balancer.h: the balancer of lb/balancer.h over gRPC: one channel per server, because gRPC
 * core offers C programs no balancing of its own, and the choice among them above.
 *
 * What servers say of themselves comes with every reply (ORCA trailer, rpc/ctl_orca.h), and, where
 * a server answers probes, over UDP off the critical path. For programs that may link gRPC: agents,
 * tools. Thread-safe.
 */
#ifndef FM_LB_CTL_BALANCER_H
#define FM_LB_CTL_BALANCER_H

#include <stdint.h>

#include "base/compiler.h"
#include "lb/balancer.h"
#include "rpc/ctl_client.h"

#define CTL_BALANCER_SERVERS_MAX 256
#define CTL_BALANCER_RETRIES_MAX 8

struct ctl_balancer;

struct ctl_balancer_options {
	const char *const *addresses; /* gRPC: "host:port" or "unix:/path" */
	unsigned count;               /* 1..CTL_BALANCER_SERVERS_MAX */
	/* Where each answers probes: "host:port" (UDP), or NULL. The list may be NULL. */
	const char *const *probes;
	const char *policy; /* NULL: mew */
	uint64_t seed;
	double probes_per_rpc;
	uint64_t sample_age_ns;
	unsigned retries; /* on another server, when nobody listens at one */
};

/* 0; -EINVAL (a line was logged that names what is wrong); -ENOMEM; -errno. */
int ctl_balancer_open(
	const struct ctl_balancer_options *options, struct ctl_balancer **balancer) FM_MUST_USE;
/* No call may be running, but for those started, whose queues must be closed first. NULL is fine.
 */
void ctl_balancer_close(struct ctl_balancer *balancer);

/*
 * As ctl_client_call, at the server of the balancer's choice; *server (may be NULL) becomes its
 * index. -EHOSTUNREACH: no server is usable. -ETIMEDOUT also when it waited for room at the servers
 * all the time. The result wants ctl_result_clear in any case.
 */
int ctl_balancer_call(struct ctl_balancer *balancer, const struct ctl_request *request,
	struct ctl_result *result, uint32_t *server);

/* As ctl_client_start. Never waits: a policy that wants to ask first goes by what it knows;
 * -EAGAIN: every server has its fill. -EHOSTUNREACH, -ENOMEM: `done` is never called. */
int ctl_balancer_start(struct ctl_balancer *balancer, struct ctl_queue *queue,
	const struct ctl_request *request, ctl_done done, void *context) FM_MUST_USE;

void ctl_balancer_stats(struct ctl_balancer *balancer, struct balancer_stats *stats);

#endif
