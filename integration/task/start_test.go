package task

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/task"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// docs/spec.md#start-none: the runc service's own start, nothing else.
func TestStartWithoutPostStart(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		for _, annotations := range []bed.Annotations{nil, {bed.KeyPreStop: bed.Shell("true")}} {
			c := b.Start(annotations, bed.Forever)
			if state := c.MustState(); state.Status != task.Status_RUNNING {
				b.Errorf("state %s, want RUNNING", state.Status)
			}
			b.Poll("TaskStart, which the start does not wait for", func() bool { return slices.Contains(b.Topics(c.ID), bed.TopicStart) })
			c.Signal(syscall.SIGKILL)
			// Without handlers it is as under the stock shim, which may lose what a Delete overtakes.
			b.Poll("TaskExit", func() bool { return slices.Contains(b.Topics(c.ID), bed.TopicExit) })
			c.WantExit(137)
			if _, _, err := c.Delete(b.Context()); err != nil {
				b.Fatal(err)
			}
			if annotations != nil {
				c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
			}
		}
	})
}

// docs/spec.md#start-hold, docs/spec.md#start-state, docs/spec.md#start-success.
func TestStartIsHeld(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo + "echo hi > /message")}, bed.Forever)
		c.WaitFor("begun")
		c.WaitFor("ready") // the entrypoint runs meanwhile
		if state := c.MustState(); state.Status != task.Status_CREATED {
			b.Errorf("state %s while postStart runs, want CREATED", state.Status)
		}
		select {
		case r := <-result:
			b.Fatalf("the start is answered while postStart runs: %v", r.Err)
		default:
		}
		if topics := b.Topics(c.ID); strings.Contains(strings.Join(topics, " "), bed.TopicStart) {
			b.Errorf("TaskStart is published while postStart runs: %v", topics)
		}
		c.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		if got := c.Read("message"); got != "hi\n" {
			b.Errorf("message %q", got)
		}
		if state := c.MustState(); state.Status != task.Status_RUNNING || state.PID == 0 {
			b.Errorf("state %+v after postStart, want RUNNING with a pid", state)
		}
		c.End(137)
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#start-state: Exec, Kill, Pids, Wait and Stats work.
func TestHeldContainerServesRequests(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo)}, bed.Forever)
		c.WaitFor("begun")
		c.WaitFor("ready")
		if status := b.Exec(c, "x1", "/bin/sh", "-c", "touch /executed; exit 5"); status != 5 {
			b.Errorf("exec ended with %d, want 5", status)
		}
		if !c.Exists("executed") {
			b.Error("the exec did not run")
		}
		if pids := b.Pids(c); len(pids) < 2 {
			b.Errorf("pids %v: want the entrypoint's and the handler's", pids)
		}
		if _, err := c.Kill(b.Context(), syscall.SIGUSR1); err != nil {
			b.Error(err)
		}
		c.WaitFor("signals")
		c.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		c.End(137)
		c.WantTopics(bed.TopicCreate, bed.TopicStart, "/tasks/exec-added", "/tasks/exec-started", bed.TopicExit, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#start-failure: the words, the order of events, nothing left.
func TestPostStartFails(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("echo last words >&2; exit 3") + "}, preStop: {" + bed.Shell("echo preStop >> /signals") + "}}"}, bed.Obedient)
		r := b.Await(result)
		b.WantError(r.Err, "postStart handler failed: exit status 3: last words")
		state := c.MustState()
		if state.Status != task.Status_STOPPED {
			b.Errorf("state %s when the start has failed, want STOPPED", state.Status)
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
		// The entrypoint may have been stopped before it could set its trap.
		if got := c.Read("signals"); !strings.HasPrefix(got, "preStop\n") {
			b.Errorf("signals %q, want preStop first, as the kubelet does", got)
		}
	})
}

// docs/spec.md#start-failure: a container that ignores the signal gets SIGKILL in time.
func TestPostStartFailsAndContainerStays(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("while [ ! -e /ready ]; do sleep 0.02; done; exit 1") + "}, terminationGracePeriodSeconds: 1}"}, bed.Forever)
		b.WantError(b.Await(result).Err, "postStart handler failed: exit status 1")
		c.WantExit(137)
		if got := c.Read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want TERM once", got)
		}
	})
}

// docs/spec.md#start-failure: the signal is the block's own.
func TestPostStartFailsWithAStopSignal(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		args := []string{"/bin/sh", "-c", `trap 'echo USR2 >> /signals; exit 8' USR2; trap 'exit 1' TERM; touch /ready; sleep 1000 & while :; do wait; done`}
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{stopSignal: SIGUSR2, postStart: {" + bed.Shell("while [ ! -e /ready ]; do sleep 0.02; done; exit 1") + "}}"}, args)
		b.WantError(b.Await(result).Err, "postStart handler failed: exit status 1")
		c.WantExit(8)
		if got := c.Read("signals"); got != "USR2\n" {
			b.Errorf("signals %q, want USR2 once", got)
		}
	})
}

func TestPostStartCannotStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		_, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "exec: {command: [/does/not/exist]}"}, bed.Obedient)
		b.WantError(b.Await(result).Err, "postStart handler failed: cannot start", "/does/not/exist")
	})
}

// docs/spec.md#start-limit.
func TestPostStartTimesOut(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		_, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{timeoutSeconds: 1, " + bed.Shell("echo so far; trap '' TERM; sleep 1000 & sleep 1000") + "}"}, bed.Obedient)
		b.WantError(b.Await(result).Err, "postStart handler failed: timed out after 1s: so far")
	})
}

// docs/spec.md#start-limit: the default, where neither handler nor request has one.
func TestDefaultPostStartTimeout(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		_, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("sleep 1000")}, bed.Obedient, bed.WithOptions(b, `DefaultPostStartTimeout = "1s"`))
		b.WantError(b.Await(result).Err, "postStart handler failed: timed out after 1s")
	})
}

// docs/spec.md#start-ignore.
func TestPostStartFailureIgnored(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{failurePolicy: Ignore, " + bed.Shell("exit 1") + "}"}, bed.Forever)
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		if state := c.MustState(); state.Status != task.Status_RUNNING {
			b.Errorf("state %s, want RUNNING", state.Status)
		}
	})
}

// docs/spec.md#retry: an attempt that fails is repeated.
func TestPostStartRetries(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{retryPeriodSeconds: 1, " + bed.Shell("echo x >> /attempts; [ $(wc -l < /attempts) = 2 ]") + "}"}, bed.Forever)
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		if got := c.Read("attempts"); got != "x\nx\n" {
			b.Errorf("attempts %q, want 2", got)
		}
	})
}

// docs/spec.md#start-exit.
func TestContainerExitsDuringPostStart(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("touch /begun; sleep 1000")},
			[]string{"/bin/sh", "-c", "while [ ! -e /begun ]; do sleep 0.02; done; exit 9"})
		if r := b.Await(result); r.Err != nil {
			b.Errorf("the start fails: %v", r.Err)
		}
		c.WantExit(9)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#start-state: STOPPED shows at once, before Wait returns.
func TestHeldContainerThatHasExitedIsStopped(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for range 5 {
			c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("touch /begun; sleep 1000")},
				[]string{"/bin/sh", "-c", "while [ ! -e /begun ]; do sleep 0.02; done; exit 9"})
			c.WantExit(9)
			if state := c.MustState(); state.Status != task.Status_STOPPED || state.ExitStatus != 9 {
				b.Errorf("state %+v when Wait has returned, want STOPPED with 9", state)
			}
			if r := b.Await(result); r.Err != nil {
				b.Errorf("the start fails: %v", r.Err)
			}
		}
	})
}

// docs/spec.md#start-stop.
func TestStopDuringPostStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell(bed.WaitForGo) + "}, preStop: {" + bed.Shell("echo preStop >> /signals") + "}}"}, bed.Obedient)
		c.WaitFor("begun")
		c.WaitFor("ready")
		if _, err := c.Kill(b.Context(), syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		b.WantError(b.Await(result).Err, "postStart handler aborted", "signal 15")
		c.WantExit(7)
		if got := c.Read("signals"); got != "preStop\nTERM\n" {
			b.Errorf("signals %q, want preStop, then TERM once", got)
		}
	})
}

// The same without preStop: the signal passes through.
func TestStopDuringPostStartWithoutPreStop(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo)}, bed.Obedient)
		c.WaitFor("begun")
		c.WaitFor("ready")
		if _, err := c.Kill(b.Context(), syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		b.WantError(b.Await(result).Err, "postStart handler aborted", "signal 15")
		c.WantExit(7)
	})
}

// docs/spec.md#start-sigkill.
func TestKillDuringPostStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo), bed.KeyPreStop: bed.Shell("touch /stopped")}, bed.Forever)
		c.WaitFor("begun")
		if _, err := c.Kill(b.Context(), syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		b.WantError(b.Await(result).Err, "postStart handler aborted", "signal 9")
		c.WantExit(137)
		if c.Exists("stopped") {
			b.Error("preStop has run for a SIGKILL")
		}
	})
}

// A start that the runtime refuses is answered as under the stock shim.
func TestRuntimeCannotStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("true")}, []string{"/does/not/exist"})
		_, _, err := c.Run(b.Context())
		b.WantError(err, "/does/not/exist", "runc create failed")
	})
}

// docs/spec.md#start-client: elsewhere the
// handler continues.
func TestDaemonRestartDuringPostStart(t *testing.T) {
	bed.OnOwn(t, bed.Targets, func(b *bed.Bench) {
		for name, stop := range map[string]func() error{"SIGTERM": b.Daemon.Terminate, "SIGKILL": b.Daemon.Kill} {
			c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo + "touch /ended")}, bed.Forever)
			c.WaitFor("begun")
			if err := stop(); err != nil {
				b.Fatal(err)
			}
			if r := b.Await(result); r.Err == nil {
				b.Errorf("%s: the client got success from a daemon that has gone", name)
			}
			if err := b.Daemon.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.Touch("go")
			c.WaitFor("ended")
			b.Poll("RUNNING after the restart", func() bool { return c.MustState().Status == task.Status_RUNNING })
			if _, err := c.Kill(b.Context(), syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			c.WantExit(137)
		}
	})
}

// docs/spec.md#start-client: a client that gives up cancels nothing.
func TestClientGivesUpDuringPostStart(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell(bed.WaitForGo + "touch /ended")}, bed.Forever)
		if _, err := c.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		ctx, giveUp := context.WithCancel(b.Context())
		gone := make(chan error, 1)
		go func() {
			_, _, err := c.Start(ctx)
			gone <- err
		}()
		c.WaitFor("begun")
		giveUp()
		if err := <-gone; err == nil {
			b.Error("a client that gave up got success")
		}
		c.Touch("go")
		c.WaitFor("ended")
		b.Poll("RUNNING", func() bool { return c.MustState().Status == task.Status_RUNNING })
		c.End(137)
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#exec-end: what a handler leaves in the background does not keep it.
func TestBackgroundChildDoesNotHoldTheStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("sleep 1000 & echo $! > /child")}, bed.Forever)
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		child := strings.TrimSpace(c.Read("child"))
		if status := b.Exec(c, "x1", "/bin/kill", "-0", child); status != 0 {
			b.Errorf("the handler's child %s is gone; it belongs to the container", child)
		}
	})
}

// Endless output costs no memory and ends with the last of it.
func TestOutputIsCut(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		script := `i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done; printf 'the end'; exit 1`
		_, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell(script)}, bed.Obedient, nil...)
		err := b.Await(result).Err
		b.WantError(err, "exit status 1: [28911 bytes dropped] ", "the end")
		if len(err.Error()) > 4096+300 {
			b.Errorf("the error is %d bytes long", len(err.Error()))
		}
	})
}
