/*
 * rpc/fabric_verbs.c: the fabric over RDMA: libibverbs and librdmacm, reliable connections,
 * one-sided READ and WRITE, the memory node's CPU asleep. The door of the module
 * libfarmem-verbs.so (rpc/fabric_module.h).
 *
 * Endpoint verbs:ADDRESS:PORT. See rpc/fabric_verbs.h for links, peers and devices.
 *
 * Called through rpc/fabric.c only. No locks: a queue belongs to one thread. What is shared between
 * queues is inside libibverbs and librdmacm, which lock.
 *
 * Invariants
 *   1. A region is up exactly while its link has a queue pair that has seen no error.
 *   2. The name of a broken link's connection is kept (unfenced) until the node has answered a
 *      request that carried it: no region comes up before that.
 */
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "rpc/fabric_verbs.h"

static const struct fabric_ops verbs_ops;
FM_BUILD_ASSERT(sizeof(struct verbs_region) <= FABRIC_REGION_CELL_BYTES, "fits a region cell");

/* Sets up this thread's character tables in the module's own libc: threads made by the other libc
 * have none here, and isdigit would crash. */
static void verbs_enter(void)
{
	(void)uselocale(LC_GLOBAL_LOCALE);
}

static struct verbs_region *verbs_region_of(struct fabric_region *region)
{
	return FM_CONTAINER_OF(region, struct verbs_region, head);
}

/* ---- a queue's part ---- */

#define LINKS_BYTES ((size_t)FABRIC_REGIONS_MAX * sizeof(struct verbs_link))

static int part_open_channel(struct verbs_part *part)
{
	part->channel = rdma_create_event_channel();
	if (!part->channel)
		return errno == ENOENT || errno == ENODEV ? -EOPNOTSUPP : -errno;
	const int flags = fcntl(part->channel->fd, F_GETFL);
	return fcntl(part->channel->fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static void part_free(struct verbs_part *part)
{
	if (part->channel)
		rdma_destroy_event_channel(part->channel);
	mem_unmap(part->links, LINKS_BYTES);
	mem_unmap(part, part->bytes);
}

static int part_open(struct fabric_queue *queue, struct verbs_part **out)
{
	struct verbs_part *part = fabric_part(queue, &verbs_ops);
	*out = part;
	if (part)
		return 0;
	const uint32_t depth = fabric_depth(queue);
	const size_t bytes = sizeof(*part) + depth * sizeof(struct verbs_op);
	part = mem_map(bytes);
	if (!part)
		return -ENOMEM;
	part->bytes = bytes;
	part->queue = queue;
	part->ops_count = depth;
	part->ops_free = part->links_free = part->unsent = VERBS_NONE;
	part->next_deadline_ns = CLOCK_NEVER_NS;
	part->links = mem_map(LINKS_BYTES);
	int r = part->links ? part_open_channel(part) : -ENOMEM;
	if (r) {
		part_free(part);
		return r;
	}
	fabric_part_set(queue, &verbs_ops, part);
	*out = part;
	return 0;
}

static struct verbs_peer *peer_find(struct verbs_part *part, const char *endpoint)
{
	struct verbs_peer *free_peer = NULL;
	for (uint32_t i = 0; i < part->peers_used; i++) {
		struct verbs_peer *peer = &part->peers[i];
		if (peer->links_count && strcmp(peer->endpoint, endpoint) == 0)
			return peer;
		if (!peer->links_count && !free_peer)
			free_peer = peer;
	}
	if (!free_peer && part->peers_used < FABRIC_PEERS_MAX)
		free_peer = &part->peers[part->peers_used++];
	if (free_peer)
		memcpy(free_peer->endpoint, endpoint,
			strlen(endpoint) + 1); /* its length was checked */
	return free_peer;
}

/* As many links as regions, so there always is one. */
static struct verbs_link *link_take(struct verbs_part *part)
{
	struct verbs_link *link;
	uint32_t generation = 0;
	if (part->links_free != VERBS_NONE) {
		link = &part->links[part->links_free];
		part->links_free = link->next_free;
		generation = link->generation;
	} else {
		FM_ASSERT_LT(part->links_used, FABRIC_REGIONS_MAX);
		link = &part->links[part->links_used++];
	}
	memset(link, 0, sizeof(*link));
	link->part = part;
	link->generation = generation + 1;
	link->first = link->last = link->unsent = link->next_unsent = VERBS_NONE;
	return link;
}

static void link_give(struct verbs_link *link)
{
	struct verbs_part *part = link->part;
	if (link->failed)
		part->links_failed--;
	link->failed = false;
	verbs_disconnect(link);
	link->peer->links_count--;
	link->peer = NULL;
	link->next_free = part->links_free;
	part->links_free = (uint32_t)(link - part->links);
}

/* ---- attach, detach, fence ---- */

static int region_connect(struct verbs_region *region, uint64_t deadline_ns)
{
	struct verbs_link *link = region->link;
	int r = verbs_connect(link, deadline_ns);
	/* Others' ends may have been heard of meanwhile. */
	verbs_break_failed(link->part);
	if (r)
		return r;
	region->head.bytes = link->answer.bytes;
	region->head.generation = link->generation;
	return 0;
}

static int verbs_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	struct verbs_part *part;
	verbs_enter();
	int r = part_open(queue, &part);
	if (r)
		return r;
	struct verbs_peer *peer = peer_find(part, endpoint);
	struct fabric_region *head = peer ? fabric_region_reserve(queue, &verbs_ops) : NULL;
	if (!head)
		return -ENOSPC;
	struct verbs_region *made = verbs_region_of(head);
	struct verbs_link *link = link_take(part);
	made->link = link;
	made->capability = *capability;
	link->region = made;
	link->peer = peer;
	peer->links_count++;
	head->connection_generation = &link->generation;
	head->generation = link->generation - 1; /* not up yet */
	r = region_connect(made, deadline_ns);
	if (r) {
		link_give(link);
		fabric_region_release(head);
		return r;
	}
	*region = head;
	return 0;
}

static void verbs_detach(struct fabric_region *head)
{
	struct verbs_link *link = verbs_region_of(head)->link;
	verbs_enter();
	FM_ASSERT_EQ(link->first, VERBS_NONE);
	link_give(link);
	fabric_region_release(head);
}

static int verbs_fence(struct fabric_region *head, uint64_t deadline_ns)
{
	struct verbs_region *region = verbs_region_of(head);
	verbs_enter();
	verbs_break(region->link, VERBS_NONE, 0, 0);
	return region_connect(region, deadline_ns);
}

/* ---- operations ---- */

static int verbs_post(struct fabric_region *head, const struct fabric_transfer *transfer, bool read)
{
	struct verbs_link *link = verbs_region_of(head)->link;
	uint32_t bytes = 0;
	if (link->in_flight == VERBS_QP_DEPTH)
		return -EAGAIN;
	for (uint32_t i = 0; i < transfer->iov_count; i++)
		bytes += (uint32_t)transfer->iov[i].iov_len;
	struct verbs_op *op = verbs_op_take(link->part);
	op->read = read;
	op->tag = transfer->tag;
	op->deadline_ns = transfer->deadline_ns;
	op->wr = (struct ibv_send_wr){.opcode = read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
		.send_flags = read ? IBV_SEND_SIGNALED : 0,
		.wr.rdma = {.remote_addr = link->address + transfer->offset, .rkey = link->rkey}};
	int r = verbs_map(link, op, transfer, bytes);
	if (r) {
		verbs_op_give(link->part, op);
		return r;
	}
	verbs_op_submit(link, op);
	return 0;
}

static int verbs_post_read(struct fabric_region *head, const struct fabric_transfer *transfer)
{
	return verbs_post(head, transfer, true);
}

static int verbs_post_write(struct fabric_region *head, const struct fabric_transfer *transfer)
{
	return verbs_post(head, transfer, false);
}

static void look_at_events(struct verbs_part *part, uint64_t now_ns)
{
	struct pollfd pollfd = {.fd = part->channel->fd, .events = POLLIN};
	if (now_ns - part->looked_ns < VERBS_LOOK_NS)
		return;
	part->looked_ns = now_ns;
	if (poll(&pollfd, 1, 0) > 0) {
		verbs_events(part);
		verbs_break_failed(part);
	}
}

static void verbs_progress(struct fabric_queue *queue)
{
	struct verbs_part *part = fabric_part(queue, &verbs_ops);
	verbs_flush(part);
	(void)verbs_reap(part);
	const uint64_t now = clock_now_ns();
	if (now >= part->next_deadline_ns)
		verbs_expire(part, now);
	look_at_events(part, now);
}

/* Asks for an event at the next completion. True: there were completions already. */
static bool devices_arm(struct verbs_part *part)
{
	for (uint32_t i = 0; i < part->devices_count; i++) {
		struct verbs_device *d = &part->devices[i];
		if (!d->armed && ibv_req_notify_cq(d->cq, 0) == 0)
			d->armed = true;
	}
	return verbs_reap(part) != 0;
}

static void device_take_event(struct verbs_device *d)
{
	struct ibv_cq *cq;
	void *context;
	if (ibv_get_cq_event(d->channel, &cq, &context))
		return;
	ibv_ack_cq_events(cq, 1);
	d->armed = false;
}

static void verbs_sleep(struct fabric_queue *queue, uint64_t until_ns)
{
	struct verbs_part *part = fabric_part(queue, &verbs_ops);
	struct pollfd pollfds[VERBS_DEVICES_MAX + 1];
	verbs_flush(part);
	if (devices_arm(part))
		return;
	nfds_t count = 0;
	for (; count < part->devices_count; count++)
		pollfds[count] =
			(struct pollfd){.fd = part->devices[count].channel->fd, .events = POLLIN};
	pollfds[count++] = (struct pollfd){.fd = part->channel->fd, .events = POLLIN};
	const uint64_t now = clock_now_ns(), until = FM_MIN(until_ns, part->next_deadline_ns);
	if (now >= until)
		return;
	const struct timespec timeout = {.tv_sec = (time_t)FM_MIN((until - now) / NS_PER_S, 3600),
		.tv_nsec = (long)((until - now) % NS_PER_S)};
	if (ppoll(pollfds, count, &timeout, NULL) <= 0)
		return;
	for (uint32_t i = 0; i < part->devices_count; i++)
		if (pollfds[i].revents)
			device_take_event(&part->devices[i]);
	part->looked_ns = 0; /* the event channel may be why we woke */
}

static void verbs_memory(struct fabric_queue *queue)
{
	struct verbs_part *part = fabric_part(queue, &verbs_ops);
	for (uint32_t i = 0; i < part->devices_count; i++)
		verbs_device_learn(part, &part->devices[i]);
}

static void verbs_queue_close(struct fabric_queue *queue)
{
	struct verbs_part *part = fabric_part(queue, &verbs_ops);
	for (uint32_t i = 0; i < part->peers_used; i++)
		FM_ASSERT_EQ(part->peers[i].links_count, 0);
	for (uint32_t i = 0; i < part->devices_count; i++)
		verbs_device_close(&part->devices[i]);
	part_free(part);
}

static const struct fabric_ops verbs_ops = {
	.name = "verbs",
	.prefix = "verbs:",
	.attach = verbs_attach,
	.detach = verbs_detach,
	.post_read = verbs_post_read,
	.post_write = verbs_post_write,
	.progress = verbs_progress,
	.sleep = verbs_sleep,
	.fence = verbs_fence,
	.memory = verbs_memory,
	.queue_close = verbs_queue_close,
};

/* ---- the module's door ---- */

FM_EXPORT fabric_module_open fabric_verbs_module;

/*
 * Looks for devices once: libibverbs loads its drivers then, by a loader that calls the program's
 * malloc, and later calls come from threads that must not.
 */
int fabric_verbs_module(const struct fabric_module_host *host, const struct fabric_ops **ops)
{
	int count = 0;
	if (host->version != FABRIC_MODULE_VERSION)
		return -EPROTO;
	verbs_host = host;
	verbs_enter();
	struct ibv_device **devices = ibv_get_device_list(&count);
	if (!devices)
		return errno == ENOSYS || errno == ENOENT ? -ENOSYS : -errno;
	ibv_free_device_list(devices);
	if (count == 0)
		return -ENODEV;
	struct rdma_event_channel *channel = rdma_create_event_channel();
	if (!channel)
		return -ENOSYS;
	rdma_destroy_event_channel(channel);
	*ops = &verbs_ops;
	return 0;
}
