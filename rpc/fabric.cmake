# rpc/fabric.cmake: tests of the fabric. They run against a real memory node, so they link memnode, which comes
# later in the order of rooms: the library itself does not.
add_executable(fabric_test fabric_test.c)
target_link_libraries(fabric_test PRIVATE fm_memnode fm_fabric fm_base)
set_target_properties(fabric_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
foreach(provider shm tcp)
	add_test(NAME fabric_test@${provider} COMMAND fabric_test ${provider})
	set_tests_properties(fabric_test@${provider} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120)
endforeach()

fm_test(fabric_tcp_test SOURCES fabric_tcp_test.c DEPS fabric base)
fm_test(resolve_test SOURCES resolve_test.c DEPS fabric base LABELS unit)
fm_test(wire_test SOURCES wire_test.c DEPS fabric base LABELS unit)
if(CMAKE_C_COMPILER_ID MATCHES "Clang" AND NOT FM_SANITIZE STREQUAL "thread")
	fm_test(wire_fuzz SOURCES wire_fuzz.c wire.c DEPS base LABELS fuzz
		ARGS -runs=400000 -max_len=64 -seed=1 -verbosity=0)
	target_compile_definitions(wire_fuzz PRIVATE FUZZ_BY_LIBFUZZER)
	target_compile_options(wire_fuzz PRIVATE -fsanitize=fuzzer)
	target_link_options(wire_fuzz PRIVATE -fsanitize=fuzzer)
else()
	fm_test(wire_fuzz SOURCES wire_fuzz.c DEPS fabric base LABELS fuzz)
endif()

if(FM_BENCH)
	add_executable(fabric_bench fabric_bench.c)
	target_link_libraries(fabric_bench PRIVATE fm_memnode fm_fabric fm_base)
	set_target_properties(fabric_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
	add_test(NAME fabric_bench_quick COMMAND fabric_bench 1)
endif()
