/*
 * farmem/uffd_test.c: the pager against the real kernel: MOVE, COPY, write protection, poison.
 *
 * Label "uffd". Skipped with its reason where there is no userfaultfd. What a program's thread
 * would do is done by a child of fork where it must die of SIGBUS, else by a thread.
 */
#define TEST_MAIN_OWN
#include "base/test.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "farmem/stripe.h"
#include "farmem/uffd.h"

#define PAGES 64u
#define SLOTS 64u

static struct uffd_features features;
static struct uffd u;
static struct pager *p;
static uint8_t *range;

static uint8_t *at(uint32_t page)
{
	return range + (size_t)page * FM_PAGE_SIZE;
}

/* The kernel's own: sanitizers make mlock() do nothing. */
static int lock_page(uint32_t page)
{
	return (int)syscall(SYS_mlock, at(page), (size_t)FM_PAGE_SIZE);
}

static uint8_t *staged(uint32_t slot)
{
	return p->staging + (size_t)slot * FM_PAGE_SIZE;
}

static void begin(bool moves)
{
	if (moves && !features.move)
		TEST_SKIP("this kernel has no UFFDIO_MOVE");
	if (!moves && !features.write_protect)
		TEST_SKIP("this kernel has no write protection by userfaultfd");
	range = mmap(NULL, PAGES * FM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(range != MAP_FAILED);
	memset(&u, 0, sizeof(u));
	CHECK_EQ(uffd_open(&u, range, SLOTS, moves), 0);
	CHECK_EQ(uffd_register(&u, 0, PAGES), 0);
	p = &u.pager;
}

static void end(void)
{
	close(u.fd);
	munmap(p->staging, u.staging_bytes);
	munmap(range, PAGES * FM_PAGE_SIZE);
}

/* ---- a thread that touches memory, as the program does ---- */

struct toucher {
	pthread_t thread;
	volatile uint8_t *where;
	bool writes;
	_Atomic bool done;
	_Atomic uint8_t seen;
	_Atomic bool bus;
};

static __thread sigjmp_buf on_bus;

static void bus_handler(int number)
{
	(void)number;
	siglongjmp(on_bus, 1);
}

static void *toucher_main(void *argument)
{
	struct toucher *t = argument;
	if (sigsetjmp(on_bus, 1) == 0) {
		if (t->writes)
			*t->where = 77;
		t->seen = *t->where;
	} else {
		t->bus = true;
	}
	t->done = true;
	return NULL;
}

static void touch(struct toucher *t, uint32_t page, bool writes)
{
	memset(t, 0, sizeof(*t));
	t->where = at(page);
	t->writes = writes;
	CHECK_EQ(pthread_create(&t->thread, NULL, toucher_main, t), 0);
}

static struct uffd_fault await_fault(void)
{
	struct uffd_fault f[4];
	uint64_t give_up = clock_now_ns() + 10 * NS_PER_S;
	int got = 0;
	while (got == 0 && clock_now_ns() < give_up) {
		uffd_sleep(&u, 100 * NS_PER_MS);
		got = uffd_read(&u, f, FM_ARRAY_COUNT(f));
	}
	CHECK_EQ(got, 1);
	return f[0];
}

static void joined(struct toucher *t)
{
	pthread_join(t->thread, NULL);
	CHECK(t->done);
}

/* ---- missing pages ---- */

TEST(a_missing_page_faults_once_and_an_install_lets_the_thread_on)
{
	static uint8_t bytes[FM_PAGE_SIZE];
	struct toucher t;
	begin(features.move);
	memset(bytes, 0xab, sizeof(bytes));
	touch(&t, 5, false);
	struct uffd_fault f = await_fault();
	CHECK_EQ(f.page, 5);
	CHECK(!f.write_protected);
	CHECK(!t.done);
	CHECK(!p->ops->present(p, 5));
	CHECK_EQ(p->ops->install(p, 5, bytes), 0);
	joined(&t);
	CHECK_EQ(t.seen, 0xab);
	CHECK(p->ops->present(p, 5));
	CHECK_EQ(p->ops->install(p, 5, bytes), -EEXIST);
	CHECK_EQ(memcmp(at(5), bytes, sizeof(bytes)), 0);
	end();
}

TEST(zeros_are_installed_until_a_page_is_met_that_is_there)
{
	static uint8_t bytes[FM_PAGE_SIZE];
	uint32_t done = 99;
	begin(features.move);
	bytes[9] = 9;
	CHECK_EQ(p->ops->install(p, 7, bytes), 0);
	CHECK_EQ(p->ops->install_zero(p, 2, 10, &done), -EEXIST);
	CHECK_EQ(done, 5);
	for (uint32_t page = 2; page < 7; page++)
		CHECK(p->ops->present(p, page));
	CHECK_EQ(at(7)[9], 9);
	CHECK(!p->ops->present(p, 8));
	CHECK_EQ(p->ops->install_zero(p, 20, 3, &done), 0);
	CHECK_EQ(done, 3);
	end();
}

TEST(a_dropped_page_is_missing_again)
{
	uint32_t done;
	struct toucher t;
	begin(features.move);
	CHECK_EQ(p->ops->install_zero(p, 0, 4, &done), 0);
	at(1)[0] = 1;
	CHECK_EQ(p->ops->drop(p, 0, 4), 0);
	CHECK(!p->ops->present(p, 1));
	touch(&t, 1, true);
	CHECK_EQ(await_fault().page, 1);
	CHECK_EQ(p->ops->install_zero(p, 1, 1, &done), 0);
	joined(&t);
	CHECK_EQ(t.seen, 77);
	end();
}

TEST(a_locked_page_is_dropped_too)
{
	uint32_t done;
	begin(features.move);
	CHECK_EQ(p->ops->install_zero(p, 0, 1, &done), 0);
	CHECK_EQ(lock_page(0), 0);
	CHECK_EQ(p->ops->drop(p, 0, 1), 0);
	CHECK(!p->ops->present(p, 0));
	end();
}

/* ---- MOVE ---- */

static void fill(uint32_t page, uint32_t count)
{
	uint32_t done;
	CHECK_EQ(p->ops->install_zero(p, page, count, &done), 0);
	CHECK_EQ(done, count);
	for (uint32_t i = page; i < page + count; i++)
		memset(at(i), (int)(i + 1), FM_PAGE_SIZE);
}

TEST(pages_move_to_staging_and_back_with_their_bytes)
{
	uint32_t done;
	struct toucher t;
	begin(true);
	fill(10, 6);
	CHECK_EQ(p->ops->take(p, 10, 6, 3, &done), 0);
	CHECK_EQ(done, 6);
	for (uint32_t i = 0; i < 6; i++) {
		CHECK(!p->ops->present(p, 10 + i));
		CHECK_EQ(staged(3 + i)[4000], 11 + i);
	}
	touch(&t, 12, false);
	CHECK_EQ(await_fault().page, 12);
	CHECK_EQ(p->ops->give_back(p, 5, 12), 0);
	joined(&t);
	CHECK_EQ(t.seen, 13);
	CHECK_EQ(p->ops->drop_staging(p, 3, 6), 0);
	end();
}

TEST(a_take_stops_at_a_page_that_is_not_there_and_says_how_far_it_came)
{
	uint32_t done;
	begin(true);
	fill(0, 3);
	fill(4, 2);
	CHECK_EQ(p->ops->take(p, 0, 6, 0, &done), -ENOENT);
	CHECK_EQ(done, 3);
	CHECK_EQ(staged(2)[0], 3);
	CHECK_EQ(at(4)[0], 5);
	end();
}

TEST(a_locked_page_stays)
{
	uint32_t done;
	begin(true);
	fill(0, 1);
	CHECK_EQ(lock_page(0), 0);
	CHECK_NE(p->ops->take(p, 0, 1, 0, &done), 0);
	CHECK_EQ(done, 0);
	CHECK_EQ(at(0)[0], 1);
	end();
}

TEST(staging_that_holds_old_bytes_is_emptied_for_a_take)
{
	uint32_t done;
	begin(true);
	fill(0, 4);
	CHECK_EQ(p->ops->take(p, 0, 2, 1, &done), 0);
	CHECK_EQ(p->ops->take(p, 2, 2, 1, &done), 0);
	CHECK_EQ(done, 2);
	CHECK_EQ(staged(1)[0], 3);
	CHECK_EQ(staged(2)[0], 4);
	end();
}

TEST(a_page_shared_with_a_child_moves_after_unsharing)
{
	uint32_t done;
	int ends[2], ready[2];
	char byte = 0;
	begin(true);
	fill(0, 1);
	CHECK_EQ(madvise(range, PAGES * FM_PAGE_SIZE, MADV_DOFORK), 0);
	CHECK_EQ(pipe(ends) | pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		close(ends[1]);
		(void)!write(ready[1], "", 1);
		(void)!read(ends[0], &byte, 1); /* ends when the parent closes */
		_exit(0);
	}
	CHECK_EQ(read(ready[0], &byte, 1), 1);
	CHECK_EQ(p->ops->take(p, 0, 1, 0, &done), -EBUSY);
	p->ops->unshare(p, 0, 1);
	CHECK_EQ(p->ops->take(p, 0, 1, 0, &done), 0);
	CHECK_EQ(staged(0)[0], 1);
	close(ends[0]);
	close(ends[1]);
	close(ready[0]);
	close(ready[1]);
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	end();
}

/* ---- write protection ---- */

TEST(a_write_to_a_protected_page_faults_as_such_and_goes_on_after_unprotecting)
{
	struct toucher t;
	static uint8_t copy[2 * FM_PAGE_SIZE];
	begin(false);
	fill(3, 2);
	CHECK_EQ(p->ops->protect(p, 3, 2, true), 0);
	CHECK_EQ(p->ops->read(p, 3, 2, copy), 0);
	CHECK_EQ(copy[FM_PAGE_SIZE], 5);
	touch(&t, 4, false); /* reads pass */
	joined(&t);
	CHECK_EQ(t.seen, 5);
	touch(&t, 4, true);
	struct uffd_fault f = await_fault();
	CHECK_EQ(f.page, 4);
	CHECK(f.write_protected);
	CHECK_EQ(at(4)[0], 5);
	CHECK_EQ(p->ops->protect(p, 4, 1, false), 0);
	joined(&t);
	CHECK_EQ(t.seen, 77);
	end();
}

TEST(a_protected_page_that_is_dropped_faults_as_missing)
{
	struct toucher t;
	uint32_t done;
	begin(false);
	fill(3, 1);
	CHECK_EQ(p->ops->protect(p, 3, 1, true), 0);
	CHECK_EQ(p->ops->drop(p, 3, 1), 0);
	touch(&t, 3, true);
	struct uffd_fault f = await_fault();
	CHECK(!f.write_protected);
	CHECK_EQ(p->ops->install_zero(p, 3, 1, &done), 0);
	joined(&t);
	end();
}

TEST(a_woken_thread_whose_page_is_still_missing_faults_again)
{
	struct toucher t;
	uint32_t done;
	begin(features.move);
	touch(&t, 9, false);
	CHECK_EQ(await_fault().page, 9);
	p->ops->wake(p, 9, 1);
	CHECK_EQ(await_fault().page, 9);
	CHECK_EQ(p->ops->install_zero(p, 9, 1, &done), 0);
	joined(&t);
	CHECK_EQ(t.seen, 0);
	end();
}

/* ---- loss ---- */

/* The waiting thread and every later access get SIGBUS; after a purge the page reads as zeros. */
static void try_poison(void)
{
	struct toucher t;
	uint32_t done;
	touch(&t, 6, false);
	CHECK_EQ(await_fault().page, 6);
	CHECK_EQ(p->ops->poison(p, 6), 0);
	joined(&t);
	CHECK(t.bus);
	touch(&t, 6, true);
	joined(&t);
	CHECK(t.bus);
	fill(5, 1);
	fill(7, 1);
	CHECK_EQ(at(5)[0] + at(7)[0], 14); /* the neighbours live */
	CHECK_EQ(p->ops->drop(p, 6, 1), 0);
	touch(&t, 6, false);
	CHECK_EQ(await_fault().page, 6);
	CHECK_EQ(p->ops->install_zero(p, 6, 1, &done), 0);
	joined(&t);
	CHECK(!t.bus);
	CHECK_EQ(t.seen, 0);
	end();
}

TEST(a_poisoned_page_gives_sigbus_until_it_is_given_back)
{
	if (!features.poison)
		TEST_SKIP("this kernel has no UFFDIO_POISON");
	begin(features.move);
	try_poison();
}

TEST(without_uffdio_poison_a_lost_page_gives_sigbus_all_the_same)
{
	begin(features.move);
	u.features.poison = false; /* as on Debian 12's own kernel */
	try_poison();
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = bus_handler};
	int rc = uffd_probe(&features);
	if (rc != 0) {
		printf("SKIP: no userfaultfd here: %s\n", strerror(-rc));
		return TEST_EXIT_SKIP;
	}
	sigaction(SIGBUS, &action, NULL);
	printf("this kernel: move %d, poison %d, write-protect %d\n", features.move,
		features.poison, features.write_protect);
	return test_main(argc, argv);
}
