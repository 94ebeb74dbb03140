/*
 * memnode/data_server.h: serves reads and writes of leased regions to the fabric's clients, over
 * tcp and, to processes of the same host, by handing over memfds (shm). Used by main.c and by
 * tests.
 */
#ifndef FM_MEMNODE_DATA_SERVER_H
#define FM_MEMNODE_DATA_SERVER_H

#include <stdint.h>

#include "base/compiler.h"
#include "memnode/lease.h"

#define DATA_THREADS_MAX 16
#define DATA_CONNECTIONS_MAX 4096

struct data_server;

struct data_server_options {
	const char *tcp_address; /* "0.0.0.0:7401", "[::]:0", "host:0"; port 0: any. NULL or "": no
				    tcp */
	const char *unix_path;   /* socket for shm. NULL or "": no shm */
	struct lease_table *leases; /* outlives the server */
	unsigned threads;           /* 0: 2, or 1 on a single CPU */
	uint64_t spin_ns;           /* after activity, look again so long before sleeping; 0:
				       DATA_SPIN_NS_DEFAULT */
	uint32_t connections_max;   /* 0: DATA_CONNECTIONS_MAX */
	/* For tests of slow nodes: a thread sleeps so long before each reply on tcp. 0: never. */
	uint64_t slow_reply_ns;
};
#define DATA_SPIN_NS_DEFAULT 30000u

struct data_server_stats {
	uint32_t connections_count;
	uint64_t reads_count, writes_count, read_bytes, written_bytes;
	uint64_t fences_count;  /* FENCE answered */
	uint64_t refused_count; /* operations and capabilities answered -EACCES or -ERANGE */
	uint64_t dropped_count; /* connections cut for garbage, stalling, or to make room */
};

/* How busy the threads are at the moment; of shm clients they know nothing. */
struct data_load {
	uint32_t in_flight;        /* connections with requests, being served or waiting for it */
	uint64_t waiting_since_ns; /* when the longest of them was found ready; 0: none */
	uint32_t delay_ns;         /* how long the last one waited for others; 0 when long ago */
};

/*
 * Binds, listens and starts the threads. 0 or -errno: -EADDRINUSE, -EADDRNOTAVAIL, -EINVAL
 * (address), -EACCES... Nothing is left behind on failure. A stale socket file is replaced, a
 * living one is -EADDRINUSE.
 */
int data_server_open(
	const struct data_server_options *options, struct data_server **server) FM_MUST_USE;
/* Stops serving, cuts all connections, joins the threads, removes the socket file. NULL is fine. */
void data_server_close(struct data_server *server);
/* The tcp port in use, host byte order; 0 without tcp. */
uint16_t data_server_port(const struct data_server *server);
/* Clients connected at the moment. */
uint32_t data_server_connections(struct data_server *server);
void data_server_load(struct data_server *server, struct data_load *load);
void data_server_stats(struct data_server *server, struct data_server_stats *stats);

#endif
