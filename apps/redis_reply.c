/*
 * apps/redis_reply.c: see redis_load.h. The part of RESP2 that answers to SET, GET and INFO consist
 * of.
 */
#include <string.h>

#include "apps/redis_load.h"

#define LINE_MAX_BYTES 1024 /* longest status or error line accepted */

/* Length of the line without \r\n, or -1 while its end is not there. */
static long line_length(const uint8_t *bytes, size_t length)
{
	const uint8_t *end = memchr(bytes, '\n', length);

	return end && end > bytes && end[-1] == '\r' ? (long)(end - bytes) - 1 : -1;
}

/* "-1" or a decimal number of at most 9 digits. Returns -2 for anything else. */
static long bulk_length(const uint8_t *digits, long count)
{
	long value = 0;

	if (count == 2 && memcmp(digits, "-1", 2) == 0)
		return -1;
	if (count < 1 || count > 9)
		return -2;
	for (long i = 0; i < count; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return -2;
		value = value * 10 + (digits[i] - '0');
	}
	return value;
}

static void reply_parse_bulk(
	const uint8_t *bytes, size_t length, long line, size_t bulk_max, struct reply *reply)
{
	long value = bulk_length(bytes + 1, line - 1);
	size_t head = (size_t)line + 2;

	if (value == -1) {
		*reply = (struct reply){REPLY_NIL, NULL, 0, head};
		return;
	}
	if (value < 0 || (size_t)value > bulk_max) {
		reply->kind = REPLY_BROKEN;
		return;
	}
	if (length < head + (size_t)value + 2)
		return;
	if (memcmp(bytes + head + value, "\r\n", 2) != 0) {
		reply->kind = REPLY_BROKEN;
		return;
	}
	*reply = (struct reply){REPLY_BULK, bytes + head, (size_t)value, head + (size_t)value + 2};
}

void reply_parse(const uint8_t *bytes, size_t length, size_t bulk_max, struct reply *reply)
{
	long line;

	*reply = (struct reply){REPLY_PARTIAL, NULL, 0, 0};
	if (length == 0)
		return;
	if (!memchr("+-:$", bytes[0], 4)) {
		reply->kind = REPLY_BROKEN;
		return;
	}
	line = line_length(bytes, FM_MIN(length, LINE_MAX_BYTES));
	if (line < 0) {
		if (length >= LINE_MAX_BYTES || memchr(bytes, '\n', length))
			reply->kind = REPLY_BROKEN;
		return;
	}
	if (bytes[0] == '$') {
		reply_parse_bulk(bytes, length, line, bulk_max, reply);
		return;
	}
	*reply = (struct reply){bytes[0] == '-' ? REPLY_ERROR : REPLY_STATUS, bytes + 1,
		(size_t)line - 1, (size_t)line + 2};
}
