package hookexec

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// hybridMountpoint is where a machine with cgroup v1 mounts its v2 hierarchy (systemd's
// "hybrid" mode).
const hybridMountpoint = "/sys/fs/cgroup/unified"

// HybridCgroup returns the process's cgroup in the v2 hierarchy of a machine with cgroup
// v1. It is empty on other machines, and if the cgroup has a controller.
//
// A handler host is started in this cgroup (CLONE_INTO_CGROUP), which is cheap: when a
// process joins later, the kernel blocks all forks of the machine. The cgroup has no
// controller, so the host is not charged to the container.
func HybridCgroup(pid int) string {
	if cgroups.Mode() != cgroups.Hybrid {
		return ""
	}
	_, path, err := cgroups.ParseCgroupFileUnified(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return withoutControllers(filepath.Join(hybridMountpoint, path))
}

// withoutControllers returns the path of a cgroup that has no controllers, and an empty
// string for any other path.
func withoutControllers(path string) string {
	controllers, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil || len(bytes.TrimSpace(controllers)) > 0 {
		return ""
	}
	return path
}

// openCgroup returns -1 if the path is empty or cannot be opened. Then the host starts in
// the shim's cgroup.
func openCgroup(path string) int {
	fd, _ := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // -1 on error
	return fd
}
