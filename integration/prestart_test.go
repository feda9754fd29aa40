package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const keyPreStart = "lifecycle-shim.io/preStart"

// preStarts is how often TestPreStartComesFirst tries: LIFECYCLE_PRESTARTS, else as
// often as takes CI a few seconds.
func preStarts(t *testing.T) int {
	t.Helper()
	text := os.Getenv("LIFECYCLE_PRESTARTS")
	if text == "" {
		return 24
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		t.Fatalf("LIFECYCLE_PRESTARTS is %q, a number from 1 is expected", text)
	}
	return count
}

// docs/spec.md#prestart: it has ended before the entrypoint's first instruction, every time.
func TestPreStartComesFirst(t *testing.T) {
	binary, count := filepath.Join(binDir(t), "testreader"), preStarts(t)
	on(t, []target{pinned, crun}, func(b *bench) {
		program, err := os.ReadFile(binary)
		if err != nil {
			b.Fatalf("%v: run `make build servers` first", err)
		}
		for i := range count {
			status := uint32(i%90 + 1)
			c := b.newContainer(with{keyPreStart: shell(`printf "\\x` + strconv.FormatUint(uint64(status), 16) + `" > /prestarted`)}, []string{"/reader"})
			if err := os.WriteFile(c.path("reader"), program, 0o755); err != nil {
				b.Fatal(err)
			}
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.wantExit(status)
			if err := c.Remove(b.Context()); err != nil {
				b.Fatal(err)
			}
			if b.Failed() {
				b.Fatalf("container %d of %d", i+1, count)
			}
		}
	})
}

// docs/spec.md#prestart: Start is held, the entrypoint does not run, State says CREATED and TaskStart is not there yet.
func TestPreStartHoldsTheStart(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, result := b.runLater(with{keyPreStart: shell(waiting)}, forever)
		c.waitFor("begun")
		if state := c.state(); state.Status != task.Status_CREATED {
			b.Errorf("state %s while preStart runs, want CREATED", state.Status)
		}
		if _, _, err := c.Start(b.Context()); err == nil || !strings.Contains(err.Error(), "cannot start a container that is being started") {
			b.Errorf("another start while preStart runs: %v", err)
		}
		if c.exists("ready") {
			b.Error("the entrypoint runs beside preStart")
		}
		c.touch("go")
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		c.waitFor("ready")
		c.end(137)
		c.wantTopics(created, start, exit, deleted)
	})
}

// docs/spec.md#prestart: all four in their order, each once.
func TestPreStartThenPostStart(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyPreStart: shell("echo preStart >> /order"), keyPostStart: shell("echo postStart >> /order"), keyPreStop: shell("echo preStop >> /order")}, obedient)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if got := c.read("order"); got != "preStart\npostStart\npreStop\n" {
			b.Errorf("order %q", got)
		}
	})
}

// docs/spec.md#prestart-failure: failure in words, the entrypoint never runs, not at a second Start either; no TaskStart.
func TestPreStartFails(t *testing.T) {
	on(t, targets, func(b *bench) {
		c, result := b.runLater(with{keyPreStart: shell("echo last words >&2; exit 3"), keyPostStart: shell("touch /wrong"), keyPreStop: shell("touch /wrong")}, forever)
		b.wantError(b.result(result).err, "preStart handler failed: exit status 3: last words")
		if state := c.state(); state.Status != task.Status_STOPPED {
			b.Errorf("state %s when the start has failed, want STOPPED", state.Status)
		}
		if _, _, err := c.Start(b.Context()); err == nil {
			b.Error("a second start is accepted")
		}
		c.wantExit(137)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		if c.exists("ready") || c.exists("wrong") {
			b.Error("the entrypoint, postStart or preStop has run")
		}
		c.wantTopics(created, exit, deleted)
	})
}

// docs/spec.md#prestart-failure: failurePolicy Ignore, retries, the time limit, sleep.
func TestPreStartForms(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		ignored := b.run(with{keyPreStart: "{" + shell("exit 3") + ", failurePolicy: Ignore}"}, forever)
		ignored.waitFor("ready")
		ignored.end(137)
		retried := b.run(with{keyPreStart: "{" + shell("echo x >> /tries; test $(wc -l < /tries) = 3") + ", retryPeriodSeconds: 1, timeoutSeconds: 20}"}, forever)
		if got := retried.read("tries"); got != "x\nx\nx\n" {
			b.Errorf("tries %q", got)
		}
		retried.end(137)
		begin := time.Now()
		slept := b.run(with{keyPreStart: "{sleep: {seconds: 1}}"}, forever)
		if took := time.Since(begin); took < time.Second {
			b.Errorf("started after %s", took)
		}
		slept.end(137)
		c, result := b.runLater(with{keyPreStart: "{" + shell("sleep 1000") + ", timeoutSeconds: 1}"}, forever)
		b.wantError(b.result(result).err, "preStart handler failed: timed out after 1s")
		if c.exists("ready") {
			b.Error("the entrypoint has run")
		}
		for annotation, want := range map[string]string{
			"{httpGet: {port: 80}}":                                    "preStart may be exec or sleep only",
			"{exec: {command: [a]}, failurePolicy: Never}":             `preStart.failurePolicy is "Never"`,
			"{exec: {command: [a]}, sleep: {seconds: 1}}":              "must have exactly one",
			"{exec: {command: [a]}, timeoutSeconds: 0}":                "preStart.timeoutSeconds is 0",
			"{exec: {command: [/nowhere/at/all]}, timeoutSeconds: 1x}": "preStart.timeoutSeconds",
		} {
			c := b.newContainer(with{keyPreStart: annotation}, forever)
			_, err := c.Create(b.Context())
			b.wantError(err, keyPreStart, want)
		}
	})
}

// docs/spec.md#prestart-stop: SIGKILL, a stop signal, Delete and the process's death keep the entrypoint from running.
func TestPreStartIsCutShort(t *testing.T) {
	for name, cut := range map[string]struct {
		do   func(*container)
		want string
	}{
		"SIGKILL": {func(c *container) { c.kill(syscall.SIGKILL) }, "preStart handler aborted: signal 9 arrived"},
		"SIGTERM": {func(c *container) { c.kill(syscall.SIGTERM) }, "preStart handler aborted: signal 15 arrived"},
		"Delete": {func(c *container) {
			if _, took, err := c.Delete(c.b.Context()); err != nil || took > limit {
				c.b.Errorf("Delete: %v after %s", err, took)
			}
		}, "preStart handler aborted: container deleted before its entrypoint was started"},
		"the process dies": {func(c *container) {
			if err := syscall.Kill(int(c.state().PID), syscall.SIGKILL); err != nil {
				c.b.Error(err)
			}
		}, "preStart handler aborted: container exited before its entrypoint was started"},
	} {
		t.Run(name, func(t *testing.T) {
			on(t, []target{pinned, crun}, func(b *bench) {
				c, result := b.runLater(with{keyPreStart: shell(waiting), keyPreStop: shell("touch /wrong")}, forever)
				c.waitFor("begun")
				cut.do(c)
				b.wantError(b.result(result).err, cut.want)
				if c.exists("ready") || c.exists("wrong") {
					b.Error("the entrypoint or preStop has run")
				}
			})
		})
	}
}

// docs/spec.md#prestart: the identity, the limits and the filter of the container's process, as for the others.
func TestPreStartHasTheIdentityOfTheContainer(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		shared := b.TempDir()
		if err := os.Chmod(shared, 0o777); err != nil {
			b.Fatal(err)
		}
		own := "(" + look + ") > /out/%; touch /out/%-done"
		args := []string{"/bin/sh", "-c", strings.ReplaceAll(own, "%", "init") + "; sleep 1000"}
		b.run(with{keyPreStart: shell(strings.ReplaceAll(own, "%", "handler"))}, args, strict, func(config *harness.ContainerConfig) {
			bindOut(config, shared)
		})
		b.poll("pid 1's look at itself", func() bool { _, err := os.Stat(filepath.Join(shared, "init-done")); return err == nil })
		if first, second := readFile(b, shared, "handler"), readFile(b, shared, "init"); first != second {
			b.Errorf("preStart differs from pid 1.\npid 1:\n%s\npreStart:\n%s", second, first)
		}
	})
}

// docs/spec.md#prestart-goes-on: the client goes, containerd dies: it goes on, and the entrypoint starts.
func TestDaemonRestartDuringPreStart(t *testing.T) {
	onOwn(t, []target{pinned}, func(b *bench) {
		c, _ := b.runLater(with{keyPreStart: shell(waiting)}, forever)
		c.waitFor("begun")
		if err := b.daemon.Kill(); err != nil {
			b.Fatal(err)
		}
		if err := b.daemon.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if state := c.state(); state.Status != task.Status_CREATED {
			b.Errorf("state %s while preStart runs, want CREATED", state.Status)
		}
		c.touch("go")
		c.waitFor("ready")
		b.poll("RUNNING", func() bool { return c.state().Status == task.Status_RUNNING })
		c.end(137)
	})
}
