/*
 * tests/sim/sim_test.c: scenarios, one run, many runs (see sim.h).
 *
 *   sim_test --scenario NAME --seed N [--steps N] [--evict move|wp] [-v]   one run
 *   sim_test --scenario NAME --seeds N [--seed FIRST]                       so many runs, each in a
 * child sim_test --seconds S                                                    random seeds, all
 * scenarios sim_test --bug NAME --seeds N      breaks something on purpose: succeeds when a run
 * finds it
 *   sim_test --sweep short|full              see sweep.c
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault_point.h"
#include "base/futex.h"
#include "base/log.h"
#include "farmem/record.h"
#include "farmem/slot.h"
#include "tests/sim/hooks_decl.h"
#include "tests/sim/sim.h"

#define SIM_STAGING_SLOTS 256u
#define SIM_RUN_SECONDS_MAX 120 /* of real time */
#define SIM_STEPS_DEFAULT 1500
#define CALM_NS (sim.scenario.orphan_keep_ns + NS_PER_S)
#define REBUILD_WORKERS 5
#define MERGE_WORKERS 4

struct sim sim;

/* ---- what the runtime's sources call instead ---- */

bool sim_epoch_passed(struct core *core, uint64_t stamp);
bool sim_clean_matches(const struct clean_table *t, struct page_id page, struct clean_hash hash);
void sim_futex_wake(_Atomic uint32_t *word, int count);

bool sim_epoch_passed(struct core *core, uint64_t stamp)
{
	return sim.bug == BUG_NO_EPOCH || epoch_passed(core, stamp);
}

bool sim_clean_matches(const struct clean_table *t, struct page_id page, struct clean_hash hash)
{
	return sim.bug == BUG_CLEAN_LIES || clean_matches(t, page, hash);
}

static struct sim_coro *evictors[SIM_STRIPES_MAX];

void sim_futex_wake(_Atomic uint32_t *word, int count)
{
	(void)count;
	for (unsigned i = 0; i < sim.scenario.stripes; i++)
		if (word == &sim.stripes[i].wake && evictors[i] != NULL)
			sim_wake(evictors[i]);
}

/* ---- the runtime's threads ---- */

static void park_here(void)
{
	if (!sim.park_others)
		return;
	sim.others_parked++;
	while (sim.park_others)
		sim_sleep_ns(NS_PER_MS);
	sim.others_parked--;
}

static void evictor_main(void *argument)
{
	struct stripe *st = argument;
	for (;;) {
		park_here();
		if (evict_round(st)) {
			sim_yield();
			continue;
		}
		atomic_store(&st->sleeping, 1);
		evictors[st->index] = sim_self();
		sim_sleep_ns(1 + sim_below(20 * NS_PER_MS));
		evictors[st->index] = NULL;
		atomic_store(&st->sleeping, 0);
	}
}

static void handler_main(void *argument)
{
	struct fault_handler *h = argument;
	for (;;) {
		uint32_t page;
		bool write_protected, moved = false;
		for (unsigned i = 0; i < 8 && fault_ready(h); i++) {
			if (!sim_fault_read(h->st->index, &page, &write_protected))
				break;
			fault_take(h, page, write_protected);
			moved = true;
		}
		moved |= fault_progress(h);
		if (moved)
			sim_yield();
		else if (!fault_idle(h))
			sim_sleep_ns(1 + sim_below(1ull << sim_below(23)));
		else
			sim_handler_sleeps(h->st->index, sim_self());
	}
}

static void report_loss(struct fault_handler *h, uint32_t page, uint32_t group)
{
	unsigned m = sim.core.catalog.groups[group].m;
	(void)h;
	if ((unsigned)__builtin_popcount(sim_damage(group)) <= m && !sim.unreported_loss_allowed)
		sim_fail("page %u is given up for lost, with damage %x of group %u (m is %u)", page,
			sim_damage(group), group, m);
	sim_page_lost(sim_program_index(page));
	sim.losses++;
}

/* ---- conducting a run ---- */

static bool handlers_idle(void)
{
	for (unsigned i = 0; i < sim.handlers_count; i++)
		if (!fault_idle(sim.handlers[i]))
			return false;
	for (unsigned i = 0; i < sim.scenario.stripes; i++)
		if (sim_faults_waiting(i))
			return false;
	return true;
}

static void stand_still(void)
{
	sim_promise("standing still", UINT32_MAX);
	sim.park_programs = true;
	while (sim.programs_parked < sim.scenario.programs)
		sim_sleep_ns(NS_PER_MS);
	sim.park_others = true;
	while (sim.others_parked < sim.scenario.stripes || !handlers_idle())
		sim_sleep_ns(NS_PER_MS);
	sim_promise_kept();
}

static void go_on(void)
{
	sim.park_programs = sim.park_others = false;
	while (sim.programs_parked + sim.others_parked > 0)
		sim_sleep_ns(NS_PER_MS);
}

static bool time_is_up(void)
{
	return sim.scenario.active_ns != 0 && sim.now_ns > NS_PER_S + sim.scenario.active_ns;
}

static void conductor_main(void *argument)
{
	(void)argument;
	/* What fails for good cannot be looked at before it is over. */
	for (unsigned part = sim.scenario.active_ns == 0 ? 1 : 5; part <= 5; part++) {
		while (sim.steps_done < sim.steps * part / 5 && !time_is_up())
			sim_sleep_ns(NS_PER_MS);
		sim.calm = part == 5;
		stand_still();
		sim_check_all();
		go_on();
	}
	/* Everything is well again: columns must come back, doubts be settled, waste reclaimed, and
	 * all of it given back. */
	sim_sleep_ns(CALM_NS);
	stand_still();
	sim_check_all();
	if (!sim.scenario.beyond)
		sim_check_calm();
	sim.purge_all = true;
	go_on();
	while (!sim.programs_done)
		sim_sleep_ns(NS_PER_MS);
	sim_sleep_ns(CALM_NS);
	stand_still();
	sim_check_all();
	sim_check_calm();
	sim_check_empty();
	sim.finished = true;
}

static bool run_is_over(void)
{
	return sim.finished;
}

static void runtime_open_stripe(unsigned index)
{
	struct stripe *st = &sim.stripes[index];
	uint32_t per_stripe = sim.scenario.pages / sim.scenario.stripes;
	struct spanset_io_options options = {.name = "evict",
		.fetch_deadline_ns = sim.core.config.fetch_deadline_ns,
		.store_deadline_ns = sim.core.config.store_deadline_ns,
		.stores = true,
		.hedges = true};
	sim_pager_open(index, sim.moves, SIM_STAGING_SLOTS);
	st->core = &sim.core;
	st->pager = sim_pager(index);
	st->index = index;
	st->stripes = sim.scenario.stripes;
	sim.stripe_list[index] = st;
	int rc = stripe_open(st);
	if (rc == 0)
		rc = epoch_register(&sim.core, "evict", &st->epoch);
	if (rc == 0)
		rc = spanset_io_open(&sim.core, &options, &st->io);
	FM_ASSERT_EQ(rc, 0);
	atomic_store(&st->pages_end, index * STRIPE_BLOCK_PAGES + per_stripe);
}

static void runtime_open_handler(unsigned stripe, unsigned index)
{
	struct fault_handler *h = calloc(1, sizeof(*h));
	struct spanset_io_options options = {.name = "fault",
		.fetch_deadline_ns = sim.core.config.fetch_deadline_ns,
		.hedges = true};
	FM_ASSERT(h != NULL);
	h->st = &sim.stripes[stripe];
	h->private_slot = SIM_STAGING_SLOTS + index;
	h->ahead_max = (uint32_t)sim.core.config.read_ahead;
	h->zero_expected = UINT32_MAX;
	h->report_loss = report_loss;
	int rc = epoch_register(&sim.core, "fault", &h->epoch);
	if (rc == 0)
		rc = spanset_io_open(&sim.core, &options, &h->io);
	FM_ASSERT_EQ(rc, 0);
	sim.handlers[sim.handlers_count++] = h;
}

static void runtime_open(void)
{
	const struct sim_scenario *s = &sim.scenario;
	struct catalog_options options = {.range_base = 1ull << 40,
		.range_pages = (uint64_t)s->stripes * STRIPE_BLOCK_PAGES,
		.records_max = s->records_max,
		.code_k = s->k,
		.code_m = s->m,
		.scheme = s->scheme,
		.region_bytes = s->region_slots * FM_PAGE_SIZE,
		.command = "sim"};
	struct fm_config *c = &sim.core.config;
	c->local.bytes = s->budget_pages * (uint64_t)FM_PAGE_SIZE;
	c->retain.bytes = s->retain_pages * (uint64_t)FM_PAGE_SIZE;
	c->on_full = s->on_full;
	c->scheme = s->scheme;
	c->code = (struct option_code){4, 2};
	c->read_ahead = 8;
	c->fetch_deadline_ns = 10 * NS_PER_MS;
	c->store_deadline_ns = 300 * NS_PER_MS;
	int rc = catalog_create(&sim.core.catalog, &options);
	if (rc == 0)
		rc = core_open(&sim.core, s->budget_pages);
	FM_ASSERT_EQ(rc, 0);
	for (unsigned i = 0; i < s->stripes; i++)
		runtime_open_stripe(i);
	for (unsigned i = 0; i < s->stripes * s->handlers; i++)
		runtime_open_handler(i / s->handlers, i % s->handlers);
}

static void run_spawn(void)
{
	static unsigned numbers[SIM_PROGRAMS_MAX];
	for (unsigned i = 0; i < sim.scenario.k + sim.scenario.m + sim.scenario.hosts_spare; i++)
		(void)sim_node_start(i);
	(void)sim_spawn("conductor", conductor_main, NULL);
	sim_agent_start();
	(void)sim_spawn("chaos", sim_chaos_main, NULL);
	for (unsigned i = 0; i < REBUILD_WORKERS; i++)
		(void)sim_spawn("rebuild", sim_rebuild_main, NULL);
	for (unsigned i = 0; i < MERGE_WORKERS && sim.scenario.merges; i++)
		(void)sim_spawn("merge", sim_merge_node_main, NULL);
	for (unsigned i = 0; i < sim.scenario.stripes; i++)
		(void)sim_spawn("evictor", evictor_main, &sim.stripes[i]);
	for (unsigned i = 0; i < sim.handlers_count; i++)
		(void)sim_spawn("handler", handler_main, sim.handlers[i]);
	for (unsigned i = 0; i < sim.scenario.programs; i++) {
		numbers[i] = i;
		(void)sim_spawn("program", sim_program_main, &numbers[i]);
	}
}

static void run_print(void)
{
	const struct catalog_stats *s = sim.core.catalog.stats;
#define N(x) ((unsigned long long)(x))
	printf("%-8s seed %llu %s: %.2f s, %llu switches; pages out %llu clean %llu in %llu "
	       "rescued %llu; "
	       "degraded %llu hedged %llu won %llu slow %llu lost %llu repacked %llu freed %llu "
	       "busy %llu; crashes %llu parts "
	       "%llu "
	       "flips %llu torn %llu drops %llu late %llu fences %llu failed stores %llu; columns "
	       "%llu given up %llu "
	       "doubts %llu "
	       "drains %llu evacuated %llu retired %llu agents %llu revoked %llu; merged %llu "
	       "aborted "
	       "%llu refused %llu\n",
		sim.scenario.name, N(sim.seed), sim.moves ? "move" : "wp", (double)sim.now_ns / 1e9,
		N(sim.switches), N(s->swap_out_pages), N(s->clean_evictions), N(s->swap_in_pages),
		N(s->faults_rescued), N(s->degraded_reads), N(s->hedged_reads), N(s->hedged_wins),
		N(s->slow_reads), N(s->lost_pages), N(s->repacked_spansets), N(s->freed_spansets),
		N(s->move_busy), N(sim.crashes), N(sim.parts), N(sim.flips), N(sim.torns),
		N(sim.drops), N(sim.lates), N(sim.fences), N(s->store_failures), N(sim.commits),
		N(sim.aborts), N(sim.doubts), N(sim.drains), N(sim.evacuations), N(sim.retired),
		N(sim.agent_deaths), N(sim.revoked), N(s->merged_pairs), N(s->merge_aborts),
		N(s->merge_refusals));
#undef N
}

static void run_one(void)
{
	static const int spreads[] = {2, 4, 16, 64, 256};
	sim_seed(sim.seed);
	sim_scenario_adjust(&sim.scenario);
	sim_yield_spread = spreads[sim_below(FM_ARRAY_COUNT(spreads))];
	sim_clock_open();
	sim_fabric_open();
	runtime_open();
	run_spawn();
	fault_count_all(sim.report != NULL);
	if (sim.fault_text != NULL && fault_arm_from_text(sim.fault_text) != 0)
		exit(2);
	sim_run(run_is_over);
	if (sim.report == NULL)
		run_print();
}

/* ---- many runs ---- */

static uint64_t steps_given;
static const char *evict_given = "";

/* Where things stand, for a run that ends before its time. */
void sim_print_state(void)
{
	unsigned states[16] = {0};
	const struct budget *b = &sim.core.budget;
	if (sim.core.catalog.header == NULL)
		return;
	for (uint32_t i = 0; i < sim.scenario.pages; i++)
		states[span_state(span_load(
			sim.core.catalog.words, (struct page_id){sim_program_page(i)}))]++;
	for (unsigned i = 0; i < 7; i++)
		printf("%s %u ", span_state_name((enum span_state)i), states[i]);
	printf("\nsim: near %lld staging %lld far %lld retained %lld of %llu; steps %llu; groups "
	       "%u of %u, "
	       "agent %u, full %u\n",
		(long long)b->near_pages, (long long)b->staging_pages, (long long)b->far_pages,
		(long long)b->retained_pages, (unsigned long long)b->limit_pages,
		(unsigned long long)sim.steps_done, sim.core.catalog.header->groups_count,
		sim.core.catalog.header->groups_wanted, sim.core.catalog.header->agent_state,
		sim.stripes[0].full);
	unsigned lives[17] = {0}, others = 0;
	for (uint32_t i = 0; i < sim.core.reclaim.fresh; i++) {
		uint64_t hdr = record_load(record_at(&sim.core, ssid_make(i)));
		if (record_hdr_state(hdr) == RECORD_STABLE)
			lives[__builtin_popcount(record_hdr_live(hdr))]++;
		else
			others += record_hdr_state(hdr) != RECORD_FREE;
	}
	printf("sim: spansets by live positions:");
	for (unsigned i = 0; i <= sim.scenario.k; i++)
		printf(" %u", lives[i]);
	printf(", others %u; sets free in groups:", others);
	for (uint32_t g = 0; g < sim.core.catalog.header->groups_count; g++)
		printf(" %u/%u", slot_free_count(&sim.core, group_id_make(g)),
			sim.core.catalog.groups[g].slot_count);
	printf("\n");
	run_print();
}

void sim_print_command(void)
{
	printf("sim: commit ");
	fflush(stdout);
	if (system("git -C '" SIM_SOURCE_DIR "' describe --always --dirty 2>/dev/null") != 0)
		printf("unknown\n");
	printf("sim: to repeat: sim_test --scenario %s --seed %llu --steps %llu --evict %s%s%s%s%s "
	       "-v\n",
		sim.scenario.name, (unsigned long long)sim.seed, (unsigned long long)sim.steps,
		sim.moves ? "move" : "wp", sim.bug ? " --bug " : "",
		sim.bug ? sim_bug_names[sim.bug] : "",
		sim.fault_text && sim.fault_text[0] ? " --fault " : "",
		sim.fault_text ? sim.fault_text : "");
}

static void on_signal(int number)
{
	static volatile sig_atomic_t again;
	const char *name = number == SIGALRM ? "no end in real time" : strsignal(number);
	if (again++ != 0)
		_exit(1);
	printf("sim: FAILED at %.6f s: %s\n", (double)sim.now_ns / 1e9, name);
	sim_print_command();
	fflush(stdout);
	alarm(1); /* the state may be behind a lock that is held */
	sim_print_state();
	fflush(stdout);
	_exit(1);
}

static void run_prepare(const struct sim_scenario *s, uint64_t seed)
{
	sim.scenario = *s;
	sim.seed = seed;
	sim.steps = steps_given ? steps_given : SIM_STEPS_DEFAULT;
	sim.moves = evict_given[0] ? strcmp(evict_given, "move") == 0 : seed % 2 == 0;
	signal(SIGABRT, on_signal);
	signal(SIGSEGV, on_signal);
	signal(SIGALRM, on_signal);
	alarm(SIM_RUN_SECONDS_MAX);
	log_set_level(LOG_ERROR);
	if (!sim.verbose && log_open("/dev/null") != 0)
		exit(2);
}

bool sim_run_child(const struct sim_scenario *s, uint64_t seed)
{
	int status = 0;
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		run_prepare(s, seed);
		run_one();
		fflush(stdout);
		_exit(0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static const struct sim_scenario *scenario_named(const char *name)
{
	for (unsigned i = 0; i < sim_scenarios_count; i++)
		if (strcmp(sim_scenarios[i].name, name) == 0)
			return &sim_scenarios[i];
	return NULL;
}

static int run_seeds(const struct sim_scenario *s, uint64_t first, uint64_t count)
{
	uint64_t failed = 0;
	for (uint64_t i = 0; i < count; i++) {
		if (sim_run_child(s, first + i))
			continue;
		failed++;
		if (sim.bug != BUG_NONE) {
			printf("ok   --bug %s was found by seed %llu of %s\n",
				sim_bug_names[sim.bug], (unsigned long long)(first + i), s->name);
			return 0;
		}
	}
	if (sim.bug != BUG_NONE) {
		printf("FAIL --bug %s was not found in %llu runs of %s\n", sim_bug_names[sim.bug],
			(unsigned long long)count, s->name);
		return 1;
	}
	printf("sim: %s: %llu of %llu runs failed\n", s->name, (unsigned long long)failed,
		(unsigned long long)count);
	return failed > 0;
}

static int run_seconds(const struct sim_scenario *only, uint64_t seconds)
{
	time_t end = time(NULL) + (time_t)seconds;
	uint64_t runs = 0, failed = 0;
	sim_seed((uint64_t)time(NULL) * 1000003 + (uint64_t)getpid());
	while (time(NULL) < end) {
		const struct sim_scenario *s =
			only ? only : &sim_scenarios[sim_below(sim_scenarios_count)];
		uint64_t seed = 1000 + sim_below(1000000000);
		runs++;
		failed += !sim_run_child(s, seed);
	}
	printf("sim: %llu of %llu runs failed\n", (unsigned long long)failed,
		(unsigned long long)runs);
	return failed > 0;
}

static int usage(void)
{
	printf("usage: sim_test [--scenario NAME] [--seed N] [--seeds N] [--seconds S] [--steps "
	       "N]\n"
	       "                [--evict move|wp] [--bug NAME] [--fault NAME=N[+]]\n"
	       "                [--sweep short|full] [-v]\nscenarios:\n");
	for (unsigned i = 0; i < sim_scenarios_count; i++)
		printf("  %-8s %s\n", sim_scenarios[i].name, sim_scenarios[i].about);
	printf("bugs:");
	for (unsigned i = 1; i < BUG_COUNT; i++)
		printf(" %s", sim_bug_names[i]);
	printf("\n");
	return 2;
}

static enum sim_bug bug_named(const char *name)
{
	for (unsigned i = 0; i < BUG_COUNT; i++)
		if (strcmp(sim_bug_names[i], name) == 0)
			return (enum sim_bug)i;
	return BUG_COUNT;
}

int main(int argc, char **argv)
{
	const struct sim_scenario *s = NULL;
	uint64_t seed = 1, seeds = 0, seconds = 0;
	const char *sweep = NULL;
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		if (strcmp(argv[i], "-v") == 0) {
			sim.verbose = true;
			continue;
		}
		i++;
		if (strcmp(argv[i - 1], "--scenario") == 0 && (s = scenario_named(value)) != NULL)
			continue;
		if (strcmp(argv[i - 1], "--seed") == 0 && (seed = strtoull(value, NULL, 10)) != 0)
			continue;
		if (strcmp(argv[i - 1], "--seeds") == 0 && (seeds = strtoull(value, NULL, 10)) != 0)
			continue;
		if (strcmp(argv[i - 1], "--seconds") == 0 &&
			(seconds = strtoull(value, NULL, 10)) != 0)
			continue;
		if (strcmp(argv[i - 1], "--steps") == 0 &&
			(steps_given = strtoull(value, NULL, 10)) != 0)
			continue;
		if (strcmp(argv[i - 1], "--bug") == 0 && (sim.bug = bug_named(value)) != BUG_COUNT)
			continue;
		if (strcmp(argv[i - 1], "--fault") == 0 && value[0] != 0) {
			sim.fault_text = value;
			continue;
		}
		if (strcmp(argv[i - 1], "--sweep") == 0 && value[0] != 0) {
			sweep = value;
			continue;
		}
		if (strcmp(argv[i - 1], "--evict") == 0 &&
			(strcmp(value, "move") == 0 || strcmp(value, "wp") == 0)) {
			evict_given = value;
			continue;
		}
		return usage();
	}
	if (sweep != NULL)
		return sim_sweep(scenario_named("sweep"), seed, strcmp(sweep, "full") == 0);
	if (seconds > 0)
		return run_seconds(s, seconds);
	if (s == NULL)
		return usage();
	if (seeds > 0)
		return run_seeds(s, seed, seeds);
	run_prepare(s, seed);
	run_one();
	return 0;
}
