#!/bin/bash
# The mappings torture: mmap, munmap, mremap, mprotect, madvise and MAP_FIXED in every order, with most pages far.
# Its twin finds a wrong byte, a page that should be out of reach, a zero that should be there; the digest is the
# native run's. Then once more with --no-mmap, where nothing of it goes far.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
need_built farmem-maps
words=(--ops 2500 --threads 3 --seed 9 --dir "$T")
run_native native 60 "$FM_BUILD/farmem-maps" "${words[@]}" || fail "maps fails without farmem"
nodes_start
LOCAL=12M
MORE_FLAGS=(--mmap)
run_far far 180 "$FM_BUILD/farmem-maps" "${words[@]}" || fail "maps ended with status $?"
same "$T/native.out" "$T/far.out"
MIN_PAGES=10000 went_far far
MORE_FLAGS=(--no-mmap)
run_far near 60 "$FM_BUILD/farmem-maps" "${words[@]}" || fail "maps with --no-mmap ended with status $?"
same "$T/native.out" "$T/near.out"
stat_zero "$T/near.stats" swap_out_pages
e2e_end
