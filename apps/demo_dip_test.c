/*
 * apps/demo_dip_test.c: dips are measured as demo_timeline.h says, on made-up timelines of known
 * shape.
 */
#include <errno.h>
#include <math.h>

#include "apps/demo_timeline.h"
#include "base/test.h"

static struct timeline timeline;

/* 10 s at `steady`, with a ripple of +-1 %; an event at 5 s. */
static void make(double steady)
{
	memset(&timeline, 0, sizeof(timeline));
	timeline.load_count = 100;
	for (unsigned i = 0; i < timeline.load_count; i++)
		timeline.load[i] = (struct load_sample){.end_s = (i + 1) * LOAD_SAMPLE_S,
			.ops = steady * (i % 2 ? 1.01 : 0.99),
			.p99_us = 1000};
	timeline.event_count = 1;
	timeline.events[0].at_s = 5;
}

TEST(a_steady_load_has_no_dip)
{
	struct dip dip;

	make(40000);
	timeline_dip(&timeline, 0, &dip);
	CHECK_EQ(dip.length_s, 0);
	CHECK(dip.recovered);
	CHECK(fabs(dip.before_ops - 40000) < 500);
}

TEST(length_drop_and_depth_are_those_of_the_samples_below_the_threshold)
{
	struct dip dip;

	make(40000);
	for (unsigned i = 50; i < 56; i++) /* 5.0 .. 5.6 s at half, one sample at a quarter */
		timeline.load[i].ops = 20000;
	timeline.load[52].ops = 10000;
	timeline.load[52].p99_us = 9000;
	timeline_dip(&timeline, 0, &dip);
	CHECK(fabs(dip.length_s - 0.6) < 1e-9);
	CHECK(fabs(dip.drop - (5 * 0.5 + 0.75) / 6) < 0.01);
	CHECK_EQ(dip.deepest_ops, 10000);
	CHECK_EQ(dip.worst_p99_us, 9000);
	CHECK(dip.recovered);
}

TEST(a_short_recovery_inside_does_not_end_a_dip)
{
	struct dip dip;

	make(40000);
	timeline.load[50].ops = timeline.load[53].ops = 20000; /* two good samples between */
	timeline_dip(&timeline, 0, &dip);
	CHECK(fabs(dip.length_s - 0.4) < 1e-9);
}

TEST(a_dip_that_lasts_to_the_end_is_not_called_recovered)
{
	struct dip dip;

	make(40000);
	for (unsigned i = 50; i < 100; i++)
		timeline.load[i].ops = 0;
	timeline_dip(&timeline, 0, &dip);
	CHECK(!dip.recovered);
	CHECK(fabs(dip.length_s - 5) < 1e-9);
	CHECK(fabs(dip.drop - 1) < 1e-9);
}

TEST(a_noisy_load_raises_the_bar_for_what_is_a_dip)
{
	struct dip dip;

	make(40000);
	for (unsigned i = 0; i < 100; i++)
		timeline.load[i].ops = i % 2 ? 50000 : 30000;
	timeline_dip(&timeline, 0, &dip);
	CHECK_EQ(dip.length_s, 0);
	CHECK(fabs(dip.noise - 0.25) < 0.01);
}

TEST(degraded_reads_are_counted_from_event_to_event)
{
	struct dip dip;

	make(40000);
	timeline.event_count = 2;
	timeline.events[1].at_s = 8;
	for (unsigned i = 0; i < 20; i++)
		timeline.far[i] = (struct far_sample){
			.at_s = i * 0.5, .degraded_reads = i < 10 ? 0 : (i - 9) * 100};
	timeline.far_count = 20;
	timeline_dip(&timeline, 0, &dip);
	CHECK_EQ(dip.degraded_reads, 600); /* of the samples at 5.0 (100) .. 8.0 (700) */
	CHECK_EQ(timeline_degraded_rate(&timeline, 6, 7), 200);
}

TEST(a_second_event_is_measured_against_the_time_before_the_first)
{
	struct dip dip;

	make(40000);
	timeline.event_count = 2;
	timeline.events[1].at_s = 8;
	for (unsigned i = 50; i < 100; i++)
		timeline.load[i].ops = 20000;
	timeline_dip(&timeline, 1, &dip);
	CHECK(fabs(dip.before_ops - 40000) < 500);
	CHECK(fabs(dip.drop - 0.5) < 0.01);
	CHECK(!dip.recovered);
	CHECK_EQ(dip.after_ops, 20000);
}

TEST(the_sources_are_read_onto_one_clock)
{
	char load[] = "phase,elapsed_ms,unix_ms,ops,p50_us,p99_us,max_us,errors,wrong\n"
		      "fill,100,1000000,5,1,2,3,0,0\n"
		      "load,5100,1005100,4000,100.5,900.0,1000,0,0\n"
		      "load,5200,1005260,3000,100.5,950.0,1000,1,2\n";
	char far[] = "[]\n[{\"pid\":1,\"sampled_unix_ms\":1005150,\"degraded_reads\":12}]\n";
	char events[] = "1005175 kill -9 of node 3\n";
	FILE *file = fmemopen(load, strlen(load), "r");

	memset(&timeline, 0, sizeof(timeline));
	CHECK_EQ(timeline_read_load(&timeline, file), 0);
	fclose(file);
	CHECK_EQ(timeline.load_count, 2);
	CHECK_EQ(timeline.load[0].ops, 40000);
	CHECK_EQ(timeline.load[1].wrong, 2);
	CHECK(fabs(timeline.load[1].end_s - 0.2) < 1e-9);
	file = fmemopen(far, strlen(far), "r");
	CHECK_EQ(timeline_read_far(&timeline, file), 0);
	fclose(file);
	CHECK_EQ(timeline.far_count, 1);
	CHECK(fabs(timeline.far[0].at_s - 0.15) < 1e-6);
	file = fmemopen(events, strlen(events), "r");
	CHECK_EQ(timeline_read_events(&timeline, file), 0);
	fclose(file);
	CHECK_STR_EQ(timeline.events[0].text, "kill -9 of node 3");
	CHECK(fabs(timeline.events[0].at_s - 0.175) < 1e-6);
}

TEST(sources_that_make_no_sense_are_refused)
{
	char load[] = "load,x\n", events[] = "soon kill\n", far[] = "{{\n";
	FILE *file = fmemopen(load, strlen(load), "r");

	memset(&timeline, 0, sizeof(timeline));
	CHECK_EQ(timeline_read_load(&timeline, file), -EPROTO);
	fclose(file);
	file = fmemopen(events, strlen(events), "r");
	CHECK_EQ(timeline_read_events(&timeline, file), -EPROTO);
	fclose(file);
	file = fmemopen(far, strlen(far), "r");
	CHECK_EQ(timeline_read_far(&timeline, file), -EPROTO);
	fclose(file);
}
