#!/bin/bash
# redis-server under redis-benchmark, with values of known content before, meanwhile and after.
. "$(dirname "$0")/lib.sh"
e2e_begin 200 "$@"
. "$E2E_DIR/redis_lib.sh"
nodes_start
redis_start
redis_load fill
timeout 90 redis-benchmark -s "$T/redis.sock" --dbnum 1 -t set,get,lpush,lpop,hset -n 30000 -r 30000 -d 400 -c 20 -q \
	>"$T/benchmark.out" 2>&1 || fail "redis-benchmark ended with status $?"
redis_load verify
redis_end
went_far redis
e2e_end
