package task

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

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
	binary, count := filepath.Join(bed.BinDir(t), "testreader"), preStarts(t)
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		program, err := os.ReadFile(binary)
		if err != nil {
			b.Fatalf("%v: run `make build servers` first", err)
		}
		for i := range count {
			status := uint32(i%90 + 1)
			c := b.NewContainer(bed.Annotations{bed.KeyPreStart: bed.Shell(`printf "\\x` + strconv.FormatUint(uint64(status), 16) + `" > /prestarted`)}, []string{"/reader"})
			if err := os.WriteFile(c.Path("reader"), program, 0o755); err != nil {
				b.Fatal(err)
			}
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.WantExit(status)
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
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPreStart: bed.Shell(bed.WaitForGo)}, bed.Forever)
		c.WaitFor("begun")
		if state := c.MustState(); state.Status != task.Status_CREATED {
			b.Errorf("state %s while preStart runs, want CREATED", state.Status)
		}
		if _, _, err := c.Start(b.Context()); err == nil || !strings.Contains(err.Error(), "cannot start a container that is being started") {
			b.Errorf("another start while preStart runs: %v", err)
		}
		if c.Exists("ready") {
			b.Error("the entrypoint runs beside preStart")
		}
		c.Touch("go")
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		c.WaitFor("ready")
		c.End(137)
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#prestart: all four in their order, each once.
func TestPreStartThenPostStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStart: bed.Shell("echo preStart >> /order"), bed.KeyPostStart: bed.Shell("echo postStart >> /order"), bed.KeyPreStop: bed.Shell("echo preStop >> /order")}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if got := c.Read("order"); got != "preStart\npostStart\npreStop\n" {
			b.Errorf("order %q", got)
		}
	})
}

// docs/spec.md#prestart-failure: failure in words, the entrypoint never runs, not at a second Start either; no TaskStart.
func TestPreStartFails(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPreStart: bed.Shell("echo last words >&2; exit 3"), bed.KeyPostStart: bed.Shell("touch /wrong"), bed.KeyPreStop: bed.Shell("touch /wrong")}, bed.Forever)
		b.WantError(b.Await(result).Err, "preStart handler failed: exit status 3: last words")
		if state := c.MustState(); state.Status != task.Status_STOPPED {
			b.Errorf("state %s when the start has failed, want STOPPED", state.Status)
		}
		if _, _, err := c.Start(b.Context()); err == nil {
			b.Error("a second start is accepted")
		}
		c.WantExit(137)
		if _, _, err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		if c.Exists("ready") || c.Exists("wrong") {
			b.Error("the entrypoint, postStart or preStop has run")
		}
		c.WantTopics(bed.TopicCreate, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#prestart-failure: failurePolicy Ignore, retries, the time limit, sleep.
func TestPreStartForms(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		ignored := b.Start(bed.Annotations{bed.KeyPreStart: "{" + bed.Shell("exit 3") + ", failurePolicy: Ignore}"}, bed.Forever)
		ignored.WaitFor("ready")
		ignored.End(137)
		retried := b.Start(bed.Annotations{bed.KeyPreStart: "{" + bed.Shell("echo x >> /tries; test $(wc -l < /tries) = 3") + ", retryPeriodSeconds: 1, timeoutSeconds: 20}"}, bed.Forever)
		if got := retried.Read("tries"); got != "x\nx\nx\n" {
			b.Errorf("tries %q", got)
		}
		retried.End(137)
		begin := time.Now()
		slept := b.Start(bed.Annotations{bed.KeyPreStart: "{sleep: {seconds: 1}}"}, bed.Forever)
		if took := time.Since(begin); took < time.Second {
			b.Errorf("started after %s", took)
		}
		slept.End(137)
		c, result := b.StartLater(bed.Annotations{bed.KeyPreStart: "{" + bed.Shell("sleep 1000") + ", timeoutSeconds: 1}"}, bed.Forever)
		b.WantError(b.Await(result).Err, "preStart handler failed: timed out after 1s")
		if c.Exists("ready") {
			b.Error("the entrypoint has run")
		}
		for annotation, want := range map[string]string{
			"{httpGet: {port: 80}}":                                    "preStart may be exec or sleep only",
			"{exec: {command: [a]}, failurePolicy: Never}":             `preStart.failurePolicy is "Never"`,
			"{exec: {command: [a]}, sleep: {seconds: 1}}":              "must have exactly one",
			"{exec: {command: [a]}, timeoutSeconds: 0}":                "preStart.timeoutSeconds is 0",
			"{exec: {command: [/nowhere/at/all]}, timeoutSeconds: 1x}": "preStart.timeoutSeconds",
		} {
			c := b.NewContainer(bed.Annotations{bed.KeyPreStart: annotation}, bed.Forever)
			_, err := c.Create(b.Context())
			b.WantError(err, bed.KeyPreStart, want)
		}
	})
}

// docs/spec.md#prestart-stop: SIGKILL, a stop signal, Delete and the process's death keep the entrypoint from running.
func TestPreStartIsCutShort(t *testing.T) {
	for name, cut := range map[string]struct {
		do   func(*bed.Container)
		want string
	}{
		"SIGKILL": {func(c *bed.Container) { c.Signal(syscall.SIGKILL) }, "preStart handler aborted: signal 9 arrived"},
		"SIGTERM": {func(c *bed.Container) { c.Signal(syscall.SIGTERM) }, "preStart handler aborted: signal 15 arrived"},
		"Delete": {func(c *bed.Container) {
			if _, took, err := c.Delete(c.B.Context()); err != nil || took > bed.Limit {
				c.B.Errorf("Delete: %v after %s", err, took)
			}
		}, "preStart handler aborted: container deleted before its entrypoint was started"},
		"the process dies": {func(c *bed.Container) {
			if err := syscall.Kill(int(c.MustState().PID), syscall.SIGKILL); err != nil {
				c.B.Error(err)
			}
		}, "preStart handler aborted: container exited before its entrypoint was started"},
	} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				c, result := b.StartLater(bed.Annotations{bed.KeyPreStart: bed.Shell(bed.WaitForGo), bed.KeyPreStop: bed.Shell("touch /wrong")}, bed.Forever)
				c.WaitFor("begun")
				cut.do(c)
				b.WantError(b.Await(result).Err, cut.want)
				if c.Exists("ready") || c.Exists("wrong") {
					b.Error("the entrypoint or preStop has run")
				}
			})
		})
	}
}

// docs/spec.md#prestart: the identity, the limits and the filter of the container's process, as for the others.
func TestPreStartHasTheIdentityOfTheContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		shared := b.TempDir()
		if err := os.Chmod(shared, 0o777); err != nil {
			b.Fatal(err)
		}
		own := "(" + look + ") > /out/%; touch /out/%-done"
		args := []string{"/bin/sh", "-c", strings.ReplaceAll(own, "%", "init") + "; sleep 1000"}
		b.Start(bed.Annotations{bed.KeyPreStart: bed.Shell(strings.ReplaceAll(own, "%", "handler"))}, args, strict, func(config *harness.ContainerConfig) {
			bindOut(config, shared)
		})
		b.Poll("pid 1's look at itself", func() bool { _, err := os.Stat(filepath.Join(shared, "init-done")); return err == nil })
		if first, second := bed.ReadFile(b, shared, "handler"), bed.ReadFile(b, shared, "init"); first != second {
			b.Errorf("preStart differs from pid 1.\npid 1:\n%s\npreStart:\n%s", second, first)
		}
	})
}

// docs/spec.md#prestart-goes-on: the client disconnects, containerd dies: it continues, and the entrypoint starts.
func TestDaemonRestartDuringPreStart(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c, _ := b.StartLater(bed.Annotations{bed.KeyPreStart: bed.Shell(bed.WaitForGo)}, bed.Forever)
		c.WaitFor("begun")
		if err := b.Daemon.Kill(); err != nil {
			b.Fatal(err)
		}
		if err := b.Daemon.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		if state := c.MustState(); state.Status != task.Status_CREATED {
			b.Errorf("state %s while preStart runs, want CREATED", state.Status)
		}
		c.Touch("go")
		c.WaitFor("ready")
		b.Poll("RUNNING", func() bool { return c.MustState().Status == task.Status_RUNNING })
		c.End(137)
	})
}
