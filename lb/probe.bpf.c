/*
 * lb/probe.bpf.c: answers probes (lb/probe.h) on their way in, before the host's network stack
 * sees them. Compiled for the kernel's BPF machine; lb/probe.skel.h is the committed result, made
 * by lb/probe_skeleton and loaded by lb/probe_kernel.c.
 *
 * Two programs share everything but how bytes are fetched and stored: probe_tc (tc ingress) and
 * probe_xdp (native or generic).
 *
 * Invariants:
 * 1. A packet that is not a well-formed question to this server goes on untouched, at the cost of
 *    one comparison unless it happens to be exactly as long as a question.
 * 2. An answer is as long as its question, has its addresses and ports swapped, its checksums
 *    right, and is no question: nothing to amplify, no loop.
 * 3. Only packets for this host are answered: not those that a bridge or router passes on, not
 *    broadcasts. User space answers whatever these rules are too strict for (IP options, VLAN tags
 *    in the frame).
 * 4. The answer is byte for byte that of probe_answer() in lb/probe_wire.c.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lb/probe.h"
#include "lb/probe_maps.h"

/* bpf_fib_lookup is for programs under the GPL; the rest of the tree is under Apache-2.0 alone. */
char probe_license[] SEC("license") = "Dual BSD/GPL";

#define PROBE_AF_INET 2
#define PROBE_AF_INET6 10
#define PROBE_TTL 64
#define PROBE_DONT_FRAGMENT 0x4000
#define PROBE_FRAGMENT_MASK 0x3fff /* "more fragments" and the offset */
#define PROBE_UDP_BYTES (sizeof(struct udphdr) + PROBE_BYTES)

/* Set by the loader before the program is loaded; the verifier drops the branches not taken. */
const volatile __u16 probe_port_be;
const volatile bool probe_bound;         /* answers for probe_address alone */
const volatile __u64 probe_address[2];   /* IPv4 as in struct probe_prefix */
const volatile bool probe_filters;       /* is probe_allowed in use? */
const volatile bool probe_orders_loads;  /* the CPU reorders loads (any but x86) */
const volatile __s64 probe_clock_offset; /* the loader's CLOCK_MONOTONIC less the kernel's */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct load_slot));
	__uint(map_flags, BPF_F_MMAPABLE);
} probe_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, PROBE_PREFIXES_MAX);
	__uint(key_size, sizeof(struct probe_prefix));
	__uint(value_size, 1);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} probe_allowed SEC(".maps");

/* XDP is not told for whom a frame is: interface index -> its MAC address in the lower 6 bytes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROBE_INTERFACES_MAX);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} probe_macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct probe_counters));
} probe_counted SEC(".maps");

/*
 * The headers of a frame, padded in front so that all fields are aligned. They are read by their
 * names and written in whole words: Linux 6.1 lets a program without
 * CAP_PERFMON not write a part of a word on the stack whose value it knows.
 */
union probe_headers4 {
	__u64 words[6];
	struct {
		__u8 pad[2];
		struct ethhdr eth;
		struct iphdr ip;
		struct udphdr udp;
	};
};
union probe_headers6 {
	__u64 words[8];
	struct {
		__u8 pad[2];
		struct ethhdr eth;
		struct ipv6hdr ip;
		struct udphdr udp;
	};
};
union probe_payload {
	__u64 words[PROBE_BYTES / sizeof(__u64)];
	struct probe_packet packet;
};
union probe_route {
	__u64 words[sizeof(struct bpf_fib_lookup) / sizeof(__u64)];
	struct bpf_fib_lookup fib;
};
union probe_source {
	__u64 words[3];
	struct {
		__u32 pad;
		struct probe_prefix prefix;
	};
};
#define PROBE_PAD_BYTES 2
#define PROBE_HEADERS4_BYTES (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr))
#define PROBE_HEADERS6_BYTES                                                                       \
	(sizeof(struct ethhdr) + sizeof(struct ipv6hdr) + sizeof(struct udphdr))
#define PROBE_FRAME4_BYTES (PROBE_HEADERS4_BYTES + PROBE_BYTES)
#define PROBE_FRAME6_BYTES (PROBE_HEADERS6_BYTES + PROBE_BYTES)
#define PROBE_CHECK_BYTES 2 /* the last ones of the UDP header */
_Static_assert(__builtin_offsetof(union probe_headers4, udp) == 36, "no holes");
_Static_assert(__builtin_offsetof(union probe_headers6, udp) == 56, "no holes");
_Static_assert(__builtin_offsetof(struct bpf_fib_lookup, ifindex) == 8, "words[1]");
_Static_assert(__builtin_offsetof(struct bpf_fib_lookup, ipv4_src) == 16, "words[2]");
_Static_assert(__builtin_offsetof(struct bpf_fib_lookup, ipv4_dst) == 32, "words[4]");
_Static_assert(__builtin_offsetof(struct load_report, free_bytes) == 16, "words[2]");
_Static_assert(__builtin_offsetof(struct load_report, delay_ns) == 24, "words[3]");
_Static_assert(__builtin_offsetof(struct probe_packet, epoch) == 16, "words[2]");
_Static_assert(__builtin_offsetof(struct probe_packet, in_flight) == 32, "words[4]");

enum probe_verdict { PROBE_PASSED, PROBE_REFUSED, PROBE_ANSWERED };

static __always_inline struct probe_counters *probe_counters(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&probe_counted, &key);
}

static __always_inline __u16 probe_fold(__s64 sum)
{
	__u64 folded = (__u32)sum;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return (__u16)~folded;
}

/* Keeps loads in program order where the CPU does not. */
static __always_inline void probe_load_barrier(void)
{
	__u64 local = 0;

	if (probe_orders_loads)
		(void)__sync_fetch_and_add(&local, 1);
	barrier();
}

/* load_read() of rpc/load.h in this machine's words. Stale or never written: LOAD_UNHEALTHY. */
static __always_inline void probe_read_slot(struct load_slot *slot, struct load *load)
{
	volatile __u64 *version = (volatile __u64 *)&slot->version;
	__u64 before, now_ns, stamp_ns, since_ns, free_bytes, rest, delay_ns;

	load->flags = LOAD_UNHEALTHY;
	load->delay_ns = load->in_flight = 0;
	load->free_bytes = 0;
	for (int i = 0; i < LOAD_READ_TRIES_MAX; i++) {
		volatile __u64 *words;

		before = *version;
		if (before == 0)
			return;
		probe_load_barrier();
		words = (volatile __u64 *)&slot->reports[before & 1];
		stamp_ns = words[0];
		since_ns = words[1];
		free_bytes = words[2];
		rest = words[3];
		probe_load_barrier();
		if (*version != before)
			continue;
		now_ns = bpf_ktime_get_ns() + (__u64)probe_clock_offset;
		if (now_ns > stamp_ns && now_ns - stamp_ns > LOAD_STALE_NS)
			return;
		delay_ns = (__u32)rest;
		if (since_ns != 0 && now_ns > since_ns && now_ns - since_ns > delay_ns)
			delay_ns = now_ns - since_ns;
		load->delay_ns = delay_ns > 0xffffffff ? 0xffffffff : (__u32)delay_ns;
		load->in_flight = (__u16)(rest >> 32);
		load->flags = (__u16)(rest >> 48);
		load->free_bytes = free_bytes;
		return;
	}
}

static __always_inline enum probe_verdict probe_make_answer(
	const union probe_payload *question, union probe_payload *answer)
{
	struct probe_counters *counters = probe_counters();
	struct load_slot *slot;
	struct load load;
	__u32 key = 0;

	slot = bpf_map_lookup_elem(&probe_slots, &key);
	if (slot == NULL || counters == NULL)
		return PROBE_PASSED;
	probe_read_slot(slot, &load);
	answer->words[0] = PROBE_MAGIC | (__u64)PROBE_VERSION << 32 | (__u64)PROBE_ANSWER << 40 |
			   (__u64)load.flags << 48;
	answer->words[1] = question->words[1]; /* the cookie */
	answer->words[2] = slot->epoch | (__u64)load.delay_ns << 32;
	answer->words[3] = load.free_bytes;
	answer->words[4] = load.in_flight;
	if ((load.flags & LOAD_UNHEALTHY) != 0)
		counters->stale++;
	counters->answered++;
	return PROBE_ANSWERED;
}

/* The datagram is for our port; is it a question? One that only looks like it is counted. */
static __always_inline bool probe_is_question(const struct probe_packet *packet)
{
	struct probe_counters *counters;
	__u8 reserved = 0;

	if (packet->magic != PROBE_MAGIC)
		return false;
	for (unsigned i = 0; i < sizeof(packet->reserved); i++)
		reserved |= packet->reserved[i];
	if (packet->version == PROBE_VERSION && packet->kind == PROBE_ASK && packet->flags == 0 &&
		reserved == 0)
		return true;
	counters = probe_counters();
	if (counters != NULL)
		counters->malformed++;
	return false;
}

static __always_inline bool probe_is_allowed(const union probe_source *source)
{
	struct probe_counters *counters;

	if (!probe_filters || bpf_map_lookup_elem(&probe_allowed, &source->prefix) != NULL)
		return true;
	counters = probe_counters();
	if (counters != NULL)
		counters->refused_source++;
	return false;
}

/* Not to be passed on to another host (invariant 3)? The kernel's own routing table knows. */
static __always_inline bool probe_is_for_us(void *context, union probe_route *route)
{
	long verdict = bpf_fib_lookup(context, &route->fib, sizeof(route->fib), 0);

	return verdict == BPF_FIB_LKUP_RET_NOT_FWDED || verdict == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/* The address asked, in two words. */
static __always_inline bool probe_is_our_address(__u64 first, __u64 second)
{
	return !probe_bound || (first == probe_address[0] && second == probe_address[1]);
}

static __always_inline __u64 probe_mapped4(__be32 address)
{
	return (__u64)address << 32 | 0xffff0000;
}

static __always_inline bool probe_is_unicast4(__be32 address)
{
	__u8 first = (__u8)(bpf_ntohl(address) >> 24);

	return first != 0 && first < 224;
}

static __always_inline bool probe_is_unicast6(const struct in6_addr *address)
{
	const __be32 *words = address->in6_u.u6_addr32;

	return (bpf_ntohl(words[0]) >> 24) != 0xff &&
	       (words[0] | words[1] | words[2] | words[3]) != 0;
}

static __always_inline bool probe_is_plain4(const union probe_headers4 *in)
{
	return in->eth.h_proto == bpf_htons(ETH_P_IP) && *(__u8 *)&in->ip == 0x45 &&
	       in->ip.protocol == IPPROTO_UDP && in->udp.dest == probe_port_be &&
	       (in->ip.frag_off & bpf_htons(PROBE_FRAGMENT_MASK)) == 0 &&
	       in->ip.tot_len == bpf_htons(sizeof(in->ip) + PROBE_UDP_BYTES) &&
	       in->udp.len == bpf_htons(PROBE_UDP_BYTES) && in->udp.source != 0 &&
	       probe_is_our_address(0, probe_mapped4(in->ip.daddr)) &&
	       probe_is_unicast4(in->ip.saddr) && probe_is_unicast4(in->ip.daddr) &&
	       probe_fold(bpf_csum_diff(NULL, 0, (__be32 *)&in->ip, sizeof(in->ip), 0)) == 0;
}

static __always_inline bool probe_is_plain6(const union probe_headers6 *in)
{
	return in->eth.h_proto == bpf_htons(ETH_P_IPV6) && (*(__u8 *)&in->ip & 0xf0) == 0x60 &&
	       in->ip.nexthdr == IPPROTO_UDP && in->udp.dest == probe_port_be &&
	       in->ip.payload_len == bpf_htons(PROBE_UDP_BYTES) &&
	       in->udp.len == bpf_htons(PROBE_UDP_BYTES) && in->udp.source != 0 &&
	       probe_is_our_address(in->words[5], in->words[6]) && in->udp.check != 0 &&
	       probe_is_unicast6(&in->ip.saddr) && probe_is_unicast6(&in->ip.daddr);
}

/* Headers and question as they came; PROBE_ANSWERED: *answer is to be sent instead. */
static __always_inline enum probe_verdict probe_answer4(void *context, __u32 interface,
	const union probe_headers4 *in, const union probe_payload *question,
	union probe_payload *answer)
{
	union probe_source source = {.words = {128ull << 32, 0, probe_mapped4(in->ip.saddr)}};
	union probe_route route = {.words = {PROBE_AF_INET | IPPROTO_UDP << 8, interface,
					   in->ip.saddr, 0, in->ip.daddr}};

	if (!probe_is_question(&question->packet) || !probe_is_for_us(context, &route))
		return PROBE_PASSED;
	if (!probe_is_allowed(&source))
		return PROBE_REFUSED;
	return probe_make_answer(question, answer);
}

static __always_inline enum probe_verdict probe_answer6(void *context, __u32 interface,
	const union probe_headers6 *in, const union probe_payload *question,
	union probe_payload *answer)
{
	union probe_source source = {.words = {128ull << 32, in->words[3], in->words[4]}};
	union probe_route route = {.words = {PROBE_AF_INET6 | IPPROTO_UDP << 8, interface,
					   in->words[3], in->words[4], in->words[5], in->words[6]}};

	if (!probe_is_question(&question->packet) || !probe_is_for_us(context, &route))
		return PROBE_PASSED;
	if (!probe_is_allowed(&source))
		return PROBE_REFUSED;
	return probe_make_answer(question, answer);
}

static __always_inline void probe_turn_ethernet(const __u64 *in, __u64 *out)
{
	out[0] = in[1] << 16;                                /* to: whom it came from */
	out[1] = in[0] >> 16 | (in[1] & 0xffff000000000000); /* from; the protocol stays */
}

/*
 * The headers of the answer. IP's are made anew, with a TTL of their own: routers on the way have
 * used up the question's. Swapped addresses and ports do not change a sum.
 */
static __always_inline void probe_turn4(
	const union probe_headers4 *in, union probe_headers4 *out, __u16 check)
{
	const __u64 first = 0x45 | (__u64)bpf_htons(sizeof(in->ip) + PROBE_UDP_BYTES) << 16 |
			    (__u64)bpf_htons(PROBE_DONT_FRAGMENT) << 48;
	const __u32 second = PROBE_TTL | IPPROTO_UDP << 8;
	__s64 sum = bpf_csum_diff(NULL, 0, (__be32 *)&in->ip.saddr, 2 * sizeof(in->ip.saddr),
		0x45 + bpf_htons(sizeof(in->ip) + PROBE_UDP_BYTES) +
			bpf_htons(PROBE_DONT_FRAGMENT) + second);

	probe_turn_ethernet(in->words, out->words);
	out->words[2] = first;
	out->words[3] = second | (__u64)probe_fold(sum) << 16 | (__u64)in->ip.daddr << 32;
	out->words[4] = in->ip.saddr | (__u64)in->udp.dest << 32 | (__u64)in->udp.source << 48;
	out->words[5] = in->udp.len | (__u64)check << 16;
}

static __always_inline void probe_turn6(
	const union probe_headers6 *in, union probe_headers6 *out, __u16 check)
{
	probe_turn_ethernet(in->words, out->words);
	/* version 6, no class, no flow */
	out->words[2] = 0x60 | (__u64)in->ip.payload_len << 32 | (__u64)IPPROTO_UDP << 48 |
			(__u64)PROBE_TTL << 56;
	out->words[3] = in->words[5];
	out->words[4] = in->words[6];
	out->words[5] = in->words[3];
	out->words[6] = in->words[4];
	out->words[7] = in->udp.dest | (__u64)in->udp.source << 16 | (__u64)in->udp.len << 32 |
			(__u64)check << 48;
}

/*
 * --- tc ingress. The UDP checksum is updated by the kernel's helper, by the difference: it alone
 * knows whether the packet carries a whole checksum or one that a device is yet to complete
 * (CHECKSUM_PARTIAL).
 */
static __always_inline int probe_tc_send(struct __sk_buff *skb, __u32 headers_bytes,
	const union probe_payload *question, const union probe_payload *answer)
{
	__s64 difference = bpf_csum_diff(
		(__be32 *)question, sizeof(*question), (__be32 *)answer, sizeof(*answer), 0);

	if (bpf_skb_store_bytes(skb, headers_bytes, answer, sizeof(*answer), 0) != 0 ||
		bpf_l4_csum_replace(skb, headers_bytes - PROBE_CHECK_BYTES, 0, (__u64)difference,
			BPF_F_MARK_MANGLED_0) != 0)
		return TC_ACT_SHOT; /* half changed: fit for nobody */
	return (int)bpf_redirect(skb->ifindex, 0);
}

static __always_inline int probe_tc4(struct __sk_buff *skb)
{
	union probe_headers4 in = {.words = {0}}, out;
	union probe_payload question, answer;
	enum probe_verdict verdict;

	if (bpf_skb_load_bytes(skb, 0, &in.eth, PROBE_HEADERS4_BYTES) != 0 ||
		!probe_is_plain4(&in) ||
		bpf_skb_load_bytes(skb, PROBE_HEADERS4_BYTES, &question, sizeof(question)) != 0)
		return TC_ACT_UNSPEC;
	verdict = probe_answer4(skb, skb->ifindex, &in, &question, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	probe_turn4(&in, &out, in.udp.check);
	if (bpf_skb_store_bytes(skb, 0, &out.eth, PROBE_HEADERS4_BYTES, 0) != 0)
		return TC_ACT_UNSPEC;
	return probe_tc_send(skb, PROBE_HEADERS4_BYTES, &question, &answer);
}

static __always_inline int probe_tc6(struct __sk_buff *skb)
{
	union probe_headers6 in = {.words = {0}}, out;
	union probe_payload question, answer;
	enum probe_verdict verdict;

	if (bpf_skb_load_bytes(skb, 0, &in.eth, PROBE_HEADERS6_BYTES) != 0 ||
		!probe_is_plain6(&in) ||
		bpf_skb_load_bytes(skb, PROBE_HEADERS6_BYTES, &question, sizeof(question)) != 0)
		return TC_ACT_UNSPEC;
	verdict = probe_answer6(skb, skb->ifindex, &in, &question, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	probe_turn6(&in, &out, in.udp.check);
	if (bpf_skb_store_bytes(skb, 0, &out.eth, PROBE_HEADERS6_BYTES, 0) != 0)
		return TC_ACT_UNSPEC;
	return probe_tc_send(skb, PROBE_HEADERS6_BYTES, &question, &answer);
}

SEC("tc")
int probe_tc(struct __sk_buff *skb)
{
	__u32 length = skb->len;

	if (length != PROBE_FRAME4_BYTES && length != PROBE_FRAME6_BYTES)
		return TC_ACT_UNSPEC;
	/* 0: PACKET_HOST. A tag that the device took off belongs to another interface above it. */
	if (skb->pkt_type != 0 || skb->vlan_present != 0)
		return TC_ACT_UNSPEC;
	return length == PROBE_FRAME4_BYTES ? probe_tc4(skb) : probe_tc6(skb);
}

/*
 * --- XDP. There is no helper that knows about CHECKSUM_PARTIAL, and native XDP forgets it: the
 * checksum is made from scratch.
 */
static __always_inline bool probe_xdp_is_for_mac(struct xdp_md *xdp, __u64 first_word)
{
	__u32 interface = xdp->ingress_ifindex;
	const __u64 *mac = bpf_map_lookup_elem(&probe_macs, &interface);

	return mac != NULL && *mac == first_word >> 16;
}

static __always_inline __u16 probe_udp_check(
	__be32 *addresses, __u32 addresses_bytes, const union probe_payload *answer, __u32 ports)
{
	/* the length is in the pseudo header and in UDP's own */
	__s64 sum = bpf_csum_diff(NULL, 0, addresses, addresses_bytes,
		(ports & 0xffff) + (ports >> 16) + 2 * bpf_htons(PROBE_UDP_BYTES) +
			bpf_htons(IPPROTO_UDP));
	__u16 check =
		probe_fold(bpf_csum_diff(NULL, 0, (__be32 *)answer, sizeof(*answer), (__u32)sum));

	return check == 0 ? 0xffff : check;
}

static __always_inline int probe_xdp4(struct xdp_md *xdp)
{
	union probe_headers4 in = {.words = {0}}, out;
	union probe_payload question, answer;
	enum probe_verdict verdict;

	if (bpf_xdp_load_bytes(xdp, 0, &in.eth, PROBE_HEADERS4_BYTES) != 0 ||
		!probe_xdp_is_for_mac(xdp, in.words[0]) || !probe_is_plain4(&in) ||
		bpf_xdp_load_bytes(xdp, PROBE_HEADERS4_BYTES, &question, sizeof(question)) != 0)
		return XDP_PASS;
	verdict = probe_answer4(xdp, xdp->ingress_ifindex, &in, &question, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? XDP_DROP : XDP_PASS;
	probe_turn4(&in, &out,
		probe_udp_check(&in.ip.saddr, 2 * sizeof(in.ip.saddr), &answer,
			in.udp.source | (__u32)in.udp.dest << 16));
	if (bpf_xdp_store_bytes(xdp, 0, &out.eth, PROBE_HEADERS4_BYTES) != 0)
		return XDP_PASS;
	if (bpf_xdp_store_bytes(xdp, PROBE_HEADERS4_BYTES, &answer, sizeof(answer)) != 0)
		return XDP_DROP;
	return XDP_TX;
}

static __always_inline int probe_xdp6(struct xdp_md *xdp)
{
	union probe_headers6 in = {.words = {0}}, out;
	union probe_payload question, answer;
	enum probe_verdict verdict;

	if (bpf_xdp_load_bytes(xdp, 0, &in.eth, PROBE_HEADERS6_BYTES) != 0 ||
		!probe_xdp_is_for_mac(xdp, in.words[0]) || !probe_is_plain6(&in) ||
		bpf_xdp_load_bytes(xdp, PROBE_HEADERS6_BYTES, &question, sizeof(question)) != 0)
		return XDP_PASS;
	verdict = probe_answer6(xdp, xdp->ingress_ifindex, &in, &question, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? XDP_DROP : XDP_PASS;
	probe_turn6(&in, &out,
		probe_udp_check((__be32 *)&in.words[3], 2 * sizeof(in.ip.saddr), &answer,
			in.udp.source | (__u32)in.udp.dest << 16));
	if (bpf_xdp_store_bytes(xdp, 0, &out.eth, PROBE_HEADERS6_BYTES) != 0)
		return XDP_PASS;
	if (bpf_xdp_store_bytes(xdp, PROBE_HEADERS6_BYTES, &answer, sizeof(answer)) != 0)
		return XDP_DROP;
	return XDP_TX;
}

/* The length by comparison: without CAP_PERFMON pointers are not subtracted. */
SEC("xdp")
int probe_xdp(struct xdp_md *xdp)
{
	const __u8 *bytes = (const __u8 *)(unsigned long)xdp->data;
	const __u8 *end = (const __u8 *)(unsigned long)xdp->data_end;

	if (bytes + PROBE_FRAME4_BYTES > end)
		return XDP_PASS;
	if (bytes + PROBE_FRAME4_BYTES + 1 > end)
		return probe_xdp4(xdp);
	if (bytes + PROBE_FRAME6_BYTES > end)
		return XDP_PASS;
	if (bytes + PROBE_FRAME6_BYTES + 1 > end)
		return probe_xdp6(xdp);
	return XDP_PASS;
}
