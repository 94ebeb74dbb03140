/*
 * bench/store_control.c: the control of figure 3: how fast this machine can encode spans with ISA-L
 * and copy the pieces out, in a plain loop and nothing else.
 *
 * One thread: k data pieces of 4 KiB from a staging ring -> m parities -> k+m copies into k+m
 * column arenas, as the evictor and the shm fabric would move them. Encoding alone, copying alone
 * and both are measured in turn, in interleaved rounds; medians. Rates count DATA bytes. At the end
 * the arenas' last stripes are compared.
 */
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"
#include "ec/ec.h"

#define ROUNDS 9
#define PIECE FM_PAGE_SIZE

enum job { JOB_ENCODE, JOB_COPY, JOB_STORE, JOB_COUNT };

struct store_options {
	struct bench_options common;
	struct option_code code;
	uint64_t staging_bytes, far_bytes, stripes;
};

static const struct option_spec specs[] = {
	BENCH_OPTIONS,
	{.name = "ec",
		.type = OPTION_CODE,
		.offset = offsetof(struct store_options, code),
		.value = "4+2",
		.argument = "K+M",
		.help = "data and parity pieces",
		.flag_only = true},
	{.name = "staging",
		.type = OPTION_SIZE,
		.offset = offsetof(struct store_options, staging_bytes),
		.min = 1u << 18,
		.max = 1ull << 34,
		.value = "4M",
		.argument = "SIZE",
		.help = "data bytes the loop rotates through (the staging ring)",
		.flag_only = true},
	{.name = "far",
		.type = OPTION_SIZE,
		.offset = offsetof(struct store_options, far_bytes),
		.min = 1u << 18,
		.max = 1ull << 36,
		.value = "192M",
		.argument = "SIZE",
		.help = "bytes of the k+m column arenas together",
		.flag_only = true},
	{.name = "stripes",
		.type = OPTION_COUNT,
		.offset = offsetof(struct store_options, stripes),
		.min = 1,
		.value = "30000",
		.argument = "N",
		.help = "stripes per round and job",
		.flag_only = true},
};
static const struct bench_program program = {"store_control",
	"GB/s of encoding and copying out in a plain loop (figure 3's control).", specs,
	FM_ARRAY_COUNT(specs)};

struct control {
	struct store_options options;
	struct ec_code code;
	uint8_t *staging, *parity, *far;
	uint64_t staging_stripes, far_stripes;
	double ns[JOB_COUNT][ROUNDS];
};

static void stripe_pieces(struct control *c, uint64_t stripe, uint8_t **pieces)
{
	unsigned k = c->code.k, m = c->code.m;

	for (unsigned i = 0; i < k; i++)
		pieces[i] = c->staging + ((stripe % c->staging_stripes) * k + i) * PIECE;
	for (unsigned i = 0; i < m; i++)
		pieces[k + i] = c->parity + ((stripe % c->staging_stripes) * m + i) * PIECE;
}

static uint8_t *far_piece(struct control *c, uint64_t stripe, unsigned column)
{
	return c->far + ((uint64_t)column * c->far_stripes + stripe % c->far_stripes) * PIECE;
}

static void run_job(struct control *c, enum job job)
{
	uint8_t *pieces[EC_N_MAX];
	unsigned k = c->code.k, n = k + c->code.m;

	for (uint64_t stripe = 0; stripe < c->options.stripes; stripe++) {
		stripe_pieces(c, stripe, pieces);
		if (job != JOB_COPY)
			ec_encode(&c->code, PIECE, (const uint8_t *const *)pieces, pieces + k);
		if (job != JOB_ENCODE)
			for (unsigned i = 0; i < n; i++)
				memcpy(far_piece(c, stripe, i), pieces[i], PIECE);
	}
}

static int setup(struct control *c)
{
	unsigned k = c->options.code.k, m = c->options.code.m, n = k + m;

	if (ec_code_init(&c->code, k, m) != 0)
		return bench_fail("no such code");
	c->staging_stripes = FM_MAX(1u, c->options.staging_bytes / (k * PIECE));
	c->far_stripes = FM_MAX(1u, c->options.far_bytes / (n * PIECE));
	c->staging = mem_map(c->staging_stripes * k * PIECE);
	c->parity = mem_map(c->staging_stripes * FM_MAX(m, 1u) * PIECE);
	c->far = mem_map(c->far_stripes * n * PIECE);
	if (c->staging == NULL || c->parity == NULL || c->far == NULL)
		return bench_fail("no memory");
	for (uint64_t i = 0; i < c->staging_stripes * k * PIECE / 8; i++)
		((uint64_t *)(void *)c->staging)[i] = bench_mix(i);
	memset(c->parity, 1, c->staging_stripes * FM_MAX(m, 1u) * PIECE);
	memset(c->far, 1, c->far_stripes * n * PIECE);
	return 0;
}

/* The last stripe that went out decodes to what was staged: nothing was optimised away. */
static int check(struct control *c)
{
	uint8_t *pieces[EC_N_MAX];
	uint64_t last = c->options.stripes - 1;

	stripe_pieces(c, last, pieces);
	for (unsigned i = 0; i < (unsigned)c->code.k + c->code.m; i++)
		if (memcmp(far_piece(c, last, i), pieces[i], PIECE) != 0)
			return bench_fail("piece %u of the last stripe differs", i);
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const keys[] = {"encode_gb_per_s", "copy_gb_per_s", "store_gb_per_s"};
	static struct control c;
	struct bench_report report;
	char code[16];
	int status = bench_parse(&program, &c.options, argc, argv, NULL);

	if (status >= 0)
		return status;
	if (c.options.common.tiny) {
		c.options.far_bytes = 1u << 22;
		c.options.stripes = 500;
	}
	status = setup(&c);
	if (status != 0)
		return status;
	for (unsigned round = 0; round < ROUNDS; round++)
		for (unsigned job = 0; job < JOB_COUNT; job++) {
			uint64_t start_ns = clock_now_ns();

			run_job(&c, (enum job)job);
			c.ns[job][round] = (double)(clock_now_ns() - start_ns);
		}
	status = check(&c);
	if (status != 0)
		return status;
	bench_report_open(&report, program.name, c.options.common.json);
	options_format(&specs[2], &c.options, code, sizeof(code));
	bench_report_text(&report, "ec", code);
	bench_report_count(&report, "piece_bytes", PIECE);
	bench_report_count(&report, "staging_bytes", c.options.staging_bytes);
	bench_report_count(&report, "far_bytes", c.options.far_bytes);
	for (unsigned job = 0; job < JOB_COUNT; job++)
		bench_report_number(&report, keys[job],
			(double)(c.options.stripes * c.code.k * PIECE) /
				bench_median(c.ns[job], ROUNDS));
	bench_report_close(&report);
	return 0;
}
