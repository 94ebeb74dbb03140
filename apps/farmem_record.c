/*
 * apps/farmem_record.c: `farmem record`: `farmem run` with samples of faults going to a file.
 *
 * The sampling is the runtime's (farmem/profile.h); here the file is made, so that a path that
 * cannot be written is known before the program starts. Programs that the recorded one starts add
 * to the same file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "farmem/profile_file.h"

#define RECORD_FILE "farmem.data"

int record_begin(const char *path)
{
	int fd, rc = 0;

	if (path[0] == '\0' || getenv("FARMEM_TREE") != NULL)
		return EXIT_OK;
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, PROFILE_MAGIC, PROFILE_MAGIC_BYTES) != PROFILE_MAGIC_BYTES)
		rc = errno;
	if (fd >= 0)
		close(fd);
	if (rc == 0)
		return EXIT_OK;
	complain("--profile %s: %s: name a file that can be written", path, strerror(rc));
	return EXIT_FAILED;
}

int record_command(int argc, char **argv)
{
	if (command_wants_help(argc, argv)) {
		command_print_help("record");
		return EXIT_OK;
	}
	/* The default only: a variable or a flag of the user's wins. */
	if (setenv("FARMEM_PROFILE", RECORD_FILE, 0) < 0) {
		complain("cannot set the program's environment: %s", strerror(errno));
		return EXIT_FAILED;
	}
	return run_command(argc, argv);
}
