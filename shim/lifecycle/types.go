package lifecycle

import (
	"fmt"
	"time"
)

// Signal is a Kill request's: its number, and whether it is for all processes.
type Signal struct {
	Number uint32
	All    bool
}

// Signal numbers on Linux, signal(7). SIGRTMIN is what glibc gives programs.
const (
	sigINT      = 2
	sigKILL     = 9
	sigTERM     = 15
	sigRTMINp3  = 34 + 3
	sigRTMAX    = 64 // the last one, signal(7)
	sigNonexist = 0  // tests whether the process is there, kill(2)
)

// Kind tells the handlers apart.
type Kind uint8

// The handlers of a lifecycle block.
const (
	NoHandler Kind = iota
	PostStart
	PreStop
	PreStart
	OnExit
)

func (k Kind) String() string {
	return [...]string{"none", "postStart", "preStop", "preStart", "onExit"}[k]
}

// Outcome is how a handler ended (docs/spec.md#results).
type Outcome uint8

// The four ways in which a handler ends.
const (
	Succeeded Outcome = iota
	Failed
	TimedOut
	Aborted
)

func (o Outcome) String() string {
	return [...]string{"Succeeded", "Failed", "TimedOut", "Aborted"}[o]
}

// Cause is why a handler was made to end.
type Cause uint8

// The causes of a forced end. TimeLimit makes a handler TimedOut, every other
// one Aborted.
const (
	NoCause Cause = iota
	TimeLimit
	ContainerExit
	ContainerKill
	StopDeadline
	StopRequest
	ContainerDelete
)

func (c Cause) String() string {
	return [...]string{
		"none", "time limit", "container exited", "container killed", "stop deadline", "stop requested", "container deleted",
	}[c]
}

// Owner is whose a deadline is.
type Owner uint8

// The owners of deadlines, by the name under which a user knows them.
const (
	NoOwner Owner = iota
	HandlerTimeout
	StartRequest
	PostStartDefault
	BlockGracePeriod
	PodGracePeriod
	CRIGracePeriod
	GracePeriodDefault
	CRI
	OnExitDefault
	CRIExit
)

func (o Owner) String() string {
	return [...]string{
		"", "timeoutSeconds", "start request", "DefaultPostStartTimeout", "terminationGracePeriodSeconds",
		"pod's terminationGracePeriodSeconds", "grace period of CRI", "DefaultGracePeriod", "CRI",
		"default of onExit", "exit handling of CRI",
	}[o]
}

// Status is what can be told of a machine.
type Status struct {
	Phase     Phase
	StartHeld bool
	// Pending is the stop signal that waits for preStop, 0 where none does.
	Pending uint32
	// Deadline is when DeadlineReached is due, zero where only events lead on.
	Deadline time.Time
}

// Result is what the machine needs to know of a handler's end.
type Result struct {
	Outcome Outcome
	// Cause of an Aborted one.
	Cause Cause
	// Message is for a person: why it did not succeed, and its last output.
	Message string
}

// Handler is what the machine needs to know of a handler.
type Handler struct {
	// Timeout from its start until it is ended; 0 where it has none of its own.
	Timeout time.Duration
	// IgnoreFailure is failurePolicy Ignore.
	IgnoreFailure bool
}

// Config is what is known of a container when it is created.
type Config struct {
	// CRI: the container's stop deadlines are those of the CRI plugin.
	CRI bool
	// PostStart and PreStop are nil where there is no such handler. A container
	// that is restored from a checkpoint has no PostStart.
	PostStart, PreStop *Handler
	// PreStart and OnExit likewise. One that is restored has no PreStart either.
	PreStart, OnExit *Handler
	// StopSignal of the block, 0 where it names none.
	StopSignal uint32
	// GracePeriod of the block, 0 where it names none.
	GracePeriod time.Duration
	// PodGracePeriod is the pod's, 0 where unknown.
	PodGracePeriod time.Duration
	// DefaultPostStartTimeout and DefaultGracePeriod hold where nothing else does.
	DefaultPostStartTimeout, DefaultGracePeriod time.Duration
}

// RequestID names a request between its event and its answer. It is not 0.
type RequestID uint64

// EventKind tells the events apart.
type EventKind uint8

// What can happen to a container.
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
	// ContainerExited: the container's process has been reaped. May be told
	// more than once.
	ContainerExited
	// DeadlineReached: the time that Deadline gave has come.
	DeadlineReached
	eventKinds
)

func (k EventKind) String() string {
	return [...]string{
		"StartRequested", "StartReturned", "KillRequested", "DeleteRequested", "DeleteReturned",
		"HandlerEnded", "ContainerExited", "DeadlineReached",
	}[k]
}

// Event is something that happened.
type Event struct {
	Kind    EventKind
	Request RequestID
	// Deadline of a start request, zero where it has none.
	Deadline time.Time
	Signal   Signal
	Err      error
	Result   Result
}

// EffectKind tells the effects apart.
type EffectKind uint8

// What the owner has to do.
const (
	// CallStart: call the runc service's Start for Request, tell StartReturned,
	// and keep Request waiting for its Answer.
	CallStart EffectKind = iota
	// CallDelete: call the runc service's Delete for Request, tell
	// DeleteReturned, and answer Request with what it returned.
	CallDelete
	// Forward: answer Request with what the runc service's own method returns.
	Forward
	// Answer Request with Err, nil for success.
	Answer
	// RunHandler: run Handler. NotStarted tells an OnExit that the entrypoint never
	// began. Signal is the one that is to be sent after a
	// preStop, Deadline its time at the latest, zero where unknown. Limit is when
	// the handler is ended, zero where unknown, and LimitOwner whose limit it is.
	RunHandler
	// AbortHandler: end the running handler because of Cause. HandlerEnded
	// follows as for any end.
	AbortHandler
	// SendSignal: send Signal to the container, on nobody's request.
	SendSignal
	// ReleaseStart: let the TaskStart event and what came after it go, but for the
	// exit where there is an OnExit.
	ReleaseStart
	// ReleaseExit: let TaskExit go, and everybody who waits for the container's end.
	// It comes where there is an OnExit, and only once.
	ReleaseExit
	effectKinds
)

func (k EffectKind) String() string {
	return [...]string{
		"CallStart", "CallDelete", "Forward", "Answer", "RunHandler", "AbortHandler", "SendSignal", "ReleaseStart", "ReleaseExit",
	}[k]
}

// Effect is something to be done.
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

// String says what is to be done, without times and texts.
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

// StartError is why a start that the runtime carried out, or was not asked for
// because of preStart, is answered with an error.
type StartError struct {
	// Handler that failed, or that was running when something came in between:
	// PreStart, or PostStart where it is not set.
	Handler Kind
	// Cause: NoCause where the handler failed, else what came in between:
	// StopRequest or ContainerKill, and for preStart ContainerExit or ContainerDelete.
	Cause Cause
	// Signal that came in between.
	Signal Signal
	// Message of the handler that failed.
	Message string
	// Running: the container had not exited when the time to answer was up.
	Running bool
}

func (e *StartError) Error() string {
	failed, aborted := "postStart handler failed: ", "postStart handler aborted: " // whole, so that they are found
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

// RefusedError is a request that a container in its phase cannot be asked: what
// the runtime would do with it must not be done.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }
