package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

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

// TestStartWaitsForTheEndOfTheCreation, once the runc service knows the container: its
// handlers may not be prepared yet.
func TestStartWaitsForTheEndOfTheCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, _ := newTestService(t)
		ctx, shutdown := context.WithCancel(t.Context())
		defer shutdown()
		s.ctx = ctx
		unknown, refused := status.Error(codes.NotFound, "container not created"), status.Error(codes.Internal, "runc's own words")
		created := make(chan struct{})
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			<-created
			return &taskapi.CreateTaskResponse{}, nil
		}
		inner.Answer["State"] = func(_ context.Context, request any) (any, error) {
			if id := request.(*taskapi.StateRequest).ID; id != "c1" {
				t.Errorf("the state of %q is asked for", id)
			}
			return nil, unknown
		}
		inner.Answer["Start"] = func(context.Context, any) (any, error) { return nil, refused }
		go func() {
			_, _ = s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		}()
		synctest.Wait()
		start := func(ctx context.Context) <-chan error {
			answer := make(chan error, 1)
			go func() {
				_, err := s.Start(ctx, &taskapi.StartRequest{ID: "c1"})
				answer <- err
			}()
			synctest.Wait()
			return answer
		}
		if err := <-start(t.Context()); !errors.Is(err, unknown) {
			t.Errorf("got %v", err)
		}
		inner.Answer["State"] = func(context.Context, any) (any, error) {
			return &taskapi.StateResponse{Status: task.Status_CREATED}, nil
		}
		gone, leave := context.WithCancel(t.Context())
		left, answer := start(gone), start(t.Context())
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if asked := inner.Asked("Start"); len(asked) > 0 {
			t.Errorf("the runc service was asked for %d starts before", len(asked))
		}
		close(created)
		if err := <-answer; !errors.Is(err, refused) || len(inner.Asked("Start")) != 1 {
			t.Errorf("got %v", err)
		}
	})
}

// TestStartPassesItsDeadlineOn, and nothing else of its client's connection.
func TestStartPassesItsDeadlineOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []time.Duration{0, 30 * second} {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
			began := time.Now()
			start := w.inner.Answer["Start"]
			w.inner.Answer["Start"] = func(ctx context.Context, r any) (any, error) {
				deadline, ok := ctx.Deadline()
				if ok != (wait > 0) || ok && deadline.Sub(began) != wait {
					t.Errorf("the runtime's start has until %v, %t", deadline, ok)
				}
				return start(ctx, r)
			}
			if err := w.start(wait).answered(t, 0); err != nil {
				t.Error(err)
			}
			if !slices.Equal(w.handlers.pids, []int{shimtest.Pid}) {
				t.Errorf("handlers were told the pids %v", w.handlers.pids)
			}
			w.exit()
		}
	})
}
