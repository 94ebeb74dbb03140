/*
 * tests/soak/soak_check.c: what must hold: full redundancy in peace, every slot accounted for,
 * leases given back, memory flat, nothing left behind.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define LIVES_MAX 96
#define SAMPLES_MAX 240 /* even */
#define SAMPLE_NS NS_PER_S
#define AUDIT_NS (10 * NS_PER_S)
#define INSPECT_NS (60 * NS_PER_S)
#define INSPECT_SLOW_NS (2 * NS_PER_S)
#define INSPECT_NOTHING 3 /* exit status of farmem inspect: nothing to look at */

/* ---- redundancy ---- */

static bool all_whole(void)
{
	struct health health;
	bool whole = true;

	for (unsigned i = 0; i < soak.programs_count; i++) {
		if (!soak.programs[i].watching)
			continue;
		watched_health(&soak.programs[i].watched, &health);
		whole &= health_whole(&health);
	}
	return whole;
}

static void say_health(const struct program *program)
{
	struct health health;

	watched_health(&program->watched, &health);
	soak_say("%s: %u groups, %u open, %u closed, %u evacuating; columns lost %u, moving %u, on "
		 "nodes not up %u; narrow %u",
		program->name, health.groups, health.open, health.closed, health.evacuating,
		health.lost, health.moving, health.unwell, health.narrow);
}

void check_whole(void)
{
	uint64_t started_ns = clock_now_ns();

	while (!all_whole() && !soak.failed) {
		if (clock_now_ns() - started_ns > SOAK_WHOLE_NS) {
			soak_fail("no full redundancy after %llu s of peace",
				(unsigned long long)(SOAK_WHOLE_NS / NS_PER_S));
			for (unsigned i = 0; i < soak.programs_count; i++)
				if (soak.programs[i].watching)
					say_health(&soak.programs[i]);
		}
		soak_tick();
	}
	if (!soak.failed)
		soak_say("full redundancy after %.1f s of peace",
			(double)(clock_now_ns() - started_ns) / 1e9);
}

/* ---- slots ---- */

static void program_audit(struct program *program, bool stopped)
{
	char farmem[300], pid[16], out[96];
	const char *const words[] = {farmem, "inspect", "--dir", program->dir, pid, NULL};
	struct start start = {.words = words, .out = out, .log = out, .keep_fd = -1};
	int status;

	snprintf(farmem, sizeof farmem, "%s/farmem", soak.build);
	snprintf(pid, sizeof pid, "%d", (int)program->pid);
	snprintf(out, sizeof out, "%s/inspect-%s.out", soak.scratch, program->name);
	unlink(out);
	if (stopped)
		kill(program->pid, SIGSTOP);
	uint64_t started_ns = clock_now_ns();
	status = process_run(&start, INSPECT_NS);
	if (clock_now_ns() - started_ns > INSPECT_SLOW_NS)
		soak_say("farmem inspect of %s (%s) took %.1f s, in which nothing was undone",
			program->name, stopped ? "stopped" : "running",
			(double)(clock_now_ns() - started_ns) / 1e9);
	if (stopped && program->cont_ns == 0)
		kill(program->pid, SIGCONT);
	if (status == INSPECT_NOTHING || status == 0) {
		soak.audits += status == 0;
		return;
	}
	soak_fail("farmem inspect of %s (%s): status %d: see %s", program->name,
		stopped ? "stopped" : "running", status, out);
}

void check_slots(bool stopped)
{
	for (unsigned i = 0; i < soak.programs_count; i++)
		if (soak.programs[i].watching && soak.programs[i].pid > 0)
			program_audit(&soak.programs[i], stopped);
}

/* One program after the other, standing still every second time. */
static void audit_tick(uint64_t now_ns)
{
	static uint64_t next_ns;
	static unsigned turn;
	struct program *program = &soak.programs[turn % soak.programs_count];

	if (now_ns < next_ns || soak.over)
		return;
	next_ns = now_ns + AUDIT_NS;
	if (program->watching && program->pid > 0)
		program_audit(program, turn / soak.programs_count % 2);
	turn++;
}

/* ---- leases ---- */

void check_leases(void)
{
	uint64_t started_ns = clock_now_ns();
	int leases;

	while ((leases = nodes_leases()) != 0 && !soak.failed) {
		if (clock_now_ns() - started_ns > SOAK_LEASES_NS)
			soak_fail("%d leases are held by nobody after %llu s", leases,
				(unsigned long long)(SOAK_LEASES_NS / NS_PER_S));
		soak_tick();
	}
	if (!soak.failed && !soak.options.shm)
		soak_say("all leases are given back, after %.1f s",
			(double)(clock_now_ns() - started_ns) / 1e9);
}

/* ---- memory ---- */

/* Of one process, since it is warm. When the table is full, pairs become their least. */
struct life {
	pid_t pid;
	char who[32];
	uint64_t born_ns;
	bool seen;
	double kib[SAMPLES_MAX];
	unsigned count;
	unsigned every, skipped; /* a place in the table is the least of so many samples */
	double span;             /* minutes */
};
static struct life lives[LIVES_MAX];

static double least_of(const double *kib, unsigned count)
{
	double least = kib[0];

	for (unsigned i = 1; i < count; i++)
		least = kib[i] < least ? kib[i] : least;
	return least;
}

static void life_judge(struct life *life)
{
	unsigned third = life->count / 3;
	bool is_long = life->span * 60 >= (double)SOAK_LONG_NS / 1e9;
	double growth, slope;

	life->pid = 0;
	if (third == 0)
		return;
	growth = least_of(life->kib + life->count - third, third) - least_of(life->kib, third);
	slope = growth / (life->span * 2 / 3);
	soak.lives++;
	if (!is_long && growth > soak.growth_worst)
		soak.growth_worst = growth;
	if (is_long && slope > soak.slope_worst) {
		soak.slope_worst = slope;
		snprintf(soak.slope_who, sizeof soak.slope_who, "%s", life->who);
	}
	if (is_long ? slope > SOAK_SLOPE_MAX_KIB_PER_MIN : growth > SOAK_GROWTH_MAX_KIB)
		soak_fail(
			"memory of %s grew by %.0f KiB in %.1f min", life->who, growth, life->span);
}

static void life_sample(struct life *life, uint64_t now_ns)
{
	double kib = process_anonymous_kib(life->pid);

	if (kib < 0 || now_ns - life->born_ns < SOAK_WARM_NS)
		return;
	life->span = (double)(now_ns - life->born_ns - SOAK_WARM_NS) / 60e9;
	if (life->skipped++ % life->every != 0) {
		double *last = &life->kib[life->count - 1];

		*last = kib < *last ? kib : *last;
		return;
	}
	if (life->count == SAMPLES_MAX) {
		for (unsigned i = 0; i < SAMPLES_MAX / 2; i++)
			life->kib[i] = least_of(life->kib + 2 * (uint64_t)i, 2);
		life->count = SAMPLES_MAX / 2;
		life->every *= 2;
	}
	life->kib[life->count++] = kib;
}

static void lives_each(void *context, pid_t pid, const char *name)
{
	uint64_t now_ns = *(const uint64_t *)context;
	struct life *life = NULL;

	if (!process_is_agent(name) && strncmp(name, "farmem-memnode", 14) != 0)
		return;
	for (unsigned i = 0; i < LIVES_MAX; i++)
		if (lives[i].pid == pid)
			life = &lives[i];
	for (unsigned i = 0; i < LIVES_MAX && !life; i++)
		if (lives[i].pid == 0) {
			life = &lives[i];
			memset(life, 0, sizeof *life);
			life->pid = pid;
			life->born_ns = now_ns;
			life->every = 1;
			snprintf(life->who, sizeof life->who, "%s %d", name, (int)pid);
		}
	if (!life)
		return;
	life->seen = true;
	life_sample(life, now_ns);
}

static void memory_tick(uint64_t now_ns)
{
	static uint64_t next_ns;

	if (now_ns < next_ns)
		return;
	next_ns = now_ns + SAMPLE_NS;
	for (unsigned i = 0; i < LIVES_MAX; i++)
		lives[i].seen = false;
	process_each(soak.scratch, lives_each, &now_ns);
	for (unsigned i = 0; i < soak.places_count; i++)
		if (soak.places[i].pid > 0)
			lives_each(&now_ns, soak.places[i].pid, "farmem-memnode");
	for (unsigned i = 0; i < LIVES_MAX; i++)
		if (lives[i].pid && !lives[i].seen)
			life_judge(&lives[i]);
}

void check_memory_end(void)
{
	for (unsigned i = 0; i < LIVES_MAX; i++)
		if (lives[i].pid)
			life_judge(&lives[i]);
}

void check_tick(uint64_t now_ns)
{
	memory_tick(now_ns);
	audit_tick(now_ns);
}

/* ---- left behind ---- */

static void left_each(void *context, pid_t pid, const char *name)
{
	(void)pid;
	snprintf(context, 64, "%.32s %d", name, (int)pid);
}

void check_left_behind(void)
{
	uint64_t until_ns = clock_now_ns() + SOAK_GONE_NS;
	char left[64];

	do {
		left[0] = '\0';
		process_each(soak.scratch, left_each, left);
		soak_tick();
	} while (left[0] && clock_now_ns() < until_ns && !soak.failed);
	if (left[0] && !soak.failed)
		soak_fail("left behind: %s", left);
}
