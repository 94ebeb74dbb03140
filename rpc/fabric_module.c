/*
 * rpc/fabric_module.c: finds and loads libfarmem-verbs.so (rpc/fabric_module.h), and stands in for
 * it in the table of providers.
 *
 * Loading calls malloc, by way of the loader: so it is done once, by whoever wants verbs, before it
 * opens queues, on a thread that may (in an application: the program's own, in a constructor). An
 * attach loads nothing: without the module it answers -EOPNOTSUPP.
 *
 * Invariants
 *   1. verbs_ops is written once, by the load, before loaded_pid is; everything but `attach` in it
 *      is used only by queues that attached, hence after that.
 *   2. A forked child does not use its parent's module: descriptors and connections in there are
 *      the parent's.
 */
#include "rpc/fabric_module.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault_point.h"
#include "base/log.h"
#include "base/mem.h"

#define MODULE_NAME "libfarmem-verbs.so"

static _Atomic pid_t loaded_pid; /* the process that loaded it; 0: none has */
static const struct fabric_ops *module_ops;

static int verbs_attach(struct fabric_queue *queue, const char *endpoint,
	const struct fabric_capability *capability, uint64_t deadline_ns,
	struct fabric_region **region)
{
	if (atomic_load_explicit(&loaded_pid, memory_order_acquire) != getpid())
		return -EOPNOTSUPP;
	return module_ops->attach(queue, endpoint, capability, deadline_ns, region);
}

/* Filled in by the load (invariant 1). */
struct fabric_ops fabric_verbs_ops = {.name = "verbs", .prefix = "verbs:", .attach = verbs_attach};

bool fabric_verbs_loaded(void)
{
	return atomic_load_explicit(&loaded_pid, memory_order_acquire) == getpid();
}

static bool host_fault(unsigned point)
{
	switch (point) {
	case FABRIC_FAULT_LOSE:
		return FAULT_POINT("fabric.verbs.lose");
	case FABRIC_FAULT_POST:
		return FAULT_POINT("fabric.verbs.post");
	case FABRIC_FAULT_COMPLETION:
		return FAULT_POINT("fabric.verbs.completion");
	case FABRIC_FAULT_CONNECT:
		return FAULT_POINT("fabric.verbs.connect");
	}
	return false;
}

static void host_warn(const char *text)
{
	log_warn("%s", text);
}

static const struct fabric_module_host module_host = {
	.version = FABRIC_MODULE_VERSION,
	.ops = &fabric_verbs_ops,
	.region_reserve = fabric_region_reserve,
	.region_release = fabric_region_release,
	.part = fabric_part,
	.part_set = fabric_part_set,
	.depth = fabric_depth,
	.complete = fabric_complete,
	.memory_range = fabric_memory_range,
	.memory_map = mem_map,
	.memory_unmap = mem_unmap,
	.fault = host_fault,
	.warn = host_warn,
};

/* Where the file stands that this code was loaded from. */
static int own_directory(char directory[PATH_MAX])
{
	Dl_info info;
	char real[PATH_MAX];
	if (!dladdr(&module_host, &info) || !realpath(info.dli_fname, real))
		return -ENOENT;
	char *slash = strrchr(real, '/');
	if (!slash)
		return -ENOENT;
	*slash = '\0';
	memcpy(directory, real, strlen(real) + 1);
	return 0;
}

/* In FARMEM_BIN; else beside us, above us (a test in the build tree), or where an installation has
 * libraries. */
static int module_find(char path[PATH_MAX])
{
	static const char *const places[] = {"", "/..", "/../lib/farmem", "/../lib", "/farmem"};
	const char *given = secure_getenv("FARMEM_BIN");
	char directory[PATH_MAX];
	if (given && *given) {
		int length = snprintf(path, PATH_MAX, "%s/" MODULE_NAME, given);
		return length < PATH_MAX && access(path, R_OK) == 0 ? 0 : -ENOENT;
	}
	int r = own_directory(directory);
	for (unsigned i = 0; !r && i < FM_ARRAY_COUNT(places); i++) {
		int length = snprintf(path, PATH_MAX, "%s%s/" MODULE_NAME, directory, places[i]);
		if (length < PATH_MAX && access(path, R_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

static void *module_map(const char *path)
{
#ifdef FM_SANITIZED
	return dlopen(path, RTLD_NOW | RTLD_LOCAL);
#else
	return dlmopen(LM_ID_NEWLM, path, RTLD_NOW | RTLD_LOCAL);
#endif
}

static int module_load(void)
{
	char path[PATH_MAX];
	int r = module_find(path);
	if (r) {
		log_error("verbs: " MODULE_NAME " is not beside this program or library, nor in "
			  "FARMEM_BIN");
		return r;
	}
	void *handle = module_map(path);
	if (!handle) {
		log_error("verbs: %s", dlerror());
		return -ELIBACC;
	}
	/* POSIX wants this conversion; ISO C does not know it. */
	fabric_module_open *open = NULL;
	*(void **)&open = dlsym(handle, FABRIC_MODULE_SYMBOL);
	r = open ? open(&module_host, &module_ops) : -EPROTO;
	if (r == -EPROTO)
		log_error("verbs: %s is of another version", path);
	if (r) {
		(void)dlclose(handle);
		return r;
	}
	fabric_verbs_ops.detach = module_ops->detach;
	fabric_verbs_ops.post_read = module_ops->post_read;
	fabric_verbs_ops.post_write = module_ops->post_write;
	fabric_verbs_ops.progress = module_ops->progress;
	fabric_verbs_ops.sleep = module_ops->sleep;
	fabric_verbs_ops.fence = module_ops->fence;
	fabric_verbs_ops.memory = module_ops->memory;
	fabric_verbs_ops.queue_close = module_ops->queue_close;
	return 0;
}

int fabric_load_verbs(void)
{
	if (fabric_verbs_loaded())
		return 0;
	if (atomic_load(&loaded_pid))
		return -EOPNOTSUPP; /* invariant 2 */
	int r = module_load();
	if (!r)
		atomic_store_explicit(&loaded_pid, getpid(), memory_order_release);
	return r;
}
