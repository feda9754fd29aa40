package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
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
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// fakeTask stands for the runc service. It notes what it is asked, and answers
// with an empty response where a test has nothing to say.
type fakeTask struct {
	mu    sync.Mutex
	calls []call
	// answer, by method. It is called without the lock.
	answer map[string]func(ctx context.Context, request any) (any, error)
}

type call struct {
	method  string
	request any
}

func newFakeTask() *fakeTask {
	return &fakeTask{answer: map[string]func(context.Context, any) (any, error){}}
}

func reply[Response any](ctx context.Context, f *fakeTask, method string, request any) (*Response, error) {
	f.mu.Lock()
	f.calls = append(f.calls, call{method, request})
	answer := f.answer[method]
	f.mu.Unlock()
	if answer == nil {
		return new(Response), nil
	}
	response, err := answer(ctx, request)
	typed, _ := response.(*Response)
	return typed, err
}

// asked returns the requests of one method.
func (f *fakeTask) asked(method string) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	var requests []any
	for _, call := range f.calls {
		if call.method == method {
			requests = append(requests, call.request)
		}
	}
	return requests
}

func (f *fakeTask) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return reply[taskapi.StateResponse](ctx, f, "State", r)
}

func (f *fakeTask) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return reply[taskapi.CreateTaskResponse](ctx, f, "Create", r)
}

func (f *fakeTask) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return reply[taskapi.StartResponse](ctx, f, "Start", r)
}

func (f *fakeTask) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return reply[taskapi.DeleteResponse](ctx, f, "Delete", r)
}

func (f *fakeTask) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	return reply[taskapi.PidsResponse](ctx, f, "Pids", r)
}

func (f *fakeTask) Pause(ctx context.Context, r *taskapi.PauseRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Pause", r)
}

func (f *fakeTask) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Resume", r)
}

func (f *fakeTask) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Checkpoint", r)
}

func (f *fakeTask) Kill(ctx context.Context, r *taskapi.KillRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Kill", r)
}

func (f *fakeTask) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Exec", r)
}

func (f *fakeTask) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "ResizePty", r)
}

func (f *fakeTask) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "CloseIO", r)
}

func (f *fakeTask) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Update", r)
}

func (f *fakeTask) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return reply[taskapi.WaitResponse](ctx, f, "Wait", r)
}

func (f *fakeTask) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return reply[taskapi.StatsResponse](ctx, f, "Stats", r)
}

func (f *fakeTask) Connect(ctx context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return reply[taskapi.ConnectResponse](ctx, f, "Connect", r)
}

func (f *fakeTask) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Shutdown", r)
}

// newTestEnding returns the end of a shim whose process does not end with it.
func newTestEnding(t testing.TB) *ending {
	t.Helper()
	_, service := shutdown.WithShutdown(t.Context())
	return newEnding(service, nil)
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
			return hookexec.Result{Outcome: hookexec.Failed, Err: errKilled, ExitCode: 137}
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
	causes []error  // why they were made to end, nil where they were not
	sent   []string // signals, and when
	began  time.Time
	pids   []int
	closed int
	// unparked counts what is asked of handlers that may be parked.
	unparked int
}

func (h *fakeHandlers) unpark() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unparked++
}

func (h *fakeHandlers) started(_ context.Context, pid int, _ <-chan struct{}) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pids = append(h.pids, pid)
	return nil
}

func (h *fakeHandlers) run(ctx context.Context, kind lifecycle.Kind, _ lifecycle.Effect, progress *hookexec.Progress) hookexec.Result {
	action := map[lifecycle.Kind]attempt{
		lifecycle.PreStart: h.preStart, lifecycle.PostStart: h.postStart, lifecycle.PreStop: h.preStop, lifecycle.OnExit: h.onExit,
	}[kind]
	run := hookexec.Run{Action: action, Exited: runsOn, Progress: progress}
	result := run.Do(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ran = append(h.ran, fmt.Sprintf("%s %s", kind, convert(result).Outcome))
	h.causes = append(h.causes, context.Cause(ctx))
	return result
}

func (h *fakeHandlers) signal(_ context.Context, signal lifecycle.Signal) error {
	h.mu.Lock()
	h.sent = append(h.sent, fmt.Sprintf("%d at %s", signal.Number, time.Since(h.began)))
	h.mu.Unlock()
	if h.onSignal == nil {
		return nil
	}
	return h.onSignal(signal)
}

func (h *fakeHandlers) close() {
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
// in the bubble of synctest. Its pid is testPid.
type world struct {
	t         *testing.T
	inner     *fakeTask
	publisher *fakePublisher
	tap       *tap
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
		t: t, inner: newFakeTask(), publisher: &fakePublisher{}, handlers: handlers,
		status: task.Status_CREATED, loopEnded: make(chan struct{}),
	}
	w.tap = newTestTap(t, w.publisher)
	w.inner.answer["State"] = func(context.Context, any) (any, error) {
		return &taskapi.StateResponse{ID: "c1", Pid: testPid, Status: w.is()}, nil
	}
	w.inner.answer["Start"] = func(context.Context, any) (any, error) {
		w.become(task.Status_RUNNING)
		w.emit(&eventstypes.TaskStart{ContainerID: "c1", Pid: testPid})
		return &taskapi.StartResponse{Pid: testPid}, nil
	}
	w.inner.answer["Kill"] = func(_ context.Context, request any) (any, error) {
		if request.(*taskapi.KillRequest).Signal == uint32(unix.SIGKILL) {
			w.exit()
		}
		return &ptypes.Empty{}, nil
	}
	w.inner.answer["Delete"] = func(context.Context, any) (any, error) {
		if w.is() == task.Status_RUNNING {
			return nil, errors.New("it runs")
		}
		w.emit(&eventstypes.TaskDelete{ContainerID: "c1"})
		return &taskapi.DeleteResponse{Pid: testPid}, nil
	}
	w.service = newService(t.Context(), w.inner, newTestEnding(t), w.tap, nil, errors.New("no host in this test"))
	w.c = newContainer(t.Context(), "c1", config, handlers)
	w.c.handlersEnded = &w.service.handlersEnded
	w.service.add(w.c)
	w.c.gate = watch(w.tap, "c1", func() { w.c.post(lifecycle.Event{Kind: lifecycle.ContainerExited}) })
	close(w.c.created)
	w.c.gate.created(testPid, config.PostStart != nil, w.c.ended != nil)
	return w
}

// serve runs the loop, as createWithHandlers does. It ends with the test.
func (w *world) serve() *world {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	go func() {
		defer close(w.loopEnded)
		w.c.loop(ctx)
		w.c.gate.forget()
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
	w.emit(&eventstypes.TaskExit{ContainerID: "c1", ID: "c1", Pid: testPid})
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

// start asks for the start, with a deadline after a while where that is not 0.
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
	if err := p.answered(w.t, 0); err != nil || p.pid != testPid {
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
	for _, request := range w.inner.asked("Kill") {
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
