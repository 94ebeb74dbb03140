/*
 * rpc/urpc_client.c: a urpc client: its servers, its requests, their cancellation.
 *
 * See rpc/urpc.h. Replies are in urpc_client_receive.c. Nothing is allocated per request.
 *
 * Invariants:
 * 1. Every id that urpc_client_send returned has exactly one completion. A slot's life:
 *        send -> in flight -> (reply | deadline | cancel | refusal) -> finished -> polled, free
 * 2. The caller's reply buffer is written only while its request is in flight.
 */
#include "rpc/urpc_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "rpc/urpc_shm.h"
#include "rpc/urpc_wire.h"

#define COPY_BYTES_MAX 1024u /* up to so much is copied behind the header rather than gathered */

/* --- servers --- */

static uint32_t *client_place_of(const struct urpc_client *client, const struct urpc_address *who)
{
	uint64_t place = urpc_address_hash(who, client->hash_key);

	for (;; place++) { /* ends: at most half the places are taken */
		uint32_t *entry = &client->peers_by_address[place & client->peers_mask];

		if (*entry == 0 || urpc_address_equal(&client->peers[*entry - 1].address, who))
			return entry;
	}
}

uint32_t urpc_client_peer_at(const struct urpc_client *client, const struct urpc_address *source)
{
	return client->peers_mask == 0 ? URPC_NO_INDEX : *client_place_of(client, source) - 1;
}

static int client_grow(struct urpc_client *client)
{
	uint32_t capacity = FM_MAX(16u, client->peers_capacity * 2);
	struct urpc_peer *peers = realloc(client->peers, capacity * sizeof(*peers));
	uint32_t *places;

	if (peers == NULL)
		return -ENOMEM;
	client->peers = peers;
	places = calloc(2ull * capacity, sizeof(*places));
	if (places == NULL)
		return -ENOMEM;
	free(client->peers_by_address);
	client->peers_by_address = places;
	client->peers_mask = 2 * capacity - 1;
	client->peers_capacity = capacity;
	for (uint32_t i = 0; i < client->peers_count; i++)
		*client_place_of(client, &client->peers[i].address) = i + 1;
	return 0;
}

/* The link for that server: sockets are shared by all servers of their family. */
static int client_link_for(struct urpc_client *client, enum urpc_transport transport,
	struct urpc_address *address, struct urpc_link **link)
{
	int r;

	for (unsigned i = 0; transport != URPC_SHM && i < client->links_count; i++)
		if (client->links[i]->family == address->any.sa_family) {
			*link = client->links[i];
			return 0;
		}
	if (client->links_count == URPC_LINKS_MAX)
		return -ENOSPC;
	r = transport == URPC_SHM ? urpc_shm_connect(address, link)
				  : urpc_socket_open(address, false, link);
	if (r)
		return r;
	client->links[client->links_count++] = *link;
	return 0;
}

/* A link with one server is connected to it, one with several to none. */
static void client_connect(struct urpc_client *client, struct urpc_link *link)
{
	const struct urpc_peer *only = NULL;
	unsigned count = 0;
	int r;

	if (link->ops->connect == NULL)
		return;
	for (uint32_t i = 0; i < client->peers_count && count < 2; i++)
		if (client->peers[i].link == link) {
			only = &client->peers[i];
			count++;
		}
	if (count != 1 || atomic_load_explicit(&client->ever_woken, memory_order_relaxed))
		only = NULL;
	if ((only != NULL) == link->connected)
		return;
	r = link->ops->connect(link, only != NULL ? &only->address : NULL);
	if (r != 0) /* no route at the moment, say: sends will tell */
		log_debug("urpc: connect to_one=%d error=%d", only != NULL, -r);
}

void urpc_client_disconnect(struct urpc_client *client)
{
	for (unsigned i = 0; i < client->links_count; i++)
		client_connect(client, client->links[i]);
}

int urpc_client_add(struct urpc_client *client, const char *text, uint32_t *peer)
{
	enum urpc_transport transport;
	struct urpc_address address;
	struct urpc_link *link;
	uint32_t *place;
	int r = urpc_address_parse(text, false, &transport, &address);

	if (r)
		return r;
	if (client->peers_count == URPC_PEERS_MAX)
		return -ENOSPC;
	if (client->peers_count == client->peers_capacity) {
		r = client_grow(client);
		if (r)
			return r;
	}
	r = client_link_for(client, transport, &address, &link);
	if (r)
		return r;
	client->peers[client->peers_count] = (struct urpc_peer){address, link};
	place = client_place_of(client, &address);
	if (*place == 0) /* the same server twice: its datagrams are the first one's */
		*place = client->peers_count + 1;
	*peer = client->peers_count++;
	client_connect(client, link);
	return 0;
}

/* --- requests --- */

void urpc_client_finish(struct urpc_client *client, struct urpc_slot *slot, int status)
{
	uint32_t index = urpc_table_index(&client->table, slot);

	urpc_table_disarm(&client->table, slot);
	slot->finished = true;
	slot->status = status;
	slot->done_ns = client->now_ns;
	slot->finished_next = URPC_NO_INDEX;
	if (client->finished_first == URPC_NO_INDEX)
		client->finished_first = index;
	else
		client->table.slots[client->finished_last].finished_next = index;
	client->finished_last = index;
}

/* Whom a datagram is for. */
static void client_address(const struct urpc_peer *peer, struct msghdr *message)
{
	if (peer->link->connected)
		return;
	message->msg_name = (void *)(uintptr_t)&peer->address.any;
	message->msg_namelen = peer->address.length;
}

static uint32_t client_microseconds(uint64_t ns)
{
	uint64_t us = ns / NS_PER_US + (ns % NS_PER_US != 0);

	return us >= URPC_REMAINING_NEVER ? URPC_REMAINING_NEVER : (uint32_t)us;
}

static struct urpc_request_head client_head(
	struct urpc_client *client, const struct urpc_slot *slot, enum urpc_kind kind)
{
	const struct urpc_request *request = &slot->request;
	uint64_t settled = slot->id - urpc_table_oldest(&client->table);
	bool is_request = kind == URPC_REQUEST;

	return (struct urpc_request_head){
		.head = {.magic = URPC_MAGIC,
			.version = URPC_VERSION,
			.kind = (uint8_t)kind,
			.attempt = slot->attempt,
			.id = slot->id,
			.total_bytes = is_request ? (uint32_t)request->length : 0,
			.unit = (uint16_t)client->peers[request->peer].link->unit},
		.method = request->method,
		.remaining_us =
			request->deadline_ns == CLOCK_NEVER_NS
				? URPC_REMAINING_NEVER
				: client_microseconds(request->deadline_ns - client->now_ns),
		.age_us = client_microseconds(client->now_ns - slot->sent_ns),
		.settled = settled > UINT32_MAX ? UINT32_MAX : (uint32_t)settled,
	};
}

/* One datagram. */
static int client_transmit_one(struct urpc_peer *peer, const struct urpc_request_head *head,
	const struct urpc_request *request)
{
	uint8_t bytes[sizeof(*head) + COPY_BYTES_MAX];
	struct iovec iov[2] = {
		{bytes, sizeof(*head)}, {(void *)(uintptr_t)request->bytes, request->length}};
	struct mmsghdr message = {.msg_hdr = {.msg_iov = iov, .msg_iovlen = 1}};
	int n;

	client_address(peer, &message.msg_hdr);
	memcpy(bytes, head, sizeof(*head));
	if (head->head.total_bytes > COPY_BYTES_MAX) {
		message.msg_hdr.msg_iovlen = 2;
	} else if (head->head.total_bytes != 0) {
		memcpy(bytes + sizeof(*head), request->bytes, request->length);
		iov[0].iov_len += request->length;
	}
	n = peer->link->ops->send(peer->link, &message, 1);
	return n < 0 ? n : 0;
}

/* A message in pieces. When one of them cannot be sent, the server never has the whole. */
static int client_transmit_pieces(struct urpc_peer *peer, const struct urpc_request_head *head,
	const struct urpc_request *request)
{
	struct mmsghdr messages[URPC_BATCH_MAX];
	struct urpc_request_head heads[URPC_BATCH_MAX];
	struct iovec iov[URPC_BATCH_MAX][2];
	unsigned pieces = urpc_wire_pieces(request->length, head->head.unit);
	unsigned done = 0;

	while (done < pieces) {
		unsigned count = FM_MIN(pieces - done, URPC_BATCH_MAX);
		int n;

		for (unsigned i = 0; i < count; i++) {
			size_t offset = (size_t)(done + i) * head->head.unit;

			heads[i] = *head;
			heads[i].head.piece = (uint16_t)(done + i);
			iov[i][0] = (struct iovec){&heads[i], sizeof(heads[i])};
			iov[i][1] = (struct iovec){(uint8_t *)(uintptr_t)request->bytes + offset,
				urpc_wire_piece_bytes(request->length, head->head.unit, done + i)};
			messages[i] =
				(struct mmsghdr){.msg_hdr = {.msg_iov = iov[i], .msg_iovlen = 2}};
			client_address(peer, &messages[i].msg_hdr);
		}
		n = peer->link->ops->send(peer->link, messages, count);
		if (n <= 0)
			return n == 0 ? -EAGAIN : n;
		done += (unsigned)n;
	}
	return 0;
}

int urpc_client_transmit(struct urpc_client *client, struct urpc_slot *slot)
{
	struct urpc_peer *peer = &client->peers[slot->request.peer];
	struct urpc_request_head head = client_head(client, slot, URPC_REQUEST);
	int r = slot->request.length <= peer->link->unit
			? client_transmit_one(peer, &head, &slot->request)
			: client_transmit_pieces(peer, &head, &slot->request);

	return r == -EAGAIN ? -ENOBUFS : r;
}

static bool request_is_sound(const struct urpc_client *client, const struct urpc_request *request)
{
	return request->peer < client->peers_count && request->deadline_ns != 0 &&
	       (request->bytes != NULL || request->length == 0) &&
	       (request->reply != NULL || request->reply_capacity == 0);
}

int urpc_client_send(struct urpc_client *client, const struct urpc_request *request, uint64_t *id)
{
	struct urpc_slot *slot;
	int r;

	if (!request_is_sound(client, request))
		return -EINVAL;
	if (request->length > URPC_MESSAGE_BYTES_MAX)
		return -EMSGSIZE;
	slot = urpc_table_take(&client->table);
	if (slot == NULL)
		return -EAGAIN;
	client->now_ns = clock_now_ns();
	slot->request = *request;
	slot->sent_ns = client->now_ns;
	slot->resend_ns =
		request->resend_ns == 0 ? CLOCK_NEVER_NS : client->now_ns + request->resend_ns;
	client->stats.requests++;
	*id = slot->id;
	if (request->deadline_ns <= client->now_ns) {
		client->stats.timeouts++;
		urpc_client_finish(client, slot, -ETIMEDOUT);
		return 0;
	}
	r = urpc_client_transmit(client, slot);
	if (r) {
		urpc_table_free(&client->table, slot);
		client->stats.requests--;
		return r;
	}
	urpc_table_arm(&client->table, slot, FM_MIN(slot->resend_ns, request->deadline_ns));
	return 0;
}

int urpc_client_cancel(struct urpc_client *client, uint64_t id)
{
	struct urpc_slot *slot = urpc_table_find(&client->table, id);
	struct urpc_request_head head;
	int r;

	if (slot == NULL || slot->finished)
		return -ENOENT;
	client->now_ns = clock_now_ns();
	if (slot->request.deadline_ns > client->now_ns) {
		head = client_head(client, slot, URPC_CANCEL);
		/* Best effort: a server that does not hear of it works in vain, no more. */
		r = client_transmit_one(&client->peers[slot->request.peer], &head, &slot->request);
		(void)r;
	}
	client->stats.cancels++;
	urpc_client_finish(client, slot, -ECANCELED);
	return 0;
}

int urpc_client_send_foreign(
	struct urpc_client *client, uint32_t index, const void *bytes, size_t length)
{
	struct iovec iov = {(void *)(uintptr_t)bytes, length};
	struct mmsghdr message = {.msg_hdr = {.msg_iov = &iov, .msg_iovlen = 1}};
	struct urpc_peer *peer;
	int n;

	if (index >= client->peers_count)
		return -EINVAL;
	peer = &client->peers[index];
	client_address(peer, &message.msg_hdr);
	n = peer->link->ops->send(peer->link, &message, 1);
	return n < 0 ? n : 0;
}

/* --- completions --- */

static unsigned client_deliver(
	struct urpc_client *client, struct urpc_completion *completions, unsigned max)
{
	unsigned n = 0;

	while (n < max && client->finished_first != URPC_NO_INDEX) {
		struct urpc_slot *slot = &client->table.slots[client->finished_first];

		client->finished_first = slot->finished_next;
		completions[n++] = (struct urpc_completion){.id = slot->id,
			.tag = slot->request.tag,
			.peer = slot->request.peer,
			.status = slot->status,
			.refused_early = slot->refused_early,
			.reply_bytes = slot->reply_bytes,
			.sent_ns = slot->sent_ns,
			.done_ns = slot->done_ns,
			.has_load = slot->has_load,
			.load = slot->load};
		urpc_table_free(&client->table, slot);
	}
	return n;
}

unsigned urpc_client_poll(
	struct urpc_client *client, struct urpc_completion *completions, unsigned max)
{
	if (client->finished_first == URPC_NO_INDEX)
		urpc_client_pump(client);
	return client_deliver(client, completions, max);
}

void urpc_client_stats(const struct urpc_client *client, struct urpc_client_stats *stats)
{
	*stats = client->stats;
}

/* --- opening and closing --- */

static int client_open_parts(struct urpc_client *client)
{
	uint64_t random[2];
	int r;

	if (getrandom(random, sizeof(random), 0) != sizeof(random))
		return -EIO;
	client->hash_key = random[1];
	r = urpc_table_open(&client->table, client->options.requests_max, random[0]);
	if (r)
		return r;
	client->buffers = malloc((size_t)URPC_BATCH_MAX * URPC_DATAGRAM_BYTES_MAX);
	if (client->buffers == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < URPC_BATCH_MAX; i++)
		client->batch.at[i] = (struct urpc_received){
			.bytes = client->buffers + (size_t)i * URPC_DATAGRAM_BYTES_MAX,
			.source = &client->sources[i]};
	client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return client->wake_fd < 0 ? -errno : 0;
}

int urpc_client_open(const struct urpc_client_options *options, struct urpc_client **out)
{
	struct urpc_client *client;
	int r;

	if (options->requests_max > URPC_REQUESTS_MAX)
		return -EINVAL;
	client = calloc(1, sizeof(*client));
	if (client == NULL)
		return -ENOMEM;
	client->options = *options;
	if (options->requests_max == 0)
		client->options.requests_max = URPC_REQUESTS_DEFAULT;
	client->finished_first = URPC_NO_INDEX;
	client->wake_fd = -1;
	r = client_open_parts(client);
	if (r) {
		urpc_client_close(client);
		return r;
	}
	*out = client;
	return 0;
}

void urpc_client_close(struct urpc_client *client)
{
	if (client == NULL)
		return;
	for (unsigned i = 0; i < client->links_count; i++)
		client->links[i]->ops->close(client->links[i]);
	if (client->wake_fd >= 0)
		close(client->wake_fd);
	urpc_table_close(&client->table);
	free(client->peers_by_address);
	free(client->peers);
	free(client->buffers);
	free(client);
}
