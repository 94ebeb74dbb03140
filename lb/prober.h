/*
 * lb/prober.h: probes over a UDP socket of their own, for those whose requests travel by other
 * means (lb/ctl_balancer.c: gRPC; the agent). lb/channel.c sends its probes by the socket of its
 * requests.
 *
 * Not thread-safe. An answer counts only from the address that was asked, with its cookie
 * (lb/probe_table.h).
 */
#ifndef FM_LB_PROBER_H
#define FM_LB_PROBER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/load.h"

#define PROBER_UNDER_WAY_MAX 4096u

struct prober;

/* timeout_ns: longer without an answer is silence. Opens the socket. 0 or -errno. */
int prober_open(uint32_t servers_max, uint64_t timeout_ns, struct prober **prober) FM_MUST_USE;
/* NULL is fine. */
void prober_close(struct prober *prober);
/* Where to ask about a server: a name or a number, and a UDP port; again: another address. Calls
 * getaddrinfo. 0, -EINVAL (no such index), -ENOENT (no such host) or -EAGAIN (no name server). */
int prober_set(struct prober *prober, uint32_t server, const char *host, uint16_t port) FM_MUST_USE;
/* 0; -EDESTADDRREQ: has no address; -EAGAIN: too many are under way, or the socket is full; other
 * -errno: it cannot be reached. */
int prober_send(struct prober *prober, uint32_t server, uint64_t tag, uint64_t now_ns) FM_MUST_USE;
/* Readable when answers are there. */
int prober_fd(const struct prober *prober);

struct prober_answer {
	uint32_t server;
	uint64_t tag;
	uint64_t round_trip_ns;
	struct load load;
};
/* The next answer that is there; false: none. */
bool prober_take(struct prober *prober, uint64_t now_ns, struct prober_answer *answer);
/* The next one that was not answered in time; false: none. */
bool prober_take_silent(struct prober *prober, uint64_t now_ns, uint32_t *server);
/* When prober_take_silent may have one; CLOCK_NEVER_NS. */
uint64_t prober_next_ns(const struct prober *prober);

#endif
