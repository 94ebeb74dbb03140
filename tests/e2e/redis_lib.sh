# tests/e2e/redis_lib.sh: redis-server under farmem on a unix socket, and checked load from farmem-redis-load.
# Sourced by the cases that use redis, after e2e_begin.

need redis-server redis-cli redis-benchmark
need_built farmem-redis-load
REDIS_KEYS=120000
REDIS_VALUE=1024

redis_start() {
	start_far redis redis-server --port 0 --unixsocket "$T/redis.sock" --save '' --appendonly no \
		--dir "$T" --enable-debug-command no
	wait_line 30 "$T/redis.out" 'ready to accept connections'
	[ "$(redis-cli -s "$T/redis.sock" info server | tr -d '\r' | sed -n 's/^process_id://p')" = "$FAR_PID" ] ||
		fail "redis-server's process id is not the one of farmem run"
}

# redis_load PHASES [FLAG...]: "verify" and "load" rely on an earlier "fill".
redis_load() {
	local phase=$1
	shift
	timeout 120 "$FM_BUILD/farmem-redis-load" --socket "$T/redis.sock" --phases "$phase" --keys "$REDIS_KEYS" \
		--value-size "$REDIS_VALUE" "$@" >"$T/load-$phase.out" 2>"$T/load-$phase.err" ||
		fail "farmem-redis-load $phase ended with status $?"
}

redis_end() {
	redis-cli -s "$T/redis.sock" shutdown nosave >/dev/null 2>&1
	end_far 30 || fail "redis-server ended with status $?"
}
