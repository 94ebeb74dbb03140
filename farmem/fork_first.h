/*
 * farmem/fork_first.h: how the malloc front sees to it that our handlers are the first of all that
 * libc's fork knows (front_fork.c, fork.c).
 */
#ifndef FM_FARMEM_FORK_FIRST_H
#define FM_FARMEM_FORK_FIRST_H

#include "base/compiler.h"

typedef int fm_register_atfork(
	void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso);

/* Enters ours by `enter`, once; `dso`: whose they are. Before anything else of the runtime. */
FM_EXPORT void fm_fork_first(fm_register_atfork *enter, void *dso);

#endif
