/*
 * lb/probe_attach.c: interfaces, and the four ways of getting a program onto one.
 *
 * Called by lb/probe_kernel.c.
 *
 * Invariants:
 * 1. A filter of tc has handle and priority derived from port and address: a successor replaces the
 *    filter of a server that was killed, and servers of other ports or addresses stand beside it.
 * 2. Only a program that was put there by this attachment is taken off.
 * 3. The clsact qdisc is never removed: others may have put filters there.
 */
#include "lb/probe_attach.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault_point.h"
#include "base/log.h"

/* enum bpf_attach_type's BPF_TCX_INGRESS, which the headers of Linux 6.1 do not know yet. */
#define PROBE_TCX_INGRESS ((enum bpf_attach_type)46)
#define PROBE_TC_HANDLE 0x464d0000u /* "FM", and the port below it */

const char *probe_hook_name(enum probe_hook hook)
{
	static const char *const names[] = {
		[PROBE_HOOK_TCX] = "tcx",
		[PROBE_HOOK_TC] = "clsact",
		[PROBE_HOOK_XDP] = "xdp",
		[PROBE_HOOK_XDP_GENERIC] = "xdp-generic",
	};

	return names[hook];
}

/* Fills interface by its name. 0; -ENODEV; -ENETDOWN; -EPROTONOSUPPORT: no Ethernet; -errno. */
static int interface_look(
	int fd, const char *name, size_t length, struct probe_interface *interface)
{
	struct ifreq request = {0};

	if (length == 0 || length >= sizeof(request.ifr_name))
		return -ENODEV;
	memcpy(request.ifr_name, name, length);
	memset(interface, 0, sizeof(*interface));
	memcpy(interface->name, name, length);
	if (ioctl(fd, SIOCGIFINDEX, &request) != 0)
		return -errno;
	interface->index = (unsigned)request.ifr_ifindex;
	if (ioctl(fd, SIOCGIFFLAGS, &request) != 0)
		return -errno;
	if ((request.ifr_flags & IFF_UP) == 0)
		return -ENETDOWN;
	if (ioctl(fd, SIOCGIFHWADDR, &request) != 0)
		return -errno;
	if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER &&
		request.ifr_hwaddr.sa_family != ARPHRD_LOOPBACK)
		return -EPROTONOSUPPORT;
	memcpy(&interface->mac, request.ifr_hwaddr.sa_data, 6);
	return 0;
}

static int interfaces_named(
	int fd, const char *names, struct probe_interface *list, unsigned *count)
{
	int error;

	for (const char *at = names;; at++) {
		size_t length = strcspn(at, ",");

		if (*count == PROBE_INTERFACES_MAX) {
			log_error(
				"probe: interfaces=%s: more than %u", names, PROBE_INTERFACES_MAX);
			return -EINVAL;
		}
		error = interface_look(fd, at, length, &list[*count]);
		if (error != 0) {
			log_error("probe: interfaces=%s: \"%.*s\": %s", names,
				(int)FM_MIN(length, 64u), at,
				error == -EPROTONOSUPPORT ? "is no Ethernet" : strerror(-error));
			return -EINVAL;
		}
		(*count)++;
		at += length;
		if (*at == '\0')
			return 0;
	}
}

static int interfaces_all(int fd, struct probe_interface *list, unsigned *count)
{
	struct if_nameindex *all = if_nameindex();

	if (all == NULL)
		return -errno;
	for (struct if_nameindex *at = all; at->if_index != 0; at++) {
		if (*count == PROBE_INTERFACES_MAX) {
			log_warn("probe: more than %u interfaces: the others' questions are "
				 "answered by user space",
				PROBE_INTERFACES_MAX);
			break;
		}
		if (interface_look(fd, at->if_name, strlen(at->if_name), &list[*count]) == 0)
			(*count)++;
	}
	if_freenameindex(all);
	return *count > 0 ? 0 : -ENODEV;
}

int probe_interfaces(
	const char *names, struct probe_interface list[PROBE_INTERFACES_MAX], unsigned *count)
{
	int error, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	*count = 0;
	error = names != NULL ? interfaces_named(fd, names, list, count)
			      : interfaces_all(fd, list, count);
	close(fd);
	return error;
}

static int attach_link(struct probe_attachment *attachment, int program_fd)
{
	enum bpf_attach_type type =
		attachment->hook == PROBE_HOOK_TCX ? PROBE_TCX_INGRESS : BPF_XDP;
	LIBBPF_OPTS(bpf_link_create_opts, options);

	if (attachment->hook == PROBE_HOOK_TCX && FAULT_POINT("probe.tcx"))
		return -EINVAL; /* as before Linux 6.6 */
	if (attachment->hook == PROBE_HOOK_XDP)
		options.flags = XDP_FLAGS_DRV_MODE;
	else if (attachment->hook == PROBE_HOOK_XDP_GENERIC)
		options.flags = XDP_FLAGS_SKB_MODE;
	attachment->link_fd =
		bpf_link_create(program_fd, (int)attachment->interface_index, type, &options);
	return attachment->link_fd < 0 ? attachment->link_fd : 0;
}

static struct bpf_tc_hook filter_hook(const struct probe_attachment *attachment)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)attachment->interface_index,
		.attach_point = BPF_TC_INGRESS);

	return hook;
}

/* Of all addresses: readable. Of one: 32 bits that are as good as its own (FNV-1a). */
static uint32_t filter_handle(const struct probe_place *place)
{
	uint32_t hash = 2166136261u;

	if (!place->bound)
		return PROBE_TC_HANDLE | place->port;
	for (unsigned i = 0; i < sizeof(place->address); i++)
		hash = (hash ^ place->address[i]) * 16777619u;
	return hash != 0 ? hash : 1; /* 0: the kernel would choose */
}

static struct bpf_tc_opts filter_place(const struct probe_attachment *attachment)
{
	LIBBPF_OPTS(bpf_tc_opts, place, .handle = filter_handle(&attachment->place),
		.priority = attachment->place.port);

	return place;
}

static int attach_filter(struct probe_attachment *attachment, int program_fd)
{
	struct bpf_tc_hook hook = filter_hook(attachment);
	struct bpf_tc_opts place = filter_place(attachment);
	int error = bpf_tc_hook_create(&hook);

	if (error != 0 && error != -EEXIST)
		return error;
	place.prog_fd = program_fd;
	place.flags = BPF_TC_F_REPLACE;
	error = bpf_tc_attach(&hook, &place);
	if (error == 0)
		attachment->program_id = place.prog_id;
	return error;
}

/* program_id 0: whoever's it is. */
static void detach_filter(const struct probe_attachment *attachment, uint32_t program_id)
{
	struct bpf_tc_hook hook = filter_hook(attachment);
	struct bpf_tc_opts place = filter_place(attachment);

	if (bpf_tc_query(&hook, &place) != 0 || (program_id != 0 && place.prog_id != program_id))
		return;
	place = filter_place(attachment);
	(void)bpf_tc_detach(&hook, &place); /* gone meanwhile: fine */
}

int probe_attach(struct probe_attachment *attachment, int program_fd,
	const struct probe_interface *interface, const struct probe_place *place)
{
	int error;

	attachment->interface_index = interface->index;
	attachment->place = *place;
	attachment->link_fd = -1;
	attachment->program_id = 0;
	if (FAULT_POINT("probe.attach"))
		return -EBUSY;
	if (attachment->hook == PROBE_HOOK_TC)
		return attach_filter(attachment, program_fd);
	error = attach_link(attachment, program_fd);
	if (error == 0 && attachment->hook == PROBE_HOOK_TCX)
		detach_filter(attachment, 0);
	return error;
}

void probe_detach(struct probe_attachment *attachment)
{
	if (attachment->hook == PROBE_HOOK_TC)
		detach_filter(attachment, attachment->program_id);
	else if (attachment->link_fd >= 0)
		close(attachment->link_fd);
	attachment->link_fd = -1;
}
