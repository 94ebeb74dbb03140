/*
 * apps/farmem_doctor_machine.c: the doctor's look at the machine: kernel, rights, memory, limits,
 * CPU.
 *
 * Each check tries the thing itself where trying is harmless; it does not guess from version
 * numbers.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "apps/farmem_doctor.h"

#define FILES_WANTED 1024
#define MAPS_WANTED 65530
#define RANGE_BYTES_MIN (1ull << 30) /* the runtime needs this much address space */

int read_line(const char *path, char *text, size_t size)
{
	FILE *file = fopen(path, "re");
	char *got;

	if (!file)
		return -errno;
	got = fgets(text, (int)size, file);
	fclose(file);
	if (!got)
		return -ENODATA;
	text[strcspn(text, "\n")] = '\0';
	return 0;
}

uint64_t meminfo_read(const char *name)
{
	FILE *file = fopen("/proc/meminfo", "re");
	size_t length = strlen(name);
	uint64_t value = 0;
	char line[128];

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, length) != 0 || line[length] != ':')
			continue;
		value = strtoull(line + length + 1, NULL, 10);
		if (strstr(line, " kB"))
			value *= 1024;
		break;
	}
	fclose(file);
	return value;
}

static uint64_t read_number(const char *path)
{
	char text[64];

	return read_line(path, text, sizeof(text)) == 0 ? strtoull(text, NULL, 10) : 0;
}

/* --- kernel ------------------------------------------------------------------------------------
 */

static void look_kernel(const struct doctor *doctor, struct finding *finding)
{
	struct utsname name;

	(void)doctor;
	uname(&name);
#if defined(__x86_64__) || defined(__aarch64__)
	finding_ok(finding, "%s %s on %s", name.sysname, name.release, name.machine);
#else
	finding_warn(finding, "use x86-64 or arm64", "%s is not a machine farmem is tested on",
		name.machine);
#endif
}

static void look_rights(const struct doctor *doctor, struct finding *finding)
{
	const struct uffd_probe *uffd = &doctor->uffd;

	if (uffd->way == UFFD_WAY_NONE)
		finding_fail(finding, uffd_cure(uffd),
			"userfaultfd is refused (system call: %s; "
			"/dev/userfaultfd: %s)",
			strerror(-uffd->syscall_error), strerror(-uffd->device_error));
	else if (uffd->way == UFFD_WAY_DEVICE && uffd->syscall_error)
		finding_ok(finding, "through /dev/userfaultfd (this user's rights on the file)");
	else if (geteuid() == 0)
		finding_ok(finding, "as root");
	else if (read_number("/proc/sys/vm/unprivileged_userfaultfd") == 1)
		finding_ok(finding, "vm.unprivileged_userfaultfd is 1");
	else
		finding_ok(finding, "CAP_SYS_PTRACE");
}

static void look_features(const struct doctor *doctor, struct finding *finding)
{
	static const struct {
		uint64_t bit;
		const char *name, *since;
	} wanted[] = {
		{UFFD_MOVE, "MOVE", "6.8"},
		{UFFD_WP_ASYNC, "WP_ASYNC", "6.7"},
		{UFFD_POISON, "POISON", "6.6"},
		{UFFD_FEATURE_THREAD_ID, "THREAD_ID", "4.14"},
	};
	uint64_t features = doctor->uffd.features;
	char have[128] = "WP", missing[128] = "";

	if (doctor->uffd.way == UFFD_WAY_NONE) {
		finding_warn(finding, "see the line above", "not known without the right");
		return;
	}
	if (!(features & UFFD_FEATURE_PAGEFAULT_FLAG_WP)) {
		finding_fail(finding,
			"boot a kernel of 5.7 or newer with CONFIG_HAVE_ARCH_USERFAULTFD_WP",
			"no write-protect mode: neither way of eviction works");
		return;
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(wanted); i++) {
		char *list = features & wanted[i].bit ? have : missing;
		size_t used = strlen(list);

		snprintf(list + used, sizeof(have) - used, "%s%s", used ? " " : "", wanted[i].name);
		used = strlen(list);
		if (list == missing)
			snprintf(list + used, sizeof(missing) - used, " (%s)", wanted[i].since);
	}
	if (features & UFFD_MOVE)
		finding_ok(finding, "%s; pages leave by MOVE%s%s", have,
			missing[0] ? "; without " : "", missing);
	else
		finding_warn(finding,
			"a kernel of 6.8 or newer evicts faster and recognises pages pinned for "
			"DMA",
			"%s; without %s: pages leave by write-protect and copy, and programs using "
			"O_DIRECT, libaio or io_uring on far memory are not safe",
			have, missing);
}

/* --- memory ------------------------------------------------------------------------------------
 */

static void look_memory(const struct doctor *doctor, struct finding *finding)
{
	uint64_t total = meminfo_read("MemTotal"), available = meminfo_read("MemAvailable");
	char a[32], b[32];

	(void)doctor;
	format_bytes(total, a, sizeof(a));
	format_bytes(available, b, sizeof(b));
	if (available < (256ull << 20))
		finding_warn(finding,
			"free some, or use --nodes: embedded nodes lend this machine's memory",
			"%s, only %s available", a, b);
	else
		finding_ok(finding, "%s, %s available", a, b);
}

static bool can_reserve(uint64_t bytes)
{
	void *range = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (range != MAP_FAILED)
		munmap(range, bytes);
	return range != MAP_FAILED;
}

static const char *reserve_cure(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
		return "ulimit -v unlimited";
	if (read_number("/proc/sys/vm/overcommit_memory") == 2)
		return "as root: sysctl -w vm.overcommit_memory=0";
	return "lift the sandbox's limit on addresses";
}

/* The runtime's own reservation, tried out: covers overcommit_memory=2, RLIMIT_AS and sandboxes at
 * once. Like the runtime it makes do with less, down to RANGE_BYTES_MIN. */
static void look_address_space(const struct doctor *doctor, struct finding *finding)
{
	uint64_t wanted = doctor->config.range_bytes ? doctor->config.range_bytes : 256ull << 30;
	uint64_t got = wanted;
	char wanted_text[32], got_text[32];

	while (got >= RANGE_BYTES_MIN && !can_reserve(got))
		got /= 2;
	format_bytes(wanted, wanted_text, sizeof(wanted_text));
	format_bytes(got, got_text, sizeof(got_text));
	if (got == wanted)
		finding_ok(finding, "%s can be reserved", wanted_text);
	else if (got >= RANGE_BYTES_MIN)
		finding_warn(finding, reserve_cure(),
			"only %s of %s can be reserved: heaps are limited to that", got_text,
			wanted_text);
	else
		finding_fail(
			finding, reserve_cure(), "not even 1 GiB of addresses can be reserved");
}

static void look_overcommit(const struct doctor *doctor, struct finding *finding)
{
	uint64_t mode = read_number("/proc/sys/vm/overcommit_memory");

	(void)doctor;
	if (mode == 2)
		finding_warn(finding, "as root: sysctl -w vm.overcommit_memory=0",
			"vm.overcommit_memory is 2: the whole reserved range is counted against "
			"CommitLimit");
	else
		finding_ok(finding, "vm.overcommit_memory is %" PRIu64, mode);
}

static void look_maps(const struct doctor *doctor, struct finding *finding)
{
	uint64_t limit = read_number("/proc/sys/vm/max_map_count");

	(void)doctor;
	if (limit < MAPS_WANTED)
		finding_warn(finding, "as root: sysctl -w vm.max_map_count=262144",
			"vm.max_map_count is %" PRIu64 ": large heaps split into many mappings",
			limit);
	else
		finding_ok(finding, "vm.max_map_count is %" PRIu64, limit);
}

static void limit_text(rlim_t value, char *text, size_t size)
{
	if (value == RLIM_INFINITY)
		snprintf(text, size, "unlimited");
	else
		format_bytes(value, text, size);
}

static void look_limits(const struct doctor *doctor, struct finding *finding)
{
	struct rlimit address_space, locked, files;
	char a[32], b[32];

	(void)doctor;
	getrlimit(RLIMIT_AS, &address_space);
	getrlimit(RLIMIT_MEMLOCK, &locked);
	getrlimit(RLIMIT_NOFILE, &files);
	limit_text(address_space.rlim_cur, a, sizeof(a));
	limit_text(locked.rlim_cur, b, sizeof(b));
	if (files.rlim_cur < FILES_WANTED)
		finding_warn(finding, "ulimit -n 1024",
			"only %" PRIu64 " open files: each queue holds a connection to each node",
			(uint64_t)files.rlim_cur);
	else
		finding_ok(finding, "address space %s, locked memory %s, open files %" PRIu64, a, b,
			(uint64_t)files.rlim_cur);
}

static void look_huge_pages(const struct doctor *doctor, struct finding *finding)
{
	char mode[128];

	(void)doctor;
	if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", mode, sizeof(mode)) < 0)
		finding_warn(finding, "a kernel with CONFIG_TRANSPARENT_HUGEPAGE is faster",
			"no transparent huge pages");
	else if (strstr(mode, "[never]"))
		finding_warn(finding,
			"as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
			"transparent huge pages are off: programs within their budget run slower");
	else
		finding_ok(finding, "transparent huge pages: %s", mode);
}

/* The memory that nodes lend to clients on the same host is shmem. */
static void look_shmem_huge_pages(const struct doctor *doctor, struct finding *finding)
{
	char mode[128];

	(void)doctor;
	if (read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", mode, sizeof(mode)) < 0)
		finding_ok(finding, "no huge pages for shared memory in this kernel");
	else if (strstr(mode, "[never]") || strstr(mode, "[deny]"))
		finding_warn(finding,
			"as root: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled",
			"the kernel copies into shared memory page by page: swap-out over shm is a "
			"fifth slower");
	else
		finding_ok(finding, "shared memory on huge pages: %s", mode);
}

static void look_hugetlb(const struct doctor *doctor, struct finding *finding)
{
	uint64_t count = meminfo_read("HugePages_Total"),
		 free_count = meminfo_read("HugePages_Free");

	(void)doctor;
	if (count == 0)
		finding_ok(finding, "no hugetlb pool: memory nodes lend normal pages "
				    "(sysctl -w vm.nr_hugepages=N makes one)");
	else
		finding_ok(finding, "%" PRIu64 " huge pages, %" PRIu64 " free", count, free_count);
}

/* What catalogs and regions are made of: a sealable memfd whose blocks can be allocated. */
static void look_memfd(const struct doctor *doctor, struct finding *finding)
{
	int fd = memfd_create("farmem-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int error = 0;

	(void)doctor;
	if (fd < 0 || ftruncate(fd, FM_PAGE_SIZE) < 0 || fallocate(fd, 0, 0, FM_PAGE_SIZE) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	if (error)
		finding_fail(finding, "lift the sandbox or memory limit that refuses it",
			"memfd_create and sealing: %s", strerror(error));
	else
		finding_ok(finding, "works");
}

/* This process's memory limit: cgroup v2's, else v1's. Bytes, or UINT64_MAX when there is none. */
static uint64_t cgroup_limit(void)
{
	FILE *file = fopen("/proc/self/cgroup", "re");
	uint64_t limit = UINT64_MAX;
	char line[512], path[1024], value[64];

	if (!file)
		return limit;
	while (fgets(line, sizeof(line), file)) {
		char *memory = strstr(line, ":memory:");

		line[strcspn(line, "\n")] = '\0';
		if (memory)
			snprintf(path, sizeof(path),
				"/sys/fs/cgroup/memory%s/memory.limit_in_bytes",
				memory + strlen(":memory:"));
		else if (strncmp(line, "0::", 3) == 0)
			snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
		else
			continue;
		if (read_line(path, value, sizeof(value)) == 0 && strcmp(value, "max") != 0)
			limit = FM_MIN(limit, strtoull(value, NULL, 10));
	}
	fclose(file);
	return limit;
}

static void look_cgroup(const struct doctor *doctor, struct finding *finding)
{
	uint64_t limit = cgroup_limit();
	char text[32];

	(void)doctor;
	if (limit >= meminfo_read("MemTotal")) {
		finding_ok(finding, "no memory limit below the machine's");
		return;
	}
	format_bytes(limit, text, sizeof(text));
	finding_warn(finding,
		"keep --local well below it; embedded nodes are charged to the same group",
		"memory limit %s", text);
}

static void look_swap(const struct doctor *doctor, struct finding *finding)
{
	uint64_t bytes = meminfo_read("SwapTotal");
	char text[32];

	(void)doctor;
	if (bytes == 0) {
		finding_ok(finding, "none");
		return;
	}
	format_bytes(bytes, text, sizeof(text));
	finding_warn(finding, "swapoff -a, or run farmem in a cgroup with memory.swap.max=0",
		"%s of swap: the kernel may page out what farmem keeps near", text);
}

static void look_cpu(const struct doctor *doctor, struct finding *finding)
{
	(void)doctor;
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (!__builtin_cpu_supports("sse4.2"))
		finding_warn(finding, "use a newer CPU, or another CPU model in the hypervisor",
			"no SSE4.2: checksums run bytewise");
	else
		finding_ok(finding, "SSE4.2%s%s%s", __builtin_cpu_supports("avx2") ? " AVX2" : "",
			__builtin_cpu_supports("avx512f") ? " AVX512" : "",
			__builtin_cpu_supports("gfni") ? " GFNI" : "");
#else
	finding_ok(finding, "ISA-L chooses its code for this CPU by itself");
#endif
}

const struct doctor_check doctor_machine_checks[] = {
	{"kernel", look_kernel},
	{"userfaultfd", look_rights},
	{"uffd features", look_features},
	{"memory", look_memory},
	{"address space", look_address_space},
	{"overcommit", look_overcommit},
	{"mappings", look_maps},
	{"limits", look_limits},
	{"huge pages", look_huge_pages},
	{"shmem pages", look_shmem_huge_pages},
	{"hugetlb", look_hugetlb},
	{"memfd", look_memfd},
	{"cgroup", look_cgroup},
	{"swap", look_swap},
	{"cpu", look_cpu},
	{NULL, NULL},
};
