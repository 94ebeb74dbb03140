/*
 * base/options_fuzz.c: random bytes into every parser a user's text can reach.
 *
 * With clang it is a libFuzzer target (-runs=N, or a corpus directory); with other compilers it has
 * a driver that makes inputs from a fixed seed out of pieces of valid text. Both check what must
 * hold for any input: a refused value changes nothing, an accepted one reads back as itself, an
 * error is one printable line.
 */
#include "base/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/fault_point.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

#define INPUT_MAX 6000

static void fuzz_check_error(int result, const struct option_error *error)
{
	size_t length = strnlen(error->text, sizeof(error->text));

	FM_ASSERT(result == 0 || result == -EINVAL);
	FM_ASSERT_LT(length, sizeof(error->text));
	FM_ASSERT_EQ(result != 0, length != 0);
	for (size_t i = 0; i < length; i++)
		FM_ASSERT((unsigned char)error->text[i] >= ' ' && error->text[i] != 0x7f);
}

static void fuzz_set(const char *name, const char *value)
{
	static struct fm_config config, before, back;
	static char text[4096];
	struct option_error error;
	int result;

	memset(&config, 0, sizeof(config));
	FM_ASSERT_EQ(options_set_defaults(config_specs, config_specs_count, &config, &error), 0);
	before = config;
	result = options_set(config_specs, config_specs_count, &config, name, value, &error);
	fuzz_check_error(result, &error);
	if (result != 0) {
		FM_ASSERT_EQ(memcmp(&config, &before, sizeof(config)), 0);
		return;
	}
	for (unsigned i = 0; i < config_specs_count; i++) {
		if (strcmp(config_specs[i].name, name) != 0)
			continue;
		back = before;
		FM_ASSERT(options_format(&config_specs[i], &config, text, sizeof(text)) >= 0);
		FM_ASSERT_EQ(
			options_set(config_specs, config_specs_count, &back, name, text, &error),
			0);
		FM_ASSERT_EQ(memcmp(&config, &back, sizeof(config)), 0);
	}
	fuzz_check_error(config_check(&config, &error), &error);
}

static void fuzz_parsers(const char *text)
{
	uint64_t number;
	struct option_share share;
	struct option_code code;

	if (parse_size(text, &number) == 0 && parse_count(text, &number) == 0)
		FM_ASSERT(strspn(text, "0123456789") == strlen(text));
	if (parse_share(text, &share) == 0)
		FM_ASSERT(share.permille <= 1000 && (share.permille == 0 || share.bytes == 0));
	if (parse_code(text, &code) == 0)
		FM_ASSERT(code.k >= 1 && code.k <= 16 && code.m <= 4);
	if (parse_duration(text, &number) == 0)
		FM_ASSERT(text[0] >= '0' && text[0] <= '9');
	if (fault_arm_from_text(text) != 0)
		FM_ASSERT_EQ(fault_points_on, 0);
	fault_disarm_all();
}

static void fuzz_file(const uint8_t *bytes, size_t length)
{
	static struct fm_config config;
	struct option_error error;
	char path[64];
	int fd = memfd_create("options_fuzz", MFD_CLOEXEC);

	FM_ASSERT(fd >= 0);
	FM_ASSERT_EQ(write(fd, bytes, length), length);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fuzz_check_error(
		options_read_file(config_specs, config_specs_count, &config, path, &error), &error);
	close(fd);
}

/* The text cut at newlines becomes the words of a command line. */
static void fuzz_flags(char *text)
{
	static struct fm_config config;
	struct option_error error;
	char *words[16] = {text};
	int count = 1, index = 0;

	for (char *c = text; *c != '\0' && count < 16; c++) {
		if (*c == '\n') {
			*c = '\0';
			words[count++] = c + 1;
		}
	}
	fuzz_check_error(options_read_flags(config_specs, config_specs_count, &config, count, words,
				 &index, &error),
		&error);
	FM_ASSERT(index >= 0 && index <= count);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	static char text[INPUT_MAX + 1];

	if (length == 0 || length > INPUT_MAX)
		return 0;
	fuzz_file(bytes, length);
	memcpy(text, bytes + 1, length - 1);
	text[length - 1] = '\0';
	fuzz_parsers(text);
	fuzz_set(config_specs[bytes[0] % config_specs_count].name, text);
	fuzz_flags(text);
	return 0;
}

#ifndef FUZZ_BY_LIBFUZZER

#define DRIVER_RUNS 40000u

static uint64_t driver_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Pieces of valid text, single bytes, and now and then a long run of one byte. */
static size_t driver_append(uint8_t *input, size_t length, uint64_t *state)
{
	static const char *const pieces[] = {"--local", "local", "=", " = ", "25%", "64M", "1.5G",
		"4+2", "\n", "h1:7400", ",", "[::1]:80", "200ms", "min", "--", "-l", "region-size",
		"nodes", "18446744073709551615", "9", "0", ".", "#", "kill", "\t", "%",
		"99999999999999999999"};
	uint64_t dice = driver_random(state);
	size_t run = dice % 50 == 0 ? driver_random(state) % 5000 : 1;
	const char *piece = pieces[(dice >> 8) % FM_ARRAY_COUNT(pieces)];

	if (dice & (1u << 20) && length + strlen(piece) <= INPUT_MAX) {
		memcpy(input + length, piece, strlen(piece));
		return length + strlen(piece);
	}
	run = FM_MIN(run, INPUT_MAX - length);
	memset(input + length, (int)((dice >> 24) & 0xff), run);
	return length + run;
}

int main(int argc, char **argv)
{
	static uint8_t input[INPUT_MAX];
	uint64_t state = 0x5eed;
	unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : DRIVER_RUNS;

	for (unsigned long run = 0; run < runs; run++) {
		uint64_t parts = 1 + driver_random(&state) % 12;
		size_t length = 0;

		input[length++] = (uint8_t)driver_random(&state);
		while (parts-- > 0)
			length = driver_append(input, length, &state);
		LLVMFuzzerTestOneInput(input, length);
	}
	printf("ok   %lu inputs, deterministic\n", runs);
	return 0;
}

#endif
