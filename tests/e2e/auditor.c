/* tests/e2e/auditor.c: an auditor for LD_AUDIT that allocates, in its own namespace, and lets
 * everything pass. */
#include <link.h>
#include <stdint.h>
#include <stdlib.h>

__attribute__((visibility("default"))) unsigned la_version(unsigned version)
{
	free(malloc(100));
	return version < LAV_CURRENT ? version : LAV_CURRENT;
}

__attribute__((visibility("default"))) unsigned la_objopen(
	struct link_map *map, Lmid_t list, uintptr_t *cookie)
{
	(void)map, (void)list, (void)cookie;
	return LA_FLG_BINDTO | LA_FLG_BINDFROM;
}
