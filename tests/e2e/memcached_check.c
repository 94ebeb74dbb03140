/*
 * tests/e2e/memcached_check.c: fills a memcached over its unix socket and reads every value back.
 *
 *   memcached_check SOCKET COUNT BYTES ROUNDS
 *
 * Each round gives a third of the keys new values (text protocol: noreply sets, multi-gets) and
 * then compares all of them. Values are drawn from (key, version), sizes around BYTES. Prints a
 * line per round; a wrong or missing value is one line on standard error and status 1. After the
 * first round it says "round 0" at once, so that a script can kill nodes between rounds.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define VALUE_MAX 65536u
#define GETS_AT_ONCE 16u

struct check {
	FILE *in, *out;
	unsigned count;
	size_t bytes;
	uint8_t *versions;
	unsigned char expected[VALUE_MAX + 8], found[VALUE_MAX + 8];
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static _Noreturn void fail(const char *what, unsigned key)
{
	fprintf(stderr, "memcached_check: key %u: %s%s%s\n", key, what, errno ? ": " : "",
		errno ? strerror(errno) : "");
	exit(1);
}

static size_t value_make(struct check *check, unsigned key)
{
	uint64_t seed = (uint64_t)key << 8 | check->versions[key];
	size_t bytes = check->bytes / 2 + mix(seed) % check->bytes;

	for (size_t at = 0; at < bytes; at += 8) {
		uint64_t word = mix(seed * 0x9e3779b97f4a7c15ull + at);

		memcpy(check->expected + at, &word, 8);
	}
	return bytes;
}

static void value_set(struct check *check, unsigned key)
{
	size_t bytes = value_make(check, key);

	fprintf(check->out, "set key:%u 0 0 %zu noreply\r\n", key, bytes);
	fwrite(check->expected, bytes, 1, check->out);
	if (fwrite("\r\n", 2, 1, check->out) != 1)
		fail("cannot send", key);
}

static void value_compare(struct check *check, unsigned key)
{
	size_t bytes = value_make(check, key), told = 0;
	char line[256];
	unsigned told_key = 0;

	errno = 0;
	if (!fgets(line, sizeof(line), check->in))
		fail("connection lost", key);
	if (sscanf(line, "VALUE key:%u 0 %zu", &told_key, &told) != 2 || told_key != key)
		fail("value missing", key);
	if (told != bytes)
		fail("WRONG LENGTH", key);
	if (fread(check->found, bytes + 2, 1, check->in) != 1)
		fail("connection lost", key);
	if (memcmp(check->found, check->expected, bytes) != 0)
		fail("WRONG BYTES", key);
}

static void values_compare(struct check *check, unsigned first, unsigned end)
{
	char line[16];

	fprintf(check->out, "get");
	for (unsigned key = first; key < end; key++)
		fprintf(check->out, " key:%u", key);
	fprintf(check->out, "\r\n");
	fflush(check->out);
	for (unsigned key = first; key < end; key++)
		value_compare(check, key);
	if (!fgets(line, sizeof(line), check->in) || strncmp(line, "END", 3) != 0)
		fail("no END after values", first);
}

/* Sets have no answers: the version line comes after all of them were carried out. */
static void check_settle(struct check *check)
{
	char line[256];

	fprintf(check->out, "version\r\n");
	fflush(check->out);
	if (!fgets(line, sizeof(line), check->in) || strncmp(line, "VERSION", 7) != 0)
		fail("set was refused", 0);
}

static void check_round(struct check *check, unsigned round)
{
	for (unsigned key = 0; key < check->count; key++) {
		if (round && (key + round) % 3)
			continue;
		check->versions[key] = (uint8_t)round;
		value_set(check, key);
		if (key % 256 == 255)
			fflush(check->out);
	}
	check_settle(check);
	for (unsigned key = 0; key < check->count; key += GETS_AT_ONCE)
		values_compare(check, key,
			key + GETS_AT_ONCE < check->count ? key + GETS_AT_ONCE : check->count);
	printf("round %u: %u values are right\n", round, check->count);
	fflush(stdout);
}

static void check_connect(struct check *check, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		fail("socket path too long", 0);
	memcpy(address.sun_path, path, strlen(path) + 1);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		fail("cannot connect", 0);
	check->in = fdopen(fd, "r");
	check->out = fdopen(dup(fd), "w");
	if (!check->in || !check->out)
		fail("cannot open streams", 0);
	/* The server was started with -vv, because only then it says when it listens. */
	fprintf(check->out, "verbosity 0\r\n");
	fflush(check->out);
	if (!fgets((char *)check->found, 64, check->in) ||
		strncmp((char *)check->found, "OK", 2) != 0)
		fail("verbosity was refused", 0);
}

int main(int argc, char **argv)
{
	static struct check check;
	unsigned rounds;

	if (argc != 5) {
		fprintf(stderr, "usage: memcached_check SOCKET COUNT BYTES ROUNDS\n");
		return 2;
	}
	check.count = (unsigned)atol(argv[2]);
	check.bytes = (size_t)atol(argv[3]);
	rounds = (unsigned)atol(argv[4]);
	check.versions = calloc(check.count, 1);
	if (!check.versions || check.bytes < 8 || check.bytes * 3 / 2 > VALUE_MAX)
		fail("bad COUNT or BYTES", 0);
	check_connect(&check, argv[1]);
	for (unsigned round = 0; round < rounds; round++)
		check_round(&check, round);
	free(check.versions);
	return 0;
}
