# fm-lbsim: simulated fleets under the balancer that real channels use.
fm_program(fm-lbsim
	SOURCES lbsim.c lbsim_options.c lbsim_points.c lbsim_table.c lbsim_plot.c lbsim_sweep.c lbsim_trace.c
		lbsim_experiment.c lbsim_adapt.c
	DEPS lb_sim lb base
	LIBS m)

add_test(NAME lbsim_cli_test COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/lbsim_cli_test.sh $<TARGET_FILE:fm-lbsim>)
set_tests_properties(lbsim_cli_test PROPERTIES TIMEOUT 240 LABELS sim)

# The claims of docs/load-balancing.md, small: some 20 s of CPU time together. They are seeded: what holds once holds
# always, until somebody changes a policy, the tuner or the simulator. Not for sanitizers, to which statistics say nothing.
if(NOT FM_SANITIZE)
	add_test(NAME lbsim_e1_test COMMAND fm-lbsim experiment e1 --quick --seeds 2 --requests 150000)
	add_test(NAME lbsim_e2_test COMMAND fm-lbsim experiment e2 --quick --seeds 2 --requests 150000)
	add_test(NAME lbsim_e3_test COMMAND fm-lbsim experiment e3 --quick --seeds 2 --requests 1600000)
	set_tests_properties(lbsim_e1_test lbsim_e2_test lbsim_e3_test PROPERTIES TIMEOUT 240 LABELS sim)
endif()
