package shim

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// trialHandlers notes the signal that a handler gets.
type trialHandlers struct {
	fakeHandlers
	told []lifecycle.Signal
}

func (h *trialHandlers) Run(_ context.Context, run runner.Run) hookexec.Result {
	if !run.Trial {
		return hookexec.Result{Outcome: lifecycle.Failed}
	}
	h.told = append(h.told, run.Effect.Signal)
	return succeeded
}

// TestPreStopOnTrialIsToldTheStopSignal: the block's, else SIGTERM.
func TestPreStopOnTrialIsToldTheStopSignal(t *testing.T) {
	for block, want := range map[uint32]uint32{0: 15, 3: 3} {
		synctest.Test(t, func(t *testing.T) {
			handlers := &trialHandlers{}
			w := newWorld(t, lifecycle.Config{PreStop: &lifecycle.Handler{}, StopSignal: block}, &handlers.fakeHandlers)
			w.c.handlers, w.c.block = handlers, &lifecyclev1.Block{PreStop: &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{}}}
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

// TestTrial: it runs, is reported, and changes nothing.
//
// See docs/spec.md#trial.
func TestTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(3*second, failedBad)})).exitOnSignal().serve().mustStart()
		run, err := w.try("preStop")
		if err != nil || !run.Trial || run.Result != "Failed" || run.GetExitCode() != 3 || run.Took.AsDuration() != 3*second {
			t.Errorf("got %v, %v", run, err)
		}
		if got := w.told(t); got.Phase != "Running" || len(got.Runs) != 1 || !got.Runs[0].Trial {
			t.Errorf("got %v", got)
		}
		w.handlers.expect(t, []string{"preStop Failed"}, nil)
		w.kill(unix.SIGTERM) // the real one runs all the same
		pass(4 * second)
		w.handlers.expect(t, []string{"preStop Failed", "preStop Failed"}, []string{"15 at 6s"})
		w.publisher.Expect(t, "c1 start, c1 preStop, c1 Failed, c1 preStop, c1 Failed, c1 exit")
	})
}

// TestTrialIsWithinTheOperatorsLimit: docs/spec.md#operator-limits-unset. A sleep is at most as long anyway.
func TestTrialIsWithinTheOperatorsLimit(t *testing.T) {
	for name, test := range map[string]struct {
		handler *lifecyclev1.Handler
		most    time.Duration
		want    time.Duration
		owner   string
	}{
		"no limit": {&lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{}}, 0, 2 * time.Minute, "DefaultPostStartTimeout"},
		"a limit":  {&lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{}}, 5 * second, 5 * second, "MaxTimeout"},
		"its own":  {&lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{}, TimeoutSeconds: new(int64(4))}, 5 * second, 4 * second, "timeoutSeconds"},
		"a sleep":  {&lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{Seconds: 5}}, 5 * second, 2 * time.Minute, "DefaultPostStartTimeout"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, lifecycle.Config{PreStop: &lifecycle.Handler{}}, &fakeHandlers{preStop: takes(second, succeeded)})
				w.c.block, w.c.trialLimit, w.c.trialMost = &lifecyclev1.Block{PreStop: test.handler}, 2*time.Minute, test.most
				w.serve().mustStart()
				run, err := w.c.try(t.Context(), "preStop")
				if err != nil || run.limit.Sub(run.began) != test.want || run.limitOwner.String() != test.owner {
					t.Errorf("got %+v, %v", run, err)
				}
			})
		})
	}
}

func TestTrialIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(w *world)
		handler string
		code    codes.Code
	}{
		"before the start":       {func(*world) {}, "preStop", codes.FailedPrecondition},
		"while postStart runs":   {func(w *world) { w.start(0) }, "preStop", codes.FailedPrecondition},
		"no such handler":        {func(w *world) { w.mustStart() }, "onExit", codes.NotFound},
		"a handler without name": {func(w *world) { w.mustStart() }, "", codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := bothHandlers()
				if test.code == codes.NotFound {
					config.PostStart = nil
				}
				w := both(newWorld(t, config, &fakeHandlers{postStart: hangs, preStop: hangs})).serve()
				test.prepare(w)
				synctest.Wait()
				if _, err := w.try(test.handler); status.Code(err) != test.code {
					t.Errorf("got %v, want %s", err, test.code)
				}
			})
		})
	}
	t.Run("a second one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, succeeded)})).serve().mustStart()
			go func() { _, _ = w.try("preStop") }() // its end is not what this is about
			synctest.Wait()
			if _, err := w.try("preStop"); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("got %v", err)
			}
		})
	})
}

// TestTrialMakesWay for what really happens to the container.
func TestTrialMakesWay(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(w *world)
		because error
		after   time.Duration
	}{
		"for a stop":               {func(w *world) { w.kill(unix.SIGTERM) }, errHandlerDue, second},
		"for the container's exit": {func(w *world) { w.exit() }, hookexec.ErrContainerExited, second},
		"when its time is up":      {func(*world) {}, hookexec.ErrTimedOut, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: func(ctx context.Context) hookexec.Result {
					if !first {
						return succeeded
					}
					first = false
					return hangs(ctx)
				}})).serve().mustStart()
				began := time.Now()
				ended := make(chan *lifecyclev1.HandlerRun, 1)
				go func() {
					run, _ := w.try("preStop")
					ended <- run
				}()
				pass(second)
				test.happens(w)
				run := <-ended
				if took := time.Since(began); run.Error == "" || !strings.Contains(run.Error, test.because.Error()) || took != test.after {
					t.Errorf("after %s: %v", took, run)
				}
			})
		})
	}
	t.Run("for an operator who goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})).serve().mustStart()
			ctx, goes := context.WithCancel(t.Context())
			time.AfterFunc(second, goes)
			run, err := w.c.try(ctx, "preStop")
			if err != nil || !errors.Is(run.result.Err, context.Canceled) {
				t.Errorf("got %v, %v", run, err)
			}
		})
	})
}

// TestTrialsAreForgotten: what can be repeated for ever is not kept for ever.
func TestTrialsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, bothHandlers(), &fakeHandlers{postStart: takes(0, succeeded), preStop: takes(second, succeeded)})).serve().mustStart()
		for range 3 * keptTrials {
			if _, err := w.try("preStop"); err != nil {
				t.Fatal(err)
			}
		}
		runs := w.told(t).Runs
		if len(runs) != 1+keptTrials || runs[0].Trial || !runs[1].Trial {
			t.Errorf("got %v", runs)
		}
	})
}
