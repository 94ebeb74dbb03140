/*
 * apps/echo_service.c: see echo_service.h.
 */
#include "apps/echo_service.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/options.h"

#define SPIN_STEP_NS 2000u /* between two poll points */

int echo_service_parse(const char *text, struct echo_service *service)
{
	static const char *const names[CHANCE_SERVICES] = {
		"const", "exp", "bimodal", "heavy", "lognormal"};
	size_t length = strcspn(text, ":");
	uint64_t mean_ns;

	if (text[length] != ':' || parse_duration(text + length + 1, &mean_ns) < 0 ||
		mean_ns > ECHO_SERVICE_MEAN_NS_MAX)
		return -EINVAL;
	for (unsigned i = 0; i < CHANCE_SERVICES; i++) {
		if (strlen(names[i]) != length || memcmp(names[i], text, length) != 0)
			continue;
		service->shape = (enum chance_service)i;
		service->mean_ns = mean_ns;
		return 0;
	}
	return -EINVAL;
}

/* Each worker draws from a stream of its own. */
static uint64_t draw_ns(const struct echo_service *service)
{
	static _Atomic uint64_t streams;
	static _Thread_local struct chance chance;
	static _Thread_local bool seeded;
	double ns;

	if (!seeded)
		/* relaxed: a number for each, in any order */
		chance_seed(&chance, service->seed,
			atomic_fetch_add_explicit(&streams, 1, memory_order_relaxed));
	seeded = true;
	ns = chance_of_service(&chance, service->shape, (double)service->mean_ns);
	return ns < 0 ? 0 : (uint64_t)ns;
}

static void pass_virtual(uint64_t until_ns)
{
	struct timespec until = {
		.tv_sec = (time_t)(until_ns / NS_PER_S),
		.tv_nsec = (long)(until_ns % NS_PER_S),
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static void pass_spinning(uint64_t until_ns, void (*poll_point)(void))
{
	uint64_t step_ns = clock_now_ns(), now_ns;

	while ((now_ns = clock_now_ns()) < until_ns) {
		if (now_ns - step_ns >= SPIN_STEP_NS) {
			poll_point();
			step_ns = now_ns;
		}
		fm_cpu_relax();
	}
}

void echo_serve(const struct echo_service *service, uint64_t arrival_ns, void (*poll_point)(void))
{
	static _Thread_local uint64_t free_ns; /* when this worker was done, in virtual time */
	uint64_t service_ns;

	if (service->mean_ns == 0)
		return;
	service_ns = draw_ns(service);
	if (service->spins) {
		pass_spinning(clock_now_ns() + service_ns, poll_point);
		return;
	}
	free_ns = FM_MAX(free_ns, arrival_ns) + service_ns;
	if (free_ns > clock_now_ns())
		pass_virtual(free_ns);
}
