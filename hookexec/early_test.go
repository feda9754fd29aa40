package hookexec

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// staged is a run in which the test decides when processes exit and when their exits are
// reported. The test also writes to the host's end of the channel.
type staged struct {
	*execRun
	t               *testing.T
	host, process   *exec.Cmd
	reports         chan runc.Exit
	control, pidfds *os.File
	unsubscribed    testMonitor
	ended           chan Result
}

// sleeping starts a process in a new process group.
func sleeping(t *testing.T) (*exec.Cmd, *process) {
	t.Helper()
	pidfd := -1
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = cmd.Process.Release() })
	return cmd, &process{pid: cmd.Process.Pid, pidfd: pidfd}
}

// stage begins the run. The handler's process exists and has sent its pidfd.
func stage(ctx context.Context, t *testing.T) *staged {
	t.Helper()
	channel, files, err := newChannel()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(files...) })
	output, writer, err := newOutput(100, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	s := &staged{t: t, reports: make(chan runc.Exit), control: files[0], pidfds: files[pidfdFile], ended: make(chan Result, 1)}
	host, hostProcess := sleeping(t)
	process, handler := sleeping(t)
	s.host, s.process = host, process
	if err := unix.Sendmsg(int(s.pidfds.Fd()), []byte("setns"), unix.UnixRights(handler.pidfd), nil, 0); err != nil {
		t.Fatal(err)
	}
	handler.close()
	sent := make(chan struct{})
	close(sent)
	s.execRun = &execRun{
		child:   &child{process: hostProcess, cmd: host, exits: s.reports, monitor: &s.unsubscribed},
		channel: channel, output: output, sent: sent,
	}
	go func() { s.ended <- s.wait(ctx) }()
	return s
}

// say sends a message of the host.
func (s *staged) say(response wire.StartResponse) {
	s.t.Helper()
	if err := json.NewEncoder(s.control).Encode(response); err != nil {
		s.t.Fatal(err)
	}
}

// reap kills and reaps a process, so that its exit can be reported.
func (s *staged) reap(cmd *exec.Cmd) {
	s.t.Helper()
	_ = cmd.Process.Kill()
	for {
		if _, err := unix.Wait4(cmd.Process.Pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// report reports an exit. The run has handled it when it accepts the next one, or has ended.
func (s *staged) report(pid, status int) {
	s.t.Helper()
	select {
	case s.reports <- runc.Exit{Pid: pid, Status: status}:
	case result := <-s.ended:
		s.t.Fatalf("it ended too early: %+v", result)
	}
}

// stale reports an exit of an earlier process with the same pid, and waits until the run has
// handled it.
func (s *staged) stale(pid int) {
	s.t.Helper()
	s.report(pid, 9)
	s.report(1<<22, 9)
}

// wantEnd waits for the run's end, with that status.
func (s *staged) wantEnd(status int) {
	s.t.Helper()
	select {
	case result := <-s.ended:
		if result.ExitCode != status {
			s.t.Errorf("got %+v, want the status %d", result, status)
		}
	case <-time.After(10 * time.Second):
		s.t.Fatal("it did not end")
	}
}

// TestA10ExitsOfOthersAreNotKept: while a handler is parked, any number of other processes
// may exit. That costs no memory, and the handler's own exit is not lost.
func TestA10ExitsOfOthersAreNotKept(t *testing.T) {
	s := stage(t.Context(), t)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	exits := 1_000_000
	if testing.Short() {
		exits = 100_000 // 3.5 MiB if all were kept
	}
	for i := range exits {
		s.report(1<<22+i, i) // above every pid (PID_MAX_LIMIT)
	}
	grown := int64(heap()) - int64(before)
	if t.Logf("%d exits: %d bytes", exits, grown); grown > 1<<20 {
		t.Errorf("%d exits cost %d bytes", exits, grown)
	}
	s.say(wire.StartResponse{Pid: s.process.Process.Pid})
	s.reap(s.process)
	s.report(s.process.Process.Pid, 7) // the reaper may report the handler before its host
	s.report(1<<22, 9)
	s.reap(s.host)
	s.report(s.host.Process.Pid, 0)
	s.wantEnd(7)
}

// TestEarlyExits: an exit that is reported before the host's counts only if it is the
// handler's.
func TestEarlyExits(t *testing.T) {
	for name, test := range map[string]struct {
		announced bool // an onExit's
		happens   func(s *staged, host, handler int)
		want      int
	}{
		"the host, then the handler": {false, func(s *staged, host, handler int) {
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
			s.report(1<<22, 9)
			s.reap(s.process)
			s.report(handler, 3)
		}, 3},
		"another process's exit after the handler was reaped": {false, func(s *staged, host, handler int) {
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
			s.reap(s.process)
			s.report(1<<22, 9)
			s.report(handler, 3)
		}, 3},
		"a later process with the host's pid": {false, func(s *staged, host, handler int) {
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
			s.stale(host)
			s.reap(s.process)
			s.report(handler, 3)
		}, 3},
		"after the announcement": {true, func(s *staged, host, handler int) {
			s.reap(s.process)
			s.report(handler, 4)
			s.report(1<<22, 9)
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
		}, 4},
		"an earlier process with the handler's pid": {true, func(s *staged, host, handler int) {
			s.stale(handler)
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
			s.stale(handler)
			s.reap(s.process)
			s.report(handler, 5)
		}, 5},
		"an earlier process with the host's pid": {true, func(s *staged, host, handler int) {
			s.stale(host)
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
			s.reap(s.process)
			s.report(handler, 6)
		}, 6},
		"an exit after the host's": {true, func(s *staged, host, handler int) {
			s.report(1<<22, 9)
			s.reap(s.process)
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.host)
			s.report(host, 0)
			s.report(1<<22, 9)
			s.report(handler, 8)
		}, 8},
		"another process than the announced one": {false, func(s *staged, host, handler int) {
			s.say(wire.StartResponse{Pid: 1 << 22, Announced: true})
			s.report(1<<22, 9)
			s.say(wire.StartResponse{Pid: handler})
			s.reap(s.process)
			s.reap(s.host)
			s.report(host, 0)
			s.report(1<<22, 9)
			s.report(handler, 8)
		}, 8},
		"a host that fails, with a handler": {true, func(s *staged, host, handler int) {
			s.say(wire.StartResponse{Error: "no"})
			s.reap(s.host)
			s.report(host, 1)
			s.report(1<<22, 9)
			s.reap(s.process) // it was killed
			s.report(handler, 137)
		}, 137},
		"a host that ends after its announcement": {true, func(s *staged, host, handler int) {
			_ = s.control.Close()
			s.reap(s.host)
			s.stale(host) // ignored, because the handler is still running
			s.reap(s.process)
			s.report(handler, 137)
		}, 137},
	} {
		t.Run(name, func(t *testing.T) {
			s := stage(t.Context(), t)
			host, handler := s.host.Process.Pid, s.process.Process.Pid
			if test.announced {
				s.say(wire.StartResponse{Pid: handler, Announced: true})
			}
			test.happens(s, host, handler)
			s.wantEnd(test.want)
			if s.unsubscribed.unsubscribed != 1 {
				t.Errorf("unsubscribed %d times", s.unsubscribed.unsubscribed)
			}
		})
	}
}

// TestHandlerOfAKilledHostIsKilled: the host may have started it before it was killed.
func TestHandlerOfAKilledHostIsKilled(t *testing.T) {
	for name, says := range map[string]wire.StartResponse{
		"after its answer":     {},
		"with an error":        {Error: "no"},
		"before it can answer": {Announced: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := stage(ctx, t)
			host, handler := s.host.Process.Pid, s.process.Process.Pid
			if says.Error == "" {
				says.Pid = handler
			}
			s.say(says)
			if says.Error == "" { // with an error it is killed anyway
				cancel(ErrTimedOut)
				wantKilled(t, s.host)
			}
			s.reap(s.host)
			_ = s.control.Close()
			s.report(host, 137)
			wantKilled(t, s.process)
			s.report(handler, 137)
			s.wantEnd(137)
			cancel(nil)
		})
	}
}

// wantKilled waits for a process to be killed, and reaps it.
func wantKilled(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	killed := make(chan unix.WaitStatus, 1)
	go func() {
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(cmd.Process.Pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		killed <- status
	}()
	select {
	case status := <-killed:
		if status.Signal() != unix.SIGKILL {
			t.Errorf("it exited with %v", status)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it was not killed")
	}
}

// TestRunningHandlerIsKilled: after the host's exit, the handler's process group is killed,
// not the host's.
func TestRunningHandlerIsKilled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := stage(ctx, t)
	s.say(wire.StartResponse{Pid: s.process.Process.Pid})
	s.reap(s.host)
	s.report(s.host.Process.Pid, 0)
	s.report(1<<22, 9) // once it is accepted, the one before has been handled
	cancel(ErrTimedOut)
	wantKilled(t, s.process)
	s.report(s.process.Process.Pid, 137)
	s.wantEnd(137)
}

// TestReaperThatIsGone: the run fails, because it would never learn of the exit.
func TestReaperThatIsGone(t *testing.T) {
	s := stage(t.Context(), t)
	close(s.reports)
	select {
	case result := <-s.ended:
		if result.Outcome != lifecycle.Failed || result.ExitCode != -1 || !strings.Contains(result.Err.Error(), "reaper") {
			t.Errorf("got %+v", result)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it did not end")
	}
}

// TestAnnouncements: only a complete announcement counts, and reading it leaves the answer in
// the socket.
func TestAnnouncements(t *testing.T) {
	for name, test := range map[string]struct {
		says   []string
		want   int
		answer int
		err    string
	}{
		"nothing":           {nil, 0, 0, "without an answer"},
		"an answer":         {[]string{`{"Pid":7}`}, 7, 7, ""},
		"an announcement":   {[]string{`{"Pid":7,"Announced":true}`}, 7, 0, "without an answer"},
		"both":              {[]string{`{"Pid":7,"Announced":true}`, `{"Pid":8}`}, 7, 8, ""},
		"an error after it": {[]string{`{"Pid":7,"Announced":true}`, `{"Error":"no"}`}, 7, 0, "cannot start: no"},
		"half a message":    {[]string{`{"Pid":7`}, 0, 0, "without an answer"},
		"an error":          {[]string{`{"Error":"no"}`}, 0, 0, "cannot start: no"},
		"a long error":      {[]string{`{"Error":"` + strings.Repeat("x", 1000) + `","Pid":7}`}, 0, 0, "cannot start: xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			channel, files, err := newChannel()
			if err != nil {
				t.Fatal(err)
			}
			defer channel.close()
			defer closeAll(files[pidfdFile])
			for _, text := range test.says {
				if _, err := io.WriteString(files[0], text); err != nil {
					t.Fatal(err)
				}
			}
			_ = files[0].Close()
			for range 2 {
				if got := channel.announced(); got != test.want {
					t.Errorf("announced is %d, want %d", got, test.want)
				}
			}
			pid, err := channel.response()
			if pid != test.answer || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("the answer is %d, %v", pid, err)
			}
			_ = channel.control.Close()
			if got := channel.announced(); got != 0 {
				t.Errorf("a closed socket announces %d", got)
			}
		})
	}
}
