package shim

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestLog is docs/spec.md#log: a line at a handler's start and one at its end, and what went wrong.
func TestLog(t *testing.T) {
	lost := hookexec.Result{Outcome: lifecycle.Succeeded, LogErr: errExit3, LostLines: 2}
	cannot := func(lifecycle.Signal) error { return errKilled }
	for name, test := range map[string]struct {
		result   hookexec.Result
		onSignal func(lifecycle.Signal) error
		trial    bool
		want     string
	}{
		"it succeeds":             {result: succeeded, want: "info handler started, info handler ended, info signal sent"},
		"it fails":                {result: failedBad, want: "info handler started, info handler ended: exit status 3, info signal sent"},
		"lines are lost":          {result: lost, want: "info handler started, info handler ended, warning cannot log all output: lines of a handler's output are missing in the container's log: exit status 3, info signal sent"},
		"the signal is not sent":  {result: succeeded, onSignal: cannot, want: "info handler started, info handler ended, error cannot send the signal: the container may not stop: exit status 137"},
		"an operator's own trial": {result: succeeded, trial: true, want: "info handler started on trial, info handler ended on trial"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, test.result), onSignal: test.onSignal})
				w.c.block = &lifecyclev1.Block{PreStop: &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{}}}
				lines := w.logs()
				w.serve().mustStart()
				if test.trial {
					if _, err := w.c.try(t.Context(), "preStop"); err != nil {
						t.Fatal(err)
					}
				} else {
					w.kill(unix.SIGTERM)
				}
				pass(2 * second)
				if got := strings.Join(lines.All(), ", "); got != test.want {
					t.Errorf("logged\n%s, want\n%s", got, test.want)
				}
			})
		})
	}
}

// TestPanicsAreLogged, with where they were.
func TestPanicsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(second, succeeded)}).exitOnSignal()
		w.c.observer.handlersEnded = nil // a bug
		lines := w.logs()
		_ = w.serve().start(0).answered(t, second)
		synctest.Wait()
		if !slices.ContainsFunc(lines.All(), func(line string) bool {
			return strings.HasPrefix(line, "error cannot report the end of a handler: panic in it: ") && strings.Contains(line, "container.go:")
		}) {
			t.Errorf("logged %q", lines.All())
		}
	})
}

// logs returns where the container's log goes from now on.
func (w *world) logs() *shimtest.Lines {
	logger, lines := shimtest.NewLog()
	w.c.ctx = log.WithLogger(w.c.ctx, logger)
	return lines
}

// TestEventsOfARun: what subscribers get.
func TestEventsOfARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result := hookexec.Result{Outcome: lifecycle.Failed, Err: errExit3, ExitCode: 3}
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, result)})).serve().mustStart()
		if _, err := w.try("preStop"); err != nil {
			t.Fatal(err)
		}
		_ = w.publisher.Published() // waits
		code := int32(3)
		want := &lifecyclev1.HandlerFinished{
			ContainerId: "c1", Handler: "preStop", Type: "sleep", Trial: true, Attempts: 1, Took: durationpb.New(second),
			Result: "Failed", Message: "exit status 3", ExitCode: &code,
		}
		if got := w.publisher.Finished(); len(got) != 1 || !proto.Equal(got[0], want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		begun := &lifecyclev1.HandlerStarted{ContainerId: "c1", Handler: "preStop", Type: "sleep", Trial: true}
		if got := w.publisher.Started(); len(got) != 1 || !proto.Equal(got[0], begun) {
			t.Errorf("got  %v\nwant %v", got, begun)
		}
	})
}
