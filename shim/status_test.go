package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// both is a block with both handlers, and what the machine knows of it.
func both(w *world) *world {
	w.c.block = &lifecyclev1.Block{
		PostStart: &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: []string{"/bin/warm", "a b"}}},
		PreStop:   &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{Seconds: 5}},
	}
	return w
}

func bothHandlers() lifecycle.Config {
	return lifecycle.Config{PostStart: &lifecycle.Handler{}, PreStop: &lifecycle.Handler{}}
}

// status asks as an operator would, when nothing but time is left to happen.
func (w *world) told(t *testing.T) *lifecyclev1.ContainerStatus {
	t.Helper()
	synctest.Wait()
	response, err := (&statusService{service: w.service}).Status(t.Context(), &lifecyclev1.StatusRequest{Id: "c1"})
	if err != nil || len(response.Containers) != 1 {
		t.Fatalf("got %v, %v", response, err)
	}
	return response.Containers[0]
}

func (w *world) try(handler string) (*lifecyclev1.HandlerRun, error) {
	response, err := (&statusService{service: w.service}).Run(w.t.Context(), &lifecyclev1.RunRequest{Id: "c1", Handler: handler})
	return response.GetRun(), err
}

// TestStatusTellsTheWholeLife: what an operator wants to know, at each moment.
func TestStatusTellsTheWholeLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w := both(newWorld(t, bothHandlers(), &fakeHandlers{
			postStart: takes(3*second, hookexec.Result{Output: "warm", Dropped: 7}), preStop: takes(5*second, failedBad),
		})).serve()
		if got := w.told(t); got.Phase != "Created" || got.StartHeld || len(got.Runs) != 0 || strings.Join(got.Handlers, " ") != "postStart preStop" {
			t.Errorf("before the start: %v", got)
		}
		w.start(30 * second)
		pass(2 * second)
		got := w.told(t)
		if got.Phase != "PostStart" || !got.StartHeld || !got.Deadline.AsTime().Equal(began.Add(25*second)) {
			t.Errorf("during postStart: %v", got)
		}
		run := got.Runs[0]
		if run.Handler != "postStart" || run.Type != "exec" || run.Action != `/bin/warm "a b"` || run.Attempts != 1 ||
			!run.StartedAt.AsTime().Equal(began) || run.FinishedAt != nil || run.Took.AsDuration() != 2*second || run.Result != "" ||
			!run.Deadline.AsTime().Equal(began.Add(25*second)) || run.DeadlineOwner != "start request" {
			t.Errorf("during postStart: %v", run)
		}
		pass(2 * second)
		got = w.told(t)
		run = got.Runs[0]
		if got.Phase != "Running" || got.StartHeld || got.Deadline != nil || run.Took.AsDuration() != 3*second ||
			run.Result != "Succeeded" || run.Output != "warm" || run.DroppedBytes != 7 || run.FinishedAt == nil || run.Error != "" {
			t.Errorf("after postStart: %v", got)
		}
		w.kill(unix.SIGTERM)
		stopped := time.Now()
		pass(second)
		got = w.told(t)
		run = got.Runs[1]
		if got.Phase != "PreStop" || got.PendingSignal != 15 || run.Handler != "preStop" || run.Action != "5s" ||
			run.DeadlineOwner != "DefaultGracePeriod" || !run.Deadline.AsTime().Equal(stopped.Add(8*second)) {
			t.Errorf("during preStop: %v", got)
		}
		pass(5 * second)
		got = w.told(t)
		run = got.Runs[1]
		if got.Phase != "Stopping" || got.PendingSignal != 0 || run.Result != "Failed" || run.Error != "exit status 3" || run.GetExitCode() != 3 {
			t.Errorf("after preStop: %v", got)
		}
	})
}

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

// TestDeadlineOwners: whose limit it is that ends a handler.
func TestDeadlineOwners(t *testing.T) {
	for name, test := range map[string]struct {
		config   lifecycle.Config
		deadline time.Duration // of the start request
		owner    string
		at       time.Duration // 0: it is not known
	}{
		"its own": {lifecycle.Config{PostStart: &lifecycle.Handler{Timeout: 5 * second}}, 30 * second, "timeoutSeconds", 5 * second},
		"the request's": {
			lifecycle.Config{PostStart: &lifecycle.Handler{Timeout: 50 * second}}, 30 * second, "start request", 25 * second,
		},
		"the default":       {lifecycle.Config{PostStart: &lifecycle.Handler{}}, 0, "DefaultPostStartTimeout", 2 * time.Minute},
		"a stop's own":      {lifecycle.Config{PreStop: &lifecycle.Handler{Timeout: 3 * second}}, 0, "timeoutSeconds", 3 * second},
		"a stop's block":    {lifecycle.Config{PreStop: &lifecycle.Handler{}, GracePeriod: 20 * second}, 0, "terminationGracePeriodSeconds", 18 * second},
		"a stop under CRI":  {lifecycle.Config{PreStop: &lifecycle.Handler{}, CRI: true}, 0, "CRI", 0},
		"its own under CRI": {lifecycle.Config{PreStop: &lifecycle.Handler{Timeout: second}, CRI: true}, 0, "timeoutSeconds", second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				w := both(newWorld(t, test.config, &fakeHandlers{postStart: hangs, preStop: hangs})).serve()
				w.start(test.deadline)
				if test.config.PreStop != nil {
					synctest.Wait()
					w.kill(unix.SIGTERM)
				}
				run := w.told(t).Runs[0]
				if run.DeadlineOwner != test.owner || (run.Deadline != nil) != (test.at != 0) {
					t.Errorf("got %v", run)
				}
				if test.at != 0 && !run.Deadline.AsTime().Equal(began.Add(test.at)) {
					t.Errorf("at %s, want after %s", run.Deadline.AsTime().Sub(began), test.at)
				}
			})
		})
	}
}

func TestStatusOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := newTestService(t)
		_, err := (&statusService{service: s}).Status(t.Context(), &lifecyclev1.StatusRequest{Id: "c9"})
		if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), `"c9"`) {
			t.Errorf("got %v", err)
		}
		response, err := (&statusService{service: s}).Status(t.Context(), &lifecyclev1.StatusRequest{})
		if err != nil || len(response.Containers) != 0 {
			t.Errorf("got %v, %v", response, err)
		}
	})
}

// TestTrial: it runs, is reported, and changes nothing.
//
// See docs/spec.md#trial.
func TestTrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(3*second, failedBad)})).exitOnSignal().serve().mustStart()
		run, err := w.try("preStop")
		if err != nil || !run.Trial || run.Result != "Failed" || run.GetExitCode() != 3 || run.Took.AsDuration() != 3*second {
			t.Errorf("got %v, %v", run, err)
		}
		if got := w.told(t); got.Phase != "Running" || len(got.Runs) != 1 || !got.Runs[0].Trial {
			t.Errorf("got %v", got)
		}
		w.handlers.expect(t, []string{"preStop Failed"}, nil)
		w.kill(unix.SIGTERM) // the real one runs all the same
		pass(4 * second)
		w.handlers.expect(t, []string{"preStop Failed", "preStop Failed"}, []string{"15 at 6s"})
		w.publisher.Expect(t, "c1 start, c1 preStop, c1 Failed, c1 preStop, c1 Failed, c1 exit")
	})
}

func TestTrialIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(w *world)
		handler string
		code    codes.Code
	}{
		"before the start":       {func(*world) {}, "preStop", codes.FailedPrecondition},
		"while postStart runs":   {func(w *world) { w.start(0) }, "preStop", codes.FailedPrecondition},
		"no such handler":        {func(w *world) { w.mustStart() }, "onExit", codes.NotFound},
		"a handler without name": {func(w *world) { w.mustStart() }, "", codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := bothHandlers()
				if test.code == codes.NotFound {
					config.PostStart = nil
				}
				w := both(newWorld(t, config, &fakeHandlers{postStart: hangs, preStop: hangs})).serve()
				test.prepare(w)
				synctest.Wait()
				if _, err := w.try(test.handler); status.Code(err) != test.code {
					t.Errorf("got %v, want %s", err, test.code)
				}
			})
		})
	}
	t.Run("a second one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, succeeded)})).serve().mustStart()
			go func() { _, _ = w.try("preStop") }() // its end is not what this is about
			synctest.Wait()
			if _, err := w.try("preStop"); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("got %v", err)
			}
		})
	})
}

// TestTrialMakesWay for what really happens to the container.
func TestTrialMakesWay(t *testing.T) {
	for name, test := range map[string]struct {
		happens func(w *world)
		because error
		after   time.Duration
	}{
		"for a stop":               {func(w *world) { w.kill(unix.SIGTERM) }, errHandlerDue, second},
		"for the container's exit": {func(w *world) { w.exit() }, hookexec.ErrContainerExited, second},
		"when its time is up":      {func(*world) {}, hookexec.ErrTimedOut, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := true
				w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: func(ctx context.Context) hookexec.Result {
					if !first {
						return succeeded
					}
					first = false
					return hangs(ctx)
				}})).serve().mustStart()
				began := time.Now()
				ended := make(chan *lifecyclev1.HandlerRun, 1)
				go func() {
					run, _ := w.try("preStop")
					ended <- run
				}()
				pass(second)
				test.happens(w)
				run := <-ended
				if took := time.Since(began); run.Error == "" || !strings.Contains(run.Error, test.because.Error()) || took != test.after {
					t.Errorf("after %s: %v", took, run)
				}
			})
		})
	}
	t.Run("for an operator who goes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: hangs})).serve().mustStart()
			ctx, goes := context.WithCancel(t.Context())
			time.AfterFunc(second, goes)
			run, err := w.c.try(ctx, "preStop")
			if err != nil || !errors.Is(run.result.Err, context.Canceled) {
				t.Errorf("got %v, %v", run, err)
			}
		})
	})
}

// TestTrialsAreForgotten: what can be repeated for ever is not kept for ever.
func TestTrialsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := both(newWorld(t, bothHandlers(), &fakeHandlers{postStart: takes(0, succeeded), preStop: takes(second, succeeded)})).serve().mustStart()
		for range 3 * keptTrials {
			if _, err := w.try("preStop"); err != nil {
				t.Fatal(err)
			}
		}
		runs := w.told(t).Runs
		if len(runs) != 1+keptTrials || runs[0].Trial || !runs[1].Trial {
			t.Errorf("got %v", runs)
		}
	})
}

// TestCounts: each thing that happens is counted once, and a trial never.
func TestCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	synctest.Test(t, func(t *testing.T) {
		config := lifecycle.Config{PostStart: &lifecycle.Handler{}, PreStop: &lifecycle.Handler{Timeout: second}, GracePeriod: 4 * second}
		w := both(newWorld(t, config, &fakeHandlers{postStart: takes(0, succeeded), preStop: hangs}))
		w.c.observer.metricsFile, w.c.observer.counters = path, w.service.counters
		w.serve().mustStart()
		if _, err := w.try("postStart"); err != nil {
			t.Fatal(err)
		}
		w.kill(unix.SIGTERM)
		pass(5 * second)
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		<-w.loopEnded
		w.service.flushCounts(t.Context())
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`lifecycle_shim_handlers_total{handler="postStart",type="exec",result="Succeeded"} 1`,
		`lifecycle_shim_handlers_total{handler="preStop",type="sleep",result="TimedOut"} 1`,
		`lifecycle_shim_handler_duration_seconds_sum{handler="preStop"} 1`,
		"lifecycle_shim_starts_held_total 1", "lifecycle_shim_starts_answered_total 1",
		"lifecycle_shim_stops_delayed_total 1", "lifecycle_shim_stops_signaled_total 1",
		"lifecycle_shim_deadlines_total 1", "lifecycle_shim_sigkills_total 1",
	} {
		if !strings.Contains(string(text), "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
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

// TestStatusFits: what a pod's handlers have printed may be more than an answer can hold; it has the ends of all of it then.
func TestStatusFits(t *testing.T) {
	response := &lifecyclev1.StatusResponse{}
	for i := range 8 {
		response.Containers = append(response.Containers, &lifecyclev1.ContainerStatus{Id: fmt.Sprint(i), Runs: []*lifecyclev1.HandlerRun{
			{Output: strings.Repeat("é", options.MaxOutputLimit/2) + "end", DroppedBytes: 1}, {Output: "short"},
		}})
	}
	fit(response)
	if size := proto.Size(response); size > maxStatus {
		t.Errorf("%d bytes", size)
	}
	for _, c := range response.Containers {
		long, short := c.Runs[0], c.Runs[1]
		if !utf8.ValidString(long.Output) || !strings.HasSuffix(long.Output, "end") || len(long.Output) < maxStatus/2/16-4 || short.Output != "short" {
			t.Errorf("%d bytes …%q, %q", len(long.Output), long.Output[len(long.Output)-5:], short.Output)
		}
		if whole := int64(len(long.Output)) + long.DroppedBytes; whole != options.MaxOutputLimit+3+1 || short.DroppedBytes != 0 {
			t.Errorf("%d bytes in all, %d dropped of the short one", whole, short.DroppedBytes)
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

// TestEventsOfARun: what subscribers get.
func TestEventsOfARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		result := hookexec.Result{Outcome: lifecycle.Failed, Err: errExit3, ExitCode: 3}
		w := both(newWorld(t, preStop(0), &fakeHandlers{preStop: takes(second, result)})).serve().mustStart()
		if _, err := w.try("preStop"); err != nil {
			t.Fatal(err)
		}
		_ = w.publisher.Published() // waits
		code := int32(3)
		want := &lifecyclev1.HandlerFinished{
			ContainerId: "c1", Handler: "preStop", Type: "sleep", Trial: true, Attempts: 1, Took: durationpb.New(second),
			Result: "Failed", Message: "exit status 3", ExitCode: &code,
		}
		if got := w.publisher.Finished(); len(got) != 1 || !proto.Equal(got[0], want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// TestStatusOfOne: of the container that is asked for only, with its handlers in the order of the alphabet.
func TestStatusOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{}).serve()
		sleep := &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{}}
		w.c.block = &lifecyclev1.Block{PreStart: sleep, PostStart: sleep, OnExit: sleep}
		other := newTestContainer(t.Context(), "c0", preStop(0), &fakeHandlers{})
		other.block = &lifecyclev1.Block{}
		w.service.add(other)
		if got := w.told(t); got.Id != "c1" || strings.Join(got.Handlers, " ") != "onExit postStart preStart" {
			t.Errorf("got %v", got)
		}
		response, err := (&statusService{service: w.service}).Status(t.Context(), &lifecyclev1.StatusRequest{})
		if err != nil || len(response.Containers) != 2 || response.Containers[0].Id != "c0" || response.Shim.GetPid() == 0 {
			t.Errorf("got %v, %v", response, err)
		}
	})
}
