/*
 * lb/channel.c: opens, closes and describes a channel (include/farmem/rpc.h). See channel.h for the
 * whole. Callers: programs that link libfarmem-rpc, apps/load.c.
 */
#include "lb/channel.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/futex.h"
#include "base/log.h"
#include "base/mem.h"
#include "lb/tuner.h"

#define ADDRESS_MAX 256

/* --- servers ------------------------------------------------------------------------------------
 */

static int address_next(const char **list, char address[ADDRESS_MAX])
{
	size_t length = strcspn(*list, ",");

	if (length == 0 || length >= ADDRESS_MAX)
		return -EINVAL;
	memcpy(address, *list, length);
	address[length] = '\0';
	*list += length + ((*list)[length] == ',');
	return 0;
}

static int open_servers(struct fm_rpc_channel *channel, const char *servers)
{
	char address[ADDRESS_MAX];

	if (servers == NULL || servers[0] == '\0') {
		log_error("rpc: no servers: name at least one, as host:port, unix:/path or "
			  "shm:/path");
		return -EINVAL;
	}
	while (*servers != '\0') {
		uint32_t peer;
		int rc = address_next(&servers, address);

		if (rc < 0) {
			log_error("rpc: an address is empty or too long near '%.40s'", servers);
			return rc;
		}
		if (channel->servers_count == LB_SERVERS_MAX) {
			log_error("rpc: more than %d servers", LB_SERVERS_MAX);
			return -EINVAL;
		}
		rc = urpc_client_add(channel->client, address, &peer);
		if (rc < 0) {
			log_error("rpc: '%s': %s; write host:port, unix:/path or shm:/path",
				address, strerror(-rc));
			return rc;
		}
		FM_ASSERT(peer == channel->servers_count);
		channel->servers_count++;
	}
	return 0;
}

/* --- opening ------------------------------------------------------------------------------------
 */

static int open_calls(struct fm_rpc_channel *channel)
{
	channel->calls = mem_map(channel->calls_max * sizeof(*channel->calls));
	channel->requests = mem_map((size_t)channel->calls_max * FM_RPC_MESSAGE_BYTES_MAX);
	if (channel->calls == NULL || channel->requests == NULL)
		return -ENOMEM;
	for (unsigned i = channel->calls_max; i-- > 0;) {
		channel->calls[i].index = i;
		channel->calls[i].free_next = channel->free_first;
		channel->free_first = &channel->calls[i];
	}
	return probe_table_open(&channel->probes, CHANNEL_PROBES_MAX, CHANNEL_PROBE_TIMEOUT_NS);
}

static int open_client(struct fm_rpc_channel *channel, const char *servers)
{
	struct urpc_client_options options = {
		.requests_max = channel->calls_max,
		.foreign = channel_probe_answer,
		.context = channel,
	};
	int rc = urpc_client_open(&options, &channel->client);

	return rc < 0 ? rc : open_servers(channel, servers);
}

static int open_balancer(struct fm_rpc_channel *channel, const struct fm_rpc_options *options)
{
	struct balancer_options balancing = {
		.policy = channel->policy,
		.servers = channel->servers_count,
		.seed = options->seed,
		.probes_per_rpc = options->probes_per_rpc,
		.sample_age_ns = options->sample_age_ns,
		.service_ns = options->service_ns,
		.clock_offset_ns = clock_shared_offset_ns(),
		.ask_timeout_ns = CHANNEL_ASK_TIMEOUT_NS,
	};
	const char *why = NULL;
	bool oracle;
	int rc;

	if (!balancer_policy_known(channel->policy, &oracle)) {
		log_error("rpc: no policy '%s': there are %s", channel->policy,
			balancer_policy_names());
		return -EINVAL;
	}
	if (oracle) {
		log_error("rpc: policy '%s' has to see into the servers: it exists in the "
			  "simulator only",
			channel->policy);
		return -EINVAL;
	}
	rc = balancer_open(&balancing, &channel->balancer, &why);
	if (rc < 0)
		log_error(
			"rpc: policy '%s': %s", channel->policy, why != NULL ? why : strerror(-rc));
	return rc;
}

static int open_numbers(struct fm_rpc_channel *channel, const struct fm_rpc_options *options)
{
	const char *policy = options->policy != NULL ? options->policy : "mew";

	if (strlen(policy) >= sizeof(channel->policy)) {
		log_error("rpc: no policy '%s': there are %s", policy, balancer_policy_names());
		return -EINVAL;
	}
	memcpy(channel->policy, policy, strlen(policy) + 1);
	channel->calls_max = options->calls_max != 0 ? options->calls_max : CHANNEL_CALLS_DEFAULT;
	channel->retries = options->retries != 0 ? options->retries : 1;
	channel->deadline_ns =
		options->deadline_ns != 0 ? options->deadline_ns : CHANNEL_DEADLINE_DEFAULT_NS;
	channel->resend_ns = options->resend_ns;
	if (channel->calls_max > CHANNEL_CALLS_MAX) {
		log_error(
			"rpc: calls_max is %u: at most %u", channel->calls_max, CHANNEL_CALLS_MAX);
		return -EINVAL;
	}
	if (channel->retries == FM_RPC_NO_RETRIES)
		channel->retries = 0;
	if (channel->retries > CHANNEL_RETRIES_MAX) {
		log_error("rpc: retries is %u: at most %u", channel->retries, CHANNEL_RETRIES_MAX);
		return -EINVAL;
	}
	return 0;
}

static void channel_free(struct fm_rpc_channel *channel)
{
	balancer_close(channel->balancer);
	urpc_client_close(channel->client);
	probe_table_close(&channel->probes);
	mem_unmap(channel->requests, (size_t)channel->calls_max * FM_RPC_MESSAGE_BYTES_MAX);
	mem_unmap(channel->calls, channel->calls_max * sizeof(*channel->calls));
	pthread_mutex_destroy(&channel->lock);
	free(channel);
}

int fm_rpc_open(struct fm_rpc_channel **out, const struct fm_rpc_options *options)
{
	struct fm_rpc_channel *channel = calloc(1, sizeof(*channel));
	int rc;

	*out = NULL;
	if (channel == NULL)
		return -ENOMEM;
	pthread_mutex_init(&channel->lock, NULL);
	rc = open_numbers(channel, options);
	if (rc == 0)
		rc = open_calls(channel);
	if (rc == 0)
		rc = open_client(channel, options->servers);
	if (rc == 0)
		rc = open_balancer(channel, options);
	if (rc < 0) {
		channel_free(channel);
		return rc;
	}
	*out = channel;
	return 0;
}

/* --- closing ------------------------------------------------------------------------------------
 */

/* Every call that began and has not ended. Those whose threads have not ordered them yet end when
 * they do. */
static void close_cancel(struct fm_rpc_channel *channel)
{
	for (unsigned i = 0; i < channel->calls_max; i++) {
		struct call *call = &channel->calls[i];
		bool began;

		pthread_mutex_lock(&channel->lock);
		began = call->taken && call->state != CALL_ORDERED && !call->ended;
		pthread_mutex_unlock(&channel->lock);
		if (began)
			call_cancel(channel, call);
	}
}

void fm_rpc_close(struct fm_rpc_channel *channel)
{
	uint32_t users;

	if (channel == NULL)
		return;
	FM_ASSERT(channel_calling != channel);
	pthread_mutex_lock(&channel->lock);
	/* relaxed: read under the lock, or as a hint by who has the role */
	atomic_store_explicit(&channel->closing, true, memory_order_relaxed);
	pthread_mutex_unlock(&channel->lock);
	if (channel_get_role(channel, NULL, CLOCK_NEVER_NS, true)) {
		channel_orders(channel);
		close_cancel(channel);
		while (channel->live > 0)
			(void)channel_drive(channel, NULL, CLOCK_NEVER_NS);
		channel_leave_role(channel);
	}
	/* acquire is in the lock below */
	while ((users = atomic_load_explicit(&channel->users, memory_order_relaxed)) != 0)
		futex_wait(&channel->users, users, UINT64_MAX);
	pthread_mutex_lock(&channel->lock);
	pthread_mutex_unlock(&channel->lock);
	/* What late starters ordered ended as cancelled; their callbacks are due. */
	if (channel->finished.count > 0)
		call_deliver(channel);
	channel_free(channel);
}

/* --- counters -----------------------------------------------------------------------------------
 */

struct text {
	char *at;
	size_t left;
	int written;
};

static void text_add(struct text *text, const char *format, ...) FM_PRINTF(2, 3);
static void text_add(struct text *text, const char *format, ...)
{
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text->at, text->left, format, args);
	va_end(args);
	if (text->written < 0 || length < 0 || (size_t)length >= text->left) {
		text->written = -ENOSPC;
		return;
	}
	text->at += length;
	text->left -= (size_t)length;
	text->written += length;
}

#define U(x) ((unsigned long long)(x))

static void stats_calls(const struct fm_rpc_channel *channel, struct text *text)
{
	const struct channel_counts *c = &channel->counts;

	text_add(text,
		"{\"policy\":\"%s\",\"servers\":%u,\"calls\":%llu,\"in_flight\":%u,\"replies\":%"
		"llu,"
		"\"errors\":%llu,\"timeouts\":%llu,\"cancels\":%llu,\"overloads\":%llu,"
		"\"unreachable\":%llu,\"retries\":%llu,\"parked\":%llu,\"asked\":%llu,"
		"\"ask_timeouts\":%llu",
		channel->policy, channel->servers_count, U(c->calls), channel->live, U(c->replies),
		U(c->errors), U(c->timeouts), U(c->cancels), U(c->overloads), U(c->unreachable),
		U(c->retries), U(c->parked), U(c->asked), U(c->ask_timeouts));
	text_add(text,
		",\"probes\":{\"sent\":%llu,\"answered\":%llu,\"silent\":%llu,\"skipped\":%llu,"
		"\"stray\":%llu}",
		U(c->probes_sent), U(c->probes_answered), U(c->probes_silent), U(c->probes_skipped),
		U(c->probes_stray));
}

static void stats_balancer(const struct fm_rpc_channel *channel, struct text *text)
{
	struct balancer_stats b;
	struct urpc_client_stats u;

	balancer_stats(channel->balancer, &b);
	urpc_client_stats(channel->client, &u);
	text_add(text,
		",\"balancer\":{\"picks\":%llu,\"picks_blind\":%llu,\"parks\":%llu,\"nobody\":%llu,"
		"\"probes\":%llu,\"samples\":%llu,\"silences\":%llu,\"piggybacks\":%llu,"
		"\"ejections\":%llu,\"restarts\":%llu,\"ejected\":%u,\"probes_per_rpc\":%.4f}",
		U(b.picks), U(b.picks_blind), U(b.parks), U(b.nobody), U(b.probes), U(b.samples),
		U(b.silences), U(b.piggybacks), U(b.ejections), U(b.restarts), b.ejected,
		b.probes_per_rpc);
	text_add(text,
		",\"urpc\":{\"requests\":%llu,\"resends\":%llu,\"replies\":%llu,\"timeouts\":%llu,"
		"\"cancels\":%llu,\"overloads\":%llu,\"strays\":%llu,\"malformed\":%llu,"
		"\"foreign\":%llu}}",
		U(u.requests), U(u.resends), U(u.replies), U(u.timeouts), U(u.cancels),
		U(u.overloads), U(u.strays), U(u.malformed), U(u.foreign));
}

int fm_rpc_stats(struct fm_rpc_channel *channel, char *out, size_t size)
{
	struct text text = {.at = out, .left = size};
	bool own = channel_calling == channel; /* in a callback: the role is ours already */
	int rc = channel_use(channel);

	if (rc < 0)
		return rc;
	if (own || channel_get_role(channel, NULL, CLOCK_NEVER_NS, true)) {
		stats_calls(channel, &text);
		stats_balancer(channel, &text);
		if (!own)
			channel_leave_role(channel);
	}
	channel_unuse(channel);
	return text.written;
}

void channel_look(struct fm_rpc_channel *channel, struct channel_counts *counts,
	struct balancer_stats *balancing)
{
	if (channel_use(channel) < 0)
		return;
	if (channel_get_role(channel, NULL, CLOCK_NEVER_NS, true)) {
		if (counts != NULL)
			*counts = channel->counts;
		if (balancing != NULL)
			balancer_stats(channel->balancer, balancing);
		channel_leave_role(channel);
	}
	channel_unuse(channel);
}

int channel_trace(struct fm_rpc_channel *channel, FILE *out)
{
	const struct tuner *tuner = balancer_tuner(channel->balancer);

	if (tuner == NULL)
		return -ENOENT;
	tuner_trace(tuner, out);
	return 0;
}
