package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// stick is a filesystem at /stuck in the container, in which a process hangs so that
// SIGKILL does not end it.
func (b *bench) stick() (*harness.StuckFS, func(*harness.ContainerConfig)) {
	b.Helper()
	dir := b.TempDir()
	stuck, err := harness.MountStuckFS(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { b.unstick(stuck) })
	return stuck, edited(func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/stuck", Type: "bind", Source: dir, Options: []string{"bind"}})
	})
}

// unstick lets everything go on. A second time it does nothing.
func (b *bench) unstick(stuck *harness.StuckFS) {
	b.Helper()
	if err := stuck.Close(); err != nil {
		b.Error(err)
	}
}

// sticks waits until a process hangs. A test that fails then lets it go before its
// container is removed.
func (b *bench) sticks(stuck *harness.StuckFS) {
	b.Helper()
	b.Cleanup(func() { b.unstick(stuck) })
	select {
	case <-stuck.Stuck:
	case <-time.After(limit):
		b.Fatal("no process hangs")
	}
}

// hang is a handler that cannot be killed.
const hang = "cat /stuck/x"

// processes of the container that are such.
func (b *bench) processes(c *container, such func(harness.Process) bool) []harness.Process {
	b.Helper()
	var found []harness.Process
	for _, pid := range b.pids(c) {
		if process, err := harness.ProcessByID(int(pid)); err == nil && such(process) {
			found = append(found, process)
		}
	}
	return found
}

func uninterruptible(p harness.Process) bool { return p.State == "D" }

// docs/spec.md#stop-stuck: a preStop that not even SIGKILL ends does not hold the signal back. In
// the host's pid namespace the container exits; in its own the kernel keeps its pid 1
// for as long as anything is left in it (zap_pid_ns_processes), and the shim answers
// meanwhile.
func TestUnkillablePreStop(t *testing.T) {
	onNamespaces(t, []target{pinned}, func(b *bench, edit func(*harness.ContainerConfig)) {
		p := b.newPod()
		stuck, mount := b.stick()
		block := fmt.Sprintf("{preStop: {timeoutSeconds: 5, %s}, terminationGracePeriodSeconds: %d}", shell(hang), hostileGrace)
		c := b.run(with{keyLifecycle: block}, obedient, p.member, edit, mount)
		c.waitFor("ready")
		began := time.Now()
		c.kill(syscall.SIGTERM)
		b.sticks(stuck)
		c.waitFor("signals")
		if took := time.Since(began); took < 5*time.Second || took > promptly {
			b.Errorf("the signal came after %s", took)
		}
		if left := b.processes(c, uninterruptible); len(left) != 1 {
			b.Errorf("processes %v, want the handler still in its sleep", left)
		}
		if status := b.exec(p.bystander, "meanwhile", "/bin/true"); status != 0 {
			b.Errorf("an exec in the bystander ended with %d", status)
		}
		b.unstick(stuck)
		c.wantExit(7)
		if got := c.read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want TERM once", got)
		}
		c.wantEnd("preStop")
		c.delete()
		p.wantUnharmed()
	})
}

// docs/spec.md#no-hang: a start is answered although its handler cannot be ended.
func TestUnkillablePostStart(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		p := b.newPod()
		stuck, mount := b.stick()
		c, result := b.runLater(with{keyLifecycle: "{postStart: {timeoutSeconds: 1, " + shell(hang) + "}, terminationGracePeriodSeconds: 2}"}, obedient, p.member, mount)
		b.sticks(stuck)
		b.wantError(b.result(result).err, "postStart handler failed: timed out, and its process cannot be ended", "the container has not exited yet")
		b.unstick(stuck)
		c.wantExit(7)
		c.delete()
		p.wantUnharmed()
	})
}

// trace attaches to the process as a debugger does, until release is called. A traced
// process that has died is a zombie that nobody but its tracer can reap.
func (b *bench) trace(pid int) (release func()) {
	b.Helper()
	attached, end, done := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the tracer is a thread
		defer runtime.UnlockOSThread()
		err := unix.PtraceSeize(pid)
		attached <- err
		if err != nil {
			return
		}
		<-end
		var status unix.WaitStatus
		_, _ = unix.Wait4(pid, &status, unix.WALL, nil) // hands the zombie to its parent
	}()
	if err := <-attached; err != nil {
		b.Fatal(err)
	}
	return func() {
		close(end)
		<-done
	}
}

// docs/spec.md#stop-stuck: the same where the handler is dead, and its exit withheld.
func TestTracedPreStop(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		p := b.newPod()
		c := b.run(with{keyLifecycle: "{preStop: {timeoutSeconds: 10, " + shell("touch /begun; exec sleep 1002") + "}, terminationGracePeriodSeconds: 60}"}, obedient, p.member, hostPID)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		isHandler := func(p harness.Process) bool { return strings.Join(p.Cmdline, " ") == "sleep 1002" }
		b.poll("the handler", func() bool { return len(b.processes(c, isHandler)) == 1 })
		handler := b.processes(c, isHandler)[0].PID
		release := b.trace(handler)
		c.wantExit(7)
		if process, err := harness.ProcessByID(handler); err != nil || !process.Ended() {
			b.Errorf("the handler is %v, %v, want a zombie of its tracer", process, err)
		}
		if state := c.state(); state.Status != task.Status_STOPPED {
			b.Errorf("state %s, want STOPPED", state.Status)
		}
		c.delete() // docs/spec.md#delete: our part adds at most 2 s
		release()
		p.wantUnharmed()
	})
}

// The memory limit of a container holds for its handlers, and ends whoever needs most.
func TestOutOfMemory(t *testing.T) {
	memory := func(config *harness.ContainerConfig) {
		size := int64(48 << 20)
		edited(func(spec *specs.Spec) { spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &size, Swap: &size} })(config)
	}
	const eat = "exec tail /dev/zero" // a line without an end
	t.Run("handler", func(t *testing.T) {
		on(t, []target{pinned, crun}, func(b *bench) {
			p := b.newPod()
			c, result := b.runLater(with{keyLifecycle: "{postStart: {" + shell(waiting+eat) + "}, preStop: {" + shell("touch /stopped; "+eat) + "}}"}, obedient, p.member, memory)
			c.waitFor("ready")
			c.touch("go")
			b.wantError(b.result(result).err, "postStart handler failed: exit status 137")
			c.wantExit(7)
			c.wantEnd("preStop", "result=Failed", "exit status 137")
			c.delete()
			p.wantUnharmed()
		})
	})
	t.Run("container", func(t *testing.T) {
		on(t, []target{pinned, crun}, func(b *bench) {
			p := b.newPod()
			c, result := b.runLater(with{keyPostStart: shell("touch /begun; sleep 1000")}, []string{"/bin/sh", "-c", "while [ ! -e /begun ]; do sleep 0.02; done; " + eat}, p.member, memory)
			if r := b.result(result); r.err != nil {
				b.Errorf("the start fails: %v", r.err)
			}
			c.wantExit(137)
			c.wantEnd("postStart", "result=Aborted", "container exited")
			c.delete()
			p.wantUnharmed()
		})
	})
}

// docs/spec.md#pause-handler: a pause stops the handler and not its clock, and SIGKILL ends a paused
// container with all that is in it.
func TestPauseDuringPostStart(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		p := b.newPod()
		c, result := b.runLater(with{keyPostStart: "{" + shortly + "failurePolicy: Ignore, " + shell(waiting) + "}"}, obedient, p.member)
		c.waitFor("begun")
		c.waitFor("ready")
		b.pause(c)
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		c.wantEnd("postStart", "result=TimedOut")
		if state := c.state(); state.Status != task.Status_PAUSED {
			b.Errorf("state %s, want PAUSED", state.Status)
		}
		b.resume(c)
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		c.delete()
		p.wantUnharmed()
	})
}

// docs/spec.md#stop-sigkill: SIGKILL passes at once, to a paused container with a handler in it too. On
// cgroup v2 that ends frozen processes. On v1 runc thaws the container of a private pid
// namespace for it; crun, and both in the host's, leave it frozen until it is resumed,
// under the stock shim too.
func TestKillOfPausedContainer(t *testing.T) {
	onNamespaces(t, []target{pinned, crun}, func(b *bench, edit func(*harness.ContainerConfig)) {
		p := b.newPod()
		c := b.run(with{keyPreStop: shell(waiting)}, forever, p.member, edit)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.waitFor("begun")
		b.pause(c)
		c.kill(syscall.SIGKILL)
		c.wantEnd("preStop", "result=Aborted")
		thaws := harness.CgroupV2() || b.target != crun && !strings.Contains(b.Name(), "/host/")
		if state := c.state(); state.Status == task.Status_PAUSED && !thaws {
			b.resume(c)
		}
		c.wantExit(137)
		c.delete()
		p.wantUnharmed()
	})
}

// A handler's process is the container's from its first instruction on: what can be seen
// of the host's program while it still is that, by root in the container, leads nowhere.
func TestHandlerHostIsOutOfReach(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		stuck, mount := b.stick()
		c, result := b.runLater(with{keyPostStart: "{failurePolicy: Ignore, exec: {command: [/stuck/x]}}"}, forever, mount)
		b.sticks(stuck)                                                                                     // it looks for its command, and is the host's program still
		c.waitFor("ready")                                                                                  // before, the entrypoint is the runtime's program, under libcontainer's name too
		host := b.processes(c, func(p harness.Process) bool { return strings.HasPrefix(p.Comm, "runc:[") }) // libcontainer's name
		if len(host) != 1 {
			b.Fatalf("processes %v, want the host's", host)
		}
		own, err := os.Stat(filepath.Join(binDir(b), "lifecycle-hookexec"))
		if err != nil {
			b.Fatal(err)
		}
		runs, err := os.Stat(fmt.Sprintf("/proc/%d/exe", host[0].PID))
		if err != nil || os.SameFile(own, runs) {
			b.Errorf("the process runs the host's own file (%v)", err)
		}
		script := `for p in /proc/[0-9]*; do
			case $(cat $p/comm) in sh|sleep|cat) continue;; esac
			echo "process $(grep NSpid $p/status)"
			for f in $p/exe $p/root $p/cwd $p/fd/*; do readlink $f && echo "$f can be read"; done
			for f in environ mem maps; do head -c1 $p/$f >/dev/null && echo "$f can be read"; done
			(: >> $p/exe) && echo "exe can be written"
		done >> /seen 2>/dev/null; true`
		if status := b.exec(c, "look", "/bin/sh", "-c", script); status != 0 {
			b.Errorf("the look ended with %d", status)
		}
		if got := strings.Split(c.read("seen"), "\n"); len(got) != 2 || !strings.HasPrefix(got[0], "process ") {
			b.Errorf("of the handler's process can be seen %q, want that there is one", got)
		}
		b.unstick(stuck)
		if r := b.result(result); r.err != nil {
			b.Fatal(r.err)
		}
		c.wantEnd("postStart", "result=Failed", "cannot start: ")
	})
}

// docs/spec.md#forced-end: SIGKILL in the host's pid namespace takes what a handler has started, in its
// group or not.
func TestKillInHostPIDNamespace(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		p := b.newPod()
		script := "trap '' TERM; sleep 1001 & setsid sleep 1002 & touch /begun; sleep 1003"
		c := b.run(with{keyPreStop: shell(script)}, forever, p.member, hostPID)
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		b.poll("the handler's children", func() bool { return b.sleepers(c) == "1001 1002 1003" })
		c.kill(syscall.SIGKILL)
		c.wantExit(137)
		c.wantEnd("preStop", "result=Aborted")
		c.delete()
		p.wantUnharmed()
	})
}

// docs/spec.md#user-namespaces: in a user namespace a stop is what it is elsewhere, with a handler that ends
// and with one that has to be ended.
func TestStopInUserNamespace(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		for name, script := range map[string]string{
			"ends": "id -u > /tmp/uid", "must be ended": "id -u > /tmp/uid; trap '' TERM; setsid sleep 1002 & sleep 1000 & sleep 1000", "forks": "id -u > /tmp/uid; " + bomb,
		} {
			c := b.newContainer(with{keyLifecycle: "{preStop: {timeoutSeconds: 5, " + shell(script) + "}, terminationGracePeriodSeconds: 60}"},
				[]string{"/bin/sh", "-c", "trap 'exit 7' TERM; sleep 1000 & touch /tmp/ready; while :; do wait; done"}, ownUsers, limited(16))
			for _, dir := range []string{"tmp", "."} {
				if err := os.Chown(c.path(dir), 100000, 100000); err != nil {
					b.Fatal(err)
				}
			}
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.waitFor("tmp/ready")
			began := time.Now()
			c.kill(syscall.SIGTERM)
			c.wantStopped(name, began)
			if got := c.read("tmp/uid"); got != "0\n" {
				b.Errorf("%s: uid %q in the container, want 0", name, got)
			}
			c.delete()
		}
	})
}

// ownUsers gives the container a user namespace.
var ownUsers = edited(func(spec *specs.Spec) {
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
})

// A full disk below the bundle, where the shim logs and the handlers' state lies, costs
// neither a handler nor a signal.
func TestFullStateDisk(t *testing.T) {
	onOwn(t, []target{pinned}, func(b *bench) {
		bundles := filepath.Join(b.daemon.Dir, "state", "io.containerd.runtime.v2.task")
		mountTmpfs(b, bundles, "4m")
		c := b.newContainer(with{keyPostStart: shell("echo postStart >> /signals"), keyPreStop: shell("echo preStop >> /signals")}, obedient)
		if _, err := c.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		fill(b, filepath.Join(bundles, "full"))
		if _, _, err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.waitFor("ready")
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		if got := c.read("signals"); got != "postStart\npreStop\nTERM\n" {
			b.Errorf("signals %q, want postStart, preStop, TERM", got)
		}
		c.delete()
	})
}
