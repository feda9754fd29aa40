package shim

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/launch"
)

// wantShutdowns checks how often the runc service was asked for a Shutdown.
func (w *endWorld) wantShutdowns(want int, when string) {
	w.t.Helper()
	if got := len(w.inner.Asked("Shutdown")); got != want {
		w.t.Errorf("%d Shutdowns %s, want %d", got, when, want)
	}
}

// A Shutdown is made up for once, and not at all when the shim has ended.
func TestShutdownIsMadeUpForOnce(t *testing.T) {
	inEndWorld(t, func(_ *testing.T, w *endWorld) {
		w.containers["first"] = true
		w.ending.end()
		w.wantShutdowns(1, "at the end of a timer")
		w.delete("other")
		w.wantShutdowns(1, "after it")
		w.delete("first")
		w.ending.end()
		w.wantEnded(true, "without containers")
		w.ending.end()
		w.wantShutdowns(2, "after the end")
	})
}

// A Create that was announced and has failed is not waited for any more.
func TestExpectedCreateFails(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, errors.New("runc failed") }
		w.ending.expect("c1")
		if _, err := w.service.Create(t.Context(), w.request("c1")); err == nil {
			t.Fatal("no error")
		}
		w.shutdown("c1")
		w.wantEnded(true, "after the only Create has failed")
	})
}

// A container that was created asks for no Shutdown, neither when its announcement would have been given up nor at a later Delete.
func TestExpectedContainerAsksForNoShutdown(t *testing.T) {
	inEndWorld(t, func(t *testing.T, w *endWorld) {
		w.ending.expect("c1")
		answer := w.createLater(t.Context(), "c1")
		w.shutdown("c0") // is put off
		close(w.create)
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		w.delete("other")
		pass(time.Hour)
		w.wantShutdowns(0, "of a pod that runs")
	})
}

// A Create that is announced anew is waited for anew, whatever becomes of the first announcement.
func TestAnnouncedAnew(t *testing.T) {
	inEndWorld(t, func(_ *testing.T, w *endWorld) {
		w.ending.expect("c1")
		pass(expectWait / 2)
		w.ending.expect("c1")
		pass(expectWait/2 + time.Second)
		w.ending.deleted("c1")
		w.wantEnded(false, "before containerd asks for it")
		w.shutdown("c1")
		w.wantEnded(true, "when containerd asks for it")
	})
	inEndWorld(t, func(_ *testing.T, w *endWorld) { // the first one's timer has fired just before
		w.ending.expect("c1")
		w.ending.giveUpExpected("c1", &expectation{})
		w.wantEnded(false, "although a Create is expected")
	})
}

func TestNewEndingHasItsSockets(t *testing.T) {
	if e := newEnding(nil, make(launch.Sockets, 2)); len(e.sockets) != 2 {
		t.Errorf("it has %d", len(e.sockets))
	}
}
