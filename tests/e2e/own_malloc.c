/*
 * tests/e2e/own_malloc.c: a program that brings a malloc of its own, as some allocators' users do:
 * never reused, never given back, from one static piece.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define POOL_BYTES (32u << 20)
#define MAPPED_BYTES (64u << 20)

/* As in any program: libc and the loader are to use it too. */
#pragma GCC visibility push(default)
void *malloc(size_t bytes);
void free(void *memory);
void *calloc(size_t count, size_t size);
void *realloc(void *memory, size_t bytes);
#pragma GCC visibility pop

static char pool[POOL_BYTES] __attribute__((aligned(64)));
static size_t used;

void *malloc(size_t bytes)
{
	size_t at = used;
	bytes = (bytes + 79) / 16 * 16; /* its size before it */
	if (bytes > POOL_BYTES - used)
		return NULL;
	used += bytes;
	memcpy(pool + at, &bytes, sizeof(bytes));
	return pool + at + 64;
}

void free(void *memory)
{
	(void)memory;
}

void *calloc(size_t count, size_t size)
{
	return malloc(count * size);
}

void *realloc(void *memory, size_t bytes)
{
	void *grown = malloc(bytes);
	size_t before = 0;
	if (grown == NULL || memory == NULL)
		return grown;
	memcpy(&before, (char *)memory - 64, sizeof(before));
	memcpy(grown, memory, before - 64 < bytes ? before - 64 : bytes);
	return grown;
}

int main(void)
{
	uint64_t sum = 0;
	uint64_t *words = mmap(
		NULL, MAPPED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *text = malloc(100);
	if (words == MAP_FAILED || text == NULL || text < pool || text >= pool + POOL_BYTES)
		return 1;
	for (unsigned round = 0; round < 3; round++)
		for (size_t i = 0; i < MAPPED_BYTES / 8; i += 512)
			words[i] += i ^ round;
	for (size_t i = 0; i < MAPPED_BYTES / 8; i += 512)
		sum += words[i];
	printf("own malloc: %llu\n", (unsigned long long)sum);
	return 0;
}
