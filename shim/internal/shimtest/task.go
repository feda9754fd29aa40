package shimtest

import (
	"context"
	"slices"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// Task is a fake runc service. It notes its calls, and returns an empty response unless the
// test sets an answer.
type Task struct {
	mu    sync.Mutex
	calls []Call
	// Answer to a method. It is called without the lock, and set before the shim makes calls:
	// Respond sets one later.
	Answer map[string]func(ctx context.Context, request any) (any, error)
}

// Call of a method.
type Call struct {
	Method  string
	Request any
}

// NewTask returns a runc service without answers.
func NewTask() *Task {
	return &Task{Answer: map[string]func(context.Context, any) (any, error){}}
}

// Respond sets the answer to a method while the shim may be making calls.
func (f *Task) Respond(method string, answer func(ctx context.Context, request any) (any, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Answer[method] = answer
}

// Calls returns all calls until now.
func (f *Task) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Forget the calls until now.
func (f *Task) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = nil
}

func reply[Response any](ctx context.Context, f *Task, method string, request any) (*Response, error) {
	f.mu.Lock()
	f.calls = append(f.calls, Call{method, request})
	answer := f.Answer[method]
	f.mu.Unlock()
	if answer == nil {
		return new(Response), nil
	}
	response, err := answer(ctx, request)
	typed, _ := response.(*Response)
	return typed, err
}

// Asked returns the requests of one method.
func (f *Task) Asked(method string) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	var requests []any
	for _, call := range f.calls {
		if call.Method == method {
			requests = append(requests, call.Request)
		}
	}
	return requests
}

// State implements TTRPCTaskService.
func (f *Task) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return reply[taskapi.StateResponse](ctx, f, "State", r)
}

// Create implements TTRPCTaskService.
func (f *Task) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return reply[taskapi.CreateTaskResponse](ctx, f, "Create", r)
}

// Start implements TTRPCTaskService.
func (f *Task) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return reply[taskapi.StartResponse](ctx, f, "Start", r)
}

// Delete implements TTRPCTaskService.
func (f *Task) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return reply[taskapi.DeleteResponse](ctx, f, "Delete", r)
}

// Pids implements TTRPCTaskService.
func (f *Task) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	return reply[taskapi.PidsResponse](ctx, f, "Pids", r)
}

// Pause implements TTRPCTaskService.
func (f *Task) Pause(ctx context.Context, r *taskapi.PauseRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Pause", r)
}

// Resume implements TTRPCTaskService.
func (f *Task) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Resume", r)
}

// Checkpoint implements TTRPCTaskService.
func (f *Task) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Checkpoint", r)
}

// Kill implements TTRPCTaskService.
func (f *Task) Kill(ctx context.Context, r *taskapi.KillRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Kill", r)
}

// Exec implements TTRPCTaskService.
func (f *Task) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Exec", r)
}

// ResizePty implements TTRPCTaskService.
func (f *Task) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "ResizePty", r)
}

// CloseIO implements TTRPCTaskService.
func (f *Task) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "CloseIO", r)
}

// Update implements TTRPCTaskService.
func (f *Task) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Update", r)
}

// Wait implements TTRPCTaskService.
func (f *Task) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return reply[taskapi.WaitResponse](ctx, f, "Wait", r)
}

// Stats implements TTRPCTaskService.
func (f *Task) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return reply[taskapi.StatsResponse](ctx, f, "Stats", r)
}

// Connect implements TTRPCTaskService.
func (f *Task) Connect(ctx context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return reply[taskapi.ConnectResponse](ctx, f, "Connect", r)
}

// Shutdown implements TTRPCTaskService.
func (f *Task) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*ptypes.Empty, error) {
	return reply[ptypes.Empty](ctx, f, "Shutdown", r)
}
