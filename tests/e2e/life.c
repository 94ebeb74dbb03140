/*
 * tests/e2e/life.c: the odd hours of a process's life, with its memory far: one word, one case.
 *
 * An ordinary program: libc and nothing of farmem. Each case fills blocks until most of them are
 * far (life.sh gives 8 MiB), does what its name says, and finds every byte as it was. It prints
 * "life: WORD ok", or ends as the case is meant to end.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define OS_PAGE 4096u
#define WORDS_PER_PAGE (OS_PAGE / 8u)
#define BLOCKS 48u
#define BLOCK_PAGES 256u /* 1 MiB */
#define THREADS 4u
#define ROUNDS 400u

static uint64_t *blocks[BLOCKS];
static const char *word = "?";

static __attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	fprintf(stderr, "life: %s: ", word);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	_exit(1);
}

#define WANT(condition)                                                                            \
	do {                                                                                       \
		if (!(condition))                                                                  \
			fail("line %d: %s (errno %d)", __LINE__, #condition, errno);               \
	} while (0)

/* ---- memory that is far ---- */

static uint64_t value(unsigned block, unsigned page)
{
	return (uint64_t)block << 32 | (page * 2654435761u);
}

static void fill_block(unsigned b)
{
	blocks[b] = b % 2 ? malloc(BLOCK_PAGES * OS_PAGE)
			  : mmap(NULL, BLOCK_PAGES * OS_PAGE, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	WANT(blocks[b] != NULL && blocks[b] != MAP_FAILED);
	for (unsigned p = 0; p < BLOCK_PAGES; p++)
		blocks[b][p * WORDS_PER_PAGE + b % WORDS_PER_PAGE] = value(b, p);
}

static void fill(void)
{
	for (unsigned b = 0; b < BLOCKS; b++)
		fill_block(b);
}

static void check_page(unsigned b, unsigned p)
{
	uint64_t found = blocks[b][p * WORDS_PER_PAGE + b % WORDS_PER_PAGE];
	if (found != value(b, p))
		fail("block %u page %u holds %llx", b, p, (unsigned long long)found);
}

static void check(void)
{
	for (unsigned p = 0; p < BLOCK_PAGES; p++)
		for (unsigned b = 0; b < BLOCKS; b++)
			check_page(b, p);
}

/* Faults and faults, page by page in an order that no read-ahead helps. */
static void *wander(void *argument)
{
	_Atomic bool *stop = argument;
	unsigned at = 1;
	while (stop == NULL || !atomic_load(stop)) {
		at = at * 1103515245u + 12345u;
		check_page(at >> 8 & 31, at >> 16 & 255);
	}
	return NULL;
}

/* ---- signals ---- */

static _Atomic unsigned alarms;
static sigjmp_buf back;
static bool jumps;

static void on_alarm(int signal)
{
	unsigned at = atomic_fetch_add(&alarms, 1) * 7919u;
	(void)signal;
	check_page(at % BLOCKS, at / BLOCKS % BLOCK_PAGES);
	if (jumps)
		siglongjmp(back, 1);
}

static void start_alarms(void)
{
	struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_ONSTACK | SA_RESTART};
	struct itimerval often = {{0, 2000}, {0, 2000}};
	WANT(sigaction(SIGALRM, &action, NULL) == 0);
	WANT(setitimer(ITIMER_REAL, &often, NULL) == 0);
}

static void stop_alarms(void)
{
	struct itimerval never = {{0, 0}, {0, 0}};
	WANT(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* The alternate stack is a block of the heap: it is far itself when the signal comes. */
static void do_altstack(void)
{
	stack_t stack = {.ss_size = 256u << 10};
	stack.ss_sp = malloc(stack.ss_size);
	WANT(stack.ss_sp != NULL && sigaltstack(&stack, NULL) == 0);
	fill();
	start_alarms();
	for (unsigned i = 0; i < 3; i++)
		check();
	while (atomic_load(&alarms) < 20)
		check();
	stop_alarms();
}

static void do_longjmp(void)
{
	static volatile unsigned b, p, jumped;
	fill();
	jumps = true;
	if (sigsetjmp(back, 1))
		jumped++;
	else
		start_alarms();
	for (; jumped < 50; p = (p + 1) % BLOCK_PAGES)
		for (b = 0; b < BLOCKS; b++)
			check_page(b, p);
	stop_alarms();
	jumps = false;
	check();
}

static sigjmp_buf probe;

static void on_segv(int signal)
{
	(void)signal;
	siglongjmp(probe, 1);
}

/* What is unmapped or protected is out of reach, and says so in the program's own handler. */
static void do_guard(void)
{
	struct sigaction action = {.sa_handler = on_segv, .sa_flags = SA_NODEFER};
	volatile unsigned caught = 0;
	fill();
	WANT(sigaction(SIGSEGV, &action, NULL) == 0);
	WANT(mprotect(blocks[0], BLOCK_PAGES * OS_PAGE, PROT_NONE) == 0);
	WANT(munmap(blocks[2], BLOCK_PAGES * OS_PAGE) == 0);
	for (volatile unsigned i = 0; i < 4; i++) {
		if (sigsetjmp(probe, 1)) {
			caught++;
			continue;
		}
		(void)*(volatile uint64_t *)&blocks[i < 2 ? 0 : 2][i % 2 * 5000];
	}
	WANT(caught == 4);
	WANT(mprotect(blocks[0], BLOCK_PAGES * OS_PAGE, PROT_READ | PROT_WRITE) == 0);
	fill_block(2);
	check();
}

/* ---- threads ---- */

static void *die_by_itself(void *argument)
{
	unsigned at = (unsigned)(uintptr_t)argument;
	for (unsigned i = 0; i < 20; i++)
		check_page((at + i) % BLOCKS, (at * 31 + i) % BLOCK_PAGES);
	pthread_exit(NULL);
}

static void *die_any_time(void *argument)
{
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	return wander(argument);
}

static void do_threads(void)
{
	pthread_t thread;
	void *how;
	fill();
	for (unsigned i = 0; i < ROUNDS; i++) {
		bool cancel = i % 2;
		WANT(pthread_create(&thread, NULL, cancel ? die_any_time : die_by_itself,
			     cancel ? NULL : (void *)(uintptr_t)i) == 0);
		if (cancel) {
			check_page(i % BLOCKS, i % BLOCK_PAGES);
			WANT(pthread_cancel(thread) == 0);
		}
		WANT(pthread_join(thread, &how) == 0);
		WANT((how == PTHREAD_CANCELED) == cancel);
	}
	check();
}

static void start_wanderers(void)
{
	pthread_t thread;
	fill();
	for (unsigned i = 0; i < THREADS; i++)
		WANT(pthread_create(&thread, NULL, wander, NULL) == 0);
	check();
}

static void *end_from_here(void *argument)
{
	check_page(3, 3);
	if (argument != NULL)
		_exit(44);
	exit(44);
}

static void at_exit_check(void)
{
	check();
	if (puts("at exit all was there") < 0 || fflush(stdout) != 0)
		_exit(1);
}

/* exit: with threads that fault, by another thread, with work left for atexit. */
static void do_exit_thread(void)
{
	pthread_t thread;
	start_wanderers();
	WANT(atexit(at_exit_check) == 0);
	WANT(pthread_create(&thread, NULL, end_from_here, NULL) == 0);
	pthread_join(thread, NULL);
}

static void do__exit_thread(void)
{
	pthread_t thread;
	start_wanderers();
	WANT(pthread_create(&thread, NULL, end_from_here, blocks) == 0);
	pthread_join(thread, NULL);
}

/* The first thread ends, the others go on. */
static void *last_one(void *argument)
{
	(void)argument;
	check();
	exit(45);
}

static void do_main_ends(void)
{
	pthread_t thread;
	fill();
	WANT(pthread_create(&thread, NULL, last_one, NULL) == 0);
	pthread_exit(NULL);
}

static void exit_on_alarm(int signal)
{
	(void)signal;
	check_page(7, 7);
	_exit(46);
}

static void do_exit_handler(void)
{
	start_wanderers();
	WANT(signal(SIGALRM, exit_on_alarm) != SIG_ERR);
	struct itimerval once = {{0, 0}, {0, 5000}};
	WANT(setitimer(ITIMER_REAL, &once, NULL) == 0);
	for (;;)
		check();
}

static void do_abort(void)
{
	start_wanderers();
	abort();
}

static void do_kill(void)
{
	start_wanderers();
	raise(SIGKILL);
}

static void do_quick_exit(void)
{
	start_wanderers();
	quick_exit(47);
}

/* ---- malloc at odd times ---- */

static uint64_t *before_main;

__attribute__((constructor(101))) static void make_before_main(void)
{
	before_main = calloc(BLOCK_PAGES, OS_PAGE);
	if (before_main != NULL)
		for (unsigned p = 0; p < BLOCK_PAGES; p++)
			before_main[p * WORDS_PER_PAGE] = p + 1;
}

__attribute__((destructor(101))) static void use_after_exit(void)
{
	char *late = malloc(100000);
	for (unsigned p = 0; p < BLOCK_PAGES; p++)
		if (before_main == NULL || late == NULL || before_main[p * WORDS_PER_PAGE] != p + 1)
			_exit(99);
	memset(late, 1, 100000);
	free(late);
	free(before_main);
}

static void do_before_and_after(void)
{
	fill();
	check();
}

static void do_forms(void)
{
	void *memory = NULL;
	fill();
	for (size_t align = 16; align <= 4u << 20; align *= 4) {
		WANT(posix_memalign(&memory, align, 3 * align) == 0 &&
			(uintptr_t)memory % align == 0);
		memset(memory, 7, 3 * align);
		WANT(malloc_usable_size(memory) >= 3 * align);
		free(memory);
		memory = aligned_alloc(align, align);
		WANT(memory != NULL && (uintptr_t)memory % align == 0);
		free(memory);
	}
	volatile size_t much = SIZE_MAX / 2; /* or the compiler knows better */
	errno = 0;
	WANT(reallocarray(NULL, much, 3) == NULL && errno == ENOMEM);
	WANT(calloc(much, 3) == NULL);
	WANT(malloc(much) == NULL);
	char *grown = malloc(100);
	for (size_t bytes = 100; bytes < 40u << 20; bytes *= 3) {
		grown[bytes - 1] = (char)bytes;
		grown = realloc(grown, bytes * 3);
		WANT(grown != NULL && grown[bytes - 1] == (char)bytes);
	}
	free(grown);
	check();
}

/* A gigabyte of zeros that nobody touches costs nothing, and is zeros. */
static void do_calloc(void)
{
	fill();
	for (unsigned round = 0; round < 3; round++) {
		char *large = calloc(1024, 1u << 20);
		WANT(large != NULL);
		for (size_t at = 0; at < 1024u << 20; at += 9u << 20) {
			WANT(large[at] == 0);
			large[at] = 1;
		}
		free(large);
	}
	check();
}

static void do_dlopen(void)
{
	fill();
	for (unsigned i = 0; i < 50; i++) {
		void *library = dlopen(i % 2 ? "libm.so.6" : "libresolv.so.2", RTLD_NOW);
		WANT(library != NULL);
		WANT(dlsym(library, i % 2 ? "cos" : "ns_get16") != NULL);
		check_page(i % BLOCKS, i);
		WANT(dlclose(library) == 0);
	}
	WANT(dlopen("/no/such/library.so", RTLD_NOW) == NULL && dlerror() != NULL);
	check();
}

/* ---- advice, locks, huge pages ---- */

static bool all_zero(const void *memory, size_t bytes)
{
	const char *at = memory;
	for (size_t i = 0; i < bytes; i += 512)
		if (at[i] != 0)
			return false;
	return true;
}

static void do_advice(void)
{
	static const int hints[] = {MADV_WILLNEED, MADV_SEQUENTIAL, MADV_RANDOM, MADV_NORMAL,
		MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLD, MADV_DONTDUMP, MADV_DODUMP};
	const size_t bytes = BLOCK_PAGES * OS_PAGE;
	fill();
	for (unsigned i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
		WANT(madvise(blocks[2 * i], bytes, hints[i]) == 0);
	check();
	/* malloc's: the whole pages inside; mmap's: all of it. */
	char *inside = (char *)(((uintptr_t)blocks[1] + OS_PAGE - 1) / OS_PAGE * OS_PAGE);
	WANT(madvise(inside, bytes - OS_PAGE, MADV_DONTNEED) == 0);
	WANT(all_zero(inside, bytes - OS_PAGE));
	WANT(madvise(blocks[0], bytes, MADV_DONTNEED) == 0 && all_zero(blocks[0], bytes));
	WANT(madvise((char *)blocks[0] + 1, OS_PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
	WANT(posix_madvise(blocks[4], bytes, POSIX_MADV_DONTNEED) == 0);
	blocks[1] = malloc(bytes); /* the old one is leaked: it is not what it was */
	WANT(blocks[1] != NULL);
	fill_block(1);
	WANT(munmap(blocks[0], bytes) == 0);
	fill_block(0);
	check();
}

static void do_locks(void)
{
	const size_t bytes = BLOCK_PAGES * OS_PAGE;
	unsigned char resident[BLOCK_PAGES];
	fill();
	WANT(mlock(blocks[4], bytes) == 0);
	for (unsigned i = 0; i < 3; i++)
		check();
	WANT(mincore(blocks[4], bytes, resident) == 0);
	for (unsigned p = 0; p < BLOCK_PAGES; p++)
		WANT(resident[p] & 1);
	WANT(munlock(blocks[4], bytes) == 0);
	WANT(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
	check();
	fill_block(6);
	WANT(munlockall() == 0);
	check();
}

static void do_huge(void)
{
	WANT(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	fill();
	check();
	WANT(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0);
	for (unsigned b = 0; b < BLOCKS; b += 2)
		WANT(madvise(blocks[b], BLOCK_PAGES * OS_PAGE, MADV_HUGEPAGE) == 0);
	check();
}

/* A sandbox of the program's own: whatever is not listed is refused on this thread. */
static void do_seccomp(void)
{
#define ALLOW(name)                                                                                \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1),                                     \
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter lines[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), ALLOW(read),
		ALLOW(write), ALLOW(exit), ALLOW(exit_group), ALLOW(futex), ALLOW(madvise),
		ALLOW(munmap), ALLOW(mmap), ALLOW(mprotect), ALLOW(newfstatat),
		ALLOW(rt_sigprocmask), ALLOW(openat), ALLOW(close), ALLOW(gettid),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)};
	struct sock_fprog filter = {sizeof(lines) / sizeof(lines[0]), lines};
	fill();
	WANT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	WANT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
	for (unsigned i = 0; i < 3; i++)
		check();
	for (unsigned b = 0; b < BLOCKS; b += 3)
		fill_block(b);
	check();
}

/* ---- */

static const struct {
	const char *word;
	void (*run)(void);
} cases[] = {{"altstack", do_altstack}, {"longjmp", do_longjmp}, {"guard", do_guard},
	{"threads", do_threads}, {"exit-thread", do_exit_thread}, {"_exit-thread", do__exit_thread},
	{"main-ends", do_main_ends}, {"exit-handler", do_exit_handler}, {"abort", do_abort},
	{"kill", do_kill}, {"quick-exit", do_quick_exit}, {"before-and-after", do_before_and_after},
	{"forms", do_forms}, {"calloc", do_calloc}, {"dlopen", do_dlopen}, {"advice", do_advice},
	{"locks", do_locks}, {"huge", do_huge}, {"seccomp", do_seccomp}};

int main(int argc, char **argv)
{
	word = argc > 1 ? argv[1] : "?";
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (strcmp(cases[i].word, word) == 0) {
			cases[i].run();
			printf("life: %s ok\n", word);
			return 0;
		}
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		printf("%s\n", cases[i].word);
	return 2;
}
