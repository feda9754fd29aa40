package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// HandlerError says why a container's handlers cannot run here. Nothing was done for the
// container, or it has been undone.
type HandlerError struct{ Err error }

func (e *HandlerError) Error() string { return "lifecycle handlers: " + e.Err.Error() }

func (e *HandlerError) Unwrap() error { return e.Err }

// existsError: a container of that id has handlers already.
type existsError struct{ id string }

func (e *existsError) Error() string { return fmt.Sprintf("task %q already exists", e.id) }

// endingError: a Create came after the end of the shim was decided.
type endingError struct{ id string }

func (e *endingError) Error() string {
	return fmt.Sprintf("cannot create container %q: its group's shim is ending; create it again, and another shim is started", e.id)
}

// notFoundError: nothing has that name.
type notFoundError struct{ text string }

func (e *notFoundError) Error() string { return e.text }

// notRunningError: the request needs a container that is running, and without a running
// handler.
type notRunningError struct{ text string }

func (e *notRunningError) Error() string { return e.text }

// waitError: the client of a Wait has disconnected, or its deadline has passed.
type waitError struct{ err error }

func (e *waitError) Error() string { return "wait for onExit: " + e.err.Error() }

func (e *waitError) Unwrap() error { return e.err }

// toGRPC is the only place that knows gRPC codes. Errors that are not ours stay as they are:
// the errors of the runc service have their codes already, or get them from the ttrpc
// server, as under the stock shim. A failed postStart is Unknown, as a failed runc start
// is, because clients prefix the message with the name of every other code.
func toGRPC(err error) error {
	code := codeOf(err)
	if code == codes.OK {
		return err
	}
	return status.Error(code, err.Error())
}

// codeOf returns OK for an error that is not ours.
func codeOf(err error) codes.Code {
	var (
		invalid  *oci.InvalidError
		option   *options.Error
		handler  *HandlerError
		start    *lifecycle.StartError
		panicked *panicError
		exists   *existsError
		ending   *endingError
		notFound *notFoundError
		not      *notRunningError
		refused  *lifecycle.RefusedError
		waited   *waitError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && errors.As(err, &waited):
		return codes.DeadlineExceeded
	case errors.As(err, &waited):
		return codes.Canceled
	case errors.As(err, &invalid), errors.As(err, &option):
		return codes.InvalidArgument
	case errors.As(err, &handler), errors.As(err, &not), errors.As(err, &refused):
		return codes.FailedPrecondition
	case errors.As(err, &notFound):
		return codes.NotFound
	case errors.As(err, &start) && start.Cause != lifecycle.NoCause:
		return codes.Aborted
	case errors.As(err, &start):
		return codes.Unknown
	case errors.As(err, &exists):
		return codes.AlreadyExists
	case errors.As(err, &ending):
		return codes.Unavailable
	case errors.As(err, &panicked):
		return codes.Internal
	default:
		return codes.OK
	}
}

// panicError is a recovered panic.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("internal error: %v", e.value) }

var errShutdown = errors.New("the shim does not serve this container any more")

// causes are the errors that a handler's context is cancelled with.
var causes = map[lifecycle.Cause]error{
	lifecycle.ContainerExit:   hookexec.ErrContainerExited,
	lifecycle.ContainerKill:   errors.New("container killed"),
	lifecycle.StopDeadline:    errors.New("the deadline of the stop was reached"),
	lifecycle.StopRequest:     errors.New("a stop was requested"),
	lifecycle.ContainerDelete: errors.New("container deleted"),
}

func causeError(cause lifecycle.Cause, after time.Duration) error {
	if cause == lifecycle.TimeLimit {
		return fmt.Errorf("%w after %s", hookexec.ErrTimedOut, after.Round(100*time.Millisecond))
	}
	return causes[cause]
}

// convert returns what the machine needs of a handler's result.
func convert(result hookexec.Result) lifecycle.Result {
	converted := lifecycle.Result{Outcome: result.Outcome, Message: result.Message()}
	if result.Outcome == lifecycle.Aborted {
		for cause, err := range causes {
			if errors.Is(result.Err, err) {
				converted.Cause = cause
			}
		}
	}
	return converted
}
