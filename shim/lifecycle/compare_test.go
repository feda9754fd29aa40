package lifecycle

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The new machine, stepped beside the old one. These tests, and the old machine in
// old_machine_test.go, go with the next commit: history keeps them.

// stageOf maps the old phases.
var stageOf = map[oldPhase]Stage{
	oldCreated:           StageCreated,
	oldPreStarting:       StagePreStart,
	oldPreStartEnding:    StagePreStart,
	oldNotStarting:       StageCancelled,
	oldStarting:          StageStarting,
	oldStartingStop:      StageStarting,
	oldStartingPassed:    StageStarting,
	oldStartingExited:    StageStarting,
	oldPostStarting:      StagePostStart,
	oldPostStartEnding:   StagePostStart,
	oldPostStartStopping: StagePostStart,
	oldRunning:           StageRunning,
	oldPreStopping:       StagePreStop,
	oldPreStopEnding:     StagePreStop,
	oldStopping:          StageStopping,
	oldOnExitDue:         StageOnExit,
	oldOnExiting:         StageOnExit,
	oldOnExitEnding:      StageOnExit,
	oldExited:            StageExited,
	oldDeleting:          StageExited,
	oldDeleted:           StageDeleted,
}

// oldReasons maps each reason to what the old machine said.
var oldReasons = map[string]string{
	// start.go
	"refused: the runtime would start the entrypoint":                                        "the runtime would start it",
	"already started: forwarded, so that the runtime returns its own error":                  "only a created container is started; the runtime has the words",
	"preStart runs before the entrypoint":                                                    "preStart comes before the entrypoint",
	"the runtime starts the entrypoint":                                                      "the runtime starts it first",
	"preStart has succeeded":                                                                 "preStart has succeeded",
	"the container has exited: nothing is left to start":                                     "there is nothing left to start",
	"preStart has failed, but its failurePolicy is Ignore":                                   "preStart has failed, and failurePolicy is Ignore",
	"preStart has failed: the entrypoint never runs":                                         "preStart has failed, and the entrypoint never runs",
	"preStart has timed out":                                                                 "preStart's time is up",
	"preStart cannot be ended: the entrypoint never runs":                                    "preStart does not end, and the entrypoint does not run beside it",
	"the start cannot be held any longer":                                                    "the start cannot be held any longer",
	"the killed process does not exit: forwarded, so that the runtime returns its own error": "it does not exit; the runtime has the words",
	"the killed process does not exit: Delete is refused, because its onExit would be lost":  "it does not exit, and its onExit is not to be lost with it",
	"no start request waits for it":                                                          "no start waits for it",
	"the container was deleted during its start":                                             "it was deleted meanwhile",
	"the container exited during its start":                                                  "it exited while it was started",
	"a signal that ends the container was forwarded during its start":                        "a signal passed while it was started",
	"a stop was requested during the start":                                                  "a stop came while it was started",
	"the container has no postStart":                                                         "there is no postStart",
	"postStart runs before the start is answered":                                            "postStart is due",
	"the runtime could not start the entrypoint: onExit runs after the exit":                 "the runtime could not start it, and onExit is told",
	"the runtime could not start the entrypoint":                                             "the runtime could not start it",
	"the runtime could not start the entrypoint: the accepted stop signal is sent":           "the runtime could not start it, and a stop was promised",
	"postStart has succeeded":                                                                "postStart has succeeded",
	"the container has exited, which is no failure of postStart":                             "the container's exit comes first, and is no failure of postStart",
	"postStart has failed, but its failurePolicy is Ignore":                                  "postStart has failed, and failurePolicy is Ignore",
	"postStart has failed: the container is stopped":                                         "postStart has failed, and failurePolicy is Fail",
	"postStart has timed out":                                                                "postStart's time is up",
	// stop.go
	"not a stop signal: forwarded":                                      "it is no stop signal",
	"CRI's SIGKILL is the deadline of the stop that it requested":       "CRI's SIGKILL is the deadline of the stop that it asked for",
	"the process has exited: SIGKILL aborts onExit":                     "the process is gone, and onExit is what is left to be killed",
	"SIGKILL is forwarded at once":                                      "SIGKILL is never held back",
	"joins the stop in progress":                                        "it joins the stop that is under way",
	"the process has already exited":                                    "it has ended, which is what was asked for",
	"the entrypoint has not started: the stop aborts preStart":          "nothing of the container runs yet, so there is nothing to stop but preStart",
	"not running: forwarded, so that the runtime returns its own error": "it does not run; the runtime has the words",
	"a signal that ends the container was sent before: forwarded":       "a signal that ends it went before",
	"the container has no preStop: forwarded":                           "there is no preStop",
	"the stop signal waits for preStop":                                 "a stop signal waits for preStop",
	"the container has exited: preStop does not run":                    "the container's exit comes first, and there is nothing left for preStop",
	"postStart has ended: the stop continues":                           "postStart has ended, and the stop goes on",
	"postStart cannot be ended: no preStop runs beside it":              "postStart does not end, and preStop does not run beside it",
	"preStop cannot be ended: the stop signal is sent":                  "preStop does not end, and is not waited for any longer",
	"preStop has timed out":                                             "preStop's own time is up",
	"preStop has used its share of the grace period":                    "preStop's share of the grace period is over",
	"the grace period has ended: SIGKILL is sent":                       "the grace period is over",
	// machine.go
	"preStop has ended: the stop signal is sent":                 "preStop has ended, however it did",
	"onExit has ended":                                           "onExit has ended, however it did",
	"the handler before it has ended: onExit runs":               "the handler before it has ended",
	"the handler that Delete waited for has ended":               "what the Delete waited for has ended",
	"nothing waits for this handler":                             "nothing waits for its end any more",
	"no deadline has passed":                                     "nothing is due yet",
	"a handler cannot be ended: Delete does not wait any longer": "a handler does not end, and is not waited for any longer",
	// exit.go
	"the exit is handled when the runtime's start has returned":    "the runtime's start has not returned yet",
	"the exit is already known":                                    "it is known",
	"the container has exited: what was held is released":          "nothing is started any more, and what was held is let go",
	"the container has exited: onExit is next":                     "it has exited, and onExit is due",
	"a handler cannot be ended: no onExit runs beside it":          "a handler does not end, and onExit does not run beside it",
	"onExit has timed out":                                         "onExit's time is up",
	"onExit cannot be ended: nothing waits for it any longer":      "onExit does not end, and is not waited for any longer",
	"running: Delete is refused, because its onExit would be lost": "it runs, and its onExit is not to be lost with it",
	"Delete aborts preStart: the entrypoint never runs":            "the entrypoint is not going to run any more",
	"Delete waits for the exit of the killed process":              "its process is being killed",
	"Delete waits for onExit":                                      "it waits for onExit",
	"joins the Delete that waits":                                  "it joins the Delete that waits",
	"Delete waits for the end of a handler":                        "a handler still runs",
	"no handler has to end first: forwarded":                       "nothing has to end first; the runtime has the words",
	"the runtime has refused to delete the container":              "the runtime has refused",
	"the deletion is already known":                                "it is known",
	"the container is deleted":                                     "it is gone",
}

var wholeComparison = flag.Bool("compare", false, "compare the machines over the whole exploration")

// compared counts the steps of each test, and reasonsSeen which reasons they gave.
var (
	compared    atomic.Int64
	reasonsSeen sync.Map
)

// compareStep steps the old machine and returns how it differs from the new one,
// which has been stepped.
func compareStep(old *oldMachine, m *Machine, now time.Time, event Event, got []Effect) string {
	compared.Add(1)
	want := old.Step(now, event)
	reasonsSeen.LoadOrStore(m.Why(), true)
	reason, known := oldReasons[m.Why()]
	oldStatus, status := old.Status(), m.Status()
	stage, mapped := stageOf[oldStatus.Phase]
	differences := []struct {
		what      string
		different bool
	}{
		{"effects", len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want)},
		{"reason", !known || reason != old.Why()},
		{"stage", !mapped || stage != m.Stage() || stage != status.Stage},
		{"start held", old.StartHeld() != m.StartHeld() || status.StartHeld != oldStatus.StartHeld},
		{"pending", status.Pending != oldStatus.Pending},
		{"deadline", !m.Deadline().Equal(old.Deadline()) || !status.Deadline.Equal(oldStatus.Deadline)},
		{"handler", m.Handler() != old.Handler()},
		{"done", m.Done() != old.Done()},
		{"start running", (m.Stage() == StageStarting) != oldStatus.Phase.Starting()},
		{"onExit pending", (m.Stage() == StageOnExit) != (oldStatus.Phase >= oldOnExitDue && oldStatus.Phase <= oldOnExitEnding)},
	}
	for _, d := range differences {
		if d.different {
			return fmt.Sprintf("%s differ after %s: %s (%q) has %v %+v %s,\nthe old %s (%q) %v %+v", d.what, event.Kind, m.Stage(), m.Why(), got, status, m.Handler(), old.Phase(), old.Why(), want, oldStatus)
		}
	}
	return ""
}

// clone copies everything that a step can change.
func (m *oldMachine) clone() *oldMachine {
	c := *m
	c.deletes, c.effects = slices.Clone(m.deletes), nil
	if m.held != nil {
		held := *m.held
		if held.failure != nil {
			failure := *held.failure
			held.failure = &failure
		}
		c.held = &held
	}
	return &c
}

// oldKey is the state of an old machine.
type oldKey struct {
	phase                          oldPhase
	running                        Kind
	held                           oldHeldStart
	failure                        StartError
	isHeld                         bool
	stop                           Signal
	stopSince, limit, signal, kill time.Duration
	deletes                        int
	notStarted                     bool
}

func (m *oldMachine) key() oldKey {
	k := oldKey{
		phase: m.phase, running: m.running, stop: m.stop, stopSince: since(m.stopSince), limit: since(m.limitAt),
		signal: since(m.signalAt), kill: since(m.killAt), deletes: len(m.deletes), notStarted: m.notStarted,
	}
	if m.held != nil {
		k.isHeld, k.held = true, *m.held
		if m.held.failure != nil {
			k.failure = *m.held.failure
			k.held.failure = nil
		}
	}
	return k
}

// allConfigs is the whole product of what decides differently.
func allConfigs() map[string]Config {
	all := map[string]Config{}
	for _, cri := range []bool{false, true} {
		for _, preStart := range []string{"", "Fail", "Ignore"} {
			for _, postStart := range []string{"", "Fail", "Ignore"} {
				for _, preStop := range []string{"", "preStop", "preStop with a limit"} {
					for _, onExit := range []bool{false, true} {
						for _, grace := range []time.Duration{0, 5 * time.Second} {
							name := fmt.Sprintf("cri=%t preStart=%s postStart=%s preStop=%s onExit=%t grace=%s", cri, preStart, postStart, preStop, onExit, grace)
							all[name] = withOuterHandlers(newTestConfig(cri, postStart, preStop, grace), preStart, onExit)
						}
					}
				}
			}
		}
	}
	return all
}

// TestCompareExhaustively tries all paths to the depth of TestPromisesOnAllPaths.
func TestCompareExhaustively(t *testing.T) {
	if !*wholeComparison {
		t.Skip("20 min of CPU: -compare")
	}
	parent := t
	all := allConfigs()
	var tried atomic.Int64
	t.Run("all", func(t *testing.T) {
		for name, config := range all {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				explorer := explorer{t: t, parent: parent}
				depth := 8
				if config.PreStart != nil || config.OnExit != nil {
					depth = 7
				}
				w := newModel(config)
				w.old = newOld(config)
				explorer.explore(w, depth)
				tried.Add(int64(explorer.steps))
			})
		}
	})
	t.Logf("%d configurations, %d explored steps, %d compared steps with those where only time passes", len(all), tried.Load(), compared.Load())
}

// TestCompareRandomly also lets happen what cannot: any event at any time.
func TestCompareRandomly(t *testing.T) {
	lives, steps := 20_000, 40
	if *wholeComparison {
		lives = 200_000
	}
	random := rand.New(rand.NewPCG(1, 2))
	before := compared.Load()
	configurations, phases := map[string]bool{}, map[string]bool{}
	for range lives {
		config := randomConfig(random)
		configurations[fmt.Sprintf("%t %t %t %t %t", config.CRI, config.PreStart != nil, config.PostStart != nil, config.PreStop != nil, config.OnExit != nil)] = true
		m, old := New(config), newOld(config)
		now := epoch
		var path []string
		for i := range steps {
			event := randomEvent(random, now, i)
			now = randomTime(random, now, m.Deadline())
			path = append(path, fmt.Sprintf("%s: %+v", now.Sub(epoch), event))
			phases[old.Phase().String()+" "+event.Kind.String()] = true
			if difference := compareStep(old, m, now, event, m.Step(now, event)); difference != "" {
				t.Fatalf("%s\n%+v\n%s", difference, config, strings.Join(path, "\n"))
			}
		}
	}
	if !*wholeComparison {
		return
	}
	unseen := 0
	for reason := range oldReasons {
		if _, ok := reasonsSeen.Load(reason); !ok {
			t.Errorf("no step gave the reason %q", reason)
			unseen++
		}
	}
	t.Logf("%d steps compared, %d combinations of handlers and CRI, %d of 168 pairs of old phase and event, %d of %d reasons seen", compared.Load()-before, len(configurations), len(phases), len(oldReasons)-unseen, len(oldReasons))
}

func randomConfig(random *rand.Rand) Config {
	handler := func() *Handler {
		if random.IntN(2) == 0 {
			return nil
		}
		return &Handler{Timeout: time.Duration(random.IntN(3)*random.IntN(150)) * time.Second / 2, IgnoreFailure: random.IntN(3) == 0}
	}
	return Config{
		CRI: random.IntN(2) == 0, PreStart: handler(), PostStart: handler(), PreStop: handler(), OnExit: handler(),
		StopSignal:              []uint32{0, 0, 0, 3, 9, 15, 37, 64}[random.IntN(8)],
		GracePeriod:             time.Duration(random.IntN(2)*random.IntN(60)) * time.Second,
		PodGracePeriod:          time.Duration(random.IntN(2)*random.IntN(60)) * time.Second,
		DefaultPostStartTimeout: time.Duration(random.IntN(200)) * time.Second,
		DefaultGracePeriod:      time.Duration(random.IntN(60)) * time.Second,
	}
}

func randomEvent(random *rand.Rand, now time.Time, step int) Event {
	event := Event{Kind: EventKind(random.IntN(len(eventNames)))}
	if random.IntN(3) == 0 { // time passes often
		event.Kind = DeadlineReached
	}
	if event.Kind == DeleteReturned && random.IntN(3) > 0 { // and few containers are deleted early
		event.Kind = KillRequested
	}
	switch event.Kind {
	case StartRequested:
		event.Request = RequestID(step + 1)
		if random.IntN(2) == 0 {
			event.Deadline = now.Add(time.Duration(random.IntN(100_000)) * time.Millisecond)
		}
	case KillRequested:
		event.Request = RequestID(step + 1)
		event.Signal = Signal{Number: []uint32{0, 1, 2, 3, 9, 9, 15, 15, 15, 28, 37, 64, 65}[random.IntN(13)], All: random.IntN(4) == 0}
	case DeleteRequested:
		event.Request = RequestID(step + 1)
	case StartReturned, DeleteReturned:
		if random.IntN(3) == 0 {
			event.Err = errModel
		}
	case HandlerEnded:
		event.Result = Result{Outcome: Outcome(random.IntN(len(outcomeNames))), Message: "message"}
		if event.Result.Outcome == Aborted {
			event.Result.Cause = Cause(random.IntN(len(causeNames)))
		}
	}
	return event
}

// randomTime often is the deadline, or a little before or after it.
func randomTime(random *rand.Rand, now, deadline time.Time) time.Time {
	if !deadline.IsZero() && random.IntN(2) == 0 {
		deadline = deadline.Add([]time.Duration{0, 0, 0, -1, 1, 3 * time.Second}[random.IntN(6)])
		if deadline.After(now) {
			return deadline
		}
	}
	return now.Add(time.Duration(random.IntN(4)*random.IntN(4000)) * time.Millisecond)
}
