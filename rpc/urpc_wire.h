/*
 * rpc/urpc_wire.h: the datagrams of urpc: their headers, and the check every one passes first.
 *
 * A message is cut into pieces of `unit` bytes, one datagram each; every datagram has the full
 * header. Little-endian machines only, like rpc/load.h. Used by urpc's client, server and fuzzer.
 *
 * Invariants:
 * 1. A header that urpc_wire_parse accepted describes a piece inside its message: piece <
 *    pieces <= URPC_PIECES_MAX, total_bytes <= URPC_MESSAGE_BYTES_MAX, and the datagram has exactly
 *    the bytes that this piece must have.
 * 2. Clocks of two machines are never compared: a request carries the time that remains.
 */
#ifndef FM_RPC_URPC_WIRE_H
#define FM_RPC_URPC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "rpc/urpc.h"

#define URPC_MAGIC 0x50524d46u /* "FMRP"; a probe begins with "FMPB" (lb/probe.h) */
#define URPC_VERSION 1u
#define URPC_UNIT_MIN 512u
#define URPC_UNIT_MAX 16384u
#define URPC_UNIT_UDP 1400u /* fits an Ethernet frame, with IPv6 and a tunnel around it */
#define URPC_PIECES_MAX (URPC_MESSAGE_BYTES_MAX / URPC_UNIT_MIN)
#define URPC_STATUS_MAX 4095
#define URPC_REMAINING_NEVER UINT32_MAX

enum urpc_kind { URPC_REQUEST = 1, URPC_REPLY, URPC_CANCEL, URPC_KINDS };

#define URPC_REFUSED 1u /* in a reply: overloaded, no work was done */

struct urpc_head {
	uint32_t magic;
	uint8_t version, kind, flags;
	uint8_t attempt; /* of a request: 0, 1, .. (mod 256); its reply says the same */
	uint64_t id;     /* drawn by the client, not 0 */
	uint32_t total_bytes;
	uint16_t piece, unit;
};

struct urpc_request_head {
	struct urpc_head head;
	uint32_t method;
	uint32_t remaining_us; /* until the caller's deadline */
	uint32_t age_us;       /* since the first attempt */
	uint32_t settled;      /* all ids before id - settled have ended at the client */
};

struct urpc_reply_head {
	struct urpc_head head;
	int32_t status; /* 0 or -errno */
	uint32_t epoch, delay_ns;
	uint16_t in_flight, load_flags;
	uint64_t free_bytes;
};
_Static_assert(sizeof(struct urpc_head) == 24, "wire");
_Static_assert(sizeof(struct urpc_request_head) == 40, "wire");
_Static_assert(sizeof(struct urpc_reply_head) == 48, "wire");

#define URPC_HEAD_BYTES_MAX 48u
#define URPC_DATAGRAM_BYTES_MAX (URPC_HEAD_BYTES_MAX + URPC_UNIT_MAX)

struct urpc_parsed {
	union {
		struct urpc_head head;
		struct urpc_request_head request; /* URPC_REQUEST, URPC_CANCEL */
		struct urpc_reply_head reply;
	};
	const uint8_t *payload; /* inside the datagram */
	size_t payload_bytes;
	size_t offset; /* of the payload in the message */
	unsigned pieces;
};

enum urpc_verdict { URPC_OURS, URPC_FOREIGN, URPC_MALFORMED };

/* Any bytes, any length. URPC_FOREIGN: it does not begin with our magic. */
enum urpc_verdict urpc_wire_parse(const void *bytes, size_t length, struct urpc_parsed *parsed);

static inline unsigned urpc_wire_pieces(size_t total_bytes, uint32_t unit)
{
	return total_bytes <= unit ? 1 : (unsigned)((total_bytes + unit - 1) / unit);
}

static inline size_t urpc_wire_piece_bytes(size_t total_bytes, uint32_t unit, unsigned piece)
{
	return FM_MIN((size_t)unit, total_bytes - (size_t)piece * unit);
}

/* Which pieces of a message have come. */
struct urpc_bitmap {
	uint64_t words[URPC_PIECES_MAX / 64];
	uint32_t count;
};

/* False: it was there already. piece < URPC_PIECES_MAX (invariant 1). */
static inline bool urpc_bitmap_add(struct urpc_bitmap *bitmap, unsigned piece)
{
	uint64_t bit = 1ull << (piece % 64);

	if (bitmap->words[piece / 64] & bit)
		return false;
	bitmap->words[piece / 64] |= bit;
	bitmap->count++;
	return true;
}

#endif
