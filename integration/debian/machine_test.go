package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Limits are long, because they are only reached by a failure. The first holds for what a mirror takes part in.
const (
	mirrorLimit = 10 * time.Minute
	limit       = time.Minute
)

// servicePath is what systemd gives Debian's containerd.service (systemd.exec(5), $PATH).
const servicePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// newSystem makes a minimal Debian 12 and installs packages on it, which start nothing. It returns its root.
func newSystem(t *testing.T, packages ...string) string {
	t.Helper()
	root := filepath.Join(tempDir(t), "debian")
	cache, err := filepath.Abs("../../.cache/debootstrap")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, mirrorLimit, "debootstrap", "--variant=minbase", "--cache-dir="+cache, "bookworm", root, "http://deb.debian.org/debian")
	write(t, filepath.Join(root, "usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n", 0o755) // Debian asks it before it starts a service
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "etc/resolv.conf"), string(resolv), 0o644)
	// The mirror is the machine's, so the network is too; nothing else is.
	install := append([]string{
		"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter + `exec "$@"`, "sh", root,
		"env", "-i", "PATH=" + servicePath, "DEBIAN_FRONTEND=noninteractive",
		"apt-get", "-q", "-y", "-o", "APT::Sandbox::User=root", "install",
	}, packages...)
	run(t, mirrorLimit, "unshare", install...)
	return root
}

// enter makes $1 the root of the mount namespace that it is run in, and shifts it away.
const enter = `set -e
mount --bind "$1" "$1"
cd "$1"
shift
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs run run
pivot_root . .
umount -l .
cd /
`

// boot runs containerd as Debian's service does, beside a first process that reaps, as systemd does.
const boot = enter + `env -i PATH=` + servicePath + ` containerd >/var/log/containerd.log 2>&1 &
wait`

// machine is a system that runs: in its own mount, pid, network, host name and IPC namespaces, which end with it.
type machine struct {
	t    *testing.T
	root string
	pid  int // of its first process
	// namespace of containerd's, and the name of the containers' cgroup.
	namespace string
}

// start boots a system, and returns when its containerd answers.
func start(t *testing.T, root string) *machine {
	t.Helper()
	m := &machine{t: t, root: root, namespace: fmt.Sprintf("lcs-debian-%d", os.Getpid())}
	var said bytes.Buffer
	unshare := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "sh", "-c", boot, "sh", root)
	unshare.Stdout, unshare.Stderr = &said, &said
	unshare.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if err := unshare.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unshare.Process.Kill() // and by --kill-child, its pid namespace
		_ = unshare.Wait()
		m.wantNoCgroup()
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(root, "var/log/containerd.log"))
			t.Logf("containerd's log ends with:\n%s\n%s", tail(string(log), 40), said.String())
		}
	})
	m.poll("the system's first process", func() bool {
		child, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", unshare.Process.Pid))
		_, scanned := fmt.Sscan(string(child), &m.pid)
		return err == nil && scanned == nil
	})
	m.poll("containerd", func() bool {
		_, err := m.try("ctr version")
		return err == nil
	})
	return m
}

// wantNoCgroup wants that no container is left in the cgroups, and removes what was above them: runc leaves it.
func (m *machine) wantNoCgroup() {
	watch := harness.Watch{CgroupParents: []string{"/" + m.namespace}}
	leaks, err := watch.Leaks(context.Background(), harness.Snapshot{})
	if err != nil {
		m.t.Error(err)
	}
	for _, leak := range leaks {
		if strings.Contains(leak, m.namespace) {
			m.t.Errorf("left behind: %s", leak)
		}
	}
	harness.RemoveCgroupParent("/" + m.namespace)
}

// try runs a shell's command line in the system, as its administrator.
func (m *machine) try(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return output(exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(m.pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd",
		"env", "-i", "PATH="+servicePath, "CONTAINERD_NAMESPACE="+m.namespace, "DEBIAN_FRONTEND=noninteractive", "sh", "-c", line))
}

// do is try, and wants success.
func (m *machine) do(line string) string {
	m.t.Helper()
	out, err := m.try(line)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

// want runs a command line until its output has the text.
func (m *machine) want(line, text string) {
	m.t.Helper()
	last := ""
	m.poll(fmt.Sprintf("%s to say %q", line, text), func() bool {
		out, err := m.try(line)
		last = fmt.Sprint(out, err)
		return err == nil && strings.Contains(out, text)
	}, func() string { return last })
}

func (m *machine) poll(what string, done func() bool, explain ...func() string) {
	m.t.Helper()
	err := harness.Poll(context.Background(), limit, what, func() (bool, error) { return done(), nil })
	if err == nil {
		return
	}
	for _, e := range explain {
		m.t.Log(e())
	}
	m.t.Fatal(err)
}

// processes of the system, by name and id.
func (m *machine) processes() string {
	m.t.Helper()
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.pid))
	if err != nil {
		m.t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		m.t.Fatal(err)
	}
	var names []string
	for _, dir := range all {
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		if own, _ := os.Readlink(filepath.Join(dir, "ns/pid")); err == nil && own == namespace {
			names = append(names, fmt.Sprintf("%s (%s)", strings.TrimSpace(string(name)), filepath.Base(dir)))
		}
	}
	return strings.Join(names, ", ")
}

// files of the system, with what each is and how long, but for what any installation of a package and any container change.
func (m *machine) files() map[string]string {
	m.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(m.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, m.root)
		switch name {
		case "/var/lib/dpkg", "/var/lib/apt", "/var/cache", "/var/log", "/var/lib/containerd", "/proc", "/sys", "/dev", "/run", "/tmp":
			return filepath.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files[name] = fmt.Sprint(info.Mode())
		if info.Mode().IsRegular() {
			files[name] += fmt.Sprint(" ", info.Size())
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return files
}

// tempDir is like T.TempDir, for what is not to be deleted while something is mounted in it: the removal stays on one file system.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lcs-debian-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := exec.Command("rm", "-rf", "--one-file-system", dir).Run(); err != nil {
			t.Errorf("%s stays: %v", dir, err)
		}
	})
	return dir
}

func write(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(data), 0o644)
}

// run runs a program, which must succeed, and returns what it prints.
func run(t *testing.T, limit time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out, err := output(exec.CommandContext(ctx, name, args...))
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, tail(out, 30))
	}
	return out
}

// output of a program, stdout and stderr together.
func output(cmd *exec.Cmd) (string, error) {
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
