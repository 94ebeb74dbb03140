# network_lost.sh FABRIC: one guest's link is down for three seconds, and comes back: the program goes on, nothing is
# lost, and what was written meanwhile is right.
enough_guests 6 && guests_apart || return 0
puppet_start "$1" 4M || return
ask "fill 14" 300 'filled [0-9]+' || return
victim=$(node_guest 3)
link_set "$victim" down || fail "cannot take the link down" || return
on 0 30 "echo check >$SCRATCH/$puppet_run/ask; sleep 3" || return
link_set "$victim" up || return
told 0 "$puppet_run" 300 || fail "no answer after the link came back" || return
[[ $EVENT =~ ^checked\ 146$ ]] || fail "answered '$EVENT'" || return
ask "churn 20" 300 churned || return
ask "check" 300 'checked 146' || return
puppet_end || return
went_far 1000
