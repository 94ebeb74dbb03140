/*
 * lb/public_test.c: a program as a user writes it: include/farmem/rpc.h and libfarmem-rpc.so,
 * nothing else of ours. Two servers and a channel in one process; sync and async.
 */
#include <farmem/rpc.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int handle_upper(struct fm_rpc_request *request)
{
	const char *from = request->req;
	char *to = request->resp;

	if (request->req_bytes > request->resp_capacity)
		return -EMSGSIZE;
	for (size_t i = 0; i < request->req_bytes; i++)
		to[i] = (char)(from[i] >= 'a' && from[i] <= 'z' ? from[i] - 'a' + 'A' : from[i]);
	request->resp_bytes = request->req_bytes;
	fm_rpc_poll_point();
	return 0;
}

static const struct fm_rpc_method methods[] = {{7, 0, handle_upper}};

static int failures;

static void check(int condition, const char *what)
{
	printf("%s %s\n", condition ? "ok  " : "FAIL", what);
	failures += !condition;
}

struct ended {
	int count, status;
	size_t bytes;
};

static void note(void *context, int status, size_t bytes)
{
	struct ended *ended = context;

	ended->count++;
	ended->status = status;
	ended->bytes = bytes;
}

static void call_both_ways(struct fm_rpc_channel *channel)
{
	char resp[16] = "";
	size_t bytes = sizeof(resp);
	struct ended ended = {0};
	struct fm_rpc_call_options options = {
		.method = 7,
		.req = "later",
		.req_bytes = 5,
		.resp = resp,
		.resp_capacity = sizeof(resp),
		.done = note,
		.context = &ended,
	};
	char stats[4096];

	check(fm_rpc_call(channel, 7, "hello", 5, resp, &bytes) == 0, "a call is answered");
	check(bytes == 5 && memcmp(resp, "HELLO", 5) == 0, "with what the handler wrote");
	check(fm_rpc_start(channel, &options, NULL) == 0, "a call is started");
	while (ended.count == 0 && fm_rpc_poll(channel, 100000000) >= 0)
		;
	check(ended.count == 1 && ended.status == 0 && ended.bytes == 5, "and ends once");
	check(memcmp(resp, "LATER", 5) == 0, "with what the handler wrote");
	check(fm_rpc_stats(channel, stats, sizeof(stats)) > 0 &&
			strstr(stats, "\"replies\":2") != NULL,
		"the counters say so");
	check(fm_rpc_stats(channel, stats, 10) == -ENOSPC, "and tell when there is no room");
}

int main(void)
{
	struct fm_rpc_server_options serving = {
		.listen = "127.0.0.1:0", .methods = methods, .methods_count = 1};
	struct fm_rpc_server *servers[2];
	struct fm_rpc_channel *channel;
	char list[64];

	for (int i = 0; i < 2; i++)
		if (fm_rpc_server_open(&servers[i], &serving) != 0)
			return 1;
	snprintf(list, sizeof(list), "127.0.0.1:%d,127.0.0.1:%d", fm_rpc_server_port(servers[0]),
		fm_rpc_server_port(servers[1]));
	if (fm_rpc_open(&channel,
		    &(struct fm_rpc_options){
			    .servers = list, .policy = "mew", .deadline_ns = 5000000000ull}) != 0)
		return 1;
	call_both_ways(channel);
	fm_rpc_close(channel);
	fm_rpc_server_close(servers[0]);
	fm_rpc_server_close(servers[1]);
	return failures > 0;
}
