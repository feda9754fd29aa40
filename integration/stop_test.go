package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#stop-returns, docs/spec.md#stop-prestop: Kill returns while preStop runs, the signal comes once,
// after it, and preStop knows what is going on.
func TestPreStopDelaysTheSignal(t *testing.T) {
	on(t, targets, func(b *bench) {
		c := b.run(with{keyPreStop: shell(waiting + "env > /environment; echo preStop >> /signals")}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM) // it would block the test if it waited for preStop
		c.waitFor("begun")
		if state := c.state(); state.Status != task.Status_RUNNING {
			b.Errorf("state %s while preStop runs, want RUNNING", state.Status)
		}
		c.kill(syscall.SIGTERM) // joins
		c.kill(syscall.SIGINT)  // joins
		c.touch("go")
		c.wantExit(7)
		if got := c.read("signals"); got != "preStop\nTERM\n" {
			b.Errorf("signals %q, want preStop, then TERM once", got)
		}
		environment := c.read("environment")
		for _, want := range []string{"LIFECYCLE_HANDLER=preStop\n", "LIFECYCLE_CONTAINER_ID=" + c.ID + "\n", "LIFECYCLE_SIGNAL=SIGTERM\n", "LIFECYCLE_DEADLINE=20", "PATH=/bin\n"} {
			if !strings.Contains(environment, want) {
				b.Errorf("the handler's environment lacks %q:\n%s", want, environment)
			}
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#stop-failure: the signal is sent.
func TestPreStopFails(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		for _, handler := range []string{shell("exit 1"), "{timeoutSeconds: 1, " + shell("sleep 1000") + "}", "exec: {command: [/does/not/exist]}"} {
			c := b.run(with{keyPreStop: handler}, obedient)
			c.waitFor("ready")
			c.kill(syscall.SIGTERM)
			c.wantExit(7)
		}
	})
}

// docs/spec.md#stop-other-signal, and a signal after the stop's own.
func TestOtherSignalsPass(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c := b.run(with{keyPreStop: shell(waiting)}, forever)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		c.kill(syscall.SIGHUP)
		b.poll("HUP while preStop runs", func() bool { return c.exists("signals") && c.read("signals") == "HUP\n" })
		c.touch("go")
		b.poll("TERM after it", func() bool { return c.read("signals") == "HUP\nTERM\n" })
		c.kill(syscall.SIGTERM)
		b.poll("a further TERM", func() bool { return c.read("signals") == "HUP\nTERM\nTERM\n" })
	})
}

// docs/spec.md#stop-sigkill.
func TestKillDuringPreStop(t *testing.T) {
	on(t, targets, func(b *bench) {
		c := b.run(with{keyPreStop: shell(waiting)}, forever)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		c.kill(syscall.SIGKILL)
		c.wantExit(137)
		if c.exists("signals") {
			b.Errorf("signals %q, want none", c.read("signals"))
		}
	})
}

// docs/spec.md#grace-kill: with a grace period in the block the
// container is gone by then, having had its signal before.
func TestGracePeriod(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyLifecycle: "{preStop: {" + shell("trap '' TERM; sleep 60 & sleep 60") + "}, terminationGracePeriodSeconds: 2}"}, forever)
		c.waitFor("ready")
		begin := time.Now()
		c.kill(syscall.SIGTERM)
		c.wantExit(137)
		if took := time.Since(begin); took < time.Second {
			b.Errorf("killed after %s, before its grace period", took)
		}
		if got := c.read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want TERM once", got)
		}
	})
}

// docs/spec.md#grace-share: without one in the block the default applies, and no SIGKILL follows.
func TestDefaultGracePeriod(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c := b.run(with{keyPreStop: shell("sleep 60")}, obedient, withOptions(b, `DefaultGracePeriod = "1s"`))
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
	})
}

// docs/spec.md#stop-exit: the page's own
// `nginx -s quit` does that. The block names the signal.
func TestPreStopEndsTheContainer(t *testing.T) {
	on(t, targets, func(b *bench) {
		args := []string{"/bin/sh", "-c", `trap 'echo QUIT >> /signals; exit 0' QUIT; trap 'echo TERM >> /signals; exit 1' TERM; touch /ready; sleep 1000 & while :; do wait; done`}
		c := b.run(with{keyLifecycle: "{preStop: {" + shell("kill -QUIT 1; while :; do sleep 1; done") + "}, stopSignal: SIGQUIT}"}, args)
		c.waitFor("ready")
		c.kill(syscall.SIGQUIT)
		c.wantExit(0)
		if got := c.read("signals"); got != "QUIT\n" {
			b.Errorf("signals %q, want the handler's QUIT alone", got)
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#stop-signal: the stop signals outside CRI are docker's, ctr's, systemd's, and the
// block's own.
func TestStopSignals(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		const rtMinPlus3 = syscall.Signal(34 + 3)
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, rtMinPlus3, syscall.SIGUSR2} {
			args := []string{"/bin/sh", "-c", `trap 'exit 7' TERM INT USR2 37; touch /ready; sleep 1000 & while :; do wait; done`}
			c := b.run(with{keyLifecycle: "{stopSignal: SIGUSR2, preStop: {" + shell("echo $LIFECYCLE_SIGNAL > /stopped") + "}}"}, args)
			c.waitFor("ready")
			c.kill(signal)
			c.wantExit(7)
			want := map[syscall.Signal]string{syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT", rtMinPlus3: "SIGRTMIN+3", syscall.SIGUSR2: "SIGUSR2"}[signal]
			if got := c.read("stopped"); got != want+"\n" {
				b.Errorf("preStop was told %q, want %s", got, want)
			}
		}
	})
}

// docs/spec.md#stop-signal: SIGQUIT by itself asks a JVM for a thread dump.
func TestQuitIsNoStopSignalByItself(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		args := []string{"/bin/sh", "-c", `trap 'echo QUIT >> /signals' QUIT; touch /ready; sleep 1000 & while :; do wait; done`}
		c := b.run(with{keyPreStop: shell("touch /stopped")}, args)
		c.waitFor("ready")
		c.kill(syscall.SIGQUIT)
		c.waitFor("signals")
		if c.exists("stopped") {
			b.Error("preStop has run")
		}
	})
}

// docs/spec.md#stop-completed.
func TestCompletedContainerHasNoPreStop(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyPreStop: shell("touch /stopped")}, []string{"/bin/sh", "-c", "exit 4"})
		c.wantExit(4)
		if _, err := c.Kill(b.Context(), syscall.SIGTERM); !errdefs.IsNotFound(err) {
			b.Errorf("a stop of an exited container: %v, want NotFound as under the stock shim", err)
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		if c.exists("stopped") {
			b.Error("preStop has run")
		}
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#stop-paused.
func TestPausedContainer(t *testing.T) {
	on(t, targets, func(b *bench) {
		c := b.run(with{keyPreStop: shell("touch /stopped")}, obedient)
		c.waitFor("ready")
		b.pause(c)
		c.kill(syscall.SIGTERM)
		b.poll("the signal to be sent", func() bool { return strings.Contains(b.daemon.Log()[b.logged:], "the container is paused") })
		b.resume(c)
		c.wantExit(7)
		if c.exists("stopped") {
			b.Error("preStop has run")
		}
	})
}

// shortly is a time limit that lets a handler begin, and be paused, before it is over.
var shortly = fmt.Sprintf("timeoutSeconds: %.0f, ", harness.Patience(5*time.Second).Seconds())

// docs/spec.md#pause-handler: a forced end thaws to kill, and the container stays paused.
func TestPauseDuringPreStop(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyPreStop: "{" + shortly + shell(waiting) + "}"}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		b.pause(c)
		before := len(b.pids(c))
		b.poll("the frozen handler to be gone", func() bool { return len(b.pids(c)) < before })
		if state := c.state(); state.Status != task.Status_PAUSED {
			b.Errorf("state %s, want PAUSED", state.Status)
		}
		b.resume(c)
		c.wantExit(7)
	})
}

// docs/spec.md#delete of a running container.
func TestDeleteOfRunningContainer(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c := b.run(with{keyPreStop: shell(waiting)}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		if _, _, err := c.Delete(b.Context()); err == nil {
			b.Error("a running container is deleted")
		}
		c.touch("go")
		c.wantExit(7)
	})
}

// docs/spec.md#stop-restart: the stop goes on, a repeated
// SIGTERM is joined.
func TestDaemonRestartDuringPreStop(t *testing.T) {
	onOwn(t, targets, func(b *bench) {
		for _, stop := range []func() error{b.daemon.Terminate, b.daemon.Kill} {
			c := b.run(with{keyLifecycle: "{preStop: {" + shell(waiting) + "}, terminationGracePeriodSeconds: 100}"}, obedient)
			c.waitFor("ready")
			c.kill(syscall.SIGTERM)
			c.waitFor("begun")
			if err := stop(); err != nil {
				b.Fatal(err)
			}
			if err := b.daemon.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.kill(syscall.SIGTERM)
			c.touch("go")
			c.wantExit(7)
			if got := c.read("signals"); got != "TERM\n" {
				b.Errorf("signals %q, want TERM once", got)
			}
			if _, _, err := c.Delete(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// docs/spec.md#shim-dies: nothing survives it.
func TestShimDies(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		b.watch.ShimsKilled = true // with -debug a shim that is killed leaves its profiler's socket, under stock too
		c := b.run(with{keyPreStop: shell("touch /begun; sleep 1000")}, forever, hostPID)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		shims, err := b.daemon.Shims()
		if err != nil || len(shims) != 1 {
			b.Fatalf("shims %v, %v", shims, err)
		}
		if err := syscall.Kill(shims[0].PID, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		b.poll("containerd to take the task away", func() bool {
			_, err := c.State(b.Context())
			return errdefs.IsNotFound(err)
		})
	})
}
