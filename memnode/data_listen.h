/*
 * memnode/data_listen.h: the data server's listening sockets; used by data_server.c only.
 */
#ifndef FM_MEMNODE_DATA_LISTEN_H
#define FM_MEMNODE_DATA_LISTEN_H

#include <stdint.h>

#include "base/compiler.h"

/*
 * "0.0.0.0:7401", "[::]:0", "host:0". A nonblocking listening descriptor and the port in use (host
 * byte order), or -errno: -EINVAL no such form, -EADDRNOTAVAIL no such host, -EADDRINUSE.
 */
int data_listen_tcp(const char *address, uint16_t *port) FM_MUST_USE;
/*
 * A nonblocking listening SOCK_SEQPACKET descriptor, or -errno: -EADDRINUSE when something else
 * than a stale socket is there, -EINVAL when the path is empty or too long.
 */
int data_listen_unix(const char *path) FM_MUST_USE;

#endif
