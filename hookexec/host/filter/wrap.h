#include <stddef.h>

/* seccomp_export_bpf returns this after it wrote the program to filter_keep's file. It is
 * not an errno, so it differs from any error of libseccomp. */
#define FILTER_KEPT (-100000)

void filter_keep(int fd);
void filter_use(const void *bytes, size_t length);
