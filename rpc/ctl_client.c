/*
 * rpc/ctl_client.c: see ctl_client.h. Callers: the agent, the command line, tests.
 *
 * A call is one struct from begin to end. Blocking ones have a completion queue of their own
 * (pluck) on the caller's thread; background ones share the queue's, reaped by the queue's one
 * thread, which appends them to a list and rings an eventfd.
 *
 * Invariants
 *   1. Everything of a call goes into one batch, so it has exactly one completion, at its deadline
 *      at the latest.
 *   2. `done` runs only inside ctl_queue_dispatch: never on a thread of ours.
 * Lock: queue->lock guards finished; taken with nothing else held.
 */
#include "rpc/ctl_client.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/time.h>

#include "base/assert.h"
#include "rpc/ctl_orca.h"

#define RECONNECT_MIN_MS 100
#define RECONNECT_MAX_MS 1000

struct ctl_client {
	grpc_channel *channel;
};

struct call {
	grpc_call *call;
	grpc_byte_buffer *request;
	grpc_byte_buffer *reply;
	grpc_metadata_array initial, trailing;
	grpc_status_code status;
	grpc_slice details;
	/* background calls only */
	ctl_done done;
	void *context;
	struct call *next;
};

struct ctl_queue {
	grpc_completion_queue *grpc;
	int fd;
	pthread_t thread;
	pthread_mutex_t lock;
	struct call *finished;
	struct call **finished_tail;
};

static grpc_channel *client_channel(const char *address)
{
	grpc_arg list[] = {
		/* An http_proxy variable would apply even to 127.0.0.1. */
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_ENABLE_HTTP_PROXY,
			.value.integer = 0},
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS,
			.value.integer = RECONNECT_MIN_MS},
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_MAX_RECONNECT_BACKOFF_MS,
			.value.integer = RECONNECT_MAX_MS},
		/* One connection per client: what one sees of a node says nothing about another's.
		 */
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL,
			.value.integer = 1},
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
			.value.integer = (int)CTL_MESSAGE_BYTES_MAX},
	};
	grpc_channel_args args = {FM_ARRAY_COUNT(list), list};
	grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
	grpc_channel *channel = grpc_channel_create(address, credentials, &args);
	grpc_channel_credentials_release(credentials);
	return channel;
}

int ctl_client_open(const char *address, struct ctl_client **out)
{
	*out = NULL;
	if (address[0] == '\0')
		return -EINVAL;
	struct ctl_client *client = calloc(1, sizeof *client);
	if (client == NULL)
		return -ENOMEM;
	ctl_library_acquire();
	client->channel = client_channel(address);
	if (client->channel == NULL) {
		ctl_library_release();
		free(client);
		return -ENOMEM;
	}
	*out = client;
	return 0;
}

void ctl_client_close(struct ctl_client *client)
{
	if (client == NULL)
		return;
	grpc_channel_destroy(client->channel);
	ctl_library_release();
	free(client);
}

static gpr_timespec call_deadline(uint64_t timeout_ns)
{
	int64_t timeout = timeout_ns < (uint64_t)INT64_MAX ? (int64_t)timeout_ns : INT64_MAX;
	return gpr_time_add(
		gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_nanos(timeout, GPR_TIMESPAN));
}

static void call_free(struct call *call)
{
	if (call->reply != NULL)
		grpc_byte_buffer_destroy(call->reply);
	grpc_byte_buffer_destroy(call->request);
	grpc_metadata_array_destroy(&call->initial);
	grpc_metadata_array_destroy(&call->trailing);
	grpc_slice_unref(call->details);
	if (call->call != NULL)
		grpc_call_unref(call->call);
	free(call);
}

static struct call *call_make(
	struct ctl_client *client, grpc_completion_queue *queue, const struct ctl_request *request)
{
	struct call *call = calloc(1, sizeof *call);
	if (call == NULL)
		return NULL;
	grpc_slice body = grpc_slice_from_copied_buffer(request->bytes, request->length);
	call->request = grpc_raw_byte_buffer_create(&body, 1);
	grpc_slice_unref(body);
	grpc_metadata_array_init(&call->initial);
	grpc_metadata_array_init(&call->trailing);
	call->details = grpc_empty_slice();
	grpc_slice method = grpc_slice_from_copied_string(request->method);
	call->call = grpc_channel_create_call(client->channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
		method, NULL, call_deadline(request->timeout_ns), NULL);
	grpc_slice_unref(method);
	return call;
}

/* 0 or -ENOMEM; then the call has no completion. */
static int call_begin(struct call *call)
{
	grpc_op ops[6];
	memset(ops, 0, sizeof ops);
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[1].op = GRPC_OP_SEND_MESSAGE;
	ops[1].data.send_message.send_message = call->request;
	ops[2].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	ops[3].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[3].data.recv_initial_metadata.recv_initial_metadata = &call->initial;
	ops[4].op = GRPC_OP_RECV_MESSAGE;
	ops[4].data.recv_message.recv_message = &call->reply;
	ops[5].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[5].data.recv_status_on_client.trailing_metadata = &call->trailing;
	ops[5].data.recv_status_on_client.status = &call->status;
	ops[5].data.recv_status_on_client.status_details = &call->details;
	return grpc_call_start_batch(call->call, ops, FM_ARRAY_COUNT(ops), call, NULL) ==
			       GRPC_CALL_OK
		       ? 0
		       : -ENOMEM;
}

/* Copies the answer out of gRPC's slices. */
static int result_take_reply(struct ctl_result *result, grpc_byte_buffer *reply)
{
	grpc_byte_buffer_reader reader;
	if (reply == NULL || !grpc_byte_buffer_reader_init(&reader, reply))
		return -EPROTO;
	grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
	grpc_byte_buffer_reader_destroy(&reader);
	size_t length = GRPC_SLICE_LENGTH(all);
	result->bytes = malloc(length != 0 ? length : 1);
	if (result->bytes != NULL) {
		memcpy(result->bytes, GRPC_SLICE_START_PTR(all), length);
		result->length = length;
	}
	grpc_slice_unref(all);
	return result->bytes != NULL ? 0 : -ENOMEM;
}

/* gRPC has one status for all that keeps it from reaching a peer; only its text says that the
 * peer's kernel refused: nobody serves there. (ctl_test checks the library for it.) */
static bool details_say_refused(grpc_slice details)
{
	static const char *const words[] = {"Connection refused", "No such file or directory"};
	for (unsigned i = 0; i < FM_ARRAY_COUNT(words); i++)
		if (memmem(GRPC_SLICE_START_PTR(details), GRPC_SLICE_LENGTH(details), words[i],
			    strlen(words[i])) != NULL)
			return true;
	return false;
}

/* Of several such trailers the first one that can be read counts. */
static void result_take_load(struct ctl_result *result, const grpc_metadata_array *trailing)
{
	for (size_t i = 0; i < trailing->count && !result->has_load; i++) {
		const grpc_metadata *entry = &trailing->metadata[i];
		if (grpc_slice_str_cmp(entry->key, ORCA_TRAILER_OURS) == 0)
			result->has_load = orca_decode(GRPC_SLICE_START_PTR(entry->value),
				GRPC_SLICE_LENGTH(entry->value), &result->load);
	}
}

static void call_result(const struct call *call, struct ctl_result *result)
{
	memset(result, 0, sizeof *result);
	result_take_load(result, &call->trailing);
	result->status = ctl_status_to_errno((int)call->status);
	if (call->status == GRPC_STATUS_UNAVAILABLE && details_say_refused(call->details))
		result->status = -ECONNREFUSED;
	size_t length = FM_MIN(GRPC_SLICE_LENGTH(call->details), sizeof result->text - 1);
	memcpy(result->text, GRPC_SLICE_START_PTR(call->details), length);
	for (size_t i = 0; i < length; i++) /* it may reach a terminal */
		if ((unsigned char)result->text[i] < 0x20 || result->text[i] == 0x7f)
			result->text[i] = ' ';
	if (result->status == 0)
		result->status = result_take_reply(result, call->reply);
}

void ctl_result_clear(struct ctl_result *result)
{
	free(result->bytes);
	result->bytes = NULL;
	result->length = 0;
}

int ctl_client_call(
	struct ctl_client *client, const struct ctl_request *request, struct ctl_result *result)
{
	memset(result, 0, sizeof *result);
	grpc_completion_queue *queue = grpc_completion_queue_create_for_pluck(NULL);
	struct call *call = call_make(client, queue, request);
	result->status = call != NULL ? call_begin(call) : -ENOMEM;
	if (result->status == 0) {
		grpc_completion_queue_pluck(queue, call, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		call_result(call, result);
	}
	if (call != NULL)
		call_free(call);
	grpc_completion_queue_shutdown(queue);
	grpc_completion_queue_destroy(queue);
	return result->status;
}

static void *queue_thread(void *argument)
{
	struct ctl_queue *queue = argument;
	for (;;) {
		grpc_event event = grpc_completion_queue_next(
			queue->grpc, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		struct call *call = event.tag;
		pthread_mutex_lock(&queue->lock);
		*queue->finished_tail = call;
		queue->finished_tail = &call->next;
		pthread_mutex_unlock(&queue->lock);
		eventfd_write(queue->fd, 1);
	}
}

int ctl_queue_open(struct ctl_queue **out)
{
	*out = NULL;
	struct ctl_queue *queue = calloc(1, sizeof *queue);
	if (queue == NULL)
		return -ENOMEM;
	queue->finished_tail = &queue->finished;
	int error = 0;
	queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (queue->fd < 0) {
		error = -errno;
		goto free_queue;
	}
	ctl_library_acquire();
	queue->grpc = grpc_completion_queue_create_for_next(NULL);
	pthread_mutex_init(&queue->lock, NULL);
	error = -pthread_create(&queue->thread, NULL, queue_thread, queue);
	if (error != 0)
		goto close_grpc;
	*out = queue;
	return 0;
close_grpc:
	grpc_completion_queue_shutdown(queue->grpc);
	queue_thread(queue); /* drains what is not there */
	grpc_completion_queue_destroy(queue->grpc);
	ctl_library_release();
	pthread_mutex_destroy(&queue->lock);
	close(queue->fd);
free_queue:
	free(queue);
	return error;
}

/* Takes the whole list of finished calls. */
static struct call *queue_take(struct ctl_queue *queue)
{
	eventfd_t rung;
	if (eventfd_read(queue->fd, &rung) != 0)
		return NULL;
	pthread_mutex_lock(&queue->lock);
	struct call *calls = queue->finished;
	queue->finished = NULL;
	queue->finished_tail = &queue->finished;
	pthread_mutex_unlock(&queue->lock);
	return calls;
}

unsigned ctl_queue_dispatch(struct ctl_queue *queue)
{
	unsigned count = 0;
	struct call *call = queue_take(queue);
	while (call != NULL) {
		struct call *next = call->next;
		struct ctl_result result;
		call_result(call, &result);
		call->done(call->context, &result);
		ctl_result_clear(&result);
		call_free(call);
		call = next;
		count++;
	}
	return count;
}

void ctl_queue_close(struct ctl_queue *queue)
{
	if (queue == NULL)
		return;
	grpc_completion_queue_shutdown(queue->grpc);
	pthread_join(queue->thread, NULL);
	for (struct call *call = queue->finished; call != NULL;) {
		struct call *next = call->next;
		call_free(call);
		call = next;
	}
	grpc_completion_queue_destroy(queue->grpc);
	ctl_library_release();
	pthread_mutex_destroy(&queue->lock);
	close(queue->fd);
	free(queue);
}

int ctl_queue_fd(const struct ctl_queue *queue)
{
	return queue->fd;
}

int ctl_client_start(struct ctl_client *client, struct ctl_queue *queue,
	const struct ctl_request *request, ctl_done done, void *context)
{
	struct call *call = call_make(client, queue->grpc, request);
	if (call == NULL)
		return -ENOMEM;
	call->done = done;
	call->context = context;
	int error = call_begin(call);
	if (error != 0)
		call_free(call);
	return error;
}
