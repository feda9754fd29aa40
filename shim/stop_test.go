package shim

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

func TestStopSignalWaitsForPreStop(t *testing.T) {
	for name, result := range map[string]hookexec.Result{"Succeeded": succeeded, "Failed": failedBad} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, preStop(0), &fakeHandlers{preStop: takes(3*second, result)}).exitOnSignal().serve().mustStart()
				w.kill(unix.SIGTERM)
				pass(2 * second)
				w.kill(unix.SIGTERM) // joins
				w.kill(unix.SIGINT)  // joins too
				w.kill(unix.SIGHUP)  // is no stop
				w.handlers.expect(t, nil, nil)
				pass(2 * second)
				w.handlers.expect(t, []string{"preStop " + name}, []string{"15 at 3s"})
				if got := w.forwarded(); !slices.Equal(got, []uint32{uint32(unix.SIGHUP)}) {
					t.Errorf("forwarded %v", got)
				}
				w.publisher.Expect(t, "c1 start, c1 preStop, c1 "+name+", c1 exit")
			})
		})
	}
}

func TestSignalsPassAfterTheStopSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, succeeded)}).serve().mustStart()
		w.kill(unix.SIGTERM)
		pass(2 * second)
		w.kill(unix.SIGTERM)
		w.handlers.expect(t, []string{"preStop Succeeded"}, []string{"15 at 1s"})
		if got := w.forwarded(); !slices.Equal(got, []uint32{15}) {
			t.Errorf("forwarded %v", got)
		}
	})
}

// TestHandlersAreAbortedForTheRightCause: what ends a handler, and which cause
// its context and its result have then.
func TestHandlersAreAbortedForTheRightCause(t *testing.T) {
	for name, test := range map[string]struct {
		config  lifecycle.Config
		do      func(w *world) // with the handler running
		outcome lifecycle.Outcome
		cause   lifecycle.Cause
	}{
		"SIGKILL during preStop": {preStop(0), func(w *world) { w.kill(unix.SIGKILL) }, lifecycle.Aborted, lifecycle.ContainerKill},
		"SIGKILL during postStart": {
			postStart(0), func(w *world) { w.kill(unix.SIGKILL) }, lifecycle.Aborted, lifecycle.ContainerKill,
		},
		"a stop during postStart": {postStart(0), func(w *world) { w.kill(unix.SIGTERM) }, lifecycle.Aborted, lifecycle.StopRequest},
		"an exit during preStop":  {preStop(0), (*world).exit, lifecycle.Aborted, lifecycle.ContainerExit},
		"an exit during postStart": {
			postStart(0), (*world).exit, lifecycle.Aborted, lifecycle.ContainerExit,
		},
		"preStop's own limit": {preStop(second), func(*world) { pass(second) }, lifecycle.TimedOut, lifecycle.NoCause},
		"the stop's deadline": {preStop(0), func(*world) { pass(8 * second) }, lifecycle.Aborted, lifecycle.StopDeadline},
		"CRI's SIGKILL": {
			lifecycle.Config{CRI: true, PreStop: &lifecycle.Handler{}},
			func(w *world) { w.kill(unix.SIGKILL) }, lifecycle.Aborted, lifecycle.StopDeadline,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				results := make(chan hookexec.Result, 2)
				handler := attempt(func(ctx context.Context) hookexec.Result {
					<-ctx.Done()
					result := hookexec.Result{Outcome: lifecycle.Failed, Err: errKilled}
					run := hookexec.Run{
						Action: attempt(func(context.Context) hookexec.Result { return result }), Exited: runsOn, Progress: &hookexec.Progress{},
					}
					results <- run.Do(ctx)
					return result
				})
				w := newWorld(t, test.config, &fakeHandlers{postStart: handler, preStop: handler}).serve()
				w.start(0)
				if test.config.PreStop != nil {
					synctest.Wait()
					w.kill(unix.SIGTERM)
				}
				synctest.Wait()
				test.do(w)
				got := convert(<-results)
				if got.Outcome != test.outcome || got.Cause != test.cause {
					t.Errorf("ended as %s because of %s, want %s because of %s", got.Outcome, got.Cause, test.outcome, test.cause)
				}
				w.exit()
			})
		})
	}
}

// The runc service answers no request while the runtime's start runs, which may take long or for ever.
func TestKillDuringTheRuntimesStartReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, hookexec.Result{})}).serve()
		returns := make(chan struct{})
		started, state := w.inner.Answer["Start"], w.inner.Answer["State"]
		w.inner.Answer["Start"] = func(ctx context.Context, r any) (any, error) {
			<-returns
			return started(ctx, r)
		}
		w.inner.Answer["State"] = func(ctx context.Context, r any) (any, error) {
			<-returns
			return state(ctx, r)
		}
		p := w.start(0)
		synctest.Wait()
		w.kill(unix.SIGTERM)
		w.kill(unix.SIGTERM) // joins
		if status := w.c.status.Load(); status.Stage != lifecycle.StageStarting || status.Pending != uint32(unix.SIGTERM) {
			t.Errorf("status %+v", *status)
		}
		close(returns)
		if err := p.answered(t, 0); err != nil {
			t.Error(err)
		}
		w.handlers.expect(t, nil, nil)
		pass(second)
		w.handlers.expect(t, []string{"preStop Succeeded"}, []string{"15 at 1s"})
		w.exit()
	})
}

// The time that a signal may take does not begin before the runtime's start has returned, which holds the runc service up.
func TestSignalDuringALongRuntimesStartIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{}).serve()
		lock := make(chan struct{}, 1) // the runc service's, of a container
		for method, took := range map[string]time.Duration{"Start": time.Minute, "State": 0, "Kill": 0} {
			answer := w.inner.Answer[method]
			w.inner.Answer[method] = func(ctx context.Context, r any) (any, error) {
				lock <- struct{}{}
				defer func() { <-lock }()
				<-time.After(took)
				if method == "Kill" && ctx.Err() != nil {
					return nil, ctx.Err() // os/exec starts nothing
				}
				return answer(ctx, r)
			}
		}
		p := w.start(0)
		synctest.Wait()
		killed := make(chan error, 1)
		go func() {
			_, err := w.service.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGKILL)})
			killed <- err
		}()
		if err := <-killed; err != nil {
			t.Error(err)
		}
		if err := p.answered(t, time.Minute); err == nil {
			t.Error("the start succeeds")
		}
		if got := w.is(); got != task.Status_STOPPED {
			t.Errorf("the container is %s", got)
		}
	})
}

// TestSIGKILLIsForwardedAtOnce: docs/spec.md#sigkill-passes.
func TestSIGKILLIsForwardedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.kill(unix.SIGTERM)
		pass(second)
		w.kill(unix.SIGKILL)
		if got := w.forwarded(); !slices.Equal(got, []uint32{9}) {
			t.Errorf("forwarded %v", got)
		}
		w.handlers.expect(t, []string{"preStop Aborted"}, nil) // the signal is dropped
		w.publisher.ExpectAbort(t, "c1 start, c1 preStop, c1 exit")
	})
}

func TestSIGKILLDuringPostStartFailsTheStart(t *testing.T) {
	for signal, words := range map[unix.Signal]string{
		unix.SIGKILL: "postStart handler aborted: signal 9",
		unix.SIGTERM: "postStart handler aborted: signal 15",
	} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs}).exitOnSignal().serve()
				start := w.start(0)
				pass(second)
				w.kill(signal)
				if got := w.forwarded(); !slices.Equal(got, []uint32{uint32(signal)}) {
					t.Errorf("forwarded %v", got)
				}
				w.exit() // SIGTERM passed through
				err := start.answered(t, second)
				if status.Code(err) != codes.Aborted || !strings.HasPrefix(status.Convert(err).Message(), words) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestStopDeadlines: when the shim sends what, where preStop and the container
// never end by themselves.
func TestStopDeadlines(t *testing.T) {
	block := func(config lifecycle.Config, grace time.Duration) lifecycle.Config {
		config.GracePeriod = grace
		return config
	}
	for name, test := range map[string]struct {
		config lifecycle.Config
		sent   []string
	}{
		"the default grace period":        {preStop(0), []string{"15 at 8s"}},
		"the block's grace period":        {block(preStop(0), 20*second), []string{"15 at 18s", "9 at 19.8s"}},
		"preStop's own limit":             {block(preStop(second), 20*second), []string{"15 at 1s", "9 at 19.8s"}},
		"CRI, whose deadline it is":       {lifecycle.Config{CRI: true, PreStop: &lifecycle.Handler{}}, nil},
		"CRI, with preStop's own timeout": {lifecycle.Config{CRI: true, PreStop: &lifecycle.Handler{Timeout: second}}, []string{"15 at 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.config, &fakeHandlers{preStop: hangs}).serve().mustStart()
				w.kill(unix.SIGTERM)
				pass(time.Hour)
				w.handlers.mu.Lock()
				defer w.handlers.mu.Unlock()
				if !slices.Equal(w.handlers.sent, test.sent) {
					t.Errorf("sent %q, want %q", w.handlers.sent, test.sent)
				}
			})
		})
	}
}

// TestStuckHandlerDoesNotStopTheStop: one that ignores its end, stuck in the
// kernel, is not waited for any longer than its share.
func TestStuckHandlerDoesNotStopTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unstick := make(chan struct{})
		stuck := attempt(func(context.Context) hookexec.Result {
			<-unstick
			return failedBad
		})
		w := newWorld(t, postStart(3*second), &fakeHandlers{postStart: stuck}).exitOnSignal().serve()
		err := w.start(0).answered(t, 6*second)
		if got := status.Convert(err).Message(); got != "postStart handler failed: timed out, and its process cannot be ended" {
			t.Errorf("got %q", got)
		}
		w.handlers.expect(t, nil, []string{"15 at 6s"})
		close(unstick) // its late end changes nothing
		w.handlers.expect(t, []string{"postStart TimedOut"}, []string{"15 at 6s"})
	})
}

// TestSignalIsSentWhenItsClientHasGone: what the machine has decided counts on it.
func TestSignalIsSentWhenItsClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		sent := 0
		w.inner.Answer["Kill"] = func(ctx context.Context, _ any) (any, error) {
			if ctx.Err() == nil {
				sent++
			}
			return &ptypes.Empty{}, ctx.Err()
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.service.Kill(gone, &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGHUP)}); err != nil || sent != 1 {
			t.Errorf("sent %d times, %v", sent, err)
		}
	})
}

// TestKilledIsKnown: LIFECYCLE_RESULT says of a container that a client has killed that it was not the kernel.
func TestKilledIsKnown(t *testing.T) {
	for signal, want := range map[unix.Signal]bool{unix.SIGKILL: true, unix.SIGHUP: false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
			w.kill(signal)
			if got := w.c.killed.Load(); got != want {
				t.Errorf("after %s: %t", signal, got)
			}
			w.exit()
		})
	}
}

// TestStopsUnpark: a handler that waits for its container's start would hold the end of the container's pid namespace.
func TestStopsUnpark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		before := w.handlers.unparked
		w.kill(unix.SIGKILL)
		if w.handlers.unparked != before+1 {
			t.Error("a Kill leaves a parked handler")
		}
		pass(second)
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if w.handlers.unparked != before+2 {
			t.Error("a Delete leaves a parked handler")
		}
		if len(w.service.all()) > 0 {
			t.Error("the id is taken when the Delete is answered")
		}
	})
}

// TestSignalIsBounded: the time for a signal begins when the runtime's start, which holds it up, has returned.
func TestSignalIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.inner.Answer["Kill"] = func(ctx context.Context, _ any) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		_, err := w.service.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGHUP)})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != signalWait {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if asked := len(w.inner.Asked("State")); asked > 1 {
			t.Errorf("%d states are asked for, outside of a start", asked)
		}
	})
}
