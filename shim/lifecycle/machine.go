package lifecycle

import "time"

// Machine decides for one container. It is not safe for concurrent use.
type Machine struct {
	config  Config
	stage   Stage
	handler handlerSlot
	held    *heldStart // nil if no start request waits for its answer
	stop    stop
	// notStarted: the entrypoint never began, which onExit has to know.
	notStarted bool
	// limitAt: while a handler runs, when it is aborted. After that, and while a Delete
	// waits, when the machine stops waiting for its end.
	limitAt time.Time
	// signalAt: preStop's share of the grace period ends, then the stop signal is
	// sent. Zero if CRI decides.
	signalAt time.Time
	// killAt: the grace period ends, then SIGKILL is sent. Zero if the shim sends no
	// SIGKILL, or has sent it.
	killAt time.Time
	// deletes are the Delete requests that wait for an exit or a handler's end.
	deletes []RequestID
	effects []Effect
	why     string
}

// New returns the machine of a container that has just been created.
func New(config Config) *Machine { return &Machine{config: config} }

// Stage of the container.
func (m *Machine) Stage() Stage { return m.stage }

// Handler that runs, or whose end has not been reported.
func (m *Machine) Handler() Kind { return m.handler.kind }

// StartHeld reports whether a client waits for preStart or postStart.
func (m *Machine) StartHeld() bool {
	return m.held != nil && (m.config.PostStart != nil || m.stage == StagePreStart || m.stage == StageCancelled)
}

// Status returns what the machine shows of the container.
func (m *Machine) Status() Status {
	status := Status{Stage: m.stage, StartHeld: m.StartHeld(), Deadline: m.Deadline()}
	if m.stop.waits() {
		status.Pending = m.stop.signal.Number
	}
	return status
}

// Done reports whether nothing can happen any more.
func (m *Machine) Done() bool {
	return m.stage == StageDeleted && m.held == nil && m.handler.kind == NoHandler
}

// Deadline returns when the owner has to call Step with DeadlineReached. It is
// zero if the machine waits only for events.
func (m *Machine) Deadline() time.Time {
	var answerBy time.Time
	if m.held != nil {
		answerBy = m.held.answerBy
	}
	switch m.stage {
	case StagePreStart, StageOnExit:
		return m.limitAt
	case StageCancelled, StagePostStart:
		return earliest(m.limitAt, answerBy)
	case StagePreStop:
		return earliest(m.limitAt, m.signalAt, answerBy)
	case StageStopping:
		return earliest(m.killAt, answerBy)
	case StageExited:
		if len(m.deletes) > 0 {
			return m.limitAt
		}
	case StageCreated, StageStarting, StageRunning, StageDeleted:
	}
	return time.Time{}
}

// Why returns the reason of what the last Step did or did not do, for a person.
func (m *Machine) Why() string { return m.why }

// Step takes an event and returns what the owner has to do, in this order. The
// slice is valid until the next call.
func (m *Machine) Step(now time.Time, event Event) []Effect {
	m.effects, m.why = m.effects[:0], ""
	switch event.Kind {
	case StartRequested:
		m.startRequested(now, event)
	case StartReturned:
		m.startReturned(now, event.Err)
	case KillRequested:
		m.killRequested(now, event)
	case DeleteRequested:
		m.deleteRequested(now, event)
	case DeleteReturned:
		m.deleteReturned(event.Err)
	case HandlerEnded:
		m.handlerEnded(now, event.Result)
	case ContainerExited:
		m.containerExited(now)
	case DeadlineReached:
		m.deadlineReached(now)
	}
	return m.effects
}

func (m *Machine) do(effect Effect) { m.effects = append(m.effects, effect) }

func (m *Machine) forward(request RequestID) { m.do(Effect{Kind: Forward, Request: request}) }

func (m *Machine) answer(request RequestID, err error) {
	m.do(Effect{Kind: Answer, Request: request, Err: err})
}

func (m *Machine) send(signal Signal) { m.do(Effect{Kind: SendSignal, Signal: signal}) }

// run puts a handler into the slot.
func (m *Machine) run(effect Effect) {
	m.handler = handlerSlot{kind: effect.Handler}
	effect.Kind = RunHandler
	m.do(effect)
}

// abort the handler in the slot, if any. Its end is reported as for any other.
func (m *Machine) abort(cause Cause) {
	if m.handler.kind != NoHandler {
		m.handler.ending = true
		m.do(Effect{Kind: AbortHandler, Cause: cause})
	}
}

// handlerEnded continues what waited for the handler.
func (m *Machine) handlerEnded(now time.Time, result Result) {
	ended := m.handler.kind
	m.handler = handlerSlot{}
	switch {
	case m.stage == StagePreStart:
		m.preStartEnded(now, result)
	case m.stage == StagePostStart:
		m.postStartEnded(now, result)
	case m.stage == StagePreStop:
		m.why = "preStop has ended: the stop signal is sent"
		m.signalStop(NoCause)
	case m.stage == StageOnExit && ended == OnExit:
		m.why = "onExit has ended"
		m.exitDone(now)
	case m.stage == StageOnExit:
		m.why = "the handler before it has ended: onExit runs"
		m.runOnExit(now)
	case m.stage == StageExited && len(m.deletes) > 0:
		m.why = "the handler that Delete waited for has ended"
		m.callDeletes()
	default:
		m.why = "nothing waits for this handler"
	}
}

// exitCaused reports whether the handler ended because the container's process
// exited. That exit is reported later.
func exitCaused(result Result) bool { return result.Cause == ContainerExit }

// deadlineReached handles the first deadline that has passed. Others that have
// passed too are handled by the next calls.
func (m *Machine) deadlineReached(now time.Time) {
	if due := m.Deadline(); due.IsZero() || now.Before(due) {
		m.why = "no deadline has passed"
		return
	}
	switch m.stage {
	case StagePreStart:
		m.preStartDue(now)
	case StageCancelled:
		m.cancelledDue(now)
	case StagePostStart:
		m.postStartDue(now)
	case StagePreStop:
		m.preStopDue(now)
	case StageStopping:
		m.stoppingDue()
	case StageOnExit:
		m.onExitDue(now)
	case StageExited:
		m.why = "a handler cannot be ended: Delete does not wait any longer"
		m.callDeletes()
	case StageCreated, StageStarting, StageRunning, StageDeleted: // they have no deadline
	}
}
