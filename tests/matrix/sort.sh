# One large buffer, two threads.
kind="tool" packages="coreutils"
prepare() { data 48 | base64 -w 60 >"$W/data"; }
run() { "$@" sort --buffer-size=512M --parallel=2 "$W/data" | md5sum; return "${PIPESTATUS[0]}"; }
