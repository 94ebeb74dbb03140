# The balancer over gRPC. For programs that may link it: agents, tools.
fm_room(lb_ctl SOURCES ctl_balancer.c DEPS lb_prober lb ctl base LIBS Threads::Threads)
fm_test(lb_ctl_balancer_test SOURCES ctl_balancer_test.c DEPS lb_ctl lb_probe ctl base)
