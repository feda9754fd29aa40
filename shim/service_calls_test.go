package shim

import (
	"context"
	"errors"
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

// TestServiceKeepsItsHost.
func TestServiceKeepsItsHost(t *testing.T) {
	host := &hookexec.Host{}
	if s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, &shimtest.Publisher{}), host, nil); s.host != host {
		t.Error("exec handlers would have none")
	}
}

// TestOnlyTheContainerItselfIsRemoved: its id may belong to the next one by now.
func TestOnlyTheContainerItselfIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
		w.service.remove(newTestContainer(t.Context(), "c1", preStop(0), &fakeHandlers{}))
		if w.service.container("c1") != w.c {
			t.Error("another container of that id is removed")
		}
		if w.service.remove(w.c); w.service.container("c1") != nil {
			t.Error("it stays")
		}
	})
}

// TestStartWithoutALoopIsTheRuntimes: its error is returned as it is.
func TestStartWithoutALoopIsTheRuntimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
		shutdown := w.serveUntil()
		shutdown()
		<-w.loopEnded
		refused := status.Error(codes.Internal, "runc's own words")
		w.inner.Answer["Start"] = func(context.Context, any) (any, error) { return nil, refused }
		if _, err := w.service.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
	})
}

// unpreparedHandlers are those of a restored container that cannot be prepared.
type unpreparedHandlers struct{ *fakeHandlers }

func (unpreparedHandlers) Started(context.Context, int, <-chan struct{}) error {
	return errors.New("no such profile")
}

// TestUnpreparedHandlersAreLogged: the container runs, and its handlers will fail.
func TestUnpreparedHandlersAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, prepared := range []bool{true, false} {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
			if !prepared {
				w.c.handlers = unpreparedHandlers{w.handlers}
			}
			lines := w.logs()
			w.serve().mustStart()
			found := strings.Contains(strings.Join(lines.All(), "\n"), "cannot prepare the handlers of a restored container: they will fail: no such profile")
			if found == prepared {
				t.Errorf("prepared %t: logged %q", prepared, lines.All())
			}
			w.exit()
		}
	})
}

// TestStateOfAnExecWhileTheStartIsHeld is the exec's own.
func TestStateOfAnExecWhileTheStartIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(second, succeeded)}).serve()
		start := w.start(0)
		synctest.Wait()
		response, err := w.service.State(t.Context(), &taskapi.StateRequest{ID: "c1", ExecID: "e"})
		if err != nil || response.Status != task.Status_RUNNING || w.state() != task.Status_CREATED {
			t.Errorf("got %v, %v", response, err)
		}
		<-start.done
		w.exit()
	})
}

// TestSignalToAllStaysOne when preStop has delayed it.
func TestSignalToAllStaysOne(t *testing.T) {
	for _, all := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, succeeded)})
			var sent []lifecycle.Signal
			w.handlers.onSignal = func(signal lifecycle.Signal) error {
				sent = append(sent, signal)
				w.exit()
				return nil
			}
			w.serve().mustStart()
			if _, err := w.service.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGTERM), All: all}); err != nil {
				t.Fatal(err)
			}
			pass(2 * second)
			if len(sent) != 1 || sent[0].All != all {
				t.Errorf("all %t: sent %+v", all, sent)
			}
		})
	}
}

// TestKillThatTheLoopCannotTakeFails: the client must not wait for an end that does not come.
func TestKillThatTheLoopCannotTakeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
		w.c.observer.metricsFile, w.c.observer.counters = "/m.prom", nil // a bug: its step panics before the answer
		w.serve().mustStart()
		_, err := w.service.Kill(t.Context(), &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGTERM)})
		if status.Convert(err).Message() != errShutdown.Error() {
			t.Errorf("got %v", err)
		}
		w.exit()
	})
}

// TestWaitWithoutOnExitIsTheRuntimes.
func TestWaitWithoutOnExitIsTheRuntimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.exit()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if _, err := w.service.Wait(ctx, &taskapi.WaitRequest{ID: "c1"}); err != nil || time.Since(began) != 0 {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestDeleteOfAnExecDeletesNoContainer: a Create that was announced is still waited for.
func TestDeleteOfAnExecDeletesNoContainer(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.ending.expect("c1")
		_, _ = w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1", ExecID: "e"})
		w.shutdown("c0")
		w.wantEnded(false, "although a Create is expected")
		_, _ = w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"})
		w.shutdown("c0")
		w.wantEnded(true, "when that container is deleted")
	})
}

// TestDeleteKillsWhatWasNotStarted: the runc service would wait for its end first. A process that runs is not killed.
func TestDeleteKillsWhatWasNotStarted(t *testing.T) {
	for _, started := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
			if started {
				w.mustStart()
			}
			w.inner.Forget()
			_, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"})
			kills := w.inner.Asked("Kill")
			if started {
				if err == nil || len(kills) > 0 {
					t.Errorf("it runs: %v, %d kills", err, len(kills))
				}
				w.exit()
				return
			}
			if err != nil || len(kills) != 1 {
				t.Fatalf("got %v, %d kills", err, len(kills))
			}
			if kill := kills[0].(*taskapi.KillRequest); kill.ID != "c1" || kill.Signal != 9 || !kill.All {
				t.Errorf("got %v", kill)
			}
		})
	}
}

// TestDeleteWaitsForTheTrial of a container that has exited, whose files it uses.
func TestDeleteWaitsForTheTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: func(ctx context.Context) hookexec.Result {
			<-ctx.Done()
			<-time.After(time.Second) // the kernel ends its process
			return succeeded
		}})).serve().mustStart()
		go func() { _, _ = w.c.try(context.Background(), "preStop") }()
		synctest.Wait()
		w.exit()
		began := time.Now()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// TestDeleteWaitsForItsEvents, unless it has failed: containerd may shut the shim down when it has returned.
func TestDeleteWaitsForItsEvents(t *testing.T) {
	refused := status.Error(codes.Internal, "runc's own words")
	for _, want := range []error{nil, refused} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})
			w.serveUntil()
			w.mustStart()
			w.exit()
			w.inner.Answer["Delete"] = func(context.Context, any) (any, error) {
				time.AfterFunc(10*time.Millisecond, func() { w.emit(shimtest.Event("c1", "delete")) })
				return &taskapi.DeleteResponse{}, want
			}
			began := time.Now()
			_, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"})
			took := time.Since(began)
			synctest.Wait()
			stage, known := w.c.status.Load().Stage, w.service.container("c1") != nil
			if want == nil && (err != nil || took != 10*time.Millisecond || stage != lifecycle.StageDeleted || known) {
				t.Errorf("after %s: %v, stage %s, known %t", took, err, stage, known)
			}
			if want != nil && (!errors.Is(err, want) || took != 0 || stage == lifecycle.StageDeleted || !known) {
				t.Errorf("a failed one: after %s: %v, stage %s, known %t", took, err, stage, known)
			}
			pass(time.Second)
		})
	}
}

// TestRequestThatCannotBeDecodedIsRefused, under the older name of the service too.
func TestRequestThatCannotBeDecodedIsRefused(t *testing.T) {
	broken := errors.New("no message")
	called := method(func(context.Context, *taskapi.KillRequest) (*taskapi.DeleteResponse, error) {
		t.Error("it is called")
		return nil, nil
	})
	if _, err := called(t.Context(), func(any) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
