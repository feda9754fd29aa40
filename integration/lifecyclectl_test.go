package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ctl runs lifecyclectl for the daemon of the test.
func (b *bench) ctl(args ...string) (stdout, stderr string, err error) {
	b.Helper()
	command := b.ctlCommand(b.Context(), args...)
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err = command.Run()
	return out.String(), errOut.String(), err
}

func (b *bench) ctlCommand(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--address", b.daemon.Address, "--namespace", b.client.Namespace}, args...)
	return exec.CommandContext(ctx, filepath.Join(binDir(b), "lifecyclectl"), args...)
}

// wantCtl runs it, and wants success and these parts of its output.
func (b *bench) wantCtl(parts []string, args ...string) string {
	b.Helper()
	out, errOut, err := b.ctl(args...)
	if err != nil || errOut != "" {
		b.Fatalf("lifecyclectl %s: %v\n%s", strings.Join(args, " "), err, errOut)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			b.Errorf("lifecyclectl %s does not say %q:\n%s", strings.Join(args, " "), part, out)
		}
	}
	return out
}

// wantCtlError runs it, and wants a failure with these words.
func (b *bench) wantCtlError(parts []string, args ...string) {
	b.Helper()
	_, errOut, err := b.ctl(args...)
	if err == nil {
		b.Errorf("lifecyclectl %s succeeds", strings.Join(args, " "))
	}
	for _, part := range parts {
		if !strings.Contains(errOut, part) {
			b.Errorf("lifecyclectl %s does not say %q: %s", strings.Join(args, " "), part, errOut)
		}
	}
}

// SPEC 6: why does it not start, why does it not stop, what did its handler say?
func TestStatusOfWhatHangs(t *testing.T) {
	on(t, targets, func(b *bench) {
		b.wantCtl([]string{"no containers with handlers"}, "status")
		c, result := b.runLater(with{keyLifecycle: "{postStart: {timeoutSeconds: 25, " + shell("echo waiting for the database; "+waiting) + "}, preStop: {" +
			shell("echo draining; touch /draining; while [ ! -e /drained ]; do sleep 0.02; done") + "}, terminationGracePeriodSeconds: 60}"}, obedient)
		c.waitFor("begun")
		c.waitFor("ready")
		asked := time.Now()
		b.wantCtl([]string{b.client.Namespace, c.ID, "PostStarting", "postStart exec", "running", "(timeoutSeconds)", "waiting for the database"}, "status", c.ID)
		if took := time.Since(asked); took > 5*time.Second {
			b.Errorf("the answer took %s", took)
		}
		c.touch("go")
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		b.wantCtl([]string{"Running", "Succeeded"}, "status")
		c.kill(syscall.SIGTERM)
		c.waitFor("draining")
		b.wantCtl([]string{"PreStopping (SIGTERM waits)", "preStop exec", "(terminationGracePeriodSeconds)", "draining"}, "status")
		b.wantCtl([]string{"==> postStart, exec /bin/sh -c", "waiting for the database", "==> preStop", "running after", "draining"}, "logs", c.ID)
		c.touch("drained")
		c.wantExit(7)
		b.wantCtl([]string{"Exited", "Succeeded"}, "status")
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.wantCtl([]string{"no containers with handlers"}, "status")
	})
}

func TestStatusForPrograms(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		c, result := b.runLater(with{keyPostStart: "{failurePolicy: Ignore, " + shell("echo bad; exit 3") + "}"}, forever)
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		var shown struct {
			Containers []struct {
				Namespace, ID, Phase string
				Runs                 []struct {
					Handler, Type, Result, Error, Output string
					ExitCode                             int
				}
			}
		}
		if err := json.Unmarshal([]byte(b.wantCtl(nil, "status", "-o", "json")), &shown); err != nil {
			b.Fatal(err)
		}
		if len(shown.Containers) != 1 || len(shown.Containers[0].Runs) != 1 {
			b.Fatalf("got %+v", shown)
		}
		container, run := shown.Containers[0], shown.Containers[0].Runs[0]
		if container.Namespace != b.client.Namespace || container.ID != c.ID || container.Phase != "Running" {
			b.Errorf("got %+v", container)
		}
		if run.Handler != "postStart" || run.Type != "exec" || run.Result != "Failed" || run.ExitCode != 3 || run.Output != "bad\n" || run.Error != "exit status 3" {
			b.Errorf("got %+v", run)
		}
		b.wantCtl([]string{"phase: Running", "result: Failed", "exitCode: 3"}, "status", "-o", "yaml")
		b.wantCtlError([]string{"table, json and yaml"}, "status", "-o", "xml")
	})
}

// What an operator does wrong is told, with what to do.
func TestCtlErrors(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		b.run(with{keyPostStart: shell("true")}, forever)
		b.run(with{keyPreStop: shell("true")}, forever)
		b.wantCtlError([]string{`no container "x"`, b.client.Namespace, "lifecyclectl status"}, "status", "x")
		b.wantCtlError([]string{`no container "x"`, "lifecyclectl status"}, "logs", "x")
		b.wantCtlError([]string{`"c" is the beginning of 2 ids`, "c1", "c2"}, "logs", "c")
		b.wantCtlError([]string{"no handler of container c2 has run yet"}, "logs", "c2")
		b.wantCtlError([]string{`container "c1" has no handler "preStop"`}, "run", "c1", "preStop")
		b.wantCtlError([]string{"accepts 2 arg(s)"}, "run", "c1")
		b.wantCtlError([]string{"no containerd answers at /nowhere", "--address"}, "--address", "/nowhere", "events")
	})
}

// A handler is tried, and the container goes on.
func TestTrialOfAHandler(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyPreStop: shell("echo $LIFECYCLE_SIGNAL | tee -a /tried; [ -e /good ]")}, obedient)
		c.waitFor("ready")
		b.wantCtlError([]string{"preStop of container c1: Failed after", "exit status 1"}, "run", "c1", "preStop")
		c.touch("good")
		b.wantCtl([]string{"SIGTERM\n"}, "run", "c1", "preStop")
		b.wantCtl([]string{"preStop exec (trial)", "Failed", "Succeeded"}, "status")
		if got := c.read("tried"); got != "SIGTERM\nSIGTERM\n" || c.exists("signals") {
			b.Errorf("tried %q; the container got a signal: %t", got, c.exists("signals"))
		}
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if got := c.read("tried"); got != "SIGTERM\nSIGTERM\nSIGTERM\n" {
			b.Errorf("%q: preStop does not run for real after its trials", got)
		}
	})
}

// SPEC 6: the shim's events are on containerd's stream, in order with the task's.
func TestHandlerEvents(t *testing.T) {
	on(t, targets, func(b *bench) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		var out syncBuffer
		follow := b.ctlCommand(ctx, "events")
		follow.Stdout, follow.Stderr = &out, &out
		if err := follow.Start(); err != nil {
			b.Fatal(err)
		}
		defer func() { _ = follow.Wait() }() // killed by its context
		defer cancel()
		other := b.run(with{keyPreStop: shell("true")}, forever)
		b.poll("lifecyclectl to follow", func() bool {
			b.wantCtl(nil, "run", other.ID, "preStop")
			return strings.Contains(out.String(), other.ID+" preStop Succeeded")
		})
		c := b.newContainer(with{keyLifecycle: "{postStart: {" + shell("true") + "}, preStop: {" + shell("exit 2") + "}}"}, obedient)
		if _, _, err := c.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		const started, finished = "/lifecycle/handler-started", "/lifecycle/handler-finished"
		c.wantAllTopics(created, started, finished, start, started, finished, exit, deleted)
		b.poll("what lifecyclectl says of them", func() bool { return strings.Contains(out.String(), "preStop Failed") })
		for _, part := range []string{"c2 postStart started (exec)", "c2 postStart Succeeded after ", "c2 preStop Failed after ", ": exit status 2"} {
			if !strings.Contains(out.String(), part) {
				b.Errorf("lifecyclectl events does not say %q:\n%s", part, out.String())
			}
		}
	})
}

// syncBuffer is written to by one goroutine and read by another.
type syncBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buffer.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buffer.String()
}
