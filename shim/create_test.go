package shim

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/metrics"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
)

// testMonitor starts processes as the shim's reaper does, and knows which still run.
type testMonitor struct {
	mu      sync.Mutex
	started int
	running int
}

func (m *testMonitor) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started++
	m.running++
	exits := make(chan runc.Exit, 1)
	go func() {
		_, _ = unix.Wait4(cmd.Process.Pid, nil, 0, nil)
		m.mu.Lock()
		m.running--
		m.mu.Unlock()
		exits <- runc.Exit{Pid: cmd.Process.Pid}
	}()
	return exits, nil
}

func (m *testMonitor) Unsubscribe(chan runc.Exit) {}

// patientHost is a handler host that waits for the container for ever.
func patientHost(t *testing.T) (*hookexec.Host, *testMonitor) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, hookexec.HostBinary), []byte("#!/bin/sh\nwhile read line; do :; done; exec sleep 1000\n"), 0o755); err != nil {
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
			monitor.mu.Lock()
			defer monitor.mu.Unlock()
			if monitor.started != 1 || monitor.running != 0 {
				t.Errorf("%d hosts have been started, %d run", monitor.started, monitor.running)
			}
			if len(s.all()) > 0 || !passes(t, s.tap, publisher, "c1") || s.ending.busy() {
				t.Errorf("something stays: %v, or its gate, busy: %t", s.all(), s.ending.busy())
			}
		})
	}
}

// TestSignalIsSentWhenItsClientHasGone: what the machine has decided counts on it.
func TestSignalIsSentWhenItsClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
		sent := 0
		w.inner.Answer["Kill"] = func(ctx context.Context, _ any) (any, error) {
			if ctx.Err() == nil {
				sent++
			}
			return &ptypes.Empty{}, ctx.Err()
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.service.Kill(gone, &taskapi.KillRequest{ID: "c1", Signal: uint32(unix.SIGHUP)}); err != nil || sent != 1 {
			t.Errorf("sent %d times, %v", sent, err)
		}
	})
}

// TestKilledIsKnown: LIFECYCLE_RESULT says of a container that a client has killed that it was not the kernel.
func TestKilledIsKnown(t *testing.T) {
	for signal, want := range map[unix.Signal]bool{unix.SIGKILL: true, unix.SIGHUP: false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, preStop(0), &fakeHandlers{preStop: hangs}).serve().mustStart()
			w.kill(signal)
			if got := w.c.killed.Load(); got != want {
				t.Errorf("after %s: %t", signal, got)
			}
			w.exit()
		})
	}
}

// TestEndOfTheShimCounts: what handlers did is counted when the shim has ended, also if another shim is at the counters.
func TestEndOfTheShimCounts(t *testing.T) {
	s, _, _ := newTestService(t)
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(lock.Fd())
	if err := unix.Flock(fd, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s.counters.Add(path, metrics.Counts{metrics.Kills: 1})
	unlocked := make(chan struct{})
	time.AfterFunc(countWait/10, func() { defer close(unlocked); _ = unix.Flock(fd, unix.LOCK_UN) })
	defer func() { <-unlocked; _ = lock.Close() }()
	if err := s.end(t.Context()); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), metrics.Kills+" 1\n") {
		t.Errorf("%v: %s", err, text)
	}
}

// TestPlan: what handlers are run with comes from the options, the spec and the settings.
func TestPlan(t *testing.T) {
	metricsFile := filepath.Join(t.TempDir(), "m.prom")
	for name, test := range map[string]struct {
		options string
		path    string
		want    runner.Config
		counts  string
	}{
		"nothing":            {"", "", runner.Config{CgroupsPath: "c1"}, ""},
		"a path":             {"", "/a/b", runner.Config{CgroupsPath: "/a/b"}, ""},
		"a path for systemd": {"", "system.slice:ctr:c1", runner.Config{CgroupsPath: "system.slice:ctr:c1", SystemdCgroup: true}, ""},
		"systemd":            {"SystemdCgroup = true", "", runner.Config{CgroupsPath: "system.slice:runc:c1", SystemdCgroup: true}, ""},
		"the rest": {
			"BinaryName = 'crun'\nNoPivotRoot = true\nNoNewKeyring = true\nOutputLimit = 5\nHandlerOutput = 'Log'\nMetricsFile = '" + metricsFile + "'", "",
			runner.Config{CgroupsPath: "c1", Runtime: "crun", NoPivotRoot: true, NoNewKeyring: true, OutputLimit: 5, LogOutput: true},
			metricsFile,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, _ := newTestService(t)
			request := &taskapi.CreateTaskRequest{
				ID: "c1", Bundle: bundle(t, test.path, map[string]string{oci.KeyOnExit: "sleep: {seconds: 1}"}), Options: shimtest.InTOML(t, test.options),
				Stdout: "/out", Terminal: true,
			}
			got, err := s.plan(request)
			if err != nil {
				t.Fatal(err)
			}
			block := got.handlers.runner.Block
			if block.GetOnExit().GetSleep().GetSeconds() != 1 || got.handlers.metricsFile != test.counts || got.handlers.machine.OnExit == nil || got.handlers.restored {
				t.Errorf("got %+v, block %v", got.handlers, block)
			}
			want := test.want
			want.Task, want.ID, want.Bundle, want.Block, want.Stdout, want.Terminal = inner, "c1", request.Bundle, block, "/out", true
			want.OutputLimit = cmp.Or(want.OutputLimit, 4096)
			if got.handlers.runner != want {
				t.Errorf("got  %+v\nwant %+v", got.handlers.runner, want)
			}
			if len(inner.Calls()) > 0 || len(s.all()) > 0 {
				t.Errorf("planning has done something: %v, %v", inner.Calls(), s.all())
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

// TestWithoutAHostOnlyExecIsRefused, before anything is created.
func TestWithoutAHostOnlyExecIsRefused(t *testing.T) {
	missing := errors.New("the host is not installed")
	s := newService(t.Context(), shimtest.NewTask(), newTestEnding(t), newTestTap(t, &shimtest.Publisher{}), nil, missing)
	plan := func(onExit string) (plan, error) {
		return s.plan(&taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "", map[string]string{oci.KeyOnExit: onExit})})
	}
	var refused *HandlerError
	if _, err := plan("exec: {command: [x]}"); !errors.As(err, &refused) || !errors.Is(err, missing) {
		t.Errorf("an exec: %v", err)
	}
	if _, err := plan("sleep: {seconds: 1}"); err != nil {
		t.Errorf("a sleep: %v", err)
	}
	s.host, s.hostErr = new(hookexec.Host), nil
	if got, err := plan("exec: {command: [x]}"); err != nil || got.handlers.runner.Host != s.host {
		t.Errorf("an exec, with a host: %+v, %v", got, err)
	}
}

// TestOnExitLearnsWhoHasKilled the container: a client, or the kernel for lack of memory.
func TestOnExitLearnsWhoHasKilled(t *testing.T) {
	for name, test := range map[string]struct{ killed, oom bool }{"a client": {true, false}, "the kernel": {false, true}, "neither": {false, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, outer(false, true), &fakeHandlers{onExit: takes(0, hookexec.Result{})})
				learned := &learningHandlers{fakeHandlers: w.handlers}
				w.c.handlers = learned
				w.serve().mustStart()
				switch {
				case test.killed:
					w.kill(unix.SIGKILL)
				case test.oom:
					w.emit(&eventstypes.TaskOOM{ContainerID: "c1"})
				}
				w.exit()
				synctest.Wait()
				if learned.killed != test.killed || learned.oom != test.oom {
					t.Errorf("killed by a client: %t, an OOM kill: %t", learned.killed, learned.oom)
				}
			})
		})
	}
}

// learningHandlers notes what an onExit learns.
type learningHandlers struct {
	*fakeHandlers
	killed, oom bool
}

func (h *learningHandlers) Run(ctx context.Context, run runner.Run) hookexec.Result {
	h.killed, h.oom = run.Killed(), run.OOMSeen()
	return h.fakeHandlers.Run(ctx, run)
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
		s.removeCreated(gone, "c1")
		if took := time.Since(began); took != 10*time.Second || len(inner.Asked("Delete")) != 1 {
			t.Errorf("after %s: %d deletes", took, len(inner.Asked("Delete")))
		}
		kill, wait := inner.Asked("Kill")[0].(*taskapi.KillRequest), inner.Asked("Wait")[0].(*taskapi.WaitRequest)
		if kill.ID != "c1" || wait.ID != "c1" {
			t.Errorf("another container is undone: %v, %v", kill, wait)
		}
	})
}

// TestAnsweredRequestsHoldNoEnd: the end of a shim waits for Creates and Deletes under way only, and for each of them.
func TestAnsweredRequestsHoldNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, preStop(0), &fakeHandlers{}).serve().mustStart()
		if _, err := w.service.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c2", Bundle: bundle(t, "", nil)}); err != nil {
			t.Fatal(err)
		}
		w.exit()
		if _, err := w.service.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it gives back what it holds
			began := time.Now()
			w.service.awaitAnswers(t.Context())
			if waited := time.Since(began); waited != 0 {
				t.Errorf("the end waits %s", waited)
			}
		}
		w.inner.Answer["Create"] = func(context.Context, any) (any, error) {
			pass(time.Second)
			return &taskapi.CreateTaskResponse{}, nil
		}
		go func() {
			_, _ = w.service.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c3", Bundle: bundle(t, "", nil)})
		}()
		synctest.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel() // the end of the shim's context does not shorten it
		began := time.Now()
		w.service.awaitAnswers(gone)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("the end waits %s for a Create", waited)
		}
	})
}

// TestEndOfTheShim: everything that runs for a container ends, the sockets are gone, and no other shim's are removed.
func TestEndOfTheShim(t *testing.T) {
	flags := flag.CommandLine
	defer func() { flag.CommandLine = flags }()
	flag.CommandLine = flag.NewFlagSet("shim", flag.ContinueOnError)
	flag.String("socket", "/run/other", "") // pkg/shim's
	flag.String("debug-socket", "/run/other", "")
	s, _, _ := newTestService(t)
	removed := false
	s.ending.RegisterCallback(func(context.Context) error { removed = true; return nil })
	if err := s.end(t.Context()); err != nil {
		t.Error(err)
	}
	if !removed || !s.ending.ended || s.ctx.Err() == nil {
		t.Errorf("sockets removed: %t, ended: %t, context: %v", removed, s.ending.ended, s.ctx.Err())
	}
	for _, name := range []string{"socket", "debug-socket"} {
		if got := flag.Lookup(name).Value.String(); got != "/dev/null/none" {
			t.Errorf("pkg/shim would remove %s", got)
		}
	}
}

func TestDefaultCgroup(t *testing.T) {
	if fs, systemd := defaultCgroup("c1", false), defaultCgroup("c1", true); fs != "c1" || systemd != "system.slice:runc:c1" {
		t.Errorf("got %q, %q", fs, systemd)
	}
}
