# memnode/daemon.cmake: the daemon and its control plane. Included by memnode/CMakeLists.txt, which makes
# fm_memnode (leases, regions, data servers).
fm_room(memnode_ctl SOURCES ctl_service.c daemon_options.c machine.c DEPS memnode ctl base)
fm_program(farmem-memnode SOURCES main.c DEPS memnode_ctl memnode ctl base)

fm_test(ctl_service_test SOURCES ctl_service_test.c DEPS memnode_ctl ctl base)
fm_test(ctl_service_fuzz SOURCES ctl_service_fuzz.c DEPS memnode_ctl ctl base)
# Starts farmem-memnode from the top of the build tree.
fm_test(daemon_test SOURCES daemon_test.c DEPS memnode_ctl ctl fabric base)
add_dependencies(daemon_test farmem-memnode)
