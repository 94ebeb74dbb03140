/*
 * rpc/ctl_library.h: what all users of the control plane share: starting gRPC core, and how -errno
 * and gRPC statuses translate.
 *
 * gRPC core is used from C, never in the application's process (DESIGN section 3). Never fork after
 * the first ctl_library_acquire(): gRPC has threads by then.
 */
#ifndef FM_RPC_CTL_LIBRARY_H
#define FM_RPC_CTL_LIBRARY_H

#include <stdint.h>

#define CTL_MESSAGE_BYTES_MAX (512u << 10) /* default bound on one message, either way */
#define CTL_TEXT_BYTES 160                 /* of an error's one-line text */

/* Starts gRPC on first use; each acquire needs its release. Thread-safe. gRPC's own messages go to
 * log_debug. */
void ctl_library_acquire(void);
void ctl_library_release(void);

/* -EINVAL, -ENOMEM, -EACCES, -ENOENT, -EPERM, -EAGAIN, -ENOSYS, -ETIMEDOUT and 0 have a status of
 * their own; the rest is INTERNAL. Takes and returns plain ints: callers need no gRPC header.
 */
int ctl_status_from_errno(int error);
/* The other way round. UNAVAILABLE is -ECONNRESET: the peer cannot be reached at the moment. */
int ctl_status_to_errno(int status);

#endif
