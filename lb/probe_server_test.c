/*
 * lb/probe_server_test.c: servers that answer probes in every mode this machine has, over loopback
 * and over a cable (veth) between two private network namespaces.
 */
#include <bpf/bpf.h>
#include <pthread.h>

#include "base/fault_point.h"
#include "lb/probe_client_test.h"

/* --- every mode ---------------------------------------------------------------------------- */

static void mode_on_lo(enum probe_mode mode)
{
	struct probe_server_stats stats;
	struct probe_server *server;

	lab_wanted();
	server = server_open(mode, "lo");
	check_answered(server, lab.server, "127.0.0.1");
	check_answered(server, lab.server, "127.0.0.77");
	check_answered(server, lab.server, "::1");
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.answered, 3);
	CHECK_EQ(stats.stale + stats.refused_source + stats.malformed, 0);
	probe_server_close(server);
}

TEST(tc_answers_on_loopback)
{
	mode_on_lo(PROBE_TC);
}

/* Filters of the clsact qdisc: what there is before Linux 6.6. */
TEST(tc_without_links_answers_on_loopback)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("probe.tcx", 1, true), 0);
	mode_on_lo(PROBE_TC);
	CHECK_LT(0, fault_fired_count());
	fault_disarm_all();
}

TEST(generic_xdp_answers_on_loopback)
{
	mode_on_lo(PROBE_XDP_GENERIC);
}

/* With checksums left open by the sender, made by software, and with one side of each kind: an
 * answer whose checksum is wrong would not reach the client's socket. */
static void mode_on_cable(enum probe_mode mode)
{
	struct probe_server *server;

	lab_wanted();
	server = server_open(mode, LAB_SERVER_CABLE);
	for (unsigned software = 0; software < 4; software++) {
		CHECK(lab_offload(LAB_SERVER_CABLE, (software & 1) == 0));
		CHECK(lab_enter(lab.client));
		CHECK(lab_offload(LAB_CLIENT_CABLE, (software & 2) == 0));
		CHECK(lab_enter(lab.server));
		check_answered(server, lab.client, LAB_SERVER4);
		check_answered(server, lab.client, LAB_SERVER6);
		check_answered(server, lab.client, LAB_SERVER_LINK6);
	}
	probe_server_close(server);
}

TEST(tc_answers_over_a_cable)
{
	mode_on_cable(PROBE_TC);
}

TEST(tc_without_links_answers_over_a_cable)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("probe.tcx", 1, true), 0);
	mode_on_cable(PROBE_TC);
	CHECK_LT(0, fault_fired_count());
	fault_disarm_all();
}

TEST(generic_xdp_answers_over_a_cable)
{
	mode_on_cable(PROBE_XDP_GENERIC);
}

/* XDP_PASS for the cable's other end: without one, veth loses what native XDP sends back. */
static int peer_pass(void)
{
	static const struct bpf_insn pass[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int program, link;

	CHECK(lab_enter(lab.client));
	program = bpf_prog_load(BPF_PROG_TYPE_XDP, "pass", "GPL", pass, FM_ARRAY_COUNT(pass), NULL);
	link = program < 0 ? program
			   : bpf_link_create(
				     program, (int)if_nametoindex(LAB_CLIENT_CABLE), BPF_XDP, NULL);
	CHECK(lab_enter(lab.server));
	if (program >= 0)
		close(program);
	return link;
}

TEST(native_xdp_answers_over_a_cable)
{
	int link;

	lab_wanted();
	link = peer_pass();
	if (link < 0)
		TEST_SKIP("no native XDP on veth here");
	mode_on_cable(PROBE_XDP);
	close(link);
}

/* Without names: loopback and cable, and what goes wrong on one of them does not matter. */
TEST(all_interfaces_that_are_up_answer)
{
	struct probe_server *server;

	lab_wanted();
	fault_disarm_all();
	server = server_open(PROBE_TC, NULL);
	check_answered(server, lab.server, "127.0.0.1");
	check_answered(server, lab.server, LAB_SERVER4); /* which goes by lo */
	check_answered(server, lab.client, LAB_SERVER6);
	probe_server_close(server);
	server = server_open(PROBE_XDP_GENERIC, NULL);
	check_answered(server, lab.client, LAB_SERVER4);
	probe_server_close(server);
}

/* Of two named interfaces the second one fails: neither answers, and auto has somebody else do. */
TEST(named_interfaces_answer_all_or_not_at_all)
{
	struct probe_server_options options = {.mode = PROBE_TC,
		.port = PORT,
		.interfaces = "lo," LAB_SERVER_CABLE,
		.user_port = PORT + 1,
		.epoch = 17};
	struct probe_server *server;
	int owner, client;

	lab_wanted();
	probe_server_close(server_open(PROBE_TC, "lo")); /* skips where there is no BPF */
	fault_disarm_all();
	for (unsigned i = 0; i < 2; i++) {
		owner = owner_open(PORT);
		client = client_open(lab.server, "127.0.0.1", PORT);
		options.mode = i == 0 ? PROBE_TC : PROBE_AUTO;
		CHECK_EQ(fault_arm("probe.attach", 2, true), 0);
		CHECK_EQ(probe_server_open(&options, &server), i == 0 ? -EBUSY : 0);
		fault_disarm_all();
		send_question(client, 1);
		CHECK(are_silent(client, -1));
		close(client);
		close(owner);
	}
	CHECK_EQ(probe_server_mode(server), PROBE_USER);
	client = client_open(lab.server, "127.0.0.1", PORT + 1);
	CHECK_EQ(ask(client).flags, LOAD_UNHEALTHY);
	close(client);
	probe_server_close(server);
}

/* Its own socket and port; the reply comes from the address that was asked. */
TEST(the_responder_answers_from_the_address_it_was_asked_at)
{
	static const char *const hosts[] = {
		"127.0.0.1", "127.0.0.77", "::1", LAB_SERVER4, LAB_SERVER6, LAB_SERVER_LINK6};
	struct probe_server_stats stats;
	struct probe_server *server;

	lab_wanted();
	server = server_open(PROBE_USER, NULL);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(hosts); i++) {
		int client = client_open(i < 3 ? lab.server : lab.client, hosts[i], PORT);

		publish(server);
		CHECK_EQ(ask(client).in_flight, busy.in_flight);
		close(client);
	}
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.answered, 6);
	probe_server_close(server);
}

TEST(the_responder_says_whose_port_it_could_not_have)
{
	const struct probe_server_options options = {.mode = PROBE_USER, .port = PORT};
	struct probe_server *server;
	int owner;

	lab_wanted();
	owner = owner_open(PORT);
	CHECK_EQ(probe_server_open(&options, &server), -EADDRINUSE);
	close(owner);
}

/* The owner of the socket answers what the kernel does not, by the same rules. */
TEST(unusual_questions_are_left_to_the_owner_of_the_socket)
{
	struct probe_server *server;
	struct probe_server_stats stats;
	struct sockaddr_storage from;
	socklen_t from_length = sizeof(from);
	uint8_t bytes[256], no_operation[4] = {1, 1, 1, 0};
	struct load load;
	uint64_t cookie;
	int owner, client;
	size_t length;

	lab_wanted();
	server = server_open(PROBE_TC, LAB_SERVER_CABLE);
	owner = owner_open(PORT);
	client = client_open(lab.client, LAB_SERVER4, PORT);
	CHECK_EQ(setsockopt(client, IPPROTO_IP, IP_OPTIONS, no_operation, sizeof(no_operation)), 0);
	publish(server);
	send_question(client, 4711);
	CHECK_EQ(recvfrom(owner, bytes, sizeof(bytes), 0, (struct sockaddr *)&from, &from_length),
		PROBE_BYTES);
	length = probe_server_answer(server, (struct sockaddr *)&from, bytes, PROBE_BYTES, bytes);
	CHECK_EQ(length, PROBE_BYTES);
	CHECK_EQ(sendto(owner, bytes, length, 0, (struct sockaddr *)&from, from_length), length);
	CHECK_EQ(receive(client, bytes, sizeof(bytes), ANSWER_MS), PROBE_BYTES);
	CHECK(probe_parse_answer(bytes, PROBE_BYTES, &load, &cookie));
	CHECK_EQ(cookie, 4711);
	CHECK_EQ(load.in_flight, busy.in_flight);
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.answered, 1);
	close(client);
	close(owner);
	probe_server_close(server);
}

TEST(everything_that_is_no_question_reaches_the_owner)
{
	struct probe_packet packet;
	struct probe_server *server;
	struct probe_server_stats stats;
	uint8_t bytes[256];
	int owner, client;

	lab_wanted();
	server = server_open(PROBE_TC, "lo");
	owner = owner_open(PORT);
	client = client_open(lab.server, "127.0.0.1", PORT);
	for (unsigned i = 0; i < 3; i++) {
		probe_ask(&packet, 1);
		packet.version = (uint8_t)(PROBE_VERSION + (i == 0));
		packet.kind = i == 1 ? PROBE_ANSWER : PROBE_ASK;
		CHECK_EQ(send(client, &packet, i == 2 ? PROBE_BYTES - 1 : PROBE_BYTES, 0),
			i == 2 ? PROBE_BYTES - 1 : PROBE_BYTES);
		CHECK_EQ(receive(owner, bytes, sizeof(bytes), ANSWER_MS),
			i == 2 ? PROBE_BYTES - 1 : PROBE_BYTES);
	}
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.malformed, 2);
	CHECK_EQ(stats.answered, 0);
	close(client);
	close(owner);
	probe_server_close(server);
}

TEST(a_server_that_stops_publishing_becomes_unhealthy)
{
	uint64_t published_ns, end_ns = clock_now_ns() + 10 * NS_PER_S;
	struct probe_server *server;
	struct load load;
	int client;

	lab_wanted();
	server = server_open(PROBE_TC, "lo");
	client = client_open(lab.server, "127.0.0.1", PORT);
	CHECK_EQ(ask(client).flags, LOAD_UNHEALTHY);
	do {
		published_ns = clock_now_ns();
		publish_at(server, published_ns);
		load = ask(client);
	} while (load.flags != 0 && clock_now_ns() < end_ns);
	CHECK_EQ(load.in_flight, busy.in_flight);
	do {
		load = ask(client);
	} while (load.flags == 0 && clock_now_ns() < end_ns);
	CHECK_EQ(load.flags, LOAD_UNHEALTHY);
	CHECK_EQ(load.in_flight, 0);
	CHECK_LT(LOAD_STALE_NS, clock_now_ns() - published_ns);
	close(client);
	probe_server_close(server);
}

static void mode_with_filter(enum probe_mode mode)
{
	const struct probe_server_options options = {.mode = mode,
		.port = PORT,
		.interfaces = LAB_SERVER_CABLE,
		.allow = "10.77.0.9,fd77::/64",
		.epoch = 17};
	struct probe_server *server;
	struct probe_server_stats stats;
	int four, six, owner = -1;

	lab_wanted();
	server = server_open_with(&options);
	four = client_open(lab.client, LAB_SERVER4, PORT);
	six = client_open(lab.client, LAB_SERVER6, PORT);
	if (mode != PROBE_USER)
		owner = owner_open(PORT);
	send_question(four, 1);
	CHECK(are_silent(four, owner));
	CHECK_EQ(ask(six).flags, LOAD_UNHEALTHY);
	probe_server_stats(server, &stats);
	CHECK_EQ(stats.refused_source, 1);
	CHECK_EQ(stats.answered, 1);
	CHECK_EQ(stats.stale, 1);
	close(four);
	close(six);
	if (owner >= 0)
		close(owner);
	probe_server_close(server);
}

TEST(tc_gives_a_source_outside_the_allowed_prefixes_no_answer)
{
	mode_with_filter(PROBE_TC);
}

TEST(xdp_gives_a_source_outside_the_allowed_prefixes_no_answer)
{
	mode_with_filter(PROBE_XDP_GENERIC);
}

TEST(the_responder_gives_a_source_outside_the_allowed_prefixes_no_answer)
{
	mode_with_filter(PROBE_USER);
}

TEST(servers_of_different_ports_share_an_interface)
{
	struct probe_server_options options = {
		.mode = PROBE_TC, .port = PORT + 1, .interfaces = "lo", .epoch = 17};
	struct probe_server *first, *second;

	lab_wanted();
	first = server_open(PROBE_TC, "lo");
	CHECK_EQ(probe_server_open(&options, &second), 0);
	check_answered(first, lab.server, "127.0.0.1");
	publish(second);
	probe_server_slot(second)->reports[1].in_flight = 99; /* the first report's place */
	for (unsigned i = 0; i < 2; i++) {
		int client = client_open(lab.server, "::1", PORT + 1);

		CHECK_EQ(ask(client).in_flight, 99);
		close(client);
		if (i == 0)
			probe_server_close(first);
	}
	probe_server_close(second);
}

/* By links and by filters: who goes takes nothing of the other's along, and there is one answer. */
TEST(a_successor_may_start_before_its_predecessor_ends)
{
	struct probe_server *first, *second;
	int client;

	lab_wanted();
	for (unsigned old_kernel = 0; old_kernel < 2; old_kernel++) {
		fault_disarm_all();
		if (old_kernel)
			CHECK_EQ(fault_arm("probe.tcx", 1, true), 0);
		first = server_open(PROBE_TC, "lo");
		second = server_open(PROBE_TC, "lo");
		publish(first);
		client = client_open(lab.server, "127.0.0.1", PORT);
		publish(second);
		CHECK_EQ(ask(client).in_flight, busy.in_flight);
		CHECK(are_silent(client, -1));
		close(client);
		probe_server_close(first);
		check_answered(second, lab.server, "127.0.0.1");
		probe_server_close(second);
	}
	fault_disarm_all();
}

/* Servers of one port on one machine, each at an address of its own, in any mode. */
static void mode_at_addresses(enum probe_mode mode)
{
	static const char *const addresses[] = {
		"127.0.0.2", "127.0.0.3", "127.0.0.4", LAB_SERVER4, LAB_SERVER6, "::1"};
	struct probe_server *servers[FM_ARRAY_COUNT(addresses)];
	int elsewhere, owner;

	lab_wanted();
	for (unsigned i = 0; i < FM_ARRAY_COUNT(addresses); i++) {
		servers[i] = server_open_with(&(struct probe_server_options){
			.mode = mode, .port = PORT, .address = addresses[i], .epoch = 17});
		publish(servers[i]);
		probe_server_slot(servers[i])->reports[1].in_flight = (uint16_t)(100 + i);
	}
	owner = mode == PROBE_USER ? -1 : owner_open(PORT);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(addresses); i++) {
		bool far = i == 3 || i == 4;
		int client = client_open(far ? lab.client : lab.server, addresses[i], PORT);

		CHECK_EQ(ask(client).in_flight, 100 + i);
		CHECK(are_silent(client, owner));
		close(client);
	}
	elsewhere = client_open(lab.server, "127.0.0.5", PORT);
	send_question(elsewhere, 1);
	CHECK(are_silent(elsewhere, -1) || mode == PROBE_USER); /* there: nobody's port */
	close(elsewhere);
	if (owner >= 0)
		close(owner);
	for (unsigned i = 0; i < FM_ARRAY_COUNT(addresses); i++)
		probe_server_close(servers[i]);
}

TEST(servers_of_one_port_at_different_addresses_do_not_meet)
{
	fault_disarm_all();
	mode_at_addresses(PROBE_TC);
}

TEST(servers_of_one_port_at_different_addresses_do_not_meet_in_filters)
{
	fault_disarm_all();
	CHECK_EQ(fault_arm("probe.tcx", 1, true), 0);
	mode_at_addresses(PROBE_TC);
	fault_disarm_all();
}

TEST(responders_of_one_port_at_different_addresses_do_not_meet)
{
	mode_at_addresses(PROBE_USER);
}

TEST(a_mode_asked_for_by_name_is_that_or_an_error)
{
	struct probe_server_options options = {.mode = PROBE_XDP, .port = PORT, .interfaces = "lo"};
	struct probe_server *server;

	lab_wanted();
	CHECK_LT(probe_server_open(&options, &server), 0); /* lo has no native XDP */
	options.mode = PROBE_TC;
	options.interfaces = "lo,nosuch0";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.interfaces = "lo,";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.interfaces = "lo";
	options.allow = "10.0.0.0/99";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.allow = NULL;
	options.address = "localhost";
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.address = "0.0.0.0";
	options.port = 0;
	CHECK_EQ(probe_server_open(&options, &server), -EINVAL);
	options.port = PORT;
	options.mode = PROBE_NONE;
	CHECK_EQ(probe_server_open(&options, &server), 0);
	CHECK_NE(probe_server_slot(server)->epoch, 0);
	CHECK_EQ(probe_server_slot(server)->port, PORT);
	probe_server_close(server);
	probe_server_close(NULL);
}

/* --- a writer at work ---------------------------------------------------------------------- */

struct writer {
	struct load_slot *slot;
	_Atomic bool stop;
};

/* Reports whose numbers belong together, as fast as possible. */
static void *writer_run(void *argument)
{
	struct writer *writer = argument;

	for (uint32_t i = 1; !atomic_load(&writer->stop); i++) {
		const struct load_report report = {
			.stamp_ns = UINT64_MAX / 2,
			.free_bytes = (uint64_t)i << 32 | (i & 0xffff),
			.delay_ns = i,
			.in_flight = (uint16_t)i,
		};

		load_publish(writer->slot, &report);
	}
	return NULL;
}

TEST(answers_are_never_torn_by_a_writer_at_work)
{
	struct writer writer = {0};
	struct probe_server *server;
	unsigned healthy = 0;
	pthread_t thread;
	int client;

	lab_wanted();
	server = server_open(PROBE_TC, "lo");
	client = client_open(lab.server, "127.0.0.1", PORT);
	writer.slot = probe_server_slot(server);
	CHECK_EQ(pthread_create(&thread, NULL, writer_run, &writer), 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct load load = ask(client);

		if ((load.flags & LOAD_UNHEALTHY) != 0)
			continue;
		healthy++;
		CHECK_EQ(load.in_flight, load.delay_ns & 0xffff);
		CHECK_EQ(load.free_bytes, (uint64_t)load.delay_ns << 32 | load.in_flight);
	}
	atomic_store(&writer.stop, true);
	pthread_join(thread, NULL);
	CHECK_LT(10000, healthy);
	close(client);
	probe_server_close(server);
}
