/*
 * farmem/agent/compact_tx.c: see compact_tx.h for the invariants T1..T5.
 *
 *            runtime claims            m answers          all parts          m answers
 *   WAITING ----------------> BEGINNING ------> SENDING ---------> PREPARING -----------+
 *      |                        |  MergeBegin     |  MergeSend       |  MergePrepare    |
 *      |  nothing to be had     |                 | (MergePartial)   |                  v
 *      v                        +-------------+---+------------------+               ENDING
 *    OVER <--+                                |  a call failed thrice, a node refuses   |  MergeEnd
 *            |       m answers, or the lease  v  or went down, the group is to be left, |  (commit)
 *            +---------------------------- ABORTING <-- no pair is good, time is over --+
 *            |                             MergeEnd (abort), again and again            |
 *            +--------------------------------------------------------------------------+
 *                                                            m answers: COMMITTED
 *
 * BEGINNING, SENDING, PREPARING and ENDING are PREPARING in the catalog. The nodes are told the
 * end before the commit point, because fresh slots of pairs that are not good are reused after it
 * (T2); an agent that dies in between leaves PREPARING, which its successor aborts: the nodes have
 * ended the transaction already, and say so.
 *
 * A step is a list of tasks, one call each (in local mode: a call and m that follow from its
 * answer). A task whose call failed is tried again, since repeats are harmless; answers to tasks of
 * an earlier step change nothing.
 *
 * Memory order: phase is stored with release, and loaded with acquire: partner is merge.c.
 */
#include "farmem/agent/compact_tx.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/fault_point.h"
#include "farmem/agent/compact_local.h"
#include "farmem/record.h"

FM_BUILD_ASSERT(CTL_MERGE_PAIRS == CATALOG_MERGE_PAIRS, "one transaction, one message");
FM_BUILD_ASSERT(CTL_MERGE_TARGETS == EC_M_MAX, "every parity node is a target");
FM_BUILD_ASSERT(COMPACT_TASKS_MAX <= 256, "tasks are counted in bytes");

/* ---- phases ---- */

static uint32_t tx_phase(const struct compact_tx *tx)
{
	return atomic_load_explicit(&tx->merge->phase, memory_order_acquire);
}

static void tx_store_phase(struct compact_tx *tx, enum catalog_merge_phase phase, uint64_t now_ns)
{
	atomic_store_explicit(&tx->merge->since_ns, now_ns, memory_order_relaxed);
	atomic_store_explicit(&tx->merge->phase, phase, memory_order_release);
}

static void tx_say(struct compact_tx *tx, const char *name)
{
	if (tx->ops->step != NULL)
		tx->ops->step(tx->context, name);
}

int compact_tx_want(struct catalog *catalog, uint32_t index, uint32_t group,
	const uint32_t (*pairs)[2], uint32_t count, uint64_t now_ns)
{
	struct catalog_merge *merge = &catalog->merges[index];
	if (count == 0 || count > CATALOG_MERGE_PAIRS || !column_group_good(catalog, group))
		return -EINVAL;
	if (atomic_load_explicit(&merge->phase, memory_order_acquire) != MERGE_FREE)
		return -EBUSY;
	merge->group = group;
	merge->count = count;
	atomic_store_explicit(&merge->txid, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < count; i++)
		merge->pairs[i] = (struct catalog_pair){
			.a = pairs[i][0], .b = pairs[i][1], .n = CATALOG_NO_RECORD};
	atomic_store_explicit(&merge->since_ns, now_ns, memory_order_relaxed);
	atomic_store_explicit(&merge->phase, MERGE_WANTED, memory_order_release);
	return 0;
}

/* ---- steps ---- */

static void step_enter(struct compact_tx *tx, enum compact_step step)
{
	tx->step = step;
	tx->round++;
	tx->tasks_count = 0;
}

static void task_add(struct compact_tx *tx, unsigned position, unsigned part)
{
	FM_ASSERT_LT(tx->tasks_count, COMPACT_TASKS_MAX);
	tx->tasks[tx->tasks_count++] =
		(struct compact_task){.position = (uint8_t)position, .part = (uint8_t)part};
}

/* One for each parity node. */
static void step_enter_parities(struct compact_tx *tx, enum compact_step step)
{
	step_enter(tx, step);
	for (unsigned q = 0; q < tx->m; q++)
		task_add(tx, tx->k + q, 0);
}

static unsigned tx_part_pieces(const struct compact_tx *tx)
{
	return tx->local ? CTL_MERGE_PARTIALS : CTL_MERGE_PAIRS;
}

static void step_enter_sending(struct compact_tx *tx)
{
	step_enter(tx, COMPACT_SENDING);
	for (unsigned p = 0; p < tx->k; p++) {
		unsigned pieces = 0;
		for (uint32_t i = 0; i < tx->count; i++)
			pieces += tx->take[i] >> p & 1;
		for (unsigned part = 0; part * tx_part_pieces(tx) < pieces; part++)
			task_add(tx, p, part);
	}
}

static void tx_over(struct compact_tx *tx, bool committed)
{
	step_enter(tx, COMPACT_OVER);
	tx->committed = committed;
}

/* T3: whose columns are gone has nothing to acknowledge. */
static void tx_enter_aborting(struct compact_tx *tx, const char *reason, int error, uint64_t now_ns)
{
	if (tx->reason == NULL) {
		tx->reason = reason;
		tx->error = error;
	}
	tx_store_phase(tx, MERGE_ABORTING, now_ns);
	tx_say(tx, "aborting");
	step_enter_parities(tx, COMPACT_ABORTING);
}

static void tx_enter_aborted(struct compact_tx *tx, uint64_t now_ns)
{
	tx_store_phase(tx, MERGE_ABORTED, now_ns);
	catalog_count(tx->catalog, merge_aborts, 1);
	tx_say(tx, "aborted");
	tx_over(tx, false);
}

void compact_tx_abort(struct compact_tx *tx, const char *reason, uint64_t now_ns)
{
	if (tx->step == COMPACT_ABORTING || tx->step == COMPACT_OVER)
		return;
	if (tx->step == COMPACT_WAITING)
		tx->reason = reason; /* its claim is waited for, and given up then */
	else
		tx_enter_aborting(tx, reason, -ECANCELED, now_ns);
}

/* ---- what the runtime has claimed ---- */

static bool pair_load(struct compact_tx *tx, uint32_t index, uint32_t slot_count)
{
	const struct catalog_pair pair = tx->merge->pairs[index]; /* T4 */
	const uint32_t at = tx->count;
	uint32_t gen;
	if (pair.n == CATALOG_NO_RECORD || pair.take == 0 || pair.take >> tx->k != 0 ||
		pair.a == pair.b)
		return false;
	for (unsigned q = 0; q < tx->m; q++)
		if (pair.fresh[q] >= slot_count)
			return false;
	if (!column_read_record(tx->catalog, tx->group, pair.a, &tx->a[at], &gen) ||
		!column_read_record(tx->catalog, tx->group, pair.b, &tx->b[at], &gen))
		return false;
	tx->pair[at] = index;
	tx->take[at] = pair.take;
	memcpy(tx->fresh[at], pair.fresh, sizeof tx->fresh[at]);
	tx->bad[at] = false;
	return true;
}

static int places_load(struct compact_tx *tx)
{
	for (unsigned p = 0; p < (unsigned)tx->k + tx->m; p++) {
		int error = tx->ops->place(tx->context, tx->group, p, &tx->places[p]);
		if (error != 0)
			return error;
	}
	return 0;
}

/* CLAIMED -> PREPARING, unless there is nothing to do. T1. */
static void tx_claimed(struct compact_tx *tx, uint64_t now_ns)
{
	const struct catalog_group *g = &tx->catalog->groups[tx->group];
	const uint32_t slot_count = FM_MIN(g->slot_count, CATALOG_SLOTS_MAX);
	const uint32_t count = FM_MIN(tx->merge->count, (uint32_t)CATALOG_MERGE_PAIRS);
	int error = places_load(tx);
	tx->count = 0;
	for (uint32_t i = 0; error == 0 && i < count; i++)
		tx->count += pair_load(tx, i, slot_count);
	if (tx->reason == NULL && error == 0 && tx->count > 0 && !FAULT_POINT("compact.claimed") &&
		atomic_load_explicit(&g->state, memory_order_seq_cst) == GROUP_OPEN) {
		tx->txid = 1 + atomic_fetch_add_explicit(
				       &tx->catalog->header->merge_txid, 1, memory_order_relaxed);
		atomic_store_explicit(&tx->merge->txid, tx->txid, memory_order_relaxed);
		tx_store_phase(tx, MERGE_PREPARING, now_ns);
		tx->began_ns = now_ns;
		tx_say(tx, "preparing");
		step_enter_parities(tx, COMPACT_BEGINNING);
		return;
	}
	/* No node knows of it. */
	if (tx->reason == NULL)
		tx->reason = error != 0       ? "a column is not there"
			     : tx->count == 0 ? "no pair could be claimed"
					      : "the group is closed";
	tx_store_phase(tx, MERGE_ABORTING, now_ns);
	tx_enter_aborted(tx, now_ns);
}

/* Claims take a moment, and the runtime may find nothing in it. */
static void tx_wait(struct compact_tx *tx, uint64_t now_ns)
{
	switch (tx_phase(tx)) {
	case MERGE_FREE:
		if (tx->reason == NULL)
			tx->reason = "the runtime could have none of it";
		tx_over(tx, false);
		return;
	case MERGE_CLAIMED:
		tx_claimed(tx, now_ns);
		return;
	default:
		return;
	}
}

/* ---- calls ---- */

static void message_begin(const struct compact_tx *tx, unsigned position,
	struct ctl_merge_pair *pairs, struct compact_message *message)
{
	for (uint32_t i = 0; i < tx->count; i++)
		pairs[i] = (struct ctl_merge_pair){.old_slot = tx->a[i].slot[position],
			.old_crc = tx->a[i].crc[position],
			.fresh_slot = tx->fresh[i][position - tx->k],
			.sources = tx->take[i]};
	message->begin = (struct ctl_merge_begin){.txid = tx->txid,
		.target = tx->places[position].capability,
		.position = (uint8_t)position,
		.k = tx->k,
		.m = tx->m,
		.count = tx->count,
		.pairs = pairs};
}

/* Pieces of a part: the same ones each time, of pairs that have become bad too. */
static uint32_t part_pieces(const struct compact_tx *tx, const struct compact_task *task,
	struct ctl_merge_piece *pieces)
{
	const unsigned p = task->position, most = tx_part_pieces(tx);
	uint32_t seen = 0, count = 0;
	for (uint32_t i = 0; i < tx->count && count < most; i++) {
		if ((tx->take[i] >> p & 1) == 0 || seen++ < task->part * most)
			continue;
		pieces[count++] = (struct ctl_merge_piece){.index = i,
			.slot_a = tx->a[i].slot[p],
			.crc_a = tx->a[i].crc[p],
			.slot_b = tx->b[i].slot[p],
			.crc_b = tx->b[i].crc[p]};
	}
	return count;
}

static int message_send(const struct compact_tx *tx, const struct compact_task *task,
	struct ctl_merge_piece *pieces, struct compact_message *message)
{
	struct ctl_merge_send *send = &message->send;
	memset(send, 0, sizeof *send);
	send->txid = tx->txid;
	send->source = tx->places[task->position].capability;
	send->position = task->position;
	send->k = tx->k;
	send->m = tx->m;
	send->pieces = pieces;
	send->count = part_pieces(tx, task, pieces);
	for (unsigned q = 0; q < tx->m && !tx->local; q++) {
		struct ctl_merge_target *target = &send->targets[send->targets_count++];
		int error = tx->ops->address(tx->context, tx->group, tx->k + q, target->address);
		if (error != 0)
			return error;
		target->capability = tx->places[tx->k + q].capability;
		target->position = (uint8_t)(tx->k + q);
	}
	return 0;
}

static void task_failed(
	struct compact_tx *tx, struct compact_task *task, int error, uint64_t now_ns);

static void task_start(struct compact_tx *tx, struct compact_task *task, uint64_t now_ns)
{
	static const enum compact_method methods[] = {[COMPACT_BEGINNING] = COMPACT_BEGIN,
		[COMPACT_SENDING] = COMPACT_SEND,
		[COMPACT_PREPARING] = COMPACT_PREPARE,
		[COMPACT_ENDING] = COMPACT_END,
		[COMPACT_ABORTING] = COMPACT_END};
	struct ctl_merge_pair pairs[CATALOG_MERGE_PAIRS];
	struct ctl_merge_piece pieces[CATALOG_MERGE_PAIRS];
	struct compact_message message;
	const struct compact_call call = {.method = methods[tx->step],
		.position = task->position,
		.part = task->part,
		.round = tx->round};
	int error = 0;
	if (call.method == COMPACT_BEGIN) {
		message_begin(tx, task->position, pairs, &message);
	} else if (call.method == COMPACT_SEND) {
		error = message_send(tx, task, pieces, &message);
	} else {
		message.end.txid = tx->txid;
		message.end.target = tx->places[task->position].capability;
		message.end.commit = tx->step == COMPACT_ENDING;
	}
	task->state = TASK_RUNNING;
	task->failed = false;
	if (error == 0 && FAULT_POINT("compact.call"))
		error = -ECONNRESET;
	if (error == 0)
		error = tx->ops->call(tx->context, tx, &call, &message);
	if (error == 0)
		tx->calls++;
	else
		task_failed(tx, task, error, now_ns);
}

/* ---- how tasks end ---- */

/* It knows nothing of the transaction, and will take nothing of it any more. */
static bool error_ends(int error)
{
	return error == 0 || error == -EPERM || error == -EACCES || error == -ENOSYS;
}

static bool error_passes(int error)
{
	return error == -ETIMEDOUT || error == -ECONNRESET || error == -ECONNREFUSED ||
	       error == -EAGAIN || error == -ECANCELED ||
	       error == -ENOMEM; /* no worker, or no scratch, at the moment: nothing was done */
}

static void task_retry(struct compact_task *task, uint64_t now_ns)
{
	uint64_t pause_ns = COMPACT_RETRY_FIRST_NS << FM_MIN(task->tries, 6u);
	task->tries = (uint8_t)FM_MIN(task->tries + 1u, 255u);
	task->state = TASK_READY;
	task->not_before_ns = now_ns + FM_MIN(pause_ns, COMPACT_RETRY_MAX_NS);
}

static void task_failed(
	struct compact_tx *tx, struct compact_task *task, int error, uint64_t now_ns)
{
	task->error = error;
	if (tx->step == COMPACT_ABORTING) {
		if (error_ends(error))
			task->state = TASK_DONE;
		else
			task_retry(task, now_ns);
		return;
	}
	/* Its first answer was lost, perhaps. */
	if (tx->step == COMPACT_ENDING && error == -EPERM) {
		task->state = TASK_DONE;
		return;
	}
	if (error_passes(error) && task->tries + 1u < COMPACT_TRIES_MAX)
		task_retry(task, now_ns);
	else
		tx_enter_aborting(tx, "a node does not do it", error, now_ns);
}

/* ---- answers ---- */

static void pair_refused(struct compact_tx *tx, uint32_t index, enum ctl_merge_outcome outcome)
{
	if (tx->bad[index])
		return;
	tx->bad[index] = true;
	catalog_count(tx->catalog, merge_refusals, 1);
	if (outcome == CTL_MERGE_BAD_A || outcome == CTL_MERGE_BAD_B) {
		uint32_t ssid = outcome == CTL_MERGE_BAD_A ? tx->a[index].ssid : tx->b[index].ssid;
		catalog_count(tx->catalog, scrub_mismatches, 1);
		tx->healing = column_heal(tx->catalog, ssid) || tx->healing;
	}
}

static void sent_answered(struct compact_tx *tx, struct compact_task *task,
	const struct ctl_merge_sent *sent, uint64_t now_ns)
{
	struct ctl_merge_piece pieces[CATALOG_MERGE_PAIRS];
	const uint32_t count = part_pieces(tx, task, pieces);
	int error = 0;
	tx->sent_bytes += sent->sent_bytes;
	catalog_count(tx->catalog, merge_bytes, sent->sent_bytes);
	for (uint32_t i = 0; i < count; i++)
		if (sent->outcomes[i] == CTL_MERGE_UNREACHABLE)
			error = -ECONNRESET;
		else if (sent->outcomes[i] != CTL_MERGE_DONE)
			pair_refused(tx, pieces[i].index, sent->outcomes[i]);
	/* A target's refusal ends it: tried again it would be refused again. */
	for (unsigned q = 0; error != 0 && q < tx->m && !tx->local; q++)
		if (sent->target_status[q] != 0)
			error = sent->target_status[q];
	if (error == 0 && tx->local) {
		error = compact_local_send(tx, task, pieces, count, sent);
		if (error == 0 && task->partials > 0)
			return; /* done with the last partial */
	}
	if (error != 0)
		task_failed(tx, task, error, now_ns);
	else
		task->state = TASK_DONE;
}

static void partial_answered(struct compact_tx *tx, struct compact_task *task, int error,
	const uint8_t *outcomes, uint64_t now_ns)
{
	struct ctl_merge_piece pieces[CATALOG_MERGE_PAIRS];
	const uint32_t count = compact_local_pieces(task, pieces, part_pieces(tx, task, pieces));
	task->partials--;
	if (error != 0 && !task->failed) {
		task->failed = true;
		task->error = error;
	}
	for (uint32_t i = 0; error == 0 && i < count; i++)
		if (outcomes[i] != CTL_MERGE_DONE)
			pair_refused(tx, pieces[i].index, outcomes[i]);
	if (task->partials > 0)
		return;
	if (task->failed)
		task_failed(tx, task, task->error, now_ns);
	else
		task->state = TASK_DONE;
}

static void prepared_answered(
	struct compact_tx *tx, struct compact_task *task, const struct ctl_merge_prepared *prepared)
{
	for (uint32_t i = 0; i < tx->count; i++) {
		tx->crc[i][task->position - tx->k] = prepared->crcs[i];
		if (prepared->outcomes[i] != CTL_MERGE_DONE)
			pair_refused(tx, i, prepared->outcomes[i]);
	}
	task->state = TASK_DONE;
}

static struct compact_task *task_find(struct compact_tx *tx, const struct compact_call *call)
{
	unsigned position = call->method == COMPACT_PARTIAL ? call->source : call->position;
	for (unsigned i = 0; i < tx->tasks_count; i++)
		if (tx->tasks[i].position == position && tx->tasks[i].part == call->part &&
			tx->tasks[i].state == TASK_RUNNING)
			return &tx->tasks[i];
	return NULL;
}

void compact_tx_answered(struct compact_tx *tx, const struct compact_call *call, int error,
	const void *answer, uint64_t now_ns)
{
	FM_ASSERT_NE(tx->calls, 0);
	tx->calls--;
	struct compact_task *task = call->round == tx->round ? task_find(tx, call) : NULL;
	if (task == NULL)
		return;
	if (call->method == COMPACT_PARTIAL)
		partial_answered(tx, task, error, answer, now_ns);
	else if (error != 0)
		task_failed(tx, task, error, now_ns);
	else if (call->method == COMPACT_SEND)
		sent_answered(tx, task, answer, now_ns);
	else if (call->method == COMPACT_PREPARE)
		prepared_answered(tx, task, answer);
	else
		task->state = TASK_DONE;
}

void compact_tx_node_down(struct compact_tx *tx, uint32_t node, uint64_t now_ns)
{
	bool takes_part = false;
	if (tx->step == COMPACT_OVER || tx->step == COMPACT_WAITING)
		return;
	for (unsigned p = 0; p < (unsigned)tx->k + tx->m; p++)
		takes_part = takes_part || tx->places[p].node == node;
	if (!takes_part)
		return;
	compact_tx_abort(tx, "a node went down", now_ns);
	for (unsigned i = 0; i < tx->tasks_count; i++)
		if (tx->places[tx->tasks[i].position].node == node)
			tx->tasks[i].state = TASK_DONE; /* T3 */
}

void compact_tx_forget(struct compact_tx *tx)
{
	tx_over(tx, false);
	tx->catalog = NULL;
	tx->merge = NULL;
}

/* ---- from step to step ---- */

/* T2. */
static void tx_commit(struct compact_tx *tx, uint64_t now_ns)
{
	for (uint32_t i = 0; i < tx->count; i++) {
		struct catalog_pair *pair = &tx->merge->pairs[tx->pair[i]];
		memcpy(pair->crc, tx->crc[i], sizeof pair->crc);
		pair->good = !tx->bad[i];
	}
	tx_say(tx, "ended");
	tx_store_phase(tx, MERGE_COMMITTED, now_ns);
	tx_say(tx, "committed");
	tx_over(tx, true);
}

static uint32_t tx_count_good(const struct compact_tx *tx)
{
	uint32_t good = 0;
	for (uint32_t i = 0; i < tx->count; i++)
		good += !tx->bad[i];
	return good;
}

/* All tasks of the step are done. */
static void step_done(struct compact_tx *tx, uint64_t now_ns)
{
	tx->good_count = tx_count_good(tx);
	if (tx->step != COMPACT_ABORTING && tx->good_count == 0) {
		tx_enter_aborting(tx, "no pair is left", -ENODATA, now_ns);
		return;
	}
	switch (tx->step) {
	case COMPACT_BEGINNING:
		tx_say(tx, "begun");
		step_enter_sending(tx);
		break;
	case COMPACT_SENDING:
		tx_say(tx, "sent");
		step_enter_parities(tx, COMPACT_PREPARING);
		break;
	case COMPACT_PREPARING:
		tx_say(tx, "prepared");
		step_enter_parities(tx, COMPACT_ENDING);
		break;
	case COMPACT_ENDING:
		tx_commit(tx, now_ns);
		break;
	default:
		tx_enter_aborted(tx, now_ns);
		break;
	}
}

/* Begins what may be begun. True: all tasks are done. */
static bool step_run(struct compact_tx *tx, uint64_t now_ns, uint64_t *again_ns)
{
	const uint32_t round = tx->round;
	unsigned running = 0, done = 0;
	unsigned most = tx->local && tx->step == COMPACT_SENDING ? COMPACT_LOCAL_FLIGHTS
								 : COMPACT_TASKS_MAX;
	for (unsigned i = 0; i < tx->tasks_count; i++)
		running += tx->tasks[i].state == TASK_RUNNING;
	for (unsigned i = 0; i < tx->tasks_count && round == tx->round; i++) {
		struct compact_task *task = &tx->tasks[i];
		if (task->state == TASK_READY && now_ns >= task->not_before_ns && running < most) {
			running++;
			task_start(tx, task, now_ns);
		}
		if (task->state == TASK_READY && running < most)
			*again_ns = FM_MIN(*again_ns, task->not_before_ns);
	}
	for (unsigned i = 0; i < tx->tasks_count; i++)
		done += tx->tasks[i].state == TASK_DONE;
	return round == tx->round && done == tx->tasks_count;
}

void compact_tx_advance(struct compact_tx *tx, uint64_t now_ns, uint64_t *again_ns)
{
	*again_ns = UINT64_MAX;
	if (tx->step == COMPACT_WAITING)
		tx_wait(tx, now_ns);
	/* Each turn enters a later step, or ABORTING once, or ends. */
	while (tx->step != COMPACT_WAITING && tx->step != COMPACT_OVER) {
		uint32_t round = tx->round;
		if (tx->step != COMPACT_ABORTING && now_ns - tx->began_ns >= COMPACT_TX_NS)
			tx_enter_aborting(tx, "it takes too long", -ETIMEDOUT, now_ns);
		*again_ns =
			tx->step == COMPACT_ABORTING ? UINT64_MAX : tx->began_ns + COMPACT_TX_NS;
		if (step_run(tx, now_ns, again_ns))
			step_done(tx, now_ns);
		if (round == tx->round)
			return;
	}
}

/* ---- open ---- */

/* Where a predecessor's End has to go. A column that moved meanwhile: its old lease went back, and
 * with it the transaction. */
static void tx_resume_aborting(struct compact_tx *tx)
{
	tx->txid = atomic_load_explicit(&tx->merge->txid, memory_order_relaxed);
	tx->reason = "the agent was restarted";
	atomic_store_explicit(&tx->merge->phase, MERGE_ABORTING, memory_order_release);
	step_enter_parities(tx, COMPACT_ABORTING);
	for (unsigned q = 0; q < tx->m; q++)
		if (tx->ops->place(tx->context, tx->group, tx->k + q, &tx->places[tx->k + q]) !=
			0) {
			tx->places[tx->k + q].node = UINT32_MAX;
			tx->tasks[q].state = TASK_DONE; /* T3 */
		}
	for (unsigned p = 0; p < tx->k; p++)
		tx->places[p].node = UINT32_MAX;
	for (unsigned q = 0; q < tx->m && tx->txid == 0; q++)
		tx->tasks[q].state = TASK_DONE; /* T1: no node knows of it */
}

int compact_tx_open(struct compact_tx *tx, const struct compact_options *options)
{
	struct catalog_merge *merge = &options->catalog->merges[options->merge];
	const uint32_t phase = atomic_load_explicit(&merge->phase, memory_order_acquire);
	if (phase < MERGE_WANTED || phase > MERGE_ABORTING)
		return -ENOENT;
	const uint32_t group = merge->group;
	if (!column_group_good(options->catalog, group))
		return -EPROTO;
	const struct catalog_group *g = &options->catalog->groups[group];
	*tx = (struct compact_tx){.catalog = options->catalog,
		.merge = merge,
		.ops = options->ops,
		.context = options->context,
		.local = options->local,
		.group = group,
		.k = g->k,
		.m = g->m};
	if (tx->k < 1 || tx->k > EC_K_MAX || tx->m < 1 || tx->m > EC_M_MAX ||
		ec_code_init(&tx->code, tx->k, tx->m) != 0)
		return -EPROTO;
	if (phase == MERGE_PREPARING || phase == MERGE_ABORTING)
		tx_resume_aborting(tx);
	return 0;
}
