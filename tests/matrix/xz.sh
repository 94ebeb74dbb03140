# A dictionary of 64 MiB.
kind="compressor" packages="xz-utils"
prepare() { data 6 >"$W/data"; }
run() { "$@" xz -9e -T1 -c "$W/data" | md5sum; return "${PIPESTATUS[0]}"; }
