# An in-memory database under a client's load that checks every value it reads.
kind="database" packages="redis-server redis-tools"
run() {
	"$@" redis-server --port 0 --unixsocket "$W/redis.sock" --save '' --appendonly no --daemonize no \
		--dir "$W" >"$W/redis.log" 2>&1 &
	server $! "$W/redis.sock"
	"$FM_BUILD/farmem-redis-load" --socket "$W/redis.sock" --keys 60000 --value-size 1024 --duration 4s --seed 3 >"$W/load.out" 2>&1 || {
		tail -3 "$W/load.out" >&2
		return 1
	}
	redis-cli -s "$W/redis.sock" dbsize
	server_end
}
