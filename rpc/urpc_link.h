/*
 * rpc/urpc_link.h: what carries datagrams: a socket (UDP, unix) or rings in shared memory.
 *
 * Used by urpc's client and server only. A link belongs to the thread that receives from it; send
 * may be called by several threads at once.
 *
 * Invariants:
 * 1. receive fills entries from 0 on and returns how many; the caller may exchange the buffer and
 *    the source of entries it was given, and of no others, before the next receive.
 * 2. An entry's arrival_ns lies between the moment the link was last seen empty and now, whatever
 *    the wall clock does.
 */
#ifndef FM_RPC_URPC_LINK_H
#define FM_RPC_URPC_LINK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/compiler.h"
#include "rpc/urpc_wire.h"

#define URPC_BATCH_MAX 32u /* datagrams received or sent by one call */
/* Without a deadline nearby a receive sleeps so long at a time; the load slot wants a refresh. */
#define URPC_TICK_NS 10000000ull

struct urpc_address {
	socklen_t length;
	/* the address of ours that it was sent to, for a server that listens on all of them */
	struct in6_addr local;
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct {
			uint16_t family, reserved[3]; /* AF_UNSPEC */
			uint64_t number;
		} ring; /* shm: which connection */
	};
};

bool urpc_address_equal(const struct urpc_address *a, const struct urpc_address *b);
/* A hash nobody can aim at: `key` is secret. */
uint64_t urpc_address_hash(const struct urpc_address *address, uint64_t key);

struct urpc_received {
	uint8_t *bytes; /* URPC_DATAGRAM_BYTES_MAX */
	struct urpc_address *source;
	size_t length;              /* more than URPC_DATAGRAM_BYTES_MAX: it was cut off */
#define URPC_RECEIVED_WAKE SIZE_MAX /* nothing: the link's own wake-up */
	uint64_t arrival_ns;
};

struct urpc_batch {
	struct urpc_received at[URPC_BATCH_MAX];
	uint64_t now_ns; /* in: the time, not older than this; out: the time after receiving */
	bool more;       /* out: others may wait behind these, unseen */
};

struct urpc_link;
struct urpc_link_ops {
	/* until_ns 0: what is there; else sleeps, until then or URPC_TICK_NS at most. Returns how
	 * many; -errno: the link is broken, or (-ECONNREFUSED) errors want a look. */
	int (*receive)(struct urpc_link *link, struct urpc_batch *batch, uint64_t until_ns);
	/* To msg_name each (NULL: whom the link is connected to). How many went; -EAGAIN: no room
	 * at the moment; else -errno of the first. */
	int (*send)(struct urpc_link *link, struct mmsghdr *messages, unsigned count);
	/* The next datagram that could not be delivered: its first bytes. Length, or 0: no more. */
	size_t (*next_error)(
		struct urpc_link *link, uint8_t *bytes, size_t size, struct urpc_address *to);
	/* Before a sleep that waits for `fd` from outside. True: do not sleep. NULL: not needed. */
	bool (*arm)(struct urpc_link *link);
	/* Sends to, and takes from, this one only: no route is looked up for each datagram. A
	 * connected link cannot be woken. `to` NULL: all again. NULL: not needed. */
	int (*connect)(struct urpc_link *link, const struct urpc_address *to);
	/* Makes a sleeping receive return; for other threads. */
	void (*wake)(struct urpc_link *link);
	void (*close)(struct urpc_link *link);
};

struct urpc_link {
	const struct urpc_link_ops *ops;
	uint32_t unit; /* bytes of a message per datagram */
	int family;    /* AF_INET, AF_INET6, AF_UNIX; shm: AF_UNSPEC */
	uint16_t port;
	bool connected;
	int fd; /* readable: something may be received */
};

/* "udp:host:port", "host:port", "unix:/path", "shm:/path". */
enum urpc_transport { URPC_UDP, URPC_UNIX, URPC_SHM };

/* 0 and where to; -EINVAL; -ENOENT, -EAGAIN of name resolution. `listen`: no host is all hosts. */
int urpc_address_parse(const char *text, bool listen, enum urpc_transport *transport,
	struct urpc_address *address) FM_MUST_USE;

/* rpc/urpc_socket.c. address: of the server; for a client only its family counts. */
int urpc_socket_open(
	const struct urpc_address *address, bool listen, struct urpc_link **link) FM_MUST_USE;

#endif
