package harness

import (
	"context"
	"fmt"
	"time"
)

// pollEvery is how often a condition is looked at. Most of what is waited for takes tens of
// milliseconds; a look costs well under one.
const pollEvery = 10 * time.Millisecond

// Poll looks at done until it is true, fails, or limit (counted from the call) has passed. It is the only
// place that waits by the clock, and only for things that cannot be waited for otherwise: another
// program's readiness, or the kernel's tidying up. what completes the sentence "waiting for …".
func Poll(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: gave up after %v: %w", what, limit, context.Cause(ctx))
		}
	}
}
