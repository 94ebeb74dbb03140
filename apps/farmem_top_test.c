/*
 * apps/farmem_top_test.c: top against agents that answer well, badly and not at all.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "apps/farmem_top.h"
#include "base/clock.h"
#include "base/test.h"
#include "farmem/mailbox.h"

static const char answer[] =
	"[{\"pid\":42,\"command\":\"redis-server\",\"started_ns\":5,\"budget_bytes\":67108864,"
	"\"near_bytes\":33554432,\"staging_bytes\":0,\"far_bytes\":201326592,\"dead_bytes\":0,"
	"\"faults\":1000,\"faults_fetched\":500,\"degraded_reads\":7,\"lost_pages\":0,"
	"\"code_k\":4,\"code_m\":2,\"fault_ns\":{\"count\":1000,\"p50\":20000,\"p99\":90000},"
	"\"groups\":[{\"k\":4,\"m\":2,\"state\":\"open\",\"count\":3},"
	"{\"k\":3,\"m\":2,\"state\":\"open\",\"count\":1}],"
	"\"nodes\":[{\"name\":\"embedded-0\",\"state\":\"up\",\"rtt_ns\":50000,"
	"\"memory_bytes\":1073741824,\"leased_bytes\":67108864},"
	"{\"name\":\"embedded-1\",\"state\":\"down\"}]},"
	"{\"pid\":43,\"command\":\"sort\",\"started_ns\":6}]";

static char *render(const struct top_sample *now, const struct top_sample *before)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	top_render(out, now, before, false);
	fclose(out);
	return text;
}

TEST(all_processes_of_an_answer_are_listed_and_a_pid_picks_one)
{
	cJSON *processes = cJSON_CreateArray();

	CHECK_EQ(top_parse(answer, strlen(answer), "t", 0, processes), 0);
	CHECK_EQ(cJSON_GetArraySize(processes), 2);
	CHECK_EQ(top_parse(answer, strlen(answer), "t", 43, processes), 0);
	CHECK_EQ(cJSON_GetArraySize(processes), 3);
	CHECK_EQ(top_parse(answer, strlen(answer), "t", 44, processes), 0);
	CHECK_EQ(cJSON_GetArraySize(processes), 3);
	cJSON_Delete(processes);
}

TEST(the_screen_shows_gauges_codes_nodes_and_rates_between_samples)
{
	struct top_sample before = {.processes = cJSON_CreateArray(), .taken_ns = NS_PER_S};
	struct top_sample now = {.processes = cJSON_CreateArray(), .taken_ns = 3 * NS_PER_S};
	char *text;

	CHECK_EQ(top_parse(answer, strlen(answer), "t", 42, before.processes), 0);
	CHECK_EQ(top_parse(answer, strlen(answer), "t", 42, now.processes), 0);
	cJSON_SetNumberValue(
		cJSON_GetObjectItem(cJSON_GetArrayItem(now.processes, 0), "faults"), 1500);
	text = render(&now, &before);
	CHECK_CONTAINS(text, "42 redis-server");
	CHECK_CONTAINS(text, "[############............] 32.0 MiB of 64.0 MiB");
	CHECK_CONTAINS(text, "192.0 MiB far only");
	CHECK_CONTAINS(text, "4+2 x3 open");
	CHECK_CONTAINS(text, "3+2 x1 open (NARROWER than asked for)");
	CHECK_CONTAINS(text, "faults   250/s");
	CHECK_CONTAINS(text, "20 us p50, 90 us p99");
	CHECK_CONTAINS(text, "(7 in all)");
	CHECK_CONTAINS(text, "embedded-1               down");
	CHECK_CONTAINS(text, "answers in 50 us");
	free(text);
	top_sample_free(&before);
	top_sample_free(&now);
}

static const char repairing[] =
	"{\"nodes\":[{\"name\":\"a\",\"draining\":true},{\"name\":\"b\",\"draining\":false}],"
	"\"processes\":[{\"pid\":42,\"command\":\"x\",\"started_ns\":5,\"columns_lost\":3,"
	"\"redundancy_lost_ns\":2500000000,\"slots_used_bytes\":1048576,\"repaired_columns\":7,"
	"\"repaired_bytes\":1048576,\"drained_columns\":2,\"scrubbed_bytes\":1572864,"
	"\"scrub_mismatches\":1,\"healed_spansets\":1,\"agent_starts\":3,\"hedged_reads\":40,"
	"\"far_bytes\":786432,\"dead_bytes\":262144,\"merge_refusals\":4,"
	"\"repairs\":[{\"kind\":\"decode\",\"done_bytes\":100,\"total_bytes\":400,"
	"\"bytes_per_s\":1048576},{\"kind\":\"copy\",\"done_bytes\":1,\"total_bytes\":2,"
	"\"bytes_per_s\":2097152},{\"kind\":\"decode\",\"done_bytes\":100,"
	"\"total_bytes\":400,\"bytes_per_s\":1048576}],"
	"\"groups\":[{\"k\":4,\"m\":2,\"state\":\"evacuate\",\"count\":2},"
	"{\"k\":4,\"m\":2,\"state\":\"retired\",\"count\":9}],"
	"\"nodes\":[{\"name\":\"a\",\"state\":\"up\"},{\"name\":\"b\",\"state\":\"up\"}]}]}";

TEST(the_screen_shows_what_is_lost_what_is_rebuilt_and_what_is_cared_for)
{
	struct top_sample before = {.processes = cJSON_CreateArray(), .taken_ns = NS_PER_S};
	struct top_sample now = {.processes = cJSON_CreateArray(), .taken_ns = 3 * NS_PER_S};
	char *text;

	CHECK_EQ(top_parse(repairing, strlen(repairing), "t", 42, before.processes), 0);
	CHECK_EQ(top_parse(repairing, strlen(repairing), "t", 42, now.processes), 0);
	cJSON_SetNumberValue(
		cJSON_GetObjectItem(cJSON_GetArrayItem(now.processes, 0), "hedged_reads"), 50);
	text = render(&now, &before);
	CHECK_CONTAINS(text, "repair   columns lost 3, for 2.5 s, rebuilding 2: 25 %, 2.0 MiB/s, "
			     "draining 1: 50 %, 2.0 MiB/s, evacuating 2 groups; so far rebuilt 7 "
			     "(1.0 MiB), moved 2 (0 B), spansets evacuated 0\n");
	CHECK_CONTAINS(text, "compact  dead 256.0 KiB (25 %), merged 0 pairs/s");
	CHECK_CONTAINS(text, "refused 4\n");
	CHECK_CONTAINS(text, "hedged reads 5/s (0/s won)");
	CHECK_CONTAINS(text, "all of it 1.50 times, bad 1, healed 1; agent restarts 2\n");
	CHECK_CONTAINS(text, "answers in 0 us, draining\n");
	CHECK_CONTAINS(text, "answers in 0 us\n");
	CHECK(strstr(text, "retired") == NULL);
	free(text);
	top_sample_free(&before);
	top_sample_free(&now);
}

TEST(with_nothing_lost_the_screen_says_so)
{
	struct top_sample now = {.processes = cJSON_CreateArray()};
	char *text;

	CHECK_EQ(top_parse(answer, strlen(answer), "t", 42, now.processes), 0);
	text = render(&now, NULL);
	CHECK_CONTAINS(text, "repair   no column lost; so far rebuilt 0 (0 B)");
	CHECK_CONTAINS(text, "agent restarts 0\n");
	free(text);
	top_sample_free(&now);
}

TEST(another_process_that_got_the_same_pid_has_no_rates_yet)
{
	struct top_sample before = {.processes = cJSON_CreateArray(), .taken_ns = 0};
	struct top_sample now = {.processes = cJSON_CreateArray(), .taken_ns = NS_PER_S};
	char *text;

	CHECK_EQ(top_parse(answer, strlen(answer), "t", 42, before.processes), 0);
	CHECK_EQ(top_parse(answer, strlen(answer), "t", 42, now.processes), 0);
	cJSON_SetNumberValue(
		cJSON_GetObjectItem(cJSON_GetArrayItem(now.processes, 0), "started_ns"), 77);
	cJSON_SetNumberValue(
		cJSON_GetObjectItem(cJSON_GetArrayItem(now.processes, 0), "faults"), 9000);
	text = render(&now, &before);
	CHECK_CONTAINS(text, "faults   0/s");
	free(text);
	top_sample_free(&before);
	top_sample_free(&now);
}

TEST(answers_that_are_not_a_list_of_processes_are_refused)
{
	static const char *const wrong[] = {"", "{", "7", "{\"pid\":1}", "[[", "\"x\"", "nul"};
	cJSON *processes = cJSON_CreateArray();

	for (unsigned i = 0; i < FM_ARRAY_COUNT(wrong); i++)
		CHECK_EQ(top_parse(wrong[i], strlen(wrong[i]), "t", 0, processes), -EPROTO);
	CHECK_EQ(top_parse("[1,\"x\",null,[]]", 15, "t", 0, processes), 0);
	CHECK_EQ(cJSON_GetArraySize(processes), 0);
	cJSON_Delete(processes);
}

TEST(damaged_answers_are_rendered_or_refused_never_fatal)
{
	uint64_t seed = 3;

	for (unsigned round = 0; round < 20000; round++) {
		struct top_sample sample = {.processes = cJSON_CreateArray()};
		char text[sizeof(answer)];
		unsigned changes = 1 + test_random(&seed) % 4;

		memcpy(text, answer, sizeof(answer));
		for (unsigned i = 0; i < changes; i++)
			text[test_random(&seed) % (sizeof(answer) - 1)] =
				"{}[]\",:0-e\\n"[test_random(&seed) % 12];
		if (top_parse(text, strlen(text), "t", 0, sample.processes) == 0)
			free(render(&sample, &sample));
		top_sample_free(&sample);
	}
}

/* --- a live agent ------------------------------------------------------------------------------
 */

struct agent {
	char dir[64];
	int listener;
	const char *text;
	size_t packet; /* bytes per packet */
	pthread_t thread;
};

static void *agent_serve(void *context)
{
	struct agent *agent = context;
	int fd = accept(agent->listener, NULL, NULL);
	struct mailbox_message question;
	size_t length = strlen(agent->text);

	if (fd < 0 || recv(fd, &question, sizeof(question), 0) != MAILBOX_HEAD_BYTES ||
		question.kind != MAILBOX_STATS || question.version != MAILBOX_VERSION)
		return NULL;
	for (size_t at = 0; at < length; at += agent->packet)
		send(fd, agent->text + at, FM_MIN(agent->packet, length - at), MSG_NOSIGNAL);
	send(fd, "", 0, MSG_NOSIGNAL);
	recv(fd, &question, sizeof(question), 0); /* until the asker hangs up */
	close(fd);
	return agent;
}

static void agent_start(struct agent *agent, const char *text, size_t packet)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};

	agent->text = text;
	agent->packet = packet;
	snprintf(agent->dir, sizeof(agent->dir), "/tmp/farmem-top-XXXXXX");
	CHECK(mkdtemp(agent->dir) != NULL);
	snprintf(name.sun_path, sizeof(name.sun_path), "%s/tree-1", agent->dir);
	CHECK_EQ(mkdir(name.sun_path, 0700), 0);
	snprintf(name.sun_path, sizeof(name.sun_path), "%s/tree-1/agent.sock", agent->dir);
	agent->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	CHECK_EQ(bind(agent->listener, (struct sockaddr *)&name, sizeof(name)), 0);
	CHECK_EQ(listen(agent->listener, 4), 0);
	CHECK_EQ(pthread_create(&agent->thread, NULL, agent_serve, agent), 0);
}

static void *agent_stop(struct agent *agent)
{
	char command[128];
	void *result;

	pthread_join(agent->thread, &result);
	close(agent->listener);
	snprintf(command, sizeof(command), "rm -rf %s", agent->dir);
	CHECK_EQ(system(command), 0);
	return result;
}

TEST(an_answer_in_many_packets_is_put_together)
{
	struct agent agent;
	struct top_sample sample;

	agent_start(&agent, answer, 100);
	CHECK_EQ(top_gather(agent.dir, 0, &sample), 0);
	CHECK_EQ(sample.agents, 1);
	CHECK_EQ(sample.silent, 0);
	CHECK_EQ(cJSON_GetArraySize(sample.processes), 2);
	CHECK_STR_EQ(
		cJSON_GetObjectItem(cJSON_GetArrayItem(sample.processes, 0), "tree")->valuestring,
		"tree-1");
	top_sample_free(&sample);
	CHECK(agent_stop(&agent) == &agent);
}

TEST(an_agent_that_talks_rubbish_is_counted_silent)
{
	struct agent agent;
	struct top_sample sample;

	agent_start(&agent, "rubbish", 3);
	CHECK_EQ(top_gather(agent.dir, 0, &sample), 0);
	CHECK_EQ(sample.agents, 0);
	CHECK_EQ(sample.silent, 1);
	top_sample_free(&sample);
	agent_stop(&agent);
}

TEST(a_tree_whose_agent_has_gone_and_a_missing_directory_are_nothing)
{
	struct agent agent;
	struct top_sample sample;
	char dir[128];

	agent_start(&agent, answer, 1000);
	CHECK_EQ(top_gather(agent.dir, 0, &sample), 0);
	top_sample_free(&sample);
	pthread_join(agent.thread, NULL);
	close(agent.listener); /* the socket's file stays, nobody accepts */
	CHECK_EQ(top_gather(agent.dir, 0, &sample), 0);
	CHECK_EQ(sample.agents + sample.silent, 0);
	top_sample_free(&sample);
	snprintf(dir, sizeof(dir), "%s/none", agent.dir);
	CHECK_EQ(top_gather(dir, 0, &sample), 0);
	top_sample_free(&sample);
	snprintf(dir, sizeof(dir), "rm -rf %s", agent.dir);
	CHECK_EQ(system(dir), 0);
}
