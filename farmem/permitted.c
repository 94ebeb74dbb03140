/*
 * farmem/permitted.c: see permitted.h.
 *
 * Every call is tried with arguments that make it fail, or do nothing, in a way of its own: a
 * descriptor that cannot be, an address that is none. EPERM, EACCES and ENOSYS are then the
 * filter's word.
 *
 * Threads: where pthread_create fails, it frees what it got from the front's calloc for runtime
 * threads, which is not the front's to free (front_thread_memory in front.c). So it is not called
 * before the kernel has shown that it can make a thread.
 */
#include "farmem/permitted.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

#define NO_DESCRIPTOR (-1L)
#define NO_CLOCK 1000L
#define NO_FAMILY (-1L)
#define NO_FLAGS 0x40000000L
#define THREAD_STACK_BYTES (64u << 10)

static const struct {
	const char *name;
	long number;
	long first, second, third;
} calls[] = {
	{"pwritev", SYS_pwritev, NO_DESCRIPTOR, 0, 0},
	{"ioctl", SYS_ioctl, NO_DESCRIPTOR, 0, 0},
	{"poll", SYS_poll, 0, 0, 0},
	{"read", SYS_read, NO_DESCRIPTOR, 0, 0},
	{"sendmsg", SYS_sendmsg, NO_DESCRIPTOR, 0, 0},
	{"recvmsg", SYS_recvmsg, NO_DESCRIPTOR, 0, 0},
	{"sendto", SYS_sendto, NO_DESCRIPTOR, 0, 0},
	{"recvfrom", SYS_recvfrom, NO_DESCRIPTOR, 0, 0},
	{"connect", SYS_connect, NO_DESCRIPTOR, 0, 0},
	{"socket", SYS_socket, NO_FAMILY, 0, 0},
	{"fcntl", SYS_fcntl, NO_DESCRIPTOR, 0, 0},
	{"getrandom", SYS_getrandom, 0, 0, 0},
	{"eventfd2", SYS_eventfd2, 0, NO_FLAGS, 0},
	{"memfd_create", SYS_memfd_create, 0, 0, 0},
	{"mremap", SYS_mremap, 1, 0, 0},
	{"madvise", SYS_madvise, 1, 0, 0},
	/* of the agent and its nodes, which inherit the filter */
	{"socketpair", SYS_socketpair, NO_FAMILY, 0, 0},
	{"bind", SYS_bind, NO_DESCRIPTOR, 0, 0},
	{"listen", SYS_listen, NO_DESCRIPTOR, 0, 0},
	{"accept4", SYS_accept4, NO_DESCRIPTOR, 0, 0},
	{"flock", SYS_flock, NO_DESCRIPTOR, 0, 0},
	{"ftruncate", SYS_ftruncate, NO_DESCRIPTOR, 0, 0},
	{"fallocate", SYS_fallocate, NO_DESCRIPTOR, 0, 0},
	{"epoll_create1", SYS_epoll_create1, NO_FLAGS, 0, 0},
	{"epoll_ctl", SYS_epoll_ctl, NO_DESCRIPTOR, 0, 0},
	{"timerfd_create", SYS_timerfd_create, NO_CLOCK, 0, 0},
	{"signalfd4", SYS_signalfd4, NO_DESCRIPTOR, 0, 0},
	{"execve", SYS_execve, 0, 0, 0},
};

static long answer_of(unsigned i)
{
	return syscall(
		calls[i].number, calls[i].first, calls[i].second, calls[i].third, 0L, 0L, 0L);
}

const char *permitted_calls(void)
{
	const int was = errno;
	const char *refused = NULL;
	if (prctl(PR_GET_SECCOMP) <= 0) /* refused itself: nothing can be said */
		return NULL;
	for (unsigned i = 0; i < FM_ARRAY_COUNT(calls) && refused == NULL; i++)
		if (answer_of(i) < 0 && (errno == EPERM || errno == EACCES || errno == ENOSYS))
			refused = calls[i].name;
	errno = was;
	return refused;
}

static int end_at_once(void *argument)
{
	(void)argument;
	return 0;
}

int permitted_thread(void)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
			  CLONE_SYSVSEM | CLONE_VFORK; /* we wait: the stack is ours again */
	const int was = errno;
	int rc = 0;
	/* What libc asks first; without it (ENOSYS) it takes the other one. */
	if (syscall(SYS_clone3, NULL, 0) < 0 && (errno == EPERM || errno == EACCES))
		return -errno;
	char *stack = mem_map(THREAD_STACK_BYTES);
	if (stack == NULL)
		return -ENOMEM;
	if (clone(end_at_once, stack + THREAD_STACK_BYTES, flags, NULL) < 0)
		rc = -errno;
	mem_unmap(stack, THREAD_STACK_BYTES);
	errno = was;
	return rc;
}
