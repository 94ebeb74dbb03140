/*
 * memnode/ctl_offload.h: handlers of Rebuild and Checksum, for ctl_service.c's table.
 */
#ifndef FM_MEMNODE_CTL_OFFLOAD_H
#define FM_MEMNODE_CTL_OFFLOAD_H

#include "rpc/ctl_server.h"

/* As ctl_handler has it; context: struct ctl_service *. */
int ctl_offload_rebuild(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);
int ctl_offload_checksum(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);

#endif
