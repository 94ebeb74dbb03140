# Unit and model-based tests of the runtime. Included by farmem/CMakeLists.txt.
# gcc's TSan does not follow the fences of core.h's epoch_enter and says so, as an error.
if(FM_SANITIZE STREQUAL "thread" AND CMAKE_C_COMPILER_ID STREQUAL "GNU")
	target_compile_options(fm_runtime PUBLIC -Wno-tsan)
endif()

foreach(noun span record slot epoch gate clean catalog hedge)
	fm_test(${noun}_test SOURCES ${noun}_test.c DEPS runtime ec fabric base LABELS unit)
endforeach()

# On real memory nodes in other processes, on both fabrics.
foreach(noun spanset scheme merge merge_storm)
	add_executable(${noun}_test ${noun}_test.c)
	target_link_libraries(${noun}_test PRIVATE fm_runtime fm_memnode fm_ec fm_fabric fm_base)
	set_target_properties(${noun}_test PROPERTIES
		RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
	add_dependencies(${noun}_test farmem-verbs)
	foreach(fabric shm tcp verbs)
		add_test(NAME ${noun}_test@${fabric} COMMAND ${noun}_test ${fabric})
		set_tests_properties(${noun}_test@${fabric} PROPERTIES
			LABELS fabric TIMEOUT 180 SKIP_RETURN_CODE 77)
	endforeach()
endforeach()

# The real kernel's page tables; 77 with a reason where there is no userfaultfd.
fm_test(uffd_test SOURCES uffd_test.c uffd.c DEPS runtime fabric base LIBS Threads::Threads LABELS uffd)
fm_test(range_test SOURCES range_test.c range.c range_map.c uffd.c DEPS runtime fabric base LIBS Threads::Threads
	LABELS uffd)
