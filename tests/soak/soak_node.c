/*
 * tests/soak/soak_node.c: the memory nodes. Over tcp they are ours, each a host of its own by
 * --host-id, in a namespace of its own with --netns; on shm an agent starts them, and starts them
 * again.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rpc/ctl_memnode.h"
#include "tests/soak/soak.h"

#define NODE_MEMORY "1G"
#define NODE_READY_NS (20 * NS_PER_S)
#define NODE_WORDS_MAX 32
#define STATS_NS (2 * NS_PER_S)

static void node_line(struct place *place)
{
	char line[512] = "";
	ssize_t got = read(place->ready_fd, line, sizeof line - 1);
	const char *at;

	if (got <= 0)
		return;
	at = strstr(line, " ctl=");
	at = at ? strchr(at, ':') : NULL;
	if (!at) {
		soak_fail("node %u: a ready line that makes no sense: %s", place->index, line);
		return;
	}
	place->ctl_port = (unsigned)strtoul(at + 1, NULL, 10);
	snprintf(place->name, sizeof place->name, "%s:%u", place->address, place->ctl_port);
	place->phase = PLACE_RUNNING;
	close(place->ready_fd);
	place->ready_fd = -1;
}

void node_start(struct place *place)
{
	char program[300], listen_at[64], data[64], ready[16], name[32], log[128];
	const char *words[NODE_WORDS_MAX];
	struct start start = {.words = words, .log = log, .keep_fd = -1};
	unsigned count = net_prefix(place, words);
	int ends[2];

	if (pipe2(ends, O_NONBLOCK) != 0) {
		soak_fail("pipe: %s", strerror(errno));
		return;
	}
	snprintf(program, sizeof program, "%s/farmem-memnode", soak.build);
	snprintf(listen_at, sizeof listen_at, "%s:%u", place->address, place->ctl_port);
	snprintf(data, sizeof data, "%s:0", place->address);
	snprintf(ready, sizeof ready, "%d", ends[1]);
	snprintf(name, sizeof name, "node-%u", place->index);
	snprintf(log, sizeof log, "%s/node-%u.log", soak.scratch, place->index);
	const char *const rest[] = {program, "--listen", listen_at, "--data-listen", data,
		"--memory", NODE_MEMORY, "--host-id", name, "--name", name, "--ready-fd", ready,
		"--keepalive", "3s", "--orphan-keep", SOAK_ORPHAN_KEEP, NULL};
	memcpy(words + count, rest, sizeof rest);
	start.keep_fd = ends[1];
	place->pid = process_start(&start);
	close(ends[1]);
	place->ready_fd = ends[0];
	place->phase = PLACE_STARTING;
	place->undo_ns = clock_now_ns() + NODE_READY_NS;
	place->starts++;
}

static void nodes_begin_tcp(void)
{
	uint64_t until_ns = clock_now_ns() + NODE_READY_NS;

	for (unsigned i = 0; i < soak.places_count; i++) {
		if (!soak.options.netns)
			snprintf(
				soak.places[i].address, sizeof soak.places[i].address, "127.0.0.1");
		node_start(&soak.places[i]);
	}
	for (unsigned i = 0; i < soak.places_count; i++)
		while (soak.places[i].phase == PLACE_STARTING && clock_now_ns() < until_ns) {
			poll(NULL, 0, 5);
			node_line(&soak.places[i]);
		}
}

void nodes_begin(void)
{
	for (unsigned i = 0; i < soak.places_count; i++) {
		struct place *place = &soak.places[i];

		if (soak.options.shm)
			snprintf(place->name, sizeof place->name, "embedded-%u",
				place->index % SOAK_EMBEDDED);
	}
	if (!soak.options.shm)
		nodes_begin_tcp();
}

/* Those that are not where the soak put them ended by themselves. */
static void node_tick(struct place *place, uint64_t now_ns)
{
	char text[80];
	int status;

	if (place->phase == PLACE_STARTING)
		node_line(place);
	if (place->phase == PLACE_STARTING && now_ns > place->undo_ns)
		soak_fail("node %u is not ready after its restart", place->index);
	if (place->pid <= 0 || !process_reap(place->pid, &status))
		return;
	place->pid = 0;
	if (place->phase == PLACE_LEAVING && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		soak_say("node %u has left", place->index);
		place->struck_ns = now_ns;
	} else if (place->phase != PLACE_DEAD) {
		soak_fail("node %u ended by itself: %s", place->index,
			process_ending(status, text, sizeof text));
	}
	place->phase = PLACE_DEAD;
	if (place->undo_ns == 0 || place->undo_ns > now_ns + NS_PER_S)
		place->undo_ns = now_ns + NS_PER_S;
}

void nodes_tick(uint64_t now_ns)
{
	for (unsigned i = 0; i < soak.places_count && !soak.options.shm; i++)
		node_tick(&soak.places[i], now_ns);
}

struct search {
	char end[64];
	pid_t found;
};

static void search_each(void *context, pid_t pid, const char *name)
{
	struct search *search = context;

	if (strncmp(name, "farmem-memnode", 14) == 0 && process_argument_ends(pid, search->end))
		search->found = pid;
}

pid_t place_pid(const struct place *place)
{
	struct search search = {.found = 0};

	if (place->owner < 0)
		return place->pid;
	snprintf(search.end, sizeof search.end, "/node-%u", place->index % SOAK_EMBEDDED);
	process_each(soak.programs[place->owner].dir, search_each, &search);
	return search.found;
}

void nodes_list(char *text, unsigned size)
{
	unsigned used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < soak.places_count && used < size; i++)
		used += (unsigned)snprintf(
			text + used, size - used, "%s%s", i ? "," : "", soak.places[i].name);
}

int nodes_leases(void)
{
	int leases = 0;

	for (unsigned i = 0; i < soak.places_count && !soak.options.shm; i++) {
		struct ctl_client *client;
		struct ctl_stats stats;
		int rc = ctl_client_open(soak.places[i].name, &client);

		if (rc == 0) {
			rc = ctl_ask_stats(client, STATS_NS, &stats, NULL);
			ctl_client_close(client);
		}
		if (rc != 0)
			return -1;
		leases += (int)stats.load.leases;
	}
	return leases;
}

void nodes_end(void)
{
	uint64_t until_ns = clock_now_ns() + SOAK_GONE_NS;
	char text[80];
	int status;

	for (unsigned i = 0; i < soak.places_count; i++)
		if (soak.places[i].pid > 0)
			kill(soak.places[i].pid, SIGTERM);
	for (unsigned i = 0; i < soak.places_count; i++) {
		struct place *place = &soak.places[i];

		while (place->pid > 0 && !process_reap(place->pid, &status)) {
			if (clock_now_ns() > until_ns) {
				soak_fail("node %u does not end on SIGTERM", i);
				kill(place->pid, SIGKILL);
				until_ns = CLOCK_NEVER_NS;
			}
			poll(NULL, 0, 5);
		}
		if (place->pid > 0 && until_ns != CLOCK_NEVER_NS && status != 0)
			soak_fail("node %u: %s on SIGTERM", i,
				process_ending(status, text, sizeof text));
		place->pid = 0;
	}
}
