/*
 * base/config_test.c: the runtime's own table: its defaults, its sources, and what its checks
 * refuse.
 */
#include "base/config.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/test.h"

static struct fm_config config;
static struct option_error error;

static void load(void)
{
	CHECK_EQ(clearenv(), 0);
	CHECK_EQ(config_load(&config, &error), 0);
}

static void set(const char *name, const char *value)
{
	CHECK_EQ(options_set(config_specs, config_specs_count, &config, name, value, &error), 0);
}

/* The configuration is refused, in one line that has both words in it. */
static void check_refused(const char *thing, const char *cure)
{
	CHECK_EQ(config_check(&config, &error), -EINVAL);
	printf("    %s\n", error.text);
	CHECK_CONTAINS(error.text, thing);
	CHECK_CONTAINS(error.text, cure);
	CHECK(strchr(error.text, '\n') == NULL);
}

static void check_nodes_refused(const char *nodes, const char *thing, const char *cure)
{
	load();
	set("nodes", nodes);
	check_refused(thing, cure);
}

TEST(the_defaults_are_those_the_header_promises_and_pass_the_check)
{
	load();
	CHECK_EQ(config.local.permille, 250);
	CHECK_EQ(config.code.k, 4);
	CHECK_EQ(config.code.m, 2);
	CHECK_STR_EQ(config.nodes, "");
	CHECK_EQ(config.transport, TRANSPORT_AUTO);
	CHECK_EQ(config.region_bytes, 64 << 20);
	CHECK_EQ(config.retain.permille, 1000);
	CHECK_EQ(config.on_full, ON_FULL_WAIT);
	CHECK_EQ(config.evict, EVICT_AUTO);
	CHECK_EQ(config.range_bytes, 256ull << 30);
	CHECK_EQ(config.spin_ns, 20000);
	CHECK_EQ(config.read_ahead, 8);
	CHECK_EQ(config.fetch_deadline_ns, 200000000);
	CHECK_EQ(config.store_deadline_ns, 2000000000);
	CHECK_EQ(config.log_level, LOG_WARN);
	CHECK_EQ(config_check(&config, &error), 0);
	CHECK_STR_EQ(error.text, "");
}

TEST(the_words_of_choices_are_in_the_order_of_their_enums)
{
	load();
	set("on-full", "kill");
	CHECK_EQ(config.on_full, ON_FULL_KILL);
	set("on-full", "local");
	CHECK_EQ(config.on_full, ON_FULL_LOCAL);
	set("evict", "wp");
	CHECK_EQ(config.evict, EVICT_WP);
	set("evict", "move");
	CHECK_EQ(config.evict, EVICT_MOVE);
	set("fabric", "tcp");
	CHECK_EQ(config.transport, TRANSPORT_TCP);
	for (uint32_t scheme = 0; scheme < SCHEME_COUNT; scheme++) {
		set("scheme", config_scheme_name(scheme));
		CHECK_EQ(config.scheme, scheme);
	}
	set("scheme", "none");
	CHECK_EQ(config.scheme, SCHEME_NONE);
	set("scheme", "split");
	CHECK_EQ(config.scheme, SCHEME_SPLIT);
	CHECK_STR_EQ(config_scheme_name(SCHEME_COUNT), "?");
	set("log-level", "debug");
	CHECK_EQ(config.log_level, LOG_DEBUG);
	set("log-level", "error");
	CHECK_EQ(config.log_level, LOG_ERROR);
}

TEST(file_and_environment_are_read_in_this_order)
{
	const char text[] = "local = 64M\nec = 2+1\n";
	int fd = open("config_test.conf", O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK_EQ(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	load();
	CHECK_EQ(setenv("FARMEM_CONFIG", "config_test.conf", 1), 0);
	CHECK_EQ(setenv("FARMEM_LOCAL", "128M", 1), 0);
	CHECK_EQ(config_load(&config, &error), 0);
	CHECK_EQ(config.local.bytes, 128 << 20);
	CHECK_EQ(config.code.k, 2);
	CHECK_EQ(setenv("FARMEM_CONFIG", "missing.conf", 1), 0);
	CHECK_EQ(config_load(&config, &error), -EINVAL);
	CHECK_CONTAINS(error.text, "missing.conf");
	unlink("config_test.conf");
}

TEST(our_variables_that_are_no_options_are_accepted_and_others_are_not)
{
	for (const char *const *name = config_other_variables; *name != NULL; name++) {
		load();
		CHECK_EQ(setenv(*name, "", 1), 0);
		CHECK_EQ(config_load(&config, &error), 0);
	}
	load();
	CHECK_EQ(setenv("FARMEM_LOCLA", "1M", 1), 0);
	CHECK_EQ(config_load(&config, &error), -EINVAL);
	CHECK_CONTAINS(error.text, "did you mean FARMEM_LOCAL?");
}

TEST(a_local_budget_beyond_the_machine_or_next_to_nothing_is_refused)
{
	load();
	set("range", "32T");
	set("local", "16T");
	check_refused("--local: 16.0 TiB is more than this machine has (", "give less");
	set("local", "0");
	check_refused("--local: 0 B is too little", "give at least");
	set("local", "0%");
	check_refused("--local: 0 B is too little", "give at least");
	set("local", "2M");
	CHECK_EQ(config_check(&config, &error), 0);
}

TEST(a_range_that_is_too_small_is_refused)
{
	load();
	set("range", "1M");
	check_refused("--range: 1.0 MiB is too small", "give at least 64.0 MiB");
	set("range", "64M");
	set("local", "65M");
	check_refused("--range: 64.0 MiB cannot hold --local 65.0 MiB", "larger range");
	set("local", "64M");
	CHECK_EQ(config_check(&config, &error), 0);
}

TEST(region_sizes_are_powers_of_two_between_1M_and_4G)
{
	const char *const good[] = {"1M", "2M", "64M", "4G"};

	load();
	for (unsigned i = 0; i < FM_ARRAY_COUNT(good); i++) {
		set("region-size", good[i]);
		CHECK_EQ(config_check(&config, &error), 0);
	}
	set("region-size", "48M");
	check_refused("--region-size: 48.0 MiB is not a power of two", "32M, 64M");
	set("region-size", "512K");
	check_refused("--region-size: 512.0 KiB is too small", "1M to 4G");
	set("region-size", "8G");
	check_refused("--region-size: 8.0 GiB is too large", "1M to 4G");
	set("region-size", "0");
	check_refused("too small", "1M to 4G");
	set("region-size", "64M");
	set("node-memory", "32M");
	check_refused("--node-memory", "--region-size");
}

TEST(good_node_lists_are_accepted_even_with_fewer_nodes_than_the_code_needs)
{
	const char *const good[] = {"h1:7400", "h1:7400,h2:7400", "h1:7400,h1:7401", "10.0.0.1:1",
		"[::1]:7400,[fe80::1%eth0]:65535", "a-b.example.org:7400"};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(good); i++) {
		load();
		set("nodes", good[i]);
		CHECK_EQ(config_check(&config, &error), 0);
	}
}

TEST(bad_node_lists_are_refused_with_the_entry_named)
{
	check_nodes_refused("h1", "\"h1\": the port is missing", "HOST:PORT");
	check_nodes_refused("h1:7400,h2", "\"h2\": the port is missing", "HOST:PORT");
	check_nodes_refused("h1:0", "\"h1:0\": the port is not", "HOST:PORT");
	check_nodes_refused("h1:65536", "the port is not 1 to 65535", "HOST:PORT");
	check_nodes_refused("h1:", "the port is not", "HOST:PORT");
	check_nodes_refused("h1:74x0", "the port is not", "HOST:PORT");
	check_nodes_refused(":7400", "not a host name", "HOST:PORT");
	check_nodes_refused("[]:7400", "not a host name", "HOST:PORT");
	check_nodes_refused("::1:7400", "not a host name", "HOST:PORT");
	check_nodes_refused("h 1:7400", "not a host name", "HOST:PORT");
	check_nodes_refused("h1:7400, h2:7400", "\" h2:7400\": not a host name", "HOST:PORT");
	check_nodes_refused("http://h1:7400", "not a host name", "HOST:PORT");
	check_nodes_refused("h1:7400,,h2:7400", "an empty entry", "HOST:PORT");
	check_nodes_refused("h1:7400,", "an empty entry at the end", "HOST:PORT");
	check_nodes_refused(",", "an empty entry", "HOST:PORT");
}

TEST(duplicate_nodes_are_refused_however_they_are_written)
{
	check_nodes_refused("h1:7400,h2:7400,h1:7400", "h1:7400 is there twice", "once");
	check_nodes_refused("h1:7400,H1:7400", "H1:7400 is there twice", "once");
	check_nodes_refused("h1:7400,h1:07400", "h1:07400 is there twice", "once");
	check_nodes_refused("[::1]:7400,[::1]:7400", "is there twice", "once");
}

TEST(node_lists_of_any_length_are_bounded)
{
	char nodes[2048];
	size_t used = 0;

	for (unsigned i = 1; i <= CONFIG_NODES_MAX + 1; i++)
		used += (size_t)snprintf(
			nodes + used, sizeof(nodes) - used, "%sh:%u", i > 1 ? "," : "", i);
	CHECK(used < sizeof(nodes));
	check_nodes_refused(nodes, "--nodes", "more than 256 nodes");
	memset(nodes, 'h', sizeof(nodes) - 1);
	nodes[sizeof(nodes) - 1] = '\0';
	check_nodes_refused(nodes, "too long", "HOST:PORT");
}

TEST(options_that_contradict_the_node_list_are_refused)
{
	load();
	set("nodes", "h1:7400");
	set("fabric", "shm");
	check_refused("--fabric", "leave it out");
	set("fabric", "tcp");
	set("embedded-nodes", "7");
	check_refused("--embedded-nodes", "one of the two");
	set("embedded-nodes", "0");
	CHECK_EQ(config_check(&config, &error), 0);
	set("fabric", "verbs");
	CHECK_EQ(config_check(&config, &error), 0);
	set("nodes", "");
	check_refused("--fabric", "farmem-memnode --verbs");
}

TEST(node_entries_come_apart_into_host_and_port)
{
	const char *list = "h1:7400,[::1]:80";
	struct config_node node;

	CHECK_EQ(config_next_node(&list, &node, &error), 1);
	CHECK_STR_EQ(node.host, "h1");
	CHECK_STR_EQ(node.name, "h1:7400");
	CHECK_EQ(node.port, 7400);
	CHECK_EQ(config_next_node(&list, &node, &error), 1);
	CHECK_STR_EQ(node.host, "::1");
	CHECK_STR_EQ(node.name, "[::1]:80");
	CHECK_EQ(node.port, 80);
	CHECK_EQ(config_next_node(&list, &node, &error), 0);
}

TEST(every_option_has_help_an_own_name_and_an_own_letter)
{
	for (unsigned i = 0; i < config_specs_count; i++) {
		CHECK(config_specs[i].help != NULL && config_specs[i].help[0] != '\0');
		for (unsigned j = 0; j < i; j++) {
			CHECK(strcmp(config_specs[i].name, config_specs[j].name) != 0);
			CHECK(config_specs[i].letter == 0 ||
				config_specs[i].letter != config_specs[j].letter);
		}
	}
}

TEST(a_scheme_says_how_much_of_the_code_applies)
{
	load();
	CHECK_EQ(config.scheme, SCHEME_BATCH_REMOTE);
	CHECK_EQ(config_code(&config).k, 4);
	set("ec", "5+3");
	set("scheme", "none");
	CHECK_EQ(config_check(&config, &error), 0);
	CHECK_EQ(config_code(&config).k, 1);
	CHECK_EQ(config_code(&config).m, 0);
	set("scheme", "replicate");
	CHECK_EQ(config_check(&config, &error), 0);
	CHECK_EQ(config_code(&config).k, 1);
	CHECK_EQ(config_code(&config).m, 3);
	set("scheme", "batch-local");
	CHECK_EQ(config_check(&config, &error), 0);
	CHECK_EQ(config_code(&config).k, 5);
	CHECK_EQ(config_code(&config).m, 3);
	set("ec", "5+0");
	set("scheme", "replicate");
	check_refused("--scheme: replicate with --ec 5+0", "give --ec 5+1");
	set("ec", "3+2");
	set("scheme", "split");
	check_refused("--scheme: split makes 1, 2, 4, 8 or 16 pieces", "--ec");
	set("ec", "8+2");
	CHECK_EQ(config_check(&config, &error), 0);
	CHECK_EQ(config_code(&config).k, 8);
	set("region-size", "1G");
	check_refused("--region-size: too large for --scheme split", "give at most 512M");
	struct option_code code = {7, 2};
	config_fit_code(SCHEME_SPLIT, &code);
	CHECK_EQ(code.k, 4);
	code.k = 7;
	config_fit_code(SCHEME_BATCH_LOCAL, &code);
	CHECK_EQ(code.k, 7);
	set("scheme", "2pc");
	check_refused("--scheme: 2pc is not in this build", "take batch-remote");
}
