/*
 * tests/sim/merge_nodes.c: compaction at the simulated nodes (the contract is rpc/memnode.proto,
 * MergeBegin .. MergeEnd), and the messages there: lost, late, repeated, answered to nobody.
 *
 * What a lease's node remembers of a transaction goes with the lease, and ends with a fence: the
 * lease's epoch is another one then.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "tests/sim/merge.h"

#define SCRATCH_MAX 8192u
#define STEP_NS (30 * NS_PER_US)   /* a pair's work, and a way there */
#define PREPARE_NS (2 * NS_PER_MS) /* between a pair's sum and its store */
#define LATE_NS (400 * NS_PER_MS)  /* at most */
#define POLL_NS (NS_PER_MS / 4)    /* of the nodes' workers */

struct scratch {
	const struct sim_lease *lease;
	uint32_t epoch;
	uint64_t watermark, txid; /* txid: of the open one, or 0 */
	uint32_t count;
	struct ctl_merge_pair pairs[SIM_MERGE_PAIRS];
	uint32_t have[SIM_MERGE_PAIRS], crcs[SIM_MERGE_PAIRS][EC_K_MAX];
	bool spoilt[SIM_MERGE_PAIRS];
	uint8_t sums[SIM_MERGE_PAIRS][FM_PAGE_SIZE];
};

struct sim_message sim_messages[SIM_MESSAGES_MAX];
static struct scratch *scratches[SCRATCH_MAX];
static unsigned scratches_count;

/* ---- messages ---- */

static bool chaos(void)
{
	return !sim.calm && sim_chance(sim.scenario.merge_trouble);
}

static struct sim_message *message_room(void)
{
	for (unsigned i = 0; i < SIM_MESSAGES_MAX; i++)
		if (!sim_messages[i].used)
			return &sim_messages[i];
	return NULL;
}

static bool message_put(const struct sim_message *message, uint32_t owner, uint64_t at_ns)
{
	struct sim_message *m = message_room();
	if (m == NULL)
		return false;
	*m = *message;
	m->used = true;
	m->taken = m->answered = false;
	m->owner = owner;
	m->at_ns = at_ns;
	return true;
}

bool sim_message_post(const struct sim_message *message)
{
	uint64_t at_ns = sim.now_ns + STEP_NS + sim_below(STEP_NS);
	if (chaos())
		(void)message_put(message, SIM_NOBODY, sim.now_ns + sim_below(LATE_NS));
	if (sim.bug == BUG_MERGE_UNACKED && message->call.method == COMPACT_END)
		at_ns = UINT64_MAX;
	else if (chaos())
		at_ns = sim_below(2) == 0 ? UINT64_MAX : sim.now_ns + sim_below(LATE_NS);
	return message_put(message, message->owner, at_ns);
}

static bool node_hears(uint32_t node)
{
	return sim.nodes[node].alive && !sim.nodes[node].parted;
}

/* ---- transactions ---- */

static void scratch_end(struct scratch *s, uint64_t txid)
{
	if (sim.bug == BUG_MERGE_WATERMARK)
		return;
	s->watermark = FM_MAX(s->watermark, txid);
	if (s->txid <= txid)
		s->txid = 0;
}

static struct scratch *scratch_of(const struct sim_lease *l)
{
	for (unsigned i = 0; i < scratches_count; i++)
		if (scratches[i]->lease == l) {
			if (scratches[i]->epoch != l->capability.epoch)
				scratch_end(scratches[i], scratches[i]->txid);
			scratches[i]->epoch = l->capability.epoch;
			return scratches[i];
		}
	struct scratch *s = calloc(1, sizeof *s);
	FM_ASSERT(s != NULL && scratches_count < SCRATCH_MAX);
	s->lease = l;
	s->epoch = l->capability.epoch;
	scratches[scratches_count++] = s;
	return s;
}

/* 0: it is open here. */
static int scratch_open(const struct scratch *s, uint64_t txid)
{
	if (txid == s->txid)
		return 0;
	return txid <= s->watermark || txid < s->txid ? -EPERM : -ENOENT;
}

static int node_begin(struct scratch *s, const struct sim_message *m)
{
	if (m->txid <= s->watermark || m->txid < s->txid)
		return -EPERM;
	if (m->txid == s->txid)
		return 0;
	scratch_end(s, s->txid);
	s->txid = m->txid;
	s->count = m->count;
	memcpy(s->pairs, m->pairs, sizeof s->pairs);
	memset(s->have, 0, sizeof s->have);
	memset(s->spoilt, 0, sizeof s->spoilt);
	memset(s->sums, 0, sizeof s->sums);
	return 0;
}

static uint8_t node_add(
	struct scratch *s, unsigned source, uint32_t index, uint32_t crc, const uint8_t *bytes)
{
	if (index >= s->count || (s->pairs[index].sources >> source & 1) == 0)
		return CTL_MERGE_REFUSED;
	bool repeat = (s->have[index] >> source & 1) != 0;
	if (crc32c(bytes, FM_PAGE_SIZE) != crc || (repeat && s->crcs[index][source] != crc)) {
		s->spoilt[index] = true;
		return CTL_MERGE_CONTRADICTS;
	}
	if (repeat && sim.bug != BUG_MERGE_TWICE)
		return CTL_MERGE_DONE;
	s->have[index] |= 1u << source;
	s->crcs[index][source] = crc;
	ec_delta(FM_PAGE_SIZE, s->sums[index], bytes, s->sums[index]);
	return CTL_MERGE_DONE;
}

static int node_partial(struct scratch *s, struct sim_message *m)
{
	int error = scratch_open(s, m->txid);
	for (uint32_t i = 0; error == 0 && i < m->count; i++)
		m->outcomes[i] = node_add(s, m->position, m->indexes[i], m->crcs[i], m->bytes[i]);
	return error;
}

/* ---- a data node sends ---- */

static uint8_t *lease_slot(const struct sim_lease *l, uint32_t slot)
{
	FM_ASSERT_LE((slot + 1ull) * FM_PAGE_SIZE, l->bytes);
	return l->memory + (uint64_t)slot * FM_PAGE_SIZE;
}

static uint8_t node_delta(
	const struct sim_lease *l, const struct ctl_merge_piece *piece, uint8_t *delta)
{
	const uint8_t *a = lease_slot(l, piece->slot_a), *b = lease_slot(l, piece->slot_b);
	if (crc32c(a, FM_PAGE_SIZE) != piece->crc_a)
		return CTL_MERGE_BAD_A;
	if (crc32c(b, FM_PAGE_SIZE) != piece->crc_b)
		return CTL_MERGE_BAD_B;
	ec_delta(FM_PAGE_SIZE, a, b, delta);
	return CTL_MERGE_DONE;
}

/* The deltas' partials to one parity node; once more, later, now and then. */
static int send_target(const struct sim_message *m, unsigned t, uint8_t *outcomes)
{
	static struct sim_message partial; /* no switch while it is filled and used */
	const struct ec_code *code = core_code(&sim.core, m->k, m->m);
	unsigned process = 0;
	int error;
	sim_sleep_ns(STEP_NS + sim_below(STEP_NS));
	if (sscanf(m->targets[t].address, "sim:%u", &process) != 1)
		return -EINVAL;
	partial = (struct sim_message){.owner = SIM_NOBODY,
		.node = process,
		.deadline_ns = UINT64_MAX,
		.call = {.method = COMPACT_PARTIAL},
		.txid = m->txid,
		.capability = m->targets[t].capability,
		.position = m->position};
	uint32_t which[SIM_MERGE_PAIRS];
	for (uint32_t i = 0; i < m->count; i++) {
		if (outcomes[i] != CTL_MERGE_DONE)
			continue;
		which[partial.count] = i;
		partial.indexes[partial.count] = m->pieces[i].index;
		ec_partial(code, FM_PAGE_SIZE, m->position, m->targets[t].position - m->k,
			m->bytes[i], partial.bytes[partial.count]);
		partial.crcs[partial.count] = crc32c(partial.bytes[partial.count], FM_PAGE_SIZE);
		partial.count++;
	}
	if (chaos())
		(void)message_put(&partial, SIM_NOBODY, sim.now_ns + sim_below(LATE_NS));
	if (chaos() || !node_hears(process))
		return -ETIMEDOUT;
	const struct sim_lease *l = sim_lease_find(process, &partial.capability);
	error = l == NULL ? -EACCES : node_partial(scratch_of(l), &partial);
	for (uint32_t i = 0; error == 0 && i < partial.count; i++)
		outcomes[which[i]] = partial.outcomes[i];
	return error;
}

static int node_send(const struct sim_lease *l, struct sim_message *m)
{
	memset(&m->sent, 0, sizeof m->sent);
	for (uint32_t i = 0; i < m->count; i++)
		m->sent.outcomes[i] = node_delta(l, &m->pieces[i], m->bytes[i]);
	for (unsigned t = 0; t < m->targets_count; t++) {
		m->sent.target_status[t] = send_target(m, t, m->sent.outcomes);
		if (m->sent.target_status[t] == 0)
			m->sent.sent_bytes += m->count * (uint64_t)FM_PAGE_SIZE;
		for (uint32_t i = 0; m->sent.target_status[t] != 0 && i < m->count; i++)
			m->sent.outcomes[i] = CTL_MERGE_UNREACHABLE;
	}
	m->sent.deltas = m->targets_count == 0 ? m->bytes[0] : NULL;
	return 0;
}

/* ---- a parity node stores ---- */

/* The lease, if the transaction is still open there: what a worker asks before it stores. */
static struct sim_lease *prepare_lease(const struct sim_message *m)
{
	struct sim_lease *l = sim_lease_find(m->node, &m->capability);
	bool open =
		l != NULL && sim.nodes[m->node].alive && scratch_open(scratch_of(l), m->txid) == 0;
	return open ? l : NULL;
}

static uint8_t node_assemble(const struct sim_message *m, uint32_t i, uint32_t *crc)
{
	uint8_t made[FM_PAGE_SIZE];
	struct sim_lease *l = prepare_lease(m);
	if (l == NULL)
		return CTL_MERGE_REFUSED;
	const struct scratch *s = scratch_of(l);
	const struct ctl_merge_pair *pair = &s->pairs[i];
	if (s->spoilt[i])
		return CTL_MERGE_CONTRADICTS;
	if (s->have[i] != pair->sources)
		return CTL_MERGE_MISSING;
	if (crc32c(lease_slot(l, pair->old_slot), FM_PAGE_SIZE) != pair->old_crc)
		return CTL_MERGE_BAD_A;
	ec_delta(FM_PAGE_SIZE, lease_slot(l, pair->old_slot), s->sums[i], made);
	uint32_t slot = pair->fresh_slot;
	sim_sleep_ns(1 + sim_below(chaos() ? LATE_NS : PREPARE_NS));
	if ((l = prepare_lease(m)) == NULL)
		return CTL_MERGE_REFUSED; /* ended, or fenced: nothing is stored */
	sim_lease_store(l, (uint64_t)slot * FM_PAGE_SIZE, made, FM_PAGE_SIZE);
	*crc = crc32c(made, FM_PAGE_SIZE);
	return CTL_MERGE_DONE;
}

static int node_prepare(struct scratch *s, struct sim_message *m)
{
	int error = scratch_open(s, m->txid);
	uint32_t count = s->count;
	memset(&m->prepared, 0, sizeof m->prepared);
	for (uint32_t i = 0; error == 0 && i < count; i++)
		m->prepared.outcomes[i] = node_assemble(m, i, &m->prepared.crcs[i]);
	if (error == 0 && prepare_lease(m) == NULL)
		error = -EPERM;
	return error;
}

/* ---- work ---- */

static int message_do(struct sim_message *m)
{
	struct sim_lease *l = sim_lease_find(m->node, &m->capability);
	if (l == NULL)
		return -EACCES;
	switch (m->call.method) {
	case COMPACT_BEGIN:
		return node_begin(scratch_of(l), m);
	case COMPACT_SEND:
		return node_send(l, m);
	case COMPACT_PARTIAL:
		return node_partial(scratch_of(l), m);
	case COMPACT_PREPARE:
		return node_prepare(scratch_of(l), m);
	case COMPACT_END:
		scratch_end(scratch_of(l), m->txid);
		return 0;
	}
	return -ENOSYS;
}

static void message_work(struct sim_message *m)
{
	bool answers = node_hears(m->node);
	if (answers)
		m->error = message_do(m);
	else if (!sim.nodes[m->node].alive) {
		m->error = -ECONNREFUSED;
		answers = true;
	}
	answers = answers && (!sim.nodes[m->node].parted || m->error == -ECONNREFUSED) && !chaos();
	if (m->owner == SIM_NOBODY)
		m->used = false;
	else
		m->answered = answers;
	m->at_ns = UINT64_MAX;
	m->taken = false;
}

void sim_merge_node_main(void *argument)
{
	(void)argument;
	for (;;) {
		struct sim_message *mine = NULL;
		for (unsigned i = 0; i < SIM_MESSAGES_MAX && mine == NULL; i++)
			if (sim_messages[i].used && !sim_messages[i].taken &&
				sim_messages[i].at_ns <= sim.now_ns)
				mine = &sim_messages[i];
		if (mine == NULL) {
			sim_sleep_ns(POLL_NS + sim_below(POLL_NS));
			continue;
		}
		mine->taken = true;
		message_work(mine);
	}
}
