# rpc/urpc.cmake: microsecond RPCs. Included by rpc/CMakeLists.txt.
fm_room(urpc SOURCES urpc_address.c urpc_client.c urpc_client_receive.c urpc_dispatch.c urpc_fiber.c urpc_fragment.c
	urpc_once.c urpc_ring.c urpc_sender.c urpc_server.c urpc_shm_client.c urpc_shm_server.c urpc_socket.c urpc_table.c urpc_wire.c urpc_worker.c
	DEPS base LIBS Threads::Threads)

fm_test(urpc_test SOURCES urpc_test.c DEPS urpc base LABELS unit)
fm_test(urpc_parts_test SOURCES urpc_parts_test.c DEPS urpc base LABELS unit)
# the other way to switch stacks, for machines without one of ours
fm_test(urpc_parts_ucontext_test SOURCES urpc_parts_test.c urpc_fiber.c DEPS urpc base LABELS unit)
target_compile_definitions(urpc_parts_ucontext_test PRIVATE URPC_FIBER_UCONTEXT)
fm_test(urpc_server_test SOURCES urpc_server_test.c DEPS urpc base LABELS unit)
# a sanitizer makes system calls of its own
if(NOT FM_SANITIZE)
	fm_test(urpc_syscall_test SOURCES urpc_syscall_test.c DEPS urpc base LABELS unit)
endif()
fm_test(urpc_hostile_test SOURCES urpc_hostile_test.c DEPS urpc base LABELS unit)
fm_test(urpc_stress_test SOURCES urpc_stress_test.c DEPS urpc base LABELS unit)
if(CMAKE_C_COMPILER_ID MATCHES "Clang" AND NOT FM_SANITIZE STREQUAL "thread")
	# the sources once more, so that the fuzzer sees their branches
	fm_test(urpc_fuzz DEPS base LABELS fuzz LIBS Threads::Threads SOURCES urpc_fuzz.c urpc_address.c urpc_client.c
		urpc_client_receive.c urpc_dispatch.c urpc_fiber.c urpc_fragment.c urpc_once.c urpc_sender.c urpc_server.c
		urpc_socket.c urpc_ring.c urpc_shm_client.c urpc_shm_server.c urpc_table.c urpc_wire.c urpc_worker.c
		ARGS -runs=60000 -max_len=4096 -len_control=0 -seed=1 -verbosity=0)
	target_compile_definitions(urpc_fuzz PRIVATE FUZZ_BY_LIBFUZZER)
	target_compile_options(urpc_fuzz PRIVATE -fsanitize=fuzzer)
	target_link_options(urpc_fuzz PRIVATE -fsanitize=fuzzer)
else()
	fm_test(urpc_fuzz SOURCES urpc_fuzz.c DEPS urpc base LABELS fuzz)
endif()

if(FM_BENCH)
	add_executable(urpc_bench urpc_bench.c)
	target_link_libraries(urpc_bench PRIVATE fm_bench fm_ctl fm_urpc fm_base)
	set_target_properties(urpc_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
	add_executable(urpc_bimodal_bench urpc_bimodal_bench.c)
	target_link_libraries(urpc_bimodal_bench PRIVATE fm_bench fm_urpc fm_base m)
	set_target_properties(urpc_bimodal_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
	add_test(NAME bench_urpc COMMAND urpc_bench --tiny --json)
	add_test(NAME bench_urpc_bimodal COMMAND urpc_bimodal_bench --tiny --json)
	set_tests_properties(bench_urpc bench_urpc_bimodal PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120 LABELS bench)
endif()
