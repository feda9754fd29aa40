package lifecycle

import (
	"fmt"
	"testing"
	"time"
)

// TestEnd: what follows the container's exit, and its deletion.
func TestEnd(t *testing.T) {
	stop, onExit, all := Config{PreStop: &Handler{}}, Config{OnExit: &Handler{}}, Config{PreStop: &Handler{}, OnExit: &Handler{}}
	running := []at{start(0), returns(0, nil)}
	then := func(more ...at) []at { return append(append([]at{}, running...), more...) }
	checkRules(t, []rule{
		{"it exits", stop, then(exit(1*s), exit(1*s), remove(2*s), removed(2*s, nil)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"2s CallDelete 3"},
		{"the runtime refuses to delete it", stop, then(remove(1*s), removed(1*s, errRuntime), exit(2*s), asked(4, remove(3*s)), removed(3*s, nil)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s CallDelete 3\n" +
			"3s CallDelete 4"},
		{"it is deleted while preStop, which does not end, runs", stop, then(kill(1*s, 15), exit(2*s), remove(3*s), asked(4, remove(4*s)), removed(5*s, nil), removed(5*s, errRuntime), ends(6*s, Failed)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (DefaultGracePeriod) before signal 15 at 9s\n" +
			"2s AbortHandler: container exited\n" +
			"3s AbortHandler: container deleted\n" +
			"4.5s CallDelete 3\n" +
			"4.5s CallDelete 4\n" +
			"5s AbortHandler: container deleted"},
		{"it is deleted while preStop ends", stop, then(kill(1*s, 15), exit(2*s), remove(3*s), ends(4*s, Failed), removed(4*s, nil)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (DefaultGracePeriod) before signal 15 at 9s\n" +
			"2s AbortHandler: container exited\n" +
			"3s AbortHandler: container deleted\n" +
			"4s CallDelete 3"},
		{"it is deleted before its start", stop, []at{remove(1 * s), removed(1*s, nil)}, "1s CallDelete 3"},
		{"it exits before its start", onExit, []at{exit(1 * s), remove(2 * s), removed(2*s, nil)}, "1s ReleaseExit\n" +
			"2s CallDelete 3"},
		{"onExit succeeds", onExit, then(exit(1*s), ends(2*s, Succeeded)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"2s ReleaseExit"},
		{"onExit is ended by SIGKILL", onExit, then(exit(1*s), kill(2*s, 9), dies(3*s, ContainerKill)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"2s Answer 2\n" +
			"2s AbortHandler: container killed\n" +
			"3s ReleaseExit"},
		{"onExit does not end at SIGKILL", onExit, then(exit(1*s), kill(2*s, 9), asked(4, kill(3*s, 9))), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"2s Answer 2\n" +
			"2s AbortHandler: container killed\n" +
			"3s Answer 4\n" +
			"3s AbortHandler: container killed\n" +
			"5s ReleaseExit"},
		{"a stop while onExit runs", onExit, then(exit(1*s), kill(2*s, 15), asked(4, kill(2*s, 1)), ends(3*s, Succeeded)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"2s Answer 2\n" +
			"2s Forward 4\n" +
			"3s ReleaseExit"},
		{"onExit waits for preStop, which the exit has ended", all, then(kill(1*s, 15), exit(2*s), asked(4, kill(2*s, 15)), dies(3*s, ContainerExit), ends(4*s, Succeeded)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (DefaultGracePeriod) before signal 15 at 9s\n" +
			"2s AbortHandler: container exited\n" +
			"2s Answer 4\n" +
			"3s RunHandler onExit until 33s (default of onExit)\n" +
			"4s ReleaseExit"},
		{"onExit waits for preStop, which does not end", all, then(kill(1*s, 15), exit(2*s)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (DefaultGracePeriod) before signal 15 at 9s\n" +
			"2s AbortHandler: container exited\n" +
			"32s ReleaseExit"},
		{"it is deleted while onExit runs", onExit, then(exit(1*s), remove(2*s), ends(3*s, Succeeded), removed(3*s, nil)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"3s ReleaseExit\n" +
			"3s CallDelete 3"},
		{"it is deleted while onExit, which does not end, runs", onExit, then(exit(1*s), remove(2*s), asked(4, remove(3*s)), removed(38*s, nil), removed(38*s, errRuntime)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"31s AbortHandler: time limit\n" +
			"34s ReleaseExit\n" +
			"35.5s CallDelete 3\n" +
			"35.5s CallDelete 4\n" +
			"38s AbortHandler: container deleted"},
		{"it is deleted while it runs, with an onExit", onExit, then(remove(1 * s)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 3: cannot delete a running process: stop the container first"},
		{"the runtime deletes it while it runs, with an onExit", onExit, then(removed(1*s, nil)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s ReleaseExit"},
		{"the runtime deletes it while onExit runs", onExit, then(exit(1*s), removed(2*s, nil), dies(3*s, ContainerDelete), removed(4*s, nil)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s RunHandler onExit until 31s (default of onExit)\n" +
			"2s AbortHandler: container deleted\n" +
			"2s ReleaseExit"},
		{"what has ended ends once more", stop, then(ends(1*s, Succeeded), kill(2*s, 15), ends(3*s, Succeeded), ends(4*s, Failed)), "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"2s Answer 2\n" +
			"2s RunHandler preStop until 10s (DefaultGracePeriod) before signal 15 at 10s\n" +
			"3s SendSignal 15"},
	})
}

// TestStatus: what State, and an operator, is told in each phase.
func TestStatus(t *testing.T) {
	stop := Config{PreStop: &Handler{}, GracePeriod: 10 * s}
	pre, post := Config{PreStart: &Handler{Timeout: 4 * s}}, Config{PostStart: &Handler{Timeout: 5 * s}, PreStop: &Handler{Timeout: 2 * s}, GracePeriod: 10 * s}
	onExit := Config{PreStop: &Handler{}, OnExit: &Handler{Timeout: 5 * s}}
	for _, test := range []struct {
		config Config
		script []at
		want   string
	}{
		{stop, nil, "Created, held false"},
		{stop, []at{start(0)}, "Starting, held false"},
		{stop, []at{start(0), kill(0, 15)}, "Starting, held false, signal 15 waits"},
		{stop, []at{start(0), kill(0, 9)}, "Starting, held false"},
		{stop, []at{start(0), exit(0)}, "Starting, held false"},
		{stop, []at{start(0), returns(0, nil)}, "Running, held false"},
		{stop, []at{start(0), returns(0, nil), kill(0, 15)}, "PreStop, held false, signal 15 waits, due 8s, runs preStop"},
		{stop, []at{start(0), returns(0, nil), kill(0, 15), ends(0, Succeeded)}, "Stopping, held false, due 9.8s"},
		{stop, []at{start(0), returns(0, nil), kill(0, 15), exit(0)}, "Exited, held false, runs preStop"},
		{stop, []at{start(0), returns(0, nil), kill(0, 15), exit(0), remove(0)}, "Exited, held false, due 1.5s, runs preStop"},
		{stop, []at{start(0), returns(0, nil), kill(0, 15), exit(0), removed(0, nil)}, "Deleted, held false, runs preStop"},
		{stop, []at{start(0), returns(0, nil), kill(0, 15), exit(0), removed(0, nil), ends(0, Failed)}, "Deleted, held false, done"},
		{stop, []at{start(0), removed(0, nil)}, "Deleted, held false"},
		{pre, []at{start(0)}, "PreStart, held true, due 4s, runs preStart"},
		{pre, []at{start(0), ends(0, Succeeded)}, "Starting, held false"},
		{pre, []at{start(0), ends(0, Failed)}, "Cancelled, held true, due 5s"},
		{pre, []at{start(0), ends(0, Failed), remove(0)}, "Cancelled, held true, due 1.5s"},
		{pre, []at{start(0), kill(0, 15)}, "Cancelled, held true, due 5s, runs preStart"},
		{pre, []at{start(0), kill(0, 9)}, "Cancelled, held true, due 5s, runs preStart"},
		{pre, []at{start(0), {5 * s, Event{Kind: DeadlineReached}}}, "PreStart, held true, due 8s, runs preStart"},
		{post, []at{start(0)}, "Starting, held true"},
		{post, []at{start(0), returns(0, nil)}, "PostStart, held true, due 5s, runs postStart"},
		{post, []at{start(0), returns(0, nil), {5 * s, Event{Kind: DeadlineReached}}}, "PostStart, held true, due 8s, runs postStart"},
		{post, []at{start(0), returns(0, nil), kill(0, 15)}, "PostStart, held true, signal 15 waits, due 4s, runs postStart"},
		{post, []at{start(0), returns(0, nil), ends(0, Failed)}, "PreStop, held true, signal 15 waits, due 2s, runs preStop"},
		{post, []at{start(0), returns(0, nil), ends(0, Failed), {2 * s, Event{Kind: DeadlineReached}}}, "PreStop, held true, signal 15 waits, due 5s, runs preStop"},
		{post, []at{start(0), returns(0, nil), ends(0, Failed), ends(0, Failed)}, "Stopping, held true, due 9.8s"},
		{post, []at{start(0), returns(0, nil), ends(0, Succeeded), kill(1*s, 15)}, "PreStop, held false, signal 15 waits, due 3s, runs preStop"},
		{Config{OnExit: &Handler{}}, []at{start(0), kill(0, 15)}, "Starting, held false"},
		{Config{OnExit: &Handler{}}, []at{start(0), kill(0, 15), returns(0, nil)}, "Running, held false"},
		{onExit, []at{start(0), returns(0, nil), kill(0, 15), exit(0)}, "OnExit, held false, due 5s, runs preStop"},
		{onExit, []at{start(0), returns(0, nil), exit(0)}, "OnExit, held false, due 5s, runs onExit"},
		{onExit, []at{start(0), returns(0, nil), exit(0), kill(1*s, 9)}, "OnExit, held false, due 4s, runs onExit"},
		{onExit, []at{start(0), returns(0, nil), exit(0), ends(0, Succeeded)}, "Exited, held false"},
	} {
		test.config.DefaultPostStartTimeout, test.config.DefaultGracePeriod = 120*s, 10*s
		m := New(test.config)
		for _, next := range test.script {
			m.Step(epoch.Add(next.after), next.event)
		}
		status := m.Status()
		got := fmt.Sprintf("%s, held %t", status.Stage, status.StartHeld)
		if status.Pending != 0 {
			got += fmt.Sprintf(", signal %d waits", status.Pending)
		}
		if !status.Deadline.IsZero() {
			got += fmt.Sprintf(", due %s", status.Deadline.Sub(epoch))
		}
		if m.Handler() != NoHandler {
			got += ", runs " + m.Handler().String()
		}
		if m.Done() {
			got += ", done"
		}
		if got != test.want || status.Stage != m.Stage() || status.StartHeld != m.StartHeld() || status.Deadline != m.Deadline() {
			t.Errorf("%v: got\n%s, want\n%s", test.script, got, test.want)
		}
	}
}

// TestNothingIsDueBefore: a deadline that is reached early, or twice, does nothing.
func TestNothingIsDueBefore(t *testing.T) {
	m := New(Config{PreStop: &Handler{Timeout: s}, GracePeriod: 10 * s})
	for _, next := range []at{start(0), returns(0, nil), kill(0, 15)} {
		m.Step(epoch.Add(next.after), next.event)
	}
	early := []time.Duration{0, 1*s - 1}
	for _, after := range early {
		if effects := m.Step(epoch.Add(after), Event{Kind: DeadlineReached}); len(effects) > 0 {
			t.Errorf("after %s: %v", after, effects)
		}
	}
	if effects := m.Step(epoch.Add(1*s), Event{Kind: DeadlineReached}); len(effects) != 1 || effects[0].Cause != TimeLimit {
		t.Errorf("got %v", effects)
	}
	if effects := New(Config{}).Step(epoch, Event{Kind: DeadlineReached}); len(effects) > 0 {
		t.Errorf("of a container that was not started: %v", effects)
	}
}
