/*
 * tests/torture/company.c: everything around the heap that lives in it: children's arguments,
 * mutexes and condition variables, thread stacks, signal stacks, and what signal handlers touch.
 *
 * Called by torture.c. A handler runs on any thread, on the alternate stack of that thread, which
 * is heap memory; what it touches is heap memory too.
 */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "torture.h"

#define ALTSTACK_BYTES (64u << 10)
#define HELPER_STACK_BYTES (256u << 10)
#define CONDVAR_ROUNDS 16
#define ALARM_INTERVAL_US 4000
#define ALARM_CELLS (1u << 18) /* 2 MiB */
#define ALARM_STEP                                                                                 \
	40503u /* odd, so that all cells come round, each on another page than the last */

extern char **environ;

struct child_arguments {
	char *vector[5];
	char text[64];
	char path[32], flag[8], script[64], name[8];
};

static struct child_arguments *child_arguments_new(uint64_t word, const char *script)
{
	struct child_arguments *arguments = malloc(sizeof(*arguments));

	if (!arguments)
		torture_fail("malloc: %s", strerror(errno));
	snprintf(arguments->text, sizeof(arguments->text), "%016llx", (unsigned long long)word);
	snprintf(arguments->path, sizeof(arguments->path), "/bin/sh");
	snprintf(arguments->flag, sizeof(arguments->flag), "-c");
	snprintf(arguments->script, sizeof(arguments->script), "%s", script);
	snprintf(arguments->name, sizeof(arguments->name), "sh");
	arguments->vector[0] = arguments->path;
	arguments->vector[1] = arguments->flag;
	arguments->vector[2] = arguments->script;
	arguments->vector[3] = arguments->text;
	arguments->vector[4] = NULL;
	return arguments;
}

static void child_expect(pid_t pid, int status_wanted, const char *how)
{
	int status = 0;
	pid_t waited;

	do
		waited = waitpid(pid, &status, 0);
	while (waited < 0 && errno == EINTR);
	if (waited != pid || !WIFEXITED(status) || WEXITSTATUS(status) != status_wanted)
		torture_fail("%s: waitpid gave %d, status 0x%x, wanted exit status %d", how,
			(int)waited, (unsigned)status, status_wanted);
}

/* The child exits with the status asked for when its argument arrived whole. */
static void child_spawn(uint64_t word)
{
	struct child_arguments *arguments = child_arguments_new(word, "test ${#0} = 16 && exit 41");
	pid_t pid;
	int error = posix_spawn(&pid, arguments->path, NULL, NULL, arguments->vector, environ);

	if (error)
		torture_fail("posix_spawn: %s", strerror(error));
	child_expect(pid, 41, "posix_spawn");
	free(arguments);
}

static __attribute__((noinline)) pid_t child_vfork_exec(struct child_arguments *arguments)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execve(arguments->path, arguments->vector, environ);
		_exit(127);
	}
	return pid;
}

static void child_vfork(uint64_t word)
{
	struct child_arguments *arguments = child_arguments_new(word, "test ${#0} = 16 && exit 42");
	pid_t pid = child_vfork_exec(arguments);

	if (pid < 0)
		torture_fail("vfork: %s", strerror(errno));
	child_expect(pid, 42, "vfork");
	free(arguments);
}

static void child_popen(uint64_t word)
{
	char *command = NULL, line[64] = "";
	FILE *stream;

	if (asprintf(&command, "echo %016llx", (unsigned long long)word) < 0)
		torture_fail("asprintf: %s", strerror(errno));
	stream = popen(command, "re");
	if (!stream)
		torture_fail("popen: %s", strerror(errno));
	while (!fgets(line, sizeof(line), stream)) {
		if (!ferror(stream) || errno != EINTR)
			torture_fail(
				"popen(\"%s\"): nothing came back: %s", command, strerror(errno));
		clearerr(stream);
	}
	if (pclose(stream) != 0 || strtoull(line, NULL, 16) != word)
		torture_fail("popen(\"%s\") gave \"%s\"", command, line);
	free(command);
}

void company_child(struct slot *slot)
{
	uint64_t word = rng_next(&slot->rng);
	int status;

	switch (rng_below(&slot->rng, 4)) {
	case 0:
		child_spawn(word);
		break;
	case 1:
		child_vfork(word);
		break;
	case 2:
		child_popen(word);
		break;
	default:
		status = system("exit 43");
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 43)
			torture_fail("system(\"exit 43\") gave status 0x%x", (unsigned)status);
		break;
	}
	count_up(children, 1);
}

/* Two threads take turns by a condition variable in heap memory; the helper's stack is heap memory
 * too. */
struct meeting {
	pthread_mutex_t mutex;
	pthread_cond_t turned;
	unsigned turn; /* even: the slot's, odd: the helper's */
	uint64_t sum;
	unsigned char filler[3 * OS_PAGE];
};

static void meeting_take_turns(struct meeting *meeting, unsigned parity)
{
	pthread_mutex_lock(&meeting->mutex);
	for (unsigned round = 0; round < CONDVAR_ROUNDS; round++) {
		while (meeting->turn % 2 != parity)
			pthread_cond_wait(&meeting->turned, &meeting->mutex);
		meeting->sum += meeting->turn++;
		pthread_cond_broadcast(&meeting->turned);
	}
	pthread_mutex_unlock(&meeting->mutex);
}

static void *meeting_helper(void *argument)
{
	struct meeting *meeting = argument;
	volatile unsigned char deep[8 * OS_PAGE];
	void *altstack;

	company_altstack_begin(&altstack);
	for (size_t i = 0; i < sizeof(deep); i += OS_PAGE / 2)
		deep[i] = (unsigned char)i;
	meeting_take_turns(meeting, 1);
	for (size_t i = 0; i < sizeof(deep); i += OS_PAGE / 2)
		if (deep[i] != (unsigned char)i)
			torture_fail(
				"heap thread stack at %p: byte changed", (const void *)&deep[i]);
	company_altstack_end(altstack);
	return NULL;
}

void *company_stack_new(size_t bytes)
{
	void *stack = NULL;
	int error = posix_memalign(&stack, OS_PAGE, bytes);

	if (error)
		torture_fail("posix_memalign of a stack: %s", strerror(error));
	return stack;
}

void company_condvar(struct slot *slot)
{
	struct meeting *meeting = malloc(sizeof(*meeting));
	void *stack = options.stacks ? company_stack_new(HELPER_STACK_BYTES) : NULL;
	uint64_t turns = 2 * CONDVAR_ROUNDS;
	pthread_attr_t attributes;
	pthread_t helper;
	int error;

	(void)slot;
	if (!meeting)
		torture_fail("malloc: %s", strerror(errno));
	memset(meeting, 0, sizeof(*meeting));
	pthread_mutex_init(&meeting->mutex, NULL);
	pthread_cond_init(&meeting->turned, NULL);
	pthread_attr_init(&attributes);
	if (stack && pthread_attr_setstack(&attributes, stack, HELPER_STACK_BYTES))
		torture_fail("pthread_attr_setstack(%p) failed", stack);
	error = pthread_create(&helper, &attributes, meeting_helper, meeting);
	if (error)
		torture_fail("pthread_create on a heap stack: %s", strerror(error));
	meeting_take_turns(meeting, 0);
	pthread_join(helper, NULL);
	pthread_attr_destroy(&attributes);
	if (meeting->sum != turns * (turns - 1) / 2)
		torture_fail("condition variable at %p: turns add up to %llu",
			(void *)&meeting->turned, (unsigned long long)meeting->sum);
	free(stack);
	free(meeting);
	count_up(condvars, 1);
}

void company_altstack_begin(void **stack)
{
	*stack = NULL;
	if (!options.signals)
		return;
	*stack = malloc(ALTSTACK_BYTES);
	if (!*stack || sigaltstack(&(stack_t){.ss_sp = *stack, .ss_size = ALTSTACK_BYTES}, NULL))
		torture_fail("sigaltstack in heap memory at %p: %s", *stack, strerror(errno));
}

void company_altstack_end(void *stack)
{
	if (stack && sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL))
		torture_fail("sigaltstack(SS_DISABLE): %s", strerror(errno));
	free(stack);
}

static _Atomic uint64_t *alarm_cells;
static _Atomic uint64_t alarm_count;

static void alarm_handle(int signal)
{
	int saved_errno = errno;
	uint64_t turn = atomic_fetch_add(&alarm_count, 1);

	(void)signal;
	for (uint64_t i = 0; i < 4; i++)
		atomic_fetch_add(&alarm_cells[(turn * 4 + i) * ALARM_STEP % ALARM_CELLS], 1);
	errno = saved_errno;
}

void company_alarm_start(void)
{
	struct sigaction action = {.sa_handler = alarm_handle, .sa_flags = SA_ONSTACK | SA_RESTART};
	struct itimerval every = {
		.it_interval.tv_usec = ALARM_INTERVAL_US, .it_value.tv_usec = ALARM_INTERVAL_US};

	if (!options.signals)
		return;
	alarm_cells = malloc(ALARM_CELLS * sizeof(alarm_cells[0]));
	if (!alarm_cells)
		torture_fail("malloc: %s", strerror(errno));
	memset((void *)alarm_cells, 0, ALARM_CELLS * sizeof(alarm_cells[0]));
	if (sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &every, NULL))
		torture_fail("sigaction or setitimer: %s", strerror(errno));
}

void company_alarm_stop(void)
{
	struct itimerval never = {.it_value.tv_usec = 0};
	uint64_t sum = 0, wanted;

	if (!options.signals)
		return;
	if (setitimer(ITIMER_REAL, &never, NULL) || signal(SIGALRM, SIG_IGN) == SIG_ERR)
		torture_fail("setitimer or signal: %s", strerror(errno));
	wanted = atomic_load(&alarm_count) * 4;
	for (size_t i = 0; i < ALARM_CELLS; i++)
		sum += atomic_load(&alarm_cells[i]);
	if (sum != wanted)
		torture_fail("signal handler: %llu increments of heap cells at %p, found %llu",
			(unsigned long long)wanted, (void *)alarm_cells, (unsigned long long)sum);
	count_up(alarms, wanted / 4);
	free((void *)alarm_cells);
}
