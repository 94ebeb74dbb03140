/*
 * rpc/urpc_client_receive.c: a urpc client's other half: replies, timers, sleeping.
 *
 * See rpc/urpc.h; the inside is rpc/urpc_client.h.
 *
 * Invariants:
 * 1. A reply counts only if its id is in flight AND it came from the server that was asked.
 * 2. Pieces of replies to different attempts are never mixed: a handler that ran twice may have
 *    answered differently.
 * 3. A sleep ends at the first of: a datagram, the caller's time, a timer, urpc_client_wake.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "rpc/urpc_client.h"
#include "rpc/urpc_wire.h"

/* --- replies --- */

static void receive_load(struct urpc_slot *slot, const struct urpc_reply_head *reply)
{
	slot->has_load = true;
	slot->load = (struct load){.epoch = reply->epoch,
		.delay_ns = reply->delay_ns,
		.in_flight = reply->in_flight,
		.flags = reply->load_flags,
		.free_bytes = reply->free_bytes};
}

/* False: the piece is to be ignored (invariant 2). */
static bool receive_fits(
	struct urpc_client *client, struct urpc_gathering *gathering, const struct urpc_head *head)
{
	if (gathering->have.count == 0 ||
		(head->attempt != gathering->attempt &&
			(uint8_t)(head->attempt - gathering->attempt) < 128)) {
		*gathering = (struct urpc_gathering){.total_bytes = head->total_bytes,
			.unit = head->unit,
			.attempt = head->attempt};
		return true;
	}
	if (head->attempt != gathering->attempt) {
		client->stats.strays++;
		return false;
	}
	if (head->total_bytes != gathering->total_bytes || head->unit != gathering->unit) {
		client->stats.malformed++;
		return false;
	}
	return true;
}

static void receive_reply(
	struct urpc_client *client, struct urpc_slot *slot, const struct urpc_parsed *parsed)
{
	const struct urpc_reply_head *reply = &parsed->reply;

	if (parsed->pieces > 1) {
		if (!receive_fits(client, &slot->gathering, &reply->head))
			return;
		if (!urpc_bitmap_add(&slot->gathering.have, reply->head.piece))
			return;
	}
	receive_load(slot, reply);
	if (reply->head.total_bytes > slot->request.reply_capacity) {
		client->stats.replies++;
		urpc_client_finish(client, slot, reply->status ? reply->status : -EMSGSIZE);
		return;
	}
	if (parsed->payload_bytes != 0)
		memcpy((uint8_t *)slot->request.reply + parsed->offset, parsed->payload,
			parsed->payload_bytes);
	if (parsed->pieces > 1 && slot->gathering.have.count < parsed->pieces)
		return;
	slot->reply_bytes = reply->head.total_bytes;
	if (reply->head.flags & URPC_REFUSED) {
		slot->refused_early = true;
		client->stats.overloads++;
	}
	client->stats.replies++;
	urpc_client_finish(client, slot, slot->refused_early ? -EBUSY : reply->status);
}

static void receive_foreign(struct urpc_client *client, const struct urpc_received *received)
{
	uint32_t peer = urpc_client_peer_at(client, received->source);

	if (client->options.foreign == NULL) {
		client->stats.malformed++;
	} else if (peer == URPC_NO_INDEX) {
		client->stats.strays++;
	} else {
		client->stats.foreign++;
		client->options.foreign(
			client->options.context, peer, received->bytes, received->length);
	}
}

static void receive_one(
	struct urpc_client *client, struct urpc_link *link, const struct urpc_received *received)
{
	const struct urpc_peer *peer;
	struct urpc_parsed parsed;
	struct urpc_slot *slot;
	enum urpc_verdict verdict;

	if (received->length == URPC_RECEIVED_WAKE)
		return;
	verdict = received->length > URPC_DATAGRAM_BYTES_MAX
			  ? URPC_MALFORMED
			  : urpc_wire_parse(received->bytes, received->length, &parsed);
	if (verdict == URPC_FOREIGN) {
		receive_foreign(client, received);
		return;
	}
	if (verdict == URPC_MALFORMED || parsed.head.kind != URPC_REPLY) {
		client->stats.malformed++;
		return;
	}
	slot = urpc_table_find(&client->table, parsed.head.id);
	if (slot == NULL || slot->finished) {
		client->stats.strays++;
		return;
	}
	peer = &client->peers[slot->request.peer];
	if (peer->link != link || !urpc_address_equal(&peer->address, received->source)) {
		client->stats.strays++;
		return;
	}
	receive_reply(client, slot, &parsed);
}

/* The network says that datagrams could not be delivered: whose were they? */
static void receive_errors(struct urpc_client *client, struct urpc_link *link)
{
	uint8_t bytes[sizeof(struct urpc_request_head)];
	struct urpc_request_head head;
	struct urpc_address to;
	struct urpc_slot *slot;

	for (unsigned i = 0; i < URPC_REQUESTS_MAX; i++) {
		size_t length = link->ops->next_error(link, bytes, sizeof(bytes), &to);

		if (length == 0)
			return;
		if (length < sizeof(head))
			continue;
		memcpy(&head, bytes, sizeof(head));
		if (head.head.magic != URPC_MAGIC || head.head.kind != URPC_REQUEST)
			continue;
		slot = urpc_table_find(&client->table, head.head.id);
		if (slot == NULL || slot->finished ||
			!urpc_address_equal(&client->peers[slot->request.peer].address, &to))
			continue;
		urpc_client_finish(client, slot, -ECONNREFUSED);
	}
}

/* The connection to that server has ended, and with it all that was in flight there. */
static void receive_end(struct urpc_client *client, const struct urpc_link *link)
{
	for (uint64_t i = 0; i <= client->table.mask; i++) {
		struct urpc_slot *slot = &client->table.slots[i];

		if (slot->id != 0 && !slot->finished &&
			client->peers[slot->request.peer].link == link)
			urpc_client_finish(client, slot, -ECONNREFUSED);
	}
}

/* --- timers --- */

static void receive_timers(struct urpc_client *client)
{
	struct urpc_slot *slot;

	for (unsigned i = 0; i < URPC_REQUESTS_MAX; i++) {
		slot = urpc_table_first_due(&client->table);
		if (slot == NULL || slot->due_ns > client->now_ns)
			return;
		if (slot->request.deadline_ns <= client->now_ns) {
			client->stats.timeouts++;
			urpc_client_finish(client, slot, -ETIMEDOUT);
			continue;
		}
		slot->attempt++;
		slot->resend_ns = client->now_ns + slot->request.resend_ns;
		urpc_table_arm(
			&client->table, slot, FM_MIN(slot->resend_ns, slot->request.deadline_ns));
		if (urpc_client_transmit(client, slot) == 0)
			client->stats.resends++;
	}
}

/* --- receiving and sleeping --- */

/* True: something came. until_ns as in urpc_link_ops.receive. */
static bool receive_from(struct urpc_client *client, struct urpc_link *link, uint64_t until_ns)
{
	int n;

	client->batch.now_ns = client->now_ns;
	n = link->ops->receive(link, &client->batch, until_ns);
	client->now_ns = client->batch.now_ns;
	if (n == -ECONNRESET)
		receive_end(client, link);
	else if (n < 0)
		receive_errors(client, link);
	for (int i = 0; i < n; i++)
		receive_one(client, link, &client->batch.at[i]);
	receive_timers(client);
	return n != 0;
}

void urpc_client_pump(struct urpc_client *client)
{
	for (unsigned i = 0; i < client->links_count; i++)
		receive_from(client, client->links[i], 0);
	if (client->links_count == 0) {
		client->now_ns = clock_now_ns();
		receive_timers(client);
	}
}

static bool client_is_ready(struct urpc_client *client)
{
	return client->finished_first != URPC_NO_INDEX ||
	       atomic_load_explicit(&client->woken, memory_order_relaxed);
}

/* True: ready. Ends at until_ns. */
static bool client_spin(struct urpc_client *client, uint64_t until_ns)
{
	do {
		urpc_client_pump(client);
		if (client_is_ready(client))
			return true;
	} while (client->now_ns < until_ns);
	return false;
}

/* One sleep over several links. */
static void client_sleep_many(struct urpc_client *client, uint64_t until_ns)
{
	struct pollfd fds[URPC_LINKS_MAX + 1] = {{.fd = client->wake_fd, .events = POLLIN}};
	uint64_t sleep_ns = FM_MIN(until_ns - client->now_ns, NS_PER_S);
	struct timespec timeout = {
		.tv_sec = (time_t)(sleep_ns / NS_PER_S), .tv_nsec = (long)(sleep_ns % NS_PER_S)};
	uint64_t wakes;
	bool ready = false;

	for (unsigned i = 0; i < client->links_count; i++) {
		struct urpc_link *link = client->links[i];

		ready |= link->ops->arm != NULL && link->ops->arm(link);
	}
	if (ready)
		timeout = (struct timespec){0};
	for (unsigned i = 0; i < client->links_count; i++)
		fds[i + 1] = (struct pollfd){.fd = client->links[i]->fd, .events = POLLIN};
	if (ppoll(fds, client->links_count + 1, &timeout, NULL) > 0 && fds[0].revents != 0 &&
		read(client->wake_fd, &wakes, sizeof(wakes)) < 0)
		return;
	urpc_client_pump(client);
}

static void client_sleep(struct urpc_client *client, uint64_t until_ns)
{
	if (fm_unlikely(atomic_load_explicit(&client->ever_woken, memory_order_relaxed)) &&
		client->links_count == 1 && client->links[0]->connected)
		urpc_client_disconnect(client);
	/* seq_cst: pairs with urpc_client_wake; either it sees us sleep or we see that it called */
	atomic_store(&client->sleeping, true);
	if (!atomic_load(&client->woken)) {
		if (client->links_count == 1)
			receive_from(client, client->links[0], until_ns);
		else
			client_sleep_many(client, until_ns);
	}
	atomic_store_explicit(&client->sleeping, false, memory_order_relaxed);
}

int urpc_client_wait(struct urpc_client *client, uint64_t until_ns)
{
	uint64_t spin_ns = client->options.spin_ns ? client->options.spin_ns : URPC_SPIN_NS_DEFAULT;
	bool learned = client->options.spin_ns == 0;
	bool may_spin = spin_ns >= URPC_SPIN_NS_MIN;
	bool success;

	for (;;) {
		struct urpc_slot *due = urpc_table_first_due(&client->table);
		uint64_t end_ns = due == NULL ? until_ns : FM_MIN(until_ns, due->due_ns);

		if (client_is_ready(client)) {
			atomic_store_explicit(&client->woken, false, memory_order_relaxed);
			return 0;
		}
		client->now_ns = clock_now_ns();
		if (client->now_ns >= end_ns) {
			receive_timers(client);
			if (client->now_ns >= until_ns && !client_is_ready(client))
				return -ETIMEDOUT;
			continue;
		}
		if (may_spin && (!learned || spin_is_worth_it(&client->spin))) {
			may_spin = false;
			success = client_spin(client, end_ns - client->now_ns < spin_ns
							      ? end_ns
							      : client->now_ns + spin_ns);
			if (learned)
				spin_note(&client->spin, success);
			continue;
		}
		may_spin = false;
		client_sleep(client, end_ns);
	}
}

void urpc_client_wake(struct urpc_client *client)
{
	uint64_t one = 1;

	atomic_store_explicit(&client->ever_woken, true, memory_order_relaxed);
	atomic_store(&client->woken, true); /* seq_cst: see client_sleep */
	if (!atomic_load(&client->sleeping))
		return;
	if (client->links_count == 1)
		client->links[0]->ops->wake(client->links[0]);
	else if (write(client->wake_fd, &one, sizeof(one)) < 0)
		return;
}
