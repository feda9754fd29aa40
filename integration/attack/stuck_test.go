package attack

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// stick is a filesystem at /stuck in the container, in which a process hangs so that
// SIGKILL does not end it.
func stick(b *bed.Bench) (*harness.StuckFS, func(*harness.ContainerConfig)) {
	b.Helper()
	dir := b.TempDir()
	stuck, err := harness.MountStuckFS(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unstick(b, stuck) })
	return stuck, bed.EditSpec(func(spec *specs.Spec) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/stuck", Type: "bind", Source: dir, Options: []string{"bind"}})
	})
}

// unstick lets everything continue. A second time it does nothing.
func unstick(b *bed.Bench, stuck *harness.StuckFS) {
	b.Helper()
	if err := stuck.Close(); err != nil {
		b.Error(err)
	}
}

// sticks waits until a process hangs. A test that fails then lets it go before its
// container is removed.
func sticks(b *bed.Bench, stuck *harness.StuckFS) {
	b.Helper()
	b.Cleanup(func() { unstick(b, stuck) })
	select {
	case <-stuck.Stuck:
	case <-time.After(bed.Limit):
		b.Fatal("no process hangs")
	}
}

// hang is a handler that cannot be killed.
const hang = "cat /stuck/x"

func uninterruptible(p harness.Process) bool { return p.State == "D" }

// docs/spec.md#stop-stuck: a preStop that not even SIGKILL ends does not hold the signal back. In
// the host's pid namespace the container exits; in its own the kernel keeps its pid 1
// for as long as anything is left in it (zap_pid_ns_processes), and the shim answers
// meanwhile.
func TestUnkillablePreStop(t *testing.T) {
	onNamespaces(t, []bed.Target{bed.Pinned}, func(b *bed.Bench, edit func(*harness.ContainerConfig)) {
		p := b.NewGroup()
		stuck, mount := stick(b)
		block := fmt.Sprintf("{preStop: {timeoutSeconds: 5, %s}, terminationGracePeriodSeconds: %d}", bed.Shell(hang), hostileGrace)
		c := b.Start(bed.Annotations{bed.KeyLifecycle: block}, bed.Obedient, p.Member, edit, mount)
		c.WaitFor("ready")
		began := time.Now()
		c.Signal(syscall.SIGTERM)
		sticks(b, stuck)
		c.WaitFor("signals")
		if took := time.Since(began); took < 5*time.Second || took > promptly {
			b.Errorf("the signal came after %s", took)
		}
		if left := b.Processes(c, uninterruptible); len(left) != 1 {
			b.Errorf("processes %v, want the handler still in its sleep", left)
		}
		if status := b.Exec(p.Bystander, "meanwhile", "/bin/true"); status != 0 {
			b.Errorf("an exec in the bystander ended with %d", status)
		}
		unstick(b, stuck)
		c.WantExit(7)
		if got := c.Read("signals"); got != "TERM\n" {
			b.Errorf("signals %q, want TERM once", got)
		}
		c.WantEnd("preStop")
		c.DeleteTask()
		p.WantUnharmed()
	})
}

// docs/spec.md#no-hang: a start is answered although its handler cannot be ended.
func TestUnkillablePostStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		p := b.NewGroup()
		stuck, mount := stick(b)
		c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {timeoutSeconds: 1, " + bed.Shell(hang) + "}, terminationGracePeriodSeconds: 2}"}, bed.Obedient, p.Member, mount)
		sticks(b, stuck)
		b.WantError(b.Await(result).Err, "postStart handler failed: timed out, and its process cannot be ended", "the container has not exited yet")
		unstick(b, stuck)
		c.WantExit(7)
		c.DeleteTask()
		p.WantUnharmed()
	})
}

// trace attaches to the process as a debugger does, until release is called. A traced
// process that has died is a zombie that only its tracer can reap.
func trace(b *bed.Bench, pid int) (release func()) {
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
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		p := b.NewGroup()
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{preStop: {timeoutSeconds: 10, " + bed.Shell("touch /begun; exec sleep 1002") + "}, terminationGracePeriodSeconds: 60}"}, bed.Obedient, p.Member, bed.HostPID)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		isHandler := func(p harness.Process) bool { return strings.Join(p.Cmdline, " ") == "sleep 1002" }
		b.Poll("the handler", func() bool { return len(b.Processes(c, isHandler)) == 1 })
		handler := b.Processes(c, isHandler)[0].PID
		release := trace(b, handler)
		c.WantExit(7)
		if process, err := harness.ProcessByID(handler); err != nil || !process.Ended() {
			b.Errorf("the handler is %v, %v, want a zombie of its tracer", process, err)
		}
		if state := c.MustState(); state.Status != task.Status_STOPPED {
			b.Errorf("state %s, want STOPPED", state.Status)
		}
		c.DeleteTask() // docs/spec.md#delete: our part adds at most 2 s
		release()
		p.WantUnharmed()
	})
}

// The memory limit of a container holds for its handlers, and ends the process that needs most.
func TestOutOfMemory(t *testing.T) {
	memory := func(config *harness.ContainerConfig) {
		size := int64(48 << 20)
		bed.EditSpec(func(spec *specs.Spec) { spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &size, Swap: &size} })(config)
	}
	const eat = "exec tail /dev/zero" // a line without an end
	t.Run("handler", func(t *testing.T) {
		bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
			p := b.NewGroup()
			c, result := b.StartLater(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell(bed.WaitForGo+eat) + "}, preStop: {" + bed.Shell("touch /stopped; "+eat) + "}}"}, bed.Obedient, p.Member, memory)
			c.WaitFor("ready")
			c.Touch("go")
			b.WantError(b.Await(result).Err, "postStart handler failed: exit status 137")
			c.WantExit(7)
			c.WantEnd("preStop", "result=Failed", "exit status 137")
			c.DeleteTask()
			p.WantUnharmed()
		})
	})
	t.Run("container", func(t *testing.T) {
		bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
			p := b.NewGroup()
			c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("touch /begun; sleep 1000")}, []string{"/bin/sh", "-c", "while [ ! -e /begun ]; do sleep 0.02; done; " + eat}, p.Member, memory)
			if r := b.Await(result); r.Err != nil {
				b.Errorf("the start fails: %v", r.Err)
			}
			c.WantExit(137)
			c.WantEnd("postStart", "result=Aborted", "container exited")
			c.DeleteTask()
			p.WantUnharmed()
		})
	})
}

// docs/spec.md#pause-handler: a pause stops the handler and not its clock, and SIGKILL ends a paused
// container with all that is in it.
func TestPauseDuringPostStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		p := b.NewGroup()
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{" + bed.ShortTimeout + "failurePolicy: Ignore, " + bed.Shell(bed.WaitForGo) + "}"}, bed.Obedient, p.Member)
		c.WaitFor("begun")
		c.WaitFor("ready")
		b.Pause(c)
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		c.WantEnd("postStart", "result=TimedOut")
		if state := c.MustState(); state.Status != task.Status_PAUSED {
			b.Errorf("state %s, want PAUSED", state.Status)
		}
		b.Resume(c)
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.DeleteTask()
		p.WantUnharmed()
	})
}

// docs/spec.md#stop-sigkill: SIGKILL passes at once, to a paused container with a handler in it too. On
// cgroup v2 that ends frozen processes. On v1 runc thaws the container of a private pid
// namespace for it; crun, and both in the host's, leave it frozen until it is resumed,
// under the stock shim too.
func TestKillOfPausedContainer(t *testing.T) {
	onNamespaces(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench, edit func(*harness.ContainerConfig)) {
		p := b.NewGroup()
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell(bed.WaitForGo)}, bed.Forever, p.Member, edit)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WaitFor("begun")
		b.Pause(c)
		c.Signal(syscall.SIGKILL)
		c.WantEnd("preStop", "result=Aborted")
		thaws := harness.CgroupV2() || b.Target != bed.Crun && !strings.Contains(b.Name(), "/host/")
		if state := c.MustState(); state.Status == task.Status_PAUSED && !thaws {
			b.Resume(c)
		}
		c.WantExit(137)
		c.DeleteTask()
		p.WantUnharmed()
	})
}

// A handler's process is the container's from its first instruction on: what can be seen
// of the host's program while it still is that, by root in the container, leads nowhere.
func TestHandlerHostIsOutOfReach(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		stuck, mount := stick(b)
		c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{failurePolicy: Ignore, exec: {command: [/stuck/x]}}"}, bed.Forever, mount)
		sticks(b, stuck)                                                                                    // it looks for its command, and is the host's program still
		c.WaitFor("ready")                                                                                  // before, the entrypoint is the runtime's program, under libcontainer's name too
		host := b.Processes(c, func(p harness.Process) bool { return strings.HasPrefix(p.Comm, "runc:[") }) // libcontainer's name
		if len(host) != 1 {
			b.Fatalf("processes %v, want the host's", host)
		}
		own, err := os.Stat(filepath.Join(bed.BinDir(b), "lifecycle-hookexec"))
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
		if status := b.Exec(c, "look", "/bin/sh", "-c", script); status != 0 {
			b.Errorf("the look ended with %d", status)
		}
		if got := strings.Split(c.Read("seen"), "\n"); len(got) != 2 || !strings.HasPrefix(got[0], "process ") {
			b.Errorf("of the handler's process can be seen %q, want that there is one", got)
		}
		unstick(b, stuck)
		if r := b.Await(result); r.Err != nil {
			b.Fatal(r.Err)
		}
		c.WantEnd("postStart", "result=Failed", "cannot start: ")
	})
}

// docs/spec.md#forced-end: SIGKILL in the host's pid namespace takes what a handler has started, in its
// group or not.
func TestKillInHostPIDNamespace(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		p := b.NewGroup()
		script := "trap '' TERM; sleep 1001 & setsid sleep 1002 & touch /begun; sleep 1003"
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell(script)}, bed.Forever, p.Member, bed.HostPID)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		b.Poll("the handler's children", func() bool { return b.Sleepers(c) == "1001 1002 1003" })
		c.Signal(syscall.SIGKILL)
		c.WantExit(137)
		c.WantEnd("preStop", "result=Aborted")
		c.DeleteTask()
		p.WantUnharmed()
	})
}

// docs/spec.md#user-namespaces: in a user namespace a stop is what it is elsewhere, with a handler that ends
// and with one that has to be ended.
func TestStopInUserNamespace(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for name, script := range map[string]string{
			"ends": "id -u > /tmp/uid", "must be ended": "id -u > /tmp/uid; trap '' TERM; setsid sleep 1002 & sleep 1000 & sleep 1000", "forks": "id -u > /tmp/uid; " + bomb,
		} {
			c := b.NewContainer(bed.Annotations{bed.KeyLifecycle: "{preStop: {timeoutSeconds: 5, " + bed.Shell(script) + "}, terminationGracePeriodSeconds: 60}"},
				[]string{"/bin/sh", "-c", "trap 'exit 7' TERM; sleep 1000 & touch /tmp/ready; while :; do wait; done"}, bed.OwnUsers, bed.LimitPids(16))
			for _, dir := range []string{"tmp", "."} {
				if err := os.Chown(c.Path(dir), 100000, 100000); err != nil {
					b.Fatal(err)
				}
			}
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.WaitFor("tmp/ready")
			began := time.Now()
			c.Signal(syscall.SIGTERM)
			wantStopped(c, name, began)
			if got := c.Read("tmp/uid"); got != "0\n" {
				b.Errorf("%s: uid %q in the container, want 0", name, got)
			}
			c.DeleteTask()
		}
	})
}

// A full disk below the bundle, where the shim logs and the handlers' state lies, costs
// neither a handler nor a signal.
func TestFullStateDisk(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		bundles := filepath.Join(b.Daemon.Dir, "state", "io.containerd.runtime.v2.task")
		mountTmpfs(b, bundles, "4m")
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("echo postStart >> /signals"), bed.KeyPreStop: bed.Shell("echo preStop >> /signals")}, bed.Obedient)
		if _, err := c.Create(b.Context()); err != nil {
			b.Fatal(err)
		}
		fill(b, filepath.Join(bundles, "full"))
		if _, _, err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		if got := c.Read("signals"); got != "postStart\npreStop\nTERM\n" {
			b.Errorf("signals %q, want postStart, preStop, TERM", got)
		}
		c.DeleteTask()
	})
}
