/*
 * apps/farmem_inspect.c: `farmem inspect`: gets the catalog of a running program, has it audited
 * (farmem/agent/audit.h), decides. What is said: farmem_inspect_words.c, farmem_inspect_json.c.
 *
 * The catalog's memfd comes from the agent that serves the program (MAILBOX_CATALOG); when no agent
 * has it (it may be gone), from a thread of the program that has it open. It is mapped read-only.
 *
 * Exit: 0 consistent, 1 inconsistent, 2 the command line, 3 there is nothing to be looked at.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "apps/farmem_agents.h"
#include "apps/farmem_cmd.h"
#include "apps/farmem_inspect.h"
#include "apps/farmem_places.h"
#include "base/clock.h"
#include "base/config.h"

#define EXIT_NOTHING 3
#define LOOKS_MAX 8      /* at a running program, while something looks wrong */
#define LOOK_PAUSE_MS 20 /* after the first; doubles */
#define PROGRESS_AFTER_NS (2 * NS_PER_S)
#define CATALOG_LINK "/memfd:farmem-catalog"

struct inspect_options {
	bool json, groups, records;
	char dir[sizeof(((struct fm_config *)0)->dir)];
};

const struct option_spec inspect_specs[] = {
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = offsetof(struct inspect_options, json),
		.help = "print one JSON object",
		.flag_only = true},
	{.name = "groups",
		.type = OPTION_BOOL,
		.offset = offsetof(struct inspect_options, groups),
		.help = "each group with its columns",
		.flag_only = true},
	{.name = "records",
		.type = OPTION_BOOL,
		.offset = offsetof(struct inspect_options, records),
		.help = "each spanset with its pages and slots: one line each",
		.flag_only = true},
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct inspect_options, dir),
		.size = sizeof(((struct inspect_options *)0)->dir),
		.argument = "PATH",
		.help = "run-time directory in which to look for agents; without it that of the\n"
			"configuration, as for run",
		.flag_only = true},
};
const unsigned inspect_specs_count = FM_ARRAY_COUNT(inspect_specs);

/* --- getting the catalog ------------------------------------------------------------------------
 */

struct search {
	int64_t pid;
	int fd;
	char tree[80];
};

static int ask_agent(void *context, const char *tree, int fd)
{
	struct search *search = context;
	struct mailbox_message order = {
		.version = MAILBOX_VERSION, .kind = MAILBOX_CATALOG, .value = search->pid};
	int received;
	int64_t value;

	if (search->fd >= 0)
		return 0;
	value = agents_order(fd, &order, &received);
	if (value == 0 && received >= 0) {
		search->fd = received;
		snprintf(search->tree, sizeof(search->tree), "%.79s", tree);
		return 0;
	}
	if (received >= 0)
		close(received);
	return value == -ESRCH ? 0 : -EPROTO;
}

/* One descriptor table: a catalog in it, opened again, or -1. */
static int search_table(const char *table)
{
	DIR *fds = opendir(table);
	const struct dirent *entry;
	int fd = -1;

	while (fds && fd < 0 && (entry = readdir(fds))) {
		char path[PATH_MAX], target[64];
		ssize_t length;

		snprintf(path, sizeof(path), "%.200s/%.60s", table, entry->d_name);
		length = readlink(path, target, sizeof(target) - 1);
		if (length < (ssize_t)strlen(CATALOG_LINK))
			continue;
		if (strncmp(target, CATALOG_LINK, strlen(CATALOG_LINK)) == 0)
			fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (fds)
		closedir(fds);
	return fd;
}

/* Threads of the runtime have descriptor tables of their own. */
static int search_program(int64_t pid)
{
	char path[64];
	const struct dirent *entry;
	int fd = -1;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%lld/task", (long long)pid);
	tasks = opendir(path);
	while (tasks && fd < 0 && (entry = readdir(tasks))) {
		char table[128];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(table, sizeof(table), "%s/%.20s/fd", path, entry->d_name);
		fd = search_table(table);
	}
	if (tasks)
		closedir(tasks);
	return fd;
}

/* 0, -ESRCH, -EPROTO (another version's catalog) or -errno. */
static int catalog_find(struct inspect *inspect, const char *dir, struct catalog *catalog)
{
	struct search search = {.pid = inspect->pid, .fd = -1, .tree = ""};
	int rc = agents_visit(dir, NULL, ask_agent, &search, NULL);

	if (rc < 0 && rc != -EACCES)
		return rc;
	if (search.fd < 0)
		search.fd = search_program(inspect->pid);
	if (search.fd < 0)
		return -ESRCH;
	snprintf(inspect->tree, sizeof(inspect->tree), "%s", search.tree);
	rc = catalog_attach(catalog, search.fd);
	if (rc < 0)
		return rc;
	/* Ours only to read: a slip of ours must not reach the program. */
	if (mprotect(catalog->header, catalog->bytes, PROT_READ) != 0)
		rc = -errno;
	if (rc == 0 && catalog->header->pid != inspect->pid)
		rc = -ESRCH;
	if (rc < 0)
		catalog_close(catalog);
	return rc;
}

/* --- looking ------------------------------------------------------------------------------------
 */

static bool program_stopped(int64_t pid)
{
	char path[64], line[512], *end;
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%lld/stat", (long long)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	length = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
	if (fd >= 0)
		close(fd);
	if (length <= 0)
		return false;
	line[length] = '\0';
	end = strrchr(line, ')'); /* the name may hold anything */
	return end && (strncmp(end, ") T", 3) == 0 || strncmp(end, ") t", 3) == 0);
}

static unsigned program_threads(int64_t pid)
{
	char path[64];
	unsigned count = 0;
	const struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%lld/task", (long long)pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks)))
		count += entry->d_name[0] != '.';
	if (tasks)
		closedir(tasks);
	return count;
}

struct progress {
	uint64_t begun_ns, said_ns;
	unsigned look;
};

static void show_progress(void *context, uint64_t done, uint64_t total)
{
	struct progress *progress = context;
	uint64_t now_ns = clock_now_ns();

	if (now_ns - progress->begun_ns < PROGRESS_AFTER_NS ||
		now_ns - progress->said_ns < NS_PER_S)
		return;
	progress->said_ns = now_ns;
	complain("inspect: look %u, %.0f %%", progress->look,
		100.0 * (double)done / (double)FM_MAX(total, 1ull));
}

static uint64_t findings_sum(const struct audit *audit)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < AUDIT_KINDS; i++)
		sum += audit->counts[i];
	return sum;
}

/* Looks until nothing is wrong, or what is wrong has been so in every look. */
static int look_running(struct inspect *inspect, struct progress *progress)
{
	static struct audit_finding earlier[AUDIT_FINDINGS_MAX];
	struct audit *audit = &inspect->audit;
	unsigned count = 0;
	int pause_ms = LOOK_PAUSE_MS;

	for (unsigned i = 0; i < LOOKS_MAX; i++) {
		uint64_t before;
		int rc;

		if (i > 0) { /* changes under way get time to end */
			poll(NULL, 0, pause_ms);
			pause_ms *= 2;
		}
		progress->look = i + 1;
		rc = audit_look(audit);
		if (rc < 0)
			return rc;
		before = findings_sum(audit);
		if (i > 0)
			audit_keep(audit, earlier, count);
		inspect->changes += before - findings_sum(audit);
		count = audit->findings_count;
		if (findings_sum(audit) == 0)
			break;
		memcpy(earlier, audit->findings, count * sizeof(*earlier));
	}
	inspect->consistent = findings_sum(audit) == 0;
	return 0;
}

/* One look is exact, but for what each thread had in hand when it was stopped. */
static int look_stopped(struct inspect *inspect)
{
	uint64_t sum;
	int rc = audit_look(&inspect->audit);

	if (rc < 0)
		return rc;
	sum = findings_sum(&inspect->audit);
	inspect->in_hand = audit_in_hand(&inspect->audit);
	inspect->consistent = sum == 0 || (sum == audit_in_hand_slots(&inspect->audit) &&
						  inspect->in_hand <= inspect->threads);
	return 0;
}

static int look(struct inspect *inspect)
{
	struct progress progress = {.begun_ns = clock_now_ns(), .look = 1};
	struct timespec now;
	int rc;

	inspect->audit.progress = show_progress;
	inspect->audit.context = &progress;
	inspect->threads = program_threads(inspect->pid);
	inspect->stopped = program_stopped(inspect->pid);
	rc = inspect->stopped ? look_stopped(inspect) : 0;
	if (rc < 0)
		return rc;
	if (!inspect->stopped || !program_stopped(inspect->pid)) {
		inspect->stopped = false;
		inspect->in_hand = 0;
		rc = look_running(inspect, &progress);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	inspect->now_ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
	return rc;
}

/* --- the command --------------------------------------------------------------------------------
 */

static int inspect_read(
	struct inspect *inspect, struct inspect_options *options, char *dir, int argc, char **argv)
{
	struct option_error error = {""};
	struct fm_config config;
	uint64_t pid = 0;
	int index = 0;

	if (options_set_defaults(inspect_specs, inspect_specs_count, options, &error) < 0 ||
		options_read_flags(inspect_specs, inspect_specs_count, options, argc, argv, &index,
			&error) < 0 ||
		config_load(&config, &error) < 0) {
		complain("%s", error.text);
		return -EINVAL;
	}
	if (index >= argc) {
		complain("inspect wants a process id: `farmem top --once` lists them");
		return -EINVAL;
	}
	if (parse_count(argv[index], &pid) < 0 || pid == 0 || pid > INT32_MAX) {
		complain("inspect: '%s' is not a process id", argv[index]);
		return -EINVAL;
	}
	/* Flags may stand behind the process too. */
	inspect->pid = (int64_t)pid;
	index++;
	if (options_read_flags(
		    inspect_specs, inspect_specs_count, options, argc, argv, &index, &error) < 0 ||
		index < argc) {
		complain("inspect: %s%s", error.text[0] ? error.text : "one process id only, not ",
			error.text[0] ? "" : argv[index]);
		return -EINVAL;
	}
	if (places_run_dir(options->dir[0] ? options->dir : config.dir, dir, PATH_MAX) < 0) {
		complain("the run-time directory's name is too long");
		return -EINVAL;
	}
	return 0;
}

static void complain_nothing(int64_t pid, int rc)
{
	if (rc == -ESRCH)
		complain("inspect: no process %lld with far memory (a heap that fits its budget "
			 "has none)",
			(long long)pid);
	else if (rc == -EPROTO)
		complain("inspect: the catalog of %lld is of another version of farmem",
			(long long)pid);
	else
		complain("inspect: %lld: %s", (long long)pid, strerror(-rc));
}

int inspect_command(int argc, char **argv)
{
	static struct inspect inspect;
	static char dir[PATH_MAX];
	struct inspect_options options = {.json = false};
	struct catalog catalog;
	int rc;

	if (command_wants_help(argc, argv)) {
		command_print_help("inspect");
		return EXIT_OK;
	}
	if (inspect_read(&inspect, &options, dir, argc, argv) < 0)
		return EXIT_USAGE;
	inspect.groups = options.groups;
	inspect.records = options.records;
	rc = catalog_find(&inspect, dir, &catalog);
	if (rc < 0) {
		complain_nothing(inspect.pid, rc);
		return EXIT_NOTHING;
	}
	rc = audit_open(&inspect.audit, &catalog);
	if (rc == 0)
		rc = look(&inspect);
	if (rc == 0)
		rc = options.json ? inspect_print_json(stdout, &inspect)
				  : inspect_print_words(stdout, &inspect);
	if (rc < 0)
		complain_nothing(inspect.pid, rc);
	audit_close(&inspect.audit);
	catalog_close(&catalog);
	return rc < 0 ? EXIT_NOTHING : inspect.consistent ? EXIT_OK : EXIT_FAILED;
}
