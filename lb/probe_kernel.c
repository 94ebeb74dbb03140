/*
 * lb/probe_kernel.c: loads the program, fills its maps, maps its slot, attaches it.
 *
 * Called by lb/probe_server.c. Threads: open and close by one thread; stats by any.
 *
 * Invariants:
 * 1. Nothing of libbpf's own is printed but through base/log; a program that uses libbpf itself
 *    keeps its own way of printing.
 * 2. What would outlive the process (filters of tc) is taken off at exit() as well; a process that
 *    is killed leaves them to its successor (lb/probe_attach.c).
 */
#include "lb/probe_kernel.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include "lb/probe.skel.inc"
#pragma GCC diagnostic pop

#define PROBE_CPUS_MAX 1024u /* possible ones; counters of more are not summed */

struct probe_kernel {
	struct probe_skeleton *skeleton;
	struct bpf_program *program;
	struct load_slot *slot;
	struct probe_place place;
	unsigned attachments_count;
	struct probe_attachment attachments[PROBE_INTERFACES_MAX];
	struct probe_kernel *next; /* under kernels_lock */
};

/* All that are open, for exit(). */
static pthread_mutex_t kernels_lock = PTHREAD_MUTEX_INITIALIZER;
static struct probe_kernel *kernels;
static pid_t kernels_owner; /* 0: exit() does not call kernels_exit yet */

static int kernel_print(enum libbpf_print_level level, const char *format, va_list arguments)
{
	enum log_level at = level == LIBBPF_WARN ? LOG_INFO : LOG_DEBUG;
	char line[512];
	int length;

	if (level == LIBBPF_DEBUG || at > log_level()) /* hundreds of lines a load */
		return 0;
	length = vsnprintf(line, sizeof(line), format, arguments);
	if (length > 0)
		log_print(at, "probe: %.*s", (int)strcspn(line, "\n"), line);
	return 0;
}

static void kernel_detach_all(struct probe_kernel *kernel)
{
	libbpf_print_fn_t others = libbpf_set_print(kernel_print);

	while (kernel->attachments_count > 0)
		probe_detach(&kernel->attachments[--kernel->attachments_count]);
	libbpf_set_print(others);
}

static void kernels_exit(void)
{
	if (getpid() != kernels_owner) /* a forked child: its parent still serves */
		return;
	pthread_mutex_lock(&kernels_lock);
	for (struct probe_kernel *at = kernels; at != NULL; at = at->next)
		kernel_detach_all(at);
	pthread_mutex_unlock(&kernels_lock);
}

static void kernels_add(struct probe_kernel *kernel)
{
	pthread_mutex_lock(&kernels_lock);
	if (kernels_owner == 0 && atexit(kernels_exit) != 0)
		log_warn("probe: no exit handler: a filter may stay behind at exit");
	kernels_owner = getpid();
	kernel->next = kernels;
	kernels = kernel;
	pthread_mutex_unlock(&kernels_lock);
}

static void kernels_remove(struct probe_kernel *kernel)
{
	struct probe_kernel **at;

	pthread_mutex_lock(&kernels_lock);
	for (at = &kernels; *at != NULL && *at != kernel; at = &(*at)->next)
		;
	if (*at != NULL)
		*at = kernel->next;
	pthread_mutex_unlock(&kernels_lock);
}

/* In a time namespace this process' clock is not the kernel's: by how much? */
static int64_t kernel_clock_offset(void)
{
	char text[256], *at;
	long long seconds = 0, nanoseconds = 0;
	ssize_t length;
	int fd = open("/proc/self/timens_offsets", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0; /* a kernel without time namespaces */
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[FM_MAX(length, 0)] = '\0';
	at = strstr(text, "monotonic");
	if (at == NULL || sscanf(at, "monotonic %lld %lld", &seconds, &nanoseconds) != 2)
		return 0;
	return (int64_t)seconds * (int64_t)NS_PER_S + nanoseconds;
}

static void kernel_configure(
	struct probe_kernel *kernel, const struct probe_kernel_options *options)
{
	struct probe_skeleton *skeleton = kernel->skeleton;

	kernel->program = options->xdp ? skeleton->progs.probe_xdp : skeleton->progs.probe_tc;
	bpf_program__set_autoload(skeleton->progs.probe_xdp, options->xdp);
	bpf_program__set_autoload(skeleton->progs.probe_tc, !options->xdp);
	skeleton->rodata->probe_port_be = __builtin_bswap16(options->place.port);
	skeleton->rodata->probe_bound = options->place.bound;
	memcpy(skeleton->rodata->probe_address, options->place.address,
		sizeof(options->place.address));
	skeleton->rodata->probe_filters = options->filter->prefixes_count > 0;
#if !defined(__x86_64__)
	skeleton->rodata->probe_orders_loads = true;
#endif
	skeleton->rodata->probe_clock_offset = kernel_clock_offset();
}

/* 0 or -errno; *what says what was refused. */
static int kernel_load(
	struct probe_kernel *kernel, const struct probe_kernel_options *options, const char **what)
{
	libbpf_print_fn_t others = libbpf_set_print(kernel_print);
	int error;

	*what = "opening the program";
	kernel->skeleton = probe_skeleton__open();
	if (kernel->skeleton == NULL) {
		error = -errno;
	} else {
		*what = "loading the program (it needs CAP_BPF and CAP_NET_ADMIN)";
		kernel_configure(kernel, options);
		error = probe_skeleton__load(kernel->skeleton);
	}
	libbpf_set_print(others);
	return error;
}

static int kernel_fill(struct probe_kernel *kernel, const struct probe_filter *filter)
{
	int fd = bpf_map__fd(kernel->skeleton->maps.probe_allowed), error;
	uint8_t yes = 1;

	for (unsigned i = 0; i < filter->prefixes_count; i++) {
		error = bpf_map_update_elem(fd, &filter->prefixes[i], &yes, BPF_ANY);
		if (error != 0)
			return error;
	}
	kernel->slot = mmap(NULL, FM_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
		bpf_map__fd(kernel->skeleton->maps.probe_slots), 0);
	return kernel->slot == MAP_FAILED ? -errno : 0;
}

int probe_kernel_open(
	const struct probe_kernel_options *options, struct probe_kernel **kernel, const char **why)
{
	struct probe_kernel *made = calloc(1, sizeof(*made));
	const char *what = "memory";
	int error = -ENOMEM;

	if (made == NULL)
		goto fail;
	made->place = options->place;
	error = kernel_load(made, options, &what);
	if (error != 0)
		goto fail_skeleton;
	what = "its maps";
	error = kernel_fill(made, options->filter);
	if (error != 0)
		goto fail_skeleton;
	kernels_add(made);
	*kernel = made;
	return 0;
fail_skeleton:
	probe_skeleton__destroy(made->skeleton); /* NULL is fine */
	free(made);
fail:
	if (why != NULL)
		*why = what;
	return error;
}

void probe_kernel_close(struct probe_kernel *kernel)
{
	if (kernel == NULL)
		return;
	kernels_remove(kernel);
	kernel_detach_all(kernel);
	munmap(kernel->slot, FM_PAGE_SIZE);
	probe_skeleton__destroy(kernel->skeleton);
	free(kernel);
}

int probe_kernel_attach(
	struct probe_kernel *kernel, const struct probe_interface *interface, enum probe_hook hook)
{
	struct probe_attachment *attachment = &kernel->attachments[kernel->attachments_count];
	libbpf_print_fn_t others;
	int error;

	if (kernel->attachments_count == PROBE_INTERFACES_MAX)
		return -ENOSPC;
	if (hook == PROBE_HOOK_XDP || hook == PROBE_HOOK_XDP_GENERIC) {
		uint32_t key = interface->index;

		error = bpf_map_update_elem(bpf_map__fd(kernel->skeleton->maps.probe_macs), &key,
			&interface->mac, BPF_ANY);
		if (error != 0)
			return error;
	}
	attachment->hook = hook;
	others = libbpf_set_print(kernel_print);
	error = probe_attach(
		attachment, bpf_program__fd(kernel->program), interface, &kernel->place);
	libbpf_set_print(others);
	if (error == 0)
		kernel->attachments_count++;
	return error;
}

struct load_slot *probe_kernel_slot(struct probe_kernel *kernel)
{
	return kernel->slot;
}

int probe_kernel_program(const struct probe_kernel *kernel)
{
	return bpf_program__fd(kernel->program);
}

void probe_kernel_stats(const struct probe_kernel *kernel, struct probe_server_stats *stats)
{
	struct probe_counters counters[PROBE_CPUS_MAX] = {0};
	int cpus = libbpf_num_possible_cpus();
	uint32_t key = 0;

	if (cpus <= 0 || (unsigned)cpus > PROBE_CPUS_MAX ||
		bpf_map_lookup_elem(
			bpf_map__fd(kernel->skeleton->maps.probe_counted), &key, counters) != 0)
		return;
	for (int i = 0; i < cpus; i++) {
		stats->answered += counters[i].answered;
		stats->refused_source += counters[i].refused_source;
		stats->malformed += counters[i].malformed;
		stats->stale += counters[i].stale;
	}
}
