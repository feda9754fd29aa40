package shim

import (
	"context"
	"os"
	"runtime"
	runtimemetrics "runtime/metrics"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// observer reports what happens to a container: in the log, in the node's counters and as
// events of the shim. It decides nothing, and the loop waits for nothing of it.
type observer struct {
	id     string
	events *tap.Tap
	// metricsFile is where the container counts, empty if it does not.
	metricsFile string
	counters    *metrics.Adder
	// handlersEnded counts the handlers of all containers that have ended, trials too.
	handlersEnded *atomic.Uint64
}

// step is one step of the machine.
type step struct {
	event         lifecycle.Event
	before, after lifecycle.Status
	effects       []lifecycle.Effect
	why           string
}

// step reports what the machine makes of an event.
func (o *observer) step(ctx context.Context, s step) {
	if debugging(ctx) {
		s.explain(ctx)
	}
	o.count(func() metrics.Counts { return countStep(s.before, s.after, s.effects) })
}

// Topics of the shim's own events (docs/spec.md#events).
const (
	topicStarted  = "/lifecycle/handler-started"
	topicFinished = "/lifecycle/handler-finished"
)

// started reports that a run begins.
func (o *observer) started(ctx context.Context, run *handlerRun) {
	runLogger(ctx, run).Info("handler started")
	what, _ := describe(run.handler)
	_ = o.events.Publish(ctx, topicStarted, &lifecyclev1.HandlerStarted{
		ContainerId: o.id, Handler: run.kind.String(), Type: what, Trial: run.trial,
	})
}

// ended reports the result of a run. The handler's output may hold secrets, so it is
// logged only for debugging.
func (o *observer) ended(ctx context.Context, run *handlerRun) {
	o.handlersEnded.Add(1)
	what, _ := describe(run.handler)
	event := &lifecyclev1.HandlerFinished{
		ContainerId: o.id, Handler: run.kind.String(), Type: what, Trial: run.trial,
		Attempts: uint32(run.result.Attempts), Took: durationpb.New(run.ended.Sub(run.began)),
	}
	event.Result, event.Message, event.ExitCode = resultOf(run.result)
	_ = o.events.Publish(ctx, topicFinished, event)

	logger := runLogger(ctx, run).WithFields(log.Fields{
		"result": run.result.Outcome, "took": run.ended.Sub(run.began).Round(time.Millisecond), "attempts": run.result.Attempts,
	})
	if run.result.Err != nil {
		logger = logger.WithError(run.result.Err)
	}
	logger.Info("handler ended")
	if run.result.LogErr != nil {
		log.G(ctx).WithError(run.result.LogErr).WithFields(log.Fields{"handler": run.kind, "lines": run.result.LostLines}).
			Warn("cannot log all output: lines of a handler's output are missing in the container's log")
	}
	logger.WithFields(log.Fields{"output": run.result.Output, "dropped": run.result.Dropped}).Debug("handler output")
}

func runLogger(ctx context.Context, run *handlerRun) *log.Entry {
	logger := log.G(ctx).WithField("handler", run.kind)
	if run.trial {
		logger = logger.WithField("trial", true)
	}
	return logger
}

// explain logs, for debugging, what the machine makes of an event and why: one line for
// each event, also for one without effects. It contains nothing of a handler's output.
func (s *step) explain(ctx context.Context) {
	fields := log.Fields{
		"event": s.event.Kind.String(), "from": s.before.Stage.String(), "state": s.after.Stage.String(), "why": s.why,
		"effects": list(s.effects),
	}
	switch s.event.Kind {
	case lifecycle.KillRequested:
		fields["signal"] = s.event.Signal.Number
	case lifecycle.HandlerEnded:
		fields["result"] = s.event.Result.Outcome.String()
	default: // the other events have only what every line shows
	}
	if s.event.Err != nil {
		fields["error"] = s.event.Err.Error()
	}
	if !s.after.Deadline.IsZero() {
		fields["deadline"] = s.after.Deadline.Format(time.RFC3339Nano)
	}
	for _, effect := range s.effects {
		if effect.Kind == lifecycle.RunHandler {
			fields["owner"] = effect.LimitOwner.String()
			if !effect.Limit.IsZero() {
				fields["limit"] = effect.Limit.Format(time.RFC3339Nano)
			}
		}
	}
	log.G(ctx).WithFields(fields).Debug("lifecycle")
}

func debugging(ctx context.Context) bool {
	return log.G(ctx).Logger.IsLevelEnabled(log.DebugLevel)
}

func list(effects []lifecycle.Effect) string {
	words := make([]string, len(effects))
	for i, effect := range effects {
		words[i] = effect.String()
	}
	return strings.Join(words, ", ")
}

// count adds to the node's counters, if the container counts. Nothing waits for it: other
// shims may hold their lock.
func (o *observer) count(what func() metrics.Counts) {
	if o.metricsFile == "" {
		return
	}
	if counts := what(); len(counts) > 0 {
		o.counters.Add(o.metricsFile, counts)
	}
}

// countRun counts a handler that has ended. It is not called for trials, which are not
// counted.
func (o *observer) countRun(run *handlerRun) {
	o.count(func() metrics.Counts { return countRun(run) })
}

// newCounters returns counters that log what they lose.
func newCounters(ctx context.Context) *metrics.Adder {
	return &metrics.Adder{Failed: func(path string, err error) {
		log.G(ctx).WithError(err).WithField("path", path).Warn("cannot count what handlers do: MetricsFile must be in a directory that is there")
	}}
}

// countWait bounds flushCounts, from its call: another shim may hold the file's lock.
const countWait = 2 * time.Second

// flushCounts waits until the counts of this shim are in the file: the shim exits when its
// shutdown callbacks have returned.
func (s *service) flushCounts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countWait)
	defer cancel()
	s.counters.Flush(ctx)
	if ctx.Err() != nil {
		log.G(ctx).Error("cannot count all that handlers did: the lock beside MetricsFile is held")
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

// countRun returns nil for a run whose end a panic has kept from being recorded.
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

// process returns what the shim itself uses. What cannot be read is 0: an operator mainly
// asks for the containers.
func (s *service) process(collect bool) *lifecyclev1.Process {
	if collect {
		runtime.GC()
	}
	return &lifecyclev1.Process{
		Pid: uint32(os.Getpid()), Version: version.Version, Handlers: s.handlersEnded.Load(),
		Goroutines: uint32(runtime.NumGoroutine()), Threads: entries("/proc/self/task"),
		// Without the one that is open to read them.
		Descriptors: max(entries("/proc/self/fd"), 1) - 1,
		HeapBytes:   liveHeap(),
	}
}

// entries returns the number of a directory's entries.
func entries(dir string) uint32 {
	found, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	return uint32(len(found))
}

// liveHeap returns what the last garbage collection has left, in bytes.
func liveHeap() uint64 {
	sample := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Uint64() // Go has had it since 1.21
}
