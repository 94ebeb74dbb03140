/*
 * rpc/fabric_node_test.h: a memory node for tests and benches of the fabric: lease table and data
 * server in a forked child (so that it can be killed and stopped), asked over a socketpair for what
 * the control plane would do: reserve, release, fence, and a look at the region's bytes from the
 * node's side.
 */
#ifndef FM_RPC_FABRIC_NODE_TEST_H
#define FM_RPC_FABRIC_NODE_TEST_H

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "memnode/data_server.h"
#include "memnode/data_verbs.h"
#include "memnode/lease.h"
#include "rpc/fabric.h"

#define NODE_PEEK_BYTES 4096u

enum node_command {
	NODE_RESERVE,
	NODE_RELEASE,
	NODE_FENCE,
	NODE_PEEK,
	NODE_STATS,
	NODE_VERBS_STATS
};

struct node_request {
	enum node_command command;
	uint64_t bytes, offset;
	struct fabric_capability capability;
};

struct node_answer {
	int status;
	struct fabric_capability capability;
	struct data_server_stats stats;
	struct data_verbs_stats verbs;
	uint8_t bytes[NODE_PEEK_BYTES];
};

struct node {
	pid_t pid;
	int pair;
	uint16_t port;
	char path[64];
	char verbs[DATA_VERBS_ADDRESS_BYTES];  /* where it listens; empty: nowhere */
	char endpoint[3][FABRIC_ENDPOINT_MAX]; /* shm, tcp, verbs */
};

enum { NODE_SHM = 0, NODE_TCP = 1, NODE_VERBS = 2 };

/* What a node that has come up says. */
struct node_ready {
	uint16_t port;
	char verbs[DATA_VERBS_ADDRESS_BYTES];
};

/* -1: none of them. */
static inline int node_transport(const char *word)
{
	static const char *const words[] = {"shm", "tcp", "verbs"};
	for (int i = 0; i < 3; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	return -1;
}

/* The address nodes serve RDMA clients at; empty: they do not. */
static inline char *node_verbs_address(void)
{
	static char address[DATA_VERBS_ADDRESS_BYTES];
	return address;
}

/* Nodes started from now on serve RDMA, and this process can use it. False: said why not. */
static inline bool node_has_verbs(void)
{
	const char *given = getenv("FM_VERBS_ADDRESS");
	char host[DATA_VERBS_ADDRESS_BYTES] = "";
	int r = given ? 0 : data_verbs_find(host);
	if (!r)
		r = fabric_load_verbs();
	if (r) {
		printf("SKIP: no RDMA device (rdma_rxe: ci/rxe): %s\n", strerror(-r));
		return false;
	}
	snprintf(node_verbs_address(), DATA_VERBS_ADDRESS_BYTES, "%.60s:0", given ? given : host);
	return true;
}

static inline void node_answer(struct lease_table *table, struct data_server *server,
	struct data_verbs *verbs, const struct node_request *request, struct node_answer *answer)
{
	static const uint8_t client[16] = {1};
	struct lease *lease;
	memset(answer, 0, sizeof(*answer));
	switch (request->command) {
	case NODE_RESERVE:
		answer->status = lease_reserve(table, client, request->bytes, &answer->capability);
		break;
	case NODE_RELEASE:
		answer->status = lease_release(table, &request->capability);
		break;
	case NODE_FENCE:
		answer->status = lease_fence(table, &request->capability, &answer->capability);
		break;
	case NODE_PEEK:
		answer->status = lease_get(table, &request->capability, &lease);
		if (!answer->status) {
			memcpy(answer->bytes, lease_memory(lease) + request->offset,
				NODE_PEEK_BYTES);
			lease_put(lease);
		}
		break;
	case NODE_STATS:
		data_server_stats(server, &answer->stats);
		break;
	case NODE_VERBS_STATS:
		if (verbs)
			data_verbs_stats(verbs, &answer->verbs);
		break;
	}
}

FM_NORETURN static inline void node_main(
	int pair, const char *path, const char *tcp_address, const char *verbs_address)
{
	struct lease_table_options lease_options = {.memory_bytes = 1ull << 30, .huge_pages = true};
	struct lease_table *table;
	struct data_server *server;
	struct data_verbs *verbs = NULL;
	struct node_request request;
	static struct node_answer answer;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	log_set_program("test-node");
	if (!getenv("FARMEM_TEST_LOG"))
		log_set_level(LOG_ERROR);
	if (lease_table_open(&lease_options, &table))
		_exit(3);
	struct data_server_options options = {.tcp_address = tcp_address,
		.unix_path = path,
		.leases = table,
		.connections_max = 64};
	int r = data_server_open(&options, &server);
	const struct data_verbs_options verbs_options = {.address = verbs_address, .leases = table};
	if (!r && *verbs_address)
		r = data_verbs_open(&verbs_options, &verbs);
	struct node_ready ready = {.port = r ? 0 : data_server_port(server)};
	if (!r && verbs)
		snprintf(ready.verbs, sizeof(ready.verbs), "%s", data_verbs_address(verbs));
	if (r || write(pair, &ready, sizeof(ready)) != (ssize_t)sizeof(ready))
		_exit(4);
	while (read(pair, &request, sizeof(request)) == (ssize_t)sizeof(request)) {
		node_answer(table, server, verbs, &request, &answer);
		if (write(pair, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
			break;
	}
	data_verbs_close(verbs);
	data_server_close(server);
	lease_table_close(table);
	exit(0);
}

/* port 0: any. Ends the program when the node does not come up. */
static inline void node_start(struct node *node, uint16_t port)
{
	static unsigned count;
	int pair[2];
	struct node_ready ready;
	char address[32];
	snprintf(address, sizeof(address), "127.0.0.1:%u", port);
	snprintf(node->path, sizeof(node->path), "/tmp/fabric_test.%d.%u.sock", getpid(),
		port ? count : ++count);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		abort();
	fflush(stdout);
	node->pid = fork();
	if (node->pid == 0) {
		close(pair[0]);
		node_main(pair[1], node->path, address,
			port && node->verbs[0] ? node->verbs : node_verbs_address());
	}
	close(pair[1]);
	node->pair = pair[0];
	if (node->pid < 0 || read(node->pair, &ready, sizeof(ready)) != sizeof(ready)) {
		fprintf(stderr, "the test's node did not come up\n");
		exit(1);
	}
	node->port = ready.port;
	memcpy(node->verbs, ready.verbs, sizeof(node->verbs));
	snprintf(node->endpoint[NODE_SHM], FABRIC_ENDPOINT_MAX, "shm:%s", node->path);
	snprintf(node->endpoint[NODE_TCP], FABRIC_ENDPOINT_MAX, "tcp:127.0.0.1:%u", node->port);
	snprintf(node->endpoint[NODE_VERBS], FABRIC_ENDPOINT_MAX, "verbs:%s", node->verbs);
}

static inline int node_ask(
	struct node *node, const struct node_request *request, struct node_answer *answer)
{
	if (write(node->pair, request, sizeof(*request)) != (ssize_t)sizeof(*request) ||
		read(node->pair, answer, sizeof(*answer)) != (ssize_t)sizeof(*answer))
		return -EPIPE;
	return answer->status;
}

static inline int node_reserve(
	struct node *node, uint64_t bytes, struct fabric_capability *capability)
{
	struct node_request request = {.command = NODE_RESERVE, .bytes = bytes};
	static struct node_answer answer;
	int r = node_ask(node, &request, &answer);
	*capability = answer.capability;
	return r;
}

static inline int node_release(struct node *node, const struct fabric_capability *capability)
{
	struct node_request request = {.command = NODE_RELEASE, .capability = *capability};
	static struct node_answer answer;
	return node_ask(node, &request, &answer);
}

static inline int node_fence(struct node *node, const struct fabric_capability *capability,
	struct fabric_capability *renewed)
{
	struct node_request request = {.command = NODE_FENCE, .capability = *capability};
	static struct node_answer answer;
	int r = node_ask(node, &request, &answer);
	*renewed = answer.capability;
	return r;
}

/* NODE_PEEK_BYTES of the region as the node sees them. */
static inline int node_peek(struct node *node, const struct fabric_capability *capability,
	uint64_t offset, uint8_t bytes[NODE_PEEK_BYTES])
{
	struct node_request request = {
		.command = NODE_PEEK, .capability = *capability, .offset = offset};
	static struct node_answer answer;
	int r = node_ask(node, &request, &answer);
	memcpy(bytes, answer.bytes, NODE_PEEK_BYTES);
	return r;
}

static inline void node_stats(struct node *node, struct data_server_stats *stats)
{
	struct node_request request = {.command = NODE_STATS};
	static struct node_answer answer;
	if (node_ask(node, &request, &answer))
		abort();
	*stats = answer.stats;
}

static inline void node_verbs_stats(struct node *node, struct data_verbs_stats *stats)
{
	struct node_request request = {.command = NODE_VERBS_STATS};
	static struct node_answer answer;
	if (node_ask(node, &request, &answer))
		abort();
	*stats = answer.verbs;
}

/* As if the machine's power went: nothing is cleaned up. */
static inline void node_kill(struct node *node)
{
	int status;
	if (node->pid <= 0)
		return;
	kill(node->pid, SIGKILL);
	waitpid(node->pid, &status, 0);
	close(node->pair);
	node->pid = 0;
	unlink(node->path);
}

/* Returns when every thread of it has stopped. */
static inline void node_freeze(struct node *node)
{
	int status;
	kill(node->pid, SIGSTOP);
	if (waitpid(node->pid, &status, WUNTRACED) != node->pid || !WIFSTOPPED(status))
		abort();
}

static inline void node_thaw(struct node *node)
{
	kill(node->pid, SIGCONT);
}

/* Orderly. Returns the exit status: sanitizers speak through it. */
static inline int node_stop(struct node *node)
{
	int status = 0;
	if (node->pid <= 0)
		return 0;
	close(node->pair);
	waitpid(node->pid, &status, 0);
	node->pid = 0;
	return status;
}

#endif
