package shim

import (
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// FAULTS A7: a Create that the start action has announced meets a shim that stays, or none.
func TestExpectedCreate(t *testing.T) {
	for name, test := range map[string]struct {
		then  func(*endWorld)
		after time.Duration // until the shim ends
	}{
		"comes, and is deleted": {func(w *endWorld) {
			close(w.create)
			if err := <-w.createLater(w.t.Context(), "second"); err != nil {
				w.t.Error(err)
			}
			w.wantEnded(false, "although it has a container")
			w.delete("second")
			w.shutdown("second")
		}, 0},
		"is given up by containerd":       {func(w *endWorld) { w.delete("second") }, 0},
		"is given up, without the Delete": {func(w *endWorld) { w.shutdown("second") }, 0},
		"never comes":                     {func(*endWorld) {}, expectWait},
		"is announced anew": {func(w *endWorld) {
			pass(expectWait / 2)
			w.ending.expect("second")
		}, expectWait},
	} {
		t.Run(name, func(t *testing.T) {
			inEndWorld(t, func(t *testing.T, w *endWorld) {
				if !w.ending.expect("second") {
					t.Fatal("it is refused")
				}
				w.shutdown("first")
				w.wantEnded(false, "although a Create is expected")
				test.then(w)
				if test.after > 0 {
					pass(test.after - time.Millisecond)
					w.wantEnded(false, "too early")
					pass(time.Millisecond)
				}
				w.wantEnded(true, "at last")
				if w.ending.expect("third") {
					t.Error("an ended shim expects a Create")
				}
				_, err := w.service.Create(t.Context(), w.request("third"))
				if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), `"third"`) || len(w.containers) > 0 {
					t.Errorf("an ended shim answers a Create with %v", err)
				}
			})
		})
	}
}

// An announced Create that never comes does not end a shim that has containers.
func TestExpectedCreateNeverComesToAPodThatRuns(t *testing.T) {
	inEndWorld(t, func(_ *testing.T, w *endWorld) {
		w.containers["first"] = true
		w.ending.expect("second")
		pass(time.Hour)
		w.wantEnded(false, "although it has a container")
		w.delete("first")
		w.shutdown("first")
		w.wantEnded(true, "when the last container is deleted")
	})
}

// The shim's first container is waited for until containerd has removed its bundle.
func TestFirstContainerNeverComes(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.ending.expectFirst("c1", w.dir)
		pass(time.Hour)
		w.wantEnded(false, "although its bundle is there")
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
		pass(bundlePause)
		w.wantEnded(true, "when its bundle is gone")
	})
	inEndWorld(t, func(_ *testing.T, w *endWorld) {
		w.ending.expectFirst("c1", w.dir)
		w.delete("c1") // containerd has failed between start and Create
		w.shutdown("c1")
		w.wantEnded(true, "when containerd has given it up")
	})
}

// TestCreateIsAnnouncedToTheShim, over its socket: the start action asks whether it will serve the container.
func TestCreateIsAnnouncedToTheShim(t *testing.T) {
	s, _, _ := newTestService(t)
	client := lifecyclev1.NewLaunchClient(dial(t, listen(t, s)))
	for _, accepted := range []bool{true, false} {
		got, err := client.Expect(t.Context(), &lifecyclev1.ExpectRequest{Id: "c1"})
		if err != nil || got.Accepted != accepted {
			t.Errorf("got %v, %v, want %t", got, err, accepted)
		}
		if s.ending.mu.Lock(); !s.ending.busy() {
			t.Error("the shim expects nothing")
		}
		s.ending.mu.Unlock()
		s.ending.close(t.Context())
	}
}
