/*
 * apps/farmem_report.c: `farmem report`: which lines of code fault, how often, at what cost.
 *
 * Exit: 0, 1 the file cannot be read or the picture not be written, 2 the command line.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_report.h"
#include "base/options_table.h"

#define REPORT_DEFAULT_FILE "farmem.data"

struct report_options {
	bool json;
	char svg[4096];
	uint64_t lines, percent;
};

const struct option_spec report_specs[] = {
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = offsetof(struct report_options, json),
		.help = "print one JSON object",
		.flag_only = true},
	{.name = "svg",
		.type = OPTION_STRING,
		.offset = offsetof(struct report_options, svg),
		.size = sizeof(((struct report_options *)0)->svg),
		.argument = "FILE",
		.help = "draw a flame graph into this file; its width is time waited",
		.flag_only = true},
	{.name = "percent",
		.type = OPTION_COUNT,
		.offset = offsetof(struct report_options, percent),
		.value = "95",
		.min = 1,
		.max = 100,
		.argument = "PERCENT",
		.help = "name the lines that make up so much of all faults",
		.flag_only = true},
	{.name = "lines",
		.type = OPTION_COUNT,
		.offset = offsetof(struct report_options, lines),
		.value = "1000",
		.min = 1,
		.argument = "COUNT",
		.help = "at most so many of them",
		.flag_only = true},
};
const unsigned report_specs_count = FM_ARRAY_COUNT(report_specs);

static int report_draw(struct report *report, const char *path)
{
	FILE *out = fopen(path, "w");
	int rc = out != NULL ? report_draw_flame(out, report) : -errno;

	if (out != NULL && fclose(out) != 0 && rc == 0)
		rc = -errno;
	if (rc < 0)
		complain("--svg %s: %s", path, strerror(-rc));
	return rc;
}

static int report_show(struct report *report, const struct report_options *options)
{
	double share = (double)options->percent / 100;
	int rc = report_resolve(report);

	if (rc == 0)
		rc = report_add_up(report);
	if (rc < 0) {
		complain("not enough memory for the report");
		return rc;
	}
	if (options->json)
		rc = report_print_json(stdout, report, share, options->lines);
	else
		report_print_text(stdout, report, share, options->lines);
	if (rc == 0 && options->svg[0] != '\0')
		rc = report_draw(report, options->svg);
	return rc;
}

int report_command(int argc, char **argv)
{
	static struct report_options options;
	static struct report report;
	struct option_error error = {""};
	const char *file = REPORT_DEFAULT_FILE;
	int index = 0, rc, files = 0;

	if (command_wants_help(argc, argv)) {
		command_print_help("report");
		return EXIT_OK;
	}
	rc = options_set_defaults(report_specs, report_specs_count, &options, &error);
	while (rc == 0) {
		rc = options_read_flags(
			report_specs, report_specs_count, &options, argc, argv, &index, &error);
		if (rc < 0 || index >= argc)
			break;
		file = argv[index++];
		if (++files > 1)
			rc = option_fail(&error, "%s: one file is enough", file);
	}
	if (rc < 0) {
		complain("%s", error.text);
		return EXIT_USAGE;
	}
	rc = report_read(&report, file);
	if (rc == 0)
		rc = report_show(&report, &options);
	report_free(&report);
	return rc == 0 ? EXIT_OK : EXIT_FAILED;
}
