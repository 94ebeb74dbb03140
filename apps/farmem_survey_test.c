/*
 * apps/farmem_survey_test.c: `farmem run` foretells the code that the agent will choose: for every
 * wish and every number of hosts the two must say the same.
 */
#include "apps/farmem_survey.h"
#include "base/test.h"
#include "ec/ec.h"
#include "farmem/agent/agent.h"

TEST(the_code_foretold_is_the_one_the_agent_chooses)
{
	for (uint32_t k = 1; k <= EC_K_MAX; k++)
		for (uint32_t m = 0; m <= EC_M_MAX; m++)
			for (unsigned hosts = 1; hosts <= EC_N_MAX + 2; hosts++) {
				struct option_code wish = {k, m}, chosen;
				struct option_code foretold = survey_code(wish, hosts);

				groups_code(hosts, wish, &chosen);
				CHECK_EQ(foretold.k, chosen.k);
				CHECK_EQ(foretold.m, chosen.m);
			}
}

TEST(a_code_fits_its_hosts_and_is_never_wider_than_the_wish)
{
	for (unsigned hosts = 1; hosts <= 20; hosts++) {
		struct option_code code = survey_code((struct option_code){4, 2}, hosts);

		CHECK_LE(code.k + code.m, hosts);
		CHECK_LE(code.k, 4);
		CHECK_LE(code.m, 2);
		CHECK_LE(1, code.k);
	}
}
