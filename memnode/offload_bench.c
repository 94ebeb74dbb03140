/*
 * memnode/offload_bench.c: how fast a node rebuilds a column, beside the plain loop that no rebuild
 * can beat: copy k pieces, decode, copy one, at this machine's copy and ISA-L rates.
 *
 *     offload_bench [ROUNDS [REGION_MIB]]
 *
 * Rates count rebuilt bytes. The sources are real nodes (processes), asked over shm and tcp; one
 * call after another, so one worker. "adjacent": slots that follow each other in every column, as
 * swap-outs in batches leave them; "scattered": no two of them do.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/crc.h"
#include "base/mem.h"
#include "ec/ec.h"
#include "memnode/offload.h"
#include "memnode/rebuild.h"
#include "rpc/fabric_node_test.h"

#define K 4
#define M 2
#define N (K + M)
#define LOST 1u /* the position that is rebuilt */
#define PAGE 4096ull

enum contestant { PLAIN, SHM, TCP, PLAIN_COPY, SHM_COPY, TCP_COPY, CONTESTANTS };
static const char *const names[CONTESTANTS] = {
	"rebuild plain", "rebuild shm", "rebuild tcp", "copy plain", "copy shm", "copy tcp"};
enum pattern { ADJACENT, SCATTERED, PATTERNS };
static const char *const pattern_names[PATTERNS] = {"adjacent", "scattered"};

static uint64_t took_ns[PATTERNS][CONTESTANTS], bytes[PATTERNS][CONTESTANTS];
static uint64_t read_ns[PATTERNS][CONTESTANTS], decode_ns[PATTERNS][CONTESTANTS],
	store_ns[PATTERNS][CONTESTANTS];

static uint32_t slots_count;
static uint8_t *memory[N]; /* the same bytes as in the columns */
static uint8_t *rebuilt_memory;
static struct node nodes[N];
static struct fabric_capability columns[N];
static struct lease_table *table;
static struct fabric_capability target;
static struct offload *offload;
static struct ec_code code;
static struct ec_plan plan;
static struct ctl_piece *crcs[N]; /* by slot */
static struct ctl_piece pieces[CTL_REBUILD_MAX * (1 + K)];
static struct ctl_rebuild request;
static struct ctl_rebuilt rebuilt;

static void must(bool right, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "offload_bench: %s failed\n", what);
	exit(1);
}

static void columns_draw(void)
{
	uint64_t seed = 1;
	for (unsigned p = 0; p < N; p++) {
		memory[p] = mem_map(slots_count * PAGE);
		crcs[p] = mem_map(slots_count * sizeof(*crcs[p]));
		must(memory[p] && crcs[p], "memory");
	}
	rebuilt_memory = mem_map(slots_count * PAGE);
	must(rebuilt_memory != NULL, "memory");
	for (uint64_t at = 0; at < slots_count * PAGE; at += 8)
		for (unsigned p = 0; p < K; p++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			memcpy(memory[p] + at, &seed, 8);
		}
	ec_encode(&code, slots_count * PAGE, (const uint8_t *const *)memory, memory + K);
	for (unsigned p = 0; p < N; p++)
		for (uint32_t i = 0; i < slots_count; i++)
			crcs[p][i] = (struct ctl_piece){i, crc32c(memory[p] + i * PAGE, PAGE)};
}

static void column_fill(struct fabric_queue *queue, unsigned p)
{
	struct fabric_region *region;
	struct fabric_completion done;
	must(!node_reserve(&nodes[p], slots_count * PAGE, &columns[p]), "reserve");
	must(!fabric_attach(queue, nodes[p].endpoint[NODE_SHM], &columns[p],
		     clock_now_ns() + 5 * NS_PER_S, &region),
		"attach");
	for (uint64_t at = 0; at < slots_count * PAGE; at += FABRIC_OP_BYTES_MAX) {
		struct iovec iov = {memory[p] + at, FABRIC_OP_BYTES_MAX};
		struct fabric_transfer transfer = {.offset = at,
			.iov = &iov,
			.iov_count = 1,
			.deadline_ns = clock_now_ns() + 10 * NS_PER_S};
		must(!fabric_post_write(region, &transfer), "write");
		must(fabric_wait(queue, &done, 1, transfer.deadline_ns) == 1 && !done.status,
			"write");
	}
	fabric_detach(region);
}

static void world_open(void)
{
	static const uint8_t client[16] = {9};
	static const struct fabric_queue_options options = {.depth = 4};
	struct lease_table_options leases = {.memory_bytes = slots_count * PAGE};
	struct fabric_queue *queue;
	for (unsigned p = 0; p < N; p++)
		node_start(&nodes[p], 0);
	must(!ec_code_init(&code, K, M), "code");
	must(!ec_plan_init(&plan, &code, ((1u << N) - 1) & ~(1u << LOST), 1u << LOST), "plan");
	columns_draw();
	must(!fabric_queue_open(&options, &queue), "queue");
	for (unsigned p = 0; p < N; p++)
		column_fill(queue, p);
	fabric_queue_close(queue);
	must(!lease_table_open(&leases, &table), "table");
	must(!lease_reserve(table, client, slots_count * PAGE, &target), "reserve");
	struct offload_options offloading = {.leases = table};
	must(!offload_open(&offloading, &offload), "offload");
}

/* The at-th slot of a pattern: all slots once. */
static uint32_t slot_of(enum pattern pattern, uint32_t at)
{
	/* an odd factor: a permutation of 0..2^n-1 */
	return pattern == ADJACENT ? at : at * 2654435761u & (slots_count - 1);
}

/* Copies into a small buffer, as a reader must; decodes from there; copies to its place. */
static void plain(enum pattern pattern, bool copy)
{
	static uint8_t staging[K][64][PAGE], out[64][PAGE];
	for (uint32_t at = 0; at < slots_count; at += 64) {
		for (unsigned s = 0; s < (copy ? 1 : K); s++)
			for (uint32_t j = 0; j < 64; j++)
				memcpy(staging[s][j],
					memory[copy ? LOST : plan.sources[s]] +
						slot_of(pattern, at + j) * PAGE,
					PAGE);
		for (uint32_t j = 0; j < 64; j++) {
			const uint8_t *sources[K] = {
				staging[0][j], staging[1][j], staging[2][j], staging[3][j]};
			uint8_t *result = out[j];
			if (!copy)
				ec_rebuild(&plan, PAGE, sources, &result);
			memcpy(rebuilt_memory + slot_of(pattern, at + j) * PAGE,
				copy ? staging[0][j] : result, PAGE);
		}
	}
}

static void request_make(enum pattern pattern, uint32_t first, bool copy, int transport)
{
	const unsigned sources_count = copy ? 1 : K;
	struct ctl_piece *piece = pieces;
	request = (struct ctl_rebuild){.target = target,
		.position = LOST,
		.k = K,
		.m = M,
		.sources_count = (uint8_t)sources_count,
		.count = FM_MIN(slots_count - first, CTL_REBUILD_MAX),
		.pieces = pieces};
	for (unsigned s = 0; s < sources_count; s++) {
		struct ctl_source *source = &request.sources[s];
		source->position = copy ? LOST : plan.sources[s];
		source->capability = columns[source->position];
		memcpy(source->endpoint, nodes[source->position].endpoint[transport],
			FABRIC_ENDPOINT_MAX);
	}
	for (uint32_t i = 0; i < request.count; i++) {
		const uint32_t slot = slot_of(pattern, first + i);
		*piece++ = crcs[LOST][slot];
		for (unsigned s = 0; s < sources_count; s++)
			*piece++ = crcs[request.sources[s].position][slot];
	}
}

static void must_all_be_done(void)
{
	for (uint32_t i = 0; i < request.count; i++) {
		if (rebuilt.outcomes[i] == CTL_REBUILD_DONE)
			continue;
		fprintf(stderr, "offload_bench: spanset %u of %u outcome %u statuses", i,
			request.count, rebuilt.outcomes[i]);
		for (unsigned s = 0; s < request.sources_count; s++)
			fprintf(stderr, " %d", rebuilt.source_status[s]);
		fprintf(stderr, " read_ns %llu\n", (unsigned long long)rebuilt.read_ns);
		exit(1);
	}
}

static void offloaded(enum pattern pattern, enum contestant who, bool copy, int transport)
{
	for (uint32_t first = 0; first < slots_count; first += CTL_REBUILD_MAX) {
		request_make(pattern, first, copy, transport);
		const uint64_t before_ns = clock_now_ns();
		must(!offload_rebuild(offload, &request, &rebuilt), "rebuild");
		took_ns[pattern][who] += clock_now_ns() - before_ns;
		must_all_be_done();
		read_ns[pattern][who] += rebuilt.read_ns;
		decode_ns[pattern][who] += rebuilt.decode_ns;
		store_ns[pattern][who] += rebuilt.store_ns;
	}
}

static void round_of(enum pattern pattern, enum contestant who)
{
	const bool copy = who >= PLAIN_COPY;
	bytes[pattern][who] += slots_count * PAGE;
	if (who == PLAIN || who == PLAIN_COPY) {
		const uint64_t before_ns = clock_now_ns();
		plain(pattern, copy);
		took_ns[pattern][who] += clock_now_ns() - before_ns;
	} else {
		offloaded(pattern, who, copy, who == SHM || who == SHM_COPY ? NODE_SHM : NODE_TCP);
	}
}

static void print_one(enum pattern pattern, enum contestant who)
{
	const enum contestant limit = who >= PLAIN_COPY ? PLAIN_COPY : PLAIN;
	const double rate = (double)bytes[pattern][who] / (double)took_ns[pattern][who];
	const double best = (double)bytes[pattern][limit] / (double)took_ns[pattern][limit];
	const double spansets = (double)bytes[pattern][who] / (double)PAGE;
	printf("%-9s %-13s GB/s %6.3f", pattern_names[pattern], names[who], rate);
	if (who != limit)
		printf("   of the plain loop %.2f   ns a spanset: read %.0f decode+check %.0f "
		       "store "
		       "%.0f",
			rate / best, (double)read_ns[pattern][who] / spansets,
			(double)decode_ns[pattern][who] / spansets,
			(double)store_ns[pattern][who] / spansets);
	printf("\n");
}

int main(int argc, char **argv)
{
	const int rounds = argc > 1 ? atoi(argv[1]) : 10;
	const int mib = argc > 2 ? atoi(argv[2]) : 64;
	slots_count = (uint32_t)mib * 256;
	must(rounds > 0 && mib > 0 && (mib & (mib - 1)) == 0,
		"ROUNDS, or REGION_MIB a power of 2:");
	world_open();
	printf("offload_bench: rounds=%d region=%dMiB code=%d+%d spansets_per_call=%d cpus=%ld\n",
		rounds, mib, K, M, CTL_REBUILD_MAX, sysconf(_SC_NPROCESSORS_ONLN));
	for (int i = 0; i < rounds + 1; i++) {
		if (i == 1) { /* the first round found everything cold */
			memset(took_ns, 0, sizeof took_ns);
			memset(bytes, 0, sizeof bytes);
			memset(read_ns, 0, sizeof read_ns);
			memset(decode_ns, 0, sizeof decode_ns);
			memset(store_ns, 0, sizeof store_ns);
		}
		for (unsigned pattern = 0; pattern < PATTERNS; pattern++)
			for (unsigned who = 0; who < CONTESTANTS; who++)
				round_of((enum pattern)pattern, (enum contestant)who);
	}
	for (unsigned pattern = 0; pattern < PATTERNS; pattern++)
		for (unsigned who = 0; who < CONTESTANTS; who++)
			print_one((enum pattern)pattern, (enum contestant)who);
	offload_close(offload);
	lease_table_close(table);
	for (unsigned p = N; p-- > 0;)
		must(node_stop(&nodes[p]) == 0, "a node's end");
	return 0;
}
