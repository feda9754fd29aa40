package shim

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// trialHandlers notes the signal that a handler is told.
type trialHandlers struct {
	fakeHandlers
	told []lifecycle.Signal
}

func (h *trialHandlers) run(_ context.Context, _ lifecycle.Kind, effect lifecycle.Effect, _ *hookexec.Progress) hookexec.Result {
	h.told = append(h.told, effect.Signal)
	return succeeded
}

// TestPreStopOnTrialIsToldTheStopSignal: the block's, else SIGTERM.
func TestPreStopOnTrialIsToldTheStopSignal(t *testing.T) {
	for block, want := range map[uint32]uint32{0: 15, 3: 3} {
		synctest.Test(t, func(t *testing.T) {
			handlers := &trialHandlers{}
			w := newWorld(t, lifecycle.Config{PreStop: &lifecycle.Handler{}, StopSignal: block}, &handlers.fakeHandlers)
			w.c.handlers, w.c.block = handlers, &lifecyclev1.Block{PreStop: sleepHandler()}
			w.serve().mustStart()
			if _, err := w.c.try(t.Context(), "preStop"); err != nil {
				t.Fatal(err)
			}
			if len(handlers.told) != 1 || handlers.told[0].Number != want {
				t.Errorf("block %d: told %v", block, handlers.told)
			}
		})
	}
}

// TestLog is docs/spec.md#log: a line at a handler's start and one at its end, and what went wrong.
func TestLog(t *testing.T) {
	lost := hookexec.Result{Outcome: hookexec.Succeeded, LogErr: errExit3, LostLines: 2}
	cannot := func(lifecycle.Signal) error { return errKilled }
	for name, test := range map[string]struct {
		result   hookexec.Result
		onSignal func(lifecycle.Signal) error
		trial    bool
		want     string
	}{
		"it succeeds":             {result: succeeded, want: "info handler started, info handler ended, info signal sent"},
		"it fails":                {result: failedBad, want: "info handler started, info handler ended: exit status 3, info signal sent"},
		"lines are lost":          {result: lost, want: "info handler started, info handler ended, warning lines of a handler's output are missing in the container's log: exit status 3, info signal sent"},
		"the signal is not sent":  {result: succeeded, onSignal: cannot, want: "info handler started, info handler ended, error send the signal: exit status 137"},
		"an operator's own trial": {result: succeeded, trial: true, want: "info handler started on trial, info handler ended on trial"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, test.result), onSignal: test.onSignal})
				w.c.block = &lifecyclev1.Block{PreStop: sleepHandler()}
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
		w.c.handlersEnded = nil // a bug
		lines := w.logs()
		_ = w.serve().start(0).answered(t, second)
		synctest.Wait()
		if !slices.ContainsFunc(lines.All(), func(line string) bool {
			return strings.HasPrefix(line, "error panic in the running of a handler: ") && strings.Contains(line, "container.go:")
		}) {
			t.Errorf("logged %q", lines.All())
		}
	})
}

// TestUnknownEndIsLogged: what onExit is told is a guess then.
func TestUnknownEndIsLogged(t *testing.T) {
	nothing, err := os.Open(os.DevNull) // knows of no process
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	for _, failure := range []error{nil, errors.New("no answer")} {
		logger, lines := shimtest.NewLog()
		inner := shimtest.NewTask()
		inner.Answer["State"] = func(context.Context, any) (any, error) { return nil, failure }
		r := &runner{pidfd: int(nothing.Fd()), inner: inner, id: "c1"}
		r.end(log.WithLogger(t.Context(), logger), false)
		if got := len(lines.All()) == 1; got != (failure != nil) {
			t.Errorf("%v: logged %q", failure, lines.All())
		}
	}
}

// TestLeftoverOfAnOnExitIsLogged, and changes nothing of its result.
func TestLeftoverOfAnOnExitIsLogged(t *testing.T) {
	host := newFakeHost(t)
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{OnExit: execHandler("x")})
	r.mustPrepare(t)
	host.refuse("still mounted")
	lines := &shimtest.Lines{}
	old := log.L.Logger.ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: []logrus.Hook{lines}})
	defer log.L.Logger.ReplaceHooks(old)
	result := r.run(t.Context(), lifecycle.OnExit, lifecycle.Effect{Kind: lifecycle.RunHandler}, &hookexec.Progress{})
	if result.Err == nil || result.Err.Error() != "cannot start: start 1" {
		t.Errorf("got %v", result.Err)
	}
	if len(lines.All()) != 1 || !strings.Contains(lines.All()[0], "still mounted") {
		t.Errorf("logged %q", lines.All())
	}
}

// logs returns where the container's log goes from now on.
func (w *world) logs() *shimtest.Lines {
	logger, lines := shimtest.NewLog()
	w.c.ctx = log.WithLogger(w.c.ctx, logger)
	return lines
}
