/*
 * apps/farmem_doctor_farmem.c: the doctor's look at farmem itself: configuration, files, run-time
 * directory, memory nodes.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apps/farmem_doctor.h"
#include "apps/farmem_survey.h"
#include "apps/farmem_places.h"

extern char **environ;

static void look_configuration(const struct doctor *doctor, struct finding *finding)
{
	const struct fm_config *config = &doctor->config;
	const struct option_code code = config_code(config);
	char local[32];

	if (doctor->config_status < 0) {
		finding_fail(finding, "mend the variable, flag or file named", "%s",
			doctor->config_error.text);
		return;
	}
	if (config->local.permille)
		snprintf(local, sizeof(local), "%u.%u%%", config->local.permille / 10,
			config->local.permille % 10);
	else
		format_bytes(config->local.bytes, local, sizeof(local));
	finding_ok(finding, "near budget %s, %s %u+%u, %s", local,
		config_scheme_name(config->scheme), code.k, code.m,
		config->nodes[0] ? config->nodes : "embedded memory nodes");
}

/*
 * Runs /bin/true under the preload and hands back what the dynamic linker and the library say on
 * standard error. 0: exited 0. -errno, or the exit status.
 */
static int preload_try(const char *library, char *said, size_t size)
{
	char preload[PATH_MAX + 16];
	char *const arguments[] = {"true", NULL};
	char *const variables[] = {preload, NULL};
	posix_spawn_file_actions_t actions;
	int pipe_fds[2], status, rc;
	size_t used = 0;
	ssize_t got;
	pid_t child;

	snprintf(preload, sizeof(preload), "LD_PRELOAD=%s", library);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDERR_FILENO);
	rc = posix_spawn(&child, "/bin/true", &actions, NULL, arguments, variables);
	posix_spawn_file_actions_destroy(&actions);
	close(pipe_fds[1]);
	while (rc == 0 && used < size - 1 &&
		(got = read(pipe_fds[0], said + used, size - 1 - used)) > 0)
		used += (size_t)got;
	said[used] = '\0';
	said[strcspn(said, "\n")] = '\0';
	close(pipe_fds[0]);
	if (rc != 0)
		return -rc;
	if (waitpid(child, &status, 0) < 0)
		return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void look_preload(const struct doctor *doctor, struct finding *finding)
{
	char path[PATH_MAX], said[256];
	int rc = places_preload(path, sizeof(path));

	(void)doctor;
	if (rc == -EINVAL) {
		finding_fail(finding, "install farmem in a directory without spaces and colons",
			"%s cannot stand in LD_PRELOAD", path);
		return;
	}
	if (rc < 0) {
		finding_fail(
			finding, "build or install farmem completely", PRELOAD_NAME " not found");
		return;
	}
	rc = preload_try(path, said, sizeof(said));
	if (rc != 0 || said[0])
		finding_fail(finding,
			"apt-get install libjemalloc2 libisal2, and see ldd of the library",
			"%s does not load (status %d): %s", path, rc, said);
	else
		finding_ok(finding, "%s loads", path);
}

static void look_companions(const struct doctor *doctor, struct finding *finding)
{
	char agent[PATH_MAX], node[PATH_MAX];

	(void)doctor;
	if (places_companion("farmem-agent", agent, sizeof(agent)) < 0)
		finding_fail(
			finding, "build or install farmem completely", "farmem-agent not found");
	else if (places_companion("farmem-memnode", node, sizeof(node)) < 0)
		finding_warn(finding, "build or install farmem completely, or use --nodes",
			"farmem-memnode not found: no embedded memory nodes");
	else
		finding_ok(finding, "%s, %s", agent, node);
}

/* Makes the directory as the runtime would, and a name in it. */
static void look_directory(const struct doctor *doctor, struct finding *finding)
{
	char path[PATH_MAX], probe[PATH_MAX + 32];
	int rc = places_run_dir(doctor->config.dir, path, sizeof(path));

	if (rc < 0) {
		finding_fail(
			finding, "give a shorter --dir", "run-time directory: %s", strerror(-rc));
		return;
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		finding_fail(finding, "give another --dir, or set XDG_RUNTIME_DIR", "%s: %s", path,
			strerror(errno));
		return;
	}
	snprintf(probe, sizeof(probe), "%s/doctor-XXXXXX", path);
	if (!mkdtemp(probe)) {
		finding_fail(finding, "give another --dir, or set XDG_RUNTIME_DIR", "%s: %s", path,
			strerror(errno));
		return;
	}
	rmdir(probe);
	finding_ok(finding, "%s is writable", path);
}

/* "h1:7400: connection refused; h2:7400: ..." */
static void list_silent(const struct survey *report, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < report->count && used < size; i++)
		if (report->nodes[i].status != 0)
			used += (size_t)snprintf(text + used, size - used, "%s%s: %s",
				used ? "; " : "", report->nodes[i].name, report->nodes[i].text);
}

static void look_nodes(const struct doctor *doctor, struct finding *finding)
{
	static struct survey report;
	const struct option_code wish = config_code(&doctor->config);
	struct option_code code;
	char silent[256];
	int rc;

	if (!doctor->config.nodes[0] || doctor->config_status < 0) {
		finding_ok(finding, "none given: embedded ones are started on this machine");
		return;
	}
	rc = survey_ask(&doctor->config, &report);
	if (rc < 0) {
		finding_fail(finding, "see the line", "cannot ask: %s", strerror(-rc));
		return;
	}
	list_silent(&report, silent, sizeof(silent));
	if (report.reachable == 0) {
		finding_fail(finding, "start farmem-memnode there, or mend --nodes",
			"none of %u answers: %s", report.count, silent);
		return;
	}
	code = survey_code(wish, report.hosts);
	config_fit_code(doctor->config.scheme, &code);
	if (report.reachable < report.count)
		finding_warn(finding, "start farmem-memnode there, or mend --nodes",
			"%u of %u answer, on %u hosts (code %u+%u): %s", report.reachable,
			report.count, report.hosts, code.k, code.m, silent);
	else if (code.k != wish.k || code.m != wish.m)
		finding_warn(finding, "give more hosts, or a narrower --ec",
			"%u nodes on %u hosts: %u+%u is used instead of %u+%u%s", report.count,
			report.hosts, code.k, code.m, wish.k, wish.m,
			code.m ? "" : ": NO REDUNDANCY");
	else
		finding_ok(finding, "%u nodes on %u hosts answer", report.count, report.hosts);
}

const struct doctor_check doctor_farmem_checks[] = {
	{"configuration", look_configuration},
	{"preload", look_preload},
	{"companions", look_companions},
	{"directory", look_directory},
	{"nodes", look_nodes},
	{NULL, NULL},
};
