/*
 * apps/farmem_survey.h: asks every node of --nodes who it is, all at once, before a program depends
 * on them. Used by `farmem run` and `farmem doctor`.
 */
#ifndef FM_APPS_FARMEM_SURVEY_H
#define FM_APPS_FARMEM_SURVEY_H

#include "base/config.h"

#define SURVEY_ASK_NS 3000000000ull /* longest wait for the slowest node */

struct survey_node {
	char name[128]; /* as the user wrote it */
	char host[64];  /* machine identity: equal for two names of one machine */
	char text[160]; /* why it did not answer */
	int status;     /* 0 or -errno */
	int same_as;    /* index of an earlier node that is this very node, or -1 */
	int host_as;    /* index of an earlier node on the same machine, or -1 */
	uint64_t incarnation, free_bytes;
};

struct survey {
	unsigned count, reachable, hosts;
	struct survey_node nodes[CONFIG_NODES_MAX];
};

/* config.nodes must have passed config_check. 0 or -errno when asking itself failed. */
int survey_ask(const struct fm_config *config, struct survey *report) FM_MUST_USE;
/* The code new groups get with so many hosts: the wished one, or the widest that fits. hosts >= 1.
 */
struct option_code survey_code(struct option_code wished, unsigned hosts);
/*
 * Says on standard error, one line each, what is wrong with the answers. 0 when there is at least
 * one node to lend memory, else -ENODATA.
 */
int survey_complain(const struct fm_config *config, const struct survey *report) FM_MUST_USE;

#endif
