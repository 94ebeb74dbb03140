# lb/probe.cmake: probes. Clients need the wire alone (fm_lb_wire: base only); servers also the answerers
# (fm_lb_probe: libbpf). The application's preload libraries link neither.
pkg_check_modules(BPF REQUIRED IMPORTED_TARGET libbpf)

fm_room(lb_wire SOURCES probe_wire.c DEPS base)
target_link_libraries(fm_lb PUBLIC fm_lb_wire) # who links the balancer can ask and answer
fm_room(lb_probe SOURCES probe_server.c probe_kernel.c probe_attach.c probe_filter.c probe_user.c
	DEPS lb_wire base LIBS PkgConfig::BPF Threads::Threads)
