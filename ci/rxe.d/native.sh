# ci/rxe.d/native.sh: the cluster on this kernel's own rdma_rxe. Sourced by ci/rxe.d/drive; the same words as
# ci/rxe.d/guests.sh. A "guest" here is a network namespace with an rxe device of its own, on a bridge, where the
# kernel's rxe works in namespaces; where it does not (6.1), all guests are addresses of one dummy device with one rxe
# device on it, so that their packets still go through rxe, but over no network.
#
# Invariants: 1. Everything made here has a name that begins with fmrxe. ci/rxe takes it away when this process and
# with it all of its namespace has ended (a device in use cannot be deleted); what is left of a run that was killed
# the next run takes away. 2. Every wait has a limit.

WAY=native
SUBNET=10.87.0
SCRATCH=$W/scratch
mkdir -p "$SCRATCH"
BOOT_SECONDS=30
declare -A seen=()
declare -a gone=()
event_part=''

# inside GUEST COMMAND...: in its namespace, if it has one
inside() {
	local guest=$1
	shift
	if [ "$SPACES" = 1 ]; then ip netns exec "fmrxe$guest" "$@"; else "$@"; fi
}

network_down() { "$TREE/ci/rxe.d/native-down" 2>/dev/null; }

rxe_add() { # GUEST DEVICE NETDEV
	inside "$1" rdma link add "$2" type rxe netdev "$3" || return 1
	inside "$1" grep -q ACTIVE "/sys/class/infiniband/$2/ports/1/state"
}

# A namespace per guest, veth pairs to a bridge in this one.
spaces_up() {
	local i
	SPACES=1
	ip link add fmrxebr type bridge && ip link set fmrxebr mtu 9000 up || return 1
	for ((i = 0; i < GUESTS; i++)); do
		ip netns add "fmrxe$i" &&
			ip link add "fmrxev$i" type veth peer name eth0 netns "fmrxe$i" &&
			ip link set "fmrxev$i" mtu 9000 master fmrxebr up &&
			inside "$i" ip link set lo up && inside "$i" ip link set eth0 mtu 9000 up &&
			inside "$i" ip addr add "$(address "$i")/24" dev eth0 &&
			rxe_add "$i" "fmrxe$i" eth0 || return 1
	done
	# Devices may be made and still carry nothing between namespaces: so a word is sent.
	[ "$GUESTS" = 1 ] || spaces_speak
}

spaces_speak() {
	local server status
	inside 1 timeout 8 rping -s -a "$(address 1)" -C 3 >/dev/null 2>&1 &
	server=$!
	for _ in 1 2 3; do
		inside 0 timeout 4 rping -c -a "$(address 1)" -C 3 >/dev/null 2>&1
		status=$?
		[ $status = 0 ] && break
		kill -0 $server 2>/dev/null || break
	done
	kill $server 2>/dev/null
	wait $server 2>/dev/null
	return $status
}

one_device_up() {
	local i
	SPACES=0
	ip link add fmrxed type dummy && ip link set fmrxed mtu 9000 up || return 1
	for ((i = 0; i < GUESTS; i++)); do
		ip addr add "$(address "$i")/24" dev fmrxed || return 1
	done
	rxe_add 0 fmrxe0 fmrxed
}

event_read() {
	local line='' guest word tag rest
	read -r -t "$1" -u "$events" line
	local rc=$?
	event_part+=$line
	[ $rc = 0 ] || return 1
	read -r guest word tag rest <<<"$event_part"
	event_part=''
	seen["$guest $word $tag"]=$rest
}

ended() {
	local key="$1 ${4:-DONE} $2" until=$((SECONDS + $3))
	while [ -z "${seen[$key]+there}" ]; do
		[ -z "${gone[$1]+there}" ] || return 1
		# who has ended tells nothing more
		[ "${4:-DONE}" = DONE ] || [ -z "${seen["$1 DONE $2"]+there}" ] || return 1
		[ $SECONDS -lt $until ] || return 124
		event_read 1
	done
	EVENT=${seen[$key]}
	unset "seen[$key]"
	[ "${4:-DONE}" != DONE ] || return "$EVENT"
}

told() { ended "$1" "$2" "$3" TOLD; }

begin() {
	local i=$1 tag=$2 seconds=$3 script=$4
	mkdir -p "$W/out/$i"
	{
		cat "$W/prologue"
		printf '%s\n' "tell() { echo \"$i TOLD $tag \$*\" >&3; }" "$script"
	} >"$W/out/$i/$tag.sh"
	LOG=$W/out/$i/$tag.log
	: >>"$LOG"
	(
		inside "$i" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C.UTF-8 GUEST="$i" \
			timeout -k 5 "$seconds" setsid -w bash "$W/out/$i/$tag.sh" >"$LOG" 2>&1 </dev/null 3>"$W/events"
		echo "$i DONE $tag $?" >"$W/events"
	) &
}

guest_ready() { return 0; }

# What a machine's death is here: all of its processes die at once, and its link goes down first, so that nobody
# hears of it.
guest_kill() {
	[ "$SPACES" = 1 ] || return 1
	ip link set "fmrxev$1" down
	ip netns pids "fmrxe$1" | xargs -r kill -9
	gone[$1]=killed
}

guest_boot() {
	unset "gone[$1]"
	ip link set "fmrxev$1" up
}

link_set() {
	[ "$SPACES" = 1 ] || return 1
	ip link set "fmrxev$1" "$2"
}

cluster_up() {
	network_down
	if ! spaces_up 2>"$W/spaces.log"; then
		network_down
		one_device_up || {
			echo "ci/rxe: no rxe device can be made on this kernel: the lines above say why" >&2
			return 1
		}
	fi
	if [ "$SPACES" = 1 ]; then
		progress "$1 network namespaces, an rxe device in each, Linux $(uname -r)"
	else
		progress "one rxe device, $1 addresses (this kernel's rxe does not work in namespaces), Linux $(uname -r)"
	fi
}
