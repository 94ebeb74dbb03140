/*
 * apps/farmem_program_test.c: which programs `farmem run` starts, and what it says of the others.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apps/farmem_cmd.h"
#include "apps/farmem_program.h"
#include "base/test.h"

#if defined(__x86_64__)
#define OWN_MACHINE EM_X86_64
#else
#define OWN_MACHINE EM_AARCH64
#endif

static char directory[] = "/tmp/farmem-program-XXXXXX";
static char path[512];

/* A file of the test's own directory; its path in `path`. */
static void make_file(const char *name, const void *bytes, size_t length, mode_t mode)
{
	static bool made;
	int fd;

	if (!made) {
		CHECK(mkdtemp(directory) != NULL);
		made = true;
	}
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	CHECK(fd >= 0);
	CHECK_EQ(write(fd, bytes, length), length);
	CHECK_EQ(fchmod(fd, mode), 0);
	close(fd);
}

static void make_script(const char *name, const char *text)
{
	make_file(name, text, strlen(text), 0755);
}

struct small_elf {
	Elf64_Ehdr head;
	Elf64_Phdr program;
	char interpreter[64];
};

static struct small_elf elf_make(uint32_t program_type)
{
	struct small_elf elf = {.interpreter = "/lib64/ld-linux-x86-64.so.2"};

	memcpy(elf.head.e_ident, ELFMAG, SELFMAG);
	elf.head.e_ident[EI_CLASS] = ELFCLASS64;
	elf.head.e_machine = OWN_MACHINE;
	elf.head.e_phoff = offsetof(struct small_elf, program);
	elf.head.e_phentsize = sizeof(Elf64_Phdr);
	elf.head.e_phnum = 1;
	elf.program.p_type = program_type;
	elf.program.p_offset = offsetof(struct small_elf, interpreter);
	elf.program.p_filesz = sizeof(elf.interpreter);
	snprintf(elf.interpreter, sizeof(elf.interpreter), "/bin/sh"); /* any file that exists */
	return elf;
}

static int find(const char *name, struct option_error *error)
{
	struct program program;

	error->text[0] = '\0';
	return program_find(name, &program, error);
}

TEST(a_program_on_the_path_is_found_where_execvp_would_find_it)
{
	struct option_error error;
	struct program program;

	CHECK_EQ(program_find("sh", &program, &error), 0);
	CHECK(program.path[0] == '/');
	CHECK_EQ(access(program.path, X_OK), 0);
}

TEST(a_name_that_is_nowhere_gives_127_and_names_it)
{
	struct option_error error;

	CHECK_EQ(find("no-such-program-here", &error), EXIT_NOT_FOUND);
	CHECK_CONTAINS(error.text, "no-such-program-here");
	CHECK_EQ(find("/no/such/file", &error), EXIT_NOT_FOUND);
	CHECK_EQ(find("", &error), EXIT_NOT_FOUND);
}

TEST(a_directory_or_a_file_without_the_x_bit_gives_126)
{
	struct option_error error;

	make_file("plain", "hello", 5, 0644);
	CHECK_EQ(find(path, &error), EXIT_CANNOT_EXECUTE);
	CHECK_CONTAINS(error.text, path);
	CHECK_EQ(find("/tmp/", &error), EXIT_CANNOT_EXECUTE);
}

TEST(an_elf_file_without_an_interpreter_is_told_static)
{
	struct small_elf elf = elf_make(PT_LOAD);
	struct option_error error;

	make_file("static", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "statically linked");
	CHECK_CONTAINS(error.text, path);
}

TEST(the_dynamic_linker_itself_is_no_static_program)
{
	struct small_elf elf = elf_make(PT_LOAD);
	struct option_error error;

	make_file("ld-linux-x86-64.so.2", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), 0);
}

TEST(a_dynamic_program_passes_unless_its_linker_is_missing_or_musl)
{
	struct small_elf elf = elf_make(PT_INTERP);
	struct option_error error;

	make_file("dynamic", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), 0);
	snprintf(elf.interpreter, sizeof(elf.interpreter), "/no/such/ld.so");
	make_file("dynamic", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), EXIT_CANNOT_EXECUTE);
	CHECK_CONTAINS(error.text, "/no/such/ld.so");
	snprintf(elf.interpreter, sizeof(elf.interpreter), "%.40s/ld-musl-x", directory);
	make_file("ld-musl-x", "x", 1, 0755);
	make_file("dynamic", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "musl");
}

TEST(programs_of_another_width_or_machine_are_refused)
{
	struct small_elf elf = elf_make(PT_INTERP);
	struct option_error error;

	elf.head.e_ident[EI_CLASS] = ELFCLASS32;
	make_file("narrow", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "32-bit");
	elf = elf_make(PT_INTERP);
	elf.head.e_machine = EM_S390;
	make_file("foreign", &elf, sizeof(elf), 0755);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "another architecture");
}

TEST(a_setuid_program_of_another_user_is_refused)
{
	struct small_elf elf = elf_make(PT_INTERP);
	struct option_error error;

	if (getuid() != 0)
		TEST_SKIP("needs root to give a file away");
	make_file("setuid", &elf, sizeof(elf), 0755);
	CHECK_EQ(chown(path, 1, 1), 0);
	CHECK_EQ(chmod(path, 04755), 0);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "setuid");
	CHECK_EQ(chmod(path, 02755), 0);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "setgid");
	/* Setuid to the user one already is changes nothing. */
	CHECK_EQ(chown(path, 0, 0), 0);
	CHECK_EQ(chmod(path, 04755), 0);
	CHECK_EQ(find(path, &error), 0);
}

TEST(a_script_is_judged_by_its_interpreter)
{
	struct small_elf elf = elf_make(PT_LOAD);
	struct option_error error;
	char text[600];

	make_script("good", "#!/bin/sh -e\nexit 0\n");
	CHECK_EQ(find(path, &error), 0);
	make_file("interpreter", &elf, sizeof(elf), 0755);
	snprintf(text, sizeof(text), "#! %s --flag\n", path);
	make_script("bad", text);
	CHECK_EQ(find(path, &error), EXIT_USAGE);
	CHECK_CONTAINS(error.text, "interpreter is statically linked");
	make_script("gone", "#!/no/such/interpreter\n");
	CHECK_EQ(find(path, &error), EXIT_CANNOT_EXECUTE);
	CHECK_CONTAINS(error.text, "/no/such/interpreter");
	make_script("nothing", "#!   \n");
	CHECK_EQ(find(path, &error), EXIT_CANNOT_EXECUTE);
}

TEST(a_script_that_runs_itself_ends_the_search)
{
	struct option_error error;
	char text[600];

	make_script("loop", "x");
	snprintf(text, sizeof(text), "#!%s\n", path);
	make_script("loop", text);
	CHECK_EQ(find(path, &error), EXIT_CANNOT_EXECUTE);
	CHECK_CONTAINS(error.text, "too many levels");
}

TEST(text_without_a_first_line_goes_to_sh_and_binary_rubbish_does_not)
{
	struct option_error error;

	make_script("text", "exit 0\n");
	CHECK_EQ(find(path, &error), 0);
	make_file("rubbish", "\x01\x02\0\x03rubbish", 11, 0755);
	CHECK_EQ(find(path, &error), EXIT_CANNOT_EXECUTE);
	make_file("truncated", ELFMAG "\2\1\1", 7, 0755);
	CHECK_EQ(find(path, &error),
		0); /* seven bytes, no NUL: sh gets to complain, as with execvp */
}

TEST(damaged_elf_headers_are_answered_with_a_line_never_a_crash)
{
	uint64_t seed = 7;

	for (unsigned round = 0; round < 2000; round++) {
		struct small_elf elf = elf_make(PT_INTERP);
		struct option_error error;
		int status;

		for (unsigned i = 0; i < 4; i++) {
			uint64_t draw = test_random(&seed);

			((uint8_t *)&elf)[SELFMAG + draw % (sizeof(elf) - SELFMAG)] =
				(uint8_t)(draw >> 32);
		}
		make_file("damaged", &elf, sizeof(elf), 0755);
		status = find(path, &error);
		CHECK(status == 0 || status == EXIT_USAGE || status == EXIT_CANNOT_EXECUTE);
		CHECK((status != 0) == (error.text[0] != '\0'));
	}
}

__attribute__((destructor)) static void remove_directory(void)
{
	char command[600];

	snprintf(command, sizeof(command), "rm -rf %s", directory);
	if (strstr(directory, "XXXXXX") == NULL && system(command) != 0)
		fprintf(stderr, "could not remove %s\n", directory);
}
