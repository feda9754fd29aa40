package lifecycle

import "time"

// From the exit to the deletion: onExit, Delete.

// containerExited aborts the handler that runs in the container, and releases what
// is held, except what waits for onExit.
func (m *Machine) containerExited(now time.Time) {
	switch {
	case m.stage == StageStarting:
		m.why = "the exit is handled when the runtime's start has returned"
		m.held.exited, m.stop = true, stop{}
		return
	case m.stage.hasExited():
		m.why = "the exit is already known"
		return
	case m.stage == StagePreStart:
		m.failPreStart(StartError{Cause: ContainerExit})
	}
	m.why = "the container has exited: what was held is released"
	m.abort(ContainerExit)
	m.gone(now)
}

// gone: the process has exited, and the runtime's start has returned. onExit is
// next, once for each start. A start that has not failed is answered now. One that
// has failed is answered after onExit, because its client then deletes the container.
func (m *Machine) gone(now time.Time) {
	m.stop = stop{}
	if m.config.OnExit == nil || m.stage == StageCreated {
		m.exitDone(now)
		return
	}
	m.why = "the container has exited: onExit is next"
	if m.held != nil && m.held.failure == nil && m.held.refused == nil {
		m.finishStart()
	}
	m.stage = StageOnExit
	if m.handler.kind == NoHandler {
		m.runOnExit(now)
	} else {
		m.limitAt, _ = m.config.onExitLimit(now, m.heldDeadline())
	}
}

// runOnExit runs onExit, in its own process tree.
func (m *Machine) runOnExit(now time.Time) {
	limit, owner := m.config.onExitLimit(now, m.heldDeadline())
	m.limitAt = limit
	m.run(Effect{Handler: OnExit, Limit: limit, LimitOwner: owner, NotStarted: m.notStarted})
}

// onExitDue: onExit, or the handler that it waits for, has used its time.
func (m *Machine) onExitDue(now time.Time) {
	switch {
	case m.handler.kind != OnExit:
		m.why = "a handler cannot be ended: no onExit runs beside it"
		m.exitDone(now)
	case !m.handler.ending:
		m.why = "onExit has timed out"
		m.abortOnExit(now, TimeLimit)
	default:
		m.why = "onExit cannot be ended: nothing waits for it any longer"
		m.exitDone(now)
	}
}

func (m *Machine) abortOnExit(now time.Time, cause Cause) {
	if !m.handler.ending {
		m.limitAt = abortLimit(now, m.heldDeadline())
	}
	m.abort(cause)
}

// exitDone releases the exit, and answers everyone who waited for onExit.
func (m *Machine) exitDone(now time.Time) {
	m.stage = StageExited
	if m.config.OnExit != nil {
		m.do(Effect{Kind: ReleaseExit})
	}
	m.finishStart()
	if m.handler.kind != NoHandler {
		m.limitAt = now.Add(deleteWait) // for the Deletes that wait, if any
		return
	}
	m.callDeletes()
}

// deleteRequested forwards a Delete at once, unless an exit or a handler's end has to
// come first, or an onExit would be lost.
func (m *Machine) deleteRequested(now time.Time, event Event) {
	if m.config.OnExit != nil && m.stage.mayRun() {
		m.why = "running: Delete is refused, because its onExit would be lost"
		m.answer(event.Request, &RefusedError{"cannot delete a running process: stop the container first"})
		return
	}
	joins := len(m.deletes) > 0
	m.deletes = append(m.deletes, event.Request)
	switch {
	case m.stage == StagePreStart:
		m.why = "Delete aborts preStart: the entrypoint never runs"
		m.abort(ContainerDelete)
		m.failPreStart(StartError{Cause: ContainerDelete})
		m.killUnstarted(now)
		m.limitAt = now.Add(deleteWait)
	case m.stage == StageCancelled:
		m.why = "Delete waits for the exit of the killed process"
		m.limitAt = now.Add(deleteWait)
	case m.stage == StageOnExit:
		m.why = "Delete waits for onExit"
	case joins: // in Exited
		m.why = "joins the Delete that waits"
	case m.stage == StageExited && m.handler.kind != NoHandler:
		m.why = "Delete waits for the end of a handler"
		m.abort(ContainerDelete)
		m.limitAt = now.Add(deleteWait)
	default:
		m.why = "no handler has to end first: forwarded"
		m.callDeletes()
	}
}

func (m *Machine) callDeletes() {
	for _, request := range m.deletes {
		m.do(Effect{Kind: CallDelete, Request: request})
	}
	m.deletes = m.deletes[:0]
}

// deleteReturned ends everything that belonged to the container. A start that the
// runtime is still carrying out is answered when that returns.
func (m *Machine) deleteReturned(err error) {
	switch {
	case err != nil:
		m.why = "the runtime has refused to delete the container"
		return
	case m.stage == StageDeleted:
		m.why = "the deletion is already known"
		return
	}
	m.why = "the container is deleted"
	m.abort(ContainerDelete)
	starting := m.stage == StageStarting
	if m.stage == StagePreStart {
		m.failPreStart(StartError{Cause: ContainerDelete})
	}
	if m.config.OnExit != nil && m.stage != StageExited {
		m.do(Effect{Kind: ReleaseExit})
	}
	m.stage, m.stop = StageDeleted, stop{}
	if !starting {
		m.finishStart()
	}
	m.callDeletes()
}
