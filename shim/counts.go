package shim

import (
	"context"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// count adds to the node's counters, where it is to count. Nothing waits for it:
// other shims may be at them.
func (c *container) count(what func() metrics.Counts) {
	if c.metricsFile == "" {
		return
	}
	if counts := what(); len(counts) > 0 {
		c.counters.Add(c.metricsFile, counts)
	}
}

// newCounters tells the log of counts that are lost.
func newCounters(ctx context.Context) *metrics.Adder {
	return &metrics.Adder{Failed: func(path string, err error) {
		log.G(ctx).WithError(err).WithField("path", path).Warn("count what handlers do: MetricsFile must be in a directory that is there")
	}}
}

// countWait bounds flushCounts: the lock of the file may be held.
const countWait = 2 * time.Second

// flushCounts waits until what handlers did has been counted: the shim ends when
// its shutdown callbacks have.
func (s *service) flushCounts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countWait)
	defer cancel()
	s.counters.Flush(ctx)
	if ctx.Err() != nil {
		log.G(ctx).Error("what handlers did is not all counted: the lock beside MetricsFile is held")
	}
}

// countStep counts what a step of the machine has begun or ended.
func countStep(before, after lifecycle.Status, effects []lifecycle.Effect) metrics.Counts {
	counts := metrics.Counts{}
	changed := func(series string, before, after bool) {
		if after && !before {
			counts[series]++
		}
	}
	changed(metrics.StartsHeld, before.StartHeld, after.StartHeld)
	changed(metrics.StartsDone, !before.StartHeld, !after.StartHeld)
	changed(metrics.StopsDelayed, before.Pending != 0, after.Pending != 0)
	changed(metrics.StopsSignaled, before.Pending == 0, after.Pending == 0)
	for _, effect := range effects {
		switch {
		case effect.Kind == lifecycle.AbortHandler && (effect.Cause == lifecycle.TimeLimit || effect.Cause == lifecycle.StopDeadline):
			counts[metrics.Deadlines]++
		case effect.Kind == lifecycle.SendSignal && effect.Signal.Number == uint32(unix.SIGKILL):
			counts[metrics.Kills]++
		}
	}
	return counts
}

// countRun counts a handler that has ended, unless a panic kept it from being
// told. It is not called for trials, which count for nothing.
func countRun(run *handlerRun) metrics.Counts {
	if run.ended.IsZero() {
		return nil
	}
	what, _ := describe(run.handler)
	outcome, _, _ := resultOf(run.result)
	counts := metrics.Counts{
		metrics.Series(metrics.Handlers, "handler", run.kind.String(), "type", what, "result", outcome): 1,
	}
	counts.Observe(run.kind.String(), run.ended.Sub(run.began))
	return counts
}
