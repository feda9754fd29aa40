package shim

import (
	"context"
	"flag"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// TestPlanOfABundleThatCannotBeRead: the runc service gets the options that were sent.
func TestPlanOfABundleThatCannotBeRead(t *testing.T) {
	s, _, _ := newTestService(t)
	sent := shimtest.InTOML(t, "SystemdCgroup = true")
	got, err := s.plan(&taskapi.CreateTaskRequest{ID: "c1", Bundle: t.TempDir(), Options: sent})
	if err != nil || got.options != sent || got.handlers != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestPlanForSystemd, whose cgroup is known by its path alone.
func TestPlanForSystemd(t *testing.T) {
	s, _, _ := newTestService(t)
	got, err := s.plan(&taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "system.slice:ctr:c1", map[string]string{oci.KeyOnExit: "sleep: {seconds: 1}"})})
	if err != nil {
		t.Fatal(err)
	}
	if got.options == nil || !got.handlers.runner.SystemdCgroup {
		t.Errorf("got the options %v, and for handlers %+v", got.options, got.handlers.runner)
	}
}

// TestPlanOfARestoredContainer: it has started before, so handlers of its start are not run.
func TestPlanOfARestoredContainer(t *testing.T) {
	s, _, _ := newTestService(t)
	for checkpoint, restored := range map[string]bool{"": false, "/checkpoint": true} {
		got, err := s.plan(&taskapi.CreateTaskRequest{ID: "c1", Checkpoint: checkpoint, Bundle: bundle(t, "", map[string]string{
			oci.KeyLifecycle: "{postStart: {sleep: {seconds: 1}}, preStop: {sleep: {seconds: 1}}}",
		})})
		if err != nil {
			t.Fatal(err)
		}
		machine := got.handlers.machine
		if got.handlers.restored != restored || (machine.PostStart == nil) != restored || machine.PreStop == nil {
			t.Errorf("restored: %t, got %+v", restored, got.handlers)
		}
	}
}

// TestAnswerThatIsTooLongIsDropped: an error comes in its place.
func TestAnswerThatIsTooLongIsDropped(t *testing.T) {
	s, _, _ := newTestService(t)
	answer, err := s.UnaryServerInterceptor()(t.Context(), nil, &ttrpc.UnaryServerInfo{}, func(context.Context, func(any) error) (any, error) {
		return &taskapi.StateResponse{Stdout: strings.Repeat("x", 5<<20)}, nil
	})
	if status.Code(err) != codes.ResourceExhausted || answer != nil {
		t.Errorf("got %T, %v", answer, err)
	}
}

// TestEndOfTheShimFlushes the events: a TaskDelete would be lost.
func TestEndOfTheShimFlushes(t *testing.T) {
	flags := flag.CommandLine
	defer func() { flag.CommandLine = flags }()
	flag.CommandLine = flag.NewFlagSet("shim", flag.ContinueOnError) // pkg/shim's, which end sets
	synctest.Test(t, func(t *testing.T) {
		publisher := &shimtest.Publisher{Hang: make(chan struct{})}
		s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, publisher), nil, nil)
		shimtest.Emit(t, s.tap, "c1 delete")
		time.AfterFunc(time.Second, func() { close(publisher.Hang) })
		if err := s.end(t.Context()); err != nil {
			t.Error(err)
		}
		if seen := publisher.Seen(); len(seen) != 1 {
			t.Errorf("published at the end: %q", seen)
		}
	})
}

// TestProcessIsCounted to the descriptor, and its garbage collected only on demand.
func TestProcessIsCounted(t *testing.T) {
	s, _, _ := newTestService(t)
	for _, collect := range []bool{false, true} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		response, err := (&statusService{service: s}).Status(t.Context(), &lifecyclev1.StatusRequest{Collect: collect})
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if collected := after.NumForcedGC > before.NumForcedGC; collected != collect {
			t.Errorf("collected: %t, want %t", collected, collect)
		}
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		if got := response.Shim.Descriptors; int(got) != len(open)-1 { // without the one that is open to read them
			t.Errorf("%d descriptors, want %d", got, len(open)-1)
		}
	}
}
