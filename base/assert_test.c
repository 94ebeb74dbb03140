/*
 * base/assert_test.c: a panic says what happened, with both values, and ends the process by
 * SIGABRT.
 */
#include "base/assert.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/test.h"

/* Runs `body` in a child with stderr in a pipe; its text and wait status come back. */
static int run_child(void (*body)(void), char *text, size_t size)
{
	int ends[2], status;
	ssize_t got;
	size_t used = 0;
	pid_t child;

	CHECK_EQ(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		close(ends[0]);
		close(ends[1]);
		body();
		_exit(0);
	}
	close(ends[1]);
	while ((got = read(ends[0], text + used, size - 1 - used)) > 0)
		used += (size_t)got;
	text[used] = '\0';
	close(ends[0]);
	CHECK_EQ(waitpid(child, &status, 0), child);
	return status;
}

static void assert_two_pages_are_three(void)
{
	uint64_t pages = 2;

	FM_ASSERT_EQ(pages, 3);
}

static void assert_what_holds(void)
{
	FM_ASSERT(1 + 1 == 2);
	FM_ASSERT_EQ(2, 2);
	FM_ASSERT_NE(2, 3);
	FM_ASSERT_LT(2, 3);
	FM_ASSERT_LE(3, 3);
}

static void panic_at_length(void)
{
	char long_text[4096];

	memset(long_text, 'x', sizeof(long_text) - 1);
	long_text[sizeof(long_text) - 1] = '\0';
	FM_PANIC("%s", long_text);
}

static void panic_into_a_log_file(void)
{
	if (log_open("assert_test.log") != 0)
		_exit(3);
	FM_PANIC("the log hears of it");
}

TEST(a_failed_assertion_prints_both_values_and_aborts)
{
	char text[4096];
	int status = run_child(assert_two_pages_are_three, text, sizeof(text));

	CHECK(WIFSIGNALED(status));
	CHECK_EQ(WTERMSIG(status), SIGABRT);
	CHECK_CONTAINS(text, "assert_test.c:");
	CHECK_CONTAINS(text, "pages == 3: 2, 3");
	CHECK(strchr(text, '\n') == text + strlen(text) - 1);
}

TEST(assertions_that_hold_say_nothing)
{
	char text[4096];
	int status = run_child(assert_what_holds, text, sizeof(text));

	CHECK_EQ(status, 0);
	CHECK_STR_EQ(text, "");
}

TEST(a_panic_that_is_too_long_is_cut_to_one_line)
{
	char text[8192];
	int status = run_child(panic_at_length, text, sizeof(text));

	CHECK(WIFSIGNALED(status));
	CHECK_LE(strlen(text), 1024);
	CHECK_EQ(text[strlen(text) - 1], '\n');
}

TEST(a_panic_is_also_written_to_the_log_file)
{
	char text[4096], logged[4096];
	int status;
	FILE *file;
	size_t got;

	unlink("assert_test.log");
	status = run_child(panic_into_a_log_file, text, sizeof(text));
	CHECK(WIFSIGNALED(status));
	file = fopen("assert_test.log", "r");
	CHECK(file != NULL);
	got = fread(logged, 1, sizeof(logged) - 1, file);
	logged[got] = '\0';
	fclose(file);
	unlink("assert_test.log");
	CHECK_STR_EQ(logged, text);
	CHECK_CONTAINS(logged, "the log hears of it");
}
