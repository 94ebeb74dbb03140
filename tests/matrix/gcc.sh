# The compiler proper, on a large file: obstacks and a garbage-collected heap.
kind="compiler" packages="gcc libc6-dev"
prepare() {
	awk 'BEGIN { print "#include <stdint.h>"; for (i = 0; i < 2500; i++) printf "uint64_t f%d(uint64_t a, uint64_t *b) { uint64_t s = a; for (int i = 0; i < 100; i++) { s += b[i] * %d; if (s & %d) s ^= b[(s >> 3) %% 100]; } return s; }\n", i, i + 3, i * 2 + 1 }' >"$W/big.c"
}
run() { "$@" gcc -O2 -S -o - "$W/big.c" | md5sum; return "${PIPESTATUS[0]}"; }
