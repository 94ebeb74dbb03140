/*
 * base/options_test.c: one table, four sources; every error one line naming the thing and the
 * cure.
 */
#include "base/options.h"

#include <errno.h>
#include <fcntl.h>

#include "base/test.h"

struct sample {
	bool loud;
	uint64_t count, size, time;
	struct option_share share;
	char name[16];
	uint32_t color;
	struct option_code code;
	bool json;
};

#define AT(field) offsetof(struct sample, field)

static const char *const colors[] = {"red", "green", "blue", NULL};
static const struct option_spec specs[] = {
	{.name = "loud",
		.letter = 'v',
		.type = OPTION_BOOL,
		.offset = AT(loud),
		.help = "say more"},
	{.name = "count",
		.letter = 'c',
		.type = OPTION_COUNT,
		.offset = AT(count),
		.min = 1,
		.max = 10,
		.value = "3",
		.argument = "COUNT",
		.help = "how many"},
	{.name = "page-size",
		.type = OPTION_SIZE,
		.offset = AT(size),
		.min = 4096,
		.value = "64M",
		.argument = "SIZE",
		.help = "how large"},
	{.name = "time",
		.type = OPTION_DURATION,
		.offset = AT(time),
		.max = 60000000000,
		.value = "2s",
		.argument = "TIME",
		.help = "how long"},
	{.name = "share",
		.type = OPTION_SHARE,
		.offset = AT(share),
		.value = "25%",
		.argument = "SIZE|PERCENT",
		.help = "how much of it\nor of that"},
	{.name = "name",
		.letter = 'n',
		.type = OPTION_STRING,
		.offset = AT(name),
		.size = 16,
		.argument = "NAME",
		.help = "who"},
	{.name = "color",
		.type = OPTION_CHOICE,
		.offset = AT(color),
		.choices = colors,
		.value = "green",
		.argument = "red|green|blue",
		.help = "which"},
	{.name = "ec",
		.type = OPTION_CODE,
		.offset = AT(code),
		.value = "4+2",
		.argument = "K+M",
		.help = "code"},
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = AT(json),
		.flag_only = true,
		.help = "as JSON"},
};
#define COUNT ((unsigned)FM_ARRAY_COUNT(specs))

static struct sample sample;
static struct option_error error;

static void defaults(void)
{
	memset(&sample, 0, sizeof(sample));
	memset(&error, 'x', sizeof(error));
	CHECK_EQ(options_set_defaults(specs, COUNT, &sample, &error), 0);
}

static int read_flags(int *index, const char *const *argv)
{
	int argc = 0;

	while (argv[argc] != NULL)
		argc++;
	*index = 1;
	return options_read_flags(
		specs, COUNT, &sample, argc, (char *const *)(uintptr_t)argv, index, &error);
}

#define FLAGS(...) read_flags(&index, (const char *const[]){"prog", __VA_ARGS__, NULL})

static void write_file(const char *text, size_t length)
{
	int fd = open("options_test.conf", O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK_EQ(write(fd, text, length), length);
	close(fd);
}

static int read_file(const char *text)
{
	write_file(text, strlen(text));
	return options_read_file(specs, COUNT, &sample, "options_test.conf", &error);
}

/* The error is one printable line of the length of a line. */
static void check_one_line(void)
{
	CHECK(error.text[0] != '\0');
	for (const char *c = error.text; *c != '\0'; c++)
		CHECK((unsigned char)*c >= ' ' && *c != 0x7f);
	CHECK_LE(strlen(error.text), sizeof(error.text) - 1);
}

TEST(defaults_fill_the_struct_and_the_error_is_empty)
{
	defaults();
	CHECK_STR_EQ(error.text, "");
	CHECK(!sample.loud && !sample.json);
	CHECK_EQ(sample.count, 3);
	CHECK_EQ(sample.size, 64 << 20);
	CHECK_EQ(sample.time, 2000000000);
	CHECK_EQ(sample.share.permille, 250);
	CHECK_STR_EQ(sample.name, "");
	CHECK_EQ(sample.color, 1);
	CHECK_EQ(sample.code.k, 4);
	CHECK_EQ(sample.code.m, 2);
}

TEST(flags_of_every_type_are_read_with_and_without_equals)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("--loud", "--count", "7", "--page-size=1G", "--time", "10ms", "--share=64M",
			 "-n", "bob", "--color", "blue", "--ec=8+3", "--json=no"),
		0);
	CHECK_EQ(index, 14);
	CHECK(sample.loud && !sample.json);
	CHECK_EQ(sample.count, 7);
	CHECK_EQ(sample.size, 1 << 30);
	CHECK_EQ(sample.time, 10000000);
	CHECK_EQ(sample.share.bytes, 64 << 20);
	CHECK_EQ(sample.share.permille, 0);
	CHECK_STR_EQ(sample.name, "bob");
	CHECK_EQ(sample.color, 2);
	CHECK_EQ(sample.code.k, 8);
}

TEST(flags_end_at_the_first_word_that_is_none_or_after_two_dashes)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("-c5", "redis-server", "--save", ""), 0);
	CHECK_EQ(index, 2);
	CHECK_EQ(sample.count, 5);
	CHECK_EQ(FLAGS("--loud", "--", "--count", "2"), 0);
	CHECK_EQ(index, 3);
	CHECK_EQ(sample.count, 5);
	CHECK_EQ(FLAGS("-", "--count", "2"), 0);
	CHECK_EQ(index, 1);
}

TEST(a_bool_flag_does_not_eat_the_next_word)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("--loud", "no"), 0);
	CHECK_EQ(index, 2);
	CHECK(sample.loud);
	CHECK_EQ(FLAGS("--loud=off"), 0);
	CHECK(!sample.loud);
	CHECK_EQ(FLAGS("-v"), 0);
	CHECK(sample.loud);
}

TEST(unknown_flags_are_errors_with_the_likely_one_named)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("--cuont", "3"), -EINVAL);
	CHECK_CONTAINS(error.text, "--cuont: unknown flag; did you mean --count?");
	CHECK_EQ(FLAGS("--frobnicate=3"), -EINVAL);
	CHECK_CONTAINS(error.text, "--frobnicate: unknown flag; --help lists");
	CHECK_EQ(FLAGS("-z"), -EINVAL);
	CHECK_CONTAINS(error.text, "-z: unknown flag");
	CHECK_EQ(FLAGS("--count-"), -EINVAL);
	CHECK_EQ(FLAGS("--COUNT=3"), -EINVAL);
	CHECK_EQ(FLAGS("---count=3"), -EINVAL);
	CHECK_EQ(FLAGS("--=3"), -EINVAL);
	CHECK_EQ(
		FLAGS("--coun=3"), -EINVAL); /* no abbreviations: they break when a flag is added */
	CHECK_EQ(sample.count, 3);
}

TEST(a_missing_value_names_what_it_would_be)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("--count"), -EINVAL);
	CHECK_STR_EQ(error.text, "--count: a value is missing: write --count COUNT");
	CHECK_EQ(FLAGS("-n"), -EINVAL);
	CHECK_STR_EQ(error.text, "--name: a value is missing: write --name NAME");
}

TEST(bad_values_are_errors_that_say_what_would_do)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("--count=11"), -EINVAL);
	CHECK_STR_EQ(error.text, "--count: \"11\" will not do: give a whole number, 1 to 10");
	CHECK_EQ(FLAGS("--count", "-3"), -EINVAL);
	CHECK_EQ(FLAGS("--page-size=1K"), -EINVAL);
	CHECK_CONTAINS(error.text, "such as 64M or 1.5G, at least 4K");
	CHECK_EQ(FLAGS("--page-size="), -EINVAL);
	CHECK_EQ(FLAGS("--time=61s"), -EINVAL);
	CHECK_CONTAINS(error.text, "0s to 1min");
	CHECK_EQ(FLAGS("--share=120%"), -EINVAL);
	CHECK_CONTAINS(error.text, "--share: \"120%\" will not do");
	CHECK_EQ(FLAGS("--color=mauve"), -EINVAL);
	CHECK_STR_EQ(error.text, "--color: \"mauve\" will not do: give one of red, green, blue");
	CHECK_EQ(FLAGS("--ec=40+2"), -EINVAL);
	CHECK_CONTAINS(error.text, "K 1 to 16 and M 0 to 4");
	CHECK_EQ(FLAGS("--loud=perhaps"), -EINVAL);
	CHECK_CONTAINS(error.text, "yes or no");
	CHECK_EQ(sample.count, 3);
	CHECK_EQ(sample.color, 1);
}

TEST(a_string_that_is_too_long_is_an_error_not_cut)
{
	int index;

	defaults();
	CHECK_EQ(FLAGS("--name=123456789012345"), 0);
	CHECK_STR_EQ(sample.name, "123456789012345");
	CHECK_EQ(FLAGS("--name=1234567890123456"), -EINVAL);
	CHECK_STR_EQ(
		error.text, "--name: \"1234567890123456\" will not do: give at most 15 characters");
	CHECK_STR_EQ(sample.name, "123456789012345");
	CHECK_EQ(FLAGS("--name=a"), 0); /* and the rest of the old one is wiped */
	CHECK_EQ(memcmp(sample.name, "a\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16), 0);
}

TEST(an_error_is_one_short_line_whatever_the_value)
{
	static char value[100000];
	int index;

	defaults();
	memset(value, '\n', sizeof(value) - 1);
	CHECK_EQ(FLAGS("--name", value), -EINVAL);
	check_one_line();
	CHECK_EQ(FLAGS("--count", value), -EINVAL);
	check_one_line();
	memset(value, 'w', sizeof(value) - 1);
	value[0] = value[1] = '-';
	CHECK_EQ(FLAGS(value), -EINVAL);
	check_one_line();
	CHECK_EQ(FLAGS("--count=\x1b[31m\x01"), -EINVAL);
	check_one_line();
}

TEST(a_file_sets_values_and_allows_comments_and_blanks)
{
	defaults();
	CHECK_EQ(read_file("# a comment\n\n  count = 9  \r\npage-size=8K\n\t# another\nname = a = "
			   "b\nloud=yes"),
		0);
	CHECK_EQ(sample.count, 9);
	CHECK_EQ(sample.size, 8192);
	CHECK_STR_EQ(sample.name, "a = b");
	CHECK(sample.loud);
	CHECK_EQ(read_file(""), 0);
}

TEST(a_files_error_names_file_and_line)
{
	defaults();
	CHECK_EQ(read_file("count = 2\n\ncuont = 3\n"), -EINVAL);
	CHECK_STR_EQ(error.text, "options_test.conf:3: unknown key \"cuont\"; did you mean count?");
	CHECK_EQ(read_file("count = 99\n"), -EINVAL);
	CHECK_STR_EQ(error.text,
		"options_test.conf:1: count: \"99\" will not do: give a whole number, 1 to 10");
	CHECK_EQ(read_file("loud\n"), -EINVAL);
	CHECK_CONTAINS(error.text, "options_test.conf:1: \"loud\" will not do: write key = value");
	CHECK_EQ(read_file("json = yes\n"), -EINVAL);
	CHECK_CONTAINS(error.text, "options_test.conf:1: unknown key \"json\"");
	CHECK_EQ(read_file("= 3\n"), -EINVAL);
}

TEST(files_that_are_no_text_are_refused)
{
	static char bytes[10000];

	defaults();
	memset(bytes, 'x', sizeof(bytes));
	write_file(bytes, sizeof(bytes));
	CHECK_EQ(options_read_file(specs, COUNT, &sample, "options_test.conf", &error), -EINVAL);
	CHECK_CONTAINS(error.text, "options_test.conf:1: line too long");
	write_file("count = 2\ncount\0 = 3\n", 20);
	CHECK_EQ(options_read_file(specs, COUNT, &sample, "options_test.conf", &error), -EINVAL);
	CHECK_CONTAINS(error.text, "options_test.conf:2: a zero byte");
	memset(bytes, '\n', sizeof(bytes));
	write_file(bytes, sizeof(bytes));
	CHECK_EQ(options_read_file(specs, COUNT, &sample, "options_test.conf", &error), -EINVAL);
	CHECK_CONTAINS(error.text, "more than 4096 lines");
}

TEST(a_file_that_cannot_be_read_is_an_error_with_the_reason)
{
	defaults();
	CHECK_EQ(options_read_file(specs, COUNT, &sample, "/nonexistent.conf", &error), -EINVAL);
	CHECK_STR_EQ(error.text, "/nonexistent.conf: cannot read: No such file or directory");
	CHECK_EQ(options_read_file(specs, COUNT, &sample, "/", &error), -EINVAL);
	CHECK_STR_EQ(error.text, "/: cannot read: Is a directory");
}

static int read_environment(const char *assignment, const char *const *others)
{
	char copy[128];

	snprintf(copy, sizeof(copy), "%s", assignment);
	CHECK_EQ(clearenv(), 0);
	CHECK_EQ(setenv("PATH", "/bin", 1), 0);
	if (copy[0] != '\0') {
		char *value = strchr(copy, '=');

		*value++ = '\0';
		CHECK_EQ(setenv(copy, value, 1), 0);
	}
	return options_read_environment(specs, COUNT, &sample, others, &error);
}

TEST(variables_set_values_and_unknown_ones_are_errors)
{
	const char *const others[] = {"FARMEM_TREE", NULL};

	defaults();
	CHECK_EQ(read_environment("", NULL), 0);
	CHECK_EQ(read_environment("FARMEM_PAGE_SIZE=8K", NULL), 0);
	CHECK_EQ(sample.size, 8192);
	CHECK_EQ(read_environment("FARMEM_PAGE_SIZE=8Q", NULL), -EINVAL);
	CHECK_CONTAINS(error.text, "FARMEM_PAGE_SIZE: \"8Q\" will not do");
	CHECK_EQ(read_environment("FARMEM_PAGESIZE=8K", NULL), -EINVAL);
	CHECK_STR_EQ(
		error.text, "FARMEM_PAGESIZE: unknown variable; did you mean FARMEM_PAGE_SIZE?");
	CHECK_EQ(read_environment("FARMEM_=8K", NULL), -EINVAL);
	CHECK_EQ(read_environment("FARMEM_QWERTYUIOP=1", NULL), -EINVAL);
	CHECK_EQ(read_environment("FARMEM_JSON=1", NULL), -EINVAL);
	CHECK_EQ(read_environment("FARMEM_TREE=1", others), 0);
	CHECK_EQ(read_environment("FARMEM_TREES=1", others), -EINVAL);
	CHECK_EQ(read_environment("FARMEM_page_size=1", others), -EINVAL);
	CHECK_EQ(read_environment("FARMEMORY=1", NULL), 0);
	CHECK_EQ(read_environment("farmem_count=1", NULL), 0);
}

TEST(later_sources_win)
{
	int index;

	defaults();
	CHECK_EQ(read_file("count = 4\ntime = 4s\npage-size = 4K\n"), 0);
	CHECK_EQ(read_environment("FARMEM_COUNT=5", NULL), 0);
	CHECK_EQ(sample.count, 5);
	CHECK_EQ(sample.time, 4000000000);
	CHECK_EQ(FLAGS("--count=6", "--count=7"), 0);
	CHECK_EQ(sample.count, 7);
	CHECK_EQ(sample.size, 4096);
}

TEST(values_are_set_by_name)
{
	defaults();
	CHECK_EQ(options_set(specs, COUNT, &sample, "ec", "2+1", &error), 0);
	CHECK_EQ(sample.code.k, 2);
	CHECK_EQ(options_set(specs, COUNT, &sample, "ecc", "2+1", &error), -EINVAL);
	CHECK_STR_EQ(error.text, "ecc: no such option");
}

TEST(what_is_formatted_reads_back_as_the_same)
{
	struct sample twin;
	char text[64], small[3];
	int index;

	defaults();
	CHECK_EQ(FLAGS("-v", "-c9", "--page-size=12345", "--time=1500us", "--share=12.5%", "-n",
			 "x y", "--color=red", "--ec=6+1", "--json"),
		0);
	memset(&twin, 0, sizeof(twin));
	for (unsigned i = 0; i < COUNT; i++) {
		int length = options_format(&specs[i], &sample, text, sizeof(text));

		printf("    %s=%s\n", specs[i].name, text);
		CHECK_EQ(length, strlen(text));
		CHECK_EQ(options_set(specs, COUNT, &twin, specs[i].name, text, &error), 0);
	}
	CHECK_EQ(memcmp(&twin, &sample, sizeof(twin)), 0);
	CHECK_EQ(options_format(&specs[2], &sample, small, sizeof(small)), -ENOSPC);
}

static char shown[8192];

static void show(void (*print)(const struct option_spec *, unsigned, int))
{
	int fd = open("options_test.out", O_RDWR | O_CREAT | O_TRUNC, 0600);
	ssize_t got;

	CHECK(fd >= 0);
	print(specs, COUNT, fd);
	got = pread(fd, shown, sizeof(shown) - 1, 0);
	CHECK(got > 0);
	shown[got] = '\0';
	close(fd);
	unlink("options_test.out");
}

TEST(help_names_every_flag_with_default_and_stays_within_100_columns)
{
	char flag[32];

	show(options_print_help);
	for (unsigned i = 0; i < COUNT; i++) {
		snprintf(flag, sizeof(flag), "--%s", specs[i].name);
		CHECK_CONTAINS(shown, flag);
	}
	CHECK_CONTAINS(shown, "  -c, --count COUNT           how many (default 3)\n");
	CHECK_CONTAINS(
		shown, "how much of it\n                              or of that (default 25%)\n");
	for (const char *line = shown; *line != '\0'; line += strcspn(line, "\n") + 1)
		CHECK_LE(strcspn(line, "\n"), 100);
}

TEST(man_page_items_name_flag_argument_and_variable)
{
	show(options_print_man);
	CHECK_CONTAINS(shown,
		".TP\n\\fB\\-\\-page\\-size\\fR \\fISIZE\\fR\nhow large (default 64M).\n"
		"Variable \\fBFARMEM_PAGE_SIZE\\fR.\n");
	CHECK(strstr(shown, "FARMEM_JSON") == NULL);
	unlink("options_test.conf");
}
