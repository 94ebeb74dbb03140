/*
 * rpc/fabric_verbs_host.c: the functions of rpc/fabric_provider.h and base/mem.h that the module's
 * files call, passed on to the side that loaded it. Not linked in a second time: they have state.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>

#include "base/mem.h"
#include "rpc/fabric_verbs.h"

#define TEXT_BYTES 400

const struct fabric_module_host *verbs_host;

struct fabric_region *fabric_region_reserve(
	struct fabric_queue *queue, const struct fabric_ops *ops)
{
	(void)ops; /* ours is not the one in the table of providers */
	return verbs_host->region_reserve(queue, verbs_host->ops);
}

void fabric_region_release(struct fabric_region *region)
{
	verbs_host->region_release(region);
}

void *fabric_part(const struct fabric_queue *queue, const struct fabric_ops *ops)
{
	(void)ops;
	return verbs_host->part(queue, verbs_host->ops);
}

void fabric_part_set(struct fabric_queue *queue, const struct fabric_ops *ops, void *part)
{
	(void)ops;
	verbs_host->part_set(queue, verbs_host->ops, part);
}

uint32_t fabric_depth(const struct fabric_queue *queue)
{
	return verbs_host->depth(queue);
}

void fabric_complete(struct fabric_region *region, uint64_t tag, int status)
{
	verbs_host->complete(region, tag, status);
}

bool fabric_memory_range(const struct fabric_queue *queue, uint32_t index, struct iovec *range)
{
	return verbs_host->memory_range(queue, index, range);
}

void *mem_map(size_t bytes)
{
	return verbs_host->memory_map(bytes);
}

void mem_unmap(void *memory, size_t bytes)
{
	verbs_host->memory_unmap(memory, bytes);
}

void verbs_warn(const char *format, ...)
{
	char text[TEXT_BYTES];
	va_list arguments;
	va_start(arguments, format);
	(void)vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	verbs_host->warn(text);
}

void verbs_warn_memory(const char *what, uint64_t bytes, int error)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_MEMLOCK, &limit))
		limit.rlim_cur = 0;
	if ((error == -ENOMEM || error == -EAGAIN || error == -EPERM) &&
		limit.rlim_cur != RLIM_INFINITY)
		verbs_warn("verbs: cannot pin %llu KiB for %s: the limit on locked memory is %llu "
			   "KiB: raise it (ulimit -l unlimited; LimitMEMLOCK=infinity in a systemd "
			   "unit; memlock in /etc/security/limits.conf)",
			(unsigned long long)(bytes >> 10), what,
			(unsigned long long)(limit.rlim_cur >> 10));
	else
		verbs_warn("verbs: the device refused %llu KiB for %s, error %d",
			(unsigned long long)(bytes >> 10), what, -error);
}
