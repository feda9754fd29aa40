package shim

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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
		if phase := w.c.status.Load().Phase; phase != lifecycle.Deleted {
			t.Errorf("the Delete is answered in phase %s", phase)
		}
	})
}

// TestPanicBesideAHandlerIsContained (SPEC 7.8): one in the shim's own work for it, not in the handler.
func TestPanicBesideAHandlerIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(second, succeeded)}).exitOnSignal()
		w.c.handlersEnded = nil
		err := w.serve().start(0).answered(t, second)
		if status.Code(err) != codes.Unknown || status.Convert(err).Message() != "postStart handler failed: internal error" {
			t.Errorf("got %v", err)
		}
		w.publisher.expect(t, "c1 postStart, c1 start, c1 exit")
	})
}

// TestEndOfTheLoopReleasesTheExit (SPEC 7.1): a loop that ends without onExit's end must not hold the container's.
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
				ctx, shutdown := context.WithCancel(t.Context())
				defer shutdown()
				go func() {
					defer close(w.loopEnded)
					w.c.loop(ctx)
				}()
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
				if got := sortedEnd(w.publisher.published()); got != test.want {
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

// TestKillsAreNoted: without its own a SIGKILL may be the kernel's, for want of memory, as LIFECYCLE_RESULT tells.
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
