package node

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const shimBinary = "containerd-shim-lifecycle-v2"

// installed are the two builds between which the tests here change: what `make build` has made, and what the commit in
// integration/previous was.
func builds(t testing.TB) (current, previous string) {
	current = bed.BinDir(t)
	return current, filepath.Join(current, "previous")
}

// docs/spec.md#upgrade: containers of the previous build continue.
func TestUpgrade(t *testing.T) {
	current, previous := builds(t)
	bed.OnOwn(t, bed.Targets, func(b *bed.Bench) { replaceBuild(b, previous, current) })
}

// The way back is the same.
func TestRollback(t *testing.T) {
	current, previous := builds(t)
	bed.OnOwn(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) { replaceBuild(b, current, previous) })
}

// replaceBuild puts the files of another build into the place of one under which containers run, in every phase that lasts, and
// restarts containerd, as an upgrade of the node would. Both builds' lifecyclectl must read both builds' shims.
func replaceBuild(b *bed.Bench, from, to string) {
	b.Helper()
	dir := b.TempDir()
	bed.InstallFrom(b, from, dir, shimBinary, "lifecycle-hookexec")
	if same(b, filepath.Join(from, shimBinary), filepath.Join(to, shimBinary)) {
		b.Fatalf("the shims in %s and %s are the same: there is nothing to change", from, to)
	}
	old := func(c *harness.ContainerConfig) { c.Runtime = filepath.Join(dir, shimBinary) }
	wait := "touch /begun; while [ ! -e /go ]; do sleep 0.02; done; "
	both := func(more bed.Annotations) bed.Annotations {
		annotations := bed.Annotations{bed.KeyPostStart: bed.Shell("echo warm >> /handlers"), bed.KeyPreStop: bed.Shell("echo stopped by $LIFECYCLE_SIGNAL >> /handlers")}
		for key, value := range more {
			annotations[key] = value
		}
		return annotations
	}
	pod := bed.Annotations{"io.kubernetes.cri.sandbox-id": "pod1"}

	running := b.Start(both(nil), bed.Obedient, old)
	first := b.Start(both(pod), bed.Obedient, old)
	stopping := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("echo draining; "+wait) + "}, terminationGracePeriodSeconds: 60}"}, bed.Obedient, old)
	stopping.WaitFor("ready")
	stopping.Signal(syscall.SIGTERM)
	stopping.WaitFor("begun")
	held, heldStart := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("echo waiting; " + wait)}, bed.Obedient, old)
	held.WaitFor("begun")
	before := shimsOf(b)

	bed.InstallFrom(b, to, dir, shimBinary, "lifecycle-hookexec")
	if err := b.Daemon.Terminate(); err != nil {
		b.Fatal(err)
	}
	if r := b.Await(heldStart); r.Err == nil {
		b.Error("the client got success from a daemon that has gone")
	}
	if err := b.Daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	for pid, path := range shimsOf(b) {
		if path != before[pid]+" (deleted)" {
			b.Errorf("shim %d is %s, was %s", pid, path, before[pid])
		}
	}

	// Both builds' commands show what the shim that stays does. Older builds show PreStopping and PostStarting.
	for _, ctl := range []string{from, to} {
		wantFrom(b, ctl, []string{"Running", "PreStop", "(SIGTERM waits)", "(terminationGracePeriodSeconds)", "draining", "PostStart", "waiting"}, "status")
		wantFrom(b, ctl, []string{"==> preStop", "draining"}, "logs", stopping.ID)
	}
	wantFrom(b, to, nil, "run", running.ID, "preStop")
	if got := running.Read("handlers"); got != "warm\nstopped by SIGTERM\n" {
		b.Errorf("a trial of the old shim's handler has written %q", got)
	}

	// They end as they would have.
	held.Touch("go")
	b.Poll("RUNNING", func() bool { return held.MustState().Status.String() == "RUNNING" })
	stopping.Touch("go")
	stopping.WantExit(7)
	stopWithPreStop(b, running, "warm\nstopped by SIGTERM\nstopped by SIGTERM\n")

	// A pod stays with its shim, also for a container that comes later.
	later := b.Start(both(pod), bed.Obedient, old)
	if now := shimsOf(b); len(now) > len(before) {
		b.Errorf("a pod's second container has got its own shim: %v, before %v", now, before)
	}
	stopWithPreStop(b, later, "warm\nstopped by SIGTERM\n")
	stopWithPreStop(b, first, "warm\nstopped by SIGTERM\n")

	// What is new is the new build's, and the other build's command reads it.
	fresh := b.Start(both(nil), bed.Obedient, old)
	found := false
	for pid := range shimsOf(b) {
		found = found || same(b, fmt.Sprintf("/proc/%d/exe", pid), filepath.Join(to, shimBinary))
	}
	if !found {
		b.Errorf("no shim of the new build serves the new container: %v", shimsOf(b))
	}
	events := follow(b, from, fresh)
	wantFrom(b, from, []string{fresh.ID, "postStart exec", "Succeeded"}, "status", fresh.ID)
	wantFrom(b, from, nil, "run", fresh.ID, "preStop")
	stopWithPreStop(b, fresh, strings.Repeat("stopped by SIGTERM\n", strings.Count(fresh.Read("handlers"), "stopped")+1), "warm\n")
	b.Poll("the old lifecyclectl to read the new shim's events", func() bool { return strings.Contains(events.String(), "preStop Succeeded after") })
}

// stopWithPreStop stops a container and wants that its handlers have written this in all.
func stopWithPreStop(b *bed.Bench, c *bed.Container, handlers string, first ...string) {
	b.Helper()
	c.WaitFor("ready")
	c.Signal(syscall.SIGTERM)
	c.WantExit(7)
	if got := c.Read("handlers"); got != strings.Join(first, "")+handlers {
		b.Errorf("the handlers of %s have written %q, want %q", c.ID, got, handlers)
	}
	if _, _, err := c.Delete(b.Context()); err != nil {
		b.Error(err)
	}
}

// shimsOf of the test's daemon: the program that each runs, by process id.
func shimsOf(b *bed.Bench) map[int]string {
	b.Helper()
	all, err := b.Daemon.Shims()
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
func wantFrom(b *bed.Bench, build string, parts []string, args ...string) {
	b.Helper()
	out, err := ctlFrom(b.Context(), b, build, args...).CombinedOutput()
	if err != nil {
		b.Fatalf("lifecyclectl %s of %s: %v\n%s", strings.Join(args, " "), build, err, out)
	}
	for _, part := range parts {
		if !strings.Contains(string(out), part) {
			b.Errorf("lifecyclectl %s of %s does not say %q:\n%s", strings.Join(args, " "), build, part, out)
		}
	}
}

func ctlFrom(ctx context.Context, b *bed.Bench, build string, args ...string) *exec.Cmd {
	args = append([]string{"--address", b.Daemon.Address, "--namespace", b.Client.Namespace}, args...)
	return b.Daemon.Command(ctx, filepath.Join(build, "lifecyclectl"), args...)
}

// follow runs a build's `lifecyclectl events`, and returns when it is known to see those of the container.
func follow(b *bed.Bench, build string, c *bed.Container) *syncBuffer {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	events := &syncBuffer{}
	command := ctlFrom(ctx, b, build, "events")
	command.Stdout, command.Stderr = events, events
	if err := command.Start(); err != nil {
		cancel()
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		_ = command.Wait() // killed by its context
	})
	b.Poll("lifecyclectl to follow", func() bool {
		wantFrom(b, build, nil, "run", c.ID, "preStop")
		return strings.Contains(events.String(), c.ID+" preStop Succeeded")
	})
	return events
}
