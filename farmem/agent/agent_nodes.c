/*
 * farmem/agent/agent_nodes.c: which nodes there are and which are up.
 *
 * A member is asked for Stats until it answers (JOINING); then its node gets an index and a
 * keepalive every second, which also renews its leases. What happens next, for the node:
 *
 *     UP --a runtime had trouble, or no answer--> SUSPECT --it answers, same incarnation--> UP
 *     UP, SUSPECT --connection refused, process ended, restarted, 5 answers missed--> DOWN
 *
 * DOWN is for good: its columns are lost, the member joins again as a new node.
 *
 * Invariants
 *   1. A node's index means the same in every runtime's catalog, and never another incarnation.
 *   2. Silence alone never takes the last bytes: a node that only does not answer is not given up
 *      while some group would have more than m lost columns without it (it stays SUSPECT). Nor is
 *      an embedded node whose process lives, nor anybody when we ourselves were late.
 *   3. A keepalive brings SUSPECT back to UP only where SUSPECT had been seen before it was sent.
 *   4. Who goes down AGENT_FLAPS_MAX times and once more within AGENT_FLAP_WINDOW_NS is
 * quarantined: no new columns there for a pause that doubles, while other hosts are enough.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "farmem/agent/agent.h"
#include "farmem/agent/agent_repair.h"
#include "farmem/agent/column.h"
#include "farmem/agent/compact.h"
#include "rpc/resolve.h"

/* A question under way. */
struct question {
	struct agent_member *member;
	struct ctl_client *client; /* to notice that the member was restarted meanwhile */
	int node;                  /* asked for a keepalive; -1: asked for Stats */
	uint64_t sent_ns;
	unsigned count;
	struct asked_lease {
		struct agent_runtime *runtime;
		uint64_t lease;
		uint32_t group;
		uint8_t position;
	} leases[CTL_LEASES_MAX];
	bool suspect_seen[AGENT_RUNTIMES_MAX]; /* invariant 3; by slot in agent->runtimes */
	struct agent_runtime *seen_in[AGENT_RUNTIMES_MAX];
};

/* ---- what the catalogs say ---- */

static void show_node(struct agent *agent, struct agent_runtime *runtime, unsigned index)
{
	const struct agent_node *node = &agent->nodes[index];
	const struct agent_member *member = &agent->members[node->member];
	struct catalog_node *entry = &runtime->catalog.nodes[index];
	struct catalog_header *header = runtime->catalog.header;
	entry->host = node->host;
	entry->incarnation = node->incarnation;
	snprintf(entry->name, sizeof entry->name, "%s", node->name);
	snprintf(entry->endpoint, sizeof entry->endpoint, "%s", node->endpoint);
	atomic_store_explicit(
		&entry->memory_bytes, member->load.memory_bytes, memory_order_relaxed);
	atomic_store_explicit(
		&entry->leased_bytes, member->load.leased_bytes, memory_order_relaxed);
	atomic_store_explicit(&entry->keepalive_rtt_ns, node->rtt_ns, memory_order_relaxed);
	atomic_store_explicit(&entry->down_since_ns, node->down_since_ns, memory_order_relaxed);
	atomic_store_explicit(&entry->state, node->state, memory_order_release);
	if (atomic_load_explicit(&header->nodes_count, memory_order_relaxed) <= index)
		atomic_store_explicit(&header->nodes_count, index + 1, memory_order_release);
	runtime->tell_nodes = true;
}

void nodes_show(struct agent *agent, struct agent_runtime *runtime)
{
	for (unsigned i = 0; i < agent->nodes_count; i++)
		show_node(agent, runtime, i);
}

/* The load figures of a node that just answered, in all catalogs. */
static void show_load(struct agent *agent, unsigned index)
{
	const struct agent_node *node = &agent->nodes[index];
	const struct ctl_load *load = &agent->members[node->member].load;
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		if (!agent->runtimes[i]->attached)
			continue;
		struct catalog_node *entry = &agent->runtimes[i]->catalog.nodes[index];
		atomic_store_explicit(
			&entry->memory_bytes, load->memory_bytes, memory_order_relaxed);
		atomic_store_explicit(
			&entry->leased_bytes, load->leased_bytes, memory_order_relaxed);
		atomic_store_explicit(&entry->keepalive_rtt_ns, node->rtt_ns, memory_order_relaxed);
	}
}

static struct agent_node *member_node(const struct agent_member *member)
{
	return member->node >= 0 ? &member->agent->nodes[member->node] : NULL;
}

/* ---- transitions ---- */

static void runtimes_poke(struct agent *agent)
{
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			runtime_tell(agent->runtimes[i]);
}

static void member_become_suspect(struct agent_member *member)
{
	struct agent *agent = member->agent;
	if (member->state != MEMBER_UP)
		return;
	member->state = MEMBER_SUSPECT;
	agent->nodes[member->node].state = NODE_SUSPECT;
	log_warn("agent: suspect node=%s", member->name);
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *runtime = agent->runtimes[i];
		uint32_t up = NODE_UP;
		if (runtime->attached &&
			atomic_compare_exchange_strong_explicit(
				&runtime->catalog.nodes[member->node].state, &up, NODE_SUSPECT,
				memory_order_acq_rel, memory_order_relaxed))
			runtime->tell_nodes = true;
	}
	runtimes_poke(agent);
}

void node_suspect(struct agent_member *member)
{
	member_become_suspect(member);
	node_check(member);
}

/* It answered: catalogs that said SUSPECT before the question was sent say UP again. */
static void member_become_up(struct agent_member *member, const struct question *question)
{
	struct agent *agent = member->agent;
	member->missed = 0;
	if (member->state == MEMBER_SUSPECT) {
		member->state = MEMBER_UP;
		agent->nodes[member->node].state = NODE_UP;
		log_info("agent: up node=%s", member->name);
	}
	for (unsigned i = 0; i < AGENT_RUNTIMES_MAX; i++) {
		struct agent_runtime *runtime = question->seen_in[i];
		uint32_t suspect = NODE_SUSPECT;
		if (!question->suspect_seen[i] || i >= agent->runtimes_count ||
			agent->runtimes[i] != runtime || !runtime->attached)
			continue;
		if (atomic_compare_exchange_strong_explicit(
			    &runtime->catalog.nodes[member->node].state, &suspect, NODE_UP,
			    memory_order_acq_rel, memory_order_relaxed)) {
			runtime->tell_nodes = true;
			runtime_tell(runtime);
		}
	}
}

/* Down too often lately: it is passed over for a while (invariant 4). */
static void member_flapped(struct agent_member *member)
{
	uint64_t now_ns = clock_now_ns();
	bool often = member->flaps_count == AGENT_FLAPS_MAX &&
		     now_ns - member->flaps_ns[0] < AGENT_FLAP_WINDOW_NS;
	/* The oldest first. */
	if (member->flaps_count == AGENT_FLAPS_MAX)
		memmove(member->flaps_ns, member->flaps_ns + 1,
			--member->flaps_count * sizeof member->flaps_ns[0]);
	member->flaps_ns[member->flaps_count++] = now_ns;
	if (!often || now_ns < member->quarantined_until_ns)
		return;
	uint64_t pause_ns = FM_MIN(AGENT_QUARANTINE_FIRST_NS << FM_MIN(member->quarantines, 10u),
		AGENT_QUARANTINE_MAX_NS);
	member->quarantines++;
	member->quarantined_until_ns = now_ns + pause_ns;
	runtime_notice(member->agent, NULL, LOG_WARN,
		"memory node %s goes down again and again: no new memory is put there for %llu s",
		member->name, (unsigned long long)(pause_ns / NS_PER_S));
}

void node_down(struct agent_member *member, const char *reason)
{
	struct agent *agent = member->agent;
	struct agent_node *node = member_node(member);
	unsigned groups = 0;
	member->state = MEMBER_JOINING;
	member->missed = 0;
	member->releases_count = 0; /* what it had lent went with it */
	if (node == NULL)
		return;
	node->state = NODE_DOWN;
	AGENT_DIE("node.down");
	node->down_since_ns = agent_realtime_ns();
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *runtime = agent->runtimes[i];
		if (!runtime->attached)
			continue;
		show_node(agent, runtime, (unsigned)member->node);
		groups += groups_lose(runtime, (unsigned)member->node);
	}
	runtime_notice(agent, NULL, LOG_WARN,
		"memory node %s is down: %s; %u groups go on with what is left", member->name,
		reason, groups);
	unsigned index = (unsigned)member->node;
	member->node = -1;
	member->drain_said = false; /* the next incarnation has said nothing */
	member_flapped(member);
	repair_node_down(agent, index);
	compact_node_down(agent, index);
	runtimes_poke(agent);
}

/* ---- joining ---- */

static uint32_t host_number(const struct agent *agent, const char *host_id, unsigned index)
{
	for (unsigned i = 0; i < index; i++)
		if (strcmp(agent->nodes[i].host_id, host_id) == 0)
			return agent->nodes[i].host;
	return index;
}

/*
 * "tcp:10.1.2.3:7401" of member "h1:7400": the host as the user wrote it, looked up here because
 * the application's side of the fabric takes numbers only; the port as the node says.
 */
static int member_resolve(
	const struct agent_member *member, uint16_t port, char endpoint[FABRIC_ENDPOINT_MAX])
{
	char host[sizeof member->address];
	size_t length = (size_t)(strrchr(member->address, ':') - member->address);
	memcpy(host, member->address, length);
	host[length] = '\0';
	return resolve_endpoint(host, port, endpoint);
}

/*
 * "verbs:10.1.2.3:7402,tcp:10.1.2.3:7401": RDMA first, and what a process without it takes (a
 * program's forked child, another node).
 */
static int member_verbs_endpoint(const struct agent_member *member, const struct ctl_stats *stats,
	char endpoint[FABRIC_ENDPOINT_MAX])
{
	char tcp[FABRIC_ENDPOINT_MAX] = "", verbs[FABRIC_ENDPOINT_MAX];
	const char *colon = strrchr(stats->data_verbs, ':'), *address = stats->data_verbs;
	unsigned port = 0;
	int error = stats->data_port != 0 ? member_resolve(member, stats->data_port, tcp) : 0;
	if (error != 0)
		return error;
	if (colon == NULL || sscanf(colon, ":%5u", &port) != 1 || port == 0 || port > UINT16_MAX) {
		runtime_notice(member->agent, NULL, LOG_WARN,
			"memory node %s offers no RDMA (farmem-memnode --verbs ADDRESS:PORT): it "
			"is "
			"reached over tcp",
			member->name);
		memcpy(endpoint, tcp, sizeof tcp);
		return tcp[0] != '\0' ? 0 : -EINVAL;
	}
	/* Everywhere on that host: where we reach its control plane, then. */
	if (strncmp(address, "0.0.0.0:", 8) == 0 || strncmp(address, "[::]:", 5) == 0) {
		error = member_resolve(member, (uint16_t)port, verbs);
		if (error != 0)
			return error;
		address = verbs + strlen("tcp:");
	}
	int length = snprintf(endpoint, FABRIC_ENDPOINT_MAX, "verbs:%s%s%s", address,
		tcp[0] != '\0' ? "," : "", tcp);
	return length < FABRIC_ENDPOINT_MAX ? 0 : -EINVAL;
}

static int member_endpoint(const struct agent_member *member, const struct ctl_stats *stats,
	char endpoint[FABRIC_ENDPOINT_MAX])
{
	const struct agent *agent = member->agent;
	int length = -1;
	if (agent->embedded && agent->config.transport != TRANSPORT_TCP &&
		stats->data_path[0] != '\0')
		length = snprintf(endpoint, FABRIC_ENDPOINT_MAX, "shm:%s", stats->data_path);
	else if (agent->embedded && stats->data_port != 0)
		length = snprintf(
			endpoint, FABRIC_ENDPOINT_MAX, "tcp:127.0.0.1:%u", stats->data_port);
	else if (!agent->embedded && agent->config.transport == TRANSPORT_VERBS)
		return member_verbs_endpoint(member, stats, endpoint);
	else if (!agent->embedded && stats->data_port != 0)
		return member_resolve(member, (uint16_t)stats->data_port, endpoint);
	return length > 0 && length < FABRIC_ENDPOINT_MAX ? 0 : -EINVAL;
}

/* It will not join now: groups need not wait for it. */
static void said_once(struct agent_member *member, const char *reason)
{
	if (!member->said && !member->agent->embedded)
		runtime_notice(member->agent, NULL, LOG_WARN,
			"memory node %s: %s: going on without it", member->name, reason);
	for (unsigned i = 0; i < member->agent->runtimes_count && !member->tried; i++)
		member->agent->runtimes[i]->refill = true;
	member->said = true;
	member->tried = true;
}

/* Another member with this node, or with a node on this machine. */
static struct agent_member *member_like(
	const struct agent_member *member, const struct ctl_stats *stats, bool same_node)
{
	struct agent *agent = member->agent;
	for (unsigned i = 0; i < agent->members_count; i++) {
		struct agent_member *other = &agent->members[i];
		const struct agent_node *node = member_node(other);
		if (other != member && node != NULL &&
			(same_node ? node->incarnation == stats->incarnation
				   : strcmp(node->host_id, stats->host) == 0))
			return other;
	}
	return NULL;
}

static void member_make_node(struct agent_member *member, const struct ctl_stats *stats)
{
	struct agent *agent = member->agent;
	unsigned index = agent->nodes_count;
	struct agent_node *node = &agent->nodes[index];
	memset(node, 0, sizeof *node);
	if (member_endpoint(member, stats, node->endpoint) != 0) {
		said_once(member, "it offers no data plane that we could use");
		return;
	}
	node->member = member->index;
	node->state = NODE_UP;
	node->incarnation = stats->incarnation;
	snprintf(node->host_id, sizeof node->host_id, "%s", stats->host);
	snprintf(node->name, sizeof node->name, "%s", member->name);
	node->host = host_number(agent, stats->host, index);
	agent->nodes_count++;
	AGENT_DIE("node.made");
	table_seal(agent);
	AGENT_DIE("node.sealed");
	member->node = (int)index;
	member->state = MEMBER_UP;
	member->load = stats->load;
	member->missed = 0;
	member->avoid_until_ns = 0;
	log_info("agent: joined node=%s index=%u host=%s endpoint=%s memory_bytes=%llu",
		member->name, index, stats->host, node->endpoint,
		(unsigned long long)stats->load.memory_bytes);
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		if (agent->runtimes[i]->attached)
			show_node(agent, agent->runtimes[i], index);
		agent->runtimes[i]->refill = true; /* groups may have waited for it */
	}
	runtimes_poke(agent);
}

/* A node that was given up for silence but lives: nobody will read what it holds for us. */
static void member_release_lost(struct agent_member *member, uint64_t incarnation)
{
	struct agent *agent = member->agent;
	for (unsigned r = 0; r < agent->runtimes_count; r++) {
		struct agent_runtime *runtime = agent->runtimes[r];
		for (unsigned g = 0; g < runtime->groups_count; g++) {
			struct agent_group *group = &runtime->groups[g];
			for (unsigned p = 0; p < (unsigned)group->k + group->m; p++)
				if (group->columns[p].lost &&
					group->columns[p].capability.incarnation == incarnation)
					member_release(member, &group->columns[p].capability);
		}
	}
}

static void member_join(struct agent_member *member, const struct ctl_stats *stats)
{
	struct agent *agent = member->agent;
	const struct agent_member *other = member_like(member, stats, true);
	if (other != NULL) {
		member->state = MEMBER_ALIAS;
		member->tried = true;
		runtime_notice(agent, NULL, LOG_WARN,
			"memory node %s is the same node as %s: it counts once", member->name,
			other->name);
		return;
	}
	if (agent->nodes_count == CATALOG_NODES_MAX) {
		said_once(member, "too many nodes and restarts for this program's catalog");
		return;
	}
	other = member_like(member, stats, false);
	if (other != NULL && !agent->embedded)
		runtime_notice(agent, NULL, LOG_WARN,
			"memory node %s is on the same host as %s: the two count as one host",
			member->name, other->name);
	if (member->said)
		runtime_notice(agent, NULL, LOG_WARN, "memory node %s answers now", member->name);
	member->said = false;
	member_make_node(member, stats);
	member_release_lost(member, stats->incarnation);
	repair_pay(member, stats->incarnation);
	repair_poke(agent);
}

/* ---- asking ---- */

/* Regions that are being filled: no column of a group yet. Few, so they come first. */
static void collect_targets(struct agent_member *member, struct question *question,
	struct fabric_capability *capabilities)
{
	const struct repair_agent *all = member->agent->repair;
	for (unsigned i = 0; all != NULL && i < all->count; i++) {
		const struct repair *repair = all->repairs[i];
		if (repair->node != member->node || !repair->held ||
			question->count == CTL_LEASES_MAX)
			continue;
		capabilities[question->count] = repair->capability;
		question->leases[question->count++] = (struct asked_lease){
			NULL, repair->capability.lease, repair->group, repair->position};
	}
}

static void collect_leases(struct agent_member *member, struct question *question,
	struct fabric_capability *capabilities)
{
	struct agent *agent = member->agent;
	unsigned skip = member->keepalive_cursor, seen = 0;
	collect_targets(member, question, capabilities);
	const unsigned targets = question->count;
	for (unsigned r = 0; r < agent->runtimes_count; r++) {
		struct agent_runtime *runtime = agent->runtimes[r];
		for (unsigned g = 0; g < runtime->groups_count; g++) {
			struct agent_group *group = &runtime->groups[g];
			for (unsigned p = 0; p < (unsigned)group->k + group->m; p++) {
				struct agent_column *column = &group->columns[p];
				if (column->node != member->node || column->lost ||
					group->retired || seen++ < skip ||
					question->count == CTL_LEASES_MAX)
					continue;
				capabilities[question->count] = column->capability;
				question->leases[question->count++] = (struct asked_lease){
					runtime, column->capability.lease, g, (uint8_t)p};
			}
		}
	}
	/* More than fit take turns; 15 turns fit into the node's --keepalive. */
	unsigned columns = question->count - targets;
	member->keepalive_cursor = skip + columns < seen ? skip + columns : 0;
}

static void note_suspects(const struct agent_member *member, struct question *question)
{
	struct agent *agent = member->agent;
	for (unsigned i = 0; i < agent->runtimes_count; i++) {
		struct agent_runtime *runtime = agent->runtimes[i];
		question->seen_in[i] = runtime;
		question->suspect_seen[i] =
			runtime->attached &&
			atomic_load_explicit(&runtime->catalog.nodes[member->node].state,
				memory_order_acquire) == NODE_SUSPECT;
	}
}

/* No answer. */
static void member_missed(struct agent_member *member, const struct ctl_result *result, bool late)
{
	char reason[64];
	if (member->state == MEMBER_JOINING && member->process_running)
		return; /* ours, and starting on a busy machine: join_until_ns bounds the wait */
	if (member->state == MEMBER_JOINING || member->state == MEMBER_ALIAS) {
		said_once(member, result->status == -ETIMEDOUT ? "does not answer" : result->text);
		return;
	}
	if (result->status == -ECONNREFUSED && !member->process_running) {
		node_down(member, "it refuses connections");
		return;
	}
	if (result->status == -EACCES || result->status == -ENOSYS || result->status == -EPROTO) {
		node_down(member, "what answers there is not that memory node any more");
		return;
	}
	/* A broken connection says little; asking anew tells a dead process from a broken wire. */
	if (result->status == -ECONNRESET && member->missed == 0)
		member->check_again = true;
	if (!late)
		member->missed++;
	member_become_suspect(member);
	if (member->missed < AGENT_MISSED_MAX || member->process_running ||
		groups_need(member->agent, (unsigned)member->node))
		return;
	snprintf(reason, sizeof reason, "no answer for %u s", member->missed);
	node_down(member, reason);
}

static bool runtime_is_there(const struct agent *agent, const struct agent_runtime *runtime)
{
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i] == runtime)
			return true;
	return false;
}

/* The node itself says that single leases are gone (revoked by hand, or orphaned too long). */
static void lose_leases(struct agent_member *member, const struct question *question,
	const struct ctl_keepalive *answer)
{
	for (unsigned i = 0; i < answer->count; i++) {
		const struct asked_lease *lease = &question->leases[i];
		if (!answer->lost[i])
			continue;
		if (lease->runtime == NULL) {
			repair_lease_lost(member->agent, question->node, lease->lease);
			continue;
		}
		if (!runtime_is_there(member->agent, lease->runtime) ||
			lease->group >= lease->runtime->groups_count)
			continue;
		struct agent_group *group = &lease->runtime->groups[lease->group];
		if (group->columns[lease->position].lost ||
			group->columns[lease->position].capability.lease != lease->lease)
			continue;
		group->columns[lease->position].lost = true;
		column_lose(&lease->runtime->catalog, lease->group, lease->position);
		lease->runtime->tell_nodes = true;
		repair_poke(member->agent);
		runtime_notice(member->agent, lease->runtime, LOG_WARN,
			"memory node %s has revoked a lease of group %u", member->name,
			lease->group);
	}
}

static void keepalive_answered(struct agent_member *member, const struct question *question,
	const struct ctl_result *result)
{
	static struct ctl_keepalive answer;
	struct agent *agent = member->agent;
	bool late = clock_now_ns() - question->sent_ns > 2 * AGENT_KEEPALIVE_TIMEOUT_NS;
	int error = ctl_unpack_keepalive(result, question->count, &answer);
	if (member->node != question->node)
		return; /* given up meanwhile */
	if (error == -EPROTO) {
		node_down(member, "what answers there is not that memory node any more");
		return;
	}
	if (error != 0) {
		member_missed(member, result, late);
		return;
	}
	if (answer.incarnation != agent->nodes[member->node].incarnation) {
		node_down(member, "it was restarted");
		member->check_again = true;
		return;
	}
	member->load = answer.load;
	agent->nodes[member->node].rtt_ns = clock_now_ns() - question->sent_ns;
	show_load(agent, (unsigned)member->node);
	drain_said(member, answer.load.draining);
	lose_leases(member, question, &answer);
	member_become_up(member, question);
}

static void stats_answered(struct agent_member *member, const struct ctl_result *result)
{
	struct ctl_stats stats;
	int error = ctl_unpack_stats(result, &stats);
	if (error == -EPROTO || error == -ENOSYS)
		said_once(member, "what answers there is no memory node");
	else if (error != 0)
		member_missed(member, result, false);
	else if (member->state == MEMBER_JOINING)
		member_join(member, &stats);
	else if (member->state == MEMBER_ALIAS && member_like(member, &stats, true) == NULL)
		member->state =
			MEMBER_JOINING; /* its other name has gone: it may join by this one */
}

static void answered(void *context, const struct ctl_result *result)
{
	struct question *question = context;
	struct agent_member *member = question->member;
	bool current = question->client == member->client;
	member->call_running = false;
	if (current && question->node >= 0)
		keepalive_answered(member, question, result);
	else if (current)
		stats_answered(member, result);
	free(question);
	member_flush_releases(member);
	if (member->check_again)
		node_check(member);
}

static int question_send(struct question *question)
{
	struct agent_member *member = question->member;
	static struct fabric_capability capabilities[CTL_LEASES_MAX];
	struct ctl_packed packed = {0};
	struct ctl_request request = {
		.method = CTL_METHOD_STATS, .bytes = "", .timeout_ns = AGENT_KEEPALIVE_TIMEOUT_NS};
	if (question->node >= 0) {
		request.method = CTL_METHOD_KEEPALIVE;
		collect_leases(member, question, capabilities);
		note_suspects(member, question);
		int error = ctl_pack_leases(request.method, capabilities, question->count, &packed);
		if (error != 0)
			return error;
		request.bytes = packed.bytes;
		request.length = packed.length;
	}
	int error = ctl_client_start(
		member->client, member->agent->queue, &request, answered, question);
	ctl_packed_clear(&packed);
	return error;
}

void node_check(struct agent_member *member)
{
	if (member->client == NULL)
		return;
	member->check_again = member->call_running;
	if (member->call_running)
		return;
	struct question *question = calloc(1, sizeof *question);
	if (question == NULL)
		return;
	question->member = member;
	question->client = member->client;
	question->node = member->node;
	question->sent_ns = clock_now_ns();
	if (question_send(question) != 0)
		free(question);
	else
		member->call_running = true;
}

/* ---- start and tick ---- */

static struct agent_member *member_add(struct agent *agent, const char *name, size_t length)
{
	struct agent_member *member = &agent->members[agent->members_count];
	if (length == 0 || length >= sizeof member->name ||
		agent->members_count == AGENT_MEMBERS_MAX)
		return NULL;
	snprintf(member->name, sizeof member->name, "%.*s", (int)length, name);
	snprintf(member->address, sizeof member->address, "%.*s", (int)length, name);
	if (strrchr(member->address, ':') == NULL)
		return NULL;
	for (unsigned i = 0; i < agent->members_count; i++)
		if (strcmp(agent->members[i].name, member->name) == 0) {
			log_warn("agent: node=%s is in the list twice: it counts once",
				member->name);
			return NULL;
		}
	agent->members_count++;
	return member;
}

/* "h1:7400,h2:7400" */
static int static_begin(struct agent *agent)
{
	const char *at = agent->config.nodes;
	while (*at != '\0') {
		size_t length = strcspn(at, ",");
		struct agent_member *member = member_add(agent, at, length);
		if (member == NULL)
			log_warn("agent: node=\"%.*s\" is passed over", (int)length, at);
		else if (ctl_client_open(member->address, &member->client) != 0)
			return -ENOMEM;
		at += length + (at[length] == ',');
	}
	for (unsigned i = 0; i < agent->members_count; i++) {
		agent->members[i].join_until_ns = agent->settle_until_ns;
		node_check(&agent->members[i]);
	}
	return agent->members_count > 0 ? 0 : -EINVAL;
}

int nodes_begin(struct agent *agent)
{
	agent->settle_until_ns = clock_now_ns() + AGENT_SETTLE_NS;
	agent->embedded = agent->config.nodes[0] == '\0';
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++) {
		struct agent_member *member = &agent->members[i];
		member->agent = agent;
		member->index = i;
		member->node = -1;
		member->ready_pipe.fd = -1;
	}
	int error = repair_begin(agent);
	if (error == 0)
		error = compact_begin(agent);
	if (error != 0)
		return error;
	return agent->embedded ? embedded_begin(agent) : static_begin(agent);
}

void nodes_tick(struct agent *agent, uint64_t now_ns)
{
	(void)now_ns;
	for (unsigned i = 0; i < agent->members_count; i++) {
		if (!agent->members[i].call_running)
			node_check(&agent->members[i]);
		member_flush_releases(&agent->members[i]);
	}
	load_tick(agent);
}

bool nodes_settling(const struct agent *agent, uint64_t now_ns)
{
	for (unsigned i = 0; i < agent->members_count; i++) {
		const struct agent_member *member = &agent->members[i];
		/* One that was adopted may not have said yet how much room it has, or at all. */
		bool open =
			member->state == MEMBER_JOINING
				? !member->tried
				: member->state == MEMBER_SUSPECT || member->load.memory_bytes == 0;
		if (open && member->state != MEMBER_ALIAS && now_ns < member->join_until_ns)
			return true;
	}
	return false;
}
