# A cache with a slab allocator of its own.
kind="server" packages="memcached"
run() {
	local user=
	[ "$(id -u)" = 0 ] && user="-u root"
	"$@" memcached $user -s "$W/mc.sock" -m 256 -t 2 >"$W/mc.log" 2>&1 &
	server $! "$W/mc.sock"
	"$FM_BUILD/tests/e2e_memcached_check" "$W/mc.sock" 100000
	local status=$?
	server_end
	return $status
}
