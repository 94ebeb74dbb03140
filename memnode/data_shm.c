/*
 * memnode/data_shm.c: unix connections: hello, then ATTACH answered with the region's memfd, and
 * DETACH. After that the client reads and writes the memfd by itself; the connection stays so that
 * each side sees the other's end, and counts as a sign of life of its leases. See rpc/fabric_shm.c
 * for the other half.
 *
 * Called by the connection's thread, its mutex held. Messages are SOCK_SEQPACKET: whole or not at
 * all.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "memnode/data_connection.h"

/* A client that does not take its answers is dropped: it has asked for more than a socket holds. */
static bool shm_send(struct data_connection *c, const void *bytes, size_t length, int descriptor)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)bytes, .iov_len = length};
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
	if (descriptor >= 0) {
		message.msg_control = control.space;
		message.msg_controllen = sizeof(control.space);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
	}
	return sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)length;
}

static bool shm_attach(
	struct data_connection *c, const struct wire_header *request, const uint8_t *payload)
{
	struct fabric_capability capability;
	struct wire_header reply = {.op = WIRE_ATTACH | WIRE_REPLY, .tag = request->tag};
	uint8_t bytes[WIRE_HEADER_BYTES];
	int memfd = -1;
	wire_decode_capability(payload, &capability);
	reply.status = data_attach(c, &capability, &reply.handle);
	/* The reference is held until the descriptor is on its way: a fence must know that it was
	 * handed out. */
	struct lease *lease = NULL;
	if (!reply.status) {
		const struct data_handle *h = &c->handles[reply.handle];
		if (lease_enter(h->lease, h->epoch)) {
			lease = h->lease;
			memfd = lease_memfd(lease);
			reply.offset = h->bytes;
		}
		if (memfd < 0) {
			reply.status = lease ? wire_status_of(memfd) : (uint16_t)WIRE_STATUS_ACCESS;
			reply.offset = 0;
			data_detach(c, reply.handle);
		}
	}
	wire_encode_header(&reply, bytes);
	bool sent = shm_send(c, bytes, sizeof(bytes), memfd);
	if (lease)
		lease_put(lease);
	return sent;
}

static bool shm_hello(struct data_connection *c, const uint8_t *bytes, size_t length)
{
	uint8_t answer[WIRE_HELLO_BYTES];
	if (length != WIRE_HELLO_BYTES)
		return false;
	uint16_t status = data_check_hello(c, bytes);
	data_answer_hello(c, status, answer);
	c->phase = DATA_HEADER;
	return shm_send(c, answer, sizeof(answer), -1) && !status;
}

static bool shm_message(struct data_connection *c, const uint8_t *bytes, size_t length)
{
	struct wire_header request;
	if (c->phase == DATA_HELLO)
		return shm_hello(c, bytes, length);
	if (length < WIRE_HEADER_BYTES || wire_decode_request(bytes, &request))
		return false;
	if (request.op == WIRE_ATTACH && length == WIRE_HEADER_BYTES + WIRE_CAPABILITY_BYTES)
		return shm_attach(c, &request, bytes + WIRE_HEADER_BYTES);
	if (request.op == WIRE_DETACH && length == WIRE_HEADER_BYTES) {
		data_detach(c, request.handle);
		return true;
	}
	return false;
}

bool data_shm_serve(struct data_connection *c)
{
	uint8_t bytes[WIRE_HEADER_BYTES + WIRE_FENCE_BYTES];
	ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	if (n == 0)
		return false;
	c->moved = true;
	if ((size_t)n <= sizeof(bytes) && shm_message(c, bytes, (size_t)n))
		return true;
	log_ratelimited(LOG_WARN, "memnode: strange message on the shm socket, connection closed");
	data_count(&c->counters->dropped_count, 1);
	return false;
}
