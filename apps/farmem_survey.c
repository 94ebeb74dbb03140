/*
 * apps/farmem_survey.c: see farmem_survey.h.
 *
 * All questions are sent before the first answer is waited for: dead nodes cost one deadline
 * together. Nothing of gRPC is left when survey_ask returns (its threads end, its descriptors
 * close): `farmem run` execs next.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_survey.h"
#include "base/clock.h"
#include "rpc/ctl_memnode.h"

struct question {
	struct ctl_client *client;
	struct survey_node *answer;
	unsigned *open_count;
};

static void answer_fill(struct survey_node *answer, const struct ctl_stats *stats)
{
	snprintf(answer->host, sizeof(answer->host), "%s", stats->host);
	answer->incarnation = stats->incarnation;
	answer->free_bytes = stats->load.free_bytes;
}

/* gRPC tells the whole way to the error; its last part is the error. */
static const char *last_part(const char *text)
{
	const char *part = text;

	for (const char *colon = strstr(text, ": "); colon; colon = strstr(colon + 1, ": "))
		part = colon + 2;
	return part;
}

static void question_done(void *context, const struct ctl_result *result)
{
	struct question *question = context;
	struct survey_node *answer = question->answer;
	struct ctl_stats stats;

	--*question->open_count;
	answer->status = ctl_unpack_stats(result, &stats);
	if (answer->status == 0)
		answer_fill(answer, &stats);
	else if (answer->status == -EPROTO || result->status == 0)
		snprintf(
			answer->text, sizeof(answer->text), "what answers there is no memory node");
	else
		snprintf(answer->text, sizeof(answer->text), "%s",
			result->text[0] ? last_part(result->text) : strerror(-answer->status));
}

/* A question that cannot even be sent counts as not answered. */
static void question_send(struct question *question, struct ctl_queue *queue)
{
	const struct ctl_request request = {
		.method = CTL_METHOD_STATS, .bytes = "", .length = 0, .timeout_ns = SURVEY_ASK_NS};
	struct survey_node *answer = question->answer;

	answer->status = ctl_client_open(answer->name, &question->client);
	if (answer->status == 0)
		answer->status = ctl_client_start(
			question->client, queue, &request, question_done, question);
	if (answer->status == 0) {
		++*question->open_count;
		answer->status = -ETIMEDOUT;
	}
	snprintf(answer->text, sizeof(answer->text), "%s", strerror(-answer->status));
}

static void answers_wait(struct ctl_queue *queue, const unsigned *open_count)
{
	/* Every call ends by its own deadline; twice that is a bound on the loop, not a protocol.
	 */
	uint64_t until_ns = clock_now_ns() + 2 * SURVEY_ASK_NS;
	struct pollfd ready = {.fd = ctl_queue_fd(queue), .events = POLLIN};

	while (*open_count > 0 && clock_now_ns() < until_ns) {
		poll(&ready, 1, 100);
		ctl_queue_dispatch(queue);
	}
}

static void answers_compare(struct survey *report)
{
	for (unsigned i = 0; i < report->count; i++) {
		struct survey_node *node = &report->nodes[i];

		node->same_as = node->host_as = -1;
		if (node->status != 0)
			continue;
		report->reachable++;
		for (unsigned j = 0; j < i && node->host_as < 0; j++)
			if (report->nodes[j].status == 0 &&
				strcmp(report->nodes[j].host, node->host) == 0)
				node->host_as = (int)j;
		for (unsigned j = 0; j < i && node->same_as < 0; j++)
			if (report->nodes[j].status == 0 &&
				report->nodes[j].incarnation == node->incarnation)
				node->same_as = (int)j;
		if (node->host_as < 0)
			report->hosts++;
	}
}

int survey_ask(const struct fm_config *config, struct survey *report)
{
	static struct question questions[CONFIG_NODES_MAX];
	const char *list = config->nodes;
	struct option_error error;
	struct config_node node;
	struct ctl_queue *queue;
	unsigned open_count = 0;
	int rc = ctl_queue_open(&queue);

	memset(report, 0, sizeof(*report));
	if (rc < 0)
		return rc;
	while (report->count < CONFIG_NODES_MAX && config_next_node(&list, &node, &error) == 1) {
		struct question *question = &questions[report->count];

		question->answer = &report->nodes[report->count++];
		question->open_count = &open_count;
		snprintf(question->answer->name, sizeof(question->answer->name), "%.127s",
			node.name);
		question_send(question, queue);
	}
	answers_wait(queue, &open_count);
	ctl_queue_close(queue);
	for (unsigned i = 0; i < report->count; i++)
		ctl_client_close(questions[i].client);
	answers_compare(report);
	return 0;
}

/* The agent's own rule (groups_code in farmem/agent/agent_groups.c); farmem_survey_test holds the
 * two together. */
struct option_code survey_code(struct option_code wished, unsigned hosts)
{
	struct option_code code = wished;

	while (code.k + code.m > hosts) {
		if (code.k > 2)
			code.k--;
		else if (code.m > 1)
			code.m--;
		else if (code.k > 1)
			code.k--;
		else if (code.m > 0)
			code.m--;
		else
			break;
	}
	return code;
}

int survey_complain(const struct fm_config *config, const struct survey *report)
{
	struct option_code wish, code;

	for (unsigned i = 0; i < report->count; i++) {
		const struct survey_node *node = &report->nodes[i];

		if (node->status != 0)
			complain("node %s does not answer: %s", node->name, node->text);
		else if (node->same_as >= 0)
			complain("nodes %s and %s are one and the same: it counts once",
				report->nodes[node->same_as].name, node->name);
		else if (node->host_as >= 0)
			complain("nodes %s and %s are on one machine: a code counts them as one "
				 "host",
				report->nodes[node->host_as].name, node->name);
	}
	if (report->reachable == 0) {
		complain("no memory node answers: start farmem-memnode on them, or mend --nodes");
		return -ENODATA;
	}
	wish = config_code(config);
	code = survey_code(wish, report->hosts);
	config_fit_code(config->scheme, &code);
	if (code.k == wish.k && code.m == wish.m)
		return 0;
	if (code.m == 0)
		complain("WARNING: only %u host for a %u+%u code: %u+%u is used, NO REDUNDANCY: a "
			 "node that dies takes the program with it",
			report->hosts, wish.k, wish.m, code.k, code.m);
	else
		complain("WARNING: only %u hosts for a %u+%u code: %u+%u is used: %u may die",
			report->hosts, wish.k, wish.m, code.k, code.m, code.m);
	return 0;
}
