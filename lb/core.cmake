# The balancer: no I/O, no clock; whoever drives it links fm_lb.
fm_room(lb SOURCES balancer.c health.c pool.c policy_simple.c policy_p2c.c
	policy_prequal.c policy_jiq.c policy_jbsq.c policy_c3.c policy_jsq.c policy_mew.c DEPS base LIBS m)
foreach(part pool health policy balancer)
	fm_test(lb_${part}_test SOURCES ${part}_test.c DEPS lb base)
endforeach()
