/*
 * base/parse_test.c: sizes, shares, times and codes: what is read, what is refused, and the
 * way back.
 */
#include "base/options_table.h"

#include <errno.h>

#include "base/clock.h"
#include "base/test.h"

struct good {
	const char *text;
	uint64_t value;
};

TEST(sizes_are_read_exactly)
{
	const struct good good[] = {{"0", 0}, {"4096", 4096}, {"1B", 1}, {"64M", 64ull << 20},
		{"64m", 64ull << 20}, {"64MB", 64ull << 20}, {"64MiB", 64ull << 20},
		{"1.5G", 3ull << 29}, {"0.5K", 512}, {"1.25k", 1280}, {"15E", 15ull << 60},
		{"2T", 2ull << 40}, {"1P", 1ull << 50}, {"18446744073709551615", UINT64_MAX},
		{"00064M", 64ull << 20}};
	uint64_t bytes;

	for (unsigned i = 0; i < FM_ARRAY_COUNT(good); i++) {
		printf("    %s\n", good[i].text);
		CHECK_EQ(parse_size(good[i].text, &bytes), 0);
		CHECK_EQ(bytes, good[i].value);
	}
}

TEST(nonsense_sizes_are_refused_and_leave_the_value_alone)
{
	const char *const bad[] = {"", " ", "M", "-1", "+1", "1 M", " 1M", "1M ", "1.M", ".5M",
		"1.5", "1.5B", "64X", "64MM", "64Mi", "64iB", "0x10", "1e6", "16E",
		"18446744073709551616", "99999999999999999999999999", "18014398509481984K", "1,5G",
		"25%", "1.0000000001G", "inf", "nan", "64\xc2\xb5", "1..5M", "64KiBs"};
	uint64_t bytes = 17;

	for (unsigned i = 0; i < FM_ARRAY_COUNT(bad); i++) {
		printf("    \"%s\"\n", bad[i]);
		CHECK_EQ(parse_size(bad[i], &bytes), -EINVAL);
		CHECK_EQ(bytes, 17);
	}
}

TEST(shares_are_sizes_or_percentages_to_a_tenth)
{
	struct option_share share;

	CHECK_EQ(parse_share("25%", &share), 0);
	CHECK_EQ(share.permille, 250);
	CHECK_EQ(share.bytes, 0);
	CHECK_EQ(parse_share("12.5%", &share), 0);
	CHECK_EQ(share.permille, 125);
	CHECK_EQ(parse_share("100%", &share), 0);
	CHECK_EQ(share.permille, 1000);
	CHECK_EQ(parse_share("0.1%", &share), 0);
	CHECK_EQ(share.permille, 1);
	CHECK_EQ(parse_share("64M", &share), 0);
	CHECK_EQ(share.permille, 0);
	CHECK_EQ(share.bytes, 64 << 20);
	CHECK_EQ(parse_share("0%", &share), 0);
	CHECK_EQ(share.permille, 0);
	CHECK_EQ(share.bytes, 0);
}

TEST(nonsense_shares_are_refused)
{
	const char *const bad[] = {"%", "101%", "100.1%", "-5%", "25%%", "25 %", "25%x", "12.55%",
		"25.%", ".5%", "4294967297%", "18446744073709551616%", "", "M%"};
	struct option_share share = {1, 2};

	for (unsigned i = 0; i < FM_ARRAY_COUNT(bad); i++) {
		printf("    \"%s\"\n", bad[i]);
		CHECK_EQ(parse_share(bad[i], &share), -EINVAL);
		CHECK(share.bytes == 1 && share.permille == 2);
	}
}

TEST(durations_are_read_exactly)
{
	const struct good good[] = {{"10ms", 10 * NS_PER_MS}, {"2s", 2 * NS_PER_S},
		{"500us", 500 * NS_PER_US}, {"10min", 600 * NS_PER_S}, {"1h", 3600 * NS_PER_S},
		{"7", 7 * NS_PER_S}, {"1.5", 1500 * NS_PER_MS}, {"0", 0}, {"3ns", 3},
		{"0.25us", 250}, {"1.000000001s", NS_PER_S + 1}};
	uint64_t ns;

	for (unsigned i = 0; i < FM_ARRAY_COUNT(good); i++) {
		printf("    %s\n", good[i].text);
		CHECK_EQ(parse_duration(good[i].text, &ns), 0);
		CHECK_EQ(ns, good[i].value);
	}
}

TEST(nonsense_durations_are_refused)
{
	const char *const bad[] = {"", "s", "10m", "10 ms", "-1s", "1.5ns", "10msec", "1d", "10MS",
		"18446744074s", "99999999999h", "1s2", "1min30s", "1.s", ".1s"};
	uint64_t ns = 17;

	for (unsigned i = 0; i < FM_ARRAY_COUNT(bad); i++) {
		printf("    \"%s\"\n", bad[i]);
		CHECK_EQ(parse_duration(bad[i], &ns), -EINVAL);
		CHECK_EQ(ns, 17);
	}
}

TEST(codes_are_read_and_nonsense_is_refused)
{
	const char *const bad[] = {"", "4", "4+", "+2", "4-2", "4+2+1", "0+2", "17+2", "4+5",
		"4 + 2", "-4+2", "4+2 ", "4294967300+2", "4+4294967298", "four+two", "4.0+2"};
	struct option_code code;

	CHECK_EQ(parse_code("4+2", &code), 0);
	CHECK(code.k == 4 && code.m == 2);
	CHECK_EQ(parse_code("16+4", &code), 0);
	CHECK(code.k == 16 && code.m == 4);
	CHECK_EQ(parse_code("1+0", &code), 0);
	CHECK(code.k == 1 && code.m == 0);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(bad); i++) {
		printf("    \"%s\"\n", bad[i]);
		CHECK_EQ(parse_code(bad[i], &code), -EINVAL);
		CHECK(code.k == 1 && code.m == 0);
	}
}

TEST(counts_are_decimal_and_fit_64_bits)
{
	const char *const bad[] = {
		"", "-1", "+1", "1.0", "1K", " 1", "1 ", "0x1", "18446744073709551616"};
	uint64_t count = 17;

	for (unsigned i = 0; i < FM_ARRAY_COUNT(bad); i++) {
		CHECK_EQ(parse_count(bad[i], &count), -EINVAL);
		CHECK_EQ(count, 17);
	}
	CHECK_EQ(parse_count("18446744073709551615", &count), 0);
	CHECK_EQ(count, UINT64_MAX);
}

TEST(printed_sizes_and_durations_read_back_as_the_same)
{
	uint64_t seed = 7, value, back;
	char text[32];

	for (unsigned i = 0; i < 100000; i++) {
		value = test_random(&seed) >> (test_random(&seed) % 64);
		if (i % 2)
			value &= ~((1ull << (test_random(&seed) % 40)) - 1);
		CHECK(parse_print_size(value, text, sizeof(text)) < (int)sizeof(text));
		CHECK_EQ(parse_size(text, &back), 0);
		CHECK_EQ(back, value);
		CHECK(parse_print_duration(value, text, sizeof(text)) < (int)sizeof(text));
		CHECK_EQ(parse_duration(text, &back), 0);
		CHECK_EQ(back, value);
	}
}

TEST(bytes_and_durations_are_shown_for_people)
{
	char text[32];

	CHECK_STR_EQ(format_bytes(0, text, sizeof(text)), "0 B");
	CHECK_STR_EQ(format_bytes(1023, text, sizeof(text)), "1023 B");
	CHECK_STR_EQ(format_bytes(3ull << 29, text, sizeof(text)), "1.5 GiB");
	CHECK_STR_EQ(format_bytes(UINT64_MAX, text, sizeof(text)), "16.0 EiB");
	CHECK_STR_EQ(format_duration(950, text, sizeof(text)), "950 ns");
	CHECK_STR_EQ(format_duration(1500, text, sizeof(text)), "1.5 us");
	CHECK_STR_EQ(format_duration(200 * NS_PER_MS, text, sizeof(text)), "200.0 ms");
	CHECK_STR_EQ(format_duration(90 * NS_PER_S, text, sizeof(text)), "90.0 s");
	CHECK_STR_EQ(format_bytes(3ull << 29, text, 4), "1.5");
}
