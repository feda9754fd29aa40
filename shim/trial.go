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

// trial is an operator's try of a handler, while it runs.
type trial struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the handler has ended
}

var errHandlerDue = errors.New("a handler of the container is due")

// try runs a handler because an operator wants to see what it does, until it has
// ended or the operator goes. The machine knows nothing of it: it counts for none
// of its promises.
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
	run.limit = run.began.Add(limit)
	timed, stop := context.WithDeadlineCause(ctx, run.limit, causeError(lifecycle.TimeLimit, limit))
	defer stop()
	c.runToEnd(timed, run, lifecycle.Effect{Limit: run.limit, Signal: lifecycle.Signal{Number: c.trialSignal}})
	return run, nil
}

// kindOf a handler's name, NoHandler where there is none of that name.
func kindOf(name string) lifecycle.Kind {
	for _, kind := range []lifecycle.Kind{lifecycle.PreStart, lifecycle.PostStart, lifecycle.PreStop, lifecycle.OnExit} {
		if kind.String() == name {
			return kind
		}
	}
	return lifecycle.NoHandler
}

// beginTrial makes sure that only one handler runs, in a container that is
// running. A real one that begins after this finds the trial and ends it.
func (c *container) beginTrial(own *trial) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stage := c.status.Load().Stage; stage != lifecycle.StageRunning {
		return &notRunningError{fmt.Sprintf("container %q is %s: a handler can be tried while it is %s", c.id, stage, lifecycle.StageRunning)}
	}
	if c.trial != nil {
		return &notRunningError{fmt.Sprintf("container %q: somebody tries a handler now: wait until that has ended", c.id)}
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

// trialWait bounds how long a Delete waits for a trial, as it does for a handler.
const trialWait = 1500 * time.Millisecond

// endTrialOfExited leaves a trial in a running container alone: its Delete is
// refused.
func (c *container) endTrialOfExited(ctx context.Context) {
	select {
	case <-c.exited:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), trialWait)
		defer cancel()
		c.endTrial(ctx)
	default:
	}
}

// endTrial ends what an operator tries now, and waits for its end.
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
