/*
 * base/parse.c: the words users write for sizes, shares, times and codes, and back.
 *
 * Called by options.c, config.c and tests. Strict: the whole text is the value, no signs, no
 * spaces, and what does not fit into 64 bits is an error, never a surprise.
 */
#include "base/options_table.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"

#define PARSE_FRACTION_DIGITS_MAX 9
#define KIB ((uint64_t)1 << 10)

/* A decimal number as written: whole + fraction / scale. */
struct parse_number {
	uint64_t whole;
	uint64_t fraction, scale;
};

struct parse_unit {
	const char *name;
	uint64_t factor;
};

static const struct parse_unit parse_duration_units[] = {
	{"h", 3600 * NS_PER_S},
	{"min", 60 * NS_PER_S},
	{"s", NS_PER_S},
	{"ms", NS_PER_MS},
	{"us", NS_PER_US},
	{"ns", 1},
};

static bool parse_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Reads digits; *at is moved behind them. -EINVAL: there are none, or they overflow. */
static int parse_digits(const char **at, uint64_t *value)
{
	const char *p = *at;
	uint64_t sum = 0;

	if (!parse_is_digit(*p))
		return -EINVAL;
	for (; parse_is_digit(*p); p++) {
		if (__builtin_mul_overflow(sum, 10ull, &sum) ||
			__builtin_add_overflow(sum, (uint64_t)(*p - '0'), &sum))
			return -EINVAL;
	}
	*at = p;
	*value = sum;
	return 0;
}

/* Reads "12" or "12.5"; *at is moved behind it. */
static int parse_number(const char **at, struct parse_number *number)
{
	const char *digits;

	number->fraction = 0;
	number->scale = 1;
	if (parse_digits(at, &number->whole) != 0)
		return -EINVAL;
	if (**at != '.')
		return 0;
	digits = ++*at;
	if (parse_digits(at, &number->fraction) != 0 || *at - digits > PARSE_FRACTION_DIGITS_MAX)
		return -EINVAL;
	for (; digits < *at; digits++)
		number->scale *= 10;
	return 0;
}

/* number * factor, rounded down; a fraction of the smallest unit is nonsense, and so is overflow.
 */
static int parse_scale(const struct parse_number *number, uint64_t factor, uint64_t *value)
{
	unsigned __int128 sum = (unsigned __int128)number->whole * factor +
				(unsigned __int128)number->fraction * factor / number->scale;

	if (sum > UINT64_MAX || (factor == 1 && number->scale != 1))
		return -EINVAL;
	*value = (uint64_t)sum;
	return 0;
}

int parse_count(const char *text, uint64_t *count)
{
	uint64_t value;

	if (parse_digits(&text, &value) != 0 || *text != '\0')
		return -EINVAL;
	*count = value;
	return 0;
}

/* "", "B", "K", "KB", "KiB", ... "E", in either case: all powers of 1024. 0: no such unit. */
static uint64_t parse_size_factor(const char *unit)
{
	static const char letters[] = "KMGTPE";
	uint64_t factor = KIB;

	if (*unit == '\0' || strcasecmp(unit, "B") == 0)
		return 1;
	for (const char *letter = letters; *letter != '\0'; letter++, factor *= KIB) {
		if ((unit[0] & ~0x20) != *letter)
			continue;
		if (unit[1] == '\0' || strcasecmp(unit + 1, "B") == 0 ||
			strcasecmp(unit + 1, "iB") == 0)
			return factor;
	}
	return 0;
}

int parse_size(const char *text, uint64_t *bytes)
{
	struct parse_number number;
	uint64_t factor;

	if (parse_number(&text, &number) != 0)
		return -EINVAL;
	factor = parse_size_factor(text);
	return factor == 0 ? -EINVAL : parse_scale(&number, factor, bytes);
}

int parse_share(const char *text, struct option_share *share)
{
	const char *at = text;
	struct parse_number number;
	uint64_t bytes;

	if (parse_number(&at, &number) != 0)
		return -EINVAL;
	if (strcmp(at, "%") != 0) {
		if (parse_size(text, &bytes) != 0)
			return -EINVAL;
		*share = (struct option_share){.bytes = bytes};
		return 0;
	}
	if (number.scale > 10 || number.whole > 100 ||
		(number.whole == 100 && number.fraction != 0))
		return -EINVAL; /* tenths of a percent are as fine as it gets */
	*share = (struct option_share){
		.permille = (uint32_t)(number.whole * 10 + number.fraction),
	};
	return 0;
}

int parse_duration(const char *text, uint64_t *ns)
{
	struct parse_number number;

	if (parse_number(&text, &number) != 0)
		return -EINVAL;
	if (*text == '\0')
		return parse_scale(&number, NS_PER_S, ns);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(parse_duration_units); i++) {
		if (strcmp(text, parse_duration_units[i].name) == 0)
			return parse_scale(&number, parse_duration_units[i].factor, ns);
	}
	return -EINVAL;
}

int parse_code(const char *text, struct option_code *code)
{
	uint64_t k, m;

	if (parse_digits(&text, &k) != 0 || *text++ != '+')
		return -EINVAL;
	if (parse_digits(&text, &m) != 0 || *text != '\0')
		return -EINVAL;
	if (k < 1 || k > OPTION_CODE_K_MAX || m > OPTION_CODE_M_MAX)
		return -EINVAL;
	*code = (struct option_code){.k = (uint32_t)k, .m = (uint32_t)m};
	return 0;
}

char *format_bytes(uint64_t bytes, char *text, size_t size)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	unsigned unit = 0;

	while (value >= 1024.0 && unit + 1 < FM_ARRAY_COUNT(units)) {
		value /= 1024.0;
		unit++;
	}
	snprintf(text, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return text;
}

char *format_duration(uint64_t ns, char *text, size_t size)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	double value = (double)ns;
	unsigned unit = 0;

	while (value >= 1000.0 && unit + 1 < FM_ARRAY_COUNT(units)) {
		value /= 1000.0;
		unit++;
	}
	snprintf(text, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
	return text;
}

/* The largest unit that divides the value, so that reading it back gives the same bytes. */
int parse_print_size(uint64_t bytes, char *text, size_t size)
{
	static const char letters[] = "KMGTPE";
	unsigned power = 0;

	while (bytes != 0 && bytes % KIB == 0 && power < sizeof(letters) - 1) {
		bytes /= KIB;
		power++;
	}
	if (power == 0)
		return snprintf(text, size, "%llu", (unsigned long long)bytes);
	return snprintf(text, size, "%llu%c", (unsigned long long)bytes, letters[power - 1]);
}

int parse_print_duration(uint64_t ns, char *text, size_t size)
{
	const struct parse_unit *unit = parse_duration_units;

	if (ns == 0)
		return snprintf(text, size, "0s");
	while (ns % unit->factor != 0) /* ends: the last factor is 1 */
		unit++;
	return snprintf(text, size, "%llu%s", (unsigned long long)(ns / unit->factor), unit->name);
}
