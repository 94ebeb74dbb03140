/*
 * apps/redis_load.c: farmem-redis-load: fills a redis server with values whose every byte can be
 * checked, loads it with reads and writes that are all checked, and reads everything back. Used by
 * ci/demo and tests/e2e.
 *
 * One thread, C connections, up to P commands in flight on each, closed loop. Latency is from
 * queueing a command to having parsed its answer. Standard output gets a line at the start of each
 * phase, one a second while it runs (scripts use them as their clock) and the result; --csv FILE
 * gets a row per 100 ms.
 *
 * Exit 0: every byte was right. 1: a wrong, missing or unanswered value, an error reply, a lost
 * connection. 2: the user's mistake.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "apps/redis_load.h"
#include "base/clock.h"

#define WINDOW_NS (100 * NS_PER_MS)
#define TICK_MS 20 /* longest sleep, so that windows close on time */
#define KEYS_MAX 1000000000ull
#define WRONG_SHOWN_MAX 10             /* lines about wrong values */
#define U(x) ((unsigned long long)(x)) /* for %llu */

enum phase { PHASE_FILL, PHASE_LOAD, PHASE_VERIFY };
static const char *const phase_names[] = {"fill", "load", "verify"};

struct load_options {
	struct redis_address address;
	uint64_t keys, value_bytes, connections, pipeline, seed, set_percent;
	uint64_t load_ns, wait_ns, timeout_ns;
	char phases[128];
	char csv[256];
};

struct counts {
	uint64_t ops, errors;
	uint64_t verdicts[VALUE_VERDICTS];
};

struct load {
	struct load_options options;
	struct connection *connections;
	uint32_t *versions; /* by key: what the last SET queued stores; 0: nothing yet */
	int epoll;
	FILE *csv;
	enum phase phase;
	uint64_t started_ns, phase_started_ns, window_end_ns, second_end_ns, progress_ns;
	struct counts all, phase_counts, window, second;
	struct hist phase_hist, window_hist, second_hist;
	uint64_t shown;
	bool failed;
};

#define FLAG(flag, kind, field, rest...)                                                           \
	{                                                                                          \
		.name = flag, .type = kind, .offset = offsetof(struct load_options, field),        \
		.flag_only = true, rest                                                            \
	}

static const struct option_spec load_specs[] = {
	FLAG("host", OPTION_STRING, address.host, .size = 256, .value = "127.0.0.1",
		.argument = "HOST", .help = "where redis listens"),
	FLAG("port", OPTION_COUNT, address.port, .min = 1, .max = 65535, .value = "6379",
		.argument = "PORT", .help = "its port"),
	FLAG("socket", OPTION_STRING, address.socket, .size = 108, .argument = "PATH",
		.help = "its unix socket, instead of host and port"),
	FLAG("keys", OPTION_COUNT, keys, .min = 1, .max = KEYS_MAX, .value = "100000",
		.argument = "COUNT", .help = "number of keys"),
	FLAG("value-size", OPTION_SIZE, value_bytes, .min = VALUE_BYTES_MIN, .max = VALUE_BYTES_MAX,
		.value = "1024", .argument = "SIZE", .help = "bytes of each value"),
	FLAG("connections", OPTION_COUNT, connections, .min = 1, .max = CONNECTIONS_MAX,
		.value = "16", .argument = "COUNT", .help = "connections"),
	FLAG("pipeline", OPTION_COUNT, pipeline, .min = 1, .max = PIPELINE_MAX, .value = "4",
		.argument = "COUNT", .help = "commands in flight on each"),
	FLAG("set-percent", OPTION_COUNT, set_percent, .min = 0, .max = 100, .value = "20",
		.argument = "PERCENT", .help = "share of writes in the load phase"),
	FLAG("duration", OPTION_DURATION, load_ns, .value = "10s", .argument = "TIME",
		.help = "length of the load phase"),
	FLAG("phases", OPTION_STRING, phases, .size = 128, .value = "fill,load,verify",
		.argument = "LIST",
		.help = "what to do, in this order: fill, load, verify; without a fill the keys\n"
			"must be as a fill with the same seed left them"),
	FLAG("seed", OPTION_COUNT, seed, .value = "1", .argument = "NUMBER",
		.help = "decides contents and order"),
	FLAG("wait", OPTION_DURATION, wait_ns, .value = "10s", .argument = "TIME",
		.help = "how long the server may take to accept the first connection"),
	FLAG("timeout", OPTION_DURATION, timeout_ns, .value = "30s", .argument = "TIME",
		.help = "no answer at all for this long is a failure"),
	FLAG("csv", OPTION_STRING, csv, .size = 256, .argument = "FILE",
		.help = "a row per 100 ms: phase, times, ops, latencies, errors, wrong values"),
};

static uint64_t unix_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t counts_wrong(const struct counts *counts)
{
	uint64_t wrong = 0;

	for (unsigned verdict = VALUE_RIGHT + 1; verdict < VALUE_VERDICTS; verdict++)
		wrong += counts->verdicts[verdict];
	return wrong;
}

/* --- samples -----------------------------------------------------------------------------------
 */

static double quantile_us(const struct hist *hist, double q)
{
	return (double)hist_quantile(hist, q) / 1e3;
}

static void window_close(struct load *load)
{
	const struct hist *hist = &load->window_hist;

	if (load->csv)
		fprintf(load->csv, "%s,%llu,%llu,%llu,%.1f,%.1f,%.1f,%llu,%llu\n",
			phase_names[load->phase],
			U((load->window_end_ns - load->started_ns) / NS_PER_MS), U(unix_ms()),
			U(load->window.ops), quantile_us(hist, 0.5), quantile_us(hist, 0.99),
			quantile_us(hist, 1), U(load->window.errors),
			U(counts_wrong(&load->window)));
	load->window = (struct counts){0};
	hist_reset(&load->window_hist);
}

static void second_close(struct load *load)
{
	printf("%s %llu s: %llu ops/s, p50 %.0f us, p99 %.0f us, errors %llu, wrong %llu\n",
		phase_names[load->phase],
		U((load->second_end_ns - load->phase_started_ns) / NS_PER_S), U(load->second.ops),
		quantile_us(&load->second_hist, 0.5), quantile_us(&load->second_hist, 0.99),
		U(load->second.errors), U(counts_wrong(&load->second)));
	load->second = (struct counts){0};
	hist_reset(&load->second_hist);
}

/* Closes every window that has ended; a stall leaves windows with no operations, not one long
 * window. */
static void samples_advance(struct load *load, uint64_t now_ns)
{
	while (now_ns >= load->window_end_ns) {
		window_close(load);
		load->window_end_ns += WINDOW_NS;
	}
	while (now_ns >= load->second_end_ns) {
		second_close(load);
		load->second_end_ns += NS_PER_S;
	}
}

static void sample_add(struct load *load, uint64_t latency_ns)
{
	hist_record(&load->phase_hist, latency_ns);
	hist_record(&load->window_hist, latency_ns);
	hist_record(&load->second_hist, latency_ns);
	load->all.ops++;
	load->phase_counts.ops++;
	load->window.ops++;
	load->second.ops++;
}

/* --- judging answers ---------------------------------------------------------------------------
 */

static void count_error(struct load *load)
{
	load->all.errors++;
	load->phase_counts.errors++;
	load->window.errors++;
	load->second.errors++;
	load->failed = true;
}

static void count_verdict(struct load *load, enum value_verdict verdict)
{
	load->all.verdicts[verdict]++;
	load->phase_counts.verdicts[verdict]++;
	load->window.verdicts[verdict]++;
	load->second.verdicts[verdict]++;
	if (verdict != VALUE_RIGHT)
		load->failed = true;
}

static void show(struct load *load, const struct pending *pending, const char *what, size_t length,
	const char *text)
{
	if (load->shown++ < WRONG_SHOWN_MAX)
		printf("%s: key %llu version %llu: %s%s%.*s\n", phase_names[load->phase],
			U(pending->key), U(pending->version), what, length ? ": " : "", (int)length,
			text);
}

static void judge(struct load *load, const struct reply *reply, const struct pending *pending)
{
	enum value_verdict verdict = VALUE_MISSING;

	if (reply->kind == REPLY_ERROR || (reply->kind == REPLY_BULK) == pending->is_set) {
		if (reply->kind != REPLY_NIL || pending->is_set) {
			count_error(load);
			show(load, pending, "error reply", FM_MIN(reply->length, 200ul),
				(const char *)reply->text);
			return;
		}
	}
	if (pending->is_set)
		return;
	if (reply->kind == REPLY_BULK)
		verdict = reply->length != load->options.value_bytes
				  ? VALUE_SHORT
				  : value_check(reply->text, reply->length, load->options.seed,
					    pending->key, pending->version);
	count_verdict(load, verdict);
	if (verdict != VALUE_RIGHT)
		show(load, pending, value_verdict_name(verdict), 0, "");
}

/* --- the loop ----------------------------------------------------------------------------------
 */

static uint64_t random_next(struct connection *c)
{
	/* xorshift64*: the state is never zero. */
	c->random ^= c->random >> 12;
	c->random ^= c->random << 25;
	c->random ^= c->random >> 27;
	return c->random * 0x2545f4914f6cdd1dull;
}

/* Queues the next command of the phase. False when this connection has none left. */
static bool command_next(struct load *load, struct connection *c, bool load_over)
{
	const struct load_options *o = &load->options;
	uint64_t key = c->cursor;

	if (load->phase == PHASE_LOAD) {
		uint64_t mine = (o->keys - c->index + o->connections - 1) / o->connections;
		uint64_t draw = random_next(c);

		if (load_over)
			return false;
		key = c->index + (draw >> 16) % mine * o->connections;
		if (draw % 100 < o->set_percent)
			connection_set(c, key, ++load->versions[key], o->seed, o->value_bytes);
		else
			connection_get(c, key, load->versions[key]);
		return true;
	}
	if (key >= o->keys)
		return false;
	c->cursor += o->connections;
	if (load->phase == PHASE_FILL)
		connection_set(c, key, ++load->versions[key], o->seed, o->value_bytes);
	else
		connection_get(c, key, load->versions[key]);
	return true;
}

/* 0, or -errno when the connection is gone or talks nonsense. */
static int connection_answers(struct load *load, struct connection *c)
{
	struct pending pending;
	struct reply reply;
	int rc = connection_fill(c);

	while (connection_take(c, &reply, &pending)) {
		uint64_t now_ns = clock_now_ns();

		load->progress_ns = now_ns;
		samples_advance(load, now_ns);
		sample_add(load, now_ns - pending.sent_ns);
		judge(load, &reply, &pending);
	}
	return reply.kind == REPLY_BROKEN ? -EPROTO : rc;
}

static int connection_commands(struct load *load, struct connection *c, bool load_over)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
	int rc;

	while (connection_has_room(c, (uint32_t)load->options.pipeline) &&
		command_next(load, c, load_over))
		;
	rc = connection_flush(c);
	if (rc < 0)
		return rc;
	if (c->out_end > 0)
		event.events |= EPOLLOUT;
	return epoll_ctl(load->epoll, EPOLL_CTL_MOD, c->fd, &event) < 0 ? -errno : 0;
}

static uint64_t in_flight(const struct load *load)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < load->options.connections; i++)
		count += load->connections[i].pending_count;
	return count;
}

/* Runs until no command is left and all are answered. 0 or -errno. */
static int phase_loop(struct load *load)
{
	struct epoll_event events[CONNECTIONS_MAX];
	uint64_t end_ns = load->phase_started_ns + load->options.load_ns;
	bool load_over = false;
	int count, rc = 0;

	for (uint64_t i = 0; i < load->options.connections && rc == 0; i++)
		rc = connection_commands(load, &load->connections[i], false);
	while (rc == 0 && in_flight(load) > 0) {
		count = epoll_wait(load->epoll, events, CONNECTIONS_MAX, TICK_MS);
		load_over = load->phase == PHASE_LOAD && clock_now_ns() >= end_ns;
		for (int i = 0; i < count && rc == 0; i++) {
			rc = connection_answers(load, events[i].data.ptr);
			if (rc == 0)
				rc = connection_commands(load, events[i].data.ptr, load_over);
		}
		samples_advance(load, clock_now_ns());
		if (clock_now_ns() - load->progress_ns > load->options.timeout_ns)
			rc = -ETIMEDOUT;
	}
	return rc;
}

static void phase_begin(struct load *load, enum phase phase)
{
	const struct load_options *o = &load->options;
	char size[32], time[32];

	load->phase = phase;
	load->phase_counts = load->window = load->second = (struct counts){0};
	hist_reset(&load->phase_hist);
	hist_reset(&load->window_hist);
	hist_reset(&load->second_hist);
	for (uint64_t i = 0; i < o->connections; i++)
		load->connections[i].cursor = i;
	format_bytes(o->keys * o->value_bytes, size, sizeof(size));
	format_duration(o->load_ns, time, sizeof(time));
	if (phase == PHASE_LOAD)
		printf("load: begins: %s, %llu%% writes\n", time, U(o->set_percent));
	else
		printf("%s: begins: %llu keys, %s\n", phase_names[phase], U(o->keys), size);
	load->phase_started_ns = load->progress_ns = clock_now_ns();
	load->window_end_ns = load->phase_started_ns + WINDOW_NS;
	load->second_end_ns = load->phase_started_ns + NS_PER_S;
}

static int phase_run(struct load *load, enum phase phase)
{
	double seconds;
	int rc;

	phase_begin(load, phase);
	rc = phase_loop(load);
	seconds = (double)(clock_now_ns() - load->phase_started_ns) / 1e9;
	printf("%s: ends: %llu ops in %.2f s, %.0f ops/s, p50 %.0f us, p99 %.0f us, max %.0f us, "
	       "errors %llu, wrong %llu\n",
		phase_names[phase], U(load->phase_counts.ops), seconds,
		(double)load->phase_counts.ops / seconds, quantile_us(&load->phase_hist, 0.5),
		quantile_us(&load->phase_hist, 0.99), quantile_us(&load->phase_hist, 1),
		U(load->phase_counts.errors), U(counts_wrong(&load->phase_counts)));
	if (rc == 0)
		return 0;
	printf("%s: stopped: %s; %llu commands without an answer\n", phase_names[phase],
		rc == -ETIMEDOUT ? "no answer in time" : strerror(-rc), U(in_flight(load)));
	load->failed = true;
	return rc;
}

/* --- start -------------------------------------------------------------------------------------
 */

/* The next word of the list as a phase; -ENODATA at its end, -EINVAL. *list moves on. */
static int phase_parse(const char **list)
{
	size_t length = strcspn(*list, ",");
	const char *word = *list;

	if (length == 0)
		return **list ? -EINVAL : -ENODATA;
	*list += length + (word[length] == ',');
	for (int phase = 0; phase < (int)FM_ARRAY_COUNT(phase_names); phase++)
		if (strlen(phase_names[phase]) == length &&
			memcmp(phase_names[phase], word, length) == 0)
			return phase;
	return -EINVAL;
}

static int options_check(const struct load_options *o)
{
	const char *list = o->phases;
	int rc = phase_parse(&list);

	if (o->connections > o->keys) {
		fprintf(stderr, "farmem-redis-load: more connections than keys\n");
		return -EINVAL;
	}
	while (rc >= 0)
		rc = phase_parse(&list);
	if (rc == -EINVAL)
		fprintf(stderr,
			"farmem-redis-load: --phases: a list of fill, load, verify, not '%s'\n",
			o->phases);
	return rc == -ENODATA ? 0 : rc;
}

static int load_open(struct load *load)
{
	const struct load_options *o = &load->options;
	int rc = 0;

	load->connections = calloc(o->connections, sizeof(*load->connections));
	load->versions = calloc(o->keys, sizeof(*load->versions));
	load->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!load->connections || !load->versions || load->epoll < 0)
		return -ENOMEM;
	/* Without a fill phase the keys hold what an earlier fill stored: version 1. */
	if (strncmp(o->phases, "fill", 4) != 0)
		for (uint64_t key = 0; key < o->keys; key++)
			load->versions[key] = 1;
	load->started_ns = clock_now_ns();
	for (uint64_t i = 0; i < o->connections && rc == 0; i++) {
		struct connection *c = &load->connections[i];
		struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

		c->index = (uint32_t)i;
		c->random = (o->seed + i + 1) * 0x9e3779b97f4a7c15ull | 1;
		rc = connection_open(c, &o->address, o->value_bytes, load->started_ns + o->wait_ns);
		if (rc == 0 && epoll_ctl(load->epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
			rc = -errno;
	}
	return rc;
}

static void load_close(struct load *load)
{
	for (uint64_t i = 0; load->connections && i < load->options.connections; i++)
		connection_close(&load->connections[i]);
	free(load->connections);
	free(load->versions);
	if (load->epoll >= 0)
		close(load->epoll);
	if (load->csv)
		fclose(load->csv);
}

static void result_print(const struct load *load)
{
	const struct counts *all = &load->all;

	printf("result: %s: %llu ops, %llu values right", load->failed ? "FAILED" : "ok",
		U(all->ops), U(all->verdicts[VALUE_RIGHT]));
	for (unsigned verdict = VALUE_RIGHT + 1; verdict < VALUE_VERDICTS; verdict++)
		printf(", %llu %s", U(all->verdicts[verdict]), value_verdict_name(verdict));
	printf(", %llu errors\n", U(all->errors));
}

static int load_main(struct load *load)
{
	const char *list = load->options.phases;
	int rc = load_open(load);
	int phase;

	if (rc < 0) {
		fprintf(stderr, "farmem-redis-load: cannot connect to redis: %s\n", strerror(-rc));
		load_close(load);
		return 1;
	}
	while (rc == 0 && (phase = phase_parse(&list)) >= 0)
		rc = phase_run(load, (enum phase)phase);
	result_print(load);
	load_close(load);
	return load->failed ? 1 : 0;
}

static void help_print(void)
{
	printf("usage: farmem-redis-load [FLAGS]\n"
	       "fill a redis server with checkable values, load it, read everything back\n\n");
	fflush(stdout);
	options_print_help(load_specs, FM_ARRAY_COUNT(load_specs), STDOUT_FILENO);
}

int main(int argc, char **argv)
{
	static struct load load = {.epoll = -1};
	struct option_error error = {""};
	int index = 1;

	if (argc > 1 && strcmp(argv[1], "--help") == 0) {
		help_print();
		return 0;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (options_set_defaults(load_specs, FM_ARRAY_COUNT(load_specs), &load.options, &error) <
			0 ||
		options_read_flags(load_specs, FM_ARRAY_COUNT(load_specs), &load.options, argc,
			argv, &index, &error) < 0) {
		fprintf(stderr, "farmem-redis-load: %s\n", error.text);
		return 2;
	}
	if (index < argc) {
		fprintf(stderr, "farmem-redis-load: only flags: '%s'\n", argv[index]);
		return 2;
	}
	if (options_check(&load.options) < 0)
		return 2;
	if (load.options.csv[0] && !(load.csv = fopen(load.options.csv, "we"))) {
		fprintf(stderr, "farmem-redis-load: %s: %s\n", load.options.csv, strerror(errno));
		return 2;
	}
	if (load.csv)
		fprintf(load.csv,
			"phase,elapsed_ms,unix_ms,ops,p50_us,p99_us,max_us,errors,wrong\n");
	return load_main(&load);
}
