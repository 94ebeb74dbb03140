/*
 * farmem/uffd.c: the pager over userfaultfd. The only file that issues UFFDIO ioctls.
 *
 * Callers: runtime.c opens and registers; handler.c reads; fault.c, evict.c, purge.c through
 * pager->ops. Kernel traps met here (MEASURED.md): COPY and MOVE give EAGAIN while the address
 * space changes: again; MOVE gives EBUSY for shared or pinned pages and EINVAL for mlocked ones:
 * the caller leaves them; EEXIST in staging: the slot holds bytes nobody owns: dropped, once more.
 * Debian 12's headers are 6.1: newer constants are spelled out here.
 */
#include "farmem/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/mem.h"
#include "farmem/stripe.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#define UFFD_FEATURE_POISON_ (1ull << 14)
#define UFFD_FEATURE_MOVE_ (1ull << 16)

struct uffd_move {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define UFFD_MOVE_IOCTL _IOWR(UFFDIO, 0x05, struct uffd_move)

struct uffd_poison_range {
	uint64_t start, len, mode;
	int64_t updated;
};
#define UFFD_POISON_IOCTL _IOWR(UFFDIO, 0x08, struct uffd_poison_range)

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define UFFD_ZERO_PAGES 16u
#define UFFD_READ_MAX 16u
#define UFFD_AGAIN_MAX 100000u /* EAGAIN in a row before it is an error */

static const uint8_t uffd_zeros[UFFD_ZERO_PAGES * FM_PAGE_SIZE] FM_ALIGNED(4096);

static struct uffd *uffd_of(struct pager *p)
{
	return FM_CONTAINER_OF(p, struct uffd, pager);
}

static uint8_t *uffd_address(const struct uffd *u, uint64_t page)
{
	return u->range + page * FM_PAGE_SIZE;
}

static uint64_t uffd_u64(const void *address)
{
	return (uint64_t)(uintptr_t)address;
}

/* ---- operations ---- */

static int uffd_move(
	struct uffd *u, uint8_t *to, const uint8_t *from, uint64_t bytes, uint64_t *moved)
{
	unsigned again = 0;
	uint64_t most = bytes;
	*moved = 0;
	while (*moved < bytes) {
		struct uffd_move m = {.dst = uffd_u64(to) + *moved,
			.src = uffd_u64(from) + *moved,
			.len = FM_MIN(most, bytes - *moved)};
		if (ioctl(u->fd, UFFD_MOVE_IOCTL, &m) == 0) {
			*moved += m.len;
			continue;
		}
		int err = errno;
		if (m.move > 0)
			*moved += (uint64_t)m.move;
		/* The program's mprotect splits mappings, and a run may not cross a border. */
		if (err == EINVAL && m.len > FM_PAGE_SIZE) {
			most = FM_PAGE_SIZE;
			continue;
		}
		if (err != EAGAIN)
			return -err;
		if (m.move <= 0 && ++again > UFFD_AGAIN_MAX)
			return -EAGAIN;
	}
	return 0;
}

int uffd_advise(void *memory, uint64_t bytes, int advice)
{
	return syscall(SYS_madvise, memory, bytes, advice) == 0 ? 0 : -errno;
}

int uffd_drop_memory(uint8_t *at, uint64_t bytes)
{
	if (uffd_advise(at, bytes, MADV_DONTNEED) == 0)
		return 0;
	/* mlocked: the program asked for it to be dropped all the same */
	return uffd_advise(at, bytes, MADV_DONTNEED_LOCKED);
}

static int uffd_copy_bytes(
	struct uffd *u, uint8_t *to, const uint8_t *bytes, uint64_t length, uint64_t *copied);

/* Copies present pages out; by force also what the program may not read itself. */
static int uffd_read_frozen(const struct uffd *u, uint32_t page, uint8_t *bytes, size_t length)
{
	ssize_t got = pread(u->memory_fd, bytes, length, (off_t)uffd_u64(uffd_address(u, page)));
	if (got < 0)
		return -errno;
	return (size_t)got == length ? 0 : -EFAULT;
}

/*
 * MOVE refuses pages that are not readable and writable. Nobody can write to such a one, so a copy
 * does: out, into staging, and the page is dropped. It stays so meanwhile: mmap_protect waits for
 * pages that are on their way.
 */
static int uffd_take_frozen(struct uffd *u, uint32_t page, uint32_t slot)
{
	uint8_t *staged = u->pager.staging + (uint64_t)slot * FM_PAGE_SIZE;
	uint64_t copied;
	if (u->frozen == NULL || !u->frozen(u->owner, page))
		return -EINVAL;
	int rc = uffd_read_frozen(u, page, u->bounce, FM_PAGE_SIZE);
	if (rc == 0)
		rc = uffd_drop_memory(staged, FM_PAGE_SIZE);
	if (rc == 0)
		rc = uffd_copy_bytes(u, staged, u->bounce, FM_PAGE_SIZE, &copied);
	if (rc == 0)
		rc = uffd_advise(uffd_address(u, page), FM_PAGE_SIZE, MADV_DONTNEED);
	if (rc != 0)
		(void)!uffd_drop_memory(staged, FM_PAGE_SIZE);
	return rc;
}

static int uffd_take(struct pager *p, uint32_t page, uint32_t count, uint32_t slot, uint32_t *done)
{
	struct uffd *u = uffd_of(p);
	uint8_t *staged = p->staging + (uint64_t)slot * FM_PAGE_SIZE;
	uint64_t moved;
	*done = 0;
	if (FAULT_POINT("uffd.take"))
		return -EBUSY;
	int rc =
		uffd_move(u, staged, uffd_address(u, page), (uint64_t)count * FM_PAGE_SIZE, &moved);
	if (rc == -EEXIST) {
		rc = uffd_drop_memory(staged + moved, (uint64_t)count * FM_PAGE_SIZE - moved);
		uint64_t rest = 0;
		if (rc == 0)
			rc = uffd_move(u, staged + moved, uffd_address(u, page) + moved,
				(uint64_t)count * FM_PAGE_SIZE - moved, &rest);
		moved += rest;
	}
	*done = (uint32_t)(moved / FM_PAGE_SIZE);
	while (rc == -EINVAL && *done < count &&
		uffd_take_frozen(u, page + *done, slot + *done) == 0)
		++*done;
	return *done == count ? 0 : rc;
}

static int uffd_give_back(struct pager *p, uint32_t slot, uint32_t page)
{
	struct uffd *u = uffd_of(p);
	uint64_t moved;
	return uffd_move(u, uffd_address(u, page), p->staging + (uint64_t)slot * FM_PAGE_SIZE,
		FM_PAGE_SIZE, &moved);
}

static void uffd_unshare(struct pager *p, uint32_t page, uint32_t count)
{
	int rc = uffd_advise(uffd_address(uffd_of(p), page), (uint64_t)count * FM_PAGE_SIZE,
		MADV_POPULATE_WRITE);
	(void)rc; /* if it did not help, the pages stay near */
}

static void uffd_wake(struct pager *p, uint32_t page, uint32_t count)
{
	struct uffd *u = uffd_of(p);
	struct uffdio_range r = {uffd_u64(uffd_address(u, page)), (uint64_t)count * FM_PAGE_SIZE};
	(void)ioctl(u->fd, UFFDIO_WAKE, &r);
}

static int uffd_copy_bytes(
	struct uffd *u, uint8_t *to, const uint8_t *bytes, uint64_t length, uint64_t *copied)
{
	unsigned again = 0;
	*copied = 0;
	while (*copied < length) {
		struct uffdio_copy c = {.dst = uffd_u64(to) + *copied,
			.src = uffd_u64(bytes) + *copied,
			.len = length - *copied};
		if (ioctl(u->fd, UFFDIO_COPY, &c) == 0) {
			*copied = length;
			break;
		}
		int err = errno;
		if (c.copy > 0)
			*copied += (uint64_t)c.copy;
		if (err != EAGAIN)
			return -err;
		if (c.copy <= 0 && ++again > UFFD_AGAIN_MAX)
			return -EAGAIN;
	}
	return 0;
}

static int uffd_copy(
	struct uffd *u, uint64_t page, const uint8_t *bytes, uint64_t length, uint64_t *copied)
{
	return uffd_copy_bytes(u, uffd_address(u, page), bytes, length, copied);
}

static int uffd_install(struct pager *p, uint32_t page, const uint8_t *bytes)
{
	uint64_t copied;
	int rc = uffd_copy(uffd_of(p), page, bytes, FM_PAGE_SIZE, &copied);
	if (rc == -EEXIST)
		uffd_wake(p, page, 1);
	return rc;
}

static int uffd_install_zero(struct pager *p, uint32_t page, uint32_t count, uint32_t *done)
{
	uint64_t copied;
	count = FM_MIN(count, UFFD_ZERO_PAGES);
	int rc = uffd_copy(uffd_of(p), page, uffd_zeros, (uint64_t)count * FM_PAGE_SIZE, &copied);
	/* The program's mprotect splits mappings, and a copy may not cross a border. */
	if (rc == -ENOENT && copied == 0 && count > 1)
		rc = uffd_copy(uffd_of(p), page, uffd_zeros, FM_PAGE_SIZE, &copied);
	*done = (uint32_t)(copied / FM_PAGE_SIZE);
	if (rc == -EEXIST)
		uffd_wake(p, page + *done, 1);
	return rc;
}

static int uffd_protect(struct pager *p, uint32_t page, uint32_t count, bool on)
{
	struct uffd *u = uffd_of(p);
	for (unsigned again = 0; again < UFFD_AGAIN_MAX; again++) {
		struct uffdio_writeprotect w = {
			.range = {uffd_u64(uffd_address(u, page)), (uint64_t)count * FM_PAGE_SIZE},
			.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
		if (ioctl(u->fd, UFFDIO_WRITEPROTECT, &w) == 0)
			return 0;
		if (errno != EAGAIN)
			return -errno;
	}
	return -EAGAIN;
}

/* process_vm_readv, not memcpy: no thread of ours ever faults on far-capable memory (invariant 8).
 */
static int uffd_read_pages(struct pager *p, uint32_t page, uint32_t count, uint8_t *bytes)
{
	size_t length = (size_t)count * FM_PAGE_SIZE;
	struct iovec to = {bytes, length};
	struct iovec from = {uffd_address(uffd_of(p), page), length};
	ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
	if (got < 0 && errno != EFAULT)
		return -errno;
	return (size_t)got == length ? 0 : uffd_read_frozen(uffd_of(p), page, bytes, length);
}

static int uffd_register_memory(struct uffd *u, uint8_t *at, uint64_t bytes);

/*
 * Lost pages may be among these whose memory uffd_poison_by_file replaced: fresh memory for all of
 * them. Out of reach until it is registered: a touch in between would not be seen.
 */
static int uffd_replace(struct uffd *u, uint8_t *at, uint64_t bytes)
{
	void *fresh = mmap(at, bytes, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (fresh == MAP_FAILED)
		return -errno;
	int rc = uffd_register_memory(u, at, bytes);
	if (rc != 0)
		return rc;
	return mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0 ? 0 : -errno;
}

static int uffd_drop(struct pager *p, uint32_t page, uint32_t count)
{
	struct uffd *u = uffd_of(p);
	uint64_t bytes = (uint64_t)count * FM_PAGE_SIZE;
	if (atomic_load_explicit(&u->replaced, memory_order_acquire))
		return uffd_replace(u, uffd_address(u, page), bytes);
	return uffd_drop_memory(uffd_address(u, page), bytes);
}

static int uffd_drop_staging(struct pager *p, uint32_t slot, uint32_t count)
{
	return uffd_drop_memory(
		p->staging + (uint64_t)slot * FM_PAGE_SIZE, (uint64_t)count * FM_PAGE_SIZE);
}

/* Without UFFDIO_POISON: an empty file's page answers every access with SIGBUS as well. */
static int uffd_poison_by_file(struct pager *p, uint32_t page)
{
	int fd = memfd_create("farmem-lost", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	atomic_store_explicit(&uffd_of(p)->replaced, true, memory_order_release);
	void *at = mmap(uffd_address(uffd_of(p), page), FM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_FIXED, fd, 0);
	int rc = at == MAP_FAILED ? -errno : 0;
	close(fd);
	uffd_wake(p, page, 1);
	return rc;
}

static int uffd_poison(struct pager *p, uint32_t page)
{
	struct uffd *u = uffd_of(p);
	struct uffd_poison_range r = {
		.start = uffd_u64(uffd_address(u, page)), .len = FM_PAGE_SIZE};
	if (!u->features.poison)
		return uffd_poison_by_file(p, page);
	if (ioctl(u->fd, UFFD_POISON_IOCTL, &r) == 0)
		return 0;
	int rc = -errno;
	uffd_wake(p, page, 1);
	return rc == -EEXIST ? 0 : rc;
}

static bool uffd_present(struct pager *p, uint32_t page)
{
	unsigned char resident = 0;
	if (mincore(uffd_address(uffd_of(p), page), FM_PAGE_SIZE, &resident) != 0)
		return true; /* not ours to judge: the program unmapped it */
	return (resident & 1) != 0;
}

static const struct pager_ops uffd_ops = {
	.take = uffd_take,
	.give_back = uffd_give_back,
	.unshare = uffd_unshare,
	.install = uffd_install,
	.install_zero = uffd_install_zero,
	.protect = uffd_protect,
	.read = uffd_read_pages,
	.drop = uffd_drop,
	.drop_staging = uffd_drop_staging,
	.wake = uffd_wake,
	.poison = uffd_poison,
	.present = uffd_present,
};

/* ---- opening ---- */

static int uffd_new(void)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device >= 0) {
		int fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
		if (fd >= 0)
			return fd;
	}
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 ? (int)fd : -errno;
}

int uffd_probe(struct uffd_features *features)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = uffd_new();
	if (fd < 0)
		return fd;
	int rc = ioctl(fd, UFFDIO_API, &api) == 0 ? 0 : -errno;
	close(fd);
	features->move = (api.features & UFFD_FEATURE_MOVE_) != 0;
	features->poison = (api.features & UFFD_FEATURE_POISON_) != 0;
	features->write_protect = (api.features & UFFD_FEATURE_PAGEFAULT_FLAG_WP) != 0;
	if (rc == 0 && !features->move && !features->write_protect)
		rc = -ENOSYS;
	return rc;
}

static int uffd_handshake(struct uffd *u)
{
	struct uffdio_api api = {.api = UFFD_API};
	if (u->pager.moves)
		api.features |= UFFD_FEATURE_MOVE_;
	else
		api.features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	if (u->features.poison)
		api.features |= UFFD_FEATURE_POISON_;
	if (u->names_threads)
		api.features |= UFFD_FEATURE_THREAD_ID;
	return ioctl(u->fd, UFFDIO_API, &api) == 0 ? 0 : -errno;
}

static int uffd_register_memory(struct uffd *u, uint8_t *at, uint64_t bytes)
{
	struct uffdio_register r = {.range = {uffd_u64(at), bytes},
		.mode = UFFDIO_REGISTER_MODE_MISSING |
			(u->pager.moves ? 0 : UFFDIO_REGISTER_MODE_WP)};
	if (ioctl(u->fd, UFFDIO_REGISTER, &r) != 0)
		return -errno;
	int rc = uffd_advise(at, bytes, MADV_NOHUGEPAGE); /* pages come and go one by one now */
	return rc == 0 || rc == -EINVAL ? uffd_advise(at, bytes, MADV_DONTFORK) : rc;
}

int uffd_open(struct uffd *u, uint8_t *range, uint32_t staging_slots, bool moves)
{
	int rc = uffd_probe(&u->features);
	if (rc != 0)
		return rc;
	u->range = range;
	u->pager = (struct pager){.ops = &uffd_ops, .moves = moves, .staging_slots = staging_slots};
	u->staging_bytes = (uint64_t)(staging_slots + STAGE_PRIVATE_SLOTS) * FM_PAGE_SIZE;
	u->fd = uffd_new();
	if (u->fd < 0)
		return u->fd;
	u->memory_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC); /* without it: fewer can go */
	rc = uffd_handshake(u);
	if (rc != 0)
		return rc;
	u->pager.staging = mem_map(u->staging_bytes);
	if (u->pager.staging == NULL)
		return -ENOMEM;
	/* MOVE needs its target registered with the same userfaultfd. */
	return moves ? uffd_register_memory(u, u->pager.staging, u->staging_bytes) : 0;
}

int uffd_reopen(struct uffd *u)
{
	u->fd = uffd_new();
	if (u->fd < 0)
		return u->fd;
	return uffd_handshake(u);
}

int uffd_register(struct uffd *u, uint64_t page, uint64_t count)
{
	return uffd_register_memory(u, uffd_address(u, page), count * FM_PAGE_SIZE);
}

int uffd_read(struct uffd *u, struct uffd_fault *faults, unsigned most)
{
	struct uffd_msg messages[UFFD_READ_MAX];
	ssize_t got = read(u->fd, messages, FM_MIN(most, UFFD_READ_MAX) * sizeof(messages[0]));
	int count = 0;
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (unsigned i = 0; i < (size_t)got / sizeof(messages[0]); i++) {
		const struct uffd_msg *m = &messages[i];
		if (m->event != UFFD_EVENT_PAGEFAULT)
			continue;
		uint64_t offset = m->arg.pagefault.address - uffd_u64(u->range);
		faults[count++] = (struct uffd_fault){(uint32_t)(offset / FM_PAGE_SIZE),
			(m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
			m->arg.pagefault.feat.ptid};
	}
	return count;
}

void uffd_sleep(struct uffd *u, uint64_t timeout_ns)
{
	struct pollfd p = {.fd = u->fd, .events = POLLIN};
	struct timespec t = {.tv_sec = (time_t)(timeout_ns / NS_PER_S),
		.tv_nsec = (long)(timeout_ns % NS_PER_S)};
	(void)ppoll(&p, 1, timeout_ns == UINT64_MAX ? NULL : &t, NULL);
}
