#include <errno.h>
#include <stddef.h>
#include <unistd.h>

#include "wrap.h"

int __real_seccomp_export_bpf(const void *ctx, int fd); /* libseccomp's own: ld(1), --wrap */

static int kept_fd = -1;    /* if set, programs are exported to this file instead */
static const void *program; /* if set, this program is exported instead */
static size_t size;

void filter_keep(int fd)
{
	kept_fd = fd;
}

void filter_use(const void *bytes, size_t length)
{
	program = bytes;
	size = length;
}

static int write_program(int fd)
{
	size_t done = 0;
	while (done < size) {
		ssize_t n = write(fd, (const char *)program + done, size - done);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			done += n;
	}
	return 0;
}

int __wrap_seccomp_export_bpf(const void *ctx, int fd)
{
	if (program != NULL)
		return write_program(fd);
	if (kept_fd < 0)
		return __real_seccomp_export_bpf(ctx, fd);
	int result = __real_seccomp_export_bpf(ctx, kept_fd);
	return result != 0 ? result : FILTER_KEPT;
}
