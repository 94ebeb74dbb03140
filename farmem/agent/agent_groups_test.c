/*
 * farmem/agent/agent_groups_test.c: the rule of the widest code, for every wish and number of
 * hosts.
 */
#include "base/test.h"
#include "farmem/agent/agent.h"

static void check_code(unsigned hosts, struct option_code wish, unsigned k, unsigned m)
{
	struct option_code code;
	groups_code(hosts, wish, &code);
	CHECK_EQ(code.k, k);
	CHECK_EQ(code.m, m);
}

TEST(four_and_two_shrinks_as_the_documentation_says)
{
	const struct option_code wish = {4, 2};
	check_code(9, wish, 4, 2);
	check_code(6, wish, 4, 2);
	check_code(5, wish, 3, 2);
	check_code(4, wish, 2, 2);
	check_code(3, wish, 2, 1);
	check_code(2, wish, 1, 1);
	check_code(1, wish, 1, 0);
}

TEST(replicas_and_plain_data_keep_their_kind)
{
	check_code(3, (struct option_code){1, 2}, 1, 2);
	check_code(2, (struct option_code){1, 2}, 1, 1);
	check_code(5, (struct option_code){8, 0}, 5, 0);
	check_code(1, (struct option_code){8, 0}, 1, 0);
}

TEST(every_code_fits_its_hosts_is_no_wider_than_wished_and_keeps_redundancy_where_two_hosts_are)
{
	for (uint32_t k = 1; k <= EC_K_MAX; k++)
		for (uint32_t m = 0; m <= EC_M_MAX; m++)
			for (unsigned hosts = 1; hosts <= EC_N_MAX + 2; hosts++) {
				struct option_code code, wider;
				groups_code(hosts, (struct option_code){k, m}, &code);
				CHECK(code.k >= 1 && code.k <= k && code.m <= m);
				CHECK(code.k + code.m <= hosts);
				CHECK_EQ(code.k + code.m, FM_MIN(hosts, k + m));
				CHECK(m == 0 || hosts < 2 || code.m >= 1);
				/* One host more never makes it less safe. */
				groups_code(hosts + 1, (struct option_code){k, m}, &wider);
				CHECK(wider.m >= code.m);
			}
}
