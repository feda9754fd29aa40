package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// willingHost prepares every container. A start of it announces its process, where a parked handler waits, and fails with
// the words "it started".
const willingHost = `case $1 in
prepare) exec cat >/dev/null ;;
start)
	cat <&3 >/dev/null
	echo output
	echo pid >&4
	echo '{"Error":"it started"}' >&3
	exit 1 ;;
esac`

// creationOf is the plan of a container with this block, whose exec handlers the host runs.
func creationOf(t *testing.T, host *hookexec.Host, block *lifecyclev1.Block) plan {
	t.Helper()
	return plan{handlers: &handlersPlan{
		machine: lifecycle.Config{
			PreStart: handlerConfig(block.PreStart, 0), PostStart: handlerConfig(block.PostStart, 0),
			PreStop: handlerConfig(block.PreStop, 0), OnExit: handlerConfig(block.OnExit, 0),
			DefaultPostStartTimeout: time.Minute, DefaultGracePeriod: time.Minute,
		},
		runner: runner.Config{
			Task: shimtest.NewTask(), Host: host, ID: "c1", Bundle: t.TempDir(), Block: block, Stdout: "binary:///bin/logger", OutputLimit: 100,
		},
	}}
}

func doesExec() *lifecyclev1.Handler {
	return &lifecyclev1.Handler{Exec: &lifecyclev1.ExecAction{Command: []string{"true"}}}
}

func doesSleep() *lifecyclev1.Handler {
	return &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{}}
}

// answersWithPid makes the runc service create containers whose init is this process.
func answersWithPid(inner *shimtest.Task) {
	inner.Answer["Create"] = func(context.Context, any) (any, error) {
		return &taskapi.CreateTaskResponse{Pid: uint32(os.Getpid())}, nil
	}
}

// endsWith gives the service a context that the test ends, as the end of the shim does.
func (s *service) endsWith(t *testing.T) context.CancelFunc {
	ctx, end := context.WithCancel(t.Context())
	s.ctx = ctx
	return end
}

// becomes polls for something that a process does.
func becomes(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(20 * time.Second); !done(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// TestCreateParksTheFirstHandler. The parked process ends with the shim.
func TestCreateParksTheFirstHandler(t *testing.T) {
	s, inner, _ := newTestService(t)
	end := s.endsWith(t)
	defer end()
	answersWithPid(inner)
	host, monitor := scriptedHost(t, willingHost)
	if _, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, creationOf(t, host, &lifecyclev1.Block{PostStart: doesExec()})); err != nil {
		t.Fatal(err)
	}
	if started, running := monitor.counts(); started != 2 || running != 1 {
		t.Errorf("%d hosts were started and %d run, want the one that prepares, which has ended, and the parked one", started, running)
	}
	end()
	becomes(t, "the parked process ends", func() bool { _, running := monitor.counts(); return running == 0 })
}

// TestCreateParksNothingForAClientThatIsGone.
func TestCreateParksNothingForAClientThatIsGone(t *testing.T) {
	s, inner, _ := newTestService(t)
	host, monitor := scriptedHost(t, willingHost)
	ctx, leave := context.WithCancel(t.Context())
	inner.Answer["Create"] = func(context.Context, any) (any, error) {
		leave()
		return &taskapi.CreateTaskResponse{Pid: uint32(os.Getpid())}, nil
	}
	_, err := s.build(ctx, &taskapi.CreateTaskRequest{ID: "c1"}, creationOf(t, host, &lifecyclev1.Block{PostStart: doesExec()}))
	if started, running := monitor.counts(); !errors.Is(err, context.Canceled) || started != 1 || running != 0 {
		t.Errorf("got %v; %d hosts were started, %d run", err, started, running)
	}
}

// TestRestoredContainerIsPreparedAfterItsCreation: it has no process before its start.
func TestRestoredContainerIsPreparedAfterItsCreation(t *testing.T) {
	s, inner, _ := newTestService(t)
	defer s.endsWith(t)()
	inner.Answer["Create"] = func(context.Context, any) (any, error) { return &taskapi.CreateTaskResponse{}, nil }
	host, monitor := scriptedHost(t, willingHost)
	preStop := doesExec()
	preStop.Output = "Log"
	p := creationOf(t, host, &lifecyclev1.Block{PreStop: preStop})
	p.handlers.restored = true
	if _, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, p); err != nil {
		t.Fatal(err)
	}
	if started, _ := monitor.counts(); started != 0 {
		t.Error("its preparation begins before it has a process")
	}
	handlers := s.container("c1").handlers
	if err := handlers.Started(t.Context(), os.Getpid(), nil); err != nil {
		t.Fatal(err)
	}
	result := handlers.Run(t.Context(), runner.Run{Kind: lifecycle.PreStop, Progress: &hookexec.Progress{}})
	if result.LogErr == nil || !strings.Contains(result.LogErr.Error(), "restored container") {
		t.Errorf("where its output goes: %v", result.LogErr)
	}
}

// TestPreparationThatFailsIsAHandlersError.
func TestPreparationThatFailsIsAHandlersError(t *testing.T) {
	s, inner, _ := newTestService(t)
	answersWithPid(inner)
	host, _ := scriptedHost(t, "cat >/dev/null; echo no such profile >&2; exit 1")
	_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, creationOf(t, host, &lifecyclev1.Block{PreStop: doesExec()}))
	var handler *HandlerError
	if !errors.As(err, &handler) || !strings.Contains(handler.Err.Error(), "no such profile") {
		t.Errorf("got %v", err)
	}
	if len(s.all()) > 0 {
		t.Error("the container stays")
	}
}

// TestCreationHoldsWhatItsHandlersNeed: TaskStart until postStart has ended, and TaskExit until onExit has.
func TestCreationHoldsWhatItsHandlersNeed(t *testing.T) {
	for name, test := range map[string]struct {
		block *lifecyclev1.Block
		seen  string
	}{
		"preStop":   {&lifecyclev1.Block{PreStop: doesSleep()}, "c1 create, c1 start, c1 exit"},
		"postStart": {&lifecyclev1.Block{PostStart: doesSleep()}, "c1 create"},
		"onExit":    {&lifecyclev1.Block{OnExit: &lifecyclev1.Handler{Sleep: &lifecyclev1.SleepAction{Seconds: 1000}}}, "c1 create, c1 start"},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, publisher := newTestService(t)
			defer s.endsWith(t)()
			answersWithPid(inner)
			if _, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, creationOf(t, nil, test.block)); err != nil {
				t.Fatal(err)
			}
			if test.block.OnExit != nil { // no onExit runs before the start
				if _, err := s.Start(t.Context(), &taskapi.StartRequest{ID: "c1"}); err != nil {
					t.Fatal(err)
				}
			}
			shimtest.Emit(t, s.tap, "c1 create", "c1 start")
			if err := s.tap.Publish(t.Context(), "exit", &eventstypes.TaskExit{ContainerID: "c1", ID: "c1", Pid: uint32(os.Getpid())}); err != nil {
				t.Fatal(err)
			}
			s.tap.Flush(t.Context())
			seen := slices.DeleteFunc(publisher.Seen(), func(event string) bool { return event == "c1 onExit" }) // it has begun
			if got := strings.Join(seen, ", "); got != test.seen {
				t.Errorf("published %q, want %q", got, test.seen)
			}
		})
	}
}

// begun is a creation whose loop runs.
func begun(t *testing.T, s *service) *creation {
	t.Helper()
	b := &creation{service: s, id: "c1"}
	if err := b.begin(t.Context(), creationOf(t, nil, &lifecyclev1.Block{PreStop: doesSleep()}).handlers); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEndOfTheLoopLeavesNothing, for any reason: the shim ends, or the container is deleted.
func TestEndOfTheLoopLeavesNothing(t *testing.T) {
	for name, end := range map[string]func(b *creation, endShim context.CancelFunc){
		"the shim ends": func(_ *creation, endShim context.CancelFunc) { endShim() },
		"a deletion": func(b *creation, _ context.CancelFunc) {
			b.container.ask(lifecycle.Event{Kind: lifecycle.DeleteRequested}).wait()
			b.container.post(lifecycle.Event{Kind: lifecycle.DeleteReturned})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _, publisher := newTestService(t)
				endShim := s.endsWith(t)
				defer endShim()
				b := begun(t, s)
				close(b.container.created)
				end(b, endShim)
				synctest.Wait()
				if b.alive.Err() == nil {
					t.Error("a parked handler would wait for ever")
				}
				if s.container("c1") != nil || !passes(t, s.tap, publisher, "c1") {
					t.Error("the container is still known")
				}
				if err := s.tap.Publish(t.Context(), "oom", &eventstypes.TaskOOM{ContainerID: "c1"}); err != nil || b.container.gate.OOMSeen() {
					t.Errorf("its gate still sees events: %v", err)
				}
			})
		})
	}
}

// TestFailedCreateEndsTheLoop, and waits for no event of a container that there never was.
func TestFailedCreateEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, inner, _ := newTestService(t)
		defer s.endsWith(t)()
		var c *container
		inner.Answer["Create"] = func(context.Context, any) (any, error) {
			c = s.container("c1")
			return nil, errKilled
		}
		before := time.Now()
		_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, planOf(preStop(0)))
		if took := time.Since(before); !errors.Is(err, errKilled) || took != 0 {
			t.Errorf("after %s: %v", took, err)
		}
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			t.Error("its loop runs on")
		}
	})
}

// TestDeleteDuringThePreparationLetsTheCreateUndo: the runc service's Delete of a container whose process lives would hold the
// lock that the kill needs, until the client's time is up and the bundle is gone. The shim would never end.
func TestDeleteDuringThePreparationLetsTheCreateUndo(t *testing.T) {
	s, inner, _ := newTestService(t)
	defer s.endsWith(t)()
	answersWithPid(inner)
	dir := t.TempDir()
	s.host, _ = scriptedHost(t, "cat >/dev/null; cd "+dir+"; : > prepares; while [ ! -e go ]; do sleep 0.01; done")
	s.hostErr = nil
	created, deleted := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle(t, "/c1", map[string]string{oci.KeyPreStop: goodHandler})})
		created <- err
	}()
	becomes(t, "the handlers are being prepared", func() bool { _, err := os.Stat(filepath.Join(dir, "prepares")); return err == nil })
	go func() {
		_, err := s.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c1"})
		deleted <- err
	}()
	becomes(t, "the Delete has arrived", func() bool { return len(inner.Asked("State")) > 0 })
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-created; err == nil || !strings.Contains(err.Error(), errGivenUp.Error()) {
		t.Errorf("the Create: %v", err)
	}
	if err := <-deleted; err != nil { // the runc service's own answer
		t.Errorf("the Delete: %v", err)
	}
	var methods []string
	for _, call := range inner.Calls() {
		if call.Method != "State" {
			methods = append(methods, call.Method)
		}
	}
	if !slices.Equal(methods, []string{"Create", "Kill", "Wait", "Delete", "Delete"}) {
		t.Errorf("the runc service was asked %q", methods)
	}
}

// TestDeleteWhileAHandlerIsParkedIsInTime: the Create is undone then, too.
func TestDeleteWhileAHandlerIsParkedIsInTime(t *testing.T) {
	s, inner, _ := newTestService(t)
	defer s.endsWith(t)()
	answersWithPid(inner)
	host, monitor := scriptedHost(t, willingHost)
	s.host, s.hostErr = host, nil
	if err := s.ending.begin("c1"); err != nil {
		t.Fatal(err)
	}
	monitor.onStart = func(n int) {
		if n == 2 { // it is being parked
			s.ending.deleted("c1")
		}
	}
	_, err := s.build(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}, creationOf(t, host, &lifecyclev1.Block{PostStart: doesExec()}))
	if !errors.Is(err, errGivenUp) || len(inner.Asked("Kill")) != 1 {
		t.Errorf("got %v", err)
	}
	becomes(t, "the parked process ends", func() bool { _, running := monitor.counts(); return running == 0 })
}

// TestUndoNeedsNoBundle: the runtime, which writes its log there, is called again with a directory in its place. Nothing of it
// stays. What fails for another reason is not called again.
func TestUndoNeedsNoBundle(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "bundle")
	runtime := func(asked *int, bundle string) func(context.Context, any) (any, error) {
		return func(context.Context, any) (any, error) {
			*asked++
			return nil, os.WriteFile(filepath.Join(bundle, "log.json"), nil, 0o600)
		}
	}
	s, inner, _ := newTestService(t)
	kills, deletes := 0, 0
	inner.Answer["Kill"], inner.Answer["Delete"] = runtime(&kills, missing), runtime(&deletes, missing)
	logger, lines := shimtest.NewLog()
	s.removeCreated(log.WithLogger(t.Context(), logger), "c1", missing)
	if kills != 2 || deletes != 2 || len(lines.All()) > 0 {
		t.Errorf("%d kills, %d deletes, logged %q", kills, deletes, lines.All())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	kills, deletes = 0, 0
	inner.Answer["Kill"] = func(context.Context, any) (any, error) { kills++; return nil, errKilled }
	inner.Answer["Delete"] = func(context.Context, any) (any, error) { deletes++; return nil, nil }
	s.removeCreated(log.WithLogger(t.Context(), logger), "c1", dir)
	if kills != 1 || deletes != 1 || len(lines.All()) != 1 {
		t.Errorf("with its bundle: %d kills, %d deletes, logged %q", kills, deletes, lines.All())
	}
}
