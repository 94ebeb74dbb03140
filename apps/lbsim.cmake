# fm-lbsim: simulated fleets under the balancer that real channels use.
fm_program(fm-lbsim
	SOURCES lbsim.c lbsim_options.c lbsim_points.c lbsim_table.c lbsim_plot.c lbsim_sweep.c lbsim_trace.c
		lbsim_experiment.c lbsim_adapt.c
	DEPS lb_sim lb base
	LIBS m)
