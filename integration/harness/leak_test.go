package harness_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// A container that was not removed must be reported in each way it shows, and be gone after Close.
func TestLeaksAreFoundAndCloseRemovesThem(t *testing.T) {
	forEachServer(t, func(t *testing.T, s harness.Server) {
		b := newBench(t, harness.DaemonConfig{Server: s})
		watch := b.watch()
		watch.Settle = 50 * time.Millisecond // they will not go
		before := snapshot(t, b)
		c := newContainer(t, b, harness.ContainerConfig{ID: "left", Args: []string{"sleep", "600"}})
		pid, _, err := c.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The start is answered before the runtime's init has become the program.
		if err := harness.Poll(t.Context(), 30*time.Second, "the program", func() (bool, error) {
			p, err := harness.ProcessByID(int(pid))
			return p.Comm == "sleep", err
		}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", c.RootFS+"/tmp", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}

		leaks, err := watch.Leaks(t.Context(), before)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(leaks, "\n")
		for _, want := range []string{"shim: ", "process in a test's cgroup: ", `"sleep" "600"`, "cgroup: ", cgroupParent + "/left", "mount: "} {
			if !strings.Contains(all, want) {
				t.Errorf("no %q among the leaks:\n%s", want, all)
			}
		}
		if s.Modern() && !strings.Contains(all, "socket: "+b.daemon.Dir) {
			t.Errorf("the shim's socket is not among the leaks:\n%s", all)
		}

		if err := b.daemon.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if p, err := harness.ProcessByID(int(pid)); err == nil && !p.Ended() {
			t.Errorf("still there after Close: %v", p)
		}
		noLeaks(t, b, before)
	})
}
