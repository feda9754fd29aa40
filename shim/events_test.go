package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// fakePublisher notes what is published, and hangs where it is told to.
type fakePublisher struct {
	mu       sync.Mutex
	seen     []string
	finished []*lifecyclev1.HandlerFinished
	ctxErr   error
	closed   int
	// hang, where not nil, makes every Publish wait until it is closed.
	hang chan struct{}
	err  error
	// closeErr is what Close returns.
	closeErr error
}

func (p *fakePublisher) Publish(ctx context.Context, topic string, event events.Event) error {
	if p.hang != nil {
		<-p.hang
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *lifecyclev1.HandlerStarted:
		p.seen = append(p.seen, e.ContainerId+" "+e.Handler)
	case *lifecyclev1.HandlerFinished:
		p.seen = append(p.seen, e.ContainerId+" "+e.Result)
		p.finished = append(p.finished, e)
	default:
		p.seen = append(p.seen, strings.Trim(containerID(event)+" "+topic, " "))
	}
	p.ctxErr = errors.Join(p.ctxErr, ctx.Err())
	return p.err
}

func (p *fakePublisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed++
	return p.closeErr
}

// published returns what has come out, when everything that can happen has.
func (p *fakePublisher) published() string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.seen, ", ")
}

// newTestTap returns a tap that is closed at the test's end, so that synctest
// sees what is left running.
func newTestTap(t *testing.T, publisher *fakePublisher) *tap {
	t.Helper()
	tap := newTap(publisher)
	t.Cleanup(func() {
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	})
	return tap
}

// emit publishes events, written as "id kind" with the words that are used below.
func emit(t *testing.T, tap *tap, texts ...string) {
	t.Helper()
	for _, text := range texts {
		id, kind, _ := strings.Cut(text, " ")
		if err := tap.Publish(t.Context(), kind, newEvent(id, kind)); err != nil {
			t.Errorf("Publish must not fail: %v", err)
		}
	}
}

func newEvent(id, kind string) events.Event {
	switch kind {
	case "create":
		return &eventstypes.TaskCreate{ContainerID: id}
	case "start":
		return &eventstypes.TaskStart{ContainerID: id}
	case "exit":
		return &eventstypes.TaskExit{ContainerID: id, ID: id, Pid: testPid}
	case "exec-exit":
		return &eventstypes.TaskExit{ContainerID: id, ID: "exec1"}
	case "delete":
		return &eventstypes.TaskDelete{ContainerID: id}
	case "paused":
		return &eventstypes.TaskPaused{ContainerID: id}
	default:
		return &eventstypes.NamespaceCreate{Name: id}
	}
}

// testPid of every container's init.
const testPid = 7

func nothing() {}

// watch begins to hold everything of a container.
func watch(tap *tap, id string, exited func()) *gate {
	g := newGate(tap, id, exited)
	g.watch()
	return g
}

func (p *fakePublisher) expect(t *testing.T, want string) {
	t.Helper()
	if got := p.published(); got != want {
		t.Errorf("published\n  %q, want\n  %q", got, want)
	}
}

// expectAbort is expect with the end of an aborted handler anywhere among them: it
// is in no order to what ended it.
func (p *fakePublisher) expectAbort(t *testing.T, want string) {
	t.Helper()
	const aborted = "c1 Aborted"
	seen := strings.Split(p.published(), ", ")
	at := slices.Index(seen, aborted)
	if at < 0 {
		t.Fatalf("published %q, and no %q", seen, aborted)
	}
	if got := strings.Join(slices.Delete(seen, at, at+1), ", "); got != want {
		t.Errorf("published\n  %q, want\n  %q", got, want)
	}
}

func TestTapPassesWhatNobodyHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{err: errors.New("nobody listens")} // which is no reason to stop
		tap := newTestTap(t, publisher)
		var want []string
		for i := range 100 {
			id := fmt.Sprintf("c%d", i)
			emit(t, tap, id+" create", id+" start", id+" exit")
			want = append(want, id+" create", id+" start", id+" exit")
		}
		emit(t, tap, "ns namespace")
		publisher.expect(t, strings.Join(append(want, "namespace"), ", "))
	})
}

func TestTapHoldsTheStartAndWhatFollowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		emit(t, tap, "a create")
		publisher.expect(t, "") // it may yet be undone
		gate.created(testPid, true, false)
		publisher.expect(t, "a create")
		emit(t, tap, "a paused", "a start", "a exec-exit", "a exit", "a delete")
		publisher.expect(t, "a create, a paused")
		emit(t, tap, "b create", "b start") // others pass meanwhile
		publisher.expect(t, "a create, a paused, b create, b start")
		gate.release()
		publisher.expect(t, "a create, a paused, b create, b start, a start, a exec-exit, a exit, a delete")
		emit(t, tap, "a start") // nothing is held any more
		publisher.expect(t, "a create, a paused, b create, b start, a start, a exec-exit, a exit, a delete, a start")
	})
}

func TestTapLetsTheStartPassWithoutPostStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		emit(t, tap, "a create")
		gate.created(testPid, false, false)
		emit(t, tap, "a start", "a exit")
		publisher.expect(t, "a create, a start, a exit")
		gate.release() // harmless
		publisher.expect(t, "a create, a start, a exit")
	})
}

func TestTapHoldsEverythingDuringTheCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		emit(t, tap, "a create", "a exit", "a paused")
		publisher.expect(t, "")
		gate.created(testPid, true, false)
		publisher.expect(t, "a create, a exit, a paused")
	})
}

func TestTapForgetDropsWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		emit(t, tap, "a create", "a exit", "a delete")
		gate.forget()
		publisher.expect(t, "")
		emit(t, tap, "a create") // the next container of that id is nobody's business
		publisher.expect(t, "a create")
	})
}

// TestTapDropsACreationThatIsUndone, with what its undoing publishes, and what
// the loop's end lets go.
func TestTapDropsACreationThatIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", func() { t.Error("an exit of a container that never was is told") })
		emit(t, tap, "a create", "a exit")
		const late = 100 * time.Millisecond
		time.AfterFunc(late, func() { emit(t, tap, "a delete") })
		began := time.Now()
		gate.undone(testPid)
		if waited := time.Since(began); waited != late {
			t.Errorf("it waited %s", waited)
		}
		gate.forget()
		gate.release()
		publisher.expect(t, "")
	})
}

// TestExitDuringTheCreationIsToldAfterIt: only then is the init's pid known.
func TestExitDuringTheCreationIsToldAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &fakePublisher{})
		told := 0
		gate := watch(tap, "a", func() { told++ })
		emit(t, tap, "a create", "a exit", "a paused")
		if told != 0 {
			t.Error("told before the pid is known")
		}
		gate.created(testPid, true, false)
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}

// TestExitOfAnEarlierContainerOfTheIDIsNotTold: its events may come late.
func TestExitOfAnEarlierContainerOfTheIDIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", func() { t.Error("another container's exit is told") })
		exit := &eventstypes.TaskExit{ContainerID: "a", ID: "a", Pid: testPid + 1}
		_ = tap.Publish(t.Context(), "old-exit", exit)
		gate.created(testPid, false, false)
		_ = tap.Publish(t.Context(), "old-exit", exit)
		publisher.expect(t, "a old-exit, a old-exit")
	})
}

// TestRestoredContainerTellsAnyExit before its start has told its pid: a start that fails may be followed by an exit.
func TestRestoredContainerTellsAnyExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &fakePublisher{})
		told := 0
		gate := watch(tap, "a", func() { told++ })
		gate.created(0, false, false)
		emit(t, tap, "a exit")
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}

func TestTapForgetLeavesTheNextContainerOfTheID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		tap := newTestTap(t, publisher)
		first := watch(tap, "a", nothing)
		first.created(testPid, true, false)
		second := watch(tap, "a", nothing)
		first.forget()
		emit(t, tap, "a create")
		publisher.expect(t, "")
		second.created(testPid, false, false)
		publisher.expect(t, "a create")
	})
}

func TestTapTellsTheContainerOfItsExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := newTestTap(t, &fakePublisher{})
		var told []string
		a := watch(tap, "a", func() { told = append(told, "a") })
		b := watch(tap, "b", func() {
			told = append(told, "b")
			emit(t, tap, "b paused") // it is called without the lock
		})
		a.created(testPid, true, false)
		b.created(testPid, false, false)
		emit(t, tap, "a create", "a start", "a exec-exit", "a exit", "b exit", "c exit")
		if !slices.Equal(told, []string{"a", "b"}) {
			t.Errorf("told %q", told)
		}
		b.forget()
		emit(t, tap, "b exit")
		if len(told) != 2 {
			t.Errorf("told %q after forget", told)
		}
	})
}

// TestPublishNeverWaits: a containerd that does not read its events must not
// stop the runc service, whose reaper publishes them.
func TestPublishNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{hang: make(chan struct{})}
		tap := newTestTap(t, publisher)
		gate := watch(tap, "a", nothing)
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			_ = tap.Publish(ctx, "exit", newEvent("b", "exit"))
			_ = tap.Publish(ctx, "exit", newEvent("a", "exit"))
		}
		gate.created(testPid, true, false)
		cancel() // the request is over; its event is to go out all the same
		if waited := time.Since(began); waited > 0 {
			t.Errorf("it waited %s", waited)
		}
		publisher.expect(t, "")
		close(publisher.hang)
		if got := strings.Count(publisher.published(), "exit"); got != 2000 {
			t.Errorf("%d events were published", got)
		}
		if publisher.ctxErr != nil {
			t.Errorf("published with a context that has ended: %v", publisher.ctxErr)
		}
	})
}

func TestTapFlush(t *testing.T) {
	t.Run("waits for what was published before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &fakePublisher{hang: make(chan struct{})}
			tap := newTestTap(t, publisher)
			emit(t, tap, "a create", "a delete")
			time.AfterFunc(time.Second, func() { close(publisher.hang) })
			tap.flush(t.Context())
			publisher.mu.Lock()
			defer publisher.mu.Unlock()
			if len(publisher.seen) != 2 {
				t.Errorf("published %q", publisher.seen)
			}
		})
	})
	t.Run("gives up where nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &fakePublisher{hang: make(chan struct{})}
			tap := newTestTap(t, publisher)
			defer close(publisher.hang)
			emit(t, tap, "a create")
			began := time.Now()
			tap.flush(t.Context())
			if waited := time.Since(began); waited != flushWait {
				t.Errorf("it waited %s", waited)
			}
		})
	})
	t.Run("waits although another callback has failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &fakePublisher{hang: make(chan struct{})}
			tap := newTestTap(t, publisher)
			emit(t, tap, "a delete")
			time.AfterFunc(time.Second, func() { close(publisher.hang) })
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			began := time.Now()
			tap.flush(ctx)
			if waited := time.Since(began); waited != time.Second {
				t.Errorf("it waited %s", waited)
			}
		})
	})
	t.Run("has nothing to wait for after Close", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &fakePublisher{}
			tap := newTap(publisher)
			emit(t, tap, "a create")
			if err := tap.Close(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			tap.flush(t.Context())
			if waited := time.Since(began); waited > 0 {
				t.Errorf("it waited %s", waited)
			}
			publisher.expect(t, "a create")
			if publisher.closed != 1 {
				t.Errorf("the publisher was closed %d times", publisher.closed)
			}
			emit(t, tap, "b create") // too late, and no reason to panic
			publisher.expect(t, "a create")
		})
	})
	t.Run("does not wait for what is held", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			publisher := &fakePublisher{}
			tap := newTestTap(t, publisher)
			gate := watch(tap, "a", nothing)
			gate.created(testPid, true, false)
			emit(t, tap, "a start")
			tap.flush(t.Context())
			publisher.expect(t, "")
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
				tap := newTestTap(t, &fakePublisher{})
				gate := watch(tap, "a", nothing)
				gate.created(testPid, true, false)
				for kind, after := range map[string]time.Duration{"exit": test.exit, "delete": test.remove} {
					switch {
					case after == 0:
						emit(t, tap, "a "+kind, "a "+kind) // a second one changes nothing
					case after > 0:
						time.AfterFunc(after, func() { emit(t, tap, "a "+kind) })
					}
				}
				began := time.Now()
				gate.awaitEnd()
				if waited := time.Since(began); waited != test.want {
					t.Errorf("it waited %s, want %s", waited, test.want)
				}
			})
		})
	}
}
