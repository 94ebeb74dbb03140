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

/* A whole frame on the stack, padded in front so that every field is aligned. */
struct probe_frame4 {
	__u8 pad[6];
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct probe_packet probe;
};
struct probe_frame6 {
	__u8 pad[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct udphdr udp;
	struct probe_packet probe;
};
#define PROBE_FRAME4_BYTES (sizeof(struct probe_frame4) - 6)
#define PROBE_FRAME6_BYTES (sizeof(struct probe_frame6) - 2)
_Static_assert(PROBE_FRAME4_BYTES == 82 && PROBE_FRAME6_BYTES == 102, "no holes");
_Static_assert(__builtin_offsetof(struct probe_frame4, udp) == 40, "no holes");
_Static_assert(__builtin_offsetof(struct probe_frame6, udp) == 56, "no holes");
#define PROBE_CHECK4_OFFSET (__builtin_offsetof(struct probe_frame4, udp.check) - 6)
#define PROBE_CHECK6_OFFSET (__builtin_offsetof(struct probe_frame6, udp.check) - 2)

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

/* The header as it should be with a TTL of its own: routers on the way have used up the old one. */
static __always_inline void probe_turn_ip4(struct iphdr *ip)
{
	__be32 source = ip->saddr;

	ip->saddr = ip->daddr;
	ip->daddr = source;
	ip->tos = 0;
	ip->id = 0;
	ip->frag_off = bpf_htons(PROBE_DONT_FRAGMENT);
	ip->ttl = PROBE_TTL;
	ip->check = 0;
	ip->check = probe_fold(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
}

static __always_inline void probe_turn_ip6(struct ipv6hdr *ip)
{
	struct in6_addr source = ip->saddr;

	ip->saddr = ip->daddr;
	ip->daddr = source;
	*(__be32 *)ip = bpf_htonl(0x60000000); /* version 6, no class, no flow */
	ip->hop_limit = PROBE_TTL;
}

static __always_inline void probe_turn_ethernet(struct ethhdr *eth)
{
	__u8 source[ETH_ALEN];

	__builtin_memcpy(source, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, source, ETH_ALEN);
}

static __always_inline void probe_turn_udp(struct udphdr *udp)
{
	__be16 source = udp->source;

	udp->source = udp->dest;
	udp->dest = source;
}

/* Keeps loads in program order where the CPU does not. */
static __always_inline void probe_load_barrier(void)
{
	__u64 local = 0;

	if (probe_orders_loads)
		(void)__sync_fetch_and_add(&local, 1);
	barrier();
}

/* load_read() of rpc/load.h in this machine's words. False: stale or never written. */
static __always_inline bool probe_read_slot(struct load_slot *slot, struct probe_packet *answer)
{
	volatile __u64 *version = (volatile __u64 *)&slot->version;
	struct load_report report;
	__u64 before, now_ns, waited_ns = 0;

	for (int i = 0; i < LOAD_READ_TRIES_MAX; i++) {
		before = *version;
		if (before == 0)
			return false;
		probe_load_barrier();
		__builtin_memcpy(&report, &slot->reports[before & 1], sizeof(report));
		probe_load_barrier();
		if (*version != before)
			continue;
		now_ns = bpf_ktime_get_ns() + (__u64)probe_clock_offset;
		if (now_ns > report.stamp_ns && now_ns - report.stamp_ns > LOAD_STALE_NS)
			return false;
		if (report.waiting_since_ns != 0 && now_ns > report.waiting_since_ns)
			waited_ns = now_ns - report.waiting_since_ns;
		if (waited_ns > 0xffffffff)
			waited_ns = 0xffffffff;
		answer->delay_ns = report.delay_ns;
		if (waited_ns > report.delay_ns)
			answer->delay_ns = (__u32)waited_ns;
		answer->in_flight = report.in_flight;
		answer->flags = report.flags;
		answer->free_bytes = report.free_bytes;
		return true;
	}
	return false;
}

static __always_inline enum probe_verdict probe_make_answer(
	const struct probe_packet *question, struct probe_packet *answer)
{
	struct probe_counters *counters = probe_counters();
	struct load_slot *slot;
	__u32 key = 0;

	slot = bpf_map_lookup_elem(&probe_slots, &key);
	if (slot == NULL || counters == NULL)
		return PROBE_PASSED;
	__builtin_memset(answer, 0, sizeof(*answer));
	answer->magic = PROBE_MAGIC;
	answer->version = PROBE_VERSION;
	answer->kind = PROBE_ANSWER;
	answer->cookie = question->cookie;
	answer->epoch = slot->epoch;
	if (!probe_read_slot(slot, answer)) {
		answer->flags = LOAD_UNHEALTHY;
		counters->stale++;
	}
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

static __always_inline bool probe_is_allowed(const struct probe_prefix *source)
{
	struct probe_counters *counters;

	if (!probe_filters || bpf_map_lookup_elem(&probe_allowed, source) != NULL)
		return true;
	counters = probe_counters();
	if (counters != NULL)
		counters->refused_source++;
	return false;
}

/* Not to be passed on to another host (invariant 3)? The kernel's own routing table knows. */
static __always_inline bool probe_is_for_us(void *context, struct bpf_fib_lookup *route)
{
	long verdict;

	route->l4_protocol = IPPROTO_UDP;
	verdict = bpf_fib_lookup(context, route, sizeof(*route), 0);
	return verdict == BPF_FIB_LKUP_RET_NOT_FWDED || verdict == BPF_FIB_LKUP_RET_FWD_DISABLED;
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

/* frame: as it came, PROBE_FRAME4_BYTES of it. PROBE_ANSWERED: *answer is to be sent instead. */
static __always_inline enum probe_verdict probe_answer4(
	void *context, __u32 interface, struct probe_frame4 *frame, struct probe_packet *answer)
{
	struct iphdr *ip = &frame->ip;
	struct probe_prefix source = {.bits = 128, .address = {[10] = 0xff, [11] = 0xff}};
	struct bpf_fib_lookup route = {.family = PROBE_AF_INET, .ifindex = interface};

	if (frame->eth.h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)ip != 0x45 ||
		ip->protocol != IPPROTO_UDP || frame->udp.dest != probe_port_be ||
		(ip->frag_off & bpf_htons(PROBE_FRAGMENT_MASK)) != 0 ||
		ip->tot_len != bpf_htons(sizeof(*ip) + PROBE_UDP_BYTES) ||
		frame->udp.len != bpf_htons(PROBE_UDP_BYTES) || frame->udp.source == 0)
		return PROBE_PASSED;
	if (!probe_is_unicast4(ip->saddr) || !probe_is_unicast4(ip->daddr) ||
		probe_fold(bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0)) != 0 ||
		!probe_is_question(&frame->probe))
		return PROBE_PASSED;
	route.ipv4_src = ip->saddr;
	route.ipv4_dst = ip->daddr;
	if (!probe_is_for_us(context, &route))
		return PROBE_PASSED;
	__builtin_memcpy(&source.address[12], &ip->saddr, sizeof(ip->saddr));
	if (!probe_is_allowed(&source))
		return PROBE_REFUSED;
	return probe_make_answer(&frame->probe, answer);
}

static __always_inline enum probe_verdict probe_answer6(
	void *context, __u32 interface, struct probe_frame6 *frame, struct probe_packet *answer)
{
	struct ipv6hdr *ip = &frame->ip;
	struct probe_prefix source = {.bits = 128};
	struct bpf_fib_lookup route = {.family = PROBE_AF_INET6, .ifindex = interface};

	if (frame->eth.h_proto != bpf_htons(ETH_P_IPV6) || (*(__u8 *)ip & 0xf0) != 0x60 ||
		ip->nexthdr != IPPROTO_UDP || frame->udp.dest != probe_port_be ||
		ip->payload_len != bpf_htons(PROBE_UDP_BYTES) ||
		frame->udp.len != bpf_htons(PROBE_UDP_BYTES) || frame->udp.source == 0 ||
		frame->udp.check == 0)
		return PROBE_PASSED;
	if (!probe_is_unicast6(&ip->saddr) || !probe_is_unicast6(&ip->daddr) ||
		!probe_is_question(&frame->probe))
		return PROBE_PASSED;
	__builtin_memcpy(route.ipv6_src, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(route.ipv6_dst, &ip->daddr, sizeof(ip->daddr));
	if (!probe_is_for_us(context, &route))
		return PROBE_PASSED;
	__builtin_memcpy(source.address, &ip->saddr, sizeof(ip->saddr));
	if (!probe_is_allowed(&source))
		return PROBE_REFUSED;
	return probe_make_answer(&frame->probe, answer);
}

/*
 * --- tc ingress. The UDP checksum is updated by the kernel's helper, by the difference: it alone
 * knows whether the packet carries a whole checksum or one that a device is yet to complete
 * (CHECKSUM_PARTIAL). Swapped addresses and ports do not change a sum.
 */
static __always_inline int probe_tc_send(struct __sk_buff *skb, const void *frame, __u32 bytes,
	__u32 check_offset, const struct probe_packet *question)
{
	const struct probe_packet *answer = frame + bytes - sizeof(*answer);
	__s64 difference = bpf_csum_diff(
		(__be32 *)question, sizeof(*question), (__be32 *)answer, sizeof(*answer), 0);

	if (bpf_skb_store_bytes(skb, 0, frame, bytes, 0) != 0 ||
		bpf_l4_csum_replace(
			skb, check_offset, 0, (__u64)difference, BPF_F_MARK_MANGLED_0) != 0)
		return TC_ACT_SHOT; /* half changed: fit for nobody */
	return (int)bpf_redirect(skb->ifindex, 0);
}

static __always_inline int probe_tc4(struct __sk_buff *skb)
{
	struct probe_frame4 frame;
	struct probe_packet answer, question;
	enum probe_verdict verdict;

	if (bpf_skb_load_bytes(skb, 0, &frame.eth, PROBE_FRAME4_BYTES) != 0)
		return TC_ACT_UNSPEC;
	verdict = probe_answer4(skb, skb->ifindex, &frame, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	probe_turn_ethernet(&frame.eth);
	probe_turn_ip4(&frame.ip);
	probe_turn_udp(&frame.udp);
	question = frame.probe;
	frame.probe = answer;
	return probe_tc_send(skb, &frame.eth, PROBE_FRAME4_BYTES, PROBE_CHECK4_OFFSET, &question);
}

static __always_inline int probe_tc6(struct __sk_buff *skb)
{
	struct probe_frame6 frame;
	struct probe_packet answer, question;
	enum probe_verdict verdict;

	if (bpf_skb_load_bytes(skb, 0, &frame.eth, PROBE_FRAME6_BYTES) != 0)
		return TC_ACT_UNSPEC;
	verdict = probe_answer6(skb, skb->ifindex, &frame, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	probe_turn_ethernet(&frame.eth);
	probe_turn_ip6(&frame.ip);
	probe_turn_udp(&frame.udp);
	question = frame.probe;
	frame.probe = answer;
	return probe_tc_send(skb, &frame.eth, PROBE_FRAME6_BYTES, PROBE_CHECK6_OFFSET, &question);
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
static __always_inline bool probe_xdp_is_for_mac(struct xdp_md *xdp, const struct ethhdr *eth)
{
	__u32 interface = xdp->ingress_ifindex;
	const __u64 *mac = bpf_map_lookup_elem(&probe_macs, &interface);
	__u64 wanted = 0;

	__builtin_memcpy(&wanted, eth->h_dest, ETH_ALEN);
	return mac != NULL && *mac == wanted;
}

static __always_inline void probe_checksum_udp(
	struct udphdr *udp, __be32 *addresses, __u32 addresses_bytes)
{
	__s64 sum = bpf_csum_diff(
		NULL, 0, addresses, addresses_bytes, bpf_htonl(IPPROTO_UDP + PROBE_UDP_BYTES));

	udp->check = 0;
	udp->check = probe_fold(bpf_csum_diff(NULL, 0, (__be32 *)udp, PROBE_UDP_BYTES, (__u32)sum));
	if (udp->check == 0)
		udp->check = 0xffff;
}

static __always_inline int probe_xdp4(struct xdp_md *xdp)
{
	struct probe_frame4 frame;
	struct probe_packet answer;
	enum probe_verdict verdict;

	if (bpf_xdp_load_bytes(xdp, 0, &frame.eth, PROBE_FRAME4_BYTES) != 0 ||
		!probe_xdp_is_for_mac(xdp, &frame.eth))
		return XDP_PASS;
	verdict = probe_answer4(xdp, xdp->ingress_ifindex, &frame, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? XDP_DROP : XDP_PASS;
	probe_turn_ethernet(&frame.eth);
	probe_turn_ip4(&frame.ip);
	probe_turn_udp(&frame.udp);
	frame.probe = answer;
	probe_checksum_udp(&frame.udp, &frame.ip.saddr, 2 * sizeof(frame.ip.saddr));
	if (bpf_xdp_store_bytes(xdp, 0, &frame.eth, PROBE_FRAME4_BYTES) != 0)
		return XDP_PASS;
	return XDP_TX;
}

static __always_inline int probe_xdp6(struct xdp_md *xdp)
{
	struct probe_frame6 frame;
	struct probe_packet answer;
	enum probe_verdict verdict;

	if (bpf_xdp_load_bytes(xdp, 0, &frame.eth, PROBE_FRAME6_BYTES) != 0 ||
		!probe_xdp_is_for_mac(xdp, &frame.eth))
		return XDP_PASS;
	verdict = probe_answer6(xdp, xdp->ingress_ifindex, &frame, &answer);
	if (verdict != PROBE_ANSWERED)
		return verdict == PROBE_REFUSED ? XDP_DROP : XDP_PASS;
	probe_turn_ethernet(&frame.eth);
	probe_turn_ip6(&frame.ip);
	probe_turn_udp(&frame.udp);
	frame.probe = answer;
	probe_checksum_udp(&frame.udp, frame.ip.saddr.in6_u.u6_addr32, 2 * sizeof(frame.ip.saddr));
	if (bpf_xdp_store_bytes(xdp, 0, &frame.eth, PROBE_FRAME6_BYTES) != 0)
		return XDP_PASS;
	return XDP_TX;
}

SEC("xdp")
int probe_xdp(struct xdp_md *xdp)
{
	__u32 length = xdp->data_end - xdp->data;

	if (length == PROBE_FRAME4_BYTES)
		return probe_xdp4(xdp);
	if (length == PROBE_FRAME6_BYTES)
		return probe_xdp6(xdp);
	return XDP_PASS;
}
