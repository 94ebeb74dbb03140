/*
 * lb/sim/sim_weather.c: what befalls a simulated fleet: bursts, slow servers, antagonists, crashes,
 * steps of the load. See sim_parts.h.
 */
#include <math.h>

#include "lb/sim/sim_parts.h"

#define DEGRADED_SPEED (1.0 / 16)

/* Mean time between arrivals, now. */
void weather_set_gap(struct sim *sim)
{
	const struct sim_options *options = &sim->options;
	double capacity = (double)options->servers * options->workers / (double)options->service_ns;
	double rate = options->load * capacity;

	if (options->burst_factor > 1) {
		double burst_ns = (double)options->burst_ns, calm_ns = (double)options->calm_ns;
		double calm =
			rate * (burst_ns + calm_ns) / (options->burst_factor * burst_ns + calm_ns);

		rate = sim->bursting ? calm * options->burst_factor : calm;
	}
	sim->gap_ns = 1 / rate;
	/* The time that is left to an exponential clock does not depend on the past: draw anew. */
	weather_next_arrival(sim, (double)sim->events.now_ns);
}

void weather_next_arrival(struct sim *sim, double after_ns)
{
	sim->arrival_ns =
		after_ns + chance_exponential(&sim->chances[STREAM_ARRIVALS], sim->gap_ns);
	sim->arrival_serial++;
	events_add(&sim->events, &(struct event){.at_ns = (uint64_t)fmax(sim->arrival_ns,
							 (double)sim->events.now_ns),
					 .kind = SIM_ARRIVAL,
					 .serial = sim->arrival_serial});
}

static void later(struct sim *sim, double in_ns, enum sim_event kind, struct event event)
{
	event.at_ns = sim->events.now_ns + (uint64_t)in_ns;
	event.kind = kind;
	events_add(&sim->events, &event);
}

static void next_burst(struct sim *sim)
{
	double mean_ns = (double)(sim->bursting ? sim->options.burst_ns : sim->options.calm_ns);

	later(sim, chance_exponential(&sim->chances[STREAM_WEATHER], mean_ns), SIM_BURST,
		(struct event){.what = !sim->bursting});
}

static void set_slow(struct sim *sim, double share)
{
	uint32_t slow = (uint32_t)(share * sim->options.servers + 0.5);

	for (uint32_t i = 0; i < sim->options.servers; i++) {
		sim->speeds[i] = i < slow ? 1 / sim->options.slow_factor : 1;
		if (i >= sim->options.servers - sim->options.degraded)
			sim->speeds[i] = DEGRADED_SPEED;
		if (sim->stations.items[i].speed != sim->speeds[i])
			station_set_speed(&sim->stations, i, sim->speeds[i]);
	}
}

void weather_begin(struct sim *sim)
{
	const struct sim_options *options = &sim->options;
	struct chance *chance = &sim->chances[STREAM_WEATHER];
	uint32_t harmed = (uint32_t)(options->antagonist_share * options->servers + 0.5);
	double run_ns;

	weather_set_gap(sim);
	run_ns = sim->gap_ns * options->requests;
	set_slow(sim, options->slow_share);
	for (uint32_t i = 0; i < options->failing; i++)
		sim->stations.items[i].failing = true;
	if (options->burst_factor > 1)
		next_burst(sim);
	for (uint32_t i = 0; i < harmed; i++)
		later(sim, chance_unit(chance) * 2 * (double)options->antagonist_ns, SIM_ANTAGONIST,
			(struct event){.who = i, .what = 1});
	/* From the far end, so that failing and restarting servers are different ones. */
	for (uint32_t i = 0; i < options->restarts; i++)
		later(sim, run_ns * (0.4 + 0.2 * chance_unit(chance)), SIM_CRASH,
			(struct event){.who = options->servers - 1 - i});
	sim->look_ns = (uint64_t)(run_ns / SIM_LOOKS) + 1;
	later(sim, (double)sim->look_ns, SIM_LOOK, (struct event){0});
}

static void look(struct sim *sim)
{
	uint64_t sum = 0;
	uint32_t most = 0;

	for (uint32_t i = 0; i < sim->options.servers; i++) {
		uint32_t here = sim->stations.items[i].in_flight;

		sum += here;
		most = here > most ? here : most;
	}
	if (sim->arrived > (uint32_t)(sim->options.warm_share * sim->options.requests)) {
		sim->look_mean += (double)sum / sim->options.servers;
		sim->look_most += most;
		sim->looks++;
	}
	if (sim->arrived < sim->options.requests)
		later(sim, (double)sim->look_ns, SIM_LOOK, (struct event){0});
}

static void antagonist(struct sim *sim, const struct event *event)
{
	double left = event->what ? 1 - sim->options.antagonist_part : 1;

	station_set_speed(&sim->stations, event->who, sim->speeds[event->who] * left);
	if (sim->ended < sim->options.requests)
		later(sim, (double)sim->options.antagonist_ns, SIM_ANTAGONIST,
			(struct event){.who = event->who, .what = !event->what});
}

void weather_event(struct sim *sim, const struct event *event)
{
	uint32_t epoch = sim->stations.items[event->who].slot.epoch;

	switch ((enum sim_event)event->kind) {
	case SIM_BURST:
		sim->bursting = event->what;
		if (sim->arrived < sim->options.requests) {
			weather_set_gap(sim);
			next_burst(sim);
		}
		break;
	case SIM_ANTAGONIST:
		antagonist(sim, event);
		break;
	case SIM_CRASH:
		station_stop(&sim->stations, event->who);
		later(sim, (double)sim->options.restart_ns, SIM_RESTART,
			(struct event){.who = event->who});
		break;
	case SIM_RESTART:
		station_restart(&sim->stations, event->who, epoch + 1);
		break;
	default:
		look(sim);
	}
}

/* The steps that were asked for. */
void weather_change(struct sim *sim)
{
	while (sim->next_change < sim->options.change_count &&
		sim->options.changes[sim->next_change].at_request <= sim->arrived) {
		const struct sim_change *change = &sim->options.changes[sim->next_change++];

		switch (change->kind) {
		case SIM_LOAD:
			sim->options.load = change->value;
			break;
		case SIM_SERVICE:
			sim->options.service = (enum chance_service)change->value;
			break;
		case SIM_SLOW:
			set_slow(sim, change->value);
			break;
		}
	}
}
