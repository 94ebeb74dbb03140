/*
 * lb/balancer_test.c: what balancer.h promises, for every policy: random lives of RPCs with servers
 * that fail, restart, drain and fall silent; and the corners: one server, all of them dead.
 */
#include "lb/balancer.h"

#include <errno.h>

#include "base/clock.h"
#include "base/test.h"
#include "lb/health.h"
#include "lb/policy.h"

#define SERVERS 12
#define RPCS_MAX 256
#define PROBES_MAX 256

static const char *const policies[] = {"random", "rr", "least", "p2c", "prequal", "prequal-tuned",
	"jiq", "jbsq", "c3", "jsq", "mew-fixed", "mew"};

enum fate { WELL, FAILS_FAST, DEAD, DRAINS };

struct rpc {
	bool used;
	bool fails; /* decided when it was sent */
	uint32_t server;
	uint64_t sent_ns, end_ns;
};
struct probe {
	bool used;
	uint32_t server;
	uint64_t end_ns;
};

/* A world of servers with queues that nobody serves in order: enough for a balancer to live in. */
struct world {
	struct balancer *balancer;
	uint64_t random, now_ns;
	enum fate fate[SERVERS];
	uint32_t epoch[SERVERS];
	uint32_t queue[SERVERS];
	uint32_t own[SERVERS];
	struct rpc rpcs[RPCS_MAX];
	struct probe probes[PROBES_MAX];
	uint64_t sent_to[SERVERS];
	uint64_t parked;
	unsigned servers;
};

static uint32_t world_oracle(void *context, uint32_t server)
{
	return ((struct world *)context)->queue[server];
}

static void world_open(struct world *world, const char *policy, unsigned servers, uint64_t seed)
{
	struct balancer_options options = {.policy = policy,
		.servers = servers,
		.clients = 3,
		.seed = seed,
		.eject_ns = 1000000,
		.slow_start_ns = 500000,
		.oracle = world_oracle,
		.oracle_context = world};
	const char *why = "";

	memset(world, 0, sizeof(*world));
	world->random = seed;
	world->now_ns = NS_PER_S;
	world->servers = servers;
	for (unsigned i = 0; i < servers; i++)
		world->epoch[i] = 100 + i;
	if (balancer_open(&options, &world->balancer, &why) != 0)
		printf("    %s: %s\n", policy, why);
	CHECK(world->balancer != NULL);
}

static struct load world_load(const struct world *world, uint32_t server)
{
	return (struct load){.epoch = world->epoch[server],
		.delay_ns = world->queue[server] * 10000,
		.in_flight = (uint16_t)world->queue[server],
		.flags = world->fate[server] == DRAINS ? LOAD_DRAINING : 0};
}

static bool world_out(const struct world *world, uint32_t server)
{
	uint8_t state = world->balancer->health.servers[server].state;

	return state == HEALTH_EJECTED || state == HEALTH_DRAINING;
}

static void world_probe(struct world *world)
{
	uint32_t servers[LB_PROBES_MAX];
	unsigned count = balancer_probes(world->balancer, world->now_ns, servers), used = 0;

	CHECK_LE(count, LB_PROBES_MAX);
	for (unsigned i = 0; i < PROBES_MAX && used < count; i++) {
		if (world->probes[i].used)
			continue;
		CHECK_LT(servers[used], world->servers);
		world->probes[i] = (struct probe){.used = true,
			.server = servers[used++],
			.end_ns = world->now_ns + 5000 + test_random(&world->random) % 10000};
	}
	for (; used < count; used++) /* no room: nobody answers */
		balancer_silent(world->balancer, world->now_ns, servers[used]);
}

static void world_send(struct world *world, uint32_t server)
{
	bool someone_in = world->balancer->health.fit_count > 0;

	CHECK_LT(server, world->servers);
	CHECK(!world_out(world, server) || !someone_in); /* invariant 1 */
	for (unsigned i = 0; i < RPCS_MAX; i++) {
		if (world->rpcs[i].used)
			continue;
		world->rpcs[i] = (struct rpc){.used = true,
			.fails = world->fate[server] == FAILS_FAST,
			.server = server,
			.sent_ns = world->now_ns,
			.end_ns = world->now_ns + 10000 + test_random(&world->random) % 20000};
		if (world->fate[server] == FAILS_FAST)
			world->rpcs[i].end_ns = world->now_ns + 1000;
		if (world->fate[server] == DEAD)
			world->rpcs[i].end_ns = world->now_ns + 100000;
		break;
	}
	world->queue[server] += world->fate[server] == WELL ? 1 : 0;
	world->own[server]++;
	world->sent_to[server]++;
	balancer_sent(world->balancer, world->now_ns, server);
	world_probe(world);
}

static void world_answer(struct world *world, uint32_t server)
{
	struct load load = world_load(world, server);

	if (world->fate[server] == DEAD)
		balancer_silent(world->balancer, world->now_ns, server);
	else
		balancer_sampled(world->balancer, world->now_ns, server, &load);
}

static void world_pick(struct world *world)
{
	struct balancer_pick pick;
	enum balancer_verdict verdict = balancer_pick(world->balancer, world->now_ns, &pick);

	if (verdict == LB_ASK) {
		CHECK_LE(pick.asked_count, LB_ASK_MAX);
		CHECK_LT(1, pick.asked_count);
		for (unsigned i = 0; i < pick.asked_count; i++)
			world_answer(world, pick.asked[i]);
		verdict = balancer_pick_asked(world->balancer, world->now_ns, &pick);
		CHECK_EQ(verdict, LB_SEND);
	}
	CHECK_NE(verdict, LB_NOBODY);
	if (verdict == LB_SEND)
		world_send(world, pick.server);
	else
		world->parked++;
}

static void world_end_rpc(struct world *world, struct rpc *rpc, bool cancelled)
{
	uint32_t server = rpc->server;
	enum fate fate = world->fate[server];
	struct load load;
	struct balancer_outcome outcome = {.latency_ns = world->now_ns - rpc->sent_ns};

	if (world->queue[server] > 0 && !rpc->fails)
		world->queue[server]--;
	load = world_load(world, server);
	if (cancelled)
		outcome.status = -ECANCELED;
	else if (fate == DEAD)
		outcome.status = -ETIMEDOUT;
	else if (rpc->fails)
		outcome.status = -EIO;
	else if (fate == DRAINS)
		outcome.status = -EBUSY;
	if (fate != DEAD && !cancelled)
		outcome.load = &load;
	rpc->used = false;
	world->own[server]--;
	balancer_done(world->balancer, world->now_ns, server, &outcome);
}

/* Time goes on; what is due ends. */
static void world_pass(struct world *world, uint64_t ns)
{
	world->now_ns += ns;
	for (unsigned i = 0; i < RPCS_MAX; i++)
		if (world->rpcs[i].used && world->rpcs[i].end_ns <= world->now_ns)
			world_end_rpc(world, &world->rpcs[i], false);
	for (unsigned i = 0; i < PROBES_MAX; i++)
		if (world->probes[i].used && world->probes[i].end_ns <= world->now_ns) {
			world->probes[i].used = false;
			world_answer(world, world->probes[i].server);
		}
	if (balancer_next_ns(world->balancer) <= world->now_ns)
		world_probe(world);
}

static unsigned world_flying(const struct world *world)
{
	unsigned flying = 0;

	for (unsigned i = 0; i < RPCS_MAX; i++)
		flying += world->rpcs[i].used ? 1 : 0;
	return flying;
}

static void world_drain(struct world *world)
{
	while (world_flying(world) > 0)
		world_pass(world, 10000);
	for (unsigned i = 0; i < world->servers; i++) {
		CHECK_EQ(balancer_in_flight(world->balancer, i), 0); /* invariant 2 */
		CHECK_EQ(world->own[i], 0);
	}
}

static void world_disturb(struct world *world)
{
	uint32_t server = (uint32_t)(test_random(&world->random) % world->servers);
	uint64_t what = test_random(&world->random) % 10;

	if (what < 6) {
		world->fate[server] = WELL;
	} else if (what == 6) {
		world->fate[server] = WELL;
		world->epoch[server] += 1000;
		world->queue[server] = 0;
	} else {
		world->fate[server] = (enum fate)(what - 6);
	}
}

static void world_check_health(const struct world *world)
{
	const struct health *health = &world->balancer->health;
	uint32_t fit = 0, listed = 0;

	for (uint32_t i = 0; i < world->servers; i++) {
		bool usable = health_usable(health, i);

		fit += usable ? 1 : 0;
		CHECK_EQ(health->order[health->servers[i].position], i);
		CHECK_EQ(usable, health->servers[i].position < health->fit_count);
	}
	for (uint32_t i = health->first; i != HEALTH_NOBODY; i = health->servers[i].next, listed++)
		CHECK(!health_usable(health, i));
	CHECK_EQ(fit, health->fit_count);
	CHECK_EQ(listed, health->listed);
	CHECK_EQ(listed + fit, world->servers);
}

static void world_steps(struct world *world, unsigned steps, bool disturbed)
{
	for (unsigned i = 0; i < steps; i++) {
		uint64_t what = test_random(&world->random) % 100;

		if (world_flying(world) < RPCS_MAX - 1)
			world_pick(world);
		world_pass(world, test_random(&world->random) % 4000);
		if (disturbed && what == 0)
			world_disturb(world);
		if (disturbed && what == 1) /* a caller gives up */
			for (unsigned j = 0; j < RPCS_MAX; j++)
				if (world->rpcs[j].used) {
					world_end_rpc(world, &world->rpcs[j], true);
					break;
				}
		if (i % 64 == 0)
			world_check_health(world);
	}
}

#define FOR_POLICIES(name_)                                                                        \
	for (unsigned p_ = 0; p_ < FM_ARRAY_COUNT(policies); p_++)                                 \
		for (const char *name_ = policies[p_]; name_ != NULL; name_ = NULL)

TEST(random_lives_keep_every_invariant_of_every_policy)
{
	static struct world world;

	FOR_POLICIES(name)
	{
		for (uint64_t seed = 1; seed <= 8; seed++) {
			world_open(&world, name, seed == 8 ? 2 : SERVERS, seed);
			world_steps(&world, 4000, true);
			world_drain(&world);
			balancer_close(world.balancer);
		}
	}
}

TEST(a_clock_that_jumps_both_ways_breaks_nothing)
{
	static struct world world;

	FOR_POLICIES(name)
	{
		world_open(&world, name, SERVERS, 23);
		for (unsigned i = 0; i < 200; i++) {
			uint64_t jump_ns = test_random(&world.random) % (20 * NS_PER_MS);

			world_steps(&world, 20, true);
			if (i % 2 == 0)
				world.now_ns += jump_ns * (i % 7 == 0 ? 1000 : 1);
			else
				world.now_ns -=
					FM_MIN(world.now_ns, jump_ns * (i % 7 == 0 ? 1000 : 1));
			for (unsigned j = 0; j < RPCS_MAX;
				j++) /* they end by and by all the same */
				world.rpcs[j].end_ns =
					FM_MIN(world.rpcs[j].end_ns, world.now_ns + 20000);
			for (unsigned j = 0; j < PROBES_MAX; j++)
				world.probes[j].end_ns =
					FM_MIN(world.probes[j].end_ns, world.now_ns + 9000);
		}
		for (unsigned i = 0; i < SERVERS; i++)
			world.fate[i] = WELL;
		world_drain(&world);
		/* and when it goes evenly again, everybody comes back */
		world_steps(&world, 60000, false);
		CHECK_EQ(world.balancer->health.fit_count, SERVERS);
		world_drain(&world);
		balancer_close(world.balancer);
	}
}

TEST(the_same_seed_makes_the_same_choices)
{
	static struct world one, other;

	FOR_POLICIES(name)
	{
		world_open(&one, name, SERVERS, 7);
		world_open(&other, name, SERVERS, 7);
		for (unsigned i = 0; i < 500; i++) {
			world_steps(&one, 1, true);
			world_steps(&other, 1, true);
			CHECK(memcmp(one.sent_to, other.sent_to, sizeof(one.sent_to)) == 0);
		}
		world_drain(&one);
		world_drain(&other);
		balancer_close(one.balancer);
		balancer_close(other.balancer);
	}
}

TEST(one_server_gets_everything_dead_or_alive)
{
	static struct world world;

	FOR_POLICIES(name)
	{
		world_open(&world, name, 1, 3);
		world_steps(&world, 200, false);
		world.fate[0] = DEAD;
		world_steps(&world, 500, false);
		CHECK_EQ(world.sent_to[0] + world.parked, 700);
		world.fate[0] = WELL;
		world_drain(&world);
		world_steps(&world, 100, false);
		CHECK(health_usable(&world.balancer->health, 0));
		world_drain(&world);
		balancer_close(world.balancer);
	}
}

TEST(when_all_are_dead_each_is_tried_and_the_first_to_live_is_found)
{
	static struct world world;
	uint64_t before[SERVERS];

	FOR_POLICIES(name)
	{
		world_open(&world, name, SERVERS, 5);
		world_steps(&world, 200, false);
		for (unsigned i = 0; i < SERVERS; i++)
			world.fate[i] = DEAD;
		world_steps(&world, 6000, false);
		CHECK_EQ(world.balancer->health.fit_count, 0);
		memcpy(before, world.sent_to, sizeof(before));
		world_steps(&world, 600, false);
		for (unsigned i = 0; i < SERVERS; i++)
			CHECK_LT(before[i], world.sent_to[i]);
		world.fate[4] = WELL;
		world_steps(&world, 500, false);
		CHECK(health_usable(&world.balancer->health, 4));
		before[4] = world.sent_to[4];
		world_steps(&world, 200, false);
		CHECK_LE(190, world.sent_to[4] - before[4] + world.parked);
		world_drain(&world);
		balancer_close(world.balancer);
	}
}

TEST(a_server_that_fails_fast_is_never_more_attractive_than_its_neighbours)
{
	static struct world world;
	uint64_t steps = 20000;

	FOR_POLICIES(name)
	{
		/* all its RPCs fail */
		world_open(&world, name, SERVERS, 11);
		world_steps(&world, 2000, false);
		memset(world.sent_to, 0, sizeof(world.sent_to));
		world.fate[3] = FAILS_FAST;
		world_steps(&world, (unsigned)steps, false);
		CHECK_LT(world.sent_to[3], steps / SERVERS / 8);
		world_drain(&world);
		balancer_close(world.balancer);
		/* one of `odds` */
		for (unsigned odds = 2; odds <= 8; odds *= 2) {
			world_open(&world, name, SERVERS, 12 + odds);
			world_steps(&world, 2000, false);
			memset(world.sent_to, 0, sizeof(world.sent_to));
			for (unsigned i = 0; i < steps; i++) {
				world.fate[3] =
					test_random(&world.random) % odds == 0 ? FAILS_FAST : WELL;
				world_steps(&world, 1, false);
			}
			world.fate[3] = WELL;
			if (world.sent_to[3] * SERVERS >= steps)
				printf("    %s: 1/%u fail: %llu of %llu\n", name, odds,
					(unsigned long long)world.sent_to[3],
					(unsigned long long)steps);
			CHECK_LT(world.sent_to[3] * SERVERS, steps);
			world_drain(&world);
			balancer_close(world.balancer);
		}
	}
}

TEST(a_server_that_restarted_gets_its_share_slowly_and_then_fully)
{
	static struct world world;
	uint64_t fair = 2000 / SERVERS;

	FOR_POLICIES(name)
	{
		world_open(&world, name, SERVERS, 13);
		world.balancer->health.slow_start_ns = 20 * NS_PER_MS;
		world_steps(&world, 1000, false);
		world.epoch[2] += 5;
		world.queue[2] = 0;
		/* 1000 steps of 2 us: a tenth of slow start */
		while (world.balancer->stats.restarts == 0)
			world_steps(&world, 1, false);
		memset(world.sent_to, 0, sizeof(world.sent_to));
		world_steps(&world, 1000, false);
		CHECK_LE(world.sent_to[2], fair / 3);
		world_steps(&world, 12000, false);
		memset(world.sent_to, 0, sizeof(world.sent_to));
		world_steps(&world, 2000, false);
		CHECK_LE(fair / 2, world.sent_to[2]);
		world_drain(&world);
		balancer_close(world.balancer);
	}
}

TEST(a_draining_server_gets_nothing_until_it_says_otherwise)
{
	static struct world world;
	uint64_t before;

	FOR_POLICIES(name)
	{
		world_open(&world, name, SERVERS, 17);
		world_steps(&world, 1000, false);
		world.fate[6] = DRAINS;
		world_answer(&world, 6);
		CHECK(!health_usable(&world.balancer->health, 6));
		CHECK_EQ(world.balancer->health.ejected_count, 0);
		before = world.sent_to[6];
		world_steps(&world, 2000, false);
		CHECK_EQ(world.sent_to[6], before);
		world.fate[6] = WELL;
		world_steps(&world, 4000, false);
		CHECK(health_usable(&world.balancer->health, 6));
		world_drain(&world);
		balancer_close(world.balancer);
	}
}

TEST(nonsense_options_are_refused_with_a_reason)
{
	struct balancer *balancer = NULL;
	const char *why = NULL;

	CHECK_EQ(balancer_open(&(struct balancer_options){.policy = "mewl", .servers = 2},
			 &balancer, &why),
		-EINVAL);
	CHECK_STR_EQ(why, "no such policy");
	CHECK_EQ(balancer_open(&(struct balancer_options){.servers = 2}, &balancer, NULL), -EINVAL);
	why = NULL;
	CHECK_EQ(balancer_open(&(struct balancer_options){.policy = "random"}, &balancer, &why),
		-EINVAL);
	CHECK_CONTAINS(why, "servers");
	CHECK_EQ(balancer_open(&(struct balancer_options){.policy = "random", .servers = 4097},
			 &balancer, &why),
		-EINVAL);
	CHECK_EQ(balancer_open(
			 &(struct balancer_options){
				 .policy = "mew-fixed", .servers = 2, .probes_per_rpc = -1},
			 &balancer, &why),
		-EINVAL);
	CHECK_CONTAINS(why, "probes per RPC");
	CHECK(balancer == NULL);
	balancer_close(NULL);
}
