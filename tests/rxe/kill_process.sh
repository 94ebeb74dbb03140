# kill_process.sh FABRIC: kill -9 of one memory node's process while the program's bytes are there, then of a second:
# no wrong byte. Both are started again afterwards.
puppet_start "$1" 4M || return
ask "fill 14" 200 'filled [0-9]+' || return
node_kill 0 || fail "cannot kill node 0" || return
ask "check" 250 'checked 146' || return
node_kill 1 || fail "cannot kill node 1" || return
ask "check" 250 'checked 146' || return
ask "churn 20" 250 churned || return
ask "check" 250 'checked 146' || return
puppet_end || return
went_far 1000 && dead_were_missed || return
node_start 0 && node_start 1 && node_await 0 && node_await 1
