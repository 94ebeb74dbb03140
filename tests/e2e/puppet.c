/*
 * tests/e2e/puppet.c: a program on strings: it does what the lines on its standard input say, one
 * at a time, and answers each with one line, so that a test script decides exactly what memory is
 * far when a node dies.
 *
 *   fill MB       allocates so much more and fills it with content drawn from (block, version)
 *   check         compares every byte with what it must be; answers "checked BLOCKS"
 *   churn N       gives N blocks new content
 *   drop          frees every second block
 *   fork          forks a child that reads all of the memory; answers how the child ended
 *   spawn, vfork, system   children that exec; answer the exit status
 *   pid, fds      own process id; open descriptors
 *   raise N, exit N        ends by signal or with a status
 *
 * Wrong bytes end it with status 1 and a line on standard error. Plain libc; runs natively too.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK_WORDS 12500u /* 100,000 bytes: blocks straddle OS pages */
#define BLOCKS_MAX 65536u

extern char **environ;

static struct {
	uint64_t *words; /* NULL: dropped */
	uint64_t version;
} blocks[BLOCKS_MAX];
static unsigned blocks_count;
static uint64_t churn_state = 12345;

static uint64_t content_word(uint64_t block, uint64_t version, uint64_t index)
{
	uint64_t x = block * 0x9e3779b97f4a7c15ull + version * 0xc2b2ae3d27d4eb4full + index;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void content_write(unsigned block)
{
	for (unsigned i = 0; i < BLOCK_WORDS; i++)
		blocks[block].words[i] = content_word(block, blocks[block].version, i);
}

static void puppet_fill(unsigned long megabytes)
{
	unsigned long more = (megabytes << 20) / (BLOCK_WORDS * sizeof(uint64_t));

	if (more > BLOCKS_MAX - blocks_count) {
		fprintf(stderr, "puppet: fill %lu: too much\n", megabytes);
		exit(2);
	}
	while (more--) {
		blocks[blocks_count].words = malloc(BLOCK_WORDS * sizeof(uint64_t));
		if (!blocks[blocks_count].words) {
			printf("no memory after %u blocks\n", blocks_count);
			return;
		}
		content_write(blocks_count++);
	}
	printf("filled %u\n", blocks_count);
}

static unsigned content_check_all(void)
{
	unsigned good = 0;

	for (unsigned block = 0; block < blocks_count; block++) {
		const uint64_t *words = blocks[block].words;

		for (unsigned i = 0; words && i < BLOCK_WORDS; i++) {
			uint64_t wanted = content_word(block, blocks[block].version, i);
			uint64_t found = words[i];

			if (found == wanted)
				continue;
			fprintf(stderr,
				"puppet: WRONG BYTES at %p (block %u version %llu word %u): "
				"expected %016llx found %016llx\n",
				(const void *)&words[i], block,
				(unsigned long long)blocks[block].version, i,
				(unsigned long long)wanted, (unsigned long long)found);
			_exit(1);
		}
		good += words != NULL;
	}
	return good;
}

static void puppet_churn(unsigned long times)
{
	while (times-- && blocks_count) {
		unsigned block;

		churn_state = content_word(churn_state, 1, 2);
		block = (unsigned)(churn_state % blocks_count);
		if (!blocks[block].words)
			continue;
		blocks[block].version++;
		content_write(block);
	}
	printf("churned\n");
}

static void puppet_drop(void)
{
	unsigned dropped = 0;

	for (unsigned block = 0; block < blocks_count; block += 2) {
		dropped += blocks[block].words != NULL;
		free(blocks[block].words);
		blocks[block].words = NULL;
	}
	printf("dropped %u\n", dropped);
}

static void child_report(const char *how, pid_t pid)
{
	int status = 0;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		printf("%s failed: %s\n", how, strerror(errno));
	else if (WIFEXITED(status))
		printf("%s exited %d\n", how, WEXITSTATUS(status));
	else
		printf("%s signal %d\n", how, WTERMSIG(status));
}

static void puppet_fork(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(content_check_all() ? 0 : 3);
	child_report("fork", pid);
}

static __attribute__((noinline)) pid_t vfork_exec(char *const *arguments)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execv(arguments[0], arguments);
		_exit(127);
	}
	return pid;
}

static void puppet_child(const char *how)
{
	char *arguments[] = {strdup("/bin/sh"), strdup("-c"), strdup("exit 7"), NULL};
	pid_t pid = -1;

	if (strcmp(how, "spawn") == 0)
		errno = posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ);
	else
		pid = vfork_exec(arguments);
	child_report(how, pid);
	for (unsigned i = 0; arguments[i]; i++)
		free(arguments[i]);
}

static void puppet_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;

	printf("fds");
	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] != '.' && atoi(entry->d_name) != dirfd(directory))
			printf(" %s", entry->d_name);
	printf("\n");
	if (directory)
		closedir(directory);
}

static bool puppet_obey(const char *word, unsigned long number)
{
	if (strcmp(word, "fill") == 0)
		puppet_fill(number);
	else if (strcmp(word, "check") == 0)
		printf("checked %u\n", content_check_all());
	else if (strcmp(word, "churn") == 0)
		puppet_churn(number);
	else if (strcmp(word, "drop") == 0)
		puppet_drop();
	else if (strcmp(word, "fork") == 0)
		puppet_fork();
	else if (strcmp(word, "spawn") == 0 || strcmp(word, "vfork") == 0)
		puppet_child(word);
	else if (strcmp(word, "system") == 0)
		printf("system exited %d\n", WEXITSTATUS(system("exit 7")));
	else if (strcmp(word, "pid") == 0)
		printf("pid %d\n", (int)getpid());
	else if (strcmp(word, "fds") == 0)
		puppet_fds();
	else if (strcmp(word, "raise") == 0)
		raise((int)number);
	else if (strcmp(word, "exit") == 0)
		exit((int)number);
	else
		return false;
	return true;
}

int main(void)
{
	char line[256], word[32];

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		unsigned long number = 0;

		if (sscanf(line, "%31s %lu", word, &number) < 1 || !puppet_obey(word, number)) {
			fprintf(stderr, "puppet: what is \"%s\"?\n", line);
			return 2;
		}
	}
	return 0;
}
