/*
 * apps/farmem_nodes_table.c: what agents say about their nodes as tables, one for each tree.
 *
 * A column is as wide as its widest cell. Texts come from agents: control characters are not
 * printed.
 */
#include <ctype.h>
#include <string.h>

#include "apps/farmem_nodes.h"
#include "base/options.h"

#define RED "\033[31m"
#define YELLOW "\033[33m"
#define BOLD "\033[1m"
#define PLAIN "\033[0m"
#define CELLS 11
#define CELL_BYTES 128

struct row {
	const char *colour;
	char cells[CELLS][CELL_BYTES];
};

static const char *const titles[CELLS] = {"NODE", "HOST", "STATE", "INCARN.", "CALLS", "WAIT",
	"MEMORY", "FREE", "LEASED", "COLUMNS", ""};

static void cell_text(char cell[CELL_BYTES], const char *text)
{
	unsigned i;

	for (i = 0; text[i] && i + 1 < CELL_BYTES; i++)
		cell[i] = isprint((unsigned char)text[i]) ? text[i] : '?';
	cell[i] = '\0';
}

static void cell_bytes(char cell[CELL_BYTES], double bytes)
{
	format_bytes((uint64_t)bytes, cell, CELL_BYTES);
}

/* "2 columns rebuilding: 45 %, 120.0 MiB/s, 3 s left" after what is there. */
static void cell_work(char cell[CELL_BYTES], const char *doing, const struct nodes_work *work)
{
	size_t used = strlen(cell);
	char rate[32];

	if (work->columns == 0)
		return;
	used += (size_t)snprintf(cell + used, CELL_BYTES - used, "%s%s %u: %.0f %%",
		used ? "; " : "", doing, work->columns, 100 * work->share);
	if (work->bytes_per_s > 0 && used < CELL_BYTES)
		used += (size_t)snprintf(cell + used, CELL_BYTES - used, ", %s/s",
			format_bytes((uint64_t)work->bytes_per_s, rate, sizeof(rate)));
	if (work->seconds >= 0 && used < CELL_BYTES)
		snprintf(cell + used, CELL_BYTES - used, ", %.0f s left", work->seconds);
}

static void cell_state(struct row *row, const struct nodes_node *node)
{
	bool up = strcmp(node->state, "up") == 0;

	row->colour = strcmp(node->state, "down") == 0 ? RED
		      : !up || node->quarantine_s > 0  ? YELLOW
						       : "";
	if (node->quarantine_s > 0)
		snprintf(row->cells[2], CELL_BYTES, "quarantined %.0f s", node->quarantine_s);
	else if (up && node->draining)
		cell_text(row->cells[2], "draining");
	else
		cell_text(row->cells[2], node->state);
}

static void row_fill(struct row *row, const struct nodes_node *node)
{
	bool serves = node->incarnation[0] != '\0';

	memset(row->cells, 0, sizeof(row->cells));
	cell_text(row->cells[0], node->name);
	cell_text(row->cells[1], node->host);
	cell_state(row, node);
	if (serves) {
		size_t digits = strlen(node->incarnation);

		cell_text(row->cells[3], node->incarnation + (digits > 8 ? digits - 8 : 0));
		snprintf(row->cells[4], CELL_BYTES, "%u", node->calls);
		if (node->delay_ns > 0)
			format_duration((uint64_t)node->delay_ns, row->cells[5], CELL_BYTES);
		else
			cell_text(row->cells[5], "-");
		cell_bytes(row->cells[6], node->memory_bytes);
		cell_bytes(row->cells[7], node->free_bytes);
		cell_bytes(row->cells[8], node->leased_bytes);
		snprintf(row->cells[9], CELL_BYTES, "%u", node->columns);
	}
	cell_work(row->cells[10], "rebuilding", &node->in);
	if (node->draining && node->out.columns == 0 && serves)
		snprintf(row->cells[10] + strlen(row->cells[10]),
			CELL_BYTES - strlen(row->cells[10]), "%snothing is left here",
			row->cells[10][0] ? "; " : "");
	cell_work(row->cells[10], "leaving", &node->out);
}

static unsigned widest(const cJSON *tree, unsigned cell)
{
	unsigned width = (unsigned)strlen(titles[cell]);

	for (const cJSON *item = nodes_first(tree); item; item = item->next) {
		struct nodes_node node;
		struct row row;

		nodes_read(item, &node);
		row_fill(&row, &node);
		width = FM_MAX(width, (unsigned)strlen(row.cells[cell]));
	}
	return width;
}

static void print_row(FILE *out, const unsigned *width, const char (*cells)[CELL_BYTES])
{
	unsigned last = CELLS;

	while (last > 1 && cells[last - 1][0] == '\0')
		last--; /* no white space at the end */
	for (unsigned i = 0; i < last; i++) {
		bool number = i >= 4 && i <= 9;
		int space = (int)(width[i] - strlen(cells[i]));

		fprintf(out, "%s%*s%s", i ? "  " : "", number ? space : 0, "", cells[i]);
		if (!number && i + 1 < last)
			fprintf(out, "%*s", space, "");
	}
}

static void print_head(FILE *out, const cJSON *tree, bool colour)
{
	const cJSON *name = cJSON_GetObjectItemCaseSensitive(tree, "tree");
	const cJSON *agent = cJSON_GetObjectItemCaseSensitive(tree, "agent");
	const cJSON *membership = cJSON_GetObjectItemCaseSensitive(agent, "membership");
	const cJSON *processes = cJSON_GetObjectItemCaseSensitive(tree, "processes"), *process;
	char text[CELL_BYTES];
	unsigned lost = nodes_columns_lost(tree);

	cell_text(text, cJSON_IsString(name) ? name->valuestring : "");
	fprintf(out, "%stree %s%s", colour ? BOLD : "", text, colour ? PLAIN : "");
	cell_text(text, cJSON_IsString(membership) ? membership->valuestring : "?");
	fprintf(out, "  (%s nodes) ", text);
	cJSON_ArrayForEach(process, processes)
	{
		const cJSON *pid = cJSON_GetObjectItemCaseSensitive(process, "pid");
		const cJSON *command = cJSON_GetObjectItemCaseSensitive(process, "command");

		cell_text(text, cJSON_IsString(command) ? command->valuestring : "?");
		fprintf(out, " %.0f %s", cJSON_IsNumber(pid) ? pid->valuedouble : 0, text);
	}
	if (lost)
		fprintf(out, "  %s%u columns lost%s", colour ? RED : "", lost, colour ? PLAIN : "");
	fputc('\n', out);
}

static void print_tree(FILE *out, const cJSON *tree, bool colour)
{
	static char head[CELLS][CELL_BYTES];
	unsigned width[CELLS];

	print_head(out, tree, colour);
	for (unsigned i = 0; i < CELLS; i++) {
		width[i] = widest(tree, i);
		cell_text(head[i], titles[i]);
	}
	print_row(out, width, (const char(*)[CELL_BYTES])head);
	fputc('\n', out);
	for (const cJSON *item = nodes_first(tree); item; item = item->next) {
		struct nodes_node node;
		struct row row;

		nodes_read(item, &node);
		row_fill(&row, &node);
		fputs(colour ? row.colour : "", out);
		print_row(out, width, (const char(*)[CELL_BYTES])row.cells);
		fprintf(out, "%s\n", colour && row.colour[0] ? PLAIN : "");
	}
}

void nodes_render(FILE *out, const struct nodes_view *view, bool colour)
{
	const cJSON *tree;
	bool any = false;

	cJSON_ArrayForEach(tree, view->trees)
	{
		if (any)
			fputc('\n', out);
		print_tree(out, tree, colour);
		any = true;
	}
	if (view->silent)
		fprintf(out, "%s%u agents gave no answer\n", any ? "\n" : "", view->silent);
	else if (!any)
		fprintf(out, "no process uses far memory, so no nodes are known "
			     "(a heap that fits its budget starts no agent)\n");
}
