package shim

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestDeleteIsAnsweredWhenTheMachineKnows: until then a step of the container that was deleted may still come.
func TestDeleteIsAnsweredWhenTheMachineKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.exit()
		synctest.Wait()
		select {
		case <-w.c.deleted:
			t.Fatal("a Delete would not wait")
		default:
		}
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if stage := w.c.status.Load().Stage; stage != lifecycle.StageDeleted {
			t.Errorf("the Delete is answered in stage %s", stage)
		}
	})
}

// TestPanicBesideAHandlerIsContained (docs/spec.md#panic): one in the shim's own work for it, not in the handler.
func TestPanicBesideAHandlerIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(second, succeeded)}).exitOnSignal()
		w.c.observer.handlersEnded = nil
		err := w.serve().start(0).answered(t, second)
		if status.Code(err) != codes.Unknown || status.Convert(err).Message() != "postStart handler failed: internal error" {
			t.Errorf("got %v", err)
		}
		w.publisher.Expect(t, "c1 postStart, c1 start, c1 exit")
	})
}

// TestEndOfTheLoopReleasesTheExit (docs/spec.md#answered-once): a loop that ends without onExit's end must not hold the container's.
func TestEndOfTheLoopReleasesTheExit(t *testing.T) {
	for name, test := range map[string]struct {
		panics bool
		want   string
	}{
		"the shim ends":   {false, "c1 start, c1 onExit, c1 Aborted, c1 exit"},
		"the loop panics": {true, "c1 start, c1 exit"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs})
				if test.panics { // as it runs the handler
					w.c.ctx = panickyContext{w.c.ctx}
				}
				shutdown := w.serveUntil()
				w.mustStart()
				waited := make(chan error, 1)
				go func() {
					_, err := w.service.Wait(context.Background(), &taskapi.WaitRequest{ID: "c1"})
					waited <- err
				}()
				w.exit()
				synctest.Wait()
				shutdown()
				if err := <-waited; err != nil {
					t.Error(err)
				}
				<-w.loopEnded
				if got := sortedEnd(w.publisher.Published()); got != test.want {
					t.Errorf("published %q, want %q", got, test.want)
				}
				if w.handlers.closed != 1 {
					t.Errorf("the handlers were closed %d times", w.handlers.closed)
				}
			})
		})
	}
}

// sortedEnd puts the end of an aborted handler, which is in no order to the exit, before it.
func sortedEnd(published string) string {
	return strings.Replace(published, "c1 exit, c1 Aborted", "c1 Aborted, c1 exit", 1)
}

// TestHandlersAreClosedWhenTheyHaveEnded: until then they use the container's descriptors, whose numbers another file may get.
func TestHandlersAreClosedWhenTheyHaveEnded(t *testing.T) {
	for _, trial := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, preStop(0), &fakeHandlers{})
			closed := -1
			w.handlers.preStop = func(ctx context.Context) hookexec.Result {
				<-ctx.Done()
				<-time.After(time.Second) // the kernel ends its process
				w.handlers.mu.Lock()
				defer w.handlers.mu.Unlock()
				closed = w.handlers.closed
				return succeeded
			}
			shutdown := w.serveUntil()
			both(w).mustStart()
			if trial {
				go func() { _, _ = w.c.try(context.Background(), "preStop") }()
			} else {
				w.kill(unix.SIGTERM)
			}
			synctest.Wait()
			shutdown()
			<-w.loopEnded
			if closed != 0 || w.handlers.closed != 1 {
				t.Errorf("trial %t: the handlers were closed %d times while one ran, and %d times", trial, closed, w.handlers.closed)
			}
		})
	}
}

// TestNoTrialBeginsWithoutALoop.
func TestNoTrialBeginsWithoutALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
		shutdown := w.serveUntil()
		both(w).mustStart()
		shutdown()
		<-w.loopEnded
		if _, err := w.c.try(t.Context(), "preStop"); err == nil || !strings.Contains(err.Error(), errShutdown.Error()) {
			t.Errorf("got %v", err)
		}
	})
}

// TestAnsweredRequestsAreForgotten (docs/spec.md#no-leak): a container lives for years.
func TestAnsweredRequestsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		for range 100 {
			w.kill(unix.SIGHUP)
		}
		synctest.Wait()
		if len(w.c.waiting) > 0 {
			t.Errorf("%d requests are remembered", len(w.c.waiting))
		}
	})
}

// TestPanickingHandlerHasNoExitCode: 0 would be a success.
func TestPanickingHandlerHasNoExitCode(t *testing.T) {
	c := newTestContainer(t.Context(), "c1", preStop(0), &fakeHandlers{preStop: func(context.Context) hookexec.Result { panic("a bug") }})
	close(c.created)
	got := c.runHandler(t.Context(), &handlerRun{kind: lifecycle.PreStop}, lifecycle.Effect{})
	if got.Outcome != lifecycle.Failed || got.ExitCode != -1 {
		t.Errorf("got %+v", got)
	}
}

// TestShutdownRefusesADeleteThatWaits for onExit: what would be deleted has not been cleaned up.
func TestShutdownRefusesADeleteThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs})
		shutdown := w.serveUntil()
		w.mustStart()
		w.exit()
		deleted := w.deletes()
		synctest.Wait()
		shutdown()
		if err := <-deleted; status.Convert(err).Message() != errShutdown.Error() || len(w.inner.Asked("Delete")) > 0 {
			t.Errorf("got %v", err)
		}
	})
}

// TestShutdownLetsADeleteEnd that has deleted the container already.
func TestShutdownLetsADeleteEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
		shutdown := w.serveUntil()
		w.mustStart()
		w.exit()
		inner, goOn := w.inner.Answer["Delete"], make(chan struct{})
		w.inner.Answer["Delete"] = func(ctx context.Context, r any) (any, error) {
			<-goOn
			return inner(ctx, r)
		}
		deleted := w.deletes()
		synctest.Wait()
		shutdown()
		<-w.loopEnded
		close(goOn)
		if err := <-deleted; err != nil {
			t.Error(err)
		}
	})
}

// serveUntil runs the loop until the returned function is called.
func (w *world) serveUntil() (shutdown func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	go func() {
		defer close(w.loopEnded)
		w.c.loop(ctx)
	}()
	return cancel
}

// deletes asks for the container's deletion, and returns where the answer comes.
func (w *world) deletes() <-chan error {
	answer := make(chan error, 1)
	go func() {
		_, err := w.service.Delete(context.Background(), &taskapi.DeleteRequest{ID: "c1"})
		answer <- err
	}()
	return answer
}

// TestPanicInTheLoopLeavesNoMessage (docs/spec.md#answered-once): what is still in the mailbox is an event, or a request that passes.
func TestPanicInTheLoopLeavesNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs})
		w.c.ctx = panickyContext{w.c.ctx}
		w.c.ask(lifecycle.Event{Kind: lifecycle.StartRequested})
		w.c.post(lifecycle.Event{Kind: lifecycle.StartReturned})
		w.c.post(lifecycle.Event{Kind: lifecycle.ContainerExited}) // onExit is run
		w.c.post(lifecycle.Event{Kind: lifecycle.ContainerExited})
		kill := w.c.ask(lifecycle.Event{Kind: lifecycle.KillRequested})
		w.serve()
		if got := kill.wait(); got.kind != lifecycle.Forward || got.err != nil {
			t.Errorf("got %+v", got)
		}
		<-w.loopEnded
	})
}

// TestHandlersAreClosedAfterTheCreation: until its end they are being prepared.
func TestHandlersAreClosedAfterTheCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handlers := &fakeHandlers{}
		c := newContainer(t.Context(), containerConfig{
			id: "c1", machine: preStop(0), handlers: handlers, events: newTestTap(t, &shimtest.Publisher{}),
		})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			c.loop(ctx)
		}()
		synctest.Wait()
		if handlers.closed != 0 {
			t.Error("they are closed while they are being prepared")
		}
		close(c.created)
		<-ended
		if handlers.closed != 1 {
			t.Errorf("closed %d times", handlers.closed)
		}
	})
}

// TestEndWaitsForOnExit, from the exit to the end of an onExit, and at no other time.
func TestEndWaitsForOnExit(t *testing.T) {
	c := newTestContainer(t.Context(), "c1", outer(false, true), &fakeHandlers{})
	for stage := lifecycle.StageCreated; stage <= lifecycle.StageDeleted; stage++ {
		c.status.Store(&lifecycle.Status{Stage: stage})
		want := stage == lifecycle.StageOnExit
		if got := c.awaitsOnExit(); got != want {
			t.Errorf("%s: %t", stage, got)
		}
	}
}

// TestKillsAreNoted: without its own a SIGKILL may be the kernel's, an OOM kill, and LIFECYCLE_RESULT says so.
func TestKillsAreNoted(t *testing.T) {
	for name, test := range map[string]struct {
		grace lifecycle.Config
		want  bool
	}{
		"the stop signal":                    {preStop(0), false},
		"SIGKILL at the end of a grace time": {lifecycle.Config{PreStop: &lifecycle.Handler{}, GracePeriod: 5 * second}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.grace, &fakeHandlers{preStop: takes(second, succeeded)}).serve().mustStart()
				w.kill(unix.SIGTERM)
				pass(2 * second)
				if w.c.killed.Load() {
					t.Error("a SIGTERM is taken for a SIGKILL")
				}
				pass(20 * second)
				if got := w.c.killed.Load(); got != test.want {
					t.Errorf("got %t", got)
				}
			})
		})
	}
}
