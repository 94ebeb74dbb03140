/*
 * farmem/front.c: the malloc front (libfarmem-malloc.so): jemalloc whose extents lie in far-capable
 * memory.
 *
 * jemalloc is linked in statically and its malloc family is exported as it is: no wrapper stands in
 * the way, so a program that fits its budget runs at jemalloc's own speed. What is ours: extent
 * hooks on every arena (jemalloc's metadata stays near: front_metadata), calloc (for one caller:
 * see front_thread_memory), and in mmap_front.c the calls by which a program maps memory itself.
 *
 * Runtime threads never call malloc (invariant 8): asserted where it would show, in front_alloc via
 * fm_map.
 */
#include <dlfcn.h>
#include <errno.h>
#include <jemalloc/jemalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/mem.h"
#include "farmem/farmem.h"

#define FRONT_HUGE_BYTES (2u << 20)
#define FRONT_THREAD_BYTES (256u << 10) /* descriptors of all runtime threads */

/* Large blocks too come from the thread's own arena, hence from our hooks. */
FM_EXPORT const char *malloc_conf = "oversize_threshold:0";

void *jemalloc_calloc(size_t count, size_t size); /* jemalloc's calloc, renamed when linking */

/* ---- extent hooks ---- */

/*
 * jemalloc's own metadata must stay near: every malloc and free walks it. Hooking an arena that
 * does not exist yet makes it with our hooks for its metadata as well; such blocks are told by
 * their alignment (a huge page; extents for the program are asked for page-aligned).
 */
static void *front_metadata(size_t size, size_t alignment)
{
	char *at = mmap(NULL, size + alignment, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return at == MAP_FAILED ? NULL : (void *)FM_ALIGN_UP((uintptr_t)at, (uintptr_t)alignment);
}

static void *front_alloc(extent_hooks_t *hooks, void *new_addr, size_t size, size_t alignment,
	bool *zero, bool *commit, unsigned arena)
{
	(void)hooks;
	(void)arena;
	if (new_addr != NULL)
		return NULL;
	void *at = alignment >= FRONT_HUGE_BYTES ? front_metadata(size, alignment)
						 : fm_map(size, alignment);
	if (at != NULL)
		*zero = *commit = true;
	return at;
}

/* true: not taken; jemalloc keeps the addresses for later (their contents it purges in time). */
static bool front_dalloc(
	extent_hooks_t *hooks, void *addr, size_t size, bool committed, unsigned arena)
{
	(void)hooks, (void)addr, (void)size, (void)committed, (void)arena;
	return true;
}

static bool front_purge(extent_hooks_t *hooks, void *addr, size_t size, size_t offset,
	size_t length, unsigned arena)
{
	(void)hooks, (void)size, (void)arena;
	/* Extents from before the hooks are not ours. */
	if (!fm_owns(addr))
		return syscall(SYS_madvise, (char *)addr + offset, length, MADV_DONTNEED) != 0;
	fm_purge((char *)addr + offset, length);
	return false;
}

static bool front_split(extent_hooks_t *hooks, void *addr, size_t size, size_t a, size_t b,
	bool committed, unsigned arena)
{
	(void)hooks, (void)addr, (void)size, (void)a, (void)b, (void)committed, (void)arena;
	return false;
}

static bool front_merge(extent_hooks_t *hooks, void *a, size_t a_size, void *b, size_t b_size,
	bool committed, unsigned arena)
{
	(void)hooks, (void)a_size, (void)b_size, (void)committed, (void)arena;
	return fm_owns(a) != fm_owns(b); /* older extents stay by themselves */
}

static extent_hooks_t front_hooks = {.alloc = front_alloc,
	.dalloc = front_dalloc,
	.purge_forced = front_purge,
	.split = front_split,
	.merge = front_merge};

static int front_hook_arena(unsigned arena)
{
	char name[48];
	extent_hooks_t *ours = &front_hooks;
	snprintf(name, sizeof(name), "arena.%u.extent_hooks", arena);
	return mallctl(name, NULL, NULL, &ours, sizeof(ours));
}

static void front_name_tree(void)
{
	char tree[64];
	struct timespec now;
	if (getenv("FARMEM_TREE") != NULL)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(tree, sizeof(tree), "%d-%llx", (int)getpid(),
		(unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec);
	setenv("FARMEM_TREE", tree, 0);
}

/* A program that defines malloc itself keeps it: the dynamic linker looks there first. */
static void front_look_for_another(void)
{
	Dl_info theirs, ours;
	char line[512];
	if (dladdr((void *)(uintptr_t)malloc, &theirs) == 0 ||
		dladdr((void *)(uintptr_t)front_look_for_another, &ours) == 0 ||
		theirs.dli_fbase == ours.dli_fbase)
		return;
	int length = snprintf(line, sizeof(line),
		"farmem: %s has a malloc of its own: of its memory only large mappings can go "
		"far\n",
		theirs.dli_fname);
	if (length > 0)
		(void)!write(STDERR_FILENO, line, FM_MIN((size_t)length, sizeof(line) - 1));
}

__attribute__((constructor)) static void front_begin(void)
{
	unsigned arenas = 0;
	size_t size = sizeof(arenas);
	front_name_tree();
	int rc = fm_open();
	if (rc == -EINVAL)
		_exit(2); /* the user's mistake, said in one line */
	if (rc != 0)
		return; /* said in one line: plain jemalloc */
	front_look_for_another();
	if (mallctl("opt.narenas", &arenas, &size, NULL, 0) != 0)
		return;
	for (unsigned i = 0; i < arenas; i++)
		if (front_hook_arena(i) != 0)
			return;
}

/* ---- calls jemalloc does not export, or that need a look first ---- */

extern __thread bool runtime_thread_is_ours __attribute__((tls_model("initial-exec")));

/*
 * pthread_create asks calloc for the thread's descriptor vector. When the runtime starts a thread
 * it may be inside a jemalloc hook, with jemalloc's locks held: that memory comes from here.
 * Runtime threads never end; nothing is freed.
 */
static void *front_thread_memory(size_t bytes)
{
	static char *pool;
	static size_t used;
	if (pool == NULL)
		pool = mem_map(FRONT_THREAD_BYTES);
	bytes = FM_ALIGN_UP(bytes, (size_t)FM_CACHE_LINE);
	if (pool == NULL || bytes > FRONT_THREAD_BYTES - used)
		return NULL;
	used += bytes;
	return pool + used - bytes;
}

FM_EXPORT void *calloc(size_t count, size_t size)
{
	if (fm_unlikely(runtime_thread_is_ours)) {
		size_t bytes;
		return __builtin_mul_overflow(count, size, &bytes) ? NULL
								   : front_thread_memory(bytes);
	}
	return jemalloc_calloc(count, size);
}

FM_EXPORT void *reallocarray(void *memory, size_t count, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(count, size, &bytes)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(memory, bytes);
}

FM_EXPORT void *pvalloc(size_t size)
{
	if (size > SIZE_MAX - FM_PAGE_SIZE) {
		errno = ENOMEM;
		return NULL;
	}
	return valloc(FM_ALIGN_UP(size, (size_t)FM_PAGE_SIZE));
}
