/*
 * lb/probe.h: asking a server how busy it is, without waking it.
 *
 * Server half: a load slot (rpc/load.h) that lies in a BPF array mapped into the server, and an
 * eBPF program on the way of incoming packets that answers probes from it. The same datagram is
 * answered by user space where BPF is refused: by the server's own socket, or by a responder
 * thread. Client half: make a question, check an answer. Both sides use probe_wire.h.
 *
 * Invariants:
 * 1. An answer is exactly as long as its question, goes to where the question came from, and
 *    carries its cookie: nothing to amplify, nothing to forge from outside.
 * 2. A source outside the allowed prefixes gets no answer.
 * 3. A stale slot answers LOAD_UNHEALTHY.
 * 4. A program left behind by a server that was killed is replaced by its successor at the same
 *    port, and until then answers LOAD_UNHEALTHY.
 */
#ifndef FM_LB_PROBE_H
#define FM_LB_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/load.h"

/* The datagram; questions and answers have the same size and shape. Little-endian. */
#define PROBE_BYTES 40u
#define PROBE_MAGIC 0x42504d46u /* "FMPB" */
#define PROBE_VERSION 1u
struct probe_packet {
	uint32_t magic;
	uint8_t version;
	uint8_t kind;    /* PROBE_ASK, PROBE_ANSWER */
	uint16_t flags;  /* LOAD_* in an answer, 0 in a question */
	uint64_t cookie; /* drawn by who asks, echoed */
	uint32_t epoch, delay_ns;
	uint64_t free_bytes;
	uint16_t in_flight;
	uint8_t reserved[6]; /* zero */
};
_Static_assert(sizeof(struct probe_packet) == PROBE_BYTES, "a contract with lb/probe.bpf.c");
#define PROBE_ASK 1u
#define PROBE_ANSWER 2u

/* --- wire (lb/probe_wire.c) --------------------------------------------------------------------
 */
void probe_ask(struct probe_packet *packet, uint64_t cookie);
/* Is it an answer, well-formed? Fills load and cookie. Any bytes, any length. */
bool probe_parse_answer(const void *bytes, size_t length, struct load *load, uint64_t *cookie);
/* User space's answer: PROBE_BYTES written to `answer`, or 0 when it is not a well-formed question.
 */
size_t probe_answer(const struct load_slot *slot, uint64_t now_ns, const void *bytes, size_t length,
	void *answer);

/* --- server half (lb/probe_server.c) -----------------------------------------------------------
 */
enum probe_mode {
	PROBE_AUTO, /* the best that works: tc, then user space */
	PROBE_TC,
	PROBE_XDP, /* native */
	PROBE_XDP_GENERIC,
	PROBE_USER, /* a responder thread with a socket of its own (port `user_port`) */
	PROBE_NONE, /* whoever owns the socket answers with probe_answer() */
};

struct probe_server_options {
	enum probe_mode mode;
	uint16_t port;       /* UDP port that questions come to: the server's own */
	const char *address; /* and the address: "10.0.0.1", "fd00::1"; NULL, "0.0.0.0", "::": all.
			      * One server per address, port and network namespace */
	const char *interfaces; /* "eth0,lo"; NULL: all that are up */
	const char *allow;      /* "10.0.0.0/8,192.168.1.7"; NULL: everybody */
	uint16_t user_port;     /* PROBE_USER; 0: port, but PROBE_AUTO then has no responder */
	int user_priority;      /* SCHED_FIFO priority of the responder; 0: ordinary */
	uint32_t epoch;         /* of the slot; 0: drawn */
};

struct probe_server;
/* 0; -EINVAL (a line was logged that names the field); -errno of what failed when a mode was asked
 * for by name. PROBE_AUTO always succeeds, and logs which mode it took and why not a better one. */
int probe_server_open(
	const struct probe_server_options *options, struct probe_server **server) FM_MUST_USE;
/* Detaches its programs. NULL is fine. */
void probe_server_close(struct probe_server *server);
struct load_slot *probe_server_slot(struct probe_server *server);
/* For the owner of the server's socket, which receives what the kernel leaves to user space: all
 * questions in the modes PROBE_USER and PROBE_NONE, unusual ones (IP options, VLANs) in the others.
 * probe_answer() that knows who asks (invariant 2) and counts. Any thread; `from`: the source. */
struct sockaddr;
size_t probe_server_answer(struct probe_server *server, const struct sockaddr *from,
	const void *bytes, size_t length, void *answer);
enum probe_mode probe_server_mode(const struct probe_server *server);
const char *probe_mode_name(enum probe_mode mode);
/* "auto", "tc", "xdp", "xdp-generic", "user", "none". False: no such mode. */
bool probe_mode_parse(const char *name, enum probe_mode *mode);

struct probe_server_stats {
	uint64_t answered, refused_source, malformed, stale;
};
void probe_server_stats(const struct probe_server *server, struct probe_server_stats *stats);

#endif
