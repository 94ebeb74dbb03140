/*
 * apps/farmem_report_stack.c: from program counters and copies of stacks to lines of code, with
 * elfutils' libdw: it finds the binaries by the recorded map of the process, follows the stack by
 * their unwind tables, and names lines where there is debug information.
 *
 * Of a faulting thread only pc and sp are known. That is enough for code compiled without frame
 * pointers; where a frame hangs on a register that was not saved yet, the stack is cut there.
 */
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "apps/farmem_report.h"

#define DWARF_RSP 7 /* x86-64 psABI, figure 3.36 */
#define DWARF_SP_AARCH64 31

/* What libdw's callbacks need to know. */
struct stack_reader {
	struct report *report;
	struct report_sample *current;
	const struct report_place *frames[REPORT_FRAMES_MAX];
	bool failed; /* no memory */
};

/* --- places ------------------------------------------------------------------------------------
 */

static int place_compare(const void *left, const void *right)
{
	const struct report_place *a = left, *b = right;
	int order = strcmp(a->function, b->function);

	if (order == 0)
		order = strcmp(a->module, b->module);
	if (order == 0)
		order = (a->line > b->line) - (a->line < b->line);
	if (order == 0)
		order = strcmp(a->file ? a->file : "", b->file ? b->file : "");
	return order;
}

static void place_free(void *node)
{
	struct report_place *place = node;

	if (place == NULL)
		return;
	free(place->function);
	free(place->file);
	free(place->module);
	free(place);
}

/* The one place equal to `wanted`; a copy is made for the first. NULL: no memory. */
static const struct report_place *place_intern(
	struct report *report, const struct report_place *wanted)
{
	struct report_place *copy, **found = tfind(wanted, &report->places, place_compare);

	if (found != NULL)
		return *found;
	copy = calloc(1, sizeof(*copy));
	if (copy == NULL)
		return NULL;
	copy->function = strdup(wanted->function);
	copy->file = wanted->file ? strdup(wanted->file) : NULL;
	copy->module = strdup(wanted->module);
	copy->line = wanted->line;
	if (copy->function == NULL || copy->module == NULL ||
		(wanted->file != NULL && copy->file == NULL) ||
		tsearch(copy, &report->places, place_compare) == NULL) {
		place_free(copy);
		return NULL;
	}
	return copy;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

static const struct report_place *place_of(struct report *report, Dwfl *dwfl, Dwarf_Addr pc)
{
	char number[32], text[256];
	Dwfl_Module *module = dwfl_addrmodule(dwfl, pc);
	const char *name = "", *function = NULL;
	struct report_place place = {0};
	GElf_Off offset = 0;
	GElf_Sym symbol;
	int line = 0;

	if (module != NULL) {
		Dwfl_Line *at = dwfl_module_getsrc(module, pc);

		name = dwfl_module_info(module, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
		function = dwfl_module_addrinfo(module, pc, &offset, &symbol, NULL, NULL, NULL);
		place.file = at != NULL ? (char *)(uintptr_t)dwfl_lineinfo(
						  at, NULL, &line, NULL, NULL, NULL)
					: NULL;
	}
	snprintf(number, sizeof(number), "0x%llx", (unsigned long long)pc);
	if (function != NULL && place.file == NULL) {
		/* No lines: the offset tells places in a function apart. */
		snprintf(text, sizeof(text), "%.200s+0x%llx", function, (unsigned long long)offset);
		function = text;
	}
	place.function = (char *)(uintptr_t)(function != NULL ? function : number);
	place.module = (char *)(uintptr_t)base_name(name != NULL ? name : "");
	place.line = line;
	return place_intern(report, &place);
}

/* --- libdw's callbacks --------------------------------------------------------------------------
 */

static pid_t next_thread(Dwfl *dwfl, void *argument, void **thread)
{
	(void)dwfl, (void)argument, (void)thread;
	return 0;
}

static bool get_thread(Dwfl *dwfl, pid_t tid, void *argument, void **thread)
{
	(void)dwfl, (void)tid;
	*thread = argument;
	return true;
}

static bool read_stack(Dwfl *dwfl, Dwarf_Addr at, Dwarf_Word *word, void *argument)
{
	const struct stack_reader *reader = argument;
	const struct profile_sample *sample = reader->current->sample;

	(void)dwfl;
	if (at < sample->sp || sample->stack_bytes < sizeof(*word) ||
		at - sample->sp > sample->stack_bytes - sizeof(*word))
		return false;
	memcpy(word, reader->current->stack + (at - sample->sp), sizeof(*word));
	return true;
}

static bool set_registers(Dwfl_Thread *thread, void *argument)
{
	const struct stack_reader *reader = argument;
	const struct profile_sample *sample = reader->current->sample;
	Dwarf_Word sp = sample->sp;
#ifdef __aarch64__
	int number = DWARF_SP_AARCH64;
#else
	int number = DWARF_RSP;
#endif

	dwfl_thread_state_register_pc(thread, sample->pc);
	return dwfl_thread_state_registers(thread, number, 1, &sp);
}

static const Dwfl_Thread_Callbacks thread_callbacks = {
	.next_thread = next_thread,
	.get_thread = get_thread,
	.memory_read = read_stack,
	.set_initial_registers = set_registers,
};

static int add_frame(Dwfl_Frame *frame, void *argument)
{
	struct stack_reader *reader = argument;
	struct report_sample *sample = reader->current;
	bool activation = true;
	Dwarf_Addr pc;
	Dwfl *dwfl = dwfl_thread_dwfl(dwfl_frame_thread(frame));

	if (!dwfl_frame_pc(frame, &pc, &activation) || sample->frames_count == REPORT_FRAMES_MAX)
		return DWARF_CB_ABORT;
	if (sample->frames_count == 0)
		activation = true; /* the access itself, not a return address */
	const struct report_place *place = place_of(reader->report, dwfl, activation ? pc : pc - 1);
	if (place == NULL) {
		reader->failed = true;
		return DWARF_CB_ABORT;
	}
	reader->frames[sample->frames_count++] = place;
	return DWARF_CB_OK;
}

/* --- a process ----------------------------------------------------------------------------------
 */

static int find_elf(Dwfl_Module *module, void **user, const char *name, Dwarf_Addr base,
	char **file_name, Elf **elf)
{
	return dwfl_linux_proc_find_elf(module, user, name, base, file_name, elf);
}

static char *debuginfo_path = NULL;
static const Dwfl_Callbacks dwfl_callbacks = {
	.find_elf = find_elf,
	.find_debuginfo = dwfl_standard_find_debuginfo,
	.debuginfo_path = &debuginfo_path,
};

/* NULL: nothing is known of its modules. */
static Dwfl *process_open(const struct report_process *process, struct stack_reader *reader)
{
	Dwfl *dwfl;
	FILE *maps;
	int rc = -1;

	if (process->maps == NULL || process->maps_bytes == 0)
		return NULL;
	dwfl = dwfl_begin(&dwfl_callbacks);
	maps = fmemopen((void *)(uintptr_t)process->maps, process->maps_bytes, "r");
	if (dwfl != NULL && maps != NULL) {
		dwfl_report_begin(dwfl);
		rc = dwfl_linux_proc_maps_report(dwfl, maps);
		dwfl_report_end(dwfl, NULL, NULL);
	}
	if (maps != NULL)
		fclose(maps);
	if (rc == 0 &&
		dwfl_attach_state(dwfl, NULL, (pid_t)process->pid, &thread_callbacks, reader))
		return dwfl;
	if (rc != 0) {
		dwfl_end(dwfl);
		return NULL;
	}
	return dwfl; /* names, but no stacks */
}

/* What is known without modules: the address alone. */
static void sample_bare(struct stack_reader *reader, Dwfl *dwfl)
{
	struct report_sample *sample = reader->current;
	char number[32];
	struct report_place place = {.function = number, .module = (char *)(uintptr_t) ""};
	const struct report_place *found;

	snprintf(number, sizeof(number), "0x%llx", (unsigned long long)sample->sample->pc);
	if (sample->sample->pc == 0)
		snprintf(number, sizeof(number), "(unknown)");
	found = dwfl != NULL && sample->sample->pc != 0
			? place_of(reader->report, dwfl, sample->sample->pc)
			: place_intern(reader->report, &place);
	reader->failed |= found == NULL;
	reader->frames[0] = found;
	sample->frames_count = found != NULL;
	sample->cut = true;
}

static int sample_resolve(struct stack_reader *reader, struct report_sample *sample, Dwfl *dwfl)
{
	reader->current = sample;
	if (dwfl != NULL && sample->sample->pc != 0)
		sample->cut = dwfl_getthread_frames(
				      dwfl, (pid_t)sample->sample->tid, add_frame, reader) != 0;
	if (sample->frames_count == 0 && !reader->failed)
		sample_bare(reader, dwfl);
	if (reader->failed)
		return -ENOMEM;
	sample->frames = calloc(sample->frames_count, sizeof(*sample->frames));
	if (sample->frames == NULL)
		return -ENOMEM;
	memcpy(sample->frames, reader->frames, sample->frames_count * sizeof(*sample->frames));
	return 0;
}

int report_resolve(struct report *report)
{
	static struct stack_reader reader;
	int rc = 0;

	reader = (struct stack_reader){.report = report};
	unsetenv("DEBUGINFOD_URLS"); /* nothing of a report goes out on the network */
	for (uint32_t p = 0; p < report->processes_count && rc == 0; p++) {
		Dwfl *dwfl = process_open(&report->processes[p], &reader);

		for (uint64_t i = 0; i < report->samples_count && rc == 0; i++)
			if (report->samples[i].process == p)
				rc = sample_resolve(&reader, &report->samples[i], dwfl);
		if (dwfl != NULL)
			dwfl_end(dwfl);
	}
	return rc;
}

void report_free(struct report *report)
{
	for (uint64_t i = 0; i < report->samples_count; i++)
		free(report->samples[i].frames);
	tdestroy(report->places, place_free);
	free(report->samples);
	free(report->processes);
	free(report->lines);
	if (report->file != NULL)
		munmap(report->file, report->file_bytes);
}
