/*
 * farmem/bare.c: memory calls that go to the kernel and nowhere else.
 *
 * Linked into libfarmem.so and libfarmem-malloc.so with --wrap: whatever those two, jemalloc among
 * them, map for themselves must not come back through the front's own mmap (invariant 8: it could
 * become far-capable).
 */
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

void *__wrap_mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mremap(void *address, size_t bytes, size_t new_bytes, int flags, ...);
int __wrap_munmap(void *address, size_t bytes);
int __wrap_mprotect(void *address, size_t bytes, int prot);
int __wrap_madvise(void *address, size_t bytes, int advice);
int __wrap_mlock(const void *address, size_t bytes);

void *__wrap_mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, address, bytes, prot, flags, fd, offset);
}

void *__wrap_mmap64(void *address, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	return (void *)syscall(SYS_mmap, address, bytes, prot, flags, fd, offset);
}

void *__wrap_mremap(void *address, size_t bytes, size_t new_bytes, int flags, ...)
{
	va_list rest;
	va_start(rest, flags);
	void *new_address = flags & MREMAP_FIXED ? va_arg(rest, void *) : NULL;
	va_end(rest);
	return (void *)syscall(SYS_mremap, address, bytes, new_bytes, flags, new_address);
}

int __wrap_munmap(void *address, size_t bytes)
{
	return (int)syscall(SYS_munmap, address, bytes);
}

int __wrap_mprotect(void *address, size_t bytes, int prot)
{
	return (int)syscall(SYS_mprotect, address, bytes, prot);
}

int __wrap_madvise(void *address, size_t bytes, int advice)
{
	return (int)syscall(SYS_madvise, address, bytes, advice);
}

int __wrap_mlock(const void *address, size_t bytes)
{
	return (int)syscall(SYS_mlock, address, bytes);
}
