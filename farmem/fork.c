/*
 * farmem/fork.c: fork without exec: the child sees exactly its parent's memory at the fork, near
 * and far (DESIGN section 12, fork).
 *
 * The handlers below are the first that libc's fork calls in the child and the last in the parent
 * before it (front_fork.c sees to it), all on the thread that forks:
 *
 *   prepare   mappings stand still (map_lock) -> gates closed (gate.h): a page may come, none may
 * go
 *             -> what libc touches in the child before our turn is brought near -> an epoch is
 *             pinned, the words are copied -> registered memory and staging may be inherited
 *   child     the copied words are its words; it is served by threads of its own (fork_child.c)
 *   parent    registered memory is not inherited any more, gates open; the child's token stays
 *             (fork_token.c): while it lives, records and slots it may read are not reused
 *
 * Pages that are present at the fork are shared copy-on-write like any memory. Of the others the
 * copied words tell: EMPTY; EVICTING: in the inherited staging ring; FAR: on the nodes. A child
 * that forks does the same with its own words; it has nobody to keep from reuse: its own token
 * lives on in its children.
 *
 * Where it cannot be done (kernel, rights, too many children) the child has nothing where
 * registered memory was, never zeros: it ends at the first touch with one line that says why. exec,
 * posix_spawn, vfork and system() work all the same.
 *
 * Invariants
 *   F1  Between the copying of the words and the end of the fork no page goes: what is missing in
 *       the child is what its word says.
 *   F2  The pin comes before the first word is looked at; it ends with the child's address space.
 *   F3  Between the fork and the registration nothing touches what may be missing: libc's own few
 *       touches (streams' locks) are made in the parent first, while faults are served.
 *   F4  Registered memory is MADV_DONTFORK but from prepare to parent: raw clones crash, they do
 * not read zeros.
 *
 * Lock order: fork.lock  <  range.map_lock  <  gate  <  range.lock  <  core.codes_lock
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "farmem/fork_first.h"
#include "farmem/mmap.h"
#include "farmem/runtime.h"

#define FORK_STACK_BYTES (64u << 10) /* libc's fork needs less below us */
#define FORK_WORD_PAUSE_NS (5 * NS_PER_US)
#define FORK_HUGE_BYTES (1u << 20) /* for words of half a GiB and more */

static struct runtime *fork_runtime;
static _Atomic uint32_t fork_registered;

/* ---- denied ---- */

static void fork_say(const char *text)
{
	(void)!write(STDERR_FILENO, text, strlen(text));
}

static void fork_explain(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (range_owns(&fork_runtime->range, info->si_addr)) {
		fork_say("farmem: a forked child touched far memory, which it cannot have: ");
		fork_say(fork_runtime->fork.denied);
		fork_say("; the child ends (exec, posix_spawn and vfork do work)\n");
		_exit(128 + SIGSEGV);
	}
	struct sigaction plain = {.sa_handler = SIG_DFL};
	sigaction(signal, &plain, NULL); /* not ours: dies of it when the access is repeated */
}

static void fork_catch(struct sigaction *before)
{
	struct sigaction explain = {
		.sa_sigaction = fork_explain, .sa_flags = SA_SIGINFO | SA_NODEFER};
	sigaction(SIGSEGV, &explain, before);
}

/* ---- what libc's fork touches in the child before our handler (F3) ---- */

/* libc's own: they are not in its headers. */
void *_IO_iter_begin(void);
void *_IO_iter_end(void);
void *_IO_iter_next(void *iterator);
FILE *_IO_iter_file(void *iterator);
void _IO_list_lock(void);
void _IO_list_unlock(void);

static void fork_touch(const volatile void *address)
{
	(void)*(const volatile char *)address;
}

static void fork_touch_streams(void)
{
	_IO_list_lock();
	for (void *i = _IO_iter_begin(); i != _IO_iter_end(); i = _IO_iter_next(i)) {
		FILE *stream = _IO_iter_file(i);
		fork_touch(stream);
		fork_touch((const char *)(stream + 1) - 1);
		if (stream->_lock != NULL)
			fork_touch(stream->_lock);
	}
	_IO_list_unlock();
}

/* A thread's stack may be far-capable memory too. */
static __attribute__((noinline)) void fork_touch_stack(const struct range *r)
{
	volatile char below[FORK_STACK_BYTES];
	if (!range_owns(r, (const void *)(uintptr_t)below))
		return;
	for (unsigned i = 0; i < FORK_STACK_BYTES; i += FM_PAGE_SIZE)
		below[i] = 0;
}

/* ---- words ---- */

/* What a word means to somebody who cannot follow its changes. False: look again. */
static bool fork_translate(const struct runtime *rt, struct span_word w, struct span_word *to)
{
	switch (span_state(w)) {
	case SPAN_EMPTY:
	case SPAN_FAR:
	case SPAN_LOST:
		*to = w;
		return true;
	case SPAN_NEAR:
		*to = span_at(span_turned(w, SPAN_NEAR, 0), 0, 0);
		return true;
	case SPAN_EVICTING: /* without MOVE the page is still in its place */
		*to = rt->uffds[0].pager.moves ? span_turned(w, SPAN_EVICTING, 0)
					       : span_at(span_turned(w, SPAN_NEAR, 0), 0, 0);
		return true;
	case SPAN_DROPPING: /* somebody who is not in the child was giving it back */
		*to = span_make(SPAN_EMPTY, 0, span_gen(w));
		return true;
	case SPAN_FETCHING:
		*to = span_turned(w, SPAN_FAR, 0);
		return (span_flags(w) & SPAN_REMOTE) != 0;
	}
	FM_PANIC("fork: impossible word=%llx", (unsigned long long)w.v);
}

/* FETCHING without a network read lasts as long as a system call or two. */
static struct span_word fork_translate_settled(const struct runtime *rt, struct page_id id)
{
	struct span_word to;
	while (!fork_translate(rt, span_load(rt->core.catalog.words, id), &to))
		clock_pause(clock_now_ns() + FORK_WORD_PAUSE_NS);
	return to;
}

static int fork_copy_words(struct runtime *rt)
{
	struct fork *f = &rt->fork;
	f->words_bytes = (uint64_t)f->end * sizeof(*f->words);
	f->words = f->words_bytes < FORK_HUGE_BYTES ? mem_map(f->words_bytes)
						    : mem_map_huge(f->words_bytes);
	if (f->words == NULL)
		return -ENOMEM;
	for (uint32_t page = 0; page < f->end; page++) {
		struct page_id id = {page};
		/* Zeros are there already. */
		if (span_load(rt->core.catalog.words, id).v != 0)
			f->words[page] = fork_translate_settled(rt, id).v;
	}
	return 0;
}

/* ---- inheritance ---- */

int fork_each_registered(
	struct runtime *rt, int (*visit)(struct runtime *rt, uint64_t page, uint64_t count))
{
	struct range *r = &rt->range;
	uint64_t page = 0, count;
	int rc = 0;
	for (; rc == 0 && (count = range_next_registered(r, &page, rt->fork.end)) != 0;
		page += count)
		rc = visit(rt, page, count);
	return rc;
}

static int fork_advise(struct runtime *rt, uint64_t page, uint64_t count, int advice)
{
	return uffd_advise(rt->range.base + page * FM_PAGE_SIZE, count * FM_PAGE_SIZE, advice);
}

static int fork_inherit_pages(struct runtime *rt, uint64_t page, uint64_t count)
{
	return fork_advise(rt, page, count, MADV_DOFORK);
}

static int fork_withhold_pages(struct runtime *rt, uint64_t page, uint64_t count)
{
	return fork_advise(rt, page, count, MADV_DONTFORK);
}

/* Nothing where registered memory was, so that no later mmap lands in it. */
static int fork_fill_hole(struct runtime *rt, uint64_t page, uint64_t count)
{
	(void)syscall(SYS_mmap, rt->range.base + page * FM_PAGE_SIZE, count * FM_PAGE_SIZE,
		PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	return 0;
}

/* What was handed out, what never was, and staging. */
static int fork_inherit(struct runtime *rt, bool on)
{
	const struct range *r = &rt->range;
	int advice = on ? MADV_DOFORK : MADV_DONTFORK;
	int rc = fork_each_registered(rt, on ? fork_inherit_pages : fork_withhold_pages);
	/* In a forked child that is ordinary memory (fork_child.c). */
	if (rc == 0 && rt->fork.end < r->pages && range_registered(&rt->range, rt->fork.end))
		rc = fork_advise(rt, rt->fork.end, r->pages - rt->fork.end, advice);
	for (unsigned i = 0; rc == 0 && i < rt->stripe_count; i++)
		if (rt->uffds[i].pager.moves)
			rc = uffd_advise(
				rt->uffds[i].pager.staging, rt->uffds[i].staging_bytes, advice);
	return rc;
}

/* ---- the three handlers ---- */

/* Mappings, pages and registrations stand still. */
static void fork_hold(struct runtime *rt)
{
	range_map_lock(&rt->range);
	for (unsigned i = 0; i < rt->stripe_count; i++)
		gate_close(&rt->stripes[i].gate);
	pthread_mutex_lock(&rt->range.lock);
	pthread_mutex_lock(&rt->core.codes_lock);
	rt->fork.held = true;
}

static void fork_let_go(struct runtime *rt)
{
	if (!rt->fork.held)
		return;
	rt->fork.held = false;
	pthread_mutex_unlock(&rt->core.codes_lock);
	pthread_mutex_unlock(&rt->range.lock);
	for (unsigned i = 0; i < rt->stripe_count; i++)
		gate_open(&rt->stripes[i].gate);
	range_map_unlock(&rt->range);
}

static void fork_find_end(struct runtime *rt)
{
	uint64_t used = atomic_load_explicit(&rt->range.used_pages, memory_order_acquire);
	used = FM_ALIGN_UP(FM_MAX(used, 1ull), (uint64_t)RANGE_BLOCK_PAGES);
	rt->fork.end = (uint32_t)FM_MIN(used, rt->range.pages);
}

/* A failure leaves registered memory as it is: not inherited (F4). */
static const char *fork_prepare_far(struct runtime *rt, bool parent)
{
	struct fork *f = &rt->fork;
	fork_find_end(rt);
	f->token = parent ? fork_token_take(rt) : NULL;
	if (parent && f->token == NULL)
		return "too many children read this process's memory already";
	fork_hold(rt);
	f->begun_ns = clock_now_ns();
	fork_find_end(rt); /* more may have been handed out since */
	fork_touch_streams();
	fork_touch_stack(&rt->range);
	if (parent)
		f->token->epoch = epoch_pin(&rt->core); /* F2 */
	if (fork_copy_words(rt) != 0)
		return "no memory for its page words";
	if (fork_inherit(rt, true) != 0)
		return "the kernel does not let it be inherited";
	return NULL;
}

/* Is any memory registered? (A runtime that is OFF since then serves it all the same.) */
static bool fork_is_far(struct runtime *rt)
{
	return atomic_load(&rt->range.fresh_end) != UINT32_MAX;
}

static void fork_prepare(void)
{
	struct runtime *rt = fork_runtime;
	if (rt == NULL)
		return;
	struct fork *f = &rt->fork;
	pthread_mutex_lock(&f->lock);
	f->kind = FORK_PLAIN;
	f->token = NULL;
	f->words = NULL;
	/* Nothing is registered, nor will be before the fork is over: range_start waits for it. */
	range_map_lock(&rt->range);
	if (!fork_is_far(rt)) {
		f->held_map = true;
		return;
	}
	range_map_unlock(&rt->range);
	f->denied = fork_prepare_far(rt, atomic_load(&rt->state) != RUNTIME_FORKED);
	f->kind = f->denied == NULL ? FORK_FAR : FORK_DENIED;
	if (f->kind == FORK_DENIED)
		fork_catch(&f->segv); /* before libc's own touches in the child */
}

static void fork_forget_words(struct fork *f)
{
	mem_unmap((void *)(uintptr_t)f->words, f->words ? f->words_bytes : 0);
	f->words = NULL;
}

static void fork_parent(void)
{
	struct runtime *rt = fork_runtime;
	if (rt == NULL)
		return;
	struct fork *f = &rt->fork;
	if (f->kind != FORK_PLAIN) {
		catalog_count(&rt->core.catalog, forks, 1);
		(void)fork_inherit(rt, false);
	}
	if (f->kind == FORK_DENIED)
		sigaction(SIGSEGV, &f->segv, NULL);
	if (f->held)
		catalog_count(&rt->core.catalog, fork_ns, clock_now_ns() - f->begun_ns);
	fork_let_go(rt);
	if (f->token != NULL)
		fork_token_leave(f->token);
	fork_forget_words(f);
	if (f->held_map)
		range_map_unlock(&rt->range);
	f->held_map = false;
	pthread_mutex_unlock(&f->lock);
}

/* Locks that were held for the fork; everybody who may wait for them is not here. */
static void fork_child_locks(struct runtime *rt)
{
	struct fork *f = &rt->fork;
	if (f->held || f->held_map)
		range_map_unlock(&rt->range); /* with it the signal mask comes back */
	f->held = f->held_map = false;
	pthread_mutex_init(&rt->range.map_lock, NULL);
	pthread_mutex_init(&rt->range.lock, NULL);
	pthread_mutex_init(&rt->core.codes_lock, NULL);
	pthread_mutex_init(&f->lock, NULL);
	for (unsigned i = 0; i < rt->stripe_count; i++)
		gate_reset(&rt->stripes[i].gate);
}

static void fork_child_denied(struct runtime *rt, const char *why)
{
	rt->fork.denied = why;
	int rc = fork_each_registered(rt, fork_fill_hole);
	FM_ASSERT_EQ(rc, 0); /* fork_fill_hole stops at nothing */
	fork_catch(NULL);
	atomic_store(&rt->range.fresh_end, UINT32_MAX); /* nothing is registered here */
	atomic_store(&rt->state, RUNTIME_OFF);
}

static void fork_child(void)
{
	struct runtime *rt = fork_runtime;
	if (rt == NULL)
		return;
	struct fork *f = &rt->fork;
	uint32_t state = atomic_load(&rt->state);
	fork_child_locks(rt);
	rt->stats_file[0] = 0;
	rt->profile.threads_count = 0; /* its samples are the parent's */
	rt->profile.path[0] = 0;
	if (state == RUNTIME_STARTING || state == RUNTIME_READY)
		atomic_store(&rt->state, RUNTIME_OFF); /* its threads are not here */
	if (f->kind == FORK_PLAIN)
		return; /* nothing registered: an ordinary copy */
	mmap_stop();
	if (f->kind == FORK_DENIED)
		fork_child_denied(rt, f->denied);
	else if (fork_child_start(rt) != 0)
		fork_child_denied(rt, "no right to userfaultfd, or no memory (see: farmem doctor)");
	f->kind = FORK_PLAIN;
}

/* ---- registration ---- */

FM_EXPORT void fm_fork_first(fm_register_atfork *enter, void *dso);
FM_EXPORT void fm_fork_first(fm_register_atfork *enter, void *dso)
{
	if (!atomic_exchange(&fork_registered, 1))
		(void)enter(fork_prepare, fork_parent, fork_child, dso);
}

static int fork_enter_plainly(
	void (*prepare)(void), void (*parent)(void), void (*child)(void), void *dso)
{
	(void)dso;
	return pthread_atfork(prepare, parent, child);
}

void fork_open(struct runtime *rt)
{
	pthread_mutex_init(&rt->fork.lock, NULL);
	fm_fork_first(fork_enter_plainly, NULL); /* unless the front was first */
	fork_runtime = rt;
}
