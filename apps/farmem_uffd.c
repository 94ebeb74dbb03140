/*
 * apps/farmem_uffd.c: see farmem_uffd.h. Tries what the runtime will try, in the same order.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "apps/farmem_uffd.h"

static int uffd_open_device(void)
{
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd, error;

	if (device < 0)
		return -errno;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	error = errno;
	close(device);
	return fd < 0 ? -error : fd;
}

static int uffd_open_syscall(void)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : (int)fd;
}

/* Closes fd. Asking for no feature makes the kernel list all it has. 0 or -errno. */
static int uffd_read_features(int fd, uint64_t *features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = 0};
	int rc = ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;

	*features = api.features;
	close(fd);
	return rc;
}

void uffd_probe(struct uffd_probe *probe)
{
	int device = uffd_open_device();
	int plain = uffd_open_syscall();

	memset(probe, 0, sizeof(*probe));
	probe->device_error = device < 0 ? device : uffd_read_features(device, &probe->features);
	if (probe->device_error == 0)
		probe->way = UFFD_WAY_DEVICE;
	probe->syscall_error = plain < 0 ? plain : uffd_read_features(plain, &probe->features);
	if (probe->syscall_error == 0 && probe->way == UFFD_WAY_NONE)
		probe->way = UFFD_WAY_SYSCALL;
}

const char *uffd_cure(const struct uffd_probe *probe)
{
	if (probe->syscall_error == -ENOSYS && probe->device_error == -ENOENT)
		return "this kernel has no userfaultfd (CONFIG_USERFAULTFD), or a sandbox hides "
		       "it: "
		       "use a distribution kernel, Linux 5.7 or newer";
	if (probe->device_error == -EACCES)
		return "as root: groupadd -f farmem; chgrp farmem /dev/userfaultfd; chmod 660 "
		       "/dev/userfaultfd; usermod -aG farmem USER (and log in again), or: "
		       "sysctl -w vm.unprivileged_userfaultfd=1";
	if (probe->syscall_error == -EPERM)
		return "as root: sysctl -w vm.unprivileged_userfaultfd=1 (inside a container: its "
		       "seccomp profile must allow userfaultfd, or pass it --device "
		       "/dev/userfaultfd)";
	return "run as root, or as root: sysctl -w vm.unprivileged_userfaultfd=1";
}
