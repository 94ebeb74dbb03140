/*
 * memnode/ctl_merge.h: handlers of MergeBegin .. MergeEnd, for ctl_service.c's table.
 */
#ifndef FM_MEMNODE_CTL_MERGE_H
#define FM_MEMNODE_CTL_MERGE_H

#include "rpc/ctl_server.h"

/* As ctl_handler has it; context: struct ctl_service *. */
int ctl_handle_merge_begin(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);
int ctl_handle_merge_send(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);
int ctl_handle_merge_partial(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);
int ctl_handle_merge_prepare(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);
int ctl_handle_merge_end(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply);

#endif
