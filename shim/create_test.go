package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// testMonitor starts processes as the shim's reaper does, and knows which still run.
type testMonitor struct {
	mu      sync.Mutex
	started int
	running int
	// onStart is called for each process that is started, with its number; it may be nil.
	onStart func(n int)
}

func (m *testMonitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started++
	m.running++
	if m.onStart != nil {
		m.onStart(m.started)
	}
	exits := make(chan runc.Exit, 1)
	go func() {
		var status unix.WaitStatus
		_, _ = unix.Wait4(cmd.Process.Pid, &status, 0, nil)
		m.mu.Lock()
		m.running--
		m.mu.Unlock()
		exits <- runc.Exit{Pid: cmd.Process.Pid, Status: status.ExitStatus()}
	}()
	return exits, nil
}

func (m *testMonitor) Unsubscribe(chan runc.Exit) {}

func (m *testMonitor) counts() (started, running int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started, m.running
}

// patientHost is a handler host that waits for the container for ever.
func patientHost(t *testing.T) (*hookexec.Host, *testMonitor) {
	t.Helper()
	return scriptedHost(t, "while read line; do :; done; exec sleep 1000")
}

// scriptedHost is a handler host that is a shell script.
func scriptedHost(t *testing.T, script string) (*hookexec.Host, *testMonitor) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, hookexec.HostBinary), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	monitor := &testMonitor{}
	host, err := hookexec.OpenHost(monitor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	return host, monitor
}

// TestFailedCreateEndsThePreparation: the handler host that was started beside the runtime has ended when the Create has
// been answered.
func TestFailedCreateEndsThePreparation(t *testing.T) {
	for name, create := range map[string]func(context.Context, any) (any, error){
		"an error": func(context.Context, any) (any, error) { return nil, errors.New("runc failed") },
		"a panic":  func(context.Context, any) (any, error) { panic("a bug") },
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, publisher := newTestService(t)
			host, monitor := patientHost(t)
			s.host, s.hostErr = host, nil
			inner.Answer["Create"] = create
			request := &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "/c1", map[string]string{oci.KeyPreStop: goodHandler})}
			_, err := s.UnaryServerInterceptor()(t.Context(), nil, &ttrpc.UnaryServerInfo{}, func(ctx context.Context, _ func(any) error) (any, error) {
				return s.Create(ctx, request)
			})
			if err == nil {
				t.Error("no error")
			}
			if started, running := monitor.counts(); started != 1 || running != 0 {
				t.Errorf("%d hosts have been started, %d run", started, running)
			}
			if len(s.all()) > 0 || !passes(t, s.tap, publisher, "c1") || s.ending.busy() {
				t.Errorf("something stays: %v, or its gate, busy: %t", s.all(), s.ending.busy())
			}
		})
	}
}

// TestContainerIsMadeFromItsPlan, before the runc service creates it.
func TestContainerIsMadeFromItsPlan(t *testing.T) {
	s, inner, _ := newTestService(t)
	block := &lifecyclev1.Block{OnExit: &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{Seconds: 1}}}
	p := plan{handlers: &handlersPlan{machine: outer(false, true), runner: runner.Config{Block: block}, metricsFile: "/m.prom"}}
	inner.Answer["Create"] = func(context.Context, any) (any, error) {
		c := s.container("c1")
		want := observer{id: "c1", events: s.tap, metricsFile: "/m.prom", counters: s.counters, handlersEnded: &s.handlersEnded}
		if c.observer != want || c.block != block || c.handlers == nil || c.gate == nil || c.ended == nil {
			t.Errorf("got %+v, want the observer %+v", c, want)
		}
		return nil, errKilled
	}
	if _, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, p); !errors.Is(err, errKilled) {
		t.Errorf("got %v", err)
	}
	if len(s.all()) > 0 {
		t.Error("the container stays")
	}
}

// TestUndoIsBounded: a runtime that hangs in it holds no Create for ever.
func TestUndoIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, _ := newTestService(t)
		inner.Answer["Kill"] = func(ctx context.Context, _ any) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel() // the client's going does not end it
		began := time.Now()
		s.removeCreated(gone, "c1", t.TempDir())
		if took := time.Since(began); took != 10*time.Second || len(inner.Asked("Delete")) != 1 {
			t.Errorf("after %s: %d deletes", took, len(inner.Asked("Delete")))
		}
		kill, wait := inner.Asked("Kill")[0].(*taskapi.KillRequest), inner.Asked("Wait")[0].(*taskapi.WaitRequest)
		if kill.ID != "c1" || wait.ID != "c1" {
			t.Errorf("another container is undone: %v, %v", kill, wait)
		}
	})
}

func TestFailedCreateLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		refused := status.Error(codes.AlreadyExists, "runc's own words")
		inner.Answer["Create"] = func(context.Context, any) (any, error) { return nil, refused }
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		if s.container("c1") != nil {
			t.Error("the container is still known")
		}
		shimtest.Emit(t, s.tap, "c1 create") // of the next one
		publisher.Expect(t, "c1 create")
	})
}

// TestCreateIsUndoneWhereItsHandlersCannotBePrepared, here as the container's
// process is gone.
func TestCreateIsUndoneWhereItsHandlersCannotBePrepared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			return &taskapi.CreateTaskResponse{Pid: noSuchPid(t)}, nil
		}
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		var handler *HandlerError
		if !errors.As(err, &handler) || !strings.Contains(err.Error(), "the container's init") {
			t.Errorf("got %v", err)
		}
		var methods []string
		for _, call := range inner.Calls() {
			methods = append(methods, call.Method)
		}
		if !slices.Equal(methods, []string{"Create", "Kill", "Wait", "Delete"}) {
			t.Errorf("the runc service was asked %q", methods)
		}
		if kill := inner.Asked("Kill")[0].(*taskapi.KillRequest); kill.Signal != 9 || !kill.All {
			t.Errorf("got %v", kill)
		}
		if s.container("c1") != nil || !passes(t, s.tap, publisher, "c1") {
			t.Error("the container is still known")
		}
	})
}

func TestUndoneCreationPublishesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			shimtest.Emit(t, s.tap, "c1 create")
			return &taskapi.CreateTaskResponse{Pid: noSuchPid(t)}, nil
		}
		inner.Answer["Delete"] = func(context.Context, any) (any, error) {
			shimtest.Emit(t, s.tap, "c1 exit", "c1 delete")
			return &taskapi.DeleteResponse{}, nil
		}
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		var handler *HandlerError
		if !errors.As(err, &handler) {
			t.Errorf("got %v", err)
		}
		publisher.Expect(t, "")
	})
}

func TestUndoneCreationPublishesNothingLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			return &taskapi.CreateTaskResponse{Pid: noSuchPid(t)}, nil
		}
		inner.Answer["Delete"] = func(context.Context, any) (any, error) {
			time.AfterFunc(10*time.Millisecond, func() { shimtest.Emit(t, s.tap, "c1 exit", "c1 delete") })
			return &taskapi.DeleteResponse{}, nil
		}
		_, _ = s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		pass(time.Second)
		publisher.Expect(t, "")
	})
}

// noSuchPid is above every pid that the kernel gives.
func noSuchPid(t *testing.T) uint32 {
	t.Helper()
	const most = 1 << 22 // PID_MAX_LIMIT, linux/threads.h
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", most+1)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("there is a process %d: %v", most+1, err)
	}
	return most + 1
}

// TestSecondCreateOfAnIDIsRefused, without the runtime, and costs the first
// nothing: passed on, it could become a container without its handlers.
func TestSecondCreateOfAnIDIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) {
			t.Error("the runtime was asked")
			return nil, nil
		}
		_, err := w.service.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if status.Code(toGRPC(err)) != codes.AlreadyExists || !strings.Contains(err.Error(), `"c1"`) {
			t.Errorf("got %v", err)
		}
		if w.service.container("c1") != w.c {
			t.Error("the first container has lost its handlers")
		}
		w.exit()
		select {
		case <-w.c.exited:
		default:
			t.Error("the first container has lost its gate")
		}
	})
}

// TestPanicInCreateLeavesTheIDFree for another try.
func TestPanicInCreateLeavesTheIDFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve()
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) { panic("a bug") }
		func() {
			defer func() { _ = recover() }()
			_, _ = w.service.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c2"}, planOf(preStop(0)))
		}()
		if w.service.container("c2") != nil || !passes(t, w.tap, w.publisher, "c2") {
			t.Error("the id is still taken")
		}
	})
}

// TestRestoredContainerIsWatchedFromItsCreation, although there is no process
// before its start.
func TestRestoredContainerIsWatchedFromItsCreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, publisher := newTestService(t)
		ctx, shutdown := context.WithCancel(t.Context())
		defer shutdown()
		s.ctx = ctx
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			shimtest.Emit(t, s.tap, "c1 create")
			return &taskapi.CreateTaskResponse{}, nil
		}
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if err != nil || s.container("c1") == nil {
			t.Fatalf("got %v", err)
		}
		publisher.Expect(t, "c1 create")
	})
}
