package shim

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

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
