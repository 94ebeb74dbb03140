/*
 * tests/torture/kernel.c: system calls that read and write heap memory on the program's behalf.
 *
 * Each moves a window of a block through a pipe, a socket pair or a file, straight from and to the
 * heap: the kernel, not the program, meets the missing page. EFAULT, a short answer or a wrong byte
 * ends the program.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "torture.h"

#define IO_BYTES_MAX (15u * OS_PAGE)

/* Arguments of system calls in heap memory: allocated when the slot opens, used rarely, so mostly
 * far. */
struct kernel_arguments {
	char path[1024];
	struct stat stat;
	struct pollfd poll;
	struct iovec pieces[3];
	struct msghdr message;
	char text[2048];
};

/* One way for bytes to leave the program and come back. Both return what the system call returned.
 */
struct channel {
	const char *name;
	ssize_t (*send)(struct slot *slot, const unsigned char *from, size_t bytes, size_t offset);
	ssize_t (*receive)(struct slot *slot, unsigned char *to, size_t bytes, size_t offset);
};

static void pieces_cut(struct iovec pieces[3], const unsigned char *bytes, size_t count)
{
	size_t first = count / 3, second = count / 2;

	pieces[0] = (struct iovec){(void *)(uintptr_t)bytes, first};
	pieces[1] = (struct iovec){(void *)(uintptr_t)(bytes + first), second - first};
	pieces[2] = (struct iovec){(void *)(uintptr_t)(bytes + second), count - second};
}

static ssize_t pipe_send(struct slot *slot, const unsigned char *from, size_t bytes, size_t offset)
{
	(void)offset;
	return write(slot->pipe[1], from, bytes);
}

static ssize_t pipe_receive(struct slot *slot, unsigned char *to, size_t bytes, size_t offset)
{
	(void)offset;
	return read(slot->pipe[0], to, bytes);
}

static ssize_t vector_send(
	struct slot *slot, const unsigned char *from, size_t bytes, size_t offset)
{
	struct iovec pieces[3];

	(void)offset;
	pieces_cut(pieces, from, bytes);
	return writev(slot->pipe[1], pieces, 3);
}

static ssize_t vector_receive(struct slot *slot, unsigned char *to, size_t bytes, size_t offset)
{
	struct iovec pieces[3];

	(void)offset;
	pieces_cut(pieces, to, bytes);
	return readv(slot->pipe[0], pieces, 3);
}

/* The vector itself and the message header are heap memory too. */
static ssize_t socket_send(
	struct slot *slot, const unsigned char *from, size_t bytes, size_t offset)
{
	struct kernel_arguments *arguments = slot->arguments;

	(void)offset;
	pieces_cut(arguments->pieces, from, bytes);
	arguments->message = (struct msghdr){.msg_iov = arguments->pieces, .msg_iovlen = 3};
	return sendmsg(slot->socket[0], &arguments->message, MSG_NOSIGNAL);
}

static ssize_t socket_receive(struct slot *slot, unsigned char *to, size_t bytes, size_t offset)
{
	struct kernel_arguments *arguments = slot->arguments;

	(void)offset;
	pieces_cut(arguments->pieces, to, bytes);
	arguments->message = (struct msghdr){.msg_iov = arguments->pieces, .msg_iovlen = 3};
	return recvmsg(slot->socket[1], &arguments->message, 0);
}

static ssize_t file_send(struct slot *slot, const unsigned char *from, size_t bytes, size_t offset)
{
	return pwrite(slot->file, from, bytes, (off_t)offset);
}

static ssize_t file_receive(struct slot *slot, unsigned char *to, size_t bytes, size_t offset)
{
	return pread(slot->file, to, bytes, (off_t)offset);
}

static ssize_t direct_send(
	struct slot *slot, const unsigned char *from, size_t bytes, size_t offset)
{
	return pwrite(slot->direct, from, bytes, (off_t)offset);
}

static ssize_t direct_receive(struct slot *slot, unsigned char *to, size_t bytes, size_t offset)
{
	return pread(slot->direct, to, bytes, (off_t)offset);
}

static const struct channel channels[] = {
	{"write/read on a pipe", pipe_send, pipe_receive},
	{"writev/readv on a pipe", vector_send, vector_receive},
	{"sendmsg/recvmsg", socket_send, socket_receive},
	{"pwrite/pread", file_send, file_receive},
};
#define CHANNELS_COUNT (sizeof(channels) / sizeof(channels[0]))

static const struct channel channel_direct = {"O_DIRECT pwrite/pread", direct_send, direct_receive};

static size_t channel_step(
	const struct channel *channel, const char *verb, const void *at, ssize_t moved)
{
	if (moved > 0)
		return (size_t)moved;
	if (moved < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	torture_fail("%s: %s at %p gave %zd: %s", channel->name, verb, at, moved,
		moved < 0 ? strerror(errno) : "end of file");
}

/* Ends are non-blocking where they can be full: what has been sent is fetched before more is sent.
 */
static void channel_move(struct slot *slot, const struct channel *channel,
	const unsigned char *from, unsigned char *to, size_t bytes)
{
	size_t sent = 0, received = 0;

	while (received < bytes) {
		if (sent < bytes)
			sent += channel_step(channel, "sending", from + sent,
				channel->send(slot, from + sent, bytes - sent, sent));
		if (received < sent)
			received += channel_step(channel, "receiving", to + received,
				channel->receive(slot, to + received, sent - received, received));
	}
	count_up(io, 1);
}

/* From a block to static memory and checked there, then from static memory into the block. */
static void kernel_there_and_back(
	struct slot *slot, const struct channel *channel, struct block *block)
{
	struct overlay window;

	block_window(&slot->rng, block, IO_BYTES_MAX, &window);
	channel_move(
		slot, channel, block->memory + window.lo, slot->scratch, window.hi - window.lo);
	pattern_check(block, slot->scratch, window.lo, window.hi, NULL);

	block_window(&slot->rng, block, IO_BYTES_MAX, &window);
	window.key = rng_next(&slot->rng) | 1;
	pattern_fill(slot->scratch, window.lo, window.hi, window.key);
	channel_move(
		slot, channel, slot->scratch, block->memory + window.lo, window.hi - window.lo);
	block_overlay(slot, block, window);
}

/* Far to far: neither end is touched by the program itself before it is checked later. */
static void kernel_across(
	struct slot *slot, const struct channel *channel, struct block *from, struct block *to)
{
	struct overlay window;

	block_window(&slot->rng, from->size < to->size ? from : to, IO_BYTES_MAX, &window);
	window.hi = pattern_stretch(from, window.lo, window.hi, &window.key);
	channel_move(slot, channel, from->memory + window.lo, to->memory + window.lo,
		window.hi - window.lo);
	block_overlay(slot, to, window);
}

void kernel_io(struct slot *slot)
{
	const struct channel *channel = &channels[rng_below(&slot->rng, CHANNELS_COUNT)];
	struct block *one = block_pick(slot, 64), *other = block_pick(slot, 64);

	if (!one || !other)
		return;
	if (one != other && rng_below(&slot->rng, 2))
		kernel_across(slot, channel, one, other);
	else
		kernel_there_and_back(slot, channel, one);
}

/* The device itself reads and writes the block's pages: they are pinned meanwhile. */
void kernel_direct(struct slot *slot)
{
	struct block *block = block_pick(slot, 8 * OS_PAGE);
	struct overlay window;

	if (!block || !block_page_window(&slot->rng, block, IO_BYTES_MAX, &window))
		return;
	if (slot->direct < 0)
		return;
	channel_move(slot, &channel_direct, block->memory + window.lo, slot->scratch,
		window.hi - window.lo);
	pattern_check(block, slot->scratch, window.lo, window.hi, NULL);
	memset(block->memory + window.lo, 0x5a, window.hi - window.lo);
	channel_move(slot, &channel_direct, slot->scratch, block->memory + window.lo,
		window.hi - window.lo);
	pattern_check(block, block->memory + window.lo, window.lo, window.hi, NULL);
	count_up(direct, 1);
}

/* What the program itself drops must read as zeros, near or far. */
void kernel_forget(struct slot *slot)
{
	struct block *block = block_pick(slot, 4 * OS_PAGE);
	struct overlay window;
	struct block zeros;

	if (!block || !block_page_window(&slot->rng, block, 64 * OS_PAGE, &window))
		return;
	if (block->locked) {
		munlock(block->memory, block->size);
		block->locked = false;
	}
	window.key = 0;
	if (madvise(block->memory + window.lo, window.hi - window.lo, MADV_DONTNEED))
		torture_fail("madvise(%p, %zu, MADV_DONTNEED): %s",
			(void *)(block->memory + window.lo), window.hi - window.lo,
			strerror(errno));
	count_up(madvised, 1);
	zeros = *block;
	zeros.overlays[0] = window;
	zeros.overlays_count = 1;
	if (!block->page_aligned) {
		pattern_check(&zeros, block->memory + window.lo, window.lo, window.hi, NULL);
		block_restore(block, window.lo, window.hi);
		return;
	}
	if (rng_below(&slot->rng, 2))
		pattern_check(&zeros, block->memory + window.lo, window.lo, window.hi, NULL);
	block_overlay(slot, block, window);
}

void kernel_lock(struct slot *slot)
{
	struct block *block = block_pick(slot, 2 * OS_PAGE);

	if (!block)
		return;
	if (block->locked) {
		munlock(block->memory, block->size);
		block->locked = false;
		pattern_check(block, block->memory, 0, block->size, NULL);
		return;
	}
	if (block->size > 64 * OS_PAGE)
		return;
	if (mlock(block->memory, block->size)) {
		if (errno == ENOMEM || errno == EPERM || errno == EAGAIN)
			return; /* RLIMIT_MEMLOCK */
		torture_fail(
			"mlock(%p, %zu): %s", (void *)block->memory, block->size, strerror(errno));
	}
	block->locked = true;
	pattern_check(block, block->memory, 0, block->size, NULL);
	count_up(locked, 1);
}

/* Paths read by the kernel, structures filled by it, all in heap memory that is mostly far. */
void kernel_call(struct slot *slot)
{
	struct kernel_arguments *arguments = slot->arguments;
	unsigned char byte = (unsigned char)rng_next(&slot->rng), back = (unsigned char)~byte;

	if (stat(arguments->path, &arguments->stat) || !S_ISDIR(arguments->stat.st_mode))
		torture_fail("stat(\"%s\" at %p): %s", arguments->path, (void *)arguments->path,
			strerror(errno));
	if (!getcwd(arguments->text, sizeof(arguments->text)) || arguments->text[0] != '/')
		torture_fail("getcwd into %p: %s", (void *)arguments->text, strerror(errno));
	if (write(slot->pipe[1], &byte, 1) != 1)
		torture_fail("write of one byte: %s", strerror(errno));
	arguments->poll = (struct pollfd){.fd = slot->pipe[0], .events = POLLIN};
	while (poll(&arguments->poll, 1, 10000) < 0)
		if (errno != EINTR)
			torture_fail("poll at %p: %s", (void *)&arguments->poll, strerror(errno));
	if (read(slot->pipe[0], &back, 1) != 1 || back != byte || arguments->poll.revents != POLLIN)
		torture_fail("poll or read at %p: one byte was lost", (void *)&arguments->poll);
}

static int kernel_temporary(const char *dir, int flags)
{
	char path[1024];
	int fd, flagged;

	if (snprintf(path, sizeof(path), "%s/farmem-torture-XXXXXX", dir) >= (int)sizeof(path))
		torture_fail("--dir %s: too long", dir);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		torture_fail("%s: %s; name another directory with --dir", path, strerror(errno));
	flagged = flags ? open(path, O_RDWR | O_CLOEXEC | flags) : fd;
	if (flags)
		close(fd);
	unlink(path);
	return flagged;
}

void kernel_open(struct slot *slot)
{
	struct kernel_arguments *arguments = malloc(sizeof(*arguments));

	if (!arguments)
		torture_fail("malloc: %s", strerror(errno));
	memset(arguments, 0, sizeof(*arguments));
	if (snprintf(arguments->path, sizeof(arguments->path), "%s", options.dir) >=
		(int)sizeof(arguments->path))
		torture_fail("--dir %s: too long", options.dir);
	slot->arguments = arguments;
	if (pipe2(slot->pipe, O_CLOEXEC | O_NONBLOCK) ||
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, slot->socket))
		torture_fail("pipe2 or socketpair: %s", strerror(errno));
	slot->file = kernel_temporary(options.dir, 0);
	slot->direct = options.direct ? kernel_temporary(options.dir, O_DIRECT) : -1;
	if (options.direct && slot->direct < 0 && slot->index == 0)
		fprintf(stderr, "torture: %s: no O_DIRECT here (%s); that part is left out\n",
			options.dir, strerror(errno));
}

void kernel_close(struct slot *slot)
{
	for (unsigned i = 0; i < 2; i++) {
		close(slot->pipe[i]);
		close(slot->socket[i]);
	}
	close(slot->file);
	if (slot->direct >= 0)
		close(slot->direct);
	free(slot->arguments);
}
