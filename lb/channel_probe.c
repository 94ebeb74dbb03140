/*
 * lb/channel_probe.c: the probes of a channel: sent after calls, never waited for (but by the calls
 * of a policy that asks first). Callers: channel_call.c, channel_role.c, and the client for
 * answers.
 *
 * Every probe sent is answered or silent, after CHANNEL_PROBE_TIMEOUT_NS at the latest, while
 * somebody drives the channel. See lb/probe_table.h for the rest.
 */
#include <errno.h>

#include "base/clock.h"
#include "lb/channel.h"

/* A probe's tag: nothing, or the call that waits for it. */
static uint64_t tag_of(const struct call *call)
{
	return call == NULL ? CHANNEL_NO_CALL : (uint64_t)call->ask_serial << 32 | call->index;
}

bool channel_probe_send(
	struct fm_rpc_channel *channel, uint32_t server, const struct call *call, uint64_t now_ns)
{
	uint64_t cookie = probe_table_add(&channel->probes, server, tag_of(call), now_ns);
	struct probe_packet packet;
	int rc = -ENOBUFS;

	if (cookie != 0) {
		probe_ask(&packet, cookie);
		rc = urpc_client_send_foreign(channel->client, server, &packet, sizeof(packet));
	}
	if (rc == 0) {
		channel->counts.probes_sent++;
		return true;
	}
	if (cookie != 0)
		probe_table_drop(&channel->probes, cookie);
	channel->counts.probes_skipped++;
	/* Our own queues being full says nothing about the server. */
	if (rc != -EAGAIN && rc != -ENOBUFS)
		balancer_silent(channel->balancer, now_ns, server);
	return false;
}

void channel_probe_answer(void *context, uint32_t peer, const void *bytes, size_t length)
{
	struct fm_rpc_channel *channel = context;
	struct probe_entry probe;
	struct call *call;
	struct load load;
	uint64_t cookie;

	if (!probe_parse_answer(bytes, length, &load, &cookie) ||
		!probe_table_match(&channel->probes, cookie, peer, &probe)) {
		channel->counts.probes_stray++;
		return;
	}
	channel->counts.probes_answered++;
	balancer_sampled(channel->balancer, clock_now_ns(), peer, &load);
	if (probe.tag == CHANNEL_NO_CALL)
		return;
	call = &channel->calls[(uint32_t)probe.tag];
	if (call->list == &channel->asking && call->ask_serial == probe.tag >> 32)
		call_answered(channel, call);
}

void channel_probe_due(struct fm_rpc_channel *channel, uint64_t now_ns)
{
	uint32_t servers[LB_PROBES_MAX];
	unsigned count = balancer_probes(channel->balancer, now_ns, servers);

	for (unsigned i = 0; i < count; i++)
		(void)channel_probe_send(channel, servers[i], NULL, now_ns);
}

void channel_probe_expire(struct fm_rpc_channel *channel, uint64_t now_ns)
{
	struct probe_entry probe;

	while (probe_table_expire(&channel->probes, now_ns, &probe)) {
		channel->counts.probes_silent++;
		balancer_silent(channel->balancer, now_ns, probe.server);
	}
}

uint64_t channel_probe_next_ns(const struct fm_rpc_channel *channel)
{
	return FM_MIN(balancer_next_ns(channel->balancer), probe_table_next_ns(&channel->probes));
}
