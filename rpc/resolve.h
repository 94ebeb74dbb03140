/*
 * rpc/resolve.h: from a host's name to an endpoint the fabric takes. For agents and daemons: it
 * calls getaddrinfo, which allocates and may wait for a name server, so never in the application.
 */
#ifndef FM_RPC_RESOLVE_H
#define FM_RPC_RESOLVE_H

#include <stdint.h>

#include "base/compiler.h"
#include "rpc/fabric.h"

/*
 * host: a name, "10.1.2.3", "fd00::1" or "[fd00::1]". Fills in "tcp:10.1.2.3:7401" or
 * "tcp:[fd00::1]:7401", the resolver's first choice. 0; -ENOENT no such host; -EAGAIN the name
 * server does not answer; -EINVAL empty or too long; -ENOMEM.
 */
int resolve_endpoint(
	const char *host, uint16_t port, char endpoint[FABRIC_ENDPOINT_MAX]) FM_MUST_USE;

#endif
