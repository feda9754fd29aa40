package hookexec

import (
	"context"
	"errors"
	"time"
)

// Action is what a handler does. Attempt does it once; when ctx is cancelled it
// ends as soon as what it has started has ended.
type Action interface {
	Attempt(ctx context.Context) Result
}

// Run runs the handler until it has succeeded, until it has failed and is not
// to be retried, or until ctx is cancelled. A retry follows retryPeriod after a
// failed attempt; 0 means one attempt.
func Run(ctx context.Context, action Action, retryPeriod time.Duration) Result {
	for attempt := 1; ; attempt++ {
		result := action.Attempt(ctx)
		result.Attempts = attempt
		if result.Outcome != Failed || retryPeriod == 0 || !wait(ctx, retryPeriod) {
			return judge(ctx, result)
		}
	}
}

// judge tells a failure from a forced end, which looks like one.
func judge(ctx context.Context, result Result) Result {
	cause := context.Cause(ctx)
	if result.Outcome != Failed || cause == nil {
		return result
	}
	result.Outcome, result.Err = Aborted, cause
	if errors.Is(cause, ErrTimedOut) {
		result.Outcome = TimedOut
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
