package faults

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestShimKilledWhileRuntimeHangs is two faults at once: the shim is killed while the runtime, which has made onExit's container,
// hangs, for longer than containerd's removal of what the shim served takes.
func TestShimKilledWhileRuntimeHangs(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		t.Run("both "+runtime, func(t *testing.T) {
			t.Parallel()
			w, err := sharedWorld(runtime)
			if err != nil {
				t.Fatal(err)
			}
			c := newCell(t, w, &phase{name: "OnExit, being made", handlers: allHandlers}, runtime)
			c.make()
			c.running()
			c.hold(c.beside("hold-after-create"))
			c.must(unix.Kill(c.init(), unix.SIGUSR1))
			c.poll("the runtime to have made it", c.beside("at-hold-after-create").exists)
			shims := c.shims()
			if len(shims) != 1 {
				c.Fatalf("shims %v, want one", shims)
			}
			c.must(unix.Kill(shims[0].PID, unix.SIGKILL))
			c.poll("all that containerd knows of to be taken away", func() bool { return c.gone() && !file(c.bundle).exists() })
			c.letGo()
			c.finishLost()
		})
	}
}
