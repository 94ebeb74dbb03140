/*
 * memnode/merge.c: transactions of compaction at the parity node; see merge.h. Callers: ctl_merge.c
 * (begin, partial, end, on the control plane's own threads), offload.c (prepare, on a worker;
 * tick), ctl_service.c (forget).
 *
 * A lease has at most one open transaction, and remembers how far its txids have ended:
 *
 *                  begin txid                                  end txid or later, begin of a later
 *                  > watermark                                 one, fence, release, MERGE_IDLE_NS
 *     not begun --------------> OPEN ----------------------------------------> ended
 *     NOT_FOUND                 | ^                                        FAILED_PRECONDITION
 *         |                     partial, prepare,                                  ^
 *         |                     begin with the same pairs                          |
 *         +------------------------- end txid or later ----------------------------+
 *
 * and a pair of an open transaction:
 *
 *     partials of some sources --last one--> whole --prepare: stored--> prepared
 *            |  ^ a repeat: DONE, not added    |  another partial for a source that came before
 *            +--+                              +--------------------------------> spoiled, for good
 *
 * What comes in any order, repeated or late is so either without effect or refused; what a prepare
 * answers twice is the same twice: its inputs (a's piece, immutable, and the sums) do not change.
 *
 * Invariants
 *   1. Bytes reach the region only inside lease_enter .. lease_put under the epoch that the
 *      transaction was begun with: after a fence's or a release's answer nothing lands.
 *   2. A transaction that has ended has no user: after an end's answer nothing of it lands either.
 *   3. A place's watermark never falls while its lease lives; txids at or below it are not open.
 *   4. table.scratch_bytes <= MERGE_SCRATCH_BYTES_MAX.
 *   5. A partial is added once, and only if its bytes have the CRC they came with.
 *
 * begin, partial and end hold a reference of the lease from beginning to end: they are answered
 * before a fence that comes meanwhile, or see its epoch. They never wait for a worker to become
 * free, nor for another node: two nodes that send partials to each other do not wait for each
 * other.
 *
 * Locks: table.mutex guards places, users, active_ns; tx.mutex guards sums and states. Neither is
 * taken with the other held, nor with a lease being let go.
 */
#include "memnode/merge.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/crc.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "base/mem.h"
#include "ec/ec.h"

#define STEP_PAIRS (MERGE_STEP_BYTES / FM_PAGE_SIZE) /* of parity stored */
FM_BUILD_ASSERT(EC_M_MAX == CTL_MERGE_TARGETS, "a target for each parity piece");

struct pair_state {
	uint32_t came;       /* positions, bits */
	uint32_t result_crc; /* when prepared */
	bool spoiled, prepared;
	uint32_t crcs[EC_K_MAX]; /* of what came */
};

struct tx {
	struct ctl_merge_begin begin; /* its pairs are ours */
	struct lease *lease;
	uint64_t serial;
	uint64_t scratch_bytes; /* of all this */
	_Atomic bool ended;     /* users had better go */
	/* table.mutex */
	unsigned users;
	uint64_t active_ns;
	/* its own */
	pthread_mutex_t mutex;
	struct pair_state *states;
	struct ctl_merge_pair *pairs;
	uint8_t *sums; /* 4096 bytes for each pair */
};

/* One for each place of the lease table. */
struct place {
	uint64_t lease; /* whose */
	uint64_t watermark;
	struct tx *tx; /* NULL: none open */
};

struct merge_table {
	struct lease_table *leases;
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* an ended transaction lost its last user */
	uint64_t serial;
	uint64_t scratch_bytes;
	uint32_t open_count;
	struct place places[LEASES_MAX];
};

int merge_table_open(struct lease_table *leases, struct merge_table **out)
{
	struct merge_table *table = mem_map(sizeof(*table));
	*out = table;
	if (!table)
		return -ENOMEM;
	table->leases = leases;
	pthread_mutex_init(&table->mutex, NULL);
	pthread_cond_init(&table->changed, NULL);
	return 0;
}

bool merge_give_way(const struct merge_way *way, struct rebuild_stop *stop)
{
	for (unsigned i = 0; i < MERGE_PAUSES_MAX && way->busy && way->busy(way->context); i++)
		rebuild_stop_wait(stop, clock_now_ns() + MERGE_PAUSE_NS);
	return !atomic_load(&stop->stopping);
}

/* ---- places and transactions; table.mutex is held ---- */

static void tx_free(struct merge_table *table, struct tx *tx)
{
	table->scratch_bytes -= tx->scratch_bytes;
	table->open_count--;
	pthread_mutex_destroy(&tx->mutex);
	free(tx);
}

/* Ends what is open there, and waits for who is at work at it; the mutex is let go meanwhile. */
static void place_end(struct merge_table *table, struct place *place)
{
	const uint64_t serial = place->tx->serial;
	place->watermark = FM_MAX(place->watermark, place->tx->begin.txid);
	atomic_store(&place->tx->ended, true);
	while (place->tx && place->tx->serial == serial && place->tx->users)
		pthread_cond_wait(&table->changed, &table->mutex);
	if (place->tx && place->tx->serial == serial) { /* else somebody else waited too */
		tx_free(table, place->tx);
		place->tx = NULL;
	}
}

static struct place *place_of(struct merge_table *table, uint64_t lease)
{
	return &table->places[lease & (LEASES_MAX - 1)];
}

/* The lease's place, with nothing in it of an earlier lease or an earlier epoch. The caller has a
 * reference of the lease. */
static struct place *place_enter(
	struct merge_table *table, const struct fabric_capability *capability)
{
	struct place *place = place_of(table, capability->lease);
	while (place->tx && (place->lease != capability->lease ||
				    place->tx->begin.target.epoch != capability->epoch))
		place_end(table, place);
	if (place->lease != capability->lease)
		*place = (struct place){.lease = capability->lease};
	return place;
}

void merge_table_forget(struct merge_table *table, uint64_t lease)
{
	struct place *place = place_of(table, lease);
	pthread_mutex_lock(&table->mutex);
	while (place->tx && !lease_valid(place->tx->lease, place->tx->begin.target.epoch))
		place_end(table, place);
	pthread_mutex_unlock(&table->mutex);
}

static bool tx_is_left(const struct tx *tx, uint64_t now_ns)
{
	return !tx->users && (now_ns > tx->active_ns + MERGE_IDLE_NS ||
				     !lease_valid(tx->lease, tx->begin.target.epoch));
}

void merge_table_tick(struct merge_table *table, uint64_t now_ns)
{
	pthread_mutex_lock(&table->mutex);
	for (unsigned i = 0; i < LEASES_MAX && table->open_count; i++) {
		struct place *place = &table->places[i];
		if (!place->tx || !tx_is_left(place->tx, now_ns))
			continue;
		log_info("memnode: merge left lease=%" PRIx64 " txid=%" PRIu64, place->lease,
			place->tx->begin.txid);
		place_end(table, place);
	}
	pthread_mutex_unlock(&table->mutex);
}

void merge_table_usage(struct merge_table *table, struct merge_usage *usage)
{
	pthread_mutex_lock(&table->mutex);
	*usage = (struct merge_usage){table->open_count, table->scratch_bytes};
	pthread_mutex_unlock(&table->mutex);
}

void merge_table_close(struct merge_table *table)
{
	if (!table)
		return;
	pthread_mutex_lock(&table->mutex);
	for (unsigned i = 0; i < LEASES_MAX && table->open_count; i++)
		if (table->places[i].tx)
			place_end(table, &table->places[i]);
	pthread_mutex_unlock(&table->mutex);
	pthread_cond_destroy(&table->changed);
	pthread_mutex_destroy(&table->mutex);
	mem_unmap(table, sizeof(*table));
}

/* ---- using a transaction ---- */

/* 0: *out is open, and stays until tx_leave. The caller has a reference of the lease. */
static int tx_enter(struct merge_table *table, uint64_t txid,
	const struct fabric_capability *target, struct tx **out)
{
	int error = 0;
	pthread_mutex_lock(&table->mutex);
	struct place *place = place_enter(table, target);
	if (txid <= place->watermark) {
		error = -EPERM;
	} else if (!place->tx || place->tx->begin.txid != txid) {
		error = -ENOENT;
	} else {
		place->tx->users++;
		place->tx->active_ns = clock_now_ns();
		*out = place->tx;
	}
	pthread_mutex_unlock(&table->mutex);
	return error;
}

static void tx_leave(struct merge_table *table, struct tx *tx)
{
	pthread_mutex_lock(&table->mutex);
	tx->active_ns = clock_now_ns();
	if (--tx->users == 0 && atomic_load(&tx->ended))
		pthread_cond_broadcast(&table->changed);
	pthread_mutex_unlock(&table->mutex);
}

/* ---- begin ---- */

/* Fresh slots are nobody else's: not two pairs', and not one whose bytes are still wanted. */
static bool pairs_collide(const struct ctl_merge_begin *begin)
{
	for (uint32_t i = 0; i < begin->count; i++) {
		const struct ctl_merge_pair *pair = &begin->pairs[i];
		if (pair->fresh_slot == pair->old_slot)
			return true;
		for (uint32_t j = 0; j < i; j++) {
			const struct ctl_merge_pair *other = &begin->pairs[j];
			if (pair->fresh_slot == other->fresh_slot ||
				pair->fresh_slot == other->old_slot ||
				pair->old_slot == other->fresh_slot)
				return true;
		}
	}
	return false;
}

const char *merge_begin_fault(const struct ctl_merge_begin *begin)
{
	if (begin->txid == 0)
		return "txids begin at 1";
	if (begin->k < 1 || begin->k > EC_K_MAX || begin->m < 1 || begin->m > EC_M_MAX)
		return "k must be 1..16, m 1..4";
	if (begin->position < begin->k || begin->position >= begin->k + begin->m)
		return "the target's position is not one of parity";
	if (begin->count < 1 || begin->count > CTL_MERGE_PAIRS)
		return "1..256 pairs at once";
	for (uint32_t i = 0; i < begin->count; i++) {
		const struct ctl_merge_pair *pair = &begin->pairs[i];
		if (pair->sources == 0 || pair->sources >> begin->k != 0)
			return "a pair's sources are not data positions of the code, or none";
		if (pair->old_slot >= REGION_BYTES_MAX / FM_PAGE_SIZE ||
			pair->fresh_slot >= REGION_BYTES_MAX / FM_PAGE_SIZE)
			return "no region has such a slot";
	}
	return pairs_collide(begin) ? "a fresh slot is named twice, or is an old one" : NULL;
}

static bool begin_fits(const struct ctl_merge_begin *begin, const struct lease *lease)
{
	const uint64_t slots = lease_bytes(lease) / FM_PAGE_SIZE;
	for (uint32_t i = 0; i < begin->count; i++)
		if (begin->pairs[i].old_slot >= slots || begin->pairs[i].fresh_slot >= slots)
			return false;
	return true;
}

static bool begin_is_same(const struct ctl_merge_begin *a, const struct ctl_merge_begin *b)
{
	return a->position == b->position && a->k == b->k && a->m == b->m && a->count == b->count &&
	       memcmp(a->pairs, b->pairs, a->count * sizeof(*a->pairs)) == 0;
}

/* NULL: no scratch. The mutex is held. */
static struct tx *tx_make(
	struct merge_table *table, struct lease *lease, const struct ctl_merge_begin *begin)
{
	const uint64_t states_at = FM_ALIGN_UP(sizeof(struct tx), (uint64_t)FM_CACHE_LINE);
	const uint64_t pairs_at = states_at + begin->count * sizeof(struct pair_state);
	const uint64_t sums_at =
		FM_ALIGN_UP(pairs_at + begin->count * sizeof(struct ctl_merge_pair), FM_PAGE_SIZE);
	const uint64_t bytes = sums_at + (uint64_t)begin->count * FM_PAGE_SIZE;
	if (bytes > MERGE_SCRATCH_BYTES_MAX - table->scratch_bytes)
		return NULL;
	/* From malloc: the next transaction finds these pages where this one leaves them. */
	uint8_t *scratch = aligned_alloc(FM_CACHE_LINE, bytes);
	if (!scratch)
		return NULL;
	memset(scratch, 0, sums_at); /* a sum begins with what comes first */
	struct tx *tx = (struct tx *)scratch;
	tx->begin = *begin;
	tx->lease = lease;
	tx->serial = ++table->serial;
	tx->scratch_bytes = bytes;
	tx->active_ns = clock_now_ns();
	tx->states = (struct pair_state *)(scratch + states_at);
	tx->pairs = (struct ctl_merge_pair *)(scratch + pairs_at);
	tx->sums = scratch + sums_at;
	memcpy(tx->pairs, begin->pairs, begin->count * sizeof(*tx->pairs));
	tx->begin.pairs = tx->pairs;
	pthread_mutex_init(&tx->mutex, NULL);
	table->scratch_bytes += bytes;
	table->open_count++;
	return tx;
}

/* The mutex is held, and let go in between. */
static int begin_at(struct merge_table *table, struct place *place, struct lease *lease,
	const struct ctl_merge_begin *begin)
{
	while (place->tx && place->tx->begin.txid < begin->txid)
		place_end(table, place);
	if (begin->txid <= place->watermark)
		return -EPERM;
	if (place->tx) { /* not an earlier one; and with a later one the watermark had come */
		place->tx->active_ns = clock_now_ns();
		return begin_is_same(&place->tx->begin, begin) ? 0 : -EINVAL;
	}
	place->tx = tx_make(table, lease, begin);
	if (!place->tx)
		return -ENOMEM;
	place->watermark = begin->txid - 1;
	return 0;
}

int merge_begin(struct merge_table *table, const struct ctl_merge_begin *begin)
{
	struct lease *lease;
	FM_ASSERT(begin->count >= 1 && begin->count <= CTL_MERGE_PAIRS);
	int error = lease_get(table->leases, &begin->target, &lease);
	if (error)
		return error;
	if (!begin_fits(begin, lease)) {
		lease_put(lease);
		return -EINVAL;
	}
	pthread_mutex_lock(&table->mutex);
	error = FAULT_POINT("memnode.merge.begin")
			? -ENOMEM
			: begin_at(table, place_enter(table, &begin->target), lease, begin);
	pthread_mutex_unlock(&table->mutex);
	lease_put(lease);
	return error;
}

/* ---- partial ---- */

static uint8_t partial_add(
	struct tx *tx, unsigned position, uint32_t index, uint32_t crc, const uint8_t *bytes)
{
	const uint32_t bit = 1u << position;
	if (index >= tx->begin.count || !(tx->pairs[index].sources & bit))
		return CTL_MERGE_REFUSED;
	if (crc32c(bytes, FM_PAGE_SIZE) != crc)
		return CTL_MERGE_CONTRADICTS; /* damaged on its way: may come again */
	struct pair_state *state = &tx->states[index];
	uint8_t *sum = tx->sums + (size_t)index * FM_PAGE_SIZE;
	uint8_t outcome = CTL_MERGE_DONE;
	pthread_mutex_lock(&tx->mutex);
	if (!(state->came & bit)) {
		/* The first is not added to zeros: to read a fresh page before it is written
		 * costs a second fault, and an interrupt on every other CPU. So a sum is
		 * whatever it was until then. */
		if (state->came)
			ec_delta(FM_PAGE_SIZE, sum, bytes, sum);
		else
			memcpy(sum, bytes, FM_PAGE_SIZE);
		state->came |= bit;
		state->crcs[position] = crc;
	} else if (state->crcs[position] != crc) {
		state->spoiled = true;
		outcome = CTL_MERGE_CONTRADICTS;
	}
	pthread_mutex_unlock(&tx->mutex);
	return outcome;
}

int merge_partial(
	struct merge_table *table, const struct ctl_merge_partial *partial, uint8_t *outcomes)
{
	struct lease *lease;
	struct tx *tx;
	FM_ASSERT(partial->count >= 1 && partial->count <= CTL_MERGE_PARTIALS);
	FM_ASSERT(partial->position < EC_K_MAX);
	int error = lease_get(table->leases, &partial->target, &lease);
	if (error)
		return error;
	error = tx_enter(table, partial->txid, &partial->target, &tx);
	if (!error) {
		for (uint32_t i = 0; i < partial->count && !error; i++) {
			if (FAULT_POINT("memnode.merge.partial"))
				error = -EIO;
			else
				outcomes[i] = partial_add(tx, partial->position,
					partial->indexes[i], partial->crcs[i],
					partial->bytes + (size_t)i * FM_PAGE_SIZE);
		}
		tx_leave(table, tx);
	}
	lease_touch(lease);
	lease_put(lease);
	return error;
}

/* ---- prepare ---- */

/* The new parity piece, made and stored. tx.mutex and a reference of the lease are held. */
static int pair_store(struct tx *tx, uint32_t i, uint8_t *outcome)
{
	const struct ctl_merge_pair *pair = &tx->pairs[i];
	struct pair_state *state = &tx->states[i];
	uint8_t piece[FM_PAGE_SIZE] FM_ALIGNED(FM_CACHE_LINE);
	int error = FAULT_POINT("memnode.merge.prepare")
			    ? -EIO
			    : lease_load(tx->lease, (uint64_t)pair->old_slot * FM_PAGE_SIZE, piece,
				      sizeof(piece));
	if (error)
		return error;
	if (crc32c(piece, sizeof(piece)) != pair->old_crc) {
		*outcome = CTL_MERGE_BAD_A;
		return 0;
	}
	ec_delta(sizeof(piece), piece, tx->sums + (size_t)i * FM_PAGE_SIZE, piece);
	error = FAULT_POINT("memnode.merge.prepare.store")
			? -EIO
			: lease_store(tx->lease, (uint64_t)pair->fresh_slot * FM_PAGE_SIZE, piece,
				  sizeof(piece));
	if (error)
		return error;
	state->result_crc = crc32c(piece, sizeof(piece));
	state->prepared = true;
	*outcome = CTL_MERGE_DONE;
	return 0;
}

static int pair_decide(struct tx *tx, uint32_t i, uint8_t *outcome)
{
	const struct pair_state *state = &tx->states[i];
	*outcome = CTL_MERGE_DONE;
	if (state->spoiled)
		*outcome = CTL_MERGE_CONTRADICTS;
	else if (state->came != tx->pairs[i].sources)
		*outcome = CTL_MERGE_MISSING;
	else if (!state->prepared)
		return pair_store(tx, i, outcome);
	return 0;
}

static int pair_prepare(struct tx *tx, uint32_t i, struct ctl_merge_prepared *prepared)
{
	if (!lease_enter(tx->lease, tx->begin.target.epoch))
		return -EACCES;
	pthread_mutex_lock(&tx->mutex);
	int error = pair_decide(tx, i, &prepared->outcomes[i]);
	if (!error && prepared->outcomes[i] == CTL_MERGE_DONE)
		prepared->crcs[i] = tx->states[i].result_crc;
	pthread_mutex_unlock(&tx->mutex);
	lease_touch(tx->lease);
	lease_put(tx->lease);
	return error;
}

int merge_prepare(struct merge_table *table, const struct merge_preparing *preparing,
	struct ctl_merge_prepared *prepared, uint32_t *count)
{
	struct lease *lease;
	struct tx *tx;
	int error = lease_get(table->leases, &preparing->target, &lease);
	if (error)
		return error;
	error = tx_enter(table, preparing->txid, &preparing->target, &tx);
	lease_put(lease); /* a fence does not wait for all of this */
	if (error)
		return error;
	memset(prepared, 0, sizeof(*prepared));
	*count = tx->begin.count;
	for (uint32_t i = 0; i < tx->begin.count && !error; i++) {
		if (i % STEP_PAIRS == 0 && !merge_give_way(&preparing->way, preparing->stop))
			error = -EAGAIN;
		else if (atomic_load(&tx->ended))
			error = -EPERM;
		else
			error = pair_prepare(tx, i, prepared);
	}
	tx_leave(table, tx);
	return error;
}

/* ---- end ---- */

int merge_end(struct merge_table *table, uint64_t txid, const struct fabric_capability *target,
	bool commit)
{
	struct lease *lease;
	int error = lease_get(table->leases, target, &lease);
	if (error)
		return error;
	if (FAULT_POINT("memnode.merge.end")) {
		lease_put(lease);
		return -EIO;
	}
	pthread_mutex_lock(&table->mutex);
	struct place *place = place_enter(table, target);
	place->watermark = FM_MAX(place->watermark, txid);
	while (place->tx && place->tx->begin.txid <= txid)
		place_end(table, place);
	pthread_mutex_unlock(&table->mutex);
	lease_touch(lease);
	lease_put(lease);
	log_debug("memnode: merge end lease=%" PRIx64 " txid=%" PRIu64 " commit=%d", target->lease,
		txid, commit);
	return 0;
}
