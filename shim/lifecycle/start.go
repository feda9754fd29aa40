package lifecycle

import "time"

// From the start request to its answer: preStart, the runtime's start, postStart.

// startRequested begins the start of a created container. Any other start is
// forwarded, so that the runtime returns its own error, unless the runtime would
// carry it out.
func (m *Machine) startRequested(now time.Time, event Event) {
	switch m.stage {
	case StageCreated:
	case StagePreStart:
		m.why = "refused: the runtime would start the entrypoint"
		m.answer(event.Request, &RefusedError{"cannot start a container that is being started"})
		return
	case StageCancelled:
		m.why = "refused: the runtime would start the entrypoint"
		m.answer(event.Request, &RefusedError{"cannot start a container whose start has failed: delete it"})
		return
	default:
		m.why = "already started: forwarded, so that the runtime returns its own error"
		m.forward(event.Request)
		return
	}
	m.held = &heldStart{request: event.Request, deadline: event.Deadline}
	if m.config.PreStart != nil {
		m.why = "preStart runs before the entrypoint"
		m.stage = StagePreStart
		m.runStartHandler(now, PreStart, m.config.PreStart)
		return
	}
	m.why = "the runtime starts the entrypoint"
	m.callStart()
}

func (m *Machine) callStart() {
	m.stage = StageStarting
	m.do(Effect{Kind: CallStart, Request: m.held.request})
}

// runStartHandler runs preStart or postStart inside the container.
func (m *Machine) runStartHandler(now time.Time, kind Kind, handler *Handler) {
	limit, owner := m.config.startLimit(handler, now, m.held.deadline)
	m.limitAt = limit
	m.run(Effect{Handler: kind, Limit: limit, LimitOwner: owner})
}

// timeOutStartHandler aborts preStart or postStart. The machine waits for its end only
// until limitAt, not until the request's deadline: a process may be stuck in the kernel.
func (m *Machine) timeOutStartHandler(now time.Time) {
	m.abort(TimeLimit)
	m.limitAt = abortLimit(now, m.held.deadline)
}

// preStartEnded starts the entrypoint, or makes sure that it never runs.
func (m *Machine) preStartEnded(now time.Time, result Result) {
	switch {
	case result.Outcome == Succeeded:
		m.why = "preStart has succeeded"
		m.callStart()
	case exitCaused(result):
		m.why = "the container has exited: nothing is left to start"
		m.failPreStart(StartError{Cause: ContainerExit})
		m.killUnstarted(now)
	case m.config.PreStart.IgnoreFailure:
		m.why = "preStart has failed, but its failurePolicy is Ignore"
		m.callStart()
	default:
		m.why = "preStart has failed: the entrypoint never runs"
		m.failPreStart(StartError{Message: result.Message})
		m.killUnstarted(now)
	}
}

func (m *Machine) preStartDue(now time.Time) {
	if !m.handler.ending {
		m.why = "preStart has timed out"
		m.timeOutStartHandler(now)
		return
	}
	m.why = "preStart cannot be ended: the entrypoint never runs"
	m.failPreStart(StartError{Message: "timed out, and its process cannot be ended"})
	m.killUnstarted(now)
}

// failPreStart records the error of the start's answer.
func (m *Machine) failPreStart(failure StartError) {
	failure.Handler = PreStart
	m.held.failure, m.notStarted = &failure, true
}

// killUnstarted kills the process that waits to become the entrypoint. It may be exiting
// already: SIGKILL does nothing then.
func (m *Machine) killUnstarted(now time.Time) {
	m.send(Signal{Number: sigKILL})
	m.cancel(now)
}

// cancel the start. The process that waits to become the entrypoint is being killed.
func (m *Machine) cancel(now time.Time) {
	m.stage, m.limitAt, m.stop = StageCancelled, time.Time{}, stop{}
	m.boundHeld(now, now)
}

// cancelledDue: the killed process has not exited.
func (m *Machine) cancelledDue(now time.Time) {
	if m.held != nil && !now.Before(m.held.answerBy) {
		m.why = "the start cannot be held any longer"
		if m.held.failure != nil {
			m.held.failure.Running = true
		}
		m.finishStart()
		return
	}
	m.limitAt = time.Time{}
	if m.config.OnExit == nil {
		m.why = "the killed process does not exit: forwarded, so that the runtime returns its own error"
		m.callDeletes()
		return
	}
	m.why = "the killed process does not exit: Delete is refused, because its onExit would be lost"
	for _, request := range m.deletes {
		m.answer(request, &RefusedError{"cannot delete a process that was killed and has not exited yet: try again"})
	}
	m.deletes = m.deletes[:0]
}

// startReturned continues with postStart, or with what came during the runtime's start.
func (m *Machine) startReturned(now time.Time, err error) {
	held := m.held
	switch {
	case held == nil || m.stage != StageDeleted && m.stage != StageStarting:
		m.why = "no start request waits for it"
		return
	case m.stage == StageDeleted:
		m.why = "the container was deleted during its start"
		m.answerStart(err)
		return
	case err != nil:
		m.startFailed(now, err)
		return
	}
	if m.config.PostStart == nil {
		m.answerStart(nil)
	}
	switch {
	case held.exited:
		m.why = "the container exited during its start"
		m.gone(now)
	case held.passed:
		m.why = "a signal that ends the container was forwarded during its start"
		m.stage = StageStopping
		m.boundPassed(now)
	case m.stop.waits():
		m.why = "a stop was requested during the start"
		m.runPreStop(now)
	case m.config.PostStart == nil:
		m.why = "the container has no postStart"
		m.stage = StageRunning
	default:
		m.why = "postStart runs before the start is answered"
		m.stage = StagePostStart
		m.runStartHandler(now, PostStart, m.config.PostStart)
	}
}

// startFailed: the runtime could not start the process. There is no TaskStart to
// release, and there may be one after another try. A stop that was accepted in the
// meantime is carried out. With an onExit there is no other try, which could lose it.
//
// A known weakness: if the accepted signal does not end the process that waits to be
// started, and a later start succeeds, no held start releases its TaskStart. That
// event and the following ones are published when the container is deleted.
func (m *Machine) startFailed(now time.Time, err error) {
	held, stopWaits := m.held, m.stop.waits()
	if m.config.OnExit != nil {
		m.why = "the runtime could not start the entrypoint: onExit runs after the exit"
		held.refused, m.notStarted = err, true
		if held.exited {
			m.gone(now)
			return
		}
		m.killUnstarted(now)
		return
	}
	m.answer(held.request, err)
	m.held = nil
	switch {
	case held.exited:
		m.stage, m.why = StageExited, "the runtime could not start the entrypoint"
	case stopWaits:
		m.why = "the runtime could not start the entrypoint: the accepted stop signal is sent"
		m.signalStop(NoCause)
	default:
		m.stage, m.why = StageCreated, "the runtime could not start the entrypoint"
	}
}

// postStartEnded answers the start, or continues the stop that aborted postStart.
func (m *Machine) postStartEnded(now time.Time, result Result) {
	switch {
	case m.stop.waits():
		m.continueStop(now, result)
		return
	case result.Outcome == Succeeded:
		m.why = "postStart has succeeded"
	case exitCaused(result):
		m.why = "the container has exited, which is no failure of postStart"
	case m.config.PostStart.IgnoreFailure:
		m.why = "postStart has failed, but its failurePolicy is Ignore"
	default:
		m.why = "postStart has failed: the container is stopped"
		m.failPostStart(now, result)
		return
	}
	m.stage = StageRunning
	m.finishStart()
}

func (m *Machine) postStartDue(now time.Time) {
	if !m.handler.ending {
		m.why = "postStart has timed out"
		m.timeOutStartHandler(now)
		return
	}
	m.postStartEnded(now, Result{Outcome: TimedOut, Message: "timed out, and its process cannot be ended"})
}

// failPostStart stops the container, as the kubelet does.
func (m *Machine) failPostStart(now time.Time, result Result) {
	m.held.failure = &StartError{Message: result.Message}
	signal := Signal{Number: m.config.StopSignal}
	if signal.Number == 0 {
		signal.Number = sigTERM
	}
	m.stop = stop{signal: signal, since: now}
	m.runPreStop(now)
}

// failHeld records why a start held for postStart fails. The first reason stays.
func (m *Machine) failHeld(cause Cause, signal Signal) {
	if m.held != nil && m.config.PostStart != nil && m.held.failure == nil {
		m.held.failure = &StartError{Cause: cause, Signal: signal}
	}
}

// heldDeadline returns the deadline of the held start, zero if there is none.
func (m *Machine) heldDeadline() time.Time {
	if m.held == nil {
		return time.Time{}
	}
	return m.held.deadline
}

// boundHeld makes sure that a held start is answered if the container does not
// exit, which it should have done at exitAt.
func (m *Machine) boundHeld(now, exitAt time.Time) {
	if m.held != nil {
		m.held.answerBy = answerBy(now, exitAt, m.held.deadline)
	}
}

// boundPassed makes sure of it after a forwarded signal: SIGKILL ends a container at
// once, a stop signal within the grace period or never.
func (m *Machine) boundPassed(now time.Time) {
	if m.held == nil {
		return
	}
	if m.held.failure.Cause == ContainerKill {
		m.boundHeld(now, now)
		return
	}
	grace, _ := m.config.heldGracePeriod(now, m.held.deadline)
	m.held.answerBy = now.Add(grace)
}

// finishStart releases and answers the held start, if any.
func (m *Machine) finishStart() {
	if m.held == nil {
		return
	}
	switch {
	case m.held.refused != nil:
		m.answerStart(m.held.refused)
	case m.held.failure != nil:
		m.answerStart(m.held.failure)
	default:
		m.answerStart(nil)
	}
}

func (m *Machine) answerStart(err error) {
	request := m.held.request
	m.held = nil
	m.do(Effect{Kind: ReleaseStart})
	m.answer(request, err)
}
