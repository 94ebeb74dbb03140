/*
 * apps/lbsim.h: fm-lbsim: runs simulated fleets (lb/sim) and shows what came of it.
 *
 * lbsim.c chooses the command; lbsim_options.c has the flags; lbsim_points.c runs one setting over
 * several seeds; lbsim_sweep.c, lbsim_trace.c, lbsim_experiment.c and lbsim_adapt.c are the
 * commands; lbsim_table.c prints, lbsim_plot.c draws. All results are points of named series.
 */
#ifndef FM_APPS_LBSIM_H
#define FM_APPS_LBSIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"
#include "base/options.h"
#include "lb/sim/measure.h"
#include "lb/sim/sim.h"

#define LBSIM_OK 0
#define LBSIM_FAILED 1 /* a claim does not hold, or a file cannot be written */
#define LBSIM_USAGE 2

#define LBSIM_LIST_MAX 64
#define LBSIM_SEEDS_MAX 32
#define LBSIM_SERIES_MAX 24
#define LBSIM_POINTS_MAX 1024
#define LBSIM_NAME_MAX 32
#define LBSIM_NOTES_MAX 48

struct lbsim_options {
	char loads[256], policies[512], rates[256], start[16], loss[16], burst[16], slow[16],
		antagonist[16], step[128];
	char csv[256], svg[256];
	uint64_t servers, workers, clients, requests, seeds, seed, degraded, failing, restarts;
	uint64_t service_ns, network_ns, jitter_ns, quantum_ns, deadline_ns, slo_ns;
	uint64_t ebpf_ns, user_ns;
	uint32_t service, probe;
	bool json, quick, bare_replies;
};
extern const struct option_spec lbsim_specs[];
extern const unsigned lbsim_specs_count;

/* What all runs of a command have in common. LBSIM_OK or LBSIM_USAGE, having complained. */
int lbsim_base(const struct lbsim_options *options, struct sim_options *base) FM_MUST_USE;
/* "0.5..0.95", "0.5..0.9:0.1", "0.1,0.2,1": the number of values, or -EINVAL. */
int lbsim_parse_list(const char *text, double *values, unsigned max) FM_MUST_USE;
int lbsim_parse_number(const char *text, double *value) FM_MUST_USE;
/* One line on standard error. */
void lbsim_complain(const char *format, ...) FM_PRINTF(1, 2);

/* A policy with the way its probes are answered, its rate, its pool: "p2c@user",
 * "mew-fixed@ebpf=2", "prequal-tuned@ebpf/12", "random". */
struct lbsim_contestant {
	char name[LBSIM_NAME_MAX];
	char policy[LBSIM_NAME_MAX];
	enum station_probe probe;
	bool central;  /* one dispatcher for all: jbsq */
	double rate;   /* f; 0: the policy's own */
	unsigned pool; /* entries; 0: the policy's own */
};
/* "all", "main", or a list with commas. The number, or -EINVAL having complained. */
int lbsim_contestants(
	const char *text, struct lbsim_contestant *contestants, unsigned max) FM_MUST_USE;
void lbsim_enter(const struct lbsim_options *options, const struct lbsim_contestant *contestant,
	struct sim_options *sim);

/* What several seeds gave at one place. */
struct lbsim_point {
	unsigned series;
	double x;
	struct measure_mean mean_us, p50_us, p99_us, p999_us;
	double utilisation, probes_per_rpc, probe_share, probes_per_server_s, requests_most,
		queue_mean, queue_most, failed_share, rate;
};

struct lbsim_set {
	const char *title, *x_name, *y_name; /* y: p99_us unless plot_y says otherwise */
	bool x_log;
	char series[LBSIM_SERIES_MAX][LBSIM_NAME_MAX];
	unsigned series_count;
	struct lbsim_point points[LBSIM_POINTS_MAX];
	unsigned count;
	double goodput[LBSIM_SERIES_MAX]; /* 0: not asked for */
	/* lines that go under the table, claims among them */
	char notes[LBSIM_NOTES_MAX][160];
	unsigned note_count, claims_failed;
};

/* Runs it over the seeds and adds a point. 0, or a negative value having complained. */
int lbsim_add_point(const struct lbsim_options *options, const struct sim_options *sim,
	struct lbsim_set *set, unsigned series, double x) FM_MUST_USE;
unsigned lbsim_add_series(struct lbsim_set *set, const char *name);
const struct lbsim_point *lbsim_find(const struct lbsim_set *set, unsigned series, double x);
void lbsim_note(struct lbsim_set *set, const char *format, ...) FM_PRINTF(2, 3);
/* A note "holds: .." or "FAILS: ..". */
void lbsim_claim(struct lbsim_set *set, bool holds, const char *format, ...) FM_PRINTF(3, 4);
/* Says on standard error how far it is, when it takes long. */
void lbsim_progress_begin(unsigned total);
void lbsim_progress_tick(void);

/* Everywhere the flags want it. LBSIM_OK or LBSIM_FAILED. */
int lbsim_show(const struct lbsim_options *options, const struct sim_options *base,
	const struct lbsim_set *set) FM_MUST_USE;
void lbsim_print_parameters(
	const struct lbsim_options *options, const struct sim_options *base, FILE *out);

/* lbsim_plot.c: lines through points. */
#define PLOT_POINTS_MAX 1200
struct plot_line {
	const char *name;
	double x[PLOT_POINTS_MAX], y[PLOT_POINTS_MAX], half[PLOT_POINTS_MAX];
	unsigned count;
};
struct plot {
	const char *title, *x_name, *y_name;
	bool x_log, y_log;
	double y_max;  /* lines are cut off there; 0: nowhere */
	double y_mark; /* a dashed line across (an SLO); 0: none */
	struct plot_line *lines;
	unsigned line_count;
};
void plot_draw(const struct plot *plot, FILE *out);

/* The commands: LBSIM_* is the exit status. */
int lbsim_sweep(const struct lbsim_options *options);
int lbsim_curve(const struct lbsim_options *options);
int lbsim_tuner(const struct lbsim_options *options);
int lbsim_experiment(const struct lbsim_options *options, const char *which);
/* Experiment e3: lbsim_adapt.c. */
int lbsim_adapt(const struct lbsim_options *options, const struct sim_options *base);

#endif
