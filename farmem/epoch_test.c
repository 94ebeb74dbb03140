/*
 * farmem/epoch_test.c: nothing is reused while somebody may still look at it.
 */
#include "farmem/core_test.h"

#include <errno.h>
#include <pthread.h>

#include "base/clock.h"

static struct core core;

static void open_core(void)
{
	core_test_open(&core, &(struct core_test_options){
				      .k = 4, .m = 2, .records_max = 16, .region_bytes = 1 << 20});
}

TEST(a_stamp_passes_at_once_when_nobody_is_inside)
{
	struct epoch_thread t;
	open_core();
	CHECK_EQ(epoch_register(&core, "t", &t), 0);
	CHECK(epoch_passed(&core, epoch_stamp(&core)));
	core_test_close(&core);
}

TEST(who_entered_before_the_stamp_holds_it_and_who_enters_after_does_not)
{
	struct epoch_thread early, late;
	open_core();
	CHECK_EQ(epoch_register(&core, "early", &early), 0);
	CHECK_EQ(epoch_register(&core, "late", &late), 0);
	epoch_enter(&early);
	uint64_t stamp = epoch_stamp(&core);
	epoch_enter(&late);
	CHECK(!epoch_passed(&core, stamp));
	epoch_exit(&early);
	CHECK(epoch_passed(&core, stamp));
	CHECK(!epoch_passed(&core, epoch_stamp(&core)));
	epoch_exit(&late);
	core_test_close(&core);
}

TEST(entering_again_is_a_new_entry)
{
	struct epoch_thread t;
	open_core();
	CHECK_EQ(epoch_register(&core, "t", &t), 0);
	epoch_enter(&t);
	uint64_t stamp = epoch_stamp(&core);
	epoch_exit(&t);
	epoch_enter(&t);
	CHECK(epoch_passed(&core, stamp));
	epoch_exit(&t);
	core_test_close(&core);
}

TEST(a_pin_holds_what_children_share_and_nothing_else)
{
	struct epoch_thread t;
	open_core();
	CHECK_EQ(epoch_register(&core, "t", &t), 0);
	uint64_t before = epoch_stamp(&core);
	uint64_t pin = epoch_pin(&core);
	uint64_t after = epoch_stamp(&core);
	CHECK(epoch_passed_by_all(&core, before));
	CHECK(!epoch_passed_by_all(&core, after));
	CHECK(epoch_passed(&core, after)); /* staging: each child has a copy of its own */
	CHECK_LT(before, pin);
	epoch_unpin(&core, 0);
	CHECK(epoch_passed_by_all(&core, after));
	epoch_enter(&t);
	CHECK(!epoch_passed_by_all(&core, epoch_stamp(&core)));
	epoch_exit(&t);
	core_test_close(&core);
}

TEST(the_oldest_of_several_pins_counts)
{
	open_core();
	uint64_t first = epoch_pin(&core);
	uint64_t stamp = epoch_stamp(&core);
	uint64_t second = epoch_pin(&core);
	CHECK_LT(first, second);
	CHECK(!epoch_passed_by_all(&core, stamp));
	epoch_unpin(&core, second); /* the first child is gone */
	CHECK(epoch_passed_by_all(&core, stamp));
	CHECK(!epoch_passed_by_all(&core, epoch_stamp(&core)));
	epoch_unpin(&core, 0);
	core_test_close(&core);
}

TEST(lines_run_out_are_given_back_and_used_again)
{
	struct epoch_thread all[CATALOG_THREADS_MAX], one;
	open_core();
	for (unsigned i = 0; i < CATALOG_THREADS_MAX; i++)
		CHECK_EQ(epoch_register(&core, "x", &all[i]), 0);
	CHECK_EQ(epoch_register(&core, "x", &one), -EAGAIN);
	epoch_unregister(&all[17]);
	CHECK_EQ(epoch_register(&core, "again", &one), 0);
	CHECK_STR_EQ(one.line->name, "again");
	core_test_close(&core);
}

/*
 * Readers look up a published number and check that its cell was not given to anybody else while
 * they are inside; the writer unlinks, waits for the stamp, and only then scribbles.
 */
#define CELLS 4096u
static _Atomic uint32_t published;
static _Atomic uint32_t cells[CELLS];
static _Atomic bool stop;
static _Atomic uint64_t looks, wrong;

static void *reader_main(void *argument)
{
	struct epoch_thread *t = argument;
	while (!stop) {
		epoch_enter(t);
		uint32_t at = atomic_load_explicit(&published, memory_order_acquire);
		for (unsigned i = 0; i < 20; i++)
			if (cells[at] != 1)
				wrong++;
		epoch_exit(t);
		looks++;
	}
	return NULL;
}

TEST(threads_never_see_what_was_unlinked_being_reused)
{
	struct epoch_thread lines[3];
	pthread_t threads[3];
	open_core();
	looks = wrong = 0;
	stop = false;
	memset(cells, 0, sizeof(cells));
	cells[0] = 1;
	published = 0;
	for (unsigned i = 0; i < 3; i++) {
		CHECK_EQ(epoch_register(&core, "reader", &lines[i]), 0);
		CHECK_EQ(pthread_create(&threads[i], NULL, reader_main, &lines[i]), 0);
	}
	uint64_t end = clock_now_ns() + 300 * NS_PER_MS;
	for (uint32_t n = 1; clock_now_ns() < end; n++) {
		uint32_t old = published, new = n % CELLS;
		cells[new] = 1;
		atomic_store_explicit(&published, new, memory_order_seq_cst);
		uint64_t stamp = epoch_stamp(&core);
		while (!epoch_passed(&core, stamp))
			clock_pause(end);
		cells[old] = 0xdead;
	}
	stop = true;
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQ(wrong, 0);
	CHECK_LT(100, looks);
	core_test_close(&core);
}
