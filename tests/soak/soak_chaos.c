/*
 * tests/soak/soak_chaos.c: the deck of strikes, dealt in an order that the seed decides; what may
 * be struck, and when; undoing it.
 *
 * Invariants
 *   1. A strike at a host is dealt only when every group with data of every program that uses it
 *      would still have k columns in order (watched_bears), flips counted as columns.
 *   2. At most SOAK_OUT_MAX hosts are out of order at once. A host is out from the strike until it
 *      runs again AND no catalog believes in the incarnation that was killed any more.
 *   3. A strike that cannot be dealt waits; none is skipped but those that need nothing but luck
 *      (a flip that finds no slot, an agent that is not there). When a host's turn does not come
 *      within SOAK_BEARS_NS redundancy does not come back: the soak has failed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define DECK_MAX 64
#define LUCK_NS (8 * NS_PER_S)
#define TOOL_NS (20 * NS_PER_S)

struct strike {
	unsigned kind;
	uint64_t random, gap_ns;
};

/* Each returns true when it was dealt. */
static bool strike_kill(const struct strike *strike, uint64_t now_ns);
static bool strike_stop_short(const struct strike *strike, uint64_t now_ns);
static bool strike_stop_long(const struct strike *strike, uint64_t now_ns);
static bool strike_term(const struct strike *strike, uint64_t now_ns);
static bool strike_cut_short(const struct strike *strike, uint64_t now_ns);
static bool strike_cut_long(const struct strike *strike, uint64_t now_ns);
static bool strike_apart(const struct strike *strike, uint64_t now_ns);
static bool strike_worker(const struct strike *strike, uint64_t now_ns);
static bool strike_supervisor(const struct strike *strike, uint64_t now_ns);
static bool strike_program(const struct strike *strike, uint64_t now_ns);
static bool strike_drain(const struct strike *strike, uint64_t now_ns);
static bool strike_flip(const struct strike *strike, uint64_t now_ns);

enum where { ANYWHERE, ON_TCP, WITH_NETNS };

static const struct kind {
	const char *name;
	unsigned weight;
	enum where where;
	bool luck; /* may be skipped */
	bool (*deal)(const struct strike *strike, uint64_t now_ns);
} kinds[] = {
	{"kill -9 of a node", 6, ANYWHERE, false, strike_kill},
	{"short SIGSTOP of a node", 2, ANYWHERE, false, strike_stop_short},
	{"long SIGSTOP of a node", 2, ANYWHERE, false, strike_stop_long},
	{"SIGTERM of a node", 2, ON_TCP, false, strike_term},
	{"short cut of a node", 2, WITH_NETNS, false, strike_cut_short},
	{"long cut of a node", 2, WITH_NETNS, false, strike_cut_long},
	{"two nodes apart", 1, WITH_NETNS, false, strike_apart},
	{"kill -9 of a worker", 4, ANYWHERE, true, strike_worker},
	{"kill -9 of a supervisor", 2, ANYWHERE, true, strike_supervisor},
	{"SIGSTOP of a program", 2, ANYWHERE, true, strike_program},
	{"drain", 2, ANYWHERE, true, strike_drain},
	{"flipped bit", 3, ANYWHERE, true, strike_flip},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

static struct strike deck[DECK_MAX];
static unsigned deck_count, deck_next;
static uint64_t due_ns;
static unsigned dealt[KINDS], skipped;

/* One drain at a time. */
static struct {
	pid_t pid; /* of `farmem drain`, 0: it has ended */
	unsigned program;
	char name[64];
	uint64_t cancel_ns; /* 0: no drain */
} draining;

/* ---- who is out of order ---- */

static bool concerns(const struct place *place, const struct program *program)
{
	return program->watching && (place->owner < 0 || (unsigned)place->owner == program->index);
}

/* Some catalog has not noticed yet that the incarnation is gone. */
static bool place_believed_in(const struct place *place)
{
	bool believed = false;

	for (unsigned i = 0; i < soak.programs_count; i++)
		believed |=
			concerns(place, &soak.programs[i]) && place->gone_incarnation[i] != 0 &&
			watched_believes_in(&soak.programs[i].watched, place->gone_incarnation[i]);
	return believed;
}

bool place_is_out(const struct place *place, uint64_t now_ns)
{
	return place->phase != PLACE_RUNNING || now_ns < place->out_ns || place_believed_in(place);
}

struct outlook {
	unsigned program;
	uint64_t now_ns;
};

static struct place *place_named(unsigned program, const char *name)
{
	for (unsigned i = 0; i < soak.places_count; i++) {
		struct place *place = &soak.places[i];

		if ((place->owner < 0 || (unsigned)place->owner == program) &&
			strcmp(place->name, name) == 0)
			return place;
	}
	return NULL;
}

static bool outlook_out(void *context, const char *name)
{
	const struct outlook *outlook = context;
	const struct place *place = place_named(outlook->program, name);

	return place && place_is_out(place, outlook->now_ns);
}

static const uint8_t *flips_of(unsigned program)
{
	static uint8_t flips[CATALOG_GROUPS_MAX];

	memset(flips, 0, sizeof flips);
	for (unsigned i = 0; i < SOAK_FLIPS_MAX; i++)
		if (soak.flips[i].used && soak.flips[i].program == program)
			flips[soak.flips[i].flip.group]++;
	return flips;
}

/* Invariants 1 and 2. */
static bool place_may_be_struck(const struct place *place, uint64_t now_ns)
{
	unsigned out = 0;

	if (place_is_out(place, now_ns))
		return false;
	for (unsigned i = 0; i < soak.places_count; i++)
		out += soak.places[i].owner == place->owner &&
		       place_is_out(&soak.places[i], now_ns);
	if (out >= SOAK_OUT_MAX)
		return false;
	for (unsigned i = 0; i < soak.programs_count; i++) {
		struct program *program = &soak.programs[i];
		struct outlook outlook = {i, now_ns};

		if (place->owner == (int)i && !program->watching)
			return false;
		if (concerns(place, program) && !watched_bears(&program->watched, place->name,
							outlook_out, &outlook, flips_of(i)))
			return false;
	}
	return true;
}

/* From a place that the seed names on, the first that may be struck. */
static struct place *place_choose(const struct strike *strike, uint64_t now_ns)
{
	for (unsigned i = 0; i < soak.places_count; i++) {
		struct place *place = &soak.places[(strike->random + i) % soak.places_count];

		if (place_may_be_struck(place, now_ns))
			return place;
	}
	return NULL;
}

static unsigned place_columns(const struct place *place)
{
	unsigned columns = 0;

	for (unsigned i = 0; i < soak.programs_count; i++) {
		const struct program *program = &soak.programs[i];
		uint64_t incarnation;

		if (!concerns(place, program))
			continue;
		incarnation = watched_incarnation(&program->watched, place->name);
		columns += watched_columns_on(&program->watched, incarnation);
	}
	return columns;
}

/* ---- strikes at nodes ---- */

static const char *place_who(const struct place *place, char *text, unsigned size)
{
	if (place->owner < 0)
		snprintf(text, size, "node %u", place->index);
	else
		snprintf(text, size, "%s's %.40s", soak.programs[place->owner].name, place->name);
	return text;
}

/* Its bytes are gone with it: every catalog has to notice. */
static void place_remember(struct place *place, uint64_t now_ns)
{
	for (unsigned i = 0; i < soak.programs_count; i++)
		place->gone_incarnation[i] =
			concerns(place, &soak.programs[i])
				? watched_incarnation(&soak.programs[i].watched, place->name)
				: 0;
	place->struck_ns = now_ns;
}

static bool strike_kill(const struct strike *strike, uint64_t now_ns)
{
	struct place *place = place_choose(strike, now_ns);
	uint64_t down_ns = (strike->random >> 32) % (6 * NS_PER_S);
	char who[64];
	pid_t pid;

	if (!place || (pid = place_pid(place)) <= 0)
		return false;
	soak_say("kill -9 of %s, which held %u columns%s", place_who(place, who, sizeof who),
		place_columns(place), place->owner < 0 ? "" : "; its agent starts it again");
	place_remember(place, now_ns);
	kill(pid, SIGKILL);
	place->out_ns = now_ns + NS_PER_S;
	if (place->owner >= 0)
		return true;
	place->phase = PLACE_DEAD;
	place->undo_ns = now_ns + down_ns + 200 * NS_PER_MS;
	return true;
}

static bool stop_place(const struct strike *strike, uint64_t now_ns, uint64_t for_ns)
{
	struct place *place = place_choose(strike, now_ns);
	char who[64];
	pid_t pid;

	if (!place || (pid = place_pid(place)) <= 0)
		return false;
	soak_say("SIGSTOP of %s for %.1f s", place_who(place, who, sizeof who),
		(double)for_ns / 1e9);
	kill(pid, SIGSTOP);
	place->phase = PLACE_STOPPED;
	place->undo_ns = now_ns + for_ns;
	return true;
}

static uint64_t draw_ns(const struct strike *strike, uint64_t from_ms, uint64_t to_ms)
{
	return (from_ms + (strike->random >> 32) % (to_ms - from_ms)) * NS_PER_MS;
}

static bool strike_stop_short(const struct strike *strike, uint64_t now_ns)
{
	return stop_place(strike, now_ns, draw_ns(strike, 100, 1500));
}

static bool strike_stop_long(const struct strike *strike, uint64_t now_ns)
{
	return stop_place(strike, now_ns, draw_ns(strike, 5000, 9000));
}

static bool strike_term(const struct strike *strike, uint64_t now_ns)
{
	struct place *place = place_choose(strike, now_ns);

	if (!place || place->pid <= 0)
		return false;
	soak_say("SIGTERM of node %u, which holds %u columns", place->index, place_columns(place));
	place_remember(place, now_ns);
	place->struck_ns = 0; /* only once it has ended */
	kill(place->pid, SIGTERM);
	place->phase = PLACE_LEAVING;
	place->undo_ns = 0;
	return true;
}

static bool cut_place(const struct strike *strike, uint64_t now_ns, uint64_t for_ns)
{
	struct place *place = place_choose(strike, now_ns);

	if (!place)
		return false;
	soak_say("node %u is cut off for %.1f s", place->index, (double)for_ns / 1e9);
	net_cut(place, true);
	place->phase = PLACE_CUT;
	place->undo_ns = now_ns + for_ns;
	return true;
}

static bool strike_cut_short(const struct strike *strike, uint64_t now_ns)
{
	return cut_place(strike, now_ns, draw_ns(strike, 100, 1500));
}

static bool strike_cut_long(const struct strike *strike, uint64_t now_ns)
{
	return cut_place(strike, now_ns, draw_ns(strike, 5000, 9000));
}

static bool strike_apart(const struct strike *strike, uint64_t now_ns)
{
	struct place *place = place_choose(strike, now_ns);

	if (!place)
		return false;
	place->apart =
		(place->index + 1 + (unsigned)(strike->random >> 48) % (soak.places_count - 1)) %
		soak.places_count;
	soak_say("nodes %u and %u cannot reach each other", place->index, place->apart);
	net_apart(place, &soak.places[place->apart], true);
	place->phase = PLACE_APART;
	place->undo_ns = now_ns + draw_ns(strike, 1000, 6000);
	return true;
}

/* ---- other strikes ---- */

static struct program *program_choose(const struct strike *strike)
{
	for (unsigned i = 0; i < soak.programs_count; i++) {
		struct program *program =
			&soak.programs[(strike->random + i) % soak.programs_count];

		if (program->watching && program->pid > 0)
			return program;
	}
	return NULL;
}

static bool kill_agent(const struct strike *strike, bool worker)
{
	const struct program *program = program_choose(strike);
	pid_t pid = program ? program_agent(program, worker) : 0;

	if (pid <= 0)
		return false;
	soak_say("kill -9 of the agent's %s, of %s", worker ? "worker" : "supervisor",
		program->name);
	kill(pid, SIGKILL);
	return true;
}

static bool strike_worker(const struct strike *strike, uint64_t now_ns)
{
	(void)now_ns;
	return kill_agent(strike, true);
}

static bool strike_supervisor(const struct strike *strike, uint64_t now_ns)
{
	(void)now_ns;
	return kill_agent(strike, false);
}

static bool strike_program(const struct strike *strike, uint64_t now_ns)
{
	struct program *program = program_choose(strike);

	if (!program || program->cont_ns)
		return false;
	program->cont_ns = now_ns + draw_ns(strike, 300, 5000);
	soak_say("SIGSTOP of %s for %.1f s", program->name,
		(double)(program->cont_ns - now_ns) / 1e9);
	kill(program->pid, SIGSTOP);
	return true;
}

static pid_t drain_tool(const struct program *program, const char *flag, const char *name)
{
	char farmem[300], log[96];
	const char *words[8] = {farmem, "drain", "--dir", program->dir};
	struct start start = {.words = words, .out = log, .log = log, .keep_fd = -1};
	unsigned count = 4;

	snprintf(farmem, sizeof farmem, "%s/farmem", soak.build);
	snprintf(log, sizeof log, "%s/drain.log", soak.scratch);
	if (flag)
		words[count++] = flag;
	words[count++] = name;
	if (!flag)
		return process_start(&start);
	process_run(&start, TOOL_NS);
	return 0;
}

static bool strike_drain(const struct strike *strike, uint64_t now_ns)
{
	const struct program *program = program_choose(strike);
	const struct place *place = place_choose(strike, now_ns);

	if (place && place->owner >= 0)
		program = &soak.programs[place->owner];
	if (draining.cancel_ns || !program || !program->watching || !place)
		return false;
	draining.program = program->index;
	draining.cancel_ns = now_ns + draw_ns(strike, 200, 6000);
	snprintf(draining.name, sizeof draining.name, "%s", place->name);
	draining.pid = drain_tool(program, NULL, place->name);
	soak_say("farmem drain of node %u by %s, cancelled after %.1f s", place->index,
		program->name, (double)(draining.cancel_ns - now_ns) / 1e9);
	return true;
}

static void drain_tick(uint64_t now_ns)
{
	const struct program *program = &soak.programs[draining.program];
	int status;
	char text[80];

	if (draining.pid > 0 && process_reap(draining.pid, &status)) {
		draining.pid = 0;
		soak_say("farmem drain has ended: %s", process_ending(status, text, sizeof text));
	}
	if (draining.cancel_ns == 0 || now_ns < draining.cancel_ns)
		return;
	draining.cancel_ns = 0;
	drain_tool(program, "--cancel", draining.name);
	if (draining.pid > 0) {
		kill(draining.pid, SIGTERM);
		waitpid(draining.pid, &status, 0);
		draining.pid = 0;
	}
}

/* May a byte of this group of the program be wronged? */
struct flip_context {
	struct outlook outlook;
	const uint8_t *flips;
};

static bool flip_fits(void *context, uint32_t group)
{
	static uint8_t more[CATALOG_GROUPS_MAX];
	struct flip_context *flip = context;

	memcpy(more, flip->flips, sizeof more);
	more[group]++;
	return watched_bears(&soak.programs[flip->outlook.program].watched, NULL, outlook_out,
		&flip->outlook, more);
}

static pid_t flip_pid(void *context, const char *name)
{
	const struct flip_context *flip = context;
	const struct place *place = place_named(flip->outlook.program, name);

	return place && !place_is_out(place, flip->outlook.now_ns) ? place_pid(place) : 0;
}

static bool strike_flip(const struct strike *strike, uint64_t now_ns)
{
	struct program *program = program_choose(strike);
	struct outstanding_flip *free_flip = NULL;

	for (unsigned i = 0; i < SOAK_FLIPS_MAX; i++)
		if (!soak.flips[i].used)
			free_flip = &soak.flips[i];
	if (!program || !free_flip)
		return false;
	struct flip_context context = {{program->index, now_ns}, flips_of(program->index)};
	if (watched_flip(&program->watched, strike->random, flip_pid, flip_fits, &context,
		    &free_flip->flip) != 0)
		return false;
	free_flip->used = true;
	free_flip->program = program->index;
	free_flip->since_ns = now_ns;
	soak.flips_done++;
	soak_say("a bit of %s on %s is flipped: group %u, position %u, slot %u", program->name,
		free_flip->flip.node, free_flip->flip.group, free_flip->flip.position,
		free_flip->flip.slot);
	return true;
}

static void flips_tick(uint64_t now_ns)
{
	for (unsigned i = 0; i < SOAK_FLIPS_MAX; i++) {
		struct outstanding_flip *flip = &soak.flips[i];
		const struct program *program = &soak.programs[flip->program];

		if (!flip->used || !program->watching)
			continue;
		if (!watched_flip_stays(&program->watched, &flip->flip)) {
			flip->used = false;
			soak.flips_healed++;
		} else if (now_ns - flip->since_ns > SOAK_HEAL_NS) {
			soak_fail("a flipped bit of %s (group %u, position %u, slot %u) is not "
				  "healed after %llu s",
				program->name, flip->flip.group, flip->flip.position,
				flip->flip.slot, (unsigned long long)(SOAK_HEAL_NS / NS_PER_S));
			flip->used = false;
		}
	}
}

/* ---- undoing ---- */

static void place_resume(struct place *place, uint64_t now_ns, uint64_t settle_ns)
{
	place->phase = PLACE_RUNNING;
	place->undo_ns = 0;
	place->out_ns = now_ns + settle_ns;
}

static void place_undo(struct place *place, uint64_t now_ns)
{
	pid_t pid;

	switch (place->phase) {
	case PLACE_DEAD:
		node_start(place);
		break;
	case PLACE_STOPPED:
		pid = place_pid(place);
		if (pid > 0)
			kill(pid, SIGCONT);
		place_resume(place, now_ns, 2 * NS_PER_S);
		break;
	case PLACE_CUT:
		net_cut(place, false);
		place_resume(place, now_ns, 4 * NS_PER_S);
		break;
	case PLACE_APART:
		net_apart(place, &soak.places[place->apart], false);
		place_resume(place, now_ns, 2 * NS_PER_S);
		break;
	default:
		break;
	}
}

static void places_tick(uint64_t now_ns)
{
	for (unsigned i = 0; i < soak.places_count; i++) {
		struct place *place = &soak.places[i];

		if (place->phase != PLACE_RUNNING && place->undo_ns && now_ns >= place->undo_ns)
			place_undo(place, now_ns);
		if (place->struck_ns && !place_believed_in(place))
			place->struck_ns = 0;
		if (place->struck_ns && now_ns - place->struck_ns > SOAK_NOTICED_NS) {
			soak_fail("the death of node %u (%s) was not noticed within %llu s",
				place->index, place->name,
				(unsigned long long)(SOAK_NOTICED_NS / NS_PER_S));
			place->struck_ns = 0;
		}
	}
}

void chaos_undo_tick(uint64_t now_ns)
{
	places_tick(now_ns);
	drain_tick(now_ns);
	flips_tick(now_ns);
}

/* ---- the deck ---- */

static bool kind_fits(const struct kind *kind)
{
	return kind->where == ANYWHERE || (kind->where == ON_TCP && !soak.options.shm) ||
	       (kind->where == WITH_NETNS && soak.options.netns);
}

static void deck_shuffle(void)
{
	deck_count = deck_next = 0;
	for (unsigned i = 0; i < KINDS; i++)
		for (unsigned n = 0; n < kinds[i].weight && kind_fits(&kinds[i]); n++)
			deck[deck_count++].kind = i;
	for (unsigned i = deck_count; i > 1; i--) {
		unsigned other = (unsigned)soak_below(i);
		struct strike strike = deck[i - 1];

		deck[i - 1] = deck[other];
		deck[other] = strike;
	}
	for (unsigned i = 0; i < deck_count; i++) {
		deck[i].random = soak_random();
		deck[i].gap_ns = (200 + soak_below(2000)) * NS_PER_MS;
	}
}

/* The proof that the soak sees: more hosts of one program at once than the code can bear. */
static void chaos_go_beyond(void)
{
	unsigned killed = 0;

	for (unsigned i = 0; i < soak.places_count && killed <= SOAK_OUT_MAX; i++) {
		const struct place *place = &soak.places[i];
		pid_t pid = place_columns(place) > 0 ? place_pid(place) : 0;

		if (pid > 0 && kill(pid, SIGKILL) == 0)
			killed++;
		if (pid > 0)
			soak.places[i].phase = PLACE_DEAD;
	}
	soak_say("%u nodes are killed at once", killed);
}

void chaos_begin(void)
{
	deck_shuffle();
	due_ns = clock_now_ns() + NS_PER_S;
	if (soak.options.beyond)
		chaos_go_beyond();
}

static void chaos_stuck(const struct kind *kind)
{
	struct health health;

	soak_fail("for %llu s no host could be struck (%s): redundancy does not come back",
		(unsigned long long)(SOAK_BEARS_NS / NS_PER_S), kind->name);
	for (unsigned i = 0; i < soak.programs_count; i++) {
		if (!soak.programs[i].watching)
			continue;
		watched_health(&soak.programs[i].watched, &health);
		soak_say("%s: %u groups, lost %u, moving %u, unwell %u, narrow %u",
			soak.programs[i].name, health.groups, health.lost, health.moving,
			health.unwell, health.narrow);
	}
}

void chaos_tick(uint64_t now_ns)
{
	const struct strike *strike = &deck[deck_next];
	const struct kind *kind = &kinds[strike->kind];

	if (now_ns < due_ns)
		return;
	if (kind->deal(strike, now_ns)) {
		dealt[strike->kind]++;
		soak.strikes++;
	} else if (kind->luck && now_ns > due_ns + LUCK_NS) {
		skipped++;
	} else {
		if (now_ns > due_ns + SOAK_BEARS_NS) {
			chaos_stuck(kind);
			due_ns = now_ns;
		}
		return;
	}
	if (++deck_next == deck_count)
		deck_shuffle();
	due_ns = now_ns + deck[deck_next].gap_ns;
}

void chaos_end(void)
{
	uint64_t now_ns = clock_now_ns();

	if (draining.cancel_ns)
		draining.cancel_ns = now_ns;
	for (unsigned i = 0; i < soak.places_count; i++)
		if (soak.places[i].phase != PLACE_RUNNING && soak.places[i].undo_ns &&
			soak.places[i].phase != PLACE_STARTING)
			soak.places[i].undo_ns = now_ns;
	for (unsigned i = 0; i < soak.programs_count; i++)
		if (soak.programs[i].cont_ns)
			soak.programs[i].cont_ns = now_ns;
	soak_say("peace after %u strikes:", soak.strikes);
	for (unsigned i = 0; i < KINDS; i++)
		if (dealt[i])
			printf("%16u x %s\n", dealt[i], kinds[i].name);
	if (skipped)
		printf("%16u x skipped for want of a target\n", skipped);
}
