# The tuner belongs to the core.
target_sources(fm_lb PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/tuner.c ${CMAKE_CURRENT_SOURCE_DIR}/tuner_tail.c)
target_link_libraries(fm_lb PUBLIC m)
fm_test(lb_tuner_test SOURCES tuner_test.c DEPS lb base LIBS m)

# The simulator: the same balancer and tuner, driven by events instead of sockets.
fm_room(lb_sim
	SOURCES sim/chance.c sim/events.c sim/measure.c sim/station.c sim/sim.c sim/sim_caller.c sim/sim_weather.c sim/search.c
	DEPS lb base
	LIBS m)
# Statistics are no matter for sanitizers, which make them ten times as long: there, one run with everything in it.
if(FM_SANITIZE)
	set(cases everything)
endif()
fm_test(lb_sim_test SOURCES sim/sim_test.c DEPS lb_sim lb base LIBS m ARGS ${cases} LABELS sim TIMEOUT 240)
