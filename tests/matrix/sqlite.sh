# SQL in memory: a table of 400,000 rows, an index, joins, updates.
kind="database" packages="sqlite3"
prepare() { sed "s/i < 1000000/i < 400000/" "$TOP/tests/e2e/big.sql" >"$W/big.sql"; }
run() { "$@" sqlite3 :memory: ".read $W/big.sql"; }
