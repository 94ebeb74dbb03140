/*
 * apps/echo.c: fm-echo, a sample server of libfarmem-rpc: answers every request with its own bytes
 * after a service time drawn from a distribution, and publishes its load for probes.
 *
 * For fm-load, for bench/lb, and to be read: all it takes to be balanced is in server_open().
 *
 * SIGTERM, SIGINT: it refuses new requests, finishes those it has, prints its counters (--json) and
 * ends with 0. Exit status: 1 when something failed, 2 for the user's mistake.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "apps/echo_service.h"
#include "apps/lb_tool.h"
#include "base/log.h"
#include "base/options.h"
#include "farmem/rpc.h"

#define STATS_BYTES_MAX 2048

struct echo_options {
	char listen[256];
	char service[64];
	uint32_t how;
	uint64_t workers, queue;
	uint64_t quantum_ns;
	uint32_t probe;
	char probe_allow[512];
	uint64_t seed;
	bool json;
	uint32_t log_level;
};

static const char *const how_names[] = {"sleep", "spin", NULL};
static const char *const probe_names[] = {"auto", "tc", "xdp", "xdp-generic", "user", "none", NULL};

#define FLAG(name_, type_, field_, ...)                                                            \
	{                                                                                          \
		.name = name_, .type = type_, .offset = offsetof(struct echo_options, field_),     \
		.flag_only = true, __VA_ARGS__                                                     \
	}

static const struct option_spec echo_specs[] = {
	FLAG("listen", OPTION_STRING, listen, .size = 256, .value = ":7500", .argument = "ADDRESS",
		.help = "where to serve: HOST:PORT (UDP; no host: all; port 0: any), unix:/PATH "
			"or\n"
			"shm:/PATH"),
	FLAG("service-time", OPTION_STRING, service, .size = 64, .value = "const:0",
		.argument = "SHAPE:MEAN",
		.help = "how long a request takes: const, exp, bimodal (90% 0.5, 10% 5.5 of the\n"
			"mean), heavy (0.5% take 200 times as long as the others) or lognormal"),
	FLAG("service", OPTION_CHOICE, how, .choices = how_names, .value = "sleep",
		.argument = "HOW",
		.help = "what a worker does meanwhile: sleep holds the worker and no CPU, so that\n"
			"many servers fit on one machine; spin burns it"),
	FLAG("workers", OPTION_COUNT, workers, .min = 1, .max = 256, .value = "1",
		.argument = "COUNT", .help = "requests served at a time"),
	FLAG("queue", OPTION_COUNT, queue, .min = 1, .max = 65536, .value = "1024",
		.argument = "COUNT", .help = "requests waiting per worker; more are refused"),
	FLAG("quantum", OPTION_DURATION, quantum_ns, .max = 1000000000, .value = "10us",
		.argument = "TIME",
		.help = "with --service spin: so long may one request keep others waiting"),
	FLAG("probe", OPTION_CHOICE, probe, .choices = probe_names, .value = "auto",
		.argument = "MODE",
		.help = "who answers probes: an eBPF program (tc, xdp, xdp-generic; auto: tc "
			"where\n"
			"it is allowed), user (the server's own socket), none"),
	FLAG("probe-allow", OPTION_STRING, probe_allow, .size = 512, .argument = "PREFIXES",
		.help = "who may ask: 10.0.0.0/8,192.168.1.7; nothing: everybody"),
	FLAG("seed", OPTION_COUNT, seed, .value = "1", .argument = "NUMBER",
		.help = "decides the service times"),
	FLAG("json", OPTION_BOOL, json, .help = "print the counters as a JSON object at the end"),
	FLAG("log-level", OPTION_CHOICE, log_level, .choices = lb_tool_log_levels, .value = "warn",
		.argument = "LEVEL", .help = "error, warn, info or debug"),
};

static const struct lb_tool tool = {
	.name = "fm-echo",
	.summary = "usage: fm-echo [FLAGS]\n"
		   "serve requests with their own bytes after a drawn service time\n\n",
	.specs = echo_specs,
	.specs_count = FM_ARRAY_COUNT(echo_specs),
};

static int handle_echo(struct fm_rpc_request *request)
{
	const struct echo_service *service = request->context;

	if (request->req_bytes > request->resp_capacity)
		return -EMSGSIZE;
	echo_serve(service, request->arrival_ns, fm_rpc_poll_point);
	if (request->req_bytes > 0)
		memcpy(request->resp, request->req, request->req_bytes);
	request->resp_bytes = request->req_bytes;
	return 0;
}

static int server_open(const struct echo_options *options, struct echo_service *service,
	struct fm_rpc_server **server)
{
	static const struct fm_rpc_method methods[] = {
		{.id = LB_TOOL_METHOD_ECHO, .handle = handle_echo}};
	char listen[sizeof(options->listen) + 8];
	struct fm_rpc_server_options serving = {
		.listen = listen,
		.methods = methods,
		.methods_count = FM_ARRAY_COUNT(methods),
		.context = service,
		.workers = (unsigned)options->workers,
		.queue_max = (unsigned)options->queue,
		/* A worker that sleeps could not give way anyway. */
		.quantum_ns = service->spins ? options->quantum_ns : UINT64_MAX,
		.handlers_block = !service->spins && service->mean_ns > 0,
		.probe = probe_names[options->probe],
		.probe_allow = options->probe_allow[0] != '\0' ? options->probe_allow : NULL,
	};

	snprintf(listen, sizeof(listen), "%s%s", options->listen[0] == ':' ? "0.0.0.0" : "",
		options->listen);
	return fm_rpc_server_open(server, &serving);
}

static int serve(const struct echo_options *options, struct echo_service *service)
{
	struct fm_rpc_server *server;
	char stats[STATS_BYTES_MAX];
	sigset_t signals;
	int rc, signal;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigprocmask(SIG_BLOCK, &signals, NULL); /* inherited by the server's threads */
	/* Workers that sleep would otherwise be 50 us late each time. */
	prctl(PR_SET_TIMERSLACK, 1);
	rc = server_open(options, service, &server);
	if (rc < 0)
		return rc == -EINVAL ? LB_TOOL_EXIT_USAGE : 1;
	if (fm_rpc_server_stats(server, stats, sizeof(stats)) < 0)
		stats[0] = '\0';
	printf("fm-echo: ready listen=%s port=%u probes=%s\n", options->listen,
		fm_rpc_server_port(server), lb_tool_json_word(stats, "probe_mode"));
	fflush(stdout);
	sigwait(&signals, &signal);
	/* Counters first: closing takes them along. Requests that are still served end unseen. */
	rc = fm_rpc_server_stats(server, stats, sizeof(stats));
	fm_rpc_server_close(server);
	if (options->json && rc > 0)
		printf("%s\n", stats);
	return 0;
}

int main(int argc, char **argv)
{
	static struct echo_options options;
	struct echo_service service;
	int status = lb_tool_begin(&tool, &options, argc, argv);

	if (status >= 0)
		return status;
	log_set_level((enum log_level)options.log_level);
	if (echo_service_parse(options.service, &service) < 0)
		return lb_tool_complain(&tool,
			"--service-time '%s': write SHAPE:MEAN, as exp:50us; shapes are const, "
			"exp, bimodal, heavy, lognormal; at most 1s",
			options.service);
	service.spins = options.how == 1;
	service.seed = options.seed;
	return serve(&options, &service);
}
