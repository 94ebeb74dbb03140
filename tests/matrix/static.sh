# A static binary: there is nothing to preload into.
kind="special" packages="busybox-static" expect="refused"
run() { "$@" /bin/busybox echo hello; }
