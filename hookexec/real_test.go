package hookexec

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// init makes this test's binary a handler host that starts the command outside of any container. It starts the process and
// sends its pidfd, which blocks if the command is parked. Then the process continues, and the host answers and exits.
func init() {
	if len(os.Args) != 2 || os.Args[0] != HostBinary || os.Args[1] != wire.CommandStart {
		return
	}
	control := os.NewFile(wire.ControlFD, "control")
	var request wire.StartRequest
	if err := json.NewDecoder(control).Decode(&request); err != nil {
		os.Exit(2)
	}
	pidfd := -1
	cmd := exec.Command("/bin/sh", append([]string{"-c", `read line; shift; exec "$@"`, "sh", ""}, request.Args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd}
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		err = unix.Sendmsg(wire.PidfdFD, []byte("setns"), unix.UnixRights(pidfd), nil, 0)
	}
	if err == nil {
		_, err = stdin.Write([]byte("go\n"))
	}
	if err == nil {
		err = json.NewEncoder(control).Encode(wire.StartResponse{Pid: cmd.Process.Pid})
	}
	if err != nil {
		os.Exit(3)
	}
	os.Exit(0)
}

// reaper reports the exits of all children to all subscribers, like the shim's reaper. A goroutine that is about to find no
// child may still reap one that was started later.
type reaper struct{}

var subscribers = struct {
	sync.Mutex

	all map[chan runc.Exit]bool
}{all: map[chan runc.Exit]bool{}}

func (reaper) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	subscribers.Lock()
	defer subscribers.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exits := make(chan runc.Exit, 64)
	subscribers.all[exits] = true
	go reap()
	return exits, nil
}

func reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // no child remains
		}
		code := status.ExitStatus()
		if status.Signaled() {
			code = 128 + int(status.Signal())
		}
		subscribers.Lock()
		for exits := range subscribers.all {
			exits <- runc.Exit{Pid: pid, Status: code}
		}
		subscribers.Unlock()
	}
}

func (reaper) Unsubscribe(exits chan runc.Exit) {
	subscribers.Lock()
	defer subscribers.Unlock()
	delete(subscribers.all, exits)
}

// realExec runs a command with a host that really starts it.
func realExec(t *testing.T, script string) *Exec {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return &Exec{
		Host: &Host{file: file, monitor: reaper{}}, Request: wire.StartRequest{Args: []string{"/bin/sh", "-c", script}},
		OutputLimit: 10, Progress: &Progress{},
	}
}

// attempts of a command: started at once, and resumed after it was parked.
var attemptsOf = map[string]func(*testing.T, context.Context, *Exec) Result{
	"at once": func(_ *testing.T, ctx context.Context, e *Exec) Result { return e.Attempt(ctx) },
	"parked": func(t *testing.T, ctx context.Context, e *Exec) Result {
		t.Helper()
		parked, err := e.Park(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		e.Parked = parked
		result := e.Attempt(ctx)
		if e.Parked != nil {
			t.Error("the parked command is still set after the attempt")
		}
		select {
		case <-parked.resumed:
		default:
			t.Error("it was not resumed")
		}
		return result
	},
}

// TestExecRuns: a command's output and status are in the result, whether or not it was parked.
func TestExecRuns(t *testing.T) {
	for name, attempt := range attemptsOf {
		for script, want := range map[string]Result{
			"echo said; echo and more >&2": {Outcome: lifecycle.Succeeded, Output: "\nand more\n", Dropped: 4},
			"echo no; exit 7":              {Outcome: lifecycle.Failed, ExitCode: 7, Output: "no\n", Err: &exitError{7}},
			"kill -KILL $$":                {Outcome: lifecycle.Failed, ExitCode: 137, Err: &exitError{137}},
		} {
			t.Run(name+": "+script, func(t *testing.T) {
				e := realExec(t, script)
				before := openFDs(t)
				got := attempt(t, t.Context(), e)
				if got.Outcome != want.Outcome || got.ExitCode != want.ExitCode || got.Output != want.Output || got.Dropped != want.Dropped || (got.Err == nil) != (want.Err == nil) || got.Err != nil && got.Err.Error() != want.Err.Error() {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if _, text, dropped := e.Progress.Look(); text != want.Output || dropped != want.Dropped {
					t.Errorf("Progress shows %q, after %d bytes", text, dropped)
				}
				waitFor(t, func() bool { return openFDs(t) == before })
			})
		}
	}
}

// TestExecIsEnded: when the attempt's context is cancelled, the command's process group is killed, even if it was parked
// with another context. The cause is the attempt's.
func TestExecIsEnded(t *testing.T) {
	for name, attempt := range attemptsOf {
		t.Run(name, func(t *testing.T) {
			began := filepath.Join(t.TempDir(), "began")
			e := realExec(t, "sleep 1000 & echo $! > "+began+".new; mv "+began+".new "+began+"; wait")
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan Result, 1)
			go func() { ended <- attempt(t, ctx, e) }()
			waitFor(t, func() bool { _, err := os.Stat(began); return err == nil })
			cancel(ErrTimedOut)
			select {
			case got := <-ended:
				if got.Outcome != lifecycle.Failed || got.ExitCode != 137 {
					t.Errorf("got %+v", got)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it did not end")
			}
			child, err := os.ReadFile(began)
			if err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { _, err := os.Stat("/proc/" + strings.TrimSpace(string(child))); return err != nil })
		})
	}
}

// hangs is a reaper whose processes run until the shim kills them. It works in a synctest bubble, because only ended reads
// from or waits for the process.
type hangs struct {
	t     *testing.T
	cmd   *exec.Cmd
	exits chan runc.Exit
}

func (h *hangs) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	cmd.Stdin, cmd.Stderr = nil, nil // synctest would not consider os/exec's copying goroutines blocked
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h.cmd = cmd
	return h.exits, nil
}

func (h *hangs) Unsubscribe(chan runc.Exit) {}

// runs reports whether the process has not been killed.
func (h *hangs) runs() bool {
	stat, err := readStat(h.cmd.Process.Pid)
	return err == nil && stat.flags&0x4 == 0
}

// ended reaps the killed process, and reports its exit.
func (h *hangs) ended() {
	h.t.Helper()
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(h.cmd.Process.Pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if status.Signal() != unix.SIGKILL {
		h.t.Errorf("it exited with %v", status)
	}
	h.exits <- runc.Exit{Pid: h.cmd.Process.Pid, Status: 137}
}

// TestHostsAreGivenTime: a preparation has 30 s after the container was created, a clean-up has 10 s.
func TestHostsAreGivenTime(t *testing.T) {
	for name, test := range map[string]struct {
		limit time.Duration
		call  func(context.Context, *Host) error
		says  string
	}{
		"a clean-up": {10 * time.Second, func(ctx context.Context, h *Host) error { return h.Clean(ctx, wire.OnExit{}) }, "deadline exceeded"},
		"a preparation": {30 * time.Second, func(ctx context.Context, h *Host) error {
			return prepare(ctx, h, wire.PrepareRequest{}, wire.Init{})
		}, "the preparation took longer than 30 s"},
	} {
		t.Run(name, func(t *testing.T) {
			host, _ := scriptHost(t, "exec sleep 1000")
			synctest.Test(t, func(t *testing.T) {
				h := &hangs{t: t, exits: make(chan runc.Exit)}
				host.monitor = h
				ended := make(chan error, 1)
				go func() { ended <- test.call(t.Context(), host) }()
				<-time.After(test.limit - time.Nanosecond)
				synctest.Wait()
				if !h.runs() {
					t.Error("it was ended too early")
				}
				<-time.After(time.Nanosecond)
				synctest.Wait()
				h.ended()
				if err := <-ended; err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestAnswerThatDoesNotCome: a process that the host left behind may hold its socket open. The shim does not wait for it.
func TestAnswerThatDoesNotCome(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left")
	host, monitor := scriptHost(t, "sleep 1000 >/dev/null 2>&1 & echo $! > "+left+"; exit 0")
	before := openFDs(t)
	ended := make(chan Result, 1)
	go func() { ended <- (&Exec{Host: host, Progress: &Progress{}}).Attempt(t.Context()) }()
	select {
	case got := <-ended:
		if got.Outcome != lifecycle.Failed || !strings.Contains(got.Err.Error(), "exited without an answer") {
			t.Errorf("got %+v", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the answer")
	}
	data, err := os.ReadFile(left)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("kill", strings.TrimSpace(string(data))).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	nothingIsLeft(t, monitor, before)
}

// TestTextOfAFailure: a text of more than 1024 bytes is cut.
func TestTextOfAFailure(t *testing.T) {
	whole := strings.Repeat("x", 1024)
	for text, want := range map[string]string{whole: whole, whole + "y": whole[3:] + "…"} {
		got := transportFailure(errors.New(text))
		if got.Err.Error() != want || got.Outcome != lifecycle.Failed || got.ExitCode != -1 {
			t.Errorf("%d bytes became %d bytes: %+v", len(text), len(got.Err.Error()), got)
		}
	}
}
