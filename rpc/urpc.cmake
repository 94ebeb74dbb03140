# rpc/urpc.cmake: microsecond RPCs. Included by rpc/CMakeLists.txt.
fm_room(urpc SOURCES urpc_address.c urpc_client.c urpc_client_receive.c urpc_dispatch.c urpc_fiber.c urpc_fragment.c
	urpc_once.c urpc_sender.c urpc_server.c urpc_socket.c urpc_table.c urpc_wire.c urpc_worker.c
	DEPS base LIBS Threads::Threads)

fm_test(urpc_test SOURCES urpc_test.c DEPS urpc base LABELS unit)
