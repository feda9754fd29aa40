package lifecycle

import "time"

// From the first signal to the last: stop signals, preStop, SIGKILL.

// killRequested decides on a signal from a client: docs/spec.md#stop, docs/spec.md#start.
func (m *Machine) killRequested(now time.Time, event Event) {
	switch {
	case event.Signal.Number == sigKILL:
		m.killed(now, event)
	case m.isStop(event.Signal.Number):
		m.stopRequested(now, event)
	default:
		m.why = "not a stop signal: forwarded"
		m.forward(event.Request)
	}
}

// isStop reports whether a signal asks for a stop. Under CRI, signals are sent only
// to stop a container. Outside CRI they are the stop signals of docker, ctr and
// systemd, and the block's.
func (m *Machine) isStop(number uint32) bool {
	switch number {
	case sigNonexist, sigKILL:
		return false
	case sigTERM, sigINT, sigRTMINp3, m.config.StopSignal:
		return true
	default:
		return m.config.CRI && number <= sigRTMAX // the runtime refuses what is not a signal
	}
}

// killed forwards SIGKILL at once, except CRI's: it means that the deadline of the
// stop that CRI asked for has passed.
func (m *Machine) killed(now time.Time, event Event) {
	if m.config.CRI && m.held == nil && m.stage == StagePreStop {
		m.why = "CRI's SIGKILL is the deadline of the stop that it requested"
		m.answer(event.Request, nil)
		m.signalStop(StopDeadline)
		m.killAt = now.Add(signalTail)
		return
	}
	if m.stage == StageOnExit && m.handler.kind == OnExit {
		m.why = "the process has exited: SIGKILL aborts onExit"
		m.answer(event.Request, nil)
		m.abortOnExit(now, ContainerKill)
		return
	}
	m.why = "SIGKILL is forwarded at once"
	m.forward(event.Request)
	switch m.stage {
	case StagePreStart:
		m.abort(ContainerKill)
		m.failPreStart(StartError{Cause: ContainerKill, Signal: event.Signal})
		m.cancel(now)
	case StageStarting:
		if !m.held.exited {
			m.failHeld(ContainerKill, event.Signal)
			m.held.passed, m.stop = true, stop{}
		}
	case StagePostStart, StageRunning, StagePreStop:
		m.abort(ContainerKill)
		m.failHeld(ContainerKill, event.Signal)
		m.stage, m.stop, m.killAt = StageStopping, stop{}, time.Time{}
		m.boundHeld(now, now)
	case StageStopping:
		m.killAt = time.Time{}
		m.boundHeld(now, now)
	case StageCreated, StageCancelled, StageOnExit, StageExited, StageDeleted:
	}
}

// stopRequested begins a stop, or joins the one in progress.
func (m *Machine) stopRequested(now time.Time, event Event) {
	switch {
	case m.stop.waits():
		m.why = "joins the stop in progress"
		m.answer(event.Request, nil)
	case m.stage == StageOnExit:
		m.why = "the process has already exited"
		m.answer(event.Request, nil)
	case m.stage == StagePreStart:
		m.why = "the entrypoint has not started: the stop aborts preStart"
		m.answer(event.Request, nil)
		m.abort(StopRequest)
		m.failPreStart(StartError{Cause: StopRequest, Signal: event.Signal})
		m.killUnstarted(now)
	case !m.stage.mayRun() || m.stage == StageStarting && m.held.exited:
		m.why = "not running: forwarded, so that the runtime returns its own error"
		m.forward(event.Request)
	case m.stage == StageStopping || m.stage == StageStarting && m.held.passed:
		m.why = "a signal that ends the container was sent before: forwarded"
		m.forward(event.Request)
	default:
		m.failHeld(StopRequest, event.Signal)
		m.beginStop(now, event)
	}
}

// beginStop of a container in Starting, PostStart or Running. Without preStop the
// signal is forwarded untouched, and a held start waits for its effect.
func (m *Machine) beginStop(now time.Time, event Event) {
	if m.config.PreStop == nil {
		m.why = "the container has no preStop: forwarded"
		m.forward(event.Request)
		switch m.stage {
		case StageStarting:
			m.held.passed = m.config.PostStart != nil
		case StagePostStart:
			m.abort(StopRequest)
			m.stage = StageStopping
			m.boundPassed(now)
		default:
		}
		return
	}
	m.why = "the stop signal waits for preStop"
	m.answer(event.Request, nil)
	m.stop = stop{signal: event.Signal, since: now}
	switch m.stage {
	case StageRunning:
		m.runPreStop(now)
	case StagePostStart:
		m.abort(StopRequest)
		m.limitAt = m.config.stopLimit(now, m.held.deadline)
	default: // Starting: preStop runs when the runtime's start has returned
	}
}

// continueStop with preStop, now that the aborted postStart has ended.
func (m *Machine) continueStop(now time.Time, result Result) {
	if exitCaused(result) {
		m.why = "the container has exited: preStop does not run"
		m.shareGracePeriod(now)
		m.signalStop(NoCause)
		return
	}
	m.why = "postStart has ended: the stop continues"
	m.runPreStop(now)
}

// runPreStop runs preStop, if the container has one and the handler slot is free,
// and sends the stop signal otherwise.
func (m *Machine) runPreStop(now time.Time) {
	owner := m.shareGracePeriod(now)
	if m.handler.kind != NoHandler {
		m.why = "postStart cannot be ended: no preStop runs beside it"
		m.signalStop(NoCause)
		return
	}
	if m.config.PreStop == nil {
		m.signalStop(NoCause)
		return
	}
	m.stage, m.limitAt = StagePreStop, time.Time{}
	limit := m.signalAt
	if own, whose := m.config.preStopLimit(now); !own.IsZero() {
		m.limitAt = own
		if limit.IsZero() || own.Before(limit) {
			limit, owner = own, whose
		}
	}
	m.run(Effect{Handler: PreStop, Signal: m.stop.signal, Deadline: m.signalAt, Limit: limit, LimitOwner: owner})
}

// shareGracePeriod sets signalAt and killAt, and returns who decides on them. Under
// CRI they are unset, because the deadline is CRI's, unless a start is held.
func (m *Machine) shareGracePeriod(now time.Time) Owner {
	if m.held == nil && m.config.CRI {
		return CRI
	}
	grace, owner := m.config.gracePeriod()
	if m.held != nil {
		grace, owner = m.config.heldGracePeriod(m.stop.since, m.held.deadline)
	}
	m.signalAt = m.stop.since.Add(signalAfter(grace))
	failed := m.held != nil && m.held.failure.Cause == NoCause
	if failed || m.config.GracePeriod > 0 && !m.config.CRI {
		m.killAt = m.stop.since.Add(killAfter(grace))
	}
	m.boundHeld(now, m.stop.since.Add(grace))
	return owner
}

// preStopDue: preStop's own time limit has passed, or its share of the grace period.
func (m *Machine) preStopDue(now time.Time) {
	switch {
	case m.handler.ending:
		m.why = "preStop cannot be ended: the stop signal is sent"
		m.signalStop(StopDeadline)
	case m.signalAt.IsZero() || now.Before(m.signalAt):
		m.why = "preStop has timed out"
		m.abort(TimeLimit)
		m.limitAt = now.Add(abortWait)
	default:
		m.why = "preStop has used its share of the grace period"
		m.signalStop(StopDeadline)
	}
}

// signalStop sends the stop signal. A handler that still runs is aborted, unless
// cause is NoCause.
func (m *Machine) signalStop(cause Cause) {
	if cause != NoCause {
		m.abort(cause)
	}
	m.stage, m.stop.sent = StageStopping, true
	m.send(m.stop.signal)
}

func (m *Machine) stoppingDue() {
	if !m.killAt.IsZero() { // it comes before answerBy
		m.why = "the grace period has ended: SIGKILL is sent"
		m.killAt = time.Time{}
		m.send(Signal{Number: sigKILL, All: m.stop.signal.All})
		return
	}
	m.why = "the start cannot be held any longer"
	m.held.failure.Running = true
	m.finishStart()
}
