package tap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// newTestTap returns a tap that is closed at the test's end, so that synctest
// sees what is left running.
func newTestTap(t *testing.T, publisher *shimtest.Publisher) *Tap {
	t.Helper()
	tap := New(publisher)
	t.Cleanup(func() {
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	})
	return tap
}

func nothing() {}

// watch begins to hold everything of a container.
func watch(tap *Tap, id string, exited func()) *Gate {
	g := tap.Gate(id, exited)
	g.Watch()
	return g
}

func TestTapPassesWhatNobodyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{Err: errors.New("no reader")} // which is no reason to stop
		tap := newTestTap(t, publisher)
		var want []string
		for i := range 100 {
			id := fmt.Sprintf("c%d", i)
			shimtest.Emit(t, tap, id+" create", id+" start", id+" exit")
			want = append(want, id+" create", id+" start", id+" exit")
		}
		shimtest.Emit(t, tap, "ns namespace")
		publisher.Expect(t, strings.Join(append(want, "namespace"), ", "))
	})
}

func TestTapHoldsTheStartAndWhatFollowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		shimtest.Emit(t, tap, "a create")
		publisher.Expect(t, "") // it may yet be undone
		gate.Created(shimtest.Pid, true, false)
		publisher.Expect(t, "a create")
		shimtest.Emit(t, tap, "a paused", "a start", "a exec-exit", "a exit", "a delete")
		publisher.Expect(t, "a create, a paused")
		shimtest.Emit(t, tap, "b create", "b start") // others pass meanwhile
		publisher.Expect(t, "a create, a paused, b create, b start")
		gate.Release()
		publisher.Expect(t, "a create, a paused, b create, b start, a start, a exec-exit, a exit, a delete")
		shimtest.Emit(t, tap, "a start") // nothing is held any more
		publisher.Expect(t, "a create, a paused, b create, b start, a start, a exec-exit, a exit, a delete, a start")
	})
}

func TestTapLetsTheStartPassWithoutPostStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		shimtest.Emit(t, tap, "a create")
		gate.Created(shimtest.Pid, false, false)
		shimtest.Emit(t, tap, "a start", "a exit")
		publisher.Expect(t, "a create, a start, a exit")
		gate.Release() // harmless
		publisher.Expect(t, "a create, a start, a exit")
	})
}

func TestTapHoldsEverythingDuringTheCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		shimtest.Emit(t, tap, "a create", "a exit", "a paused")
		publisher.Expect(t, "")
		gate.Created(shimtest.Pid, true, false)
		publisher.Expect(t, "a create, a exit, a paused")
	})
}

func TestTapForgetDropsWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		shimtest.Emit(t, tap, "a create", "a exit", "a delete")
		gate.Forget()
		publisher.Expect(t, "")
		shimtest.Emit(t, tap, "a create") // the next container of that id is not affected
		publisher.Expect(t, "a create")
	})
}

// TestTapDropsACreationThatIsUndone, with what its undoing publishes, and what
// the loop's end lets go.
func TestTapDropsACreationThatIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", func() { t.Error("the exit of a container that never existed was reported") })
		shimtest.Emit(t, tap, "a create", "a exit")
		const late = 100 * time.Millisecond
		time.AfterFunc(late, func() { shimtest.Emit(t, tap, "a delete") })
		began := time.Now()
		gate.Undone(shimtest.Pid)
		if waited := time.Since(began); waited != late {
			t.Errorf("it waited %s", waited)
		}
		gate.Forget()
		gate.Release()
		publisher.Expect(t, "")
	})
}

// TestExitDuringTheCreationIsToldAfterIt: only then is the init's pid known.
func TestExitDuringTheCreationIsToldAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		told := 0
		gate := watch(tap, "a", func() { told++ })
		shimtest.Emit(t, tap, "a create", "a exit", "a paused")
		if told != 0 {
			t.Error("told before the pid is known")
		}
		gate.Created(shimtest.Pid, true, false)
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}

// TestExitOfAnEarlierContainerOfTheIDIsNotTold: its events may come late.
func TestExitOfAnEarlierContainerOfTheIDIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", func() { t.Error("another container's exit was reported") })
		exit := &eventstypes.TaskExit{ContainerID: "a", ID: "a", Pid: shimtest.Pid + 1}
		_ = tap.Publish(t.Context(), "old-exit", exit)
		gate.Created(shimtest.Pid, false, false)
		_ = tap.Publish(t.Context(), "old-exit", exit)
		publisher.Expect(t, "a old-exit, a old-exit")
	})
}

// TestRestoredContainerTellsAnyExit before its start has returned its pid: a start that fails may be followed by an exit.
func TestRestoredContainerTellsAnyExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		told := 0
		gate := watch(tap, "a", func() { told++ })
		gate.Created(0, false, false)
		shimtest.Emit(t, tap, "a exit")
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}

func TestTapForgetLeavesTheNextContainerOfTheID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{}
		tap := newTestTap(t, publisher)
		first := watch(tap, "a", nothing)
		first.Created(shimtest.Pid, true, false)
		second := watch(tap, "a", nothing)
		first.Forget()
		shimtest.Emit(t, tap, "a create")
		publisher.Expect(t, "")
		second.Created(shimtest.Pid, false, false)
		publisher.Expect(t, "a create")
	})
}

func TestTapTellsTheContainerOfItsExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &shimtest.Publisher{})
		var told []string
		a := watch(tap, "a", func() { told = append(told, "a") })
		b := watch(tap, "b", func() {
			told = append(told, "b")
			shimtest.Emit(t, tap, "b paused") // it is called without the lock
		})
		a.Created(shimtest.Pid, true, false)
		b.Created(shimtest.Pid, false, false)
		shimtest.Emit(t, tap, "a create", "a start", "a exec-exit", "a exit", "b exit", "c exit")
		if !slices.Equal(told, []string{"a", "b"}) {
			t.Errorf("told %q", told)
		}
		b.Forget()
		shimtest.Emit(t, tap, "b exit")
		if len(told) != 2 {
			t.Errorf("told %q after forget", told)
		}
	})
}

// TestPublishNeverWaits: a containerd that does not read its events must not
// stop the runc service, whose reaper publishes them.
func TestPublishNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{Hang: make(chan struct{})}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			_ = tap.Publish(ctx, "exit", shimtest.Event("b", "exit"))
			_ = tap.Publish(ctx, "exit", shimtest.Event("a", "exit"))
		}
		gate.Created(shimtest.Pid, true, false)
		cancel() // the request is over; its event is to go out all the same
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited %s", waited)
		}
		publisher.Expect(t, "")
		close(publisher.Hang)
		if got := strings.Count(publisher.Published(), "exit"); got != 2000 {
			t.Errorf("%d events were published", got)
		}
		if publisher.ContextErr() != nil {
			t.Errorf("published with a context that has ended: %v", publisher.ContextErr())
		}
	})
}

func TestTapFlush(t *testing.T) {
	t.Run("waits for what was published before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &shimtest.Publisher{Hang: make(chan struct{})}
			tap := newTestTap(t, publisher)
			shimtest.Emit(t, tap, "a create", "a delete")
			time.AfterFunc(time.Second, func() { close(publisher.Hang) })
			tap.Flush(t.Context())
			if seen := publisher.Seen(); len(seen) != 2 {
				t.Errorf("published %q", seen)
			}
		})
	})
	t.Run("gives up without a reader", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &shimtest.Publisher{Hang: make(chan struct{})}
			tap := newTestTap(t, publisher)
			defer close(publisher.Hang)
			shimtest.Emit(t, tap, "a create")
			began := time.Now()
			tap.Flush(t.Context())
			if waited := time.Since(began); waited != flushWait {
				t.Errorf("it waited %s", waited)
			}
		})
	})
	t.Run("waits although another callback has failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &shimtest.Publisher{Hang: make(chan struct{})}
			tap := newTestTap(t, publisher)
			shimtest.Emit(t, tap, "a delete")
			time.AfterFunc(time.Second, func() { close(publisher.Hang) })
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			began := time.Now()
			tap.Flush(ctx)
			if waited := time.Since(began); waited != time.Second {
				t.Errorf("it waited %s", waited)
			}
		})
	})
	t.Run("has nothing to wait for after Close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &shimtest.Publisher{}
			tap := New(publisher)
			shimtest.Emit(t, tap, "a create")
			if err := tap.Close(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			tap.Flush(t.Context())
			if waited := time.Since(began); waited > 0 {
				t.Errorf("it waited %s", waited)
			}
			publisher.Expect(t, "a create")
			if publisher.Closed() != 1 {
				t.Errorf("the publisher was closed %d times", publisher.Closed())
			}
			shimtest.Emit(t, tap, "b create") // too late, and no reason to panic
			publisher.Expect(t, "a create")
		})
	})
	t.Run("does not wait for what is held", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &shimtest.Publisher{}
			tap := newTestTap(t, publisher)
			gate := watch(tap, "a", nothing)
			gate.Created(shimtest.Pid, true, false)
			shimtest.Emit(t, tap, "a start")
			tap.Flush(t.Context())
			publisher.Expect(t, "")
		})
	})
}

func TestGateAwaitsExitAndDelete(t *testing.T) {
	const never = -1
	for name, test := range map[string]struct {
		exit, remove time.Duration // after which the events come
		want         time.Duration
	}{
		"both were there":     {0, 0, 0},
		"the exit is late":    {300 * time.Millisecond, 0, 300 * time.Millisecond},
		"the delete is late":  {0, 200 * time.Millisecond, 200 * time.Millisecond},
		"the exit is lost":    {never, 0, endWait},
		"both are lost":       {never, never, endWait},
		"the delete is first": {500 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tap := newTestTap(t, &shimtest.Publisher{})
				gate := watch(tap, "a", nothing)
				gate.Created(shimtest.Pid, true, false)
				for kind, after := range map[string]time.Duration{"exit": test.exit, "delete": test.remove} {
					switch {
					case after == 0:
						shimtest.Emit(t, tap, "a "+kind, "a "+kind) // a second one changes nothing
					case after > 0:
						time.AfterFunc(after, func() { shimtest.Emit(t, tap, "a "+kind) })
					}
				}
				began := time.Now()
				gate.AwaitEnd()
				if waited := time.Since(began); waited != test.want {
					t.Errorf("it waited %s, want %s", waited, test.want)
				}
			})
		})
	}
}
