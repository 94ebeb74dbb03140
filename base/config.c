/*
 * base/config.c: the table of the runtime's options, and the checks the table's types cannot make.
 *
 * Called by `farmem run`, by the preload and by the agent. config_check's errors name the thing and
 * the cure in one line; too few nodes for the code is none of them: the agent says that loudly and
 * takes a narrower code.
 */
#include "base/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/options_table.h"

#define AT(field) offsetof(struct fm_config, field)
#define ROOM(field) sizeof(((struct fm_config *)0)->field)

static const char *const config_on_full_words[] = {"wait", "local", "kill", NULL};
static const char *const config_evict_words[] = {"auto", "move", "wp", NULL};
static const char *const config_scheme_words[] = {
	"batch-remote", "batch-local", "none", "replicate", "split", "2pc", NULL};
FM_BUILD_ASSERT(FM_ARRAY_COUNT(config_scheme_words) == SCHEME_COUNT + 1, "one word each");
static const char *const config_compact_words[] = {"auto", "off", "local", "remote", NULL};
static const char *const config_transport_words[] = {"auto", "shm", "tcp", "verbs", NULL};
static const char *const config_log_level_words[] = {"error", "warn", "info", "debug", NULL};

const struct option_spec config_specs[] = {
	{.name = "local",
		.letter = 'l',
		.type = OPTION_SHARE,
		.offset = AT(local),
		.value = "25%",
		.argument = "SIZE|PERCENT",
		.help = "memory the program may keep on this machine: a size, or a share of\n"
			"its far-capable memory at any time"},
	{.name = "ec",
		.type = OPTION_CODE,
		.offset = AT(code),
		.value = "4+2",
		.argument = "K+M",
		.help = "redundancy: K data pieces, M parities; M nodes may die"},
	{.name = "scheme",
		.type = OPTION_CHOICE,
		.offset = AT(scheme),
		.choices = config_scheme_words,
		.value = "batch-remote",
		.argument = "NAME",
		.help = "how pages are kept: batch-remote and batch-local code K pages together,\n"
			"compacted by the nodes or by the agent; split codes each by itself,\n"
			"in K pieces; replicate keeps 1+M copies; none one, which dies with its\n"
			"node"},
	{.name = "nodes",
		.letter = 'n',
		.type = OPTION_STRING,
		.offset = AT(nodes),
		.size = ROOM(nodes),
		.argument = "HOST:PORT,...",
		.help = "memory nodes; without it nodes are started on this machine"},
	{.name = "fabric",
		.type = OPTION_CHOICE,
		.offset = AT(transport),
		.choices = config_transport_words,
		.value = "auto",
		.argument = "auto|shm|tcp|verbs",
		.help = "how nodes are reached: shm on this machine, tcp anywhere, verbs by RDMA,\n"
			"with --nodes; auto: shm for nodes started here, else tcp"},
	{.name = "embedded-nodes",
		.type = OPTION_COUNT,
		.offset = AT(embedded_count),
		.max = CONFIG_NODES_MAX,
		.value = "0",
		.argument = "COUNT",
		.help = "nodes to start on this machine; 0: K+M+1"},
	{.name = "node-memory",
		.type = OPTION_SIZE,
		.offset = AT(node_memory_bytes),
		.value = "0",
		.argument = "SIZE",
		.help = "most each of them lends; 0: as much as the machine has"},
	{.name = "region-size",
		.type = OPTION_SIZE,
		.offset = AT(region_bytes),
		.value = "64M",
		.argument = "SIZE",
		.help = "memory leased at a time from a node; a power of two"},
	{.name = "far-limit",
		.type = OPTION_SIZE,
		.offset = AT(far_bytes),
		.value = "0",
		.argument = "SIZE",
		.help = "most data to keep on nodes, parities not counted; 0: no limit"},
	{.name = "retain",
		.type = OPTION_SHARE,
		.offset = AT(retain),
		.value = "100%",
		.argument = "SIZE|PERCENT",
		.help = "far copies kept of pages that are near, so that unchanged ones leave\n"
			"without a write; a size, or a share of the local memory"},
	{.name = "on-full",
		.type = OPTION_CHOICE,
		.offset = AT(on_full),
		.choices = config_on_full_words,
		.value = "wait",
		.argument = "wait|local|kill",
		.help = "when no node lends any more: wait, go beyond --local, or stop"},
	{.name = "evict",
		.type = OPTION_CHOICE,
		.offset = AT(evict),
		.choices = config_evict_words,
		.value = "auto",
		.argument = "auto|move|wp",
		.help = "how pages are taken out: UFFDIO_MOVE, or write-protect and copy"},
	{.name = "range",
		.type = OPTION_SIZE,
		.offset = AT(range_bytes),
		.value = "256G",
		.argument = "SIZE",
		.max = 1ull << 46,
		.help = "address space kept for far-capable memory"},
	{.name = "mmap",
		.type = OPTION_BOOL,
		.offset = AT(mmap),
		.value = "yes",
		.help = "large private mappings may go far too, not malloc's memory alone;\n"
			"--no-mmap leaves them here"},
	{.name = "mmap-threshold",
		.type = OPTION_SIZE,
		.offset = AT(mmap_threshold_bytes),
		.value = "256K",
		.min = 64 << 10,
		.argument = "SIZE",
		.help = "smaller mappings stay here"},
	{.name = "handlers",
		.type = OPTION_COUNT,
		.offset = AT(handlers),
		.value = "0",
		.max = 16,
		.argument = "COUNT",
		.help = "fault handler threads per stripe; 0: automatic"},
	{.name = "stripes",
		.type = OPTION_COUNT,
		.offset = AT(stripes),
		.value = "0",
		.max = 16,
		.argument = "COUNT",
		.help = "userfaultfds to spread faults over; 0: automatic"},
	{.name = "spin",
		.type = OPTION_DURATION,
		.offset = AT(spin_ns),
		.value = "20us",
		.max = 1000000000,
		.argument = "TIME",
		.help = "how long a fault handler looks for the next fault before it sleeps"},
	{.name = "read-ahead",
		.type = OPTION_COUNT,
		.offset = AT(read_ahead),
		.value = "8",
		.max = 64,
		.argument = "COUNT",
		.help = "most neighbours fetched together with a page; 0: none"},
	{.name = "fetch-deadline",
		.type = OPTION_DURATION,
		.offset = AT(fetch_deadline_ns),
		.value = "200ms",
		.min = 1000000,
		.max = 60000000000,
		.argument = "TIME",
		.help = "a read that takes longer is rebuilt from other nodes"},
	{.name = "store-deadline",
		.type = OPTION_DURATION,
		.offset = AT(store_deadline_ns),
		.value = "2s",
		.min = 1000000,
		.max = 60000000000,
		.argument = "TIME",
		.help = "a write that takes longer goes to other nodes"},
	{.name = "scrub-period",
		.type = OPTION_DURATION,
		.offset = AT(scrub_period_ns),
		.value = "24h",
		.max = 31536000000000000,
		.argument = "TIME",
		.help = "everything on the nodes is read and checked once in it; 0: never"},
	{.name = "compact",
		.type = OPTION_CHOICE,
		.offset = AT(compact),
		.choices = config_compact_words,
		.value = "auto",
		.argument = "WHO",
		.help = "who makes one spanset of two half-empty ones: remote, the nodes; local,\n"
			"the agent; auto, the nodes unless they are busy (the agent with\n"
			"--scheme batch-local); off, nobody"},
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = AT(dir),
		.size = ROOM(dir),
		.argument = "PATH",
		.help = "directory for sockets and logs; without it /run/farmem,\n"
			"$XDG_RUNTIME_DIR/farmem, or /tmp/farmem-UID"},
	{.name = "log",
		.type = OPTION_STRING,
		.offset = AT(log),
		.size = ROOM(log),
		.argument = "PATH",
		.help = "file to log to; without it standard error"},
	{.name = "log-level",
		.type = OPTION_CHOICE,
		.offset = AT(log_level),
		.choices = config_log_level_words,
		.value = "warn",
		.argument = "error|warn|info|debug",
		.help = "how much to log"},
	{.name = "profile",
		.letter = 'o',
		.type = OPTION_STRING,
		.offset = AT(profile),
		.size = ROOM(profile),
		.argument = "FILE",
		.help = "sample who faults into this file, for farmem report; farmem record takes\n"
			"farmem.data"},
	{.name = "profile-rate",
		.type = OPTION_COUNT,
		.offset = AT(profile_rate),
		.value = "500",
		.min = 1,
		.max = 100000,
		.argument = "COUNT",
		.help = "samples a second"},
};
const unsigned config_specs_count = FM_ARRAY_COUNT(config_specs);

const char *const config_other_variables[] = {
	"FARMEM_FAULTS", "FARMEM_STATS_FILE", "FARMEM_TREE", "FARMEM_CONFIG", "FARMEM_BIN", NULL};

int config_load(struct fm_config *config, struct option_error *error)
{
	const char *path = getenv("FARMEM_CONFIG");

	memset(config, 0, sizeof(*config));
	if (options_set_defaults(config_specs, config_specs_count, config, error) != 0)
		return -EINVAL;
	if (path != NULL && path[0] != '\0' &&
		options_read_file(config_specs, config_specs_count, config, path, error) != 0)
		return -EINVAL;
	return options_read_environment(
		config_specs, config_specs_count, config, config_other_variables, error);
}

struct option_code config_code(const struct fm_config *config)
{
	struct option_code code = config->code;

	if (config->scheme == SCHEME_NONE || config->scheme == SCHEME_REPLICATE)
		code.k = 1;
	if (config->scheme == SCHEME_NONE)
		code.m = 0;
	return code;
}

void config_fit_code(uint32_t scheme, struct option_code *code)
{
	while (scheme == SCHEME_SPLIT && code->k > 1 && FM_PAGE_SIZE % code->k != 0)
		code->k--;
}

const char *config_scheme_name(uint32_t scheme)
{
	return scheme < SCHEME_COUNT ? config_scheme_words[scheme] : "?";
}

/* ---- the node list ---- */

static int config_bad_node(
	const char *entry, size_t length, const char *why, struct option_error *error)
{
	return option_fail(error, "--nodes: \"%.*s\": %s: write HOST:PORT,HOST:PORT,...",
		(int)FM_MIN(length, OPTION_SHOWN), entry, why);
}

static bool config_is_host_byte(char c, bool in_brackets)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))
		return true;
	return c == '.' || c == '-' || c == '_' || (in_brackets && (c == ':' || c == '%'));
}

/* Fills node->host from the text before the port's colon. False: no host name. */
static bool config_read_host(const char *entry, size_t length, struct config_node *node)
{
	bool in_brackets = length >= 2 && entry[0] == '[' && entry[length - 1] == ']';

	if (in_brackets) {
		entry++;
		length -= 2;
	}
	if (length == 0 || length >= sizeof(node->host))
		return false;
	for (size_t i = 0; i < length; i++) {
		if (!config_is_host_byte(entry[i], in_brackets))
			return false;
	}
	memcpy(node->host, entry, length);
	node->host[length] = '\0';
	return true;
}

int config_next_node(const char **list, struct config_node *node, struct option_error *error)
{
	const char *entry = *list, *colon = NULL;
	size_t length = strcspn(entry, ",");
	uint64_t port;

	if (*entry == '\0')
		return 0;
	if (length == 0 || length >= sizeof(node->name))
		return config_bad_node(
			entry, length, length == 0 ? "an empty entry" : "too long", error);
	memcpy(node->name, entry, length);
	node->name[length] = '\0';
	colon = strrchr(node->name, ':');
	if (colon == NULL)
		return config_bad_node(entry, length, "the port is missing", error);
	if (parse_count(colon + 1, &port) != 0 || port < 1 || port > UINT16_MAX)
		return config_bad_node(entry, length, "the port is not 1 to 65535", error);
	if (!config_read_host(node->name, (size_t)(colon - node->name), node))
		return config_bad_node(entry, length, "not a host name or address", error);
	node->port = (uint16_t)port;
	*list = entry + length;
	if (**list == ',') {
		++*list;
		if (**list == '\0')
			return config_bad_node("", 0, "an empty entry at the end", error);
	}
	return 1;
}

/* Whether an entry before `end` means the same host and port as `node`. */
static bool config_node_before(const char *list, const char *end, const struct config_node *node)
{
	struct config_node other;
	struct option_error unused;

	while (list < end && config_next_node(&list, &other, &unused) == 1 && list <= end) {
		if (other.port == node->port && strcasecmp(other.host, node->host) == 0 &&
			list != end)
			return true;
	}
	return false;
}

static int config_check_nodes(const struct fm_config *config, struct option_error *error)
{
	const char *at = config->nodes;
	struct config_node node;
	unsigned count = 0;
	int result;

	while ((result = config_next_node(&at, &node, error)) == 1) {
		if (config_node_before(config->nodes, at, &node))
			return option_fail(error,
				"--nodes: %.100s is there twice: name each node once", node.name);
		if (++count > CONFIG_NODES_MAX)
			return option_fail(error, "--nodes: more than %d nodes", CONFIG_NODES_MAX);
	}
	if (result == 0 && count == 0 && config->transport == TRANSPORT_VERBS)
		return option_fail(error,
			"--fabric: verbs reaches nodes on a network: give --nodes, "
			"started with farmem-memnode --verbs");
	if (result != 0 || count == 0)
		return result;
	if (config->embedded_count != 0)
		return option_fail(
			error, "--embedded-nodes: does not go with --nodes: give one of the two");
	if (config->transport == TRANSPORT_SHM)
		return option_fail(error, "--fabric: shm reaches nodes on this machine only: "
					  "leave it out, or leave --nodes out");
	return 0;
}

/* ---- the numbers ---- */

static uint64_t config_machine_bytes(void)
{
	long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);

	return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : UINT64_MAX;
}

static int config_check_local(const struct fm_config *config, struct option_error *error)
{
	uint64_t machine_bytes = config_machine_bytes();
	char asked[32], there[32];

	if (config->local.permille != 0)
		return 0;
	if (config->local.bytes < CONFIG_LOCAL_BYTES_MIN)
		return option_fail(error, "--local: %s is too little to run in: give at least %s",
			format_bytes(config->local.bytes, asked, sizeof(asked)),
			format_bytes(CONFIG_LOCAL_BYTES_MIN, there, sizeof(there)));
	if (config->local.bytes > machine_bytes)
		return option_fail(error,
			"--local: %s is more than this machine has (%s): give less",
			format_bytes(config->local.bytes, asked, sizeof(asked)),
			format_bytes(machine_bytes, there, sizeof(there)));
	if (config->local.bytes > config->range_bytes)
		return option_fail(error, "--range: %s cannot hold --local %s: give a larger range",
			format_bytes(config->range_bytes, there, sizeof(there)),
			format_bytes(config->local.bytes, asked, sizeof(asked)));
	return 0;
}

static int config_check_region(const struct fm_config *config, struct option_error *error)
{
	uint64_t bytes = config->region_bytes;
	char asked[32];

	format_bytes(bytes, asked, sizeof(asked));
	if (bytes < CONFIG_REGION_BYTES_MIN)
		return option_fail(error, "--region-size: %s is too small: give 1M to 4G", asked);
	if (bytes > CONFIG_REGION_BYTES_MAX)
		return option_fail(error, "--region-size: %s is too large: give 1M to 4G", asked);
	if ((bytes & (bytes - 1)) != 0)
		return option_fail(error,
			"--region-size: %s is not a power of two: give 32M, 64M, 128M...", asked);
	if (config->node_memory_bytes != 0 && config->node_memory_bytes < bytes)
		return option_fail(error,
			"--node-memory: less than one region (%s): give more, or a "
			"smaller --region-size",
			asked);
	return 0;
}

static int config_check_range(const struct fm_config *config, struct option_error *error)
{
	char asked[32], least[32];

	if (config->range_bytes >= CONFIG_RANGE_BYTES_MIN)
		return 0;
	return option_fail(error, "--range: %s is too small: give at least %s; it costs no memory",
		format_bytes(config->range_bytes, asked, sizeof(asked)),
		format_bytes(CONFIG_RANGE_BYTES_MIN, least, sizeof(least)));
}

static int config_check_scheme(const struct fm_config *config, struct option_error *error)
{
	if (config->scheme == SCHEME_SPLIT && FM_PAGE_SIZE % config->code.k != 0)
		return option_fail(error,
			"--scheme: split makes 1, 2, 4, 8 or 16 pieces of a page: give such a K "
			"to --ec");
	if (config->scheme == SCHEME_SPLIT &&
		config->region_bytes > CONFIG_SPLIT_REGION_BYTES_MAX / config->code.k)
		return option_fail(error,
			"--region-size: too large for --scheme split: give at most %lluM",
			(unsigned long long)(CONFIG_SPLIT_REGION_BYTES_MAX / config->code.k >> 20));
	if (config->scheme == SCHEME_2PC)
		return option_fail(error, "--scheme: %s is not in this build: take batch-remote",
			config_scheme_name(config->scheme));
	if (config->scheme == SCHEME_REPLICATE && config->code.m == 0)
		return option_fail(error,
			"--scheme: replicate with --ec %u+0 has no second copy: give --ec %u+1 or "
			"more",
			config->code.k, config->code.k);
	return 0;
}

int config_check(const struct fm_config *config, struct option_error *error)
{
	int (*const checks[])(const struct fm_config *, struct option_error *) = {
		config_check_range,
		config_check_local,
		config_check_region,
		config_check_scheme,
		config_check_nodes,
	};

	error->text[0] = '\0';
	for (unsigned i = 0; i < FM_ARRAY_COUNT(checks); i++) {
		if (checks[i](config, error) != 0)
			return -EINVAL;
	}
	return 0;
}
