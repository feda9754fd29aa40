package hookexec

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// attempts is an action that returns these results, one per attempt, at once.
type attempts struct {
	results []Result
	at      []time.Duration // when each began
	began   time.Time
}

func (a *attempts) Attempt(context.Context) Result {
	a.at = append(a.at, time.Since(a.began))
	return a.results[min(len(a.at), len(a.results))-1]
}

// untilCancelled is an action like a process that hangs: it fails when it is killed.
type untilCancelled struct{}

// run runs a handler of a container that does not exit.
func run(ctx context.Context, action Action, retryPeriod time.Duration) Result {
	run := Run{Action: action, RetryPeriod: retryPeriod, Exited: func(context.Context) bool { return false }, Progress: &Progress{}}
	return run.Do(ctx)
}

var errKilled = errors.New("exit status 137")

func (untilCancelled) Attempt(ctx context.Context) Result {
	<-ctx.Done()
	return Result{Outcome: lifecycle.Failed, Err: errKilled, ExitCode: 137, Output: "said before"}
}

func TestRunTriesAgainUntilItSucceeds(t *testing.T) {
	failure := Result{Outcome: lifecycle.Failed, Err: errKilled}
	for name, test := range map[string]struct {
		results  []Result
		period   time.Duration
		outcome  lifecycle.Outcome
		attempts int
		took     time.Duration
	}{
		"a success":                 {[]Result{{}}, 0, lifecycle.Succeeded, 1, 0},
		"a success needs no retry":  {[]Result{{}}, time.Second, lifecycle.Succeeded, 1, 0},
		"a failure without a retry": {[]Result{failure, {}}, 0, lifecycle.Failed, 1, 0},
		"the second succeeds":       {[]Result{failure, {}}, time.Second, lifecycle.Succeeded, 2, time.Second},
		"the fourth succeeds":       {[]Result{failure, failure, failure, {}}, 2 * time.Second, lifecycle.Succeeded, 4, 6 * time.Second},
		"an abort is not retried":   {[]Result{{Outcome: lifecycle.Aborted, Err: ErrContainerExited}, {}}, time.Second, lifecycle.Aborted, 1, 0},
		"a timeout is not retried":  {[]Result{{Outcome: lifecycle.TimedOut, Err: ErrTimedOut}, {}}, time.Second, lifecycle.TimedOut, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				action := &attempts{results: test.results, began: time.Now()}
				progress := &Progress{}
				handler := Run{Action: action, RetryPeriod: test.period, Exited: func(context.Context) bool { return false }, Progress: progress}
				result := handler.Do(t.Context())
				if begun, _, _ := progress.Look(); begun != test.attempts {
					t.Errorf("Progress shows %d attempts", begun)
				}
				if result.Outcome != test.outcome || result.Attempts != test.attempts || len(action.at) != test.attempts {
					t.Errorf("got %+v after attempts at %v", result, action.at)
				}
				if took := time.Since(action.began); took != test.took {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// TestRunIsEndedByItsContext: the cause decides between TimedOut and Aborted.
func TestRunIsEndedByItsContext(t *testing.T) {
	killed := errors.New("container killed")
	for name, test := range map[string]struct {
		cause   error
		outcome lifecycle.Outcome
		err     error // the result's, as errors.Is finds it
	}{
		"timed out":            {ErrTimedOut, lifecycle.TimedOut, ErrTimedOut},
		"timed out, wrapped":   {fmt.Errorf("%w after 5s", ErrTimedOut), lifecycle.TimedOut, ErrTimedOut},
		"the container exited": {ErrContainerExited, lifecycle.Aborted, ErrContainerExited},
		"another cause":        {killed, lifecycle.Aborted, killed},
		"no cause":             {nil, lifecycle.Aborted, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(5*time.Second, func() { cancel(test.cause) })
				result := run(ctx, untilCancelled{}, time.Second)
				if result.Outcome != test.outcome || !errors.Is(result.Err, test.err) || errors.Is(result.Err, errKilled) {
					t.Errorf("got %+v", result)
				}
				if result.ExitCode != 137 || result.Output != "said before" || result.Attempts != 1 {
					t.Errorf("got %+v", result)
				}
				if want := context.Cause(ctx).Error() + ": said before"; result.Message() != want { // no earlier failure
					t.Errorf("got %q, want %q", result.Message(), want)
				}
			})
		})
	}
}

func TestRunIsEndedBetweenTwoAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		action := &attempts{results: []Result{{Outcome: lifecycle.Failed, Err: errKilled}}, began: time.Now()}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5500*time.Millisecond, func() { cancel(ErrTimedOut) })
		result := run(ctx, action, 2*time.Second)
		if result.Outcome != lifecycle.TimedOut || result.Attempts != 3 || !errors.Is(result.Err, ErrTimedOut) {
			t.Errorf("got %+v", result)
		}
		if want := "timed out, the last failure was: exit status 137 (attempt 3)"; result.Message() != want {
			t.Errorf("got %q, want %q", result.Message(), want)
		}
		if took := time.Since(action.began); took != 5500*time.Millisecond {
			t.Errorf("it took %s", took)
		}
	})
}

// TestSuccessStandsAlthoughTheTimeIsUp: the handler had ended before it was killed.
func TestSuccessStandsAlthoughTheTimeIsUp(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrTimedOut)
	if result := run(ctx, &attempts{results: []Result{{}}}, 0); result.Outcome != lifecycle.Succeeded || result.Err != nil {
		t.Errorf("got %+v", result)
	}
}

// TestExitIsNoFailure: a failure that the container's exit caused is not retried.
func TestExitIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		action := &attempts{results: []Result{{Outcome: lifecycle.Failed, Err: errKilled}}, began: time.Now()}
		run := Run{
			Action: action, RetryPeriod: time.Second, Progress: &Progress{},
			Exited: func(context.Context) bool { return len(action.at) == 2 },
		}
		result := run.Do(t.Context())
		if result.Outcome != lifecycle.Aborted || !errors.Is(result.Err, ErrContainerExited) || result.Attempts != 2 {
			t.Errorf("got %+v", result)
		}
	})
}

// TestSuccessStandsAlthoughTheContainerExits: Exited is not called after a success.
func TestSuccessStandsAlthoughTheContainerExits(t *testing.T) {
	run := Run{Action: &attempts{results: []Result{{}}}, Progress: &Progress{}, Exited: func(context.Context) bool { return true }}
	if result := run.Do(t.Context()); result.Outcome != lifecycle.Succeeded || result.Err != nil {
		t.Errorf("got %+v", result)
	}
}

func TestNotBegun(t *testing.T) {
	for cause, want := range map[error]lifecycle.Outcome{ErrTimedOut: lifecycle.TimedOut, ErrContainerExited: lifecycle.Aborted} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		result := NotBegun(ctx)
		if result.Outcome != want || !errors.Is(result.Err, cause) || result.ExitCode != -1 || result.Attempts != 0 || result.Message() != cause.Error() {
			t.Errorf("got %+v", result)
		}
	}
}

func TestSleep(t *testing.T) {
	for name, test := range map[string]struct {
		sleep, cancelAfter time.Duration // 0: it is not cancelled
		outcome            lifecycle.Outcome
		took               time.Duration
	}{
		"a while":          {5 * time.Second, 0, lifecycle.Succeeded, 5 * time.Second},
		"not at all":       {0, 0, lifecycle.Succeeded, 0},
		"a container ends": {time.Hour, 3 * time.Second, lifecycle.Aborted, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if test.cancelAfter > 0 {
					time.AfterFunc(test.cancelAfter, func() { cancel(ErrContainerExited) })
				}
				began := time.Now()
				result := run(ctx, Sleep(test.sleep), 0)
				if took := time.Since(began); result.Outcome != test.outcome || took != test.took || result.ExitCode != -1 {
					t.Errorf("got %+v after %s", result, took)
				}
			})
		})
	}
}
