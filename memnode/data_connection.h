/*
 * memnode/data_connection.h: one client's connection, and what the files of the data server share:
 *   data_server.c   listeners, threads, table of connections, time limits, fences
 *   data_tcp.c      the stream of requests and replies on a tcp connection
 *   data_shm.c      the messages on a unix connection
 *   data_attach.c   handles: capability checked once, lease entered for every operation
 *
 * Locks: connection.mutex (one at a time) -> server.slots_mutex
 *                                         -> the lease table's mutex
 */
#ifndef FM_MEMNODE_DATA_CONNECTION_H
#define FM_MEMNODE_DATA_CONNECTION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memnode/data_server.h"
#include "rpc/wire.h"

#define DATA_INPUT_BYTES 1024u /* headers received at a time */
#define DATA_REPLIES_MAX 32u   /* replies waiting on a connection; then it is not read from */
#define DATA_HANDLES_MAX LEASES_MAX

struct data_handle {
	struct lease *lease; /* NULL: free */
	uint32_t epoch;
	uint64_t bytes;
};

/* A reply to be sent: header, then payload_bytes from the region, or zeros when lease is NULL. */
struct data_reply {
	uint8_t header[WIRE_HEADER_BYTES];
	struct wire_header fields;
	struct lease *lease;
	uint32_t epoch;
	uint32_t payload_bytes;
	uint64_t offset;
};

enum data_phase {
	DATA_HELLO,   /* nothing heard yet */
	DATA_HEADER,  /* between requests */
	DATA_CONTROL, /* in the payload of ATTACH or FENCE */
	DATA_PAYLOAD, /* in the payload of WRITE */
};

struct data_counters {
	_Atomic uint64_t reads_count, writes_count, read_bytes, written_bytes, fences_count,
		refused_count, dropped_count;
};

struct data_connection {
	pthread_mutex_t mutex;
	_Atomic uint64_t id;       /* random, told to the client; 0: place free */
	_Atomic uint64_t sequence; /* counts up with accepts: tells who is oldest */
	struct data_server *server;
	struct data_counters *counters; /* of its thread */
	struct lease_table *table;
	int fd;
	int epoll;
	unsigned thread;
	uint64_t slow_reply_ns; /* see data_server.h */
	enum wire_transport transport;
	_Atomic bool attached; /* has ever presented a right capability */
	bool cut;              /* fenced or thrown out: nothing received may be used any more */
	bool blocked;          /* waiting for room to send */
	uint64_t accepted_ns;
	uint64_t moved_ns; /* last time bytes moved, or nothing was owed by the client */
	bool moved;

	struct data_handle *handles;
	uint32_t handles_count; /* places */
	uint32_t handles_used;

	enum data_phase phase;
	uint8_t input[DATA_INPUT_BYTES];
	uint32_t input_first, input_end; /* bytes received and not yet understood */
	struct wire_header request;      /* in DATA_CONTROL, DATA_PAYLOAD */
	uint32_t payload_done;
	uint16_t payload_status; /* of the WRITE so far */
	bool after_write;        /* the last request was one: probably the next is, too */

	struct data_reply replies[DATA_REPLIES_MAX];
	uint32_t replies_first, replies_count;
	uint32_t reply_sent; /* bytes of the first */
};

/* data_attach.c: all return a wire status. */
uint16_t data_attach(struct data_connection *connection, const struct fabric_capability *capability,
	uint32_t *handle);
void data_detach(struct data_connection *connection, uint32_t handle);
/* For READ and WRITE: finds the handle and checks the range. */
uint16_t data_check(const struct data_connection *connection, const struct wire_header *request,
	struct data_handle *handle);
/* Marks every lease attached as alive. */
void data_touch_all(struct data_connection *connection);
void data_detach_all(struct data_connection *connection);

/* data_tcp.c, data_shm.c: the socket may be readable (or writable). false: close the connection. */
bool data_tcp_serve(struct data_connection *connection);
bool data_shm_serve(struct data_connection *connection);

/* data_server.c */
/* What to answer to a hello. */
void data_answer_hello(
	const struct data_connection *connection, uint16_t status, uint8_t bytes[WIRE_HELLO_BYTES]);
uint16_t data_check_hello(
	const struct data_connection *connection, const uint8_t bytes[WIRE_HELLO_BYTES]);
/*
 * Cuts the connection of this id if it still is: when this returns, nothing received on it will be
 * stored. Lets go of the calling connection's mutex meanwhile: look at its `cut` afterwards.
 */
uint16_t data_fence(struct data_connection *connection, uint64_t id);
static inline void data_count(_Atomic uint64_t *counter, uint64_t n)
{
	/* One writer, its thread: no need for a locked add. */
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
		memory_order_relaxed);
}

#endif
