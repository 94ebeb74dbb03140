/*
 * lb/health.c: states of servers, ejection and return. See health.h for the diagram and why.
 */
#include "lb/health.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/clock.h"

#define SHARE_STEP 0.03125f /* of a server's failed share: about its last 32 RPCs */
#define FLEET_SHARE_STEP 0.00390625
#define WEIGHT_SLOPE 4.0f /* a quarter more failures than the fleet: down to the least weight */

int health_open(struct health *health, unsigned servers)
{
	health->servers = calloc(servers, sizeof(*health->servers));
	health->order = calloc(servers, sizeof(*health->order));
	if (health->servers == NULL || health->order == NULL) {
		health_close(health);
		return -ENOMEM;
	}
	health->count = health->fit_count = servers;
	health->first = health->last = HEALTH_NOBODY;
	health->trial_ns = CLOCK_NEVER_NS;
	for (uint32_t i = 0; i < servers; i++) {
		health->order[i] = i;
		health->servers[i].position = i;
		health->servers[i].weight = 1.0f;
		health->servers[i].next = health->servers[i].previous = HEALTH_NOBODY;
	}
	return 0;
}

void health_close(struct health *health)
{
	free(health->servers);
	free(health->order);
	health->servers = NULL;
	health->order = NULL;
}

static void health_swap(struct health *health, uint32_t a, uint32_t b)
{
	uint32_t server_a = health->order[a], server_b = health->order[b];

	health->order[a] = server_b;
	health->order[b] = server_a;
	health->servers[server_a].position = b;
	health->servers[server_b].position = a;
}

static void health_list_remove(struct health *health, uint32_t server)
{
	struct health_server *it = &health->servers[server];

	if (it->previous != HEALTH_NOBODY)
		health->servers[it->previous].next = it->next;
	else
		health->first = it->next;
	if (it->next != HEALTH_NOBODY)
		health->servers[it->next].previous = it->previous;
	else
		health->last = it->previous;
	it->next = it->previous = HEALTH_NOBODY;
	health->listed--;
}

static void health_list_append(struct health *health, uint64_t now_ns, uint32_t server)
{
	struct health_server *it = &health->servers[server];

	it->previous = health->last;
	it->next = HEALTH_NOBODY;
	it->touched_ns = now_ns;
	if (health->last != HEALTH_NOBODY)
		health->servers[health->last].next = server;
	else
		health->first = server;
	health->last = server;
	health->listed++;
}

static void health_touch(struct health *health, uint64_t now_ns, uint32_t server)
{
	health_list_remove(health, server);
	health_list_append(health, now_ns, server);
}

static bool health_is_ejected(uint8_t state)
{
	return state >= HEALTH_EJECTED;
}

/* Every change of state goes through here: it keeps invariants 1 and 2. */
static void health_become(
	struct health *health, uint64_t now_ns, uint32_t server, enum health_state state)
{
	struct health_server *it = &health->servers[server];
	bool was_fit = it->state == HEALTH_FIT;

	health->ejected_count -= health_is_ejected(it->state) ? 1 : 0;
	health->ejected_count += health_is_ejected((uint8_t)state) ? 1 : 0;
	it->state = (uint8_t)state;
	it->since_ns = now_ns;
	if (was_fit && state != HEALTH_FIT) {
		health_swap(health, it->position, --health->fit_count);
		health_list_append(health, now_ns, server);
	} else if (!was_fit && state == HEALTH_FIT) {
		health_list_remove(health, server);
		health_swap(health, it->position, health->fit_count++);
	}
}

static void health_return(struct health *health, uint64_t now_ns, uint32_t server, bool slowly)
{
	struct health_server *it = &health->servers[server];

	health_become(health, now_ns, server, HEALTH_FIT);
	it->failures = it->silences = 0;
	it->failed_share = 0;
	it->weight = 1.0f;
	it->slow_starting = slowly && health->slow_start_ns > 0;
}

static uint64_t health_pause_ns(const struct health *health, const struct health_server *it)
{
	return health->eject_ns << it->doublings;
}

static void health_eject(struct health *health, uint64_t now_ns, uint32_t server, bool by_probes)
{
	struct health_server *it = &health->servers[server];

	if (health_is_ejected(it->state)) {
		if (it->doublings < HEALTH_DOUBLINGS_MAX)
			it->doublings++;
	} else if (it->state == HEALTH_FIT && now_ns - it->since_ns > health_pause_ns(health, it)) {
		it->doublings = 0; /* it was well for longer than it was out the last time */
	} else if (it->doublings < HEALTH_DOUBLINGS_MAX && it->since_ns != 0) {
		it->doublings++;
	}
	health_become(health, now_ns, server, HEALTH_EJECTED);
	it->until_ns = now_ns + health_pause_ns(health, it);
	it->failures = it->silences = 0;
	it->ejected_by_probes = by_probes;
	health->trial_ns = FM_MIN(health->trial_ns, it->until_ns);
	health->ejections++;
}

static void health_half_open(struct health *health, uint64_t now_ns, uint32_t server)
{
	health_become(health, now_ns, server, HEALTH_HALF_OPEN);
	health->servers[server].until_ns = now_ns;
	health->trial_ns = FM_MIN(health->trial_ns, now_ns);
}

/* --- choosing ----------------------------------------------------------------------------------
 */
bool health_admits_careful(
	struct health *health, struct draw *draw, uint64_t now_ns, uint32_t server)
{
	struct health_server *it = &health->servers[server];
	double weight = (double)it->weight;
	uint64_t age_ns;

	if (it->slow_starting) {
		age_ns = now_ns > it->since_ns ? now_ns - it->since_ns : 0;
		if (age_ns >= health->slow_start_ns)
			it->slow_starting = false;
		else
			weight *= (double)age_ns / (double)health->slow_start_ns;
	}
	return draw_unit(draw) < FM_MAX(weight, HEALTH_WEIGHT_MIN);
}

uint32_t health_draw(struct health *health, struct draw *draw, uint64_t now_ns)
{
	uint32_t server = HEALTH_NOBODY;

	if (health->fit_count == 0)
		return HEALTH_NOBODY;
	for (unsigned try = 0; try < HEALTH_DRAW_TRIES; try++) {
		server = health->order[draw_below(draw, health->fit_count)];
		if (health_admits(health, draw, now_ns, server))
			break;
	}
	return server;
}

uint32_t health_draw_other(
	struct health *health, struct draw *draw, uint64_t now_ns, uint32_t other)
{
	uint32_t server = HEALTH_NOBODY, position;

	if (other == HEALTH_NOBODY || !health_usable(health, other))
		return health_draw(health, draw, now_ns);
	if (health->fit_count == 1)
		return other;
	for (unsigned try = 0; try < HEALTH_DRAW_TRIES; try++) {
		position = draw_below(draw, health->fit_count - 1);
		position += position >= health->servers[other].position ? 1 : 0;
		server = health->order[position];
		if (health_admits(health, draw, now_ns, server))
			break;
	}
	return server;
}

/* Has that time come? One further away than any pause lasts is of before a clock was set back. */
static bool health_due(const struct health *health, uint64_t at_ns, uint64_t now_ns)
{
	return at_ns <= now_ns || at_ns - now_ns > health->eject_ns << HEALTH_DOUBLINGS_MAX;
}

uint32_t health_trial(struct health *health, uint64_t now_ns)
{
	uint64_t earliest_ns = CLOCK_NEVER_NS;
	uint32_t due = HEALTH_NOBODY;

	if (fm_likely(health->ejected_count == 0 || !health_due(health, health->trial_ns, now_ns)))
		return HEALTH_NOBODY;
	for (uint32_t i = health->first; i != HEALTH_NOBODY; i = health->servers[i].next) {
		if (health->servers[i].state == HEALTH_DRAINING)
			continue;
		if (due == HEALTH_NOBODY && health_due(health, health->servers[i].until_ns, now_ns))
			due = i;
		else
			earliest_ns = FM_MIN(earliest_ns, health->servers[i].until_ns);
	}
	if (due != HEALTH_NOBODY) {
		health_become(health, now_ns, due, HEALTH_TRYING);
		/* should nobody ever tell how the trial ended, there will be another */
		health->servers[due].until_ns =
			now_ns + health_pause_ns(health, &health->servers[due]);
		earliest_ns = FM_MIN(earliest_ns, health->servers[due].until_ns);
		health_touch(health, now_ns, due);
	}
	health->trial_ns = earliest_ns;
	return due;
}

uint32_t health_last_resort(struct health *health, uint64_t now_ns)
{
	uint32_t server = health->first;

	/* draining ones refuse, but they live: only if every one is ejected take the first of them
	 */
	if (health->ejected_count < health->listed)
		while (health->servers[server].state != HEALTH_DRAINING)
			server = health->servers[server].next;
	if (server != HEALTH_NOBODY)
		health_touch(health, now_ns, server);
	return server;
}

/* --- outcomes ----------------------------------------------------------------------------------
 */
static void health_weigh(struct health *health, uint32_t server, bool failed)
{
	struct health_server *it = &health->servers[server];
	float excess;

	health->failed_share += FLEET_SHARE_STEP * ((failed ? 1.0 : 0.0) - health->failed_share);
	if (!failed && it->failed_share < 0.001f) {
		it->failed_share = 0;
		it->weight = 1.0f;
		return;
	}
	it->failed_share += SHARE_STEP * ((failed ? 1.0f : 0.0f) - it->failed_share);
	excess = it->failed_share - (float)health->failed_share;
	it->weight = excess <= 0 ? 1.0f : 1.0f - WEIGHT_SLOPE * excess;
}

void health_success(struct health *health, uint64_t now_ns, uint32_t server, uint64_t latency_ns)
{
	struct health_server *it = &health->servers[server];

	it->failures = it->silences = 0;
	health_weigh(health, server, false);
	if (it->state == HEALTH_FIT || it->state == HEALTH_DRAINING)
		return;
	/* an RPC of before the ejection says nothing; a trial or a last resort does */
	if (it->state == HEALTH_TRYING || now_ns - FM_MIN(now_ns, latency_ns) >= it->since_ns)
		health_return(health, now_ns, server, true);
}

void health_failure(struct health *health, uint64_t now_ns, uint32_t server)
{
	struct health_server *it = &health->servers[server];

	health_weigh(health, server, true);
	if (it->state == HEALTH_TRYING || it->state == HEALTH_HALF_OPEN)
		health_eject(health, now_ns, server, false);
	else if (it->state != HEALTH_EJECTED && ++it->failures >= health->eject_failures)
		health_eject(health, now_ns, server, false);
}

void health_busy(struct health *health, uint32_t server)
{
	health_weigh(health, server, true);
}

void health_undecided(struct health *health, uint64_t now_ns, uint32_t server)
{
	if (health->servers[server].state == HEALTH_TRYING)
		health_half_open(health, now_ns, server);
}

void health_answered(struct health *health, uint64_t now_ns, uint32_t server, bool healthy)
{
	struct health_server *it = &health->servers[server];

	it->answers_probes = true;
	it->silences = 0;
	if (!healthy) {
		if (it->state == HEALTH_FIT || it->state == HEALTH_DRAINING)
			if (++it->failures >= health->eject_failures)
				health_eject(health, now_ns, server, true);
	} else if (it->state == HEALTH_EJECTED && it->ejected_by_probes) {
		health_half_open(health, now_ns, server);
	}
}

void health_silent(struct health *health, uint64_t now_ns, uint32_t server)
{
	struct health_server *it = &health->servers[server];

	/* somebody whose probes are filtered out hears nothing from anybody: no reason to eject */
	if (!it->answers_probes || health_is_ejected(it->state))
		return;
	if (++it->silences < health->eject_failures)
		return;
	it->answers_probes = false;
	health_eject(health, now_ns, server, true);
}

void health_drains(struct health *health, uint64_t now_ns, uint32_t server, bool draining)
{
	struct health_server *it = &health->servers[server];

	if (draining && it->state == HEALTH_FIT)
		health_become(health, now_ns, server, HEALTH_DRAINING);
	else if (!draining && it->state == HEALTH_DRAINING)
		health_return(health, now_ns, server, false);
}

void health_restarted(struct health *health, uint64_t now_ns, uint32_t server)
{
	struct health_server *it = &health->servers[server];

	it->doublings = 0;
	it->failures = it->silences = 0;
	it->failed_share = 0;
	it->weight = 1.0f;
	if (it->state == HEALTH_FIT || it->state == HEALTH_DRAINING)
		health_return(health, now_ns, server, true);
	else if (it->state == HEALTH_EJECTED)
		health_half_open(health, now_ns, server);
	if (it->state == HEALTH_FIT)
		it->since_ns = now_ns;
}

/* --- asking those that are out -----------------------------------------------------------------
 */
unsigned health_probes(struct health *health, uint64_t now_ns, uint32_t *servers, unsigned max)
{
	unsigned count = 0;
	uint32_t server;

	while (count < max && health->first != HEALTH_NOBODY) {
		server = health->first;
		if (!health_due(
			    health, health->servers[server].touched_ns + health->eject_ns, now_ns))
			break;
		health_touch(health, now_ns, server);
		servers[count++] = server;
	}
	return count;
}

uint64_t health_next_ns(const struct health *health)
{
	if (fm_likely(health->first == HEALTH_NOBODY))
		return CLOCK_NEVER_NS;
	return health->servers[health->first].touched_ns + health->eject_ns;
}
