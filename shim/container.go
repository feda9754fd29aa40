package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// handlers runs a container's handlers. It is the seam between the loop and the
// world below it.
type handlers interface {
	// started is told the pid of the container's process when it has started.
	started(ctx context.Context, pid int, exited <-chan struct{}) error
	// run runs one handler until it has ended or ctx is cancelled, and keeps
	// progress up to date.
	run(ctx context.Context, kind lifecycle.Kind, effect lifecycle.Effect, progress *hookexec.Progress) hookexec.Result
	// unpark ends what has been begun of a start's handler before it is due. It may be
	// called at any time, by anybody.
	unpark()
	// signal sends a signal to the container, on nobody's request.
	signal(ctx context.Context, signal lifecycle.Signal) error
	// close is called once, when nothing is going to be run or signalled.
	close()
}

// container is one container with handlers. Its loop owns the machine; everybody
// else talks to the loop through ask and post.
type container struct {
	id       string
	ctx      context.Context // for the log; it is not cancelled
	handlers handlers
	// gate holds its TaskStart.
	gate *tap.Gate
	// events takes the shim's own events.
	events *tap.Tap
	// block is what the annotations ask for.
	block *lifecyclev1.Block
	// metricsFile is where it counts, empty where it does not.
	metricsFile string
	counters    *metrics.Adder
	// handlersEnded counts the handlers of all containers that have ended.
	handlersEnded *atomic.Uint64
	// trialLimit ends a trial whose handler has no limit of its own, and
	// trialSignal is the stop signal that a preStop on trial is told.
	trialLimit  time.Duration
	trialSignal uint32

	// status of the machine after its last step. While a start is held, State says
	// CREATED for RUNNING.
	status atomic.Pointer[lifecycle.Status]
	// created is closed when its creation has ended, however it did: until then its
	// handlers are being prepared, and only unpark may be called.
	created chan struct{}
	// killed: a SIGKILL was asked for, or sent.
	killed atomic.Bool
	// exited is closed at the first exit that is told.
	exited   chan struct{}
	exitOnce sync.Once
	// ended is closed when nobody has to wait for its onExit any more; it is nil where
	// it has none.
	ended     chan struct{}
	endedOnce sync.Once
	// deleted is closed when the loop knows that the container is, or has ended.
	deleted     chan struct{}
	deletedOnce sync.Once

	mu sync.Mutex
	// mailbox of the loop. It has no bound, because nobody may wait for the loop;
	// what is in it is bounded by the requests under way.
	mailbox []message
	// closed: the loop has ended; everything passes.
	closed bool
	// runs of handlers, the first one first.
	runs []*handlerRun
	// trial is what an operator tries now, nil where nobody does.
	trial *trial
	wake  chan struct{} // capacity 1: a token says that the mailbox is to be looked at

	// The loop's own.
	machine *lifecycle.Machine
	now     time.Time // of the step
	waiting map[lifecycle.RequestID]chan verdict
	calls   sync.WaitGroup // goroutines that send a signal
	lastID  lifecycle.RequestID
	abort   context.CancelCauseFunc // of the handler that was run last, nil before the first
	running *handlerRun             // the handler that was run last
	limit   time.Duration           // of the running handler, from its begin; meant, not measured
}

// message is an event on its way to the loop, and who waits for the verdict.
type message struct {
	event   lifecycle.Event
	verdict chan verdict // nil when nobody waits; else of capacity 2, one for each thing a request is told
}

// verdict is what the machine says to a request.
type verdict struct {
	kind lifecycle.EffectKind // CallStart, CallDelete, Forward or Answer
	err  error
}

// newContainer returns a container whose loop is not running yet. ctx is only
// for the log.
func newContainer(ctx context.Context, id string, config lifecycle.Config, handlers handlers) *container {
	namespace, _ := namespaces.Namespace(ctx)
	c := &container{
		id:       id,
		ctx:      log.WithLogger(context.WithoutCancel(ctx), log.G(ctx).WithFields(log.Fields{"namespace": namespace, "id": id})),
		handlers: handlers,
		created:  make(chan struct{}),
		exited:   make(chan struct{}),
		deleted:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
		machine:  lifecycle.New(config),
		waiting:  make(map[lifecycle.RequestID]chan verdict),

		trialLimit: config.DefaultPostStartTimeout, trialSignal: cmp.Or(config.StopSignal, uint32(unix.SIGTERM)),
	}
	c.status.Store(&lifecycle.Status{})
	if config.OnExit != nil {
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

// wait for the next thing that the machine says to the request. It always comes.
func (r *request) wait() verdict { return <-r.verdict }

// post tells the loop what has happened.
func (c *container) post(event lifecycle.Event) {
	c.send(message{event: event})
	if event.Kind == lifecycle.ContainerExited {
		// Last: a handler that waits for it is to end after the exit is known.
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

// loop runs until nothing can happen to the container any more, or ctx ends.
func (c *container) loop(ctx context.Context) {
	defer c.end()
	defer c.recovered("the container's loop")
	timer := time.NewTimer(time.Hour)
	for !c.machine.Done() {
		c.setTimer(timer)
		select {
		case <-c.wake:
			// One at a time: what is left when a step panics is let go by end.
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

// step takes one event in and carries out what follows from it.
func (c *container) step(m message) {
	event := m.event
	if m.verdict != nil {
		c.lastID++
		event.Request = c.lastID
		c.waiting[event.Request] = m.verdict
	}
	if event.Kind == lifecycle.HandlerEnded {
		c.count(func() metrics.Counts { return countRun(c.running) })
	}
	before := c.machine.Status()
	c.now = time.Now()
	effects := c.machine.Step(c.now, event)
	// Before the effects: who is told that it has started must see it so.
	status := c.machine.Status()
	c.status.Store(&status)
	c.explain(event, before, status, effects)
	c.count(func() metrics.Counts { return countStep(before, status, effects) })
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
		c.tell(effect)
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

func (c *container) tell(effect lifecycle.Effect) {
	c.waiting[effect.Request] <- verdict{kind: effect.Kind, err: effect.Err}
	if effect.Kind != lifecycle.CallStart { // it is told its answer later
		delete(c.waiting, effect.Request)
	}
}

// run starts the handler's goroutine, whose end is an event.
func (c *container) run(effect lifecycle.Effect) {
	ctx, cancel := context.WithCancelCause(c.ctx)
	began := c.now // what the limit was reckoned from: a second look at the clock would make it 0.9 s at times
	c.abort, c.limit = cancel, effect.Limit.Sub(began)
	handler := oci.HandlerOf(c.block, effect.Handler.String())
	run := &handlerRun{
		kind: effect.Handler, handler: handler, began: began, limit: effect.Limit, limitOwner: effect.LimitOwner,
	}
	c.running = run
	go func() {
		defer cancel(nil)
		result := lifecycle.Result{Outcome: lifecycle.Failed, Message: "internal error"} // of a panic
		defer func() { c.post(lifecycle.Event{Kind: lifecycle.HandlerEnded, Result: result}) }()
		defer c.recovered("the running of a handler")
		c.endTrial(ctx) // at most one handler runs at a time
		result = c.runToEnd(ctx, run, effect)
	}()
}

// abortRun aborts the handler that runs. Its first cause is shown until it has ended.
func (c *container) abortRun(cause error) {
	c.mu.Lock()
	if c.running.aborted == nil {
		c.running.aborted = cause
	}
	c.mu.Unlock()
	c.abort(cause)
}

// runToEnd logs one line at the start and one at the end. The handler's output
// may hold secrets, so it is for debugging only.
func (c *container) runToEnd(ctx context.Context, run *handlerRun, effect lifecycle.Effect) lifecycle.Result {
	logger := log.G(c.ctx).WithField("handler", run.kind)
	if run.trial {
		logger = logger.WithField("trial", true)
	}
	logger.Info("handler started")
	c.record(run)
	c.publishStarted(run)
	ended := c.runHandler(ctx, run, effect)
	c.finish(run, ended)
	c.handlersEnded.Add(1)
	c.publishFinished(run)
	result := convert(ended)
	logger = logger.WithFields(log.Fields{
		"result": result.Outcome, "took": run.ended.Sub(run.began).Round(time.Millisecond), "attempts": ended.Attempts,
	})
	if ended.Err != nil {
		logger = logger.WithError(ended.Err)
	}
	logger.Info("handler ended")
	if ended.LogErr != nil {
		log.G(c.ctx).WithError(ended.LogErr).WithFields(log.Fields{"handler": run.kind, "lines": ended.LostLines}).Warn("lines of a handler's output are missing in the container's log")
	}
	logger.WithFields(log.Fields{"output": ended.Output, "dropped": ended.Dropped}).Debug("handler output")
	return result
}

// runHandler makes a failure of a panic.
func (c *container) runHandler(ctx context.Context, run *handlerRun, effect lifecycle.Effect) (result hookexec.Result) {
	defer func() {
		if value := recover(); value != nil {
			log.G(c.ctx).Errorf("panic in a handler: %v\n%s", value, debug.Stack())
			result = hookexec.Result{Outcome: hookexec.Failed, Err: &panicError{value: value}, ExitCode: -1}
		}
	}()
	if err := c.awaitCreation(ctx); err != nil {
		return hookexec.NotBegun(ctx)
	}
	return c.handlers.run(ctx, run.kind, effect, &run.progress)
}

// signalWait bounds the sending of a signal, which no client waits for.
const signalWait = 10 * time.Second

func (c *container) signal(signal lifecycle.Signal) {
	ctx, cancel := context.WithTimeout(c.ctx, signalWait)
	defer cancel()
	defer c.recovered("send a signal")
	logger := log.G(ctx).WithField("signal", signal.Number)
	c.noteSignal(signal.Number)
	if err := c.handlers.signal(ctx, signal); err != nil {
		logger.WithError(err).Error("send the signal")
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

// end lets everybody go who still waits, and makes the container pass
// everything through from now on.
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
	c.calls.Wait()
	<-c.created
	c.handlers.close()
}

// awaitCreation waits for the end of the container's creation, as one client may be
// faster than the other's answer.
func (c *container) awaitCreation(ctx context.Context) error {
	select {
	case <-c.created:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-c.created: // both at once: the handler is run, and judged, as any that is ended
		return nil
	default:
		return context.Cause(ctx)
	}
}

// endWaits reports whether the container's process has exited, and its end is not told
// before onExit's.
func (c *container) endWaits() bool {
	return c.status.Load().Stage == lifecycle.StageOnExit
}

// releaseExit lets everybody know of the container's end.
func (c *container) releaseExit() {
	if c.ended != nil {
		c.gate.ReleaseExit()
		c.endedOnce.Do(func() { close(c.ended) })
	}
}

func (c *container) closeDeleted() { c.deletedOnce.Do(func() { close(c.deleted) }) }

// recovered logs a panic, which must not end the shim of a whole pod.
func (c *container) recovered(where string) {
	if value := recover(); value != nil {
		log.G(c.ctx).Errorf("panic in %s: %v\n%s", where, value, debug.Stack())
	}
}

var errShutdown = errors.New("the shim does not serve this container any more")

// Why a handler is made to end, as the cause of its cancelled context.
var causes = map[lifecycle.Cause]error{
	lifecycle.ContainerExit:   hookexec.ErrContainerExited,
	lifecycle.ContainerKill:   errors.New("container killed"),
	lifecycle.StopDeadline:    errors.New("the deadline of the stop was reached"),
	lifecycle.StopRequest:     errors.New("a stop was requested"),
	lifecycle.ContainerDelete: errors.New("container deleted"),
}

func causeError(cause lifecycle.Cause, after time.Duration) error {
	if cause == lifecycle.TimeLimit {
		return fmt.Errorf("%w after %s", hookexec.ErrTimedOut, after.Round(100*time.Millisecond))
	}
	return causes[cause]
}

// convert keeps what the machine needs of a handler's end.
func convert(result hookexec.Result) lifecycle.Result {
	converted := lifecycle.Result{Message: result.Message()}
	switch result.Outcome {
	case hookexec.Succeeded:
		converted.Outcome = lifecycle.Succeeded
	case hookexec.Failed:
		converted.Outcome = lifecycle.Failed
	case hookexec.TimedOut:
		converted.Outcome = lifecycle.TimedOut
	case hookexec.Aborted:
		converted.Outcome = lifecycle.Aborted
		for cause, err := range causes {
			if errors.Is(result.Err, err) {
				converted.Cause = cause
			}
		}
	}
	return converted
}
