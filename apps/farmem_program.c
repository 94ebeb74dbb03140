/*
 * apps/farmem_program.c: see farmem_program.h.
 *
 * The rules followed are execve(2)'s and ld.so(8)'s: the dynamic linker drops LD_PRELOAD when the
 * kernel sets AT_SECURE (setuid, setgid, file capabilities that add rights), a static program has
 * no dynamic linker, and a script is run by its interpreter, to which all this applies in its
 * stead.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_program.h"

#define SCRIPT_DEPTH_MAX 5 /* the kernel's own limit on scripts whose interpreter is a script */
#define HEAD_BYTES 512     /* enough for a #! line (255) and an ELF header */

static int refuse(struct option_error *error, int status, const char *format, ...) FM_PRINTF(3, 4);
static int refuse(struct option_error *error, int status, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(error->text, sizeof(error->text), format, arguments);
	va_end(arguments);
	return status;
}

/* Rights a file would add at exec; the kernel ignores them on nosuid mounts and under no_new_privs.
 */
static int check_privilege(const char *path, int fd, struct option_error *error)
{
	struct stat file;
	struct statvfs mount;
	const char *why = NULL;

	if (fstat(fd, &file) < 0 || fstatvfs(fd, &mount) < 0)
		return refuse(error, EXIT_CANNOT_EXECUTE, "%s: %s", path, strerror(errno));
	if ((mount.f_flag & ST_NOSUID) || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return 0;
	if ((file.st_mode & S_ISUID) && file.st_uid != getuid())
		why = "setuid";
	else if ((file.st_mode & S_ISGID) && (file.st_mode & S_IXGRP) && file.st_gid != getgid())
		why = "setgid";
	else if (getuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		why = "given file capabilities";
	if (!why)
		return 0;
	return refuse(error, EXIT_USAGE,
		"%s is %s: the dynamic linker ignores LD_PRELOAD for such programs; start it as "
		"the "
		"user it changes to, or use a copy without that right",
		path, why);
}

/* The dynamic linker itself has no PT_INTERP, yet honours LD_PRELOAD for what it is told to run. */
static bool is_dynamic_linker(const char *path)
{
	const char *base = strrchr(path, '/');

	base = base ? base + 1 : path;
	return strncmp(base, "ld-linux", 8) == 0 || strncmp(base, "ld.so", 5) == 0;
}

static int check_interpreter(
	const char *path, int fd, const Elf64_Phdr *header, struct option_error *error)
{
	char name[PATH_MAX] = "";
	size_t length = FM_MIN((size_t)header->p_filesz, sizeof(name) - 1);

	if (pread(fd, name, length, (off_t)header->p_offset) != (ssize_t)length)
		return refuse(error, EXIT_CANNOT_EXECUTE, "%s: truncated ELF file", path);
	if (access(name, F_OK) < 0)
		return refuse(error, EXIT_CANNOT_EXECUTE, "%s: its dynamic linker %s is missing",
			path, name);
	if (strstr(name, "/ld-musl"))
		return refuse(error, EXIT_USAGE,
			"%s is built for musl: the farmem preload library needs glibc programs",
			path);
	return 0;
}

static int check_elf(const char *path, int fd, const uint8_t *head, struct option_error *error)
{
	Elf64_Ehdr elf;

	memcpy(&elf, head, sizeof(elf));
	if (elf.e_ident[EI_CLASS] != ELFCLASS64)
		return refuse(error, EXIT_USAGE,
			"%s is a 32-bit program: the preload library is 64-bit and cannot reach it",
			path);
#if defined(__x86_64__)
	if (elf.e_machine != EM_X86_64)
#elif defined(__aarch64__)
	if (elf.e_machine != EM_AARCH64)
#else
	if (false)
#endif
		return refuse(error, EXIT_USAGE,
			"%s is built for another architecture: the preload library cannot reach it",
			path);
	if (elf.e_phentsize != sizeof(Elf64_Phdr))
		return refuse(error, EXIT_CANNOT_EXECUTE, "%s: malformed ELF file", path);
	for (unsigned i = 0; i < elf.e_phnum; i++) {
		Elf64_Phdr header;

		if (pread(fd, &header, sizeof(header), (off_t)(elf.e_phoff + i * sizeof(header))) !=
			sizeof(header))
			return refuse(error, EXIT_CANNOT_EXECUTE, "%s: truncated ELF file", path);
		if (header.p_type == PT_INTERP)
			return check_interpreter(path, fd, &header, error);
	}
	if (is_dynamic_linker(path))
		return 0;
	return refuse(error, EXIT_USAGE,
		"%s is statically linked: LD_PRELOAD cannot reach it; use a dynamically linked "
		"build",
		path);
}

/* Cuts "#! /path/interp arg" down to /path/interp, in place. NULL when there is none. */
static char *script_interpreter(char *head)
{
	char *start = head + 2;

	start += strspn(start, " \t");
	start[strcspn(start, " \t\n")] = '\0';
	return *start ? start : NULL;
}

/*
 * One step: 0 and *next empty when path is fine, 0 and *next set when an interpreter runs it
 * instead. next holds PATH_MAX bytes.
 */
static int check_one(const char *path, char *next, struct option_error *error)
{
	uint8_t head[HEAD_BYTES + 1] = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length;
	int rc = 0;

	next[0] = '\0';
	if (fd < 0)
		/* Executable but not readable: exec works, only our look does not. */
		return errno == EACCES ? 0
				       : refuse(error, EXIT_CANNOT_EXECUTE, "%s: %s", path,
						 strerror(errno));
	length = pread(fd, head, HEAD_BYTES, 0);
	if (length >= (ssize_t)sizeof(Elf64_Ehdr) && memcmp(head, ELFMAG, SELFMAG) == 0) {
		rc = check_privilege(path, fd, error);
		if (rc == 0)
			rc = check_elf(path, fd, head, error);
	} else if (length > 2 && head[0] == '#' && head[1] == '!') {
		const char *interpreter = script_interpreter((char *)head);

		if (interpreter)
			snprintf(next, PATH_MAX, "%s", interpreter);
		else
			rc = refuse(
				error, EXIT_CANNOT_EXECUTE, "%s: its #! line names nothing", path);
	} else if (length < 0 || memchr(head, '\0', (size_t)length)) {
		rc = refuse(error, EXIT_CANNOT_EXECUTE, "%s is not a program this machine can run",
			path);
	} else {
		snprintf(next, PATH_MAX, "/bin/sh"); /* as execvp does with a script without #! */
	}
	close(fd);
	return rc;
}

int program_check(const char *path, struct option_error *error)
{
	char current[PATH_MAX], next[PATH_MAX];

	snprintf(current, sizeof(current), "%s", path);
	for (int depth = 0; depth <= SCRIPT_DEPTH_MAX; depth++) {
		int rc = check_one(current, next, error);

		if (rc != 0 || next[0] == '\0')
			return rc;
		if (access(next, X_OK) < 0)
			return refuse(error, EXIT_CANNOT_EXECUTE, "%s: its interpreter %s: %s",
				current, next, strerror(errno));
		memcpy(current, next, sizeof(current));
	}
	return refuse(error, EXIT_CANNOT_EXECUTE, "%s: too many levels of #! interpreters", path);
}

/* 0 when path is a file this user may execute, else -errno. */
static int executable(const char *path)
{
	struct stat file;

	if (stat(path, &file) < 0)
		return -errno;
	if (S_ISDIR(file.st_mode))
		return -EISDIR;
	return access(path, X_OK) < 0 ? -errno : 0;
}

/* As execvp: the first hit wins, a hit that may not be executed is remembered. 0 or -errno. */
static int search_path(const char *name, char *path)
{
	const char *dirs = getenv("PATH");
	int result = -ENOENT;

	if (!dirs)
		dirs = "/bin:/usr/bin";
	for (const char *dir = dirs;; dir++) {
		int length = (int)strcspn(dir, ":");
		int written = length == 0 ? snprintf(path, PATH_MAX, "./%s", name)
					  : snprintf(path, PATH_MAX, "%.*s/%s", length, dir, name);
		int rc = written < PATH_MAX ? executable(path) : -ENAMETOOLONG;

		if (rc == 0)
			return 0;
		if (rc == -EACCES)
			result = -EACCES;
		dir += length;
		if (*dir == '\0')
			return result;
	}
}

int program_find(const char *name, struct program *program, struct option_error *error)
{
	int rc;

	if (name[0] == '\0')
		return refuse(error, EXIT_NOT_FOUND, "the program's name is empty");
	if (strchr(name, '/')) {
		if (strlen(name) >= sizeof(program->path))
			return refuse(error, EXIT_NOT_FOUND, "the program's name is too long");
		memcpy(program->path, name, strlen(name) + 1);
		rc = executable(name);
	} else {
		rc = search_path(name, program->path);
	}
	if (rc == -ENOENT || rc == -ENOTDIR)
		return refuse(error, EXIT_NOT_FOUND, "%s: no such program", name);
	if (rc != 0)
		return refuse(error, EXIT_CANNOT_EXECUTE, "%s: cannot be executed: %s", name,
			strerror(-rc));
	return program_check(program->path, error);
}
