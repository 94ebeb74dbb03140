# kill_guest.sh FABRIC: a whole guest dies (kill -9 of its QEMU): nobody sends a reset for it. No wrong byte; the guest
# comes back as a new machine.
enough_guests 6 && guests_apart || return 0
puppet_start "$1" 4M || return
ask "fill 14" 300 'filled [0-9]+' || return
victim=$(node_guest 2)
guest_kill "$victim" || fail "cannot kill guest $victim" || return
ask "check" 300 'checked 146' || return
ask "churn 20" 300 churned || return
ask "check" 300 'checked 146' || return
puppet_end || return
went_far 1000 && dead_were_missed || return
guest_boot "$victim" && guest_ready "$victim" "$BOOT_SECONDS" || fail "guest $victim does not come back" || return
for ((i = 0; i < NODES + SPARE; i++)); do
	[ "$(node_guest $i)" != "$victim" ] || { node_start $i && node_await $i; } || return
done
