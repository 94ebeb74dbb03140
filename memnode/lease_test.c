/*
 * memnode/lease_test.c: leases on a simulated clock, and under threads.
 */
#include "base/test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "memnode/lease.h"

#define MIB (1ull << 20)

static const uint8_t alice[16] = "alice", bob[16] = "bob";
static _Atomic uint64_t fake_now_ns; /* the warming thread reads it too */
static struct lease_table *table;

static uint64_t fake_clock(void *context)
{
	(void)context;
	return fake_now_ns;
}

static void fake_pause(void *context, uint64_t until_ns)
{
	(void)context;
	fake_now_ns = FM_MAX(fake_now_ns, until_ns);
}

static void begin(const struct lease_table_options *options)
{
	static const struct clock_source source = {.now_ns = fake_clock, .pause = fake_pause};
	lease_table_close(table);
	fault_disarm_all();
	log_set_level(LOG_ERROR);
	fake_now_ns = 1000 * NS_PER_S;
	clock_set_source(&source);
	CHECK_EQ(lease_table_open(options, &table), 0);
}

static struct lease_usage usage(void)
{
	struct lease_usage u;
	lease_table_usage(table, &u);
	return u;
}

/* What a data server does with one operation. -EACCES when refused. */
static int touch_byte(
	const struct fabric_capability *capability, uint64_t offset, uint8_t *byte, bool store)
{
	struct lease *lease;
	int r = lease_get(table, capability, &lease);
	if (r)
		return r;
	if (store)
		lease_memory(lease)[offset] = *byte;
	else
		*byte = lease_memory(lease)[offset];
	lease_put(lease);
	return 0;
}

TEST(quotas_hold_for_the_node_and_for_each_client)
{
	struct fabric_capability a, b, c;
	struct lease_table_options options = {.memory_bytes = 10 * MIB, .client_bytes = 6 * MIB};
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, 0, &a), -EINVAL);
	CHECK_EQ(lease_reserve(table, alice, 4097, &a), -EINVAL);
	CHECK_EQ(lease_reserve(table, alice, REGION_BYTES_MAX + 4096, &a), -EINVAL);
	CHECK_EQ(lease_reserve(table, alice, 7 * MIB, &a), -ENOMEM);
	CHECK_EQ(lease_reserve(table, alice, 4 * MIB, &a), 0);
	CHECK_EQ(lease_reserve(table, alice, 3 * MIB, &c), -ENOMEM); /* hers */
	CHECK_EQ(lease_reserve(table, bob, 6 * MIB, &b), 0);
	CHECK_EQ(lease_reserve(table, alice, 4096, &c), -ENOMEM); /* the node's */
	CHECK_EQ(usage().leased_bytes, 10 * MIB);
	CHECK_EQ(usage().leased_count, 2);
	CHECK_EQ(lease_release(table, &b), 0);
	CHECK_EQ(usage().leased_bytes, 4 * MIB);
	CHECK_EQ(lease_reserve(table, alice, 2 * MIB, &c), 0);
}

TEST(memory_is_zeroed_charged_and_sealed)
{
	struct fabric_capability a;
	struct lease_table_options options = {.memory_bytes = 64 * MIB};
	struct lease *lease;
	struct stat st;
	begin(&options);
	for (int round = 0; round < 3; round++) {
		CHECK_EQ(lease_reserve(table, alice, 2 * MIB, &a), 0);
		CHECK_EQ(lease_get(table, &a, &lease), 0);
		CHECK_EQ(lease_bytes(lease), 2 * MIB);
		for (uint64_t i = 0; i < 2 * MIB; i++)
			CHECK_EQ(lease_memory(lease)[i], 0);
		memset(lease_memory(lease), 0xff, 2 * MIB);
		int fd = dup(lease_memfd(lease));
		CHECK_EQ(fstat(fd, &st), 0);
		CHECK_EQ(st.st_blocks * 512, 2 * MIB);
		CHECK_EQ(ftruncate(fd, 4 * (off_t)MIB), -1);
		CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK),
			-1); /* or we could not truncate it */
		lease_put(lease);
		CHECK_EQ(lease_release(table, &a), 0);
		/* a client's descriptor is worth nothing any more */
		char byte = 1;
		CHECK_EQ(pread(fd, &byte, 1, 0), 0);
		CHECK_EQ(pwrite(fd, &byte, 1, 0), -1);
		CHECK_EQ(fstat(fd, &st), 0);
		CHECK_EQ(st.st_size, 0);
		close(fd);
	}
}

TEST(release_works_once_and_only_with_the_right_capability)
{
	struct fabric_capability a, bad, renewed;
	struct lease_table_options options = {.memory_bytes = 64 * MIB};
	begin(&options);
	CHECK_NE(lease_table_incarnation(table), 0);
	CHECK_EQ(lease_reserve(table, alice, MIB, &a), 0);
	CHECK_EQ(a.incarnation, lease_table_incarnation(table));
	for (unsigned what = 0; what < 5; what++) {
		bad = a;
		bad.key[15] ^= what == 0;
		bad.lease ^= what == 1 ? 1ull << 40 : 0;
		bad.incarnation ^= what == 2;
		bad.epoch += what == 3;
		bad.region += what == 4;
		CHECK_EQ(lease_release(table, &bad), -EACCES);
		CHECK_EQ(lease_keepalive(table, &bad), -EACCES);
		CHECK_EQ(lease_fence(table, &bad, &renewed), -EACCES);
		uint8_t byte;
		CHECK_EQ(touch_byte(&bad, 0, &byte, false), -EACCES);
	}
	CHECK_EQ(lease_release(table, &a), 0);
	CHECK_EQ(lease_release(table, &a), -EACCES);
	CHECK_EQ(lease_keepalive(table, &a), -EACCES);
	CHECK_EQ(usage().leased_bytes, 0);
	/* nor does an all-zero capability open a place that is free */
	memset(&bad, 0, sizeof(bad));
	bad.incarnation = lease_table_incarnation(table);
	CHECK_EQ(lease_release(table, &bad), -EACCES);
	uint8_t byte;
	CHECK_EQ(touch_byte(&bad, 0, &byte, false), -EACCES);
}

TEST(a_silent_client_is_orphaned_but_loses_no_byte_before_orphan_keep)
{
	struct fabric_capability a;
	struct lease_table_options options = {.memory_bytes = 64 * MIB,
		.keepalive_ns = 15 * NS_PER_S,
		.orphan_keep_ns = 600 * NS_PER_S};
	uint8_t byte = 42;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, MIB, &a), 0);
	CHECK_EQ(touch_byte(&a, 77, &byte, true), 0);
	fake_now_ns += 15 * NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_count, 1);
	fake_now_ns += 1;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_count, 0);
	CHECK_EQ(usage().orphaned_count, 1);
	/* its last moment */
	fake_now_ns += 600 * NS_PER_S - 1;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().orphaned_count, 1);
	byte = 0;
	CHECK_EQ(touch_byte(&a, 77, &byte, false), 0);
	CHECK_EQ(byte, 42);
	/* a keepalive revives it */
	CHECK_EQ(lease_keepalive(table, &a), 0);
	CHECK_EQ(usage().leased_count, 1);
	fake_now_ns += 14 * NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_count, 1);
	/* and silence ends it */
	fake_now_ns += 700 * NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_bytes, 0);
	CHECK_EQ(usage().orphaned_count, 0);
	CHECK_EQ(touch_byte(&a, 77, &byte, false), -EACCES);
	CHECK_EQ(lease_keepalive(table, &a), -EACCES);
}

TEST(a_lease_that_nobody_ever_used_goes_back_when_it_falls_silent)
{
	struct fabric_capability unused, kept, entered;
	struct lease_table_options options = {.memory_bytes = 64 * MIB,
		.keepalive_ns = 15 * NS_PER_S,
		.orphan_keep_ns = 600 * NS_PER_S};
	struct lease *lease;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, MIB, &unused), 0);
	CHECK_EQ(lease_reserve(table, alice, MIB, &kept), 0);
	CHECK_EQ(lease_reserve(table, alice, MIB, &entered), 0);
	CHECK_EQ(lease_keepalive(table, &kept), 0);
	CHECK_EQ(lease_get(table, &entered, &lease), 0);
	lease_put(lease);
	fake_now_ns += 15 * NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_bytes, 3 * MIB);
	fake_now_ns += NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_bytes, 2 * MIB);
	CHECK_EQ(usage().orphaned_count, 2);
	CHECK_EQ(lease_keepalive(table, &unused), -EACCES);
	/* its place is lent again, as unused as any */
	CHECK_EQ(lease_reserve(table, alice, MIB, &unused), 0);
	fake_now_ns += 16 * NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_bytes, 2 * MIB);
}

TEST(traffic_alone_keeps_and_revives_a_lease)
{
	struct fabric_capability a;
	struct lease_table_options options = {
		.memory_bytes = 64 * MIB, .keepalive_ns = 15 * NS_PER_S};
	struct lease *lease;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, MIB, &a), 0);
	for (int i = 0; i < 100; i++) {
		fake_now_ns += 14 * NS_PER_S;
		CHECK_EQ(lease_get(table, &a, &lease), 0);
		lease_touch(lease);
		lease_put(lease);
		lease_table_tick(table, fake_now_ns);
		CHECK_EQ(usage().leased_count, 1);
	}
	fake_now_ns += 100 * NS_PER_S;
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().orphaned_count, 1);
	CHECK_EQ(lease_get(table, &a, &lease), 0);
	lease_touch(lease);
	lease_put(lease);
	lease_table_tick(table, fake_now_ns);
	CHECK_EQ(usage().leased_count, 1);
}

TEST(a_fence_raises_the_epoch_keeps_the_bytes_and_disarms_old_descriptors)
{
	struct fabric_capability a, b;
	struct lease_table_options options = {.memory_bytes = 64 * MIB};
	struct lease *lease;
	uint8_t byte = 1;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, 4 * MIB + 4096, &a), 0);
	CHECK_EQ(lease_get(table, &a, &lease), 0);
	for (uint64_t i = 0; i < lease_bytes(lease); i += 4096)
		lease_memory(lease)[i] = (uint8_t)(i >> 12);
	int fd = dup(lease_memfd(lease));
	lease_put(lease);
	CHECK_EQ(lease_fence(table, &a, &b), 0);
	CHECK_NE(a.epoch, b.epoch);
	CHECK_EQ(pwrite(fd, &byte, 1, 4096 * 3), -1); /* the old holder writes nowhere */
	close(fd);
	CHECK_EQ(touch_byte(&a, 0, &byte, false), -EACCES);
	CHECK_EQ(lease_get(table, &a, &lease), -EACCES);
	CHECK_EQ(lease_fence(table, &a, &b), -EACCES);
	for (uint64_t i = 0; i < 4 * MIB + 4096; i += 4096) {
		CHECK_EQ(touch_byte(&b, i, &byte, false), 0);
		CHECK_EQ(byte, (uint8_t)(i >> 12));
	}
	CHECK_EQ(usage().leased_bytes, 4 * MIB + 4096);
	CHECK_EQ(lease_release(table, &b), 0);
}

TEST(a_client_that_missed_a_fences_answer_keeps_its_lease_alive_and_gives_it_back)
{
	struct fabric_capability missed, present, wrong;
	struct lease_table_options options = {
		.memory_bytes = 64 * MIB, .keepalive_ns = NS_PER_S, .orphan_keep_ns = NS_PER_S};
	struct lease *lease;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, 4096, &missed), 0);
	CHECK_EQ(lease_fence(table, &missed, &present), 0);
	CHECK_EQ(lease_fence(table, &present, &present), 0);
	for (unsigned i = 0; i < 5; i++) {
		fake_now_ns += NS_PER_S;
		CHECK_EQ(lease_keepalive(table, &missed), 0);
		lease_table_tick(table, fake_now_ns);
		CHECK_EQ(usage().leased_count, 1);
	}
	CHECK_EQ(lease_get(table, &missed, &lease), -EACCES); /* but no byte of it */
	wrong = missed;
	wrong.key[3] ^= 1;
	CHECK_EQ(lease_keepalive(table, &wrong), -EACCES);
	CHECK_EQ(lease_release(table, &wrong), -EACCES);
	wrong = present;
	wrong.epoch++;
	CHECK_EQ(lease_keepalive(table, &wrong), -EACCES);
	CHECK_EQ(lease_release(table, &wrong), -EACCES);
	CHECK_EQ(usage().leased_count, 1);
	CHECK_EQ(lease_release(table, &missed), 0);
	CHECK_EQ(usage().leased_bytes, 0);
	CHECK_EQ(lease_release(table, &present), -EACCES);
}

TEST(a_lease_entered_under_an_old_epoch_stays_shut_whoever_has_the_place_now)
{
	struct fabric_capability a, next;
	struct lease_table_options options = {.memory_bytes = 64 * MIB};
	struct lease *old, *now;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, 4096, &a), 0);
	CHECK_EQ(lease_get(table, &a, &old), 0);
	lease_put(old);
	CHECK(lease_enter(old, a.epoch));
	lease_put(old);
	CHECK_EQ(lease_release(table, &a), 0);
	CHECK(!lease_valid(old, a.epoch));
	CHECK(!lease_enter(old, a.epoch));
	bool reused = false;
	for (unsigned i = 0; i < LEASES_MAX && !reused; i++) {
		CHECK_EQ(lease_reserve(table, bob, 4096, &next), 0);
		CHECK_EQ(lease_get(table, &next, &now), 0);
		reused = now == old;
		lease_put(now);
		CHECK(!lease_enter(old, a.epoch));
		CHECK_EQ(lease_release(table, &next), 0);
	}
	CHECK(reused);
}

TEST(memory_the_machine_does_not_give_leaves_nothing_booked)
{
	struct fabric_capability a;
	struct lease_table_options options = {.memory_bytes = 1ull << 50};
	begin(&options);
	fault_arm("region.allocate", 1, false);
	CHECK_EQ(lease_reserve(table, alice, MIB, &a), -ENOMEM);
	CHECK_EQ(usage().leased_bytes, 0);
	CHECK_EQ(lease_reserve(table, alice, MIB, &a), 0);
}

TEST(huge_pages_are_used_when_there_are_any_and_never_handed_out)
{
	struct fabric_capability a, b;
	struct lease_table_options options = {.memory_bytes = 64 * MIB, .huge_pages = true};
	static uint8_t bytes[3000];
	struct lease *lease;
	begin(&options);
	CHECK_EQ(lease_reserve(table, alice, 4 * MIB, &a), 0);
	CHECK_EQ(lease_get(table, &a, &lease), 0);
	for (uint64_t i = 0; i < 4 * MIB; i++)
		CHECK_EQ(lease_memory(lease)[i], 0);
	memset(bytes, 5, sizeof(bytes));
	CHECK_EQ(lease_store(lease, 4 * MIB - sizeof(bytes), bytes, sizeof(bytes)), 0);
	CHECK_EQ(lease_memory(lease)[4 * MIB - 1], 5);
	CHECK_EQ(lease_memory(lease)[4 * MIB - sizeof(bytes) - 1], 0);
	int fd = lease_memfd(lease);
	bool hugetlb = fd == -EOPNOTSUPP;
	CHECK(fd >= 0 || hugetlb);
	CHECK(!hugetlb || usage().huge_pages);
	lease_put(lease);
	CHECK_EQ(lease_fence(table, &a, &b), 0);
	CHECK_EQ(lease_release(table, &b), 0);
	/* with an shm data server: only what write(2) can write */
	lease_table_share(table);
	CHECK_EQ(lease_reserve(table, alice, 4 * MIB, &a), 0);
	CHECK_EQ(lease_get(table, &a, &lease), 0);
	CHECK_LE(0, lease_memfd(lease));
	CHECK_EQ(pwrite(lease_memfd(lease), bytes, sizeof(bytes), 1), sizeof(bytes));
	CHECK_EQ(lease_memory(lease)[1], 5);
	lease_put(lease);
	printf("    (hugetlb pages: %s)\n", hugetlb ? "yes" : "none here");
}

struct race {
	struct fabric_capability capability;
	_Atomic bool stop;
	_Atomic uint64_t stores, refusals;
};

static void *race_store(void *argument)
{
	struct race *race = argument;
	struct lease *lease = NULL;
	if (lease_get(table, &race->capability, &lease))
		return NULL;
	lease_put(lease);
	while (!atomic_load(&race->stop)) {
		if (!lease_enter(lease, race->capability.epoch)) {
			atomic_fetch_add(&race->refusals, 1);
			break;
		}
		/* would fault if the memory went while we hold the reference */
		memset(lease_memory(lease), 1, 4096);
		lease_put(lease);
		atomic_fetch_add(&race->stores, 1);
	}
	return NULL;
}

TEST(a_release_waits_for_operations_and_stops_those_to_come)
{
	struct lease_table_options options = {.memory_bytes = 64 * MIB};
	begin(&options);
	for (int round = 0; round < 50; round++) {
		static struct race race;
		pthread_t threads[3];
		memset(&race, 0, sizeof(race));
		CHECK_EQ(lease_reserve(table, alice, 64 * 1024, &race.capability), 0);
		for (int i = 0; i < 3; i++)
			CHECK_EQ(pthread_create(&threads[i], NULL, race_store, &race), 0);
		while (atomic_load(&race.stores) < 100)
			sched_yield();
		if (round % 2) {
			struct fabric_capability renewed;
			CHECK_EQ(lease_fence(table, &race.capability, &renewed), 0);
			CHECK_EQ(lease_release(table, &renewed), 0);
		} else {
			CHECK_EQ(lease_release(table, &race.capability), 0);
		}
		for (int i = 0; i < 3; i++)
			pthread_join(threads[i], NULL);
		CHECK_LT(0, atomic_load(&race.refusals));
	}
	CHECK_EQ(usage().leased_bytes, 0);
	lease_table_close(table);
	table = NULL;
}
