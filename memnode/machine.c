/*
 * memnode/machine.c: see machine.h. Callers: main.c, at start.
 */
#include "memnode/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Reads a small file as text. Returns its length or -errno. */
static ssize_t file_read(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t length = read(fd, text, size - 1);
	int error = -errno;
	close(fd);
	if (length < 0)
		return error;
	text[length] = '\0';
	return length;
}

/* The number behind "key" in /proc/meminfo's text; 0 when it is not there. */
static uint64_t meminfo_field(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	return at != NULL ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static uint64_t limit_read(const char *path)
{
	char text[64];
	if (file_read(path, text, sizeof text) <= 0 || text[0] < '0' || text[0] > '9')
		return UINT64_MAX; /* no such file, or "max" */
	return strtoull(text, NULL, 10);
}

/* In a container the cgroup's root is the container's own: its limit is the machine we may lend. */
static uint64_t cgroup_limit(void)
{
	uint64_t unified = limit_read("/sys/fs/cgroup/memory.max");
	uint64_t legacy = limit_read("/sys/fs/cgroup/memory/memory.limit_in_bytes");
	return FM_MIN(unified, legacy);
}

int machine_memory_read(struct machine_memory *memory)
{
	char text[8192];
	ssize_t length = file_read("/proc/meminfo", text, sizeof text);
	if (length < 0)
		return (int)length;
	uint64_t limit_bytes = cgroup_limit();
	memory->total_bytes = FM_MIN(meminfo_field(text, "MemTotal:") << 10, limit_bytes);
	memory->available_bytes = FM_MIN(meminfo_field(text, "MemAvailable:") << 10, limit_bytes);
	memory->huge_pages_free = meminfo_field(text, "HugePages_Free:");
	return memory->total_bytes != 0 ? 0 : -EPROTO;
}

int machine_id_read(char id[MACHINE_ID_BYTES])
{
	static const char *const paths[] = {"/etc/machine-id", "/proc/sys/kernel/random/boot_id"};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(paths); i++) {
		ssize_t length = file_read(paths[i], id, MACHINE_ID_BYTES);
		if (length <= 0)
			continue;
		id[strcspn(id, " \t\r\n")] = '\0';
		if (id[0] != '\0' && strcmp(id, "uninitialized") != 0)
			return 0;
	}
	return -ENOENT;
}
