# rpc/ctl.cmake: the control plane: gRPC core and protobuf-c. Included by rpc/CMakeLists.txt.
#
# fm_ctl_proto is generated code: built without our warnings. fm_ctl is what others link.
find_program(PROTOC_C protoc-c REQUIRED)
pkg_check_modules(PROTOBUF_C REQUIRED IMPORTED_TARGET libprotobuf-c)
find_library(GRPC_LIBRARY grpc REQUIRED)
find_library(GPR_LIBRARY gpr REQUIRED)

set(CTL_PROTO_SOURCES)
foreach(proto memnode health orca)
	add_custom_command(
		OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${proto}.pb-c.c ${CMAKE_CURRENT_BINARY_DIR}/${proto}.pb-c.h
		COMMAND ${PROTOC_C} --c_out=${CMAKE_CURRENT_BINARY_DIR} -I ${CMAKE_CURRENT_SOURCE_DIR}
			${CMAKE_CURRENT_SOURCE_DIR}/${proto}.proto
		DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${proto}.proto
		VERBATIM)
	list(APPEND CTL_PROTO_SOURCES ${CMAKE_CURRENT_BINARY_DIR}/${proto}.pb-c.c)
endforeach()
add_library(fm_ctl_proto STATIC ${CTL_PROTO_SOURCES})
target_compile_options(fm_ctl_proto PRIVATE -w)
target_include_directories(fm_ctl_proto SYSTEM PUBLIC ${CMAKE_CURRENT_BINARY_DIR})
target_link_libraries(fm_ctl_proto PUBLIC PkgConfig::PROTOBUF_C)

fm_room(ctl SOURCES ctl_library.c ctl_server.c ctl_client.c ctl_memnode.c ctl_merge.c ctl_orca.c DEPS base ctl_proto
	LIBS ${GRPC_LIBRARY} ${GPR_LIBRARY} Threads::Threads)

fm_test(ctl_test SOURCES ctl_test.c DEPS ctl base)
fm_test(ctl_orca_test SOURCES ctl_orca_test.c DEPS ctl base LABELS unit)
fm_test(ctl_memnode_test SOURCES ctl_memnode_test.c DEPS ctl base LABELS unit)
fm_test(ctl_merge_test SOURCES ctl_merge_test.c DEPS ctl base LABELS unit)
