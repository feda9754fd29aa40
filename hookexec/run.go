package hookexec

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// Action is what a handler does. Attempt does it once. When ctx is cancelled, it kills what
// it started, waits for its exit, and returns.
type Action interface {
	Attempt(ctx context.Context) Result
}

// Run is one execution of a handler, with its retries.
type Run struct {
	Action Action
	// RetryPeriod is the time from the end of a failed attempt to the next one; 0 means no
	// retry.
	RetryPeriod time.Duration
	// Exited is Init.Ended. It is called after a failed attempt, because the container's exit
	// looks like a failure.
	Exited func(context.Context) bool
	// Progress is updated during the run.
	Progress *Progress
}

// Do makes attempts until one succeeds, until one fails and there is no retry, until the
// container exits, or until ctx is cancelled.
func (r *Run) Do(ctx context.Context) Result {
	var failure error // of the attempt before
	for attempt := 1; ; attempt++ {
		r.Progress.begin(attempt)
		result := r.Action.Attempt(ctx)
		result.Attempts = attempt
		if result.Outcome == lifecycle.Failed && r.Exited(ctx) {
			result.Outcome, result.Err = lifecycle.Aborted, ErrContainerExited
		}
		if result.Outcome != lifecycle.Failed || r.RetryPeriod == 0 || ctx.Err() != nil {
			return judge(ctx, result, failure)
		}
		failure = result.Err
		if !wait(ctx, r.RetryPeriod) {
			return judge(ctx, result, failure)
		}
	}
}

// NotBegun returns the result of a handler whose context ended before its first attempt.
func NotBegun(ctx context.Context) Result {
	return judge(ctx, Result{Outcome: lifecycle.Failed, ExitCode: -1}, nil)
}

// judge changes a failure into TimedOut or Aborted if ctx was cancelled, because a killed
// handler looks like a failed one. The error includes the failure that caused the retries.
func judge(ctx context.Context, result Result, failure error) Result {
	cause := context.Cause(ctx)
	if result.Outcome != lifecycle.Failed || cause == nil {
		return result
	}
	result.Outcome, result.Err = lifecycle.Aborted, cause
	if errors.Is(cause, ErrTimedOut) {
		result.Outcome = lifecycle.TimedOut
	}
	if failure != nil {
		result.Err = fmt.Errorf("%w, the last failure was: %w", cause, failure)
	}
	return result
}

// wait returns false if ctx is cancelled first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
