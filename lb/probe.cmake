# lb/probe.cmake: probes. Clients need the wire alone (fm_lb_wire: base only); servers also the answerers
# (fm_lb_probe: libbpf). The application's preload libraries link neither.
pkg_check_modules(BPF REQUIRED IMPORTED_TARGET libbpf)

fm_room(lb_wire SOURCES probe_wire.c DEPS base)
target_link_libraries(fm_lb PUBLIC fm_lb_wire) # who links the balancer can ask and answer
fm_room(lb_probe SOURCES probe_server.c probe_kernel.c probe_attach.c probe_filter.c probe_user.c
	DEPS lb_wire base LIBS PkgConfig::BPF Threads::Threads)

fm_test(lb_probe_wire_test SOURCES probe_wire_test.c DEPS lb_probe lb_wire base)
fm_test(lb_probe_filter_test SOURCES probe_filter_test.c DEPS lb_probe base)
if(CMAKE_C_COMPILER_ID MATCHES "Clang" AND NOT FM_SANITIZE STREQUAL "thread")
	fm_test(lb_probe_fuzz SOURCES probe_fuzz.c probe_wire.c DEPS base LABELS fuzz
		ARGS -runs=400000 -max_len=128 -seed=1 -verbosity=0)
	target_compile_definitions(lb_probe_fuzz PRIVATE FUZZ_BY_LIBFUZZER)
	target_compile_options(lb_probe_fuzz PRIVATE -fsanitize=fuzzer)
	target_link_options(lb_probe_fuzz PRIVATE -fsanitize=fuzzer)
else()
	fm_test(lb_probe_fuzz SOURCES probe_fuzz.c DEPS lb_wire base LABELS fuzz)
endif()
fm_test(lb_probe_program_test SOURCES probe_program_test.c DEPS lb_probe base)
fm_test(lb_probe_server_test SOURCES probe_server_test.c DEPS lb_probe base)
fm_test(lb_probe_life_test SOURCES probe_life_test.c DEPS lb_probe base)
# Is the committed skeleton what the source compiles to?
add_test(NAME lb_probe_skeleton COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/probe_skeleton --check)
set_tests_properties(lb_probe_skeleton PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 60)

if(FM_BENCH)
	fm_program(lb_probe_bench SOURCES probe_bench.c DEPS lb_probe bench base)
	set_target_properties(lb_probe_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench
		OUTPUT_NAME probe_bench)
	add_test(NAME lb_probe_bench COMMAND lb_probe_bench --tiny --json)
	set_tests_properties(lb_probe_bench PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120 LABELS bench)
endif()
