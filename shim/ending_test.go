package shim

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// endWorld is a service over a runc service that has containers, and ends the shim as that does.
type endWorld struct {
	t       *testing.T
	service *service
	inner   *shimtest.Task
	ending  *ending
	dir     string
	// creating is closed when a Create has reached the runc service, which answers when create is.
	creating, create chan struct{}
	containers       map[string]bool
}

// newEndWorld is for a bubble of synctest, in which one thing happens at a time.
func newEndWorld(t *testing.T) *endWorld {
	t.Helper()
	w := &endWorld{t: t, dir: bundle(t, "/c1", nil), creating: make(chan struct{}), create: make(chan struct{}), containers: map[string]bool{}}
	w.service, w.inner, _ = newTestService(t)
	w.ending = w.service.ending
	w.inner.Answer["Create"] = func(_ context.Context, r any) (any, error) {
		close(w.creating)
		<-w.create
		w.containers[r.(*taskapi.CreateTaskRequest).ID] = true
		return &taskapi.CreateTaskResponse{Pid: shimtest.Pid}, nil
	}
	w.inner.Answer["Delete"] = func(_ context.Context, r any) (any, error) {
		id := r.(*taskapi.DeleteRequest).ID
		if !w.containers[id] {
			return nil, status.Error(codes.NotFound, "container not created")
		}
		delete(w.containers, id)
		return &taskapi.DeleteResponse{}, nil
	}
	w.inner.Answer["Shutdown"] = func(context.Context, any) (any, error) {
		if len(w.containers) == 0 {
			w.ending.Shutdown()
		}
		return &ptypes.Empty{}, nil
	}
	return w
}

func (w *endWorld) request(id string) *taskapi.CreateTaskRequest {
	return &taskapi.CreateTaskRequest{ID: id, Bundle: w.dir}
}

// createLater begins a Create that the runc service has begun with when it returns.
func (w *endWorld) createLater(ctx context.Context, id string) <-chan error {
	answer := make(chan error, 1)
	go func() {
		_, err := w.service.Create(ctx, w.request(id))
		answer <- err
	}()
	<-w.creating
	return answer
}

func (w *endWorld) delete(id string) {
	w.t.Helper()
	_, err := w.service.Delete(w.t.Context(), &taskapi.DeleteRequest{ID: id})
	if err != nil && status.Code(err) != codes.NotFound {
		w.t.Error(err)
	}
}

func (w *endWorld) shutdown(id string) {
	w.t.Helper()
	if _, err := w.service.Shutdown(w.t.Context(), &taskapi.ShutdownRequest{ID: id}); err != nil {
		w.t.Error(err)
	}
}

// wantEnded checks whether the end is decided, when nothing but time is left to happen.
func (w *endWorld) wantEnded(want bool, when string) {
	w.t.Helper()
	synctest.Wait()
	select {
	case <-w.ending.Done():
		if !want {
			w.t.Errorf("the shim has ended %s", when)
		}
	default:
		if want {
			w.t.Errorf("the shim has not ended %s", when)
		}
	}
}

func inEndWorld(t *testing.T, test func(*testing.T, *endWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newEndWorld(t)) })
}

// FAULTS A7: the Shutdown that follows another container's Delete does not end a shim that is creating a container.
func TestShutdownDuringACreate(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.containers["first"] = true
		answer := w.createLater(t.Context(), "second")
		w.delete("first")
		w.shutdown("first")
		w.wantEnded(false, "during a Create")
		close(w.create)
		if err := <-answer; err != nil {
			t.Error(err)
		}
		pass(time.Hour)
		w.wantEnded(false, "although it has a container")
		w.delete("second")
		w.shutdown("second")
		w.wantEnded(true, "when the last container is deleted")
	})
}

// The Shutdown that was put off is made up for when the Create has failed.
func TestShutdownDuringACreateThatFails(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) {
			close(w.creating)
			<-w.create
			return nil, errors.New("runc failed")
		}
		answer := w.createLater(t.Context(), "second")
		w.shutdown("first")
		close(w.create)
		if err := <-answer; err == nil {
			t.Error("no error")
		}
		w.wantEnded(true, "after the Create")
	})
}

// FAULTS A1: a shim whose only Create has failed ends by itself, if no client shuts it down.
func TestFailedCreateEndsTheShim(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"by the runtime":  nil,
		"by the shim":     {oci.KeyLifecycle: "postStart: {exec: {}}"},
		"by preparations": {oci.KeyPreStop: goodHandler},
	} {
		t.Run(name, func(t *testing.T) {
			inEndWorld(t, func(t *testing.T, w *endWorld) {
				w.inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, errors.New("runc failed") }
				w.dir = bundle(t, "/c1", annotations)
				if _, err := w.service.Create(t.Context(), w.request("c1")); err == nil {
					t.Fatal("no error")
				}
				pass(idleWait - time.Millisecond)
				w.wantEnded(false, "before a client can retry")
				pass(time.Millisecond)
				w.wantEnded(true, "when no client has shut it down")
			})
		})
	}
}

// A panic of the runc service in a Shutdown that no client has requested ends no process.
func TestPanicInAShutdownOfItsOwn(t *testing.T) {
	inEndWorld(t, func(_ *testing.T, w *endWorld) {
		good := w.inner.Answer["Shutdown"]
		w.inner.Answer["Shutdown"] = func(context.Context, any) (any, error) { panic("a bug") }
		w.ending.expect("c1")
		pass(expectWait)
		w.wantEnded(false, "by a panic")
		w.inner.Answer["Shutdown"] = good
		w.shutdown("c1")
		w.wantEnded(true, "at the next request")
	})
}

// A failed Create ends no shim that has containers, or is given another one meanwhile.
func TestFailedCreateInAPodThatRuns(t *testing.T) {
	for name, before := range map[string]func(*endWorld){
		"has a container":  func(w *endWorld) { w.containers["first"] = true },
		"gets one":         func(w *endWorld) { w.ending.expect("second") },
		"has begun for it": func(w *endWorld) { w.ending.expectFirst("first", w.dir) },
	} {
		t.Run(name, func(t *testing.T) {
			inEndWorld(t, func(t *testing.T, w *endWorld) {
				before(w)
				good := w.inner.Answer["Create"]
				w.inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, errors.New("runc failed") }
				if _, err := w.service.Create(t.Context(), w.request("c1")); err == nil {
					t.Fatal("no error")
				}
				pass(2 * idleWait)
				w.wantEnded(false, "although it is used")
				w.inner.Answer["Create"] = good
				close(w.create)
				if err := <-w.createLater(t.Context(), "second"); err != nil {
					t.Fatal(err)
				}
				pass(time.Hour)
				w.wantEnded(false, "although it has a container")
			})
		})
	}
}

// A Create whose client has given it up is undone: no client would.
func TestCreateThatIsGivenUpIsUndone(t *testing.T) {
	for name, giveUp := range map[string]func(w *endWorld, cancel func()){
		"the connection goes":    func(_ *endWorld, cancel func()) { cancel() },
		"containerd deletes it":  func(w *endWorld, _ func()) { w.delete("c1") },
		"containerd shuts down":  func(w *endWorld, _ func()) { w.shutdown("c1") },
		"the runtime takes long": func(_ *endWorld, cancel func()) { cancel(); pass(createGrace - time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			inEndWorld(t, func(t *testing.T, w *endWorld) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				answer := w.createLater(ctx, "c1")
				giveUp(w, cancel)
				close(w.create)
				if err := <-answer; err == nil {
					t.Error("it has been created")
				}
				if len(w.containers) > 0 {
					t.Error("the container stays")
				}
				if kills := w.inner.Asked("Kill"); len(kills) != 1 || kills[0].(*taskapi.KillRequest).Signal != 9 {
					t.Errorf("kills: %v", kills)
				}
				pass(idleWait)
				w.wantEnded(true, "after it")
			})
		})
	}
}

// The runtime is killed when it takes too long for a Create that no client waits for.
func TestRuntimeThatHangsInACreateThatIsGivenUp(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.inner.Answer["Create"] = func(ctx context.Context, _ any) (any, error) {
			close(w.creating)
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		ctx, cancel := context.WithCancel(t.Context())
		answer := w.createLater(ctx, "c1")
		cancel()
		began := time.Now()
		if err := <-answer; err == nil || time.Since(began) != createGrace {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

func TestTwoCreatesOfOneID(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		answer := w.createLater(t.Context(), "c1")
		if _, err := w.service.Create(t.Context(), w.request("c1")); status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), `"c1"`) {
			t.Errorf("got %v", err)
		}
		close(w.create)
		if err := <-answer; err != nil || !w.containers["c1"] {
			t.Errorf("the first one: %v", err)
		}
	})
}

// The time in which a client can retry begins anew at each failed Create, and not before the last of them has ended.
func TestIdleBeginsAnew(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		failed := errors.New("runc failed")
		w.inner.Answer["Create"] = func(_ context.Context, r any) (any, error) {
			if r.(*taskapi.CreateTaskRequest).ID == "slow" {
				pass(2 * idleWait)
			}
			return nil, failed
		}
		for _, id := range []string{"c1", "c2"} {
			if _, err := w.service.Create(t.Context(), w.request(id)); !errors.Is(err, failed) {
				t.Fatal(err)
			}
			pass(idleWait - time.Second)
			w.wantEnded(false, "too early after a failed Create")
		}
		go func() { _, _ = w.service.Create(t.Context(), w.request("slow")) }()
		synctest.Wait()
		if _, err := w.service.Create(t.Context(), w.request("c3")); !errors.Is(err, failed) {
			t.Fatal(err)
		}
		pass(3*idleWait - time.Second)
		w.wantEnded(false, "too early after the slow Create")
		pass(time.Second)
		w.wantEnded(true, "when no client has retried")
	})
}

// A Create that was given up does not make the next one of its id fail.
func TestCreateAfterOneThatWasGivenUp(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		answer := w.createLater(t.Context(), "c1")
		w.delete("c1")
		close(w.create)
		if err := <-answer; !errors.Is(err, errGivenUp) {
			t.Errorf("got %v", err)
		}
		w.creating = make(chan struct{})
		if err := <-w.createLater(t.Context(), "c1"); err != nil || !w.containers["c1"] {
			t.Errorf("the second one: %v", err)
		}
	})
}

// A Create that panics is a failed one: the shim ends if no client retries.
func TestPanicInACreateEndsTheShim(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) { panic("a bug") }
		func() {
			defer func() { _ = recover() }()
			_, _ = w.service.Create(t.Context(), w.request("c1"))
		}()
		pass(idleWait)
		w.wantEnded(true, "after a panic")
	})
}

// A Create that has succeeded asks for no end, also if a Shutdown was put off for it: one follows the container's Delete.
func TestCreatedContainerAsksForNoShutdown(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		answer := w.createLater(t.Context(), "c1")
		w.shutdown("c0")
		close(w.create)
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		if asked := len(w.inner.Asked("Shutdown")); asked != 0 {
			t.Errorf("the runc service is asked for %d shutdowns", asked)
		}
	})
}

// A Delete of another container does not make up for a Shutdown that was put off for a Create.
func TestDeleteDuringACreate(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		answer := w.createLater(t.Context(), "second")
		w.shutdown("first")
		w.delete("other")
		w.wantEnded(false, "during a Create")
		close(w.create)
		if err := <-answer; err != nil {
			t.Error(err)
		}
	})
}
