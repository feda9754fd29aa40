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

// Run runs the handler until it has succeeded, until it has failed and is not
// to be retried, until the container has exited, or until ctx is cancelled. A
// retry follows retryPeriod after a failed attempt; 0 means one attempt.
// exited is Init.Ended: it is asked after a failure, which an exit may look
// like.
func Run(ctx context.Context, action Action, retryPeriod time.Duration, exited func(context.Context) bool) Result {
	var failure error // of the attempt before
	for attempt := 1; ; attempt++ {
		result := action.Attempt(ctx)
		result.Attempts = attempt
		if result.Outcome == Failed && exited(ctx) {
			result.Outcome, result.Err = Aborted, ErrContainerExited
		}
		if result.Outcome != Failed || retryPeriod == 0 || ctx.Err() != nil {
			return judge(ctx, result, failure)
		}
		failure = result.Err
		if !wait(ctx, retryPeriod) {
			return judge(ctx, result, failure)
		}
	}
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
