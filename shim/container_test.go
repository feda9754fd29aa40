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
	"github.com/containerd/ttrpc"
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

func TestPanicInTheLoopLetsTheRestOfTheMailboxGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: hangs})
		w.c.ctx = panickyContext{w.c.ctx}
		start := w.c.ask(lifecycle.Event{Kind: lifecycle.StartRequested})
		w.c.post(lifecycle.Event{Kind: lifecycle.StartReturned}) // panics
		kill := w.c.ask(lifecycle.Event{Kind: lifecycle.KillRequested, Signal: lifecycle.Signal{Number: 15}})
		w.serve()
		if got := start.wait(); got.kind != lifecycle.CallStart {
			t.Errorf("%+v", got)
		}
		if got := start.wait(); !errors.Is(got.err, errShutdown) {
			t.Errorf("the start gets %+v", got)
		}
		select {
		case got := <-kill.verdict:
			if got.kind != lifecycle.Forward {
				t.Errorf("the kill gets %+v", got)
			}
		case <-time.After(time.Hour):
			t.Error("the kill is never answered")
		}
	})
}

func TestPanicInTheRuncServicesStartHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := postStart(0)
		config.PreStop = &lifecycle.Handler{}
		w := newWorld(t, config, &fakeHandlers{postStart: hangs, preStop: takes(0, succeeded)}).exitOnSignal().serve()
		w.inner.Answer["Start"] = func(context.Context, any) (any, error) {
			w.become(task.Status_RUNNING)
			w.emit(shimtest.Event("c1", "start"))
			panic("a bug")
		}
		_, err := w.service.UnaryServerInterceptor()(t.Context(), nil, &ttrpc.UnaryServerInfo{}, func(ctx context.Context, _ func(any) error) (any, error) {
			return w.service.Start(ctx, &taskapi.StartRequest{ID: "c1"})
		})
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "a bug") {
			t.Errorf("got %v", err)
		}
		pass(time.Hour)
		if w.state() == task.Status_CREATED {
			t.Errorf("State says CREATED for ever")
		}
		w.kill(15)
		pass(time.Hour)
		if got := w.forwarded(); !slices.Equal(got, []uint32{15}) {
			t.Errorf("the stop signal is not sent: forwarded %v", got)
		}
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Error(err)
		}
		pass(time.Hour)
		w.publisher.Expect(t, "c1 start, c1 exit, c1 delete")
		select {
		case <-w.loopEnded:
		default:
			t.Error("the loop never ends")
		}
	})
}
