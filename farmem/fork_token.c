/*
 * farmem/fork_token.c: does a forked child still live? (fork.c; struct fork_token)
 *
 * A child may end at any moment, by any signal, and before its first instruction; it may close all
 * descriptors, change its user, and have children of its own. What it cannot do is lose a mapping
 * it does not know of. So each fork leaves one empty memfd mapped in the child alone; the parent,
 * who has its descriptor, tries to seal it against writing: EBUSY while it is mapped anywhere, also
 * by the child's children; exec and death of any kind end that. A token is used once.
 *
 * Callers: fork.c on the program's threads (take, leave); the first evictor (tend), whose
 * descriptor table they are in.
 *
 * Invariants
 *   T1  A token's mapping is not inherited but by the fork it was taken for (MADV_DONTFORK).
 *   T2  The catalog's `pinned` is at most the epoch of every token TAKEN or LIVE, once pinned.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/futex.h"
#include "farmem/runtime.h"

#define TOKEN_BYTES FM_PAGE_SIZE
#define TOKENS_READY_WANTED 4u
#define TOKEN_TEND_NS (20 * NS_PER_MS)
#define TOKEN_WAIT_NS (5 * NS_PER_S)

int fork_token_memfd(const char *name, void **memory)
{
	int rc, fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	*memory = MAP_FAILED;
	if (ftruncate(fd, TOKEN_BYTES) == 0)
		*memory = mmap(NULL, TOKEN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*memory != MAP_FAILED)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* ---- on the thread that forks ---- */

static struct fork_token *fork_token_find(struct fork *f)
{
	for (unsigned i = 0; i < FORK_CHILDREN_MAX; i++) {
		struct fork_token *t = &f->tokens[i];
		uint32_t ready = TOKEN_READY;
		if (!atomic_compare_exchange_strong(&t->state, &ready, TOKEN_TAKEN))
			continue;
		atomic_fetch_sub(&f->ready, 1);
		if (uffd_advise(t->memory, TOKEN_BYTES, MADV_DOFORK) == 0)
			return t;
		fork_token_leave(t);
		return NULL;
	}
	return NULL;
}

struct fork_token *fork_token_take(struct runtime *rt)
{
	struct fork *f = &rt->fork;
	uint64_t until = clock_now_ns() + TOKEN_WAIT_NS;
	const _Atomic uint64_t *children = &rt->core.catalog.stats->children;
	struct fork_token *token;
	while ((token = fork_token_find(f)) == NULL && clock_now_ns() < until &&
		atomic_load_explicit(children, memory_order_relaxed) < FORK_CHILDREN_MAX) {
		evict_call(&rt->stripes[0]);
		(void)futex_wait(&f->ready, 0, TOKEN_TEND_NS);
	}
	return token;
}

void fork_token_leave(struct fork_token *token)
{
	(void)munmap(token->memory, TOKEN_BYTES);
	atomic_store_explicit(&token->state, TOKEN_LIVE, memory_order_release);
}

/* ---- on the first evictor's ---- */

static bool fork_token_make(struct fork *f, struct fork_token *t)
{
	t->fd = fork_token_memfd("farmem-child", &t->memory);
	if (t->fd < 0)
		return false;
	if (uffd_advise(t->memory, TOKEN_BYTES, MADV_DONTFORK) != 0) {
		close(t->fd);
		return false;
	}
	t->epoch = UINT64_MAX;
	atomic_store_explicit(&t->state, TOKEN_READY, memory_order_release);
	atomic_fetch_add(&f->ready, 1);
	futex_wake(&f->ready, INT32_MAX);
	return true;
}

/* The child is gone: its token goes. */
static bool fork_token_bury(struct fork_token *t)
{
	if (fcntl(t->fd, F_ADD_SEALS, F_SEAL_WRITE) != 0 && errno == EBUSY)
		return false;
	close(t->fd);
	atomic_store_explicit(&t->state, TOKEN_NONE, memory_order_release);
	return true;
}

/*
 * The oldest pin that is left. A fork under way pins while it holds its lock; with the lock not to
 * be had, all stays as it is until the next time.
 */
static void fork_unpin(struct runtime *rt)
{
	struct fork *f = &rt->fork;
	uint64_t oldest = UINT64_MAX;
	if (pthread_mutex_trylock(&f->lock) != 0)
		return;
	for (unsigned i = 0; i < FORK_CHILDREN_MAX; i++)
		if (atomic_load_explicit(&f->tokens[i].state, memory_order_acquire) == TOKEN_LIVE)
			oldest = FM_MIN(oldest, f->tokens[i].epoch);
	epoch_unpin(&rt->core, oldest == UINT64_MAX ? 0 : oldest);
	pthread_mutex_unlock(&f->lock);
}

void fork_tend(struct runtime *rt)
{
	struct fork *f = &rt->fork;
	unsigned ready = atomic_load_explicit(&f->ready, memory_order_relaxed), live = 0;
	uint64_t now = clock_now_ns();
	if (fm_likely(now < f->tend_ns && ready > 0))
		return;
	f->tend_ns = now + TOKEN_TEND_NS;
	for (unsigned i = 0; i < FORK_CHILDREN_MAX; i++) {
		struct fork_token *t = &f->tokens[i];
		uint32_t state = atomic_load_explicit(&t->state, memory_order_acquire);
		if (state == TOKEN_LIVE && !fork_token_bury(t))
			live++;
		else if (state == TOKEN_NONE && ready < TOKENS_READY_WANTED)
			ready += fork_token_make(f, t);
	}
	if (live > 0 ||
		atomic_load_explicit(&rt->core.catalog.header->pinned, memory_order_relaxed) != 0)
		fork_unpin(rt);
	atomic_store_explicit(&rt->core.catalog.stats->children, live, memory_order_relaxed);
}
