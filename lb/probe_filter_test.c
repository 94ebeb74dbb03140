/* lb/probe_filter_test.c: allow lists, right and wrong, and whom they let ask. */
#include "base/test.h"

#include <arpa/inet.h>
#include <errno.h>

#include "base/log.h"
#include "lb/probe_filter.h"

static bool allows(const struct probe_filter *filter, const char *address)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};
	struct sockaddr_in four = {.sin_family = AF_INET};

	if (inet_pton(AF_INET, address, &four.sin_addr) == 1)
		return probe_filter_allows(filter, (struct sockaddr *)&four);
	CHECK_EQ(inet_pton(AF_INET6, address, &six.sin6_addr), 1);
	return probe_filter_allows(filter, (struct sockaddr *)&six);
}

TEST(no_list_lets_everybody_ask)
{
	struct probe_filter filter;

	CHECK_EQ(probe_filter_parse(NULL, &filter), 0);
	CHECK(allows(&filter, "8.8.8.8"));
	CHECK(allows(&filter, "2001:db8::1"));
}

TEST(a_prefix_lets_its_own_ask_and_nobody_else)
{
	struct probe_filter filter;

	CHECK_EQ(probe_filter_parse("10.1.2.3/9,192.168.1.7,fd00:1::/32,::1", &filter), 0);
	CHECK_EQ(filter.prefixes_count, 4);
	CHECK(allows(&filter, "10.0.0.1"));
	CHECK(allows(&filter, "10.127.255.255"));
	CHECK(!allows(&filter, "10.128.0.0"));
	CHECK(!allows(&filter, "11.0.0.1"));
	CHECK(allows(&filter, "192.168.1.7"));
	CHECK(!allows(&filter, "192.168.1.6"));
	CHECK(allows(&filter, "fd00:1:ffff::9"));
	CHECK(!allows(&filter, "fd00:2::9"));
	CHECK(allows(&filter, "::1"));
	CHECK(!allows(&filter, "::2"));
}

TEST(ipv4_is_ipv4_however_the_socket_shows_it)
{
	struct probe_filter filter;

	CHECK_EQ(probe_filter_parse("10.0.0.0/8", &filter), 0);
	CHECK(allows(&filter, "::ffff:10.9.9.9"));
	CHECK(!allows(&filter, "::10.9.9.9"));
	CHECK_EQ(probe_filter_parse("0.0.0.0/0", &filter), 0);
	CHECK(allows(&filter, "8.8.8.8"));
	CHECK(!allows(&filter, "fd00::1"));
	CHECK_EQ(probe_filter_parse("::/0", &filter), 0);
	CHECK(allows(&filter, "8.8.8.8"));
	CHECK(allows(&filter, "fd00::1"));
}

TEST(a_word_that_is_no_prefix_is_refused)
{
	static const char *const words[] = {"", ",", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1",
		"10.0.0.0/8/8", "fd00::/129", "10.0.0", "localhost", "10.0.0.1,", " 10.0.0.1",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999:1111:2222:3333/1"};
	struct probe_filter filter;

	log_set_level(LOG_ERROR);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(words); i++)
		CHECK_EQ(probe_filter_parse(words[i], &filter), -EINVAL);
}

TEST(a_list_that_is_too_long_is_refused)
{
	char text[16 * (PROBE_PREFIXES_MAX + 1)] = "10.0.0.0";
	struct probe_filter filter;

	for (unsigned i = 1; i < PROBE_PREFIXES_MAX; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), ",10.0.0.%u", i);
	CHECK_EQ(probe_filter_parse(text, &filter), 0);
	CHECK_EQ(filter.prefixes_count, PROBE_PREFIXES_MAX);
	CHECK(allows(&filter, "10.0.0.63"));
	snprintf(text + strlen(text), sizeof(text) - strlen(text), ",10.0.1.0");
	CHECK_EQ(probe_filter_parse(text, &filter), -EINVAL);
}

TEST(other_families_may_not_ask_where_there_is_a_list)
{
	struct probe_filter filter;
	struct sockaddr from = {.sa_family = AF_UNIX};

	CHECK_EQ(probe_filter_parse("::/0", &filter), 0);
	CHECK(!probe_filter_allows(&filter, &from));
}
