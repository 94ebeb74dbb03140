/*
 * apps/farmem_doctor.h: between the driver of `farmem doctor` and its checks.
 */
#ifndef FM_APPS_FARMEM_DOCTOR_H
#define FM_APPS_FARMEM_DOCTOR_H

#include "apps/farmem_uffd.h"
#include "base/config.h"

enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL };

/* One line of the report. Checks fill it with the three functions below; the last call counts. */
struct finding {
	enum verdict verdict;
	char text[384];
	char cure[512]; /* what to type; empty when all is well */
};

struct doctor {
	struct fm_config config;
	int config_status; /* of reading file and environment */
	struct option_error config_error;
	struct uffd_probe uffd;
};

struct doctor_check {
	const char *name;
	void (*look)(const struct doctor *doctor, struct finding *finding);
};

extern const struct doctor_check doctor_machine_checks[]; /* end with a NULL name */
extern const struct doctor_check doctor_rdma_checks[];
extern const struct doctor_check doctor_farmem_checks[];

void finding_ok(struct finding *finding, const char *format, ...) FM_PRINTF(2, 3);
void finding_warn(struct finding *finding, const char *cure, const char *format, ...)
	FM_PRINTF(3, 4);
void finding_fail(struct finding *finding, const char *cure, const char *format, ...)
	FM_PRINTF(3, 4);

/* First line of a small file, without its newline. 0 or -errno. */
int read_line(const char *path, char *text, size_t size) FM_MUST_USE;
/* Bytes of a "Name:   123 kB" row of /proc/meminfo (or the bare number for rows without kB); 0 when
 * absent. */
uint64_t meminfo_read(const char *name);

#endif
