/*
 * apps/farmem_places.c: see farmem_places.h.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apps/farmem_places.h"

/* Directory of this program's file, no slash at the end. 0 or -errno. */
static int places_own_directory(char *path, size_t size)
{
	ssize_t length = readlink("/proc/self/exe", path, size - 1);
	char *slash;

	if (length < 0)
		return -errno;
	path[length] = '\0';
	slash = strrchr(path, '/');
	if (!slash)
		return -ENOENT;
	*slash = '\0';
	return 0;
}

/* name beside this program, else in `elsewhere` below the directory above it. */
static int places_find(const char *name, const char *elsewhere, int mode, char *path, size_t size)
{
	char own[PATH_MAX];
	int written;

	if (places_own_directory(own, sizeof(own)) < 0)
		return -ENOENT;
	written = snprintf(path, size, "%s/%s", own, name);
	if (written > 0 && (size_t)written < size && access(path, mode) == 0)
		return 0;
	written = snprintf(path, size, "%s/../%s/%s", own, elsewhere, name);
	return written > 0 && (size_t)written < size && access(path, mode) == 0 ? 0 : -ENOENT;
}

int places_preload(char *path, size_t size)
{
	if (places_find(PRELOAD_NAME, "lib/farmem", R_OK, path, size) < 0)
		return -ENOENT;
	return strpbrk(path, " :") ? -EINVAL : 0;
}

int places_companion(const char *name, char *path, size_t size)
{
	return places_find(name, "libexec/farmem", X_OK, path, size);
}

int places_run_dir(const char *given, char *path, size_t size)
{
	const char *session = getenv("XDG_RUNTIME_DIR");
	int written;

	if (given[0])
		written = snprintf(path, size, "%s", given);
	else if (geteuid() == 0)
		written = snprintf(path, size, "/run/farmem");
	else if (session && session[0] == '/')
		written = snprintf(path, size, "%s/farmem", session);
	else
		written = snprintf(path, size, "/tmp/farmem-%u", geteuid());
	return written > 0 && (size_t)written < size ? 0 : -ENAMETOOLONG;
}
