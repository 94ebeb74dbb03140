/*
 * apps/farmem_report_fuzz.c: recorded files with anything in them: refused with one line, or read
 * so that every sample lies inside the file.
 *
 * With clang a libFuzzer target; with other compilers a driver makes files from a fixed seed: whole
 * records with some bytes changed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_report.h"
#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#define INPUT_MAX 20000

static unsigned complaints;

void complain(const char *format, ...)
{
	(void)format;
	complaints++;
}

static void check_sample(const struct report *report, const struct report_sample *sample)
{
	const uint8_t *end = report->file + report->file_bytes;
	const uint8_t *stack = sample->stack;

	FM_ASSERT((const uint8_t *)sample->sample > report->file);
	FM_ASSERT(stack <= end && sample->sample->stack_bytes <= (uint64_t)(end - stack));
	FM_ASSERT_LT(sample->process, report->processes_count);
	FM_ASSERT_LT(sample->sample->kind, PROFILE_KINDS);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct report report;
	char path[64];
	int rc, fd = memfd_create("report_fuzz", MFD_CLOEXEC);

	FM_ASSERT(fd >= 0 && length <= INPUT_MAX);
	FM_ASSERT_EQ(write(fd, PROFILE_MAGIC, PROFILE_MAGIC_BYTES), PROFILE_MAGIC_BYTES);
	FM_ASSERT_EQ(write(fd, bytes, length), length);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	complaints = 0;
	rc = report_read(&report, path);
	FM_ASSERT_EQ(complaints, rc != 0);
	for (uint64_t i = 0; i < report.samples_count; i++)
		check_sample(&report, &report.samples[i]);
	for (uint32_t i = 0; i < report.processes_count; i++)
		FM_ASSERT(memchr(report.processes[i].command, 0, REPORT_NAME_MAX) != NULL);
	report_free(&report);
	close(fd);
	return 0;
}

#ifndef FUZZ_BY_LIBFUZZER

#define DRIVER_RUNS 20000u
#define DRIVER_RECORDS_MAX 8u

static uint64_t driver_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A record that would be read, with a payload of any bytes. */
static size_t driver_record(uint64_t *state, uint8_t *into)
{
	uint32_t stack = (uint32_t)(driver_random(state) % 512);
	uint64_t type = driver_random(state) % 6;
	size_t payload = type == PROFILE_SAMPLE   ? sizeof(struct profile_sample) + stack
			 : type == PROFILE_TOTALS ? sizeof(struct profile_totals)
						  : stack;
	size_t bytes = (sizeof(struct profile_record) + payload + 7) & ~(size_t)7;
	struct profile_record record = {.bytes = (uint32_t)bytes,
		.type = (uint16_t)type,
		.padding = (uint16_t)(bytes - sizeof(record) - payload),
		.pid = (uint32_t)(driver_random(state) % 3)};
	struct profile_sample sample = {.weight = 1, .stack_bytes = stack};

	for (size_t i = 0; i < bytes; i++)
		into[i] = (uint8_t)driver_random(state);
	memcpy(into, &record, sizeof(record));
	if (type == PROFILE_SAMPLE)
		memcpy(into + sizeof(record), &sample, sizeof(sample));
	return bytes;
}

int main(void)
{
	static uint8_t input[INPUT_MAX];
	uint64_t state = 0x9e3779b97f4a7c15ull;

	for (unsigned run = 0; run < DRIVER_RUNS; run++) {
		unsigned records = 1 + (unsigned)(driver_random(&state) % DRIVER_RECORDS_MAX);
		size_t length = 0;

		for (unsigned i = 0; i < records; i++)
			length += driver_record(&state, input + length);
		for (uint64_t flips = driver_random(&state) % 4; flips > 0; flips--)
			input[driver_random(&state) % length] = (uint8_t)driver_random(&state);
		length -= driver_random(&state) % 2 ? driver_random(&state) % length : 0;
		(void)LLVMFuzzerTestOneInput(input, length);
	}
	printf("ok: %u files\n", DRIVER_RUNS);
	return 0;
}

#endif
