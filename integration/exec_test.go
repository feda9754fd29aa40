package integration

import (
	"context"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// exec runs a command in the container as a client would, and returns its exit
// status.
func (b *bench) exec(c *container, id string, args ...string) uint32 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.client.Context(b.Context()), limit)
	defer cancel()
	spec, err := typeurl.MarshalAnyToProto(&specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		b.Fatal(err)
	}
	service := b.client.TaskService()
	if _, err := service.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: c.ID, ExecID: id, Spec: spec}); err != nil {
		b.Fatal(err)
	}
	if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: c.ID, ExecID: id}); err != nil {
		b.Fatal(err)
	}
	exit, err := service.Wait(ctx, &tasks.WaitRequest{ContainerID: c.ID, ExecID: id})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := service.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: c.ID, ExecID: id}); err != nil {
		b.Fatal(err)
	}
	return exit.ExitStatus
}

func (b *bench) pids(c *container) []uint32 {
	b.Helper()
	response, err := b.client.TaskService().ListPids(b.client.Context(b.Context()), &tasks.ListPidsRequest{ContainerID: c.ID})
	if err != nil {
		b.Fatal(err)
	}
	var pids []uint32
	for _, process := range response.Processes {
		pids = append(pids, process.Pid)
	}
	return pids
}

func (b *bench) pause(c *container) {
	b.Helper()
	if _, err := b.client.TaskService().Pause(b.client.Context(b.Context()), &tasks.PauseTaskRequest{ContainerID: c.ID}); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) resume(c *container) {
	b.Helper()
	if _, err := b.client.TaskService().Resume(b.client.Context(b.Context()), &tasks.ResumeTaskRequest{ContainerID: c.ID}); err != nil {
		b.Fatal(err)
	}
}
