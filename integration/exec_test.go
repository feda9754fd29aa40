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
	pids, err := c.Pids(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return pids
}

func (b *bench) pause(c *container) {
	b.Helper()
	if err := c.Pause(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) resume(c *container) {
	b.Helper()
	if err := c.Resume(b.Context()); err != nil {
		b.Fatal(err)
	}
}
