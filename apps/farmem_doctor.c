/*
 * apps/farmem_doctor.c: `farmem doctor`: runs the checks, prints a line for each, as text or JSON.
 *
 * Exit 0 when farmem can run here (warnings included), 1 when it cannot, 2 for the user's mistakes.
 */
#include <cJSON.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_doctor.h"

struct doctor_options {
	bool json;
	char nodes[sizeof(((struct fm_config *)0)->nodes)];
	char dir[sizeof(((struct fm_config *)0)->dir)];
};

const struct option_spec doctor_specs[] = {
	{.name = "json",
		.type = OPTION_BOOL,
		.offset = offsetof(struct doctor_options, json),
		.help = "print one JSON object instead of lines",
		.flag_only = true},
	{.name = "nodes",
		.type = OPTION_STRING,
		.offset = offsetof(struct doctor_options, nodes),
		.size = sizeof(((struct doctor_options *)0)->nodes),
		.argument = "HOST:PORT,...",
		.help = "also ask these memory nodes (default: those of the configuration)",
		.flag_only = true},
	{.name = "dir",
		.type = OPTION_STRING,
		.offset = offsetof(struct doctor_options, dir),
		.size = sizeof(((struct doctor_options *)0)->dir),
		.argument = "DIRECTORY",
		.help = "run-time directory to check (default: that of the configuration)",
		.flag_only = true},
};
const unsigned doctor_specs_count = FM_ARRAY_COUNT(doctor_specs);

static const struct doctor_check *const check_lists[] = {
	doctor_machine_checks,
	doctor_rdma_checks,
	doctor_farmem_checks,
};

static void finding_set(struct finding *finding, enum verdict verdict, const char *cure,
	const char *format, va_list arguments)
{
	finding->verdict = verdict;
	snprintf(finding->cure, sizeof(finding->cure), "%s", cure);
	vsnprintf(finding->text, sizeof(finding->text), format, arguments);
}

void finding_ok(struct finding *finding, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	finding_set(finding, VERDICT_OK, "", format, arguments);
	va_end(arguments);
}

void finding_warn(struct finding *finding, const char *cure, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	finding_set(finding, VERDICT_WARN, cure, format, arguments);
	va_end(arguments);
}

void finding_fail(struct finding *finding, const char *cure, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	finding_set(finding, VERDICT_FAIL, cure, format, arguments);
	va_end(arguments);
}

static const char *verdict_name(enum verdict verdict)
{
	static const char *const names[] = {"OK", "WARN", "FAIL"};

	return names[verdict];
}

static void print_line(const char *name, const struct finding *finding)
{
	static const char *const colours[] = {"\033[32m", "\033[33m", "\033[31m"};
	bool colour = isatty(STDOUT_FILENO);

	printf("%s%-4s%s  %-14s %s\n", colour ? colours[finding->verdict] : "",
		verdict_name(finding->verdict), colour ? "\033[0m" : "", name, finding->text);
	if (finding->cure[0])
		printf("      %-14s -> %s\n", "", finding->cure);
}

static void add_json(cJSON *checks, const char *name, const struct finding *finding)
{
	cJSON *check = cJSON_CreateObject();

	cJSON_AddStringToObject(check, "name", name);
	cJSON_AddStringToObject(check, "verdict", verdict_name(finding->verdict));
	cJSON_AddStringToObject(check, "text", finding->text);
	cJSON_AddStringToObject(check, "cure", finding->cure);
	cJSON_AddItemToArray(checks, check);
}

static void print_json(cJSON *checks, bool can_run)
{
	cJSON *report = cJSON_CreateObject();
	char *text;

	cJSON_AddStringToObject(report, "version", FM_VERSION);
	cJSON_AddBoolToObject(report, "can_run", can_run);
	cJSON_AddItemToObject(report, "checks", checks);
	text = cJSON_Print(report);
	printf("%s\n", text ? text : "");
	free(text);
	cJSON_Delete(report);
}

static int doctor_examine(const struct doctor *doctor, bool json)
{
	cJSON *checks = json ? cJSON_CreateArray() : NULL;
	unsigned counts[3] = {0};

	for (unsigned list = 0; list < FM_ARRAY_COUNT(check_lists); list++)
		for (const struct doctor_check *check = check_lists[list]; check->name; check++) {
			struct finding finding = {VERDICT_OK, "", ""};

			check->look(doctor, &finding);
			counts[finding.verdict]++;
			if (json)
				add_json(checks, check->name, &finding);
			else
				print_line(check->name, &finding);
		}
	if (json)
		print_json(checks, counts[VERDICT_FAIL] == 0);
	else if (counts[VERDICT_FAIL])
		printf("\nfarmem cannot run here yet: %u FAIL above say what to type\n",
			counts[VERDICT_FAIL]);
	else
		printf("\nfarmem can run here%s\n",
			counts[VERDICT_WARN] ? " (see the WARN above)" : "");
	return counts[VERDICT_FAIL] ? EXIT_FAILED : EXIT_OK;
}

int doctor_command(int argc, char **argv)
{
	static struct doctor doctor;
	static struct doctor_options options;
	struct option_error error = {""};
	int index = 0;

	if (command_wants_help(argc, argv)) {
		command_print_help("doctor");
		return EXIT_OK;
	}
	if (options_set_defaults(doctor_specs, doctor_specs_count, &options, &error) < 0 ||
		options_read_flags(doctor_specs, doctor_specs_count, &options, argc, argv, &index,
			&error) < 0) {
		complain("%s", error.text);
		return EXIT_USAGE;
	}
	if (index < argc) {
		complain("doctor takes no arguments, only flags: '%s'", argv[index]);
		return EXIT_USAGE;
	}
	doctor.config_status = config_load(&doctor.config, &doctor.config_error);
	if (options.nodes[0])
		memcpy(doctor.config.nodes, options.nodes, sizeof(options.nodes));
	if (options.dir[0])
		memcpy(doctor.config.dir, options.dir, sizeof(options.dir));
	if (doctor.config_status == 0)
		doctor.config_status = config_check(&doctor.config, &doctor.config_error);
	uffd_probe(&doctor.uffd);
	return doctor_examine(&doctor, options.json);
}
