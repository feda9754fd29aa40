package hookexec

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// hybridMountpoint is where a machine with cgroup v1 has its v2 hierarchy (systemd's
// "hybrid" mode).
const hybridMountpoint = "/sys/fs/cgroup/unified"

// HybridCgroup is the cgroup that a process is in on the v2 hierarchy of a machine
// with cgroup v1; empty where there is none, or where a controller counts in it.
//
// A handler host is started in it, which is the cheap way in (CLONE_INTO_CGROUP): a
// process that enters later makes the kernel stop all forks of the machine. Without a
// controller it costs the container nothing that the host is in it too.
func HybridCgroup(pid int) string {
	if cgroups.Mode() != cgroups.Hybrid {
		return ""
	}
	_, path, err := cgroups.ParseCgroupFileUnified(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	path = filepath.Join(hybridMountpoint, path)
	controllers, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil || len(bytes.TrimSpace(controllers)) > 0 {
		return ""
	}
	return path
}

// openCgroup returns -1 where there is none to start in; the host does without.
func openCgroup(path string) int {
	if path == "" {
		return -1
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}
