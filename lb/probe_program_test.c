/*
 * lb/probe_program_test.c: the very programs that run in the kernel, fed frames of any kind without
 * an interface (BPF_PROG_TEST_RUN), held against a twin written in plain C from RFC 791, 768 and
 * 8200 and lb/probe_wire.c.
 */
#include "base/test.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include "base/clock.h"
#include "base/log.h"
#include "lb/probe_kernel.h"
#include "lb/probe_lab_test.h"

#define PORT 7500
#define FRAME_BYTES_MAX 256
#define ETHERNET_BYTES 14
#define IP4_BYTES 20
#define IP6_BYTES 40
#define UDP_BYTES 8

enum outcome { PASSED, REFUSED, ANSWERED };

struct frame {
	size_t length;
	uint8_t bytes[FRAME_BYTES_MAX];
};

static struct lab lab;
static struct probe_kernel *kernels[2]; /* tc, XDP */
static struct probe_filter filter;
static const char *unable;

/* --- the programs -------------------------------------------------------------------------- */

static void programs_open(void)
{
	static bool tried;
	struct probe_interface lo[PROBE_INTERFACES_MAX];
	unsigned count;

	if (!tried) {
		tried = true;
		log_set_level(LOG_ERROR);
		unable = lab_open(&lab);
		for (unsigned xdp = 0; unable == NULL && xdp < 2; xdp++) {
			struct probe_kernel_options options = {
				.place = {.port = PORT}, .xdp = xdp == 1, .filter = &filter};

			CHECK_EQ(probe_filter_parse("10.0.0.0/8,127.0.0.0/8,fd00::/8,::1", &filter),
				0);
			if (probe_kernel_open(&options, &kernels[xdp], &unable) == 0)
				unable = NULL;
		}
		/* attaching tells it lo's address; what is sent through lo is not the test */
		if (unable == NULL &&
			(probe_interfaces("lo", lo, &count) != 0 ||
				probe_kernel_attach(kernels[1], lo, PROBE_HOOK_XDP_GENERIC) != 0))
			unable = "no generic XDP on lo";
	}
	if (unable != NULL)
		TEST_SKIP(unable);
}

static void publish(const struct load_report *report)
{
	for (unsigned xdp = 0; xdp < 2; xdp++) {
		struct load_slot *slot = probe_kernel_slot(kernels[xdp]);

		memset(slot, 0, sizeof(*slot));
		slot->epoch = 0xabcd;
		if (report != NULL)
			load_publish(slot, report);
	}
}

/* What has no end: fresh for as long as the test takes. */
static void publish_fresh(void)
{
	publish(&(struct load_report){
		.stamp_ns = UINT64_MAX / 2, .delay_ns = 4321, .in_flight = 12, .free_bytes = 99});
}

/* Runs one of the programs. -EINVAL: the kernel does not take such a frame for a test. */
static int program_run(bool xdp, const struct frame *in, struct frame *out, enum outcome *outcome)
{
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = in->bytes,
		.data_size_in = (uint32_t)in->length, .data_out = out->bytes,
		.data_size_out = sizeof(out->bytes));
	int error = bpf_prog_test_run_opts(probe_kernel_program(kernels[xdp]), &run);

	if (error != 0)
		return error;
	out->length = run.data_size_out;
	if (run.retval == (xdp ? (uint32_t)XDP_TX : (uint32_t)TC_ACT_REDIRECT))
		*outcome = ANSWERED;
	else if (run.retval == (xdp ? (uint32_t)XDP_DROP : (uint32_t)TC_ACT_SHOT))
		*outcome = REFUSED;
	else if (run.retval == (xdp ? (uint32_t)XDP_PASS : (uint32_t)TC_ACT_UNSPEC))
		*outcome = PASSED;
	else
		return -EPROTO;
	return 0;
}

/* --- frames -------------------------------------------------------------------------------- */

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static unsigned get16(const uint8_t *at)
{
	return (unsigned)at[0] << 8 | at[1];
}

static uint32_t sum16(const uint8_t *bytes, size_t length, uint32_t sum)
{
	for (size_t i = 0; i < length; i++)
		sum += i % 2 == 0 ? (uint32_t)bytes[i] << 8 : bytes[i];
	return sum;
}

static unsigned fold16(uint32_t sum)
{
	while (sum > 0xffff)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static size_t ip_bytes(const struct frame *frame)
{
	return get16(frame->bytes + 12) == 0x0800 ? IP4_BYTES : IP6_BYTES;
}

/* 0xffff when the datagram's checksum is right. */
static unsigned udp_sum(const struct frame *frame)
{
	const uint8_t *ip = frame->bytes + ETHERNET_BYTES, *udp = ip + ip_bytes(frame);
	unsigned length = get16(udp + 4);
	bool four = ip_bytes(frame) == IP4_BYTES;

	return fold16(
		sum16(udp, length, sum16(four ? ip + 12 : ip + 8, four ? 8 : 32, 17 + length)));
}

static void frame_seal(struct frame *frame)
{
	uint8_t *ip = frame->bytes + ETHERNET_BYTES, *udp = ip + ip_bytes(frame);

	if (ip_bytes(frame) == IP4_BYTES) {
		put16(ip + 10, 0);
		put16(ip + 10, ~fold16(sum16(ip, IP4_BYTES, 0)) & 0xffff);
	}
	put16(udp + 6, 0);
	put16(udp + 6, ~udp_sum(frame) & 0xffff);
}

static void frame_udp(struct frame *frame, size_t ip, const void *payload, size_t length)
{
	uint8_t *udp = frame->bytes + ETHERNET_BYTES + ip;

	put16(udp, 40000);
	put16(udp + 2, PORT);
	put16(udp + 4, (unsigned)(UDP_BYTES + length));
	memcpy(udp + UDP_BYTES, payload, length);
	frame->length = ETHERNET_BYTES + ip + UDP_BYTES + length;
	frame_seal(frame);
}

static struct frame frame4(const char *from, const char *to, const void *payload, size_t length)
{
	struct frame frame = {.bytes = {[12] = 8, [14] = 0x45, [22] = 3, [23] = 17}};
	uint8_t *ip = frame.bytes + ETHERNET_BYTES;

	put16(ip + 2, (unsigned)(IP4_BYTES + UDP_BYTES + length));
	put16(ip + 4, 0x1234);
	CHECK_EQ(inet_pton(AF_INET, from, ip + 12), 1);
	CHECK_EQ(inet_pton(AF_INET, to, ip + 16), 1);
	frame_udp(&frame, IP4_BYTES, payload, length);
	return frame;
}

static struct frame frame6(const char *from, const char *to, const void *payload, size_t length)
{
	struct frame frame = {
		.bytes = {[12] = 0x86, [13] = 0xdd, [14] = 0x6a, [20] = 17, [21] = 9}};
	uint8_t *ip = frame.bytes + ETHERNET_BYTES;

	put16(ip + 4, (unsigned)(UDP_BYTES + length));
	CHECK_EQ(inet_pton(AF_INET6, from, ip + 8), 1);
	CHECK_EQ(inet_pton(AF_INET6, to, ip + 24), 1);
	frame_udp(&frame, IP6_BYTES, payload, length);
	return frame;
}

static struct frame question(bool six)
{
	struct probe_packet packet;

	probe_ask(&packet, 0xc00c1e);
	return six ? frame6("fd00::2", "::1", &packet, sizeof(packet))
		   : frame4("10.0.0.2", "127.0.0.1", &packet, sizeof(packet));
}

/* --- the twin ------------------------------------------------------------------------------ */

static bool twin_is_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (bytes[i] != 0)
			return false;
	}
	return true;
}

/* Is it for this host's port, whole, plain? The host has 127.0.0.0/8 and ::1 and forwards nothing,
 * so that any unicast address is as good as its own. lo's MAC address is zero. */
static bool twin_headers(const struct frame *frame)
{
	const uint8_t *eth = frame->bytes, *ip = eth + ETHERNET_BYTES, *udp;

	if (frame->length < ETHERNET_BYTES + IP4_BYTES || !twin_is_zero(eth, 6))
		return false;
	udp = ip + ip_bytes(frame);
	if (frame->length != ETHERNET_BYTES + ip_bytes(frame) + UDP_BYTES + PROBE_BYTES)
		return false;
	if (get16(eth + 12) == 0x0800) {
		if (ip[0] != 0x45 || ip[9] != 17 || (get16(ip + 6) & 0x3fff) != 0 ||
			get16(ip + 2) != frame->length - ETHERNET_BYTES ||
			fold16(sum16(ip, IP4_BYTES, 0)) != 0xffff || ip[12] == 0 || ip[12] >= 224 ||
			ip[16] == 0 || ip[16] >= 224)
			return false;
	} else if (get16(eth + 12) == 0x86dd) {
		if (ip[0] >> 4 != 6 || ip[6] != 17 || get16(ip + 4) != UDP_BYTES + PROBE_BYTES ||
			ip[8] == 0xff || ip[24] == 0xff || twin_is_zero(ip + 8, 16) ||
			twin_is_zero(ip + 24, 16) || get16(udp + 6) == 0)
			return false;
	} else {
		return false;
	}
	return get16(udp) != 0 && get16(udp + 2) == PORT &&
	       get16(udp + 4) == UDP_BYTES + PROBE_BYTES;
}

static bool twin_allows(const struct frame *frame)
{
	const uint8_t *ip = frame->bytes + ETHERNET_BYTES;
	struct sockaddr_in six_or_four = {.sin_family = AF_INET};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6};

	if (ip_bytes(frame) == IP4_BYTES) {
		memcpy(&six_or_four.sin_addr, ip + 12, 4);
		return probe_filter_allows(&filter, (struct sockaddr *)&six_or_four);
	}
	memcpy(&six.sin6_addr, ip + 8, 16);
	return probe_filter_allows(&filter, (struct sockaddr *)&six);
}

static void swap(uint8_t *a, uint8_t *b, size_t length)
{
	uint8_t kept[16];

	memcpy(kept, a, length);
	memcpy(a, b, length);
	memcpy(b, kept, length);
}

/* frame becomes the answer. */
static void twin_turn(struct frame *frame, const void *answer)
{
	uint8_t *ip = frame->bytes + ETHERNET_BYTES, *udp = ip + ip_bytes(frame);

	swap(frame->bytes, frame->bytes + 6, 6);
	if (ip_bytes(frame) == IP4_BYTES) {
		swap(ip + 12, ip + 16, 4);
		ip[1] = 0;
		put16(ip + 4, 0);
		put16(ip + 6, 0x4000);
		ip[8] = 64;
	} else {
		swap(ip + 8, ip + 24, 16);
		memcpy(ip, "\x60\0\0", 4);
		ip[7] = 64;
	}
	swap(udp, udp + 2, 2);
	memcpy(udp + UDP_BYTES, answer, PROBE_BYTES);
	frame_seal(frame);
}

static enum outcome twin(struct frame *frame, uint64_t now_ns)
{
	uint8_t answer[PROBE_BYTES];
	const uint8_t *payload;

	if (!twin_headers(frame))
		return PASSED;
	payload = frame->bytes + frame->length - PROBE_BYTES;
	if (probe_answer(probe_kernel_slot(kernels[0]), now_ns, payload, PROBE_BYTES, answer) == 0)
		return PASSED;
	if (!twin_allows(frame))
		return REFUSED;
	twin_turn(frame, answer);
	return ANSWERED;
}

/* The UDP checksum is compared by meaning: tc carries a wrong one of the question on to the answer
 * (and 0, "none", with IPv4); XDP makes a new one. */
static void check_answer(bool xdp, const struct frame *in, struct frame *out, struct frame *wanted)
{
	size_t at = ETHERNET_BYTES + ip_bytes(in) + 6;

	CHECK_EQ(out->length, in->length);
	if (xdp || udp_sum(in) == 0xffff)
		CHECK_EQ(udp_sum(out), 0xffff);
	else if (get16(in->bytes + at) == 0)
		CHECK_EQ(get16(out->bytes + at), 0);
	else
		CHECK(udp_sum(out) != 0xffff);
	put16(out->bytes + at, 0);
	put16(wanted->bytes + at, 0);
	CHECK_EQ(memcmp(out->bytes, wanted->bytes, wanted->length), 0);
}

/* Both programs do what the twin does. Returns what that is. */
static enum outcome check_frame(const struct frame *in)
{
	struct frame wanted = *in, out;
	enum outcome is, should = twin(&wanted, clock_now_ns());

	for (unsigned xdp = 0; xdp < 2; xdp++) {
		if (program_run(xdp == 1, in, &out, &is) != 0) {
			CHECK(in->length < 64); /* the kernel takes no such scraps */
			continue;
		}
		CHECK_EQ(is, should);
		if (is == ANSWERED) {
			struct frame copy = wanted;

			check_answer(xdp == 1, in, &out, &copy);
		} else {
			CHECK_EQ(out.length, in->length);
			CHECK_EQ(memcmp(out.bytes, in->bytes, in->length), 0);
		}
	}
	return should;
}

/* --- cases --------------------------------------------------------------------------------- */

TEST(a_question_is_answered_in_place)
{
	programs_open();
	publish_fresh();
	for (unsigned six = 0; six < 2; six++) {
		struct frame frame = question(six);

		CHECK_EQ(check_frame(&frame), ANSWERED);
	}
}

/* Among 65535 ports is the one whose checksum comes to 0, which has to be sent as 0xffff. */
TEST(a_checksum_is_right_whatever_it_comes_to)
{
	programs_open();
	publish_fresh();
	for (unsigned six = 0; six < 2; six++) {
		struct frame frame = question(six), out;
		enum outcome outcome;
		unsigned all_ones = 0;

		for (unsigned port = 1; port <= 0xffff; port++) {
			put16(frame.bytes + ETHERNET_BYTES + ip_bytes(&frame), port);
			frame_seal(&frame);
			if (get16(frame.bytes + ETHERNET_BYTES + ip_bytes(&frame) + 6) == 0)
				continue; /* no checksum */
			for (unsigned xdp = 0; xdp < 2; xdp++) {
				unsigned sum;

				CHECK_EQ(program_run(xdp == 1, &frame, &out, &outcome), 0);
				sum = get16(out.bytes + ETHERNET_BYTES + ip_bytes(&frame) + 6);
				CHECK_EQ(outcome, ANSWERED);
				CHECK_EQ(udp_sum(&out), 0xffff);
				CHECK_NE(sum, 0);
				all_ones += sum == 0xffff;
			}
		}
		CHECK_LT(0, all_ones);
	}
}

TEST(a_frame_cut_or_stretched_to_any_length_goes_on_untouched)
{
	programs_open();
	publish_fresh();
	for (unsigned six = 0; six < 2; six++) {
		struct frame whole = question(six);

		for (size_t length = ETHERNET_BYTES; length <= 200; length++) {
			struct frame frame = whole;

			frame.length = length;
			CHECK_EQ(check_frame(&frame), length == whole.length ? ANSWERED : PASSED);
		}
	}
}

/* A datagram of every length, with headers that say so. */
TEST(a_payload_of_any_other_length_goes_on_untouched)
{
	uint8_t payload[2 * PROBE_BYTES] = {0};
	struct probe_packet packet;

	programs_open();
	publish_fresh();
	probe_ask(&packet, 1);
	memcpy(payload, &packet, sizeof(packet));
	for (size_t length = 0; length <= sizeof(payload); length++) {
		struct frame four = frame4("10.0.0.2", "127.0.0.1", payload, length);
		struct frame six = frame6("fd00::2", "::1", payload, length);
		enum outcome wanted = length == PROBE_BYTES ? ANSWERED : PASSED;

		CHECK_EQ(check_frame(&four), wanted);
		CHECK_EQ(check_frame(&six), wanted);
	}
}

/* Nobody to answer to; no checksum where one is a must; none where it may be missing. */
TEST(ports_and_checksums_of_zero_are_what_the_protocols_say)
{
	programs_open();
	publish_fresh();
	for (unsigned six = 0; six < 2; six++) {
		struct frame frame = question(six);
		uint8_t *udp = frame.bytes + ETHERNET_BYTES + ip_bytes(&frame);

		put16(udp, 0);
		frame_seal(&frame);
		CHECK_EQ(check_frame(&frame), PASSED);
		frame = question(six);
		put16(udp + 6, 0);
		CHECK_EQ(check_frame(&frame), six ? PASSED : ANSWERED);
	}
}

TEST(fragments_go_on_untouched)
{
	programs_open();
	publish_fresh();
	for (unsigned bit = 0; bit < 16; bit++) {
		struct frame frame = question(false);

		put16(frame.bytes + ETHERNET_BYTES + 6, 1u << bit);
		frame_seal(&frame);
		CHECK_EQ(check_frame(&frame),
			bit < 14 ? PASSED : ANSWERED); /* 14: don't, 15: evil */
	}
}

/* Made as long as a question by a shorter payload, and with a whole question behind them. */
TEST(options_and_extension_headers_go_on_untouched)
{
	struct probe_packet packet;
	uint8_t stretched[8 + PROBE_BYTES] = {17, 0, 1, 4, 0, 0, 0, 0};

	programs_open();
	publish_fresh();
	probe_ask(&packet, 1);
	for (unsigned words = 1; words < 16; words++) {
		struct frame frame = question(false);

		frame.bytes[ETHERNET_BYTES] = (uint8_t)(0x40 | words);
		frame_seal(&frame);
		CHECK_EQ(check_frame(&frame), words == 5 ? ANSWERED : PASSED);
	}
	memcpy(stretched + 8, &packet, sizeof(packet));
	for (unsigned next = 0; next < 256; next++) {
		struct frame frame = question(true);
		struct frame longer = frame6("fd00::2", "::1", stretched, sizeof(stretched));

		frame.bytes[ETHERNET_BYTES + 6] = (uint8_t)next;
		longer.bytes[ETHERNET_BYTES + 6] = (uint8_t)next;
		CHECK_EQ(check_frame(&frame), next == 17 ? ANSWERED : PASSED);
		CHECK_EQ(check_frame(&longer), PASSED);
	}
}

TEST(sources_outside_the_filter_are_dropped_and_counted)
{
	static const struct {
		const char *from;
		enum outcome outcome;
	} cases[] = {{"10.0.0.1", ANSWERED}, {"11.0.0.1", REFUSED}, {"9.255.255.255", REFUSED},
		{"127.9.9.9", ANSWERED}, {"fd00::9", ANSWERED}, {"fdff::9", ANSWERED},
		{"fe80::9", REFUSED}, {"::1", ANSWERED}, {"::ffff:11.0.0.1", REFUSED}};
	struct probe_server_stats before = {0}, after = {0};
	struct probe_packet packet;

	programs_open();
	publish_fresh();
	probe_ask(&packet, 1);
	probe_kernel_stats(kernels[0], &before);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(cases); i++) {
		struct frame frame = strchr(cases[i].from, ':') == NULL
					     ? frame4(cases[i].from, "127.0.0.1", &packet, 40)
					     : frame6(cases[i].from, "::1", &packet, 40);

		CHECK_EQ(check_frame(&frame), cases[i].outcome);
	}
	probe_kernel_stats(kernels[0], &after);
	CHECK_EQ(after.refused_source - before.refused_source, 4);
	CHECK_EQ(after.answered - before.answered, 5);
}

TEST(broadcast_and_multicast_are_not_answered)
{
	static const char *const four[] = {"224.0.0.1", "239.1.1.1", "255.255.255.255", "0.0.0.0"};
	static const char *const six[] = {"ff02::1", "::"};
	struct probe_packet packet;

	programs_open();
	publish_fresh();
	probe_ask(&packet, 1);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(four); i++) {
		struct frame to = frame4("10.0.0.2", four[i], &packet, 40);
		struct frame from = frame4(four[i], "127.0.0.1", &packet, 40);

		CHECK_EQ(check_frame(&to), PASSED);
		CHECK_EQ(check_frame(&from), PASSED);
	}
	for (unsigned i = 0; i < FM_ARRAY_COUNT(six); i++) {
		struct frame to = frame6("fd00::2", six[i], &packet, 40);
		struct frame from = frame6(six[i], "::1", &packet, 40);

		CHECK_EQ(check_frame(&to), PASSED);
		CHECK_EQ(check_frame(&from), PASSED);
	}
}

TEST(frames_for_another_machine_are_not_answered)
{
	programs_open();
	publish_fresh();
	for (unsigned i = 0; i < 6; i++) {
		struct frame frame = question(false);

		frame.bytes[i] ^= 0x02; /* not the multicast bit */
		CHECK_EQ(check_frame(&frame), PASSED);
	}
}

/* With forwarding on, the kernel's routing table tells this host's addresses from others'. */
TEST(packets_that_are_to_be_routed_on_are_not_answered)
{
	static const char *const knobs[] = {
		"/proc/sys/net/ipv4/conf/all/forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"};
	struct frame four, six, out;
	struct probe_packet packet;
	enum outcome outcome;

	programs_open();
	publish_fresh();
	for (unsigned i = 0; i < 2; i++) {
		int fd = open(knobs[i], O_WRONLY | O_CLOEXEC);

		CHECK(fd >= 0);
		CHECK_EQ(write(fd, "1", 1), 1);
		close(fd);
	}
	CHECK(lab_ip("route add 10.9.0.0/16 via 10.77.0.2\nroute add fd99::/16 via fd77::2\n"));
	probe_ask(&packet, 1);
	four = frame4("10.0.0.2", "10.9.1.1", &packet, 40);
	six = frame6("fd00::2", "fd99::1", &packet, 40);
	for (unsigned xdp = 0; xdp < 2; xdp++) {
		CHECK_EQ(program_run(xdp == 1, &four, &out, &outcome), 0);
		CHECK_EQ(outcome, PASSED);
		CHECK_EQ(program_run(xdp == 1, &six, &out, &outcome), 0);
		CHECK_EQ(outcome, PASSED);
	}
	four = question(false);
	six = question(true);
	CHECK_EQ(check_frame(&four), ANSWERED);
	CHECK_EQ(check_frame(&six), ANSWERED);
	for (unsigned i = 0; i < 2; i++) {
		int fd = open(knobs[i], O_WRONLY | O_CLOEXEC);

		CHECK_EQ(write(fd, "0", 1), 1);
		close(fd);
	}
}

TEST(any_changed_bit_of_a_question_does_what_user_space_would_do)
{
	unsigned counts[3] = {0};

	programs_open();
	publish_fresh();
	for (unsigned six = 0; six < 2; six++) {
		for (size_t bit = 0; bit < question(six).length * 8; bit++) {
			struct frame frame = question(six);

			frame.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
			counts[check_frame(&frame)]++;
		}
	}
	CHECK_LT(100, counts[PASSED]);
	CHECK_LT(0, counts[REFUSED]);
	CHECK_LT(100, counts[ANSWERED]);
}

/* Questions with a few fields drawn anew, sealed or not. */
TEST(random_frames_do_what_user_space_would_do)
{
	uint64_t state = 7;
	unsigned counts[3] = {0};

	programs_open();
	publish_fresh();
	for (unsigned run = 0; run < 20000; run++) {
		uint64_t dice = test_random(&state);
		struct frame frame = question(dice & 1);

		for (uint64_t i = (dice >> 1) % 4; i > 0; i--) {
			uint64_t r = test_random(&state);

			frame.bytes[r % frame.length] =
				(uint8_t)((r & 0x1000) != 0 ? r >> 16 : (r >> 16) % 4);
		}
		if ((dice & 0x100) != 0 &&
			frame.length ==
				ETHERNET_BYTES + ip_bytes(&frame) + UDP_BYTES + PROBE_BYTES &&
			get16(frame.bytes + ETHERNET_BYTES + ip_bytes(&frame) + 4) ==
				UDP_BYTES + PROBE_BYTES)
			frame_seal(&frame);
		if ((dice & 0xe00) == 0)
			frame.length = ETHERNET_BYTES + (dice >> 16) % 180;
		counts[check_frame(&frame)]++;
	}
	CHECK_LT(1000, counts[PASSED]);
	CHECK_LT(50, counts[REFUSED]);
	CHECK_LT(1000, counts[ANSWERED]);
}

TEST(a_stale_or_empty_slot_answers_unhealthy)
{
	struct probe_server_stats before = {0}, after = {0};
	struct frame frame, out;
	struct probe_packet answer;
	enum outcome outcome;

	programs_open();
	publish(NULL);
	frame = question(false);
	CHECK_EQ(check_frame(&frame), ANSWERED);
	publish(&(struct load_report){.stamp_ns = clock_now_ns() - LOAD_STALE_NS - 1});
	probe_kernel_stats(kernels[1], &before);
	CHECK_EQ(check_frame(&frame), ANSWERED);
	CHECK_EQ(program_run(true, &frame, &out, &outcome), 0);
	memcpy(&answer, out.bytes + out.length - PROBE_BYTES, PROBE_BYTES);
	CHECK_EQ(answer.flags, LOAD_UNHEALTHY);
	probe_kernel_stats(kernels[1], &after);
	CHECK_EQ(after.stale - before.stale, 2);
}

/* The kernel reads its own clock: between two readings of ours. */
TEST(a_request_that_waits_is_the_delay)
{
	uint64_t since_ns = clock_now_ns() - 3 * NS_PER_MS, before_ns, after_ns;
	struct frame frame, out;
	struct probe_packet answer;
	enum outcome outcome;

	programs_open();
	frame = question(true);
	for (unsigned xdp = 0; xdp < 2; xdp++) {
		publish(&(struct load_report){
			.stamp_ns = UINT64_MAX / 2, .delay_ns = 5, .waiting_since_ns = since_ns});
		before_ns = clock_now_ns() - since_ns;
		CHECK_EQ(program_run(xdp == 1, &frame, &out, &outcome), 0);
		after_ns = clock_now_ns() - since_ns;
		CHECK_EQ(outcome, ANSWERED);
		memcpy(&answer, out.bytes + out.length - PROBE_BYTES, PROBE_BYTES);
		CHECK_LE(before_ns, answer.delay_ns);
		CHECK_LE(answer.delay_ns, after_ns);
	}
	publish(&(struct load_report){.stamp_ns = UINT64_MAX / 2, .waiting_since_ns = 1});
	CHECK_EQ(program_run(false, &frame, &out, &outcome), 0);
	memcpy(&answer, out.bytes + out.length - PROBE_BYTES, PROBE_BYTES);
	CHECK(answer.delay_ns == UINT32_MAX || clock_now_ns() < UINT32_MAX);
}

/* The counter of the malformed: our port, our magic, and yet no question. */
TEST(what_only_looks_like_a_question_is_counted)
{
	struct probe_server_stats before = {0}, after = {0};
	struct frame frame;

	programs_open();
	publish_fresh();
	probe_kernel_stats(kernels[0], &before);
	frame = question(false);
	frame.bytes[frame.length - PROBE_BYTES + 4] = PROBE_VERSION + 1;
	CHECK_EQ(check_frame(&frame), PASSED);
	frame = question(true);
	frame.bytes[frame.length - 1] = 1;
	CHECK_EQ(check_frame(&frame), PASSED);
	frame.bytes[frame.length - PROBE_BYTES] ^= 1; /* no magic: no probe at all */
	CHECK_EQ(check_frame(&frame), PASSED);
	probe_kernel_stats(kernels[0], &after);
	CHECK_EQ(after.malformed - before.malformed, 2);
}

/* A frame as it lies on the cable, the client's end of it. */
static void cable_send(int fd, const struct frame *frame)
{
	CHECK_EQ(send(fd, frame->bytes, frame->length, 0), frame->length);
}

/* The tag is taken off before tc sees the frame, which is then exactly as long as a question. */
TEST(a_frame_with_a_vlan_tag_is_left_to_that_vlan)
{
	struct probe_server_stats before = {0}, after = {0};
	struct probe_interface cable[PROBE_INTERFACES_MAX];
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(0x0800)};
	uint64_t begin_ns = clock_now_ns();
	struct frame plain = question(false), tagged;
	unsigned count;
	int fd;

	programs_open();
	publish_fresh();
	CHECK_EQ(probe_interfaces(LAB_SERVER_CABLE, cable, &count), 0);
	if (probe_kernel_attach(kernels[0], cable, PROBE_HOOK_TC) != 0)
		TEST_SKIP("no clsact here");
	CHECK(lab_enter(lab.client));
	link.sll_ifindex = (int)if_nametoindex(LAB_CLIENT_CABLE);
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	CHECK(lab_enter(lab.server));
	CHECK_EQ(bind(fd, (struct sockaddr *)&link, sizeof(link)), 0);
	memcpy(plain.bytes, &cable[0].mac, 6);
	tagged = plain;
	memmove(tagged.bytes + 16, plain.bytes + 12, plain.length - 12);
	memcpy(tagged.bytes + 12, "\x81\0\0\5", 4);
	tagged.length += 4;
	probe_kernel_stats(kernels[0], &before);
	cable_send(fd, &tagged);
	cable_send(fd, &plain);
	do {
		after = (struct probe_server_stats){0};
		probe_kernel_stats(kernels[0], &after);
	} while (after.answered == before.answered && clock_now_ns() - begin_ns < 10 * NS_PER_S);
	CHECK_EQ(after.answered - before.answered, 1);
	close(fd);
}
