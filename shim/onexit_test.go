package shim

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
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

// TestPidsWhileOnExitRuns: a containerd that starts must not take the shim for a leftover, for any answer of the runtime.
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

// TestOnExitLearnsWhoHasKilled the container: a client, or the kernel for lack of memory.
func TestOnExitLearnsWhoHasKilled(t *testing.T) {
	for name, test := range map[string]struct{ killed, oom bool }{"a client": {true, false}, "the kernel": {false, true}, "neither": {false, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, outer(false, true), &fakeHandlers{onExit: takes(0, hookexec.Result{})})
				learned := &learningHandlers{fakeHandlers: w.handlers}
				w.c.handlers = learned
				w.serve().mustStart()
				switch {
				case test.killed:
					w.kill(unix.SIGKILL)
				case test.oom:
					w.emit(&eventstypes.TaskOOM{ContainerID: "c1"})
				}
				w.exit()
				synctest.Wait()
				if learned.killed != test.killed || learned.oom != test.oom {
					t.Errorf("killed by a client: %t, an OOM kill: %t", learned.killed, learned.oom)
				}
			})
		})
	}
}

// learningHandlers notes what an onExit learns.
type learningHandlers struct {
	*fakeHandlers
	killed, oom bool
}

func (h *learningHandlers) Run(ctx context.Context, run runner.Run) hookexec.Result {
	h.killed, h.oom = run.Killed(), run.OOMSeen()
	return h.fakeHandlers.Run(ctx, run)
}
