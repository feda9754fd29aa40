package tap

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// TestRestoredContainersExecIsNotTheContainer, also where a client gives it the container's id: the start says which
// process the container's is.
func TestRestoredContainersExecIsNotTheContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		told := 0
		gate := watch(tap, "a", func() { told++ })
		gate.Created(0, false, true)
		_ = tap.Publish(t.Context(), "start", &eventstypes.TaskStart{ContainerID: "a", Pid: shimtest.Pid})
		_ = tap.Publish(t.Context(), "exec-exit", &eventstypes.TaskExit{ContainerID: "a", ID: "a", Pid: shimtest.Pid + 1})
		if told != 0 {
			t.Error("the exec's exit is taken for the container's")
		}
		publisher.Expect(t, "a start, a exec-exit") // nor is it held for onExit
		shimtest.Emit(t, tap, "a exit")
		if told != 1 {
			t.Errorf("told %d times of the container's own", told)
		}
		publisher.Expect(t, "a start, a exec-exit")
		gate.ReleaseExit()
		publisher.Expect(t, "a start, a exec-exit, a exit")
	})
}

// TestRestoredContainersEndIsAwaited once it has been started, and only its deletion if it was not.
func TestRestoredContainersEndIsAwaited(t *testing.T) {
	for name, test := range map[string]struct {
		started bool
		want    time.Duration
	}{
		"started": {true, 300 * time.Millisecond}, "not started": {false, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tap := newTestTap(t, &shimtest.Publisher{})
				gate := watch(tap, "a", nothing)
				gate.Created(0, false, false)
				if test.started {
					_ = tap.Publish(t.Context(), "start", &eventstypes.TaskStart{ContainerID: "a", Pid: shimtest.Pid})
					time.AfterFunc(300*time.Millisecond, func() { shimtest.Emit(t, tap, "a exit") })
				}
				time.AfterFunc(200*time.Millisecond, func() { shimtest.Emit(t, tap, "a delete") })
				began := time.Now()
				gate.AwaitEnd()
				if waited := time.Since(began); waited != test.want {
					t.Errorf("it waited %s, want %s", waited, test.want)
				}
			})
		})
	}
}

// TestExecsOfARestoredContainerAreNotItsExit, before its own process is known either.
func TestExecsOfARestoredContainerAreNotItsExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		gate := watch(tap, "a", func() { t.Error("an exec's exit is taken for the container's") })
		gate.Created(0, false, false)
		shimtest.Emit(t, tap, "a exec-exit")
	})
}

// TestLateStartForgetsNoExit of a container whose process is known.
func TestLateStartForgetsNoExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		gate := watch(tap, "a", nothing)
		gate.Created(shimtest.Pid, false, false)
		shimtest.Emit(t, tap, "a exit")
		_ = tap.Publish(t.Context(), "start", &eventstypes.TaskStart{ContainerID: "a", Pid: shimtest.Pid})
		shimtest.Emit(t, tap, "a delete")
		began := time.Now()
		gate.AwaitEnd()
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited %s", waited)
		}
	})
}

// TestUndoneWaitsForItsOwnExit, and not for that of an earlier container of the id.
func TestUndoneWaitsForItsOwnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		gate := watch(tap, "a", nothing)
		shimtest.Emit(t, tap, "a create", "a delete")
		_ = tap.Publish(t.Context(), "old-exit", &eventstypes.TaskExit{ContainerID: "a", ID: "a", Pid: shimtest.Pid + 1})
		const late = 100 * time.Millisecond
		time.AfterFunc(late, func() { shimtest.Emit(t, tap, "a exit") })
		began := time.Now()
		gate.Undone(shimtest.Pid)
		if waited := time.Since(began); waited != late {
			t.Errorf("it waited %s", waited)
		}
		gate.Forget()
	})
}

// TestEventsThatAreLostAreLogged.
func TestEventsThatAreLostAreLogged(t *testing.T) {
	for _, lost := range []error{nil, errors.New("no reader")} {
		synctest.Test(t, func(t *testing.T) {
			logger, lines := shimtest.NewLog()
			tap := newTestTap(t, &shimtest.Publisher{Err: lost})
			ctx := log.WithLogger(t.Context(), logger)
			_ = tap.Publish(ctx, "create", shimtest.Event("a", "create"))
			synctest.Wait()
			if got := len(lines.All()) == 1; got != (lost != nil) {
				t.Errorf("%v: logged %q", lost, lines.All())
			}
		})
	}
}

// TestOOMIsNoted: LIFECYCLE_RESULT says oom-kill only where the kernel was seen to kill for lack of memory.
func TestOOMIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		early, late, spared := watch(tap, "a", nothing), watch(tap, "b", nothing), watch(tap, "c", nothing)
		_ = tap.Publish(t.Context(), "oom", &eventstypes.TaskOOM{ContainerID: "a"}) // during the creation
		for _, gate := range []*Gate{early, late, spared} {
			gate.Created(shimtest.Pid, false, false)
		}
		_ = tap.Publish(t.Context(), "oom", &eventstypes.TaskOOM{ContainerID: "b"})
		shimtest.Emit(t, tap, "c exit")
		if !early.OOMSeen() || !late.OOMSeen() || spared.OOMSeen() {
			t.Errorf("early %t, late %t, none %t", early.OOMSeen(), late.OOMSeen(), spared.OOMSeen())
		}
	})
}

// TestTapIsClosedWhenAllIsOut: TaskDelete must not be lost with the shim.
func TestTapIsClosedWhenAllIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{Hang: make(chan struct{}), CloseErr: errors.New("it cannot be closed")}
		tap := New(publisher)
		shimtest.Emit(t, tap, "a exit", "a delete")
		closed := make(chan error, 1)
		go func() { closed <- tap.Close() }()
		synctest.Wait()
		if publisher.Closed() > 0 {
			t.Error("the publisher is closed before its last event")
		}
		close(publisher.Hang)
		if err := <-closed; !errors.Is(err, publisher.CloseErr) {
			t.Errorf("got %v", err)
		}
		publisher.Expect(t, "a exit, a delete")
	})
}

func TestTapHoldsTheExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		gate.Created(shimtest.Pid, true, true)
		shimtest.Emit(t, tap, "a start", "a exec-exit", "a exit", "a delete")
		publisher.Expect(t, "")
		gate.ReleaseExit() // the start comes before the exit, in any order of release
		publisher.Expect(t, "")
		gate.Release()
		publisher.Expect(t, "a start, a exec-exit, a exit, a delete")

		gate = watch(tap, "b", nothing)
		gate.Created(shimtest.Pid, true, true)
		shimtest.Emit(t, tap, "b start", "b exit", "b delete")
		gate.Release()
		publisher.Expect(t, "a start, a exec-exit, a exit, a delete, b start")
		gate.ReleaseExit()
		publisher.Expect(t, "a start, a exec-exit, a exit, a delete, b start, b exit, b delete")
	})
}

func TestExitThatMeetsTheEndOfACreationIsTold(t *testing.T) {
	tap := newTestTap(t, &shimtest.Publisher{})
	for i := range 20000 {
		var told atomic.Int32
		gate := watch(tap, "a", func() { told.Add(1) })
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = tap.Publish(t.Context(), "exit", shimtest.Event("a", "exit"))
		}()
		gate.Created(shimtest.Pid, true, false)
		<-done
		if told.Load() != 1 {
			t.Fatalf("try %d: the exit was reported %d times", i, told.Load())
		}
	}
}
