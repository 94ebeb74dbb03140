/*
 * tests/e2e/foreign.c: what a node answers to capabilities that are not its own any more. Called by
 * repair.sh.
 *
 *   e2e_foreign CTL_PORT DATA_PORT    (of 127.0.0.1)
 *
 * Reserves a region, stores a page, says "stored", and waits for a line: meanwhile the script kills
 * the node and starts it again on the same ports. Then the old capability must be refused on the
 * data plane and told lost on the control plane, and so must every altered copy of a new one; a new
 * region must read as zeros. Exit 0 with "refused N"; 1 with a line at the first answer that should
 * not have been.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "rpc/ctl_memnode.h"
#include "rpc/fabric.h"

#define REGION_BYTES (1u << 20)
#define WAIT_NS (10 * NS_PER_S)

static char endpoint[FABRIC_ENDPOINT_MAX];
static struct fabric_queue *queue;
static struct ctl_client *client;
static uint8_t page[4096];

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "foreign: %s\n", what);
	exit(1);
}

static void call(const char *method, struct ctl_packed *packed, struct ctl_result *result)
{
	struct ctl_request request = {.method = method,
		.bytes = packed->bytes,
		.length = packed->length,
		.timeout_ns = WAIT_NS};

	ctl_client_call(client, &request, result);
	ctl_packed_clear(packed);
}

static void reserve(struct fabric_capability *capability)
{
	static const uint8_t who[CTL_CLIENT_BYTES] = "e2e foreign";
	struct ctl_packed packed;
	struct ctl_result result;

	must(ctl_pack_reserve(who, REGION_BYTES, &packed) == 0, "reserve: no memory");
	call(CTL_METHOD_RESERVE, &packed, &result);
	must(ctl_unpack_reserve(&result, capability) == 0, "reserve refused");
	ctl_result_clear(&result);
}

/* The node's word about the lease. */
static bool told_lost(const struct fabric_capability *capability)
{
	static struct ctl_keepalive answer;
	struct ctl_packed packed;
	struct ctl_result result;

	must(ctl_pack_leases(CTL_METHOD_KEEPALIVE, capability, 1, &packed) == 0, "no memory");
	call(CTL_METHOD_KEEPALIVE, &packed, &result);
	must(ctl_unpack_keepalive(&result, 1, &answer) == 0, "keepalive refused");
	ctl_result_clear(&result);
	return answer.lost[0];
}

static int attach(const struct fabric_capability *capability, struct fabric_region **region)
{
	return fabric_attach(queue, endpoint, capability, clock_now_ns() + WAIT_NS, region);
}

static void move_page(struct fabric_region *region, bool store)
{
	struct iovec iov = {page, sizeof page};
	struct fabric_transfer transfer = {.offset = 8192,
		.iov = &iov,
		.iov_count = 1,
		.deadline_ns = clock_now_ns() + WAIT_NS};
	struct fabric_completion completion;

	must((store ? fabric_post_write(region, &transfer) : fabric_post_read(region, &transfer)) ==
			0,
		"not posted");
	must(fabric_wait(queue, &completion, 1, transfer.deadline_ns + WAIT_NS) == 1,
		"no completion");
	must(completion.status == 0, store ? "store failed" : "read failed");
}

static void must_refuse(const struct fabric_capability *capability, const char *what)
{
	struct fabric_region *region = NULL;

	must(attach(capability, &region) == -EACCES, what);
	must(told_lost(capability), what);
}

/* Each field of a good capability made wrong. */
static unsigned refuse_altered(const struct fabric_capability *good)
{
	struct fabric_capability altered = *good;
	unsigned bit = 0;

	for (; bit < 128; bit += 9) {
		altered.key[bit / 8] ^= (uint8_t)(1u << bit % 8);
		must_refuse(&altered, "a wrong key was taken");
		altered = *good;
	}
	altered.lease++;
	must_refuse(&altered, "another lease was taken");
	altered = *good;
	altered.incarnation ^= 1;
	must_refuse(&altered, "another incarnation was taken");
	return bit / 9 + 2;
}

int main(int argc, char **argv)
{
	struct fabric_queue_options options = {.depth = 4};
	struct fabric_capability old, new;
	struct fabric_region *region;
	char line[64], address[64];
	struct ctl_packed packed;
	struct ctl_result result;
	unsigned refused;

	must(argc == 3, "see the head of tests/e2e/foreign.c");
	setvbuf(stdout, NULL, _IOLBF, 0);
	snprintf(endpoint, sizeof endpoint, "tcp:127.0.0.1:%s", argv[2]);
	snprintf(address, sizeof address, "127.0.0.1:%s", argv[1]);
	must(fabric_queue_open(&options, &queue) == 0, "no queue");
	must(ctl_client_open(address, &client) == 0, "no client");
	reserve(&old);
	must(attach(&old, &region) == 0, "its own capability was refused");
	memset(page, 0x5a, sizeof page);
	move_page(region, true);
	must(!told_lost(&old), "its own lease is told lost");
	printf("stored\n");
	must(fgets(line, sizeof line, stdin) != NULL, "no word from the script");

	/* A new queue: what is to be seen is the node's answer, not a dead connection's. */
	must(fabric_queue_open(&options, &queue) == 0, "no queue");
	ctl_client_close(client);
	must(ctl_client_open(address, &client) == 0, "no client");
	reserve(&new);
	must_refuse(&old, "a capability of the last incarnation was taken");
	refused = 1 + refuse_altered(&new);
	must(attach(&new, &region) == 0, "its own new capability was refused");
	move_page(region, false);
	for (unsigned i = 0; i < sizeof page; i++)
		must(page[i] == 0, "a new region is not zero");
	must(ctl_pack_leases(CTL_METHOD_RELEASE, &new, 1, &packed) == 0, "no memory");
	call(CTL_METHOD_RELEASE, &packed, &result);
	must(result.status == 0, "release refused");
	ctl_result_clear(&result);
	printf("refused %u\n", refused);
	return 0;
}
