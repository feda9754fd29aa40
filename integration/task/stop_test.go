package task

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// docs/spec.md#stop-returns, docs/spec.md#stop-prestop: Kill returns while preStop runs, the signal comes once,
// after it, and preStop knows what is going on.
func TestPreStopDelaysTheSignal(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell(bed.WaitForGo + "env > /environment; echo preStop >> /signals")}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM) // it would block the test if it waited for preStop
		c.WaitFor("begun")
		if state := c.MustState(); state.Status != task.Status_RUNNING {
			b.Errorf("state %s while preStop runs, want RUNNING", state.Status)
		}
		c.Signal(syscall.SIGTERM) // joins
		c.Signal(syscall.SIGINT)  // joins
		c.Touch("go")
		c.WantExit(7)
		if got := c.Read("signals"); got != "preStop\nTERM\n" {
			b.Errorf("signals %q, want preStop, then TERM once", got)
		}
		environment := c.Read("environment")
		for _, want := range []string{"LIFECYCLE_HANDLER=preStop\n", "LIFECYCLE_CONTAINER_ID=" + c.ID + "\n", "LIFECYCLE_SIGNAL=SIGTERM\n", "LIFECYCLE_DEADLINE=20", "PATH=/bin\n"} {
			if !strings.Contains(environment, want) {
				b.Errorf("the handler's environment lacks %q:\n%s", want, environment)
			}
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#stop-failure: the signal is sent.
func TestPreStopFails(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for _, handler := range []string{bed.Shell("exit 1"), "{timeoutSeconds: 1, " + bed.Shell("sleep 1000") + "}", "exec: {command: [/does/not/exist]}"} {
			c := b.Start(bed.Annotations{bed.KeyPreStop: handler}, bed.Obedient)
			c.WaitFor("ready")
			c.Signal(syscall.SIGTERM)
			c.WantExit(7)
		}
	})
}

// docs/spec.md#stop-other-signal, and a signal after the stop's own.
func TestOtherSignalsPass(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell(bed.WaitForGo)}, bed.Forever)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		c.Signal(syscall.SIGHUP)
		b.Poll("HUP while preStop runs", func() bool { return c.Exists("signals") && c.Read("signals") == "HUP\n" })
		c.Touch("go")
		b.Poll("TERM after it", func() bool { return c.Read("signals") == "HUP\nTERM\n" })
		c.Signal(syscall.SIGTERM)
		b.Poll("a further TERM", func() bool { return c.Read("signals") == "HUP\nTERM\nTERM\n" })
	})
}

// docs/spec.md#stop-sigkill.
func TestKillDuringPreStop(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell(bed.WaitForGo)}, bed.Forever)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		c.Signal(syscall.SIGKILL)
		c.WantExit(137)
		if c.Exists("signals") {
			b.Errorf("signals %q, want none", c.Read("signals"))
		}
	})
}

// docs/spec.md#grace-kill: with a grace period in the block the
// container is gone by then, having had its signal before.
func TestGracePeriod(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("trap '' TERM; sleep 60 & sleep 60") + "}, terminationGracePeriodSeconds: 2}"}, bed.Forever)
		c.WaitFor("ready")
		begin := time.Now()
		c.Signal(syscall.SIGTERM)
		c.WantExit(137)
		if took := time.Since(begin); took < time.Second {
			b.Errorf("killed after %s, before its grace period", took)
		}
		if got := c.Read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want TERM once", got)
		}
	})
}

// docs/spec.md#grace-share: without one in the block the default applies, and no SIGKILL follows.
func TestDefaultGracePeriod(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("sleep 60")}, bed.Obedient, bed.WithOptions(b, `DefaultGracePeriod = "1s"`))
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
	})
}

// docs/spec.md#stop-exit: the page's own
// `nginx -s quit` does that. The block names the signal.
func TestPreStopEndsTheContainer(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		args := []string{"/bin/sh", "-c", `trap 'echo QUIT >> /signals; exit 0' QUIT; trap 'echo TERM >> /signals; exit 1' TERM; touch /ready; sleep 1000 & while :; do wait; done`}
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("kill -QUIT 1; while :; do sleep 1; done") + "}, stopSignal: SIGQUIT}"}, args)
		c.WaitFor("ready")
		c.Signal(syscall.SIGQUIT)
		c.WantExit(0)
		if got := c.Read("signals"); got != "QUIT\n" {
			b.Errorf("signals %q, want the handler's QUIT alone", got)
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#stop-signal: the stop signals outside CRI are docker's, ctr's, systemd's, and the
// block's own.
func TestStopSignals(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		const rtMinPlus3 = syscall.Signal(34 + 3)
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, rtMinPlus3, syscall.SIGUSR2} {
			args := []string{"/bin/sh", "-c", `trap 'exit 7' TERM INT USR2 37; touch /ready; sleep 1000 & while :; do wait; done`}
			c := b.Start(bed.Annotations{bed.KeyLifecycle: "{stopSignal: SIGUSR2, preStop: {" + bed.Shell("echo $LIFECYCLE_SIGNAL > /stopped") + "}}"}, args)
			c.WaitFor("ready")
			c.Signal(signal)
			c.WantExit(7)
			want := map[syscall.Signal]string{syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT", rtMinPlus3: "SIGRTMIN+3", syscall.SIGUSR2: "SIGUSR2"}[signal]
			if got := c.Read("stopped"); got != want+"\n" {
				b.Errorf("preStop got %q, want %s", got, want)
			}
		}
	})
}

// docs/spec.md#stop-signal: SIGQUIT by itself asks a JVM for a thread dump.
func TestQuitIsNoStopSignalByItself(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		args := []string{"/bin/sh", "-c", `trap 'echo QUIT >> /signals' QUIT; touch /ready; sleep 1000 & while :; do wait; done`}
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("touch /stopped")}, args)
		c.WaitFor("ready")
		c.Signal(syscall.SIGQUIT)
		c.WaitFor("signals")
		if c.Exists("stopped") {
			b.Error("preStop has run")
		}
	})
}

// docs/spec.md#stop-completed.
func TestCompletedContainerHasNoPreStop(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("touch /stopped")}, []string{"/bin/sh", "-c", "exit 4"})
		c.WantExit(4)
		if _, err := c.Kill(b.Context(), syscall.SIGTERM); !errdefs.IsNotFound(err) {
			b.Errorf("a stop of an exited container: %v, want NotFound as under the stock shim", err)
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		if c.Exists("stopped") {
			b.Error("preStop has run")
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#stop-paused.
func TestPausedContainer(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("touch /stopped")}, bed.Obedient)
		c.WaitFor("ready")
		b.Pause(c)
		c.Signal(syscall.SIGTERM)
		b.Poll("the signal to be sent", func() bool { return strings.Contains(b.Daemon.Log()[b.LogStart:], "the container is paused") })
		b.Resume(c)
		c.WantExit(7)
		if c.Exists("stopped") {
			b.Error("preStop has run")
		}
	})
}

// docs/spec.md#pause-handler: a forced end thaws to kill, and the container stays paused.
func TestPauseDuringPreStop(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: "{" + bed.ShortTimeout + bed.Shell(bed.WaitForGo) + "}"}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		b.Pause(c)
		before := len(b.Pids(c))
		b.Poll("the frozen handler to be gone", func() bool { return len(b.Pids(c)) < before })
		if state := c.MustState(); state.Status != task.Status_PAUSED {
			b.Errorf("state %s, want PAUSED", state.Status)
		}
		b.Resume(c)
		c.WantExit(7)
	})
}

// docs/spec.md#delete of a running container.
func TestDeleteOfRunningContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell(bed.WaitForGo)}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		if _, _, err := c.Delete(b.Context()); err == nil {
			b.Error("a running container is deleted")
		}
		c.Touch("go")
		c.WantExit(7)
	})
}

// docs/spec.md#stop-restart: the stop continues, a repeated
// SIGTERM is joined.
func TestDaemonRestartDuringPreStop(t *testing.T) {
	bed.OnOwn(t, bed.Targets, func(b *bed.Bench) {
		for _, stop := range []func() error{b.Daemon.Terminate, b.Daemon.Kill} {
			c := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell(bed.WaitForGo) + "}, terminationGracePeriodSeconds: 100}"}, bed.Obedient)
			c.WaitFor("ready")
			c.Signal(syscall.SIGTERM)
			c.WaitFor("begun")
			if err := stop(); err != nil {
				b.Fatal(err)
			}
			if err := b.Daemon.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.Signal(syscall.SIGTERM)
			c.Touch("go")
			c.WantExit(7)
			if got := c.Read("signals"); got != "TERM\n" {
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
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		b.Watch.ShimsKilled = true // with -debug a shim that is killed leaves its profiler's socket, under stock too
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("touch /begun; sleep 1000")}, bed.Forever, bed.HostPID)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		shims, err := b.Daemon.Shims()
		if err != nil || len(shims) != 1 {
			b.Fatalf("shims %v, %v", shims, err)
		}
		if err := syscall.Kill(shims[0].PID, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		b.Poll("containerd to take the task away", func() bool {
			_, err := c.State(b.Context())
			return errdefs.IsNotFound(err)
		})
	})
}
