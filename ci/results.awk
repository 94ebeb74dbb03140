# ci/results.awk: reads the output of `ctest -V`; writes one line a result:
#
#     PASS name
#     FAIL name [(why)]
#     SKIP name: reason
#
# A test that exits 77 is one SKIP, with the last reason it printed; without a reason it is a FAIL. A test that passed
# but left single cases out (lines "SKIP: case: reason") is a PASS and a SKIP for each of them. Used by ci/test.

/^ *[0-9]+: ([a-z0-9_]+: )?SKIP: / {
	number = $1
	sub(/:$/, "", number)
	reason = $0
	sub(/^ *[0-9]+: ([a-z0-9_]+: )?SKIP: */, "", reason)
	reasons[number] = reasons[number] "\n" reason
}

# " 5/13 Test #13: base_ring_test ........   Passed    0.03 sec"
/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
	match($0, /#[0-9]+/)
	number = substr($0, RSTART + 1, RLENGTH - 1)
	name = $0
	sub(/^[^#]*#[0-9]+: */, "", name)
	sub(/[ .].*$/, "", name)
	count = split(reasons[number], list, "\n")
	if ($0 ~ /\*\*\*Skipped/) {
		if (count < 2)
			print "FAIL " name " (skipped, and does not say why)"
		else
			print "SKIP " name ": " list[count]
		next
	}
	if ($0 ~ / Passed +[0-9.]+ sec/)
		print "PASS " name
	else
		print "FAIL " name ($0 ~ /Timeout/ ? " (timed out)" : $0 ~ /Not Run/ ? " (not built)" : "")
	for (i = 2; i <= count; i++)
		print "SKIP " name ": " list[i]
}
