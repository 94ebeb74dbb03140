/*
 * apps/load_run.c: the open loop of fm-load. See load.h.
 *
 * Requests leave when an arrival process says so, whether answers come or not, and their latency
 * counts from the intended time: a generator that waits for answers, or that is late itself, would
 * leave out exactly the requests that meet a queue (coordinated omission). How late it was is
 * reported beside the results.
 *
 * Invariants
 *   1. A slice ends when every request of it has ended: nothing of one policy is on its way, or in
 *      a server's queue, while another one is measured.
 *   2. Requests of the warm-up count nowhere but in the probes' and servers' state.
 *   3. All policies of a round see the same intended times.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apps/lb_tool.h"
#include "apps/load.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "lb/channel.h"
#include "lb/sim/chance.h"

struct request {
	struct run *run;
	struct request *next; /* free */
	uint64_t intended_ns;
	uint8_t *reply;
};

/* One slice under way. */
struct run {
	struct load_job *job;
	struct load_policy *policy;
	struct load_series *series;
	struct load_slice *slice;
	uint64_t measure_ns; /* from here on requests count */
	uint64_t in_flight;
	struct request *free;
};

static void note_end(struct run *run, uint64_t intended_ns, int status)
{
	const struct load_options *o = &run->job->options;
	uint64_t now_ns = clock_now_ns();
	uint64_t latency_ns = now_ns > intended_ns ? now_ns - intended_ns : 0;

	if (intended_ns < run->measure_ns)
		return;
	if (status != 0) {
		run->slice->failed++;
		run->slice->refused += status == -EBUSY;
		/* A quick refusal must not look better than a slow answer. */
		latency_ns = FM_MAX(latency_ns, o->deadline_ns);
	} else if (latency_ns <= o->slo_ns) {
		run->slice->good++;
	}
	load_slice_note(run->slice, latency_ns);
}

static void request_done(void *context, int status, size_t resp_bytes)
{
	struct request *request = context;
	struct run *run = request->run;

	if (status == 0 && resp_bytes != run->job->options.bytes)
		status = -EBADMSG;
	note_end(run, request->intended_ns, status);
	run->in_flight--;
	request->next = run->free;
	run->free = request;
}

static void note_sent(struct run *run, uint64_t intended_ns)
{
	uint64_t now_ns = clock_now_ns();
	uint64_t late_ns = now_ns > intended_ns ? now_ns - intended_ns : 0;

	if (intended_ns < run->measure_ns)
		return;
	run->slice->sent++;
	run->series->late_count++;
	run->series->late_sum_ns += late_ns;
	run->series->late_max_ns = FM_MAX(run->series->late_max_ns, late_ns);
}

static void request_send(struct run *run, uint64_t intended_ns)
{
	const struct load_job *job = run->job;
	struct request *request = run->free;
	struct fm_rpc_call_options call = {
		.method = LB_TOOL_METHOD_ECHO,
		.req = job->payload,
		.req_bytes = job->options.bytes,
		.deadline_ns = job->options.deadline_ns,
		.intended_ns = intended_ns,
		.done = request_done,
	};
	int rc = -EAGAIN; /* no request free: as many are under way as may be */

	note_sent(run, intended_ns);
	if (request != NULL) {
		run->free = request->next;
		request->run = run;
		request->intended_ns = intended_ns;
		call.resp = request->reply;
		call.resp_capacity = job->options.bytes;
		call.context = request;
		rc = fm_rpc_start(run->policy->channel, &call, NULL);
		if (rc < 0) {
			request->next = run->free;
			run->free = request;
		}
	}
	if (rc == 0)
		run->in_flight++;
	else
		note_end(run, intended_ns, rc);
}

static uint64_t gap_ns(const struct load_job *job, struct chance *chance, double rate)
{
	double mean_ns = 1e9 / rate;

	return (uint64_t)(job->options.arrivals == 0 ? chance_exponential(chance, mean_ns)
						     : mean_ns) +
	       1;
}

static uint64_t probes_so_far(const struct load_policy *policy)
{
	struct channel_counts counts;

	channel_look(policy->channel, &counts, NULL);
	return counts.probes_sent;
}

static void slice_run(struct run *run, double rate, uint64_t arrivals_seed)
{
	const struct load_options *o = &run->job->options;
	uint64_t begin_ns = clock_now_ns(), next_ns, end_ns, probes = 0;
	struct chance chance;
	bool measuring = false;

	chance_seed(&chance, o->seed, arrivals_seed);
	run->measure_ns = begin_ns + o->warm_up_ns;
	end_ns = begin_ns + o->slice_ns;
	next_ns = begin_ns + gap_ns(run->job, &chance, rate);
	while (next_ns < end_ns) {
		uint64_t now_ns = clock_now_ns();

		if (!measuring && now_ns >= run->measure_ns) {
			probes = probes_so_far(run->policy);
			measuring = true;
		}
		for (; next_ns <= now_ns && next_ns < end_ns;
			next_ns += gap_ns(run->job, &chance, rate))
			request_send(run, next_ns);
		now_ns = clock_now_ns();
		(void)fm_rpc_poll(run->policy->channel, next_ns > now_ns ? next_ns - now_ns : 0);
	}
	run->slice->probes = probes_so_far(run->policy) - probes;
	run->slice->measured_ns = o->slice_ns - o->warm_up_ns;
	while (run->in_flight > 0) /* ends: every call has its deadline */
		(void)fm_rpc_poll(run->policy->channel, NS_PER_MS);
}

/* --- all of it ----------------------------------------------------------------------------------
 */

static int requests_open(const struct load_job *job, struct run *run, struct request **requests)
{
	*requests = calloc(job->options.calls_max, sizeof(**requests));
	if (*requests == NULL)
		return -ENOMEM;
	for (uint64_t i = 0; i < job->options.calls_max; i++) {
		(*requests)[i].reply = malloc(job->options.bytes + 1);
		if ((*requests)[i].reply == NULL)
			return -ENOMEM;
		(*requests)[i].next = run->free;
		run->free = &(*requests)[i];
	}
	return 0;
}

static void requests_close(const struct load_job *job, struct request *requests)
{
	for (uint64_t i = 0; requests != NULL && i < job->options.calls_max; i++)
		free(requests[i].reply);
	free(requests);
}

static int policies_open(struct load_job *job)
{
	const struct load_options *o = &job->options;

	for (unsigned i = 0; i < job->policies_count; i++) {
		struct load_policy *policy = &job->policies[i];
		struct fm_rpc_options options = {
			.servers = policy->other ? o->other_servers : o->servers,
			.policy = policy->policy,
			.deadline_ns = o->deadline_ns,
			.probes_per_rpc = job->probes_per_rpc,
			.sample_age_ns = o->sample_age_ns,
			.service_ns = o->service_ns,
			.resend_ns = o->resend_ns,
			.retries = o->retries != 0 ? (unsigned)o->retries : FM_RPC_NO_RETRIES,
			.calls_max = (unsigned)o->calls_max,
			.seed = o->seed + i + 1,
		};
		int rc = fm_rpc_open(&policy->channel, &options);

		for (unsigned r = 0; r < job->rates_count && rc == 0; r++)
			rc = load_series_open(&policy->series[r], job->rounds_count);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void round_run(struct load_job *job, struct run *run, unsigned rate, unsigned round)
{
	for (unsigned i = 0; i < job->policies_count; i++) {
		unsigned turn = round % 2 == 0 ? i : job->policies_count - 1 - i;

		run->policy = &job->policies[turn];
		run->series = &run->policy->series[rate];
		run->slice = &run->series->slices[round];
		slice_run(run, job->rates[rate], (uint64_t)round * LOAD_RATES_MAX + rate);
	}
}

int load_run(struct load_job *job)
{
	struct run run = {.job = job};
	struct request *requests = NULL;
	int rc = policies_open(job);

	if (rc == 0)
		rc = requests_open(job, &run, &requests);
	for (unsigned round = 0; rc == 0 && round < job->rounds_count; round++)
		for (unsigned rate = 0; rate < job->rates_count; rate++)
			round_run(job, &run, rate, round);
	requests_close(job, requests);
	return rc;
}
