package hookexec

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// TestOOMKills: the container's own count while there is one, and what was counted around it since it began.
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
	r := &Kept{memory: filepath.Join(scope, memoryEvents), around: filepath.Join(slice, memoryEvents), before: 2}
	want := func(count int, known, around bool) {
		t.Helper()
		gotCount, gotKnown := r.OOMKills()
		if got := r.OOMAround(); gotCount != count || gotKnown != known || got != around {
			t.Errorf("%d (known: %v), around: %v; want %d (%v), %v", gotCount, gotKnown, got, count, known, around)
		}
	}
	want(0, false, false)
	write(slice, "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
	write(scope, "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")
	want(0, true, false)
	write(slice, "oom_kill 3\n")
	write(scope, "oom_kill 1\n")
	want(1, true, true)
	if err := os.RemoveAll(scope); err != nil {
		t.Fatal(err)
	}
	want(0, false, true)
	write(slice, "oom_kill x\n")
	want(0, false, false)
}

// TestOOMOfRemovedCgroup: of processes whose cgroup is removed as soon as they have ended, as systemd does with a scope.
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
		late         bool // asked for only when the kernel has told of the cgroup's end
	}{
		{name: "killed for want of memory", script: "exec tail /dev/zero", oom: true},
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
		_ = cmd.Wait() // as the script says
		for end := time.Now().Add(10 * time.Second); ; {
			err := os.Remove(scope)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
				t.Fatal(err)
			}
		}
		if test.late && r.oomEvents != nil { // then what the kernel tells is this end
			conn, err := r.oomEvents.SyscallConn()
			must(err)
			must(conn.Control(func(fd uintptr) { _, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000) }))
			must(err)
		}
		if _, known := r.OOMKills(); known {
			t.Errorf("%s: its cgroup's count is known, which was removed", test.name)
		}
		if got := r.OOMAround(); got != test.oom {
			t.Errorf("%s: an OOM around it: %v, want %v", test.name, got, test.oom)
		}
		r.Close()
	}
}
