/*
 * rpc/ctl_library.c: see ctl_library.h. Callers: ctl_server.c, ctl_client.c.
 */
#include "rpc/ctl_library.h"

#include <errno.h>
#include <pthread.h>

#include <grpc/grpc.h>
#include <grpc/support/log.h>

#include "base/compiler.h"
#include "base/log.h"

/* Both directions read this table; the first row with a matching number wins. */
static const struct {
	int error;
	grpc_status_code status;
} statuses[] = {
	{0, GRPC_STATUS_OK},
	{-EINVAL, GRPC_STATUS_INVALID_ARGUMENT},
	{-ENOMEM, GRPC_STATUS_RESOURCE_EXHAUSTED},
	{-EACCES, GRPC_STATUS_PERMISSION_DENIED},
	{-ENOENT, GRPC_STATUS_NOT_FOUND},
	{-EPERM, GRPC_STATUS_FAILED_PRECONDITION},
	{-EAGAIN, GRPC_STATUS_UNAVAILABLE},
	{-ENOSYS, GRPC_STATUS_UNIMPLEMENTED},
	{-ETIMEDOUT, GRPC_STATUS_DEADLINE_EXCEEDED},
	{-ECANCELED, GRPC_STATUS_CANCELLED},
};

static pthread_once_t hook_once = PTHREAD_ONCE_INIT;

/* gRPC reports every refused connection on stderr by default: noise to a user, a fact to a
 * debugger. */
static void library_log(gpr_log_func_args *args)
{
	log_debug("grpc: %s", args->message);
}

static void library_hook(void)
{
	gpr_set_log_function(library_log);
}

void ctl_library_acquire(void)
{
	pthread_once(&hook_once, library_hook);
	grpc_init();
}

void ctl_library_release(void)
{
	grpc_shutdown();
}

int ctl_status_from_errno(int error)
{
	for (unsigned i = 0; i < FM_ARRAY_COUNT(statuses); i++)
		if (statuses[i].error == error)
			return (int)statuses[i].status;
	return (int)GRPC_STATUS_INTERNAL;
}

int ctl_status_to_errno(int status)
{
	if (status == (int)GRPC_STATUS_UNAVAILABLE)
		return -ECONNRESET;
	for (unsigned i = 0; i < FM_ARRAY_COUNT(statuses); i++)
		if ((int)statuses[i].status == status)
			return statuses[i].error;
	return -EIO;
}
