package shim

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestDeleteIsAnsweredWhenTheMachineKnows: until then a step of the container that was deleted may still come.
func TestDeleteIsAnsweredWhenTheMachineKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		w.exit()
		synctest.Wait()
		select {
		case <-w.c.deleted:
			t.Fatal("a Delete would not wait")
		default:
		}
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		if phase := w.c.status.Load().Phase; phase != lifecycle.Deleted {
			t.Errorf("the Delete is answered in phase %s", phase)
		}
	})
}

// TestPanicBesideAHandlerIsContained (SPEC 7.8): one in the shim's own work for it, not in the handler.
func TestPanicBesideAHandlerIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, postStart(0), &fakeHandlers{postStart: takes(second, succeeded)}).exitOnSignal()
		w.c.handlersEnded = nil
		err := w.serve().start(0).answered(t, second)
		if status.Code(err) != codes.Unknown || status.Convert(err).Message() != "postStart handler failed: internal error" {
			t.Errorf("got %v", err)
		}
		w.publisher.expect(t, "c1 postStart, c1 start, c1 exit")
	})
}

// TestEndOfTheLoopReleasesTheExit (SPEC 7.1): a loop that ends without onExit's end must not hold the container's.
func TestEndOfTheLoopReleasesTheExit(t *testing.T) {
	for name, test := range map[string]struct {
		panics bool
		want   string
	}{
		"the shim ends":   {false, "c1 start, c1 onExit, c1 Aborted, c1 exit"},
		"the loop panics": {true, "c1 start, c1 exit"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, outer(false, true), &fakeHandlers{onExit: hangs})
				if test.panics { // as it runs the handler
					w.c.ctx = panickyContext{w.c.ctx}
				}
				ctx, shutdown := context.WithCancel(t.Context())
				defer shutdown()
				go func() {
					defer close(w.loopEnded)
					w.c.loop(ctx)
				}()
				w.mustStart()
				waited := make(chan error, 1)
				go func() {
					_, err := w.service.Wait(context.Background(), &taskapi.WaitRequest{ID: "c1"})
					waited <- err
				}()
				w.exit()
				synctest.Wait()
				shutdown()
				if err := <-waited; err != nil {
					t.Error(err)
				}
				<-w.loopEnded
				if got := sortedEnd(w.publisher.published()); got != test.want {
					t.Errorf("published %q, want %q", got, test.want)
				}
				if w.handlers.closed != 1 {
					t.Errorf("the handlers were closed %d times", w.handlers.closed)
				}
			})
		})
	}
}

// sortedEnd puts the end of an aborted handler, which is in no order to the exit, before it.
func sortedEnd(published string) string {
	return strings.Replace(published, "c1 exit, c1 Aborted", "c1 Aborted, c1 exit", 1)
}

// TestAnsweredRequestsAreForgotten (SPEC 7.9): a container lives for years.
func TestAnsweredRequestsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		for range 100 {
			w.kill(unix.SIGHUP)
		}
		synctest.Wait()
		if len(w.c.waiting) > 0 {
			t.Errorf("%d requests are remembered", len(w.c.waiting))
		}
	})
}

// TestPanickingHandlerHasNoExitCode: 0 would be a success.
func TestPanickingHandlerHasNoExitCode(t *testing.T) {
	c := newContainer(t.Context(), "c1", preStop(0), &fakeHandlers{preStop: func(context.Context) hookexec.Result { panic("a bug") }})
	close(c.created)
	got := c.runHandler(t.Context(), &handlerRun{kind: lifecycle.PreStop}, lifecycle.Effect{})
	if got.Outcome != hookexec.Failed || got.ExitCode != -1 {
		t.Errorf("got %+v", got)
	}
}

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

// TestLog is SPEC 6: a line at a handler's start and one at its end, and what went wrong.
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
				logger := logrus.New()
				lines := &logLines{}
				logger.SetOutput(io.Discard)
				logger.AddHook(lines)
				w.c.ctx = log.WithLogger(w.c.ctx, logrus.NewEntry(logger))
				w.serve().mustStart()
				if test.trial {
					if _, err := w.c.try(t.Context(), "preStop"); err != nil {
						t.Fatal(err)
					}
				} else {
					w.kill(unix.SIGTERM)
				}
				pass(2 * second)
				if got := strings.Join(lines.all, ", "); got != test.want {
					t.Errorf("logged\n%s, want\n%s", got, test.want)
				}
			})
		})
	}
}

// logLines are those that say what has happened, but for the reasons of the machine.
type logLines struct{ all []string }

func (l *logLines) Levels() []logrus.Level { return logrus.AllLevels }

func (l *logLines) Fire(entry *logrus.Entry) error {
	if entry.Level > logrus.InfoLevel {
		return nil
	}
	line := entry.Level.String() + " " + entry.Message
	if entry.Data["trial"] == true {
		line += " on trial"
	}
	if err, ok := entry.Data[logrus.ErrorKey].(error); ok {
		line += ": " + err.Error()
	}
	l.all = append(l.all, line)
	return nil
}

// TestKillsAreNoted: without its own a SIGKILL may be the kernel's, for want of memory, as LIFECYCLE_RESULT tells.
func TestKillsAreNoted(t *testing.T) {
	for name, test := range map[string]struct {
		grace lifecycle.Config
		want  bool
	}{
		"the stop signal":                    {preStop(0), false},
		"SIGKILL at the end of a grace time": {lifecycle.Config{PreStop: &lifecycle.Handler{}, GracePeriod: 5 * second}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.grace, &fakeHandlers{preStop: takes(second, succeeded)}).serve().mustStart()
				w.kill(unix.SIGTERM)
				pass(2 * second)
				if w.c.killed.Load() {
					t.Error("a SIGTERM is taken for a SIGKILL")
				}
				pass(20 * second)
				if got := w.c.killed.Load(); got != test.want {
					t.Errorf("got %t", got)
				}
			})
		})
	}
}
