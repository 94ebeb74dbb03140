/*
 * bench/uffd_control.c: the control of figure 2: what a page fault costs when a userfaultfd handler
 * thread answers it from local memory, and nothing else happens.
 *
 * One thread touches pages of a registered range in random order and times each touch; a handler
 * thread reads the message and answers with UFFDIO_COPY from a source of random pages. The handler
 * sleeps in poll(2) between faults, or spins on a non-blocking read. Every page's first and last
 * word are compared with the source.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"

enum handler_kind { HANDLER_SLEEP, HANDLER_SPIN };

struct uffd_options {
	struct bench_options common;
	uint64_t pages, faults;
	uint32_t handler;
	bool pin;
};

static const char *const handler_names[] = {"sleep", "spin", NULL};
static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "handler",
		.type = OPTION_CHOICE,
		.offset = offsetof(struct uffd_options, handler),
		.choices = handler_names,
		.value = "spin",
		.argument = "sleep|spin",
		.help = "how the handler thread waits for faults",
		.flag_only = true},
	{.name = "pages",
		.type = OPTION_COUNT,
		.offset = offsetof(struct uffd_options, pages),
		.min = 16,
		.max = 1u << 24,
		.value = "16384",
		.argument = "N",
		.help = "pages of the range (and of the source)",
		.flag_only = true},
	{.name = "faults",
		.type = OPTION_COUNT,
		.offset = offsetof(struct uffd_options, faults),
		.min = 1,
		.value = "200000",
		.argument = "N",
		.help = "faults to time",
		.flag_only = true},
	{.name = "pin",
		.type = OPTION_BOOL,
		.offset = offsetof(struct uffd_options, pin),
		.help = "handler and program on a CPU each",
		.flag_only = true},
};
static const struct bench_program program = {"uffd_control",
	"Times page faults answered by a bare userfaultfd handler thread (figure 2's control).",
	specs, FM_ARRAY_COUNT(specs)};

struct control {
	struct uffd_options options;
	int fd;
	uint8_t *range, *source;
	_Atomic bool stop;
	_Atomic uint64_t failed; /* UFFDIO_COPY that gave an error */
};
static struct bench_hist hist;

static int uffd_open(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		if (device < 0)
			return -EPERM;
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
	}
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) != 0)
		return -errno;
	return fd < 0 ? -EPERM : fd;
}

static void answer(struct control *c, const struct uffd_msg *message)
{
	uint64_t address = FM_ALIGN_DOWN(message->arg.pagefault.address, (uint64_t)FM_PAGE_SIZE);
	struct uffdio_copy copy = {.dst = address,
		.src = (uint64_t)(uintptr_t)c->source + (address - (uint64_t)(uintptr_t)c->range),
		.len = FM_PAGE_SIZE};

	if (ioctl(c->fd, UFFDIO_COPY, &copy) != 0)
		atomic_fetch_add(&c->failed, 1);
}

static void *handler(void *argument)
{
	struct control *c = argument;
	struct uffd_msg message;
	struct pollfd ready = {.fd = c->fd, .events = POLLIN};

	if (c->options.pin)
		bench_pin(1);
	while (!atomic_load_explicit(&c->stop, memory_order_relaxed)) {
		if (c->options.handler == HANDLER_SLEEP && poll(&ready, 1, 100) <= 0)
			continue;
		if (read(c->fd, &message, sizeof(message)) == (ssize_t)sizeof(message) &&
			message.event == UFFD_EVENT_PAGEFAULT)
			answer(c, &message);
	}
	return NULL;
}

static bool touch(struct control *c, uint64_t page, bool record)
{
	const volatile uint64_t *words =
		(const uint64_t *)(const void *)(c->range + page * FM_PAGE_SIZE);
	const uint64_t *truth = (const uint64_t *)(const void *)(c->source + page * FM_PAGE_SIZE);
	uint64_t start_ns = clock_now_ns(), first = words[0], took_ns = clock_now_ns() - start_ns;

	if (record)
		bench_hist_record(&hist, took_ns);
	return first == truth[0] && words[511] == truth[511];
}

/* A random walk through all pages (a full-period congruential sequence), dropped between rounds. */
static int measure(struct control *c)
{
	uint64_t pages = c->options.pages, seed = 1, done = 0;
	uint64_t warm = FM_MIN(c->options.faults / 10, pages);

	while (done < c->options.faults + warm) {
		uint64_t at = bench_random_below(&seed, pages);
		uint64_t step = bench_random_below(&seed, pages / 2) * 2 + 1;

		if (madvise(c->range, pages * FM_PAGE_SIZE, MADV_DONTNEED) != 0)
			return bench_fail("madvise: %s", strerror(errno));
		for (uint64_t i = 0; i < pages && done < c->options.faults + warm; i++) {
			if (!touch(c, at, done++ >= warm))
				return bench_fail(
					"page %llu holds wrong bytes", (unsigned long long)at);
			at = (at + step) & (pages - 1);
		}
	}
	return 0;
}

static int setup(struct control *c)
{
	uint64_t bytes = c->options.pages * FM_PAGE_SIZE;
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};

	c->fd = uffd_open();
	if (c->fd < 0)
		return bench_skip("no right to userfaultfd with kernel faults (see farmem doctor)");
	c->source = mem_map(bytes);
	c->range = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->source == NULL || c->range == MAP_FAILED)
		return bench_fail("no memory for two times %llu bytes", (unsigned long long)bytes);
	madvise(c->range, bytes, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < bytes / 8; i++)
		((uint64_t *)(void *)c->source)[i] = bench_mix(i);
	reg.range.start = (uint64_t)(uintptr_t)c->range;
	reg.range.len = bytes;
	if (ioctl(c->fd, UFFDIO_REGISTER, &reg) != 0)
		return bench_fail("UFFDIO_REGISTER: %s", strerror(errno));
	return 0;
}

int main(int argc, char **argv)
{
	static struct control c;
	struct bench_report report;
	pthread_t thread;
	int status = bench_parse(&program, &c.options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (c.options.common.tiny) {
		c.options.pages = 256;
		c.options.faults = 2000;
	}
	while (c.options.pages & (c.options.pages - 1)) /* a power of two, rounded down */
		c.options.pages &= c.options.pages - 1;
	status = setup(&c);
	if (status != 0)
		return status;
	if (pthread_create(&thread, NULL, handler, &c) != 0)
		return bench_fail("no thread");
	if (c.options.pin)
		bench_pin(0);
	status = measure(&c);
	atomic_store(&c.stop, true);
	pthread_join(thread, NULL);
	if (status != 0)
		return status;
	if (atomic_load(&c.failed) != 0)
		return bench_fail(
			"%llu UFFDIO_COPY failed", (unsigned long long)atomic_load(&c.failed));
	bench_report_open(&report, program.name, c.options.common.json);
	bench_report_text(&report, "handler", handler_names[c.options.handler]);
	bench_report_text(&report, "pinned", c.options.pin ? "yes" : "no");
	bench_report_count(&report, "pages", c.options.pages);
	bench_report_count(&report, "faults", hist.count);
	bench_report_hist(&report, "", &hist);
	bench_report_close(&report);
	return 0;
}
