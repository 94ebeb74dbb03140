# memnode/daemon.cmake: the daemon and its control plane. Included by memnode/CMakeLists.txt, which makes
# fm_memnode (leases, regions, data servers).
fm_room(memnode_ctl SOURCES ctl_service.c ctl_offload.c ctl_merge.c daemon_options.c machine.c
	DEPS memnode_offload memnode ctl base)
fm_room(memnode_load SOURCES node_load.c DEPS memnode_ctl memnode lb_probe ctl base)
fm_program(farmem-memnode SOURCES main.c DEPS memnode_load memnode_ctl memnode ctl base)

fm_test(ctl_service_test SOURCES ctl_service_test.c DEPS memnode_ctl ctl base)
fm_test(merge_node_test SOURCES merge_node_test.c DEPS memnode_ctl memnode_offload memnode ctl ec base)
if(FM_BENCH)
	fm_program(merge_bench SOURCES merge_bench.c DEPS memnode_ctl memnode_offload memnode ctl ec base)
	set_target_properties(merge_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
	add_test(NAME merge_bench_quick COMMAND merge_bench 1)
	set_tests_properties(merge_bench_quick PROPERTIES LABELS bench TIMEOUT 60)
endif()
fm_test(merge_mishap_test SOURCES merge_mishap_test.c DEPS memnode_ctl memnode_offload memnode ctl ec base)
if(CMAKE_C_COMPILER_ID MATCHES "Clang" AND NOT FM_SANITIZE STREQUAL "thread")
	# the handlers once more, so that the fuzzer sees their branches
	fm_test(ctl_service_fuzz SOURCES ctl_service_fuzz.c ctl_service.c ctl_offload.c ctl_merge.c
		DEPS memnode_offload memnode ctl base LABELS fuzz
		ARGS -runs=20000 -max_len=6144 -seed=1)
	target_compile_definitions(ctl_service_fuzz PRIVATE FUZZ_BY_LIBFUZZER)
	target_compile_options(ctl_service_fuzz PRIVATE -fsanitize=fuzzer)
	target_link_options(ctl_service_fuzz PRIVATE -fsanitize=fuzzer)
else()
	fm_test(ctl_service_fuzz SOURCES ctl_service_fuzz.c DEPS memnode_ctl ctl base LABELS fuzz)
endif()
# Starts farmem-memnode from the top of the build tree.
fm_test(node_load_test SOURCES node_load_test.c DEPS memnode_load lb_prober memnode fabric base)
fm_test(daemon_test SOURCES daemon_test.c DEPS memnode_ctl ctl fabric ec base)
add_dependencies(daemon_test farmem-memnode)
