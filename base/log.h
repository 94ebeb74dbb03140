/*
 * base/log.h: one line per event, `room: event key=value`, without malloc, one write(2) a line.
 *
 * Goes to stderr, or to the file named by log_open(). Thread-safe. Never call it on the fault path.
 * The prefix is "farmem: " for warnings and errors meant for the user; debug lines carry a time
 * stamp.
 */
#ifndef FM_BASE_LOG_H
#define FM_BASE_LOG_H

#include "base/compiler.h"

enum log_level { LOG_ERROR = 0, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
enum log_level log_level(void);
/* The first word of every line, e.g. "farmem-memnode"; points to static storage. Default "farmem".
 */
void log_set_program(const char *name);
/* Lines go to the file from now on (append, close-on-exec). 0 or -errno. NULL: stderr. */
int log_open(const char *path) FM_MUST_USE;
/* Where lines go at the moment; stays the log's. */
int log_descriptor(void);
void log_print(enum log_level level, const char *format, ...) FM_PRINTF(2, 3);

#define log_error(...) log_print(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_print(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_print(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_DEBUG, __VA_ARGS__)

/* At most one line per second from this place; says how many it swallowed. */
#define log_ratelimited(level, ...)                                                                \
	do {                                                                                       \
		static struct log_limit fm_limit_;                                                 \
		if ((level) <= log_level() && log_limit_pass(&fm_limit_))                          \
			log_print(level, __VA_ARGS__);                                             \
	} while (0)

struct log_limit {
	_Atomic uint64_t next_ns;
	_Atomic uint64_t suppressed_count;
};
_Bool log_limit_pass(struct log_limit *limit);

#endif
