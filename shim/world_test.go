package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/shimtest"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// newTestEnding returns the end of a shim whose process does not end with it.
func newTestEnding(t testing.TB) *ending {
	t.Helper()
	_, service := shutdown.WithShutdown(t.Context())
	return newEnding(service, nil)
}

// newTestTap returns a tap that is closed at the test's end, so that synctest
// sees what is left running.
func newTestTap(t *testing.T, publisher *shimtest.Publisher) *tap.Tap {
	t.Helper()
	events := tap.New(publisher)
	t.Cleanup(func() {
		if err := events.Close(); err != nil {
			t.Error(err)
		}
	})
	return events
}

// newTestContainer returns a container that is not served, and whose events go nowhere.
func newTestContainer(ctx context.Context, id string, config lifecycle.Config, handlers handlers) *container {
	return newContainer(ctx, containerConfig{
		id: id, machine: config, handlers: handlers, observer: observer{id: id, handlersEnded: new(atomic.Uint64)},
	})
}

// planOf a container that asks for no own handlers.
func planOf(config lifecycle.Config) plan {
	return plan{handlers: &handlersPlan{machine: config}}
}

// passes reports whether the container's events pass the tap: nothing watches them.
func passes(t *testing.T, events *tap.Tap, publisher *shimtest.Publisher, id string) bool {
	t.Helper()
	before := len(publisher.Seen())
	shimtest.Emit(t, events, id+" create")
	events.Flush(t.Context())
	return len(publisher.Seen()) > before
}

// attempt is a handler's action.
type attempt func(ctx context.Context) hookexec.Result

func (a attempt) Attempt(ctx context.Context) hookexec.Result { return a(ctx) }

// takes is a handler that ends with the result after a while, or fails when it
// is cancelled, as a killed process does.
func takes(d time.Duration, result hookexec.Result) attempt {
	return func(ctx context.Context) hookexec.Result {
		select {
		case <-time.After(d):
			return result
		case <-ctx.Done():
			return hookexec.Result{Outcome: lifecycle.Failed, Err: errKilled, ExitCode: 137}
		}
	}
}

// hangs is a handler that ends only when it is cancelled.
var hangs = takes(1000*time.Hour, hookexec.Result{})

// runsOn is a container that does not exit.
func runsOn(context.Context) bool { return false }

var (
	errKilled = errors.New("exit status 137")
	errExit3  = errors.New("exit status 3")
)

// fakeHandlers notes what is run and sent.
type fakeHandlers struct {
	postStart, preStop, preStart, onExit attempt
	// onSignal is called for each signal that the shim sends by itself.
	onSignal func(lifecycle.Signal) error

	mu     sync.Mutex
	ran    []string // the handlers, and with which result they ended
	causes []error  // why they were made to end, nil if they were not
	sent   []string // signals, and when
	began  time.Time
	pids   []int
	closed int
	// unparked counts what is asked of handlers that may be parked.
	unparked int
}

func (h *fakeHandlers) Unpark() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unparked++
}

func (h *fakeHandlers) Started(_ context.Context, pid int, _ <-chan struct{}) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pids = append(h.pids, pid)
	return nil
}

func (h *fakeHandlers) Run(ctx context.Context, run runner.Run) hookexec.Result {
	action := map[lifecycle.Kind]attempt{
		lifecycle.PreStart: h.preStart, lifecycle.PostStart: h.postStart, lifecycle.PreStop: h.preStop, lifecycle.OnExit: h.onExit,
	}[run.Kind]
	handler := hookexec.Run{Action: action, Exited: runsOn, Progress: run.Progress}
	result := handler.Do(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ran = append(h.ran, fmt.Sprintf("%s %s", run.Kind, result.Outcome))
	h.causes = append(h.causes, context.Cause(ctx))
	return result
}

func (h *fakeHandlers) Signal(_ context.Context, signal lifecycle.Signal) error {
	h.mu.Lock()
	h.sent = append(h.sent, fmt.Sprintf("%d at %s", signal.Number, time.Since(h.began)))
	h.mu.Unlock()
	if h.onSignal == nil {
		return nil
	}
	return h.onSignal(signal)
}

func (h *fakeHandlers) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed++
}

// expect compares what was run and sent until now.
func (h *fakeHandlers) expect(t *testing.T, ran, sent []string) {
	t.Helper()
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.ran, ran) {
		t.Errorf("handlers that ended: %q, want %q", h.ran, ran)
	}
	if !slices.Equal(h.sent, sent) {
		t.Errorf("signals sent: %q, want %q", h.sent, sent)
	}
}

// world is one created container c1 with fake handlers, under the real service,
// in the bubble of synctest. Its pid is shimtest.Pid.
type world struct {
	t         *testing.T
	inner     *shimtest.Task
	publisher *shimtest.Publisher
	tap       *tap.Tap
	service   *service
	c         *container
	handlers  *fakeHandlers
	loopEnded chan struct{}

	mu     sync.Mutex
	status task.Status
}

func newWorld(t *testing.T, config lifecycle.Config, handlers *fakeHandlers) *world {
	t.Helper()
	if config.DefaultPostStartTimeout == 0 {
		config.DefaultPostStartTimeout, config.DefaultGracePeriod = 2*time.Minute, 10*time.Second
	}
	handlers.began = time.Now()
	w := &world{
		t: t, inner: shimtest.NewTask(), publisher: &shimtest.Publisher{}, handlers: handlers,
		status: task.Status_CREATED, loopEnded: make(chan struct{}),
	}
	w.tap = newTestTap(t, w.publisher)
	w.inner.Answer["State"] = func(_ context.Context, request any) (any, error) {
		if id := request.(*taskapi.StateRequest).ID; id != "c1" {
			t.Errorf("the state of %q is asked for", id)
		}
		return &taskapi.StateResponse{ID: "c1", Pid: shimtest.Pid, Status: w.is()}, nil
	}
	w.inner.Answer["Start"] = func(context.Context, any) (any, error) {
		w.become(task.Status_RUNNING)
		w.emit(&eventstypes.TaskStart{ContainerID: "c1", Pid: shimtest.Pid})
		return &taskapi.StartResponse{Pid: shimtest.Pid}, nil
	}
	w.inner.Answer["Kill"] = func(_ context.Context, request any) (any, error) {
		if request.(*taskapi.KillRequest).Signal == uint32(unix.SIGKILL) {
			w.exit()
		}
		return &ptypes.Empty{}, nil
	}
	w.inner.Answer["Delete"] = func(context.Context, any) (any, error) {
		if w.is() == task.Status_RUNNING {
			return nil, errors.New("it runs")
		}
		w.emit(&eventstypes.TaskDelete{ContainerID: "c1"})
		return &taskapi.DeleteResponse{Pid: shimtest.Pid}, nil
	}
	w.service = newService(t.Context(), w.inner, newTestEnding(t), w.tap, nil, errors.New("no host in this test"))
	w.c = newContainer(t.Context(), containerConfig{
		id: "c1", machine: config, handlers: handlers, events: w.tap,
		observer: observer{id: "c1", events: w.tap, handlersEnded: &w.service.handlersEnded},
	})
	w.service.add(w.c)
	w.c.gate.Watch()
	close(w.c.created)
	w.c.gate.Created(shimtest.Pid, config.PostStart != nil, w.c.ended != nil)
	return w
}

// serve runs the loop, as build does. It ends with the test.
func (w *world) serve() *world {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	go func() {
		defer close(w.loopEnded)
		w.c.loop(ctx)
		w.c.gate.Forget()
		w.service.remove(w.c)
	}()
	return w
}

func (w *world) is() task.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func (w *world) become(status task.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status = status
}

func (w *world) emit(event any) {
	topic := map[string]string{
		"*events.TaskStart": "start", "*events.TaskExit": "exit", "*events.TaskDelete": "delete",
	}[fmt.Sprintf("%T", event)]
	_ = w.tap.Publish(context.Background(), topic, event)
}

// exit is the end of the container's process.
func (w *world) exit() {
	if w.is() == task.Status_STOPPED {
		return
	}
	w.become(task.Status_STOPPED)
	w.emit(&eventstypes.TaskExit{ContainerID: "c1", ID: "c1", Pid: shimtest.Pid})
}

// exitOnSignal makes the container one that obeys.
func (w *world) exitOnSignal() *world {
	w.handlers.onSignal = func(lifecycle.Signal) error { w.exit(); return nil }
	return w
}

// pending is a request under way.
type pending struct {
	done  chan struct{}
	err   error
	pid   uint32
	after time.Duration
}

// start asks for the start, with a deadline after a while if that is not 0.
func (w *world) start(deadline time.Duration) *pending {
	p := &pending{done: make(chan struct{})}
	began := time.Now()
	go func() {
		defer close(p.done)
		ctx := context.Background()
		if deadline > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, deadline)
			defer cancel()
		}
		response, err := w.service.Start(ctx, &taskapi.StartRequest{ID: "c1"})
		p.pid, p.err, p.after = response.GetPid(), err, time.Since(began)
	}()
	return p
}

// answered waits for the answer, and checks when it came.
func (p *pending) answered(t *testing.T, after time.Duration) error {
	t.Helper()
	<-p.done
	if p.after != after {
		t.Errorf("answered after %s, want %s", p.after, after)
	}
	return p.err
}

// isPending reports whether the request still waits when nothing but time is left
// to happen.
func (p *pending) isPending() bool {
	synctest.Wait()
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// mustStart starts the container at once.
func (w *world) mustStart() *world {
	w.t.Helper()
	p := w.start(0)
	if err := p.answered(w.t, 0); err != nil || p.pid != shimtest.Pid {
		w.t.Fatalf("start: pid %d, %v", p.pid, err)
	}
	return w
}

// kill sends a signal, which must be answered at once.
func (w *world) kill(signal unix.Signal) {
	w.t.Helper()
	began := time.Now()
	if _, err := w.service.Kill(context.Background(), &taskapi.KillRequest{ID: "c1", Signal: uint32(signal)}); err != nil {
		w.t.Errorf("kill %s: %v", signal, err)
	}
	if waited := time.Since(began); waited > 0 {
		w.t.Errorf("kill %s was answered after %s", signal, waited)
	}
}

// forwarded are the signals that went straight to the runc service.
func (w *world) forwarded() []uint32 {
	var numbers []uint32
	for _, request := range w.inner.Asked("Kill") {
		numbers = append(numbers, request.(*taskapi.KillRequest).Signal)
	}
	return numbers
}

func (w *world) state() task.Status {
	w.t.Helper()
	response, err := w.service.State(context.Background(), &taskapi.StateRequest{ID: "c1"})
	if err != nil {
		w.t.Fatal(err)
	}
	return response.Status
}

// pass lets time pass, and what happens by then.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
