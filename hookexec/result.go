package hookexec

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// ErrTimedOut as the cause of a cancelled context makes the outcome TimedOut.
var ErrTimedOut = errors.New("timed out")

// ErrContainerExited is the error of a handler that ended because its container exited,
// even if the kernel killed the handler before the shim did.
var ErrContainerExited = errors.New("container exited")

// Result is the result of an attempt or of a run.
type Result struct {
	Outcome lifecycle.Outcome
	// Err is nil for Succeeded. For Aborted it is the cause of the cancellation.
	Err error
	// ExitCode is the exit status of an exec handler's process, or 128 plus the signal's
	// number if a signal killed it: the reaper does not distinguish them. It is -1 if there
	// was no process.
	ExitCode int
	// Output is the tail of stdout and stderr together, and Dropped is how many bytes came
	// before it.
	Output  string
	Dropped int64
	// LostLines is how many lines of the output did not reach the Log, because of LogErr.
	LostLines int64
	LogErr    error
	// Attempts is how many attempts were begun.
	Attempts int
}

// Message returns the result as text: the error, then the tail of the output.
func (r *Result) Message() string {
	text := "succeeded"
	if r.Err != nil {
		text = r.Err.Error()
	}
	if r.Attempts > 1 {
		text = fmt.Sprintf("%s (attempt %d)", text, r.Attempts)
	}
	output := strings.TrimSpace(r.Output)
	if r.Dropped > 0 {
		output = strings.TrimSpace(fmt.Sprintf("[%d bytes dropped] %s", r.Dropped, output))
	}
	if output != "" {
		text += ": " + output
	}
	return text
}

// exitError reports an exit status other than 0.
type exitError struct{ status int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// printable makes output safe for an error message, which must be UTF-8 and may be shown
// on a terminal.
func printable(output []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return utf8.RuneError
	}, strings.ToValidUTF8(string(output), string(utf8.RuneError)))
}
