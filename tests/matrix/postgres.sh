# A server that forks a process for each client: sorts and hash joins in work_mem.
kind="database" packages="postgresql-15"
PG=/usr/lib/postgresql/15/bin
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
prepare() {
	chmod 755 "$W"
	install -d -o postgres "$W/data"
	as_postgres $PG/initdb -D "$W/data" -A trust >/dev/null
	chmod a+rx "$FM_BUILD" 2>/dev/null || true
}
run() {
	as_postgres "$@" $PG/postgres -D "$W/data" -k "$W/data" -c listen_addresses= -c work_mem=256MB \
		-c fsync=off >"$W/pg.log" 2>&1 &
	server $! "$W/data/.s.PGSQL.5432"
	until as_postgres psql -h "$W/data" postgres -Atc 'select 1' >/dev/null 2>&1; do kill -0 $SERVER || return 1; done
	as_postgres psql -h "$W/data" postgres -Atc "set hash_mem_multiplier=4; select count(*), sum(a.v), md5(string_agg(a.k::text, ',' order by a.v, a.k))
		from (select i as k, (i::bigint*7919)%100003 as v from generate_series(1,300000) i) a
		join (select i as k from generate_series(1,300000) i) b on a.k=b.k;"
	local status=$?
	server_end INT
	return $status
}
