/*
 * lb/sim/station.c: see station.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "lb/sim/station.h"

#define JOBS_FIRST 4096u
#define JOBS_MAX (1u << 26)

static bool jobs_grow(struct jobs *jobs)
{
	uint32_t capacity = jobs->capacity ? 2 * jobs->capacity : JOBS_FIRST;
	struct job *items;

	if (jobs->capacity >= JOBS_MAX)
		return false;
	items = realloc(jobs->items, capacity * sizeof(*items));
	if (!items)
		return false;
	jobs->items = items;
	jobs->capacity = capacity;
	return true;
}

uint32_t jobs_take(struct jobs *jobs)
{
	uint32_t taken = jobs->free, serial = 0;

	if (taken != JOB_NONE) {
		jobs->free = jobs->items[taken].next;
		serial = jobs->items[taken].serial;
	} else {
		if (jobs->count == jobs->capacity && !jobs_grow(jobs))
			return JOB_NONE;
		taken = jobs->count++;
	}
	jobs->items[taken] = (struct job){
		.next = JOB_NONE, .parent = JOB_NONE, .serial = serial + 1, .server = JOB_NONE};
	return taken;
}

void jobs_give(struct jobs *jobs, uint32_t job)
{
	jobs->items[job].next = jobs->free;
	jobs->items[job].serial++;
	jobs->free = job;
}

int stations_open(struct stations *stations, uint32_t count, uint32_t workers)
{
	stations->count = count;
	stations->jobs = (struct jobs){.free = JOB_NONE};
	stations->workers = calloc((size_t)count * workers, sizeof(*stations->workers));
	stations->items = aligned_alloc(64, count * sizeof(*stations->items));
	if (!stations->items || !stations->workers) {
		stations_close(stations);
		return -ENOMEM;
	}
	memset(stations->items, 0, count * sizeof(*stations->items));
	for (uint32_t i = 0; i < count; i++) {
		struct station *station = &stations->items[i];

		station->workers = stations->workers + (size_t)i * workers;
		station->worker_count = station->idle = workers;
		station->head = station->tail = JOB_NONE;
		station->speed = 1;
		station->slot.epoch = 1;
		for (uint32_t w = 0; w < workers; w++)
			station->workers[w].job = JOB_NONE;
		load_publish(&station->slot, &(struct load_report){.stamp_ns = 0});
	}
	return 0;
}

void stations_close(struct stations *stations)
{
	free(stations->items);
	free(stations->workers);
	free(stations->jobs.items);
	stations->items = NULL;
	stations->workers = NULL;
	stations->jobs.items = NULL;
}

static void publish(struct stations *stations, struct station *station)
{
	struct load_report report = {.stamp_ns = stations->events->now_ns,
		.in_flight = station->in_flight > UINT16_MAX ? UINT16_MAX
							     : (uint16_t)station->in_flight};

	/* A request that comes to an idle worker waits for nothing, whatever the last one did. */
	if (station->idle == 0) {
		report.delay_ns = station->delay_ns;
		if (station->head != JOB_NONE)
			report.waiting_since_ns = stations->jobs.items[station->head].arrived_ns;
	}
	load_publish(&station->slot, &report);
}

void station_load(struct stations *stations, uint32_t server, struct load *load)
{
	struct station *station = &stations->items[server];
	uint64_t now_ns = stations->events->now_ns;

	/* What its owner's timer would have done since. */
	if (now_ns - station->slot.reports[station->slot.version & 1].stamp_ns > LOAD_REFRESH_NS)
		publish(stations, station);
	load_read(&station->slot, now_ns, load);
}

static uint64_t at_speed(const struct station *station, uint64_t work_ns)
{
	return station->speed == 1 ? work_ns : (uint64_t)((double)work_ns / station->speed);
}

static void schedule_end(struct stations *stations, struct station *station, uint32_t worker_index)
{
	struct station_worker *worker = &station->workers[worker_index];

	events_add(stations->events, &(struct event){.at_ns = worker->end_ns,
					     .kind = stations->rules.event_kind,
					     .who = (uint32_t)(station - stations->items),
					     .what = worker_index,
					     .serial = ++worker->serial});
}

static void begin(struct stations *stations, struct station *station, uint32_t worker_index,
	uint32_t job_index)
{
	struct station_worker *worker = &station->workers[worker_index];
	struct job *job = &stations->jobs.items[job_index];
	uint64_t now_ns = stations->events->now_ns;

	worker->job = job_index;
	worker->begun_ns = now_ns;
	worker->stolen_ns = 0;
	worker->slice_ns = job->work_ns;
	if (stations->rules.quantum_ns > 0 && worker->slice_ns > stations->rules.quantum_ns)
		worker->slice_ns = stations->rules.quantum_ns;
	worker->end_ns = now_ns + at_speed(station, worker->slice_ns);
	schedule_end(stations, station, worker_index);
}

static void enqueue(struct stations *stations, struct station *station, uint32_t job_index)
{
	stations->jobs.items[job_index].next = JOB_NONE;
	if (station->tail == JOB_NONE)
		station->head = job_index;
	else
		stations->jobs.items[station->tail].next = job_index;
	station->tail = job_index;
	station->waiting++;
}

static uint32_t dequeue(struct stations *stations, struct station *station)
{
	uint32_t job_index = station->head;

	station->head = stations->jobs.items[job_index].next;
	if (station->head == JOB_NONE)
		station->tail = JOB_NONE;
	station->waiting--;
	return job_index;
}

static uint32_t idle_worker(struct station *station)
{
	/* In turn, so that what interrupts a worker meets each as often. */
	for (uint32_t i = 0; i < station->worker_count; i++) {
		station->turn = station->turn + 1 == station->worker_count ? 0 : station->turn + 1;
		if (station->workers[station->turn].job == JOB_NONE)
			return station->turn;
	}
	FM_PANIC("no worker is idle");
}

void station_arrive(struct stations *stations, uint32_t server, uint32_t job_index)
{
	struct station *station = &stations->items[server];
	struct job *job = &stations->jobs.items[job_index];

	job->arrived_ns = stations->events->now_ns;
	if (job->kind == JOB_REQUEST) {
		station->requests++;
		station->in_flight++;
	} else {
		station->probes++;
		station->probe_ns += job->work_ns;
	}
	if (station->idle > 0) {
		uint32_t worker = idle_worker(station);

		station->idle--;
		if (job->kind == JOB_REQUEST)
			station->delay_ns = 0;
		begin(stations, station, worker, job_index);
	} else {
		enqueue(stations, station, job_index);
	}
	publish(stations, station);
}

/* The worker takes the next job, if one waits. */
static void begin_next(struct stations *stations, struct station *station, uint32_t worker_index)
{
	struct job *job;
	uint64_t waited_ns;
	uint32_t job_index;

	station->workers[worker_index].job = JOB_NONE;
	if (station->head == JOB_NONE) {
		station->idle++;
		return;
	}
	job_index = dequeue(stations, station);
	job = &stations->jobs.items[job_index];
	waited_ns = stations->events->now_ns - job->arrived_ns;
	if (job->kind == JOB_REQUEST)
		station->delay_ns = waited_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)waited_ns;
	begin(stations, station, worker_index, job_index);
}

/* The worker's turn with its job is over: true when the job is done. */
static bool turn_over(struct stations *stations, struct station *station, uint32_t worker_index)
{
	struct station_worker *worker = &station->workers[worker_index];
	struct job *job = &stations->jobs.items[worker->job];

	station->busy_ns += stations->events->now_ns - worker->begun_ns;
	job->work_ns -= worker->slice_ns;
	if (job->work_ns == 0)
		return true;
	if (station->head == JOB_NONE) {
		begin(stations, station, worker_index, worker->job);
		return false;
	}
	job->work_ns += stations->rules.switch_ns;
	job->arrived_ns = stations->events->now_ns; /* it waits anew */
	enqueue(stations, station, worker->job);
	begin_next(stations, station, worker_index);
	return false;
}

uint32_t station_end(struct stations *stations, const struct event *event)
{
	struct station *station = &stations->items[event->who];
	struct station_worker *worker = &station->workers[event->what];
	uint32_t done = worker->job;

	if (worker->serial != event->serial || done == JOB_NONE)
		return JOB_NONE;
	if (worker->stolen_ns > 0) {
		worker->end_ns += worker->stolen_ns;
		worker->stolen_ns = 0;
		schedule_end(stations, station, event->what);
		return JOB_NONE;
	}
	if (!turn_over(stations, station, event->what)) {
		publish(stations, station);
		return JOB_NONE;
	}
	if (stations->jobs.items[done].kind == JOB_REQUEST)
		station->in_flight--;
	begin_next(stations, station, event->what);
	publish(stations, station);
	return done;
}

uint64_t station_probe(
	struct stations *stations, uint32_t server, enum station_probe kind, uint64_t cost_ns)
{
	struct station *station = &stations->items[server];
	uint64_t now_ns = stations->events->now_ns, taken_ns = at_speed(station, cost_ns);

	station->probes++;
	station->probe_ns += cost_ns;
	station->turn = station->turn + 1 == station->worker_count ? 0 : station->turn + 1;
	if (station->workers[station->turn].job != JOB_NONE)
		station->workers[station->turn].stolen_ns += taken_ns;
	if (kind == STATION_PROBE_EBPF)
		return now_ns + taken_ns;
	if (station->thread_free_ns < now_ns)
		station->thread_free_ns = now_ns;
	station->thread_free_ns += taken_ns;
	return station->thread_free_ns;
}

void station_set_speed(struct stations *stations, uint32_t server, double speed)
{
	struct station *station = &stations->items[server];
	uint64_t now_ns = stations->events->now_ns;

	for (uint32_t i = 0; i < station->worker_count; i++) {
		struct station_worker *worker = &station->workers[i];
		uint64_t left_ns;

		if (worker->job == JOB_NONE)
			continue;
		left_ns = worker->end_ns + worker->stolen_ns - now_ns;
		worker->stolen_ns = 0;
		worker->end_ns = now_ns + (uint64_t)((double)left_ns * station->speed / speed);
		schedule_end(stations, station, i);
	}
	station->speed = speed;
}

static void drop(struct jobs *jobs, uint32_t job_index)
{
	jobs->items[job_index].away = false;
	if (jobs->items[job_index].ended)
		jobs_give(jobs, job_index);
}

void station_stop(struct stations *stations, uint32_t server)
{
	struct station *station = &stations->items[server];

	for (uint32_t i = 0; i < station->worker_count; i++) {
		struct station_worker *worker = &station->workers[i];

		if (worker->job != JOB_NONE)
			drop(&stations->jobs, worker->job);
		worker->job = JOB_NONE;
		worker->serial++;
	}
	while (station->head != JOB_NONE)
		drop(&stations->jobs, dequeue(stations, station));
	station->idle = station->worker_count;
	station->in_flight = 0;
	station->delay_ns = 0;
	station->assigned = 0;
	station->down = true;
}

void station_restart(struct stations *stations, uint32_t server, uint32_t epoch)
{
	struct station *station = &stations->items[server];

	station->down = false;
	station->slot.epoch = epoch;
	publish(stations, station);
}
