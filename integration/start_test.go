package integration

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/task"
)

const (
	created = "/tasks/create"
	start   = "/tasks/start"
	exit    = "/tasks/exit"
	deleted = "/tasks/delete"
	oom     = "/tasks/oom"
)

// docs/spec.md#start-none: the runc service's own start, nothing else.
func TestStartWithoutPostStart(t *testing.T) {
	on(t, targets, func(b *bench) {
		for _, annotations := range []with{nil, {keyPreStop: shell("true")}} {
			c := b.run(annotations, forever)
			if state := c.state(); state.Status != task.Status_RUNNING {
				b.Errorf("state %s, want RUNNING", state.Status)
			}
			b.poll("TaskStart, which the start does not wait for", func() bool { return slices.Contains(b.topics(c.ID), start) })
			c.kill(syscall.SIGKILL)
			// Without handlers it is as under the stock shim, which may lose what a Delete overtakes.
			b.poll("TaskExit", func() bool { return slices.Contains(b.topics(c.ID), exit) })
			c.wantExit(137)
			if _, _, err := c.Delete(b.Context()); err != nil {
				b.Fatal(err)
			}
			if annotations != nil {
				c.wantTopics(created, start, exit, deleted)
			}
		}
	})
}

// docs/spec.md#start-hold, docs/spec.md#start-state, docs/spec.md#start-success.
func TestStartIsHeld(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: shell(waiting + "echo hi > /message")}, forever)
		c.waitFor("begun")
		c.waitFor("ready") // the entrypoint runs meanwhile
		if state := c.state(); state.Status != task.Status_CREATED {
			b.Errorf("state %s while postStart runs, want CREATED", state.Status)
		}
		select {
		case r := <-result:
			b.Fatalf("the start is answered while postStart runs: %v", r.err)
		default:
		}
		if topics := b.topics(c.ID); strings.Contains(strings.Join(topics, " "), start) {
			b.Errorf("TaskStart is published while postStart runs: %v", topics)
		}
		c.touch("go")
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		if got := c.read("message"); got != "hi\n" {
			b.Errorf("message %q", got)
		}
		if state := c.state(); state.Status != task.Status_RUNNING || state.PID == 0 {
			b.Errorf("state %+v after postStart, want RUNNING with a pid", state)
		}
		c.end(137)
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#start-state: Exec, Kill, Pids, Wait and Stats work.
func TestHeldContainerServesRequests(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: shell(waiting)}, forever)
		c.waitFor("begun")
		c.waitFor("ready")
		if status := b.exec(c, "x1", "/bin/sh", "-c", "touch /executed; exit 5"); status != 5 {
			b.Errorf("exec ended with %d, want 5", status)
		}
		if !c.exists("executed") {
			b.Error("the exec did not run")
		}
		if pids := b.pids(c); len(pids) < 2 {
			b.Errorf("pids %v: want the entrypoint's and the handler's", pids)
		}
		if _, err := c.Kill(b.Context(), syscall.SIGUSR1); err != nil {
			b.Error(err)
		}
		c.waitFor("signals")
		c.touch("go")
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		c.end(137)
		c.wantTopics(created, start, "/tasks/exec-added", "/tasks/exec-started", exit, exit, deleted)
	})
}

// docs/spec.md#start-failure: the words, the order of events, nothing left.
func TestPostStartFails(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, result := b.runLater(with{keyLifecycle: "{postStart: {" + shell("echo last words >&2; exit 3") + "}, preStop: {" + shell("echo preStop >> /signals") + "}}"}, obedient)
		r := b.result(result)
		b.wantError(r.err, "postStart handler failed: exit status 3: last words")
		state := c.state()
		if state.Status != task.Status_STOPPED {
			b.Errorf("state %s when the start has failed, want STOPPED", state.Status)
		}
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.wantTopics(created, start, exit, deleted)
		// The entrypoint may have been stopped before it could set its trap.
		if got := c.read("signals"); !strings.HasPrefix(got, "preStop\n") {
			b.Errorf("signals %q, want preStop first, as the kubelet does", got)
		}
	})
}

// docs/spec.md#start-failure: a container that ignores the signal gets SIGKILL in time.
func TestPostStartFailsAndContainerStays(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c, result := b.runLater(with{keyLifecycle: "{postStart: {" + shell("while [ ! -e /ready ]; do sleep 0.02; done; exit 1") + "}, terminationGracePeriodSeconds: 1}"}, forever)
		b.wantError(b.result(result).err, "postStart handler failed: exit status 1")
		c.wantExit(137)
		if got := c.read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want TERM once", got)
		}
	})
}

// docs/spec.md#start-failure: the signal is the block's own.
func TestPostStartFailsWithAStopSignal(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		args := []string{"/bin/sh", "-c", `trap 'echo USR2 >> /signals; exit 8' USR2; trap 'exit 1' TERM; touch /ready; sleep 1000 & while :; do wait; done`}
		c, result := b.runLater(with{keyLifecycle: "{stopSignal: SIGUSR2, postStart: {" + shell("while [ ! -e /ready ]; do sleep 0.02; done; exit 1") + "}}"}, args)
		b.wantError(b.result(result).err, "postStart handler failed: exit status 1")
		c.wantExit(8)
		if got := c.read("signals"); got != "USR2\n" {
			b.Errorf("signals %q, want USR2 once", got)
		}
	})
}

func TestPostStartCannotStart(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		_, result := b.runLater(with{keyPostStart: "exec: {command: [/does/not/exist]}"}, obedient)
		b.wantError(b.result(result).err, "postStart handler failed: cannot start", "/does/not/exist")
	})
}

// docs/spec.md#start-limit.
func TestPostStartTimesOut(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		_, result := b.runLater(with{keyPostStart: "{timeoutSeconds: 1, " + shell("echo so far; trap '' TERM; sleep 1000 & sleep 1000") + "}"}, obedient)
		b.wantError(b.result(result).err, "postStart handler failed: timed out after 1s: so far")
	})
}

// docs/spec.md#start-limit: the default, where neither handler nor request has one.
func TestDefaultPostStartTimeout(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		_, result := b.runLater(with{keyPostStart: shell("sleep 1000")}, obedient, withOptions(b, `DefaultPostStartTimeout = "1s"`))
		b.wantError(b.result(result).err, "postStart handler failed: timed out after 1s")
	})
}

// docs/spec.md#start-ignore.
func TestPostStartFailureIgnored(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: "{failurePolicy: Ignore, " + shell("exit 1") + "}"}, forever)
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		if state := c.state(); state.Status != task.Status_RUNNING {
			b.Errorf("state %s, want RUNNING", state.Status)
		}
	})
}

// docs/spec.md#retry: an attempt that fails is repeated.
func TestPostStartRetries(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: "{retryPeriodSeconds: 1, " + shell("echo x >> /attempts; [ $(wc -l < /attempts) = 2 ]") + "}"}, forever)
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		if got := c.read("attempts"); got != "x\nx\n" {
			b.Errorf("attempts %q, want 2", got)
		}
	})
}

// docs/spec.md#start-exit.
func TestContainerExitsDuringPostStart(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: shell("touch /begun; sleep 1000")},
			[]string{"/bin/sh", "-c", "while [ ! -e /begun ]; do sleep 0.02; done; exit 9"})
		if r := b.result(result); r.err != nil {
			b.Errorf("the start fails: %v", r.err)
		}
		c.wantExit(9)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#start-state: STOPPED shows at once, before Wait returns.
func TestHeldContainerThatHasExitedIsStopped(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		for range 5 {
			c, result := b.runLater(with{keyPostStart: shell("touch /begun; sleep 1000")},
				[]string{"/bin/sh", "-c", "while [ ! -e /begun ]; do sleep 0.02; done; exit 9"})
			c.wantExit(9)
			if state := c.state(); state.Status != task.Status_STOPPED || state.ExitStatus != 9 {
				b.Errorf("state %+v when Wait has returned, want STOPPED with 9", state)
			}
			if r := b.result(result); r.err != nil {
				b.Errorf("the start fails: %v", r.err)
			}
		}
	})
}

// docs/spec.md#start-stop.
func TestStopDuringPostStart(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c, result := b.runLater(with{keyLifecycle: "{postStart: {" + shell(waiting) + "}, preStop: {" + shell("echo preStop >> /signals") + "}}"}, obedient)
		c.waitFor("begun")
		c.waitFor("ready")
		if _, err := c.Kill(b.Context(), syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		b.wantError(b.result(result).err, "postStart handler aborted", "signal 15")
		c.wantExit(7)
		if got := c.read("signals"); got != "preStop\nTERM\n" {
			b.Errorf("signals %q, want preStop, then TERM once", got)
		}
	})
}

// The same without preStop: the signal passes through.
func TestStopDuringPostStartWithoutPreStop(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: shell(waiting)}, obedient)
		c.waitFor("begun")
		c.waitFor("ready")
		if _, err := c.Kill(b.Context(), syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		b.wantError(b.result(result).err, "postStart handler aborted", "signal 15")
		c.wantExit(7)
	})
}

// docs/spec.md#start-sigkill.
func TestKillDuringPostStart(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: shell(waiting), keyPreStop: shell("touch /stopped")}, forever)
		c.waitFor("begun")
		if _, err := c.Kill(b.Context(), syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		b.wantError(b.result(result).err, "postStart handler aborted", "signal 9")
		c.wantExit(137)
		if c.exists("stopped") {
			b.Error("preStop has run for a SIGKILL")
		}
	})
}

// A start that the runtime refuses is answered as under the stock shim.
func TestRuntimeCannotStart(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c := b.newContainer(with{keyPostStart: shell("true")}, []string{"/does/not/exist"})
		_, _, err := c.Run(b.Context())
		b.wantError(err, "/does/not/exist", "runc create failed")
	})
}

// docs/spec.md#start-client: elsewhere the
// handler goes on.
func TestDaemonRestartDuringPostStart(t *testing.T) {
	onOwn(t, targets, func(b *bench) {
		for name, stop := range map[string]func() error{"SIGTERM": b.daemon.Terminate, "SIGKILL": b.daemon.Kill} {
			c, result := b.runLater(with{keyPostStart: shell(waiting + "touch /ended")}, forever)
			c.waitFor("begun")
			if err := stop(); err != nil {
				b.Fatal(err)
			}
			if r := b.result(result); r.err == nil {
				b.Errorf("%s: the client is told success by a daemon that has gone", name)
			}
			if err := b.daemon.Start(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.touch("go")
			c.waitFor("ended")
			b.poll("RUNNING after the restart", func() bool { return c.state().Status == task.Status_RUNNING })
			if _, err := c.Kill(b.Context(), syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			c.wantExit(137)
		}
	})
}

// docs/spec.md#start-client: a client that gives up cancels nothing.
func TestClientGivesUpDuringPostStart(t *testing.T) {
	on(t, targets, func(b *bench) {
		c := b.newContainer(with{keyPostStart: shell(waiting + "touch /ended")}, forever)
		if _, err := c.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		ctx, giveUp := context.WithCancel(b.Context())
		gone := make(chan error, 1)
		go func() {
			_, _, err := c.Start(ctx)
			gone <- err
		}()
		c.waitFor("begun")
		giveUp()
		if err := <-gone; err == nil {
			b.Error("a client that gave up is told success")
		}
		c.touch("go")
		c.waitFor("ended")
		b.poll("RUNNING", func() bool { return c.state().Status == task.Status_RUNNING })
		c.end(137)
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#exec-end: what a handler leaves in the background does not keep it.
func TestBackgroundChildDoesNotHoldTheStart(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: shell("sleep 1000 & echo $! > /child")}, forever)
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		child := strings.TrimSpace(c.read("child"))
		if status := b.exec(c, "x1", "/bin/kill", "-0", child); status != 0 {
			b.Errorf("the handler's child %s is gone; it belongs to the container", child)
		}
	})
}

// Endless output costs no memory and ends with the last of it.
func TestOutputIsCut(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		script := `i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done; printf 'the end'; exit 1`
		_, result := b.runLater(with{keyPostStart: shell(script)}, obedient, nil...)
		err := b.result(result).err
		b.wantError(err, "exit status 1: [28911 bytes dropped] ", "the end")
		if len(err.Error()) > 4096+300 {
			b.Errorf("the error is %d bytes long", len(err.Error()))
		}
	})
}
