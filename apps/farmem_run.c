/*
 * apps/farmem_run.c: `farmem run`: checks everything that can be checked, sets the environment,
 * execs.
 *
 * No process is started here: the program keeps this pid, terminal, signals and status. The runtime
 * in the preload library starts the agent when the heap nears its budget.
 *
 * Exit status when the program was not started: 2 the user's mistake, 1 the machine does not allow
 * it, 126 not executable, 127 not found (as in sh). One line on standard error says which.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_survey.h"
#include "apps/farmem_places.h"
#include "apps/farmem_program.h"
#include "apps/farmem_uffd.h"
#include "base/config.h"
#include "farmem/mailbox.h"

#define VALUE_MAX 4096   /* longest value of an option as text */
#define TREE_NAME_MAX 24 /* "PID-XXXXXXXX" */
#define STATIC_TLS_BYTES 4096u

struct run {
	struct fm_config
		inherited; /* defaults, file, environment: what the program would read by itself */
	struct fm_config config; /* the same with the flags */
	struct program program;
	char preload[PATH_MAX];
	char **arguments; /* PROGRAM ARGUMENT... */
};

static int run_read(struct run *run, int argc, char **argv)
{
	struct option_error error = {""};
	int index = 0;

	if (config_load(&run->inherited, &error) < 0) {
		complain("%s", error.text);
		return EXIT_USAGE;
	}
	run->config = run->inherited;
	if (options_read_flags(config_specs, config_specs_count, &run->config, argc, argv, &index,
		    &error) < 0) {
		complain("%s", error.text);
		return EXIT_USAGE;
	}
	if (index >= argc) {
		complain("no program given: farmem run [FLAGS] -- PROGRAM [ARGUMENT]...");
		return EXIT_USAGE;
	}
	run->arguments = argv + index;
	if (config_check(&run->config, &error) < 0) {
		complain("%s", error.text);
		return EXIT_USAGE;
	}
	return EXIT_OK;
}

/* A node that is down now may be back soon: it is named, and the program starts as long as one
 * answers. */
static int run_check_nodes(const struct fm_config *config)
{
	static struct survey report;
	int rc;

	if (!config->nodes[0])
		return EXIT_OK;
	rc = survey_ask(config, &report);
	if (rc < 0) {
		complain("cannot ask the memory nodes: %s", strerror(-rc));
		return EXIT_FAILED;
	}
	return survey_complain(config, &report) < 0 ? EXIT_FAILED : EXIT_OK;
}

/* Paths must mean the same after the program's or a child's chdir. value holds VALUE_MAX bytes. */
static int make_absolute(char *value)
{
	char directory[PATH_MAX], joined[VALUE_MAX];
	int written;

	if (value[0] == '/' || value[0] == '\0')
		return 0;
	if (!getcwd(directory, sizeof(directory)))
		return -errno;
	written = snprintf(joined, sizeof(joined), "%s/%s", directory, value);
	if (written >= (int)sizeof(joined))
		return -ENAMETOOLONG;
	memcpy(value, joined, (size_t)written + 1);
	return 0;
}

/* The agent's sockets lie below the run-time directory, and a socket's path is short. */
static int run_check_dir(const struct run *run)
{
	char dir[VALUE_MAX];

	if (snprintf(dir, sizeof(dir), "%s", run->config.dir) < (int)sizeof(dir) &&
		make_absolute(dir) == 0 && strlen(dir) + 1 + TREE_NAME_MAX <= MAILBOX_TREE_DIR_MAX)
		return EXIT_OK;
	complain("--dir %s: too long for the sockets in it: at most %d bytes", dir,
		MAILBOX_TREE_DIR_MAX - 1 - TREE_NAME_MAX);
	return EXIT_USAGE;
}

static int run_check(struct run *run)
{
	struct option_error error = {""};
	struct uffd_probe probe;
	int rc = program_find(run->arguments[0], &run->program, &error);

	if (rc != 0) {
		complain("%s", error.text);
		return rc;
	}
	rc = run_check_dir(run);
	if (rc != EXIT_OK)
		return rc;
	if (run->config.scheme == SCHEME_NONE)
		complain("WARNING: --scheme none: NO REDUNDANCY: a node that dies takes the "
			 "program with it");
	rc = places_preload(run->preload, sizeof(run->preload));
	if (rc == -EINVAL) {
		complain("%s: LD_PRELOAD cannot carry a path with a space or a colon: install "
			 "farmem elsewhere",
			run->preload);
		return EXIT_FAILED;
	}
	if (rc < 0) {
		complain(PRELOAD_NAME " is neither beside this program nor in ../lib/farmem: the "
				      "installation is incomplete");
		return EXIT_FAILED;
	}
	uffd_probe(&probe);
	if (probe.way == UFFD_WAY_NONE) {
		complain("no permission for userfaultfd: %s", uffd_cure(&probe));
		return EXIT_FAILED;
	}
	rc = run_check_nodes(&run->config);
	return rc == EXIT_OK ? record_begin(run->config.profile) : rc;
}

/* FARMEM_FETCH_DEADLINE for "fetch-deadline". */
static void variable_name(const char *option, char *name, size_t size)
{
	size_t length = (size_t)snprintf(name, size, "FARMEM_%s", option);

	for (size_t i = 0; i < FM_MIN(length, size - 1); i++)
		name[i] = (char)(name[i] == '-'                     ? '_'
				 : name[i] >= 'a' && name[i] <= 'z' ? name[i] - 'a' + 'A'
								    : name[i]);
}

static bool is_path(const char *option)
{
	return strcmp(option, "dir") == 0 || strcmp(option, "log") == 0 ||
	       strcmp(option, "profile") == 0;
}

/* One option into the environment when the flags changed it, or when it is a relative path. 0 or
 * -errno. */
static int export_option(const struct run *run, const struct option_spec *spec)
{
	char before[VALUE_MAX], after[VALUE_MAX], name[128];
	int rc;

	if (spec->flag_only)
		return 0;
	rc = options_format(spec, &run->inherited, before, sizeof(before));
	if (rc >= 0)
		rc = options_format(spec, &run->config, after, sizeof(after));
	if (rc >= 0 && is_path(spec->name))
		rc = make_absolute(after);
	if (rc < 0)
		return rc;
	if (strcmp(before, after) == 0)
		return 0;
	variable_name(spec->name, name, sizeof(name));
	return setenv(name, after, 1) < 0 ? -errno : 0;
}

static int export_config_file(void)
{
	const char *file = getenv("FARMEM_CONFIG");
	char path[VALUE_MAX];
	int rc;

	if (!file || strlen(file) >= sizeof(path))
		return 0;
	memcpy(path, file, strlen(file) + 1);
	rc = make_absolute(path);
	if (rc < 0)
		return rc;
	return setenv("FARMEM_CONFIG", path, 1) < 0 ? -errno : 0;
}

/* The name all processes of this tree share; children of a farmem program keep theirs. */
static int export_tree(void)
{
	char tree[TREE_NAME_MAX];
	uint32_t nonce;

	if (getenv("FARMEM_TREE"))
		return 0;
	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		return -EIO;
	snprintf(tree, sizeof(tree), "%d-%08x", (int)getpid(), nonce);
	return setenv("FARMEM_TREE", tree, 1) < 0 ? -errno : 0;
}

/* Ours comes first, and once. */
static int export_preload(const char *library)
{
	const char *others = getenv("LD_PRELOAD");
	char *all;
	int rc;

	if (others && strstr(others, library))
		return 0;
	if (!others || others[0] == '\0')
		return setenv("LD_PRELOAD", library, 1) < 0 ? -errno : 0;
	if (asprintf(&all, "%s:%s", library, others) < 0)
		return -ENOMEM;
	rc = setenv("LD_PRELOAD", all, 1) < 0 ? -errno : 0;
	free(all);
	return rc;
}

/*
 * With an auditor (LD_AUDIT) the dynamic linker has less room left for thread-local storage of
 * preloaded libraries than jemalloc's needs ("cannot allocate memory in static TLS block").
 */
static int export_tunables(void)
{
	const char *audit = getenv("LD_AUDIT"), *others = getenv("GLIBC_TUNABLES");
	char *all;
	int rc;

	if (!audit || audit[0] == '\0' || (others && strstr(others, "optional_static_tls")))
		return 0;
	if (asprintf(&all, "%s%sglibc.rtld.optional_static_tls=%u", others ? others : "",
		    others && others[0] != '\0' ? ":" : "", STATIC_TLS_BYTES) < 0)
		return -ENOMEM;
	rc = setenv("GLIBC_TUNABLES", all, 1) < 0 ? -errno : 0;
	free(all);
	return rc;
}

static int run_export(const struct run *run)
{
	int rc = 0;

	for (unsigned i = 0; i < config_specs_count && rc == 0; i++)
		rc = export_option(run, &config_specs[i]);
	if (rc == 0)
		rc = export_config_file();
	if (rc == 0)
		rc = export_tree();
	if (rc == 0)
		rc = export_preload(run->preload);
	if (rc == 0)
		rc = export_tunables();
	return rc;
}

int run_command(int argc, char **argv)
{
	static struct run run;
	int rc;

	if (command_wants_help(argc, argv)) {
		command_print_help("run");
		return EXIT_OK;
	}
	rc = run_read(&run, argc, argv);
	if (rc == EXIT_OK)
		rc = run_check(&run);
	if (rc != EXIT_OK)
		return rc;
	rc = run_export(&run);
	if (rc < 0) {
		complain("cannot set the program's environment: %s", strerror(-rc));
		return EXIT_FAILED;
	}
	/* execvp, not execv: a script without a #! line goes to /bin/sh, as a shell would do. */
	execvp(run.program.path, run.arguments);
	rc = errno;
	complain("%s: cannot be executed: %s", run.program.path, strerror(rc));
	return rc == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
}
