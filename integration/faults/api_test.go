package faults

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// An api is a way to a container's shim. Errors are errdefs'.
type api interface {
	create(ctx context.Context) error
	start(ctx context.Context) error
	kill(ctx context.Context, signal syscall.Signal) error
	remove(ctx context.Context) (status uint32, err error)
	wait(ctx context.Context) (status uint32, err error)
	state(ctx context.Context) (task.Status, error)
}

// viaDaemon goes through containerd's task service.
type viaDaemon struct {
	client *harness.Client
	id     string
}

func (a viaDaemon) create(ctx context.Context) error {
	_, err := a.client.TaskService().Create(a.client.Context(ctx), &tasks.CreateTaskRequest{ContainerID: a.id})
	return errgrpc.ToNative(err)
}

func (a viaDaemon) start(ctx context.Context) error {
	_, err := a.client.TaskService().Start(a.client.Context(ctx), &tasks.StartRequest{ContainerID: a.id})
	return errgrpc.ToNative(err)
}

func (a viaDaemon) kill(ctx context.Context, signal syscall.Signal) error {
	_, err := a.client.TaskService().Kill(a.client.Context(ctx), &tasks.KillRequest{ContainerID: a.id, Signal: uint32(signal)})
	return errgrpc.ToNative(err)
}

func (a viaDaemon) remove(ctx context.Context) (uint32, error) {
	response, err := a.client.TaskService().Delete(a.client.Context(ctx), &tasks.DeleteTaskRequest{ContainerID: a.id})
	return response.GetExitStatus(), errgrpc.ToNative(err)
}

func (a viaDaemon) wait(ctx context.Context) (uint32, error) {
	response, err := a.client.TaskService().Wait(a.client.Context(ctx), &tasks.WaitRequest{ContainerID: a.id})
	return response.GetExitStatus(), errgrpc.ToNative(err)
}

func (a viaDaemon) state(ctx context.Context) (task.Status, error) {
	response, err := a.client.TaskService().Get(a.client.Context(ctx), &tasks.GetRequest{ContainerID: a.id})
	return response.GetProcess().GetStatus(), errgrpc.ToNative(err)
}

// viaSocket calls the shim itself.
type viaSocket struct {
	shim      taskapi.TTRPCTaskService
	namespace string
	id        string
}

func (a viaSocket) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, a.namespace)
}

func (a viaSocket) create(context.Context) error {
	return errors.New("containerd alone makes a bundle")
}

func (a viaSocket) start(ctx context.Context) error {
	_, err := a.shim.Start(a.context(ctx), &taskapi.StartRequest{ID: a.id})
	return errgrpc.ToNative(err)
}

func (a viaSocket) kill(ctx context.Context, signal syscall.Signal) error {
	_, err := a.shim.Kill(a.context(ctx), &taskapi.KillRequest{ID: a.id, Signal: uint32(signal)})
	return errgrpc.ToNative(err)
}

func (a viaSocket) remove(ctx context.Context) (uint32, error) {
	response, err := a.shim.Delete(a.context(ctx), &taskapi.DeleteRequest{ID: a.id})
	return response.GetExitStatus(), errgrpc.ToNative(err)
}

func (a viaSocket) wait(ctx context.Context) (uint32, error) {
	response, err := a.shim.Wait(a.context(ctx), &taskapi.WaitRequest{ID: a.id})
	return response.GetExitStatus(), errgrpc.ToNative(err)
}

func (a viaSocket) state(ctx context.Context) (task.Status, error) {
	response, err := a.shim.State(a.context(ctx), &taskapi.StateRequest{ID: a.id})
	return response.GetStatus(), errgrpc.ToNative(err)
}

// socket connects to the shim of a bundle; containerd notes where that listens.
func socket(bundle string) (*ttrpc.Client, error) {
	var params struct{ Address string }
	data, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err == nil {
		err = json.Unmarshal(data, &params)
	}
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(params.Address, "unix://"), askWait)
	if err != nil {
		return nil, err
	}
	return ttrpc.NewClient(conn), nil
}

// askWait bounds a question that no fault may leave unanswered while the shim lives.
const askWait = 5 * time.Second

// statusOf the container, as its shim reports it; nil if it has none.
func statusOf(client *ttrpc.Client, id string) (*lifecyclev1.ContainerStatus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askWait)
	defer cancel()
	response, err := lifecyclev1.NewLifecycleClient(client).Status(ctx, &lifecyclev1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	for _, c := range response.Containers {
		if c.Id == id {
			return c, nil
		}
	}
	return nil, nil
}
