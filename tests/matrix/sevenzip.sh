# Several threads, each with a dictionary.
kind="compressor" packages="p7zip-full"
prepare() { data 24 >"$W/data"; }
run() { rm -f "$W/a.7z"; "$@" 7z a -bd -mx=7 -mmt=2 "$W/a.7z" "$W/data" >"$W/7z.log" && 7z x -so "$W/a.7z" | md5sum; }
