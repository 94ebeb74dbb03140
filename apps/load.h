/*
 * apps/load.h: what the files of fm-load share.
 *
 *   load.c          flags, start, end
 *   load_run.c      the open loop: policies in turn, slice by slice
 *   load_hist.c     latencies of a slice, quantiles over slices, confidence
 *   load_report.c   the table and the JSON object
 *   load_plot.c     the picture
 *
 * A *slice* is one stretch of one policy at one rate; a *round* is one slice of every policy, in an
 * order that is reversed every other time (ABBA), with the same arrivals for all. What the machine
 * does to one it soon does to all.
 */
#ifndef FM_APPS_LOAD_H
#define FM_APPS_LOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "farmem/rpc.h"
#include "lb/balancer.h"

#define LOAD_POLICIES_MAX 16
#define LOAD_RATES_MAX 24
#define LOAD_ROUNDS_MAX 512
#define LOAD_NAME_MAX 32

/* 128 buckets per power of two: an error below 0.8 %. Values from 2^38 ns (4.6 min) on count there.
 */
#define LOAD_HIST_SUB_BITS 7
#define LOAD_HIST_BUCKETS ((38 - LOAD_HIST_SUB_BITS + 1) << LOAD_HIST_SUB_BITS)

struct load_options {
	char servers[8192], other_servers[8192], policies[256], rates[256];
	uint64_t seconds_ns, slice_ns, warm_up_ns, slo_ns, deadline_ns;
	uint64_t bytes, calls_max, retries, resend_ns, sample_age_ns, service_ns;
	char probes_per_rpc[16];
	uint32_t arrivals; /* 0: Poisson, 1: even */
	uint64_t seed;
	char baseline[LOAD_NAME_MAX];
	bool json;
	char plot[256], tuner_trace[256];
	uint32_t log_level;
};

/* One slice's measured part (warm-up left out). */
struct load_slice {
	uint64_t sent, good, failed, refused; /* good: answered within the SLO */
	uint64_t probes;
	uint64_t measured_ns;
	uint32_t *buckets; /* of latencies from the intended time; a failure counts with the
			      deadline at least */
};

/* One policy at one rate. */
struct load_series {
	struct load_slice *slices; /* rounds_count */
	uint64_t late_max_ns;      /* how late the generator itself was */
	uint64_t late_sum_ns, late_count;
};

struct load_policy {
	char name[LOAD_NAME_MAX];   /* as given: "p2c", "p2c@other" */
	char policy[LOAD_NAME_MAX]; /* without @other */
	bool other;                 /* on the other servers */
	struct fm_rpc_channel *channel;
	struct load_series series[LOAD_RATES_MAX];
};

struct load_job {
	struct load_options options;
	struct load_policy policies[LOAD_POLICIES_MAX];
	unsigned policies_count;
	double rates[LOAD_RATES_MAX]; /* per second */
	unsigned rates_count;
	unsigned rounds_count;
	unsigned baseline; /* the policy that others are compared with */
	double probes_per_rpc;
	uint8_t *payload;
};

struct load_estimate {
	double value, low, high; /* 95 % confidence, by resampling rounds */
};

/* --- load_run.c --- */
/* Everything. 0 or -errno (named on stderr). */
int load_run(struct load_job *job) FM_MUST_USE;

/* --- load_hist.c --- */
int load_series_open(struct load_series *series, unsigned rounds) FM_MUST_USE;
void load_series_close(struct load_series *series, unsigned rounds);
void load_slice_note(struct load_slice *slice, uint64_t latency_ns);
/* Of all slices together, in ns. */
struct load_estimate load_quantile(const struct load_series *series, unsigned rounds, double q);
/* a's quantile over b's, the rounds resampled together. */
struct load_estimate load_quantile_ratio(
	const struct load_series *a, const struct load_series *b, unsigned rounds, double q);
/* Answers within the SLO per second. */
struct load_estimate load_goodput(const struct load_series *series, unsigned rounds);
struct load_slice load_total(const struct load_series *series, unsigned rounds);

/* --- load_report.c --- */
void load_report_text(const struct load_job *job, FILE *out);
void load_report_json(const struct load_job *job, FILE *out);

/* --- load_plot.c --- */
/* p99 against rate where there are several, latency against quantile where there is one. */
void load_plot(const struct load_job *job, FILE *out);

#endif
