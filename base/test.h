/*
 * base/test.h: what a unit test needs, in one header. Included by x_test.c files only, once per
 * program.
 *
 *     TEST(a_ring_that_is_full_refuses_a_push) { ...  CHECK_EQ(ring_count(&r), 4); ... }
 *
 * Every TEST registers itself; main, defined here, runs them in the order of the file and prints a
 * line for each.
 * `./x_test WORD` runs those whose names contain WORD. A failed CHECK ends its case and the next
 * one goes on; on any other thread than main's it ends the program. TEST_SKIP("reason") ends its
 * case as skipped. Exit status: 1 if any case failed, 77 if all were skipped (last line "SKIP:
 * reason"), else 0. Define TEST_MAIN_OWN before including to write main yourself; call
 * test_main(argc, argv) from it.
 */
#ifndef FM_BASE_TEST_H
#define FM_BASE_TEST_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/compiler.h"

#define TEST_CASES_MAX 512
#define TEST_EXIT_SKIP 77

struct test_case {
	const char *name;
	void (*run)(void);
};

static struct test_case test_cases[TEST_CASES_MAX];
static unsigned test_cases_count;
static jmp_buf test_case_end;
static pid_t test_main_tid;
static char test_skip_reason[256];

enum { TEST_PASSED = 0, TEST_FAILED, TEST_SKIPPED };

static inline void test_register(const char *name, void (*run)(void))
{
	if (test_cases_count == TEST_CASES_MAX)
		abort();
	test_cases[test_cases_count++] = (struct test_case){name, run};
}

/* Ends the case; does not return. Another thread cannot jump into main's frame: it ends the
 * program. */
FM_NORETURN static inline void test_end_case(int outcome)
{
	fflush(stdout);
	if (gettid() != test_main_tid)
		_exit(outcome == TEST_SKIPPED ? TEST_EXIT_SKIP : 1);
	longjmp(test_case_end, outcome);
}

FM_NORETURN static inline void test_fail(const char *file, int line, const char *what)
{
	printf("    %s:%d: %s\n", file, line, what);
	test_end_case(TEST_FAILED);
}

FM_NORETURN static inline void test_fail_pair(
	const char *file, int line, const char *what, unsigned long long a, unsigned long long b)
{
	printf("    %s:%d: %s: %lld, %lld (0x%llx, 0x%llx)\n", file, line, what, (long long)a,
		(long long)b, a, b);
	test_end_case(TEST_FAILED);
}

FM_NORETURN static inline void test_skip(const char *reason)
{
	snprintf(test_skip_reason, sizeof(test_skip_reason), "%s", reason);
	test_end_case(TEST_SKIPPED);
}

/* A stream of numbers that is the same on every machine (splitmix64). */
static inline uint64_t test_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

#define TEST(name_)                                                                                \
	static void test_##name_(void);                                                            \
	__attribute__((constructor)) static void test_register_##name_(void)                       \
	{                                                                                          \
		test_register(#name_, test_##name_);                                               \
	}                                                                                          \
	static void test_##name_(void)

#define CHECK(cond_)                                                                               \
	do {                                                                                       \
		if (!(cond_))                                                                      \
			test_fail(__FILE__, __LINE__, "CHECK(" #cond_ ")");                        \
	} while (0)

#define CHECK_PAIR_(a_, op_, b_, type_)                                                            \
	do {                                                                                       \
		type_ test_a_ = (type_)(a_);                                                       \
		type_ test_b_ = (type_)(b_);                                                       \
		if (!(test_a_ op_ test_b_))                                                        \
			test_fail_pair(__FILE__, __LINE__, #a_ " " #op_ " " #b_,                   \
				(unsigned long long)test_a_, (unsigned long long)test_b_);         \
	} while (0)
#define CHECK_EQ(a, b) CHECK_PAIR_(a, ==, b, unsigned long long)
#define CHECK_NE(a, b) CHECK_PAIR_(a, !=, b, unsigned long long)
/* signed comparisons */
#define CHECK_LT(a, b) CHECK_PAIR_(a, <, b, long long)
#define CHECK_LE(a, b) CHECK_PAIR_(a, <=, b, long long)

#define CHECK_STR_EQ(a_, b_)                                                                       \
	do {                                                                                       \
		const char *test_a_ = (a_), *test_b_ = (b_);                                       \
		if (strcmp(test_a_, test_b_) != 0) {                                               \
			printf("    is:     \"%s\"\n    wanted: \"%s\"\n", test_a_, test_b_);      \
			test_fail(__FILE__, __LINE__, #a_ " == " #b_);                             \
		}                                                                                  \
	} while (0)
/* text contains word */
#define CHECK_CONTAINS(text_, word_)                                                               \
	do {                                                                                       \
		const char *test_a_ = (text_), *test_b_ = (word_);                                 \
		if (strstr(test_a_, test_b_) == NULL) {                                            \
			printf("    is:          \"%s\"\n    should have: \"%s\"\n", test_a_,      \
				test_b_);                                                          \
			test_fail(__FILE__, __LINE__, #text_ " contains " #word_);                 \
		}                                                                                  \
	} while (0)

#define TEST_SKIP(reason_) test_skip(reason_)

static inline int test_run_case(const struct test_case *test)
{
	int outcome = setjmp(test_case_end);

	if (outcome == 0)
		test->run();
	if (outcome == TEST_PASSED)
		printf("ok   %s\n", test->name);
	else if (outcome == TEST_FAILED)
		printf("FAIL %s\n", test->name);
	else
		printf("SKIP: %s: %s\n", test->name, test_skip_reason);
	fflush(stdout);
	return outcome;
}

static inline int test_main(int argc, char **argv)
{
	unsigned counts[3] = {0, 0, 0};

	test_main_tid = gettid();
	for (unsigned i = 0; i < test_cases_count; i++) {
		if (argc > 1 && strstr(test_cases[i].name, argv[1]) == NULL)
			continue;
		counts[test_run_case(&test_cases[i])]++;
	}
	if (counts[TEST_PASSED] + counts[TEST_FAILED] + counts[TEST_SKIPPED] == 0) {
		printf("FAIL no such case\n");
		return 1;
	}
	if (counts[TEST_FAILED] > 0)
		return 1;
	return counts[TEST_PASSED] == 0 ? TEST_EXIT_SKIP : 0;
}

#ifndef TEST_MAIN_OWN
int main(int argc, char **argv)
{
	return test_main(argc, argv);
}
#endif

#endif
