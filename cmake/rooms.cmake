# The two words a room's CMakeLists.txt needs.
#
#   fm_room(NAME SOURCES a.c b.c DEPS base ec)   a static, position-independent library fm_NAME
#   fm_test(NAME SOURCES x_test.c DEPS base)     a test program known to ctest; exit 0/1/77 = pass/fail/skip
#                                                (ARGS are handed to it, LABELS go to ctest, TIMEOUT in seconds)
#   fm_program(NAME SOURCES main.c DEPS ...)     a program, built into the top of the build tree

function(fm_room name)
	cmake_parse_arguments(R "" "" "SOURCES;DEPS;LIBS" ${ARGN})
	add_library(fm_${name} STATIC ${R_SOURCES})
	set_target_properties(fm_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
	target_include_directories(fm_${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
	list(TRANSFORM R_DEPS PREPEND fm_)
	target_link_libraries(fm_${name} PUBLIC ${R_DEPS} ${R_LIBS})
endfunction()

function(fm_program name)
	cmake_parse_arguments(R "" "" "SOURCES;DEPS;LIBS" ${ARGN})
	add_executable(${name} ${R_SOURCES})
	list(TRANSFORM R_DEPS PREPEND fm_)
	target_link_libraries(${name} PRIVATE ${R_DEPS} ${R_LIBS})
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
endfunction()

function(fm_test name)
	cmake_parse_arguments(R "" "TIMEOUT" "SOURCES;DEPS;LIBS;ARGS;LABELS" ${ARGN})
	add_executable(${name} ${R_SOURCES})
	list(TRANSFORM R_DEPS PREPEND fm_)
	target_link_libraries(${name} PRIVATE ${R_DEPS} ${R_LIBS})
	set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
	add_test(NAME ${name} COMMAND ${name} ${R_ARGS})
	if(NOT R_TIMEOUT)
		set(R_TIMEOUT 120)
	endif()
	set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT ${R_TIMEOUT}
		LABELS "${R_LABELS}")
endfunction()
