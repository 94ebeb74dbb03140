/*
 * lb/channel_run.c: calling, starting, polling and cancelling: what the threads of a program do
 * with a channel (include/farmem/rpc.h).
 *
 * A sync call lends its thread to the channel while it waits: it drives, or sleeps while another
 * one drives. Its request and reply stay in the caller's memory; a started call's request is copied
 * into the slot's own place.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "lb/channel.h"

#define ID_INDEX_BITS 16
_Static_assert(CHANNEL_CALLS_MAX <= 1u << ID_INDEX_BITS, "an id holds generation and index");

static uint64_t after_ns(uint64_t now_ns, uint64_t wait_ns)
{
	return wait_ns > CLOCK_NEVER_NS - now_ns ? CLOCK_NEVER_NS : now_ns + wait_ns;
}

static int call_make(struct fm_rpc_channel *channel, const struct fm_rpc_call_options *options,
	struct call **out)
{
	uint64_t now_ns = clock_now_ns();
	struct call *call;

	if (options->req_bytes > FM_RPC_MESSAGE_BYTES_MAX)
		return -EMSGSIZE;
	if ((options->req == NULL && options->req_bytes > 0) ||
		(options->resp == NULL && options->resp_capacity > 0))
		return -EINVAL;
	call = channel_take_call(channel);
	if (call == NULL)
		return -EAGAIN;
	call->method = options->method;
	call->req = options->req;
	call->req_bytes = options->req_bytes;
	call->resp = options->resp;
	call->resp_capacity = options->resp_capacity;
	call->intended_ns = options->intended_ns != 0 ? options->intended_ns : now_ns;
	call->deadline_ns = after_ns(
		now_ns, options->deadline_ns != 0 ? options->deadline_ns : channel->deadline_ns);
	call->done = options->done;
	call->context = options->context;
	*out = call;
	return 0;
}

/* Drives, or sleeps while somebody else does, until it ended. */
static void call_wait(struct fm_rpc_channel *channel, struct call *call)
{
	bool ended = false;

	while (!ended && channel_get_role(channel, call, CLOCK_NEVER_NS, false)) {
		(void)channel_drive(channel, call, CLOCK_NEVER_NS);
		ended = call->state == CALL_ENDED;
		channel_leave_role(channel);
	}
}

static int channel_call(struct fm_rpc_channel *channel, const struct fm_rpc_call_options *options,
	size_t *resp_bytes)
{
	struct call *call;
	int rc = call_make(channel, options, &call);

	if (rc < 0)
		return rc;
	call->is_sync = true;
	if (!channel_order(channel, call, CALL_BEGIN)) {
		bool ended;

		(void)channel_drive(channel, call, CLOCK_NEVER_NS);
		ended = call->state == CALL_ENDED;
		channel_leave_role(channel);
		if (!ended)
			call_wait(channel, call);
	} else {
		call_wait(channel, call);
	}
	rc = call->status;
	*resp_bytes = call->resp_bytes;
	channel_free_call(channel, call);
	return rc;
}

int fm_rpc_call(struct fm_rpc_channel *channel, uint32_t method, const void *req, size_t req_bytes,
	void *resp, size_t *resp_bytes)
{
	size_t none = 0;
	struct fm_rpc_call_options options = {
		.method = method,
		.req = req,
		.req_bytes = req_bytes,
		.resp = resp,
		.resp_capacity = resp_bytes != NULL ? *resp_bytes : 0,
	};
	int rc;

	if (channel_calling == channel)
		return -EDEADLK;
	rc = channel_use(channel);
	if (rc < 0)
		return rc;
	rc = channel_call(channel, &options, resp_bytes != NULL ? resp_bytes : &none);
	channel_unuse(channel);
	return rc;
}

int fm_rpc_start(
	struct fm_rpc_channel *channel, const struct fm_rpc_call_options *options, uint64_t *id)
{
	struct call *call;
	int rc = channel_use(channel);

	if (rc < 0)
		return rc;
	rc = call_make(channel, options, &call);
	if (rc == 0) {
		uint8_t *copy = channel->requests + (size_t)call->index * FM_RPC_MESSAGE_BYTES_MAX;

		call->is_sync = false;
		if (call->req_bytes > 0)
			memcpy(copy, call->req, call->req_bytes);
		call->req = copy;
		if (id != NULL)
			*id = (uint64_t)call->generation << ID_INDEX_BITS | call->index;
		if (!channel_order(channel, call, CALL_BEGIN))
			channel_leave_role(channel);
	}
	channel_unuse(channel);
	return rc;
}

int fm_rpc_cancel(struct fm_rpc_channel *channel, uint64_t id)
{
	uint64_t index = id & ((1u << ID_INDEX_BITS) - 1);
	struct call *call;
	bool known;
	int rc;

	if (index >= channel->calls_max)
		return -ENOENT;
	rc = channel_use(channel);
	if (rc < 0)
		return rc;
	call = &channel->calls[index];
	known = channel_order_cancel(channel, call, (uint32_t)(id >> ID_INDEX_BITS));
	channel_unuse(channel);
	return known ? 0 : -ENOENT;
}

int fm_rpc_poll(struct fm_rpc_channel *channel, uint64_t wait_ns)
{
	uint64_t until_ns = after_ns(clock_now_ns(), wait_ns);
	unsigned ended = 0;
	int rc;

	if (channel_calling == channel)
		return -EDEADLK;
	rc = channel_use(channel);
	if (rc < 0)
		return rc;
	while (channel_get_role(channel, NULL, until_ns, false)) {
		bool over;

		ended += channel_drive(channel, NULL, until_ns);
		over = ended > 0 || clock_now_ns() >= until_ns ||
		       atomic_load_explicit(&channel->closing, memory_order_relaxed);
		channel_leave_role(channel);
		if (over)
			break;
	}
	channel_unuse(channel);
	return (int)ended;
}
