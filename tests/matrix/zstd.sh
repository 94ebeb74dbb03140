# Long windows, threads.
kind="compressor" packages="zstd"
prepare() { data 64 >"$W/data"; }
run() { "$@" zstd -q -12 --long=27 -T1 -c "$W/data" | zstd -q -d --long=27 -c | md5sum; return "${PIPESTATUS[0]}"; }
