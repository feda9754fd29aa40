#include <stddef.h>

/* What seccomp_export_bpf returns where the program went to filter_keep's file: not an
 * errno, so it is no failure of libseccomp's. */
#define FILTER_KEPT (-100000)

void filter_keep(int fd);
void filter_use(const void *bytes, size_t length);
