package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is something that happens a while after the container was created.
type at struct {
	after time.Duration
	event Event
}

// play runs a script, letting time pass where the machine asks for it, for at
// most two minutes, and returns the effects with their times.
func play(config Config, script []at) string {
	m := New(config)
	var lines []string
	step := func(now time.Time, event Event) {
		for _, effect := range m.Step(now, event) {
			if effect.Kind == Forward || effect.Kind == CallStart || (effect.Kind == Answer && effect.Err == nil) || effect.Kind == ReleaseStart {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s %s", now.Sub(epoch), effect.String()))
		}
	}
	pass := func(until time.Time) {
		for due := m.Deadline(); !due.IsZero() && !due.After(until); due = m.Deadline() {
			step(due, Event{Kind: DeadlineReached})
		}
	}
	for _, next := range script {
		now := epoch.Add(next.after)
		pass(now)
		step(now, next.event)
	}
	pass(epoch.Add(2 * time.Minute))
	return strings.Join(lines, "\n")
}

func TestScenarios(t *testing.T) {
	const s = time.Second
	start := at{0, Event{Kind: StartRequested, Request: 1}}
	startBy := func(deadline time.Duration) at {
		return at{0, Event{Kind: StartRequested, Request: 1, Deadline: epoch.Add(deadline)}}
	}
	started := at{0, Event{Kind: StartReturned}}
	kill := func(after time.Duration, number uint32) at {
		return at{after, Event{Kind: KillRequested, Request: RequestID(after) + 2, Signal: Signal{Number: number}}}
	}
	ends := func(after time.Duration, result Result) at {
		return at{after, Event{Kind: HandlerEnded, Result: result}}
	}
	exit := func(after time.Duration) at { return at{after, Event{Kind: ContainerExited}} }
	preStop := func(config Config) Config {
		config.PreStop = &Handler{}
		config.DefaultGracePeriod = 10 * s
		return config
	}
	postStart := func(config Config) Config {
		config.PostStart = &Handler{}
		config.DefaultGracePeriod, config.DefaultPostStartTimeout = 10*s, 120*s
		return config
	}
	for name, test := range map[string]struct {
		config Config
		script []at
		want   string
	}{
		"preStop uses all but the last 2 s, SIGKILL just before the deadline": {
			preStop(Config{GracePeriod: 5 * s}),
			[]at{start, started, kill(10*s, sigTERM)},
			"10s RunHandler preStop\n13s AbortHandler: stop deadline\n13s SendSignal 15\n14.8s SendSignal 9",
		},
		"below 4 s preStop has half": {
			preStop(Config{GracePeriod: 2 * s}),
			[]at{start, started, kill(0, sigTERM)},
			"0s RunHandler preStop\n1s AbortHandler: stop deadline\n1s SendSignal 15\n1.8s SendSignal 9",
		},
		"without a grace period in the block, no SIGKILL": {
			preStop(Config{}),
			[]at{start, started, kill(0, sigTERM)},
			"0s RunHandler preStop\n8s AbortHandler: stop deadline\n8s SendSignal 15",
		},
		"the block's stop signal starts a stop, and is the one that is sent": {
			preStop(Config{StopSignal: 3}),
			[]at{start, started, kill(0, 3), ends(1*s, Result{})},
			"0s RunHandler preStop\n1s SendSignal 3",
		},
		"SIGQUIT by itself is no stop signal elsewhere": {
			preStop(Config{}), []at{start, started, kill(0, 3)}, "",
		},
		"SIGKILL is never delayed, also as the block's stop signal": {
			preStop(Config{StopSignal: sigKILL}),
			[]at{start, started, kill(0, sigKILL), exit(1 * s)},
			"",
		},
		"SIGKILL as the block's stop signal under CRI": {
			preStop(Config{StopSignal: sigKILL, CRI: true}),
			[]at{start, started, kill(0, sigKILL), exit(1 * s)},
			"",
		},
		"SIGKILL as the block's stop signal follows preStop after a failed postStart": {
			preStop(postStart(Config{StopSignal: sigKILL})),
			[]at{start, started, ends(1*s, Result{Outcome: Failed}), ends(2*s, Result{}), exit(2 * s)},
			"0s RunHandler postStart\n1s RunHandler preStop\n2s SendSignal 9\n2s Answer with an error",
		},
		"a second stop joins": {
			preStop(Config{}),
			[]at{start, started, kill(0, sigTERM), kill(1*s, sigINT), ends(2*s, Result{Outcome: Failed})},
			"0s RunHandler preStop\n2s SendSignal 15",
		},
		"the usual good end: the signal is dropped": {
			preStop(Config{}),
			[]at{start, started, kill(0, sigTERM), exit(1 * s), ends(1*s, ended(ContainerExit))},
			"0s RunHandler preStop\n1s AbortHandler: container exited",
		},
		"a container that exits by itself has no preStop": {
			preStop(Config{}), []at{start, started, exit(1 * s)}, "",
		},
		"CRI's SIGKILL is the deadline: the signal, and SIGKILL 2 s later": {
			preStop(Config{CRI: true}),
			[]at{start, started, kill(0, sigTERM), kill(6*s, sigKILL)},
			"0s RunHandler preStop\n6s AbortHandler: stop deadline\n6s SendSignal 15\n8s SendSignal 9",
		},
		"under CRI preStop has no deadline of ours, and every signal stops": {
			preStop(Config{CRI: true, GracePeriod: 5 * s}),
			[]at{start, started, kill(0, 28), ends(60*s, Result{})},
			"0s RunHandler preStop\n1m0s SendSignal 28",
		},
		"preStop's own time limit": {
			func() Config { c := preStop(Config{CRI: true}); c.PreStop.Timeout = 3 * s; return c }(),
			[]at{start, started, kill(0, sigTERM)},
			"0s RunHandler preStop\n3s AbortHandler: time limit\n6s AbortHandler: stop deadline\n6s SendSignal 15",
		},
		"postStart without limits has the default": {
			postStart(Config{GracePeriod: 5 * s}),
			[]at{start, started, ends(119*s, Result{})},
			"0s RunHandler postStart",
		},
		"postStart does not end": {
			func() Config { c := postStart(Config{GracePeriod: 5 * s}); c.PostStart.Timeout = 3 * s; return c }(),
			[]at{start, started},
			"0s RunHandler postStart\n3s AbortHandler: time limit\n6s SendSignal 15\n10.8s SendSignal 9\n16s Answer with an error",
		},
		"postStart does not end, and half of what is left of the request is for the stop": {
			postStart(Config{}),
			[]at{startBy(60 * s), started},
			"0s RunHandler postStart\n55s AbortHandler: time limit\n57.5s SendSignal 15\n59.55s SendSignal 9\n59.875s Answer with an error",
		},
		"the request's deadline wins over none, less 5 s; the stop ends before it": {
			postStart(Config{}),
			[]at{startBy(60 * s), started, ends(55*s, ended(TimeLimit))},
			"0s RunHandler postStart\n55s AbortHandler: time limit\n55s SendSignal 15\n59.3s SendSignal 9\n59.75s Answer with an error",
		},
		"crictl's deadline of 2 s": {
			postStart(Config{CRI: true}),
			[]at{startBy(2 * s), started, ends(1*s, ended(TimeLimit))},
			"0s RunHandler postStart\n1s AbortHandler: time limit\n1s SendSignal 15\n1.81s SendSignal 9\n1.95s Answer with an error",
		},
		"a failed postStart: preStop too, the block's signal, the default grace period": {
			func() Config { c := preStop(postStart(Config{StopSignal: 3})); return c }(),
			[]at{start, started, ends(1*s, Result{Outcome: Failed}), ends(2*s, Result{}), exit(3 * s)},
			"0s RunHandler postStart\n1s RunHandler preStop\n2s SendSignal 3\n3s Answer with an error",
		},
		"a failed postStart under CRI: the pod's grace period": {
			postStart(Config{CRI: true, PodGracePeriod: 20 * s}),
			[]at{start, started, ends(1*s, Result{Outcome: Failed})},
			"0s RunHandler postStart\n1s SendSignal 15\n20.8s SendSignal 9\n26s Answer with an error",
		},
		"a stop while postStart runs": {
			preStop(postStart(Config{})),
			[]at{start, started, kill(1*s, sigTERM), ends(1*s, ended(StopRequest)), ends(2*s, Result{}), exit(3 * s)},
			"0s RunHandler postStart\n1s AbortHandler: stop requested\n1s RunHandler preStop\n2s SendSignal 15\n3s Answer with an error",
		},
		"a stop while a postStart runs that cannot be ended: no preStop beside it": {
			preStop(postStart(Config{})),
			[]at{start, started, kill(1*s, sigTERM), exit(7 * s)},
			"0s RunHandler postStart\n1s AbortHandler: stop requested\n5s SendSignal 15\n7s AbortHandler: container exited\n7s Answer with an error",
		},
		"SIGKILL while postStart runs, under CRI too": {
			preStop(postStart(Config{CRI: true})),
			[]at{start, started, kill(1*s, sigKILL), exit(2 * s)},
			"0s RunHandler postStart\n1s AbortHandler: container killed\n2s AbortHandler: container exited\n2s Answer with an error",
		},
		"the container exits while postStart runs: the start is a success": {
			postStart(Config{}),
			[]at{start, started, exit(1 * s)},
			"0s RunHandler postStart\n1s AbortHandler: container exited",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := play(test.config, test.script); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

// TestNames: no value is without a name, and no name is there twice.
func TestNames(t *testing.T) {
	for what, names := range map[string][]string{
		"stage": stageNames[:], "kind": kindNames[:], "outcome": outcomeNames[:], "cause": causeNames[:],
		"event": eventNames[:], "effect": effectNames[:], "owner": ownerNames[1:],
	} {
		for i, name := range names {
			if name == "" || slices.Contains(names[:i], name) {
				t.Errorf("%s %d: name %q", what, i, name)
			}
		}
	}
}
