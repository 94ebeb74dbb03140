/*
 * tests/e2e/filtered.c: e2e_filtered CALL: a program whose seccomp filter refuses one system call
 * (by number), and which then uses 40 MiB. Status 0: every byte was right.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BLOCKS 40
#define BLOCK_BYTES (1u << 20)

int main(int argc, char **argv)
{
	unsigned number = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
	struct sock_filter lines[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog filter = {sizeof(lines) / sizeof(lines[0]), lines};
	unsigned char *blocks[BLOCKS];
	unsigned wrong = 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
		return 77;
	for (unsigned i = 0; i < BLOCKS; i++) {
		blocks[i] = malloc(BLOCK_BYTES);
		if (blocks[i] == NULL)
			return 2;
		memset(blocks[i], (int)i + 1, BLOCK_BYTES);
	}
	for (unsigned at = 0; at < BLOCK_BYTES; at += 4096)
		for (unsigned i = 0; i < BLOCKS; i++)
			wrong += blocks[i][at] != i + 1;
	printf("wrong %u\n", wrong);
	return wrong != 0;
}
