/*
 * farmem/mmap_front.c: the names a program maps memory by, in libfarmem-malloc.so. What they mean
 * is in mmap.c (libfarmem.so), which falls back to the kernel.
 *
 * libc calls these of its own only by other names, so thread stacks and the loader's mappings never
 * come by here; nor does what jemalloc and the runtime map (bare.c).
 */
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/compiler.h"
#include "farmem/mmap.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

void fm_unlock_range(void);

/* errno is set by a failure only, whatever was tried on the way. */
static int front_answer(long rc, int before)
{
	errno = rc >= 0 ? before : (int)-rc;
	return rc >= 0 ? 0 : -1;
}

static void *front_address(long at, int before)
{
	errno = at >= 0 ? before : (int)-at;
	return at >= 0 ? (void *)at : MAP_FAILED;
}

/* libc's own declaration has six parameters. */
FM_EXPORT void *mmap(void *address, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	int before = errno;
	struct mmap_call call = {address, bytes, prot, flags, fd, offset};
	return front_address(mmap_map(&call), before);
}

FM_EXPORT void *mmap64(void *address, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	int before = errno;
	struct mmap_call call = {address, bytes, prot, flags, fd, offset};
	return front_address(mmap_map(&call), before);
}

FM_EXPORT int munmap(void *address, size_t bytes)
{
	int before = errno;
	return front_answer(mmap_unmap(address, bytes), before);
}

FM_EXPORT void *mremap(void *address, size_t bytes, size_t new_bytes, int flags, ...)
{
	int before = errno;
	struct mremap_call call = {address, bytes, new_bytes, flags, NULL};
	va_list rest;
	va_start(rest, flags);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		call.new_address = va_arg(rest, void *);
	va_end(rest);
	return front_address(mmap_remap(&call), before);
}

FM_EXPORT int mprotect(void *address, size_t bytes, int prot)
{
	int before = errno;
	return front_answer(mmap_protect(address, bytes, prot, -1), before);
}

FM_EXPORT int pkey_mprotect(void *address, size_t bytes, int prot, int key)
{
	int before = errno;
	return front_answer(mmap_protect(address, bytes, prot, key), before);
}

FM_EXPORT int madvise(void *address, size_t bytes, int advice)
{
	int before = errno;
	return front_answer(mmap_advise(address, bytes, advice), before);
}

/* POSIX's advice changes nothing but speed, and on our range not even that. */
FM_EXPORT int posix_madvise(void *address, size_t bytes, int advice)
{
	if (advice == POSIX_MADV_DONTNEED) /* not the kernel's, which would drop contents */
		return 0;
	return -(int)mmap_advise(address, bytes, advice);
}

/* Locked pages stay near. */
FM_EXPORT int mlock(const void *address, size_t bytes)
{
	mmap_note_flags();
	return (int)syscall(SYS_mlock, address, bytes);
}

FM_EXPORT int mlock2(const void *address, size_t bytes, unsigned flags)
{
	mmap_note_flags();
	return (int)syscall(SYS_mlock2, address, bytes, flags);
}

/* mlockall would bring in the whole reserved range: locked on fault elsewhere, far-capable memory
 * stays far-capable. */
FM_EXPORT int mlockall(int flags)
{
	int rc = (int)syscall(SYS_mlockall, flags | MCL_ONFAULT);
	mmap_note_flags();
	if (rc == 0)
		fm_unlock_range();
	return rc;
}
