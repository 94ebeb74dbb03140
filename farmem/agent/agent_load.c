/*
 * farmem/agent/agent_load.c: how busy the nodes are, asked by probes (lb/prober.h) beside
 * everything else: a few datagrams a second that nobody waits for. Callers: agent_nodes.c.
 *
 * Of what a node answers, its queueing delay counts, smoothed, in classes that are a factor of two
 * wide, so that noise changes nothing:
 *
 *     0       below half a millisecond, or not known (no data port, no answer, too old)
 *     1 + n   from 2^n half milliseconds on
 *
 * Two things follow from the class: new regions go elsewhere first (agent_groups.c), and, written
 * into the catalogs, a degraded read asks others first (farmem/spanset_degraded.c). Whether a node
 * lives is decided by keepalives alone (agent_nodes.c): a probe is a datagram, its loss says
 * nothing.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/options.h"
#include "farmem/agent/agent.h"
#include "lb/prober.h"

#define PROBE_PERIOD_NS (100 * NS_PER_MS)
#define PROBE_TIMEOUT_NS (500 * NS_PER_MS)
#define PROBE_SILENCES_MAX 10 /* in a row: then it is asked once in PROBE_RARE only */
#define PROBE_RARE 100u       /* periods */
#define PROBE_OLD_NS NS_PER_S /* what it said is forgotten */
#define DELAY_WEIGHT 4        /* of what was known, of DELAY_WEIGHT + 1 */
#define BUSY_NS (NS_PER_MS / 2)

struct load_agent {
	struct agent_source timer, answers;
	struct prober *prober;
	uint64_t periods;
	struct load_member {
		int node; /* its address has been set for; -1: none */
		bool asked_at;
		unsigned silences;
		uint64_t delay_ns, said_ns;
		uint32_t in_flight;
	} members[AGENT_MEMBERS_MAX];
};

uint32_t load_class(uint64_t delay_ns)
{
	uint64_t halves = delay_ns / BUSY_NS;
	return halves == 0 ? 0 : FM_MIN(64u - (uint32_t)__builtin_clzll(halves), LOAD_CLASS_MAX);
}

uint32_t load_of(const struct agent_member *member, uint64_t *delay_ns, uint32_t *in_flight)
{
	const struct load_agent *all = member->agent->load;
	const struct load_member *m = all != NULL ? &all->members[member->index] : NULL;
	bool known = m != NULL && member->node >= 0 && m->node == member->node && m->said_ns != 0 &&
		     clock_now_ns() - m->said_ns < PROBE_OLD_NS;
	if (delay_ns != NULL)
		*delay_ns = known ? m->delay_ns : 0;
	if (in_flight != NULL)
		*in_flight = known ? m->in_flight : 0;
	return known ? load_class(m->delay_ns) : 0;
}

static void show_busy(const struct agent_member *member)
{
	struct agent *agent = member->agent;
	uint32_t busy = load_of(member, NULL, NULL);
	for (unsigned i = 0; i < agent->runtimes_count; i++)
		if (agent->runtimes[i]->attached)
			atomic_store_explicit(&agent->runtimes[i]->catalog.nodes[member->node].busy,
				busy, memory_order_relaxed);
}

/* "tcp:10.1.2.3:7401", "tcp:[fd00::1]:7401": numbers, as resolve_endpoint made them. */
static int set_address(struct load_agent *all, const struct agent_member *member)
{
	const char *text = member->agent->nodes[member->node].endpoint;
	const char *colon = strrchr(text, ':');
	char host[FABRIC_ENDPOINT_MAX];
	uint64_t port;
	size_t length;
	if (strncmp(text, "tcp:", 4) != 0 || colon <= text + 4 ||
		parse_count(colon + 1, &port) != 0 || port == 0 || port > UINT16_MAX)
		return -EDESTADDRREQ;
	text += 4;
	length = (size_t)(colon - text);
	if (length > 2 && text[0] == '[' && text[length - 1] == ']') {
		text++;
		length -= 2;
	}
	memcpy(host, text, length);
	host[length] = '\0';
	return prober_set(all->prober, member->index, host, (uint16_t)port);
}

static void ask(struct load_agent *all, const struct agent_member *member)
{
	struct load_member *m = &all->members[member->index];
	if (m->node != member->node) {
		*m = (struct load_member){.node = member->node};
		m->asked_at = set_address(all, member) == 0;
	}
	if (!m->asked_at || (m->silences >= PROBE_SILENCES_MAX && all->periods % PROBE_RARE != 0))
		return;
	(void)!prober_send(all->prober, member->index, (uint64_t)member->node, clock_now_ns());
}

static void timer_ready(struct agent_source *timer, uint32_t events)
{
	struct agent *agent = timer->agent;
	struct load_agent *all = agent->load;
	uint32_t silent;
	uint64_t ticks;
	(void)events;
	if (read(timer->fd, &ticks, sizeof ticks) != (ssize_t)sizeof ticks)
		return;
	all->periods++;
	while (prober_take_silent(all->prober, clock_now_ns(), &silent))
		all->members[silent].silences++;
	for (unsigned i = 0; i < agent->members_count; i++) {
		const struct agent_member *member = &agent->members[i];
		if (member->node < 0)
			continue;
		ask(all, member);
		show_busy(member);
	}
}

static void answers_ready(struct agent_source *answers, uint32_t events)
{
	struct agent *agent = answers->agent;
	struct load_agent *all = agent->load;
	struct prober_answer answer;
	uint64_t now_ns = clock_now_ns();
	(void)events;
	while (prober_take(all->prober, now_ns, &answer)) {
		struct load_member *m = &all->members[answer.server];
		uint64_t delay_ns = answer.load.delay_ns;
		m->silences = 0;
		/* of the node that was asked, and saying something */
		if (m->node != (int)answer.tag || (answer.load.flags & LOAD_UNHEALTHY) != 0)
			continue;
		m->delay_ns = m->said_ns == 0 ? delay_ns
					      : (DELAY_WEIGHT * m->delay_ns + delay_ns) /
							(DELAY_WEIGHT + 1);
		m->in_flight = answer.load.in_flight;
		m->said_ns = now_ns;
	}
}

static int timer_open(struct agent *agent, struct load_agent *all)
{
	struct itimerspec every = {
		.it_interval.tv_nsec = PROBE_PERIOD_NS, .it_value.tv_nsec = PROBE_PERIOD_NS};
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int error = fd < 0 ? -errno : 0;
	if (error == 0 && timerfd_settime(fd, 0, &every, NULL) != 0)
		error = -errno;
	if (error == 0)
		error = agent_watch(agent, &all->timer, fd);
	if (error != 0 && fd >= 0)
		close(fd);
	return error;
}

static int load_open(struct agent *agent)
{
	struct load_agent *all = calloc(1, sizeof *all);
	int fd, error = all != NULL ? 0 : -ENOMEM;
	if (error != 0)
		return error;
	all->timer.fd = all->answers.fd = -1;
	all->timer.ready = timer_ready;
	all->answers.ready = answers_ready;
	for (unsigned i = 0; i < AGENT_MEMBERS_MAX; i++)
		all->members[i].node = -1;
	error = prober_open(AGENT_MEMBERS_MAX, PROBE_TIMEOUT_NS, &all->prober);
	/* watched under a number of its own: agent_unwatch closes what it watches */
	fd = error == 0 ? dup(prober_fd(all->prober)) : -1;
	if (error == 0)
		error = fd >= 0 ? agent_watch(agent, &all->answers, fd) : -errno;
	if (error == 0)
		error = timer_open(agent, all);
	if (error == 0) {
		agent->load = all;
		return 0;
	}
	agent_unwatch(&all->answers);
	prober_close(all->prober);
	free(all);
	return error;
}

/* With the first node that can be asked. Without sockets or memory for it the agent works as if
 * nobody answered. */
void load_tick(struct agent *agent)
{
	if (agent->load != NULL || agent->load_refused)
		return;
	for (unsigned i = 0; i < agent->members_count; i++) {
		const struct agent_member *member = &agent->members[i];
		int error;
		if (member->node < 0 ||
			strncmp(agent->nodes[member->node].endpoint, "tcp:", 4) != 0)
			continue;
		error = load_open(agent);
		agent->load_refused = error != 0;
		if (error != 0)
			log_warn("agent: nodes are not asked for their load: %s", strerror(-error));
		return;
	}
}
