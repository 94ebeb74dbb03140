# refused.sh: what a user gets wrong about RDMA, each with the line that is said; and after all of it the nodes hold no
# queue pair and no registration more than before.

# said PATTERN: in $LOG
said() { grep -q -e "$1" "$LOG" || fail "nobody said '$1'"; }

# resources GUEST: queue pairs and registrations of the guest's device, into RESOURCES
resources() {
	on "$1" 60 "rdma resource show" || fail "rdma resource show fails" || return
	RESOURCES=$(sed -n 's/.*\(qp [0-9]*\).*\(mr [0-9]*\).*/\1 \2/p' "$LOG" | tail -n 1)
	[ -n "$RESOURCES" ] || fail "rdma tells of no resources"
}

# node_refused ADDRESS: a node that is not one of the cluster's must not start with it
node_refused() {
	on "$far_guest" 60 "timeout 20 farmem-memnode --listen $far_at:7490 --verbs $1 --memory 16M" &&
		fail "a node with --verbs $1 ran"
	return 0
}

far_guest=$(node_guest 0)
far_at=$(address "$far_guest")
remote="\$FM_BUILD/bench/remote --nodes $(node_name 0) --count 20 --warm-up 5"
resources "$far_guest" || return
resources_before=$RESOURCES

node_refused "$SUBNET.200:7690" && said "verbs $SUBNET.200:7690: no RDMA device has that address" || return
node_refused "$far_at:$VERBS_PORT" && said "verbs $far_at:$VERBS_PORT: Address already in use" || return

# A client that may pin next to nothing.
on 0 60 "ulimit -l 64; setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock $remote --bytes 4096"
said 'raise it (ulimit -l unlimited' || return

# reads_at GUEST: what reads give while this guest's link carries small frames only: status in SMALL, log in $LOG
reads_at() {
	local log
	on "$1" 20 "ip link set eth0 mtu 1500" || fail "cannot set the MTU" || return
	SMALL=0
	on 0 90 "$remote --bytes 65536" || SMALL=$?
	log=$LOG
	on "$1" 20 "ip link set eth0 mtu $MTU" || fail "cannot set the MTU" || return
	LOG=$log
}

# The client's frames are what both use. A node with smaller ones cannot answer: that is a status, soon, and no wrong
# byte; afterwards it serves as before.
small=''
if [ "$WAY" = guests ]; then
	reads_at 0 || return
	[ $SMALL = 0 ] || fail "nothing is read from a machine of MTU 1500" || return
	reads_at "$far_guest" || return
	[ $SMALL = 1 ] && said 'a read failed: Connection reset by peer' || fail "reads from MTU 1500: $SMALL" || return
	small=1
fi

on 0 60 "$remote --bytes 65536" || fail "nothing is read afterwards" || return
for ((i = 0; i < 60; i++)); do
	resources "$far_guest" || return
	[ "$RESOURCES" != "$resources_before" ] || break
done
[ "$RESOURCES" = "$resources_before" ] || fail "the node's device holds $RESOURCES, before it was $resources_before" || return
note "3 lines as they should be${small:+; a smaller MTU here reads, there is told}; the node's device holds $RESOURCES as before"
