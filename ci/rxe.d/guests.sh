# ci/rxe.d/guests.sh: a cluster of QEMU guests, each with a kernel and an rxe device of its own. Sourced by
# ci/rxe.d/drive, inside namespaces of its own (network and processes); cases use what begins with cluster_, guest_
# or is named below.
#
#   cluster_up COUNT        boots guests 0..COUNT-1 (address of guest N: 10.9.0.N+1); 1 when one does not come up
#   begin GUEST TAG SECONDS SCRIPT      starts a bash script in the guest
#   ended GUEST TAG SECONDS [WORD]      waits for its end (or for what it tells by `tell`): its status, in EVENT what it
#                                       told; 1 when the guest is gone, 124 when time is up
#   guest_kill N, guest_boot N, guest_ready N SECONDS, link_set N up|down
#
# Guests report over virtio ports, all into one fifo, a line an event: "GUEST WORD TAG REST". Invariants:
#  1. Readiness is told, never slept for. 2. Every wait has a limit. 3. All processes are in this process namespace:
#     when the driver ends, they are gone.

WAY=guests
SUBNET=10.9.0   # as in ci/rxe.d/init
SCRATCH=/tmp # in the guest
BOOT_SECONDS=${FM_RXE_BOOT_SECONDS:-180}
MTU=9000
declare -A seen=()
declare -a gone=() guest_fd=() guest_memory=()
event_part=''

accelerator_choose() {
	local mark
	mark=$(dirname "$KERNEL")/kvm-$(cat /proc/sys/kernel/random/boot_id)
	ACCELERATOR=tcg
	if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
		# The file being there says little: guests may still not start. So one is started, once after each boot.
		if [ ! -e "$mark" ]; then
			rm -f "$(dirname "$KERNEL")"/kvm-*
			{ timeout -s KILL 8 qemu-system-x86_64 -M q35 -accel kvm -cpu host -m 192 -nodefaults -no-user-config \
				-nographic -no-reboot -serial "file:$W/probe" -monitor none -kernel "$KERNEL/kernel" \
				-initrd "$INITRD" -append 'console=ttyS0 quiet panic=-1 g.probe=1' \
				>"$W/probe.log" 2>&1 </dev/null; } 2>/dev/null
			if grep -q 'guest starts' "$W/probe" 2>/dev/null; then echo kvm >"$mark"; else echo tcg >"$mark"; fi
		fi
		ACCELERATOR=$(cat "$mark")
	fi
	case $ACCELERATOR in
	kvm)
		accelerator_flags=(-accel kvm -cpu host)
		accelerator_name=KVM
		;;
	*)
		# qemu64: twice the bandwidth of `max`
		accelerator_flags=(-accel 'tcg,thread=multi,tb-size=64' -cpu "${FM_RXE_CPU:-qemu64}")
		accelerator_name='software emulation'
		;;
	esac
}

network_up() {
	ip link set lo up && ip link add br0 type bridge mcast_snooping 0 &&
		ip link set br0 mtu $MTU up && ip addr add 10.9.0.254/24 dev br0
}

guest_boot() {
	local i=$1 cpus=1 out=$W/out/$1
	[ "$i" = 0 ] && cpus=2
	mkdir -p "$out"
	unset "gone[$i]"
	ip link show "t$i" >/dev/null 2>&1 && ip link del "t$i"
	ip tuntap add "t$i" mode tap vnet_hdr &&
		ip link set "t$i" mtu $MTU txqueuelen 10000 master br0 up || return 1
	if [ -z "${guest_fd[$i]:-}" ]; then
		mkfifo "$W/c$i.in" && ln -s events "$W/c$i.out" || return 1
		exec {guest_fd[$i]}<>"$W/c$i.in"
	fi
	(
		exec {events}<&-
		qemu-system-x86_64 -M q35 "${accelerator_flags[@]}" -smp $cpus -m "${guest_memory[$i]}" \
			-nodefaults -no-user-config -nographic -no-reboot -serial "file:$out/console" -monitor none \
			-kernel "$KERNEL/kernel" -initrd "$INITRD" \
			-append "console=ttyS0 quiet panic=-1 rdinit=/init no_timer_check mitigations=off nowatchdog audit=0 cryptomgr.notests random.trust_cpu=on g.id=$i g.mtu=$MTU g.tree=$TREE" \
			-fsdev local,id=f0,path=/,security_model=none,readonly=on,multidevs=remap \
			-device virtio-9p-pci,fsdev=f0,mount_tag=host \
			-fsdev "local,id=f1,path=$out,security_model=none" -device virtio-9p-pci,fsdev=f1,mount_tag=out \
			-fsdev "local,id=f2,path=$TREE,security_model=none,readonly=on,multidevs=remap" \
			-device virtio-9p-pci,fsdev=f2,mount_tag=tree \
			-device virtio-serial-pci -chardev "pipe,id=c0,path=$W/c$i" -device virtserialport,chardev=c0,name=ctl \
			-device virtio-rng-pci \
			-netdev "tap,id=n0,ifname=t$i,script=no,downscript=no" \
			-device "virtio-net-pci,netdev=n0,mac=52:54:00:00:00:0$i,romfile=,ioeventfd=off" \
			>"$out/qemu.log" 2>&1 </dev/null &
		qemu=$!
		echo "$qemu" >"$W/pid$i"
		wait $qemu
		echo "$i GONE qemu $?" >"$W/events"
	) 2>/dev/null &
}

# event_read SECONDS: takes in one event, if there is one in time.
event_read() {
	local line='' rc guest word tag rest
	read -r -t "$1" -u "$events" line
	rc=$?
	event_part+=$line
	[ $rc = 0 ] || return 1
	line=${event_part%$'\r'}
	event_part=''
	read -r guest word tag rest <<<"$line"
	if [ "$word" = GONE ]; then gone[$guest]=$rest; else seen["$guest $word $tag"]=$rest; fi
}

# ended GUEST TAG SECONDS [WORD]
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

guest_ready() {
	ended "$1" rxe0 "$2" READY && [ "$EVENT" = ACTIVE ]
}

begin() {
	local i=$1 tag=$2 seconds=$3 script=$4
	{
		cat "$W/prologue"
		printf '%s\n' "tell() { echo \"$i TOLD $tag \$*\" >&3; }" "$script"
	} >"$W/out/$i/$tag.sh"
	printf 'RUN %s %s\n' "$tag" "$seconds" >&"${guest_fd[$i]}"
	LOG=$W/out/$i/$tag.log
	: >>"$LOG"
}

# told GUEST TAG SECONDS
told() { ended "$1" "$2" "$3" TOLD; }

guest_kill() {
	local until=$((SECONDS + 10))
	kill -9 "$(cat "$W/pid$1")" || return 1
	while [ -z "${gone[$1]+there}" ]; do
		[ $SECONDS -lt $until ] || return 1
		event_read 1
	done
}

link_set() { ip link set "t$1" "$2"; }

cluster_up() {
	local count=$1 i up began=$SECONDS said=$SECONDS tries=3 pause=2
	network_up || return 1
	accelerator_choose
	for ((i = 0; i < count; i++)); do
		guest_boot "$i" || return 1
	done
	for ((up = 0; up < count; )); do
		event_read 1
		up=0
		for ((i = 0; i < count; i++)); do
			if [ -n "${gone[$i]+there}" ]; then
				# On a machine with no time for it an emulated kernel may find its timer broken.
				[ $((tries--)) -gt 0 ] || {
					boot_trouble "$i" "its QEMU ended with status ${gone[$i]}"
					return 1
				}
				guest_boot "$i" || return 1
			fi
			[ -z "${seen["$i READY rxe0"]+there}" ] || up=$((up + 1))
		done
		if [ "$up" != "$count" ] && [ $((SECONDS - said)) -ge $pause ]; then
			progress "$up of $count guests are up after $((SECONDS - began)) s ($accelerator_name)"
			said=$SECONDS pause=10
		fi
		[ $((SECONDS - began)) -lt "$BOOT_SECONDS" ] || {
			boot_trouble '*' "not all guests are up after $BOOT_SECONDS s (FM_RXE_BOOT_SECONDS)"
			return 1
		}
	done
	for ((i = 0; i < count; i++)); do
		guest_ready "$i" 1 || {
			boot_trouble "$i" "its rxe device is not active"
			return 1
		}
	done
	progress "$count guests, $accelerator_name, Linux $(basename "$KERNEL" | sed 's/linux-image-//;s/_.*//'), up in $((SECONDS - began)) s"
}

boot_trouble() {
	echo "ci/rxe: guest $1: $2" >&2
	# shellcheck disable=SC2086 # the star
	tail -n 5 "$W"/out/$1/qemu.log "$W"/out/$1/console >&2
}
