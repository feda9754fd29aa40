package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

const second = time.Second

var (
	succeeded = hookexec.Result{Outcome: lifecycle.Succeeded}
	failedBad = hookexec.Result{Outcome: lifecycle.Failed, Err: errExit3, ExitCode: 3, Output: "boom\n"}
)

func postStart(timeout time.Duration) lifecycle.Config {
	return lifecycle.Config{PostStart: &lifecycle.Handler{Timeout: timeout}}
}

func preStop(timeout time.Duration) lifecycle.Config {
	return lifecycle.Config{PreStop: &lifecycle.Handler{Timeout: timeout}}
}

func TestStartIsHeldUntilPostStartHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(3*second, succeeded)}).serve()
		start := w.start(0)
		pass(2 * second)
		if !start.isPending() || w.state() != task.Status_CREATED {
			t.Errorf("pending %t, state %s", start.isPending(), w.state())
		}
		w.publisher.Expect(t, "c1 postStart")
		if err := start.answered(t, 3*second); err != nil || start.pid != shimtest.Pid {
			t.Errorf("pid %d, %v", start.pid, err)
		}
		if w.state() != task.Status_RUNNING {
			t.Errorf("state %s", w.state())
		}
		w.publisher.Expect(t, "c1 postStart, c1 Succeeded, c1 start")
		w.handlers.expect(t, []string{"postStart Succeeded"}, nil)
		if !slices.Equal(w.handlers.pids, []int{shimtest.Pid}) {
			t.Errorf("the handlers were told the pids %v", w.handlers.pids)
		}
	})
}

func TestFailedPostStartStopsTheContainer(t *testing.T) {
	for name, test := range map[string]struct {
		handler attempt
		config  lifecycle.Config
		after   time.Duration // until the answer, with the container exiting at once
		ended   string
		words   string
	}{
		"it fails": {
			takes(second, failedBad), postStart(0), second, "Failed", "postStart handler failed: exit status 3: boom",
		},
		"its time is up": {
			hangs, postStart(5 * second), 5 * second, "TimedOut", "postStart handler failed: timed out after 5s",
		},
		"the default time is up": {
			hangs, postStart(0), 2 * time.Minute, "TimedOut", "postStart handler failed: timed out after 2m0s",
		},
		"it panics": {
			func(context.Context) hookexec.Result { panic("a bug") }, postStart(0), 0, "",
			"postStart handler failed: internal error: a bug",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.config, &fakeHandlers{postStart: test.handler}).exitOnSignal().serve()
				start := w.start(0)
				err := start.answered(t, test.after)
				// Unknown is what clients show without adding to the words.
				if status.Code(err) != codes.Unknown || status.Convert(err).Message() != test.words {
					t.Errorf("got %v", err)
				}
				var ran []string
				if test.ended != "" {
					ran = []string{"postStart " + test.ended}
				}
				w.handlers.expect(t, ran, []string{fmt.Sprintf("15 at %s", test.after)})
				w.publisher.Expect(t, "c1 postStart, c1 "+cmp.Or(test.ended, "Failed")+", c1 start, c1 exit")
			})
		})
	}
}

// TestStartErrorIsTyped: toGRPC recognises it by its type.
func TestStartErrorIsTyped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(0, failedBad)}).exitOnSignal().serve()
		request := w.c.ask(lifecycle.Event{Kind: lifecycle.StartRequested})
		if got := request.wait(); got.kind != lifecycle.CallStart {
			t.Fatalf("got %+v", got)
		}
		w.c.post(lifecycle.Event{Kind: lifecycle.StartReturned})
		answer := request.wait()
		var start *lifecycle.StartError
		if answer.kind != lifecycle.Answer || !errors.As(answer.err, &start) || start.Cause != lifecycle.NoCause {
			t.Errorf("got %+v", answer)
		}
	})
}

func TestIgnoredFailureIsASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := lifecycle.Config{PostStart: &lifecycle.Handler{IgnoreFailure: true}}
		w := newWorld(t, config, &fakeHandlers{postStart: takes(0, failedBad)}).serve().mustStart()
		w.handlers.expect(t, []string{"postStart Failed"}, nil)
		if w.state() != task.Status_RUNNING {
			t.Errorf("state %s", w.state())
		}
	})
}

// TestPostStartEndsBeforeTheClientGivesUp: the caller is to get our words, not
// its own deadline.
func TestPostStartEndsBeforeTheClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs}).exitOnSignal().serve()
		err := w.start(20*second).answered(t, 15*second)
		if got := status.Convert(err).Message(); got != "postStart handler failed: timed out after 15s" {
			t.Errorf("got %q", got)
		}
	})
}

// TestLostClientCancelsNothing: only the deadline of a start request counts.
func TestLostClientCancelsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(3*second, succeeded)}).serve()
		inner := w.inner.Answer["Start"]
		w.inner.Answer["Start"] = func(ctx context.Context, r any) (any, error) {
			if ctx.Err() != nil {
				t.Errorf("the runc service's start was cancelled: %v", ctx.Err())
			}
			return inner(ctx, r)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.service.Start(ctx, &taskapi.StartRequest{ID: "c1"}); err != nil {
			t.Error(err)
		}
		w.handlers.expect(t, []string{"postStart Succeeded"}, nil)
	})
}

func TestExitDuringPostStartAnswersWithSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs}).serve()
		start := w.start(0)
		pass(second)
		w.exit()
		if err := start.answered(t, second); err != nil || start.pid != shimtest.Pid {
			t.Errorf("pid %d, %v", start.pid, err)
		}
		w.publisher.ExpectAbort(t, "c1 postStart, c1 start, c1 exit")
		w.handlers.expect(t, []string{"postStart Aborted"}, nil)
		if !errors.Is(w.handlers.causes[0], hookexec.ErrContainerExited) {
			t.Errorf("aborted because of %v", w.handlers.causes[0])
		}
	})
}

// TestHeldStartShowsStoppedAtOnce: State must not mask STOPPED.
func TestHeldStartShowsStoppedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs}).serve()
		start := w.start(0)
		synctest.Wait()
		w.become(task.Status_STOPPED) // the event is still to come
		if got := w.state(); got != task.Status_STOPPED {
			t.Errorf("state %s", got)
		}
		w.emit(shimtest.Event("c1", "exit"))
		<-start.done
	})
}

func TestFailedInnerStartIsAnsweredAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs}).serve()
		w.inner.Answer["Start"] = func(context.Context, any) (any, error) {
			return nil, status.Error(codes.NotFound, "runc's own words")
		}
		err := w.start(0).answered(t, 0)
		if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "runc's own words" {
			t.Errorf("got %v", err)
		}
		w.handlers.expect(t, nil, nil)
		if len(w.handlers.pids) > 0 {
			t.Errorf("the handlers were told the pids %v", w.handlers.pids)
		}
	})
}

func TestStartAfterAFailedOneIsHeldToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(time.Second, succeeded)}).serve()
		good := w.inner.Answer["Start"]
		w.inner.Answer["Start"] = func(context.Context, any) (any, error) { return nil, errors.New("not yet") }
		if err := w.start(0).answered(t, 0); err == nil {
			t.Fatal("no error")
		}
		w.inner.Answer["Start"] = good
		start := w.start(0)
		synctest.Wait()
		w.publisher.Expect(t, "c1 postStart")
		<-start.done
		w.publisher.Expect(t, "c1 postStart, c1 Succeeded, c1 start")
	})
}

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

func TestPanicWhileSendingASignalIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handlers := &fakeHandlers{preStop: takes(second, succeeded)}
		handlers.onSignal = func(lifecycle.Signal) error { panic("a bug") }
		w := newWorld(t, preStop(0), handlers).serve().mustStart()
		w.kill(unix.SIGTERM)
		pass(2 * second)
		w.kill(unix.SIGTERM) // the loop goes on
		w.handlers.expect(t, []string{"preStop Succeeded"}, []string{"15 at 1s"})
	})
}

// panickyContext makes the loop panic when it runs a handler.
type panickyContext struct{ context.Context }

func (panickyContext) Done() <-chan struct{} { panic("a bug in the loop") }

// TestPanicInTheLoopLetsEverybodyGo: the container is one without handlers from
// then on.
func TestPanicInTheLoopLetsEverybodyGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs})
		w.c.ctx = panickyContext{w.c.ctx}
		start := w.serve().start(0)
		if err := start.answered(t, 0); !errors.Is(err, errShutdown) && status.Convert(err).Message() != errShutdown.Error() {
			t.Errorf("the start was answered with %v", err)
		}
		<-w.loopEnded
		w.publisher.Expect(t, "c1 start")
		if w.state() != task.Status_RUNNING {
			t.Errorf("state %s", w.state())
		}
		if got := w.c.ask(lifecycle.Event{Kind: lifecycle.KillRequested}).wait(); got.kind != lifecycle.Forward {
			t.Errorf("a request that comes later gets %+v", got)
		}
		w.kill(unix.SIGTERM)
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Error(err)
		}
		if got := w.forwarded(); !slices.Equal(got, []uint32{15}) {
			t.Errorf("forwarded %v", got)
		}
		w.publisher.Expect(t, "c1 start, c1 exit, c1 delete")
		if w.handlers.closed != 1 {
			t.Errorf("the handlers were closed %d times", w.handlers.closed)
		}
	})
}

func TestDeletedContainerIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err == nil {
			t.Error("a running container was deleted")
		}
		if w.service.container("c1") == nil {
			t.Fatal("a Delete that was refused has ended the container's handlers")
		}
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		// The id is free as soon as the Delete is answered.
		if w.service.container("c1") != nil {
			t.Error("the container is still known")
		}
		<-w.loopEnded
		for _, kind := range []lifecycle.EventKind{lifecycle.StartRequested, lifecycle.KillRequested, lifecycle.DeleteRequested} {
			if got := w.c.ask(lifecycle.Event{Kind: kind}).wait(); got.kind != lifecycle.Forward || got.err != nil {
				t.Errorf("%s after the end: got %+v", kind, got)
			}
		}
		w.c.post(lifecycle.Event{Kind: lifecycle.ContainerExited}) // and once more is harmless
		w.handlers.expect(t, nil, nil)
		if w.handlers.closed != 1 {
			t.Errorf("the handlers were closed %d times", w.handlers.closed)
		}
	})
}

// TestDeleteEndsWhatStillRuns, and waits for it no longer than its share.
func TestDeleteEndsWhatStillRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unstick := make(chan struct{})
		stuck := attempt(func(context.Context) hookexec.Result { <-unstick; return failedBad })
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: stuck}).serve().mustStart()
		w.kill(unix.SIGTERM)
		w.exit()
		began := time.Now()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited == 0 || waited > 2*second { // docs/spec.md#delete
			t.Errorf("the Delete took %s", waited)
		}
		select {
		case <-w.loopEnded:
			t.Error("the loop has ended with a handler running")
		default:
		}
		close(unstick)
		<-w.loopEnded
	})
}

// TestHandlerEndsBeforeItBegins, as it would end later: its container's creation has not ended.
func TestHandlerEndsBeforeItBegins(t *testing.T) {
	for cause, want := range map[error]lifecycle.Outcome{
		hookexec.ErrContainerExited: lifecycle.Aborted, causeError(lifecycle.TimeLimit, second): lifecycle.TimedOut,
	} {
		c := newTestContainer(t.Context(), "c1", preStop(0), &fakeHandlers{preStop: takes(0, succeeded)})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if got := c.runHandler(ctx, &handlerRun{kind: lifecycle.PreStop}, lifecycle.Effect{}); got.Outcome != want || !errors.Is(got.Err, cause) || got.Attempts != 0 {
			t.Errorf("%v: got %+v, want %v", cause, got, want)
		}
		close(c.created)
		for range 100 { // a random one of two branches that are ready would show
			if err := c.awaitCreation(ctx); err != nil {
				t.Fatalf("the creation has ended, got %v", err)
			}
		}
	}
}

// TestHandlersAreClosedAfterTheLastSignal: sending it needs what close releases.
func TestHandlersAreClosedAfterTheLastSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handlers := &fakeHandlers{preStop: takes(0, succeeded)}
		sent := false
		w := newWorld(t, preStop(0), handlers).serve().mustStart()
		handlers.onSignal = func(lifecycle.Signal) error {
			w.exit()
			<-time.After(5 * second)
			handlers.mu.Lock()
			defer handlers.mu.Unlock()
			if sent = true; handlers.closed > 0 {
				t.Error("the handlers were closed while a signal was being sent")
			}
			return nil
		}
		w.kill(unix.SIGTERM)
		synctest.Wait()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		<-w.loopEnded
		if !sent || handlers.closed != 1 {
			t.Errorf("sent %t, closed %d times", sent, handlers.closed)
		}
	})
}

// TestShutdownLetsEverybodyGo: the end of the shim is the end of every loop.
func TestShutdownLetsEverybodyGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs})
		ctx, shutdown := context.WithCancel(t.Context())
		go func() {
			defer close(w.loopEnded)
			w.c.loop(ctx)
		}()
		start := w.start(0)
		pass(second)
		shutdown()
		if err := start.answered(t, second); status.Convert(err).Message() != errShutdown.Error() {
			t.Errorf("got %v", err)
		}
		<-w.loopEnded
		w.handlers.expect(t, []string{"postStart Aborted"}, nil)
		if !errors.Is(w.handlers.causes[0], errShutdown) {
			t.Errorf("aborted because of %v", w.handlers.causes[0])
		}
		w.publisher.ExpectAbort(t, "c1 postStart, c1 start")
		if w.state() != task.Status_RUNNING || w.handlers.closed != 1 {
			t.Errorf("state %s, closed %d times", w.state(), w.handlers.closed)
		}
	})
}

func TestCausesAreToldApart(t *testing.T) {
	for cause, err := range causes {
		got := convert(hookexec.Result{Outcome: lifecycle.Aborted, Err: causeError(cause, second)})
		if got.Outcome != lifecycle.Aborted || got.Cause != cause || !strings.Contains(got.Message, err.Error()) {
			t.Errorf("%s: got %+v", cause, got)
		}
	}
	if err := causeError(lifecycle.TimeLimit, 1234*time.Millisecond); !errors.Is(err, hookexec.ErrTimedOut) || err.Error() != "timed out after 1.2s" {
		t.Errorf("got %v", err)
	}
	if got := convert(hookexec.Result{Outcome: lifecycle.Aborted, Err: errShutdown}); got.Cause != lifecycle.NoCause {
		t.Errorf("got %+v", got)
	}
}
