# The other one: bump allocators, C++.
kind="compiler" packages="clang libc6-dev"
prepare() {
	awk 'BEGIN { print "#include <stdint.h>"; for (i = 0; i < 2500; i++) printf "uint64_t f%d(uint64_t a, uint64_t *b) { uint64_t s = a; for (int i = 0; i < 100; i++) { s += b[i] * %d; if (s & %d) s ^= b[(s >> 3) %% 100]; } return s; }\n", i, i + 3, i * 2 + 1 }' >"$W/big.c"
}
run() { "$@" clang -O2 -S -o - "$W/big.c" | md5sum; return "${PIPESTATUS[0]}"; }
