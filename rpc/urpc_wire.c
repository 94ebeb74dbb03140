/*
 * rpc/urpc_wire.c: see rpc/urpc_wire.h. Pure: no I/O, no state; fuzzed by rpc/urpc_fuzz.c.
 */
#include "rpc/urpc_wire.h"

#include <string.h>

static bool wire_head_is_sound(const struct urpc_head *head)
{
	return head->version == URPC_VERSION && head->id != 0 &&
	       head->total_bytes <= URPC_MESSAGE_BYTES_MAX && head->unit >= URPC_UNIT_MIN &&
	       head->unit <= URPC_UNIT_MAX;
}

static bool wire_request_is_sound(const struct urpc_request_head *request)
{
	return request->head.flags == 0 &&
	       (request->head.kind == URPC_REQUEST || request->head.total_bytes == 0);
}

static bool wire_reply_is_sound(const struct urpc_reply_head *reply)
{
	return (reply->head.flags & ~URPC_REFUSED) == 0 && reply->status <= 0 &&
	       reply->status >= -URPC_STATUS_MAX;
}

enum urpc_verdict urpc_wire_parse(const void *bytes, size_t length, struct urpc_parsed *parsed)
{
	uint32_t magic;
	size_t head_bytes;

	if (length < sizeof(magic))
		return URPC_FOREIGN;
	memcpy(&magic, bytes, sizeof(magic));
	if (magic != URPC_MAGIC)
		return URPC_FOREIGN;
	if (length < sizeof(parsed->request))
		return URPC_MALFORMED;
	memcpy(&parsed->head, bytes, sizeof(parsed->head));
	if (!wire_head_is_sound(&parsed->head))
		return URPC_MALFORMED;
	switch (parsed->head.kind) {
	case URPC_REQUEST:
	case URPC_CANCEL:
		head_bytes = sizeof(parsed->request);
		memcpy(&parsed->request, bytes, head_bytes);
		if (!wire_request_is_sound(&parsed->request))
			return URPC_MALFORMED;
		break;
	case URPC_REPLY:
		head_bytes = sizeof(parsed->reply);
		if (length < head_bytes)
			return URPC_MALFORMED;
		memcpy(&parsed->reply, bytes, head_bytes);
		if (!wire_reply_is_sound(&parsed->reply))
			return URPC_MALFORMED;
		break;
	default:
		return URPC_MALFORMED;
	}
	parsed->pieces = urpc_wire_pieces(parsed->head.total_bytes, parsed->head.unit);
	if (parsed->head.piece >= parsed->pieces)
		return URPC_MALFORMED;
	parsed->offset = (size_t)parsed->head.piece * parsed->head.unit;
	parsed->payload = (const uint8_t *)bytes + head_bytes;
	parsed->payload_bytes = length - head_bytes;
	if (parsed->payload_bytes != urpc_wire_piece_bytes(parsed->head.total_bytes,
					     parsed->head.unit, parsed->head.piece))
		return URPC_MALFORMED;
	return URPC_OURS;
}
