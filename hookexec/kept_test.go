package hookexec

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// TestOOMKills: the container's own count while its cgroup exists, and the parent's since the container was created.
func TestOOMKills(t *testing.T) {
	slice := t.TempDir()
	scope := filepath.Join(slice, "scope")
	if err := os.Mkdir(scope, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(dir, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, memoryEvents), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(slice, "oom_kill 2\n")
	r := newKept(filepath.Join(scope, memoryEvents))
	want := func(count int, known, around bool) {
		t.Helper()
		gotCount, gotKnown := r.OOMKills()
		if got := r.OOMAround(); gotCount != count || gotKnown != known || got != around {
			t.Errorf("%d (known: %v), around: %v; want %d (%v), %v", gotCount, gotKnown, got, count, known, around)
		}
	}
	want(0, false, false)
	if err := os.Remove(filepath.Join(slice, memoryEvents)); err != nil {
		t.Fatal(err)
	}
	want(0, false, false)
	write(slice, "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
	write(scope, "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")
	want(0, true, false)
	write(scope, "low 0\n") // an old kernel does not count OOM kills
	want(0, false, false)
	write(slice, "oom_kill 3\n")
	write(scope, "oom_kill 1\n")
	want(1, true, true)
	if err := os.RemoveAll(scope); err != nil {
		t.Fatal(err)
	}
	want(0, false, true)
	for _, nonsense := range []string{"x", "99999999999999999999"} { // for the latter Atoi also returns the highest number
		write(slice, "oom_kill "+nonsense+"\n")
		want(0, false, false)
	}
}

// TestOOMCounter: the memory controller is v1's if that is mounted, else v2's.
func TestOOMCounter(t *testing.T) {
	const v1, v2 = "/sys/fs/cgroup/memory/g/c1/memory.oom_control", "/sys/fs/cgroup/g/c1/memory.events"
	for memberships, want := range map[string]string{
		"":                                 "",
		"nonsense\n0:/g/c1\n":              "",
		"0::/g/c1\n":                       v2,
		"7:memory:/g/c1\n":                 v1,
		"7:memory:/g/c1\n0::/other\n":      v1,
		"0::/other\n7:memory:/g/c1\n":      v1,
		"3:cpu,cpuacct:/other\n0::/g/c1\n": v2,
		"1:name=systemd:/other\n":          "",
		"0::/g/c:1\n":                      "/sys/fs/cgroup/g/c:1/memory.events",
	} {
		if got := oomCounterOf(memberships); got != want {
			t.Errorf("%q: got %q, want %q", memberships, got, want)
		}
	}
	if got := oomCounter(1<<22 + 1); got != "" { // above every pid
		t.Errorf("a process that does not exist: %q", got)
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := oomCounter(os.Getpid()), oomCounterOf(string(data)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestOOMEventsThatCannotBeHad: without the cgroup, or without descriptors, oomEvents returns nil and leaves none open.
func TestOOMEventsThatCannotBeHad(t *testing.T) {
	memory := filepath.Join(cgroupMount, "memory")
	if file := oomEvents(filepath.Join(memory, "none") + "/"); file != nil {
		t.Errorf("got %v", file.Name())
	}
	if cgroups.Mode() == cgroups.Unified {
		t.Skip("cgroup v2 has no such eventfd")
	}
	dir := newCgroup(t, memory)
	defer func() { waitFor(t, func() bool { return os.Remove(dir) == nil }) }()
	before := openFDs(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for spare := range 2 { // it needs one for the eventfd and one for the file that registers it
		lowered := limit
		lowered.Cur = numberAfter(t, spare)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
			t.Fatal(err)
		}
		file := oomEvents(dir + "/")
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if file != nil {
			t.Errorf("%d free descriptors: got %v", spare, file.Name())
			_ = file.Close()
		}
		if got := openFDs(t); got != before {
			t.Errorf("%d descriptors, %d before", got, before)
		}
	}
	if file := oomEvents(dir + "/"); file == nil {
		t.Error("got nil for an existing cgroup")
	} else {
		_ = file.Close()
	}
}

// TestSawOOM: the removal of a cgroup counts like an OOM, and may be reported late.
func TestSawOOM(t *testing.T) {
	for name, test := range map[string]struct {
		counted uint
		later   bool // the count grows while sawOOM waits
		saw     bool
		waits   bool
	}{
		"nothing":             {0, false, false, false},
		"one of the two":      {1, false, false, true},
		"the removal is late": {1, true, true, false},
		"both":                {2, false, true, false},
		"more than one":       {3, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			fd, err := unix.Eventfd(test.counted, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			kept := &Kept{oomEvents: os.NewFile(uintptr(fd), "eventfd")}
			defer kept.Close()
			if test.later {
				timer := time.AfterFunc(removalWait/10, func() { _, _ = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, 1)) })
				defer timer.Stop()
			}
			began := time.Now()
			if saw := kept.OOMAround(); saw != test.saw {
				t.Errorf("sawOOM: %t", saw)
			}
			if took := time.Since(began); (took >= removalWait) != test.waits {
				t.Errorf("it took %s", took)
			}
			kept.Close()
			if kept.OOMAround() {
				t.Error("a closed Kept reports an OOM")
			}
		})
	}
}

// TestOOMOfRemovedCgroup: the cgroup is removed as soon as its processes have exited, as systemd does with a scope.
func TestOOMOfRemovedCgroup(t *testing.T) {
	mount, limit := cgroupMount, "memory.max"
	if cgroups.Mode() != cgroups.Unified {
		mount, limit = filepath.Join(cgroupMount, "memory"), "memory.limit_in_bytes"
	}
	slice := newCgroup(t, mount)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { must(os.Remove(slice)) })
	if cgroups.Mode() == cgroups.Unified {
		must(os.WriteFile(filepath.Join(slice, "cgroup.subtree_control"), []byte("+memory"), 0o644))
	}
	for _, test := range []struct {
		name, script string
		oom          bool
		late         bool // read only after the kernel has reported the cgroup's removal
	}{
		{name: "OOM kill", script: "exec tail /dev/zero", oom: true},
		{name: "killed from outside", script: "kill -KILL $$"},
		{name: "killed from outside, long ago", script: "kill -KILL $$", late: true},
	} {
		scope := filepath.Join(slice, "scope")
		must(os.Mkdir(scope, 0o755))
		must(os.WriteFile(filepath.Join(scope, limit), []byte("16777216"), 0o644))
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo $$ > "+scope+"/cgroup.procs && echo in && read go && "+test.script)
		stdin, err := cmd.StdinPipe()
		must(err)
		stdout, err := cmd.StdoutPipe()
		must(err)
		must(cmd.Start())
		_, err = bufio.NewReader(stdout).ReadString('\n')
		must(err)
		r, err := Keep(cmd.Process.Pid, false)
		must(err)
		_, err = io.WriteString(stdin, "\n")
		must(err)
		_ = cmd.Wait() // the script decides the status
		for end := time.Now().Add(10 * time.Second); ; {
			err := os.Remove(scope)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
				t.Fatal(err)
			}
		}
		if test.late && r.oomEvents != nil { // the next event is the removal
			conn, err := r.oomEvents.SyscallConn()
			must(err)
			must(conn.Control(func(fd uintptr) { _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000) }))
			must(err)
		}
		if _, known := r.OOMKills(); known {
			t.Errorf("%s: the count of a removed cgroup is known", test.name)
		}
		if got := r.OOMAround(); got != test.oom {
			t.Errorf("%s: OOMAround: %v, want %v", test.name, got, test.oom)
		}
		r.Close()
	}
}

// TestKeep: all namespaces, or only the network's, outlive their process.
func TestKeep(t *testing.T) {
	fds := openFDs(t)
	cmd, own := sleeping(t)
	all, err := Keep(own.pid, true)
	if err != nil {
		t.Fatal(err)
	}
	network, err := Keep(own.pid, false)
	if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	own.close()
	paths := all.Paths()
	for name, kind := range kinds {
		mine, err := os.Stat("/proc/self/ns/" + name)
		if err != nil {
			continue // the kernel does not support it
		}
		kept, err := os.Stat(paths[kind])
		if err != nil || !os.SameFile(mine, kept) || !strings.HasPrefix(paths[kind], "//") {
			t.Errorf("%s: %q, %v", kind, paths[kind], err)
		}
	}
	if got := network.Paths(); len(got) != 1 || got["network"] == "" || network.Network().Pidfd <= 0 {
		t.Errorf("only the network: %v", got)
	}
	if left, err := Keep(own.pid, true); err == nil || !strings.Contains(err.Error(), "keep the container's") {
		t.Errorf("Keep of a process that does not exist: %+v, %v", left, err)
	}
	for _, kept := range []*Kept{all, network} {
		kept.Close()
		kept.Close()
		if kept.OOMAround() && kept.oomEvents != nil {
			t.Error("a closed Kept reports an OOM")
		}
	}
	if got := openFDs(t); got != fds {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
}

// TestKeepWhatThereIs: a kernel may lack a type of namespace. After any other error nothing is kept.
func TestKeepWhatThereIs(t *testing.T) {
	kinds["lacking"] = "lacking"
	defer delete(kinds, "lacking")
	before := openFDs(t)
	kept, err := Keep(os.Getpid(), true)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept.namespaces) < 5 || kept.namespaces["lacking"] != nil {
		t.Errorf("kept %v", kept.namespaces)
	}
	most := openFDs(t) - before
	kept.Close()
	if kept, err := Keep(1<<22+1, false); err == nil || !strings.Contains(err.Error(), "keep the container's network namespace: ") { // above every pid
		t.Errorf("a process that does not exist: %+v, %v", kept, err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for spare := range most - 1 {
		lowered := limit
		lowered.Cur = numberAfter(t, spare)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
			t.Fatal(err)
		}
		kept, err := Keep(os.Getpid(), true)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, unix.EMFILE) || kept != nil {
			t.Errorf("%d free descriptors: %+v, %v", spare, kept, err)
		}
		if got := openFDs(t); got != before {
			t.Errorf("%d descriptors, %d before", got, before)
		}
	}
}

// TestWaitStatus: kernels from Linux 6.15 keep the status of a reaped process.
func TestWaitStatus(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read line; exit 7")
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if status, ok := WaitStatus(pidfd); ok {
		t.Errorf("status of a running process: %v", status)
	}
	_, _ = io.WriteString(stdin, "go\n")
	_ = cmd.Wait()
	var info unix.PidfdInfo
	info.Mask = unix.PIDFD_INFO_EXIT
	known := unix.IoctlPidfdInfo(pidfd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
	if status, ok := WaitStatus(pidfd); ok != known || ok && status.ExitStatus() != 7 {
		t.Errorf("got %v, %v", status, ok)
	}
	if _, ok := WaitStatus(0); ok {
		t.Error("a file has a status")
	}
}
