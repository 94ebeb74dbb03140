/*
 * farmem/agent/agent_test.c: the agent with embedded nodes: groups, failures, the end; STATS.
 */
#include <cJSON.h>

#include "farmem/agent/agent_fake.h"

#define NODES_MAX 8

/* ---- embedded nodes ---- */

TEST(groups_are_filled_over_distinct_nodes)
{
	tree_begin();
	uint64_t begun_ns = clock_now_ns();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, was_welcomed, 0));
	want(runtime, 1);
	printf("     first group %.0f ms after nothing was there\n",
		(double)(clock_now_ns() - begun_ns) / (double)NS_PER_MS);
	want(runtime, 5);
	CHECK(pump(runtime, has_nodes, 7));
	for (unsigned g = 0; g < 5; g++) {
		check_group(runtime, g, 4, 2);
		CHECK_EQ(runtime->catalog.groups[g].state, GROUP_OPEN);
	}
	CHECK_EQ(leased_bytes(7), 5 * 6 * REGION);
	CHECK_STR_EQ(runtime->notices, "");
	CHECK_EQ(runtime->catalog.header->agent_state, 1);
	finish(runtime);
}

TEST(columns_and_parity_are_spread_evenly)
{
	unsigned parity_at[NODES_MAX] = {0}, columns_at[NODES_MAX] = {0};
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, 7));
	want(runtime, 21);
	for (unsigned g = 0; g < 21; g++)
		for (unsigned p = 0; p < 6; p++) {
			unsigned node = catalog_column_node(&runtime->catalog.groups[g].columns[p]);
			CHECK(node < 7);
			columns_at[node]++;
			parity_at[node] += p >= 4;
		}
	for (unsigned i = 0; i < 7; i++) {
		CHECK(columns_at[i] >= 17 && columns_at[i] <= 19); /* 18 each */
		CHECK(parity_at[i] >= 4 && parity_at[i] <= 8);     /* 6 each */
	}
	finish(runtime);
}

TEST(a_killed_node_goes_down_its_columns_are_lost_and_another_takes_its_place)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, 7));
	want(runtime, 3);
	unsigned victim = catalog_column_node(&runtime->catalog.groups[0].columns[1]);
	runtime->nodes_told = 0;
	kill(node_pid(runtime, victim), SIGKILL);
	CHECK(pump(runtime, node_is_down, victim));
	CHECK(pump(runtime, was_noticed, (uintptr_t) "is down"));
	CHECK(pump(runtime, was_told_of_nodes, 0));
	CHECK_NE(runtime->catalog.nodes[victim].down_since_ns, 0);
	for (unsigned g = 0; g < 3; g++)
		for (unsigned p = 0; p < 6; p++) {
			const struct catalog_group *group = &runtime->catalog.groups[g];
			bool there = catalog_column_node(&group->columns[p]) == victim;
			CHECK_EQ(group->columns[p].lost, there);
			if (there)
				CHECK_EQ(group->state, GROUP_CLOSED);
		}
	CHECK(pump(runtime, has_nodes, 8)); /* it was started again: a new node */
	CHECK_STR_EQ(runtime->catalog.nodes[7].name, runtime->catalog.nodes[victim].name);
	CHECK_NE(runtime->catalog.nodes[7].incarnation, runtime->catalog.nodes[victim].incarnation);
	want(runtime, 6);
	for (unsigned g = 3; g < 6; g++) {
		check_group(runtime, g, 4, 2);
		for (unsigned p = 0; p < 6; p++)
			CHECK_NE(catalog_column_node(&runtime->catalog.groups[g].columns[p]),
				victim);
	}
	finish(runtime);
}

TEST(two_killed_nodes_leave_every_group_readable_and_new_groups_whole)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, 7));
	want(runtime, 4);
	kill(node_pid(runtime, 0), SIGKILL);
	kill(node_pid(runtime, 1), SIGKILL);
	CHECK(pump(runtime, node_is_down, 0));
	CHECK(pump(runtime, node_is_down, 1));
	for (unsigned g = 0; g < 4; g++) {
		unsigned lost = 0;
		for (unsigned p = 0; p < 6; p++)
			lost += runtime->catalog.groups[g].columns[p].lost;
		CHECK(lost <= 2);
	}
	want(runtime, 6);
	check_group(runtime, 5, 4, 2);
	finish(runtime);
}

TEST(a_stopped_node_is_suspect_and_comes_back_with_its_bytes)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, 7));
	want(runtime, 1);
	unsigned victim = catalog_column_node(&runtime->catalog.groups[0].columns[0]);
	pid_t pid = node_pid(runtime, victim);
	kill(pid, SIGSTOP);
	CHECK(pump(runtime, node_is_suspect, victim));
	/* However long: a process that lives has not lost anything. */
	uint64_t until_ns = clock_now_ns() + 5 * NS_PER_S;
	while (clock_now_ns() < until_ns) {
		struct pollfd nothing = {.fd = -1};
		CHECK(node_is_suspect(runtime, victim));
		poll(&nothing, 1, 100);
	}
	kill(pid, SIGCONT);
	CHECK(pump(runtime, node_is_up, victim));
	CHECK_EQ(runtime->catalog.groups[0].columns[0].lost, 0);
	CHECK_EQ(runtime->catalog.groups[0].state, GROUP_OPEN);
	CHECK_EQ(runtime->catalog.header->nodes_count, 7);
	finish(runtime);
}

TEST(a_node_the_runtime_suspects_wrongly_is_up_again_at_once)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	CHECK(pump(runtime, has_nodes, 7));
	want(runtime, 1);
	uint64_t before_ns = clock_now_ns();
	atomic_store_explicit(&runtime->catalog.nodes[3].state, NODE_SUSPECT, memory_order_release);
	say(runtime, MAILBOX_NODE_SUSPECT, 3);
	CHECK(pump(runtime, node_is_up, 3));
	CHECK(clock_now_ns() - before_ns < NS_PER_S);
	finish(runtime);
}

TEST(the_end_of_a_runtime_gives_its_leases_back_and_no_others)
{
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	CHECK(pump(stays, has_nodes, 7));
	struct runtime *goes = runtime_begin(2, 1, "");
	want(stays, 2);
	want(goes, 4);
	check_group(goes, 3, 2, 1);
	CHECK_EQ(leased_bytes(7), 2 * 6 * REGION + 4 * 3 * REGION);
	runtime_end(goes);
	CHECK(pump(stays, leased_is, 2 * 6 * REGION));
	finish(stays);
}

TEST(the_end_of_a_runtime_in_the_middle_of_a_reservation_leaks_nothing)
{
	tree_begin();
	struct runtime *stays = runtime_begin(4, 2, "");
	CHECK(pump(stays, has_nodes, 7));
	want(stays, 1);
	for (unsigned i = 0; i < 10; i++) {
		struct runtime *goes = runtime_begin(4, 2, "");
		atomic_store_explicit(
			&goes->catalog.header->groups_wanted, 50, memory_order_release);
		say(goes, MAILBOX_WANT_GROUPS, 50);
		CHECK(pump(goes, has_groups, i));
		runtime_end(goes);
	}
	CHECK(pump(stays, leased_is, 6 * REGION));
	finish(stays);
}

TEST(four_nodes_for_4_and_2_make_narrower_groups_and_say_so)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "embedded-nodes=4\n");
	want(runtime, 2);
	check_group(runtime, 0, 2, 2);
	check_group(runtime, 1, 2, 2);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "narrower: 2+2"));
	finish(runtime);
}

TEST(one_node_holds_plain_data_and_no_redundancy_is_said)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "embedded-nodes=1\n");
	want(runtime, 1);
	check_group(runtime, 0, 1, 0);
	CHECK(pump(runtime, was_noticed, (uintptr_t) "NO REDUNDANCY"));
	finish(runtime);
}

TEST(full_nodes_are_said_and_room_made_elsewhere_is_used)
{
	tree_begin();
	struct runtime *first = runtime_begin(4, 2, "node-memory=2M\nembedded-nodes=6\n");
	struct runtime *second = runtime_begin(4, 2, "");
	want(second, 1);
	want(first, 1);
	want_in_vain(first, 2);
	CHECK_EQ(first->catalog.header->agent_state, 2);
	CHECK_EQ(first->catalog.header->groups_count, 1);
	CHECK(pump(first, was_noticed, (uintptr_t) "full"));
	runtime_end(second);
	CHECK(pump(first, has_groups, 2));
	check_group(first, 1, 4, 2);
	CHECK_EQ(first->catalog.header->agent_state, 1);
	finish(first);
}

TEST(a_full_node_makes_groups_narrower_but_not_less_safe)
{
	tree_begin();
	/* One node lends one region only: 2+1 takes it once, then k shrinks no further than 2. */
	struct runtime *runtime = runtime_begin(3, 1, "node-memory=1M\nembedded-nodes=5\n");
	want(runtime, 1);
	check_group(runtime, 0, 3, 1);
	want_in_vain(runtime, 2); /* one node has room: 1+0 would fit, and is not taken */
	CHECK_EQ(runtime->catalog.header->groups_count, 1);
	finish(runtime);
}

TEST(embedded_nodes_can_be_reached_by_tcp)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(2, 1, "fabric=tcp\n");
	want(runtime, 1);
	CHECK(pump(runtime, has_nodes, 4));
	for (unsigned i = 0; i < 4; i++)
		CHECK(strncmp(runtime->catalog.nodes[i].endpoint, "tcp:127.0.0.1:", 14) == 0);
	finish(runtime);
}

/* ---- STATS ---- */

static char *ask_stats(int fd)
{
	static char text[1 << 20];
	struct mailbox_message message = {.version = MAILBOX_VERSION, .kind = MAILBOX_STATS};
	size_t used = 0;
	ssize_t got;
	CHECK_EQ(mailbox_send(fd, &message, -1), 0);
	while ((got = recv(fd, text + used, sizeof text - 1 - used, 0)) > 0)
		used += (size_t)got;
	text[used] = '\0';
	return text;
}

static double number_of(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	CHECK(cJSON_IsNumber(item));
	return item->valuedouble;
}

TEST(stats_are_json_with_everything_the_catalog_counts)
{
	tree_begin();
	struct runtime *runtime = runtime_begin(4, 2, "");
	want(runtime, 2);
	CHECK(pump(runtime, has_nodes, 7));
	catalog_count(&runtime->catalog, degraded_reads, 42);
	for (unsigned i = 1; i <= 1000; i++)
		hist_record(&runtime->catalog.stats->fault_ns, i * 1000);
	int fd = tree_connect();
	for (unsigned round = 0; round < 2; round++) { /* the connection may ask again */
		cJSON *root = cJSON_Parse(ask_stats(fd));
		const cJSON *process =
			cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "processes"), 0);
		CHECK(process != NULL);
		CHECK_EQ(number_of(process, "pid"), getpid());
		CHECK_EQ(number_of(process, "degraded_reads"), 42);
		const cJSON *fault = cJSON_GetObjectItemCaseSensitive(process, "fault_ns");
		CHECK_EQ(number_of(fault, "count"), 1000);
		CHECK(number_of(fault, "p50") >= 500000 && number_of(fault, "p50") < 600000);
		CHECK(number_of(fault, "p99") >= 990000);
		CHECK_EQ(number_of(fault, "max"), 1000000);
		const cJSON *group =
			cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(process, "groups"), 0);
		CHECK_EQ(number_of(group, "count"), 2);
		CHECK_EQ(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(process, "nodes")), 7);
		cJSON_Delete(root);
	}
	close(fd);
	finish(runtime);
}
