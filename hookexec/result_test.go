package hookexec

import (
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestMessage: docs/spec.md#results.
func TestMessage(t *testing.T) {
	exit := &exitError{status: 3}
	for want, result := range map[string]Result{
		"succeeded":                              {},
		"succeeded: done":                        {Output: "done\n", Attempts: 1},
		"succeeded (attempt 3)":                  {Attempts: 3},
		"exit status 3":                          {Outcome: lifecycle.Failed, Err: exit},
		"exit status 3: boom":                    {Outcome: lifecycle.Failed, Err: exit, Output: "\n boom \n\n"},
		"exit status 3: two\nlines":              {Outcome: lifecycle.Failed, Err: exit, Output: "two\nlines\n"},
		"exit status 3 (attempt 2): boom":        {Outcome: lifecycle.Failed, Err: exit, Output: "boom", Attempts: 2},
		"exit status 3: [12 bytes dropped] boom": {Outcome: lifecycle.Failed, Err: exit, Output: "boom", Dropped: 12},
		"timed out":                              {Outcome: lifecycle.TimedOut, Err: ErrTimedOut},
		"container exited":                       {Outcome: lifecycle.Aborted, Err: ErrContainerExited, Output: " \n"},
	} {
		if got := result.Message(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
