/*
 * farmem/runtime.c: opening, starting, and the main and evictor threads; the public functions (see
 * runtime.h).
 *
 * Start order, on the runtime's main thread (every step logs its own failure; any failure turns the
 * runtime OFF): descriptors of our own -> kernel features -> catalog -> core -> stripes -> handlers
 * -> registration -> agent
 */
#include "farmem/runtime.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/futex.h"
#include "base/log.h"
#include "base/mem.h"
#include "farmem/farmem.h"
#include "farmem/mmap.h"
#include "farmem/permitted.h"
#include "farmem/record.h"
#include "rpc/fabric.h"

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1u << 1)
#endif
#define RUNTIME_STACK_BYTES (512u << 10)
#define RUNTIME_SHARE_START_PAGES (2048u) /* --local PERCENT: start at 8 MiB of heap */
#define RUNTIME_STAGING_MIN 1024u         /* slots */
#define RUNTIME_STAGING_MAX 16384u
#define RUNTIME_TURN_MS 50
#define RUNTIME_MEET_NS                                                                            \
	(20 * NS_PER_S) /* the agent welcomes us within so long, or is not to be had */
#define RUNTIME_EVICT_IDLE_NS (20 * NS_PER_MS)
#define RUNTIME_RECORDS_PER_PAGE 1u /* worst case: every spanset holds one live page */
#define RUNTIME_RECORDS_MAX (1u << 28)

struct runtime fm_runtime;
FM_EXPORT __thread bool runtime_thread_is_ours __attribute__((tls_model("initial-exec")));

/* ---- threads ---- */

void runtime_thread_begin(const char *name)
{
	runtime_thread_is_ours = true;
	prctl(PR_SET_NAME, name);
}

/*
 * A thread on a stack of our own, with all signals blocked. pthread_create needs a little memory
 * for the thread's descriptor: the malloc front serves that from near memory (preload.c), so this
 * is safe inside an allocator hook.
 */
int runtime_thread_start(void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t all, before;
	void *stack = mem_map(RUNTIME_STACK_BYTES);
	if (stack == NULL)
		return -ENOMEM;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int rc = permitted_thread();
	if (rc != 0) {
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		mem_unmap(stack, RUNTIME_STACK_BYTES);
		return rc;
	}
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stack, RUNTIME_STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	bool ours = runtime_thread_is_ours;
	runtime_thread_is_ours = true;
	rc = -pthread_create(&thread, &attributes, run, argument);
	runtime_thread_is_ours = ours;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	if (rc != 0)
		mem_unmap(stack, RUNTIME_STACK_BYTES);
	return rc;
}

static void runtime_set_state(struct runtime *rt, enum runtime_state state)
{
	if (state == RUNTIME_OFF)
		mmap_stop();
	atomic_store_explicit(&rt->state, state, memory_order_release);
	futex_wake(&rt->state, INT32_MAX);
}

/* On the first evictor's thread: registers what is not handed out yet, once the heap is large
 * enough. */
static void runtime_register(struct runtime *rt)
{
	if (atomic_load_explicit(&rt->state, memory_order_relaxed) != RUNTIME_READY ||
		!atomic_load(&rt->register_wanted))
		return;
	int rc = range_start(&rt->range, &rt->core, rt->uffds, rt->stripe_count);
	if (rc != 0)
		log_error("cannot register memory (%s), it stays local", strerrordesc_np(-rc));
	runtime_set_state(rt, rc == 0 ? RUNTIME_RUNNING : RUNTIME_OFF);
}

static void *runtime_evictor_main(void *argument)
{
	struct stripe *st = argument;
	struct range *range = st->owner;
	runtime_thread_begin("farmem-evict");
	for (;;) {
		if (st->index == 0) {
			runtime_register(&fm_runtime);
			fork_tend(&fm_runtime);
		}
		atomic_store_explicit(&st->pages_end,
			atomic_load_explicit(&range->used_pages, memory_order_acquire),
			memory_order_release);
		if (evict_round(st))
			continue;
		uint32_t seen = atomic_load(&st->wake);
		atomic_store(&st->sleeping, 1);
		(void)futex_wait(&st->wake, seen, RUNTIME_EVICT_IDLE_NS);
		atomic_store(&st->sleeping, 0);
	}
	return NULL;
}

/* ---- start, step by step ---- */

/*
 * A descriptor table of our own: the program cannot close our userfaultfd (far reads would turn
 * into zeros), and our copies of its pipes do not keep them open. Nor does its chroot hide the
 * nodes' sockets from us. Only stderr is kept, for the few lines we have to say.
 */
int runtime_own_descriptors(struct runtime *rt)
{
	if (unshare(CLONE_FILES | CLONE_FS) != 0 &&
		/* Containers' default filters refuse unshare, and know nothing of this way. */
		syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_UNSHARE) != 0)
		return -errno;
	close(0);
	close(1);
	if (syscall(SYS_close_range, 3u, ~0u, 0u) != 0)
		return -errno;
	rt->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rt->config.log[0] != 0 && log_open(rt->config.log) != 0)
		log_warn("cannot open the log file %s", rt->config.log);
	return rt->event >= 0 ? 0 : -errno;
}

static int runtime_choose_eviction(struct runtime *rt, bool *moves)
{
	struct uffd_features features;
	int rc = uffd_probe(&features);
	if (rc == -EPERM || rc == -EACCES) {
		log_error("no permission for userfaultfd, memory stays local: run as root, give "
			  "access to "
			  "/dev/userfaultfd, or sysctl vm.unprivileged_userfaultfd=1 (see: farmem "
			  "doctor)");
		return rc;
	}
	if (rc != 0) {
		log_error("this kernel has no usable userfaultfd (%s), memory stays local (see: "
			  "farmem doctor)",
			strerrordesc_np(-rc));
		return rc;
	}
	*moves = features.move && rt->config.evict != EVICT_WP;
	if (rt->config.evict == EVICT_MOVE && !features.move) {
		log_error("--evict move: this kernel has no UFFDIO_MOVE (6.8), memory stays local; "
			  "use --evict auto");
		return -ENOSYS;
	}
	return 0;
}

static int runtime_make_catalog(struct runtime *rt, bool moves)
{
	uint64_t records =
		FM_MIN(rt->range.pages * RUNTIME_RECORDS_PER_PAGE, (uint64_t)RUNTIME_RECORDS_MAX);
	char command[16] = "";
	prctl(PR_GET_NAME, command);
	struct catalog_options options = {.range_base = (uint64_t)(uintptr_t)rt->range.base,
		.range_pages = rt->range.pages,
		.records_max = (uint32_t)records,
		.code_k = config_code(&rt->config).k,
		.code_m = config_code(&rt->config).m,
		.scheme = rt->config.scheme,
		.region_bytes = rt->config.region_bytes,
		.command = program_invocation_short_name};
	int rc = catalog_create(&rt->core.catalog, &options);
	if (rc == 0)
		rt->core.catalog.header->evict_mode = moves ? EVICT_MOVE : EVICT_WP;
	return rc;
}

static uint64_t runtime_budget_pages(const struct runtime *rt)
{
	if (rt->config.local.permille == 0)
		return rt->config.local.bytes / FM_PAGE_SIZE;
	long pages = sysconf(_SC_PHYS_PAGES);
	return (uint64_t)(pages > 0 ? pages : 1) / 4;
}

static uint32_t runtime_staging_slots(const struct runtime *rt)
{
	uint64_t slots = RUNTIME_STAGING_MIN;
	while (slots < runtime_budget_pages(rt) / 8 && slots < RUNTIME_STAGING_MAX)
		slots *= 2;
	return (uint32_t)slots;
}

static int runtime_open_stripe(struct runtime *rt, unsigned index, bool moves)
{
	struct stripe *st = &rt->stripes[index];
	struct spanset_io_options options = {.name = "evict",
		.spin_ns = rt->config.spin_ns,
		.fetch_deadline_ns = rt->config.fetch_deadline_ns,
		.store_deadline_ns = rt->config.store_deadline_ns,
		.stores = true,
		.hedges = true}; /* repack goes around slow nodes */
	rt->uffds[index].names_threads = rt->config.profile[0] != 0;
	int rc = uffd_open(&rt->uffds[index], rt->range.base, runtime_staging_slots(rt), moves);
	if (rc != 0)
		return rc;
	rt->uffds[index].frozen = range_frozen;
	rt->uffds[index].owner = &rt->range;
	st->core = &rt->core;
	st->pager = &rt->uffds[index].pager;
	st->index = index;
	st->stripes = rt->stripe_count;
	st->prepare_block = range_prepare_block;
	st->owner = &rt->range;
	rt->stripe_list[index] = st;
	rc = stripe_open(st);
	if (rc == 0)
		rc = epoch_register(&rt->core, "evict", &st->epoch);
	if (rc == 0)
		rc = spanset_io_open(&rt->core, &options, &st->io);
	return rc;
}

static int runtime_open_handlers(struct runtime *rt)
{
	unsigned count = rt->stripe_count * rt->handlers_per_stripe;
	rt->handlers = mem_map(count * sizeof(*rt->handlers));
	if (rt->handlers == NULL)
		return -ENOMEM;
	int rc = profile_open(&rt->profile, &rt->config, rt->core.catalog.words, rt->range.base,
		rt->range.pages, count);
	for (unsigned i = 0; rc == 0 && i < count; i++) {
		struct stripe *st = &rt->stripes[i / rt->handlers_per_stripe];
		rc = handler_open(rt, &rt->handlers[i], st, i % rt->handlers_per_stripe);
		if (i < rt->profile.threads_count)
			rt->handlers[i].profile = &rt->profile.threads[i];
	}
	return rc;
}

/* One stripe per 16 CPUs; a handler per CPU within the bounds (handler.c says why). */
static void runtime_size_threads(struct runtime *rt)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t cpus = online > 0 ? (uint64_t)online : 1;
	uint64_t stripes = rt->config.stripes ? rt->config.stripes : (cpus + 15) / 16;
	uint64_t handlers = rt->config.handlers ? rt->config.handlers : cpus;
	rt->stripe_count = (uint32_t)FM_MIN(stripes, (uint64_t)STRIPES_MAX);
	uint64_t most =
		CATALOG_THREADS_MAX / rt->stripe_count - 1; /* epoch lines: one is the evictor's */
	rt->handlers_per_stripe =
		(uint32_t)FM_MIN(FM_MIN(handlers, (uint64_t)RUNTIME_HANDLERS_MAX), most);
}

static int runtime_start_threads(struct runtime *rt)
{
	int rc = 0;
	for (unsigned i = 0; rc == 0 && i < rt->stripe_count * rt->handlers_per_stripe; i++)
		rc = handler_start(&rt->handlers[i]);
	for (unsigned i = 0; rc == 0 && i < rt->stripe_count; i++)
		rc = runtime_thread_start(runtime_evictor_main, &rt->stripes[i]);
	return rc;
}

static int runtime_build(struct runtime *rt)
{
	bool moves = false;
	int rc = runtime_own_descriptors(rt);
	if (rc != 0)
		log_error("cannot have descriptors of its own (%s), memory stays local",
			strerrordesc_np(-rc));
	else
		rc = runtime_choose_eviction(rt, &moves);
	if (rc != 0)
		return rc;
	runtime_size_threads(rt);
	rt->core.config = rt->config;
	rt->core.report_suspect = agent_link_suspect;
	rt->core.report_wanted = agent_link_wanted;
	rt->core.report_merges = agent_link_merges;
	rt->core.reporter = rt;
	void *life;
	rt->life = fork_token_memfd("farmem-life", &life);
	rc = rt->life < 0 ? rt->life : runtime_make_catalog(rt, moves);
	if (rc == 0)
		rc = core_open(&rt->core, runtime_budget_pages(rt));
	for (unsigned i = 0; rc == 0 && i < rt->stripe_count; i++)
		rc = runtime_open_stripe(rt, i, moves);
	if (rc == 0)
		rc = runtime_open_handlers(rt);
	if (rc == 0)
		rc = runtime_start_threads(rt);
	if (rc != 0)
		log_error("cannot start far memory (%s), memory stays local", strerrordesc_np(-rc));
	return rc;
}

void runtime_publish_gauges(struct runtime *rt)
{
	struct catalog_stats *s = rt->core.catalog.stats;
	struct budget *b = &rt->core.budget;
#define PAGES(x) ((uint64_t)FM_MAX(atomic_load(&b->x), (int64_t)0) * FM_PAGE_SIZE)
	s->near_bytes = PAGES(near_pages) + PAGES(fresh_pages);
	s->staging_bytes = PAGES(staging_pages);
	s->fresh_bytes = PAGES(fresh_pages);
	s->far_bytes = PAGES(far_pages);
	s->retained_bytes = PAGES(retained_pages);
#undef PAGES
	s->budget_bytes = atomic_load(&b->limit_pages) * FM_PAGE_SIZE;
	const struct catalog_header *h = rt->core.catalog.header;
	if (!rt->core.reader)
		s->pinned_bytes = atomic_load(&h->pinned) == 0
					  ? 0
					  : record_limbo_count(&rt->core) *
						    (h->code_k + h->code_m) * FM_PAGE_SIZE;
}

/*
 * Until memory handed out is registered from the start, or that has failed. Milliseconds: the
 * descriptors are the runtime's, so an evictor does it (runtime_register).
 */
static void runtime_wait_registered(struct runtime *rt)
{
	atomic_store(&rt->register_wanted, 1);
	for (;;) {
		uint32_t state = atomic_load_explicit(&rt->state, memory_order_acquire);
		if (state == RUNTIME_READY)
			evict_call(&rt->stripes[0]);
		else if (state != RUNTIME_STARTING)
			return;
		(void)futex_wait(&rt->state, state, NS_PER_MS);
	}
}

/* Nobody to lend memory: better over budget than stuck. */
static void runtime_stay_local(struct runtime *rt)
{
	log_error("cannot reach or start farmem-agent: memory beyond the budget stays local (see: "
		  "farmem doctor)");
	rt->core.config.on_full = ON_FULL_LOCAL;
	for (unsigned i = 0; i < rt->stripe_count; i++)
		atomic_store(&rt->stripes[i].full, 1);
}

/* Threads of the runtime do not end: libc would hand their descriptors to the front's free, which
 * does not know them. */
static FM_NORETURN void runtime_rest(void)
{
	_Atomic uint32_t never = 0;
	for (;;)
		(void)futex_wait(&never, 0, UINT64_MAX);
}

static void *runtime_main(void *argument)
{
	struct runtime *rt = argument;
	uint64_t next_measure = 0, begun_ns = clock_now_ns();
	runtime_thread_begin("farmem");
	if (runtime_build(rt) != 0) {
		runtime_set_state(rt, RUNTIME_OFF);
		runtime_rest();
	}
	runtime_set_state(rt, RUNTIME_READY);
	bool alone = agent_link_open(rt) != 0;
	if (alone)
		runtime_stay_local(rt);
	for (;;) {
		agent_link_turn(rt, RUNTIME_TURN_MS);
		uint64_t now = clock_now_ns();
		if (!alone && !rt->agent_met && now - begun_ns > RUNTIME_MEET_NS) {
			alone = true;
			runtime_stay_local(rt);
		}
		if (now >= next_measure && runtime_running(rt)) {
			range_measure_fresh(&rt->range);
			next_measure = clock_now_ns() + 20 * (clock_now_ns() - now);
		}
		runtime_publish_gauges(rt);
		profile_flush(&rt->profile, false);
	}
	return NULL;
}

void runtime_start(struct runtime *rt)
{
	uint32_t idle = RUNTIME_IDLE;
	if (!atomic_compare_exchange_strong(&rt->state, &idle, RUNTIME_STARTING))
		return;
	const char *refused = permitted_calls();
	if (refused != NULL)
		log_error("a seccomp filter refuses %s, which far memory needs: memory stays local",
			refused);
	int rc = refused != NULL ? -EPERM : runtime_thread_start(runtime_main, rt);
	if (rc != 0 && refused == NULL)
		log_error("cannot start a thread (%s), memory stays local", strerrordesc_np(-rc));
	if (rc != 0)
		runtime_set_state(rt, RUNTIME_OFF);
}

/* Paths mean what they meant at the start, wherever the program goes. 0 or -ENAMETOOLONG. */
static int runtime_absolute(char *path, size_t size)
{
	char directory[4096], joined[4096 + 256];
	if (path[0] == '\0' || path[0] == '/')
		return 0;
	if (getcwd(directory, sizeof(directory)) == NULL ||
		snprintf(joined, sizeof(joined), "%s/%s", directory, path) >= (int)size) {
		log_error("%s: too long, or the current directory is gone", path);
		return -ENAMETOOLONG;
	}
	memcpy(path, joined, strlen(joined) + 1);
	return 0;
}

/* What would take the heap near its budget is registered from the start: it is handed out after. */
static void runtime_want(struct runtime *rt, uint64_t pages)
{
	int64_t live = atomic_load_explicit(&rt->range.live_pages, memory_order_relaxed);
	uint64_t used = (uint64_t)FM_MAX(live, (int64_t)0) + pages;
	if (fm_likely(runtime_running(rt) || used <= rt->start_pages))
		return;
	runtime_start(rt);
	if (used > rt->register_pages)
		runtime_wait_registered(rt);
}

static void runtime_want_pages(uint64_t pages)
{
	runtime_want(&fm_runtime, pages);
}

int runtime_open(struct runtime *rt)
{
	struct option_error error;
	int rc = config_load(&rt->config, &error);
	if (rc == 0)
		rc = config_check(&rt->config, &error);
	if (rc != 0) {
		log_error("%s", error.text);
		return rc;
	}
	log_set_level(rt->config.log_level);
	/* Here, because loading calls malloc: no thread of ours may (rpc/fabric.h). */
	if (rt->config.transport == TRANSPORT_VERBS && (rc = fabric_load_verbs()) != 0)
		log_error("--fabric verbs: no RDMA here (%s): memory nodes are reached over tcp "
			  "(see: farmem doctor)",
			strerrordesc_np(-rc));
	rc = runtime_absolute(rt->config.dir, sizeof(rt->config.dir));
	if (rc == 0)
		rc = runtime_absolute(rt->config.profile, sizeof(rt->config.profile));
	if (rc == 0)
		rc = runtime_absolute(rt->config.log, sizeof(rt->config.log));
	if (rc != 0)
		return rc;
	rc = range_open(&rt->range, rt->config.range_bytes);
	if (rc != 0) {
		log_error("cannot reserve addresses (ulimit -v, or vm.overcommit_memory=2?), "
			  "memory stays local");
		return rc;
	}
	rt->start_pages = RUNTIME_SHARE_START_PAGES;
	rt->register_pages = RUNTIME_SHARE_START_PAGES;
	if (rt->config.local.permille == 0) {
		rt->start_pages = rt->config.local.bytes / FM_PAGE_SIZE / 2;
		rt->register_pages = rt->config.local.bytes / FM_PAGE_SIZE * 9 / 10;
	}
	range_prefer_huge(&rt->range, rt->register_pages);
	rt->range.stripe_list = rt->stripe_list;
	mmap_open(&(struct mmap_space){.range = &rt->range,
		.threshold = rt->config.mmap_threshold_bytes,
		.serves = rt->config.mmap,
		.want = runtime_want_pages});
	rt->agent_socket = rt->life = -1;
	const char *tree = getenv("FARMEM_TREE");
	const char *stats = getenv("FARMEM_STATS_FILE");
	strncpy(rt->tree, tree ? tree : "", sizeof(rt->tree) - 1);
	strncpy(rt->stats_file, stats ? stats : "", sizeof(rt->stats_file) - 1);
	fork_open(rt);
	atomic_store(&rt->state, RUNTIME_IDLE);
	return 0;
}

/* ---- public ---- */

static pthread_once_t runtime_once = PTHREAD_ONCE_INIT;
static int runtime_open_result;

static void runtime_open_once(void)
{
	runtime_open_result = runtime_open(&fm_runtime);
}

FM_EXPORT int fm_open(void)
{
	pthread_once(&runtime_once, runtime_open_once);
	return runtime_open_result;
}

FM_EXPORT void *fm_map(size_t bytes, size_t alignment)
{
	struct runtime *rt = &fm_runtime;
	/* Invariant 8: no thread of ours gets far-capable memory. */
	FM_ASSERT(!runtime_thread_is_ours);
	if (atomic_load_explicit(&rt->state, memory_order_acquire) == RUNTIME_CLOSED &&
		fm_open() != 0)
		return NULL;
	runtime_want(rt, bytes / FM_PAGE_SIZE);
	return range_alloc(&rt->range, bytes, alignment);
}

FM_EXPORT void fm_purge(void *memory, size_t bytes)
{
	range_purge(&fm_runtime.range, fm_runtime.stripe_list, memory, bytes);
}

FM_EXPORT bool fm_owns(const void *address)
{
	return range_owns(&fm_runtime.range, address);
}

FM_EXPORT void fm_start(void)
{
	if (fm_open() == 0)
		runtime_start(&fm_runtime);
}

/* For the front's mlockall: what is locked cannot be evicted. */
FM_EXPORT void fm_unlock_range(void);
FM_EXPORT void fm_unlock_range(void)
{
	struct range *r = &fm_runtime.range;
	if (r->base != NULL)
		(void)munlock(r->base, r->pages * FM_PAGE_SIZE);
}

FM_EXPORT int fm_stats(char *text, size_t size)
{
	return stats_json(&fm_runtime, text, size);
}

FM_EXPORT const char *fm_version(void)
{
	return FM_VERSION;
}

__attribute__((destructor)) static void runtime_at_exit(void)
{
	if (fm_runtime.stats_file[0] != 0)
		stats_write_file(&fm_runtime);
	profile_flush(&fm_runtime.profile, true);
}
