/*
 * farmem/agent/compact_tx_test.c: transactions of compaction on nodes that keep the contract
 * (compact_fake.h), while messages are lost, repeated and late, nodes end, and the agent is killed
 * at every step. After each: a committed pair's parities are those of the merged spanset, and once
 * the runtime has seen the end nothing is ever stored again.
 */
#include <setjmp.h>

#include "farmem/agent/compact_fake.h"
#include "farmem/core_test.h"

#define EVENTS_MAX 1024u
#define LIMIT_NS (3600 * NS_PER_S)

struct request {
	struct compact_call call;
	uint64_t txid;
	bool local;
	uint32_t count;
	struct ctl_merge_pair pairs[FAKE_PAIRS];
	struct ctl_merge_piece pieces[FAKE_PAIRS];
	uint32_t indexes[FAKE_PAIRS], crcs[FAKE_PAIRS];
	uint8_t bytes[FAKE_PAIRS][FM_PAGE_SIZE];
};

struct reply {
	int error;
	uint8_t outcomes[FAKE_PAIRS];
	struct ctl_merge_sent sent;
	struct ctl_merge_prepared prepared;
	uint8_t deltas[FAKE_PAIRS][FM_PAGE_SIZE];
};

struct event {
	uint64_t at_ns; /* 0: free */
	bool is_reply, is_waited;
	unsigned life; /* of the agent that asked */
	struct request *request;
	struct reply *reply;
};

struct chaos {
	unsigned lose, repeat, slow; /* of 100 */
	unsigned die_node, rot, leave, refuse;
	bool local;
};

static struct world {
	struct core core;
	struct compact_tx tx;
	bool open;
	unsigned life, pairs_count;
	uint64_t now_ns, again_ns, runtime_ns;
	uint32_t seed;
	struct chaos chaos;
	struct event events[EVENTS_MAX];
	uint32_t pairs[FAKE_PAIRS][2], live[FAKE_PAIRS][2];
	unsigned committed, good, aborted, steps, die_at, moved;
	uint64_t sent_bytes;
	bool quiet; /* no chaos: all of it must succeed */
} world;

static jmp_buf death;

static uint32_t draw(uint32_t below)
{
	world.seed = world.seed * 1664525u + 1013904223u;
	return (uint32_t)(((uint64_t)(world.seed >> 4) * below) >> 28);
}

static bool chance(unsigned of_100)
{
	return draw(100) < of_100;
}

static unsigned code_n(void)
{
	return (unsigned)fake.code.k + fake.code.m;
}

/* ---- events ---- */

static struct event *event_add(uint64_t at_ns)
{
	for (unsigned i = 0; i < EVENTS_MAX; i++)
		if (world.events[i].at_ns == 0) {
			world.events[i] = (struct event){.at_ns = at_ns, .life = world.life};
			return &world.events[i];
		}
	test_fail(__FILE__, __LINE__, "no room for another event");
}

static struct event *event_next(void)
{
	struct event *next = NULL;
	for (unsigned i = 0; i < EVENTS_MAX; i++)
		if (world.events[i].at_ns != 0 &&
			(next == NULL || world.events[i].at_ns < next->at_ns))
			next = &world.events[i];
	return next;
}

static uint64_t delay(void)
{
	if (chance(world.chaos.slow))
		return 1 + (uint64_t)draw(20) * NS_PER_S;
	return 1 + draw(1000) * NS_PER_US;
}

static void reply_later(const struct event *asked, struct reply *reply, uint64_t delay_ns)
{
	struct event *event = event_add(world.now_ns + delay_ns);
	event->is_reply = true;
	event->life = asked->life;
	event->request = malloc(sizeof *event->request);
	*event->request = *asked->request;
	event->reply = reply;
}

static struct reply *reply_make(int error)
{
	struct reply *reply = calloc(1, sizeof *reply);
	reply->error = error;
	return reply;
}

/* Lost ones are answered by the deadline. Repeats arrive at any time and are answered to nobody. */
static void request_later(const struct request *request, bool is_waited)
{
	unsigned copies = chance(world.chaos.lose) ? 0 : 1;
	bool lost = copies == 0;
	copies += chance(world.chaos.repeat);
	for (unsigned i = 0; i < copies; i++) {
		struct event *event = event_add(world.now_ns + delay());
		event->is_waited = is_waited && !lost && i == 0;
		event->request = malloc(sizeof *event->request);
		*event->request = *request;
	}
	if (lost && is_waited) {
		struct event asked = {
			.life = world.life, .request = (struct request *)(uintptr_t)request};
		reply_later(&asked, reply_make(-ETIMEDOUT), CTL_MERGE_NS);
	}
}

static void event_free(struct event *event)
{
	free(event->request);
	free(event->reply);
	event->at_ns = 0;
}

/* ---- nodes ---- */

/* Remote mode: to a parity node, from another node. */
static int pass_on(const struct request *request, unsigned target, const struct reply *reply)
{
	static struct request partial;
	uint8_t outcomes[FAKE_PAIRS];
	partial.call = (struct compact_call){.method = COMPACT_PARTIAL,
		.position = (uint8_t)target,
		.source = request->call.position};
	partial.txid = request->txid;
	partial.count = 0;
	for (uint32_t i = 0; i < request->count; i++) {
		if (reply->sent.outcomes[i] != CTL_MERGE_DONE)
			continue;
		uint8_t *bytes = partial.bytes[partial.count];
		ec_partial(&fake.code, FM_PAGE_SIZE, request->call.position, target - fake.code.k,
			reply->deltas[i], bytes);
		partial.indexes[partial.count] = request->pieces[i].index;
		partial.crcs[partial.count++] = crc32c(bytes, FM_PAGE_SIZE);
	}
	if (chance(world.chaos.repeat))
		request_later(&partial, false);
	if (fake.nodes[target].dead || chance(world.chaos.lose))
		return -ETIMEDOUT;
	return fake_partial(&fake.nodes[target],
		&(struct ctl_merge_partial){.txid = partial.txid,
			.position = partial.call.source,
			.count = partial.count,
			.indexes = partial.indexes,
			.crcs = partial.crcs,
			.bytes = partial.bytes[0]},
		outcomes);
}

static void node_sends(const struct request *request, struct reply *reply)
{
	const struct fake_node *node = &fake.nodes[request->call.position];
	for (uint32_t i = 0; i < request->count; i++)
		reply->sent.outcomes[i] = fake_delta(node, &request->pieces[i], reply->deltas[i]);
	for (unsigned q = 0; q < fake.code.m && !request->local; q++) {
		int error = pass_on(request, fake.code.k + q, reply);
		reply->sent.target_status[q] = error;
		for (uint32_t i = 0; i < request->count; i++) {
			if (error != 0 && reply->sent.outcomes[i] == CTL_MERGE_DONE)
				reply->sent.outcomes[i] = CTL_MERGE_UNREACHABLE;
			reply->sent.sent_bytes += FM_PAGE_SIZE;
		}
	}
}

static void node_does(const struct request *request, struct reply *reply)
{
	struct fake_node *node = &fake.nodes[request->call.position];
	const struct ctl_merge_begin begin = {
		.txid = request->txid, .count = request->count, .pairs = request->pairs};
	const struct ctl_merge_partial partial = {.txid = request->txid,
		.position = request->call.source,
		.count = request->count,
		.indexes = request->indexes,
		.crcs = request->crcs,
		.bytes = request->bytes[0]};
	if (node->dead || node->old) {
		reply->error = node->dead ? -ECONNRESET : -ENOSYS;
		return;
	}
	switch (request->call.method) {
	case COMPACT_BEGIN:
		reply->error = fake_begin(node, &begin);
		return;
	case COMPACT_SEND:
		node_sends(request, reply);
		return;
	case COMPACT_PARTIAL:
		reply->error = fake_partial(node, &partial, reply->outcomes);
		return;
	case COMPACT_PREPARE:
		reply->error = fake_prepare(node, request->txid, &reply->prepared);
		return;
	default:
		reply->error = fake_end(node, request->txid);
		return;
	}
}

/* ---- what the transaction sees ---- */

static int ops_place(void *context, uint32_t group, uint32_t position, struct compact_place *place)
{
	(void)context;
	(void)group;
	memset(place, 0, sizeof *place);
	place->node = position;
	place->capability.lease = position + 1;
	return atomic_load(&world.core.catalog.nodes[position].state) == NODE_DOWN ? -ENOENT : 0;
}

static int ops_address(
	void *context, uint32_t group, uint32_t position, char address[FABRIC_ENDPOINT_MAX])
{
	(void)context;
	(void)group;
	snprintf(address, FABRIC_ENDPOINT_MAX, "127.0.0.1:%u", 7000 + position);
	return 0;
}

static void request_fill(struct request *request, const struct compact_message *message)
{
	const struct ctl_merge_partial *partial = &message->partial;
	switch (request->call.method) {
	case COMPACT_BEGIN:
		request->txid = message->begin.txid;
		request->count = message->begin.count;
		memcpy(request->pairs, message->begin.pairs,
			request->count * sizeof *request->pairs);
		return;
	case COMPACT_SEND:
		request->txid = message->send.txid;
		request->count = message->send.count;
		request->local = message->send.targets_count == 0;
		CHECK_EQ(request->local, world.tx.local);
		CHECK(request->local || message->send.targets_count == fake.code.m);
		memcpy(request->pieces, message->send.pieces,
			request->count * sizeof *request->pieces);
		return;
	case COMPACT_PARTIAL:
		request->txid = partial->txid;
		request->count = partial->count;
		memcpy(request->indexes, partial->indexes, partial->count * sizeof(uint32_t));
		memcpy(request->crcs, partial->crcs, partial->count * sizeof(uint32_t));
		memcpy(request->bytes, partial->bytes, (size_t)partial->count * FM_PAGE_SIZE);
		return;
	default:
		request->txid = message->end.txid;
		return;
	}
}

static int ops_call(void *context, struct compact_tx *tx, const struct compact_call *call,
	const struct compact_message *message)
{
	static struct request request;
	(void)context;
	(void)tx;
	memset(&request, 0, sizeof request);
	request.call = *call;
	request_fill(&request, message);
	CHECK_LE(request.count, FAKE_PAIRS);
	request_later(&request, true);
	return 0;
}

static void ops_step(void *context, const char *name)
{
	(void)context;
	(void)name;
	if (++world.steps == world.die_at)
		longjmp(death, 1);
}

static const struct compact_ops ops = {ops_place, ops_address, ops_call, ops_step};

/* ---- the runtime ---- */

static void runtime_claims(struct catalog_merge *merge)
{
	unsigned claimed = 0;
	atomic_store(&merge->phase, MERGE_CLAIMING);
	for (uint32_t i = 0; i < merge->count; i++) {
		struct catalog_pair *pair = &merge->pairs[i];
		if (chance(world.chaos.refuse))
			continue;
		CHECK(record_claim(&world.core, ssid_make(pair->a)));
		CHECK(record_claim(&world.core, ssid_make(pair->b)));
		pair->take = world.live[i][1];
		for (unsigned q = 0; q < fake.code.m; q++)
			pair->fresh[q] = 2 * FAKE_PAIRS + i;
		pair->n = 100 + i;
		claimed++;
	}
	atomic_store(&merge->phase, claimed > 0 ? MERGE_CLAIMED : MERGE_FREE);
}

static void check_good(const struct catalog_pair *pair)
{
	static uint8_t parity[EC_M_MAX][FM_PAGE_SIZE];
	const uint8_t *data[EC_K_MAX];
	uint8_t *parities[EC_M_MAX];
	for (unsigned p = 0; p < fake.code.k; p++) {
		uint32_t ssid = pair->take >> p & 1 ? pair->b : pair->a;
		struct record r = record_at(&world.core, ssid_make(ssid));
		data[p] = fake.nodes[p].slots[record_slot(r, p)];
		if (crc32c(data[p], FM_PAGE_SIZE) != record_crc(r, p))
			return; /* spoilt since, or its node is dead */
	}
	for (unsigned q = 0; q < fake.code.m; q++)
		parities[q] = parity[q];
	ec_encode(&fake.code, FM_PAGE_SIZE, data, parities);
	for (unsigned q = 0; q < fake.code.m; q++) {
		const struct fake_node *node = &fake.nodes[fake.code.k + q];
		CHECK_EQ(pair->crc[q], crc32c(parity[q], FM_PAGE_SIZE));
		CHECK(node->dead ||
			memcmp(node->slots[pair->fresh[q]], parity[q], FM_PAGE_SIZE) == 0);
	}
}

static void runtime_ends(struct catalog_merge *merge, bool committed)
{
	fake.ended[atomic_load(&merge->txid) % FAKE_TXIDS] = atomic_load(&merge->txid) != 0;
	for (uint32_t i = 0; i < merge->count; i++) {
		struct catalog_pair *pair = &merge->pairs[i];
		if (pair->n == CATALOG_NO_RECORD)
			continue;
		if (committed && pair->good) {
			check_good(pair);
			world.good++;
			world.moved += (unsigned)__builtin_popcount(pair->take);
		}
		record_unclaim(&world.core, ssid_make(pair->a));
		record_unclaim(&world.core, ssid_make(pair->b));
	}
	world.committed += committed;
	world.aborted += !committed;
	atomic_store(&merge->phase, MERGE_FREE);
}

static void runtime_round(void)
{
	struct catalog_merge *merge = &world.core.catalog.merges[0];
	if (world.now_ns < world.runtime_ns)
		return;
	world.runtime_ns = world.now_ns + draw(5) * NS_PER_MS;
	if (atomic_load(&merge->phase) == MERGE_WANTED)
		runtime_claims(merge);
	else if (atomic_load(&merge->phase) == MERGE_COMMITTED)
		runtime_ends(merge, true);
	else if (atomic_load(&merge->phase) == MERGE_ABORTED)
		runtime_ends(merge, false);
}

/* ---- the world ---- */

static void fill_spanset(struct ssid id, unsigned slot)
{
	const uint8_t *data[EC_K_MAX];
	uint8_t *parities[EC_M_MAX];
	struct record r = record_at(&world.core, id);
	for (unsigned p = 0; p < code_n(); p++) {
		uint64_t *words = (uint64_t *)(void *)fake.nodes[p].slots[slot];
		uint64_t x = ((uint64_t)world.seed << 32) ^ (p * 77 + slot + 1);
		for (unsigned i = 0; p < fake.code.k && i < FM_PAGE_SIZE / 8; i++)
			words[i] = x = x * 6364136223846793005ull + 1442695040888963407ull;
		if (p < fake.code.k)
			data[p] = fake.nodes[p].slots[slot];
		else
			parities[p - fake.code.k] = fake.nodes[p].slots[slot];
	}
	ec_encode(&fake.code, FM_PAGE_SIZE, data, parities);
	for (unsigned p = 0; p < code_n(); p++) {
		record_set_slot(r, p, slot);
		record_set_crc(r, p, crc32c(fake.nodes[p].slots[slot], FM_PAGE_SIZE));
	}
	for (unsigned p = 0; p < fake.code.k; p++)
		record_set_owner(r, p, p);
}

static void make_pair(unsigned i)
{
	const uint32_t all = (1u << fake.code.k) - 1;
	uint32_t b = 1 + draw(all - 1), a = (all & ~b) == 0 ? 1 : all & ~b;
	if (chance(30) && (a & (a - 1)) != 0)
		a &= a - 1; /* not a complement */
	b &= ~a;
	for (unsigned j = 0; j < 2; j++) {
		struct ssid id = record_alloc(&world.core);
		CHECK(!ssid_is_none(id));
		world.live[i][j] = j == 0 ? a : b;
		fill_spanset(id, 2 * i + j);
		record_publish(&world.core, id, 0, world.live[i][j]);
		world.pairs[i][j] = id.v;
	}
}

static void world_open(uint32_t seed, unsigned k, unsigned m, const struct chaos *chaos)
{
	memset(&world, 0, sizeof world);
	memset(&fake, 0, sizeof fake);
	world.seed = seed * 2654435761u + 1;
	world.now_ns = NS_PER_S;
	world.chaos = *chaos;
	core_test_open(&world.core, &(struct core_test_options){.k = k,
					    .m = m,
					    .records_max = 256,
					    .region_bytes = FAKE_SLOTS * FM_PAGE_SIZE});
	core_test_group(&world.core, 0, k, m, FAKE_SLOTS);
	CHECK_EQ(ec_code_init(&fake.code, k, m), 0);
	for (unsigned p = 0; p < code_n(); p++) {
		atomic_store(&world.core.catalog.nodes[p].state, NODE_UP);
		catalog_cur(&world.core.catalog.groups[0].columns[p])->node = (uint16_t)p;
	}
	world.pairs_count = 1 + draw(FAKE_PAIRS - 1);
	for (unsigned i = 0; i < world.pairs_count; i++)
		make_pair(i);
}

static void world_close(void)
{
	for (unsigned i = 0; i < EVENTS_MAX; i++)
		if (world.events[i].at_ns != 0)
			event_free(&world.events[i]);
	core_test_close(&world.core);
}

static void agent_opens(void)
{
	const struct compact_options options = {.catalog = &world.core.catalog,
		.ops = &ops,
		.context = &world,
		.local = world.chaos.local};
	world.open = compact_tx_open(&world.tx, &options) == 0;
	world.again_ns = 0;
}

static void agent_dies(void)
{
	world.life++;
	agent_opens();
}

static void node_dies(unsigned position)
{
	struct fake_node *node = &fake.nodes[position];
	node->dead = true;
	node->txid = 0;
	memset(node->slots, 0xdd, sizeof node->slots);
	column_lose(&world.core.catalog, 0, position);
	atomic_store(&world.core.catalog.nodes[position].state, NODE_DOWN);
	if (world.open)
		compact_tx_node_down(&world.tx, position, world.now_ns);
}

static void something_happens(void)
{
	unsigned position = draw(code_n());
	if (chance(world.chaos.die_node) && !fake.nodes[position].dead)
		node_dies(position);
	if (chance(world.chaos.rot))
		fake.nodes[position].slots[draw(2 * FAKE_PAIRS)][draw(FM_PAGE_SIZE)] ^= 1;
	if (chance(world.chaos.leave)) {
		column_close_group(&world.core.catalog, 0);
		if (world.open)
			compact_tx_abort(&world.tx, "left", world.now_ns);
	}
}

static void deliver(struct event *event)
{
	const struct request *request = event->request;
	struct reply *reply = event->reply;
	if (!event->is_reply) {
		reply = reply_make(0);
		node_does(request, reply);
		if (event->is_waited && chance(world.chaos.lose))
			reply->error = -ETIMEDOUT;
		if (event->is_waited)
			reply_later(event, reply, delay());
		else
			free(reply);
	} else if (world.open && event->life == world.life) {
		const void *answer = request->call.method == COMPACT_SEND ? (void *)&reply->sent
				     : request->call.method == COMPACT_PREPARE
					     ? (void *)&reply->prepared
					     : (void *)reply->outcomes;
		reply->sent.deltas = request->local ? reply->deltas[0] : NULL;
		compact_tx_answered(&world.tx, &request->call, reply->error, answer, world.now_ns);
		world.again_ns = 0;
	}
	event_free(event);
}

static bool is_at_rest(void)
{
	return !world.open && event_next() == NULL &&
	       atomic_load(&world.core.catalog.merges[0].phase) == MERGE_FREE;
}

/* When the runtime, or the agent by itself, does something. */
static uint64_t others_next(void)
{
	uint32_t phase = atomic_load(&world.core.catalog.merges[0].phase);
	uint64_t next_ns = UINT64_MAX;
	if (phase == MERGE_WANTED || phase == MERGE_COMMITTED || phase == MERGE_ABORTED)
		next_ns = world.runtime_ns;
	return world.open ? FM_MIN(next_ns, world.again_ns) : next_ns;
}

/* One turn: what is due first happens. */
static void world_turn(void)
{
	struct event *event = event_next();
	uint64_t next_ns = FM_MIN(others_next(), event != NULL ? event->at_ns : UINT64_MAX);
	if (next_ns == UINT64_MAX)
		next_ns = world.now_ns + NS_PER_MS;
	world.now_ns = FM_MAX(next_ns, world.now_ns);
	if (event != NULL && world.now_ns >= event->at_ns)
		deliver(event);
	something_happens();
	runtime_round();
	if (!world.open)
		return;
	compact_tx_advance(&world.tx, world.now_ns, &world.again_ns);
	if (compact_tx_is_over(&world.tx)) {
		world.sent_bytes += world.tx.sent_bytes;
		world.open = false;
	}
}

/* Until everything has come to rest, late messages too. */
static void world_run(void)
{
	CHECK_EQ(compact_tx_want(&world.core.catalog, 0, 0, (const uint32_t(*)[2])world.pairs,
			 world.pairs_count, world.now_ns),
		0);
	agent_opens();
	while (!is_at_rest()) {
		CHECK_LT(world.now_ns, LIMIT_NS);
		if (setjmp(death) == 0)
			world_turn();
		else
			agent_dies();
	}
}

static const struct {
	unsigned k, m;
} codes[] = {{2, 1}, {4, 2}, {3, 2}, {6, 3}};

/* ---- tests ---- */

static void calm(bool local)
{
	const struct chaos none = {.local = local};
	for (unsigned seed = 0; seed < 40; seed++) {
		world_open(seed, codes[seed % 4].k, codes[seed % 4].m, &none);
		world_run();
		CHECK_EQ(world.committed, 1);
		CHECK_EQ(world.good, world.pairs_count);
		/* m transfers for each span that is taken over: as the paper counts. */
		CHECK_EQ(world.sent_bytes, (uint64_t)world.moved * fake.code.m * FM_PAGE_SIZE);
		CHECK_EQ(atomic_load(&world.core.catalog.stats->merge_bytes), world.sent_bytes);
		world_close();
	}
}

TEST(pairs_become_one_by_the_nodes)
{
	calm(false);
}

TEST(pairs_become_one_by_the_agent)
{
	calm(true);
}

/* Returns how many committed. */
static unsigned many(unsigned runs, const struct chaos *chaos)
{
	unsigned committed = 0;
	for (unsigned seed = 0; seed < runs; seed++) {
		struct chaos each = *chaos;
		each.local = seed % 2 != 0;
		world_open(seed, codes[seed % 4].k, codes[seed % 4].m, &each);
		world_run();
		committed += world.committed;
		CHECK_LE(world.committed + world.aborted, 1);
		world_close();
	}
	printf("     %u of %u committed\n", committed, runs);
	return committed;
}

TEST(messages_may_be_lost_and_repeated)
{
	CHECK_LT(50, many(300, &(struct chaos){.lose = 5, .repeat = 30, .refuse = 10}));
}

TEST(messages_may_come_much_later)
{
	CHECK_LT(10, many(300, &(struct chaos){.lose = 3, .repeat = 30, .slow = 10}));
}

TEST(nodes_may_end_at_any_time)
{
	CHECK_LT(10, many(300, &(struct chaos){.lose = 3, .repeat = 20, .die_node = 2}));
}

TEST(bytes_that_rot_spoil_their_pair_only)
{
	CHECK_LT(50, many(300, &(struct chaos){.repeat = 20, .rot = 3}));
}

TEST(groups_may_be_left_at_any_time)
{
	CHECK_LT(10, many(300, &(struct chaos){.lose = 3, .repeat = 20, .leave = 3}));
}

TEST(an_end_that_is_lost_is_said_again_before_anything_is_reused)
{
	(void)many(300, &(struct chaos){.lose = 20, .repeat = 30, .slow = 20, .leave = 2});
}

TEST(everything_at_once)
{
	(void)many(600, &(struct chaos){.lose = 10,
				.repeat = 30,
				.slow = 5,
				.die_node = 1,
				.rot = 1,
				.leave = 1,
				.refuse = 20});
}

/* Once at each step there is; and twice, so that the successor dies too. */
static void die_at_each_step(const struct chaos *chaos)
{
	for (unsigned seed = 0; seed < 8; seed++)
		for (unsigned die_at = 1;; die_at++) {
			world_open(seed, codes[seed % 4].k, codes[seed % 4].m, chaos);
			world.die_at = die_at;
			world_run();
			bool died = world.life > 0;
			CHECK(!died || world.committed + world.aborted <= 1);
			world_close();
			if (!died)
				break;
		}
}

TEST(an_agent_that_dies_at_any_step_is_succeeded)
{
	die_at_each_step(&(struct chaos){0});
	die_at_each_step(&(struct chaos){.local = true});
}

TEST(an_agent_that_dies_while_messages_are_lost_and_late_is_succeeded)
{
	die_at_each_step(&(struct chaos){.lose = 10, .repeat = 50, .slow = 10});
	die_at_each_step(&(struct chaos){.lose = 10, .repeat = 50, .slow = 10, .local = true});
}

TEST(a_node_of_an_older_version_or_without_room_ends_it_without_harm)
{
	for (unsigned way = 0; way < 2; way++) {
		world_open(3, 4, 2, &(struct chaos){0});
		fake.nodes[5].old = way == 0;
		fake.nodes[4].full = way == 1;
		world_run();
		CHECK_EQ(world.committed, 0);
		CHECK_EQ(world.aborted, 1);
		CHECK_EQ(atomic_load(&world.core.catalog.stats->merge_aborts), 1);
		world_close();
	}
}

TEST(a_spanset_that_has_rotted_is_to_be_healed)
{
	world_open(3, 4, 2, &(struct chaos){0});
	world.pairs_count = 1;
	unsigned p = (unsigned)__builtin_ctz(world.live[0][1]);
	fake.nodes[p].slots[1][100] ^= 4; /* b's */
	world_run();
	CHECK_EQ(world.good, 0);
	CHECK_EQ(world.aborted, 1);
	CHECK_EQ(atomic_load(&world.core.catalog.stats->merge_refusals), 1);
	CHECK_EQ(atomic_load(&world.core.catalog.heal[0]), world.pairs[0][1] + 1);
	world_close();
}

TEST(catalogs_that_lie_about_pairs_harm_nobody)
{
	world_open(3, 4, 2, &(struct chaos){0});
	const uint32_t lies[2][2] = {{UINT32_MAX, 7}, {3, 3}};
	CHECK_EQ(compact_tx_want(&world.core.catalog, 0, 9, lies, 2, 1), -EINVAL);
	CHECK_EQ(compact_tx_want(&world.core.catalog, 0, 0, lies, 0, 1), -EINVAL);
	CHECK_EQ(compact_tx_want(&world.core.catalog, 0, 0, lies, 2, 1), 0);
	CHECK_EQ(compact_tx_want(&world.core.catalog, 0, 0, lies, 2, 1), -EBUSY);
	struct catalog_merge *merge = &world.core.catalog.merges[0];
	for (unsigned i = 0; i < 2; i++)
		merge->pairs[i].n = merge->pairs[i].take = 1;
	atomic_store(&merge->phase, MERGE_CLAIMED);
	agent_opens();
	CHECK(world.open);
	compact_tx_advance(&world.tx, 1, &world.again_ns);
	CHECK(compact_tx_is_over(&world.tx));
	CHECK_EQ(atomic_load(&merge->phase), MERGE_ABORTED);
	CHECK(event_next() == NULL);
	world_close();
}

/* The checks themselves: a node without a watermark stores late. */
TEST(a_node_that_forgets_what_has_ended_would_be_found)
{
	unsigned found = 0;
	for (unsigned seed = 0; seed < 200 && found == 0; seed++) {
		world_open(seed, 2, 1, &(struct chaos){.repeat = 80, .slow = 30});
		fake.mutant_watermark = true;
		CHECK_EQ(
			compact_tx_want(&world.core.catalog, 0, 0,
				(const uint32_t(*)[2])world.pairs, world.pairs_count, world.now_ns),
			0);
		agent_opens();
		for (unsigned turn = 0; turn < 100000 && !is_at_rest() && found == 0; turn++) {
			const struct event *next = event_next();
			bool late = next != NULL && !next->is_reply &&
				    next->request->call.method == COMPACT_PREPARE &&
				    fake.ended[next->request->txid % FAKE_TXIDS] &&
				    fake_open(&fake.nodes[next->request->call.position],
					    next->request->txid) == 0;
			found += late;
			if (!late)
				world_turn();
		}
		world_close();
	}
	CHECK_EQ(found, 1);
}
