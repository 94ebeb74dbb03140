/*
 * lb/probe_table_test.c: probes under way: matched once or silent once, never both, never too many.
 */
#include "base/clock.h"
#include "base/test.h"
#include "lb/probe_table.h"

#define CAPACITY 8u
#define TIMEOUT 1000u

static struct probe_table table;

static void open_table(void)
{
	CHECK_EQ(probe_table_open(&table, CAPACITY, TIMEOUT), 0);
}

TEST(an_answer_counts_once_and_from_who_was_asked)
{
	struct probe_entry entry;
	uint64_t cookie;

	open_table();
	cookie = probe_table_add(&table, 3, 77, 5);
	CHECK_NE(cookie, 0);
	CHECK(!probe_table_match(&table, cookie, 4, &entry));
	CHECK(!probe_table_match(&table, cookie + (1ull << 40), 3, &entry));
	CHECK(!probe_table_match(&table, 0, 0, &entry));
	CHECK(probe_table_match(&table, cookie, 3, &entry));
	CHECK_EQ(entry.tag, 77);
	CHECK_EQ(entry.sent_ns, 5);
	CHECK(!probe_table_match(&table, cookie, 3, &entry));
	CHECK(!probe_table_expire(&table, 1u << 20, &entry));
	probe_table_close(&table);
}

TEST(silence_is_noticed_once_in_the_order_of_sending)
{
	struct probe_entry entry;
	uint64_t cookie;

	open_table();
	CHECK_NE(probe_table_add(&table, 1, 0, 100), 0);
	cookie = probe_table_add(&table, 2, 0, 200);
	CHECK_NE(cookie, 0);
	CHECK_EQ(probe_table_next_ns(&table), 100 + TIMEOUT);
	CHECK(!probe_table_expire(&table, 99 + TIMEOUT, &entry));
	CHECK(probe_table_expire(&table, 100 + TIMEOUT, &entry));
	CHECK_EQ(entry.server, 1);
	CHECK(!probe_table_expire(&table, 100 + TIMEOUT, &entry));
	CHECK(probe_table_expire(&table, 200 + TIMEOUT, &entry));
	CHECK_EQ(entry.server, 2);
	CHECK(!probe_table_match(&table, cookie, 2, &entry));
	CHECK_EQ(probe_table_next_ns(&table), CLOCK_NEVER_NS);
	probe_table_close(&table);
}

TEST(a_full_table_refuses_until_the_oldest_has_ended)
{
	uint64_t cookies[CAPACITY];
	struct probe_entry entry;

	open_table();
	for (unsigned i = 0; i < CAPACITY; i++) {
		cookies[i] = probe_table_add(&table, i, 0, 0);
		CHECK_NE(cookies[i], 0);
	}
	CHECK_EQ(probe_table_add(&table, 9, 0, 0), 0);
	CHECK(probe_table_match(&table, cookies[0], 0, &entry));
	CHECK(!probe_table_expire(&table, 0, &entry)); /* passes over the ended one */
	CHECK_NE(probe_table_add(&table, 9, 0, 0), 0);
	CHECK_EQ(probe_table_add(&table, 9, 0, 0), 0);
	probe_table_close(&table);
}

TEST(one_that_was_dropped_is_neither_matched_nor_silent)
{
	struct probe_entry entry;
	uint64_t cookie;

	open_table();
	cookie = probe_table_add(&table, 1, 0, 0);
	CHECK(probe_table_find(&table, cookie, &entry));
	probe_table_drop(&table, cookie);
	CHECK(!probe_table_find(&table, cookie, &entry));
	CHECK(!probe_table_match(&table, cookie, 1, &entry));
	CHECK(!probe_table_expire(&table, CLOCK_NEVER_NS, &entry));
	probe_table_close(&table);
}

/* Against a twin that keeps everything: random lives. */
TEST(every_probe_ends_exactly_once)
{
	enum { PROBES = 20000 };
	static uint64_t cookies[PROBES];
	static uint8_t ended[PROBES];
	uint64_t random = 42, now_ns = 0;
	unsigned added = 0;

	open_table();
	for (unsigned step = 0; step < 4 * PROBES; step++) {
		struct probe_entry entry;

		now_ns += test_random(&random) % (TIMEOUT / 2);
		if (test_random(&random) % 2 == 0 && added < PROBES) {
			cookies[added] = probe_table_add(&table, added % 7, added, now_ns);
			added += cookies[added] != 0;
		}
		if (added > 0 && test_random(&random) % 3 == 0) {
			unsigned back = (unsigned)(test_random(&random) % (2 * CAPACITY));
			unsigned which = back < added ? added - 1 - back : 0;

			if (probe_table_match(&table, cookies[which], which % 7, &entry)) {
				CHECK_EQ(entry.tag, which);
				ended[which]++;
			}
		}
		while (probe_table_expire(&table, now_ns, &entry)) {
			CHECK(now_ns >= entry.sent_ns + TIMEOUT);
			ended[entry.tag]++;
		}
	}
	for (struct probe_entry entry; probe_table_expire(&table, CLOCK_NEVER_NS, &entry);)
		ended[entry.tag]++;
	CHECK(added > PROBES / 4);
	for (unsigned i = 0; i < added; i++)
		CHECK_EQ(ended[i], 1);
	probe_table_close(&table);
}
