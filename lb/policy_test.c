/*
 * lb/policy_test.c: each policy against cases reckoned by hand, and Prequal against a twin that is
 * the paper's text in its plainest form.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/test.h"
#include "lb/policy.h"

#define US NS_PER_US
#define START_NS NS_PER_S

static struct balancer *open_policy(struct balancer_options options)
{
	struct balancer *balancer = NULL;

	options.seed = options.seed == 0 ? 1 : options.seed;
	CHECK_EQ(balancer_open(&options, &balancer, NULL), 0);
	return balancer;
}

static struct load load_of(unsigned in_flight, unsigned delay_us)
{
	return (struct load){
		.epoch = 1, .in_flight = (uint16_t)in_flight, .delay_ns = delay_us * (uint32_t)US};
}

static void sample(struct balancer *balancer, uint64_t now_ns, uint32_t server, unsigned in_flight,
	unsigned delay_us)
{
	struct load load = load_of(in_flight, delay_us);

	balancer_sampled(balancer, now_ns, server, &load);
}

static uint32_t pick(struct balancer *balancer, uint64_t now_ns)
{
	struct balancer_pick pick;

	CHECK_EQ(balancer_pick(balancer, now_ns, &pick), LB_SEND);
	return pick.server;
}

static void reply(struct balancer *balancer, uint64_t now_ns, uint32_t server, unsigned in_flight,
	uint64_t latency_ns)
{
	struct load load = load_of(in_flight, 0);

	balancer_done(balancer, now_ns, server,
		&(struct balancer_outcome){.latency_ns = latency_ns, .load = &load});
}

static uint64_t blind(const struct balancer *balancer)
{
	struct balancer_stats stats;

	balancer_stats(balancer, &stats);
	return stats.picks_blind;
}

TEST(rr_goes_round_in_order)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "rr", .servers = 5});
	uint32_t last = pick(balancer, START_NS), next;

	for (unsigned i = 0; i < 23; i++, last = next) {
		next = pick(balancer, START_NS);
		CHECK_EQ(next, (last + 1) % 5);
	}
	balancer_close(balancer);
}

TEST(random_is_even)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "random", .servers = 10});
	unsigned counts[10] = {0};

	for (unsigned i = 0; i < 100000; i++)
		counts[pick(balancer, START_NS)]++;
	for (unsigned i = 0; i < 10; i++) {
		CHECK_LT(9500, counts[i]); /* five standard deviations */
		CHECK_LT(counts[i], 10500);
	}
	balancer_close(balancer);
}

TEST(least_takes_the_one_of_two_with_fewer_own_requests)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "least", .servers = 2});

	balancer_sent(balancer, START_NS, 1);
	for (unsigned i = 0; i < 50; i++)
		CHECK_EQ(pick(balancer, START_NS), 0);
	balancer_sent(balancer, START_NS, 0);
	balancer_sent(balancer, START_NS, 0);
	for (unsigned i = 0; i < 50; i++)
		CHECK_EQ(pick(balancer, START_NS), 1);
	balancer_close(balancer);
}

TEST(p2c_asks_two_and_takes_the_shorter_queue_of_those_that_answered)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "p2c", .servers = 6});
	uint64_t now_ns = START_NS;
	struct balancer_pick pick;

	for (unsigned i = 0; i < 200; i++, now_ns += 10 * NS_PER_MS) {
		CHECK_EQ(balancer_pick(balancer, now_ns, &pick), LB_ASK);
		CHECK_EQ(pick.asked_count, 2);
		CHECK_NE(pick.asked[0], pick.asked[1]);
		switch (i % 4) {
		case 0: /* both answer */
			sample(balancer, now_ns + US, pick.asked[0], 4, 0);
			sample(balancer, now_ns + US, pick.asked[1], 3, 90);
			CHECK_EQ(balancer_pick_asked(balancer, now_ns + US, &pick), LB_SEND);
			CHECK_EQ(pick.server, pick.asked[1]);
			break;
		case 1: /* equal queues: the shorter delay */
			sample(balancer, now_ns + US, pick.asked[1], 4, 20);
			sample(balancer, now_ns + US, pick.asked[0], 4, 10);
			CHECK_EQ(balancer_pick_asked(balancer, now_ns + US, &pick), LB_SEND);
			CHECK_EQ(pick.server, pick.asked[0]);
			break;
		case 2: /* one is silent: its old samples do not count */
			sample(balancer, now_ns - 2 * NS_PER_MS, pick.asked[0], 0, 0);
			sample(balancer, now_ns + US, pick.asked[1], 9, 90);
			CHECK_EQ(balancer_pick_asked(balancer, now_ns + NS_PER_MS, &pick), LB_SEND);
			CHECK_EQ(pick.server, pick.asked[1]);
			break;
		default: /* both are */
			CHECK_EQ(balancer_pick_asked(balancer, now_ns + NS_PER_MS, &pick), LB_SEND);
			CHECK_EQ(blind(balancer), i / 4 + 1);
			break;
		}
	}
	balancer_close(balancer);
}

TEST(jiq_spends_an_idle_token_once_and_the_latest_first)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "jiq", .servers = 8});

	for (uint32_t i = 0; i < 4; i++)
		balancer_sent(balancer, START_NS, i);
	reply(balancer, START_NS + 1, 2, 0, 10 * US);
	reply(balancer, START_NS + 2, 3, 1, 10 * US); /* still busy: no token */
	reply(balancer, START_NS + 3, 1, 0, 10 * US);
	CHECK_EQ(pick(balancer, START_NS + 4), 1);
	CHECK_EQ(pick(balancer, START_NS + 4), 2);
	CHECK_EQ(blind(balancer), 0);
	pick(balancer, START_NS + 4);
	CHECK_EQ(blind(balancer), 1);
	/* a token is void when something is sent there meanwhile */
	reply(balancer, START_NS + 5, 0, 0, 10 * US);
	balancer_sent(balancer, START_NS + 6, 0);
	pick(balancer, START_NS + 7);
	CHECK_EQ(blind(balancer), 2);
	balancer_close(balancer);
}

TEST(jbsq_fills_evenly_to_its_slots_then_parks)
{
	struct balancer *balancer = open_policy(
		(struct balancer_options){.policy = "jbsq", .servers = 4, .server_slots = 3});
	struct balancer_pick choice;

	for (uint32_t round = 0; round < 3; round++)
		for (unsigned i = 0; i < 4; i++) {
			uint32_t server = pick(balancer, START_NS);

			CHECK_EQ(balancer_in_flight(balancer, server), round);
			balancer_sent(balancer, START_NS, server);
		}
	CHECK_EQ(balancer_pick(balancer, START_NS, &choice), LB_PARK);
	reply(balancer, START_NS, 2, 2, 10 * US);
	CHECK_EQ(pick(balancer, START_NS), 2);
	balancer_sent(balancer, START_NS, 2);
	CHECK_EQ(balancer_pick(balancer, START_NS, &choice), LB_PARK);
	balancer_close(balancer);
}

TEST(jbsq_keeps_its_levels_whatever_the_order_of_ends)
{
	struct balancer *balancer = open_policy(
		(struct balancer_options){.policy = "jbsq", .servers = 7, .server_slots = 4});
	uint64_t random = 9;
	uint32_t least, server;

	for (unsigned step = 0; step < 20000; step++) {
		struct balancer_pick choice;

		server = (uint32_t)(test_random(&random) % 7);
		least = UINT32_MAX;
		for (uint32_t i = 0; i < 7; i++)
			least = FM_MIN(least, balancer_in_flight(balancer, i));
		if (test_random(&random) % 2 == 0) {
			if (balancer_in_flight(balancer, server) > 0)
				reply(balancer, START_NS, server, 0, 10 * US);
		} else if (balancer_pick(balancer, START_NS, &choice) == LB_SEND) {
			CHECK_EQ(balancer_in_flight(balancer, choice.server), least);
			balancer_sent(balancer, START_NS, choice.server);
		} else {
			CHECK_LE(4, least);
			if (least < 6) /* more than its slots: a trial or a retry may do that */
				balancer_sent(balancer, START_NS, server);
		}
	}
	balancer_close(balancer);
}

TEST(c3_scores_as_the_paper_says)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "c3", .servers = 2, .clients = 2});
	struct load load = load_of(2, 20);

	/* 0: R = 50, 1/mu = 30 (50 less 20 of delay), queue 2: 50 - 30 + 27 * 30 = 830 us.
	 * 1: R = 40, 1/mu = 40, queue 1: 40 - 40 + 8 * 40 = 320 us, with one own request
	 * outstanding (1 + 2 + 1)^3 * 40 = 2560 us */
	balancer_sent(balancer, START_NS, 0);
	balancer_sent(balancer, START_NS, 1);
	balancer_done(balancer, START_NS, 0,
		&(struct balancer_outcome){.latency_ns = 50 * US, .load = &load});
	reply(balancer, START_NS, 1, 1, 40 * US);
	CHECK_EQ(pick(balancer, START_NS), 1);
	balancer_sent(balancer, START_NS, 1);
	CHECK_EQ(pick(balancer, START_NS), 0);
	balancer_close(balancer);
}

static uint32_t queues[4] = {3, 1, 2, 1};
static uint32_t queue_oracle(void *context, uint32_t server)
{
	(void)context;
	return queues[server];
}

TEST(jsq_takes_the_shortest_queue_and_any_of_equals)
{
	struct balancer *balancer = open_policy(
		(struct balancer_options){.policy = "jsq", .servers = 4, .oracle = queue_oracle});
	unsigned counts[4] = {0};

	for (unsigned i = 0; i < 1000; i++)
		counts[pick(balancer, START_NS)]++;
	CHECK_EQ(counts[0] + counts[2], 0);
	CHECK_LT(150, counts[1]);
	CHECK_LT(150, counts[3]);
	balancer_close(balancer);
}

/* --- mew ---------------------------------------------------------------------------------------
 */
TEST(mew_takes_the_least_loaded_of_what_it_knows_and_counts_what_it_sent)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "mew-fixed", .servers = 100});

	sample(balancer, START_NS, 10, 2, 0);
	sample(balancer, START_NS, 11, 0, 0);
	sample(balancer, START_NS, 12, 1, 0);
	CHECK_EQ(pick(balancer, START_NS), 11);
	CHECK_EQ(blind(balancer), 0);
	/* an own request there: 1 for being sent, 4 for being there. The fleet's mean is about 0,
	 * so random servers are looked at as well: an unknown one is better than any known */
	balancer_sent(balancer, START_NS, 11);
	CHECK_NE(pick(balancer, START_NS), 11);
	CHECK_EQ(blind(balancer), 1);
	balancer_close(balancer);
}

TEST(mew_believes_the_fresh_and_not_the_old)
{
	struct balancer *balancer = open_policy((struct balancer_options){
		.policy = "mew-fixed", .servers = 2, .sample_age_ns = 100 * US});
	unsigned ones = 0;

	/* the fleet's mean becomes 1: an unknown server counts as 3 */
	for (unsigned i = 0; i < 1000; i++) {
		sample(balancer, START_NS, 0, 1, 0);
		sample(balancer, START_NS, 1, 1, 0);
	}
	/* mean latency 20 us: a sample fades by half in 10 */
	balancer_sent(balancer, START_NS, 0);
	reply(balancer, START_NS, 0, 1, 20 * US);
	sample(balancer, START_NS, 0, 0, 0);           /* at 20 us: 3 - 3 * 10/30 = 2.0 */
	sample(balancer, START_NS + 19 * US, 1, 1, 0); /* at 20 us: 3 - 2 * 10/11 = 1.18 */
	CHECK_EQ(pick(balancer, START_NS + 20 * US), 1);
	sample(balancer, START_NS + 20 * US, 0, 0, 0);
	CHECK_EQ(pick(balancer, START_NS + 20 * US), 0);
	/* older than tau: nothing is known of either */
	for (unsigned i = 0; i < 1000; i++)
		ones += pick(balancer, START_NS + 121 * US);
	CHECK_LT(400, ones);
	CHECK_LT(ones, 600);
	balancer_close(balancer);
}

TEST(mew_looks_at_the_newest_samples_only)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "mew-fixed", .servers = 20});

	for (unsigned i = 0; i < 1000; i++)
		sample(balancer, START_NS, 19, 1, 0);
	sample(balancer, START_NS, 0, 0, 0);
	for (uint32_t i = 1; i <= 16; i++)
		sample(balancer, START_NS, i, 1 + (i != 5), 0);
	CHECK_EQ(pick(balancer, START_NS), 5); /* and not 0, which is idle but the 17th */
	balancer_close(balancer);
}

TEST(mew_probes_in_pairs_of_different_servers_at_the_asked_rate)
{
	static const double rates[] = {0.1, 1, 2.5, 16};
	uint32_t servers[LB_PROBES_MAX];
	unsigned count, sum, pairs;

	for (unsigned r = 0; r < FM_ARRAY_COUNT(rates); r++) {
		struct balancer *balancer = open_policy((struct balancer_options){
			.policy = "mew-fixed", .servers = 50, .probes_per_rpc = rates[r]});

		sum = pairs = 0;
		for (unsigned i = 0; i < 20000; i++) {
			balancer_sent(balancer, START_NS, i % 50);
			count = balancer_probes(balancer, START_NS, servers);
			CHECK_EQ(count % 2, 0);
			for (unsigned j = 0; j < count; j++)
				for (unsigned k = 0; k < j; k++)
					CHECK_NE(servers[j], servers[k]);
			sum += count;
			CHECK_EQ(balancer_probes(balancer, START_NS, servers), 0);
			reply(balancer, START_NS, i % 50, 0, 10 * US);
		}
		CHECK_LT(rates[r] * 20000 * 0.9, sum);
		CHECK_LT(sum, rates[r] * 20000 * 1.1);
		balancer_close(balancer);
	}
}

TEST(mew_prefers_servers_that_are_quick_to_it)
{
	struct balancer *balancer =
		open_policy((struct balancer_options){.policy = "mew-fixed", .servers = 2});
	uint64_t now_ns = START_NS;

	for (unsigned i = 0; i < 200; i++, now_ns += 100 * US) {
		balancer_sent(balancer, now_ns, i % 2);
		reply(balancer, now_ns, i % 2, 0, (i % 2 == 0 ? 40 : 20) * US);
	}
	for (unsigned i = 0; i < 10; i++) {
		sample(balancer, now_ns, i % 2, 0, 0);
		sample(balancer, now_ns, 1 - i % 2, 0, 0);
		CHECK_EQ(pick(balancer, now_ns), 1);
	}
	balancer_close(balancer);
}

/* --- prequal against its twin ------------------------------------------------------------------
 */
#define TWIN_SERVERS 12
struct twin_entry {
	uint64_t at_ns;
	uint32_t server, rif, latency_ns, uses;
};
struct twin {
	struct twin_entry pool[64];
	unsigned count, m, b; /* b 0: without bound */
	uint64_t age_ns;
	double quantile;
	unsigned removals;
	uint32_t latest[TWIN_SERVERS];
	bool heard[TWIN_SERVERS];
};

static void twin_remove(struct twin *twin, unsigned index)
{
	for (unsigned i = index; i + 1 < twin->count; i++)
		twin->pool[i] = twin->pool[i + 1];
	twin->count--;
}

static void twin_sampled(
	struct twin *twin, uint64_t now_ns, uint32_t server, uint32_t rif, uint32_t latency_ns)
{
	for (unsigned i = 0; i < twin->count; i++)
		if (twin->pool[i].server == server)
			twin_remove(twin, i);
	if (twin->count == twin->m)
		twin_remove(twin, 0);
	twin->pool[twin->count++] = (struct twin_entry){now_ns, server, rif, latency_ns, twin->b};
	twin->latest[server] = rif;
	twin->heard[server] = true;
}

/* "theta": the value at the quantile of what each server said last. */
static double twin_theta(const struct twin *twin)
{
	unsigned servers = 0, not_above;
	uint32_t best = UINT32_MAX;

	for (uint32_t i = 0; i < TWIN_SERVERS; i++)
		servers += twin->heard[i] ? 1 : 0;
	for (uint32_t i = 0; i < TWIN_SERVERS; i++) {
		not_above = 0;
		for (uint32_t j = 0; j < TWIN_SERVERS; j++)
			not_above += twin->heard[j] && twin->latest[j] <= twin->latest[i] ? 1 : 0;
		if (twin->heard[i] && not_above >= twin->quantile * servers)
			best = FM_MIN(best, twin->latest[i]);
	}
	return best;
}

static int twin_choose(struct twin *twin, uint64_t now_ns)
{
	double theta;
	int best = -1;

	while (twin->count > 0 && now_ns - twin->pool[0].at_ns > twin->age_ns)
		twin_remove(twin, 0);
	if (twin->count < 2)
		return -1;
	theta = twin->quantile < 0 ? -1 : twin_theta(twin);
	for (int i = 0; i < (int)twin->count; i++) /* cold: the least latency */
		if (twin->pool[i].rif <= theta &&
			(best < 0 || twin->pool[i].latency_ns < twin->pool[best].latency_ns))
			best = i;
	for (int i = 0; theta < 0 || best < 0 || twin->pool[best].rif > theta; i++) { /* all hot */
		if (i == (int)twin->count)
			break;
		if (best < 0 || twin->pool[i].rif < twin->pool[best].rif)
			best = i;
	}
	return best;
}

static void twin_sent(struct twin *twin, uint32_t server)
{
	double theta = twin->quantile < 0 ? -1 : twin_theta(twin);
	unsigned worst = 0;
	bool any_hot = false;

	for (unsigned i = 0; i < twin->count; i++)
		if (twin->pool[i].server == server)
			twin->pool[i].rif++;
	if (twin->count == 0)
		return;
	if (twin->removals++ % 2 == 1) {
		for (unsigned i = 0; i < twin->count; i++)
			any_hot = any_hot || twin->pool[i].rif > theta;
		for (unsigned i = 1; i < twin->count; i++)
			if (any_hot ? twin->pool[i].rif > twin->pool[worst].rif
				    : twin->pool[i].latency_ns > twin->pool[worst].latency_ns)
				worst = i;
	}
	twin_remove(twin, worst);
}

static void twin_run(const struct balancer_options *options, unsigned b, uint64_t seed)
{
	struct balancer_options with_seed = *options;
	struct twin twin = {.m = options->pool_size,
		.b = b,
		.age_ns = options->sample_age_ns,
		.quantile = options->hot_quantile};
	struct balancer *balancer;
	uint64_t random = seed, now_ns = START_NS, blind_before;
	unsigned agreed = 0;

	with_seed.seed = seed;
	balancer = open_policy(with_seed);
	for (unsigned step = 0; step < 5000; step++) {
		uint32_t server = (uint32_t)(test_random(&random) % TWIN_SERVERS);
		unsigned rif = (unsigned)(test_random(&random) % 6), us;
		int choice;

		us = (unsigned)(test_random(&random) % 50);
		now_ns += test_random(&random) % (20 * US);
		if (test_random(&random) % 3 != 0) {
			sample(balancer, now_ns, server, rif, us);
			twin_sampled(&twin, now_ns, server, rif, us * (uint32_t)US);
			continue;
		}
		choice = twin_choose(&twin, now_ns);
		blind_before = blind(balancer);
		server = pick(balancer, now_ns);
		CHECK_EQ(blind(balancer) - blind_before, choice < 0 ? 1 : 0);
		if (choice >= 0) {
			CHECK_EQ(server, twin.pool[choice].server);
			agreed++;
			if (twin.b > 0 && --twin.pool[choice].uses == 0)
				twin_remove(&twin, (unsigned)choice);
		}
		balancer_sent(balancer, now_ns, server);
		twin_sent(&twin, server);
		reply(balancer, now_ns, server, 0, 10 * US);
	}
	CHECK_LT(500, agreed);
	balancer_close(balancer);
}

TEST(prequal_does_what_the_paper_says)
{
	struct balancer_options options = {.policy = "prequal",
		.servers = TWIN_SERVERS,
		.pool_size = 4,
		.sample_age_ns = 100 * US,
		.hot_quantile = 0.8408964152537146};

	for (uint64_t seed = 1; seed <= 20; seed++) {
		/* r = 3: b = 2 / ((1 - 4/12) 3 - 1) = 2 */
		options.pool_size = 4;
		options.hot_quantile = seed % 2 == 0 ? 0.8408964152537146 : 0.5;
		twin_run(&options, 2, seed);
		options.hot_quantile = -1; /* requests in flight alone */
		twin_run(&options, 2, seed);
		/* 2 / ((1 - 6/12) 3 - 1) = 4 */
		options.pool_size = 6;
		options.hot_quantile = 1;
		twin_run(&options, 4, seed);
		/* (1 - 8/12) 3 - 1 = 0: without bound */
		options.pool_size = 8;
		options.hot_quantile = 0.7;
		twin_run(&options, 0, seed);
	}
}

TEST(prequal_probes_at_its_rate_and_now_and_then_without_traffic)
{
	struct balancer *balancer = open_policy((struct balancer_options){
		.policy = "prequal", .servers = 100, .probes_per_rpc = 0.25});
	uint32_t servers[LB_PROBES_MAX];
	uint64_t sum = 0;

	for (unsigned i = 0; i < 10000; i++) {
		balancer_sent(balancer, START_NS, i % 100);
		sum += balancer_probes(balancer, START_NS, servers);
	}
	CHECK_LT(2300, sum);
	CHECK_LT(sum, 2700);
	CHECK_EQ(balancer_next_ns(balancer), START_NS + NS_PER_S);
	CHECK_EQ(balancer_probes(balancer, START_NS + NS_PER_S - 1, servers), 0);
	CHECK_EQ(balancer_probes(balancer, START_NS + NS_PER_S, servers), 2);
	balancer_close(balancer);
}

/* --- all ---------------------------------------------------------------------------------------
 */
TEST(a_failed_reply_that_says_idle_is_not_believed)
{
	static const char *const names[] = {"mew-fixed", "mew", "prequal", "jiq"};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(names); i++) {
		struct balancer *balancer =
			open_policy((struct balancer_options){.policy = names[i], .servers = 50});
		struct load idle = load_of(0, 0);
		unsigned hits = 0;

		for (unsigned j = 0; j < 1000; j++)
			sample(balancer, START_NS, 1 + j % 49, 2, 10);
		balancer_sent(balancer, START_NS, 0);
		balancer_done(balancer, START_NS, 0,
			&(struct balancer_outcome){
				.status = -EIO, .latency_ns = US, .load = &idle});
		CHECK(pool_get(&balancer->pool, 0, 0) == NULL);
		for (unsigned j = 0; j < 400; j++)
			hits += pick(balancer, START_NS) == 0 ? 1 : 0;
		CHECK_LT(hits, 400 / 8);
		balancer_close(balancer);
	}
}
