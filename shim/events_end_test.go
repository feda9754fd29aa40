package shim

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
)

// TestRestoredContainersExecIsNotTheContainer, also where a client gives it the container's id: the start says which
// process the container's is.
func TestRestoredContainersExecIsNotTheContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		told := 0
		gate := watch(tap, "a", func() { told++ })
		gate.created(0, false, true)
		_ = tap.Publish(t.Context(), "start", &eventstypes.TaskStart{ContainerID: "a", Pid: testPid})
		_ = tap.Publish(t.Context(), "exec-exit", &eventstypes.TaskExit{ContainerID: "a", ID: "a", Pid: testPid + 1})
		if told != 0 {
			t.Error("the exec's exit is taken for the container's")
		}
		publisher.expect(t, "a start, a exec-exit") // nor is it held for onExit
		emit(t, tap, "a exit")
		if told != 1 {
			t.Errorf("told %d times of the container's own", told)
		}
		publisher.expect(t, "a start, a exec-exit")
		gate.releaseExit()
		publisher.expect(t, "a start, a exec-exit, a exit")
	})
}

// TestRestoredContainersEndIsAwaited once it has been started, and only its deletion where it was not.
func TestRestoredContainersEndIsAwaited(t *testing.T) {
	for name, test := range map[string]struct {
		started bool
		want    time.Duration
	}{
		"started": {true, 300 * time.Millisecond}, "not started": {false, 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tap := newTestTap(t, &fakePublisher{})
				gate := watch(tap, "a", nothing)
				gate.created(0, false, false)
				if test.started {
					_ = tap.Publish(t.Context(), "start", &eventstypes.TaskStart{ContainerID: "a", Pid: testPid})
					time.AfterFunc(300*time.Millisecond, func() { emit(t, tap, "a exit") })
				}
				time.AfterFunc(200*time.Millisecond, func() { emit(t, tap, "a delete") })
				began := time.Now()
				gate.awaitEnd()
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
		tap := newTestTap(t, &fakePublisher{})
		gate := watch(tap, "a", func() { t.Error("an exec's exit is taken for the container's") })
		gate.created(0, false, false)
		emit(t, tap, "a exec-exit")
	})
}

// TestLateStartForgetsNoExit of a container whose process is known.
func TestLateStartForgetsNoExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &fakePublisher{})
		gate := watch(tap, "a", nothing)
		gate.created(testPid, false, false)
		emit(t, tap, "a exit")
		_ = tap.Publish(t.Context(), "start", &eventstypes.TaskStart{ContainerID: "a", Pid: testPid})
		emit(t, tap, "a delete")
		began := time.Now()
		gate.awaitEnd()
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited %s", waited)
		}
	})
}

// TestUndoneWaitsForItsOwnExit, and not for that of an earlier container of the id.
func TestUndoneWaitsForItsOwnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &fakePublisher{})
		gate := watch(tap, "a", nothing)
		emit(t, tap, "a create", "a delete")
		_ = tap.Publish(t.Context(), "old-exit", &eventstypes.TaskExit{ContainerID: "a", ID: "a", Pid: testPid + 1})
		const late = 100 * time.Millisecond
		time.AfterFunc(late, func() { emit(t, tap, "a exit") })
		began := time.Now()
		gate.undone(testPid)
		if waited := time.Since(began); waited != late {
			t.Errorf("it waited %s", waited)
		}
		gate.forget()
	})
}

// TestEventsThatAreLostAreLogged.
func TestEventsThatAreLostAreLogged(t *testing.T) {
	for _, lost := range []error{nil, errors.New("nobody listens")} {
		synctest.Test(t, func(t *testing.T) {
			logger, lines := newLog()
			tap := newTestTap(t, &fakePublisher{err: lost})
			ctx := log.WithLogger(t.Context(), logger)
			_ = tap.Publish(ctx, "create", newEvent("a", "create"))
			synctest.Wait()
			if got := len(lines.all) == 1; got != (lost != nil) {
				t.Errorf("%v: logged %q", lost, lines.all)
			}
		})
	}
}

// TestOOMIsNoted: LIFECYCLE_RESULT says oom-kill only where the kernel was seen to kill for lack of memory.
func TestOOMIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &fakePublisher{})
		early, late, spared := watch(tap, "a", nothing), watch(tap, "b", nothing), watch(tap, "c", nothing)
		_ = tap.Publish(t.Context(), "oom", &eventstypes.TaskOOM{ContainerID: "a"}) // during the creation
		for _, gate := range []*gate{early, late, spared} {
			gate.created(testPid, false, false)
		}
		_ = tap.Publish(t.Context(), "oom", &eventstypes.TaskOOM{ContainerID: "b"})
		emit(t, tap, "c exit")
		if !early.oom() || !late.oom() || spared.oom() {
			t.Errorf("early %t, late %t, none %t", early.oom(), late.oom(), spared.oom())
		}
	})
}

// TestTapIsClosedWhenAllIsOut: TaskDelete must not be lost with the shim.
func TestTapIsClosedWhenAllIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{hang: make(chan struct{}), closeErr: errors.New("it cannot be closed")}
		tap := newTap(publisher)
		emit(t, tap, "a exit", "a delete")
		closed := make(chan error, 1)
		go func() { closed <- tap.Close() }()
		synctest.Wait()
		publisher.mu.Lock()
		if publisher.closed > 0 {
			t.Error("the publisher is closed with events to come")
		}
		publisher.mu.Unlock()
		close(publisher.hang)
		if err := <-closed; !errors.Is(err, publisher.closeErr) {
			t.Errorf("got %v", err)
		}
		publisher.expect(t, "a exit, a delete")
	})
}
