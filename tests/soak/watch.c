/*
 * tests/soak/watch.c: farmem-watch: what a program's catalog says, for scripts (tests/e2e, bench).
 *
 *   farmem-watch state PID                 one line: name=value ...
 *   farmem-watch count PID COUNTER         one counter, as it is now
 *   farmem-watch incarnation PID NODE      of the node of that name; 0: none
 *   farmem-watch whole SECONDS PID [INCARNATION]
 *                                          waits for full redundancy, with nothing left on the node
 *                                          with that incarnation; prints how many ms it took
 *   farmem-watch moving SECONDS PID        waits until a column is being replaced
 *   farmem-watch wide SECONDS PID COLUMNS  waits for full redundancy and no narrower group
 *   farmem-watch above SECONDS PID COUNTER VALUE   waits until the counter is above it
 *   farmem-watch repair SECONDS PID INCARNATION KILL
 *                                          kills process KILL with signal 9, the node with that
 *                                          incarnation, and waits for full redundancy without it:
 *                                          noticed_ms= begun_ms= whole_ms= (after the kill) bytes=
 *                                          gb_per_s= (from begun to whole) columns= killed_unix_ms=
 *
 * Waiting is looking again every few milliseconds: a catalog tells nobody that it changed. Exit 0;
 * 1 when time is up, with the state on standard error; 2 for wrong usage; 3 when there is no such
 * catalog.
 */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "tests/soak/watched.h"

#define LOOK_MS 5

struct question {
	struct watched watched;
	uint64_t incarnation, value;
	const char *counter;
};

static void print_state(const struct watched *watched, FILE *out)
{
	struct health health;

	watched_health(watched, &health);
	fprintf(out,
		"whole=%d groups=%u open=%u closed=%u evacuating=%u narrow=%u width_min=%u lost=%u "
		"moving=%u unwell=%u agent_state=%u",
		health_whole(&health), health.groups, health.open, health.closed, health.evacuating,
		health.narrow, health.width_min, health.lost, health.moving, health.unwell,
		atomic_load(&watched->catalog.header->agent_state));
	for (uint32_t i = 0; i < atomic_load(&watched->catalog.header->nodes_count); i++) {
		static const char states[] = "-+?!";
		const struct catalog_node *node = &watched->catalog.nodes[i % CATALOG_NODES_MAX];

		fprintf(out, " %.63s:%c%u", node->name, states[atomic_load(&node->state) & 3],
			watched_columns_on(watched, node->incarnation));
	}
	fprintf(out, "\n");
}

static bool is_whole(const struct question *question)
{
	struct health health;

	watched_health(&question->watched, &health);
	return health_whole(&health) &&
	       (question->incarnation == 0 ||
		       watched_columns_on(&question->watched, question->incarnation) == 0);
}

static bool is_moving(const struct question *question)
{
	struct health health;

	watched_health(&question->watched, &health);
	return health.moving > 0;
}

static bool is_wide(const struct question *question)
{
	struct health health;

	watched_health(&question->watched, &health);
	return health_whole(&health) && health.width_min >= question->value;
}

static bool is_above(const struct question *question)
{
	return watched_counter(&question->watched, question->counter) > question->value;
}

static int wait_for(
	const struct question *question, bool (*good)(const struct question *), uint64_t seconds)
{
	uint64_t started_ns = clock_now_ns(), until_ns = started_ns + seconds * NS_PER_S;

	while (!good(question)) {
		if (clock_now_ns() > until_ns) {
			fprintf(stderr, "farmem-watch: not within %" PRIu64 " s: ", seconds);
			print_state(&question->watched, stderr);
			return 1;
		}
		poll(NULL, 0, LOOK_MS);
	}
	printf("%" PRIu64 "\n", (uint64_t)((clock_now_ns() - started_ns) / NS_PER_MS));
	return 0;
}

static double ms_since(uint64_t started_ns)
{
	return (double)(clock_now_ns() - started_ns) / 1e6;
}

/* What a death costs, and when. */
static int follow_repair(const struct question *question, uint64_t seconds, pid_t victim)
{
	const struct watched *watched = &question->watched;
	uint64_t bytes = watched_counter(watched, "repaired_bytes");
	uint64_t columns = watched_counter(watched, "repaired_columns");
	uint64_t started_ns = clock_now_ns(), until_ns = started_ns + seconds * NS_PER_S;
	double noticed_ms = 0, begun_ms = 0, whole_ms = 0;
	struct timespec now;
	struct health health;

	clock_gettime(CLOCK_REALTIME, &now);
	if (kill(victim, SIGKILL) != 0) {
		perror("farmem-watch: kill");
		return 1;
	}
	do {
		if (clock_now_ns() > until_ns) {
			fprintf(stderr, "farmem-watch: not within %" PRIu64 " s: ", seconds);
			print_state(watched, stderr);
			return 1;
		}
		poll(NULL, 0, 1);
		watched_health(watched, &health);
		if (noticed_ms == 0 && (health.lost || health.unwell))
			noticed_ms = ms_since(started_ns);
		if (begun_ms == 0 && health.moving)
			begun_ms = ms_since(started_ns);
		whole_ms = ms_since(started_ns);
	} while (!is_whole(question));
	bytes = watched_counter(watched, "repaired_bytes") - bytes;
	printf("noticed_ms=%.0f begun_ms=%.0f whole_ms=%.0f bytes=%" PRIu64
	       " gb_per_s=%.3f columns=%" PRIu64 " killed_unix_ms=%lld\n",
		noticed_ms, begun_ms, whole_ms, bytes,
		whole_ms > begun_ms ? (double)bytes / (whole_ms - begun_ms) / 1e6 : 0,
		watched_counter(watched, "repaired_columns") - columns,
		(long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	return 0;
}

static int answer_now(const char *word, const struct question *question, const char *argument)
{
	if (strcmp(word, "state") == 0)
		print_state(&question->watched, stdout);
	else if (argument && strcmp(word, "count") == 0)
		printf("%" PRIu64 "\n", watched_counter(&question->watched, argument));
	else if (argument && strcmp(word, "incarnation") == 0)
		printf("%" PRIu64 "\n", watched_incarnation(&question->watched, argument));
	else
		return 2;
	return 0;
}

static int answer_later(struct question *question, char **words, int count)
{
	uint64_t seconds = strtoull(words[1], NULL, 10);

	if (strcmp(words[0], "whole") == 0) {
		question->incarnation = count > 3 ? strtoull(words[3], NULL, 10) : 0;
		return wait_for(question, is_whole, seconds);
	}
	if (strcmp(words[0], "repair") == 0 && count > 4) {
		question->incarnation = strtoull(words[3], NULL, 10);
		return follow_repair(question, seconds, (pid_t)strtol(words[4], NULL, 10));
	}
	if (strcmp(words[0], "moving") == 0)
		return wait_for(question, is_moving, seconds);
	if (strcmp(words[0], "wide") == 0 && count > 3) {
		question->value = strtoull(words[3], NULL, 10);
		return wait_for(question, is_wide, seconds);
	}
	if (strcmp(words[0], "above") == 0 && count > 4) {
		question->counter = words[3];
		question->value = strtoull(words[4], NULL, 10);
		return wait_for(question, is_above, seconds);
	}
	return 2;
}

int main(int argc, char **argv)
{
	struct question question = {0};
	char **words = argv + 1;
	int count = argc - 1, rc;
	bool now =
		count >= 2 && (strcmp(words[0], "state") == 0 || strcmp(words[0], "count") == 0 ||
				      strcmp(words[0], "incarnation") == 0);

	if (count < 2 || (!now && count < 3)) {
		fprintf(stderr, "farmem-watch: see the head of tests/soak/watch.c\n");
		return 2;
	}
	rc = watched_open(&question.watched, (pid_t)strtol(words[now ? 1 : 2], NULL, 10));
	if (rc != 0) {
		fprintf(stderr, "farmem-watch: process %s: no catalog: %s\n", words[now ? 1 : 2],
			strerror(-rc));
		return 3;
	}
	rc = now ? answer_now(words[0], &question, count > 2 ? words[2] : NULL)
		 : answer_later(&question, words, count);
	if (rc == 2)
		fprintf(stderr, "farmem-watch: see the head of tests/soak/watch.c\n");
	watched_close(&question.watched);
	return rc;
}
