/*
 * rpc/wire.h: what the data plane's connections (fabric_tcp, fabric_shm, memnode/data_*) say to
 * each other.
 *
 * Fixed little-endian layouts, encoded and decoded field by field; nothing is ever cast onto the
 * wire's bytes.
 *
 *   hello       32 B  magic u32 | version u16 | kind u8 | transport u8 | connection u64 |
 *                     incarnation u64 | status u32 | crc u32
 *   header      32 B  op u8 | flags u8 | status u16 | handle u32 | tag u64 | offset u64 |
 *                     length u32 | crc u32
 *   capability  40 B  key 16 | lease u64 | incarnation u64 | epoch u32 | region u32
 *   fence       48 B  capability 40 | connection u64
 *
 * The client says hello, the node says hello (drawing a connection id), then requests and replies.
 * Replies come in the order of the requests. crc is CRC32C over what stands before it.
 *
 * Payload after a header, in bytes:
 *
 *     op      fields used                 request  reply
 *     READ    handle, offset, length      0        length, whatever the status: so that a client
 *                                                  may receive straight into the reader's buffers
 *     WRITE   handle, offset, length      length   0
 *     ATTACH                              40       0; handle and, in offset, the region's bytes
 *     DETACH  handle                      0        no reply
 *     FENCE                               48       0
 *
 * Invariants
 *   1. A decode that returns 0 has checked every field: magic, version, crc, kind, op, reserved
 *      bits, lengths.
 *   2. Of the hello, magic, version, its size and the place and meaning of the crc never change, so
 *      that any two versions can refuse each other clearly (-EPROTONOSUPPORT here,
 *      WIRE_STATUS_VERSION in the reply).
 */
#ifndef FM_RPC_WIRE_H
#define FM_RPC_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/fabric.h"

#define WIRE_MAGIC 0x62666d66u /* "fmfb" */
#define WIRE_VERSION 1u
#define WIRE_HELLO_BYTES 32u
#define WIRE_HEADER_BYTES 32u
#define WIRE_CAPABILITY_BYTES 40u
#define WIRE_FENCE_BYTES 48u

enum wire_kind { WIRE_CLIENT = 1, WIRE_NODE = 2 };
enum wire_transport { WIRE_TCP = 1, WIRE_SHM = 2 };

enum wire_op { WIRE_READ = 1, WIRE_WRITE, WIRE_ATTACH, WIRE_DETACH, WIRE_FENCE };
#define WIRE_REPLY 0x80u /* or'ed to the op in replies */

/* Our own numbers: errno values differ between machines. */
enum wire_status {
	WIRE_STATUS_OK = 0,
	WIRE_STATUS_ACCESS,
	WIRE_STATUS_RANGE,
	WIRE_STATUS_NOMEM,
	WIRE_STATUS_PROTO,
	WIRE_STATUS_VERSION,
	WIRE_STATUS_BUSY,
	WIRE_STATUS_UNSUPPORTED,
	WIRE_STATUS_COUNT,
};

struct wire_hello {
	uint16_t version;
	uint8_t kind;         /* enum wire_kind */
	uint8_t transport;    /* enum wire_transport */
	uint64_t connection;  /* from the node: never 0 with WIRE_STATUS_OK; from a client: 0 */
	uint64_t incarnation; /* of the node; from a client: 0 */
	uint32_t status;      /* enum wire_status; from a client: 0 */
};

struct wire_header {
	uint8_t op; /* enum wire_op, with WIRE_REPLY in replies */
	uint16_t status;
	uint32_t handle;
	uint64_t tag; /* chosen by the client, repeated in the reply */
	uint64_t offset;
	uint32_t length;
};

void wire_encode_hello(const struct wire_hello *hello, uint8_t bytes[WIRE_HELLO_BYTES]);
/* 0; -EPROTO: not one of ours; -EPROTONOSUPPORT: ours, of another version (only hello->version is
 * set). */
int wire_decode_hello(const uint8_t bytes[WIRE_HELLO_BYTES], struct wire_hello *hello) FM_MUST_USE;

void wire_encode_header(const struct wire_header *header, uint8_t bytes[WIRE_HEADER_BYTES]);
/* 0 or -EPROTO. */
int wire_decode_request(
	const uint8_t bytes[WIRE_HEADER_BYTES], struct wire_header *header) FM_MUST_USE;
int wire_decode_reply(
	const uint8_t bytes[WIRE_HEADER_BYTES], struct wire_header *header) FM_MUST_USE;

void wire_encode_capability(
	const struct fabric_capability *capability, uint8_t bytes[WIRE_CAPABILITY_BYTES]);
void wire_decode_capability(
	const uint8_t bytes[WIRE_CAPABILITY_BYTES], struct fabric_capability *capability);
void wire_encode_fence(const struct fabric_capability *capability, uint64_t connection,
	uint8_t bytes[WIRE_FENCE_BYTES]);
void wire_decode_fence(const uint8_t bytes[WIRE_FENCE_BYTES], struct fabric_capability *capability,
	uint64_t *connection);

/*
 * What the two ends of a verbs connection tell each other in rdma_cm's private data. One connection
 * carries one lease: the client shows its capability in the request, the node answers with where
 * the region is and how it is addressed, or rejects with a status.
 *
 *   request     56 B  magic u32 | version u16 | kind u8 | 0 u8 | capability 40 | unfenced u64
 *   answer      48 B  magic u32 | version u16 | kind u8 | status u8 | connection u64 |
 *                     incarnation u64 | address u64 | bytes u64 | rkey u32 | 0 u32
 *
 * 56 bytes are all that rdma_cm lets a request carry; each end may be handed more than was sent
 * (InfiniBand's management datagrams have fixed sizes), never less. No crc: the datagrams have one.
 * Magic, version and their places never change.
 */
#define WIRE_VERBS_MAGIC 0x62766d66u /* "fmvb" */
#define WIRE_VERBS_VERSION 1u
#define WIRE_VERBS_REQUEST_BYTES 56u
#define WIRE_VERBS_ANSWER_BYTES 48u

struct wire_verbs_request {
	uint16_t version;
	struct fabric_capability capability;
	/* The client's last connection to this lease, whose writes may still land: the node ends it
	 * before it answers. 0: none. */
	uint64_t unfenced;
};

struct wire_verbs_answer {
	uint16_t version;
	uint8_t status;      /* enum wire_status */
	uint64_t connection; /* never 0 with WIRE_STATUS_OK */
	uint64_t incarnation;
	uint64_t address, bytes; /* of the region, as the node's device knows it */
	uint32_t rkey;
};

void wire_encode_verbs_request(
	const struct wire_verbs_request *request, uint8_t bytes[WIRE_VERBS_REQUEST_BYTES]);
/* Both: `length` as it came. 0; -EPROTO: not one of ours; -EPROTONOSUPPORT: ours, of another
 * version (only version, and of an answer the status, are set). */
int wire_decode_verbs_request(
	const uint8_t *bytes, size_t length, struct wire_verbs_request *request) FM_MUST_USE;
void wire_encode_verbs_answer(
	const struct wire_verbs_answer *answer, uint8_t bytes[WIRE_VERBS_ANSWER_BYTES]);
int wire_decode_verbs_answer(
	const uint8_t *bytes, size_t length, struct wire_verbs_answer *answer) FM_MUST_USE;

/* -errno of a status (0 of WIRE_STATUS_OK; -EPROTO of an unknown one), and the other way. */
int wire_status_error(uint32_t status);
uint16_t wire_status_of(int error);

#endif
