package hookexec

import (
	"context"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// Sleep waits for the given time. 0 is valid.
type Sleep time.Duration

// Attempt implements Action.
func (s Sleep) Attempt(ctx context.Context) Result {
	if !wait(ctx, time.Duration(s)) {
		return Result{Outcome: lifecycle.Failed, Err: context.Cause(ctx), ExitCode: -1}
	}
	return Result{Outcome: lifecycle.Succeeded, ExitCode: -1}
}

var _ Action = Sleep(0)
