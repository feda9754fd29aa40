package task

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// parked waits for the process that is to become the container's first handler, and
// waits inside it with what it has to say (docs/understand/decisions.md).
func parked(c *bed.Container, init uint32) harness.Process {
	c.B.Helper()
	var found []harness.Process
	c.B.Poll("a handler that waits for the start", func() bool {
		found = c.B.Processes(c, func(p harness.Process) bool {
			call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", p.PID))
			return err == nil && p.PID != int(init) && strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_SENDMSG)+" ")
		})
		return len(found) == 1
	})
	return found[0]
}

// waitGone waits until a process is gone, or a zombie.
func waitGone(b *bed.Bench, process harness.Process) {
	b.Helper()
	b.Poll("the end of "+process.String(), func() bool {
		p, err := harness.ProcessByID(process.PID)
		return err != nil || p.Ended()
	})
}

// The first handler of a start is begun while the container waits for its start, and
// its program runs not a moment before it is due.
func TestFirstHandlerIsBegunEarly(t *testing.T) {
	for _, key := range []string{bed.KeyPreStart, bed.KeyPostStart} {
		t.Run(key, func(t *testing.T) {
			bed.On(t, bed.Targets, func(b *bed.Bench) {
				c := b.NewContainer(bed.Annotations{key: bed.Shell(`echo "$LIFECYCLE_HANDLER" >> /ran`)}, bed.Forever)
				init, err := c.Create(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				parked := parked(c, init)
				if c.Exists("ran") {
					b.Error("the handler has run before the start")
				}
				if _, _, err := c.Start(b.Context()); err != nil {
					b.Fatal(err)
				}
				if got := c.Read("ran"); got != strings.TrimPrefix(key, "lifecycle-shim.io/")+"\n" {
					b.Errorf("ran: %q", got)
				}
				waitGone(b, parked)
				c.End(137)
			})
		})
	}
}

// What has been begun early may die: the handler is begun again when it is due.
func TestBegunHandlerDies(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("echo ran >> /ran")}, bed.Forever)
		init, err := c.Create(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		parked := parked(c, init)
		host, err := harness.ProcessByID(parked.PPID)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Kill(parked.PID, unix.SIGKILL); err != nil {
			b.Fatal(err)
		}
		waitGone(b, host)
		if _, _, err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if got := c.Read("ran"); got != "ran\n" {
			b.Errorf("ran: %q, want once", got)
		}
	})
}

// A container that is killed before its start takes along what has been begun in it,
// in the host's pid namespace too, and where the handler host hangs: what it does not
// reap would hold back the end of the container's own pid namespace.
func TestContainerEndsBeforeItsBegunHandlerIsDue(t *testing.T) {
	private := func(*harness.ContainerConfig) {}
	for name, test := range map[string]struct {
		edit  func(*harness.ContainerConfig)
		hangs bool
	}{
		"private": {edit: private}, "host": {edit: bed.HostPID}, "hung": {edit: private, hangs: true},
	} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("echo ran >> /ran")}, bed.Forever, test.edit)
				init, err := c.Create(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				parked := parked(c, init)
				if test.hangs {
					if err := unix.Kill(parked.PPID, unix.SIGSTOP); err != nil {
						b.Fatal(err)
					}
				}
				c.Signal(syscall.SIGKILL)
				c.WantExit(137)
				waitGone(b, parked)
				if _, _, err := c.Delete(b.Context()); err != nil {
					b.Fatal(err)
				}
				if c.Exists("ran") {
					b.Error("the handler has run")
				}
			})
		})
	}
}
