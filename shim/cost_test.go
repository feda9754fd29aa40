package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// idleTask is a runc service that costs nothing, so that only ours is measured.
type idleTask struct{ taskapi.TTRPCTaskService }

var (
	idleCreate = &taskapi.CreateTaskResponse{}
	idleState  = &taskapi.StateResponse{Status: task.Status_RUNNING}
	idleStart  = &taskapi.StartResponse{}
	idleDelete = &taskapi.DeleteResponse{}
	idleEmpty  = &ptypes.Empty{}
)

func (idleTask) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return idleState, nil
}

func (idleTask) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return idleCreate, nil
}

func (idleTask) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return idleStart, nil
}

func (idleTask) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return idleDelete, nil
}

func (idleTask) Kill(context.Context, *taskapi.KillRequest) (*ptypes.Empty, error) {
	return idleEmpty, nil
}

// busyPod is a shim with 200 containers that have handlers, c0 to c199; x has none.
func busyPod(t testing.TB) *service {
	s := newService(t.Context(), idleTask{}, newTestEnding(t), tap.New(&shimtest.Publisher{}), nil, nil)
	t.Cleanup(func() { _ = s.tap.Close() })
	for i := range 200 {
		s.add(newTestContainer(t.Context(), fmt.Sprintf("c%d", i), lifecycle.Config{}, nil))
	}
	return s
}

// passThrough are the methods that our service puts itself before, each for a container without handlers, and those of
// a container with handlers that ask its loop for nothing. All others are the runc service's own. (Create reads the
// bundle, with any contents.)
var passThrough = map[string]func(context.Context, *service) error{
	"Start":  calling(&taskapi.StartRequest{ID: "x"}, (*service).Start),
	"State":  calling(&taskapi.StateRequest{ID: "x"}, (*service).State),
	"Kill":   calling(&taskapi.KillRequest{ID: "x", Signal: 15}, (*service).Kill),
	"Delete": calling(&taskapi.DeleteRequest{ID: "x"}, (*service).Delete),

	"State, with handlers":               calling(&taskapi.StateRequest{ID: "c100"}, (*service).State),
	"Start of an exec, with handlers":    calling(&taskapi.StartRequest{ID: "c100", ExecID: "e"}, (*service).Start),
	"Kill of an exec, with handlers":     calling(&taskapi.KillRequest{ID: "c100", ExecID: "e", Signal: 15}, (*service).Kill),
	"Deletion of an exec, with handlers": calling(&taskapi.DeleteRequest{ID: "c100", ExecID: "e"}, (*service).Delete),
}

func calling[Request, Response any](request *Request, method func(*service, context.Context, *Request) (*Response, error)) func(context.Context, *service) error {
	return func(ctx context.Context, s *service) error {
		_, err := method(s, ctx, request)
		return err
	}
}

// TestPassThroughAllocatesNothing: what has no handlers pays nothing for those of others.
func TestPassThroughAllocatesNothing(t *testing.T) {
	s := busyPod(t)
	for name, pass := range passThrough {
		if err := pass(t.Context(), s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if allocated := testing.AllocsPerRun(100, func() { _ = pass(t.Context(), s) }); allocated != 0 {
			t.Errorf("%s: %v allocations", name, allocated)
		}
	}
}

// TestContainerWithoutHandlersLeavesNothing: its creation reads the bundle and keeps nothing of it, no entry and no goroutine.
func TestContainerWithoutHandlersLeavesNothing(t *testing.T) {
	s := newService(t.Context(), idleTask{}, newTestEnding(t), tap.New(&shimtest.Publisher{}), nil, nil)
	t.Cleanup(func() { _ = s.tap.Close() })
	bundle := t.TempDir()
	spec := `{"annotations": {"io.kubernetes.cri.sandbox-id": "p"}, "linux": {"cgroupsPath": "/p/c"}, "process": {"args": ["true"]}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	const containers = 1000
	create := func(from string) {
		for i := range containers {
			if _, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: fmt.Sprint(from, i), Bundle: bundle}); err != nil {
				t.Fatal(err)
			}
		}
	}
	create("first") // what all containers share comes with the first of them
	objects, goroutines := liveObjects(), runtime.NumGoroutine()
	create("then")
	if grown := liveObjects() - objects; grown > containers/10 {
		t.Errorf("%d objects more after %d containers", grown, containers)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 0 {
		t.Errorf("%d goroutines more", more)
	}
	if len(s.containers) > 0 {
		t.Errorf("%d containers are known", len(s.containers))
	}
}

// liveObjects are those on the heap after a collection.
func liveObjects() int64 {
	runtime.GC()
	runtime.GC() // the first one leaves what is in a pool
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.Mallocs - stats.Frees)
}

// BenchmarkPassThrough is what our service adds to the runc service's.
func BenchmarkPassThrough(b *testing.B) {
	s := busyPod(b)
	for name, pass := range passThrough {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = pass(b.Context(), s)
			}
		})
	}
}
