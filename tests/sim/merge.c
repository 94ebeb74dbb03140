/*
 * tests/sim/merge.c: the agent's part of compaction: the real farmem/agent/compact_index.c chooses,
 * the real compact_tx.c coordinates; calls are messages (merge_nodes.c). It may end between any two
 * steps: a successor finds the entries in the catalog (sim_merges_open).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "farmem/agent/compact_index.h"
#include "farmem/record.h"
#include "tests/sim/merge.h"

#define MERGES_MAX 4u
#define LOOK_RECORDS 4096u
#define CALL_NS (30 * NS_PER_MS)
#define STUCK_NS (2 * NS_PER_S) /* beyond any time-out, when nothing fails */

static struct compact_tx txs[MERGES_MAX];
static bool used[MERGES_MAX];
static struct compact_index *index_now;
static bool index_ended;

/* What the runtime calls instead (--bug merge-keep). */
bool sim_retire_keeping(struct core *core, struct ssid id, uint32_t keep);

bool sim_retire_keeping(struct core *core, struct ssid id, uint32_t keep)
{
	return record_retire_keeping(core, id, sim.bug == BUG_MERGE_KEEP ? 0 : keep);
}

static struct catalog *merges_catalog(void)
{
	return &sim.core.catalog;
}

/* ---- what compact_tx.c asks for ---- */

static int op_place(void *context, uint32_t group, uint32_t position, struct compact_place *place)
{
	struct catalog_column *column = &merges_catalog()->groups[group].columns[position];
	const struct catalog_place *cur = catalog_cur(column);
	(void)context;
	if (atomic_load(&column->lost) != 0 ||
		atomic_load(&merges_catalog()->nodes[cur->node].state) == NODE_DOWN)
		return -ENOENT;
	*place = (struct compact_place){cur->node, cur->capability};
	return 0;
}

static int op_address(
	void *context, uint32_t group, uint32_t position, char address[FABRIC_ENDPOINT_MAX])
{
	struct compact_place place;
	int error = op_place(context, group, position, &place);
	if (error == 0)
		snprintf(address, FABRIC_ENDPOINT_MAX, "sim:%u", sim.node_of[place.node]);
	return error;
}

static void message_fill_send(struct sim_message *m, const struct ctl_merge_send *send)
{
	m->capability = send->source;
	m->txid = send->txid;
	m->k = send->k;
	m->m = send->m;
	m->position = send->position;
	m->targets_count = send->targets_count;
	memcpy(m->targets, send->targets, sizeof m->targets);
	m->count = send->count;
	memcpy(m->pieces, send->pieces, send->count * sizeof *send->pieces);
}

static void message_fill_partial(struct sim_message *m, const struct ctl_merge_partial *partial)
{
	m->capability = partial->target;
	m->txid = partial->txid;
	m->position = partial->position;
	m->count = partial->count;
	memcpy(m->indexes, partial->indexes, partial->count * sizeof *partial->indexes);
	memcpy(m->crcs, partial->crcs, partial->count * sizeof *partial->crcs);
	memcpy(m->bytes, partial->bytes, partial->count * (size_t)FM_PAGE_SIZE);
}

static void message_fill(struct sim_message *m, const struct compact_message *message)
{
	switch (m->call.method) {
	case COMPACT_BEGIN:
		m->capability = message->begin.target;
		m->txid = message->begin.txid;
		m->count = message->begin.count;
		FM_ASSERT_LE(m->count, SIM_MERGE_PAIRS);
		memcpy(m->pairs, message->begin.pairs, m->count * sizeof m->pairs[0]);
		break;
	case COMPACT_SEND:
		FM_ASSERT_LE(message->send.count, SIM_MERGE_PAIRS);
		message_fill_send(m, &message->send);
		break;
	case COMPACT_PARTIAL:
		FM_ASSERT_LE(message->partial.count, SIM_MERGE_PAIRS);
		message_fill_partial(m, &message->partial);
		break;
	case COMPACT_PREPARE:
	case COMPACT_END:
		m->capability = message->end.target;
		m->txid = message->end.txid;
		break;
	}
}

static int op_call(void *context, struct compact_tx *tx, const struct compact_call *call,
	const struct compact_message *message)
{
	static struct sim_message m; /* copied at once */
	(void)context;
	m = (struct sim_message){.owner = (uint32_t)(tx - txs),
		.node = sim.node_of[tx->places[call->position].node],
		.deadline_ns = sim.now_ns + CALL_NS,
		.call = *call};
	message_fill(&m, message);
	return sim_message_post(&m) ? 0 : -EAGAIN;
}

static const struct compact_ops ops = {.place = op_place, .address = op_address, .call = op_call};

/* ---- answers ---- */

static const void *message_answer(const struct sim_message *m)
{
	switch (m->call.method) {
	case COMPACT_SEND:
		return &m->sent;
	case COMPACT_PARTIAL:
		return m->outcomes;
	case COMPACT_PREPARE:
		return &m->prepared;
	default:
		return NULL;
	}
}

/* Nobody waits for it any more; it may still be done. */
static void message_disown(struct sim_message *m)
{
	m->owner = SIM_NOBODY;
	if (!m->taken && m->at_ns == UINT64_MAX)
		m->used = false;
}

static void message_heard(struct sim_message *m)
{
	struct compact_tx *tx = &txs[m->owner];
	const struct compact_call call = m->call;
	bool early = sim.bug == BUG_MERGE_UNACKED && call.method == COMPACT_END;
	if (!m->answered && !early && sim.now_ns < m->deadline_ns)
		return;
	if (m->answered) {
		compact_tx_answered(tx, &call, m->error, message_answer(m), sim.now_ns);
		m->used = false;
		return;
	}
	message_disown(m);
	compact_tx_answered(tx, &call, early ? 0 : -ETIMEDOUT, NULL, sim.now_ns);
}

/* ---- transactions ---- */

static bool group_may(void *context, uint32_t group)
{
	(void)context;
	for (unsigned i = 0; i < CATALOG_MERGES_MAX; i++)
		if (atomic_load(&merges_catalog()->merges[i].phase) != MERGE_FREE &&
			merges_catalog()->merges[i].group == group)
			return false;
	return atomic_load(&merges_catalog()->groups[group].state) == GROUP_OPEN;
}

static void merge_open(unsigned i)
{
	const struct compact_options options = {
		.catalog = merges_catalog(), .merge = i, .ops = &ops, .local = sim_below(4) == 0};
	used[i] = compact_tx_open(&txs[i], &options) == 0;
}

/* False: no more of this pass. */
static bool merge_begin(unsigned i)
{
	uint32_t pairs[SIM_MERGE_PAIRS][2], group;
	if (!compact_index_group(index_now, group_may, NULL, &group))
		return false;
	uint32_t count = compact_index_take(
		index_now, group, pairs, 1 + (uint32_t)sim_below(SIM_MERGE_PAIRS));
	if (count == 0)
		return true;
	if (compact_tx_want(merges_catalog(), i, group, pairs, count, sim.now_ns) == 0)
		merge_open(i);
	return true;
}

static void merges_begin(void)
{
	if (!index_ended) {
		index_ended = compact_index_look(index_now, LOOK_RECORDS);
		return;
	}
	for (unsigned i = 0; i < MERGES_MAX; i++) {
		if (used[i] || atomic_load(&merges_catalog()->merges[i].phase) != MERGE_FREE)
			continue;
		if (merge_begin(i))
			return;
		compact_index_restart(index_now);
		index_ended = false;
		return;
	}
}

static void merge_advance(unsigned i)
{
	uint64_t again_ns;
	struct compact_tx *tx = &txs[i];
	if (atomic_load(&merges_catalog()->groups[tx->group].state) != GROUP_OPEN)
		compact_tx_abort(tx, "the group is to be left", sim.now_ns);
	compact_tx_advance(tx, sim.now_ns, &again_ns);
	if (compact_tx_is_over(tx))
		used[i] = false;
}

void sim_merges_node_down(uint32_t node)
{
	for (unsigned i = 0; i < MERGES_MAX; i++)
		if (used[i])
			compact_tx_node_down(&txs[i], node, sim.now_ns);
}

void sim_merges_open(void)
{
	if (!sim.scenario.merges)
		return;
	for (unsigned i = 0; i < SIM_MESSAGES_MAX; i++)
		if (sim_messages[i].used)
			message_disown(&sim_messages[i]);
	memset(used, 0, sizeof used);
	/* What a dead agent had is gone, wherever it stood in it. */
	index_now = compact_index_open(merges_catalog());
	FM_ASSERT(index_now != NULL);
	index_ended = false;
	for (unsigned i = 0; i < MERGES_MAX; i++)
		merge_open(i);
	atomic_store(&merges_catalog()->header->compacting, sim.seed % 3 != 0);
}

void sim_merges_round(void)
{
	if (!sim.scenario.merges)
		return;
	for (unsigned i = 0; i < SIM_MESSAGES_MAX; i++)
		if (sim_messages[i].used && sim_messages[i].owner != SIM_NOBODY)
			message_heard(&sim_messages[i]);
	for (unsigned i = 0; i < MERGES_MAX; i++)
		if (used[i])
			merge_advance(i);
	merges_begin();
}

/* ---- for check.c ---- */

/* Is this spanset part of a pair under way, as what? */
enum sim_role sim_merge_part(uint32_t ssid, struct sim_pair_view *view)
{
	for (unsigned i = 0; i < CATALOG_MERGES_MAX; i++) {
		const struct catalog_merge *merge = &merges_catalog()->merges[i];
		uint32_t phase = atomic_load(&merge->phase);
		if (phase < MERGE_CLAIMING)
			continue;
		for (uint32_t p = 0; p < merge->count; p++) {
			const struct catalog_pair *pair = &merge->pairs[p];
			if (pair->n == CATALOG_NO_RECORD)
				continue;
			*view = (struct sim_pair_view){.group = merge->group,
				.take = pair->take,
				.settled = pair->settled};
			if (pair->n == ssid)
				return SIM_ROLE_N;
			if (pair->a == ssid && !(view->settled & 1u << 30))
				return SIM_ROLE_A;
			if (pair->b == ssid && !(view->settled & 1u << 31))
				return SIM_ROLE_B;
		}
	}
	return SIM_ROLE_NONE;
}

void sim_merges_check_calm(void)
{
	for (unsigned i = 0; i < CATALOG_MERGES_MAX; i++) {
		const struct catalog_merge *merge = &merges_catalog()->merges[i];
		uint32_t phase = atomic_load(&merge->phase);
		if (phase != MERGE_FREE && sim.now_ns - atomic_load(&merge->since_ns) > STUCK_NS)
			sim_fail("merge %u of group %u is stuck in phase %u for %llu ms", i,
				merge->group, phase,
				(unsigned long long)((sim.now_ns - atomic_load(&merge->since_ns)) /
						     NS_PER_MS));
	}
}
