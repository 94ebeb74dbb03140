/*
 * rpc/urpc_fiber.c: see rpc/urpc_fiber.h.
 *
 * The switch saves what the x86-64 calling convention says a function must preserve: rbx, rbp,
 * r12-r15, the control words of SSE and x87, and the stack pointer; the rest is the caller's
 * business, as at any call.
 */
#include "rpc/urpc_fiber.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "base/mem.h"

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FIBER_TSAN 1
#endif
#endif
#ifdef FIBER_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FIBER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if !defined(__x86_64__) || defined(URPC_FIBER_UCONTEXT)
#define FIBER_UCONTEXT 1
#include <ucontext.h>
#endif

#if defined(FIBER_ASAN) || defined(FIBER_TSAN)
#define STACK_FACTOR 4 /* instrumented frames are larger */
#else
#define STACK_FACTOR 1
#endif

struct urpc_fiber {
	struct urpc_fibers *pool;
	struct urpc_fiber *next_free;
	void (*run)(void *argument);
	void *argument;
	void *stack;
	size_t stack_bytes;
	void *at; /* stack pointer (or context) while it does not run */
	void *fake_stack, *tsan;
	bool ended;
#ifdef FIBER_UCONTEXT
	ucontext_t context;
#endif
};

/* --- the switch itself --- */

#ifdef FIBER_UCONTEXT

static void fiber_switch(void **from, void *to)
{
	swapcontext(*from, to);
}

#else

void urpc_fiber_switch(void **from, void *to);
void urpc_fiber_begin(void);

/* clang-format off */
__asm__(".text\n"
	".p2align 4\n"
	".globl urpc_fiber_switch\n"
	".hidden urpc_fiber_switch\n"
	".type urpc_fiber_switch, @function\n"
	"urpc_fiber_switch:\n"
	"	endbr64\n"
	"	pushq %rbp\n"
	"	pushq %rbx\n"
	"	pushq %r12\n"
	"	pushq %r13\n"
	"	pushq %r14\n"
	"	pushq %r15\n"
	"	subq $8, %rsp\n"
	"	stmxcsr (%rsp)\n"
	"	fnstcw 4(%rsp)\n"
	"	movq %rsp, (%rdi)\n"
	"	movq %rsi, %rsp\n"
	"	ldmxcsr (%rsp)\n"
	"	fldcw 4(%rsp)\n"
	"	addq $8, %rsp\n"
	"	popq %r15\n"
	"	popq %r14\n"
	"	popq %r13\n"
	"	popq %r12\n"
	"	popq %rbx\n"
	"	popq %rbp\n"
	"	ret\n"
	".size urpc_fiber_switch, .-urpc_fiber_switch\n"
	/* The first return of a new fiber comes here: r12 the function, r13 its argument. */
	".p2align 4\n"
	".globl urpc_fiber_begin\n"
	".hidden urpc_fiber_begin\n"
	".type urpc_fiber_begin, @function\n"
	"urpc_fiber_begin:\n"
	"	.cfi_startproc\n"
	"	.cfi_undefined rip\n" /* backtraces end here */
	"	endbr64\n"
	"	movq %r13, %rdi\n"
	"	callq *%r12\n"
	"	ud2\n"
	"	.cfi_endproc\n"
	".size urpc_fiber_begin, .-urpc_fiber_begin\n");
/* clang-format on */

static void fiber_switch(void **from, void *to)
{
	urpc_fiber_switch(from, to);
}

#endif

/*
 * --- what the sanitizers want to know ---
 *
 * Inlined: ThreadSanitizer's notes of a function's entry and exit must both go to the same fiber.
 */
#define FIBER_INLINE __attribute__((always_inline)) static inline

FIBER_INLINE void fiber_leaving_home(
	struct urpc_fibers *pool, struct urpc_fiber *fiber, void **fake)
{
#ifdef FIBER_TSAN
	pool->home_tsan = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(fiber->tsan, 0);
#endif
#ifdef FIBER_ASAN
	__sanitizer_start_switch_fiber(fake, fiber->stack, fiber->stack_bytes);
#endif
	(void)pool;
	(void)fiber;
	(void)fake;
}

FIBER_INLINE void fiber_back_home(void *fake)
{
#ifdef FIBER_ASAN
	__sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
	(void)fake;
}

FIBER_INLINE void fiber_arrived(struct urpc_fibers *pool, struct urpc_fiber *fiber)
{
#ifdef FIBER_ASAN
	__sanitizer_finish_switch_fiber(
		fiber->fake_stack, &pool->home_stack, &pool->home_stack_bytes);
#endif
	(void)pool;
	(void)fiber;
}

FIBER_INLINE void fiber_leaving(struct urpc_fibers *pool, struct urpc_fiber *fiber)
{
#ifdef FIBER_TSAN
	__tsan_switch_to_fiber(pool->home_tsan, 0);
#endif
#ifdef FIBER_ASAN
	__sanitizer_start_switch_fiber(
		&fiber->fake_stack, pool->home_stack, pool->home_stack_bytes);
#endif
	(void)pool;
	(void)fiber;
}

/* --- a fiber's life: it runs one function after another, and never returns from here --- */

static void fiber_main(struct urpc_fiber *fiber)
{
	struct urpc_fibers *pool = fiber->pool;

	fiber_arrived(pool, fiber);
	for (;;) {
		fiber->run(fiber->argument);
		fiber->ended = true;
		urpc_fibers_leave(pool);
	}
}

#ifdef FIBER_UCONTEXT

static void fiber_main_split(unsigned high, unsigned low)
{
	fiber_main((struct urpc_fiber *)(((uintptr_t)high << 16 << 16) | low));
}

static void fiber_prepare(struct urpc_fiber *fiber)
{
	uintptr_t self = (uintptr_t)fiber;

	FM_ASSERT_EQ(getcontext(&fiber->context), 0);
	fiber->context.uc_stack.ss_sp = fiber->stack;
	fiber->context.uc_stack.ss_size = fiber->stack_bytes;
	fiber->context.uc_link = NULL;
	makecontext(&fiber->context, (void (*)(void))fiber_main_split, 2,
		(unsigned)(self >> 16 >> 16), (unsigned)self);
	fiber->at = &fiber->context;
}

#else

static void fiber_prepare(struct urpc_fiber *fiber)
{
	uint32_t control[2] = {0x1f80, 0x037f}; /* MXCSR and x87 word of a fresh thread */
	uint64_t frame[9] = {0};

	/* as urpc_fiber_switch pops them: control words, r15, r14, r13, r12, rbx, rbp, return */
	memcpy(&frame[0], control, sizeof(control));
	frame[3] = (uint64_t)(uintptr_t)fiber;
	frame[4] = (uint64_t)(uintptr_t)fiber_main;
	frame[7] = (uint64_t)(uintptr_t)urpc_fiber_begin;
	fiber->at = (uint8_t *)fiber->stack + fiber->stack_bytes - sizeof(frame) - 8;
	memcpy(fiber->at, frame, sizeof(frame));
}

#endif

/* --- the pool --- */

static void fiber_give_back(struct urpc_fibers *pool, struct urpc_fiber *fiber)
{
	fiber->next_free = pool->free;
	pool->free = fiber;
	pool->free_count++;
}

int urpc_fibers_open(struct urpc_fibers *pool, unsigned count, size_t stack_bytes)
{
	size_t each = FM_ALIGN_UP(stack_bytes * STACK_FACTOR, FM_PAGE_SIZE) + FM_PAGE_SIZE;

	*pool = (struct urpc_fibers){.count = count, .memory_bytes = count * each};
	pool->fibers = calloc(count, sizeof(*pool->fibers));
	pool->memory = mem_map(pool->memory_bytes);
	if (pool->fibers == NULL || pool->memory == NULL) {
		urpc_fibers_close(pool);
		return -ENOMEM;
	}
	for (unsigned i = count; i-- > 0;) {
		struct urpc_fiber *fiber = &pool->fibers[i];
		uint8_t *guard = (uint8_t *)pool->memory + i * each;

		if (mprotect(guard, FM_PAGE_SIZE, PROT_NONE) != 0) {
			urpc_fibers_close(pool);
			return -ENOMEM;
		}
		fiber->pool = pool;
		fiber->stack = guard + FM_PAGE_SIZE;
		fiber->stack_bytes = each - FM_PAGE_SIZE;
#ifdef FIBER_TSAN
		fiber->tsan = __tsan_create_fiber(0);
#endif
		fiber_prepare(fiber);
		fiber_give_back(pool, fiber);
	}
	return 0;
}

void urpc_fibers_close(struct urpc_fibers *pool)
{
#ifdef FIBER_TSAN
	for (unsigned i = 0; pool->fibers != NULL && i < pool->count; i++)
		if (pool->fibers[i].tsan != NULL)
			__tsan_destroy_fiber(pool->fibers[i].tsan);
#endif
	mem_unmap(pool->memory, pool->memory_bytes);
	free(pool->fibers);
	*pool = (struct urpc_fibers){0};
}

struct urpc_fiber *urpc_fibers_take(
	struct urpc_fibers *pool, void (*run)(void *argument), void *argument)
{
	struct urpc_fiber *fiber = pool->free;

	if (fiber == NULL)
		return NULL;
	pool->free = fiber->next_free;
	pool->free_count--;
	fiber->run = run;
	fiber->argument = argument;
	fiber->ended = false;
	return fiber;
}

bool urpc_fibers_run(struct urpc_fibers *pool, struct urpc_fiber *fiber)
{
	void *fake = NULL;
#ifdef FIBER_UCONTEXT
	ucontext_t home;

	pool->home = &home;
#endif
	FM_ASSERT(pool->running == NULL);
	pool->running = fiber;
	fiber_leaving_home(pool, fiber, &fake);
	fiber_switch(&pool->home, fiber->at);
	fiber_back_home(fake);
	pool->running = NULL;
	if (fiber->ended)
		fiber_give_back(pool, fiber);
	return fiber->ended;
}

void urpc_fibers_leave(struct urpc_fibers *pool)
{
	struct urpc_fiber *fiber = pool->running;

	FM_ASSERT(fiber != NULL);
	fiber_leaving(pool, fiber);
	fiber_switch(&fiber->at, pool->home);
	fiber_arrived(pool, fiber);
}
