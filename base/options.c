/*
 * base/options.c: setting values from defaults, a file, the environment and flags, by one table.
 *
 * Called at start-up by every program and by the preload's constructor: no malloc, nothing kept, no
 * globals but `environ`. Every error is one line that names where the value came from, the option,
 * and what would do.
 *
 * Invariants:
 *   1. A value is checked completely before a byte of the caller's struct is written.
 *   2. An error's text is one printable line, whatever bytes the user's value had.
 */
#include "base/options_table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/assert.h"

#define OPTION_LINE_MAX 4096  /* of a file */
#define OPTION_LINES_MAX 4096 /* of a file */
#define OPTION_WANTED_MAX 200
#define VARIABLE_PREFIX "FARMEM_"

/* Where a value comes from, for errors: "--local", "FARMEM_LOCAL", "farmem.conf:3: local". */
struct option_source {
	char text[320];
};

int option_fail(struct option_error *error, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	for (char *c = error->text; *c != '\0'; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	}
	return -EINVAL;
}

void option_variable_name(const struct option_spec *spec, char *text, size_t size)
{
	int length = snprintf(text, size, VARIABLE_PREFIX "%s", spec->name);

	FM_ASSERT(length > 0 && (size_t)length < size);
	for (char *c = text; *c != '\0'; c++) {
		if (*c >= 'a' && *c <= 'z')
			*c = (char)(*c - 'a' + 'A');
		if (*c == '-')
			*c = '_';
	}
}

static const struct option_spec *option_find(
	const struct option_spec *specs, unsigned count, const char *name, size_t length)
{
	for (unsigned i = 0; i < count; i++) {
		if (strlen(specs[i].name) == length && memcmp(specs[i].name, name, length) == 0)
			return &specs[i];
	}
	return NULL;
}

/* Letters to change, add or drop to make one word of the other (Levenshtein). */
static unsigned option_distance(const char *a, size_t a_length, const char *b)
{
	unsigned row[OPTION_NAME_MAX];
	size_t b_length = strlen(b);

	if (a_length >= OPTION_NAME_MAX || b_length >= OPTION_NAME_MAX)
		return OPTION_NAME_MAX;
	for (unsigned j = 0; j <= b_length; j++)
		row[j] = j;
	for (unsigned i = 1; i <= a_length; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= b_length; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = FM_MIN(change, FM_MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[b_length];
}

/* The name the user may have meant, or NULL. */
static const struct option_spec *option_nearest(
	const struct option_spec *specs, unsigned count, const char *name, size_t length)
{
	const struct option_spec *nearest = NULL;
	unsigned best = 3; /* further away is another word */

	for (unsigned i = 0; i < count; i++) {
		unsigned distance = option_distance(name, length, specs[i].name);

		if (distance < best && distance < length) {
			best = distance;
			nearest = &specs[i];
		}
	}
	return nearest;
}

/* " (64M to 4G)" for what a number must lie in. */
static void option_print_limits(const struct option_spec *spec, char *text, size_t size)
{
	char low[32], high[32] = "";
	uint64_t limits[2] = {spec->min, spec->max};
	char *texts[2] = {low, high};

	text[0] = '\0';
	if (spec->min == 0 && spec->max == 0)
		return;
	for (unsigned i = 0; i < 2; i++) {
		if (spec->type == OPTION_SIZE)
			parse_print_size(limits[i], texts[i], 32);
		else if (spec->type == OPTION_DURATION)
			parse_print_duration(limits[i], texts[i], 32);
		else
			snprintf(texts[i], 32, "%llu", (unsigned long long)limits[i]);
	}
	if (spec->max == 0)
		snprintf(text, size, ", at least %s", low);
	else
		snprintf(text, size, ", %s to %s", low, high);
}

static void option_print_choices(const struct option_spec *spec, char *text, size_t size)
{
	size_t used = (size_t)snprintf(text, size, "one of");

	for (unsigned i = 0; spec->choices[i] != NULL && used < size; i++)
		used += (size_t)snprintf(
			text + used, size - used, "%s %s", i == 0 ? "" : ",", spec->choices[i]);
}

/* What would have been a value, for the error line. */
static void option_print_wanted(const struct option_spec *spec, char *text, size_t size)
{
	char limits[96];

	option_print_limits(spec, limits, sizeof(limits));
	switch (spec->type) {
	case OPTION_BOOL:
		snprintf(text, size, "yes or no");
		break;
	case OPTION_COUNT:
		snprintf(text, size, "a whole number%s", limits);
		break;
	case OPTION_SIZE:
		snprintf(text, size, "a size such as 64M or 1.5G%s", limits);
		break;
	case OPTION_SHARE:
		snprintf(text, size, "a size such as 64M, or a share such as 25%% (0%% to 100%%)");
		break;
	case OPTION_DURATION:
		snprintf(text, size, "a time such as 500us, 10ms, 2s or 10min%s", limits);
		break;
	case OPTION_STRING:
		snprintf(text, size, "at most %zu characters", spec->size - 1);
		break;
	case OPTION_CHOICE:
		option_print_choices(spec, text, size);
		break;
	case OPTION_CODE:
		snprintf(text, size, "K+M such as 4+2, with K 1 to %d and M 0 to %d",
			OPTION_CODE_K_MAX, OPTION_CODE_M_MAX);
		break;
	}
}

static int option_parse_bool(const char *text, bool *value)
{
	static const char *const words[2][4] = {
		{"no", "off", "false", "0"}, {"yes", "on", "true", "1"}};

	for (unsigned i = 0; i < 2; i++) {
		for (unsigned j = 0; j < FM_ARRAY_COUNT(words[i]); j++) {
			if (strcasecmp(text, words[i][j]) == 0) {
				*value = i == 1;
				return 0;
			}
		}
	}
	return -EINVAL;
}

static int option_parse_choice(const struct option_spec *spec, const char *text, uint32_t *value)
{
	for (uint32_t i = 0; spec->choices[i] != NULL; i++) {
		if (strcmp(text, spec->choices[i]) == 0) {
			*value = i;
			return 0;
		}
	}
	return -EINVAL;
}

static int option_parse_limited(const struct option_spec *spec, const char *text, uint64_t *value)
{
	uint64_t number;
	int result;

	if (spec->type == OPTION_SIZE)
		result = parse_size(text, &number);
	else if (spec->type == OPTION_DURATION)
		result = parse_duration(text, &number);
	else
		result = parse_count(text, &number);
	if (result != 0 || number < spec->min || (spec->max != 0 && number > spec->max))
		return -EINVAL;
	*value = number;
	return 0;
}

static int option_store_string(const struct option_spec *spec, const char *text, char *field)
{
	size_t length = strlen(text);

	if (length >= spec->size)
		return -EINVAL;
	memset(field, 0, spec->size);
	memcpy(field, text, length);
	return 0;
}

/* Checks the text and writes the field; nothing is written when it is no value. */
static int option_store(const struct option_spec *spec, void *into, const char *text)
{
	void *field = (char *)into + spec->offset;

	switch (spec->type) {
	case OPTION_BOOL:
		return option_parse_bool(text, field);
	case OPTION_COUNT:
	case OPTION_SIZE:
	case OPTION_DURATION:
		return option_parse_limited(spec, text, field);
	case OPTION_SHARE:
		return parse_share(text, field);
	case OPTION_STRING:
		return option_store_string(spec, text, field);
	case OPTION_CHOICE:
		return option_parse_choice(spec, text, field);
	case OPTION_CODE:
		return parse_code(text, field);
	}
	FM_PANIC("option %s has no type", spec->name);
}

static int option_store_from(const struct option_spec *spec, void *into, const char *text,
	const char *source, struct option_error *error)
{
	char wanted[OPTION_WANTED_MAX];

	if (option_store(spec, into, text) == 0)
		return 0;
	option_print_wanted(spec, wanted, sizeof(wanted));
	return option_fail(error, "%.*s: \"%.*s%s\" will not do: give %s", OPTION_SHOWN * 2, source,
		OPTION_SHOWN, text, strlen(text) > OPTION_SHOWN ? "..." : "", wanted);
}

int options_set_defaults(
	const struct option_spec *specs, unsigned count, void *into, struct option_error *error)
{
	error->text[0] = '\0';
	for (unsigned i = 0; i < count; i++) {
		FM_ASSERT_LT(strlen(specs[i].name), OPTION_NAME_MAX);
		if (specs[i].value == NULL)
			continue;
		if (option_store_from(&specs[i], into, specs[i].value, specs[i].name, error) != 0)
			return -EINVAL;
	}
	return 0;
}

int options_set(const struct option_spec *specs, unsigned count, void *into, const char *name,
	const char *value, struct option_error *error)
{
	const struct option_spec *spec = option_find(specs, count, name, strlen(name));

	error->text[0] = '\0';
	if (spec == NULL)
		return option_fail(error, "%.*s: no such option", OPTION_SHOWN, name);
	return option_store_from(spec, into, value, spec->name, error);
}

/* ---- the file ---- */

static bool option_is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* Cuts blanks off both ends, in place; returns the new start. */
static char *option_trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && option_is_blank(end[-1]))
		*--end = '\0';
	while (option_is_blank(*text))
		text++;
	return text;
}

struct option_file {
	const char *path;
	int fd;
	unsigned line_number;
	size_t at, filled; /* of the buffer */
	char buffer[512];
};

/* The next byte, -1 at the end of the file, or -errno < -1. */
static int option_file_byte(struct option_file *file)
{
	ssize_t got;

	if (file->at == file->filled) {
		do {
			got = read(file->fd, file->buffer, sizeof(file->buffer));
		} while (got < 0 && errno == EINTR);
		if (got < 0)
			return errno == EPERM ? -EACCES
					      : -errno; /* -EPERM is -1, our end of file */
		if (got == 0)
			return -1;
		file->filled = (size_t)got;
		file->at = 0;
	}
	return (unsigned char)file->buffer[file->at++];
}

/* One line without its newline. 1 read, 0 end of file, -EINVAL. */
static int option_file_line(struct option_file *file, char *line, struct option_error *error)
{
	size_t length = 0;
	int byte = option_file_byte(file);

	if (byte == -1)
		return 0;
	file->line_number++;
	for (; byte >= 0 && byte != '\n'; byte = option_file_byte(file)) {
		if (byte == '\0' || length + 1 >= OPTION_LINE_MAX)
			return option_fail(error, "%.200s:%u: %s", file->path, file->line_number,
				byte == '\0' ? "a zero byte: this is not a text file"
					     : "line too long: at most 4095 characters");
		line[length++] = (char)byte;
	}
	if (byte < -1)
		return option_fail(
			error, "%.200s: cannot read: %s", file->path, strerrordesc_np(-byte));
	line[length] = '\0';
	return 1;
}

/* "key = value", a comment, or nothing. */
static int option_file_set(const struct option_spec *specs, unsigned count, void *into,
	const struct option_file *file, char *line, struct option_error *error)
{
	const struct option_spec *spec, *near;
	struct option_source source;
	char *key = option_trim(line), *equals;

	if (*key == '\0' || *key == '#')
		return 0;
	equals = strchr(key, '=');
	if (equals == NULL)
		return option_fail(error, "%.200s:%u: \"%.80s\" will not do: write key = value",
			file->path, file->line_number, key);
	*equals = '\0';
	key = option_trim(key);
	spec = option_find(specs, count, key, strlen(key));
	if (spec == NULL || spec->flag_only) {
		near = option_nearest(specs, count, key, strlen(key));
		return option_fail(error, "%.200s:%u: unknown key \"%.80s\"%s%s%s", file->path,
			file->line_number, key,
			near == NULL ? "; --help lists the keys" : "; did you mean ",
			near == NULL ? "" : near->name, near == NULL ? "" : "?");
	}
	snprintf(source.text, sizeof(source.text), "%.100s:%u: %s", file->path, file->line_number,
		spec->name);
	return option_store_from(spec, into, option_trim(equals + 1), source.text, error);
}

int options_read_file(const struct option_spec *specs, unsigned count, void *into, const char *path,
	struct option_error *error)
{
	struct option_file file = {.path = path};
	char line[OPTION_LINE_MAX];
	int result;

	error->text[0] = '\0';
	file.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (file.fd < 0)
		return option_fail(error, "%.200s: cannot read: %s", path, strerrordesc_np(errno));
	while ((result = option_file_line(&file, line, error)) == 1) {
		result = option_file_set(specs, count, into, &file, line, error);
		if (result != 0)
			break;
		if (file.line_number >= OPTION_LINES_MAX) {
			result = option_fail(
				error, "%.200s: more than %d lines", path, OPTION_LINES_MAX);
			break;
		}
	}
	close(file.fd);
	return result;
}

/* ---- the environment ---- */

static const struct option_spec *option_find_variable(
	const struct option_spec *specs, unsigned count, const char *name, size_t length)
{
	char variable[OPTION_NAME_MAX + sizeof(VARIABLE_PREFIX)];

	for (unsigned i = 0; i < count; i++) {
		if (specs[i].flag_only)
			continue;
		option_variable_name(&specs[i], variable, sizeof(variable));
		if (strlen(variable) == length && memcmp(variable, name, length) == 0)
			return &specs[i];
	}
	return NULL;
}

static bool option_is_known_other(const char *const *known_others, const char *name, size_t length)
{
	for (; known_others != NULL && *known_others != NULL; known_others++) {
		if (strlen(*known_others) == length && memcmp(*known_others, name, length) == 0)
			return true;
	}
	return false;
}

static int option_unknown_variable(const struct option_spec *specs, unsigned count,
	const char *name, size_t length, struct option_error *error)
{
	char nearest[OPTION_NAME_MAX + sizeof(VARIABLE_PREFIX)], key[OPTION_NAME_MAX] = "";
	const struct option_spec *spec;
	size_t prefix = strlen(VARIABLE_PREFIX);

	for (size_t i = prefix; i < length && i - prefix < sizeof(key) - 1; i++)
		key[i - prefix] = name[i] == '_' ? '-' : (char)(name[i] | 0x20);
	spec = option_nearest(specs, count, key, strlen(key));
	if (spec == NULL || spec->flag_only)
		return option_fail(error,
			"%.*s: unknown variable; unset it (--help lists the options)",
			(int)FM_MIN(length, OPTION_SHOWN), name);
	option_variable_name(spec, nearest, sizeof(nearest));
	return option_fail(error, "%.*s: unknown variable; did you mean %s?",
		(int)FM_MIN(length, OPTION_SHOWN), name, nearest);
}

int options_read_environment(const struct option_spec *specs, unsigned count, void *into,
	const char *const *known_others, struct option_error *error)
{
	error->text[0] = '\0';
	for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
		const struct option_spec *spec;
		const char *equals = strchr(*variable, '=');
		char name[OPTION_NAME_MAX + sizeof(VARIABLE_PREFIX)];
		size_t length;

		if (equals == NULL ||
			strncmp(*variable, VARIABLE_PREFIX, strlen(VARIABLE_PREFIX)) != 0)
			continue;
		length = (size_t)(equals - *variable);
		if (option_is_known_other(known_others, *variable, length))
			continue;
		spec = option_find_variable(specs, count, *variable, length);
		if (spec == NULL)
			return option_unknown_variable(specs, count, *variable, length, error);
		option_variable_name(spec, name, sizeof(name));
		if (option_store_from(spec, into, equals + 1, name, error) != 0)
			return -EINVAL;
	}
	return 0;
}

/* ---- flags ---- */

/* One flag taken apart: "--name=value", "--name", "-lvalue", "-l". */
struct option_flag {
	const struct option_spec *spec;
	const char *value;               /* what stood in the same word, or NULL */
	char shown[OPTION_NAME_MAX + 2]; /* as errors name it */
};

static int option_unknown_flag(const struct option_spec *specs, unsigned count, const char *word,
	struct option_error *error)
{
	const char *name = word + strspn(word, "-");
	size_t length = strcspn(name, "=");
	const struct option_spec *near = option_nearest(specs, count, name, length);
	int shown = (int)FM_MIN(strcspn(word, "="), OPTION_SHOWN);

	if (near == NULL)
		return option_fail(
			error, "%.*s: unknown flag; --help lists the flags", shown, word);
	return option_fail(
		error, "%.*s: unknown flag; did you mean --%s?", shown, word, near->name);
}

static int option_take_apart(const struct option_spec *specs, unsigned count, const char *word,
	struct option_flag *flag, struct option_error *error)
{
	size_t length;

	*flag = (struct option_flag){0};
	if (word[1] == '-') {
		length = strcspn(word + 2, "=");
		flag->spec = option_find(specs, count, word + 2, length);
		flag->value = word[2 + length] == '=' ? word + 2 + length + 1 : NULL;
		if (flag->spec == NULL && flag->value == NULL &&
			strncmp(word + 2, "no-", 3) == 0) {
			flag->spec = option_find(specs, count, word + 5, length - 3);
			flag->value = "no";
			if (flag->spec != NULL && flag->spec->type != OPTION_BOOL)
				flag->spec = NULL;
		}
	} else {
		for (unsigned i = 0; i < count; i++) {
			if (specs[i].letter != 0 && specs[i].letter == word[1])
				flag->spec = &specs[i];
		}
		flag->value = word[2] != '\0' ? word + 2 : NULL;
	}
	if (flag->spec == NULL)
		return option_unknown_flag(specs, count, word, error);
	snprintf(flag->shown, sizeof(flag->shown), "--%s", flag->spec->name);
	return 0;
}

int options_read_flags(const struct option_spec *specs, unsigned count, void *into, int argc,
	char *const *argv, int *index, struct option_error *error)
{
	struct option_flag flag;

	error->text[0] = '\0';
	while (*index < argc) {
		const char *word = argv[*index];

		if (word[0] != '-' || word[1] == '\0')
			return 0;
		++*index;
		if (strcmp(word, "--") == 0)
			return 0;
		if (option_take_apart(specs, count, word, &flag, error) != 0)
			return -EINVAL;
		if (flag.value == NULL && flag.spec->type == OPTION_BOOL)
			flag.value = "yes";
		if (flag.value == NULL && *index >= argc)
			return option_fail(error, "%s: a value is missing: write %s %s", flag.shown,
				flag.shown,
				flag.spec->argument != NULL ? flag.spec->argument : "VALUE");
		if (flag.value == NULL)
			flag.value = argv[(*index)++];
		if (option_store_from(flag.spec, into, flag.value, flag.shown, error) != 0)
			return -EINVAL;
	}
	return 0;
}
