package hookexec

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// newCgroup creates a cgroup below parent, which the caller removes. Its name does not contain this process's pid: tests in
// pid namespaces, such as those of mutants, have equal pids.
func newCgroup(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "lcs-hookexec-test-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestCgroups: a host starts in the named cgroup if that exists.
func TestOpenCgroup(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none"), "/dev/null"} {
		if fd := openCgroup(path); fd != -1 {
			t.Errorf("%q was opened", path)
		}
	}
	fd := openCgroup("/")
	if fd < 0 {
		t.Fatal("a directory was not opened")
	}
	defer unix.Close(fd)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("it is inheritable: %#x, %v", flags, err)
	}
}

// TestHostInACgroup: a host is in the cgroup of the v2 hierarchy from its first instruction.
func TestHostInACgroup(t *testing.T) {
	mount := hybridMountpoint
	if cgroups.Mode() == cgroups.Unified {
		mount = cgroupMount
	}
	dir := newCgroup(t, mount)
	defer func() { waitFor(t, func() bool { return os.Remove(dir) == nil }) }()
	seen := filepath.Join(t.TempDir(), "seen")
	host, monitor := scriptHost(t, "cat /proc/self/cgroup > "+seen+"; exit 1")
	before := openFDs(t)
	_ = (&Exec{Host: host, Cgroup: dir, Progress: &Progress{}}).Attempt(t.Context())
	data, err := os.ReadFile(seen)
	if err != nil || !strings.Contains(string(data), "0::/"+filepath.Base(dir)+"\n") {
		t.Errorf("it was in %q, %v", data, err)
	}
	nothingIsLeft(t, monitor, before)
	if cgroups.Mode() == cgroups.Hybrid {
		cmd, own := sleeping(t)
		defer own.close()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(own.pid)), 0); err != nil {
			t.Fatal(err)
		}
		if got := HybridCgroup(own.pid); got != dir {
			t.Errorf("the cgroup is %q, want %q", got, dir)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if got := HybridCgroup(own.pid); got != "" {
			t.Errorf("the cgroup of no process is %q", got)
		}
	}
}

// TestWithoutControllers: a controller would charge the host to the container.
func TestWithoutControllers(t *testing.T) {
	dir := t.TempDir()
	if got := withoutControllers(dir); got != "" {
		t.Errorf("a cgroup that does not exist: %q", got)
	}
	for controllers, want := range map[string]string{"": dir, "\n": dir, "pids\n": "", "cpu memory\n": ""} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte(controllers), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := withoutControllers(dir); got != want {
			t.Errorf("%q: got %q, want %q", controllers, got, want)
		}
	}
}
