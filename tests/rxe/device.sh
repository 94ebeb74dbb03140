# device.sh: the guests' rxe devices speak with each other: perftest's own tools, no code of ours.
perftest $((GUESTS - 1)) ib_read_lat -s 4096 -n 200 -F || return
# All reads were done when there is this line; "inf" means that perftest could not calibrate its clock, which happens
# on a machine that has no time.
note "$(awk '$1 == 4096 { print $5 == "inf" ? "4 KiB read: done" : "4 KiB read: p50 " $5 " us, p99 " $8 " us" }' "$LOG")"
[ "$(awk '$1 == 4096 { print 1 }' "$LOG")" = 1 ] || fail "ib_read_lat did not read" || return
perftest $((GUESTS - 1)) ib_write_bw -s 65536 -n 100 -F || return
note "$(awk '$1 == 65536 { print "64 KiB writes: " $4 " MB/s" }' "$LOG")"
[ "$(awk '$1 == 65536 { print 1 }' "$LOG")" = 1 ] || fail "ib_write_bw did not write"
