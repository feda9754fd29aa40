package lifecycle

import "fmt"

// StartError is the answer to a start whose preStart or postStart failed or was
// aborted.
type StartError struct {
	// Handler that failed or was aborted: PreStart; any other value is PostStart.
	Handler Kind
	// Cause of the abort: StopRequest or ContainerKill, and for preStart also
	// ContainerExit or ContainerDelete. NoCause if the handler failed.
	Cause Cause
	// Signal that arrived during the start.
	Signal Signal
	// Message of the handler that failed.
	Message string
	// Running: the container had not exited when the start had to be answered.
	Running bool
}

func (e *StartError) Error() string {
	failed, aborted := "postStart handler failed: ", "postStart handler aborted: " // unbroken, for a search in the code
	if e.Handler == PreStart {
		failed, aborted = "preStart handler failed: ", "preStart handler aborted: "
	}
	text := failed + e.Message
	switch e.Cause {
	case NoCause:
	case ContainerExit, ContainerDelete:
		text = fmt.Sprintf("%s%s before its entrypoint was started", aborted, e.Cause)
	default:
		text = fmt.Sprintf("%ssignal %d arrived before the start was acknowledged (%s)", aborted, e.Signal.Number, e.Cause)
	}
	if e.Running {
		text += " (the container has not exited yet)"
	}
	return text
}

// RefusedError is the answer to a request that must not reach the runtime, because
// the runtime would carry it out.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }
