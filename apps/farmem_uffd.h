/*
 * apps/farmem_uffd.h: may this user have a userfaultfd that serves the kernel's faults, and what
 * can it do? Asked by `farmem run` before it execs, and by `farmem doctor`.
 */
#ifndef FM_APPS_FARMEM_UFFD_H
#define FM_APPS_FARMEM_UFFD_H

#include <stdint.h>

#include "base/compiler.h"

/* Feature bits newer than the headers of Debian 12. */
#define UFFD_WP_UNPOPULATED (1ull << 13)
#define UFFD_POISON (1ull << 14)
#define UFFD_WP_ASYNC (1ull << 15)
#define UFFD_MOVE (1ull << 16)

enum uffd_way {
	UFFD_WAY_NONE = 0, /* refused, or no such kernel */
	UFFD_WAY_DEVICE,   /* /dev/userfaultfd */
	UFFD_WAY_SYSCALL,
};

struct uffd_probe {
	enum uffd_way way;
	int device_error;  /* -errno of /dev/userfaultfd, 0 when it worked */
	int syscall_error; /* likewise */
	uint64_t features; /* UFFD_FEATURE_*, when way is not NONE */
};

void uffd_probe(struct uffd_probe *probe);
/* The sentence to tell a user who may not, with what to type. */
const char *uffd_cure(const struct uffd_probe *probe);

#endif
