package attack

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The attacks that are known on runc's exec path, and those on what an operator runs,
// as docs/operate/security.md lists them. The attacker is root in its container, or better.

// armed puts the attacker's program into the container, under these names.
func armed(b *bed.Bench, c *bed.Container, names ...string) {
	b.Helper()
	program, err := os.ReadFile(filepath.Join(bed.BinDir(b), "testattacker"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range append(names, "attacker") {
		if err := os.WriteFile(c.Path(name), program, 0o755); err != nil {
			b.Fatal(err)
		}
	}
}

// mustStart creates and starts what newContainer has made.
func mustStart(c *bed.Container) {
	c.B.Helper()
	if _, _, err := c.Run(c.B.Context()); err != nil {
		c.B.Fatal(err)
	}
}

// tryHandler runs a handler as an operator would, and returns its output, and why it failed.
func tryHandler(c *bed.Container, handler string) (output, failure string) {
	c.B.Helper()
	out, errOut, err := c.B.Ctl("run", c.ID, handler)
	if err != nil && errOut == "" {
		c.B.Fatal(err)
	}
	return out, errOut
}

// CVE-2019-5736: a handler that is the host's own program, by way of /proc/self/exe,
// and a container that opens it there and writes to it when it has ended.
func TestHandlerHostCannotBeOverwritten(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		before := hashes(b)
		c := b.NewContainer(bed.Annotations{bed.KeyPreStop: "exec: {command: [/proc/self/exe, x]}"}, []string{"/attacker", "exe", "/log"})
		armed(b, c)
		mustStart(c)
		c.WaitFor("log")
		b.Poll("the attacker to meet the host's program", func() bool {
			_, failure := tryHandler(c, "preStop")
			if !strings.Contains(failure, "Failed") {
				b.Fatalf("the handler is not the host's program: %s", failure)
			}
			return strings.Count(c.Read("log"), "\n") > 1
		})
		b.Poll("the attack's end", func() bool {
			return strings.Contains(c.Read("log"), "refused ") || strings.Contains(c.Read("log"), "WRITTEN ")
		})
		if got := c.Read("log"); strings.Contains(got, "WRITTEN") {
			b.Errorf("the attacker has written: %s", got)
		}
		if after := hashes(b); after != before {
			b.Errorf("the programs have changed: %s, before %s", after, before)
		}
	})
}

// hashes of the programs that run as root.
func hashes(b *bed.Bench) string {
	b.Helper()
	text := ""
	for _, name := range []string{"lifecycle-hookexec", "containerd-shim-lifecycle-v2", "runc"} {
		program, err := os.ReadFile(filepath.Join(bed.BinDir(b), name))
		if err != nil {
			b.Fatal(err)
		}
		text += fmt.Sprintf("%x ", sha256.Sum256(program))
	}
	return text
}

// CVE-2024-21626 and races of symbolic links: for anything that a container makes of the
// directory that its handlers begin in, they begin in the container or not at all.
func TestHandlerBeginsInTheContainer(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		secret := filepath.Join(b.TempDir(), "outside")
		if err := os.WriteFile(secret, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		// From a directory outside, enough .. lead to the root of the host.
		script := "here=.; for i in 0 1 2 3 4 5 6 7 8 9 10 11 12; do [ -e $here" + secret + " ] && echo OUTSIDE; here=$here/..; done; echo looked"
		look := func(c *bed.Container, where string) (looked bool) {
			b.Helper()
			output, failure := tryHandler(c, "preStop")
			switch {
			case strings.Contains(output, "OUTSIDE"):
				b.Errorf("with %s the handler is outside: %s", where, output)
			case strings.Contains(output, "looked"):
				return true
			case !strings.Contains(failure, "cannot start"):
				b.Errorf("with %s: %s%s", where, output, failure)
			}
			return false
		}
		c := worker(b, script, "/bin/sleep", "1000")
		if !look(c, "a directory") {
			b.Fatal("the handler does not run where nothing is wrong")
		}
		targets := []string{"/proc/1/root", "/proc/self/exe", "../../../../.."}
		for fd := 3; fd < 10; fd++ {
			targets = append(targets, fmt.Sprintf("/proc/self/fd/%d", fd))
		}
		for _, target := range targets {
			if err := os.Remove(c.Path("work")); err != nil {
				b.Fatal(err)
			}
			if err := os.Symlink(target, c.Path("work")); err != nil {
				b.Fatal(err)
			}
			look(c, target)
		}
		// Now and then a directory, while the handler begins.
		racing := worker(b, script, "/attacker", "swap", "/work", "/other")
		for tries, in, out := 0, 0, 0; in == 0 || out == 0; tries++ {
			if tries == 50 {
				b.Fatalf("of %d handlers %d began in a directory, %d did not", tries, in, out)
			}
			if look(racing, "a race") {
				in++
			} else {
				out++
			}
		}
	})
}

// worker is a container that begins in /work, where /other is a link to what may be
// open in a process that joins it.
func worker(b *bed.Bench, script string, args ...string) *bed.Container {
	b.Helper()
	c := b.NewContainer(bed.Annotations{bed.KeyPreStop: bed.Shell(script)}, args, bed.EditSpec(func(spec *specs.Spec) { spec.Process.Cwd = "/work" }))
	armed(b, c)
	if err := os.Mkdir(c.Path("work"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Symlink("/proc/self/fd/7", c.Path("other")); err != nil {
		b.Fatal(err)
	}
	mustStart(c)
	return c
}

// labelless is a runtime that leaves the container's process without its labels, as no
// real one would: the machine that runs the tests may have no such kernel module. The
// bundle has them, so its handlers must have them or not run.
func labelless(b *bed.Bench) func(*harness.ContainerConfig) {
	b.Helper()
	real, err := exec.LookPath(filepath.Join(bed.BinDir(b), b.Target.Binary))
	if err != nil {
		if real, err = exec.LookPath(b.Target.Binary); err != nil {
			b.Fatal(err)
		}
	}
	path := filepath.Join(b.TempDir(), "runtime")
	script := `#!/bin/sh
bundle= creating=
for word; do
	case $last in --bundle) bundle=$word ;; esac
	[ "$word" = create ] && creating=yes
	last=$word
done
[ "$creating" ] || exec ` + real + ` "$@"
cp "$bundle/config.json" "$bundle/config.whole"
sed -i 's/,"\(apparmorProfile\|selinuxLabel\)":"[^"]*"//' "$bundle/config.json"
` + real + ` "$@"
status=$?
mv "$bundle/config.whole" "$bundle/config.json"
exit $status
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		b.Fatal(err)
	}
	return func(config *harness.ContainerConfig) {
		config.Options = &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q\nBinaryName = %q\n", b.Daemon.RuncRoot, path)}
	}
}

// CVE-2025-31133, 52565, 52881 and all labels skipped: a label that cannot be set is
// no handler, also where the container has put its own files in place of the kernel's,
// which would take every label.
func TestHandlerWithoutItsLabelDoesNotRun(t *testing.T) {
	for name, label := range map[string]func(*specs.Spec){
		"AppArmor": func(spec *specs.Spec) { spec.Process.ApparmorProfile = "lifecycle-shim-tests-none" },
		"SELinux":  func(spec *specs.Spec) { spec.Process.SelinuxLabel = "lifecycle_u:lifecycle_r:none_t:s0" },
	} {
		t.Run(name, func(t *testing.T) {
			bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
				cover := `mount -t tmpfs x /proc && mkdir -p /proc/self/attr/apparmor /proc/thread-self/attr/apparmor /proc/1/attr &&
					for d in self thread-self 1; do ln -s /sink /proc/$d/attr/exec; ln -s /sink /proc/$d/attr/apparmor/exec; done
					mount -t tmpfs x /sys && mkdir -p /sys/module/apparmor/parameters /sys/fs/selinux && echo Y > /sys/module/apparmor/parameters/enabled
					: > /sink; : > /covered; exec sleep 1000`
				for _, args := range [][]string{{"/bin/sleep", "1000"}, {"/bin/sh", "-c", cover}} {
					c := b.NewContainer(bed.Annotations{bed.KeyPreStop: bed.Shell("touch /ran")}, args, bed.EditSpec(label), labelless(b), func(config *harness.ContainerConfig) {
						config.Capabilities = []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
					})
					mustStart(c)
					if len(args) > 2 {
						c.WaitFor("covered")
					}
					if _, failure := tryHandler(c, "preStop"); !strings.Contains(failure, "cannot start") {
						b.Errorf("%v: the handler runs: %s", args[0], failure)
					}
					if c.Exists("ran") {
						b.Errorf("%v: the handler has run without its label", args[0])
					}
					if len(args) > 2 && c.Read("sink") != "" {
						b.Errorf("the label went to the container's own file: %q", c.Read("sink"))
					}
				}
			})
		})
	}
}

// CVE-2022-29162, and programs that are set-user-id: a handler has the container's own
// capabilities, none of them inheritable, and gets no more by executing something.
func TestHandlerGetsNoPrivileges(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		for _, privileges := range []bool{false, true} {
			c := b.NewContainer(bed.Annotations{bed.KeyPreStop: "exec: {command: [/attacker, whoami]}"}, []string{"/bin/sleep", "1000"}, func(config *harness.ContainerConfig) {
				config.User = specs.User{UID: 1000, GID: 1000}
				bed.EditSpec(func(spec *specs.Spec) { spec.Process.NoNewPrivileges = !privileges })(config)
			})
			armed(b, c)
			if err := os.Chmod(c.Path("attacker"), 0o755|os.ModeSetuid); err != nil {
				b.Fatal(err)
			}
			mustStart(c)
			output, failure := tryHandler(c, "preStop")
			if failure != "" {
				b.Fatal(failure)
			}
			ids := "Uid:\t1000\t1000\t1000\t1000\n"
			want := []string{ids, "CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n"}
			if privileges { // the program is indeed set-user-id
				want = []string{"Uid:\t1000\t0\t0\t0\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t0\n"}
			}
			for _, line := range want {
				if !strings.Contains(output, line) {
					b.Errorf("new privileges allowed %t: no %q in %s", privileges, line, output)
				}
			}
		}
	})
}

// The environment of a handler is the container's and LIFECYCLE_*; that of the shim and
// of containerd reaches no process, nor do LIFECYCLE_* reach the container's own process.
func TestHandlerEnvironmentIsTheContainers(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		c := b.Start(bed.Annotations{bed.KeyPreStop: "exec: {command: [/bin/env]}"}, []string{"/bin/sh", "-c", "tr '\\0' '\\n' < /proc/self/environ > /own; sleep 1000"},
			func(config *harness.ContainerConfig) {
				// What libcontainer and Go would obey, were it the host's.
				config.Env = []string{"OWN=x", "_LIBCONTAINER_INITPIPE=3", "GODEBUG=x", "GOTRACEBACK=crash", "LD_PRELOAD=/x"}
			})
		output, failure := tryHandler(c, "preStop")
		if failure != "" {
			b.Fatal(failure)
		}
		got := strings.Fields(output)
		slices.Sort(got)
		want := []string{
			"GODEBUG=x", "GOTRACEBACK=crash", "HOME=/root", "LD_PRELOAD=/x", "LIFECYCLE_CONTAINER_ID=" + c.ID, "LIFECYCLE_HANDLER=preStop", "LIFECYCLE_SIGNAL=SIGTERM",
			"OWN=x", "PATH=/bin", "_LIBCONTAINER_INITPIPE=3",
		}
		if !slices.Equal(got, want) {
			b.Errorf("the handler's environment is %q, want %q", got, want)
		}
		c.WaitFor("own")
		b.Poll("the container's own environment", func() bool { return c.Read("own") != "" })
		if own := c.Read("own"); strings.Contains(own, "LIFECYCLE_") {
			b.Errorf("the container's own environment is %q", own)
		}
	})
}

// The host's program is in reach of the container's signals when it has joined. It
// leaves no core behind, for any end, and nothing of what it knows in its output.
func TestHandlerHostLeavesNoCore(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		for _, signal := range []string{"QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "SYS", "XCPU"} {
			stuck, mount := stick(b)
			c, result := b.StartLater(bed.Annotations{bed.KeyPostStart: "{failurePolicy: Ignore, exec: {command: [/stuck/x]}}"}, bed.Forever, mount, func(config *harness.ContainerConfig) {
				config.Env = []string{"PASSWORD=hunter2"}
				bed.EditSpec(func(spec *specs.Spec) {
					spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE", Soft: 1 << 30, Hard: 1 << 30})
				})(config)
			})
			sticks(b, stuck)
			kill := `for p in /proc/[0-9]*; do case $(cat $p/comm) in runc:*) kill -` + signal + ` ${p#/proc/};; esac; done`
			if status := b.Exec(c, "kill", "/bin/sh", "-c", kill); status != 0 {
				b.Errorf("%s: the kill ended with %d", signal, status)
			}
			unstick(b, stuck)
			if r := b.Await(result); r.Err != nil {
				b.Fatal(r.Err)
			}
			c.WantEnd("postStart", "result=Failed")
			if logs := b.WantCtl(nil, "logs", c.ID); strings.Contains(logs, "hunter2") {
				b.Errorf("%s: the handler's output has the container's secret:\n%s", signal, logs)
			}
			cores, err := filepath.Glob(c.Path("core*"))
			if err != nil || len(cores) > 0 {
				b.Errorf("%s: left %v, %v", signal, cores, err)
			}
			c.End(137)
		}
	})
}

// A container may call its processes as it likes, and listen where it likes: none of
// them is taken for a daemon of the node, run as root, or listened to.
func TestImpostors(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned}, func(b *bed.Bench) {
		for _, name := range []string{"containerd-shim-lifecycle-v2", "containerd"} {
			// In a directory of the host's, as a hostPath volume is, so that it can be
			// reached under the path that it has in the container. A path of a socket is short.
			dir, err := os.MkdirTemp("/run", "lcs-impostor-")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = os.RemoveAll(dir) })
			socket := filepath.Join(dir, "s")
			c := b.NewContainer(nil, []string{"/" + name, "-namespace", b.Client.Namespace, "-address", b.Daemon.Address, "-id", "x"},
				func(config *harness.ContainerConfig) { config.Env = []string{"SOCKET=" + socket} },
				bed.EditSpec(func(spec *specs.Spec) {
					spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"bind", "rw"}})
				}))
			armed(b, c, name)
			mustStart(c)
			c.WaitFor("listening")
			if out, errOut, err := b.Ctl("status"); err != nil || errOut != "" || out != "no containers with handlers\n" {
				b.Errorf("status says %q, %q, %v", out, errOut, err)
			}
			command := exec.CommandContext(b.Context(), filepath.Join(bed.BinDir(b), "lifecyclectl"), "doctor", "-o", "json")
			out, _ := command.Output() // it finds what is wrong on the machine too
			if !json.Valid(out) || strings.Contains(string(out), socket) {
				b.Errorf("doctor says %s", out)
			}
			for _, trace := range []string{"asked", "owned"} {
				if c.Exists(trace) {
					b.Errorf("%s was %s: %s", name, trace, c.Read(trace))
				}
			}
			c.End(137)
		}
	})
}

// Nothing that the shim makes can be read, written or connected to by others than root,
// but for the node's counters, which are there to be read.
func TestNothingIsOpenToOthers(t *testing.T) {
	bed.OnOwn(t, bed.Targets, func(b *bed.Bench) {
		metrics := filepath.Join(b.TempDir(), "lifecycle.prom")
		c := b.Start(bed.Annotations{bed.KeyLifecycle: "{postStart: " + bed.LogOutput("echo hello") + ", preStop: {" + bed.Shell("true") + "}}"}, bed.Obedient, bed.WithOptions(b, fmt.Sprintf("MetricsFile = %q", metrics)))
		c.WaitFor("ready")
		b.Poll("the counters", func() bool { _, err := os.Stat(metrics); return err == nil })
		for path, want := range map[string]fs.FileMode{metrics: 0o644, metrics + ".lock": 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				b.Errorf("%s: %v, %v, want %o", path, info.Mode(), err, want)
			}
		}
		wantClosed(b, c)
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		wantClosed(b, c)
	})
}

// wantClosed looks at the bundle and the sockets.
func wantClosed(b *bed.Bench, c *bed.Container) {
	b.Helper()
	bundle := filepath.Join(b.Daemon.Dir, "state", "io.containerd.runtime.v2.task", b.Client.Namespace, c.ID)
	own := []string{filepath.Join(bundle, "address")}
	err := filepath.WalkDir(filepath.Join(bundle, "lifecycle"), func(path string, _ fs.DirEntry, err error) error {
		own = append(own, path)
		return err
	})
	if err != nil || len(own) != 1+4 { // the directory and the container's in it, state.json and process.json
		b.Errorf("made %q, %v", own, err)
	}
	shims, err := b.Daemon.Shims()
	if err != nil || len(shims) != 1 {
		b.Fatalf("shims %v, %v", shims, err)
	}
	sockets := listeningOn(b, shims[0])
	if len(sockets) == 0 {
		b.Error("the shim listens nowhere")
	}
	for _, socket := range sockets {
		if !filepath.IsAbs(socket) {
			b.Errorf("the socket %q has no owner", socket)
			continue
		}
		own = append(own, socket)
		attacker, err := os.Open(filepath.Join(bed.BinDir(b), "testattacker"))
		if err != nil {
			b.Fatal(err)
		}
		nobody := exec.CommandContext(b.Context(), "/proc/self/fd/3", "connect", socket)
		nobody.ExtraFiles = []*os.File{attacker}
		nobody.Dir = "/"
		nobody.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := nobody.CombinedOutput(); err == nil || !strings.Contains(string(out), "permission denied") {
			b.Errorf("nobody connects to %s: %s, %v", socket, out, err)
		}
		_ = attacker.Close()
	}
	for _, path := range own {
		info, err := os.Stat(path)
		if err != nil {
			b.Error(err)
		} else if info.Mode().Perm()&0o077 != 0 || info.Sys().(*syscall.Stat_t).Uid != 0 {
			b.Errorf("%s has the mode %v", path, info.Mode())
		}
	}
}

// listeningOn are the paths that a shim listens on: proc_net(5), unix, with
// __SO_ACCEPTCON.
func listeningOn(b *bed.Bench, shim harness.Process) []string {
	b.Helper()
	open, err := shim.Descriptors()
	if err != nil {
		b.Fatal(err)
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", shim.PID))
	if err != nil {
		b.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && fields[3] == "00010000" && slices.ContainsFunc(open, func(link string) bool { return strings.HasSuffix(link, "socket:["+fields[6]+"]") }) {
			found = append(found, fields[7])
		}
	}
	return found
}
