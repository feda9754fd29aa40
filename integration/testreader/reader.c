/*
 * An entrypoint whose first instructions read what preStart has written: no library, no loader, nothing that takes its time. Its exit
 * status is the file's first byte, 99 where there is no file.
 */
#if defined(__x86_64__)
enum { OPENAT = 257, READ = 0, EXIT = 60 };
static long call(long number, long first, long second, long third, long fourth) {
	long result;
	register long r10 __asm__("r10") = fourth;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(first), "S"(second), "d"(third), "r"(r10) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum { OPENAT = 56, READ = 63, EXIT = 93 };
static long call(long number, long first, long second, long third, long fourth) {
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = first;
	register long x1 __asm__("x1") = second;
	register long x2 __asm__("x2") = third;
	register long x3 __asm__("x3") = fourth;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#endif

void _start(void) {
	unsigned char byte = 99;
	const long here = -100; /* AT_FDCWD */
	long file = call(OPENAT, here, (long)"/prestarted", 0, 0);
	if (file >= 0) call(READ, file, (long)&byte, 1, 0);
	call(EXIT, byte, 0, 0, 0);
}
