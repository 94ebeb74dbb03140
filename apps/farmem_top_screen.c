/*
 * apps/farmem_top_screen.c: a sample as lines of text: a block per process, with its memory nodes.
 *
 * Rates come from two samples of the same process. A field the agent did not send shows as 0.
 */
#include <string.h>
#include <time.h>

#include "apps/farmem_top.h"
#include "base/clock.h"
#include "base/options.h"

#define BAR_WIDTH 24
#define NUMBER_MAX 1e18

#define BOLD "\033[1m"
#define RED "\033[31m"
#define YELLOW "\033[33m"
#define PLAIN "\033[0m"

struct view {
	FILE *out;
	bool colour;
	const cJSON *now, *before; /* one process; before may be NULL */
	double seconds;            /* between the two */
};

/* "fault_ns.p50" or "near_bytes"; 0 when it is not there. */
static double number(const cJSON *process, const char *name, const char *part)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(process, name);

	if (part)
		item = cJSON_GetObjectItemCaseSensitive(item, part);
	/* What an agent sends may be anything: keep it where casts to integers are defined. */
	return cJSON_IsNumber(item) && item->valuedouble > 0 && item->valuedouble < NUMBER_MAX
		       ? item->valuedouble
		       : 0;
}

static unsigned count(const cJSON *object, const char *name)
{
	return (unsigned)FM_MIN(number(object, name, NULL), 1e9);
}

static const char *string(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	return cJSON_IsString(item) ? item->valuestring : "?";
}

/* The elements of an array in the process, linked by next; NULL when there is none. */
static const cJSON *first_of(const cJSON *process, const char *name)
{
	const cJSON *array = cJSON_GetObjectItemCaseSensitive(process, name);

	return cJSON_IsArray(array) ? array->child : NULL;
}

static double gauge(const struct view *view, const char *name)
{
	return number(view->now, name, NULL);
}

static double rate(const struct view *view, const char *name)
{
	double grown;

	if (!view->before || view->seconds <= 0)
		return 0;
	grown = number(view->now, name, NULL) - number(view->before, name, NULL);
	return grown > 0 ? grown / view->seconds : 0;
}

static const char *bytes(double value, char text[32])
{
	return format_bytes(value > 0 ? (uint64_t)value : 0, text, 32);
}

static void paint(const struct view *view, const char *code)
{
	if (view->colour)
		fputs(code, view->out);
}

static void bar(const struct view *view, double share)
{
	int filled = (int)(FM_MIN(share, 1.0) * BAR_WIDTH + 0.5);

	fprintf(view->out, "[%.*s%.*s]", filled, "########################", BAR_WIDTH - filled,
		"........................");
}

/* "4+2 x14", "3+2 x2": what the far bytes are coded with, narrower codes in yellow. */
static void render_codes(const struct view *view)
{
	const cJSON *group = first_of(view->now, "groups");
	unsigned wished_k = count(view->now, "code_k"), wished_m = count(view->now, "code_m");
	bool any = false;

	for (; group; group = group->next) {
		unsigned k = count(group, "k"), m = count(group, "m");
		bool narrow = wished_k && (k < wished_k || m < wished_m);

		if (strcmp(string(group, "state"), "retired") == 0)
			continue;
		paint(view, narrow ? YELLOW : "");
		fprintf(view->out, "%s%u+%u x%u %s%s", any ? ", " : "", k, m, count(group, "count"),
			string(group, "state"), narrow ? " (NARROWER than asked for)" : "");
		paint(view, narrow ? PLAIN : "");
		any = true;
	}
	if (!any)
		fprintf(view->out, "none yet");
}

static void render_memory(const struct view *view)
{
	double near = gauge(view, "near_bytes") + gauge(view, "staging_bytes");
	double budget = gauge(view, "budget_bytes"), far = gauge(view, "far_bytes");
	double used = gauge(view, "slots_used_bytes"), dead = gauge(view, "dead_bytes");
	char a[32], b[32], c[32], d[32];

	fprintf(view->out, "  near     ");
	bar(view, budget > 0 ? near / budget : 0);
	fprintf(view->out, " %s of %s; staging %s, not registered %s\n", bytes(near, a),
		budget > 0 ? bytes(budget, b) : "?", bytes(gauge(view, "staging_bytes"), c),
		bytes(gauge(view, "fresh_bytes"), d));
	fprintf(view->out, "  far      ");
	bar(view, near + far > 0 ? far / (near + far) : 0);
	fprintf(view->out, " %s far only, retained %s, dead %s (%.1f %% of the slots)\n",
		bytes(far, a), bytes(gauge(view, "retained_bytes"), b), bytes(dead, c),
		used > 0 ? 100 * dead / used : 0);
}

static void render_rates(const struct view *view)
{
	fprintf(view->out,
		"  faults   %.0f/s: %.0f fetched, %.0f rescued, %.0f joined, %.0f zero; read-ahead "
		"%.0f/s\n",
		rate(view, "faults"), rate(view, "faults_fetched"), rate(view, "faults_rescued"),
		rate(view, "faults_joined"), rate(view, "faults_zero"), rate(view, "read_ahead"));
	fprintf(view->out,
		"  swap-in  %.0f us p50, %.0f us p99, the network alone %.0f / %.0f (since the "
		"start)\n",
		number(view->now, "fault_ns", "p50") / 1e3,
		number(view->now, "fault_ns", "p99") / 1e3,
		number(view->now, "fetch_ns", "p50") / 1e3,
		number(view->now, "fetch_ns", "p99") / 1e3);
	fprintf(view->out,
		"  swap-out %.1f MB/s, clean evictions %.0f/s, first touches held back %.1f %% of "
		"the "
		"time\n",
		rate(view, "swap_out_pages") * FM_PAGE_SIZE / 1e6, rate(view, "clean_evictions"),
		rate(view, "stall_ns") / 1e7);
}

static void render_trouble(const struct view *view)
{
	double lost = gauge(view, "lost_pages"), degraded = rate(view, "degraded_reads");

	fprintf(view->out, "  trouble  ");
	paint(view, degraded > 0 ? YELLOW : "");
	fprintf(view->out, "degraded reads %.0f/s (%.0f in all)", degraded,
		gauge(view, "degraded_reads"));
	paint(view, degraded > 0 ? PLAIN : "");
	fprintf(view->out, ", bad checksums %.0f, late reads %.0f, failed stores %.0f, ",
		gauge(view, "crc_mismatches"), gauge(view, "fetch_timeouts"),
		gauge(view, "store_failures"));
	paint(view, lost > 0 ? RED : "");
	fprintf(view->out, "LOST pages %.0f\n", lost);
	paint(view, lost > 0 ? PLAIN : "");
}

/* What of the columns on their way is done, and how fast. kind: "decode" or "copy". */
static void render_repairs(const struct view *view, const char *kind, const char *doing)
{
	const cJSON *repair = first_of(view->now, "repairs");
	double done = 0, total = 0, speed = 0;
	unsigned columns = 0;
	char a[32];

	for (; repair; repair = repair->next) {
		if (strcmp(string(repair, "kind"), kind) != 0)
			continue;
		columns++;
		done += number(repair, "done_bytes", NULL);
		total += number(repair, "total_bytes", NULL);
		speed += number(repair, "bytes_per_s", NULL);
	}
	if (columns)
		fprintf(view->out, ", %s %u: %.0f %%, %s/s", doing, columns,
			total > 0 ? 100 * FM_MIN(done / total, 1.0) : 0, bytes(speed, a));
}

/* How many groups are in a state. */
static unsigned groups_in(const struct view *view, const char *state)
{
	const cJSON *group = first_of(view->now, "groups");
	unsigned sum = 0;

	for (; group; group = group->next)
		if (strcmp(string(group, "state"), state) == 0)
			sum += count(group, "count");
	return sum;
}

static void render_redundancy(const struct view *view)
{
	unsigned lost = count(view->now, "columns_lost");
	unsigned evacuated = groups_in(view, "evacuate");
	char a[32], b[32];

	fprintf(view->out, "  repair   ");
	paint(view, lost ? RED : "");
	if (lost)
		fprintf(view->out, "columns lost %u, for %.1f s", lost,
			gauge(view, "redundancy_lost_ns") / NS_PER_S);
	else
		fprintf(view->out, "no column lost");
	paint(view, lost ? PLAIN : "");
	render_repairs(view, "decode", "rebuilding");
	render_repairs(view, "copy", "draining");
	if (evacuated)
		fprintf(view->out, ", evacuating %u groups", evacuated);
	fprintf(view->out, "; so far rebuilt %.0f (%s), moved %.0f (%s), spansets evacuated %.0f\n",
		gauge(view, "repaired_columns"), bytes(gauge(view, "repaired_bytes"), a),
		gauge(view, "drained_columns"), bytes(gauge(view, "drained_bytes"), b),
		gauge(view, "evacuated_spansets"));
}

static void render_compaction(const struct view *view)
{
	double far = gauge(view, "far_bytes") + gauge(view, "retained_bytes");
	double dead = gauge(view, "dead_bytes"), refused = gauge(view, "merge_refusals");
	char a[32], b[32];

	fprintf(view->out,
		"  compact  dead %s (%.0f %%), merged %.0f pairs/s with %s/s between nodes, "
		"rewritten %.0f/s; given up %.0f",
		bytes(dead, a), dead > 0 ? 100 * dead / (dead + far) : 0,
		rate(view, "merged_pairs"), bytes(rate(view, "merge_bytes"), b),
		rate(view, "repacked_spansets"), gauge(view, "merge_aborts"));
	paint(view, refused > 0 ? YELLOW : "");
	fprintf(view->out, ", refused %.0f\n", refused);
	paint(view, refused > 0 ? PLAIN : "");
}

static void render_care(const struct view *view)
{
	double used = gauge(view, "slots_used_bytes"), scrubbed = gauge(view, "scrubbed_bytes");
	double starts = gauge(view, "agent_starts"), bad = gauge(view, "scrub_mismatches");
	char a[32];

	fprintf(view->out,
		"  care     hedged reads %.0f/s (%.0f/s won), around slow nodes %.0f/s; scrubbed "
		"%s/s, all of it %.2f times, ",
		rate(view, "hedged_reads"), rate(view, "hedged_wins"), rate(view, "slow_reads"),
		bytes(rate(view, "scrubbed_bytes"), a), used > 0 ? scrubbed / used : 0);
	paint(view, bad > 0 ? YELLOW : "");
	fprintf(view->out, "bad %.0f", bad);
	paint(view, bad > 0 ? PLAIN : "");
	fprintf(view->out, ", healed %.0f; agent restarts %.0f\n", gauge(view, "healed_spansets"),
		starts > 0 ? starts - 1 : 0);
}

static const char *node_doing(const cJSON *node)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(node, "draining")) ? ", draining" : "";
}

static void render_nodes(const struct view *view)
{
	const cJSON *node = first_of(view->now, "nodes");
	char lent[32], has[32];

	for (; node; node = node->next) {
		const char *state = string(node, "state");
		bool up = strcasecmp(state, "up") == 0;

		fprintf(view->out, "  node     %-24s ", string(node, "name"));
		paint(view, up ? "" : RED);
		fprintf(view->out, "%-8s", state);
		paint(view, up ? "" : PLAIN);
		if (up)
			fprintf(view->out, " lends %s of %s, answers in %.0f us%s",
				bytes(number(node, "leased_bytes", NULL), lent),
				bytes(number(node, "memory_bytes", NULL), has),
				number(node, "rtt_ns", NULL) / 1e3, node_doing(node));
		fputc('\n', view->out);
	}
}

static void render_process(const struct view *view)
{
	paint(view, BOLD);
	fprintf(view->out, "%.0f %s", gauge(view, "pid"), string(view->now, "command"));
	paint(view, PLAIN);
	fprintf(view->out, "  (tree %s)  code ", string(view->now, "tree"));
	render_codes(view);
	fputc('\n', view->out);
	render_memory(view);
	render_rates(view);
	render_trouble(view);
	render_redundancy(view);
	render_compaction(view);
	render_care(view);
	render_nodes(view);
}

/* The same process in an older sample: same pid and start. */
static const cJSON *find_before(const struct top_sample *before, const cJSON *process)
{
	const cJSON *other;

	if (!before)
		return NULL;
	for (other = before->processes->child; other; other = other->next)
		if (number(other, "pid", NULL) == number(process, "pid", NULL) &&
			number(other, "started_ns", NULL) == number(process, "started_ns", NULL))
			return other;
	return NULL;
}

void top_render(
	FILE *out, const struct top_sample *now, const struct top_sample *before, bool colour)
{
	struct view view = {.out = out, .colour = colour};
	const cJSON *process;
	time_t seconds = time(NULL);
	struct tm local;
	char clock[16];

	localtime_r(&seconds, &local);
	strftime(clock, sizeof(clock), "%H:%M:%S", &local);
	fprintf(out, "farmem top  %s  processes: %d, agents: %u\n", clock,
		cJSON_GetArraySize(now->processes), now->agents);
	if (now->silent)
		fprintf(out, "%u agents gave no answer\n", now->silent);
	if (cJSON_GetArraySize(now->processes) == 0)
		fprintf(out, "\nno process uses far memory (a heap that fits its budget starts no "
			     "agent)\n");
	for (process = now->processes->child; process; process = process->next) {
		view.now = process;
		view.before = find_before(before, process);
		view.seconds = before ? (double)(now->taken_ns - before->taken_ns) / NS_PER_S : 0;
		fputc('\n', out);
		render_process(&view);
	}
}
