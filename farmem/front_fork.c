/*
 * farmem/front_fork.c: the front's hand in fork: our handlers before all others.
 *
 * libc calls a child's handlers in the order of their registration, and what any of them touches
 * may be far (a library's own lock in a malloc'ed block): ours must be the first, so it is entered
 * when anybody enters one. Prepare handlers run in the reverse order: ours is the last, with
 * jemalloc's locks held.
 *
 * pthread_atfork is in every library's own static part of libc, and calls this name.
 */
#include <dlfcn.h>
#include <errno.h>

#include "farmem/fork_first.h"

extern void *__dso_handle __attribute__((visibility("hidden")));

FM_EXPORT int __register_atfork(
	void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso);
FM_EXPORT int __register_atfork(
	void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso)
{
	static fm_register_atfork *_Atomic real;
	fm_register_atfork *enter = real;
	if (enter == NULL)
		real = enter =
			(fm_register_atfork *)(uintptr_t)dlsym(RTLD_NEXT, "__register_atfork");
	if (enter == NULL)
		return ENOMEM;
	fm_fork_first(enter, &__dso_handle);
	return enter(prepare, parent, child, dso);
}
