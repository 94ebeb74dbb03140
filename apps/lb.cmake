# fm-echo and fm-load: a sample server of libfarmem-rpc, and open-loop load that compares policies.
fm_room(lb_tool SOURCES lb_tool.c DEPS base)
fm_program(fm-echo SOURCES echo.c echo_service.c DEPS lb_channel lb_sim lb_tool base LIBS m)
fm_program(fm-load
	SOURCES load.c load_run.c load_hist.c load_report.c load_plot.c
	DEPS lb_channel lb_sim lb_tool lb base LIBS m)
fm_test(echo_service_test SOURCES echo_service_test.c echo_service.c DEPS lb_sim base LIBS m)
fm_test(load_hist_test SOURCES load_hist_test.c load_hist.c DEPS lb base LIBS m)

# The two as a user starts them.
add_test(NAME fm_load_e2e COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/fm_load_test.sh ${PROJECT_BINARY_DIR})
set_tests_properties(fm_load_e2e PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 120 LABELS e2e)
