package lifecycle

import "time"

// Stage is where a container with handlers stands in its life. Finer
// detail is kept beside it: the handler slot, the held start, the stop.
type Stage uint8

// The stages of a container. docs/lifecycle.md draws them.
const (
	// StageCreated: the container has been created and not started.
	StageCreated Stage = iota
	// StagePreStart: preStart runs, and the start request is held.
	StagePreStart
	// StageCancelled: the entrypoint never runs. The process that waits to become
	// it is being killed; the machine waits for its exit.
	StageCancelled
	// StageStarting: the runtime is starting the process. heldStart records a
	// signal that was forwarded, or an exit that came, before the runtime's start
	// returned; stop records a stop that waits for it.
	StageStarting
	// StagePostStart: postStart runs, and the start request is held. A stop that
	// comes now aborts postStart and waits for its end.
	StagePostStart
	// StageRunning: started, and the start request has been answered.
	StageRunning
	// StagePreStop: preStop runs, and the stop signal waits for it.
	StagePreStop
	// StageStopping: a signal that ends the container was sent or forwarded. All
	// further signals are forwarded.
	StageStopping
	// StageOnExit: the process has exited. onExit runs, or waits for the end of an
	// earlier handler. The exit is held until onExit has ended.
	StageOnExit
	// StageExited: the process has exited, and nothing waits for onExit any more. A
	// Delete may wait for the end of a handler.
	StageExited
	// StageDeleted: the runtime has deleted the container.
	StageDeleted
)

var stageNames = [...]string{
	StageCreated:   "Created",
	StagePreStart:  "PreStart",
	StageCancelled: "Cancelled",
	StageStarting:  "Starting",
	StagePostStart: "PostStart",
	StageRunning:   "Running",
	StagePreStop:   "PreStop",
	StageStopping:  "Stopping",
	StageOnExit:    "OnExit",
	StageExited:    "Exited",
	StageDeleted:   "Deleted",
}

func (s Stage) String() string { return stageNames[s] }

// mayRun reports whether the container's process may be running.
func (s Stage) mayRun() bool {
	switch s {
	case StageStarting, StagePostStart, StageRunning, StagePreStop, StageStopping:
		return true
	default:
		return false
	}
}

// hasExited reports whether the container's process is known to have exited.
func (s Stage) hasExited() bool {
	switch s {
	case StageOnExit, StageExited, StageDeleted:
		return true
	default:
		return false
	}
}

// handlerSlot holds the one handler that runs, or whose end has not been reported.
type handlerSlot struct {
	kind Kind // NoHandler if the slot is empty
	// ending: the handler has been aborted.
	ending bool
}

// heldStart is the start request that has not been answered.
type heldStart struct {
	request  RequestID
	deadline time.Time // of the request; zero if it has none
	// failure is the error of the answer, nil on success.
	failure *StartError
	// refused is the runtime's own error, if onExit runs before the answer.
	refused error
	// answerBy is when the request is answered even if the container has not
	// exited by then. It is zero until something ends the container.
	answerBy time.Time
	// passed: during the runtime's start, a signal was forwarded that ends the container.
	passed bool
	// exited: the process exited before the runtime's start returned.
	exited bool
}

// stop is the stop in progress.
type stop struct {
	// signal waits for preStop until it is sent; number 0 if no stop was requested.
	signal Signal
	// since is when the stop was requested: the grace period counts from then.
	since time.Time
	sent  bool
}

// waits reports whether a stop signal was accepted and not sent yet.
func (s *stop) waits() bool { return s.signal.Number != 0 && !s.sent }
