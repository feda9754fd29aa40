package parity

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// An api takes the requests of the shim's task service, and returns what it has been answered as it came.
type api interface {
	do(ctx context.Context, request proto.Message) (proto.Message, error)
}

// daemonAPI makes the requests through containerd's task service. It has no Connect and no Shutdown.
type daemonAPI struct {
	client *harness.Client
	lease  string // for what is stored meanwhile; may be empty
}

func (a daemonAPI) do(ctx context.Context, request proto.Message) (proto.Message, error) {
	ctx = a.client.Context(ctx)
	if a.lease != "" {
		ctx = leases.WithLease(ctx, a.lease)
	}
	service := a.client.TaskService()
	switch r := request.(type) {
	case *tasks.CreateTaskRequest: // more than a shim's own request can say
		return service.Create(ctx, r)
	case *taskapi.StartRequest:
		return service.Start(ctx, &tasks.StartRequest{ContainerID: r.ID, ExecID: r.ExecID})
	case *taskapi.StateRequest:
		return service.Get(ctx, &tasks.GetRequest{ContainerID: r.ID, ExecID: r.ExecID})
	case *taskapi.DeleteRequest:
		if r.ExecID != "" {
			return service.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: r.ID, ExecID: r.ExecID})
		}
		return service.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: r.ID})
	case *taskapi.WaitRequest:
		return service.Wait(ctx, &tasks.WaitRequest{ContainerID: r.ID, ExecID: r.ExecID})
	case *taskapi.KillRequest:
		return service.Kill(ctx, &tasks.KillRequest{ContainerID: r.ID, ExecID: r.ExecID, Signal: r.Signal, All: r.All})
	case *taskapi.ExecProcessRequest:
		return service.Exec(ctx, &tasks.ExecProcessRequest{
			ContainerID: r.ID, ExecID: r.ExecID, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal, Spec: r.Spec,
		})
	case *taskapi.ResizePtyRequest:
		return service.ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: r.ID, ExecID: r.ExecID, Width: r.Width, Height: r.Height})
	case *taskapi.CloseIORequest:
		return service.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: r.ID, ExecID: r.ExecID, Stdin: r.Stdin})
	case *taskapi.PidsRequest:
		return service.ListPids(ctx, &tasks.ListPidsRequest{ContainerID: r.ID})
	case *taskapi.StatsRequest:
		return service.Metrics(ctx, &tasks.MetricsRequest{Filters: []string{"id==" + r.ID}})
	case *taskapi.UpdateTaskRequest:
		return service.Update(ctx, &tasks.UpdateTaskRequest{ContainerID: r.ID, Resources: r.Resources, Annotations: r.Annotations})
	case *taskapi.PauseRequest:
		return service.Pause(ctx, &tasks.PauseTaskRequest{ContainerID: r.ID})
	case *taskapi.ResumeRequest:
		return service.Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: r.ID})
	case *taskapi.CheckpointTaskRequest:
		return service.Checkpoint(ctx, &tasks.CheckpointTaskRequest{ContainerID: r.ID, Options: r.Options})
	}
	return nil, fmt.Errorf("containerd has no service for a %T", request)
}

// socketAPI calls a shim at its own socket.
type socketAPI struct {
	client  *ttrpc.Client
	service string
	context func(context.Context) context.Context
}

func (a socketAPI) do(ctx context.Context, request proto.Message) (proto.Message, error) {
	method, response := "", proto.Message(&emptypb.Empty{})
	switch request.(type) {
	case *taskapi.CreateTaskRequest:
		method, response = "Create", &taskapi.CreateTaskResponse{}
	case *taskapi.StartRequest:
		method, response = "Start", &taskapi.StartResponse{}
	case *taskapi.StateRequest:
		method, response = "State", &taskapi.StateResponse{}
	case *taskapi.DeleteRequest:
		method, response = "Delete", &taskapi.DeleteResponse{}
	case *taskapi.WaitRequest:
		method, response = "Wait", &taskapi.WaitResponse{}
	case *taskapi.PidsRequest:
		method, response = "Pids", &taskapi.PidsResponse{}
	case *taskapi.StatsRequest:
		method, response = "Stats", &taskapi.StatsResponse{}
	case *taskapi.ConnectRequest:
		method, response = "Connect", &taskapi.ConnectResponse{}
	case *taskapi.KillRequest:
		method = "Kill"
	case *taskapi.ExecProcessRequest:
		method = "Exec"
	case *taskapi.ResizePtyRequest:
		method = "ResizePty"
	case *taskapi.CloseIORequest:
		method = "CloseIO"
	case *taskapi.UpdateTaskRequest:
		method = "Update"
	case *taskapi.PauseRequest:
		method = "Pause"
	case *taskapi.ResumeRequest:
		method = "Resume"
	case *taskapi.CheckpointTaskRequest:
		method = "Checkpoint"
	case *taskapi.ShutdownRequest:
		method = "Shutdown"
	default:
		return nil, fmt.Errorf("the task service has no method for a %T", request)
	}
	if err := a.client.Call(a.context(ctx), a.service, method, request, response); err != nil {
		return nil, err
	}
	return response, nil
}

// shimAddress reads where the shim of a bundle listens: containerd 2.x has noted it as it was answered, a shim of
// version 2 has noted it itself.
func shimAddress(bundle string) (string, error) {
	var params struct{ Address string }
	if data, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json")); err == nil {
		if err := json.Unmarshal(data, &params); err != nil {
			return "", err
		}
		return params.Address, nil
	}
	data, err := os.ReadFile(filepath.Join(bundle, "address"))
	return strings.TrimSpace(string(data)), err
}
