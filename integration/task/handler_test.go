package task

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// strict is a container that may do little.
func strict(config *harness.ContainerConfig) {
	config.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000}}
	config.Capabilities = []string{"CAP_NET_BIND_SERVICE"}
	config.ReadOnly = true
	config.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	config.Env = []string{"SECRET=x"}
	config.Edit = func(spec *specs.Spec) {
		score := 500
		spec.Process.OOMScoreAdj = &score
		spec.Process.Cwd = "/tmp"
		spec.Process.Rlimits = []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 256, Hard: 512}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
	}
}

// look prints what a process is and may do. Its output must be the same for pid
// 1 and for a handler.
const look = `
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj /proc/self/cgroup
cat /proc/self/attr/current 2>/dev/null
for ns in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$ns; done
pwd; umask
mkdir /tmp/x$$ 2>/dev/null && echo mkdir is allowed
touch /x$$ 2>/dev/null && echo the root is writable
echo SECRET=$SECRET
`

// docs/spec.md#privilege: the identity, the limits and the filter of the container's process.
func TestHandlerHasTheIdentityOfTheContainer(t *testing.T) {
	for name, edit := range map[string]func(*harness.ContainerConfig){"default": func(*harness.ContainerConfig) {}, "strict": strict} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				shared := b.TempDir()
				if err := os.Chmod(shared, 0o777); err != nil {
					b.Fatal(err)
				}
				mount := func(config *harness.ContainerConfig) {
					edit := config.Edit
					config.Edit = func(spec *specs.Spec) {
						if edit != nil {
							edit(spec)
						}
						spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: shared, Options: []string{"bind", "rw"}})
					}
				}
				script := fmt.Sprintf("(%s) > /out/%s; touch /out/%s-done", look, "%s", "%s")
				handler := bed.Shell(fmt.Sprintf(script, "handler", "handler"))
				args := []string{"/bin/sh", "-c", fmt.Sprintf(script, "init", "init") + "; sleep 1000"}
				b.Start(bed.Annotations{bed.KeyPostStart: handler}, args, edit, mount)
				b.Poll("pid 1's look at itself", func() bool { _, err := os.Stat(filepath.Join(shared, "init-done")); return err == nil })
				own, handlers := bed.ReadFile(b, shared, "init"), bed.ReadFile(b, shared, "handler")
				if own != handlers {
					b.Errorf("the handler differs from pid 1.\npid 1:\n%s\nhandler:\n%s", own, handlers)
				}
				if !strings.Contains(own, "Seccomp:") || !strings.Contains(own, "Max open files") {
					b.Errorf("pid 1 says too little of itself: %s", own)
				}
			})
		})
	}
}

// docs/spec.md#exec: no descriptor beyond 0, 1 and 2, stdin is /dev/null, no terminal.
func TestHandlerDescriptors(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		// The handler itself shows nothing: its child's view of it is what it has.
		c := b.Start(bed.Annotations{bed.KeyPostStart: bed.Shell(`sleep 1000 & ls -l /proc/$!/fd > /fds; kill $!; tty > /tty; cut -d' ' -f7 /proc/self/stat >> /tty`)}, bed.Forever)
		var fds []string
		for line := range strings.Lines(c.Read("fds")) {
			if _, link, ok := strings.Cut(strings.TrimSpace(line), " -> "); ok {
				fds = append(fds, link)
			}
		}
		if len(fds) != 3 || fds[0] != "/dev/null" || !strings.HasPrefix(fds[1], "pipe:") || fds[1] != fds[2] {
			b.Errorf("descriptors %v, want /dev/null and one pipe twice", fds)
		}
		if got := c.Read("tty"); got != "not a tty\n0\n" {
			b.Errorf("terminal %q, want none", got)
		}
	})
}

// A container with a terminal: the handler has none.
func TestHandlerOfContainerWithTerminal(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("readlink /proc/self/fd/0 > /handler; cut -d' ' -f7 /proc/self/stat >> /handler")},
			[]string{"/bin/sh", "-c", "tty > /own; sleep 1000"}, func(config *harness.ContainerConfig) { config.Terminal = true })
		console := filepath.Join(b.TempDir(), "console")
		if err := syscall.Mkfifo(console, 0o600); err != nil {
			b.Fatal(err)
		}
		reader, err := os.OpenFile(console, os.O_RDWR, 0) // the shim's opening of a FIFO waits for a reader
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = reader.Close() })
		if _, err := c.CreateWith(b.Context(), &tasks.CreateTaskRequest{Terminal: true, Stdout: console}); err != nil {
			b.Fatal(err)
		}
		if _, _, err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.Poll("the entrypoint's look at its terminal", func() bool { return c.Exists("own") && c.Read("own") != "" })
		if got := c.Read("own"); !strings.HasPrefix(got, "/dev/") {
			b.Errorf("the container's own terminal is %q", got)
		}
		if got := c.Read("handler"); got != "/dev/null\n0\n" {
			b.Errorf("stdin and terminal of the handler %q, want /dev/null and none", got)
		}
	})
}

// User namespaces: root in the container is nobody outside, for handlers too.
func TestHandlerInUserNamespace(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.NewContainer(bed.Annotations{bed.KeyPostStart: bed.Shell("id -u > /tmp/uid; cat /proc/self/uid_map >> /tmp/uid; cat /tmp/uid; [ $(id -u) = 0 ]")}, bed.Forever, bed.OwnUsers)
		for _, dir := range []string{"tmp", "."} {
			if err := os.Chown(c.Path(dir), 100000, 100000); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := c.Run(b.Context()); err != nil {
			b.Fatal(err)
		}
		if got := strings.Fields(c.Read("tmp/uid")); !slices.Equal(got, []string{"0", "0", "100000", "65536"}) {
			b.Errorf("uid and uid_map %v", got)
		}
	})
}

// exitTries, under each of two runtimes and in each kind of pid namespace.
const exitTries = 50

// docs/spec.md#exit-first: a handler that dies because pid 1
// has exited is aborted, it does not fail. 200 times of 200.
func TestExitIsNoFailureOfTheHandler(t *testing.T) {
	edits := map[string]func(*harness.ContainerConfig){"private": func(*harness.ContainerConfig) {}, "host": bed.HostPID}
	for name, edit := range edits {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				for i := range exitTries {
					c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: bed.Shell("echo $$ > /begun; exec sleep 1000")},
						[]string{"/bin/sh", "-c", "while [ ! -s /begun ]; do sleep 0.01; done; exit 5"}, edit)
					if r := b.Await(result); r.Err != nil {
						b.Fatalf("try %d: %v", i, r.Err)
					}
					c.WantExit(5)
					if _, _, err := c.Delete(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				wantEnds(b, "Aborted", `error="container exited"`, exitTries)
			})
		})
	}
}

// waitStarted waits for the begin of a handler that no client can see.
func waitStarted(c *bed.Container, handler string) {
	c.B.Helper()
	c.B.Poll("the begin of "+handler, func() bool {
		for line := range strings.Lines(c.B.Daemon.Log()[c.B.LogStart:]) {
			if strings.Contains(line, `msg="handler started"`) && strings.Contains(line, "handler="+handler+" id="+c.ID+" namespace="+c.B.Client.Namespace+" ") {
				return true
			}
		}
		return false
	})
}

// wantEnds waits for so many ends of handlers in the shim's log, and wants the
// result in each of them.
func wantEnds(b *bed.Bench, result, because string, count int) {
	b.Helper()
	var ends []string
	b.Poll("the handlers' ends in the log", func() bool {
		ends = nil
		for line := range strings.Lines(b.Daemon.Log()[b.LogStart:]) {
			if strings.Contains(line, `msg="handler ended"`) && strings.Contains(line, "namespace="+b.Client.Namespace+" ") {
				ends = append(ends, line)
			}
		}
		return len(ends) >= count
	})
	for _, line := range ends {
		if !strings.Contains(line, "result="+result) || !strings.Contains(line, because) {
			b.Errorf("a handler ended otherwise than %s, %s: %s", result, because, line)
		}
	}
	if len(ends) != count {
		b.Errorf("%d handlers have ended, want %d", len(ends), count)
	}
}

// docs/spec.md#forced-end: a forced end takes the handler's process group, in a host pid
// namespace too, and nothing else.
func TestForcedEndTakesTheGroup(t *testing.T) {
	for name, edit := range map[string]func(*harness.ContainerConfig){"private": func(*harness.ContainerConfig) {}, "host": bed.HostPID} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				script := "trap '' TERM INT HUP; (trap '' TERM; exec sleep 1001) & setsid sleep 1002 & sleep 1003"
				c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{timeoutSeconds: 1, failurePolicy: Ignore, " + bed.Shell(script) + "}"}, bed.Forever, edit)
				if r := b.Await(result); r.Err != nil {
					b.Fatal(r.Err)
				}
				b.Poll("nothing but what left its group to be left of the handler", func() bool { return b.Sleepers(c) == "1002" })
			})
		})
	}
}

// docs/spec.md#invalid: a value that cannot be used fails Create in words, and leaves nothing.
func TestInvalidAnnotations(t *testing.T) {
	bed.On(t, bed.Targets, func(b *bed.Bench) {
		for _, test := range []struct {
			annotations bed.Annotations
			says        []string
		}{
			{bed.Annotations{bed.KeyPostStart: "exec: {command: ls}"}, []string{bed.KeyPostStart, "postStart.exec.command", "must be a list"}},
			{bed.Annotations{bed.KeyPreStop: "exec: {command: [ls], user: root}"}, []string{bed.KeyPreStop, "preStop.exec.user", "allowed: command"}},
			{bed.Annotations{bed.KeyLifecycle: "preStop: {}"}, []string{bed.KeyLifecycle, "exactly one of"}},
			{bed.Annotations{bed.KeyLifecycle: "{", bed.KeyPreStop: bed.Shell("true")}, []string{"cannot be used together"}},
			{bed.Annotations{"lifecycle-shim.io/prestop": bed.Shell("true")}, []string{"lifecycle-shim.io/prestop", "allowed: "}},
			{bed.Annotations{bed.KeyLifecycle: "# " + strings.Repeat("x", 70000)}, []string{"at most 65536"}},
		} {
			c := b.NewContainer(test.annotations, bed.Obedient)
			_, err := c.Create(b.Context())
			if !errdefs.IsInvalidArgument(err) {
				b.Errorf("%v: %v, want InvalidArgument", test.annotations, err)
			}
			b.WantError(err, test.says...)
			if _, err := c.State(b.Context()); !errdefs.IsNotFound(err) {
				b.Errorf("there is a task: %v", err)
			}
			for _, topic := range b.Topics(c.ID) {
				if strings.HasPrefix(topic, "/tasks/") {
					b.Errorf("event %s of a container that never was", topic)
				}
			}
		}
	})
}

// docs/spec.md#pause: the pause container never has handlers.
func TestSandboxHasNoHandlers(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "nonsense", "io.kubernetes.cri.container-type": "sandbox"}, bed.Obedient)
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
	})
}

// bindOut mounts a directory of the machine's at /out.
func bindOut(config *harness.ContainerConfig, dir string) {
	edit := config.Edit
	config.Edit = func(spec *specs.Spec) {
		if edit != nil {
			edit(spec)
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: dir, Options: []string{"bind", "rw"}})
	}
}
