package lifecycle

import "time"

// Signal is the signal of a Kill request.
type Signal struct {
	Number uint32
	All    bool // sent to all processes of the container
}

// Signal numbers on Linux, signal(7). SIGRTMIN is what glibc gives programs.
const (
	sigINT      = 2
	sigKILL     = 9
	sigTERM     = 15
	sigRTMINp3  = 34 + 3
	sigRTMAX    = 64 // the last one
	sigNonexist = 0  // only tests whether the process exists, kill(2)
)

// Kind of a handler.
type Kind uint8

// The handlers of a lifecycle block.
const (
	NoHandler Kind = iota
	PostStart
	PreStop
	PreStart
	OnExit
)

var kindNames = [...]string{
	NoHandler: "none",
	PostStart: "postStart",
	PreStop:   "preStop",
	PreStart:  "preStart",
	OnExit:    "onExit",
}

func (k Kind) String() string { return kindNames[k] }

// Outcome is how a handler ended (docs/spec.md#results).
type Outcome uint8

// The outcomes of a handler.
const (
	Succeeded Outcome = iota
	Failed
	TimedOut
	Aborted
)

var outcomeNames = [...]string{
	Succeeded: "Succeeded",
	Failed:    "Failed",
	TimedOut:  "TimedOut",
	Aborted:   "Aborted",
}

func (o Outcome) String() string { return outcomeNames[o] }

// Cause is why a handler was aborted.
type Cause uint8

// The causes of an abort. After TimeLimit a handler is TimedOut, after any other
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

var causeNames = [...]string{
	NoCause:         "none",
	TimeLimit:       "time limit",
	ContainerExit:   "container exited",
	ContainerKill:   "container killed",
	StopDeadline:    "stop deadline",
	StopRequest:     "stop requested",
	ContainerDelete: "container deleted",
}

func (c Cause) String() string { return causeNames[c] }

// Owner is who decided on a deadline.
type Owner uint8

// The owners of deadlines. A user knows them by these names.
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
	TimeoutLimit
	GracePeriodLimit
)

var ownerNames = [...]string{
	NoOwner:            "",
	HandlerTimeout:     "timeoutSeconds",
	StartRequest:       "start request",
	PostStartDefault:   "DefaultPostStartTimeout",
	BlockGracePeriod:   "terminationGracePeriodSeconds",
	PodGracePeriod:     "pod's terminationGracePeriodSeconds",
	CRIGracePeriod:     "grace period of CRI",
	GracePeriodDefault: "DefaultGracePeriod",
	CRI:                "CRI",
	OnExitDefault:      "default of onExit",
	CRIExit:            "exit handling of CRI",
	TimeoutLimit:       "MaxTimeout",
	GracePeriodLimit:   "MaxGracePeriod",
}

func (o Owner) String() string { return ownerNames[o] }

// Status is what a machine shows.
type Status struct {
	Stage     Stage
	StartHeld bool
	// Pending is the stop signal that waits for preStop, 0 if none does.
	Pending uint32
	// Deadline of the machine, zero if it waits only for events.
	Deadline time.Time
}

// Result of a handler.
type Result struct {
	Outcome Outcome
	// Cause of an Aborted one.
	Cause Cause
	// Message, for a person: why it did not succeed, and its last output.
	Message string
}

// Handler is what the machine has to know of a handler.
type Handler struct {
	// Timeout from its start until it is aborted, 0 if it has no own limit.
	Timeout time.Duration
	// Most is the operator's limit of how long it may run, 0 if there is none.
	Most time.Duration
	// IgnoreFailure: its failurePolicy is Ignore.
	IgnoreFailure bool
}

// Config is what is known of a container when it is created.
type Config struct {
	// CRI: the CRI plugin decides on the container's stop deadlines.
	CRI bool
	// The handlers, nil if the container has no such handler. A container that is
	// restored from a checkpoint has neither PreStart nor PostStart.
	PostStart, PreStop, PreStart, OnExit *Handler
	// StopSignal of the block, 0 if unset.
	StopSignal uint32
	// GracePeriod of the block, 0 if unset.
	GracePeriod time.Duration
	// PodGracePeriod is the pod's, 0 if unknown.
	PodGracePeriod time.Duration
	// The defaults apply if nothing else is set.
	DefaultPostStartTimeout, DefaultGracePeriod time.Duration
	// MaxGracePeriod is the operator's limit of every grace period that the machine
	// keeps, 0 if there is none.
	MaxGracePeriod time.Duration
}
