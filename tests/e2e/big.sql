-- tests/e2e/big.sql: 1 M rows in memory (fewer by sqlite_script of lib.sh), indexed joins, random updates, checked sums. `.system` marks the progress
-- for scripts that kill nodes meanwhile, and starts children of a program that is mostly far.
.bail on
PRAGMA temp_store = MEMORY;
CREATE TABLE item(id INTEGER PRIMARY KEY, class INTEGER, amount INTEGER, name TEXT);
INSERT INTO item
	WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
	SELECT i, (i * 2654435761) % 10007, (i * 40503) % 65521,
		printf('%08x-%08x-%d', (i * 2654435761) % 4294967296, (i * 2246822519) % 4294967296, i) FROM n;
.system echo filled >>"${E2E_PROGRESS:-/dev/null}"
CREATE TABLE class(id INTEGER PRIMARY KEY, weight INTEGER);
INSERT INTO class SELECT DISTINCT class, (class * 7919) % 1009 FROM item WHERE id < 100000;
CREATE INDEX item_class ON item(class, amount);
.system echo indexed >>"${E2E_PROGRESS:-/dev/null}"
SELECT 'join', count(*), sum(item.amount * class.weight) FROM class JOIN item ON item.class = class.id;
SELECT 'lookup', count(*), sum(length(name)), sum(id % 1013 * amount), max(name) FROM item
	WHERE class BETWEEN 100 AND 300;
.system echo joined >>"${E2E_PROGRESS:-/dev/null}"
UPDATE item SET amount = amount + 17, name = name || '+' WHERE id % 37 = 5;
DELETE FROM item WHERE class % 50 = 3;
.system echo changed >>"${E2E_PROGRESS:-/dev/null}"
SELECT 'scan', count(*), sum(amount), sum(unicode(substr(name, id % 17 + 1, 1)) * (id % 1009)), min(name) FROM item;
SELECT 'groups', count(*), sum(c), max(s) FROM (SELECT class, count(*) AS c, sum(amount) AS s FROM item GROUP BY class);
PRAGMA integrity_check;
