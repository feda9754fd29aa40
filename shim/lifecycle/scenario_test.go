package lifecycle

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios runs the scenarios of testdata, whose form script_test.go describes.
// -update rewrites what they lead to.
//
// start-answers.txt: every way in which a held start ends, and its words;
// start-limits.txt: docs/spec.md#start-limit; stop.txt: docs/spec.md#stop;
// prestop-limits.txt: docs/spec.md#grace-share and docs/spec.md#start-failure;
// sigkill-once.txt: docs/spec.md#signal-once, after a client's SIGKILL the shim sends
// none of its own; exit.txt: docs/spec.md#stop-exit and docs/spec.md#delete;
// onexit-limits.txt: docs/spec.md#onexit-limit; status.txt: docs/spec.md#status.
func TestScenarios(t *testing.T) {
	if *update {
		if err := flag.Set("rewrite", "true"); err != nil { // datadriven's
			t.Fatal(err)
		}
	}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			config, err := parseConfig(d.CmdArgs)
			if err != nil || d.Cmd != "container" {
				d.Fatalf(t, "%s: %v", d.Cmd, err)
			}
			effects, err := play(config, d.Input)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			return effects
		})
	})
}

// TestStopSignals is docs/spec.md#stop-signal: what begins a stop, and what is forwarded.
func TestStopSignals(t *testing.T) {
	const tooLarge = 65
	const begin = "0s CallStart 1\n0s ReleaseStart\n0s Answer 1\n"
	for _, test := range []struct {
		number, block uint32
		cri, outside  bool // whether it begins a stop
	}{
		{number: 0}, // only tests whether the process exists
		{number: 1, cri: true},
		{number: 2, cri: true, outside: true},
		{number: 3, cri: true},
		{number: 3, block: 3, cri: true, outside: true},
		{number: 15, cri: true, outside: true},
		{number: 15, block: 3, cri: true, outside: true},
		{number: 28, cri: true},
		{number: 36, cri: true},
		{number: 37, cri: true, outside: true},
		{number: 38, cri: true},
		{number: 64, cri: true},
		{number: tooLarge},
	} {
		for _, cri := range []bool{false, true} {
			want := begin + "1s Forward 2\n"
			switch {
			case cri && test.cri:
				want = begin + fmt.Sprintf("1s Answer 2\n1s RunHandler preStop (CRI) before signal %d\n", test.number)
			case !cri && test.outside:
				want = begin + fmt.Sprintf("1s Answer 2\n1s RunHandler preStop until 9s (DefaultGracePeriod) before signal %d at 9s\n"+
					"9s AbortHandler: stop deadline\n9s SendSignal %[1]d\n", test.number)
			}
			config := Config{CRI: cri, PreStop: &Handler{}, StopSignal: test.block, DefaultGracePeriod: 10 * time.Second}
			got, err := play(config, fmt.Sprintf("0s start\n0s start returned\n1s kill %d", test.number))
			if got != want || err != nil {
				t.Errorf("signal %d, block %d, cri %t: got\n%s(%v), want\n%s", test.number, test.block, cri, got, err, want)
			}
		}
	}
}

// TestScripts: a script with a mistake is not run.
func TestScripts(t *testing.T) {
	for _, script := range []string{"start", "0s begin", "0s kill", "0s kill x", "0s start by x", "0s handler", "0s handler Ended", "0s handler Aborted: x"} {
		if got, err := play(Config{}, script); err == nil {
			t.Errorf("%q: got %q and no error", script, got)
		}
	}
	for _, arg := range []datadriven.CmdArg{{Key: "prestop"}, {Key: "grace", Vals: []string{"x"}}, {Key: "preStop", Vals: []string{"Fail"}}} {
		if _, err := parseConfig([]datadriven.CmdArg{arg}); err == nil {
			t.Errorf("%s: no error", arg)
		}
	}
}

// TestEarlyDeadline: a deadline that is reported before its time, or again, does nothing.
func TestEarlyDeadline(t *testing.T) {
	const second = time.Second
	m := after(Config{PreStop: &Handler{Timeout: second}, GracePeriod: 10 * second}, append(started, Event{Kind: KillRequested, Request: 2, Signal: Signal{Number: sigTERM}}))
	for _, early := range []time.Duration{0, second - 1} {
		if effects := m.Step(noon.Add(early), Event{Kind: DeadlineReached}); len(effects) > 0 {
			t.Errorf("after %s: %v", early, effects)
		}
	}
	for _, want := range []int{1, 0} {
		if effects := m.Step(noon.Add(second), Event{Kind: DeadlineReached}); len(effects) != want || want == 1 && effects[0].Cause != TimeLimit {
			t.Errorf("at the limit: %v, want %d effects", effects, want)
		}
	}
	if effects := New(Config{}).Step(noon, Event{Kind: DeadlineReached}); len(effects) > 0 {
		t.Errorf("of a container that was not started: %v", effects)
	}
}

// TestNames: every value has a name, and no two have the same.
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
