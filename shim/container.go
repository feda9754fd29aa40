package shim

import (
	"cmp"
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// handlers is what the loop needs to run a container's handlers. runner.Runner implements
// it.
type handlers interface {
	// Started is called when the container's process has started.
	Started(ctx context.Context, pid int, exited <-chan struct{}) error
	// Run runs one handler until it has ended or ctx is cancelled.
	Run(ctx context.Context, run runner.Run) hookexec.Result
	// Unpark ends the parked handler, whose process was started before the machine ran it.
	// It may be called at any time, from any goroutine.
	Unpark()
	// Signal sends a signal that no client requested.
	Signal(ctx context.Context, signal lifecycle.Signal) error
	// Close is called once, when nothing is run or signalled any more.
	Close()
}

// containerConfig is what a container is made from.
type containerConfig struct {
	id      string
	machine lifecycle.Config
	// maxTimeout is the operator's limit of a trial, 0 if there is none.
	maxTimeout time.Duration
	// block is what the annotations ask for.
	block    *lifecyclev1.Block
	handlers handlers
	events   *tap.Tap
	observer observer
}

// container is one with handlers. Other goroutines reach its loop through ask and post.
type container struct {
	id       string
	ctx      context.Context // for the log; it is not cancelled
	handlers handlers
	gate     *tap.Gate
	observer observer
	block    *lifecyclev1.Block
	// trialLimit ends a trial whose handler has no own limit, and trialSignal is
	// the stop signal that a preStop on trial gets.
	trialLimit time.Duration
	// trialMost is the operator's limit of a trial, 0 if there is none.
	trialMost   time.Duration
	trialSignal uint32

	// status of the machine after its last step. While a start is held, State returns
	// CREATED for RUNNING.
	status atomic.Pointer[lifecycle.Status]
	// runs of its handlers, for the status service.
	runs runlog
	// created is closed when Create returns, successfully or not. Until then its handlers
	// are being prepared, and only Unpark may be called.
	created chan struct{}
	// killed: a SIGKILL was requested, or sent.
	killed atomic.Bool
	// exited is closed once the first exit is in the mailbox.
	exited   chan struct{}
	exitOnce sync.Once
	// ended is closed when no client has to wait for onExit any more; it is nil without
	// one.
	ended     chan struct{}
	endedOnce sync.Once
	// deleted is closed when the loop knows that the container is deleted, or has ended.
	deleted     chan struct{}
	deletedOnce sync.Once

	mu sync.Mutex
	// mailbox of the loop. It has no limit, because nothing may wait for the loop; the
	// requests under way bound what is in it.
	mailbox []message
	// closed: the loop has ended, and requests are forwarded.
	closed bool
	// trial is what an operator runs now, nil if nothing.
	trial *trial
	wake  chan struct{} // capacity 1: a token says that there is a message

	// Only the loop uses what follows.

	machine *lifecycle.Machine
	now     time.Time // of the step
	waiting map[lifecycle.RequestID]chan verdict
	calls   sync.WaitGroup // goroutines that run a handler or send a signal
	lastID  lifecycle.RequestID
	abort   context.CancelCauseFunc // of the handler that was run last, nil before the first
	running *handlerRun             // the handler that was run last
	limit   time.Duration           // of the running handler, from its start, as planned
}

// message is an event on its way to the loop.
type message struct {
	event lifecycle.Event
	// verdict is nil unless a request waits. Its capacity is 2: a request gets at most two
	// verdicts, so the loop never waits.
	verdict chan verdict
}

// verdict is the machine's reply to a request.
type verdict struct {
	kind lifecycle.EffectKind // CallStart, CallDelete, Forward or Answer
	err  error
}

// newContainer returns a container whose loop does not run yet. ctx is only for the log.
func newContainer(ctx context.Context, config containerConfig) *container {
	namespace, _ := namespaces.Namespace(ctx)
	logger := log.G(ctx).WithFields(log.Fields{"namespace": namespace, "id": config.id})
	c := &container{
		id:       config.id,
		ctx:      log.WithLogger(context.WithoutCancel(ctx), logger),
		handlers: config.handlers,
		observer: config.observer,
		block:    config.block,
		created:  make(chan struct{}),
		exited:   make(chan struct{}),
		deleted:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
		machine:  lifecycle.New(config.machine),
		waiting:  make(map[lifecycle.RequestID]chan verdict),

		trialLimit:  config.machine.DefaultPostStartTimeout,
		trialMost:   config.maxTimeout,
		trialSignal: cmp.Or(config.machine.StopSignal, uint32(unix.SIGTERM)),
	}
	c.gate = config.events.Gate(c.id, func() { c.post(lifecycle.Event{Kind: lifecycle.ContainerExited}) })
	c.status.Store(&lifecycle.Status{})
	if config.machine.OnExit != nil {
		c.ended = make(chan struct{})
	}
	return c
}

// request is one that waits for the machine.
type request struct{ verdict chan verdict }

// ask hands a request to the loop.
func (c *container) ask(event lifecycle.Event) *request {
	r := &request{verdict: make(chan verdict, 2)}
	if !c.send(message{event: event, verdict: r.verdict}) {
		r.verdict <- verdict{kind: lifecycle.Forward}
	}
	return r
}

// wait returns the next verdict, which always comes.
func (r *request) wait() verdict { return <-r.verdict }

// post reports an event to the loop.
func (c *container) post(event lifecycle.Event) {
	c.send(message{event: event})
	if event.Kind == lifecycle.ContainerExited {
		// Last, so that the loop takes the exit before the end of a handler that waits for it.
		c.exitOnce.Do(func() { close(c.exited) })
	}
}

func (c *container) send(m message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.mailbox = append(c.mailbox, m)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

// loop takes the container's events until it is deleted or ctx ends.
func (c *container) loop(ctx context.Context) {
	defer c.end()
	defer c.recovered("decide for the container any more")
	timer := time.NewTimer(time.Hour)
	for !c.machine.Done() {
		c.setTimer(timer)
		select {
		case <-c.wake:
			// One at a time: if a step panics, end answers the rest.
			for m, ok := c.take(); ok; m, ok = c.take() {
				c.step(m)
			}
		case <-timer.C:
			c.step(message{event: lifecycle.Event{Kind: lifecycle.DeadlineReached}})
		case <-ctx.Done():
			return
		}
	}
}

func (c *container) setTimer(timer *time.Timer) {
	timer.Stop()
	if deadline := c.machine.Deadline(); !deadline.IsZero() {
		timer.Reset(time.Until(deadline))
	}
}

func (c *container) take() (message, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mailbox) == 0 {
		return message{}, false
	}
	m := c.mailbox[0]
	c.mailbox = c.mailbox[1:]
	return m, true
}

// step gives one event to the machine, and carries out the effects.
func (c *container) step(m message) {
	event := m.event
	if m.verdict != nil {
		c.lastID++
		event.Request = c.lastID
		c.waiting[event.Request] = m.verdict
	}
	if event.Kind == lifecycle.HandlerEnded {
		c.observer.countRun(c.running)
	}
	before := c.machine.Status()
	c.now = time.Now()
	effects := c.machine.Step(c.now, event)
	// Before the effects: a client that learns of the start must see its status.
	status := c.machine.Status()
	c.status.Store(&status)
	c.observer.step(c.ctx, step{event, before, status, effects, c.machine.Why()})
	for _, effect := range effects {
		c.carryOut(effect)
	}
	if c.machine.Stage() == lifecycle.StageDeleted {
		c.closeDeleted()
	}
}

func (c *container) carryOut(effect lifecycle.Effect) {
	switch effect.Kind {
	case lifecycle.CallStart, lifecycle.CallDelete, lifecycle.Forward, lifecycle.Answer:
		c.reply(effect)
	case lifecycle.RunHandler:
		c.run(effect)
	case lifecycle.AbortHandler:
		c.abortRun(causeError(effect.Cause, c.limit))
	case lifecycle.SendSignal:
		c.calls.Go(func() { c.signal(effect.Signal) })
	case lifecycle.ReleaseStart:
		c.gate.Release()
	case lifecycle.ReleaseExit:
		c.releaseExit()
	}
}

func (c *container) reply(effect lifecycle.Effect) {
	c.waiting[effect.Request] <- verdict{kind: effect.Kind, err: effect.Err}
	if effect.Kind != lifecycle.CallStart { // its answer follows later
		delete(c.waiting, effect.Request)
	}
}

// run starts the handler's goroutine, whose end is an event.
func (c *container) run(effect lifecycle.Effect) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	began := c.now // the limit counts from the step: a second time.Now() would sometimes show 0.9 s
	c.abort, c.limit = cancel, effect.Limit.Sub(began)
	handler := oci.HandlerOf(c.block, effect.Handler.String())
	run := &handlerRun{
		kind: effect.Handler, handler: handler, began: began, limit: effect.Limit, limitOwner: effect.LimitOwner,
	}
	c.running = run
	c.calls.Go(func() {
		defer cancel(nil)
		result := lifecycle.Result{Outcome: lifecycle.Failed, Message: "internal error"} // of a panic
		defer func() { c.post(lifecycle.Event{Kind: lifecycle.HandlerEnded, Result: result}) }()
		defer c.recovered("report the end of a handler")
		c.endTrial(ctx) // at most one handler runs at a time
		result = c.runToEnd(ctx, run, effect)
	})
}

// abortRun aborts the running handler.
func (c *container) abortRun(cause error) {
	c.runs.abort(c.running, cause)
	c.abort(cause)
}

// runToEnd runs a handler, and shows its run.
func (c *container) runToEnd(ctx context.Context, run *handlerRun, effect lifecycle.Effect) lifecycle.Result {
	c.runs.begin(run) // first: a client that learns of it finds it in the status
	c.observer.started(c.ctx, run)
	result := c.runHandler(ctx, run, effect)
	c.runs.end(run, result)
	c.observer.ended(c.ctx, run)
	return convert(result)
}

// runHandler turns a panic into a failure.
func (c *container) runHandler(ctx context.Context, run *handlerRun, effect lifecycle.Effect) (result hookexec.Result) {
	defer func() {
		if value := recover(); value != nil {
			log.G(c.ctx).Errorf("cannot finish a handler: panic in it: %v\n%s", value, debug.Stack())
			result = hookexec.Result{Outcome: lifecycle.Failed, Err: &panicError{value: value}, ExitCode: -1}
		}
	}()
	if err := c.awaitCreation(ctx); err != nil {
		return hookexec.NotBegun(ctx)
	}
	return c.handlers.Run(ctx, runner.Run{
		Kind: run.kind, Effect: effect, Trial: run.trial, Progress: &run.progress, OOMSeen: c.gate.OOMSeen, Killed: c.killed.Load,
	})
}

// signalWait bounds the sending of a signal, which no client waits for.
const signalWait = 10 * time.Second

func (c *container) signal(signal lifecycle.Signal) {
	ctx, cancel := context.WithTimeout(c.ctx, signalWait)
	defer cancel()
	defer c.recovered("send a signal")
	logger := log.G(ctx).WithField("signal", signal.Number)
	c.noteSignal(signal.Number)
	if err := c.handlers.Signal(ctx, signal); err != nil {
		logger.WithError(err).Error("cannot send the signal: the container may not stop")
		return
	}
	logger.Info("signal sent")
}

// noteSignal is called before a signal goes to the container.
func (c *container) noteSignal(number uint32) {
	if number == uint32(unix.SIGKILL) {
		c.killed.Store(true)
	}
}

// end answers all requests that still wait. From now on the container's requests are
// forwarded, and its events pass.
func (c *container) end() {
	c.mu.Lock()
	c.closed = true
	rest := c.mailbox
	c.mu.Unlock()
	status := *c.status.Load()
	status.StartHeld = false
	c.status.Store(&status)
	c.gate.Release()
	c.releaseExit()
	if c.abort != nil {
		c.abort(errShutdown)
	}
	for _, waiter := range c.waiting {
		waiter <- verdict{kind: lifecycle.Answer, err: errShutdown}
	}
	for _, m := range rest {
		if m.verdict != nil {
			m.verdict <- verdict{kind: lifecycle.Forward}
		}
	}
	c.closeDeleted()
	c.endTrial(c.ctx)
	c.calls.Wait()
	<-c.created
	c.handlers.Close()
}

// releaseExit lets clients know of the container's exit.
func (c *container) releaseExit() {
	if c.ended != nil {
		c.gate.ReleaseExit()
		c.endedOnce.Do(func() { close(c.ended) })
	}
}

func (c *container) closeDeleted() { c.deletedOnce.Do(func() { close(c.deleted) }) }

// recovered logs a panic, which must not end the shim of a whole pod.
func (c *container) recovered(what string) {
	if value := recover(); value != nil {
		log.G(c.ctx).Errorf("cannot %s: panic in it: %v\n%s", what, value, debug.Stack())
	}
}
