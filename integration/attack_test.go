package integration

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

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// The attacks that are known on runc's exec path, and those on what an operator runs,
// as docs/operate/security.md lists them. The attacker is root in its container, or better.

// armed puts the attacker's program into the container, under these names.
func (b *bench) armed(c *container, names ...string) {
	b.Helper()
	program, err := os.ReadFile(filepath.Join(binDir(b), "testattacker"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range append(names, "attacker") {
		if err := os.WriteFile(c.path(name), program, 0o755); err != nil {
			b.Fatal(err)
		}
	}
}

// start creates and starts what newContainer has made.
func (c *container) start() {
	c.b.Helper()
	if _, _, err := c.Run(c.b.Context()); err != nil {
		c.b.Fatal(err)
	}
}

// try runs a handler as an operator would, and returns its output, and why it failed.
func (c *container) try(handler string) (output, failure string) {
	c.b.Helper()
	out, errOut, err := c.b.ctl("run", c.ID, handler)
	if err != nil && errOut == "" {
		c.b.Fatal(err)
	}
	return out, errOut
}

// CVE-2019-5736: a handler that is the host's own program, by way of /proc/self/exe,
// and a container that opens it there and writes to it when it has ended.
func TestHandlerHostCannotBeOverwritten(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		before := b.hashes()
		c := b.newContainer(with{keyPreStop: "exec: {command: [/proc/self/exe, x]}"}, []string{"/attacker", "exe", "/log"})
		b.armed(c)
		c.start()
		c.waitFor("log")
		b.poll("the attacker to meet the host's program", func() bool {
			_, failure := c.try("preStop")
			if !strings.Contains(failure, "Failed") {
				b.Fatalf("the handler is not the host's program: %s", failure)
			}
			return strings.Count(c.read("log"), "\n") > 1
		})
		b.poll("the attack's end", func() bool {
			return strings.Contains(c.read("log"), "refused ") || strings.Contains(c.read("log"), "WRITTEN ")
		})
		if got := c.read("log"); strings.Contains(got, "WRITTEN") {
			b.Errorf("the attacker has written: %s", got)
		}
		if after := b.hashes(); after != before {
			b.Errorf("the programs have changed: %s, before %s", after, before)
		}
	})
}

// hashes of the programs that run as root.
func (b *bench) hashes() string {
	b.Helper()
	text := ""
	for _, name := range []string{"lifecycle-hookexec", "containerd-shim-lifecycle-v2", "runc"} {
		program, err := os.ReadFile(filepath.Join(binDir(b), name))
		if err != nil {
			b.Fatal(err)
		}
		text += fmt.Sprintf("%x ", sha256.Sum256(program))
	}
	return text
}

// CVE-2024-21626 and races of symbolic links: whatever a container makes of the
// directory that its handlers begin in, they begin in the container or not at all.
func TestHandlerBeginsInTheContainer(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		secret := filepath.Join(b.TempDir(), "outside")
		if err := os.WriteFile(secret, nil, 0o600); err != nil {
			b.Fatal(err)
		}
		// From a directory outside, enough .. lead to the root of the host.
		script := "here=.; for i in 0 1 2 3 4 5 6 7 8 9 10 11 12; do [ -e $here" + secret + " ] && echo OUTSIDE; here=$here/..; done; echo looked"
		look := func(c *container, where string) (looked bool) {
			b.Helper()
			output, failure := c.try("preStop")
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
		c := b.worker(script, "/bin/sleep", "1000")
		if !look(c, "a directory") {
			b.Fatal("the handler does not run where nothing is wrong")
		}
		targets := []string{"/proc/1/root", "/proc/self/exe", "../../../../.."}
		for fd := 3; fd < 10; fd++ {
			targets = append(targets, fmt.Sprintf("/proc/self/fd/%d", fd))
		}
		for _, target := range targets {
			if err := os.Remove(c.path("work")); err != nil {
				b.Fatal(err)
			}
			if err := os.Symlink(target, c.path("work")); err != nil {
				b.Fatal(err)
			}
			look(c, target)
		}
		// Now and then a directory, while the handler begins.
		racing := b.worker(script, "/attacker", "swap", "/work", "/other")
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
func (b *bench) worker(script string, args ...string) *container {
	b.Helper()
	c := b.newContainer(with{keyPreStop: shell(script)}, args, edited(func(spec *specs.Spec) { spec.Process.Cwd = "/work" }))
	b.armed(c)
	if err := os.Mkdir(c.path("work"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Symlink("/proc/self/fd/7", c.path("other")); err != nil {
		b.Fatal(err)
	}
	c.start()
	return c
}

// labelless is a runtime that leaves the container's process without its labels, as no
// real one would: the machine that runs the tests may have no such kernel module. The
// bundle has them, so its handlers must have them or not run.
func (b *bench) labelless() func(*harness.ContainerConfig) {
	b.Helper()
	real, err := exec.LookPath(filepath.Join(binDir(b), b.target.binary))
	if err != nil {
		if real, err = exec.LookPath(b.target.binary); err != nil {
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
		config.Options = &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q\nBinaryName = %q\n", b.daemon.RuncRoot, path)}
	}
}

// CVE-2025-31133, 52565, 52881 and all labels skipped: a label that cannot be set is
// no handler, also where the container has put files of its own in place of the kernel's,
// which would take every label.
func TestHandlerWithoutItsLabelDoesNotRun(t *testing.T) {
	for name, label := range map[string]func(*specs.Spec){
		"AppArmor": func(spec *specs.Spec) { spec.Process.ApparmorProfile = "lifecycle-shim-tests-none" },
		"SELinux":  func(spec *specs.Spec) { spec.Process.SelinuxLabel = "lifecycle_u:lifecycle_r:none_t:s0" },
	} {
		t.Run(name, func(t *testing.T) {
			on(t, []target{pinned, crun}, func(b *bench) {
				cover := `mount -t tmpfs x /proc && mkdir -p /proc/self/attr/apparmor /proc/thread-self/attr/apparmor /proc/1/attr &&
					for d in self thread-self 1; do ln -s /sink /proc/$d/attr/exec; ln -s /sink /proc/$d/attr/apparmor/exec; done
					mount -t tmpfs x /sys && mkdir -p /sys/module/apparmor/parameters /sys/fs/selinux && echo Y > /sys/module/apparmor/parameters/enabled
					: > /sink; : > /covered; exec sleep 1000`
				for _, args := range [][]string{{"/bin/sleep", "1000"}, {"/bin/sh", "-c", cover}} {
					c := b.newContainer(with{keyPreStop: shell("touch /ran")}, args, edited(label), b.labelless(), func(config *harness.ContainerConfig) {
						config.Capabilities = []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
					})
					c.start()
					if len(args) > 2 {
						c.waitFor("covered")
					}
					if _, failure := c.try("preStop"); !strings.Contains(failure, "cannot start") {
						b.Errorf("%v: the handler runs: %s", args[0], failure)
					}
					if c.exists("ran") {
						b.Errorf("%v: the handler has run without its label", args[0])
					}
					if len(args) > 2 && c.read("sink") != "" {
						b.Errorf("the label went to the container's own file: %q", c.read("sink"))
					}
				}
			})
		})
	}
}

// CVE-2022-29162, and programs that are set-user-id: a handler has the container's own
// capabilities, none of them inheritable, and gets no more by executing something.
func TestHandlerGetsNoPrivileges(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		for _, privileges := range []bool{false, true} {
			c := b.newContainer(with{keyPreStop: "exec: {command: [/attacker, whoami]}"}, []string{"/bin/sleep", "1000"}, func(config *harness.ContainerConfig) {
				config.User = specs.User{UID: 1000, GID: 1000}
				edited(func(spec *specs.Spec) { spec.Process.NoNewPrivileges = !privileges })(config)
			})
			b.armed(c)
			if err := os.Chmod(c.path("attacker"), 0o755|os.ModeSetuid); err != nil {
				b.Fatal(err)
			}
			c.start()
			output, failure := c.try("preStop")
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
// of containerd reaches nobody, nor do LIFECYCLE_* reach the container's own process.
func TestHandlerEnvironmentIsTheContainers(t *testing.T) {
	on(t, []target{pinned, crun}, func(b *bench) {
		c := b.run(with{keyPreStop: "exec: {command: [/bin/env]}"}, []string{"/bin/sh", "-c", "tr '\\0' '\\n' < /proc/self/environ > /own; sleep 1000"},
			func(config *harness.ContainerConfig) {
				// What libcontainer and Go would obey, were it the host's.
				config.Env = []string{"OWN=x", "_LIBCONTAINER_INITPIPE=3", "GODEBUG=x", "GOTRACEBACK=crash", "LD_PRELOAD=/x"}
			})
		output, failure := c.try("preStop")
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
		c.waitFor("own")
		b.poll("the container's own environment", func() bool { return c.read("own") != "" })
		if own := c.read("own"); strings.Contains(own, "LIFECYCLE_") {
			b.Errorf("the container's own environment is %q", own)
		}
	})
}

// The host's program is in reach of the container's signals when it has joined. It
// leaves no core behind, whatever ends it, and nothing of what it knows in its output.
func TestHandlerHostLeavesNoCore(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		for _, signal := range []string{"QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "SEGV", "SYS", "XCPU"} {
			stuck, mount := b.stick()
			c, result := b.runLater(with{keyPostStart: "{failurePolicy: Ignore, exec: {command: [/stuck/x]}}"}, forever, mount, func(config *harness.ContainerConfig) {
				config.Env = []string{"PASSWORD=hunter2"}
				edited(func(spec *specs.Spec) {
					spec.Process.Rlimits = append(spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE", Soft: 1 << 30, Hard: 1 << 30})
				})(config)
			})
			b.sticks(stuck)
			kill := `for p in /proc/[0-9]*; do case $(cat $p/comm) in runc:*) kill -` + signal + ` ${p#/proc/};; esac; done`
			if status := b.exec(c, "kill", "/bin/sh", "-c", kill); status != 0 {
				b.Errorf("%s: the kill ended with %d", signal, status)
			}
			b.unstick(stuck)
			if r := b.result(result); r.err != nil {
				b.Fatal(r.err)
			}
			c.wantEnd("postStart", "result=Failed")
			if logs := b.wantCtl(nil, "logs", c.ID); strings.Contains(logs, "hunter2") {
				b.Errorf("%s: the handler's output has the container's secret:\n%s", signal, logs)
			}
			cores, err := filepath.Glob(c.path("core*"))
			if err != nil || len(cores) > 0 {
				b.Errorf("%s: left %v, %v", signal, cores, err)
			}
			c.end(137)
		}
	})
}

// A container may call its processes as it likes, and listen where it likes: none of
// them is taken for a daemon of the node, run as root, or listened to.
func TestImpostors(t *testing.T) {
	on(t, []target{pinned}, func(b *bench) {
		for _, name := range []string{"containerd-shim-lifecycle-v2", "containerd"} {
			// In a directory of the host's, as a hostPath volume is, so that it can be
			// reached under the path that it has in the container. A path of a socket is short.
			dir, err := os.MkdirTemp("/run", "lcs-impostor-")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = os.RemoveAll(dir) })
			socket := filepath.Join(dir, "s")
			c := b.newContainer(nil, []string{"/" + name, "-namespace", b.client.Namespace, "-address", b.daemon.Address, "-id", "x"},
				func(config *harness.ContainerConfig) { config.Env = []string{"SOCKET=" + socket} },
				edited(func(spec *specs.Spec) {
					spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"bind", "rw"}})
				}))
			b.armed(c, name)
			c.start()
			c.waitFor("listening")
			if out, errOut, err := b.ctl("status"); err != nil || errOut != "" || out != "no containers with handlers\n" {
				b.Errorf("status says %q, %q, %v", out, errOut, err)
			}
			command := exec.CommandContext(b.Context(), filepath.Join(binDir(b), "lifecyclectl"), "doctor", "-o", "json")
			out, _ := command.Output() // it finds what is wrong on the machine too
			if !json.Valid(out) || strings.Contains(string(out), socket) {
				b.Errorf("doctor says %s", out)
			}
			for _, trace := range []string{"asked", "owned"} {
				if c.exists(trace) {
					b.Errorf("%s was %s: %s", name, trace, c.read(trace))
				}
			}
			c.end(137)
		}
	})
}

// Nothing that the shim makes can be read, written or connected to by others than root,
// but for the node's counters, which are there to be read.
func TestNothingIsOpenToOthers(t *testing.T) {
	onOwn(t, targets, func(b *bench) {
		metrics := filepath.Join(b.TempDir(), "lifecycle.prom")
		c := b.run(with{keyLifecycle: "{postStart: " + logged("echo hello") + ", preStop: {" + shell("true") + "}}"}, obedient, withOptions(b, fmt.Sprintf("MetricsFile = %q", metrics)))
		c.waitFor("ready")
		b.poll("the counters", func() bool { _, err := os.Stat(metrics); return err == nil })
		for path, want := range map[string]fs.FileMode{metrics: 0o644, metrics + ".lock": 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				b.Errorf("%s: %v, %v, want %o", path, info.Mode(), err, want)
			}
		}
		b.wantClosed(c)
		c.kill(syscall.SIGTERM)
		c.wantExit(7)
		b.wantClosed(c)
	})
}

// wantClosed looks at the bundle and the sockets.
func (b *bench) wantClosed(c *container) {
	b.Helper()
	bundle := filepath.Join(b.daemon.Dir, "state", "io.containerd.runtime.v2.task", b.client.Namespace, c.ID)
	own := []string{filepath.Join(bundle, "address")}
	err := filepath.WalkDir(filepath.Join(bundle, "lifecycle"), func(path string, _ fs.DirEntry, err error) error {
		own = append(own, path)
		return err
	})
	if err != nil || len(own) != 1+4 { // the directory and the container's in it, state.json and process.json
		b.Errorf("made %q, %v", own, err)
	}
	shims, err := b.daemon.Shims()
	if err != nil || len(shims) != 1 {
		b.Fatalf("shims %v, %v", shims, err)
	}
	sockets := b.listeningOn(shims[0])
	if len(sockets) == 0 {
		b.Error("the shim listens nowhere")
	}
	for _, socket := range sockets {
		if !filepath.IsAbs(socket) {
			b.Errorf("the socket %q has no owner", socket)
			continue
		}
		own = append(own, socket)
		attacker, err := os.Open(filepath.Join(binDir(b), "testattacker"))
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
func (b *bench) listeningOn(shim harness.Process) []string {
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
