/*
 * rpc/urpc_sender.c: replies on their way out, several datagrams per system call.
 *
 * One sender per thread that answers. See rpc/urpc_serve.h.
 *
 * Invariants:
 * 1. Replies to one client leave in the order they were added, their pieces in order, unless that
 *    client has no room.
 * 2. A reply the peer has no room for at the moment waits until its deadline or until the sender
 *    is full; then it is lost, like any datagram, and counted.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "rpc/urpc_serve.h"

static struct urpc_reply_head sender_head(const struct urpc_work *work, uint32_t unit)
{
	return (struct urpc_reply_head){.head = {.magic = URPC_MAGIC,
						.version = URPC_VERSION,
						.kind = URPC_REPLY,
						.flags = work->refused ? URPC_REFUSED : 0,
						.attempt = work->attempt,
						.id = work->id,
						.total_bytes = work->reply_bytes,
						.piece = (uint16_t)work->sent_pieces,
						.unit = (uint16_t)unit},
		.status = work->status,
		.epoch = work->load.epoch,
		.delay_ns = work->load.delay_ns,
		.in_flight = work->load.in_flight,
		.load_flags = work->load.flags,
		.free_bytes = work->load.free_bytes};
}

/* One datagram of a reply. The head of a reply in one piece lies just before its bytes. */
static void sender_describe(
	struct urpc_sender *sender, unsigned i, struct urpc_work *work, unsigned piece)
{
	uint32_t unit = sender->link->unit;
	struct urpc_reply_head head = sender_head(work, unit);
	struct msghdr *message = &sender->messages[i].msg_hdr;
	struct iovec *iov = sender->iov[i];

	head.head.piece = (uint16_t)piece;
	*message = (struct msghdr){.msg_name = &work->source.any,
		.msg_namelen = work->source.length,
		.msg_iov = iov,
		.msg_iovlen = 1};
	if (work->reply_bytes <= unit) {
		memcpy(work->reply, &head, sizeof(head));
		iov[0] = (struct iovec){work->reply, sizeof(head) + work->reply_bytes};
		return;
	}
	sender->heads[i] = head;
	iov[0] = (struct iovec){&sender->heads[i], sizeof(head)};
	iov[1] = (struct iovec){work->reply + sizeof(head) + (size_t)piece * unit,
		urpc_wire_piece_bytes(work->reply_bytes, unit, piece)};
	message->msg_iovlen = 2;
}

/* Describes what comes next, from the first reply's next piece on. How many datagrams. */
static unsigned sender_fill(struct urpc_sender *sender, unsigned first)
{
	unsigned n = 0;

	for (unsigned i = first; i < sender->count && n < URPC_BATCH_MAX; i++) {
		struct urpc_work *work = sender->queue[i];
		unsigned pieces = urpc_wire_pieces(work->reply_bytes, sender->link->unit);

		for (unsigned piece = work->sent_pieces; piece < pieces && n < URPC_BATCH_MAX;
			piece++)
			sender_describe(sender, n++, work, piece);
	}
	return n;
}

/* `datagrams` went out: which replies are through with that? Returns the first that is not. */
static unsigned sender_advance(struct urpc_sender *sender, unsigned first, unsigned datagrams)
{
	while (first < sender->count) {
		struct urpc_work *work = sender->queue[first];
		unsigned pieces = urpc_wire_pieces(work->reply_bytes, sender->link->unit);
		unsigned some = FM_MIN(datagrams, pieces - work->sent_pieces);

		work->sent_pieces += some;
		datagrams -= some;
		if (work->sent_pieces < pieces)
			break;
		urpc_count(&sender->counters->replies);
		urpc_list_push(&sender->sent, work);
		first++;
	}
	return first;
}

static void sender_lose(struct urpc_sender *sender, unsigned index)
{
	urpc_count(&sender->counters->replies_lost);
	urpc_list_push(&sender->sent, sender->queue[index]);
}

/* What could not be sent moves to the front; without what is too late. */
static void sender_keep(struct urpc_sender *sender, unsigned kept, unsigned first)
{
	uint64_t now_ns;

	if (kept == 0 && first == sender->count) {
		sender->count = 0;
		return;
	}
	while (first < sender->count)
		sender->queue[kept++] = sender->queue[first++];
	sender->count = kept;
	now_ns = clock_now_ns();
	kept = 0;
	for (unsigned i = 0; i < sender->count; i++) {
		if (sender->queue[i]->call.deadline_ns <= now_ns)
			sender_lose(sender, i);
		else
			sender->queue[kept++] = sender->queue[i];
	}
	sender->count = kept;
}

void urpc_sender_flush(struct urpc_sender *sender)
{
	unsigned first = 0, kept = 0;

	while (first < sender->count) {
		unsigned n = sender_fill(sender, first);
		int sent = sender->link->ops->send(sender->link, sender->messages, n);

		if (sent == -EAGAIN) {
			/* UDP: our own buffer is full. Else its client's; others may have room */
			if (sender->link->family == AF_INET || sender->link->family == AF_INET6)
				break;
			sender->queue[kept++] = sender->queue[first++];
		} else if (sent < 0) { /* this one can never be sent: its client is gone */
			sender_lose(sender, first++);
		} else {
			first = sender_advance(sender, first, (unsigned)sent);
		}
	}
	sender_keep(sender, kept, first);
}

void urpc_sender_add(struct urpc_sender *sender, struct urpc_work *work)
{
	work->sent_pieces = 0;
	if (sender->count == URPC_SENDER_MAX)
		urpc_sender_flush(sender);
	if (sender->count == URPC_SENDER_MAX) {
		sender_lose(sender, 0);
		memmove(&sender->queue[0], &sender->queue[1],
			(URPC_SENDER_MAX - 1) * sizeof(sender->queue[0]));
		sender->count--;
	}
	sender->queue[sender->count++] = work;
}
