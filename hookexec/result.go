package hookexec

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrTimedOut as the cause of a cancelled context ends a handler as TimedOut.
var ErrTimedOut = errors.New("timed out")

// ErrContainerExited is the cause of a handler's end with its container's, also
// where the kernel was faster than the shim to end it.
var ErrContainerExited = errors.New("container exited")

// Outcome is how a handler ended.
type Outcome uint8

// The four ways in which a handler ends (docs/spec.md#results).
const (
	Succeeded Outcome = iota
	Failed
	TimedOut
	Aborted
)

// Result is a handler's end.
type Result struct {
	Outcome Outcome
	// Err says why it did not succeed, nil for Succeeded. For Aborted it is the
	// cause of the cancellation.
	Err error
	// ExitCode of an exec handler's process that ended by itself; 128 plus the
	// signal's number where a signal ended it, which is all that the shim's
	// reaper knows. -1 where there is none.
	ExitCode int
	// Output is the last part of stdout and stderr together, and Dropped the
	// number of bytes before it.
	Output  string
	Dropped int64
	// LostLines of the output did not reach its Log, because of LogErr.
	LostLines int64
	LogErr    error
	// Attempts that were begun.
	Attempts int
}

// Message is the result in words: one line why, then the last output.
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

// exitError is a process that ended without success.
type exitError struct{ status int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// printable makes a handler's bytes fit for an error message, which is UTF-8
// and may end up on a terminal.
func printable(output []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return utf8.RuneError
	}, strings.ToValidUTF8(string(output), string(utf8.RuneError)))
}
