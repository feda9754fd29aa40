package lifecycle

import "time"

// The machine as it was, with 21 phases: compare_test.go steps it beside the new one.

// oldStatus is the old Status.
type oldStatus struct {
	Phase     oldPhase
	StartHeld bool
	Pending   uint32
	Deadline  time.Time
}

// oldPhase is where a container with handlers stands.
type oldPhase uint8

// The oldPhases of a container. docs/lifecycle.md draws them.
const (
	// oldCreated: not started yet.
	oldCreated oldPhase = iota
	// oldPreStarting: preStart runs, Start is held.
	oldPreStarting
	// oldPreStartEnding: preStart's time is up, its end is awaited.
	oldPreStartEnding
	// oldNotStarting: the entrypoint is never going to run. The process that waits to
	// become it is being killed, its exit is awaited.
	oldNotStarting
	// oldStarting: the runtime is starting the process.
	oldStarting
	// oldStartingStop: the same, and a stop waits for it.
	oldStartingStop
	// oldStartingPassed: the same, and a signal that ends it was passed on.
	oldStartingPassed
	// oldStartingExited: the process exited before the runtime's start returned.
	oldStartingExited
	// oldPostStarting: postStart runs, Start is held.
	oldPostStarting
	// oldPostStartEnding: postStart's time is up, its end is awaited.
	oldPostStartEnding
	// oldPostStartStopping: postStart was aborted for a stop, its end is awaited.
	oldPostStartStopping
	// oldRunning: started and acknowledged.
	oldRunning
	// oldPreStopping: preStop runs.
	oldPreStopping
	// oldPreStopEnding: preStop's time is up, its end is awaited.
	oldPreStopEnding
	// oldStopping: the signal was sent; everything passes.
	oldStopping
	// oldOnExitDue: the process has been reaped, and onExit waits for the end of a
	// handler that ran in it.
	oldOnExitDue
	// oldOnExiting: onExit runs. Whoever waits for the container's end waits for it.
	oldOnExiting
	// oldOnExitEnding: onExit was ended, its end is awaited.
	oldOnExitEnding
	// oldExited: the process has been reaped.
	oldExited
	// oldDeleting: exited, and a Delete waits for a handler's end.
	oldDeleting
	// oldDeleted: nothing is left.
	oldDeleted
	oldPhases
)

func (p oldPhase) String() string {
	return [...]string{
		"Created", "PreStarting", "PreStartEnding", "NotStarting", "Starting", "StartingStop", "StartingPassed", "StartingExited", "PostStarting", "PostStartEnding",
		"PostStartStopping", "Running", "PreStopping", "PreStopEnding", "Stopping",
		"OnExitDue", "OnExiting", "OnExitEnding", "Exited", "Deleting", "Deleted",
	}[p]
}

// oldStarting reports whether the runtime's start has been called, and has not returned yet.
func (p oldPhase) Starting() bool { return p >= oldStarting && p <= oldStartingExited }

// oldHeldStart is the start request that has not been answered.
type oldHeldStart struct {
	request  RequestID
	deadline time.Time
	// failure is what it will be answered with, nil for success.
	failure *StartError
	// refused is the runtime's own error, where an onExit is to come before the answer.
	refused error
	// answerBy is when it is answered although the container has not exited;
	// zero before a stop has begun.
	answerBy time.Time
}

// oldMachine decides for one container. It is not safe for concurrent use.
type oldMachine struct {
	config Config
	phase  oldPhase
	// held is nil when no start request waits.
	held *oldHeldStart
	// running is the handler that was started and whose end was not told yet.
	running Kind
	// stop is the signal of the stop under way, and stopSince when it was asked for.
	stop      Signal
	stopSince time.Time
	// notStarted: the entrypoint never began, which onExit is told.
	notStarted bool
	// limitAt ends a handler, or the wait for its end; signalAt is when preStop's
	// share of the grace period is over; killAt when SIGKILL is due.
	limitAt, signalAt, killAt time.Time
	// deletes are the requests that wait for a handler's end.
	deletes []RequestID
	effects []Effect
	// why the last step did what it did.
	why string
}

// New returns the machine of a container that has just been created.
func newOld(config Config) *oldMachine { return &oldMachine{config: config} }

// oldPhase the container is in.
func (m *oldMachine) Phase() oldPhase { return m.phase }

// Handler that is running, or whose end has not been told yet.
func (m *oldMachine) Handler() Kind { return m.running }

// StartHeld reports whether a client waits for preStart or postStart.
func (m *oldMachine) StartHeld() bool {
	return m.held != nil && (m.config.PostStart != nil || m.preStarting() || m.phase == oldNotStarting)
}

// Status is what can be told of the container now.
func (m *oldMachine) Status() oldStatus {
	status := oldStatus{Phase: m.phase, StartHeld: m.StartHeld(), Deadline: m.Deadline()}
	switch m.phase {
	case oldStartingStop, oldPostStartStopping, oldPreStopping, oldPreStopEnding:
		status.Pending = m.stop.Number
	}
	return status
}

// Done reports whether nothing can happen any more.
func (m *oldMachine) Done() bool {
	return m.phase == oldDeleted && m.held == nil && m.running == NoHandler
}

// Deadline is when DeadlineReached is due, zero where only events lead on.
func (m *oldMachine) Deadline() time.Time {
	var answerBy time.Time
	if m.held != nil {
		answerBy = m.held.answerBy
	}
	switch m.phase {
	case oldPreStarting, oldPreStartEnding, oldOnExitDue, oldOnExiting, oldOnExitEnding:
		return m.limitAt
	case oldNotStarting, oldPostStarting, oldPostStartEnding, oldPostStartStopping, oldDeleting:
		return earliest(m.limitAt, answerBy)
	case oldPreStopping, oldPreStopEnding:
		return earliest(m.limitAt, m.signalAt, answerBy)
	case oldStopping:
		return earliest(m.killAt, answerBy)
	default:
		return time.Time{}
	}
}

// Why the last Step did what it did, or did nothing: for a person.
func (m *oldMachine) Why() string { return m.why }

// Step takes an event in and returns what is to be done, in that order. The
// slice is valid until the next call.
func (m *oldMachine) Step(now time.Time, event Event) []Effect {
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
		m.exited(now)
	case DeadlineReached:
		m.deadlineReached(now)
	}
	return m.effects
}

func (m *oldMachine) do(effect Effect) { m.effects = append(m.effects, effect) }

// startRequested: only a created container can be started; the runtime has the
// words for every other case in which it would not start it.
func (m *oldMachine) startRequested(now time.Time, event Event) {
	switch m.phase {
	case oldCreated:
	case oldPreStarting, oldPreStartEnding, oldNotStarting:
		m.why = "the runtime would start it"
		m.do(Effect{Kind: Answer, Request: event.Request, Err: &RefusedError{"cannot start a container that is being started, or whose start has failed: delete it"}})
		return
	default:
		m.why = "only a created container is started; the runtime has the words"
		m.do(Effect{Kind: Forward, Request: event.Request})
		return
	}
	m.held = &oldHeldStart{request: event.Request, deadline: event.Deadline}
	if m.config.PreStart != nil {
		m.why = "preStart comes before the entrypoint"
		m.runPreStart(now)
		return
	}
	m.phase, m.why = oldStarting, "the runtime starts it first"
	m.do(Effect{Kind: CallStart, Request: event.Request})
}

// startReturned goes on to postStart, or to what was asked for meanwhile.
func (m *oldMachine) startReturned(now time.Time, err error) {
	switch {
	case m.held == nil || m.phase != oldDeleted && !m.starting():
		m.why = "no start waits for it"
		return
	case m.phase == oldDeleted:
		m.why = "it was deleted meanwhile"
		m.answerStart(err)
		return
	case err != nil:
		m.startFailed(now, err)
		return
	}
	if m.config.PostStart == nil {
		m.answerStart(nil)
	}
	switch m.phase {
	case oldStarting:
		m.phase, m.why = oldRunning, "there is no postStart"
		if m.config.PostStart != nil {
			m.why = "postStart is due"
			m.runPostStart(now)
		}
	case oldStartingStop:
		m.why = "a stop came while it was started"
		m.runPreStop(now)
	case oldStartingPassed:
		m.phase, m.why = oldStopping, "a signal passed while it was started"
		m.boundPassed(now)
	case oldStartingExited:
		m.why = "it exited while it was started"
		m.gone(now)
	}
}

// startFailed: the runtime could not start the process. There is no TaskStart to
// release, and may be one after another try. What was promised to a stop
// meanwhile is kept. An onExit is not to be lost with another try, so there is none.
// A weakness: where the promised signal does not end what waits to be started, and a
// start then succeeds, no start is held that could let its TaskStart go: that and what
// comes after it is published when the container is deleted.
func (m *oldMachine) startFailed(now time.Time, err error) {
	was := m.phase
	if m.config.OnExit != nil {
		m.held.refused, m.notStarted, m.why = err, true, "the runtime could not start it, and onExit is told"
		if was == oldStartingExited {
			m.gone(now)
			return
		}
		m.neverStart(now)
		return
	}
	m.phase, m.why = oldCreated, "the runtime could not start it"
	m.do(Effect{Kind: Answer, Request: m.held.request, Err: err})
	m.held = nil
	switch was {
	case oldStartingStop:
		m.phase, m.why = oldStopping, "the runtime could not start it, and a stop was promised"
		m.do(Effect{Kind: SendSignal, Signal: m.stop})
	case oldStartingExited:
		m.phase = oldExited
	}
}

// killRequested is the table of docs/spec.md#stop and docs/spec.md#start.
func (m *oldMachine) killRequested(now time.Time, event Event) {
	switch {
	case event.Signal.Number == sigKILL:
		m.killed(now, event)
	case m.isStop(event.Signal.Number):
		m.stopped(now, event)
	default:
		m.why = "it is no stop signal"
		m.forward(event)
	}
}

func (m *oldMachine) forward(event Event) {
	m.do(Effect{Kind: Forward, Request: event.Request})
}

// isStop: under CRI a signal is sent only to stop, whichever it is; elsewhere
// docker's, ctr's and systemd's own, and the block's.
func (m *oldMachine) isStop(number uint32) bool {
	switch number {
	case sigNonexist, sigKILL:
		return false
	case sigTERM, sigINT, sigRTMINp3, m.config.StopSignal:
		return true
	default:
		return m.config.CRI && number <= sigRTMAX // the runtime has the words for what is no signal
	}
}

// killed: SIGKILL passes at once, but for CRI's, which is the grace deadline of
// a stop that it asked for.
func (m *oldMachine) killed(now time.Time, event Event) {
	preStopping := m.phase == oldPreStopping || m.phase == oldPreStopEnding
	if m.config.CRI && m.held == nil && preStopping {
		m.why = "CRI's SIGKILL is the deadline of the stop that it asked for"
		m.do(Effect{Kind: Answer, Request: event.Request})
		m.signalStop(StopDeadline)
		m.killAt = now.Add(signalTail)
		return
	}
	if m.phase == oldOnExiting || m.phase == oldOnExitEnding {
		m.why = "the process is gone, and onExit is what is left to be killed"
		m.do(Effect{Kind: Answer, Request: event.Request})
		m.endOnExit(now, ContainerKill)
		return
	}
	m.why = "SIGKILL is never held back"
	m.forward(event)
	switch m.phase {
	case oldPreStarting, oldPreStartEnding:
		m.abort(ContainerKill)
		m.failPreStart(StartError{Cause: ContainerKill, Signal: event.Signal})
		m.phase, m.limitAt = oldNotStarting, time.Time{}
		m.boundHeld(now, now)
	case oldStarting, oldStartingStop:
		m.failHeld(ContainerKill, event.Signal)
		m.phase = oldStartingPassed
	case oldPostStarting, oldPostStartEnding, oldPostStartStopping, oldPreStopping, oldPreStopEnding, oldRunning:
		m.abort(ContainerKill)
		m.failHeld(ContainerKill, event.Signal)
		m.phase = oldStopping
		m.killAt = time.Time{}
		m.boundHeld(now, now)
	case oldStopping:
		m.killAt = time.Time{}
		m.boundHeld(now, now)
	}
}

// stopped begins the stop sequence, or joins the one that is under way.
func (m *oldMachine) stopped(now time.Time, event Event) {
	switch m.phase {
	case oldStartingStop, oldPostStartStopping, oldPreStopping, oldPreStopEnding:
		m.why = "it joins the stop that is under way"
		m.do(Effect{Kind: Answer, Request: event.Request})
		return
	case oldOnExitDue, oldOnExiting, oldOnExitEnding:
		m.why = "it has ended, which is what was asked for"
		m.do(Effect{Kind: Answer, Request: event.Request})
		return
	case oldPreStarting, oldPreStartEnding:
		m.why = "nothing of the container runs yet, so there is nothing to stop but preStart"
		m.do(Effect{Kind: Answer, Request: event.Request})
		m.abort(StopRequest)
		m.failPreStart(StartError{Cause: StopRequest, Signal: event.Signal})
		m.neverStart(now)
		return
	case oldStarting, oldPostStarting, oldPostStartEnding, oldRunning:
	case oldStartingPassed, oldStopping:
		m.why = "a signal that ends it went before"
		m.forward(event)
		return
	default:
		m.why = "it does not run; the runtime has the words"
		m.forward(event)
		return
	}
	m.failHeld(StopRequest, event.Signal)
	if m.config.PreStop == nil {
		m.passStop(now, event)
		return
	}
	m.do(Effect{Kind: Answer, Request: event.Request})
	m.stop, m.stopSince, m.why = event.Signal, now, "a stop signal waits for preStop"
	switch m.phase {
	case oldStarting:
		m.phase = oldStartingStop
	case oldRunning:
		m.runPreStop(now)
	default:
		m.abort(StopRequest)
		m.phase = oldPostStartStopping
		m.limitAt = m.config.stopLimit(now, m.heldDeadline())
	}
}

// passStop: without preStop the signal passes through untouched; a held Start
// waits for what comes of it.
func (m *oldMachine) passStop(now time.Time, event Event) {
	m.why = "there is no preStop"
	m.forward(event)
	switch m.phase {
	case oldStarting:
		if m.config.PostStart != nil {
			m.phase = oldStartingPassed
		}
	case oldPostStarting, oldPostStartEnding:
		m.abort(StopRequest)
		m.phase = oldStopping
		m.boundPassed(now)
	}
}

// handlerEnded goes on with what the handler was waited for.
func (m *oldMachine) handlerEnded(now time.Time, result Result) {
	m.running = NoHandler
	switch m.phase {
	case oldPreStarting, oldPreStartEnding:
		m.preStartEnded(now, result)
	case oldOnExitDue:
		m.why = "the handler before it has ended"
		m.runOnExit(now)
	case oldOnExiting, oldOnExitEnding:
		m.why = "onExit has ended, however it did"
		m.exitDone(now)
	case oldPostStarting, oldPostStartEnding:
		m.postStartEnded(now, result)
	case oldPostStartStopping:
		if oldExitCame(result) {
			m.why = "the container's exit comes first, and there is nothing left for preStop"
			m.shareGracePeriod(now)
			m.signalStop(NoCause)
			return
		}
		m.why = "postStart has ended, and the stop goes on"
		m.runPreStop(now)
	case oldPreStopping, oldPreStopEnding:
		m.why = "preStop has ended, however it did"
		m.signalStop(NoCause)
	case oldDeleting:
		m.why = "what the Delete waited for has ended"
		m.callDeletes()
	default:
		m.why = "nothing waits for its end any more"
	}
}

// oldExitCame reports whether the handler has ended because the container's process has,
// whose exit is told later.
func oldExitCame(result Result) bool { return result.Cause == ContainerExit }

func (m *oldMachine) postStartEnded(now time.Time, result Result) {
	switch {
	case result.Outcome == Succeeded:
		m.why = "postStart has succeeded"
	case oldExitCame(result):
		m.why = "the container's exit comes first, and is no failure of postStart"
	case m.config.PostStart.IgnoreFailure:
		m.why = "postStart has failed, and failurePolicy is Ignore"
	default:
		m.why = "postStart has failed, and failurePolicy is Fail"
		m.failPostStart(now, result)
		return
	}
	m.phase = oldRunning
	m.finishStart()
}

// failPostStart stops the container, as the kubelet does.
func (m *oldMachine) failPostStart(now time.Time, result Result) {
	m.held.failure = &StartError{Message: result.Message}
	m.stop, m.stopSince = Signal{Number: m.failureSignal()}, now
	m.runPreStop(now)
}

// exited: nothing is started in it any more; what was held is let go, but what
// waits for onExit.
func (m *oldMachine) exited(now time.Time) {
	switch m.phase {
	case oldStarting, oldStartingStop, oldStartingPassed:
		m.phase, m.why = oldStartingExited, "the runtime's start has not returned yet"
		return
	case oldStartingExited, oldOnExitDue, oldOnExiting, oldOnExitEnding, oldExited, oldDeleting, oldDeleted:
		m.why = "it is known"
		return
	case oldPreStarting, oldPreStartEnding:
		m.failPreStart(StartError{Cause: ContainerExit})
	}
	m.why = "nothing is started any more, and what was held is let go"
	m.abort(ContainerExit)
	m.gone(now)
}

// gone: the process has been reaped and the runtime's start has returned. onExit
// is next, once for each start. A start that has not failed is answered now, one
// that has when onExit has ended: whoever is told of a failure deletes.
func (m *oldMachine) gone(now time.Time) {
	if m.config.OnExit == nil || m.phase == oldCreated {
		m.exitDone(now)
		return
	}
	m.why = "it has exited, and onExit is due"
	if m.held != nil && m.held.failure == nil && m.held.refused == nil {
		m.finishStart()
	}
	m.phase = oldOnExitDue
	m.limitAt, _ = m.config.onExitLimit(now, m.heldDeadline())
	if m.running == NoHandler {
		m.runOnExit(now)
	}
}

// exitDone lets everybody go who waits for the container's end.
func (m *oldMachine) exitDone(now time.Time) {
	m.phase = oldExited
	if m.config.OnExit != nil {
		m.do(Effect{Kind: ReleaseExit})
	}
	m.finishStart()
	if len(m.deletes) > 0 && m.running != NoHandler {
		m.phase, m.limitAt = oldDeleting, now.Add(deleteWait)
		return
	}
	m.callDeletes()
}

// deadlineReached does what the passing of time leads to. Deadlines that are
// past as well come up at the next call.
func (m *oldMachine) deadlineReached(now time.Time) {
	if due := m.Deadline(); due.IsZero() || now.Before(due) {
		m.why = "nothing is due yet"
		return
	}
	switch m.phase {
	case oldPreStarting:
		m.why = "preStart's time is up"
		m.abort(TimeLimit)
		m.phase = oldPreStartEnding
		m.limitAt = abortLimit(now, m.heldDeadline())
	case oldPreStartEnding:
		m.why = "preStart does not end, and the entrypoint does not run beside it"
		m.failPreStart(StartError{Message: "timed out, and its process cannot be ended"})
		m.neverStart(now)
	case oldNotStarting:
		m.notStartingDue(now)
	case oldOnExitDue:
		m.why = "a handler does not end, and onExit does not run beside it"
		m.exitDone(now)
	case oldOnExiting:
		m.why = "onExit's time is up"
		m.endOnExit(now, TimeLimit)
	case oldOnExitEnding:
		m.why = "onExit does not end, and is not waited for any longer"
		m.exitDone(now)
	case oldPostStarting:
		m.why = "postStart's time is up"
		m.abort(TimeLimit)
		m.phase = oldPostStartEnding
		m.limitAt = abortLimit(now, m.heldDeadline())
	case oldPostStartEnding:
		m.postStartEnded(now, Result{Outcome: TimedOut, Message: "timed out, and its process cannot be ended"})
	case oldPostStartStopping:
		m.runPreStop(now)
	case oldPreStopping:
		m.preStopDue(now)
	case oldPreStopEnding:
		m.why = "preStop does not end, and is not waited for any longer"
		m.signalStop(StopDeadline)
	case oldStopping:
		m.stoppingDue()
	case oldDeleting:
		m.why = "a handler does not end, and is not waited for any longer"
		m.callDeletes()
	}
}

func (m *oldMachine) preStopDue(now time.Time) {
	if m.signalAt.IsZero() || now.Before(m.signalAt) {
		m.why = "preStop's own time is up"
		m.abort(TimeLimit)
		m.phase = oldPreStopEnding
		m.limitAt = now.Add(abortWait)
		return
	}
	m.why = "preStop's share of the grace period is over"
	m.signalStop(StopDeadline)
}

func (m *oldMachine) notStartingDue(now time.Time) {
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
		m.why = "it does not exit; the runtime has the words"
		m.callDeletes()
		return
	}
	m.why = "it does not exit, and its onExit is not to be lost with it"
	for _, request := range m.deletes {
		m.do(Effect{Kind: Answer, Request: request, Err: &RefusedError{"cannot delete a process that was killed and has not exited yet: try again"}})
	}
	m.deletes = m.deletes[:0]
}

func (m *oldMachine) stoppingDue() {
	if !m.killAt.IsZero() { // it comes before answerBy
		m.killAt, m.why = time.Time{}, "the grace period is over"
		m.do(Effect{Kind: SendSignal, Signal: Signal{Number: sigKILL, All: m.stop.All}})
		return
	}
	m.why = "the start cannot be held any longer"
	m.held.failure.Running = true
	m.finishStart()
}

// deleteRequested: the runtime has the words where the container still runs. An
// exited one first loses the handler that may still run in it.
func (m *oldMachine) deleteRequested(now time.Time, event Event) {
	if m.config.OnExit != nil && m.runs() {
		m.why = "it runs, and its onExit is not to be lost with it"
		m.do(Effect{Kind: Answer, Request: event.Request, Err: &RefusedError{"cannot delete a running process: stop the container first"}})
		return
	}
	m.deletes = append(m.deletes, event.Request)
	switch {
	case m.preStarting():
		m.why = "the entrypoint is not going to run any more"
		m.abort(ContainerDelete)
		m.failPreStart(StartError{Cause: ContainerDelete})
		m.neverStart(now)
		m.limitAt = now.Add(deleteWait)
	case m.phase == oldNotStarting:
		m.why = "its process is being killed"
		m.limitAt = now.Add(deleteWait)
	case m.phase >= oldOnExitDue && m.phase <= oldOnExitEnding:
		m.why = "it waits for onExit"
	case m.phase == oldExited && m.running != NoHandler:
		m.why = "a handler still runs"
		m.abort(ContainerDelete)
		m.phase = oldDeleting
		m.limitAt = now.Add(deleteWait)
	case m.phase == oldDeleting:
		m.why = "it joins the Delete that waits"
	default:
		m.why = "nothing has to end first; the runtime has the words"
		m.callDeletes()
	}
}

func (m *oldMachine) callDeletes() {
	if m.phase == oldDeleting {
		m.phase = oldExited
	}
	for _, request := range m.deletes {
		m.do(Effect{Kind: CallDelete, Request: request})
	}
	m.deletes = m.deletes[:0]
}

func (m *oldMachine) deleteReturned(err error) {
	switch {
	case err != nil:
		m.why = "the runtime has refused"
		return
	case m.phase == oldDeleted:
		m.why = "it is known"
		return
	}
	m.why = "it is gone"
	m.abort(ContainerDelete)
	if m.preStarting() {
		m.failPreStart(StartError{Cause: ContainerDelete})
	}
	starting := m.starting()
	if m.config.OnExit != nil && m.phase < oldExited {
		m.do(Effect{Kind: ReleaseExit})
	}
	m.phase = oldDeleted
	if !starting {
		m.finishStart()
	}
	m.callDeletes()
}

func (m *oldMachine) starting() bool { return m.phase.Starting() }

// preStarting reports whether preStart runs, and the runtime has not been asked to
// start the process.
func (m *oldMachine) preStarting() bool {
	return m.phase == oldPreStarting || m.phase == oldPreStartEnding
}

// runs reports whether the container's process may run.
func (m *oldMachine) runs() bool { return m.phase >= oldStarting && m.phase <= oldStopping }

// runPreStart inside the container that has been created.
func (m *oldMachine) runPreStart(now time.Time) {
	m.phase = oldPreStarting
	m.running = PreStart
	limit, owner := m.config.startLimit(m.config.PreStart, now, m.held.deadline)
	m.limitAt = limit
	m.do(Effect{Kind: RunHandler, Handler: PreStart, Limit: limit, LimitOwner: owner})
}

// preStartEnded starts the entrypoint, or makes sure that it never runs.
func (m *oldMachine) preStartEnded(now time.Time, result Result) {
	exited := oldExitCame(result)
	switch {
	case result.Outcome == Succeeded:
		m.why = "preStart has succeeded"
	case !exited && m.config.PreStart.IgnoreFailure:
		m.why = "preStart has failed, and failurePolicy is Ignore"
	default:
		m.why = "preStart has failed, and the entrypoint never runs"
		failure := StartError{Message: result.Message}
		if exited {
			m.why, failure = "there is nothing left to start", StartError{Cause: ContainerExit}
		}
		m.failPreStart(failure)
		m.neverStart(now)
		return
	}
	m.phase = oldStarting
	m.do(Effect{Kind: CallStart, Request: m.held.request})
}

// failPreStart notes what the start will be answered with.
func (m *oldMachine) failPreStart(failure StartError) {
	failure.Handler = PreStart
	m.held.failure, m.notStarted = &failure, true
}

// neverStart kills the process that waits to become the entrypoint.
func (m *oldMachine) neverStart(now time.Time) {
	m.phase, m.limitAt = oldNotStarting, time.Time{}
	m.do(Effect{Kind: SendSignal, Signal: Signal{Number: sigKILL}})
	m.boundHeld(now, now)
}

// runOnExit after the container's process, in a tree of its own.
func (m *oldMachine) runOnExit(now time.Time) {
	m.phase = oldOnExiting
	m.running = OnExit
	limit, owner := m.config.onExitLimit(now, m.heldDeadline())
	m.limitAt = limit
	m.do(Effect{Kind: RunHandler, Handler: OnExit, Limit: limit, LimitOwner: owner, NotStarted: m.notStarted})
}

// endOnExit because of cause.
func (m *oldMachine) endOnExit(now time.Time, cause Cause) {
	m.abort(cause)
	if m.phase == oldOnExiting {
		m.phase, m.limitAt = oldOnExitEnding, abortLimit(now, m.heldDeadline())
	}
}

// heldDeadline is that of the start that is held, zero where none is.
func (m *oldMachine) heldDeadline() time.Time {
	if m.held == nil {
		return time.Time{}
	}
	return m.held.deadline
}

// runPostStart inside the container that has just been started.
func (m *oldMachine) runPostStart(now time.Time) {
	m.phase = oldPostStarting
	m.running = PostStart
	limit, owner := m.config.startLimit(m.config.PostStart, now, m.held.deadline)
	m.limitAt = limit
	m.do(Effect{Kind: RunHandler, Handler: PostStart, Limit: limit, LimitOwner: owner})
}

// runPreStop begins the stop that was asked for at stopSince: preStop if there
// is one and nothing runs in its place, then the signal.
func (m *oldMachine) runPreStop(now time.Time) {
	owner := m.shareGracePeriod(now)
	if m.config.PreStop == nil || m.running != NoHandler {
		if m.running != NoHandler {
			m.why = "postStart does not end, and preStop does not run beside it"
		}
		m.signalStop(NoCause)
		return
	}
	m.phase = oldPreStopping
	m.running = PreStop
	m.limitAt = time.Time{}
	limit := m.signalAt
	if m.config.PreStop.Timeout > 0 {
		m.limitAt = now.Add(m.config.PreStop.Timeout)
		if limit.IsZero() || m.limitAt.Before(limit) {
			limit, owner = m.limitAt, HandlerTimeout
		}
	}
	m.do(Effect{Kind: RunHandler, Handler: PreStop, Signal: m.stop, Deadline: m.signalAt, Limit: limit, LimitOwner: owner})
}

// shareGracePeriod sets the times of the stop that was asked for at stopSince.
// Under CRI there are none, the deadline being CRI's, unless a Start is held. It
// returns whose they are.
func (m *oldMachine) shareGracePeriod(now time.Time) Owner {
	if m.held == nil && m.config.CRI {
		return CRI
	}
	grace, owner := m.config.gracePeriod()
	if m.held != nil {
		grace, owner = m.config.heldGracePeriod(m.stopSince, m.held.deadline)
	}
	m.signalAt = m.stopSince.Add(signalAfter(grace))
	exitAt := m.stopSince.Add(grace)
	failed := m.held != nil && m.held.failure.Cause == NoCause
	if failed || (m.config.GracePeriod > 0 && !m.config.CRI) {
		m.killAt = m.stopSince.Add(killAfter(grace))
	}
	m.boundHeld(now, exitAt)
	return owner
}

// signalStop sends the signal of the stop under way. A handler that still runs
// is ended because of cause.
func (m *oldMachine) signalStop(cause Cause) {
	if cause != NoCause {
		m.abort(cause)
	}
	m.phase = oldStopping
	m.do(Effect{Kind: SendSignal, Signal: m.stop})
}

// failureSignal ends a container whose postStart failed.
func (m *oldMachine) failureSignal() uint32 {
	if m.config.StopSignal != 0 {
		return m.config.StopSignal
	}
	return sigTERM
}

func (m *oldMachine) abort(cause Cause) {
	if m.running != NoHandler {
		m.do(Effect{Kind: AbortHandler, Cause: cause})
	}
}

// failHeld notes what a held Start will be answered with. The first reason
// stands.
func (m *oldMachine) failHeld(cause Cause, signal Signal) {
	if m.held != nil && m.config.PostStart != nil && m.held.failure == nil {
		m.held.failure = &StartError{Cause: cause, Signal: signal}
	}
}

// boundHeld makes sure that a held Start is answered, whatever becomes of the
// container, which should have exited at exitAt.
func (m *oldMachine) boundHeld(now, exitAt time.Time) {
	if m.held != nil {
		m.held.answerBy = answerBy(now, exitAt, m.held.deadline)
	}
}

// boundPassed does so after a signal that was passed on: SIGKILL ends a container
// at once, a stop signal within the grace period, or never.
func (m *oldMachine) boundPassed(now time.Time) {
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

// finishStart releases the start and answers it.
func (m *oldMachine) finishStart() {
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

func (m *oldMachine) answerStart(err error) {
	request := m.held.request
	m.held = nil
	m.do(Effect{Kind: ReleaseStart})
	m.do(Effect{Kind: Answer, Request: request, Err: err})
}
