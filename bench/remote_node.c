/*
 * bench/remote_node.c: see remote_node.h. Callers: remote.c, store.c.
 */
#include "bench/remote_node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/bench.h"
#include "rpc/ctl_memnode.h"
#include "rpc/resolve.h"

#define REMOTE_CALL_NS (20 * NS_PER_S)

/* The node's way for one-sided reads and writes, as it says itself. False: it has none. */
static bool remote_endpoint(struct remote_node *node, char *address, bool verbs)
{
	static struct ctl_stats stats;
	char text[CTL_TEXT_BYTES];
	char *colon = strrchr(address, ':');

	if (ctl_ask_stats(node->client, REMOTE_CALL_NS, &stats, text) != 0) {
		bench_fail("%s: %s", address, text);
		return false;
	}
	if (verbs && stats.data_verbs[0] == '\0') {
		bench_fail("%s offers no RDMA (farmem-memnode --verbs ADDRESS:PORT)", address);
		return false;
	}
	if (verbs)
		return snprintf(node->endpoint, sizeof(node->endpoint), "verbs:%s",
			       stats.data_verbs) < (int)sizeof(node->endpoint);
	*colon = '\0';
	if (stats.data_port != 0 && resolve_endpoint(address, stats.data_port, node->endpoint) == 0)
		return true;
	bench_fail("%s is not reached over tcp", address);
	return false;
}

/* False: said why. */
static bool remote_reserve(struct remote_node *node, const char *address, uint64_t bytes)
{
	static const uint8_t who[CTL_CLIENT_BYTES] = "farmem bench";
	struct ctl_packed packed;
	struct ctl_result result;

	if (ctl_pack_reserve(who, bytes, &packed) != 0) {
		bench_fail("no memory");
		return false;
	}
	struct ctl_request request = {.method = CTL_METHOD_RESERVE,
		.bytes = packed.bytes,
		.length = packed.length,
		.timeout_ns = REMOTE_CALL_NS};
	ctl_client_call(node->client, &request, &result);
	ctl_packed_clear(&packed);
	bool good = ctl_unpack_reserve(&result, &node->capability) == 0;
	if (!good)
		bench_fail("%s does not lend %llu bytes: %s", address, (unsigned long long)bytes,
			result.text);
	ctl_result_clear(&result);
	return good;
}

static void remote_release(struct remote_node *node)
{
	struct ctl_packed packed;
	struct ctl_result result;

	if (ctl_pack_leases(CTL_METHOD_RELEASE, &node->capability, 1, &packed) != 0)
		return;
	struct ctl_request request = {.method = CTL_METHOD_RELEASE,
		.bytes = packed.bytes,
		.length = packed.length,
		.timeout_ns = REMOTE_CALL_NS};
	ctl_client_call(node->client, &request, &result);
	ctl_packed_clear(&packed);
	ctl_result_clear(&result);
}

/* Nothing of it stays when it fails. */
static int remote_open_one(struct remote_node *node, char *address, bool verbs, uint64_t bytes)
{
	if (strrchr(address, ':') == NULL || ctl_client_open(address, &node->client) != 0)
		return bench_fail("--nodes %s: write HOST:PORT,...", address);
	if (remote_reserve(node, address, bytes)) {
		if (remote_endpoint(node, address, verbs))
			return 0;
		remote_release(node);
	}
	ctl_client_close(node->client);
	return BENCH_EXIT_WRONG;
}

int remote_open(
	struct remote_node *nodes, unsigned count, const char *list, bool verbs, uint64_t bytes)
{
	char words[REMOTE_LIST_BYTES], *rest = words;

	if (snprintf(words, sizeof(words), "%s", list) >= (int)sizeof(words))
		return bench_fail("--nodes: longer than %u bytes", REMOTE_LIST_BYTES);
	for (unsigned i = 0; i < count; i++) {
		char *address = strsep(&rest, ",");
		int status = address == NULL
				     ? bench_fail("--nodes names %u nodes, %u are needed", i, count)
				     : remote_open_one(&nodes[i], address, verbs, bytes);
		if (status != 0) {
			remote_close(nodes, i);
			return status;
		}
	}
	return 0;
}

void remote_close(struct remote_node *nodes, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		remote_release(&nodes[i]);
		ctl_client_close(nodes[i].client);
	}
}
