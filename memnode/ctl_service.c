/*
 * memnode/ctl_service.c: see ctl_service.h. Callers: main.c, tests, the fuzzer.
 *
 * Each handler: unpack, check everything, act on the lease table, pack the answer.
 *
 * Invariants
 *   1. Nothing of a request is used before its length and range were checked (ctl_service_fuzz.c).
 *   2. A key leaves this file only in the answers to Reserve and Fence; no text and no log line
 *      has one.
 *   3. A lease whose answer could not be packed is released again: nobody would know of it.
 */
#include "memnode/ctl_service.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/fault_point.h"
#include "base/log.h"
#include "health.pb-c.h"
#include "memnode.pb-c.h"
#include "memnode/ctl_merge.h"
#include "memnode/ctl_offload.h"

void ctl_service_open(struct ctl_service *service, const struct ctl_service_options *options)
{
	memset(service, 0, sizeof *service);
	service->options = *options;
	service->started_ns = clock_now_ns();
}

void ctl_service_drain(struct ctl_service *service)
{
	atomic_store(&service->draining, true);
}

bool ctl_service_is_empty(struct ctl_service *service)
{
	/* A Reserve counts itself before it looks at `draining` (seq_cst, both): it is seen here,
	 * or refuses. Its bytes are leased before it stops counting itself. */
	struct lease_usage usage;
	if (atomic_load(&service->reserves_running) != 0)
		return false;
	lease_table_usage(service->options.table, &usage);
	return usage.leased_bytes == 0;
}

void ctl_service_stop(struct ctl_service *service)
{
	ctl_service_drain(service);
	offload_stop(service->options.offload);
}

static int malformed(struct ctl_reply *reply)
{
	return ctl_reply_error(reply, -EINVAL, "the message is malformed");
}

static int denied(struct ctl_reply *reply)
{
	return ctl_reply_error(reply, -EACCES,
		"not a capability of this node (revoked, fenced off, or from before a restart)");
}

static void service_load(struct ctl_service *service, Farmem__V1__Load *load)
{
	struct lease_usage usage;
	lease_table_usage(service->options.table, &usage);
	farmem__v1__load__init(load);
	load->memory_bytes = usage.memory_bytes;
	load->leased_bytes = usage.leased_bytes;
	load->free_bytes = usage.memory_bytes > usage.leased_bytes
				   ? usage.memory_bytes - usage.leased_bytes
				   : 0;
	load->leases = usage.leased_count;
	load->orphaned = usage.orphaned_count;
	load->calls_in_flight =
		atomic_load_explicit(&service->calls_running, memory_order_relaxed) +
		atomic_load_explicit(&service->reserves_running, memory_order_relaxed);
	load->draining = atomic_load(&service->draining);
	struct offload_load offload;
	offload_load(service->options.offload, &offload);
	load->rebuilds = offload.rebuilds;
	load->merges = offload.merges;
	load->merge_sent_bytes = offload.merge_sent_bytes;
}

/* ---- Reserve ---- */

static int reserve_answer(struct ctl_service *service, const struct fabric_capability *capability,
	struct ctl_reply *reply)
{
	Farmem__V1__Capability message;
	Farmem__V1__ReserveReply answer = FARMEM__V1__RESERVE_REPLY__INIT;
	ctl_capability_to_message(capability, &message);
	answer.capability = &message;
	int error = FAULT_POINT("memnode.reserve.answer") ? -ENOMEM
							  : ctl_reply_message(reply, &answer.base);
	if (error != 0 && lease_release(service->options.table, capability) != 0)
		log_error("memnode: reserve lease=%llu event=lost-answer",
			(unsigned long long)capability->lease);
	return error;
}

static int reserve_checked(struct ctl_service *service, const Farmem__V1__ReserveRequest *request,
	struct ctl_reply *reply)
{
	if (request->client.len != CTL_CLIENT_BYTES)
		return ctl_reply_error(
			reply, -EINVAL, "client must have %d bytes", CTL_CLIENT_BYTES);
	if (request->bytes == 0 || request->bytes % FM_PAGE_SIZE != 0 ||
		request->bytes > REGION_BYTES_MAX)
		return ctl_reply_error(
			reply, -EINVAL, "bytes must be a multiple of 4096, at most 4 GiB");
	struct fabric_capability capability;
	int error = FAULT_POINT("memnode.reserve")
			    ? -ENOMEM
			    : lease_reserve(service->options.table, request->client.data,
				      request->bytes, &capability);
	if (error != 0)
		return ctl_reply_error(reply, error,
			"no memory: the node's, the client's quota, or the machine's");
	return reserve_answer(service, &capability, reply);
}

static int handle_reserve(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	struct ctl_service *service = context;
	Farmem__V1__ReserveRequest *request =
		farmem__v1__reserve_request__unpack(NULL, length, bytes);
	if (request == NULL)
		return malformed(reply);
	int error;
	/* counted first: see ctl_service_is_empty */
	if (atomic_fetch_add(&service->reserves_running, 1) >= service->options.reserves_max)
		error = ctl_reply_error(reply, -EAGAIN, "busy with other reservations");
	else if (atomic_load(&service->draining))
		error = ctl_reply_error(reply, -EAGAIN, "draining: this node is about to leave");
	else
		error = reserve_checked(service, request, reply);
	atomic_fetch_sub(&service->reserves_running, 1);
	farmem__v1__reserve_request__free_unpacked(request, NULL);
	return error;
}

/* ---- Release and Keepalive: a list of leases, a status for each ---- */

struct lease_list {
	size_t count;
	struct fabric_capability capabilities[CTL_LEASES_MAX];
	Farmem__V1__LeaseStatus statuses[CTL_LEASES_MAX];
};

/* All or nothing: one wrong capability and nothing of the request is done. */
static int lease_list_check(struct lease_list *list, Farmem__V1__Capability *const *messages,
	size_t count, struct ctl_reply *reply)
{
	if (count > CTL_LEASES_MAX)
		return ctl_reply_error(reply, -EINVAL, "at most %d leases at once", CTL_LEASES_MAX);
	list->count = count;
	for (size_t i = 0; i < count; i++)
		if (ctl_capability_from_message(messages[i], &list->capabilities[i]) != 0)
			return ctl_reply_error(reply, -EINVAL, "a capability is malformed");
	return 0;
}

static void lease_list_apply(struct lease_list *list, struct lease_table *table,
	int (*act)(struct lease_table *, const struct fabric_capability *))
{
	for (size_t i = 0; i < list->count; i++)
		list->statuses[i] = act(table, &list->capabilities[i]) == 0
					    ? FARMEM__V1__LEASE_STATUS__LEASE_STATUS_HELD
					    : FARMEM__V1__LEASE_STATUS__LEASE_STATUS_LOST;
}

static int handle_release(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	struct ctl_service *service = context;
	Farmem__V1__ReleaseRequest *request =
		farmem__v1__release_request__unpack(NULL, length, bytes);
	if (request == NULL)
		return malformed(reply);
	struct lease_list list;
	int error = lease_list_check(&list, request->capabilities, request->n_capabilities, reply);
	if (error == 0 && list.count == 0)
		error = ctl_reply_error(reply, -EINVAL, "no lease is named");
	if (error == 0) {
		Farmem__V1__ReleaseReply answer = FARMEM__V1__RELEASE_REPLY__INIT;
		lease_list_apply(&list, service->options.table, lease_release);
		for (size_t i = 0; i < list.count; i++)
			merge_table_forget(offload_merges(service->options.offload),
				list.capabilities[i].lease);
		answer.n_statuses = list.count;
		answer.statuses = list.statuses;
		error = ctl_reply_message(reply, &answer.base);
	}
	farmem__v1__release_request__free_unpacked(request, NULL);
	return error;
}

static int handle_keepalive(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	struct ctl_service *service = context;
	Farmem__V1__KeepaliveRequest *request =
		farmem__v1__keepalive_request__unpack(NULL, length, bytes);
	if (request == NULL)
		return malformed(reply);
	struct lease_list list;
	atomic_fetch_add_explicit(&service->calls_running, 1, memory_order_relaxed);
	int error = lease_list_check(&list, request->capabilities, request->n_capabilities, reply);
	if (error == 0) {
		Farmem__V1__Load load;
		Farmem__V1__KeepaliveReply answer = FARMEM__V1__KEEPALIVE_REPLY__INIT;
		lease_list_apply(&list, service->options.table, lease_keepalive);
		service_load(service, &load);
		answer.incarnation = lease_table_incarnation(service->options.table);
		answer.load = &load;
		answer.n_statuses = list.count;
		answer.statuses = list.statuses;
		error = ctl_reply_message(reply, &answer.base);
	}
	atomic_fetch_sub_explicit(&service->calls_running, 1, memory_order_relaxed);
	farmem__v1__keepalive_request__free_unpacked(request, NULL);
	return error;
}

/* ---- Fence ---- */

static int fence_checked(struct ctl_service *service, const Farmem__V1__FenceRequest *request,
	struct ctl_reply *reply)
{
	struct fabric_capability capability, renewed;
	if (ctl_capability_from_message(request->capability, &capability) != 0)
		return ctl_reply_error(reply, -EINVAL, "the capability is malformed");
	int error = FAULT_POINT("memnode.fence")
			    ? -EIO
			    : lease_fence(service->options.table, &capability, &renewed);
	if (error == -EACCES)
		return denied(reply);
	if (error != 0)
		return ctl_reply_error(reply, error, "the fence failed");
	merge_table_forget(offload_merges(service->options.offload), capability.lease);
	Farmem__V1__Capability message;
	Farmem__V1__FenceReply answer = FARMEM__V1__FENCE_REPLY__INIT;
	ctl_capability_to_message(&renewed, &message);
	answer.capability = &message;
	if (FAULT_POINT("memnode.fence.answer"))
		return ctl_reply_error(reply, -EIO, "the answer was lost");
	return ctl_reply_message(reply, &answer.base);
}

static int handle_fence(void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	Farmem__V1__FenceRequest *request = farmem__v1__fence_request__unpack(NULL, length, bytes);
	if (request == NULL)
		return malformed(reply);
	int error = fence_checked(context, request, reply);
	farmem__v1__fence_request__free_unpacked(request, NULL);
	return error;
}

/* ---- Stats and health ---- */

static int handle_stats(void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	struct ctl_service *service = context;
	const struct ctl_service_options *options = &service->options;
	Farmem__V1__StatsRequest *request = farmem__v1__stats_request__unpack(NULL, length, bytes);
	if (request == NULL)
		return malformed(reply);
	farmem__v1__stats_request__free_unpacked(request, NULL);
	struct lease_usage usage;
	Farmem__V1__Load load;
	Farmem__V1__StatsReply answer = FARMEM__V1__STATS_REPLY__INIT;
	char version[] = FM_VERSION;
	lease_table_usage(options->table, &usage);
	service_load(service, &load);
	answer.name = (char *)(uintptr_t)options->name;
	answer.host = (char *)(uintptr_t)options->host;
	answer.incarnation = lease_table_incarnation(options->table);
	answer.load = &load;
	answer.data_port = options->data_port;
	answer.data_path = (char *)(uintptr_t)options->data_path;
	answer.huge_pages = usage.huge_pages;
	if (options->verbs) {
		struct data_verbs_stats verbs;
		data_verbs_stats(options->verbs, &verbs);
		answer.data_verbs = (char *)(uintptr_t)data_verbs_address(options->verbs);
		answer.queue_pairs = verbs.queue_pairs_count;
		answer.rdma_regions = verbs.regions_count;
	}
	answer.version = version;
	answer.uptime_ns = clock_now_ns() - service->started_ns;
	return ctl_reply_message(reply, &answer.base);
}

static int handle_health(
	void *context, const uint8_t *bytes, size_t length, struct ctl_reply *reply)
{
	struct ctl_service *service = context;
	Grpc__Health__V1__HealthCheckRequest *request =
		grpc__health__v1__health_check_request__unpack(NULL, length, bytes);
	if (request == NULL)
		return malformed(reply);
	bool known = request->service[0] == '\0' || strcmp(request->service, CTL_SERVICE_NAME) == 0;
	grpc__health__v1__health_check_request__free_unpacked(request, NULL);
	if (!known)
		return ctl_reply_error(reply, -ENOENT, "no such service here");
	Grpc__Health__V1__HealthCheckResponse answer =
		GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
	answer.status =
		atomic_load(&service->draining)
			? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
			: GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
	return ctl_reply_message(reply, &answer.base);
}

const struct ctl_method *ctl_service_methods(unsigned *count)
{
	static const struct ctl_method methods[] = {
		{CTL_METHOD_RESERVE, handle_reserve},
		{CTL_METHOD_RELEASE, handle_release},
		{CTL_METHOD_KEEPALIVE, handle_keepalive},
		{CTL_METHOD_FENCE, handle_fence},
		{CTL_METHOD_STATS, handle_stats},
		{CTL_METHOD_REBUILD, ctl_offload_rebuild},
		{CTL_METHOD_CHECKSUM, ctl_offload_checksum},
		{CTL_METHOD_HEALTH, handle_health},
		{CTL_METHOD_MERGE_BEGIN, ctl_handle_merge_begin},
		{CTL_METHOD_MERGE_SEND, ctl_handle_merge_send},
		{CTL_METHOD_MERGE_PARTIAL, ctl_handle_merge_partial},
		{CTL_METHOD_MERGE_PREPARE, ctl_handle_merge_prepare},
		{CTL_METHOD_MERGE_END, ctl_handle_merge_end},
	};
	*count = FM_ARRAY_COUNT(methods);
	return methods;
}
