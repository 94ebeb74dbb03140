/*
 * apps/farmem_nodes_test.c: tables of nodes, and how a drain is judged, from made-up answers.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "apps/farmem_drain.h"
#include "base/clock.h"
#include "base/test.h"

#define INCARNATION "aaaaaaaa12345678"

static const char answer[] =
	"{\"agent\":{\"pid\":9,\"membership\":\"static\"},\"nodes\":["
	"{\"name\":\"h1:7400\",\"host\":\"m1\",\"incarnation\":\"" INCARNATION
	"\",\"state\":\"up\","
	"\"draining\":true,\"quarantined_until_ns\":0,\"memory_bytes\":8589934592,"
	"\"leased_bytes\":1073741824,\"free_bytes\":7516192768,\"leases\":16,\"orphaned\":0,"
	"\"calls_in_flight\":3,\"rebuilds\":1,\"rtt_ns\":120000,\"delay_ns\":1500000,\"columns\":"
	"16,"
	"\"in\":{\"columns\":0,\"done_bytes\":0,\"total_bytes\":0,\"bytes_per_s\":0},"
	"\"out\":{\"columns\":16,\"done_bytes\":268435456,\"total_bytes\":1073741824,"
	"\"bytes_per_s\":104857600}},"
	"{\"name\":\"h2:7400\",\"host\":\"m2\",\"incarnation\":\"bb\",\"state\":\"up\","
	"\"draining\":false,\"quarantined_until_ns\":0,\"memory_bytes\":8589934592,"
	"\"leased_bytes\":0,\"free_bytes\":8589934592,\"columns\":4,\"calls_in_flight\":0,"
	"\"in\":{\"columns\":2,\"done_bytes\":50,\"total_bytes\":100,\"bytes_per_s\":25},"
	"\"out\":{\"columns\":0,\"done_bytes\":0,\"total_bytes\":0,\"bytes_per_s\":0}},"
	"{\"name\":\"h3:7400\",\"host\":\"\",\"incarnation\":\"\",\"state\":\"joining\"},"
	"{\"name\":\"h4:7400\",\"host\":\"\",\"incarnation\":\"\",\"state\":\"joining\"}],"
	"\"processes\":[{\"pid\":42,\"command\":\"redis-server\",\"columns_lost\":5,\"nodes\":["
	"{\"name\":\"h3:7400\",\"state\":\"down\",\"down_since_ns\":1700000000000000000}]}]}";

static struct nodes_view view_of(const char *const *texts, unsigned count)
{
	struct nodes_view view = {.trees = cJSON_CreateArray()};

	for (unsigned i = 0; i < count; i++) {
		char tree[16];

		snprintf(tree, sizeof(tree), "t-%u", i);
		CHECK_EQ(nodes_take(&view, tree, cJSON_Parse(texts[i])), 0);
		view.agents++;
	}
	return view;
}

static char *render(const struct nodes_view *view)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	nodes_render(out, view, false);
	fclose(out);
	return text;
}

TEST(each_tree_has_a_table_that_tells_states_load_and_work)
{
	const char *texts[] = {answer, answer};
	struct nodes_view view = view_of(texts, 2);
	char *text = render(&view);

	CHECK_CONTAINS(text, "tree t-0  (static nodes)  42 redis-server  5 columns lost\n");
	CHECK_CONTAINS(text, "\n\ntree t-1");
	CHECK_CONTAINS(text,
		"NODE     HOST  STATE     INCARN.   CALLS    WAIT   MEMORY     FREE   LEASED"
		"  COLUMNS\n");
	CHECK_CONTAINS(text,
		"h1:7400  m1    draining  12345678      3  1.5 ms  8.0 GiB  7.0 GiB  1.0 GiB"
		"       16  leaving 16: 25 %, 100.0 MiB/s, 8 s left\n");
	CHECK_CONTAINS(text,
		"h2:7400  m2    up        bb            0       -  8.0 GiB  8.0 GiB      0 B"
		"        4  rebuilding 2: 50 %, 25 B/s, 2 s left\n");
	CHECK_CONTAINS(text, "h3:7400        down\n");
	CHECK_CONTAINS(text, "h4:7400        joining\n");
	free(text);
	nodes_free(&view);
}

TEST(a_node_that_flaps_is_shown_in_quarantine_until_its_time_is_over)
{
	struct timespec now;
	char text[512];
	const char *texts[] = {text};

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(text, sizeof(text),
		"{\"nodes\":[{\"name\":\"a\",\"incarnation\":\"1\",\"state\":\"up\","
		"\"quarantined_until_ns\":%.0f},{\"name\":\"b\",\"incarnation\":\"2\","
		"\"state\":\"suspect\",\"quarantined_until_ns\":1000000000}]}",
		((double)now.tv_sec + 1000.5) * NS_PER_S);
	struct nodes_view view = view_of(texts, 1);
	char *table = render(&view);

	CHECK_CONTAINS(table, "a           quarantined 1000 s  1");
	CHECK_CONTAINS(table, "b           suspect             2");
	free(table);
	nodes_free(&view);
}

TEST(without_agents_that_is_said_and_silent_ones_are_counted)
{
	struct nodes_view view = view_of(NULL, 0);
	char *text = render(&view);

	CHECK_CONTAINS(text, "no process uses far memory");
	free(text);
	view.silent = 2;
	text = render(&view);
	CHECK_STR_EQ(text, "2 agents gave no answer\n");
	free(text);
	nodes_free(&view);
}

TEST(answers_without_nodes_are_refused_and_damaged_ones_never_fatal)
{
	struct nodes_view view = {.trees = cJSON_CreateArray()};
	uint64_t seed = 5;

	CHECK_EQ(nodes_take(&view, "t", NULL), -EPROTO);
	CHECK_EQ(nodes_take(&view, "t", cJSON_Parse("[]")), -EPROTO);
	CHECK_EQ(nodes_take(&view, "t", cJSON_Parse("{\"nodes\":7}")), -EPROTO);
	CHECK_EQ(cJSON_GetArraySize(view.trees), 0);
	for (unsigned round = 0; round < 10000; round++) {
		struct drain drain;
		char text[sizeof(answer)];

		memcpy(text, answer, sizeof(answer));
		for (unsigned i = 0; i < 1 + test_random(&seed) % 4; i++)
			text[test_random(&seed) % (sizeof(answer) - 1)] =
				"{}[]\",:0-e\\n"[test_random(&seed) % 12];
		if (nodes_take(&view, "t", cJSON_Parse(text)) == 0) {
			free(render(&view));
			drain_begin(&drain, "h1:7400");
			drain_look(&drain, &view, round + 1);
			CHECK(drain_describe(&drain, text, sizeof(text))[0] != '\0');
		}
		nodes_free(&view);
		view.trees = cJSON_CreateArray();
	}
	nodes_free(&view);
}

/* --- drains -------------------------------------------------------------------------------------
 */

struct step {
	unsigned columns;
	double done, total;
	bool draining, serves;
	unsigned lost;
	unsigned silent;
};

static struct drain drain;
static uint64_t now_ns;

static enum drain_verdict look(const struct step *step, uint64_t later_ns)
{
	char text[1024];
	const char *texts[] = {text};
	struct nodes_view view;

	snprintf(text, sizeof(text),
		"{\"nodes\":[{\"name\":\"other\",\"incarnation\":\"1\",\"columns\":9},"
		"{\"name\":\"n\",\"incarnation\":\"%s\",\"state\":\"up\",\"draining\":%s,"
		"\"columns\":%u,\"out\":{\"columns\":%u,\"done_bytes\":%.0f,\"total_bytes\":%.0f,"
		"\"bytes_per_s\":1048576}}],\"processes\":[{\"columns_lost\":%u}]}",
		step->serves ? "ab" : "", step->draining ? "true" : "false", step->columns,
		step->draining ? step->columns : 0, step->done, step->total, step->lost);
	view = view_of(texts, 1);
	view.silent = step->silent;
	now_ns += later_ns;
	drain_look(&drain, &view, now_ns);
	nodes_free(&view);
	return drain.verdict;
}

TEST(a_drain_is_done_when_no_column_is_left)
{
	char text[200];

	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 0, 4 << 20, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){2, 1 << 20, 2 << 20, true, true, 0, 0}, NS_PER_S),
		DRAIN_UNDERWAY);
	CHECK_STR_EQ(drain_describe(&drain, text, sizeof(text)),
		"n: 2 of 4 columns left, 75.0 % moved, 1.0 MiB/s, 1 s left");
	CHECK_EQ(look(&(struct step){0, 0, 0, true, true, 0, 0}, NS_PER_S), DRAIN_DONE);
	CHECK_STR_EQ(drain_describe(&drain, text, sizeof(text)),
		"n: nothing of the programs is left there");
}

TEST(a_node_that_leaves_when_all_is_moved_did_not_die)
{
	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 0, 4, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){0, 0, 0, false, false, 0, 0}, NS_PER_S), DRAIN_DONE);
}

TEST(a_node_that_dies_in_mid_drain_is_told)
{
	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 0, 4, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){0, 0, 0, false, false, 3, 0}, NS_PER_S), DRAIN_DIED);
	CHECK_CONTAINS(drain.reason, "3 columns are being rebuilt");
	CHECK_EQ(drain.share * 100, 0);
	CHECK_EQ(drain.columns, 3);
}

TEST(a_drain_somebody_cancelled_is_told)
{
	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 0, 4, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){3, 0, 0, false, true, 0, 0}, NS_PER_S), DRAIN_CANCELLED);
	CHECK_CONTAINS(drain.reason, "3 columns are still on n");
}

TEST(a_drain_that_does_not_move_is_stuck_and_one_that_moves_slowly_is_not)
{
	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 0, 4000, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	for (unsigned i = 1; i < 5; i++)
		CHECK_EQ(look(&(struct step){4, i, 4000, true, true, 0, 0}, DRAIN_STUCK_NS - 1),
			DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){4, 4, 4000, true, true, 0, 0}, DRAIN_STUCK_NS / 2),
		DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){4, 4, 4000, true, true, 0, 0}, DRAIN_STUCK_NS / 2),
		DRAIN_STUCK);
	CHECK_CONTAINS(drain.reason, "no other host has room for the 4 columns on n");
}

TEST(a_silent_agent_may_know_of_columns_so_no_drain_ends_by_it)
{
	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){0, 0, 0, true, true, 0, 1}, 1), DRAIN_UNDERWAY);
	CHECK_EQ(look(&(struct step){0, 0, 0, true, true, 0, 0}, NS_PER_S), DRAIN_DONE);
}

TEST(trees_without_agents_have_nothing_there)
{
	struct nodes_view view = {.trees = cJSON_CreateArray()};

	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 0, 4, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	drain_look(&drain, &view, now_ns + 1);
	CHECK_EQ(drain.verdict, DRAIN_DONE);
	nodes_free(&view);
}

TEST(progress_for_machines_is_an_object_a_line)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	cJSON *object;

	drain_begin(&drain, "n");
	CHECK_EQ(look(&(struct step){4, 1 << 20, 2 << 20, true, true, 0, 0}, 1), DRAIN_UNDERWAY);
	drain_print_json(out, &drain);
	fclose(out);
	object = cJSON_Parse(text);
	CHECK_STR_EQ(cJSON_GetObjectItem(object, "state")->valuestring, "underway");
	CHECK_EQ(cJSON_GetObjectItem(object, "columns_left")->valueint, 4);
	CHECK_EQ(cJSON_GetObjectItem(object, "share_done")->valuedouble * 100, 50);
	CHECK_EQ(text[length - 1], '\n');
	cJSON_Delete(object);
	free(text);
}
