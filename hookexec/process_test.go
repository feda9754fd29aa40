package hookexec

import (
	"bufio"
	"context"
	"errors"
	"io"
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
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
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

// newCgroup creates a cgroup below parent, which the caller removes. Its name does not contain this process's pid: tests in
// pid namespaces, such as those of mutants, have equal pids.
func newCgroup(t *testing.T, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "lcs-hookexec-test-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
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

// TestMessagesThatAreNoHandler: wrong messages are refused, and their descriptors are closed.
func TestMessagesThatAreNoHandler(t *testing.T) {
	cmd, own := sleeping(t)
	wantNoHandler(t, "nothing", nil, "sent no pidfd")
	wantNoHandler(t, "two of them", []int{own.pidfd, own.pidfd}, "sent no pidfd")
	wantNoHandler(t, "a file", []int{0}, "the handler's process: ")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	wantNoHandler(t, "one that was reaped", []int{own.pidfd}, "has been reaped")
	own.close()
}

func wantNoHandler(t *testing.T, name string, rights []int, says string) {
	t.Helper()
	before := openFDs(t)
	channel, files, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	var oob []byte
	if rights != nil {
		oob = unix.UnixRights(rights...)
	}
	if err := unix.Sendmsg(int(files[pidfdFile].Fd()), []byte("x"), oob, nil, 0); err != nil {
		t.Fatal(err)
	}
	if handler, err := channel.handler(0); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %+v, %v", name, handler, err)
	}
	channel.close()
	closeAll(files...)
	if after := openFDs(t); after != before {
		t.Errorf("%s: %d descriptors, %d before", name, after, before)
	}
}

// TestCancelledHandlerEndsWhatIsParked: Attempt kills the parked command if its context was
// cancelled.
func TestCancelledHandlerEndsWhatIsParked(t *testing.T) {
	host, monitor := scriptHost(t, "exec sleep 1000")
	before := openFDs(t)
	action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
	parked, err := action.Park(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	action.Parked = parked
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrTimedOut)
	if result := action.Attempt(ctx); result.Outcome != Failed || !errors.Is(result.Err, ErrTimedOut) || result.ExitCode != -1 {
		t.Errorf("got %+v", result)
	}
	select {
	case <-parked.done:
	case <-time.After(10 * time.Second):
		t.Fatal("the parked command did not end")
	}
	nothingIsLeft(t, monitor, before)
}

// TestParkedIsEndedWithItsContext: the context of Park kills the command.
func TestParkedIsEndedWithItsContext(t *testing.T) {
	host, monitor := scriptHost(t, "exec sleep 1000")
	before, goroutines := openFDs(t), runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	parked, err := (&Exec{Host: host, OutputLimit: 100}).Park(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-parked.done
	nothingIsLeft(t, monitor, before)
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// TestExecWithoutAHost: the attempt fails, and leaves nothing behind.
func TestExecWithoutAHost(t *testing.T) {
	host, _ := scriptHost(t, "")
	if err := host.file.Chmod(0o600); err != nil {
		t.Fatal(err)
	}
	before, goroutines := openFDs(t), runtime.NumGoroutine()
	action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
	if result := action.Attempt(t.Context()); result.Outcome != Failed || !errors.Is(result.Err, unix.EACCES) || result.ExitCode != -1 {
		t.Errorf("got %+v", result)
	}
	if parked, err := action.Park(t.Context(), nil); !errors.Is(err, unix.EACCES) || parked != nil {
		t.Errorf("parked: %v", err)
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
	if got := openFDs(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
}

// TestExecWithoutDescriptors: if descriptors run out at any step, the attempt fails with that
// error, and leaves none open.
func TestExecWithoutDescriptors(t *testing.T) {
	host, _ := scriptHost(t, "exit 1")
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	before, goroutines := openFDs(t), runtime.NumGoroutine()
	// Two sockets for each of two pairs, a copy of one, and two ends of a pipe.
	for spare := range 7 {
		lowered := limit
		lowered.Cur = numberAfter(t, spare)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lowered); err != nil {
			t.Fatal(err)
		}
		action := &Exec{Host: host, OutputLimit: 100, Progress: &Progress{}}
		result := action.Attempt(t.Context())
		_, parkErr := action.Park(t.Context(), nil)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		if result.Outcome != Failed || !errors.Is(result.Err, unix.EMFILE) || result.ExitCode != -1 || !errors.Is(parkErr, unix.EMFILE) {
			t.Errorf("%d free descriptors: got %+v, Park: %v", spare, result, parkErr)
		}
		if got := openFDs(t); got != before {
			t.Fatalf("%d free descriptors: %d descriptors, %d before", spare, got, before)
		}
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= goroutines })
}

// goneMonitor is a reaper that stops before it has reported an exit.
type goneMonitor struct{ testMonitor }

func (m *goneMonitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for { // the process must not outlive the test
		if _, err := unix.Wait4(cmd.Process.Pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = cmd.Process.Release()
	exits := make(chan runc.Exit)
	close(exits)
	return exits, nil
}

// TestHostWithoutAReaper: the call fails, because it would never learn of the host's exit.
func TestHostWithoutAReaper(t *testing.T) {
	host, _ := scriptHost(t, "exit 0")
	host.monitor = &goneMonitor{}
	if err := host.Clean(t.Context(), wire.OnExit{}); err == nil || !strings.Contains(err.Error(), "reaper has stopped") {
		t.Errorf("got %v", err)
	}
}

// TestCallReleasesItsContext, and does not run longer than it may.
func TestCallReleasesItsContext(t *testing.T) {
	host, _ := scriptHost(t, "exit 0")
	ctx := &holdingContext{Context: t.Context()}
	if err := host.call(ctx, time.Minute, wire.CommandClean, 1); err != nil {
		t.Error(err)
	}
	if held := ctx.held.Load(); held != 0 {
		t.Errorf("its context holds %d", held)
	}
	slow, _ := scriptHost(t, "exec sleep 1000")
	if err := slow.call(ctx, 50*time.Millisecond, wire.CommandClean, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := host.call(ctx, time.Minute, wire.CommandClean, func() {}); err == nil {
		t.Error("a function is sent as a request")
	}
}

// TestClean: the host gets the request, even after the handler's context was cancelled.
func TestClean(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	host, monitor := scriptHost(t, "[ $1 = clean ] && cat > "+seen)
	before := openFDs(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, clean := range map[string]func() error{
		"by the shim": func() error { return host.Clean(ctx, wire.OnExit{ID: "c1"}) },
		"alone":       func() error { return host.CleanAlone(t.Context(), wire.OnExit{ID: "c1"}) },
	} {
		if err := clean(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if data, err := os.ReadFile(seen); err != nil || !strings.Contains(string(data), `"ID":"c1"`) {
			t.Errorf("%s: got %q, %v", name, data, err)
		}
		_ = os.Remove(seen)
	}
	nothingIsLeft(t, monitor, before)
	t.Setenv("SECRET", "x")
	surroundings, _ := scriptHost(t, "env > "+seen+"; pwd >> "+seen)
	if err := surroundings.CleanAlone(t.Context(), wire.OnExit{}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(seen); err != nil || strings.Contains(string(data), "SECRET") || !strings.HasSuffix(string(data), "\n/\n") {
		t.Errorf("it runs with %q, %v", data, err)
	}
	failing, _ := scriptHost(t, "echo busy; exit 3")
	if err := failing.CleanAlone(t.Context(), wire.OnExit{}); err == nil || err.Error() != "lifecycle-hookexec clean: exit status 3: busy" {
		t.Errorf("got %v", err)
	}
}

// TestOnExitExecCleansUp after every attempt, and reports errors.
func TestOnExitExecCleansUp(t *testing.T) {
	calls := filepath.Join(t.TempDir(), "calls")
	for script, fails := range map[string]int{"": 0, "exit 1": 1} {
		host, _ := scriptHost(t, "echo $1 >> "+calls+"; [ $1 = clean ] || exit 7; "+script)
		failed := 0
		action := &OnExitExec{Exec: Exec{Host: host, Progress: &Progress{}, Request: wire.StartRequest{OnExit: &wire.OnExit{}}}, CleanFailed: func(error) { failed++ }}
		if result := action.Attempt(t.Context()); result.Outcome != Failed || failed != fails {
			t.Errorf("%q: got %+v, %d failures", script, result, failed)
		}
		if data, err := os.ReadFile(calls); string(data) != "start\nclean\n" || err != nil {
			t.Errorf("%q: called by %q, %v", script, data, err)
		}
		_ = os.Remove(calls)
	}
}

// TestCgroups: a host starts in the named cgroup if that exists.
func TestOpenCgroup(t *testing.T) {
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none"), "/dev/null"} {
		if fd := openCgroup(path); fd != -1 {
			t.Errorf("%q was opened", path)
		}
	}
	fd := openCgroup("/")
	if fd < 0 {
		t.Fatal("a directory was not opened")
	}
	defer unix.Close(fd)
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("it is inheritable: %#x, %v", flags, err)
	}
}

// TestHostInACgroup: a host is in the cgroup of the v2 hierarchy from its first instruction.
func TestHostInACgroup(t *testing.T) {
	mount := hybridMountpoint
	if cgroups.Mode() == cgroups.Unified {
		mount = cgroupMount
	}
	dir := newCgroup(t, mount)
	defer func() { waitFor(t, func() bool { return os.Remove(dir) == nil }) }()
	seen := filepath.Join(t.TempDir(), "seen")
	host, monitor := scriptHost(t, "cat /proc/self/cgroup > "+seen+"; exit 1")
	before := openFDs(t)
	_ = (&Exec{Host: host, Cgroup: dir, Progress: &Progress{}}).Attempt(t.Context())
	data, err := os.ReadFile(seen)
	if err != nil || !strings.Contains(string(data), "0::/"+filepath.Base(dir)+"\n") {
		t.Errorf("it was in %q, %v", data, err)
	}
	nothingIsLeft(t, monitor, before)
	if cgroups.Mode() == cgroups.Hybrid {
		cmd, own := sleeping(t)
		defer own.close()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(own.pid)), 0); err != nil {
			t.Fatal(err)
		}
		if got := HybridCgroup(own.pid); got != dir {
			t.Errorf("the cgroup is %q, want %q", got, dir)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if got := HybridCgroup(own.pid); got != "" {
			t.Errorf("the cgroup of no process is %q", got)
		}
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
