/*
 * memnode/daemon_test.c: farmem-memnode as people and agents meet it: flags, errors, exit status,
 * signals.
 *
 * The daemon is found in the directory above this program (the top of the build tree).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/test.h"
#include "ec/ec.h"
#include "memnode/daemon_options.h"
#include "memnode/offload.h"
#include "rpc/ctl_memnode.h"
#include "rpc/ctl_merge.h"

#define ARGUMENTS_MAX 24
#define WAIT_MS 20000

struct daemon {
	pid_t pid;
	int output;       /* stdout and stderr */
	int owner, ready; /* our ends of its pipes, or -1 */
	char text[8192];
	size_t length;
};

static char scratch[PATH_MAX];

static const char *program(void)
{
	static char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof path - 32);
	CHECK(length > 0);
	path[length] = '\0';
	*strrchr(path, '/') = '\0';
	strncpy(strrchr(path, '/'), "/farmem-memnode", 20);
	return path;
}

/* A directory of this test's own, with a name below it. */
static const char *in_scratch(const char *name)
{
	static char path[PATH_MAX + 64];
	if (scratch[0] == '\0') {
		snprintf(scratch, sizeof scratch, "/tmp/farmem-daemon-test-XXXXXX");
		CHECK(mkdtemp(scratch) != NULL);
	}
	snprintf(path, sizeof path, "%s/%s", scratch, name);
	return path;
}

/* Starts it with the words of flags (split at spaces); --owner-fd 8 and --ready-fd 9 work. */
static void daemon_start(struct daemon *daemon, const char *flags)
{
	static char words[2048];
	char *argv[ARGUMENTS_MAX];
	int output[2], owner[2], ready[2];
	unsigned count = 0;
	posix_spawn_file_actions_t actions;
	memset(daemon, 0, sizeof *daemon);
	snprintf(words, sizeof words, "%s", flags);
	argv[count++] = (char *)(uintptr_t)program();
	for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
		argv[count++] = word;
	argv[count] = NULL;
	CHECK_EQ(pipe2(output, O_CLOEXEC), 0);
	CHECK_EQ(pipe2(owner, O_CLOEXEC), 0);
	CHECK_EQ(pipe2(ready, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, output[1], 1);
	posix_spawn_file_actions_adddup2(&actions, output[1], 2);
	int high_owner = fcntl(owner[0], F_DUPFD_CLOEXEC, 20);
	int high_ready = fcntl(ready[1], F_DUPFD_CLOEXEC, 20);
	posix_spawn_file_actions_adddup2(&actions, high_owner, 8);
	posix_spawn_file_actions_adddup2(&actions, high_ready, 9);
	CHECK_EQ(posix_spawn(&daemon->pid, argv[0], &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(output[1]);
	close(owner[0]);
	close(ready[1]);
	close(high_owner);
	close(high_ready);
	daemon->output = output[0];
	daemon->owner = owner[1];
	daemon->ready = ready[0];
}

/* Reads output until `word` is there or its end. */
static bool daemon_says(struct daemon *daemon, const char *word)
{
	while (strstr(daemon->text, word) == NULL) {
		struct pollfd poller = {.fd = daemon->output, .events = POLLIN};
		size_t room = sizeof daemon->text - 1 - daemon->length;
		if (room == 0 || poll(&poller, 1, WAIT_MS) != 1)
			return false;
		ssize_t got = read(daemon->output, daemon->text + daemon->length, room);
		if (got <= 0)
			return false;
		daemon->length += (size_t)got;
		daemon->text[daemon->length] = '\0';
	}
	return true;
}

/* Its exit status, or 1000 + signal. */
static int daemon_end(struct daemon *daemon)
{
	int status;
	(void)daemon_says(daemon, "\001never\001");
	CHECK_EQ(waitpid(daemon->pid, &status, 0), daemon->pid);
	close(daemon->output);
	close(daemon->ready);
	if (daemon->owner >= 0)
		close(daemon->owner);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static unsigned lines_in(const char *text)
{
	unsigned count = 0;
	for (; *text != '\0'; text++)
		count += *text == '\n';
	return count;
}

/* Refused: status, one line, with this in it. */
static void check_refused(const char *flags, int status, const char *word)
{
	struct daemon daemon;
	daemon_start(&daemon, flags);
	int is = daemon_end(&daemon);
	if (is != status || lines_in(daemon.text) != 1 || strstr(daemon.text, word) == NULL)
		printf("     %s\n     status %d: %s", flags, is, daemon.text);
	CHECK_EQ(is, status);
	CHECK_EQ(lines_in(daemon.text), 1);
	CHECK_CONTAINS(daemon.text, word);
	CHECK_CONTAINS(daemon.text, "farmem-memnode: ");
}

static int port_of(const struct daemon *daemon, const char *key)
{
	const char *at = strstr(daemon->text, key);
	CHECK(at != NULL);
	return atoi(strrchr(at, ':') > at ? strchr(at, ':') + 1 : at);
}

TEST(mistakes_of_the_user_are_one_line_and_status_2)
{
	check_refused("--nope", 2, "--nope");
	check_refused("stray", 2, "stray");
	check_refused("--listen", 2, "--listen");
	check_refused("--listen nowhere", 2, "nowhere");
	check_refused("--listen 127.0.0.1:99999", 2, "99999");
	check_refused("--listen ::1:7400", 2, "::1:7400");
	check_refused("--listen 127.0.0.1:65535", 2, "--data-listen");
	check_refused("--listen 127.0.0.1:7 --data-listen 127.0.0.1:7", 2, "two ports");
	check_refused("--memory 12parsecs", 2, "12parsecs");
	check_refused("--memory 900000G", 2, "this machine has");
	check_refused("--memory 101%", 2, "101%");
	check_refused("--memory 100", 2, "less than a page");
	check_refused("--memory 1M --client-quota 2M", 2, "--client-quota");
	check_refused("--threads 0", 2, "--threads");
	check_refused("--huge-pages maybe", 2, "maybe");
	check_refused("--orphan-keep yesterday", 2, "yesterday");
	check_refused("--name a\"b", 2, "--name");
	check_refused("--drain-grace soon", 2, "soon");
	check_refused("--offload-nice 20", 2, "--offload-nice");
	check_refused("--config /nonexistent/file", 2, "/nonexistent/file");
}

TEST(what_the_machine_does_not_allow_is_one_line_and_status_1)
{
	check_refused("--dir /nonexistent/dir", 1, "/nonexistent/dir");
	check_refused("--dir /dev/null", 1, "/dev/null");
	check_refused("--listen 192.0.2.1:0", 1, "192.0.2.1");
	check_refused("--listen no-such-host.invalid:0", 1, "no-such-host.invalid");
	check_refused("--listen 127.0.0.1:0 --ready-fd 99", 1, "--ready-fd 99");
	check_refused("--listen 127.0.0.1:0 --log /nonexistent/log", 1, "/nonexistent/log");
}

TEST(help_and_version_go_to_stdout_and_end_with_0)
{
	struct daemon daemon;
	daemon_start(&daemon, "--nope --help");
	CHECK_EQ(daemon_end(&daemon), 0);
	CHECK_CONTAINS(daemon.text, "--orphan-keep");
	daemon_start(&daemon, "--version");
	CHECK_EQ(daemon_end(&daemon), 0);
	CHECK_STR_EQ(daemon.text, "farmem-memnode " FM_VERSION "\n");
}

TEST(a_config_file_is_read_and_flags_win_over_it)
{
	struct daemon daemon;
	char flags[PATH_MAX + 100], path[PATH_MAX + 64];
	snprintf(path, sizeof path, "%s", in_scratch("config"));
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	dprintf(fd, "# a node\nname = from-file\nmemory = 5M\nlisten = 127.0.0.1:0\n");
	close(fd);
	snprintf(flags, sizeof flags, "--memory 6M --config %s", path);
	daemon_start(&daemon, flags);
	CHECK(daemon_says(&daemon, "\n"));
	CHECK_CONTAINS(daemon.text, "name=from-file");
	CHECK_CONTAINS(daemon.text, "memory_bytes=6291456");
	kill(daemon.pid, SIGTERM);
	CHECK_EQ(daemon_end(&daemon), 0);
	fd = open(path, O_WRONLY | O_APPEND);
	dprintf(fd, "momery = 5M\n");
	close(fd);
	check_refused(flags, 2, "momery");
	unlink(path);
}

static int stats_at(const char *address, struct ctl_stats *stats)
{
	struct ctl_client *client;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	int error = ctl_ask_stats(client, 10 * NS_PER_S, stats, NULL);
	ctl_client_close(client);
	return error;
}

TEST(it_serves_on_tcp_and_in_a_directory_and_sigterm_ends_it_cleanly)
{
	static const int signals[] = {SIGTERM, SIGINT};
	for (unsigned i = 0; i < 2; i++) {
		struct daemon daemon;
		struct ctl_stats by_tcp, by_unix;
		struct stat is;
		char flags[PATH_MAX + 200], address[PATH_MAX + 128], dir[PATH_MAX + 64], line[512];
		snprintf(dir, sizeof dir, "%s", in_scratch("both"));
		snprintf(flags, sizeof flags,
			"--listen 127.0.0.1:0 --dir %s --memory 10M --name n7 --host-id h7 "
			"--ready-fd 9",
			dir);
		daemon_start(&daemon, flags);
		ssize_t length = read(daemon.ready, line, sizeof line - 1);
		CHECK(length > 0);
		CHECK_EQ(read(daemon.ready, address, 1), 0); /* closed after the line */
		line[length] = '\0';
		CHECK(daemon_says(&daemon, "\n"));
		CHECK_STR_EQ(daemon.text, line);
		snprintf(address, sizeof address, "127.0.0.1:%d", port_of(&daemon, "ctl="));
		CHECK_EQ(stats_at(address, &by_tcp), 0);
		snprintf(address, sizeof address, "unix:%s/ctl.sock", dir);
		CHECK_EQ(stats_at(address, &by_unix), 0);
		CHECK_EQ(by_tcp.incarnation, by_unix.incarnation);
		CHECK_STR_EQ(by_tcp.name, "n7");
		CHECK_STR_EQ(by_tcp.host, "h7");
		CHECK_EQ(by_tcp.data_port, port_of(&daemon, "data="));
		CHECK_EQ(by_tcp.load.memory_bytes, 10 << 20);
		snprintf(address, sizeof address, "%s/data.sock", dir);
		CHECK_STR_EQ(by_tcp.data_path, address);
		CHECK_EQ(stat(address, &is), 0);
		CHECK_EQ(is.st_mode & 077, geteuid() == 0 ? 066 : 0); /* data_listen_unix */
		snprintf(address, sizeof address, "%s/ctl.sock", dir);
		CHECK_EQ(stat(address, &is), 0);
		CHECK_EQ(is.st_mode & 077, 0);
		kill(daemon.pid, signals[i]);
		CHECK_EQ(daemon_end(&daemon), 0);
		CHECK_EQ(lines_in(daemon.text), 1); /* nothing but the ready line */
		CHECK_NE(access(address, F_OK), 0);
	}
}

TEST(a_port_or_directory_in_use_is_an_error_and_leaves_its_owner_alone)
{
	struct daemon daemon;
	struct ctl_stats stats;
	char flags[PATH_MAX + 200], address[PATH_MAX + 128];
	snprintf(flags, sizeof flags, "--listen 127.0.0.1:0 --dir %s", in_scratch("used"));
	daemon_start(&daemon, flags);
	CHECK(daemon_says(&daemon, "\n"));
	int port = port_of(&daemon, "ctl=");
	snprintf(flags, sizeof flags, "--listen 127.0.0.1:%d --data-listen 127.0.0.1:0", port);
	check_refused(flags, 1, "in use");
	snprintf(flags, sizeof flags, "--listen 127.0.0.1:0 --data-listen 127.0.0.1:%d", port);
	check_refused(flags, 1, "in use");
	snprintf(flags, sizeof flags, "--dir %s", in_scratch("used"));
	check_refused(flags, 1, "another farmem-memnode");
	snprintf(address, sizeof address, "127.0.0.1:%d", port);
	CHECK_EQ(stats_at(address, &stats), 0);
	snprintf(address, sizeof address, "unix:%s/ctl.sock", in_scratch("used"));
	CHECK_EQ(stats_at(address, &stats), 0);
	kill(daemon.pid, SIGTERM);
	CHECK_EQ(daemon_end(&daemon), 0);
}

TEST(what_a_killed_daemon_left_behind_does_not_stop_the_next)
{
	struct daemon daemon;
	char flags[PATH_MAX + 200];
	snprintf(flags, sizeof flags, "--dir %s", in_scratch("again"));
	daemon_start(&daemon, flags);
	CHECK(daemon_says(&daemon, "\n"));
	kill(daemon.pid, SIGKILL);
	CHECK_EQ(daemon_end(&daemon), 1000 + SIGKILL);
	daemon_start(&daemon, flags);
	CHECK(daemon_says(&daemon, "ready"));
	kill(daemon.pid, SIGTERM);
	CHECK_EQ(daemon_end(&daemon), 0);
}

TEST(each_start_draws_another_incarnation)
{
	uint64_t seen[3];
	for (unsigned i = 0; i < 3; i++) {
		struct daemon daemon;
		daemon_start(&daemon, "--listen 127.0.0.1:0 --memory 1M");
		CHECK(daemon_says(&daemon, "\n"));
		const char *at = strstr(daemon.text, "incarnation=");
		CHECK(at != NULL);
		seen[i] = strtoull(at + 12, NULL, 16);
		CHECK_NE(seen[i], 0);
		for (unsigned j = 0; j < i; j++)
			CHECK_NE(seen[i], seen[j]);
		kill(daemon.pid, SIGTERM);
		CHECK_EQ(daemon_end(&daemon), 0);
	}
}

/* A lease of the daemon, by its control plane. */
static void reserve_at(const char *address, struct fabric_capability *capability)
{
	static const uint8_t id[CTL_CLIENT_BYTES] = {7};
	struct ctl_client *client;
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	CHECK_EQ(ctl_pack_reserve(id, 1 << 20, &packed), 0);
	struct ctl_request request = {
		CTL_METHOD_RESERVE, packed.bytes, packed.length, 10 * NS_PER_S};
	ctl_client_call(client, &request, &result);
	int error = ctl_unpack_reserve(&result, capability);
	ctl_packed_clear(&packed);
	ctl_result_clear(&result);
	ctl_client_close(client);
	CHECK_EQ(error, 0);
}

/* Gives the lease back. */
static void release_at(const char *address, const struct fabric_capability *capability)
{
	struct ctl_client *client;
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	CHECK_EQ(ctl_pack_leases(CTL_METHOD_RELEASE, capability, 1, &packed), 0);
	struct ctl_request request = {
		CTL_METHOD_RELEASE, packed.bytes, packed.length, 10 * NS_PER_S};
	CHECK_EQ(ctl_client_call(client, &request, &result), 0);
	ctl_packed_clear(&packed);
	ctl_result_clear(&result);
	ctl_client_close(client);
}

/* A daemon that has lent a region. */
static void lender_start(struct daemon *daemon, const char *flags, char address[64],
	struct fabric_capability *capability)
{
	daemon_start(daemon, flags);
	CHECK(daemon_says(daemon, "\n"));
	snprintf(address, 64, "127.0.0.1:%d", port_of(daemon, "ctl="));
	reserve_at(address, capability);
}

static void await_draining(const char *address)
{
	struct ctl_stats stats = {0};
	const uint64_t until_ns = clock_now_ns() + 10 * NS_PER_S;
	while (!stats.load.draining) {
		CHECK(clock_now_ns() < until_ns);
		CHECK_EQ(stats_at(address, &stats), 0);
	}
}

TEST(on_sigterm_it_waits_until_everything_lent_was_given_back)
{
	struct daemon daemon;
	struct fabric_capability first, second;
	struct ctl_stats stats;
	char address[64];
	lender_start(&daemon, "--listen 127.0.0.1:0 --memory 10M", address, &first);
	reserve_at(address, &second);
	CHECK_EQ(stats_at(address, &stats), 0);
	CHECK(!stats.load.draining);
	kill(daemon.pid, SIGTERM);
	await_draining(address);
	release_at(address, &first);
	struct pollfd poller = {.fd = daemon.output};
	CHECK_EQ(poll(&poller, 1, 500), 0); /* one region is still lent */
	CHECK_EQ(stats_at(address, &stats), 0);
	CHECK_EQ(stats.load.leases, 1);
	release_at(address, &second);
	const uint64_t before_ns = clock_now_ns();
	CHECK_EQ(daemon_end(&daemon), 0);
	CHECK(clock_now_ns() - before_ns < 5 * NS_PER_S);
}

TEST(a_drain_ends_with_its_grace_or_a_second_signal_and_sigint_never_waits)
{
	static const struct {
		const char *flags;
		int first, second;
	} cases[] = {
		{"--listen 127.0.0.1:0 --memory 10M", SIGTERM, SIGTERM},
		{"--listen 127.0.0.1:0 --memory 10M", SIGTERM, SIGINT},
		{"--listen 127.0.0.1:0 --memory 10M", SIGINT, 0},
		{"--listen 127.0.0.1:0 --memory 10M --drain-grace 0s", SIGTERM, 0},
		{"--listen 127.0.0.1:0 --memory 10M --drain-grace 700ms", SIGTERM, 0},
	};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(cases); i++) {
		struct daemon daemon;
		struct fabric_capability capability;
		char address[64];
		lender_start(&daemon, cases[i].flags, address, &capability);
		const uint64_t before_ns = clock_now_ns();
		kill(daemon.pid, cases[i].first);
		if (cases[i].second != 0) {
			await_draining(address);
			kill(daemon.pid, cases[i].second);
		}
		CHECK_EQ(daemon_end(&daemon), 0);
		const uint64_t took_ns = clock_now_ns() - before_ns;
		CHECK(took_ns < 10 * NS_PER_S);
		CHECK(strstr(cases[i].flags, "700ms") == NULL || took_ns >= 700 * NS_PER_MS);
	}
}

/* How long one read takes. */
static uint64_t read_ns(struct fabric_queue *queue, struct fabric_region *region)
{
	static uint8_t page[4096];
	struct iovec iov = {page, sizeof page};
	struct fabric_completion done;
	const uint64_t before_ns = clock_now_ns();
	struct fabric_transfer transfer = {
		.iov = &iov, .iov_count = 1, .deadline_ns = before_ns + 10 * NS_PER_S};
	CHECK_EQ(fabric_post_read(region, &transfer), 0);
	CHECK_EQ(fabric_wait(queue, &done, 1, transfer.deadline_ns), 1);
	CHECK_EQ(done.status, 0);
	return clock_now_ns() - before_ns;
}

TEST(a_node_made_slow_for_tests_is_slow_on_tcp)
{
	static const struct fabric_queue_options options = {.depth = 4};
	struct daemon daemon;
	struct fabric_capability capability;
	struct fabric_queue *queue;
	struct fabric_region *region;
	char address[64];
	setenv("FARMEM_SLOW_READS", "20ms", 1);
	lender_start(&daemon, "--listen 127.0.0.1:0 --memory 10M", address, &capability);
	snprintf(address, sizeof address, "tcp:127.0.0.1:%d", port_of(&daemon, "data="));
	CHECK_EQ(fabric_queue_open(&options, &queue), 0);
	CHECK_EQ(fabric_attach(queue, address, &capability, clock_now_ns() + 5 * NS_PER_S, &region),
		0);
	for (unsigned i = 0; i < 3; i++)
		CHECK(read_ns(queue, region) >= 20 * NS_PER_MS);
	fabric_queue_close(queue);
	kill(daemon.pid, SIGINT);
	CHECK_EQ(daemon_end(&daemon), 0);
	setenv("FARMEM_SLOW_READS", "a while", 1);
	check_refused("--listen 127.0.0.1:0", 2, "a while");
	setenv("FARMEM_SLOW_READS", "2s", 1);
	check_refused("--listen 127.0.0.1:0", 2, "at most 1s");
	unsetenv("FARMEM_SLOW_READS");
}

/* ---- a node that works for its clients ---- */

#define PAGES 256u

struct copying {
	struct daemon source, target;
	char source_ctl[64], target_ctl[64];
	struct fabric_capability from, to;
	struct ctl_piece pieces[PAGES * 2];
	struct ctl_rebuild request;
};

static void fill(
	const char *endpoint, const struct fabric_capability *capability, struct ctl_piece *pieces)
{
	static const struct fabric_queue_options options = {.depth = 4};
	struct fabric_queue *queue;
	struct fabric_region *region;
	uint8_t page[4096];
	CHECK_EQ(fabric_queue_open(&options, &queue), 0);
	CHECK_EQ(fabric_attach(queue, endpoint, capability, clock_now_ns() + 5 * NS_PER_S, &region),
		0);
	for (uint32_t i = 0; i < PAGES; i++) {
		struct iovec iov = {page, sizeof page};
		struct fabric_completion done;
		struct fabric_transfer transfer = {.offset = i * 4096,
			.iov = &iov,
			.iov_count = 1,
			.deadline_ns = clock_now_ns() + 10 * NS_PER_S};
		memset(page, (int)i + 1, sizeof page);
		CHECK_EQ(fabric_post_write(region, &transfer), 0);
		CHECK_EQ(fabric_wait(queue, &done, 1, transfer.deadline_ns), 1);
		CHECK_EQ(done.status, 0);
		pieces[2 * i] = pieces[2 * i + 1] =
			(struct ctl_piece){i, crc32c(page, sizeof page)};
	}
	fabric_queue_close(queue);
}

/* One daemon with bytes, another with a region of the same size. */
static void copying_open(struct copying *copying)
{
	static const char flags[] = "--listen 127.0.0.1:0 --memory 10M";
	struct ctl_rebuild *request = &copying->request;
	lender_start(&copying->source, flags, copying->source_ctl, &copying->from);
	lender_start(&copying->target, flags, copying->target_ctl, &copying->to);
	*request = (struct ctl_rebuild){.target = copying->to,
		.position = 5,
		.k = 4,
		.m = 2,
		.sources_count = 1,
		.count = PAGES,
		.pieces = copying->pieces};
	request->sources[0].position = 5;
	request->sources[0].capability = copying->from;
	snprintf(request->sources[0].endpoint, FABRIC_ENDPOINT_MAX, "tcp:127.0.0.1:%d",
		port_of(&copying->source, "data="));
	fill(request->sources[0].endpoint, &copying->from, copying->pieces);
}

static void copying_close(struct copying *copying)
{
	kill(copying->source.pid, SIGINT);
	CHECK_EQ(daemon_end(&copying->source), 0);
	kill(copying->target.pid, SIGINT);
	CHECK_EQ(daemon_end(&copying->target), 0);
}

static int ask_at(const char *address, const char *method, struct ctl_packed *packed,
	struct ctl_result *result)
{
	struct ctl_client *client;
	CHECK_EQ(ctl_client_open(address, &client), 0);
	struct ctl_request call = {method, packed->bytes, packed->length, 2 * CTL_REBUILD_NS};
	int error = ctl_client_call(client, &call, result);
	ctl_packed_clear(packed);
	ctl_client_close(client);
	return error;
}

static int rebuild_at(
	const char *address, const struct ctl_rebuild *request, struct ctl_rebuilt *rebuilt)
{
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ctl_pack_rebuild(request, &packed), 0);
	ask_at(address, CTL_METHOD_REBUILD, &packed, &result);
	int error = ctl_unpack_rebuild(&result, request, rebuilt);
	ctl_result_clear(&result);
	return error;
}

static int checksum_at(const char *address, const struct fabric_capability *capability,
	unsigned count, uint32_t *crcs)
{
	static uint32_t slots[PAGES];
	struct ctl_packed packed;
	struct ctl_result result;
	for (uint32_t i = 0; i < count; i++)
		slots[i] = i;
	CHECK_EQ(ctl_pack_checksum(capability, slots, count, &packed), 0);
	ask_at(address, CTL_METHOD_CHECKSUM, &packed, &result);
	int error = ctl_unpack_checksum(&result, count, crcs);
	ctl_result_clear(&result);
	return error;
}

TEST(one_daemon_copies_a_region_from_another_and_its_checksums_say_so)
{
	static struct copying copying;
	static struct ctl_rebuilt rebuilt;
	static uint32_t crcs[PAGES];
	copying_open(&copying);
	CHECK_EQ(rebuild_at(copying.target_ctl, &copying.request, &rebuilt), 0);
	for (uint32_t i = 0; i < PAGES; i++)
		CHECK_EQ(rebuilt.outcomes[i], CTL_REBUILD_DONE);
	CHECK_EQ(checksum_at(copying.target_ctl, &copying.to, PAGES, crcs), 0);
	for (uint32_t i = 0; i < PAGES; i++)
		CHECK_EQ(crcs[i], copying.pieces[2 * i].crc);
	copying.request.k = 17;
	CHECK_EQ(rebuild_at(copying.target_ctl, &copying.request, &rebuilt), -EINVAL);
	copying.request.k = 4;
	copying.request.target.key[0] ^= 1;
	CHECK_EQ(rebuild_at(copying.target_ctl, &copying.request, &rebuilt), -EACCES);
	copying_close(&copying);
}

/* Pairs of the source's pages i and i + MERGES; the target's page i, zeros, is their parity. */
#define MERGES 100u

static void merge_begin_at(struct copying *copying)
{
	static const uint8_t zeros[4096];
	static struct ctl_merge_pair pairs[MERGES];
	struct ctl_merge_begin begin = {.txid = 1,
		.target = copying->to,
		.position = 5,
		.k = 4,
		.m = 2,
		.count = MERGES,
		.pairs = pairs};
	struct ctl_packed packed;
	struct ctl_result result;
	for (uint32_t i = 0; i < MERGES; i++)
		pairs[i] = (struct ctl_merge_pair){i, crc32c(zeros, 4096), i + MERGES, 1u << 2};
	CHECK_EQ(ctl_pack_merge_begin(&begin, &packed), 0);
	CHECK_EQ(ask_at(copying->target_ctl, CTL_METHOD_MERGE_BEGIN, &packed, &result), 0);
	ctl_result_clear(&result);
}

static void merge_send_at(struct copying *copying)
{
	static struct ctl_merge_piece pieces[MERGES];
	struct ctl_merge_sent sent;
	struct ctl_merge_send send = {.txid = 1,
		.source = copying->from,
		.position = 2,
		.k = 4,
		.m = 2,
		.targets_count = 1,
		.targets = {{.capability = copying->to, .position = 5}},
		.count = MERGES,
		.pieces = pieces};
	struct ctl_packed packed;
	struct ctl_result result;
	for (uint32_t i = 0; i < MERGES; i++)
		pieces[i] = (struct ctl_merge_piece){i, i, copying->pieces[2 * i].crc, i + MERGES,
			copying->pieces[2 * (i + MERGES)].crc};
	memcpy(send.targets[0].address, copying->target_ctl, sizeof copying->target_ctl);
	CHECK_EQ(ctl_pack_merge_send(&send, &packed), 0);
	ask_at(copying->source_ctl, CTL_METHOD_MERGE_SEND, &packed, &result);
	CHECK_EQ(ctl_unpack_merge_sent(&result, &send, &sent), 0);
	CHECK_EQ(sent.target_status[0], 0);
	for (uint32_t i = 0; i < MERGES; i++)
		CHECK_EQ(sent.outcomes[i], CTL_MERGE_DONE);
	ctl_result_clear(&result);
}

TEST(one_daemon_sends_partial_parities_to_another_which_makes_a_parity_of_them)
{
	static struct copying copying;
	static struct ctl_merge_prepared prepared;
	static uint32_t crcs[PAGES];
	uint8_t delta[4096], parity[4096];
	struct ec_code code;
	struct ctl_stats stats;
	struct ctl_packed packed;
	struct ctl_result result;
	CHECK_EQ(ec_code_init(&code, 4, 2), 0);
	copying_open(&copying);
	merge_begin_at(&copying);
	merge_send_at(&copying);
	CHECK_EQ(stats_at(copying.target_ctl, &stats), 0);
	CHECK_EQ(stats.load.merges, 1);
	CHECK_EQ(stats_at(copying.source_ctl, &stats), 0);
	CHECK_EQ(stats.load.merge_sent_bytes, MERGES * 4096);
	CHECK_EQ(ctl_pack_merge_prepare(1, &copying.to, &packed), 0);
	ask_at(copying.target_ctl, CTL_METHOD_MERGE_PREPARE, &packed, &result);
	CHECK_EQ(ctl_unpack_merge_prepared(&result, MERGES, &prepared), 0);
	ctl_result_clear(&result);
	CHECK_EQ(checksum_at(copying.target_ctl, &copying.to, PAGES, crcs), 0);
	for (uint32_t i = 0; i < MERGES; i++) {
		memset(delta, (int)((i + 1) ^ (i + MERGES + 1)), sizeof delta);
		ec_partial(&code, 4096, 2, 1, delta, parity);
		CHECK_EQ(crcs[i + MERGES], crc32c(parity, 4096));
		CHECK_EQ(prepared.crcs[i], crcs[i + MERGES]);
	}
	CHECK_EQ(ctl_pack_merge_end(1, &copying.to, true, &packed), 0);
	CHECK_EQ(ask_at(copying.target_ctl, CTL_METHOD_MERGE_END, &packed, &result), 0);
	ctl_result_clear(&result);
	CHECK_EQ(stats_at(copying.target_ctl, &stats), 0);
	CHECK_EQ(stats.load.merges, 0);
	copying_close(&copying);
}

static struct copying slow_copying;

static void *slow_main(void *argument)
{
	static struct ctl_rebuilt rebuilt[OFFLOAD_CALLS_MAX];
	int *error = argument;
	struct ctl_rebuilt *mine = &rebuilt[*error];
	*error = rebuild_at(slow_copying.target_ctl, &slow_copying.request, mine);
	/* A node that ends may still get an answer out: then it says what was not done. */
	for (uint32_t i = 0; *error == 0 && i < PAGES; i++)
		if (mine->outcomes[i] != CTL_REBUILD_DONE)
			*error = -EINTR;
	return NULL;
}

TEST(a_daemon_busy_with_rebuilds_still_hears_its_clients_and_ends_when_told_to)
{
	static struct ctl_rebuilt rebuilt;
	struct ctl_stats stats = {0};
	pthread_t threads[OFFLOAD_CALLS_MAX];
	int errors[OFFLOAD_CALLS_MAX];
	copying_open(&slow_copying);
	slow_copying.request.rate_bytes_per_s = PAGES * 4096 / 20; /* 20 s */
	for (unsigned i = 0; i < OFFLOAD_CALLS_MAX; i++) {
		errors[i] = (int)i;
		CHECK_EQ(pthread_create(&threads[i], NULL, slow_main, &errors[i]), 0);
	}
	const uint64_t begin_ns = clock_now_ns();
	while (stats.load.rebuilds < OFFLOAD_CALLS_MAX) {
		CHECK(clock_now_ns() < begin_ns + 10 * NS_PER_S);
		CHECK_EQ(stats_at(slow_copying.target_ctl, &stats), 0);
	}
	CHECK_EQ(rebuild_at(slow_copying.target_ctl, &slow_copying.request, &rebuilt), -ENOMEM);
	for (unsigned i = 0; i < 20; i++) {
		const uint64_t before_ns = clock_now_ns();
		CHECK_EQ(stats_at(slow_copying.target_ctl, &stats), 0);
		CHECK(clock_now_ns() - before_ns < 3 * NS_PER_S);
	}
	const uint64_t before_ns = clock_now_ns();
	copying_close(&slow_copying);
	CHECK(clock_now_ns() - before_ns < 8 * NS_PER_S);
	for (unsigned i = 0; i < OFFLOAD_CALLS_MAX; i++) {
		pthread_join(threads[i], NULL);
		CHECK_NE(errors[i], 0);
	}
}

TEST(without_its_owner_it_ends_once_no_client_has_been_there_for_ten_seconds)
{
	struct daemon daemon;
	char flags[PATH_MAX + 200], address[PATH_MAX + 128];
	struct fabric_capability capability;
	struct fabric_queue *queue;
	struct fabric_region *region;
	struct fabric_queue_options options = {.depth = 4};
	snprintf(flags, sizeof flags, "--dir %s --owner-fd 8 --keepalive 5s", in_scratch("owned"));
	daemon_start(&daemon, flags);
	CHECK(daemon_says(&daemon, "\n"));
	snprintf(address, sizeof address, "unix:%s/ctl.sock", in_scratch("owned"));
	reserve_at(address, &capability);
	snprintf(address, sizeof address, "shm:%s/data.sock", in_scratch("owned"));
	CHECK_EQ(fabric_queue_open(&options, &queue), 0);
	CHECK_EQ(fabric_attach(queue, address, &capability, clock_now_ns() + 5 * NS_PER_S, &region),
		0);
	close(daemon.owner);
	daemon.owner = -1;
	struct pollfd poller = {.fd = daemon.output};
	CHECK_EQ(poll(&poller, 1, 12000), 0); /* a client holds it */
	fabric_detach(region);
	fabric_queue_close(queue);
	uint64_t before_ns = clock_now_ns();
	CHECK_EQ(daemon_end(&daemon), 0);
	uint64_t took_ns = clock_now_ns() - before_ns;
	CHECK(took_ns >= 9 * NS_PER_S && took_ns < 16 * NS_PER_S);
}

TEST(addresses_are_taken_apart)
{
	char host[DAEMON_ADDRESS_BYTES];
	uint16_t port;
	CHECK_EQ(daemon_address_split("h1:7400", host, &port), 0);
	CHECK_STR_EQ(host, "h1");
	CHECK_EQ(port, 7400);
	CHECK_EQ(daemon_address_split("[::1]:0", host, &port), 0);
	CHECK_STR_EQ(host, "::1");
	CHECK_EQ(port, 0);
	static const char *const wrong[] = {
		"", ":", ":1", "h1", "h1:", "h1:x", "h1:-1", "h1:65536", "::1:5", "[]:5", "h1:1 "};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(wrong); i++)
		CHECK_EQ(daemon_address_split(wrong[i], host, &port), -EINVAL);
}

TEST(the_scratch_directory_is_clean)
{
	static const char *const names[] = {"both", "used", "again", "owned"};
	char path[PATH_MAX + 64];
	for (unsigned i = 0; i < FM_ARRAY_COUNT(names); i++) {
		snprintf(path, sizeof path, "%s/lock", in_scratch(names[i]));
		unlink(path);
		rmdir(in_scratch(names[i]));
	}
	CHECK_EQ(rmdir(scratch), 0);
}
