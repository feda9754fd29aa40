package shim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

func outer(preStart, onExit bool) lifecycle.Config {
	config := lifecycle.Config{DefaultPostStartTimeout: 2 * time.Minute}
	if preStart {
		config.PreStart = &lifecycle.Handler{}
	}
	if onExit {
		config.OnExit = &lifecycle.Handler{}
	}
	return config
}

func TestTheRuntimesStartWaitsForPreStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(true, false), &fakeHandlers{preStart: takes(3*second, succeeded)}).serve()
		start := w.start(0)
		pass(2 * second)
		if !start.isPending() || len(w.inner.Asked("Start")) > 0 {
			t.Errorf("pending %t, the runtime was asked %d times", start.isPending(), len(w.inner.Asked("Start")))
		}
		if _, err := w.service.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("another start: %v", err)
		}
		if err := start.answered(t, 3*second); err != nil || start.pid != shimtest.Pid {
			t.Errorf("pid %d, %v", start.pid, err)
		}
		w.publisher.Expect(t, "c1 preStart, c1 Succeeded, c1 start")
		w.exit()
	})
}

func TestFailedPreStartNeverStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(true, true), &fakeHandlers{preStart: takes(second, failedBad), onExit: takes(2*second, succeeded)}).exitOnSignal().serve()
		err := w.start(0).answered(t, 3*second)
		if status.Code(err) != codes.Unknown || status.Convert(err).Message() != "preStart handler failed: exit status 3: boom" {
			t.Errorf("got %v", err)
		}
		if asked := len(w.inner.Asked("Start")); asked > 0 {
			t.Errorf("the runtime was asked to start it %d times", asked)
		}
		w.handlers.expect(t, []string{"preStart Failed", "onExit Succeeded"}, []string{"9 at 1s"})
		w.publisher.Expect(t, "c1 preStart, c1 Failed, c1 onExit, c1 Succeeded, c1 exit")
	})
}

func TestWhoWaitsForTheEndWaitsForOnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: takes(3*second, failedBad)}).serve().mustStart()
		w.inner.Answer["Wait"] = func(context.Context, any) (any, error) { return &taskapi.WaitResponse{ExitStatus: 3}, nil }
		w.exit()
		if w.state() != task.Status_STOPPED {
			t.Errorf("state %s", w.state())
		}
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), second)
		defer cancel()
		if _, err := w.service.Wait(short, &taskapi.WaitRequest{ID: "c1"}); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a wait whose time is up: %v", err)
		}
		w.publisher.Expect(t, "c1 start, c1 onExit")
		w.kill(unix.SIGTERM) // is answered: the container has ended
		done := make(chan error, 1)
		go func() {
			_, err := w.service.Delete(context.Background(), &taskapi.DeleteRequest{ID: "c1"})
			done <- err
		}()
		response, err := w.service.Wait(t.Context(), &taskapi.WaitRequest{ID: "c1"})
		if err != nil || response.ExitStatus != 3 || time.Since(began) != 3*second {
			t.Errorf("Wait: %v, %v after %s", response, err, time.Since(began))
		}
		if err := <-done; err != nil || time.Since(began) < 3*second {
			t.Errorf("Delete: %v after %s", err, time.Since(began))
		}
		w.publisher.Expect(t, "c1 start, c1 onExit, c1 Failed, c1 exit, c1 delete")
	})
}

// TestPidsWhileOnExitRuns: a containerd that starts must not take the shim for a leftover, whatever the runtime says.
func TestPidsWhileOnExitRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: takes(3*second, succeeded)}).serve().mustStart()
		gone := status.Error(codes.Unknown, "runc: container is not running")
		expect := func(when string, answer []*task.ProcessInfo, answerErr error, want uint32, wantErr error) {
			w.inner.Answer["Pids"] = func(context.Context, any) (any, error) {
				return &taskapi.PidsResponse{Processes: answer}, answerErr
			}
			response, err := w.service.Pids(t.Context(), &taskapi.PidsRequest{ID: "c1"})
			if !errors.Is(err, wantErr) || want == 0 && len(response.GetProcesses()) > 0 ||
				want > 0 && (len(response.GetProcesses()) != 1 || response.Processes[0].Pid != want) {
				t.Errorf("%s: %v, %v, want %d, %v", when, response, err, want, wantErr)
			}
		}
		expect("running", nil, gone, 0, gone)
		w.exit()
		pass(second)
		expect("onExit is being made", nil, nil, shimtest.Pid, nil)
		expect("the runtime refuses", nil, gone, shimtest.Pid, nil)
		expect("onExit's own process", []*task.ProcessInfo{{Pid: 99}}, nil, 99, nil)
		pass(3 * second)
		expect("exited", nil, nil, 0, nil)
	})
}

func TestDeleteOfARunningContainerWithOnExitIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: takes(0, succeeded)}).serve().mustStart()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); status.Code(err) != codes.FailedPrecondition || len(w.inner.Asked("Delete")) > 0 {
			t.Errorf("got %v", err)
		}
		w.exit()
	})
}

func TestSIGKILLEndsOnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs}).serve().mustStart()
		w.exit()
		pass(second)
		w.kill(unix.SIGKILL)
		w.handlers.expect(t, []string{"onExit Aborted"}, nil)
		w.publisher.Expect(t, "c1 start, c1 onExit, c1 Aborted, c1 exit")
	})
}

func never() bool { return false }

// TestEndIsTold: what the kernel knows of a real process, and what is told where it
// does not know.
func TestEndIsTold(t *testing.T) {
	for script, want := range map[string][]string{
		"exit 0":          {"LIFECYCLE_RESULT=completed", "LIFECYCLE_EXIT_CODE=0"},
		"exit 3":          {"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=3"},
		"exit 255":        {"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=255"},
		"exit 137":        {"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=137"},
		"kill -TERM $$":   {"LIFECYCLE_RESULT=signal", "LIFECYCLE_SIGNAL=SIGTERM"},
		"kill -s KILL $$": {"LIFECYCLE_RESULT=signal", "LIFECYCLE_SIGNAL=SIGKILL"},
	} {
		r := &runner{pidfd: ended(t, script), inner: shimtest.NewTask(), id: "c1"}
		r.afterlife = afterlife{remains: &hookexec.Kept{}, oomSeen: never, killed: never}
		if got := r.end(t.Context(), false).environment(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// ended returns the pidfd of a shell that has ended.
func ended(t *testing.T, script string) int {
	t.Helper()
	pidfd := -1
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd}
	_ = cmd.Run() // as the script says
	kept, err := unix.Dup(pidfd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(kept) })
	return kept
}

func TestEndWithoutTheKernelsHelp(t *testing.T) {
	nothing, err := os.Open(os.DevNull) // knows of no process
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	for _, test := range []struct {
		status uint32
		oom    bool
		want   []string
	}{
		{0, true, []string{"LIFECYCLE_RESULT=completed", "LIFECYCLE_EXIT_CODE=0"}},
		{129, false, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=129", "LIFECYCLE_SIGNAL=SIGHUP"}},
		{192, false, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=192", "LIFECYCLE_SIGNAL=SIGRTMIN+30"}},
		{128, false, []string{"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=128"}},
		{143, true, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=143", "LIFECYCLE_SIGNAL=SIGTERM"}},
		{137, false, []string{"LIFECYCLE_RESULT=signal", "LIFECYCLE_EXIT_CODE=137", "LIFECYCLE_SIGNAL=SIGKILL"}},
		{137, true, []string{"LIFECYCLE_RESULT=oom-kill", "LIFECYCLE_EXIT_CODE=137", "LIFECYCLE_SIGNAL=SIGKILL"}},
		{193, false, []string{"LIFECYCLE_RESULT=exit-code", "LIFECYCLE_EXIT_CODE=193"}},
	} {
		inner := shimtest.NewTask()
		inner.Answer["State"] = func(_ context.Context, request any) (any, error) {
			if id := request.(*taskapi.StateRequest).ID; id != "c1" {
				t.Errorf("the state of %q is asked for", id)
			}
			return &taskapi.StateResponse{Status: task.Status_STOPPED, ExitStatus: test.status}, nil
		}
		r := &runner{pidfd: int(nothing.Fd()), inner: inner, id: "c1"}
		r.afterlife = afterlife{remains: &hookexec.Kept{}, oomSeen: func() bool { return test.oom }, killed: never}
		if got := r.end(t.Context(), false).environment(); !slices.Equal(got, test.want) {
			t.Errorf("%d: %q, want %q", test.status, got, test.want)
		}
		if got := r.end(t.Context(), true).environment(); !slices.Equal(got, []string{"LIFECYCLE_RESULT=start-failed"}) {
			t.Errorf("not started: %q", got)
		}
	}
}

// TestOnExitIsNamedAfterItsContainer: runc joins the session keyring of that name, which is to be nobody else's.
func TestOnExitIsNamedAfterItsContainer(t *testing.T) {
	names := map[string]bool{}
	for _, id := range []string{"c1", "c2"} {
		r := &runner{
			id: id, bundle: "/b", runtime: "true", noPivotRoot: true, noKeyring: true, cgroupsPath: defaultCgroup(id, false),
			block: &lifecyclev1.Block{OnExit: &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: []string{"x"}}}},
		}
		if err := r.keep(os.Getpid()); err != nil {
			t.Fatal(err)
		}
		after := r.afterlife.after
		r.afterlife.remains.Close()
		names[after.ID] = true
		if !strings.Contains(after.ID, id) || !after.NoPivotRoot || !after.NoNewKeyring || after.Cgroup != id {
			t.Errorf("%+v", after)
		}
	}
	if len(names) != 2 {
		t.Errorf("names %v", names)
	}
	if got := defaultCgroup("c1", true); got != "system.slice:runc:c1" {
		t.Errorf("systemd: %s", got)
	}
}

// TestDeadShimsOnExitIsCleaned: what it has left running is removed by the containerd's delete action.
func TestDeadShimsOnExitIsCleaned(t *testing.T) {
	host := newFakeHost(t)
	before := openDescriptors(t)
	if err := cleanDead(t.Context(), "/b", "true"); err != nil {
		t.Fatal(err)
	}
	if got := openDescriptors(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
	runtime, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	var after wire.OnExit
	if err := json.Unmarshal([]byte(host.file("clean")), &after); err != nil {
		t.Fatal(err)
	}
	if after.Dir != "/b/lifecycle/onExit" || after.Runtime != runtime || after.Shim != 0 {
		t.Errorf("got %+v", after)
	}
	if err := cleanDead(t.Context(), "/b", "no-such-runtime"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("without a runtime: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := cleanDead(ended, "/b", "true"); !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}
	host.refuse("still mounted")
	if err := cleanDead(t.Context(), "/b", "true"); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Errorf("what cannot be removed: %v", err)
	}
	if err := os.Remove(filepath.Join(host.dir, hookexec.HostBinary)); err != nil {
		t.Fatal(err)
	}
	if err := cleanDead(t.Context(), "/b", "true"); err == nil || !strings.Contains(err.Error(), hookexec.HostBinary) {
		t.Errorf("without a host: %v", err)
	}
}

// fakeCounter counts OOM kills, as far as it is known.
type fakeCounter struct {
	kills         int
	known, around bool
}

func (c fakeCounter) OOMKills() (count int, known bool) { return c.kills, c.known }
func (c fakeCounter) OOMAround() bool                   { return c.around }

// TestOOMKillIsTold: the count of the container's cgroup decides. Where it cannot be asked any more, what containerd's watcher
// has seen counts, and then an OOM kill around the container, if nobody has asked the shim for a SIGKILL.
func TestOOMKillIsTold(t *testing.T) {
	for _, test := range []struct {
		counter      fakeCounter
		seen, killed bool
		want         bool
	}{
		{fakeCounter{kills: 1, known: true}, false, true, true},
		{fakeCounter{kills: 0, known: true, around: true}, true, false, false},
		{fakeCounter{kills: 1}, false, false, false},
		{fakeCounter{}, true, true, true},
		{fakeCounter{around: true}, false, false, true},
		{fakeCounter{around: true}, false, true, false},
		{fakeCounter{}, false, false, false},
	} {
		is := func(value bool) func() bool { return func() bool { return value } }
		if got := oomKilled(test.counter, is(test.seen), is(test.killed)); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
	if got := signalled(unix.SIGKILL, -1, func() bool { return true }); got.result != resultOOMKill || got.exitCode != -1 || got.signal != unix.SIGKILL {
		t.Errorf("SIGKILL for want of memory: %+v", got)
	}
	if got := signalled(unix.SIGTERM, -1, func() bool { return true }); got.result != resultSignal {
		t.Errorf("SIGTERM, and an OOM kill of another process: %+v", got)
	}
}

// TestWhatAnOnExitIsGiven: all that the runtime needs to make it in what is left of the container.
func TestWhatAnOnExitIsGiven(t *testing.T) {
	r := &runner{
		id: "c1", bundle: "/b", runtime: "true", systemdCgroup: true, cgroupsPath: "/cg",
		block: &lifecyclev1.Block{OnExit: &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: []string{"x"}}}},
	}
	if err := r.keep(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	defer r.afterlife.remains.Close()
	after := r.afterlife.after
	runtime, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	if after.Shim != os.Getpid() || after.Bundle != "/b" || after.Dir != "/b/lifecycle/onExit" || after.Runtime != runtime ||
		!after.SystemdCgroup || after.NoPivotRoot || after.NoNewKeyring || after.Cgroup != "/cg" || after.Namespaces["mount"] == "" {
		t.Errorf("got %+v", after)
	}
	r.block.OnExit = sleepHandler()
	r.afterlife = afterlife{}
	if err := r.keep(os.Getpid()); err != nil || r.afterlife.after != nil || len(r.afterlife.remains.Paths()) != 1 {
		t.Errorf("no exec: %v, %v", r.afterlife.after, err)
	}
	r.afterlife.remains.Close()
	if err := r.keep(goneProcess(t)); err == nil {
		t.Error("a process that has gone is kept")
	}
}
