package shim

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
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
