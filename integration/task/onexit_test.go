package task

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

const keyOnExit = "lifecycle-shim.io/onExit"

func littleMemory(config *harness.ContainerConfig) {
	edit := config.Edit
	config.Edit = func(spec *specs.Spec) {
		if edit != nil {
			edit(spec)
		}
		most := int64(32 << 20)
		spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &most, Swap: &most}
	}
}

// docs/spec.md#onexit-result: once, with the right result, before TaskExit; the status is unchanged.
func TestOnExitIsToldTheEnd(t *testing.T) {
	for name, end := range map[string]struct {
		args         []string
		kill         syscall.Signal
		status       uint32
		told, before string
	}{
		"completed":          {[]string{"/bin/sh", "-c", "exit 0"}, 0, 0, "onExit completed code=0 signal=", ""},
		"exit code":          {[]string{"/bin/sh", "-c", "exit 3"}, 0, 3, "onExit exit-code code=3 signal=", ""},
		"SIGKILL":            {bed.Forever, syscall.SIGKILL, 137, bed.ReportedSIGKILL, bed.ReportedSIGKILLBefore},
		"SIGTERM":            {bed.Obedient, syscall.SIGTERM, 7, "onExit exit-code code=7 signal=", ""},
		"looks like SIGKILL": {[]string{"/bin/sh", "-c", "exit 137"}, 0, 137, "onExit exit-code code=137 signal=", bed.ReportedSIGKILLBefore},
		"OOM":                {bed.MemoryHog, 0, 137, bed.ReportedOOM, bed.ReportedOOMBefore},
	} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, bed.Targets, func(b *bed.Bench) {
				c := b.Start(bed.Annotations{keyOnExit: bed.Shell(bed.Report)}, end.args, littleMemory)
				if end.kill != 0 {
					c.WaitFor("ready")
					c.Signal(end.kill)
				}
				c.WantExit(end.status)
				if got, want := c.Read("told"), bed.Reported(t, end.told, end.before)+"\n"; got != want {
					b.Errorf("told %q, want %q", got, want)
				}
				if status, _, err := c.Delete(b.Context()); err != nil || status != end.status {
					b.Errorf("Delete tells %d, %v", status, err)
				}
				want := []string{bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete}
				if name == "OOM" {
					want = append(want, bed.TopicOOM)
				}
				c.WantTopics(want...)
			})
		})
	}
}

// docs/spec.md#onexit: TaskExit, Wait and Delete are held, State says STOPPED with the status.
func TestOnExitHoldsTheEnd(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: "{" + bed.Shell("cd /; "+bed.WaitForGo) + ", timeoutSeconds: 300}"}, []string{"/bin/sh", "-c", "exit 3"})
		waited, deletion := make(chan bed.Answer, 1), make(chan bed.Answer, 1)
		c.WaitFor("begun")
		if state := c.MustState(); state.Status != task.Status_STOPPED || state.ExitStatus != 3 {
			b.Errorf("state %+v while onExit runs, want STOPPED with 3", state)
		}
		go func() {
			status, err := c.Wait(b.Context())
			if status != 3 {
				err = fmt.Errorf("Wait tells %d, %w", status, err)
			}
			waited <- bed.Answer{Err: err}
		}()
		go func() {
			_, took, err := c.Delete(b.Context())
			deletion <- bed.Answer{Err: err, Took: took}
		}()
		if took, err := c.Kill(b.Context(), syscall.SIGTERM); err != nil || took > bed.Limit { // onExit would hold it for as long as it waits
			b.Errorf("a stop signal meanwhile: %v after %s", err, took)
		}
		if pids, err := c.Pids(b.Context()); b.Target != bed.Crun && (err != nil || len(pids) == 0) { // crun 1.8.1 crashes on a container that has stopped
			b.Errorf("pids %v, %v: want those of onExit", pids, err)
		}
		select {
		case r := <-waited:
			b.Fatalf("Wait is answered while onExit runs: %v", r.Err)
		case r := <-deletion:
			b.Fatalf("Delete is answered while onExit runs: %v", r.Err)
		default:
		}
		if topics := b.Topics(c.ID); slices.Contains(topics, bed.TopicExit) {
			b.Errorf("TaskExit is published while onExit runs: %v", topics)
		}
		c.Touch("go")
		if r := b.Await(waited); r.Err != nil {
			b.Error(r.Err)
		}
		if r := b.Await(deletion); r.Err != nil {
			b.Error(r.Err)
		}
		c.WantTopics(bed.TopicCreate, bed.TopicStart, bed.TopicExit, bed.TopicDelete)
	})
}

// docs/spec.md#onexit-kill: SIGKILL ends it at once, its own time limit too.
func TestOnExitIsEnded(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: "{" + bed.Shell("touch /begun; sleep 1000 & sleep 1000") + ", timeoutSeconds: 300}"}, []string{"/bin/true"})
		c.WaitFor("begun")
		c.Signal(syscall.SIGKILL)
		begin := time.Now()
		c.WantExit(0)
		if took := time.Since(begin); took > bed.Limit {
			b.Errorf("it took %s after SIGKILL", took)
		}
		limited := b.Start(bed.Annotations{keyOnExit: "{" + bed.Shell("sleep 1000") + ", timeoutSeconds: 1}"}, []string{"/bin/true"})
		limited.WantExit(0)
		failing := b.Start(bed.Annotations{keyOnExit: "{" + bed.Shell(bed.Report+"test $(wc -l < /told) = 3") + ", retryPeriodSeconds: 1}"}, []string{"/bin/true"})
		failing.WantExit(0)
		if got := strings.Count(failing.Read("told"), "\n"); got != 3 {
			b.Errorf("%d tries, want 3", got)
		}
	})
}

// docs/spec.md#onexit-result: after a failed start, with start-failed; Start is answered when it has ended.
func TestOnExitAfterFailedStart(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		c, result := b.StartLater(bed.Annotations{bed.KeyPreStart: bed.Shell("exit 3"), keyOnExit: bed.Shell("sleep 0.2; " + bed.Report)}, bed.Forever)
		b.WantError(b.Await(result).Err, "preStart handler failed: exit status 3")
		if got := c.Read("told"); got != "onExit start-failed code= signal=\n" {
			b.Errorf("told %q", got)
		}
		c.WantExit(137)
	})
}

// docs/spec.md#onexit-place: the mounts as the container has left them, its network and its other namespaces; a new pid namespace.
func TestOnExitHasWhatIsLeft(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		tmpfs := func(config *harness.ContainerConfig) {
			config.Capabilities = []string{"CAP_SYS_ADMIN"}
			config.Edit = func(spec *specs.Spec) {
				spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
			}
		}
		namespaces := "for ns in cgroup ipc net user uts; do readlink /proc/self/ns/$ns; done > /%s; readlink /proc/self/ns/pid > /%s-pid; hostname > /%s-hostname; "
		say := func(name string) string { return strings.ReplaceAll(namespaces, "%s", name) }
		c := b.Start(bed.Annotations{keyOnExit: bed.Shell(say("after") + "cat /tmp/kept /own/kept > /kept; echo $$ > /pid; echo /proc/[0-9]* > /processes; id > /id")},
			[]string{"/bin/sh", "-c", say("before") + "hostname changed; hostname > /before-hostname; echo tmpfs > /tmp/kept; mkdir /own; mount -t tmpfs own /own; echo own > /own/kept; sleep 1000 & exit 0"}, tmpfs)
		c.WantExit(0)
		if got := c.Read("kept"); got != "tmpfs\nown\n" {
			b.Errorf("of the mounts there is %q", got)
		}
		for _, name := range []string{"", "-hostname"} {
			if before, after := c.Read("before"+name), c.Read("after"+name); before != after {
				b.Errorf("before %q, after %q", before, after)
			}
		}
		if c.Read("before-pid") == c.Read("after-pid") {
			b.Error("the pid namespace is the old one")
		}
		if pid, processes := c.Read("pid"), c.Read("processes"); pid != "1\n" || processes != "/proc/1\n" {
			b.Errorf("onExit is process %q of %q", pid, processes)
		}
	})
}

// docs/spec.md#onexit-place: the identity, the limits and the filter of the container's process, in a cgroup below its own.
func TestOnExitHasTheIdentityOfTheContainer(t *testing.T) {
	for name, edit := range map[string]func(*harness.ContainerConfig){"default": func(*harness.ContainerConfig) {}, "strict": strict, "no cgroup path": noCgroupsPath} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				shared := b.TempDir()
				if err := os.Chmod(shared, 0o777); err != nil {
					b.Fatal(err)
				}
				script := "(" + look + "rmdir /tmp/x1; cat /proc/mounts | grep -v ' /proc' | sort; ls /proc/kcore /proc/sys/kernel; touch /proc/sys/kernel/x 2>&1; cat /proc/self/cgroup) > /out/%s; touch /out/%s-done"
				own := func(name string) string { return strings.ReplaceAll(script, "%s", name) }
				c := b.Start(bed.Annotations{keyOnExit: bed.Shell(own("after"))}, []string{"/bin/sh", "-c", own("init")}, edit, littleMemory,
					func(config *harness.ContainerConfig) { bindOut(config, shared) })
				c.WantExit(0)
				before, after := bed.ReadFile(b, shared, "init"), bed.ReadFile(b, shared, "after")
				after = strings.ReplaceAll(after, "/onExit", "")
				if differing := lines(before, after); len(differing) > 0 {
					b.Errorf("onExit differs from pid 1:\n%s", strings.Join(differing, "\n"))
				}
				if !strings.Contains(before, "Seccomp:") {
					b.Errorf("pid 1 says too little of itself: %s", before)
				}
			})
		})
	}
}

// noCgroupsPath leaves it to the runtime, which names the cgroup by the container's id, on the whole machine.
func noCgroupsPath(config *harness.ContainerConfig) {
	config.ID = filepath.Base(config.CgroupParent) + "-" + config.ID
	bed.EditSpec(func(spec *specs.Spec) { spec.Linux.CgroupsPath = "" })(config)
}

// lines that only one of two texts has. A new pid or mount namespace has a new number.
func lines(before, after string) []string {
	var differing []string
	for sign, texts := range map[string][2]string{"-": {before, after}, "+": {after, before}} {
		for line := range strings.Lines(texts[0]) {
			if !strings.Contains(texts[1], line) && !strings.HasPrefix(line, "mnt:") && !strings.HasPrefix(line, "pid:") {
				differing = append(differing, sign+strings.TrimSpace(line))
			}
		}
	}
	return differing
}

// docs/spec.md#onexit-place: the container's limits hold for it too.
func TestOnExitHasTheLimitsOfTheContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: bed.Shell("tail /dev/zero; echo $? > /status")}, []string{"/bin/true"}, littleMemory)
		c.WantExit(0)
		if got := c.Read("status"); got != "137\n" {
			b.Errorf("a process that takes all memory ended with %q, want 137", got)
		}
	})
}

// docs/spec.md#onexit-place: no descriptor beyond 0, 1 and 2.
func TestOnExitDescriptors(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: bed.Shell(`sleep 1000 & ls -l /proc/$!/fd > /fds; tty > /tty`)}, []string{"/bin/true"})
		c.WantExit(0)
		var fds []string
		for line := range strings.Lines(c.Read("fds")) {
			if _, link, ok := strings.Cut(strings.TrimSpace(line), " -> "); ok {
				fds = append(fds, link)
			}
		}
		// The first is the runtime's, which has no path in the container, or the shell's for what it runs in the background.
		if len(fds) != 3 || fds[0] != "/null" && fds[0] != "/dev/null" || !strings.HasPrefix(fds[1], "pipe:") || fds[1] != fds[2] {
			b.Errorf("descriptors %v, want /dev/null and one pipe twice", fds)
		}
		if got := c.Read("tty"); got != "not a tty\n" {
			b.Errorf("terminal %q, want none", got)
		}
	})
}

// docs/spec.md#onexit-crash: containerd, the shim or the host is killed: nothing hangs, nothing is left.
func TestOnExitAndDeadShim(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		b.Watch.ShimsKilled = true // with -debug a shim that is killed leaves its profiler's socket, under stock too
		c := b.Start(bed.Annotations{keyOnExit: "{" + bed.Shell("touch /begun; sleep 1000") + ", timeoutSeconds: 20}"}, []string{"/bin/sh", "-c", "exit 3"})
		c.WaitFor("begun")
		shims, err := b.Daemon.Shims()
		if err != nil || len(shims) != 1 {
			b.Fatalf("shims %v, %v", shims, err)
		}
		if err := syscall.Kill(shims[0].PID, syscall.SIGKILL); err != nil {
			b.Fatal(err)
		}
		b.Poll("TaskExit of containerd's own", func() bool { return slices.Contains(b.Topics(c.ID), bed.TopicExit) })
	})
}

// A container with a shared pid namespace: what onExit has started goes with it.
func TestOnExitInSharedPIDNamespace(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: bed.Shell("sleep 1000 & " + bed.Report)}, []string{"/bin/true"}, bed.HostPID)
		c.WantExit(0)
		if got := c.Read("told"); got != "onExit completed code=0 signal=\n" {
			b.Errorf("told %q", got)
		}
		if _, err := os.Stat(filepath.Join("/proc", "self")); err != nil {
			b.Fatal(err)
		}
	})
}

// docs/spec.md#onexit-place: root is the container's in a user namespace too, and the mounts are there.
func TestOnExitInUserNamespace(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{keyOnExit: bed.Shell(`(id -u; cat /proc/self/uid_map; echo $LIFECYCLE_RESULT; cat /own/kept) > /tmp/after`)},
			[]string{"/bin/sh", "-c", "mkdir /tmp/own && mount -t tmpfs own /tmp/own && echo own > /tmp/own/kept && mkdir /own && mount --bind /tmp/own /own; exit 3"},
			bed.OwnUsers, func(config *harness.ContainerConfig) {
				config.Capabilities = []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
			})
		for _, dir := range []string{"tmp", "."} {
			if err := os.Chown(c.Path(dir), 100000, 100000); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := c.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.WantExit(3)
		if got := strings.Join(strings.Fields(c.Read("tmp/after")), " "); got != "0 0 100000 65536 exit-code own" {
			b.Errorf("after the end: %q", got)
		}
	})
}

// docs/spec.md#onexit-place: httpGet and tcpSocket connect in the network namespace that was kept; a sleep sleeps.
func TestOnExitInTheContainersNetwork(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		port := strayServer(b)
		tcp, hit := fmt.Sprintf("tcpSocket: {port: %d}", port), bed.Hit{Scheme: "http", Host: fmt.Sprintf("localhost:%d", port), URI: "/bye"}
		server := b.Start(bed.Annotations{bed.KeyPostStart: bed.WithRetry(tcp)}, serverArgs(port), serverOnly(b), ownNetwork)
		join := func(config *harness.ContainerConfig) {
			addNamespace(config, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", server.MustState().PID)})
		}
		for handler, want := range map[string]string{
			fmt.Sprintf("httpGet: {port: %d, path: /bye}", port): "Succeeded", tcp: "Succeeded", "tcpSocket: {port: 1}": "Failed", "sleep: {seconds: 0}": "Succeeded",
		} {
			c := b.Start(bed.Annotations{keyOnExit: "{" + handler + "}"}, []string{"/bin/true"}, join)
			c.WantExit(0)
			if got := finished(b, c, "onExit"); got != want {
				b.Errorf("%s: %q, want %s", handler, got, want)
			}
		}
		if got := server.Hits(); len(got) != 1 || got[0] != hit {
			b.Errorf("the server was asked %v", got)
		}
	})
}

// finished is how the container's handler of that name has ended, as the event reports.
func finished(b *bed.Bench, c *bed.Container, handler string) string {
	b.Helper()
	result := ""
	b.Poll("HandlerFinished", func() bool {
		for _, event := range b.Events.All() {
			if finished, ok := event.Value.(*lifecyclev1.HandlerFinished); ok && finished.ContainerId == c.ID && finished.Handler == handler {
				result = finished.Result
				return true
			}
		}
		return false
	})
	return result
}

// docs/spec.md#onexit-crash: containerd dies meanwhile: it continues, or is ended, and nothing hangs or is left.
func TestDaemonRestartDuringOnExit(t *testing.T) {
	bed.OnOwn(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: "{" + bed.Shell(bed.WaitForGo+bed.Report) + ", timeoutSeconds: 300}"}, []string{"/bin/sh", "-c", "exit 3"})
		c.WaitFor("begun")
		if err := b.Daemon.Kill(); err != nil {
			b.Fatal(err)
		}
		if err := b.Daemon.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.Touch("go")
		c.WaitFor("told")
		b.Logf("after the restart: %v", c.MustState())
		c.WantExit(3)
		if got := c.Read("told"); got != "onExit exit-code code=3 signal=\n" {
			b.Errorf("told %q", got)
		}
	})
}

// docs/spec.md#onexit-crash: the same for one without a process. containerd takes a shim without processes for a leftover when it
// starts, and asks for a Delete, for 5 s.
func TestDaemonRestartDuringOnExitWithoutProcess(t *testing.T) {
	bed.OnOwn(t, bed.Targets, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: "{tcpSocket: {port: 1, host: localhost}, retryPeriodSeconds: 1, timeoutSeconds: 60}"}, []string{"/bin/sh", "-c", "exit 3"})
		b.Poll("the exit", func() bool { return c.MustState().Status == task.Status_STOPPED })
		if err := b.Daemon.Kill(); err != nil {
			b.Fatal(err)
		}
		if err := b.Daemon.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		c.Signal(syscall.SIGKILL) // nothing else ends it
		c.WantExit(3)
	})
}

// docs/spec.md#onexit-crash: any of its processes is killed: the container's end comes, with its status.
func TestOnExitsOwnProcessesAreKilled(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: bed.Shell("touch /begun; sleep 1000 & sleep 1000")}, []string{"/bin/sh", "-c", "exit 3"})
		c.WaitFor("begun")
		killOnExit(b, c)
		c.WantExit(3)
		if got := finished(b, c, "onExit"); got != "Failed" {
			b.Errorf("result %q", got)
		}
	})
}

// docs/spec.md#onexit-crash: the handler host is killed, or the runtime hangs, while onExit is being made: the end comes, nothing is left.
func TestOnExitCannotBeMade(t *testing.T) {
	for name, end := range map[string]struct {
		do      func(b *bed.Bench, c *bed.Container)
		want    string
		seconds int // its time
	}{
		"host killed": {func(b *bed.Bench, _ *bed.Container) { killHost(b) }, "Failed", 60},
		"SIGKILL":     {func(_ *bed.Bench, c *bed.Container) { c.Signal(syscall.SIGKILL) }, "Aborted", 60},
		"time is up":  {func(*bed.Bench, *bed.Container) {}, "TimedOut", 3},
	} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				began := filepath.Join(b.TempDir(), "began")
				c := b.Start(bed.Annotations{keyOnExit: fmt.Sprintf("{%s, timeoutSeconds: %d}", bed.Shell("true"), end.seconds)}, []string{"/bin/sh", "-c", "exit 3"}, hangingRuntime(b, began))
				b.Poll("the making of onExit", func() bool { text, err := os.ReadFile(began); return err == nil && len(text) > 0 })
				end.do(b, c)
				c.WantExit(3)
				if got := finished(b, c, "onExit"); got != end.want {
					b.Errorf("result %q, want %s", got, end.want)
				}
				b.Poll("the hanging runtime's end", func() bool {
					pid, err := strconv.Atoi(strings.TrimSpace(bed.ReadFile(b, filepath.Dir(began), filepath.Base(began))))
					return err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
				})
			})
		})
	}
}

// hangingRuntime is an OCI runtime that hangs in the create of an onExit, and says when it does.
func hangingRuntime(b *bed.Bench, began string) func(*harness.ContainerConfig) {
	b.Helper()
	real, err := exec.LookPath(b.Target.Binary)
	if b.Target.Binary == "runc" {
		real, err = filepath.Join(bed.BinDir(b), "runc"), nil
	}
	if err != nil {
		b.Fatal(err)
	}
	script := filepath.Join(b.TempDir(), b.Target.Binary)
	text := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in */onExit/runtime*\\ create\\ *) echo $$ > %s; exec sleep 1000;; esac\nexec %s \"$@\"\n", began, real)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		b.Fatal(err)
	}
	return func(config *harness.ContainerConfig) {
		config.Options = &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q\nBinaryName = %q\n", b.Daemon.RuncRoot, script)}
	}
}

// killHost kills the handler host, and nothing else: a child of this test's shim.
func killHost(b *bed.Bench) {
	b.Helper()
	shims, err := b.Daemon.Shims()
	if err != nil {
		b.Fatal(err)
	}
	killed := 0
	for _, shim := range shims {
		children, err := shim.Children()
		if err != nil {
			b.Fatal(err)
		}
		for _, child := range children {
			if len(child.Cmdline) > 1 && child.Cmdline[0] == "lifecycle-hookexec" {
				killed++
				if err := syscall.Kill(child.PID, syscall.SIGKILL); err != nil {
					b.Error(err)
				}
			}
		}
	}
	if killed == 0 {
		b.Error("there is no handler host to kill")
	}
}

// inCgroups are the files below the tests' cgroup that match, of cgroup v1, in each hierarchy, or v2.
func inCgroups(b *bed.Bench, pattern string) []string {
	b.Helper()
	var all []string
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, err := filepath.Glob(filepath.Join(mount, b.Target.CgroupParent(), pattern))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// killOnExit kills the first process of the container's onExit, which its cgroup lists.
func killOnExit(b *bed.Bench, c *bed.Container) {
	b.Helper()
	procs := inCgroups(b, filepath.Join(c.ID, "onExit", "cgroup.procs"))
	if len(procs) == 0 {
		b.Fatal("onExit has no cgroup below the container's")
	}
	text, err := os.ReadFile(procs[0])
	pids := strings.Fields(string(text))
	if err != nil || len(pids) == 0 {
		b.Fatalf("%s: %q, %v", procs[0], text, err)
	}
	pid, err := strconv.Atoi(pids[0])
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// docs/spec.md#onexit: what cannot be started is a failure, and changes nothing.
func TestOnExitCannotStart(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{keyOnExit: "exec: {command: [/nowhere]}"}, []string{"/bin/sh", "-c", "exit 3"})
		c.WantExit(3)
		if got := finished(b, c, "onExit"); got != "Failed" {
			b.Errorf("result %q", got)
		}
		// A link where /dev was would lead out of the container.
		moved := b.Start(bed.Annotations{keyOnExit: bed.Shell("touch /wrong")}, []string{"/bin/sh", "-c", "umount -l /dev; rmdir /dev; ln -s / /dev; exit 3"},
			func(config *harness.ContainerConfig) {
				config.Capabilities = []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
			})
		moved.WantExit(3)
		if got := finished(b, moved, "onExit"); got != "Failed" || moved.Exists("wrong") {
			b.Errorf("result %q", got)
		}
	})
}

// docs/spec.md#onexit-crash: the shim dies while onExit is being made, at every moment of it: nothing of it survives.
func TestShimDiesWhileOnExitIsMade(t *testing.T) {
	bed.OnOwn(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		b.Watch.ShimsKilled = true // with -debug a shim that is killed leaves its profiler's socket, under stock too
		for i := range 8 {
			c := b.NewContainer(bed.Annotations{keyOnExit: "{" + bed.Shell("sleep 1000") + ", timeoutSeconds: 10}"}, bed.Forever)
			if _, _, err := c.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.WaitFor("ready")
			shims, err := b.Daemon.Shims()
			shims = slices.DeleteFunc(shims, func(p harness.Process) bool { return slices.Contains(p.Cmdline, "delete") }) // of the one before
			if err != nil || len(shims) != 1 {
				b.Fatalf("shims %v, %v", shims, err)
			}
			if _, err := c.Kill(b.Context(), syscall.SIGKILL); err != nil {
				b.Fatal(err)
			}
			time.AfterFunc(time.Duration(i)*20*time.Millisecond, func() { _ = syscall.Kill(shims[0].PID, syscall.SIGKILL) }) // the moment is what is tried
			b.Poll("containerd to take the task away", func() bool {
				_, err := c.State(b.Context())
				return errdefs.IsNotFound(err)
			})
		}
		b.Poll("the end of all that was made", func() bool { return len(inCgroups(b, "c[0-9]*")) == 0 })
	})
}
