/*
 * farmem/fork.c: fork without exec, for now: a child that touches far-capable memory ends with one
 * clear line.
 *
 * Registered memory is MADV_DONTFORK: a child has nothing there (never zeros). The child handler
 * fills the hole with PROT_NONE, so that no later mmap lands in it, and explains the SIGSEGV that a
 * touch brings. fork + exec works as long as the child touches only stack, globals and fresh heap
 * before it execs. posix_spawn, vfork and system() share the parent's memory and are served like
 * any thread.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "farmem/runtime.h"

static struct runtime *fork_runtime;

static void fork_explain(int signal, siginfo_t *info, void *context)
{
	static const char line[] = "farmem: a forked child touched far memory: fork without exec "
				   "is not supported yet; "
				   "the child ends (use exec, posix_spawn or vfork)\n";
	(void)context;
	if (range_owns(&fork_runtime->range, info->si_addr)) {
		(void)!write(STDERR_FILENO, line, sizeof(line) - 1);
		_exit(128 + SIGSEGV);
	}
	struct sigaction plain = {.sa_handler = SIG_DFL};
	sigaction(signal, &plain, NULL); /* not ours: dies of it when the access is repeated */
}

static void fork_fill_hole(struct range *r, uint64_t first, uint64_t end)
{
	(void)mmap(r->base + first * FM_PAGE_SIZE, (end - first) * FM_PAGE_SIZE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

static void fork_child(void)
{
	struct runtime *rt = fork_runtime;
	struct range *r = &rt->range;
	uint32_t state = atomic_load(&rt->state);
	if (state == RUNTIME_STARTING || state == RUNTIME_READY)
		atomic_store(&rt->state, RUNTIME_OFF); /* its threads are not here */
	if (state != RUNTIME_RUNNING)
		return; /* nothing registered: an ordinary copy */
	uint32_t fresh_end = atomic_load(&r->fresh_end);
	fork_fill_hole(r, fresh_end, r->pages);
	for (uint32_t page = 0; page < fresh_end; page += RANGE_BLOCK_PAGES)
		if (r->blocks[page / RANGE_BLOCK_PAGES] == RANGE_REGISTERED)
			fork_fill_hole(r, page, page + RANGE_BLOCK_PAGES);
	struct sigaction explain = {
		.sa_sigaction = fork_explain, .sa_flags = SA_SIGINFO | SA_NODEFER};
	sigaction(SIGSEGV, &explain, NULL);
	atomic_store(&rt->state, RUNTIME_OFF);
	rt->stats_file[0] = 0;
}

void fork_guard_open(struct runtime *rt)
{
	fork_runtime = rt;
	(void)pthread_atfork(NULL, NULL, fork_child);
}
