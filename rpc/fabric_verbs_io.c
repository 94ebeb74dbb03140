/*
 * rpc/fabric_verbs_io.c: operations on links: chains of work requests with one doorbell,
 * completions, deadlines, and what becomes of operations whose link breaks.
 *
 * A post only appends to the link's chain; the doorbell is rung when the chain is long, or at the
 * next poll or wait, whichever is first. Reads ask for a completion each (somebody waits for each);
 * of writes only the last of a chain does: a queue pair completes in order, so it speaks for those
 * before it.
 *
 * Called through rpc/fabric_verbs.h only; one thread.
 *
 * Invariants
 *   1. The last work request of every chain asks for a completion: so nothing in flight is
 *      forgotten.
 *   2. wr_id names the operation and the use of its place: a completion of a queue pair that was
 *      destroyed meanwhile finds nobody.
 *   3. An operation of a broken link is completed after its queue pair was destroyed: then nothing
 *      reads or writes its buffers any more.
 */
#include <errno.h>

#include "base/assert.h"
#include "base/clock.h"
#include "rpc/fabric_verbs.h"

#define COMPLETIONS_MAX 32

static uint32_t op_index(const struct verbs_part *part, const struct verbs_op *op)
{
	return (uint32_t)(op - part->ops);
}

static uint32_t link_index(const struct verbs_link *link)
{
	return (uint32_t)(link - link->part->links);
}

struct verbs_op *verbs_op_take(struct verbs_part *part)
{
	struct verbs_op *op;
	if (part->ops_free != VERBS_NONE) {
		op = &part->ops[part->ops_free];
		part->ops_free = op->next;
	} else {
		FM_ASSERT_LT(
			part->ops_used, part->ops_count); /* fabric.c bounds what is in flight */
		op = &part->ops[part->ops_used++];
	}
	op->serial++;
	op->next = VERBS_NONE;
	return op;
}

void verbs_op_give(struct verbs_part *part, struct verbs_op *op)
{
	op->link = NULL;
	op->next = part->ops_free;
	part->ops_free = op_index(part, op);
}

static void op_complete(struct verbs_part *part, struct verbs_op *op, int status)
{
	struct verbs_link *link = op->link;
	const uint64_t tag = op->tag;
	verbs_unmap(link->device, op, status == 0);
	verbs_op_give(part, op);
	fabric_complete(&link->region->head, tag, status);
}

/* ---- posting ---- */

/* Rings the doorbell for the link's unsent operations. */
static void link_flush(struct verbs_link *link)
{
	struct verbs_part *part = link->part;
	struct ibv_send_wr *bad = NULL;
	if (link->unsent == VERBS_NONE)
		return;
	struct verbs_op *first = &part->ops[link->unsent];
	part->ops[link->last].wr.send_flags |= IBV_SEND_SIGNALED; /* invariant 1 */
	link->unsent = VERBS_NONE;
	link->unsent_count = 0;
	if (verbs_host->fault(FABRIC_FAULT_LOSE))
		return; /* as if the network had lost it, and every repetition */
	int r = verbs_host->fault(FABRIC_FAULT_POST)
			? ENOMEM
			: ibv_post_send(link->id->qp, &first->wr, &bad);
	if (r)
		verbs_fail(link, VERBS_NONE, 0, false);
}

void verbs_flush(struct verbs_part *part)
{
	while (part->unsent != VERBS_NONE) {
		struct verbs_link *link = &part->links[part->unsent];
		part->unsent = link->next_unsent;
		link->next_unsent = VERBS_NONE;
		link_flush(link);
	}
	verbs_break_failed(part);
}

void verbs_op_submit(struct verbs_link *link, struct verbs_op *op)
{
	struct verbs_part *part = link->part;
	const uint32_t index = op_index(part, op);
	op->link = link;
	op->wr.next = NULL;
	op->wr.wr_id = (uint64_t)op->serial << 32 | index;
	if (link->first == VERBS_NONE) {
		link->first = index;
	} else {
		part->ops[link->last].next = index;
		if (link->unsent != VERBS_NONE)
			part->ops[link->last].wr.next = &op->wr;
	}
	link->last = index;
	link->in_flight++;
	part->next_deadline_ns = FM_MIN(part->next_deadline_ns, op->deadline_ns);
	if (link->unsent == VERBS_NONE) {
		link->unsent = index;
		link->next_unsent = part->unsent;
		part->unsent = link_index(link);
	}
	if (++link->unsent_count == VERBS_CHAIN_MAX)
		verbs_flush(part);
}

/* ---- completions ---- */

static int status_of(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_SUCCESS:
		return 0;
	case IBV_WC_REM_ACCESS_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
		return -EACCES; /* the node's device refused: not stored */
	case IBV_WC_LOC_PROT_ERR:
	case IBV_WC_LOC_LEN_ERR:
	case IBV_WC_LOC_QP_OP_ERR:
		return -EPROTO; /* our own device refused: not sent */
	default:
		return -ECONNRESET; /* flushed, retries exceeded, ...: in doubt */
	}
}

/* The operations up to this one are done. */
static void link_done(struct verbs_link *link, uint32_t index)
{
	struct verbs_part *part = link->part;
	for (uint32_t at = VERBS_NONE; at != index;) {
		at = link->first;
		FM_ASSERT_NE(at, VERBS_NONE);
		struct verbs_op *op = &part->ops[at];
		link->first = op->next;
		link->in_flight--;
		op_complete(part, op, 0);
	}
	if (link->first == VERBS_NONE)
		link->last = VERBS_NONE;
}

static void take_completion(struct verbs_part *part, const struct ibv_wc *wc)
{
	const uint32_t index = (uint32_t)wc->wr_id;
	if (index >= part->ops_used)
		return;
	struct verbs_op *op = &part->ops[index];
	struct verbs_link *link = op->link;
	if (!link || op->serial != wc->wr_id >> 32 || link->failed)
		return; /* invariant 2 */
	const int status =
		verbs_host->fault(FABRIC_FAULT_COMPLETION) ? -ECONNRESET : status_of(wc->status);
	if (status)
		verbs_fail(link, index, status, wc->status == IBV_WC_RETRY_EXC_ERR);
	else
		link_done(link, index);
}

unsigned verbs_reap(struct verbs_part *part)
{
	unsigned total = 0;
	for (uint32_t i = 0; i < part->devices_count; i++) {
		struct ibv_wc wc[COMPLETIONS_MAX];
		int count = COMPLETIONS_MAX;
		/* Bounded: no more can come than is in flight. */
		while (count == COMPLETIONS_MAX) {
			count = ibv_poll_cq(part->devices[i].cq, COMPLETIONS_MAX, wc);
			FM_ASSERT_LE(0, count);
			for (int w = 0; w < count; w++)
				take_completion(part, &wc[w]);
			total += (unsigned)count;
		}
	}
	verbs_break_failed(part);
	return total;
}

/* ---- breaking ---- */

void verbs_fail(struct verbs_link *link, uint32_t op, int status, bool gone)
{
	if (link->failed || !link->id)
		return;
	link->failed = true;
	link->gone = gone;
	link->failed_op = op;
	link->failed_status = status;
	link->part->links_failed++;
}

/* Takes the link off the list of those with unsent operations. */
static void link_forget_unsent(struct verbs_link *link)
{
	struct verbs_part *part = link->part;
	uint32_t *at = &part->unsent;
	while (*at != VERBS_NONE && *at != link_index(link))
		at = &part->links[*at].next_unsent;
	if (*at != VERBS_NONE)
		*at = link->next_unsent;
	link->next_unsent = VERBS_NONE;
	link->unsent = VERBS_NONE;
	link->unsent_count = 0;
}

void verbs_break(struct verbs_link *link, uint32_t op, int status, uint64_t now_ns)
{
	struct verbs_part *part = link->part;
	if (link->failed)
		part->links_failed--;
	link->failed = false;
	if (!link->id)
		return;
	link_forget_unsent(link);
	verbs_disconnect(link);
	link->generation++;
	while (link->first != VERBS_NONE) {
		const uint32_t index = link->first;
		struct verbs_op *o = &part->ops[index];
		const bool late = now_ns && o->deadline_ns <= now_ns;
		link->first = o->next;
		link->in_flight--;
		op_complete(part, o, index == op ? status : late ? -ETIMEDOUT : -ECONNRESET);
	}
	link->last = VERBS_NONE;
}

/* All links to the node. */
static void peer_break(struct verbs_part *part, const struct verbs_peer *peer, uint64_t now_ns)
{
	for (uint32_t i = 0; i < part->links_used; i++)
		if (part->links[i].peer == peer)
			verbs_break(&part->links[i], VERBS_NONE, 0, now_ns);
}

void verbs_break_failed(struct verbs_part *part)
{
	for (uint32_t i = 0; i < part->links_used && part->links_failed; i++) {
		struct verbs_link *link = &part->links[i];
		const bool gone = link->gone;
		if (!link->failed)
			continue;
		verbs_break(link, link->failed_op, link->failed_status, 0);
		if (gone)
			peer_break(part, link->peer, 0);
	}
}

void verbs_expire(struct verbs_part *part, uint64_t now_ns)
{
	uint64_t next = CLOCK_NEVER_NS;
	for (uint32_t i = 0; i < part->ops_used; i++) {
		const struct verbs_op *op = &part->ops[i];
		if (op->link && op->deadline_ns <= now_ns)
			peer_break(part, op->link->peer, now_ns);
	}
	for (uint32_t i = 0; i < part->ops_used; i++)
		if (part->ops[i].link)
			next = FM_MIN(next, part->ops[i].deadline_ns);
	part->next_deadline_ns = next;
}
