package lifecycle

import (
	"fmt"
	"time"
)

// RequestID connects a request with its answer. It is not 0.
type RequestID uint64

// EventKind is a kind of event.
type EventKind uint8

// What can happen to a container. The fields that an event uses are named last.
const (
	// StartRequested: a client asks to start the container. Request, Deadline.
	StartRequested EventKind = iota
	// StartReturned: the runc service's Start, called for CallStart, has
	// returned. Err.
	StartReturned
	// KillRequested: a client sends a signal to the container. Request, Signal.
	KillRequested
	// DeleteRequested: a client asks to delete the container. Request.
	DeleteRequested
	// DeleteReturned: the runc service's Delete, called for CallDelete, has
	// returned. Err.
	DeleteReturned
	// HandlerEnded: the handler that was run last has ended. Result.
	HandlerEnded
	// ContainerExited: the container's process has been reaped. It may be
	// reported more than once.
	ContainerExited
	// DeadlineReached: the time that Deadline returned has come.
	DeadlineReached
)

var eventNames = [...]string{
	StartRequested:  "StartRequested",
	StartReturned:   "StartReturned",
	KillRequested:   "KillRequested",
	DeleteRequested: "DeleteRequested",
	DeleteReturned:  "DeleteReturned",
	HandlerEnded:    "HandlerEnded",
	ContainerExited: "ContainerExited",
	DeadlineReached: "DeadlineReached",
}

func (k EventKind) String() string { return eventNames[k] }

// Event is something that happened.
type Event struct {
	Kind    EventKind
	Request RequestID
	// Deadline of a start request, zero if it has none.
	Deadline time.Time
	Signal   Signal
	Err      error
	Result   Result
}

// EffectKind is a kind of effect.
type EffectKind uint8

// What the owner has to do.
const (
	// CallStart: call the runc service's Start for Request, report StartReturned,
	// and keep Request waiting for its Answer.
	CallStart EffectKind = iota
	// CallDelete: call the runc service's Delete for Request, report
	// DeleteReturned, and answer Request with what it returned.
	CallDelete
	// Forward: answer Request with what the runc service's own method returns.
	Forward
	// Answer Request with Err, nil for success.
	Answer
	// RunHandler: run Handler. It is aborted at Limit, which LimitOwner decided on;
	// Limit is zero if unknown. Of a preStop, Signal is sent afterwards, at Deadline
	// at the latest; Deadline is zero if unknown. Of an onExit, NotStarted is true if
	// the entrypoint never began.
	RunHandler
	// AbortHandler: abort the running handler because of Cause. Its end is
	// reported with HandlerEnded as usual.
	AbortHandler
	// SendSignal: send Signal to the container. No request waits for it.
	SendSignal
	// ReleaseStart: publish TaskStart and the events after it, except the exit if
	// the container has an onExit.
	ReleaseStart
	// ReleaseExit: publish TaskExit, and let everyone continue who waits for the
	// exit. It comes once, and only if the container has an onExit.
	ReleaseExit
)

var effectNames = [...]string{
	CallStart:    "CallStart",
	CallDelete:   "CallDelete",
	Forward:      "Forward",
	Answer:       "Answer",
	RunHandler:   "RunHandler",
	AbortHandler: "AbortHandler",
	SendSignal:   "SendSignal",
	ReleaseStart: "ReleaseStart",
	ReleaseExit:  "ReleaseExit",
}

func (k EffectKind) String() string { return effectNames[k] }

// Effect is something for the owner to do.
type Effect struct {
	Kind       EffectKind
	Request    RequestID
	Err        error
	Handler    Kind
	Signal     Signal
	Deadline   time.Time
	Limit      time.Time
	LimitOwner Owner
	Cause      Cause
	NotStarted bool
}

// String names the effect without its times and texts.
func (e Effect) String() string {
	text := e.Kind.String()
	switch {
	case e.Kind == RunHandler:
		text += " " + e.Handler.String()
	case e.Kind == AbortHandler:
		text += ": " + e.Cause.String()
	case e.Kind == SendSignal:
		text += fmt.Sprintf(" %d", e.Signal.Number)
	case e.Err != nil: // of an Answer
		text += " with an error"
	}
	return text
}
