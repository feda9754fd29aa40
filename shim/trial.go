package shim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// trial is a run that an operator has started, until it has ended.
type trial struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the handler has ended
}

var errHandlerDue = errors.New("a handler of the container is due")

// try runs a handler for an operator, until it has ended or the operator disconnects. The
// machine knows nothing of it, so it does not count as the handler's run.
func (c *container) try(ctx context.Context, name string) (*handlerRun, error) {
	run := &handlerRun{kind: kindOf(name), handler: oci.HandlerOf(c.block, name), trial: true, began: time.Now()}
	if run.handler == nil {
		return nil, &notFoundError{fmt.Sprintf("container %q has no handler %q", c.id, name)}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	own := &trial{cancel: cancel, done: make(chan struct{})}
	if err := c.beginTrial(own); err != nil {
		return nil, err
	}
	defer c.trialEnded(own)
	go func() {
		select {
		case <-c.exited:
			cancel(hookexec.ErrContainerExited)
		case <-ctx.Done():
		}
	}()
	limit := c.trialLimit
	run.limitOwner = lifecycle.PostStartDefault
	if seconds := run.handler.GetTimeoutSeconds(); seconds > 0 {
		limit, run.limitOwner = oci.Seconds(seconds), lifecycle.HandlerTimeout
	}
	if c.trialMost > 0 && c.trialMost < limit && run.handler.Sleep == nil { // as in handlerConfig
		limit, run.limitOwner = c.trialMost, lifecycle.TimeoutLimit
	}
	run.limit = run.began.Add(limit)
	timed, stop := context.WithDeadlineCause(ctx, run.limit, causeError(lifecycle.TimeLimit, limit))
	defer stop()
	c.runToEnd(timed, run, lifecycle.Effect{Limit: run.limit, Signal: lifecycle.Signal{Number: c.trialSignal}})
	return run, nil
}

// kindOf returns the handler with a name, or NoHandler.
func kindOf(name string) lifecycle.Kind {
	for _, kind := range []lifecycle.Kind{lifecycle.PreStart, lifecycle.PostStart, lifecycle.PreStop, lifecycle.OnExit} {
		if kind.String() == name {
			return kind
		}
	}
	return lifecycle.NoHandler
}

// beginTrial makes sure that only one handler runs, and in a container that is running. A
// handler of the machine that begins later finds the trial and ends it.
func (c *container) beginTrial(own *trial) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &notRunningError{fmt.Sprintf("container %q: %v", c.id, errShutdown)}
	}
	if stage := c.status.Load().Stage; stage != lifecycle.StageRunning {
		return &notRunningError{fmt.Sprintf("container %q is %s: a handler can be tried while it is %s", c.id, stage, lifecycle.StageRunning)}
	}
	if c.trial != nil {
		return &notRunningError{fmt.Sprintf("container %q: another trial is running: wait until it has ended", c.id)}
	}
	c.trial = own
	return nil
}

func (c *container) trialEnded(own *trial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trial = nil
	close(own.done)
}

// trialWait bounds how long a Delete waits for a trial, as the machine does for a handler.
const trialWait = 1500 * time.Millisecond

// endTrialOfExited ends the trial of a container that has exited. The Delete of a running
// container is refused, so its trial goes on.
func (c *container) endTrialOfExited(ctx context.Context) {
	select {
	case <-c.exited:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialWait)
		defer cancel()
		c.endTrial(ctx)
	default:
	}
}

// endTrial aborts the trial, if there is one, and waits until it has ended.
func (c *container) endTrial(ctx context.Context) {
	c.mu.Lock()
	own := c.trial
	c.mu.Unlock()
	if own == nil {
		return
	}
	own.cancel(errHandlerDue)
	select {
	case <-own.done:
	case <-ctx.Done():
	}
}
