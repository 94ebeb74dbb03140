/*
 * lb/ctl_balancer.c: see ctl_balancer.h.
 *
 * One thread receives the answers to probes, notices silence, and sends the probes that are due
 * without traffic; everything else happens in the callers' threads.
 *
 * Invariants
 *   1. balancer, prober and asks are touched under `lock` only; it is never held during a call.
 *   2. Every balancer_sent has its balancer_done: in the caller, or when the started call's result
 *      is dispatched.
 * Lock: `lock`; nothing is taken inside it.
 */
#include "lb/ctl_balancer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "lb/prober.h"

#define PROBE_TIMEOUT_NS 50000000ull
#define ASK_TIMEOUT_NS 2000000ull
#define ASKS_MAX 64u /* calls that wait for answers at once; more go by what is known */
#define HOST_MAX 256
#define NO_ASK UINT64_MAX

struct ask {
	uint32_t serial; /* of the call it is lent to; 0: free */
	unsigned missing;
};

/* A call that was started: freed when its result is dispatched, or, if its queue was closed before,
 * with the balancer. */
struct started {
	struct started *next, *prev;
	struct ctl_balancer *balancer;
	uint32_t server;
	uint64_t begun_ns;
	ctl_done done;
	void *context;
};

struct ctl_balancer {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* an answer came, or a call ended */
	struct balancer *balancer;
	struct prober *prober;
	struct ctl_client **clients;
	unsigned count;
	unsigned retries;
	struct ask asks[ASKS_MAX];
	uint32_t ask_serial;
	struct started *started;
	pthread_t thread;
	bool thread_runs, stopping;
	uint64_t thread_until_ns; /* it sleeps so long */
	int wake_fd;
};

/* --- probes [lock] ------------------------------------------------------------------------------
 */

static void probe_one(struct ctl_balancer *b, uint32_t server, uint64_t tag, uint64_t now_ns)
{
	int rc = prober_send(b->prober, server, tag, now_ns);

	if (rc < 0 && rc != -EAGAIN && rc != -EDESTADDRREQ)
		balancer_silent(b->balancer, now_ns, server);
}

static void probe_due(struct ctl_balancer *b, uint64_t now_ns)
{
	uint32_t servers[LB_PROBES_MAX];
	unsigned count = balancer_probes(b->balancer, now_ns, servers);

	for (unsigned i = 0; i < count; i++)
		probe_one(b, servers[i], NO_ASK, now_ns);
	if (prober_next_ns(b->prober) < b->thread_until_ns)
		eventfd_write(b->wake_fd, 1);
}

static void probe_answers(struct ctl_balancer *b, uint64_t now_ns)
{
	struct prober_answer answer;
	uint32_t server;

	while (prober_take(b->prober, now_ns, &answer)) {
		struct ask *ask = &b->asks[answer.tag % ASKS_MAX];

		balancer_sampled(b->balancer, now_ns, answer.server, &answer.load);
		if (answer.tag != NO_ASK && ask->serial == answer.tag / ASKS_MAX)
			ask->missing--;
	}
	while (prober_take_silent(b->prober, now_ns, &server))
		balancer_silent(b->balancer, now_ns, server);
	pthread_cond_broadcast(&b->changed);
}

/* Rounded up: a millisecond early would mean once more around. */
static int poll_ms(uint64_t now_ns, uint64_t until_ns)
{
	if (until_ns == CLOCK_NEVER_NS)
		return -1;
	if (until_ns <= now_ns)
		return 0;
	return (int)FM_MIN((until_ns - now_ns + NS_PER_MS - 1) / NS_PER_MS, 60000u);
}

static void started_free(struct started *started);

static void *balancer_thread(void *argument)
{
	struct ctl_balancer *b = argument;
	struct pollfd fds[2] = {
		{.fd = prober_fd(b->prober), .events = POLLIN},
		{.fd = b->wake_fd, .events = POLLIN},
	};

	pthread_mutex_lock(&b->lock);
	while (!b->stopping) {
		uint64_t now_ns = clock_now_ns();
		eventfd_t rung;

		probe_answers(b, now_ns);
		b->thread_until_ns = 0; /* awake: nobody needs to wake it */
		probe_due(b, now_ns);
		b->thread_until_ns =
			FM_MIN(prober_next_ns(b->prober), balancer_next_ns(b->balancer));
		pthread_mutex_unlock(&b->lock);
		poll(fds, FM_ARRAY_COUNT(fds), poll_ms(now_ns, b->thread_until_ns));
		if (fds[1].revents != 0)
			eventfd_read(b->wake_fd, &rung);
		pthread_mutex_lock(&b->lock);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

/* --- opening ------------------------------------------------------------------------------------
 */

/* "host:port", "[::1]:7401" */
static int probe_address(const char *text, char host[HOST_MAX], uint16_t *port)
{
	const char *colon = strrchr(text, ':');
	uint64_t number;
	size_t length;

	if (colon == NULL || parse_count(colon + 1, &number) < 0 || number == 0 ||
		number > UINT16_MAX)
		return -EINVAL;
	length = (size_t)(colon - text);
	if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	if (length == 0 || length >= HOST_MAX)
		return -EINVAL;
	memcpy(host, text, length);
	host[length] = '\0';
	*port = (uint16_t)number;
	return 0;
}

static int open_probes(struct ctl_balancer *b, const char *const *probes)
{
	int rc = prober_open(b->count, PROBE_TIMEOUT_NS, &b->prober);

	for (unsigned i = 0; rc == 0 && probes != NULL && i < b->count; i++) {
		char host[HOST_MAX];
		uint16_t port;

		if (probes[i] == NULL)
			continue;
		rc = probe_address(probes[i], host, &port);
		if (rc == 0)
			rc = prober_set(b->prober, i, host, port);
		if (rc < 0)
			log_error("lb: probe address '%s': %s", probes[i], strerror(-rc));
	}
	return rc;
}

static int open_clients(struct ctl_balancer *b, const char *const *addresses)
{
	b->clients = calloc(b->count, sizeof(*b->clients));
	if (b->clients == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < b->count; i++) {
		int rc = ctl_client_open(addresses[i], &b->clients[i]);

		if (rc < 0) {
			log_error("lb: address '%s': %s", addresses[i], strerror(-rc));
			return rc;
		}
	}
	return 0;
}

static int open_policy(struct ctl_balancer *b, const struct ctl_balancer_options *options)
{
	struct balancer_options balancing = {
		.policy = options->policy != NULL ? options->policy : "mew",
		.servers = b->count,
		.seed = options->seed,
		.probes_per_rpc = options->probes_per_rpc,
		.sample_age_ns = options->sample_age_ns,
		.clock_offset_ns = clock_shared_offset_ns(),
		.ask_timeout_ns = ASK_TIMEOUT_NS,
	};
	const char *why = NULL;
	int rc = balancer_open(&balancing, &b->balancer, &why);

	if (rc < 0)
		log_error(
			"lb: policy '%s': %s", balancing.policy, why != NULL ? why : strerror(-rc));
	return rc;
}

static int open_thread(struct ctl_balancer *b)
{
	int rc;

	b->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->wake_fd < 0)
		return -errno;
	rc = -pthread_create(&b->thread, NULL, balancer_thread, b);
	b->thread_runs = rc == 0;
	return rc;
}

int ctl_balancer_open(const struct ctl_balancer_options *options, struct ctl_balancer **out)
{
	struct ctl_balancer *b = calloc(1, sizeof(*b));
	pthread_condattr_t monotonic;
	int rc = 0;

	*out = NULL;
	if (b == NULL)
		return -ENOMEM;
	b->wake_fd = -1;
	b->count = options->count;
	b->retries = FM_MIN(options->retries, CTL_BALANCER_RETRIES_MAX);
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&b->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (options->count == 0 || options->count > CTL_BALANCER_SERVERS_MAX) {
		log_error("lb: %u servers: 1 to %d", options->count, CTL_BALANCER_SERVERS_MAX);
		rc = -EINVAL;
	}
	if (rc == 0)
		rc = open_clients(b, options->addresses);
	if (rc == 0)
		rc = open_probes(b, options->probes);
	if (rc == 0)
		rc = open_policy(b, options);
	if (rc == 0)
		rc = open_thread(b);
	if (rc < 0) {
		ctl_balancer_close(b);
		return rc;
	}
	*out = b;
	return 0;
}

void ctl_balancer_close(struct ctl_balancer *b)
{
	if (b == NULL)
		return;
	if (b->thread_runs) {
		pthread_mutex_lock(&b->lock);
		b->stopping = true;
		pthread_mutex_unlock(&b->lock);
		eventfd_write(b->wake_fd, 1);
		pthread_join(b->thread, NULL);
	}
	if (b->wake_fd >= 0)
		close(b->wake_fd);
	while (b->started != NULL)
		started_free(b->started);
	balancer_close(b->balancer);
	prober_close(b->prober);
	for (unsigned i = 0; b->clients != NULL && i < b->count; i++)
		ctl_client_close(b->clients[i]);
	free(b->clients);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

/* --- choosing [lock] ----------------------------------------------------------------------------
 */

static void wait_until(struct ctl_balancer *b, uint64_t until_ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S)};

	pthread_cond_timedwait(&b->changed, &b->lock, &until);
}

static struct ask *ask_take(struct ctl_balancer *b)
{
	for (unsigned i = 0; i < ASKS_MAX; i++)
		if (b->asks[i].serial == 0)
			return &b->asks[i];
	return NULL;
}

/* Asks, waits for the answers, and decides. */
static enum balancer_verdict pick_asking(struct ctl_balancer *b, struct balancer_pick *pick)
{
	uint64_t now_ns = clock_now_ns(), until_ns = now_ns + ASK_TIMEOUT_NS;
	struct ask *ask = ask_take(b);

	if (ask != NULL) {
		b->ask_serial += b->ask_serial == UINT32_MAX ? 2 : 1; /* 0: free */
		*ask = (struct ask){.serial = b->ask_serial, .missing = pick->asked_count};
		for (unsigned i = 0; i < pick->asked_count; i++)
			probe_one(b, pick->asked[i],
				(uint64_t)ask->serial * ASKS_MAX + (uint64_t)(ask - b->asks),
				now_ns);
		if (prober_next_ns(b->prober) < b->thread_until_ns)
			eventfd_write(b->wake_fd, 1);
		while (ask->missing > 0 && clock_now_ns() < until_ns)
			wait_until(b, until_ns);
		ask->serial = 0;
	}
	return balancer_pick_asked(b->balancer, clock_now_ns(), pick);
}

/* 0 and the server, which counts as sent to; -EHOSTUNREACH; -ETIMEDOUT or (not waiting) -EAGAIN:
 * no room anywhere. */
static int pick_server(struct ctl_balancer *b, uint64_t deadline_ns, bool waits, uint32_t *server)
{
	struct balancer_pick pick;

	for (;;) { /* until deadline_ns */
		uint64_t now_ns = clock_now_ns();
		enum balancer_verdict verdict = balancer_pick(b->balancer, now_ns, &pick);

		if (verdict == LB_ASK)
			verdict = waits ? pick_asking(b, &pick)
					: balancer_pick_asked(b->balancer, now_ns, &pick);
		if (verdict == LB_SEND) {
			*server = pick.server;
			balancer_sent(b->balancer, clock_now_ns(), pick.server);
			return 0;
		}
		if (verdict != LB_PARK)
			return -EHOSTUNREACH;
		if (!waits)
			return -EAGAIN;
		if (now_ns >= deadline_ns)
			return -ETIMEDOUT;
		wait_until(b, deadline_ns);
	}
}

static void note_done(
	struct ctl_balancer *b, uint32_t server, uint64_t begun_ns, const struct ctl_result *result)
{
	uint64_t now_ns = clock_now_ns();
	struct balancer_outcome outcome = {
		.status = result->status,
		.latency_ns = now_ns - begun_ns,
		.load = result->has_load ? &result->load : NULL,
	};

	pthread_mutex_lock(&b->lock);
	balancer_done(b->balancer, now_ns, server, &outcome);
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}

/* --- calling ------------------------------------------------------------------------------------
 */

int ctl_balancer_call(struct ctl_balancer *b, const struct ctl_request *request,
	struct ctl_result *result, uint32_t *server)
{
	uint64_t begun_ns = clock_now_ns(), deadline_ns = begun_ns + request->timeout_ns;
	uint32_t chosen = 0;

	memset(result, 0, sizeof(*result));
	for (unsigned attempt = 0; attempt <= b->retries; attempt++) {
		struct ctl_request now = *request;
		uint64_t now_ns;

		pthread_mutex_lock(&b->lock);
		result->status = pick_server(b, deadline_ns, true, &chosen);
		pthread_mutex_unlock(&b->lock);
		if (result->status < 0)
			break;
		now_ns = clock_now_ns();
		now.timeout_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 1;
		ctl_client_call(b->clients[chosen], &now, result);
		note_done(b, chosen, begun_ns, result);
		pthread_mutex_lock(&b->lock);
		probe_due(b, clock_now_ns());
		pthread_mutex_unlock(&b->lock);
		/* Only then it is certain that nobody worked on it. */
		if (result->status != -ECONNREFUSED)
			break;
	}
	if (server != NULL)
		*server = chosen;
	return result->status;
}

static void started_add(struct ctl_balancer *b, struct started *started)
{
	pthread_mutex_lock(&b->lock);
	started->next = b->started;
	if (started->next != NULL)
		started->next->prev = started;
	b->started = started;
	pthread_mutex_unlock(&b->lock);
}

static void started_free(struct started *started)
{
	struct ctl_balancer *b = started->balancer;

	pthread_mutex_lock(&b->lock);
	if (started->next != NULL)
		started->next->prev = started->prev;
	if (started->prev != NULL)
		started->prev->next = started->next;
	else
		b->started = started->next;
	pthread_mutex_unlock(&b->lock);
	free(started);
}

static void started_done(void *context, const struct ctl_result *result)
{
	struct started *started = context;

	note_done(started->balancer, started->server, started->begun_ns, result);
	started->done(started->context, result);
	started_free(started);
}

int ctl_balancer_start(struct ctl_balancer *b, struct ctl_queue *queue,
	const struct ctl_request *request, ctl_done done, void *context)
{
	struct started *started = malloc(sizeof(*started));
	int rc;

	if (started == NULL)
		return -ENOMEM;
	*started = (struct started){
		.balancer = b, .begun_ns = clock_now_ns(), .done = done, .context = context};
	pthread_mutex_lock(&b->lock);
	rc = pick_server(b, 0, false, &started->server);
	if (rc == 0)
		probe_due(b, clock_now_ns());
	pthread_mutex_unlock(&b->lock);
	if (rc < 0) {
		free(started);
		return rc;
	}
	started_add(b, started);
	rc = ctl_client_start(b->clients[started->server], queue, request, started_done, started);
	if (rc < 0) {
		struct ctl_result failed = {.status = rc};

		note_done(b, started->server, started->begun_ns, &failed);
		started_free(started);
	}
	return rc;
}

void ctl_balancer_stats(struct ctl_balancer *b, struct balancer_stats *stats)
{
	pthread_mutex_lock(&b->lock);
	balancer_stats(b->balancer, stats);
	pthread_mutex_unlock(&b->lock);
}
