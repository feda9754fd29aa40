package lifecycle

import "testing"

// TestStartLimits is docs/spec.md#start-limit: until when a handler of a start may run, and whose limit that is.
func TestStartLimits(t *testing.T) {
	ok := ends(0, Succeeded)
	post := func(timeout int) Config { return Config{PostStart: &Handler{Timeout: s * ticks(timeout)}} }
	pre := func(timeout int) Config { return Config{PreStart: &Handler{Timeout: s * ticks(timeout)}} }
	checkRules(t, []rule{
		{"postStart's own", post(5), []at{start(0), returns(0, nil), ok}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 5s (timeoutSeconds)\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"postStart's own, before the request's", post(54), []at{start(60 * s), returns(0, nil), ok}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 54s (timeoutSeconds)\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"postStart's own, at the request's", post(55), []at{start(60 * s), returns(0, nil), ok}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 55s (timeoutSeconds)\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"postStart's own, after the request's", post(56), []at{start(60 * s), returns(0, nil), ok}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 55s (start request)\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"postStart with none, a request of 8 s", post(0), []at{start(8 * s), returns(0, nil), ok}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 4s (start request)\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"postStart with none", post(0), []at{start(0), returns(0, nil), ok}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"preStart's own", pre(5), []at{start(0), ok, returns(0, nil)}, "0s RunHandler preStart until 5s (timeoutSeconds)\n" +
			"0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"preStart with none", pre(0), []at{start(60 * s), ok, returns(0, nil)}, "0s RunHandler preStart until 55s (start request)\n" +
			"0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
	})
}

// TestPreStopLimits is docs/spec.md#grace-share, docs/spec.md#start-failure: until when a preStop may run, whose limit that is, and when the signals are sent.
func TestPreStopLimits(t *testing.T) {
	stop := []at{start(0), returns(0, nil), kill(1*s, 15)}
	limited := func(timeout int, config Config) Config {
		config.PreStop = &Handler{Timeout: s * ticks(timeout)}
		return config
	}
	failed := func(deadline int) []at { return []at{start(s * ticks(deadline)), returns(0, nil), ends(0, Failed)} }
	post := &Handler{}
	checkRules(t, []rule{
		{"its own, within the grace period", limited(3, Config{GracePeriod: 10 * s}), stop, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 4s (timeoutSeconds) before signal 15 at 9s\n" +
			"4s AbortHandler: time limit\n" +
			"7s AbortHandler: stop deadline\n" +
			"7s SendSignal 15\n" +
			"10.8s SendSignal 9"},
		{"its own, all of its share", limited(8, Config{GracePeriod: 10 * s}), stop, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (terminationGracePeriodSeconds) before signal 15 at 9s\n" +
			"9s AbortHandler: stop deadline\n" +
			"9s SendSignal 15\n" +
			"10.8s SendSignal 9"},
		{"its own, more than its share", limited(9, Config{GracePeriod: 10 * s}), stop, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (terminationGracePeriodSeconds) before signal 15 at 9s\n" +
			"9s AbortHandler: stop deadline\n" +
			"9s SendSignal 15\n" +
			"10.8s SendSignal 9"},
		{"its own, CRI", limited(3, Config{CRI: true, GracePeriod: 10 * s}), stop, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 4s (timeoutSeconds) before signal 15\n" +
			"4s AbortHandler: time limit\n" +
			"7s AbortHandler: stop deadline\n" +
			"7s SendSignal 15"},
		{"none, CRI", limited(0, Config{CRI: true, GracePeriod: 10 * s}), stop, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop (CRI) before signal 15"},
		{"a failed postStart, the block's", limited(0, Config{PostStart: post, GracePeriod: 10 * s, PodGracePeriod: 20 * s}), failed(0), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"0s RunHandler preStop until 8s (terminationGracePeriodSeconds) before signal 15 at 8s\n" +
			"8s AbortHandler: stop deadline\n" +
			"8s SendSignal 15\n" +
			"9.8s SendSignal 9\n" +
			"15s ReleaseStart\n" +
			"15s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"a failed postStart, the pod's", limited(0, Config{CRI: true, PostStart: post, PodGracePeriod: 20 * s}), failed(0), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"0s RunHandler preStop until 18s (pod's terminationGracePeriodSeconds) before signal 15 at 18s\n" +
			"18s AbortHandler: stop deadline\n" +
			"18s SendSignal 15\n" +
			"19.8s SendSignal 9\n" +
			"25s ReleaseStart\n" +
			"25s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"a failed postStart, CRI's", limited(0, Config{CRI: true, PostStart: post}), failed(0), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"0s RunHandler preStop until 28s (grace period of CRI) before signal 15 at 28s\n" +
			"28s AbortHandler: stop deadline\n" +
			"28s SendSignal 15\n" +
			"29.8s SendSignal 9\n" +
			"35s ReleaseStart\n" +
			"35s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"a failed postStart, the default", limited(0, Config{PostStart: post}), failed(0), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"0s RunHandler preStop until 8s (DefaultGracePeriod) before signal 15 at 8s\n" +
			"8s AbortHandler: stop deadline\n" +
			"8s SendSignal 15\n" +
			"9.8s SendSignal 9\n" +
			"15s ReleaseStart\n" +
			"15s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"a failed postStart, a request with time enough", limited(0, Config{PostStart: post}), failed(60), "0s CallStart 1\n" +
			"0s RunHandler postStart until 55s (start request)\n" +
			"0s RunHandler preStop until 8s (DefaultGracePeriod) before signal 15 at 8s\n" +
			"8s AbortHandler: stop deadline\n" +
			"8s SendSignal 15\n" +
			"9.8s SendSignal 9\n" +
			"15s ReleaseStart\n" +
			"15s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"a failed postStart, a request with just enough", limited(0, Config{PostStart: post}), failed(11), "0s CallStart 1\n" +
			"0s RunHandler postStart until 6s (start request)\n" +
			"0s RunHandler preStop until 8s (DefaultGracePeriod) before signal 15 at 8s\n" +
			"8s AbortHandler: stop deadline\n" +
			"8s SendSignal 15\n" +
			"9.8s SendSignal 9\n" +
			"10.5s ReleaseStart\n" +
			"10.5s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"a failed postStart, a request with less", limited(0, Config{PostStart: post}), failed(8), "0s CallStart 1\n" +
			"0s RunHandler postStart until 4s (start request)\n" +
			"0s RunHandler preStop until 5.2s (start request) before signal 15 at 5.2s\n" +
			"5.2s AbortHandler: stop deadline\n" +
			"5.2s SendSignal 15\n" +
			"7s SendSignal 9\n" +
			"7.6s ReleaseStart\n" +
			"7.6s Answer 1: postStart handler failed: words (the container has not exited yet)"},
		{"the signal is for all processes", limited(0, Config{GracePeriod: 10 * s}), []at{start(0), returns(0, nil), toAll(kill(1*s, 15))}, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1\n" +
			"1s Answer 2\n" +
			"1s RunHandler preStop until 9s (terminationGracePeriodSeconds) before signal 15 at 9s\n" +
			"9s AbortHandler: stop deadline\n" +
			"9s SendSignal 15 to all\n" +
			"10.8s SendSignal 9 to all"},
		{
			"a stop while postStart runs, which does not end", limited(0, Config{PostStart: post, GracePeriod: 60 * s}),
			[]at{start(0), returns(0, nil), kill(1*s, 15)},
			"0s CallStart 1\n" +
				"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
				"1s Answer 2\n" +
				"1s AbortHandler: stop requested\n" +
				"6s SendSignal 15\n" +
				"1m0.8s SendSignal 9\n" +
				"1m6s ReleaseStart\n" +
				"1m6s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested) (the container has not exited yet)",
		},
		{
			"a stop while postStart runs, which ends late", limited(3, Config{PostStart: post, GracePeriod: 60 * s}),
			[]at{start(0), returns(0, nil), kill(1*s, 15), dies(4*s, StopRequest)},
			"0s CallStart 1\n" +
				"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
				"1s Answer 2\n" +
				"1s AbortHandler: stop requested\n" +
				"4s RunHandler preStop until 7s (timeoutSeconds) before signal 15 at 59s\n" +
				"7s AbortHandler: time limit\n" +
				"10s AbortHandler: stop deadline\n" +
				"10s SendSignal 15\n" +
				"1m0.8s SendSignal 9\n" +
				"1m6s ReleaseStart\n" +
				"1m6s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested) (the container has not exited yet)",
		},
	})
}

// TestStartIsAnswered: every way in which a held start ends, and in which words.
func TestStartIsAnswered(t *testing.T) {
	pre, post, both := Config{PreStart: &Handler{}}, Config{PostStart: &Handler{}}, Config{PreStart: &Handler{}, PostStart: &Handler{}}
	stopped := Config{PostStart: &Handler{}, PreStop: &Handler{}}
	onExit := Config{PreStart: &Handler{}, OnExit: &Handler{}}
	running := []at{start(0), returns(0, nil)}
	then := func(more ...at) []at { return append(append([]at{}, running...), more...) }
	checkRules(t, []rule{
		{"no handler", Config{}, running, "0s CallStart 1\n" +
			"0s ReleaseStart\n" +
			"0s Answer 1"},
		{"preStart, then postStart", both, []at{start(0), ends(1*s, Succeeded), returns(1*s, nil), ends(2*s, Succeeded)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s CallStart 1\n" +
			"1s RunHandler postStart until 2m1s (DefaultPostStartTimeout)\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1"},
		{"preStart fails", pre, []at{start(0), ends(1*s, Failed), exit(2 * s)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s SendSignal 9\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: preStart handler failed: words"},
		{"preStart fails, which is ignored", Config{PreStart: &Handler{IgnoreFailure: true}}, []at{start(0), ends(1*s, Failed), returns(2*s, nil)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s CallStart 1\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1"},
		{"preStart dies with the container, though failures are ignored", Config{PreStart: &Handler{IgnoreFailure: true}}, []at{start(0), dies(1*s, ContainerExit), exit(1 * s)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s SendSignal 9\n" +
			"1s ReleaseStart\n" +
			"1s Answer 1: preStart handler aborted: container exited before its entrypoint was started"},
		{"the process exits while preStart runs", pre, []at{start(0), exit(1 * s), dies(1*s, ContainerExit)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s AbortHandler: container exited\n" +
			"1s ReleaseStart\n" +
			"1s Answer 1: preStart handler aborted: container exited before its entrypoint was started"},
		{"SIGKILL while preStart runs", pre, []at{start(0), kill(1*s, 9), dies(1*s, ContainerKill), exit(2 * s)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Forward 2\n" +
			"1s AbortHandler: container killed\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: preStart handler aborted: signal 9 arrived before the start was acknowledged (container killed)"},
		{"SIGKILL while preStart runs, and no exit", pre, []at{start(20 * s), kill(1*s, 9)}, "0s RunHandler preStart until 15s (start request)\n" +
			"1s Forward 2\n" +
			"1s AbortHandler: container killed\n" +
			"6s ReleaseStart\n" +
			"6s Answer 1: preStart handler aborted: signal 9 arrived before the start was acknowledged (container killed) (the container has not exited yet)"},
		{"a stop while preStart runs", pre, []at{start(0), kill(1*s, 15), dies(1*s, StopRequest), exit(2 * s)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Answer 2\n" +
			"1s AbortHandler: stop requested\n" +
			"1s SendSignal 9\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: preStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested)"},
		{"another signal while preStart runs", pre, []at{start(0), kill(1*s, 1)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Forward 2\n" +
			"2m0s AbortHandler: time limit\n" +
			"2m3s SendSignal 9\n" +
			"2m8s ReleaseStart\n" +
			"2m8s Answer 1: preStart handler failed: timed out, and its process cannot be ended (the container has not exited yet)"},
		{"a deletion while preStart runs", pre, []at{start(0), remove(1 * s), dies(1*s, ContainerDelete), exit(2 * s), removed(2*s, nil)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s AbortHandler: container deleted\n" +
			"1s SendSignal 9\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: preStart handler aborted: container deleted before its entrypoint was started\n" +
			"2s CallDelete 3"},
		{"a deletion while preStart runs, and no exit", pre, []at{start(0), remove(1 * s), removed(4*s, nil)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s AbortHandler: container deleted\n" +
			"1s SendSignal 9\n" +
			"2.5s CallDelete 3\n" +
			"4s AbortHandler: container deleted\n" +
			"4s ReleaseStart\n" +
			"4s Answer 1: preStart handler aborted: container deleted before its entrypoint was started"},
		{"a deletion while preStart runs, no exit, and an onExit", onExit, []at{start(0), remove(1 * s), exit(4 * s), ends(5*s, Succeeded), asked(4, remove(6*s))}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s AbortHandler: container deleted\n" +
			"1s SendSignal 9\n" +
			"2.5s Answer 3: cannot delete a process that was killed and has not exited yet: try again\n" +
			"4s AbortHandler: container exited\n" +
			"5s RunHandler onExit until 35s (default of onExit), not started\n" +
			"35s AbortHandler: time limit\n" +
			"38s ReleaseExit\n" +
			"38s ReleaseStart\n" +
			"38s Answer 1: preStart handler aborted: container deleted before its entrypoint was started\n" +
			"39.5s CallDelete 4"},
		{"a deletion after a failed preStart", pre, []at{start(0), ends(1*s, Failed), remove(2 * s), exit(3 * s), removed(6*s, nil)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s SendSignal 9\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: preStart handler failed: words\n" +
			"3s CallDelete 3"},
		{"the runtime deletes it while preStart runs", pre, []at{start(0), removed(1*s, nil)}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s AbortHandler: container deleted\n" +
			"1s ReleaseStart\n" +
			"1s Answer 1: preStart handler aborted: container deleted before its entrypoint was started"},
		{"preStart does not end", pre, []at{start(60 * s), exit(58 * s)}, "0s RunHandler preStart until 55s (start request)\n" +
			"55s AbortHandler: time limit\n" +
			"57.5s SendSignal 9\n" +
			"58s AbortHandler: container exited\n" +
			"58s ReleaseStart\n" +
			"58s Answer 1: preStart handler failed: timed out, and its process cannot be ended"},
		{"preStart does not end, nor the process", Config{PreStart: &Handler{Timeout: 5 * s}}, []at{start(0)}, "0s RunHandler preStart until 5s (timeoutSeconds)\n" +
			"5s AbortHandler: time limit\n" +
			"8s SendSignal 9\n" +
			"13s ReleaseStart\n" +
			"13s Answer 1: preStart handler failed: timed out, and its process cannot be ended (the container has not exited yet)"},
		{"a second start", pre, []at{start(0), asked(4, start(0)), ends(1*s, Failed), asked(5, later(1*s, start(0))), exit(2 * s), asked(6, later(3*s, start(0)))}, "0s RunHandler preStart until 2m0s (DefaultPostStartTimeout)\n" +
			"0s Answer 4: cannot start a container that is being started, or whose start has failed: delete it\n" +
			"1s SendSignal 9\n" +
			"1s Answer 5: cannot start a container that is being started, or whose start has failed: delete it\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: preStart handler failed: words\n" +
			"3s Forward 6"},
		{"postStart fails", post, then(ends(1*s, Failed), exit(2*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s SendSignal 15\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: postStart handler failed: words"},
		{"postStart times out, which is ignored", Config{PostStart: &Handler{IgnoreFailure: true, Timeout: s}}, then(ends(2*s, TimedOut)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 1s (timeoutSeconds)\n" +
			"1s AbortHandler: time limit\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1"},
		{"postStart does not end, which is ignored", Config{PostStart: &Handler{IgnoreFailure: true, Timeout: s}}, running, "0s CallStart 1\n" +
			"0s RunHandler postStart until 1s (timeoutSeconds)\n" +
			"1s AbortHandler: time limit\n" +
			"4s ReleaseStart\n" +
			"4s Answer 1"},
		{"postStart does not end", Config{PostStart: &Handler{Timeout: s}}, then(exit(5 * s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 1s (timeoutSeconds)\n" +
			"1s AbortHandler: time limit\n" +
			"4s SendSignal 15\n" +
			"5s AbortHandler: container exited\n" +
			"5s ReleaseStart\n" +
			"5s Answer 1: postStart handler failed: timed out, and its process cannot be ended"},
		{"postStart dies with the container", post, then(dies(1*s, ContainerExit), exit(1*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s ReleaseStart\n" +
			"1s Answer 1"},
		{"the process exits while postStart runs", post, then(exit(1*s), dies(1*s, ContainerExit)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s AbortHandler: container exited\n" +
			"1s ReleaseStart\n" +
			"1s Answer 1"},
		{"the process exits after postStart failed", post, then(ends(1*s, Failed), exit(1*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s SendSignal 15\n" +
			"1s ReleaseStart\n" +
			"1s Answer 1: postStart handler failed: words"},
		{"SIGKILL while postStart runs", post, then(kill(1*s, 9), dies(1*s, ContainerKill), exit(2*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Forward 2\n" +
			"1s AbortHandler: container killed\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: postStart handler aborted: signal 9 arrived before the start was acknowledged (container killed)"},
		{"a stop, then SIGKILL, while postStart runs", post, then(kill(1*s, 15), asked(4, kill(2*s, 9)), exit(3*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Forward 2\n" +
			"1s AbortHandler: stop requested\n" +
			"2s Forward 4\n" +
			"3s AbortHandler: container exited\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested)"},
		{"a stop while postStart runs, no preStop, and no exit", post, then(kill(1*s, 15)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Forward 2\n" +
			"1s AbortHandler: stop requested\n" +
			"11s ReleaseStart\n" +
			"11s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested) (the container has not exited yet)"},
		{"SIGKILL while postStart runs, and no exit", post, then(kill(1*s, 9)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Forward 2\n" +
			"1s AbortHandler: container killed\n" +
			"6s ReleaseStart\n" +
			"6s Answer 1: postStart handler aborted: signal 9 arrived before the start was acknowledged (container killed) (the container has not exited yet)"},
		{"a stop while postStart runs", stopped, then(kill(1*s, 15), dies(1*s, StopRequest), ends(2*s, Succeeded), exit(3*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Answer 2\n" +
			"1s AbortHandler: stop requested\n" +
			"1s RunHandler preStop until 9s (DefaultGracePeriod) before signal 15 at 9s\n" +
			"2s SendSignal 15\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested)"},
		{"a stop while postStart runs, which dies with the container", stopped, then(kill(1*s, 15), dies(2*s, ContainerExit), exit(3*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s Answer 2\n" +
			"1s AbortHandler: stop requested\n" +
			"2s SendSignal 15\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested)"},
		{"SIGKILL, CRI, while the preStop of a failed postStart runs", Config{CRI: true, PostStart: &Handler{}, PreStop: &Handler{}}, then(ends(1*s, Failed), kill(2*s, 9), dies(2*s, ContainerKill), exit(3*s)), "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"1s RunHandler preStop until 29s (grace period of CRI) before signal 15 at 29s\n" +
			"2s Forward 2\n" +
			"2s AbortHandler: container killed\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: postStart handler failed: words"},
		{"the runtime refuses", post, []at{start(0), returns(1*s, errRuntime), asked(4, later(2*s, start(0)))}, "0s CallStart 1\n" +
			"1s Answer 1: the runtime's own words\n" +
			"2s CallStart 4"},
		{"the runtime refuses, with an onExit", Config{OnExit: &Handler{}}, []at{start(0), returns(1*s, errRuntime), exit(2 * s), ends(3*s, Succeeded)}, "0s CallStart 1\n" +
			"1s SendSignal 9\n" +
			"2s RunHandler onExit until 32s (default of onExit), not started\n" +
			"3s ReleaseExit\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: the runtime's own words"},
		{"the runtime refuses, with an onExit, after the exit", Config{OnExit: &Handler{}}, []at{start(0), exit(1 * s), returns(2*s, errRuntime), ends(3*s, Succeeded)}, "0s CallStart 1\n" +
			"2s RunHandler onExit until 32s (default of onExit), not started\n" +
			"3s ReleaseExit\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: the runtime's own words"},
		{"a stop while the runtime starts it, no preStop", post, []at{start(0), kill(1*s, 15), returns(2*s, nil), exit(3 * s)}, "0s CallStart 1\n" +
			"1s Forward 2\n" +
			"3s ReleaseStart\n" +
			"3s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested)"},
		{"a stop while the runtime starts it, no preStop, and no exit", post, []at{start(0), kill(1*s, 15), returns(2*s, nil)}, "0s CallStart 1\n" +
			"1s Forward 2\n" +
			"12s ReleaseStart\n" +
			"12s Answer 1: postStart handler aborted: signal 15 arrived before the start was acknowledged (stop requested) (the container has not exited yet)"},
		{"SIGKILL while the runtime starts it, and no exit", post, []at{start(0), kill(1*s, 9), returns(2*s, nil)}, "0s CallStart 1\n" +
			"1s Forward 2\n" +
			"7s ReleaseStart\n" +
			"7s Answer 1: postStart handler aborted: signal 9 arrived before the start was acknowledged (container killed) (the container has not exited yet)"},
		{"a stop while the runtime starts it, no handler of the start", Config{}, []at{start(0), kill(1*s, 15), returns(2*s, nil), asked(4, kill(3*s, 15))}, "0s CallStart 1\n" +
			"1s Forward 2\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1\n" +
			"3s Forward 4"},
		{"a stop while the runtime starts it, preStop only", Config{PreStop: &Handler{}}, []at{start(0), kill(1*s, 15), asked(4, kill(1*s, 2)), returns(2*s, nil), ends(3*s, Succeeded)}, "0s CallStart 1\n" +
			"1s Answer 2\n" +
			"1s Answer 4\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1\n" +
			"2s RunHandler preStop until 9s (DefaultGracePeriod) before signal 15 at 9s\n" +
			"3s SendSignal 15"},
		{"a stop while the runtime starts it, and it refuses", Config{PreStop: &Handler{}}, []at{start(0), kill(1*s, 15), returns(2*s, errRuntime)}, "0s CallStart 1\n" +
			"1s Answer 2\n" +
			"2s Answer 1: the runtime's own words\n" +
			"2s SendSignal 15"},
		{"an exit while the runtime starts it", post, []at{start(0), exit(1 * s), returns(2*s, nil)}, "0s CallStart 1\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1"},
		{"deleted while the runtime starts it", post, []at{start(0), remove(1 * s), removed(1*s, nil), returns(2*s, errRuntime)}, "0s CallStart 1\n" +
			"1s CallDelete 3\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: the runtime's own words"},
		{"deleted twice while the runtime starts it", post, []at{start(0), remove(1 * s), asked(4, remove(1*s)), removed(1*s, nil), removed(1*s, nil), returns(2*s, errRuntime)}, "0s CallStart 1\n" +
			"1s CallDelete 3\n" +
			"1s CallDelete 4\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1: the runtime's own words"},
		{"returned twice", post, []at{start(0), returns(0, nil), returns(1*s, nil), ends(2*s, Succeeded)}, "0s CallStart 1\n" +
			"0s RunHandler postStart until 2m0s (DefaultPostStartTimeout)\n" +
			"2s ReleaseStart\n" +
			"2s Answer 1"},
	})
}
