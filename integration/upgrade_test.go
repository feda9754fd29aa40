package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const shimBinary = "containerd-shim-lifecycle-v2"

// installed are the two builds between which the tests here change: what `make build` has made, and what the commit in
// integration/previous was.
func builds(t testing.TB) (current, previous string) {
	current = binDir(t)
	return current, filepath.Join(current, "previous")
}

// docs/spec.md#upgrade: containers of the previous build go on.
func TestUpgrade(t *testing.T) {
	current, previous := builds(t)
	onOwn(t, targets, func(b *bench) { b.replaceBuild(previous, current) })
}

// The way back is the same.
func TestRollback(t *testing.T) {
	current, previous := builds(t)
	onOwn(t, []target{pinned}, func(b *bench) { b.replaceBuild(current, previous) })
}

// replaceBuild puts the files of another build into the place of one under which containers run, in every phase that lasts, and
// restarts containerd, as an upgrade of the node would. Both builds' lifecyclectl must read both builds' shims.
func (b *bench) replaceBuild(from, to string) {
	b.Helper()
	dir := b.TempDir()
	installFrom(b, from, dir, shimBinary, "lifecycle-hookexec")
	if same(b, filepath.Join(from, shimBinary), filepath.Join(to, shimBinary)) {
		b.Fatalf("the shims in %s and %s are the same: there is nothing to change", from, to)
	}
	old := func(c *harness.ContainerConfig) { c.Runtime = filepath.Join(dir, shimBinary) }
	wait := "touch /begun; while [ ! -e /go ]; do sleep 0.02; done; "
	both := func(more with) with {
		annotations := with{keyPostStart: shell("echo warm >> /handlers"), keyPreStop: shell("echo stopped by $LIFECYCLE_SIGNAL >> /handlers")}
		for key, value := range more {
			annotations[key] = value
		}
		return annotations
	}
	pod := with{"io.kubernetes.cri.sandbox-id": "pod1"}

	running := b.run(both(nil), obedient, old)
	first := b.run(both(pod), obedient, old)
	stopping := b.run(with{keyLifecycle: "{preStop: {" + shell("echo draining; "+wait) + "}, terminationGracePeriodSeconds: 60}"}, obedient, old)
	stopping.waitFor("ready")
	stopping.kill(syscall.SIGTERM)
	stopping.waitFor("begun")
	held, heldStart := b.runLater(with{keyPostStart: shell("echo waiting; " + wait)}, obedient, old)
	held.waitFor("begun")
	before := b.shims()

	installFrom(b, to, dir, shimBinary, "lifecycle-hookexec")
	if err := b.daemon.Terminate(); err != nil {
		b.Fatal(err)
	}
	if r := b.result(heldStart); r.err == nil {
		b.Error("the client is told success by a daemon that has gone")
	}
	if err := b.daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	for pid, path := range b.shims() {
		if path != before[pid]+" (deleted)" {
			b.Errorf("shim %d is %s, was %s", pid, path, before[pid])
		}
	}

	// Told by both builds' command, of what the shim that stays does.
	for _, ctl := range []string{from, to} {
		b.wantFrom(ctl, []string{"Running", "PreStopping (SIGTERM waits)", "(terminationGracePeriodSeconds)", "draining", "PostStarting", "waiting"}, "status")
		b.wantFrom(ctl, []string{"==> preStop", "draining"}, "logs", stopping.ID)
	}
	b.wantFrom(to, nil, "run", running.ID, "preStop")
	if got := running.read("handlers"); got != "warm\nstopped by SIGTERM\n" {
		b.Errorf("a trial of the old shim's handler has written %q", got)
	}

	// They end as they would have.
	held.touch("go")
	b.poll("RUNNING", func() bool { return held.state().Status.String() == "RUNNING" })
	stopping.touch("go")
	stopping.wantExit(7)
	b.stopWithPreStop(running, "warm\nstopped by SIGTERM\nstopped by SIGTERM\n")

	// A pod stays with its shim, also for a container that comes later.
	later := b.run(both(pod), obedient, old)
	if now := b.shims(); len(now) > len(before) {
		b.Errorf("a pod's second container has got a shim of its own: %v, before %v", now, before)
	}
	b.stopWithPreStop(later, "warm\nstopped by SIGTERM\n")
	b.stopWithPreStop(first, "warm\nstopped by SIGTERM\n")

	// What is new is the new build's, and the other build's command reads it.
	fresh := b.run(both(nil), obedient, old)
	found := false
	for pid := range b.shims() {
		found = found || same(b, fmt.Sprintf("/proc/%d/exe", pid), filepath.Join(to, shimBinary))
	}
	if !found {
		b.Errorf("no shim of the new build serves the new container: %v", b.shims())
	}
	events := b.follow(from, fresh)
	b.wantFrom(from, []string{fresh.ID, "postStart exec", "Succeeded"}, "status", fresh.ID)
	b.wantFrom(from, nil, "run", fresh.ID, "preStop")
	b.stopWithPreStop(fresh, strings.Repeat("stopped by SIGTERM\n", strings.Count(fresh.read("handlers"), "stopped")+1), "warm\n")
	b.poll("the old lifecyclectl to read the new shim's events", func() bool { return strings.Contains(events.String(), "preStop Succeeded after") })
}

// stopWithPreStop stops a container and wants that its handlers have written this in all.
func (b *bench) stopWithPreStop(c *container, handlers string, first ...string) {
	b.Helper()
	c.waitFor("ready")
	c.kill(syscall.SIGTERM)
	c.wantExit(7)
	if got := c.read("handlers"); got != strings.Join(first, "")+handlers {
		b.Errorf("the handlers of %s have written %q, want %q", c.ID, got, handlers)
	}
	if _, _, err := c.Delete(b.Context()); err != nil {
		b.Error(err)
	}
}

// shims of the test's daemon: the program that each runs, by process id.
func (b *bench) shims() map[int]string {
	b.Helper()
	all, err := b.daemon.Shims()
	if err != nil {
		b.Fatal(err)
	}
	programs := map[int]string{}
	for _, shim := range all {
		if program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", shim.PID)); err == nil { // else it has ended
			programs[shim.PID] = program
		}
	}
	return programs
}

// same says whether two files have the same content.
func same(t testing.TB, a, b string) bool {
	t.Helper()
	first, err := os.ReadFile(a)
	if err != nil {
		return false // a process that has ended
	}
	second, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(first, second)
}

// wantFrom is wantCtl with the lifecyclectl of a build.
func (b *bench) wantFrom(build string, parts []string, args ...string) {
	b.Helper()
	out, err := b.ctlFrom(b.Context(), build, args...).CombinedOutput()
	if err != nil {
		b.Fatalf("lifecyclectl %s of %s: %v\n%s", strings.Join(args, " "), build, err, out)
	}
	for _, part := range parts {
		if !strings.Contains(string(out), part) {
			b.Errorf("lifecyclectl %s of %s does not say %q:\n%s", strings.Join(args, " "), build, part, out)
		}
	}
}

func (b *bench) ctlFrom(ctx context.Context, build string, args ...string) *exec.Cmd {
	args = append([]string{"--address", b.daemon.Address, "--namespace", b.client.Namespace}, args...)
	return b.daemon.Command(ctx, filepath.Join(build, "lifecyclectl"), args...)
}

// follow runs a build's `lifecyclectl events`, and returns when it is known to see those of the container.
func (b *bench) follow(build string, c *container) *syncBuffer {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	events := &syncBuffer{}
	command := b.ctlFrom(ctx, build, "events")
	command.Stdout, command.Stderr = events, events
	if err := command.Start(); err != nil {
		cancel()
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		_ = command.Wait() // killed by its context
	})
	b.poll("lifecyclectl to follow", func() bool {
		b.wantFrom(build, nil, "run", c.ID, "preStop")
		return strings.Contains(events.String(), c.ID+" preStop Succeeded")
	})
	return events
}
