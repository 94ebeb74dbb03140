/*
 * rpc/ctl_server.c: see ctl_server.h. Callers: memnode/main.c, tests.
 *
 * One completion queue, N threads taking events from it, CTL_CALLS_MAX call slots allocated at
 * open. A slot goes round this circle for ever; each arrow is one event:
 *
 *     ARMED --call came--> RECEIVING --message came, handler run--> ANSWERING --sent--> ARMED
 *                \--unknown method-------------------------------/
 *
 * Invariants
 *   1. A slot has exactly one operation outstanding in gRPC, so one thread at a time works on it.
 *   2. Calls are always asked for generically (grpc_server_request_call), so that unknown methods
 *      reach us and get their UNIMPLEMENTED instead of hanging.
 *   3. The queue is shut down only after every slot has retired and the server has said it is
 *      done: nothing is started on a queue that is shutting down.
 * Lock: server->lock guards slots_live and stopped_notified; taken with nothing else held.
 */
#include "rpc/ctl_server.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include "base/assert.h"
#include "base/log.h"

enum slot_step { SLOT_ARMED, SLOT_RECEIVING, SLOT_ANSWERING };

struct slot {
	struct ctl_server *server;
	enum slot_step step;
	const struct ctl_method *method;
	grpc_call *call;
	grpc_call_details details;
	grpc_metadata_array metadata;
	grpc_byte_buffer *request;
	grpc_byte_buffer *reply;
	grpc_metadata trailers[2];
	bool has_trailers;
	int cancelled;
};

struct ctl_server {
	struct ctl_server_options options;
	grpc_server *grpc;
	grpc_completion_queue *queue;
	pthread_t threads[CTL_THREADS_MAX];
	unsigned threads_count;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	unsigned slots_live;   /* armed or further */
	bool stopped_notified; /* gRPC has delivered the end of the server */
	struct slot slots[CTL_CALLS_MAX];
};

uint8_t *ctl_reply_space(struct ctl_reply *reply, size_t length)
{
	FM_ASSERT(reply->bytes == NULL);
	reply->bytes = malloc(length != 0 ? length : 1);
	reply->length = reply->bytes != NULL ? length : 0;
	return reply->bytes;
}

int ctl_reply_error(struct ctl_reply *reply, int error, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(reply->text, sizeof reply->text, format, arguments);
	va_end(arguments);
	return error;
}

/* The slot takes no more calls: the server is stopping. */
static void slot_retire(struct slot *slot)
{
	struct ctl_server *server = slot->server;
	pthread_mutex_lock(&server->lock);
	server->slots_live--;
	pthread_cond_signal(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

static void slot_arm(struct slot *slot)
{
	struct ctl_server *server = slot->server;
	slot->step = SLOT_ARMED;
	slot->method = NULL;
	slot->call = NULL;
	slot->request = NULL;
	slot->reply = NULL;
	slot->has_trailers = false;
	grpc_call_details_init(&slot->details);
	grpc_metadata_array_init(&slot->metadata);
	grpc_call_error error = grpc_server_request_call(server->grpc, &slot->call, &slot->details,
		&slot->metadata, server->queue, server->queue, slot);
	if (error != GRPC_CALL_OK) {
		log_error("ctl: arm error=%s", grpc_call_error_to_string(error));
		slot_retire(slot);
	}
}

static void slot_clear(struct slot *slot)
{
	if (slot->request != NULL)
		grpc_byte_buffer_destroy(slot->request);
	if (slot->reply != NULL)
		grpc_byte_buffer_destroy(slot->reply);
	if (slot->has_trailers)
		for (unsigned i = 0; i < FM_ARRAY_COUNT(slot->trailers); i++)
			grpc_slice_unref(slot->trailers[i].value);
	grpc_call_details_destroy(&slot->details);
	grpc_metadata_array_destroy(&slot->metadata);
	if (slot->call != NULL)
		grpc_call_unref(slot->call);
}

static void slot_rearm(struct slot *slot)
{
	slot_clear(slot);
	slot_arm(slot);
}

/* Starts a batch; a slot whose batch cannot start drops its call. */
static void slot_start(struct slot *slot, enum slot_step step, const grpc_op *ops, size_t count)
{
	slot->step = step;
	grpc_call_error error = grpc_call_start_batch(slot->call, ops, count, slot, NULL);
	if (error != GRPC_CALL_OK) {
		log_error("ctl: batch error=%s", grpc_call_error_to_string(error));
		slot_rearm(slot);
	}
}

/* The server's load as trailers of the answer; they live until the batch has ended. */
static void slot_add_load(struct slot *slot, grpc_op *status)
{
	static const char *const keys[] = {ORCA_TRAILER, ORCA_TRAILER_OURS};
	const struct ctl_server_options *options = &slot->server->options;
	struct orca_report report = {0};
	uint8_t bytes[ORCA_BYTES_MAX];
	size_t length;
	if (options->load == NULL || !options->load(options->context, &report))
		return;
	length = orca_encode(&report, bytes);
	memset(slot->trailers, 0, sizeof slot->trailers);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(keys); i++) {
		slot->trailers[i].key = grpc_slice_from_static_string(keys[i]);
		slot->trailers[i].value =
			grpc_slice_from_copied_buffer((const char *)bytes, length);
	}
	slot->has_trailers = true;
	status->data.send_status_from_server.trailing_metadata_count = FM_ARRAY_COUNT(keys);
	status->data.send_status_from_server.trailing_metadata = slot->trailers;
}

static void slot_answer(struct slot *slot, int error, const struct ctl_reply *reply)
{
	grpc_slice text = grpc_slice_from_copied_string(error != 0 ? reply->text : "");
	grpc_op ops[4];
	size_t count = 0;
	memset(ops, 0, sizeof ops);
	ops[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
	if (error == 0) {
		grpc_slice body =
			grpc_slice_from_copied_buffer((const char *)reply->bytes, reply->length);
		slot->reply = grpc_raw_byte_buffer_create(&body, 1);
		grpc_slice_unref(body);
		ops[count].op = GRPC_OP_SEND_MESSAGE;
		ops[count++].data.send_message.send_message = slot->reply;
	}
	ops[count].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
	slot_add_load(slot, &ops[count]);
	ops[count].data.send_status_from_server.status =
		(grpc_status_code)ctl_status_from_errno(error);
	ops[count++].data.send_status_from_server.status_details = &text;
	ops[count].op = GRPC_OP_RECV_CLOSE_ON_SERVER;
	ops[count++].data.recv_close_on_server.cancelled = &slot->cancelled;
	slot_start(slot, SLOT_ANSWERING, ops, count);
	grpc_slice_unref(text);
}

static const struct ctl_method *slot_find_method(const struct slot *slot)
{
	const struct ctl_server_options *options = &slot->server->options;
	for (unsigned i = 0; i < options->methods_count; i++)
		if (grpc_slice_str_cmp(slot->details.method, options->methods[i].name) == 0)
			return &options->methods[i];
	return NULL;
}

static void slot_accepted(struct slot *slot)
{
	slot->method = slot_find_method(slot);
	if (slot->method == NULL) {
		struct ctl_reply reply = {.text = "no such method"};
		slot_answer(slot, -ENOSYS, &reply);
		return;
	}
	grpc_op op;
	memset(&op, 0, sizeof op);
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &slot->request;
	slot_start(slot, SLOT_RECEIVING, &op, 1);
}

static void slot_received(struct slot *slot)
{
	struct ctl_reply reply = {0};
	int error;
	grpc_byte_buffer_reader reader;
	if (slot->request == NULL) {
		error = ctl_reply_error(&reply, -EINVAL, "a request without a message");
	} else if (!grpc_byte_buffer_reader_init(&reader, slot->request)) {
		error = ctl_reply_error(&reply, -EINVAL, "the message cannot be decompressed");
	} else {
		grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
		error = slot->method->handle(slot->server->options.context,
			GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all), &reply);
		grpc_slice_unref(all);
		grpc_byte_buffer_reader_destroy(&reader);
	}
	slot_answer(slot, error, &reply);
	free(reply.bytes);
}

static void slot_event(struct slot *slot, bool success)
{
	switch (slot->step) {
	case SLOT_ARMED:
		if (success) {
			slot_accepted(slot);
		} else {
			slot_clear(slot);
			slot_retire(slot);
		}
		break;
	case SLOT_RECEIVING:
		if (success)
			slot_received(slot);
		else
			slot_rearm(slot);
		break;
	case SLOT_ANSWERING:
		slot_rearm(slot);
		break;
	}
}

static void server_stopped(struct ctl_server *server)
{
	pthread_mutex_lock(&server->lock);
	server->stopped_notified = true;
	pthread_cond_signal(&server->idle);
	pthread_mutex_unlock(&server->lock);
}

static void *server_thread(void *argument)
{
	struct ctl_server *server = argument;
	for (;;) {
		grpc_event event = grpc_completion_queue_next(
			server->queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (event.tag == server)
			server_stopped(server);
		else
			slot_event(event.tag, event.success != 0);
	}
}

static grpc_server *server_create(uint32_t message_bytes_max)
{
	grpc_arg list[] = {
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH,
			.value.integer = (int)message_bytes_max},
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_MAX_CONCURRENT_STREAMS,
			.value.integer = CTL_STREAMS_MAX},
		/* Two daemons on one port must be an error, not a lottery. */
		{.type = GRPC_ARG_INTEGER,
			.key = (char *)(uintptr_t)GRPC_ARG_ALLOW_REUSEPORT,
			.value.integer = 0},
	};
	grpc_channel_args args = {FM_ARRAY_COUNT(list), list};
	return grpc_server_create(&args, NULL);
}

int ctl_server_open(const struct ctl_server_options *options, struct ctl_server **out)
{
	*out = NULL;
	if (options->methods_count == 0 || options->methods_count > CTL_METHODS_MAX ||
		options->threads == 0 || options->threads > CTL_THREADS_MAX ||
		options->message_bytes_max > INT32_MAX)
		return -EINVAL;
	struct ctl_server *server = calloc(1, sizeof *server);
	if (server == NULL)
		return -ENOMEM;
	server->options = *options;
	if (server->options.message_bytes_max == 0)
		server->options.message_bytes_max = CTL_MESSAGE_BYTES_MAX;
	pthread_mutex_init(&server->lock, NULL);
	pthread_cond_init(&server->idle, NULL);
	ctl_library_acquire();
	server->grpc = server_create(server->options.message_bytes_max);
	server->queue = grpc_completion_queue_create_for_next(NULL);
	grpc_server_register_completion_queue(server->grpc, server->queue, NULL);
	*out = server;
	return 0;
}

int ctl_server_listen(struct ctl_server *server, const char *address, int *port)
{
	FM_ASSERT(!server->started);
	grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
	int bound = grpc_server_add_http2_port(server->grpc, address, credentials);
	grpc_server_credentials_release(credentials);
	if (bound <= 0)
		return -EADDRINUSE;
	if (port != NULL)
		*port = bound;
	return 0;
}

int ctl_server_start(struct ctl_server *server)
{
	FM_ASSERT(!server->started);
	grpc_server_start(server->grpc);
	server->started = true;
	server->slots_live = CTL_CALLS_MAX;
	for (unsigned i = 0; i < CTL_CALLS_MAX; i++) {
		server->slots[i].server = server;
		slot_arm(&server->slots[i]);
	}
	for (unsigned i = 0; i < server->options.threads; i++) {
		int error = pthread_create(&server->threads[i], NULL, server_thread, server);
		if (error != 0)
			return i == 0 ? -error : 0; /* fewer threads serve as well */
		server->threads_count++;
	}
	return 0;
}

/* Without a thread (start failed) nobody reaps events: do it here. */
static void server_drain(struct ctl_server *server)
{
	if (server->threads_count == 0)
		server_thread(server);
	for (unsigned i = 0; i < server->threads_count; i++)
		pthread_join(server->threads[i], NULL);
}

static void server_await_idle(struct ctl_server *server)
{
	pthread_mutex_lock(&server->lock);
	while (server->threads_count != 0 && (server->slots_live != 0 || !server->stopped_notified))
		pthread_cond_wait(&server->idle, &server->lock);
	pthread_mutex_unlock(&server->lock);
}

void ctl_server_close(struct ctl_server *server)
{
	if (server == NULL)
		return;
	grpc_server_shutdown_and_notify(server->grpc, server->queue, server);
	grpc_server_cancel_all_calls(server->grpc);
	if (server->started)
		server_await_idle(server);
	grpc_completion_queue_shutdown(server->queue);
	server_drain(server);
	grpc_server_destroy(server->grpc);
	grpc_completion_queue_destroy(server->queue);
	ctl_library_release();
	pthread_cond_destroy(&server->idle);
	pthread_mutex_destroy(&server->lock);
	free(server);
}
