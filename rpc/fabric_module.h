/*
 * rpc/fabric_module.h: the verbs provider is a module, libfarmem-verbs.so: libibverbs, librdmacm
 * and what they bring stay out of programs that do not use them. This is what the two sides, the
 * fabric and the module, give each other at loading.
 *
 * The module lives in a linker namespace of its own (dlmopen), with its own libc: the libraries
 * below it call malloc, and in the application that is the interposed one, which threads of the
 * runtime must never call (DESIGN, invariant 8). Hence:
 *   - what the module needs of ours it is handed as functions (nothing is linked twice in effect);
 *   - errno and stdio on the two sides are different things: only return values cross;
 *   - it makes no threads, and is called only by threads that called verbs_enter first (libc's
 *     per-thread tables of the second libc are set up there).
 * Sanitized builds load it with dlopen: a sanitizer's run-time exists once.
 */
#ifndef FM_RPC_FABRIC_MODULE_H
#define FM_RPC_FABRIC_MODULE_H

#include "rpc/fabric_provider.h"

#define FABRIC_MODULE_VERSION 1u
#define FABRIC_MODULE_SYMBOL "fabric_verbs_module"

struct fabric_module_host {
	uint32_t version;             /* FABRIC_MODULE_VERSION */
	const struct fabric_ops *ops; /* as which the module's regions and parts are known */
	struct fabric_region *(*region_reserve)(
		struct fabric_queue *queue, const struct fabric_ops *ops);
	void (*region_release)(struct fabric_region *region);
	void *(*part)(const struct fabric_queue *queue, const struct fabric_ops *ops);
	void (*part_set)(struct fabric_queue *queue, const struct fabric_ops *ops, void *part);
	uint32_t (*depth)(const struct fabric_queue *queue);
	void (*complete)(struct fabric_region *region, uint64_t tag, int status);
	bool (*memory_range)(const struct fabric_queue *queue, uint32_t index, struct iovec *range);
	void *(*memory_map)(size_t bytes);
	void (*memory_unmap)(void *memory, size_t bytes);
	bool (*fault)(unsigned point); /* enum fabric_module_fault */
	void (*warn)(const char *text);
};

enum fabric_module_fault {
	FABRIC_FAULT_LOSE,
	FABRIC_FAULT_POST,
	FABRIC_FAULT_COMPLETION,
	FABRIC_FAULT_CONNECT
};

/* What FABRIC_MODULE_SYMBOL is. Once per load; the host outlives the module. 0 and *ops, or -errno:
 * -EPROTO another version; -ENODEV no RDMA device; -ENOSYS the kernel has no RDMA. */
typedef int fabric_module_open(
	const struct fabric_module_host *host, const struct fabric_ops **ops);

#endif
