package hookexec

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Action is what a handler does. Attempt does it once; when ctx is cancelled it
// ends as soon as what it has started has ended.
type Action interface {
	Attempt(ctx context.Context) Result
}

// Run is one execution of a handler, with its retries.
type Run struct {
	Action Action
	// RetryPeriod is from a failed attempt to the next one; 0: one attempt.
	RetryPeriod time.Duration
	// Exited is Init.Ended: it is asked after a failure, which an exit may look
	// like.
	Exited func(context.Context) bool
	// Progress is kept up to date.
	Progress *Progress
}

// Do runs the handler until it has succeeded, until it has failed and is not
// to be retried, until the container has exited, or until ctx is cancelled.
func (r *Run) Do(ctx context.Context) Result {
	var failure error // of the attempt before
	for attempt := 1; ; attempt++ {
		r.Progress.begin(attempt)
		result := r.Action.Attempt(ctx)
		result.Attempts = attempt
		if result.Outcome == Failed && r.Exited(ctx) {
			result.Outcome, result.Err = Aborted, ErrContainerExited
		}
		if result.Outcome != Failed || r.RetryPeriod == 0 || ctx.Err() != nil {
			return judge(ctx, result, failure)
		}
		failure = result.Err
		if !wait(ctx, r.RetryPeriod) {
			return judge(ctx, result, failure)
		}
	}
}

// NotBegun is what a handler comes to that ctx has ended before it could begin.
func NotBegun(ctx context.Context) Result {
	return judge(ctx, Result{Outcome: Failed, ExitCode: -1}, nil)
}

// judge tells a failure from a forced end, which looks like one. A forced end
// of retries also says why they were needed.
func judge(ctx context.Context, result Result, failure error) Result {
	cause := context.Cause(ctx)
	if result.Outcome != Failed || cause == nil {
		return result
	}
	result.Outcome, result.Err = Aborted, cause
	if errors.Is(cause, ErrTimedOut) {
		result.Outcome = TimedOut
	}
	if failure != nil {
		result.Err = fmt.Errorf("%w, the last failure was: %w", cause, failure)
	}
	return result
}

// wait returns false where ctx was cancelled first.
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
