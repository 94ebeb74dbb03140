# libfarmem-rpc: the core and urpc behind include/farmem/rpc.h. Also as a room, for our own programs and tests.
fm_room(lb_prober SOURCES probe_table.c prober.c DEPS lb base)
set(channel_sources channel.c channel_role.c channel_call.c channel_probe.c channel_run.c channel_server.c)
fm_room(lb_channel SOURCES ${channel_sources} DEPS lb_prober lb lb_probe urpc base LIBS Threads::Threads)

add_library(libfarmem-rpc SHARED ${channel_sources})
target_link_libraries(libfarmem-rpc PRIVATE fm_lb_prober fm_lb fm_lb_probe fm_urpc fm_base Threads::Threads)
target_link_options(libfarmem-rpc PRIVATE
	-Wl,--version-script=${CMAKE_CURRENT_SOURCE_DIR}/rpc.map -Wl,--no-undefined)
set_target_properties(libfarmem-rpc PROPERTIES OUTPUT_NAME farmem-rpc LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}
	LINK_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/rpc.map)

fm_test(lb_probe_table_test SOURCES probe_table_test.c DEPS lb_prober base)
fm_test(lb_channel_test SOURCES channel_test.c DEPS lb_channel base)
# As a user's program: the public header and the shared library, nothing else of ours.
add_executable(rpc_public_test public_test.c)
target_include_directories(rpc_public_test PRIVATE ${PROJECT_SOURCE_DIR}/include)
target_link_libraries(rpc_public_test PRIVATE libfarmem-rpc)
set_target_properties(rpc_public_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
add_test(NAME rpc_public_test COMMAND rpc_public_test)
set_tests_properties(rpc_public_test PROPERTIES TIMEOUT 60)
