/*
 * rpc/fabric_verbs_connect.c: links by rdma_cm: address, route, queue pair, request with our
 * capability, answer with the region's key.
 *
 *     IDLE -> RESOLVING -> ROUTING -> CONNECTING -> UP -> OVER
 *                 any of them -----------------------------^
 *
 * Blocking is ours to do, not librdmacm's: the event channel is nonblocking, and we wait for it
 * until the deadline. One channel serves all of a queue's links; whoever waits takes the others'
 * events, too.
 *
 * Invariants
 *   1. Every event is acknowledged before anything else is done: rdma_destroy_id waits for that.
 *   2. The request carries link->unfenced: once the answer is here, nothing posted on the
 *      connection of that name can land any more (the node has destroyed its end).
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "rpc/fabric_verbs.h"

#define REJECTED_BY_CONSUMER 28 /* IBTA 12.6.7.2: the node itself refused, and says why */

/* The answer or refusal in an event's private data. 0 or -errno. */
static int link_hear(struct verbs_link *link, const struct rdma_conn_param *param)
{
	int r = wire_decode_verbs_answer(
		param->private_data, param->private_data_len, &link->answer);
	if (r == -EPROTONOSUPPORT)
		verbs_warn("verbs: %s speaks wire version %u, we speak %u", link->peer->endpoint,
			link->answer.version, WIRE_VERBS_VERSION);
	if (r)
		return -EPROTO;
	if (link->answer.status == WIRE_STATUS_BUSY)
		return -ECONNREFUSED;
	return wire_status_error(link->answer.status) == -EPROTONOSUPPORT
		       ? -EPROTO
		       : wire_status_error(link->answer.status);
}

static void link_over(struct verbs_link *link, int error)
{
	if (link->phase == VERBS_UP)
		verbs_fail(link, VERBS_NONE, 0, false);
	link->phase = VERBS_OVER;
	link->error = error;
}

static void link_rejected(struct verbs_link *link, const struct rdma_cm_event *event)
{
	if (event->status != REJECTED_BY_CONSUMER) {
		link_over(link, -ECONNREFUSED);
		return;
	}
	int r = link_hear(link, &event->param.conn);
	link_over(link, r ? r : -EPROTO);
}

static void link_event(struct verbs_link *link, const struct rdma_cm_event *event)
{
	switch (event->event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		link->phase = VERBS_ROUTING;
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		link->phase = VERBS_CONNECTING;
		break;
	case RDMA_CM_EVENT_ESTABLISHED: {
		int r = link_hear(link, &event->param.conn);
		if (r)
			link_over(link, r);
		else
			link->phase = VERBS_UP;
		break;
	}
	case RDMA_CM_EVENT_REJECTED:
		link_rejected(link, event);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_CONNECT_ERROR:
		link_over(link, event->status == -ETIMEDOUT ? -ETIMEDOUT : -ECONNREFUSED);
		break;
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		link_over(link, -ECONNRESET);
		break;
	default: /* TIMEWAIT_EXIT, ADDR_CHANGE (bonding moved): nothing follows from them */
		break;
	}
}

void verbs_events(struct verbs_part *part)
{
	struct rdma_cm_event *event;
	while (rdma_get_cm_event(part->channel, &event) == 0) {
		/* The private data goes with the acknowledgement, and link_event must come before
		 * it; it destroys nothing (invariant 1). */
		link_event(event->id->context, event);
		(void)rdma_ack_cm_event(event);
	}
}

/* Until the link has left this phase. 0 or -errno. */
static int link_wait(struct verbs_link *link, enum verbs_phase phase, uint64_t deadline_ns)
{
	struct verbs_part *part = link->part;
	for (;;) {
		verbs_events(part);
		if (link->phase == VERBS_OVER)
			return link->error;
		if (link->phase != phase)
			return 0;
		const uint64_t now = clock_now_ns();
		if (now >= deadline_ns)
			return -ETIMEDOUT;
		const uint64_t left = deadline_ns - now;
		const struct timespec timeout = {.tv_sec = (time_t)FM_MIN(left / NS_PER_S, 3600),
			.tv_nsec = (long)(left % NS_PER_S)};
		struct pollfd pollfd = {.fd = part->channel->fd, .events = POLLIN};
		(void)ppoll(&pollfd, 1, &timeout, NULL);
	}
}

/* At least 1: 0 is no time that the kernel takes, and link_wait knows that it is over. */
static int left_ms(uint64_t deadline_ns)
{
	const uint64_t now = clock_now_ns();
	return now >= deadline_ns ? 1 : (int)FM_MIN((deadline_ns - now) / NS_PER_MS + 1, 60000u);
}

static int address_error(int error)
{
	return error == ENODEV || error == ENETUNREACH || error == EHOSTUNREACH ? -ECONNREFUSED
										: -error;
}

static int link_resolve(struct verbs_link *link, uint64_t deadline_ns)
{
	struct sockaddr_storage address;
	socklen_t length;
	uint8_t timeout = VERBS_ACK_TIMEOUT;
	int r = fabric_parse_address(
		link->peer->endpoint + strlen(verbs_host->ops->prefix), &address, &length);
	if (r)
		return r;
	if (rdma_create_id(link->part->channel, &link->id, link, RDMA_PS_TCP))
		return -errno;
	/* iWARP has no such thing; then the device's own stays. */
	(void)rdma_set_option(
		link->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
	link->phase = VERBS_RESOLVING;
	if (rdma_resolve_addr(link->id, NULL, (struct sockaddr *)&address, left_ms(deadline_ns)))
		return address_error(errno);
	r = link_wait(link, VERBS_RESOLVING, deadline_ns);
	if (r)
		return r;
	if (!link->id->verbs)
		return -ECONNREFUSED;
	if (rdma_resolve_route(link->id, left_ms(deadline_ns)))
		return address_error(errno);
	return link_wait(link, VERBS_ROUTING, deadline_ns);
}

static int link_make_queue_pair(struct verbs_link *link)
{
	int r = verbs_device_find(link->part, link->id->verbs, &link->device);
	if (r)
		return r;
	struct ibv_qp_init_attr attributes = {.qp_type = IBV_QPT_RC,
		.send_cq = link->device->cq,
		.recv_cq = link->device->cq,
		.cap = {.max_send_wr = VERBS_QP_DEPTH,
			.max_recv_wr = 1,
			.max_send_sge = link->device->sge_max,
			.max_recv_sge = 1,
			.max_inline_data = VERBS_INLINE_BYTES}};
	if (rdma_create_qp(link->id, link->device->pd, &attributes)) {
		attributes.cap.max_inline_data = 0; /* not every device has it */
		if (rdma_create_qp(link->id, link->device->pd, &attributes))
			return -errno;
	}
	link->inline_max = FM_MIN(attributes.cap.max_inline_data, VERBS_INLINE_BYTES);
	return 0;
}

static int link_request(struct verbs_link *link, uint64_t deadline_ns)
{
	uint8_t bytes[WIRE_VERBS_REQUEST_BYTES];
	const struct wire_verbs_request request = {.version = WIRE_VERBS_VERSION,
		.capability = link->region->capability,
		.unfenced = link->unfenced};
	wire_encode_verbs_request(&request, bytes);
	struct rdma_conn_param param = {.private_data = bytes,
		.private_data_len = sizeof(bytes),
		.initiator_depth = (uint8_t)link->device->reads_max,
		.retry_count = VERBS_RETRIES,
		.rnr_retry_count = VERBS_RETRIES};
	if (verbs_host->fault(FABRIC_FAULT_CONNECT))
		return -ECONNREFUSED;
	if (rdma_connect(link->id, &param))
		return -errno;
	return link_wait(link, VERBS_CONNECTING, deadline_ns);
}

int verbs_connect(struct verbs_link *link, uint64_t deadline_ns)
{
	FM_ASSERT(!link->id);
	int r = link_resolve(link, deadline_ns);
	if (!r)
		r = link_make_queue_pair(link);
	if (!r)
		r = link_request(link, deadline_ns);
	if (r) {
		verbs_disconnect(link);
		return r;
	}
	link->connection = link->answer.connection;
	link->unfenced = 0; /* invariant 2 */
	link->address = link->answer.address;
	link->rkey = link->answer.rkey;
	return 0;
}

void verbs_disconnect(struct verbs_link *link)
{
	struct rdma_cm_id *id = link->id;
	if (!id)
		return;
	link->id = NULL;
	if (link->connection)
		link->unfenced = link->connection;
	link->connection = 0;
	link->phase = VERBS_IDLE;
	if (id->qp) {
		(void)rdma_disconnect(id); /* tells the node, if it hears */
		rdma_destroy_qp(id);
	}
	(void)rdma_destroy_id(id);
}
