/*
 * tests/soak/soak_net.c: every node in a network namespace of its own, joined by a bridge; so that
 * a node can be cut off from everybody (its link goes down: silence, no reset), or from one other
 * node only (a route into nothing).
 *
 * By the ip command; needs root. Names carry our process id: two soaks do not meet.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/soak/soak.h"

#define WORDS_MAX 20
#define TOOL_NS (10 * NS_PER_S)

static bool begun;

/* Runs "ip ..." with the words of the line, which are separated by blanks. */
static int net_ip(const char *format, ...) FM_PRINTF(1, 2);

static int net_ip(const char *format, ...)
{
	const char *words[WORDS_MAX] = {"ip"};
	struct start start = {.words = words, .keep_fd = -1};
	char line[256], *at = line;
	unsigned count = 1;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(line, sizeof line, format, arguments);
	va_end(arguments);
	while (*at && count < WORDS_MAX - 1) {
		words[count++] = at;
		at += strcspn(at, " ");
		if (*at)
			*at++ = '\0';
	}
	return process_run(&start, TOOL_NS);
}

static unsigned net_id(void)
{
	return (unsigned)getpid();
}

static bool net_add_place(struct place *place)
{
	unsigned id = net_id(), i = place->index;

	snprintf(place->address, sizeof place->address, "10.237.%u.%u", id % 250, 11 + i);
	return net_ip("netns add fms%u-%u", id, i) == 0 &&
	       net_ip("link add fms%u-%u type veth peer name eth0 netns fms%u-%u", id, i, id, i) ==
		       0 &&
	       net_ip("link set fms%u-%u master fms%u up", id, i, id) == 0 &&
	       net_ip("-n fms%u-%u addr add %s/24 dev eth0", id, i, place->address) == 0 &&
	       net_ip("-n fms%u-%u link set eth0 up", id, i) == 0 &&
	       net_ip("-n fms%u-%u link set lo up", id, i) == 0;
}

bool net_begin(const char **reason)
{
	if (geteuid() != 0) {
		*reason = "network namespaces need root";
		return false;
	}
	if (net_ip("-V") != 0) {
		*reason = "there is no ip command (apt-get install iproute2)";
		return false;
	}
	begun = true;
	if (net_ip("link add fms%u type bridge", net_id()) != 0 ||
		net_ip("addr add 10.237.%u.1/24 dev fms%u", net_id() % 250, net_id()) != 0 ||
		net_ip("link set fms%u up", net_id()) != 0) {
		*reason = "this kernel makes no bridge";
		return false;
	}
	for (unsigned i = 0; i < soak.places_count; i++)
		if (!net_add_place(&soak.places[i])) {
			*reason = "this kernel makes no network namespaces with veth";
			return false;
		}
	return true;
}

void net_end(void)
{
	if (!begun)
		return;
	for (unsigned i = 0; i < soak.places_count; i++) {
		net_ip("link del fms%u-%u", net_id(), i);
		net_ip("netns del fms%u-%u", net_id(), i);
	}
	net_ip("link del fms%u", net_id());
	begun = false;
}

unsigned net_prefix(const struct place *place, const char **words)
{
	static char names[SOAK_PLACES_MAX][32];

	if (!begun)
		return 0;
	snprintf(names[place->index], sizeof names[0], "fms%u-%u", net_id(), place->index);
	words[0] = "ip";
	words[1] = "netns";
	words[2] = "exec";
	words[3] = names[place->index];
	return 4;
}

void net_cut(const struct place *place, bool cut)
{
	if (net_ip("link set fms%u-%u %s", net_id(), place->index, cut ? "down" : "up") != 0)
		soak_fail("ip link set: node %u", place->index);
}

void net_apart(const struct place *place, const struct place *other, bool apart)
{
	if (net_ip("-n fms%u-%u route %s blackhole %s/32", net_id(), place->index,
		    apart ? "add" : "del", other->address) != 0)
		soak_fail("ip route: node %u", place->index);
}
