/*
 * lb/probe_wire.c: the probe's datagram: making a question, answering one, reading an answer.
 *
 * Called by clients (lb/channel.c), by the owners of server sockets and the responder thread
 * (lb/probe_user.c), and by tests as the twin of lb/probe.bpf.c: both must answer the same
 * questions with the same bytes.
 *
 * Invariants:
 * 1. Any bytes of any length are fine; nothing is read before the length was checked.
 * 2. An answer is PROBE_BYTES long, as its question was, and is never taken for a question: two
 *    servers cannot be made to answer each other for ever.
 */
#include "lb/probe.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the datagram is copied as it lies");

void probe_ask(struct probe_packet *packet, uint64_t cookie)
{
	*packet = (struct probe_packet){
		.magic = PROBE_MAGIC,
		.version = PROBE_VERSION,
		.kind = PROBE_ASK,
		.cookie = cookie,
	};
}

/* Is it a probe of this version and kind, with nothing in the reserved bytes? */
static bool probe_read(const void *bytes, size_t length, uint8_t kind, struct probe_packet *packet)
{
	static const uint8_t zero[sizeof(packet->reserved)];

	if (length != PROBE_BYTES)
		return false;
	memcpy(packet, bytes, sizeof(*packet));
	return packet->magic == PROBE_MAGIC && packet->version == PROBE_VERSION &&
	       packet->kind == kind && memcmp(packet->reserved, zero, sizeof(zero)) == 0;
}

bool probe_parse_answer(const void *bytes, size_t length, struct load *load, uint64_t *cookie)
{
	struct probe_packet packet;

	if (!probe_read(bytes, length, PROBE_ANSWER, &packet))
		return false;
	*cookie = packet.cookie;
	*load = (struct load){
		.epoch = packet.epoch,
		.delay_ns = packet.delay_ns,
		.in_flight = packet.in_flight,
		.flags = packet.flags,
		.free_bytes = packet.free_bytes,
	};
	return true;
}

size_t probe_answer(const struct load_slot *slot, uint64_t now_ns, const void *bytes, size_t length,
	void *answer)
{
	struct probe_packet packet;
	struct load load;

	if (!probe_read(bytes, length, PROBE_ASK, &packet) || packet.flags != 0)
		return 0;
	load_read(slot, now_ns, &load); /* stale: LOAD_UNHEALTHY is the answer */
	packet = (struct probe_packet){
		.magic = PROBE_MAGIC,
		.version = PROBE_VERSION,
		.kind = PROBE_ANSWER,
		.flags = load.flags,
		.cookie = packet.cookie,
		.epoch = load.epoch,
		.delay_ns = load.delay_ns,
		.free_bytes = load.free_bytes,
		.in_flight = load.in_flight,
	};
	memcpy(answer, &packet, sizeof(packet));
	return sizeof(packet);
}
