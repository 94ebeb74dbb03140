/*
 * tests/e2e/forker.c: a program that forks and checks every byte it has, in every generation.
 *
 *   e2e_forker tree MIB DEPTH      each generation changes everything while its children, who check
 *                                  what was at their fork, have children themselves
 *   e2e_forker threads MIB COUNT   as many threads fork at once, others change, free and take
 * memory e2e_forker killed MIB COUNT    children are killed at any moment; nobody keeps anything
 * for them e2e_forker orphan MIB FILE     the parent ends at once; what its children found goes to
 * FILE e2e_forker half MIB            a child checks one half, says so, reads a line, checks the
 * other while its parent changes everything e2e_forker exec MIB            children that exec,
 * spawn, or end at once, some touching nothing e2e_forker rights MIB          as nobody, a child
 * that touches what it cannot have ends, told why e2e_forker speed MIB           how long fork
 * takes, and what its child costs, as one line
 *
 * Plain libc: natively it does the same. Pages carry their number and generation, so that a wrong
 * byte says whose it is. Status 0, or 1 and a line.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE_WORDS 512u
#define STEP 32u /* words between two that are looked at */
#define STREAMS 40
#define THREADS_MAX 32
#define SETTLE_SECONDS 20

struct world {
	uint64_t **pages;
	uint32_t *generations; /* of each page; what it must hold */
	size_t count;
};

static struct world world;
static FILE *streams[STREAMS];

static void die(const char *what)
{
	fprintf(stderr, "forker: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static uint64_t value_of(size_t page, uint32_t generation, unsigned word)
{
	return (page * 0x9e3779b97f4a7c15ull) ^ ((uint64_t)generation << 40) ^ word;
}

static void page_fill(size_t page, uint32_t generation)
{
	for (unsigned w = 0; w < PAGE_WORDS; w += STEP)
		world.pages[page][w] = value_of(page, generation, w);
	world.generations[page] = generation;
}

static bool page_good(size_t page)
{
	for (unsigned w = 0; w < PAGE_WORDS; w += STEP) {
		uint64_t wanted = value_of(page, world.generations[page], w);
		uint64_t found = world.pages[page][w];
		if (found == wanted)
			continue;
		fprintf(stderr,
			"forker: WRONG BYTES pid=%d page=%zu word=%u generation=%u wanted=%llx "
			"found=%llx\n",
			(int)getpid(), page, w, world.generations[page], (unsigned long long)wanted,
			(unsigned long long)found);
		return false;
	}
	return true;
}

static void fill(size_t from, size_t to, uint32_t generation)
{
	for (size_t i = from; i < to; i++)
		page_fill(i, generation);
}

static bool good(size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (!page_good(i))
			return false;
	return true;
}

static void world_open(size_t mib)
{
	world.count = mib * 256;
	world.pages = calloc(world.count, sizeof(*world.pages));
	/* Not malloc's: what is wanted must not be lost together with what is there. */
	world.generations = mmap(NULL, world.count * sizeof(*world.generations),
		PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (world.pages == NULL || world.generations == MAP_FAILED)
		die("memory");
	/* Streams, never touched again: libc resets their locks in every child. */
	for (unsigned i = 0; i < STREAMS; i++)
		if ((streams[i] = fopen("/dev/null", "w")) == NULL)
			die("fopen");
	for (size_t i = 0; i < world.count; i++)
		if ((world.pages[i] = malloc(PAGE_WORDS * sizeof(uint64_t))) == NULL)
			die("malloc");
	fill(0, world.count, 1);
	if (!good(0, world.count))
		_exit(1);
}

/* Generations are shared memory, so that nobody's copy costs anything: a child takes its own. */
static void world_inherit(void)
{
	size_t bytes = world.count * sizeof(*world.generations);
	uint32_t *own =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (own == MAP_FAILED)
		die("mmap");
	memcpy(own, world.generations, bytes);
	world.generations = own;
}

/* fork, after which parent and child know what the child must find. */
static pid_t world_fork(void)
{
	uint32_t *before = world.generations;
	world_inherit(); /* the child's, made while nothing changes */
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		return 0;
	munmap(world.generations, world.count * sizeof(*world.generations));
	world.generations = before;
	return pid;
}

static bool child_ended_well(pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			die("waitpid");
	if (status == 0)
		return true;
	fprintf(stderr, "forker: child %d ended with status %x\n", (int)pid, (unsigned)status);
	return false;
}

/* A counter of farmem's, or 0 without it. */
static unsigned long long far_stat(const char *name)
{
	static char text[65536];
	int (*stats)(char *, size_t) =
		(int (*)(char *, size_t))(uintptr_t)dlsym(RTLD_DEFAULT, "fm_stats");
	char quoted[64];
	if (stats == NULL || stats(text, sizeof(text)) < 0)
		return 0;
	snprintf(quoted, sizeof(quoted), "\"%s\":", name);
	const char *at = strstr(text, quoted);
	return at ? strtoull(at + strlen(quoted), NULL, 10) : 0;
}

/* Nothing is kept for children that are no more. */
static bool settled(void)
{
	const struct timespec pause = {.tv_nsec = 10000000};
	for (unsigned i = 0; i < SETTLE_SECONDS * 100; i++) {
		if (far_stat("children") == 0 && far_stat("pinned_bytes") == 0)
			return true;
		nanosleep(&pause, NULL);
	}
	fprintf(stderr, "forker: children=%llu pinned_bytes=%llu stay\n", far_stat("children"),
		far_stat("pinned_bytes"));
	return false;
}

/* ---- tree ---- */

/* One generation; `depth` more below it. Unrolled by fork itself: a child goes round the loop. */
static bool tree(unsigned depth)
{
	uint32_t generation = 2;
	bool well = true, is_child = false;
	for (unsigned round = 0; round < 2 && depth > 0; round++) {
		pid_t pid = world_fork();
		if (pid == 0) {
			well = good(0, world.count);
			depth--;
			is_child = true;
			round = UINT32_MAX; /* its own two rounds begin */
			generation = generation * 10 + 1;
			fill(0, world.count / 2, generation);
			continue;
		}
		fill(0, world.count, ++generation);
		well &= good(0, world.count);
		well &= child_ended_well(pid);
		well &= good(0, world.count);
	}
	well &= good(0, world.count);
	if (is_child)
		_exit(well ? 0 : 1);
	return well;
}

/* ---- threads ---- */

static _Atomic bool threads_stop;
static _Atomic unsigned threads_bad;

/* Changes the upper half again and again, frees and takes blocks; its pages are nobody else's. */
static void *threads_changer(void *argument)
{
	size_t first = (size_t)(uintptr_t)argument;
	uint64_t state = first + 1;
	while (!threads_stop) {
		void *blocks[64];
		for (unsigned i = 0; i < 64; i++) {
			state = state * 6364136223846793005ull + 1442695040888963407ull;
			blocks[i] = malloc(64 + (state >> 33) % 20000);
			memset(blocks[i], 1, 64);
			world.pages[first + (state >> 40) % (world.count / 8)][1] = state;
		}
		for (unsigned i = 0; i < 64; i++)
			free(blocks[i]);
	}
	return NULL;
}

static void *threads_forker(void *argument)
{
	(void)argument;
	for (unsigned round = 0; round < 4; round++) {
		pid_t pid = fork();
		if (pid == 0) {
			/* Threads change words 1 of the upper half: those are not looked at. */
			bool well = good(0, world.count);
			fill(0, world.count / 4, 9);
			_exit(well && good(0, world.count) ? 0 : 1);
		}
		if (pid < 0 || !child_ended_well(pid))
			threads_bad++;
	}
	return NULL;
}

static bool run_threads(unsigned count)
{
	pthread_t forkers[THREADS_MAX], changers[2];
	world_inherit();
	for (unsigned i = 0; i < 2; i++)
		pthread_create(&changers[i], NULL, threads_changer,
			(void *)(uintptr_t)(world.count / 2 + i * world.count / 4));
	for (unsigned i = 0; i < count; i++)
		pthread_create(&forkers[i], NULL, threads_forker, NULL);
	for (unsigned i = 0; i < count; i++)
		pthread_join(forkers[i], NULL);
	threads_stop = true;
	for (unsigned i = 0; i < 2; i++)
		pthread_join(changers[i], NULL);
	return threads_bad == 0 && good(0, world.count) && settled();
}

/* ---- killed ---- */

static bool run_killed(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		pid_t pid = world_fork();
		if (pid == 0) {
			if (i % 3 == 2 && fork() == 0) /* somebody else's child now */
				_exit(good(0, world.count) ? 0 : 1);
			_exit(good(0, world.count) ? 0 : 1);
		}
		const struct timespec pause = {.tv_nsec = (long)(i % 10) * 3000000};
		nanosleep(&pause, NULL);
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			continue;
		fill(0, world.count, 100 + i);
	}
	return good(0, world.count) && settled();
}

/* ---- orphan ---- */

static void run_orphan(const char *path)
{
	pid_t pid = world_fork();
	if (pid > 0)
		_exit(0);
	setsid();
	bool well = good(0, world.count / 2);
	pid = world_fork();
	if (pid == 0) {
		well &= good(0, world.count);
		fill(0, world.count, 5);
		_exit(well && good(0, world.count) ? 0 : 1);
	}
	fill(0, world.count / 4, 3);
	well &= child_ended_well(pid) && good(0, world.count);
	FILE *verdict = fopen(path, "w");
	if (verdict == NULL)
		die(path);
	fprintf(verdict, "%s\n", well ? "good" : "bad");
	fclose(verdict);
	_exit(well ? 0 : 1);
}

/* ---- half ---- */

static bool run_half(void)
{
	int line[2];
	char byte;
	if (pipe(line) != 0)
		die("pipe");
	pid_t pid = world_fork();
	if (pid == 0) {
		close(line[1]);
		bool well = good(0, world.count / 2);
		if (read(line[0], &byte, 1) < 0)
			die("read");
		_exit(well && good(0, world.count) ? 0 : 1);
	}
	close(line[0]);
	fill(0, world.count, 2);
	bool well = good(0, world.count);
	printf("half\n");
	fflush(stdout);
	if (read(STDIN_FILENO, &byte, 1) < 0)
		die("read");
	fill(0, world.count, 3);
	close(line[1]);
	well &= child_ended_well(pid) && good(0, world.count);
	printf("whole\n");
	return well && settled();
}

/* ---- exec ---- */

extern char **environ;

static pid_t exec_one(unsigned how)
{
	char *const words[] = {"true", NULL};
	pid_t pid = -1;
	if (how == 3 && posix_spawn(&pid, "/bin/true", NULL, NULL, words, environ) != 0)
		die("posix_spawn");
	if (how == 3)
		return pid;
	pid = how == 2 ? vfork() : fork();
	if (pid == 0 && how != 1)
		execv("/bin/true", words);
	if (pid == 0)
		_exit(how == 1 ? 0 : 1);
	return pid;
}

static bool run_exec(void)
{
	bool well = true;
	for (unsigned i = 0; i < 20; i++) {
		pid_t pid = exec_one(i % 4);
		if (pid < 0)
			die("fork");
		well &= child_ended_well(pid);
		fill(0, world.count / 8, 7 + i);
	}
	return well && good(0, world.count) && settled();
}

/* ---- rights ---- */

static bool run_rights(void)
{
	int status;
	if (setgid(65534) != 0 || setuid(65534) != 0)
		die("setuid");
	if (!child_ended_well(exec_one(0)) || !child_ended_well(exec_one(3)))
		return false;
	pid_t pid = fork();
	if (pid == 0)
		_exit(good(0, world.count) ? 0 : 1);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGSEGV)
		return good(0, world.count);
	fprintf(stderr, "forker: a child without rights ended with status %x\n", (unsigned)status);
	return false;
}

/* ---- speed ---- */

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* KiB, private to the process: what would be free without it. */
static long private_kib(void)
{
	char line[256];
	long sum = 0, kib;
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "Private_Clean: %ld kB", &kib) == 1 ||
			sscanf(line, "Private_Dirty: %ld kB", &kib) == 1)
			sum += kib;
	if (f != NULL)
		fclose(f);
	return sum;
}

static bool run_speed(void)
{
	double in_parent = 0, in_child = 0;
	long kib = 0;
	bool well = true;
	for (unsigned i = 0; i < 5; i++) {
		int answer[2];
		double times[2] = {0, 0};
		if (pipe(answer) != 0)
			die("pipe");
		double begun = seconds();
		pid_t pid = fork();
		if (pid == 0) {
			times[0] = seconds() - begun;
			times[1] = (double)private_kib();
			if (write(answer[1], times, sizeof(times)) != (ssize_t)sizeof(times))
				_exit(1);
			_exit(page_good(world.count / 2) ? 0 : 1);
		}
		double took = seconds() - begun;
		if (read(answer[0], times, sizeof(times)) != (ssize_t)sizeof(times))
			die("read");
		well &= child_ended_well(pid);
		close(answer[0]);
		close(answer[1]);
		if (i == 0 || took < in_parent)
			in_parent = took;
		if (i == 0 || times[0] < in_child)
			in_child = times[0];
		kib = (long)times[1];
	}
	printf("fork mib=%zu parent_ms=%.2f child_ms=%.2f child_private_kib=%ld far_mib=%llu\n",
		world.count / 256, in_parent * 1e3, in_child * 1e3, kib,
		far_stat("far_bytes") >> 20);
	return well;
}

int main(int argc, char **argv)
{
	const char *what = argc >= 3 ? argv[1] : "";
	unsigned number = argc >= 4 ? (unsigned)strtoul(argv[3], NULL, 10) : 0;
	bool well = false;
	if (argc < 3) {
		fprintf(stderr, "forker: what?\n");
		return 2;
	}
	world_open(strtoul(argv[2], NULL, 10));
	if (strcmp(what, "tree") == 0)
		well = tree(number) && settled();
	else if (strcmp(what, "threads") == 0 && number <= THREADS_MAX)
		well = run_threads(number);
	else if (strcmp(what, "killed") == 0)
		well = run_killed(number);
	else if (strcmp(what, "orphan") == 0 && argc >= 4)
		run_orphan(argv[3]);
	else if (strcmp(what, "half") == 0)
		well = run_half();
	else if (strcmp(what, "exec") == 0)
		well = run_exec();
	else if (strcmp(what, "rights") == 0)
		well = run_rights();
	else if (strcmp(what, "speed") == 0)
		well = run_speed();
	else
		fprintf(stderr, "forker: no such test: %s\n", what);
	return well ? 0 : 1;
}
