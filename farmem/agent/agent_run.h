/*
 * farmem/agent/agent_run.h: the agent as its main program sees it.
 */
#ifndef FM_FARMEM_AGENT_AGENT_RUN_H
#define FM_FARMEM_AGENT_AGENT_RUN_H

#include "base/compiler.h"

struct agent_run_options {
	const char *dir;              /* of the tree, absolute, ours */
	const char *self;             /* directory of our program */
	void (*ready)(void *context); /* called once connections are accepted */
	void *context;
};

/* Serves until nobody needs it any more, or a signal. 0, or -errno when it cannot start:
 * -EADDRINUSE there is an agent already. */
int agent_run(const struct agent_run_options *options) FM_MUST_USE;

#endif
