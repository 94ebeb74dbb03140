# A threaded server with its buffer pool in anonymous memory.
kind="database" packages="mariadb-server-core"
prepare() { mariadb-install-db --no-defaults --user=root --datadir="$W/data" >/dev/null 2>&1; }
run() {
	"$@" mariadbd --no-defaults --user=root --datadir="$W/data" --socket="$W/my.sock" --skip-networking \
		--innodb-buffer-pool-size=128M --tmp-table-size=256M --max-heap-table-size=256M >"$W/my.log" 2>&1 &
	server $! "$W/my.sock"
	until mariadb --no-defaults -S "$W/my.sock" -e 'select 1' >/dev/null 2>&1; do kill -0 $SERVER || return 1; done
	mariadb --no-defaults -S "$W/my.sock" -N -e "create or replace database t; use t;
		create table m (k int primary key, v varchar(200)) engine=memory;
		insert into m select seq, repeat(md5(seq), 3) from seq_1_to_150000;
		select count(*), sum(crc32(v)) from m; select sum(crc32(a.v)) from m a join m b on a.k=b.k+1;
		create table d (k int primary key, v varchar(200)) engine=innodb;
		insert into d select * from m; select count(*), sum(crc32(v)) from d;"
	local status=$?
	server_end
	return $status
}
