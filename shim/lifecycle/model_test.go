package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// model is the world around a machine, as far as the promises of docs/spec.md#promises need
// it. It offers what can happen next, carries out the effects, and records the
// first promise that is broken.
type model struct {
	machine Machine
	config  Config
	now     time.Time

	// The state of the world.
	startCalled   bool // the runc service's Start has been called and has not returned
	started       bool // it has returned without error
	exited        bool // the process has exited
	exitReported  bool // and the machine knows it
	deleted       bool
	handler       Kind // that runs
	cause         Cause
	deleteCalls   int
	waiting       []waiter
	requests      int
	startReleased bool
	exitReleased  bool

	// What has been done.
	preStops, stopsSent, killsSent int
	stopDeferred, killPassed       bool
	criKill                        bool
	failed                         bool // postStart has failed
	preStarted                     bool // preStart has ended, and the entrypoint may run
	never                          bool // the entrypoint must not run any more
	onExits                        int
	used                           [6]int
	broken                         string
}

type waiter struct {
	id    RequestID
	start bool
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newModel(config Config) *model {
	return &model{machine: *New(config), config: config, now: epoch}
}

// clone copies everything that a step can change.
func (w *model) clone() *model {
	c := *w
	c.waiting = slices.Clone(w.waiting)
	c.machine.deletes = slices.Clone(w.machine.deletes)
	c.machine.effects = nil
	if w.machine.held != nil {
		held := *w.machine.held
		if held.failure != nil {
			failure := *held.failure
			held.failure = &failure
		}
		c.machine.held = &held
	}
	return &c
}

func (w *model) breaks(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

// action is something that can happen to the container.
type action struct {
	name string
	do   func(w *model)
}

var errModel = errors.New("refused")

// actions lists what can happen now. The number of requests is limited, so that
// the number of paths is.
func (w *model) actions() []action {
	var all []action
	add := func(possible bool, name string, do func(*model)) {
		if possible {
			all = append(all, action{name, do})
		}
	}
	request := func(budget, most int, name string, event Event) {
		add(w.used[budget] < most, name, func(w *model) {
			w.used[budget]++
			w.ask(event)
		})
	}
	request(0, 2, "Start", Event{Kind: StartRequested})
	request(0, 1, "Start with a deadline", Event{Kind: StartRequested, Deadline: w.now.Add(time.Minute)})
	request(1, 2, "Kill TERM", Event{Kind: KillRequested, Signal: Signal{Number: sigTERM}})
	request(2, 2, "Kill KILL", Event{Kind: KillRequested, Signal: Signal{Number: sigKILL}})
	request(3, 1, "Kill HUP", Event{Kind: KillRequested, Signal: Signal{Number: 1}})
	request(4, 2, "Delete", Event{Kind: DeleteRequested})
	add(w.startCalled, "start returns", func(w *model) { w.startReturns(nil) })
	add(w.startCalled && !w.started, "start fails", func(w *model) { w.startReturns(errModel) })
	add(w.handler != NoHandler, "handler succeeds", func(w *model) { w.handlerEnds(Result{Outcome: Succeeded}) })
	add(w.handler != NoHandler, "handler fails", func(w *model) { w.handlerEnds(Result{Outcome: Failed}) })
	add(w.handler != NoHandler && w.cause != NoCause, "handler is ended", func(w *model) { w.handlerEnds(ended(w.cause)) })
	add(w.handler != NoHandler && !w.exitReported, "handler dies with the container", func(w *model) {
		w.exited = true
		w.handlerEnds(ended(ContainerExit))
	})
	add(!w.exitReported, "exit", func(w *model) { w.exits() })
	add(w.deleteCalls > 0, "delete returns", func(w *model) { w.deleteReturns() })
	add(!w.machine.Deadline().IsZero(), "time", func(w *model) { w.time() })
	return all
}

func ended(cause Cause) Result {
	if cause == TimeLimit {
		return Result{Outcome: TimedOut}
	}
	return Result{Outcome: Aborted, Cause: cause}
}

func (w *model) ask(event Event) {
	w.requests++
	event.Request = RequestID(w.requests)
	w.waiting = append(w.waiting, waiter{id: event.Request, start: event.Kind == StartRequested})
	inPreStop := w.handler == PreStop
	inPreStart := w.machine.Stage() == StagePreStart
	afterExit := w.machine.Stage() == StageOnExit
	stops := event.Kind == KillRequested && (event.Signal.Number == sigTERM || w.config.CRI && event.Signal.Number != sigKILL)
	if inPreStart && (event.Kind == DeleteRequested || event.Signal.Number == sigKILL || stops) {
		w.never = true
	}
	effects := w.step(event)
	if event.Kind != KillRequested {
		return
	}
	if afterExit && event.Signal.Number == sigKILL && w.handler == OnExit && w.cause == NoCause {
		w.breaks("SIGKILL does not abort onExit")
	}
	if afterExit || inPreStart && stops {
		return // there is no process to signal, and nothing that a stop waits for
	}
	forwarded := slices.ContainsFunc(effects, func(e Effect) bool { return e.Kind == Forward && e.Request == event.Request })
	switch event.Signal.Number {
	case sigKILL:
		if !forwarded && !w.config.CRI {
			w.breaks("SIGKILL is held back outside CRI")
		}
		if !forwarded && !inPreStop {
			w.breaks("SIGKILL is held back although no preStop runs")
		}
		w.killPassed = w.killPassed || forwarded
		w.criKill = w.criKill || !forwarded
	case sigTERM:
		w.stopDeferred = w.stopDeferred || !forwarded
		if !forwarded && w.config.PreStop == nil {
			w.breaks("a stop signal is held back although the container has no preStop")
		}
	default:
		if !forwarded && !w.config.CRI {
			w.breaks("a signal that is no stop signal is held back")
		}
		w.stopDeferred = w.stopDeferred || !forwarded
	}
}

func (w *model) startReturns(err error) {
	w.startCalled, w.started = false, err == nil
	w.never = w.never || err != nil && w.config.OnExit != nil
	w.step(Event{Kind: StartReturned, Err: err})
}

func (w *model) handlerEnds(result Result) {
	kind := w.handler
	w.handler, w.cause = NoHandler, NoCause
	if kind == PostStart && (result.Outcome == Failed || result.Outcome == TimedOut) && w.machine.Stage() == StagePostStart && !w.machine.stop.waits() {
		w.failed = true
	}
	if kind == PreStart {
		w.preStarted = result.Outcome == Succeeded || result.Cause != ContainerExit && w.config.PreStart.IgnoreFailure
		w.never = w.never || !w.preStarted
	}
	effects := w.step(Event{Kind: HandlerEnded, Result: result})
	if result.Cause == ContainerExit && slices.ContainsFunc(effects, func(e Effect) bool { return e.Kind == RunHandler && e.Handler == PreStop }) {
		w.breaks("preStop runs although the container's exit ended %s", kind)
	}
}

func (w *model) exits() {
	w.exited, w.exitReported = true, true
	w.never = w.never || w.machine.Stage() == StagePreStart
	asked := w.machine.Stage() != StageCreated
	w.step(Event{Kind: ContainerExited})
	if w.config.OnExit != nil && asked && w.handler == NoHandler && !w.startCalled && w.onExits == 0 && !w.deleted {
		w.breaks("no onExit follows the exit")
	}
	if w.handler != NoHandler && w.handler != OnExit && w.cause == NoCause {
		w.breaks("%s is not aborted in a container that has exited", w.handler)
	}
	if w.machine.StartHeld() && !w.startCalled && w.exitReleased == (w.config.OnExit != nil) {
		w.breaks("the start is still held after the exit, so TaskStart would come after TaskExit")
	}
}

func (w *model) deleteReturns() {
	w.deleteCalls--
	var err error
	if w.deleted || !(w.exitReported || !w.started && !w.startCalled) {
		err = errModel // it runs, or is deleted already
	}
	w.deleted = w.deleted || err == nil
	w.step(Event{Kind: DeleteReturned, Err: err})
}

func (w *model) time() {
	if due := w.machine.Deadline(); due.After(w.now) {
		w.now = due
	}
	before, ending, stopWaits := w.machine.Stage(), w.machine.handler.ending, w.machine.stop.waits()
	w.never = w.never || before == StagePreStart && ending
	w.step(Event{Kind: DeadlineReached})
	if before == StagePostStart && ending && !stopWaits && w.machine.Stage() != StageRunning {
		w.failed = true
	}
}

func (w *model) step(event Event) []Effect {
	effects := slices.Clone(w.machine.Step(w.now, event))
	if w.machine.Why() == "" {
		w.breaks("%s in %s: the machine gives no reason", event.Kind, w.machine.Stage())
	}
	for _, effect := range effects {
		w.carryOut(effect)
	}
	return effects
}

func (w *model) carryOut(effect Effect) {
	switch effect.Kind {
	case CallStart:
		w.startCalled = true
		if w.never {
			w.breaks("the entrypoint is started although it must not run any more")
		}
		if w.config.PreStart != nil && !w.preStarted {
			w.breaks("the entrypoint is started before preStart has succeeded")
		}
	case CallDelete:
		if w.config.OnExit != nil && w.started && !w.exitReleased {
			w.breaks("a container is deleted before its onExit has ended")
		}
		w.answered(effect.Request)
		w.deleteCalls++
	case Forward:
		w.answered(effect.Request)
	case Answer:
		if w.answered(effect.Request) && w.started && !w.startReleased {
			w.breaks("a start is answered before TaskStart is released")
		}
	case RunHandler:
		w.runs(effect)
	case AbortHandler:
		if w.handler == NoHandler {
			w.breaks("a handler is aborted although none runs")
		}
		if w.cause == NoCause {
			w.cause = effect.Cause
		}
	case SendSignal:
		w.sends(effect.Signal)
	case ReleaseStart:
		w.startReleased = true
	case ReleaseExit:
		if w.exitReleased || w.config.OnExit == nil {
			w.breaks("the exit is released twice, or was not held")
		}
		if w.handler == OnExit && w.cause == NoCause || !w.exitReported && !w.deleted {
			w.breaks("the exit is released too early")
		}
		w.exitReleased = true
	}
}

// answered reports whether the request was a start.
func (w *model) answered(id RequestID) bool {
	for i, waiting := range w.waiting {
		if waiting.id == id {
			w.waiting = slices.Delete(w.waiting, i, i+1)
			return waiting.start
		}
	}
	w.breaks("request %d is answered twice", id)
	return false
}

func (w *model) runs(effect Effect) {
	if w.handler != NoHandler {
		w.breaks("%s starts while %s runs", effect.Handler, w.handler)
	}
	w.handler, w.cause = effect.Handler, NoCause
	switch effect.Handler {
	case PreStart:
		w.preStarted = false
		if w.started || w.startCalled || w.exitReported {
			w.breaks("preStart runs although the entrypoint may have begun")
		}
	case OnExit:
		w.onExits++
		if !w.exitReported || w.startCalled || w.exitReleased || w.onExits > 1 || effect.NotStarted == w.started {
			w.breaks("onExit runs before the exit, twice, or with a wrong NotStarted")
		}
	default:
		if !w.started || w.exitReported {
			w.breaks("%s runs in a container that is not running", effect.Handler)
		}
	}
	if effect.Handler == PreStop {
		w.preStops++
		if w.preStops > 1 {
			w.breaks("preStop runs twice")
		}
		if !w.stopDeferred && !w.failed && w.machine.stop.signal.Number == 0 {
			w.breaks("preStop runs although no stop was requested")
		}
	}
}

func (w *model) sends(signal Signal) {
	if signal.Number != sigKILL {
		w.stopsSent++
		if w.stopsSent > 1 {
			w.breaks("the stop signal is sent twice")
		}
		return
	}
	w.killsSent++
	if w.killsSent > 1 {
		w.breaks("SIGKILL is sent twice")
	}
	allowed := w.failed || w.never || w.criKill || (!w.config.CRI && w.config.GracePeriod > 0)
	if !allowed {
		w.breaks("the shim sends SIGKILL although the deadline is not its own")
	}
}

// onlyTime lets only time pass. The runc service answers, and every handler is
// stuck. It checks what must have happened then.
func (w *model) onlyTime() {
	if w.startCalled {
		w.startReturns(nil)
	}
	for range 20 {
		if w.machine.Deadline().IsZero() {
			break
		}
		w.time()
	}
	if !w.machine.Deadline().IsZero() {
		w.breaks("there is always another deadline, in %s", w.machine.Stage())
	}
	if w.config.OnExit != nil && w.exitReported && !w.exitReleased {
		w.breaks("the exit is never released, in %s", w.machine.Stage())
	}
	if len(w.waiting) > 0 {
		w.breaks("request %d is never answered, in %s", w.waiting[0].id, w.machine.Stage())
	}
	if w.stopDeferred && !w.config.CRI && !w.exitReported && !w.exited && !w.killPassed && !w.deleted && w.stopsSent != 1 && w.killsSent == 0 {
		w.breaks("a stop was requested, and its signal is never sent, in %s", w.machine.Stage())
	}
}

// key identifies worlds that have the same future.
type key struct {
	stage                               Stage
	slot                                handlerSlot
	held                                heldStart
	failure                             StartError
	isHeld                              bool
	stop                                Signal
	sent                                bool
	stopSince, limit, signal, kill, now time.Duration
	deletes, waiting                    int
	world                               [14]bool
	handler                             Kind
	cause                               Cause
	deleteCalls                         int
	used                                [6]int
	counts                              [4]int
}

func since(t time.Time) time.Duration {
	if t.IsZero() {
		return -1
	}
	return t.Sub(epoch)
}

func (w *model) key() key {
	m := &w.machine
	k := key{
		stage: m.stage, slot: m.handler, stop: m.stop.signal, sent: m.stop.sent, now: since(w.now),
		stopSince: since(m.stop.since), limit: since(m.limitAt), signal: since(m.signalAt), kill: since(m.killAt),
		deletes: len(m.deletes), waiting: len(w.waiting),
		world: [14]bool{
			w.startCalled, w.started, w.exited, w.exitReported, w.deleted, w.stopDeferred, w.killPassed, w.failed,
			w.exitReleased, w.preStarted, w.never, m.notStarted, w.startReleased, w.criKill,
		},
		handler: w.handler, cause: w.cause, deleteCalls: w.deleteCalls, used: w.used,
		counts: [4]int{w.preStops, w.stopsSent, w.killsSent, w.onExits},
	}
	if held := m.held; held != nil {
		k.isHeld, k.held = true, *held
		if held.failure != nil {
			k.failure = *held.failure
			k.held.failure = nil
		}
	}
	return k
}
