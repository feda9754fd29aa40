package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestStatusTellsWhyARunIsAborted: a handler may not end at once, and its container then is in a stage that does not show why.
func TestStatusTellsWhyARunIsAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := bothHandlers()
		config.PostStart.Timeout = 2 * second
		ended := make(chan struct{})
		w := both(newWorld(t, config, &fakeHandlers{
			postStart: func(context.Context) hookexec.Result { <-ended; return succeeded },
		})).serve()
		w.start(0)
		pass(second)
		if run := w.told(t).Runs[0]; run.Error != "" {
			t.Errorf("before the abort: %v", run)
		}
		pass(2 * second)
		w.kill(unix.SIGTERM) // the first reason stays
		got := w.told(t)
		if run := got.Runs[0]; got.Phase != "PostStart" || run.Error != "timed out after 2s" || run.Result != "" || run.FinishedAt != nil {
			t.Errorf("after the abort: %v", got)
		}
		close(ended)
		if run := w.told(t).Runs[0]; run.Error != "" || run.Result != "Succeeded" {
			t.Errorf("after the end: %v", run)
		}
	})
}

func TestDescribe(t *testing.T) {
	for want, handler := range map[string]*lifecyclev1.Handler{
		"exec /bin/sh -c \"echo hi\" \"\"":       {Exec: &lifecyclev1.ExecAction{Command: []string{"/bin/sh", "-c", "echo hi", ""}}},
		"exec " + strings.Repeat("x", 253) + "…": {Exec: &lifecyclev1.ExecAction{Command: []string{strings.Repeat("x", 5000)}}},
		`exec "a\"b" "\u202e"`:                   {Exec: &lifecyclev1.ExecAction{Command: []string{`a"b`, "\u202e"}}},
		"exec a \"\\x1b[31m\"":                   {Exec: &lifecyclev1.ExecAction{Command: []string{"a", "\x1b[31m"}}},
		"httpGet http://(container):80/":         {HttpGet: &lifecyclev1.HTTPGetAction{Port: 80}}, // FAULTS B9
		"tcpSocket (container):25":               {TcpSocket: &lifecyclev1.TCPSocketAction{Port: 25}},
		"httpGet https://[::1]:8443/a":           {HttpGet: &lifecyclev1.HTTPGetAction{Host: "::1", Port: 8443, Scheme: "HTTPS", Path: "/a"}},
		"tcpSocket 10.0.0.1:25":                  {TcpSocket: &lifecyclev1.TCPSocketAction{Host: "10.0.0.1", Port: 25}},
		"sleep 5s":                               {Sleep: &lifecyclev1.SleepAction{Seconds: 5}},
		" ":                                      {},
	} {
		if what, action := describe(handler); what+" "+action != want {
			t.Errorf("got %q, want %q", what+" "+action, want)
		}
	}
}

// TestToldRun: each field of a run comes from its own place.
func TestToldRun(t *testing.T) {
	began := time.Unix(1000, 0)
	run := &handlerRun{
		kind: lifecycle.PreStop, handler: &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: []string{"a"}}}, trial: true, began: began,
		limit: began.Add(9 * second), limitOwner: lifecycle.HandlerTimeout, ended: began.Add(3 * second),
		result: hookexec.Result{
			Outcome: lifecycle.Failed, Err: errExit3, ExitCode: 3, Output: "o", Dropped: 7, LostLines: 5, LogErr: errors.New("no log"), Attempts: 2,
		},
	}
	code := int32(3)
	want := &lifecyclev1.HandlerRun{
		Handler: "preStop", Type: "exec", Action: "a", Trial: true, StartedAt: timestamppb.New(began), FinishedAt: timestamppb.New(began.Add(3 * second)),
		Took: durationpb.New(3 * second), Deadline: timestamppb.New(began.Add(9 * second)), DeadlineOwner: "timeoutSeconds", Attempts: 2,
		Result: "Failed", Error: "exit status 3", ExitCode: &code, Output: "o", DroppedBytes: 7, LostLines: 5, LogError: "no log",
	}
	if got := run.show(); !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	run.result, run.limit = hookexec.Result{ExitCode: 0}, time.Time{}
	if got := run.show(); got.ExitCode == nil || *got.ExitCode != 0 || got.Error != "" || got.LogError != "" || got.Deadline != nil {
		t.Errorf("exit status 0: %v", got)
	}
	if run.result.ExitCode = -1; run.show().ExitCode != nil {
		t.Error("a run without an exit code has one")
	}
}

// TestTheOldestTrialMakesRoom, for a trial only, and only one: four are remembered.
func TestTheOldestTrialMakesRoom(t *testing.T) {
	var l runlog
	begin := func(trial bool, seconds int64) { l.begin(&handlerRun{trial: trial, began: time.Unix(seconds, 0)}) }
	want := func(when string, seconds ...int64) {
		t.Helper()
		var got []int64
		for _, run := range l.runs {
			got = append(got, run.began.Unix())
		}
		if !slices.Equal(got, seconds) {
			t.Errorf("%s: got %v, want %v", when, got, seconds)
		}
	}
	begin(false, 1)
	for n := range int64(4) {
		begin(true, 2+n)
	}
	begin(false, 6)
	want("a run of the machine", 1, 2, 3, 4, 5, 6)
	begin(true, 7)
	want("a fifth trial", 1, 3, 4, 5, 6, 7)
}

// TestRunIsShownWhileItRuns, and what it leaves in the background afterwards.
func TestRunIsShownWhileItRuns(t *testing.T) {
	s, inner, _ := newTestService(t)
	defer s.endsWith(t)()
	answersWithPid(inner)
	dir := t.TempDir()
	host, _ := scriptedHost(t, `cd `+dir+`
case $1 in
prepare) exec cat >/dev/null ;;
start)
	cat <&3 >/dev/null
	printf 'lost kept'
	while [ ! -e go ]; do sleep 0.01; done
	sleep 1000 3>&- 4>&- &
	echo $! > left
	echo '{"Error":"it started"}' >&3
	exit 1 ;;
esac`)
	p := creationOf(t, host, &lifecyclev1.Block{PreStop: doesExec()})
	p.handlers.runner.OutputLimit = 4
	if _, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, p); err != nil {
		t.Fatal(err)
	}
	c := s.container("c1")
	run, result := &handlerRun{kind: lifecycle.PreStop, handler: doesExec(), began: time.Now()}, make(chan hookexec.Result, 1)
	go func() {
		result <- c.handlers.Run(t.Context(), runner.Run{Kind: lifecycle.PreStop, Progress: &run.progress})
	}()
	becomes(t, "its output is shown", func() bool { return c.runs.one(run).Output == "kept" })
	if shown := c.runs.one(run); shown.DroppedBytes != 5 || shown.Attempts != 1 || shown.BackgroundOutputs != 0 {
		t.Errorf("while it runs: %v", shown)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.runs.end(run, <-result)
	left, err := os.ReadFile(filepath.Join(dir, "left"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(left)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
	if shown := c.runs.one(run); shown.BackgroundOutputs != 1 || shown.Output != "kept" {
		t.Errorf("when it has ended: %v", shown)
	}
}
