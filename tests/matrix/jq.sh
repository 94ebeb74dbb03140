# A JSON document as a tree in memory.
kind="tool" packages="jq"
prepare() { awk 'BEGIN { printf "["; for (i = 0; i < 150000; i++) printf "%s{\"k\":%d,\"s\":\"v%d\",\"a\":[%d,%d]}", i ? "," : "", i * 7919 % 1000003, i, i, i + 1; print "]" }' >"$W/data.json"; }
run() { "$@" jq -c '[group_by(.k % 97)[] | {k: .[0].k, n: length, m: (map(.a[1]) | max)}]' "$W/data.json" | md5sum; return "${PIPESTATUS[0]}"; }
