package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tell is an effect with all that its owner is given.
func tell(e Effect) string {
	text := e.String()
	after := func(t time.Time) string { return t.Sub(epoch).String() }
	switch e.Kind {
	case CallStart, CallDelete, Forward:
		text += fmt.Sprintf(" %d", e.Request)
	case Answer:
		text = fmt.Sprintf("Answer %d", e.Request)
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
	case RunHandler:
		if !e.Limit.IsZero() {
			text += " until " + after(e.Limit)
		}
		text += fmt.Sprintf(" (%s)", e.LimitOwner)
		if e.Signal.Number != 0 {
			text += fmt.Sprintf(" before signal %d", e.Signal.Number)
		}
		if !e.Deadline.IsZero() {
			text += " at " + after(e.Deadline)
		}
		if e.NotStarted {
			text += ", not started"
		}
	case SendSignal:
		if e.Signal.All {
			text += " to all"
		}
	}
	return text
}

// playAll runs a script as play does, and returns all effects.
func playAll(config Config, script []at) string {
	m := New(config)
	var lines []string
	step := func(now time.Time, event Event) {
		for _, effect := range m.Step(now, event) {
			lines = append(lines, fmt.Sprintf("%s %s", now.Sub(epoch), tell(effect)))
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
	pass(epoch.Add(10 * time.Minute))
	return strings.Join(lines, "\n")
}

const (
	s  = time.Second
	ms = time.Millisecond
)

// What a script is made of. A start is request 1, a kill 2 and a deletion 3, unless asked says otherwise.
func start(deadline time.Duration) at {
	event := Event{Kind: StartRequested, Request: 1}
	if deadline != 0 {
		event.Deadline = epoch.Add(deadline)
	}
	return at{0, event}
}

func returns(after time.Duration, err error) at {
	return at{after, Event{Kind: StartReturned, Err: err}}
}

func kill(after time.Duration, number uint32) at {
	return at{after, Event{Kind: KillRequested, Request: 2, Signal: Signal{Number: number}}}
}

func remove(after time.Duration) at { return at{after, Event{Kind: DeleteRequested, Request: 3}} }

func removed(after time.Duration, err error) at {
	return at{after, Event{Kind: DeleteReturned, Err: err}}
}

func ends(after time.Duration, outcome Outcome) at {
	return at{after, Event{Kind: HandlerEnded, Result: Result{Outcome: outcome, Message: "words"}}}
}

func dies(after time.Duration, cause Cause) at {
	return at{after, Event{Kind: HandlerEnded, Result: Result{Outcome: Aborted, Cause: cause}}}
}

func exit(after time.Duration) at { return at{after, Event{Kind: ContainerExited}} }

func asked(request RequestID, by at) at {
	by.event.Request = request
	return by
}

func later(after time.Duration, by at) at {
	by.after = after
	return by
}

func toAll(by at) at {
	by.event.Signal.All = true
	return by
}

var errRuntime = errors.New("the runtime's own words")

// rule is one promise: what a container does in a situation.
type rule struct {
	name   string
	config Config
	script []at
	want   string
}

func checkRules(t *testing.T, rules []rule) {
	t.Helper()
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			r.config.DefaultPostStartTimeout, r.config.DefaultGracePeriod = 120*s, 10*s
			if got := playAll(r.config, r.script); got != r.want {
				t.Errorf("got\n%s\nwant\n%s", got, r.want)
			}
		})
	}
}

// TestStopSignals is docs/spec.md#stop-signal: what starts a stop, and what passes.
func TestStopSignals(t *testing.T) {
	const tooLarge = 65
	stops := func(number uint32) string {
		return fmt.Sprintf("0s CallStart 1\n0s ReleaseStart\n0s Answer 1\n1s Answer 2\n1s RunHandler preStop (CRI) before signal %d", number)
	}
	stopsElsewhere := func(number uint32) string {
		return fmt.Sprintf("0s CallStart 1\n0s ReleaseStart\n0s Answer 1\n1s Answer 2\n1s RunHandler preStop until 9s (DefaultGracePeriod) before signal %d at 9s\n"+
			"9s AbortHandler: stop deadline\n9s SendSignal %[1]d", number)
	}
	const passes = "0s CallStart 1\n0s ReleaseStart\n0s Answer 1\n1s Forward 2"
	for _, test := range []struct {
		number, block  uint32
		cri, elsewhere bool // whether it stops
	}{
		{number: 0}, // tests whether the process is there
		{number: 1, cri: true},
		{number: 2, cri: true, elsewhere: true},
		{number: 3, cri: true},
		{number: 3, block: 3, cri: true, elsewhere: true},
		{number: 15, cri: true, elsewhere: true},
		{number: 15, block: 3, cri: true, elsewhere: true},
		{number: 28, cri: true},
		{number: 36, cri: true},
		{number: 37, cri: true, elsewhere: true},
		{number: 38, cri: true},
		{number: 64, cri: true},
		{number: tooLarge},
	} {
		for _, cri := range []bool{false, true} {
			want := passes
			if cri && test.cri {
				want = stops(test.number)
			} else if !cri && test.elsewhere {
				want = stopsElsewhere(test.number)
			}
			checkRules(t, []rule{{
				fmt.Sprintf("signal %d, block %d, cri %t", test.number, test.block, cri),
				Config{CRI: cri, PreStop: &Handler{}, StopSignal: test.block},
				[]at{start(0), returns(0, nil), kill(1*s, test.number)},
				want,
			}})
		}
	}
}

// TestOnExitLimits: until when an onExit may run, and whose limit that is (docs/use/handlers.md).
//
// See docs/spec.md#onexit-limit.
func TestOnExitLimits(t *testing.T) {
	run := func(limit, owner string, ends string) string {
		return "0s CallStart 1\n0s ReleaseStart\n0s Answer 1\n1s RunHandler onExit until " + limit + " (" + owner + ")\n" +
			limit + " AbortHandler: time limit\n" + ends + " ReleaseExit"
	}
	ran := []at{start(0), returns(0, nil), exit(1 * s)}
	checkRules(t, []rule{
		{"without a limit", Config{OnExit: &Handler{}}, ran, run("31s", "default of onExit", "34s")},
		{"its own", Config{OnExit: &Handler{Timeout: 5 * s}}, ran, run("6s", "timeoutSeconds", "9s")},
		{"its own, longer than the default", Config{OnExit: &Handler{Timeout: 200 * s}}, ran, run("3m21s", "timeoutSeconds", "3m24s")},
		{"without a limit, CRI", Config{CRI: true, OnExit: &Handler{}}, ran, run("31s", "default of onExit", "34s")},
		{"its own, CRI", Config{CRI: true, OnExit: &Handler{Timeout: 99 * s}}, ran, run("1m40s", "timeoutSeconds", "1m43s")},
		{"just what CRI waits for", Config{CRI: true, OnExit: &Handler{Timeout: 100 * s}}, ran, run("1m41s", "timeoutSeconds", "1m44s")},
		{"longer than CRI waits for", Config{CRI: true, OnExit: &Handler{Timeout: 101 * s}}, ran, run("1m41s", "exit handling of CRI", "1m44s")},
		{
			"a start waits for it, and is answered before its deadline",
			Config{PreStart: &Handler{}, OnExit: &Handler{}},
			[]at{start(20 * s), ends(0, Failed), exit(1 * s)},
			"0s RunHandler preStart until 15s (start request)\n0s SendSignal 9\n1s RunHandler onExit until 16.5s (start request), not started\n" +
				"16.5s AbortHandler: time limit\n18.25s ReleaseExit\n18.25s ReleaseStart\n18.25s Answer 1: preStart handler failed: words",
		},
		{
			"a start waits for it, whose answer is due when the default is",
			Config{PreStart: &Handler{}, OnExit: &Handler{}},
			[]at{start(31*s + 500*ms), ends(0, Failed), exit(1 * s), later(2*s, ends(0, Succeeded))},
			"0s RunHandler preStart until 26.5s (start request)\n0s SendSignal 9\n1s RunHandler onExit until 31s (default of onExit), not started\n" +
				"2s ReleaseExit\n2s ReleaseStart\n2s Answer 1: preStart handler failed: words",
		},
		{
			"a start waits for it, with time enough",
			Config{PreStart: &Handler{}, OnExit: &Handler{Timeout: 5 * s}},
			[]at{start(60 * s), ends(0, Failed), exit(1 * s)},
			"0s RunHandler preStart until 55s (start request)\n0s SendSignal 9\n1s RunHandler onExit until 6s (timeoutSeconds), not started\n" +
				"6s AbortHandler: time limit\n9s ReleaseExit\n9s ReleaseStart\n9s Answer 1: preStart handler failed: words",
		},
		{
			"a start with little time waits for it, and an onExit that does not end is not waited for beyond that",
			Config{PreStart: &Handler{}, OnExit: &Handler{}},
			[]at{start(4 * s), ends(0, Failed), exit(2 * s)},
			"0s RunHandler preStart until 2s (start request)\n0s SendSignal 9\n2s RunHandler onExit until 2.95s (start request), not started\n" +
				"2.95s AbortHandler: time limit\n3.475s ReleaseExit\n3.475s ReleaseStart\n3.475s Answer 1: preStart handler failed: words",
		},
	})
}

// TestSIGKILLIsSentOnce (docs/spec.md#signal-once): where a client's went before, the shim sends none of its own.
func TestSIGKILLIsSentOnce(t *testing.T) {
	block := Config{PreStop: &Handler{}, GracePeriod: 5 * s}
	begin := "0s CallStart 1\n0s ReleaseStart\n0s Answer 1\n1s Answer 2\n1s RunHandler preStop until 4s (terminationGracePeriodSeconds) before signal 15 at 4s\n"
	checkRules(t, []rule{
		{
			"while preStop runs", block,
			[]at{start(0), returns(0, nil), kill(1*s, 15), asked(4, kill(2*s, 9))},
			begin + "2s Forward 4\n2s AbortHandler: container killed",
		},
		{
			"after the stop signal", block,
			[]at{start(0), returns(0, nil), kill(1*s, 15), ends(2*s, Succeeded), asked(4, kill(3*s, 9))},
			begin + "2s SendSignal 15\n3s Forward 4",
		},
		{
			"after a failed postStart",
			Config{PostStart: &Handler{}},
			[]at{start(0), returns(0, nil), ends(1*s, Failed), asked(4, kill(3*s, 9))},
			"0s CallStart 1\n0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n1s SendSignal 15\n3s Forward 4\n" +
				"8s ReleaseStart\n8s Answer 1: postStart handler failed: words (the container has not exited yet)",
		},
	})
}

// ticks is a number of times a duration.
type ticks = time.Duration
