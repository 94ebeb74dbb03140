/*
 * memnode/lease.c: the leases of this node; see memnode/lease.h.
 *
 * Called by the ctl service (a few calls a second) and by the data servers (enter and put around
 * every operation, no lock).
 *
 *            reserve                tick: no sign of life for keepalive_ns
 *     FREE ----------> LEASED <----------------------------------------> ORPHANED
 *      ^                 |         keepalive, traffic                        |
 *      |                 | release, or                       release, or     |
 *      +-- REVOKING <----+ tick: silent and never used       orphan_keep_ns -+
 *
 * Each place has a GATE, one atomic word {epoch:32, open:1, references:31}. Whoever touches the
 * memory holds a reference, taken while the gate was open under his epoch. Revoking and fencing
 * close the gate, wait for the references (each lasts one system call), and change the memory only
 * then.
 *
 * Invariants
 *   1. memory, memfd, bytes, key, id of a place change only while its gate is closed and nobody
 *      holds a reference.
 *   2. An epoch comes only once in a place: opening the gate always raises it. So (place, epoch)
 *      names a lease.
 *   3. leased_bytes <= options.memory_bytes; it counts what is being made and what is being unmade.
 *   4. Memory is lent once: a new lease is a new memfd, which the kernel hands out zeroed.
 *   5. Only release and orphan_keep_ns without a sign of life destroy a lease's bytes. A lease
 * whose capability nobody has ever shown has none: when it falls silent, its client died before it
 *      wrote down what it had been given, and it is revoked at once.
 *
 * Threads: the warmer (table_warm), which has a reference like everybody else.
 * Locks: table.mutex alone; callers may hold a connection's. `changed` is signalled when a closed
 * gate's last reference goes and when `busy` ends.
 */
#include "memnode/lease.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "memnode/region.h"

#define KEEPALIVE_NS_DEFAULT (15 * NS_PER_S)
#define ORPHAN_KEEP_NS_DEFAULT (600 * NS_PER_S)
#define LEASE_INDEX_BITS 14
#define WARMER_NICE 10
/*
 * A step keeps a CPU for a millisecond, most of it where the kernel lets nobody else in, and nice
 * says little across sessions (sched_autogroup): nine regions warmed at full speed took a whole
 * CPU, and most of a program's throughput, for 0.8 s. So the warmer rests so many times as long as
 * its last step took.
 */
#define WARMER_RESTS 31u
#define WARMER_REST_MAX_NS (200 * NS_PER_MS)
FM_BUILD_ASSERT(LEASES_MAX == 1u << LEASE_INDEX_BITS, "an id's low bits are the place");

#define GATE_REFERENCES 0x7fffffffull
#define GATE_OPEN 0x80000000ull
#define GATE_EPOCH(gate) ((uint32_t)((gate) >> 32))

struct lease {
	_Atomic uint64_t gate;
	_Atomic bool touched; /* traffic since the last tick */
	_Atomic bool shared;  /* the memfd was handed out */
	_Atomic bool used;    /* its capability was shown since it was made */
	struct lease_table *table;
	/* Below: invariant 1, or the table's mutex. */
	enum lease_state state;
	bool busy; /* being fenced: others wait */
	bool cold; /* its region is to be warmed */
	uint64_t id;
	uint8_t key[16];
	uint8_t client[16];
	uint64_t alive_ns;
	struct region region;
};

struct lease_table {
	struct lease_table_options options;
	uint64_t incarnation;
	_Atomic bool shared; /* see lease_table_share */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	uint64_t leased_bytes;
	uint64_t serial;
	uint32_t next_place; /* where to look for a free one */
	/* The warmer (see there), and its signal: there is a cold region, or the end. */
	pthread_t warmer;
	pthread_cond_t work;
	bool ending;
	bool said_no_huge;
	bool huge_in_force;
	/* See lease_table_on_cut. */
	lease_cut *cut;
	void *cut_context;
	unsigned cuts_count; /* under way */
	struct lease leases[LEASES_MAX];
};

static int random_bytes(void *into, size_t bytes)
{
	ssize_t n;
	do
		n = getrandom(into, bytes, 0);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)bytes ? 0 : -EIO;
}

static void *table_warm(void *context);

int lease_table_open(const struct lease_table_options *options, struct lease_table **table)
{
	*table = NULL;
	struct lease_table *t = mem_map(sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->options = *options;
	if (!t->options.keepalive_ns)
		t->options.keepalive_ns = KEEPALIVE_NS_DEFAULT;
	if (!t->options.orphan_keep_ns)
		t->options.orphan_keep_ns = ORPHAN_KEEP_NS_DEFAULT;
	while (!t->incarnation) {
		int r = random_bytes(&t->incarnation, sizeof(t->incarnation));
		if (r) {
			mem_unmap(t, sizeof(*t));
			return r;
		}
	}
	pthread_mutex_init(&t->mutex, NULL);
	pthread_cond_init(&t->changed, NULL);
	pthread_condattr_t attributes;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&t->work, &attributes);
	pthread_condattr_destroy(&attributes);
	int error = pthread_create(&t->warmer, NULL, table_warm, t);
	if (error) {
		mem_unmap(t, sizeof(*t));
		return -error;
	}
	*table = t;
	return 0;
}

void lease_table_share(struct lease_table *table)
{
	atomic_store(&table->shared, true);
}

void lease_table_on_cut(struct lease_table *table, lease_cut *cut, void *context)
{
	pthread_mutex_lock(&table->mutex);
	table->cut = cut;
	table->cut_context = context;
	while (table->cuts_count)
		pthread_cond_wait(&table->changed, &table->mutex);
	pthread_mutex_unlock(&table->mutex);
}

uint64_t lease_table_incarnation(const struct lease_table *table)
{
	return table->incarnation;
}

/* --- gates --- */

static void gate_open(struct lease *lease)
{
	uint64_t old = atomic_load(&lease->gate), new;
	do
		new = ((uint64_t)(GATE_EPOCH(old) + 1) << 32) | GATE_OPEN | (old & GATE_REFERENCES);
	while (!atomic_compare_exchange_weak(&lease->gate, &old, new));
}

/* With the same epoch: nothing has changed. */
static void gate_reopen(struct lease *lease)
{
	atomic_fetch_or(&lease->gate, GATE_OPEN);
}

/* Holding the mutex, which is let go while waiting. The caller has seen to it that nobody else
 * comes by. */
static void gate_close(struct lease *lease)
{
	atomic_fetch_and(&lease->gate, ~GATE_OPEN);
	while (atomic_load(&lease->gate) & GATE_REFERENCES)
		pthread_cond_wait(&lease->table->changed, &lease->table->mutex);
}

/* Ends what reaches the memory without a reference. The gate is closed; the mutex is held, and let
 * go meanwhile. */
static void lease_cut_off(struct lease_table *table, const struct lease *lease)
{
	lease_cut *cut = table->cut;
	void *context = table->cut_context;
	if (!cut)
		return;
	table->cuts_count++;
	pthread_mutex_unlock(&table->mutex);
	cut(context, (uint32_t)(lease - table->leases));
	pthread_mutex_lock(&table->mutex);
	table->cuts_count--;
	pthread_cond_broadcast(&table->changed);
}

bool lease_enter(struct lease *lease, uint32_t epoch)
{
	if (fm_unlikely(!lease_valid(lease, epoch)))
		return false;
	/* acquire: pairs with the seq_cst opening; what invariant 1 names is read after this. */
	uint64_t old = atomic_fetch_add_explicit(&lease->gate, 1, memory_order_acquire);
	if (fm_likely(old & GATE_OPEN && GATE_EPOCH(old) == epoch))
		return true;
	lease_put(lease);
	return false;
}

void lease_put(struct lease *lease)
{
	uint64_t old = atomic_fetch_sub_explicit(&lease->gate, 1, memory_order_acq_rel);
	FM_ASSERT_NE(old & GATE_REFERENCES, 0);
	if (fm_unlikely(!(old & GATE_OPEN) && (old & GATE_REFERENCES) == 1)) {
		struct lease_table *table = lease->table;
		pthread_mutex_lock(&table->mutex);
		pthread_cond_broadcast(&table->changed);
		pthread_mutex_unlock(&table->mutex);
	}
}

bool lease_valid(const struct lease *lease, uint32_t epoch)
{
	uint64_t gate = atomic_load_explicit(&lease->gate, memory_order_acquire);
	return gate & GATE_OPEN && GATE_EPOCH(gate) == epoch;
}

/* --- capabilities --- */

static struct lease *lease_place(
	struct lease_table *table, const struct fabric_capability *capability)
{
	return &table->leases[capability->lease & (LEASES_MAX - 1)];
}

/* Key and names, in constant time. The caller holds the mutex or a reference. */
static bool capability_matches(
	const struct lease *lease, const struct fabric_capability *capability)
{
	uint64_t difference = lease->id ^ capability->lease;
	difference |= lease->table->incarnation ^ capability->incarnation;
	difference |= (uint64_t)(lease - lease->table->leases) ^ capability->region;
	for (unsigned i = 0; i < sizeof(lease->key); i++)
		difference |= (uint64_t)(lease->key[i] ^ capability->key[i]);
	return difference == 0;
}

static int refuse(const struct fabric_capability *capability)
{
	log_ratelimited(LOG_WARN, "memnode: capability refused lease=%" PRIx64, capability->lease);
	return -EACCES;
}

/* Which epochs will do: see lease.h. */
enum epochs { EPOCH_PRESENT, EPOCH_PRESENT_OR_OLDER };

/* The lease of a right capability that is neither going nor being fenced; the mutex is held. Or
 * NULL. */
static struct lease *lease_authorise(
	struct lease_table *table, const struct fabric_capability *capability, enum epochs epochs)
{
	struct lease *lease = lease_place(table, capability);
	while (lease->busy)
		pthread_cond_wait(&table->changed, &table->mutex);
	if (lease->state != LEASE_LEASED && lease->state != LEASE_ORPHANED)
		return NULL;
	const uint32_t epoch = GATE_EPOCH(atomic_load(&lease->gate));
	if (capability->epoch > epoch || (capability->epoch < epoch && epochs == EPOCH_PRESENT))
		return NULL;
	if (!capability_matches(lease, capability))
		return NULL;
	atomic_store_explicit(&lease->used, true, memory_order_relaxed);
	return lease;
}

int lease_get(
	struct lease_table *table, const struct fabric_capability *capability, struct lease **lease)
{
	struct lease *l = lease_place(table, capability);
	if (!lease_enter(l, capability->epoch))
		return refuse(capability);
	if (!capability_matches(l, capability)) {
		lease_put(l);
		return refuse(capability);
	}
	atomic_store_explicit(&l->used, true, memory_order_relaxed);
	*lease = l;
	return 0;
}

/* --- reserve, release, keepalive, fence --- */

static enum region_pages table_pages(const struct lease_table *table)
{
	if (!table->options.huge_pages)
		return REGION_SMALL;
	return atomic_load(&table->shared) ? REGION_TRANSPARENT : REGION_HUGETLB;
}

/* Says once what came of the wish for huge pages. */
static void table_note_pages(struct lease_table *table, const struct region *region)
{
	if (region->huge)
		table->huge_in_force = true;
	else if (table->options.huge_pages && !table->said_no_huge) {
		log_info("memnode: no huge pages to be had, using small ones");
		table->said_no_huge = true;
	}
}

/* ---- warming ---- */

/* The mutex is held. */
static void lease_is_cold(struct lease *lease)
{
	lease->cold = true;
	pthread_cond_signal(&lease->table->work);
}

/* The mutex is held. NULL: none. */
static struct lease *table_cold_lease(struct lease_table *table)
{
	for (uint32_t i = 0; i < LEASES_MAX; i++)
		if (table->leases[i].cold && table->leases[i].state == LEASE_LEASED &&
			!table->leases[i].busy)
			return &table->leases[i];
	return NULL;
}

/* Until then. False: the table ends. */
static bool warmer_rest(struct lease_table *table, uint64_t until_ns)
{
	const struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S), .tv_nsec = (long)(until_ns % NS_PER_S)};
	pthread_mutex_lock(&table->mutex);
	while (!table->ending && clock_now_ns() < until_ns)
		pthread_cond_timedwait(&table->work, &table->mutex, &until);
	bool on = !table->ending;
	pthread_mutex_unlock(&table->mutex);
	return on;
}

/* Step by step, each under a reference, so that nobody waits for long. */
static void lease_warm(struct lease_table *table, struct lease *lease)
{
	const uint32_t epoch = GATE_EPOCH(atomic_load(&lease->gate));
	const bool populate = !atomic_load(&table->shared);
	bool more = true;
	lease->cold = false;
	pthread_mutex_unlock(&table->mutex);
	while (more && lease_enter(lease, epoch)) {
		const uint64_t begun_ns = clock_now_ns();
		more = region_warm(&lease->region, populate);
		const uint64_t now_ns = clock_now_ns();
		if (!more) {
			pthread_mutex_lock(&table->mutex);
			table_note_pages(table, &lease->region);
			pthread_mutex_unlock(&table->mutex);
		}
		lease_put(lease);
		more = more &&
		       warmer_rest(table, now_ns + FM_MIN(WARMER_RESTS * (now_ns - begun_ns),
							   WARMER_REST_MAX_NS));
	}
	pthread_mutex_lock(&table->mutex);
}

/* A thread of its own, at low priority: regions are lent cold, and become faster in the background.
 */
static void *table_warm(void *context)
{
	struct lease_table *table = context;
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), WARMER_NICE);
	pthread_mutex_lock(&table->mutex);
	while (!table->ending) {
		struct lease *lease = table_cold_lease(table);
		if (lease)
			lease_warm(table, lease);
		else
			pthread_cond_wait(&table->work, &table->mutex);
	}
	pthread_mutex_unlock(&table->mutex);
	return NULL;
}

/* A free place, taken (REVOKING: nobody's yet) and paid for. NULL: no place, or a quota is reached.
 */
static struct lease *reserve_place(
	struct lease_table *table, const uint8_t client[16], uint64_t bytes)
{
	struct lease *found = NULL;
	uint64_t client_bytes = 0;
	if (bytes > table->options.memory_bytes - table->leased_bytes)
		return NULL;
	for (uint32_t i = 0; i < LEASES_MAX; i++) {
		struct lease *lease = &table->leases[(table->next_place + i) % LEASES_MAX];
		if (lease->state == LEASE_FREE && !found)
			found = lease;
		else if (lease->state != LEASE_FREE && memcmp(lease->client, client, 16) == 0)
			client_bytes += lease->region.bytes;
		if (found && !table->options.client_bytes)
			break;
	}
	if (table->options.client_bytes &&
		(client_bytes > table->options.client_bytes ||
			bytes > table->options.client_bytes - client_bytes))
		return NULL;
	if (!found)
		return NULL;
	table->next_place = (uint32_t)(found - table->leases + 1) % LEASES_MAX;
	table->leased_bytes += bytes;
	found->state = LEASE_REVOKING;
	memcpy(found->client, client, 16);
	found->region = (struct region){.memfd = -1, .bytes = bytes};
	found->table = table;
	return found;
}

static void place_free(struct lease_table *table, struct lease *lease, uint64_t bytes)
{
	table->leased_bytes -= bytes;
	memset(lease->key, 0, sizeof(lease->key));
	lease->region = (struct region){.memfd = -1};
	lease->state = LEASE_FREE;
}

int lease_reserve(struct lease_table *table, const uint8_t client[16], uint64_t bytes,
	struct fabric_capability *capability)
{
	struct region region;
	uint8_t key[16];
	if (bytes == 0 || bytes % FM_PAGE_SIZE != 0 || bytes > REGION_BYTES_MAX)
		return -EINVAL;
	int r = random_bytes(key, sizeof(key));
	if (r)
		return r;
	pthread_mutex_lock(&table->mutex);
	struct lease *lease = reserve_place(table, client, bytes);
	pthread_mutex_unlock(&table->mutex);
	if (!lease)
		return -ENOMEM;
	r = region_make(&region, bytes, table_pages(table)); /* slow: outside the lock */
	pthread_mutex_lock(&table->mutex);
	if (r) {
		place_free(table, lease, bytes);
		pthread_mutex_unlock(&table->mutex);
		return r;
	}
	lease->region = region;
	lease->id = (++table->serial << LEASE_INDEX_BITS) | (uint64_t)(lease - table->leases);
	memcpy(lease->key, key, sizeof(key));
	lease->alive_ns = clock_now_ns();
	lease_is_cold(lease);
	atomic_store(&lease->shared, false);
	atomic_store(&lease->touched, false);
	atomic_store(&lease->used, false);
	lease->state = LEASE_LEASED;
	gate_open(lease);
	*capability = (struct fabric_capability){.lease = lease->id,
		.incarnation = table->incarnation,
		.epoch = GATE_EPOCH(atomic_load(&lease->gate)),
		.region = (uint32_t)(lease - table->leases)};
	memcpy(capability->key, key, sizeof(key));
	pthread_mutex_unlock(&table->mutex);
	return 0;
}

/* LEASED or ORPHANED -> REVOKING -> FREE. The mutex is held, and let go in between. */
static void lease_revoke(struct lease_table *table, struct lease *lease)
{
	lease->state = LEASE_REVOKING;
	gate_close(lease);
	lease_cut_off(table, lease);
	struct region region = lease->region;
	const uint64_t bytes = region.bytes;
	pthread_mutex_unlock(&table->mutex);
	region_close(&region); /* slow: gives all pages back */
	pthread_mutex_lock(&table->mutex);
	place_free(table, lease, bytes);
}

int lease_release(struct lease_table *table, const struct fabric_capability *capability)
{
	pthread_mutex_lock(&table->mutex);
	struct lease *lease = lease_authorise(table, capability, EPOCH_PRESENT_OR_OLDER);
	if (lease)
		lease_revoke(table, lease);
	pthread_mutex_unlock(&table->mutex);
	return lease ? 0 : refuse(capability);
}

int lease_keepalive(struct lease_table *table, const struct fabric_capability *capability)
{
	pthread_mutex_lock(&table->mutex);
	struct lease *lease = lease_authorise(table, capability, EPOCH_PRESENT_OR_OLDER);
	if (lease) {
		lease->alive_ns = clock_now_ns();
		lease->state = LEASE_LEASED;
	}
	pthread_mutex_unlock(&table->mutex);
	return lease ? 0 : refuse(capability);
}

int lease_fence(struct lease_table *table, const struct fabric_capability *capability,
	struct fabric_capability *renewed)
{
	int r = 0;
	pthread_mutex_lock(&table->mutex);
	struct lease *lease = lease_authorise(table, capability, EPOCH_PRESENT);
	if (!lease) {
		pthread_mutex_unlock(&table->mutex);
		return refuse(capability);
	}
	lease->busy = true;
	gate_close(lease);
	lease_cut_off(table, lease);
	if (atomic_load(&lease->shared)) {
		struct region region = lease->region;
		pthread_mutex_unlock(&table->mutex);
		r = region_migrate(&region);
		pthread_mutex_lock(&table->mutex);
		lease->region = region;
	}
	lease_is_cold(lease); /* the warmer lost its reference */
	if (r) {
		gate_reopen(lease);
	} else {
		atomic_store(&lease->shared, false);
		lease->alive_ns = clock_now_ns();
		lease->state = LEASE_LEASED;
		gate_open(lease);
		*renewed = *capability;
		renewed->epoch = GATE_EPOCH(atomic_load(&lease->gate));
	}
	lease->busy = false;
	pthread_cond_broadcast(&table->changed);
	pthread_mutex_unlock(&table->mutex);
	return r;
}

static void lease_age(struct lease_table *table, struct lease *lease, uint64_t now_ns)
{
	if (atomic_exchange_explicit(&lease->touched, false, memory_order_relaxed)) {
		lease->alive_ns = now_ns;
		lease->state = LEASE_LEASED;
		return;
	}
	uint64_t silent_ns = now_ns > lease->alive_ns ? now_ns - lease->alive_ns : 0;
	if (silent_ns > table->options.keepalive_ns && !atomic_load(&lease->used)) {
		log_info("memnode: lease never used lease=%" PRIx64 " bytes=%" PRIu64, lease->id,
			lease->region.bytes);
		lease_revoke(table, lease);
		return;
	}
	if (lease->state == LEASE_LEASED && silent_ns > table->options.keepalive_ns) {
		log_info("memnode: lease orphaned lease=%" PRIx64 " silent_ns=%" PRIu64, lease->id,
			silent_ns);
		lease->state = LEASE_ORPHANED;
	}
	if (lease->state == LEASE_ORPHANED && silent_ns > table->options.keepalive_ns &&
		silent_ns - table->options.keepalive_ns > table->options.orphan_keep_ns) {
		log_info("memnode: orphan revoked lease=%" PRIx64 " bytes=%" PRIu64, lease->id,
			lease->region.bytes);
		lease_revoke(table, lease);
	}
}

void lease_table_tick(struct lease_table *table, uint64_t now_ns)
{
	pthread_mutex_lock(&table->mutex);
	for (uint32_t i = 0; i < LEASES_MAX && table->leased_bytes; i++) {
		struct lease *lease = &table->leases[i];
		if ((lease->state == LEASE_LEASED || lease->state == LEASE_ORPHANED) &&
			!lease->busy)
			lease_age(table, lease, now_ns);
	}
	pthread_mutex_unlock(&table->mutex);
}

void lease_table_usage(struct lease_table *table, struct lease_usage *usage)
{
	*usage = (struct lease_usage){.memory_bytes = table->options.memory_bytes};
	pthread_mutex_lock(&table->mutex);
	usage->leased_bytes = table->leased_bytes;
	usage->huge_pages = table->huge_in_force;
	for (uint32_t i = 0; i < LEASES_MAX && table->leased_bytes; i++) {
		usage->leased_count += table->leases[i].state == LEASE_LEASED;
		usage->orphaned_count += table->leases[i].state == LEASE_ORPHANED;
	}
	pthread_mutex_unlock(&table->mutex);
}

void lease_table_close(struct lease_table *table)
{
	if (!table)
		return;
	pthread_mutex_lock(&table->mutex);
	table->ending = true;
	pthread_cond_signal(&table->work);
	pthread_mutex_unlock(&table->mutex);
	pthread_join(table->warmer, NULL);
	pthread_mutex_lock(&table->mutex);
	for (uint32_t i = 0; i < LEASES_MAX; i++) {
		struct lease *lease = &table->leases[i];
		if (lease->state == LEASE_LEASED || lease->state == LEASE_ORPHANED)
			lease_revoke(table, lease);
	}
	pthread_mutex_unlock(&table->mutex);
	pthread_cond_destroy(&table->changed);
	pthread_cond_destroy(&table->work);
	pthread_mutex_destroy(&table->mutex);
	mem_unmap(table, sizeof(*table));
}

/* --- for holders of a reference --- */

uint8_t *lease_memory(struct lease *lease)
{
	return lease->region.memory;
}

uint64_t lease_bytes(const struct lease *lease)
{
	return lease->region.bytes;
}

int lease_memfd(struct lease *lease)
{
	if (lease->region.hugetlb)
		return -EOPNOTSUPP;
	atomic_store(&lease->shared, true);
	return lease->region.memfd;
}

int lease_store(struct lease *lease, uint64_t offset, const void *from, size_t bytes)
{
	return region_store(&lease->region, offset, from, bytes);
}

int lease_load(struct lease *lease, uint64_t offset, void *into, size_t bytes)
{
	return region_load(&lease->region, offset, into, bytes);
}

void lease_touch(struct lease *lease)
{
	if (!atomic_load_explicit(&lease->touched, memory_order_relaxed))
		atomic_store_explicit(&lease->touched, true, memory_order_relaxed);
}
