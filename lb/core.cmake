# The balancer: no I/O, no clock; whoever drives it links fm_lb.
fm_room(lb SOURCES balancer.c health.c pool.c policy_simple.c policy_p2c.c
	policy_prequal.c policy_jiq.c policy_jbsq.c policy_c3.c policy_jsq.c policy_mew.c DEPS base LIBS m)
foreach(part pool health policy balancer)
	fm_test(lb_${part}_test SOURCES ${part}_test.c DEPS lb base)
endforeach()
if(FM_BENCH)
	fm_program(balancer_bench SOURCES balancer_bench.c DEPS lb base)
	set_target_properties(balancer_bench PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
	add_test(NAME balancer_bench_tiny COMMAND balancer_bench --tiny)
	set_tests_properties(balancer_bench_tiny PROPERTIES LABELS bench TIMEOUT 60)
endif()
