/*
 * apps/echo_service.h: how long a request of fm-echo takes: a distribution with a mean, and how the
 * time is passed. Used by echo.c.
 */
#ifndef FM_APPS_ECHO_SERVICE_H
#define FM_APPS_ECHO_SERVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "lb/sim/chance.h"

#define ECHO_SERVICE_MEAN_NS_MAX 1000000000ull

struct echo_service {
	enum chance_service shape;
	uint64_t mean_ns; /* 0: nothing is done */
	bool spins; /* burns the time; otherwise it is virtual: the worker is held, no CPU is */
	uint64_t seed;
};

/* "exp:50us", "const:1ms", "bimodal:..", "heavy:..", "lognormal:..". 0 or -EINVAL. */
int echo_service_parse(const char *text, struct echo_service *service) FM_MUST_USE;
/*
 * Serves one request on this worker. Virtual time begins when the request arrived or when the
 * worker was done with the one before, whichever is later: a worker that the machine woke late
 * makes up for it, so that the server's capacity is what it was asked to be whatever the machine
 * does. poll_point: called every few microseconds while spinning.
 */
void echo_serve(const struct echo_service *service, uint64_t arrival_ns, void (*poll_point)(void));

#endif
