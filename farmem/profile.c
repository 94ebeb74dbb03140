/*
 * farmem/profile.c: see profile.h.
 *
 * Callers: handler.c (take, look), runtime.c (open, flush).
 * Invariants:
 * 1. A handler never touches far-capable memory, so neither does it read a stack that lies there.
 * 2. A handler neither waits for the file nor writes it: full rings drop samples and count them.
 * 3. A sample in the ring is whole: head moves after the last byte.
 */
#include "farmem/profile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#define PROFILE_GAP_MAX (1ull << 20) /* faults between samples */
#define PROFILE_MAPS_EVERY_NS NS_PER_S
#define PROFILE_MAPS_BYTES_MAX (PROFILE_RECORD_BYTES_MAX - 64)
#define PROFILE_LATE_NS (10 * NS_PER_S) /* a fault not served by then is written as it is */

int profile_open(struct profile *profile, const struct fm_config *config, _Atomic uint64_t *words,
	const uint8_t *range, uint64_t pages, unsigned handlers)
{
	if (config->profile[0] == '\0')
		return 0;
	profile->interval_ns =
		NS_PER_S * handlers / (config->profile_rate ? config->profile_rate : 1);
	profile->words = words;
	profile->range_begin = (uint64_t)(uintptr_t)range;
	profile->range_end = profile->range_begin + pages * FM_PAGE_SIZE;
	profile->begin_ns = clock_now_ns();
	pthread_mutex_init(&profile->lock, NULL);
	for (unsigned i = 0; i < handlers && i < PROFILE_HANDLERS_MAX; i++) {
		struct profile_thread *t = &profile->threads[i];
		t->profile = profile;
		t->until_next = 1;
		t->random = clock_now_ns() * 2 + i;
		t->ring = mem_map(PROFILE_RING_BYTES);
		t->open = mem_map(PROFILE_OPEN_MAX * sizeof(*t->open));
		if (t->ring == NULL || t->open == NULL)
			return -ENOMEM;
		profile->threads_count++;
	}
	memcpy(profile->path, config->profile, sizeof(profile->path));
	return 0;
}

/* ---- taking: the handler's thread ---- */

/*
 * "nr a0 .. a5 0xSP 0xPC" in a system call, "-1 0xSP 0xPC" in the program's own code, "running"
 * when the thread went on meanwhile.
 */
static bool profile_read_thread(uint32_t tid, struct profile_sample *sample)
{
	char path[64], text[256], *at = text, *end;
	uint64_t numbers[9];
	unsigned count = 0;
	snprintf(path, sizeof(path), "/proc/self/task/%u/syscall", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return false;
	text[got] = '\0';
	while (count < FM_ARRAY_COUNT(numbers)) {
		numbers[count] = strtoull(at, &end, 0);
		if (end == at)
			break;
		count++;
		at = end;
	}
	if (count != 3 && count != 9)
		return false;
	sample->in_kernel = count == 9;
	sample->sp = numbers[count - 2];
	sample->pc = numbers[count - 1];
	return true;
}

/* The stack from sp up, as far as there is one: the kernel copies, so that no end is overrun. */
static uint32_t profile_copy_stack(
	const struct profile *profile, uint64_t sp, uint8_t *stack, uint64_t most)
{
	uint64_t end = sp + most;
	if (sp < profile->range_end && end > profile->range_begin)
		return 0; /* invariant 1: a stack in the heap */
	struct iovec to = {stack, most};
	/* Page by page: what lies beyond the stack's end fails alone. */
	struct iovec from[PROFILE_STACK_BYTES_MAX / FM_PAGE_SIZE + 1];
	unsigned pieces = 0;
	for (uint64_t at = sp; at < end;) {
		uint64_t next =
			FM_MIN(FM_ALIGN_DOWN(at, (uint64_t)FM_PAGE_SIZE) + FM_PAGE_SIZE, end);
		from[pieces++] = (struct iovec){(void *)(uintptr_t)at, next - at};
		at = next;
	}
	ssize_t got = process_vm_readv(getpid(), &to, 1, from, pieces, 0);
	return got > 0 ? (uint32_t)got : 0;
}

/* So far to the next one that the rate comes out right, whatever rhythm the program has. */
static uint64_t profile_gap(struct profile_thread *t, uint64_t now)
{
	uint64_t spent = t->last_ns != 0 ? now - t->last_ns : 0;
	uint64_t gap = 1;
	t->last_ns = now;
	if (spent > 0 && spent < t->profile->interval_ns * 64)
		gap = t->since_last * t->profile->interval_ns / spent;
	gap = FM_MIN(FM_MAX(gap, 1ull), PROFILE_GAP_MAX);
	t->random = t->random * 6364136223846793005ull + 1442695040888963407ull;
	/* 1 .. 2 gap - 1, gap in the mean */
	return 1 + (t->random >> 33) % (2 * gap - 1);
}

static enum profile_kind profile_kind_of(const struct profile *profile, uint32_t page)
{
	switch (span_state(span_load(profile->words, (struct page_id){page}))) {
	case SPAN_EMPTY:
		return PROFILE_TOUCHED;
	case SPAN_FAR:
		return PROFILE_FETCHED;
	case SPAN_EVICTING:
		return PROFILE_RESCUED;
	default:
		return PROFILE_OTHER;
	}
}

void profile_take(struct profile_thread *t, uint32_t page, uint32_t tid)
{
	struct profile_open_sample *open = t->open;
	atomic_fetch_add_explicit(&t->faults, 1, memory_order_relaxed);
	t->since_last++;
	if (t->since_last < t->until_next)
		return;
	uint64_t now = clock_now_ns();
	while (open < t->open + PROFILE_OPEN_MAX && open->used)
		open++;
	if (open == t->open + PROFILE_OPEN_MAX)
		return; /* the next fault will do */
	open->page = page;
	open->sample = (struct profile_sample){.at_ns = now,
		.address = t->profile->range_begin + (uint64_t)page * FM_PAGE_SIZE,
		.weight = t->since_last,
		.tid = tid,
		.kind = profile_kind_of(t->profile, page)};
	if (profile_read_thread(tid, &open->sample))
		open->sample.stack_bytes = profile_copy_stack(
			t->profile, open->sample.sp, open->stack, sizeof(open->stack));
	open->used = true;
	t->open_count++;
	t->until_next = profile_gap(t, now);
	t->since_last = 0;
	/* The time that taking the sample took is ours, not the fault's. */
	open->begun_ns = clock_now_ns();
	atomic_fetch_add_explicit(&t->sampling_ns, open->begun_ns - now, memory_order_relaxed);
}

static void profile_put(struct profile_thread *t, uint64_t at, const void *bytes, uint64_t length)
{
	uint64_t offset = at % PROFILE_RING_BYTES;
	uint64_t first = FM_MIN(length, PROFILE_RING_BYTES - offset);
	memcpy(t->ring + offset, bytes, first);
	memcpy(t->ring, (const uint8_t *)bytes + first, length - first);
}

static void profile_close_sample(struct profile_thread *t, struct profile_open_sample *open)
{
	static const uint8_t zeros[8];
	uint64_t payload = sizeof(open->sample) + open->sample.stack_bytes;
	uint64_t bytes = FM_ALIGN_UP(sizeof(struct profile_record) + payload, 8ull);
	uint64_t padding = bytes - sizeof(struct profile_record) - payload;
	struct profile_record record = {.bytes = (uint32_t)bytes,
		.type = PROFILE_SAMPLE,
		.padding = (uint16_t)padding,
		.pid = (uint32_t)getpid()};
	uint64_t head = atomic_load_explicit(&t->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&t->tail, memory_order_acquire);
	open->used = false;
	t->open_count--;
	if (head + bytes - tail > PROFILE_RING_BYTES) {
		t->since_last += open->sample.weight; /* the next sample stands for these too */
		atomic_fetch_add_explicit(&t->dropped, 1, memory_order_relaxed);
		return;
	}
	profile_put(t, head, &record, sizeof(record));
	profile_put(t, head + sizeof(record), &open->sample, sizeof(open->sample));
	profile_put(t, head + sizeof(record) + sizeof(open->sample), open->stack,
		open->sample.stack_bytes);
	profile_put(t, head + bytes - padding, zeros, padding);
	atomic_store_explicit(&t->head, head + bytes, memory_order_release);
	atomic_fetch_add_explicit(&t->samples, 1, memory_order_relaxed);
}

void profile_look(struct profile_thread *t)
{
	uint64_t now = t->open_count > 0 ? clock_now_ns() : 0;
	for (unsigned i = 0; i < PROFILE_OPEN_MAX && t->open_count > 0; i++) {
		struct profile_open_sample *open = &t->open[i];
		if (!open->used)
			continue;
		struct span_word w = span_load(t->profile->words, (struct page_id){open->page});
		open->sample.latency_ns = now - open->begun_ns;
		if (span_state(w) == SPAN_NEAR || open->sample.latency_ns > PROFILE_LATE_NS)
			profile_close_sample(t, open);
	}
}

/* ---- writing: the main thread ---- */

static void profile_write_record(
	int fd, enum profile_type type, const void *payload, uint64_t length)
{
	static const uint8_t zeros[8];
	uint64_t bytes = FM_ALIGN_UP(sizeof(struct profile_record) + length, 8ull);
	uint64_t padding = bytes - sizeof(struct profile_record) - length;
	struct profile_record record = {.bytes = (uint32_t)bytes,
		.type = (uint16_t)type,
		.padding = (uint16_t)padding,
		.pid = (uint32_t)getpid()};
	struct iovec parts[] = {{&record, sizeof(record)}, {(void *)(uintptr_t)payload, length},
		{(void *)(uintptr_t)zeros, padding}};
	(void)!writev(fd, parts, FM_ARRAY_COUNT(parts));
}

static void profile_drain(struct profile_thread *t, int fd)
{
	uint64_t tail = atomic_load_explicit(&t->tail, memory_order_relaxed);
	uint64_t head = atomic_load_explicit(&t->head, memory_order_acquire);
	uint64_t offset = tail % PROFILE_RING_BYTES, length = head - tail;
	uint64_t first = FM_MIN(length, PROFILE_RING_BYTES - offset);
	struct iovec parts[] = {{t->ring + offset, first}, {t->ring, length - first}};
	if (length == 0)
		return;
	(void)!writev(fd, parts, FM_ARRAY_COUNT(parts));
	atomic_store_explicit(&t->tail, head, memory_order_release);
}

/* The newest map of the program, when it changed: libraries come and go. */
static void profile_write_maps(struct profile *profile, int fd)
{
	uint64_t length = 0, hash = 14695981039346656037ull;
	char *text = mem_map(PROFILE_MAPS_BYTES_MAX);
	int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	while (maps >= 0 && text != NULL && length < PROFILE_MAPS_BYTES_MAX) {
		ssize_t got = read(maps, text + length, PROFILE_MAPS_BYTES_MAX - length);
		if (got <= 0)
			break;
		length += (uint64_t)got;
	}
	/* Only lines of files matter to the reader, but all of them are cheap. */
	for (uint64_t i = 0; i < length; i++)
		hash = (hash ^ (uint8_t)text[i]) * 1099511628211ull;
	if (length > 0 && hash != profile->maps_hash)
		profile_write_record(fd, PROFILE_MAPS, text, length);
	profile->maps_hash = hash;
	if (maps >= 0)
		close(maps);
	mem_unmap(text, PROFILE_MAPS_BYTES_MAX);
}

static struct profile_totals profile_sum(const struct profile *profile)
{
	struct profile_totals sum = {.begin_ns = profile->begin_ns, .end_ns = clock_now_ns()};
	for (unsigned i = 0; i < profile->threads_count; i++) {
		const struct profile_thread *t = &profile->threads[i];
		sum.faults += atomic_load_explicit(&t->faults, memory_order_relaxed);
		sum.samples += atomic_load_explicit(&t->samples, memory_order_relaxed);
		sum.dropped += atomic_load_explicit(&t->dropped, memory_order_relaxed);
		sum.sampling_ns += atomic_load_explicit(&t->sampling_ns, memory_order_relaxed);
	}
	return sum;
}

static void profile_write(struct profile *profile, int fd, bool final)
{
	uint64_t now = clock_now_ns();
	for (unsigned i = 0; i < profile->threads_count; i++)
		profile_drain(&profile->threads[i], fd);
	if (!final && profile->maps_ns != 0 && now - profile->maps_ns < PROFILE_MAPS_EVERY_NS)
		return;
	if (profile->maps_ns == 0)
		profile_write_record(fd, PROFILE_COMMAND, program_invocation_short_name,
			strlen(program_invocation_short_name));
	profile->maps_ns = now;
	profile_write_maps(profile, fd);
	struct profile_totals sum = profile_sum(profile);
	profile_write_record(fd, PROFILE_TOTALS, &sum, sizeof(sum));
	if (final)
		log_print(LOG_WARN, "record: %llu samples of %llu faults in %s: see farmem report",
			(unsigned long long)sum.samples, (unsigned long long)sum.faults,
			profile->path);
}

void profile_flush(struct profile *profile, bool final)
{
	if (!profile_on(profile) || (!final && profile_sum(profile).faults == 0))
		return;
	pthread_mutex_lock(&profile->lock);
	int fd = open(profile->path, O_WRONLY | O_APPEND | O_CLOEXEC);
	if (fd >= 0) {
		profile_write(profile, fd, final);
		close(fd);
	} else if (!profile->said) {
		profile->said = true;
		log_error("--profile %s: %s: nothing is recorded (begin with farmem record)",
			profile->path, strerrordesc_np(errno));
	}
	pthread_mutex_unlock(&profile->lock);
}
