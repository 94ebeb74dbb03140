/* base/log_test.c */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/test.h"

static char text[1 << 20];

static void begin(void)
{
	unlink("log_test.log");
	CHECK_EQ(log_open("log_test.log"), 0);
	log_set_level(LOG_INFO);
	log_set_program("log-test");
}

/* Back to stderr; what the file holds is in `text`. */
static void end(void)
{
	ssize_t got;
	int fd = open("log_test.log", O_RDONLY);

	CHECK_EQ(log_open(NULL), 0);
	CHECK(fd >= 0);
	got = read(fd, text, sizeof(text) - 1);
	CHECK(got >= 0);
	text[got] = '\0';
	close(fd);
	unlink("log_test.log");
}

TEST(a_line_has_the_programs_name_and_one_newline)
{
	begin();
	log_info("room: event key=%d", 7);
	end();
	CHECK_STR_EQ(text, "log-test: room: event key=7\n");
}

TEST(lines_above_the_level_are_not_written)
{
	begin();
	log_set_level(LOG_WARN);
	log_debug("room: no");
	log_info("room: no");
	log_warn("room: warn");
	log_error("room: error");
	end();
	CHECK_STR_EQ(text, "log-test: room: warn\nlog-test: room: error\n");
}

TEST(debug_lines_carry_a_time_stamp)
{
	begin();
	log_set_level(LOG_DEBUG);
	log_debug("room: event");
	end();
	CHECK_CONTAINS(text, "log-test: [");
	CHECK_CONTAINS(text, "] room: event\n");
}

TEST(a_value_cannot_break_a_line_in_two)
{
	begin();
	log_info("room: event name=%s", "a\nlog-test: forged\x1b[31m");
	end();
	CHECK_STR_EQ(text, "log-test: room: event name=a log-test: forged [31m\n");
}

TEST(a_line_too_long_is_cut_and_still_ends_in_a_newline)
{
	char value[5000];

	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	begin();
	log_info("room: %s", value);
	log_info("room: next");
	end();
	CHECK_LE(strcspn(text, "\n"), 1023);
	CHECK_CONTAINS(text, "x\nlog-test: room: next\n");
}

TEST(errno_is_the_same_before_and_after)
{
	begin();
	errno = ENOSPC;
	log_info("room: event reason=%m");
	CHECK_EQ(errno, ENOSPC);
	end();
	CHECK_CONTAINS(text, "No space left");
}

TEST(a_file_that_cannot_be_opened_is_an_error_and_the_old_one_stays)
{
	begin();
	CHECK_EQ(log_open("/nonexistent/dir/file"), -ENOENT);
	log_info("room: still here");
	end();
	CHECK_CONTAINS(text, "still here");
}

TEST(the_log_file_does_not_pass_to_other_programs)
{
	begin();
	CHECK(fcntl(log_descriptor(), F_GETFD) & FD_CLOEXEC);
	CHECK_NE(log_descriptor(), STDERR_FILENO);
	end();
	CHECK_EQ(log_descriptor(), STDERR_FILENO);
}

static uint64_t fake_time_ns;

static uint64_t fake_now_ns(void *context)
{
	(void)context;
	return fake_time_ns;
}

static void fake_pause(void *context, uint64_t until_ns)
{
	(void)context;
	fake_time_ns = until_ns;
}

static void log_often(void)
{
	log_ratelimited(LOG_INFO, "room: often");
}

TEST(a_limited_place_speaks_once_a_second_and_says_what_it_swallowed)
{
	struct clock_source source = {fake_now_ns, fake_pause, NULL};

	fake_time_ns = 100 * NS_PER_S;
	clock_set_source(&source);
	begin();
	for (unsigned i = 0; i < 11; i++)
		log_often();
	fake_time_ns += NS_PER_S;
	log_often();
	clock_set_source(NULL);
	end();
	CHECK_STR_EQ(text, "log-test: room: often\n"
			   "log-test: log: suppressed lines=10\n"
			   "log-test: room: often\n");
}

static void *log_many(void *number)
{
	for (unsigned i = 0; i < 500; i++)
		log_info("thread: line number=%u end", (unsigned)(uintptr_t)number);
	return NULL;
}

TEST(lines_of_threads_do_not_mix)
{
	pthread_t threads[4];
	unsigned lines = 0;

	begin();
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, log_many, (void *)i), 0);
	for (unsigned i = 0; i < 4; i++)
		CHECK_EQ(pthread_join(threads[i], NULL), 0);
	end();
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++) {
		unsigned number;
		int length = 0;

		CHECK_EQ(sscanf(line, "log-test: thread: line number=%u end%n", &number, &length),
			1);
		CHECK_EQ(length, strlen(line));
	}
	CHECK_EQ(lines, 2000);
}
