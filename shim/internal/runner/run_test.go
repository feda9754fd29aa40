package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/containerlog"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TestWhatExecHandlersAreTold (docs/spec.md#environment).
func TestWhatExecHandlersAreTold(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	const told = "2026-01-02T02:04:05Z"
	due := lifecycle.Effect{Kind: lifecycle.RunHandler, Signal: lifecycle.Signal{Number: 15}, Deadline: at, Limit: at}
	undated := lifecycle.Effect{Kind: lifecycle.RunHandler, Signal: lifecycle.Signal{Number: 3}}
	trial := lifecycle.Effect{Limit: at, Signal: lifecycle.Signal{Number: 15}}
	for name, test := range map[string]struct {
		kind   lifecycle.Kind
		effect lifecycle.Effect
		want   string // after the handler's name and the container's id
		after  bool   // it runs after the container's end
	}{
		"preStart":              {kind: lifecycle.PreStart, effect: due},
		"postStart":             {kind: lifecycle.PostStart, effect: due},
		"preStop":               {kind: lifecycle.PreStop, effect: due, want: " LIFECYCLE_SIGNAL=SIGTERM LIFECYCLE_DEADLINE=" + told},
		"preStop, no deadline":  {kind: lifecycle.PreStop, effect: undated, want: " LIFECYCLE_SIGNAL=SIGQUIT"},
		"preStop on trial":      {kind: lifecycle.PreStop, effect: trial, want: " LIFECYCLE_SIGNAL=SIGTERM"},
		"onExit on trial":       {kind: lifecycle.OnExit, effect: trial, want: " LIFECYCLE_DEADLINE=" + told + " LIFECYCLE_RESULT=completed LIFECYCLE_EXIT_CODE=0"},
		"onExit":                {kind: lifecycle.OnExit, effect: due, want: " LIFECYCLE_DEADLINE=" + told + " LIFECYCLE_RESULT=exit-code LIFECYCLE_EXIT_CODE=3", after: true},
		"onExit, never started": {kind: lifecycle.OnExit, effect: lifecycle.Effect{Kind: lifecycle.RunHandler, Limit: at, NotStarted: true}, want: " LIFECYCLE_DEADLINE=" + told + " LIFECYCLE_RESULT=start-failed", after: true},
	} {
		t.Run(name, func(t *testing.T) {
			host := newFakeHost(t)
			r, inner := newTestRunner(t, host, &lifecyclev1.Block{
				PreStart: execHandler("preStart"), PostStart: execHandler("postStart"), PreStop: execHandler("preStop"), OnExit: execHandler("onExit"),
			})
			r.mustPrepare(t)
			status := task.Status_RUNNING
			if test.after {
				status = task.Status_STOPPED
			}
			inner.Answer["State"] = func(context.Context, any) (any, error) {
				return &taskapi.StateResponse{Status: status, ExitStatus: 3}, nil
			}
			result := r.Run(t.Context(), Run{Kind: test.kind, Effect: test.effect, Trial: test.effect.Kind != lifecycle.RunHandler, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
			if result.Err == nil || result.Err.Error() != "cannot start: start 1" || result.Output != "output of 1\n" {
				t.Errorf("got %+v", result)
			}
			request := host.request(1)
			want := fmt.Sprintf("LIFECYCLE_HANDLER=%s LIFECYCLE_CONTAINER_ID=c1%s", test.kind, test.want)
			if got := strings.Join(request.Env, " "); got != want {
				t.Errorf("told\n%s, want\n%s", got, want)
			}
			if request.Args[0] != test.kind.String() || request.ID != "c1" || request.Root != r.root() {
				t.Errorf("got %+v", request)
			}
			if (request.OnExit != nil) != test.after || test.after != (host.file("clean") != "") {
				t.Errorf("after the end: %+v, cleaned %q", request.OnExit, host.file("clean"))
			}
		})
	}
}

// TestOnExitOfWhatWasNotKept fails, and says so.
func TestOnExitOfWhatWasNotKept(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: execHandler("x")})
	r.mustPrepare(t)
	result := r.Run(t.Context(), Run{Kind: lifecycle.OnExit, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
	if result.Outcome != lifecycle.Failed || !strings.Contains(result.Err.Error(), "nothing could be kept") {
		t.Errorf("got %+v", result)
	}
}

// TestOnExitLetsGoOfWhatWasKept (docs/spec.md#no-leak): the container's mounts live on until then.
func TestOnExitLetsGoOfWhatWasKept(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{OnExit: sleepHandler()})
	before := openDescriptors(t)
	r.mustPrepare(t)
	result := r.Run(t.Context(), Run{Kind: lifecycle.OnExit, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
	if result.Outcome != lifecycle.Succeeded {
		t.Errorf("got %+v", result)
	}
	if got := openDescriptors(t); got != before+1 { // the init's pidfd
		t.Errorf("%d descriptors, %d before", got, before)
	}
}

// TestPausedContainerRunsNoHandler (docs/spec.md#stop-paused): it would hang.
func TestPausedContainerRunsNoHandler(t *testing.T) {
	for name, test := range map[string]struct {
		status task.Status
		err    error
		paused bool
	}{
		"running": {status: task.Status_RUNNING}, "paused": {status: task.Status_PAUSED, paused: true},
		"pausing": {status: task.Status_PAUSING, paused: true}, "it cannot be known": {status: task.Status_PAUSED, err: errors.New("no answer")},
	} {
		t.Run(name, func(t *testing.T) {
			host := newFakeHost(t)
			r, inner := newTestRunner(t, host, &lifecyclev1.Block{PostStart: execHandler("x"), PreStop: sleepHandler()})
			r.mustPrepare(t)
			inner.Answer["State"] = func(_ context.Context, request any) (any, error) {
				if id := request.(*taskapi.StateRequest).ID; id != "c1" {
					t.Errorf("the state of %q is asked for", id)
				}
				return &taskapi.StateResponse{Status: test.status}, test.err
			}
			r.Park(t.Context(), nil)
			result := r.Run(t.Context(), Run{Kind: lifecycle.PreStop, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
			if got := result.Outcome == lifecycle.Failed; got != test.paused {
				t.Errorf("got %+v", result)
			}
			if test.paused && !strings.Contains(result.Err.Error(), "paused") {
				t.Errorf("got %v", result.Err)
			}
			if parked := r.parked.Load() != nil; parked == test.paused {
				t.Errorf("parked: %t", parked)
			}
			r.Unpark()
		})
	}
}

// TestOutputGoesToTheLog where the handler says so, or the settings do and it does not.
func TestOutputGoesToTheLog(t *testing.T) {
	for _, test := range []struct {
		output  string
		setting bool
		want    bool
	}{
		{"", false, false}, {"", true, true}, {oci.OutputLog, false, true}, {oci.OutputLog, true, true}, {oci.OutputStatus, true, false},
	} {
		handler := execHandler("x")
		handler.Output = test.output
		host := newFakeHost(t)
		r, _ := newTestRunner(t, host, &lifecyclev1.Block{PreStop: handler})
		r.config.LogOutput = test.setting
		r.mustPrepare(t)
		path := filepath.Join(t.TempDir(), "log")
		file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		r.stream = containerlog.Of("file://"+path, false, 0)
		result := r.Run(t.Context(), Run{Kind: lifecycle.PreStop, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
		if result.LogErr != nil || result.Output != "output of 1\n" {
			t.Errorf("%+v: got %+v", test, result)
		}
		logged, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(logged), "output of 1") != test.want {
			t.Errorf("%+v: the log is %q, %v", test, logged, err)
		}
		_ = file.Close()
		if !test.want {
			continue
		}
		// What is lost is reported.
		result = r.Run(t.Context(), Run{Kind: lifecycle.PreStop, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
		if result.LogErr == nil || result.LostLines != 1 {
			t.Errorf("%+v: a log that is closed: %+v", test, result)
		}
	}
	r := New(Config{LogOutput: true})
	if r.logs(sleepHandler()) {
		t.Error("a sleep has output")
	}
}

// TestHandlersDoWhatTheyName.
func TestHandlersDoWhatTheyName(t *testing.T) {
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{})
	r.cgroup = "/c1"
	netns := hookexec.NetNS{Pidfd: 5}
	get, socket := &lifecyclev1.HTTPGetAction{Path: "/x"}, &lifecyclev1.TCPSocketAction{Host: "::1"}
	action := func(handler *lifecyclev1.Handler, onExit *wire.OnExit) hookexec.Action {
		return r.action(execution{kind: lifecycle.PreStop, netns: netns, env: []string{"A=b"}, onExit: onExit}, handler, nil)
	}
	if got, ok := action(&lifecyclev1.Handler{HttpGet: get}, nil).(*hookexec.HTTPGet); !ok || got.Get != get || got.NetNS != netns || !strings.HasPrefix(got.UserAgent, "lifecycle-shim/") {
		t.Errorf("httpGet: %+v", got)
	}
	if got, ok := action(&lifecyclev1.Handler{TcpSocket: socket}, nil).(*hookexec.TCPSocket); !ok || got.Socket != socket || got.NetNS != netns {
		t.Errorf("tcpSocket: %+v", got)
	}
	if got := action(&lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{Seconds: 3}}, nil); got != hookexec.Sleep(3*time.Second) {
		t.Errorf("sleep: %+v", got)
	}
	own, ok := action(execHandler("x"), nil).(*hookexec.Exec)
	if !ok || own.Host != r.config.Host || own.Cgroup != "/c1" || own.OutputLimit != 100 || own.Request.Env[0] != "A=b" || own.Log != nil {
		t.Errorf("exec: %+v", own)
	}
	after := &wire.OnExit{ID: "c1-onExit"}
	if got, ok := action(execHandler("x"), after).(*hookexec.OnExitExec); !ok || got.Request.OnExit != after || got.Cgroup != "" {
		t.Errorf("exec of onExit: %+v", got)
	}
}

// TestPanicOfALoggedHandlerLeavesNothing (docs/spec.md#no-leak).
func TestPanicOfALoggedHandlerLeavesNothing(t *testing.T) {
	handler := execHandler("x")
	handler.Output = oci.OutputLog
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: handler})
	r.mustPrepare(t)
	path := filepath.Join(t.TempDir(), "log")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r.stream = containerlog.Of("file://"+path, false, 0)
	before, value := openDescriptors(t), any(nil)
	func() {
		defer func() { value = recover() }()
		r.Run(t.Context(), Run{Kind: lifecycle.PreStop, OOMSeen: never, Killed: never}) // a bug
	}()
	if value == nil {
		t.Error("no panic")
	}
	if got := openDescriptors(t); got != before {
		t.Errorf("%d descriptors, %d before", got, before)
	}
}

// TestConnectionsAreMadeInTheContainersNetwork: of this process, which is the container's init. Only root may enter one.
func TestConnectionsAreMadeInTheContainersNetwork(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := int32(listener.Addr().(*net.TCPAddr).Port)
	handler := &lifecyclev1.Handler{TcpSocket: &lifecyclev1.TCPSocketAction{Host: "127.0.0.1", Port: port}}
	r, _ := newTestRunner(t, newFakeHost(t), &lifecyclev1.Block{PreStop: handler, OnExit: handler})
	r.mustPrepare(t)
	for _, kind := range []lifecycle.Kind{lifecycle.PreStop, lifecycle.OnExit} {
		result := r.Run(t.Context(), Run{Kind: kind, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never})
		if result.Err != nil && !strings.Contains(result.Err.Error(), unix.EPERM.Error()) {
			t.Errorf("%s: %v", kind, result.Err)
		}
	}
}

// TestHandlersAreRetried after the period that they name.
func TestHandlersAreRetried(t *testing.T) {
	host := newFakeHost(t)
	handler := execHandler("x")
	handler.RetryPeriodSeconds = new(int64(1))
	r, _ := newTestRunner(t, host, &lifecyclev1.Block{PreStop: handler})
	r.mustPrepare(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, hookexec.ErrTimedOut)
	defer cancel()
	go func() {
		await(t, "it is tried twice", func() bool { return host.started() >= 2 })
		cancel()
	}()
	if result := r.Run(ctx, Run{Kind: lifecycle.PreStop, Progress: &hookexec.Progress{}, OOMSeen: never, Killed: never}); result.Attempts < 2 {
		t.Errorf("got %+v", result)
	}
}

func TestSignalNames(t *testing.T) {
	for number, want := range map[uint32]string{
		1: "SIGHUP", 9: "SIGKILL", 15: "SIGTERM", 31: "SIGSYS", 32: "32", 33: "33", 34: "SIGRTMIN+0", 37: "SIGRTMIN+3", 64: "SIGRTMIN+30", 65: "65",
	} {
		if got := signalName(number); got != want {
			t.Errorf("%d: %s, want %s", number, got, want)
		}
	}
}
