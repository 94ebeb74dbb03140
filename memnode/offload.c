/*
 * memnode/offload.c: the workers; see offload.h. What they do is rebuild.c's, merge.c's,
 * merge_send.c's, and checksum_run here.
 *
 * Invariants
 *   1. A worker has at most one job; a job that is given to a worker is finished by it, whatever
 *      happens, and its caller waits for that: jobs live on their callers' stacks.
 *   2. Nothing is done for more than OFFLOAD_CALLS_MAX callers of Rebuild and Checksum and
 *      OFFLOAD_MERGES_MAX of MergeSend and MergePrepare at once; the next one is told so, of the
 *      latter after a bounded wait. So there is always an idle worker for whom these let in.
 *   3. A kit (memory, connections) belongs to its worker's thread, and is given back when the
 *      worker has had nothing to do for OFFLOAD_LINGER_NS.
 *
 * Lock: stop.mutex guards jobs; taken with nothing held. `stop.cond` is signalled at every change.
 */
#include "memnode/offload.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "memnode/merge.h"
#include "memnode/rebuild.h"
#include "rpc/ctl_client.h"

#define OFFLOAD_LINGER_NS (2 * NS_PER_S)
#define CHECKSUM_RUN_SLOTS 64u /* read at once */
FM_BUILD_ASSERT(CHECKSUM_RUN_SLOTS *FM_PAGE_SIZE <= REBUILD_MEMORY_BYTES, "a run fits a kit");

enum job_kind { JOB_REBUILD, JOB_CHECKSUM, JOB_MERGE_SEND, JOB_MERGE_PREPARE, JOB_KINDS };

struct job {
	enum job_kind kind;
	bool done;
	int error;
	const struct ctl_rebuild *request;
	struct ctl_rebuilt *rebuilt;
	const struct fabric_capability *capability;
	const uint32_t *slots;
	uint32_t *crcs;
	uint32_t count;
	/* merges */
	const struct ctl_merge_send *send;
	uint8_t *deltas;
	struct ctl_merge_sent *sent;
	uint64_t txid;
	struct ctl_merge_prepared *prepared;
};

struct worker {
	struct offload *offload;
	pthread_t thread;
	struct job *job; /* NULL: idle */
	struct rebuild_kit kit;
	struct ctl_queue *calls; /* of partials it sends; NULL until there are any */
};

struct offload {
	struct offload_options options;
	struct rebuild_stop stop;
	unsigned workers_count;
	unsigned running[JOB_KINDS]; /* jobs of each kind */
	unsigned merges_waiting;     /* callers */
	struct merge_table *merges;
	struct merge_clients *clients;
	_Atomic uint64_t merge_sent_bytes;
	struct worker workers[OFFLOAD_WORKERS];
};

/* ---- Checksum ---- */

static int checksum_read(
	struct lease *lease, uint32_t epoch, uint32_t slot, uint32_t count, uint8_t *memory)
{
	if (!lease_enter(lease, epoch))
		return -EACCES;
	int error = FAULT_POINT("memnode.checksum.read")
			    ? -EIO
			    : lease_load(lease, (uint64_t)slot * FM_PAGE_SIZE, memory,
				      (size_t)count * FM_PAGE_SIZE);
	lease_touch(lease);
	lease_put(lease);
	return error;
}

static int checksum_run(struct offload *offload, const struct job *job, uint8_t *memory)
{
	struct lease *lease;
	int error = lease_get(offload->options.leases, job->capability, &lease);
	if (error)
		return error;
	const uint64_t slots = lease_bytes(lease) / FM_PAGE_SIZE;
	lease_put(lease);
	for (uint32_t i = 0; i < job->count; i++)
		if (job->slots[i] >= slots)
			return -EINVAL;
	for (uint32_t i = 0, count; i < job->count && !error; i += count) {
		count = 1;
		while (i + count < job->count && count < CHECKSUM_RUN_SLOTS &&
			job->slots[i + count] == job->slots[i] + count)
			count++;
		error = atomic_load(&offload->stop.stopping)
				? -EAGAIN
				: checksum_read(lease, job->capability->epoch, job->slots[i], count,
					  memory);
		for (uint32_t j = 0; j < count && !error; j++)
			job->crcs[i + j] = crc32c(memory + j * FM_PAGE_SIZE, FM_PAGE_SIZE);
	}
	return error;
}

/* ---- merges ---- */

static int send_run(struct worker *worker, struct job *job)
{
	struct offload *offload = worker->offload;
	const struct merge_sending sending = {.request = job->send,
		.leases = offload->options.leases,
		.clients = offload->clients,
		.way = offload->options.merge_way,
		.stop = &offload->stop,
		.memory = worker->kit.memory,
		.queue = &worker->calls,
		.deltas = job->deltas};
	int error = merge_send_run(&sending, job->sent);
	atomic_fetch_add_explicit(
		&offload->merge_sent_bytes, job->sent->sent_bytes, memory_order_relaxed);
	return error;
}

static int prepare_run(struct offload *offload, struct job *job)
{
	const struct merge_preparing preparing = {.txid = job->txid,
		.target = *job->capability,
		.way = offload->options.merge_way,
		.stop = &offload->stop};
	return merge_prepare(offload->merges, &preparing, job->prepared, &job->count);
}

/* ---- workers ---- */

static int job_run(struct worker *worker, struct job *job)
{
	struct offload *offload = worker->offload;
	if (job->kind == JOB_MERGE_PREPARE)
		return prepare_run(offload, job);
	int error = rebuild_kit_open(&worker->kit);
	if (error)
		return -ENOMEM;
	if (job->kind == JOB_CHECKSUM)
		return checksum_run(offload, job, worker->kit.memory);
	if (job->kind == JOB_MERGE_SEND)
		return send_run(worker, job);
	return rebuild_run(
		&worker->kit, offload->options.leases, &offload->stop, job->request, job->rebuilt);
}

/*
 * The data plane's threads, and the programs of this machine, go first. Measured, one CPU shared
 * with a thread that works four fifths of its time and sleeps 60 us in between: beside a worker of
 * its own priority one wake-up in ten comes 0.6 ms late or more and one in a hundred 4 ms, beside a
 * worker of nice 5 one in a hundred 10 us. SCHED_IDLE gained nothing over that, and on a machine
 * that is never idle it would never get anywhere.
 */
static void worker_yield(const struct worker *worker)
{
	const int nice = worker->offload->options.nice;
	const id_t thread = (id_t)syscall(SYS_gettid);
	errno = 0;
	int now = getpriority(PRIO_PROCESS, thread);
	if (nice && (errno || setpriority(PRIO_PROCESS, thread, FM_MIN(now + nice, 19))))
		log_warn("memnode: offload nice=%d errno=%d", nice, errno);
}

/* Waits for a job; NULL: stopping. The mutex is held, and let go meanwhile. */
static struct job *worker_wait(struct worker *worker)
{
	struct rebuild_stop *stop = &worker->offload->stop;
	const uint64_t linger_ns = clock_now_ns() + OFFLOAD_LINGER_NS;
	const struct timespec until = {
		.tv_sec = (time_t)(linger_ns / NS_PER_S), .tv_nsec = (long)(linger_ns % NS_PER_S)};
	while (!worker->job && !atomic_load(&stop->stopping)) {
		if (!worker->kit.queue) {
			pthread_cond_wait(&stop->cond, &stop->mutex);
		} else if (pthread_cond_timedwait(&stop->cond, &stop->mutex, &until) &&
			   !worker->job) {
			pthread_mutex_unlock(&stop->mutex);
			rebuild_kit_close(&worker->kit);
			pthread_mutex_lock(&stop->mutex);
		}
	}
	return worker->job;
}

static void *worker_main(void *argument)
{
	struct worker *worker = argument;
	struct offload *offload = worker->offload;
	struct job *job;
	worker_yield(worker);
	pthread_mutex_lock(&offload->stop.mutex);
	while ((job = worker_wait(worker)) != NULL) {
		pthread_mutex_unlock(&offload->stop.mutex);
		int error = job_run(worker, job);
		pthread_mutex_lock(&offload->stop.mutex);
		worker->job = NULL;
		offload->running[job->kind]--;
		job->error = error;
		job->done = true;
		pthread_cond_broadcast(&offload->stop.cond);
	}
	pthread_mutex_unlock(&offload->stop.mutex);
	rebuild_kit_close(&worker->kit);
	ctl_queue_close(worker->calls);
	return NULL;
}

int offload_open(const struct offload_options *options, struct offload **out)
{
	*out = NULL;
	struct offload *offload = calloc(1, sizeof(*offload));
	if (!offload)
		return -ENOMEM;
	offload->options = *options;
	rebuild_stop_open(&offload->stop);
	int error = merge_table_open(options->leases, &offload->merges);
	if (!error)
		error = merge_clients_open(&offload->clients);
	for (unsigned i = 0; i < OFFLOAD_WORKERS && !error; i++) {
		struct worker *worker = &offload->workers[i];
		worker->offload = offload;
		error = -pthread_create(&worker->thread, NULL, worker_main, worker);
		offload->workers_count += !error;
	}
	if (error) {
		offload_close(offload);
		return error;
	}
	*out = offload;
	return 0;
}

void offload_stop(struct offload *offload)
{
	if (offload)
		rebuild_stop_now(&offload->stop);
}

void offload_close(struct offload *offload)
{
	if (!offload)
		return;
	offload_stop(offload);
	for (unsigned i = 0; i < offload->workers_count; i++)
		pthread_join(offload->workers[i].thread, NULL);
	merge_clients_close(offload->clients);
	merge_table_close(offload->merges);
	rebuild_stop_close(&offload->stop);
	free(offload);
}

/* ---- callers ---- */

static bool job_is_merge(const struct job *job)
{
	return job->kind == JOB_MERGE_SEND || job->kind == JOB_MERGE_PREPARE;
}

static bool job_is_one_too_many(const struct offload *offload, const struct job *job)
{
	const unsigned *running = offload->running;
	if (job_is_merge(job))
		return running[JOB_MERGE_SEND] + running[JOB_MERGE_PREPARE] >= OFFLOAD_MERGES_MAX;
	return (job->kind == JOB_CHECKSUM && running[JOB_CHECKSUM] >= OFFLOAD_CHECKSUMS_MAX) ||
	       running[JOB_REBUILD] + running[JOB_CHECKSUM] >= OFFLOAD_CALLS_MAX;
}

/* Gives the job to the first idle worker: the one whose connections are most likely still there. */
static int job_give(struct offload *offload, struct job *job)
{
	if (atomic_load(&offload->stop.stopping))
		return -EAGAIN;
	if (job_is_one_too_many(offload, job))
		return -ENOMEM;
	for (unsigned i = 0; i < OFFLOAD_WORKERS; i++) {
		struct worker *worker = &offload->workers[i];
		if (worker->job)
			continue;
		worker->job = job;
		offload->running[job->kind]++;
		pthread_cond_broadcast(&offload->stop.cond);
		return 0;
	}
	return -ENOMEM;
}

/* A merge waits for a worker. The mutex is held, and let go meanwhile. */
static int job_wait_and_give(struct offload *offload, struct job *job)
{
	const uint64_t until_ns = clock_now_ns() + OFFLOAD_MERGE_WAIT_NS;
	const struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S)};
	int error = -ENOMEM, timed_out = 0;
	if (offload->merges_waiting == OFFLOAD_MERGES_WAITING_MAX)
		return error;
	offload->merges_waiting++;
	while (error == -ENOMEM && !timed_out) {
		timed_out =
			pthread_cond_timedwait(&offload->stop.cond, &offload->stop.mutex, &until);
		error = job_give(offload, job);
	}
	offload->merges_waiting--;
	return error;
}

static int offload_do(struct offload *offload, struct job *job)
{
	pthread_mutex_lock(&offload->stop.mutex);
	int error = job_give(offload, job);
	if (error == -ENOMEM && job_is_merge(job))
		error = job_wait_and_give(offload, job);
	while (!error && !job->done)
		pthread_cond_wait(&offload->stop.cond, &offload->stop.mutex);
	pthread_mutex_unlock(&offload->stop.mutex);
	return error ? error : job->error;
}

int offload_rebuild(
	struct offload *offload, const struct ctl_rebuild *request, struct ctl_rebuilt *rebuilt)
{
	struct job job = {.kind = JOB_REBUILD, .request = request, .rebuilt = rebuilt};
	FM_ASSERT(rebuild_fault(request) == NULL);
	return offload_do(offload, &job);
}

int offload_checksum(struct offload *offload, const struct fabric_capability *capability,
	const uint32_t *slots, uint32_t count, uint32_t *crcs)
{
	struct job job = {.kind = JOB_CHECKSUM,
		.capability = capability,
		.slots = slots,
		.count = count,
		.crcs = crcs};
	return offload_do(offload, &job);
}

int offload_merge_send(struct offload *offload, const struct ctl_merge_send *request,
	uint8_t *deltas, struct ctl_merge_sent *sent)
{
	struct job job = {.kind = JOB_MERGE_SEND, .send = request, .deltas = deltas, .sent = sent};
	FM_ASSERT(merge_send_fault(request) == NULL);
	FM_ASSERT_EQ(deltas != NULL, request->targets_count == 0);
	return offload_do(offload, &job);
}

int offload_merge_prepare(struct offload *offload, uint64_t txid,
	const struct fabric_capability *target, struct ctl_merge_prepared *prepared,
	uint32_t *count)
{
	struct job job = {.kind = JOB_MERGE_PREPARE,
		.txid = txid,
		.capability = target,
		.prepared = prepared};
	int error = offload_do(offload, &job);
	*count = job.count;
	return error;
}

struct merge_table *offload_merges(struct offload *offload)
{
	return offload->merges;
}

void offload_tick(struct offload *offload, uint64_t now_ns)
{
	merge_table_tick(offload->merges, now_ns);
}

void offload_load(struct offload *offload, struct offload_load *load)
{
	struct merge_usage usage;
	merge_table_usage(offload->merges, &usage);
	load->rebuilds = offload_rebuilds(offload);
	load->merges = usage.open_count;
	load->merge_sent_bytes =
		atomic_load_explicit(&offload->merge_sent_bytes, memory_order_relaxed);
}

uint32_t offload_rebuilds(struct offload *offload)
{
	pthread_mutex_lock(&offload->stop.mutex);
	uint32_t count = offload->running[JOB_REBUILD];
	pthread_mutex_unlock(&offload->stop.mutex);
	return count;
}
