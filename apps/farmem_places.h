/*
 * apps/farmem_places.h: where the pieces of an installation or a build tree lie, seen from this
 * program.
 */
#ifndef FM_APPS_FARMEM_PLACES_H
#define FM_APPS_FARMEM_PLACES_H

#include <stddef.h>

#include "base/compiler.h"

#define PRELOAD_NAME "libfarmem-malloc.so"

/*
 * The preload library: beside this program (build tree), else ../lib/farmem/. 0, -ENOENT, or
 * -EINVAL when its path holds a space or a colon, which LD_PRELOAD cannot carry; path is then the
 * path in question.
 */
int places_preload(char *path, size_t size) FM_MUST_USE;
/* A companion program: beside this program, else ../libexec/farmem/. 0 or -ENOENT. */
int places_companion(const char *name, char *path, size_t size) FM_MUST_USE;
/*
 * Where trees of processes have their directories: `given` (config.dir), or when it is empty the
 * first of /run/farmem (root), $XDG_RUNTIME_DIR/farmem, /tmp/farmem-UID. Not made here. 0 or
 * -ENAMETOOLONG.
 */
int places_run_dir(const char *given, char *path, size_t size) FM_MUST_USE;

#endif
