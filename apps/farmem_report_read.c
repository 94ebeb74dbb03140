/*
 * apps/farmem_report_read.c: reads a recorded file (farmem/profile_file.h), and trusts nothing in
 * it: every length is checked before use, what makes no sense ends the reading with one line.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_report.h"

static int read_map(struct report *report, const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	void *file = MAP_FAILED;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status) < 0)
		rc = -errno;
	else if (!S_ISREG(status.st_mode) || status.st_size < (off_t)PROFILE_MAGIC_BYTES)
		rc = -EINVAL;
	if (rc == 0) {
		file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		rc = file == MAP_FAILED ? -errno : 0;
	}
	close(fd);
	if (rc != 0)
		return rc;
	report->file = file;
	report->file_bytes = (uint64_t)status.st_size;
	return memcmp(file, PROFILE_MAGIC, PROFILE_MAGIC_BYTES) == 0 ? 0 : -EINVAL;
}

/* The process of a record; made at its first. NULL: too many. */
static struct report_process *read_process(struct report *report, uint32_t pid)
{
	struct report_process *process;

	for (uint32_t i = report->processes_count; i-- > 0;)
		if (report->processes[i].pid == pid)
			return &report->processes[i];
	if (report->processes_count == REPORT_PROCESSES_MAX)
		return NULL;
	process = &report->processes[report->processes_count++];
	*process = (struct report_process){.pid = pid};
	return process;
}

static int read_sample(
	struct report *report, uint32_t process, const uint8_t *payload, uint64_t length)
{
	const struct profile_sample *sample = (const void *)payload;

	if (length < sizeof(*sample) || sample->stack_bytes > PROFILE_STACK_BYTES_MAX ||
		sample->stack_bytes != length - sizeof(*sample) || sample->kind >= PROFILE_KINDS ||
		sample->weight == 0)
		return -EINVAL;
	report->samples[report->samples_count++] = (struct report_sample){
		.sample = sample, .stack = payload + sizeof(*sample), .process = process};
	return 0;
}

static int read_payload(struct report *report, const struct profile_record *record,
	const uint8_t *payload, uint64_t length)
{
	struct report_process *process = read_process(report, record->pid);

	if (process == NULL)
		return 0; /* one of thousands: left out */
	switch (record->type) {
	case PROFILE_SAMPLE:
		return read_sample(
			report, (uint32_t)(process - report->processes), payload, length);
	case PROFILE_MAPS:
		process->maps = (const char *)payload;
		process->maps_bytes = (uint32_t)length;
		return 0;
	case PROFILE_TOTALS:
		if (length != sizeof(process->totals))
			return -EINVAL;
		memcpy(&process->totals, payload, length);
		return 0;
	case PROFILE_COMMAND:
		length = length < REPORT_NAME_MAX - 1 ? length : REPORT_NAME_MAX - 1;
		for (uint64_t i = 0; i < length; i++)
			process->command[i] =
				(char)(payload[i] > ' ' && payload[i] < 0x7f ? payload[i] : '?');
		process->command[length] = '\0';
		return 0;
	default:
		return 0; /* of a newer farmem */
	}
}

/* One record at *at; moves it. 1 read, 0 the end, -EINVAL. */
static int read_record(struct report *report, uint64_t *at)
{
	struct profile_record record;
	uint64_t left = report->file_bytes - *at;
	int rc;

	if (left == 0)
		return 0;
	if (left < sizeof(record)) {
		report->truncated = true;
		return 0;
	}
	memcpy(&record, report->file + *at, sizeof(record));
	if (record.bytes < sizeof(record) || record.bytes % 8 != 0 || record.padding >= 8 ||
		record.bytes > PROFILE_RECORD_BYTES_MAX ||
		record.bytes - sizeof(record) < record.padding)
		return -EINVAL;
	if (record.bytes > left) {
		report->truncated = true;
		return 0;
	}
	rc = read_payload(report, &record, report->file + *at + sizeof(record),
		record.bytes - sizeof(record) - record.padding);
	*at += record.bytes;
	return rc < 0 ? rc : 1;
}

int report_read(struct report *report, const char *path)
{
	uint64_t at = PROFILE_MAGIC_BYTES, most;
	int rc;

	memset(report, 0, sizeof(*report));
	rc = read_map(report, path);
	if (rc == -EINVAL) {
		complain("%s: not a file made by farmem record", path);
		return rc;
	}
	if (rc < 0) {
		complain("%s: %s%s", path, strerror(-rc),
			rc == -ENOENT ? ": make one with farmem record -- PROGRAM" : "");
		return rc;
	}
	most = report->file_bytes / (sizeof(struct profile_record) + sizeof(struct profile_sample));
	report->processes = calloc(REPORT_PROCESSES_MAX, sizeof(*report->processes));
	report->samples = calloc(most + 1, sizeof(*report->samples));
	if (report->processes == NULL || report->samples == NULL) {
		complain("%s: not enough memory to read it", path);
		return -ENOMEM;
	}
	do
		rc = read_record(report, &at);
	while (rc == 1);
	if (rc < 0)
		complain("%s: damaged at byte %llu", path, (unsigned long long)at);
	return rc;
}
