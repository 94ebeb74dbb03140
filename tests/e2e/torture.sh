#!/bin/bash
# The torture program: every byte is checked by itself; the digest is the one of the native run.
. "$(dirname "$0")/lib.sh"
e2e_begin 240 "$@"
need_built farmem-torture
words=(--ops 10000 --live 160M --seed 3 --dir "$T")
# Without UFFDIO_MOVE a page pinned for O_DIRECT cannot be recognised (DESIGN section 7).
[ "${E2E_EVICT:-}" = wp ] && words+=(--no-direct)
run_native native 60 "$FM_BUILD/farmem-torture" "${words[@]}" || fail "torture fails without farmem"
nodes_start
run_far far 200 "$FM_BUILD/farmem-torture" "${words[@]}" || fail "torture ended with status $?"
same "$T/native.out" "$T/far.out"
MIN_PAGES=10000 went_far far
e2e_end
