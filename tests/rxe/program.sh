# program.sh FABRIC: a program of the client guest keeps most of its memory on the other guests' nodes; every byte is
# looked at. Linux 6.1: pages leave by write-protect and copy.
puppet_start "$1" 4M || return
ask "fill 14" 200 'filled [0-9]+' || return
ask "check" 200 'checked 146' || return
ask "churn 20" 200 churned || return
ask "check" 200 'checked 146' || return
puppet_end || return
went_far 1000
