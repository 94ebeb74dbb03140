/*
 * farmem/agent/agent_compact_call.c: a transaction's calls to memory nodes, over gRPC. Caller:
 * compact_tx.c, through compact_call_ops; its context is the struct compact_work.
 *
 * Where columns are, and with which capabilities, are the agent's own copies (column.h, C6).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "farmem/agent/compact.h"
#include "rpc/resolve.h"

struct call {
	struct compact_work *work;
	struct compact_call call;
	uint32_t count;             /* of pairs or pieces asked about */
	struct ctl_merge_send send; /* SEND: what was asked, its pieces apart */
};

/* ---- places ---- */

static const struct agent_column *column_of(
	const struct compact_work *work, uint32_t group, uint32_t position)
{
	const struct agent_runtime *runtime = work->runtime;
	if (runtime == NULL || group >= runtime->groups_count ||
		position >= (uint32_t)runtime->groups[group].k + runtime->groups[group].m)
		return NULL;
	return &runtime->groups[group].columns[position];
}

static int call_place(void *context, uint32_t group, uint32_t position, struct compact_place *place)
{
	const struct compact_work *work = context;
	const struct agent_column *column = column_of(work, group, position);
	if (column == NULL || column->lost || work->agent->nodes[column->node].state == NODE_DOWN)
		return -ENOENT;
	*place = (struct compact_place){column->node, column->capability};
	return 0;
}

/* NULL: its node cannot be asked now. */
static struct agent_member *member_of(const struct compact_work *work, uint32_t node)
{
	struct agent *agent = work->agent;
	if (node >= agent->nodes_count)
		return NULL;
	struct agent_member *member = &agent->members[agent->nodes[node].member];
	return member->node == (int)node && member->client != NULL ? member : NULL;
}

/* "h1:7400" as the nodes take it: with numbers only. Looked up once for each incarnation. */
static int address_resolve(const struct agent_member *member, char address[FABRIC_ENDPOINT_MAX])
{
	char host[sizeof member->address], endpoint[FABRIC_ENDPOINT_MAX];
	const char *colon = strrchr(member->address, ':');
	if (strncmp(member->address, "unix:", 5) == 0) {
		snprintf(address, FABRIC_ENDPOINT_MAX, "%s", member->address);
		return 0;
	}
	if (colon == NULL)
		return -EINVAL;
	memcpy(host, member->address, (size_t)(colon - member->address));
	host[colon - member->address] = '\0';
	int error = resolve_endpoint(host, (uint16_t)strtoul(colon + 1, NULL, 10), endpoint);
	if (error == 0)
		snprintf(address, FABRIC_ENDPOINT_MAX, "%s", endpoint + strlen("tcp:"));
	return error;
}

static int call_address(
	void *context, uint32_t group, uint32_t position, char address[FABRIC_ENDPOINT_MAX])
{
	const struct compact_work *work = context;
	struct compact_agent *all = work->agent->compact;
	const struct agent_column *column = column_of(work, group, position);
	const struct agent_member *member = column != NULL ? member_of(work, column->node) : NULL;
	if (member == NULL)
		return -ECONNRESET;
	if (all->addresses[member->index].node != member->node) {
		int error = address_resolve(member, all->addresses[member->index].address);
		if (error != 0)
			return error;
		all->addresses[member->index].node = member->node;
	}
	memcpy(address, all->addresses[member->index].address, FABRIC_ENDPOINT_MAX);
	return 0;
}

/* ---- answers ---- */

static int answer_unpack(
	const struct call *call, const struct ctl_result *result, const void **answer)
{
	static struct ctl_merge_sent sent;
	static struct ctl_merge_prepared prepared;
	static uint8_t outcomes[CTL_MERGE_PARTIALS];
	switch (call->call.method) {
	case COMPACT_SEND:
		*answer = &sent;
		return ctl_unpack_merge_sent(result, &call->send, &sent);
	case COMPACT_PARTIAL:
		*answer = outcomes;
		return ctl_unpack_merge_partial(result, call->count, outcomes);
	case COMPACT_PREPARE:
		*answer = &prepared;
		return ctl_unpack_merge_prepared(result, call->count, &prepared);
	default:
		*answer = NULL;
		return result->status;
	}
}

static void call_answered(void *context, const struct ctl_result *result)
{
	struct call *call = context;
	struct compact_work *work = call->work;
	const void *answer;
	int error = answer_unpack(call, result, &answer);
	if (error != 0 && work->tx.catalog != NULL) {
		struct agent_member *member =
			member_of(work, work->tx.places[call->call.position].node);
		log_debug("agent: merge call method=%d position=%u error=%d text=\"%s\"",
			call->call.method, call->call.position, error, result->text);
		if (member != NULL && (error == -ETIMEDOUT || error == -ECONNRESET))
			node_check(member);
	}
	compact_tx_answered(&work->tx, &call->call, error, answer, clock_now_ns());
	free(call);
	work->agent->compact->again = true;
	compact_arm(work->agent, clock_now_ns());
	compact_work_put(work);
}

/* ---- requests ---- */

static int message_pack(struct call *call, const struct compact_message *message,
	const char **method, struct ctl_packed *packed)
{
	switch (call->call.method) {
	case COMPACT_BEGIN:
		*method = CTL_METHOD_MERGE_BEGIN;
		return ctl_pack_merge_begin(&message->begin, packed);
	case COMPACT_SEND:
		*method = CTL_METHOD_MERGE_SEND;
		call->count = message->send.count;
		call->send = message->send;
		call->send.pieces = NULL;
		return ctl_pack_merge_send(&message->send, packed);
	case COMPACT_PARTIAL:
		*method = CTL_METHOD_MERGE_PARTIAL;
		call->count = message->partial.count;
		return ctl_pack_merge_partial(&message->partial, packed);
	case COMPACT_PREPARE:
		*method = CTL_METHOD_MERGE_PREPARE;
		call->count = call->work->tx.count;
		return ctl_pack_merge_prepare(message->end.txid, &message->end.target, packed);
	default:
		*method = CTL_METHOD_MERGE_END;
		return ctl_pack_merge_end(
			message->end.txid, &message->end.target, message->end.commit, packed);
	}
}

static int call_start(void *context, struct compact_tx *tx, const struct compact_call *asked,
	const struct compact_message *message)
{
	struct compact_work *work = context;
	struct agent_member *member = member_of(work, tx->places[asked->position].node);
	struct call *call = member != NULL ? calloc(1, sizeof *call) : NULL;
	struct ctl_packed packed;
	const char *method;
	if (call == NULL)
		return member != NULL ? -ENOMEM : -ECONNRESET;
	call->work = work;
	call->call = *asked;
	int error = message_pack(call, message, &method, &packed);
	if (error == 0) {
		const struct ctl_request request = {
			method, packed.bytes, packed.length, COMPACT_CALL_NS};
		error = ctl_client_start(
			member->client, work->agent->queue, &request, call_answered, call);
		ctl_packed_clear(&packed);
	}
	if (error != 0)
		free(call);
	return error;
}

/* Tests kill the agent there. */
static void call_step(void *context, const char *name)
{
	(void)context;
	if (strcmp(name, "preparing") == 0)
		AGENT_DIE("merge.preparing");
	else if (strcmp(name, "begun") == 0)
		AGENT_DIE("merge.begun");
	else if (strcmp(name, "sent") == 0)
		AGENT_DIE("merge.sent");
	else if (strcmp(name, "prepared") == 0)
		AGENT_DIE("merge.prepared");
	else if (strcmp(name, "ended") == 0)
		AGENT_DIE("merge.ended");
	else if (strcmp(name, "committed") == 0)
		AGENT_DIE("merge.committed");
	else if (strcmp(name, "aborting") == 0)
		AGENT_DIE("merge.aborting");
	else if (strcmp(name, "aborted") == 0)
		AGENT_DIE("merge.aborted");
}

const struct compact_ops compact_call_ops = {call_place, call_address, call_start, call_step};
