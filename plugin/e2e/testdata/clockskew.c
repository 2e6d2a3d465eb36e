/*
 * A library to be preloaded into a test's process: it moves the wall clock that
 * this process sees by MPC_TEST_CLOCK_SKEW seconds, and no other clock.
 *
 * Programs in Go ask the kernel's vDSO (vdso(7)) for the time and not the C
 * library, so that replacing clock_gettime(2), as libfaketime does, reaches
 * nothing. Before the program's first instruction this library writes a jump
 * over the beginning of the vDSO's own function, in this process's copy of it.
 *
 * x86-64 only: the jump is machine code.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int64_t skew; /* seconds */

/* On whatever stack Go calls it: no thread-local storage, no errno. */
static long shifted(long clock, struct timespec *out)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(SYS_clock_gettime), "D"(clock), "S"(out) : "rcx", "r11", "memory");
	if (result == 0 && clock == CLOCK_REALTIME)
		out->tv_sec += skew;
	return result;
}

__attribute__((constructor)) static void install(void)
{
	const char *text = getenv("MPC_TEST_CLOCK_SKEW");
	if (text == NULL)
		return;
	skew = strtoll(text, NULL, 10);
	void *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	unsigned char *entry = vdso ? dlsym(vdso, "__vdso_clock_gettime") : NULL;
	if (entry == NULL)
		_exit(97); /* a test must not take the real clock for the other one */
	/* movabs $shifted, %rax; jmp *%rax */
	unsigned char jump[12] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0};
	uint64_t target = (uint64_t)(uintptr_t)&shifted;
	memcpy(jump + 2, &target, sizeof target);
	uintptr_t page = (uintptr_t)entry & ~(uintptr_t)4095;
	if (mprotect((void *)page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC) != 0 &&
	    mprotect((void *)page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
		_exit(98);
	memcpy(entry, jump, sizeof jump);
}
