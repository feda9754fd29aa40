package shim

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// taskV2 is the name under which containerd 1.6 and 1.7 call the task service.
// The messages of versions 2 and 3 are the same on the wire.
const taskV2 = "containerd.task.v2.Task"

func registerTaskV2(server *ttrpc.Server, task taskapi.TTRPCTaskService) {
	server.RegisterService(taskV2, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State":      method(task.State),
		"Create":     method(task.Create),
		"Start":      method(task.Start),
		"Delete":     method(task.Delete),
		"Pids":       method(task.Pids),
		"Pause":      method(task.Pause),
		"Resume":     method(task.Resume),
		"Checkpoint": method(task.Checkpoint),
		"Kill":       method(task.Kill),
		"Exec":       method(task.Exec),
		"ResizePty":  method(task.ResizePty),
		"CloseIO":    method(task.CloseIO),
		"Update":     method(task.Update),
		"Wait":       method(task.Wait),
		"Stats":      method(task.Stats),
		"Connect":    method(task.Connect),
		"Shutdown":   method(task.Shutdown),
	}})
}

func method[Request, Response any](call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		return call(ctx, request)
	}
}
