/*
 * lb/probe_filter.c: reads an allow list, and holds a source address against it.
 *
 * Called by lb/probe_server.c; the loader copies the prefixes into the kernel's trie.
 *
 * Invariant: bits of an address behind its prefix are zero, so that equal prefixes are equal bytes.
 */
#include "lb/probe_filter.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "base/log.h"
#include "base/options.h"

#define IPV4_IN_IPV6_BITS 96u

static const uint8_t ipv4_in_ipv6[12] = {[10] = 0xff, [11] = 0xff};

static void prefix_mask(struct probe_prefix *prefix)
{
	for (unsigned i = 0; i < sizeof(prefix->address); i++) {
		unsigned kept = prefix->bits > 8 * i ? FM_MIN(prefix->bits - 8 * i, 8u) : 0;

		prefix->address[i] &= (uint8_t)(0xff00u >> kept);
	}
}

int probe_address_parse(const char *text, uint8_t address[16])
{
	if (inet_pton(AF_INET6, text, address) == 1)
		return 0;
	if (inet_pton(AF_INET, text, address + sizeof(ipv4_in_ipv6)) != 1)
		return -EINVAL;
	memcpy(address, ipv4_in_ipv6, sizeof(ipv4_in_ipv6));
	return 0;
}

/* One word of the list, of `length` characters. */
static int prefix_parse(const char *text, size_t length, struct probe_prefix *prefix)
{
	char word[INET6_ADDRSTRLEN + 4], *slash;
	uint64_t bits;
	unsigned whole;

	if (length >= sizeof(word))
		return -EINVAL;
	memcpy(word, text, length);
	word[length] = '\0';
	slash = strchr(word, '/');
	if (slash != NULL)
		*slash = '\0';
	if (probe_address_parse(word, prefix->address) != 0)
		return -EINVAL;
	whole = strchr(word, ':') != NULL ? 128 : 32;
	bits = whole;
	if (slash != NULL && (parse_count(slash + 1, &bits) != 0 || bits > whole))
		return -EINVAL;
	prefix->bits = (uint32_t)bits + (whole == 32 ? IPV4_IN_IPV6_BITS : 0);
	prefix_mask(prefix);
	return 0;
}

int probe_filter_parse(const char *text, struct probe_filter *filter)
{
	filter->prefixes_count = 0;
	if (text == NULL)
		return 0;
	for (const char *at = text;; at++) {
		size_t length = strcspn(at, ",");

		if (filter->prefixes_count == PROBE_PREFIXES_MAX) {
			log_error(
				"probe: allow=%s: more than %u prefixes", text, PROBE_PREFIXES_MAX);
			return -EINVAL;
		}
		if (prefix_parse(at, length, &filter->prefixes[filter->prefixes_count]) != 0) {
			log_error("probe: allow=%s: \"%.*s\" is no address and no prefix like "
				  "10.0.0.0/8 or fd00::/8",
				text, (int)FM_MIN(length, 64u), at);
			return -EINVAL;
		}
		filter->prefixes_count++;
		at += length;
		if (*at == '\0')
			return 0;
	}
}

static bool prefix_holds(const struct probe_prefix *prefix, const uint8_t address[16])
{
	struct probe_prefix source = {.bits = prefix->bits};

	memcpy(source.address, address, sizeof(source.address));
	prefix_mask(&source);
	return memcmp(source.address, prefix->address, sizeof(source.address)) == 0;
}

bool probe_filter_allows(const struct probe_filter *filter, const struct sockaddr *from)
{
	uint8_t address[16];

	if (filter->prefixes_count == 0)
		return true;
	if (from->sa_family == AF_INET6) {
		memcpy(address, &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr, 16);
	} else if (from->sa_family == AF_INET) {
		memcpy(address, ipv4_in_ipv6, sizeof(ipv4_in_ipv6));
		memcpy(address + sizeof(ipv4_in_ipv6),
			&((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
	} else {
		return false;
	}
	for (unsigned i = 0; i < filter->prefixes_count; i++) {
		if (prefix_holds(&filter->prefixes[i], address))
			return true;
	}
	return false;
}
