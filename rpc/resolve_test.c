/*
 * rpc/resolve_test.c: names become endpoints; needs no network.
 */
#include "base/test.h"

#include <errno.h>

#include "rpc/resolve.h"

static char endpoint[FABRIC_ENDPOINT_MAX];

TEST(numeric_addresses_stay_what_they_are)
{
	CHECK_EQ(resolve_endpoint("10.1.2.3", 7401, endpoint), 0);
	CHECK_STR_EQ(endpoint, "tcp:10.1.2.3:7401");
	CHECK_EQ(resolve_endpoint("fd00::1", 1, endpoint), 0);
	CHECK_STR_EQ(endpoint, "tcp:[fd00::1]:1");
	CHECK_EQ(resolve_endpoint("[fd00::1]", 65535, endpoint), 0);
	CHECK_STR_EQ(endpoint, "tcp:[fd00::1]:65535");
}

TEST(a_name_becomes_an_address)
{
	CHECK_EQ(resolve_endpoint("localhost", 80, endpoint), 0);
	CHECK(!strcmp(endpoint, "tcp:127.0.0.1:80") || !strcmp(endpoint, "tcp:[::1]:80"));
}

TEST(what_is_no_host_is_refused)
{
	char long_name[300];
	memset(long_name, 'a', sizeof(long_name));
	long_name[sizeof(long_name) - 1] = '\0';
	CHECK_EQ(resolve_endpoint("", 80, endpoint), -EINVAL);
	CHECK_EQ(resolve_endpoint("[]", 80, endpoint), -EINVAL);
	CHECK_EQ(resolve_endpoint(long_name, 80, endpoint), -EINVAL);
	CHECK_EQ(resolve_endpoint("localhost", 0, endpoint), -EINVAL);
	int r = resolve_endpoint("no.such.host.invalid", 80, endpoint);
	CHECK(r == -ENOENT || r == -EAGAIN); /* or there is no name server here */
}
