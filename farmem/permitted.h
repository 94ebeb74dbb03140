/*
 * farmem/permitted.h: will the kernel do what far memory needs? Asked before anything depends on
 * it: a seccomp filter, or a limit on threads, met in the middle would leave a program waiting for
 * ever. Called by runtime.c. No malloc.
 */
#ifndef FM_FARMEM_PERMITTED_H
#define FM_FARMEM_PERMITTED_H

#include "base/compiler.h"

/* The name of a system call that this process's seccomp filter refuses although the runtime needs
 * it; NULL: none, or there is no filter. (A filter that kills for it, kills here.) */
const char *permitted_calls(void) FM_MUST_USE;
/* Can there be one more thread? 0, -EAGAIN, -EPERM, -errno. Begins and ends one. */
int permitted_thread(void) FM_MUST_USE;

#endif
