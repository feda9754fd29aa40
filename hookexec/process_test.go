package hookexec

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// TestProcessIsKnownByItsPidfd: newProcess finds the pid of a pidfd until the process is reaped.
func TestProcessIsKnownByItsPidfd(t *testing.T) {
	cmd, own := sleeping(t)
	defer own.close()
	for _, pid := range []int{0, own.pid} {
		if got, err := newProcess(own.pidfd, pid); err != nil || got.pid != own.pid || got.pidfd != own.pidfd {
			t.Errorf("newProcess with pid %d: got %+v, %v", pid, got, err)
		}
	}
	if own.isReaped() {
		t.Error("a running process is reported as reaped")
	}
	_ = cmd.Process.Kill()
	if err := unix.Waitid(unix.P_PID, own.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if own.isReaped() {
		t.Error("a zombie is reported as reaped")
	}
	_ = cmd.Wait()
	if !own.isReaped() {
		t.Error("a reaped process is reported as not reaped")
	}
	if got, err := newProcess(own.pidfd, 0); err == nil || !strings.Contains(err.Error(), "has been reaped") {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := own.killGroup(); err != nil {
		t.Errorf("killGroup of a reaped process: %v", err)
	}
	if got, err := newProcess(1<<30, 0); !os.IsNotExist(err) {
		t.Errorf("no pidfd: got %+v, %v", got, err)
	}
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got, err := newProcess(int(file.Fd()), 0); err == nil {
		t.Errorf("newProcess of a file: got %+v", got)
	}
	if err := (&process{pid: 1 << 22, pidfd: int(file.Fd())}).killGroup(); !errors.Is(err, unix.EBADF) || !strings.Contains(err.Error(), "kill process group 4194304") {
		t.Errorf("killGroup with a file: %v", err)
	}
}

// TestKillGroup kills all processes of the group, and no others.
func TestKillGroup(t *testing.T) {
	_, beside := sleeping(t)
	defer beside.close()
	leader, own := sleeping(t)
	defer own.close()
	member := exec.Command("sleep", "1000")
	member.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: own.pid}
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = member.Process.Kill(); _ = member.Wait(); _ = member.Process.Release() })
	if err := own.killGroup(); err != nil {
		t.Fatal(err)
	}
	wantKilled(t, leader)
	wantKilled(t, member)
	if stat, err := readStat(beside.pid); err != nil || stat.flags&0x4 != 0 {
		t.Errorf("the process outside of the group: %+v, %v", stat, err)
	}
}

// freezer creates a cgroup of the v1 freezer.
func freezer(t *testing.T) (dir string) {
	t.Helper()
	if cgroups.Mode() == cgroups.Unified {
		t.Skip("cgroup v2 kills frozen processes: there is nothing to thaw")
	}
	dir = newCgroup(t, "/sys/fs/cgroup/freezer")
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
		waitFor(t, func() bool { return os.Remove(dir) == nil })
	})
	return dir
}

// TestKillOfAFrozenGroup: the group exits, and other processes stay in the frozen cgroup.
func TestKillOfAFrozenGroup(t *testing.T) {
	dir := freezer(t)
	other, _ := sleeping(t)
	leader, own := sleeping(t)
	defer own.close()
	for _, cmd := range []*exec.Cmd{other, leader} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
			_ = cmd.Wait()
		})
	}
	in := func() []string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(data))
	}
	if err := own.thaw(); err != nil || len(in()) != 2 {
		t.Errorf("thaw of a group that is not frozen: %v, %q", err, in())
	}
	if err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("FROZEN"), 0); err != nil {
		t.Fatal(err)
	}
	if err := own.killGroup(); err != nil {
		t.Fatal(err)
	}
	wantKilled(t, leader)
	if got := in(); !slices.Equal(got, []string{strconv.Itoa(other.Process.Pid)}) {
		t.Errorf("the frozen cgroup has the processes %q, want only %d", got, other.Process.Pid)
	}
	if state, err := os.ReadFile(filepath.Join(dir, "freezer.state")); string(state) != "FROZEN\n" || err != nil {
		t.Errorf("the cgroup is %q, %v", state, err)
	}
}

// losesItsFirstThread, in the environment, makes this test's binary end its first thread.
const losesItsFirstThread = "HOOKEXEC_TEST_FIRST_THREAD"

// TestProcessWithoutItsFirstThread: such a process looks as if it were exiting. Ended checks
// again after a second, because a process that really exits can look the same.
func TestProcessWithoutItsFirstThread(t *testing.T) {
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), losesItsFirstThread+"=1")
	stdout, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	init, err := NewInit(child.Process.Pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	waitFor(t, init.exiting)
	if !init.lives() {
		t.Error("it is reported as not alive")
	}
	if init.Ended(t.Context()) {
		t.Error("its container is reported as exited")
	}
	another := *init
	another.startTime += "1"
	if another.lives() {
		t.Error("another process with that pid is reported as alive")
	}
}

// init runs on the first thread.
func init() {
	if os.Getenv(losesItsFirstThread) == "" {
		return
	}
	runtime.LockOSThread()
	go func() {
		_, _ = os.Stdout.WriteString("going\n")
		select {}
	}()
	go func() { // else Go's runtime reports a deadlock
		for range time.Tick(time.Hour) {
		}
	}()
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
}

// TestKillGroupByNumber takes all of the group, and no other group that was given the number of a leader that has been reaped.
func TestKillGroupByNumber(t *testing.T) {
	leader, own := sleeping(t)
	defer own.close()
	member := exec.Command("sleep", "1000")
	member.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: own.pid}
	if err := member.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = member.Process.Kill(); _ = member.Wait(); _ = member.Process.Release() })
	if err := own.killGroupByNumber(); err != nil {
		t.Fatal(err)
	}
	wantKilled(t, leader)
	wantKilled(t, member)
	_, later := sleeping(t)
	defer later.close()
	if err := (&process{pid: later.pid, pidfd: own.pidfd}).killGroupByNumber(); !errors.Is(err, unix.ESRCH) {
		t.Errorf("got %v", err)
	}
	if stat, err := readStat(later.pid); err != nil || stat.flags&0x4 != 0 {
		t.Errorf("another process with that number: %+v, %v", stat, err)
	}
}
