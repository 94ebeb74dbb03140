/*
 * memnode/merge_bench.c: how fast nodes merge spansets at 4+2, in transactions of 256 pairs that
 * take two positions from b, beside the arithmetic alone: what no transaction can beat.
 *
 *     merge_bench [ROUNDS]
 *
 * Six nodes in one process, asked over gRPC through unix sockets as an agent asks; the four data
 * nodes at the same time. "remote": data nodes send partials to parity nodes; "local": they answer
 * deltas, the agent multiplies and sends the partials. Partial bytes: two for each position taken.
 */
#define PAIRS 256u
#define TEST_MAIN_OWN
#include "memnode/merge_world_test.h"

enum contestant { PLAIN, REMOTE, LOCAL, CONTESTANTS };
static const char *const names[CONTESTANTS] = {"plain", "remote", "local"};
enum phase { BEGIN, SEND, PREPARE, END, PHASES };
static const char *const phases[PHASES] = {"begin", "send", "prepare", "end"};

static uint64_t took_ns[CONTESTANTS], phase_ns[CONTESTANTS][PHASES], partial_bytes;
static int rounds = 10;

/* ---- the arithmetic alone ---- */

static void plain_pair(uint32_t i, uint8_t sums[M][FM_PAGE_SIZE])
{
	static uint8_t a[FM_PAGE_SIZE], b[FM_PAGE_SIZE], delta[FM_PAGE_SIZE], product[FM_PAGE_SIZE];
	memset(sums, 0, M * FM_PAGE_SIZE);
	for (unsigned p = 0; p < K; p++) {
		if (!(masks[i] & 1u << p))
			continue;
		memcpy(a, pieces[2 * i][p], FM_PAGE_SIZE);
		memcpy(b, pieces[2 * i + 1][p], FM_PAGE_SIZE);
		CHECK_NE(crc32c(a, FM_PAGE_SIZE), crc32c(b, FM_PAGE_SIZE));
		ec_delta(FM_PAGE_SIZE, a, b, delta);
		for (unsigned t = 0; t < M; t++) {
			ec_partial(&code, FM_PAGE_SIZE, p, t, delta, product);
			/* where it is made, and where it comes */
			CHECK_EQ(crc32c(product, FM_PAGE_SIZE), crc32c(product, FM_PAGE_SIZE));
			ec_delta(FM_PAGE_SIZE, sums[t], product, sums[t]);
		}
	}
}

static void plain(void)
{
	static uint8_t sums[M][FM_PAGE_SIZE], results[PAIRS][M][FM_PAGE_SIZE];
	for (uint32_t i = 0; i < PAIRS; i++) {
		plain_pair(i, sums);
		for (unsigned t = 0; t < M; t++) {
			const uint8_t *old = pieces[2 * i][K + t];
			CHECK_NE(crc32c(old, FM_PAGE_SIZE), 1);
			ec_delta(FM_PAGE_SIZE, old, sums[t], results[i][t]);
			CHECK_NE(crc32c(results[i][t], FM_PAGE_SIZE), 1);
		}
	}
}

/* ---- transactions ---- */

struct sender {
	pthread_t thread;
	unsigned position;
	bool local;
	uint64_t txid;
	struct ctl_merge_piece made[PAIRS];
};

static void send_partials(
	struct sender *sender, uint32_t first, uint32_t count, const uint8_t *deltas)
{
	uint8_t outcomes[CTL_MERGE_PARTIALS];
	uint32_t indexes[CTL_MERGE_PARTIALS], crcs[CTL_MERGE_PARTIALS];
	uint8_t *products = malloc((size_t)count * FM_PAGE_SIZE);
	CHECK(products != NULL);
	for (unsigned t = 0; t < M; t++) {
		for (uint32_t i = 0; i < count; i++) {
			ec_partial(&code, FM_PAGE_SIZE, sender->position, t,
				deltas + i * FM_PAGE_SIZE, products + i * FM_PAGE_SIZE);
			indexes[i] = sender->made[first + i].index;
			crcs[i] = crc32c(products + i * FM_PAGE_SIZE, FM_PAGE_SIZE);
		}
		const struct ctl_merge_partial asked = {.txid = sender->txid,
			.target = nodes[K + t].column,
			.position = (uint8_t)sender->position,
			.count = count,
			.indexes = indexes,
			.crcs = crcs,
			.bytes = products};
		CHECK_EQ(partial(K + t, &asked, outcomes), 0);
	}
	free(products);
}

static void send_local(struct sender *sender)
{
	struct ctl_merge_send send;
	struct ctl_merge_sent sent;
	struct ctl_packed packed;
	struct ctl_result result;
	const uint32_t count = send_make(sender->position, sender->txid, &send, sender->made);
	send.targets_count = 0;
	for (uint32_t first = 0; first < count; first += send.count) {
		send.count = FM_MIN(count - first, CTL_MERGE_PARTIALS);
		send.pieces = sender->made + first;
		CHECK_EQ(ctl_pack_merge_send(&send, &packed), 0);
		ask(sender->position, CTL_METHOD_MERGE_SEND, &packed, &result);
		CHECK_EQ(ctl_unpack_merge_sent(&result, &send, &sent), 0);
		send_partials(sender, first, send.count, sent.deltas);
		ctl_result_clear(&result);
	}
}

static void *sender_main(void *argument)
{
	struct sender *sender = argument;
	if (sender->local)
		send_local(sender);
	else
		CHECK_EQ(send_all(sender->position, sender->txid), 0);
	return NULL;
}

static void send_everything(bool local, uint64_t txid)
{
	static struct sender senders[K];
	for (unsigned p = 0; p < K; p++) {
		senders[p].position = p;
		senders[p].local = local;
		senders[p].txid = txid;
		CHECK_EQ(pthread_create(&senders[p].thread, NULL, sender_main, &senders[p]), 0);
	}
	for (unsigned p = 0; p < K; p++)
		pthread_join(senders[p].thread, NULL);
}

static void transaction(enum contestant who)
{
	static struct ctl_merge_prepared prepared[M];
	static uint64_t txid;
	uint64_t at_ns[PHASES + 1];
	txid++;
	at_ns[BEGIN] = clock_now_ns();
	for (unsigned t = 0; t < M; t++)
		CHECK_EQ(begin(K + t, txid), 0);
	at_ns[SEND] = clock_now_ns();
	send_everything(who == LOCAL, txid);
	at_ns[PREPARE] = clock_now_ns();
	for (unsigned t = 0; t < M; t++)
		CHECK_EQ(prepare(K + t, txid, &prepared[t]), 0);
	at_ns[END] = clock_now_ns();
	for (unsigned t = 0; t < M; t++)
		CHECK_EQ(end(K + t, txid, true), 0);
	at_ns[PHASES] = clock_now_ns();
	took_ns[who] += at_ns[PHASES] - at_ns[BEGIN];
	for (unsigned phase = 0; phase < PHASES; phase++)
		phase_ns[who][phase] += at_ns[phase + 1] - at_ns[phase];
	for (unsigned t = 0; t < M; t++)
		for (uint32_t i = 0; i < PAIRS; i++)
			check_pair(K + t, i, &prepared[t]);
}

static void print_one(enum contestant who)
{
	const double pairs = (double)PAIRS * rounds;
	printf("%-6s pairs/s %9.0f   partials GB/s %6.3f", names[who],
		pairs * 1e9 / (double)took_ns[who],
		(double)partial_bytes * rounds / (double)took_ns[who]);
	if (who != PLAIN) {
		printf("   of plain %.2f   us a pair:",
			(double)took_ns[PLAIN] / (double)took_ns[who]);
		for (unsigned phase = 0; phase < PHASES; phase++)
			printf(" %s %.1f", phases[phase],
				(double)phase_ns[who][phase] / pairs / 1000);
	}
	printf("\n");
}

static void bench(void)
{
	world_open();
	for (uint32_t i = 0; i < PAIRS; i++) {
		masks[i] = i % 2 ? 0x3 : 0xc;
		partial_bytes += 2ull * M * FM_PAGE_SIZE;
	}
	for (int round = 0; round < rounds + 1; round++) {
		if (round == 1) { /* the first one found everything cold */
			memset(took_ns, 0, sizeof took_ns);
			memset(phase_ns, 0, sizeof phase_ns);
		}
		const uint64_t before_ns = clock_now_ns();
		plain();
		took_ns[PLAIN] += clock_now_ns() - before_ns;
		transaction(REMOTE);
		transaction(LOCAL);
	}
	world_close();
}

int main(int argc, char **argv)
{
	static const struct test_case all = {"merge_bench", bench};
	if (argc > 1)
		rounds = atoi(argv[1]);
	if (rounds < 1) {
		fprintf(stderr, "merge_bench: ROUNDS, at least 1: %s\n", argv[1]);
		return 2;
	}
	test_main_tid = gettid();
	printf("merge_bench: rounds=%d pairs=%u code=%u+%u cpus=%ld\n", rounds, PAIRS, K, M,
		sysconf(_SC_NPROCESSORS_ONLN));
	if (test_run_case(&all) != TEST_PASSED)
		return 1;
	for (unsigned who = 0; who < CONTESTANTS; who++)
		print_one((enum contestant)who);
	return 0;
}
